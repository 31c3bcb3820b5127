//! The open store: what the rest of the program talks to.

mod actions;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use rusqlite::{Connection, ErrorCode};

use crate::body::{self, Body};
use crate::commit::{self, Memo};
use crate::draft::{Draft, Sealed, Workshop};
use crate::due::{
    self, DueCursor, DuePage, Overdue, OverdueCursor, OverduePage, Want, Which as Wanted,
};
use crate::housekeeper::{Chore, Housekeeper, Which};
use crate::lane_rows::update_lane;
use crate::layout::{Layout, Lock, free_space, network_file_system, set_aside};
use crate::listing::{self, Counts, Filter, ListCursor, ListPage, MessageDetail, RecipientPlace};
use crate::message::{Envelope, LaneKey, LaneSummary, LaneUpdate, Settled, Settlement};
use crate::opening::{OpenReport, Options, PoliciesFile, Space};
use crate::policies::Policies;
use crate::readers::Readers;
use crate::reserve::{POLICY_RESERVE_BYTES, Reserve};
use crate::schema::{Checkpoint, PAGE_BYTES, POLICIES, QUEUE, checkpoint};
use crate::upgrade::copy_from_policies;
use crate::vitals::{Health, Vitals};
use crate::writer::{Urgency, Writer};
use crate::{IdSource, MessageId, OpenError, StoreError};

const RESERVE_FILE: &str = "reserve";
const POLICY_RESERVE_FILE: &str = "policies.reserve";

/// Proof that, when it was given, a settlement could be written. [`Spool::settle_permit`] makes it.
#[derive(Debug)]
pub struct SettlePermit {
    _given: (),
}

/// The store. Clones share it; the last one to go closes it.
#[derive(Clone, Debug)]
pub struct Spool {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    // Closed in the order of `Inner::close`, not of this list.
    workshop: Arc<Workshop>,
    queue: Arc<Writer>,
    readers: Arc<Readers>,
    policies: Policies,
    housekeeper: Housekeeper,
    memo: Arc<Memo>,
    ids: IdSource,
    report: OpenReport,
    lock: Mutex<Option<Lock>>,
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
        let queue = with_reserve(&reserve, || QUEUE.open(dir))?;
        // First: what is damaged in policies.db may be moved aside next.
        with_reserve(&reserve, || copy_from_policies(&queue, dir))?;
        let (policies, found) = open_policies(dir, &policy_reserve)?;
        layout.fill()?;
        let report = OpenReport { network_file_system: network_file_system(dir), policies: found };
        let inner = Inner::start(layout, lock, [queue, policies], options, report)
            .map_err(|error| OpenError::Io { path: dir.into(), source: io::Error::other(error) })?;
        Ok(Self { inner: Arc::new(inner) })
    }

    /// What was noticed when it was opened.
    pub fn report(&self) -> &OpenReport {
        &self.inner.report
    }

    /// Can it do its work? After [`Health::Poisoned`] the process must end.
    pub fn health(&self) -> Health {
        self.inner.workshop.vitals.health()
    }

    /// What is left of the disk. Two system calls and a short read.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the system does not say.
    pub fn space(&self) -> Result<Space, StoreError> {
        let (available, inodes) = free_space(self.inner.workshop.layout.root())
            .map_err(|e| StoreError::io("asking for free space", e))?;
        let pages: i64 = self.inner.readers.read(|db| {
            Ok(db.prepare_cached("PRAGMA freelist_count")?.query_row([], |row| row.get(0))?)
        })?;
        let reusable = pages.unsigned_abs().saturating_mul(PAGE_BYTES);
        Ok(Space { available, reusable, inodes })
    }

    /// Commits what waits, copies the logs into the tables and gives the directory free. Calls after
    /// it fail with [`StoreError::Closed`]. Dropping the last clone does the same.
    pub fn close(&self) {
        self.inner.close();
    }

    /// A new id, made at `now`.
    pub fn new_id(&self, now: Timestamp) -> MessageId {
        self.inner.ids.next(now)
    }

    /// Begins a message.
    pub fn draft(&self, id: MessageId) -> Draft {
        Draft::new(id, Arc::clone(&self.inner.workshop))
    }

    /// Puts a message into the queue, due at [`Envelope::begins_at`]. `done` runs after the sync that makes it
    /// durable, on the writer's thread: it must not block.
    pub fn commit<D>(&self, body: Sealed, envelope: Envelope, done: D)
    where
        D: FnOnce(Result<MessageId, StoreError>) + Send + 'static,
    {
        if let Err(error) = commit::check(&envelope) {
            return done(Err(error));
        }
        let (id, ward) = (body.id(), body.ward());
        let memo = Arc::clone(&self.inner.memo);
        let insert = move |db: &Connection| commit::insert(db, &body, &envelope, &memo);
        self.inner.queue.submit(Urgency::Ordinary, insert, move |result| {
            if let (Ok(()), Some(ward)) = (&result, ward) {
                ward.keep();
            }
            done(result.map(|()| id));
        });
    }

    /// Proves, before anything is transmitted, that its settlement can be written.
    ///
    /// # Errors
    ///
    /// [`StoreError::Full`] while the reserve is gone, [`StoreError::Poisoned`] for good.
    pub fn settle_permit(&self) -> Result<SettlePermit, StoreError> {
        match self.health() {
            Health::Good => Ok(SettlePermit { _given: () }),
            Health::NoReserve => Err(StoreError::Full),
            Health::Poisoned => Err(StoreError::Poisoned),
        }
    }

    /// Records what an attempt came to: recipients, notices and lane in one transaction. If the
    /// message was deleted meanwhile, or all recipients that this is about have left it, only the lane is
    /// updated. `done` must not block.
    ///
    /// While a settlement has failed, its recipients must not be tried again without an answer to
    /// the question why: each would get the message twice.
    pub fn settle<D>(&self, settlement: Settlement, done: D)
    where
        D: FnOnce(Result<Settled, StoreError>) + Send + 'static,
    {
        let refused = settlement.notices.iter().find_map(|new| commit::check(&new.envelope).err());
        if let Some(error) = refused {
            return done(Err(error));
        }
        let wards: Vec<_> = settlement.notices.iter().filter_map(|new| new.body.ward()).collect();
        let chores = self.inner.housekeeper.chores();
        let (workshop, memo) = (Arc::clone(&self.inner.workshop), Arc::clone(&self.inner.memo));
        let apply = move |db: &Connection| commit::settle(db, &settlement, &workshop.layout, &memo);
        self.inner.queue.submit(Urgency::Settling, apply, move |result| {
            done(result.map(|outcome| {
                match outcome.settled {
                    // Rows name the notices' bodies now.
                    Settled::Waiting | Settled::Gone => wards.iter().for_each(|ward| ward.keep()),
                    Settled::Missing | Settled::Moot => {}
                }
                remove_files(chores.as_ref(), outcome.file);
                outcome.settled
            }));
        });
    }

    /// Records what was learnt about a lane without an attempt on a message.
    pub fn update_lane<D>(&self, update: LaneUpdate, done: D)
    where
        D: FnOnce(Result<(), StoreError>) + Send + 'static,
    {
        let apply = move |db: &Connection| update_lane(db, &update);
        self.inner.queue.submit(Urgency::Settling, apply, done);
    }

    /// The lanes in which mail waits that is not held, and those that failed. Blocks for one pass over the lanes
    /// and one over an index: 50 ms for 50,000, 0.5 s for a million rows without use.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the queue cannot be read.
    pub fn lanes(&self) -> Result<Vec<LaneSummary>, StoreError> {
        self.inner.readers.read(due::lanes)
    }

    /// Up to `limit` recipients of a lane that are due at `now`, by [`crate::turn`]. Blocks for a read.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the queue cannot be read.
    pub fn next(
        &self,
        lane: &LaneKey,
        now: Timestamp,
        after: Option<DueCursor>,
        limit: usize,
    ) -> Result<DuePage, StoreError> {
        let want = Want { lane, which: Wanted::Due, until: now, after, limit };
        self.inner.readers.read(|db| due::page(db, &want))
    }

    /// When the next queued recipient of a lane is due that is not due at `after` yet. Blocks for a
    /// read.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the queue cannot be read.
    pub fn next_due(
        &self,
        lane: &LaneKey,
        after: Timestamp,
    ) -> Result<Option<Timestamp>, StoreError> {
        self.inner.readers.read(|db| due::next_due(db, lane, after))
    }

    /// Up to `limit` queued recipients of a lane that are too old at `at`, whether due or not.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the queue cannot be read.
    pub fn expired(
        &self,
        lane: &LaneKey,
        at: Timestamp,
        after: Option<DueCursor>,
        limit: usize,
    ) -> Result<DuePage, StoreError> {
        let want = Want { lane, which: Wanted::Expired, until: at, after, limit };
        self.inner.readers.read(|db| due::page(db, &want))
    }

    /// Up to `limit` queued recipients of a lane that have waited since `since` or longer, and whose
    /// sender does not know that and is to be told.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the queue cannot be read.
    pub fn unwarned(
        &self,
        lane: &LaneKey,
        since: Timestamp,
        after: Option<DueCursor>,
        limit: usize,
    ) -> Result<DuePage, StoreError> {
        let want = Want { lane, which: Wanted::Unwarned, until: since, after, limit };
        self.inner.readers.read(|db| due::page(db, &want))
    }

    /// When the next deadline after `after` is that nothing was done about yet.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the queue cannot be read.
    pub fn next_deadline(&self, after: Timestamp) -> Result<Option<Timestamp>, StoreError> {
        self.inner.readers.read(|db| due::next_deadline(db, after))
    }

    /// A page of the messages and lanes of recipients whose deadline was at `at` or before, held ones too.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the queue cannot be read.
    pub fn overdue(
        &self,
        at: Timestamp,
        after: Option<OverdueCursor>,
        limit: usize,
    ) -> Result<OverduePage, StoreError> {
        self.inner.readers.read(|db| due::overdue(db, at, after, limit))
    }

    /// The recipients that [`Spool::overdue`] means, held ones too: one message at most.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the queue cannot be read.
    pub fn overdue_of(&self, which: &Overdue, at: Timestamp) -> Result<DuePage, StoreError> {
        self.inner.readers.read(|db| due::overdue_of(db, which, at))
    }

    /// The body of a message. Blocks for a read.
    ///
    /// # Errors
    ///
    /// [`StoreError::Missing`] if it is not in the queue; [`StoreError::Corrupt`] if its body is
    /// gone or has another length.
    pub fn body(&self, id: MessageId) -> Result<Body, StoreError> {
        self.inner.readers.read(|db| body::open(db, &self.inner.workshop.layout, id))
    }

    /// The header section of a message, cut at `max` octets; the empty line is not part of it.
    ///
    /// # Errors
    ///
    /// As [`Spool::body`].
    pub fn header_block(&self, id: MessageId, max: u64) -> Result<Vec<u8>, StoreError> {
        self.inner.readers.read(|db| {
            let limit = body::header_len(db, id)?.min(max);
            body::front(db, &self.inner.workshop.layout, id, limit)
        })
    }

    /// What the queue holds. Blocks for a pass over an index.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the queue cannot be read.
    pub fn count(&self) -> Result<Counts, StoreError> {
        self.inner.readers.read(listing::counts)
    }

    /// A page of at most `limit` recipients that match.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the queue cannot be read.
    pub fn list(
        &self,
        filter: &Filter,
        after: Option<ListCursor>,
        limit: usize,
    ) -> Result<ListPage, StoreError> {
        self.inner.readers.read(|db| listing::list(db, filter, after, limit))
    }

    /// Where the queue ends now: what comes later is behind it in every listing.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the queue cannot be read.
    pub fn end(&self) -> Result<ListCursor, StoreError> {
        let end = self.inner.readers.read(listing::end)?;
        self.inner.memo.note_newest(end.message_row());
        Ok(end)
    }

    /// One message with the recipients it waits for; `None` if it is not in the queue.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the queue cannot be read.
    pub fn show(&self, id: MessageId) -> Result<Option<MessageDetail>, StoreError> {
        self.inner.readers.read(|db| listing::show(db, id))
    }

    /// Where the recipients of a message are, in that lane or in all; none if it is not in the queue. Blocks for a
    /// short read.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the queue cannot be read.
    pub fn places(
        &self,
        id: MessageId,
        lane: Option<&LaneKey>,
    ) -> Result<Vec<RecipientPlace>, StoreError> {
        self.inner.readers.read(|db| listing::places(db, id, lane))
    }

    /// What is remembered about policies and hosts.
    pub fn policies(&self) -> &Policies {
        &self.inner.policies
    }

    pub(crate) fn read_queue<T>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.inner.readers.read(read)
    }

    pub(crate) fn write_queue<T, A, D>(&self, urgency: Urgency, apply: A, done: D)
    where
        T: Send + 'static,
        A: FnMut(&Connection) -> Result<T, StoreError> + Send + 'static,
        D: FnOnce(Result<T, StoreError>) + Send + 'static,
    {
        self.inner.queue.submit(urgency, apply, done);
    }
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

/// What is in the place of policies.db and is no database, or cannot be brought to the new format, is moved aside: mail
/// does not stop for it, and which domains' mail has to wait is in queue.db.
fn open_policies(dir: &Path, reserve: &Path) -> Result<(Connection, PoliciesFile), OpenError> {
    let path = dir.join(POLICIES.file);
    let is_new = path.metadata().map_or(true, |file| file.len() == 0);
    let open = || with_reserve(reserve, || POLICIES.open(dir));
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

/// Files that stay because the keeper has ended are removed at the next start.
fn remove_files(chores: Option<&Sender<Chore>>, files: impl IntoIterator<Item = PathBuf>) {
    for file in files {
        let _ = chores.map(|chores| chores.send(Chore::Remove(file)));
    }
}

impl Inner {
    fn start(
        layout: Layout,
        lock: Lock,
        [queue, policies]: [Connection; 2],
        options: Options,
        report: OpenReport,
    ) -> Result<Self, StoreError> {
        let root = layout.root().to_path_buf();
        let vitals = Arc::new(Vitals::default());
        let reserve =
            Reserve::new(layout.file(RESERVE_FILE), options.reserve_bytes, Arc::clone(&vitals));
        // Without this one policies may not be stored, which stops no other mail.
        let policy_reserve = Reserve::new(
            layout.file(POLICY_RESERVE_FILE),
            options.reserve_bytes.min(POLICY_RESERVE_BYTES),
            Arc::default(),
        );
        let workshop =
            Arc::new(Workshop::new(layout, Arc::clone(&vitals), options.inline_body_max));
        let housekeeper = Housekeeper::start(Arc::clone(&workshop))?;
        let start = |db, which, reserve| {
            let log = housekeeper.log(which).ok_or(StoreError::Closed)?;
            Writer::start(db, log, reserve, Arc::clone(&vitals))
                .map_err(|e| StoreError::io("starting a thread", e))
        };
        let readers = |schema| Arc::new(Readers::new(schema, root.clone(), Arc::clone(&vitals)));
        let queue = Arc::new(start(queue, Which::Queue, reserve)?);
        let readers_of_queue = readers(&QUEUE);
        let beside = (Arc::clone(&queue), Arc::clone(&readers_of_queue));
        let writer = Arc::new(start(policies, Which::Policies, policy_reserve)?);
        Ok(Self {
            queue,
            policies: Policies::new(writer, readers(&POLICIES), beside),
            readers: readers_of_queue,
            report,
            memo: Arc::default(),
            ids: IdSource::new(),
            workshop,
            housekeeper,
            lock: Mutex::new(Some(lock)),
        })
    }

    /// Writers first: their last batches leave chores. The lock last: what follows is not ours.
    fn close(&self) {
        self.queue.close();
        self.policies.close();
        self.housekeeper.close();
        let Some(lock) = self.lock.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            return;
        };
        if self.workshop.vitals.alive().is_ok() {
            for schema in [&QUEUE, &POLICIES] {
                // Only to make the next start shorter; it does the same.
                let _ = schema
                    .reader(self.workshop.layout.root())
                    .and_then(|db| checkpoint(&db, Checkpoint::Truncate));
            }
        }
        drop(lock);
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.close();
    }
}
