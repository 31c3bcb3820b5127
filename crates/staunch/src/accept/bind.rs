//! The sockets behind a listener: TCP, a path, or what the service manager opened.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;

use rustix::net::sockopt;
use tokio::net::{TcpListener, TcpSocket, UnixListener};

use super::inherited::{Inherited, InheritedSocket};
use super::peer::Peer;
use super::stream::Socket;
use crate::config::ListenAddress;
use crate::socket_file::SocketFile;

/// Connections that the system holds until we take them. Our choice: a burst of clients, not more.
const BACKLOG: u32 = 1024;

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
    socket.listen(BACKLOG)
}

/// Has this system no such address family?
pub(super) fn is_family_missing(error: &io::Error) -> bool {
    let no_family = rustix::io::Errno::AFNOSUPPORT.raw_os_error();
    error.kind() == ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(no_family)
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
