//! What is on the disk, what is only on its way there, and what a crash leaves of that.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use policy::clock::Mark;
use policy::sts::CachedPolicy;
use policy::sts::cache::{Listed, State, Stored};

use crate::world::Dom;

/// Both files.
#[derive(Clone, Debug, Default)]
pub(crate) struct Files {
    pub(crate) rows: BTreeMap<Dom, State>,
    pub(crate) damaged: BTreeSet<Dom>,
    pub(crate) list: BTreeMap<Dom, Listed>,
    pub(crate) mark: Option<Mark>,
}

/// A change of one of them.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    Row(Dom, Box<State>),
    Delete(Dom),
    List(Dom, Listed),
    Unlist(Dom),
    Mark(Box<Mark>),
}

impl Files {
    fn apply(&mut self, change: Change) {
        match change {
            Change::Row(domain, state) => {
                self.damaged.remove(&domain);
                self.rows.insert(domain, as_stored(&state));
            }
            Change::Delete(domain) => {
                self.damaged.remove(&domain);
                self.rows.remove(&domain);
            }
            Change::List(domain, entry) => {
                self.list.insert(domain, entry);
            }
            Change::Unlist(domain) => {
                self.list.remove(&domain);
            }
            Change::Mark(mark) => self.mark = Some(*mark),
        }
    }

    pub(crate) fn stored(&self, domain: &Dom) -> Stored {
        match self.rows.get(domain) {
            _ if self.damaged.contains(domain) => Stored::Damaged,
            Some(state) => Stored::Row(Box::new(state.clone())),
            None => Stored::Absent,
        }
    }

    /// All that can be read about `domain`.
    pub(crate) fn state(&self, domain: &Dom) -> State {
        let row = match self.stored(domain) {
            Stored::Row(state) => *state,
            Stored::Absent | Stored::Damaged => State::default(),
        };
        State { listed: self.list.get(domain).copied(), ..row }
    }
}

/// What a row keeps of it.
fn as_stored(state: &State) -> State {
    let kept = state.kept.as_ref().map(|kept| {
        let (id, body) = (kept.id().clone(), kept.body().as_bytes());
        let read = CachedPolicy::new(id, body, kept.fetched_at()).unwrap();
        Arc::new(read.until_at_least(kept.expires_at()))
    });
    State {
        kept,
        fleeting: None,
        listed: None,
        recent: State::recent_from_text(&state.recent_to_text()),
        alarms: State::alarms_from_text(&state.alarms_to_text()),
        ..state.clone()
    }
}

/// The disk.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    pub(crate) synced: Files,
    pending: Vec<Change>,
    pub(crate) is_full: bool,
}

impl Disk {
    pub(crate) fn begin(&mut self, change: Change) {
        self.pending.push(change);
    }

    /// Says whether what was begun is on the disk now.
    pub(crate) fn sync(&mut self) -> bool {
        let pending = std::mem::take(&mut self.pending);
        if self.is_full {
            return false;
        }
        pending.into_iter().for_each(|change| self.synced.apply(change));
        true
    }

    /// The first `keep` of what was on its way came there.
    pub(crate) fn crash(&mut self, keep: usize) {
        let mut pending = std::mem::take(&mut self.pending);
        pending.truncate(keep);
        pending.into_iter().for_each(|change| self.synced.apply(change));
    }
}
