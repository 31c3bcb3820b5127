//! The failures that wait for others of their message.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use spool::{Attempt, LaneKey, MessageId, RecipientNo};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::lock::lock;
use crate::message::{Body, Removals, Target, Work};
use crate::telemetry::Problem;

/// How long the first failure waits for others. Our choice: attempts of one message begin together,
/// and most hosts answer within a second or two.
const COMPANY: Duration = Duration::from_secs(3);
/// When a recipient whose failure was not told, since the daemon ended, is tried again. Our choice:
/// longer than the wait for company, so that it is not looked at in vain.
pub(super) const AGAIN: Duration = Duration::from_secs(10);
/// Recipients that wait to be told of, of all messages: some ten megabytes. Failures beyond that
/// are told one by one. Our choice.
const GATHERED_MAX: usize = 10_000;

/// The failures that wait for company.
#[derive(Debug, Default)]
pub(crate) struct Gathering {
    state: Mutex<GatheringState>,
    came: Notify,
}

#[derive(Debug, Default)]
struct GatheringState {
    messages: HashMap<MessageId, Gathered>,
    /// All of them, until they have ended.
    recipients: HashSet<(MessageId, RecipientNo)>,
    is_closed: bool,
}

/// The failures of one message, told together when `until` has come.
#[derive(Debug)]
pub(super) struct Gathered {
    until: Instant,
    pub(super) failures: Vec<(LaneKey, Work, Vec<Problem>)>,
}

impl Gathering {
    fn state(&self) -> MutexGuard<'_, GatheringState> {
        lock(&self.state)
    }

    /// Takes over these recipients, who are nobody else's until they have ended; [`Self::add`]
    /// follows. `false` if there is no room.
    pub(super) fn takes(&self, message: MessageId, failed: &[(&Target, &Problem)]) -> bool {
        let mut state = self.state();
        let has_room = !state.is_closed && state.recipients.len() + failed.len() <= GATHERED_MAX;
        if has_room {
            state.recipients.extend(failed.iter().map(|(target, _)| (message, target.no)));
        }
        has_room
    }

    /// The attempt that took them over came to nothing: they are tried again like others.
    pub(super) fn forget(&self, message: MessageId, recipients: &[RecipientNo]) {
        let mut state = self.state();
        for no in recipients {
            state.recipients.remove(&(message, *no));
        }
    }

    /// Is the recipient about to end?
    pub(super) fn has(&self, message: MessageId, no: RecipientNo) -> bool {
        self.state().recipients.contains(&(message, no))
    }

    /// These recipients of `work` failed, each because of its problem; `attempt`: does that count?
    pub(super) fn add(
        &self,
        lane: &LaneKey,
        work: &Work,
        failed: &[(&Target, &Problem)],
        attempt: Attempt,
    ) {
        let more = u32::from(attempt == Attempt::Counted);
        let tried = |target: &Target| Target {
            attempts: target.attempts.saturating_add(more),
            ..target.clone()
        };
        let problems = failed.iter().map(|(_, problem)| (*problem).clone()).collect();
        let work = Work {
            targets: failed.iter().map(|(target, _)| tried(target)).collect(),
            body: Body::Stored,
            // An operator may have taken some out before they are told of.
            as_of: Removals::default(),
            ..work.clone()
        };
        let mut state = self.state();
        let gathered = state
            .messages
            .entry(work.message)
            .or_insert_with(|| Gathered { until: Instant::now() + COMPANY, failures: Vec::new() });
        gathered.failures.push((lane.clone(), work, problems));
        drop(state);
        self.came.notify_one();
    }

    /// Those that have waited long enough at `now`; all of them if there is no time.
    pub(super) fn take(&self, now: Option<Instant>) -> Vec<(MessageId, Gathered)> {
        let mut state = self.state();
        let is_due = |_: &MessageId, one: &mut Gathered| now.is_none_or(|now| one.until <= now);
        state.messages.extract_if(is_due).collect()
    }

    /// When the next have waited long enough.
    pub(super) fn next(&self) -> Option<Instant> {
        self.state().messages.values().map(|one| one.until).min()
    }

    /// Returns when there is something new.
    pub(super) async fn came(&self) {
        self.came.notified().await;
    }

    /// Takes nothing any more.
    pub(super) fn close(&self) {
        self.state().is_closed = true;
    }
}
