//! What the store can answer instead of what was asked.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use rusqlite::{ErrorCode, ffi};

use crate::MessageId;

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process works in it.
    #[error("{}: in use by {}", path.display(), holder(*pid))]
    Locked {
        /// The lock file in the data directory.
        path: PathBuf,
        /// Who holds it, if it said so.
        pid: Option<u32>,
    },
    /// Root would make files that the owner of the directory cannot use.
    #[error("{}: belongs to the user with the number {owner}; start as that user", path.display())]
    Owner {
        /// The data directory as it was configured.
        path: PathBuf,
        /// The number (uid) of its owner.
        owner: u32,
    },
    /// A newer release has written it.
    #[error(
        "{}: has format {found}, this release knows up to {known}; install the release that wrote it",
        path.display()
    )]
    Newer {
        /// The database file with the newer format.
        path: PathBuf,
        /// The format in the file (`PRAGMA user_version`).
        found: i64,
        /// The newest one known here.
        known: i64,
    },
    /// The file belongs to another program.
    #[error(
        "{}: not a file of this program (application id {found:#x}); if it is, and damaged, `staunch doctor --data --repair` makes it \
         anew of what can be read, or put it back from a backup",
        path.display()
    )]
    Foreign {
        /// The file that is not a database of ours.
        path: PathBuf,
        /// The application id it carries.
        found: i64,
    },
    /// A backup was not put back to its end.
    #[error("{}: a restore was not finished; do it again with the same backup", path.display())]
    Unfinished {
        /// The file that marks a restore under way.
        path: PathBuf,
    },
    /// Tables or indexes are not those that this release, or one before it, has made.
    #[error(
        "{}: {part} is missing; `staunch doctor --data --repair` makes it anew of what can be read, or put it back from a backup",
        path.display()
    )]
    Shape {
        /// The database file that lacks something.
        path: PathBuf,
        /// The column or index that is missing, with its place.
        part: String,
    },
    /// The log of a database is damaged such that it cannot be told which pages some of it are.
    #[error(
        "{}: is damaged, and of {pages} pages in it nobody can tell which they are; `staunch doctor --data --repair` makes the database \
         anew of what can be read, or put it back from a backup",
        path.display()
    )]
    Log {
        /// The write-ahead log with the damage.
        path: PathBuf,
        /// How many pages of the log have lost their numbers.
        pages: usize,
    },
    /// The log of a database is damaged, and cannot be made whole while somebody reads it.
    #[error(
        "{}: is damaged, and another process reads the database (`fuser -v FILE`); copy the file, since a process that ends in peace \
         removes it, end that process with `kill -9` and start again",
        path.display()
    )]
    LogInUse {
        /// The write-ahead log with the damage.
        path: PathBuf,
    },
    /// The system refused to open, make or sync something.
    #[error("{}: {source}", path.display())]
    Io {
        /// What was opened, made or synced.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The database cannot be read or made.
    #[error("{}: {source}{}", path.display(), cure(source))]
    Database {
        /// The database file, queue.db or policies.db.
        path: PathBuf,
        /// What SQLite said, with its code.
        #[source]
        source: rusqlite::Error,
    },
}

impl OpenError {
    /// Is what stands there no database, a damaged one, or one whose tables or rows cannot be what
    /// was written?
    pub(crate) fn is_damage(&self) -> bool {
        match self {
            Self::Foreign { .. } | Self::Shape { .. } | Self::Log { .. } => true,
            Self::Database { source, .. } => is_damage(source),
            Self::Locked { .. }
            | Self::Owner { .. }
            | Self::Newer { .. }
            | Self::Unfinished { .. }
            | Self::LogInUse { .. }
            | Self::Io { .. } => false,
        }
    }
}

/// Our own statements are sound, so that one that makes no sense, or a rule that rows break, tells
/// of the file.
pub(crate) fn is_damage(error: &rusqlite::Error) -> bool {
    if let rusqlite::Error::SqlInputError { .. } = error {
        return true;
    }
    error.sqlite_error().is_some_and(|error| {
        error.extended_code == ffi::SQLITE_ERROR
            || matches!(
                error.code,
                ErrorCode::NotADatabase
                    | ErrorCode::DatabaseCorrupt
                    | ErrorCode::ConstraintViolation
            )
    })
}

fn cure(error: &rusqlite::Error) -> &'static str {
    if is_damage(error) {
        "; `staunch doctor --data --repair` makes it anew of what can be read, or put it back from a backup"
    } else {
        ""
    }
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}

/// Why an operation on the open store failed. Nothing of it took effect, except that after
/// [`StoreError::Poisoned`] nobody knows until the files are opened again.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk, a quota or a file size limit is exhausted. Service returns when space does.
    #[error("no space left in the data directory")]
    Full,
    /// Too many writes wait already.
    #[error("too many writes are waiting")]
    Busy,
    /// No such message is in the queue.
    #[error("no message {message}")]
    Missing {
        /// The id asked for.
        message: MessageId,
    },
    /// A message has nobody to go to, or more than [`crate::RECIPIENTS_MAX`].
    #[error("a message cannot have {count} recipients")]
    RecipientCount {
        /// How many were given.
        count: usize,
    },
    /// A stored value cannot be what was written.
    #[error("a stored {what} is damaged")]
    Corrupt {
        /// The kind of value.
        what: &'static str,
    },
    /// The system refused to read or write.
    #[error("{action} failed: {source}")]
    Io {
        /// What was tried, such as `writing a body`.
        action: &'static str,
        /// What the system said.
        #[source]
        source: Arc<io::Error>,
    },
    /// The database refused, for a cause that none of the others names.
    #[error("database: {source}")]
    Database {
        /// What SQLite said, with its code.
        #[source]
        source: Arc<rusqlite::Error>,
    },
    /// The file system is read-only.
    #[error("the file system of the data directory is read-only")]
    ReadOnly,
    /// What is at the name of queue.db is not what is open: it was moved, removed or replaced.
    /// Nothing was written.
    #[error("queue.db was moved, removed or replaced while it is open")]
    Detached,
    /// A sync failed before. What is on the disk is unknown until it is opened anew.
    #[error("a sync failed; the store must be opened again")]
    Poisoned,
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}

impl StoreError {
    /// An error while reading the file that [`crate::StoredBody::File`] holds.
    pub fn reading_a_body(source: io::Error) -> Self {
        Self::io("reading a body", source)
    }

    pub(crate) fn io(action: &'static str, source: io::Error) -> Self {
        let full = matches!(
            source.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
        );
        if full { Self::Full } else { Self::Io { action, source: Arc::new(source) } }
    }

    /// May it help to make space? A failed sync is not among these: it has become poison.
    pub(crate) fn is_write_failure(&self) -> bool {
        match self {
            Self::Full => true,
            Self::Database { source } => matches!(
                source.sqlite_error_code(),
                Some(ErrorCode::SystemIoFailure | ErrorCode::ReadOnly)
            ),
            Self::Busy
            | Self::Missing { .. }
            | Self::RecipientCount { .. }
            | Self::Corrupt { .. }
            | Self::Io { .. }
            | Self::ReadOnly
            | Self::Detached
            | Self::Poisoned
            | Self::Closed => false,
        }
    }

    /// Is a file damaged, so that neither time nor space helps?
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Corrupt { .. } => true,
            Self::Database { source } => matches!(
                source.sqlite_error_code(),
                Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
            ),
            Self::Full
            | Self::Busy
            | Self::Missing { .. }
            | Self::RecipientCount { .. }
            | Self::Io { .. }
            | Self::ReadOnly
            | Self::Detached
            | Self::Poisoned
            | Self::Closed => false,
        }
    }

    /// Did a sync fail? Then pages that the kernel calls clean may not be on the disk.
    pub(crate) fn is_failed_sync(&self) -> bool {
        let Self::Database { source } = self else { return false };
        source.sqlite_error().is_some_and(|error| {
            matches!(error.extended_code, ffi::SQLITE_IOERR_FSYNC | ffi::SQLITE_IOERR_DIR_FSYNC)
        })
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(source: rusqlite::Error) -> Self {
        if source.sqlite_error_code() == Some(ErrorCode::DiskFull) {
            return Self::Full;
        }
        Self::Database { source: Arc::new(source) }
    }
}
