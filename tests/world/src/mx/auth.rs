//! AUTH at a scripted host: PLAIN, LOGIN and SCRAM-SHA-256 (RFC 4954, RFC 4616, RFC 7677).

use std::io;

use super::session::Session;
use crate::base64::{decode, encode};
use crate::log::lock;
use crate::scram::{Keys, attribute};

const SALT: &[u8] = b"as any salt";
const ITERATIONS: u32 = 4096;
const NONCE: &str = "andtheserverspart";

/// Why nobody is logged in.
const CANCELLED: &str = "501 5.7.0 Cancelled";
const NO_MECHANISM: &str = "504 5.5.4 No such mechanism";
const REFUSED: &str = "535 5.7.8 Wrong";

impl Session<'_> {
    /// Who has logged in, or the reply that refuses.
    pub(super) async fn login(&mut self, line: &str) -> io::Result<Result<String, &'static str>> {
        if self.user.is_some() {
            return Ok(Err("503 5.5.1 Logged in already"));
        }
        let mut words = line.split(' ').skip(1);
        let mechanism = words.next().unwrap_or_default().to_ascii_uppercase();
        let initial = words.next();
        if !self.offers_mechanism(&mechanism) {
            return Ok(Err(NO_MECHANISM));
        }
        match mechanism.as_str() {
            "PLAIN" => self.plain(initial).await,
            "LOGIN" => self.login_prompted(initial).await,
            "SCRAM-SHA-256" => self.scram(initial).await,
            _ => Ok(Err(NO_MECHANISM)),
        }
    }

    fn offers_mechanism(&self, mechanism: &str) -> bool {
        let offered = self.offered.iter().find_map(|line| line.strip_prefix("AUTH "));
        offered.is_some_and(|offered| offered.split(' ').any(|one| one == mechanism))
    }

    async fn plain(&mut self, initial: Option<&str>) -> io::Result<Result<String, &'static str>> {
        let Some(response) = self.response(initial, "").await? else { return Ok(Err(CANCELLED)) };
        let mut parts = response.split('\0').skip(1);
        let (user, password) = (parts.next(), parts.next());
        Ok(self.known(user.unwrap_or_default(), password.unwrap_or_default()))
    }

    async fn login_prompted(
        &mut self,
        initial: Option<&str>,
    ) -> io::Result<Result<String, &'static str>> {
        let Some(user) = self.response(initial, "Username:").await? else {
            return Ok(Err(CANCELLED));
        };
        let Some(password) = self.response(None, "Password:").await? else {
            return Ok(Err(CANCELLED));
        };
        Ok(self.known(&user, &password))
    }

    async fn scram(&mut self, initial: Option<&str>) -> io::Result<Result<String, &'static str>> {
        let Some(first) = self.response(initial, "").await? else { return Ok(Err(CANCELLED)) };
        let Some(bare) = first.splitn(3, ',').nth(2) else { return Ok(Err(REFUSED)) };
        let user = attribute(bare, "n").unwrap_or_default().replace("=2C", ",").replace("=3D", "=");
        let nonce = attribute(bare, "r").unwrap_or_default();
        let server_first = format!("r={nonce}{NONCE},s={},i={ITERATIONS}", encode(SALT));
        let Some(last) = self.response(None, &server_first).await? else {
            return Ok(Err(CANCELLED));
        };
        let password = self.password(&user).unwrap_or_default();
        let keys = Keys::derive(&password, SALT, ITERATIONS);
        let (without_proof, _) = last.rsplit_once(",p=").unwrap_or_default();
        let message = format!("{bare},{server_first},{without_proof}");
        let proof = encode(&keys.proof(&message));
        let is_bound = attribute(&last, "r").is_some_and(|r| r == format!("{nonce}{NONCE}"));
        if !is_bound || attribute(&last, "p") != Some(&proof) || password.is_empty() {
            return Ok(Err(REFUSED));
        }
        let signature = encode(&keys.server_signature(&message));
        match self.response(None, &format!("v={signature}")).await? {
            Some(_) => Ok(Ok(user)),
            None => Ok(Err(CANCELLED)),
        }
    }

    /// The initial response, or the answer to this challenge; `None` if it is `*` or no base64.
    async fn response(
        &mut self,
        initial: Option<&str>,
        challenge: &str,
    ) -> io::Result<Option<String>> {
        let text = match initial {
            Some("=") => String::new(),
            Some(initial) => initial.to_owned(),
            None => {
                self.wire.queue(&format!("334 {}", encode(challenge.as_bytes())));
                self.wire.line().await?
            }
        };
        Ok(decode(&text).and_then(|bytes| String::from_utf8(bytes).ok()))
    }

    fn password(&self, user: &str) -> Option<String> {
        let script = lock(&self.shared.script);
        script.users.iter().find(|(name, _)| name == user).map(|(_, password)| password.clone())
    }

    fn known(&self, user: &str, password: &str) -> Result<String, &'static str> {
        let is_right = self.password(user).is_some_and(|right| right == password);
        if is_right { Ok(user.to_owned()) } else { Err(REFUSED) }
    }
}
