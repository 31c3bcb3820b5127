//! Reads what is due from the store, off the async threads.

use std::collections::HashSet;
use std::time::Duration;

use jiff::Timestamp;
use spool::{DueCursor, DuePage, LaneKey, MessageId, StoreError};

use super::lanes::READY_MAX;
use super::work::{Body, Rest, Target, Work};
use crate::config::Config;
use crate::relay::Relay;
use crate::route;
use crate::schedule::after;

/// Recipients read at once: a read must be short, or the store's log cannot be cut.
const PAGE: usize = 256;
/// Pages read in one go while everything in them is in memory already.
const PAGES_MAX: usize = 16;
/// When a lane is read again in which nothing new was found although more is there. Ours.
const CROWDED_REST: Duration = Duration::from_secs(1);

/// What is due in a lane.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Ready to be tried.
    pub(crate) work: Vec<Work>,
    /// When something is due that is not in it and not in memory.
    pub(crate) next_due: Option<Timestamp>,
}

impl Found {
    /// A message whose recipients lie on two pages goes in two transactions.
    fn add(&mut self, work: Work) {
        match self.work.iter_mut().find(|found| found.message == work.message) {
            Some(found) => found.rest = Rest::Waiting,
            None => self.work.push(work),
        }
    }
}

/// What is due in `lane`, without the messages that are `known`.
///
/// # Errors
///
/// [`StoreError`] when the store cannot be read.
pub(crate) async fn fetch(
    relay: &Relay,
    lane: LaneKey,
    known: &HashSet<MessageId>,
    now: Timestamp,
) -> Result<Found, StoreError> {
    let config = relay.config();
    let mut found = Found::default();
    let mut after_page = None;
    for _ in 0..PAGES_MAX {
        let page =
            read(relay, lane.clone(), move |spool, lane| spool.next(lane, now, after_page, PAGE))
                .await?;
        after_page = page.next;
        for work in works(&config, page).filter(|work| !known.contains(&work.message)) {
            found.add(work);
        }
        if after_page.is_none() || found.work.len() >= READY_MAX {
            break;
        }
    }
    found.next_due = match after_page {
        Some(_) if found.work.is_empty() => Some(after(now, CROWDED_REST)),
        Some(_) => Some(now),
        None => read(relay, lane, move |spool, lane| spool.next_due(lane, now)).await?,
    };
    Ok(found)
}

/// Up to about `limit` recipients in `lane` that are too old at `at`.
///
/// # Errors
///
/// [`StoreError`] when the store cannot be read.
pub(crate) async fn expired(
    relay: &Relay,
    lane: LaneKey,
    at: Timestamp,
    limit: usize,
) -> Result<Vec<Work>, StoreError> {
    let no_cursor: Option<DueCursor> = None;
    let page =
        read(relay, lane, move |spool, lane| spool.expired(lane, at, no_cursor, limit)).await?;
    Ok(works(&relay.config(), page).collect())
}

async fn read<T: Send + 'static>(
    relay: &Relay,
    lane: LaneKey,
    query: impl FnOnce(&spool::Spool, &LaneKey) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let spool = relay.spool.clone();
    tokio::task::spawn_blocking(move || query(&spool, &lane))
        .await
        .unwrap_or(Err(StoreError::Closed))
}

fn works(config: &Config, page: DuePage) -> impl Iterator<Item = Work> {
    page.due.into_iter().filter_map(|due| work(config, due))
}

/// One transaction's worth of a message: recipients with the same next hop *today*. Those that waited
/// together under an older configuration may not have it any more.
fn work(config: &Config, due: spool::Due) -> Option<Work> {
    let mut rest = Rest::Nobody;
    let mut targets: Vec<Target> = Vec::new();
    let mut next_hop = None;
    for recipient in due.recipients {
        let lane = recipient.mailbox.domain().name().map(|domain| route::lane(config, domain));
        let fits = targets.len() < config.delivery.recipients_per_transaction;
        if !fits || *next_hop.get_or_insert_with(|| lane.clone()) != lane {
            rest = Rest::Waiting;
            continue;
        }
        targets.push(Target {
            no: recipient.no,
            mailbox: recipient.mailbox,
            attempts: recipient.attempts,
            expires_at: recipient.expires_at,
        });
    }
    (!targets.is_empty()).then_some(Work {
        message: due.message,
        sender: due.sender,
        targets,
        rest,
        arrived_at: due.arrived_at,
        facts: due.facts,
        body: Body::Stored,
    })
}
