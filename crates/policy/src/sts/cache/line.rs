//! Lists of [`State`] as lines of text, for the store.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::Alarm;
use super::state::{FETCHES_PER_HOUR, RecentFetch, State};
use crate::sts::record::Id;

impl State {
    /// The recent fetches as one line for the store.
    pub fn recent_to_text(&self) -> String {
        let each = |fetch: &RecentFetch| {
            let sign = if fetch.failed { '-' } else { '+' };
            format!("{}{sign}{}", fetch.at.as_second(), fetch.id)
        };
        self.recent.iter().map(each).collect::<Vec<_>>().join(" ")
    }

    /// Reads [`State::recent_to_text`] back; what cannot be read is left out, which allows a fetch.
    pub fn recent_from_text(text: &str) -> Vec<RecentFetch> {
        let recent_fetch = |text: &str| {
            let at = text.rfind(['+', '-'])?;
            let (seconds, rest) = text.split_at_checked(at)?;
            let at = Timestamp::from_second(seconds.parse().ok()?).ok()?;
            let failed = rest.starts_with('-');
            Some(RecentFetch { at, id: Id::parse(rest.get(1..)?)?, failed })
        };
        text.split(' ').filter_map(recent_fetch).take(FETCHES_PER_HOUR).collect()
    }

    /// The alarms as one line for the store.
    pub fn alarms_to_text(&self) -> String {
        self.alarms.iter().map(|alarm| alarm.as_str()).collect::<Vec<_>>().join(" ")
    }

    /// Reads [`State::alarms_to_text`] back; words it does not know are left out.
    pub fn alarms_from_text(text: &str) -> BTreeSet<Alarm> {
        let alarm = |word: &str| Alarm::ALL.into_iter().find(|alarm| alarm.as_str() == word);
        text.split(' ').filter_map(alarm).collect()
    }
}
