//! What does this command line ask for, and is it written as it must be?
//!
//! Strict where leniency would let two servers read one line in two ways (line ends, parameters,
//! addresses), lenient where every client does it (a space behind the colon). Only what was offered
//! in reply to EHLO is understood (RFC 5321 §2.2.1): see [`Offer`].

mod offer;
mod parameters;
mod path;

use std::fmt;

use crate::address::{AddressError, Domain, Mailbox};
use crate::base64;
use crate::host::HostName;
use crate::remote_text::RemoteText;
use crate::response::Response;
use crate::sasl::{Mechanism, Secret};
use crate::status::Status;

pub use offer::{FutureRelease, Offer, OfferedLimits, SessionChannel};
pub use parameters::{BodyKind, Mail, Rcpt, Recipient};
pub use path::{Brackets, PathError};

/// A command whose form is right, with its arguments.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Command {
    /// `EHLO` with the client's name.
    Ehlo(ClientName),
    /// `HELO` with the client's name.
    Helo(ClientName),
    /// `MAIL FROM`, with the sender and all parameters (RFC 5321 §4.1.1.2).
    Mail(Mail),
    /// `RCPT TO`, with one recipient and all parameters (RFC 5321 §4.1.1.3).
    Rcpt(Rcpt),
    /// `DATA`: lines follow until a lone dot (RFC 5321 §4.1.1.4).
    Data,
    /// `BDAT` (RFC 3030 §2), offered or not: its octets follow either way.
    Bdat {
        /// How many octets follow.
        octets: u64,
        /// Are they the last of the message?
        last: bool,
    },
    /// `RSET`: gives the transaction up (RFC 5321 §4.1.1.5).
    Rset,
    /// `NOOP`; its argument is ignored (RFC 5321 §4.1.1.9).
    Noop,
    /// `HELP`; its argument is ignored (RFC 5321 §4.1.1.8).
    Help,
    /// `VRFY` with an address, which is not kept: the answer is 252 for all (RFC 5321 §3.5.3).
    Vrfy,
    /// `STARTTLS` (RFC 3207), offered or not.
    StartTls,
    /// `AUTH` (RFC 4954) with a mechanism that is offered.
    Auth {
        /// The mechanism that the client chose.
        mechanism: Mechanism,
        /// The initial response, decoded.
        initial: Option<Secret>,
    },
    /// `QUIT`: ends the session (RFC 5321 §4.1.1.10).
    Quit,
}

/// What a client calls itself; nothing is proved by it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ClientName {
    /// A host name or an address literal, as RFC 5321 §4.1.1.1 asks.
    Domain(Domain),
    /// Something else, made inert.
    Other(RemoteText),
}

impl ClientName {
    fn parse(text: &[u8]) -> Self {
        let parsed = std::str::from_utf8(text).ok().and_then(|text| match text.strip_prefix('[') {
            // Read as the domain of an address, since that is where its grammar is known.
            Some(_) => match Mailbox::parse(&format!("x@{text}")).ok()?.domain() {
                Domain::Literal(address) => Some(Domain::Literal(*address)),
                Domain::Name(_) => None,
            },
            None if text.is_ascii() => HostName::parse(text).ok().map(Domain::Name),
            None => None,
        });
        parsed.map_or_else(|| Self::Other(RemoteText::from_bytes(text)), Self::Domain)
    }
}

impl fmt::Display for ClientName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Domain(domain) => domain.fmt(f),
            Self::Other(text) => text.fmt(f),
        }
    }
}

/// Why a line is not a command that can be carried out.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum CommandError {
    /// Longer than its verb may be (RFC 5321 §4.5.3.1.4).
    #[error("line too long")]
    LineTooLong,
    /// A control character, so also a bare CR, or octets over 127 where none can be meant.
    #[error("control or undecodable characters in a command")]
    NotText,
    /// Not an SMTP verb.
    #[error("unknown command")]
    Unknown,
    /// A verb of SMTP that is not offered here.
    #[error("command not offered")]
    NotOffered,
    /// AUTH where no mechanism is offered.
    #[error("AUTH is not offered")]
    AuthNotOffered,
    /// AUTH with a mechanism that is not among those offered (RFC 4954 §4).
    #[error("authentication mechanism not offered")]
    Mechanism,
    /// Something of AUTH that should be base64 (RFC 4954 §4).
    #[error("not base64")]
    Base64,
    /// A BDAT that cannot be read. Nobody knows how many octets follow that are not commands, so
    /// the session cannot go on.
    #[error("syntax: BDAT octets [LAST], closing the connection")]
    Chunk,
    /// The client speaks HTTP: somebody makes a browser talk to us.
    #[error("this is not a web server")]
    Http,
    /// The client speaks TLS where the protocol begins in clear text.
    #[error(
        "TLS on a port that begins in clear text: use STARTTLS, or a port for TLS from the start"
    )]
    Tls,
    /// A line that ends in LF alone (RFC 5321 §2.3.8). What stands behind it may come from another
    /// hand than this line.
    #[error("the line ends in LF alone, lines of SMTP end in CR LF; closing the connection")]
    BareLf,
    /// The command's fixed form is not met.
    #[error("syntax: {0}")]
    Syntax(&'static str),
    /// The reverse path is wrong.
    #[error("sender: {0}")]
    Sender(PathError),
    /// The forward path is wrong.
    #[error("recipient: {0}")]
    Recipient(PathError),
    /// A parameter of no extension that is offered.
    #[error("parameter not known or not offered")]
    UnknownParameter,
    /// A parameter with a bad value, or twice.
    #[error("parameter malformed or repeated")]
    BadParameter,
}

impl CommandError {
    /// The reply to the client: 5yz with an enhanced code.
    pub fn response(&self) -> Response {
        let (code, status) = match self {
            Self::LineTooLong | Self::NotText | Self::BareLf => (500, Status::permanent(5, 2)),
            Self::Unknown | Self::Tls => (500, Status::permanent(5, 1)),
            Self::NotOffered | Self::AuthNotOffered | Self::Http => (502, Status::permanent(5, 1)),
            Self::Mechanism => (504, Status::permanent(5, 4)),
            Self::Base64 => (501, Status::permanent(5, 2)),
            Self::Syntax(_) | Self::BadParameter | Self::Chunk => (501, Status::permanent(5, 4)),
            Self::UnknownParameter => (555, Status::permanent(5, 4)),
            // RFC 6531 §3.5.
            Self::Sender(PathError::Address(AddressError::NotAscii)) => {
                (550, Status::permanent(6, 7))
            }
            Self::Recipient(PathError::Address(AddressError::NotAscii)) => {
                (553, Status::permanent(6, 7))
            }
            Self::Sender(PathError::Address(AddressError::BadDomain(_))) => {
                (501, Status::permanent(1, 8))
            }
            Self::Recipient(PathError::Address(AddressError::BadDomain(_))) => {
                (501, Status::permanent(1, 2))
            }
            Self::Sender(_) => (501, Status::permanent(1, 7)),
            Self::Recipient(_) => (501, Status::permanent(1, 3)),
        };
        Response::new(code, status, self.to_string())
    }

    /// Must the session end? RFC 5321 §3.8 wants it kept open, but this client speaks another
    /// protocol, or what it sends next is content that would be read as commands.
    pub(crate) const fn is_fatal(self) -> bool {
        matches!(self, Self::Http | Self::Chunk | Self::Tls | Self::BareLf)
    }
}

/// Verbs of SMTP and its extensions that are answered 502.
const OTHER_VERBS: [&str; 8] = ["EXPN", "TURN", "SEND", "SOML", "SAML", "ETRN", "ATRN", "LHLO"];
/// Verbs whose arguments may have octets over 127, if only by SMTPUTF8 or by the habit of clients
/// to send what their machine is called.
const EIGHTBIT_VERBS: [&str; 5] = ["EHLO", "HELO", "MAIL", "RCPT", "VRFY"];

/// Methods of HTTP, and the first word of HTTP/2.
const HTTP_VERBS: [&str; 10] =
    ["GET", "POST", "PUT", "HEAD", "DELETE", "OPTIONS", "CONNECT", "TRACE", "PATCH", "PRI"];

impl Command {
    /// Reads one line, without its CRLF.
    ///
    /// ```
    /// use smtp::command::{Command, Offer};
    /// let Command::Mail(mail) = Command::parse(b"MAIL FROM:<a@b.example> SIZE=9", Offer::new(10))?
    /// else { unreachable!() };
    /// assert_eq!(mail.size, Some(9));
    /// # Ok::<(), smtp::command::CommandError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`CommandError`], which knows its answer.
    pub fn parse(line: &[u8], offer: Offer) -> Result<Self, CommandError> {
        let (verb, rest) = split_verb(line);
        let is = |name: &str| verb.eq_ignore_ascii_case(name.as_bytes());
        if line.len() + 2 > offer.line_octets(verb) {
            return Err(too_long(line));
        }
        let has_control = line.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t');
        if is("BDAT") {
            return parse_bdat(rest).filter(|_| !has_control).ok_or(CommandError::Chunk);
        }
        if has_control || !line.is_ascii() && !EIGHTBIT_VERBS.into_iter().any(is) {
            return Err(CommandError::NotText);
        }
        let bare = |command| {
            if rest.is_empty() {
                Ok(command)
            } else {
                Err(CommandError::Syntax("no argument expected"))
            }
        };
        match () {
            () if is("MAIL") => Mail::parse(after_keyword(rest, "FROM:")?, offer).map(Self::Mail),
            () if is("RCPT") => Rcpt::parse(after_keyword(rest, "TO:")?, offer).map(Self::Rcpt),
            () if is("DATA") => bare(Self::Data),
            () if is("RSET") => bare(Self::Rset),
            () if is("QUIT") => bare(Self::Quit),
            () if is("EHLO") => client_name(rest).map(Self::Ehlo),
            () if is("HELO") => client_name(rest).map(Self::Helo),
            () if is("NOOP") => Ok(Self::Noop),
            () if is("HELP") => Ok(Self::Help),
            () if is("VRFY") && rest.is_empty() => Err(CommandError::Syntax("VRFY address")),
            () if is("VRFY") => Ok(Self::Vrfy),
            () if is("STARTTLS") => bare(Self::StartTls),
            () if is("AUTH") => parse_auth(rest, offer),
            () if OTHER_VERBS.into_iter().any(is) => Err(CommandError::NotOffered),
            () => Err(if is_http(verb) { CommandError::Http } else { CommandError::Unknown }),
        }
    }
}

/// What is wrong with a line that begins like this and is too long.
pub(crate) fn too_long(front: &[u8]) -> CommandError {
    match split_verb(front).0 {
        verb if is_http(verb) => CommandError::Http,
        verb if verb.eq_ignore_ascii_case(b"BDAT") => CommandError::Chunk,
        _ => CommandError::LineTooLong,
    }
}

/// HTTP's methods are written in capitals only (RFC 9110 §9.1).
fn is_http(verb: &[u8]) -> bool {
    HTTP_VERBS.iter().any(|method| method.as_bytes() == verb)
}

/// Trailing white space is tolerated (RFC 5321 §4.1.1).
fn split_verb(line: &[u8]) -> (&[u8], &[u8]) {
    let line = line.trim_ascii_end();
    let end = line.iter().position(|byte| matches!(byte, b' ' | b'\t')).unwrap_or(line.len());
    let (verb, rest) = line.split_at_checked(end).unwrap_or((line, b""));
    (verb, rest.trim_ascii_start())
}

fn client_name(rest: &[u8]) -> Result<ClientName, CommandError> {
    if rest.is_empty() {
        return Err(CommandError::Syntax("a host name is expected"));
    }
    Ok(ClientName::parse(rest))
}

/// What stands behind `FROM:` or `TO:`; a space before the path is tolerated.
fn after_keyword<'l>(rest: &'l [u8], keyword: &'static str) -> Result<&'l [u8], CommandError> {
    let form = if keyword == "TO:" { "RCPT TO:<address>" } else { "MAIL FROM:<address>" };
    let (front, behind) = rest.split_at_checked(keyword.len()).ok_or(CommandError::Syntax(form))?;
    let found = front.eq_ignore_ascii_case(keyword.as_bytes());
    found.then(|| behind.trim_ascii_start()).ok_or(CommandError::Syntax(form))
}

/// RFC 3030 §2. More digits than 64 bits have are no number of octets.
fn parse_bdat(rest: &[u8]) -> Option<Command> {
    let mut words = std::str::from_utf8(rest).ok()?.split_ascii_whitespace();
    let octets =
        words.next().filter(|word| word.bytes().all(|b| b.is_ascii_digit()))?.parse().ok()?;
    let last = match words.next() {
        Some(word) if word.eq_ignore_ascii_case("LAST") => true,
        Some(_) => return None,
        None => false,
    };
    words.next().is_none().then_some(Command::Bdat { octets, last })
}

/// RFC 4954 §4. `=` is an initial response without octets, which is not the same as none.
fn parse_auth(rest: &[u8], offer: Offer) -> Result<Command, CommandError> {
    if offer.mechanisms().is_empty() {
        return Err(CommandError::AuthNotOffered);
    }
    let mut words = rest.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    let name = words.next().ok_or(CommandError::Syntax("AUTH mechanism"))?;
    let mechanism = Mechanism::parse(name)
        .filter(|mechanism| offer.mechanisms().has(*mechanism))
        .ok_or(CommandError::Mechanism)?;
    let initial = match words.next() {
        None => None,
        Some(b"=") => Some(Vec::new().into()),
        Some(text) => Some(base64::decode(text).ok_or(CommandError::Base64)?.into()),
    };
    match words.next() {
        None => Ok(Command::Auth { mechanism, initial }),
        Some(_) => Err(CommandError::Syntax("AUTH mechanism [initial-response]")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::address::ReversePath;
    use crate::extensions::Extension;
    use crate::params::*;
    use crate::sasl::Mechanisms;

    const OFFER: Offer = Offer::new(1_000_000).with(Extension::EightBitMime);

    fn parse(line: &str) -> Result<Command, CommandError> {
        Command::parse(line.as_bytes(), OFFER)
    }

    fn answer(line: &[u8]) -> String {
        Command::parse(line, OFFER).map_or_else(
            |error| {
                let response = error.response();
                format!("{} {}", response.code(), response.status().unwrap())
            },
            |command| format!("{command:?}"),
        )
    }

    #[test]
    fn paths_are_kept_as_written_and_routes_dropped() {
        let cases = [
            ("RCPT TO:<User+Tag@Example.COM>", "User+Tag@Example.COM"),
            ("rcpt to:<a@b.example>", "a@b.example"),
            ("RCPT TO: <a@b.example>  ", "a@b.example"),
            (r#"RCPT TO:<"a b>c\"<"@d.example>"#, r#""a b>c\"<"@d.example"#),
            ("RCPT TO:<@a.example,@b.example:u@c.example>", "u@c.example"),
            ("RCPT TO:<@[IPv6:2001:db8::1]:u@c.example>", "u@c.example"),
            ("RCPT TO:<a@[192.0.2.1]>", "a@[192.0.2.1]"),
        ];
        for (line, want) in cases {
            let Ok(Command::Rcpt(Rcpt { recipient: Recipient::Mailbox(mailbox), .. })) =
                parse(line)
            else {
                panic!("{line}: {:?}", parse(line));
            };
            assert_eq!(mailbox.as_str(), want, "{line}");
        }
        let postmaster = Command::Rcpt(Rcpt::to(Recipient::Postmaster));
        assert_eq!(parse("RCPT TO:<POSTmaster>"), Ok(postmaster));
    }

    #[test]
    fn mail_takes_the_parameters_that_are_offered_and_no_others() {
        let mail =
            |size, body| Ok(Command::Mail(Mail { size, body, ..Mail::from(ReversePath::Null) }));
        let cases = [
            ("MAIL FROM:<>", mail(None, None)),
            ("MAIL FROM: <>", mail(None, None)),
            ("MAIL FROM:<> SIZE=10", mail(Some(10), None)),
            ("mail from:<> size=10  body=8bitmime", mail(Some(10), Some(BodyKind::EightBitMime))),
            ("MAIL FROM:<> BODY=7BIT", mail(None, Some(BodyKind::SevenBit))),
            ("MAIL FROM:<> SIZE=99999999999999999999", mail(Some(u64::MAX), None)),
            ("MAIL FROM:<> SIZE=123456789012345678901", Err(CommandError::BadParameter)),
            ("MAIL FROM:<> SIZE=", Err(CommandError::BadParameter)),
            ("MAIL FROM:<> SIZE", Err(CommandError::BadParameter)),
            ("MAIL FROM:<> SIZE=-1", Err(CommandError::BadParameter)),
            ("MAIL FROM:<> SIZE=1 SIZE=1", Err(CommandError::BadParameter)),
            ("MAIL FROM:<> BODY=BINARYMIME", Err(CommandError::BadParameter)),
            ("MAIL FROM:<> =1", Err(CommandError::BadParameter)),
            ("MAIL FROM:<> REQUIRETLS", Err(CommandError::UnknownParameter)),
            ("MAIL FROM:<> SMTPUTF8", Err(CommandError::UnknownParameter)),
            ("MAIL FROM:<> AUTH=<>", Err(CommandError::UnknownParameter)),
            ("MAIL FROM:<>SIZE=1", Err(CommandError::Sender(PathError::Brackets))),
        ];
        for (line, want) in cases {
            assert_eq!(parse(line), want, "{line}");
        }
        let bare = Command::parse(b"MAIL FROM:<> BODY=7BIT", Offer::new(1));
        assert_eq!(bare, Err(CommandError::UnknownParameter), "8BITMIME is not offered");
    }

    /// Everything that has parameters.
    fn full_offer() -> Offer {
        [Extension::EightBitMime, Extension::SmtpUtf8, Extension::Dsn, Extension::RequireTls]
            .into_iter()
            .fold(Offer::new(1_000_000), Offer::with)
            .with_future_release(FutureRelease::new(3600, "2026-12-24T18:00:00Z").unwrap())
            .with_deliver_by(60)
            .with(Extension::MtPriority)
            .with_auth(Mechanisms::NONE.with(Mechanism::Plain).with(Mechanism::Login))
    }

    /// The code that a line is refused with, or the command.
    fn parse_full(line: &str) -> Result<Command, u16> {
        Command::parse(line.as_bytes(), full_offer()).map_err(|error| error.response().code())
    }

    #[test]
    fn every_parameter_that_is_offered_is_kept_with_its_meaning() {
        let line = "MAIL FROM:<j\u{fc}@m\u{fc}.example> SIZE=7 BODY=8BITMIME SMTPUTF8 RET=HDRS \
                    ENVID=a+20b REQUIRETLS HOLDFOR=60 BY=-5;NT MT-PRIORITY=-3 AUTH=x+40y";
        let want = Mail {
            brackets: Brackets::Written,
            sender: ReversePath::parse_utf8("j\u{fc}@m\u{fc}.example").unwrap(),
            size: Some(7),
            body: Some(BodyKind::EightBitMime),
            smtp_utf8: true,
            ret: Some(Return::Headers),
            envelope_id: EnvelopeId::parse("a+20b"),
            require_tls: true,
            hold: Some(Hold::For(60)),
            deliver_by: Some(DeliverBy { seconds: -5, mode: ByMode::Notify, trace: true }),
            priority: Priority::new(-3),
            auth: true,
        };
        assert_eq!(parse_full(line), Ok(Command::Mail(want)));
        assert_eq!(parse(line).map_err(|e| e.response().code()), Err(550), "nothing is offered");

        let line = "RCPT TO:<a@b.example> notify=failure,delay orcpt=rfc822;x+2By@z.example";
        let want = Rcpt {
            brackets: Brackets::Written,
            notify: Some(Notify::On { success: false, failure: true, delay: true }),
            original: OriginalRecipient::parse("rfc822;x+2By@z.example"),
            ..Rcpt::to(Recipient::Mailbox(Mailbox::parse("a@b.example").unwrap()))
        };
        assert_eq!(parse_full(line), Ok(Command::Rcpt(want)));
    }

    #[test]
    fn sv_07_each_parameter_is_555_unless_offered_and_501_when_wrong_or_repeated() {
        let mail = [
            ("SMTPUTF8", "SMTPUTF8=x"),
            ("RET=FULL", "RET=ALL"),
            ("ENVID=x", "ENVID=+2"),
            ("REQUIRETLS", "REQUIRETLS=yes"),
            ("HOLDFOR=3600", "HOLDFOR=3601"),
            ("HOLDUNTIL=2026-12-24T18:00:00Z", "HOLDUNTIL=60"),
            ("BY=60;R", "BY=59;R"),
            ("BY=0;N", "BY=0;R"),
            ("MT-PRIORITY=9", "MT-PRIORITY=10"),
            ("AUTH=<>", "AUTH=+"),
            ("AUTH=a+40b", "AUTH"),
        ];
        let rcpt = [("NOTIFY=NEVER", "NOTIFY=NEVER,DELAY"), ("ORCPT=rfc822;a", "ORCPT=a")];
        let cases = mail
            .map(|(good, bad)| ("MAIL FROM:<>", good, bad))
            .into_iter()
            .chain(rcpt.map(|(good, bad)| ("RCPT TO:<a@b.example>", good, bad)));
        for (front, good, bad) in cases {
            assert!(parse_full(&format!("{front} {good}")).is_ok(), "{good}");
            assert_eq!(parse_full(&format!("{front} {bad}")), Err(501), "{bad}");
            assert_eq!(parse_full(&format!("{front} {good} {good}")), Err(501), "{good} twice");
            assert_eq!(parse_full(&format!("{front} {good} X=y")), Err(555));
            let bare = Command::parse(format!("{front} {good}").as_bytes(), Offer::new(9));
            assert_eq!(bare, Err(CommandError::UnknownParameter), "{good}");
        }
        let both = "MAIL FROM:<> HOLDFOR=1 HOLDUNTIL=2026-12-24T18:00:00Z";
        assert_eq!(parse_full(both), Err(501), "RFC 4865: one of the two");
    }

    #[test]
    fn utf8_stands_where_smtputf8_allows_it() {
        for (line, want) in [
            ("MAIL FROM:<\u{fc}@b.example>", Some(550)),
            ("MAIL FROM:<\u{fc}@b.example> SMTPUTF8", None),
            ("MAIL FROM:<> ENVID=\u{fc}", Some(501)),
            ("MAIL FROM:<> X=\u{fc}", Some(555)),
            // The session knows whether this is an SMTPUTF8 transaction.
            ("RCPT TO:<\u{fc}@b.example>", None),
            ("RCPT TO:<a@b.example> ORCPT=utf-8;\u{fc}@b.example", None),
            ("RCPT TO:<a@b.example> ORCPT=rfc822;\u{fc}@b.example", Some(501)),
            ("VRFY \u{fc}", None),
            ("EHLO \u{fc}", None),
            ("HELP \u{fc}", Some(500)),
        ] {
            assert_eq!(parse_full(line).err(), want, "{line}");
        }
    }

    #[test]
    fn auth_takes_mechanisms_that_are_offered_and_base64() {
        let auth = |mechanism, initial: Option<&[u8]>| {
            Ok(Command::Auth { mechanism, initial: initial.map(|octets| octets.to_vec().into()) })
        };
        for (line, want) in [
            ("AUTH PLAIN", auth(Mechanism::Plain, None)),
            ("auth plain =", auth(Mechanism::Plain, Some(b""))),
            ("AUTH LOGIN dXNlcg==", auth(Mechanism::Login, Some(b"user"))),
            ("AUTH PLAIN dXNlcg", Err(501)),
            ("AUTH PLAIN dXNl*g==", Err(501)),
            ("AUTH PLAIN = x", Err(501)),
            ("AUTH", Err(501)),
            ("AUTH SCRAM-SHA-256", Err(504)),
            ("AUTH GSSAPI", Err(504)),
        ] {
            assert_eq!(parse_full(line), want, "{line}");
        }
        // With CRLF 12,285 and 12,289 octets, of which 12,288 are allowed.
        for (characters, want) in [(12_272, None), (12_276, Some(500))] {
            let long = format!("AUTH PLAIN {}", "A".repeat(characters));
            assert_eq!(parse_full(&long).err(), want, "{characters}");
        }
    }

    #[test]
    fn each_mistake_has_its_code() {
        let long_path = format!("MAIL FROM:<{}@example.com>", "a".repeat(600));
        let long_line = format!("NOOP {}", "a".repeat(506));
        let cases: &[(&[u8], &str)] = &[
            (b"MAIL LALA: <>", "501 5.5.4"),
            (b"MAIL FROM:", "501 5.1.7"),
            (b"MAIL FROM:a", "501 5.1.7"),
            (b"MAIL FROM:\"a\"@b.example", "501 5.1.7"),
            (b"MAIL FROM:@c.example:a@b.example", "501 5.1.7"),
            (b"MAIL FROM:a@b.example>", "501 5.1.7"),
            (b"MAIL FROM:a@b.example,c@d.example", "501 5.1.7"),
            (b"RCPT TO:a@[192.0.2.1]", "501 5.1.3"),
            (b"MAIL FROM:<a@b.example", "501 5.1.7"),
            (b"MAIL FROM:<a@xn--->", "501 5.1.8"),
            (b"MAIL FROM:<a>", "501 5.1.7"),
            (long_path.as_bytes(), "501 5.1.7"),
            (b"RCPT TO:<>", "501 5.1.3"),
            (b"RCPT TO:<a@xn--->", "501 5.1.2"),
            (b"RCPT TO:<@a.example>", "501 5.1.3"),
            (b"RCPT TO:<@:a@b.example>", "501 5.1.3"),
            (b"RCPT TO:<a@b.example> NOTIFY=NEVER", "555 5.5.4"),
            ("RCPT TO:<\u{fc}@b.example>".as_bytes(), "553 5.6.7"),
            (b"MAIL FROM:<\xff@b.example>", "550 5.6.7"),
            (b"EHLO", "501 5.5.4"),
            (b"HELO ", "501 5.5.4"),
            (b"QUIT now", "501 5.5.4"),
            (b"VRFY", "501 5.5.4"),
            (b"", "500 5.5.1"),
            (b"WHAT", "500 5.5.1"),
            (b"NOOP\nQUIT", "500 5.5.2"),
            (b"NOOP\rQUIT", "500 5.5.2"),
            (b"NOOP\0", "500 5.5.2"),
            (b"EXPN list", "502 5.5.1"),
            (b"STARTTLS now", "501 5.5.4"),
            (b"NOOP \xc3\xbc", "500 5.5.2"),
            (b"BDAT", "501 5.5.4"),
            (b"BDAT x", "501 5.5.4"),
            (b"BDAT -1", "501 5.5.4"),
            (b"BDAT 1 FIRST", "501 5.5.4"),
            (b"BDAT 1 LAST LAST", "501 5.5.4"),
            (b"BDAT 99999999999999999999", "501 5.5.4"),
            (b"BDAT 1\0", "501 5.5.4"),
            (b"BDAT 1\r", "501 5.5.4"),
            (
                b"bdat 18446744073709551615 last",
                "Bdat { octets: 18446744073709551615, last: true }",
            ),
            (b"BDAT 0", "Bdat { octets: 0, last: false }"),
            (b"AUTH PLAIN =", "502 5.5.1"),
            (b"GET /evil HTTP/1.1", "502 5.5.1"),
            (long_line.as_bytes(), "500 5.5.2"),
            (b"noop whatever ", "Noop"),
            (b"rset ", "Rset"),
        ];
        for (line, want) in cases {
            assert_eq!(answer(line), *want, "{}", line.escape_ascii());
        }
        assert_eq!(answer(long_line.strip_suffix('a').unwrap().as_bytes()), "Noop", "512 octets");
    }

    #[test]
    fn what_the_client_calls_itself_is_a_name_a_literal_or_inert() {
        let cases = [
            ("EHLO Mx.Example.COM", "Domain(Name(mx.example.com))"),
            ("EHLO [192.0.2.1]", "Domain(Literal(192.0.2.1))"),
            ("EHLO [IPv6:2001:db8::1]", "Domain(Literal(2001:db8::1))"),
            ("EHLO 192.0.2.1", "Other(\"192.0.2.1\")"),
            ("EHLO a b (c)", "Other(\"a b (c)\")"),
            ("EHLO [x", "Other(\"[x\")"),
        ];
        for (line, want) in cases {
            let Ok(Command::Ehlo(name)) = parse(line) else { panic!("{line}") };
            assert_eq!(format!("{name:?}"), want);
        }
    }

    proptest! {
        #[test]
        fn no_line_panics(line in proptest::collection::vec(any::<u8>(), 0..80), front in 0_usize..6) {
            let fronts: [&[u8]; 6] = [b"", b"MAIL FROM:<", b"RCPT TO:<@", b"EHLO [", b"MAIL FROM:<> ", b"RCPT TO:<\""];
            let mut whole = fronts[front].to_vec();
            whole.extend_from_slice(&line);
            let _ = Command::parse(&whole, OFFER);
        }

        #[test]
        fn what_is_accepted_is_re_emitted_exactly(text in "[a-z\".@\\\\ >:,\\[\\]0-9-]{1,30}") {
            let line = format!("RCPT TO:<{text}>");
            if !text.starts_with('@')
                && let Ok(Command::Rcpt(Rcpt { recipient: Recipient::Mailbox(mailbox), .. })) = parse(&line)
            {
                // A dot behind the domain is left out.
                prop_assert_eq!(mailbox.as_str(), text.strip_suffix('.').unwrap_or(&text));
            }
        }
    }
}
