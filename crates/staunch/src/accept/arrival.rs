//! How a client came in: what is known of it before it says anything.

use std::fmt;
use std::net::IpAddr;

use policy::TlsVersion;

use super::doors::Door;
use super::fixups::Repair;
use super::listener::is_proxy;
use super::visitors::Standing;
use crate::config::{ClientInReceived, Config, ListenerMode, MissingHeaders};
use crate::place::Place;

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) enum Peer {
    /// A host: its address, or the one that a listed proxy gives for it.
    Remote(IpAddr),
    /// A process of this machine, through a unix socket; the system says whose.
    Local {
        /// The user's number.
        uid: u32,
    },
    /// A client that a listed proxy does not name, or the proxy itself: never trusted, since the address of the proxy says nothing about
    /// the clients behind it.
    Unnamed {
        /// Where the proxy is.
        proxy: Place,
    },
}

impl Peer {
    /// Where it is, for counting.
    pub(super) fn place(self) -> Place {
        match self {
            Self::Remote(address) => Place::of(address),
            Self::Local { uid } => Place::Local(uid),
            Self::Unnamed { proxy } => proxy,
        }
    }

    /// May it relay without logging in, where that is a question of where it is?
    ///
    /// Who can reach a unix socket was let in by the permissions of its path.
    pub(super) fn is_trusted(self, config: &Config) -> bool {
        match self {
            Self::Remote(address) => {
                config.access.networks.iter().any(|network| network.contains(address))
            }
            Self::Local { .. } => true,
            Self::Unnamed { .. } => false,
        }
    }

    /// May strangers fill its place?
    pub(super) fn standing(self, config: &Config) -> Standing {
        if self.is_trusted(config) { Standing::Trusted } else { Standing::Stranger }
    }
}

/// As the log has it: `192.0.2.1`, `uid 1000`, `unknown`.
impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Remote(address) => address.fmt(f),
            Self::Local { uid } => write!(f, "uid {uid}"),
            Self::Unnamed { .. } => f.write_str("unknown"),
        }
    }
}

/// A client at one of our doors.
#[derive(Clone, Debug)]
pub(super) struct Arrival {
    /// Who it is.
    pub(super) peer: Peer,
    /// The address that it connected to; a unix socket has none.
    pub(super) local: Option<IpAddr>,
    /// The door.
    pub(super) door: Door,
    /// What the door was for at that time.
    pub(super) mode: ListenerMode,
    /// Who connected: the same as `peer`, or a proxy that speaks for it.
    pub(super) knocked: Peer,
    /// Was that one to say for whom it speaks?
    pub(super) is_proxied: bool,
    /// What Received says of who has logged in.
    pub(super) client_in_received: ClientInReceived,
    /// How the connection is protected now; none: not at all.
    pub(super) tls: Option<TlsFacts>,
}

impl Arrival {
    /// Would the client come in the same way today? Else what is known of it was found out by rules that do
    /// not hold any more.
    pub(super) fn is_up_to_date(&self) -> bool {
        let today = self.door.entrance();
        !self.door.is_gone()
            && today.listener.mode == self.mode
            && is_proxy(self.knocked, &today) == self.is_proxied
    }

    /// What its messages get. Who may send through a listener in mode `relay` is trusted there.
    pub(super) fn repair(&self) -> Repair {
        match (self.door.entrance().listener.missing_headers, self.mode) {
            (MissingHeaders::Left, _) => Repair::Nothing,
            (MissingHeaders::Added, ListenerMode::Relay) => Repair::FirstHand,
            (MissingHeaders::Added, ListenerMode::Submission | ListenerMode::Submissions) => {
                Repair::Submitted
            }
        }
    }
}

/// What was agreed on with the client in a TLS handshake.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct TlsFacts {
    /// The protocol's version.
    pub(super) version: TlsVersion,
    /// The name of the cipher suite in IANA's registry, as RFC 8314 §4.3 wants it.
    pub(super) cipher: &'static str,
    /// What ties a login to this very connection: `tls-exporter` (RFC 9266 §2); TLS 1.3 only.
    pub(super) exporter: Option<[u8; 32]>,
}
