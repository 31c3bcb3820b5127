//! What commands print: JSON as it is, or the same for people.

use std::io::{self, Write};

use serde_json::Value;
use smtp::RemoteText;

use super::table::Table;

/// Prints one value as one line.
///
/// # Errors
///
/// Of writing.
pub(super) fn json(out: &mut dyn Write, value: &Value) -> io::Result<()> {
    writeln!(out, "{value}")
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
    let mut table = Table::new(&columns);
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
        Value::String(text) if text.is_empty() => "-".into(),
        Value::String(text) => time(text).unwrap_or_else(|| RemoteText::new(text).to_string()),
        Value::Array(items) if items.is_empty() => "-".into(),
        Value::Array(items) => items.iter().map(cell).collect::<Vec<_>>().join(" "),
        Value::Bool(_) | Value::Number(_) | Value::Object(_) => value.to_string(),
    }
}

/// `2026-01-02 03:04:05Z` for a time of RFC 3339.
fn time(text: &str) -> Option<String> {
    // A quick look first: most texts are no times.
    if !text.ends_with('Z') || text.as_bytes().get(10) != Some(&b'T') {
        return None;
    }
    let time: jiff::Timestamp = text.parse().ok()?;
    Some(time.strftime("%Y-%m-%d %H:%M:%SZ").to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

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
