//! The body's hash in both canonical forms of DKIM (RFC 6376 §3.4.3, §3.4.4), made in passing.
//!
//! Nobody has to read the body again to sign it. Pieces must not end between CR and LF; that is what
//! the content receiver promises.

use aws_lc_rs::digest::{Context, SHA256};

const CRLF: &[u8] = b"\r\n";

/// Both hashes, growing.
pub(super) struct BodyHash {
    simple: Canonical,
    relaxed: Canonical,
    /// White space in relaxed form that is written only if text follows on its line.
    gap: bool,
}

/// A hash that holds line ends back until text follows: empty lines at the end do not count.
struct Canonical {
    digest: Context,
    line_ends: u64,
    is_empty: bool,
}

impl Canonical {
    fn new() -> Self {
        Self { digest: Context::new(&SHA256), line_ends: 0, is_empty: true }
    }

    fn text(&mut self, text: &[u8]) {
        for _ in 0..std::mem::take(&mut self.line_ends) {
            self.digest.update(CRLF);
        }
        self.is_empty = false;
        self.digest.update(text);
    }

    fn finish(self) -> [u8; 32] {
        let digest = self.digest.finish();
        digest.as_ref().try_into().unwrap_or_default()
    }
}

impl BodyHash {
    pub(super) fn new() -> Self {
        Self { simple: Canonical::new(), relaxed: Canonical::new(), gap: false }
    }

    /// The next piece of the body.
    pub(super) fn update(&mut self, piece: &[u8]) {
        let mut text = piece;
        let mut line_ends = 0;
        while let Some(front) = text.strip_suffix(CRLF) {
            (text, line_ends) = (front, line_ends + 1);
        }
        if !text.is_empty() {
            self.simple.text(text);
        }
        self.simple.line_ends += line_ends;
        self.relax(piece);
    }

    /// Hashes the longest stretches that are the same in relaxed form: broken only where white space
    /// is reduced, or where a line end may turn out to be one of the last.
    fn relax(&mut self, mut piece: &[u8]) {
        while let Some(&first) = piece.first() {
            if let Some(rest) = piece.strip_prefix(CRLF) {
                self.relaxed.line_ends += 1;
                self.gap = false;
                piece = rest;
            } else if is_space(first) {
                self.gap = true;
                piece = without_leading_space(piece);
            } else {
                let (text, rest) = piece.split_at_checked(unchanged(piece)).unwrap_or((piece, b""));
                if std::mem::take(&mut self.gap) {
                    self.relaxed.text(b" ");
                }
                self.relaxed.text(text);
                piece = rest;
            }
        }
    }

    /// The SHA-256 of the simple and of the relaxed form.
    pub(super) fn finish(mut self) -> ([u8; 32], [u8; 32]) {
        // The simple form of no body is an empty line; the relaxed form is nothing.
        self.simple.digest.update(CRLF);
        if !self.relaxed.is_empty {
            self.relaxed.digest.update(CRLF);
        }
        (self.simple.finish(), self.relaxed.finish())
    }
}

impl std::fmt::Debug for BodyHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BodyHash")
    }
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

fn without_leading_space(piece: &[u8]) -> &[u8] {
    let text = piece.iter().position(|&byte| !is_space(byte)).unwrap_or(piece.len());
    piece.get(text..).unwrap_or_default()
}

/// How much of `piece`, which begins with text, is the same in relaxed form, whatever follows it.
fn unchanged(piece: &[u8]) -> usize {
    let is_text = |at: usize| piece.get(at).is_some_and(|&byte| !is_space(byte) && byte != b'\r');
    let mut from = quiet_blocks(piece);
    while let Some(at) =
        piece.get(from..).and_then(|rest| memchr::memchr3(b' ', b'\t', b'\r', rest))
    {
        let at = from + at;
        // One space between text, or one line end between text.
        from = match piece.get(at) {
            Some(b' ') if is_text(at + 1) => at + 1,
            Some(b'\r') if piece.get(at + 1) == Some(&b'\n') && is_text(at + 2) => at + 2,
            // A CR alone is text; it does not come from SMTP.
            Some(b'\r') if piece.get(at + 1) != Some(&b'\n') => at + 1,
            _ => return at,
        };
    }
    piece.len()
}

/// Octets at the front in which nothing needs a second look, in whole blocks: found without a branch
/// for each word of the text, which would cost as much as the hash.
fn quiet_blocks(piece: &[u8]) -> usize {
    const BLOCK: usize = 64;
    let followers = piece.get(1..).unwrap_or_default();
    let pairs = piece.chunks_exact(BLOCK).zip(followers.chunks_exact(BLOCK));
    let quiet = pairs.take_while(|(block, followers)| !is_loud(block, followers)).count() * BLOCK;
    // A line end is judged as a whole.
    let splits = quiet.checked_sub(1).and_then(|last| piece.get(last)) == Some(&b'\r');
    if splits { quiet - 1 } else { quiet }
}

/// Is there white space, or a line end, that is not followed by text?
fn is_loud(block: &[u8], followers: &[u8]) -> bool {
    block.iter().zip(followers).fold(false, |loud, (&byte, &next)| {
        let gap = (byte == b' ') | (byte == b'\n');
        let more = (next == b' ') | (next == b'\t') | (next == b'\r');
        loud | (gap & more) | (byte == b'\t')
    })
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::digest::digest;

    use super::*;

    fn sha(text: &[u8]) -> [u8; 32] {
        digest(&SHA256, text).as_ref().try_into().unwrap()
    }

    #[test]
    fn both_forms_are_as_rfc_6376_has_them_at_any_cut() {
        let cases: &[(&str, &str, &str)] = &[
            // RFC 6376 §3.4.5: the body of its example.
            (" C \r\nD \t E\r\n\r\n\r\n", " C \r\nD \t E\r\n", " C\r\nD E\r\n"),
            ("", "\r\n", ""),
            ("\r\n\r\n", "\r\n", ""),
            (" \t\r\n\r\n", " \t\r\n", ""),
            ("a", "a\r\n", "a\r\n"),
            ("a\r\n", "a\r\n", "a\r\n"),
            ("a b  c\td\r\n", "a b  c\td\r\n", "a b c d\r\n"),
            ("a\r\n\r\nb\r\n", "a\r\n\r\nb\r\n", "a\r\n\r\nb\r\n"),
            ("a \r\n \r\nb\r\n \r\n", "a \r\n \r\nb\r\n \r\n", "a\r\n\r\nb\r\n"),
            ("\r\na\r\n", "\r\na\r\n", "\r\na\r\n"),
            ("  a\r\n", "  a\r\n", " a\r\n"),
        ];
        for (body, simple, relaxed) in cases {
            for cut in 1..=body.len().max(1) {
                let mut hash = BodyHash::new();
                for piece in pieces(body.as_bytes(), cut) {
                    hash.update(piece);
                }
                let want = (sha(simple.as_bytes()), sha(relaxed.as_bytes()));
                assert_eq!(hash.finish(), want, "{body:?} by {cut}");
            }
        }
    }

    #[test]
    fn long_bodies_are_hashed_as_short_ones_are() {
        // Every kind of gap at every place relative to the blocks.
        for (gap, reduced) in [
            (" \t ", " "),
            ("\t", " "),
            (" \r\n", "\r\n"),
            ("\r\n\r\n", "\r\n\r\n"),
            ("\r\n ", "\r\n "),
            (" ", " "),
            ("\r\n", "\r\n"),
        ] {
            for place in 50..200 {
                let (front, back) = ("x".repeat(place), "y".repeat(300 - place));
                let mut hash = BodyHash::new();
                hash.update(format!("{front}{gap}{back}\r\n").as_bytes());
                let want = sha(format!("{front}{reduced}{back}\r\n").as_bytes());
                assert_eq!(hash.finish().1, want, "{gap:?} at {place}");
            }
        }
    }

    /// Pieces of about `cut` octets that do not split CRLF.
    fn pieces(mut body: &[u8], cut: usize) -> Vec<&[u8]> {
        let mut pieces = Vec::new();
        while !body.is_empty() {
            let mut at = cut.min(body.len());
            if body[..at].ends_with(b"\r") {
                at += 1;
            }
            pieces.push(&body[..at]);
            body = &body[at..];
        }
        pieces
    }
}
