//! Whose turn is it? That of who holds least, and of those the one whose last turn was the longest
//! ago.

use std::collections::{BTreeMap, BTreeSet};

/// Those who take turns.
#[derive(Debug)]
pub(super) struct Turns<K> {
    entries: BTreeMap<K, TurnEntry>,
    /// Those who wait: what they hold, when they had their last turn, who.
    order: BTreeSet<(u32, u64, K)>,
    turns: u64,
}

/// One of them. It stays as long as it waits or holds something.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct TurnEntry {
    held: u32,
    /// When its last turn was, or it came.
    turn: u64,
    is_waiting: bool,
}

impl<K> Default for Turns<K> {
    fn default() -> Self {
        Self { entries: BTreeMap::new(), order: BTreeSet::new(), turns: 0 }
    }
}

impl<K: Copy + Ord> Turns<K> {
    /// `key` waits for a turn from now on.
    pub(super) fn wait(&mut self, key: K) {
        self.change(key, |entry| entry.is_waiting = true);
    }

    /// It wants nothing, or cannot have it.
    pub(super) fn rest(&mut self, key: K) {
        self.change(key, |entry| entry.is_waiting = false);
    }

    /// It got one, and the others have their turn.
    pub(super) fn hold(&mut self, key: K) {
        self.turns += 1;
        let turn = self.turns;
        self.change(key, |entry| (entry.held, entry.turn) = (entry.held + 1, turn));
    }

    /// It gave one back.
    pub(super) fn release(&mut self, key: K) {
        self.change(key, |entry| entry.held = entry.held.saturating_sub(1));
    }

    /// Whose turn it is, if they hold fewer than `most`.
    pub(super) fn next(&self, most: u32) -> Option<K> {
        self.order.first().filter(|(held, _, _)| *held < most).map(|(_, _, key)| *key)
    }

    /// How many it holds.
    pub(super) fn held(&self, key: K) -> u32 {
        self.entries.get(&key).map_or(0, |entry| entry.held)
    }

    /// Does anybody wait for a turn?
    pub(super) fn is_waiting(&self) -> bool {
        !self.order.is_empty()
    }

    /// Those who wait and hold `most` or more.
    pub(super) fn at_least(&self, most: u32) -> impl Iterator<Item = K> {
        self.order
            .iter()
            .rev()
            .take_while(move |(held, _, _)| *held >= most)
            .map(|(_, _, key)| *key)
    }

    /// Does nobody wait or hold anything?
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn change(&mut self, key: K, change: impl FnOnce(&mut TurnEntry)) {
        let turns = &mut self.turns;
        let entry = self.entries.entry(key).or_insert_with(|| {
            *turns += 1;
            TurnEntry { held: 0, turn: *turns, is_waiting: false }
        });
        let before = *entry;
        change(entry);
        let after = *entry;
        if before != after && before.is_waiting {
            self.order.remove(&(before.held, before.turn, key));
        }
        if before != after && after.is_waiting {
            self.order.insert((after.held, after.turn, key));
        }
        if !after.is_waiting && after.held == 0 {
            self.entries.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_holds_least_is_next_and_equals_take_turns() {
        let mut turns = Turns::default();
        for key in ["a", "b"] {
            turns.wait(key);
        }
        let mut order = Vec::new();
        for _ in 0..4 {
            let key = turns.next(10).unwrap();
            turns.hold(key);
            order.push(key);
        }
        assert_eq!(order, ["a", "b", "a", "b"]);
        turns.wait("c");
        for _ in 0..2 {
            assert_eq!(turns.next(10), Some("c"), "it holds fewer");
            turns.hold("c");
        }
        assert_eq!(turns.next(10), Some("a"));
        assert_eq!(turns.next(2), None, "nobody may have more");
        assert_eq!(turns.at_least(2).count(), 3);
        turns.release("b");
        assert_eq!(turns.next(2), Some("b"));
    }

    #[test]
    fn who_neither_waits_nor_holds_anything_is_forgotten() {
        let mut turns = Turns::default();
        turns.wait("a");
        turns.hold("a");
        turns.rest("a");
        assert!(!turns.is_waiting() && !turns.is_empty());
        turns.release("a");
        assert!(turns.is_empty() && turns.next(1).is_none());
    }
}
