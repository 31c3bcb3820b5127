//! What of the events is logged: by level, and for a while all about a few names.

use std::sync::{Arc, RwLock};

use jiff::Timestamp;
use tracing::level_filters::LevelFilter;
use tracing::subscriber::Interest;
use tracing::{Level, Metadata, Subscriber, callsite};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Context, Filter};

use super::line::Fields;
use crate::config::{OWN_TARGET, log_filter};
use crate::lock::{read, write};

/// Names at a time. Our choice: each costs a comparison for every event below the level.
const FOLLOWED_MAX: usize = 16;
/// The fields that say which domain, host or client an event is about.
const NAME_FIELDS: [&str; 5] = ["domain", "mx", "next_hop", "client", "address"];

/// A name that everything is logged about, whatever the level is.
#[derive(Clone, Debug)]
pub(crate) struct DebuggedName {
    /// As it was ordered: a domain, a host or an address, in lower case.
    pub(crate) name: String,
    /// Its hosts, whose dialogues are part of the answer.
    pub(crate) hosts: Vec<String>,
    /// When that ends.
    pub(crate) until: Timestamp,
}

/// More names than can be followed at a time.
#[derive(Debug, thiserror::Error)]
#[error("{FOLLOWED_MAX} names are followed already; end one with staunch debug NAME --for 0s")]
pub(crate) struct TooManyDebugged;

#[derive(Debug)]
struct LogRules {
    levels: Targets,
    followed: Vec<DebuggedName>,
}

/// Decides what is logged; its clones are the same one.
#[derive(Clone, Debug)]
pub(super) struct LogFilter(Arc<RwLock<LogRules>>);

impl LogFilter {
    pub(super) fn new(levels: Targets) -> Self {
        Self(Arc::new(RwLock::new(LogRules { levels, followed: Vec::new() })))
    }

    /// Does the level alone, or a name that is followed, let this event through?
    pub(super) fn lets_through(&self, metadata: &Metadata<'_>, fields: &Fields) -> bool {
        let rules = read(&self.0);
        rules.has_level(metadata) || rules.followed.iter().any(|followed| followed.is_in(fields))
    }

    fn change<R>(&self, change: impl FnOnce(&mut LogRules) -> R) -> R {
        let result = change(&mut write(&self.0));
        // What call sites remember of the rules; the lock must be free, since they ask again.
        callsite::rebuild_interest_cache();
        result
    }
}

impl LogRules {
    fn has_level(&self, metadata: &Metadata<'_>) -> bool {
        self.levels.would_enable(metadata.target(), metadata.level())
    }

    /// Would it be of interest, were it about the right name?
    fn may_follow(&self, metadata: &Metadata<'_>) -> bool {
        !self.followed.is_empty() && is_ours(metadata.target()) && *metadata.level() <= Level::DEBUG
    }
}

/// Is it an event of staunch itself?
pub(super) fn is_ours(target: &str) -> bool {
    target == OWN_TARGET || target.starts_with("staunch::")
}

impl DebuggedName {
    /// Is one of the names in the event's fields this one, or below it, or one of its hosts?
    fn is_in(&self, fields: &Fields) -> bool {
        let values = NAME_FIELDS.into_iter().filter_map(|field| fields.get(field));
        let mut named = values.map(without_port);
        named.any(|value| {
            std::iter::once(&self.name).chain(&self.hosts).any(|name| is_at(value, name))
        })
    }
}

/// The name in `mx.example.net:25`, `192.0.2.1:25`, `[2001:db8::1]:25`.
fn without_port(value: &str) -> &str {
    if let Some((inside, _)) = value.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return inside;
    }
    match value.split_once(':') {
        // More of them: an address without brackets.
        Some((name, port)) if !port.contains(':') => name,
        Some(_) | None => value,
    }
}

/// Is it that name, or one below it?
fn is_at(value: &str, name: &str) -> bool {
    let start = value.len().checked_sub(name.len());
    let parts = start.and_then(|start| value.split_at_checked(start));
    parts.is_some_and(|(below, end)| {
        end.eq_ignore_ascii_case(name) && (below.is_empty() || below.ends_with('.'))
    })
}

impl<S: Subscriber> Filter<S> for LogFilter {
    fn enabled(&self, metadata: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        let rules = read(&self.0);
        rules.has_level(metadata) || rules.may_follow(metadata)
    }

    fn callsite_enabled(&self, metadata: &'static Metadata<'static>) -> Interest {
        let rules = read(&self.0);
        if rules.has_level(metadata) {
            Interest::always()
        } else if rules.may_follow(metadata) {
            Interest::sometimes()
        } else {
            Interest::never()
        }
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        let rules = read(&self.0);
        let levels = Filter::<S>::max_level_hint(&rules.levels)?;
        Some(if rules.followed.is_empty() { levels } else { levels.max(LevelFilter::DEBUG) })
    }
}

/// The way to change what is logged while the program runs.
#[derive(Clone, Debug)]
pub(crate) struct LogControl {
    filter: LogFilter,
    origin: LevelOrigin,
}

/// Where the level in effect is from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum LevelOrigin {
    /// The configuration.
    Configuration,
    /// The command line: the configuration's never counts.
    CommandLine,
}

impl LogControl {
    pub(super) fn new(filter: LogFilter, origin: LevelOrigin) -> Self {
        Self { filter, origin }
    }

    /// Makes `level`, which the configuration has, the one in effect.
    pub(crate) fn set(&self, level: &str) {
        if self.origin == LevelOrigin::CommandLine {
            return;
        }
        if let Ok(levels) = log_filter(level) {
            self.filter.change(|rules| rules.levels = levels);
        }
    }

    /// Logs all about this name until its end; an earlier order about it does not count any more.
    ///
    /// # Errors
    ///
    /// [`TooManyDebugged`].
    pub(crate) fn follow(&self, followed: DebuggedName) -> Result<(), TooManyDebugged> {
        self.filter.change(|rules| {
            rules.followed.retain(|other| other.name != followed.name);
            if rules.followed.len() >= FOLLOWED_MAX {
                return Err(TooManyDebugged);
            }
            rules.followed.push(followed);
            Ok(())
        })
    }

    /// Names the hosts of an order, if it still holds.
    pub(crate) fn add_hosts(&self, name: &str, until: Timestamp, hosts: &[String]) -> bool {
        self.filter.change(|rules| {
            let mut all = rules.followed.iter_mut();
            let order = all.find(|order| order.name == name && order.until == until);
            order.map(|order| order.hosts = hosts.to_vec()).is_some()
        })
    }

    /// Ends what was ordered about `name`: the order that ends at `until`, or any. Was there one?
    pub(crate) fn end(&self, name: &str, until: Option<Timestamp>) -> bool {
        let is_it = |followed: &DebuggedName| {
            followed.name == name && until.is_none_or(|until| followed.until == until)
        };
        self.filter.change(|rules| {
            let before = rules.followed.len();
            rules.followed.retain(|followed| !is_it(followed));
            rules.followed.len() < before
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_found_in_names_with_ports_and_below_it() {
        for (value, name) in [
            ("Far.test", "far.test"),
            ("mx.far.test", "far.test"),
            ("_mta-sts.far.test", "far.test"),
            ("far.test:25", "far.test"),
            ("[mx.far.test]:2525", "mx.far.test"),
            ("192.0.2.1:25", "192.0.2.1"),
            ("[2001:db8::1]:25", "2001:db8::1"),
            ("2001:db8::1", "2001:db8::1"),
        ] {
            assert!(is_at(without_port(value), name), "{value} {name}");
        }
        for (value, name) in [
            ("afar.test", "far.test"),
            ("far.test.example", "far.test"),
            ("test", "far.test"),
            ("192.0.2.11", "192.0.2.1"),
            ("2001:db8::11", "2001:db8::1"),
            ("\u{fc}.test", "\u{fc}\u{fc}.test"),
        ] {
            assert!(!is_at(without_port(value), name), "{value} {name}");
        }
    }
}
