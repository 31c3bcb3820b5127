//! The writer's thread.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rusqlite::Connection;

use super::journaling::failing_lanes;
use super::{Job, Needs, Shared, Tools, Urgency};
use crate::StoreError;
use crate::database_lock::DatabaseLock;
use crate::journal::Journal;
use crate::journal::format::JournalPosition;
use crate::log::WriteAheadLog;
use crate::mend::mend;
use crate::message::LaneKey;
use crate::reserve::Reserve;

/// Our choice: indexes are made anew once in so much work. A queue of a million takes seconds.
const MEND_EVERY: usize = 50_000;
/// How often the writer looks whether a want of space has ended.
const TROUBLE_RETRY: Duration = Duration::from_secs(1);
/// How often it looks whether a log can be cut that a reader has pinned.
const PINNED_RETRY: Duration = Duration::from_millis(250);

/// What is done beside writing.
#[derive(Clone, Debug)]
pub(crate) enum Duties {
    /// Damaged indexes are made anew, and nothing new is taken into a file that has left its name.
    Queue(Arc<DatabaseLock>),
    /// Nothing: whoever meets damage deals with it.
    Nothing,
}

/// What the writer thread works with.
pub(super) struct Worker {
    pub(super) db: Connection,
    duties: Duties,
    /// Work since the indexes were made anew.
    since_mend: Cell<usize>,
    pub(super) log: WriteAheadLog,
    reserve: Reserve,
    pub(super) journal: RefCell<Option<Journal>>,
    /// Lanes whose rows may say that they fail.
    pub(super) failing: RefCell<HashSet<LaneKey>>,
    /// Up to where mail of the journal is to get its rows, without anybody asking for it.
    pub(super) goal: Cell<JournalPosition>,
    pub(super) batches: Cell<usize>,
    pub(super) looks: Cell<usize>,
    /// When nothing was to be done for so long, all mail of the journal gets its rows.
    idle: Duration,
    pub(super) shared: Arc<Shared>,
}

/// However the thread ends, nobody waits for it in vain.
struct PoisonGuard(Arc<Shared>);

impl Drop for PoisonGuard {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.vitals.poison();
        }
        self.0.close();
        let left = std::mem::take(&mut self.0.waiting().jobs);
        for job in left {
            job.work.done(Err(StoreError::Poisoned));
        }
    }
}

impl Worker {
    pub(super) fn new(tools: Tools, duties: Duties, shared: Arc<Shared>) -> Self {
        let Tools { db, log, reserve, journal, idle } = tools;
        let failing = RefCell::new(failing_lanes(&db));
        Self {
            db,
            duties,
            since_mend: Cell::new(MEND_EVERY),
            log,
            reserve,
            journal: RefCell::new(journal),
            failing,
            goal: Cell::default(),
            batches: Cell::default(),
            looks: Cell::default(),
            idle,
            shared,
        }
    }

    pub(super) fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        let _guard = PoisonGuard(Arc::clone(&shared));
        while let Some(taken) = shared.take(self.patience()) {
            let count = taken.jobs.len();
            if count > 0 {
                self.write(taken.jobs);
            } else if shared.vitals.is_stuck() {
                self.probe();
            }
            if taken.tick {
                self.tick();
            } else if count == 0 {
                self.rest();
            }
            if shared.vitals.alive().is_ok() {
                self.go_on_inserting();
                self.reserve.restore();
                self.since_mend.set(self.since_mend.get().saturating_add(count));
                if shared.vitals.is_damaged() {
                    self.mend();
                }
                if let Err(error) = self.log.keep_short(&self.db, count) {
                    self.judge(&error);
                }
            }
        }
        if shared.vitals.alive().is_ok() {
            self.empty_journal();
        }
    }

    fn patience(&self) -> Option<Duration> {
        if self.log.is_pinned() {
            return Some(PINNED_RETRY);
        }
        if self.has_goal() && self.shared.vitals.alive().is_ok() {
            return Some(Duration::ZERO);
        }
        let idle = self.is_unwritten().then_some(self.idle);
        let trouble = !self.reserve.is_present() || self.shared.vitals.is_stuck();
        idle.or_else(|| trouble.then_some(TROUBLE_RETRY))
    }

    fn write(&self, batch: Vec<Job>) {
        let batch = self.refuse_if_detached(batch);
        let (tables, records) = self.split(batch);
        self.write_to_tables(tables);
        self.write_to_journal(records);
    }

    pub(super) fn write_to_tables(&self, mut batch: Vec<Job>) {
        match self.transact(&mut batch) {
            Ok(()) => {
                if batch.iter().any(|job| job.order.urgency == Urgency::Settling) {
                    self.shared.vitals.writing_works();
                }
                self.answer(batch);
            }
            Err(why) => self.write_apart(batch, &why),
        }
    }

    pub(super) fn answer(&self, batch: Vec<Job>) {
        // What was just written may have gone where nobody finds it.
        for job in self.refuse_if_detached(batch) {
            job.work.done(Ok(()));
        }
    }

    /// Without what nobody was promised, if the file has left its name: that is refused. Two system
    /// calls.
    fn refuse_if_detached(&self, batch: Vec<Job>) -> Vec<Job> {
        let is_ordinary = |job: &Job| job.order.urgency == Urgency::Ordinary;
        if !batch.iter().any(is_ordinary) {
            return batch;
        }
        let is_found_by_next_start = match &self.duties {
            Duties::Queue(database_lock) => database_lock.holds(),
            Duties::Nothing => true,
        };
        if is_found_by_next_start {
            return batch;
        }
        self.shared.vitals.detached();
        let (refused, rest) = batch.into_iter().partition(is_ordinary);
        let refused: Vec<Job> = refused;
        refused.into_iter().for_each(|job| job.work.done(Err(StoreError::Detached)));
        rest
    }

    /// Makes the indexes anew, if that was not done just now. Says whether it was.
    pub(super) fn mend(&self) -> bool {
        let is_queue = matches!(self.duties, Duties::Queue(_));
        let is_due = is_queue && self.since_mend.get() >= MEND_EVERY;
        if is_due {
            self.since_mend.set(0);
            self.shared.vitals.mended(mend(&self.db));
        }
        is_due
    }

    /// Once more if damage was in the way and could be mended.
    fn transact_mended(&self, jobs: &mut [Job]) -> Result<(), StoreError> {
        let result = self.transact(jobs);
        match &result {
            Err(error) if error.is_damage() && self.mend() => self.transact(jobs),
            Ok(()) | Err(_) => result,
        }
    }

    /// Each on its own; settlements first, since they must not fail and free space.
    fn write_apart(&self, mut batch: Vec<Job>, why: &StoreError) {
        batch.sort_by_key(|job| std::cmp::Reverse(job.order.urgency));
        if why.is_write_failure() {
            self.log.try_to_empty(&self.db);
        }
        for mut job in batch {
            let result = match job.order.urgency {
                Urgency::Ordinary => self.transact_mended(std::slice::from_mut(&mut job)),
                Urgency::Reserved => self.write_by_all_means(&mut job),
                Urgency::Settling => {
                    let result = self.write_by_all_means(&mut job);
                    match &result {
                        Ok(()) => self.shared.vitals.writing_works(),
                        // Space does not help, and other mail is not concerned.
                        Err(error) if error.is_damage() => {}
                        Err(_) => self.shared.vitals.settling_failed(),
                    }
                    result
                }
            };
            job.work.done(result);
        }
    }

    /// With the reserve, if need be.
    fn write_by_all_means(&self, job: &mut Job) -> Result<(), StoreError> {
        let job = std::slice::from_mut(job);
        let mut result = self.transact_mended(job);
        let lacks_space = result.as_ref().is_err_and(StoreError::is_write_failure);
        if lacks_space && self.shared.vitals.alive().is_ok() && self.reserve.release() {
            self.log.try_to_empty(&self.db);
            result = self.transact(job);
            self.reserve.restore();
        }
        result
    }

    /// Nobody may transmit and so nothing is settled that would show whether it works again.
    fn probe(&self) {
        self.log.try_to_empty(&self.db);
        let row = "INSERT OR REPLACE INTO bodies (seq, body) VALUES (-1, zeroblob(65536))";
        let works = self.db.execute(row, []).and_then(|_| {
            // In the same transaction its pages would never be written.
            self.db.execute("DELETE FROM bodies WHERE seq = -1", [])
        });
        match works.map_err(StoreError::from) {
            Ok(_) => self.shared.vitals.writing_works(),
            Err(error) => {
                self.judge(&error);
            }
        }
    }

    /// One transaction, one sync. Nothing has happened if it fails, unless the store is poisoned.
    fn transact(&self, jobs: &mut [Job]) -> Result<(), StoreError> {
        self.undo_if_failed(|| self.try_transact(jobs))
    }

    pub(super) fn undo_if_failed(
        &self,
        write: impl FnOnce() -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        self.shared.vitals.alive()?;
        let Err(error) = write() else { return Ok(()) };
        let error = self.judge(&error);
        // Some errors have rolled back by themselves.
        if !self.db.is_autocommit() && self.db.execute_batch("ROLLBACK").is_err() {
            self.shared.vitals.poison();
            return Err(StoreError::Poisoned);
        }
        Err(error)
    }

    fn try_transact(&self, jobs: &mut [Job]) -> Result<(), StoreError> {
        if jobs.is_empty() {
            return Ok(());
        }
        if jobs.iter().any(|job| job.order.needs == Needs::Everything) {
            self.insert_all()?;
        }
        self.db.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        let inserted = self.insert_needed(jobs)?;
        for job in jobs.iter_mut() {
            job.work.apply(&self.db)?;
        }
        if self.db.is_autocommit() {
            // Ended by an error that nobody passed on: what follows would be committed by itself.
            let ended = io::Error::other("it was rolled back by an error of one of its statements");
            return Err(StoreError::io("a transaction", ended));
        }
        self.db.prepare_cached("COMMIT")?.execute([])?;
        self.note_inserted(inserted);
        jobs.iter().filter_map(|job| job.order.lane.as_ref()).for_each(|word| self.note_lane(word));
        Ok(())
    }

    fn judge(&self, error: &StoreError) -> StoreError {
        if error.is_failed_sync() {
            self.shared.vitals.poison();
            return StoreError::Poisoned;
        }
        // Not every file system that turns read-only says so to who asks: ext4 of Linux 6.18 does
        // not after an error. A limit of the file's size looks the same, and the reserve helps
        // there.
        if error.is_write_failure() && !matches!(error, StoreError::Full) && self.log.is_read_only()
        {
            self.shared.vitals.read_only();
        }
        error.clone()
    }
}
