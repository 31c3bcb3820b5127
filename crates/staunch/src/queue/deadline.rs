//! Mail with a deadline (RFC 2852): what was not delivered by then is returned, or its sender is told.
//!
//! Whoever asked for it to be returned does not want it late, so from its deadline on it is not tried any
//! more ([`is_over`]), also while its lane waits for a next hop; only this task ends it then. An attempt
//! that began in time is not broken off.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use smtp::params::ByMode;
use spool::{Deadline, Overdue, OverduePage, StoreError, Told};
use tokio_util::sync::CancellationToken;

use super::work::Work;
use super::{Event, settle, store};
use crate::clock;
use crate::outcome::{AgeCounts, Problem, Reason};
use crate::relay::Relay;

/// The longest sleep: a clock that is set must not make anybody oversleep for long.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// When something is looked at again that could not be dealt with: an attempt is under way, or the store
/// does not answer. Ours.
const AGAIN: Duration = Duration::from_secs(1);
/// Recipients read at once.
const PAGE: usize = 1_000;

/// Is the time over in which `work` may be tried?
pub(super) fn is_over(relay: &Relay, work: &Work, now: Timestamp) -> bool {
    let ends = work.options.deliver_by.is_some_and(|deadline| match deadline.mode {
        ByMode::Return => deadline.at <= now,
        ByMode::Notify => false,
    });
    ends && relay.age_counts() == AgeCounts::Yes
}

/// Deals with deadlines until `stop`.
pub(crate) async fn watch(relay: Arc<Relay>, stop: CancellationToken) {
    loop {
        let wait = look(&relay).await;
        tokio::select! {
            () = stop.cancelled() => return,
            () = relay.deadlines.notified() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Deals with what is overdue; returns how long nothing else will be.
async fn look(relay: &Arc<Relay>) -> Duration {
    // Nothing ends by a clock that may be wrong.
    if relay.age_counts() == AgeCounts::ClockSuspect {
        return LOOK_EVERY;
    }
    let now = clock::now();
    let dealt_with = async {
        let is_done = sweep(relay, now).await?;
        let next = ask(relay, |spool| spool.next_deadline()).await?;
        Ok::<_, StoreError>((is_done, next))
    };
    match dealt_with.await {
        Ok((true, None)) => LOOK_EVERY,
        Ok((true, Some(next))) => {
            let wait = Duration::try_from(next.duration_since(clock::now()));
            // A little more, so that it is not woken just before the time.
            (wait.unwrap_or_default() + Duration::from_millis(1)).clamp(AGAIN, LOOK_EVERY)
        }
        Ok((false, _)) => AGAIN,
        Err(error) => {
            tracing::error!(event = "store_failed", %error, "deadlines cannot be read");
            AGAIN
        }
    }
}

/// Deals with all that is overdue at `now`; `false` if something was left for later.
async fn sweep(relay: &Arc<Relay>, now: Timestamp) -> Result<bool, StoreError> {
    let mut is_done = true;
    let mut seen = HashSet::new();
    let mut after = None;
    loop {
        let OverduePage { overdue, next } =
            ask(relay, move |spool| spool.overdue(now, after, PAGE)).await?;
        for which in overdue {
            if seen.insert(which.clone()) {
                is_done &= deal_with(relay, which, now).await?;
            }
        }
        after = next;
        if after.is_none() {
            return Ok(is_done);
        }
    }
}

/// Returns the message to its sender, or tells them; `false` if that is for later.
async fn deal_with(relay: &Arc<Relay>, which: Overdue, now: Timestamp) -> Result<bool, StoreError> {
    let (message, lane) = which.clone();
    if relay.is_sending(message, &lane) {
        return Ok(false);
    }
    let page = ask(relay, move |spool| spool.overdue_of(&which, now)).await?;
    let Some(work) = page.due.into_iter().next().and_then(store::whole) else { return Ok(true) };
    let Some(deadline) = work.options.deliver_by else { return Ok(true) };
    let Ok(permit) = relay.spool.settle_permit() else { return Ok(false) };
    let config = relay.config();
    let problem = problem(&deadline);
    match deadline.mode {
        ByMode::Return => settle::fail(relay, &config, permit, &work, &problem).await,
        ByMode::Notify => {
            let told = (&problem, Told::Deadline);
            settle::tell_delay(relay, &config, permit, &work, told).await;
        }
    }
    // What of it is in memory is not there any more, or knows less than the store.
    relay.tell_queue(Event::Removed(vec![lane])).await;
    Ok(true)
}

fn problem(deadline: &Deadline) -> Problem {
    let text = format!("it was to be delivered by {}, which it was not", deadline.at);
    Problem::new(Reason::Expired, &text)
}

async fn ask<T: Send + 'static>(
    relay: &Relay,
    question: impl FnOnce(&spool::Spool) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let spool = relay.spool.clone();
    tokio::task::spawn_blocking(move || question(&spool)).await.unwrap_or(Err(StoreError::Closed))
}
