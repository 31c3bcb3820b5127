//! Where does mail for a domain go next: to the domain's MX hosts, or where the operator says?

use smtp::HostName;
use spool::LaneKey;

use crate::config::{Config, Route, TlsFloor, Via, most_specific};

/// What lane keys of routes begin with; no domain name can.
const ROUTE_PREFIX: &str = "via ";

/// One way to a next hop: the hosts of a domain, or those of one `via` of a route.
#[derive(Clone, Debug)]
pub(crate) enum Leg {
    /// The recipient domain's MX hosts, on `delivery.port`.
    Domain(HostName),
    /// A smarthost of the operator.
    Via(Via),
}

impl Leg {
    /// The name whose MTA-STS policy counts (RFC 8461 §3.4); an address has none.
    pub(crate) fn policy_domain(&self) -> Option<&HostName> {
        match self {
            Self::Domain(domain) => Some(domain),
            Self::Via(via) => via.host.name(),
        }
    }
}

/// Where mail for a domain goes next.
#[derive(Clone, Debug)]
pub(crate) struct NextHop {
    /// What waits together: [`crate::queue::lanes`].
    pub(crate) lane: LaneKey,
    /// Tried in this order.
    pub(crate) legs: Vec<Leg>,
    /// The operator's floor for the connection.
    pub(crate) floor: TlsFloor,
}

/// The next hop for `domain` under this configuration.
pub(crate) fn next_hop(config: &Config, domain: &HostName) -> NextHop {
    match route(config, domain) {
        Some(route) => NextHop {
            lane: LaneKey::new(&route_key(route)),
            legs: route.via.iter().cloned().map(Leg::Via).collect(),
            floor: route.tls,
        },
        None => NextHop {
            lane: LaneKey::new(domain.as_str()),
            legs: vec![Leg::Domain(domain.clone())],
            floor: config.delivery.tls,
        },
    }
}

/// The lane for `domain`, without the rest of the plan.
pub(crate) fn lane(config: &Config, domain: &HostName) -> LaneKey {
    match route(config, domain) {
        Some(route) => LaneKey::new(&route_key(route)),
        None => LaneKey::new(domain.as_str()),
    }
}

fn route<'a>(config: &'a Config, domain: &HostName) -> Option<&'a Route> {
    most_specific(&config.routes, |route| route.domains.as_slice(), domain)
}

fn route_key(route: &Route) -> String {
    let via: Vec<String> = route.via.iter().map(ToString::to_string).collect();
    format!("{ROUTE_PREFIX}{}", via.join(","))
}
