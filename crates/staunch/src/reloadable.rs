//! Parts of the running daemon that a reload replaces while others use them.

use std::sync::{Arc, PoisonError, RwLock};

/// A part that can be replaced. Whoever uses it takes it as it is at that moment, and keeps that
/// one to the end of what it does: a replacement interrupts nobody.
#[derive(Debug)]
pub(crate) struct Reloadable<T>(RwLock<Arc<T>>);

impl<T> Reloadable<T> {
    /// What is in use until the first [`Reloadable::replace`].
    pub(crate) fn new(part: T) -> Self {
        Self(RwLock::new(Arc::new(part)))
    }

    /// The one of this moment.
    pub(crate) fn now(&self) -> Arc<T> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts `part` in its place.
    pub(crate) fn replace(&self, part: T) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(part);
    }
}
