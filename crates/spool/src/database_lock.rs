//! Are the files under our feet still those that their names lead to? A data directory can be
//! moved, replaced or restored under a running daemon, and what is written then is found by no
//! start.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use rustix::fs::{FlockOperation, flock};

use crate::OpenError;
use crate::layout::{Layout, open_or_create};

/// A file that stays open, and its name.
///
/// It is opened before SQLite opens the same file, and closed after that: closing any descriptor of
/// a file ends the process's POSIX locks on it, which are SQLite's.
#[derive(Debug)]
pub(crate) struct DatabaseLock {
    file: File,
    path: PathBuf,
}

impl DatabaseLock {
    /// Opens the file of this name, makes it if it is not there, and locks it against a second
    /// daemon, which a lock file that somebody removed would not keep away.
    pub(crate) fn take(layout: &Layout, name: &str) -> Result<Self, OpenError> {
        let path = layout.file(name);
        let failed = |source| OpenError::Io { path: path.clone(), source };
        let file = open_or_create(&path).map_err(failed)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { file, path }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(OpenError::Locked { pid: None, path }),
            Err(errno) => Err(failed(errno.into())),
        }
    }

    /// Does the name still lead to the file?
    pub(crate) fn holds(&self) -> bool {
        is_at(&self.file, &self.path).unwrap_or(false)
    }
}

/// Is `file` what stands at `path`?
pub(crate) fn is_at(file: &File, path: &std::path::Path) -> io::Result<bool> {
    let (own, there) = (file.metadata()?, fs::metadata(path)?);
    Ok((own.dev(), own.ino()) == (there.dev(), there.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_moved_removed_or_replaced_is_noticed_and_so_is_one_that_came_back() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::create(dir.path()).unwrap();
        let database_lock = DatabaseLock::take(&layout, "queue.db").unwrap();
        assert!(database_lock.holds());
        let (path, aside) = (dir.path().join("queue.db"), dir.path().join("aside"));
        fs::rename(&path, &aside).unwrap();
        assert!(!database_lock.holds(), "moved");
        fs::write(&path, b"another").unwrap();
        assert!(!database_lock.holds(), "replaced");
        fs::rename(&aside, &path).unwrap();
        assert!(database_lock.holds(), "back");
        let second = DatabaseLock::take(&layout, "queue.db").unwrap_err();
        assert!(matches!(second, OpenError::Locked { .. }), "{second}");
        fs::remove_file(&path).unwrap();
        assert!(!database_lock.holds(), "removed");
    }
}
