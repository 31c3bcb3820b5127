//! What commands print: JSON as it is, or the same for people.

use std::io::{self, IsTerminal as _, Write};
use std::os::fd::AsFd;

use anstream::{AutoStream, ColorChoice};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use smtp::RemoteText;
use smtp::remote_text::push_inert;

use super::table::TextTable;
use crate::control::api::Unmatched;
use crate::inert_json;

/// Prints one value as one line. What a terminal could take for more than text is escaped, which is
/// the same value.
///
/// # Errors
///
/// Of writing.
pub(super) fn json(out: &mut dyn Write, value: &Value) -> io::Result<()> {
    let mut line = String::new();
    inert_json::push(&mut line, value);
    writeln!(out, "{line}")
}

/// Makes a text of many lines fit for a terminal, piece by piece: lines stay lines, all else that
/// is not inert is escaped.
#[derive(Debug, Default)]
pub(super) struct ShownText {
    /// A character that may go on in the next piece.
    open: Vec<u8>,
}

impl ShownText {
    /// Takes the next piece; a character that is cut, or a CR, waits for the one after.
    pub(super) fn next(&mut self, piece: &[u8]) -> String {
        self.open.extend_from_slice(piece);
        let octets = std::mem::take(&mut self.open);
        let whole = match std::str::from_utf8(&octets) {
            // Not wrong, but not complete.
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            // The end of a line may be cut.
            Ok(_) | Err(_) => octets.len() - usize::from(octets.ends_with(b"\r")),
        };
        let (whole, open) = octets.split_at_checked(whole).unwrap_or((&octets, b""));
        self.open = open.to_vec();
        inert_lines(whole)
    }

    /// What still waits, after the last piece; a cut character is escaped.
    pub(super) fn end(self) -> String {
        inert_lines(&self.open)
    }
}

/// A text with nothing in it that is more than text, but for line ends and tabs.
pub(super) fn inert(text: &str) -> String {
    inert_lines(text.as_bytes())
}

fn inert_lines(octets: &[u8]) -> String {
    let mut out = String::with_capacity(octets.len());
    for chunk in octets.utf8_chunks() {
        let mut characters = chunk.valid().chars().peekable();
        while let Some(c) = characters.next() {
            match c {
                '\n' | '\t' => out.push(c),
                // Of a line end.
                '\r' if characters.peek() == Some(&'\n') => {}
                c => push_inert(&mut out, c),
            }
        }
        chunk.invalid().iter().for_each(|octet| out.push_str(&format!("\\x{octet:02x}")));
    }
    out
}

/// Prints an object: a line for each member, then the long texts, then a table for each list of
/// objects.
///
/// # Errors
///
/// Of writing.
pub(super) fn object(out: &mut dyn Write, value: &Value) -> io::Result<()> {
    let Some(members) = value.as_object() else { return writeln!(out, "{}", cell(value)) };
    let is_table =
        |value: &Value| value.as_array().is_some_and(|items| items.iter().any(Value::is_object));
    let mut plain = Vec::new();
    let is_block = |value: &Value| is_table(value) || text_of(value).is_some();
    for (name, value) in members.iter().filter(|(_, value)| !is_block(value)) {
        flatten(name, value, &mut plain);
    }
    let width = plain.iter().map(|(name, _)| name.chars().count()).max().unwrap_or_default();
    for (name, value) in &plain {
        writeln!(out, "{name:width$}  {value}")?;
    }
    for (name, text) in members.iter().filter_map(|(name, value)| text_of(value).map(|t| (name, t)))
    {
        writeln!(out, "\n{name}:")?;
        for line in text.lines() {
            writeln!(out, "  {}", RemoteText::new(line))?;
        }
    }
    for (name, value) in members.iter().filter(|(_, value)| is_table(value)) {
        writeln!(out, "\n{name}:")?;
        rows(out, value.as_array().map_or(&[], Vec::as_slice))?;
    }
    Ok(())
}

/// A text of several lines, which gets lines of its own.
fn text_of(value: &Value) -> Option<&str> {
    value.as_str().filter(|text| text.contains('\n'))
}

/// Members of members stand under `outer.inner`.
fn flatten(name: &str, value: &Value, plain: &mut Vec<(String, String)>) {
    match value.as_object() {
        Some(members) if !members.is_empty() => {
            for (inner, value) in members {
                flatten(&format!("{name}.{inner}"), value, plain);
            }
        }
        _ => plain.push((name.to_owned(), cell(value))),
    }
}

/// A table whose columns are all members that occur.
fn rows(out: &mut dyn Write, items: &[Value]) -> io::Result<()> {
    let flat: Vec<Vec<(String, String)>> = items
        .iter()
        .map(|item| {
            let mut plain = Vec::new();
            for (name, value) in item.as_object().into_iter().flatten() {
                flatten(name, value, &mut plain);
            }
            plain
        })
        .collect();
    let mut columns: Vec<&str> = Vec::new();
    for (name, _) in flat.iter().flatten() {
        if !columns.contains(&name.as_str()) {
            columns.push(name);
        }
    }
    let mut table = TextTable::new(&columns);
    for row in &flat {
        let of = |column: &&str| row.iter().find(|(name, _)| name == column);
        let cells =
            columns.iter().map(|column| of(column).map_or("-", |(_, cell)| cell).to_owned());
        table.row(out, cells.collect())?;
    }
    table.finish(out)
}

/// A value in few words: nothing is a dash, times lose what nobody reads.
pub(super) fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(text) => time(text).map_or_else(|| text_cell(text), time_cell),
        Value::Array(items) if items.is_empty() => "-".into(),
        Value::Array(items) => items.iter().map(cell).collect::<Vec<_>>().join(" "),
        Value::Bool(_) | Value::Number(_) | Value::Object(_) => value.to_string(),
    }
}

/// A time of RFC 3339, as in our JSON.
fn time(text: &str) -> Option<Timestamp> {
    // A quick look first: most texts are no times.
    if !text.ends_with('Z') || text.as_bytes().get(10) != Some(&b'T') {
        return None;
    }
    text.parse().ok()
}

/// A text as one inert line; a dash where it is empty.
pub(super) fn text_cell(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { RemoteText::new(text).to_string() }
}

/// A sender; the null sender has no other name.
pub(super) fn sender_cell(sender: &str) -> String {
    if sender.is_empty() { "<>".to_owned() } else { text_cell(sender) }
}

/// What may have been meant, behind a sentence; nothing where nothing is known.
pub(super) fn did_you_mean(unmatched: &Unmatched) -> String {
    let meant = unmatched.did_you_mean.as_deref();
    meant.map(|meant| format!("; did you mean {}?", text_cell(meant))).unwrap_or_default()
}

/// Octets with a unit: `900`, `12K`, `3.4M`.
pub(super) fn size_cell(octets: u64) -> String {
    let tenths = |unit: u64| {
        let tenths = octets.saturating_mul(10) / unit;
        if tenths < 100 {
            format!("{}.{}", tenths / 10, tenths % 10)
        } else {
            (tenths / 10).to_string()
        }
    };
    match octets {
        0..=1023 => octets.to_string(),
        1024..=1_048_575 => tenths(1 << 10) + "K",
        1_048_576..=1_073_741_823 => tenths(1 << 20) + "M",
        1_073_741_824.. => tenths(1 << 30) + "G",
    }
}

/// An age in its two largest units: `45s`, `12m`, `3h20m`, `2d4h`.
pub(super) fn age_cell(age: SignedDuration) -> String {
    let seconds = age.as_secs().max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m"),
        (0, _, _) => format!("{hours}h{}m", minutes % 60),
        (_, _, _) => format!("{days}d{}h", hours % 24),
    }
}

/// Columns of the terminal that `out` is.
pub(super) fn width(out: &impl AsFd) -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(out).ok()?;
    Some(usize::from(size.ws_col)).filter(|columns| *columns > 0)
}

/// Does stdout show colours? Only a terminal does, and not with `NO_COLOR` or `TERM=dumb`.
pub(super) fn has_colours() -> bool {
    let out = io::stdout();
    out.is_terminal() && AutoStream::choice(&out) != ColorChoice::Never
}

/// `2026-01-02 03:04:05Z`.
pub(super) fn time_cell(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_stranger_s_text_does_nothing_to_a_terminal_and_keeps_its_lines() {
        let text = "a\r\n\tgr\u{fc}\u{df}e \u{1b}[31m\u{9b}2J\u{202e}\r\n".as_bytes();
        let octets = [text, b"\xff\r"].concat();
        let want = "a\n\tgr\u{fc}\u{df}e \\u{1b}[31m\\u{9b}2J\\u{202e}\n\\xff\\u{d}";
        for cut in 0..octets.len() {
            let (front, back) = octets.split_at(cut);
            let mut shown = ShownText::default();
            assert_eq!(shown.next(front) + &shown.next(back) + &shown.end(), want, "{cut}");
        }
    }

    #[test]
    fn sizes_and_ages_are_short() {
        let sizes =
            [(0, "0"), (1023, "1023"), (1024, "1.0K"), (12_345, "12K"), (3_600_000, "3.4M")];
        for (octets, want) in sizes {
            assert_eq!(size_cell(octets), want);
        }
        let ages = [(-5, "0s"), (59, "59s"), (60, "1m"), (12_000, "3h20m"), (187_200, "2d4h")];
        for (seconds, want) in ages {
            assert_eq!(age_cell(SignedDuration::from_secs(seconds)), want);
        }
    }

    #[test]
    fn json_is_the_same_value_and_inert() {
        let value = json!({ "a": "gr\u{fc}n \u{1b}[0m\u{9b}\u{202e}\u{e0001}\u{7f}" });
        let mut out = Vec::new();
        json(&mut out, &value).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text, "{\"a\":\"gr\u{fc}n \\u001b[0m\\u009b\\u202e\\udb40\\udc01\\u007f\"}\n");
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
    }

    #[test]
    fn an_object_is_lines_and_then_tables() {
        let value = json!({
            "id": "m1", "size": 12, "sender": "", "to": ["a", "b"],
            "arrived_at": "2026-01-02T03:04:05.678Z",
            "recipients": [
                {"recipient": "b@x.example", "last": null},
                {"recipient": "c@x.example", "last": {"reason": "connect_failed"}},
            ],
            "text": "\u{1b}[2J", "body": "mode: enforce\r\n\u{1b}x\n",
        });
        let mut out = Vec::new();
        object(&mut out, &value).unwrap();
        let want = "\
arrived_at  2026-01-02 03:04:05Z
id          m1
sender      -
size        12
text        \\u{1b}[2J
to          a b

body:
  mode: enforce
  \\u{1b}x

recipients:
last  recipient    last.reason
-     b@x.example  -
-     c@x.example  connect_failed
";
        assert_eq!(String::from_utf8(out).unwrap(), want);
    }
}
