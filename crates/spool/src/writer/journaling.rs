//! What of the writer's work stands in the journal, and when it gets its rows.

use std::collections::HashSet;
use std::sync::atomic::Ordering;

use rusqlite::Connection;

use super::worker::Worker;
use super::{Job, LaneWord, Needs};
use crate::StoreError;
use crate::journal::format::JournalPosition;
use crate::journal::{Inserted, Journal, Recordable, Unwritten};
use crate::message::LaneKey;

/// Batches between two looks whether somebody reads the tables from outside.
const LOOK_EVERY: usize = 16;
/// Our choice: while work waits, a slice of the journal gets its rows behind so many batches; when
/// it has to be, behind so few.
const BATCHES_A_SLICE: usize = 32;
const BATCHES_A_SLICE_PRESSING: usize = 2;

/// Our choice: with more lanes in memory, it is looked once a second whether they are in the
/// tables.
const FAILING_MANY: usize = 100_000;

/// The lanes whose rows say that they fail. What cannot be read is not known to fail: it is read,
/// and told of, at the start.
pub(super) fn failing_lanes(db: &Connection) -> HashSet<LaneKey> {
    // Of policies.db it is an error.
    let Ok(mut select) = db.prepare("SELECT key FROM lanes NOT INDEXED WHERE failures > 0") else {
        return HashSet::new();
    };
    let keys = select.query_map([], |row| row.get::<_, String>(0));
    keys.map(|keys| keys.filter_map(Result::ok).map(|key| LaneKey::new(&key)).collect())
        .unwrap_or_default()
}

impl Worker {
    /// What is done to the tables, and what only has to be in the journal. Work on one message is
    /// not done in two places.
    pub(super) fn split(&self, batch: Vec<Job>) -> (Vec<Job>, Vec<Job>) {
        let journal = self.journal.borrow();
        let Some(journal) = journal.as_ref() else { return (batch, Vec::new()) };
        let mut accepted = HashSet::new();
        let has_to_wait = |job: &Job| {
            // Ids are used once, and who breaks that rule hears it from the tables.
            let is_second = match &job.order.record {
                Some(Recordable::Accepted(new)) => !accepted.insert(new.0.id()),
                Some(Recordable::Done { .. }) | None => false,
            };
            is_second || job.order.needs == Needs::Everything
        };
        if batch.iter().any(has_to_wait) {
            return (batch, Vec::new());
        }
        let starts_failing = batch.iter().filter_map(|job| match &job.order.lane {
            Some(LaneWord::Failing(lane)) => Some(lane.clone()),
            Some(LaneWord::Healthy(_)) | None => None,
        });
        let starts_failing: HashSet<LaneKey> = starts_failing.collect();
        let takes = journal.takes() && !self.shared.vitals.is_stuck();
        let can_be_record = |job: &Job| match &job.order.record {
            Some(Recordable::Accepted(new)) => takes && !journal.has(new.0.id()),
            Some(Recordable::Done { done, healthy }) => {
                let failing = self.failing.borrow();
                journal.has(done.message)
                    && healthy.as_ref().is_none_or(|lane| {
                        !failing.contains(lane) && !starts_failing.contains(lane)
                    })
            }
            None => false,
        };
        let in_tables = batch.iter().filter(|job| !can_be_record(job));
        let in_tables: HashSet<_> = in_tables.filter_map(message_of).collect();
        let in_tables = |job: &Job| {
            !can_be_record(job) || message_of(job).is_some_and(|id| in_tables.contains(&id))
        };
        batch.into_iter().partition(in_tables)
    }

    pub(super) fn write_to_journal(&self, mut batch: Vec<Job>) {
        if batch.is_empty() {
            return;
        }
        let appended = {
            let mut journal = self.journal.borrow_mut();
            let news: Vec<_> = batch.iter().filter_map(|job| job.order.record.as_ref()).collect();
            journal.as_mut().map_or(Err(Unwritten::Refused), |journal| journal.append(&news))
        };
        self.count_young();
        match appended {
            Ok(settled) => {
                for (job, settled) in batch.iter_mut().zip(settled) {
                    job.work.recorded(settled);
                }
                self.answer(batch);
            }
            Err(Unwritten::Refused) => self.write_to_tables(batch),
            Err(Unwritten::Unsynced) => {
                self.shared.vitals.poison();
                for job in batch {
                    job.work.done(Err(StoreError::Poisoned));
                }
            }
        }
    }

    fn count_young(&self) {
        let journal = self.journal.borrow();
        let young = journal.as_ref().map_or(0, |journal| journal.young().lock().len());
        self.shared.young.store(young, Ordering::Release);
    }

    /// The messages that this work is about get their rows, in its transaction.
    pub(super) fn insert_needed(&self, jobs: &[Job]) -> Result<Option<Inserted>, StoreError> {
        let journal = self.journal.borrow();
        let Some(journal) = journal.as_ref() else { return Ok(None) };
        let messages = jobs.iter().filter_map(message_of);
        let places: Vec<JournalPosition> =
            messages.filter_map(|message| journal.young().lock().place_of(message)).collect();
        if places.is_empty() && !journal.is_unsaid() {
            return Ok(None);
        }
        journal.insert(&self.db, places).map(Some)
    }

    /// The transaction is committed.
    pub(super) fn note_inserted(&self, inserted: Option<Inserted>) {
        let Some(inserted) = inserted else { return };
        if let Some(journal) = self.journal.borrow_mut().as_mut() {
            journal.inserted(inserted);
            self.shared.vitals.journal_damaged(journal.take_holes());
        }
        self.count_young();
    }

    pub(super) fn note_lane(&self, word: &LaneWord) {
        let mut failing = self.failing.borrow_mut();
        match word {
            LaneWord::Healthy(lane) => failing.remove(lane),
            LaneWord::Failing(lane) => failing.insert(lane.clone()),
        };
    }

    /// All mail of the journal gets its rows, in as many transactions as it takes.
    pub(super) fn insert_all(&self) -> Result<(), StoreError> {
        while self.insert_slice(JournalPosition(u64::MAX))? {
            // Nobody else does that meanwhile.
            self.log.try_to_empty(&self.db);
        }
        Ok(())
    }

    /// The next few up to this place get their rows. Was there anything to do?
    fn insert_slice(&self, until: JournalPosition) -> Result<bool, StoreError> {
        let places = match self.journal.borrow().as_ref() {
            Some(journal) => {
                let places = journal.slice(until);
                if places.is_empty() && !journal.has_news() {
                    return Ok(false);
                }
                places
            }
            None => return Ok(false),
        };
        self.db.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        let insert = |journal: &Journal| journal.insert(&self.db, places);
        let inserted = self.journal.borrow().as_ref().map(insert).transpose()?;
        self.db.prepare_cached("COMMIT")?.execute([])?;
        self.note_inserted(inserted);
        Ok(true)
    }

    pub(super) fn has_goal(&self) -> bool {
        let journal = self.journal.borrow();
        let first = journal.as_ref().and_then(|journal| journal.young().lock().first());
        first.is_some_and(|first| first <= self.goal.get())
    }

    /// Do the tables, or the mark, say less than the journal?
    pub(super) fn is_unwritten(&self) -> bool {
        let journal = self.journal.borrow();
        journal
            .as_ref()
            .is_some_and(|journal| journal.young().lock().len() > 0 || journal.has_news())
    }

    /// Nothing was to be done for a while.
    pub(super) fn rest(&self) {
        if self.has_goal() || !self.is_unwritten() {
            return;
        }
        let last = self.journal.borrow().as_ref().and_then(|journal| journal.young().lock().last());
        match last {
            Some(last) => self.goal.set(last),
            None => self.try_to_insert(JournalPosition::default()),
        }
    }

    /// A second has passed: what has been in the journal for that long gets its rows.
    pub(super) fn tick(&self) {
        let mut says_more = false;
        if let Some(journal) = self.journal.borrow_mut().as_mut() {
            let has_room = journal.tidy();
            let old = journal.tick();
            let goal = if has_room { old } else { journal.young().lock().last() };
            self.goal.set(goal.unwrap_or_default().max(self.goal.get()));
            says_more = journal.has_news();
        }
        if self.failing.borrow().len() > FAILING_MANY {
            // Also those whose rows were swept.
            self.failing.replace(failing_lanes(&self.db));
        }
        if says_more && !self.has_goal() {
            // For who reads the tables from outside. Else the transaction for the goal says it.
            self.try_to_insert(JournalPosition::default());
        }
    }

    /// Some of what is to get its rows gets them, if other work does not wait, or has had its turn.
    pub(super) fn go_on_inserting(&self) {
        let looks = self.looks.replace(self.looks.get().wrapping_add(1));
        let overflow = match self.journal.borrow().as_ref() {
            // A system call, and whoever waits has time.
            Some(journal) if looks.is_multiple_of(LOOK_EVERY) && journal.is_wanted() => {
                journal.young().lock().last()
            }
            Some(journal) => journal.overflow(),
            None => return,
        };
        let is_pressing = overflow.is_some();
        self.goal.set(self.goal.get().max(overflow.unwrap_or_default()));
        if !is_pressing && !self.has_goal() {
            return;
        }
        self.batches.set(self.batches.get().saturating_add(1));
        let turn = if is_pressing { BATCHES_A_SLICE_PRESSING } else { BATCHES_A_SLICE };
        if self.shared.waiting().jobs.is_empty() || self.batches.get() >= turn {
            self.batches.set(0);
            self.try_to_insert(self.goal.get());
        }
    }

    /// Nobody waits for it. What fails is tried again, in a second.
    fn try_to_insert(&self, until: JournalPosition) {
        let insert = || self.undo_if_failed(|| self.insert_slice(until).map(drop));
        let inserted = match insert() {
            Err(error) if error.is_damage() && self.mend() => insert(),
            inserted => inserted,
        };
        if inserted.is_err() {
            self.goal.set(JournalPosition::default());
        }
        if let Some(journal) = self.journal.borrow_mut().as_mut() {
            journal.note_tables(&inserted);
        }
    }

    /// At the end, so that the tables say all. What fails is done by the next start.
    pub(super) fn empty_journal(&self) {
        let emptied = self.undo_if_failed(|| self.insert_all());
        if emptied.is_ok()
            && let Some(journal) = self.journal.borrow_mut().as_mut()
        {
            journal.remove_all();
        }
    }
}

fn message_of(job: &Job) -> Option<crate::MessageId> {
    match job.order.needs {
        Needs::Message(message) => Some(message),
        Needs::Nothing | Needs::Everything => None,
    }
}
