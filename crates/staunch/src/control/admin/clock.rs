//! The wall clock: what is wrong with it, and the operator's word that nothing is.

use std::sync::Arc;

use axum::Json;
use axum::extract::{ConnectInfo, State};

use super::answer::{AdminPeer, AdminRefused};
use crate::clock::ClockDoubt;
use crate::control::Control;
use crate::control::api::{ClockSuspect, ClockTrusted};

/// Ends a doubt about the clock.
pub(super) async fn trust(
    State(control): State<Arc<Control>>,
    ConnectInfo(peer): ConnectInfo<AdminPeer>,
) -> Result<Json<ClockTrusted>, AdminRefused> {
    let ended =
        control.queue.clock.trust(&control.queue.spool, peer.uid).await.map_err(|error| {
            AdminRefused::failed(format!("believed now, but a restart may doubt it again: {error}"))
        })?;
    Ok(Json(ClockTrusted { clock_suspect: ended.map(shown) }))
}

/// What is wrong with the clock, if something is.
pub(super) fn suspect(control: &Control) -> Option<ClockSuspect> {
    control.queue.clock.doubt().map(shown)
}

fn shown(doubt: ClockDoubt) -> ClockSuspect {
    ClockSuspect { offset_seconds: doubt.offset.as_secs(), seconds_left: doubt.left.as_secs() }
}
