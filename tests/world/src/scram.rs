//! SCRAM-SHA-256 (RFC 5802, RFC 7677), the arithmetic of both sides.

use std::num::NonZeroU32;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac::{HMAC_SHA256, Key, sign};
use aws_lc_rs::pbkdf2::{PBKDF2_HMAC_SHA256, derive};

/// 32 bytes: a hash, a key, a signature.
pub(crate) type Block = [u8; 32];

/// What both sides derive from the password.
pub(crate) struct Keys {
    client: Block,
    server: Block,
}

impl Keys {
    /// `SaltedPassword` and what comes of it.
    pub(crate) fn derive(password: &str, salt: &[u8], iterations: u32) -> Self {
        let iterations = NonZeroU32::new(iterations).expect("at least one iteration");
        let mut salted = [0; 32];
        derive(PBKDF2_HMAC_SHA256, iterations, salt, password.as_bytes(), &mut salted);
        Self { client: hmac(&salted, b"Client Key"), server: hmac(&salted, b"Server Key") }
    }

    /// What the client sends as its proof.
    pub(crate) fn proof(&self, auth_message: &str) -> Block {
        let stored: Block = hash(&self.client);
        let signature = hmac(&stored, auth_message.as_bytes());
        std::array::from_fn(|at| self.client[at] ^ signature[at])
    }

    /// What the server proves itself by.
    pub(crate) fn server_signature(&self, auth_message: &str) -> Block {
        hmac(&self.server, auth_message.as_bytes())
    }
}

/// SHA-256.
pub(crate) fn hash(bytes: &[u8]) -> Block {
    digest(&SHA256, bytes).as_ref().try_into().expect("32 bytes")
}

fn hmac(key: &[u8], message: &[u8]) -> Block {
    sign(&Key::new(HMAC_SHA256, key), message).as_ref().try_into().expect("32 bytes")
}

/// The value of an attribute of a message: `r` in `r=abc,s=…`.
pub(crate) fn attribute<'m>(message: &'m str, name: &str) -> Option<&'m str> {
    message.split(',').find_map(|part| part.strip_prefix(name)?.strip_prefix('='))
}

#[cfg(test)]
mod tests {
    use super::Keys;
    use crate::base64::{decode, encode};

    /// The example of RFC 7677 §3.
    #[test]
    fn the_example_of_the_rfc_comes_out() {
        let salt = decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let keys = Keys::derive("pencil", &salt, 4096);
        let message = "n=user,r=rOprNGfwEbeRWgbNEkqO,\
            r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,\
            c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
        assert_eq!(encode(&keys.proof(message)), "dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=");
        assert_eq!(
            encode(&keys.server_signature(message)),
            "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
        );
    }
}
