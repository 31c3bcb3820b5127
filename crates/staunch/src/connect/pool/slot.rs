//! The right to have a connection.

use super::Pool;
use crate::connect::PoolKey;

/// A place. Dropping it lets the next one in.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(super) pool: Pool,
    pub(super) key: PoolKey,
    pub(super) is_counted: bool,
    /// Is there a session in it?
    pub(super) holds: SlotHolds,
    /// Counts the configurations that connections were made under.
    pub(super) epoch: u64,
}

/// What is in a place.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum SlotHolds {
    /// No session yet, or none any more.
    Nothing,
    Session,
}

impl Slot {
    pub(super) fn has_session(&mut self) {
        if self.holds == SlotHolds::Nothing {
            self.holds = SlotHolds::Session;
            self.pool.note_session(&self.key);
        }
    }

    /// The session has ended; the place is good for another one.
    pub(super) fn without_session(mut self) -> Self {
        if self.holds == SlotHolds::Session {
            self.holds = SlotHolds::Nothing;
            self.pool.note_session_end(&self.key);
        }
        self
    }

    /// The host, and as whom we come, that the place is counted for.
    pub(crate) fn key(&self) -> &PoolKey {
        &self.key
    }

    /// The host took a mail: one more connection may be tried.
    pub(crate) fn succeeded(&self) {
        self.pool.adjust(&self.key, |window, most| (window + 1).min(most));
    }

    /// The host asks for less: half as many from now on.
    pub(crate) fn throttled(&self) {
        self.pool.adjust(&self.key, |window, _| (window / 2).max(1));
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if self.is_counted {
            self.pool.release(&self.key, self.holds);
        }
    }
}
