//! Why mail, or a client, is not taken: one table of reasons and answers.

use std::borrow::Cow;

use smtp::command::CommandError;
use smtp::data::Fault;
use smtp::{Response, Status};

use super::peer::Peer;
use crate::accept::facts::AcceptFact;

/// A refusal that this side decides. What is wrong with a command's form, the session answers
/// itself.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum ClientRefusal {
    /// One more than `limits.connections` or `limits.connections_per_client` lets in.
    TooManyConnections,
    /// The client spoke before it was greeted.
    EarlyTalker,
    /// The client speaks TLS before the greeting, where the protocol begins in clear text.
    TlsInClear,
    /// The client spoke after STARTTLS and before the handshake.
    SpokeBeforeTls,
    /// The listener that the client came through is another one now, or gone.
    ListenerChanged,
    /// The client is in none of `access.networks`, and has not logged in.
    RelayDenied,
    /// Name or password is wrong; which of them is not said.
    LoginFailed,
    /// Too many wrong logins from there.
    TooManyLogins,
    /// Too many logins are being checked.
    LoginBusy,
    /// The user was removed, or has another password, since it logged in.
    LoginEnded,
    /// A user sends as somebody else, and `access.sender_must_match_user` is set.
    SenderNotOwn,
    /// The sender is listed in `access.deny_senders`.
    SenderDenied,
    /// The recipient is listed in `access.deny_recipients`.
    RecipientDenied,
    /// The place has used up `limits.messages_per_client_per_minute`.
    TooFast,
    /// HOLDUNTIL with no date, or one too far away (RFC 4865).
    BadHold,
    /// One transaction has as many recipients as it may (`limits.recipients`).
    TooManyRecipients,
    /// The recipient's domain is an address: such mail has no policy to be protected by.
    AddressLiteral,
    /// Mail for our postmaster, and nobody said who that is.
    NoPostmaster,
    /// Mail for a name of this machine that has no alias and no route.
    UnknownName,
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

/// The word for what the session refuses by itself: a client that has to log in, or to begin TLS
/// for that, is named apart from one that speaks no SMTP (RFC 4954 §6).
pub(super) fn reason_of_session(response: &Response) -> &'static str {
    match response.code() {
        530 | 538 => "auth_required",
        _ => "bad_command",
    }
}

impl ClientRefusal {
    /// The word for logs and metrics; part of the interface, see `docs/operations.md`.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::TooManyConnections => "too_many_connections",
            Self::EarlyTalker => "early_talker",
            Self::TlsInClear => "bad_command",
            Self::SpokeBeforeTls => "plaintext_before_tls",
            Self::ListenerChanged => "listener_changed",
            Self::RelayDenied => "relay_denied",
            Self::LoginFailed => "login_failed",
            Self::TooManyLogins => "too_many_logins",
            Self::LoginBusy => "login_busy",
            Self::LoginEnded => "login_ended",
            Self::SenderNotOwn => "sender_not_own",
            Self::SenderDenied => "sender_denied",
            Self::RecipientDenied => "recipient_denied",
            Self::TooFast => "too_many_messages",
            Self::BadHold => "hold_refused",
            Self::TooManyRecipients => "too_many_recipients",
            Self::AddressLiteral => "address_literal_refused",
            Self::NoPostmaster => "no_postmaster",
            Self::UnknownName => "unknown_name",
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

    /// The reply that the client gets: code, enhanced status and text.
    pub(super) fn response(&self) -> Response {
        let (code, status, text) = match self {
            Self::TooManyConnections => (421, Status::transient(7, 0), "Too many connections"),
            Self::EarlyTalker => (554, Status::permanent(5, 1), "Client sent data before greeting"),
            Self::TlsInClear => return CommandError::Tls.response(),
            Self::SpokeBeforeTls => {
                (554, Status::permanent(5, 1), "Nothing may stand between STARTTLS and TLS")
            }
            Self::ListenerChanged => {
                (421, Status::transient(3, 2), "This service has changed, please connect again")
            }
            Self::RelayDenied => (550, Status::permanent(7, 1), "Relaying denied"),
            // RFC 4954 §6.
            Self::LoginFailed => (535, Status::permanent(7, 8), "User name or password is wrong"),
            Self::TooManyLogins => {
                (421, Status::transient(7, 0), "Too many wrong logins, try again later")
            }
            Self::LoginBusy => {
                (454, Status::transient(7, 0), "Too many logins at once, try again later")
            }
            Self::LoginEnded => {
                (530, Status::permanent(7, 0), "Session no longer authenticated: log in again")
            }
            Self::SenderNotOwn => {
                (553, Status::permanent(7, 1), "Not an address of the user who has logged in")
            }
            Self::SenderDenied => (550, Status::permanent(7, 1), "Sender refused"),
            Self::RecipientDenied => (550, Status::permanent(7, 1), "Recipient refused"),
            Self::TooFast => {
                (451, Status::transient(7, 1), "Too many messages, try again in a minute")
            }
            Self::BadHold => {
                (501, Status::permanent(5, 4), "HOLDUNTIL is no date, or too far away")
            }
            Self::TooManyRecipients => (452, Status::transient(5, 3), "Too many recipients"),
            Self::AddressLiteral => {
                (550, Status::permanent(1, 3), "Address literals are not relayed to")
            }
            Self::NoPostmaster => (
                550,
                Status::permanent(1, 1),
                "No postmaster: aliases.postmaster is not configured",
            ),
            Self::UnknownName => {
                (550, Status::permanent(1, 1), "No alias and no route for this name")
            }
            Self::NoMemory => (452, Status::transient(3, 1), "Out of memory, try again later"),
            Self::Draining => {
                (451, Status::transient(3, 2), "Not accepting mail (draining), try later")
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
        log_response(self.reason(), &self.response(), client, [sender, recipient]);
    }
}

/// The line for a refusal in other words.
pub(super) fn log_response(
    reason: &str,
    response: &Response,
    client: Peer,
    [sender, recipient]: [Option<&str>; 2],
) {
    AcceptFact::Rejected { reason, response, client, sender, recipient }.tell();
}
