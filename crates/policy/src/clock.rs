//! What time is it for the rules, and how far may it be trusted?

use jiff::Timestamp;

/// May the wall clock be believed?
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ClockTrust {
    /// Yes.
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
    /// May a policy lapse by it?
    pub clock: ClockTrust,
    /// The wall time at which trust last returned after a doubt, also in an earlier life of the
    /// daemon; [`Timestamp::MIN`] if there never was a doubt. What looks over by the clock counts as
    /// over only when something that was tried since has failed.
    pub trusted_since: Timestamp,
}

impl Moment {
    /// `now` by a clock that was never in doubt.
    pub fn undoubted(now: Timestamp) -> Self {
        Self { now, clock: ClockTrust::Trusted, trusted_since: Timestamp::MIN }
    }
}
