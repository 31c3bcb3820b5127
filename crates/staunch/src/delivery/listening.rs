//! Where we listen ourselves: mail is never sent there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use crate::dns::addresses::ends;
use crate::reloadable::Reloadable;

/// The addresses of all listeners.
#[derive(Debug)]
pub(crate) struct Listening(Reloadable<Vec<SocketAddr>>);

impl Default for Listening {
    fn default() -> Self {
        Self(Reloadable::new(Vec::new()))
    }
}

impl Listening {
    /// They are these from now on.
    pub(crate) fn replace(&self, addresses: Vec<SocketAddr>) {
        self.0.replace(addresses);
    }

    /// All of them.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.0.now().to_vec()
    }

    /// Is this one of our own listeners, whatever the address is wrapped in?
    pub(crate) fn is_ourselves(&self, address: SocketAddr) -> bool {
        ends(address.ip()).any(|ip| {
            let end = SocketAddr::new(ip, address.port());
            self.0.now().iter().any(|listener| is_at(*listener, end))
        })
    }
}

/// Does `listener` answer at `address`?
fn is_at(listener: SocketAddr, address: SocketAddr) -> bool {
    let ip = listener.ip().to_canonical();
    listener.port() == address.port()
        && (ip == address.ip() || (ip.is_unspecified() && is_on_this_machine(address)))
}

/// Is `address` one of this machine's? The system then takes it as the source towards itself.
/// Nothing is sent: a UDP socket is connected by a look at the routing table.
fn is_on_this_machine(address: SocketAddr) -> bool {
    if address.ip().to_canonical().is_loopback() {
        return true;
    }
    let any: IpAddr = match address {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let source = UdpSocket::bind((any, 0)).and_then(|socket| {
        socket.connect(address)?;
        socket.local_addr()
    });
    source.is_ok_and(|source| source.ip() == address.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_own_address_is_ourselves_in_every_wrapping() {
        let ours = Listening::default();
        let listening = ["192.0.2.1:25", "[2001:db8::1]:25", "[::ffff:192.0.2.9]:25", "0.0.0.0:26"];
        ours.replace(listening.map(|address| address.parse().unwrap()).to_vec());
        let cases = [
            ("192.0.2.1:25", true),
            ("192.0.2.1:2525", false),
            ("192.0.2.2:25", false),
            ("192.0.2.9:25", true),
            ("[2001:db8::1]:25", true),
            ("[2001:db8::2]:25", false),
            ("[::ffff:192.0.2.1]:25", true),
            ("[::ffff:192.0.2.2]:25", false),
            ("[64:ff9b::c000:201]:25", true),
            ("[64:ff9b::c000:201]:2525", false),
            ("[64:ff9b::c000:202]:25", false),
            ("[2002:c000:201::1]:25", true),
            ("[::ffff:127.0.0.1]:26", true),
            ("[64:ff9b::7f00:1]:26", true),
        ];
        for (address, want) in cases {
            assert_eq!(ours.is_ourselves(address.parse().unwrap()), want, "{address}");
        }
    }

    #[test]
    fn a_listener_on_every_address_is_on_those_of_this_machine_and_not_on_all_of_the_world() {
        for (address, want) in
            [("127.0.0.1:25", true), ("127.0.0.9:25", true), ("192.0.2.1:25", false)]
        {
            assert_eq!(is_on_this_machine(address.parse().unwrap()), want, "{address}");
        }
    }
}
