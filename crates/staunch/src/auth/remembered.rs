//! Logins that were right a moment ago, so that a program that logs in for each mail does not cost
//! a slow check each time.
//!
//! Neither names nor passwords are kept, only their HMAC under a key that lives as long as the
//! process.

use std::time::Duration;

use aws_lc_rs::hmac;
use tokio::time::Instant;

use crate::lru_map::LruMap;

/// How long a login is remembered.
const REMEMBERED_FOR: Duration = Duration::from_secs(5 * 60);
/// How many logins: some hundred kilobytes.
const REMEMBERED_MAX: usize = 1000;
/// Octets of an HMAC-SHA-256.
const TAG_OCTETS: usize = 32;

/// A name with its password, as it is remembered.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) struct Tag([u8; TAG_OCTETS]);

impl Tag {
    /// Of this name and password, as of the `generation` of the users file: what was right before a
    /// change says nothing afterwards, also if its check ends only then.
    pub(super) fn new(key: &hmac::Key, generation: u64, name: &str, password: &[u8]) -> Self {
        let mut context = hmac::Context::with_key(key);
        // A name has no NUL, so that the border is clear.
        for part in [&generation.to_be_bytes(), name.as_bytes(), b"\0", password] {
            context.update(part);
        }
        let mut tag = [0; TAG_OCTETS];
        for (octet, signed) in tag.iter_mut().zip(context.sign().as_ref()) {
            *octet = *signed;
        }
        Self(tag)
    }
}

#[derive(Debug)]
pub(super) struct RememberedLogins {
    until: LruMap<Tag, Instant>,
}

impl Default for RememberedLogins {
    fn default() -> Self {
        Self { until: LruMap::new(REMEMBERED_MAX) }
    }
}

impl RememberedLogins {
    /// Was it right lately?
    pub(super) fn knows(&mut self, tag: &Tag, now: Instant) -> bool {
        self.until.get(tag).is_some_and(|until| now < *until)
    }

    /// It was right now.
    pub(super) fn note(&mut self, tag: Tag, now: Instant) {
        self.until.set(tag, now + REMEMBERED_FOR);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_is_remembered_for_minutes_and_no_other_is() {
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"key");
        let mut remembered = RememberedLogins::default();
        let now = Instant::now();
        let tag = Tag::new(&key, 1, "anna", b"secret");
        assert!(!remembered.knows(&tag, now));
        remembered.note(tag, now);
        assert!(remembered.knows(&tag, now + REMEMBERED_FOR / 2));
        assert!(!remembered.knows(&tag, now + REMEMBERED_FOR));
        for (generation, name, password) in [
            (2, "anna", "secret"),
            (1, "anna", "Secret"),
            (1, "bert", "secret"),
            (1, "annas", "ecret"),
        ] {
            let other = Tag::new(&key, generation, name, password.as_bytes());
            assert!(!remembered.knows(&other, now), "{name}");
        }
    }
}
