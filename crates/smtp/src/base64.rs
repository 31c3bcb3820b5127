//! Base64 (RFC 4648 §4), as far as SMTP and MIME need it.

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Octets that are encoded at once.
pub(crate) const GROUP_OCTETS: usize = 3;

/// One to three octets as four characters, padded; nothing for none.
pub(crate) fn group(octets: &[u8]) -> [u8; 4] {
    let at = |index: usize| u32::from(octets.get(index).copied().unwrap_or_default());
    let bits = at(0) << 16 | at(1) << 8 | at(2);
    let sextet = |shift: u32, present: bool| {
        let index = usize::try_from(bits >> shift & 63).unwrap_or_default();
        if present { ALPHABET.get(index).copied().unwrap_or(b'=') } else { b'=' }
    };
    [sextet(18, true), sextet(12, true), sextet(6, octets.len() > 1), sextet(0, octets.len() > 2)]
}

/// Appends all of `octets`, without line ends.
pub(crate) fn encode(octets: &[u8], out: &mut Vec<u8>) {
    octets.chunks(GROUP_OCTETS).for_each(|octets| out.extend_from_slice(&group(octets)));
}

/// The octets that `text` stands for; `None` unless it is exactly what [`encode`] writes for them,
/// so that one secret has one form.
pub(crate) fn decode(text: &[u8]) -> Option<Vec<u8>> {
    let padding = text.iter().rev().take(2).take_while(|byte| **byte == b'=').count();
    let digits = text.get(..text.len() - padding)?;
    let mut out = Vec::with_capacity(text.len() / 4 * GROUP_OCTETS);
    let (mut bits, mut count) = (0_u32, 0_u32);
    for digit in digits {
        bits = bits << 6 | u32::from(sextet(*digit)?);
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push(u8::try_from(bits >> count & 0xff).ok()?);
            bits &= (1 << count) - 1;
        }
    }
    (text.len().is_multiple_of(4) && bits == 0).then_some(out)
}

fn sextet(digit: u8) -> Option<u8> {
    match digit {
        b'A'..=b'Z' => Some(digit - b'A'),
        b'a'..=b'z' => Some(digit - b'a' + 26),
        b'0'..=b'9' => Some(digit - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 4648 §10.
    #[test]
    fn the_rfcs_examples_are_reproduced() {
        let cases = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
            ("\u{ff}\u{3fff}", "w7/jv78="),
        ];
        for (text, want) in cases {
            let mut out = Vec::new();
            encode(text.as_bytes(), &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), want);
            assert_eq!(decode(want.as_bytes()).as_deref(), Some(text.as_bytes()));
        }
    }

    #[test]
    fn what_nobody_would_have_encoded_is_not_decoded() {
        let cases = [
            "Z", "Zg", "Zg=", "Zg===", "Zh==", "Zm9=", "====", "Zm 8=", "Zg==Zg==", "Zm9v\n",
            "Zm-_",
        ];
        for text in cases {
            assert_eq!(decode(text.as_bytes()), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn text_and_octets_are_one_to_one(octets in proptest::collection::vec(any::<u8>(), 0..40), text in "[A-D/+=]{0,12}") {
            let mut encoded = Vec::new();
            encode(&octets, &mut encoded);
            prop_assert_eq!(decode(&encoded), Some(octets));
            if let Some(decoded) = decode(text.as_bytes()) {
                let mut again = Vec::new();
                encode(&decoded, &mut again);
                prop_assert_eq!(again, text.into_bytes());
            }
        }
    }
}
