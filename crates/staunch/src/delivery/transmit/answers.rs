//! Which recipients have a reply, and which go into the next transaction of a session.

use smtp::ReplyClass;
use smtp::client::{Addressee, RecipientReply, Stage};

use super::transmitted::{TransactionError, Transmitted};
use crate::connect::connection::Connection;
use crate::connect::pool::Idle;

/// The recipients of one transaction.
pub(super) struct RecipientBatch<'a> {
    /// Their places in the envelope.
    places: Vec<usize>,
    pub(super) addressees: Vec<Addressee<'a>>,
}

/// What is known about the recipients so far.
pub(super) struct RecipientAnswers {
    fates: Vec<Option<RecipientReply>>,
    /// Places of those who are still to be asked.
    left: Vec<usize>,
    /// How many the host was seen to take in one transaction.
    most: usize,
    /// That, by answers that do not say so.
    is_guessed: bool,
}

impl RecipientAnswers {
    pub(super) fn new(recipients: usize) -> Self {
        Self {
            fates: vec![None; recipients],
            left: (0..recipients).collect(),
            most: usize::MAX,
            is_guessed: false,
        }
    }

    /// The recipients of the next transaction, if there is one.
    pub(super) fn next_batch<'a>(
        &self,
        connection: &mut Connection,
        recipients: &[Addressee<'a>],
    ) -> Option<RecipientBatch<'a>> {
        let left = self.left.iter().take(self.most);
        let wanted =
            left.filter_map(|&place| Some((place, recipients.get(place)?.mailbox.domain())));
        let places = connection.fitting(wanted);
        let addressees: Vec<_> =
            places.iter().filter_map(|&place| recipients.get(place).copied()).collect();
        (!addressees.is_empty()).then_some(RecipientBatch { places, addressees })
    }

    /// What was answered to the recipients of `batch`.
    pub(super) fn note(&mut self, batch: &RecipientBatch<'_>, fates: Vec<Option<RecipientReply>>) {
        let accepted = fates.iter().flatten().filter(|fate| is_accepted(fate)).count();
        let about_all = fates.iter().flatten().find(|fate| is_about_all(fate)).cloned();
        // If not even one was taken, "too many" is a refusal like any other.
        let too_many_from = if accepted > 0 { too_many_from(&fates) } else { fates.len() };
        let mut done = batch.places.clone();
        for (index, (place, fate)) in batch.places.iter().zip(fates).enumerate() {
            let is_too_many = fate.as_ref().is_some_and(RecipientReply::is_too_many_recipients);
            if accepted > 0 && (is_too_many || index >= too_many_from) {
                self.most = accepted;
                self.is_guessed |= !is_too_many;
                done.retain(|other| other != place);
            }
            if let Some(known) = self.fates.get_mut(*place) {
                *known = fate;
            }
        }
        self.left.retain(|place| !done.contains(place));
        // The guess was wrong: it is the same for all of them.
        let refused =
            batch.places.first().and_then(|place| self.fates.get(*place).cloned().flatten());
        if accepted == 0
            && self.is_guessed
            && let Some(refused) = refused
        {
            for place in std::mem::take(&mut self.left) {
                if let Some(known) = self.fates.get_mut(place) {
                    known.get_or_insert_with(|| refused.clone());
                }
            }
            return;
        }
        // It would most likely be the same for the others, and a large body has gone out once for
        // nothing.
        let Some(fate) = about_all else { return };
        let left = std::mem::take(&mut self.left);
        // But nobody's mail ends by what was said to somebody else: hosts that take few recipients
        // at a time do so to judge for each of them. Who was not asked is asked in a session of
        // their own.
        if fate.class() == ReplyClass::Permanent {
            return;
        }
        for place in left {
            if let Some(known) = self.fates.get_mut(place) {
                known.get_or_insert_with(|| fate.clone());
            }
        }
    }

    /// The host takes no more in this session.
    pub(super) fn end_of_session(self, connection: Option<Idle>) -> Transmitted {
        let is_untouched = !self.fates.is_empty() && self.fates.iter().all(Option::is_none);
        self.end(is_untouched.then_some(TransactionError::UsedUp), connection)
    }

    pub(super) fn end(
        self,
        trouble: Option<TransactionError>,
        connection: Option<Idle>,
    ) -> Transmitted {
        Transmitted { fates: self.fates, trouble, connection }
    }
}

/// From which recipient on all were refused in the same way, as if there were too many of them; the
/// last one alone says nothing.
fn too_many_from(fates: &[Option<RecipientReply>]) -> usize {
    let Some(Some(last)) = fates.last() else { return fates.len() };
    let alike = |fate: &&Option<RecipientReply>| {
        fate.as_ref().is_some_and(|fate| last.is_perhaps_too_many(fate))
    };
    let count = fates.iter().rev().take_while(alike).count();
    if count > 1 { fates.len() - count } else { fates.len() }
}

fn is_accepted(fate: &RecipientReply) -> bool {
    match fate {
        RecipientReply::Accepted(_) => true,
        RecipientReply::Refused { .. } => false,
    }
}

/// Does it speak of the sender or the message, and so of every recipient?
fn is_about_all(fate: &RecipientReply) -> bool {
    match fate {
        RecipientReply::Accepted(_) | RecipientReply::Refused { stage: Stage::Rcpt, .. } => false,
        RecipientReply::Refused {
            stage: Stage::Mail | Stage::Data | Stage::Body | Stage::EndOfData,
            ..
        } => true,
    }
}
