//! The server side of an SMTP session (RFC 5321 §4.1.4), as a state machine.
//!
//! No I/O and no clock. The caller hands in whatever it has read, does what each [`ServerStep`]
//! says, and writes [`Session::output`] whenever a step asks for more input, so pipelined commands
//! get their replies together (RFC 2920 §3.2). How the input is cut into pieces changes nothing.
//!
//! ```text
//! greeting ─EHLO▶ ready ─MAIL▶ sender ─RCPT▶ recipients ─DATA, BDAT▶ content ─end▶ ready
//!                   ▲            └──────────────┴─────RSET, EHLO─────────┘
//!                   ├─235, 5yz─ dialogue ◀─AUTH─ ready
//!                   └────EHLO── handshake ◀─STARTTLS─ anywhere: only refusals still count
//! ```
//!
//! The session knows the order and form of commands; whether a sender, recipient, message or user
//! is taken is asked of the caller. A question that gets no answer counts as refused for now: no
//! mistake of a caller becomes a promise.

mod commands;
mod content;
mod dialogue;
mod lines;
mod transcript;

use crate::address::Domain;
use crate::command::{ClientName, CommandError, Mail, Offer, Rcpt, SessionChannel};
use crate::data::{ChunkReceiver, DataReceiver, Fault, LineEnd, Newlines};
use crate::remote_text::RemoteText;
use crate::response::Response;
use crate::sasl::{Mechanism, Secret};
use crate::status::{Class, Status};
pub use lines::TLS_HANDSHAKE;

/// When the replies are more octets than this, [`ServerStep::Output`] asks for them to be written.
/// Our choice: a few dozen replies.
pub const OUTPUT_OCTETS: usize = 4 * 1024;

/// What a session is, from its beginning or from the handshake that STARTTLS began.
#[derive(Clone, Debug)]
pub struct SessionSettings {
    /// Our name in the greeting and the reply to EHLO.
    pub hostname: Domain,
    /// The extensions. What needs TLS is not offered without it, and STARTTLS not within it,
    /// whatever stands here.
    pub offer: Offer,
    /// What protects the connection now.
    pub channel: SessionChannel,
    /// Who may give MAIL.
    pub access: SessionAccess,
    /// Refused commands before the session is closed.
    pub errors_max: u32,
    /// What CR and LF alone mean, in content and behind commands.
    pub newlines: Newlines,
}

/// Who may give MAIL, before the caller is asked about the sender.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SessionAccess {
    /// Every client: a relay, where the caller knows clients by their address.
    Anyone,
    /// Users who proved who they are, which is possible under TLS only (RFC 6409 §4.3, RFC 8314
    /// §3).
    Users,
}

/// Which protocol the client chose with its greeting.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Protocol {
    /// HELO, which lists no extensions (RFC 5321 §4.1.1.1).
    Smtp,
    /// EHLO, whose reply lists the extensions (RFC 5321 §4.1.1.1).
    Esmtp,
}

/// Who the client says it is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Client {
    /// Which greeting the client used last.
    pub protocol: Protocol,
    /// The argument of that greeting, which proves nothing.
    pub name: ClientName,
}

/// What the caller does next.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ServerStep<'i> {
    /// Write [`Session::output`], then come back with more input. What was left of the input must
    /// stand in front of it; that is never more than one line.
    Input,
    /// Write [`Session::output`] before it fills memory, then come back with the input that is
    /// left.
    Output,
    /// The client wants TLS. Write [`Session::output`], and close the connection if any input is
    /// left, in the buffer or in the socket: it was sent before the handshake, and whoever could
    /// insert it would speak as the client (CVE-2011-0411). Then do the handshake and call
    /// [`Session::secured`]. If TLS cannot be had now, say so before anything is written:
    /// [`Session::refuse`] with a 454.
    StartTls,
    /// A user comes. Answer with [`Session::challenge`], [`Session::authenticated`] or
    /// [`Session::refuse`].
    Authenticate {
        /// The mechanism that the client chose, of those offered.
        mechanism: Mechanism,
        /// What was sent along, decoded.
        initial: Option<Secret>,
    },
    /// What the client says to the last challenge, decoded. Answer as before.
    AuthResponse(Secret),
    /// The client gave its authentication up, or sent what nobody can read.
    AuthEnded,
    /// May this sender begin a transaction now? Answer.
    Sender(Mail),
    /// May this recipient be added? Answer.
    Recipient(Rcpt),
    /// The message comes: can it be taken? Answer.
    Begin,
    /// Content, as it shall be kept. A piece never ends between CR and LF.
    Content(&'i [u8]),
    /// The message will be refused when its content has ended, which is still read: drop what was
    /// kept of it now. Left out if the end has been read with the fault; [`ServerStep::Refused`]
    /// comes in any case, unless the session ends before.
    Spoiled,
    /// The message is complete. Answer, once it is safe.
    End,
    /// The message was refused for its content, or at MAIL for the size it would have; drop what
    /// was kept of it.
    Refused(Fault),
    /// The transaction is given up; drop what was kept of it.
    Reset,
    /// Write [`Session::output`] and close the connection.
    Close,
}

/// A question of [`ServerStep`] that waits for its answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Question {
    /// 220 is at this place of the output.
    StartTls(usize),
    Authenticate,
    Sender(AddressCharset),
    Recipient,
    Begin(Framing),
    End,
}

/// What addresses of a transaction may be written in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum AddressCharset {
    Ascii,
    Utf8,
}

/// How the content of the message is delimited.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Framing {
    /// DATA: by a lone dot.
    Dots,
    /// BDAT: so many octets, and whether they are the last.
    Octets(u64, Part),
}

/// Which part of a message a BDAT brings.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Part {
    Last,
    More,
}

/// How far the transaction is.
#[derive(Debug)]
enum ServerTransaction {
    None,
    Sender(AddressCharset),
    Recipients(AddressCharset),
    /// Some of the content came by BDAT.
    Chunks(ChunkReceiver),
}

#[derive(Debug)]
enum Phase {
    Commands,
    /// Inside a line that is too long; what to answer at its end.
    Skipping(CommandError),
    Data(DataReceiver),
    /// Inside the octets of a BDAT.
    Chunk(u64, Part),
    /// Inside the octets of a BDAT that is refused; what to answer at their end.
    Draining(u64, Response),
    /// Between a challenge and the client's response.
    Dialogue,
    /// Inside a response that is too long.
    SkippingResponse,
    Closed,
}

/// A session with one client.
///
/// ```
/// use smtp::command::{SessionChannel, Offer};
/// use smtp::server::{SessionAccess, Session, SessionSettings, ServerStep};
/// use smtp::{Domain, HostName, data::Newlines};
/// let mut session = Session::new(SessionSettings {
///     hostname: Domain::Name(HostName::parse("relay.example")?),
///     offer: Offer::new(1000),
///     channel: SessionChannel::Clear,
///     access: SessionAccess::Anyone,
///     errors_max: 20,
///     newlines: Newlines::Strict,
/// });
/// let mut input = &b"EHLO client.example\r\nMAIL FROM:<a@b.example>\r\n"[..];
/// assert!(matches!(session.step(&mut input), ServerStep::Sender(_)));
/// session.accept();
/// assert_eq!(session.step(&mut input), ServerStep::Input);
/// assert!(session.output().ends_with(b"\r\n250 2.1.0 Ok\r\n"));
/// # Ok::<(), smtp::HostNameError>(())
/// ```
#[derive(Debug)]
pub struct Session {
    settings: SessionSettings,
    phase: Phase,
    client: Option<Client>,
    user: User,
    transaction: ServerTransaction,
    question: Option<Question>,
    /// Of the content that comes: octets read, kept or not.
    content_octets: u64,
    /// The caller knows that the content is refused.
    is_spoiled: bool,
    /// The handshake ended a transaction, and the caller does not know yet.
    reset_due: bool,
    /// What ends the client's lines, once its first has ended.
    line_end: Option<LineEnd>,
    errors: u32,
    /// By the session itself.
    refusals: Vec<Response>,
    /// The client's lines, where they are kept.
    lines: Option<Vec<RemoteText>>,
    output: Vec<u8>,
}

/// Did the client prove who it is?
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum User {
    Unknown,
    Authenticated,
}

const UNANSWERED: Response =
    Response::fixed(451, Status::transient(3, 0), "Local error in processing");
const BAD_SEQUENCE: Status = Status::permanent(5, 1);
const TOO_MANY_ERRORS: Response =
    Response::fixed(421, Status::transient(7, 0), "Too many errors, closing the connection");

impl Session {
    /// Begins a session; its greeting is in [`Session::output`].
    pub fn new(settings: SessionSettings) -> Self {
        let mut session = Self::silent(settings);
        session.say(&Response::plain(220, format!("{} ESMTP", session.settings.hostname)));
        session
    }

    fn silent(mut settings: SessionSettings) -> Self {
        settings.offer = settings.offer.on(settings.channel);
        Self {
            settings,
            phase: Phase::Commands,
            client: None,
            user: User::Unknown,
            transaction: ServerTransaction::None,
            question: None,
            content_octets: 0,
            is_spoiled: false,
            reset_due: false,
            line_end: None,
            errors: 0,
            refusals: Vec::new(),
            lines: None,
            output: Vec::new(),
        }
    }

    /// The handshake after [`ServerStep::StartTls`] is done. Nothing that was said before it counts
    /// any more (RFC 3207 §4.2), but for the refused commands.
    pub fn secured(&mut self, settings: SessionSettings) {
        let reset_due = !matches!(self.transaction, ServerTransaction::None);
        let lines = self.lines.take();
        *self = Self { reset_due, errors: self.errors, lines, ..Self::silent(settings) };
    }

    /// Other settings hold from the next command on. What EHLO offered beyond them is refused then
    /// as if it had never been offered.
    pub fn reconfigure(&mut self, mut settings: SessionSettings) {
        settings.offer = settings.offer.on(settings.channel);
        self.settings = settings;
    }

    /// What is to be written.
    pub fn output(&self) -> &[u8] {
        &self.output
    }

    /// The output was written. Nothing of it is kept, so an idle session holds no buffer.
    pub fn written(&mut self) {
        self.output = Vec::new();
    }

    /// Who the client says it is, once it did.
    pub fn client(&self) -> Option<&Client> {
        self.client.as_ref()
    }

    /// The refusals of what was not even asked of the caller, since the last look: for a log. They
    /// are at most as many as errors are allowed.
    pub fn take_refusals(&mut self) -> Vec<Response> {
        std::mem::take(&mut self.refusals)
    }

    /// Did the client prove who it is?
    pub fn is_authenticated(&self) -> bool {
        self.user == User::Authenticated
    }

    /// Is a message being received? Then a stop waits for its end.
    pub fn is_in_content(&self) -> bool {
        matches!(self.phase, Phase::Data(_))
            || matches!(self.transaction, ServerTransaction::Chunks(_))
            || self.question == Some(Question::End)
    }

    /// Is what comes content, and not commands? Also where it is refused and only read to its end.
    pub fn is_reading_content(&self) -> bool {
        matches!(self.phase, Phase::Draining(..)) || self.is_in_content()
    }

    /// Yes to the question of the last step.
    pub fn accept(&mut self) {
        let response = match self.question {
            // The 220 is said already.
            Some(Question::StartTls(_)) => return,
            Some(Question::Authenticate) => {
                Response::fixed(235, Status::success(7, 0), "Authentication successful")
            }
            Some(Question::Sender(_)) => Response::fixed(250, Status::success(1, 0), "Ok"),
            Some(Question::Recipient) => Response::fixed(250, Status::success(1, 5), "Ok"),
            Some(Question::Begin(_)) => Response::plain(354, "End data with <CR><LF>.<CR><LF>"),
            Some(Question::End) | None => Response::fixed(250, Status::success(0, 0), "Ok"),
        };
        self.accept_with(&response);
    }

    /// Yes, in other words: `response` must be of the class that [`Session::accept`] would use.
    pub fn accept_with(&mut self, response: &Response) {
        match self.question.take() {
            Some(Question::Authenticate) => self.user = User::Authenticated,
            Some(Question::Sender(charset)) => {
                self.transaction = ServerTransaction::Sender(charset)
            }
            Some(Question::Recipient) => self.recipient_accepted(),
            Some(Question::Begin(framing)) => {
                self.begin(framing);
                if framing != Framing::Dots {
                    return;
                }
            }
            Some(Question::End) => self.transaction = ServerTransaction::None,
            question @ Some(Question::StartTls(_)) => {
                self.question = question;
                return;
            }
            None => return,
        }
        self.say(response);
    }

    /// No to the question of the last step.
    pub fn refuse(&mut self, response: &Response) {
        match self.question.take() {
            Some(Question::Begin(Framing::Octets(octets, _))) => {
                self.transaction = ServerTransaction::None;
                self.drain_chunk(octets, response.clone());
                return;
            }
            Some(Question::Begin(Framing::Dots) | Question::End) => {
                self.transaction = ServerTransaction::None;
            }
            Some(Question::StartTls(at)) => self.output.truncate(at),
            Some(Question::Authenticate | Question::Sender(_) | Question::Recipient) => {}
            None => return,
        }
        self.refuse_command(response);
    }

    /// Ends the session with `response`: a 421, for a time-out or a stop, or as the answer to the
    /// last step. Says nothing if it has ended already.
    pub fn close(&mut self, response: &Response) {
        self.question = None;
        self.say(response);
        self.phase = Phase::Closed;
    }

    /// Takes the next step, removing from the front of `input` what it used.
    pub fn step<'i>(&mut self, input: &mut &'i [u8]) -> ServerStep<'i> {
        match self.question {
            // Whatever comes now was not protected by the handshake that was agreed on.
            Some(Question::StartTls(_)) => self.phase = Phase::Closed,
            Some(_) => self.refuse(&UNANSWERED),
            None => {}
        }
        if std::mem::take(&mut self.reset_due) {
            return ServerStep::Reset;
        }
        loop {
            let said = self.output.len();
            let step = match &mut self.phase {
                Phase::Closed => Some(ServerStep::Close),
                Phase::Commands => self.next_command(input),
                Phase::Skipping(error) => {
                    let error = *error;
                    self.skip_to_line_end(input).or_else(|| self.command_failed(error))
                }
                Phase::Data(_) => self.next_data(input),
                Phase::Chunk(left, part) => {
                    let (left, part) = (*left, *part);
                    self.next_chunk(left, part, input)
                }
                Phase::Draining(left, _) => {
                    let left = *left;
                    self.drain(left, input)
                }
                Phase::Dialogue => Some(self.next_response(input)),
                Phase::SkippingResponse => {
                    Some(self.skip_to_line_end(input).unwrap_or_else(|| self.response_too_long()))
                }
            };
            if let Some(step) = step {
                return step;
            }
            // Once: who does not write them is not asked again.
            if said <= OUTPUT_OCTETS && self.output.len() > OUTPUT_OCTETS {
                return ServerStep::Output;
            }
        }
    }

    fn command_failed<'i>(&mut self, error: CommandError) -> Option<ServerStep<'i>> {
        let response = if error == CommandError::AuthNotOffered && self.needs_tls() {
            // RFC 4954 §6.
            Response::fixed(538, Status::permanent(7, 11), "Encryption required, STARTTLS first")
        } else {
            error.response()
        };
        self.refuse_unasked(&response);
        if error.is_fatal() {
            self.phase = Phase::Closed;
        }
        None
    }

    /// Would a user have to begin with STARTTLS?
    fn needs_tls(&self) -> bool {
        self.settings.access == SessionAccess::Users
            && self.settings.channel == SessionChannel::Clear
    }

    /// A refusal that the caller learns of by [`Session::take_refusals`] only.
    fn refuse_unasked(&mut self, response: &Response) {
        self.refusals.push(response.clone());
        self.refuse_command(response);
    }

    /// Answers, and closes the session if that was one refusal too many.
    fn refuse_command(&mut self, response: &Response) {
        if response.class() == Class::Permanent {
            self.errors += 1;
        }
        if self.errors > self.settings.errors_max {
            self.refusals.push(TOO_MANY_ERRORS);
            self.close(&TOO_MANY_ERRORS);
        } else {
            self.say(response);
        }
    }

    /// A client that was sent away gets nothing more.
    fn say(&mut self, response: &Response) {
        if !matches!(self.phase, Phase::Closed) {
            response.write_to(&mut self.output);
        }
    }
}
