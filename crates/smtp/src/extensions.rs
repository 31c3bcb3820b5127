//! Which extensions does the server offer in its answer to EHLO? (RFC 5321 §4.1.1.1)
//!
//! A list belongs to one EHLO: what was offered before STARTTLS counts for nothing after it
//! (RFC 3207 §4.2), and nothing may be used that was not offered (RFC 5321 §2.2.1).

use std::num::NonZeroU32;

use crate::reply::{Reply, ReplyClass};
use crate::sasl::{Mechanism, Mechanisms};

/// An extension that we know the name of. Those that carry a value have a method of their own:
/// [`Extensions::size`], [`Extensions::limits`], [`Extensions::deliver_by`], [`Extensions::auth`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Extension {
    /// RFC 2920: commands may be sent in groups.
    Pipelining,
    /// RFC 6152: bodies may have octets above 127.
    EightBitMime,
    /// RFC 2034: replies carry enhanced codes.
    EnhancedStatusCodes,
    /// RFC 3030: the message may come by BDAT, in chunks of a known length.
    Chunking,
    /// RFC 6531: UTF-8 addresses and headers.
    SmtpUtf8,
    /// RFC 3461: delivery status notifications on demand.
    Dsn,
    /// RFC 8689: a message may be bound to authenticated TLS.
    RequireTls,
    /// RFC 3207: TLS may begin on this connection.
    Starttls,
    /// RFC 6710: messages have priorities. The profile that its value names changes nothing for us.
    MtPriority,
}

impl Extension {
    /// All, in the order in which we offer them.
    pub(crate) const ALL: [Self; 9] = [
        Self::Pipelining,
        Self::EightBitMime,
        Self::EnhancedStatusCodes,
        Self::Chunking,
        Self::SmtpUtf8,
        Self::Dsn,
        Self::RequireTls,
        Self::Starttls,
        Self::MtPriority,
    ];

    /// The keyword in the reply to EHLO, in capitals.
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
            Self::MtPriority => "MT-PRIORITY",
        }
    }

    /// Its bit in a set.
    pub(crate) const fn bit(self) -> u16 {
        1 << self as u16
    }
}

/// How much a server takes in one session (RFC 9422 §4). What it does not say, or says in a form
/// that the RFC does not have, is no limit.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct HostLimits {
    /// MAIL commands in this session.
    pub mail_max: Option<NonZeroU32>,
    /// RCPT commands in one transaction.
    pub rcpt_max: Option<NonZeroU32>,
    /// Different recipient domains in this session.
    pub rcpt_domain_max: Option<NonZeroU32>,
}

impl HostLimits {
    fn add(&mut self, word: &[u8]) {
        let mut parts = word.splitn(2, |&byte| byte == b'=');
        let (Some(name), Some(value)) = (parts.next(), parts.next()) else { return };
        let limit = match name.to_ascii_uppercase().as_slice() {
            b"MAILMAX" => &mut self.mail_max,
            b"RCPTMAX" => &mut self.rcpt_max,
            b"RCPTDOMAINMAX" => &mut self.rcpt_domain_max,
            _ => return,
        };
        // RFC 9422 §4: one to six digits, not beginning with 0.
        let is_written = (1..=6).contains(&value.len())
            && value.iter().all(u8::is_ascii_digit)
            && value.first() != Some(&b'0');
        let read = is_written.then(|| str::from_utf8(value).ok()?.parse().ok()).flatten();
        *limit = read.or(*limit);
    }
}

/// The offers of one EHLO reply. Empty after HELO.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Extensions {
    offered: u16,
    size: Option<Option<u64>>,
    limits: HostLimits,
    deliver_by: Option<u32>,
    auth: Mechanisms,
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
            let written = words.next().and_then(|word| str::from_utf8(word).ok());
            let digits = written.filter(|word| word.bytes().all(|b| b.is_ascii_digit()));
            // RFC 1870 §3: zero and nothing mean no fixed limit, and so does what is not a number.
            let limit = digits.and_then(|digits| digits.parse().ok()).filter(|&limit| limit > 0);
            // Of two such lines, which relays in between add, the larger: a host that means the
            // smaller says so at MAIL.
            self.size = Some(limit.max(self.size.flatten()));
        } else if is("LIMITS") {
            words.for_each(|word| self.limits.add(word));
        } else if is("DELIVERBY") {
            // RFC 2852 §3: up to nine digits in front of other options. What is not a number says
            // nothing.
            let first = words.next().and_then(|word| word.split(|&byte| byte == b',').next());
            let min = first.and_then(|digits| str::from_utf8(digits).ok()?.parse().ok());
            self.deliver_by = Some(min.unwrap_or(0));
        } else if is("AUTH") {
            words.for_each(|word| self.add_mechanism(word));
        } else if let Some((start, first)) = keyword.split_at_checked(5)
            && start.eq_ignore_ascii_case(b"AUTH=")
        {
            // The form of a draft, which servers for very old clients still write beside the other.
            std::iter::once(first).chain(words).for_each(|word| self.add_mechanism(word));
        }
        for extension in Extension::ALL {
            if is(extension.keyword()) {
                self.offered |= extension.bit();
            }
        }
    }

    fn add_mechanism(&mut self, word: &[u8]) {
        if let Some(mechanism) = Mechanism::parse(word) {
            self.auth = self.auth.with(mechanism);
        }
    }

    /// Did the reply to EHLO have its keyword?
    pub fn offers(&self, extension: Extension) -> bool {
        self.offered & extension.bit() != 0
    }

    /// RFC 1870: `None` if SIZE was not offered; inside, the limit in octets if there is a fixed
    /// one.
    pub fn size(&self) -> Option<Option<u64>> {
        self.size
    }

    /// The largest message in octets that the server takes, if it says so.
    pub fn size_limit(&self) -> Option<u64> {
        self.size.flatten()
    }

    /// The limits that LIMITS announced (RFC 9422); all `None` if it was not offered.
    pub fn limits(&self) -> HostLimits {
        self.limits
    }

    /// RFC 2852 §3: `None` if DELIVERBY was not offered; else the least time in seconds that mail
    /// to be returned may have left.
    pub fn deliver_by(&self) -> Option<u32> {
        self.deliver_by
    }

    /// RFC 4954 §3: none if AUTH was not offered; those that we do not know are left out.
    pub fn auth(&self) -> Mechanisms {
        self.auth
    }
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
            ("250-mx\r\n250-SIZE 9\r\n250-SIZE\r\n250 SIZE 5\r\n", Some(Some(9))),
            ("250 SIZE 5\r\n", None),
            ("550-mx\r\n550 SIZE 5\r\n", None),
        ];
        for (text, want) in cases {
            let reply = Reply::parse(text.as_bytes()).unwrap();
            assert_eq!(Extensions::from_reply(&reply).size(), want, "{text:?}");
        }
    }

    #[test]
    fn limits_are_taken_as_written_or_not_at_all() {
        let cases = [
            (
                "LIMITS RCPTMAX=100 mailmax=1 RcptDomainMax=999999",
                [Some(1), Some(100), Some(999_999)],
            ),
            ("LIMITS RCPTMAX=0 MAILMAX=-1 RCPTDOMAINMAX=1000000", [None; 3]),
            ("LIMITS RCPTMAX MAILMAX= RCPTDOMAINMAX=+1", [None; 3]),
            ("LIMITS RCPTMAX=01 X-NEW=5 NEW RCPTMAX=2x", [None; 3]),
            ("LIMITS RCPTMAX=5 RCPTMAX=bad", [None, Some(5), None]),
            ("LIMITS", [None; 3]),
            ("XLIMITS RCPTMAX=5", [None; 3]),
        ];
        for (line, want) in cases {
            let reply = Reply::parse(format!("250-mx\r\n250 {line}\r\n").as_bytes()).unwrap();
            let limits = Extensions::from_reply(&reply).limits();
            let got = [limits.mail_max, limits.rcpt_max, limits.rcpt_domain_max];
            assert_eq!(got.map(|limit| limit.map(NonZeroU32::get)), want, "{line}");
        }
    }

    #[test]
    fn values_of_other_extensions_are_understood() {
        let cases = [
            ("DELIVERBY", Some(0), ""),
            ("deliverby 240", Some(240), ""),
            ("DELIVERBY 60,later", Some(60), ""),
            ("DELIVERBY soon", Some(0), ""),
            ("AUTH login PLAIN CRAM-MD5", None, "PLAIN LOGIN"),
            ("AUTH SCRAM-SHA-256 SCRAM-SHA-1", None, "SCRAM-SHA-256"),
            ("auth=LOGIN PLAIN", None, "PLAIN LOGIN"),
            ("AUTH", None, ""),
        ];
        for (line, deliver_by, auth) in cases {
            let reply = Reply::parse(format!("250-mx\r\n250 {line}\r\n").as_bytes()).unwrap();
            let extensions = Extensions::from_reply(&reply);
            assert_eq!(extensions.deliver_by(), deliver_by, "{line}");
            assert_eq!(extensions.auth().to_string(), auth, "{line}");
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
