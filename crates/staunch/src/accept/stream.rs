//! A client's connection: TCP or a unix socket, in the clear or under TLS.
//!
//! Waiting and reading are two things, so that whoever waits holds no buffer. Under TLS the library
//! keeps a buffer of 4 KiB; what it has decrypted and was not read yet counts as readable.

use std::io::{self, BufRead as _, ErrorKind, Read, Write};
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::Arc;

use policy::TlsVersion;
use rustix::net::{RecvFlags, recv};
use rustls::{CipherSuite, ProtocolVersion, ServerConfig, ServerConnection};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpStream, UnixStream};

use super::peer::TlsFacts;
use crate::budget::Held;

/// RFC 9266 §2: the label under which both ends derive what ties a login to their connection.
const EXPORTER_LABEL: &[u8] = b"EXPORTER-Channel-Binding";

/// RFC 8446 §5.1: the content of a record, which the library decrypts as a whole.
pub(super) const RECORD_OCTETS: usize = 16 * 1024;
/// Octets read at once, which a message's guarantee includes.
pub(super) const READ_OCTETS: usize = 8 * 1024;
/// The session that needs most when nothing is lent to it: one under TLS.
pub(super) const GREEDIEST: Held = {
    let octets = READ_OCTETS + RECORD_OCTETS;
    Held { now: octets, least: octets }
};

/// A client's connection as the system has it, in clear text.
#[derive(Debug)]
pub(super) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    /// The address that the client connected to; a unix socket has none.
    pub(super) fn local(&self) -> Option<IpAddr> {
        match self {
            Self::Tcp(stream) => stream.local_addr().ok().map(|addr| addr.ip().to_canonical()),
            Self::Unix(_) => None,
        }
    }

    /// The port of the other end; a unix socket has none.
    pub(super) fn peer_port(&self) -> Option<u16> {
        match self {
            Self::Tcp(stream) => stream.peer_addr().ok().map(|address| address.port()),
            Self::Unix(_) => None,
        }
    }

    /// Replies are small and complete; waiting for more to send with them would only delay them.
    pub(super) fn send_at_once(&self) {
        match self {
            Self::Tcp(stream) => {
                let _best_effort = stream.set_nodelay(true);
            }
            Self::Unix(_) => {}
        }
    }

    pub(super) async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.readable().await,
            Self::Unix(stream) => stream.readable().await,
        }
    }

    async fn writable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.writable().await,
            Self::Unix(stream) => stream.writable().await,
        }
    }

    /// Reads what is there into the room that `buffer` has; 0 at the end.
    pub(super) fn try_read_buf(&self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_read_buf(buffer),
            Self::Unix(stream) => stream.try_read_buf(buffer),
        }
    }

    fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_read(buffer),
            Self::Unix(stream) => stream.try_read(buffer),
        }
    }

    /// Writes as much as is taken now.
    pub(super) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_write(bytes),
            Self::Unix(stream) => stream.try_write(bytes),
        }
    }

    async fn write_all(&self, bytes: &[u8]) -> io::Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            match self.try_write(rest) {
                Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.writable().await?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Is input waiting at this very moment? Asks the system, not what was heard from it last.
    pub(super) fn has_input(&self) -> bool {
        !self.peek(1).is_empty()
    }

    /// What waits at this very moment, `octets_max` of it, which stay there.
    pub(super) fn peek(&self, octets_max: usize) -> Vec<u8> {
        let mut octets = vec![0; octets_max];
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        let seen = match self {
            Self::Tcp(stream) => recv(stream.as_fd(), octets.as_mut_slice(), flags),
            Self::Unix(stream) => recv(stream.as_fd(), octets.as_mut_slice(), flags),
        };
        octets.truncate(seen.map_or(0, |(count, _)| count));
        octets
    }

    async fn shutdown(&mut self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.shutdown().await,
            Self::Unix(stream) => stream.shutdown().await,
        }
    }
}

/// The socket as the TLS library reads and writes it.
struct Transport<'s>(&'s Socket);

impl Read for Transport<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buffer)
    }
}

/// Notes the first octets that are read, as far as there is room for them.
struct Noting<'f, R> {
    from: R,
    first: &'f mut Vec<u8>,
}

impl<R: Read> Read for Noting<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.from.read(buffer)?;
        let room = self.first.capacity().saturating_sub(self.first.len());
        self.first.extend(buffer.iter().take(count.min(room)));
        Ok(count)
    }
}

impl Write for Transport<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What the session reads and writes, in clear text or under TLS.
#[derive(Debug)]
pub(super) enum ClientStream {
    Clear(Socket),
    Tls(Box<TlsStream>),
}

impl ClientStream {
    /// Returns when something can be read, or the end.
    pub(super) async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Clear(socket) => socket.readable().await,
            Self::Tls(tls) if tls.decrypted > 0 => Ok(()),
            Self::Tls(tls) => tls.socket.readable().await,
        }
    }

    /// Reads what is there into the room that `buffer` has; 0 at the end.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if there is nothing yet, also after [`ClientStream::readable`].
    pub(super) fn try_read_buf(&mut self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        match self {
            Self::Clear(socket) => socket.try_read_buf(buffer),
            Self::Tls(tls) => tls.try_read_buf(buffer),
        }
    }

    /// Octets that may be held below the reader's buffer while a message arrives.
    pub(super) fn held_octets(&self) -> usize {
        match self {
            Self::Clear(_) => 0,
            Self::Tls(_) => RECORD_OCTETS,
        }
    }

    /// The socket itself, below any TLS.
    pub(super) fn socket(&self) -> &Socket {
        match self {
            Self::Clear(socket) => socket,
            Self::Tls(tls) => &tls.socket,
        }
    }

    /// Has the client spoken already? May overlook what arrives at this very moment.
    pub(super) fn has_input(&self) -> bool {
        match self {
            Self::Clear(socket) => socket.has_input(),
            Self::Tls(tls) => tls.decrypted > 0,
        }
    }

    pub(super) async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Clear(socket) => socket.write_all(bytes).await,
            Self::Tls(tls) => tls.write_all(bytes).await,
        }
    }

    /// Says that nothing more will be written.
    pub(super) async fn shutdown(&mut self) -> io::Result<()> {
        match self {
            Self::Clear(socket) => socket.shutdown().await,
            Self::Tls(tls) => tls.shutdown().await,
        }
    }
}

/// A connection under TLS, after its handshake.
#[derive(Debug)]
pub(super) struct TlsStream {
    socket: Socket,
    connection: ServerConnection,
    /// Octets that are decrypted and not read yet.
    decrypted: usize,
}

impl TlsStream {
    /// The server's side of a handshake; `received` is what was read already. The first octets that
    /// the client said are in `first` then, also if it failed: as many as that has room for.
    ///
    /// # Errors
    ///
    /// The client went away, or does not speak TLS as we do. It was told as far as possible.
    pub(super) async fn accept(
        socket: Socket,
        config: Arc<ServerConfig>,
        received: &[u8],
        first: &mut Vec<u8>,
    ) -> io::Result<Self> {
        let connection = ServerConnection::new(config).map_err(io::Error::other)?;
        let mut tls = Self { socket, connection, decrypted: 0 };
        let mut received = Noting { from: received, first };
        while !received.from.is_empty() {
            tls.connection.read_tls(&mut received)?;
            tls.process()?;
        }
        loop {
            tls.flush().await?;
            if !tls.connection.is_handshaking() {
                return Ok(tls);
            }
            tls.socket.readable().await?;
            let read = {
                let from = Transport(&tls.socket);
                tls.connection.read_tls(&mut Noting { from, first: received.first })
            };
            match read {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(_) => tls.process()?,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// What was agreed on.
    pub(super) fn facts(&self) -> TlsFacts {
        let version = match self.connection.protocol_version() {
            Some(ProtocolVersion::TLSv1_3) => TlsVersion::Tls13,
            // Nothing older is spoken.
            _ => TlsVersion::Tls12,
        };
        let suite = self.connection.negotiated_cipher_suite().map(|suite| suite.suite());
        let exporter = match version {
            TlsVersion::Tls13 => {
                self.connection.export_keying_material([0; 32], EXPORTER_LABEL, Some(&[])).ok()
            }
            TlsVersion::Tls12 => None,
        };
        TlsFacts { version, cipher: suite.map_or("unknown", suite_name), exporter }
    }

    fn process(&mut self) -> io::Result<()> {
        match self.connection.process_new_packets() {
            Ok(state) => {
                self.decrypted = state.plaintext_bytes_to_read();
                Ok(())
            }
            Err(error) => {
                // The alert that says why; there is nobody to wait for.
                let _told = self.connection.write_tls(&mut Transport(&self.socket));
                Err(io::Error::new(ErrorKind::InvalidData, error))
            }
        }
    }

    fn try_read_buf(&mut self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        loop {
            match self.connection.reader().fill_buf() {
                Ok(decrypted) => {
                    let room = buffer.capacity().saturating_sub(buffer.len());
                    let taken = decrypted.get(..room).unwrap_or(decrypted);
                    let count = taken.len();
                    buffer.extend_from_slice(taken);
                    self.connection.reader().consume(count);
                    self.decrypted = self.decrypted.saturating_sub(count);
                    return Ok(count);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                // Gone without a word: what was commanded is complete or not by its own form.
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(0),
                Err(error) => return Err(error),
            }
            self.connection.read_tls(&mut Transport(&self.socket))?;
            self.process()?;
            // What the library has to say by itself, a new key for instance, goes with what we say.
        }
    }

    async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let taken = self.connection.writer().write(rest)?;
            rest = rest.get(taken..).unwrap_or_default();
            self.flush().await?;
        }
        Ok(())
    }

    async fn flush(&mut self) -> io::Result<()> {
        while self.connection.wants_write() {
            match self.connection.write_tls(&mut Transport(&self.socket)) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.socket.writable().await?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn shutdown(&mut self) -> io::Result<()> {
        self.connection.send_close_notify();
        self.flush().await?;
        self.socket.shutdown().await
    }
}

/// As IANA's registry has it; the library numbers those of TLS 1.3 differently.
#[expect(clippy::wildcard_enum_match_arm, reason = "the library's enum of all suites there are")]
fn suite_name(suite: CipherSuite) -> &'static str {
    match suite {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => "TLS_AES_128_GCM_SHA256",
        CipherSuite::TLS13_AES_256_GCM_SHA384 => "TLS_AES_256_GCM_SHA384",
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => "TLS_CHACHA20_POLY1305_SHA256",
        other => other.as_str().unwrap_or("unknown"),
    }
}
