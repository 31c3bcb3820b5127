//! Where a client is, when it is counted or slowed down: what one customer of a network has.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Bits of an IPv6 address that one network has at least (RFC 6177 §2): whoever has one address of
/// it has all.
const V6_BITS: u32 = 64;

/// An IPv4 address, the /64 of an IPv6 address, or a user of this machine.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum ClientPlace {
    /// The address, as it is.
    V4(Ipv4Addr),
    /// The first address of the /64.
    V6(Ipv6Addr),
    /// The user id of a process of this machine.
    Local(u32),
}

impl ClientPlace {
    /// Where `address` is. An IPv4 address in IPv6 form is the same place.
    pub(crate) fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address),
            IpAddr::V6(address) => {
                let network = u128::MAX << (u128::BITS - V6_BITS);
                Self::V6(Ipv6Addr::from_bits(address.to_bits() & network))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_network_is_one_place() {
        let place = |text: &str| ClientPlace::of(text.parse().unwrap());
        assert_eq!(place("2001:db8::1"), place("2001:db8::ffff:1:2:3"));
        assert_ne!(place("2001:db8::1"), place("2001:db8:0:1::1"));
        assert_ne!(place("192.0.2.1"), place("192.0.2.2"));
        assert_eq!(place("192.0.2.1"), place("::ffff:192.0.2.1"));
    }
}
