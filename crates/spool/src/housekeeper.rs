//! What nobody waits for, on a thread of its own: checkpoints, the removal of body files that no
//! row names any more, and at the start the sweep for those a crash left.

use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use rusqlite::{Connection, OptionalExtension};

use crate::draft::Workshop;
use crate::layout::free_space;
use crate::schema::{Checkpoint, LogState, POLICIES, QUEUE, checkpoint};
use crate::{MessageId, StoreError};

/// 16 MB of 4096-octet pages. Measured: later makes the slowest commits slower, sooner makes all.
const CHECKPOINT_PAGES: i64 = 16 * 1024 * 1024 / 4096;
/// 64 MB: beyond it the writer is made to wait for once, or the log would grow without end.
const RESTART_PAGES: i64 = 64 * 1024 * 1024 / 4096;
/// Ours: with less space than this the log is kept so short that the tables can surely take it in.
/// Otherwise a full disk could not be left by delivering: the log would have no place to go.
const LOW_SPACE: u64 = 256 * 1024 * 1024;
/// 1 MB.
const LOW_SPACE_PAGES: i64 = 1024 * 1024 / 4096;
/// Jobs between two looks at the length of the log.
const LOOK_EVERY: usize = 64;

/// Which database.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Which {
    Queue,
    Policies,
}

/// Something to do when there is time.
#[derive(Debug)]
pub(crate) enum Chore {
    Checkpoint(Which),
    Remove(PathBuf),
    Stop,
}

/// The writer's view of its log: how to keep it short without copying it itself.
#[derive(Debug)]
pub(crate) struct Log {
    which: Which,
    root: PathBuf,
    chores: Sender<Chore>,
    asked: Arc<Asked>,
    unseen: usize,
}

/// What writer and housekeeper tell each other about one log.
#[derive(Debug, Default)]
struct Asked {
    /// A checkpoint is to be made or being made.
    running: AtomicBool,
    /// It could not catch up with the writer, who is to copy the few pages that are left.
    unfinished: AtomicBool,
}

impl Log {
    /// After each batch: asks for a checkpoint, or finishes one.
    pub(crate) fn keep_short(&mut self, db: &Connection, jobs: usize) -> Result<(), StoreError> {
        if free_space(&self.root).is_ok_and(|(bytes, _)| bytes < LOW_SPACE) {
            return keep_very_short(db);
        }
        if self.asked.unfinished.swap(false, Ordering::AcqRel) {
            checkpoint(db, Checkpoint::Passive)?;
        }
        self.unseen = self.unseen.saturating_add(jobs);
        if self.unseen < LOOK_EVERY || self.asked.running.load(Ordering::Acquire) {
            return Ok(());
        }
        self.unseen = 0;
        let log = checkpoint(db, Checkpoint::Count)?;
        if log.pages >= CHECKPOINT_PAGES && log.copied < log.pages {
            self.asked.running.store(true, Ordering::Release);
            // Fails only when the store is being closed, and that ends with a checkpoint.
            let _ = self.chores.send(Chore::Checkpoint(self.which));
        }
        Ok(())
    }

    /// For want of space: waits for the readers, copies all and gives the log's space back.
    pub(crate) fn try_to_empty(&self, db: &Connection) {
        // If it fails, so does what comes next, and says why.
        let _ = checkpoint(db, Checkpoint::Truncate);
    }
}

/// The thread, and the way to it.
#[derive(Debug)]
pub(crate) struct Housekeeper {
    root: PathBuf,
    chores: Mutex<Option<Sender<Chore>>>,
    stop: Arc<AtomicBool>,
    thread: Mutex<Option<JoinHandle<()>>>,
    queue: Arc<Asked>,
    policies: Arc<Asked>,
}

impl Housekeeper {
    /// Starts the thread with connections of its own.
    pub(crate) fn start(workshop: Arc<Workshop>, sweeps: Sweeps) -> Result<Self, StoreError> {
        let root = workshop.layout.root().to_path_buf();
        let (chores, incoming) = mpsc::channel();
        let stop = Arc::new(AtomicBool::new(false));
        let (queue, policies) = (Arc::new(Asked::default()), Arc::new(Asked::default()));
        let broom = Broom {
            sweeps,
            queue: (QUEUE.reader(&root)?, Arc::clone(&queue)),
            policies: (POLICIES.reader(&root)?, Arc::clone(&policies)),
            workshop,
            incoming,
            stop: Arc::clone(&stop),
        };
        let thread = thread::Builder::new()
            .name("spool-keeper".into())
            .spawn(move || broom.run())
            .map_err(|e| StoreError::io("starting a thread", e))?;
        let thread = Mutex::new(Some(thread));
        Ok(Self { root, chores: Mutex::new(Some(chores)), stop, thread, queue, policies })
    }

    /// The log of one database, for its writer. `None` after [`Housekeeper::close`].
    pub(crate) fn log(&self, which: Which) -> Option<Log> {
        let asked = match which {
            Which::Queue => Arc::clone(&self.queue),
            Which::Policies => Arc::clone(&self.policies),
        };
        let chores = self.chores.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
        let root = self.root.clone();
        Some(Log { which, root, chores, asked, unseen: 0 })
    }

    /// A way to leave chores. `None` after [`Housekeeper::close`].
    pub(crate) fn chores(&self) -> Option<Sender<Chore>> {
        self.chores.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends the thread after the chores it has, but not the sweep: the next start does that again.
    pub(crate) fn close(&self) {
        self.stop.store(true, Ordering::Release);
        let chores = self.chores.lock().unwrap_or_else(PoisonError::into_inner).take();
        // The thread can only have ended already.
        let _ = chores.map(|chores| chores.send(Chore::Stop));
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }
}

/// May files be moved away because no row names them?
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Sweeps {
    /// They may.
    Yes,
    /// The tables are of this very start, and know of nothing that was before.
    No,
}

struct Broom {
    sweeps: Sweeps,
    queue: (Connection, Arc<Asked>),
    policies: (Connection, Arc<Asked>),
    workshop: Arc<Workshop>,
    incoming: Receiver<Chore>,
    stop: Arc<AtomicBool>,
}

impl Broom {
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
            while let Ok(chore) = self.incoming.try_recv() {
                self.attend(chore);
            }
        }
        while !self.stop.load(Ordering::Acquire) {
            let Ok(chore) = self.incoming.recv() else { return };
            self.attend(chore);
        }
        while let Ok(chore) = self.incoming.try_recv() {
            self.attend(chore);
        }
    }

    fn attend(&self, chore: Chore) {
        if self.workshop.vitals.alive().is_err() {
            return;
        }
        match chore {
            Chore::Remove(path) => {
                // If it stays, the next start removes it.
                let _ = fs::remove_file(path);
            }
            Chore::Checkpoint(Which::Queue) => self.shorten(&self.queue),
            Chore::Checkpoint(Which::Policies) => self.shorten(&self.policies),
            // Only wakes: the flag was set before it was sent.
            Chore::Stop => {}
        }
    }

    fn shorten(&self, (db, asked): &(Connection, Arc<Asked>)) {
        match shorten(db) {
            Ok(log) => asked.unfinished.store(log.copied < log.pages, Ordering::Release),
            Err(error) if error.is_failed_sync() => self.workshop.vitals.poison(),
            // A full disk: the log grows until it is not, or commits fail and say so.
            Err(_) => {}
        }
        asked.running.store(false, Ordering::Release);
    }

    /// Moves the bodies on one shelf out of the way that neither a row nor a draft of this process names.
    fn sweep(&self, low: u8, filed: &mut Option<HashSet<MessageId>>) -> Result<(), StoreError> {
        let failed = |error| StoreError::io("sweeping bodies", error);
        for entry in fs::read_dir(self.workshop.layout.shelf(low)).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let Some(id) = path.file_name().and_then(|name| name.to_str()?.parse().ok()) else {
                continue;
            };
            // In this order: a draft that was named since the listing has its row by now.
            if self.workshop.is_unnamed(id) || is_known(&self.queue.0, id)? {
                continue;
            }
            // An index may be damaged; what it does not know is looked for in the table itself.
            let filed = match filed {
                Some(filed) => filed,
                None => filed.insert(filed_messages(&self.queue.0)?),
            };
            if !filed.contains(&id) {
                self.workshop.layout.lose(&path, id).map_err(failed)?;
                self.workshop.vitals.body_lost();
            }
        }
        Ok(())
    }
}

/// The messages whose bodies are files.
fn filed_messages(db: &Connection) -> Result<HashSet<MessageId>, StoreError> {
    let mut select = db.prepare("SELECT id FROM messages NOT INDEXED WHERE place <> 0")?;
    let ids = select.query_map([], |row| row.get::<_, [u8; 16]>(0))?;
    // A row whose id cannot be read may be that of any file.
    Ok(ids.map(|id| id.map(MessageId::from_bytes)).collect::<Result<_, _>>()?)
}

fn is_known(db: &Connection, id: MessageId) -> Result<bool, StoreError> {
    let mut statement = db.prepare_cached("SELECT 1 FROM messages WHERE id = ?1")?;
    let found = statement.query_row([id.to_bytes()], |_| Ok(())).optional()?;
    Ok(found.is_some())
}

fn keep_very_short(db: &Connection) -> Result<(), StoreError> {
    let log = checkpoint(db, Checkpoint::Count)?;
    if log.pages.saturating_sub(log.copied) >= LOW_SPACE_PAGES {
        checkpoint(db, Checkpoint::Restart)?;
    }
    Ok(())
}

fn shorten(db: &Connection) -> Result<LogState, StoreError> {
    let log = checkpoint(db, Checkpoint::Passive)?;
    if log.pages >= RESTART_PAGES && log.copied < log.pages {
        return Ok(checkpoint(db, Checkpoint::Restart)?);
    }
    Ok(log)
}
