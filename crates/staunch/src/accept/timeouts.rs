//! When is a client too slow?
//!
//! Not the wait between two octets counts but that for a whole command line, or for a block of
//! content: whoever sends an octet a minute to keep a place gets no more time than who sends
//! nothing.

use std::time::Duration;

use tokio::time::Instant;

/// Content that has to come within one `limits.client_timeout`. Our choice: with its default a
/// message still passes at 218 octets a second, a tenth of what the slowest links in use carry.
const BLOCK_OCTETS: usize = 64 * 1024;

/// The time that a client has.
#[derive(Clone, Copy, Debug)]
pub(super) struct ClientTimeouts {
    /// For a command, or a block of content.
    limit: Duration,
    deadline: Instant,
    /// Octets of the present block that have come.
    block: usize,
}

impl ClientTimeouts {
    /// The first command, or block, has `limit` from `now` on.
    pub(super) fn new(now: Instant, limit: Duration) -> Self {
        Self { limit, deadline: now + limit, block: 0 }
    }

    /// When it is over.
    pub(super) fn deadline(self) -> Instant {
        self.deadline
    }

    /// A command was complete and has its answer; for the next one `limit` holds.
    pub(super) fn answered(&mut self, now: Instant, limit: Duration) {
        *self = Self::new(now, limit);
    }

    /// So many `octets` of content came: with a full block the limit begins anew.
    pub(super) fn content(&mut self, octets: usize, now: Instant) {
        self.block = self.block.saturating_add(octets);
        if self.block >= BLOCK_OCTETS {
            *self = Self::new(now, self.limit);
        }
    }
}

/// How long all of a TLS handshake may take. Our choice: some round trips on the worst link there
/// is.
pub(super) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a listed proxy has for its header, which it sends at once. Our choice.
pub(super) const PROXY_HEADER_TIMEOUT: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn a_client_has_its_time_from_the_last_answer_on() {
        let start = Instant::now();
        let mut pace = ClientTimeouts::new(start, 5 * MINUTE);
        assert_eq!(pace.deadline() - start, 5 * MINUTE);
        pace.answered(start + 4 * MINUTE, 5 * MINUTE);
        assert_eq!(pace.deadline() - start, 9 * MINUTE);
        pace.answered(start + 5 * MINUTE, MINUTE);
        assert_eq!(pace.deadline() - start, 6 * MINUTE, "a reload shortened it");
    }

    /// Feeds `octets` a second; how long until the time is over, if it ever is within `total`
    /// octets.
    fn fails_after(octets_per_second: usize, total: usize) -> Option<Duration> {
        let start = Instant::now();
        let (mut pace, mut now, mut sent) = (ClientTimeouts::new(start, 5 * MINUTE), start, 0);
        while sent < total {
            now += SECOND;
            if now > pace.deadline() {
                return Some(now - start);
            }
            sent += octets_per_second;
            pace.content(octets_per_second, now);
        }
        None
    }

    #[test]
    fn content_has_to_come_block_by_block() {
        assert_eq!(fails_after(10 * 1024, 50 << 20), None, "slow but honest");
        assert_eq!(fails_after(250, 50 << 20), None);
        assert_eq!(fails_after(200, 50 << 20), Some(5 * MINUTE + SECOND));
        assert_eq!(fails_after(1, 50 << 20), Some(5 * MINUTE + SECOND));
        assert_eq!(fails_after(1, 200), None, "what is complete in time is in time");
    }
}
