//! Is the store fit to be written? Shared by everything that writes.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::StoreError;

/// Whether the store can do its work.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Health {
    /// All is well.
    Good,
    /// The reserve is gone, or a settlement could not be written: nothing may be transmitted, since
    /// its settlement might not fit. Ends by itself when there is space.
    NoReserve,
    /// A sync failed: the process must end and the files be opened anew.
    Poisoned,
}

/// The store's condition. Poison is final; the reserve comes and goes.
#[derive(Debug, Default)]
pub(crate) struct Vitals {
    poisoned: AtomicBool,
    reserve: AtomicBool,
    /// The last settlement could not be written.
    stuck: AtomicBool,
}

impl Vitals {
    pub(crate) fn health(&self) -> Health {
        if self.poisoned.load(Ordering::Acquire) {
            Health::Poisoned
        } else if self.has_reserve() && !self.is_stuck() {
            Health::Good
        } else {
            Health::NoReserve
        }
    }

    pub(crate) fn alive(&self) -> Result<(), StoreError> {
        match self.health() {
            Health::Good | Health::NoReserve => Ok(()),
            Health::Poisoned => Err(StoreError::Poisoned),
        }
    }

    pub(crate) fn poison(&self) {
        self.poisoned.store(true, Ordering::Release);
    }

    pub(crate) fn has_reserve(&self) -> bool {
        self.reserve.load(Ordering::Acquire)
    }

    pub(crate) fn is_stuck(&self) -> bool {
        self.stuck.load(Ordering::Acquire)
    }

    pub(crate) fn settling_failed(&self) {
        self.stuck.store(true, Ordering::Release);
    }

    pub(crate) fn writing_works(&self) {
        self.stuck.store(false, Ordering::Release);
    }

    pub(crate) fn reserve_made(&self) {
        self.reserve.store(true, Ordering::Release);
    }

    pub(crate) fn reserve_gone(&self) {
        self.reserve.store(false, Ordering::Release);
    }
}
