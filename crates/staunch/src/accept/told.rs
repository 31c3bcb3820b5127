//! The dialogue with a client, for a log that shows it.

use smtp::RemoteText;
use smtp::server::Session;

use super::peer::Peer;
use crate::accept::facts::AcceptFact;

/// Where [`AcceptFact`] logs.
const LOG_PART: &str = "staunch::accept::facts";

/// Is a dialogue shown at all now? Otherwise it is not even written down.
pub(super) fn is_shown() -> bool {
    tracing::enabled!(target: LOG_PART, tracing::Level::DEBUG)
}

/// The commands that the session has read since the last look.
pub(super) fn commands(peer: Peer, session: &mut Session) {
    for line in session.take_lines() {
        AcceptFact::CommandReceived { peer, line: &line }.tell();
    }
}

/// The replies that are about to be written, without challenges.
pub(super) fn replies(peer: Peer, session: &Session) {
    if !is_shown() {
        return;
    }
    for line in String::from_utf8_lossy(session.output()).lines() {
        let line = if line.starts_with("334") { "334 (a message of AUTH)" } else { line };
        AcceptFact::ReplySent { peer, line: &RemoteText::new(line) }.tell();
    }
}
