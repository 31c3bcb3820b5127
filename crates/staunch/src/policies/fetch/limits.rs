//! How many fetches run at once: in all, and for one owner of domains.
//!
//! A policy host that answers slowly can hold a place for a minute. So who is slow makes way, who
//! answered lately has places that strangers cannot take, and whoever owns many domains has few
//! places for all of them. Addresses do not count: a hostile zone can point at those of anybody.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use smtp::HostName;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::lock::lock;

/// Our choice: for domains whose policy host answered last time.
const KNOWN_MAX: usize = 32;
/// Our choice: for all others.
const NEW_MAX: usize = 32;
/// Our choice: fetches that take long, beside the others.
const SLOW_MAX: usize = 64;
/// Our choice: what a policy host needs that is well, several times over.
pub(super) const SLOW_AFTER: Duration = Duration::from_secs(3);
/// Ours; fetches of one owner at once. Good hosts need a fraction of a second.
const OWNER_MAX: usize = 4;
/// Owners remembered before those without a fetch are dropped.
const OWNERS_KEPT: usize = 256;

/// Has the policy host of a domain answered lately?
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum KnownToAnswer {
    /// It did, the last time that it was asked.
    Lately,
    /// It was never asked, or did not.
    Unknown,
}

/// The places there are.
#[derive(Debug)]
pub(super) struct FetchLimits {
    known: Arc<Semaphore>,
    new: Arc<Semaphore>,
    slow: Arc<Semaphore>,
    owners: Mutex<HashMap<HostName, Weak<Semaphore>>>,
}

/// One fetch may run until this is dropped.
#[derive(Debug)]
pub(super) struct FetchPermit {
    _of_owner: Option<OwnedSemaphorePermit>,
    place: Option<OwnedSemaphorePermit>,
    slow: Arc<Semaphore>,
}

impl Default for FetchLimits {
    fn default() -> Self {
        let places = |count| Arc::new(Semaphore::new(count));
        Self {
            known: places(KNOWN_MAX),
            new: places(NEW_MAX),
            slow: places(SLOW_MAX),
            owners: Mutex::default(),
        }
    }
}

impl FetchLimits {
    /// Waits for a place for a fetch of a policy of `owner`, a registrable domain. His own place
    /// comes first, so that who waits for it is in nobody else's way.
    pub(super) async fn turn(&self, owner: &HostName, answers: KnownToAnswer) -> FetchPermit {
        let of_owner = self.owner(owner).acquire_owned().await.ok();
        let places = match answers {
            KnownToAnswer::Lately => &self.known,
            KnownToAnswer::Unknown => &self.new,
        };
        let place = Arc::clone(places).acquire_owned().await.ok();
        FetchPermit { _of_owner: of_owner, place, slow: Arc::clone(&self.slow) }
    }

    fn owner(&self, owner: &HostName) -> Arc<Semaphore> {
        let mut owners = lock(&self.owners);
        if let Some(known) = owners.get(owner).and_then(Weak::upgrade) {
            return known;
        }
        if owners.len() >= OWNERS_KEPT && owners.len() == owners.capacity() {
            owners.retain(|_, semaphore| semaphore.strong_count() > 0);
        }
        let new = Arc::new(Semaphore::new(OWNER_MAX));
        owners.insert(owner.clone(), Arc::downgrade(&new));
        new
    }
}

impl FetchPermit {
    /// Lets somebody else have the place, as soon as there is one for who takes long.
    pub(super) async fn make_way(&mut self) {
        let slow = Arc::clone(&self.slow).acquire_owned().await;
        self.place = slow.ok();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn name(text: &str) -> HostName {
        HostName::parse(text).unwrap()
    }

    fn at_once(limits: &FetchLimits, owner: &str, answers: KnownToAnswer) -> Option<FetchPermit> {
        limits.turn(&name(owner), answers).now_or_never()
    }

    #[test]
    fn an_owner_of_many_domains_holds_up_himself_alone() {
        let limits = FetchLimits::default();
        let many = |_| at_once(&limits, "evil.test", KnownToAnswer::Unknown).unwrap();
        let turns: Vec<_> = (0..OWNER_MAX).map(many).collect();
        assert!(at_once(&limits, "evil.test", KnownToAnswer::Unknown).is_none());
        assert_eq!(limits.new.available_permits(), NEW_MAX - OWNER_MAX, "who waits holds no place");
        assert!(at_once(&limits, "honest.test", KnownToAnswer::Unknown).is_some());
        drop(turns);
        assert!(at_once(&limits, "evil.test", KnownToAnswer::Unknown).is_some());
    }

    #[test]
    fn strangers_take_no_place_from_who_answered_and_the_slow_make_way() {
        let limits = FetchLimits::default();
        let stranger = |n: usize| at_once(&limits, &format!("d{n}.test"), KnownToAnswer::Unknown);
        let mut turns: Vec<_> = (0..NEW_MAX).map(|n| stranger(n).unwrap()).collect();
        assert!(stranger(1000).is_none());
        assert!(at_once(&limits, "known.test", KnownToAnswer::Lately).is_some());
        for turn in &mut turns {
            turn.make_way().now_or_never().unwrap();
        }
        assert!(stranger(1000).is_some());
        assert_eq!(limits.slow.available_permits(), SLOW_MAX - NEW_MAX);
    }
}
