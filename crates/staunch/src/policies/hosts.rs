//! Which MX hosts have spoken TLS with us: to them nothing goes in clear because it does not come
//! about now.

use std::future::ready;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use moka::Entry;
use moka::future::Cache;
use moka::ops::compute::{CompResult, Op};
use policy::clock::{ClockTrust, Moment};
use smtp::HostName;
use spool::{FoundPolicy, HostRow, Policies, StoreError};
use tokio::sync::oneshot;

use crate::clock::ClockWatch;
use crate::policies::facts::{PolicyFact, STARTTLS_GONE};

/// Our choice: a host that completed STARTTLS counts as one that can, for this long.
const REMEMBERED: SignedDuration = SignedDuration::from_hours(30 * 24);
/// Our choice: a row outlives its time, because the clock may have been wrong.
const FORGOTTEN_AFTER: SignedDuration = SignedDuration::from_hours(60 * 24);
/// A host is written again after this long.
const WRITTEN_EVERY: Duration = Duration::from_secs(24 * 60 * 60);
/// Hosts in memory; the others are read from the store.
const CACHED_MAX: u64 = 10_000;

/// What is known of a host.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum KnownHost {
    /// It did no TLS with us lately.
    Nothing,
    /// It completed STARTTLS then, as it was stored.
    Tls(Timestamp),
    /// So it did, and now TLS does not come about: the operator was told. The time may be lost.
    Gone(Option<Timestamp>),
}

/// What is remembered about MX hosts. Clones share it, and nobody else writes the store's part.
#[derive(Clone, Debug)]
pub(crate) struct HostMemory {
    store: Policies,
    clock: ClockWatch,
    known: Cache<HostName, KnownHost>,
}

impl HostMemory {
    /// Reads and writes `store`, by the time that `clock` says.
    pub(crate) fn new(store: Policies, clock: ClockWatch) -> Self {
        let known = Cache::builder().max_capacity(CACHED_MAX).time_to_live(WRITTEN_EVERY).build();
        Self { store, clock, known }
    }

    /// TLS does not come about with `host` where nothing requires it, because of `why`. Did it
    /// complete STARTTLS with us in the last 30 days, so that this may be a downgrade? Then the
    /// alarm is raised, once until TLS works again or the operator acknowledges. If the store
    /// cannot be read, it counts as if it did.
    pub(crate) async fn misses_starttls(&self, host: &HostName, why: &str) -> bool {
        self.known(host, Some(why)).await != KnownHost::Nothing
    }

    /// Did `host` complete STARTTLS with us in the last 30 days? Asks no more than
    /// [`HostMemory::misses_starttls`], and raises nothing.
    pub(crate) async fn did_starttls(&self, host: &HostName) -> bool {
        self.known(host, None).await != KnownHost::Nothing
    }

    /// What is known of `host`, after the alarm that TLS is gone because of `missed`.
    ///
    /// All of it under the host's entry, as whatever else changes what is known: what the operator
    /// has made forgotten meanwhile is not put back.
    async fn known(&self, host: &HostName, missed: Option<&str>) -> KnownHost {
        let look = |cached: Option<Entry<HostName, KnownHost>>| async move {
            let cached = cached.map(Entry::into_value);
            let before = match cached {
                Some(known) => known,
                None => self.read(host).await?,
            };
            let known = match (before, missed) {
                (KnownHost::Tls(at), Some(why)) => {
                    self.raise(host, at, why);
                    KnownHost::Gone(Some(at))
                }
                (KnownHost::Tls(_), None) | (KnownHost::Nothing | KnownHost::Gone(_), _) => before,
            };
            Ok::<_, StoreError>(if cached == Some(known) { Op::Nop } else { Op::Put(known) })
        };
        match self.known.entry_by_ref(host).and_try_compute_with(look).await {
            Ok(
                CompResult::Inserted(entry)
                | CompResult::ReplacedWith(entry)
                | CompResult::Unchanged(entry)
                | CompResult::Removed(entry),
            ) => entry.into_value(),
            Ok(CompResult::StillNone(_)) => KnownHost::Gone(None),
            // It may be read the next time.
            Err(error) => {
                PolicyFact::HostUnreadable { host, error: &error }.tell();
                KnownHost::Gone(None)
            }
        }
    }

    async fn read(&self, host: &HostName) -> Result<KnownHost, StoreError> {
        let (store, name) = (self.store.clone(), host.clone());
        let found = tokio::task::spawn_blocking(move || store.host(&name)).await;
        Ok(match found.unwrap_or(Err(StoreError::Closed))? {
            FoundPolicy::Row(row) if !counts(row.starttls_seen_at, self.clock.moment()) => {
                KnownHost::Nothing
            }
            FoundPolicy::Row(row) if &*row.note == STARTTLS_GONE => {
                KnownHost::Gone(Some(row.starttls_seen_at))
            }
            FoundPolicy::Row(row) => KnownHost::Tls(row.starttls_seen_at),
            FoundPolicy::Absent => KnownHost::Nothing,
            FoundPolicy::Corrupt => {
                PolicyFact::HostDamaged { host }.tell();
                KnownHost::Gone(None)
            }
        })
    }

    fn raise(&self, host: &HostName, seen_at: Timestamp, why: &str) {
        PolicyFact::StarttlsGone { host, why }.tell();
        self.put(host, seen_at, STARTTLS_GONE);
    }

    /// `host` completed STARTTLS just now.
    pub(crate) async fn note_starttls(&self, host: &HostName) {
        if matches!(self.known.get(host).await, Some(KnownHost::Tls(_))) {
            return;
        }
        let note = |_| {
            let now = self.clock.now();
            self.put(host, now, "");
            ready(Op::Put(KnownHost::Tls(now)))
        };
        self.known.entry_by_ref(host).and_compute_with(note).await;
    }

    /// The host may do without TLS again: the operator knows. Says whether anything was stored.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when it could not be deleted.
    pub(crate) async fn forget(&self, host: &HostName) -> Result<bool, StoreError> {
        let mut was_stored = false;
        let stored = &mut was_stored;
        let delete = |_| async move {
            let (done, forgotten) = oneshot::channel();
            self.store.forget_host(host.clone(), |result| drop(done.send(result)));
            *stored = forgotten.await.unwrap_or(Err(StoreError::Closed))?;
            Ok::<_, StoreError>(Op::Remove)
        };
        self.known.entry_by_ref(host).and_try_compute_with(delete).await?;
        if was_stored {
            PolicyFact::HostForgotten { host }.tell();
        }
        Ok(was_stored)
    }

    fn put(&self, host: &HostName, starttls_seen_at: Timestamp, note: &str) {
        let row = HostRow { host: host.clone(), starttls_seen_at, note: note.into() };
        self.store.put_host(row, |stored| {
            if let Err(error) = stored {
                PolicyFact::StoreFailed {
                    error: &error,
                    what: "a mail host could not be remembered",
                }
                .tell();
            }
        });
    }

    /// Drops what is too old to count: nothing while the clock is suspect.
    pub(super) fn tidy(store: &Policies, moment: Moment) {
        match moment.clock {
            ClockTrust::Trusted => {}
            ClockTrust::Suspect => return,
        }
        let Ok(before) = moment.now.checked_sub(FORGOTTEN_AFTER) else { return };
        store.forget_hosts(before, |forgotten| {
            if let Err(error) = forgotten {
                PolicyFact::StoreFailed {
                    error: &error,
                    what: "old mail hosts could not be forgotten",
                }
                .tell();
            }
        });
    }
}

/// Does STARTTLS at `seen_at` count still?
fn counts(seen_at: Timestamp, moment: Moment) -> bool {
    match moment.clock {
        ClockTrust::Trusted => moment.now.duration_since(seen_at) < REMEMBERED,
        ClockTrust::Suspect => true,
    }
}

#[cfg(test)]
mod tests {
    use spool::Spool;

    use super::*;

    #[test]
    fn starttls_counts_for_thirty_days_and_longer_while_the_clock_is_suspect() {
        let seen_at = Timestamp::UNIX_EPOCH;
        let almost = REMEMBERED - SignedDuration::from_secs(1);
        for (age, trusted) in [(almost, true), (REMEMBERED, false), (REMEMBERED * 9, false)] {
            let moment = Moment::undoubted(seen_at + age);
            assert_eq!(counts(seen_at, moment), trusted, "{age:?}");
            let suspect = Moment { clock: ClockTrust::Suspect, ..moment };
            assert!(counts(seen_at, suspect), "{age:?}");
        }
    }

    /// The store has one thread to read and one to write, so that each step is known to be over.
    #[test]
    fn what_the_operator_made_forgotten_is_not_put_back_by_who_read_it_before() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(1)
            .build()
            .unwrap();
        for missed in [None, Some("why")] {
            runtime.block_on(forgotten_while_it_is_read(missed));
        }
    }

    async fn forgotten_while_it_is_read(missed: Option<&str>) {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(dir.path(), spool::Options::default()).unwrap();
        let policies = spool.policies();
        let memory = || HostMemory::new(policies.clone(), ClockWatch::undoubted());
        let (host, other) =
            (HostName::parse("mx.a.test").unwrap(), HostName::parse("mx.b.test").unwrap());
        let written = async || memory().forget(&other).await.unwrap();
        let read = async || tokio::task::spawn_blocking(|| ()).await.unwrap();
        memory().note_starttls(&host).await;
        written().await;

        let memory = memory();
        let mut asked = Box::pin(memory.known(&host, missed));
        let mut forgotten = Box::pin(memory.forget(&host));
        let (open, gate) = std::sync::mpsc::channel::<()>();
        let _gate = tokio::task::spawn_blocking(move || gate.recv());
        assert!(futures_util::poll!(&mut asked).is_pending());
        drop(open);
        read().await;
        assert!(futures_util::poll!(&mut forgotten).is_pending());
        written().await;
        let is_forgotten = futures_util::poll!(&mut forgotten).is_ready();
        assert_ne!(asked.await, KnownHost::Nothing, "it was asked before");
        if !is_forgotten {
            assert!(forgotten.await.unwrap());
        }
        assert!(!memory.did_starttls(&host).await, "{missed:?}");
        written().await;
        assert_eq!(policies.host(&host).unwrap(), FoundPolicy::Absent, "{missed:?}");
    }
}
