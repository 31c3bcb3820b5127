//! The write-ahead log of a database: kept short, whoever else reads the file.
//!
//! The keeper's thread copies it into the tables while the writer goes on; what came meanwhile the
//! writer copies itself, and the log starts over. A log that grows faster than it is copied makes
//! the writer wait. One that a reader pins (a backup tool, a forgotten shell) makes nobody wait: it
//! grows, and is cut when the reader has gone.

pub(crate) mod broken;
pub(crate) mod frames;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use rusqlite::Connection;
use rustix::fs::{Advice, fadvise};

use crate::StoreError;
use crate::housekeeper::{HousekeeperJob, WhichDatabase};
use crate::layout::{free_space, refuses_writes};
use crate::schema::{Checkpoint, LogState, PAGE_BYTES, checkpoint};

/// 16 MB of 4096-octet pages. Measured: later makes the slowest commits slower, sooner makes all.
const COPY_PAGES: i64 = 16 * 1024 * 1024 / 4096;
/// 8 MB: with less left to copy it is not pinned: readers of our own are some batches behind. And
/// how much a pinned log grows between two tries.
const PINNED_PAGES: i64 = COPY_PAGES / 2;
/// 40 MB: beyond it the writer waits for the copy. With one more transaction the log stays below 64
/// MB.
const WAIT_PAGES: i64 = 40 * 1024 * 1024 / 4096;
/// 64 MB: a log that was longer is cut, and not only written from its start again.
const CUT_PAGES: i64 = 64 * 1024 * 1024 / 4096;
/// Our choice: with less space than this the log is kept so short that the tables can surely take
/// it in. Otherwise a full disk could not be left by delivering: the log would have no place to go.
const LOW_SPACE: u64 = 256 * 1024 * 1024;
/// In pages of 4096 octets: 1 MB.
const LOW_SPACE_PAGES: i64 = 1024 * 1024 / 4096;
/// Jobs between two looks at the length of the log.
const LOOK_EVERY: usize = 64;

/// The writer's view of its log: how to keep it short without copying it itself.
#[derive(Debug)]
pub(crate) struct WriteAheadLog {
    which: WhichDatabase,
    root: PathBuf,
    jobs: Sender<HousekeeperJob>,
    copying: Arc<Copying>,
    unseen: usize,
}

/// What writer and keeper tell each other about one log.
#[derive(Debug, Default)]
pub(crate) struct Copying {
    state: Mutex<CopiedState>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct CopiedState {
    /// The keeper is to copy, or copies.
    asked: bool,
    /// The keeper has copied; the writer is to copy the few pages that came meanwhile.
    unfinished: bool,
    /// A reader keeps it from being copied to its end: its length in pages.
    pinned: Option<i64>,
}

impl Copying {
    fn state(&self) -> MutexGuard<'_, CopiedState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Octets of a log that a reader keeps from being copied.
    pub(crate) fn pinned_bytes(&self) -> Option<u64> {
        let pages = self.state().pinned?;
        Some(pages.unsigned_abs().saturating_mul(PAGE_BYTES))
    }

    /// Is it worth a try to copy a log that was pinned? Then it is asked for.
    pub(crate) fn asks_again(&self) -> bool {
        let mut state = self.state();
        state.pinned.is_some() && !std::mem::replace(&mut state.asked, true)
    }

    /// The keeper has done what it was asked for.
    pub(crate) fn end(&self, copied: Option<CopiedLog>) {
        let mut state = self.state();
        state.asked = false;
        match copied {
            Some(CopiedLog::ToTheEnd { .. }) => state.unfinished = true,
            Some(CopiedLog::ToAReader { pages }) => state.pinned = Some(pages),
            // A full disk: the log grows until it is not, or commits fail and say so.
            None => {}
        }
        self.ended.notify_all();
    }

    fn wait_for_keeper(&self) {
        let mut state = self.state();
        while state.asked {
            state = self.ended.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// How far a copy came.
#[derive(Clone, Copy, Debug)]
pub(crate) enum CopiedLog {
    /// To what was its end when the copy began.
    ToTheEnd {
        /// Pages in the log after the copy.
        pages: i64,
    },
    /// A reader needs what the tables were before.
    ToAReader {
        /// Pages in the log after the copy.
        pages: i64,
    },
}

impl WriteAheadLog {
    pub(crate) fn new(
        which: WhichDatabase,
        root: PathBuf,
        jobs: Sender<HousekeeperJob>,
        copying: Arc<Copying>,
    ) -> Self {
        Self { which, root, jobs, copying, unseen: 0 }
    }

    /// Does the file system refuse every write?
    pub(crate) fn is_read_only(&self) -> bool {
        refuses_writes(&self.root)
    }

    /// Does it have to be looked after even when nothing is written?
    pub(crate) fn is_pinned(&self) -> bool {
        self.copying.state().pinned.is_some()
    }

    /// After each batch: asks for a copy, or finishes one.
    pub(crate) fn keep_short(&mut self, db: &Connection, jobs: usize) -> Result<(), StoreError> {
        if free_space(&self.root).is_ok_and(|(bytes, _)| bytes < LOW_SPACE) {
            let log = checkpoint(db, Checkpoint::Count)?;
            if left(&log) >= LOW_SPACE_PAGES {
                checkpoint(db, Checkpoint::Restart)?;
            }
            return Ok(());
        }
        if std::mem::take(&mut self.copying.state().unfinished) {
            self.finish(db)?;
        }
        self.unseen = self.unseen.saturating_add(jobs);
        if self.unseen < LOOK_EVERY {
            return Ok(());
        }
        self.unseen = 0;
        let log = checkpoint(db, Checkpoint::Count)?;
        let pinned = self.copying.state().pinned;
        let enough = pinned.map_or(COPY_PAGES, |pages| pages.saturating_add(PINNED_PAGES));
        if log.pages < enough || left(&log) == 0 {
            return Ok(());
        }
        let is_asked = std::mem::replace(&mut self.copying.state().asked, true);
        if !is_asked && self.jobs.send(HousekeeperJob::Copy(self.which)).is_err() {
            // The store is being closed, which ends with a copy.
            self.copying.end(None);
        }
        if pinned.is_none() && log.pages >= WAIT_PAGES {
            self.copying.wait_for_keeper();
            self.finish(db)?;
        }
        Ok(())
    }

    /// Copies the rest, with the writer's word that nothing is added meanwhile, and lets the log
    /// start over.
    fn finish(&self, db: &Connection) -> Result<(), StoreError> {
        let log = checkpoint(db, Checkpoint::Passive)?;
        let mut is_pinned = left(&log) >= PINNED_PAGES;
        if !is_pinned && log.pages >= WAIT_PAGES {
            let how =
                if log.pages >= CUT_PAGES { Checkpoint::Truncate } else { Checkpoint::Restart };
            is_pinned = checkpoint(db, how)?.busy;
        }
        self.copying.state().pinned = is_pinned.then_some(log.pages);
        Ok(())
    }

    /// For want of space: copies all that no reader needs, and gives the log's space back.
    pub(crate) fn try_to_empty(&self, db: &Connection) {
        // If it fails, so does what comes next, and says why.
        let _ = checkpoint(db, Checkpoint::Truncate);
    }
}

/// The keeper's part: copies without making anybody wait. `file` is the log.
pub(crate) fn copy(db: &Connection, file: &Path, copying: &Copying) -> Result<(), StoreError> {
    let copied = copy_to_end(db);
    if matches!(copied, Ok(CopiedLog::ToTheEnd { pages }) if pages >= CUT_PAGES) {
        // Gives the cached pages of a long log back here, or the writer would wait for that when it
        // cuts the file: a second for 2.5 GB. There are no locks on this file that closing it could
        // end.
        if let Ok(log) = File::open(file) {
            // Only a hint.
            let _ = fadvise(log, 0, None, Advice::DontNeed);
        }
    }
    copying.end(copied.as_ref().ok().copied());
    copied.map(|_| ())
}

/// A log that was pinned is long, and much may come while it is copied: again, while that helps.
fn copy_to_end(db: &Connection) -> Result<CopiedLog, StoreError> {
    let mut before = checkpoint(db, Checkpoint::Count)?;
    loop {
        let after = checkpoint(db, Checkpoint::Passive)?;
        if after.copied < before.pages && left(&after) >= PINNED_PAGES {
            return Ok(CopiedLog::ToAReader { pages: after.pages });
        }
        if left(&after) < COPY_PAGES || left(&after) >= left(&before) {
            return Ok(CopiedLog::ToTheEnd { pages: after.pages });
        }
        before = after;
    }
}

fn left(log: &LogState) -> i64 {
    log.pages.saturating_sub(log.copied)
}
