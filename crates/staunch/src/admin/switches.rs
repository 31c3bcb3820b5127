//! Sending and accepting, switched off and on.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use serde_json::{Value, json};
use smtp::HostName;

use super::Refused;
use crate::queue::events::Event;
use crate::relay::Relay;
use crate::switches::{Position, Switch, SwitchError};

/// All next hops, or that of one domain.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Which {
    domain: Option<String>,
}

impl Which {
    fn switch(self) -> Result<Switch, Refused> {
        let Some(domain) = self.domain else { return Ok(Switch::Sending) };
        let parsed = HostName::parse(&domain);
        parsed.map(Switch::Hop).map_err(|error| Refused::bad(format!("{domain:?}: {error}")))
    }
}

pub(super) async fn pause(
    State(relay): State<Arc<Relay>>,
    Json(which): Json<Which>,
) -> Result<Json<Value>, Refused> {
    turn(&relay, which.switch()?, Position::Off(relay.now())).await
}

pub(super) async fn resume(
    State(relay): State<Arc<Relay>>,
    Json(which): Json<Which>,
) -> Result<Json<Value>, Refused> {
    turn(&relay, which.switch()?, Position::On).await
}

pub(super) async fn drain(State(relay): State<Arc<Relay>>) -> Result<Json<Value>, Refused> {
    turn(&relay, Switch::Accepting, Position::Off(relay.now())).await
}

pub(super) async fn accept(State(relay): State<Arc<Relay>>) -> Result<Json<Value>, Refused> {
    turn(&relay, Switch::Accepting, Position::On).await
}

async fn turn(relay: &Arc<Relay>, switch: Switch, to: Position) -> Result<Json<Value>, Refused> {
    relay.switches.turn(switch.clone(), to).await.map_err(|error| match error {
        SwitchError::NotPaused(_) => Refused::missing(error),
        SwitchError::TooMany => Refused::bad(error),
        SwitchError::Store(_) => Refused::failed(error),
    })?;
    relay.tell_queue(Event::Switched).await;
    tell(&switch, to);
    Ok(Json(shown(relay)))
}

fn tell(switch: &Switch, to: Position) {
    let domain = match switch {
        Switch::Hop(hop) => Some(hop.as_str()),
        Switch::Sending | Switch::Accepting => None,
    };
    match (switch, to) {
        (Switch::Sending | Switch::Hop(_), Position::Off(_)) => {
            tracing::warn!(
                event = "paused",
                domain,
                "nothing more is sent, by the operator's word"
            );
        }
        (Switch::Sending | Switch::Hop(_), Position::On) => {
            tracing::info!(event = "resumed", domain, "mail is sent again");
        }
        (Switch::Accepting, Position::Off(_)) => {
            tracing::warn!(event = "draining", "no new mail is taken, by the operator's word");
        }
        (Switch::Accepting, Position::On) => {
            tracing::info!(event = "accepting", "mail is taken again");
        }
    }
}

/// The state of all switches, as commands print it.
pub(super) fn shown(relay: &Relay) -> Value {
    json!(relay.switches.off().shown(&relay.config()))
}
