//! What notices may cost others: whoever forges a sender makes us write to somebody who sent nothing.
//!
//! One message of a megabyte to three hundred recipients that fail is three hundred megabytes if each notice carries it.
//! So it goes back once, with the first notice of a failure; the others have its header. And a sender gets so many notices an
//! hour (`dsn.rate_per_sender_per_hour`); what is beyond that is held, for an operator to look at.

use std::sync::{Mutex, PoisonError};

use smtp::Mailbox;
use spool::{MessageId, RecipientState};
use tokio::time::Instant;

use crate::config::Config;
use crate::rates::{NoticeRates, Rate};
use crate::recent::Recent;

/// Messages of which it is known that they went back in full: some hundred kilobytes. For one that is forgotten, as at a
/// restart, it happens once more.
const RETURNED_MAX: usize = 10_000;

/// What went out already.
#[derive(Debug)]
pub(crate) struct Restraint {
    returned: Mutex<Recent<MessageId, ()>>,
    rates: NoticeRates,
}

impl Default for Restraint {
    fn default() -> Self {
        Self { returned: Mutex::new(Recent::new(RETURNED_MAX)), rates: NoticeRates::default() }
    }
}

impl Restraint {
    /// Did the whole of `message` go back already?
    pub(super) fn has_gone_back(&self, message: MessageId) -> bool {
        self.returned.lock().unwrap_or_else(PoisonError::into_inner).get(&message).is_some()
    }

    /// The whole of it is on its way back.
    pub(super) fn goes_back(&self, message: MessageId) {
        self.returned.lock().unwrap_or_else(PoisonError::into_inner).set(message, ());
    }

    /// What becomes of one notice more to `sender`.
    pub(super) fn notice(&self, config: &Config, sender: &Mailbox) -> RecipientState {
        let rate = config
            .dsn
            .rate_per_sender_per_hour
            .map_or(Rate::Within, |max| self.rates.notice(sender, max, Instant::now()));
        match rate {
            Rate::Within => RecipientState::Queued,
            Rate::Over => RecipientState::Held,
        }
    }
}
