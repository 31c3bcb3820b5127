//! How many fetches run at once: in all, and towards one neighbourhood of the network.
//!
//! A policy host that answers slowly holds one place for a minute. Somebody with many domains on few
//! hosts must not hold all of them.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Ours; at the default time-out still one fetch a second if all of them hang.
const ALL_MAX: usize = 64;
/// Ours; a hoster of many policies answers fast, so that four places are enough.
const BLOCK_MAX: usize = 4;
/// Blocks remembered before those not in use are dropped.
const BLOCKS_KEPT: usize = 256;

/// The /24 or /48 of an address: what one customer gets.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
enum Block {
    V4([u8; 3]),
    V6([u16; 3]),
}

impl Block {
    fn of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(ip) => {
                let [a, b, c, _] = ip.octets();
                Self::V4([a, b, c])
            }
            IpAddr::V6(ip) => {
                let [a, b, c, ..] = ip.segments();
                Self::V6([a, b, c])
            }
        }
    }
}

/// The places there are.
#[derive(Debug)]
pub(super) struct Limits {
    all: Arc<Semaphore>,
    blocks: Mutex<HashMap<Block, Weak<Semaphore>>>,
}

/// One fetch may run until this is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    _permits: Vec<OwnedSemaphorePermit>,
}

impl Default for Limits {
    fn default() -> Self {
        Self { all: Arc::new(Semaphore::new(ALL_MAX)), blocks: Mutex::default() }
    }
}

impl Limits {
    /// Waits for a place for a fetch that may connect to any of `addresses`.
    ///
    /// Blocks are taken in order, and the general place last, so that nobody holds what another
    /// needs while waiting for what that one holds, and who waits for a crowded block is in nobody
    /// else's way.
    pub(super) async fn turn(&self, addresses: &[IpAddr]) -> Turn {
        let blocks: BTreeSet<Block> = addresses.iter().copied().map(Block::of).collect();
        let mut permits = Vec::with_capacity(blocks.len() + 1);
        for block in blocks {
            permits.extend(self.block(block).acquire_owned().await.ok());
        }
        permits.extend(Arc::clone(&self.all).acquire_owned().await.ok());
        Turn { _permits: permits }
    }

    fn block(&self, block: Block) -> Arc<Semaphore> {
        let mut blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = blocks.get(&block).and_then(Weak::upgrade) {
            return known;
        }
        if blocks.len() >= BLOCKS_KEPT {
            blocks.retain(|_, semaphore| semaphore.strong_count() > 0);
        }
        let new = Arc::new(Semaphore::new(BLOCK_MAX));
        blocks.insert(block, Arc::downgrade(&new));
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn five_fetches_to_one_block_do_not_run_at_once_and_hold_nobody_up() {
        let limits = Limits::default();
        let crowd: Vec<_> = (0..4)
            .map(|host| limits.turn(&[IpAddr::from([8, 8, 8, host])]).now_or_never().unwrap())
            .collect();
        let addresses = [ip("8.8.8.9"), ip("9.9.9.9")];
        let mut fifth = Box::pin(limits.turn(&addresses));
        assert!(fifth.as_mut().now_or_never().is_none(), "the block is full");
        assert!(limits.turn(&[ip("8.8.9.1")]).now_or_never().is_some(), "the next one is not");
        assert_eq!(limits.all.available_permits(), ALL_MAX - 4, "who waits holds no general place");
        drop(crowd);
        assert!(fifth.now_or_never().is_some());
    }

    #[test]
    fn a_block_is_what_one_customer_gets() {
        let cases = [
            ("192.0.2.1", "192.0.2.254", true),
            ("192.0.2.1", "192.0.3.1", false),
            ("::ffff:192.0.2.1", "192.0.2.2", true),
            ("2001:db8:1::1", "2001:db8:1:ffff::1", true),
            ("2001:db8:1::1", "2001:db8:2::1", false),
        ];
        for (a, b, want) in cases {
            assert_eq!(Block::of(ip(a)) == Block::of(ip(b)), want, "{a} {b}");
        }
    }
}
