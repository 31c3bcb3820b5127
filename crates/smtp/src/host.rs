//! The one normalized form of a DNS host name.
//!
//! Every comparison of names in staunch is a comparison of [`HostName`]s, so there is one place
//! where case, trailing dots and U-labels are dealt with: here, at the border.
//!
//! What is ASCII already is judged by its form alone: labels of letters, digits, hyphens and
//! underscores. That an A-label decodes to something IDNA allows is for those who register names to
//! see to (RFC 5891 §4.4, §5.4): DNS has names that our tables do not know, and names in which a
//! label in front of a right-to-left one breaks the bidi rule, as `_mta-sts` does. IDNA only maps
//! labels that have other characters, each for itself.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

/// RFC 1035 §2.3.4: 255 octets on the wire are 253 characters in text.
pub const NAME_CHARS_MAX: usize = 253;
/// RFC 1035 §2.3.4: characters of one label, in its A-label form.
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
    /// A label beyond ASCII that IDNA (UTS #46) does not map.
    #[error("not a valid internationalized name")]
    BadIdna,
    /// The last label is all digits.
    #[error("an IP address, not a name")]
    Address,
}

/// With this label in front, a name would be longer than DNS allows: there is no such name.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("with {0} in front, the name is longer than DNS allows")]
pub struct NameTooLong(pub &'static str);

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
        let name = if text.is_ascii() {
            text.to_ascii_lowercase()
        } else {
            // Label by label: in a whole name, IDNA would hold ASCII labels to the bidi rule as
            // well.
            let labels: Result<Vec<_>, _> = text.split(DOTS).map(label_to_ascii).collect();
            labels?.join(".")
        };
        check(&name)?;
        Ok(Self(name.into()))
    }

    /// The name whose labels stand in a DNS message as these octets, the root left out. Octets over
    /// 127 are taken for UTF-8; a dot within a label is no character of a name.
    ///
    /// ```
    /// use smtp::HostName;
    /// let labels = [&b"_MX"[..], b"xn--4dbrk0ce", b"test"];
    /// assert_eq!(HostName::from_labels(labels)?.as_str(), "_mx.xn--4dbrk0ce.test");
    /// assert!(HostName::from_labels([&b"mx.a"[..], b"test"]).is_err());
    /// # Ok::<(), smtp::HostNameError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`HostNameError`] for what no host can be named.
    pub fn from_labels<'l>(
        labels: impl IntoIterator<Item = &'l [u8]>,
    ) -> Result<Self, HostNameError> {
        let mut name = String::new();
        for label in labels {
            let label = std::str::from_utf8(label).map_err(|_| HostNameError::BadIdna)?;
            let label = label_to_ascii(label)?;
            check_label(&label)?;
            if !name.is_empty() {
                name.push('.');
            }
            name.push_str(&label);
        }
        check(&name)?;
        Ok(Self(name.into()))
    }

    /// The name with `label`, which is a lower-case one of ours, in front: `_mta-sts.` and such.
    ///
    /// ```
    /// use smtp::HostName;
    /// let name = HostName::parse("xn--4dbrk0ce.test")?.prepend("_mta-sts")?;
    /// assert_eq!(name.as_str(), "_mta-sts.xn--4dbrk0ce.test");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`NameTooLong`]: nothing of that name can exist in DNS (RFC 1035 §2.3.4). There is no other.
    pub fn prepend(&self, label: &'static str) -> Result<Self, NameTooLong> {
        debug_assert_eq!(check_label(label), Ok(()), "a label of ours");
        if label.len() + 1 + self.0.len() > NAME_CHARS_MAX {
            return Err(NameTooLong(label));
        }
        Ok(Self(format!("{label}.{self}").into()))
    }

    /// The labels, without the root.
    pub fn labels(&self) -> impl Iterator<Item = &str> {
        self.0.split('.')
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

/// The dots that IDNA takes for one (UTS #46 §4, "full stop" and those mapped to it).
const DOTS: [char; 4] = ['.', '\u{3002}', '\u{ff0e}', '\u{ff61}'];

fn label_to_ascii(label: &str) -> Result<Cow<'_, str>, HostNameError> {
    if label.is_ascii() {
        return Ok(label.to_ascii_lowercase().into());
    }
    idna::domain_to_ascii_cow(label.as_bytes(), idna::AsciiDenyList::EMPTY)
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
            ("xn---", Err(HostNameError::BadCharacter)),
            ("a.xn--4dbrk0ce.test", Ok("a.xn--4dbrk0ce.test")),
            ("m\u{fc}nchen\u{3002}example\u{ff0e}", Err(HostNameError::EmptyLabel)),
            ("M\u{dc}nchen\u{3002}Example.", Ok("xn--mnchen-3ya.example")),
            ("127.0.0.1", Err(HostNameError::Address)),
            ("1", Err(HostNameError::Address)),
            (long.as_str(), Err(HostNameError::TooLong)),
        ];
        for (text, want) in cases {
            let got = HostName::parse(text);
            assert_eq!(got.as_ref().map(HostName::as_str), want.as_ref().copied(), "{text:?}");
        }
    }

    #[test]
    fn names_in_ascii_are_judged_by_their_form_alone() {
        for text in [
            // The bidi rule wants letters first.
            "1mx.xn--4dbrk0ce.test",
            "_mx.xn--4dbrk0ce.test",
            "_mta-sts.xn--mgbh0fb.xn--kgbechtv",
            // No Unicode that we know.
            "xn--zzzzzzzzzz.test",
            "xn--a.test",
            "xn--99999999.test",
        ] {
            assert_eq!(HostName::parse(text).as_ref().map(HostName::as_str), Ok(text));
            assert_eq!(HostName::parse(&text.to_ascii_uppercase()).unwrap().as_str(), text);
            let labels = text.split('.').map(str::as_bytes);
            assert_eq!(HostName::from_labels(labels).unwrap().as_str(), text);
        }
    }

    #[test]
    fn u_labels_are_mapped_whatever_stands_in_front_of_them() {
        let rtl = "\u{5d0}\u{5d1}.test";
        let ascii = HostName::parse(rtl).unwrap();
        assert!(ascii.as_str().starts_with("xn--"), "{ascii}");
        for front in ["1mx", "_mx", "a-1"] {
            let want = format!("{front}.{ascii}");
            assert_eq!(HostName::parse(&format!("{front}.{rtl}")).unwrap().as_str(), want);
        }
        assert_eq!(HostName::parse("\u{5d0}a\u{5d1}.test"), Err(HostNameError::BadIdna));
    }

    #[test]
    fn names_from_the_wire_are_what_their_octets_say() {
        let long = [b'a'; 64];
        type Case<'c> = (&'c [&'c [u8]], Result<&'c str, HostNameError>);
        let cases: [Case<'_>; 12] = [
            (&[b"MX", b"a", b"test"], Ok("mx.a.test")),
            (&["m\u{fc}nchen".as_bytes(), b"test"], Ok("xn--mnchen-3ya.test")),
            (&["\u{3002}".as_bytes(), b"test"], Err(HostNameError::BadCharacter)),
            (&[b"a\xff", b"test"], Err(HostNameError::BadIdna)),
            (&[b"a.b", b"test"], Err(HostNameError::BadCharacter)),
            (&[b"a\\", b"test"], Err(HostNameError::BadCharacter)),
            (&[b"a b", b"test"], Err(HostNameError::BadCharacter)),
            (&[b"*", b"test"], Err(HostNameError::BadCharacter)),
            (&[b"a\0", b"test"], Err(HostNameError::BadCharacter)),
            (&[b"192", b"0", b"2", b"1"], Err(HostNameError::Address)),
            (&[&long, b"test"], Err(HostNameError::TooLong)),
            (&[], Err(HostNameError::EmptyLabel)),
        ];
        for (labels, want) in cases {
            let got = HostName::from_labels(labels.iter().copied());
            assert_eq!(got.as_ref().map(HostName::as_str), want.as_ref().copied(), "{labels:?}");
        }
    }

    #[test]
    fn a_label_can_be_put_in_front_of_every_name_that_leaves_room() {
        let label = "a".repeat(62);
        let long = format!("{label}.{label}.{label}.{}", "b".repeat(63 - 8 - 1));
        let name = HostName::parse(&long).unwrap();
        assert_eq!(name.prepend("mta-sts").unwrap().as_str().len(), 251);
        assert_eq!(name.prepend("_mta-sts").unwrap().as_str().len(), 252);
        let longer = HostName::parse(&format!("{long}bb")).unwrap();
        assert_eq!(longer.prepend("mta-sts").unwrap().as_str().len(), NAME_CHARS_MAX);
        assert!(longer.prepend("_mta-sts").is_err());
    }
}
