//! What does this command line ask for, and is it written as it must be?
//!
//! Strict where leniency would let two servers read one line in two ways (line ends, parameters,
//! addresses), lenient where every client does it (a space behind the colon). Only what was offered
//! in reply to EHLO is understood (RFC 5321 §2.2.1): see [`Offer`].

use std::fmt;
use std::net::IpAddr;

use crate::address::{AddressError, Domain, Mailbox, ReversePath};
use crate::host::HostName;
use crate::limits;
use crate::remote_text::RemoteText;
use crate::response::Response;
use crate::status::Status;

/// An extension that a server can offer without a value.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Capability {
    /// RFC 2920.
    Pipelining,
    /// RFC 6152.
    EightBitMime,
    /// RFC 2034.
    EnhancedStatusCodes,
}

impl Capability {
    const ALL: [Self; 3] = [Self::Pipelining, Self::EightBitMime, Self::EnhancedStatusCodes];

    const fn keyword(self) -> &'static str {
        match self {
            Self::Pipelining => "PIPELINING",
            Self::EightBitMime => "8BITMIME",
            Self::EnhancedStatusCodes => "ENHANCEDSTATUSCODES",
        }
    }
}

/// The extensions that a session offers; what is not in it is not understood either.
///
/// ```
/// use smtp::command::{Capability, Offer};
/// let offer = Offer::new(1000).with(Capability::Pipelining);
/// assert_eq!(offer.keywords(), ["PIPELINING", "SIZE 1000"]);
/// ```
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Offer {
    size_max: u64,
    capabilities: u8,
}

impl Offer {
    /// SIZE (RFC 1870) alone: messages of at most `size_max` octets.
    pub const fn new(size_max: u64) -> Self {
        Self { size_max, capabilities: 0 }
    }

    /// With one more.
    #[must_use]
    pub const fn with(self, capability: Capability) -> Self {
        Self { capabilities: self.capabilities | 1 << capability as u8, ..self }
    }

    /// Is it offered?
    pub const fn has(self, capability: Capability) -> bool {
        self.capabilities & (1 << capability as u8) != 0
    }

    /// The largest message, in octets.
    pub const fn size_max(self) -> u64 {
        self.size_max
    }

    /// The lines of the reply to EHLO, below the first.
    pub fn keywords(self) -> Vec<String> {
        let offered = Capability::ALL.into_iter().filter(|capability| self.has(*capability));
        let mut keywords: Vec<_> = offered.map(|c| c.keyword().to_owned()).collect();
        keywords.push(format!("SIZE {}", self.size_max));
        keywords
    }

    /// The longest line, with its CRLF, that the command with this verb may have.
    fn line_octets(self, verb: &[u8]) -> usize {
        let body =
            if self.has(Capability::EightBitMime) { limits::BODY_ALLOWANCE_OCTETS } else { 0 };
        let mail = if verb.eq_ignore_ascii_case(b"MAIL") {
            limits::SIZE_ALLOWANCE_OCTETS + body
        } else {
            0
        };
        limits::COMMAND_LINE_OCTETS + mail
    }

    /// The longest line, with its CRLF, that any command may have.
    pub(crate) fn line_octets_max(self) -> usize {
        self.line_octets(b"MAIL")
    }
}

/// A command, understood.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Command {
    /// `EHLO` with the client's name.
    Ehlo(ClientName),
    /// `HELO` with the client's name.
    Helo(ClientName),
    /// `MAIL FROM`.
    Mail(Mail),
    /// `RCPT TO`.
    Rcpt(Recipient),
    /// `DATA`.
    Data,
    /// `RSET`.
    Rset,
    /// `NOOP`.
    Noop,
    /// `HELP`.
    Help,
    /// `VRFY`.
    Vrfy,
    /// `QUIT`.
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
            Some(_) => parse_literal(text).map(Domain::Literal),
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

/// The literal as the domain of an address, since that is where its grammar is known.
fn parse_literal(text: &str) -> Option<IpAddr> {
    match Mailbox::parse(&format!("x@{text}")).ok()?.domain() {
        Domain::Literal(address) => Some(*address),
        Domain::Name(_) => None,
    }
}

/// How the client says that the content is encoded (RFC 6152 §2).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum BodyKind {
    /// `BODY=7BIT`.
    SevenBit,
    /// `BODY=8BITMIME`.
    EightBitMime,
}

/// The arguments of MAIL.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Mail {
    /// Who sends.
    pub sender: ReversePath,
    /// `SIZE`: how large the message will be, in octets.
    pub size: Option<u64>,
    /// `BODY`.
    pub body: Option<BodyKind>,
}

/// The argument of RCPT.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Recipient {
    /// An address.
    Mailbox(Mailbox),
    /// `<Postmaster>` without a domain: whoever runs this server (RFC 5321 §4.5.1).
    Postmaster,
}

/// What is wrong with a path.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PathError {
    /// It does not stand between angle brackets.
    #[error("expected <address>")]
    Brackets,
    /// The source route in front of the address is malformed (RFC 5321 §4.1.2).
    #[error("the source route is malformed")]
    Route,
    /// Over [`limits::PATH_OCTETS`].
    #[error("longer than RFC 5321 allows")]
    TooLong,
    /// The address is wrong.
    #[error("{0}")]
    Address(#[from] AddressError),
}

/// Why a line is not a command that can be carried out.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum CommandError {
    /// Longer than its verb may be (RFC 5321 §4.5.3.1.4).
    #[error("line too long")]
    LineTooLong,
    /// A control character, so also a bare CR or LF, or octets that are not UTF-8.
    #[error("control or undecodable characters in a command")]
    NotText,
    /// Not an SMTP verb.
    #[error("unknown command")]
    Unknown,
    /// A verb of SMTP that is not offered here.
    #[error("command not offered")]
    NotOffered,
    /// The client speaks HTTP: somebody makes a browser talk to us.
    #[error("this is not a web server")]
    Http,
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
    /// The answer.
    pub fn response(&self) -> Response {
        let (code, status) = match self {
            Self::LineTooLong | Self::NotText => (500, Status::permanent(5, 2)),
            Self::Unknown => (500, Status::permanent(5, 1)),
            Self::NotOffered | Self::Http => (502, Status::permanent(5, 1)),
            Self::Syntax(_) | Self::BadParameter => (501, Status::permanent(5, 4)),
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
}

/// Verbs of SMTP and its extensions that are answered 502 unless offered.
const OTHER_VERBS: [&str; 11] =
    ["EXPN", "TURN", "SEND", "SOML", "SAML", "STARTTLS", "AUTH", "BDAT", "ETRN", "ATRN", "LHLO"];

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
        if line.len() + 2 > offer.line_octets(verb) {
            return Err(too_long(line));
        }
        if line.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t') {
            return Err(CommandError::NotText);
        }
        let is = |name: &str| verb.eq_ignore_ascii_case(name.as_bytes());
        let bare = |command| {
            if rest.is_empty() {
                Ok(command)
            } else {
                Err(CommandError::Syntax("no argument expected"))
            }
        };
        match () {
            () if is("MAIL") => parse_mail(rest, offer).map(Self::Mail),
            () if is("RCPT") => parse_rcpt(rest).map(Self::Rcpt),
            () if is("DATA") => bare(Self::Data),
            () if is("RSET") => bare(Self::Rset),
            () if is("QUIT") => bare(Self::Quit),
            () if is("EHLO") => client_name(rest).map(Self::Ehlo),
            () if is("HELO") => client_name(rest).map(Self::Helo),
            () if is("NOOP") => Ok(Self::Noop),
            () if is("HELP") => Ok(Self::Help),
            () if is("VRFY") && rest.is_empty() => Err(CommandError::Syntax("VRFY address")),
            () if is("VRFY") => Ok(Self::Vrfy),
            () if OTHER_VERBS.into_iter().any(is) => Err(CommandError::NotOffered),
            () => Err(if is_http(verb) { CommandError::Http } else { CommandError::Unknown }),
        }
    }
}

/// What is wrong with a line that begins like this and is too long.
pub(crate) fn too_long(front: &[u8]) -> CommandError {
    if is_http(split_verb(front).0) { CommandError::Http } else { CommandError::LineTooLong }
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

fn parse_mail(rest: &[u8], offer: Offer) -> Result<Mail, CommandError> {
    let rest = after_keyword(rest, "FROM:").ok_or(CommandError::Syntax("MAIL FROM:<address>"))?;
    let (path, parameters) = split_path(rest).map_err(CommandError::Sender)?;
    let address = without_route(path).map_err(CommandError::Sender)?;
    let sender = ReversePath::parse(address).map_err(|e| CommandError::Sender(e.into()))?;
    let mut mail = Mail { sender, size: None, body: None };
    for parameter in parameters.split_ascii_whitespace() {
        mail.set(parameter, offer)?;
    }
    Ok(mail)
}

impl Mail {
    fn set(&mut self, parameter: &str, offer: Offer) -> Result<(), CommandError> {
        let (keyword, value) = split_parameter(parameter)?;
        if keyword.eq_ignore_ascii_case("SIZE") {
            set_once(&mut self.size, value.and_then(parse_size))
        } else if keyword.eq_ignore_ascii_case("BODY") && offer.has(Capability::EightBitMime) {
            set_once(&mut self.body, value.and_then(parse_body))
        } else {
            Err(CommandError::UnknownParameter)
        }
    }
}

/// RFC 5321 §4.1.2: esmtp-param.
fn split_parameter(text: &str) -> Result<(&str, Option<&str>), CommandError> {
    let (keyword, value) = text.split_once('=').map_or((text, None), |(k, v)| (k, Some(v)));
    let keyword_ok = keyword.starts_with(|c: char| c.is_ascii_alphanumeric())
        && keyword.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    let value_ok =
        value.is_none_or(|v| !v.is_empty() && v.bytes().all(|b| b.is_ascii_graphic() && b != b'='));
    if keyword_ok && value_ok { Ok((keyword, value)) } else { Err(CommandError::BadParameter) }
}

fn set_once<T>(slot: &mut Option<T>, value: Option<T>) -> Result<(), CommandError> {
    match (slot.is_some(), value) {
        (false, Some(value)) => {
            *slot = Some(value);
            Ok(())
        }
        (true, _) | (false, None) => Err(CommandError::BadParameter),
    }
}

/// RFC 1870 §4: up to twenty digits.
fn parse_size(value: &str) -> Option<u64> {
    let digits = value.len() <= 20 && value.bytes().all(|byte| byte.is_ascii_digit());
    // Twenty digits may exceed 64 bits; no message does.
    digits.then(|| value.parse().unwrap_or(u64::MAX))
}

fn parse_body(value: &str) -> Option<BodyKind> {
    if value.eq_ignore_ascii_case("7BIT") {
        Some(BodyKind::SevenBit)
    } else if value.eq_ignore_ascii_case("8BITMIME") {
        Some(BodyKind::EightBitMime)
    } else {
        None
    }
}

fn parse_rcpt(rest: &[u8]) -> Result<Recipient, CommandError> {
    let rest = after_keyword(rest, "TO:").ok_or(CommandError::Syntax("RCPT TO:<address>"))?;
    let (path, parameters) = split_path(rest).map_err(CommandError::Recipient)?;
    let address = without_route(path).map_err(CommandError::Recipient)?;
    let recipient = if address.eq_ignore_ascii_case("postmaster") {
        Recipient::Postmaster
    } else {
        Recipient::Mailbox(Mailbox::parse(address).map_err(|e| CommandError::Recipient(e.into()))?)
    };
    match parameters.split_ascii_whitespace().next() {
        Some(parameter) => {
            Err(split_parameter(parameter).err().unwrap_or(CommandError::UnknownParameter))
        }
        None => Ok(recipient),
    }
}

/// What stands behind `keyword`; a space before the path is tolerated.
fn after_keyword<'l>(rest: &'l [u8], keyword: &str) -> Option<&'l [u8]> {
    let (front, behind) = rest.split_at_checked(keyword.len())?;
    front.eq_ignore_ascii_case(keyword.as_bytes()).then(|| behind.trim_ascii_start())
}

/// Splits `<path> parameters`, and takes the brackets off the path.
fn split_path(text: &[u8]) -> Result<(&str, &str), PathError> {
    let text = std::str::from_utf8(text).map_err(|_| PathError::Address(AddressError::NotAscii))?;
    let inner = text.strip_prefix('<').ok_or(PathError::Brackets)?;
    let end = path_end(inner.as_bytes()).ok_or(PathError::Brackets)?;
    let (path, rest) = inner.split_at_checked(end).ok_or(PathError::Brackets)?;
    let rest = rest.strip_prefix('>').ok_or(PathError::Brackets)?;
    if !rest.is_empty() && !rest.starts_with([' ', '\t']) {
        return Err(PathError::Brackets);
    }
    if path.len() + 2 > limits::PATH_OCTETS {
        return Err(PathError::TooLong);
    }
    Ok((path, rest))
}

/// Where the closing bracket is; one inside a quoted local part is text.
fn path_end(inner: &[u8]) -> Option<usize> {
    let mut quoted = false;
    let mut bytes = inner.iter().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'"' => quoted = !quoted,
            b'\\' if quoted => _ = bytes.next(),
            b'>' if !quoted => return Some(at),
            _ => {}
        }
    }
    None
}

/// Drops a source route, which is accepted and ignored (RFC 5321 §4.1.1.2, appendix C).
fn without_route(path: &str) -> Result<&str, PathError> {
    if !path.starts_with('@') {
        return Ok(path);
    }
    // A literal in the route has colons of its own.
    let mut in_literal = false;
    let end = path.find(|c| {
        in_literal = (in_literal || c == '[') && c != ']';
        c == ':' && !in_literal
    });
    let (route, address) =
        end.and_then(|end| path.split_at_checked(end)).ok_or(PathError::Route)?;
    for hop in route.split(',') {
        Mailbox::parse(&format!("x{hop}")).map_err(|_| PathError::Route)?;
    }
    Ok(address.strip_prefix(':').unwrap_or(address))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OFFER: Offer = Offer::new(1_000_000).with(Capability::EightBitMime);

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
            let Ok(Command::Rcpt(Recipient::Mailbox(mailbox))) = parse(line) else {
                panic!("{line}: {:?}", parse(line));
            };
            assert_eq!(mailbox.as_str(), want, "{line}");
        }
        assert_eq!(parse("RCPT TO:<POSTmaster>"), Ok(Command::Rcpt(Recipient::Postmaster)));
    }

    #[test]
    fn mail_takes_the_parameters_that_are_offered_and_no_others() {
        let mail = |size, body| Ok(Command::Mail(Mail { sender: ReversePath::Null, size, body }));
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

    #[test]
    fn each_mistake_has_its_code() {
        let long_path = format!("MAIL FROM:<{}@example.com>", "a".repeat(250));
        let long_line = format!("NOOP {}", "a".repeat(506));
        let cases: &[(&[u8], &str)] = &[
            (b"MAIL LALA: <>", "501 5.5.4"),
            (b"MAIL FROM:a@b.example", "501 5.1.7"),
            (b"MAIL FROM:<a@b.example", "501 5.1.7"),
            (b"MAIL FROM:<a@xn--->", "501 5.1.8"),
            (b"MAIL FROM:<a>", "501 5.1.7"),
            (long_path.as_bytes(), "501 5.1.7"),
            (b"RCPT TO: user@host", "501 5.1.3"),
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
            (b"STARTTLS", "502 5.5.1"),
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
                && let Ok(Command::Rcpt(Recipient::Mailbox(mailbox))) = parse(&line)
            {
                prop_assert_eq!(mailbox.as_str(), text);
            }
        }
    }
}
