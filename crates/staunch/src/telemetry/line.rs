//! How one event looks: as text, as JSON, as fields of the journal.

use std::borrow::Cow;
use std::fmt;

use jiff::Timestamp;
use serde_json::Value;
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

/// Names and values in the order in which they were set; the last word for a name counts.
#[derive(Debug, Default)]
pub(super) struct Fields(Vec<(&'static str, Value)>);

impl Fields {
    fn set(&mut self, name: &'static str, value: Value) {
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some((_, old)) => *old = value,
            None => self.0.push((name, value)),
        }
    }

    pub(super) fn extend(&mut self, outer: &Self) {
        for (name, value) in &outer.0 {
            self.set(name, value.clone());
        }
    }

    /// `event` first and the prose last, under names that the line itself does not use.
    fn in_order(&self) -> impl Iterator<Item = (&'static str, &Value)> {
        let is = |wanted: &'static str| move |field: &&(&'static str, Value)| field.0 == wanted;
        let rest = |field: &&(&'static str, Value)| !matches!(field.0, EVENT | MESSAGE);
        let fields = &self.0;
        let ordered = fields.iter().filter(is(EVENT)).chain(fields.iter().filter(rest));
        ordered.chain(fields.iter().filter(is(MESSAGE))).map(|(name, value)| (free(name), value))
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.set(field.name(), Value::String(format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.set(field.name(), value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.set(field.name(), value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.set(field.name(), value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.set(field.name(), value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.set(field.name(), value.into());
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
        out.push_str(&format!("{:.3} ", self.at));
        out.push_str(self.level.as_str());
        self.push_pairs(&mut out);
        out.push('\n');
        out.into_bytes()
    }

    /// One flat object with `timestamp` and `level` in front, and a line end.
    fn json(&self) -> Vec<u8> {
        let level = self.level.as_str().to_ascii_lowercase();
        let mut out = format!("{{\"timestamp\":\"{:.3}\",\"level\":\"{level}\"", self.at);
        let target = self.target.map(Value::from);
        let target = target.as_ref().map(|target| ("target", target));
        for (name, value) in self.fields.in_order().chain(target) {
            out.push_str(&format!(",{}:", Value::from(name)));
            inert_json::push(&mut out, value);
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
        for (name, value) in &self.fields.0 {
            let name = format!("STAUNCH_{}", name.to_ascii_uppercase().replace('.', "_"));
            push_field(&mut out, &name, &plain(value));
        }
        out
    }

    /// ` key=value` for each field.
    fn push_pairs(&self, out: &mut String) {
        let target = self.target.map(Value::from);
        let target = target.as_ref().map(|target| ("target", target));
        for (name, value) in self.fields.in_order().chain(target) {
            out.push(' ');
            out.push_str(name);
            out.push('=');
            let text = plain(value);
            if is_bare(&text) || !value.is_string() {
                out.push_str(&text);
            } else {
                // The quotes of Rust leave characters in that do not show.
                format!("{text:?}").chars().for_each(|c| push_inert(out, c));
            }
        }
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

/// The text itself, or the number as text.
fn plain(value: &Value) -> Cow<'_, str> {
    value.as_str().map_or_else(|| value.to_string().into(), Cow::from)
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
        fields.set("level", "no".into());
        fields.set("target", "=".into());
        fields.set("event", "e".into());
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
        fields.set("sender", "\"s\u{115f}\"@\u{fc}\u{202e}\u{1b}.test".into());
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
        fields.set("event", "e".into());
        fields.set("message_id", 7.into());
        fields.set("text", "a\nb".into());
        let mut want = b"PRIORITY=6\nSYSLOG_FACILITY=2\nSYSLOG_IDENTIFIER=staunch\n\
            MESSAGE=event=e message_id=7 text=\"a\\nb\" target=t\n\
            STAUNCH_EVENT=e\nSTAUNCH_MESSAGE_ID=7\nSTAUNCH_TEXT\n"
            .to_vec();
        want.extend_from_slice(b"\x03\0\0\0\0\0\0\0a\nb\n");
        assert_eq!(line(&fields).journal(), want);
    }
}
