//! Names and passwords as they are compared (RFC 8265): the same word has the same octets,
//! whichever keyboard it was typed at.
//!
//! One system sends `ü` as one character, another one as `u` with two dots above it; without this a
//! user could log in with the telephone and not with the laptop.
//!
//! The tables of PRECIS are those of Unicode 6.3 (IANA's registry), and are asked about characters
//! as they came. So text is composed first: else a Hangul syllable that came in parts would be
//! refused. And what is newer than the tables is allowed in passwords, as older characters of its
//! kind are.

use std::borrow::Cow;

use icu_normalizer::ComposingNormalizerBorrowed;
use icu_properties::CodePointMapData;
use icu_properties::props::GeneralCategory;
use precis_profiles::precis_core::profile::PrecisFastInvocation as _;
use precis_profiles::precis_core::{DerivedPropertyValue, Error};
use precis_profiles::{OpaqueString, UsernameCasePreserved};
use zeroize::Zeroizing;

/// A name (UsernameCasePreserved, RFC 8265 §3.4). None if it can be none: it has characters that do
/// not show, symbols, or mixes directions.
pub(super) fn name(text: &str) -> Option<String> {
    UsernameCasePreserved::enforce(&*composed(text)).ok().map(Cow::into_owned)
}

/// A new password (OpaqueString, RFC 8265 §4.2). None if it has characters that not every client
/// could send the same way.
pub(super) fn new_password(text: &str) -> Option<Zeroizing<String>> {
    let composed = Zeroizing::new(composed(text).into_owned());
    let mut known = composed.clone();
    loop {
        match OpaqueString::enforce(known.as_str()) {
            Ok(_) => break,
            Err(Error::BadCodepoint(found))
                if found.property == DerivedPropertyValue::Unassigned =>
            {
                let newer = char::from_u32(found.cp)
                    .filter(|c| category(*c) != GeneralCategory::Unassigned)?;
                known.retain(|c| c != newer);
                if known.is_empty() {
                    break;
                }
            }
            Err(_) => return None,
        }
    }
    let is_space = |c: char| category(c) == GeneralCategory::SpaceSeparator;
    Some(Zeroizing::new(composed.chars().map(|c| if is_space(c) { ' ' } else { c }).collect()))
}

/// A password that a client sent; as it is if it can be no new one, since verifiers of other
/// programs may be of any octets.
pub(super) fn password(text: &str) -> Zeroizing<String> {
    new_password(text).unwrap_or_else(|| Zeroizing::new(text.to_owned()))
}

/// In Normalization Form C.
fn composed(text: &str) -> Cow<'_, str> {
    ComposingNormalizerBorrowed::new_nfc().normalize(text)
}

fn category(c: char) -> GeneralCategory {
    CodePointMapData::<GeneralCategory>::new().get(c)
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
            ("\u{1112}\u{1161}\u{11ab}", "\u{d55c}"),
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
    fn characters_newer_than_the_tables_are_allowed_in_passwords_and_unassigned_ones_are_not() {
        for text in ["\u{1f917}", "a\u{1f917}\u{1fae0}a\u{308}"] {
            let want: String = text.replace("a\u{308}", "\u{e4}");
            assert_eq!(new_password(text).unwrap().as_str(), want, "{text:?}");
        }
        assert!(
            ["\u{378}", "\u{1f917}\u{378}", "\u{1f917}\u{200b}"]
                .iter()
                .all(|text| new_password(text).is_none())
        );
    }

    #[test]
    fn names_keep_their_case_and_have_nothing_that_does_not_show() {
        assert_eq!(name("Ju\u{308}rgen@x.test").unwrap(), "J\u{fc}rgen@x.test");
        assert_eq!(name("\u{ff41}").unwrap(), "a");
        assert_eq!(name("\u{1112}\u{1161}\u{11ab}").unwrap(), "\u{d55c}");
        assert!(
            ["", "a b", "a\u{200b}b", "a\u{ad}b", "\u{1f600}"]
                .iter()
                .all(|text| name(text).is_none())
        );
    }
}
