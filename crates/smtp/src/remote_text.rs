//! What a stranger sent, made fit to be shown.

use std::fmt;

use icu_properties::CodePointSetData;
use icu_properties::props::DefaultIgnorableCodePoint;

/// Longest text kept, in characters; the rest is cut and marked with `...`.
const CHARS_MAX: usize = 512;

/// Text from outside (a reply, a record, a certificate's name, a HELO): bounded, one line, inert.
///
/// Control characters, line and paragraph separators, and characters that reorder text (bidi) or do
/// not show are escaped when it is made, so nothing a peer says can forge a log line, a header or a
/// terminal command. Bytes that are not UTF-8 become `\xHH`.
///
/// ```
/// # use smtp::RemoteText;
/// assert_eq!(RemoteText::new("550 no\r\nX: y").to_string(), r"550 no\r\nX: y");
/// assert_eq!(RemoteText::from_bytes(b"caf\xe9 \x1b[31m").to_string(), r"caf\xe9 \u{1b}[31m");
/// ```
#[derive(Clone, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct RemoteText(Box<str>);

impl RemoteText {
    /// Makes `text` inert. Already inert text stays as it is.
    pub fn new(text: &str) -> Self {
        Self::from_bytes(text.as_bytes())
    }

    /// As [`RemoteText::new`], for bytes of any encoding.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let mut out = String::with_capacity(bytes.len().min(CHARS_MAX));
        for chunk in bytes.utf8_chunks() {
            for c in chunk.valid().chars() {
                if out.len() >= CHARS_MAX {
                    return Self::cut(out);
                }
                match c {
                    '\r' => out.push_str("\\r"),
                    '\n' => out.push_str("\\n"),
                    '\t' => out.push_str("\\t"),
                    c => push_inert(&mut out, c),
                }
            }
            for byte in chunk.invalid() {
                if out.len() >= CHARS_MAX {
                    return Self::cut(out);
                }
                out.push_str(&format!("\\x{byte:02x}"));
            }
        }
        Self(out.into())
    }

    fn cut(mut out: String) -> Self {
        out.push_str("...");
        Self(out.into())
    }

    /// The text, fit for logs, headers and terminals.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Has it no characters?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Adds a character, or its escape `\u{…}` if it is not inert.
pub fn push_inert(out: &mut String, c: char) {
    if is_inert(c) { out.push(c) } else { out.extend(c.escape_unicode()) }
}

/// Does it show as itself, and do nothing else? Control characters do not, nor what ends a line,
/// nor what Unicode calls Default_Ignorable_Code_Point: variation selectors, fillers and joiners
/// that do not show, and all that reorders text.
pub fn is_inert(c: char) -> bool {
    let is_other = c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{fff9}'..='\u{fffb}');
    !is_other && (c.is_ascii() || !CodePointSetData::new::<DefaultIgnorableCodePoint>().contains(c))
}

impl fmt::Display for RemoteText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for RemoteText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_shown_can_move_the_cursor_or_start_a_line() {
        let cases: &[(&[u8], &str)] = &[
            (b"250 ok", "250 ok"),
            ("grüß dich".as_bytes(), "grüß dich"),
            (b"a\r\nb\tc\0", r"a\r\nb\tc\u{0}"),
            ("a\u{202e}b\u{2028}c\u{85}".as_bytes(), r"a\u{202e}b\u{2028}c\u{85}"),
            (b"\xff\xfe", r"\xff\xfe"),
            (
                "a\u{3164}b\u{34f}c\u{115f}d\u{1d173}".as_bytes(),
                r"a\u{3164}b\u{34f}c\u{115f}d\u{1d173}",
            ),
            ("\u{fffa}\u{e01ef}\u{ffa0}".as_bytes(), r"\u{fffa}\u{e01ef}\u{ffa0}"),
        ];
        for (bytes, want) in cases {
            let text = RemoteText::from_bytes(bytes);
            assert_eq!(text.as_str(), *want);
            assert_eq!(
                RemoteText::new(text.as_str()),
                text,
                "making it inert twice changes nothing"
            );
        }
    }

    #[test]
    fn long_text_is_cut_and_marked() {
        let text = RemoteText::new(&"x".repeat(10_000));
        assert!(text.as_str().len() <= CHARS_MAX + 3 && text.as_str().ends_with("..."));
    }
}
