//! What a fetch brings, or why it brings nothing.

use std::net::IpAddr;

use jiff::Timestamp;
use smtp::{HostName, RemoteText};

use crate::dns::DnsFailure;

/// The text that a policy host served.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Fetched {
    /// The body, whole: at most 64 KiB.
    pub(crate) body: Vec<u8>,
    /// What the host thinks the time is.
    pub(crate) date: Option<Timestamp>,
    /// The address that the text came from, if the system knows it.
    pub(crate) address: Option<IpAddr>,
}

/// Why there is no policy text, by the step that failed.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum FetchError {
    /// Too many fetches, in all or for this owner, for as long as one may take. Our choice.
    #[error("too many policy fetches are running")]
    Busy,
    /// The name could not be resolved.
    #[error("{0}")]
    Dns(DnsFailure),
    /// The name has no address.
    #[error("{0} has no address")]
    NoAddress(HostName),
    /// All addresses are off limits.
    #[error("{host}: address {address} is forbidden (delivery.allow_addresses)")]
    Forbidden {
        /// The policy host, `mta-sts.` and the domain.
        host: HostName,
        /// One of its addresses.
        address: IpAddr,
    },
    /// TCP did not connect.
    #[error("connect: {0}")]
    Connect(RemoteText),
    /// The handshake failed, but not for the certificate.
    #[error("TLS: {0}")]
    Tls(RemoteText),
    /// The certificate is not valid for the policy host (RFC 8461 §3.3).
    #[error("certificate: {0}")]
    Certificate(RemoteText),
    /// Anything but 200, redirects too.
    #[error("HTTP status {0}")]
    Status(u16),
    /// Not `text/plain` (RFC 8461 §3.2).
    #[error("content type {0}, not text/plain")]
    ContentType(RemoteText),
    /// More header or body than is read.
    #[error("the answer is too large")]
    TooLarge,
    /// Slower than `mta_sts.fetch_timeout`, or to connect than half of it.
    #[error("timed out")]
    Timeout,
    /// The connection ended before the body did.
    #[error("the answer is cut off")]
    Truncated,
    /// Not HTTP, or not as it should be.
    #[error("HTTP: {0}")]
    Http(RemoteText),
}
