//! The scheduler in random worlds, in virtual time: whatever hosts do, its invariants hold and good
//! mail goes.
//!
//! `STAUNCH_WORLDS=10000 cargo test -p staunch --lib simulation`; 300 worlds if nothing is said.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::accounts::Most;
use super::*;

/// A job of the simulation: the number of its message.
#[derive(Clone, Debug)]
struct Letter(u128);

impl LaneJob for Letter {
    fn message(&self) -> MessageId {
        MessageId::from_u128(self.0)
    }

    fn turn(&self) -> Timestamp {
        Timestamp::UNIX_EPOCH
    }

    fn octets(&self) -> u64 {
        1_024
    }

    fn submitter(&self) -> Submitter {
        let number = u32::try_from(self.0 / 1_000 % 7).unwrap();
        Submitter { client: 1 + number / 3, sender: number }
    }
}

/// Random numbers that are the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        // splitmix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, most: u64) -> u64 {
        self.roll() % most.max(1)
    }
}

/// What the hosts of a domain do. Times are in milliseconds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Nature {
    /// They take mail after so long.
    Good(u64),
    /// They take it, and need so long for the content.
    Slow(u64),
    /// They refuse at once.
    Dead,
    /// They say nothing for so long, before the content.
    Tarpit(u64),
    /// They say nothing behind the final dot.
    Silent(u64),
    /// They take mail, one after the other: all such domains share one connection.
    Shared,
}

#[derive(Debug)]
struct Domain {
    key: LaneKey,
    nature: Nature,
    /// What the store has: message and when it is due.
    stored: BTreeMap<u128, i64>,
    failures: u32,
}

#[derive(Debug)]
enum Happening {
    Arrives(usize, u128),
    Read(usize, Found),
    Ends(usize, Ticket, u128),
    Room,
}

/// What a read brings.
#[derive(Debug)]
struct Found {
    ids: Vec<u128>,
    /// Is there more that is due?
    is_cut: bool,
}

struct World {
    dice: Dice,
    now: i64,
    total: u32,
    domains: Vec<Domain>,
    lanes: Lanes<Letter>,
    coming: BTreeMap<(i64, u64), Happening>,
    serial: u64,
    looks: u32,
    running: HashMap<Ticket, (usize, u128, i64)>,
    ends: HashMap<Ticket, (i64, u64)>,
    /// Is the shared connection in use?
    is_busy: bool,
    arrived: HashMap<u128, i64>,
    delivered: BTreeSet<u128>,
}

fn at(millis: i64) -> Timestamp {
    Timestamp::from_millisecond(millis).unwrap()
}

fn site() -> Bottleneck {
    Bottleneck::Limit(0)
}

/// A world ends then.
const END: i64 = 1_200_000;
/// The queue looks more often; what matters here is that it does.
const REVIEW_EVERY_MS: i64 = 5_000;
/// Jobs that one read brings.
const READ_MAX: usize = 8;
/// So many steps of a world between two looks at everything.
const LOOK_EVERY: u32 = 7;

impl World {
    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let total = u32::try_from(1 + dice.below(60)).unwrap();
        let per_lane = u32::try_from(1 + dice.below(10)).unwrap();
        let ready = 4_096 + dice.below(60_000);
        let limits = ShapingLimits { per_lane, total, per_site: 20, ready, limits: Vec::new() };
        let mut world = Self {
            dice,
            now: 0,
            total,
            domains: Vec::new(),
            lanes: Lanes::new(limits),
            coming: BTreeMap::new(),
            serial: 0,
            looks: 0,
            running: HashMap::new(),
            ends: HashMap::new(),
            is_busy: false,
            arrived: HashMap::new(),
            delivered: BTreeSet::new(),
        };
        world.populate();
        world
    }

    fn populate(&mut self) {
        let owners = 1 + self.dice.below(12);
        let count = 1 + self.dice.below(40);
        for number in 0..count {
            let nature = match self.dice.below(9) {
                0..=2 => Nature::Good(20 + self.dice.below(2_000)),
                3 => Nature::Slow(35_000 + self.dice.below(60_000)),
                4 => Nature::Dead,
                5 | 6 => Nature::Tarpit(60_000 + self.dice.below(800_000)),
                7 => Nature::Silent(60_000 + self.dice.below(540_000)),
                _ => Nature::Shared,
            };
            let owner = self.dice.below(owners);
            let name = match nature {
                // Whoever takes mail has a domain of their own: what neighbours do is not their
                // fault.
                Nature::Good(_) | Nature::Slow(_) | Nature::Shared => {
                    format!("good{number}.example")
                }
                Nature::Dead | Nature::Tarpit(_) | Nature::Silent(_) => {
                    format!("d{number}.evil{owner}.test")
                }
            };
            let key = LaneKey::new(&name);
            if self.dice.below(2) == 0 {
                self.lanes.prove(Group::of(&key), at(0));
            }
            let index = self.domains.len();
            self.domains.push(Domain { key, nature, stored: BTreeMap::new(), failures: 0 });
            for message in 0..1 + self.dice.below(30) {
                let id = u128::from(number * 1_000 + message);
                let when = i64::try_from(self.dice.below(600_000)).unwrap();
                self.push(when, Happening::Arrives(index, id));
            }
        }
    }

    fn push(&mut self, when: i64, what: Happening) -> (i64, u64) {
        self.serial += 1;
        self.coming.insert((when, self.serial), what);
        (when, self.serial)
    }

    fn run(&mut self) {
        loop {
            self.act();
            self.looks += 1;
            if self.looks.is_multiple_of(LOOK_EVERY) {
                self.check();
            }
            let event = self.coming.first_key_value().map(|((at, _), _)| *at);
            let wake = self.lanes.next_wake().map(Timestamp::as_millisecond);
            let review = self.lanes.review_in().map(|_| self.now + REVIEW_EVERY_MS);
            let Some(next) = [event, wake, review].into_iter().flatten().min() else { return };
            self.now = next.max(self.now);
            if self.now > END {
                return;
            }
            while let Some(entry) = self.coming.first_entry() {
                if entry.key().0 > self.now {
                    break;
                }
                let what = entry.remove();
                self.happen(what);
            }
        }
    }

    fn happen(&mut self, what: Happening) {
        let now = at(self.now);
        match what {
            Happening::Arrives(index, id) => {
                self.arrived.insert(id, self.now);
                let domain = &mut self.domains[index];
                domain.stored.insert(id, self.now);
                self.lanes.arrive(&domain.key, Letter(id), now);
            }
            Happening::Read(index, Found { ids, is_cut }) => {
                let domain = &self.domains[index];
                let later = domain.stored.values().filter(|due| **due > self.now).min();
                let next = if is_cut { Some(self.now) } else { later.copied() };
                let next = next.map(at);
                let key = domain.key.clone();
                self.lanes.fetched(&key, ids.into_iter().map(Letter).collect(), next, now);
            }
            Happening::Ends(index, ticket, id) => self.end(index, ticket, id),
            Happening::Room => {
                if self.lanes.is_waited_for(&site()) && !self.is_busy {
                    self.lanes.room(&site(), 1, now);
                }
            }
        }
    }

    fn act(&mut self) {
        while let Some(action) = self.lanes.next(at(self.now)) {
            match action {
                LaneAction::Start { lane, ticket, job, .. } => self.start(&lane, ticket, job.0),
                LaneAction::Fetch { lane, known, most } => {
                    let index = self.index(&lane);
                    let now = self.now;
                    let due = self.domains[index].stored.iter().filter(|(_, at)| **at <= now);
                    let new = due
                        .map(|(id, _)| *id)
                        .filter(|id| !known.contains(&MessageId::from_u128(*id)));
                    let most = most.min(READ_MAX);
                    let ids: Vec<u128> = new.take(most).collect();
                    let is_cut = ids.len() == most;
                    self.push(self.now + 3, Happening::Read(index, Found { ids, is_cut }));
                }
                LaneAction::GiveWay(ticket) => self.give_way(ticket),
            }
        }
    }

    fn index(&self, lane: &LaneKey) -> usize {
        self.domains.iter().position(|domain| domain.key == *lane).unwrap()
    }

    fn start(&mut self, lane: &LaneKey, ticket: Ticket, id: u128) {
        let index = self.index(lane);
        self.check_start();
        assert!(!self.delivered.contains(&id), "nothing is sent twice");
        let takes = match self.domains[index].nature {
            Nature::Shared if self.is_busy => {
                let key = self.domains[index].key.clone();
                let message = MessageId::from_u128(id);
                self.lanes.sent_back(&key, message, (site(), Letter(id)), at(self.now));
                return;
            }
            Nature::Shared => {
                self.is_busy = true;
                100
            }
            Nature::Good(takes) | Nature::Slow(takes) => takes,
            Nature::Dead => 5,
            Nature::Tarpit(takes) | Nature::Silent(takes) => takes,
        };
        self.running.insert(ticket, (index, id, self.now));
        let end =
            self.push(self.now + i64::try_from(takes).unwrap(), Happening::Ends(index, ticket, id));
        self.ends.insert(ticket, end);
    }

    /// What a start may not overstep.
    fn check_start(&self) {
        let accounts = &self.lanes.accounts;
        let tenths = |n: u32| (self.total * n / 10).max(1);
        let held = |class| accounts.held_by(class);
        assert!(accounts.held() <= self.total.max(held(LaneClass::Troubled)), "all");
        let overfilled = self.running.values().filter(|(_, _, since)| self.now - since > 30_000);
        let slow = u32::try_from(overfilled.count()).unwrap();
        assert!(held(LaneClass::Troubled) <= tenths(3) + slow, "those in trouble");
        assert!(held(LaneClass::New) + held(LaneClass::Troubled) <= tenths(6) + slow, "strangers");
        self.check_clients();
    }

    /// What one client and one sender may hold of the places of strangers.
    fn check_clients(&self) {
        let most = self.lanes.accounts.most(LaneClass::New);
        let mut clients: HashMap<u32, u32> = HashMap::new();
        let mut senders: HashMap<Submitter, u32> = HashMap::new();
        for charge in self.lanes.running.charges().filter(|charge| charge.class == LaneClass::New) {
            *clients.entry(charge.submitter.client).or_default() += 1;
            *senders.entry(charge.submitter).or_default() += 1;
        }
        assert!(clients.values().all(|held| *held <= most.client), "clients: {clients:?}");
        assert!(senders.values().all(|held| *held <= most.sender), "senders: {senders:?}");
    }

    fn give_way(&mut self, ticket: Ticket) {
        let (index, id, since) = self.running[&ticket];
        assert!(self.now - since >= 30_000, "nobody is hurried before");
        let Nature::Tarpit(_) = self.domains[index].nature else {
            return self.lanes.asked_in_vain(ticket);
        };
        let end = self.ends.remove(&ticket).unwrap();
        self.coming.remove(&end);
        let trouble = self.fail(index);
        let retry_at = self.retry_at(trouble);
        self.running.remove(&ticket);
        self.defer(index, id, retry_at);
        let effect = LaneEffect::Yielded { retry_at: at(retry_at), trouble };
        self.finish(index, id, effect, Some(at(retry_at)));
    }

    fn fail(&mut self, index: usize) -> FailureRun {
        let domain = &mut self.domains[index];
        domain.failures += 1;
        FailureRun { failures: domain.failures, since: at(self.now) }
    }

    fn retry_at(&mut self, trouble: FailureRun) -> i64 {
        let spread = i64::try_from(self.dice.below(5_000)).unwrap();
        self.now + 30_000 * i64::from(trouble.failures.min(10)) + spread
    }

    fn defer(&mut self, index: usize, id: u128, due: i64) {
        self.domains[index].stored.insert(id, due);
    }

    fn finish(&mut self, index: usize, id: u128, effect: LaneEffect, due: Option<Timestamp>) {
        let key = self.domains[index].key.clone();
        if effect == LaneEffect::Works {
            self.domains[index].failures = 0;
            self.lanes.prove(Group::of(&key), at(self.now));
        }
        self.lanes.finished(&key, MessageId::from_u128(id), (effect, None), due);
    }

    fn end(&mut self, index: usize, ticket: Ticket, id: u128) {
        self.running.remove(&ticket);
        self.ends.remove(&ticket);
        match self.domains[index].nature {
            Nature::Good(_) | Nature::Slow(_) | Nature::Shared => {
                if self.domains[index].nature == Nature::Shared {
                    self.is_busy = false;
                    self.push(self.now, Happening::Room);
                }
                self.domains[index].stored.remove(&id);
                self.delivered.insert(id);
                self.finish(index, id, LaneEffect::Works, None);
            }
            Nature::Dead | Nature::Tarpit(_) | Nature::Silent(_) => {
                let trouble = self.fail(index);
                let retry_at = self.retry_at(trouble);
                self.defer(index, id, retry_at);
                let effect = LaneEffect::Failed { retry_at: at(retry_at), trouble };
                self.finish(index, id, effect, Some(at(retry_at)));
            }
        }
    }

    /// What holds at any time.
    fn check(&self) {
        let lanes = &self.lanes;
        assert_eq!(lanes.in_flight(), self.running.len(), "attempts are those that run");
        let reading = lanes.reads.values().filter(|(_, charge)| charge.is_some()).count()
            + lanes.to_read.iter().flatten().filter(|(_, charge)| charge.is_some()).count();
        let held = usize::try_from(lanes.accounts.held()).unwrap();
        assert_eq!(held, self.running.len() + reading, "every place has its holder");
        assert!(lanes.reads.len() <= 4, "reads");
        let spare = 1_024 * u64::try_from(lanes.lanes.len()).unwrap();
        assert!(lanes.ready <= lanes.limits.ready + spare, "memory");
        let octets: u64 = lanes.lanes.values().map(|lane| 1_024 * lane.ready() as u64).sum();
        assert_eq!(lanes.ready, octets, "what is ready is counted");
        for (key, lane) in &lanes.lanes {
            let is_in = match lane.stand {
                Stand::Nowhere => {
                    assert_ne!(
                        lane.wish(at(self.now)),
                        Wish::Begin,
                        "{key} is forgotten: {lane:?}"
                    );
                    true
                }
                Stand::Changed => lanes.changed.contains(key),
                Stand::ToRead => lanes.to_read.iter().flatten().any(|(lane, _)| lane == key),
                Stand::InRow => {
                    lanes.rows.of(lane.stands_as).is_some_and(|row| row.has(lane.spot(), key))
                }
                Stand::AtSite => lanes.sites.has(key),
            };
            assert!(is_in, "{key} stands nowhere");
        }
        // Nothing that is never lent is idle while somebody waits for it.
        let row = lanes.rows.of(LaneClass::Proven);
        let waits = row.is_some_and(|row| row.unparked(Most::ALL) > 0);
        assert!(
            !waits || !lanes.accounts.has_room(LaneClass::Proven),
            "a proven lane waits for nothing"
        );
    }
}

#[test]
fn whatever_hosts_do_the_invariants_hold_and_good_mail_goes() {
    let worlds = std::env::var("STAUNCH_WORLDS").ok().and_then(|n| n.parse().ok()).unwrap_or(300);
    for seed in 0..worlds {
        let mut world = World::new(seed);
        world.run();
        for domain in &world.domains {
            let left: Vec<_> = domain.stored.keys().collect();
            match domain.nature {
                // With few places slow mail alone takes longer than a world lasts.
                Nature::Good(_) | Nature::Shared if world.total >= 20 => {
                    assert!(left.is_empty(), "world {seed}: {} waits: {left:?}", domain.key);
                }
                Nature::Good(_) | Nature::Slow(_) | Nature::Shared => {}
                Nature::Dead | Nature::Tarpit(_) | Nature::Silent(_) => {}
            }
        }
    }
}
