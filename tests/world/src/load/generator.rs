//! Many SMTP clients that submit known messages as fast as they are taken.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use memchr::memmem;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::corpus::Corpus;
use crate::log::Log;

/// How long a client of a killed server goes on trying to connect again.
const RECONNECT: Duration = Duration::from_secs(60);
/// Pause between two of these tries.
const RECONNECT_PAUSE: Duration = Duration::from_millis(20);

/// From whom to whom a message goes.
#[derive(Clone, Debug)]
pub struct Envelope {
    /// The reverse path, without angle brackets.
    pub from: String,
    /// The one recipient.
    pub to: String,
}

/// The envelope of each message.
pub type Envelopes = Arc<dyn Fn(u64) -> Envelope + Send + Sync>;

/// A message that the server took responsibility for.
#[derive(Clone, Debug)]
pub struct Acknowledged {
    /// Its number.
    pub id: u64,
    /// The reply to the end of its data, `250` included.
    pub reply: String,
    /// When that reply was read.
    pub at: Instant,
}

/// What is submitted, and where.
pub struct Load {
    /// The server.
    pub server: SocketAddr,
    /// Connections at a time.
    pub connections: usize,
    /// The messages.
    pub corpus: Arc<Corpus>,
    /// Their envelopes.
    pub envelopes: Envelopes,
    next: AtomicU64,
    stopped: AtomicBool,
    acknowledged: Log<Acknowledged>,
    refused: AtomicU64,
}

impl std::fmt::Debug for Load {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Load").field("server", &self.server).finish_non_exhaustive()
    }
}

impl Load {
    /// Ready to run; numbers begin at 0.
    pub fn new(
        server: SocketAddr,
        connections: usize,
        corpus: Arc<Corpus>,
        envelopes: Envelopes,
    ) -> Arc<Self> {
        Arc::new(Self {
            server,
            connections,
            corpus,
            envelopes,
            next: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
            acknowledged: Log::default(),
            refused: AtomicU64::new(0),
        })
    }

    /// What was acknowledged so far.
    pub fn acknowledged(&self) -> &Log<Acknowledged> {
        &self.acknowledged
    }

    /// How many messages got a reply other than 250.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// How many messages were begun.
    pub fn begun(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }

    /// Clients finish the message they are at.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// Submits messages until `count` were begun or [`Load::stop`] is called. A number is used
    /// once: what was under way when a connection broke is not submitted again, so a second copy at
    /// the sink is the server's doing.
    pub async fn run(self: &Arc<Self>, count: u64) {
        let mut clients = tokio::task::JoinSet::new();
        for _ in 0..self.connections {
            let load = Arc::clone(self);
            clients.spawn(async move { load.client(count).await });
        }
        while let Some(done) = clients.join_next().await {
            done.expect("a client does not panic");
        }
    }

    async fn client(&self, count: u64) {
        while !self.finished(count) {
            let session = self.connect().await;
            // A server that is killed is part of the test.
            if self.submit_all(session, count).await.is_ok() {
                return;
            }
        }
    }

    /// Tries until the server is there (again).
    async fn connect(&self) -> Session {
        let since = Instant::now();
        loop {
            match Session::open(self.server).await {
                Ok(session) => return session,
                Err(error) => {
                    let waiting = since.elapsed() < RECONNECT;
                    assert!(waiting, "no server at {} for a minute: {error}", self.server);
                    tokio::time::sleep(RECONNECT_PAUSE).await;
                }
            }
        }
    }

    fn finished(&self, count: u64) -> bool {
        self.stopped.load(Ordering::Relaxed) || self.begun() >= count
    }

    async fn submit_all(&self, mut session: Session, count: u64) -> io::Result<()> {
        while !self.finished(count) {
            let id = self.next.fetch_add(1, Ordering::Relaxed);
            if id >= count {
                break;
            }
            let message = self.corpus.message(id);
            let envelope = (self.envelopes)(id);
            let reply = session.submit(&envelope, &message).await?;
            if reply.starts_with("250") {
                self.acknowledged.push(Acknowledged { id, reply, at: Instant::now() });
            } else {
                self.refused.fetch_add(1, Ordering::Relaxed);
            }
        }
        session.quit().await
    }
}

struct Session {
    stream: BufReader<TcpStream>,
    pipelining: bool,
}

impl Session {
    async fn open(server: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(server).await?;
        stream.set_nodelay(true)?;
        let mut session = Self { stream: BufReader::new(stream), pipelining: false };
        session.reply().await?;
        session.write(b"EHLO load.test\r\n").await?;
        session.pipelining = session.reply().await?.contains("PIPELINING");
        Ok(session)
    }

    /// Submits one message and returns the reply that decided its fate.
    async fn submit(&mut self, envelope: &Envelope, message: &[u8]) -> io::Result<String> {
        let mail = format!("MAIL FROM:<{}>\r\n", envelope.from);
        let rcpt = format!("RCPT TO:<{}>\r\n", envelope.to);
        let replies = if self.pipelining {
            self.write(format!("{mail}{rcpt}DATA\r\n").as_bytes()).await?;
            [self.reply().await?, self.reply().await?, self.reply().await?]
        } else {
            let mail = self.ask(&mail).await?;
            let rcpt = self.ask(&rcpt).await?;
            [mail, rcpt, self.ask("DATA\r\n").await?]
        };
        if !replies[2].starts_with("354") {
            let bad = replies.into_iter().find(|reply| !reply.starts_with("250"));
            self.ask("RSET\r\n").await?;
            return Ok(bad.unwrap_or_default());
        }
        self.write(&stuffed(message)).await?;
        self.reply().await
    }

    async fn ask(&mut self, command: &str) -> io::Result<String> {
        self.write(command.as_bytes()).await?;
        self.reply().await
    }

    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes).await
    }

    /// A whole reply, its lines joined by `\n`.
    async fn reply(&mut self) -> io::Result<String> {
        let mut reply = String::new();
        loop {
            let start = reply.len();
            if self.stream.read_line(&mut reply).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if reply.as_bytes().get(start + 3) != Some(&b'-') {
                return Ok(reply.trim_end().replace("\r\n", "\n"));
            }
        }
    }

    async fn quit(&mut self) -> io::Result<()> {
        self.ask("QUIT\r\n").await.map(drop)
    }
}

/// Dot-stuffed, with the end of data.
fn stuffed(message: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(message.len() + message.len() / 256 + 8);
    if message.starts_with(b".") {
        out.push(b'.');
    }
    let mut rest = message;
    while let Some(at) = memmem::find(rest, b"\r\n.") {
        out.extend_from_slice(&rest[..at + 3]);
        out.push(b'.');
        rest = &rest[at + 3..];
    }
    out.extend_from_slice(rest);
    out.extend_from_slice(b".\r\n");
    out
}
