//! The judge of the clock against a world that knows the true time: sequences of clock steps,
//! restarts, reboots, witnesses, honest and not, and time passing.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use policy::clock::{
    BootId, ClockChange, ClockReading, ClockTrust, Judge, LastMark, Mark, Moment, TrustedBy,
    Witness,
};
use policy::registrable_domain;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use smtp::HostName;

const START: i64 = 1_800_000_000;
const MINUTE: i64 = 60;
const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;
/// How often the daemon looks at the clocks, and how late its mark may be.
const LOOK: i64 = 20 * MINUTE;

#[derive(Clone, Copy, Debug)]
enum Step {
    /// Time passes, and the daemon runs.
    Pass(i64),
    /// Somebody moves the wall clock.
    Wall(i64),
    /// Somebody sets it right.
    Right,
    /// The daemon ends and is started again so much later. Was its last mark written?
    Restart {
        down: i64,
        written: bool,
    },
    /// So does the machine, and its clock is off by so much more.
    Reboot {
        down: i64,
        by: i64,
        written: bool,
    },
    /// A policy host speaks.
    Witness {
        domain: usize,
        address: u8,
        weeks: i64,
        says: Says,
    },
    Operator,
}

#[derive(Clone, Copy, Debug)]
enum Says {
    TheTruth,
    /// What the relay would like to hear.
    OurWallClock,
}

const DOMAINS: [&str; 6] =
    ["a.test", "x.a.test", "y.x.a.test", "b.test", "c.example", "xn--4dbrk0ce.test"];

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let seconds = prop_oneof![0..HOUR, 0..DAY, 0..3 * DAY];
    let shift = prop_oneof![
        -HOUR..HOUR,
        Just(HOUR - 1),
        -2 * HOUR..2 * HOUR,
        -DAY..DAY,
        -40 * DAY..40 * DAY,
    ];
    let down = prop_oneof![0..10 * MINUTE, 0..DAY, 0..30 * DAY];
    let says = prop_oneof![Just(Says::TheTruth), Just(Says::OurWallClock)];
    let witness = (0..DOMAINS.len(), 1_u8..5, 0_i64..3, says)
        .prop_map(|(domain, address, weeks, says)| Step::Witness { domain, address, weeks, says });
    let step = prop_oneof![
        6 => seconds.prop_map(Step::Pass),
        4 => shift.clone().prop_map(Step::Wall),
        1 => Just(Step::Right),
        2 => (down.clone(), any::<bool>())
            .prop_map(|(down, written)| Step::Restart { down, written }),
        2 => (down, prop_oneof![Just(0), shift], any::<bool>())
            .prop_map(|(down, by, written)| Step::Reboot { down, by, written }),
        8 => witness,
        1 => Just(Step::Operator),
    ];
    prop::collection::vec(step, 1..60)
}

/// Somebody who knows the limits moves the clock one way, always by a little less than is seen.
fn creep() -> impl Strategy<Value = Vec<Step>> {
    let little = HOUR - MINUTE;
    let moves = prop_oneof![
        2 => Just(vec![Step::Wall(little)]),
        // Too far, and almost back.
        2 => Just(vec![Step::Wall(2 * little), Step::Wall(-little)]),
        1 => Just(vec![Step::Pass(LOOK)]),
        1 => Just(vec![Step::Pass(DAY)]),
        1 => Just(vec![Step::Restart { down: 0, written: true }]),
        4 => prop_oneof![Just(0), Just(little), 0..DAY]
            .prop_map(|by| vec![Step::Reboot { down: 0, by, written: true }]),
    ];
    (prop::collection::vec(moves, 20..100), prop_oneof![Just(1), Just(-1)]).prop_map(
        |(moves, direction)| {
            let turned = |step: Step| match step {
                Step::Wall(by) => Step::Wall(direction * by),
                Step::Reboot { down, by, written } => {
                    Step::Reboot { down, by: direction * by, written }
                }
                Step::Pass(_)
                | Step::Right
                | Step::Restart { .. }
                | Step::Witness { .. }
                | Step::Operator => step,
            };
            moves.into_iter().flatten().map(turned).collect()
        },
    )
}

/// What is true, and what the judge may rely on.
struct World {
    judge: Judge,
    /// Seconds since the start.
    true_time: i64,
    /// What the wall clock is ahead by.
    off: i64,
    boot: u32,
    boot_began: i64,
    disk: Option<String>,
    written_at: i64,
    last: Moment,
    /// Since trust last came from outside: what the clock was off by then, how long the daemon has
    /// run since, and how long the machine was off.
    believed: i64,
    ran: i64,
    was_off: i64,
    /// What was said since the doubt began: who, where, known since and date, and when.
    heard: Vec<(Witness, i64)>,
    /// How long the doubt has lasted in running lives, and in how many.
    doubted: i64,
    lives: i64,
}

impl World {
    fn new() -> Self {
        let reading = ClockReading { wall: stamp(0), boottime: Duration::ZERO };
        let judge = Judge::start(reading, boot(0), LastMark::Never);
        let mut world = Self {
            judge,
            true_time: 0,
            off: 0,
            boot: 0,
            boot_began: 0,
            disk: None,
            written_at: 0,
            last: Moment::undoubted(stamp(0)),
            believed: 0,
            ran: 0,
            was_off: 0,
            heard: Vec::new(),
            doubted: 0,
            lives: 1,
        };
        world.look();
        world
    }

    fn reading(&self) -> ClockReading {
        let boottime = u64::try_from(self.true_time - self.boot_began).unwrap();
        ClockReading {
            wall: stamp(self.true_time + self.off),
            boottime: Duration::from_secs(boottime),
        }
    }

    fn apply(&mut self, step: Step) {
        match step {
            Step::Pass(seconds) => self.pass(seconds),
            Step::Wall(by) => {
                self.off += by;
                self.look();
            }
            Step::Right => {
                self.off = 0;
                self.look();
            }
            Step::Restart { down, written } => {
                if written {
                    self.write();
                }
                if self.mark().is_some_and(|mark| mark.boot != boot(self.boot)) {
                    // Nothing was written in this boot, so it is like another one.
                    self.was_off += self.true_time - self.written_at + down;
                }
                self.true_time += down;
                self.begin();
            }
            Step::Reboot { down, by, written } => {
                if written {
                    self.write();
                }
                // Of what was after the last mark nothing is known.
                self.was_off += self.true_time - self.written_at + down;
                self.true_time += down;
                self.off += by;
                self.boot += 1;
                self.boot_began = self.true_time;
                self.begin();
            }
            Step::Witness { domain, address, weeks, says } => {
                self.hear(domain, address, weeks, says);
            }
            Step::Operator => {
                let change = self.judge.trust_by_operator(self.reading());
                self.took(change, Some(TrustedBy::Operator));
            }
        }
    }

    fn pass(&mut self, seconds: i64) {
        let mut left = seconds;
        while left > 0 {
            let piece = left.min(LOOK);
            left -= piece;
            self.true_time += piece;
            self.ran += piece;
            if self.last.clock == ClockTrust::Suspect {
                self.doubted += piece;
            }
            self.look();
            self.write();
        }
    }

    fn look(&mut self) {
        let change = self.judge.look(self.reading());
        self.took(change, None);
    }

    fn write(&mut self) {
        if let Some(mark) = self.judge.due_mark(self.reading()) {
            self.disk = Some(mark.to_string());
            self.written_at = self.true_time;
        }
    }

    fn mark(&self) -> Option<Mark> {
        self.disk.as_ref().map(|text| text.parse().unwrap())
    }

    fn begin(&mut self) {
        let last = self.mark().map_or(LastMark::Never, LastMark::Whole);
        let (is_first, was_in_doubt) = match &last {
            LastMark::Whole(mark) => (false, mark.doubt.is_some()),
            LastMark::Never | LastMark::Damaged | LastMark::Time(_) => (true, false),
        };
        if is_first {
            // Nothing had been written, so nothing is known.
            self.believed = self.off;
            (self.ran, self.was_off) = (0, 0);
        }
        self.judge = Judge::start(self.reading(), boot(self.boot), last);
        self.heard.clear();
        self.lives += 1;
        let change = self.judge.look(self.reading());
        let now_in_doubt = self.judge.moment(self.reading()).clock == ClockTrust::Suspect;
        let ended = matches!(change, ClockChange::BecameTrusted(_));
        assert!(!was_in_doubt || now_in_doubt || ended, "a restart ended the doubt");
        if !was_in_doubt {
            self.doubted = 0;
        }
        self.last = Moment { now: Timestamp::MIN, ..self.last };
        self.took(change, None);
    }

    fn hear(&mut self, domain: usize, address: u8, weeks: i64, says: Says) {
        let reading = self.reading();
        let steady = self.judge.moment(reading).now;
        let date = match says {
            Says::TheTruth => stamp(self.true_time),
            Says::OurWallClock => reading.wall,
        };
        let witness = Witness {
            domain: HostName::parse(DOMAINS[domain]).unwrap(),
            address: IpAddr::from(Ipv4Addr::new(192, 0, 2, address)),
            known_since: steady - SignedDuration::from_hours(weeks * 7 * 24),
            date,
        };
        if weeks > 0 {
            self.heard.push((witness.clone(), self.true_time));
        }
        let change = self.judge.hear(reading, &witness);
        self.took(change, None);
        if self.last.clock == ClockTrust::Trusted && self.has_three_witnesses() {
            self.believe();
        }
    }

    /// Are there three that are independent, agree with each other, and with the wall clock?
    fn has_three_witnesses(&self) -> bool {
        let origin = |date: Timestamp, heard: i64| date.as_second() - heard;
        let wall = origin(self.reading().wall, self.true_time);
        let voices: Vec<_> = self
            .heard
            .iter()
            .map(|(w, heard)| (registrable_domain(&w.domain), w.address, origin(w.date, *heard)))
            .filter(|(.., said)| (said - wall).abs() <= HOUR)
            .collect();
        let differ = |a: usize, b: usize| {
            let ((d1, a1, t1), (d2, a2, t2)) = (&voices[a], &voices[b]);
            d1 != d2 && a1 != a2 && (t1 - t2).abs() <= HOUR
        };
        let all = 0..voices.len();
        all.clone().any(|a| {
            all.clone().any(|b| differ(a, b) && all.clone().any(|c| differ(a, c) && differ(b, c)))
        })
    }

    /// Trust came from outside: all that was thought before is over.
    fn believe(&mut self) {
        self.believed = self.off;
        (self.ran, self.was_off) = (0, 0);
    }

    fn took(&mut self, change: ClockChange, ordered: Option<TrustedBy>) {
        let reading = self.reading();
        let moment = self.judge.moment(reading);
        match change {
            ClockChange::None => {}
            ClockChange::BecameSuspect(_) => {
                self.heard.clear();
                self.doubted = 0;
            }
            ClockChange::BecameTrusted(by) => {
                match by {
                    TrustedBy::Agreement => {}
                    TrustedBy::Witnesses => {
                        assert!(self.has_three_witnesses(), "trusted by fewer than three");
                        self.believe();
                    }
                    TrustedBy::Operator => {
                        assert_eq!(ordered, Some(by));
                        self.believe();
                    }
                    TrustedBy::Time => self.believe(),
                }
                if by != TrustedBy::Agreement {
                    self.disk_may_go_back();
                }
                assert_eq!(moment.trusted_since, reading.wall);
                self.heard.clear();
            }
        }
        self.check(moment);
    }

    fn disk_may_go_back(&mut self) {
        self.judge.mark_was_lost();
        self.disk = None;
        self.write();
        self.last.now = Timestamp::MIN;
    }

    fn check(&mut self, moment: Moment) {
        let reading = self.reading();
        if let Some(Mark { time, .. }) = self.mark() {
            let mut copy = self.judge.clone();
            copy.mark_was_lost();
            assert!(copy.due_mark(reading).unwrap().time >= time, "the mark went back");
            if moment.clock == ClockTrust::Suspect {
                assert!(moment.now >= time, "steady time is before the mark");
            }
        }
        match moment.clock {
            ClockTrust::Suspect => {
                if self.last.clock == ClockTrust::Suspect {
                    assert!(moment.now >= self.last.now, "steady time went back");
                }
                let most = DAY + self.lives * 2 * LOOK;
                assert!(self.doubted <= most, "in doubt for {} s", self.doubted);
            }
            ClockTrust::Trusted => {
                assert_eq!(moment.now, reading.wall);
                // An hour for those of this boot; the others are for what two boots before did that
                // their last marks did not have yet.
                let steps = 3 * HOUR + self.ran / DAY * HOUR;
                let moved = self.off - self.believed;
                assert!(moved <= DAY + steps, "{moved} s ahead, and trusted");
                // A clock that stood while the machine was off looks like no pause at all.
                assert!(moved >= -DAY - steps - self.was_off, "{moved} s behind, and trusted");
            }
        }
        self.last = moment;
    }
}

fn stamp(second: i64) -> Timestamp {
    Timestamp::from_second(START + second).unwrap()
}

fn boot(n: u32) -> Option<BootId> {
    BootId::parse(&format!("{n:032x}"))
}

proptest! {
    #![proptest_config(ProptestConfig {
        // More with PROPTEST_CASES, others with PROPTEST_RNG_SEED.
        cases: ProptestConfig::default().cases.max(1_000),
        rng_seed: match ProptestConfig::default().rng_seed {
            RngSeed::Random => RngSeed::Fixed(1),
            RngSeed::Fixed(seed) => RngSeed::Fixed(seed),
        },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_wrong_clock_is_trusted_only_in_the_ways_that_are_listed(steps in steps()) {
        let mut world = World::new();
        for step in steps {
            world.apply(step);
        }
    }

    #[test]
    fn nobody_creeps_past_the_limits(steps in creep()) {
        let mut world = World::new();
        for step in steps {
            world.apply(step);
        }
    }
}
