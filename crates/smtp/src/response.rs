//! What a server answers: code, enhanced status and text, never a line that was not meant.
//!
//! A [`Response`] is ours, a reply is theirs: parsing the other side's words is not done here.

use std::borrow::Cow;
use std::fmt;

use crate::limits::REPLY_LINE_OCTETS;
use crate::status::{Class, Status};

/// Text of one line, so that code, status and CRLF still fit (RFC 5321 §4.5.3.1.5).
const TEXT_OCTETS_MAX: usize = REPLY_LINE_OCTETS - "555-5.999.999 \r\n".len();

/// An answer to a command.
///
/// The text may have several lines, separated by `\n`; each is sent with the code and the status in
/// front (RFC 2034 §4). Whatever is not printable ASCII is sent as `?`, so text from outside cannot
/// become a reply line of its own.
///
/// ```
/// use smtp::{Response, Status};
/// let refusal = Response::new(550, Status::permanent(7, 1), "relaying denied\nsee the manual");
/// assert_eq!(refusal.to_string(), "550-5.7.1 relaying denied\r\n550 5.7.1 see the manual\r\n");
/// ```
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Response {
    code: u16,
    status: Option<Status>,
    text: Cow<'static, str>,
}

impl Response {
    /// An answer with an enhanced status.
    pub fn new(code: u16, status: Status, text: impl Into<Cow<'static, str>>) -> Self {
        Self { code, status: Some(status), text: text.into() }
    }

    /// An answer without a status: the greeting, the reply to HELO and EHLO, 3yz (RFC 2034 §3).
    pub fn plain(code: u16, text: impl Into<Cow<'static, str>>) -> Self {
        Self { code, status: None, text: text.into() }
    }

    /// A fixed answer; usable in constants.
    pub(crate) const fn fixed(code: u16, status: Status, text: &'static str) -> Self {
        Self { code, status: Some(status), text: Cow::Borrowed(text) }
    }

    /// The reply code, three digits (RFC 5321 §4.2.1).
    pub const fn code(&self) -> u16 {
        self.code
    }

    /// The enhanced status, if it has one.
    pub const fn status(&self) -> Option<Status> {
        self.status
    }

    /// The text, as it was given.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Transient for 4yz, permanent for 5yz, success for the rest.
    pub const fn class(&self) -> Class {
        match self.code {
            400..=499 => Class::Transient,
            500.. => Class::Permanent,
            _ => Class::Success,
        }
    }

    /// Appends the answer as it goes over the wire.
    pub fn write_to(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.to_string().as_bytes());
    }
}

impl fmt::Display for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines = self.text.split('\n').peekable();
        while let Some(line) = lines.next() {
            let separator = if lines.peek().is_some() { '-' } else { ' ' };
            write!(f, "{:03}{separator}", self.code)?;
            if let Some(status) = self.status {
                write!(f, "{status} ")?;
            }
            let inert = |c| if matches!(c, ' '..='~') { c } else { '?' };
            line.chars()
                .take(TEXT_OCTETS_MAX)
                .try_for_each(|c| fmt::Write::write_char(f, inert(c)))?;
            f.write_str("\r\n")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_outside_cannot_become_a_reply_line() {
        let cases = [
            (Response::plain(220, "mx.example ESMTP"), "220 mx.example ESMTP\r\n"),
            (Response::new(250, Status::success(0, 0), "Ok"), "250 2.0.0 Ok\r\n"),
            (
                Response::new(550, Status::permanent(1, 1), "a\r\n250 b"),
                "550-5.1.1 a?\r\n550 5.1.1 250 b\r\n",
            ),
            (Response::new(450, Status::transient(2, 0), "caf\u{e9} \0"), "450 4.2.0 caf? ?\r\n"),
        ];
        for (response, want) in cases {
            assert_eq!(response.to_string(), want);
        }
        let long = Response::new(550, Status::permanent(999, 999), "x".repeat(2000)).to_string();
        assert!(long.len() <= REPLY_LINE_OCTETS, "{}", long.len());
    }
}
