//! Who asks, and why there may be no answer.

use std::sync::Arc;

use axum::Json;
use axum::extract::connect_info::Connected;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::serve::IncomingStream;
use spool::StoreError;

use super::listener::AdminListener;
use crate::control::Control;
use crate::control::api::ErrorAnswer;

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub(super) struct AdminPeer {
    /// The kernel's word (SO_PEERCRED), if it gave one.
    pub(super) uid: Option<u32>,
}

impl Connected<IncomingStream<'_, AdminListener>> for AdminPeer {
    fn connect_info(stream: IncomingStream<'_, AdminListener>) -> Self {
        Self { uid: stream.io().uid() }
    }
}

/// Why a request has no answer.
#[derive(Debug)]
pub(super) struct AdminRefused {
    pub(super) status: StatusCode,
    pub(super) text: String,
}

impl AdminRefused {
    pub(super) fn bad(text: impl ToString) -> Self {
        Self { status: StatusCode::BAD_REQUEST, text: text.to_string() }
    }

    pub(super) fn missing(text: impl ToString) -> Self {
        Self { status: StatusCode::NOT_FOUND, text: text.to_string() }
    }

    pub(super) fn failed(text: impl ToString) -> Self {
        Self { status: StatusCode::INTERNAL_SERVER_ERROR, text: text.to_string() }
    }
}

impl IntoResponse for AdminRefused {
    fn into_response(self) -> Response {
        (self.status, Json(ErrorAnswer { error: self.text })).into_response()
    }
}

/// The store blocks, so it is asked off the async threads.
pub(super) async fn ask_store<T: Send + 'static>(
    control: &Arc<Control>,
    query: impl FnOnce(&Control) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, AdminRefused> {
    let asked = Arc::clone(control);
    match control.queue.ask(move |_| query(&asked)).await {
        Ok(found) => Ok(found),
        Err(error @ StoreError::Missing { .. }) => Err(AdminRefused::missing(error)),
        Err(error) => Err(AdminRefused::failed(error)),
    }
}
