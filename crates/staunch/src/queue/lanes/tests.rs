//! The rules of the order, each as a sentence.

use super::*;
use crate::config::{DomainPattern, Limit};

fn limits(per_lane: u32, total: u32) -> ShapingLimits {
    ShapingLimits { per_lane, total, per_site: 100, ready: 1 << 20, limits: Vec::new() }
}

#[derive(Debug, PartialEq)]
struct Letter(u128);

impl LaneJob for Letter {
    fn message(&self) -> MessageId {
        MessageId::from_u128(self.0)
    }

    /// Some letters are urgent: the number in the millions is seconds of a head start.
    fn turn(&self) -> Timestamp {
        at(-i64::try_from(self.0 / 1_000_000).unwrap())
    }

    fn octets(&self) -> u64 {
        1_024
    }

    fn submitter(&self) -> Submitter {
        let part = |of: u128| u32::try_from(self.0 / of % 1_000).unwrap() + 1;
        Submitter { client: part(OTHER_CLIENT), sender: part(OTHER_SENDER) }
    }
}

/// Added to a letter's number, it is one of another sender of the same client.
const OTHER_SENDER: u128 = 1_000_000_000;
/// It is one of another client.
const OTHER_CLIENT: u128 = 1_000_000_000_000;

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
    while let Some(LaneAction::Start { job, .. }) = lanes.next(at(0)) {
        order.push(job.0);
        lanes.finished(&key("a"), job.message(), (LaneEffect::Neutral, None), None);
    }
    assert_eq!(order, [9_000_004, 7_000_003, 7_000_005, 1, 2]);
}

/// Starts whatever can be started now, and returns the started messages.
fn start_all(lanes: &mut Lanes<Letter>, now: i64) -> Vec<u128> {
    let mut started = Vec::new();
    while let Some(action) = lanes.next(at(now)) {
        match action {
            LaneAction::Start { job, .. } => started.push(job.0),
            LaneAction::Fetch { .. } => panic!("nothing is in the store"),
            LaneAction::GiveWay(_) => {}
        }
    }
    started
}

fn finish(lanes: &mut Lanes<Letter>, lane: &str, id: u128, effect: LaneEffect) {
    lanes.finished(&key(lane), MessageId::from_u128(id), (effect, None), None);
}

fn failed(retry_at: i64) -> LaneEffect {
    let trouble = FailureRun { failures: 1, since: at(0) };
    LaneEffect::Failed { retry_at: at(retry_at), trouble }
}

#[test]
fn a_new_lane_starts_with_one_and_grows_with_each_success() {
    let mut lanes = lanes();
    for id in 1..=4 {
        lanes.arrive(&key("a"), Letter(id), at(0));
    }
    assert_eq!(start_all(&mut lanes, 0), [1]);
    finish(&mut lanes, "a", 1, LaneEffect::Works);
    assert_eq!(start_all(&mut lanes, 0), [2, 3]);
    for id in 5..=9 {
        lanes.arrive(&key("a"), Letter(id), at(0));
    }
    finish(&mut lanes, "a", 2, LaneEffect::Works);
    assert_eq!(start_all(&mut lanes, 0), [4, 5]);
    finish(&mut lanes, "a", 3, LaneEffect::Works);
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
    let Some(LaneAction::Fetch { lane, .. }) = lanes.next(at(300)) else {
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
    finish(&mut lanes, "good", 2, LaneEffect::Works);
    lanes.arrive(&key("good"), Letter(3), at(1));
    assert_eq!(start_all(&mut lanes, 1), [3]);
}

#[test]
fn a_message_in_flight_is_not_started_again_by_a_fetch() {
    let mut lanes = lanes();
    lanes.arrive(&key("a"), Letter(1), at(0));
    assert_eq!(start_all(&mut lanes, 0), [1]);
    lanes.retry_now(&key("a"), at(0));
    let Some(LaneAction::Fetch { lane, known, .. }) = lanes.next(at(0)) else { panic!("a fetch") };
    assert_eq!(known, HashSet::from([MessageId::from_u128(1)]));
    lanes.fetched(&lane, vec![Letter(1), Letter(2)], None, at(0));
    assert_eq!(start_all(&mut lanes, 0), [], "the window is one");
    finish(&mut lanes, "a", 1, LaneEffect::Works);
    let Some(LaneAction::Fetch { lane, .. }) = lanes.next(at(0)) else { panic!("another look") };
    lanes.fetched(&lane, Vec::new(), None, at(0));
    assert_eq!(start_all(&mut lanes, 0), [2]);
}

#[test]
fn what_a_fetch_skipped_is_looked_for_when_the_message_is_done() {
    let mut lanes = lanes();
    lanes.arrive(&key("a"), Letter(1), at(0));
    assert_eq!(start_all(&mut lanes, 0), [1]);
    lanes.retry_now(&key("a"), at(0));
    let Some(LaneAction::Fetch { lane, .. }) = lanes.next(at(0)) else { panic!("a fetch") };
    // Another recipient of message 1 is due too, and left out, since 1 is in flight.
    lanes.fetched(&lane, Vec::new(), None, at(0));
    assert!(lanes.next(at(0)).is_none());
    finish(&mut lanes, "a", 1, LaneEffect::Works);
    assert!(matches!(lanes.next(at(0)), Some(LaneAction::Fetch { .. })));

    lanes.fetched(&lane, vec![Letter(1)], None, at(0));
    assert_eq!(start_all(&mut lanes, 0), [1]);
    finish(&mut lanes, "a", 1, LaneEffect::Works);
    assert!(lanes.next(at(0)).is_none(), "and nothing more when nothing was skipped");
}

#[test]
fn a_deferred_recipient_comes_back_when_it_is_due() {
    let mut lanes = lanes();
    lanes.arrive(&key("a"), Letter(1), at(0));
    assert_eq!(start_all(&mut lanes, 0), [1]);
    lanes.finished(&key("a"), MessageId::from_u128(1), (LaneEffect::Neutral, None), Some(at(60)));
    assert!(lanes.next(at(59)).is_none());
    assert_eq!(lanes.next_wake(), Some(at(60)));
    assert!(matches!(lanes.next(at(60)), Some(LaneAction::Fetch { .. })));
}

#[test]
fn a_backlog_stays_in_the_store() {
    let mut lanes = lanes();
    for id in 0..1_000 {
        lanes.arrive(&key("big"), Letter(id), at(0));
    }
    assert_eq!(lanes.lanes.get(&key("big")).unwrap().ready(), 64, "of a stranger");
    lanes.prove(Group::of(&key("big")), at(0));
    for id in 1_000..2_000 {
        lanes.arrive(&key("good"), Letter(id), at(0));
    }
    assert!(lanes.ready <= lanes.limits.ready);
}

#[test]
fn a_queue_of_many_lanes_is_read_a_few_at_a_time() {
    let mut lanes = lanes();
    for id in 0..100 {
        lanes.restore(&key(&format!("lane{id}")), None, Some(at(0)));
    }
    let mut fetches = Vec::new();
    while let Some(LaneAction::Fetch { lane, .. }) = lanes.next(at(0)) {
        fetches.push(lane);
    }
    assert_eq!(fetches.len(), 2, "strangers leave reads to others");
    let mut read = 0;
    while let Some(lane) = fetches.pop() {
        lanes.fetched(&lane, Vec::new(), None, at(0));
        read += 1;
        while let Some(LaneAction::Fetch { lane, .. }) = lanes.next(at(0)) {
            fetches.push(lane);
        }
        assert!(fetches.len() <= 2);
    }
    assert_eq!(read, 100, "each lane gets its turn");
    assert!(lanes.lanes.is_empty() && lanes.to_read.iter().all(VecDeque::is_empty));
}

#[test]
fn an_empty_lane_is_forgotten() {
    let mut lanes = lanes();
    lanes.arrive(&key("a"), Letter(1), at(0));
    assert_eq!(start_all(&mut lanes, 0), [1]);
    finish(&mut lanes, "a", 1, LaneEffect::Works);
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
    assert!(lanes.ready <= lanes.limits.ready / 2 + 1_024);
    lanes.prove(Group::of(&key("quick")), at(0));
    lanes.arrive(&key("quick"), Letter(7), at(0));
    assert_eq!(start_all_but_reads(&mut lanes, 0), [7], "straight from memory");
}

/// As `start_all`, with reads that are never answered.
fn start_all_but_reads(lanes: &mut Lanes<Letter>, now: i64) -> Vec<u128> {
    let job = |action: LaneAction<Letter>| match action {
        LaneAction::Start { job, .. } => Some(job.0),
        LaneAction::Fetch { .. } | LaneAction::GiveWay(_) => None,
    };
    std::iter::from_fn(|| lanes.next(at(now))).filter_map(job).collect()
}

#[test]
fn a_turn_to_be_read_that_is_not_used_goes_to_the_next() {
    let mut lanes = lanes();
    for id in 0..10 {
        lanes.restore(&key(&format!("lane{id}")), None, Some(at(0)));
    }
    let reads: Vec<_> = std::iter::from_fn(|| lanes.next(at(0))).collect();
    assert_eq!(reads.len(), 2);
    // Those that wait for their turn begin to wait for something else.
    lanes.set_pause(Pause::Lanes((2..9).map(|id| key(&format!("lane{id}"))).collect()));
    for action in reads {
        let LaneAction::Fetch { lane, .. } = action else { panic!("nothing is in memory") };
        lanes.fetched(&lane, Vec::new(), None, at(0));
    }
    let Some(LaneAction::Fetch { lane, .. }) = lanes.next(at(0)) else { panic!("stuck") };
    assert_eq!(lane, key("lane9"));
    assert!(lanes.next(at(0)).is_none());
}

#[test]
fn what_was_deleted_while_it_was_read_is_read_again() {
    let mut lanes = lanes();
    lanes.restore(&key("a"), None, Some(at(0)));
    let Some(LaneAction::Fetch { lane, .. }) = lanes.next(at(0)) else { panic!("a fetch") };
    lanes.removed(&key("a"));
    lanes.fetched(&lane, vec![Letter(1)], None, at(0));
    assert!(matches!(lanes.next(at(0)), Some(LaneAction::Fetch { .. })), "1 may be gone");
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
    lanes.finished(&key("a"), MessageId::from_u128(1), (LaneEffect::Works, None), None);
    assert!(matches!(lanes.next(at(0)), Some(LaneAction::Fetch { .. })));
}

#[test]
fn an_attempt_is_alone_only_if_nothing_can_join_it() {
    let mut lanes = lanes();
    let company = |lanes: &mut Lanes<Letter>| match lanes.next(at(0)) {
        Some(LaneAction::Start { company, .. }) => company,
        other => panic!("{other:?}"),
    };
    lanes.arrive(&key("a"), Letter(1), at(0));
    assert_eq!(company(&mut lanes), Company::Alone);
    finish(&mut lanes, "a", 1, LaneEffect::Works);
    lanes.arrive(&key("a"), Letter(2), at(0));
    assert_eq!(company(&mut lanes), Company::Others, "there is room for a second one");
}

#[test]
fn failures_side_by_side_count_once_and_an_answer_ends_them() {
    let mut lanes = lanes();
    lanes.arrive(&key("a"), Letter(1), at(0));
    assert_eq!(start_all(&mut lanes, 0), [1]);
    finish(&mut lanes, "a", 1, LaneEffect::Works);
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
    let Some(LaneAction::Start { trouble, .. }) = lanes.next(at(300)) else { panic!("a probe") };
    assert_eq!(trouble.map(|trouble| trouble.failures), Some(1));
    finish(&mut lanes, "a", 4, LaneEffect::Answers);
    let Some(LaneAction::Fetch { lane, .. }) = lanes.next(at(300)) else { panic!("the next") };
    lanes.fetched(&lane, vec![Letter(5)], None, at(300));
    let Some(LaneAction::Start { trouble, .. }) = lanes.next(at(300)) else { panic!("the next") };
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
        let trouble = FailureRun { failures: 1, since: at(0) };
        let effect = LaneEffect::Failed { retry_at: at(retry_at), trouble };
        lanes.finished(&key(lane), Letter(id).message(), (effect, None), Some(at(retry_at)));
    }
    lanes.cut_waits(at(1), at(100));
    let Some(LaneAction::Fetch { lane, .. }) = lanes.next(at(1)) else { panic!("it is due") };
    assert_eq!(lane, key("far"));
    assert!(lanes.next(at(99)).is_none());
    lanes.fetched(&lane, Vec::new(), None, at(99));
    assert!(matches!(lanes.next(at(100)), Some(LaneAction::Fetch { .. })));
}

#[test]
fn a_pause_stops_what_it_names_and_forgets_nothing() {
    let mut lanes = lanes();
    for (lane, id) in [("a", 1), ("a", 2), ("b", 3)] {
        lanes.arrive(&key(lane), Letter(id), at(0));
    }
    assert_eq!(start_all(&mut lanes, 0), [1, 3]);
    lanes.set_pause(Pause::Lanes(HashSet::from([key("a"), key("new")])));
    finish(&mut lanes, "a", 1, LaneEffect::Works);
    finish(&mut lanes, "b", 3, LaneEffect::Works);
    for (lane, id) in [("b", 4), ("a", 5), ("new", 6)] {
        lanes.arrive(&key(lane), Letter(id), at(1));
    }
    assert_eq!(start_all(&mut lanes, 1), [4]);
    assert_eq!((lanes.next_wake(), lanes.ready), (None, 0), "nothing is due, nothing in memory");

    lanes.set_pause(Pause::All);
    finish(&mut lanes, "b", 4, LaneEffect::Works);
    lanes.arrive(&key("b"), Letter(7), at(2));
    assert!(lanes.next(at(2)).is_none());

    lanes.set_pause(Pause::None);
    let mut read = HashSet::new();
    while let Some(LaneAction::Fetch { lane, .. }) = lanes.next(at(3)) {
        lanes.fetched(&lane, Vec::new(), None, at(3));
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
    let Some(LaneAction::Fetch { lane, .. }) = lanes.next(at(0)) else { panic!("a fetch") };
    assert_eq!(lanes.freeze(&key("a")), HashSet::from([MessageId::from_u128(1)]));
    // What was read before it was frozen may have been moved.
    lanes.fetched(&lane, vec![Letter(2)], None, at(0));
    finish(&mut lanes, "a", 1, LaneEffect::Works);
    lanes.arrive(&key("a"), Letter(4), at(0));
    assert!(lanes.next(at(0)).is_none());
    assert_eq!(lanes.next_wake(), None, "only the end of the move wakes it");
    lanes.thaw(&key("a"), at(1));
    let Some(LaneAction::Fetch { lane, .. }) = lanes.next(at(1)) else { panic!("what was left") };
    lanes.fetched(&lane, Vec::new(), None, at(1));
    assert!(lanes.next(at(1)).is_none() && lanes.lanes.is_empty());
}

/// Lanes of domains that took mail before.
fn proven(limits: ShapingLimits, names: &[&str]) -> Lanes<Letter> {
    let mut lanes = Lanes::new(limits);
    for name in names {
        lanes.prove(Group::of(&key(name)), at(0));
    }
    lanes
}

#[test]
fn new_limits_hold_for_what_starts_next() {
    let mut lanes = proven(limits(3, 2), &["lane1", "lane2", "lane3", "lane4"]);
    for id in 1..=4 {
        lanes.arrive(&key(&format!("lane{id}")), Letter(id), at(0));
    }
    assert_eq!(start_all(&mut lanes, 0), [1, 2]);
    lanes.set_limits(limits(3, 3));
    assert_eq!(start_all(&mut lanes, 0), [3]);
    lanes.set_limits(limits(1, 1));
    finish(&mut lanes, "lane1", 1, LaneEffect::Works);
    finish(&mut lanes, "lane2", 2, LaneEffect::Works);
    assert!(lanes.next(at(0)).is_none(), "one is under way");
    finish(&mut lanes, "lane3", 3, LaneEffect::Works);
    assert_eq!(start_all(&mut lanes, 0), [4]);
}

#[test]
fn the_total_limit_holds_over_all_lanes_and_loses_nobodys_turn() {
    let mut lanes = proven(limits(3, 2), &["lane1", "lane2", "lane3", "lane4"]);
    for id in 1..=4 {
        lanes.arrive(&key(&format!("lane{id}")), Letter(id), at(0));
    }
    assert_eq!(start_all(&mut lanes, 0), [1, 2]);
    finish(&mut lanes, "lane1", 1, LaneEffect::Works);
    finish(&mut lanes, "lane2", 2, LaneEffect::Works);
    assert_eq!(start_all(&mut lanes, 0), [3, 4]);
}

fn starts(lanes: &mut Lanes<Letter>, now: Timestamp) -> Vec<LaneKey> {
    std::iter::from_fn(|| lanes.next(now))
        .filter_map(|action| match action {
            LaneAction::Start { lane, .. } => Some(lane),
            LaneAction::Fetch { .. } | LaneAction::GiveWay(_) => None,
        })
        .collect()
}

#[test]
fn lanes_in_trouble_leave_most_of_the_places_to_others() {
    let now = at(0);
    let mut lanes = Lanes::new(limits(3, 10));
    let trouble = FailureRun { failures: 1, since: now };
    for number in 0..5 {
        let key = LaneKey::new(&format!("slow{number}.test"));
        lanes.restore(&key, Some(BackOff { trouble, until: now, cause: None }), None);
        lanes.arrive(&key, Letter(number * OTHER_CLIENT), now);
    }
    assert_eq!(starts(&mut lanes, now).len(), 3);
    for number in 10..15 {
        let letter = Letter(number * OTHER_CLIENT);
        lanes.arrive(&LaneKey::new(&format!("new{number}.test")), letter, now);
    }
    assert_eq!(starts(&mut lanes, now).len(), 3, "strangers and those in trouble together");
    lanes.finished(
        &LaneKey::new("slow0.test"),
        Letter(0).message(),
        (LaneEffect::Works, None),
        None,
    );
    let next = starts(&mut lanes, now);
    assert_eq!(next, [LaneKey::new("new13.test")], "before those in trouble");
}

#[test]
fn many_names_of_one_stranger_hold_a_tenth_of_the_places() {
    let mut lanes = Lanes::new(limits(3, 100));
    for id in 0..500 {
        lanes.arrive(&key(&format!("d{id}.evil.test")), Letter(id), at(0));
    }
    lanes.arrive(&key("good.example"), Letter(1_000), at(0));
    let started = start_all(&mut lanes, 0);
    assert_eq!(started.len(), 11);
    assert!(started.contains(&1_000));
}

#[test]
fn who_is_slow_makes_room_when_others_wait_and_not_before() {
    let mut lanes = Lanes::new(limits(3, 2));
    lanes.arrive(&key("tarpit.test"), Letter(1), at(0));
    assert_eq!(start_all(&mut lanes, 0), [1]);
    assert!(lanes.next(at(29)).is_none());
    assert!(lanes.next(at(31)).is_none(), "with room enough it has all the time");
    lanes.arrive(&key("good.example"), Letter(2), at(31));
    let Some(LaneAction::GiveWay(ticket)) = lanes.next(at(32)) else {
        panic!("the place is needed")
    };
    assert!(lanes.next(at(33)).is_none(), "it is asked once");
    let trouble = FailureRun { failures: 1, since: at(31) };
    let yielded = LaneEffect::Yielded { retry_at: at(61), trouble };
    finish(&mut lanes, "tarpit.test", 1, yielded);
    assert!(lanes.running.end(ticket).is_none());
    assert_eq!(start_all(&mut lanes, 33), [2]);
    finish(&mut lanes, "good.example", 2, LaneEffect::Works);
    lanes.arrive(&key("tarpit.test"), Letter(3), at(40));
    assert!(lanes.next(at(40)).is_none(), "it waits as after a failure");
    assert_eq!(lanes.next_wake(), Some(at(61)));
}

#[test]
fn who_has_the_content_keeps_its_place_and_is_charged_as_slow() {
    let mut lanes = proven(limits(3, 10), &["a.example", "b.example"]);
    for (id, name) in (1..).zip(["a.example", "b.example"]) {
        lanes.arrive(&key(name), Letter(id), at(0));
    }
    assert_eq!(start_all(&mut lanes, 0), [1, 2]);
    assert_eq!(lanes.accounts.held_by(LaneClass::Proven), 2);
    assert!(lanes.next(at(31)).is_none());
    assert_eq!(
        (lanes.accounts.held_by(LaneClass::Proven), lanes.accounts.held_by(LaneClass::Troubled)),
        (0, 2)
    );
    for id in 10..20 {
        lanes.arrive(&key(&format!("new{id}.test")), Letter(id * OTHER_CLIENT), at(31));
    }
    assert_eq!(start_all_but_reads(&mut lanes, 31).len(), 4, "they leave less to strangers");
    let Some(LaneAction::GiveWay(ticket)) = lanes.next(at(33)) else { panic!("others wait") };
    lanes.asked_in_vain(ticket);
    let Some(LaneAction::GiveWay(other)) = lanes.next(at(34)) else { panic!("then the other one") };
    assert_ne!(ticket, other);
    lanes.asked_in_vain(other);
    assert!(lanes.next(at(35)).is_none(), "nobody else is slow");
}

#[test]
fn a_clock_that_is_set_makes_nobody_slow() {
    let mut lanes = Lanes::new(limits(3, 2));
    lanes.arrive(&key("a.test"), Letter(1), at(0));
    lanes.arrive(&key("b.test"), Letter(2), at(0));
    assert_eq!(start_all(&mut lanes, 0), [1]);
    assert!(lanes.next(at(10)).is_none());
    for time in [-100_000, -99_995, -99_990] {
        assert!(lanes.next(at(time)).is_none());
    }
    assert!(matches!(lanes.next(at(-99_960)), Some(LaneAction::GiveWay(_))), "45 s have passed");
}

#[test]
fn a_host_that_took_mail_makes_its_domains_proven() {
    let mut lanes = Lanes::new(limits(3, 10));
    let host = Group::of_name("mx.example");
    lanes.prove(host, at(0));
    for id in 0..8 {
        lanes.arrive(&key(&format!("new{id}.test")), Letter(id * OTHER_CLIENT), at(0));
    }
    let mut started = Vec::new();
    while let Some(LaneAction::Start { ticket, .. }) = lanes.next(at(0)) {
        started.push(ticket);
    }
    assert_eq!(started.len(), 5);
    lanes.session(started[0], Some(Group::of_name("nobody.example")), at(0));
    assert!(lanes.next(at(0)).is_none());
    lanes.session(started[0], Some(host), at(0));
    assert!(
        matches!(lanes.next(at(0)), Some(LaneAction::Start { .. })),
        "its place is free for others"
    );
}

fn connections() -> Bottleneck {
    Bottleneck::Limit(0)
}

#[test]
fn what_waits_for_a_connection_goes_on_as_soon_as_there_is_one() {
    let names = ["a.example", "b.example", "c.example"];
    let mut lanes = proven(limits(3, 10), &names);
    for (id, name) in (1..).zip(names) {
        lanes.arrive(&key(name), Letter(id), at(0));
    }
    assert_eq!(start_all(&mut lanes, 0), [1, 2, 3]);
    for (id, name) in (2..).zip(["b.example", "c.example"]) {
        let job = (connections(), Letter(id));
        lanes.sent_back(&key(name), Letter(id).message(), job, at(0));
    }
    assert!(lanes.next(at(0)).is_none(), "they hold no place, and nothing is tried in vain");
    assert_eq!(lanes.in_flight(), 1);
    lanes.room(&connections(), 1, at(1));
    assert_eq!(start_all(&mut lanes, 1), [2], "first come, first served");
    lanes.room(&connections(), 5, at(2));
    assert_eq!(start_all(&mut lanes, 2), [3]);
    assert!(!lanes.is_waited_for(&connections()));
}

/// Of a.example and b.example one message each that waits for a connection.
fn two_at_a_busy_site() -> Lanes<Letter> {
    let names = ["a.example", "b.example"];
    let mut lanes = proven(limits(3, 10), &names);
    for (id, name) in (1..).zip(names) {
        lanes.arrive(&key(name), Letter(id), at(0));
    }
    assert_eq!(start_all(&mut lanes, 0), [1, 2]);
    for (id, name) in (1..).zip(names) {
        lanes.sent_back(&key(name), Letter(id).message(), (connections(), Letter(id)), at(0));
    }
    lanes
}

#[test]
fn who_comes_later_to_a_busy_site_stands_behind_the_others() {
    let mut lanes = two_at_a_busy_site();
    lanes.room(&connections(), 1, at(0));
    assert_eq!(start_all(&mut lanes, 0), [1]);
    finish(&mut lanes, "a.example", 1, LaneEffect::Works);
    lanes.arrive(&key("a.example"), Letter(3), at(0));
    assert!(lanes.next(at(0)).is_none(), "b waits longer");
    lanes.room(&connections(), 1, at(0));
    assert_eq!(start_all(&mut lanes, 0), [2]);
    lanes.room(&connections(), 1, at(0));
    assert_eq!(start_all(&mut lanes, 0), [3]);
}

#[test]
fn a_lane_that_was_called_keeps_its_turn_while_it_is_read() {
    let mut lanes = two_at_a_busy_site();
    lanes.removed(&key("a.example"));
    lanes.room(&connections(), 1, at(0));
    let Some(LaneAction::Fetch { lane, .. }) = lanes.next(at(0)) else {
        panic!("what is left of a")
    };
    lanes.fetched(&lane, vec![Letter(3)], None, at(0));
    assert_eq!(start_all(&mut lanes, 0), [3], "b waits on");
}

#[test]
fn a_call_that_nobody_can_use_goes_to_the_next() {
    let mut lanes = two_at_a_busy_site();
    lanes.set_pause(Pause::Lanes(HashSet::from([key("a.example")])));
    lanes.room(&connections(), 1, at(0));
    assert_eq!(start_all(&mut lanes, 0), [2]);
}

/// Else lanes that are read while there is no place would fill the memory, and nothing else could
/// be read.
#[test]
fn nothing_is_read_for_a_lane_that_could_not_begin() {
    let mut lanes = Lanes::new(limits(3, 4));
    for id in 0..100 {
        lanes.restore(&key(&format!("lane{id}.test")), None, Some(at(0)));
    }
    let mut running = 0;
    for _ in 0..10 {
        let reads: Vec<_> = std::iter::from_fn(|| lanes.next(at(0))).collect();
        for action in reads {
            match action {
                LaneAction::Fetch { lane, .. } => {
                    let id = u128::try_from(running + 1_000).unwrap();
                    lanes.fetched(&lane, vec![Letter(id)], None, at(0));
                }
                LaneAction::Start { .. } => running += 1,
                LaneAction::GiveWay(_) => {}
            }
        }
    }
    assert_eq!(running, 2, "as many as strangers may have");
    assert_eq!(lanes.ready, 0);
}

/// What was taken out of the store meanwhile must not take the turn of others with it.
#[test]
fn a_lane_in_trouble_whose_mail_is_gone_holds_no_other_up() {
    let now = Timestamp::UNIX_EPOCH;
    let mut lanes = Lanes::new(limits(3, 2));
    let trouble = FailureRun { failures: 1, since: now };
    let keys = ["a.test", "b.test", "c.test"].map(LaneKey::new);
    for (key, number) in keys.iter().zip(0..) {
        lanes.restore(key, Some(BackOff { trouble, until: now, cause: None }), None);
        lanes.arrive(key, Letter(number), now);
    }
    assert_eq!(starts(&mut lanes, now), keys[..1]);
    lanes.removed(&keys[1]);
    lanes.finished(&keys[0], Letter(0).message(), (LaneEffect::Neutral, None), None);
    let Some(LaneAction::Fetch { lane, .. }) = lanes.next(now) else { panic!("what is left of b") };
    assert!(lanes.next(now).is_none(), "the place is kept for it");
    lanes.fetched(&lane, Vec::new(), None, now);
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
    let mut lanes = Lanes::new(ShapingLimits { limits: vec![limit], ..limits(3, 100) });
    let slow = LaneKey::new("slow.test");
    for number in 0..3 {
        lanes.arrive(&slow, Letter(number), now);
    }
    let at = |seconds: i64| Timestamp::from_second(seconds).unwrap();
    assert_eq!(starts(&mut lanes, at(0)).len(), 1);
    lanes.finished(&slow, Letter(0).message(), (LaneEffect::Works, None), None);
    assert!(starts(&mut lanes, at(5)).is_empty());
    assert_eq!(lanes.next_wake(), Some(at(10)));
    assert_eq!(starts(&mut lanes, at(10)).len(), 1);
    lanes.finished(&slow, Letter(1).message(), (LaneEffect::Works, None), None);
    assert!(starts(&mut lanes, at(10)).is_empty());
    lanes.retry_now(&slow, at(3));
    assert_eq!(starts(&mut lanes, at(3)).len(), 1, "the clock was ahead when the turn was set");
}

#[test]
fn a_lane_at_rest_takes_little_memory() {
    assert!(size_of::<Lane<Letter>>() <= 112, "{}", size_of::<Lane<Letter>>());
}

/// Two silent hosts and one that was away for a moment, with one place for all of them.
#[test]
fn who_failed_once_has_its_turn_although_others_in_trouble_are_silent() {
    let mut lanes = Lanes::new(limits(3, 4));
    let names = ["evil0.test", "evil1.test", "honest.test"];
    for (id, name) in (1..).zip(names) {
        let back_off = BackOff {
            trouble: FailureRun { failures: 1, since: at(0) },
            until: at(id),
            cause: None,
        };
        lanes.restore(&key(name), Some(back_off), Some(at(0)));
    }
    let (mut running, mut started) = (Vec::new(), Vec::new());
    for second in 0..120 {
        while let Some(action) = lanes.next(at(second)) {
            match action {
                LaneAction::Fetch { lane, .. } => {
                    let id = names.iter().position(|name| key(name) == lane).unwrap();
                    let id = u128::try_from(id).unwrap() + 1;
                    lanes.fetched(&lane, vec![Letter(id)], None, at(second));
                }
                LaneAction::Start { lane, ticket, job, .. } => {
                    running.push((ticket, lane.clone(), job.0));
                    started.push(lane);
                }
                LaneAction::GiveWay(ticket) => {
                    let place = running.iter().position(|(other, ..)| *other == ticket).unwrap();
                    let (_, lane, id) = running.remove(place);
                    let trouble = FailureRun { failures: 2, since: at(0) };
                    let effect = LaneEffect::Yielded { retry_at: at(second + 2), trouble };
                    let message = MessageId::from_u128(id);
                    lanes.finished(&lane, message, (effect, None), Some(at(second + 2)));
                }
            }
        }
    }
    let turn = started.iter().position(|lane| *lane == key("honest.test"));
    assert!(turn.is_some_and(|turn| turn <= 2), "{started:?}");
}

/// First letters of one sender to `count` new domains each.
fn arrive_at_new_domains(lanes: &mut Lanes<Letter>, first: u128, count: u128) {
    for id in first..first + count {
        lanes.arrive(&key(&format!("d{id}.test")), Letter(id), at(0));
    }
}

#[test]
fn who_writes_to_a_thousand_new_domains_leaves_places_to_other_senders() {
    let mut lanes = lanes();
    arrive_at_new_domains(&mut lanes, 0, 1_000);
    // Of a hundred places strangers have sixty, one sender three fifths of those.
    assert_eq!(start_all(&mut lanes, 0).len(), 36);
    arrive_at_new_domains(&mut lanes, OTHER_SENDER, 100);
    // All senders of a client have four fifths, and all strangers that never failed fifty.
    assert_eq!(start_all(&mut lanes, 0).len(), 48 - 36);
    arrive_at_new_domains(&mut lanes, OTHER_CLIENT, 100);
    assert_eq!(start_all(&mut lanes, 0).len(), 50 - 48);
}

#[test]
fn a_place_that_becomes_free_goes_to_who_has_fewest() {
    let mut lanes = lanes();
    arrive_at_new_domains(&mut lanes, 0, 1_000);
    let before = start_all(&mut lanes, 0);
    arrive_at_new_domains(&mut lanes, OTHER_CLIENT, 100);
    assert_eq!(start_all(&mut lanes, 0).len(), 50 - before.len());
    for id in &before[..10] {
        finish(&mut lanes, &format!("d{id}.test"), *id, failed(300));
        let started = start_all(&mut lanes, 0);
        assert!(matches!(started[..], [id] if id >= OTHER_CLIENT), "{started:?}");
    }
}

/// Whose silence would otherwise let as many begin again.
#[test]
fn what_was_slow_still_counts_for_its_sender() {
    let mut lanes = lanes();
    arrive_at_new_domains(&mut lanes, 0, 1_000);
    assert_eq!(start_all(&mut lanes, 0).len(), 36);
    let mut asked = Vec::new();
    for now in 0..=40 {
        while let Some(action) = lanes.next(at(now)) {
            match action {
                LaneAction::GiveWay(ticket) => {
                    lanes.asked_in_vain(ticket);
                    asked.push(now);
                }
                LaneAction::Start { .. } | LaneAction::Fetch { .. } => panic!("nothing begins"),
            }
        }
    }
    assert_eq!((asked.len(), asked.first()), (36, Some(&30)), "all were asked in vain");
    arrive_at_new_domains(&mut lanes, OTHER_SENDER, 100);
    assert_eq!(start_all(&mut lanes, 40).len(), 48 - 36);
}

#[test]
fn after_a_restart_a_lane_has_the_turn_of_whoever_is_found_to_be_first_in_it() {
    let mut lanes = lanes();
    for id in 0..200u128 {
        lanes.restore(&key(&format!("d{id}.test")), None, Some(at(0)));
    }
    let mut started = 0;
    while let Some(action) = lanes.next(at(0)) {
        match action {
            LaneAction::Fetch { lane, .. } => {
                let id = lane.as_str().trim_matches(|c: char| !c.is_ascii_digit()).parse().unwrap();
                lanes.fetched(&lane, vec![Letter(id)], None, at(0));
            }
            LaneAction::Start { .. } => started += 1,
            LaneAction::GiveWay(_) => {}
        }
    }
    assert_eq!(started, 36);
    arrive_at_new_domains(&mut lanes, OTHER_SENDER, 1);
    assert_eq!(start_all(&mut lanes, 0), [OTHER_SENDER]);
}
