//! How much memory may mail that is arriving, or was just accepted, hold?
//!
//! One number for all (`limits.memory`). Each message in flight has for itself what its session cannot do
//! without; more is lent only if it is free, and who gets none goes to disk at once. So a flood costs
//! speed, then answers 4.3.1, but never the daemon.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Ours: octets of a message that can always be held, whatever else is: its header streams by in them.
pub(super) const HEADER_OCTETS: usize = 8 * 1024;

/// Ours: octets of recipients that a message can always have: some ten of usual length, or one of the longest.
pub(super) const RECIPIENTS_OCTETS: usize = 4 * 1024;

/// What a session holds besides the message that it receives, in octets.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    /// Its buffers now.
    pub(super) now: usize,
    /// The same when nothing is lent to it.
    pub(super) least: usize,
}

impl Held {
    /// Without so much no message comes to its end.
    pub(super) const fn guarantee(self) -> u64 {
        (self.least + RECIPIENTS_OCTETS + HEADER_OCTETS) as u64
    }
}

/// The memory that may be lent, in octets.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: AtomicU64,
    /// Of the limit, what is never lent beyond guarantees.
    kept_back: AtomicU64,
    guaranteed: AtomicU64,
    extra: AtomicU64,
}

impl Budget {
    /// `limit` octets, of which `kept_back` are for guarantees only, but at most half.
    pub(crate) fn new(limit: u64, kept_back: u64) -> Arc<Self> {
        let budget = Self {
            limit: AtomicU64::new(0),
            kept_back: AtomicU64::new(0),
            guaranteed: AtomicU64::new(0),
            extra: AtomicU64::new(0),
        };
        budget.resize(limit, kept_back);
        Arc::new(budget)
    }

    /// The same with other numbers. What is lent beyond them comes back by itself; until then nothing more is lent.
    pub(crate) fn resize(&self, limit: u64, kept_back: u64) {
        self.limit.store(limit, Ordering::Relaxed);
        self.kept_back.store(kept_back.min(limit / 2), Ordering::Relaxed);
    }

    /// What may be lent beyond guarantees.
    fn extra_limit(&self) -> u64 {
        let kept_back = self.kept_back.load(Ordering::Relaxed);
        let guaranteed = self.guaranteed.load(Ordering::Relaxed).max(kept_back);
        self.limit.load(Ordering::Relaxed).saturating_sub(guaranteed)
    }

    /// A lease of `guarantee` octets, if they are left.
    pub(crate) fn message(self: &Arc<Self>, guarantee: u64) -> Option<Lease> {
        let others = self.extra.load(Ordering::Relaxed);
        let limit = self.limit.load(Ordering::Relaxed).saturating_sub(others);
        add(&self.guaranteed, guarantee, limit).then(|| Lease {
            budget: Arc::clone(self),
            guaranteed: guarantee,
            extra: 0,
        })
    }
}

/// Adds unless that exceeds the limit.
fn add(counter: &AtomicU64, octets: u64, limit: u64) -> bool {
    let grow = |now: u64| now.checked_add(octets).filter(|sum| *sum <= limit);
    counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grow).is_ok()
}

/// Memory that is lent; given back when dropped.
#[derive(Debug)]
pub(crate) struct Lease {
    budget: Arc<Budget>,
    guaranteed: u64,
    extra: u64,
}

impl Lease {
    /// Makes the lease cover `octets` in all, no more and no less than its guarantee. `false` if
    /// that is not free; then it stays as it is.
    pub(crate) fn cover(&mut self, octets: u64) -> bool {
        let extra = octets.saturating_sub(self.guaranteed);
        if let Some(more) = extra.checked_sub(self.extra) {
            if more > 0 && !add(&self.budget.extra, more, self.budget.extra_limit()) {
                return false;
            }
        } else {
            self.budget.extra.fetch_sub(self.extra - extra, Ordering::Relaxed);
        }
        self.extra = extra;
        true
    }
}

impl Lease {
    /// The same for a message that holds `message` octets, and `besides` that are held with it. What is promised
    /// to a message stays its own, used or not.
    pub(super) fn cover_message(&mut self, besides: usize, message: usize) -> bool {
        let needed = besides.saturating_add(message.max(HEADER_OCTETS));
        self.cover(u64::try_from(needed).unwrap_or(u64::MAX))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.budget.extra.fetch_sub(self.extra, Ordering::Relaxed);
        self.budget.guaranteed.fetch_sub(self.guaranteed, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUARANTEE: u64 = 16 * 1024;

    #[test]
    fn extra_memory_never_eats_the_guarantees() {
        let budget = Budget::new(10 * GUARANTEE, 4 * GUARANTEE);
        let mut greedy = budget.message(GUARANTEE).unwrap();
        assert!(greedy.cover(7 * GUARANTEE), "six beyond its own");
        assert!(!greedy.cover(7 * GUARANTEE + 1), "the rest is kept back");
        let others: Vec<_> = std::iter::from_fn(|| budget.message(GUARANTEE)).collect();
        assert_eq!(others.len(), 3);
        assert!(greedy.cover(0), "giving back always works");
    }

    #[test]
    fn a_smaller_budget_lends_nothing_until_enough_came_back() {
        let budget = Budget::new(10 * GUARANTEE, GUARANTEE);
        let mut greedy = budget.message(GUARANTEE).unwrap();
        assert!(greedy.cover(9 * GUARANTEE));
        budget.resize(4 * GUARANTEE, GUARANTEE);
        assert!(budget.message(GUARANTEE).is_none());
        assert!(!greedy.cover(9 * GUARANTEE + 1));
        assert!(greedy.cover(2 * GUARANTEE), "giving back always works");
        assert!(budget.message(GUARANTEE).is_some());
        budget.resize(20 * GUARANTEE, GUARANTEE);
        assert!(greedy.cover(15 * GUARANTEE));
    }

    #[test]
    fn what_is_lent_comes_back() {
        let budget = Budget::new(4 * GUARANTEE, GUARANTEE);
        for _ in 0..10 {
            let mut lease = budget.message(GUARANTEE).unwrap();
            assert!(lease.cover(3 * GUARANTEE));
            assert!(lease.cover(2 * GUARANTEE));
        }
        assert_eq!(budget.guaranteed.load(Ordering::Relaxed), 0);
        assert_eq!(budget.extra.load(Ordering::Relaxed), 0);
    }
}
