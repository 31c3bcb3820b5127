//! Why mail, or a client, is not taken: one table of reasons and answers.

use std::borrow::Cow;

use smtp::data::Fault;
use smtp::{Response, Status};
use tracing::info;

use super::arrival::Peer;

/// A refusal that this side decides. What is wrong with a command's form, the session answers itself.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Refusal {
    /// `limits.connections` or `limits.connections_per_client`.
    TooManyConnections,
    /// The client is in none of `access.networks`.
    RelayDenied,
    /// `limits.recipients`.
    TooManyRecipients,
    /// The recipient's domain is an address: such mail has no policy to be protected by.
    AddressLiteral,
    /// Mail for our postmaster, and nobody said who that is.
    NoPostmaster,
    /// The guarantees of `limits.memory` are used up.
    NoMemory,
    /// The operator is emptying the relay.
    Draining,
    /// The queue takes nothing now.
    NotNow(Response),
    /// The body could not be written.
    NotWritten,
    /// It came through here, or elsewhere, too often.
    MailLoop,
    /// The session refused the content already.
    Content(Fault),
}

impl Refusal {
    /// The word for logs and metrics; part of the interface, see `docs/operations.md`.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::TooManyConnections => "too_many_connections",
            Self::RelayDenied => "relay_denied",
            Self::TooManyRecipients => "too_many_recipients",
            Self::AddressLiteral => "address_literal_refused",
            Self::NoPostmaster => "no_postmaster",
            Self::NoMemory => "memory_exhausted",
            Self::Draining => "draining",
            Self::NotNow(_) | Self::NotWritten => "local_error",
            Self::MailLoop => "mail_loop",
            Self::Content(Fault::TooLarge) => "size_exceeded",
            Self::Content(Fault::LineTooLong) => "line_too_long",
            Self::Content(Fault::Nul) => "nul_in_content",
            Self::Content(Fault::BareCr | Fault::BareLf) => "bare_newline",
        }
    }

    /// The answer.
    pub(super) fn response(&self) -> Response {
        let (code, status, text) = match self {
            Self::TooManyConnections => (421, Status::transient(7, 0), "Too many connections"),
            Self::RelayDenied => (550, Status::permanent(7, 1), "Relaying denied"),
            Self::TooManyRecipients => (452, Status::transient(5, 3), "Too many recipients"),
            Self::AddressLiteral => {
                (550, Status::permanent(1, 3), "Address literals are not relayed to")
            }
            Self::NoPostmaster => (
                550,
                Status::permanent(1, 1),
                "No postmaster: aliases.postmaster is not configured",
            ),
            Self::NoMemory => (452, Status::transient(3, 1), "Out of memory, try again later"),
            Self::Draining => {
                (451, Status::transient(3, 2), "No new mail for now: this relay is being emptied")
            }
            Self::NotNow(response) => return response.clone(),
            Self::NotWritten => {
                (452, Status::transient(3, 1), "The message could not be stored, try again later")
            }
            Self::MailLoop => (554, Status::permanent(4, 6), "Too many Received fields: mail loop"),
            Self::Content(fault) => return fault.response(),
        };
        Response::new(code, status, Cow::Borrowed(text))
    }

    /// The one line that the log has for it.
    pub(super) fn log(&self, client: Peer, sender: Option<&str>, recipient: Option<&str>) {
        let response = self.response();
        let status = response.status().map(|status| status.to_string());
        info!(
            event = "rejected",
            reason = self.reason(),
            status,
            code = response.code(),
            %client,
            sender,
            recipient,
            "{}",
            response.text()
        );
    }
}
