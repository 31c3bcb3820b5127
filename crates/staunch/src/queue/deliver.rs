//! One attempt from the queue's side: may it be settled, how fresh must it be, what follows from it?

use std::sync::Arc;

use jiff::Timestamp;

use super::lanes::{Company, Effect};
use super::work::{Due, Target};
use super::{Finished, Place, deadline, settle, store};
use crate::attempt::{self, Tried};
use crate::outcome::{self, AgeCounts, Circumstances};
use crate::relay::{Relay, dice};
use crate::resolve::Freshness;
use crate::schedule::after;

/// How long everything rests while the store cannot promise to settle. Ours.
const STORE_REST: std::time::Duration = std::time::Duration::from_secs(2);

/// When mail is looked at again whose deadline is over: it is gone then. Ours.
const DEADLINE_REST: std::time::Duration = std::time::Duration::from_secs(1);

/// Tries `due` and settles what came of it.
pub(crate) async fn deliver(relay: &Arc<Relay>, due: Due) -> Finished {
    // Before anything is transmitted: what a peer takes must be settled, or it would be sent again.
    let permit = match relay.spool.settle_permit() {
        Ok(permit) => permit,
        Err(error) => {
            relay.note_store_error(&error);
            tracing::error!(event = "store_failed", %error, "sending pauses: results cannot be stored");
            return rest(due, relay.now());
        }
    };
    let begun = relay.clock.moment();
    if deadline::is_over(&due.work, begun) {
        return leave(due, begun.now);
    }
    let circumstances = |retry, dice| {
        let ended = relay.clock.moment();
        let age_counts = AgeCounts::for_attempt(begun, ended);
        let (started, now, trouble) = (begun.now, ended.now, due.trouble);
        Circumstances { started, now, age_counts, retry, dice, trouble }
    };
    let targets = &deadline::targets(&due.work, begun);
    let today = relay.config();
    let freshness = freshness(relay, &due, targets, &circumstances(&today.delivery.retry, 0)).await;
    let dice = dice();
    let (config, result) = match attempt::attempt(relay, &due, freshness).await {
        Tried::Ended(config, result) => (config, result),
        Tried::Astray => return move_on(due, relay.now()),
    };
    let retry = &config.delivery.retry;
    let decided = match result {
        Ok(answered) => {
            let decided = outcome::decide_answer(targets, &answered, &circumstances(retry, dice));
            settle::Decision { decided, answered: Some(answered), problem: None }
        }
        Err(error) => {
            let decided = outcome::decide_failure(targets, &error, &circumstances(retry, dice));
            settle::Decision { decided, answered: None, problem: Some(error.problem()) }
        }
    };
    let lane_failed = matches!(decided.decided.effect, Effect::Failed { .. });
    let problem = decided.problem.clone();
    let finished = settle::settle(relay, &config, permit, &due, decided).await;
    if let (true, Some(problem), Company::Alone) = (lane_failed, problem, due.company) {
        let counts = AgeCounts::for_attempt(begun, relay.clock.moment());
        if freshness == Freshness::Fresh && counts == AgeCounts::Yes {
            settle::return_expired(relay, &config, &due, &problem, begun.now).await;
        }
        deadline::lane_failed(relay, &due.lane, begun).await;
        settle::tell_of_delays(relay, &config, &due, &problem).await;
    }
    finished
}

/// A recipient may only be returned for age after an attempt that looked at DNS anew
/// (RFC 8461 §8.1). Probes look for the whole lane, so that one attempt can end all that are too old.
async fn freshness(
    relay: &Relay,
    due: &Due,
    targets: &[Target],
    circumstances: &Circumstances<'_>,
) -> Freshness {
    if targets.iter().any(|target| circumstances.is_too_old(target.expires_at)) {
        return Freshness::Fresh;
    }
    if due.trouble.is_none() || circumstances.age_counts == AgeCounts::ClockSuspect {
        return Freshness::Cached;
    }
    match store::has_expired(relay, due.lane.clone(), circumstances.started).await {
        Ok(false) => Freshness::Cached,
        Ok(true) | Err(_) => Freshness::Fresh,
    }
}

/// Leaves `due` to the task that deals with deadlines.
fn leave(due: Due, now: Timestamp) -> Finished {
    Finished {
        lane: due.lane,
        message: due.work.message,
        effect: Effect::Neutral,
        due: Some(after(now, DEADLINE_REST)),
        pause: None,
        place: Place::Right,
    }
}

/// Leaves `due` to who moves mail that has another next hop today. Nothing was tried, so nothing is written.
fn move_on(due: Due, now: Timestamp) -> Finished {
    Finished {
        lane: due.lane,
        message: due.work.message,
        effect: Effect::Neutral,
        due: Some(now),
        pause: None,
        place: Place::Astray,
    }
}

fn rest(due: Due, now: Timestamp) -> Finished {
    let until = after(now, STORE_REST);
    Finished {
        lane: due.lane,
        message: due.work.message,
        effect: Effect::Neutral,
        due: Some(until),
        pause: Some(until),
        place: Place::Right,
    }
}
