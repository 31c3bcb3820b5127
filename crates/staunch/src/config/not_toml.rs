//! A text that is no TOML: what its author probably meant, by the line at fault.

use std::ops::Range;

/// Quotes that word processors and web pages write.
const TYPOGRAPHIC_QUOTES: [char; 7] =
    ['\u{201c}', '\u{201d}', '\u{201e}', '\u{2018}', '\u{2019}', '\u{ab}', '\u{bb}'];

/// Key (or "") and reason for the parser's `message` about `span` of `text`.
pub(super) fn problem(text: &str, span: Option<Range<usize>>, message: &str) -> (String, String) {
    let at = span.clone().map_or(0, |span| span.start);
    let (before, line) = line_at(text, at);
    if message == "duplicate key" {
        let name = span.and_then(|span| text.get(span)).unwrap_or_default();
        return twice(before, line, name.trim_matches(['[', ']', '"', '\'', ' ']));
    }
    let meant = meant(line).or_else(|| in_words(line, message).map(str::to_owned));
    (String::new(), format!("not TOML: {}", meant.unwrap_or_else(|| message.to_owned())))
}

/// What stands before the line that has octet `at`, and that line.
fn line_at(text: &str, at: usize) -> (&str, &str) {
    let (before, rest) = text.split_at_checked(at).unwrap_or((text, ""));
    let begin = before.rfind('\n').map_or(0, |end| end + 1);
    let end = at + rest.find('\n').unwrap_or(rest.len());
    (text.get(..begin).unwrap_or_default(), text.get(begin..end).unwrap_or_default())
}

/// The key with its section; for a section, what to do with the two.
fn twice(before: &str, line: &str, name: &str) -> (String, String) {
    let is_in_list = before.lines().any(|line| line.trim() == format!("[[{name}]]"));
    if is_in_list {
        return (name.to_owned(), format!("[[{name}]] stands there, too: write both so"));
    }
    if line.trim_start().starts_with('[') {
        let reason = "this section stands there twice: write the keys of both into one";
        return (name.to_owned(), reason.to_owned());
    }
    let headers = before.lines().rev().map(str::trim).find(|line| line.starts_with('['));
    let section = headers.unwrap_or_default().split(']').next().unwrap_or_default();
    let section = section.trim_matches(['[', ' ']);
    let key = if section.is_empty() { name.to_owned() } else { format!("{section}.{name}") };
    (key, "stands there twice: take one of them out".to_owned())
}

/// What the parser says of lines that look right.
fn in_words(line: &str, message: &str) -> Option<&'static str> {
    if message.starts_with("unexpected key or value") {
        return Some("something stands behind the value; each key has a line of its own");
    }
    let is_in_list = message.starts_with("missing comma") || message.contains("in array");
    let is_next_key = is_in_list && line.contains('=') && !line.contains('[');
    is_next_key.then_some("the ] of a list before this line is missing")
}

fn meant(line: &str) -> Option<String> {
    let line = line.trim();
    if line.contains(TYPOGRAPHIC_QUOTES) {
        return Some("quotes are written \"...\", without typographic ones".into());
    }
    if line.starts_with('[') {
        let count = |bracket| line.matches(bracket).count();
        return (count('[') > count(']')).then(|| "the ] of the section is missing".into());
    }
    let Some((_, value)) = line.split_once('=') else {
        let (key, _) = line.split_once([':', ' ', '\t']).unwrap_or((line, ""));
        let is_key = !key.is_empty() && key.chars().all(is_of_keys);
        return is_key.then(|| format!("a key is written {key} = VALUE"));
    };
    meant_value(value.trim())
}

fn meant_value(value: &str) -> Option<String> {
    let word = value.split('#').next().unwrap_or_default().trim();
    if word.is_empty() {
        return Some("the value is missing".into());
    }
    match word.to_ascii_lowercase().as_str() {
        "yes" | "on" | "true" => return Some(format!("{word}: write true")),
        "no" | "off" | "false" => return Some(format!("{word}: write false")),
        _ => {}
    }
    if word.len() > 1 && word.starts_with('0') && word.bytes().all(|octet| octet.is_ascii_digit()) {
        return Some(format!(
            "numbers are written without a 0 in front: {}",
            word.trim_start_matches('0')
        ));
    }
    let is_plain = word.starts_with(|c: char| c.is_alphanumeric() || matches!(c, '/' | '.' | '*'));
    if is_plain {
        return Some(format!("text stands in quotes: {word:?}"));
    }
    let quote = word.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    let is_open = word.matches(quote).count() % 2 == 1;
    is_open.then(|| format!("the {quote} at the end of the text is missing"))
}

fn is_of_keys(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.')
}

/// Place (a line, from 1) and reason for a file that is not UTF-8, which is valid up to `valid`.
pub(super) fn not_utf8(octets: &[u8], valid: usize) -> (usize, String) {
    let (before, rest) = octets.split_at_checked(valid).unwrap_or((octets, &[]));
    let is_utf16 = octets.starts_with(&[0xff, 0xfe]) || octets.starts_with(&[0xfe, 0xff]);
    let what = match rest.first() {
        _ if is_utf16 => "the file is UTF-16".to_owned(),
        Some(octet) => format!("the octet 0x{octet:02x} is not UTF-8"),
        None => "the file is not UTF-8".to_owned(),
    };
    (memchr::memchr_iter(b'\n', before).count() + 1, format!("{what}: save it as UTF-8"))
}
