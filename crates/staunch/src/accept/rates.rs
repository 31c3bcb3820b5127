//! How much one client hands in within a minute, and one sender within an hour.
//!
//! Counted in windows that begin with the first message: exact sums of the last hour would cost memory for each
//! message of it. A flood of clients or senders costs the memory of those seen least recently.

use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::place::Place;
use crate::recent::Recent;

/// Of `limits.messages_per_client_per_minute`.
const MINUTE: Duration = Duration::from_secs(60);
/// Of `limits.recipients_per_sender_per_hour`.
const HOUR: Duration = Duration::from_secs(60 * 60);
/// Clients and senders that are counted, each: some megabytes.
const COUNTED_MAX: usize = 10_000;

/// Whose recipients are counted together.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) enum Sender {
    /// Who logged in, whatever the address is.
    User(Box<str>),
    /// The address in MAIL FROM, as a `config::mailbox_key`.
    Address(Box<str>),
    /// Of mail without a sender.
    Client(Place),
}

/// Is one more within a limit?
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Rate {
    /// It is.
    Within,
    /// It is not.
    Over,
}

/// The counts.
#[derive(Debug)]
pub(super) struct Rates {
    messages: Mutex<Recent<Place, Window>>,
    recipients: Mutex<Recent<Sender, Window>>,
}

impl Default for Rates {
    fn default() -> Self {
        let (messages, recipients) = (Recent::new(COUNTED_MAX), Recent::new(COUNTED_MAX));
        Self { messages: Mutex::new(messages), recipients: Mutex::new(recipients) }
    }
}

#[derive(Clone, Copy, Debug)]
struct Window {
    since: Instant,
    count: u32,
}

impl Rates {
    /// One message more of `client`.
    pub(super) fn message(&self, client: Place, max: NonZeroU32, now: Instant) -> Rate {
        let mut messages = self.messages.lock().unwrap_or_else(PoisonError::into_inner);
        let mut window = open(messages.get(&client).copied(), MINUTE, now);
        if window.count >= max.get() {
            return Rate::Over;
        }
        window.count += 1;
        messages.set(client, window);
        Rate::Within
    }

    /// So many recipients more of `sender`. Those over the limit count too: whoever goes on sending stays over it.
    pub(super) fn recipients(
        &self,
        sender: Sender,
        more: u32,
        max: NonZeroU32,
        now: Instant,
    ) -> Rate {
        let mut recipients = self.recipients.lock().unwrap_or_else(PoisonError::into_inner);
        let mut window = open(recipients.get(&sender).copied(), HOUR, now);
        window.count = window.count.saturating_add(more);
        recipients.set(sender, window);
        if window.count > max.get() { Rate::Over } else { Rate::Within }
    }
}

/// The window that `now` is in.
fn open(window: Option<Window>, length: Duration, now: Instant) -> Window {
    window
        .filter(|window| now.saturating_duration_since(window.since) < length)
        .unwrap_or(Window { since: now, count: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn max(n: u32) -> NonZeroU32 {
        NonZeroU32::new(n).unwrap()
    }

    #[test]
    fn a_client_has_so_many_messages_a_minute() {
        let (rates, now) = (Rates::default(), Instant::now());
        let client = |n| Place::of([192, 0, 2, n].into());
        let second = Duration::from_secs(1);
        for _ in 0..3 {
            assert_eq!(rates.message(client(1), max(3), now), Rate::Within);
        }
        assert_eq!(rates.message(client(1), max(3), now + 59 * second), Rate::Over);
        assert_eq!(rates.message(client(2), max(3), now), Rate::Within, "another one");
        assert_eq!(rates.message(Place::Local(0), max(3), now), Rate::Within);
        assert_eq!(rates.message(client(1), max(3), now + MINUTE), Rate::Within);
    }

    #[test]
    fn a_sender_stays_over_the_limit_while_the_hour_lasts() {
        let (rates, now) = (Rates::default(), Instant::now());
        let sender = || Sender::User("anna".into());
        assert_eq!(rates.recipients(sender(), 90, max(100), now), Rate::Within);
        assert_eq!(rates.recipients(sender(), 20, max(100), now), Rate::Over);
        assert_eq!(rates.recipients(sender(), 1, max(100), now), Rate::Over);
        let address = Sender::Address("anna".into());
        assert_eq!(rates.recipients(address, 100, max(100), now), Rate::Within);
        assert_eq!(rates.recipients(sender(), 100, max(100), now + HOUR), Rate::Within);
    }
}
