//! The one writer of a database: everything that waits is committed together, with one sync.
//!
//! Work that fails for want of space is rolled back with its batch and then tried alone, so that a
//! small settlement may still fit where a large message did not. A failed sync is never repeated:
//! it poisons the store.

use std::cell::Cell;
use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rusqlite::Connection;

use crate::StoreError;
use crate::database_lock::DatabaseLock;
use crate::log::Log;
use crate::mend::mend;
use crate::reserve::Reserve;
use crate::vitals::Vitals;

/// Ours: more work in one transaction does not make it cheaper, only the first callback later.
const BATCH_MAX: usize = 512;
/// 12 MB: with what is not counted a transaction stays below 16 MB, and so the log below 64 MB.
const BATCH_OCTETS_MAX: usize = 12 * 1024 * 1024;
/// Ours: ordinary work beyond it is refused. Sessions and attempts have lower limits of their own.
const WAITING_MAX: usize = 8192;
/// Ours: indexes are made anew once in so much work. A queue of a million takes seconds.
const MEND_EVERY: usize = 50_000;
/// How often the writer looks whether a want of space has ended.
const TROUBLE_RETRY: Duration = Duration::from_secs(1);
/// How often it looks whether a log can be cut that a reader has pinned.
const PINNED_RETRY: Duration = Duration::from_millis(250);

/// May this work be refused?
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Urgency {
    /// It may: nobody has been promised anything.
    Ordinary,
    /// It may use the reserve, since without it mail would go less protected, or have to wait.
    Reserved,
    /// It settles what a peer has already acknowledged: it may use the reserve, and if it fails nothing may
    /// be sent.
    Settling,
}

/// Work for the writer thread, whatever its result is.
trait Work: Send {
    /// Runs inside the transaction; again if that was rolled back.
    fn apply(&mut self, db: &Connection) -> Result<(), StoreError>;
    /// Runs once, after the commit or when there will be none.
    fn done(self: Box<Self>, result: Result<(), StoreError>);
}

struct Task<T, A, D> {
    apply: A,
    done: D,
    outcome: Option<T>,
}

impl<T, A, D> Work for Task<T, A, D>
where
    T: Send,
    A: FnMut(&Connection) -> Result<T, StoreError> + Send,
    D: FnOnce(Result<T, StoreError>) + Send,
{
    fn apply(&mut self, db: &Connection) -> Result<(), StoreError> {
        self.outcome = Some((self.apply)(db)?);
        Ok(())
    }

    fn done(self: Box<Self>, result: Result<(), StoreError>) {
        let Self { done, outcome, .. } = *self;
        done(result.and_then(|()| outcome.ok_or(StoreError::Closed)));
    }
}

struct Job {
    urgency: Urgency,
    /// What it writes, about.
    octets: usize,
    work: Box<dyn Work>,
}

/// The way to the writer thread.
#[derive(Debug)]
pub(crate) struct Writer {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    waiting: Mutex<Waiting>,
    wake: Condvar,
    vitals: Arc<Vitals>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("vitals", &self.vitals).finish_non_exhaustive()
    }
}

struct Waiting {
    jobs: VecDeque<Job>,
    open: bool,
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next batch; empty when `patience` ran out; `None` when closed and nothing waits.
    fn take(&self, patience: Option<Duration>) -> Option<Vec<Job>> {
        let mut waiting = self.waiting();
        while waiting.jobs.is_empty() && waiting.open {
            let Some(patience) = patience else {
                waiting = self.wake.wait(waiting).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let (again, timeout) =
                self.wake.wait_timeout(waiting, patience).unwrap_or_else(PoisonError::into_inner);
            waiting = again;
            if timeout.timed_out() {
                break;
            }
        }
        if waiting.jobs.is_empty() && !waiting.open {
            return None;
        }
        let mut octets: usize = 0;
        let fits = waiting.jobs.iter().take(BATCH_MAX).take_while(|job| {
            octets = octets.saturating_add(job.octets);
            octets <= BATCH_OCTETS_MAX
        });
        // One that is too large by itself has to be written all the same.
        let count = fits.count().max(1).min(waiting.jobs.len());
        Some(waiting.jobs.drain(..count).collect())
    }

    fn close(&self) {
        self.waiting().open = false;
        self.wake.notify_all();
    }
}

impl Writer {
    /// Starts the thread that owns `db`.
    pub(crate) fn start(
        db: Connection,
        log: Log,
        reserve: Reserve,
        vitals: Arc<Vitals>,
        duties: Duties,
    ) -> io::Result<Self> {
        let waiting = Mutex::new(Waiting { jobs: VecDeque::new(), open: true });
        let shared = Arc::new(Shared { waiting, wake: Condvar::new(), vitals });
        let (shared_too, since_mend) = (Arc::clone(&shared), Cell::new(MEND_EVERY));
        let desk = Desk { db, duties, since_mend, log, reserve, shared: shared_too };
        let thread = thread::Builder::new().name("spool-writer".into()).spawn(|| desk.run())?;
        Ok(Self { shared, thread: Mutex::new(Some(thread)) })
    }

    /// Queues work. `done` is called once, on the writer's thread or, when nothing will be done, on
    /// this one; it must not block.
    pub(crate) fn submit<T, A, D>(&self, urgency: Urgency, apply: A, done: D)
    where
        T: Send + 'static,
        A: FnMut(&Connection) -> Result<T, StoreError> + Send + 'static,
        D: FnOnce(Result<T, StoreError>) + Send + 'static,
    {
        self.submit_sized(urgency, 0, apply, done);
    }

    /// The same for what writes some `octets`.
    pub(crate) fn submit_sized<T, A, D>(&self, urgency: Urgency, octets: usize, apply: A, done: D)
    where
        T: Send + 'static,
        A: FnMut(&Connection) -> Result<T, StoreError> + Send + 'static,
        D: FnOnce(Result<T, StoreError>) + Send + 'static,
    {
        let mut waiting = self.shared.waiting();
        let refusal = if self.shared.vitals.alive().is_err() {
            Some(StoreError::Poisoned)
        } else if !waiting.open {
            Some(StoreError::Closed)
        } else if waiting.jobs.len() >= WAITING_MAX && urgency != Urgency::Settling {
            Some(StoreError::Busy)
        } else {
            None
        };
        if let Some(error) = refusal {
            drop(waiting);
            return done(Err(error));
        }
        let work = Box::new(Task { apply, done, outcome: None });
        waiting.jobs.push_back(Job { urgency, octets, work });
        drop(waiting);
        self.shared.wake.notify_one();
    }

    /// Commits what waits and ends the thread.
    pub(crate) fn close(&self) {
        self.shared.close();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.thread().id() != thread::current().id()
        {
            // A panic there has poisoned the store already.
            let _ = thread.join();
        }
    }
}

/// What is done beside writing.
#[derive(Clone, Debug)]
pub(crate) enum Duties {
    /// Damaged indexes are made anew, and nothing new is taken into a file that has left its name.
    Queue(Arc<DatabaseLock>),
    /// Nothing: whoever meets damage deals with it.
    Nothing,
}

impl Duties {
    /// Would what is written now be found by the next start?
    fn is_found(&self) -> bool {
        match self {
            Self::Queue(database_lock) => database_lock.holds(),
            Self::Nothing => true,
        }
    }
}

/// What the writer thread works with.
struct Desk {
    db: Connection,
    duties: Duties,
    /// Work since the indexes were made anew.
    since_mend: Cell<usize>,
    log: Log,
    reserve: Reserve,
    shared: Arc<Shared>,
}

/// However the thread ends, nobody waits for it in vain.
struct LastWill(Arc<Shared>);

impl Drop for LastWill {
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

impl Desk {
    fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        let _will = LastWill(Arc::clone(&shared));
        while let Some(batch) = shared.take(self.patience()) {
            let count = batch.len();
            if count > 0 {
                self.write(batch);
            } else if shared.vitals.is_stuck() {
                self.probe();
            }
            if shared.vitals.alive().is_ok() {
                self.keep_up(count);
            }
        }
    }

    fn patience(&self) -> Option<Duration> {
        if self.log.is_pinned() {
            return Some(PINNED_RETRY);
        }
        let trouble = !self.reserve.is_present() || self.shared.vitals.is_stuck();
        trouble.then_some(TROUBLE_RETRY)
    }

    fn keep_up(&mut self, count: usize) {
        self.reserve.restore();
        self.since_mend.set(self.since_mend.get().saturating_add(count));
        if self.shared.vitals.is_damaged() {
            self.mend();
        }
        if let Err(error) = self.log.keep_short(&self.db, count) {
            self.judge(&error);
        }
    }

    fn write(&self, batch: Vec<Job>) {
        let mut batch = self.refuse_if_detached(batch);
        match self.transact(&mut batch) {
            Ok(()) => {
                if batch.iter().any(|job| job.urgency == Urgency::Settling) {
                    self.shared.vitals.writing_works();
                }
                // What was just written may have gone where nobody finds it.
                for job in self.refuse_if_detached(batch) {
                    job.work.done(Ok(()));
                }
            }
            Err(why) => self.write_apart(batch, &why),
        }
    }

    /// Without what nobody was promised, if the file has left its name: that is refused. Two system calls.
    fn refuse_if_detached(&self, batch: Vec<Job>) -> Vec<Job> {
        let is_ordinary = |job: &Job| job.urgency == Urgency::Ordinary;
        if !batch.iter().any(is_ordinary) || self.duties.is_found() {
            return batch;
        }
        self.shared.vitals.detached();
        let (refused, rest) = batch.into_iter().partition(is_ordinary);
        let refused: Vec<Job> = refused;
        refused.into_iter().for_each(|job| job.work.done(Err(StoreError::Detached)));
        rest
    }

    /// Makes the indexes anew, if that was not done just now. Says whether it was.
    fn mend(&self) -> bool {
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
        batch.sort_by_key(|job| std::cmp::Reverse(job.urgency));
        if why.is_write_failure() {
            self.log.try_to_empty(&self.db);
        }
        for mut job in batch {
            let result = match job.urgency {
                Urgency::Ordinary => self.transact_mended(std::slice::from_mut(&mut job)),
                Urgency::Reserved => self.write_by_all_means(&mut job),
                Urgency::Settling => self.settle(&mut job),
            };
            job.work.done(result);
        }
    }

    fn settle(&self, job: &mut Job) -> Result<(), StoreError> {
        let result = self.write_by_all_means(job);
        match &result {
            Ok(()) => self.shared.vitals.writing_works(),
            // Space does not help, and other mail is not concerned.
            Err(error) if error.is_damage() => {}
            Err(_) => self.shared.vitals.settling_failed(),
        }
        result
    }

    /// With the reserve, if need be.
    fn write_by_all_means(&self, job: &mut Job) -> Result<(), StoreError> {
        let job = std::slice::from_mut(job);
        let mut result = self.transact_mended(job);
        let lacks_space = result.as_ref().is_err_and(StoreError::is_write_failure);
        if lacks_space && self.release_reserve() {
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

    fn release_reserve(&self) -> bool {
        self.shared.vitals.alive().is_ok() && self.reserve.release()
    }

    /// One transaction, one sync. Nothing has happened if it fails, unless the store is poisoned.
    fn transact(&self, jobs: &mut [Job]) -> Result<(), StoreError> {
        self.shared.vitals.alive()?;
        let result = self.try_transact(jobs);
        let Err(error) = result else { return Ok(()) };
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
        self.db.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        for job in jobs {
            job.work.apply(&self.db)?;
        }
        if self.db.is_autocommit() {
            // Ended by an error that nobody passed on: what follows would be committed by itself.
            let ended = io::Error::other("it was rolled back by an error of one of its statements");
            return Err(StoreError::io("a transaction", ended));
        }
        self.db.prepare_cached("COMMIT")?.execute([])?;
        Ok(())
    }

    fn judge(&self, error: &StoreError) -> StoreError {
        if error.is_failed_sync() {
            self.shared.vitals.poison();
            return StoreError::Poisoned;
        }
        // Not every file system that turns read-only says so to who asks: ext4 of Linux 6.18 does not after an error.
        // A limit of the file's size looks the same, and the reserve helps there.
        if error.is_write_failure() && !matches!(error, StoreError::Full) && self.log.is_read_only()
        {
            self.shared.vitals.read_only();
        }
        error.clone()
    }
}
