//! What stands there, for people who cannot see it: characters that do not show, or look like
//! others, and files that are no plain text although an editor shows them as such.
//!
//! Only words: no verdict hangs on anything here.

use smtp::RemoteText;
use smtp::remote_text::is_inert;

/// Our choice: more names than this make a sentence that nobody reads.
const NAMES_MAX: usize = 3;

/// The characters that come with text out of web pages, word processors and editors.
const NAMES: &[(char, &str)] = &[
    ('\t', "tab"),
    ('\r', "carriage return"),
    (' ', "blank"),
    ('\u{85}', "next line"),
    ('\u{a0}', "no-break space"),
    ('\u{ad}', "soft hyphen"),
    ('\u{37e}', "Greek question mark, not a semicolon"),
    ('\u{2002}', "en space"),
    ('\u{2003}', "em space"),
    ('\u{2007}', "figure space"),
    ('\u{2009}', "thin space"),
    ('\u{200b}', "zero width space"),
    ('\u{200c}', "zero width non-joiner"),
    ('\u{200d}', "zero width joiner"),
    ('\u{200e}', "left-to-right mark"),
    ('\u{200f}', "right-to-left mark"),
    ('\u{2010}', "hyphen that is not ASCII"),
    ('\u{2011}', "non-breaking hyphen"),
    ('\u{2013}', "en dash"),
    ('\u{2014}', "em dash"),
    ('\u{2018}', "curly quotation mark"),
    ('\u{2019}', "curly quotation mark"),
    ('\u{201c}', "curly quotation mark"),
    ('\u{201d}', "curly quotation mark"),
    ('\u{2028}', "line separator"),
    ('\u{2029}', "paragraph separator"),
    ('\u{202f}', "narrow no-break space"),
    ('\u{2060}', "word joiner"),
    ('\u{2212}', "minus sign"),
    ('\u{3000}', "ideographic space"),
    ('\u{feff}', "byte order mark"),
    ('\u{ff1a}', "full-width colon"),
    ('\u{ff1b}', "full-width semicolon"),
    ('\u{fffd}', "replacement character"),
];

/// `U+200B, zero width space`.
pub(super) fn named(c: char) -> String {
    format!("U+{:04X}, {}", u32::from(c), name(c))
}

fn name(c: char) -> &'static str {
    let known = NAMES.iter().find(|(known, _)| *known == c).map(|(_, name)| *name);
    known.unwrap_or_else(|| match c {
        c if c.is_control() => "control character",
        c if c.is_whitespace() => "a space that is not ASCII",
        c if !is_inert(c) => "invisible character",
        c if c.is_ascii_graphic() => "a character of ASCII",
        _ => "not ASCII",
    })
}

/// Is it seen as what it is, in ASCII?
pub(super) fn is_plain(c: char) -> bool {
    c.is_ascii_graphic() || c == ' '
}

/// `text`, inert, with the names of all in it that is not plain ASCII:
/// `none\u{200b} (U+200B, zero width space)`.
pub(super) fn shown(text: &str) -> String {
    let mut visible = String::with_capacity(text.len());
    let mut odd: Vec<char> = Vec::new();
    for c in text.chars() {
        // An inert blank shows as a blank, so only its escape can be seen.
        if c.is_whitespace() && !is_plain(c) {
            visible.extend(c.escape_default());
        } else {
            visible.push(c);
        }
        if !is_plain(c) && !odd.contains(&c) && odd.len() < NAMES_MAX {
            odd.push(c);
        }
    }
    let visible = RemoteText::new(&visible);
    if odd.is_empty() {
        return visible.to_string();
    }
    let names: Vec<String> = odd.into_iter().map(named).collect();
    format!("{visible} ({})", names.join("; "))
}

/// What the octets are, if they are no plain text in UTF-8.
pub(super) fn other_format(body: &[u8]) -> Option<&'static str> {
    const MARKS: &[(&[u8], &str)] = &[
        // UTF-32 first: its mark begins with that of UTF-16.
        (b"\xff\xfe\0\0", "text in UTF-32"),
        (b"\0\0\xfe\xff", "text in UTF-32"),
        (b"\xff\xfe", UTF_16),
        (b"\xfe\xff", UTF_16),
        (b"\x1f\x8b", "compressed with gzip"),
        (b"PK\x03\x04", "a ZIP archive or an office document"),
        (b"\xd0\xcf\x11\xe0", "an office document"),
        (b"%PDF-", "a PDF file"),
        (b"{\\rtf", "rich text (RTF)"),
    ];
    let marked = MARKS.iter().find(|(mark, _)| body.starts_with(mark)).map(|(_, what)| *what);
    // ASCII in UTF-16 without a mark: each second octet is NUL.
    let unmarked = || {
        let nuls_at = |rest| body.iter().skip(rest).step_by(2).filter(|octet| **octet == 0).count();
        let (even, odd) = (nuls_at(0), nuls_at(1));
        let is_half = even.max(odd) >= 4 && even.max(odd) * 4 > body.len() && even.min(odd) == 0;
        is_half.then_some(UTF_16)
    };
    marked.or_else(unmarked).or_else(|| markup(body))
}

const UTF_16: &str = "text in UTF-16, as PowerShell and Notepad's \"Unicode\" write it";

fn markup(body: &[u8]) -> Option<&'static str> {
    const TAGS: &[&[u8]] =
        &[b"<!doctype html", b"<html", b"<head", b"<body", b"<p>", b"<pre", b"<div", b"<br"];
    let start = body.trim_ascii_start();
    let begins =
        |tag: &&[u8]| start.get(..tag.len()).is_some_and(|start| start.eq_ignore_ascii_case(tag));
    if TAGS.iter().any(begins) {
        return Some("rich text (HTML)");
    }
    start
        .starts_with(b"<?xml")
        .then_some("XML")
        .or_else(|| start.starts_with(b"{").then_some("JSON"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_seen_is_named() {
        let cases = [
            ("enforce", "enforce"),
            ("enforce\u{200b}", "enforce\\u{200b} (U+200B, zero width space)"),
            ("STSv1\u{a0}", "STSv1\\u{a0} (U+00A0, no-break space)"),
            ("\u{feff}version", "\\u{feff}version (U+FEFF, byte order mark)"),
            ("\u{2003}a", "\\u{2003}a (U+2003, em space)"),
            ("n\u{43e}ne", "n\u{43e}ne (U+043E, not ASCII)"),
            ("a\x07", "a\\u{7} (U+0007, control character)"),
            ("a\tb", "a\\tb (U+0009, tab)"),
            ("\u{a0}\u{a0}", "\\u{a0}\\u{a0} (U+00A0, no-break space)"),
        ];
        for (text, want) in cases {
            assert_eq!(shown(text), want);
        }
        let many = shown("\u{a0}\u{200b}\u{200c}\u{200d}");
        assert_eq!(many.matches("U+").count(), NAMES_MAX, "{many}");
    }

    #[test]
    fn files_that_are_no_plain_text_are_named() {
        let utf_16 =
            |text: &str| -> Vec<u8> { text.encode_utf16().flat_map(u16::to_le_bytes).collect() };
        let text = "version: STSv1\n";
        let cases: [(Vec<u8>, Option<&str>); 11] = [
            (text.into(), None),
            (b"<unique-identifier>".into(), None),
            (b"".into(), None),
            ([b"\xff\xfe".to_vec(), utf_16(text)].concat(), Some("UTF-16")),
            (utf_16(text), Some("UTF-16")),
            (text.encode_utf16().flat_map(u16::to_be_bytes).collect(), Some("UTF-16")),
            (b"{\\rtf1\\ansi version: STSv1}".into(), Some("RTF")),
            (b"\n<!DOCTYPE HTML>\n<html>".into(), Some("HTML")),
            (b"<p>version: STSv1</p>".into(), Some("HTML")),
            (b"\x1f\x8b\x08\0".into(), Some("gzip")),
            (b"{\"version\": \"STSv1\"}".into(), Some("JSON")),
        ];
        for (body, want) in cases {
            let got = other_format(&body);
            assert_eq!(got.is_some(), want.is_some(), "{body:?}");
            assert!(
                got.unwrap_or_default().contains(want.unwrap_or_default()),
                "{body:?}: {got:?}"
            );
        }
    }
}
