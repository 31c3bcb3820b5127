//! Why DNS said nothing, and whether it is asked anew.

use std::sync::Arc;

use smtp::RemoteText;

/// May an answer come from our cache?
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Freshness {
    /// Yes, while its TTL lasts.
    Cached,
    /// No: a decision that ends something hangs on it (RFC 8461 §8.1).
    Fresh,
}

/// A query that got no conclusive answer.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{query}: {kind}: {text} (asked {servers})")]
pub(crate) struct DnsFailure {
    /// Type and name, as in `MX example.com`.
    pub(crate) query: String,
    /// Time-out, SERVFAIL and so on, as data.
    pub(crate) kind: DnsFailureKind,
    /// What the server or the system said, for log and DSN.
    pub(crate) text: RemoteText,
    /// The servers that were there to ask.
    pub(crate) servers: Arc<str>,
}

/// Why a query got no conclusive answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum DnsFailureKind {
    /// Nobody answered in time.
    #[error("timed out")]
    Timeout,
    /// The server could not find out.
    #[error("SERVFAIL")]
    ServFail,
    /// The server does not serve us.
    #[error("REFUSED")]
    Refused,
    /// The signatures are wrong.
    #[error("DNSSEC validation failed")]
    Bogus,
    /// No server could be reached at all: our trouble, not the domain's.
    #[error("no name server reachable")]
    Unreachable,
    /// An answer that answers nothing.
    #[error("unusable answer")]
    Other,
}

/// The resolver cannot be set up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DnsSetupError {
    /// `dns.servers` is empty and the system has none either.
    #[error("dns.servers: {0}")]
    System(String),
    /// hickory could not be set up.
    #[error("dns: {0}")]
    Setup(String),
}
