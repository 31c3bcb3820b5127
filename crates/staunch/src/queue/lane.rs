//! One lane: what of it is in memory, what may run, and until when it waits.

use std::collections::{HashMap, VecDeque};

use jiff::Timestamp;
use spool::MessageId;

use super::lanes::Trouble;
use super::shaping::Shape;
use crate::schedule::after;

/// Jobs a lane keeps in memory at most; what arrives beyond is read back from the store in its turn.
pub(crate) const READY_MAX: usize = 64;
/// Jobs a lane keeps for each attempt that it may have at once: a lane that is slow or new must not fill
/// the memory that all share. With fewer than one for each, more are read.
pub(super) const READY_PER_ATTEMPT: usize = 4;

/// One message's recipients in one lane, ready to be tried.
pub(crate) trait Job {
    /// The message.
    fn message(&self) -> MessageId;

    /// Its place in the lane: the lowest is tried first ([`spool::turn`]).
    fn turn(&self) -> Timestamp;
}

/// Is a lane being read from the store?
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Reading {
    /// No.
    Not,
    /// It waits for its turn in `Lanes::to_read`.
    Soon,
    /// Yes.
    Now,
    /// Yes, but mail was taken out of the store since: what comes may be gone.
    Outdated,
}

impl Reading {
    pub(super) fn is_under_way(self) -> bool {
        match self {
            Self::Not | Self::Soon => false,
            Self::Now | Self::Outdated => true,
        }
    }
}

/// May anything start in a lane, as far as the operator is concerned?
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Gate {
    /// It may.
    Open,
    /// The lane is paused.
    Closed,
}

#[derive(Debug)]
pub(super) struct Lane<J> {
    pub(super) ready: VecDeque<J>,
    /// Messages that are ready or in flight here, each with the count of fetches when it came. A fetch
    /// skips them, so what else of them is due in the lane is looked for when they are done.
    pub(super) known: HashMap<MessageId, u64>,
    /// Fetches that have ended.
    pub(super) fetches: u64,
    pub(super) in_flight: u32,
    pub(super) window: u32,
    pub(super) trouble: Option<Trouble>,
    /// Not before this time, because the hosts failed.
    pub(super) retry_at: Option<Timestamp>,
    /// The earliest time at which the store has something due that is not in memory.
    pub(super) stored_due: Option<Timestamp>,
    pub(super) reading: Reading,
    /// What the operator lets it do.
    pub(super) shape: Shape,
    /// When its next attempt may begin, if it may not begin at any time.
    pub(super) turn: Option<Timestamp>,
    /// Attempts in flight that began while it was in trouble.
    pub(super) probes: u32,
    /// Is its mail being moved to other lanes? Then nothing starts.
    pub(super) is_frozen: bool,
    /// Has the operator stopped it?
    pub(super) gate: Gate,
    /// Is it in `Lanes::runnable`?
    pub(super) listed: bool,
    /// Its entry in `Lanes::waiting`.
    pub(super) alarm: Option<Timestamp>,
}

impl<J> Lane<J> {
    pub(super) fn new(shape: Shape, gate: Gate) -> Self {
        Self {
            ready: VecDeque::new(),
            known: HashMap::new(),
            fetches: 0,
            in_flight: 0,
            window: 1,
            trouble: None,
            retry_at: None,
            stored_due: None,
            reading: Reading::Not,
            is_frozen: false,
            shape,
            turn: None,
            probes: 0,
            gate,
            listed: false,
            alarm: None,
        }
    }

    pub(super) fn waits(&self, now: Timestamp) -> bool {
        self.is_stopped() || self.retry_at.is_some_and(|at| at > now)
    }

    /// Does only an event let it go on?
    fn is_stopped(&self) -> bool {
        self.is_frozen || self.gate == Gate::Closed
    }

    /// May an attempt begin that has a place?
    pub(super) fn can_start(&self, now: Timestamp) -> bool {
        self.in_flight < self.window && !self.ready.is_empty() && self.next_turn(now).is_none()
    }

    /// When its next attempt may begin, if it must wait for that.
    fn next_turn(&self, now: Timestamp) -> Option<Timestamp> {
        // A clock that was ahead may have set it.
        let latest = after(now, self.shape.interval?);
        self.turn.filter(|turn| *turn > now && *turn <= latest)
    }

    /// Jobs that it may keep ready.
    pub(super) fn room(&self) -> usize {
        self.attempts_at_once().saturating_mul(READY_PER_ATTEMPT).min(READY_MAX)
    }

    fn attempts_at_once(&self) -> usize {
        usize::try_from(self.window).unwrap_or(usize::MAX)
    }

    /// Has the store something for it that it could take?
    pub(super) fn wants_fetch(&self, now: Timestamp) -> bool {
        self.ready.len() < self.attempts_at_once().min(READY_MAX / READY_PER_ATTEMPT)
            && self.stored_due.is_some_and(|at| at <= now)
    }

    /// Has it nothing to remember?
    pub(super) fn is_idle(&self, now: Timestamp) -> bool {
        let is_backing_off = self.retry_at.is_some_and(|at| at > now);
        let is_at_rest = self.reading == Reading::Not && !self.is_frozen && !is_backing_off;
        let has_turn = self.next_turn(now).is_none();
        self.known.is_empty() && self.stored_due.is_none() && is_at_rest && has_turn
    }

    /// When something can be done here that cannot be done now, if no event comes before.
    pub(super) fn wakes_at(&self, now: Timestamp) -> Option<Timestamp> {
        if self.is_stopped() {
            return None;
        }
        if self.waits(now) {
            return self.retry_at.max(self.stored_due);
        }
        let stored = self.stored_due.filter(|at| *at > now);
        stored.into_iter().chain(self.next_turn(now)).min()
    }

    pub(super) fn stored(&mut self, due: Timestamp) {
        self.stored_due = Some(self.stored_due.map_or(due, |earlier| earlier.min(due)));
    }
}

impl<J: Job> Lane<J> {
    /// Keeps `job` ready, behind those whose turn is before it.
    pub(super) fn take(&mut self, job: J) {
        self.known.insert(job.message(), self.fetches);
        let before = self.ready.iter().rposition(|other| other.turn() <= job.turn());
        self.ready.insert(before.map_or(0, |place| place + 1), job);
    }

    /// Gives the ready jobs back to the store's care; returns how many.
    pub(super) fn unload(&mut self) -> usize {
        let count = self.ready.len();
        for job in self.ready.drain(..) {
            self.known.remove(&job.message());
        }
        if count > 0 {
            self.stored(Timestamp::MIN);
        }
        count
    }
}
