//! How do we log in to a next hop? The client side of AUTH (RFC 4954), as a state machine.
//!
//! No I/O: the caller sends what was appended to its buffer, reads a reply and hands it back. PLAIN
//! goes before LOGIN; both show the password to the server, so the caller asks for them only under
//! TLS with a host that has been authenticated. That is also why mechanisms that hide it are not
//! needed here.

use std::fmt;

use crate::base64;
use crate::limits::COMMAND_LINE_OCTETS;
use crate::reply::{Reply, ReplyClass};
use crate::sasl::{Mechanism, Mechanisms};

/// The reply that ends a successful exchange (RFC 4954 §6).
const AUTHENTICATED: u16 = 235;

/// Whom we log in as. The password is never shown.
#[derive(Clone, Eq, PartialEq)]
pub struct Credentials {
    username: Box<str>,
    password: Box<str>,
}

impl Credentials {
    /// `None` for an empty name or password, or a NUL in one, which no mechanism can send (RFC 4616
    /// §2).
    pub fn new(username: &str, password: &str) -> Option<Self> {
        let is_sendable = |text: &str| !text.is_empty() && !text.contains('\0');
        (is_sendable(username) && is_sendable(password))
            .then(|| Self { username: username.into(), password: password.into() })
    }

    /// The name to log in with; nothing gives the password out.
    pub fn username(&self) -> &str {
        &self.username
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}

/// An exchange that waits for a reply.
#[derive(Debug)]
pub struct Authentication<'a> {
    credentials: &'a Credentials,
    state: SaslState,
}

/// What the next 334 asks for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum SaslState {
    /// PLAIN's one message, which was too long for the command line.
    PlainMessage,
    /// The name, of LOGIN. What the server calls it does not matter: the order is always the same.
    LoginName,
    /// The password, of LOGIN.
    LoginPassword,
    /// Nothing: all was sent, and the reply decides.
    Verdict,
    /// We gave up, and the server is about to say so.
    Cancelled,
}

/// What comes next. Whatever was appended to the buffer is sent in any case.
#[derive(Debug)]
#[must_use]
pub enum AuthStep<'a> {
    /// Read a reply and pass it to [`Authentication::on_reply`].
    Await(Authentication<'a>),
    /// The server said 235: this connection is logged in.
    Done,
    /// The server does not let us in: with this reply.
    Refused(Reply),
}

impl<'a> Authentication<'a> {
    /// Begins with the best mechanism that is `offered`: appends AUTH to `out`. `None` if we know
    /// none of them.
    pub fn start(
        offered: Mechanisms,
        credentials: &'a Credentials,
        out: &mut Vec<u8>,
    ) -> Option<Self> {
        let state = if offered.has(Mechanism::Plain) {
            // With its message, which saves a round trip, if that fits into a command line.
            let mut line = b"AUTH PLAIN ".to_vec();
            base64::encode(&plain_message(credentials), &mut line);
            line.extend_from_slice(b"\r\n");
            if line.len() > COMMAND_LINE_OCTETS {
                out.extend_from_slice(b"AUTH PLAIN\r\n");
                SaslState::PlainMessage
            } else {
                out.extend_from_slice(&line);
                SaslState::Verdict
            }
        } else if offered.has(Mechanism::Login) {
            out.extend_from_slice(b"AUTH LOGIN\r\n");
            SaslState::LoginName
        } else {
            return None;
        };
        Some(Self { credentials, state })
    }

    /// Advances on the next reply; what has to be sent then is appended to `out`.
    pub fn on_reply(mut self, reply: Reply, out: &mut Vec<u8>) -> AuthStep<'a> {
        // Only this code says that we are somebody now; any other 2yz is a server out of step.
        if reply.code == AUTHENTICATED && self.state == SaslState::Verdict {
            return AuthStep::Done;
        }
        if reply.class() != ReplyClass::Continue {
            return AuthStep::Refused(reply);
        }
        self.state = match self.state {
            SaslState::PlainMessage => {
                base64::encode(&plain_message(self.credentials), out);
                SaslState::Verdict
            }
            SaslState::LoginName => {
                base64::encode(self.credentials.username.as_bytes(), out);
                SaslState::LoginPassword
            }
            SaslState::LoginPassword => {
                base64::encode(self.credentials.password.as_bytes(), out);
                SaslState::Verdict
            }
            // RFC 4954 §4: the server wants more than there is.
            SaslState::Verdict => {
                out.push(b'*');
                SaslState::Cancelled
            }
            SaslState::Cancelled => return AuthStep::Refused(reply),
        };
        out.extend_from_slice(b"\r\n");
        AuthStep::Await(self)
    }
}

/// RFC 4616 §2: nobody to act for, the name, the password.
fn plain_message(credentials: &Credentials) -> Vec<u8> {
    ["\0", &credentials.username, "\0", &credentials.password].concat().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::extensions::Extensions;

    fn play(auth: &str, password: &str, replies: &[&str]) -> (String, String) {
        let ehlo = Reply::parse(format!("250-mx\r\n250 {auth}\r\n").as_bytes()).unwrap();
        let credentials = Credentials::new("tim", password).unwrap();
        let mut out = Vec::new();
        let offered = Extensions::from_reply(&ehlo).auth();
        let ended = match Authentication::start(offered, &credentials, &mut out) {
            None => "no mechanism".to_owned(),
            Some(authentication) => converse(authentication, replies, &mut out),
        };
        (String::from_utf8(out).unwrap(), ended)
    }

    fn converse(mut waiting: Authentication<'_>, replies: &[&str], out: &mut Vec<u8>) -> String {
        for reply in replies {
            let reply = Reply::parse(format!("{reply}\r\n").as_bytes()).unwrap();
            match waiting.on_reply(reply, out) {
                AuthStep::Await(next) => waiting = next,
                AuthStep::Done => return "done".to_owned(),
                AuthStep::Refused(reply) => return reply.to_string(),
            }
        }
        format!("{:?}", waiting.state)
    }

    #[test]
    fn each_mechanism_says_what_it_should_and_no_more() {
        let plain = "AUTH PLAIN AHRpbQB0YW5zdGFhZg==\r\n";
        let login = "AUTH LOGIN\r\ndGlt\r\ndGFuc3RhYWY=\r\n";
        let cases: &[(&str, &[&str], &str, &str)] = &[
            ("AUTH PLAIN LOGIN", &["235 2.7.0 welcome"], plain, "done"),
            ("AUTH PLAIN", &["535 5.7.8 no"], plain, "535 5.7.8 no"),
            ("AUTH PLAIN", &["454 4.7.0 later"], plain, "454 4.7.0 later"),
            ("AUTH PLAIN", &["250 ok"], plain, "250 ok"),
            ("AUTH LOGIN", &["334 VXNlcm5hbWU6", "334 whatever", "235 ok"], login, "done"),
            ("AUTH LOGIN", &["334 a", "535 no"], "AUTH LOGIN\r\ndGlt\r\n", "535 no"),
            ("AUTH LOGIN", &["235 too early"], "AUTH LOGIN\r\n", "235 too early"),
            ("AUTH CRAM-MD5", &[], "", "no mechanism"),
            ("HELP", &[], "", "no mechanism"),
        ];
        for (auth, replies, said, ended) in cases {
            let want = ((*said).to_owned(), (*ended).to_owned());
            assert_eq!(play(auth, "tanstaaf", replies), want, "{auth} {replies:?}");
        }
    }

    #[test]
    fn a_server_that_asks_on_and_on_is_left() {
        let (said, ended) = play("AUTH PLAIN", "x", &["334 more", "334 more"]);
        assert_eq!((said.ends_with("\r\n*\r\n"), ended.as_str()), (true, "334 more"));
    }

    #[test]
    fn a_long_password_does_not_make_a_command_line_too_long() {
        let password = "x".repeat(1000);
        let (said, ended) = play("AUTH PLAIN", &password, &["334 ", "235 ok"]);
        assert!(said.starts_with("AUTH PLAIN\r\nAHRpbQB4"));
        assert_eq!(ended, "done");
    }

    #[test]
    fn credentials_that_cannot_be_sent_are_none_and_none_are_shown() {
        for (name, password) in [("", "x"), ("x", ""), ("a\0b", "x"), ("x", "a\0b")] {
            assert_eq!(Credentials::new(name, password), None);
        }
        let shown = format!("{:?}", Credentials::new("tim", "secret").unwrap());
        assert!(shown.contains("tim") && !shown.contains("secret"), "{shown}");
    }
}
