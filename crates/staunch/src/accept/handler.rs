//! May this sender, this recipient, this message be taken? The answers to the session's questions.
//!
//! Each is given under the configuration of that moment, so a tightened rule binds open sessions.
//! The rules themselves are in [`rules`], what an envelope keeps of the parameters in [`envelope`],
//! logging in in [`login`](super::login).

use std::sync::Arc;

use smtp::command::{Brackets, Mail, Rcpt, Recipient};
use smtp::server::{Client, ServerStep, Session};
use smtp::{Response, ReversePath, Status};
use spool::MessageId;
use tokio::time::Instant;

use super::arrival::ClientArrival;
use super::dialogue::Dialogue;
use super::envelope::{self, AcceptedRecipient, Recipients, Requested, Times};
use super::fixups::Fixups;
use super::incoming::{FinishedContent, IncomingContent};
use super::peer::{Peer, TlsFacts};
use super::received::{Means, Trace};
use super::refusal::{self, ClientRefusal};
use super::rules::{self, recipients_max};
use super::shared::SessionsShared;
use crate::accept::facts::{AcceptFact, LoggedRecipient};
use crate::auth::{Auth, Login};
use crate::budget::{Borrower, Held, Lease};
use crate::config::{self, ClientInReceived, Config};
use crate::place::ClientPlace;
use crate::queue::free_space::Reservation;
use crate::queue::intake::NotNow;
use crate::queue::rates::{Rate, Sender};

/// What answers one session.
#[derive(Debug)]
pub(super) struct SmtpHandler {
    shared: Arc<SessionsShared>,
    /// How the client came in.
    pub(super) arrival: ClientArrival,
    /// Who it has proved to be.
    pub(super) login: Option<Login>,
    /// How far a login is.
    pub(super) dialogue: Option<Dialogue>,
    transaction: Option<OpenTransaction>,
    /// Whose message was dropped before its content has ended.
    spoiled: Option<ReversePath>,
}

/// A SCRAM challenge that was never answered counts as a wrong login.
impl Drop for SmtpHandler {
    fn drop(&mut self) {
        self.abandon_login();
    }
}

fn not_now(not_now: NotNow) -> ClientRefusal {
    ClientRefusal::NotNow(not_now.reply)
}

/// What MAIL, RCPT and DATA brought so far.
#[derive(Debug)]
struct OpenTransaction {
    asked: Requested,
    message: Option<IncomingContent>,
    lease: Lease,
    /// Disk space that is reserved for the content, as announced or as it grows.
    room: Reservation,
    /// In which protocol the content comes, by its name in IANA's registry.
    protocol: &'static str,
}

impl SmtpHandler {
    pub(super) fn new(shared: Arc<SessionsShared>, arrival: ClientArrival) -> Self {
        Self { shared, arrival, login: None, dialogue: None, transaction: None, spoiled: None }
    }

    pub(super) fn peer(&self) -> Peer {
        self.arrival.peer
    }

    /// The client's network or user, for limits and for waits after wrong logins.
    pub(super) fn place(&self) -> ClientPlace {
        self.arrival.peer.place()
    }

    fn borrower(&self) -> Borrower {
        match &self.login {
            Some(login) => Borrower::User(login.name.as_str().into()),
            None => Borrower::Place(self.place()),
        }
    }

    /// Who knows the users.
    pub(super) fn auth(&self) -> &Auth {
        &self.shared.auth
    }

    /// The connection is under TLS now, and what the client said before does not count.
    pub(super) fn secured(&mut self, tls: TlsFacts) -> &ClientArrival {
        self.transaction = None;
        self.login = None;
        self.dialogue = None;
        self.arrival.tls = Some(tls);
        &self.arrival
    }

    /// Does the session hold anything of a message?
    pub(super) fn is_busy(&self) -> bool {
        self.transaction.is_some()
    }

    /// May the session's buffer have `buffer` octets now?
    pub(super) fn lend(&mut self, buffer: usize) -> bool {
        self.transaction.as_mut().is_some_and(|transaction| {
            let held = transaction.message.as_ref().map_or(0, IncomingContent::memory);
            transaction.lease.lend_for_reading(buffer + transaction.asked.recipients.memory(), held)
        })
    }

    /// Logs what the session refused without asking.
    pub(super) fn log_refusals(&self, session: &mut Session) {
        for response in session.take_refusals() {
            let reason = refusal::reason_of_session(&response);
            refusal::log_response(reason, &response, self.arrival.peer, [None, None]);
        }
    }

    /// Does what `step` asks; `held` is what the session's buffers hold.
    pub(super) async fn handle(&mut self, session: &mut Session, step: ServerStep<'_>, held: Held) {
        let buffer = held.now;
        match step {
            ServerStep::Content(piece) => self.content(piece, buffer).await,
            ServerStep::Sender(mail) => {
                let sender = mail.sender.clone();
                if self.arrival.is_up_to_date() {
                    let answer = self.sender(mail, held);
                    self.answer(session, answer, Some(sender.as_str()), None);
                } else {
                    ClientRefusal::ListenerChanged.log(
                        self.arrival.peer,
                        Some(sender.as_str()),
                        None,
                    );
                    session.close(&ClientRefusal::ListenerChanged.response());
                }
            }
            ServerStep::Recipient(rcpt) => {
                let text = match &rcpt.recipient {
                    Recipient::Mailbox(mailbox) => mailbox.as_str().to_owned(),
                    Recipient::Postmaster => "postmaster".to_owned(),
                };
                let answer = self.recipient(rcpt, buffer);
                self.answer(session, answer, self.sender_text().as_deref(), Some(&text));
            }
            ServerStep::Begin => {
                let answer = self.begin(session.client(), buffer);
                self.answer(session, answer, self.sender_text().as_deref(), None);
            }
            ServerStep::Spoiled => {
                self.spoiled = self.transaction.take().map(|dropped| dropped.asked.mail.sender);
            }
            ServerStep::End => self.end(session, buffer).await,
            ServerStep::Refused(fault) => {
                ClientRefusal::Content(fault).log(
                    self.arrival.peer,
                    self.sender_text().as_deref(),
                    None,
                );
                (self.transaction, self.spoiled) = (None, None);
            }
            ServerStep::Reset => self.transaction = None,
            ServerStep::Authenticate { mechanism, initial } => {
                self.authenticate(session, mechanism, initial).await;
            }
            ServerStep::AuthResponse(message) => self.respond(session, &message).await,
            ServerStep::AuthEnded => self.abandon_login(),
            ServerStep::StartTls | ServerStep::Input | ServerStep::Output | ServerStep::Close => {}
        }
    }

    fn answer(
        &self,
        session: &mut Session,
        answer: Result<(), ClientRefusal>,
        sender: Option<&str>,
        recipient: Option<&str>,
    ) {
        match answer {
            Ok(()) => session.accept(),
            Err(refusal) => {
                refusal.log(self.arrival.peer, sender, recipient);
                session.refuse(&refusal.response());
            }
        }
    }

    /// Whose mail it is, `""` from the null sender; nobody's before a MAIL is taken.
    fn sender_text(&self) -> Option<String> {
        let sender = self.transaction.as_ref().map(|transaction| &transaction.asked.mail.sender);
        let sender = sender.or(self.spoiled.as_ref());
        sender.map(|sender| sender.as_str().to_owned())
    }

    /// Asked at each step up to the commit: between two of them a user may be removed, a rule come,
    /// a drain begin.
    fn may_send(&self, config: &Config) -> Result<(), ClientRefusal> {
        rules::client(config, self.auth(), &self.arrival, self.login.as_ref())?;
        if self.shared.intake.is_draining() { Err(ClientRefusal::Draining) } else { Ok(()) }
    }

    /// The same for all of a transaction.
    fn may_go_on(&self, config: &Config, asked: &Requested) -> Result<(), ClientRefusal> {
        self.may_send(config)?;
        rules::sender(config, self.login.as_ref(), &asked.mail.sender)?;
        let is_allowed = |addressee: &AcceptedRecipient| {
            rules::recipient(config, &addressee.written, self.arrival.local)?;
            rules::target(config, &addressee.mailbox)
        };
        asked.recipients.all().iter().try_for_each(is_allowed)
    }

    fn sender(&mut self, mail: Mail, held: Held) -> Result<(), ClientRefusal> {
        let config = self.shared.config();
        self.may_send(&config)?;
        rules::sender(&config, self.login.as_ref(), &mail.sender)?;
        self.note(mail.brackets);
        let times = Times::new(&mail, self.shared.intake.now())?;
        let size = mail.size.unwrap_or_default();
        let room = self.shared.intake.room_for(self.borrower(), size).map_err(not_now)?;
        let lease = self.shared.budget.message(self.borrower(), held.guarantee());
        let mut lease = lease.ok_or(ClientRefusal::NoMemory)?;
        // More than the guarantee only behind another message, whose buffer is still there.
        if !lease.cover_message(held.now, 0) {
            return Err(ClientRefusal::NoMemory);
        }
        if let Some(max) = config.limits.messages_per_client_per_minute
            && self.shared.rates.message(self.place(), max, Instant::now()) == Rate::Over
        {
            return Err(ClientRefusal::TooFast);
        }
        let asked = Requested { mail, times, recipients: Recipients::default() };
        self.transaction = Some(OpenTransaction {
            asked,
            message: None,
            lease,
            room,
            protocol: Means::default().with(None),
        });
        Ok(())
    }

    /// Tells of a transaction that its client does not end: how large messages that do not come
    /// through are found.
    pub(super) fn log_lost_client(&self, how: &'static str) {
        let Some(transaction) = &self.transaction else { return };
        let octets = transaction.message.as_ref().map(|message| message.size_with(b""));
        AcceptFact::ClientLost {
            how,
            peer: self.arrival.peer,
            sender: self.sender_text().as_deref(),
            recipients: transaction.asked.recipients.all().len(),
            octets,
        }
        .tell();
    }

    /// Tells of a client that is taken although it speaks another SMTP.
    fn note(&self, brackets: Brackets) {
        if brackets == Brackets::Missing && self.shared.is_first_without_brackets(self.place()) {
            AcceptFact::NoBrackets { peer: self.arrival.peer }.tell();
        }
    }

    fn recipient(&mut self, rcpt: Rcpt, buffer: usize) -> Result<(), ClientRefusal> {
        let config = self.shared.config();
        // Not whether the relay is drained: list managers take a 4yz to RCPT for a bounce. DATA is
        // told so.
        rules::client(&config, self.auth(), &self.arrival, self.login.as_ref())?;
        let mailboxes = rules::recipient(&config, &rcpt.recipient, self.arrival.local)?;
        mailboxes.iter().try_for_each(|mailbox| rules::target(&config, mailbox))?;
        let addressees = mailboxes.iter().map(|mailbox| {
            let domain = mailbox.domain().name().ok_or(ClientRefusal::AddressLiteral)?.clone();
            Ok(AcceptedRecipient::new(&rcpt, mailbox.clone(), domain))
        });
        let addressees: Vec<AcceptedRecipient> =
            addressees.collect::<Result<_, ClientRefusal>>()?;
        self.note(rcpt.brackets);
        let transaction = self.transaction.as_mut().ok_or(ClientRefusal::NotWritten)?;
        let recipients = &mut transaction.asked.recipients;
        // An alias may be more than one transaction takes. A recipient that is there already is no
        // further copy; but a client that repeats them for ever is not served for ever.
        let (before, most) = (recipients.all().len(), recipients_max(&config));
        let more = addressees.iter().filter(|addressee| !recipients.has(addressee)).count();
        if before > 0 && before + more > most || recipients.taken() >= REPEATED_MAX * most {
            return Err(ClientRefusal::TooManyRecipients);
        }
        let more: usize = addressees.iter().map(AcceptedRecipient::memory).sum();
        if !transaction.lease.cover_message(buffer + recipients.memory() + more, 0) {
            return Err(ClientRefusal::NoMemory);
        }
        recipients.add(addressees);
        Ok(())
    }

    fn begin(&mut self, client: Option<&Client>, buffer: usize) -> Result<(), ClientRefusal> {
        let config = self.shared.config();
        if let Some(transaction) = &self.transaction {
            self.may_go_on(&config, &transaction.asked)?;
        }
        let transaction = self.transaction.as_mut().ok_or(ClientRefusal::NotWritten)?;
        let draft = self.shared.intake.draft();
        let (id, at, by) = (draft.id(), self.shared.intake.now(), config.hostname.domain());
        let recipient = match transaction.asked.recipients.all() {
            [only] => Some(&only.mailbox),
            _ => None,
        };
        let peer = match self.arrival.client_in_received {
            ClientInReceived::Hidden if self.login.is_some() => None,
            ClientInReceived::Hidden | ClientInReceived::Shown => Some(self.arrival.peer),
        };
        let means = Means {
            cipher: self.arrival.tls.as_ref().map(|tls| tls.cipher),
            login: self.login.is_some(),
            utf8: transaction.asked.mail.smtp_utf8,
        };
        transaction.protocol = means.with(client.map(|client| client.protocol));
        let field = Trace { client, peer, means, by, id, recipient, at }.field();
        let fixups = Fixups::new(self.arrival.repair(), id, by, at);
        let mut message = IncomingContent::new(draft, fixups);
        let besides = buffer + transaction.asked.recipients.memory();
        message.append(field.as_bytes(), besides, &mut transaction.lease);
        transaction.message = Some(message);
        Ok(())
    }

    async fn content(&mut self, piece: &[u8], buffer: usize) {
        if let Some(transaction) = &mut self.transaction
            && let OpenTransaction { asked, message: Some(message), lease, room, .. } = transaction
        {
            let besides = buffer + asked.recipients.memory();
            let size = message.size_with(piece);
            if let Err(full) = self.shared.intake.room_to_grow(room, size) {
                message.refuse(not_now(full));
            }
            let _turn = if message.needs_disk(piece.len(), besides, lease) {
                self.shared.disk_turns.acquire().await.ok()
            } else {
                None
            };
            message.write(piece, besides, lease);
        }
    }

    async fn end(&mut self, session: &mut Session, buffer: usize) {
        let sender = self.sender_text();
        if let Some(transaction) = &mut self.transaction
            && let OpenTransaction { asked, message: Some(message), lease, .. } = transaction
        {
            message.end(buffer + asked.recipients.memory(), lease);
        }
        match self.commit(session.client()).await {
            Ok(id) => {
                let text = format!("Ok: queued as {id}");
                session.accept_with(&Response::new(250, Status::success(0, 0), text));
            }
            Err(refusal) => self.answer(session, Err(refusal), sender.as_deref(), None),
        }
    }

    /// The message is safe when this returned its id, and gone when it did not.
    async fn commit(&mut self, client: Option<&Client>) -> Result<MessageId, ClientRefusal> {
        let transaction = self.transaction.take().ok_or(ClientRefusal::NotWritten)?;
        self.may_go_on(&self.shared.config(), &transaction.asked)?;
        let OpenTransaction { asked, message, lease, room, protocol } = transaction;
        let content = message.ok_or(ClientRefusal::NotWritten)?.finish()?;
        let FinishedContent { draft, facts, message_id } = content;
        let (count, size) = (asked.recipients.all().len(), facts.size);
        let sender = asked.mail.sender.as_str().to_owned();
        let user = self.login.as_ref().map(|login| login.name.clone());
        let rate = self.rate(&asked.mail.sender, count);
        let submission = envelope::Submission {
            client: envelope::client(self.arrival.peer, client),
            user: user.as_ref(),
            rate,
        };
        let config = self.shared.config();
        let envelope = submission.envelope(&config, asked, facts, self.shared.intake.now());
        let arrived: Vec<_> = envelope.recipients.iter().map(LoggedRecipient::from).collect();
        let ClientArrival { peer, port: client_port, tls, .. } = &self.arrival;
        let tls_version = tls.as_ref().map(|tls| tls.version.as_str());
        let told = |message| {
            for recipient in &arrived {
                AcceptFact::Accepted {
                    message,
                    sender: &sender,
                    recipient,
                    recipients: count,
                    size,
                    header_message_id: message_id.as_ref(),
                    peer: *peer,
                    client_port: *client_port,
                    tls_version,
                    helo: client.map(|client| &client.name),
                    protocol,
                    user: user.as_ref(),
                }
                .tell();
            }
            if rate == Rate::Over {
                AcceptFact::HeldForRate { message, sender: &sender, recipients: count }.tell();
            }
        };
        let committed = self.shared.intake.commit(&config, (draft, envelope), told).await;
        // The body was in memory until here.
        drop(lease);
        let id = committed.map_err(not_now)?;
        room.kept(size);
        Ok(id)
    }

    /// Are `more` recipients within what a sender may have?
    fn rate(&self, sender: &ReversePath, more: usize) -> Rate {
        let Some(max) = self.shared.config().limits.recipients_per_sender_per_hour else {
            return Rate::Within;
        };
        let whose = match (&self.login, sender) {
            (Some(login), _) => Sender::User(login.name.as_str().into()),
            (None, ReversePath::Mailbox(mailbox)) => {
                Sender::Address(config::mailbox_key(mailbox).into())
            }
            (None, ReversePath::Null) => Sender::Client(self.place()),
        };
        let more = u32::try_from(more).unwrap_or(u32::MAX);
        self.shared.rates.recipients(whose, more, max, Instant::now())
    }
}

/// How often each recipient may be repeated, about. Our choice: programs write an address in To, Cc
/// and Bcc.
const REPEATED_MAX: usize = 4;
