//! Writes down what an attempt came to: recipients, notices and the lane in one transaction, then
//! the log.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use spool::{
    Attempt, Change, Deferral, LaneKey, LaneState, LaneTrouble, LaneUpdate, MessageId, RecipientNo,
    SettlePermit, Settled, Settlement, StoreError, Told,
};
use tokio::sync::oneshot;

use super::lanes::Effect;
use super::notice::{self, Notice};
use super::telling::{self, Telling};
use super::work::{Due, Rest, Work};
use super::{Finished, intake, store};
use crate::config::{Config, Patience};
use crate::events;
use crate::outcome::{AgeCounts, Answered, Decided, Outcome, Problem, Reason};
use crate::relay::{Counted, Relay};

/// Between tries to write down a result that could not be written. Ours: disks that fill up are
/// emptied by people or by log rotation, not within a second.
const SETTLE_RETRY: Duration = Duration::from_secs(1);

/// What an attempt came to.
#[derive(Debug)]
pub(crate) struct Decision {
    /// For each recipient and for the lane.
    pub(crate) decided: Decided,
    /// The transaction, if there was one.
    pub(crate) answered: Option<Answered>,
    /// What stopped the attempt, if there was none.
    pub(crate) problem: Option<Problem>,
}

/// Settles `due` and tells the log.
pub(crate) async fn settle(
    relay: &Arc<Relay>,
    config: &Config,
    permit: SettlePermit,
    due: &Due,
    decision: Decision,
) -> Finished {
    let decided = &decision.decided;
    let patience = patience(relay, config);
    let answered = decision.answered.as_ref();
    let outcomes = &decided.outcomes;
    let now = relay.now();
    let tellings = telling::after_attempt(&due.work, outcomes, answered, patience, now);
    let lane = lane_update(due, &decision, now);
    let targets = due.work.targets.iter().zip(outcomes);
    let changes =
        || targets.clone().map(|(target, outcome)| (target.no, change(outcome, now))).collect();
    let subject = notice::Subject::from(&due.work);
    write(relay, config, permit, Writing { subject, tellings, lane, changes: &changes }).await;
    for (target, outcome) in due.work.targets.iter().zip(&decided.outcomes) {
        events::recipient_done(due.work.message, target, outcome, decision.answered.as_ref());
    }
    Finished {
        lane: due.lane.clone(),
        message: due.work.message,
        effect: decided.effect,
        due: next_due(due, decided, now),
        pause: decided.pause,
        // Whatever it was when the attempt began: the configuration may have changed since.
        place: due.place(&relay.config()),
    }
}

/// Returns what else in the lane was too old when the attempt on `due` began: it spoke for the whole
/// next hop, so nothing is asked again for each of a thousand messages. Nothing else of the lane may be
/// under way. Each message is one settlement with its own notice, so a crash leaves the others as they
/// were.
pub(crate) async fn return_expired(
    relay: &Arc<Relay>,
    config: &Config,
    due: &Due,
    problem: &Problem,
    started: Timestamp,
) {
    let problem = problem.clone().in_the_end();
    let mut after = None;
    loop {
        let Ok(page) = store::expired(relay, due.lane.clone(), started, after).await else {
            return;
        };
        for work in page.work {
            // Who was in this lane may be in another one now, with a next hop that works.
            if !relay.is_of_today(config) {
                return;
            }
            if end(relay, config, &due.lane, work, &problem).await.is_err() {
                return;
            }
        }
        after = page.next;
        if after.is_none() {
            return;
        }
    }
}

/// Returns `work`, which was read a while ago, because of `problem`: whoever of it is still in the queue. From then on
/// an operator who takes them out of it is told that it is too late.
///
/// # Errors
///
/// [`StoreError`]; then nobody was returned.
async fn end(
    relay: &Arc<Relay>,
    config: &Config,
    lane: &LaneKey,
    mut work: Work,
    problem: &Problem,
) -> Result<(), StoreError> {
    let recipients = work.targets.iter().map(|target| target.no).collect();
    let sending = relay.underway.begin(work.message, recipients);
    store::keep_queued(relay, lane, &mut work, &sending).await?;
    if work.targets.is_empty() || !sending.hand_over() {
        return Ok(());
    }
    let permit = relay.spool.settle_permit()?;
    fail(relay, config, permit, &work, problem).await;
    Ok(())
}

/// Returns all of `work` because of `problem`.
pub(super) async fn fail(
    relay: &Arc<Relay>,
    config: &Config,
    permit: SettlePermit,
    work: &Work,
    problem: &Problem,
) {
    let failed = work.targets.iter().map(|target| (target, problem));
    let tellings = Telling::failed(&work.sender, failed).into_iter().collect();
    let changes = || work.targets.iter().map(|target| (target.no, Change::Failed)).collect();
    let subject = notice::Subject::from(work);
    let writing = Writing { subject, tellings, lane: None, changes: &changes };
    write(relay, config, permit, writing).await;
    // It is not an attempt's own mail: some of it may be in memory, to be tried.
    relay.underway.note_removal();
    for target in &work.targets {
        events::recipient_done(work.message, target, &Outcome::Failed(problem.clone()), None);
    }
}

/// Tells the sender of `work` that it waits because of `problem`; `told` is what is written down of that.
pub(super) async fn tell_delay(
    relay: &Arc<Relay>,
    config: &Config,
    permit: SettlePermit,
    work: &Work,
    (problem, told): (&Problem, Told),
) {
    let delayed = work.targets.iter().map(|target| (target, problem));
    let tellings = Telling::delayed(delayed, told).into_iter().collect();
    let subject = notice::Subject::from(work);
    let writing = Writing { subject, tellings, lane: None, changes: &Vec::new };
    write(relay, config, permit, writing).await;
}

/// Tells the senders of what else waits in the lane because of `problem`, and has waited for as long as they
/// shall be left in peace. Nothing else of the lane may be under way. Each message is one settlement, so a
/// crash in the middle repeats no notice and forgets none.
pub(crate) async fn tell_of_delays(
    relay: &Arc<Relay>,
    config: &Config,
    due: &Due,
    problem: &Problem,
) {
    let Some(since) = patience(relay, config).ends_for(problem.reason, relay.now()) else {
        return;
    };
    let problem = problem.clone().for_now();
    let mut after = None;
    loop {
        let Ok(page) = store::unwarned(relay, due.lane.clone(), since, after).await else {
            return;
        };
        for work in page.work {
            if !relay.is_of_today(config) {
                return;
            }
            let Ok(permit) = relay.spool.settle_permit() else { return };
            tell_delay(relay, config, permit, &work, (&problem, Told::Delay)).await;
        }
        after = page.next;
        if after.is_none() {
            return;
        }
    }
}

/// By a clock that may be wrong nobody waits too long.
fn patience(relay: &Relay, config: &Config) -> Patience {
    match relay.age_counts() {
        AgeCounts::Yes => config.delivery.delay_notice,
        AgeCounts::ClockSuspect => Patience::ENDLESS,
    }
}

/// Lets recipients wait whose attempt ended in a bug of ours. Otherwise they would stay due, and the next
/// read of the lane would start them again at once.
pub(crate) async fn put_aside(
    relay: &Relay,
    message: MessageId,
    recipients: Vec<RecipientNo>,
    until: Timestamp,
) {
    let Ok(permit) = relay.spool.settle_permit() else { return };
    let problem = Problem::new(Reason::LocalError, "an attempt ended in a bug").stored(relay.now());
    let wait = |no| {
        let (problem, attempt) = (Some(problem.clone()), Attempt::Counted);
        (no, Change::Deferred(Deferral { due_at: until, problem, attempt }))
    };
    let changes = recipients.into_iter().map(wait).collect();
    let settlement = Settlement { permit, message, changes, notices: Vec::new(), lane: None };
    let (done, answer) = oneshot::channel();
    relay.spool.settle(settlement, move |result| {
        let _gone = done.send(result);
    });
    if let Ok(Err(error)) = answer.await {
        tracing::error!(event = "store_failed", message_id = %message, %error, "a wait could not be stored");
    }
}

/// One settlement, in a form that can be made again after a failed write.
struct Writing<'a> {
    subject: notice::Subject<'a>,
    tellings: Vec<Telling>,
    lane: Option<LaneUpdate>,
    changes: &'a (dyn Fn() -> Vec<(RecipientNo, Change)> + Sync),
}

/// Writes until it is written: what a peer took must not be sent again, so the message stays in
/// flight, and new attempts do not get a permit meanwhile. Only a poisoned store ends it.
async fn write(relay: &Arc<Relay>, config: &Config, permit: SettlePermit, writing: Writing<'_>) {
    let mut permit = Some(permit);
    loop {
        let written = match permit.take().map_or_else(|| relay.spool.settle_permit(), Ok) {
            Ok(permit) => write_once(relay, config, permit, &writing).await,
            Err(error) => Err(error),
        };
        let Err(error) = written else { return };
        tracing::error!(
            event = "store_failed",
            message_id = %writing.subject.message,
            %error,
            "a result could not be stored; it is tried again"
        );
        relay.note_store_error(&error);
        tokio::select! {
            () = relay.broken.cancelled() => return,
            () = tokio::time::sleep(SETTLE_RETRY) => {}
        }
    }
}

async fn write_once(
    relay: &Arc<Relay>,
    config: &Config,
    permit: SettlePermit,
    writing: &Writing<'_>,
) -> Result<(), StoreError> {
    let (mut notices, mut arrivals) = (Vec::new(), Vec::new());
    let mut changes = (writing.changes)();
    for telling in &writing.tellings {
        let notice = notice::compose(relay, config, &writing.subject, telling).await?;
        if let Some(Notice { message, pieces }) = notice {
            arrivals.push((telling.action, message.body.id(), pieces));
            notices.push(message);
        }
        changes.extend(telling.marks());
    }
    let settlement = Settlement {
        permit,
        message: writing.subject.message,
        changes,
        notices,
        lane: writing.lane.clone(),
    };
    let (done, answer) = oneshot::channel();
    relay.spool.settle(settlement, move |result| {
        let _gone = done.send(result);
    });
    match answer.await.unwrap_or(Err(StoreError::Closed))? {
        Settled::Waiting => {}
        Settled::Gone => relay.count_messages(Counted::Left),
        // The notices were dropped with it.
        Settled::Missing | Settled::Moot => return Ok(()),
    }
    for (action, id, pieces) in arrivals {
        events::notice_queued(writing.subject.message, action, id);
        relay.count_messages(Counted::Came);
        intake::announce(relay, config, pieces).await;
    }
    Ok(())
}

fn change(outcome: &Outcome, now: Timestamp) -> Change {
    match outcome {
        Outcome::Delivered(_) => Change::Delivered,
        Outcome::Failed(_) => Change::Failed,
        Outcome::Deferred { due_at, problem, attempt } => Change::Deferred(Deferral {
            due_at: *due_at,
            problem: Some(problem.stored(now)),
            attempt: *attempt,
        }),
    }
}

fn lane_update(due: &Due, decision: &Decision, now: Timestamp) -> Option<LaneUpdate> {
    let state = match (decision.decided.effect, &decision.problem) {
        (Effect::Failed { retry_at, trouble }, Some(problem)) => LaneState::Failing(LaneTrouble {
            failures: trouble.failures,
            next_probe_at: retry_at,
            first_failed_at: trouble.since,
            problem: problem.stored(now),
        }),
        // Also if nothing was known against it at the start: another attempt may have failed meanwhile.
        (Effect::Works | Effect::Answers, _) => LaneState::Healthy,
        (Effect::Failed { .. }, None) | (Effect::Neutral | Effect::Throttled { .. }, _) => {
            return None;
        }
    };
    Some(LaneUpdate { key: due.lane.clone(), state })
}

/// When the message is due in this lane again, if it is.
fn next_due(due: &Due, decided: &Decided, now: Timestamp) -> Option<Timestamp> {
    let deferred = decided.outcomes.iter().filter_map(|outcome| match outcome {
        Outcome::Deferred { due_at, .. } => Some(*due_at),
        Outcome::Delivered(_) | Outcome::Failed(_) => None,
    });
    let rest = (due.work.rest == Rest::Waiting).then_some(now);
    deferred.chain(rest).min()
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;
    use smtp::{Mailbox, ReversePath};
    use spool::{
        Envelope, MessageOptions, NewRecipient, RecipientOptions, RecipientState, Selection,
    };

    use super::super::lanes::Company;
    use super::super::stage::{BODY, Stage, lane};
    use super::super::stop::{self, TakenOut, Verb};
    use super::*;
    use crate::accept::facts_of;
    use crate::clock;

    /// A message for `a.test` that is too old.
    fn commit(stage: &Stage, recipient: &str) -> MessageId {
        let now = clock::now();
        let recipient = NewRecipient {
            mailbox: Mailbox::parse(recipient).unwrap(),
            lane: lane("a.test"),
            options: RecipientOptions::default(),
            state: RecipientState::Queued,
        };
        stage.commit(Envelope {
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
        let relay = &stage.relay;
        let held = commit(&stage, "x@a.test");
        commit(&stage, "y@a.test");
        let page = store::expired(relay, lane("a.test"), clock::now(), None).await.unwrap();
        let taken = stop::take_out(relay, Verb::Hold, Selection::Messages(vec![held])).await;
        assert_eq!(taken.unwrap(), TakenOut { count: 1, being_sent: 0 });
        let problem = Problem::new(Reason::ConnectFailed, "down");
        for work in page.work {
            end(relay, &relay.config(), &lane("a.test"), work, &problem).await.unwrap();
        }
        assert_eq!(stage.recipients(), (vec!["s@sender.test".to_owned()], vec!["x@a.test".into()]));
    }

    /// Its next hop may be another one, which works.
    #[tokio::test]
    async fn what_failed_under_rules_of_yesterday_returns_no_other_mail() {
        let stage = Stage::new();
        let relay = &stage.relay;
        commit(&stage, "x@a.test");
        commit(&stage, "y@a.test");
        let now = clock::now();
        let page = relay.spool.next(&lane("a.test"), now, None, 1).unwrap();
        let work = page.due.into_iter().next().and_then(store::whole).unwrap();
        let (lane, company) = (lane("a.test"), Company::Alone);
        let due = Due { lane, trouble: None, company, work };
        let problem = Problem::new(Reason::ConnectFailed, "down");

        let yesterday = relay.config();
        stage.reload();
        return_expired(relay, &yesterday, &due, &problem, now).await;
        assert_eq!(stage.recipients(), (vec![], vec!["x@a.test".to_owned(), "y@a.test".into()]));
        return_expired(relay, &relay.config(), &due, &problem, now).await;
        assert_eq!(stage.recipients(), (vec!["s@sender.test".to_owned(); 2], vec![]));
    }
}
