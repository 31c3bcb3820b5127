//! Mail that stands in the journal and not in the tables: where, and what of it is done.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::sync::Arc;

use jiff::Timestamp;

use super::format::{Done, JournalPosition};
use crate::MessageId;
use crate::due::{BodyRef, Due, DueRecipient};
use crate::message::{LaneKey, NewRecipient, RecipientNo, Settled, StoredEnvelope, turn};

/// Our choice, in seconds: what waits so long under load may as well wait in the tables. Without
/// load it does so at once.
const LONG: u64 = 10;

/// A message of the journal.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) message: MessageId,
    /// Octets of its record.
    pub(crate) length: usize,
    /// Where the batch begins that it came in.
    pub(super) batch: JournalPosition,
    recipients: usize,
    done: BTreeSet<RecipientNo>,
    /// In which second it came, by the ticks of [`Young::tick`].
    came: u64,
    /// Of this process's own mail.
    pub(super) mail: Option<YoungMail>,
}

/// What readers need of a message.
#[derive(Clone, Debug)]
pub(super) struct YoungMail {
    pub(super) envelope: Arc<StoredEnvelope>,
    pub(super) segment: Arc<File>,
}

impl Waiting {
    pub(super) fn new(
        message: MessageId,
        recipients: usize,
        (batch, length): (JournalPosition, usize),
    ) -> Self {
        Self { message, length, batch, recipients, done: BTreeSet::new(), came: 0, mail: None }
    }

    pub(super) fn with(self, mail: YoungMail) -> Self {
        Self { mail: Some(mail), ..self }
    }

    pub(super) fn done(&self) -> &BTreeSet<RecipientNo> {
        &self.done
    }

    fn envelope(&self) -> Option<&StoredEnvelope> {
        self.mail.as_ref().map(|mail| &*mail.envelope)
    }

    fn lanes(&self) -> BTreeSet<LaneKey> {
        let recipients = self.envelope().map_or(&[][..], |envelope| &envelope.recipients);
        recipients.iter().map(|one| one.lane.clone()).collect()
    }

    fn waits_in(&self, lane: &LaneKey) -> impl Iterator<Item = (RecipientNo, &NewRecipient)> {
        let recipients = self.envelope().map_or(&[][..], |envelope| &envelope.recipients);
        let numbered = (0..=u16::MAX).map(RecipientNo).zip(recipients);
        numbered.filter(move |(no, one)| one.lane == *lane && !self.done.contains(no))
    }

    /// Its recipients that wait in a lane, as the tables would tell them.
    fn due_in(&self, lane: &LaneKey) -> Option<Due> {
        let envelope = self.envelope()?;
        let begins = envelope.begins_at();
        let recipients = self.waits_in(lane).map(|(no, one)| DueRecipient {
            no,
            mailbox: one.mailbox.clone(),
            attempts: 0,
            expires_at: envelope.expires_at,
            waits_since: envelope.may_be_warned(one).then_some(begins),
            options: one.options.clone(),
        });
        let recipients: Vec<_> = recipients.collect();
        let due = || Due {
            message: self.message,
            sender: envelope.sender.clone(),
            client: envelope.client.clone(),
            recipients: Vec::new(),
            arrived_at: envelope.arrived_at,
            turn: turn(begins, envelope.options.priority),
            facts: envelope.facts.clone(),
            body: BodyRef::Inline,
            options: envelope.options.clone(),
        };
        (!recipients.is_empty()).then(|| Due { recipients, ..due() })
    }
}

/// By their places, ids and lanes.
#[derive(Debug, Default)]
pub(crate) struct Young {
    waiting: BTreeMap<JournalPosition, Waiting>,
    places: HashMap<MessageId, JournalPosition>,
    lanes: HashMap<LaneKey, BTreeSet<JournalPosition>>,
    /// Of all, done ones too.
    recipients: usize,
    ticks: u64,
}

impl Young {
    pub(super) fn add(&mut self, place: JournalPosition, waiting: Waiting) {
        self.places.insert(waiting.message, place);
        self.recipients += waiting.recipients;
        for lane in waiting.lanes() {
            self.lanes.entry(lane).or_default().insert(place);
        }
        self.waiting.insert(place, Waiting { came: self.ticks, ..waiting });
    }

    /// What is left of the message; `None`: it is not here.
    pub(super) fn done(&mut self, done: &Done) -> Option<Settled> {
        let place = *self.places.get(&done.message)?;
        let waiting = self.waiting.get_mut(&place)?;
        waiting.done.extend(&done.recipients);
        if waiting.done.len() < waiting.recipients {
            return Some(Settled::Waiting);
        }
        self.remove(place);
        Some(Settled::Gone)
    }

    pub(super) fn remove(&mut self, place: JournalPosition) {
        let Some(gone) = self.waiting.remove(&place) else { return };
        self.places.remove(&gone.message);
        self.recipients = self.recipients.saturating_sub(gone.recipients);
        for lane in gone.lanes() {
            let Some(places) = self.lanes.get_mut(&lane) else { continue };
            places.remove(&place);
            if places.is_empty() {
                self.lanes.remove(&lane);
            }
        }
    }

    pub(super) fn forget_below(&mut self, low: JournalPosition) {
        let gone: Vec<_> = self.waiting.range(..low).map(|(place, _)| *place).collect();
        gone.into_iter().for_each(|place| self.remove(place));
    }

    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn recipients(&self) -> usize {
        self.recipients
    }

    /// Where the message with this number is, from 0, or the last one.
    pub(super) fn nth_or_last(&self, number: usize) -> Option<JournalPosition> {
        self.waiting.keys().nth(number).copied().or_else(|| self.last())
    }

    pub(super) fn get(&self, place: JournalPosition) -> Option<&Waiting> {
        self.waiting.get(&place)
    }

    pub(crate) fn place_of(&self, message: MessageId) -> Option<JournalPosition> {
        self.places.get(&message).copied()
    }

    /// Where the batch of the first one begins: nothing before it is needed.
    pub(super) fn first_batch(&self) -> Option<JournalPosition> {
        self.waiting.first_key_value().map(|(_, waiting)| waiting.batch)
    }

    pub(crate) fn first(&self) -> Option<JournalPosition> {
        self.waiting.first_key_value().map(|(place, _)| *place)
    }

    pub(crate) fn last(&self) -> Option<JournalPosition> {
        self.waiting.last_key_value().map(|(place, _)| *place)
    }

    /// All that wait, in the order of their places.
    pub(super) fn iter(&self) -> impl Iterator<Item = (JournalPosition, &Waiting)> {
        self.waiting.iter().map(|(place, waiting)| (*place, waiting))
    }

    /// A second has passed: the last one of those that have been here for long.
    pub(super) fn tick(&mut self) -> Option<JournalPosition> {
        self.ticks += 1;
        let ticks = self.ticks;
        let old = self.waiting.iter().take_while(|(_, waiting)| waiting.came + LONG < ticks);
        old.last().map(|(place, _)| *place)
    }

    /// What is due in a lane at `now`, behind a place: messages with so many recipients, or some
    /// more.
    pub(crate) fn due_in(
        &self,
        (lane, now): (&LaneKey, Timestamp),
        after: JournalPosition,
        limit: usize,
    ) -> Vec<(JournalPosition, Due)> {
        let Some(places) = self.lanes.get(lane) else { return Vec::new() };
        let behind = places.range(after..).filter(|place| **place > after);
        let due = behind.filter_map(|place| Some((*place, self.waiting.get(place)?.due_in(lane)?)));
        let mut count: usize = 0;
        let fits = due.filter(|(_, due)| due.arrived_at <= now).take_while(|(_, due)| {
            let is_wanted = count < limit;
            count += due.recipients.len();
            is_wanted
        });
        fits.collect()
    }

    /// The lanes in which it waits.
    pub(crate) fn lanes(&self) -> impl Iterator<Item = &LaneKey> {
        self.lanes.keys()
    }

    /// When something is due in a lane that is not due at `after`: only a clock that was put back
    /// leaves such mail here.
    pub(crate) fn next_due(&self, lane: &LaneKey, after: Timestamp) -> Option<Timestamp> {
        let places = self.lanes.get(lane)?;
        let envelopes = places.iter().filter_map(|place| self.waiting.get(place)?.envelope());
        envelopes.map(StoredEnvelope::begins_at).filter(|begins| *begins > after).min()
    }

    /// Recipients that wait in a lane, counted up to `most`.
    pub(crate) fn count_in(&self, lane: &LaneKey, most: u64) -> u64 {
        let Some(places) = self.lanes.get(lane) else { return 0 };
        let waiting = places.iter().filter_map(|place| self.waiting.get(place));
        let all = waiting.flat_map(|waiting| waiting.waits_in(lane));
        let count = all.take(usize::try_from(most).unwrap_or(usize::MAX)).count();
        u64::try_from(count).unwrap_or(u64::MAX)
    }

    /// Is this so of any message that waits in a lane?
    pub(crate) fn any_in(&self, lane: &LaneKey, is: impl Fn(&StoredEnvelope) -> bool) -> bool {
        let Some(places) = self.lanes.get(lane) else { return false };
        let envelopes = places.iter().filter_map(|place| self.waiting.get(place)?.envelope());
        envelopes.into_iter().any(is)
    }
}
