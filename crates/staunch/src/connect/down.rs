//! A host that lets nobody in, as one attempt found out for all.

use std::sync::Arc;
use std::time::Duration;

use smtp::RemoteText;

use crate::connect::{ConnectFailure, PoolKey};
use crate::telemetry::Problem;

/// Nobody is let in there.
#[derive(Clone, Debug)]
pub(crate) struct DownHost {
    /// Where, and as whom.
    pub(crate) key: Arc<PoolKey>,
    /// What happened to who asked last.
    pub(crate) failure: Arc<ConnectFailure>,
    /// How long ago, if that was other mail.
    pub(crate) known_for: Option<Duration>,
}

impl DownHost {
    /// The failure in words, with its age if other mail found it.
    pub(crate) fn problem(&self) -> Problem {
        let problem = self.failure.problem();
        let Some(known_for) = self.known_for else { return problem };
        let seconds = known_for.as_secs();
        let text = format!("{}; other mail found that {seconds} s ago", problem.text);
        Problem { text: RemoteText::new(&text), ..problem }
    }
}
