//! Files that the configuration names, opened without ever waiting for somebody else.
//!
//! They are read again while the daemon runs. A FIFO in the place of one would keep whoever opens
//! it waiting for a writer that never comes, and with it every later reload.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::fs::OFlags;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::{self, PemObject as _};

/// Opens `path` for reading, behind links.
///
/// # Errors
///
/// What the system says, or that something else than a file is there.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    let at_once = OFlags::NONBLOCK | OFlags::NOCTTY;
    let flags = i32::try_from(at_once.bits()).unwrap_or_default();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if file.metadata()?.is_file() {
        return Ok(file);
    }
    Err(io::Error::new(ErrorKind::InvalidInput, "something else than a file is there"))
}

/// The certificates in a PEM file, each of which may be damaged.
///
/// # Errors
///
/// The file cannot be opened.
pub(crate) fn certificates(
    path: &Path,
) -> Result<impl Iterator<Item = Result<CertificateDer<'static>, pem::Error>>, pem::Error> {
    Ok(CertificateDer::pem_reader_iter(open(path).map_err(pem::Error::Io)?))
}

#[cfg(test)]
mod tests {
    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    #[test]
    fn what_is_no_file_is_refused_and_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name| dir.path().join(name);
        std::fs::write(path("file"), "text").unwrap();
        std::os::unix::fs::symlink(path("file"), path("link")).unwrap();
        assert_eq!(io::read_to_string(open(&path("link")).unwrap()).unwrap(), "text");
        let mode = Mode::RUSR | Mode::WUSR;
        mknodat(CWD, path("fifo"), FileType::Fifo, mode, 0).unwrap();
        for other in [path("fifo"), dir.path().to_owned(), "/dev/null".into()] {
            assert_eq!(open(&other).unwrap_err().kind(), ErrorKind::InvalidInput, "{other:?}");
        }
        assert_eq!(open(&path("nothing")).unwrap_err().kind(), ErrorKind::NotFound);
    }
}
