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

#[cfg(test)]
mod tests {
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
        }
    }
}
