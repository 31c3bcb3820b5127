//! A caller of the server session as simple as it can be: what it takes, it keeps; TLS is a
//! handshake without octets; there is one user.
//!
//! While it plays, it checks what has to hold whatever the client sends.

use smtp::Extension;
use smtp::command::{FutureRelease, Offer, OfferedLimits, Recipient, SessionChannel};
use smtp::data::Newlines;
use smtp::sasl::{LOGIN_NAME_PROMPT, LOGIN_PASSWORD_PROMPT, Mechanism, Mechanisms, Plain, Secret};
use smtp::server::{ServerStep, Session, SessionAccess, SessionSettings};
use smtp::{Domain, HostName, Response, ReversePath, Status};

/// The largest message that is taken, in octets.
pub(crate) const SIZE_MAX: u64 = 1000;
/// The one user's password; its name is `user`.
pub(crate) const PASSWORD: &str = "secret";
/// More than any line: what a caller may have to keep between two reads.
const LEFT_OVER_MAX: usize = 12_288;

/// Everything that can be offered.
pub(crate) fn full_offer() -> Offer {
    let mechanisms = Mechanisms::NONE.with(Mechanism::Plain).with(Mechanism::Login);
    [
        Extension::Pipelining,
        Extension::EightBitMime,
        Extension::EnhancedStatusCodes,
        Extension::Chunking,
        Extension::SmtpUtf8,
        Extension::Dsn,
        Extension::RequireTls,
        Extension::Starttls,
    ]
    .into_iter()
    .fold(Offer::new(SIZE_MAX), Offer::with)
    .with_limits(OfferedLimits { rcpt_max: Some(100), mail_max: None })
    .with_future_release(FutureRelease::new(86_400, "2026-12-24T18:00:00Z").unwrap())
    .with_deliver_by(60)
    .with(Extension::MtPriority)
    .with_auth(mechanisms)
}

/// A relay at the beginning of a session, with everything offered.
pub(crate) fn relay() -> SessionSettings {
    SessionSettings {
        hostname: Domain::Name(HostName::parse("relay.example").unwrap()),
        offer: full_offer(),
        channel: SessionChannel::Clear,
        access: SessionAccess::Anyone,
        errors_max: 20,
        newlines: Newlines::Strict,
    }
}

/// For users only, under TLS.
pub(crate) fn submission_in_tls() -> SessionSettings {
    SessionSettings { access: SessionAccess::Users, channel: SessionChannel::Tls, ..relay() }
}

/// A message that was taken.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Message {
    pub(crate) sender: ReversePath,
    pub(crate) recipients: Vec<Recipient>,
    pub(crate) content: Vec<u8>,
}

/// What came of a session: all replies, what was asked, and what was taken.
#[derive(Debug, Default, Eq, PartialEq)]
pub(crate) struct Transcript {
    pub(crate) output: String,
    pub(crate) events: Vec<String>,
    pub(crate) messages: Vec<Message>,
    pub(crate) closed: bool,
}

impl Transcript {
    /// The last line of each reply, as far as code and status.
    pub(crate) fn answers(&self) -> Vec<String> {
        let finals = self.output.lines().filter(|line| line.as_bytes().get(3) == Some(&b' '));
        finals.map(|line| line.split(' ').take(2).collect::<Vec<_>>().join(" ")).collect()
    }

    /// What was kept of each message.
    pub(crate) fn contents(&self) -> Vec<&[u8]> {
        self.messages.iter().map(|message| message.content.as_slice()).collect()
    }
}

/// The client sends `input` in pieces of at most `piece` octets.
pub(crate) fn play(settings: SessionSettings, input: &[u8], piece: usize) -> Transcript {
    play_pieces(settings, input.chunks(piece.max(1)))
}

/// The client sends these pieces.
pub(crate) fn play_pieces<'p>(
    settings: SessionSettings,
    pieces: impl IntoIterator<Item = &'p [u8]>,
) -> Transcript {
    let newlines = settings.newlines;
    let mut caller = Caller {
        secured: SessionSettings { channel: SessionChannel::Tls, ..settings.clone() },
        newlines,
        session: Session::new(settings),
        user: None,
        sender: ReversePath::Null,
        recipients: Vec::new(),
        draft: Vec::new(),
        transcript: Transcript::default(),
    };
    // The greeting comes before the client says anything.
    caller.take(b"");
    let mut buffer = Vec::new();
    for piece in pieces {
        buffer.extend_from_slice(piece);
        let left = caller.take(&buffer);
        let is_line = left <= LEFT_OVER_MAX || caller.transcript.closed;
        assert!(is_line, "the caller never has to keep more than a line");
        buffer.drain(..buffer.len() - left);
    }
    caller.transcript
}

struct Caller {
    session: Session,
    secured: SessionSettings,
    newlines: Newlines,
    /// The name that LOGIN was told.
    user: Option<Secret>,
    sender: ReversePath,
    recipients: Vec<Recipient>,
    draft: Vec<u8>,
    transcript: Transcript,
}

impl Caller {
    /// Uses what it can of `input`; how much is left.
    fn take(&mut self, input: &[u8]) -> usize {
        let mut rest = input;
        while let Some(event) = self.advance(&mut rest) {
            self.transcript.events.extend((!event.is_empty()).then_some(event));
        }
        let output = std::str::from_utf8(self.session.output()).unwrap();
        assert!(output.is_ascii() && output.replace("\r\n", "").find(['\r', '\n']).is_none());
        self.transcript.output.push_str(output);
        self.session.written();
        rest.len()
    }

    /// One step; `None` when the session wants more input or has ended.
    fn advance(&mut self, input: &mut &[u8]) -> Option<String> {
        let session = &mut self.session;
        let event = match session.step(input) {
            ServerStep::Input => return None,
            ServerStep::Output => String::new(),
            ServerStep::Close => {
                self.transcript.closed = true;
                return None;
            }
            ServerStep::StartTls => {
                self.transcript.output.push_str(std::str::from_utf8(session.output()).unwrap());
                session.secured(self.secured.clone());
                "tls".to_owned()
            }
            ServerStep::Authenticate { mechanism, initial } => {
                self.user = None;
                self.authenticate(mechanism, initial);
                format!("auth {mechanism}")
            }
            ServerStep::AuthResponse(response) => {
                self.respond(response);
                "auth response".to_owned()
            }
            ServerStep::AuthEnded => "auth ended".to_owned(),
            ServerStep::Sender(mail) => {
                session.accept();
                self.sender = mail.sender;
                format!("sender {}", self.sender)
            }
            ServerStep::Recipient(rcpt) => self.recipient(rcpt.recipient),
            ServerStep::Begin if self.sender.as_str().starts_with("full@") => {
                session.refuse(&Response::new(452, Status::transient(3, 1), "full"));
                self.forget();
                "begin refused".to_owned()
            }
            ServerStep::Begin => {
                session.accept();
                "begin".to_owned()
            }
            ServerStep::Content(content) => {
                assert!(!content.is_empty() && !content.ends_with(b"\r"));
                self.draft.extend_from_slice(content);
                String::new()
            }
            ServerStep::Spoiled => {
                // How early it comes depends on how the input is cut, so it is no event.
                self.draft = Vec::new();
                String::new()
            }
            ServerStep::End => self.keep(),
            ServerStep::Refused(fault) => {
                self.forget();
                format!("{fault:?}")
            }
            ServerStep::Reset => {
                self.forget();
                "reset".to_owned()
            }
        };
        Some(event)
    }

    fn authenticate(&mut self, mechanism: Mechanism, initial: Option<Secret>) {
        match (mechanism, initial) {
            (Mechanism::Plain | Mechanism::Login, Some(response)) => self.respond(response),
            (Mechanism::Plain, None) => self.session.challenge(b""),
            (Mechanism::Login, None) => self.session.challenge(LOGIN_NAME_PROMPT),
            (Mechanism::ScramSha256 | Mechanism::ScramSha256Plus, _) => {
                panic!("{mechanism} is not offered")
            }
        }
    }

    /// Whoever sends no NUL means LOGIN.
    fn respond(&mut self, response: Secret) {
        let right = match (&self.user, Plain::parse(&response)) {
            (None, Some(plain)) => plain.user() == "user" && plain.password() == PASSWORD,
            (None, None) if response.contains(&0) || response.is_empty() => false,
            (None, None) => {
                self.user = Some(response);
                self.session.challenge(LOGIN_PASSWORD_PROMPT);
                return;
            }
            (Some(user), _) => **user == *b"user" && *response == *PASSWORD.as_bytes(),
        };
        if right {
            self.session.authenticated();
        } else {
            let status = Status::permanent(7, 8);
            self.session.refuse(&Response::new(535, status, "Authentication failed"));
        }
        assert_eq!(self.session.is_authenticated(), right);
    }

    /// Recipients called `no` are refused.
    fn recipient(&mut self, recipient: Recipient) -> String {
        match &recipient {
            Recipient::Mailbox(mailbox) if mailbox.local_part() == "no" => {
                self.session.refuse(&Response::new(550, Status::permanent(1, 1), "no"));
                "refused".to_owned()
            }
            Recipient::Mailbox(_) | Recipient::Postmaster => {
                self.session.accept();
                let event = format!("recipient {recipient:?}");
                self.recipients.push(recipient);
                event
            }
        }
    }

    fn keep(&mut self) -> String {
        let content = std::mem::take(&mut self.draft);
        assert_is_clean(&content, self.newlines);
        let recipients = std::mem::take(&mut self.recipients);
        assert!(!recipients.is_empty());
        self.transcript.messages.push(Message { sender: self.sender.clone(), recipients, content });
        self.session.accept();
        "end".to_owned()
    }

    fn forget(&mut self) {
        self.recipients.clear();
        self.draft.clear();
    }
}

/// What is kept can be sent on by anybody without becoming something else.
fn assert_is_clean(content: &[u8], newlines: Newlines) {
    let lines = content.split_inclusive(|octet| *octet == b'\n');
    for line in lines {
        let text = line.strip_suffix(b"\r\n").expect("each line ends with CRLF");
        assert!(
            !text.contains(&b'\r') && !text.contains(&0),
            "{newlines:?}: {}",
            line.escape_ascii()
        );
    }
    // The line end that completes BDAT's last line is not the client's.
    assert!(content.len() as u64 <= SIZE_MAX + 2);
}
