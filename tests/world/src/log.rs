//! What happened, in order, and a way to wait for more of it without sleeping.

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::watch;

/// Longest wait for anything in a test: far above what a loaded machine needs, far below a hang.
pub const LIMIT: Duration = Duration::from_secs(20);

/// An append-only list that tests can read and wait on.
#[derive(Debug)]
pub struct Log<T> {
    items: Mutex<Vec<T>>,
    length: watch::Sender<usize>,
}

impl<T> Default for Log<T> {
    fn default() -> Self {
        Self { items: Mutex::new(Vec::new()), length: watch::Sender::new(0) }
    }
}

impl<T> Log<T> {
    /// The number of items afterwards.
    pub(crate) fn push(&self, item: T) -> usize {
        let length = {
            let mut items = lock(&self.items);
            items.push(item);
            items.len()
        };
        self.length.send_replace(length);
        length
    }

    /// Looks at everything so far.
    pub fn read<R>(&self, look: impl FnOnce(&[T]) -> R) -> R {
        look(&lock(&self.items))
    }

    /// How many items there are now; what comes later has an index of at least this.
    pub fn len(&self) -> usize {
        self.read(<[T]>::len)
    }

    /// Whether nothing happened yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Waits until `look` finds what it wants among all items, at most [`LIMIT`].
    ///
    /// # Errors
    ///
    /// [`TimedOut`] after the limit.
    pub async fn until<R>(&self, mut look: impl FnMut(&[T]) -> Option<R>) -> Result<R, TimedOut> {
        let mut length = self.length.subscribe();
        let search = async {
            loop {
                length.borrow_and_update();
                if let Some(found) = self.read(&mut look) {
                    return found;
                }
                length.changed().await.expect("the log outlives its readers");
            }
        };
        tokio::time::timeout(LIMIT, search).await.map_err(|_| TimedOut)
    }
}

/// Nothing of the kind happened within [`LIMIT`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TimedOut;

/// A lock that a panicking test cannot poison for the others.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
