//! Owns the order in which mail is tried: one task, the only one that changes [`lanes::Lanes`].
//!
//! It waits for nothing but its events and the clock. Reading the store, trying and settling happen
//! in tasks of their own, which report back; so no domain, however slow, holds the others up.

pub(crate) mod deliver;
pub(crate) mod intake;
mod lane;
pub(crate) mod lanes;
pub(crate) mod notice;
pub(crate) mod settle;
pub(crate) mod store;
pub(crate) mod work;

use std::collections::HashSet;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use jiff::Timestamp;
use spool::{LaneKey, LaneState, MessageId, RecipientNo, StoreError};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::config::Config;
use crate::relay::Relay;
use crate::schedule::after;
use lanes::{Action, Effect, Lanes, Limits, Trouble};
use work::{Due, Work};

/// Events that may wait for the queue task. Ours: it handles far more in the time of one sync.
pub(crate) const EVENTS_MAX: usize = 4_096;
/// The longest sleep: a clock that is set must not make the queue oversleep for long.
const SLEEP_MAX: Duration = Duration::from_secs(30);
/// When a lane is read again after the store could not be read.
const STORE_REST: Duration = Duration::from_secs(5);
/// When a message is tried again whose attempt ended in a bug of ours.
const BUG_REST: Duration = Duration::from_secs(300);

/// What the queue task is told.
#[derive(Debug)]
pub(crate) enum Event {
    /// Mail was committed.
    Arrived(Vec<(LaneKey, Work)>),
    /// The store was read for a lane.
    Fetched {
        /// Which.
        lane: LaneKey,
        /// What is due, and when something else will be.
        found: Result<store::Found, StoreError>,
    },
    /// An attempt is over and settled.
    Finished(Finished),
    /// The operator wants a lane tried now.
    RetryNow(LaneKey),
    /// The operator took mail of these lanes out of the store.
    Removed(Vec<LaneKey>),
    /// The configuration is another one.
    Reconfigured,
}

/// What an attempt left behind.
#[derive(Debug)]
pub(crate) struct Finished {
    /// The lane.
    pub(crate) lane: LaneKey,
    /// The message.
    pub(crate) message: MessageId,
    /// What the lane learnt.
    pub(crate) effect: Effect,
    /// When the soonest of the recipients that are left is due.
    pub(crate) due: Option<Timestamp>,
    /// Nothing starts before this: the trouble is ours.
    pub(crate) pause: Option<Timestamp>,
}

/// The queue task's own state.
#[derive(Debug)]
pub(crate) struct Queue {
    relay: Arc<Relay>,
    lanes: Lanes<Work>,
    events: mpsc::Receiver<Event>,
}

fn limits(config: &Config) -> Limits {
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Limits {
        per_lane: count(config.delivery.connections_per_domain),
        total: count(config.delivery.connections),
    }
}

impl Queue {
    /// Takes up the lanes that the store remembers.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when they cannot be read.
    pub(crate) fn open(
        relay: Arc<Relay>,
        events: mpsc::Receiver<Event>,
    ) -> Result<Self, StoreError> {
        let mut lanes = Lanes::new(limits(&relay.config()));
        let summaries = relay.spool.lanes()?;
        for summary in summaries {
            let back_off = match summary.state {
                LaneState::Healthy => None,
                LaneState::Failing(trouble) => {
                    let row =
                        Trouble { failures: trouble.failures, since: trouble.first_failed_at };
                    Some((row, trouble.next_probe_at))
                }
            };
            lanes.restore(summary.key, back_off, summary.earliest_due);
        }
        Ok(Self { relay, lanes, events })
    }

    /// Runs until `stop`, then until what runs has ended: the caller drops it when its grace is over.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            self.start_what_can_start();
            let sleep = self.sleep();
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                event = self.events.recv() => match event {
                    Some(event) => self.handle_all(event),
                    None => return,
                },
                () = tokio::time::sleep(sleep) => {}
            }
        }
        while self.lanes.in_flight() > 0 {
            match self.events.recv().await {
                Some(event) => self.handle(event),
                None => return,
            }
        }
    }

    fn sleep(&self) -> Duration {
        let Some(at) = self.lanes.next_wake() else { return SLEEP_MAX };
        let wait = at.duration_since(clock::now());
        // A millisecond more, so that it is not woken just before the time.
        let wait = Duration::try_from(wait).unwrap_or(Duration::ZERO) + Duration::from_millis(1);
        wait.min(SLEEP_MAX)
    }

    /// Takes everything that waits, so that a burst of events costs one round of scheduling.
    fn handle_all(&mut self, event: Event) {
        self.handle(event);
        while let Ok(event) = self.events.try_recv() {
            self.handle(event);
        }
    }

    fn handle(&mut self, event: Event) {
        let now = clock::now();
        match event {
            Event::Arrived(pieces) => {
                for (lane, work) in pieces {
                    self.lanes.arrive(&lane, work, now);
                }
            }
            Event::Fetched { lane, found: Ok(found) } => {
                self.lanes.fetched(&lane, found.work, found.next_due, now);
            }
            Event::Fetched { lane, found: Err(error) } => {
                tracing::error!(event = "store_failed", %lane, %error, "the queue cannot be read");
                self.lanes.fetched(&lane, Vec::new(), Some(after(now, STORE_REST)), now);
            }
            Event::Finished(Finished { lane, message, effect, due, pause }) => {
                if let Some(until) = pause {
                    self.lanes.pause(until);
                }
                self.lanes.finished(&lane, message, effect, due);
            }
            Event::RetryNow(lane) => self.lanes.retry_now(&lane, now),
            Event::Reconfigured => self.lanes.set_limits(limits(&self.relay.config())),
            Event::Removed(lanes) => lanes.iter().for_each(|lane| self.lanes.removed(lane)),
        }
    }

    fn start_what_can_start(&mut self) {
        let now = clock::now();
        while let Some(action) = self.lanes.next(now) {
            match action {
                Action::Start { lane, trouble, company, job } => {
                    self.start(Due { lane, trouble, company, work: job });
                }
                Action::Fetch { lane, known } => self.fetch(lane, known, now),
            }
        }
    }

    fn start(&self, due: Due) {
        let relay = Arc::clone(&self.relay);
        let lane = due.lane.clone();
        let message = due.work.message;
        let recipients: Vec<RecipientNo> = due.work.targets.iter().map(|t| t.no).collect();
        self.relay.tracker.spawn(async move {
            let attempt = AssertUnwindSafe(deliver::deliver(&relay, due)).catch_unwind().await;
            let finished = match attempt {
                Ok(finished) => finished,
                Err(_) => {
                    tracing::error!(event = "bug", message_id = %message, "an attempt panicked");
                    let until = after(clock::now(), BUG_REST);
                    settle::put_aside(&relay, message, recipients, until).await;
                    let (effect, due) = (Effect::Neutral, Some(until));
                    Finished { lane, message, effect, due, pause: None }
                }
            };
            relay.tell_queue(Event::Finished(finished)).await;
        });
    }

    fn fetch(&self, lane: LaneKey, known: HashSet<MessageId>, now: Timestamp) {
        let relay = Arc::clone(&self.relay);
        self.relay.tracker.spawn(async move {
            let found = store::fetch(&relay, lane.clone(), &known, now).await;
            relay.tell_queue(Event::Fetched { lane, found }).await;
        });
    }
}
