//! The mechanisms that show the password to the server: PLAIN (RFC 4616) and LOGIN.

use std::fmt;

use super::text;

/// What LOGIN asks first. Clients do not read it, but some compare it.
pub const LOGIN_NAME_PROMPT: &[u8] = b"Username:";
/// What LOGIN asks second.
pub const LOGIN_PASSWORD_PROMPT: &[u8] = b"Password:";

/// The message of PLAIN. The password is never shown.
///
/// ```
/// use smtp::sasl::Plain;
/// let plain = Plain::parse(b"\0tim\0tanstaaftanstaaf").unwrap();
/// assert_eq!((plain.user(), plain.password()), ("tim", "tanstaaftanstaaf"));
/// assert_eq!(format!("{plain:?}"), r#"Plain { authorize_as: None, user: "tim", .. }"#);
/// ```
#[derive(Clone, Eq, PartialEq)]
pub struct Plain {
    authorize_as: Option<Box<str>>,
    user: Box<str>,
    password: Box<str>,
}

impl Plain {
    /// Reads `[authzid] NUL authcid NUL passwd`, each UTF-8 and at most
    /// [`NAME_OCTETS_MAX`](super::NAME_OCTETS_MAX).
    pub fn parse(message: &[u8]) -> Option<Self> {
        let mut parts = message.split(|octet| *octet == 0);
        let (identity, user, password) = (parts.next()?, parts.next()?, parts.next()?);
        if parts.next().is_some() {
            return None;
        }
        let authorize_as = if identity.is_empty() { None } else { Some(text(identity)?) };
        Some(Self { authorize_as, user: text(user)?, password: text(password)? })
    }

    /// Whom the user wants to act for, if not for itself.
    pub fn authorize_as(&self) -> Option<&str> {
        self.authorize_as.as_deref()
    }

    /// Whose password it is.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The password in the clear, to be compared with what is stored for the user.
    pub fn password(&self) -> &str {
        &self.password
    }
}

impl fmt::Debug for Plain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plain")
            .field("authorize_as", &self.authorize_as)
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// The answer to one of LOGIN's two questions.
pub fn parse_login(response: &[u8]) -> Option<Box<str>> {
    text(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_has_exactly_three_parts_of_bounded_text() {
        let long = [b"\0u\0".as_slice(), &[b'p'; 256]].concat();
        let longest = [b"\0u\0".as_slice(), &[b'p'; 255]].concat();
        let cases: [(&[u8], Option<[&str; 2]>); 11] = [
            (b"\0u\0p", Some(["", "u"])),
            (b"z\0u\0p", Some(["z", "u"])),
            ("\0\u{fc}\0\u{fc}".as_bytes(), Some(["", "\u{fc}"])),
            (&longest, Some(["", "u"])),
            (&long, None),
            (b"", None),
            (b"u\0p", None),
            (b"\0\0p", None),
            (b"\0u\0", None),
            (b"\0u\0p\0", None),
            (b"\0u\0\xff", None),
        ];
        for (message, want) in cases {
            let got = Plain::parse(message);
            let got =
                got.as_ref().map(|plain| [plain.authorize_as().unwrap_or_default(), plain.user()]);
            assert_eq!(got, want, "{}", message.escape_ascii());
        }
    }

    #[test]
    fn login_takes_one_text_at_a_time() {
        assert_eq!(parse_login(b"user@example.com").as_deref(), Some("user@example.com"));
        for message in [&b""[..], b"a\0b", b"\xff"] {
            assert_eq!(parse_login(message), None);
        }
    }
}
