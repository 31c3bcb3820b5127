//! Failures of one message that come within some seconds are told in one notice.
//!
//! A message to three hundred domains ends in three hundred attempts, and each failure by itself would be a notice to the same
//! sender. So a failure of a message that has other recipients waits for company. Meanwhile its recipient is in the store as one
//! that waits, with what was said: if the daemon ends before the notice is written, it is tried again, and fails again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};
use spool::{LaneKey, MessageId, RecipientNo, StoreError};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::aftermath::AT_ONCE;
use super::settle::{self, Failing};
use super::store;
use super::underway::Removals;
use super::work::{Body, Target, Work};
use crate::outcome::Problem;
use crate::relay::Relay;

/// How long the first failure waits for others. Our choice: attempts of one message begin together, and most hosts answer
/// within a second or two.
const COMPANY: Duration = Duration::from_secs(3);
/// When a recipient whose failure was not told, since the daemon ended, is tried again.
pub(super) const AGAIN: Duration = Duration::from_secs(10);
/// Recipients that wait to be told of, of all messages: some ten megabytes. Failures beyond that are told one by one.
const GATHERED_MAX: usize = 10_000;

/// The failures that wait for company.
#[derive(Debug, Default)]
pub(crate) struct Gathering {
    state: Mutex<State>,
    came: Notify,
}

#[derive(Debug, Default)]
struct State {
    messages: HashMap<MessageId, Gathered>,
    recipients: usize,
    is_closed: bool,
}

/// Of one message.
#[derive(Debug)]
struct Gathered {
    until: Instant,
    failures: Vec<(LaneKey, Work, Vec<Problem>)>,
}

impl Gathering {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Is there room for so many more recipients?
    pub(super) fn has_room(&self, recipients: usize) -> bool {
        let state = self.state();
        !state.is_closed && state.recipients + recipients <= GATHERED_MAX
    }

    /// These recipients of `work` failed, each because of its problem, and are in the store as recipients that wait.
    pub(super) fn add(&self, lane: &LaneKey, work: &Work, failed: &[(&Target, &Problem)]) {
        let problems = failed.iter().map(|(_, problem)| (*problem).clone()).collect();
        let work = Work {
            targets: failed.iter().map(|(target, _)| (*target).clone()).collect(),
            body: Body::Stored,
            // An operator may have taken some out before they are told of.
            as_of: Removals::default(),
            ..work.clone()
        };
        let mut state = self.state();
        state.recipients += failed.len();
        let gathered = state
            .messages
            .entry(work.message)
            .or_insert_with(|| Gathered { until: Instant::now() + COMPANY, failures: Vec::new() });
        gathered.failures.push((lane.clone(), work, problems));
        drop(state);
        self.came.notify_one();
    }

    /// Those that have waited long enough at `now`; all of them if there is no time.
    fn take(&self, now: Option<Instant>) -> Vec<Gathered> {
        let mut state = self.state();
        let is_due = |_: &MessageId, one: &mut Gathered| now.is_none_or(|now| one.until <= now);
        let due: Vec<Gathered> =
            state.messages.extract_if(is_due).map(|(_, gathered)| gathered).collect();
        let taken = due.iter().flat_map(|one| &one.failures).map(|(_, work, _)| work.targets.len());
        state.recipients = state.recipients.saturating_sub(taken.sum());
        due
    }

    fn next(&self) -> Option<Instant> {
        self.state().messages.values().map(|one| one.until).min()
    }
}

/// Tells of what was gathered, until `stop`; then of all that is left.
pub(crate) async fn watch(relay: Arc<Relay>, stop: CancellationToken) {
    while !stop.is_cancelled() {
        let wait = async {
            match relay.gathering.next() {
                Some(next) => sleep_until(next).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = relay.gathering.came.notified() => {}
            () = wait => {}
        }
        tell(&relay, relay.gathering.take(Some(Instant::now()))).await;
    }
    relay.gathering.state().is_closed = true;
    tell(&relay, relay.gathering.take(None)).await;
}

async fn tell(relay: &Arc<Relay>, due: Vec<Gathered>) {
    let tellings = due.into_iter().map(|gathered| async {
        if let Err(error) = end(relay, gathered).await {
            relay.note_store_error(&error);
            tracing::error!(event = "store_failed", %error, "failures are not told yet: they are tried again");
        }
    });
    stream::iter(tellings).buffer_unordered(AT_ONCE).collect::<()>().await;
}

/// Ends those that are still in the queue, and tells of them.
async fn end(relay: &Arc<Relay>, gathered: Gathered) -> Result<(), StoreError> {
    let (mut marks, mut failing) = (Vec::new(), Vec::new());
    for (lane, mut work, problems) in gathered.failures {
        let numbers: Vec<RecipientNo> = work.targets.iter().map(|target| target.no).collect();
        let problems: HashMap<_, _> = numbers.iter().copied().zip(problems).collect();
        let sending = relay.underway.begin(work.message, numbers);
        store::keep_queued(relay, &lane, &mut work, &sending).await?;
        if sending.hand_over() {
            marks.push(sending);
            failing.push(Failing { lane, work, problems });
        }
    }
    let permit = relay.spool.settle_permit()?;
    settle::fail_together(relay, &relay.config(), permit, &failing).await;
    Ok(())
}
