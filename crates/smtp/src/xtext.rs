//! Text inside parameter values (RFC 3461 §4): printable ASCII, all else as `+` and two hex digits.

use crate::remote_text::RemoteText;

/// The octets that `text` stands for; `None` if it is not xtext.
///
/// Hex digits are upper case only, and `=` has to be encoded: what one server reads as an escape
/// must not be plain text for the next.
///
/// ```
/// use smtp::xtext::decode;
/// assert_eq!(decode("a+2Bb"), Some(b"a+b".to_vec()));
/// assert_eq!(decode("a+2bb"), None);
/// ```
pub fn decode(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'+' => hex_digit(bytes.next()?)? << 4 | hex_digit(bytes.next()?)?,
            b'=' => return None,
            b'!'..=b'~' => byte,
            _ => return None,
        });
    }
    Some(out)
}

/// Writes `octets` as xtext.
///
/// ```
/// assert_eq!(smtp::xtext::encode(b"a+b c"), "a+2Bb+20c");
/// ```
pub fn encode(octets: &[u8]) -> String {
    let mut out = String::with_capacity(octets.len());
    for &octet in octets {
        match octet {
            b'+' | b'=' => out.push_str(&format!("+{octet:02X}")),
            b'!'..=b'~' => out.push(char::from(octet)),
            _ => out.push_str(&format!("+{octet:02X}")),
        }
    }
    out
}

/// What valid xtext stands for, to be shown.
pub(crate) fn shown(text: &str) -> RemoteText {
    RemoteText::from_bytes(&decode(text).unwrap_or_else(|| text.as_bytes().to_vec()))
}

fn hex_digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

/// The text of the escapes `\x{HEX}` that `utf-8` addresses have beside plain characters; `None` if
/// it is neither of the two forms of RFC 6533 §3 that stand in ORCPT.
pub(crate) fn decode_unitext(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if c == '\\' {
            let (hex, behind) = rest.strip_prefix("\\x{")?.split_once('}')?;
            // Two to six upper-case digits.
            let is_written =
                (2..=6).contains(&hex.len()) && hex.bytes().all(|b| hex_digit(b).is_some());
            let code = is_written.then(|| u32::from_str_radix(hex, 16).ok()).flatten()?;
            out.push(char::from_u32(code)?);
            rest = behind;
        } else {
            let plain = matches!(c, '!'..='~' | '\u{80}'..) && !matches!(c, '+' | '=');
            out.push(plain.then_some(c)?);
            rest = rest.get(c.len_utf8()..)?;
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_what_the_grammar_has_is_decoded() {
        let cases = [
            ("", Some("")),
            ("a!~b", Some("a!~b")),
            ("+2B+3D+20", Some("+= ")),
            ("+2", None),
            ("+", None),
            ("+2b", None),
            ("+GG", None),
            ("++20", None),
            ("a=b", None),
            ("a b", None),
            ("a\u{7f}", None),
            ("\u{fc}", None),
        ];
        for (text, want) in cases {
            assert_eq!(decode(text), want.map(|w| w.as_bytes().to_vec()), "{text:?}");
        }
    }

    #[test]
    fn unicode_escapes_are_two_to_six_upper_case_digits() {
        let cases = [
            (r"a\x{FC}b@c", Some("a\u{fc}b@c")),
            ("a\u{fc}b", Some("a\u{fc}b")),
            (r"\x{2B}\x{3D}\x{5C}", Some(r"+=\")),
            (r"\x{10FFFF}", Some("\u{10ffff}")),
            (r"\x{D800}", None),
            (r"\x{fc}", None),
            (r"\x{F}", None),
            (r"\x{0000FC1}", None),
            (r"\x{FC", None),
            (r"\\", None),
            ("a+b", None),
            ("a b", None),
        ];
        for (text, want) in cases {
            assert_eq!(decode_unitext(text).as_deref(), want, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_decodes_to_the_same(octets in proptest::collection::vec(any::<u8>(), 0..60)) {
            prop_assert_eq!(decode(&encode(&octets)), Some(octets));
        }
    }
}
