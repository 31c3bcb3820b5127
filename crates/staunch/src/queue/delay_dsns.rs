//! Whose senders are being told that mail waits.

use std::collections::HashSet;
use std::sync::Mutex;

use spool::LaneKey;

use crate::lock::lock;

/// Lanes whose senders are being told that mail waits.
#[derive(Debug, Default)]
pub(crate) struct DelayDsns {
    lanes: Mutex<HashSet<LaneKey>>,
}

/// One of them, as long as this lives.
pub(super) struct LaneTold<'a> {
    delay_dsns: &'a DelayDsns,
    lane: &'a LaneKey,
}

impl DelayDsns {
    /// The senders of `lane` are being told, until what is returned is dropped; `None`: they are
    /// already.
    pub(super) fn begin<'a>(&'a self, lane: &'a LaneKey) -> Option<LaneTold<'a>> {
        let is_new = lock(&self.lanes).insert(lane.clone());
        is_new.then_some(LaneTold { delay_dsns: self, lane })
    }
}

impl Drop for LaneTold<'_> {
    fn drop(&mut self) {
        lock(&self.delay_dsns.lanes).remove(self.lane);
    }
}
