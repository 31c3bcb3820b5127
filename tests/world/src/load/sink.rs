//! An MX host that takes everything it is sent, checks it against the corpus and throws it away.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use memchr::{memchr, memmem};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

use super::corpus::Corpus;
use crate::log::Log;
use crate::pki::Identity;
use crate::tasks::Tasks;
use crate::tls::{self, TlsSeen};

/// A local part that begins so is refused for good.
const REFUSED_LOCAL_PART: &[u8] = b"bounce";

/// One message that the sink answered 250.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// The number of the message, or of the message that this DSN (from `<>`) is about.
    pub id: Option<u64>,
    /// If it came from `<>`: the DSN's own Message-ID.
    pub notice: Option<String>,
    /// Every octet is as it was submitted; for a DSN: it tells of one failed recipient.
    pub intact: bool,
    /// Came over TLS.
    pub tls: bool,
    /// When its end was read.
    pub at: Instant,
}

/// Whether the sink offers STARTTLS.
#[derive(Debug)]
pub enum SinkTls {
    /// No.
    Never,
    /// With this certificate.
    Offered(Identity),
}

/// The sink; it serves until it is dropped.
#[derive(Debug)]
pub struct Sink {
    address: SocketAddr,
    arrivals: Arc<Log<Arrival>>,
    handshakes: Arc<Log<TlsSeen>>,
    _tasks: Tasks,
}

impl Sink {
    /// Listens on `address` (port 0: any) and checks what comes against `corpus`.
    pub async fn start(address: SocketAddr, tls: SinkTls, corpus: Arc<Corpus>) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let arrivals = Arc::new(Log::default());
        let tls = match tls {
            SinkTls::Never => None,
            SinkTls::Offered(identity) => Some(tls::server_config(&identity)),
        };
        let handshakes = Arc::new(Log::default());
        let (arrived, shaken) = (Arc::clone(&arrivals), Arc::clone(&handshakes));
        let shared = Shared { arrivals: arrived, handshakes: shaken, corpus, tls };
        let tasks = Tasks::default();
        tasks.spawn(accept(listener, shared));
        Ok(Self { address, arrivals, handshakes, _tasks: tasks })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What came so far.
    pub fn arrivals(&self) -> &Log<Arrival> {
        &self.arrivals
    }

    /// Every finished handshake.
    pub fn handshakes(&self) -> &Log<TlsSeen> {
        &self.handshakes
    }
}

#[derive(Clone)]
struct Shared {
    arrivals: Arc<Log<Arrival>>,
    handshakes: Arc<Log<TlsSeen>>,
    corpus: Arc<Corpus>,
    tls: Option<Arc<ServerConfig>>,
}

async fn accept(listener: TcpListener, shared: Shared) {
    let sessions = Tasks::default();
    loop {
        // Out of descriptors or the like: the next connection may work.
        let Ok((stream, _)) = listener.accept().await else { continue };
        let shared = shared.clone();
        // A client that is killed in the middle is part of the test.
        sessions.spawn(async move { serve(stream, &shared).await.unwrap_or_default() });
    }
}

async fn serve(mut stream: TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.write_all(b"220 sink.test ESMTP\r\n").await?;
    let mut session = Session::new(shared, false);
    if session.run(&mut stream).await? == End::StartTls {
        let config = shared.tls.clone().ok_or(io::ErrorKind::Unsupported)?;
        let mut stream = TlsAcceptor::from(config).accept(stream).await?;
        shared.handshakes.push(TlsSeen::of(stream.get_ref().1));
        Session::new(shared, true).run(&mut stream).await?;
        stream.shutdown().await?;
    }
    Ok(())
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum End {
    Closed,
    StartTls,
}

struct Session<'a> {
    shared: &'a Shared,
    tls: bool,
    input: Vec<u8>,
    output: Vec<u8>,
    notice: bool,
    recipients: usize,
    in_data: bool,
    /// Where the search for the end of data goes on.
    searched: usize,
}

impl<'a> Session<'a> {
    fn new(shared: &'a Shared, tls: bool) -> Self {
        Self {
            shared,
            tls,
            input: Vec::with_capacity(64 * 1024),
            output: Vec::new(),
            notice: false,
            recipients: 0,
            in_data: false,
            searched: 0,
        }
    }

    async fn run(&mut self, stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> io::Result<End> {
        loop {
            let end = self.take_what_is_there();
            if !self.output.is_empty() {
                stream.write_all(&self.output).await?;
                stream.flush().await?;
                self.output.clear();
            }
            if let Some(end) = end {
                return Ok(end);
            }
            self.input.reserve(16 * 1024);
            if stream.read_buf(&mut self.input).await? == 0 {
                return Ok(End::Closed);
            }
        }
    }

    fn take_what_is_there(&mut self) -> Option<End> {
        loop {
            if self.in_data {
                let end = self.find_end()?;
                let rest = self.input.split_off(end + 5);
                let message = std::mem::replace(&mut self.input, rest);
                self.arrived(unstuffed(&message[..end + 2]));
                continue;
            }
            let end = memchr(b'\n', &self.input)? + 1;
            let line: Vec<u8> = self.input.drain(..end).collect();
            if let Some(end) = self.command(&line) {
                return Some(end);
            }
        }
    }

    /// Where CRLF.CRLF begins. The CRLF before the first line was taken with the command; messages
    /// here are never empty.
    fn find_end(&mut self) -> Option<usize> {
        let found = memmem::find(&self.input[self.searched..], b"\r\n.\r\n");
        let at = found.map(|at| at + self.searched);
        self.searched = if at.is_some() { 0 } else { self.input.len().saturating_sub(4) };
        at
    }

    fn arrived(&mut self, message: Vec<u8>) {
        let checked = if self.notice {
            let failed = memmem::find_iter(&message, b"\r\nAction: failed\r\n").count();
            Corpus::id_in(&message).map(|id| (id, failed == 1))
        } else {
            self.shared.corpus.check(&message)
        };
        let (id, intact) = checked.map_or((None, false), |(id, intact)| (Some(id), intact));
        let notice = self.notice.then(|| message_id(&message));
        self.shared.arrivals.push(Arrival {
            id,
            notice,
            intact,
            tls: self.tls,
            at: Instant::now(),
        });
        self.in_data = false;
        self.recipients = 0;
        let kind = if self.notice { "notice" } else { "message" };
        let name = id.map_or_else(|| "unknown".to_owned(), |id| id.to_string());
        self.output.extend_from_slice(format!("250 2.0.0 took {kind} {name}\r\n").as_bytes());
    }

    fn command(&mut self, line: &[u8]) -> Option<End> {
        let verb = line.get(..4).unwrap_or(line).to_ascii_uppercase();
        let reply: &[u8] = match verb.as_slice() {
            b"EHLO" => self.extensions(),
            b"STAR" if self.shared.tls.is_some() && !self.tls => {
                self.output.extend_from_slice(b"220 2.0.0 go ahead\r\n");
                return Some(End::StartTls);
            }
            b"MAIL" => {
                self.notice = line[4..].to_ascii_uppercase().starts_with(b" FROM:<>");
                self.recipients = 0;
                b"250 2.1.0 ok\r\n"
            }
            b"RCPT" => self.recipient(line),
            b"DATA" if self.recipients > 0 => {
                self.in_data = true;
                b"354 go ahead\r\n"
            }
            b"DATA" => b"554 5.5.1 no valid recipients\r\n",
            b"RSET" | b"NOOP" | b"HELO" => b"250 2.0.0 ok\r\n",
            b"QUIT" => {
                self.output.extend_from_slice(b"221 2.0.0 bye\r\n");
                return Some(End::Closed);
            }
            _ => b"500 5.5.1 what?\r\n",
        };
        self.output.extend_from_slice(reply);
        None
    }

    fn recipient(&mut self, line: &[u8]) -> &'static [u8] {
        let local_part = memchr(b'<', line).map_or(&[][..], |at| &line[at + 1..]);
        if local_part.starts_with(REFUSED_LOCAL_PART) {
            return b"550 5.1.1 no such user\r\n";
        }
        self.recipients += 1;
        b"250 2.1.5 ok\r\n"
    }

    fn extensions(&self) -> &'static [u8] {
        if self.shared.tls.is_some() && !self.tls {
            b"250-sink.test\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-ENHANCEDSTATUSCODES\r\n250 STARTTLS\r\n"
        } else {
            b"250-sink.test\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 ENHANCEDSTATUSCODES\r\n"
        }
    }
}

/// The value of the first Message-ID field; empty if there is none.
fn message_id(message: &[u8]) -> String {
    let at = memmem::find(message, b"Message-ID: ").map(|at| at + b"Message-ID: ".len());
    let line = at.and_then(|at| message[at..].split(|&byte| byte == b'\r').next());
    String::from_utf8_lossy(line.unwrap_or_default()).into_owned()
}

fn unstuffed(data: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(data.len());
    let mut rest = data.strip_prefix(b".").unwrap_or(data);
    while let Some(at) = memmem::find(rest, b"\r\n.") {
        out.extend_from_slice(&rest[..at + 2]);
        rest = &rest[at + 3..];
    }
    out.extend_from_slice(rest);
    out
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::load::{Envelope, Load, Sizes};

    #[tokio::test]
    async fn what_goes_in_comes_out_once_and_whole() {
        let corpus = Arc::new(Corpus::new(Sizes::Quick));
        let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let sink = Sink::start(anywhere, SinkTls::Never, Arc::clone(&corpus)).await.unwrap();
        let envelope = |id: u64| Envelope {
            from: "ann@load.test".to_owned(),
            to: format!("{}@sink.test", if id == 7 { "bounce" } else { "bob" }),
        };
        let load = Load::new(sink.address(), 4, corpus, Arc::new(envelope));
        load.run(60).await;
        assert_eq!((load.acknowledged().len(), load.refused()), (59, 1));
        let mut ids = sink.arrivals().read(|all| {
            assert!(all.iter().all(|arrival| arrival.intact && arrival.notice.is_none()));
            all.iter().filter_map(|arrival| arrival.id).collect::<Vec<_>>()
        });
        ids.sort_unstable();
        assert_eq!(ids, (0..60).filter(|&id| id != 7).collect::<Vec<_>>());
    }
}
