//! Addresses (RFC 5321 §4.1.2): what stands between the angle brackets.
//!
//! The local part is opaque (§2.3.11): it is kept and sent as it was written, quotes included. Only
//! the domain is understood. Lists that must not be got past by quoting compare
//! [`Mailbox::unquoted_local_part`].

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::host::{HostName, HostNameError};

/// Our choice: octets of a local part. RFC 5321 §4.5.3.1.1 has everybody take 64, which is no
/// maximum: forwards (SRS), list confirmations and VERP have more.
pub const LOCAL_OCTETS_MAX: usize = 512;
/// Octets of an address: of a local part, and of the longest name in DNS.
pub const ADDRESS_OCTETS_MAX: usize = LOCAL_OCTETS_MAX + 1 + 255;

/// The part behind the `@`.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Domain {
    /// A DNS name, in lower case and A-labels as [`HostName`] keeps it.
    Name(HostName),
    /// An address literal, `[192.0.2.1]` or `[IPv6:2001:db8::1]` (RFC 5321 §4.1.3).
    Literal(IpAddr),
}

impl Domain {
    /// Parses a name or a literal with its brackets.
    ///
    /// # Errors
    ///
    /// [`AddressError::BadDomain`] or [`AddressError::BadLiteral`].
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let Some(inner) = text.strip_prefix('[') else {
            return Ok(Self::Name(HostName::parse(text)?));
        };
        let inner = inner.strip_suffix(']').ok_or(AddressError::BadLiteral)?;
        let v6 = inner.get(..5).is_some_and(|tag| tag.eq_ignore_ascii_case("IPv6:"));
        let address = if v6 {
            inner.get(5..).and_then(|a| a.parse::<Ipv6Addr>().ok()).map(IpAddr::V6)
        } else {
            inner.parse::<Ipv4Addr>().ok().map(IpAddr::V4)
        };
        address.map(Self::Literal).ok_or(AddressError::BadLiteral)
    }

    /// The DNS name, if it is one.
    pub fn name(&self) -> Option<&HostName> {
        match self {
            Self::Name(name) => Some(name),
            Self::Literal(_) => None,
        }
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(f),
            Self::Literal(IpAddr::V4(address)) => write!(f, "[{address}]"),
            Self::Literal(IpAddr::V6(address)) => write!(f, "[IPv6:{address}]"),
        }
    }
}

/// A mailbox: local part and domain, with the text as it was written (but for a dot at the end of
/// the domain).
///
/// ```
/// use smtp::Mailbox;
/// let mailbox = Mailbox::parse(r#""a b"@Example.COM"#)?;
/// assert_eq!(mailbox.as_str(), r#""a b"@Example.COM"#);
/// assert_eq!(mailbox.domain().to_string(), "example.com");
/// # Ok::<(), smtp::AddressError>(())
/// ```
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Mailbox {
    text: Box<str>,
    domain: Domain,
}

/// Why a text is not an address.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum AddressError {
    /// No `@` with something in front.
    #[error("no local part and domain")]
    NoDomain,
    /// The local part is not a dot-string or quoted string.
    #[error("the local part is malformed")]
    BadLocalPart,
    /// The domain is not a name or address literal.
    #[error("the domain is malformed: {0}")]
    BadDomain(#[from] HostNameError),
    /// The bracketed address is not one.
    #[error("the address literal is malformed")]
    BadLiteral,
    /// Over [`LOCAL_OCTETS_MAX`] or [`ADDRESS_OCTETS_MAX`].
    #[error("longer than an address can be")]
    TooLong,
    /// UTF-8 outside an SMTPUTF8 transaction (RFC 6531 §3.2).
    #[error("not ASCII")]
    NotAscii,
}

impl Mailbox {
    /// Parses an ASCII `local@domain`, without angle brackets or source route.
    ///
    /// # Errors
    ///
    /// [`AddressError`], which says which part is wrong.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        if text.is_ascii() { Self::parse_utf8(text) } else { Err(AddressError::NotAscii) }
    }

    /// As [`Mailbox::parse`], for an SMTPUTF8 transaction: local part and domain may be UTF-8
    /// (RFC 6531 §3.3). The address stays as it was written; the domain of [`Mailbox::domain`] has
    /// A-labels, as everything that looks it up needs them.
    ///
    /// ```
    /// use smtp::Mailbox;
    /// let mailbox = Mailbox::parse_utf8("jürgen@münchen.example")?;
    /// assert_eq!(mailbox.as_str(), "jürgen@münchen.example");
    /// assert_eq!(mailbox.domain().to_string(), "xn--mnchen-3ya.example");
    /// # Ok::<(), smtp::AddressError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`AddressError`], which says which part is wrong.
    pub fn parse_utf8(text: &str) -> Result<Self, AddressError> {
        if text.len() > ADDRESS_OCTETS_MAX {
            return Err(AddressError::TooLong);
        }
        let at = local_part_end(text)?;
        let (local, rest) = text.split_at_checked(at).ok_or(AddressError::NoDomain)?;
        let domain = rest.strip_prefix('@').ok_or(AddressError::NoDomain)?;
        if local.len() > LOCAL_OCTETS_MAX {
            return Err(AddressError::TooLong);
        }
        // A final dot is legal in DNS but not in RFC 5321's Domain; people write it, and sent on,
        // some peer would refuse it.
        let text = text.strip_suffix('.').unwrap_or(text);
        let domain = domain.strip_suffix('.').unwrap_or(domain);
        if domain.ends_with('.') {
            return Err(AddressError::BadDomain(HostNameError::EmptyLabel));
        }
        Ok(Self { text: text.into(), domain: Domain::parse(domain)? })
    }

    /// The address as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Can it be sent without SMTPUTF8?
    pub fn is_ascii(&self) -> bool {
        self.text.is_ascii()
    }

    /// The local part as it was written, quotes included.
    pub fn local_part(&self) -> &str {
        self.text.rsplit_once('@').map_or("", |(local, _)| local)
    }

    /// The local part without the quotes and backslashes that only say how to read it: `"a\b"` is
    /// `ab`, and the same mailbox (RFC 5321 §4.1.2). To compare with, not to send.
    ///
    /// ```
    /// # use smtp::Mailbox;
    /// let unquoted = |text| Mailbox::parse(text).map(|m| m.unquoted_local_part().into_owned());
    /// assert_eq!(unquoted(r#""a\ \"b"@x.example"#)?, "a \"b");
    /// assert_eq!(unquoted("a@x.example")?, "a");
    /// # Ok::<(), smtp::AddressError>(())
    /// ```
    pub fn unquoted_local_part(&self) -> Cow<'_, str> {
        let local = self.local_part();
        let quoted = local.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
        let Some(quoted) = quoted else { return Cow::Borrowed(local) };
        let mut chars = quoted.chars();
        let mut plain = String::with_capacity(quoted.len());
        while let Some(c) = chars.next() {
            plain.extend(if c == '\\' { chars.next() } else { Some(c) });
        }
        Cow::Owned(plain)
    }

    /// The part behind the `@`: equal for all mailboxes of one domain, however it was written.
    pub fn domain(&self) -> &Domain {
        &self.domain
    }

    /// The address in ASCII, with A-labels, if its local part allows that: a hop without SMTPUTF8
    /// can be given this one. A local part has no other form (RFC 6531 §3.2).
    ///
    /// ```
    /// # use smtp::Mailbox;
    /// let to_ascii = |text| Mailbox::parse_utf8(text).ok().and_then(|m| m.to_ascii());
    /// assert_eq!(to_ascii("Max@münchen.example").as_deref(), Some("Max@xn--mnchen-3ya.example"));
    /// assert_eq!(to_ascii("jürgen@example.com"), None);
    /// ```
    pub fn to_ascii(&self) -> Option<String> {
        let local = self.local_part();
        if self.text.is_ascii() {
            return Some(self.text.to_string());
        }
        local.is_ascii().then(|| format!("{local}@{}", self.domain))
    }
}

/// The offset of the `@` that ends the local part.
fn local_part_end(text: &str) -> Result<usize, AddressError> {
    if text.starts_with('"') {
        return quoted_end(text);
    }
    let at = text.find('@').ok_or(AddressError::NoDomain)?;
    let local = text.get(..at).unwrap_or_default();
    // Mailboxes with dots in a row, in front or at the end exist, and get mail as they are written.
    let is_dot_string = local.chars().all(|c| c == '.' || is_atext(c));
    let has_atom = local.chars().any(|c| c != '.');
    if is_dot_string && has_atom { Ok(at) } else { Err(AddressError::BadLocalPart) }
}

/// The offset behind the closing quote.
fn quoted_end(text: &str) -> Result<usize, AddressError> {
    let mut chars = text.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Ok(at + 1),
            '\\' if matches!(chars.next(), Some((_, ' '..='~'))) => {}
            '\\' => return Err(AddressError::BadLocalPart),
            ' '..='~' => {}
            _ if is_utf8_text(c) => {}
            _ => return Err(AddressError::BadLocalPart),
        }
    }
    Err(AddressError::BadLocalPart)
}

/// RFC 5322 §3.2.3, with UTF-8 (RFC 6531 §3.3).
fn is_atext(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c) || is_utf8_text(c)
}

/// A character over 127 that a local part may have. Our choice: none that controls, reorders or
/// hides text, as RFC 8265 §3.3 rules for names of users; no address has them but to deceive who
/// reads it.
fn is_utf8_text(c: char) -> bool {
    let deceives = matches!(
        c,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}'
    );
    !c.is_ascii() && !c.is_control() && !deceives
}

impl fmt::Display for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{}>", self.text)
    }
}

/// Who is told when a message cannot be delivered: a mailbox, or nobody (`<>`).
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum ReversePath {
    /// `<>`: a DSN, which is never answered by another (RFC 5321 §4.5.5).
    Null,
    /// The mailbox that gets the DSN.
    Mailbox(Mailbox),
}

impl ReversePath {
    /// The empty text is [`ReversePath::Null`].
    ///
    /// # Errors
    ///
    /// As [`Mailbox::parse`].
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        if text.is_empty() { Ok(Self::Null) } else { Mailbox::parse(text).map(Self::Mailbox) }
    }

    /// As [`ReversePath::parse`], for an SMTPUTF8 transaction.
    ///
    /// # Errors
    ///
    /// As [`Mailbox::parse_utf8`].
    pub fn parse_utf8(text: &str) -> Result<Self, AddressError> {
        if text.is_empty() { Ok(Self::Null) } else { Mailbox::parse_utf8(text).map(Self::Mailbox) }
    }

    /// The mailbox, if there is one.
    pub fn mailbox(&self) -> Option<&Mailbox> {
        match self {
            Self::Null => None,
            Self::Mailbox(mailbox) => Some(mailbox),
        }
    }

    /// What stands between the angle brackets; empty for [`ReversePath::Null`].
    pub fn as_str(&self) -> &str {
        self.mailbox().map_or("", Mailbox::as_str)
    }
}

impl fmt::Display for ReversePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_kept_as_written_or_refused() {
        let [longest_local, long_local] =
            [512, 513].map(|octets| format!("{}@example.com", "a".repeat(octets)));
        let cases = [
            ("user@example.com", Ok("example.com")),
            ("User+Tag@EXAMPLE.com", Ok("example.com")),
            (r#""a b"@c.example"#, Ok("c.example")),
            (r#""a@b\"c"@d.example"#, Ok("d.example")),
            ("a@[192.0.2.1]", Ok("[192.0.2.1]")),
            ("a@[ipv6:2001:db8::1]", Ok("[IPv6:2001:db8::1]")),
            ("o'brien@example.com", Ok("example.com")),
            ("@example.com", Err(AddressError::BadLocalPart)),
            ("a..b@example.com", Ok("example.com")),
            (".a@example.com", Ok("example.com")),
            ("a.@example.com", Ok("example.com")),
            ("..@example.com", Err(AddressError::BadLocalPart)),
            (longest_local.as_str(), Ok("example.com")),
            ("a b@example.com", Err(AddressError::BadLocalPart)),
            ("a\r@example.com", Err(AddressError::BadLocalPart)),
            ("\"a\n\"@example.com", Err(AddressError::BadLocalPart)),
            ("user", Err(AddressError::NoDomain)),
            ("\"user\"", Err(AddressError::NoDomain)),
            ("a@b@c.example", Err(AddressError::BadDomain(HostNameError::BadCharacter))),
            ("a@example.com..", Err(AddressError::BadDomain(HostNameError::EmptyLabel))),
            ("a@.", Err(AddressError::BadDomain(HostNameError::EmptyLabel))),
            ("a@xn---", Err(AddressError::BadDomain(HostNameError::BadCharacter))),
            ("a@[300.0.0.1]", Err(AddressError::BadLiteral)),
            ("ü@example.com", Err(AddressError::NotAscii)),
            (long_local.as_str(), Err(AddressError::TooLong)),
        ];
        for (text, want) in cases {
            let got = Mailbox::parse(text);
            if let Ok(mailbox) = &got {
                assert_eq!(mailbox.as_str(), text);
            }
            assert_eq!(got.map(|m| m.domain().to_string()), want.map(str::to_owned), "{text:?}");
        }
    }

    #[test]
    fn a_dot_at_the_end_of_the_domain_is_not_sent_on() {
        for text in ["a@example.com.", "a@[192.0.2.1]."] {
            let mailbox = Mailbox::parse(text).unwrap();
            assert_eq!(Some(mailbox.as_str()), text.strip_suffix('.'));
        }
    }

    #[test]
    fn utf8_addresses_are_kept_as_written_and_looked_up_in_ascii() {
        let umlauts = format!("{}@example.com", "\u{fc}".repeat(257));
        let bad_local = Err(AddressError::BadLocalPart);
        let cases = [
            ("j\u{fc}rgen@example.com", Ok("example.com")),
            ("\"j\u{fc}r gen\"@example.com", Ok("example.com")),
            ("a@M\u{dc}NCHEN.example", Ok("xn--mnchen-3ya.example")),
            ("\u{7528}\u{6237}@\u{4f8b}\u{5b50}.example", Ok("xn--fsqu00a.example")),
            ("\u{1f600}\u{fe0f}@example.com", Ok("example.com")),
            ("plain@example.com", Ok("example.com")),
            ("a\u{85}b@example.com", bad_local),
            ("a\u{2028}b@example.com", bad_local),
            ("a\u{202e}b@example.com", bad_local),
            ("\"a\u{9b}b\"@example.com", bad_local),
            ("\"a\\\u{fc}b\"@example.com", bad_local),
            ("a@\u{fc}..example", Err(AddressError::BadDomain(HostNameError::EmptyLabel))),
            (umlauts.as_str(), Err(AddressError::TooLong)),
        ];
        for (text, want) in cases {
            let got = Mailbox::parse_utf8(text);
            if let Ok(mailbox) = &got {
                assert_eq!(mailbox.as_str(), text);
            }
            assert_eq!(got.map(|m| m.domain().to_string()), want.map(str::to_owned), "{text:?}");
        }
    }
}
