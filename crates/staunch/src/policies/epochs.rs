//! Has what a domain's policy asks changed since somebody looked it up?
//!
//! An attempt can take as long as its hosts like: a policy that becomes known meanwhile, or
//! tighter, binds it all the same. Whoever changes what is known does it in this order: (1) it is
//! stored and synced, (2) what memory says is dropped, (3) the epoch moves. An attempt takes its
//! watch first and then looks up. So nothing falls between: if the epoch moves after the watch was
//! taken, the watch shows it; if it moved before, what memory said was dropped before, too, and the
//! look-up finds what is stored.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

use smtp::HostName;

use crate::lock::lock;

/// Domains remembered before those that nobody watches are dropped.
const SWEEP_AT: usize = 1024;

/// Tells whether what a domain's policy asks has changed since the watch was taken.
#[derive(Debug)]
pub(crate) struct PolicyWatch {
    epoch: Arc<AtomicU64>,
    seen: u64,
}

impl PolicyWatch {
    /// Does anything else bind now? A policy that was only fetched again, or expired, is no change.
    pub(crate) fn has_changed(&self) -> bool {
        self.epoch.load(Ordering::SeqCst) != self.seen
    }
}

/// The epochs of all domains that somebody watches.
#[derive(Debug, Default)]
pub(super) struct Epochs {
    by_domain: Mutex<HashMap<HostName, Weak<AtomicU64>>>,
}

impl Epochs {
    pub(super) fn watch(&self, domain: &HostName) -> PolicyWatch {
        let epoch = self.of(domain);
        let seen = epoch.load(Ordering::SeqCst);
        PolicyWatch { epoch, seen }
    }

    /// Whoever watches `domain` has to look again. If nobody does, nobody has to.
    pub(super) fn bump(&self, domain: &HostName) {
        let epochs = lock(&self.by_domain);
        if let Some(epoch) = epochs.get(domain).and_then(Weak::upgrade) {
            epoch.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn of(&self, domain: &HostName) -> Arc<AtomicU64> {
        let mut epochs = lock(&self.by_domain);
        if let Some(epoch) = epochs.get(domain).and_then(Weak::upgrade) {
            return epoch;
        }
        // Before it would grow: the cost of looking at all is spread over as many insertions.
        if epochs.len() >= SWEEP_AT && epochs.len() == epochs.capacity() {
            epochs.retain(|_, epoch| epoch.strong_count() > 0);
        }
        let epoch = Arc::<AtomicU64>::default();
        epochs.insert(domain.clone(), Arc::downgrade(&epoch));
        epoch
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> HostName {
        HostName::parse(text).unwrap()
    }

    #[test]
    fn a_watch_sees_what_comes_after_it_for_its_domain_and_nothing_else() {
        let epochs = Epochs::default();
        let (a, b) = (name("a.test"), name("b.test"));
        epochs.bump(&a);
        let (first, other) = (epochs.watch(&a), epochs.watch(&b));
        assert!(!first.has_changed());
        epochs.bump(&a);
        let second = epochs.watch(&a);
        assert!(first.has_changed() && !second.has_changed() && !other.has_changed());
        epochs.bump(&a);
        assert!(first.has_changed() && second.has_changed() && !other.has_changed());
    }

    #[test]
    fn domains_that_nobody_watches_any_more_cost_no_memory() {
        let epochs = Epochs::default();
        let kept = epochs.watch(&name("kept.test"));
        for n in 0..50_000 {
            epochs.watch(&name(&format!("d{n}.test")));
        }
        let count = epochs.by_domain.lock().unwrap().len();
        assert!(count < 4 * SWEEP_AT, "{count}");
        epochs.bump(&name("kept.test"));
        assert!(kept.has_changed());
    }
}
