//! What is asked of a store when it is opened, and what it says about its place.

use std::path::PathBuf;
use std::time::Duration;

use crate::draft::INLINE_BODY_MAX;
use crate::reserve::RESERVE_BYTES;

/// How a store is opened.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Octets of the largest body that becomes a row instead of a file.
    pub inline_body_max: usize,
    /// Octets kept for settlements on a full disk.
    pub reserve_bytes: u64,
    /// When nothing happens for so long, all mail of the journal gets its rows.
    pub journal_idle: Duration,
}

/// Our choice: who copies the files of an idle daemon finds all in the tables.
const JOURNAL_IDLE: Duration = Duration::from_millis(200);

impl Default for Options {
    fn default() -> Self {
        Self {
            inline_body_max: INLINE_BODY_MAX,
            reserve_bytes: RESERVE_BYTES,
            journal_idle: JOURNAL_IDLE,
        }
    }
}

/// What was noticed when the store was opened.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct OpenReport {
    /// The data directory is on this network file system, where locks and syncs may not hold.
    pub network_file_system: Option<&'static str>,
    /// What became of policies.db.
    pub policies: PoliciesFile,
    /// Bodies in a directory whose queue.db was missing or empty, and was made: their messages are
    /// lost. They stay where they are until the next start, which moves them to `bodies/lost`.
    pub bodies_without_queue: u64,
    /// Write-ahead logs as they were before they were made whole, at this start or an earlier one:
    /// a start that was killed behind that told nobody, so each start does until the file is
    /// removed.
    pub mended_logs: Vec<PathBuf>,
}

/// In which condition policies.db was found.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum PoliciesFile {
    /// It was there, and is used.
    #[default]
    Kept,
    /// It was missing or empty, and was made.
    Made,
    /// It could not be read, was moved here, and was made anew.
    SetAside(PathBuf),
}

/// What is left of the disk.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Space {
    /// Octets this process can still allocate.
    pub available: u64,
    /// Octets in the queue's file that are free for new mail.
    pub reusable: u64,
    /// Files that can still be made.
    pub inodes: u64,
}

impl Space {
    /// Octets for new mail: what `disk_free_min` is compared with.
    pub fn free_bytes(&self) -> u64 {
        self.available.saturating_add(self.reusable)
    }
}
