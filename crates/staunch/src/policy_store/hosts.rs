//! Which MX hosts have spoken TLS with us: to them nothing goes in clear because it does not come about now.

use std::future::ready;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use moka::future::Cache;
use moka::ops::compute::{CompResult, Op};
use policy::clock::{ClockTrust, Moment};
use smtp::HostName;
use spool::{Found, HostRow, Policies, StoreError};
use tokio::sync::oneshot;
use tracing::{error, info};

use crate::clock::ClockWatch;

/// architecture.md: a host that completed STARTTLS counts as one that can, for this long.
const REMEMBERED: SignedDuration = SignedDuration::from_hours(30 * 24);
/// Ours: a row outlives its time, because the clock may have been wrong.
const FORGOTTEN_AFTER: SignedDuration = SignedDuration::from_hours(60 * 24);
/// A host is written again after this long.
const WRITTEN_EVERY: Duration = Duration::from_secs(24 * 60 * 60);
/// Hosts in memory; the others are read from the store.
const CACHED_MAX: u64 = 10_000;
/// The alarm about a host that did STARTTLS and now does not; its row says so as long as that stands.
pub(crate) const STARTTLS_GONE: &str = "starttls_gone";

/// What is known of a host.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Known {
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
    known: Cache<HostName, Known>,
}

impl HostMemory {
    /// Reads and writes `store`, by the time that `clock` says.
    pub(crate) fn new(store: Policies, clock: ClockWatch) -> Self {
        let known = Cache::builder().max_capacity(CACHED_MAX).time_to_live(WRITTEN_EVERY).build();
        Self { store, clock, known }
    }

    /// TLS does not come about with `host` where nothing requires it, because of `why`. Did it complete STARTTLS
    /// with us in the last 30 days, so that this may be a downgrade? Then the alarm is raised, once until TLS
    /// works again or the operator acknowledges. If the store cannot be read, it counts as if it did.
    pub(crate) async fn misses_starttls(&self, host: &HostName, why: &str) -> bool {
        match self.known(host).await {
            Known::Nothing => false,
            Known::Gone(_) => true,
            Known::Tls(at) => {
                self.raise(host, at, why).await;
                true
            }
        }
    }

    /// Did `host` complete STARTTLS with us in the last 30 days? Asks no more than [`HostMemory::misses_starttls`],
    /// and raises nothing.
    pub(crate) async fn did_starttls(&self, host: &HostName) -> bool {
        match self.known(host).await {
            Known::Nothing => false,
            Known::Tls(_) | Known::Gone(_) => true,
        }
    }

    async fn known(&self, host: &HostName) -> Known {
        if let Some(known) = self.known.get(host).await {
            return known;
        }
        let (store, name) = (self.store.clone(), host.clone());
        let found = tokio::task::spawn_blocking(move || store.host(&name)).await;
        let read = match found.unwrap_or(Err(StoreError::Closed)) {
            Ok(Found::Row(row)) if !counts(row.starttls_seen_at, self.clock.moment()) => {
                Known::Nothing
            }
            Ok(Found::Row(row)) if &*row.note == STARTTLS_GONE => {
                Known::Gone(Some(row.starttls_seen_at))
            }
            Ok(Found::Row(row)) => Known::Tls(row.starttls_seen_at),
            Ok(Found::Absent) => Known::Nothing,
            Ok(Found::Corrupt) => {
                error!(event = "store_failed", %host, "what was stored about a mail host is damaged");
                Known::Gone(None)
            }
            // It may be read the next time.
            Err(error) => {
                error!(event = "store_failed", %host, %error, "a mail host could not be looked up");
                return Known::Gone(None);
            }
        };
        // Who has learnt more since knows better.
        let add = self
            .known
            .entry_by_ref(host)
            .and_compute_with(|known| ready(if known.is_some() { Op::Nop } else { Op::Put(read) }));
        match add.await {
            CompResult::Inserted(entry)
            | CompResult::ReplacedWith(entry)
            | CompResult::Unchanged(entry)
            | CompResult::Removed(entry) => entry.into_value(),
            CompResult::StillNone(_) => read,
        }
    }

    /// Raises the alarm, unless somebody else just did.
    async fn raise(&self, host: &HostName, seen_at: Timestamp, why: &str) {
        let gone = self.known.entry_by_ref(host).and_compute_with(|known| {
            let known = known.map(moka::Entry::into_value);
            let is_news = known.is_none_or(|known| matches!(known, Known::Tls(_)));
            ready(if is_news { Op::Put(Known::Gone(Some(seen_at))) } else { Op::Nop })
        });
        match gone.await {
            CompResult::Inserted(_) | CompResult::ReplacedWith(_) => {}
            CompResult::Unchanged(_) | CompResult::StillNone(_) | CompResult::Removed(_) => return,
        }
        error!(
            event = "alarm",
            reason = STARTTLS_GONE,
            mx = %host,
            "the host did STARTTLS lately, and now {why}: nothing is sent to it in clear text until TLS works, or \
             until `staunch policy forget --host {host}`"
        );
        self.put(host, seen_at, STARTTLS_GONE);
    }

    /// `host` completed STARTTLS just now.
    pub(crate) async fn note_starttls(&self, host: &HostName) {
        if matches!(self.known.get(host).await, Some(Known::Tls(_))) {
            return;
        }
        let now = self.clock.now();
        // Stored first: whoever waits for this may be gone before it returns.
        self.put(host, now, "");
        self.known.insert(host.clone(), Known::Tls(now)).await;
    }

    /// The host may do without TLS again: the operator knows. Says whether anything was stored.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when it could not be deleted.
    pub(crate) async fn forget(&self, host: &HostName) -> Result<bool, StoreError> {
        let (done, forgotten) = oneshot::channel();
        self.store.forget_host(host.clone(), |result| drop(done.send(result)));
        let known = forgotten.await.unwrap_or(Err(StoreError::Closed))?;
        self.known.invalidate(host).await;
        if known {
            info!(event = "host_forgotten", mx = %host, "by the operator");
        }
        Ok(known)
    }

    fn put(&self, host: &HostName, starttls_seen_at: Timestamp, note: &str) {
        let row = HostRow { host: host.clone(), starttls_seen_at, note: note.into() };
        self.store.put_host(row, |stored| {
            if let Err(error) = stored {
                error!(event = "store_failed", %error, "a mail host could not be remembered");
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
                error!(event = "store_failed", %error, "old mail hosts could not be forgotten");
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
}
