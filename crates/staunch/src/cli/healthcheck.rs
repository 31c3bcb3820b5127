//! `staunch healthcheck`: is the local daemon ready? If not, why?

use std::time::Duration;

use super::arguments::HealthCheck;
use super::exit::{Exit, Failure};
use super::output::time_cell;
use super::queue::print;
use crate::cli::admin_client::{read, with_client};
use crate::config::Loaded;
use crate::control::api::{NotReady, Readiness, StoreState};

/// Our choice: whoever needs longer is not ready.
const TIMEOUT: Duration = Duration::from_secs(5);

pub(super) fn run(command: &HealthCheck, loaded: &Loaded) -> Result<Exit, Failure> {
    let format = command.json;
    let answer = with_client(&loaded.config.admin.socket, async |client| {
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
    let clause = |why: &NotReady| match why {
        NotReady::Store => store_in_words(state.store).to_owned(),
        NotReady::Queue => "the queue ended in a bug; a restart reads it anew".to_owned(),
        NotReady::DiskSpace => format!(
            "the disk of data_dir has {} MiB free, less than limits.disk_free_min",
            state.free_bytes >> 20
        ),
        NotReady::Draining => {
            let since = state.switches.draining.map_or_else(|| "-".to_owned(), time_cell);
            format!("draining since {since}; undo: staunch drain --off")
        }
    };
    state.not_ready.iter().map(clause).collect()
}

const fn store_in_words(store: StoreState) -> &'static str {
    match store {
        StoreState::Good => "the store works",
        StoreState::DiskFull => "the disk has no room for results of deliveries",
        StoreState::Detached => "queue.db was moved, removed or replaced",
        StoreState::ReadOnly => "data_dir cannot be written",
        StoreState::Poisoned => "the store is broken; a restart reads it anew",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn what_keeps_mail_out_is_said_in_words() {
        let state = |store: &str, not_ready: Value, draining: Value| {
            let state = json!({
                "ready": false, "not_ready": not_ready, "store": store, "free_bytes": 5 << 20,
                "memory": { "lent": 0, "peak": 0, "limit": 1 }, "queued_messages": 0,
                "hostname": "relay.test", "clock_suspect": null, "complaints": [],
                "resolvers": [], "paused": null, "paused_hops": [], "draining": draining,
            });
            why_not(&read(&state).unwrap()).join("; ")
        };
        let since = json!("2026-01-01T00:00:00Z");
        let cases = [
            (
                state("good", json!(["disk_space"]), Value::Null),
                "the disk of data_dir has 5 MiB free, less than limits.disk_free_min",
            ),
            (
                state("good", json!(["queue"]), Value::Null),
                "the queue ended in a bug; a restart reads it anew",
            ),
            (
                state("read_only", json!(["store", "draining"]), since),
                "data_dir cannot be written; draining since 2026-01-01 00:00:00Z; undo: staunch drain --off",
            ),
        ];
        for (said, want) in cases {
            assert_eq!(said, want);
        }
    }
}
