//! How a client proves who it is (RFC 4954, RFC 4422): names of mechanisms and their messages.
//!
//! Messages are taken apart and written here; nothing is computed from a password. That, and the
//! users, are `staunch::auth`.

mod plain;
mod scram;

use std::fmt;
use std::ops::Deref;

pub use plain::{LOGIN_NAME_PROMPT, LOGIN_PASSWORD_PROMPT, Plain, parse_login};
pub use scram::{Binding, ClientFinal, ClientFirst, ScramFailure, ServerFirst, server_final};

/// RFC 4616 §2 allows this for names and passwords; ours also for the other mechanisms.
pub const NAME_OCTETS_MAX: usize = 255;

/// What a client said to prove who it is. It is never shown: a password may be in it.
///
/// ```
/// let secret = smtp::sasl::Secret::from(b"tanstaaf".to_vec());
/// assert_eq!(&*secret, b"tanstaaf");
/// assert_eq!(format!("{secret:?}"), "Secret(8 octets)");
/// ```
#[derive(Clone, Eq, PartialEq)]
pub struct Secret(Vec<u8>);

impl From<Vec<u8>> for Secret {
    fn from(octets: Vec<u8>) -> Self {
        Self(octets)
    }
}

impl Deref for Secret {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({} octets)", self.0.len())
    }
}

/// A mechanism that we know.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[repr(u8)]
pub enum Mechanism {
    /// RFC 4616: name and password in one message.
    Plain,
    /// draft-murchison-sasl-login: what old clients speak.
    Login,
    /// RFC 7677: the password itself is never sent.
    ScramSha256,
    /// RFC 7677, bound to the TLS connection.
    ScramSha256Plus,
}

impl Mechanism {
    /// In the order of preference, since some clients take the first that they know.
    const ALL: [Self; 4] = [Self::ScramSha256Plus, Self::ScramSha256, Self::Plain, Self::Login];

    /// Reads a name, in any case (RFC 4954 §4).
    pub fn parse(name: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|m| name.eq_ignore_ascii_case(m.as_str().as_bytes()))
    }

    /// The name in IANA's registry of SASL mechanisms, in capitals.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::Login => "LOGIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha256Plus => "SCRAM-SHA-256-PLUS",
        }
    }
}

impl fmt::Display for Mechanism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Some mechanisms.
///
/// ```
/// use smtp::sasl::{Mechanism, Mechanisms};
/// let offered = Mechanisms::NONE.with(Mechanism::Plain).with(Mechanism::ScramSha256);
/// assert!(!offered.has(Mechanism::Login));
/// assert_eq!(offered.to_string(), "SCRAM-SHA-256 PLAIN");
/// ```
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Mechanisms(u8);

impl Mechanisms {
    /// The empty set: an offer with it has no AUTH.
    pub const NONE: Self = Self(0);

    /// The same set with this mechanism in it.
    #[must_use]
    pub const fn with(self, mechanism: Mechanism) -> Self {
        Self(self.0 | 1 << mechanism as u8)
    }

    /// Is it among them?
    pub const fn has(self, mechanism: Mechanism) -> bool {
        self.0 & (1 << mechanism as u8) != 0
    }

    /// Is the set empty, so that there is no AUTH?
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for Mechanisms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for mechanism in Mechanism::ALL.into_iter().filter(|mechanism| self.has(*mechanism)) {
            write!(f, "{separator}{mechanism}")?;
            separator = " ";
        }
        Ok(())
    }
}

/// Text that may be a name or password: some, no NUL, not too much.
fn text(octets: &[u8]) -> Option<Box<str>> {
    let text = std::str::from_utf8(octets).ok()?;
    let fits = (1..=NAME_OCTETS_MAX).contains(&text.len()) && !text.contains('\0');
    fits.then(|| text.into())
}
