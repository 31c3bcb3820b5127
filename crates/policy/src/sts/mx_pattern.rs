//! Which MX names does a policy allow? (RFC 8461 §4.1)
//!
//! A pattern is a host name, or `*.` and a host name: the star stands for exactly one label. Both
//! sides are compared in the normalized form of [`HostName`], so case, a final dot and U-labels
//! make no difference.

use std::fmt;

use smtp::{HostName, HostNameError, RemoteText};

/// One `mx` value of a policy.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum MxPattern {
    /// `mx.example`: this name only.
    Exact(HostName),
    /// Any name with one label more than this.
    AnyLabelUnder(HostName),
}

/// Why a text is not a pattern.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{pattern:?} is no MX pattern: {cause}")]
pub struct PatternError {
    /// The value as it was written, made inert.
    pub pattern: RemoteText,
    /// What is wrong with the part without `*.`.
    pub cause: HostNameError,
}

impl MxPattern {
    /// Reads `[*.]name`. A star anywhere else, an address or an empty label is refused.
    ///
    /// # Errors
    ///
    /// [`PatternError`]; a pattern that is refused matches nothing.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let (name, make): (_, fn(HostName) -> Self) = match text.strip_prefix("*.") {
            Some(suffix) => (suffix, Self::AnyLabelUnder),
            None => (text, Self::Exact),
        };
        HostName::parse(name)
            .map(make)
            .map_err(|cause| PatternError { pattern: RemoteText::new(text), cause })
    }

    /// Bytes of memory, about.
    pub fn weight(&self) -> usize {
        let (Self::Exact(name) | Self::AnyLabelUnder(name)) = self;
        // The text, and the two counts in front of it.
        size_of::<Self>() + name.as_str().len() + 16
    }

    /// Does the pattern allow the name in an MX record?
    ///
    /// ```
    /// use policy::sts::MxPattern;
    /// use smtp::HostName;
    /// let pattern = MxPattern::parse("*.example.com")?;
    /// assert!(pattern.matches(&HostName::parse("mail.example.com")?));
    /// assert!(!pattern.matches(&HostName::parse("a.mail.example.com")?));
    /// assert!(!pattern.matches(&HostName::parse("example.com")?));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn matches(&self, mx: &HostName) -> bool {
        match self {
            Self::Exact(name) => name == mx,
            Self::AnyLabelUnder(suffix) => mx.split_first().1 == Some(suffix.as_str()),
        }
    }
}

impl fmt::Display for MxPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => name.fmt(f),
            Self::AnyLabelUnder(suffix) => write!(f, "*.{suffix}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors::{self, VectorRow};

    #[test]
    fn wildcard_covers_exactly_one_label() {
        let pattern = MxPattern::parse("*.example.com").unwrap();
        let cases = [
            // RFC 8461 §4.1 gives the first three.
            ("mail.example.com", true),
            ("example.com", false),
            ("foo.bar.example.com", false),
            ("MAIL.Example.COM.", true),
            ("mail.example.com.evil.test", false),
            ("mailexample.com", false),
            ("xn--mnchen-3ya.example.com", true),
            ("_mx.example.com", true),
        ];
        for (host, want) in cases {
            assert_eq!(pattern.matches(&HostName::parse(host).unwrap()), want, "{host}");
        }
    }

    #[test]
    fn patterns_print_as_they_are_compared() {
        for (text, want) in [
            ("*.Example.COM.", Some("*.example.com")),
            ("Mail.münchen.example", Some("mail.xn--mnchen-3ya.example")),
            ("*", None),
            ("*.", None),
            ("*.*.example", None),
            ("*example.com", None),
            ("mail.*.example", None),
            ("\u{ff0a}.example", None), // a full-width star is not a star
            ("192.0.2.1", None),
            ("*.0.2.1", None),
            ("[192.0.2.1]", None),
            ("a.example b.example", None),
            ("", None),
        ] {
            let got = MxPattern::parse(text).ok().map(|p| p.to_string());
            assert_eq!(got.as_deref(), want, "{text:?}");
        }
    }

    #[test]
    fn every_mx_vector_matches_as_listed() {
        for VectorRow { id, cells } in vectors::rows("mx.tsv") {
            let texts: Vec<String> = serde_json::from_str(&cells[0]).unwrap();
            let patterns: Vec<_> = texts.iter().filter_map(|t| MxPattern::parse(t).ok()).collect();
            let host = HostName::parse(&cells[1]).ok();
            let got = host.is_some_and(|host| patterns.iter().any(|p| p.matches(&host)));
            // The rows without verdict: U-labels are compared as A-labels, on both sides.
            assert_eq!(got, matches!(cells[2].as_str(), "match" | "D"), "{id}");
        }
    }
}
