//! What happens where mail comes in.

use std::io;
use std::path::Path;

use jiff::Timestamp;
use smtp::command::ClientName;
use smtp::params::OriginalRecipient;
use smtp::{Mailbox, RemoteText, Response};
use spool::{LaneKey, MessageId, NewRecipient, StoreError};

use crate::accept::peer::Peer;
use crate::auth::users::UserName;
use crate::config::ListenAddress;
use crate::delivery::route;
use crate::facts::facts;

/// A recipient of a message that came just now.
#[derive(Debug)]
pub(super) struct LoggedRecipient {
    mailbox: Mailbox,
    original: Option<OriginalRecipient>,
    lane: LaneKey,
}

impl From<&NewRecipient> for LoggedRecipient {
    fn from(recipient: &NewRecipient) -> Self {
        Self {
            mailbox: recipient.mailbox.clone(),
            original: recipient.options.originals.first().cloned(),
            lane: recipient.lane.clone(),
        }
    }
}

impl LoggedRecipient {
    fn next_hop(&self) -> &str {
        route::hop_of(&self.lane)
    }
}

facts! {
    /// A fact about mail that comes in.
    pub(super) enum AcceptFact<'a> {
        /// A listener takes connections.
        Listening { address: String } => info!(event = "listening", address, "accepting mail"),

        /// A listener takes none any more: it is not in the configuration.
        ListeningEnded { address: &'a ListenAddress } => info!(
            event = "listening_ended",
            %address,
            "takes no new connections"
        ),

        /// A listener's socket keeps the mode it had.
        SocketModeKept { path: &'a Path, socket_mode: u32, error: &'a io::Error } => warn!(
            event = "config_complaint",
            key = "listener.address",
            "{}: cannot become mode {socket_mode:o}, restart: {error}", path.display()
        ),

        /// The system gave no new connection.
        AcceptFailed { error: &'a io::Error } => warn!(
            event = "accept_failed",
            reason = "local_error",
            %error,
            "no new connection"
        ),

        /// A listed proxy did not say for which client it speaks.
        ProxyFailed { proxy: Peer, error: &'a io::Error } => warn!(
            event = "proxy_failed",
            client = %proxy,
            %error,
            "a listed proxy did not send a PROXY header; closed"
        ),

        /// A client did not come to terms about TLS.
        HandshakeFailed { peer: Peer, error: &'a RemoteText } => info!(
            event = "handshake_failed",
            client = %peer,
            %error,
            "no TLS with this client"
        ),

        /// A client gives a command. Never a secret.
        CommandReceived { peer: Peer, line: &'a RemoteText } => debug!(
            event = "smtp_received",
            client = %peer,
            "{line}"
        ),

        /// A client is answered.
        ReplySent { peer: Peer, line: &'a RemoteText } => debug!(
            event = "smtp_sent",
            client = %peer,
            "{line}"
        ),

        /// A connection ended by itself.
        ConnectionLost { peer: Peer, error: &'a RemoteText } => debug!(
            event = "connection_lost",
            client = %peer,
            %error,
            "the client is gone"
        ),

        /// A client did not end its transaction: how large messages that do not come through are
        /// found.
        ClientLost {
            how: &'static str,
            peer: Peer,
            sender: Option<&'a str>,
            recipients: usize,
            octets: Option<u64>,
        } => info!(
            event = "client_lost",
            how,
            client = %peer,
            sender,
            recipients,
            octets,
            "the client is gone in the midst of a transaction, of which nothing was taken"
        ),

        /// A client is taken although it leaves the brackets out.
        NoBrackets { peer: Peer } => info!(
            event = "no_brackets",
            client = %peer,
            "MAIL FROM or RCPT TO without < >: taken, but not every server does"
        ),

        /// A client was told no.
        Rejected {
            reason: &'a str,
            response: &'a Response,
            client: Peer,
            sender: Option<&'a str>,
            recipient: Option<&'a str>,
        } => info!(
            event = "rejected",
            reason,
            status = response.status().map(|status| status.to_string()),
            code = response.code(),
            %client,
            sender,
            recipient,
            "{}", response.text()
        ),

        /// A login that failed, or that was not tried.
        LoginFailed {
            reason: &'static str, user: &'a str, peer: Peer, response: &'a Response,
        } => info!(
            event = "login_failed",
            reason,
            user = %RemoteText::new(user),
            client = %peer,
            code = response.code(),
            status = response.status().map(|status| status.to_string()),
            "{}", response.text()
        ),

        /// A message is stored for a recipient, and its client gets 250.
        Accepted {
            message: MessageId,
            sender: &'a str,
            recipient: &'a LoggedRecipient,
            recipients: usize,
            size: u64,
            header_message_id: Option<&'a RemoteText>,
            peer: Peer,
            client_port: Option<u16>,
            tls_version: Option<&'static str>,
            helo: Option<&'a ClientName>,
            protocol: &'static str,
            user: Option<&'a UserName>,
        } => info!(
            event = "accepted",
            message_id = %message,
            sender,
            recipient = %recipient.mailbox,
            original_recipient = recipient.original.as_ref().map(|it| display(it.address())),
            recipients,
            next_hop = %recipient.next_hop(),
            size,
            header_message_id = header_message_id.map(display),
            client = %peer,
            client_port,
            helo = helo.map(display),
            protocol,
            user = user.map(display),
            tls_version,
            "on stable storage"
        ),

        /// A message is stored, and is not sent: its sender has sent too much.
        HeldForRate { message: MessageId, sender: &'a str, recipients: usize } => info!(
            event = "held",
            message_id = %message,
            reason = "held",
            sender,
            recipients,
            "over limits.recipients_per_sender_per_hour: waits for staunch queue release"
        ),

        /// The store did not take a message's content.
        NotWritten { error: &'a StoreError } => error!(
            event = "store_failed",
            %error,
            "a message could not be written"
        ),

        /// Clients get another certificate from now on.
        CertificateLoaded { file: &'a Path, expires_at: Timestamp } => info!(
            event = "certificate_loaded",
            file = %file.display(),
            %expires_at,
            "clients are shown a new certificate"
        ),

        /// A certificate of ours ends.
        CertificateExpiring { file: &'a Path, expires_at: Timestamp } => warn!(
            event = "alarm",
            reason = "certificate_expiring",
            file = %file.display(),
            %expires_at,
            "a certificate of ours ends soon, or has ended: renew it"
        ),

        /// A certificate of ours cannot be used.
        CertificateUnusable { text: &'a str, instead: &'static str } => error!(
            event = "alarm",
            reason = "certificate_unusable",
            "{text}; {instead}"
        ),

        /// Looking at the files of certificates ended in a bug of ours.
        CertificatesPanicked => error!(event = "bug", "looking at certificates panicked"),
    }
}
