//! Few passwords are checked at once, since a check takes a core for tens of milliseconds and
//! memory besides.
//!
//! Logins that wait are checked in this order: places from which somebody logged in lately; names
//! that somebody has; all others. So strangers who try random names, however costly a check is, do
//! not keep users waiting.

use std::sync::{Arc, Mutex};

use super::wait_queue::WaitQueue;
use crate::lock::lock;
use crate::place::ClientPlace;

/// Most checks at once.
const CHECKS_MAX: usize = 4;

/// What speaks for a client whose password is to be checked. The first is checked first.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum CheckClaim {
    /// Somebody logged in from there lately.
    GoodPlace,
    /// Somebody has that name.
    KnownName,
    Nothing,
}

/// The checks that may run.
#[derive(Debug)]
pub(super) struct Checks {
    state: Mutex<ChecksState>,
}

#[derive(Debug)]
struct ChecksState {
    free: usize,
    line: WaitQueue<CheckClaim, Permit>,
}

/// One check may run until this is dropped.
#[derive(Debug)]
pub(super) struct Permit {
    checks: Arc<Checks>,
}

impl Checks {
    pub(super) fn new() -> Arc<Self> {
        let state = ChecksState { free: CHECKS_MAX, line: WaitQueue::default() };
        Arc::new(Self { state: Mutex::new(state) })
    }

    /// Waits for its turn.
    pub(super) async fn acquire(
        self: &Arc<Self>,
        claim: CheckClaim,
        place: ClientPlace,
    ) -> Option<Permit> {
        let turn = {
            let mut state = lock(&self.state);
            if let Some(left) = state.free.checked_sub(1) {
                state.free = left;
                return Some(Permit { checks: Arc::clone(self) });
            }
            state.line.join(claim, place)
        };
        turn.await.ok()
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let next = {
            let mut state = lock(&self.checks.state);
            let next = state.line.next();
            if next.is_none() {
                state.free += 1;
            }
            next
        };
        if let Some(next) = next {
            // If it has just left, the permit is dropped once more, and the one behind it gets it.
            let _left = next.send(Self { checks: Arc::clone(&self.checks) });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::poll;

    use super::*;

    #[tokio::test]
    async fn claims_come_first_and_permits_are_never_lost() {
        let checks = Checks::new();
        let place = ClientPlace::of([192, 0, 2, 1].into());
        for _ in 0..3 {
            let mut permits = Vec::new();
            for _ in 0..CHECKS_MAX {
                permits.push(checks.acquire(CheckClaim::Nothing, place).await.unwrap());
            }
            let mut last = pin!(checks.acquire(CheckClaim::Nothing, place));
            let mut first = pin!(checks.acquire(CheckClaim::GoodPlace, place));
            let mut gone = Box::pin(checks.acquire(CheckClaim::GoodPlace, place));
            assert!(poll!(&mut last).is_pending());
            assert!(poll!(&mut first).is_pending());
            assert!(poll!(&mut gone).is_pending());
            drop(gone);
            permits.pop();
            assert!(poll!(&mut last).is_pending());
            drop(first.await.unwrap());
            assert!(last.await.is_some());
        }
        assert_eq!(lock(&checks.state).free, CHECKS_MAX);
    }
}
