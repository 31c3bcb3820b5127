//! Names and passwords as they are compared (RFC 8265): the same word has the same octets, whichever keyboard it was typed at.
//!
//! One system sends `ü` as one character, another one as `u` with two dots above it; without this a user could log in with the
//! telephone and not with the laptop.

use std::borrow::Cow;

use precis_profiles::precis_core::profile::PrecisFastInvocation as _;
use precis_profiles::{OpaqueString, UsernameCasePreserved};
use zeroize::Zeroizing;

/// A name (UsernameCasePreserved, RFC 8265 §3.4). None if it can be none: it has characters that look like nothing or like others.
pub(super) fn name(text: &str) -> Option<Cow<'_, str>> {
    UsernameCasePreserved::enforce(text).ok()
}

/// A new password (OpaqueString, RFC 8265 §4.2). None if it has characters that not every client could send the same way.
pub(super) fn new_password(text: &str) -> Option<Zeroizing<String>> {
    OpaqueString::enforce(text).ok().map(|text| Zeroizing::new(text.into_owned()))
}

/// A password that a client sent; as it is if it can be no new one, since verifiers of other programs may be of any octets.
pub(super) fn password(text: &str) -> Zeroizing<String> {
    new_password(text).unwrap_or_else(|| Zeroizing::new(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_word_is_the_same_password_and_others_stay_others() {
        for (sent, want) in [
            ("pa\u{308}ss", "p\u{e4}ss"),
            ("p\u{e4}ss", "p\u{e4}ss"),
            ("a\u{a0}b", "a b"),
            ("a\u{3000}b", "a b"),
            ("\u{ff41}", "\u{ff41}"),
            ("\u{1f600}", "\u{1f600}"),
            ("a\tb", "a\tb"),
            (" Abc ", " Abc "),
        ] {
            assert_eq!(password(sent).as_str(), want, "{sent:?}");
        }
        assert!(["", "a\tb", "a\u{200b}b"].iter().all(|text| new_password(text).is_none()));
    }

    #[test]
    fn names_keep_their_case_and_have_nothing_that_does_not_show() {
        assert_eq!(name("Ju\u{308}rgen@x.test").unwrap(), "J\u{fc}rgen@x.test");
        assert_eq!(name("\u{ff41}").unwrap(), "a");
        assert!(["", "a b", "a\u{200b}b", "a\u{ad}b"].iter().all(|text| name(text).is_none()));
    }
}
