//! May staunch connect to an address that a stranger's DNS named?
//!
//! MX hosts and policy hosts are found through data that anybody can publish, so an answer may
//! point at this machine, at the operator's own network, or at an address that carries such an
//! address inside it (RFC 8461 has no word on it; it is plain hygiene against loops and request
//! forgery). [`is_forbidden`] is the only place that decides. `delivery.allow_addresses` opens what
//! the operator really means.
//!
//! Not here: addresses of configured routes. They are the operator's own word and are not asked
//! about.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::config::Prefix;

/// IPv4 space that is not publicly routable unicast: the IANA special-purpose registry (RFC 6890),
/// multicast and what is reserved. As (network, prefix length).
const SPECIAL_V4: [(Ipv4Addr, u32); 15] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8),       // RFC 1122: this host
    (Ipv4Addr::new(10, 0, 0, 0), 8),      // RFC 1918
    (Ipv4Addr::new(100, 64, 0, 0), 10),   // RFC 6598: carrier-grade NAT
    (Ipv4Addr::new(127, 0, 0, 0), 8),     // loopback
    (Ipv4Addr::new(169, 254, 0, 0), 16),  // RFC 3927: link-local, cloud metadata
    (Ipv4Addr::new(172, 16, 0, 0), 12),   // RFC 1918
    (Ipv4Addr::new(192, 0, 0, 0), 24),    // RFC 6890: IETF protocol assignments
    (Ipv4Addr::new(192, 0, 2, 0), 24),    // RFC 5737: documentation
    (Ipv4Addr::new(192, 88, 99, 0), 24),  // RFC 7526: former 6to4 relays
    (Ipv4Addr::new(192, 168, 0, 0), 16),  // RFC 1918
    (Ipv4Addr::new(198, 18, 0, 0), 15),   // RFC 2544: benchmarks
    (Ipv4Addr::new(198, 51, 100, 0), 24), // RFC 5737
    (Ipv4Addr::new(203, 0, 113, 0), 24),  // RFC 5737
    (Ipv4Addr::new(224, 0, 0, 0), 4),     // multicast
    (Ipv4Addr::new(240, 0, 0, 0), 4),     // reserved, and the broadcast address
];

/// Is `ip` off limits for a host that DNS named?
///
/// Everything that is not publicly routable unicast is, and everything that wraps such an IPv4
/// address (mapped, NAT64, 6to4, Teredo), unless `allowed` contains the address itself or, for a
/// wrapped one, what it wraps.
pub(crate) fn is_forbidden(ip: IpAddr, allowed: &[Prefix]) -> bool {
    if allowed.iter().any(|prefix| prefix.contains(ip)) {
        return false;
    }
    match ip {
        IpAddr::V4(ip) => is_special_v4(ip),
        IpAddr::V6(ip) => match wrapped(ip) {
            Some(Wrapped::One(inner)) => is_forbidden(inner.into(), allowed),
            Some(Wrapped::Teredo { server, client }) => {
                is_forbidden(server.into(), allowed) || is_forbidden(client.into(), allowed)
            }
            None => is_special_v6(ip),
        },
    }
}

/// Where packets to `ip` end up: there, and at the IPv4 address that it wraps. At a Teredo address
/// the client answers.
pub(crate) fn ends(ip: IpAddr) -> impl Iterator<Item = IpAddr> {
    let inner = match ip {
        IpAddr::V4(_) => None,
        IpAddr::V6(ip) => wrapped(ip).map(|wrapped| match wrapped {
            Wrapped::One(inner) => inner,
            Wrapped::Teredo { client, server: _ } => client,
        }),
    };
    std::iter::once(ip).chain(inner.map(IpAddr::V4))
}

fn is_special_v4(ip: Ipv4Addr) -> bool {
    SPECIAL_V4.iter().any(|(network, length)| {
        let host_bits = u32::BITS - length;
        ip.to_bits() >> host_bits == network.to_bits() >> host_bits
    })
}

/// RFC 4291 §2.4: only 2000::/3 is assigned as global unicast. In it are reserved 2001::/23 (RFC
/// 2928; Teredo, its only part for hosts, is judged by what it wraps) and documentation (RFC 3849,
/// RFC 9637).
fn is_special_v6(ip: Ipv6Addr) -> bool {
    let [first, second, ..] = ip.segments();
    first & 0xe000 != 0x2000
        || (first == 0x2001 && (second < 0x0200 || second == 0x0db8))
        || (first == 0x3fff && second < 0x1000)
}

/// The IPv4 addresses that packets to an IPv6 address end up at.
enum Wrapped {
    One(Ipv4Addr),
    Teredo { server: Ipv4Addr, client: Ipv4Addr },
}

fn wrapped(ip: Ipv6Addr) -> Option<Wrapped> {
    let v4 = |high: u16, low: u16| Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low));
    match ip.segments() {
        // RFC 4291 §2.5.5.2, and RFC 6052 §2.1 (DNS64 makes these of public addresses).
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x0064, 0xff9b, 0, 0, 0, 0, high, low] => {
            Some(Wrapped::One(v4(high, low)))
        }
        // RFC 3056 §2.
        [0x2002, high, low, ..] => Some(Wrapped::One(v4(high, low))),
        // RFC 4380 §4: the client's address is stored inverted.
        [0x2001, 0, server_high, server_low, _, _, high, low] => {
            Some(Wrapped::Teredo { server: v4(server_high, server_low), client: v4(!high, !low) })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forbidden(ip: &str, allowed: &[&str]) -> bool {
        let allowed: Vec<Prefix> = allowed.iter().map(|p| Prefix::parse(p).unwrap()).collect();
        is_forbidden(ip.parse().unwrap(), &allowed)
    }

    #[test]
    fn only_publicly_routable_addresses_are_connected_to() {
        let cases = [
            ("8.8.8.8", false),
            ("100.63.255.255", false),
            ("100.128.0.0", false),
            ("172.15.0.1", false),
            ("172.32.0.1", false),
            ("192.0.1.1", false),
            ("198.17.255.255", false),
            ("198.20.0.0", false),
            ("223.255.255.255", false),
            ("0.0.0.0", true),
            ("0.1.2.3", true),
            ("10.255.0.1", true),
            ("100.64.0.0", true),
            ("100.127.255.255", true),
            ("127.0.0.1", true),
            ("127.255.255.254", true),
            ("169.254.169.254", true),
            ("172.16.0.1", true),
            ("172.31.255.255", true),
            ("192.0.0.8", true),
            ("192.0.2.1", true),
            ("192.88.99.1", true),
            ("192.168.1.1", true),
            ("198.18.0.1", true),
            ("198.19.255.255", true),
            ("198.51.100.7", true),
            ("203.0.113.9", true),
            ("224.0.0.1", true),
            ("239.255.255.255", true),
            ("240.0.0.1", true),
            ("255.255.255.255", true),
            ("2600::1", false),
            ("2a00:1450:4001::1", false),
            ("2001:4860:4860::8888", false),
            ("2001:200::1", false),
            ("::", true),
            ("::1", true),
            ("fc00::1", true),
            ("fdff::1", true),
            ("fe80::1", true),
            ("febf::1", true),
            ("fec0::1", true),
            ("ff02::1", true),
            ("100::1", true),
            ("2001:2::1", true),
            ("2001:20::1", true),
            ("2001:db8::1", true),
            ("3fff::1", true),
            ("3fff:1000::1", false),
            ("5f00::1", true),
            // An IPv4 address inside: forbidden if that is.
            ("::ffff:127.0.0.1", true),
            ("::ffff:10.0.0.1", true),
            ("::ffff:8.8.8.8", false),
            ("::127.0.0.1", true),
            ("::8.8.8.8", true), // RFC 4291 §2.5.5.1: deprecated, never routed
            ("64:ff9b::7f00:1", true),
            ("64:ff9b::a9fe:a9fe", true),
            ("64:ff9b::808:808", false),
            ("64:ff9b:1::808:808", true), // RFC 8215: local use, the layout is not known
            ("2002:7f00:1::1", true),
            ("2002:a00:1::", true),
            ("2002:808:808::1", false),
            ("2001:0:808:808:0:0:f7f7:f7f7", false),
            ("2001:0:808:808:0:0:80ff:fffe", true), // client 127.0.0.1
            ("2001:0:a00:1:0:0:f7f7:f7f7", true),   // server 10.0.0.1
        ];
        for (ip, want) in cases {
            assert_eq!(forbidden(ip, &[]), want, "{ip}");
        }
    }

    #[test]
    fn a_wrapped_address_ends_at_what_it_wraps() {
        let cases = [
            ("192.0.2.1", &["192.0.2.1"][..]),
            ("2001:db8::1", &["2001:db8::1"]),
            ("::ffff:192.0.2.1", &["::ffff:192.0.2.1", "192.0.2.1"]),
            ("64:ff9b::c000:201", &["64:ff9b::c000:201", "192.0.2.1"]),
            ("2002:c000:201::7", &["2002:c000:201::7", "192.0.2.1"]),
            ("2001:0:808:808:0:0:3fff:fdfe", &["2001:0:808:808::3fff:fdfe", "192.0.2.1"]),
        ];
        for (ip, want) in cases {
            let ends: Vec<String> = ends(ip.parse().unwrap()).map(|ip| ip.to_string()).collect();
            assert_eq!(ends, want, "{ip}");
        }
    }

    #[test]
    fn the_operator_opens_exactly_the_prefixes_named() {
        let cases: [(&str, &[&str], bool); 7] = [
            ("127.0.0.1", &["127.0.0.0/8"], false),
            ("10.0.0.1", &["127.0.0.0/8"], true),
            ("10.1.2.3", &["127.0.0.0/8", "10.1.0.0/16"], false),
            ("::1", &["127.0.0.0/8"], true),
            ("::1", &["::1/128"], false),
            ("::ffff:127.0.0.1", &["127.0.0.0/8"], false),
            ("64:ff9b::a00:1", &["10.0.0.0/8"], false),
        ];
        for (ip, allowed, want) in cases {
            assert_eq!(forbidden(ip, allowed), want, "{ip} {allowed:?}");
        }
    }
}
