//! May this sender, this recipient, this message be taken? The answers to the session's questions.
//!
//! Each is given under the configuration of that moment, so a tightened rule binds open sessions.

use std::net::IpAddr;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use smtp::command::{Mail, Rcpt, Recipient};
use smtp::server::{Client, Session, Step};
use smtp::{Domain, HostName, Mailbox, Response, ReversePath, Status};
use spool::{BodyFacts, Envelope, MessageId, NewRecipient, RECIPIENTS_MAX};
use tracing::info;

use super::Shared;
use super::arrival::Arrival;
use super::budget::Lease;
use super::incoming::Incoming;
use super::received::Trace;
use super::refusal::Refusal;
use crate::clock;
use crate::config::{Config, ListenerMode};
use crate::route;

/// What answers one session.
#[derive(Debug)]
pub(super) struct Desk {
    shared: Arc<Shared>,
    arrival: Arrival,
    transaction: Option<Transaction>,
}

/// What MAIL, RCPT and DATA brought so far.
#[derive(Debug)]
struct Transaction {
    sender: ReversePath,
    recipients: Vec<NewRecipient>,
    message: Option<Incoming>,
    lease: Lease,
}

impl Desk {
    pub(super) fn new(shared: Arc<Shared>, arrival: Arrival) -> Self {
        Self { shared, arrival, transaction: None }
    }

    /// Does the session hold anything of a message?
    pub(super) fn is_busy(&self) -> bool {
        self.transaction.is_some()
    }

    /// May the session's buffer have `buffer` octets now?
    pub(super) fn lend(&mut self, buffer: usize) -> bool {
        self.transaction.as_mut().is_some_and(|transaction| {
            let held = transaction.message.as_ref().map_or(0, Incoming::memory);
            transaction.lease.cover(octets(held + buffer))
        })
    }

    /// Does what `step` asks; `buffer` is the size of the session's buffer, in octets.
    pub(super) async fn handle(&mut self, session: &mut Session, step: Step<'_>, buffer: usize) {
        match step {
            Step::Content(piece) => self.content(piece, buffer),
            Step::Sender(mail) => {
                let sender = mail.sender.clone();
                let answer = self.sender(mail);
                self.answer(session, answer, sender.as_str(), None);
            }
            Step::Recipient(Rcpt { recipient, .. }) => {
                let answer = self.recipient(&recipient);
                let text = match &recipient {
                    Recipient::Mailbox(mailbox) => mailbox.as_str(),
                    Recipient::Postmaster => "postmaster",
                };
                self.answer(session, answer, &self.sender_text(), Some(text));
            }
            Step::Begin => {
                let answer = self.begin(session.client(), buffer);
                self.answer(session, answer, &self.sender_text(), None);
            }
            Step::End => self.end(session).await,
            Step::Refused(fault) => {
                Refusal::Content(fault).log(self.arrival.peer, Some(&self.sender_text()), None);
                self.transaction = None;
            }
            Step::Reset => self.transaction = None,
            // None of these is offered; without an answer the session refuses or closes.
            Step::StartTls
            | Step::Authenticate { .. }
            | Step::AuthResponse(_)
            | Step::AuthEnded
            | Step::Input
            | Step::Close => {}
        }
    }

    fn answer(
        &self,
        session: &mut Session,
        answer: Result<(), Refusal>,
        sender: &str,
        recipient: Option<&str>,
    ) {
        match answer {
            Ok(()) => session.accept(),
            Err(refusal) => {
                refusal.log(self.arrival.peer, Some(sender), recipient);
                session.refuse(&refusal.response());
            }
        }
    }

    fn sender_text(&self) -> String {
        self.transaction.as_ref().map(|t| t.sender.as_str().to_owned()).unwrap_or_default()
    }

    fn may_relay(&self, config: &Config) -> Result<(), Refusal> {
        let allowed = match self.arrival.mode {
            ListenerMode::Relay => self.arrival.peer.is_trusted(config),
            // Nobody has logged in.
            ListenerMode::Submission | ListenerMode::Submissions => false,
        };
        if allowed { Ok(()) } else { Err(Refusal::RelayDenied) }
    }

    fn sender(&mut self, mail: Mail) -> Result<(), Refusal> {
        self.may_relay(&self.shared.config())?;
        if self.shared.intake.is_draining() {
            return Err(Refusal::Draining);
        }
        let size = mail.size.unwrap_or_default();
        self.shared.intake.room_for(size).map_err(|not_now| Refusal::NotNow(not_now.reply))?;
        let lease = self.shared.budget.message().ok_or(Refusal::NoMemory)?;
        let (sender, recipients) = (mail.sender, Vec::new());
        self.transaction = Some(Transaction { sender, recipients, message: None, lease });
        Ok(())
    }

    fn recipient(&mut self, recipient: &Recipient) -> Result<(), Refusal> {
        let config = self.shared.config();
        self.may_relay(&config)?;
        let mailbox = deliver_to(&config, recipient, self.arrival.local)?;
        let domain = mailbox.domain().name().ok_or(Refusal::AddressLiteral)?;
        let lane = route::lane(&config, domain);
        let transaction = self.transaction.as_mut().ok_or(Refusal::NotWritten)?;
        if transaction.recipients.len() >= config.limits.recipients.min(RECIPIENTS_MAX) {
            return Err(Refusal::TooManyRecipients);
        }
        transaction.recipients.push(NewRecipient { mailbox: mailbox.clone(), lane });
        Ok(())
    }

    fn begin(&mut self, client: Option<&Client>, buffer: usize) -> Result<(), Refusal> {
        let config = self.shared.config();
        let transaction = self.transaction.as_mut().ok_or(Refusal::NotWritten)?;
        let draft = self.shared.intake.draft();
        let recipient = match transaction.recipients.as_slice() {
            [only] => Some(&only.mailbox),
            _ => None,
        };
        let trace = Trace {
            client,
            peer: self.arrival.peer,
            by: config.hostname.domain(),
            id: draft.id(),
            recipient,
            at: clock::now(),
        };
        let field = trace.field();
        let mut message = Incoming::new(draft);
        message.write(field.as_bytes(), buffer, &mut transaction.lease);
        transaction.message = Some(message);
        Ok(())
    }

    fn content(&mut self, piece: &[u8], buffer: usize) {
        if let Some(Transaction { message: Some(message), lease, .. }) = &mut self.transaction {
            message.write(piece, buffer, lease);
        }
    }

    async fn end(&mut self, session: &mut Session) {
        let sender = self.sender_text();
        match self.commit(session.client()).await {
            Ok(id) => {
                let text = format!("Ok: queued as {id}");
                session.accept_with(&Response::new(250, Status::success(0, 0), text));
            }
            Err(refusal) => self.answer(session, Err(refusal), &sender, None),
        }
    }

    /// The message is safe when this returned its id, and gone when it did not.
    async fn commit(&mut self, client: Option<&Client>) -> Result<MessageId, Refusal> {
        let transaction = self.transaction.take().ok_or(Refusal::NotWritten)?;
        let Transaction { sender, recipients, message, lease } = transaction;
        let (draft, facts) = message.ok_or(Refusal::NotWritten)?.finish()?;
        let (count, size) = (recipients.len(), facts.size);
        let text = sender.as_str().to_owned();
        let envelope = self.envelope(sender, recipients, client, facts);
        let committed = self.shared.intake.commit(draft, envelope).await;
        // The body was in memory until here.
        drop(lease);
        let id = committed.map_err(|not_now| Refusal::NotNow(not_now.reply))?;
        info!(
            event = "accepted",
            message_id = %id,
            sender = text,
            recipients = count,
            size,
            client = %self.arrival.peer,
            "accepted"
        );
        Ok(id)
    }

    fn envelope(
        &self,
        sender: ReversePath,
        recipients: Vec<NewRecipient>,
        client: Option<&Client>,
        facts: BodyFacts,
    ) -> Envelope {
        let delivery = &self.shared.config().delivery;
        let lifetime = match &sender {
            ReversePath::Null => delivery.bounce_lifetime,
            ReversePath::Mailbox(_) => delivery.lifetime,
        };
        let arrived_at = clock::now();
        let lifetime = SignedDuration::try_from(lifetime).unwrap_or(SignedDuration::MAX);
        let expires_at = arrived_at.checked_add(lifetime).unwrap_or(Timestamp::MAX);
        let name = client.map(|client| format!(" ({})", client.name)).unwrap_or_default();
        let client = format!("{}{name}", self.arrival.peer).into();
        Envelope { sender, recipients, arrived_at, expires_at, client, facts }
    }
}

/// Where mail for `recipient` goes: to itself, or, if it means whoever runs this server, to the one
/// whom the configuration names (RFC 5321 §4.5.1). `local` is the address that was connected to.
fn deliver_to<'a>(
    config: &'a Config,
    recipient: &'a Recipient,
    local: Option<IpAddr>,
) -> Result<&'a Mailbox, Refusal> {
    let postmaster = config.aliases.postmaster.as_ref().ok_or(Refusal::NoPostmaster);
    match recipient {
        Recipient::Postmaster => postmaster,
        Recipient::Mailbox(mailbox)
            if is_our_postmaster(mailbox, config.hostname.name(), local) =>
        {
            postmaster
        }
        Recipient::Mailbox(mailbox) => Ok(mailbox),
    }
}

/// `postmaster` at our name or at the address that was connected to.
fn is_our_postmaster(
    mailbox: &Mailbox,
    hostname: Option<&HostName>,
    local: Option<IpAddr>,
) -> bool {
    let is_ours = match mailbox.domain() {
        Domain::Name(name) => Some(name) == hostname,
        Domain::Literal(address) => Some(*address) == local,
    };
    is_ours && mailbox.local_part().eq_ignore_ascii_case("postmaster")
}

fn octets(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_postmaster_has_our_name_or_address() {
        let hostname = HostName::parse("relay.example").unwrap();
        let local = Some(IpAddr::from([192, 0, 2, 1]));
        let cases = [
            ("postmaster@relay.example", true),
            ("PostMaster@RELAY.example", true),
            ("postmaster@[192.0.2.1]", true),
            ("postmaster@[192.0.2.2]", false),
            ("postmaster@example.com", false),
            ("postmasters@relay.example", false),
            ("x.postmaster@relay.example", false),
        ];
        for (text, want) in cases {
            let mailbox = Mailbox::parse(text).unwrap();
            assert_eq!(is_our_postmaster(&mailbox, Some(&hostname), local), want, "{text}");
        }
    }
}
