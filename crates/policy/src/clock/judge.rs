//! Is the wall clock to be believed now?

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::witness::{Voices, Witness};
use super::{
    ANCHOR_LIFE, Anchor, BootId, ClockReading, ClockTrust, DOUBT_MAX, GAP_MAX, Mark, Moment,
    STEP_MAX, Slack, plus, signed,
};

/// Our choice: how far the mark on disk may lie behind.
const MARK_EVERY: Duration = Duration::from_secs(10 * 60);
/// Our choice: the same in doubt, so that restarts make a doubt longer by minutes and not by days.
const MARK_EVERY_IN_DOUBT: Duration = Duration::from_secs(60);

/// What is on disk when a life begins.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum LastMark {
    /// Nothing: there is nothing to protect yet.
    Never,
    /// A mark in the form of this release.
    Whole(Mark),
    /// Something that cannot be read. Whoever can damage it could otherwise choose "first start",
    /// so the clock is in doubt.
    Damaged,
    /// Only the time itself, as releases before this one wrote it.
    Time(Timestamp),
}

/// What one look at the clocks changed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ClockChange {
    /// Trust is as it was before.
    None,
    /// The wall clock is this far from where it should be, for no known reason.
    BecameSuspect(SignedDuration),
    /// It is believed again.
    BecameTrusted(TrustedBy),
}

/// Why the clock is believed again.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum TrustedBy {
    /// The clocks agree again.
    Agreement,
    /// Enough policy hosts say so.
    Witnesses,
    /// The operator said that it is right.
    Operator,
    /// It was in doubt for as long as a doubt may last.
    Time,
}

impl TrustedBy {
    /// The word for logs and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Agreement => "agreement",
            Self::Witnesses => "witnesses",
            Self::Operator => "operator",
            Self::Time => "time",
        }
    }
}

/// Since when the clock is in doubt, in this life, and how long it had been before.
#[derive(Clone, Copy, Debug)]
struct Doubt {
    since: Duration,
    before: Duration,
}

impl Doubt {
    fn lasted(self, boottime: Duration) -> Duration {
        self.before.saturating_add(boottime.saturating_sub(self.since))
    }
}

/// The judgement, without any clock of its own. Readings are of one boot, in order.
#[derive(Clone, Debug)]
pub struct Judge {
    boot: Option<BootId>,
    anchor: Anchor,
    /// The last reading that was trusted; the steady time goes on from here.
    seen: ClockReading,
    /// The latest time that was ever trusted or steady, since trust last returned.
    latest: Timestamp,
    gaps: SignedDuration,
    doubt: Option<Doubt>,
    trusted_since: Timestamp,
    voices: Voices,
    /// The last mark that was handed out.
    written: Option<Mark>,
}

impl Judge {
    /// Takes up what the last life left, in this boot. Decides nothing before the first
    /// [`Judge::look`].
    pub fn start(reading: ClockReading, boot: Option<BootId>, last: LastMark) -> Self {
        match last {
            LastMark::Never => Self::anew(reading, boot),
            LastMark::Damaged => {
                let anew = Self::anew(reading, boot);
                let anchor = Anchor { slack: Slack::Unknown, ..anew.anchor };
                let doubt = Some(Doubt { since: reading.boottime, before: Duration::ZERO });
                Self { anchor, doubt, ..anew }
            }
            LastMark::Time(time) => {
                let anew = Self::anew(reading, boot);
                let seen = ClockReading { wall: time, ..reading };
                let anchor = pause(seen, SignedDuration::ZERO, None);
                Self { anchor, seen, latest: time, ..anew }
            }
            LastMark::Whole(mark) => Self::resume(reading, boot, mark),
        }
    }

    fn anew(reading: ClockReading, boot: Option<BootId>) -> Self {
        let ClockReading { wall, boottime } = reading;
        Self {
            boot,
            anchor: Anchor { wall, boottime, slack: Slack::Step },
            seen: reading,
            latest: wall,
            gaps: SignedDuration::ZERO,
            doubt: None,
            trusted_since: Timestamp::MIN,
            voices: Voices::default(),
            written: None,
        }
    }

    fn resume(reading: ClockReading, boot: Option<BootId>, mark: Mark) -> Self {
        // A boot time that went back is that of a machine set back to an earlier state: anything
        // can have happened in between.
        let is_same_boot = boot.is_some() && boot == mark.boot && mark.boottime <= reading.boottime;
        let begun = if is_same_boot { mark.boottime } else { reading.boottime };
        let seen = ClockReading { wall: mark.time, boottime: begun };
        let doubt = mark.doubt.map(|before| Doubt { since: begun, before });
        let Mark { time: latest, trusted_since, .. } = mark;
        let (gaps, anchor) = match mark.anchor.slack {
            _ if is_same_boot => (mark.gaps, mark.anchor),
            Slack::Unknown => {
                let anchor = Anchor { slack: Slack::Unknown, ..pause(seen, mark.gaps, doubt) };
                (mark.gaps, anchor)
            }
            Slack::Step | Slack::Pause(_) => {
                // How far steps had brought the clock when the mark was made. They count like a
                // pause, or each new boot would have a step for nothing.
                let passed = signed(mark.boottime.saturating_sub(mark.anchor.boottime));
                let steps = mark.time.duration_since(plus(mark.anchor.wall, passed)).abs();
                let gaps = mark.gaps.saturating_add(steps);
                (gaps, pause(seen, gaps, doubt))
            }
        };
        let voices = Voices::default();
        Self { boot, anchor, seen, latest, gaps, doubt, trusted_since, voices, written: None }
    }

    /// Looks at the clocks.
    pub fn look(&mut self, reading: ClockReading) -> ClockChange {
        let offset = self.offset(reading);
        let change = match (self.doubt, self.is_plausible(offset)) {
            (None, true) => {
                self.accept(reading, offset);
                ClockChange::None
            }
            (None, false) => {
                self.doubt = Some(Doubt { since: reading.boottime, before: Duration::ZERO });
                self.voices.clear();
                ClockChange::BecameSuspect(offset)
            }
            // The anchor stays where it is: otherwise two steps of almost an hour, with a doubt in
            // between, would go for one.
            (Some(_), true) => {
                self.end_doubt(reading);
                self.accept(reading, offset);
                ClockChange::BecameTrusted(TrustedBy::Agreement)
            }
            (Some(_), false) if self.voices.confirm(reading) => {
                self.trust(reading, TrustedBy::Witnesses)
            }
            (Some(doubt), false) if doubt.lasted(reading.boottime) >= DOUBT_MAX => {
                self.trust(reading, TrustedBy::Time)
            }
            (Some(_), false) => ClockChange::None,
        };
        self.latest = self.now(reading).max(self.latest);
        change
    }

    /// Hears what `witness` says, then looks at the clocks.
    pub fn hear(&mut self, reading: ClockReading, witness: &Witness) -> ClockChange {
        self.voices.hear(witness, reading, self.steady(reading));
        let change = self.look(reading);
        if self.doubt.is_none() && self.voices.confirm(reading) {
            self.gaps = SignedDuration::ZERO;
            self.voices.clear();
        }
        change
    }

    /// The operator says that the wall clock is right.
    pub fn trust_by_operator(&mut self, reading: ClockReading) -> ClockChange {
        match self.look(reading) {
            ClockChange::BecameTrusted(by) => ClockChange::BecameTrusted(by),
            ClockChange::None | ClockChange::BecameSuspect(_) if self.doubt.is_some() => {
                self.trust(reading, TrustedBy::Operator)
            }
            ClockChange::None | ClockChange::BecameSuspect(_) => ClockChange::None,
        }
    }

    /// The time, as of the last look, at `reading`.
    pub fn moment(&self, reading: ClockReading) -> Moment {
        let clock = if self.doubt.is_some() { ClockTrust::Suspect } else { ClockTrust::Trusted };
        let now = self.now(reading);
        Moment { now, latest: now.max(reading.wall), clock, trusted_since: self.trusted_since }
    }

    /// How far the wall clock is from where it should be.
    pub fn offset(&self, reading: ClockReading) -> SignedDuration {
        let expected = plus(self.anchor.wall, reading.since(self.anchor.boottime));
        reading.wall.duration_since(expected)
    }

    /// How long the doubt may still last, at most; [`None`] without one.
    pub fn doubt_left(&self, reading: ClockReading) -> Option<Duration> {
        self.doubt.map(|doubt| DOUBT_MAX.saturating_sub(doubt.lasted(reading.boottime)))
    }

    /// The mark to write to disk, if it is time to. Whoever cannot write it says so
    /// ([`Judge::mark_was_lost`]).
    pub fn due_mark(&mut self, reading: ClockReading) -> Option<Mark> {
        let mark = self.mark(reading);
        let is_due = self.written.as_ref().is_none_or(|written| {
            let every = if mark.doubt.is_some() { MARK_EVERY_IN_DOUBT } else { MARK_EVERY };
            let is_news = written.doubt.is_some() != mark.doubt.is_some()
                || written.trusted_since != mark.trusted_since
                || written.gaps != mark.gaps
                || written.anchor != mark.anchor;
            is_news || mark.boottime.saturating_sub(written.boottime) >= every
        });
        is_due.then(|| {
            self.written = Some(mark.clone());
            mark
        })
    }

    /// What was handed out last is not on the disk.
    pub fn mark_was_lost(&mut self) {
        self.mark_again();
    }

    /// It is time to write the mark, whenever that was done last: nobody looks at the clocks for a
    /// while.
    pub fn mark_again(&mut self) {
        self.written = None;
    }

    fn mark(&self, reading: ClockReading) -> Mark {
        Mark {
            time: self.latest.max(self.now(reading)),
            boottime: reading.boottime,
            boot: self.boot.clone(),
            anchor: self.anchor,
            gaps: self.gaps,
            trusted_since: self.trusted_since,
            doubt: self.doubt.map(|doubt| doubt.lasted(reading.boottime)),
        }
    }

    fn now(&self, reading: ClockReading) -> Timestamp {
        if self.doubt.is_some() { self.steady(reading) } else { reading.wall }
    }

    fn steady(&self, reading: ClockReading) -> Timestamp {
        plus(self.seen.wall, reading.since(self.seen.boottime)).max(self.latest)
    }

    fn is_plausible(&self, offset: SignedDuration) -> bool {
        match self.anchor.slack {
            Slack::Step => offset.abs() <= STEP_MAX,
            Slack::Pause(left) => -STEP_MAX.min(left) <= offset && offset <= left,
            Slack::Unknown => false,
        }
    }

    /// The wall clock is where it may be.
    fn accept(&mut self, reading: ClockReading, offset: SignedDuration) {
        match self.anchor.slack {
            Slack::Pause(_) => {
                self.gaps = self.gaps.saturating_add(offset.abs());
                self.anchor_at(reading);
            }
            Slack::Step | Slack::Unknown => {
                if reading.since(self.anchor.boottime) >= signed(ANCHOR_LIFE) {
                    self.anchor_at(reading);
                }
            }
        }
        self.seen = reading;
    }

    /// The wall clock is right, whatever was thought before. The latest time may lie in a future
    /// that was never real, so it goes, too.
    fn trust(&mut self, reading: ClockReading, by: TrustedBy) -> ClockChange {
        self.end_doubt(reading);
        self.anchor_at(reading);
        self.seen = reading;
        self.latest = reading.wall;
        self.gaps = SignedDuration::ZERO;
        ClockChange::BecameTrusted(by)
    }

    fn end_doubt(&mut self, reading: ClockReading) {
        self.doubt = None;
        self.voices.clear();
        self.trusted_since = reading.wall;
    }

    fn anchor_at(&mut self, reading: ClockReading) {
        let ClockReading { wall, boottime } = reading;
        self.anchor = Anchor { wall, boottime, slack: Slack::Step };
    }
}

/// What to compare with after a pause of unknown length that began at `seen`. A doubt does not end
/// because the machine was started anew, so then only the same time will do.
fn pause(seen: ClockReading, gaps: SignedDuration, doubt: Option<Doubt>) -> Anchor {
    let left = GAP_MAX.saturating_sub(gaps);
    let slack = match doubt {
        Some(_) => Slack::Step,
        None if left.is_negative() => Slack::Unknown,
        None => Slack::Pause(left),
    };
    Anchor { wall: seen.wall, boottime: seen.boottime, slack }
}
