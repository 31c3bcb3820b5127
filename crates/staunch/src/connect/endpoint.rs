//! Where to, and as whom?

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;

use smtp::Domain;

use crate::config::{RouteLogin, Source};

/// What two mails must have in common to go over one connection, or over two connections that share
/// a TLS session. Everything by which a peer tells us apart, and we tell peers apart, is in it.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct PoolKey {
    /// The configured route, if it is not the recipient's MX.
    pub(crate) route: Option<Arc<str>>,
    /// The addresses of ours that it leaves from, one for each family.
    pub(crate) sources: Sources,
    /// The host's name, as MX record or route has it.
    pub(crate) host: Domain,
    /// How it is reached.
    pub(crate) endpoint: Endpoint,
}

/// How the server is spoken to from the first octet on.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Endpoint {
    pub(crate) port: u16,
    /// With STARTTLS, or from the first octet on.
    pub(crate) tls: TlsStart,
    /// As whom we log in, if we do.
    pub(crate) login: Option<Arc<RouteLogin>>,
}

impl Endpoint {
    /// An MX host's: nobody logs in, and TLS begins when it is asked for.
    pub(crate) fn mx(port: u16) -> Self {
        Self { port, tls: TlsStart::OnCommand, login: None }
    }
}

/// When TLS begins on a connection.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum TlsStart {
    /// After STARTTLS (RFC 3207).
    OnCommand,
    /// At once (RFC 8314 §3.3).
    AtOnce,
}

/// Where a family's packets leave from.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub(crate) enum FamilySource {
    /// Wherever the system likes.
    #[default]
    Any,
    /// From this address of ours.
    From(IpAddr),
    /// Nowhere: the operator named addresses, and none of this family.
    Closed,
}

/// Our addresses for one next hop, one of each family.
///
/// They follow from the next hop alone, so they are the same for every try and every host of it,
/// also after a restart: a greylist knows us again.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub(crate) struct Sources {
    v4: FamilySource,
    v6: FamilySource,
}

impl Sources {
    /// The ones of `configured` that mail for `hop` leaves from. Next hops are spread evenly;
    /// another source moves only those that it gets (rendezvous hashing).
    pub(crate) fn for_hop(configured: &[Source], hop: &str) -> Self {
        if configured.is_empty() {
            return Self::default();
        }
        let weight = |address: &IpAddr| {
            let mut hasher = DefaultHasher::new();
            (hop, address).hash(&mut hasher);
            hasher.finish()
        };
        let pick = |is_v6: bool| {
            let family = configured.iter().map(|source| source.address);
            let best = family.filter(|address| address.is_ipv6() == is_v6).max_by_key(weight);
            best.map_or(FamilySource::Closed, FamilySource::From)
        };
        Self { v4: pick(false), v6: pick(true) }
    }

    /// The one for packets to `peer`.
    pub(crate) fn towards(&self, peer: IpAddr) -> FamilySource {
        if peer.is_ipv6() { self.v6 } else { self.v4 }
    }
}

impl fmt::Display for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |exit| match exit {
            FamilySource::Any => "any".to_owned(),
            FamilySource::From(address) => address.to_string(),
            FamilySource::Closed => "none".to_owned(),
        };
        write!(f, "IPv4 from {}, IPv6 from {}", shown(self.v4), shown(self.v6))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(addresses: &[&str]) -> Vec<Source> {
        let source = |(index, address): (usize, &&str)| Source {
            index,
            address: address.parse().unwrap(),
            hostname: None,
        };
        addresses.iter().enumerate().map(source).collect()
    }

    #[test]
    fn a_next_hop_keeps_its_source_and_many_use_all_of_them() {
        let configured = sources(&["192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8::1"]);
        let peer: IpAddr = "198.51.100.1".parse().unwrap();
        let mut used = std::collections::HashMap::new();
        for number in 0..300 {
            let hop = format!("d{number}.test");
            let first = Sources::for_hop(&configured, &hop);
            let mut other_order = configured.clone();
            other_order.reverse();
            assert_eq!(first, Sources::for_hop(&other_order, &hop));
            *used.entry(first.towards(peer)).or_insert(0) += 1;
        }
        assert_eq!(used.len(), 3);
        assert!(used.values().all(|hops| *hops > 60), "{used:?}");
    }

    #[test]
    fn a_family_without_a_source_is_closed_where_others_have_one() {
        let v6: IpAddr = "2001:db8::9".parse().unwrap();
        let v4: IpAddr = "192.0.2.9".parse().unwrap();
        let only_v4 = Sources::for_hop(&sources(&["192.0.2.1"]), "a.test");
        assert_eq!(only_v4.towards(v4), FamilySource::From("192.0.2.1".parse().unwrap()));
        assert_eq!(only_v4.towards(v6), FamilySource::Closed);
        let free = Sources::for_hop(&[], "a.test");
        assert_eq!((free.towards(v4), free.towards(v6)), (FamilySource::Any, FamilySource::Any));
    }
}
