//! The files of the journal: made, used again and removed by the writer.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{FallocateFlags, fallocate};

use super::scan::segment_name;
use super::{Journal, Takes, Unwritten};
use crate::database_lock::is_at;
use crate::layout::{create_file, free_space, sync_dir};

/// Octets of a segment.
pub(super) const SEGMENT: usize = 32 * 1024 * 1024;
/// Our choice: 512 MiB at most, which a start reads in some seconds. What comes beyond that goes
/// into the tables at once.
pub(super) const SEGMENTS_MAX: usize = 16;
/// Our choice: beyond so many, the oldest mail gets its rows even while new mail waits.
pub(super) const SEGMENTS_MANY: usize = SEGMENTS_MAX / 4 * 3;
/// Our choice: those in use beside the one that is written, kept for being used again while nothing
/// happens.
const SEGMENTS_KEPT: usize = 1;
/// Our choice: with less space than this nothing is kept that is not needed, see [`crate::log`].
const LOW_SPACE: u64 = 256 * 1024 * 1024;

impl Journal {
    /// Segments that cannot be used again yet.
    pub(super) fn used(&self) -> usize {
        self.segments.range(self.applied.low.segment()..).count()
    }

    pub(super) fn begin_segment(&mut self) -> Result<(), Unwritten> {
        let number = self.next_segment;
        let path = self.dir.join(segment_name(number));
        let used_up = self.segments.keys().next().copied();
        let used_up = used_up
            .filter(|first| *first < self.applied.low.segment() && !self.damaged.contains(first));
        let file = match used_up.and_then(|first| self.segments.remove_entry(&first)) {
            Some((first, file)) => {
                let old = self.dir.join(segment_name(first));
                let is_ours = is_at(&file, &old).unwrap_or(false);
                if !is_ours || fs::rename(old, &path).is_err() {
                    self.rest();
                    return Err(Unwritten::Refused);
                }
                file
            }
            None if self.segments.len() < SEGMENTS_MAX => self.make_segment(&path)?,
            None => return Err(Unwritten::Refused),
        };
        if sync_dir(&self.dir).is_err() {
            return Err(Unwritten::Unsynced);
        }
        self.next_segment = number.saturating_add(1);
        self.segments.insert(number, file);
        self.end = 0;
        Ok(())
    }

    fn make_segment(&mut self, path: &Path) -> Result<Arc<File>, Unwritten> {
        let has_room = free_space(&self.dir).is_ok_and(|(bytes, _)| bytes > 2 * LOW_SPACE);
        if !has_room {
            self.rest();
            return Err(Unwritten::Refused);
        }
        let made = create_file(path).and_then(|_| {
            let file = File::options().read(true).write(true).open(path)?;
            let octets = u64::try_from(SEGMENT).unwrap_or_default();
            let allocated = match fallocate(&file, FallocateFlags::empty(), 0, octets) {
                // Not every file system has it.
                Err(rustix::io::Errno::OPNOTSUPP) => file.set_len(octets),
                allocated => allocated.map_err(io::Error::from),
            };
            if allocated.is_err() {
                let _ = fs::remove_file(path);
            }
            allocated.map(|()| file)
        });
        if made.is_err() {
            self.rest();
        }
        let file = made.map_err(|_| Unwritten::Refused)?;
        file.sync_all().map_err(|_| Unwritten::Unsynced)?;
        Ok(Arc::new(file))
    }

    /// Each second: removes segments that nobody needs, and takes mail again if there is room. Says
    /// whether there is.
    pub(crate) fn tidy(&mut self) -> bool {
        let has_room = free_space(&self.dir).is_ok_and(|(bytes, _)| bytes > LOW_SPACE);
        if !has_room {
            self.takes = Takes::NothingForAWhile;
        } else if self.takes == Takes::NothingForAWhile {
            self.takes = Takes::Mail;
        }
        if !has_room && self.applied.low == self.end() {
            self.remove_all();
        }
        let kept = if std::mem::take(&mut self.is_used) { SEGMENTS_MANY } else { SEGMENTS_KEPT };
        let last = self.segments.keys().next_back().copied();
        let is_used_up =
            |number: &u32| *number < self.applied.low.segment() && Some(*number) != last;
        let used_up = self.segments.keys().copied().take_while(is_used_up);
        for number in used_up.collect::<Vec<_>>().into_iter().skip(kept) {
            self.remove_segment(number);
        }
        has_room
    }

    /// Nothing in it is needed any more: removes all segments.
    pub(crate) fn remove_all(&mut self) {
        let numbers: Vec<u32> = self.segments.keys().copied().collect();
        numbers.into_iter().for_each(|number| self.remove_segment(number));
        self.end = SEGMENT;
    }

    /// If it stays, the next start removes it. What is damaged is kept, under another name.
    pub(super) fn remove_segment(&mut self, number: u32) {
        let Some(file) = self.segments.remove(&number) else { return };
        let path = self.dir.join(segment_name(number));
        // In a directory that took the place of ours it is somebody else's.
        if !is_at(&file, &path).unwrap_or(false) {
            return;
        }
        let _ = if self.damaged.remove(&number) {
            fs::rename(&path, self.dir.join(format!("{}.damaged", segment_name(number))))
        } else {
            fs::remove_file(&path)
        };
    }
}
