//! Who is at the other end of a connection, and how it is protected.

use std::fmt;
use std::net::IpAddr;

use policy::TlsVersion;

use crate::config::Config;
use crate::place::ClientPlace;

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) enum Peer {
    /// A host: its address, or the one that a listed proxy gives for it.
    Remote(IpAddr),
    /// A process of this machine, through a unix socket; the system says whose.
    Local {
        /// The user id of the process, as the kernel gives it for the socket.
        uid: u32,
    },
    /// A client that a listed proxy does not name, or the proxy itself: never trusted, since the
    /// address of the proxy says nothing about the clients behind it.
    Unnamed {
        /// Where the proxy is.
        proxy: ClientPlace,
    },
}

impl Peer {
    /// Where it is, for counting.
    pub(super) fn place(self) -> ClientPlace {
        match self {
            Self::Remote(address) => ClientPlace::of(address),
            Self::Local { uid } => ClientPlace::Local(uid),
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
    pub(super) fn standing(self, config: &Config) -> ClientTrust {
        if self.is_trusted(config) { ClientTrust::Trusted } else { ClientTrust::Stranger }
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

/// Does it matter to us whether this client finds a place?
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum ClientTrust {
    /// It may relay without logging in.
    Trusted,
    /// Anybody else; a tenth of all places is kept from it.
    Stranger,
}

/// What was agreed on with the client in a TLS handshake.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct TlsFacts {
    pub(super) version: TlsVersion,
    /// The name of the cipher suite in IANA's registry, as RFC 8314 §4.3 wants it.
    pub(super) cipher: &'static str,
    /// What ties a login to this very connection: `tls-exporter` (RFC 9266 §2); TLS 1.3 only.
    pub(super) exporter: Option<[u8; 32]>,
}
