//! The daemon's log, read line by line.

use std::sync::Arc;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::ChildStderr;
use tokio::sync::watch;

use crate::log::Log;

/// A line of the daemon's log, or its begin or end.
#[derive(Clone, Debug)]
pub(crate) enum Line {
    Start,
    Event(Event),
    Text(String),
    End,
}

impl std::fmt::Display for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Event(event) => event.0.fmt(f),
            Self::Text(text) => text.fmt(f),
            Self::Start => f.write_str("(start of the daemon)"),
            Self::End => f.write_str("(end of the daemon)"),
        }
    }
}

/// One fact from the log.
#[derive(Clone, Debug)]
pub struct Event(pub(crate) Value);

impl Event {
    /// A field, on the line itself, among its `fields`, or of a span around it.
    pub fn get(&self, field: &str) -> Option<&Value> {
        let line = &self.0;
        let spans = line.get("spans").and_then(Value::as_array).into_iter().flatten();
        [Some(line), line.get("fields"), line.get("span")]
            .into_iter()
            .flatten()
            .chain(spans)
            .find_map(|place| place.get(field))
    }

    /// A field as text; numbers and booleans as JSON writes them.
    pub fn text(&self, field: &str) -> Option<String> {
        self.get(field).map(as_text)
    }
}

fn as_text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// What the reader of a daemon's log does.
#[derive(Clone, Copy, Debug)]
pub enum LogReading {
    /// It reads.
    On,
    /// It does not, so that the pipe fills up.
    Off,
}

/// Ends with the process that writes.
#[expect(clippy::disallowed_methods, reason = "ends with the pipe; nothing waits for it")]
pub(crate) fn spawn_reader(
    stderr: ChildStderr,
    log: Arc<Log<Line>>,
    mut is_read: watch::Receiver<bool>,
) {
    tokio::spawn(async move {
        let mut lines = BufReader::new(stderr).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            // The relay that owns the other side may be gone already.
            let _ = is_read.wait_for(|is_read| *is_read).await;
            log.push(match serde_json::from_str::<Value>(&line) {
                Ok(value) if value.is_object() => Line::Event(Event(value)),
                _ => Line::Text(line),
            });
        }
        log.push(Line::End);
    });
}
