//! Which extensions does the server offer in its answer to EHLO? (RFC 5321 §4.1.1.1)
//!
//! A list belongs to one EHLO: what was offered before STARTTLS counts for nothing after it
//! (RFC 3207 §4.2), and nothing may be used that was not offered (RFC 5321 §2.2.1).

use crate::reply::{Reply, ReplyClass};

/// An extension that we know the name of. SIZE, which carries a number, is
/// [`Extensions::size`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Extension {
    /// RFC 2920: commands may be sent in groups.
    Pipelining,
    /// RFC 6152: bodies may have octets above 127.
    EightBitMime,
    /// RFC 3207.
    Starttls,
    /// RFC 2034: replies carry enhanced codes.
    EnhancedStatusCodes,
    /// RFC 3030: BDAT.
    Chunking,
    /// RFC 6531: UTF-8 addresses and headers.
    SmtpUtf8,
    /// RFC 3461: delivery status notifications on demand.
    Dsn,
    /// RFC 8689.
    RequireTls,
}

impl Extension {
    const ALL: [Self; 8] = [
        Self::Pipelining,
        Self::EightBitMime,
        Self::Starttls,
        Self::EnhancedStatusCodes,
        Self::Chunking,
        Self::SmtpUtf8,
        Self::Dsn,
        Self::RequireTls,
    ];

    /// The EHLO keyword.
    pub const fn keyword(self) -> &'static str {
        match self {
            Self::Pipelining => "PIPELINING",
            Self::EightBitMime => "8BITMIME",
            Self::Starttls => "STARTTLS",
            Self::EnhancedStatusCodes => "ENHANCEDSTATUSCODES",
            Self::Chunking => "CHUNKING",
            Self::SmtpUtf8 => "SMTPUTF8",
            Self::Dsn => "DSN",
            Self::RequireTls => "REQUIRETLS",
        }
    }

    const fn bit(self) -> u16 {
        1 << self as u16
    }
}

/// The offers of one EHLO reply. Empty after HELO.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Extensions {
    offered: u16,
    size: Option<Option<u64>>,
}

impl Extensions {
    /// Reads the lines behind the first one; keywords in any case, unknown ones ignored.
    ///
    /// ```
    /// use smtp::{Extension, Extensions, Reply};
    /// let reply = Reply::parse(b"250-mx.example\r\n250-size 1000\r\n250 8BitMIME\r\n").unwrap();
    /// let extensions = Extensions::from_reply(&reply);
    /// assert!(extensions.offers(Extension::EightBitMime));
    /// assert!(!extensions.offers(Extension::Starttls));
    /// assert_eq!(extensions.size_limit(), Some(1000));
    /// ```
    pub fn from_reply(reply: &Reply) -> Self {
        let mut extensions = Self::default();
        if reply.class() == ReplyClass::Success {
            for line in reply.lines().skip(1) {
                extensions.add(line);
            }
        }
        extensions
    }

    fn add(&mut self, line: &[u8]) {
        let mut words =
            line.split(|byte| byte.is_ascii_whitespace()).filter(|word| !word.is_empty());
        let Some(keyword) = words.next() else { return };
        let is = |name: &str| keyword.eq_ignore_ascii_case(name.as_bytes());
        if is("SIZE") {
            self.size = Some(words.next().and_then(parse_size));
        }
        for extension in Extension::ALL {
            if is(extension.keyword()) {
                self.offered |= extension.bit();
            }
        }
    }

    /// Was it offered?
    pub fn offers(&self, extension: Extension) -> bool {
        self.offered & extension.bit() != 0
    }

    /// RFC 1870: `None` if SIZE was not offered; inside, the limit in octets if there is a fixed one.
    pub fn size(&self) -> Option<Option<u64>> {
        self.size
    }

    /// The largest message in octets that the server takes, if it says so.
    pub fn size_limit(&self) -> Option<u64> {
        self.size.flatten()
    }
}

/// RFC 1870 §3: zero and nothing mean no fixed limit, and so does what is not a number.
fn parse_size(word: &[u8]) -> Option<u64> {
    let limit = str::from_utf8(word).ok().filter(|w| w.bytes().all(|b| b.is_ascii_digit()))?;
    limit.parse().ok().filter(|&limit| limit > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_is_a_limit_only_if_it_is_a_positive_number() {
        let cases = [
            ("250-mx\r\n250 SIZE 5000\r\n", Some(Some(5000))),
            ("250-mx\r\n250 SIZE\r\n", Some(None)),
            ("250-mx\r\n250 SIZE 0\r\n", Some(None)),
            ("250-mx\r\n250 SIZE -1\r\n", Some(None)),
            ("250-mx\r\n250 SIZE +1\r\n", Some(None)),
            ("250-mx\r\n250 SIZE 99999999999999999999999\r\n", Some(None)),
            ("250-mx\r\n250 SIZEX 5\r\n", None),
            ("250 SIZE 5\r\n", None),
            ("550-mx\r\n550 SIZE 5\r\n", None),
        ];
        for (text, want) in cases {
            let reply = Reply::parse(text.as_bytes()).unwrap();
            assert_eq!(Extensions::from_reply(&reply).size(), want, "{text:?}");
        }
    }

    #[test]
    fn only_what_was_offered_is_offered() {
        let text = "250-PIPELINING\r\n250-8bitmime\r\n250-STARTTLS now\r\n250-X-DSN\r\n250 \r\n";
        let extensions = Extensions::from_reply(&Reply::parse(text.as_bytes()).unwrap());
        let got: Vec<_> = Extension::ALL.into_iter().filter(|&e| extensions.offers(e)).collect();
        assert_eq!(got, [Extension::EightBitMime, Extension::Starttls]);
    }
}
