//! Removes rows of lanes that nobody needs: a slice after the other, and never much of the disk's
//! time.

use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use spool::{StoreError, Swept};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::proofs;
use crate::delivery::outcome::AgeCounts;
use crate::queue::facts::QueueFact;
use crate::queue::handle::QueueHandle;

/// Between two slices of one pass.
const SLICE_EVERY: Duration = Duration::from_millis(20);
/// Between two passes. Our choice: what delivery empties is gone at once, this is for what it
/// leaves.
const PASS_EVERY: Duration = Duration::from_secs(60);

/// How long a body is kept that no message names.
const LOST_KEPT: SignedDuration = SignedDuration::from_hours(7 * 24);
/// How long it is remembered what was imported: nobody repeats an import after that.
const IMPORTED_KEPT: SignedDuration = SignedDuration::from_hours(30 * 24);
/// Passes between two looks at who took mail too long ago to count.
const PASSES_PER_TIDYING: u32 = 60;

/// Sweeps, and forgets what is too old, until `stop`.
pub(crate) async fn run(handle: Arc<QueueHandle>, stop: CancellationToken) {
    let (mut after, mut passes) = (0, 0_u32);
    loop {
        let rest = match sweep(&handle, after).await {
            Ok(Swept { next: Some(next), .. }) => {
                after = next;
                SLICE_EVERY
            }
            Ok(Swept { next: None, .. }) => {
                if passes.is_multiple_of(PASSES_PER_TIDYING) {
                    proofs::tidy(&handle);
                    forget_old(&handle).await;
                }
                (after, passes) = (0, passes.wrapping_add(1));
                PASS_EVERY
            }
            Err(error) => {
                handle.note_store_error(&error);
                QueueFact::StoreFailed {
                    error: &error,
                    what: "unused next hops could not be removed",
                }
                .tell();
                PASS_EVERY
            }
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(rest) => {}
        }
    }
}

/// Under a clock that may be wrong nothing is.
async fn forget_old(handle: &QueueHandle) {
    if handle.age_counts() == AgeCounts::ClockSuspect {
        return;
    }
    let [lost, imported] = [LOST_KEPT, IMPORTED_KEPT].map(|age| handle.now().checked_sub(age));
    let (Ok(lost), Ok(imported)) = (lost, imported) else { return };
    let spool = handle.spool.clone();
    let forget =
        move || spool.forget_lost_bodies(lost).and_then(|()| spool.forget_imported(imported));
    let forgotten = tokio::task::spawn_blocking(forget).await;
    if let Err(error) = forgotten.unwrap_or(Err(StoreError::Closed)) {
        QueueFact::StoreFailed {
            error: &error,
            what: "lost bodies, or what was imported, could not be forgotten",
        }
        .tell();
    }
}

async fn sweep(handle: &QueueHandle, after: i64) -> Result<Swept, StoreError> {
    let (done, swept) = oneshot::channel();
    handle.spool.sweep_lanes(after, handle.now(), move |result| {
        let _gone = done.send(result);
    });
    swept.await.unwrap_or(Err(StoreError::Closed))
}
