//! The way to systemd's journal: one datagram an entry.

use std::io;
use std::os::unix::net::UnixDatagram;

use rustix::fs::Stat;

use super::writer::LineSink;

/// Where the journal listens (systemd.journal-fields(7)).
const SOCKET: &str = "/run/systemd/journal/socket";
/// Our choice: far over any line of ours, and under what a Unix datagram may have by default (208
/// KiB).
const ENTRY_BYTES_MAX: usize = 64 * 1024;

/// A connection to the journal. Every line is an entry of its own.
#[derive(Debug)]
pub(super) struct JournalSocket(UnixDatagram);

impl JournalSocket {
    /// # Errors
    ///
    /// When no journal listens.
    pub(super) fn connect() -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(SOCKET)?;
        Ok(Self(socket))
    }
}

impl JournalSocket {
    /// Sends an entry; once more to the socket that is there now, if the journal was started anew.
    fn send(&mut self, entry: &[u8]) -> io::Result<()> {
        if self.0.send(entry).is_err() {
            *self = Self::connect()?;
            self.0.send(entry)?;
        }
        Ok(())
    }
}

impl LineSink for JournalSocket {
    fn write(&mut self, entries: &[Vec<u8>]) -> usize {
        let mut lost = 0;
        for entry in entries {
            let is_sent = entry.len() <= ENTRY_BYTES_MAX && self.send(entry).is_ok();
            lost += usize::from(!is_sent);
        }
        lost
    }
}

/// Is stderr the journal's? `$JOURNAL_STREAM` alone says little: children inherit the variable, but
/// may have another stderr (systemd.exec(5)).
pub(super) fn is_stderr() -> bool {
    let variable = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    rustix::fs::fstat(io::stderr()).is_ok_and(|stat| is_stream(&variable, &stat))
}

fn is_stream(variable: &str, stat: &Stat) -> bool {
    variable == format!("{}:{}", stat.st_dev, stat.st_ino)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_very_same_file_is_the_journal_s_stream() {
        let stat = rustix::fs::fstat(std::fs::File::open("/dev/null").unwrap()).unwrap();
        let right = format!("{}:{}", stat.st_dev, stat.st_ino);
        assert!(is_stream(&right, &stat));
        assert!(!is_stream(&format!("{right}1"), &stat));
        assert!(!is_stream("", &stat));
    }
}
