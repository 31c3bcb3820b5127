//! What is known about the clock, as one line on disk.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// The version that [`Mark`] is written in.
const VERSION: &str = "1";
/// What stands for "none".
const NONE: &str = "-";

/// Which start of the machine this is (/proc/sys/kernel/random/boot_id).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BootId(Box<str>);

impl BootId {
    /// Characters of an id: a UUID has 36.
    const CHARS_MAX: usize = 64;

    /// The id in `text`; [`None`] for what cannot be one.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim_ascii();
        let is_id = (1..=Self::CHARS_MAX).contains(&text.len())
            && text != NONE
            && text.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
        is_id.then(|| Self(text.into()))
    }
}

/// What the wall clock is compared with: a line through this point, and how far it may be off it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Anchor {
    /// What the wall clock showed, or should have shown.
    pub wall: Timestamp,
    /// CLOCK_BOOTTIME at that moment: time since boot, with suspend.
    pub boottime: Duration,
    /// How far the wall clock may be from the line without being in doubt.
    pub slack: Slack,
}

/// How far off its anchor the wall clock may be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Slack {
    /// By a step, either way.
    Step,
    /// The machine was off in between: this far ahead, and behind as far, but by no more than a
    /// step, since no pause goes back.
    Pause(SignedDuration),
    /// Nothing is known that it could agree with.
    Unknown,
}

/// What outlives a restart.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Mark {
    /// The latest time that was trusted, or the steady time after it.
    pub time: Timestamp,
    /// CLOCK_BOOTTIME at the moment of `time`.
    pub boottime: Duration,
    /// In this boot; [`None`] if that is not known, which is never the same boot.
    pub boot: Option<BootId>,
    /// What the wall clock is compared with.
    pub anchor: Anchor,
    /// Pauses of unknown length since the last witnesses, and steps before them, added up.
    pub gaps: SignedDuration,
    /// When trust last returned; [`Timestamp::MIN`] for never.
    pub trusted_since: Timestamp,
    /// How long the clock had been in doubt, if it was.
    pub doubt: Option<Duration>,
}

/// A line that is no [`Mark`].
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the mark of the clock is damaged")]
pub struct BadMark;

/// Milliseconds since the epoch and of durations, names where they help.
impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let boot = self.boot.as_ref().map_or(NONE, |id| &id.0);
        let time = self.time.as_millisecond();
        write!(f, "{VERSION} {time} {} {boot}", self.boottime.as_millis())?;
        let Anchor { wall, boottime, slack } = self.anchor;
        write!(f, " {} {} ", wall.as_millisecond(), boottime.as_millis())?;
        match slack {
            Slack::Step => f.write_str("step")?,
            Slack::Pause(ahead) => write!(f, "{}", ahead.as_millis())?,
            Slack::Unknown => f.write_str("unknown")?,
        }
        write!(f, " {} ", self.gaps.as_millis())?;
        if self.trusted_since == Timestamp::MIN {
            f.write_str(NONE)?;
        } else {
            write!(f, "{}", self.trusted_since.as_millisecond())?;
        }
        match self.doubt {
            None => write!(f, " {NONE}"),
            Some(spent) => write!(f, " {}", spent.as_millis()),
        }
    }
}

impl FromStr for Mark {
    type Err = BadMark;

    /// Reads what [`fmt::Display`] wrote. What contradicts itself is damaged, too.
    fn from_str(text: &str) -> Result<Self, BadMark> {
        let parts: Vec<&str> = text.split(' ').collect();
        let [VERSION, time, boottime, boot, wall, anchored, slack, gaps, since, doubt] = *parts
        else {
            return Err(BadMark);
        };
        let boot = match boot {
            NONE => None,
            id => Some(BootId::parse(id).ok_or(BadMark)?),
        };
        let slack = match slack {
            "step" => Slack::Step,
            "unknown" => Slack::Unknown,
            ahead => Slack::Pause(span(ahead)?),
        };
        let mark = Self {
            time: timestamp(time)?,
            boottime: duration(boottime)?,
            boot,
            anchor: Anchor { wall: timestamp(wall)?, boottime: duration(anchored)?, slack },
            gaps: span(gaps)?,
            trusted_since: if since == NONE { Timestamp::MIN } else { timestamp(since)? },
            doubt: if doubt == NONE { None } else { Some(duration(doubt)?) },
        };
        let is_sound = mark.anchor.wall <= mark.time
            && mark.anchor.boottime <= mark.boottime
            && mark.trusted_since <= mark.time;
        if is_sound { Ok(mark) } else { Err(BadMark) }
    }
}

fn timestamp(text: &str) -> Result<Timestamp, BadMark> {
    let millis = text.parse().map_err(|_| BadMark)?;
    Timestamp::from_millisecond(millis).map_err(|_| BadMark)
}

/// Milliseconds without a sign.
fn duration(text: &str) -> Result<Duration, BadMark> {
    text.parse().map(Duration::from_millis).map_err(|_| BadMark)
}

/// Milliseconds; a mark has no negative span.
fn span(text: &str) -> Result<SignedDuration, BadMark> {
    SignedDuration::try_from(duration(text)?).map_err(|_| BadMark)
}
