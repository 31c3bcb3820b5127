//! Who reads the tables from another process waits until they say what the journal says.

use std::fs::File;
use std::thread;
use std::time::Duration;

use rusqlite::Connection;
use rustix::fs::{FlockOperation, flock};

use super::scan::{scan, segments};
use super::{WANTED, applied, hole_at};
use crate::backup::{CopyError, failed};
use crate::layout::{Layout, create_file, with_suffix};
use crate::log::broken;
use crate::schema::QUEUE;
use crate::{OpenError, checksum};

/// How often the tables are looked at, and how many times: half a minute. The daemon gives mail its
/// rows within a second or two.
const LOOK_EVERY: Duration = Duration::from_millis(50);
const LOOKS: usize = 600;

/// What the journal has beyond the tables, with no daemon that would change that.
#[derive(Debug, Default)]
pub(crate) struct Left {
    /// Messages that have no rows yet.
    pub(crate) messages: usize,
    /// What is damaged, by file and place.
    pub(crate) damaged: Vec<String>,
}

/// Who may be at work in the directory.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Others {
    /// A daemon, if one holds the lock.
    Daemon,
    /// Nobody: the lock is ours.
    Nobody,
}

/// Waits until all that is in the journal now is in the tables, or was done. Without a daemon
/// nobody puts it there: says what it is.
pub(crate) fn wait_for_rows(
    layout: &Layout,
    db: &Connection,
    others: Others,
) -> Result<Left, CopyError> {
    let dir = layout.journal();
    if segments(&dir).map_err(failed(&dir))?.is_empty() {
        return Ok(Left::default());
    }
    let database = |source| OpenError::Database { path: layout.file(QUEUE.file), source };
    checksum::add_to(db).map_err(database)?;
    let said = || applied(db).map_err(|error| CopyError::Journal { path: dir.clone(), error });
    let found = scan(&dir, &said()?).map_err(failed(&dir))?;
    for _ in 0..LOOKS {
        // Asked first: who ends meanwhile leaves tables that say all.
        let has_daemon = others == Others::Daemon && has_daemon(layout);
        if said()?.low >= found.end {
            return Ok(Left::default());
        }
        if !has_daemon {
            let found = scan(&dir, &said()?).map_err(failed(&dir))?;
            let damaged = found.holes.into_iter().map(hole_at).collect();
            return Ok(Left { messages: found.young.len(), damaged });
        }
        // Without it the daemon takes its time, under load.
        let _ = create_file(&dir.join(WANTED));
        thread::sleep(LOOK_EVERY);
    }
    Err(CopyError::Busy { path: dir })
}

/// The same for who needs all of it.
pub(crate) fn wait_for_all_rows(layout: &Layout, db: &Connection) -> Result<(), CopyError> {
    let queue = layout.file(QUEUE.file);
    if !has_daemon(layout) && broken::look(&queue).map_err(failed(&queue))?.is_some() {
        return Err(CopyError::Log { path: with_suffix(&queue, "-wal") });
    }
    match wait_for_rows(layout, db, Others::Daemon)?.messages {
        0 => Ok(()),
        messages => Err(CopyError::Unfinished { path: layout.journal(), messages }),
    }
}

/// Does one hold the lock?
pub(crate) fn has_daemon(layout: &Layout) -> bool {
    let lock = File::open(layout.file("lock"));
    lock.is_ok_and(|lock| flock(&lock, FlockOperation::NonBlockingLockShared).is_err())
}
