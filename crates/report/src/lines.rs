//! Lines that any mail program can carry: inert, folded, bounded; those of header fields in ASCII.

use smtp::remote_text::push_inert;

/// Where running text and header fields are folded (RFC 5322 §2.1.1 recommends 78).
const WIDTH: usize = 76;
/// A single word longer than this is broken: the hard limit of a line is 998 (RFC 5322 §2.1.1).
const WORD_MAX: usize = 900;

/// Appends `name: value`, folded between words.
pub(crate) fn push_field(out: &mut String, name: &str, value: &str) {
    out.push_str(name);
    out.push_str(": ");
    fill(out, &ascii(value), " ", name.len() + 2);
    out.push_str("\r\n");
}

/// Appends `text` as a paragraph for people, each of its lines behind `indent`. What does not show
/// is escaped.
pub(crate) fn push_paragraph(out: &mut String, text: &str, indent: &str) {
    out.push_str(indent);
    let mut inert = String::with_capacity(text.len());
    text.chars().for_each(|c| push_inert(&mut inert, c));
    fill(out, &inert, indent, indent.len());
    out.push_str("\r\n");
}

/// The words of `text`, a line break and `indent` between them where a line is full.
fn fill(out: &mut String, text: &str, indent: &str, mut column: usize) {
    let mut first = true;
    for word in text.split(' ').filter(|word| !word.is_empty()).flat_map(pieces) {
        if !first && column + 1 + word.chars().count() > WIDTH {
            out.push_str("\r\n");
            out.push_str(indent);
            column = indent.len();
        } else if !first {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += word.chars().count();
        first = false;
    }
}

/// A word in pieces of at most [`WORD_MAX`] octets.
fn pieces(word: &str) -> impl Iterator<Item = &str> {
    let mut rest = word;
    std::iter::from_fn(move || {
        let cut = (0..=WORD_MAX).rev().find(|at| rest.is_char_boundary(*at)).unwrap_or(0);
        let cut = if rest.len() <= WORD_MAX { rest.len() } else { cut };
        let (piece, after) = rest.split_at_checked(cut).unwrap_or((rest, ""));
        rest = after;
        (!piece.is_empty()).then_some(piece)
    })
}

/// Printable ASCII stays, everything else is escaped, so that no text can start a line or a field
/// of its own.
fn ascii(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c == ' ' || c.is_ascii_graphic() { out.push(c) } else { out.extend(c.escape_unicode()) }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_makes_a_line_too_long_or_starts_one_of_its_own() {
        let cases = [
            ("", "X: \r\n"),
            ("a  b", "X: a b\r\n"),
            ("a\r\nY: b", "X: a\\u{d}\\u{a}Y: b\r\n"),
            ("gr\u{fc}n", "X: gr\\u{fc}n\r\n"),
        ];
        for (value, want) in cases {
            let mut out = String::new();
            push_field(&mut out, "X", value);
            assert_eq!(out, want);
        }
        let mut out = String::new();
        push_field(&mut out, "X", &format!("{} b", "\u{fc}".repeat(2000)));
        assert!(out.split("\r\n").all(|line| line.len() <= 998), "{out}");
        assert_eq!(out.replace("\r\n ", "").matches("\\u{fc}").count(), 2000, "nothing is lost");
    }

    #[test]
    fn words_fill_lines_up_to_the_width() {
        let mut out = String::new();
        push_paragraph(&mut out, &"word ".repeat(40), "    ");
        let lines: Vec<_> = out.lines().collect();
        assert_eq!(lines.len(), 3);
        assert!(lines.iter().all(|line| line.starts_with("    word") && line.len() <= WIDTH));
    }
}
