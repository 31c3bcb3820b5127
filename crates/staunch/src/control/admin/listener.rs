//! The admin socket as axum sees it: so many connections at a time, of one user and in all.
//!
//! A program of the operator's group that opens connections and forgets them must neither take the
//! descriptors that mail needs, nor keep other users of the command line out. What is too much is
//! closed at once, and what asks nothing after a minute: else a program with the operator's own uid
//! would keep the health check out for good.

use std::collections::HashMap;
use std::future::Future as _;
use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::unix::SocketAddr;
use tokio::net::{UnixListener, UnixStream};
use tokio::time::{Instant, Sleep, sleep};

use crate::control::facts::ControlFact;
use crate::lock::lock;

/// Connections at a time. Our choice: a command has one, a monitoring program a few.
const CONNECTIONS_MAX: usize = 128;
const CONNECTIONS_OF_USER_MAX: usize = 32;
/// All users together do not take its slots.
const ROOT: u32 = 0;
/// How often it is told of at most.
const TOLD_EVERY: Duration = Duration::from_secs(60);
/// How long a connection may ask nothing, and how long what it has asked may take without an answer
/// or more of the request. Our choice.
const SILENT_MAX: Duration = Duration::from_secs(60);
const ASKED_MAX: Duration = Duration::from_secs(15 * 60);

/// Lets in as many as there are slots.
#[derive(Debug)]
pub(super) struct AdminListener {
    socket: UnixListener,
    slots: Arc<AdminSlots>,
    told: Option<Instant>,
}

/// Connections by user; those that the kernel gives no user for are counted together.
#[derive(Debug, Default)]
struct AdminSlots(Mutex<HashMap<Option<u32>, usize>>);

/// One connection, until it is dropped.
#[derive(Debug)]
struct AdminSlot {
    slots: Arc<AdminSlots>,
    uid: Option<u32>,
}

impl AdminSlots {
    fn take(self: &Arc<Self>, uid: Option<u32>) -> Option<AdminSlot> {
        let mut taken = lock(&self.0);
        let all: usize = taken.values().sum();
        let own = taken.get(&uid).copied().unwrap_or_default();
        let is_full = all >= CONNECTIONS_MAX && uid != Some(ROOT);
        if is_full || own >= CONNECTIONS_OF_USER_MAX {
            return None;
        }
        taken.insert(uid, own + 1);
        Some(AdminSlot { slots: Arc::clone(self), uid })
    }
}

impl Drop for AdminSlot {
    fn drop(&mut self) {
        let mut taken = lock(&self.slots.0);
        if let Some(own) = taken.get_mut(&self.uid) {
            *own -= 1;
            if *own == 0 {
                taken.remove(&self.uid);
            }
        }
    }
}

impl AdminListener {
    pub(super) fn new(socket: UnixListener) -> Self {
        Self { socket, slots: Arc::default(), told: None }
    }

    fn tell(&mut self, uid: Option<u32>) {
        if self.told.is_none_or(|told| told.elapsed() >= TOLD_EVERY) {
            self.told = Some(Instant::now());
            ControlFact::AdminCrowded { uid }.tell();
        }
    }
}

impl Listener for AdminListener {
    type Io = AdminConnection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (AdminConnection, SocketAddr) {
        loop {
            let (stream, address) = Listener::accept(&mut self.socket).await;
            let uid = stream.peer_cred().ok().map(|peer| peer.uid());
            match self.slots.take(uid) {
                Some(slot) => return (AdminConnection::new(stream, slot, SILENT_MAX), address),
                None => self.tell(uid),
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }
}

/// A connection that was let in.
#[derive(Debug)]
pub(super) struct AdminConnection {
    stream: UnixStream,
    slot: AdminSlot,
    silent_max: Duration,
    /// When it is closed.
    end: Pin<Box<Sleep>>,
}

impl AdminConnection {
    fn new(stream: UnixStream, slot: AdminSlot, silent_max: Duration) -> Self {
        Self { stream, slot, silent_max, end: Box::pin(sleep(silent_max)) }
    }

    /// The kernel's word (SO_PEERCRED) for its user, if it gave one.
    pub(super) fn uid(&self) -> Option<u32> {
        self.slot.uid
    }

    fn lasts_for(&mut self, time: Duration) {
        self.end.as_mut().reset(Instant::now() + time);
    }

    /// Something was written: an answer is on its way, after which more may be asked.
    fn written(&mut self, result: &Poll<io::Result<usize>>) {
        if matches!(result, Poll::Ready(Ok(_))) {
            self.lasts_for(self.silent_max);
        }
    }
}

impl AsyncRead for AdminConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.lasts_for(ASKED_MAX);
        }
        if result.is_pending() && self.end.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(ErrorKind::TimedOut.into()));
        }
        result
    }
}

impl AsyncWrite for AdminConnection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, octets);
        self.written(&result);
        result
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, pieces);
        self.written(&result);
        result
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn a_connection_that_asks_nothing_is_closed_and_one_that_is_answered_goes_on() {
        let connection = || {
            let (near, far) = UnixStream::pair().unwrap();
            let slot = Arc::new(AdminSlots::default()).take(Some(1)).unwrap();
            (AdminConnection::new(near, slot, Duration::from_millis(50)), far)
        };
        let (mut silent, _far) = connection();
        let ended = silent.read_u8().await.unwrap_err();
        assert_eq!(ended.kind(), ErrorKind::TimedOut);
        let (mut asked, mut far) = connection();
        far.write_u8(b'?').await.unwrap();
        assert_eq!(asked.read_u8().await.unwrap(), b'?');
        let more = tokio::time::timeout(Duration::from_millis(200), asked.read_u8()).await;
        assert!(more.is_err(), "what was asked may take long");
        asked.write_u8(b'!').await.unwrap();
        assert_eq!(asked.read_u8().await.unwrap_err().kind(), ErrorKind::TimedOut);
    }

    #[test]
    fn a_user_takes_not_all_places_and_gives_them_back() {
        let slots = Arc::new(AdminSlots::default());
        let many = |uid| (0..200).map_while(|_| slots.take(uid)).collect::<Vec<_>>();
        let first = many(Some(1));
        assert_eq!(first.len(), CONNECTIONS_OF_USER_MAX);
        let others: Vec<_> = (2..10).map(|uid| many(Some(uid)).len()).collect();
        assert_eq!(others, [CONNECTIONS_OF_USER_MAX; 8], "which are given back each time");
        let all: Vec<_> = (2..10).flat_map(|uid| many(Some(uid))).collect();
        assert_eq!(first.len() + all.len(), CONNECTIONS_MAX);
        assert_eq!(many(Some(ROOT)).len(), CONNECTIONS_OF_USER_MAX);
        drop((first, all));
        assert!(slots.0.lock().unwrap().is_empty());
    }
}
