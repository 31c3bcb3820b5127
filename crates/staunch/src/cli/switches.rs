//! `staunch pause`, `resume` and `drain`: they print what is switched off then.

use reqwest::Method;
use serde_json::json;

use super::arguments::{Drain, OneHop};
use super::door::{Door, with_door};
use super::exit::{Exit, Failure};
use super::queue::print;
use crate::config::Loaded;

pub(super) fn pause(command: &OneHop, loaded: &Loaded) -> Result<Exit, Failure> {
    with_door(&loaded.config.admin.socket, async |door| turn(&door, "pause", command).await)
}

pub(super) fn resume(command: &OneHop, loaded: &Loaded) -> Result<Exit, Failure> {
    with_door(&loaded.config.admin.socket, async |door| turn(&door, "resume", command).await)
}

async fn turn(door: &Door, verb: &str, command: &OneHop) -> Result<Exit, Failure> {
    let state = door.post(&["v1", verb], &json!({ "domain": command.domain })).await?;
    print(&state, command.json)
}

pub(super) fn drain(command: &Drain, loaded: &Loaded) -> Result<Exit, Failure> {
    let method = if command.off { Method::DELETE } else { Method::POST };
    let state = with_door(&loaded.config.admin.socket, async |door| {
        door.act(method, &["v1", "drain"]).await
    })?;
    print(&state, command.json)
}
