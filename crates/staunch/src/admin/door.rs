//! The admin socket as axum sees it: so many connections at a time, of one user and in all.
//!
//! A program of the operator's group that opens connections and forgets them must neither take the descriptors that mail needs,
//! nor keep other users of the command line out. What is too much is closed at once.

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::unix::SocketAddr;
use tokio::net::{UnixListener, UnixStream};
use tokio::time::Instant;

/// Connections at a time. Our choice: a command has one, a monitoring program a few.
const CONNECTIONS_MAX: usize = 128;
const CONNECTIONS_OF_USER_MAX: usize = 32;
/// Its own places are always there.
const ROOT: u32 = 0;
/// How often it is told of at most.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// Lets in as many as there are places.
#[derive(Debug)]
pub(super) struct Door {
    socket: UnixListener,
    places: Arc<Places>,
    told: Option<Instant>,
}

/// Connections by user; those that the kernel gives no user for are counted together.
#[derive(Debug, Default)]
struct Places(Mutex<HashMap<Option<u32>, usize>>);

/// One connection, until it is dropped.
#[derive(Debug)]
struct Place {
    places: Arc<Places>,
    uid: Option<u32>,
}

impl Places {
    fn take(self: &Arc<Self>, uid: Option<u32>) -> Option<Place> {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = taken.values().sum();
        let own = taken.get(&uid).copied().unwrap_or_default();
        let is_full = all >= CONNECTIONS_MAX && uid != Some(ROOT);
        if is_full || own >= CONNECTIONS_OF_USER_MAX {
            return None;
        }
        taken.insert(uid, own + 1);
        Some(Place { places: Arc::clone(self), uid })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = taken.get_mut(&self.uid) {
            *own -= 1;
            if *own == 0 {
                taken.remove(&self.uid);
            }
        }
    }
}

impl Door {
    pub(super) fn new(socket: UnixListener) -> Self {
        Self { socket, places: Arc::default(), told: None }
    }

    fn tell(&mut self, uid: Option<u32>) {
        if self.told.is_none_or(|told| told.elapsed() >= TOLD_EVERY) {
            self.told = Some(Instant::now());
            tracing::warn!(
                event = "admin_refused",
                uid,
                "too many connections to the admin socket at a time"
            );
        }
    }
}

impl Listener for Door {
    type Io = Guest;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Guest, SocketAddr) {
        loop {
            let (stream, address) = Listener::accept(&mut self.socket).await;
            let uid = stream.peer_cred().ok().map(|peer| peer.uid());
            match self.places.take(uid) {
                Some(place) => return (Guest { stream, uid, _place: place }, address),
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
pub(super) struct Guest {
    stream: UnixStream,
    /// The kernel's word (SO_PEERCRED), if it gave one.
    pub(super) uid: Option<u32>,
    _place: Place,
}

impl AsyncRead for Guest {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Guest {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, octets)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, pieces)
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
    use super::*;

    #[test]
    fn a_user_takes_not_all_places_and_gives_them_back() {
        let places = Arc::new(Places::default());
        let many = |uid| (0..200).map_while(|_| places.take(uid)).collect::<Vec<_>>();
        let first = many(Some(1));
        assert_eq!(first.len(), CONNECTIONS_OF_USER_MAX);
        let others: Vec<_> = (2..10).map(|uid| many(Some(uid)).len()).collect();
        assert_eq!(others, [CONNECTIONS_OF_USER_MAX; 8], "which are given back each time");
        let all: Vec<_> = (2..10).flat_map(|uid| many(Some(uid))).collect();
        assert_eq!(first.len() + all.len(), CONNECTIONS_MAX);
        assert_eq!(many(Some(ROOT)).len(), CONNECTIONS_OF_USER_MAX);
        drop((first, all));
        assert!(places.0.lock().unwrap().is_empty());
    }
}
