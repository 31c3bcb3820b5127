//! What DSNs may cost others: a forged sender makes us write to somebody that sent nothing.
//!
//! One message of a megabyte to three hundred recipients that fail is three hundred megabytes if
//! each DSN carries it. So it goes back once, with the first DSN of a failure; the others
//! have its header. And a sender gets so many DSNs an hour (`dsn.rate_per_sender_per_hour`);
//! what is beyond that is held, for an operator to look at.

use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard};

use report::{Action, Returned};
use smtp::Mailbox;
use spool::{MessageId, RecipientState};
use tokio::time::Instant;

use crate::lock::lock;
use crate::lru_map::LruMap;
use crate::queue::rates::{DsnRates, Rate};

/// Messages of which it is known that they went back in full: some hundred kilobytes. For one that
/// is forgotten, as at a restart, it happens once more.
const RETURNED_MAX: usize = 10_000;

/// What went out already.
#[derive(Debug)]
pub(crate) struct Restraint {
    returned: Mutex<LruMap<MessageId, ()>>,
    rates: DsnRates,
}

impl Default for Restraint {
    fn default() -> Self {
        Self { returned: Mutex::new(LruMap::new(RETURNED_MAX)), rates: DsnRates::default() }
    }
}

impl Restraint {
    fn returned(&self) -> MutexGuard<'_, LruMap<MessageId, ()>> {
        lock(&self.returned)
    }

    /// What one DSN more may be, where a sender gets `rate_max` an hour: is it sent, and does it
    /// carry all that is `wanted` of the message?
    pub(super) fn admit(
        self: &Arc<Self>,
        about: DsnKey,
        wanted: Returned,
        rate_max: Option<NonZeroU32>,
    ) -> Admission {
        let rate =
            rate_max.map(|max| self.rates.dsn((&about.sender, about.action), max, Instant::now()));
        let mut returned = self.returned();
        let returned = match wanted {
            Returned::Full if returned.get(&about.message).is_none() => {
                returned.set(about.message, ());
                Returned::Full
            }
            Returned::Full | Returned::Headers => Returned::Headers,
        };
        Admission { restraint: Arc::clone(self), about, rate, returned, is_kept: false }
    }
}

/// What a DSN is about and where it goes, for its limits.
#[derive(Clone, Debug)]
pub(super) struct DsnKey {
    /// The message that it is about.
    pub(super) message: MessageId,
    /// Where the DSN goes: the sender of that message.
    pub(super) sender: Mailbox,
    /// What happened there (Action, RFC 3464 §2.3.3).
    pub(super) action: Action,
}

/// What a DSN may be. It counts if it is kept, and not if it could not be written.
#[derive(Debug)]
pub(crate) struct Admission {
    restraint: Arc<Restraint>,
    about: DsnKey,
    /// None where nothing is counted.
    rate: Option<Rate>,
    returned: Returned,
    is_kept: bool,
}

impl Admission {
    /// Is it sent, or held?
    pub(super) fn state(&self) -> RecipientState {
        match self.rate {
            Some(Rate::Over) => RecipientState::Held,
            Some(Rate::Within) | None => RecipientState::Queued,
        }
    }

    /// What it carries of the message.
    pub(super) fn returned(&self) -> Returned {
        self.returned
    }

    /// The whole of the message cannot travel in it.
    pub(super) fn without_content(&mut self) {
        self.forget_content();
        self.returned = Returned::Headers;
    }

    fn forget_content(&self) {
        if self.returned == Returned::Full {
            self.restraint.returned().remove(&self.about.message);
        }
    }

    /// It is in the store.
    pub(super) fn kept(mut self) {
        self.is_kept = true;
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        if self.is_kept {
            return;
        }
        self.forget_content();
        if self.rate == Some(Rate::Within) {
            let counted = (&self.about.sender, self.about.action);
            self.restraint.rates.take_back(counted, Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_message_goes_back_once_and_only_what_is_kept_counts() {
        let restraint = Arc::new(Restraint::default());
        let about = || DsnKey {
            message: MessageId::from_u128(1),
            sender: Mailbox::parse("anna@x.test").unwrap(),
            action: Action::Failed,
        };
        let admit = || restraint.admit(about(), Returned::Full, NonZeroU32::new(2));
        for _ in 0..5 {
            let first = admit();
            assert_eq!((first.returned(), first.state()), (Returned::Full, RecipientState::Queued));
            let second = admit();
            assert_eq!(second.returned(), Returned::Headers, "at the same time");
        }
        let mut first = admit();
        first.without_content();
        first.kept();
        let second = admit();
        assert_eq!(second.returned(), Returned::Full, "the first one did not carry it");
        second.kept();
        let third = admit();
        assert_eq!((third.returned(), third.state()), (Returned::Headers, RecipientState::Held));
    }
}
