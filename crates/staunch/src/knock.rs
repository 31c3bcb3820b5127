//! Is a host back that could not be reached? It is knocked at, with TCP connections that say nothing: mail that waits for
//! it goes when it is back, and not when a wait of minutes is over.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use crate::connect::Connector;
use crate::pool::{Knocks, Pool, PoolKey};
use crate::relay::Relay;

/// Ours: from each failure to its first knock, and from one knock to the next. After two minutes the back-off of the next
/// hops is all there is.
const WAITS: [Duration; 7] = [
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(8),
    Duration::from_secs(16),
    Duration::from_secs(32),
    Duration::from_secs(64),
];

/// Knocks at the host of `key`, which has just failed, until it opens or somebody else finds out.
pub(crate) fn begin(relay: &Relay, key: &PoolKey, addresses: &[SocketAddr]) {
    let Some((knocks, permit)) = relay.pool.begin_knocks(key) else { return };
    let door = Door {
        pool: relay.pool.clone(),
        connector: relay.connector.clone(),
        key: Arc::new(key.clone()),
        addresses: addresses.to_vec(),
    };
    relay.tracker.spawn(async move {
        door.watch(knocks).await;
        drop(permit);
    });
}

struct Door {
    pool: Pool,
    connector: Connector,
    key: Arc<PoolKey>,
    addresses: Vec<SocketAddr>,
}

impl Door {
    async fn watch(self, knocks: Knocks) {
        for wait in WAITS {
            tokio::select! {
                () = self.pool.closed() => return,
                () = sleep(wait) => {}
            }
            // It may have failed again, and is knocked at because of that; or it was asked, and opened.
            if !self.pool.goes_on(&self.key, knocks) {
                return;
            }
            tokio::select! {
                () = self.pool.closed() => return,
                opens = self.connector.opens(&self.key, &self.addresses) => if opens {
                    return self.pool.note_open(&self.key);
                }
            }
        }
    }
}
