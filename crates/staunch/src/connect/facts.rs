//! What is said on connections to hosts, and what we make of the system's trust anchors.

use std::net::SocketAddr;

use smtp::{Domain, RemoteText, Reply};

use crate::facts::facts;

facts! {
    /// A fact about connections.
    pub(super) enum ConnectFact<'a> {
        /// A command goes to a host. Never a secret.
        Sent { host: Option<&'a Domain>, address: SocketAddr, line: &'a RemoteText } => debug!(
            event = "smtp_sent",
            mx = host.map(display),
            %address,
            "{line}"
        ),

        /// Content goes to a host, which the log does not show.
        ContentSent { host: Option<&'a Domain>, address: SocketAddr, octets: usize } => debug!(
            event = "smtp_sent",
            mx = host.map(display),
            %address,
            octets,
            "(content)"
        ),

        /// A host answers.
        Received { host: Option<&'a Domain>, address: SocketAddr, reply: &'a Reply } => debug!(
            event = "smtp_received",
            mx = host.map(display),
            %address,
            "{reply}"
        ),

        /// A file of them cannot be read.
        AnchorsUnreadable { error: &'a rustls_native_certs::Error } => warn!(
            event = "trust_anchors",
            %error,
            "some of the system's trust anchors are unreadable"
        ),

        /// Some of them are no certificates that could be an anchor.
        AnchorsUnusable { bad: usize } => warn!(
            event = "trust_anchors",
            bad,
            "some of the system's trust anchors are unusable"
        ),
    }
}
