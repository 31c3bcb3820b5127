//! What time is it, and may the answer be believed?
//!
//! [`now`] is the only reader of the wall clock. [`ClockWatch`] says whether mail may be bounced for
//! its age and policies may lapse by it: a clock that somebody moved must neither empty the queue nor
//! end an enforced policy (RFC 8461 §5.1 counts a policy's life in wall time).
//!
//! The clock is *suspect* while it differs from what the monotonic clock makes expect by more than
//! [`STEP_MAX`], or at start from the last trusted time on disk by more than [`GAP_MAX`]. It is
//! trusted again when it agrees again, when a policy host with a valid certificate says about the
//! same time ([`ClockWatch::confirm`]), or after [`DOUBT_MAX`]. While in doubt the mark on disk does
//! not move, so that a restart does not make a wrong clock right.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use policy::sts::keep::{ClockTrust, Moment};
use spool::Spool;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

/// A larger step of the wall clock against the monotonic one is not drift.
const STEP_MAX: SignedDuration = SignedDuration::from_hours(1);
/// At start, a larger distance from the mark may be a long pause or a wrong clock.
const GAP_MAX: SignedDuration = SignedDuration::from_hours(24);
/// After this long, in monotonic time, the clock is believed whatever it says.
const DOUBT_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// A policy host's `Date` confirms the clock if it is this close.
const CONFIRM_MAX: SignedDuration = SignedDuration::from_hours(1);
/// How often the comparison starts anew, so that honest drift never adds up to a step.
const ANCHOR_LIFE: Duration = Duration::from_secs(24 * 60 * 60);
/// How far the mark on disk may lie behind.
const MARK_EVERY: SignedDuration = SignedDuration::from_mins(10);
/// What the mark is called in the store.
const MARK: &str = "clock";
/// How often the daemon looks at the clocks of its own accord.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// The wall clock. Everything else takes time as an argument.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
pub(crate) fn now() -> Timestamp {
    Timestamp::now()
}

/// Both clocks, read at the same moment.
#[derive(Clone, Copy, Debug)]
struct Reading {
    wall: Timestamp,
    /// Monotonic time since the watch was made.
    elapsed: Duration,
}

/// The judgement, without any clock of its own.
#[derive(Debug)]
struct Judge {
    /// What the wall clock is compared with.
    anchor: Reading,
    tolerance: SignedDuration,
    doubt_since: Option<Duration>,
    /// The last trusted time that was handed out to be stored.
    mark: Option<Timestamp>,
    /// When trust last returned, in this life.
    trusted_since: Timestamp,
}

/// What one look at the clocks changed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Change {
    None,
    /// The wall clock moved by this much for no known reason.
    BecameSuspect(SignedDuration),
    BecameTrusted,
}

impl Judge {
    /// `mark` is the last trusted time on disk; none means that there is nothing to protect yet.
    fn start(reading: Reading, mark: Option<Timestamp>) -> Self {
        let anchor = mark.map_or(reading, |wall| Reading { wall, elapsed: reading.elapsed });
        let tolerance = if mark.is_some() { GAP_MAX } else { STEP_MAX };
        Self { anchor, tolerance, doubt_since: None, mark, trusted_since: Timestamp::MIN }
    }

    fn offset(&self, reading: Reading) -> SignedDuration {
        let passed = reading.elapsed.saturating_sub(self.anchor.elapsed);
        reading.wall.duration_since(self.anchor.wall)
            - SignedDuration::try_from(passed).unwrap_or(SignedDuration::MAX)
    }

    fn observe(&mut self, reading: Reading) -> Change {
        let offset = self.offset(reading);
        let plausible = offset.abs() <= self.tolerance;
        match (self.doubt_since, plausible) {
            (None, true) => {
                // The wide tolerance was for the time that the daemon did not see.
                let stale = reading.elapsed.saturating_sub(self.anchor.elapsed) >= ANCHOR_LIFE;
                if stale || self.tolerance == GAP_MAX {
                    self.anchor_at(reading);
                }
                Change::None
            }
            (None, false) => {
                self.doubt_since = Some(reading.elapsed);
                Change::BecameSuspect(offset)
            }
            (Some(since), plausible) => {
                if !plausible && reading.elapsed.saturating_sub(since) < DOUBT_MAX {
                    return Change::None;
                }
                self.trust(reading);
                Change::BecameTrusted
            }
        }
    }

    fn confirm(&mut self, reading: Reading, date: Timestamp) -> Change {
        let agrees = reading.wall.duration_since(date).abs() <= CONFIRM_MAX;
        if self.doubt_since.is_none() || !agrees {
            return Change::None;
        }
        self.trust(reading);
        Change::BecameTrusted
    }

    fn trust(&mut self, reading: Reading) {
        self.anchor_at(reading);
        self.doubt_since = None;
        self.trusted_since = reading.wall;
        // The old mark may lie in a future that was never real.
        self.mark = None;
    }

    fn anchor_at(&mut self, reading: Reading) {
        self.anchor = reading;
        self.tolerance = STEP_MAX;
    }

    fn is_suspect(&self) -> bool {
        self.doubt_since.is_some()
    }

    /// The time to store, if it is time to.
    fn due_mark(&mut self, wall: Timestamp) -> Option<Timestamp> {
        let due = self.mark.is_none_or(|mark| wall.duration_since(mark) >= MARK_EVERY);
        if self.is_suspect() || !due {
            return None;
        }
        self.mark = Some(wall);
        Some(wall)
    }
}

/// Watches the wall clock for the whole daemon; clones share what they know. Every question looks
/// at the clocks anew, so a step is seen before anything is decided by it.
#[derive(Clone, Debug)]
pub(crate) struct ClockWatch {
    origin: Instant,
    judge: Arc<Mutex<Judge>>,
}

impl ClockWatch {
    /// Begins to watch. `mark` is the last trusted time, from before the start.
    pub(crate) fn new(mark: Option<Timestamp>) -> Self {
        let origin = Instant::now();
        let reading = Reading { wall: now(), elapsed: Duration::ZERO };
        let watch = Self { origin, judge: Arc::new(Mutex::new(Judge::start(reading, mark))) };
        watch.trust();
        watch
    }

    /// Begins to watch, with the mark that is stored. Blocks for a read.
    ///
    /// # Errors
    ///
    /// [`spool::StoreError`] when the store cannot be read.
    pub(crate) fn open(store: &Spool) -> Result<Self, spool::StoreError> {
        let mark = store.mark(MARK)?.and_then(|value| value.parse().ok());
        Ok(Self::new(mark.and_then(|at| Timestamp::from_millisecond(at).ok())))
    }

    /// Keeps the mark in the store up to date until `shutdown`.
    pub(crate) async fn run(&self, store: &Spool, shutdown: &CancellationToken) {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
            let Some(mark) = self.due_mark() else { continue };
            let value = mark.as_millisecond().to_string();
            store.set_mark_later(MARK, Some(&value), |stored| {
                if let Err(error) = stored {
                    error!(event = "store_failed", %error, "the clock's mark could not be stored");
                }
            });
        }
    }

    /// May policies lapse and mail be bounced for its age?
    pub(crate) fn trust(&self) -> ClockTrust {
        self.moment().clock
    }

    /// The time, and whether it is to be believed.
    pub(crate) fn moment(&self) -> Moment {
        let reading = self.read();
        let mut judge = self.judge.lock().unwrap_or_else(PoisonError::into_inner);
        tell(judge.observe(reading));
        let clock = if judge.is_suspect() { ClockTrust::Suspect } else { ClockTrust::Trusted };
        Moment { now: reading.wall, clock, trusted_since: judge.trusted_since }
    }

    /// A host that proved its name by a certificate says that it is `date` now.
    pub(crate) fn confirm(&self, date: Timestamp) {
        let reading = self.read();
        let mut judge = self.judge.lock().unwrap_or_else(PoisonError::into_inner);
        tell(judge.confirm(reading, date));
    }

    /// The mark to write to disk, when it is due.
    fn due_mark(&self) -> Option<Timestamp> {
        let reading = self.read();
        let mut judge = self.judge.lock().unwrap_or_else(PoisonError::into_inner);
        tell(judge.observe(reading));
        judge.due_mark(reading.wall)
    }

    fn read(&self) -> Reading {
        Reading { wall: now(), elapsed: self.origin.elapsed() }
    }
}

fn tell(change: Change) {
    match change {
        Change::None => {}
        Change::BecameSuspect(offset) => error!(
            event = "alarm",
            reason = "clock_suspect",
            offset_seconds = offset.as_secs(),
            "the wall clock moved: no policy lapses and nothing is bounced for its age until it is \
             confirmed, at most 24 h"
        ),
        Change::BecameTrusted => info!(event = "clock_trusted", "the wall clock is believed again"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: i64 = 1_800_000_000;
    const HOUR: i64 = 3600;
    const DAY: i64 = 24 * HOUR;

    /// Wall seconds relative to the start, monotonic seconds.
    fn at(wall: i64, elapsed: u64) -> Reading {
        Reading { wall: stamp(wall), elapsed: Duration::from_secs(elapsed) }
    }

    fn stamp(wall: i64) -> Timestamp {
        Timestamp::from_second(START + wall).unwrap()
    }

    #[test]
    fn a_start_far_from_the_mark_is_suspect_and_a_first_start_is_not() {
        let cases = [
            (None, false),
            (Some(0), false),
            (Some(-DAY), false),
            (Some(DAY), false),
            (Some(-DAY - 1), true),
            (Some(DAY + 1), true),
            (Some(-30 * DAY), true),
        ];
        for (mark, want) in cases {
            let mut judge = Judge::start(at(0, 0), mark.map(stamp));
            judge.observe(at(0, 0));
            assert_eq!(judge.is_suspect(), want, "{mark:?}");
        }
    }

    #[test]
    fn a_step_of_more_than_an_hour_is_suspect_and_drift_is_not() {
        let cases = [
            (at(60, 60), false),
            (at(60 + HOUR, 60), false),
            (at(60 + HOUR + 1, 60), true),
            (at(60 - HOUR, 60), false),
            (at(60 - HOUR - 1, 60), true),
            (at(30 * DAY, 60), true),
        ];
        for (reading, want) in cases {
            let mut judge = Judge::start(at(0, 0), Some(stamp(-60)));
            judge.observe(at(0, 0));
            judge.observe(reading);
            assert_eq!(judge.is_suspect(), want, "{reading:?}");
        }
    }

    #[test]
    fn small_steps_do_not_add_up_to_a_large_one_unseen() {
        let mut judge = Judge::start(at(0, 0), None);
        judge.observe(at(60 + HOUR / 2, 60));
        judge.observe(at(120 + HOUR, 120));
        assert!(!judge.is_suspect());
        judge.observe(at(180 + HOUR + HOUR / 2, 180));
        assert!(judge.is_suspect());
    }

    #[test]
    fn doubt_ends_by_agreement_by_confirmation_or_after_a_day() {
        let doubting = || {
            let mut judge = Judge::start(at(0, 0), Some(stamp(0)));
            judge.observe(at(0, 0));
            assert_eq!(
                judge.observe(at(30 * DAY, 60)),
                Change::BecameSuspect(SignedDuration::from_secs(30 * DAY - 60))
            );
            judge
        };
        let mut judge = doubting();
        assert_eq!(judge.observe(at(120, 120)), Change::BecameTrusted);

        let mut judge = doubting();
        assert_eq!(judge.confirm(at(30 * DAY, 60), stamp(0)), Change::None);
        assert!(judge.is_suspect(), "a host that has another date confirms nothing");
        assert_eq!(judge.confirm(at(30 * DAY, 60), stamp(30 * DAY - HOUR)), Change::BecameTrusted);
        assert_eq!(judge.observe(at(30 * DAY + 60, 120)), Change::None);

        let mut judge = doubting();
        assert_eq!(judge.observe(at(31 * DAY - 1, 86_400 + 59)), Change::None);
        assert_eq!(judge.observe(at(31 * DAY, 86_400 + 60)), Change::BecameTrusted);
    }

    #[test]
    fn the_mark_stands_still_while_in_doubt_and_may_go_back_afterwards() {
        let mut judge = Judge::start(at(0, 0), Some(stamp(0)));
        judge.observe(at(0, 0));
        assert_eq!(judge.due_mark(stamp(599)), None);
        assert_eq!(judge.due_mark(stamp(600)), Some(stamp(600)));
        judge.observe(at(30 * DAY, 660));
        assert_eq!(judge.due_mark(stamp(30 * DAY)), None);

        let mut judge = Judge::start(at(0, 0), Some(stamp(30 * DAY)));
        judge.observe(at(0, 0));
        assert_eq!(judge.due_mark(stamp(0)), None);
        judge.confirm(at(0, 1), stamp(5));
        assert_eq!(judge.due_mark(stamp(0)), Some(stamp(0)));
    }
}
