//! Unix sockets that have a name in the file system: taking the name, and giving it back.

use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, socket_with,
};
use tokio::net::UnixListener;

/// Connections that the system holds until we take them.
const BACKLOG: i32 = 1024;

/// A listening socket; its name goes when this is dropped.
#[derive(Debug)]
pub(crate) struct SocketFile {
    // The name goes first and then the socket, so that nobody finds a name that leads nowhere, and
    // what a successor binds is not taken away from it.
    _name: OwnName,
    socket: UnixListener,
}

/// The name of a socket of ours; it goes when this is dropped, unless somebody has bound another
/// one there since.
#[derive(Debug)]
pub(crate) struct OwnName {
    path: PathBuf,
    /// Device and inode when it was ours.
    name: (u64, u64),
}

impl OwnName {
    /// What was just bound at `path`.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), name: name(path)? })
    }
}

impl SocketFile {
    /// Listens at `path` for whom `mode` lets in. A socket that a daemon left behind is replaced;
    /// one that somebody still answers is not, since two daemons may be given the same path.
    ///
    /// # Errors
    ///
    /// What the system says, or that the place is taken.
    pub(crate) fn bind(path: &Path, mode: u32) -> io::Result<Self> {
        let socket = listen(path, MayOpen { mode, group: None })?;
        Ok(Self { _name: OwnName::of(path)?, socket })
    }

    pub(crate) fn socket(&self) -> &UnixListener {
        &self.socket
    }
}

impl Drop for OwnName {
    fn drop(&mut self) {
        if name(&self.path).is_ok_and(|now| now == self.name) {
            let _gone_already = std::fs::remove_file(&self.path);
        }
    }
}

/// Device and inode of what is at `path`.
fn name(path: &Path) -> io::Result<(u64, u64)> {
    let there = std::fs::symlink_metadata(path)?;
    Ok((there.dev(), there.ino()))
}

/// Who may connect to a socket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MayOpen {
    /// The permission bits of the socket's file.
    pub(crate) mode: u32,
    /// Whose it becomes besides, if we are allowed to give it away. Otherwise the owner still has
    /// it.
    pub(crate) group: Option<u32>,
}

/// Listens at `path`. A socket that a daemon left behind is replaced; one that somebody still
/// answers is not.
///
/// # Errors
///
/// What the system says, or that the place is taken.
pub(crate) fn listen(path: &Path, may_open: MayOpen) -> io::Result<UnixListener> {
    make_room(path)?;
    let socket = named(path, may_open)?;
    rustix::net::listen(&socket, BACKLOG)?;
    UnixListener::from_std(std::os::unix::net::UnixListener::from(socket))
}

/// A socket with its name, its mode and its group, to which nobody can connect yet: between name
/// and mode the file may be open to all.
fn named(path: &Path, may_open: MayOpen) -> io::Result<OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    let permissions = std::fs::Permissions::from_mode(may_open.mode);
    std::fs::set_permissions(path, permissions)?;
    if let Some(group) = may_open.group {
        let _owner_only = std::os::unix::fs::chown(path, None, Some(group));
    }
    Ok(socket)
}

/// Sees to it that nothing is at `path`.
///
/// # Errors
///
/// Something else than an abandoned socket is there.
fn make_room(path: &Path) -> io::Result<()> {
    let there = match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        found => found?,
    };
    if !there.file_type().is_socket() {
        let text = "something else than a socket is there";
        return Err(io::Error::new(ErrorKind::AlreadyExists, text));
    }
    match knock(path) {
        Err(Errno::CONNREFUSED) => std::fs::remove_file(path),
        Err(Errno::NOENT) => Ok(()),
        Ok(()) | Err(Errno::AGAIN | Errno::PROTOTYPE) => {
            let text = "another daemon answers there";
            Err(io::Error::new(ErrorKind::AddrInUse, text))
        }
        Err(other) => Err(other.into()),
    }
}

/// Does anybody listen at `path`? Does not wait for a place where others wait for one (`AGAIN`),
/// and a socket of another kind is somebody's, too (`PROTOTYPE`).
fn knock(path: &Path) -> Result<(), Errno> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&socket, &SocketAddrUnix::new(path)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_abandoned_name_is_taken_and_a_used_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "left behind");
        let first = SocketFile::bind(&path, 0o666).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o666);
        assert_eq!(SocketFile::bind(&path, 0o666).unwrap_err().kind(), ErrorKind::AddrInUse);
        drop(first);
        assert!(!path.exists());
        std::fs::write(&path, "mail").unwrap();
        assert_eq!(SocketFile::bind(&path, 0o666).unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&path).unwrap(), b"mail");
    }

    #[tokio::test]
    async fn only_what_is_still_ours_is_removed_at_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let ours = SocketFile::bind(&path, 0o666).unwrap();
        std::fs::rename(&path, dir.path().join("aside")).unwrap();
        let theirs = SocketFile::bind(&path, 0o666).unwrap();
        drop(ours);
        assert!(path.exists());
        drop(theirs);
        assert!(!path.exists());
    }

    #[test]
    fn nobody_connects_before_the_file_has_its_mode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let socket = named(&path, MayOpen { mode: 0o600, group: None }).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(knock(&path), Err(Errno::CONNREFUSED));
        rustix::net::listen(&socket, BACKLOG).unwrap();
        assert_eq!(knock(&path), Ok(()));
    }

    /// Its owner may be too busy to answer, or speak in another manner: neither makes it ours.
    #[tokio::test]
    async fn a_name_whose_owner_does_not_answer_is_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        let datagrams = dir.path().join("d");
        let _owner = std::os::unix::net::UnixDatagram::bind(&datagrams).unwrap();
        let busy = dir.path().join("b");
        let owner = std::os::unix::net::UnixListener::bind(&busy).unwrap();
        // One may wait, and does.
        rustix::net::listen(&owner, 0).unwrap();
        knock(&busy).unwrap();
        for path in [datagrams, busy] {
            let refused = SocketFile::bind(&path, 0o666).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::AddrInUse, "{path:?}");
            assert!(path.exists(), "{path:?}");
        }
    }
}
