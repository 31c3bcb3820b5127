//! `staunch healthcheck`: is the local daemon ready?

use std::time::Duration;

use super::arguments::Json;
use super::exit::{Exit, Failure};
use super::queue::print;
use crate::cli::admin_client::with_door;
use crate::config::Loaded;

/// Our choice: whoever needs longer is not ready.
const TIMEOUT: Duration = Duration::from_secs(5);

pub(super) fn run(format: Json, loaded: &Loaded) -> Result<Exit, Failure> {
    let ready = with_door(&loaded.config.admin.socket, async |client| {
        let answer = tokio::time::timeout(TIMEOUT, client.get(&["readyz"], &[])).await;
        let late = || Failure::new(Exit::Unavailable, "the daemon does not answer");
        answer.map_err(|_| late())?
    });
    match ready {
        Ok(body) => print(&body, format),
        // "Not ready" is an answer, whatever its status.
        Err(failure) if failure.exit == Exit::Unavailable => Err(failure),
        Err(failure) => Err(Failure::new(Exit::No, failure.text)),
    }
}
