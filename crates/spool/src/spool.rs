//! The open store: what the rest of the program talks to.

mod actions;
mod reads;
mod writes;

pub use self::writes::SettlePermit;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use rusqlite::{Connection, ErrorCode};

use crate::commit::Rows;
use crate::database_lock::DatabaseLock;
use crate::draft::{BodyDirectory, Draft};
use crate::foreign_readers::{Pinned, foreign_readers};
use crate::housekeeper::{Housekeeper, HousekeeperJob, Sweeps, WhichDatabase};
use crate::imported::Arriving;
use crate::journal::Journal;
use crate::journal::shared::SharedYoung;
use crate::layout::{Layout, Lock, free_space, is_read_only, network_file_system, set_aside};
use crate::log::broken::{self, Unknown};
use crate::mend::{self, Mended, Unrecorded};
use crate::opening::{OpenReport, Options, PoliciesFile, Space};
use crate::policies::Policies;
use crate::readers::Readers;
use crate::reserve::{POLICY_RESERVE_BYTES, Reserve};
use crate::schema::{Checkpoint, PAGE_BYTES, POLICIES, QUEUE, Schema, checkpoint};
use crate::upgrade::copy_from_policies;
use crate::vitals::{Health, Vitals};
use crate::writer::{Duties, Needs, Order, Tools, Urgency, Writer};
use crate::{IdSource, MessageId, OpenError, StoreError, marks};

const RESERVE_FILE: &str = "reserve";
const POLICY_RESERVE_FILE: &str = "policies.reserve";

/// The store. Clones share it; the last one to go closes it.
#[derive(Clone, Debug)]
pub struct Spool {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    // Closed in the order of `Inner::close`, not of this list.
    bodies_dir: Arc<BodyDirectory>,
    queue: Arc<Writer>,
    readers: Arc<Readers>,
    young: SharedYoung,
    policies: Policies,
    housekeeper: Housekeeper,
    rows: Arc<Rows>,
    arriving: Arriving,
    unrecorded: Arc<Unrecorded>,
    ids: IdSource,
    report: OpenReport,
    locks: Mutex<Option<DirectoryLocks>>,
}

/// What makes this process the only one in the directory.
#[derive(Debug)]
struct DirectoryLocks {
    lock: Lock,
    database_lock: Arc<DatabaseLock>,
}

impl Spool {
    /// Opens the data directory, makes it if it is not there. A start after a crash is the same as
    /// any other.
    ///
    /// # Errors
    ///
    /// [`OpenError`], which names the file.
    pub fn open(dir: &Path, options: Options) -> Result<Self, OpenError> {
        let layout = Layout::create(dir)?;
        let lock = Lock::take(&layout)?;
        let reserve = layout.file(RESERVE_FILE);
        let policy_reserve = layout.file(POLICY_RESERVE_FILE);
        let database_lock = DatabaseLock::take(&layout, QUEUE.file)?;
        let is_new = dir.join(QUEUE.file).metadata().map_or(true, |file| file.len() == 0);
        mend_log(&QUEUE, dir)?;
        let queue = with_reserve(&reserve, || QUEUE.open(dir))?;
        with_reserve(&reserve, || {
            marks::mend_pages(&queue)
                .map_err(|source| OpenError::Database { path: dir.join(QUEUE.file), source })
        })?;
        // First: what is damaged in policies.db may be moved aside next.
        with_reserve(&reserve, || copy_from_policies(&queue, dir))?;
        let (policies, found) = open_policies(dir, &policy_reserve)?;
        layout.fill()?;
        let bodies = if is_new { layout.count_bodies() } else { 0 };
        let report = OpenReport {
            network_file_system: network_file_system(dir),
            policies: found,
            bodies_without_queue: bodies,
            mended_logs: broken::kept(dir)
                .map_err(|source| OpenError::Io { path: dir.into(), source })?,
        };
        let inner = Inner::start(layout, (lock, database_lock), [queue, policies], options, report)
            .map_err(|error| OpenError::Io { path: dir.into(), source: why_not_started(&error) })?;
        let spool = Self { inner: Arc::new(inner) };
        spool.inner.unrecorded.restore(spool.marks_of_done());
        Ok(spool)
    }

    /// What was noticed when it was opened.
    pub fn report(&self) -> &OpenReport {
        &self.inner.report
    }

    /// Can it do its work? After [`Health::Poisoned`] the process must end.
    pub fn health(&self) -> Health {
        self.inner.bodies_dir.vitals.health()
    }

    /// To be called each second: mail that has been in the journal for that long gets its rows.
    /// Looks whether queue.db and the lock are still where others look for them; see
    /// [`Health::Detached`]. A lock that somebody removed is made anew: says whether it was.
    ///
    /// # Errors
    ///
    /// [`OpenError`] when it cannot be made.
    pub fn look_around(&self) -> Result<bool, OpenError> {
        self.inner.queue.tick();
        self.inner.housekeeper.look_at_readers();
        let vitals = &self.inner.bodies_dir.vitals;
        if is_read_only(self.inner.bodies_dir.layout.root()) {
            vitals.read_only();
        }
        let mut locks = self.inner.locks.lock().unwrap_or_else(PoisonError::into_inner);
        // After `close` there are none.
        let Some(DirectoryLocks { lock, database_lock }) = locks.as_mut() else { return Ok(false) };
        if !database_lock.holds() {
            vitals.detached();
            return Ok(false);
        }
        vitals.attached();
        if lock.holds() {
            return Ok(false);
        }
        *lock = Lock::take(&self.inner.bodies_dir.layout)?;
        Ok(true)
    }

    /// Who reads queue.db such that its log cannot be copied into the tables, and grows; see
    /// [`Pinned`].
    pub fn pinned(&self) -> Option<Pinned> {
        let log_bytes = self.inner.housekeeper.pinned_bytes()?;
        Some(Pinned { log_bytes, readers: foreign_readers(self.inner.bodies_dir.layout.root()) })
    }

    /// What is left of the disk. Two system calls and a short read.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the system does not say.
    pub fn space(&self) -> Result<Space, StoreError> {
        let (available, inodes) = free_space(self.inner.bodies_dir.layout.root())
            .map_err(|e| StoreError::io("asking for free space", e))?;
        let pages: i64 = self.inner.readers.read(|db| {
            Ok(db.prepare_cached("PRAGMA freelist_count")?.query_row([], |row| row.get(0))?)
        })?;
        let reusable = pages.unsigned_abs().saturating_mul(PAGE_BYTES);
        Ok(Space { available, reusable, inodes })
    }

    /// Bodies that no message named and that were moved to `bodies/lost` since the start.
    pub fn lost_bodies(&self) -> u64 {
        self.inner.bodies_dir.vitals.lost_bodies()
    }

    /// Removes the bodies that were moved to `bodies/lost` before this time. Blocks for a look at
    /// the directory.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the system refuses.
    pub fn forget_lost_bodies(&self, before: Timestamp) -> Result<(), StoreError> {
        let forgotten = self.inner.bodies_dir.layout.forget_lost(before);
        forgotten.map_err(|error| StoreError::io("removing lost bodies", error))
    }

    /// Commits what waits, copies the logs into the tables and gives the directory free. Calls
    /// after it fail with [`StoreError::Closed`]. Dropping the last clone does the same.
    pub fn close(&self) {
        self.inner.close();
    }

    /// A new id, made at `now`.
    pub fn new_id(&self, now: Timestamp) -> MessageId {
        self.inner.ids.next(now)
    }

    /// Begins to receive the body of a message with this id.
    pub fn draft(&self, id: MessageId) -> Draft {
        Draft::new(id, Arc::clone(&self.inner.bodies_dir))
    }

    /// What is remembered about policies and hosts.
    pub fn policies(&self) -> &Policies {
        &self.inner.policies
    }

    /// Was damage of queue.db met that is not dealt with yet?
    pub(crate) fn has_met_damage(&self) -> bool {
        self.inner.bodies_dir.vitals.is_damaged()
    }

    /// What was done about damage since the last time that this was asked.
    pub fn take_mended(&self) -> Vec<Mended> {
        self.inner.bodies_dir.vitals.take_mended()
    }

    /// What of the journal could not be read since the last time that this was asked, by file and
    /// place: mail that was accepted, or a delivery of mail that is sent again now.
    pub fn take_journal_damage(&self) -> Vec<String> {
        self.inner.bodies_dir.vitals.take_journal_damage()
    }

    /// What is asked about this mail is answered by the tables: what of it is only in the journal
    /// gets its rows.
    pub(crate) fn bring_in(&self, needs: Needs) -> Result<(), StoreError> {
        let is_there = match needs {
            Needs::Nothing => true,
            Needs::Message(id) => self.inner.young.lock().place_of(id).is_none(),
            Needs::Everything => !self.inner.queue.has_young(),
        };
        if is_there {
            return Ok(());
        }
        let (answer, result) = mpsc::sync_channel(1);
        let order = Order::needing(Urgency::Ordinary, needs);
        let answer = move |result| {
            // The asker waits below.
            let _ = answer.send(result);
        };
        self.inner.queue.submit(order, |_| Ok(()), answer);
        result.recv().map_err(|_| StoreError::Closed)?
    }

    /// The same for who only looks. On a full or damaged disk some mail may get no rows, and then
    /// only what has them is told of: that is better than no answer.
    fn bring_in_for_a_look(&self, needs: Needs) -> Result<(), StoreError> {
        match self.bring_in(needs) {
            Err(error @ (StoreError::Poisoned | StoreError::Closed)) => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    pub(crate) fn read_queue<T>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.inner.readers.read(read)
    }

    pub(crate) fn young(&self) -> &SharedYoung {
        &self.inner.young
    }

    pub(crate) fn arriving(&self) -> &Arriving {
        &self.inner.arriving
    }

    pub(crate) fn rows(&self) -> &Arc<Rows> {
        &self.inner.rows
    }

    pub(crate) fn write_ordered<T, A, D>(&self, order: impl Into<Order>, apply: A, done: D)
    where
        T: Send + 'static,
        A: FnMut(&Connection) -> Result<T, StoreError> + Send + 'static,
        D: FnOnce(Result<T, StoreError>) + Send + 'static,
    {
        self.inner.queue.submit(order, apply, done);
    }
}

fn why_not_started(error: &StoreError) -> io::Error {
    let cure = if matches!(error, StoreError::Full) {
        "; make some, and start again: mail that is in the journal needs it"
    } else if error.is_damage() {
        "; `staunch doctor --data --repair` makes queue.db anew of what can be read"
    } else {
        ""
    };
    io::Error::other(format!("{error}{cure}"))
}

/// On a full disk the reserve is given up for the start, which may need space to recover.
fn with_reserve<T>(
    reserve: &Path,
    open: impl Fn() -> Result<T, OpenError>,
) -> Result<T, OpenError> {
    let opened = open();
    let full = matches!(&opened, Err(OpenError::Database { source, .. })
        if source.sqlite_error_code() == Some(ErrorCode::DiskFull));
    if full && std::fs::remove_file(reserve).is_ok() { open() } else { opened }
}

/// What is in the place of policies.db and is no database, or cannot be brought to the new format,
/// is moved aside: mail does not stop for it, and which domains' mail has to wait is in queue.db.
fn open_policies(dir: &Path, reserve: &Path) -> Result<(Connection, PoliciesFile), OpenError> {
    let path = dir.join(POLICIES.file);
    let is_new = path.metadata().map_or(true, |file| file.len() == 0);
    let open = || {
        mend_log(&POLICIES, dir)?;
        with_reserve(reserve, || POLICIES.open(dir))
    };
    match open() {
        Ok(db) if is_new => Ok((db, PoliciesFile::Made)),
        Ok(db) => Ok((db, PoliciesFile::Kept)),
        Err(error) if error.is_damage() => {
            let aside = set_aside(dir, POLICIES.file)
                .map_err(|source| OpenError::Io { path: path.clone(), source })?;
            Ok((open()?, PoliciesFile::SetAside(aside)))
        }
        Err(error) => Err(error),
    }
}

/// Before SQLite opens it.
fn mend_log(schema: &Schema, dir: &Path) -> Result<(), OpenError> {
    broken::mend(&dir.join(schema.file), Unknown::Refuse).map(drop)
}

/// Files that stay because the keeper has ended are removed at the next start.
fn remove_files(jobs: Option<&Sender<HousekeeperJob>>, files: impl IntoIterator<Item = PathBuf>) {
    for file in files {
        let _ = jobs.map(|jobs| jobs.send(HousekeeperJob::Remove(file)));
    }
}

impl Inner {
    fn start(
        layout: Layout,
        (lock, database_lock): (Lock, DatabaseLock),
        [queue, policies]: [Connection; 2],
        options: Options,
        report: OpenReport,
    ) -> Result<Self, StoreError> {
        let (root, database_lock) = (layout.root().to_path_buf(), Arc::new(database_lock));
        let vitals = Arc::new(Vitals::default());
        let reserve =
            Reserve::new(layout.file(RESERVE_FILE), options.reserve_bytes, Arc::clone(&vitals));
        // Without this one policies may not be stored, which stops no other mail.
        let policy_reserve = Reserve::new(
            layout.file(POLICY_RESERVE_FILE),
            options.reserve_bytes.min(POLICY_RESERVE_BYTES),
            Arc::default(),
        );
        let bodies_dir =
            Arc::new(BodyDirectory::new(layout, Arc::clone(&vitals), options.inline_body_max));
        let sweeps = match report.bodies_without_queue {
            0 => Sweeps::Yes,
            1.. => Sweeps::No,
        };
        let housekeeper = Housekeeper::start(Arc::clone(&bodies_dir), sweeps)?;
        let start = |db, which, reserve, journal| {
            let log = housekeeper.log(which).ok_or(StoreError::Closed)?;
            let duties = match which {
                WhichDatabase::Queue => Duties::Queue(Arc::clone(&database_lock)),
                WhichDatabase::Policies => Duties::Nothing,
            };
            let tools = Tools { db, log, reserve, journal, idle: options.journal_idle };
            Writer::start(tools, Arc::clone(&vitals), duties)
                .map_err(|e| StoreError::io("starting a thread", e))
        };
        let rows = Arc::new(Rows::open(&queue)?);
        let readers = |schema| Arc::new(Readers::new(schema, root.clone(), Arc::clone(&vitals)));
        let journal = take_over(&bodies_dir, &queue, &rows, &reserve)?;
        let young = journal.young().clone();
        let queue = Arc::new(start(queue, WhichDatabase::Queue, reserve, Some(journal))?);
        let readers_of_queue = readers(&QUEUE);
        let beside = (Arc::clone(&queue), Arc::clone(&readers_of_queue));
        let writer = Arc::new(start(policies, WhichDatabase::Policies, policy_reserve, None)?);
        Ok(Self {
            queue,
            policies: Policies::new(writer, readers(&POLICIES), beside),
            readers: readers_of_queue,
            young,
            report,
            rows,
            arriving: Arriving::default(),
            unrecorded: Arc::default(),
            ids: IdSource::new(),
            bodies_dir,
            housekeeper,
            locks: Mutex::new(Some(DirectoryLocks { lock, database_lock })),
        })
    }

    /// Writers first: their last batches leave jobs. The lock last: what follows is not ours.
    fn close(&self) {
        self.queue.close();
        self.policies.close();
        self.housekeeper.close();
        let locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(locks) = locks else { return };
        if self.bodies_dir.vitals.alive().is_ok() {
            for schema in [&QUEUE, &POLICIES] {
                // Only to make the next start shorter; it does the same.
                let _ = schema
                    .reader(self.bodies_dir.layout.root())
                    .and_then(|db| checkpoint(&db, Checkpoint::Truncate));
            }
        }
        drop(locks);
    }
}

/// What a former process left in the journal goes into the tables. On a full disk the reserve is
/// given up for that.
fn take_over(
    bodies_dir: &BodyDirectory,
    db: &Connection,
    rows: &Arc<Rows>,
    reserve: &Reserve,
) -> Result<Journal, StoreError> {
    let mut journal = Journal::open(&bodies_dir.layout.journal(), db, Arc::clone(rows))?;
    match journal.take_over(db) {
        Err(StoreError::Full) if reserve.release() => journal.take_over(db)?,
        Err(error) if error.is_damage() => {
            bodies_dir.vitals.mended(mend::mend(db));
            journal.take_over(db)?;
        }
        taken => taken?,
    }
    bodies_dir.vitals.journal_damaged(journal.take_holes());
    Ok(journal)
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.close();
    }
}
