//! One SMTP connection to a host: bytes out, replies in, every wait bounded.
//!
//! Whatever is written, the peer's replies are read meanwhile: two sides that both only write would
//! wait for each other for ever (RFC 2920 §3.1). A peer that answers and closes is heard before the
//! failed write is: "550 go away" says more than "broken pipe".
//!
//! Not here: what to say (`connect`, `transmit`), and whether the peer is who it should be
//! (`policy`).

#[cfg(test)]
pub(crate) mod scripted;

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use policy::ObservedTls;
use smtp::{Domain, Extensions, RemoteText, Reply, ReplyError, ReplyParser};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::client::TlsStream;

use crate::connect::facts::ConnectFact;
use crate::connect::tls::{HandshakeError, Handshaken, Hello, TlsClient};
use crate::connect::{PoolKey, Used, is_up};

/// The part of the log that has what is said.
const LOG_PART: &str = "staunch::connect";
/// Octets of replies read at once. A connection between two messages holds no more.
const INPUT_OCTETS: usize = 4096;
/// Octets of replies that may wait while a group of commands is written: 256 for each of 1,000
/// recipients. A peer that sends more is not answering.
const INPUT_OCTETS_MAX: usize = 256 * 1024;
/// Octets of the output buffer that are kept between messages.
const OUTPUT_OCTETS_KEPT: usize = 16 * 1024;
/// RFC 5321 §4.1.1.10 wants the answer to QUIT awaited; ours: this long.
const QUIT_WAIT: Duration = Duration::from_secs(5);
/// How long a peer whose connection broke is listened to for what it said before.
const LAST_WORDS_WAIT: Duration = Duration::from_secs(2);

/// Why a connection is of no further use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BrokenConnection {
    /// The peer closed it.
    #[error("the peer closed the connection")]
    Closed,
    /// The system reported an error.
    #[error("{0}")]
    Io(#[source] io::Error),
    /// The limit of the step was exceeded.
    #[error("no answer within {} s", .0.as_secs())]
    TimedOut(Duration),
    /// What came is not a reply.
    #[error("{0}")]
    NotSmtp(#[from] ReplyError),
    /// More came than was asked for.
    #[error("the peer sends more than answers")]
    OutOfStep,
}

impl From<io::Error> for BrokenConnection {
    fn from(error: io::Error) -> Self {
        // Under TLS, many peers close without close_notify; SMTP has ends of its own.
        if error.kind() == io::ErrorKind::UnexpectedEof { Self::Closed } else { Self::Io(error) }
    }
}

/// How the writing of a piece of the body ended.
#[derive(Debug)]
pub(crate) enum WrittenOctets {
    /// All of it is on its way.
    All,
    /// The peer answered before it had everything.
    Early(Reply),
}

#[derive(Debug)]
enum HostStream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// A connection after TCP, with or without TLS.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: HostStream,
    peer: SocketAddr,
    input: Input,
    output: Vec<u8>,
    parser: ReplyParser,
    /// A write failed; what the peer said before may still be read.
    write_error: Option<io::Error>,
    extensions: Extensions,
    transactions: usize,
    /// The host was seen to keep a transaction open behind a message.
    needs_reset: bool,
    used: Used,
    /// No wait is longer, whatever its own limit.
    deadline: Option<Instant>,
    /// As whom the peer is meant; for the log.
    host: Option<Domain>,
}

/// What of the output may be in the log.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Shown {
    /// Its lines.
    Lines,
    /// That there is some: it has a password.
    Secret,
}

impl Connection {
    /// A connection in the clear, before the greeting.
    pub(crate) fn plain(stream: TcpStream, peer: SocketAddr) -> Self {
        Self::over(HostStream::Plain(stream), peer)
    }

    fn over(stream: HostStream, peer: SocketAddr) -> Self {
        Self {
            stream,
            peer,
            input: Input::default(),
            output: Vec::new(),
            parser: ReplyParser::default(),
            write_error: None,
            extensions: Extensions::default(),
            transactions: 0,
            needs_reset: false,
            used: Used::default(),
            deadline: None,
            host: None,
        }
    }

    /// Names the peer, for the log.
    pub(crate) fn set_host(&mut self, host: &Domain) {
        self.host = Some(host.clone());
    }

    /// Shakes hands. The new connection knows nothing of what was said before it (RFC 3207 §4.2).
    /// Also whether what it shows is that of an earlier handshake.
    pub(crate) async fn upgrade(
        self,
        tls: &TlsClient,
        key: &PoolKey,
        hello: Hello,
    ) -> Result<(Self, ObservedTls, bool), HandshakeError> {
        match self.stream {
            HostStream::Plain(stream) => {
                let Handshaken { stream, observed, is_resumed } =
                    tls.handshake(stream, key, hello).await?;
                let secured = Self::over(HostStream::Tls(Box::new(stream)), self.peer);
                let kept = Self { deadline: self.deadline, host: self.host, ..secured };
                Ok((kept, observed, is_resumed))
            }
            HostStream::Tls(_) => Err(HandshakeError::under_tls()),
        }
    }

    /// Whom we talk to.
    pub(crate) fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// What the last EHLO offered.
    pub(crate) fn extensions(&self) -> &Extensions {
        &self.extensions
    }

    /// Remembers what the last EHLO offered.
    pub(crate) fn set_extensions(&mut self, extensions: Extensions) {
        self.extensions = extensions;
    }

    /// Mail transactions begun on this connection, each message one.
    pub(crate) fn transactions(&self) -> usize {
        self.transactions
    }

    /// To be called before each MAIL.
    pub(crate) fn count_transaction(&mut self) {
        self.transactions += 1;
    }

    /// Does RSET have to follow each message?
    pub(crate) fn needs_reset(&self) -> bool {
        self.needs_reset
    }

    /// RSET follows each message from now on.
    pub(crate) fn set_needs_reset(&mut self) {
        self.needs_reset = true;
    }

    /// Does the host take no more mail over this connection?
    pub(crate) fn is_used_up(&self) -> bool {
        is_up(self.extensions.limits(), self.transactions)
    }

    /// Those of `recipients` that the host takes in one more transaction: an index for each, in
    /// order.
    pub(crate) fn fitting<'d>(
        &mut self,
        recipients: impl Iterator<Item = (usize, &'d Domain)>,
    ) -> Vec<usize> {
        if self.is_used_up() {
            return Vec::new();
        }
        self.used.fitting(self.extensions.limits(), recipients)
    }

    /// No wait goes on beyond `deadline` from now on, whatever its own limit.
    pub(crate) fn set_deadline(&mut self, deadline: Option<Instant>) {
        self.deadline = deadline;
    }

    /// What a wait may take now.
    fn allowed(&self, limit: Duration) -> Duration {
        let left = |deadline: Instant| deadline.saturating_duration_since(Instant::now());
        self.deadline.map_or(limit, |deadline| limit.min(left(deadline)))
    }

    /// What goes out with the next write.
    pub(crate) fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    /// Sends `line` and waits for its reply.
    pub(crate) async fn command(
        &mut self,
        line: &str,
        limit: Duration,
    ) -> Result<Reply, BrokenConnection> {
        self.output.extend_from_slice(line.as_bytes());
        self.send(limit).await?;
        self.reply(limit).await
    }

    /// Writes the output. A failed write shows only when the peer has nothing more to say.
    pub(crate) async fn send(&mut self, limit: Duration) -> Result<(), BrokenConnection> {
        self.send_shown(limit, Shown::Lines).await
    }

    /// The same for what no log must have.
    pub(crate) async fn send_secret(&mut self, limit: Duration) -> Result<(), BrokenConnection> {
        self.send_shown(limit, Shown::Secret).await
    }

    async fn send_shown(&mut self, limit: Duration, shown: Shown) -> Result<(), BrokenConnection> {
        self.tell_sent(shown);
        let limit = self.allowed(limit);
        if self.write_error.is_none() && !self.output.is_empty() {
            let written = poll_fn(|cx| self.poll_write_output(cx, ReplyReading::WhenBlocked));
            match timeout(limit, written).await {
                Err(_) => return Err(BrokenConnection::TimedOut(limit)),
                Ok(Err(broken @ (BrokenConnection::OutOfStep | BrokenConnection::NotSmtp(_)))) => {
                    return Err(broken);
                }
                Ok(Err(BrokenConnection::Io(error))) => self.write_error = Some(error),
                Ok(Err(BrokenConnection::Closed | BrokenConnection::TimedOut(_)) | Ok(_)) => {}
            }
        }
        self.output.clear();
        Ok(())
    }

    fn tell_sent(&self, shown: Shown) {
        if !tracing::enabled!(target: LOG_PART, tracing::Level::DEBUG) {
            return;
        }
        let (host, address) = (self.host.as_ref(), self.peer);
        let tell = |line: &RemoteText| ConnectFact::Sent { host, address, line }.tell();
        match shown {
            Shown::Secret => tell(&RemoteText::new("(a message of AUTH)")),
            Shown::Lines => {
                let text = String::from_utf8_lossy(&self.output);
                text.lines().for_each(|line| tell(&RemoteText::new(line)));
            }
        }
    }

    /// Writes the output, which is a piece of a body, unless the peer answers before.
    pub(crate) async fn send_body(
        &mut self,
        limit: Duration,
    ) -> Result<WrittenOctets, BrokenConnection> {
        let (host, address, octets) = (self.host.as_ref(), self.peer, self.output.len());
        ConnectFact::ContentSent { host, address, octets }.tell();
        // What is buffered now was said before the peer can have seen the end.
        if let Some(reply) = self.buffered_reply()? {
            return Ok(WrittenOctets::Early(reply));
        }
        let limit = self.allowed(limit);
        let written = poll_fn(|cx| self.poll_write_output(cx, ReplyReading::Always));
        let broken = match timeout(limit, written).await {
            Ok(Ok(written)) => {
                self.output.clear();
                return Ok(written);
            }
            Ok(Err(broken)) => broken,
            Err(_) => return Err(BrokenConnection::TimedOut(limit)),
        };
        match self.reply(LAST_WORDS_WAIT).await {
            Ok(reply) => Ok(WrittenOctets::Early(reply)),
            Err(_) => Err(broken),
        }
    }

    /// Waits for the next reply.
    pub(crate) async fn reply(&mut self, limit: Duration) -> Result<Reply, BrokenConnection> {
        if let Some(reply) = self.buffered_reply()? {
            return Ok(reply);
        }
        let limit = self.allowed(limit);
        let Ok(result) = timeout(limit, self.read_reply()).await else {
            return Err(BrokenConnection::TimedOut(limit));
        };
        match (result, self.write_error.take()) {
            (Err(BrokenConnection::Closed | BrokenConnection::Io(_)), Some(first)) => {
                Err(BrokenConnection::Io(first))
            }
            (result, write_error) => {
                self.write_error = write_error;
                result
            }
        }
    }

    async fn read_reply(&mut self) -> Result<Reply, BrokenConnection> {
        loop {
            poll_fn(|cx| self.poll_fill(cx)).await?;
            if let Some(reply) = self.buffered_reply()? {
                return Ok(reply);
            }
        }
    }

    fn buffered_reply(&mut self) -> Result<Option<Reply>, BrokenConnection> {
        let (consumed, reply) = self.parser.parse(self.input.unread())?;
        self.input.consume(consumed);
        if let Some(reply) = &reply {
            let (host, address) = (self.host.as_ref(), self.peer);
            ConnectFact::Received { host, address, reply }.tell();
        }
        Ok(reply)
    }

    /// Did the peer say nothing beyond its replies so far? Looks at what has arrived, waits for
    /// nothing. An unused connection that is not quiet is closed or out of step.
    pub(crate) fn is_quiet(&mut self) -> bool {
        if self.has_unread() || self.write_error.is_some() {
            return false;
        }
        self.poll_fill(&mut Context::from_waker(Waker::noop())).is_pending()
    }

    /// Are there octets that no reply has taken?
    pub(crate) fn has_unread(&self) -> bool {
        !self.input.unread().is_empty() || self.parser.is_midway()
    }

    /// Gives back the memory that only a message in flight needs.
    pub(crate) fn shrink(&mut self) {
        self.output.clear();
        self.output.shrink_to(OUTPUT_OCTETS_KEPT);
        self.input.shrink();
    }

    /// Says QUIT, waits a little for the answer and closes. Nothing depends on how it ends.
    pub(crate) async fn quit(mut self) {
        self.deadline = None;
        let farewell = async {
            let _answer = self.command("QUIT\r\n", QUIT_WAIT).await;
            self.stream.shutdown().await
        };
        let _closed = timeout(QUIT_WAIT, farewell).await;
    }

    /// Writes the output from its front; what was written is dropped from it.
    fn poll_write_output(
        &mut self,
        cx: &mut Context<'_>,
        reading: ReplyReading,
    ) -> Poll<Result<WrittenOctets, BrokenConnection>> {
        let mut written = 0;
        let result = loop {
            // Once everything is written, a reply is no early one: it answers the end.
            if reading == ReplyReading::Always
                && written < self.output.len()
                && let Some(reply) = self.early_reply(cx)?
            {
                break Poll::Ready(Ok(WrittenOctets::Early(reply)));
            }
            let rest = self.output.get(written..).unwrap_or_default();
            let progress = if rest.is_empty() {
                Pin::new(&mut self.stream).poll_flush(cx).map_ok(|()| None)
            } else {
                Pin::new(&mut self.stream).poll_write(cx, rest).map_ok(Some)
            };
            match progress {
                Poll::Ready(Ok(None)) => break Poll::Ready(Ok(WrittenOctets::All)),
                Poll::Ready(Ok(Some(0))) => break Poll::Ready(Err(BrokenConnection::Closed)),
                Poll::Ready(Ok(Some(octets))) => written += octets,
                Poll::Ready(Err(error)) => break Poll::Ready(Err(BrokenConnection::Io(error))),
                Poll::Pending => match self.poll_fill(cx) {
                    // The peer may go on reading now that its replies were taken.
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(BrokenConnection::OutOfStep)) => {
                        break Poll::Ready(Err(BrokenConnection::OutOfStep));
                    }
                    // The write will show what is the matter.
                    Poll::Ready(Err(_)) | Poll::Pending => break Poll::Pending,
                },
            }
        };
        self.output.drain(..written);
        result
    }

    /// A reply that came while the body is being written.
    fn early_reply(&mut self, cx: &mut Context<'_>) -> Result<Option<Reply>, BrokenConnection> {
        match self.poll_fill(cx) {
            Poll::Ready(Ok(())) => self.buffered_reply(),
            // The write will show what is the matter.
            Poll::Ready(Err(_)) | Poll::Pending => Ok(None),
        }
    }

    /// Reads what there is, at least one octet.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BrokenConnection>> {
        let Some(space) = self.input.space() else {
            return Poll::Ready(Err(BrokenConnection::OutOfStep));
        };
        let mut buffer = ReadBuf::new(space);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer))?;
        let octets = buffer.filled().len();
        self.input.fill(octets);
        Poll::Ready(if octets == 0 { Err(BrokenConnection::Closed) } else { Ok(()) })
    }
}

/// When the replies are read during a write.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum ReplyReading {
    /// Only to free a blocked peer.
    WhenBlocked,
    /// At once, since a reply ends the writing.
    Always,
}

/// Octets read and not yet understood: `start..end` of `octets`.
#[derive(Debug, Default)]
struct Input {
    octets: Vec<u8>,
    start: usize,
    end: usize,
}

impl Input {
    fn unread(&self) -> &[u8] {
        self.octets.get(self.start..self.end).unwrap_or_default()
    }

    fn consume(&mut self, octets: usize) {
        self.start += octets;
        if self.start >= self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Room for more; `None` beyond the bound.
    fn space(&mut self) -> Option<&mut [u8]> {
        if self.end == self.octets.len() && self.start > 0 {
            self.octets.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if self.end == self.octets.len() {
            let larger = (self.octets.len() * 2).max(INPUT_OCTETS);
            if larger > INPUT_OCTETS_MAX {
                return None;
            }
            self.octets.resize(larger, 0);
        }
        self.octets.get_mut(self.end..)
    }

    fn fill(&mut self, octets: usize) {
        self.end += octets;
    }

    fn shrink(&mut self) {
        if self.start == self.end {
            self.octets.truncate(INPUT_OCTETS);
            self.octets.shrink_to_fit();
        }
    }
}

impl AsyncRead for HostStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for HostStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, octets),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, octets),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
