//! What time is it, and may the answer be believed?
//!
//! A policy's life is counted in wall time (RFC 8461 §5.1), so whoever moves our clock could end an
//! enforced policy, or all mail at once. [`Judge`] compares the wall clock with CLOCK_BOOTTIME,
//! which nobody can set, and over restarts with a [`Mark`] on disk. While they contradict each
//! other the clock is *suspect*: time goes on by CLOCK_BOOTTIME alone (the *steady* time), and
//! nothing ends by it.
//!
//! The clock becomes suspect by a step of more than [`STEP_MAX`], and when the machine was off for
//! more than [`GAP_MAX`] in all since the last witnesses: how long it was off in truth nobody
//! knows. Trust returns when the clocks agree again, by [`WITNESSES`] independent [`Witness`]es, by
//! the operator's word, or after [`DOUBT_MAX`].
//!
//! Pure: the caller reads the clocks and keeps the mark (`staunch::clock`).

mod judge;
mod mark;
mod witness;

#[cfg(test)]
mod tests;

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

pub use judge::{ClockChange, Judge, LastMark, TrustedBy};
pub use mark::{Anchor, BadMark, BootId, Mark, Slack};
pub use witness::Witness;

/// Our choice: a larger step of the wall clock against the monotonic one is not drift.
pub const STEP_MAX: SignedDuration = SignedDuration::from_hours(1);
/// Our choice: what pauses of unknown length may come to in all since the last witnesses.
pub const GAP_MAX: SignedDuration = SignedDuration::from_hours(24);
/// Our choice: after so long in doubt the clock is believed whatever it says.
pub const DOUBT_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// Our choice: how often the comparison starts anew, so that honest drift never adds up to a step.
/// Between two of these all steps together may come to [`STEP_MAX`], and no more.
pub const ANCHOR_LIFE: Duration = Duration::from_secs(24 * 60 * 60);
/// Our choice: so many make a clock right.
pub const WITNESSES: usize = 3;
/// Our choice: a witness whose policy is known for less than this may have come just to be
/// one.
pub const KNOWN_FOR: SignedDuration = SignedDuration::from_hours(7 * 24);
/// Our choice: how far witnesses may differ from each other and from the wall clock.
pub const AGREEMENT_MAX: SignedDuration = SignedDuration::from_hours(1);

/// May the wall clock be believed?
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ClockTrust {
    /// Yes: what has a time to lapse lapses by it.
    Trusted,
    /// It jumped: nothing lapses by it.
    Suspect,
}

/// The time, and how far it can be trusted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Moment {
    /// The wall clock while it is trusted. While it is suspect: the steady time, which is what the
    /// last trusted wall time and the monotonic clock since then make expect.
    pub now: Timestamp,
    /// The later of wall clock and `now`: in doubt either may be right, and nothing ends by the
    /// wrong one.
    pub latest: Timestamp,
    /// May a policy lapse by it?
    pub clock: ClockTrust,
    /// The wall time at which trust last returned after a doubt, also in an earlier life of the
    /// daemon; [`Timestamp::MIN`] if there never was a doubt. What looks over by the clock counts
    /// as over only when something that was tried since has failed.
    pub trusted_since: Timestamp,
}

impl Moment {
    /// `now` by a clock that was never in doubt.
    pub fn undoubted(now: Timestamp) -> Self {
        let (clock, trusted_since) = (ClockTrust::Trusted, Timestamp::MIN);
        Self { now, latest: now, clock, trusted_since }
    }
}

/// Both clocks, read at the same moment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ClockReading {
    /// What anybody with the right to do so can set.
    pub wall: Timestamp,
    /// CLOCK_BOOTTIME: the time since the machine started, also while it slept.
    pub boottime: Duration,
}

impl ClockReading {
    /// How long after `earlier` this was, in the same boot.
    fn since(self, earlier: Duration) -> SignedDuration {
        signed(self.boottime.saturating_sub(earlier))
    }
}

fn signed(duration: Duration) -> SignedDuration {
    SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX)
}

/// `at + by`, at the end of time at the latest.
fn plus(at: Timestamp, by: SignedDuration) -> Timestamp {
    let end = if by.is_negative() { Timestamp::MIN } else { Timestamp::MAX };
    at.checked_add(by).unwrap_or(end)
}
