//! Content in seven bits: quoted-printable and base64 (RFC 2045 §6.7, §6.8), piece by piece.
//!
//! Lines have at most 76 characters, and none begins with two hyphens, so that no encoded line is
//! taken for a boundary.

use crate::base64;

/// RFC 2045 §6.7 (5), §6.8.
const LINE_OCTETS: usize = 76;

/// Quoted-printable. CRLF are line ends of the text, and no piece ends between CR and LF.
#[derive(Debug, Default)]
pub(super) struct QuotedPrintable {
    column: usize,
    /// White space, which may turn out to end its line.
    gap: Option<u8>,
}

impl QuotedPrintable {
    pub(super) fn push(&mut self, text: &[u8], out: &mut Vec<u8>) {
        let mut rest = text;
        while let Some((&first, tail)) = rest.split_first() {
            if let Some(behind) = rest.strip_prefix(b"\r\n") {
                self.end_gap(out);
                out.extend_from_slice(b"\r\n");
                self.column = 0;
                rest = behind;
                continue;
            }
            if let Some(gap) = self.gap.take() {
                self.plain(gap, out);
            }
            match first {
                b' ' | b'\t' => self.gap = Some(first),
                b'!'..=b'<' | b'>'..=b'~' => self.plain(first, out),
                _ => self.quote(first, out),
            }
            rest = tail;
        }
    }

    pub(super) fn finish(&mut self, out: &mut Vec<u8>) {
        self.end_gap(out);
        self.column = 0;
    }

    /// White space at the end of a line would get lost on the way.
    fn end_gap(&mut self, out: &mut Vec<u8>) {
        if let Some(gap) = self.gap.take() {
            self.quote(gap, out);
        }
    }

    fn plain(&mut self, octet: u8, out: &mut Vec<u8>) {
        self.make_room(1, out);
        if self.column == 0 && octet == b'-' {
            self.quote(octet, out);
            return;
        }
        out.push(octet);
        self.column += 1;
    }

    fn quote(&mut self, octet: u8, out: &mut Vec<u8>) {
        self.make_room(3, out);
        out.extend_from_slice(format!("={octet:02X}").as_bytes());
        self.column += 3;
    }

    fn make_room(&mut self, width: usize, out: &mut Vec<u8>) {
        // One column is for the sign that the line goes on.
        if self.column + width >= LINE_OCTETS {
            out.extend_from_slice(b"=\r\n");
            self.column = 0;
        }
    }
}

/// Quoted-printable with raw octets above 127 in it, which become quoted; all else stays.
#[derive(Debug, Default)]
pub(super) struct RawOctets {
    column: usize,
}

impl RawOctets {
    pub(super) fn push(&mut self, text: &[u8], out: &mut Vec<u8>) {
        for octet in text {
            if octet.is_ascii() {
                out.push(*octet);
                self.column = if *octet == b'\n' { 0 } else { self.column + 1 };
                continue;
            }
            // One column is for the sign that the line goes on.
            if self.column + 3 >= LINE_OCTETS {
                out.extend_from_slice(b"=\r\n");
                self.column = 0;
            }
            out.extend_from_slice(format!("={octet:02X}").as_bytes());
            self.column += 3;
        }
    }
}

/// Base64. The last line has no end.
#[derive(Debug, Default)]
pub(super) struct Base64 {
    column: usize,
    /// Less than a group.
    held: Vec<u8>,
}

impl Base64 {
    pub(super) fn push(&mut self, octets: &[u8], out: &mut Vec<u8>) {
        let missing = (base64::GROUP_OCTETS - self.held.len()) % base64::GROUP_OCTETS;
        let (first, rest) = octets.split_at_checked(missing).unwrap_or((octets, b""));
        self.held.extend_from_slice(first);
        if self.held.len() == base64::GROUP_OCTETS {
            let held = std::mem::take(&mut self.held);
            self.put(&held, out);
        }
        let groups = rest.chunks_exact(base64::GROUP_OCTETS);
        self.held.extend_from_slice(groups.remainder());
        groups.for_each(|group| self.put(group, out));
    }

    pub(super) fn finish(&mut self, out: &mut Vec<u8>) {
        let held = std::mem::take(&mut self.held);
        if !held.is_empty() {
            self.put(&held, out);
        }
        self.column = 0;
    }

    fn put(&mut self, group: &[u8], out: &mut Vec<u8>) {
        if self.column == LINE_OCTETS {
            out.extend_from_slice(b"\r\n");
            self.column = 0;
        }
        out.extend_from_slice(&base64::group(group));
        self.column += 4;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quoted(pieces: &[&[u8]]) -> String {
        let (mut encoder, mut out) = (QuotedPrintable::default(), Vec::new());
        pieces.iter().for_each(|piece| encoder.push(piece, &mut out));
        encoder.finish(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn text_stays_readable_and_what_would_get_lost_is_quoted() {
        let cases: &[(&[&[u8]], &str)] = &[
            (&[b"gr\xc3\xbcn = \xfc\r\n"], "gr=C3=BCn =3D =FC\r\n"),
            (&[b"a \r\nb\t\r\nc ", b"\r\n"], "a=20\r\nb=09\r\nc=20\r\n"),
            (&[b"a ", b"b"], "a b"),
            (&[b"a "], "a=20"),
            (&[b"-- \r\n--x\r\na-b"], "=2D-=20\r\n=2D-x\r\na-b"),
            (&[b"a\rb\nc\x00\x7f"], "a=0Db=0Ac=00=7F"),
            (&[], ""),
            (&[b"\r\n", b"\r\n"], "\r\n\r\n"),
        ];
        for (pieces, want) in cases {
            assert_eq!(quoted(pieces), *want, "{pieces:?}");
        }
    }

    #[test]
    fn long_lines_are_broken_softly_and_never_before_a_boundary() {
        let text = [b"x".repeat(75), b"--x\xfc".to_vec()].concat();
        assert_eq!(quoted(&[&text]), format!("{}=\r\n=2D-x=FC", "x".repeat(75)));
        let text = [b"x".repeat(74), b"\xfc".to_vec()].concat();
        assert_eq!(quoted(&[&text]), format!("{}=\r\n=FC", "x".repeat(74)));
        let text = b"\xfc ".repeat(200);
        assert!(quoted(&[&text]).lines().all(|line| line.len() <= LINE_OCTETS));
    }

    #[test]
    fn base64_has_lines_of_76_characters_at_any_cut() {
        let content: Vec<u8> = (0..=255).collect();
        let whole = |cut: usize| {
            let (mut encoder, mut out) = (Base64::default(), Vec::new());
            content.chunks(cut).for_each(|piece| encoder.push(piece, &mut out));
            encoder.finish(&mut out);
            String::from_utf8(out).unwrap()
        };
        let want = whole(content.len());
        assert!((1..9).all(|cut| whole(cut) == want));
        let lines: Vec<_> = want.split("\r\n").map(str::len).collect();
        assert_eq!(lines, [76, 76, 76, 76, 40]);
        assert_eq!(base64::decode(want.replace("\r\n", "").as_bytes()), Some(content));
    }
}
