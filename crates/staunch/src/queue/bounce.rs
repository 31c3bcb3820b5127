//! The operator gives up on mail: it ends, and its senders are told.
//!
//! What is to be returned is held first, and only then it is asked what of it is under way: that is left to
//! its attempt, since a host may just be taking it. A crash in between leaves mail held, never lost, and
//! never both delivered and returned.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use spool::{LaneKey, MessageDetail, MessageId, QueueRow, RecipientNo, RecipientState, StoreError};
use tokio::sync::oneshot;

use super::work::{Body, Rest, Target, Work};
use super::{Event, settle};
use crate::config::Config;
use crate::outcome::{Problem, Reason};
use crate::relay::Relay;

/// How many recipients it was.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Bounced {
    /// They are gone, and their senders hear of it.
    pub(crate) returned: usize,
    /// They are being tried at this moment, and stay.
    pub(crate) under_way: usize,
}

/// Returns `rows` of the queue to their senders.
///
/// # Errors
///
/// [`StoreError`]; what was done before is done.
pub(crate) async fn bounce(relay: &Arc<Relay>, rows: Vec<QueueRow>) -> Result<Bounced, StoreError> {
    stop(relay, &rows).await?;
    let is_under_way = |row: &QueueRow| relay.is_sending(row.message, &row.lane);
    let (under_way, left): (Vec<_>, Vec<_>) = rows.into_iter().partition(is_under_way);
    let mut messages: BTreeMap<MessageId, BTreeSet<RecipientNo>> = BTreeMap::new();
    for row in left {
        messages.entry(row.message).or_default().insert(row.no);
    }
    let mut bounced = Bounced { returned: 0, under_way: under_way.len() };
    let config = relay.config();
    for (message, recipients) in messages {
        let Some(detail) = read(relay, move |relay| relay.spool.show(message)).await? else {
            continue;
        };
        bounced.returned += give_up(relay, &config, detail, &recipients).await?;
    }
    let were_queued = under_way.into_iter().filter(|row| row.state == RecipientState::Queued);
    let back = were_queued.map(|row| (row.message, row.no)).collect();
    let freed = read(relay, move |relay| relay.spool.release_these(back, relay.now())).await?;
    relay.tell_queue(Event::Due(freed.lanes)).await;
    Ok(bounced)
}

/// Holds them, and waits until nothing of it can be started any more.
async fn stop(relay: &Arc<Relay>, rows: &[QueueRow]) -> Result<(), StoreError> {
    let these = rows.iter().map(|row| (row.message, row.no)).collect();
    read(relay, move |relay| relay.spool.hold_these(these)).await?;
    let lanes: BTreeSet<LaneKey> = rows.iter().map(|row| row.lane.clone()).collect();
    relay.tell_queue(Event::Removed(lanes.into_iter().collect())).await;
    let (asker, answer) = oneshot::channel();
    relay.tell_queue(Event::Barrier(asker)).await;
    // Without a queue nothing is started at all.
    let _ended = answer.await;
    Ok(())
}

/// Ends what is still held of `recipients`; returns how many that were.
async fn give_up(
    relay: &Arc<Relay>,
    config: &Config,
    detail: MessageDetail,
    recipients: &BTreeSet<RecipientNo>,
) -> Result<usize, StoreError> {
    let is_meant =
        |row: &QueueRow| row.state == RecipientState::Held && recipients.contains(&row.no);
    let rows: Vec<QueueRow> = detail.recipients.into_iter().filter(is_meant).collect();
    let Some(first) = rows.first() else { return Ok(0) };
    let problem = problem(config, first);
    let targets: Vec<Target> = rows.into_iter().map(target).collect();
    let count = targets.len();
    let work = Work {
        message: detail.message,
        sender: detail.sender,
        targets,
        rest: Rest::Nobody,
        arrived_at: detail.arrived_at,
        turn: detail.arrived_at,
        facts: detail.facts,
        body: Body::Stored,
        options: detail.options,
    };
    let permit = relay.spool.settle_permit()?;
    settle::fail(relay, config, permit, &work, &problem).await;
    Ok(count)
}

fn target(row: QueueRow) -> Target {
    Target {
        no: row.no,
        mailbox: row.recipient,
        attempts: row.attempts,
        expires_at: row.expires_at,
        waits_since: None,
        options: row.options,
    }
}

/// Who gave up, and what stood in the way before, if something did.
fn problem(config: &Config, row: &QueueRow) -> Problem {
    let by = format!("returned by the operator of {}", config.hostname);
    match &row.last {
        Some(last) => {
            let text = format!("{by}; before that: {} {}", last.reason, last.text);
            Problem::new(Reason::ReturnedByOperator, &text)
        }
        None => Problem::new(Reason::ReturnedByOperator, &by),
    }
}

async fn read<T: Send + 'static>(
    relay: &Arc<Relay>,
    query: impl FnOnce(&Relay) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let relay = Arc::clone(relay);
    tokio::task::spawn_blocking(move || query(&relay)).await.unwrap_or(Err(StoreError::Closed))
}
