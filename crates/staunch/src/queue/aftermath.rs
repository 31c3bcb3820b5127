//! What an attempt that spoke for its whole next hop means for other mail there.
//!
//! Each message is one settlement with its own DSN, so a crash leaves the others as they were;
//! many are under way at once, so that they share the disk's syncs.

use std::sync::Arc;

use futures_util::stream::{self, StreamExt as _};
use jiff::Timestamp;
use policy::clock::Moment;
use spool::{LaneKey, StoreError, Told};

use super::{deadline, settle, store};
use crate::config::Config;
use crate::delivery::facts::DeliveryFact;
use crate::message::Work;
use crate::queue::handle::{ENDED_AT_ONCE, QueueHandle};
use crate::telemetry::Problem;

/// The only attempt in `lane` has failed because of the problem, and said so of all of its hosts:
/// what that means for other mail there. Who was too old at `expired_at` is returned, if the
/// attempt was one that may end mail.
pub(super) async fn lane_failed(
    handle: &Arc<QueueHandle>,
    config: Arc<Config>,
    lane: LaneKey,
    (problem, expired_at, begun): (Problem, Option<Timestamp>, Moment),
) {
    if let Some(expired_at) = expired_at {
        return_expired(handle, &config, &lane, &problem, expired_at).await;
    }
    deadline::lane_failed(handle, &lane, begun).await;
    let handle = Arc::clone(handle);
    handle.tracker.clone().spawn(async move {
        tell_of_delays(&handle, &config, &lane, &problem).await;
    });
}

/// Recipients of one lane that are counted for a line in the log; reading more takes too long.
const COUNTED_MAX: u64 = 10_000;

/// Tells the log that `lane` waits, and for how many.
pub(super) async fn tell_lane(
    handle: &QueueHandle,
    lane: &LaneKey,
    until: Timestamp,
    cause: &Problem,
) {
    let count = |spool: &spool::Spool, lane: &LaneKey| spool.count_queued(lane, COUNTED_MAX);
    // Without the number the line is still worth having.
    let recipients = store::read(handle, lane.clone(), count).await.ok();
    DeliveryFact::LaneDeferred { lane, until, cause, recipients }.tell();
}

/// Returns what else in `lane` was too old when the attempt began at `started` that failed because
/// of `problem`: it spoke for the whole next hop, so nothing is asked again for each of a thousand
/// messages. Nothing else of the lane may be under way.
async fn return_expired(
    handle: &Arc<QueueHandle>,
    config: &Config,
    lane: &LaneKey,
    problem: &Problem,
    started: Timestamp,
) {
    let problem = &problem.clone().in_the_end();
    let mut after = None;
    loop {
        let Ok(page) = store::expired(handle, lane.clone(), started, after).await else { return };
        let ends = stream::iter(page.work).for_each_concurrent(ENDED_AT_ONCE, |work| async move {
            // Who was in this lane may be in another one now, with a next hop that works. What
            // cannot be written is returned after the next attempt.
            if handle.is_current(config) {
                let _left = end(handle, config, lane, work, problem).await;
            }
        });
        ends.await;
        after = page.next;
        if after.is_none() || is_over(handle, config) {
            return;
        }
    }
}

/// Returns `work`, which was read a while ago, because of `problem`: whoever of it is still in the
/// queue. From then on an operator who takes them out of it is told that it is too late.
///
/// # Errors
///
/// [`StoreError`]; then nobody was returned.
async fn end(
    handle: &Arc<QueueHandle>,
    config: &Config,
    lane: &LaneKey,
    mut work: Work,
    problem: &Problem,
) -> Result<(), StoreError> {
    let recipients = work.targets.iter().map(|target| target.no).collect();
    let sending = handle.underway.begin(work.message, recipients);
    store::keep_queued(handle, lane, &mut work, &sending).await?;
    // What failed a moment ago ends with others of its message.
    let message = work.message;
    work.targets.retain(|target| !handle.gathering.has(message, target.no));
    if work.targets.is_empty() || !sending.hand_over() {
        return Ok(());
    }
    let permit = handle.spool.settle_permit()?;
    settle::fail_soon(handle, config, permit, (&work, lane), problem).await;
    Ok(())
}

/// Tells the senders of what else waits in `lane` because of `problem`, and has waited for as long
/// as they shall be left in peace. The lane goes on meanwhile: who is delivered before is not told.
/// Whoever is not told before the daemon stops is told after the next failure.
async fn tell_of_delays(
    handle: &Arc<QueueHandle>,
    config: &Config,
    lane: &LaneKey,
    problem: &Problem,
) {
    let Some(since) = settle::patience(handle, config).ends_for(problem.reason, handle.now())
    else {
        return;
    };
    // The one who tells already tells all of them.
    let Some(_turn) = handle.delay_dsns.begin(lane) else { return };
    let problem = &problem.clone().for_now();
    let mut after = None;
    loop {
        let Ok(page) = store::unwarned(handle, lane.clone(), since, after).await else { return };
        let requests =
            stream::iter(page.work).for_each_concurrent(ENDED_AT_ONCE, |work| async move {
                if is_over(handle, config) {
                    return;
                }
                let Ok(permit) = handle.spool.settle_permit() else { return };
                settle::tell_delay(handle, config, permit, &work, (problem, Told::Delay)).await;
            });
        requests.await;
        after = page.next;
        if after.is_none() || is_over(handle, config) {
            return;
        }
    }
}

/// Does what is left wait for another time?
fn is_over(handle: &QueueHandle, config: &Config) -> bool {
    handle.tracker.is_closed() || !handle.is_current(config)
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;
    use smtp::{Mailbox, ReversePath};
    use spool::{
        MessageId, MessageOptions, NewRecipient, RecipientOptions, RecipientState, Selection,
        StoredEnvelope,
    };

    use super::super::lanes::{Company, LaneClass, Ticket};
    use super::super::stage::{BODY, Stage, lane};
    use super::super::stop::{self, TakenOut, Verb};
    use super::*;
    use crate::clock;
    use crate::message::facts_of;
    use crate::queue::events::DueWork;
    use crate::telemetry::Reason;

    /// A message for `a.test` that is too old.
    fn commit(stage: &Stage, recipient: &str) -> MessageId {
        let now = clock::now();
        let recipient = NewRecipient {
            mailbox: Mailbox::parse(recipient).unwrap(),
            lane: lane("a.test"),
            options: RecipientOptions::default(),
            state: RecipientState::Queued,
        };
        stage.commit(StoredEnvelope {
            sender: ReversePath::parse("s@sender.test").unwrap(),
            recipients: vec![recipient],
            arrived_at: now - SignedDuration::from_secs(9_000),
            expires_at: now - SignedDuration::from_secs(1),
            client: "test".into(),
            facts: facts_of(BODY),
            options: MessageOptions::default(),
        })
    }

    /// The operator was told that it is held.
    #[tokio::test]
    async fn who_is_held_after_the_page_was_read_is_not_returned() {
        let stage = Stage::new();
        let handle = &stage.handle;
        let held = commit(&stage, "x@a.test");
        commit(&stage, "y@a.test");
        let page = store::expired(handle, lane("a.test"), clock::now(), None).await.unwrap();
        let taken = stop::take_out(
            handle,
            Verb::Hold { why: None },
            Selection::Messages(vec![held]),
            &|_| (),
        )
        .await;
        assert_eq!(taken.unwrap(), TakenOut { count: 1, being_sent: 0 });
        let problem = Problem::new(Reason::ConnectFailed, "down");
        for work in page.work {
            end(handle, &handle.config(), &lane("a.test"), work, &problem).await.unwrap();
        }
        assert_eq!(stage.recipients(), (vec!["s@sender.test".to_owned()], vec!["x@a.test".into()]));
    }

    /// Its next hop may be another one, which works.
    #[tokio::test]
    async fn what_failed_under_the_previous_rules_returns_no_other_mail() {
        let stage = Stage::new();
        let handle = &stage.handle;
        commit(&stage, "x@a.test");
        commit(&stage, "y@a.test");
        let now = clock::now();
        let page = handle.spool.next(&lane("a.test"), now, None, 1).unwrap();
        let work = page.due.into_iter().next().and_then(store::whole).unwrap();
        let (lane, company) = (lane("a.test"), Company::Alone);
        let due = DueWork {
            lane,
            ticket: Ticket::ALONE,
            class: LaneClass::New,
            trouble: None,
            company,
            work,
        };
        let problem = Problem::new(Reason::ConnectFailed, "down");

        let previous = handle.config();
        stage.reload();
        return_expired(handle, &previous, &due.lane, &problem, now).await;
        assert_eq!(stage.recipients(), (vec![], vec!["x@a.test".to_owned(), "y@a.test".into()]));
        return_expired(handle, &handle.config(), &due.lane, &problem, now).await;
        assert_eq!(stage.recipients(), (vec!["s@sender.test".to_owned(); 2], vec![]));
    }
}
