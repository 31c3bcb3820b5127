//! `queue show`: one message, as far as something is known or was asked for.

use std::io::{self, Write};

use jiff::Timestamp;

use crate::cli::output::{age_cell, sender_cell, text_cell, time_cell};
use crate::control::api::{
    DeadlineEffect, ListedMessage, MailState, ShownDeadline, ShownHeader, ShownOptions,
};

/// Octets of a line that every host takes (RFC 5322 §2.1.1).
const LINE_OCTETS_MAX: u64 = 998;

/// Prints the message, without its recipients.
///
/// # Errors
///
/// Of writing.
pub(super) fn message(
    out: &mut dyn Write,
    message: &ListedMessage,
    now: Timestamp,
) -> io::Result<()> {
    let lines = envelope(message, now)
        .into_iter()
        .chain(header(message.header.as_ref()))
        .chain(options(&message.options))
        .collect::<Vec<_>>();
    let width = lines.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    lines.iter().try_for_each(|(name, value)| writeln!(out, "{name:width$}  {value}"))
}

type ShownLine = (&'static str, String);

fn envelope(message: &ListedMessage, now: Timestamp) -> Vec<ShownLine> {
    let arrived = message.arrived_at;
    let age = age_cell(now.duration_since(arrived));
    let mut lines = vec![
        ("id", message.id.clone()),
        ("sender", sender_cell(&message.sender)),
        ("client", text_cell(&message.client)),
        ("arrived", format!("{}, {age} ago", time_cell(arrived))),
        ("size", format!("{} bytes", message.size)),
    ];
    let ends = message.recipients.iter().filter(|row| row.state != MailState::Held);
    if let Some(end) = ends.filter_map(|row| row.expires_at).max() {
        lines.push(("returned", format!("if it still waits at {}", time_cell(end))));
    }
    if message.has_8bit {
        lines.push(("8bit", "yes".to_owned()));
    }
    if message.longest_line > LINE_OCTETS_MAX {
        lines.push(("longest line", format!("{} bytes", message.longest_line)));
    }
    // One is ours.
    if message.received_count > 1 {
        lines.push(("Received fields", message.received_count.to_string()));
    }
    lines
}

fn header(header: Option<&ShownHeader>) -> Vec<ShownLine> {
    let Some(ShownHeader { from, to, cc, date, message_id, subject }) = header else {
        return vec![("header", "cannot be read".to_owned())];
    };
    let fields = [
        ("From:", from),
        ("To:", to),
        ("Cc:", cc),
        ("Subject:", subject),
        ("Date:", date),
        ("Message-ID:", message_id),
    ];
    let there = |(name, field): (&'static str, &Option<String>)| {
        field.as_deref().map(|field| (name, text_cell(field)))
    };
    fields.into_iter().filter_map(there).collect()
}

/// What MAIL asked for, by the names of its parameters.
fn options(options: &ShownOptions) -> Vec<ShownLine> {
    let yes = |is_set: bool| is_set.then(|| "yes".to_owned());
    let priority = (options.priority != 0).then(|| options.priority.to_string());
    let all = [
        ("user", options.user.as_deref().map(text_cell)),
        ("RET", options.ret.as_deref().map(text_cell)),
        ("ENVID", options.envelope_id.as_deref().map(text_cell)),
        ("SMTPUTF8", yes(options.smtp_utf8)),
        ("REQUIRETLS", yes(options.require_tls)),
        ("BY", options.deliver_by.as_ref().map(deadline)),
        ("MT-PRIORITY", priority),
        ("not before", options.not_before.map(time_cell)),
    ];
    all.into_iter().filter_map(|(name, value)| value.map(|value| (name, value))).collect()
}

fn deadline(deadline: &ShownDeadline) -> String {
    let effect = match deadline.mode {
        DeadlineEffect::Return => "then it is returned",
        DeadlineEffect::Notify => "then the sender is told",
    };
    let trace = if deadline.trace { ", and of each relay" } else { "" };
    format!("{}, {effect}{trace}", time_cell(deadline.at))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::cli::admin_client::read;

    fn shown(message: &Value) -> String {
        let mut out = Vec::new();
        let now = "2026-01-02T04:04:05Z".parse().unwrap();
        super::message(&mut out, &read(message).unwrap(), now).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn plain() -> Value {
        json!({
            "id": "m1", "sender": "", "client": "127.0.0.1", "size": 7, "has_8bit": false,
            "arrived_at": "2026-01-02T03:04:05.5Z", "longest_line": 3, "received_count": 0,
            "header": {"subject": "\u{1b}[2J"},
            "options": {"smtp_utf8": false, "require_tls": false, "priority": 0},
            "recipients": [],
        })
    }

    #[test]
    fn a_message_is_shown_without_what_is_not_set() {
        let want = "\
id        m1
sender    <>
client    127.0.0.1
arrived   2026-01-02 03:04:05Z, 59m ago
size      7 bytes
Subject:  \\u{1b}[2J
";
        assert_eq!(shown(&plain()), want);
    }

    #[test]
    fn what_is_set_is_shown_and_a_lost_body_is_told() {
        let mut message = plain();
        message["header"] = Value::Null;
        message["has_8bit"] = true.into();
        message["longest_line"] = 999.into();
        message["received_count"] = 2.into();
        message["options"] = json!({
            "ret": "HDRS", "envelope_id": "q1", "smtp_utf8": true, "require_tls": true,
            "deliver_by": {"at": "2026-01-02T05:04:05Z", "mode": "notify", "trace": true},
            "priority": -3, "not_before": "2026-01-02T06:04:05Z", "user": "anna",
        });
        let want = "\
8bit             yes
longest line     999 bytes
Received fields  2
header           cannot be read
user             anna
RET              HDRS
ENVID            q1
SMTPUTF8         yes
REQUIRETLS       yes
BY               2026-01-02 05:04:05Z, then the sender is told, and of each relay
MT-PRIORITY      -3
not before       2026-01-02 06:04:05Z
";
        let text = shown(&message);
        assert!(text.ends_with(want), "{text}");
    }
}
