//! Changes to the users file: whole or not at all, and nobody else's line.
//!
//! The new text is written beside the file, synced, and renamed over it, with the mode and owner of
//! the old one. Two changes at once wait for each other, at a lock file beside it that nobody else
//! can open: a lock on the folder, or on the users file itself, is for everybody who may read that
//! to take and keep.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags};

use super::users::{UserName, Users, UsersError, parse_line};

/// Of a file that is made here: its owner writes, the daemon's group reads.
const MODE: u32 = 0o640;

/// What shall become of a user's line.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Edit<'a> {
    /// A line that is not there yet, with this verifier.
    Add(&'a str),
    /// Another verifier for the line.
    Replace(&'a str),
    /// No line any more.
    Remove,
}

/// Was there a file before? If not, somebody has to know who can read the new one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Edited {
    /// The file was there.
    Changed,
    /// It was made, readable by this group.
    Made {
        /// The group's number (gid), that of the folder.
        group: u32,
    },
}

/// Why the file was not changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EditError {
    /// The user is there, and should not.
    #[error("{}: {name} is there already; staunch user passwd changes the password", path.display())]
    Exists {
        /// The users file, as the caller named it.
        path: PathBuf,
        /// The name that was to be added.
        name: UserName,
    },
    /// The user is not there, and should.
    #[error("{}: there is no {name}", path.display())]
    Missing {
        /// The users file, as the caller named it.
        path: PathBuf,
        /// The name that was to be changed or removed.
        name: UserName,
    },
    /// A line of the file makes no sense: it is not touched.
    #[error(transparent)]
    Unreadable(#[from] UsersError),
    /// It cannot be written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The users file, or the lock file beside it.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Changes the line of `name`.
///
/// # Errors
///
/// [`EditError`]; the file is as it was.
pub(crate) fn edit(path: &Path, name: &UserName, edit: Edit<'_>) -> Result<Edited, EditError> {
    let io = |source| EditError::Io { path: path.to_owned(), source };
    // A link is followed, so that it stays one.
    let target = match std::fs::canonicalize(path) {
        Ok(target) => target,
        Err(error) if error.kind() == ErrorKind::NotFound => path.to_owned(),
        Err(error) => return Err(io(error)),
    };
    let folder = target.parent().ok_or_else(|| io(ErrorKind::InvalidInput.into()))?;
    let folder = File::open(folder).map_err(io)?;
    let _lock = lock(&target)?;
    let (old, like) = match File::open(&target) {
        Ok(file) => {
            Users::read(&target)?;
            (std::fs::read_to_string(&target).map_err(io)?, Some(file.metadata().map_err(io)?))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => (String::new(), None),
        Err(error) => return Err(io(error)),
    };
    let new = change(&old, name, edit).map_err(|wrong| match wrong {
        WrongUser::Exists => EditError::Exists { path: path.to_owned(), name: name.clone() },
        WrongUser::Missing => EditError::Missing { path: path.to_owned(), name: name.clone() },
    })?;
    let owner = match &like {
        Some(like) => (Some(like.uid()), like.gid(), like.mode()),
        // Whoever may look into the folder is who the file is for.
        None => (None, folder.metadata().map_err(io)?.gid(), MODE),
    };
    replace(&target, new.as_bytes(), owner).map_err(io)?;
    folder.sync_all().map_err(io)?;
    match like {
        Some(_) => Ok(Edited::Changed),
        None => Ok(Edited::Made { group: target.metadata().map_err(io)?.gid() }),
    }
}

#[derive(Debug, Eq, PartialEq)]
enum WrongUser {
    Exists,
    Missing,
}

/// The text with the line changed; comments, order and other lines stay.
fn change(old: &str, name: &UserName, edit: Edit<'_>) -> Result<String, WrongUser> {
    let is_own =
        |line: &&str| matches!(parse_line(line), Ok(Some((of_line, _))) if of_line == *name);
    let line = |verifier: &str| format!("{}:{verifier}\n", name.as_str());
    let is_there = old.lines().any(|line| is_own(&line));
    let mut new = String::with_capacity(old.len());
    match (edit, is_there) {
        (Edit::Add(_), true) => return Err(WrongUser::Exists),
        (Edit::Replace(_) | Edit::Remove, false) => return Err(WrongUser::Missing),
        (Edit::Add(_) | Edit::Replace(_) | Edit::Remove, _) => {}
    }
    for old in old.lines() {
        match (is_own(&old), edit) {
            (true, Edit::Replace(verifier)) => new.push_str(&line(verifier)),
            (true, Edit::Remove) => {}
            (true | false, Edit::Add(_) | Edit::Replace(_) | Edit::Remove) => {
                new.push_str(old);
                new.push('\n');
            }
        }
    }
    if let Edit::Add(verifier) = edit {
        new.push_str(&line(verifier));
    }
    Ok(new)
}

/// Owner if another one than ourselves, group, mode.
pub(super) type FileOwner = (Option<u32>, u32, u32);

/// Waits for other changes to end. The file stays, since whoever waits has it open.
fn lock(target: &Path) -> Result<File, EditError> {
    let path = beside(target, ".lock");
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let taken = rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR).and_then(|file| {
        rustix::fs::flock(&file, FlockOperation::LockExclusive)?;
        Ok(File::from(file))
    });
    taken.map_err(|error| EditError::Io { path, source: error.into() })
}

fn beside(target: &Path, suffix: &str) -> PathBuf {
    let mut name = target.file_name().unwrap_or_default().to_owned();
    name.push(suffix);
    target.with_file_name(name)
}

/// Puts a file with this content in the place of `target`, or makes it. It is for whoever is the
/// only one that does; the new name is durable when its folder is synced.
pub(super) fn replace(
    target: &Path,
    content: &[u8],
    (uid, gid, mode): FileOwner,
) -> io::Result<()> {
    let temporary = beside(target, ".new");
    // Left by a run that was killed; whoever holds the lock is the only one.
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    let written = file
        .write_all(content)
        .and_then(|()| own(&file, uid, gid))
        .and_then(|()| file.set_permissions(Permissions::from_mode(mode)))
        .and_then(|()| file.sync_all())
        .and_then(|()| std::fs::rename(&temporary, target));
    if written.is_err() {
        // It holds verifiers and is of no use.
        let _gone = std::fs::remove_file(&temporary);
    }
    written
}

/// Gives the file away, where that changes anything: only root may.
fn own(file: &File, uid: Option<u32>, gid: u32) -> io::Result<()> {
    let now = file.metadata()?;
    match fchown(
        file,
        uid.filter(|uid| *uid != now.uid()),
        Some(gid).filter(|gid| *gid != now.gid()),
    ) {
        // A new file in a folder of a group that we are not in: it stays ours.
        Err(error) if uid.is_none() && error.kind() == ErrorKind::PermissionDenied => Ok(()),
        owned => owned,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "$2b$04$If6bvum7DFjUnE9p2uDeDu0YHzrHM6tf.iqN8.yx.jNN1ILEf7h0i";
    const NEW: &str = "$2b$05$If6bvum7DFjUnE9p2uDeDu0YHzrHM6tf.iqN8.yx.jNN1ILEf7h0i";

    #[test]
    fn one_line_changes_and_the_others_stay() {
        let name = |text: &str| UserName::parse(text).unwrap();
        let old = format!("# ours\n\nanna:{OLD}\nanna2:{OLD}");
        let cases = [
            (Edit::Add(NEW), "bert", Ok(format!("{old}\nbert:{NEW}\n"))),
            (Edit::Add(NEW), "anna", Err(WrongUser::Exists)),
            (Edit::Replace(NEW), "anna", Ok(format!("# ours\n\nanna:{NEW}\nanna2:{OLD}\n"))),
            (Edit::Replace(NEW), "bert", Err(WrongUser::Missing)),
            (Edit::Remove, "anna", Ok(format!("# ours\n\nanna2:{OLD}\n"))),
            (Edit::Remove, "ann", Err(WrongUser::Missing)),
        ];
        for (edit, user, want) in cases {
            assert_eq!(change(&old, &name(user), edit), want, "{edit:?} {user}");
        }
    }

    #[test]
    fn whoever_may_only_read_cannot_keep_others_from_changing_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("users");
        std::fs::write(&path, "").unwrap();
        for readable in [dir.path(), &path] {
            let held = File::open(readable).unwrap();
            rustix::fs::flock(&held, FlockOperation::LockExclusive).unwrap();
            let name = UserName::parse(if readable.is_dir() { "anna" } else { "bert" }).unwrap();
            let (sender, done) = std::sync::mpsc::channel();
            let path = path.clone();
            std::thread::spawn(move || sender.send(edit(&path, &name, Edit::Add(OLD)).unwrap()));
            let done = done.recv_timeout(std::time::Duration::from_secs(60));
            assert_eq!(done, Ok(Edited::Changed), "{}", readable.display());
        }
        let lock = std::fs::metadata(dir.path().join("users.lock")).unwrap();
        assert_eq!(lock.mode() & 0o777, 0o600);
    }

    #[test]
    fn mode_and_links_stay_and_a_file_that_makes_no_sense_is_not_touched() {
        let dir = tempfile::tempdir().unwrap();
        let (path, link) = (dir.path().join("users"), dir.path().join("link"));
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let anna = UserName::parse("anna").unwrap();
        let group = std::fs::metadata(dir.path()).unwrap().gid();
        assert_eq!(edit(&path, &anna, Edit::Add(OLD)).unwrap(), Edited::Made { group });
        let mode = || std::fs::metadata(&path).unwrap().mode() & 0o777;
        assert_eq!(mode(), MODE, "a new file");
        std::fs::set_permissions(&path, Permissions::from_mode(0o604)).unwrap();
        std::fs::write(dir.path().join("users.new"), "left over").unwrap();
        edit(&link, &anna, Edit::Replace(NEW)).unwrap();
        assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(mode(), 0o604, "the operator's mode");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("anna:{NEW}\n"));
        let names = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<_> = names.collect();
        names.sort();
        assert_eq!(names, ["link", "users", "users.lock"], "nothing else is left over");

        std::fs::write(&path, "anna:plain text\n").unwrap();
        let error = edit(&path, &anna, Edit::Remove).unwrap_err();
        assert!(matches!(error, EditError::Unreadable(_)), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "anna:plain text\n");
    }
}
