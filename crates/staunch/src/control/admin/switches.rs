//! Sending and accepting, switched off and on.

use std::sync::Arc;

use axum::Json;
use axum::extract::{ConnectInfo, State};
use smtp::HostName;

use super::answer::{AdminPeer, AdminRefused};
use super::unmatched;
use crate::control::Control;
use crate::control::api::{PauseDone, SwitchStates, WhichHop};
use crate::control::facts::ControlFact;
use crate::queue::events::Event;
use crate::queue::switches::{Switch, SwitchError, SwitchPosition};

fn switch_of(which: WhichHop) -> Result<Switch, AdminRefused> {
    let Some(domain) = which.domain else { return Ok(Switch::Sending) };
    let parsed = HostName::parse(&domain);
    parsed.map(Switch::Hop).map_err(|error| AdminRefused::bad(format!("{domain:?}: {error}")))
}

pub(super) async fn pause(
    State(control): State<Arc<Control>>,
    ConnectInfo(peer): ConnectInfo<AdminPeer>,
    Json(which): Json<WhichHop>,
) -> Result<Json<PauseDone>, AdminRefused> {
    let switch = switch_of(which)?;
    let off = SwitchPosition::Off(control.queue.now());
    let Json(states) = turn(&control, peer, switch.clone(), off).await?;
    let unmatched = match &switch {
        Switch::Hop(name) => unmatched::next_hop(&control, name).await?,
        Switch::Sending | Switch::Accepting => None,
    };
    Ok(Json(PauseDone { states, unmatched }))
}

pub(super) async fn resume(
    State(control): State<Arc<Control>>,
    ConnectInfo(peer): ConnectInfo<AdminPeer>,
    Json(which): Json<WhichHop>,
) -> Result<Json<SwitchStates>, AdminRefused> {
    turn(&control, peer, switch_of(which)?, SwitchPosition::On).await
}

pub(super) async fn drain(
    State(control): State<Arc<Control>>,
    ConnectInfo(peer): ConnectInfo<AdminPeer>,
) -> Result<Json<SwitchStates>, AdminRefused> {
    turn(&control, peer, Switch::Accepting, SwitchPosition::Off(control.queue.now())).await
}

pub(super) async fn accept(
    State(control): State<Arc<Control>>,
    ConnectInfo(peer): ConnectInfo<AdminPeer>,
) -> Result<Json<SwitchStates>, AdminRefused> {
    turn(&control, peer, Switch::Accepting, SwitchPosition::On).await
}

async fn turn(
    control: &Arc<Control>,
    peer: AdminPeer,
    switch: Switch,
    to: SwitchPosition,
) -> Result<Json<SwitchStates>, AdminRefused> {
    control.queue.switches.turn(switch.clone(), to).await.map_err(|error| match error {
        SwitchError::NotPaused(_) => AdminRefused::missing(error),
        SwitchError::TooMany => AdminRefused::bad(error),
        SwitchError::Store(_) => AdminRefused::failed(error),
    })?;
    control.queue.tell(Event::Switched).await;
    tell(&switch, to, peer);
    Ok(Json(shown(control)))
}

fn tell(switch: &Switch, to: SwitchPosition, AdminPeer { uid }: AdminPeer) {
    let domain = match switch {
        Switch::Hop(hop) => Some(hop),
        Switch::Sending | Switch::Accepting => None,
    };
    let fact = match (switch, to) {
        (Switch::Sending | Switch::Hop(_), SwitchPosition::Off(_)) => {
            ControlFact::Paused { domain, uid }
        }
        (Switch::Sending | Switch::Hop(_), SwitchPosition::On) => {
            ControlFact::Resumed { domain, uid }
        }
        (Switch::Accepting, SwitchPosition::Off(_)) => ControlFact::Draining { uid },
        (Switch::Accepting, SwitchPosition::On) => ControlFact::Accepting { uid },
    };
    fact.tell();
}

/// The state of all switches.
pub(super) fn shown(control: &Control) -> SwitchStates {
    SwitchStates::of(&control.queue.switches.off(), &control.queue.config())
}
