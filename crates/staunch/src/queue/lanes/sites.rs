//! Lanes that wait for a connection to the same hosts, in turn.
//!
//! What waits for nothing else is never put off by a time: it stands here, holds no place, and goes
//! on as soon as whoever owns the connections says that there is room.

use std::collections::{HashMap, HashSet, VecDeque};

use spool::LaneKey;

use crate::connect::pool::Bottleneck;

/// The lanes, by what they wait for.
#[derive(Debug, Default)]
pub(super) struct Sites {
    lanes: HashMap<Bottleneck, VecDeque<LaneKey>>,
    /// Those that wait for their time, because a host lets nobody in.
    shut_out: HashMap<Bottleneck, HashSet<LaneKey>>,
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

    /// Takes out the lane that has waited longest there.
    pub(super) fn pop(&mut self, site: &Bottleneck) -> Option<LaneKey> {
        let lanes = self.lanes.get_mut(site)?;
        let lane = lanes.pop_front();
        if lanes.is_empty() {
            self.lanes.remove(site);
        }
        lane
    }

    /// `lane` waits for its time, because `host` lets nobody in.
    pub(super) fn shut_out(&mut self, host: &Bottleneck, lane: LaneKey) {
        self.shut_out.entry(host.clone()).or_default().insert(lane);
    }

    /// Does any lane wait because `host` lets nobody in?
    pub(super) fn is_shut(&self, host: &Bottleneck) -> bool {
        self.shut_out.contains_key(host)
    }

    /// Those that did, since it lets somebody in again.
    pub(super) fn let_in(&mut self, host: &Bottleneck) -> HashSet<LaneKey> {
        self.shut_out.remove(host).unwrap_or_default()
    }

    /// Does `lane` stand here?
    #[cfg(test)]
    pub(super) fn has(&self, lane: &LaneKey) -> bool {
        self.lanes.values().any(|lanes| lanes.contains(lane))
    }

    /// All that is waited for.
    pub(super) fn waited_for(&self) -> impl Iterator<Item = &Bottleneck> {
        self.lanes.keys().chain(self.shut_out.keys())
    }
}
