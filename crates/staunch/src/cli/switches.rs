//! `staunch pause`, `resume` and `drain`: they print what is switched off then.

use std::io::{Write as _, stdout};

use reqwest::Method;
use serde_json::Value;

use super::arguments::{Drain, OneHop};
use super::exit::{Exit, Failure};
use super::queue::print;
use crate::cli::admin_client::{AdminClient, read, with_door};
use crate::config::Loaded;
use crate::control::api::{SwitchStates, WhichHop};

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
        still_off(&read(&state)?).iter().try_for_each(|line| writeln!(out, "{line}"))?;
    }
    Ok(exit)
}

async fn turn(client: &AdminClient, verb: &str, command: &OneHop) -> Result<Value, Failure> {
    client.post(&["v1", verb], &WhichHop { domain: command.domain.clone() }).await
}

/// What whoever resumed one thing may believe to be over, too; and how to end it.
fn still_off(state: &SwitchStates) -> Vec<&'static str> {
    [
        (state.paused.is_some(), "Still paused, so nothing is sent: staunch resume"),
        (
            !state.paused_hops.is_empty(),
            "Still paused for the next hops above: staunch resume DOMAIN",
        ),
        (state.draining.is_some(), "Still draining, so no new mail is taken: staunch drain --off"),
    ]
    .into_iter()
    .filter_map(|(is_off, line)| is_off.then_some(line))
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
    use jiff::Timestamp;

    use super::*;
    use crate::control::api::PausedHop;

    #[test]
    fn who_resumes_one_thing_is_told_what_stays_off() {
        let since: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        assert!(still_off(&SwitchStates::default()).is_empty());
        let hop = PausedHop {
            domain: "a.test".to_owned(),
            since,
            next_hops: ["a.test".to_owned()].into(),
        };
        let off =
            SwitchStates { paused: Some(since), paused_hops: vec![hop], draining: Some(since) };
        let lines = still_off(&off);
        let commands: Vec<_> = lines.iter().filter_map(|line| line.split(": ").nth(1)).collect();
        assert_eq!(commands, ["staunch resume", "staunch resume DOMAIN", "staunch drain --off"]);
    }
}
