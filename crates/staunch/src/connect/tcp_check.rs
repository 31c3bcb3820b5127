//! Is a host back that could not be reached, and that mail waits for? It is checked with TCP
//! connections that say nothing: the mail goes when the host is back, and not when a wait of
//! minutes is over.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::task::TaskTracker;

use crate::connect::pool::Pool;
use crate::connect::{Connector, PoolKey};

/// Our choice: from each failure to its first check, and from one check to the next. After two
/// minutes the back-off of the next hops is all there is.
const WAITS: [Duration; 7] = [
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(8),
    Duration::from_secs(16),
    Duration::from_secs(32),
    Duration::from_secs(64),
];

/// Checks the host of `key`, which has failed and which mail waits for, until it accepts TCP or
/// somebody else finds out.
pub(crate) fn begin(pool: &Pool, connector: &Connector, tracker: &TaskTracker, key: &Arc<PoolKey>) {
    let Some(begun) = pool.begin_checks(key) else { return };
    let (pool, connector, key) = (pool.clone(), connector.clone(), Arc::clone(key));
    tracker.spawn(async move {
        for wait in WAITS {
            tokio::select! {
                () = pool.closed() => return,
                () = sleep(wait) => {}
            }
            // It may have failed again, and is checked because of that; or it was asked, and there
            // was a session.
            if !pool.goes_on(&key, begun.round) {
                return;
            }
            tokio::select! {
                () = pool.closed() => return,
                is_back = connector.accepts_tcp(&key, &begun.addresses) => if is_back {
                    return pool.note_open(&key);
                }
            }
        }
    });
}
