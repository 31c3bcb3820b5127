//! The few pieces of MIME that a report needs (RFC 2045, RFC 2046).

use std::collections::BTreeSet;

/// RFC 5322 §2.1.1, without CRLF.
const LINE_MAX: usize = 998;
/// RFC 2045 §6.7 (5), with the `=` of a soft break.
const ENCODED_LINE_MAX: usize = 76;
/// `=_` cannot occur in quoted-printable text (RFC 2045 §6.7).
const BOUNDARY_PREFIX: &str = "=_staunch_";
const BOUNDARY_DIGITS: usize = 8;

/// What a body part needs from the way to it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum MimeShape {
    /// ASCII in lines of legal length.
    SevenBit,
    /// As before, but with octets above 127.
    EightBit,
    /// NUL, a bare CR or LF, or a line over 998 octets: no transport promises to carry it.
    Unsafe,
}

/// How `content` can be carried unencoded.
pub(crate) fn shape(content: &[u8]) -> MimeShape {
    let mut shape = MimeShape::SevenBit;
    for line in crlf_lines(content) {
        if line.len() > LINE_MAX || line.iter().any(|byte| matches!(byte, 0 | b'\r' | b'\n')) {
            return MimeShape::Unsafe;
        }
        if !line.is_ascii() {
            shape = MimeShape::EightBit;
        }
    }
    shape
}

/// The lines of `content`, split at CRLF only, without it.
fn crlf_lines(content: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(content);
    std::iter::from_fn(move || {
        let content = rest?;
        let end = content.windows(2).position(|pair| pair == b"\r\n");
        let (line, after) = match end.and_then(|end| content.split_at_checked(end)) {
            Some((line, after)) => (line, after.get(2..)),
            None => (content, None),
        };
        rest = after;
        Some(line)
    })
}

/// Quoted-printable (RFC 2045 §6.7); CRLF stays a line break, a bare CR or LF does not become one.
pub(crate) fn quoted_printable(content: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(content.len() + content.len() / 8);
    for (index, line) in crlf_lines(content).enumerate() {
        if index > 0 {
            out.extend_from_slice(b"\r\n");
        }
        push_encoded_line(&mut out, line);
    }
    out
}

fn push_encoded_line(out: &mut Vec<u8>, line: &[u8]) {
    let mut column = 0;
    for (index, &byte) in line.iter().enumerate() {
        let last = index + 1 == line.len();
        let literal =
            (byte.is_ascii_graphic() && byte != b'=') || (matches!(byte, b' ' | b'\t') && !last);
        let width = if literal { 1 } else { 3 };
        if column + width >= ENCODED_LINE_MAX {
            out.extend_from_slice(b"=\r\n");
            column = 0;
        }
        if literal {
            out.push(byte);
        } else {
            out.extend_from_slice(format!("={byte:02X}").as_bytes());
        }
        column += width;
    }
}

/// A boundary that no line of `parts` begins with (RFC 2046 §5.1.1).
///
/// One pass whatever a stranger wrote into them: the boundaries that occur are collected, and the
/// first free number is taken.
pub(crate) fn boundary(parts: &[&[u8]]) -> String {
    let mut taken = BTreeSet::new();
    for line in parts.iter().flat_map(|part| part.split(|&byte| byte == b'\n')) {
        let number = line
            .strip_prefix(b"--")
            .and_then(|line| line.strip_prefix(BOUNDARY_PREFIX.as_bytes()))
            .and_then(|line| line.get(..BOUNDARY_DIGITS))
            .and_then(|digits| std::str::from_utf8(digits).ok()?.parse::<u32>().ok());
        taken.extend(number);
    }
    let free = (0..).find(|number| !taken.contains(number)).unwrap_or_default();
    format!("{BOUNDARY_PREFIX}{free:0BOUNDARY_DIGITS$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_travel_is_seen() {
        let long = "x".repeat(999);
        let cases: &[(&[u8], MimeShape)] = &[
            (b"", MimeShape::SevenBit),
            (b"a: b\r\n\r\nc\r\n", MimeShape::SevenBit),
            ("gr\u{fc}n\r\n".as_bytes(), MimeShape::EightBit),
            (b"a\0b\r\n", MimeShape::Unsafe),
            (b"a\nb\r\n", MimeShape::Unsafe),
            (b"a\rb\r\n", MimeShape::Unsafe),
            (b"a\r\r\n", MimeShape::Unsafe),
            (long.as_bytes(), MimeShape::Unsafe),
        ];
        for (content, want) in cases {
            assert_eq!(shape(content), *want, "{}", content.escape_ascii());
        }
    }

    #[test]
    fn quoted_printable_keeps_every_octet() {
        let cases: &[(&[u8], &[u8])] = &[
            (b"a: b\r\n", b"a: b\r\n"),
            (b"a=b \r\n", b"a=3Db=20\r\n"),
            (b"\xff\0\n\r\n", b"=FF=00=0A\r\n"),
        ];
        for (content, want) in cases {
            assert_eq!(
                quoted_printable(content).escape_ascii().to_string(),
                want.escape_ascii().to_string()
            );
        }
        let long = quoted_printable(&[b'x'; 5000]);
        assert!(long.split(|&b| b == b'\n').all(|line| line.len() <= ENCODED_LINE_MAX + 1));
        assert_eq!(long.iter().filter(|&&b| b == b'x').count(), 5000);
    }

    #[test]
    fn a_boundary_never_occurs_in_the_content() {
        assert_eq!(boundary(&[b"hello"]), "=_staunch_00000000");
        let nasty: &[u8] =
            b"--=_staunch_00000000\r\nx\n--=_staunch_00000001garbage\r\n--=_staunch_9\r\n";
        assert_eq!(boundary(&[nasty, b"--=_staunch_00000003--"]), "=_staunch_00000002");
    }
}
