//! What time is it, and may the answer be believed?
//!
//! [`now`] is the only reader of the wall clock. [`ClockWatch`] says what time the daemon goes by:
//! the wall clock, or while that is in doubt the time that the monotonic clock makes expect. A
//! clock that somebody moved must neither empty the queue nor end an enforced policy (RFC 8461 §5.1
//! counts a policy's life in wall time). The judgement is `policy::clock`'s; here the clocks are
//! read and the mark is kept.

use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use policy::clock::{
    BootId, ClockChange, ClockReading, ClockTrust, Judge, LastMark, Moment, TrustedBy, Witness,
};
use rustix::time::ClockId;
use rustls::time_provider::TimeProvider;
use rustls_pki_types::UnixTime;
use smtp::HostName;
use spool::{Spool, StoreError};
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;

use crate::facts::facts;
use crate::lock::lock;

/// What the mark is called in the store.
const MARK: &str = "clock";
/// How often the daemon looks at the clocks of its own accord.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// Where Linux says which start of the machine this is (random(4)).
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The wall clock, believed or not. The daemon goes by [`ClockWatch::now`].
#[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
pub(crate) fn now() -> Timestamp {
    Timestamp::now()
}

/// Both clocks. CLOCK_BOOTTIME and not CLOCK_MONOTONIC: a machine that slept is not one whose clock
/// was set. Asked of the kernel, so nothing that was loaded into the process changes it.
fn read() -> ClockReading {
    let time = rustix::time::clock_gettime(ClockId::Boottime);
    let boottime = Duration::try_from(time).unwrap_or_default();
    ClockReading { wall: now(), boottime }
}

/// A wall clock that is not believed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClockDoubt {
    /// How far it is from where it should be.
    pub(crate) offset: SignedDuration,
    /// How long it may go on.
    pub(crate) left: Duration,
}

/// Watches the wall clock for the whole daemon; clones share what they know. Every question looks
/// at the clocks anew, so a step is seen before anything is decided by it.
#[derive(Clone, Debug)]
pub(crate) struct ClockWatch {
    judge: Arc<Mutex<Judge>>,
    /// There is something to write down.
    news: Arc<Notify>,
}

impl ClockWatch {
    /// Begins to watch after what is on disk.
    fn new(last: LastMark) -> Self {
        let boot = std::fs::read_to_string(BOOT_ID).ok().and_then(|text| BootId::parse(&text));
        let reading = read();
        let mut judge = Judge::start(reading, boot, last);
        let change = judge.look(reading);
        let is_old_doubt =
            change == ClockChange::None && judge.moment(reading).clock == ClockTrust::Suspect;
        // An alarm is of one life: whoever looks at the log of this one has to see it.
        tell(if is_old_doubt { ClockChange::BecameSuspect(judge.offset(reading)) } else { change });
        Self { judge: Arc::new(Mutex::new(judge)), news: Arc::default() }
    }

    /// A watch that begins now, with no mark of the past: for a look from the command line, and for
    /// tests.
    pub(crate) fn undoubted() -> Self {
        Self::new(LastMark::Never)
    }

    /// Begins to watch, with the mark that is stored. Blocks for a read.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the store cannot be read.
    pub(crate) fn open(store: &Spool) -> Result<Self, StoreError> {
        let last = match store.mark(MARK) {
            Ok(value) => value.as_deref().map_or(LastMark::Never, last_mark),
            Err(StoreError::Corrupt { .. } | StoreError::Database { .. }) => LastMark::Damaged,
            Err(error) => return Err(error),
        };
        if last == LastMark::Damaged {
            ClockFact::MarkDamaged.tell();
        }
        Ok(Self::new(last))
    }

    /// Keeps the mark in the store up to date until `shutdown`, and then once more.
    pub(crate) async fn run(&self, store: &Spool, shutdown: &CancellationToken) {
        loop {
            self.keep_mark(store);
            tokio::select! {
                () = shutdown.cancelled() => {
                    self.look(|judge, _| judge.mark_again());
                    return self.keep_mark(store);
                }
                () = self.news.notified() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    fn keep_mark(&self, store: &Spool) {
        let Some(mark) = self.look(Judge::due_mark) else { return };
        let watch = self.clone();
        store.set_mark_later(MARK, Some(&mark.to_string()), move |stored| {
            if let Err(error) = stored {
                ClockFact::MarkNotStored { error: &error }.tell();
                watch.look(|judge, _| judge.mark_was_lost());
            }
        });
    }

    /// The time to go by: the wall clock unless it is in doubt.
    pub(crate) fn now(&self) -> Timestamp {
        self.moment().now
    }

    /// The time, and whether it is to be believed.
    pub(crate) fn moment(&self) -> Moment {
        self.look(|judge, reading| judge.moment(reading))
    }

    /// What is wrong with the wall clock, if it is not believed.
    pub(crate) fn doubt(&self) -> Option<ClockDoubt> {
        self.look(|judge, reading| {
            let left = judge.doubt_left(reading)?;
            Some(ClockDoubt { offset: judge.offset(reading), left })
        })
    }

    /// A host of `domain` at `address` that proved its name by a certificate says that it is `date`
    /// now. A policy of the domain has been known since `known_since`.
    pub(crate) fn hear(
        &self,
        domain: &HostName,
        address: IpAddr,
        known_since: Timestamp,
        date: Timestamp,
    ) {
        let witness = Witness { domain: domain.clone(), address, known_since, date };
        self.change(|judge, reading| judge.hear(reading, &witness));
    }

    /// The operator, who is the user `uid`, says that the wall clock is right. Returns what was
    /// wrong with it; [`None`] if it was not in doubt. It is on the disk then.
    ///
    /// # Errors
    ///
    /// [`StoreError`]: the clock is believed, but a restart may doubt it again.
    pub(crate) async fn trust(
        &self,
        store: &Spool,
        uid: Option<u32>,
    ) -> Result<Option<ClockDoubt>, StoreError> {
        let Some(doubt) = self.doubt() else { return Ok(None) };
        let mark = {
            let mut judge = lock(&self.judge);
            let reading = read();
            if judge.trust_by_operator(reading) == ClockChange::None {
                return Ok(None);
            }
            judge.mark_was_lost();
            judge.due_mark(reading)
        };
        let offset_seconds = doubt.offset.as_secs();
        ClockFact::TrustedByOperator { uid, offset_seconds }.tell();
        let Some(mark) = mark else { return Ok(Some(doubt)) };
        let (done, stored) = oneshot::channel();
        store.set_mark_later(MARK, Some(&mark.to_string()), |result| {
            // The asker may have gone.
            let _gone = done.send(result);
        });
        let stored = stored.await.unwrap_or(Err(StoreError::Closed));
        if stored.is_err() {
            self.look(|judge, _| judge.mark_was_lost());
        }
        stored.map(|()| Some(doubt))
    }

    /// Looks at the clocks, then asks.
    fn look<T>(&self, ask: impl FnOnce(&mut Judge, ClockReading) -> T) -> T {
        let mut judge = lock(&self.judge);
        // Read within the lock, so that readings come in order.
        let reading = read();
        self.told(judge.look(reading));
        ask(&mut judge, reading)
    }

    fn change(&self, event: impl FnOnce(&mut Judge, ClockReading) -> ClockChange) {
        let mut judge = lock(&self.judge);
        let reading = read();
        self.told(event(&mut judge, reading));
    }

    fn told(&self, change: ClockChange) {
        tell(change);
        if change != ClockChange::None {
            self.news.notify_one();
        }
    }
}

/// Certificates of policy hosts are judged by the time that the daemon goes by.
impl TimeProvider for ClockWatch {
    fn current_time(&self) -> Option<UnixTime> {
        let seconds = u64::try_from(self.now().as_second()).ok()?;
        Some(UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
    }
}

/// A bare number is what earlier releases wrote: milliseconds.
fn last_mark(value: &str) -> LastMark {
    let time = || Timestamp::from_millisecond(value.parse().ok()?).ok().map(LastMark::Time);
    value.parse().map(LastMark::Whole).ok().or_else(time).unwrap_or(LastMark::Damaged)
}

facts! {
    /// A fact about the wall clock.
    enum ClockFact<'a> {
        /// It moved by itself.
        Suspect { offset_seconds: i64 } => error!(
            event = "alarm",
            reason = "clock_suspect",
            offset_seconds,
            "the wall clock moved: no policy lapses and nothing is bounced for its age until it is \
             confirmed, at most 24 h; if it is right: staunch clock trust"
        ),

        /// It is confirmed.
        Trusted { by: TrustedBy } => info!(
            event = "clock_trusted",
            by = by.as_str(),
            "the wall clock is believed again"
        ),

        /// An operator confirms it.
        TrustedByOperator { uid: Option<u32>, offset_seconds: i64 } => info!(
            event = "clock_trusted",
            by = TrustedBy::Operator.as_str(),
            uid,
            offset_seconds,
            "the wall clock is believed again"
        ),

        /// What was written down of it cannot be read.
        MarkDamaged => error!(
            event = "store_failed",
            "the clock's mark is damaged, so the clock is in doubt"
        ),

        /// What it shows cannot be written down.
        MarkNotStored { error: &'a StoreError } => error!(
            event = "store_failed",
            %error,
            "the clock's mark could not be stored"
        ),
    }
}

fn tell(change: ClockChange) {
    match change {
        ClockChange::None => {}
        ClockChange::BecameSuspect(offset) => {
            ClockFact::Suspect { offset_seconds: offset.as_secs() }.tell()
        }
        ClockChange::BecameTrusted(by) => {
            ClockFact::Trusted { by }.tell();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spool() -> (tempfile::TempDir, Spool) {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(dir.path(), spool::Options::default()).unwrap();
        (dir, spool)
    }

    /// The wall clock of the test is right, so the mark has to be wrong.
    fn ahead() -> String {
        (now() + SignedDuration::from_hours(48)).as_millisecond().to_string()
    }

    #[tokio::test]
    async fn a_mark_that_cannot_be_read_is_a_doubt_and_none_is_a_first_start() {
        let (_dir, spool) = spool();
        let is_trusted = || ClockWatch::open(&spool).unwrap().doubt().is_none();
        assert!(is_trusted());
        for (value, want) in [("", false), ("1 2 3", false), (&*ahead(), false), ("x", false)] {
            spool.set_mark(MARK, Some(value)).unwrap();
            assert_eq!(is_trusted(), want, "{value:?}");
        }
        let recent = (now() - SignedDuration::from_hours(1)).as_millisecond().to_string();
        spool.set_mark(MARK, Some(&recent)).unwrap();
        assert!(is_trusted(), "as earlier releases wrote it");
    }

    #[tokio::test]
    async fn what_the_operator_believes_is_on_the_disk_before_the_answer() {
        let (_dir, spool) = spool();
        spool.set_mark(MARK, Some(&ahead())).unwrap();
        let watch = ClockWatch::open(&spool).unwrap();
        let behind = watch.moment();
        assert!(behind.now > now() + SignedDuration::from_hours(47), "never before the mark");
        let doubt = watch.trust(&spool, Some(0)).await.unwrap().unwrap();
        assert!(doubt.offset < -SignedDuration::from_hours(47));
        assert!(watch.doubt().is_none());
        assert!(watch.moment().trusted_since > Timestamp::MIN);
        let next = ClockWatch::open(&spool).unwrap();
        assert!(next.doubt().is_none());
        assert_eq!(
            next.moment().trusted_since.as_millisecond(),
            watch.moment().trusted_since.as_millisecond()
        );
        assert!(watch.trust(&spool, Some(0)).await.unwrap().is_none(), "nothing to be done");
    }

    #[tokio::test]
    async fn the_mark_is_kept_from_the_start_and_at_the_end() {
        let (_dir, spool) = spool();
        let (watch, stop) = (ClockWatch::open(&spool).unwrap(), CancellationToken::new());
        // Queued behind what was written before.
        let is_kept = || {
            spool.set_mark("other", Some("after it")).unwrap();
            let value = spool.mark(MARK).unwrap().unwrap();
            matches!(last_mark(&value), LastMark::Whole(_))
        };
        let ends = async {
            assert!(is_kept());
            spool.set_mark(MARK, Some("something else")).unwrap();
            stop.cancel();
        };
        tokio::join!(biased; watch.run(&spool, &stop), ends);
        assert!(is_kept(), "soon after the start, too");
    }
}
