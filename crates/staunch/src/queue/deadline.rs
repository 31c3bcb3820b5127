//! Mail with a deadline (RFC 2852): what was not delivered by then is returned, or its sender is
//! told.
//!
//! Whoever asked for it to be returned does not want it late, so from its deadline on it is not
//! tried any more ([`is_over`]), also while its lane waits for a next hop; only this task ends it
//! then. An attempt that began in time is not broken off.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};
use jiff::Timestamp;
use policy::clock::{ClockTrust, Moment};
use smtp::params::ByMode;
use spool::{
    Deadline, LaneKey, MessageDetail, Overdue, OverduePage, RecipientState, StoreError, Told,
};
use tokio_util::sync::CancellationToken;

use crate::delivery::outcome::AgeCounts;
use crate::message::{Target, Work};
use crate::queue::events::Event;
use crate::queue::facts::QueueFact;
use crate::queue::handle::{ENDED_AT_ONCE, QueueHandle};
use crate::queue::{settle, store};
use crate::telemetry::{Problem, Reason};

/// The longest sleep: a clock that is set must not make anybody oversleep for long.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// When something is looked at again that could not be dealt with: an attempt is under way, or the
/// store does not answer. Our choice.
const AGAIN: Duration = Duration::from_secs(1);
/// Recipients read at once.
const PAGE: usize = 1_000;

/// Is the time over in which `work` may be tried?
pub(super) fn is_over(work: &Work, moment: Moment) -> bool {
    work.options.deliver_by.is_some_and(|deadline| {
        deadline.mode == ByMode::Return && state_of(&deadline, moment) == DeadlineState::Over
    })
}

/// What a deadline means now.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum DeadlineState {
    /// It is to come, or nobody knows.
    Ahead,
    /// It passed while the clock was in doubt, or when it was set right: it counts after one more
    /// attempt.
    Unseen,
    /// It passed while the clock was trusted.
    Over,
}

fn state_of(deadline: &Deadline, moment: Moment) -> DeadlineState {
    match moment.clock {
        ClockTrust::Trusted if deadline.at <= moment.trusted_since => DeadlineState::Unseen,
        ClockTrust::Trusted if deadline.at <= moment.now => DeadlineState::Over,
        ClockTrust::Trusted | ClockTrust::Suspect => DeadlineState::Ahead,
    }
}

/// The recipients of `work` as the outcome of an attempt that begins now is to see them: if it
/// fails, whose deadline nobody saw pass is returned like who is too old.
pub(super) fn targets(work: &Work, begun: Moment) -> Vec<Target> {
    let unseen = work.options.deliver_by.filter(|deadline| {
        deadline.mode == ByMode::Return && state_of(deadline, begun) == DeadlineState::Unseen
    });
    let mut targets = work.targets.clone();
    if let Some(deadline) = unseen {
        targets
            .iter_mut()
            .for_each(|target| target.expires_at = target.expires_at.min(deadline.at));
    }
    targets
}

/// An attempt that `begun` so spoke for the whole of `lane`, and failed: deadlines there that
/// nobody saw pass count now. Nothing else of the lane may be under way.
pub(super) async fn lane_failed(handle: &Arc<QueueHandle>, lane: &LaneKey, begun: Moment) {
    let since = begun.trusted_since;
    if since == Timestamp::MIN
        || AgeCounts::for_attempt(begun, handle.clock.moment()) == AgeCounts::ClockSuspect
    {
        return;
    }
    let tried = Moment { trusted_since: Timestamp::MIN, ..begun };
    if let Err(error) = sweep(handle, tried, |which| which.1 == *lane).await {
        QueueFact::StoreFailed { error: &error, what: "deadlines cannot be read" }.tell();
    }
}

/// Deals with deadlines until `stop`.
pub(crate) async fn watch(handle: Arc<QueueHandle>, stop: CancellationToken) {
    loop {
        let wait = look(&handle).await;
        tokio::select! {
            () = stop.cancelled() => return,
            () = handle.deadlines.notified() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Deals with what is overdue; returns how long nothing else will be.
async fn look(handle: &Arc<QueueHandle>) -> Duration {
    look_at(handle, handle.clock.moment()).await
}

async fn look_at(handle: &Arc<QueueHandle>, moment: Moment) -> Duration {
    // Nothing ends by a clock that may be wrong.
    match moment.clock {
        ClockTrust::Trusted => {}
        ClockTrust::Suspect => return LOOK_EVERY,
    }
    let dealt_with = async {
        let is_done = sweep(handle, moment, |_| true).await?;
        // What is left of those before it is left for its next attempt.
        let next = handle.ask(move |spool| spool.next_deadline(moment.now)).await?;
        Ok::<_, StoreError>((is_done, next))
    };
    match dealt_with.await {
        Ok((true, None)) => LOOK_EVERY,
        Ok((true, Some(next))) => {
            let wait = Duration::try_from(next.duration_since(handle.now()));
            // A little more, so that it is not woken just before the time.
            (wait.unwrap_or_default() + Duration::from_millis(1)).clamp(AGAIN, LOOK_EVERY)
        }
        Ok((false, _)) => AGAIN,
        Err(error) => {
            QueueFact::StoreFailed { error: &error, what: "deadlines cannot be read" }.tell();
            AGAIN
        }
    }
}

/// Deals with all of `whose` that is overdue at `moment`; `false` if something was left for soon.
async fn sweep(
    handle: &Arc<QueueHandle>,
    moment: Moment,
    whose: impl Fn(&Overdue) -> bool,
) -> Result<bool, StoreError> {
    let now = moment.now;
    let mut is_done = true;
    let mut seen = HashSet::new();
    let mut after = None;
    loop {
        let OverduePage { overdue, next } =
            handle.ask(move |spool| spool.overdue(now, after, PAGE)).await?;
        let new = overdue.into_iter().filter(|which| whose(which) && seen.insert(which.clone()));
        let dealings = new.map(|which| deal_with(handle, which, moment));
        let mut dealings = stream::iter(dealings).buffer_unordered(ENDED_AT_ONCE);
        while let Some(is_dealt_with) = dealings.next().await {
            is_done &= is_dealt_with?;
        }
        drop(dealings);
        after = next;
        if after.is_none() {
            return Ok(is_done);
        }
    }
}

/// Returns the message to its sender, or tells them; `false` if that is for later.
async fn deal_with(
    handle: &Arc<QueueHandle>,
    which: Overdue,
    moment: Moment,
) -> Result<bool, StoreError> {
    let now = moment.now;
    let (message, lane) = which.clone();
    let as_of = handle.underway.removals();
    let page = handle.ask(move |spool| spool.overdue_of(&which, now)).await?;
    let Some(work) = page.due.into_iter().next().and_then(store::whole) else { return Ok(true) };
    if work.any(|target| handle.gathering.has(message, target.no)) {
        return Ok(true);
    }
    if work.any(|target| handle.underway.is_sending(message, target.no)) {
        return Ok(false);
    }
    let Some(deadline) = work.options.deliver_by else { return Ok(true) };
    if deadline.mode == ByMode::Return && state_of(&deadline, moment) != DeadlineState::Over {
        return Ok(true);
    }
    let before = handle.ask(move |spool| spool.show(message)).await?;
    let Ok(permit) = handle.spool.settle_permit() else { return Ok(false) };
    let config = handle.config();
    let problem = problem(&deadline, before.as_ref());
    match deadline.mode {
        ByMode::Return => {
            let recipients = work.targets.iter().map(|target| target.no).collect();
            let sending = handle.underway.begin(message, recipients);
            // The operator took mail out of the queue since it was read, or comes first now.
            if !sending.is_as(as_of) || !sending.hand_over() {
                return Ok(false);
            }
            // What waits for others ends only if nobody holds it meanwhile; here also what is held
            // ends.
            if has_held(&work, before.as_ref()) {
                settle::fail(handle, &config, permit, (&work, &lane), &problem).await;
            } else {
                settle::fail_soon(handle, &config, permit, (&work, &lane), &problem).await;
            }
        }
        ByMode::Notify => {
            let told = (&problem, Told::Deadline);
            settle::tell_delay(handle, &config, permit, &work, told).await;
        }
    }
    // What of it is in memory is not there any more, or knows less than the store.
    handle.tell(Event::Removed(vec![lane])).await;
    Ok(true)
}

/// Is one of the recipients held?
fn has_held(work: &Work, message: Option<&MessageDetail>) -> bool {
    let held = message
        .into_iter()
        .flat_map(|message| &message.recipients)
        .filter(|row| row.state == RecipientState::Held);
    let held: HashSet<_> = held.map(|row| row.no).collect();
    work.any(|target| held.contains(&target.no))
}

/// That the time is over, and what stood in the way.
fn problem(deadline: &Deadline, message: Option<&MessageDetail>) -> Problem {
    let over = format!("it was to be delivered by {}, which it was not", deadline.at);
    let cause = message.and_then(|message| message.recipients.iter().find_map(|r| r.last.as_ref()));
    match cause {
        Some(last) => {
            let text = format!("{over}; before that: {} {}", last.reason, last.text);
            Problem::new(Reason::Expired, &text)
        }
        None => Problem::new(Reason::Expired, &over),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use jiff::SignedDuration;
    use smtp::params::Notify;
    use smtp::{Mailbox, ReversePath};
    use spool::{
        LaneState, LaneTrouble, LaneUpdate, MessageId, MessageOptions, NewRecipient, RecipientNo,
        RecipientOptions, StoredEnvelope,
    };

    use super::super::stage::{BODY, Stage, lane};
    use super::*;
    use crate::clock;
    use crate::message::facts_of;

    /// A message for two domains, and one recipient held, whose deadline was a second ago.
    fn commit(stage: &Stage, mode: ByMode) -> MessageId {
        commit_until(stage, mode, clock::now() - SignedDuration::from_secs(1))
    }

    fn commit_until(stage: &Stage, mode: ByMode, at: Timestamp) -> MessageId {
        let now = clock::now();
        let recipient = |address: &str, notify: Option<&str>, state| {
            let mailbox = Mailbox::parse(address).unwrap();
            let lane = lane(&mailbox.domain().to_string());
            let notify = notify.map(|text| Notify::parse(text).unwrap());
            let options = RecipientOptions { notify, ..RecipientOptions::default() };
            NewRecipient { mailbox, lane, options, state }
        };
        stage.commit(StoredEnvelope {
            sender: ReversePath::parse("s@sender.test").unwrap(),
            recipients: vec![
                recipient("a@a.test", None, RecipientState::Queued),
                recipient("b@b.test", None, RecipientState::Queued),
                recipient("held@a.test", None, RecipientState::Held),
                recipient("silent@a.test", Some("NEVER"), RecipientState::Queued),
            ],
            arrived_at: now - SignedDuration::from_secs(60),
            expires_at: now + SignedDuration::from_secs(9_000),
            client: "test".into(),
            facts: facts_of(BODY),
            options: MessageOptions {
                deliver_by: Some(Deadline { at, mode, trace: false }),
                ..MessageOptions::default()
            },
        })
    }

    /// What the lanes wait for does not matter, and neither that somebody is held.
    #[tokio::test]
    async fn ext_13_mode_r_returns_all_that_is_left() {
        let stage = Stage::new();
        commit(&stage, ByMode::Return);
        let (now, done) = (clock::now(), mpsc::channel());
        let trouble = LaneTrouble {
            failures: 3,
            next_probe_at: now + SignedDuration::from_secs(3_600),
            first_failed_at: now,
            problem: Problem::new(Reason::ConnectFailed, "down").stored(now),
        };
        let update = LaneUpdate { key: lane("a.test"), state: LaneState::Failing(trouble) };
        stage.handle.spool.update_lane(update, move |result| done.0.send(result).unwrap());
        done.1.recv().unwrap().unwrap();
        assert_eq!(look(&stage.handle).await, LOOK_EVERY, "nothing is left to be done");
        stage.end_what_is_gathered().await;
        let (dsns, others) = stage.recipients();
        // One for each lane, since somebody was held, and not about those that are not to be told
        // of.
        assert_eq!((dsns, others), (vec!["s@sender.test".to_owned(); 2], Vec::new()));
        let text: Vec<String> = stage
            .queue()
            .iter()
            .map(|row| match stage.handle.spool.body(row.message).unwrap() {
                spool::StoredBody::Memory(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
                spool::StoredBody::File { .. } => panic!("a small notice is in memory"),
            })
            .collect();
        let all = text.concat();
        assert_eq!(all.matches("Action: failed").count(), 3, "{all}");
        assert_eq!(all.matches("Status: 5.4.7\r\n").count(), 3, "{all}");
        assert!(!all.contains("silent@"), "{all}");
    }

    #[tokio::test]
    async fn ext_13_mode_n_tells_once_and_keeps_all() {
        let stage = Stage::new();
        commit(&stage, ByMode::Notify);
        look(&stage.handle).await;
        look(&stage.handle).await;
        let (dsns, others) = stage.recipients();
        assert_eq!(dsns.len(), 2, "one for each lane, once");
        assert_eq!(others.len(), 4);
        assert_eq!(stage.handle.spool.next_deadline(Timestamp::UNIX_EPOCH).unwrap(), None);
        let late = clock::now() + SignedDuration::from_secs(9_000);
        let page = stage.handle.spool.unwarned(&lane("a.test"), late, None, 10).unwrap();
        assert!(page.due.is_empty(), "they need no other notice of delay");
    }

    #[tokio::test]
    async fn what_is_under_way_is_left_to_its_attempt() {
        let stage = Stage::new();
        let message = commit(&stage, ByMode::Return);
        let sending = stage.handle.underway.begin(message, vec![RecipientNo(1)]);
        assert_eq!(look(&stage.handle).await, AGAIN);
        stage.end_what_is_gathered().await;
        assert_eq!(stage.recipients().1, ["b@b.test"]);
        drop(sending);
        look(&stage.handle).await;
        assert!(stage.recipients().1.is_empty());
    }

    /// It may have passed only because the clock is another one now.
    #[tokio::test]
    async fn a_deadline_that_nobody_saw_pass_counts_after_one_more_attempt() {
        let stage = Stage::new();
        commit(&stage, ByMode::Return);
        let now = clock::now();
        let page = stage.handle.spool.next(&lane("b.test"), now, None, 10).unwrap();
        let work = page.due.into_iter().next().and_then(store::whole).unwrap();
        let seen = Moment::undoubted(now);
        let unseen = Moment { trusted_since: now, ..seen };
        let suspect = Moment { clock: ClockTrust::Suspect, ..seen };
        let of_lanes = |all: &[Target]| all.iter().map(|t| t.expires_at <= now).collect::<Vec<_>>();
        for (moment, over, ends) in
            [(seen, true, false), (unseen, false, true), (suspect, false, false)]
        {
            assert_eq!(is_over(&work, moment), over, "{moment:?}");
            assert_eq!(of_lanes(&targets(&work, moment)), [ends], "{moment:?}");
        }

        assert!(
            sweep(&stage.handle, unseen, |_| true).await.unwrap(),
            "nothing is to be done soon"
        );
        assert_eq!(stage.recipients().1.len(), 4, "all are still there");
        lane_failed(&stage.handle, &lane("a.test"), unseen).await;
        assert_eq!(stage.recipients().1.len(), 4, "the clock of the attempt is not that of today");
        let tried = |which: &Overdue| which.1 == lane("a.test");
        sweep(&stage.handle, seen, tried).await.unwrap();
        stage.end_what_is_gathered().await;
        assert_eq!(stage.recipients().1, ["b@b.test"], "its lane was not tried");
    }

    #[tokio::test]
    async fn a_deadline_that_is_left_for_an_attempt_hides_no_other() {
        let stage = Stage::new();
        commit(&stage, ByMode::Return);
        let now = clock::now();
        let unseen = Moment { trusted_since: now, ..Moment::undoubted(now) };
        assert_eq!(look_at(&stage.handle, unseen).await, LOOK_EVERY);
        commit_until(&stage, ByMode::Return, now + SignedDuration::from_secs(5));
        let wait = look_at(&stage.handle, unseen).await;
        assert!(wait < Duration::from_secs(6), "{wait:?}");
        assert_eq!(stage.recipients().1.len(), 8, "nothing is over");
    }

    #[tokio::test]
    async fn only_mode_r_stops_attempts_at_the_deadline() {
        let stage = Stage::new();
        for (mode, want) in [(ByMode::Return, true), (ByMode::Notify, false)] {
            commit(&stage, mode);
            let late = clock::now() + SignedDuration::from_secs(60);
            let page = stage.handle.spool.next(&lane("b.test"), late, None, 10).unwrap();
            let work = page.due.into_iter().next_back().and_then(store::whole).unwrap();
            assert_eq!(is_over(&work, Moment::undoubted(clock::now())), want);
            let before = clock::now() - SignedDuration::from_secs(30);
            assert!(!is_over(&work, Moment::undoubted(before)));
        }
    }
}
