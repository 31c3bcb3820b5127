//! Sending and accepting, switched off and on.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use serde_json::{Value, json};
use smtp::HostName;

use super::answer::AdminRefused;
use crate::control::Control;
use crate::control::facts::ControlFact;
use crate::queue::events::Event;
use crate::queue::switches::{Switch, SwitchError, SwitchPosition};

/// All next hops, or that of one domain.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct WhichHop {
    domain: Option<String>,
}

impl WhichHop {
    fn switch(self) -> Result<Switch, AdminRefused> {
        let Some(domain) = self.domain else { return Ok(Switch::Sending) };
        let parsed = HostName::parse(&domain);
        parsed.map(Switch::Hop).map_err(|error| AdminRefused::bad(format!("{domain:?}: {error}")))
    }
}

pub(super) async fn pause(
    State(control): State<Arc<Control>>,
    Json(which): Json<WhichHop>,
) -> Result<Json<Value>, AdminRefused> {
    turn(&control, which.switch()?, SwitchPosition::Off(control.queue.now())).await
}

pub(super) async fn resume(
    State(control): State<Arc<Control>>,
    Json(which): Json<WhichHop>,
) -> Result<Json<Value>, AdminRefused> {
    turn(&control, which.switch()?, SwitchPosition::On).await
}

pub(super) async fn drain(
    State(control): State<Arc<Control>>,
) -> Result<Json<Value>, AdminRefused> {
    turn(&control, Switch::Accepting, SwitchPosition::Off(control.queue.now())).await
}

pub(super) async fn accept(
    State(control): State<Arc<Control>>,
) -> Result<Json<Value>, AdminRefused> {
    turn(&control, Switch::Accepting, SwitchPosition::On).await
}

async fn turn(
    control: &Arc<Control>,
    switch: Switch,
    to: SwitchPosition,
) -> Result<Json<Value>, AdminRefused> {
    control.queue.switches.turn(switch.clone(), to).await.map_err(|error| match error {
        SwitchError::NotPaused(_) => AdminRefused::missing(error),
        SwitchError::TooMany => AdminRefused::bad(error),
        SwitchError::Store(_) => AdminRefused::failed(error),
    })?;
    control.queue.tell(Event::Switched).await;
    tell(&switch, to);
    Ok(Json(shown(control)))
}

fn tell(switch: &Switch, to: SwitchPosition) {
    let domain = match switch {
        Switch::Hop(hop) => Some(hop),
        Switch::Sending | Switch::Accepting => None,
    };
    let fact = match (switch, to) {
        (Switch::Sending | Switch::Hop(_), SwitchPosition::Off(_)) => {
            ControlFact::Paused { domain }
        }
        (Switch::Sending | Switch::Hop(_), SwitchPosition::On) => ControlFact::Resumed { domain },
        (Switch::Accepting, SwitchPosition::Off(_)) => ControlFact::Draining,
        (Switch::Accepting, SwitchPosition::On) => ControlFact::Accepting,
    };
    fact.tell();
}

/// The state of all switches, as commands print it.
pub(super) fn shown(control: &Control) -> Value {
    json!(control.queue.switches.off().shown(&control.queue.config()))
}
