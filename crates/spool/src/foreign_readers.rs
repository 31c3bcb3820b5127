//! Which other processes read queue.db, for the operator to end them.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::schema::QUEUE;

/// A log that cannot be copied into the tables and grows, since somebody has been reading for long.
/// It takes space and nothing else; when the reader has gone, it is copied and cut.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Pinned {
    /// Octets of the log.
    pub log_bytes: u64,
    /// The other processes that read; none where the system does not tell, as across containers.
    pub readers: Vec<ForeignReader>,
}

/// Another process that has queue.db open in a transaction.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ForeignReader {
    /// Its process id, for `kill`.
    pub pid: u32,
    /// The name of its program, as far as the system tells.
    pub program: String,
}

/// From /proc/locks, `proc_locks(5)`: whoever reads holds a lock on one of five octets of the log's
/// index (SQLite, "WAL-Index File Format": `WAL_READ_LOCK`). Asking the file itself would end our
/// own locks on it, when it is closed again.
pub(crate) fn foreign_readers(root: &Path) -> Vec<ForeignReader> {
    let index = fs::metadata(root.join(format!("{}-shm", QUEUE.file)));
    let (Ok(index), Ok(locks)) = (index, fs::read_to_string("/proc/locks")) else {
        return Vec::new();
    };
    let own = std::process::id();
    let pids = locks.lines().filter_map(|line| reader(line, index.ino())).filter(|pid| *pid != own);
    let mut pids: Vec<u32> = pids.collect();
    pids.sort_unstable();
    pids.dedup();
    pids.into_iter().map(|pid| ForeignReader { pid, program: program(pid) }).collect()
}

fn program(pid: u32) -> String {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    name.trim().to_owned()
}

/// The process of a line such as `2: POSIX  ADVISORY  READ 4711 08:01:1835 124 124`, if it reads by
/// this index.
fn reader(line: &str, inode: u64) -> Option<u32> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let is_posix = fields.next()? == "POSIX";
    let (_advisory, is_read) = (fields.next()?, fields.next()? == "READ");
    let pid = fields.next()?.parse().ok()?;
    let of_index = fields.next()?.rsplit(':').next()?.parse() == Ok(inode);
    let first: u32 = fields.next()?.parse().ok()?;
    (is_posix && is_read && of_index && READ_LOCKS.contains(&first)).then_some(pid)
}

/// The octets of `WAL_READ_LOCK(0)` to `WAL_READ_LOCK(4)`.
const READ_LOCKS: std::ops::RangeInclusive<u32> = 123..=127;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_is_who_holds_a_read_lock_on_the_index_of_the_log() {
        let line = "2: POSIX  ADVISORY  READ 4711 08:01:1835 124 124";
        assert_eq!(reader(line, 1835), Some(4711));
        assert_eq!(reader(line, 1836), None, "another file");
        for other in [
            "2: POSIX  ADVISORY  READ 4711 08:01:1835 128 128",
            "2: POSIX  ADVISORY  WRITE 4711 08:01:1835 120 120",
            "2: FLOCK  ADVISORY  READ 4711 08:01:1835 124 124",
            "2: -> POSIX",
            "",
        ] {
            assert_eq!(reader(other, 1835), None, "{other}");
        }
    }
}
