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

/// The lanes that a pause of `name` is meant for: that of mail to the domain of this name, and those of
/// routes over the host of this name.
pub(crate) fn lanes_towards(config: &Config, name: &HostName) -> Vec<LaneKey> {
    let is_over = |route: &&Route| route.via.iter().any(|via| via.host.name() == Some(name));
    let routes = config.routes.iter().filter(is_over).map(|route| LaneKey::new(&route_key(route)));
    let mut lanes: Vec<LaneKey> = routes.chain([lane(config, name)]).collect();
    lanes.sort_unstable();
    lanes.dedup();
    lanes
}

/// Whose mail waits in a lane?
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum MailOf {
    /// That of the next hop that it is named after, and no other.
    ThisHop,
    /// That of a route of today; perhaps also of domains that the route has lost.
    ARoute,
    /// That of next hops of former days.
    AnotherHop,
}

/// Whose mail waits in `key`, a lane of any day?
pub(crate) fn mail_of(config: &Config, key: &LaneKey) -> MailOf {
    match HostName::parse(key.as_str()) {
        Ok(domain) if lane(config, &domain) == *key => MailOf::ThisHop,
        Ok(_) => MailOf::AnotherHop,
        Err(_) if config.routes.iter().any(|route| route_key(route) == key.as_str()) => {
            MailOf::ARoute
        }
        Err(_) => MailOf::AnotherHop,
    }
}

/// What is asked of the connection is part of it: recipients of one lane share a transaction, so two
/// routes to one host that differ in `tls` must not share a lane.
fn route_key(route: &Route) -> String {
    let via: Vec<String> = route.via.iter().map(ToString::to_string).collect();
    let tls = match route.tls {
        TlsFloor::Opportunistic => "opportunistic",
        TlsFloor::Encrypt => "encrypt",
        TlsFloor::Verify => "verify",
    };
    format!("{ROUTE_PREFIX}{} tls={tls}", via.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Surroundings, load};

    #[test]
    fn routes_that_ask_for_more_do_not_share_a_lane_with_those_that_ask_for_less() {
        let text = r#"
            [[route]]
            domains = ["a.test"]
            via = ["smtp://[smart.test]"]
            [[route]]
            domains = ["b.test"]
            via = ["smtp://[smart.test]"]
            tls = "opportunistic"
            [[route]]
            domains = ["c.test"]
            via = ["smtp://[smart.test]"]
        "#;
        let file = tempfile::NamedTempFile::new().unwrap();
        let head = "hostname = \"relay.test\"\ndata_dir = \"/tmp\"\n";
        std::fs::write(file.path(), format!("{head}{text}")).unwrap();
        let config = load(Some(file.path()), &Surroundings::default()).unwrap().config;
        let of = |domain: &str| next_hop(&config, &HostName::parse(domain).unwrap());
        assert_eq!(of("a.test").floor, TlsFloor::Verify);
        assert_ne!(of("a.test").lane, of("b.test").lane);
        assert_eq!(of("a.test").lane, of("c.test").lane);
        assert_eq!(of("d.test").lane, LaneKey::new("d.test"));
    }
}
