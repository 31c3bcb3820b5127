//! Taking a mutex.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Waits for `mutex`. The state of one whose holder panicked is used all the same.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
