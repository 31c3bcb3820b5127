//! What lies where in the data directory, and who may be in it.
//!
//! ```text
//! lock            held by the daemon; contains its process id
//! queue.db        messages, recipients, lanes, small bodies, marks (and -wal, -shm)
//! policies.db     policies, hosts (and -wal, -shm)
//! queue.db-wal.damaged-N  a log that was damaged, before it was made whole
//! policies.db.damaged-N   what was found in its place and was no such database
//! journal/NUMBER.log      mail on its way through that has no rows yet
//! bodies/xx/ID    large bodies; xx is the last byte of the id in hex
//! bodies/lost/ID  bodies that no message named at a start; kept for a week
//! before-restore-N        what was there before a backup was restored
//! tmp/ID          large bodies that are still arriving
//! reserve         space for settlements when the disk is full
//! policies.reserve        space for policies then
//! ```

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rustix::fs::{FlockOperation, OFlags, StatVfsMountFlags, flock, fstatfs, statvfs};
use rustix::process::geteuid;

use crate::database_lock::is_at;
use crate::{MessageId, OpenError};

/// Files are for their owner alone: they hold other people's mail.
const FILE_MODE: u32 = 0o600;
/// In a data directory whose restore was not finished: where the queue is that was there before, or
/// nothing.
pub(crate) const UNFINISHED_RESTORE: &str = "restore.unfinished";
pub(crate) const DIR_MODE: u32 = 0o700;
/// File systems whose locks and syncs depend on another machine: `statfs(2)`, `linux/magic.h`.
const NETWORK_FILE_SYSTEMS: [(u32, &str); 9] = [
    (0x6969, "nfs"),
    (0x517b, "smb"),
    (0xff53_4d42, "cifs"),
    (0xfe53_4d42, "smb2"),
    (0x5346_414f, "afs"),
    (0x0102_1997, "9p"),
    (0x00c3_6400, "ceph"),
    (0x0bd0_0bd0, "lustre"),
    (0x6573_5546, "fuse"),
];

/// Paths below the data directory.
#[derive(Debug)]
pub(crate) struct Layout {
    root: PathBuf,
    tmp: PathBuf,
    bodies: PathBuf,
}

impl Layout {
    /// Makes what is missing and removes drafts that a former process left.
    pub(crate) fn create(root: &Path) -> Result<Self, OpenError> {
        let layout = Self::make_root(root)?;
        let failed = |source| OpenError::Io { path: root.into(), source };
        let owner = fs::metadata(root).map_err(failed)?.uid();
        // What root made in the directory of another user, that user could not use any more.
        if geteuid().is_root() && owner != 0 {
            return Err(OpenError::Owner { path: root.into(), owner });
        }
        let unfinished = layout.file(UNFINISHED_RESTORE);
        if unfinished.exists() {
            return Err(OpenError::Unfinished { path: unfinished });
        }
        make_dir(&layout.tmp)?;
        make_dir(&layout.journal())?;
        make_dir(&layout.bodies)?;
        Ok(layout)
    }

    /// Makes only the data directory itself, if it is missing.
    pub(crate) fn make_root(root: &Path) -> Result<Self, OpenError> {
        make_root(root)?;
        Ok(Self::at(root))
    }

    /// The paths under `root`; makes and checks nothing.
    pub(crate) fn at(root: &Path) -> Self {
        Self { root: root.into(), tmp: root.join("tmp"), bodies: root.join("bodies") }
    }

    /// The directories of bodies are made once, so that no commit has to sync a new one's parent.
    pub(crate) fn fill(&self) -> Result<(), OpenError> {
        for dir in self.body_dirs() {
            make_dir(&dir)?;
        }
        for path in [&self.bodies, &self.root] {
            sync_dir(path).map_err(|source| OpenError::Io { path: path.clone(), source })?;
        }
        // Drafts that a former process left.
        fs::read_dir(&self.tmp)
            .and_then(|mut drafts| drafts.try_for_each(|draft| fs::remove_file(draft?.path())))
            .map_err(|source| OpenError::Io { path: self.tmp.clone(), source })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    pub(crate) fn draft(&self, id: MessageId) -> PathBuf {
        self.tmp.join(id.to_string())
    }

    /// The directory of the bodies whose ids end with this byte.
    pub(crate) fn shelf(&self, low: u8) -> PathBuf {
        self.bodies.join(format!("{low:02x}"))
    }

    pub(crate) fn journal(&self) -> PathBuf {
        self.root.join("journal")
    }

    pub(crate) fn bodies(&self) -> PathBuf {
        self.bodies.clone()
    }

    /// All directories that bodies are in, each behind the one it is in.
    pub(crate) fn body_dirs(&self) -> Vec<PathBuf> {
        let shelves = (0..=u8::MAX).map(|low| self.shelf(low));
        std::iter::once(self.bodies()).chain(shelves).chain([self.lost()]).collect()
    }

    /// Bodies that are there.
    pub(crate) fn count_bodies(&self) -> u64 {
        let count = |low| fs::read_dir(self.shelf(low)).map_or(0, Iterator::count);
        let all: usize = (0..=u8::MAX).map(count).sum();
        u64::try_from(all).unwrap_or(u64::MAX)
    }

    /// Where bodies are kept for a while that no message names.
    pub(crate) fn lost(&self) -> PathBuf {
        self.bodies.join("lost")
    }

    /// Moves a body there.
    pub(crate) fn lose(&self, path: &Path, id: MessageId) -> io::Result<()> {
        fs::rename(path, self.lost().join(id.to_string()))
    }

    /// Removes those that were moved there before this time.
    pub(crate) fn forget_lost(&self, before: Timestamp) -> io::Result<()> {
        for entry in fs::read_dir(self.lost())? {
            let entry = entry?;
            if entry.metadata()?.ctime() < before.as_second() {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    pub(crate) fn body(&self, id: MessageId) -> PathBuf {
        self.shelf(id.low_byte()).join(id.to_string())
    }
}

/// The data directory, with those above it that are missing: a new account has no `~/.local/state`.
/// New names are synced, or a power cut might take a directory with everything that was put into
/// it.
fn make_root(root: &Path) -> Result<(), OpenError> {
    let is_missing = |path: &&Path| !path.as_os_str().is_empty() && !path.exists();
    let missing: Vec<&Path> = root.ancestors().take_while(is_missing).collect();
    for path in missing.into_iter().rev() {
        make_dir(path)?;
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            sync_dir(parent).map_err(|source| OpenError::Io { path: parent.into(), source })?;
        }
    }
    make_dir(root)
}

fn make_dir(path: &Path) -> Result<(), OpenError> {
    let made = DirBuilder::new().mode(DIR_MODE).create(path);
    match made {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(source) => Err(OpenError::Io { path: path.into(), source }),
        Ok(()) => Ok(()),
    }
}

/// A new file that must not exist yet.
pub(crate) fn create_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(path)
}

/// `O_NOFOLLOW`: who can write the directory must not make us open another file. `O_NONBLOCK`: nor
/// a pipe.
fn without_links() -> i32 {
    i32::try_from((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits()).unwrap_or_default()
}

/// Opens for reading what is no link.
pub(crate) fn open_no_link(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(without_links()).open(path)
}

/// Opens for writing, and makes the file with our mode where there is none. A link is not followed.
pub(crate) fn open_or_create(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(FILE_MODE)
        .custom_flags(without_links())
        .open(path)
}

/// Moves a database and its log out of the way; returns where the database is now. Nothing that was
/// set aside is overwritten.
pub(crate) fn set_aside(root: &Path, name: &str) -> io::Result<PathBuf> {
    let aside = (1_u32..)
        .map(|number| format!("{name}.damaged-{number}"))
        .find(|name| !root.join(name).exists())
        .ok_or(io::ErrorKind::AlreadyExists)?;
    for suffix in ["-wal", "-shm", ""] {
        match fs::rename(
            root.join(format!("{name}{suffix}")),
            root.join(format!("{aside}{suffix}")),
        ) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    sync_dir(root)?;
    Ok(root.join(aside))
}

/// The name of what SQLite keeps beside a file, or of another one beside it. Paths need not be
/// text.
pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Makes renames and new names in `path` durable.
pub(crate) fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// The lock that makes this process the only one in the directory. Ends with the process.
#[derive(Debug)]
pub(crate) struct Lock {
    file: File,
    path: PathBuf,
}

impl Lock {
    pub(crate) fn take(layout: &Layout) -> Result<Self, OpenError> {
        let path = layout.file("lock");
        let failed = |source| OpenError::Io { path: path.clone(), source };
        let mut file = open_or_create(&path).map_err(failed)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut text = String::new();
                let read = file.take(32).read_to_string(&mut text);
                let pid = read.ok().and_then(|_| text.trim().parse().ok());
                return Err(OpenError::Locked { pid, path });
            }
            Err(errno) => return Err(failed(errno.into())),
        }
        // Only a courtesy to whoever finds the lock held, so a full disk is no reason to stop.
        let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
        Ok(Self { file, path })
    }

    /// Is the lock where others look for it?
    pub(crate) fn holds(&self) -> bool {
        is_at(&self.file, &self.path).unwrap_or(false)
    }
}

/// The name of the file system if it is a network one: syncs and locks there may not hold.
pub(crate) fn network_file_system(root: &Path) -> Option<&'static str> {
    let found = fstatfs(File::open(root).ok()?).ok()?.f_type;
    // The kernel's magic numbers have 32 bits, whatever the sign and width of the field.
    let magic = u32::try_from(i128::from(found) & 0xffff_ffff).ok()?;
    NETWORK_FILE_SYSTEMS.iter().find(|(known, _)| *known == magic).map(|(_, name)| *name)
}

/// Has the file system become read-only? One that does not say is not.
pub(crate) fn is_read_only(root: &Path) -> bool {
    statvfs(root).is_ok_and(|found| found.f_flag.contains(StatVfsMountFlags::RDONLY))
}

/// The same by making a file: `statvfs(2)` does not tell of every read-only file system.
pub(crate) fn refuses_writes(root: &Path) -> bool {
    let path = root.join("tmp").join("probe");
    let made = create_file(&path);
    // At the latest the next start removes it.
    let _ = fs::remove_file(&path);
    made.is_err_and(|error| error.kind() == io::ErrorKind::ReadOnlyFilesystem)
}

/// Octets and inodes that an unprivileged process can still use.
pub(crate) fn free_space(root: &Path) -> io::Result<(u64, u64)> {
    let space = statvfs(root)?;
    Ok((space.f_bavail.saturating_mul(space.f_frsize), space.f_favail))
}
