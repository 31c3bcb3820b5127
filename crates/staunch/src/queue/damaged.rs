//! Mail of which something on the disk is damaged: named once, held until the operator decides, and
//! in nobody's way.

use std::sync::Arc;

use spool::{CheckCursor, Checked, DamagedRecipient, Mended, StoreError};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::message::Work;
use crate::queue::events::Event;
use crate::queue::facts::QueueFact;
use crate::queue::handle::QueueHandle;
use crate::telemetry::{Problem, Reason};

/// Names these and holds them. What cannot be written is only named: nothing of it is tried all the
/// same.
pub(super) fn park(handle: &QueueHandle, damaged: Vec<DamagedRecipient>) {
    for one in damaged {
        // Also if it was named before: an operator may have released it.
        let is_news = handle.damaged.is_news(one.key);
        if is_news {
            QueueFact::RecipientDamaged { one: &one }.tell();
        }
        handle.spool.park(one, handle.now(), move |parked| {
            // Where a page is damaged that is so each time.
            if let (Err(error), true) = (parked, is_news) {
                QueueFact::StoreFailed {
                    error: &error,
                    what: "damaged mail could not be held; it is not tried either",
                }
                .tell();
            }
        });
    }
}

/// Holds `work` if the attempt on it has shown that it is damaged.
pub(super) async fn hold_if(handle: &Arc<QueueHandle>, work: &Work, problem: Option<&Problem>) {
    let Some(problem) = problem.filter(|problem| problem.reason == Reason::MessageDamaged) else {
        return;
    };
    QueueFact::MessageDamaged { message: work.message, problem }.tell();
    let recipients = work.targets.iter().map(|target| (work.message, target.no)).collect();
    let spool = handle.spool.clone();
    let held = tokio::task::spawn_blocking(move || spool.hold_these(recipients)).await;
    if let Err(error) = held.unwrap_or(Err(StoreError::Closed)) {
        QueueFact::StoreFailed { error: &error, what: "damaged mail could not be held" }.tell();
    }
}

/// Tells the operator what the store did about damage.
pub(crate) async fn tell_mended(handle: &Arc<QueueHandle>) {
    handle.spool.mend_if_damaged();
    for place in handle.spool.take_journal_damage() {
        QueueFact::JournalDamaged { place: &place }.tell();
    }
    let all = handle.spool.take_mended();
    let is_mended = all.iter().any(|one| !one.indexes.is_empty());
    for Mended { indexes, failed } in all {
        QueueFact::IndexesMended { mended: indexes.len() }.tell();
        for (index, error) in failed {
            QueueFact::IndexNotMended { index: &index, error: &error }.tell();
        }
    }
    if is_mended {
        look_everywhere(handle).await;
    }
}

/// What an index had hidden, or shown elsewhere, may be in any lane.
async fn look_everywhere(handle: &Arc<QueueHandle>) {
    let spool = handle.spool.clone();
    let lanes = tokio::task::spawn_blocking(move || spool.lanes()).await;
    match lanes.unwrap_or(Err(StoreError::Closed)) {
        Ok(lanes) => {
            let keys = lanes.into_iter().map(|lane| lane.key).collect();
            handle.tell(Event::Follow(keys)).await;
        }
        Err(error) => {
            QueueFact::StoreFailed {
                error: &error,
                what: "what damaged indexes hid waits for the next start",
            }
            .tell();
        }
    }
}

/// Looks through the whole queue once: what is damaged is named now, and not on the day on which it
/// is due.
pub(crate) async fn check_all(handle: Arc<QueueHandle>, stop: CancellationToken) {
    let mut after = CheckCursor::START;
    while !stop.is_cancelled() {
        let (spool, begun) = (handle.spool.clone(), Instant::now());
        let checked = tokio::task::spawn_blocking(move || spool.check(after)).await;
        // Half of the time is for others.
        let rest = tokio::time::sleep(begun.elapsed());
        if stop.run_until_cancelled(rest).await.is_none() {
            return;
        }
        match checked.unwrap_or(Err(StoreError::Closed)) {
            Ok(Checked { damaged, next }) => {
                park(&handle, damaged);
                let Some(next) = next else { return };
                after = next;
            }
            Err(StoreError::Closed) => return,
            Err(error) => {
                QueueFact::StoreFailed {
                    error: &error,
                    what: "the queue could not be looked through for damage",
                }
                .tell();
                return;
            }
        }
    }
}
