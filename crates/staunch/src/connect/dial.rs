//! TCP, from the right address.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use rustix::io::Errno;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use super::memory::AddressDeadEnd;
use crate::connect::FamilySource;

/// Why there is no connection.
#[derive(Debug)]
pub(super) enum DialError {
    /// We cannot leave from this address.
    Source(IpAddr, io::Error),
    /// We cannot get to that address.
    Tcp(io::Error),
    /// It did not answer.
    TimedOut(Duration),
}

impl DialError {
    /// What it says about the address dialled; nothing if the trouble is ours.
    pub(super) fn dead_end(&self) -> Option<AddressDeadEnd> {
        match self {
            Self::Source(..) => None,
            Self::TimedOut(_) => Some(AddressDeadEnd::Silent),
            Self::Tcp(error) if is_local(error) => None,
            Self::Tcp(error) if is_no_route(error) => Some(AddressDeadEnd::NoRoute),
            Self::Tcp(error) => Some(match Errno::from_io_error(error) {
                Some(Errno::HOSTUNREACH | Errno::TIMEDOUT) => AddressDeadEnd::Silent,
                Some(_) | None => AddressDeadEnd::Refused,
            }),
        }
    }
}

/// Is it for lack of descriptors or memory?
pub(super) fn is_local(error: &io::Error) -> bool {
    let ours = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    Errno::from_io_error(error).is_some_and(|errno| ours.contains(&errno))
}

/// Is there no way to addresses of that family from here?
pub(super) fn is_no_route(error: &io::Error) -> bool {
    let none = [Errno::NETUNREACH, Errno::AFNOSUPPORT, Errno::ADDRNOTAVAIL];
    Errno::from_io_error(error).is_some_and(|errno| none.contains(&errno))
}

/// Connects to `address`. Dropping the future ends the attempt.
///
/// # Errors
///
/// [`DialError`].
pub(super) async fn dial(
    address: SocketAddr,
    exit: FamilySource,
    limit: Duration,
) -> Result<TcpStream, DialError> {
    let socket = if address.is_ipv6() { TcpSocket::new_v6() } else { TcpSocket::new_v4() };
    let socket = socket.map_err(DialError::Tcp)?;
    if let FamilySource::From(source) = exit {
        // Port 0: any.
        let bound = socket.bind(SocketAddr::new(source, 0));
        bound.map_err(|error| DialError::Source(source, error))?;
    }
    let stream = match timeout(limit, socket.connect(address)).await {
        Ok(connected) => connected.map_err(DialError::Tcp)?,
        Err(_) => return Err(DialError::TimedOut(limit)),
    };
    // Every write is a whole group of commands; there is nothing to wait for.
    stream.set_nodelay(true).map_err(DialError::Tcp)?;
    Ok(stream)
}
