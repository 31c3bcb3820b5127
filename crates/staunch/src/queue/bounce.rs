//! The operator gives up on mail: it ends, and its senders are told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use spool::{
    MessageDetail, MessageId, QueueRow, RecipientNo, RecipientPlace, RecipientState, StoreError,
};

use super::settle;
use crate::config::Config;
use crate::message::{Body, Removals, Rest, Submitter, Target, Work};
use crate::queue::handle::{ENDED_AT_ONCE, QueueHandle};
use crate::telemetry::{Problem, Reason};

/// Returns those of `left` that are held to their senders, and says how many that were. Nothing of
/// them may be under way.
pub(super) async fn give_up(
    handle: &Arc<QueueHandle>,
    left: &[RecipientPlace],
) -> Result<u64, StoreError> {
    let mut messages: BTreeMap<MessageId, BTreeSet<RecipientNo>> = BTreeMap::new();
    for row in left {
        messages.entry(row.message).or_default().insert(row.no);
    }
    let config = &handle.config();
    let ends = messages.into_iter().map(|(message, recipients)| async move {
        let Some(detail) = handle.ask(move |spool| spool.show(message)).await? else {
            return Ok(0);
        };
        end(handle, config, detail, &recipients).await
    });
    let counts: Vec<usize> =
        stream::iter(ends).buffer_unordered(ENDED_AT_ONCE).try_collect().await?;
    Ok(counts.into_iter().map(|count| u64::try_from(count).unwrap_or(u64::MAX)).sum())
}

/// Ends what is still held of `recipients`; returns how many that were.
async fn end(
    handle: &Arc<QueueHandle>,
    config: &Config,
    detail: MessageDetail,
    recipients: &BTreeSet<RecipientNo>,
) -> Result<usize, StoreError> {
    let is_meant =
        |row: &QueueRow| row.state == RecipientState::Held && recipients.contains(&row.no);
    let rows: Vec<QueueRow> = detail.recipients.into_iter().filter(is_meant).collect();
    let Some(first) = rows.first() else { return Ok(0) };
    let (problem, lane) = (problem(config, first), first.lane.clone());
    let targets: Vec<Target> = rows.into_iter().map(target).collect();
    let count = targets.len();
    let user = detail.options.user.as_deref();
    let submitter = Submitter::of(user, &detail.client, &detail.sender);
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
        as_of: Removals::default(),
        submitter,
    };
    let permit = handle.spool.settle_permit()?;
    settle::fail(handle, config, permit, (&work, &lane), &problem).await;
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
