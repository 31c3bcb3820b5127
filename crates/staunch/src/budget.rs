//! How much memory may mail that is arriving, or was just accepted, hold?
//!
//! One number for all (`limits.memory`). Each message in flight has for itself what its session cannot do
//! without; more is lent only if it is free, and who gets none goes to disk at once. So a flood costs
//! speed, then answers 4.3.1, but never the daemon.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Ours: octets of a message that can always be held, whatever else is: its header streams by in them.
pub(crate) const HEADER_OCTETS: usize = 8 * 1024;

/// Ours: octets of recipients that a message can always have: some ten of usual length, or one of the longest.
pub(crate) const RECIPIENTS_OCTETS: usize = 4 * 1024;

/// What a session holds besides the message that it receives, in octets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held {
    /// Its buffers now.
    pub(crate) now: usize,
    /// The same when nothing is lent to it.
    pub(crate) least: usize,
}

impl Held {
    /// Without so much no message comes to its end.
    pub(crate) const fn guarantee(self) -> u64 {
        (self.least + RECIPIENTS_OCTETS + HEADER_OCTETS) as u64
    }
}

/// How `limits.memory` is divided, in octets.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Shares {
    /// For messages that arrive.
    pub(crate) arriving: u64,
    /// Of that, what is never lent beyond guarantees.
    pub(crate) kept_back: u64,
    /// For bodies between their commit and the first attempt.
    pub(crate) accepted: u64,
    /// For notices that are being written, with what they carry of the original.
    pub(crate) notices: u64,
}

impl Shares {
    /// A quarter is for what was accepted, an eighth for notices, the rest for what arrives; of that, `guarantees` are kept
    /// back, but at most half.
    pub(crate) fn of(memory: u64, guarantees: u64) -> Self {
        let (accepted, notices) = (memory / 4, memory / 8);
        let arriving = memory - accepted - notices;
        Self { arriving, kept_back: guarantees.min(arriving / 2), accepted, notices }
    }
}

/// What memory is lent for.
#[derive(Clone, Copy, Debug)]
enum Purpose {
    /// What a message that arrives cannot do without.
    Guarantee,
    /// What makes it faster.
    Extra,
    /// A body that waits for its first attempt.
    Accepted,
}

/// What is lent, in octets.
#[derive(Debug)]
struct Ledger {
    shares: Shares,
    guaranteed: u64,
    extra: u64,
    accepted: u64,
    notices: u64,
    peak: u64,
}

impl Ledger {
    fn lent(&self) -> u64 {
        self.guaranteed + self.extra + self.accepted + self.notices
    }

    fn free(&self, purpose: Purpose) -> u64 {
        let Shares { arriving, kept_back, accepted, .. } = self.shares;
        match purpose {
            Purpose::Guarantee => arriving.saturating_sub(self.guaranteed + self.extra),
            Purpose::Extra => arriving.saturating_sub(self.guaranteed.max(kept_back) + self.extra),
            Purpose::Accepted => accepted.saturating_sub(self.accepted),
        }
    }

    fn account(&mut self, purpose: Purpose) -> &mut u64 {
        match purpose {
            Purpose::Guarantee => &mut self.guaranteed,
            Purpose::Extra => &mut self.extra,
            Purpose::Accepted => &mut self.accepted,
        }
    }
}

/// The memory that may be lent. One lock over all of it: with a counter for each purpose, two that are asked at
/// the same moment would each lend the same octets.
#[derive(Debug)]
pub(crate) struct Budget {
    ledger: Mutex<Ledger>,
    /// In units of [`NOTICE_UNIT`]: who writes a notice waits, since there is no disk to go to instead.
    notices: Arc<Semaphore>,
    notice_units: AtomicU32,
}

/// Octets.
const NOTICE_UNIT: u64 = 1024;

/// What operators see of it, in octets.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Usage {
    /// Lent now.
    pub(crate) lent: u64,
    /// The most that was lent at any moment.
    pub(crate) peak: u64,
    /// The most that may be lent.
    pub(crate) limit: u64,
}

impl Budget {
    pub(crate) fn new(shares: Shares) -> Arc<Self> {
        let ledger = Ledger { shares, guaranteed: 0, extra: 0, accepted: 0, notices: 0, peak: 0 };
        let units = notice_units(shares);
        let notices = Arc::new(Semaphore::new(usize::try_from(units).unwrap_or(usize::MAX)));
        Arc::new(Self { ledger: Mutex::new(ledger), notices, notice_units: AtomicU32::new(units) })
    }

    /// Waits until a notice may hold `octets`, or all there are for notices.
    pub(crate) async fn notice(self: &Arc<Self>, octets: u64) -> Option<NoticeLease> {
        let units = u32::try_from(octets.div_ceil(NOTICE_UNIT)).unwrap_or(u32::MAX);
        let units = units.min(self.notice_units.load(Ordering::Relaxed));
        // It is never closed.
        let permit = Arc::clone(&self.notices).acquire_many_owned(units).await.ok()?;
        let mut ledger = self.ledger();
        ledger.notices += u64::from(units) * NOTICE_UNIT;
        ledger.peak = ledger.peak.max(ledger.lent());
        Some(NoticeLease { budget: Arc::clone(self), permit })
    }

    /// The same with other numbers. What is lent beyond them comes back by itself; until then nothing more is lent.
    pub(crate) fn resize(&self, shares: Shares) {
        self.ledger().shares = shares;
        // Not less for notices: one that waits for more than there is would wait for ever.
        let units = notice_units(shares);
        let before = self.notice_units.fetch_max(units, Ordering::Relaxed);
        self.notices.add_permits(usize::try_from(units.saturating_sub(before)).unwrap_or_default());
    }

    pub(crate) fn usage(&self) -> Usage {
        let ledger = self.ledger();
        let Shares { arriving, accepted, notices, .. } = ledger.shares;
        Usage { lent: ledger.lent(), peak: ledger.peak, limit: arriving + accepted + notices }
    }

    /// A lease of `guarantee` octets, if they are left.
    pub(crate) fn message(self: &Arc<Self>, guarantee: u64) -> Option<Lease> {
        let guarantee = self.loan(Purpose::Guarantee, guarantee)?;
        Some(Lease { guarantee, extra: self.loan(Purpose::Extra, 0)? })
    }

    /// Memory for an accepted body of `octets`, if they are left.
    pub(crate) fn body(self: &Arc<Self>, octets: u64) -> Option<Loan> {
        self.loan(Purpose::Accepted, octets)
    }

    fn loan(self: &Arc<Self>, purpose: Purpose, octets: u64) -> Option<Loan> {
        let mut loan = Loan { budget: Arc::clone(self), purpose, octets: 0 };
        loan.change(octets).then_some(loan)
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn notice_units(shares: Shares) -> u32 {
    u32::try_from(shares.notices / NOTICE_UNIT).unwrap_or(u32::MAX).max(1)
}

/// The memory of a notice that is being written; given back when dropped.
#[derive(Debug)]
pub(crate) struct NoticeLease {
    budget: Arc<Budget>,
    permit: OwnedSemaphorePermit,
}

impl Drop for NoticeLease {
    fn drop(&mut self) {
        let units = u64::try_from(self.permit.num_permits()).unwrap_or_default();
        self.budget.ledger().notices -= units * NOTICE_UNIT;
    }
}

/// Memory that is lent for one purpose; given back when dropped.
#[derive(Debug)]
pub(crate) struct Loan {
    budget: Arc<Budget>,
    purpose: Purpose,
    octets: u64,
}

impl Loan {
    /// Makes it `octets`. `false` if they are not free; then it stays as it is. Less is always possible.
    fn change(&mut self, octets: u64) -> bool {
        if octets == self.octets {
            return true;
        }
        let mut ledger = self.budget.ledger();
        if octets.saturating_sub(self.octets) > ledger.free(self.purpose) {
            return false;
        }
        let account = ledger.account(self.purpose);
        *account = *account - self.octets + octets;
        ledger.peak = ledger.peak.max(ledger.lent());
        self.octets = octets;
        true
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        self.change(0);
    }
}

/// The memory of one message in flight.
#[derive(Debug)]
pub(crate) struct Lease {
    guarantee: Loan,
    extra: Loan,
}

impl Lease {
    /// Makes the lease cover `octets` in all, no more and no less than its guarantee. `false` if
    /// that is not free; then it stays as it is.
    pub(crate) fn cover(&mut self, octets: u64) -> bool {
        self.extra.change(octets.saturating_sub(self.guarantee.octets))
    }

    /// The same for a message that holds `message` octets, and `besides` that are held with it. What is promised
    /// to a message stays its own, used or not.
    pub(crate) fn cover_message(&mut self, besides: usize, message: usize) -> bool {
        let needed = besides.saturating_add(message.max(HEADER_OCTETS));
        self.cover(u64::try_from(needed).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUARANTEE: u64 = 16 * 1024;

    /// A budget for what arrives, in guarantees.
    fn arriving(octets: u64, kept_back: u64) -> Shares {
        Shares {
            arriving: octets * GUARANTEE,
            kept_back: kept_back * GUARANTEE,
            accepted: 0,
            notices: 0,
        }
    }

    #[test]
    fn extra_memory_never_eats_the_guarantees() {
        let budget = Budget::new(arriving(10, 4));
        let mut greedy = budget.message(GUARANTEE).unwrap();
        assert!(greedy.cover(7 * GUARANTEE), "six beyond its own");
        assert!(!greedy.cover(7 * GUARANTEE + 1), "the rest is kept back");
        let others: Vec<_> = std::iter::from_fn(|| budget.message(GUARANTEE)).collect();
        assert_eq!(others.len(), 3);
        assert!(greedy.cover(0), "giving back always works");
    }

    #[test]
    fn a_smaller_budget_lends_nothing_until_enough_came_back() {
        let budget = Budget::new(arriving(10, 1));
        let mut greedy = budget.message(GUARANTEE).unwrap();
        assert!(greedy.cover(9 * GUARANTEE));
        budget.resize(arriving(4, 1));
        assert!(budget.message(GUARANTEE).is_none());
        assert!(!greedy.cover(9 * GUARANTEE + 1));
        assert!(greedy.cover(5 * GUARANTEE), "giving back always works, also to what is too much");
        assert!(greedy.cover(2 * GUARANTEE));
        assert!(budget.message(GUARANTEE).is_some());
        budget.resize(arriving(20, 1));
        assert!(greedy.cover(15 * GUARANTEE));
    }

    #[test]
    fn what_is_lent_comes_back() {
        let budget = Budget::new(Shares { accepted: GUARANTEE, ..arriving(4, 1) });
        for _ in 0..10 {
            let mut lease = budget.message(GUARANTEE).unwrap();
            assert!(lease.cover(3 * GUARANTEE));
            assert!(lease.cover(2 * GUARANTEE));
            let _body = budget.body(GUARANTEE).unwrap();
            assert_eq!(budget.usage().lent, 3 * GUARANTEE);
        }
        let usage = budget.usage();
        assert_eq!((usage.lent, usage.peak, usage.limit), (0, 3 * GUARANTEE, 5 * GUARANTEE));
    }

    #[test]
    fn a_body_has_the_share_of_bodies_and_no_more() {
        let budget = Budget::new(Shares::of(8 * GUARANTEE, 0));
        let body = budget.body(2 * GUARANTEE).unwrap();
        assert!(budget.body(1).is_none(), "a quarter is for bodies, though the rest is free");
        drop(body);
        assert!(budget.body(1).is_some());
        assert!(budget.message(5 * GUARANTEE).is_some(), "the rest is for what arrives");
    }

    #[tokio::test]
    async fn notices_wait_for_each_other_and_the_largest_has_all_there_is() {
        let budget = Budget::new(Shares { notices: 4 * NOTICE_UNIT, ..arriving(1, 0) });
        let three = budget.notice(3 * NOTICE_UNIT).await.unwrap();
        let large = budget.notice(100 * NOTICE_UNIT);
        tokio::pin!(large);
        assert!(futures_util::poll!(&mut large).is_pending());
        drop(three);
        let _large = large.await.unwrap();
        assert_eq!(budget.usage().lent, 4 * NOTICE_UNIT);
        let small = budget.notice(1);
        tokio::pin!(small);
        assert!(futures_util::poll!(&mut small).is_pending());
        budget.resize(Shares { notices: 5 * NOTICE_UNIT, ..arriving(1, 0) });
        assert!(small.await.is_some());
    }

    #[test]
    fn however_many_ask_at_once_no_more_is_lent_than_there_is() {
        let budget = Budget::new(Shares::of(16 * GUARANTEE, 2 * GUARANTEE));
        let ask = || {
            for round in 0..2000 {
                let lease = budget.message(GUARANTEE);
                let _body = budget.body(GUARANTEE);
                if let Some(mut lease) = lease {
                    lease.cover((round % 13) * GUARANTEE);
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(ask);
            }
        });
        let usage = budget.usage();
        assert!(usage.peak <= usage.limit, "{usage:?}");
        assert_eq!(usage.lent, 0);
    }
}
