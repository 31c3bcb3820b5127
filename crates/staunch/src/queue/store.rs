//! Reads what is due from the store, off the async threads.

use std::collections::HashSet;
use std::time::Duration;

use jiff::Timestamp;
use policy::RequireTls;
use smtp::Mailbox;
use spool::{
    DueCursor, DuePage, DueRecipient, LaneKey, MessageId, RecipientNo, RecipientState, StoreError,
};

use crate::config::Config;
use crate::delivery::route::{self, Routing};
use crate::delivery::underway::Sending;
use crate::message::{Body, Removals, Rest, Submitter, Target, Work, needs_utf8, require_tls};
use crate::queue::damaged;
use crate::queue::events::FoundWork;
use crate::queue::facts::QueueFact;
use crate::queue::handle::QueueHandle;
use crate::schedule::after;

/// Recipients read at once: a read must be short, or the store's log cannot be cut.
const PAGE: usize = 256;
/// Jobs read in one go.
const READ_MAX: usize = 64;
/// Pages read in one go while everything in them is in memory already.
const PAGES_MAX: usize = 16;
/// Recipients returned or told of that are read at once: as many as one message has by default
/// (`limits.recipients`), so that its sender is told of them in one DSN.
const EXPIRED_PAGE: usize = 1_000;
/// When a lane is read again in which nothing new was found although more is there. Our choice.
const CROWDED_REST: Duration = Duration::from_secs(1);

/// What is due in `lane`, without the messages that are `known`: so many that `most` jobs are among
/// it, or all.
///
/// # Errors
///
/// [`StoreError`] when the store cannot be read.
pub(crate) async fn fetch(
    handle: &QueueHandle,
    lane: LaneKey,
    known: &HashSet<MessageId>,
    (most, now): (usize, Timestamp),
) -> Result<FoundWork, StoreError> {
    let config = handle.config();
    let as_of = handle.underway.removals();
    let mut found = FoundWork { work: Vec::new(), next_due: None, place: Routing::Current };
    let mut after_page = None;
    for _ in 0..PAGES_MAX {
        let page =
            read(handle, lane.clone(), move |spool, lane| spool.next(lane, now, after_page, PAGE))
                .await?;
        after_page = page.next;
        damaged::park(handle, page.damaged);
        let new = page.due.into_iter().filter(|due| !known.contains(&due.message));
        for due in new {
            let require_tls = require_tls(&due.options);
            if due.recipients.iter().any(|one| is_astray(&config, &lane, one, require_tls)) {
                found.place = Routing::Stale;
            }
            if let Some(work) = transaction(&config, &lane, due) {
                found.add(Work { as_of, ..work });
            }
        }
        if after_page.is_none() || found.work.len() >= most.min(READ_MAX) {
            break;
        }
    }
    found.next_due = match after_page {
        Some(_) if found.work.is_empty() => Some(after(now, CROWDED_REST)),
        Some(_) => Some(now),
        None => read(handle, lane, move |spool, lane| spool.next_due(lane, now)).await?,
    };
    Ok(found)
}

/// Makes due what waits in `lanes` because their hosts failed. What cannot be written is due at its
/// time.
pub(crate) async fn make_due(handle: &QueueHandle, lanes: &[LaneKey]) {
    let (spool, lanes, now) = (handle.spool.clone(), lanes.to_vec(), handle.now());
    let made = tokio::task::spawn_blocking(move || spool.make_due(lanes, now)).await;
    if let Ok(Err(error)) = made {
        QueueFact::StoreFailed {
            error: &error,
            what: "mail whose host is back waits for its time",
        }
        .tell();
    }
}

/// A page of recipients.
#[derive(Debug)]
pub(crate) struct Page {
    /// By message, however many recipients.
    pub(crate) work: Vec<Work>,
    /// Where to go on; `None`: this was the last page.
    pub(crate) next: Option<DueCursor>,
}

/// A page of the recipients in `lane` that are too old at `at`, as far as it is still the lane of
/// their next hop: an attempt there says nothing of others.
///
/// # Errors
///
/// [`StoreError`] when the store cannot be read.
pub(crate) async fn expired(
    handle: &QueueHandle,
    lane: LaneKey,
    at: Timestamp,
    after: Option<DueCursor>,
) -> Result<Page, StoreError> {
    let query =
        move |spool: &spool::Spool, lane: &LaneKey| spool.expired(lane, at, after, EXPIRED_PAGE);
    let page = read(handle, lane.clone(), query).await?;
    Ok(in_place(handle, page, &lane))
}

/// What of `page` has its next hop in `lane` today.
fn in_place(handle: &QueueHandle, page: DuePage, lane: &LaneKey) -> Page {
    let config = handle.config();
    let of_lane = |due: spool::Due| {
        let require_tls = require_tls(&due.options);
        work(due, |one| lane_today(&config, one, require_tls).is_some_and(|today| today == *lane))
    };
    Page { work: page.due.into_iter().filter_map(of_lane).collect(), next: page.next }
}

/// A page of the recipients in `lane` that have waited since `since` or longer without their sender
/// knowing, as far as it is still the lane of their next hop.
///
/// # Errors
///
/// [`StoreError`] when the store cannot be read.
pub(crate) async fn unwarned(
    handle: &QueueHandle,
    lane: LaneKey,
    since: Timestamp,
    after: Option<DueCursor>,
) -> Result<Page, StoreError> {
    let query = move |spool: &spool::Spool, lane: &LaneKey| {
        spool.unwarned(lane, since, after, EXPIRED_PAGE)
    };
    let page = read(handle, lane.clone(), query).await?;
    Ok(in_place(handle, page, &lane))
}

/// Is anybody in `lane` too old at `at`?
///
/// # Errors
///
/// [`StoreError`] when the store cannot be read.
pub(crate) async fn has_expired(
    handle: &QueueHandle,
    lane: LaneKey,
    at: Timestamp,
) -> Result<bool, StoreError> {
    let page = read(handle, lane, move |spool, lane| spool.expired(lane, at, None, 1)).await?;
    Ok(!page.due.is_empty())
}

/// Leaves in `work`, which is marked as `sending`, only who is still in the queue. Nearly always
/// all are, and nothing is read.
///
/// # Errors
///
/// [`StoreError`] when the store cannot be read; then nobody knows.
pub(super) async fn keep_queued(
    handle: &QueueHandle,
    lane: &LaneKey,
    work: &mut Work,
    sending: &Sending,
) -> Result<(), StoreError> {
    if sending.is_as(work.as_of) {
        return Ok(());
    }
    let message = work.message;
    let places =
        read(handle, lane.clone(), move |spool, lane| spool.places(message, Some(lane))).await?;
    let queued: HashSet<RecipientNo> = places
        .iter()
        .filter(|place| place.state == RecipientState::Queued)
        .map(|place| place.no)
        .collect();
    work.targets.retain(|target| queued.contains(&target.no));
    sending.narrow(work.targets.iter().map(|target| target.no).collect());
    Ok(())
}

pub(super) async fn read<T: Send + 'static>(
    handle: &QueueHandle,
    lane: LaneKey,
    query: impl FnOnce(&spool::Spool, &LaneKey) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let spool = handle.spool.clone();
    tokio::task::spawn_blocking(move || query(&spool, &lane))
        .await
        .unwrap_or(Err(StoreError::Closed))
}

pub(super) fn lane_today(
    config: &Config,
    recipient: &DueRecipient,
    require_tls: RequireTls,
) -> Option<LaneKey> {
    recipient.mailbox.domain().name().map(|domain| route::lane(config, domain, require_tls))
}

/// Does it wait here, though its next hop is another one today? An address literal has none at all.
fn is_astray(
    config: &Config,
    lane: &LaneKey,
    recipient: &DueRecipient,
    require_tls: RequireTls,
) -> bool {
    lane_today(config, recipient, require_tls).is_some_and(|today| today != *lane)
}

/// One transaction's worth of a message: recipients with the same next hop, which is that of the
/// lane. Those whose addresses need SMTPUTF8 go by themselves, since a host without it takes the
/// others.
fn transaction(config: &Config, lane: &LaneKey, due: spool::Due) -> Option<Work> {
    let mut count = 0;
    let require_tls = require_tls(&due.options);
    let mut kind = None;
    work(due, |recipient| {
        let fits = count < config.delivery.recipients_per_transaction
            && !is_astray(config, lane, recipient, require_tls)
            && is_alike(&mut kind, &recipient.mailbox);
        count += usize::from(fits);
        fits
    })
}

/// All recipients that were read of a message.
pub(super) fn whole(due: spool::Due) -> Option<Work> {
    work(due, |_| true)
}

/// Is `mailbox` of the kind of the first one that was asked about?
fn is_alike(kind: &mut Option<bool>, mailbox: &Mailbox) -> bool {
    let needs_utf8 = needs_utf8(mailbox);
    *kind.get_or_insert(needs_utf8) == needs_utf8
}

/// The recipients that are taken; `None` if none is.
fn work(due: spool::Due, takes: impl FnMut(&DueRecipient) -> bool) -> Option<Work> {
    let (taken, left): (Vec<_>, Vec<_>) = due.recipients.into_iter().partition(takes);
    let target = |recipient: DueRecipient| Target {
        no: recipient.no,
        mailbox: recipient.mailbox,
        attempts: recipient.attempts,
        expires_at: recipient.expires_at,
        waits_since: recipient.waits_since,
        options: recipient.options,
    };
    let submitter = Submitter::of(due.options.user.as_deref(), &due.client, &due.sender);
    (!taken.is_empty()).then(|| Work {
        message: due.message,
        sender: due.sender,
        targets: taken.into_iter().map(target).collect(),
        rest: if left.is_empty() { Rest::Nobody } else { Rest::Waiting },
        arrived_at: due.arrived_at,
        turn: due.turn,
        facts: due.facts,
        body: Body::Stored,
        options: due.options,
        as_of: Removals::default(),
        submitter,
    })
}
