//! One line per fact: where the daemon's events go, and how a line looks.
//!
//! Names of events and fields are an interface (`docs/operations.md`): operators grep for them,
//! tests wait for them. Values that strangers chose are `RemoteText` before they get here; the text
//! format quotes and escapes all the same, so that no value can begin a line or pass for a field.

mod filter;
mod journal;
mod line;
mod problem;
mod reason;
mod writer;

use std::fmt;
use std::io;

use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Filtered;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

use crate::clock;
use crate::config::{Log, LogFormat, log_filter};
pub(crate) use filter::{DebuggedName, LogControl};
use filter::{LevelOrigin, LogFilter, is_ours};
use line::{Fields, LineShape, LogLine};
pub(crate) use problem::Problem;
pub(crate) use reason::{Reason, refusal_reason, tls_reason};
pub(crate) use writer::LogEnd;
use writer::{LineQueue, LineSink, StreamSink};

/// Why nothing can be logged as asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TelemetryError {
    /// `log.level` or `--log-level`.
    #[error("log.level: {0}")]
    Level(String),
    /// `log.format = "journald"`, and there is none.
    #[error("log.format: the journal cannot be reached: {0}")]
    Journal(io::Error),
    /// The thread that writes cannot be started.
    #[error("the log's thread: {0}")]
    Thread(io::Error),
    /// Somebody else logs in this process.
    #[error(transparent)]
    Twice(#[from] TryInitError),
}

/// Sends events to stderr or the journal from here on, until the [`LogEnd`] is dropped. `level`
/// replaces the configured one.
///
/// # Errors
///
/// [`TelemetryError`].
pub(crate) fn start(
    log: &Log,
    level: Option<&str>,
) -> Result<(LogControl, LogEnd), TelemetryError> {
    let levels = log_filter(level.unwrap_or(&log.level)).map_err(TelemetryError::Level)?;
    let to_stderr = |shape| LogLines::to_stderr(shape).map_err(TelemetryError::Thread);
    let (lines, end) = match log.format {
        LogFormat::Text => to_stderr(LineShape::Text)?,
        LogFormat::Json => to_stderr(LineShape::Json)?,
        LogFormat::Journald => LogLines::to_journal().map_err(TelemetryError::Journal)?,
        // A journal that is named but does not answer is no reason to be silent.
        LogFormat::Auto if journal::is_stderr() => match LogLines::to_journal() {
            Ok(lines) => lines,
            Err(_) => to_stderr(LineShape::Text)?,
        },
        LogFormat::Auto => to_stderr(LineShape::Text)?,
    };
    let filter = LogFilter::new(levels);
    tracing_subscriber::registry().with(lines.filtered(filter.clone())).try_init()?;
    let origin = match level {
        Some(_) => LevelOrigin::CommandLine,
        None => LevelOrigin::Configuration,
    };
    Ok((LogControl::new(filter, origin), end))
}

/// Writes each event as one line.
struct LogLines {
    shape: LineShape,
    /// Once it is known: the layer asks it again when the fields are there.
    filter: Option<LogFilter>,
    out: LineQueue,
}

impl fmt::Debug for LogLines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogLines").finish_non_exhaustive()
    }
}

impl LogLines {
    fn new(shape: LineShape, sink: impl LineSink + 'static) -> io::Result<(Self, LogEnd)> {
        let (out, end) = LineQueue::new(sink)?;
        Ok((Self { shape, filter: None, out }, end))
    }

    fn to_stderr(shape: LineShape) -> io::Result<(Self, LogEnd)> {
        Self::new(shape, StreamSink::new(io::stderr()))
    }

    fn to_journal() -> io::Result<(Self, LogEnd)> {
        Self::new(LineShape::Journal, journal::JournalSocket::connect()?)
    }

    /// The layer with its filter, which it asks again when an event's fields are known.
    fn filtered<S>(mut self, filter: LogFilter) -> Filtered<Self, LogFilter, S>
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        self.filter = Some(filter.clone());
        self.with_filter(filter)
    }

    /// The line that stands where others are missing.
    fn lost_lines(&self, lines: usize) -> Vec<u8> {
        let fields = Fields::of_lost_lines(lines);
        LogLine { at: clock::now(), level: Level::ERROR, target: None, fields: &fields }
            .show(self.shape)
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for LogLines {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        span.extensions_mut().insert(fields);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        if let Some(fields) = span.extensions_mut().get_mut::<Fields>() {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::roomy();
        for span in context.event_scope(event).into_iter().flat_map(|scope| scope.from_root()) {
            if let Some(outer) = span.extensions().get::<Fields>() {
                fields.extend(outer);
            }
        }
        event.record(&mut fields);
        let metadata = event.metadata();
        if self.filter.as_ref().is_some_and(|filter| !filter.lets_through(metadata, &fields)) {
            return;
        }
        let line = LogLine {
            at: clock::now(),
            level: *metadata.level(),
            target: foreign_or_detail(metadata.target(), *metadata.level()),
            fields: &fields,
        };
        let bytes = line.show(self.shape);
        self.out.push(bytes, |lines| self.lost_lines(lines));
    }
}

/// The target is worth its room only where `event` does not say it all.
fn foreign_or_detail(target: &str, level: Level) -> Option<&str> {
    (!is_ours(target) || level > Level::INFO).then_some(target)
}

#[cfg(test)]
mod documented;

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use tracing::{debug, field, info, info_span, warn};

    use super::*;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What `act` logs at `level`, without the times.
    fn logged(level: &str, shape: LineShape, act: impl FnOnce()) -> Vec<String> {
        let shared = Shared::default();
        let (lines, end) = LogLines::new(shape, StreamSink::new(shared.clone())).unwrap();
        let subscriber = tracing_subscriber::registry()
            .with(lines.filtered(LogFilter::new(log_filter(level).unwrap())));
        tracing::subscriber::with_default(subscriber, act);
        drop(end);
        let text = String::from_utf8(shared.0.lock().unwrap().clone()).unwrap();
        text.lines().map(|line| line.split_once(char::is_whitespace).unwrap().1.into()).collect()
    }

    fn some_events() {
        let span = info_span!(target: "staunch", "attempt", message_id = "m1", mx = field::Empty);
        let _entered = span.enter();
        info!(target: "staunch::queue", event = "accepted", size = 12_u64);
        span.record("mx", "mx.example.net");
        let text = "550 no\" such\nuser";
        warn!(target: "staunch", event = "deferred", reason = "remote_4xx", %text, "try again");
        debug!(target: "staunch::dns", event = "connection_lost", took_ms = 1.5);
        info!(target: "hickory_net", "unimportant");
        warn!(target: "hickory_net", empty = "", "odd");
    }

    #[test]
    fn text_lines_begin_with_the_event_and_quote_what_could_confuse() {
        let want = [
            "INFO event=accepted message_id=m1 size=12",
            r#"WARN event=deferred message_id=m1 mx=mx.example.net reason=remote_4xx text="550 no\" such\nuser" message="try again""#,
            r#"WARN message_id=m1 mx=mx.example.net empty="" message=odd target=hickory_net"#,
        ];
        assert_eq!(logged("info", LineShape::Text, some_events), want);
    }

    #[test]
    fn the_level_is_for_our_own_events() {
        let count = |level| logged(level, LineShape::Text, some_events).len();
        assert_eq!([count("error"), count("warn"), count("info"), count("debug")], [0, 2, 3, 4]);
        assert_eq!(count("info,staunch::dns=debug"), 4);
        assert_eq!(count("info,hickory_net=info"), 4);
        for bad in ["", "loud", "info,loud", "info,a=b"] {
            assert!(log_filter(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn json_lines_are_flat_objects() {
        let shared = Shared::default();
        let (lines, end) = LogLines::new(LineShape::Json, StreamSink::new(shared.clone())).unwrap();
        let subscriber = tracing_subscriber::registry().with(lines);
        tracing::subscriber::with_default(subscriber, some_events);
        drop(end);
        let text = String::from_utf8(shared.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let deferred = &lines[1];
        assert!(text.starts_with("{\"timestamp\":\"20"), "{text}");
        assert_eq!(deferred["level"], "warn");
        assert_eq!(deferred["event"], "deferred");
        assert_eq!(deferred["message_id"], "m1");
        assert_eq!(deferred["mx"], "mx.example.net");
        assert_eq!(deferred["text"], "550 no\" such\nuser");
        assert_eq!(deferred["message"], "try again");
        assert_eq!(lines[0]["size"], 12);
        assert_eq!(lines[2]["took_ms"], 1.5);
        assert_eq!(lines[2]["target"], "staunch::dns");
        let at = deferred["timestamp"].as_str().unwrap();
        assert!(at.ends_with('Z') && at.parse::<jiff::Timestamp>().is_ok(), "{at}");
    }
}
