//! Owns the order in which mail is tried: one task, the only one that changes [`lanes::Lanes`].
//!
//! It waits for nothing but its events and the clock. Reading the store, trying and settling happen
//! in tasks of their own, which report back; so no domain, however slow, holds the others up.

pub(crate) mod aftermath;
mod bounce;
pub(crate) mod damaged;
pub(crate) mod deadline;
mod delay_dsns;
pub(crate) mod deliver;
pub(crate) mod dsn;
pub(crate) mod dsn_request;
pub(crate) mod events;
mod facts;
mod follow;
pub(crate) mod free_space;
mod gathered;
pub(crate) mod gathering;
pub(crate) mod handle;
pub(crate) mod intake;
mod lane;
pub(crate) mod lanes;
mod named;
mod proofs;
pub(crate) mod rates;
pub(crate) mod restraint;
pub(crate) mod settle;
pub(crate) mod shaping;
#[cfg(test)]
pub(crate) mod stage;
pub(crate) mod stop;
pub(crate) mod store;
pub(crate) mod sweep;
pub(crate) mod switches;
pub(crate) mod waiting;

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use jiff::Timestamp;
use spool::{LaneKey, LaneState, MessageId, RecipientNo, StoreError};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::connect::pool::Bottleneck;
use crate::connect::tcp_check;
use crate::delivery::facts::{About, DeliveryFact};
use crate::delivery::outbound::Outbound;
use crate::delivery::outcome::{FailureRun, LaneEffect};
use crate::delivery::route::{self, Routing};
use crate::delivery::yielding::Yielding;
use crate::message::Work;
use crate::queue::deliver::Over;
use crate::queue::events::{
    DueWork, Event, FinishedAttempt, Followed, LaneArrival, MoveEnd, NoRoom, Routes,
};
use crate::queue::facts::QueueFact;
use crate::queue::follow::{Astray, Frozen};
use crate::queue::handle::QueueHandle;
use crate::schedule::after;
use crate::telemetry::Reason;
use lanes::{BackOff, LaneAction, Lanes, Ticket};
use proofs::Proofs;

/// Events that may wait for the queue task. Our choice: it handles far more in the time of one
/// sync.
pub(crate) const EVENTS_MAX: usize = 4_096;
/// Lanes that stand still at once while their mail is moved. Our choice: it is moved in fractions
/// of a second.
const FOLLOWED_AT_ONCE: usize = 256;
/// Lanes whose mail is made due at once when their host lets somebody in again. Our choice: other
/// commits wait for it.
const BACK_AT_ONCE: usize = 64;
/// The longest sleep: a clock that is set must not make the queue oversleep for long.
const SLEEP_MAX: Duration = Duration::from_secs(30);
/// Between two looks at what may have been missed. Our choice.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// When a lane is read again after the store could not be read.
const STORE_REST: Duration = Duration::from_secs(5);
/// When a message is tried again whose attempt ended in a bug of ours.
const BUG_REST: Duration = Duration::from_secs(300);

/// The queue task's own state.
#[derive(Debug)]
pub(crate) struct Queue {
    handle: Arc<QueueHandle>,
    lanes: Lanes<Work>,
    events: mpsc::Receiver<Event>,
    /// Attempts that run.
    running: HashMap<Ticket, Arc<Yielding>>,
    proofs: Proofs,
    /// Lanes whose mail is to be looked at, because it may have another next hop today.
    to_follow: VecDeque<LaneKey>,
    /// Is that being done for some of them?
    is_following: bool,
}

impl Queue {
    /// Takes up the lanes that the store remembers.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when they cannot be read.
    pub(crate) fn open(
        handle: Arc<QueueHandle>,
        events: mpsc::Receiver<Event>,
    ) -> Result<Self, StoreError> {
        let mut lanes = Lanes::new((&*handle.config()).into());
        let (summaries, nameless) = handle.spool.lanes_with_names()?;
        if nameless > 0 {
            QueueFact::LaneNamesDamaged { next_hops: nameless }.tell();
        }
        for summary in summaries {
            let back_off = match summary.state {
                LaneState::Healthy => None,
                LaneState::Failing(row) => Some(BackOff {
                    trouble: FailureRun { failures: row.failures, since: row.first_failed_at },
                    until: row.next_probe_at,
                    cause: Reason::parse(&row.problem.reason),
                }),
            };
            lanes.restore(&summary.key, back_off, summary.earliest_due);
        }
        lanes.set_pause(handle.switches.pause(&handle.config()));
        let to_follow = VecDeque::new();
        Proofs::restore(&handle, &mut lanes);
        let (running, proofs) = (HashMap::new(), Proofs::default());
        Ok(Self { handle, lanes, events, running, proofs, to_follow, is_following: false })
    }

    /// Runs until `stop`, then until what runs has ended: the caller drops it when its grace is
    /// over.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        self.find_astray(Astray::Wholly);
        let mut looked = Instant::now();
        while !stop.is_cancelled() {
            // However much else there is to do.
            if looked.elapsed() >= LOOK_EVERY {
                looked = Instant::now();
                self.call_all();
                self.proofs.write(&self.handle);
            }
            self.start_what_can_start();
            let sleep = self.sleep();
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                event = self.events.recv() => match event {
                    Some(event) => self.handle_all(event),
                    None => return,
                },
                made = self.handle.outbound.pool.room_made() => made.iter().for_each(|it| self.call(it)),
                () = tokio::time::sleep(sleep) => {}
            }
        }
        while self.lanes.in_flight() > 0 {
            match self.events.recv().await {
                Some(event) => self.handle(event),
                None => return,
            }
        }
        self.proofs.write(&self.handle);
    }

    fn sleep(&self) -> Duration {
        let most = self.lanes.review_in().unwrap_or(SLEEP_MAX);
        let Some(at) = self.lanes.next_wake() else { return most };
        let wait = at.duration_since(self.handle.now());
        // A millisecond more, so that it is not woken just before the time.
        let wait = Duration::try_from(wait).unwrap_or(Duration::ZERO) + Duration::from_millis(1);
        wait.min(most)
    }

    /// Lets lanes go on for which there are connections now.
    fn call(&mut self, bottleneck: &Bottleneck) {
        self.call_back(bottleneck);
        if !self.lanes.is_waited_for(bottleneck) {
            return;
        }
        let room = self.handle.outbound.pool.room_at(bottleneck);
        self.lanes.room(bottleneck, room, self.handle.now());
        if room > 0 && self.lanes.is_waited_for(bottleneck) {
            self.handle.outbound.pool.tell_of_room(bottleneck);
        }
    }

    /// Lets lanes go on that wait for a host which lets somebody in again.
    fn call_back(&mut self, bottleneck: &Bottleneck) {
        let Bottleneck::Host(host) = bottleneck else { return };
        if !self.lanes.is_shut(bottleneck) || self.handle.outbound.pool.is_down(host) {
            return;
        }
        let (handle, lanes) =
            (Arc::clone(&self.handle), self.lanes.let_in(bottleneck, self.handle.now()));
        self.handle.tracker.spawn(async move {
            for lanes in lanes.chunks(BACK_AT_ONCE) {
                store::make_due(&handle, lanes).await;
                for lane in lanes {
                    handle.tell(Event::RetryNow(lane.clone())).await;
                }
            }
        });
    }

    /// Whoever was called and had no use for it may have been the last one that would have told of
    /// room.
    fn call_all(&mut self) {
        let waited_for: HashSet<Bottleneck> = self.lanes.waited_for().cloned().collect();
        waited_for.iter().for_each(|bottleneck| self.call(bottleneck));
    }

    /// Takes everything that waits, so that a burst of events costs one round of scheduling.
    fn handle_all(&mut self, event: Event) {
        self.handle(event);
        while let Ok(event) = self.events.try_recv() {
            self.handle(event);
        }
    }

    fn handle(&mut self, event: Event) {
        let now = self.handle.now();
        match event {
            Event::Arrived(pieces) => {
                for (lane, arrival) in pieces {
                    match arrival {
                        LaneArrival::Work(work) => {
                            self.tell_wait(&lane, &work, now);
                            self.lanes.arrive(&lane, work, now);
                        }
                        LaneArrival::Later(at) => self.lanes.due(&lane, at),
                    }
                }
            }
            Event::Fetched { lane, found: Ok(found) } => {
                self.lanes.fetched(&lane, found.work, found.next_due, now);
                self.follow_if(found.place, lane);
            }
            Event::Fetched { lane, found: Err(error) } => {
                QueueFact::LaneUnreadable { lane: &lane, error: &error }.tell();
                self.lanes.fetched(&lane, Vec::new(), Some(after(now, STORE_REST)), now);
            }
            Event::Finished(ticket, finished) => self.finished(ticket, finished),
            Event::NoRoom(ticket, no_room) => {
                let NoRoom { lane, bottleneck, work } = *no_room;
                self.running.remove(&ticket);
                self.lanes.sent_back(&lane, work.message, (bottleneck.clone(), work), now);
                self.call(&bottleneck);
            }
            Event::Session(ticket, host) => self.lanes.session(ticket, host, now),
            Event::RetryNow(lane) => self.lanes.retry_now(&lane, now),
            Event::CutWaits { latest } => self.lanes.cut_waits(now, latest),
            Event::Due(lanes) => self.due(lanes, now),
            Event::Reconfigured(routes) => {
                self.lanes.set_limits((&*self.handle.config()).into());
                self.lanes.set_pause(self.handle.switches.pause(&self.handle.config()));
                if routes == Routes::Changed {
                    self.find_astray(Astray::Partly);
                }
            }
            Event::Switched => {
                self.lanes.set_pause(self.handle.switches.pause(&self.handle.config()));
            }
            Event::Follow(lanes) => {
                self.to_follow.extend(lanes);
                self.follow();
            }
            Event::Followed(followed) => self.followed(&followed, now),
            Event::Removed(lanes) => lanes.iter().for_each(|lane| self.lanes.removed(lane)),
        }
    }

    /// Mail that comes to a next hop which waits is not tried, and has its line in the log all the
    /// same.
    fn tell_wait(&self, lane: &LaneKey, work: &Work, now: Timestamp) {
        let Some((until, cause)) = self.lanes.back_off(lane, now) else { return };
        let about = About { work, lane, now };
        for target in &work.targets {
            DeliveryFact::JoinedWait { about, target, until, cause }.tell();
        }
    }

    fn finished(&mut self, ticket: Ticket, finished: FinishedAttempt) {
        let FinishedAttempt { lane, message, effect, due, pause, place, took, cause, down } =
            finished;
        self.running.remove(&ticket);
        if let Some(until) = pause {
            self.lanes.pause(until);
        }
        if let Some(host) = took {
            self.proofs.note(&self.handle, &mut self.lanes, (&lane, &host));
        }
        let reason = cause.as_ref().map(|cause| cause.reason);
        let waits = self.lanes.finished(&lane, message, (effect, reason), due);
        if let Some(host) = down {
            self.lanes.shut_out(&lane, &host, self.handle.now());
            self.handle.outbound.pool.tell_of_room(&host);
            if let Bottleneck::Host(key) = &host {
                let Outbound { pool, connector, tracker, .. } = &*self.handle.outbound;
                tcp_check::begin(pool, connector, tracker, key);
            }
        }
        if let (Some(until), Some(cause)) = (waits, cause) {
            let (handle, lane) = (Arc::clone(&self.handle), lane.clone());
            self.handle.tracker.spawn(async move {
                aftermath::tell_lane(&handle, &lane, until, &cause).await;
            });
        }
        self.follow_if(place, lane);
    }

    fn start_what_can_start(&mut self) {
        let now = self.handle.now();
        while let Some(action) = self.lanes.next(now) {
            match action {
                LaneAction::Start { lane, ticket, class, trouble, company, job } => {
                    self.start(DueWork { lane, ticket, class, trouble, company, work: job });
                }
                LaneAction::Fetch { lane, known, most } => self.fetch(lane, known, most, now),
                LaneAction::GiveWay(ticket) => {
                    if !self.running.get(&ticket).is_some_and(|yielding| yielding.ask()) {
                        self.lanes.asked_in_vain(ticket);
                    }
                }
            }
        }
    }

    fn start(&mut self, due: DueWork) {
        let handle = Arc::clone(&self.handle);
        let (lane, ticket) = (due.lane.clone(), due.ticket);
        let message = due.work.message;
        let yielding = Arc::<Yielding>::default();
        self.running.insert(ticket, Arc::clone(&yielding));
        let recipients: Vec<RecipientNo> = due.work.targets.iter().map(|t| t.no).collect();
        // Marked before anybody else can ask.
        let sending = handle.underway.begin(message, recipients.clone());
        self.handle.tracker.spawn(async move {
            let attempt = deliver::deliver(&handle, due, &sending, &yielding);
            let attempt = AssertUnwindSafe(attempt).catch_unwind().await;
            drop(sending);
            let event = match attempt {
                Ok(Over::Finished(finished)) => Event::Finished(ticket, finished),
                Ok(Over::NoRoom(no_room)) => Event::NoRoom(ticket, no_room),
                Err(_) => {
                    QueueFact::AttemptPanicked { message }.tell();
                    let until = after(handle.now(), BUG_REST);
                    settle::put_aside(&handle, message, recipients, until).await;
                    let (effect, due) = (LaneEffect::Neutral, Some(until));
                    let (pause, place, took) = (None, Routing::Current, None);
                    let (cause, down) = (None, None);
                    let finished = FinishedAttempt {
                        lane,
                        message,
                        effect,
                        due,
                        pause,
                        place,
                        took,
                        cause,
                        down,
                    };
                    Event::Finished(ticket, finished)
                }
            };
            handle.tell(event).await;
        });
    }

    /// Looks for lanes with mail that has another next hop today.
    fn find_astray(&self, astray: Astray) {
        let handle = Arc::clone(&self.handle);
        self.handle.tracker.spawn(async move {
            let lanes = follow::lanes_astray(&handle, astray).await;
            handle.tell(Event::Follow(lanes)).await;
        });
    }

    /// What was held did not follow the configuration meanwhile.
    fn due(&mut self, lanes: Vec<LaneKey>, now: Timestamp) {
        let config = self.handle.config();
        for lane in lanes {
            self.lanes.due(&lane, now);
            if route::mail_of(&config, &lane) != route::MailOf::ThisHop {
                self.to_follow.push_back(lane);
            }
        }
        self.follow();
    }

    fn follow_if(&mut self, place: Routing, lane: LaneKey) {
        match place {
            Routing::Current => {}
            Routing::Stale => {
                self.to_follow.push_back(lane);
                self.follow();
            }
        }
    }

    /// Stops the next few lanes in turn, and has their mail moved.
    fn follow(&mut self) {
        if self.is_following || self.to_follow.is_empty() {
            return;
        }
        self.is_following = true;
        let count = self.to_follow.len().min(FOLLOWED_AT_ONCE);
        let next: BTreeSet<LaneKey> = self.to_follow.drain(..count).collect();
        let frozen: Vec<Frozen> = next
            .into_iter()
            .map(|lane| Frozen { in_flight: self.lanes.freeze(&lane), lane })
            .collect();
        let handle = Arc::clone(&self.handle);
        self.handle.tracker.spawn(async move {
            handle.tell(Event::Followed(follow::follow(&handle, frozen).await)).await;
        });
    }

    fn followed(&mut self, followed: &Followed, now: Timestamp) {
        followed.from.iter().for_each(|lane| self.lanes.thaw(lane, now));
        followed.to.iter().for_each(|lane| self.lanes.due(lane, now));
        self.is_following = false;
        match followed.end {
            MoveEnd::Done => self.follow(),
            MoveEnd::Failed => self.follow_later(followed, now),
        }
    }

    /// The trouble is ours: everything rests, and then it is tried again.
    fn follow_later(&mut self, followed: &Followed, now: Timestamp) {
        self.lanes.pause(after(now, STORE_REST));
        let (handle, lanes) = (Arc::clone(&self.handle), followed.from.clone());
        self.handle.tracker.spawn(async move {
            tokio::time::sleep(STORE_REST).await;
            handle.tell(Event::Follow(lanes)).await;
        });
    }

    fn fetch(&self, lane: LaneKey, known: HashSet<MessageId>, most: usize, now: Timestamp) {
        let handle = Arc::clone(&self.handle);
        self.handle.tracker.spawn(async move {
            let found = store::fetch(&handle, lane.clone(), &known, (most, now)).await;
            handle.tell(Event::Fetched { lane, found }).await;
        });
    }
}
