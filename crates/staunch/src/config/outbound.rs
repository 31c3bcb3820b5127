//! Where mail goes out, as whom, and how fast: `[[source]]`, `[[limit]]`, `[[route]]`.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use smtp::{Domain, HostName};

use super::checker::Checker;
use super::{
    DomainPattern, Hostname, Limit, Route, RouteLogin, Source, TlsFloor, Via, ViaLookup, ViaScheme,
    file,
};

impl Checker {
    pub(super) fn sources(&mut self, written: &[file::SourceTable]) -> Vec<Source> {
        let mut seen = BTreeSet::new();
        let mut sources = Vec::new();
        for (index, source) in written.iter().enumerate() {
            let key = |name| format!("source[{index}].{name}");
            let parse = |text: &str| text.parse::<IpAddr>().map_err(|_| "not an address");
            let address = self.parsed(&key("address"), &source.address, parse);
            let hostname = self.optional(&key("hostname"), &source.hostname, Hostname::parse);
            let Some(address) = address else { continue };
            if !seen.insert(address) {
                self.wrong(key("address"), &source.address, "stands there twice");
            }
            if address.is_unspecified() || address.is_multicast() {
                self.wrong(key("address"), &source.address, "nobody can connect from it");
            }
            sources.push(Source { index, address, hostname });
        }
        sources
    }

    pub(super) fn outbound_limits(&mut self, written: &[file::LimitTable]) -> Vec<Limit> {
        let mut limits = Vec::new();
        for (index, limit) in written.iter().enumerate() {
            let key = |name| format!("limit[{index}].{name}");
            let domains = self.all(&key("domains"), &limit.domains, DomainPattern::parse);
            let mx = self.all(&key("mx"), &limit.mx, DomainPattern::parse);
            if limit.domains.is_empty() == limit.mx.is_empty() {
                let reason = "needs either domains or mx, and not both";
                self.finding(format!("limit[{index}]"), reason.into());
            }
            if limit.connections == 0 && limit.messages_per_minute == 0 {
                let reason = "needs connections or messages_per_minute: both are 0";
                self.finding(format!("limit[{index}]"), reason.into());
            }
            limits.push(Limit {
                index,
                domains,
                mx,
                connections: (limit.connections > 0)
                    .then(|| self.count(&key("connections"), limit.connections)),
                messages_per_minute: (limit.messages_per_minute > 0)
                    .then(|| self.count(&key("messages_per_minute"), limit.messages_per_minute)),
            });
        }
        type Patterns = fn(&Limit) -> &[DomainPattern];
        let kinds: [(&str, Patterns); 2] =
            [("limit[].domains", |limit| &limit.domains), ("limit[].mx", |limit| &limit.mx)];
        for (key, patterns) in kinds {
            let all = limits.iter().flat_map(|l| patterns(l).iter().map(|p| (l.index, p)));
            self.no_ties(key, all);
        }
        limits
    }

    pub(super) fn routes(&mut self, written: &[file::RouteTable]) -> Vec<Route> {
        let mut routes = Vec::new();
        for (index, route) in written.iter().enumerate() {
            let key = |name| format!("route[{index}].{name}");
            let domains = self.all(&key("domains"), &route.domains, DomainPattern::parse);
            let via = self.vias(&key("via"), &route.via);
            for (name, list) in [("domains", &route.domains), ("via", &route.via)] {
                if list.is_empty() {
                    self.finding(key(name), "at least one is needed".into());
                }
            }
            let tls = self.listed(&key("tls"), &route.tls, TlsFloor::Verify);
            if tls == TlsFloor::Verify && via.iter().any(|via| via.host.name().is_none()) {
                let reason = "an address has no name to verify: write the host's name, \
                    or tls = \"encrypt\" or \"opportunistic\"";
                self.finding(key("via"), reason.into());
            }
            let login = self.login(index, route);
            if login.is_some() && tls != TlsFloor::Verify {
                let reason = "credentials are given to an authenticated server only: \
                    leave tls = \"verify\"";
                self.wrong(key("tls"), &route.tls, reason);
            }
            routes.push(Route { domains, via, tls, login });
        }
        let patterns = routes.iter().enumerate();
        let patterns = patterns.flat_map(|(i, route)| route.domains.iter().map(move |p| (i, p)));
        self.no_ties("route[].domains", patterns);
        routes
    }

    /// One with a password in it is not repeated: what is wrong is shown and logged.
    fn vias(&mut self, key: &str, texts: &[String]) -> Vec<Via> {
        let (secret, plain): (Vec<String>, Vec<String>) =
            texts.iter().cloned().partition(|text| text.contains('@'));
        if !secret.is_empty() {
            let reason = "a user or password is not part of it: write username, and the password into \
                 password_file";
            self.finding(key.into(), reason.into());
        }
        self.all(key, &plain, parse_via)
    }

    fn login(&mut self, index: usize, route: &file::RouteTable) -> Option<Arc<RouteLogin>> {
        let key = |name| format!("route[{index}].{name}");
        let file = self.optional_path(&key("password_file"), &route.password_file);
        match (route.username.as_str(), file) {
            ("", None) => None,
            ("", Some(_)) => {
                self.finding(key("username"), "password_file needs one".into());
                None
            }
            (_, None) => {
                self.finding(key("password_file"), "username needs one".into());
                None
            }
            (username, Some(password_file)) => {
                if username.contains(char::is_control) {
                    self.wrong(key("username"), username, "has a control character");
                }
                Some(Arc::new(RouteLogin { username: username.into(), password_file }))
            }
        }
    }
}

fn parse_via(text: &str) -> Result<Via, String> {
    let (scheme, rest) = text
        .split_once("://")
        .ok_or("not like smtp://[relay.example.net]:587 or smtp://example.net")?;
    let scheme = match scheme {
        "smtp" => ViaScheme::Smtp,
        "smtps" => ViaScheme::Smtps,
        "lmtp" => return Err("this version does not speak lmtp".into()),
        _ => return Err("the scheme is neither smtp nor smtps".into()),
    };
    let (host, port, lookup) = match rest.strip_prefix('[').and_then(|r| r.split_once(']')) {
        Some((host, port)) => (host, port, ViaLookup::Address),
        None => {
            let colon = rest.find(':').unwrap_or(rest.len());
            let (host, port) = rest.split_at_checked(colon).unwrap_or((rest, ""));
            (host, port, ViaLookup::Mx)
        }
    };
    let host = match (host.parse::<IpAddr>(), lookup) {
        (Ok(address), ViaLookup::Address) => Domain::Literal(address),
        (Ok(_), ViaLookup::Mx) => return Err("write an address in brackets".into()),
        (Err(_), _) => Domain::Name(HostName::parse(host).map_err(|error| error.to_string())?),
    };
    let port = match port.strip_prefix(':') {
        Some(port) => port.parse().ok().filter(|port| *port != 0).ok_or("not a port")?,
        None if port.is_empty() => scheme.port(),
        None => return Err("only :PORT may follow the brackets".into()),
    };
    Ok(Via { scheme, host, port, lookup })
}
