//! `staunch pause`, `resume` and `drain`: they print what is switched off then.

use std::io::{Write as _, stdout};

use reqwest::Method;
use serde_json::{Value, json};

use super::arguments::{Drain, OneHop};
use super::exit::{Exit, Failure};
use super::queue::print;
use crate::cli::admin_client::{AdminClient, with_door};
use crate::config::Loaded;

pub(super) fn pause(command: &OneHop, loaded: &Loaded) -> Result<Exit, Failure> {
    let state = with_door(&loaded.config.admin.socket, async |client| {
        turn(&client, "pause", command).await
    })?;
    print(&state, command.json)
}

pub(super) fn resume(command: &OneHop, loaded: &Loaded) -> Result<Exit, Failure> {
    let state = with_door(&loaded.config.admin.socket, async |client| {
        turn(&client, "resume", command).await
    })?;
    let exit = print(&state, command.json)?;
    if !command.json.json {
        let mut out = stdout().lock();
        still_off(&state).iter().try_for_each(|line| writeln!(out, "{line}"))?;
    }
    Ok(exit)
}

async fn turn(client: &AdminClient, verb: &str, command: &OneHop) -> Result<Value, Failure> {
    client.post(&["v1", verb], &json!({ "domain": command.domain })).await
}

/// What whoever resumed one thing may believe to be over, too; and how to end it.
fn still_off(state: &Value) -> Vec<&'static str> {
    let is_off = |name: &str| match state.get(name) {
        Some(Value::Array(hops)) => !hops.is_empty(),
        Some(since) => !since.is_null(),
        None => false,
    };
    [
        ("paused", "Still paused, so nothing is sent: staunch resume"),
        ("paused_hops", "Still paused for the next hops above: staunch resume DOMAIN"),
        ("draining", "Still draining, so no new mail is taken: staunch drain --off"),
    ]
    .into_iter()
    .filter(|(name, _)| is_off(name))
    .map(|(_, line)| line)
    .collect()
}

pub(super) fn drain(command: &Drain, loaded: &Loaded) -> Result<Exit, Failure> {
    let method = if command.off { Method::DELETE } else { Method::POST };
    let state = with_door(&loaded.config.admin.socket, async |client| {
        client.act(method, &["v1", "drain"]).await
    })?;
    print(&state, command.json)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_resumes_hears_what_stays_off() {
        let since = "2026-01-01T00:00:00Z";
        let on = json!({ "paused": null, "paused_hops": [], "draining": null });
        assert!(still_off(&on).is_empty());
        let hops = json!([{ "domain": "a.test", "since": since, "next_hops": ["a.test"] }]);
        let off = json!({ "paused": since, "paused_hops": hops, "draining": since });
        let lines = still_off(&off);
        let commands: Vec<_> = lines.iter().filter_map(|line| line.split(": ").nth(1)).collect();
        assert_eq!(commands, ["staunch resume", "staunch resume DOMAIN", "staunch drain --off"]);
    }
}
