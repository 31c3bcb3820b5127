//! The tools of `check`: one for each kind of value, each noting what is wrong under its key.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::units::{self, YEAR};

/// Largest count accepted: over any number of descriptors or recipients that a machine has.
const COUNT_MAX: u32 = 1_000_000;
/// Largest size accepted, in bytes: 1 PiB.
const SIZE_MAX: u64 = 1 << 50;

/// Key and reason of what is wrong; where it stands is known to the caller.
pub(super) type Findings = Vec<(String, String)>;

/// What was found so far.
#[derive(Debug, Default)]
pub(super) struct Checker {
    /// Everything that is wrong, in the order of the checks.
    pub(super) findings: Findings,
}

/// A closed list of words.
pub(super) trait WordList: Copy + 'static {
    /// Every word with what it means.
    const WORDS: &'static [(&'static str, Self)];
}

impl Checker {
    pub(super) fn finding(&mut self, key: String, reason: String) {
        self.findings.push((key, reason));
    }

    pub(super) fn wrong(&mut self, key: String, value: &str, reason: impl Display) {
        self.finding(key, format!("{value:?}: {reason}"));
    }

    pub(super) fn accept<T, E: Display>(
        &mut self,
        key: &str,
        text: &str,
        parsed: Result<T, E>,
    ) -> Option<T> {
        parsed.map_err(|error| self.wrong(key.into(), text, error)).ok()
    }

    pub(super) fn parsed<T, E: Display>(
        &mut self,
        key: &str,
        text: &str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<T> {
        self.accept(key, text, parse(text))
    }

    /// As [`Checker::parsed`], where empty means unset.
    pub(super) fn optional<T, E: Display>(
        &mut self,
        key: &str,
        text: &str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<T> {
        if text.is_empty() { None } else { self.parsed(key, text, parse) }
    }

    pub(super) fn all<T, E: Display>(
        &mut self,
        key: &str,
        texts: &[String],
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Vec<T> {
        texts.iter().filter_map(|text| self.accept(key, text, parse(text))).collect()
    }

    pub(super) fn listed<T: WordList>(&mut self, key: &str, text: &str, fallback: T) -> T {
        if let Some((_, value)) = T::WORDS.iter().find(|(word, _)| *word == text) {
            return *value;
        }
        let words: Vec<&str> = T::WORDS.iter().map(|(word, _)| *word).collect();
        self.wrong(key.into(), text, format!("not one of: {}", words.join(", ")));
        fallback
    }

    pub(super) fn duration(
        &mut self,
        key: &str,
        text: &str,
        range: RangeInclusive<Duration>,
    ) -> Duration {
        let parsed = in_range(units::duration(text), &range, units::show_duration);
        self.accept(key, text, parsed).unwrap_or_default()
    }

    /// A wait that can be for ever, which is written as no time at all.
    pub(super) fn wait(&mut self, key: &str, text: &str) -> Option<Duration> {
        let wait = self.duration(key, text, Duration::ZERO..=YEAR);
        (!wait.is_zero()).then_some(wait)
    }

    pub(super) fn size(&mut self, key: &str, text: &str, min: u64) -> u64 {
        let range = min..=SIZE_MAX;
        let parsed = in_range(units::size(text), &range, units::show_size);
        self.accept(key, text, parsed).unwrap_or_default()
    }

    pub(super) fn count(&mut self, key: &str, value: u32) -> usize {
        let range = 1..=COUNT_MAX;
        let parsed = in_range(Ok::<_, String>(value), &range, |n| n.to_string());
        if let Err(reason) = &parsed {
            self.finding(key.into(), format!("{value}: {reason}"));
        }
        usize::try_from(parsed.unwrap_or_default()).unwrap_or(usize::MAX)
    }

    pub(super) fn port(&mut self, key: &str, value: u16) -> u16 {
        if value == 0 {
            self.finding(key.into(), "0: not in 1 to 65535".into());
        }
        value
    }

    pub(super) fn optional_path(&mut self, key: &str, text: &str) -> Option<PathBuf> {
        (!text.is_empty()).then(|| self.path(key, text))
    }

    /// Paths are absolute: the daemon, the command line and a service manager have different
    /// working directories.
    pub(super) fn path(&mut self, key: &str, text: &str) -> PathBuf {
        let path = PathBuf::from(text);
        if !path.is_absolute() {
            self.wrong(key.into(), text, "not an absolute path");
        }
        if text.contains(char::is_control) {
            self.wrong(key.into(), text, "has a control character");
        }
        path
    }
}

/// `value` if it is in `range`.
///
/// # Errors
///
/// What is wrong with it.
pub(super) fn in_range<T: Ord + Copy, E: Display>(
    value: Result<T, E>,
    range: &RangeInclusive<T>,
    show: impl Fn(T) -> String,
) -> Result<T, String> {
    let value = value.map_err(|error| error.to_string())?;
    if range.contains(&value) {
        return Ok(value);
    }
    Err(format!("not in {} to {}", show(*range.start()), show(*range.end())))
}
