//! Unix sockets that have a name in the file system: taking the name, and giving it back.

use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use tokio::net::UnixListener;

/// A listening socket; its name goes when this is dropped.
#[derive(Debug)]
pub(crate) struct SocketFile {
    socket: UnixListener,
    path: PathBuf,
}

impl SocketFile {
    /// Listens at `path` for whom `mode` lets in. A socket that a daemon left behind is replaced; one
    /// that somebody still answers is not, since two daemons may be given the same path.
    ///
    /// # Errors
    ///
    /// What the system says, or that the place is taken.
    pub(crate) fn bind(path: &Path, mode: u32) -> io::Result<Self> {
        make_room(path)?;
        let socket = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
        Ok(Self { socket, path: path.to_owned() })
    }

    /// The socket.
    pub(crate) fn socket(&self) -> &UnixListener {
        &self.socket
    }
}

/// The name goes first and then the socket, so that nobody finds a name that leads nowhere, and what
/// a successor binds is not taken away from it.
impl Drop for SocketFile {
    fn drop(&mut self) {
        let _gone_already = std::fs::remove_file(&self.path);
    }
}

/// Sees to it that nothing is at `path`.
///
/// # Errors
///
/// Something else than an abandoned socket is there.
pub(crate) fn make_room(path: &Path) -> io::Result<()> {
    let there = match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        found => found?,
    };
    if !there.file_type().is_socket() {
        let text = "something else than a socket is there";
        return Err(io::Error::new(ErrorKind::AlreadyExists, text));
    }
    if UnixStream::connect(path).is_ok() {
        let text = "another daemon answers there";
        return Err(io::Error::new(ErrorKind::AddrInUse, text));
    }
    std::fs::remove_file(path)
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
}
