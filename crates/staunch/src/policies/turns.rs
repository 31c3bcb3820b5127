//! One at a time for each domain: who comes while somebody asks waits and takes the answer along.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};

use smtp::HostName;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};
use tokio::time::Instant;

use super::verdict::Consulted;
use crate::dns::Freshness;
use crate::lock::lock;

/// Domains remembered before those that nobody asks about are dropped.
const SWEEP_AT: usize = 1024;

/// The last answer, as long as somebody is interested in the domain.
#[derive(Debug, Default)]
pub(super) struct DomainTurn {
    last: Option<LastAnswer>,
}

#[derive(Debug)]
struct LastAnswer {
    begun: Instant,
    ended: Instant,
    answer: Consulted,
}

impl DomainTurn {
    /// The last answer, if it is as good as a new one for who came at `arrived`: for a fresh one
    /// the asking must have begun after that.
    pub(super) fn shared(&self, arrived: Instant, freshness: Freshness) -> Option<Consulted> {
        let done = self.last.as_ref()?;
        let moment = match freshness {
            Freshness::Cached => done.ended,
            Freshness::Fresh => done.begun,
        };
        (moment >= arrived).then(|| done.answer.clone())
    }

    pub(super) fn done(&mut self, begun: Instant, answer: Consulted) {
        self.last = Some(LastAnswer { begun, ended: Instant::now(), answer });
    }

    /// What was answered no longer holds.
    pub(super) fn forget(&mut self) {
        self.last = None;
    }
}

/// All domains that somebody asks about now.
#[derive(Debug, Default)]
pub(super) struct DomainTurns {
    by_domain: Mutex<HashMap<HostName, Weak<AsyncMutex<DomainTurn>>>>,
}

impl DomainTurns {
    /// Waits until nobody else asks about `domain`.
    pub(super) async fn take(&self, domain: &HostName) -> OwnedMutexGuard<DomainTurn> {
        self.of(domain).lock_owned().await
    }

    /// `None` while somebody asks about `domain`.
    pub(super) fn try_take(&self, domain: &HostName) -> Option<OwnedMutexGuard<DomainTurn>> {
        self.of(domain).try_lock_owned().ok()
    }

    fn of(&self, domain: &HostName) -> Arc<AsyncMutex<DomainTurn>> {
        let mut turns = lock(&self.by_domain);
        if let Some(turn) = turns.get(domain).and_then(Weak::upgrade) {
            return turn;
        }
        // Before it would grow: the cost of looking at all is spread over as many insertions.
        if turns.len() >= SWEEP_AT && turns.len() == turns.capacity() {
            turns.retain(|_, turn| turn.strong_count() > 0);
        }
        let turn = Arc::<AsyncMutex<DomainTurn>>::default();
        turns.insert(domain.clone(), Arc::downgrade(&turn));
        turn
    }
}
