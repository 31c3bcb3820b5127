//! What did the connection show?
//!
//! Evidence only. Whoever makes an [`Observed`] judges nothing; [`crate::AuthorizedMx::admit`]
//! does, again for every mail, so a connection from the pool is judged by today's requirement and
//! clock.

use smtp::Domain;

use crate::chain::Chain;

/// The protection that a connection has.
#[derive(Clone, Debug)]
pub enum Observed {
    /// No TLS, whether it was not offered or did not succeed.
    Plain,
    /// TLS, begun before any mail command.
    Tls(ObservedTls),
}

/// What the TLS handshake showed.
#[derive(Clone, Debug)]
pub struct ObservedTls {
    /// The certificates as the peer sent them, its own first. Also kept when a session is resumed.
    pub chain: Chain,
    /// Did the peer sign the handshake with the first certificate's key? Without this the chain
    /// could be anybody's, replayed.
    pub possession_proven: bool,
    /// The version of TLS that was negotiated.
    pub version: TlsVersion,
    /// The key exchange, by its name in the IANA registry of TLS supported groups where we know it.
    /// For people; nothing is decided by it.
    pub group: Option<&'static str>,
    /// The host that we meant to reach: what SNI said, where it is a name.
    pub server_name: Domain,
    /// Did the answer to EHLO *under this TLS* offer REQUIRETLS (RFC 8689 §2)? What came before TLS
    /// anybody could have written.
    pub offers_require_tls: bool,
}

/// TLS versions that may carry mail. Older ones cannot be expressed (RFC 8996).
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum TlsVersion {
    /// TLS 1.2 (RFC 5246).
    Tls12,
    /// TLS 1.3 (RFC 8446).
    Tls13,
}

impl TlsVersion {
    /// As logs show it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tls12 => "1.2",
            Self::Tls13 => "1.3",
        }
    }
}
