//! The sockets behind a listener: TCP, a path, or what the service manager opened.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;

use rustix::io::Errno;
use rustix::net::sockopt;
use tokio::net::{TcpListener, TcpSocket, UnixListener};

use super::inherited::{Inherited, InheritedSocket};
use super::peer::Peer;
use super::stream::Socket;
use crate::config::ListenAddress;
use crate::socket_file::SocketFile;

/// Connections that the system holds until we take them. Our choice: a burst of clients, not more.
const BACKLOG: u32 = 1024;
/// Below it a port is for those who have a right to it.
pub(crate) const UNPRIVILEGED_PORTS: u16 = 1024;

/// A socket that clients connect to.
#[derive(Debug)]
pub(super) enum Acceptor {
    Tcp(TcpListener),
    Path(SocketFile),
    /// A unix socket of the service manager, who also cares for its name.
    Unix(UnixListener),
}

impl Acceptor {
    /// Waits for the next client; a unix socket names its user, TCP its address.
    pub(super) async fn accept(&self) -> io::Result<(Socket, Peer)> {
        let (stream, _nameless) = match self {
            Self::Tcp(socket) => {
                let (stream, from) = socket.accept().await?;
                return Ok((Socket::Tcp(stream), Peer::Remote(from.ip().to_canonical())));
            }
            Self::Path(file) => file.socket().accept().await?,
            Self::Unix(socket) => socket.accept().await?,
        };
        let uid = stream.peer_cred()?.uid();
        Ok((Socket::Unix(stream), Peer::Local { uid }))
    }

    /// Where it listens, with the port that the system chose.
    pub(super) fn tcp_address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(socket) => socket.local_addr().ok(),
            Self::Path(_) | Self::Unix(_) => None,
        }
    }
}

/// Opens what `address` names; a path for those whom `mode` lets in.
///
/// # Errors
///
/// What the system says.
pub(super) fn bind(
    address: &ListenAddress,
    mode: u32,
    inherited: &Inherited,
) -> io::Result<Vec<Acceptor>> {
    match address {
        ListenAddress::Tcp(address) => Ok(vec![Acceptor::Tcp(bind_tcp(*address)?)]),
        ListenAddress::Unix(path) => Ok(vec![Acceptor::Path(SocketFile::bind(path, mode)?)]),
        ListenAddress::Systemd(name) => {
            let taken_over = inherited.named(name)?.into_iter().map(|socket| match socket {
                InheritedSocket::Tcp(socket) => {
                    socket.set_nonblocking(true)?;
                    TcpListener::from_std(socket).map(Acceptor::Tcp)
                }
                InheritedSocket::Unix(socket) => {
                    socket.set_nonblocking(true)?;
                    UnixListener::from_std(socket).map(Acceptor::Unix)
                }
            });
            taken_over.collect()
        }
    }
}

fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    bound_tcp(address)?.listen(BACKLOG)
}

/// Could we listen at `address`? It is bound for a moment and never listens: no client meets it,
/// and a daemon that starts in that moment has its address all the same.
///
/// # Errors
///
/// What the system says.
pub(crate) fn try_address(address: SocketAddr) -> io::Result<()> {
    bound_tcp(address).map(drop)
}

fn bound_tcp(address: SocketAddr) -> io::Result<TcpSocket> {
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
    Ok(socket)
}

/// What an operator can do about it that the system refuses an address.
pub(crate) fn hint(address: SocketAddr, error: &io::Error) -> &'static str {
    match Errno::from_io_error(error) {
        Some(Errno::ADDRINUSE) => "; another program listens there (ss -ltnp names it)",
        Some(Errno::ADDRNOTAVAIL) => "; it is no address of this machine",
        Some(Errno::AFNOSUPPORT) if address.is_ipv6() => "; this machine has no IPv6",
        Some(Errno::ACCESS) if address.port() < UNPRIVILEGED_PORTS => {
            "; ports below 1024 are for root: let systemd open it (address = \"systemd:smtp\" and \
             deploy/staunch.socket)"
        }
        Some(_) | None => "",
    }
}

/// Has this system no such address family?
pub(crate) fn is_family_missing(error: &io::Error) -> bool {
    let no_family = Errno::AFNOSUPPORT.raw_os_error();
    error.kind() == ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(no_family)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_that_is_only_tried_can_be_listened_at_in_that_moment() {
        let tried = bound_tcp("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = tried.local_addr().unwrap();
        let listening = bind_tcp(address).unwrap();
        drop(tried);
        let error = try_address(address).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
        drop(listening);
        try_address(address).unwrap();
    }

    #[test]
    fn only_a_missing_address_family_is_forgiven() {
        let cases = [
            (io::Error::from_raw_os_error(Errno::AFNOSUPPORT.raw_os_error()), true),
            (io::Error::from_raw_os_error(Errno::ADDRNOTAVAIL.raw_os_error()), true),
            (io::Error::from_raw_os_error(Errno::ADDRINUSE.raw_os_error()), false),
            (io::Error::from_raw_os_error(Errno::ACCESS.raw_os_error()), false),
        ];
        for (error, want) in cases {
            assert_eq!(is_family_missing(&error), want, "{error}");
        }
    }
}
