//! Where clients come in: sockets are bound before anything else starts, so that a wrong address is
//! an error of the start and not a line in a log.

use std::io::{self, ErrorKind, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::sockopt;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use super::arrival::Peer;
use super::refusal::Refusal;
use super::session;
use super::{Shared, Visit};
use crate::config::{self, Config, ListenAddress};

/// Connections that the system holds until we take them. Ours: a burst of clients, not more.
const BACKLOG: u32 = 1024;
/// The rest after the system had no descriptor or memory for a new connection.
const ACCEPT_REST: Duration = Duration::from_secs(1);

/// A listener of the configuration that has its socket.
#[derive(Debug)]
pub(crate) struct BoundListener {
    socket: TcpListener,
    address: SocketAddr,
    listener: config::Listener,
}

impl BoundListener {
    /// Where it listens; the port is the real one.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

/// A listener cannot have its address.
#[derive(Debug, thiserror::Error)]
#[error("listener.address: {address}: {source}")]
pub(crate) struct BindError {
    address: ListenAddress,
    source: io::Error,
}

/// Binds every listener of the configuration. A built-in one is left out on a system without its
/// address family, as long as another one is there.
///
/// # Errors
///
/// [`BindError`] for the first address that cannot be had.
pub(crate) fn bind(config: &Config) -> Result<Vec<BoundListener>, BindError> {
    let mut bound = Vec::new();
    let mut left_out = None;
    for listener in &config.listeners {
        match bind_one(listener) {
            Ok(listener) => bound.push(listener),
            Err(source) => {
                let error = BindError { address: listener.address.clone(), source };
                if !listener.is_default || !is_family_missing(&error.source) {
                    return Err(error);
                }
                left_out = Some(error);
            }
        }
    }
    match left_out {
        Some(error) if bound.is_empty() => Err(error),
        Some(_) | None => Ok(bound),
    }
}

fn bind_one(listener: &config::Listener) -> io::Result<BoundListener> {
    let ListenAddress::Tcp(address) = listener.address else {
        return Err(io::Error::new(ErrorKind::Unsupported, "only TCP so far"));
    };
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => {
            let socket = TcpSocket::new_v6()?;
            // So that 0.0.0.0 and [::] can both be listened on.
            sockopt::set_ipv6_v6only(&socket, true)?;
            socket
        }
    };
    // A restart must not wait for connections of the process before it.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    let socket = socket.listen(BACKLOG)?;
    Ok(BoundListener { address: socket.local_addr()?, socket, listener: listener.clone() })
}

fn is_family_missing(error: &io::Error) -> bool {
    let no_family = rustix::io::Errno::AFNOSUPPORT.raw_os_error();
    error.kind() == ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(no_family)
}

/// Lets clients in until `stop`; then the socket closes. Sessions run on `tracker` and end by
/// themselves.
pub(super) async fn listen(
    bound: BoundListener,
    shared: Arc<Shared>,
    tracker: TaskTracker,
    stop: CancellationToken,
) {
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = bound.socket.accept() => accepted,
        };
        match accepted {
            Ok((stream, client)) => {
                if let Some((stream, visit)) = admit(stream, client, &shared) {
                    let door = session::Door { client, listener: bound.listener.clone(), visit };
                    tracker.spawn(session::run(stream, door, Arc::clone(&shared), stop.clone()));
                }
            }
            Err(error) => {
                warn!(event = "accept_failed", reason = "local_error", %error, "no new connection");
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(ACCEPT_REST) => {}
                }
            }
        }
    }
}

/// Has one more client a place? If not, it is told so.
fn admit(stream: TcpStream, client: SocketAddr, shared: &Shared) -> Option<(TcpStream, Visit)> {
    let client = Peer::Remote(client.ip().to_canonical());
    if let Some(visit) = shared.visitors.enter(client, &shared.config().limits) {
        return Some((stream, visit));
    }
    let refusal = Refusal::TooManyConnections;
    refusal.log(client, None, None);
    // A new socket has room for a line; whoever does not get it sees the connection end.
    if let Ok(mut stream) = stream.into_std() {
        let _told = stream.write_all(refusal.response().to_string().as_bytes());
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_missing_address_family_is_forgiven() {
        let cases = [
            (io::Error::from_raw_os_error(rustix::io::Errno::AFNOSUPPORT.raw_os_error()), true),
            (io::Error::from_raw_os_error(rustix::io::Errno::ADDRNOTAVAIL.raw_os_error()), true),
            (io::Error::from_raw_os_error(rustix::io::Errno::ADDRINUSE.raw_os_error()), false),
            (io::Error::from_raw_os_error(rustix::io::Errno::ACCESS.raw_os_error()), false),
        ];
        for (error, want) in cases {
            assert_eq!(is_family_missing(&error), want, "{error}");
        }
    }
}
