//! What an operator asks and orders.

pub(crate) mod admin;
pub(crate) mod api;
pub(crate) mod explain;
mod facts;
pub(crate) mod transfer;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::control::api::Reloaded;
use crate::queue::handle::QueueHandle;
use crate::telemetry::LogControl;

/// Reloads that may wait for the one under way.
pub(crate) const RELOADS_MAX: usize = 16;

/// A reload is asked for. The answer: what changed, or why everything stays as it was.
pub(crate) type ReloadRequest = oneshot::Sender<Result<Reloaded, String>>;

/// What the operator's requests work on.
#[derive(Debug)]
pub(crate) struct Control {
    /// The queue, and through it everything that delivers.
    pub(crate) queue: Arc<QueueHandle>,
    /// Whoever reloads the configuration.
    pub(crate) reloads: mpsc::Sender<ReloadRequest>,
    /// What is logged.
    pub(crate) log: LogControl,
    /// The daemon ends.
    pub(crate) stop: CancellationToken,
}
