//! What nobody waits for, on a thread of its own: copies of the logs, the removal of body files
//! that no row names any more, and at the start the sweep for those a crash left.

use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use rusqlite::{Connection, OptionalExtension};

use crate::draft::BodyDirectory;
use crate::log::{Copying, WriteAheadLog, copy};
use crate::schema::{POLICIES, QUEUE, Schema};
use crate::{MessageId, StoreError};

#[derive(Clone, Copy, Debug)]
pub(crate) enum WhichDatabase {
    Queue,
    Policies,
}

/// Something to do when there is time.
#[derive(Debug)]
pub(crate) enum HousekeeperJob {
    /// Copies the log into the tables.
    Copy(WhichDatabase),
    Remove(PathBuf),
    Stop,
}

/// The thread, and the way to it.
#[derive(Debug)]
pub(crate) struct Housekeeper {
    root: PathBuf,
    jobs: Mutex<Option<Sender<HousekeeperJob>>>,
    stop: Arc<AtomicBool>,
    thread: Mutex<Option<JoinHandle<()>>>,
    queue: Arc<Copying>,
    policies: Arc<Copying>,
}

impl Housekeeper {
    /// Starts the thread with connections of its own.
    pub(crate) fn start(
        bodies_dir: Arc<BodyDirectory>,
        sweeps: Sweeps,
    ) -> Result<Self, StoreError> {
        let root = bodies_dir.layout.root().to_path_buf();
        let (jobs, incoming) = mpsc::channel();
        let stop = Arc::new(AtomicBool::new(false));
        let (queue, policies) = (Arc::new(Copying::default()), Arc::new(Copying::default()));
        let thread = HousekeeperThread {
            sweeps,
            queue: (QUEUE.reader(&root)?, Arc::clone(&queue)),
            policies: (POLICIES.reader(&root)?, Arc::clone(&policies)),
            bodies_dir,
            incoming,
            stop: Arc::clone(&stop),
        };
        let thread = thread::Builder::new()
            .name("spool-keeper".into())
            .spawn(move || thread.run())
            .map_err(|e| StoreError::io("starting a thread", e))?;
        let thread = Mutex::new(Some(thread));
        Ok(Self { root, jobs: Mutex::new(Some(jobs)), stop, thread, queue, policies })
    }

    /// The log of one database, for its writer. `None` after [`Housekeeper::close`].
    pub(crate) fn log(&self, which: WhichDatabase) -> Option<WriteAheadLog> {
        let jobs = self.jobs()?;
        Some(WriteAheadLog::new(which, self.root.clone(), jobs, Arc::clone(self.copying(which))))
    }

    fn copying(&self, which: WhichDatabase) -> &Arc<Copying> {
        match which {
            WhichDatabase::Queue => &self.queue,
            WhichDatabase::Policies => &self.policies,
        }
    }

    /// Octets of the queue's log while a reader keeps it from being copied.
    pub(crate) fn pinned_bytes(&self) -> Option<u64> {
        self.queue.pinned_bytes()
    }

    /// Has the reader gone? To be asked each second.
    pub(crate) fn look_at_readers(&self) {
        let Some(jobs) = self.jobs() else { return };
        for which in [WhichDatabase::Queue, WhichDatabase::Policies] {
            let copying = self.copying(which);
            if copying.asks_again() && jobs.send(HousekeeperJob::Copy(which)).is_err() {
                // The store is being closed, which ends with a copy.
                copying.end(None);
            }
        }
    }

    /// A way to leave jobs. `None` after [`Housekeeper::close`].
    pub(crate) fn jobs(&self) -> Option<Sender<HousekeeperJob>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends the thread after the jobs it has, but not the sweep: the next start does that again.
    pub(crate) fn close(&self) {
        self.stop.store(true, Ordering::Release);
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner).take();
        // The thread can only have ended already.
        let _ = jobs.map(|jobs| jobs.send(HousekeeperJob::Stop));
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }
}

/// May files be moved away because no row names them?
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Sweeps {
    /// The queue was there before: a file that no row names is left over.
    Yes,
    /// The tables are of this very start, and know of nothing that was before.
    No,
}

struct HousekeeperThread {
    sweeps: Sweeps,
    queue: (Connection, Arc<Copying>),
    policies: (Connection, Arc<Copying>),
    bodies_dir: Arc<BodyDirectory>,
    incoming: Receiver<HousekeeperJob>,
    stop: Arc<AtomicBool>,
}

impl Drop for HousekeeperThread {
    /// Whatever ends it, no writer waits for a copy in vain.
    fn drop(&mut self) {
        self.queue.1.end(None);
        self.policies.1.end(None);
    }
}

impl HousekeeperThread {
    fn run(self) {
        let mut filed = None;
        for low in 0..=u8::MAX {
            if self.stop.load(Ordering::Acquire) {
                return;
            }
            if self.sweeps == Sweeps::Yes {
                // What could not be swept costs space, nothing else; the next start tries again.
                let _ = self.sweep(low, &mut filed);
            }
            while let Ok(job) = self.incoming.try_recv() {
                self.attend(job);
            }
        }
        while !self.stop.load(Ordering::Acquire) {
            let Ok(job) = self.incoming.recv() else { return };
            self.attend(job);
        }
        while let Ok(job) = self.incoming.try_recv() {
            self.attend(job);
        }
    }

    fn attend(&self, job: HousekeeperJob) {
        if self.bodies_dir.vitals.alive().is_err() {
            // Nothing is written any more; a writer that waits for a copy has to hear that.
            self.queue.1.end(None);
            self.policies.1.end(None);
            return;
        }
        match job {
            HousekeeperJob::Remove(path) => {
                // An import may have brought a message of this id back meanwhile.
                let id = path.file_name().and_then(|name| name.to_str()?.parse().ok());
                let is_named = |id| {
                    self.bodies_dir.is_unnamed(id) || is_known(&self.queue.0, id).unwrap_or(true)
                };
                if !id.is_some_and(is_named) {
                    // If it stays, the next start removes it.
                    let _ = fs::remove_file(path);
                }
            }
            HousekeeperJob::Copy(WhichDatabase::Queue) => self.copy(&QUEUE, &self.queue),
            HousekeeperJob::Copy(WhichDatabase::Policies) => self.copy(&POLICIES, &self.policies),
            // Only wakes: the flag was set before it was sent.
            HousekeeperJob::Stop => {}
        }
    }

    fn copy(&self, schema: &Schema, (db, copying): &(Connection, Arc<Copying>)) {
        let file = self.bodies_dir.layout.file(&format!("{}-wal", schema.file));
        if copy(db, &file, copying).is_err_and(|error| error.is_failed_sync()) {
            self.bodies_dir.vitals.poison();
        }
    }

    /// Moves the bodies on one shelf out of the way that neither a row nor a draft of this process
    /// names.
    fn sweep(&self, low: u8, filed: &mut Option<HashSet<MessageId>>) -> Result<(), StoreError> {
        let failed = |error| StoreError::io("sweeping bodies", error);
        for entry in fs::read_dir(self.bodies_dir.layout.shelf(low)).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let Some(id) = path.file_name().and_then(|name| name.to_str()?.parse().ok()) else {
                continue;
            };
            // In this order: a draft that was named since the listing has its row by now.
            if self.bodies_dir.is_unnamed(id) || is_known(&self.queue.0, id)? {
                continue;
            }
            // An index may be damaged; what it does not know is looked for in the table itself.
            let filed = match filed {
                Some(filed) => filed,
                None => {
                    let of_files = "SELECT id FROM messages NOT INDEXED WHERE place <> 0";
                    let mut select = self.queue.0.prepare(of_files)?;
                    let ids = select.query_map([], |row| row.get::<_, [u8; 16]>(0))?;
                    // A row whose id cannot be read may be that of any file.
                    let ids = ids.map(|id| id.map(MessageId::from_bytes));
                    filed.insert(ids.collect::<Result<_, _>>()?)
                }
            };
            if !filed.contains(&id) {
                self.bodies_dir.layout.lose(&path, id).map_err(failed)?;
                self.bodies_dir.vitals.body_lost();
            }
        }
        Ok(())
    }
}

fn is_known(db: &Connection, id: MessageId) -> Result<bool, StoreError> {
    let mut statement = db.prepare_cached("SELECT 1 FROM messages WHERE id = ?1")?;
    let found = statement.query_row([id.to_bytes()], |_| Ok(())).optional()?;
    Ok(found.is_some())
}
