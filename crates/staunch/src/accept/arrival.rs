//! How a client came in: what is known of it before it says anything.

use std::net::IpAddr;

use super::fixups::Repair;
use super::peer::{Peer, TlsFacts};
use crate::accept::listener_view::{OpenListener, is_proxy};
use crate::config::{ClientInReceived, ListenerMode, MissingHeaders};

/// A client at one of our listeners.
#[derive(Clone, Debug)]
pub(super) struct ClientArrival {
    /// The client itself, also where a proxy connects for it.
    pub(super) peer: Peer,
    /// Its port; over a unix socket it has none.
    pub(super) port: Option<u16>,
    /// The address that it connected to; a unix socket has none.
    pub(super) local: Option<IpAddr>,
    pub(super) listener: OpenListener,
    /// What the listener was for at that time.
    pub(super) mode: ListenerMode,
    /// Who connected: the same as `peer`, or a proxy that speaks for it.
    pub(super) connected_by: Peer,
    /// Was that one to say for whom it speaks?
    pub(super) is_proxied: bool,
    /// What Received says of who has logged in.
    pub(super) client_in_received: ClientInReceived,
    /// How the connection is protected now; none: not at all.
    pub(super) tls: Option<TlsFacts>,
}

impl ClientArrival {
    /// Would the client come in the same way today? Else what is known of it was found out by rules
    /// that do not hold any more.
    pub(super) fn is_up_to_date(&self) -> bool {
        let today = self.listener.view();
        !self.listener.is_gone()
            && today.listener.mode == self.mode
            && is_proxy(self.connected_by, &today) == self.is_proxied
    }

    /// What its messages get. Who may send through a listener in mode `relay` is trusted there.
    pub(super) fn repair(&self) -> Repair {
        match (self.listener.view().listener.missing_headers, self.mode) {
            (MissingHeaders::Left, _) => Repair::Nothing,
            (MissingHeaders::Added, ListenerMode::Relay) => Repair::FirstHand,
            (MissingHeaders::Added, ListenerMode::Submission | ListenerMode::Submissions) => {
                Repair::Submitted
            }
        }
    }
}
