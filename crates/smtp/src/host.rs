//! The one normalized form of a DNS host name.
//!
//! Every comparison of names in staunch is a comparison of [`HostName`]s, so there is one place
//! where case, trailing dots and U-labels are dealt with: here, at the border.

use std::fmt;
use std::sync::Arc;

/// RFC 1035 §2.3.4: 255 octets on the wire are 253 characters in text.
pub const NAME_CHARS_MAX: usize = 253;
/// RFC 1035 §2.3.4.
pub const LABEL_CHARS_MAX: usize = 63;

/// A host or domain name in its normalized form: lower case, A-labels, no trailing dot.
///
/// Underscores are allowed, since real MX and TXT names have them. A name whose last label is all
/// digits is refused: it would be an IPv4 address or be taken for one.
///
/// ```
/// use smtp::HostName;
/// assert_eq!(HostName::parse("MX.Example.COM.")?.as_str(), "mx.example.com");
/// assert_eq!(HostName::parse("münchen.example")?.as_str(), "xn--mnchen-3ya.example");
/// assert!(HostName::parse("192.0.2.1").is_err());
/// # Ok::<(), smtp::HostNameError>(())
/// ```
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct HostName(Arc<str>);

/// Why a text is not a host name.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum HostNameError {
    /// Nothing is left, or a label is empty.
    #[error("a label is empty")]
    EmptyLabel,
    /// More than [`LABEL_CHARS_MAX`] or [`NAME_CHARS_MAX`] characters.
    #[error("longer than DNS allows")]
    TooLong,
    /// A character that host names do not have, or a hyphen at the edge of a label.
    #[error("a character that is not allowed in a host name")]
    BadCharacter,
    /// A label is not valid under IDNA (UTS #46).
    #[error("not a valid internationalized name")]
    BadIdna,
    /// The last label is all digits.
    #[error("an IP address, not a name")]
    Address,
}

impl HostName {
    /// Normalizes `text`; one trailing dot is dropped, U-labels become A-labels.
    ///
    /// # Errors
    ///
    /// [`HostNameError`] for whatever could not stand in a DNS answer or an EHLO line.
    pub fn parse(text: &str) -> Result<Self, HostNameError> {
        let text = text.strip_suffix('.').unwrap_or(text);
        if text.len() > NAME_CHARS_MAX * 4 {
            return Err(HostNameError::TooLong);
        }
        let plain = text.is_ascii() && !has_a_label(text);
        let name = if plain { text.to_ascii_lowercase() } else { to_a_labels(text)? };
        check(&name)?;
        Ok(Self(name.into()))
    }

    /// The name as text, without a trailing dot.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name without its first label; `None` for a single label.
    pub fn parent(&self) -> Option<Self> {
        self.0.split_once('.').map(|(_, parent)| Self(parent.into()))
    }

    /// The first label and the rest, if there is a rest.
    pub fn split_first(&self) -> (&str, Option<&str>) {
        self.0.split_once('.').map_or((&self.0, None), |(first, rest)| (first, Some(rest)))
    }

    /// Is this name `other` or any name below it?
    ///
    /// ```
    /// # use smtp::HostName;
    /// let domain = HostName::parse("example.com")?;
    /// assert!(HostName::parse("a.b.example.com")?.is_at_or_below(&domain));
    /// assert!(!HostName::parse("badexample.com")?.is_at_or_below(&domain));
    /// # Ok::<(), smtp::HostNameError>(())
    /// ```
    pub fn is_at_or_below(&self, other: &Self) -> bool {
        self.0.strip_suffix(&*other.0).is_some_and(|front| front.is_empty() || front.ends_with('.'))
    }
}

/// `idna` validates what claims to be an A-label; names without one need no such check.
fn has_a_label(ascii: &str) -> bool {
    ascii.split('.').any(|label| label.get(..4).is_some_and(|p| p.eq_ignore_ascii_case("xn--")))
}

fn to_a_labels(text: &str) -> Result<String, HostNameError> {
    idna::domain_to_ascii_cow(text.as_bytes(), idna::AsciiDenyList::EMPTY)
        .map(std::borrow::Cow::into_owned)
        .map_err(|_| HostNameError::BadIdna)
}

fn check(name: &str) -> Result<(), HostNameError> {
    if name.len() > NAME_CHARS_MAX {
        return Err(HostNameError::TooLong);
    }
    name.split('.').try_for_each(check_label)?;
    let last = name.rsplit('.').next().unwrap_or_default();
    if last.bytes().all(|b| b.is_ascii_digit()) {
        return Err(HostNameError::Address);
    }
    Ok(())
}

fn check_label(label: &str) -> Result<(), HostNameError> {
    if label.is_empty() {
        return Err(HostNameError::EmptyLabel);
    }
    if label.len() > LABEL_CHARS_MAX {
        return Err(HostNameError::TooLong);
    }
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
    if !label.bytes().all(allowed) || label.starts_with('-') || label.ends_with('-') {
        return Err(HostNameError::BadCharacter);
    }
    Ok(())
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::str::FromStr for HostName {
    type Err = HostNameError;

    fn from_str(text: &str) -> Result<Self, HostNameError> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_normalized_once_or_refused() {
        let long = "a".repeat(64);
        let cases = [
            ("mx.example.com", Ok("mx.example.com")),
            ("MX.Example.COM.", Ok("mx.example.com")),
            ("_mta-sts.example.com", Ok("_mta-sts.example.com")),
            ("mx", Ok("mx")),
            ("münchen.example", Ok("xn--mnchen-3ya.example")),
            ("XN--MNCHEN-3YA.example", Ok("xn--mnchen-3ya.example")),
            ("", Err(HostNameError::EmptyLabel)),
            (".", Err(HostNameError::EmptyLabel)),
            (".example.com", Err(HostNameError::EmptyLabel)),
            ("a..b", Err(HostNameError::EmptyLabel)),
            ("a b", Err(HostNameError::BadCharacter)),
            ("a/b", Err(HostNameError::BadCharacter)),
            ("-a.example", Err(HostNameError::BadCharacter)),
            ("a-.example", Err(HostNameError::BadCharacter)),
            ("*.example", Err(HostNameError::BadCharacter)),
            ("a\0b", Err(HostNameError::BadCharacter)),
            ("xn---", Err(HostNameError::BadIdna)),
            ("127.0.0.1", Err(HostNameError::Address)),
            ("1", Err(HostNameError::Address)),
            (long.as_str(), Err(HostNameError::TooLong)),
        ];
        for (text, want) in cases {
            let got = HostName::parse(text);
            assert_eq!(got.as_ref().map(HostName::as_str), want.as_ref().copied(), "{text:?}");
        }
    }
}
