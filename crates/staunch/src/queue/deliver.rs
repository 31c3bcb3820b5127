//! One attempt from the queue's side: may it be settled, how fresh must it be, what follows from
//! it?

use std::sync::Arc;

use futures_util::future::BoxFuture;
use jiff::Timestamp;
use smtp::HostName;

use super::events::{DueWork, Event, FinishedAttempt, NoRoom};
use super::lanes::{Company, Group, LaneClass, Ticket};
use super::{aftermath, damaged, deadline, settle, store};
use crate::connect::pool::Bottleneck;
use crate::delivery::attempt::{self, AttemptTask, Sessions, Tried};
use crate::delivery::outcome::{self, AgeCounts, AttemptError, Circumstances, LaneEffect};
use crate::delivery::route::{self, Routing};
use crate::delivery::underway::Sending;
use crate::delivery::yielding::Yielding;
use crate::dns::Freshness;
use crate::message::Target;
use crate::queue::facts::QueueFact;
use crate::queue::handle::QueueHandle;
use crate::schedule::{after, dice};

/// How long everything rests while the store cannot promise to settle. Our choice.
const STORE_REST: std::time::Duration = std::time::Duration::from_secs(2);

/// When mail is looked at again that others end: it is gone then. Our choice.
const ENDING_REST: std::time::Duration = std::time::Duration::from_secs(1);

/// What became of an attempt.
#[derive(Debug)]
pub(crate) enum Over {
    /// It is settled, or nothing of it had to be.
    Finished(FinishedAttempt),
    /// It came to nothing, since others of ours have all connections there.
    NoRoom(Box<NoRoom>),
}

/// Tries `due`, which is marked as `sending`, and settles what came of it.
pub(crate) async fn deliver(
    handle: &Arc<QueueHandle>,
    due: DueWork,
    sending: &Sending,
    yielding: &Yielding,
) -> Over {
    match try_and_settle(handle, due, (sending, yielding)).await {
        Ok(finished) => Over::Finished(finished),
        Err(no_room) => Over::NoRoom(no_room),
    }
}

async fn try_and_settle(
    handle: &Arc<QueueHandle>,
    due: DueWork,
    (sending, yielding): (&Sending, &Yielding),
) -> Result<FinishedAttempt, Box<NoRoom>> {
    // Before anything is transmitted: what a peer takes must be settled, or it would be sent again.
    let permit = match handle.spool.settle_permit() {
        Ok(permit) => permit,
        Err(error) => {
            handle.note_store_error(&error);
            QueueFact::StoreFailed {
                error: &error,
                what: "sending pauses: results cannot be stored",
            }
            .tell();
            return Ok(rest(due, handle.now()));
        }
    };
    let due = match still_queued(handle, due, sending).await {
        Ok(due) => due,
        Err(finished) => return Ok(finished),
    };
    let begun = handle.clock.moment();
    if deadline::is_over(&due.work, begun) {
        return Ok(leave(due, begun.now));
    }
    let circumstances = |retry, dice| {
        let ended = handle.clock.moment();
        let age_counts = AgeCounts::for_attempt(begun, ended);
        let (started, now, trouble) = (begun.now, ended.now, due.trouble);
        Circumstances { started, now, age_counts, retry, dice, trouble }
    };
    let targets = &deadline::targets(&due.work, begun);
    let today = handle.config();
    let freshness =
        freshness(handle, &due, targets, &circumstances(&today.delivery.retry, 0)).await;
    let dice = dice();
    let tried = attempt_until_room_is_wanted(handle, &due, (sending, yielding), freshness).await;
    // What is left is ours, and ends by itself.
    yielding.content_begins();
    let (config, result) = match tried {
        Tried::Ended(config, result) => (config, result),
        Tried::Rerouted => return Ok(move_on(due, handle.now())),
        Tried::Withdrawn => return Ok(withdrawn(handle, due)),
    };
    let retry = &config.delivery.retry;
    let decided = match result {
        Ok(answered) => {
            let decided = outcome::decide_answer(targets, &answered, &circumstances(retry, dice));
            settle::Decision { decided, answered: Some(answered), problem: None, down: None }
        }
        Err(error) => {
            if let Some(bottleneck) = error.bottleneck().cloned() {
                let DueWork { lane, work, .. } = due;
                return Err(Box::new(NoRoom { lane, bottleneck, work }));
            }
            let down = error.down().map(|down| Bottleneck::Host(Arc::clone(&down.key)));
            let decided = outcome::decide_failure(targets, &error, &circumstances(retry, dice));
            settle::Decision { decided, answered: None, problem: Some(error.problem()), down }
        }
    };
    let lane_failed = matches!(decided.decided.effect, LaneEffect::Failed { .. });
    let problem = decided.problem.clone();
    let finished = settle::settle(handle, &config, permit, &due, decided).await;
    damaged::hold_if(handle, &due.work, problem.as_ref()).await;
    // What follows is about other mail.
    sending.take_back();
    if let (true, Some(problem), Company::Alone) = (lane_failed, problem, due.company) {
        let counts = AgeCounts::for_attempt(begun, handle.clock.moment());
        let ends_others = freshness == Freshness::Fresh && counts == AgeCounts::Yes;
        let expired_at = ends_others.then_some(begun.now);
        aftermath::lane_failed(handle, config, due.lane, (problem, expired_at, begun)).await;
    }
    Ok(finished)
}

/// Tries `due` for as long as other mail does not need its place.
async fn attempt_until_room_is_wanted(
    handle: &Arc<QueueHandle>,
    due: &DueWork,
    (sending, yielding): (&Sending, &Yielding),
    freshness: Freshness,
) -> Tried {
    // Of a next hop that is known already nothing is to be learnt.
    let told = (due.class == LaneClass::New).then_some(ToldQueue { handle, ticket: due.ticket });
    let sessions = told.as_ref().map(|told| told as &dyn Sessions);
    let task = AttemptTask { lane: &due.lane, work: &due.work, sessions };
    tokio::select! {
        biased;
        tried = attempt::attempt(&handle.outbound, &task, (sending, yielding), freshness) => tried,
        () = yielding.granted() => {
            let error = AttemptError::Yielded { doing: yielding.doing() };
            attempt::ended_without_answer(sending, handle.config(), error)
        }
    }
}

/// The queue wants to know with whom an attempt at an unknown next hop has a session.
struct ToldQueue<'r> {
    handle: &'r QueueHandle,
    ticket: Ticket,
}

impl Sessions for ToldQueue<'_> {
    fn tell<'a>(&'a self, host: Option<&'a HostName>) -> BoxFuture<'a, ()> {
        let event = Event::Session(self.ticket, host.map(Group::of_host));
        Box::pin(self.handle.tell(event))
    }
}

/// A recipient may only be returned for age after an attempt that looked at DNS anew (RFC 8461
/// §8.1). Probes look for the whole lane, so that one attempt can end all that are too old.
async fn freshness(
    handle: &QueueHandle,
    due: &DueWork,
    targets: &[Target],
    circumstances: &Circumstances<'_>,
) -> Freshness {
    if targets.iter().any(|target| circumstances.is_too_old(target.expires_at)) {
        return Freshness::Fresh;
    }
    if due.trouble.is_none() || circumstances.age_counts == AgeCounts::ClockSuspect {
        return Freshness::Cached;
    }
    match store::has_expired(handle, due.lane.clone(), circumstances.started).await {
        Ok(false) => Freshness::Cached,
        Ok(true) | Err(_) => Freshness::Fresh,
    }
}

/// Without those who were taken out of the queue since `due` was read. Nearly always nobody was,
/// and nothing is read.
async fn still_queued(
    handle: &Arc<QueueHandle>,
    mut due: DueWork,
    sending: &Sending,
) -> Result<DueWork, FinishedAttempt> {
    let (message, before) = (due.work.message, due.work.targets.len());
    due.work.targets.retain(|target| !handle.gathering.has(message, target.no));
    if due.work.targets.is_empty() {
        // They have failed, and end in a moment.
        return Err(leave(due, handle.now()));
    }
    if due.work.targets.len() < before {
        sending.narrow(due.work.targets.iter().map(|target| target.no).collect());
    }
    match store::keep_queued(handle, &due.lane, &mut due.work, sending).await {
        Ok(()) if due.work.targets.is_empty() => Err(withdrawn(handle, due)),
        Ok(()) => Ok(due),
        Err(error) => {
            QueueFact::StoreFailed {
                error: &error,
                what: "it is not known who is still in the queue",
            }
            .tell();
            Err(rest(due, handle.now()))
        }
    }
}

/// The operator took it out of the queue, or some of its recipients. Nothing was tried, so nothing
/// is written; who is left is due as before.
fn withdrawn(handle: &QueueHandle, due: DueWork) -> FinishedAttempt {
    FinishedAttempt {
        place: route::place(&handle.config(), &due.lane, &due.work),
        lane: due.lane,
        message: due.work.message,
        effect: LaneEffect::Neutral,
        due: Some(handle.now()),
        pause: None,
        took: None,
        cause: None,
        down: None,
    }
}

/// Leaves `due` to the task that ends it.
fn leave(due: DueWork, now: Timestamp) -> FinishedAttempt {
    FinishedAttempt {
        lane: due.lane,
        message: due.work.message,
        effect: LaneEffect::Neutral,
        due: Some(after(now, ENDING_REST)),
        pause: None,
        took: None,
        cause: None,
        down: None,
        place: Routing::Current,
    }
}

/// Leaves `due` to who moves mail that has another next hop today. Nothing was tried, so nothing is
/// written.
fn move_on(due: DueWork, now: Timestamp) -> FinishedAttempt {
    FinishedAttempt {
        lane: due.lane,
        message: due.work.message,
        effect: LaneEffect::Neutral,
        due: Some(now),
        pause: None,
        took: None,
        cause: None,
        down: None,
        place: Routing::Stale,
    }
}

fn rest(due: DueWork, now: Timestamp) -> FinishedAttempt {
    let until = after(now, STORE_REST);
    FinishedAttempt {
        lane: due.lane,
        message: due.work.message,
        effect: LaneEffect::Neutral,
        due: Some(until),
        pause: Some(until),
        took: None,
        cause: None,
        down: None,
        place: Routing::Current,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use smtp::{Mailbox, ReversePath};
    use spool::{
        MessageId, MessageOptions, NewRecipient, RecipientNo, RecipientOptions, RecipientState,
        Selection, StoredEnvelope,
    };

    use super::super::lanes::{LaneClass, Ticket};
    use super::super::stage::{BODY, Stage, lane};
    use super::super::stop::{self, TakenOut, Verb};
    use super::*;
    use crate::clock;
    use crate::message::{Work, facts_of};

    fn commit(stage: &Stage, to: &[&str]) -> MessageId {
        let now = clock::now();
        let recipient = |address: &&str| NewRecipient {
            mailbox: Mailbox::parse(address).unwrap(),
            lane: lane("a.test"),
            options: RecipientOptions::default(),
            state: RecipientState::Queued,
        };
        stage.commit(StoredEnvelope {
            sender: ReversePath::parse("s@sender.test").unwrap(),
            recipients: to.iter().map(recipient).collect(),
            arrived_at: now,
            expires_at: after(now, std::time::Duration::from_secs(9_000)),
            client: "test".into(),
            facts: facts_of(BODY),
            options: MessageOptions::default(),
        })
    }

    /// What the lane reads.
    async fn fetched(stage: &Stage) -> DueWork {
        let (none, now) = (HashSet::new(), clock::now());
        let found = store::fetch(&stage.handle, lane("a.test"), &none, (64, now)).await.unwrap();
        let [work] = <[Work; 1]>::try_from(found.work).unwrap();
        let (lane, company) = (lane("a.test"), Company::Others);
        DueWork { lane, ticket: Ticket::ALONE, class: LaneClass::New, trouble: None, company, work }
    }

    async fn to_whom(stage: &Stage, due: DueWork) -> Vec<String> {
        let recipients = due.work.targets.iter().map(|target| target.no).collect();
        let sending = stage.handle.underway.begin(due.work.message, recipients);
        match still_queued(&stage.handle, due, &sending).await {
            Ok(due) => due.work.targets.iter().map(|t| t.mailbox.to_string()).collect(),
            Err(_) => Vec::new(),
        }
    }

    /// It was read, or had just arrived, when the operator's command came.
    #[tokio::test]
    async fn what_is_in_memory_is_not_sent_to_who_was_taken_out_of_the_queue() {
        for verb in [Verb::Hold { why: None }, Verb::Delete, Verb::Bounce] {
            let stage = Stage::new();
            let message = commit(&stage, &["x@a.test"]);
            let due = fetched(&stage).await;
            assert_eq!(due.work.as_of, stage.handle.underway.removals(), "nothing is read twice");
            let selection = Selection::Messages(vec![message]);
            let taken = stop::take_out(&stage.handle, verb, selection, &|_| ()).await.unwrap();
            assert_eq!(taken, TakenOut { count: 1, being_sent: 0 });
            assert!(to_whom(&stage, due).await.is_empty(), "{verb:?}");
        }
    }

    #[tokio::test]
    async fn who_was_not_meant_is_still_sent_to() {
        let stage = Stage::new();
        let message = commit(&stage, &["x@a.test", "y@a.test"]);
        let due = fetched(&stage).await;
        stage.handle.spool.hold_these(vec![(message, RecipientNo(0))]).unwrap();
        stage.handle.underway.note_removal();
        assert_eq!(to_whom(&stage, due).await, ["y@a.test"]);
    }

    /// Its outcome is being written down: nobody is told that it is held and finds it returned.
    #[tokio::test]
    async fn an_attempt_that_has_failed_cannot_be_withdrawn_any_more() {
        let stage = Stage::new();
        let message = commit(&stage, &["x@[192.0.2.1]"]);
        let (due, yielding) = (fetched(&stage).await, &Yielding::default());
        let task = &AttemptTask { lane: &due.lane, work: &due.work, sessions: None };
        let sending = stage.handle.underway.begin(message, vec![RecipientNo(0)]);
        let tried =
            attempt::attempt(&stage.handle.outbound, task, (&sending, yielding), Freshness::Cached)
                .await;
        assert!(matches!(tried, Tried::Ended(_, Err(_))), "{tried:?}");
        assert_eq!(stage.handle.underway.remove(&[(message, RecipientNo(0))]).len(), 1);
        drop(sending);

        let sending = stage.handle.underway.begin(message, vec![RecipientNo(0)]);
        stage.handle.underway.remove(&[(message, RecipientNo(0))]);
        let tried =
            attempt::attempt(&stage.handle.outbound, task, (&sending, yielding), Freshness::Cached)
                .await;
        assert!(matches!(tried, Tried::Withdrawn), "{tried:?}");
    }

    /// Mail and DSNs that come after the command are not meant by it.
    #[tokio::test]
    async fn what_comes_later_is_not_meant() {
        let stage = Stage::new();
        commit(&stage, &["x@a.test"]);
        let meant = stop::up_to_now(&stage.handle, spool::Filter::default()).await.unwrap();
        commit(&stage, &["y@a.test"]);
        let taken = stop::take_out(
            &stage.handle,
            Verb::Delete,
            Selection::Matching(meant.clone()),
            &|_| (),
        );
        assert_eq!(taken.await.unwrap().count, 2, "a command of its own means all");
        commit(&stage, &["z@a.test"]);
        assert!(stage.handle.spool.list(&meant, None, 10).unwrap().rows.is_empty());
    }

    /// While its mail is at a host, it is neither held nor deleted, nor said to be.
    #[tokio::test]
    async fn what_is_being_sent_stays_as_it_is() {
        for verb in [Verb::Hold { why: None }, Verb::Delete, Verb::Bounce] {
            let stage = Stage::new();
            let message = commit(&stage, &["x@a.test", "y@a.test"]);
            let before = stage.queue();
            let sending = stage.handle.underway.begin(message, vec![RecipientNo(0)]);
            assert!(sending.hand_over());
            let selection = Selection::Messages(vec![message]);
            let taken = stop::take_out(&stage.handle, verb, selection, &|_| ()).await.unwrap();
            assert_eq!(taken, TakenOut { count: 1, being_sent: 1 }, "{verb:?}");
            let after: Vec<_> =
                stage.queue().into_iter().filter(|row| row.no == RecipientNo(0)).collect();
            assert_eq!(after.first(), before.first(), "{verb:?}");
        }
    }
}
