//! What can be said of a lane.

use jiff::Timestamp;

use crate::delivery::outcome::FailureRun;
use crate::telemetry::Reason;

/// Is a lane being read from the store?
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in super::super) enum LaneReading {
    /// Nobody is reading it.
    Not,
    /// Yes, and what comes can be used.
    Now,
    /// Yes, but mail was taken out of the store since: what comes may be gone.
    Outdated,
}

/// How much of the memory for ready jobs is used?
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in super::super) enum Memory {
    /// Less than a quarter.
    Plenty,
    /// Less than half, a quarter or more.
    Enough,
    /// More: what is left is for those who take mail.
    Scarce,
    /// All of it: nothing more is read.
    Used,
}

impl Memory {
    /// So much is used of `most`.
    pub(in super::super) fn of(used: u64, most: u64) -> Self {
        if used < most / 4 {
            Self::Plenty
        } else if used < most / 2 {
            Self::Enough
        } else if used < most {
            Self::Scarce
        } else {
            Self::Used
        }
    }
}

/// Where a lane stands that may have something to do. It stands in one row at most.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in super::super) enum Stand {
    /// In none: it rests, or only what runs or is read can change something.
    Nowhere,
    /// Among those that something has happened to.
    Changed,
    /// Among those of its class that something can begin in.
    InRow,
    /// Among those of its class that are to be read first.
    ToRead,
    /// Among those that wait for a connection to the same hosts.
    AtSite,
}

/// Who says where the mail of a lane goes?
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in super::super) enum Hop {
    /// The operator, in a route.
    OfRoute,
    /// The next hop's own DNS.
    OfDomain,
}

/// How were its attempts lately?
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in super::super) enum LanePace {
    /// Nothing is to be said of them.
    Usual,
    /// The last one was slow, and none has taken mail since.
    Slow,
}

/// Does a lane stand before the others of its class?
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in super::super) enum Precedence {
    /// It stands where its turn puts it.
    None,
    /// Once: it had its turn, and what it needed is there now.
    Once,
    /// Until its next attempt begins: there is room for it at its site.
    Called,
}

/// That the hosts of a lane failed, as the store remembers it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BackOff {
    /// How often in a row, and since when.
    pub(crate) trouble: FailureRun,
    /// When it is tried again.
    pub(crate) until: Timestamp,
    /// How they failed the last time.
    pub(crate) cause: Option<Reason>,
}

/// What a lane could do now.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in super::super) enum Wish {
    /// Nothing, before an event or its time.
    Rest,
    /// Begin an attempt, if it had a place; perhaps it has to be read first.
    Begin,
    /// Be read while its attempts run, so that the next ones begin at once.
    ReadAhead,
}

/// A time to the microsecond, or never; a third of an `Option<Timestamp>`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct At(i64);

impl At {
    pub(super) const NEVER: Self = Self(i64::MAX);

    pub(super) fn get(self) -> Option<Timestamp> {
        if self == Self::NEVER { None } else { Timestamp::from_microsecond(self.0).ok() }
    }
}

impl From<Option<Timestamp>> for At {
    fn from(time: Option<Timestamp>) -> Self {
        time.map_or(Self::NEVER, |time| Self(time.as_microsecond()))
    }
}

impl From<Timestamp> for At {
    fn from(time: Timestamp) -> Self {
        Some(time).into()
    }
}
