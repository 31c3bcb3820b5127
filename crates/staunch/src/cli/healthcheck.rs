//! `staunch healthcheck`: is the local daemon ready? If not, why?

use std::time::Duration;

use super::arguments::HealthCheck;
use super::exit::{Exit, Failure};
use super::queue::print;
use super::switches;
use crate::cli::admin_client::{read, with_door};
use crate::config::Loaded;
use crate::control::api::Readiness;

/// Our choice: whoever needs longer is not ready.
const TIMEOUT: Duration = Duration::from_secs(5);

pub(super) fn run(command: &HealthCheck, loaded: &Loaded) -> Result<Exit, Failure> {
    let format = command.json;
    let answer = with_door(&loaded.config.admin.socket, async |client| {
        let answer = tokio::time::timeout(TIMEOUT, client.state(&["readyz"])).await;
        let late = || Failure::new(Exit::Unavailable, "the daemon does not answer");
        answer.map_err(|_| late())?
    })?;
    let state: Readiness = read(&answer)?;
    // It has answered.
    if state.ready || command.live {
        return print(&answer, format);
    }
    if format.json {
        print(&answer, format)?;
    }
    Err(Failure::new(Exit::No, format!("not ready: {}", why_not(&state).join("; "))))
}

/// One clause for each thing that keeps new mail out.
fn why_not(state: &Readiness) -> Vec<String> {
    let mut why = Vec::new();
    let store = match state.store.as_str() {
        "good" => None,
        "disk_full" => Some("the disk has no room for results of deliveries"),
        "detached" => Some("queue.db was moved, removed or replaced"),
        "read_only" => Some("data_dir cannot be written"),
        _ => Some("the store is broken; a restart reads it anew"),
    };
    why.extend(store.map(str::to_owned));
    if state.switches.draining.is_some() {
        let lines = switches::in_words(&state.switches);
        why.extend(lines.into_iter().filter(|line| line.starts_with("Draining")));
    }
    if why.is_empty() {
        why.push(format!(
            "the disk of data_dir has {} MiB free, less than limits.disk_free_min",
            state.free_bytes >> 20
        ));
    }
    why
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn what_keeps_mail_out_is_said_in_words() {
        let state = |store: &str, draining: Value| {
            let state = json!({
                "ready": false, "store": store, "free_bytes": 5 << 20,
                "memory": { "lent": 0, "peak": 0, "limit": 1 }, "queued_messages": 0,
                "hostname": "relay.test", "clock_suspect": null, "complaints": [],
                "resolvers": [], "paused": null, "paused_hops": [], "draining": draining,
            });
            why_not(&read(&state).unwrap()).join("; ")
        };
        let cases = [
            (
                state("good", Value::Null),
                "the disk of data_dir has 5 MiB free, less than limits.disk_free_min",
            ),
            (state("read_only", Value::Null), "data_dir cannot be written"),
            (
                state("good", json!("2026-01-01T00:00:00Z")),
                "Draining since 2026-01-01 00:00:00Z: no new mail is taken. Undo: staunch drain --off",
            ),
        ];
        for (said, want) in cases {
            assert_eq!(said, want);
        }
    }
}
