//! Is the store fit to be written? Shared by everything that writes.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::StoreError;
use crate::damage::INDEX;
use crate::mend::Mended;

/// Whether the store can do its work.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Health {
    /// Mail can be taken, sent and settled.
    Good,
    /// The reserve is gone, or a settlement could not be written: nothing may be transmitted, since
    /// its settlement might not fit. Ends by itself when there is space.
    NoReserve,
    /// queue.db was moved, removed or replaced: nothing new may be taken. What was taken is sent,
    /// and settled in the file that is open. Ends when the file is back.
    Detached,
    /// The file system cannot be written, as after an error of the disk: nothing can be taken, and
    /// nothing may be transmitted. Ends when a write works again.
    ReadOnly,
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
    /// Bodies that no message named, moved away since the start.
    lost: AtomicU64,
    /// queue.db is not at its name.
    detached: AtomicBool,
    /// The file system cannot be written.
    read_only: AtomicBool,
    /// Damage was met that is not dealt with yet.
    damaged: AtomicBool,
    /// What was done about damage, for the log.
    mended: Mutex<Vec<Mended>>,
    /// What of the journal was lost, for the log.
    journal_damaged: Mutex<Vec<String>>,
}

impl Vitals {
    pub(crate) fn health(&self) -> Health {
        if self.poisoned.load(Ordering::Acquire) {
            Health::Poisoned
        } else if self.read_only.load(Ordering::Acquire) {
            Health::ReadOnly
        } else if self.is_detached() {
            Health::Detached
        } else if self.has_reserve() && !self.is_stuck() {
            Health::Good
        } else {
            Health::NoReserve
        }
    }

    pub(crate) fn alive(&self) -> Result<(), StoreError> {
        match self.health() {
            Health::Good | Health::NoReserve | Health::Detached | Health::ReadOnly => Ok(()),
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
        self.read_only.store(false, Ordering::Release);
    }

    pub(crate) fn is_detached(&self) -> bool {
        self.detached.load(Ordering::Acquire)
    }

    /// The file system cannot be written, until a write works.
    pub(crate) fn read_only(&self) {
        self.read_only.store(true, Ordering::Release);
        self.settling_failed();
    }

    /// queue.db has left its name.
    pub(crate) fn detached(&self) {
        self.detached.store(true, Ordering::Release);
    }

    /// queue.db is at its name again.
    pub(crate) fn attached(&self) {
        self.detached.store(false, Ordering::Release);
    }

    pub(crate) fn body_lost(&self) {
        self.lost.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn lost_bodies(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Damage of a file was met, or of an index: not that of a value, which no index is about.
    pub(crate) fn note(&self, error: &StoreError) {
        let is_of_value = matches!(error, StoreError::Corrupt { what } if *what != INDEX);
        if error.is_damage() && !is_of_value {
            self.damaged.store(true, Ordering::Release);
        }
    }

    pub(crate) fn is_damaged(&self) -> bool {
        self.damaged.load(Ordering::Acquire)
    }

    pub(crate) fn mended(&self, mended: Mended) {
        self.damaged.store(false, Ordering::Release);
        self.mended.lock().unwrap_or_else(PoisonError::into_inner).push(mended);
    }

    pub(crate) fn take_mended(&self) -> Vec<Mended> {
        std::mem::take(&mut self.mended.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn journal_damaged(&self, places: Vec<String>) {
        let mut all = self.journal_damaged.lock().unwrap_or_else(PoisonError::into_inner);
        all.extend(places);
    }

    pub(crate) fn take_journal_damage(&self) -> Vec<String> {
        let mut all = self.journal_damaged.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut all)
    }

    pub(crate) fn reserve_made(&self) {
        self.reserve.store(true, Ordering::Release);
    }

    pub(crate) fn reserve_gone(&self) {
        self.reserve.store(false, Ordering::Release);
    }
}
