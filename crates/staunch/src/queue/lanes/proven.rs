//! Which registrable domains took mail lately?

use std::collections::HashMap;

use jiff::{SignedDuration, Timestamp};

use super::group::Group;

/// How long it counts that a domain took mail.
pub(crate) const PROOF_COUNTS: SignedDuration = SignedDuration::from_hours(7 * 24);
/// Our choice: it is noted again after this long.
const NOTED_EVERY: SignedDuration = SignedDuration::from_hours(24);
/// Our choice: so many are remembered; 40 octets each. Who is left out is a stranger.
pub(crate) const PROVEN_MAX: usize = 200_000;

/// Those that took mail, and when; to the day.
#[derive(Debug, Default)]
pub(super) struct ProvenGroups {
    took_mail: HashMap<Group, Timestamp>,
}

impl ProvenGroups {
    /// Did `group` take mail lately?
    pub(super) fn has(&self, group: Group, now: Timestamp) -> bool {
        self.took_mail.get(&group).is_some_and(|at| now.duration_since(*at) < PROOF_COUNTS)
    }

    /// It took mail now. Is that news, so that it should be written down?
    pub(super) fn note(&mut self, group: Group, now: Timestamp) -> bool {
        let age = self.took_mail.get(&group).map(|at| now.duration_since(*at));
        // What a clock that was ahead has noted is noted anew.
        if age.is_some_and(|age| age < NOTED_EVERY && !age.is_negative()) {
            return false;
        }
        if age.is_none() && self.took_mail.len() >= PROVEN_MAX {
            self.took_mail.retain(|_, at| now.duration_since(*at) < PROOF_COUNTS);
            if self.took_mail.len() >= PROVEN_MAX {
                return false;
            }
        }
        self.took_mail.insert(group, now);
        true
    }

    /// It took mail then, as was written down.
    pub(super) fn restore(&mut self, group: Group, at: Timestamp) {
        self.took_mail.insert(group, at);
    }

    /// That it took mail says nothing any more.
    pub(super) fn lose(&mut self, group: Group) {
        self.took_mail.remove(&group);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_counts_for_a_week_and_is_written_down_once_a_day() {
        let at = |hours: i64| Timestamp::from_second(hours * 3600).unwrap();
        let (group, mut proven) = (Group::of_name("a.test"), ProvenGroups::default());
        assert!(!proven.has(group, at(0)));
        assert!(proven.note(group, at(0)) && !proven.note(group, at(23)));
        assert!(proven.has(group, at(167)) && !proven.has(group, at(168)));
        assert!(proven.note(group, at(24)));
        assert!(proven.has(group, at(168)));
        assert!(proven.note(group, at(20)), "the clock was ahead");
        proven.lose(group);
        assert!(!proven.has(group, at(20)));
    }
}
