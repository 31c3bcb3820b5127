//! How much one client hands in within a minute, and one sender within an hour; and how many
//! DSNs a sender gets.
//!
//! Counted in windows that begin with the first message: exact sums of the last hour would cost
//! memory for each message of it. A flood of clients or senders costs the memory of those seen
//! least recently.

use std::hash::Hash;
use std::num::NonZeroU32;
use std::sync::Mutex;
use std::time::Duration;

use report::Action;
use smtp::Mailbox;
use tokio::time::Instant;

use crate::config::mailbox_key;
use crate::lock::lock;
use crate::lru_map::LruMap;
use crate::place::ClientPlace;

/// The window of `limits.messages_per_client_per_minute`.
const MINUTE: Duration = Duration::from_secs(60);
/// Of `limits.recipients_per_sender_per_hour` and `dsn.rate_per_sender_per_hour`.
const HOUR: Duration = Duration::from_secs(60 * 60);
/// Clients and senders that are counted, each: some megabytes.
const COUNTED_MAX: usize = 10_000;

/// Whose recipients are counted together.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Sender {
    /// Who logged in, whatever the address is.
    User(Box<str>),
    /// The address in MAIL FROM, as a `config::mailbox_key`.
    Address(Box<str>),
    /// Of mail without a sender.
    Client(ClientPlace),
}

/// Is one more within a limit?
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Rate {
    /// One more is within the limit.
    Within,
    /// One more is too many: it is refused or held.
    Over,
}

/// Counts by key, each in windows of its own.
#[derive(Debug)]
struct Windows<K> {
    length: Duration,
    of: Mutex<LruMap<K, Window>>,
}

#[derive(Clone, Copy, Debug)]
struct Window {
    since: Instant,
    count: u32,
}

impl<K: Clone + Eq + Hash> Windows<K> {
    fn new(length: Duration) -> Self {
        Self { length, of: Mutex::new(LruMap::new(COUNTED_MAX)) }
    }

    /// Counts as `counting` says, which sees what was counted in this window.
    fn count<T>(&self, key: K, now: Instant, counting: impl FnOnce(&mut u32) -> T) -> T {
        let mut of = lock(&self.of);
        let open = of
            .get(&key)
            .copied()
            .filter(|window| now.saturating_duration_since(window.since) < self.length);
        let mut window = open.unwrap_or(Window { since: now, count: 0 });
        let result = counting(&mut window.count);
        of.set(key, window);
        result
    }
}

/// What is handed in.
#[derive(Debug)]
pub(crate) struct Rates {
    messages: Windows<ClientPlace>,
    recipients: Windows<Sender>,
}

impl Default for Rates {
    fn default() -> Self {
        Self { messages: Windows::new(MINUTE), recipients: Windows::new(HOUR) }
    }
}

impl Rates {
    /// One message more of `client`.
    pub(crate) fn message(&self, client: ClientPlace, max: NonZeroU32, now: Instant) -> Rate {
        self.messages.count(client, now, |count| one_more(count, max))
    }

    /// So many recipients more of `sender`. Those over the limit count too: whoever goes on sending
    /// stays over it.
    pub(crate) fn recipients(
        &self,
        sender: Sender,
        more: u32,
        max: NonZeroU32,
        now: Instant,
    ) -> Rate {
        self.recipients.count(sender, now, |count| {
            *count = count.saturating_add(more);
            if *count > max.get() { Rate::Over } else { Rate::Within }
        })
    }
}

/// The DSNs that senders get, by the address; those of failures apart from others, so that a
/// host that is down for long does not use up what failures may have.
#[derive(Debug)]
pub(crate) struct DsnRates(Windows<(Box<str>, Action)>);

impl Default for DsnRates {
    fn default() -> Self {
        Self(Windows::new(HOUR))
    }
}

impl DsnRates {
    /// One DSN more to `sender`.
    pub(crate) fn dsn(
        &self,
        (sender, action): (&Mailbox, Action),
        max: NonZeroU32,
        now: Instant,
    ) -> Rate {
        self.0.count((mailbox_key(sender).into(), action), now, |count| one_more(count, max))
    }

    /// It was not sent.
    pub(crate) fn take_back(&self, (sender, action): (&Mailbox, Action), now: Instant) {
        let key = (mailbox_key(sender).into(), action);
        self.0.count(key, now, |count| *count = count.saturating_sub(1));
    }
}

/// What is over the limit does not count.
fn one_more(count: &mut u32, max: NonZeroU32) -> Rate {
    if *count >= max.get() {
        return Rate::Over;
    }
    *count += 1;
    Rate::Within
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
        let client = |n| ClientPlace::of([192, 0, 2, n].into());
        let second = Duration::from_secs(1);
        for _ in 0..3 {
            assert_eq!(rates.message(client(1), max(3), now), Rate::Within);
        }
        assert_eq!(rates.message(client(1), max(3), now + 59 * second), Rate::Over);
        assert_eq!(rates.message(client(2), max(3), now), Rate::Within, "another one");
        assert_eq!(rates.message(ClientPlace::Local(0), max(3), now), Rate::Within);
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

    #[test]
    fn a_sender_has_so_many_notices_an_hour_whatever_is_over_it() {
        let (rates, now) = (DsnRates::default(), Instant::now());
        let dsn = |sender: &str, now| {
            rates.dsn((&Mailbox::parse(sender).unwrap(), Action::Failed), max(2), now)
        };
        let hour: Vec<_> = (0..4).map(|_| dsn("anna@x.test", now)).collect();
        assert_eq!(hour, [Rate::Within, Rate::Within, Rate::Over, Rate::Over]);
        assert_eq!(dsn("bert@x.test", now), Rate::Within);
        assert_eq!(dsn("anna@X.TEST", now), Rate::Over, "domains have no case");
        let anna = Mailbox::parse("anna@x.test").unwrap();
        let delay = rates.dsn((&anna, Action::Delayed), max(2), now);
        assert_eq!(delay, Rate::Within, "of another kind");
        rates.take_back((&anna, Action::Failed), now);
        assert_eq!(dsn("anna@x.test", now), Rate::Within);
        assert_eq!(dsn("anna@x.test", now + HOUR), Rate::Within);
    }
}
