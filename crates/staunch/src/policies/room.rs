//! Room for policies: how many there may be.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use policy::sts::cache::{self, State};
use smtp::HostName;
use tokio::sync::Notify;

use crate::policies::facts::PolicyFact;

/// Policies kept. Our choice: more than there are domains with one today.
pub(super) const POLICIES_MAX: usize = 100_000;
/// Our choice: new ones beyond it, until the next tidying makes room.
pub(super) const POLICIES_OVER: usize = POLICIES_MAX / 20;

/// How many policies can still be added.
#[derive(Debug)]
pub(super) struct PolicyRoom {
    free: AtomicUsize,
    is_told: AtomicBool,
    /// There is none left.
    used_up: Notify,
}

impl Default for PolicyRoom {
    fn default() -> Self {
        let free = AtomicUsize::new(POLICIES_OVER);
        Self { free, is_told: AtomicBool::new(false), used_up: Notify::new() }
    }
}

impl PolicyRoom {
    /// Is there room for one more?
    pub(super) fn for_one_more(&self) -> cache::Room {
        if self.free.load(Ordering::Relaxed) > 0 { cache::Room::Free } else { cache::Room::None }
    }

    /// Takes note of what a fetch changed.
    pub(super) fn note(&self, before: &State, state: &State, domain: &HostName) {
        if before.kept.is_some() || before.listed.is_some() {
            return;
        }
        if state.kept.is_some() {
            let less = |free: usize| Some(free.saturating_sub(1));
            let before = self.free.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
            if before.is_ok_and(|before| before <= 1) {
                self.used_up.notify_one();
            }
        } else if self.for_one_more() == cache::Room::None
            && !self.is_told.swap(true, Ordering::Relaxed)
        {
            PolicyFact::CacheFull { domain, max: POLICIES_MAX }.tell();
        }
    }

    /// Returns when there is none left.
    pub(super) async fn is_used_up(&self) {
        self.used_up.notified().await;
    }

    /// So many can be added from now on.
    pub(super) fn is(&self, free: usize) {
        self.free.store(free, Ordering::Relaxed);
        if free > 0 {
            self.is_told.store(false, Ordering::Relaxed);
        }
    }
}
