//! The cache's terms: the operator's settings as the rules take them, and writes that are waited
//! for.

use std::time::Duration;

use jiff::Timestamp;
use policy::sts::keep::{KeepSettings, OnFailure};
use spool::StoreError;
use tokio::sync::oneshot;

use crate::config::{self, MtaSts};

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

pub(super) fn settings(config: &MtaSts) -> KeepSettings {
    KeepSettings {
        dns_failure: on_failure(config.dns_failure),
        dns_failure_cap: config.dns_failure_cap,
        fetch_failure: on_failure(config.fetch_failure),
        refresh_every: config.refresh_every,
    }
}

fn on_failure(choice: config::OnFetchFailure) -> OnFailure {
    match choice {
        config::OnFetchFailure::Defer => OnFailure::Defer,
        config::OnFetchFailure::Deliver => OnFailure::Deliver,
    }
}

pub(super) fn after(at: Timestamp, by: Duration) -> Timestamp {
    at.checked_add(by).unwrap_or(Timestamp::MAX)
}
