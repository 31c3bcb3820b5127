//! How much of the disk may mail that arrives still take?
//!
//! The system is asked once in a while; between two looks a hundred clients could each begin a large message that fits by itself. So
//! what was announced, or has come, is promised: `limits.disk_free_min` stays free whatever all of them send. And no client is
//! promised more than half of what there is.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::budget::Borrower;

/// Our choice: octets that every message is promised if they are free, beside those that it announces. Nearly all mail is smaller, and
/// so is what we add to a message. A message of that size may be in memory.
const PROMISED_MIN: u64 = 64 * 1024;
/// How much more a message gets at a time that is larger than it said. Our choice.
const STEP: u64 = 1 << 20;
/// Up to so many octets a client is promised also where that is more than its part.
const ALWAYS: u64 = 4 << 20;

/// The free octets of the data directory.
#[derive(Debug)]
pub(crate) struct FreeSpace {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// As of the last look; none before the first.
    seen: Option<u64>,
    /// Of messages that were committed since then.
    since: u64,
    promised: u64,
    promised_to: HashMap<Borrower, u64>,
    /// Of what was promised, octets that have come, as far as they are on the disk; and how many these were at the last look, which
    /// are not free any more.
    come: u64,
    come_then: u64,
}

impl State {
    fn change(&mut self, client: &Borrower, before: u64, after: u64) {
        self.promised = self.promised - before + after;
        let own = self.promised_to.entry(client.clone()).or_default();
        *own = *own - before + after;
        if *own == 0 {
            self.promised_to.remove(client);
        }
    }

    /// May `client` be promised `more`?
    fn has(&self, client: &Borrower, more: u64, floor: u64) -> bool {
        let Some(seen) = self.seen else { return true };
        let promised = self.promised.saturating_sub(self.come_then);
        let left = seen.saturating_sub(self.since + promised).saturating_sub(floor);
        let own = self.promised_to.get(client).copied().unwrap_or_default();
        more <= left && own + more <= ((left + own) / 2).max(ALWAYS)
    }
}

impl FreeSpace {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { state: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// So many octets are free now.
    pub(crate) fn look(&self, free: u64) {
        let mut state = self.state();
        (state.seen, state.since, state.come_then) = (Some(free), 0, state.come);
    }

    /// As of the last look.
    pub(crate) fn seen(&self) -> u64 {
        self.state().seen.unwrap_or(u64::MAX)
    }

    /// Promises room for a message of `client` that is said to have `octets`, if `floor` is left besides.
    pub(crate) fn promise(
        self: &Arc<Self>,
        client: Borrower,
        octets: u64,
        floor: u64,
    ) -> Option<Promise> {
        let mut promise = Promise { space: Arc::clone(self), client, octets: 0, come: 0 };
        // With what we add to it.
        promise.raise(octets.saturating_add(PROMISED_MIN), floor).then_some(promise)
    }
}

/// Room on the disk for one message; given back when dropped.
#[derive(Debug)]
pub(crate) struct Promise {
    space: Arc<FreeSpace>,
    client: Borrower,
    octets: u64,
    /// Of these, on the disk.
    come: u64,
}

impl Promise {
    fn raise(&mut self, octets: u64, floor: u64) -> bool {
        let mut state = self.space.state();
        let has_room = state.has(&self.client, octets - self.octets, floor);
        if has_room {
            state.change(&self.client, self.octets, octets);
            self.octets = octets;
        }
        has_room
    }

    /// The message has grown to `octets`. `false` if there is no room for that.
    pub(crate) fn covers(&mut self, octets: u64, floor: u64) -> bool {
        let come = octets.saturating_sub(PROMISED_MIN);
        let mut state = self.space.state();
        state.come = state.come.saturating_sub(self.come) + come;
        self.come = come;
        drop(state);
        octets <= self.octets || self.raise(octets.saturating_add(STEP), floor)
    }

    /// The message is on the disk to stay, with so many octets.
    pub(crate) fn kept(self, octets: u64) {
        self.space.state().since += octets;
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        let mut state = self.space.state();
        state.change(&self.client, self.octets, 0);
        state.come = state.come.saturating_sub(self.come);
        state.come_then = state.come_then.saturating_sub(self.come);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::place::Place;

    const MIB: u64 = 1 << 20;
    const FLOOR: u64 = 256 * MIB;

    fn client(number: u32) -> Borrower {
        Borrower::Place(Place::Local(number))
    }

    fn space(mib: u64) -> Arc<FreeSpace> {
        let space = FreeSpace::new();
        space.look(mib * MIB);
        space
    }

    #[test]
    fn what_many_announce_never_goes_below_the_floor() {
        let space = space(256 + 100);
        let promises: Vec<_> =
            (0..50).filter_map(|n| space.promise(client(n), 9 * MIB, FLOOR)).collect();
        assert_eq!(promises.len(), 10, "the last 9 MiB are shared by smaller ones");
        assert!(space.promise(client(99), 3 * MIB, FLOOR).is_some());
        drop(promises);
        assert!(space.promise(client(99), 49 * MIB, FLOOR).is_some());
    }

    #[test]
    fn no_client_is_promised_more_than_half_of_what_there_is() {
        let space = space(256 + 100);
        let own: Vec<_> =
            (0..50).filter_map(|_| space.promise(client(1), 9 * MIB, FLOOR)).collect();
        assert_eq!(own.len(), 5);
        assert!(space.promise(client(2), 26 * MIB, FLOOR).is_some());
        assert!(space.promise(client(1), 0, FLOOR).is_some());
    }

    #[test]
    fn a_message_that_is_larger_than_it_said_gets_more_only_if_it_is_free() {
        let space = space(256 + 20);
        let mut own = space.promise(client(1), 0, FLOOR).unwrap();
        assert!(own.covers(PROMISED_MIN, FLOOR) && own.covers(3 * MIB, FLOOR));
        let _other = space.promise(client(2), 7 * MIB, FLOOR).unwrap();
        assert!(!own.covers(12 * MIB, FLOOR) && own.covers(3 * MIB, FLOOR));
    }

    #[test]
    fn what_was_kept_counts_until_the_next_look() {
        let space = space(256 + 10);
        for _ in 0..2 {
            space.promise(client(1), 3 * MIB, FLOOR).unwrap().kept(4 * MIB);
        }
        assert!(space.promise(client(2), 3 * MIB, FLOOR).is_none());
        space.look(FLOOR + 5 * MIB);
        assert!(space.promise(client(2), 3 * MIB, FLOOR).is_some());
        space.look(0);
        assert!(space.promise(client(2), 0, 0).is_none());
    }

    #[test]
    fn what_has_come_is_not_counted_twice() {
        let space = space(256 + 60);
        let mut own = space.promise(client(1), 28 * MIB, FLOOR).unwrap();
        assert!(own.covers(20 * MIB, FLOOR));
        space.look(FLOOR + 40 * MIB);
        assert!(space.promise(client(2), 15 * MIB, FLOOR).is_some());
        assert!(own.covers(28 * MIB, FLOOR), "as announced");
        drop(own);
        space.look(FLOOR + 60 * MIB);
        assert!(space.promise(client(2), 29 * MIB, FLOOR).is_some());
    }
}
