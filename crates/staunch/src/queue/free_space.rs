//! How much of the disk may mail that arrives still take?
//!
//! The system is asked once in a while; between two looks a hundred clients could each begin a
//! large message that fits by itself. So what was announced, or has come, is reserved:
//! `limits.disk_free_min` stays free whatever all of them send. And no client is reserved more than
//! half of what there is.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::budget::Borrower;
use crate::lock::lock;

/// Our choice: octets that every message is reserved if they are free, beside those that it
/// announces. Nearly all mail is smaller, and so is what we add to a message. A message of that
/// size may be in memory.
const RESERVED_MIN: u64 = 64 * 1024;
/// How much more a message gets at a time that is larger than it said. Our choice.
const STEP: u64 = 1 << 20;
/// Up to so many octets a client is reserved also where that is more than its part.
const ALWAYS: u64 = 4 << 20;

/// The free octets of the data directory.
#[derive(Debug)]
pub(crate) struct FreeSpace {
    state: Mutex<SpaceState>,
}

#[derive(Debug, Default)]
struct SpaceState {
    /// As of the last look; none before the first.
    seen: Option<u64>,
    /// Of messages that were committed since then.
    since: u64,
    reserved: u64,
    reserved_by: HashMap<Borrower, u64>,
    /// Of what was reserved, octets that have come, as far as they are on the disk; and how many
    /// these were at the last look, which are not free any more.
    come: u64,
    come_then: u64,
}

impl SpaceState {
    fn change(&mut self, client: &Borrower, before: u64, after: u64) {
        self.reserved = self.reserved - before + after;
        let own = self.reserved_by.entry(client.clone()).or_default();
        *own = *own - before + after;
        if *own == 0 {
            self.reserved_by.remove(client);
        }
    }

    /// May `client` be reserved `more`?
    fn has(&self, client: &Borrower, more: u64, floor: u64) -> bool {
        let Some(seen) = self.seen else { return true };
        let reserved = self.reserved.saturating_sub(self.come_then);
        let left = seen.saturating_sub(self.since + reserved).saturating_sub(floor);
        let own = self.reserved_by.get(client).copied().unwrap_or_default();
        more <= left && own + more <= ((left + own) / 2).max(ALWAYS)
    }
}

impl FreeSpace {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { state: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, SpaceState> {
        lock(&self.state)
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

    /// Reserves room for a message of `client` that is said to have `octets`, if `floor` is left
    /// besides.
    pub(crate) fn reserve(
        self: &Arc<Self>,
        client: Borrower,
        octets: u64,
        floor: u64,
    ) -> Option<Reservation> {
        let mut reservation = Reservation { space: Arc::clone(self), client, octets: 0, come: 0 };
        // With what we add to it.
        reservation.raise(octets.saturating_add(RESERVED_MIN), floor).then_some(reservation)
    }
}

/// Room on the disk for one message; given back when dropped.
#[derive(Debug)]
pub(crate) struct Reservation {
    space: Arc<FreeSpace>,
    client: Borrower,
    octets: u64,
    /// Of these, on the disk.
    come: u64,
}

impl Reservation {
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
        let come = octets.saturating_sub(RESERVED_MIN);
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

impl Drop for Reservation {
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
    use crate::place::ClientPlace;

    const MIB: u64 = 1 << 20;
    const FLOOR: u64 = 256 * MIB;

    fn client(number: u32) -> Borrower {
        Borrower::Place(ClientPlace::Local(number))
    }

    fn space(mib: u64) -> Arc<FreeSpace> {
        let space = FreeSpace::new();
        space.look(mib * MIB);
        space
    }

    #[test]
    fn what_many_announce_never_goes_below_the_floor() {
        let space = space(256 + 100);
        let reservations: Vec<_> =
            (0..50).filter_map(|n| space.reserve(client(n), 9 * MIB, FLOOR)).collect();
        assert_eq!(reservations.len(), 10, "the last 9 MiB are shared by smaller ones");
        assert!(space.reserve(client(99), 3 * MIB, FLOOR).is_some());
        drop(reservations);
        assert!(space.reserve(client(99), 49 * MIB, FLOOR).is_some());
    }

    #[test]
    fn no_client_reserves_more_than_half_of_what_there_is() {
        let space = space(256 + 100);
        let own: Vec<_> =
            (0..50).filter_map(|_| space.reserve(client(1), 9 * MIB, FLOOR)).collect();
        assert_eq!(own.len(), 5);
        assert!(space.reserve(client(2), 26 * MIB, FLOOR).is_some());
        assert!(space.reserve(client(1), 0, FLOOR).is_some());
    }

    #[test]
    fn a_message_that_is_larger_than_it_said_gets_more_only_if_it_is_free() {
        let space = space(256 + 20);
        let mut own = space.reserve(client(1), 0, FLOOR).unwrap();
        assert!(own.covers(RESERVED_MIN, FLOOR) && own.covers(3 * MIB, FLOOR));
        let _other = space.reserve(client(2), 7 * MIB, FLOOR).unwrap();
        assert!(!own.covers(12 * MIB, FLOOR) && own.covers(3 * MIB, FLOOR));
    }

    #[test]
    fn what_was_kept_counts_until_the_next_look() {
        let space = space(256 + 10);
        for _ in 0..2 {
            space.reserve(client(1), 3 * MIB, FLOOR).unwrap().kept(4 * MIB);
        }
        assert!(space.reserve(client(2), 3 * MIB, FLOOR).is_none());
        space.look(FLOOR + 5 * MIB);
        assert!(space.reserve(client(2), 3 * MIB, FLOOR).is_some());
        space.look(0);
        assert!(space.reserve(client(2), 0, 0).is_none());
    }

    #[test]
    fn what_has_come_is_not_counted_twice() {
        let space = space(256 + 60);
        let mut own = space.reserve(client(1), 28 * MIB, FLOOR).unwrap();
        assert!(own.covers(20 * MIB, FLOOR));
        space.look(FLOOR + 40 * MIB);
        assert!(space.reserve(client(2), 15 * MIB, FLOOR).is_some());
        assert!(own.covers(28 * MIB, FLOOR), "as announced");
        drop(own);
        space.look(FLOOR + 60 * MIB);
        assert!(space.reserve(client(2), 29 * MIB, FLOOR).is_some());
    }
}
