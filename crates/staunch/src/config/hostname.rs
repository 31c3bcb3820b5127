//! What we call ourselves (RFC 5321 §2.3.5, §4.1.1.1).

use std::fmt;
use std::net::IpAddr;

use smtp::{Domain, HostName, HostNameError};

/// Our name, and whether others can make anything of it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Hostname {
    domain: Domain,
    complaint: Option<&'static str>,
}

impl Hostname {
    /// Takes a name, or an address (plain or as `[192.0.2.1]`), which is accepted under protest.
    ///
    /// # Errors
    ///
    /// As [`HostName::parse`].
    pub(crate) fn parse(text: &str) -> Result<Self, HostNameError> {
        let inner = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
        if let Ok(address) = inner.strip_prefix("IPv6:").unwrap_or(inner).parse() {
            let complaint = Some("is an address, not a name");
            return Ok(Self { domain: Domain::Literal(address), complaint });
        }
        let name = HostName::parse(text)?;
        let complaint = complain(&name);
        Ok(Self { domain: Domain::Name(name), complaint })
    }

    /// The name, if it is one.
    pub(crate) fn name(&self) -> Option<&HostName> {
        self.domain.name()
    }

    /// What stands behind an `@` or in Received: the name, or an address literal.
    pub(crate) fn domain(&self) -> &Domain {
        &self.domain
    }

    /// Why peers may refuse us for it; `None` for a name that looks public.
    pub(crate) fn complaint(&self) -> Option<&'static str> {
        self.complaint
    }

    /// What EHLO says from `local`: the name, or the address literal where the name says nothing to
    /// others (RFC 5321 §4.1.4).
    pub(crate) fn ehlo_name(&self, local: IpAddr) -> Domain {
        match self.complaint {
            None => self.domain.clone(),
            Some(_) => Domain::Literal(local.to_canonical()),
        }
    }
}

impl fmt::Display for Hostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.domain.fmt(f)
    }
}

fn complain(name: &HostName) -> Option<&'static str> {
    let text = name.as_str();
    let last = text.rsplit('.').next().unwrap_or_default();
    if last == "localhost" || text.starts_with("localhost.") {
        Some("is localhost, which is everybody's name")
    } else if !text.contains('.') {
        Some("has no dot: not a name that others can look up")
    } else if matches!(last, "local" | "localdomain") {
        Some("ends in a name that exists only locally")
    } else {
        None
    }
}

/// The name of this system, found without NSS (which a static binary does not have): the node name,
/// completed from the texts of `/etc/hosts` and `/etc/resolv.conf` if it has no dot.
pub(super) fn of_system(node_name: &str, hosts: &str, resolv_conf: &str) -> String {
    if node_name.contains('.') {
        return node_name.to_owned();
    }
    from_hosts(node_name, hosts)
        .or_else(|| from_search(node_name, resolv_conf))
        .unwrap_or_else(|| node_name.to_owned())
}

fn without_comment(line: &str) -> &str {
    line.split('#').next().unwrap_or_default()
}

/// The first dotted name of the first line that names this node.
fn from_hosts(node_name: &str, hosts: &str) -> Option<String> {
    hosts.lines().map(without_comment).find_map(|line| {
        let names = || line.split_ascii_whitespace().skip(1);
        let ours = names().any(|name| name.eq_ignore_ascii_case(node_name));
        names().find(|name| ours && name.contains('.')).map(str::to_owned)
    })
}

fn from_search(node_name: &str, resolv_conf: &str) -> Option<String> {
    let mut searched = resolv_conf.lines().map(without_comment).filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        matches!(words.next()?, "search" | "domain").then(|| words.next()).flatten()
    });
    // The last such line is the one that counts, as in resolv.conf(5).
    let domain = searched.next_back()?.trim_matches('.');
    (!domain.is_empty()).then(|| format!("{node_name}.{domain}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_says_nothing_to_others_becomes_an_address_literal() {
        let cases = [
            ("relay.example.net", "relay.example.net", "relay.example.net"),
            ("relay", "relay", "[192.0.2.1]"),
            ("localhost", "localhost", "[192.0.2.1]"),
            ("localhost.localdomain", "localhost.localdomain", "[192.0.2.1]"),
            ("relay.local", "relay.local", "[192.0.2.1]"),
            ("198.51.100.7", "[198.51.100.7]", "[192.0.2.1]"),
            ("[IPv6:2001:db8::1]", "[IPv6:2001:db8::1]", "[192.0.2.1]"),
        ];
        for (text, shown, ehlo) in cases {
            let hostname = Hostname::parse(text).unwrap();
            assert_eq!(hostname.to_string(), shown, "{text}");
            assert_eq!(hostname.ehlo_name([192, 0, 2, 1].into()).to_string(), ehlo, "{text}");
            assert_eq!(hostname.complaint().is_none(), shown == ehlo, "{text}");
        }
        assert_eq!(Hostname::parse("a b"), Err(HostNameError::BadCharacter));
    }

    #[test]
    fn a_node_name_is_completed_from_hosts_then_from_the_search_list() {
        let hosts = "127.0.0.1 localhost\n127.0.1.1\tbox.example.net box # ours\n";
        let cases = [
            ("relay.example.org", hosts, "search x.example", "relay.example.org"),
            ("box", hosts, "search x.example", "box.example.net"),
            ("box", "127.0.1.1 box\n", "search x.example y.example\n", "box.x.example"),
            ("box", "", "# search no.example\ndomain x.example.\n", "box.x.example"),
            ("box", "", "search .\n", "box"),
            ("box", "", "", "box"),
        ];
        for (node, hosts, resolv, want) in cases {
            assert_eq!(of_system(node, hosts, resolv), want);
        }
    }
}
