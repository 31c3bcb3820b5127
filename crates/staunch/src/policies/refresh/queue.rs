//! Who is refreshed next: of the owners that do not have too many under way, the one whose policy
//! ends soonest.

use std::collections::{BTreeSet, HashMap, HashSet};

use jiff::Timestamp;
use smtp::HostName;

/// Our choice: refreshes of one owner at once, however many policies he has.
const OWNER_AT_ONCE: usize = 4;

/// A policy that is to be fetched.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct DueRefresh {
    /// The policy domain; in the queue at most once.
    pub(super) domain: HostName,
    /// The registrable domain, which shares [`OWNER_AT_ONCE`].
    pub(super) owner: HostName,
    /// When the policy ends.
    pub(super) expires_at: Timestamp,
    /// Did the policy host fail to answer last time?
    pub(super) is_silent: bool,
}

/// What is due, and who has how much under way.
#[derive(Debug, Default)]
pub(super) struct RefreshQueue {
    owners: HashMap<HostName, RefreshOwner>,
    /// Owners with something due and a place, by what ends soonest.
    ready: BTreeSet<(Timestamp, HostName)>,
    /// What is due or under way: found once more it is no news.
    known: HashSet<HostName>,
}

#[derive(Debug, Default)]
struct RefreshOwner {
    due: BTreeSet<(Timestamp, HostName)>,
    under_way: usize,
}

impl RefreshOwner {
    /// By what it stands among the ready ones, if it does.
    fn rank(&self) -> Option<Timestamp> {
        let first = self.due.first().map(|(expires_at, _)| *expires_at);
        first.filter(|_| self.under_way < OWNER_AT_ONCE)
    }
}

impl RefreshQueue {
    /// Adds what is due; what is known already stays where it is.
    pub(super) fn extend(&mut self, due: Vec<DueRefresh>) {
        for DueRefresh { domain, owner, expires_at, .. } in due {
            if self.known.insert(domain.clone()) {
                self.change(&owner, |of| {
                    of.due.insert((expires_at, domain));
                });
            }
        }
    }

    /// The next one; it is under way until [`RefreshQueue::done`].
    pub(super) fn next(&mut self) -> Option<DueRefresh> {
        let (_, owner) = self.ready.first().cloned()?;
        let mut next = None;
        self.change(&owner, |of| {
            next = of.due.pop_first();
            of.under_way += 1;
        });
        let (expires_at, domain) = next?;
        Some(DueRefresh { domain, owner, expires_at, is_silent: false })
    }

    /// `domain` of this owner is not under way any more.
    pub(super) fn done(&mut self, domain: &HostName, owner: &HostName) {
        self.known.remove(domain);
        self.change(owner, |of| of.under_way = of.under_way.saturating_sub(1));
    }

    fn change(&mut self, owner: &HostName, change: impl FnOnce(&mut RefreshOwner)) {
        let of = self.owners.entry(owner.clone()).or_default();
        if let Some(rank) = of.rank() {
            self.ready.remove(&(rank, owner.clone()));
        }
        change(of);
        if let Some(rank) = of.rank() {
            self.ready.insert((rank, owner.clone()));
        }
        if of.due.is_empty() && of.under_way == 0 {
            self.owners.remove(owner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(domain: &str, owner: &str, second: i64) -> DueRefresh {
        let [domain, owner] = [domain, owner].map(|name| HostName::parse(name).unwrap());
        let expires_at = Timestamp::from_second(second).unwrap();
        DueRefresh { domain, owner, expires_at, is_silent: false }
    }

    fn names(queue: &mut RefreshQueue, count: usize) -> Vec<String> {
        (0..count).map_while(|_| queue.next()).map(|due| due.domain.to_string()).collect()
    }

    fn done(queue: &mut RefreshQueue, domain: &str, owner: &str) {
        let [domain, owner] = [domain, owner].map(|name| HostName::parse(name).unwrap());
        queue.done(&domain, &owner);
    }

    #[test]
    fn what_ends_soonest_is_next_and_no_owner_takes_all_places() {
        let mut queue = RefreshQueue::default();
        let many = (0..1000).map(|n| due(&format!("d{n:03}.evil.test"), "evil.test", n)).collect();
        queue.extend(many);
        queue.extend(vec![due("b.test", "b.test", 5000), due("a.test", "a.test", 4000)]);
        let first = ["d000.evil.test", "d001.evil.test", "d002.evil.test", "d003.evil.test"];
        assert_eq!(names(&mut queue, 10), [&first[..], &["a.test", "b.test"]].concat());
        done(&mut queue, "d000.evil.test", "evil.test");
        assert_eq!(names(&mut queue, 10), ["d004.evil.test"]);
    }

    #[test]
    fn what_is_found_again_while_it_waits_waits_once() {
        let mut queue = RefreshQueue::default();
        for _ in 0..3 {
            queue.extend(vec![due("a.test", "a.test", 1)]);
        }
        assert_eq!(names(&mut queue, 3), ["a.test"]);
        queue.extend(vec![due("a.test", "a.test", 1)]);
        assert!(names(&mut queue, 3).is_empty(), "it is under way");
        done(&mut queue, "a.test", "a.test");
        queue.extend(vec![due("a.test", "a.test", 1)]);
        assert_eq!(names(&mut queue, 3), ["a.test"], "it is due again");
        done(&mut queue, "a.test", "a.test");
        assert!(queue.owners.is_empty() && queue.ready.is_empty() && queue.known.is_empty());
    }
}
