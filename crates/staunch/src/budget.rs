//! How much memory may mail that is arriving, or was just accepted, hold?
//!
//! One number for all (`limits.memory`). Each message in flight has for itself what its session
//! cannot do without; more is lent only if it is free, and who gets none goes to disk at once. So a
//! flood costs speed, then answers 4.3.1, but never the daemon. And no client borrows what belongs
//! to all: each at most a share of what is free.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::lock::lock;
use crate::place::ClientPlace;

/// Our choice: octets of a message that can always be held, whatever else is: its header streams by
/// in them.
pub(crate) const HEADER_OCTETS: usize = 8 * 1024;

/// Our choice: octets of recipients that a message can always have: some ten of usual length, or
/// one of the longest.
pub(crate) const RECIPIENTS_OCTETS: usize = 4 * 1024;

/// What a session holds besides the message that it receives, in octets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held {
    /// Octets that its buffers hold now.
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
pub(crate) struct MemoryShares {
    /// For messages that arrive.
    pub(crate) arriving: u64,
    /// Of that, what is never lent beyond guarantees.
    pub(crate) kept_back: u64,
    /// For bodies between their commit and the first attempt.
    pub(crate) accepted: u64,
    /// For DSNs that are being written, with what they carry of the original.
    pub(crate) dsns: u64,
}

impl MemoryShares {
    /// A quarter is for what was accepted, an eighth for DSNs, the rest for what arrives; of
    /// that, `guarantees` are kept back, but at most half.
    pub(crate) fn of(memory: u64, guarantees: u64) -> Self {
        let (accepted, dsns) = (memory / 4, memory / 8);
        let arriving = memory - accepted - dsns;
        Self { arriving, kept_back: guarantees.min(arriving / 2), accepted, dsns }
    }
}

/// A client that borrows, on however many connections.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Borrower {
    /// A user that has logged in.
    User(Box<str>),
    /// All clients of a place that have not.
    Place(ClientPlace),
}

/// What memory is lent for.
#[derive(Clone, Debug)]
enum LoanPurpose {
    /// What a message that arrives cannot do without.
    Guarantee,
    /// What makes it faster.
    Extra(Borrower),
    /// A body that waits for its first attempt.
    Accepted,
}

/// A client's part of what is free and of what it has borrowed already: one in so many.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum BudgetPart {
    /// Room to read more at once: without it nothing but speed is lost.
    Reading = 8,
    /// Content and recipients: without it a body goes to disk, and a recipient is refused for now.
    Holding = 4,
}

/// Our choice: what a client may borrow as long as it is free, also where that is more than its
/// part: room for the hundred recipients that every server must take (RFC 5321 §4.5.3.1.8), with
/// the longest names.
const HOLDING_OCTETS_MIN: u64 = 128 * 1024;

impl BudgetPart {
    fn least(self) -> u64 {
        match self {
            Self::Reading => 0,
            Self::Holding => HOLDING_OCTETS_MIN,
        }
    }
}

/// What is lent, in octets.
#[derive(Debug)]
struct Ledger {
    shares: MemoryShares,
    guaranteed: u64,
    extra: u64,
    /// Of that, whose it is.
    extra_of: HashMap<Borrower, u64>,
    accepted: u64,
    dsns: u64,
    peak: u64,
}

impl Ledger {
    fn lent(&self) -> u64 {
        self.guaranteed + self.extra + self.accepted + self.dsns
    }

    fn free(&self, purpose: &LoanPurpose) -> u64 {
        let MemoryShares { arriving, kept_back, accepted, .. } = self.shares;
        match purpose {
            LoanPurpose::Guarantee => arriving.saturating_sub(self.guaranteed + self.extra),
            LoanPurpose::Extra(_) => {
                arriving.saturating_sub(self.guaranteed.max(kept_back) + self.extra)
            }
            LoanPurpose::Accepted => accepted.saturating_sub(self.accepted),
        }
    }

    /// May so many more be lent?
    fn has(&self, purpose: &LoanPurpose, more: u64, part: BudgetPart) -> bool {
        let free = self.free(purpose);
        let is_fair = || match purpose {
            LoanPurpose::Extra(borrower) => {
                let own = self.extra_of.get(borrower).copied().unwrap_or_default();
                own + more <= ((free + own) / (part as u64)).max(part.least())
            }
            LoanPurpose::Guarantee | LoanPurpose::Accepted => true,
        };
        more <= free && is_fair()
    }

    fn change(&mut self, purpose: &LoanPurpose, before: u64, after: u64) {
        let changed = |account: &mut u64| *account = *account - before + after;
        match purpose {
            LoanPurpose::Guarantee => changed(&mut self.guaranteed),
            LoanPurpose::Accepted => changed(&mut self.accepted),
            LoanPurpose::Extra(borrower) => {
                changed(&mut self.extra);
                let own = self.extra_of.entry(borrower.clone()).or_default();
                changed(own);
                if *own == 0 {
                    self.extra_of.remove(borrower);
                }
            }
        }
        self.peak = self.peak.max(self.lent());
    }
}

/// The memory that may be lent. One lock over all of it: with a counter for each purpose, two that
/// are asked at the same moment would each lend the same octets.
#[derive(Debug)]
pub(crate) struct Budget {
    ledger: Mutex<Ledger>,
    /// In units of [`NOTICE_UNIT`]: who writes a DSN waits, since there is no disk to go to
    /// instead.
    dsns: Arc<Semaphore>,
    notice_units: AtomicU32,
}

/// Octets of one unit of `dsns`: the semaphore counts in u32.
const NOTICE_UNIT: u64 = 1024;

/// What operators see of it, in octets.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Usage {
    /// Octets that are lent now.
    pub(crate) lent: u64,
    /// The most that was lent at any moment.
    pub(crate) peak: u64,
    /// The most that may be lent.
    pub(crate) limit: u64,
}

impl Budget {
    pub(crate) fn new(shares: MemoryShares) -> Arc<Self> {
        let ledger = Ledger {
            shares,
            guaranteed: 0,
            extra: 0,
            extra_of: HashMap::new(),
            accepted: 0,
            dsns: 0,
            peak: 0,
        };
        let units = notice_units(shares);
        let dsns = Arc::new(Semaphore::new(usize::try_from(units).unwrap_or(usize::MAX)));
        Arc::new(Self { ledger: Mutex::new(ledger), dsns, notice_units: AtomicU32::new(units) })
    }

    /// Waits until a DSN may hold `octets`, or all there are for DSNs.
    pub(crate) async fn dsn(self: &Arc<Self>, octets: u64) -> Option<DsnLease> {
        let units = u32::try_from(octets.div_ceil(NOTICE_UNIT)).unwrap_or(u32::MAX);
        let units = units.min(self.notice_units.load(Ordering::Relaxed));
        // It is never closed.
        let permit = Arc::clone(&self.dsns).acquire_many_owned(units).await.ok()?;
        let mut ledger = self.ledger();
        ledger.dsns += u64::from(units) * NOTICE_UNIT;
        ledger.peak = ledger.peak.max(ledger.lent());
        Some(DsnLease { budget: Arc::clone(self), permit })
    }

    /// The same with other numbers. What is lent beyond them comes back by itself; until then
    /// nothing more is lent.
    pub(crate) fn resize(&self, shares: MemoryShares) {
        self.ledger().shares = shares;
        // Not less for DSNs: one that waits for more than there is would wait for ever.
        let units = notice_units(shares);
        let before = self.notice_units.fetch_max(units, Ordering::Relaxed);
        self.dsns.add_permits(usize::try_from(units.saturating_sub(before)).unwrap_or_default());
    }

    pub(crate) fn usage(&self) -> Usage {
        let ledger = self.ledger();
        let MemoryShares { arriving, accepted, dsns, .. } = ledger.shares;
        Usage { lent: ledger.lent(), peak: ledger.peak, limit: arriving + accepted + dsns }
    }

    /// A lease of `guarantee` octets, if they are left.
    pub(crate) fn message(self: &Arc<Self>, borrower: Borrower, guarantee: u64) -> Option<Lease> {
        let guarantee = self.loan(LoanPurpose::Guarantee, guarantee)?;
        Some(Lease { guarantee, extra: self.loan(LoanPurpose::Extra(borrower), 0)? })
    }

    /// Memory for an accepted body of `octets`, if they are left.
    pub(crate) fn body(self: &Arc<Self>, octets: u64) -> Option<Loan> {
        self.loan(LoanPurpose::Accepted, octets)
    }

    fn loan(self: &Arc<Self>, purpose: LoanPurpose, octets: u64) -> Option<Loan> {
        let mut loan = Loan { budget: Arc::clone(self), purpose, octets: 0 };
        loan.change(octets, BudgetPart::Holding).then_some(loan)
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        lock(&self.ledger)
    }
}

fn notice_units(shares: MemoryShares) -> u32 {
    u32::try_from(shares.dsns / NOTICE_UNIT).unwrap_or(u32::MAX).max(1)
}

/// The memory of a DSN that is being written; given back when dropped.
#[derive(Debug)]
pub(crate) struct DsnLease {
    budget: Arc<Budget>,
    permit: OwnedSemaphorePermit,
}

impl Drop for DsnLease {
    fn drop(&mut self) {
        let units = u64::try_from(self.permit.num_permits()).unwrap_or_default();
        self.budget.ledger().dsns -= units * NOTICE_UNIT;
    }
}

/// Memory that is lent for one purpose; given back when dropped.
#[derive(Debug)]
pub(crate) struct Loan {
    budget: Arc<Budget>,
    purpose: LoanPurpose,
    octets: u64,
}

impl Loan {
    /// Makes it `octets`. `false` if they are not free; then it stays as it is. Less is always
    /// possible.
    fn change(&mut self, octets: u64, part: BudgetPart) -> bool {
        if octets == self.octets {
            return true;
        }
        let mut ledger = self.budget.ledger();
        if octets > self.octets && !ledger.has(&self.purpose, octets - self.octets, part) {
            return false;
        }
        ledger.change(&self.purpose, self.octets, octets);
        self.octets = octets;
        true
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        self.change(0, BudgetPart::Holding);
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
        self.cover_as(BudgetPart::Holding, octets)
    }

    fn cover_as(&mut self, part: BudgetPart, octets: u64) -> bool {
        self.extra.change(octets.saturating_sub(self.guarantee.octets), part)
    }

    /// The same for a message that holds `message` octets, and `besides` that are held with it.
    /// What is promised to a message stays its own, used or not.
    pub(crate) fn cover_message(&mut self, besides: usize, message: usize) -> bool {
        self.cover(needed(besides, message))
    }

    /// The same if it is only to read more at once.
    pub(crate) fn lend_for_reading(&mut self, besides: usize, message: usize) -> bool {
        self.cover_as(BudgetPart::Reading, needed(besides, message))
    }
}

fn needed(besides: usize, message: usize) -> u64 {
    u64::try_from(besides.saturating_add(message.max(HEADER_OCTETS))).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUARANTEE: u64 = 16 * 1024;

    /// A budget for what arrives, in guarantees.
    fn arriving(octets: u64, kept_back: u64) -> MemoryShares {
        MemoryShares {
            arriving: octets * GUARANTEE,
            kept_back: kept_back * GUARANTEE,
            accepted: 0,
            dsns: 0,
        }
    }

    fn somebody(number: u32) -> Borrower {
        Borrower::Place(ClientPlace::Local(number))
    }

    /// Makes the lease as large as it gets, in guarantees.
    fn fill(lease: &mut Lease) -> u64 {
        (1..).take_while(|octets| lease.cover(octets * GUARANTEE)).last().unwrap_or_default()
    }

    #[test]
    fn extra_memory_never_eats_the_guarantees() {
        let budget = Budget::new(arriving(100, 40));
        let greedy: Vec<Lease> = (0..30)
            .map(|number| {
                let mut lease = budget.message(somebody(number), GUARANTEE).unwrap();
                fill(&mut lease);
                lease
            })
            .collect();
        assert!(budget.usage().lent > 60 * GUARANTEE, "nearly all that may be lent");
        let late: Vec<_> = (0..10).map_while(|_| budget.message(somebody(99), GUARANTEE)).collect();
        assert_eq!(late.len(), 10, "40 are kept back in all");
        drop(greedy);
    }

    #[test]
    fn a_client_has_a_quarter_of_what_is_free_on_however_many_connections() {
        let budget = Budget::new(arriving(300, 100));
        let mut all = 0;
        let _many: Vec<Lease> = (0..100)
            .map(|_| {
                let mut lease = budget.message(somebody(1), GUARANTEE).unwrap();
                all += fill(&mut lease) - 1;
                lease
            })
            .collect();
        assert_eq!(all, 50, "of 200 that are not kept back");
        let mut other = budget.message(somebody(2), GUARANTEE).unwrap();
        assert!(other.cover(37 * GUARANTEE), "of the 150 that are left");
        let user = Borrower::User("anna".into());
        let mut user = budget.message(user, GUARANTEE).unwrap();
        assert!(!user.lend_for_reading(0, 30 * 16 * 1024), "an eighth, where only speed is lost");
        assert!(user.lend_for_reading(0, 14 * 16 * 1024));
    }

    #[test]
    fn a_smaller_budget_lends_nothing_until_enough_came_back() {
        let budget = Budget::new(arriving(40, 1));
        let mut greedy = budget.message(somebody(1), GUARANTEE).unwrap();
        assert!(greedy.cover(9 * GUARANTEE));
        budget.resize(arriving(4, 1));
        assert!(budget.message(somebody(2), GUARANTEE).is_none());
        assert!(!greedy.cover(9 * GUARANTEE + 1));
        assert!(greedy.cover(5 * GUARANTEE), "giving back always works, also to what is too much");
        assert!(greedy.cover(2 * GUARANTEE));
        assert!(budget.message(somebody(2), GUARANTEE).is_some());
        budget.resize(arriving(80, 1));
        assert!(greedy.cover(15 * GUARANTEE));
    }

    #[test]
    fn what_is_lent_comes_back() {
        let budget = Budget::new(MemoryShares { accepted: GUARANTEE, ..arriving(20, 1) });
        for _ in 0..10 {
            let mut lease = budget.message(somebody(1), GUARANTEE).unwrap();
            assert!(lease.cover(3 * GUARANTEE));
            assert!(lease.cover(2 * GUARANTEE));
            let _body = budget.body(GUARANTEE).unwrap();
            assert_eq!(budget.usage().lent, 3 * GUARANTEE);
        }
        let usage = budget.usage();
        assert_eq!((usage.lent, usage.peak, usage.limit), (0, 3 * GUARANTEE, 21 * GUARANTEE));
        assert!(budget.ledger().extra_of.is_empty());
    }

    #[test]
    fn a_body_has_the_share_of_bodies_and_no_more() {
        let budget = Budget::new(MemoryShares::of(8 * GUARANTEE, 0));
        let body = budget.body(2 * GUARANTEE).unwrap();
        assert!(budget.body(1).is_none(), "a quarter is for bodies, though the rest is free");
        drop(body);
        assert!(budget.body(1).is_some());
        assert!(
            budget.message(somebody(1), 5 * GUARANTEE).is_some(),
            "the rest is for what arrives"
        );
    }

    #[tokio::test]
    async fn notices_wait_for_each_other_and_the_largest_has_all_there_is() {
        let budget = Budget::new(MemoryShares { dsns: 4 * NOTICE_UNIT, ..arriving(1, 0) });
        let three = budget.dsn(3 * NOTICE_UNIT).await.unwrap();
        let large = budget.dsn(100 * NOTICE_UNIT);
        tokio::pin!(large);
        assert!(futures_util::poll!(&mut large).is_pending());
        drop(three);
        let _large = large.await.unwrap();
        assert_eq!(budget.usage().lent, 4 * NOTICE_UNIT);
        let small = budget.dsn(1);
        tokio::pin!(small);
        assert!(futures_util::poll!(&mut small).is_pending());
        budget.resize(MemoryShares { dsns: 5 * NOTICE_UNIT, ..arriving(1, 0) });
        assert!(small.await.is_some());
    }

    #[test]
    fn however_many_ask_at_once_no_more_is_lent_than_there_is() {
        let budget = Budget::new(MemoryShares::of(16 * GUARANTEE, 2 * GUARANTEE));
        let ask = || {
            for round in 0..2000_u32 {
                let lease = budget.message(somebody(round % 5), GUARANTEE);
                let _body = budget.body(GUARANTEE);
                if let Some(mut lease) = lease {
                    lease.cover(u64::from(round % 13) * GUARANTEE);
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
