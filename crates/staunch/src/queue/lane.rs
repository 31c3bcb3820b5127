//! One lane: what of it is in memory, what may run, and until when it waits.

mod state;

use std::collections::{HashMap, VecDeque};

use jiff::Timestamp;
use spool::MessageId;

use super::shaping::{Gate, Shape};
use crate::connect::pool::Bottleneck;
use crate::delivery::outcome::{FailureRun, LaneEffect};
use crate::message::Submitter;
use crate::queue::lanes::{Charge, Group, LaneClass, Spot, Ticket};
use crate::schedule::after;
use crate::telemetry::Reason;
use state::At;
pub(crate) use state::BackOff;
pub(super) use state::{Hop, LanePace, LaneReading, Memory, Precedence, Stand, Wish};

/// Jobs that a lane may keep ready whose next hop took mail before. Our choice: at the rates that a
/// disk allows it is a few seconds' mail, some 16 MiB without the bodies; what arrives beyond is
/// read back from the store in its turn.
pub(super) const READY_MAX: usize = 16_384;
/// Jobs that a stranger's lane may keep ready while memory is plenty: a new customer's first mail
/// is not read back.
const READY_NEW_MAX: usize = 64;
/// Jobs that a lane keeps for each attempt that it may have at once, also where memory is scarce.
/// With fewer than one for each, more are read.
const READY_PER_ATTEMPT: usize = 4;
/// A lane with fewer ready jobs than attempts is read; this is enough for any number of those.
const READ_BELOW_MAX: usize = 16;

/// One message's recipients in one lane, ready to be tried.
pub(crate) trait LaneJob {
    fn message(&self) -> MessageId;

    /// Its place in the lane: the lowest is tried first ([`spool::turn`]).
    fn turn(&self) -> Timestamp;

    /// Octets of memory that it takes, about.
    fn octets(&self) -> u64;

    /// Who handed it in.
    fn submitter(&self) -> Submitter;
}

/// A lane. Most of them rest, and there may be a hundred thousand: what only a lane needs that does
/// something stands in a box of its own, and times take no more room than they need.
#[derive(Debug)]
pub(super) struct Lane<J> {
    pub(super) group: Group,
    /// Whose mail was first in it, when that was looked at the last time. It stands in a row by
    /// that.
    pub(super) submitter: Submitter,
    /// When the first failure of the row was; never: nothing failed.
    troubled_since: At,
    /// Not before this time, because the hosts failed.
    retry_at: At,
    /// The earliest time at which the store has something due that is not in memory.
    stored_due: At,
    /// Its entry in `Lanes::waiting`.
    alarm: At,
    hot: Option<Box<Hot<J>>>,
    /// What the operator lets it do.
    shape: Shape,
    /// Failures in a row.
    failures: u32,
    window: u32,
    /// How its hosts failed.
    cause: Option<Reason>,
    pub(super) hop: Hop,
    pub(super) pace: LanePace,
    reading: LaneReading,
    /// Is its mail being moved to other lanes? Then nothing starts.
    is_frozen: bool,
    /// Has the operator stopped it?
    gate: Gate,
    pub(super) stand: Stand,
    /// The class of the ring or row in which it stands.
    pub(super) stands_as: LaneClass,
    pub(super) precedence: Precedence,
}

/// What of a lane is in memory, or under way.
#[derive(Debug)]
struct Hot<J> {
    ready: VecDeque<J>,
    /// Octets of `ready`, which count against the memory of all lanes.
    octets: u64,
    /// Messages that are ready or in flight here. A fetch skips them, so what else of them is due
    /// in the lane is looked for when they are done.
    known: HashMap<MessageId, Known>,
    /// Fetches that have ended.
    fetches: u64,
    in_flight: u32,
    /// When its next attempt may begin, if it may not begin at any time.
    next_slot: At,
    /// What its attempts lately waited for.
    site: Option<Bottleneck>,
}

impl<J> Default for Hot<J> {
    fn default() -> Self {
        Self {
            ready: VecDeque::new(),
            octets: 0,
            known: HashMap::new(),
            fetches: 0,
            in_flight: 0,
            next_slot: At::NEVER,
            site: None,
        }
    }
}

/// A message that is ready or in flight.
#[derive(Clone, Copy, Debug)]
struct Known {
    /// The count of fetches when it came.
    came: u64,
    /// Its attempt; none while it is only ready.
    ticket: Option<Ticket>,
}

impl<J> Lane<J> {
    pub(super) fn new(group: Group, hop: Hop, shape: Shape, gate: Gate) -> Self {
        Self {
            group,
            submitter: Submitter::UNKNOWN,
            troubled_since: At::NEVER,
            retry_at: At::NEVER,
            stored_due: At::NEVER,
            alarm: At::NEVER,
            hot: None,
            shape,
            failures: 0,
            window: 1,
            cause: None,
            hop,
            pace: LanePace::Usual,
            reading: LaneReading::Not,
            is_frozen: false,
            gate,
            stand: Stand::Nowhere,
            stands_as: LaneClass::New,
            precedence: Precedence::None,
        }
    }

    /// Where it stands, if it stands in a row.
    pub(super) fn spot(&self) -> Spot {
        Spot { group: self.group, submitter: self.submitter }
    }

    /// Whom its next attempt is charged to.
    pub(super) fn charge(&self, class: LaneClass) -> Charge {
        Charge { class, group: self.group, submitter: self.submitter }
    }

    /// The store has mail of `submitter` for it. Who is first there stays the first.
    pub(super) fn hear_of(&mut self, submitter: Submitter) {
        if self.submitter == Submitter::UNKNOWN && self.stand != Stand::InRow {
            self.submitter = submitter;
        }
    }

    fn hot_mut(&mut self) -> &mut Hot<J> {
        self.hot.get_or_insert_default()
    }

    /// Jobs that are ready.
    pub(super) fn ready(&self) -> usize {
        self.hot.as_ref().map_or(0, |hot| hot.ready.len())
    }

    fn in_flight(&self) -> u32 {
        self.hot.as_ref().map_or(0, |hot| hot.in_flight)
    }

    /// Its failures in a row, if there are any.
    pub(super) fn trouble(&self) -> Option<FailureRun> {
        let failures = self.failures;
        self.troubled_since.get().map(|since| FailureRun { failures, since })
    }

    fn set_trouble(&mut self, trouble: Option<FailureRun>) {
        self.troubled_since = trouble.map(|trouble| trouble.since).into();
        self.failures = trouble.map_or(0, |trouble| trouble.failures);
    }

    /// Its entry in `Lanes::waiting`.
    pub(super) fn alarm(&self) -> Option<Timestamp> {
        self.alarm.get()
    }

    pub(super) fn set_alarm(&mut self, alarm: Option<Timestamp>) {
        self.alarm = alarm.into();
    }

    /// What its attempts lately waited for.
    pub(super) fn site(&self) -> Option<&Bottleneck> {
        self.hot.as_ref()?.site.as_ref()
    }

    pub(super) fn set_site(&mut self, site: Bottleneck) {
        self.hot_mut().site = Some(site);
    }

    pub(super) fn set_shape(&mut self, shape: Shape) {
        self.shape = shape;
        self.window = self.window.min(shape.most);
    }

    pub(super) fn set_gate(&mut self, gate: Gate) {
        self.gate = gate;
    }

    pub(super) fn freeze(&mut self) {
        self.is_frozen = true;
    }

    pub(super) fn thaw(&mut self) {
        self.is_frozen = false;
    }

    pub(super) fn restore(&mut self, back_off: Option<BackOff>, due: Option<Timestamp>) {
        self.set_trouble(back_off.map(|back_off| back_off.trouble));
        self.retry_at = back_off.map(|back_off| back_off.until).into();
        self.cause = back_off.and_then(|back_off| back_off.cause);
        self.stored_due = due.into();
    }

    pub(super) fn messages(&self) -> impl Iterator<Item = MessageId> {
        self.hot.iter().flat_map(|hot| hot.known.keys().copied())
    }

    pub(super) fn waits(&self, now: Timestamp) -> bool {
        self.is_stopped() || self.retry_at.get().is_some_and(|at| at > now)
    }

    /// Until when it waits for its hosts, and why, if it does.
    pub(super) fn back_off(&self, now: Timestamp) -> Option<(Timestamp, Reason)> {
        self.retry_at.get().filter(|at| *at > now).zip(self.cause)
    }

    /// Does only an event let it go on?
    fn is_stopped(&self) -> bool {
        self.is_frozen || self.gate == Gate::Closed
    }

    /// What it could do now.
    pub(super) fn wish(&self, now: Timestamp) -> Wish {
        if self.waits(now) {
            Wish::Rest
        } else if self.has_window(now) && (self.ready() > 0 || self.wants_read(now)) {
            Wish::Begin
        } else if self.in_flight() > 0 && self.wants_read(now) {
            Wish::ReadAhead
        } else {
            Wish::Rest
        }
    }

    /// May one more attempt run, as far as the lane goes?
    fn has_window(&self, now: Timestamp) -> bool {
        self.in_flight() < self.window && self.next_slot(now).is_none()
    }

    /// Has it a job that may begin?
    pub(super) fn can_start(&self, now: Timestamp) -> bool {
        !self.waits(now) && self.has_window(now) && self.ready() > 0
    }

    /// Does nothing of it run?
    pub(super) fn is_still(&self) -> bool {
        self.in_flight() == 0
    }

    /// Has the store something for it that it could take?
    pub(super) fn wants_read(&self, now: Timestamp) -> bool {
        self.reading == LaneReading::Not
            && self.ready() < self.attempts_at_once().min(READ_BELOW_MAX)
            && self.stored_due.get().is_some_and(|at| at <= now)
    }

    /// When its next attempt may begin, if it must wait for that.
    fn next_slot(&self, now: Timestamp) -> Option<Timestamp> {
        // A clock that was ahead may have set it.
        let latest = after(now, self.shape.interval?);
        let next_slot = self.hot.as_ref()?.next_slot.get();
        next_slot.filter(|slot| *slot > now && *slot <= latest)
    }

    /// Jobs that it may keep ready, as memory is.
    pub(super) fn room(&self, class: LaneClass, memory: Memory) -> usize {
        let few = self.attempts_at_once().saturating_mul(READY_PER_ATTEMPT);
        match (class, memory) {
            (_, Memory::Used) => 0,
            (LaneClass::Troubled, _) => 1,
            (LaneClass::Proven, Memory::Plenty | Memory::Enough) => READY_MAX,
            (LaneClass::New, Memory::Plenty) => few.max(READY_NEW_MAX),
            (LaneClass::Proven, Memory::Scarce) | (LaneClass::New, Memory::Enough) => few,
            (LaneClass::New, Memory::Scarce) => 0,
        }
    }

    fn attempts_at_once(&self) -> usize {
        usize::try_from(self.window).unwrap_or(usize::MAX)
    }

    /// It rests: what is empty needs no memory.
    pub(super) fn release_memory(&mut self) {
        let is_empty = |hot: &Hot<J>| hot.known.is_empty() && hot.next_slot == At::NEVER;
        if self.reading == LaneReading::Not && self.hot.as_deref().is_some_and(is_empty) {
            self.hot = None;
        }
    }

    /// Has it nothing to remember?
    pub(super) fn is_idle(&self, now: Timestamp) -> bool {
        let is_backing_off = self.retry_at.get().is_some_and(|at| at > now);
        let is_at_rest = self.reading == LaneReading::Not && !self.is_frozen && !is_backing_off;
        let has_slot = self.next_slot(now).is_none();
        let knows_none = self.hot.as_ref().is_none_or(|hot| hot.known.is_empty());
        knows_none && self.stored_due == At::NEVER && is_at_rest && has_slot
    }

    /// When something can be done here that cannot be done now, if no event comes before.
    pub(super) fn wakes_at(&self, now: Timestamp) -> Option<Timestamp> {
        if self.is_stopped() {
            return None;
        }
        if self.waits(now) {
            return self.retry_at.get().max(self.stored_due.get());
        }
        let stored = self.stored_due.get().filter(|at| *at > now);
        stored.into_iter().chain(self.next_slot(now)).min()
    }

    /// The store has something due at `due`.
    pub(super) fn stored(&mut self, due: Timestamp) {
        self.stored_due = self.stored_due.get().map_or(due, |earlier| earlier.min(due)).into();
    }

    /// It need not wait for its hosts.
    pub(super) fn end_wait(&mut self) {
        self.retry_at = At::NEVER;
    }

    /// Waits no longer than until `latest`. Says whether it did.
    pub(super) fn cut_waits(&mut self, now: Timestamp, latest: Timestamp) -> bool {
        let times = [self.retry_at.get(), self.stored_due.get()];
        let is_far = times.into_iter().flatten().any(|at| at > latest);
        if is_far {
            self.retry_at = self.retry_at.get().filter(|at| *at <= latest).into();
            self.stored(now);
        }
        is_far
    }

    /// What the store has may be other than what is being read.
    pub(super) fn outdate(&mut self) {
        if self.reading == LaneReading::Now {
            self.reading = LaneReading::Outdated;
        }
    }

    /// It is read from now on.
    pub(super) fn begin_read(&mut self) {
        self.reading = LaneReading::Now;
        // What becomes due while the fetch runs is told by its answer or by an arrival.
        self.stored_due = At::NEVER;
    }

    /// It was read. Is what came of use?
    pub(super) fn end_read(&mut self, now: Timestamp) -> bool {
        let is_of_use = self.reading == LaneReading::Now && !self.waits(now);
        self.reading = LaneReading::Not;
        self.hot_mut().fetches += 1;
        is_of_use
    }

    /// May what arrives be tried before the store is asked? Not behind older mail there.
    pub(super) fn is_read_up(&self, now: Timestamp) -> bool {
        self.stored_due.get().is_none_or(|at| at > now) && self.reading == LaneReading::Not
    }

    /// An attempt is over: what follows for the lane. Returns until when it waits, if that is news.
    pub(super) fn learn(&mut self, effect: LaneEffect, cause: Option<Reason>) -> Option<Timestamp> {
        let before = self.retry_at;
        match effect {
            LaneEffect::Works => {
                self.window = self.window.saturating_add(1).min(self.shape.most);
                self.set_trouble(None);
                self.retry_at = At::NEVER;
                self.pace = LanePace::Usual;
            }
            LaneEffect::Answers => {
                if self.trouble().is_some() {
                    self.set_trouble(None);
                    self.retry_at = At::NEVER;
                }
            }
            LaneEffect::Neutral => {}
            LaneEffect::Failed { retry_at, trouble }
            | LaneEffect::Yielded { retry_at, trouble } => {
                self.window = 1;
                // Attempts that failed side by side are one failure.
                if self.failures < trouble.failures {
                    self.set_trouble(Some(trouble));
                    self.retry_at = retry_at.into();
                }
            }
            LaneEffect::Throttled { retry_at } => {
                self.window = (self.window / 2).max(1);
                self.retry_at = retry_at.into();
            }
        }
        let news = self.retry_at.get().filter(|_| self.retry_at != before);
        if news.is_some() {
            self.cause = cause;
        }
        news
    }

    /// With a window of one nothing else starts before what runs has ended.
    pub(super) fn is_alone(&self) -> bool {
        self.in_flight() == 1 && self.window == 1
    }
}

impl<J: LaneJob> Lane<J> {
    pub(super) fn knows(&self, message: MessageId) -> bool {
        self.hot.as_ref().is_some_and(|hot| hot.known.contains_key(&message))
    }

    /// Looks whose mail is first. Not while it stands in a row.
    pub(super) fn see_submitter(&mut self) {
        let first = self.hot.as_ref().and_then(|hot| hot.ready.front());
        if let Some(first) = first.filter(|_| self.stand != Stand::InRow) {
            self.submitter = first.submitter();
        }
    }

    /// Keeps `job` ready, behind those whose turn is before it. Returns its octets.
    pub(super) fn take(&mut self, job: J) -> u64 {
        let (octets, hot) = (job.octets(), self.hot_mut());
        hot.known.insert(job.message(), Known { came: hot.fetches, ticket: None });
        let before = hot.ready.iter().rposition(|other| other.turn() <= job.turn());
        hot.ready.insert(before.map_or(0, |place| place + 1), job);
        hot.octets += octets;
        octets
    }

    /// Begins an attempt; it is known by `ticket`. Returns the octets that are not ready any more.
    pub(super) fn start(&mut self, ticket: Ticket, now: Timestamp) -> Option<(J, u64)> {
        let interval = self.shape.interval;
        let hot = self.hot.as_mut()?;
        let job = hot.ready.pop_front()?;
        let octets = job.octets();
        hot.octets = hot.octets.saturating_sub(octets);
        if let Some(known) = hot.known.get_mut(&job.message()) {
            known.ticket = Some(ticket);
        }
        hot.in_flight += 1;
        hot.next_slot = interval.map(|interval| after(now, interval)).into();
        Some((job, octets))
    }

    /// The attempt on `message` is over. Returns its ticket.
    pub(super) fn finish(&mut self, message: MessageId) -> Option<Ticket> {
        let is_read = self.reading != LaneReading::Not;
        let hot = self.hot.as_mut()?;
        let known = hot.known.remove(&message)?;
        let ticket = known.ticket?;
        hot.in_flight = hot.in_flight.saturating_sub(1);
        // Other recipients of the message that became due meanwhile were skipped.
        if is_read || known.came < hot.fetches {
            self.stored(Timestamp::MIN);
        }
        Some(ticket)
    }

    /// Gives the ready jobs back to the store's care; returns their octets.
    pub(super) fn unload(&mut self) -> u64 {
        let Some(hot) = self.hot.as_mut().filter(|hot| !hot.ready.is_empty()) else { return 0 };
        for job in hot.ready.drain(..) {
            hot.known.remove(&job.message());
        }
        let octets = std::mem::take(&mut hot.octets);
        self.stored(Timestamp::MIN);
        octets
    }
}
