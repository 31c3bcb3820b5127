//! Space kept for settlements: a full disk must not make us forget what a peer acknowledged.

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::{FallocateFlags, fallocate};

use crate::layout::{create_file, free_space, sync_dir};
use crate::vitals::Vitals;

/// Our choice: what the tables may need to take the log in when space is low (1 MB and a batch),
/// and some 100 settlements of 9 pages, each in a transaction of its own.
pub(crate) const RESERVE_BYTES: u64 = 8 * 1024 * 1024;
/// The same for policies: a log of one row with the largest policy and what its trees may grow by,
/// some times.
pub(crate) const POLICY_RESERVE_BYTES: u64 = 1024 * 1024;

/// A file whose only use is that it can be removed.
#[derive(Debug)]
pub(crate) struct Reserve {
    path: PathBuf,
    bytes: u64,
    /// Told whether the file is there.
    vitals: Arc<Vitals>,
}

impl Reserve {
    /// Makes the file if it is missing; without space for it the store starts all the same.
    pub(crate) fn new(path: PathBuf, bytes: u64, vitals: Arc<Vitals>) -> Self {
        let reserve = Self { path, bytes, vitals };
        let present = reserve.path.metadata().is_ok_and(|file| file.len() >= bytes);
        if present || reserve.make().is_ok() {
            reserve.vitals.reserve_made();
        }
        reserve
    }

    pub(crate) fn is_present(&self) -> bool {
        self.vitals.has_reserve()
    }

    /// Gives the space back; `false` if there was none.
    pub(crate) fn release(&self) -> bool {
        let was_present = self.is_present();
        self.vitals.reserve_gone();
        was_present && std::fs::remove_file(&self.path).is_ok()
    }

    /// Makes the file again once there is space.
    pub(crate) fn restore(&self) {
        if self.is_present() {
            return;
        }
        let free = self.path.parent().and_then(|root| free_space(root).ok());
        if free.is_some_and(|(bytes, _)| bytes >= self.bytes) && self.make().is_ok() {
            self.vitals.reserve_made();
        }
    }

    fn make(&self) -> io::Result<()> {
        let _ = std::fs::remove_file(&self.path);
        let made = self.allocate();
        if made.is_err() {
            let _ = std::fs::remove_file(&self.path);
        }
        made
    }

    fn allocate(&self) -> io::Result<()> {
        let mut file = create_file(&self.path)?;
        if fallocate(&file, FallocateFlags::empty(), 0, self.bytes).is_err() {
            // Not every file system has it; ENOSPC shows again here.
            let zeros = vec![0; 64 * 1024];
            let mut left = self.bytes;
            while left > 0 {
                file.write_all(&zeros)?;
                left = left.saturating_sub(64 * 1024);
            }
        }
        file.sync_all()?;
        self.path.parent().map_or(Ok(()), sync_dir)
    }
}
