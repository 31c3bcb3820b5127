//! Lanes that wait for a connection to the same hosts, in turn.
//!
//! What waits for nothing else is never put off by a time: it stands here, holds no place, and goes on as soon
//! as whoever owns the connections says that there is room.

use std::collections::{HashMap, VecDeque};

use spool::LaneKey;

use crate::pool::Bottleneck;

/// The lanes, by what they wait for.
#[derive(Debug, Default)]
pub(super) struct Sites {
    lanes: HashMap<Bottleneck, VecDeque<LaneKey>>,
}

impl Sites {
    /// Does anybody wait for `site`?
    pub(super) fn is_waited_for(&self, site: &Bottleneck) -> bool {
        self.lanes.contains_key(site)
    }

    /// Behind all others there.
    pub(super) fn push(&mut self, site: &Bottleneck, lane: LaneKey) {
        self.lanes.entry(site.clone()).or_default().push_back(lane);
    }

    /// The next one.
    pub(super) fn pop(&mut self, site: &Bottleneck) -> Option<LaneKey> {
        let lanes = self.lanes.get_mut(site)?;
        let lane = lanes.pop_front();
        if lanes.is_empty() {
            self.lanes.remove(site);
        }
        lane
    }

    /// Does `lane` stand here?
    #[cfg(test)]
    pub(super) fn has(&self, lane: &LaneKey) -> bool {
        self.lanes.values().any(|lanes| lanes.contains(lane))
    }

    /// All that is waited for.
    pub(super) fn waited_for(&self) -> impl Iterator<Item = &Bottleneck> {
        self.lanes.keys()
    }
}
