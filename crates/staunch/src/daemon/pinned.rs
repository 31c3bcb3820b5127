//! A process that reads queue.db for long is named: the log grows until it ends.

use std::time::Duration;

use spool::{ForeignReader, Pinned};
use tokio::time::Instant;

use crate::daemon::facts::DaemonFact;

/// Our choice: a backup tool or a query is done in less; a forgotten shell is not.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is remembered from one look to the next.
#[derive(Debug, Default)]
pub(crate) struct PinnedLog {
    since: Option<Instant>,
    /// The last that could be named: one may have gone when the alarm is due, and the log not yet.
    readers: Vec<ForeignReader>,
    is_told: bool,
}

/// What the operator is told.
#[derive(Debug, Eq, PartialEq)]
enum News {
    /// It has lasted for a minute.
    Pinned,
    /// It is over, and was told.
    Free,
}

impl PinnedLog {
    /// To be told what the store says each second.
    pub(crate) fn look(&mut self, pinned: Option<&Pinned>, now: Instant) {
        if let Some(pinned) = pinned.filter(|pinned| !pinned.readers.is_empty()) {
            self.readers.clone_from(&pinned.readers);
        }
        match (self.news(pinned, now), pinned) {
            (Some(News::Pinned), Some(pinned)) => tell(pinned.log_bytes, &self.readers),
            (Some(News::Free), _) => DaemonFact::QueueLogFree.tell(),
            (Some(News::Pinned), None) | (None, _) => {}
        }
    }

    fn news(&mut self, pinned: Option<&Pinned>, now: Instant) -> Option<News> {
        if pinned.is_none() {
            self.since = None;
            self.readers.clear();
            return std::mem::take(&mut self.is_told).then_some(News::Free);
        }
        let since = *self.since.get_or_insert(now);
        if self.is_told || now.saturating_duration_since(since) < PATIENCE {
            return None;
        }
        self.is_told = true;
        Some(News::Pinned)
    }
}

fn tell(log_bytes: u64, readers: &[ForeignReader]) {
    let name = |reader: &ForeignReader| format!("{} (process {})", reader.program, reader.pid);
    let readers: Vec<String> = readers.iter().map(name).collect();
    let readers = if readers.is_empty() {
        "a process that is not seen from here, perhaps in another container".into()
    } else {
        readers.join(", ")
    };
    DaemonFact::QueueLogPinned { readers, log_bytes }.tell();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_is_named_after_a_minute_once_and_its_end_is_told() {
        let (mut log, start) = (PinnedLog::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let pinned = Some(&Pinned { log_bytes: 1, readers: Vec::new() });
        assert_eq!(log.news(pinned, at(0)), None);
        assert_eq!(log.news(pinned, at(59)), None);
        assert_eq!(log.news(pinned, at(60)), Some(News::Pinned));
        assert_eq!(log.news(pinned, at(61)), None, "once");
        assert_eq!(log.news(None, at(62)), Some(News::Free));
        assert_eq!(log.news(pinned, at(63)), None);
        assert_eq!(log.news(None, at(64)), None, "what was not told does not end");
        assert_eq!(log.news(pinned, at(124)), None, "a minute counts from its own beginning");
    }

    #[test]
    fn who_has_gone_just_before_the_alarm_is_named_in_it_and_in_no_later_one() {
        let (mut log, start) = (PinnedLog::default(), Instant::now());
        let reader = ForeignReader { pid: 7, program: "sqlite3".into() };
        let seen = Pinned { log_bytes: 1, readers: vec![reader.clone()] };
        let gone = Pinned { log_bytes: 1, readers: Vec::new() };
        log.look(Some(&seen), start);
        log.look(Some(&gone), start + PATIENCE);
        assert_eq!((log.is_told, &log.readers), (true, &vec![reader]));
        log.look(None, start + PATIENCE);
        assert_eq!(log.readers, []);
    }
}
