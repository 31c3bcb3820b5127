//! A copy of the queue while mail goes through it.
//!
//! queue.db is copied in one read transaction, and who needs the log for that makes nobody wait.
//! Large bodies are not in it: they are linked after that, and a message whose body has gone
//! meanwhile was settled, so it is left out of the copy. `docs/spool.md` says what a restored copy
//! sends again.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use rusqlite::backup::{Backup, StepResult};
use rustix::process::geteuid;

use crate::error::is_damage;
use crate::journal::outside::wait_for_all_rows;
use crate::layout::{DIR_MODE, Layout, create_file, open_no_link, sync_dir};
use crate::schema::{POLICIES, QUEUE, Schema, connect};
use crate::{MessageId, OpenError, StoreError};

/// Why the queue cannot be copied, or a copy cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// A file or a directory cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Nothing that is there is written over.
    #[error("{}: is not empty; name a directory that is not there", path.display())]
    NotEmpty {
        /// The directory that has something in it.
        path: PathBuf,
    },
    /// A copy in the data directory would be lost with it.
    #[error("{}: is in data_dir, or has data_dir in it; name a directory elsewhere", path.display())]
    Inside {
        /// The directory that was given for the copy.
        path: PathBuf,
    },
    /// Links are not followed: whoever made them may mean another file.
    #[error("{}: is no {wanted}", path.display())]
    Kind {
        /// The path that is a link, or not `wanted`.
        path: PathBuf,
        /// What it should be.
        wanted: &'static str,
    },
    /// What only the log has would be missed.
    #[error("{}: another process reads it; end that process (`fuser -v FILE`) and try again", path.display())]
    Read {
        /// The database file that another process has open.
        path: PathBuf,
    },
    /// A daemon was killed, and the next one has not taken over what it left.
    #[error(
        "{}: {messages} messages are only here, since the daemon was killed; start it, or run `staunch doctor --data --repair`, which takes them over, and try again",
        path.display()
    )]
    Unfinished {
        /// The directory of the journal.
        path: PathBuf,
        /// How many messages have no rows yet.
        messages: usize,
    },
    /// What is behind the damage would be missed.
    #[error(
        "{}: is damaged; start the daemon, or run `staunch doctor --data --repair`, which make it whole, and try again",
        path.display()
    )]
    Log {
        /// The write-ahead log with the damage.
        path: PathBuf,
    },
    /// The daemon does not give mail its rows.
    #[error("{}: the daemon did not write its mail into queue.db for half a minute; try again", path.display())]
    Busy {
        /// The directory of the journal.
        path: PathBuf,
    },
    /// Nobody knows what of the journal is in queue.db.
    #[error("{}: what of it is in queue.db cannot be read: {error}", path.display())]
    Journal {
        /// The directory of the journal.
        path: PathBuf,
        /// What SQLite or the system said.
        #[source]
        error: StoreError,
    },
    /// There is nothing to copy.
    #[error("{}: there is no queue; is that the data_dir, or a backup that was finished?", path.display())]
    NoQueue {
        /// Where queue.db should be.
        path: PathBuf,
    },
}

/// What a copy holds.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Copied {
    /// Messages in the copy's queue.db.
    pub messages: u64,
    /// Those of them whose bodies are files.
    pub files: u64,
    /// Files that need no space of their own as long as both directories have them.
    pub linked: u64,
    /// What became of policies.db.
    pub policies: CopiedPolicies,
}

/// What became of policies.db.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum CopiedPolicies {
    /// It was copied, or there was none.
    #[default]
    Whole,
    /// It is damaged and left out: policies are fetched again, and mail that needs one waits for
    /// that.
    LeftOut,
}

/// Copies queue, policies and bodies of `data_dir` to `to`, which is made. A daemon may run
/// meanwhile: nothing of it waits. What is there after an error is no backup, and is refused as
/// one.
///
/// # Errors
///
/// [`CopyError`], which names the file.
pub fn backup(data_dir: &Path, to: &Path) -> Result<Copied, CopyError> {
    check_apart(data_dir, to)?;
    let Some(source) = QUEUE.peek(data_dir)? else {
        return Err(CopyError::NoQueue { path: data_dir.join(QUEUE.file) });
    };
    wait_for_all_rows(&Layout::at(data_dir), &source)?;
    let owner = Owner::of(data_dir)?;
    make_empty(to)?;
    let target = Layout::at(to);
    for dir in target.body_dirs() {
        owner.make_dir(&dir)?;
    }
    // Under this name it is no queue yet.
    let unfinished = to.join(UNFINISHED);
    copy_database(&source, &QUEUE, &unfinished, &owner)?;
    // After it: a row that is older than queue.db says does not count.
    let policies_to = to.join(POLICIES.file);
    let policies = POLICIES.peek(data_dir).map_err(CopyError::from).and_then(|policies| {
        policies
            .map_or(Ok(()), |policies| copy_database(&policies, &POLICIES, &policies_to, &owner))
    });
    let policies = match policies {
        Ok(()) => CopiedPolicies::Whole,
        // Mail is worth more than policies: those are fetched again.
        Err(CopyError::Open(error)) if error.is_damage() => {
            remove_if_there(&policies_to)?;
            CopiedPolicies::LeftOut
        }
        Err(other) => return Err(other),
    };
    let copy = Copy { source, from: Layout::at(data_dir), target, owner };
    let copied = Copied { policies, ..copy.bodies(&unfinished)? };
    sync_filled(&copy.target)?;
    fs::rename(&unfinished, to.join(QUEUE.file)).map_err(failed(&unfinished))?;
    sync_dir(to).map_err(failed(to))?;
    copy.owner.give(to)?;
    Ok(copied)
}

pub(crate) fn remove_if_there(path: &Path) -> Result<(), CopyError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(path)(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Syncs `bodies`, which names the directories in it, and of those the ones that have files: 256
/// syncs take longer than a small queue.
pub(crate) fn sync_filled(layout: &Layout) -> Result<(), CopyError> {
    for dir in layout.body_dirs() {
        let is_filled = fs::read_dir(&dir).map_err(failed(&dir))?.next().is_some();
        if is_filled {
            sync_dir(&dir).map_err(failed(&dir))?;
        }
    }
    Ok(())
}

const UNFINISHED: &str = "queue.db.unfinished";

pub(crate) fn failed(path: &Path) -> impl Fn(io::Error) -> CopyError + '_ {
    move |source| OpenError::Io { path: path.into(), source }.into()
}

/// Neither of two directories may be in the other one.
pub(crate) fn check_apart(data_dir: &Path, other: &Path) -> Result<(), CopyError> {
    let data_dir = data_dir.canonicalize().map_err(failed(data_dir))?;
    let there = other.canonicalize().or_else(|_| {
        // It is to be made.
        let parent = other.parent().filter(|parent| !parent.as_os_str().is_empty());
        let parent = parent.unwrap_or_else(|| Path::new(".")).canonicalize()?;
        Ok(parent.join(other.file_name().unwrap_or_default()))
    });
    let there = there.map_err(failed(other))?;
    if there.starts_with(&data_dir) || data_dir.starts_with(&there) {
        return Err(CopyError::Inside { path: other.into() });
    }
    Ok(())
}

/// Who owns the data directory: what root makes is given to them, or their daemon could not use it.
#[derive(Debug)]
pub(crate) struct Owner {
    user: u32,
    group: u32,
}

impl Owner {
    pub(crate) fn of(dir: &Path) -> Result<Self, CopyError> {
        let found = fs::metadata(dir).map_err(failed(dir))?;
        Ok(Self { user: found.uid(), group: found.gid() })
    }

    /// Gives what is there to them, if root asks.
    pub(crate) fn give(&self, path: &Path) -> Result<(), CopyError> {
        if !geteuid().is_root() {
            return Ok(());
        }
        std::os::unix::fs::lchown(path, Some(self.user), Some(self.group)).map_err(failed(path))
    }

    /// A directory that must not be there yet.
    pub(crate) fn make_dir(&self, path: &Path) -> Result<(), CopyError> {
        DirBuilder::new().mode(DIR_MODE).create(path).map_err(failed(path))?;
        self.give(path)
    }

    /// A file that must not be there yet.
    pub(crate) fn make_file(&self, path: &Path) -> Result<File, CopyError> {
        let file = create_file(path).map_err(failed(path))?;
        self.give(path)?;
        Ok(file)
    }
}

/// It is given to its owner when all is in it: until then nobody else can change names there.
fn make_empty(dir: &Path) -> Result<(), CopyError> {
    match fs::symlink_metadata(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let made = DirBuilder::new().mode(DIR_MODE).create(dir);
            return made.map_err(failed(dir));
        }
        Err(error) => return Err(failed(dir)(error)),
        Ok(found) if !found.is_dir() => {
            return Err(CopyError::Kind { path: dir.into(), wanted: "directory" });
        }
        Ok(_) => {}
    }
    if fs::read_dir(dir).map_err(failed(dir))?.next().is_some() {
        return Err(CopyError::NotEmpty { path: dir.into() });
    }
    // Others' mail will be in it.
    let mode = std::os::unix::fs::PermissionsExt::from_mode(DIR_MODE);
    fs::set_permissions(dir, mode).map_err(failed(dir))
}

/// In one step, so in one read transaction: SQLite begins anew whenever somebody writes between
/// two.
fn copy_database(
    source: &Connection,
    schema: &Schema,
    path: &Path,
    owner: &Owner,
) -> Result<(), CopyError> {
    let file = owner.make_file(path)?;
    let copy = || {
        let mut target = connect(path)?;
        // It is synced below, and of no use to anybody before.
        target.execute_batch("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;")?;
        let is_done = Backup::new(source, &mut target)?.step(-1)? == StepResult::Done;
        // Else somebody has locked a file that nobody else knows.
        if is_done { Ok(()) } else { Err(rusqlite::Error::InvalidQuery) }
    };
    copy().map_err(|error| OpenError::Database {
        path: path.with_file_name(schema.file),
        source: error,
    })?;
    file.sync_all().map_err(failed(path))
}

/// The bodies that a copied queue names.
struct Copy {
    source: Connection,
    from: Layout,
    target: Layout,
    owner: Owner,
}

impl Copy {
    fn bodies(&self, queue: &Path) -> Result<Copied, CopyError> {
        let database = |source| OpenError::Database { path: queue.into(), source };
        let copy = connect(queue).map_err(database)?;
        let mut copied = Copied::default();
        let mut gone = Vec::new();
        let files = match files_of(&copy) {
            Err(error) if is_damage(&error) => self.all_files()?,
            files => files.map_err(database)?,
        };
        for (seq, id) in files {
            match self.body(id)? {
                CopiedBody::Linked => {
                    (copied.files, copied.linked) = (copied.files + 1, copied.linked + 1)
                }
                CopiedBody::Copied => copied.files += 1,
                CopiedBody::Gone => gone.push((seq, id)),
            }
        }
        for (seq, id) in gone {
            // Of a message that is still there a body is missing: that is for the operator to see.
            if let Some(seq) = seq
                && !self.is_queued(id)?
            {
                let recipients =
                    "DELETE FROM recipients WHERE id BETWEEN ?1 << 16 AND (?1 << 16) + 65535";
                copy.execute(recipients, [seq]).map_err(database)?;
                copy.execute("DELETE FROM messages WHERE seq = ?1", [seq]).map_err(database)?;
            }
        }
        let count = "SELECT count(*) FROM messages";
        let messages: i64 = copy.query_row(count, [], |row| row.get(0)).map_err(database)?;
        copied.messages = messages.unsigned_abs();
        // Into the file itself, which alone is renamed.
        copy.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").map_err(database)?;
        Ok(copied)
    }

    /// Where a damaged page hides whose they are, all bodies belong to the copy.
    fn all_files(&self) -> Result<Vec<(Option<i64>, MessageId)>, CopyError> {
        let mut ids = Vec::new();
        for low in 0..=u8::MAX {
            let shelf = self.from.shelf(low);
            for entry in fs::read_dir(&shelf).map_err(failed(&shelf))? {
                let name = entry.map_err(failed(&shelf))?.file_name();
                ids.extend(name.to_str().and_then(|name| name.parse().ok()).map(|id| (None, id)));
            }
        }
        Ok(ids)
    }

    fn body(&self, id: MessageId) -> Result<CopiedBody, CopyError> {
        link_or_copy(&self.from.body(id), &self.target.body(id), &self.owner)
    }

    fn is_queued(&self, id: MessageId) -> Result<bool, CopyError> {
        let found = self
            .source
            .prepare_cached("SELECT 1 FROM messages WHERE id = ?1")
            .and_then(|mut select| select.exists([id.to_bytes()]));
        let path = || self.from.file(QUEUE.file);
        Ok(found.map_err(|source| OpenError::Database { path: path(), source })?)
    }
}

/// With the rows of their messages.
fn files_of(db: &Connection) -> rusqlite::Result<Vec<(Option<i64>, MessageId)>> {
    let mut select = db.prepare("SELECT seq, id FROM messages NOT INDEXED WHERE place = 1")?;
    let rows =
        select.query_map([], |row| Ok((row.get(0)?, row.get(1).map(MessageId::from_bytes))))?;
    // A row whose id cannot be read has no body that anybody would find.
    let mut files = Vec::new();
    for row in rows {
        let (seq, id) = row?;
        files.extend(id.ok().map(|id| (Some(seq), id)));
    }
    Ok(files)
}

/// What became of a body.
pub(crate) enum CopiedBody {
    Linked,
    Copied,
    Gone,
}

/// A body is never changed, so two names for one file do no harm.
pub(crate) fn link_or_copy(from: &Path, to: &Path, owner: &Owner) -> Result<CopiedBody, CopyError> {
    let found = match fs::symlink_metadata(from) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(CopiedBody::Gone),
        Err(error) => return Err(failed(from)(error)),
        Ok(found) if !found.is_file() => {
            return Err(CopyError::Kind { path: from.into(), wanted: "file" });
        }
        Ok(found) => found,
    };
    // A name does not change whose file it is.
    if found.uid() == owner.user && found.mode() & 0o777 == 0o600 && fs::hard_link(from, to).is_ok()
    {
        return Ok(CopiedBody::Linked);
    }
    let mut source = match open_no_link(from) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(CopiedBody::Gone),
        opened => opened.map_err(failed(from))?,
    };
    // It may be another one since it was looked at.
    if !source.metadata().map_err(failed(from))?.is_file() {
        return Err(CopyError::Kind { path: from.into(), wanted: "file" });
    }
    let mut target = owner.make_file(to)?;
    io::copy(&mut source, &mut target).map_err(failed(to))?;
    target.sync_all().map_err(failed(to))?;
    Ok(CopiedBody::Copied)
}
