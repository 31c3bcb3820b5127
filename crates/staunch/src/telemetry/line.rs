//! How one event looks: as text, as JSON, as fields of the journal.

use std::fmt::{self, Write};
use std::ops::Range;

use jiff::Timestamp;
use smtp::remote_text::push_inert;
use tracing::Level;
use tracing::field::{Field, Visit};

use crate::inert_json;

/// The field that says which fact it is; it stands first.
const EVENT: &str = "event";
/// The facility for mail (RFC 5424 §6.2.1): syslog daemons write it into mail.log.
const MAIL: &str = "2";
/// What tracing calls the prose of an event; it stands last.
const MESSAGE: &str = "message";

/// Our choice: octets that most lines have room in.
const LINE_OCTETS: usize = 768;

/// What a value is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    /// Words, which may need quotes.
    Text,
    /// A number, true or false: as it is in every shape.
    Bare,
}

/// A name, and where its value stands in the text of all of them.
#[derive(Clone, Debug)]
struct Entry {
    name: &'static str,
    kind: Kind,
    place: Range<usize>,
}

/// Names and values in the order in which they were set; the last word for a name counts.
///
/// All values stand in one string: a message has some forty of them, and an allocation for each
/// showed in the daemon's profile.
#[derive(Debug, Default)]
pub(super) struct Fields {
    entries: Vec<Entry>,
    text: String,
}

impl Fields {
    /// Fields with room for what most lines have.
    pub(super) fn roomy() -> Self {
        Self { entries: Vec::with_capacity(24), text: String::with_capacity(LINE_OCTETS) }
    }

    /// What stands in the log where lines could not be kept for their reader.
    pub(super) fn of_lost_lines(lines: usize) -> Self {
        let mut fields = Self::default();
        let says = "the log was not read in time (a stopped reader, a journal that hangs), or could \
            not be written: lines are missing here; mail went on";
        // Written as it is elsewhere, since a test compares these names with the documentation's.
        let event = "log_lines_lost";
        fields.set(EVENT, Kind::Text, format_args!("{event}"));
        fields.set("lines", Kind::Bare, format_args!("{lines}"));
        fields.set(MESSAGE, Kind::Text, format_args!("{says}"));
        fields
    }

    fn set(&mut self, name: &'static str, kind: Kind, value: fmt::Arguments<'_>) {
        let start = self.text.len();
        // A value that cannot be written is cut where it failed; a String itself takes all.
        let _ = self.text.write_fmt(value);
        self.place(name, kind, start);
    }

    /// Gives `name` what was appended behind `start`.
    fn place(&mut self, name: &'static str, kind: Kind, start: usize) {
        let place = start..self.text.len();
        match self.entries.iter_mut().find(|entry| entry.name == name) {
            Some(entry) => (entry.kind, entry.place) = (kind, place),
            None => self.entries.push(Entry { name, kind, place }),
        }
    }

    pub(super) fn extend(&mut self, outer: &Self) {
        for entry in &outer.entries {
            let start = self.text.len();
            self.text.push_str(outer.value(entry));
            self.place(entry.name, entry.kind, start);
        }
    }

    /// The value of a field, if there is one.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.entries.iter().find(|entry| entry.name == name).map(|entry| self.value(entry))
    }

    fn value(&self, entry: &Entry) -> &str {
        self.text.get(entry.place.clone()).unwrap_or_default()
    }

    /// `event` first and the prose last, under names that the line itself does not use.
    fn in_order(&self) -> impl Iterator<Item = ShownField<'_>> {
        let only = |name| self.entries.iter().filter(move |entry| entry.name == name);
        let rest = self.entries.iter().filter(|entry| !matches!(entry.name, EVENT | MESSAGE));
        let ordered = only(EVENT).chain(rest).chain(only(MESSAGE));
        ordered.map(|entry| (free(entry.name), entry.kind, self.value(entry)))
    }
}

/// A field as it is shown: name, kind, value.
type ShownField<'a> = (&'static str, Kind, &'a str);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.set(field.name(), Kind::Text, format_args!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let start = self.text.len();
        self.text.push_str(value);
        self.place(field.name(), Kind::Text, start);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.set(field.name(), Kind::Bare, format_args!("{value}"));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.set(field.name(), Kind::Bare, format_args!("{value}"));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.set(field.name(), Kind::Bare, format_args!("{value}"));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        // What JSON has no number for stays readable as a word.
        let kind = if value.is_finite() { Kind::Bare } else { Kind::Text };
        self.set(field.name(), kind, format_args!("{value:?}"));
    }
}

/// One event, ready to be shown.
#[derive(Debug)]
pub(super) struct LogLine<'a> {
    pub(super) at: Timestamp,
    pub(super) level: Level,
    pub(super) target: Option<&'a str>,
    pub(super) fields: &'a Fields,
}

/// How it is shown.
#[derive(Clone, Copy, Debug)]
pub(super) enum LineShape {
    /// `2026-01-02T03:04:05.678Z INFO event=… key=value`.
    Text,
    /// One flat object.
    Json,
    /// An entry of the journal.
    Journal,
}

impl LogLine<'_> {
    /// The bytes to write, at once.
    pub(super) fn show(&self, shape: LineShape) -> Vec<u8> {
        match shape {
            LineShape::Text => self.text(),
            LineShape::Json => self.json(),
            LineShape::Journal => self.journal(),
        }
    }

    fn text(&self) -> Vec<u8> {
        let mut out = String::with_capacity(LINE_OCTETS);
        push_fmt(&mut out, format_args!("{:.3} {}", self.at, self.level.as_str()));
        self.push_pairs(&mut out);
        out.push('\n');
        out.into_bytes()
    }

    /// One flat object with `timestamp` and `level` in front, and a line end.
    fn json(&self) -> Vec<u8> {
        let mut out = String::with_capacity(LINE_OCTETS);
        let level = self.level.as_str().to_ascii_lowercase();
        let at = self.at;
        push_fmt(&mut out, format_args!("{{\"timestamp\":\"{at:.3}\",\"level\":\"{level}\""));
        for (name, kind, value) in self.shown() {
            out.push(',');
            inert_json::push_text(&mut out, name);
            out.push(':');
            match kind {
                Kind::Text => inert_json::push_text(&mut out, value),
                Kind::Bare => out.push_str(value),
            }
        }
        out.push_str("}\n");
        out.into_bytes()
    }

    /// The journal's own protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL): `MESSAGE` for people, and
    /// each field as `STAUNCH_NAME`, since a bare `MESSAGE_ID` means something else there.
    fn journal(&self) -> Vec<u8> {
        let mut message = String::with_capacity(LINE_OCTETS);
        self.push_pairs(&mut message);
        let mut out = Vec::with_capacity(2 * LINE_OCTETS);
        push_field(&mut out, "PRIORITY", priority(self.level));
        push_field(&mut out, "SYSLOG_FACILITY", MAIL);
        push_field(&mut out, "SYSLOG_IDENTIFIER", "staunch");
        push_field(&mut out, "MESSAGE", message.trim_start());
        for entry in &self.fields.entries {
            let name = format!("STAUNCH_{}", entry.name.to_ascii_uppercase().replace('.', "_"));
            push_field(&mut out, &name, self.fields.value(entry));
        }
        out
    }

    /// ` key=value` for each field.
    fn push_pairs(&self, out: &mut String) {
        for (name, kind, value) in self.shown() {
            out.push(' ');
            out.push_str(name);
            out.push('=');
            if kind == Kind::Bare || is_bare(value) {
                out.push_str(value);
            } else {
                push_quoted(out, value);
            }
        }
    }

    fn shown(&self) -> impl Iterator<Item = ShownField<'_>> {
        let target = self.target.map(|target| ("target", Kind::Text, target));
        self.fields.in_order().chain(target)
    }
}

/// A String takes everything.
fn push_fmt(out: &mut String, words: fmt::Arguments<'_>) {
    let _ = out.write_fmt(words);
}

/// The value in the quotes of Rust, which leave characters in that do not show: those are escaped.
fn push_quoted(out: &mut String, value: &str) {
    if value.bytes().all(|octet| matches!(octet, b' '..=b'~') && !matches!(octet, b'"' | b'\\')) {
        out.extend(["\"", value, "\""]);
    } else {
        format!("{value:?}").chars().for_each(|c| push_inert(out, c));
    }
}

/// The name, or one like it where the line itself uses that name.
fn free(name: &'static str) -> &'static str {
    match name {
        "timestamp" => "timestamp_",
        "level" => "level_",
        "target" => "target_",
        name => name,
    }
}

/// Can it stand without quotes?
fn is_bare(text: &str) -> bool {
    let harmless = |b: u8| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\' | b'=');
    !text.is_empty() && text.bytes().all(harmless)
}

/// syslog(3): the journal knows no level below debug.
fn priority(level: Level) -> &'static str {
    match level {
        Level::ERROR => "3",
        Level::WARN => "4",
        Level::INFO => "6",
        Level::DEBUG | Level::TRACE => "7",
    }
}

/// A value with line ends is preceded by its length; the other form ends at the first of them.
fn push_field(out: &mut Vec<u8>, name: &str, value: &str) {
    out.extend_from_slice(name.as_bytes());
    if value.contains('\n') {
        let length = u64::try_from(value.len()).unwrap_or(u64::MAX);
        out.push(b'\n');
        out.extend_from_slice(&length.to_le_bytes());
    } else {
        out.push(b'=');
    }
    out.extend_from_slice(value.as_bytes());
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(fields: &Fields) -> LogLine<'_> {
        let at = Timestamp::from_second(1_800_000_000).unwrap();
        LogLine { at, level: Level::INFO, target: Some("t"), fields }
    }

    #[test]
    fn a_field_cannot_pass_for_the_line_itself() {
        let mut fields = Fields::default();
        fields.set("level", Kind::Text, format_args!("no"));
        fields.set("target", Kind::Text, format_args!("="));
        fields.set("event", Kind::Text, format_args!("e"));
        let line = line(&fields);
        let text = String::from_utf8(line.text()).unwrap();
        assert_eq!(
            text,
            "2027-01-15T08:00:00.000Z INFO event=e level_=no target_=\"=\" target=t\n"
        );
        let json = String::from_utf8(line.json()).unwrap();
        let want = r#"{"timestamp":"2027-01-15T08:00:00.000Z","level":"info","event":"e","level_":"no","target_":"=","target":"t"}"#;
        assert_eq!(json.trim_end(), want);
    }

    #[test]
    fn a_field_has_no_characters_that_do_not_show() {
        let mut fields = Fields::default();
        fields.set("sender", Kind::Text, format_args!("\"s\u{115f}\"@\u{fc}\u{202e}\u{1b}.test"));
        let text = String::from_utf8(line(&fields).text()).unwrap();
        let want = r#" sender="\"s\u{115f}\"@ü\u{202e}\u{1b}.test" target=t"#;
        assert!(text.trim_end().ends_with(want), "{text}");
        let json = String::from_utf8(line(&fields).json()).unwrap();
        let want = r#""sender":"\"s\u115f\"@ü\u202e\u001b.test","target":"t"}"#;
        assert!(json.trim_end().ends_with(want), "{json}");
    }

    #[test]
    fn the_journal_gets_lengths_for_values_with_line_ends() {
        let mut fields = Fields::default();
        fields.set("event", Kind::Text, format_args!("e"));
        fields.set("message_id", Kind::Bare, format_args!("7"));
        fields.set("text", Kind::Text, format_args!("a\nb"));
        let mut want = b"PRIORITY=6\nSYSLOG_FACILITY=2\nSYSLOG_IDENTIFIER=staunch\n\
            MESSAGE=event=e message_id=7 text=\"a\\nb\" target=t\n\
            STAUNCH_EVENT=e\nSTAUNCH_MESSAGE_ID=7\nSTAUNCH_TEXT\n"
            .to_vec();
        want.extend_from_slice(b"\x03\0\0\0\0\0\0\0a\nb\n");
        assert_eq!(line(&fields).journal(), want);
    }
}
