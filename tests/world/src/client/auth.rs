//! AUTH (RFC 4954) from the client's side.

use super::{Client, Closed, SmtpReply};
use crate::base64::{decode, encode};
use crate::scram::{Keys, attribute};

/// How SCRAM-SHA-256-PLUS is bound to the TLS connection (RFC 5802 §6).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Binding {
    /// `tls-exporter` (RFC 9266).
    Exporter,
    /// `tls-server-end-point` (RFC 5929 §4).
    EndPoint,
}

/// A client nonce; its randomness is no matter here.
const NONCE: &str = "rOprNGfwEbeRWgbNEkqO";

impl Client {
    /// PLAIN with an initial response (RFC 4616).
    ///
    /// # Errors
    ///
    /// [`Closed`] if the server went away, as for the other mechanisms.
    pub async fn auth_plain(&mut self, user: &str, password: &str) -> Result<SmtpReply, Closed> {
        let response = encode(format!("\0{user}\0{password}").as_bytes());
        self.command(&format!("AUTH PLAIN {response}")).await
    }

    /// LOGIN, prompted for both parts.
    ///
    /// # Errors
    ///
    /// [`Closed`].
    pub async fn auth_login(&mut self, user: &str, password: &str) -> Result<SmtpReply, Closed> {
        let mut reply = self.command("AUTH LOGIN").await?;
        for answer in [user, password] {
            if reply.code != 334 {
                return Ok(reply);
            }
            reply = self.command(&encode(answer.as_bytes())).await?;
        }
        Ok(reply)
    }

    /// SCRAM-SHA-256, which says that the client knows no channel binding.
    ///
    /// # Errors
    ///
    /// [`Closed`].
    pub async fn auth_scram(&mut self, user: &str, password: &str) -> Result<SmtpReply, Closed> {
        self.scram("SCRAM-SHA-256", ("n,,", &[]), user, password).await
    }

    /// SCRAM-SHA-256-PLUS, bound to this TLS connection.
    ///
    /// # Errors
    ///
    /// [`Closed`].
    pub async fn auth_scram_plus(
        &mut self,
        binding: Binding,
        user: &str,
        password: &str,
    ) -> Result<SmtpReply, Closed> {
        let tls = self.tls.clone().expect("a TLS connection");
        let (header, data) = match binding {
            Binding::Exporter => ("p=tls-exporter,,", tls.exporter),
            Binding::EndPoint => ("p=tls-server-end-point,,", tls.end_point()),
        };
        self.scram("SCRAM-SHA-256-PLUS", (header, &data), user, password).await
    }

    /// The exchange of RFC 5802 §3 with this GS2 header and channel binding; the server's signature
    /// must be right.
    async fn scram(
        &mut self,
        mechanism: &str,
        (header, binding): (&str, &[u8]),
        user: &str,
        password: &str,
    ) -> Result<SmtpReply, Closed> {
        let name = user.replace('=', "=3D").replace(',', "=2C");
        let first_bare = format!("n={name},r={NONCE}");
        let initial = encode(format!("{header}{first_bare}").as_bytes());
        let reply = self.command(&format!("AUTH {mechanism} {initial}")).await?;
        if reply.code != 334 {
            return Ok(reply);
        }
        let server_first = challenge(&reply);
        let part = |name| attribute(&server_first, name).expect("r, s and i in the first message");
        assert!(part("r").starts_with(NONCE) && part("r") != NONCE, "{server_first}");
        let salt = decode(part("s")).expect("a salt");
        let keys = Keys::derive(password, &salt, part("i").parse().expect("iterations"));
        let bound = encode(&[header.as_bytes(), binding].concat());
        let without_proof = format!("c={bound},r={}", part("r"));
        let message = format!("{first_bare},{server_first},{without_proof}");
        let last = format!("{without_proof},p={}", encode(&keys.proof(&message)));
        let reply = self.command(&encode(last.as_bytes())).await?;
        if reply.code != 334 {
            return Ok(reply);
        }
        let signature = encode(&keys.server_signature(&message));
        assert_eq!(challenge(&reply), format!("v={signature}"), "the server proves itself");
        self.command("").await
    }
}

/// What a 334 says.
fn challenge(reply: &SmtpReply) -> String {
    let bytes = decode(&reply.text()).unwrap_or_else(|| panic!("not base64: {reply:?}"));
    String::from_utf8(bytes).expect("SCRAM messages are text")
}
