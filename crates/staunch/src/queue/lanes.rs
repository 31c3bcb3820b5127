//! Which mail is tried next? The order, without disk, network or clock.
//!
//! A *lane* is everything for one next hop. It is the unit of patience: when its hosts fail, the lane
//! waits, and one message probes it when the wait is over, however many are queued behind. So a dead
//! or slow domain costs others nothing, and a failing host is asked once and not once per message.
//!
//! Memory holds lanes, not messages: a lane keeps a few jobs ready, the store has the rest.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::time::Duration;

use jiff::Timestamp;
use spool::{LaneKey, MessageId};

use super::lane::{Gate, Job, Lane, Reading};
use super::shaping::{Limits, Pause};
use crate::schedule::after;

/// Jobs all lanes together keep in memory.
const READY_TOTAL_MAX: usize = 8_192;
/// The longest pause that trouble of our own can ask for. Ours: it is seconds.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// Lanes that are read from the store at once. Ours: reads are short, and the disk is one.
const FETCHES_MAX: usize = 4;

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
    /// It is, and stays so until it has ended.
    Alone,
    /// Others run too, or may begin to.
    Others,
}

/// What an attempt taught about its lane.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Effect {
    /// A host took mail: more may run at once.
    Works,
    /// A host answered, but took nothing: whatever it has against the mail, it works.
    Answers,
    /// Nothing was learnt: the trouble was the message's or ours.
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

/// All lanes.
#[derive(Debug)]
pub(crate) struct Lanes<J> {
    lanes: HashMap<LaneKey, Lane<J>>,
    /// Lanes in which something may be possible now, in turn.
    runnable: VecDeque<LaneKey>,
    /// Lanes that want to be read from the store, first come, first served.
    to_read: VecDeque<LaneKey>,
    /// Lanes that are being read.
    fetches: usize,
    /// Lanes that wait, by time; each once.
    waiting: BTreeSet<(Timestamp, LaneKey)>,
    limits: Limits,
    in_flight: u32,
    /// Attempts in flight of lanes in trouble.
    probes: u32,
    /// Lanes in trouble that wait until fewer of these run.
    held: VecDeque<LaneKey>,
    /// Does something wait for nothing but a place?
    is_full: bool,
    ready: usize,
    pause: Pause,
    /// Trouble of our own (disk, DNS, descriptors): nothing starts before this time.
    paused_until: Option<Timestamp>,
}

impl<J: Job> Lanes<J> {
    /// No lanes yet.
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            lanes: HashMap::new(),
            runnable: VecDeque::new(),
            to_read: VecDeque::new(),
            fetches: 0,
            waiting: BTreeSet::new(),
            limits,
            in_flight: 0,
            probes: 0,
            held: VecDeque::new(),
            is_full: false,
            ready: 0,
            pause: Pause::None,
            paused_until: None,
        }
    }

    /// As many attempts at once from now on. Those that run end by themselves.
    pub(crate) fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
        for (key, lane) in &mut self.lanes {
            lane.shape = self.limits.of(key);
            lane.window = lane.window.min(lane.shape.most);
        }
        self.list_all();
    }

    /// Stops what `pause` names and lets everything else go on. What runs ends by itself.
    pub(crate) fn set_pause(&mut self, pause: Pause) {
        self.pause = pause;
        for (key, lane) in &mut self.lanes {
            lane.gate = self.pause.gate(key);
            if lane.gate == Gate::Closed {
                // Bodies in memory are for mail that goes soon.
                self.ready -= lane.unload();
            }
        }
        self.list_all();
    }

    /// Nothing starts in the lane until [`Lanes::thaw`]: its mail is to be moved. Returns what is under
    /// way there.
    pub(crate) fn freeze(&mut self, key: &LaneKey) -> HashSet<MessageId> {
        let lane = self.lane(key);
        lane.is_frozen = true;
        self.removed(key);
        self.lanes.get(key).map(|lane| lane.known.keys().copied().collect()).unwrap_or_default()
    }

    /// The lane goes on with what was not moved.
    pub(crate) fn thaw(&mut self, key: &LaneKey, now: Timestamp) {
        if let Some(lane) = self.lanes.get_mut(key) {
            lane.is_frozen = false;
            lane.stored(now);
        }
        self.list(key);
    }

    /// There may be something in the store that is due in the lane at `at`.
    pub(crate) fn due(&mut self, key: &LaneKey, at: Timestamp) {
        self.lane(key).stored(at);
        self.list(key);
    }

    fn lane(&mut self, key: &LaneKey) -> &mut Lane<J> {
        let (limits, pause) = (&self.limits, &self.pause);
        let new = || Lane::new(limits.of(key), pause.gate(key));
        self.lanes.entry(key.clone()).or_insert_with(new)
    }

    /// A lane as the store remembers it: its back-off and the earliest due recipient.
    pub(crate) fn restore(
        &mut self,
        key: LaneKey,
        back_off: Option<(Trouble, Timestamp)>,
        due: Option<Timestamp>,
    ) {
        let lane = self.lane(&key);
        lane.trouble = back_off.map(|(trouble, _)| trouble);
        lane.retry_at = back_off.map(|(_, retry_at)| retry_at);
        lane.stored_due = due;
        self.list(&key);
    }

    /// A job that was just accepted. It is kept in memory only if it can be tried soon.
    pub(crate) fn arrive(&mut self, key: &LaneKey, job: J, now: Timestamp) {
        let room = self.ready < READY_TOTAL_MAX;
        let lane = self.lane(key);
        // Behind older mail in the store, or in a waiting lane, it takes its turn from the store.
        let keep = room && lane.ready.len() < lane.room() && !lane.waits(now);
        let is_new = !lane.known.contains_key(&job.message());
        if keep
            && is_new
            && lane.stored_due.is_none_or(|at| at > now)
            && !lane.reading.is_under_way()
        {
            lane.take(job);
            self.ready += 1;
        } else {
            lane.stored(now);
        }
        self.list(key);
    }

    /// The store's answer to [`Action::Fetch`]: what is due, and when the next is due that is not in it.
    pub(crate) fn fetched(
        &mut self,
        key: &LaneKey,
        jobs: Vec<J>,
        next_due: Option<Timestamp>,
        now: Timestamp,
    ) {
        self.fetches = self.fetches.saturating_sub(1);
        if let Some(lane) = self.lanes.get_mut(key) {
            let is_of_use = lane.reading == Reading::Now && !lane.waits(now);
            lane.reading = Reading::Not;
            lane.fetches += 1;
            if let Some(due) = next_due {
                lane.stored(due);
            }
            for job in jobs {
                if lane.known.contains_key(&job.message()) {
                    continue;
                }
                if is_of_use && lane.ready.len() < lane.room() {
                    lane.take(job);
                    self.ready += 1;
                } else {
                    lane.stored(Timestamp::MIN);
                }
            }
        }
        self.list(key);
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
        let Some(lane) = self.lanes.get_mut(key) else { return };
        lane.in_flight = lane.in_flight.saturating_sub(1);
        if lane.probes > 0 {
            lane.probes -= 1;
            self.probes = self.probes.saturating_sub(1);
        }
        let came = lane.known.remove(&message);
        if let Some(due) = due {
            lane.stored(due);
        }
        // Other recipients of the message that became due meanwhile were skipped.
        if lane.reading.is_under_way() || came.is_some_and(|came| came < lane.fetches) {
            lane.stored(Timestamp::MIN);
        }
        match effect {
            Effect::Works => {
                lane.window = lane.window.saturating_add(1).min(lane.shape.most);
                lane.trouble = None;
                lane.retry_at = None;
            }
            Effect::Answers => {
                if lane.trouble.take().is_some() {
                    lane.retry_at = None;
                }
            }
            Effect::Neutral => {}
            Effect::Failed { retry_at, trouble } => {
                lane.window = 1;
                // Attempts that failed side by side are one failure.
                if lane.trouble.is_none_or(|known| known.failures < trouble.failures) {
                    lane.trouble = Some(trouble);
                    lane.retry_at = Some(retry_at);
                }
                self.ready -= lane.unload();
            }
            Effect::Throttled { retry_at } => {
                lane.window = (lane.window / 2).max(1);
                lane.retry_at = Some(retry_at);
                self.ready -= lane.unload();
            }
        }
        self.list(key);
        // Its place may be one that they wait for.
        if let Some(held) = self.next_held() {
            self.runnable.push_back(held);
        }
    }

    /// Nothing starts before `until`: the trouble is ours.
    pub(crate) fn pause(&mut self, until: Timestamp) {
        self.paused_until = Some(self.paused_until.map_or(until, |earlier| earlier.max(until)));
    }

    /// The operator wants `key` tried now; what is due there stands in the store.
    pub(crate) fn retry_now(&mut self, key: &LaneKey, now: Timestamp) {
        let lane = self.lane(key);
        lane.retry_at = None;
        lane.stored(now);
        self.list(key);
    }

    /// Nothing waits longer than until `latest`: a clock that was ahead has set such times. The others stay.
    pub(crate) fn cut_waits(&mut self, now: Timestamp, latest: Timestamp) {
        let times = |lane: &Lane<J>| [lane.retry_at, lane.stored_due].into_iter().flatten();
        let far = self.lanes.iter_mut().filter(|(_, lane)| times(lane).any(|at| at > latest));
        let cut = far.map(|(key, lane)| {
            lane.retry_at = lane.retry_at.filter(|at| *at <= latest);
            lane.stored(now);
            key.clone()
        });
        cut.collect::<Vec<_>>().iter().for_each(|key| self.list(key));
    }

    /// The operator took mail of the lane out of the store: what is in memory, or comes there, may be gone.
    pub(crate) fn removed(&mut self, key: &LaneKey) {
        let Some(lane) = self.lanes.get_mut(key) else { return };
        if lane.reading == Reading::Now {
            lane.reading = Reading::Outdated;
        }
        self.ready -= lane.unload();
        self.list(key);
    }

    /// The next thing to do now, if there is one.
    pub(crate) fn next(&mut self, now: Timestamp) -> Option<Action<J>> {
        self.wake(now);
        self.is_full = false;
        // A clock that was ahead may have set it.
        if self.paused_until.is_some_and(|at| at > now && at <= after(now, PAUSE_MAX)) {
            return None;
        }
        self.paused_until = None;
        loop {
            if let Some(key) = self.next_to_read() {
                if let Some(fetch) = self.fetch(key, now) {
                    return Some(fetch);
                }
                continue;
            }
            let key = self.runnable.pop_front().or_else(|| self.next_held())?;
            let Some(lane) = self.lanes.get_mut(&key) else { continue };
            lane.listed = false;
            if lane.waits(now) {
                self.sleep(&key, now);
                continue;
            }
            let (can_start, is_in_trouble) = (lane.can_start(now), lane.trouble.is_some());
            if lane.reading == Reading::Not && lane.wants_fetch(now) {
                lane.reading = Reading::Soon;
                self.to_read.push_back(key.clone());
                if self.may_fetch() {
                    self.list_front(&key);
                    continue;
                }
            }
            if !can_start {
                self.sleep(&key, now);
            } else if self.in_flight >= self.limits.total {
                self.is_full = true;
                self.list_front(&key);
                return None;
            } else if is_in_trouble && self.probes >= self.limits.for_trouble() {
                self.hold(key);
            } else if let Some(action) = self.start(&key, now) {
                return Some(action);
            }
        }
    }

    /// When [`Lanes::next`] may have something again without a further event.
    pub(crate) fn next_wake(&self) -> Option<Timestamp> {
        let lane = self.waiting.first().map(|(at, _)| *at);
        match (self.paused_until, lane) {
            (Some(pause), _) => Some(pause),
            (None, lane) => lane,
        }
    }

    /// Does mail wait for nothing but a place that another attempt holds?
    pub(crate) fn is_full(&self) -> bool {
        self.is_full
    }

    /// Attempts that run.
    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight
    }

    fn start(&mut self, key: &LaneKey, now: Timestamp) -> Option<Action<J>> {
        let lane = self.lanes.get_mut(key)?;
        let job = lane.ready.pop_front()?;
        self.ready -= 1;
        lane.in_flight += 1;
        self.in_flight += 1;
        lane.turn = lane.shape.interval.map(|interval| after(now, interval));
        let trouble = lane.trouble;
        if trouble.is_some() {
            lane.probes += 1;
            self.probes += 1;
        }
        // With a window of one nothing else starts before this one has ended.
        let is_alone = lane.in_flight == 1 && lane.window == 1;
        let company = if is_alone { Company::Alone } else { Company::Others };
        self.list(key);
        Some(Action::Start { lane: key.clone(), trouble, company, job })
    }

    fn may_fetch(&self) -> bool {
        self.fetches < FETCHES_MAX && self.ready < READY_TOTAL_MAX
    }

    /// The lane whose turn it is to be read from the store, if one more may be read now.
    fn next_to_read(&mut self) -> Option<LaneKey> {
        if self.may_fetch() { self.to_read.pop_front() } else { None }
    }

    fn fetch(&mut self, key: LaneKey, now: Timestamp) -> Option<Action<J>> {
        let lane = self.lanes.get_mut(&key)?;
        lane.reading = Reading::Not;
        if lane.waits(now) || !lane.wants_fetch(now) {
            self.list(&key);
            return None;
        }
        self.fetches += 1;
        lane.reading = Reading::Now;
        // What becomes due while the fetch runs is told by its answer or by `arrive`.
        lane.stored_due = None;
        let known = lane.known.keys().copied().collect();
        Some(Action::Fetch { lane: key, known })
    }

    /// Puts the lane in the row of those in which something may be possible.
    fn list(&mut self, key: &LaneKey) {
        if let Some(lane) = self.lanes.get_mut(key)
            && !std::mem::replace(&mut lane.listed, true)
        {
            self.runnable.push_back(key.clone());
        }
    }

    fn list_all(&mut self) {
        for (key, lane) in &mut self.lanes {
            if !std::mem::replace(&mut lane.listed, true) {
                self.runnable.push_back(key.clone());
            }
        }
    }

    /// Puts the lane in the row of those that wait until fewer in trouble run; nothing else lists it.
    fn hold(&mut self, key: LaneKey) {
        if let Some(lane) = self.lanes.get_mut(&key) {
            lane.listed = true;
            self.held.push_back(key);
        }
    }

    /// The first of these that may go on now.
    fn next_held(&mut self) -> Option<LaneKey> {
        if self.probes < self.limits.for_trouble() { self.held.pop_front() } else { None }
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
        let at = lane.wakes_at(now);
        if lane.alarm != at {
            if let Some(old) = lane.alarm.take() {
                self.waiting.remove(&(old, key.clone()));
            }
            if let Some(at) = at {
                self.waiting.insert((at, key.clone()));
            }
            lane.alarm = at;
        }
        if lane.is_idle(now) {
            self.lanes.remove(key);
        }
    }

    /// Lists the lanes whose time has come.
    fn wake(&mut self, now: Timestamp) {
        while self.waiting.first().is_some_and(|(at, _)| *at <= now) {
            let Some((_, key)) = self.waiting.pop_first() else { return };
            if let Some(lane) = self.lanes.get_mut(&key) {
                lane.alarm = None;
                self.list(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::lane::READY_PER_ATTEMPT;
    use super::*;
    use crate::config::{DomainPattern, Limit};

    fn limits(per_lane: u32, total: u32) -> Limits {
        Limits { per_lane, total, limits: Vec::new() }
    }

    #[derive(Debug, PartialEq)]
    struct Letter(u128);

    impl Job for Letter {
        fn message(&self) -> MessageId {
            MessageId::from_u128(self.0)
        }

        /// Some letters are urgent: the number in the millions is seconds of a head start.
        fn turn(&self) -> Timestamp {
            at(-i64::try_from(self.0 / 1_000_000).unwrap())
        }
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn key(name: &str) -> LaneKey {
        LaneKey::new(name)
    }

    fn lanes() -> Lanes<Letter> {
        Lanes::new(limits(3, 100))
    }

    #[test]
    fn urgent_mail_is_started_before_what_waits_in_memory() {
        let mut lanes = Lanes::new(limits(3, 100));
        for letter in [1, 2, 7_000_003, 9_000_004, 7_000_005] {
            lanes.arrive(&key("a"), Letter(letter), at(0));
        }
        let mut order = Vec::new();
        while let Some(Action::Start { job, .. }) = lanes.next(at(0)) {
            order.push(job.0);
            lanes.finished(&key("a"), job.message(), Effect::Neutral, None);
        }
        // As many as are kept ready; the others take their turn from the store.
        assert_eq!(order[..4], [9_000_004, 7_000_003, 1, 2]);
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
        for id in 1..=4 {
            lanes.arrive(&key("a"), Letter(id), at(0));
        }
        assert_eq!(start_all(&mut lanes, 0), [1]);
        finish(&mut lanes, "a", 1, Effect::Works);
        assert_eq!(start_all(&mut lanes, 0), [2, 3]);
        for id in 5..=9 {
            lanes.arrive(&key("a"), Letter(id), at(0));
        }
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
        lanes.fetched(&lane, vec![Letter(2), Letter(3), Letter(4)], None, at(300));
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
        lanes.retry_now(&key("a"), at(0));
        let Some(Action::Fetch { lane, known }) = lanes.next(at(0)) else { panic!("a fetch") };
        assert_eq!(known, HashSet::from([MessageId::from_u128(1)]));
        lanes.fetched(&lane, vec![Letter(1), Letter(2)], None, at(0));
        assert_eq!(start_all(&mut lanes, 0), [], "the window is one");
        finish(&mut lanes, "a", 1, Effect::Works);
        let Some(Action::Fetch { lane, .. }) = lanes.next(at(0)) else { panic!("another look") };
        lanes.fetched(&lane, Vec::new(), None, at(0));
        assert_eq!(start_all(&mut lanes, 0), [2]);
    }

    #[test]
    fn what_a_fetch_skipped_is_looked_for_when_the_message_is_done() {
        let mut lanes = lanes();
        lanes.arrive(&key("a"), Letter(1), at(0));
        assert_eq!(start_all(&mut lanes, 0), [1]);
        lanes.retry_now(&key("a"), at(0));
        let Some(Action::Fetch { lane, .. }) = lanes.next(at(0)) else { panic!("a fetch") };
        // Another recipient of message 1 is due too, and left out, since 1 is in flight.
        lanes.fetched(&lane, Vec::new(), None, at(0));
        assert!(lanes.next(at(0)).is_none());
        finish(&mut lanes, "a", 1, Effect::Works);
        assert!(matches!(lanes.next(at(0)), Some(Action::Fetch { .. })));

        lanes.fetched(&lane, vec![Letter(1)], None, at(0));
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
        assert_eq!(lanes.ready, READY_PER_ATTEMPT, "a new lane has one attempt at once");
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
            lanes.fetched(&lane, Vec::new(), None, at(0));
            read += 1;
            while let Some(Action::Fetch { lane, .. }) = lanes.next(at(0)) {
                fetches.push(lane);
            }
            assert!(fetches.len() <= FETCHES_MAX);
        }
        assert_eq!(read, 100, "each lane gets its turn");
        assert!(lanes.lanes.is_empty() && lanes.to_read.is_empty());
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
    fn slow_lanes_do_not_fill_the_memory_that_all_share() {
        let mut lanes = Lanes::new(limits(20, 1_000));
        for slow in 0..500 {
            for id in 0..100 {
                lanes.arrive(&key(&format!("slow{slow}")), Letter(id), at(0));
            }
        }
        start_all_but_reads(&mut lanes, 0);
        lanes.arrive(&key("quick"), Letter(7), at(0));
        assert_eq!(start_all_but_reads(&mut lanes, 0), [7], "straight from memory");
    }

    /// As `start_all`, with reads that are never answered.
    fn start_all_but_reads(lanes: &mut Lanes<Letter>, now: i64) -> Vec<u128> {
        let job = |action: Action<Letter>| match action {
            Action::Start { job, .. } => Some(job.0),
            Action::Fetch { .. } => None,
        };
        std::iter::from_fn(|| lanes.next(at(now))).filter_map(job).collect()
    }

    #[test]
    fn a_turn_to_be_read_that_is_not_used_goes_to_the_next() {
        let mut lanes = lanes();
        for id in 0..10 {
            lanes.restore(key(&format!("lane{id}")), None, Some(at(0)));
        }
        let reads: Vec<_> = std::iter::from_fn(|| lanes.next(at(0))).collect();
        assert_eq!(reads.len(), FETCHES_MAX);
        // Those that wait for their turn begin to wait for something else.
        for id in 4..9 {
            lanes.lanes.get_mut(&key(&format!("lane{id}"))).unwrap().retry_at = Some(at(500));
        }
        for action in reads {
            let Action::Fetch { lane, .. } = action else { panic!("nothing is in memory") };
            lanes.fetched(&lane, Vec::new(), None, at(0));
        }
        let Some(Action::Fetch { lane, .. }) = lanes.next(at(0)) else { panic!("stuck") };
        assert_eq!(lane, key("lane9"));
        assert!(lanes.next(at(0)).is_none());
        assert_eq!(lanes.next_wake(), Some(at(500)));
    }

    #[test]
    fn what_was_deleted_while_it_was_read_is_read_again() {
        let mut lanes = lanes();
        lanes.restore(key("a"), None, Some(at(0)));
        let Some(Action::Fetch { lane, .. }) = lanes.next(at(0)) else { panic!("a fetch") };
        lanes.removed(&key("a"));
        lanes.fetched(&lane, vec![Letter(1)], None, at(0));
        assert!(matches!(lanes.next(at(0)), Some(Action::Fetch { .. })), "1 may be gone");
        lanes.fetched(&lane, vec![Letter(2)], None, at(0));
        assert_eq!(start_all(&mut lanes, 0), [2]);
    }

    #[test]
    fn what_was_deleted_is_not_started_from_memory() {
        let mut lanes = lanes();
        for id in 1..=2 {
            lanes.arrive(&key("a"), Letter(id), at(0));
        }
        assert_eq!(start_all(&mut lanes, 0), [1]);
        lanes.removed(&key("a"));
        lanes.finished(&key("a"), MessageId::from_u128(1), Effect::Works, None);
        assert!(matches!(lanes.next(at(0)), Some(Action::Fetch { .. })));
    }

    #[test]
    fn an_attempt_is_alone_only_if_nothing_can_join_it() {
        let mut lanes = lanes();
        let company = |lanes: &mut Lanes<Letter>| match lanes.next(at(0)) {
            Some(Action::Start { company, .. }) => company,
            other => panic!("{other:?}"),
        };
        lanes.arrive(&key("a"), Letter(1), at(0));
        assert_eq!(company(&mut lanes), Company::Alone);
        finish(&mut lanes, "a", 1, Effect::Works);
        lanes.arrive(&key("a"), Letter(2), at(0));
        assert_eq!(company(&mut lanes), Company::Others, "there is room for a second one");
    }

    #[test]
    fn failures_side_by_side_count_once_and_an_answer_ends_them() {
        let mut lanes = lanes();
        lanes.arrive(&key("a"), Letter(1), at(0));
        assert_eq!(start_all(&mut lanes, 0), [1]);
        finish(&mut lanes, "a", 1, Effect::Works);
        for id in 2..=3 {
            lanes.arrive(&key("a"), Letter(id), at(0));
        }
        assert_eq!(start_all(&mut lanes, 0), [2, 3]);
        finish(&mut lanes, "a", 2, failed(300));
        finish(&mut lanes, "a", 3, failed(310));
        assert!(lanes.next(at(0)).is_none());
        assert_eq!(lanes.next_wake(), Some(at(300)));
        for id in 4..=5 {
            lanes.arrive(&key("a"), Letter(id), at(300));
        }
        let Some(Action::Start { trouble, .. }) = lanes.next(at(300)) else { panic!("a probe") };
        assert_eq!(trouble.map(|trouble| trouble.failures), Some(1));
        finish(&mut lanes, "a", 4, Effect::Answers);
        let Some(Action::Start { trouble, .. }) = lanes.next(at(300)) else { panic!("the next") };
        assert_eq!(trouble, None);
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
    fn a_pause_that_a_wrong_clock_has_set_does_not_hold() {
        let mut lanes = lanes();
        lanes.pause(at(30 * 24 * 3600));
        lanes.arrive(&key("a"), Letter(1), at(0));
        assert_eq!(start_all(&mut lanes, 0), [1]);
    }

    #[test]
    fn waits_that_a_wrong_clock_has_set_are_cut_and_no_others() {
        let mut lanes = lanes();
        for (lane, id, retry_at) in [("far", 1, 30 * 24 * 3600), ("near", 2, 100)] {
            lanes.arrive(&key(lane), Letter(id), at(0));
            assert_eq!(start_all(&mut lanes, 0), [id]);
            let trouble = Trouble { failures: 1, since: at(0) };
            let effect = Effect::Failed { retry_at: at(retry_at), trouble };
            lanes.finished(&key(lane), Letter(id).message(), effect, Some(at(retry_at)));
        }
        lanes.cut_waits(at(1), at(100));
        let Some(Action::Fetch { lane, .. }) = lanes.next(at(1)) else { panic!("it is due") };
        assert_eq!(lane, key("far"));
        assert!(lanes.next(at(99)).is_none());
        assert!(matches!(lanes.next(at(100)), Some(Action::Fetch { .. })));
    }

    #[test]
    fn a_pause_stops_what_it_names_and_forgets_nothing() {
        let mut lanes = lanes();
        for (lane, id) in [("a", 1), ("a", 2), ("b", 3)] {
            lanes.arrive(&key(lane), Letter(id), at(0));
        }
        assert_eq!(start_all(&mut lanes, 0), [1, 3]);
        lanes.set_pause(Pause::Lanes(HashSet::from([key("a"), key("new")])));
        finish(&mut lanes, "a", 1, Effect::Works);
        finish(&mut lanes, "b", 3, Effect::Works);
        for (lane, id) in [("b", 4), ("a", 5), ("new", 6)] {
            lanes.arrive(&key(lane), Letter(id), at(1));
        }
        assert_eq!(start_all(&mut lanes, 1), [4]);
        assert_eq!(
            (lanes.next_wake(), lanes.ready),
            (None, 0),
            "nothing is due, nothing in memory"
        );

        lanes.set_pause(Pause::All);
        finish(&mut lanes, "b", 4, Effect::Works);
        lanes.arrive(&key("b"), Letter(7), at(2));
        assert!(lanes.next(at(2)).is_none());

        lanes.set_pause(Pause::None);
        let mut read = HashSet::new();
        while let Some(Action::Fetch { lane, .. }) = lanes.next(at(3)) {
            read.insert(lane);
        }
        assert_eq!(read, HashSet::from([key("a"), key("b"), key("new")]));
    }

    #[test]
    fn a_frozen_lane_starts_nothing_until_its_mail_was_moved() {
        let mut lanes = lanes();
        lanes.arrive(&key("a"), Letter(1), at(0));
        assert_eq!(start_all(&mut lanes, 0), [1]);
        lanes.retry_now(&key("a"), at(0));
        let Some(Action::Fetch { lane, .. }) = lanes.next(at(0)) else { panic!("a fetch") };
        assert_eq!(lanes.freeze(&key("a")), HashSet::from([MessageId::from_u128(1)]));
        // What was read before it was frozen may have been moved.
        lanes.fetched(&lane, vec![Letter(2)], None, at(0));
        finish(&mut lanes, "a", 1, Effect::Works);
        lanes.arrive(&key("a"), Letter(4), at(0));
        assert!(lanes.next(at(0)).is_none());
        assert_eq!(lanes.next_wake(), None, "only the end of the move wakes it");
        lanes.thaw(&key("a"), at(1));
        let Some(Action::Fetch { lane, .. }) = lanes.next(at(1)) else { panic!("what was left") };
        lanes.fetched(&lane, Vec::new(), None, at(1));
        assert!(lanes.next(at(1)).is_none() && lanes.lanes.is_empty());
    }

    #[test]
    fn new_limits_hold_for_what_starts_next() {
        let mut lanes = Lanes::new(limits(3, 2));
        for id in 1..=4 {
            lanes.arrive(&key(&format!("lane{id}")), Letter(id), at(0));
        }
        assert_eq!(start_all(&mut lanes, 0), [1, 2]);
        lanes.set_limits(limits(3, 3));
        assert_eq!(start_all(&mut lanes, 0), [3]);
        lanes.set_limits(limits(1, 1));
        finish(&mut lanes, "lane1", 1, Effect::Works);
        finish(&mut lanes, "lane2", 2, Effect::Works);
        assert!(lanes.next(at(0)).is_none(), "one is under way");
        finish(&mut lanes, "lane3", 3, Effect::Works);
        assert_eq!(start_all(&mut lanes, 0), [4]);
    }

    #[test]
    fn the_total_limit_holds_over_all_lanes_and_loses_nobodys_turn() {
        let mut lanes = Lanes::new(limits(3, 2));
        for id in 1..=4 {
            lanes.arrive(&key(&format!("lane{id}")), Letter(id), at(0));
        }
        assert_eq!(start_all(&mut lanes, 0), [1, 2]);
        finish(&mut lanes, "lane1", 1, Effect::Works);
        finish(&mut lanes, "lane2", 2, Effect::Works);
        assert_eq!(start_all(&mut lanes, 0), [3, 4]);
    }

    fn starts(lanes: &mut Lanes<Letter>, now: Timestamp) -> Vec<LaneKey> {
        std::iter::from_fn(|| lanes.next(now))
            .filter_map(|action| match action {
                Action::Start { lane, .. } => Some(lane),
                Action::Fetch { .. } => None,
            })
            .collect()
    }

    #[test]
    fn lanes_in_trouble_leave_half_of_the_places_to_others() {
        let now = Timestamp::UNIX_EPOCH;
        let mut lanes = Lanes::new(limits(3, 4));
        let trouble = Trouble { failures: 1, since: now };
        for number in 0..5 {
            let key = LaneKey::new(&format!("slow{number}.test"));
            lanes.restore(key.clone(), Some((trouble, now)), None);
            lanes.arrive(&key, Letter(number), now);
        }
        assert_eq!(starts(&mut lanes, now).len(), 2);
        lanes.arrive(&LaneKey::new("new.test"), Letter(10), now);
        assert_eq!(starts(&mut lanes, now), [LaneKey::new("new.test")]);
        let first = LaneKey::new("slow0.test");
        lanes.finished(&first, Letter(0).message(), Effect::Works, None);
        assert_eq!(starts(&mut lanes, now).len(), 1, "the next one in trouble has its turn");
        assert!(!lanes.is_full(), "what waits does not wait for a place");
        for number in 20..23 {
            lanes.arrive(&LaneKey::new(&format!("new{number}.test")), Letter(number), now);
        }
        assert_eq!(starts(&mut lanes, now).len(), 1);
        assert!(lanes.is_full());
    }

    /// What was taken out of the store meanwhile must not take the turn of others with it.
    #[test]
    fn a_lane_in_trouble_whose_mail_is_gone_holds_no_other_up() {
        let now = Timestamp::UNIX_EPOCH;
        let mut lanes = Lanes::new(limits(3, 2));
        let trouble = Trouble { failures: 1, since: now };
        let keys = ["a.test", "b.test", "c.test"].map(LaneKey::new);
        for (key, number) in keys.iter().zip(0..) {
            lanes.restore(key.clone(), Some((trouble, now)), None);
            lanes.arrive(key, Letter(number), now);
        }
        assert_eq!(starts(&mut lanes, now), keys[..1]);
        lanes.removed(&keys[1]);
        lanes.finished(&keys[0], Letter(0).message(), Effect::Neutral, None);
        assert_eq!(starts(&mut lanes, now), keys[2..]);
    }

    #[test]
    fn a_domain_with_a_rate_begins_one_message_after_the_other() {
        let now = Timestamp::UNIX_EPOCH;
        let limit = Limit {
            index: 0,
            domains: vec![DomainPattern::parse("slow.test").unwrap()],
            mx: Vec::new(),
            connections: None,
            messages_per_minute: Some(6),
        };
        let mut lanes = Lanes::new(Limits { limits: vec![limit], ..limits(3, 100) });
        let slow = LaneKey::new("slow.test");
        for number in 0..3 {
            lanes.arrive(&slow, Letter(number), now);
        }
        let at = |seconds: i64| Timestamp::from_second(seconds).unwrap();
        assert_eq!(starts(&mut lanes, at(0)).len(), 1);
        lanes.finished(&slow, Letter(0).message(), Effect::Works, None);
        assert!(starts(&mut lanes, at(5)).is_empty());
        assert_eq!(lanes.next_wake(), Some(at(10)));
        assert_eq!(starts(&mut lanes, at(10)).len(), 1);
        lanes.finished(&slow, Letter(1).message(), Effect::Works, None);
        assert!(starts(&mut lanes, at(10)).is_empty());
        lanes.retry_now(&slow, at(3));
        assert_eq!(starts(&mut lanes, at(3)).len(), 1, "the clock was ahead when the turn was set");
    }
}
