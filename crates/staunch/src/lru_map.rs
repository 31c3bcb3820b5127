//! A map of bounded size that forgets whoever was seen least recently.
//!
//! What strangers can make us remember (addresses, names, senders) lives in such maps: a flood
//! costs memory of others, never of the machine.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

/// At most so many keys with their values.
#[derive(Debug)]
pub(crate) struct LruMap<K, V> {
    max: usize,
    /// Grows with each look; the order in which keys were seen.
    tick: u64,
    values: HashMap<K, (u64, V)>,
    order: BTreeMap<u64, K>,
}

impl<K: Clone + Eq + Hash, V> LruMap<K, V> {
    /// An empty map for at most `max` keys.
    pub(crate) fn new(max: usize) -> Self {
        Self { max, tick: 0, values: HashMap::new(), order: BTreeMap::new() }
    }

    /// The value of `key`, which counts as seen.
    pub(crate) fn get(&mut self, key: &K) -> Option<&mut V> {
        let (seen, value) = self.values.get_mut(key)?;
        self.order.remove(seen);
        self.tick += 1;
        *seen = self.tick;
        self.order.insert(self.tick, key.clone());
        Some(value)
    }

    /// Sets the value of `key`, which counts as seen. The key seen least recently makes room.
    pub(crate) fn set(&mut self, key: K, value: V) {
        self.remove(&key);
        while self.values.len() >= self.max
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.values.remove(&oldest);
        }
        self.tick += 1;
        self.order.insert(self.tick, key.clone());
        self.values.insert(key, (self.tick, value));
    }

    /// Forgets `key` and its value, if they are there.
    pub(crate) fn remove(&mut self, key: &K) {
        if let Some((seen, _)) = self.values.remove(key) {
            self.order.remove(&seen);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_was_seen_least_recently_is_forgotten() {
        let mut recent = LruMap::new(2);
        recent.set("a", 1);
        recent.set("b", 2);
        assert_eq!(recent.get(&"a"), Some(&mut 1));
        recent.set("c", 3);
        assert_eq!(recent.get(&"b"), None, "a was seen later");
        recent.set("a", 4);
        assert_eq!(recent.get(&"a"), Some(&mut 4));
        assert_eq!(recent.values.len(), 2);
        for n in 0..1000 {
            recent.set("d", n);
            recent.set("e", n);
        }
        assert_eq!((recent.values.len(), recent.order.len()), (2, 2));
    }
}
