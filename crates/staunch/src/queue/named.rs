//! Which damaged mail was named.

use std::collections::HashSet;
use std::sync::Mutex;

use crate::lock::lock;

/// Recipients that are remembered, so that each is named once. Ours; beyond it some are named
/// again.
const NAMED_MAX: usize = 100_000;

/// Who was named since the start.
#[derive(Debug, Default)]
pub(crate) struct Named {
    keys: Mutex<HashSet<i64>>,
}

impl Named {
    /// Was it not named yet? It is from now on.
    pub(super) fn is_news(&self, key: i64) -> bool {
        let mut keys = lock(&self.keys);
        if keys.len() >= NAMED_MAX {
            keys.clear();
        }
        keys.insert(key)
    }
}
