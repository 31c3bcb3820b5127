//! Enhanced status codes (RFC 3463).

use std::fmt;

/// What the first digit of a reply or status says (RFC 5321 §4.2.1).
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Class {
    /// 2: what was asked is done.
    Success,
    /// 4: refused for now; the same may be tried again.
    Transient,
    /// 5: not like this.
    Permanent,
}

impl Class {
    /// The digit in front.
    pub const fn digit(self) -> u8 {
        match self {
            Self::Success => 2,
            Self::Transient => 4,
            Self::Permanent => 5,
        }
    }
}

/// An enhanced status code, `class.subject.detail`.
///
/// ```
/// use smtp::{Class, Status};
/// let status = Status::parse("4.7.5").unwrap();
/// assert_eq!(status.with_class(Class::Permanent).to_string(), "5.7.5");
/// assert_eq!(Status::parse("4.7"), None);
/// ```
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Status {
    /// First digit; a status has none for 3yz.
    pub class: Class,
    /// Second part, at most 999.
    pub subject: u16,
    /// Third part, at most 999.
    pub detail: u16,
}

impl Status {
    /// No digit is checked: `subject` and `detail` are at most 999.
    pub const fn new(class: Class, subject: u16, detail: u16) -> Self {
        Self { class, subject, detail }
    }

    /// A status of success, `2.subject.detail`.
    pub const fn success(subject: u16, detail: u16) -> Self {
        Self::new(Class::Success, subject, detail)
    }

    /// A status of a refusal for now, `4.subject.detail`.
    pub const fn transient(subject: u16, detail: u16) -> Self {
        Self::new(Class::Transient, subject, detail)
    }

    /// A status of a refusal for good, `5.subject.detail`.
    pub const fn permanent(subject: u16, detail: u16) -> Self {
        Self::new(Class::Permanent, subject, detail)
    }

    /// The same subject and detail under another class: a deferral's code in the final bounce.
    #[must_use]
    pub const fn with_class(self, class: Class) -> Self {
        Self { class, ..self }
    }

    /// Parses exactly `d.d{1,3}.d{1,3}`; anything else is `None`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('.');
        let class = match parts.next()? {
            "2" => Class::Success,
            "4" => Class::Transient,
            "5" => Class::Permanent,
            _ => return None,
        };
        let status = Self::new(class, part(parts.next()?)?, part(parts.next()?)?);
        parts.next().is_none().then_some(status)
    }
}

fn part(text: &str) -> Option<u16> {
    let digits = (1..=3).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.class.digit(), self.subject, self.detail)
    }
}
