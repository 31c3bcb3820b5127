//! What a listener is for, as a client that came through it sees it.

use std::sync::Arc;

use tokio::sync::watch;

use super::certificates::Certificate;
use super::peer::Peer;
use crate::config::Listener;

/// What a listener is for.
#[derive(Clone, Debug)]
pub(super) struct ListenerView {
    pub(super) listener: Listener,
    pub(super) certificate: Option<Arc<Certificate>>,
}

impl ListenerView {
    /// Is there a certificate to begin TLS with?
    pub(super) fn can_secure(&self) -> bool {
        self.certificate.as_ref().is_some_and(|certificate| certificate.shown().is_some())
    }
}

/// The listener that a client came through, as it is now.
#[derive(Clone, Debug)]
pub(super) struct OpenListener(pub(super) watch::Receiver<Arc<ListenerView>>);

impl OpenListener {
    /// What it is for; once it is gone, what it was for at last.
    pub(super) fn view(&self) -> Arc<ListenerView> {
        Arc::clone(&self.0.borrow())
    }

    /// Has the configuration no such listener any more?
    pub(super) fn is_gone(&self) -> bool {
        self.0.has_changed().is_err()
    }
}

/// Will `peer` say first for whom it speaks?
pub(super) fn is_proxy(peer: Peer, view: &ListenerView) -> bool {
    match peer {
        Peer::Remote(address) => {
            view.listener.proxy_protocol_from.iter().any(|proxy| proxy.contains(address))
        }
        Peer::Local { .. } | Peer::Unnamed { .. } => false,
    }
}
