//! One client's connection: bytes between the socket and the session, each wait with its limit.
//!
//! A client that says nothing costs no buffer. Replies are written when the input is used up, so
//! pipelined commands are answered together (RFC 2920 §3.2).

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use smtp::command::{Capability, Channel, Offer};
use smtp::data::Newlines;
use smtp::limits::SERVER_IDLE_TIMEOUT;
use smtp::server::{Access, Session, Settings, Step};
use smtp::{Response, Status};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::arrival::{Arrival, Peer};
use super::desk::Desk;
use super::{Shared, Visit};
use crate::config::{BareNewline, Config, Listener};

/// Octets read at once; with the start of a header it fits into a message's guarantee.
const READ_OCTETS: usize = 8 * 1024;
/// The same for content that keeps filling the buffer, if memory is free.
const READ_OCTETS_FAST: usize = 64 * 1024;
/// Replies are written when they have this many octets, even if there is more input.
const OUTPUT_OCTETS: usize = 4 * 1024;
/// After our last word: how long, and for how many octets, the client is still listened to. Closing
/// with input unread would make the system take the last word back (RFC 9293 §3.6.1).
const LINGER: Duration = Duration::from_secs(2);
const LINGER_OCTETS: usize = 256 * 1024;

/// How a client came in.
#[derive(Debug)]
pub(super) struct Door {
    pub(super) client: SocketAddr,
    pub(super) listener: Listener,
    /// Its place, for as long as it stays.
    pub(super) visit: Visit,
}

/// What waiting for the client came to.
enum Waited {
    Readable,
    Idle,
    Stopping,
}

/// Serves one client until it leaves, is sent away, or `stop` comes between two messages.
pub(super) async fn run(
    stream: TcpStream,
    door: Door,
    shared: Arc<Shared>,
    stop: CancellationToken,
) {
    let Door { client, listener, visit } = door;
    let client = client.ip().to_canonical();
    let local = stream.local_addr().ok().map(|address| address.ip().to_canonical());
    let config = shared.config();
    let session = Session::new(settings(&config, &listener, client));
    let peer = Peer::Remote(client);
    let arrival = Arrival {
        peer,
        local,
        mode: listener.mode,
        client_in_received: listener.client_in_received,
        tls: None,
    };
    let desk = Desk::new(Arc::clone(&shared), arrival);
    let mut conversation = Conversation {
        stream,
        buffer: Vec::new(),
        read_octets: READ_OCTETS,
        session,
        desk,
        shared,
        stop,
        grace: None,
    };
    // Replies are small and complete; waiting for more would only delay them.
    let _best_effort = conversation.stream.set_nodelay(true);
    if let Err(error) = conversation.hold().await {
        debug!(event = "connection_lost", %client, %error, "the client is gone");
    }
    drop(visit);
}

fn settings(config: &Config, listener: &Listener, client: IpAddr) -> Settings {
    let trusted = config.access.networks.iter().any(|network| network.contains(client));
    let newlines = match listener.bare_newline {
        BareNewline::Normalize if trusted => Newlines::Normalize,
        BareNewline::Normalize | BareNewline::Reject => Newlines::Strict,
    };
    Settings {
        hostname: config.hostname.domain().clone(),
        offer: Offer::new(config.limits.message_size)
            .with(Capability::Pipelining)
            .with(Capability::EightBitMime)
            .with(Capability::EnhancedStatusCodes),
        channel: Channel::Clear,
        access: Access::Anyone,
        errors_max: u32::try_from(config.limits.errors_per_session).unwrap_or(u32::MAX),
        newlines,
    }
}

struct Conversation {
    stream: TcpStream,
    /// Input that is not used yet: between two reads at most one command line.
    buffer: Vec<u8>,
    /// How much is read at once.
    read_octets: usize,
    session: Session,
    desk: Desk,
    shared: Arc<Shared>,
    stop: CancellationToken,
    /// Once a stop was asked for: when a message that still arrives is given up.
    grace: Option<Instant>,
}

impl Conversation {
    async fn hold(&mut self) -> io::Result<()> {
        loop {
            flush(&self.stream, &mut self.session).await?;
            match self.wait().await? {
                Waited::Readable => match self.read() {
                    Ok(0) => return Ok(()),
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                    Err(error) => return Err(error),
                },
                Waited::Idle => self.session.close(&Response::new(
                    421,
                    Status::transient(4, 2),
                    "Nothing came for too long, closing the connection",
                )),
                Waited::Stopping => self.session.close(&stopping()),
            }
            if self.advance().await? {
                flush(&self.stream, &mut self.session).await?;
                return self.leave().await;
            }
        }
    }

    async fn wait(&mut self) -> io::Result<Waited> {
        let idle = Instant::now() + SERVER_IDLE_TIMEOUT;
        loop {
            let deadline = self.grace.map_or(idle, |grace| grace.min(idle));
            tokio::select! {
                ready = self.stream.readable() => return ready.map(|()| Waited::Readable),
                () = sleep_until(deadline) => {
                    return Ok(if self.grace.is_some() { Waited::Stopping } else { Waited::Idle });
                }
                () = self.stop.cancelled(), if self.grace.is_none() => {
                    if !self.session.is_in_content() {
                        return Ok(Waited::Stopping);
                    }
                    self.grace = Some(Instant::now() + self.shared.config().shutdown_grace);
                }
            }
        }
    }

    /// Reads what is there into the buffer, which is made now and not while waiting.
    fn read(&mut self) -> io::Result<usize> {
        self.buffer.reserve_exact(self.read_octets.saturating_sub(self.buffer.len()));
        let read = self.stream.try_read_buf(&mut self.buffer)?;
        let was_filled = self.buffer.len() == self.buffer.capacity();
        if was_filled && self.session.is_in_content() && self.desk.lend(READ_OCTETS_FAST) {
            self.read_octets = READ_OCTETS_FAST;
        }
        Ok(read)
    }

    /// Lets the session use the input. `true` when it has ended.
    async fn advance(&mut self) -> io::Result<bool> {
        let capacity = self.buffer.capacity();
        let mut input = self.buffer.as_slice();
        let ended = loop {
            if self.stop.is_cancelled() && !self.session.is_in_content() {
                self.session.close(&stopping());
            }
            let step = self.session.step(&mut input);
            self.desk.log_refusals(&mut self.session);
            match step {
                Step::Input => break false,
                Step::Close => break true,
                step @ (Step::Sender(_)
                | Step::Recipient(_)
                | Step::Begin
                | Step::Content(_)
                | Step::End
                | Step::Refused(_)
                | Step::Reset
                | Step::StartTls
                | Step::Authenticate { .. }
                | Step::AuthResponse(_)
                | Step::AuthEnded) => self.desk.handle(&mut self.session, step, capacity).await,
            }
            if self.session.output().len() > OUTPUT_OCTETS {
                flush(&self.stream, &mut self.session).await?;
            }
        };
        let used = self.buffer.len() - input.len();
        self.buffer.drain(..used);
        if !self.desk.is_busy() {
            self.buffer.shrink_to_fit();
            self.read_octets = READ_OCTETS;
        }
        Ok(ended)
    }

    /// Closes so that the client gets to read our last word.
    async fn leave(&mut self) -> io::Result<()> {
        self.stream.shutdown().await?;
        let drain = async {
            let mut read = 0;
            while read < LINGER_OCTETS {
                self.stream.readable().await?;
                self.buffer.clear();
                match self.read() {
                    Ok(0) => break,
                    Ok(octets) => read += octets,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        };
        timeout(LINGER, drain).await.unwrap_or(Ok(()))
    }
}

fn stopping() -> Response {
    Response::new(421, Status::transient(3, 2), "Shutting down, try again later")
}

/// Writes all that the session has to say.
async fn flush(stream: &TcpStream, session: &mut Session) -> io::Result<()> {
    let mut rest = session.output();
    let deadline = Instant::now() + SERVER_IDLE_TIMEOUT;
    while !rest.is_empty() {
        match stream.try_write(rest) {
            Ok(written) => rest = rest.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                timeout_at(deadline, stream.writable()).await??;
            }
            Err(error) => return Err(error),
        }
    }
    session.written();
    Ok(())
}
