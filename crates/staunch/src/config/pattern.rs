//! Patterns of domains: `example.org`, `*.example.org`, `*`.

use std::fmt;

use smtp::{HostName, HostNameError};

/// Which domains are meant.
///
/// Unlike a policy's `mx` pattern (RFC 8461 §4.1), `*.` stands for any depth here: operators think
/// in subtrees.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) enum DomainPattern {
    /// `example.org`: this name, not those below it.
    Name(HostName),
    /// `*.example.org`: every name below, but not the name itself.
    Below(HostName),
    /// `*`: every domain, also one without a dot.
    Any,
}

impl DomainPattern {
    /// Parses one pattern.
    ///
    /// # Errors
    ///
    /// As [`HostName::parse`], for what follows the `*.`.
    pub(crate) fn parse(text: &str) -> Result<Self, HostNameError> {
        match text.strip_prefix("*.") {
            Some(parent) => HostName::parse(parent).map(Self::Below),
            None if text == "*" => Ok(Self::Any),
            None => HostName::parse(text).map(Self::Name),
        }
    }

    pub(crate) fn matches(&self, domain: &HostName) -> bool {
        match self {
            Self::Name(name) => name == domain,
            Self::Below(parent) => domain != parent && domain.is_at_or_below(parent),
            Self::Any => true,
        }
    }

    /// Orders patterns that match the same domain: the greater is the more specific. Of two that
    /// match, equal ranks mean equal patterns, and those are refused when the configuration is
    /// read.
    fn rank(&self) -> (u8, usize) {
        match self {
            Self::Name(_) => (2, 0),
            Self::Below(parent) => (1, parent.as_str().len()),
            Self::Any => (0, 0),
        }
    }
}

impl fmt::Display for DomainPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(f),
            Self::Below(parent) => write!(f, "*.{parent}"),
            Self::Any => f.write_str("*"),
        }
    }
}

/// The item whose patterns fit `domain` most closely, if any does.
pub(crate) fn most_specific<'a, T>(
    items: &'a [T],
    patterns: impl Fn(&'a T) -> &'a [DomainPattern],
    domain: &HostName,
) -> Option<&'a T> {
    let fits =
        |item| patterns(item).iter().filter(|p| p.matches(domain)).map(DomainPattern::rank).max();
    items
        .iter()
        .filter_map(|item| fits(item).map(|rank| (rank, item)))
        .max_by_key(|(rank, _)| *rank)
        .map(|(_, item)| item)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_specific_pattern_wins_whatever_the_order() {
        let mut lists =
            [["*", "*.org"], ["*.example.org", "a.example.org"], ["b.example.org", "example.org"]]
                .map(|texts| texts.map(|text| DomainPattern::parse(text).unwrap()));
        let cases = [
            ("example.com", "*"),
            ("other.org", "*"),
            ("example.org", "b.example.org"),
            ("deep.below.example.org", "*.example.org"),
            ("A.example.org", "*.example.org"),
            ("b.example.org", "b.example.org"),
            ("badexample.org", "*"),
        ];
        for _ in 0..2 {
            for (domain, first_of_list) in cases {
                let domain = HostName::parse(domain).unwrap();
                let found = most_specific(&lists, |list| list.as_slice(), &domain).unwrap();
                assert_eq!(found[0].to_string(), first_of_list, "{domain}");
            }
            lists.reverse();
        }
    }

    #[test]
    fn below_a_name_is_not_the_name() {
        let name = |text| HostName::parse(text).unwrap();
        let pattern = DomainPattern::parse("*.Example.org").unwrap();
        assert_eq!(pattern.to_string(), "*.example.org");
        assert!(pattern.matches(&name("a.b.example.org")));
        assert!(!pattern.matches(&name("example.org")));
        assert!(DomainPattern::parse("a.*.org").is_err());
        assert!(DomainPattern::parse("*.").is_err());
        assert!(DomainPattern::parse("").is_err());
    }
}
