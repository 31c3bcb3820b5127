//! Clients behind a load balancer: the PROXY header says who they are.
//!
//! Only who is listed in `proxy_protocol_from` is believed, and then it must speak: a listed proxy
//! that says nothing would give its clients its own address, and with it perhaps the right to
//! relay.

use crate::accept::timeouts::PROXY_HEADER_TIMEOUT;
use std::io::{self, ErrorKind};
use std::net::IpAddr;

use smtp::proxy_header::{HeaderProgress, ProxyHeader, V2_OCTETS_MAX, parse};
use tokio::time::timeout;

use super::peer::Peer;
use super::stream::Socket;

/// Room for a header as proxies write it; longer ones get more.
const USUAL_OCTETS: usize = 256;

/// What a proxy said.
#[derive(Debug)]
pub(super) struct Introduction {
    pub(super) peer: Peer,
    /// The client's port; over a unix socket there is none.
    pub(super) port: Option<u16>,
    /// What the client connected to.
    pub(super) local: Option<IpAddr>,
    /// What came behind the header.
    pub(super) rest: Vec<u8>,
}

/// Hears the proxy at `socket` out; it is `proxy` itself.
///
/// # Errors
///
/// It went away, took too long, or did not speak the protocol.
pub(super) async fn introduced(socket: &Socket, proxy: Peer) -> io::Result<Introduction> {
    let (header, rest) = timeout(PROXY_HEADER_TIMEOUT, header(socket)).await??;
    Ok(match header {
        ProxyHeader::Tcp { source, destination } => Introduction {
            peer: Peer::Remote(source.ip().to_canonical()),
            port: Some(source.port()),
            local: Some(destination.ip().to_canonical()),
            rest,
        },
        // The proxy's own health check, or a client that it does not name.
        ProxyHeader::Local | ProxyHeader::Unix => {
            let peer = Peer::Unnamed { proxy: proxy.place() };
            Introduction { peer, port: None, local: socket.local(), rest }
        }
    })
}

async fn header(socket: &Socket) -> io::Result<(ProxyHeader, Vec<u8>)> {
    let mut input = Vec::with_capacity(USUAL_OCTETS);
    loop {
        socket.readable().await?;
        match socket.try_read_buf(&mut input) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        }
        match parse(&input) {
            HeaderProgress::Done { header, used } => {
                input.drain(..used);
                input.shrink_to_fit();
                return Ok((header, input));
            }
            // Never more than twice of what has come: few have more than some hundred octets.
            HeaderProgress::NeedMore if input.len() < V2_OCTETS_MAX => {
                input.reserve_exact(input.len().max(USUAL_OCTETS));
            }
            HeaderProgress::NeedMore => {
                return Err(io::Error::new(ErrorKind::InvalidData, "no header"));
            }
            HeaderProgress::Invalid => {
                return Err(io::Error::new(ErrorKind::InvalidData, "no header"));
            }
        }
    }
}
