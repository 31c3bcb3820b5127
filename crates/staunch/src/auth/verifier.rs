//! What is kept of a password: enough to check one, not enough to know it.
//!
//! Three forms are read: argon2id as a PHC string, bcrypt as crypt(3) and htpasswd(1) write it, and
//! SCRAM-SHA-256 as RFC 5803 §3 writes it for LDAP. Costs are bounded when a verifier is read, so
//! that no line of the file can make a login take minutes or gigabytes.

use argon2::password_hash::phc::PasswordHash;
use argon2::{Algorithm, Argon2, Params, Version};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::rand;

use super::prepared;
use super::scram::ScramKeys;

/// Most memory of one argon2id check, in KiB: checks run at once for several users.
const ARGON2_MEMORY_KIB_MAX: u32 = 256 * 1024;
/// Most memory of one check times its passes, in KiB: about ten seconds of one core.
const ARGON2_WORK_KIB_MAX: u64 = 8 * 1024 * 1024;
/// Memory times passes, bcrypt's cost and SCRAM's iterations from which a check takes more than
/// some 100 ms of a core.
const ARGON2_COSTLY_KIB: u64 = 128 * 1024;
const BCRYPT_COSTLY: u32 = 12;
const SCRAM_COSTLY: u32 = 250_000;
/// Most lanes; they are worked on one after the other here.
const ARGON2_LANES_MAX: u32 = 64;
/// What `staunch user` makes, as OWASP recommends for servers: those of RFC 9106 §4 take more
/// memory than logins may have beside mail.
const ARGON2_MEMORY_KIB: u32 = 19 * 1024;
const ARGON2_PASSES: u32 = 2;
/// Octets of a salt that is made here (RFC 9106 §3.1).
pub(super) const SALT_OCTETS: usize = 16;
/// bcrypt's work is 2^cost: 16 takes some seconds, 31 days.
const BCRYPT_COST_MAX: u32 = 16;
const BCRYPT_COST_MIN: u32 = 4;

/// Enough to check a password.
#[derive(Clone, Eq, PartialEq)]
pub(crate) enum Verifier {
    /// A PHC string: `$argon2id$v=19$m=…,t=…,p=…$salt$hash`.
    Argon2id(Box<PasswordHash>),
    /// `$2b$…`, also `$2a$` and `$2y$`, which other programs write for the same.
    Bcrypt(Box<str>),
    /// As RFC 5803 has it: `SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey`.
    Scram(ScramKeys),
}

/// Neither salts nor hashes belong into a log.
impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.kind())
    }
}

/// The forms that `staunch user` writes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum SecretForm {
    /// The best protection of the file.
    Argon2id,
    /// Also lets clients log in without sending the password.
    Scram,
}

/// There is no randomness, or a password cannot have the wanted form.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum MakeError {
    /// Clients prepare other passwords in different ways (RFC 5802 §5.1), so that some could not
    /// log in.
    #[error("a password for SCRAM must be printable ASCII")]
    NotAscii,
    /// Clients could not all send it the same way (RFC 8265 §4).
    #[error("the password has a character that RFC 8265 does not allow in one")]
    NotAllowed,
    /// Of the system, or of argon2.
    #[error("a verifier cannot be made")]
    Failed,
}

impl Verifier {
    /// Reads one of the three forms.
    ///
    /// # Errors
    ///
    /// What is wrong with it, without a word of it: the text may be a password that somebody wrote
    /// into the file.
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        if text.starts_with("$argon2id$") {
            parse_argon2id(text)
        } else if text.starts_with("SCRAM-SHA-256$") {
            ScramKeys::parse(text).map(Self::Scram)
        } else if ["$2a$", "$2b$", "$2y$"].iter().any(|prefix| text.starts_with(prefix)) {
            let parts: bcrypt::HashParts = text.parse().map_err(|_| "not a bcrypt hash")?;
            if !(BCRYPT_COST_MIN..=BCRYPT_COST_MAX).contains(&parts.get_cost()) {
                return Err("bcrypt with a cost that is not in 4 to 16");
            }
            Ok(Self::Bcrypt(text.into()))
        } else {
            Err("not a verifier: $argon2id$…, $2b$… or SCRAM-SHA-256$…")
        }
    }

    /// Makes a verifier for `password`.
    ///
    /// # Errors
    ///
    /// [`MakeError`].
    pub(crate) fn make(form: SecretForm, password: &str) -> Result<String, MakeError> {
        let mut salt = [0; SALT_OCTETS];
        rand::fill(&mut salt).map_err(|_| MakeError::Failed)?;
        match form {
            SecretForm::Argon2id => {
                let password = prepared::new_password(password).ok_or(MakeError::NotAllowed)?;
                make_argon2id(&password, &salt).ok_or(MakeError::Failed)
            }
            SecretForm::Scram if password.bytes().all(|byte| matches!(byte, b' '..=b'~')) => {
                Ok(ScramKeys::new(password.as_bytes(), &salt).to_string())
            }
            SecretForm::Scram => Err(MakeError::NotAscii),
        }
    }

    /// Is it `password`? Takes as long for a wrong one as for the right one, which is long.
    pub(crate) fn check(&self, password: &[u8]) -> bool {
        match self {
            Self::Argon2id(hash) => check_argon2id(hash, password).unwrap_or(false),
            Self::Bcrypt(hash) => bcrypt::verify(password, hash).unwrap_or(false),
            Self::Scram(keys) => keys.check(password),
        }
    }

    /// Does a check take more than some 100 ms of a core? Four run at once: then ten in a second,
    /// or twenty, are too many.
    pub(super) fn is_costly(&self) -> bool {
        match self {
            Self::Argon2id(hash) => argon2_work(hash).is_none_or(|work| work > ARGON2_COSTLY_KIB),
            Self::Bcrypt(hash) => {
                hash.parse().is_ok_and(|parts: bcrypt::HashParts| parts.get_cost() >= BCRYPT_COSTLY)
            }
            Self::Scram(keys) => keys.iterations() > SCRAM_COSTLY,
        }
    }

    /// Its form in one word.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Argon2id(_) => "argon2id",
            Self::Bcrypt(_) => "bcrypt",
            Self::Scram(_) => "scram-sha-256",
        }
    }
}

fn parse_argon2id(text: &str) -> Result<Verifier, &'static str> {
    let hash = PasswordHash::new(text).map_err(|_| "not a PHC string")?;
    if hash.version != Some(Version::V0x13.into()) {
        return Err("argon2id of another version than 19");
    }
    if hash.salt.is_none() || hash.hash.is_none() {
        return Err("argon2id without salt or hash");
    }
    let params =
        Params::try_from(&hash).map_err(|_| "argon2id with parameters that make no sense")?;
    let work = argon2_work(&hash).unwrap_or(u64::MAX);
    if params.m_cost() > ARGON2_MEMORY_KIB_MAX
        || work > ARGON2_WORK_KIB_MAX
        || params.p_cost() > ARGON2_LANES_MAX
    {
        return Err(
            "argon2id with costs that no login should have (m up to 262144, m*t up to 8388608)",
        );
    }
    Ok(Verifier::Argon2id(Box::new(hash)))
}

/// Memory times passes, in KiB.
fn argon2_work(hash: &PasswordHash) -> Option<u64> {
    let params = Params::try_from(hash).ok()?;
    Some(u64::from(params.m_cost()).saturating_mul(u64::from(params.t_cost())))
}

fn make_argon2id(password: &str, salt: &[u8; SALT_OCTETS]) -> Option<String> {
    let params = Params::new(ARGON2_MEMORY_KIB, ARGON2_PASSES, 1, None).ok()?;
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    let hash: PasswordHash =
        argon2::PasswordHasher::hash_password_with_salt(&argon2, password.as_bytes(), salt).ok()?;
    Some(hash.to_string())
}

fn check_argon2id(hash: &PasswordHash, password: &[u8]) -> Option<bool> {
    let params = Params::try_from(hash).ok()?;
    let (salt, want) = (hash.salt.as_ref()?, hash.hash.as_ref()?);
    let mut got = vec![0; want.len()];
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(password, salt, &mut got)
        .ok()?;
    Some(verify_slices_are_equal(&got, want.as_bytes()).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made by other programs: the argon2 reference tool, htpasswd -B, and Python's passlib for
    /// SCRAM.
    const FOREIGN: [(&str, &str); 3] = [
        (
            "password",
            "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
        ),
        ("abc", "$2a$06$If6bvum7DFjUnE9p2uDeDu0YHzrHM6tf.iqN8.yx.jNN1ILEf7h0i"),
        // RFC 7677 §3, whose exchange gives these keys.
        (
            "pencil",
            "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:\
             wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=",
        ),
    ];

    #[test]
    fn verifiers_of_other_programs_are_understood() {
        for (password, text) in FOREIGN {
            let verifier = Verifier::parse(text).unwrap();
            assert!(verifier.check(password.as_bytes()), "{text}");
            assert!(!verifier.check(b"Password"), "{text}");
            assert!(!verifier.check(b""), "{text}");
        }
    }

    #[test]
    fn what_is_made_here_is_read_here() {
        for (form, kind) in
            [(SecretForm::Argon2id, "argon2id"), (SecretForm::Scram, "scram-sha-256")]
        {
            let first = Verifier::make(form, "correct horse").unwrap();
            assert_ne!(first, Verifier::make(form, "correct horse").unwrap(), "salted");
            let verifier = Verifier::parse(&first).unwrap();
            assert_eq!(verifier.kind(), kind);
            assert!(verifier.check(b"correct horse") && !verifier.check(b"wrong horse"));
        }
        assert_eq!(Verifier::make(SecretForm::Scram, "pässword"), Err(MakeError::NotAscii));
        let zero_width = "pass\u{200b}word";
        assert_eq!(Verifier::make(SecretForm::Argon2id, zero_width), Err(MakeError::NotAllowed));
    }

    #[test]
    fn what_is_made_here_is_not_costly_and_more_is() {
        for (form, password) in [(SecretForm::Argon2id, "p\u{e4}ss"), (SecretForm::Scram, "pass")] {
            let made = Verifier::make(form, password).unwrap();
            assert!(!Verifier::parse(&made).unwrap().is_costly());
        }
        let salt_hash = "c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";
        for text in [
            format!("$argon2id$v=19$m=65536,t=3,p=4${salt_hash}"),
            "$2b$12$If6bvum7DFjUnE9p2uDeDu0YHzrHM6tf.iqN8.yx.jNN1ILEf7h0i".to_owned(),
        ] {
            assert!(Verifier::parse(&text).unwrap().is_costly(), "{text}");
        }
    }

    /// The file is the operator's, but a slip of the hand must not end the daemon.
    #[test]
    fn damaged_verifiers_are_read_or_refused() {
        for (_, text) in FOREIGN {
            for (at, _) in text.char_indices() {
                let (front, back) = text.split_at(at);
                let _cut = Verifier::parse(front);
                for other in ["", "$", ":", "=", "\u{fc}", "99999999999", "\0"] {
                    let rest: String = back.chars().skip(1).collect();
                    let _changed = Verifier::parse(&format!("{front}{other}{rest}"));
                }
            }
        }
    }

    #[test]
    fn costs_and_forms_that_make_no_sense_are_refused() {
        let salt_hash = "c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";
        let cases = [
            "secret".to_owned(),
            String::new(),
            "{SSHA}xxxx".to_owned(),
            "$1$abc$def".to_owned(),
            format!("$argon2i$v=19$m=4096,t=2,p=1${salt_hash}"),
            format!("$argon2id$v=16$m=4096,t=2,p=1${salt_hash}"),
            format!("$argon2id$m=4096,t=2,p=1${salt_hash}"),
            format!("$argon2id$v=19$m=4194304,t=1,p=1${salt_hash}"),
            format!("$argon2id$v=19$m=65536,t=4000000,p=1${salt_hash}"),
            format!("$argon2id$v=19$m=65536,t=1,p=1000${salt_hash}"),
            "$argon2id$v=19$m=4096,t=2,p=1$c29tZXNhbHQ".to_owned(),
            "$2b$31$If6bvum7DFjUnE9p2uDeDu0YHzrHM6tf.iqN8.yx.jNN1ILEf7h0i".to_owned(),
            "$2b$06$short".to_owned(),
            "SCRAM-SHA-256$1:c2FsdHNhbHQ=$AAAA:AAAA".to_owned(),
        ];
        for text in cases {
            let reason = Verifier::parse(&text).unwrap_err();
            assert!(!reason.contains("c29t"), "{reason}");
        }
    }
}
