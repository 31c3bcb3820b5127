//! Which MX hosts have spoken TLS with us: to them nothing goes in the clear because TLS fails once.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use moka::future::Cache;
use policy::clock::{ClockTrust, Moment};
use smtp::HostName;
use spool::{Found, HostRow, Policies};
use tracing::error;

use crate::clock::ClockWatch;

/// architecture.md: a host that completed STARTTLS counts as one that can, for this long.
const REMEMBERED: SignedDuration = SignedDuration::from_hours(30 * 24);
/// Ours: a row outlives its time, because the clock may have been wrong.
const FORGOTTEN_AFTER: SignedDuration = SignedDuration::from_hours(60 * 24);
/// A host is written again after this long.
const WRITTEN_EVERY: Duration = Duration::from_secs(24 * 60 * 60);
/// Hosts in memory; the others are read from the store.
const CACHED_MAX: u64 = 10_000;

/// What is remembered about MX hosts. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct HostMemory {
    store: Policies,
    clock: ClockWatch,
    /// When STARTTLS was seen, as it was stored.
    seen: Cache<HostName, Timestamp>,
}

impl HostMemory {
    /// Reads and writes `store`, by the time that `clock` says.
    pub(crate) fn new(store: Policies, clock: ClockWatch) -> Self {
        let seen = Cache::builder().max_capacity(CACHED_MAX).time_to_live(WRITTEN_EVERY).build();
        Self { store, clock, seen }
    }

    /// Did `host` complete STARTTLS with us in the last 30 days? If the store cannot be read, it
    /// counts as if it did.
    pub(crate) async fn starttls_seen(&self, host: &HostName) -> bool {
        if self.seen.contains_key(host) {
            return true;
        }
        let (store, name) = (self.store.clone(), host.clone());
        let found = tokio::task::spawn_blocking(move || store.host(&name)).await;
        match found {
            Ok(Ok(Found::Row(row))) => counts(row.starttls_seen_at, self.clock.moment()),
            Ok(Ok(Found::Absent)) => false,
            Ok(Ok(Found::Corrupt)) | Err(_) => true,
            Ok(Err(error)) => {
                error!(event = "store_failed", %host, %error, "a mail host could not be looked up");
                true
            }
        }
    }

    /// `host` completed STARTTLS just now.
    pub(crate) async fn note_starttls(&self, host: &HostName) {
        if self.seen.contains_key(host) {
            return;
        }
        let now = self.clock.now();
        self.seen.insert(host.clone(), now).await;
        let row = HostRow { host: host.clone(), starttls_seen_at: now, note: "".into() };
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
