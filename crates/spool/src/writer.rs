//! The one writer of a database: everything that waits is committed together, with one sync.
//!
//! Work that fails for want of space is rolled back with its batch and then tried alone, so that a
//! small settlement may still fit where a large message did not. A failed sync is never repeated:
//! it poisons the store. What can stand in the journal is written there ([`crate::journal`]), the
//! rest into the tables.

mod journaling;
mod order;
mod worker;

pub(crate) use order::{LaneWord, Needs, Order, Urgency};
pub(crate) use worker::Duties;

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rusqlite::Connection;

use self::worker::Worker;
use crate::StoreError;
use crate::journal::Journal;
use crate::log::WriteAheadLog;
use crate::message::Settled;
use crate::reserve::Reserve;
use crate::vitals::Vitals;

/// Our choice: more work in one transaction does not make it cheaper, only the first callback
/// later.
const BATCH_MAX: usize = 512;
/// 12 MB: with what is not counted a transaction stays below 16 MB, and so the log below 64 MB.
const BATCH_OCTETS_MAX: usize = 12 * 1024 * 1024;
/// Our choice: ordinary work beyond it is refused. Sessions and attempts have lower limits of their
/// own.
const WAITING_MAX: usize = 8192;
/// Work for the writer thread, whatever its result is.
trait WriterWork: Send {
    /// Runs inside the transaction; again if that was rolled back.
    fn apply(&mut self, db: &Connection) -> Result<(), StoreError>;
    /// Its record stands in the journal instead.
    fn recorded(&mut self, settled: Settled);
    /// Runs once, after the commit or when there will be none.
    fn done(self: Box<Self>, result: Result<(), StoreError>);
}

struct Task<T, A, D> {
    apply: A,
    recorded: Option<fn(Settled) -> T>,
    done: D,
    outcome: Option<T>,
}

impl<T, A, D> WriterWork for Task<T, A, D>
where
    T: Send,
    A: FnMut(&Connection) -> Result<T, StoreError> + Send,
    D: FnOnce(Result<T, StoreError>) + Send,
{
    fn apply(&mut self, db: &Connection) -> Result<(), StoreError> {
        self.outcome = Some((self.apply)(db)?);
        Ok(())
    }

    fn recorded(&mut self, settled: Settled) {
        self.outcome = self.recorded.map(|outcome| outcome(settled));
    }

    fn done(self: Box<Self>, result: Result<(), StoreError>) {
        let Self { done, outcome, .. } = *self;
        done(result.and_then(|()| outcome.ok_or(StoreError::Closed)));
    }
}

struct Job {
    order: Order,
    work: Box<dyn WriterWork>,
}

/// The way to the writer thread.
#[derive(Debug)]
pub(crate) struct Writer {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    waiting: Mutex<WaitingOrders>,
    wake: Condvar,
    vitals: Arc<Vitals>,
    /// Messages in the journal that have no rows.
    young: AtomicUsize,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("vitals", &self.vitals).finish_non_exhaustive()
    }
}

struct WaitingOrders {
    jobs: VecDeque<Job>,
    open: bool,
    /// A second has passed.
    tick: bool,
}

/// What there is to do.
#[derive(Default)]
struct Taken {
    jobs: Vec<Job>,
    tick: bool,
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, WaitingOrders> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next batch; empty when `patience` ran out, or a second has passed; `None` when closed
    /// and nothing waits.
    fn take(&self, patience: Option<Duration>) -> Option<Taken> {
        let mut waiting = self.waiting();
        while waiting.jobs.is_empty() && waiting.open && !waiting.tick {
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
        if !waiting.jobs.is_empty() {
            // A batch costs a sync, whatever is in it. Where all cores are busy, threads that are
            // about to add to it run first; elsewhere this returns at once.
            drop(waiting);
            thread::yield_now();
            waiting = self.waiting();
        }
        let mut octets: usize = 0;
        let fits = waiting.jobs.iter().take(BATCH_MAX).take_while(|job| {
            octets = octets.saturating_add(job.order.octets);
            octets <= BATCH_OCTETS_MAX
        });
        // One that is too large by itself has to be written all the same.
        let count = fits.count().max(1).min(waiting.jobs.len());
        let tick = std::mem::take(&mut waiting.tick);
        Some(Taken { jobs: waiting.jobs.drain(..count).collect(), tick })
    }

    fn close(&self) {
        self.waiting().open = false;
        self.wake.notify_all();
    }
}

/// What the thread works with.
#[derive(Debug)]
pub(crate) struct Tools {
    pub(crate) db: Connection,
    pub(crate) log: WriteAheadLog,
    pub(crate) reserve: Reserve,
    pub(crate) journal: Option<Journal>,
    /// How long nothing must happen before the journal's mail gets its rows.
    pub(crate) idle: Duration,
}

impl Writer {
    /// Starts the thread that owns the database.
    pub(crate) fn start(tools: Tools, vitals: Arc<Vitals>, duties: Duties) -> io::Result<Self> {
        let waiting = WaitingOrders { jobs: VecDeque::new(), open: true, tick: false };
        let shared = Arc::new(Shared {
            waiting: Mutex::new(waiting),
            wake: Condvar::new(),
            vitals,
            young: AtomicUsize::new(0),
        });
        let shared_too = Arc::clone(&shared);
        let begin = move || Worker::new(tools, duties, shared_too).run();
        let thread = thread::Builder::new().name("spool-writer".into()).spawn(begin)?;
        Ok(Self { shared, thread: Mutex::new(Some(thread)) })
    }

    /// Queues work. `done` is called once, on the writer's thread or, when nothing will be done, on
    /// this one; it must not block.
    pub(crate) fn submit<T, A, D>(&self, order: impl Into<Order>, apply: A, done: D)
    where
        T: Send + 'static,
        A: FnMut(&Connection) -> Result<T, StoreError> + Send + 'static,
        D: FnOnce(Result<T, StoreError>) + Send + 'static,
    {
        self.queue(order.into(), Task { apply, recorded: None, done, outcome: None });
    }

    /// The same for what may stand in the journal: `recorded` is what it came to then.
    pub(crate) fn submit_record<T, A, D>(
        &self,
        order: Order,
        recorded: fn(Settled) -> T,
        apply: A,
        done: D,
    ) where
        T: Send + 'static,
        A: FnMut(&Connection) -> Result<T, StoreError> + Send + 'static,
        D: FnOnce(Result<T, StoreError>) + Send + 'static,
    {
        self.queue(order, Task { apply, recorded: Some(recorded), done, outcome: None });
    }

    fn queue(&self, order: Order, work: impl WriterWork + 'static) {
        let mut waiting = self.shared.waiting();
        let refusal = if self.shared.vitals.alive().is_err() {
            Some(StoreError::Poisoned)
        } else if !waiting.open {
            Some(StoreError::Closed)
        } else if waiting.jobs.len() >= WAITING_MAX && order.urgency != Urgency::Settling {
            Some(StoreError::Busy)
        } else {
            None
        };
        let work = Box::new(work);
        if let Some(error) = refusal {
            drop(waiting);
            return work.done(Err(error));
        }
        waiting.jobs.push_back(Job { order, work });
        drop(waiting);
        self.shared.wake.notify_one();
    }

    /// Is there mail in the journal that has no rows? What was acknowledged before is counted.
    pub(crate) fn has_young(&self) -> bool {
        self.shared.young.load(Ordering::Acquire) > 0
    }

    /// To be called each second.
    pub(crate) fn tick(&self) {
        self.shared.waiting().tick = true;
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
