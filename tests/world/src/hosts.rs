//! Loopback addresses for the MX hosts of one world: many hosts, one common port, as port 25 is.

use std::io::{ErrorKind, Write, stderr};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::log::lock;

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
    six: Mutex<Six>,
    /// Listeners and connections that fill their backlogs.
    full: Mutex<Vec<(TcpListener, Vec<TcpStream>)>>,
}

/// The IPv6 address of a world, with the common port. Loopback has no more than one.
#[derive(Debug)]
enum Six {
    /// This machine has no [::1]: many containers have none.
    Missing,
    /// Refuses connections until somebody listens.
    Bound(TcpSocket),
    /// A host has it.
    Taken,
}

impl Six {
    /// `None`: somebody else has the port.
    fn bind(port: u16) -> Option<Self> {
        // A kernel without IPv6 has no such sockets (EAFNOSUPPORT).
        let Ok(socket) = TcpSocket::new_v6() else { return Some(Self::Missing) };
        match socket.bind(SocketAddr::from((Ipv6Addr::LOCALHOST, port))) {
            Ok(()) => Some(Self::Bound(socket)),
            Err(error) if error.kind() == ErrorKind::AddrNotAvailable => Some(Self::Missing),
            Err(error) if error.kind() == ErrorKind::AddrInUse => None,
            Err(error) => panic!("[::1]:{port}: {error}"),
        }
    }
}

/// How long a connection to loopback takes at most where somebody takes it.
const CONNECTS_WITHIN: Duration = Duration::from_millis(300);

impl Hosts {
    pub(crate) fn reserve() -> Self {
        // Somebody else may hold the IPv6 port of our IPv4 port; fifty times in a row nobody does.
        for _ in 0..50 {
            let reservation = std::net::TcpListener::bind((RESERVATION, 0)).expect("a port");
            let port = reservation.local_addr().expect("bound").port();
            if let Some(six) = Six::bind(port) {
                return Self {
                    _reservation: reservation,
                    port,
                    next: AtomicU16::new(FIRST_HOST),
                    six: Mutex::new(six),
                    full: Mutex::default(),
                };
            }
        }
        panic!("no port is free for both IPv4 and IPv6");
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

    /// The listener on [::1], where there is IPv6. There is one for a world.
    pub(crate) fn listen6(&self) -> Option<TcpListener> {
        let mut six = lock(&self.six);
        match std::mem::replace(&mut *six, Six::Taken) {
            Six::Bound(socket) => Some(socket.listen(1024).expect("listen on [::1]")),
            Six::Missing => {
                // Not by eprintln!(): the harness keeps that back where a test passes.
                let _ = writeln!(stderr(), "left out: what needs [::1], which this machine lacks");
                *six = Six::Missing;
                None
            }
            Six::Taken => panic!("a world has one IPv6 host"),
        }
    }

    /// An address that answers no SYN: its backlog is full and nobody accepts.
    pub(crate) async fn silent(&self) -> Ipv4Addr {
        let [high, low] = self.next.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        let ip = Ipv4Addr::new(127, 0, high, low);
        let address = SocketAddr::from((ip, self.port));
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(address).expect("an address of this world");
        let listener = socket.listen(1).expect("listen");
        let mut fill = Vec::new();
        while let Ok(stream) =
            tokio::time::timeout(CONNECTS_WITHIN, TcpStream::connect(address)).await
        {
            fill.push(stream.expect("somebody listens"));
            assert!(fill.len() < 100, "a backlog of 1 takes {} connections", fill.len());
        }
        lock(&self.full).push((listener, fill));
        ip
    }

    /// An address that refuses every connection.
    pub(crate) fn dead() -> Ipv4Addr {
        DEAD
    }
}

/// `TCP_SYN_SENT` in the column `st`.
const SYN_SENT: &str = "02";

/// The remote ends of all sockets of this machine that are in SYN-SENT towards `port`, at one
/// moment. The kernel lists sockets one after the other, so one may end and the next begin while it
/// does: only what two listings in a row hold was there between them.
pub(crate) fn connecting(port: u16) -> Vec<IpAddr> {
    let first = listed(port);
    if first.is_empty() {
        return first;
    }
    let second = listed(port);
    first.into_iter().filter(|address| second.contains(address)).collect()
}

fn listed(port: u16) -> Vec<IpAddr> {
    ["/proc/net/tcp", "/proc/net/tcp6"]
        .into_iter()
        .flat_map(|file| {
            let table = std::fs::read_to_string(file).unwrap_or_default();
            table.lines().skip(1).filter_map(|line| syn_sent(line, port)).collect::<Vec<_>>()
        })
        .collect()
}

/// The remote address of a line of the table: `sl local rem st …`, addresses as `HEX:PORT`, in
/// words of 32 bits in the byte order of the machine.
fn syn_sent(line: &str, port: u16) -> Option<IpAddr> {
    let mut columns = line.split_whitespace();
    let (remote, state) = (columns.nth(2)?, columns.next()?);
    let (address, remote_port) = remote.split_once(':')?;
    if state != SYN_SENT || u16::from_str_radix(remote_port, 16) != Ok(port) {
        return None;
    }
    let words: Option<Vec<[u8; 4]>> = (0..address.len() / 8)
        .map(|at| u32::from_str_radix(address.get(at * 8..at * 8 + 8)?, 16).ok())
        .map(|word| word.map(u32::to_ne_bytes))
        .collect();
    let bytes = words?.concat();
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        _ => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
    }
}
