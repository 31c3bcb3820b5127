//! Writes down what an attempt came to: recipients, DSNs and the lane in one transaction, then
//! the log.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use report::Action;
use smtp::{HostName, ReversePath};
use spool::{
    Attempt, Change, LaneKey, LaneState, LaneTrouble, LaneUpdate, MessageId, RecipientDeferral,
    RecipientNo, RecipientState, SettlePermit, Settled, Settlement, StoreError, Told,
};
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;

use crate::config::{Config, DelayWarning};
use crate::connect::pool::Bottleneck;
use crate::delivery::facts::{About, DeliveryFact};
use crate::delivery::outcome::{AgeCounts, Decided, LaneEffect, Outcome, TransactionResult};
use crate::delivery::route;
use crate::message::{Rest, Target, Work};
use crate::queue::dsn::{self, Composed, ComposedDsn};
use crate::queue::dsn_request::{self, DsnRequest};
use crate::queue::events::{DueWork, FinishedAttempt};
use crate::queue::facts::QueueFact;
use crate::queue::handle::{Counted, QueueHandle};
use crate::queue::{gathered, intake};
use crate::schedule::after;
use crate::telemetry::{Problem, Reason};

/// Between tries to write down a result that could not be written. Our choice: disks that fill up
/// are emptied by people or by log rotation, not within a second.
const SETTLE_RETRY: Duration = Duration::from_secs(1);

/// What an attempt came to.
#[derive(Debug)]
pub(crate) struct Decision {
    /// For each recipient and for the lane.
    pub(crate) decided: Decided,
    /// The transaction, if there was one.
    pub(crate) answered: Option<TransactionResult>,
    /// What stopped the attempt, if there was none.
    pub(crate) problem: Option<Problem>,
    /// The host that lets nobody in, if that is it.
    pub(crate) down: Option<Bottleneck>,
}

/// Settles `due` and tells the log.
pub(crate) async fn settle(
    handle: &Arc<QueueHandle>,
    config: &Config,
    permit: SettlePermit,
    due: &DueWork,
    decision: Decision,
) -> FinishedAttempt {
    let decided = &decision.decided;
    let patience = patience(handle, config);
    let answered = decision.answered.as_ref();
    let outcomes = &decided.outcomes;
    let now = handle.now();
    let mut requests = dsn_request::after_attempt(&due.work, outcomes, answered, patience, now);
    let lane = lane_update(due, &decision, now);
    let targets = due.work.targets.iter().zip(outcomes);
    let failed: Vec<_> =
        targets.clone().filter_map(|(target, outcome)| Some((target, outcome.failed()?))).collect();
    let ending = outcomes.iter().filter(|outcome| outcome.is_end()).count();
    let timing = timing(handle, &due.work, &failed, ending).await;
    if timing == FailureTiming::Together {
        requests.retain(|request| request.action != Action::Failed);
    }
    let changes = || {
        let change = |(target, outcome): (&Target, _)| (target.no, change(outcome, timing, now));
        targets.clone().map(change).collect()
    };
    let told = || {
        for (target, outcome) in due.work.targets.iter().zip(&decided.outcomes) {
            // Of the others it is told when they end.
            if timing == FailureTiming::Now || outcome.failed().is_none() {
                let about = About { work: &due.work, lane: &due.lane, now };
                DeliveryFact::of_outcome(about, target, outcome, answered).tell();
            }
        }
    };
    let subject = dsn::DsnSubject::from(&due.work);
    let writing = Writing { subject, requests, lane, changes: &changes, told: &told };
    write(handle, config, permit, writing).await;
    if timing == FailureTiming::Together {
        handle.gathering.add(&due.lane, &due.work, &failed, Attempt::Counted);
    }
    FinishedAttempt {
        lane: due.lane.clone(),
        message: due.work.message,
        effect: decided.effect,
        due: next_due(due, decided, timing, now),
        pause: decided.pause,
        // Whatever it was when the attempt began: the configuration may have changed since.
        place: route::place(&handle.config(), &due.lane, &due.work),
        took: took(decided.effect, answered),
        cause: cause(&decision).map(Box::new),
        down: decision.down.clone(),
    }
}

/// What becomes of recipients whose attempt failed for good.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum FailureTiming {
    /// They end with this settlement.
    Now,
    /// They end with others of their message, within seconds.
    Together,
}

/// A failure waits for others if there can be others beside those that end now, and somebody is to
/// be told.
async fn timing(
    handle: &QueueHandle,
    work: &Work,
    failed: &[(&Target, &Problem)],
    ending: usize,
) -> FailureTiming {
    let is_told = failed.iter().any(|(target, _)| target.options.wants_failure());
    if work.sender == ReversePath::Null || !is_told {
        return FailureTiming::Now;
    }
    let (spool, message) = (handle.spool.clone(), work.message);
    let places = spawn_blocking(move || spool.places(message, None)).await;
    match places {
        Ok(Ok(places)) if places.len() > ending && handle.gathering.takes(message, failed) => {
            FailureTiming::Together
        }
        // What cannot be read now is told at once.
        Ok(Ok(_) | Err(_)) | Err(_) => FailureTiming::Now,
    }
}

/// Returns all of `work` because of `problem`: at once, or with others of its message.
pub(super) async fn fail_soon(
    handle: &Arc<QueueHandle>,
    config: &Config,
    permit: SettlePermit,
    (work, lane): (&Work, &LaneKey),
    problem: &Problem,
) {
    let failed: Vec<_> = work.targets.iter().map(|target| (target, problem)).collect();
    match timing(handle, work, &failed, failed.len()).await {
        FailureTiming::Together => handle.gathering.add(lane, work, &failed, Attempt::NotCounted),
        FailureTiming::Now => fail(handle, config, permit, (work, lane), problem).await,
    }
}

/// Why the lane waits, if it does.
fn cause(decision: &Decision) -> Option<Problem> {
    match decision.decided.effect {
        LaneEffect::Works | LaneEffect::Answers | LaneEffect::Neutral => None,
        LaneEffect::Failed { .. } | LaneEffect::Yielded { .. } => decision.problem.clone(),
        LaneEffect::Throttled { .. } => decision.problem.clone().or_else(|| {
            let mx = &decision.answered.as_ref()?.mx;
            Some(Problem::new(Reason::Throttled, &format!("{mx} asks for patience")).at(mx))
        }),
    }
}

/// The host that took mail.
fn took(effect: LaneEffect, answered: Option<&TransactionResult>) -> Option<HostName> {
    answered
        .and_then(|answered| answered.mx.name())
        .filter(|_| effect == LaneEffect::Works)
        .cloned()
}

/// Recipients of one message that end together: those of one lane, and why each of them.
#[derive(Debug)]
pub(super) struct Failing {
    pub(super) lane: LaneKey,
    pub(super) work: Work,
    pub(super) problems: HashMap<RecipientNo, Problem>,
}

impl Failing {
    fn failed(&self) -> impl Iterator<Item = (&Target, &Problem)> {
        let problem = |target: &Target| self.problems.get(&target.no);
        self.work.targets.iter().filter_map(move |target| Some((target, problem(target)?)))
    }
}

/// Returns all of `work` because of `problem`.
pub(super) async fn fail(
    handle: &Arc<QueueHandle>,
    config: &Config,
    permit: SettlePermit,
    (work, lane): (&Work, &LaneKey),
    problem: &Problem,
) {
    let problems = work.targets.iter().map(|target| (target.no, problem.clone())).collect();
    let failing = Failing { lane: lane.clone(), work: work.clone(), problems };
    fail_together(handle, config, permit, &[failing]).await;
}

/// Returns all of these, which are of one message, in one DSN.
pub(super) async fn fail_together(
    handle: &Arc<QueueHandle>,
    config: &Config,
    permit: SettlePermit,
    failing: &[Failing],
) {
    let Some(Failing { work, .. }) = failing.first() else { return };
    let failed = || failing.iter().flat_map(Failing::failed);
    if failed().next().is_none() {
        return;
    }
    let requests = DsnRequest::failed(&work.sender, failed()).into_iter().collect();
    let changes = || failed().map(|(target, _)| (target.no, Change::Failed)).collect();
    let subject = dsn::DsnSubject::from(work);
    let now = handle.now();
    let told = || {
        for one in failing {
            for (target, problem) in one.failed() {
                let about = About { work: &one.work, lane: &one.lane, now };
                let attempts = target.attempts;
                DeliveryFact::Bounced { about, target, problem, attempts }.tell();
            }
        }
    };
    let writing = Writing { subject, requests, lane: None, changes: &changes, told: &told };
    write(handle, config, permit, writing).await;
    // It is not an attempt's own mail: some of it may be in memory, to be tried.
    handle.underway.note_removal();
}

/// Tells the sender of `work` that it waits because of `problem`; `told` is what is written down of
/// that.
pub(super) async fn tell_delay(
    handle: &Arc<QueueHandle>,
    config: &Config,
    permit: SettlePermit,
    work: &Work,
    (problem, told): (&Problem, Told),
) {
    let delayed = work.targets.iter().map(|target| (target, problem));
    let requests = DsnRequest::delayed(delayed, told).into_iter().collect();
    let subject = dsn::DsnSubject::from(work);
    let writing = Writing { subject, requests, lane: None, changes: &Vec::new, told: &|| () };
    write(handle, config, permit, writing).await;
}

/// By a clock that may be wrong nobody waits too long.
pub(super) fn patience(handle: &QueueHandle, config: &Config) -> DelayWarning {
    match handle.age_counts() {
        AgeCounts::Yes => config.delivery.delay_notice,
        AgeCounts::ClockSuspect => DelayWarning::ENDLESS,
    }
}

/// Lets recipients wait whose attempt ended in a bug of ours. Otherwise they would stay due, and
/// the next read of the lane would start them again at once.
pub(crate) async fn put_aside(
    handle: &QueueHandle,
    message: MessageId,
    recipients: Vec<RecipientNo>,
    until: Timestamp,
) {
    handle.gathering.forget(message, &recipients);
    let Ok(permit) = handle.spool.settle_permit() else { return };
    let problem =
        Problem::new(Reason::LocalError, "an attempt ended in a bug").stored(handle.now());
    let wait = |no| {
        let (problem, attempt) = (Some(problem.clone()), Attempt::Counted);
        (no, Change::Deferred(RecipientDeferral { due_at: until, problem, attempt }))
    };
    let changes = recipients.into_iter().map(wait).collect();
    let settlement = Settlement { permit, message, changes, dsns: Vec::new(), lane: None };
    let (done, answer) = oneshot::channel();
    handle.spool.settle(settlement, move |result| {
        let _gone = done.send(result);
    });
    if let Ok(Err(error)) = answer.await {
        QueueFact::StoreFailedFor { message, error: &error, what: "a wait could not be stored" }
            .tell();
    }
}

/// One settlement, in a form that can be made again after a failed write.
struct Writing<'a> {
    subject: dsn::DsnSubject<'a>,
    requests: Vec<DsnRequest>,
    lane: Option<LaneUpdate>,
    changes: &'a (dyn Fn() -> Vec<(RecipientNo, Change)> + Sync),
    /// Tells what became of recipients, once that is written: before what becomes of DSNs.
    told: &'a (dyn Fn() + Sync),
}

/// Writes until it is written: what a peer took must not be sent again, so the message stays in
/// flight, and new attempts do not get a permit meanwhile. Only a poisoned store ends it.
async fn write(
    handle: &Arc<QueueHandle>,
    config: &Config,
    permit: SettlePermit,
    writing: Writing<'_>,
) {
    let mut permit = Some(permit);
    loop {
        let written = match permit.take().map_or_else(|| handle.spool.settle_permit(), Ok) {
            Ok(permit) => write_once(handle, config, permit, &writing).await,
            Err(error) => Err(error),
        };
        let Err(error) = written else { return };
        QueueFact::StoreFailedFor {
            message: writing.subject.message,
            error: &error,
            what: "a result could not be stored; it is tried again",
        }
        .tell();
        handle.note_store_error(&error);
        tokio::select! {
            // It happened all the same.
            () = handle.broken.cancelled() => return (writing.told)(),
            () = tokio::time::sleep(SETTLE_RETRY) => {}
        }
    }
}

async fn write_once(
    handle: &Arc<QueueHandle>,
    config: &Config,
    permit: SettlePermit,
    writing: &Writing<'_>,
) -> Result<(), StoreError> {
    let (mut dsns, mut arrivals, mut undeliverable) = (Vec::new(), Vec::new(), None);
    let mut changes = (writing.changes)();
    for request in &writing.requests {
        match dsn::compose(handle, config, &writing.subject, request).await? {
            Composed::Dsn(dsn) => {
                let ComposedDsn { message, pieces, admission } = *dsn;
                arrivals.push((request.action, message.body.id(), pieces, admission));
                dsns.push(message);
            }
            Composed::Undeliverable(why) => undeliverable = Some(why),
            Composed::Moot => {}
        }
        changes.extend(request.marks());
    }
    let settlement = Settlement {
        permit,
        message: writing.subject.message,
        changes,
        dsns,
        lane: writing.lane.clone(),
    };
    let (done, answer) = oneshot::channel();
    handle.spool.settle(settlement, move |result| {
        let _gone = done.send(result);
    });
    let settled = answer.await.unwrap_or(Err(StoreError::Closed))?;
    (writing.told)();
    match settled {
        Settled::Waiting => {}
        Settled::Gone => handle.count_messages(Counted::Left),
        // The DSNs were dropped with it.
        Settled::Missing | Settled::Moot => return Ok(()),
        Settled::Unrecorded => {
            QueueFact::Unrecorded { message: writing.subject.message }.tell();
            return Ok(());
        }
    }
    let message = writing.subject.message;
    if let Some(why) = undeliverable {
        why.tell(&writing.subject);
    }
    for (action, id, pieces, admission) in arrivals {
        DeliveryFact::DsnQueued { message, dsn: id, action }.tell();
        if admission.state() == RecipientState::Held {
            DeliveryFact::DsnHeld { dsn: id }.tell();
        }
        admission.kept();
        handle.count_messages(Counted::Came);
        intake::announce(handle, config, pieces).await;
    }
    Ok(())
}

fn change(outcome: &Outcome, timing: FailureTiming, now: Timestamp) -> Change {
    match outcome {
        Outcome::Delivered(_) => Change::Delivered,
        Outcome::Failed(_) if timing == FailureTiming::Now => Change::Failed,
        Outcome::Failed(problem) => Change::Deferred(RecipientDeferral {
            due_at: after(now, gathered::AGAIN),
            problem: Some(problem.stored(now)),
            attempt: Attempt::Counted,
        }),
        Outcome::Deferred { due_at, problem, attempt } => Change::Deferred(RecipientDeferral {
            due_at: *due_at,
            problem: Some(problem.stored(now)),
            attempt: *attempt,
        }),
    }
}

fn lane_update(due: &DueWork, decision: &Decision, now: Timestamp) -> Option<LaneUpdate> {
    let state = match (decision.decided.effect, &decision.problem) {
        (
            LaneEffect::Failed { retry_at, trouble } | LaneEffect::Yielded { retry_at, trouble },
            Some(problem),
        ) => LaneState::Failing(LaneTrouble {
            failures: trouble.failures,
            next_probe_at: retry_at,
            first_failed_at: trouble.since,
            problem: problem.stored(now),
        }),
        // Also if nothing was known against it at the start: another attempt may have failed
        // meanwhile.
        (LaneEffect::Works | LaneEffect::Answers, _) => LaneState::Healthy,
        (LaneEffect::Failed { .. } | LaneEffect::Yielded { .. }, None)
        | (LaneEffect::Neutral | LaneEffect::Throttled { .. }, _) => return None,
    };
    Some(LaneUpdate { key: due.lane.clone(), state })
}

/// When the message is due in this lane again, if it is.
fn next_due(
    due: &DueWork,
    decided: &Decided,
    timing: FailureTiming,
    now: Timestamp,
) -> Option<Timestamp> {
    let deferred =
        decided.outcomes.iter().filter_map(|outcome| match change(outcome, timing, now) {
            Change::Deferred(deferral) => Some(deferral.due_at),
            Change::Delivered | Change::Failed | Change::Told(_) => None,
        });
    let rest = (due.work.rest == Rest::Waiting).then_some(now);
    deferred.chain(rest).min()
}
