//! Mail of which something on the disk is damaged: named once, held until the operator decides, and
//! in nobody's way.

use std::sync::Arc;

use spool::{CheckCursor, Checked, DamagedRecipient, Mended, StoreError};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::message::Work;
use crate::queue::dsn;
use crate::queue::events::Event;
use crate::queue::handle::QueueHandle;
use crate::telemetry::{Problem, Reason};

/// What the operator can do.
const CURE: &str = "it is held; put queue.db and bodies/ back from a backup with the daemon stopped, \
                    or `staunch queue delete` it; after a repair `staunch queue release` tries it";

/// Names these and holds them. What cannot be written is only named: nothing of it is tried all the
/// same.
pub(super) fn park(handle: &QueueHandle, damaged: Vec<DamagedRecipient>) {
    for one in damaged {
        // Also if it was named before: an operator may have released it.
        let is_news = handle.damaged.is_news(one.key);
        if is_news {
            tell(&one);
        }
        handle.spool.park(one, handle.now(), move |parked| {
            // Where a page is damaged that is so each time.
            if let (Err(error), true) = (parked, is_news) {
                tracing::error!(event = "store_failed", %error, "damaged mail could not be held; it is not tried either");
            }
        });
    }
}

fn tell(one: &DamagedRecipient) {
    let message_id = one.message.map(|message| message.to_string());
    tracing::error!(
        event = "alarm",
        reason = %Reason::MessageDamaged,
        message_id = message_id.as_deref().unwrap_or("unknown"),
        recipient = %one.address,
        "{}: {CURE}",
        one.damage,
    );
}

/// Holds `work` if the attempt on it has shown that it is damaged.
pub(super) async fn hold_if(handle: &Arc<QueueHandle>, work: &Work, problem: Option<&Problem>) {
    let Some(problem) = problem.filter(|problem| problem.reason == Reason::MessageDamaged) else {
        return;
    };
    let message_id = work.message;
    tracing::error!(event = "alarm", reason = %problem.reason, %message_id, "{}: {CURE}", problem.text);
    let recipients = work.targets.iter().map(|target| (work.message, target.no)).collect();
    let spool = handle.spool.clone();
    let held = tokio::task::spawn_blocking(move || spool.hold_these(recipients)).await;
    if let Err(error) = held.unwrap_or(Err(StoreError::Closed)) {
        tracing::error!(event = "store_failed", %error, "damaged mail could not be held");
    }
}

/// Tells the operator that what became of a message cannot be written down.
pub(super) fn tell_unrecorded(subject: &dsn::DsnSubject<'_>) {
    tracing::error!(
        event = "alarm",
        reason = %Reason::MessageDamaged,
        message_id = %subject.message,
        "queue.db is damaged where the result of an attempt belongs: the message is not tried again; stop the \
         daemon and put queue.db back from a backup, or `staunch queue delete` it"
    );
}

/// Tells the operator what the store did about damage.
pub(crate) async fn tell_mended(handle: &Arc<QueueHandle>) {
    handle.spool.mend_if_damaged();
    for place in handle.spool.take_journal_damage() {
        tracing::error!(
            event = "alarm",
            reason = "journal_damaged",
            "{place}: damaged; mail that was accepted may be lost there, and mail that was delivered be sent again; look for both in a \
             backup and in the log"
        );
    }
    let all = handle.spool.take_mended();
    let is_mended = all.iter().any(|one| !one.indexes.is_empty());
    for Mended { indexes, failed } in all {
        tracing::error!(
            event = "alarm",
            reason = "queue_damaged",
            mended = indexes.len(),
            "queue.db was damaged; its indexes were made anew from its tables"
        );
        for (index, error) in failed {
            tracing::error!(
                event = "alarm",
                reason = "queue_damaged",
                %index,
                %error,
                "queue.db: the index could not be made anew, since its table is damaged, too; what else can be read \
                 is sent; stop the daemon and put queue.db back from a backup"
            );
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
            tracing::error!(event = "store_failed", %error, "what damaged indexes hid waits for the next start");
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
                tracing::error!(event = "store_failed", %error, "the queue could not be looked through for damage");
                return;
            }
        }
    }
}
