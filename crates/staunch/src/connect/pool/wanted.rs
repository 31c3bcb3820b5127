//! What attempts wait for that others of ours have, and who is told when there is room.

use std::collections::HashSet;
use std::sync::Arc;

use smtp::HostName;

use super::places::PoolState;
use crate::connect::PoolKey;
use crate::connect::pool::Pool;
use crate::place::ClientPlace;

/// Connections of ours that are all in use.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Bottleneck {
    /// Those to one host.
    Host(Arc<PoolKey>),
    /// Those to the hosts of one registrable domain (`delivery.connections_per_site`).
    Site(HostName),
    /// Those to the hosts of one `[[limit]]`, by its place in the list.
    Limit(usize),
    /// Those to one address that never took mail.
    Address(ClientPlace),
}

/// Where room is waited for, and where there is some.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    wanted: HashSet<Bottleneck>,
    made: Vec<Bottleneck>,
}

impl Wanted {
    /// Whoever asks wants to hear of room there, once.
    pub(super) fn tell_of(&mut self, bottleneck: Bottleneck) {
        self.wanted.insert(bottleneck);
    }

    /// Does anybody want to hear of any?
    pub(super) fn is_empty(&self) -> bool {
        self.wanted.is_empty()
    }

    /// Does anybody want to hear of this one?
    pub(super) fn has(&self, bottleneck: &Bottleneck) -> bool {
        self.wanted.contains(bottleneck)
    }

    /// There is room now; counts only where it was wanted.
    pub(super) fn made(&mut self, bottleneck: Bottleneck) {
        if self.wanted.remove(&bottleneck) {
            self.made.push(bottleneck);
        }
    }

    /// There may be room anywhere.
    pub(super) fn all_made(&mut self) {
        self.made.extend(self.wanted.drain());
    }

    /// Where room was made since the last time.
    pub(super) fn take_made(&mut self) -> Vec<Bottleneck> {
        std::mem::take(&mut self.made)
    }

    /// Is there something to take?
    pub(super) fn has_made(&self) -> bool {
        !self.made.is_empty()
    }
}

impl Pool {
    /// Room for how many more attempts is at `bottleneck`? If there is none, [`Pool::room_made`]
    /// tells of it as soon as there is.
    pub(crate) fn room_at(&self, bottleneck: &Bottleneck) -> usize {
        let mut state = self.lock();
        let room = state.room_at(bottleneck);
        if room == 0 {
            state.wanted.tell_of(bottleneck.clone());
        }
        room
    }

    /// Tells of room at `bottleneck` as soon as somebody there gives some back.
    pub(crate) fn tell_of_room(&self, bottleneck: &Bottleneck) {
        self.lock().wanted.tell_of(bottleneck.clone());
    }

    /// Waits until there is room where it was asked for. May be dropped at any time.
    pub(crate) async fn room_made(&self) -> Vec<Bottleneck> {
        loop {
            self.shared.room_made.notified().await;
            let made = self.lock().wanted.take_made();
            if !made.is_empty() {
                return made;
            }
        }
    }

    /// Tells who wants to hear of it that something at `key` changed.
    pub(super) fn note_room(&self, state: &mut PoolState, key: &PoolKey) {
        if state.wanted.is_empty() {
            return;
        }
        let shared = state.shared(key);
        self.note_room_at(state, shared);
    }

    pub(super) fn note_room_at(&self, state: &mut PoolState, shared: Vec<Bottleneck>) {
        state.note_room(shared);
        if state.wanted.has_made() {
            self.shared.room_made.notify_one();
        }
    }
}
