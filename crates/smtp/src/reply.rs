//! What does the server answer? (RFC 5321 §4.2)
//!
//! Replies come from strangers: every line, their number and the kept text are bounded, bytes of
//! any encoding are carried without being understood, and a reply whose lines disagree is an error,
//! not a guess. Nothing here reads a socket; the caller owns the buffer.
//!
//! Not here: what a reply means for a mail (`smtp::client`), which extensions it lists
//! (`smtp::extensions`).

use std::fmt;
use std::sync::Arc;

use memchr::memchr;

use crate::remote_text::RemoteText;
use crate::status::{Class, Status};

/// Longest reply line in octets, line end included. RFC 5321 §4.5.3.1.5 says 512; some servers
/// write more, none of them needs more than this.
pub const REPLY_LINE_OCTETS_MAX: usize = 4096;
/// Most lines of one reply. Our choice: EHLO, the longest, has about 20.
pub const REPLY_LINES_MAX: usize = 100;
/// Empty lines that are passed over between two lines of replies. Our choice: some servers have
/// them behind or in their greeting.
const EMPTY_LINES_MAX: usize = 5;
/// Octets of text kept of one reply; lines beyond it are checked and dropped. Our choice.
const TEXT_OCTETS_KEPT_MAX: usize = 8192;

/// What the first digit says (RFC 5321 §4.2.1).
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum ReplyClass {
    /// 2yz: what was asked is done.
    Success,
    /// 3yz: the server waits for more, as 354 does for the message.
    Continue,
    /// 4yz: refused for now; the same may be tried again.
    Transient,
    /// 5yz: not like this.
    Permanent,
}

/// A complete reply. Clones share the text.
///
/// ```
/// use smtp::Reply;
/// let reply = Reply::parse(b"550-5.1.1 no\r\n550 5.1.1 such user\r\n").unwrap();
/// assert_eq!(reply.code, 550);
/// assert_eq!(reply.status, smtp::Status::parse("5.1.1"));
/// assert_eq!(reply.to_string(), "550 5.1.1 no such user");
/// ```
#[derive(Clone, Eq, Hash, PartialEq)]
pub struct Reply {
    /// The reply code, 200..=599.
    pub code: u16,
    /// The enhanced code in front of the first line's text (RFC 2034 §4), under the class of `code`
    /// where the server contradicts itself.
    pub status: Option<Status>,
    /// The texts of the lines, separated by LF.
    text: Arc<[u8]>,
}

impl Reply {
    /// Reads exactly one whole reply.
    ///
    /// # Errors
    ///
    /// [`ReplyError`] as from [`ReplyParser::parse`]; [`ReplyError::Malformed`] also for a reply
    /// that is not complete or has something behind it.
    pub fn parse(bytes: &[u8]) -> Result<Self, ReplyError> {
        match ReplyParser::default().parse(bytes)? {
            (consumed, Some(reply)) if consumed == bytes.len() => Ok(reply),
            (_, Some(_) | None) => Err(ReplyError::Malformed(RemoteText::from_bytes(bytes))),
        }
    }

    /// What the first digit says.
    pub fn class(&self) -> ReplyClass {
        match self.code {
            ..300 => ReplyClass::Success,
            300..400 => ReplyClass::Continue,
            400..500 => ReplyClass::Transient,
            500.. => ReplyClass::Permanent,
        }
    }

    /// The texts of the lines as they came, without code and line end.
    pub fn lines(&self) -> impl Iterator<Item = &[u8]> {
        self.text.split(|&byte| byte == b'\n')
    }

    /// The text as one inert line; an enhanced code that each line repeats is shown once.
    pub fn text(&self) -> RemoteText {
        let mut lines = self.lines();
        let mut joined = lines.next().unwrap_or_default().to_vec();
        let repeated = split_status(&joined).map(|(_, rest)| joined.len() - rest.len());
        let prefix = joined.get(..repeated.unwrap_or(0)).unwrap_or_default().to_vec();
        for line in lines {
            joined.push(b' ');
            joined.extend_from_slice(line.strip_prefix(&*prefix).unwrap_or(line));
        }
        RemoteText::from_bytes(&joined)
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.text();
        if text.is_empty() { write!(f, "{}", self.code) } else { write!(f, "{} {text}", self.code) }
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reply({self})")
    }
}

/// Why bytes are not a reply. The dialogue is out of step from here on: close the connection.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ReplyError {
    /// A line does not begin with a code of 200..=599, or goes on with neither blank nor hyphen.
    #[error("not an SMTP reply: {0}")]
    Malformed(RemoteText),
    /// The lines of one reply have different codes (RFC 5321 §4.2.1).
    #[error("the lines of one reply have the codes {first} and {then}: {line}")]
    MixedCodes {
        /// The code of the lines before.
        first: u16,
        /// The other code, in the line that does not fit.
        then: u16,
        /// Its line, which may say why.
        line: RemoteText,
    },
    /// A line has more than [`REPLY_LINE_OCTETS_MAX`].
    #[error("a reply line of more than {REPLY_LINE_OCTETS_MAX} octets")]
    LineTooLong,
    /// The reply has more than [`REPLY_LINES_MAX`].
    #[error("a reply of more than {REPLY_LINES_MAX} lines")]
    TooManyLines,
}

/// Puts replies together from a buffer that the caller fills.
///
/// A line ends at LF; the CR before it is dropped if there is one, since servers that forget it are
/// many. No other octet ends a line.
#[derive(Debug, Default)]
pub struct ReplyParser {
    code: Option<u16>,
    status: Option<Status>,
    lines: usize,
    /// Empty ones since the last line.
    empty: usize,
    text: Vec<u8>,
}

impl ReplyParser {
    /// Takes whole lines from the front of `input` until a reply is complete.
    ///
    /// Returns how many octets were taken, which the caller drops, and the reply. `None`: read more
    /// behind what was left. Afterwards the parser is ready for the next reply.
    ///
    /// # Errors
    ///
    /// [`ReplyError`]; the parser is of no use after it.
    pub fn parse(&mut self, input: &[u8]) -> Result<(usize, Option<Reply>), ReplyError> {
        let mut rest = input;
        while let Some((line, tail)) = next_line(rest)? {
            rest = tail;
            if line.is_empty() && self.empty < EMPTY_LINES_MAX {
                self.empty += 1;
            } else if self.take(line)? {
                let reply = Reply {
                    code: self.code.take().unwrap_or_default(),
                    status: self.status.take(),
                    text: Arc::from(&*self.text),
                };
                self.lines = 0;
                self.text.clear();
                return Ok((input.len() - rest.len(), Some(reply)));
            }
        }
        Ok((input.len() - rest.len(), None))
    }

    /// Is a reply begun whose last line has not come?
    pub fn is_midway(&self) -> bool {
        self.code.is_some()
    }

    /// Adds one line; `true` if it is the last one of its reply.
    fn take(&mut self, line: &[u8]) -> Result<bool, ReplyError> {
        let (code, is_last, text) =
            split_line(line).ok_or_else(|| ReplyError::Malformed(RemoteText::from_bytes(line)))?;
        self.empty = 0;
        match self.code {
            None => {
                self.code = Some(code);
                self.status = split_status(text).and_then(|(status, _)| under_code(status, code));
            }
            Some(first) if first != code => {
                let line = RemoteText::from_bytes(line);
                return Err(ReplyError::MixedCodes { first, then: code, line });
            }
            Some(_) => {}
        }
        if self.lines >= REPLY_LINES_MAX {
            return Err(ReplyError::TooManyLines);
        }
        if self.text.len() + text.len() < TEXT_OCTETS_KEPT_MAX {
            if self.lines > 0 {
                self.text.push(b'\n');
            }
            self.text.extend_from_slice(text);
        }
        self.lines += 1;
        Ok(is_last)
    }
}

/// A line without its end, and what follows it.
type LineAndRest<'a> = (&'a [u8], &'a [u8]);

fn next_line(input: &[u8]) -> Result<Option<LineAndRest<'_>>, ReplyError> {
    let Some(end) = memchr(b'\n', input) else {
        return if input.len() < REPLY_LINE_OCTETS_MAX {
            Ok(None)
        } else {
            Err(ReplyError::LineTooLong)
        };
    };
    if end >= REPLY_LINE_OCTETS_MAX {
        return Err(ReplyError::LineTooLong);
    }
    let (line, tail) = input.split_at_checked(end).unwrap_or((input, &[]));
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    Ok(Some((line, tail.get(1..).unwrap_or_default())))
}

/// Code, whether the line is the last one, text. The last line may be the bare code (RFC 5321
/// §4.2).
fn split_line(line: &[u8]) -> Option<(u16, bool, &[u8])> {
    let (&[a, b, c], rest) = line.split_first_chunk::<3>()?;
    let digit = |byte: u8| byte.is_ascii_digit().then(|| u16::from(byte - b'0'));
    let code = digit(a)? * 100 + digit(b)? * 10 + digit(c)?;
    if !(200..600).contains(&code) {
        return None;
    }
    match rest.split_first() {
        None => Some((code, true, &[])),
        Some((b' ' | b'\t', text)) => Some((code, true, text)),
        Some((b'-', text)) => Some((code, false, text)),
        Some(_) => None,
    }
}

/// The enhanced code in front of `text`, and what follows it and one space.
fn split_status(text: &[u8]) -> Option<(Status, &[u8])> {
    // Longest form: 5.123.123.
    let end = text.iter().take(10).position(|&byte| byte == b' ');
    let (word, rest) = match end {
        Some(end) => (text.get(..end)?, text.get(end + 1..)?),
        None => (text, &[][..]),
    };
    Some((Status::parse(str::from_utf8(word).ok()?)?, rest))
}

/// RFC 2034 §4: the first digits must agree. Where they do not, the basic code is what everyone
/// acts upon.
fn under_code(status: Status, code: u16) -> Option<Status> {
    match code / 100 {
        2 => Some(status.with_class(Class::Success)),
        4 => Some(status.with_class(Class::Transient)),
        5 => Some(status.with_class(Class::Permanent)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_reply_is_read_as_written_or_not_at_all() {
        let malformed = |text: &str| Err(ReplyError::Malformed(RemoteText::new(text)));
        let mixed = |first, then, line: &str| {
            Err(ReplyError::MixedCodes { first, then, line: RemoteText::new(line) })
        };
        let cases: &[(&[u8], Result<&str, ReplyError>)] = &[
            (b"250 ok\r\n", Ok("250 ok")),
            (b"250\r\n", Ok("250")),
            (b"250 \r\n", Ok("250")),
            (b"250-\r\n250 \r\n", Ok("250  ")),
            (b"250 ok\n", Ok("250 ok")),
            (b"250-a\n250 b\r\n", Ok("250 a b")),
            (b"250 a\rb\r\n", Ok(r"250 a\rb")),
            (b"250 \xff\0\r\n", Ok(r"250 \xff\u{0}")),
            (b"550-5.1.1 a\r\n550-5.1.1 b\r\n550 5.1.2 c\r\n", Ok("550 5.1.1 a b 5.1.2 c")),
            (b"bogus\r\n", malformed("bogus")),
            (b"\r\n", malformed("\\r\\n")),
            (b"250\tok\r\n", Ok("250 ok")),
            (b"\r\n\n\n250 ok\r\n", Ok("250 ok")),
            (b"250-a\r\n\r\n250 b\r\n", Ok("250 a b")),
            (b"\n\n\n\n\n\n250 ok\r\n", malformed("")),
            (b"25\r\n", malformed("25")),
            (b"2500 ok\r\n", malformed("2500 ok")),
            (b"250_ok\r\n", malformed("250_ok")),
            (b"150 ok\r\n", malformed("150 ok")),
            (b"600 ok\r\n", malformed("600 ok")),
            (b" 250 ok\r\n", malformed(" 250 ok")),
            (b"250-a\r\nb\r\n", malformed("b")),
            (b"250-a\r\n251 b\r\n", mixed(250, 251, "251 b")),
            (
                b"220-mx\r\n521 5.7.1 blocked using bl.example\r\n",
                mixed(220, 521, "521 5.7.1 blocked using bl.example"),
            ),
            (b"250 ok\r\n250 more\r\n", malformed("250 ok\r\n250 more\r\n")),
            (b"250 ok", malformed("250 ok")),
        ];
        for (bytes, want) in cases {
            let got = Reply::parse(bytes).map(|reply| reply.to_string());
            assert_eq!(got, want.clone().map(str::to_owned), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn enhanced_codes_stand_under_the_class_of_the_code() {
        let cases: &[(&[u8], Option<&str>)] = &[
            (b"250 2.1.0 ok\r\n", Some("2.1.0")),
            (b"550 5.123.123 no\r\n", Some("5.123.123")),
            (b"550 5.1.1\r\n", Some("5.1.1")),
            (b"550 4.7.1 greylisted\r\n", Some("5.7.1")),
            (b"354 2.0.0 go on\r\n", None),
            (b"550 5.1 no\r\n", None),
            (b"550 5.1.1234 no\r\n", None),
            (b"550 no 5.1.1\r\n", None),
            (b"550 5.1.1, no\r\n", None),
        ];
        for (bytes, want) in cases {
            let got = Reply::parse(bytes).unwrap().status.map(|status| status.to_string());
            assert_eq!(got.as_deref(), *want, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn lines_and_their_number_are_bounded() {
        let line =
            |octets: usize| [b"250 ".to_vec(), vec![b'x'; octets - 6], b"\r\n".to_vec()].concat();
        assert!(Reply::parse(&line(REPLY_LINE_OCTETS_MAX)).is_ok());
        assert_eq!(Reply::parse(&line(REPLY_LINE_OCTETS_MAX + 1)), Err(ReplyError::LineTooLong));
        let endless = vec![b'2'; REPLY_LINE_OCTETS_MAX];
        assert_eq!(ReplyParser::default().parse(&endless), Err(ReplyError::LineTooLong));

        let lines = |count: usize| [b"250-x\r\n".repeat(count - 1), b"250 x\r\n".to_vec()].concat();
        assert!(Reply::parse(&lines(REPLY_LINES_MAX)).is_ok());
        assert_eq!(Reply::parse(&lines(REPLY_LINES_MAX + 1)), Err(ReplyError::TooManyLines));

        let long = [b"250-".to_vec(), vec![b'x'; 4000], b"\r\n".to_vec()].concat().repeat(99);
        let reply = Reply::parse(&[long, b"250 end\r\n".to_vec()].concat()).unwrap();
        assert!(reply.lines().map(<[u8]>::len).sum::<usize>() <= TEXT_OCTETS_KEPT_MAX);
    }

    /// Feeds `bytes` in pieces of `sizes` (the last one repeats) and collects what comes out.
    fn feed(bytes: &[u8], sizes: &[usize]) -> Result<Vec<Reply>, ReplyError> {
        let (mut parser, mut buffer, mut replies) =
            (ReplyParser::default(), Vec::new(), Vec::new());
        let (mut rest, mut sizes) = (bytes, sizes.iter().copied().chain(std::iter::repeat(7)));
        while !rest.is_empty() {
            let (piece, tail) = rest.split_at(sizes.next().unwrap().clamp(1, rest.len()));
            buffer.extend_from_slice(piece);
            rest = tail;
            loop {
                let (consumed, reply) = parser.parse(&buffer)?;
                buffer.drain(..consumed);
                let Some(reply) = reply else { break };
                replies.push(reply);
            }
        }
        Ok(replies)
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(
            texts in prop::collection::vec((200u16..600, prop::collection::vec("[ -~]{0,20}", 1..4)), 1..5),
            sizes in prop::collection::vec(1usize..9, 0..40),
        ) {
            let mut bytes = Vec::new();
            for (code, lines) in &texts {
                for (index, line) in lines.iter().enumerate() {
                    let separator = if index + 1 == lines.len() { ' ' } else { '-' };
                    bytes.extend_from_slice(format!("{code}{separator}{line}\r\n").as_bytes());
                }
            }
            let replies = feed(&bytes, &sizes).unwrap();
            let got: Vec<_> = replies
                .iter()
                .map(|reply| {
                    let lines: Vec<_> =
                        reply.lines().map(|line| String::from_utf8(line.to_vec()).unwrap()).collect();
                    (reply.code, lines)
                })
                .collect();
            prop_assert_eq!(got, texts);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>, sizes in prop::collection::vec(1usize..9, 0..40)) {
            let whole = feed(&bytes, &[usize::MAX]);
            prop_assert_eq!(feed(&bytes, &sizes), whole);
        }

        /// What both read, they read alike. Codes and separators out of the grammar, mixed codes
        /// and the bare code are where smtp-proto is laxer or stricter than RFC 5321 §4.2.
        #[test]
        fn agrees_with_smtp_proto_on_plain_replies(
            code in 200u16..600,
            lines in prop::collection::vec("[a-z][a-z .0-9]{0,20}", 1..4),
        ) {
            let mut bytes = Vec::new();
            for (index, line) in lines.iter().enumerate() {
                let separator = if index + 1 == lines.len() { ' ' } else { '-' };
                bytes.extend_from_slice(format!("{code}{separator}{line}\r\n").as_bytes());
            }
            let theirs = smtp_proto::response::parser::ResponseReceiver::default()
                .parse(&mut bytes.iter())
                .unwrap();
            let ours = Reply::parse(&bytes).unwrap();
            prop_assert_eq!(ours.code, theirs.code);
            let theirs = theirs.message.replace('\r', "");
            let ours: Vec<_> = ours.lines().map(|line| String::from_utf8_lossy(line)).collect();
            prop_assert_eq!(ours.join("\n"), theirs.trim_end_matches('\n'));
        }
    }
}
