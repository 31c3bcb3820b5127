//! Is the store fit to be written? Shared by everything that writes.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::StoreError;

/// Whether the store can do its work.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Health {
    /// All is well.
    Good,
    /// The disk is so full that the reserve is gone: nothing may be transmitted, since its
    /// settlement might not fit. Ends by itself when there is space.
    NoReserve,
    /// A sync failed: the process must end and the files be opened anew.
    Poisoned,
}

/// The store's condition. Poison is final; the reserve comes and goes.
#[derive(Debug, Default)]
pub(crate) struct Vitals {
    poisoned: AtomicBool,
    reserve: AtomicBool,
}

impl Vitals {
    pub(crate) fn health(&self) -> Health {
        if self.poisoned.load(Ordering::Acquire) {
            Health::Poisoned
        } else if self.reserve.load(Ordering::Acquire) {
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

    pub(crate) fn reserve_made(&self) {
        self.reserve.store(true, Ordering::Release);
    }

    pub(crate) fn reserve_gone(&self) {
        self.reserve.store(false, Ordering::Release);
    }
}
