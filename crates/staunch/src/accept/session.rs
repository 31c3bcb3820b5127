//! One client's connection: bytes between the socket and the session, each wait with its limit.
//!
//! A client that says nothing costs no buffer, and the futures of what it does not do now are not
//! part of its task: most of a relay's clients wait. Replies are written when the input is used up,
//! so pipelined commands are answered together (RFC 2920 §3.2).

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

use smtp::server::{OUTPUT_OCTETS, ServerStep, Session, TLS_HANDSHAKE};
use smtp::{RemoteText, Response, Status};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::arrival::ClientArrival;
use super::gathered::GatheredContent;
use super::handshake::handshake;
use super::leave::{LINGER, leave};
use super::offer;
use super::peer::{ClientTrust, Peer};
use super::proxy::{Introduction, introduced};
use super::refusal::ClientRefusal;
use super::shared::SessionsShared;
use super::stream::{ClientStream, READ_OCTETS, Socket};
use super::told;
use crate::accept::client_limits::ClientSlot;
use crate::accept::facts::AcceptFact;
use crate::accept::handler::SmtpHandler;
use crate::accept::listener_view::{ListenerView, OpenListener, is_proxy};
use crate::accept::timeouts::ClientTimeouts;
use crate::budget::Held;
use crate::config::{Config, ListenerMode};

/// The same for content that keeps filling the buffer, if memory is free.
const READ_OCTETS_FAST: usize = 64 * 1024;
/// Room for a read, however long the line in the buffer is already.
const READ_OCTETS_MIN: usize = 1024;

/// Somebody who was let in.
#[derive(Debug)]
pub(super) struct AcceptedClient {
    pub(super) socket: Socket,
    /// Who is at the other end; perhaps a proxy.
    pub(super) peer: Peer,
    pub(super) listener: OpenListener,
    /// What the listener was for when it came.
    pub(super) view: Arc<ListenerView>,
    /// Its place, for as long as it stays.
    pub(super) slot: ClientSlot,
}

/// A newcomer that may be spoken to.
#[derive(Debug)]
struct Guest {
    stream: ClientStream,
    arrival: ClientArrival,
    view: Arc<ListenerView>,
    /// What it said before the greeting, which only those may who may relay.
    received: Vec<u8>,
    /// Held, not used: the place is free when the guest is gone.
    slot: ClientSlot,
}

/// What waiting for the client came to.
enum Waited {
    /// There is input that came before the greeting.
    Unused,
    Readable,
    Idle,
    Stopping,
}

/// Where the conversation is after some input was used.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum SessionProgress {
    Open,
    StartTls,
    Ended,
}

/// Serves one client until it leaves, is sent away, or `stop` comes between two messages.
pub(super) async fn run(
    accepted: AcceptedClient,
    shared: Arc<SessionsShared>,
    stop: CancellationToken,
) {
    let peer = accepted.peer;
    // Nothing is promised before the greeting, so a stop just ends it.
    let receiving = Box::pin(receive(accepted, &shared));
    let Some(received) = stop.run_until_cancelled(receiving).await else { return };
    let held = match received {
        Ok(Some(guest)) => Conversation::new(guest, shared, stop).hold().await,
        Ok(None) => Ok(()),
        Err(error) => Err(error),
    };
    if let Err(error) = held {
        let error = RemoteText::new(&error.to_string());
        AcceptFact::ConnectionLost { peer, error: &error }.tell();
    }
}

/// All that comes before the greeting: who speaks through the proxy, and TLS where it comes first.
/// `None`: it was sent away.
async fn receive(accepted: AcceptedClient, shared: &SessionsShared) -> io::Result<Option<Guest>> {
    accepted.socket.send_at_once();
    let connected_by = accepted.peer;
    let Some((accepted, introduction)) = introduce(accepted, shared).await? else {
        return Ok(None);
    };
    let AcceptedClient { socket, listener, view, slot, .. } = accepted;
    let Introduction { peer, port, local, rest: received } = introduction;
    let mode = view.listener.mode;
    let standing = peer.standing(&shared.config());
    // Clients that a proxy does not name share a place with the proxy's health check: they are
    // refused when they log in.
    let is_named = !matches!(peer, Peer::Unnamed { .. });
    if standing == ClientTrust::Stranger && is_named && shared.auth.is_shut_out(peer.place()) {
        refuse_clear(socket, mode, peer, &ClientRefusal::TooManyLogins).await?;
        return Ok(None);
    }
    let mut arrival = ClientArrival {
        peer,
        port,
        local,
        listener,
        mode,
        connected_by,
        is_proxied: is_proxy(connected_by, &view),
        client_in_received: view.listener.client_in_received,
        tls: None,
    };
    let (stream, received) = match mode {
        ListenerMode::Relay | ListenerMode::Submission => (ClientStream::Clear(socket), received),
        ListenerMode::Submissions => {
            let shaken = handshake(socket, &view, &received, peer).await;
            let Some(tls) = shaken else { return Ok(None) };
            arrival.tls = Some(tls.facts());
            (ClientStream::Tls(Box::new(tls)), Vec::new())
        }
    };
    let mut guest = Guest { stream, arrival, view, received, slot };
    let is_early = !guest.received.is_empty() || guest.stream.has_input();
    if is_early && standing == ClientTrust::Stranger {
        // RFC 5321 §4.3.1: the client waits for the greeting. Who cannot is no mail server.
        let is_tls_in_clear = match &guest.stream {
            ClientStream::Clear(socket) if guest.received.is_empty() => {
                socket.peek(TLS_HANDSHAKE.len()).starts_with(&TLS_HANDSHAKE)
            }
            ClientStream::Clear(_) => guest.received.starts_with(&TLS_HANDSHAKE),
            ClientStream::Tls(_) => false,
        };
        let refusal =
            if is_tls_in_clear { ClientRefusal::TlsInClear } else { ClientRefusal::EarlyTalker };
        send_away(&mut guest.stream, peer, &refusal).await?;
        return Ok(None);
    }
    Ok(Some(guest))
}

/// Who is it? A proxy says whom it brings, and that client gets a place of its own. `None`: it was
/// sent away.
async fn introduce(
    mut accepted: AcceptedClient,
    shared: &SessionsShared,
) -> io::Result<Option<(AcceptedClient, Introduction)>> {
    let proxy = accepted.peer;
    if !is_proxy(proxy, &accepted.view) {
        let AcceptedClient { socket, .. } = &accepted;
        let (port, local) = (socket.peer_port(), socket.local());
        let introduction = Introduction { peer: proxy, port, local, rest: Vec::new() };
        return Ok(Some((accepted, introduction)));
    }
    let introduction = match introduced(&accepted.socket, proxy).await {
        Ok(introduction) => introduction,
        // It only looks whether we are here.
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Err(error),
        Err(error) => {
            AcceptFact::ProxyFailed { proxy, error: &error }.tell();
            return Ok(None);
        }
    };
    let (config, peer) = (shared.config(), introduction.peer);
    if accepted.slot.name(peer, peer.standing(&config), &config.limits) {
        return Ok(Some((accepted, introduction)));
    }
    let mode = accepted.view.listener.mode;
    refuse_clear(accepted.socket, mode, peer, &ClientRefusal::TooManyConnections).await?;
    Ok(None)
}

/// Before any TLS: who expects it from the first octet on would not understand an answer.
async fn refuse_clear(
    socket: Socket,
    mode: ListenerMode,
    peer: Peer,
    refusal: &ClientRefusal,
) -> io::Result<()> {
    match mode {
        ListenerMode::Relay | ListenerMode::Submission => {
            send_away(&mut ClientStream::Clear(socket), peer, refusal).await
        }
        ListenerMode::Submissions => {
            refusal.log(peer, None, None);
            Ok(())
        }
    }
}

/// Answers instead of greeting.
async fn send_away(
    stream: &mut ClientStream,
    peer: Peer,
    refusal: &ClientRefusal,
) -> io::Result<()> {
    refusal.log(peer, None, None);
    timeout(LINGER, stream.write_all(refusal.response().to_string().as_bytes())).await??;
    leave(stream).await
}

struct Conversation {
    stream: ClientStream,
    /// That the session's settings were made by, as the configuration.
    view: Arc<ListenerView>,
    config: Arc<Config>,
    /// Input that is not used yet: between two reads at most one command line.
    buffer: Vec<u8>,
    /// The session has not seen the buffer yet.
    has_unused: bool,
    /// How much is read at once.
    read_octets: usize,
    pace: ClientTimeouts,
    session: Session,
    handler: SmtpHandler,
    shared: Arc<SessionsShared>,
    stop: CancellationToken,
    /// Once a stop was asked for: when a message that still arrives is given up.
    grace: Option<Instant>,
    /// The last commands brought the transaction nearer to its end, or there is none. A client that
    /// holds one open with NOOP gets no more time than a silent one.
    has_moved: bool,
    /// Gives the place back.
    _visit: ClientSlot,
}

impl Conversation {
    fn new(guest: Guest, shared: Arc<SessionsShared>, stop: CancellationToken) -> Self {
        let Guest { stream, arrival, view, received, slot } = guest;
        let config = shared.config();
        let pace = ClientTimeouts::new(Instant::now(), config.limits.client_timeout);
        let settings = offer::settings(&config, &view, &arrival, &shared.auth, shared.intake.now());
        let session = Session::new(settings);
        Self {
            stream,
            view,
            config,
            has_unused: !received.is_empty(),
            buffer: received,
            read_octets: READ_OCTETS,
            pace,
            session,
            handler: SmtpHandler::new(Arc::clone(&shared), arrival),
            shared,
            stop,
            grace: None,
            has_moved: true,
            _visit: slot,
        }
    }

    async fn hold(mut self) -> io::Result<()> {
        loop {
            self.flush().await?;
            match self.wait().await? {
                Waited::Unused => {}
                Waited::Readable => match self.read() {
                    // Without QUIT.
                    Ok(0) => {
                        self.handler.log_lost_client("lost");
                        return Err(ErrorKind::UnexpectedEof.into());
                    }
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                    Err(error) => {
                        self.handler.log_lost_client("lost");
                        return Err(error);
                    }
                },
                Waited::Idle => {
                    self.handler.log_lost_client("timed_out");
                    self.session.close(&Response::new(
                        421,
                        Status::transient(4, 2),
                        "Too slow or idle for too long, closing the connection",
                    ));
                }
                Waited::Stopping => self.session.close(&stopping()),
            }
            self.keep_to_the_rules();
            match Box::pin(self.advance()).await? {
                SessionProgress::Open => {}
                SessionProgress::StartTls => match Box::pin(self.secure()).await? {
                    Some(secured) => self = secured,
                    None => return Ok(()),
                },
                SessionProgress::Ended => {
                    self.flush().await?;
                    return Box::pin(leave(&mut self.stream)).await;
                }
            }
        }
    }

    /// Those of the current configuration hold for what comes next, but not for a message that is
    /// under way.
    fn keep_to_the_rules(&mut self) {
        let (today, view) = (self.shared.config(), self.handler.arrival.listener.view());
        let is_known = Arc::ptr_eq(&today, &self.config) && Arc::ptr_eq(&view, &self.view);
        if !is_known && !self.session.is_in_content() {
            let arrival = &mut self.handler.arrival;
            arrival.client_in_received = view.listener.client_in_received;
            let settings = offer::settings(
                &today,
                &view,
                arrival,
                &self.shared.auth,
                self.shared.intake.now(),
            );
            self.session.reconfigure(settings);
            (self.config, self.view) = (today, view);
        }
    }

    async fn wait(&mut self) -> io::Result<Waited> {
        if std::mem::take(&mut self.has_unused) {
            return Ok(Waited::Unused);
        }
        loop {
            let idle = self.pace.deadline();
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
        let room = self.read_octets.saturating_sub(self.buffer.len()).max(READ_OCTETS_MIN);
        self.buffer.reserve_exact(room);
        let read = self.stream.try_read_buf(&mut self.buffer)?;
        let was_filled = self.buffer.len() == self.buffer.capacity();
        let more = READ_OCTETS_FAST + self.stream.held_octets();
        if was_filled && self.session.is_in_content() && self.handler.lend(more) {
            self.read_octets = READ_OCTETS_FAST;
        }
        Ok(read)
    }

    /// Lets the session use the input.
    async fn advance(&mut self) -> io::Result<SessionProgress> {
        // What was lent for the next read is not given back before it: the budget may have none
        // left then, and the message would be refused for want of memory.
        let buffer = self.buffer.capacity().max(self.read_octets);
        let below = self.stream.held_octets();
        let held = Held { now: buffer + below, least: READ_OCTETS + below };
        let was_content = self.session.is_reading_content();
        let mut input = self.buffer.as_slice();
        let mut gathered = GatheredContent::default();
        self.has_moved = !self.handler.is_busy();
        if told::is_shown() {
            self.session.keep_lines();
        }
        let progress = loop {
            if !self.session.is_in_content() && self.stop.is_cancelled() {
                self.session.close(&stopping());
            }
            let step = self.session.step(&mut input);
            told::commands(self.handler.peer(), &mut self.session);
            self.handler.log_refusals(&mut self.session);
            if gathered.takes(&step, input, |octets| self.handler.lend(held.now + octets)) {
                self.has_moved = true;
                continue;
            }
            if let Some((content, held)) = gathered.step(held) {
                self.handler.handle(&mut self.session, content, held).await;
                gathered.clear();
            }
            match step {
                ServerStep::Input => break SessionProgress::Open,
                ServerStep::Output => {}
                ServerStep::Close => break SessionProgress::Ended,
                ServerStep::StartTls => {
                    if self.view.can_secure() {
                        break SessionProgress::StartTls;
                    }
                    self.session.refuse(&no_tls());
                }
                step @ (ServerStep::Sender(_)
                | ServerStep::Recipient(_)
                | ServerStep::Begin
                | ServerStep::Content(_)
                | ServerStep::Spoiled
                | ServerStep::End
                | ServerStep::Refused(_)
                | ServerStep::Reset
                | ServerStep::AuthEnded) => {
                    self.has_moved = true;
                    self.handler.handle(&mut self.session, step, held).await;
                }
                step @ (ServerStep::Authenticate { .. } | ServerStep::AuthResponse(_)) => {
                    // The answer to a wrong login waits on purpose, and whoever guesses must not
                    // hold a stop up.
                    let answered = self.handler.handle(&mut self.session, step, held);
                    if self.stop.run_until_cancelled(answered).await.is_none() {
                        self.session.close(&stopping());
                    }
                }
            }
            if self.session.output().len() > OUTPUT_OCTETS {
                let peer = self.handler.peer();
                let limit = flush(&mut self.stream, &mut self.session, &self.shared, peer).await?;
                if self.has_moved {
                    self.pace.answered(Instant::now(), limit);
                }
            }
        };
        let used = self.buffer.len() - input.len();
        if was_content {
            self.pace.content(used, Instant::now());
        }
        self.drop_input(used);
        Ok(progress)
    }

    /// Removes so much of the input, and the buffer where nothing of a message is held.
    fn drop_input(&mut self, octets: usize) {
        self.buffer.drain(..octets);
        if !self.handler.is_busy() {
            self.buffer.shrink_to_fit();
            self.read_octets = READ_OCTETS;
        }
    }

    /// Goes on under TLS, with nothing of what was said before. `None`: the client is gone, or sent
    /// away because it spoke where only a handshake may come: whoever can insert that would speak
    /// as the client (CVE-2011-0411).
    async fn secure(mut self) -> io::Result<Option<Self>> {
        let peer = self.handler.peer();
        let ClientStream::Clear(socket) = self.stream else { return Ok(None) };
        if !self.buffer.is_empty() || socket.has_input() {
            ClientRefusal::SpokeBeforeTls.log(peer, None, None);
            return Ok(None);
        }
        let mut clear = ClientStream::Clear(socket);
        flush(&mut clear, &mut self.session, &self.shared, peer).await?;
        let ClientStream::Clear(socket) = clear else { return Ok(None) };
        let view = Arc::clone(&self.view);
        let shaken = self.stop.run_until_cancelled(handshake(socket, &view, &[], peer)).await;
        let Some(Some(tls)) = shaken else { return Ok(None) };
        let arrival = self.handler.secured(tls.facts());
        let (config, auth) = (self.shared.config(), &self.shared.auth);
        let now = self.shared.intake.now();
        self.session.secured(offer::settings(&config, &view, arrival, auth, now));
        self.pace.answered(Instant::now(), config.limits.client_timeout);
        Ok(Some(Self { stream: ClientStream::Tls(Box::new(tls)), config, ..self }))
    }

    async fn flush(&mut self) -> io::Result<()> {
        if self.session.output().is_empty() {
            return Ok(());
        }
        let peer = self.handler.peer();
        let limit = flush(&mut self.stream, &mut self.session, &self.shared, peer).await?;
        if self.has_moved {
            self.pace.answered(Instant::now(), limit);
        }
        Ok(())
    }
}

fn stopping() -> Response {
    Response::new(421, Status::transient(3, 2), "Shutting down, try again later")
}

/// STARTTLS where no certificate can be shown (RFC 3207 §4).
fn no_tls() -> Response {
    Response::new(454, Status::transient(7, 0), "TLS not available for now")
}

/// Writes all that the session has to say. A client that does not read it has as long as one that
/// does not write: that time is returned.
async fn flush(
    stream: &mut ClientStream,
    session: &mut Session,
    shared: &SessionsShared,
    peer: Peer,
) -> io::Result<Duration> {
    told::replies(peer, session);
    let limit = shared.config().limits.client_timeout;
    timeout(limit, stream.write_all(session.output())).await??;
    session.written();
    Ok(limit)
}
