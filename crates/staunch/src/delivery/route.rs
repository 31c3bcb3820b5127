//! Where does mail for a domain go next: to the domain's MX hosts, or where the operator says?

use std::collections::BTreeSet;
use std::sync::Arc;

use policy::RequireTls;
use smtp::HostName;
use spool::LaneKey;

use crate::config::{Config, Route, RouteLogin, TlsFloor, Via, ViaLookup, most_specific};
use crate::connect::Sources;
use crate::message::{Target, Work};

/// What lane keys of routes begin with; no domain name can.
const ROUTE_PREFIX: &str = "via ";
/// What lane keys of mail with REQUIRETLS end with.
const REQUIRE_TLS_SUFFIX: &str = " requiretls";

/// One way to a next hop: the hosts of a domain, or those of one `via` of a route.
#[derive(Clone, Debug)]
pub(crate) enum Destination {
    /// The recipient domain's MX hosts, on `delivery.port`.
    Domain(HostName),
    /// A smarthost of the operator.
    Via(Via),
}

impl Destination {
    /// The name whose MTA-STS policy counts (RFC 8461 §3.4); an address has none.
    pub(crate) fn policy_domain(&self) -> Option<&HostName> {
        match self {
            Self::Domain(domain) => Some(domain),
            Self::Via(via) => via.host.name(),
        }
    }

    /// Did the operator name the host itself? Then nobody else has to vouch for it.
    pub(crate) fn names_the_host(&self) -> bool {
        match self {
            Self::Domain(_) | Self::Via(Via { lookup: ViaLookup::Mx, .. }) => false,
            Self::Via(Via { lookup: ViaLookup::Address, .. }) => true,
        }
    }
}

/// Where mail for a domain goes next.
#[derive(Clone, Debug)]
pub(crate) struct NextHop {
    /// What waits together: [`crate::queue::lanes`].
    pub(crate) lane: LaneKey,
    /// Tried in this order.
    pub(crate) destinations: Vec<Destination>,
    /// The operator's floor for the connection.
    pub(crate) floor: TlsFloor,
    /// As whom we log in, if we do.
    pub(crate) login: Option<Arc<RouteLogin>>,
    /// Where our packets leave from.
    pub(crate) sources: Sources,
}

impl NextHop {
    fn new(
        config: &Config,
        lane: LaneKey,
        destinations: Vec<Destination>,
        floor: TlsFloor,
    ) -> Self {
        // Mail with REQUIRETLS waits elsewhere, but it comes from the same address.
        let sources = Sources::for_hop(&config.sources, hop_of(&lane));
        Self { lane, destinations, floor, login: None, sources }
    }
}

/// The next hop for `domain` under this configuration.
pub(crate) fn next_hop(config: &Config, domain: &HostName, require_tls: RequireTls) -> NextHop {
    let lane = lane(config, domain, require_tls);
    match route(config, domain) {
        Some(route) => {
            let destinations = route.via.iter().cloned().map(Destination::Via).collect();
            let next_hop = NextHop::new(config, lane, destinations, route.tls);
            NextHop { login: route.login.clone(), ..next_hop }
        }
        None => {
            let destinations = vec![Destination::Domain(domain.clone())];
            NextHop::new(config, lane, destinations, config.delivery.tls)
        }
    }
}

/// The lane for `domain`, without the rest of the plan. Mail with REQUIRETLS has one of its own:
/// that no host is good enough for it must not make other mail wait.
pub(crate) fn lane(config: &Config, domain: &HostName, require_tls: RequireTls) -> LaneKey {
    class_key(&hop_key(config, domain), require_tls)
}

const CLASSES: [RequireTls; 2] = [RequireTls::No, RequireTls::Yes];

fn class_key(hop: &str, require_tls: RequireTls) -> LaneKey {
    match require_tls {
        RequireTls::No => LaneKey::new(hop),
        RequireTls::Yes => LaneKey::new(&format!("{hop}{REQUIRE_TLS_SUFFIX}")),
    }
}

fn hop_key(config: &Config, domain: &HostName) -> String {
    route(config, domain).map_or_else(|| domain.to_string(), route_key)
}

fn route<'a>(config: &'a Config, domain: &HostName) -> Option<&'a Route> {
    most_specific(&config.routes, |route| route.domains.as_slice(), domain)
}

/// The next hops that `name` stands for when it is paused: that of mail to the domain of this name,
/// and routes over the host of this name.
pub(crate) fn hops_towards(config: &Config, name: &HostName) -> BTreeSet<String> {
    let is_over = |route: &&Route| route.via.iter().any(|via| via.host.name() == Some(name));
    let routes = config.routes.iter().filter(is_over).map(route_key);
    routes.chain([hop_key(config, name)]).collect()
}

/// The lanes of these next hops.
pub(crate) fn lanes_towards(config: &Config, name: &HostName) -> Vec<LaneKey> {
    let hops = hops_towards(config, name);
    hops.iter().flat_map(|hop| CLASSES.map(|require_tls| class_key(hop, require_tls))).collect()
}

/// The lanes of mail to `domain` where no route is for it.
pub(crate) fn own_lanes(domain: &HostName) -> [LaneKey; 2] {
    CLASSES.map(|require_tls| class_key(domain.as_str(), require_tls))
}

/// The names of the hosts that a route's lane leads to, if the route is one of `config`.
pub(crate) fn names_of(config: &Config, key: &LaneKey) -> Vec<HostName> {
    let is_it = |route: &&Route| route_key(route) == hop_of(key);
    let routes = config.routes.iter().filter(is_it);
    routes.flat_map(|route| route.via.iter().filter_map(|via| via.host.name().cloned())).collect()
}

/// The next hop that a lane is for.
pub(crate) fn hop_of(key: &LaneKey) -> &str {
    key.as_str().strip_suffix(REQUIRE_TLS_SUFFIX).unwrap_or(key.as_str())
}

/// The recipient domain that a lane is for; none if it is that of a route.
pub(crate) fn domain_of(key: &LaneKey) -> Option<HostName> {
    HostName::parse(hop_of(key)).ok()
}

/// Whose mail waits in a lane?
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum MailOf {
    /// That of the next hop that it is named after, and no other.
    ThisHop,
    /// That of a route of the current configuration; perhaps also of domains that the route has
    /// lost.
    ARoute,
    /// That of next hops of earlier configurations.
    AnotherHop,
}

/// Whose mail waits in `key`, a lane of any day?
pub(crate) fn mail_of(config: &Config, key: &LaneKey) -> MailOf {
    let hop = hop_of(key);
    match HostName::parse(hop) {
        Ok(domain) if hop_key(config, &domain) == hop => MailOf::ThisHop,
        Ok(_) => MailOf::AnotherHop,
        Err(_) if config.routes.iter().any(|route| route_key(route) == hop) => MailOf::ARoute,
        Err(_) => MailOf::AnotherHop,
    }
}

/// What is asked of the connection is part of it, and who we are there: recipients of one lane
/// share a transaction, so two routes to one host that differ in `tls` or credentials must not
/// share a lane.
fn route_key(route: &Route) -> String {
    let via: Vec<String> = route.via.iter().map(ToString::to_string).collect();
    let tls = match route.tls {
        TlsFloor::Opportunistic => "opportunistic",
        TlsFloor::Encrypt => "encrypt",
        TlsFloor::Verify => "verify",
    };
    let key = format!("{ROUTE_PREFIX}{} tls={tls}", via.join(","));
    match &route.login {
        None => key,
        Some(login) => format!("{key} as={} by={}", login.username, login.password_file.display()),
    }
}

/// Is `key` the lane of every recipient's next hop under `config`? Who shared a route may have next
/// hops of their own since. An address literal has none at all.
pub(crate) fn place(config: &Config, key: &LaneKey, work: &Work) -> Routing {
    let require_tls = work.require_tls();
    let is_astray = |target: &Target| {
        let domain = target.mailbox.domain().name();
        domain.is_some_and(|domain| lane(config, domain, require_tls) != *key)
    };
    if work.any(is_astray) { Routing::Stale } else { Routing::Current }
}

/// Does mail wait in the lane of its next hop?
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Routing {
    /// It does.
    Current,
    /// The configuration has changed since it came there.
    Stale,
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use smtp::{Mailbox, ReversePath};
    use spool::{MessageId, MessageOptions, RecipientNo, RecipientOptions};

    use super::*;
    use crate::config::{Surroundings, load};
    use crate::message::{Body, Removals, Rest, Submitter, facts_of, require_tls};

    #[test]
    fn routes_that_ask_for_other_tls_or_log_in_as_others_do_not_share_a_lane() {
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
            [[route]]
            domains = ["e.test"]
            via = ["smtp://[smart.test]"]
            username = "e"
            password_file = "/e"
            [[route]]
            domains = ["f.test"]
            via = ["smtp://[smart.test]"]
            username = "f"
            password_file = "/e"
        "#;
        let file = tempfile::NamedTempFile::new().unwrap();
        let head = "hostname = \"relay.test\"\ndata_dir = \"/tmp\"\n";
        std::fs::write(file.path(), format!("{head}{text}")).unwrap();
        let config = load(Some(file.path()), &Surroundings::default()).unwrap().config;
        let plan = |domain: &str, require_tls| {
            next_hop(&config, &HostName::parse(domain).unwrap(), require_tls)
        };
        let of = |domain: &str| plan(domain, RequireTls::No);
        assert_eq!(of("a.test").floor, TlsFloor::Verify);
        assert_ne!(of("a.test").lane, of("b.test").lane);
        assert_eq!(of("a.test").lane, of("c.test").lane);
        assert_eq!(of("d.test").lane, LaneKey::new("d.test"));
        for domain in ["a.test", "d.test"] {
            assert_ne!(of(domain).lane, plan(domain, RequireTls::Yes).lane);
        }
        for other in ["a.test", "f.test"] {
            assert_ne!(of("e.test").lane, of(other).lane, "{other}");
        }
    }

    fn work(to: &[&str], options: &MessageOptions) -> Work {
        let at = Timestamp::UNIX_EPOCH;
        let target = |to: &&str| Target {
            no: RecipientNo(0),
            mailbox: Mailbox::parse(to).unwrap(),
            attempts: 0,
            expires_at: at,
            waits_since: None,
            options: RecipientOptions::default(),
        };
        Work {
            message: MessageId::from_u128(1),
            sender: ReversePath::Null,
            targets: to.iter().map(target).collect(),
            rest: Rest::Nobody,
            arrived_at: at,
            turn: at,
            facts: facts_of(b"\r\n"),
            body: Body::Stored,
            options: options.clone(),
            as_of: Removals::default(),
            submitter: Submitter::UNKNOWN,
        }
    }

    #[test]
    fn work_is_astray_as_soon_as_one_recipient_has_another_next_hop() {
        let text = r#"
            hostname = "relay.test"
            data_dir = "/tmp"
            [[route]]
            domains = ["a.test", "c.test"]
            via = ["smtp://[smart.test]"]
        "#;
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let config = load(Some(file.path()), &Surroundings::default()).unwrap().config;
        let with_require_tls = MessageOptions { require_tls: true, ..MessageOptions::default() };
        for options in [MessageOptions::default(), with_require_tls] {
            let place =
                |key: &str, to: &[&str]| place(&config, &LaneKey::new(key), &work(to, &options));
            let domain = HostName::parse("a.test").unwrap();
            let lane = lane(&config, &domain, require_tls(&options)).to_string();
            assert_eq!(place(&lane, &["x@a.test", "y@c.test"]), Routing::Current);
            assert_eq!(place(&lane, &["x@a.test", "y@b.test"]), Routing::Stale, "the second");
            assert_eq!(place(&lane, &["y@b.test", "x@a.test"]), Routing::Stale, "the first");
            assert_eq!(
                place("a.test", &["x@a.test"]),
                Routing::Stale,
                "a lane of an earlier configuration"
            );
        }
        let plain = work(&["y@b.test"], &MessageOptions::default());
        assert_eq!(place(&config, &LaneKey::new("b.test"), &plain), Routing::Current);
    }
}
