//! Writes to the store that are waited for.

use spool::StoreError;
use tokio::sync::oneshot;

/// What a write calls when it is on the disk, or will not be.
type WhenSynced<T> = Box<dyn FnOnce(Result<T, StoreError>) + Send>;

/// Begins a write and waits for its end.
pub(super) async fn synced<T: Send + 'static>(
    begin: impl FnOnce(WhenSynced<T>),
) -> Result<T, StoreError> {
    let (done, synced) = oneshot::channel();
    // Whoever waited may be gone.
    begin(Box::new(|result| drop(done.send(result))));
    synced.await.unwrap_or(Err(StoreError::Closed))
}
