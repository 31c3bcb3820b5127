//! Clients at a listener: each gets a place and a task, or is told that there is none.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::bind::Acceptor;
use super::peer::Peer;
use super::refusal::ClientRefusal;
use super::session::{self, AcceptedClient};
use super::shared::SessionsShared;
use super::stream::Socket;
use crate::accept::facts::AcceptFact;
use crate::accept::listener_view::{OpenListener, is_proxy};
use crate::config::ListenerMode;

/// The rest after the system had no descriptor or memory for a new connection.
const ACCEPT_REST: Duration = Duration::from_secs(1);
/// How long a listener that closes still looks for those whom the system let in already. From the
/// beginning: whoever keeps coming must not keep it open.
const LAST_LOOK: Duration = Duration::from_millis(10);

/// What all listeners share.
#[derive(Clone, Debug)]
pub(super) struct ListenerSite {
    pub(super) shared: Arc<SessionsShared>,
    /// Of the sessions, which end by themselves.
    pub(super) tracker: TaskTracker,
    pub(super) stop: CancellationToken,
}

/// Lets clients in until `close`; then the socket closes.
pub(super) async fn listen(
    acceptor: Acceptor,
    listener: OpenListener,
    site: ListenerSite,
    close: CancellationToken,
) {
    while let Some(accepted) = close.run_until_cancelled(acceptor.accept()).await {
        if !site.welcome(accepted, &listener) {
            let _closed = close.run_until_cancelled(sleep(ACCEPT_REST)).await;
        }
    }
    if !site.stop.is_cancelled() {
        let end = Instant::now() + LAST_LOOK;
        // The clock is asked by itself: a time-out looks whether somebody is there before it looks
        // at the clock.
        while Instant::now() < end
            && let Ok(accepted) = timeout_at(end, acceptor.accept()).await
        {
            if !site.welcome(accepted, &listener) {
                return;
            }
        }
    }
}

impl ListenerSite {
    /// `false` if the system has no room for a connection, and trying again at once is of no use.
    fn welcome(&self, accepted: io::Result<(Socket, Peer)>, listener: &OpenListener) -> bool {
        match accepted {
            Ok((socket, peer)) => {
                if let Some(accepted) = self.admit(socket, peer, listener) {
                    let (shared, stop) = (Arc::clone(&self.shared), self.stop.clone());
                    self.tracker.spawn(session::run(accepted, shared, stop));
                }
                true
            }
            // It went away while it waited; the next one has not.
            Err(error) if error.kind() == ErrorKind::ConnectionAborted => true,
            Err(error) => {
                AcceptFact::AcceptFailed { error: &error }.tell();
                false
            }
        }
    }

    /// Has one more client a place? If not, it is told so.
    fn admit(&self, socket: Socket, peer: Peer, listener: &OpenListener) -> Option<AcceptedClient> {
        let view = listener.view();
        let config = self.shared.config();
        let client_limits = &self.shared.client_limits;
        let slot = if is_proxy(peer, &view) {
            client_limits.enter_unnamed(&config.limits)
        } else {
            client_limits.enter(peer, peer.standing(&config), &config.limits)
        };
        if slot.is_none() {
            ClientRefusal::TooManyConnections.log(peer, None, None);
            match view.listener.mode {
                ListenerMode::Relay | ListenerMode::Submission => {
                    // A new socket has room for a line; whoever does not get it sees the connection
                    // end.
                    let text = ClientRefusal::TooManyConnections.response().to_string();
                    let _told = socket.try_write(text.as_bytes());
                }
                // It waits for TLS, which would cost more than it may.
                ListenerMode::Submissions => {}
            }
        }
        let listener = listener.clone();
        slot.map(|slot| AcceptedClient { socket, peer, listener, view, slot })
    }
}
