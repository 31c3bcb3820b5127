//! A copy takes the place of the queue, which is kept beside it.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use crate::MessageId;
use crate::backup::{
    Copied, CopiedBody, CopyError, Owner, check_apart, failed, link_or_copy, remove_if_there,
    sync_filled,
};
use crate::database_lock::DatabaseLock;
use crate::journal::scan::segments;
use crate::layout::{Layout, Lock, UNFINISHED_RESTORE, sync_dir, with_suffix};
use crate::schema::{POLICIES, QUEUE, Schema};

/// What [`restore`] put in place, and what it moved away.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Restored {
    /// What is in the data directory now; of its messages nothing is counted before the next start.
    pub copied: Copied,
    /// Where the queue is that was there before, if one was.
    pub kept: Option<PathBuf>,
}

/// Puts the copy in `from` in the place of the queue in `data_dir`; what was there is moved to
/// `before-restore-N` in it. No daemon may run. After an error, or a crash, the same has to be done
/// again: until then no daemon starts there.
///
/// # Errors
///
/// [`CopyError`], which names the file.
pub fn restore(from: &Path, data_dir: &Path) -> Result<Restored, CopyError> {
    let Some(queue) = regular(&from.join(QUEUE.file))? else {
        return Err(CopyError::NoQueue { path: from.join(QUEUE.file) });
    };
    check_header(&QUEUE, &queue)?;
    let policies = regular(&from.join(POLICIES.file))?;
    if let Some(policies) = &policies {
        check_header(&POLICIES, policies)?;
    }
    let layout = Layout::make_root(data_dir)?;
    let owner = Owner::of(data_dir)?;
    let _lock = Lock::take(&layout)?;
    owner.give(&layout.file("lock"))?;
    // Against a daemon whose lock file somebody removed.
    let _database_lock = DatabaseLock::take(&layout, QUEUE.file)?;
    check_apart(data_dir, from)?;
    let kept = set_aside(&layout, &owner)?;

    for dir in layout.body_dirs() {
        owner.make_dir(&dir)?;
    }
    let copied = bodies(&Layout::at(from), &layout, &owner)?;
    sync_filled(&layout)?;
    journal(&Layout::at(from), &layout, &owner)?;
    if let Some(policies) = policies {
        put(&policies, data_dir, &owner)?;
    }
    put(&queue, data_dir, &owner)?;
    let marker = layout.file(UNFINISHED_RESTORE);
    fs::remove_file(&marker).map_err(failed(&marker))?;
    sync_dir(data_dir).map_err(failed(data_dir))?;
    Ok(Restored { copied, kept })
}

/// The file of this name, if there is one; what is no file is not followed.
fn regular(path: &Path) -> Result<Option<PathBuf>, CopyError> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_file() => Ok(Some(path.into())),
        Ok(_) => Err(CopyError::Kind { path: path.into(), wanted: "file" }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(path)(error)),
    }
}

/// Not through SQLite, which would write beside a file that may be on a disk to be kept as it is.
fn check_header(schema: &Schema, path: &Path) -> Result<(), CopyError> {
    let mut header = [0; 100];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut header));
    read.map_err(failed(path))?;
    Ok(schema.check_header(&header, path)?)
}

/// Moves away what is in the data directory, if it was ever used; says where. Each step can be done
/// a second time: which directory it is goes into [`UNFINISHED_RESTORE`] before anything is moved.
fn set_aside(layout: &Layout, owner: &Owner) -> Result<Option<PathBuf>, CopyError> {
    let root = layout.root();
    let marker = layout.file(UNFINISHED_RESTORE);
    let name = match fs::read_to_string(&marker) {
        Ok(name) => name.trim().to_owned(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => begin(layout, owner, &marker)?,
        Err(error) => return Err(failed(&marker)(error)),
    };
    let aside = Some(root.join(&name)).filter(|_| name.starts_with(ASIDE));
    if let Some(aside) = &aside {
        keep(layout, owner, aside)?;
    }
    // What is left is kept there, or of a restore that was not finished. The file before its log: a
    // log without its file is nothing, a file without its log would be an older queue.
    for schema in [&POLICIES, &QUEUE] {
        for suffix in ["", "-wal", "-shm"] {
            remove_if_there(&root.join(format!("{}{suffix}", schema.file)))?;
        }
    }
    for dir in [layout.journal(), layout.bodies()] {
        match fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed(&dir)(error));
            }
            Ok(()) | Err(_) => {}
        }
    }
    sync_dir(root).map_err(failed(root))?;
    Ok(aside)
}

const ASIDE: &str = "before-restore-";

/// Writes down where what is here is moved; an empty name: nothing is here.
fn begin(layout: &Layout, owner: &Owner, marker: &Path) -> Result<String, CopyError> {
    let root = layout.root();
    let is_empty = |name: &str| fs::metadata(root.join(name)).map_or(true, |file| file.len() == 0);
    let name = if is_empty(QUEUE.file) && is_empty(POLICIES.file) && !layout.bodies().exists() {
        String::new()
    } else {
        let names = (1_u32..).map(|number| format!("{ASIDE}{number}"));
        let name = names.into_iter().find(|name| !root.join(name).exists());
        name.ok_or_else(|| CopyError::NotEmpty { path: root.into() })?
    };
    let mut file = owner.make_file(marker)?;
    file.write_all(name.as_bytes()).and_then(|()| file.sync_all()).map_err(failed(marker))?;
    sync_dir(root).map_err(failed(root))?;
    Ok(name)
}

/// Gives the files second names in `aside`, and moves the bodies there.
fn keep(layout: &Layout, owner: &Owner, aside: &Path) -> Result<(), CopyError> {
    let root = layout.root();
    if !aside.exists() {
        owner.make_dir(aside)?;
    }
    for schema in [&POLICIES, &QUEUE] {
        for suffix in ["", "-wal"] {
            let name = format!("{}{suffix}", schema.file);
            let (from, to) = (root.join(&name), aside.join(&name));
            let is_there = fs::metadata(&from).is_ok_and(|file| file.len() > 0);
            if is_there && !aside.join("bodies").exists() && !to.exists() {
                fs::hard_link(&from, &to).map_err(failed(&to))?;
            }
        }
    }
    if !aside.join("bodies").exists() {
        match fs::rename(layout.journal(), aside.join("journal")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed(aside)(error));
            }
            Ok(()) | Err(_) => {}
        }
    }
    sync_dir(aside).map_err(failed(aside))?;
    // Last: that it is there says that all else is.
    if !aside.join("bodies").exists() {
        let moved = fs::rename(layout.bodies(), aside.join("bodies"));
        match moved {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                owner.make_dir(&aside.join("bodies"))?;
            }
            moved => moved.map_err(failed(aside))?,
        }
    }
    sync_dir(aside).map_err(failed(aside))
}

/// A directory whose daemon was killed has mail there that is nowhere else.
fn journal(from: &Layout, to: &Layout, owner: &Owner) -> Result<(), CopyError> {
    owner.make_dir(&to.journal())?;
    let dir = from.journal();
    for path in segments(&dir).map_err(failed(&dir))?.into_values() {
        if let Some(segment) = regular(&path)? {
            copy(&segment, &to.journal().join(path.file_name().unwrap_or_default()), owner)?;
        }
    }
    sync_dir(&to.journal()).map_err(failed(&to.journal()))
}

fn bodies(from: &Layout, to: &Layout, owner: &Owner) -> Result<Copied, CopyError> {
    let mut copied = Copied::default();
    for low in 0..=u8::MAX {
        let shelf = from.shelf(low);
        let entries = match fs::read_dir(&shelf) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            entries => entries.map_err(failed(&shelf))?,
        };
        for entry in entries {
            let entry = entry.map_err(failed(&shelf))?;
            let id = entry.file_name().to_str().and_then(|name| name.parse().ok());
            let Some(id) = id.filter(|id: &MessageId| id.low_byte() == low) else { continue };
            match link_or_copy(&entry.path(), &to.body(id), owner)? {
                CopiedBody::Linked => {
                    (copied.files, copied.linked) = (copied.files + 1, copied.linked + 1)
                }
                CopiedBody::Copied => copied.files += 1,
                CopiedBody::Gone => {}
            }
        }
    }
    Ok(copied)
}

/// Copies a database under another name, then gives it its own. With its log: a copy of a directory
/// whose daemon did not end well has one.
fn put(from: &Path, data_dir: &Path, owner: &Owner) -> Result<(), CopyError> {
    let to = data_dir.join(from.file_name().unwrap_or_default());
    let (log, new) = (with_suffix(from, "-wal"), with_suffix(&to, ".restored"));
    remove_if_there(&new)?;
    copy(from, &new, owner)?;
    if let Some(log) = regular(&log)? {
        copy(&log, &with_suffix(&to, "-wal"), owner)?;
    }
    fs::rename(&new, &to).map_err(failed(&new))?;
    sync_dir(data_dir).map_err(failed(data_dir))
}

fn copy(from: &Path, to: &Path, owner: &Owner) -> Result<(), CopyError> {
    let mut source = File::open(from).map_err(failed(from))?;
    let mut target = owner.make_file(to)?;
    io::copy(&mut source, &mut target).map_err(failed(to))?;
    target.sync_all().map_err(failed(to))
}
