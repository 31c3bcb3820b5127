//! The secrets of SCRAM-SHA-256 (RFC 5802, RFC 7677): what is stored, what proves a password.
//!
//! The messages on the wire are parsed in `smtp::sasl`, which knows no cryptography; this knows no
//! SMTP.

use std::fmt;
use std::num::NonZeroU32;

use aws_lc_rs::{constant_time, digest, hmac, pbkdf2};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Octets of a hash, and so of each key: SHA-256.
const KEY_OCTETS: usize = 32;
/// Fewest rounds of PBKDF2 (RFC 7677 §4).
const ITERATIONS_MIN: u32 = 4096;
/// Most rounds: about a second of one core, and the client has to do the same.
const ITERATIONS_MAX: u32 = 2_000_000;
/// What `staunch user` makes: the most that clients with Cyrus SASL (Postfix among them) take,
/// `MAX_ITERATION_COUNTER` in its `plugins/scram.c`. They compute it for each connection.
const ITERATIONS: NonZeroU32 = NonZeroU32::new(65_536).unwrap();
/// Octets of a salt.
const SALT_MIN: usize = 8;
/// Also what can be made up for a name that nobody has.
const SALT_MAX: usize = 2 * KEY_OCTETS;

/// What the server keeps of a password (RFC 5802 §3).
#[derive(Clone, Eq, PartialEq)]
pub(crate) struct ScramKeys {
    iterations: NonZeroU32,
    salt: Box<[u8]>,
    stored_key: [u8; KEY_OCTETS],
    server_key: [u8; KEY_OCTETS],
}

impl fmt::Debug for ScramKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScramKeys").field("iterations", &self.iterations).finish_non_exhaustive()
    }
}

impl ScramKeys {
    /// For a new password.
    pub(super) fn new(password: &[u8], salt: &[u8]) -> Self {
        Self::derive(password, salt, ITERATIONS)
    }

    /// RFC 5802 §3: SaltedPassword, ClientKey, StoredKey, ServerKey.
    fn derive(password: &[u8], salt: &[u8], iterations: NonZeroU32) -> Self {
        let mut salted = [0; KEY_OCTETS];
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, salt, password, &mut salted);
        let client_key = sign(&salted, b"Client Key");
        Self {
            iterations,
            salt: salt.into(),
            stored_key: sha256(&client_key),
            server_key: sign(&salted, b"Server Key"),
        }
    }

    /// Keys that no password has, for a name that nobody has: made of `seed`, so that they are the
    /// same each time the name is tried, and as costly to try as those of a real one.
    pub(super) fn invented(like: &Self, seed: &[u8; KEY_OCTETS]) -> Self {
        let salt = [sign(seed, b"salt"), sign(seed, b"more salt")].into_iter().flatten();
        Self {
            iterations: like.iterations,
            salt: salt.take(like.salt.len()).collect(),
            stored_key: sign(seed, b"stored key"),
            server_key: sign(seed, b"server key"),
        }
    }

    /// Reads `SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey` (RFC 5803 §3).
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        const FORM: &str = "not SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey";
        let rest = text.strip_prefix("SCRAM-SHA-256$").ok_or(FORM)?;
        let (info, keys) = rest.split_once('$').ok_or(FORM)?;
        let (iterations, salt) = info.split_once(':').ok_or(FORM)?;
        let (stored_key, server_key) = keys.split_once(':').ok_or(FORM)?;
        let iterations = Some(iterations)
            .filter(|text| !text.starts_with(['+', '0']))
            .and_then(|text| text.parse().ok())
            .filter(|count| (ITERATIONS_MIN..=ITERATIONS_MAX).contains(count))
            .and_then(NonZeroU32::new)
            .ok_or("SCRAM iterations are not in 4096 to 2000000")?;
        let salt = STANDARD.decode(salt).map_err(|_| FORM)?;
        if !(SALT_MIN..=SALT_MAX).contains(&salt.len()) {
            return Err("a SCRAM salt has not 8 to 64 octets");
        }
        let key = |text: &str| STANDARD.decode(text).ok()?.try_into().ok();
        Ok(Self {
            iterations,
            salt: salt.into(),
            stored_key: key(stored_key).ok_or(FORM)?,
            server_key: key(server_key).ok_or(FORM)?,
        })
    }

    /// Derives the keys anew and compares them, in constant time.
    pub(super) fn check(&self, password: &[u8]) -> bool {
        let derived = Self::derive(password, &self.salt, self.iterations);
        equal(&derived.stored_key, &self.stored_key)
    }

    /// What the client salts its password with.
    pub(super) fn salt(&self) -> &[u8] {
        &self.salt
    }

    /// Rounds of PBKDF2, which the client has to do as well.
    pub(super) fn iterations(&self) -> u32 {
        self.iterations.get()
    }

    /// If `proof` proves that the client knows the password: what proves to it that we know the
    /// keys (RFC 5802 §3, ServerSignature).
    pub(super) fn verify(&self, auth_message: &[u8], proof: &[u8]) -> Option<[u8; KEY_OCTETS]> {
        let proof: &[u8; KEY_OCTETS] = proof.try_into().ok()?;
        let signature = sign(&self.stored_key, auth_message);
        let mut client_key = [0; KEY_OCTETS];
        for (key, (proof, signature)) in client_key.iter_mut().zip(proof.iter().zip(&signature)) {
            *key = proof ^ signature;
        }
        equal(&sha256(&client_key), &self.stored_key).then(|| sign(&self.server_key, auth_message))
    }
}

impl fmt::Display for ScramKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "SCRAM-SHA-256${}:{}${}:{}",
            self.iterations,
            STANDARD.encode(&self.salt),
            STANDARD.encode(self.stored_key),
            STANDARD.encode(self.server_key)
        )
    }
}

fn sign(key: &[u8], data: &[u8]) -> [u8; KEY_OCTETS] {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), data);
    octets(tag.as_ref())
}

fn sha256(data: &[u8]) -> [u8; KEY_OCTETS] {
    octets(digest::digest(&digest::SHA256, data).as_ref())
}

/// SHA-256's output is as long as a key; nothing is cut or filled up here.
fn octets(bytes: &[u8]) -> [u8; KEY_OCTETS] {
    let mut out = [0; KEY_OCTETS];
    for (out, byte) in out.iter_mut().zip(bytes) {
        *out = *byte;
    }
    out
}

fn equal(a: &[u8], b: &[u8]) -> bool {
    constant_time::verify_slices_are_equal(a, b).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The exchange of RFC 7677 §3.
    #[test]
    fn the_exchange_of_rfc_7677_is_right() {
        let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let keys = ScramKeys::derive(b"pencil", &salt, NonZeroU32::new(4096).unwrap());
        assert_eq!(ScramKeys::parse(&keys.to_string()), Ok(keys.clone()));
        let auth_message = "n=user,r=rOprNGfwEbeRWgbNEkqO,\
            r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,\
            c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
        let proof = STANDARD.decode("dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=").unwrap();
        let signature = keys.verify(auth_message.as_bytes(), &proof).unwrap();
        assert_eq!(STANDARD.encode(signature), "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
        assert_eq!(keys.verify(b"another message", &proof), None);
        assert_eq!(keys.verify(auth_message.as_bytes(), b"short"), None);
    }

    /// 65,536: Cyrus SASL refuses more, in the middle of the login and without another mechanism to
    /// go on with.
    #[test]
    fn new_keys_ask_no_more_rounds_than_every_client_computes() {
        assert!(ScramKeys::new(b"pencil", b"0123456789abcdef").iterations() <= 0x1_0000);
    }

    #[test]
    fn invented_keys_look_like_real_ones_and_stay_the_same() {
        let real =
            ScramKeys::derive(b"pencil", b"0123456789abcdef", NonZeroU32::new(5000).unwrap());
        let invented = ScramKeys::invented(&real, &[7; 32]);
        assert_eq!(invented, ScramKeys::invented(&real, &[7; 32]));
        assert_ne!(invented, ScramKeys::invented(&real, &[8; 32]));
        assert_eq!((invented.iterations(), invented.salt().len()), (5000, 16));
        assert!(!invented.check(b"pencil"));
        for octets in [SALT_MIN, 33, SALT_MAX] {
            let real = ScramKeys::derive(b"pencil", &vec![1; octets], real.iterations);
            assert_eq!(ScramKeys::invented(&real, &[7; 32]).salt().len(), octets);
        }
    }
}
