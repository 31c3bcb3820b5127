//! The server side of an SMTP session (RFC 5321 §4.1.4), as a state machine.
//!
//! No I/O and no clock. The caller hands in whatever it has read, does what each [`Step`] says, and
//! writes [`Session::output`] whenever a step asks for more input, so pipelined commands get their
//! replies together (RFC 2920 §3.2). How the input is cut into pieces changes nothing.
//!
//! ```text
//! greeting ─EHLO▶ ready ─MAIL▶ sender ─RCPT▶ recipients ─DATA▶ content ─end▶ ready
//!                   ▲─────────────RSET, EHLO───────────┘
//! ```
//!
//! The session knows the order and form of commands; whether a sender, recipient or message is
//! taken is asked of the caller. A question that gets no answer counts as refused for now: no
//! mistake of a caller becomes a promise.

use crate::address::Domain;
use crate::command::{ClientName, Command, CommandError, Mail, Offer, Recipient, too_long};
use crate::data::{Chunk, DataReceiver, Fault, Newlines};
use crate::response::Response;
use crate::status::{Class, Status};

/// What a session is for its whole life.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Our name in the greeting and the reply to EHLO.
    pub hostname: Domain,
    /// The extensions.
    pub offer: Offer,
    /// Refused commands before the session is closed.
    pub errors_max: u32,
    /// How line ends in content are read.
    pub newlines: Newlines,
}

/// Which protocol the client chose with its greeting.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Protocol {
    /// HELO.
    Smtp,
    /// EHLO.
    Esmtp,
}

/// Who the client says it is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Client {
    /// HELO or EHLO.
    pub protocol: Protocol,
    /// Its argument.
    pub name: ClientName,
}

/// What the caller does next.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Step<'i> {
    /// Write [`Session::output`], then come back with more input. What was left of the input must
    /// stand in front of it; that is never more than one command line.
    Input,
    /// May this sender begin a transaction now? Answer.
    Sender(Mail),
    /// May this recipient be added? Answer.
    Recipient(Recipient),
    /// The message comes: can it be taken? Answer.
    Begin,
    /// Content, as it shall be kept. A piece never ends between CR and LF.
    Content(&'i [u8]),
    /// The message is complete. Answer, once it is safe.
    End,
    /// The message was refused for its content, or at MAIL for the size it would have; drop what was
    /// kept of it.
    Refused(Fault),
    /// The transaction is given up; drop what was kept of it.
    Reset,
    /// Write [`Session::output`] and close the connection.
    Close,
}

/// A question of [`Step`] that waits for its answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Question {
    Sender,
    Recipient,
    Begin,
    End,
}

/// How far the transaction is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Transaction {
    None,
    Sender,
    Recipients,
}

#[derive(Debug)]
enum Phase {
    Commands,
    /// Inside a line that is too long; what to answer at its end.
    Skipping(CommandError),
    Content(DataReceiver),
    Closed,
}

/// A session with one client.
///
/// ```
/// use smtp::command::Offer;
/// use smtp::server::{Session, Settings, Step};
/// use smtp::{Domain, HostName, data::Newlines};
/// let hostname = Domain::Name(HostName::parse("relay.example")?);
/// let offer = Offer::new(1000);
/// let mut session =
///     Session::new(Settings { hostname, offer, errors_max: 20, newlines: Newlines::Strict });
/// let mut input = &b"EHLO client.example\r\nMAIL FROM:<a@b.example>\r\n"[..];
/// assert!(matches!(session.step(&mut input), Step::Sender(_)));
/// session.accept();
/// assert_eq!(session.step(&mut input), Step::Input);
/// assert!(session.output().ends_with(b"\r\n250 2.1.0 Ok\r\n"));
/// # Ok::<(), smtp::HostNameError>(())
/// ```
#[derive(Debug)]
pub struct Session {
    settings: Settings,
    phase: Phase,
    client: Option<Client>,
    transaction: Transaction,
    question: Option<Question>,
    errors: u32,
    output: Vec<u8>,
}

const UNANSWERED: Response =
    Response::fixed(451, Status::transient(3, 0), "Local error in processing");
const BAD_SEQUENCE: Status = Status::permanent(5, 1);
const TOO_MANY_ERRORS: Response =
    Response::fixed(421, Status::transient(7, 0), "Too many errors, closing the connection");

impl Session {
    /// Begins a session; its greeting is in [`Session::output`].
    pub fn new(settings: Settings) -> Self {
        let mut session = Self {
            settings,
            phase: Phase::Commands,
            client: None,
            transaction: Transaction::None,
            question: None,
            errors: 0,
            output: Vec::new(),
        };
        session.say(&Response::plain(220, format!("{} ESMTP", session.settings.hostname)));
        session
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

    /// Is a message being received? Then a stop waits for its end.
    pub fn is_in_content(&self) -> bool {
        matches!(self.phase, Phase::Content(_)) || self.question == Some(Question::End)
    }

    /// Yes to the question of the last step.
    pub fn accept(&mut self) {
        let response = match self.question {
            Some(Question::Sender) => Response::fixed(250, Status::success(1, 0), "Ok"),
            Some(Question::Recipient) => Response::fixed(250, Status::success(1, 5), "Ok"),
            Some(Question::Begin) => Response::plain(354, "End data with <CR><LF>.<CR><LF>"),
            Some(Question::End) | None => Response::fixed(250, Status::success(0, 0), "Ok"),
        };
        self.accept_with(&response);
    }

    /// Yes, in other words: `response` must be of the class that [`Session::accept`] would use.
    pub fn accept_with(&mut self, response: &Response) {
        match self.question.take() {
            Some(Question::Sender) => self.transaction = Transaction::Sender,
            Some(Question::Recipient) => self.transaction = Transaction::Recipients,
            Some(Question::Begin) => {
                let Settings { newlines, offer, .. } = self.settings;
                self.phase = Phase::Content(DataReceiver::new(newlines, offer.size_max()));
            }
            Some(Question::End) => self.transaction = Transaction::None,
            None => return,
        }
        self.say(response);
    }

    /// No to the question of the last step.
    pub fn refuse(&mut self, response: &Response) {
        match self.question.take() {
            Some(Question::Begin | Question::End) => self.transaction = Transaction::None,
            Some(Question::Sender | Question::Recipient) => {}
            None => return,
        }
        self.refuse_command(response);
    }

    /// Ends the session with `response`: a 421, for a time-out or a stop. Says nothing if it has
    /// ended already.
    pub fn close(&mut self, response: &Response) {
        if !matches!(self.phase, Phase::Closed) {
            self.say(response);
            self.phase = Phase::Closed;
        }
    }

    /// Takes the next step, removing from the front of `input` what it used.
    pub fn step<'i>(&mut self, input: &mut &'i [u8]) -> Step<'i> {
        if self.question.is_some() {
            self.refuse(&UNANSWERED);
        }
        loop {
            match &mut self.phase {
                Phase::Closed => return Step::Close,
                Phase::Content(receiver) => match receiver.next(input) {
                    Chunk::NeedInput => return Step::Input,
                    Chunk::Content(content) => return Step::Content(content),
                    Chunk::End => {
                        let fault = receiver.fault();
                        return self.content_ended(fault);
                    }
                },
                Phase::Skipping(error) => {
                    let error = *error;
                    if skip_line(input).is_none() {
                        return Step::Input;
                    }
                    self.phase = Phase::Commands;
                    self.command_failed(error);
                }
                Phase::Commands => {
                    let Some(line) = split_line(input) else {
                        if input.len() <= self.settings.offer.line_octets_max() {
                            return Step::Input;
                        }
                        self.phase = Phase::Skipping(too_long(input));
                        continue;
                    };
                    if let Some(step) = self.line(line) {
                        return step;
                    }
                }
            }
        }
    }

    fn line<'i>(&mut self, line: &[u8]) -> Option<Step<'i>> {
        match Command::parse(line, self.settings.offer) {
            Ok(command) => self.command(command),
            Err(error) => {
                self.command_failed(error);
                None
            }
        }
    }

    fn command<'i>(&mut self, command: Command) -> Option<Step<'i>> {
        match command {
            Command::Ehlo(name) => return self.greeted(Protocol::Esmtp, name),
            Command::Helo(name) => return self.greeted(Protocol::Smtp, name),
            Command::Mail(mail) => return self.mail(mail),
            Command::Rcpt(recipient) => return self.rcpt(recipient),
            Command::Data => return self.data(),
            Command::Rset => {
                self.say(&Response::fixed(250, Status::success(0, 0), "Ok"));
                return self.reset();
            }
            Command::Quit => {
                self.close(&Response::fixed(221, Status::success(0, 0), "Bye"));
                return Some(Step::Close);
            }
            Command::Noop => self.say(&Response::fixed(250, Status::success(0, 0), "Ok")),
            Command::Help => self.say(&Response::fixed(
                214,
                Status::success(0, 0),
                "EHLO HELO MAIL RCPT DATA RSET NOOP VRFY HELP QUIT\nSee RFC 5321",
            )),
            Command::Vrfy => self.say(&Response::fixed(
                252,
                Status::success(0, 0),
                "Send some mail, I will try my best",
            )),
        }
        None
    }

    fn greeted<'i>(&mut self, protocol: Protocol, name: ClientName) -> Option<Step<'i>> {
        let mut text = self.settings.hostname.to_string();
        if protocol == Protocol::Esmtp {
            for keyword in self.settings.offer.keywords() {
                text.push('\n');
                text.push_str(&keyword);
            }
        }
        self.client = Some(Client { protocol, name });
        self.say(&Response::plain(250, text));
        self.reset()
    }

    fn mail<'i>(&mut self, mail: Mail) -> Option<Step<'i>> {
        if self.client.is_none() {
            return self.out_of_order("EHLO first");
        }
        if self.transaction != Transaction::None {
            return self.out_of_order("Sender already given");
        }
        // RFC 1870 §6.1: no need to wait for the content.
        if mail.size.is_some_and(|size| size > self.settings.offer.size_max()) {
            self.refuse_command(&Fault::TooLarge.response());
            return Some(Step::Refused(Fault::TooLarge));
        }
        self.ask(Question::Sender, Step::Sender(mail))
    }

    fn rcpt<'i>(&mut self, recipient: Recipient) -> Option<Step<'i>> {
        match self.transaction {
            Transaction::None => self.out_of_order("MAIL first"),
            Transaction::Sender | Transaction::Recipients => {
                self.ask(Question::Recipient, Step::Recipient(recipient))
            }
        }
    }

    fn data<'i>(&mut self) -> Option<Step<'i>> {
        match self.transaction {
            Transaction::None => self.out_of_order("MAIL first"),
            Transaction::Sender => self.out_of_order("No valid recipient"),
            Transaction::Recipients => self.ask(Question::Begin, Step::Begin),
        }
    }

    fn content_ended<'i>(&mut self, fault: Option<Fault>) -> Step<'i> {
        self.phase = Phase::Commands;
        match fault {
            None => {
                self.question = Some(Question::End);
                Step::End
            }
            Some(fault) => {
                self.transaction = Transaction::None;
                self.refuse_command(&fault.response());
                Step::Refused(fault)
            }
        }
    }

    fn ask<'i>(&mut self, question: Question, step: Step<'i>) -> Option<Step<'i>> {
        self.question = Some(question);
        Some(step)
    }

    fn reset<'i>(&mut self) -> Option<Step<'i>> {
        match self.transaction {
            Transaction::None => None,
            Transaction::Sender | Transaction::Recipients => {
                self.transaction = Transaction::None;
                Some(Step::Reset)
            }
        }
    }

    fn out_of_order<'i>(&mut self, text: &'static str) -> Option<Step<'i>> {
        self.refuse_command(&Response::fixed(503, BAD_SEQUENCE, text));
        None
    }

    fn command_failed(&mut self, error: CommandError) {
        self.refuse_command(&error.response());
        // RFC 5321 §3.8 wants sessions kept open; this is no SMTP client.
        if error == CommandError::Http {
            self.phase = Phase::Closed;
        }
    }

    /// Answers, and closes the session if that was one refusal too many.
    fn refuse_command(&mut self, response: &Response) {
        if response.class() == Class::Permanent {
            self.errors += 1;
        }
        if self.errors > self.settings.errors_max {
            self.close(&TOO_MANY_ERRORS);
        } else {
            self.say(response);
        }
    }

    fn say(&mut self, response: &Response) {
        response.write_to(&mut self.output);
    }
}

/// Takes a whole line off the input and returns it without its CRLF.
fn split_line<'i>(input: &mut &'i [u8]) -> Option<&'i [u8]> {
    let all = *input;
    let end = line_end(all)?;
    *input = all.get(end + 2..).unwrap_or_default();
    all.get(..end)
}

/// Takes what belongs to the current line; `None` if its end is not there yet.
fn skip_line(input: &mut &[u8]) -> Option<()> {
    let all = *input;
    if let Some(end) = line_end(all) {
        *input = all.get(end + 2..).unwrap_or_default();
        return Some(());
    }
    // The LF to a final CR may follow.
    *input = if all.ends_with(b"\r") { b"\r" } else { b"" };
    None
}

fn line_end(bytes: &[u8]) -> Option<usize> {
    memchr::memchr_iter(b'\n', bytes)
        .filter_map(|at| at.checked_sub(1))
        .find(|at| bytes.get(*at) == Some(&b'\r'))
}
