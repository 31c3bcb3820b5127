//! Loopback addresses for the MX hosts of one world: many hosts, one common port, as port 25 is.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU16, Ordering};

use tokio::net::TcpListener;

/// Where the port of a world is reserved. Nothing answers there.
const RESERVATION: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// The first host; up to 127.0.255.255 there are 65,000.
const FIRST_HOST: u16 = 0x0003;

/// An address in 127.0.0.0/8 where no world listens on any port.
const DEAD: Ipv4Addr = Ipv4Addr::new(127, 99, 0, 1);

/// The address space of one world's MX hosts.
#[derive(Debug)]
pub(crate) struct Hosts {
    /// Held, never accepted from: while it lives no other world gets this port.
    _reservation: std::net::TcpListener,
    port: u16,
    next: AtomicU16,
}

impl Hosts {
    pub(crate) fn reserve() -> Self {
        let reservation = std::net::TcpListener::bind((RESERVATION, 0)).expect("a port");
        let port = reservation.local_addr().expect("bound").port();
        Self { _reservation: reservation, port, next: AtomicU16::new(FIRST_HOST) }
    }

    /// The common port: `delivery.port`.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// A listener on an address of its own. An address whose port a stranger holds is skipped.
    pub(crate) async fn listen(&self) -> (TcpListener, Ipv4Addr) {
        for _ in 0..50 {
            let [high, low] = self.next.fetch_add(1, Ordering::Relaxed).to_be_bytes();
            let address = Ipv4Addr::new(127, 0, high, low);
            if let Ok(listener) = TcpListener::bind(SocketAddr::from((address, self.port))).await {
                return (listener, address);
            }
        }
        panic!("port {} is taken on every loopback address", self.port);
    }

    /// An address that refuses every connection.
    pub(crate) fn dead() -> Ipv4Addr {
        DEAD
    }
}
