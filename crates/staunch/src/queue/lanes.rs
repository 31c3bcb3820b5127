//! Which mail is tried next? The order, without disk, network or clock.
//!
//! A *lane* is everything for one next hop. It is the unit of patience: when its hosts fail, the lane
//! waits, and one message probes it when the wait is over, however many are queued behind. So a dead
//! or slow domain costs others nothing, and a failing host is asked once and not once per message.
//!
//! Memory holds lanes, not messages: a lane keeps a few jobs ready, the store has the rest.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};

use jiff::Timestamp;
use spool::{LaneKey, MessageId};

/// Jobs a lane keeps in memory; what arrives beyond is read back from the store in its turn.
pub(crate) const READY_MAX: usize = 64;
/// With fewer than this many ready, more are read, so that the lane does not run dry meanwhile.
const READY_LOW: usize = 16;
/// Jobs all lanes together keep in memory.
const READY_TOTAL_MAX: usize = 8_192;
/// Lanes that are read from the store at once. Ours: reads are short, and the disk is one.
const FETCHES_MAX: usize = 4;

/// One message's recipients in one lane, ready to be tried.
pub(crate) trait Job {
    /// The message.
    fn message(&self) -> MessageId;
}

/// How many attempts may run at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// In one lane, once it is known to work (`delivery.connections_per_domain`).
    pub(crate) per_lane: u32,
    /// In all lanes (`delivery.connections`).
    pub(crate) total: u32,
}

/// Failures of a lane in a row.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Trouble {
    /// How many; at least 1.
    pub(crate) failures: u32,
    /// When the first was.
    pub(crate) since: Timestamp,
}

/// Is an attempt the only one of its lane?
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Company {
    /// It is, and in a lane that failed it stays so until it has ended.
    Alone,
    /// Others run too.
    Others,
}

/// What an attempt taught about its lane.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Effect {
    /// A host took mail: more may run at once.
    Works,
    /// Nothing was learnt: the trouble was the message's or the recipient's own.
    Neutral,
    /// No host can be used: wait, then probe with one message.
    Failed {
        /// When.
        retry_at: Timestamp,
        /// The failures in a row, this one counted.
        trouble: Trouble,
    },
    /// A host asked for patience: fewer at once, and none before `retry_at`.
    Throttled {
        /// When.
        retry_at: Timestamp,
    },
}

/// What to do next.
#[derive(Debug)]
pub(crate) enum Action<J> {
    /// Start this job.
    Start {
        /// Its lane.
        lane: LaneKey,
        /// The lane's failures in a row so far, if this is a probe.
        trouble: Option<Trouble>,
        /// Does anything else of the lane run?
        company: Company,
        /// What to try.
        job: J,
    },
    /// Read what is due from the store, then call [`Lanes::fetched`].
    Fetch {
        /// Of this lane.
        lane: LaneKey,
        /// Without these, which are in memory already.
        known: HashSet<MessageId>,
    },
}

/// Is a lane being read from the store?
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Reading {
    /// No.
    Not,
    /// It should be, and waits for its turn in `Lanes::starved`.
    Starved,
    /// Yes.
    Now,
}

#[derive(Debug)]
struct Lane<J> {
    ready: VecDeque<J>,
    /// Messages that are ready or in flight here, each with the count of fetches when it came. A fetch
    /// skips them, so what else of them is due in the lane is looked for when they are done.
    known: HashMap<MessageId, u64>,
    /// Fetches that have ended.
    fetches: u64,
    in_flight: u32,
    window: u32,
    trouble: Option<Trouble>,
    /// Not before this time, because the hosts failed.
    retry_at: Option<Timestamp>,
    /// The earliest time at which the store has something due that is not in memory.
    stored_due: Option<Timestamp>,
    reading: Reading,
    /// Is it in `Lanes::runnable`?
    listed: bool,
    /// The earliest of its entries in `Lanes::waiting`.
    alarm: Option<Timestamp>,
}

impl<J> Lane<J> {
    fn new() -> Self {
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
            listed: false,
            alarm: None,
        }
    }

    fn waits(&self, now: Timestamp) -> bool {
        self.retry_at.is_some_and(|at| at > now)
    }

    fn wants_fetch(&self, now: Timestamp) -> bool {
        self.reading != Reading::Now
            && self.ready.len() < READY_LOW
            && self.stored_due.is_some_and(|at| at <= now)
    }

    /// Has it nothing to remember?
    fn is_idle(&self, now: Timestamp) -> bool {
        let is_at_rest = self.reading == Reading::Not && !self.waits(now);
        self.known.is_empty() && self.stored_due.is_none() && is_at_rest
    }

    /// When something can be done here that cannot be done now, if no event comes before.
    fn wakes_at(&self, now: Timestamp) -> Option<Timestamp> {
        if self.waits(now) {
            return self.retry_at.max(self.stored_due);
        }
        self.stored_due.filter(|at| *at > now)
    }

    fn stored(&mut self, due: Timestamp) {
        self.stored_due = Some(self.stored_due.map_or(due, |earlier| earlier.min(due)));
    }
}

/// All lanes.
#[derive(Debug)]
pub(crate) struct Lanes<J> {
    lanes: HashMap<LaneKey, Lane<J>>,
    /// Lanes in which something may be possible now, in turn.
    runnable: VecDeque<LaneKey>,
    /// Lanes that could be read from the store, but for the limits on that; first come, first served.
    starved: VecDeque<LaneKey>,
    /// Lanes that are being read.
    fetches: usize,
    /// Lanes that wait, by time. Entries may be outdated; the lane itself knows better.
    waiting: BinaryHeap<Reverse<(Timestamp, LaneKey)>>,
    limits: Limits,
    in_flight: u32,
    ready: usize,
    /// Trouble of our own (disk, DNS, descriptors): nothing starts before this time.
    paused_until: Option<Timestamp>,
}

impl<J: Job> Lanes<J> {
    /// No lanes yet.
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            lanes: HashMap::new(),
            runnable: VecDeque::new(),
            starved: VecDeque::new(),
            fetches: 0,
            waiting: BinaryHeap::new(),
            limits,
            in_flight: 0,
            ready: 0,
            paused_until: None,
        }
    }

    /// A lane as the store remembers it: its back-off and the earliest due recipient.
    pub(crate) fn restore(
        &mut self,
        key: LaneKey,
        back_off: Option<(Trouble, Timestamp)>,
        due: Option<Timestamp>,
    ) {
        let lane = self.lanes.entry(key.clone()).or_insert_with(Lane::new);
        lane.trouble = back_off.map(|(trouble, _)| trouble);
        lane.retry_at = back_off.map(|(_, retry_at)| retry_at);
        lane.stored_due = due;
        self.list(&key);
    }

    /// A job that was just accepted. It is kept in memory only if it can be tried soon.
    pub(crate) fn arrive(&mut self, key: &LaneKey, job: J, now: Timestamp) {
        let room = self.ready < READY_TOTAL_MAX;
        let lane = self.lanes.entry(key.clone()).or_insert_with(Lane::new);
        // Behind older mail in the store, or in a waiting lane, it takes its turn from the store.
        let keep = room && lane.ready.len() < READY_MAX && !lane.waits(now);
        let is_new = !lane.known.contains_key(&job.message());
        if keep
            && is_new
            && lane.stored_due.is_none_or(|at| at > now)
            && lane.reading != Reading::Now
        {
            lane.known.insert(job.message(), lane.fetches);
            lane.ready.push_back(job);
            self.ready += 1;
        } else {
            lane.stored(now);
        }
        self.list(key);
    }

    /// The store's answer to [`Action::Fetch`]: what is due, and when the next is due that is not in it.
    pub(crate) fn fetched(&mut self, key: &LaneKey, jobs: Vec<J>, next_due: Option<Timestamp>) {
        self.fetches = self.fetches.saturating_sub(1);
        if let Some(lane) = self.lanes.get_mut(key) {
            lane.reading = Reading::Not;
            lane.fetches += 1;
            if let Some(due) = next_due {
                lane.stored(due);
            }
            for job in jobs {
                if !lane.known.contains_key(&job.message()) {
                    lane.known.insert(job.message(), lane.fetches);
                    lane.ready.push_back(job);
                    self.ready += 1;
                }
            }
        }
        self.list(key);
        self.feed();
    }

    /// An attempt is over and settled. `due` is when the soonest of its recipients comes again.
    pub(crate) fn finished(
        &mut self,
        key: &LaneKey,
        message: MessageId,
        effect: Effect,
        due: Option<Timestamp>,
    ) {
        self.in_flight = self.in_flight.saturating_sub(1);
        let per_lane = self.limits.per_lane;
        let Some(lane) = self.lanes.get_mut(key) else { return };
        lane.in_flight = lane.in_flight.saturating_sub(1);
        let came = lane.known.remove(&message);
        if let Some(due) = due {
            lane.stored(due);
        }
        // Other recipients of the message that became due meanwhile were skipped.
        if lane.reading == Reading::Now || came.is_some_and(|came| came < lane.fetches) {
            lane.stored(Timestamp::MIN);
        }
        match effect {
            Effect::Works => {
                lane.window = lane.window.saturating_add(1).min(per_lane);
                lane.trouble = None;
                lane.retry_at = None;
            }
            Effect::Neutral => {}
            Effect::Failed { retry_at, trouble } => {
                lane.window = 1;
                lane.trouble = Some(trouble);
                lane.retry_at = Some(retry_at);
                self.ready -= unload(lane);
            }
            Effect::Throttled { retry_at } => {
                lane.window = (lane.window / 2).max(1);
                lane.retry_at = Some(retry_at);
                self.ready -= unload(lane);
            }
        }
        self.list(key);
        self.feed();
    }

    /// Nothing starts before `until`: the trouble is ours.
    pub(crate) fn pause(&mut self, until: Timestamp) {
        self.paused_until = Some(self.paused_until.map_or(until, |earlier| earlier.max(until)));
    }

    /// The operator wants `key` (or all lanes) tried now; what is due there stands in the store.
    pub(crate) fn retry_now(&mut self, key: Option<&LaneKey>, now: Timestamp) {
        let keys: Vec<LaneKey> = match key {
            Some(key) => vec![key.clone()],
            None => self.lanes.keys().cloned().collect(),
        };
        for key in keys {
            let lane = self.lanes.entry(key.clone()).or_insert_with(Lane::new);
            lane.retry_at = None;
            lane.stored(now);
            self.list(&key);
        }
    }

    /// Mail was taken out of the store by the operator: what is ready in memory may be gone.
    pub(crate) fn unload_all(&mut self, now: Timestamp) {
        let keys: Vec<LaneKey> = self.lanes.keys().cloned().collect();
        for key in keys {
            if let Some(lane) = self.lanes.get_mut(&key)
                && !lane.ready.is_empty()
            {
                self.ready -= unload(lane);
                lane.stored(now);
            }
            self.list(&key);
        }
    }

    /// The next thing to do now, if there is one.
    pub(crate) fn next(&mut self, now: Timestamp) -> Option<Action<J>> {
        self.wake(now);
        if self.paused_until.is_some_and(|at| at > now) {
            return None;
        }
        self.paused_until = None;
        while let Some(key) = self.runnable.pop_front() {
            let may_fetch = self.may_fetch();
            let Some(lane) = self.lanes.get_mut(&key) else { continue };
            lane.listed = false;
            if lane.waits(now) {
                self.sleep(&key, now);
                continue;
            }
            if lane.wants_fetch(now) && !may_fetch {
                if lane.reading == Reading::Not {
                    lane.reading = Reading::Starved;
                    self.starved.push_back(key.clone());
                }
            } else if lane.wants_fetch(now) {
                self.fetches += 1;
                lane.reading = Reading::Now;
                // What becomes due while the fetch runs is told by its answer or by `arrive`.
                lane.stored_due = None;
                let known = lane.known.keys().copied().collect();
                self.list(&key);
                return Some(Action::Fetch { lane: key, known });
            }
            if self.in_flight >= self.limits.total {
                self.list_front(&key);
                return None;
            }
            if let Some(action) = self.start(&key) {
                return Some(action);
            }
            self.sleep(&key, now);
        }
        None
    }

    /// When [`Lanes::next`] may have something again without a further event.
    pub(crate) fn next_wake(&self) -> Option<Timestamp> {
        let lane = self.waiting.peek().map(|Reverse((at, _))| *at);
        match (self.paused_until, lane) {
            (Some(pause), _) => Some(pause),
            (None, lane) => lane,
        }
    }

    /// Attempts that run.
    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight
    }

    fn start(&mut self, key: &LaneKey) -> Option<Action<J>> {
        let lane = self.lanes.get_mut(key)?;
        if lane.in_flight >= lane.window {
            return None;
        }
        let job = lane.ready.pop_front()?;
        self.ready -= 1;
        lane.in_flight += 1;
        self.in_flight += 1;
        let trouble = lane.trouble;
        let company = if lane.in_flight == 1 { Company::Alone } else { Company::Others };
        self.list(key);
        Some(Action::Start { lane: key.clone(), trouble, company, job })
    }

    fn may_fetch(&self) -> bool {
        self.fetches < FETCHES_MAX && self.ready < READY_TOTAL_MAX
    }

    /// Lists starved lanes again, as many as may be read now.
    fn feed(&mut self) {
        if self.may_fetch() {
            for _ in self.fetches..FETCHES_MAX {
                let Some(key) = self.starved.pop_front() else { return };
                if let Some(lane) = self.lanes.get_mut(&key)
                    && lane.reading == Reading::Starved
                {
                    lane.reading = Reading::Not;
                }
                self.list(&key);
            }
        }
    }

    /// Puts the lane in the row of those in which something may be possible.
    fn list(&mut self, key: &LaneKey) {
        if let Some(lane) = self.lanes.get_mut(key)
            && !std::mem::replace(&mut lane.listed, true)
        {
            self.runnable.push_back(key.clone());
        }
    }

    fn list_front(&mut self, key: &LaneKey) {
        if let Some(lane) = self.lanes.get_mut(key)
            && !std::mem::replace(&mut lane.listed, true)
        {
            self.runnable.push_front(key.clone());
        }
    }

    /// Nothing can be done in the lane now: note when it can, or forget the lane.
    fn sleep(&mut self, key: &LaneKey, now: Timestamp) {
        let Some(lane) = self.lanes.get_mut(key) else { return };
        if lane.is_idle(now) {
            self.lanes.remove(key);
            return;
        }
        let Some(at) = lane.wakes_at(now) else { return };
        if lane.alarm.is_none_or(|alarm| at < alarm) {
            lane.alarm = Some(at);
            self.waiting.push(Reverse((at, key.clone())));
        }
    }

    /// Lists the lanes whose time has come.
    fn wake(&mut self, now: Timestamp) {
        while self.waiting.peek().is_some_and(|Reverse((at, _))| *at <= now) {
            let Some(Reverse((at, key))) = self.waiting.pop() else { return };
            if let Some(lane) = self.lanes.get_mut(&key) {
                if lane.alarm == Some(at) {
                    lane.alarm = None;
                }
                self.list(&key);
            }
        }
    }
}

/// Gives the ready jobs back to the store's care; returns how many.
fn unload<J: Job>(lane: &mut Lane<J>) -> usize {
    let count = lane.ready.len();
    for job in lane.ready.drain(..) {
        lane.known.remove(&job.message());
    }
    if count > 0 {
        lane.stored(Timestamp::MIN);
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq)]
    struct Letter(u128);

    impl Job for Letter {
        fn message(&self) -> MessageId {
            MessageId::from_u128(self.0)
        }
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn key(name: &str) -> LaneKey {
        LaneKey::new(name)
    }

    fn lanes() -> Lanes<Letter> {
        Lanes::new(Limits { per_lane: 3, total: 100 })
    }

    /// Starts whatever can be started now, and returns the started messages.
    fn start_all(lanes: &mut Lanes<Letter>, now: i64) -> Vec<u128> {
        let mut started = Vec::new();
        while let Some(action) = lanes.next(at(now)) {
            match action {
                Action::Start { job, .. } => started.push(job.0),
                Action::Fetch { .. } => panic!("nothing is in the store"),
            }
        }
        started
    }

    fn finish(lanes: &mut Lanes<Letter>, lane: &str, id: u128, effect: Effect) {
        lanes.finished(&key(lane), MessageId::from_u128(id), effect, None);
    }

    fn failed(retry_at: i64) -> Effect {
        let trouble = Trouble { failures: 1, since: at(0) };
        Effect::Failed { retry_at: at(retry_at), trouble }
    }

    #[test]
    fn a_new_lane_starts_with_one_and_grows_with_each_success() {
        let mut lanes = lanes();
        for id in 1..=9 {
            lanes.arrive(&key("a"), Letter(id), at(0));
        }
        assert_eq!(start_all(&mut lanes, 0), [1]);
        finish(&mut lanes, "a", 1, Effect::Works);
        assert_eq!(start_all(&mut lanes, 0), [2, 3]);
        finish(&mut lanes, "a", 2, Effect::Works);
        assert_eq!(start_all(&mut lanes, 0), [4, 5]);
        finish(&mut lanes, "a", 3, Effect::Works);
        assert_eq!(start_all(&mut lanes, 0), [6], "never more than the limit of three");
    }

    #[test]
    fn a_failed_lane_waits_and_is_probed_by_one_message() {
        let mut lanes = lanes();
        for id in 1..=5 {
            lanes.arrive(&key("dead"), Letter(id), at(0));
        }
        assert_eq!(start_all(&mut lanes, 0), [1]);
        finish(&mut lanes, "dead", 1, failed(300));
        assert!(lanes.next(at(299)).is_none(), "it waits");
        assert_eq!(lanes.next_wake(), Some(at(300)));
        lanes.arrive(&key("dead"), Letter(6), at(299));
        assert!(lanes.next(at(299)).is_none(), "also what arrives meanwhile");
        let Some(Action::Fetch { lane, .. }) = lanes.next(at(300)) else {
            panic!("the rest is read from the store")
        };
        lanes.fetched(&lane, vec![Letter(2), Letter(3), Letter(4)], None);
        assert_eq!(start_all(&mut lanes, 300), [2]);
    }

    #[test]
    fn a_failing_lane_does_not_hold_another_up() {
        let mut lanes = lanes();
        lanes.arrive(&key("dead"), Letter(1), at(0));
        lanes.arrive(&key("good"), Letter(2), at(0));
        assert_eq!(start_all(&mut lanes, 0), [1, 2]);
        finish(&mut lanes, "dead", 1, failed(300));
        finish(&mut lanes, "good", 2, Effect::Works);
        lanes.arrive(&key("good"), Letter(3), at(1));
        assert_eq!(start_all(&mut lanes, 1), [3]);
    }

    #[test]
    fn a_message_in_flight_is_not_started_again_by_a_fetch() {
        let mut lanes = lanes();
        lanes.arrive(&key("a"), Letter(1), at(0));
        assert_eq!(start_all(&mut lanes, 0), [1]);
        lanes.retry_now(Some(&key("a")), at(0));
        let Some(Action::Fetch { lane, known }) = lanes.next(at(0)) else { panic!("a fetch") };
        assert_eq!(known, HashSet::from([MessageId::from_u128(1)]));
        lanes.fetched(&lane, vec![Letter(1), Letter(2)], None);
        assert_eq!(start_all(&mut lanes, 0), [], "the window is one");
        finish(&mut lanes, "a", 1, Effect::Works);
        let Some(Action::Fetch { lane, .. }) = lanes.next(at(0)) else { panic!("another look") };
        lanes.fetched(&lane, Vec::new(), None);
        assert_eq!(start_all(&mut lanes, 0), [2]);
    }

    #[test]
    fn what_a_fetch_skipped_is_looked_for_when_the_message_is_done() {
        let mut lanes = lanes();
        lanes.arrive(&key("a"), Letter(1), at(0));
        assert_eq!(start_all(&mut lanes, 0), [1]);
        lanes.retry_now(Some(&key("a")), at(0));
        let Some(Action::Fetch { lane, .. }) = lanes.next(at(0)) else { panic!("a fetch") };
        // Another recipient of message 1 is due too, and left out, since 1 is in flight.
        lanes.fetched(&lane, Vec::new(), None);
        assert!(lanes.next(at(0)).is_none());
        finish(&mut lanes, "a", 1, Effect::Works);
        assert!(matches!(lanes.next(at(0)), Some(Action::Fetch { .. })));

        lanes.fetched(&lane, vec![Letter(1)], None);
        assert_eq!(start_all(&mut lanes, 0), [1]);
        finish(&mut lanes, "a", 1, Effect::Works);
        assert!(lanes.next(at(0)).is_none(), "and nothing more when nothing was skipped");
    }

    #[test]
    fn a_deferred_recipient_comes_back_when_it_is_due() {
        let mut lanes = lanes();
        lanes.arrive(&key("a"), Letter(1), at(0));
        assert_eq!(start_all(&mut lanes, 0), [1]);
        lanes.finished(&key("a"), MessageId::from_u128(1), Effect::Neutral, Some(at(60)));
        assert!(lanes.next(at(59)).is_none());
        assert_eq!(lanes.next_wake(), Some(at(60)));
        assert!(matches!(lanes.next(at(60)), Some(Action::Fetch { .. })));
    }

    #[test]
    fn a_backlog_stays_in_the_store() {
        let mut lanes = lanes();
        for id in 0..1_000 {
            lanes.arrive(&key("big"), Letter(id), at(0));
        }
        assert_eq!(lanes.ready, READY_MAX);
    }

    #[test]
    fn a_queue_of_many_lanes_is_read_a_few_at_a_time() {
        let mut lanes = lanes();
        for id in 0..100 {
            lanes.restore(key(&format!("lane{id}")), None, Some(at(0)));
        }
        let mut fetches = Vec::new();
        while let Some(Action::Fetch { lane, .. }) = lanes.next(at(0)) {
            fetches.push(lane);
        }
        assert_eq!(fetches.len(), FETCHES_MAX);
        let mut read = 0;
        while let Some(lane) = fetches.pop() {
            lanes.fetched(&lane, Vec::new(), None);
            read += 1;
            while let Some(Action::Fetch { lane, .. }) = lanes.next(at(0)) {
                fetches.push(lane);
            }
            assert!(fetches.len() <= FETCHES_MAX);
        }
        assert_eq!(read, 100, "each lane gets its turn");
        assert!(lanes.lanes.is_empty() && lanes.starved.is_empty());
    }

    #[test]
    fn an_empty_lane_is_forgotten() {
        let mut lanes = lanes();
        lanes.arrive(&key("a"), Letter(1), at(0));
        assert_eq!(start_all(&mut lanes, 0), [1]);
        finish(&mut lanes, "a", 1, Effect::Works);
        assert!(lanes.next(at(0)).is_none());
        assert!(lanes.lanes.is_empty() && lanes.waiting.is_empty());
    }

    #[test]
    fn trouble_of_our_own_pauses_everything() {
        let mut lanes = lanes();
        lanes.pause(at(10));
        lanes.arrive(&key("a"), Letter(1), at(0));
        assert!(lanes.next(at(9)).is_none());
        assert_eq!(lanes.next_wake(), Some(at(10)));
        assert_eq!(start_all(&mut lanes, 10), [1]);
    }

    #[test]
    fn the_total_limit_holds_over_all_lanes_and_loses_nobodys_turn() {
        let mut lanes = Lanes::new(Limits { per_lane: 3, total: 2 });
        for id in 1..=4 {
            lanes.arrive(&key(&format!("lane{id}")), Letter(id), at(0));
        }
        assert_eq!(start_all(&mut lanes, 0), [1, 2]);
        finish(&mut lanes, "lane1", 1, Effect::Works);
        finish(&mut lanes, "lane2", 2, Effect::Works);
        assert_eq!(start_all(&mut lanes, 0), [3, 4]);
    }
}
