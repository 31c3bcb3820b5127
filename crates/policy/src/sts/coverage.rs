//! Which MX hosts does a policy leave out, and what has to be added? (RFC 8461 §4.1)

use smtp::HostName;

use super::meant::mx_fault;
use super::mx_pattern::MxPattern;

/// Why a pattern does not cover a host that it was probably meant for; nothing, if it has nothing
/// to do with it.
///
/// ```
/// use policy::sts::{MxPattern, coverage};
/// use smtp::HostName;
/// let pattern = MxPattern::parse("*.mx.microsoft")?;
/// let host = HostName::parse("a-test.h-v1.mx.microsoft")?;
/// assert!(coverage::near_miss(&pattern, &host).is_some());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn near_miss(pattern: &MxPattern, host: &HostName) -> Option<String> {
    let (MxPattern::Exact(name) | MxPattern::AnyLabelUnder(name)) = pattern;
    if pattern.matches(host) || !host.is_at_or_below(name) {
        return None;
    }
    Some(match pattern {
        MxPattern::Exact(_) => format!("{pattern} covers that one name only"),
        MxPattern::AnyLabelUnder(name) if name == host => {
            format!("{pattern} covers names below {name}, not {name} itself")
        }
        MxPattern::AnyLabelUnder(name) => {
            let more = host.labels().count().saturating_sub(name.labels().count());
            format!("the star of {pattern} stands for exactly one label, {host} has {more} there")
        }
    })
}

/// What is wrong with an `mx` value that [`MxPattern::parse`] refuses, by its character, and what
/// to write instead.
///
/// ```
/// assert!(policy::sts::coverage::fault("10 mx.a.test").contains("it has a blank"));
/// ```
pub fn fault(value: &str) -> String {
    mx_fault(value)
}

/// The `mx` values that a policy for this host needs: those of the mail provider that it belongs
/// to, else its name.
///
/// ```
/// use policy::sts::coverage;
/// use smtp::HostName;
/// let host = HostName::parse("a-test.mail.protection.outlook.com")?;
/// assert_eq!(coverage::values_for(&host).mx, ["*.mail.protection.outlook.com"]);
/// # Ok::<(), smtp::HostNameError>(())
/// ```
pub fn values_for(host: &HostName) -> MxValues {
    let own = |mx| MxValues { provider: None, mx };
    let Some(provider) = PROVIDERS.iter().find(|provider| provider.has(host)) else {
        return own(vec![host.to_string()]);
    };
    let below = host.parent().map(|parent| parent.to_string()).unwrap_or_default();
    let mx: Vec<String> =
        provider.mx.iter().map(|pattern| pattern.replace("PARENT", &below)).collect();
    let covers = |text: &String| MxPattern::parse(text).is_ok_and(|pattern| pattern.matches(host));
    // A host that the provider has since we looked.
    if mx.iter().any(covers) {
        MxValues { provider: Some(provider.name), mx }
    } else {
        own(vec![host.to_string()])
    }
}

/// The `mx` values of a policy for one host.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MxValues {
    /// Whose hosts these are.
    pub provider: Option<&'static str>,
    /// MxValues of `mx`; at least one.
    pub mx: Vec<String>,
}

/// A mail provider, and what its customers publish.
struct Provider {
    name: &'static str,
    /// All hosts below these domains are its.
    domains: &'static [&'static str],
    /// `PARENT` stands for the host without its first label.
    mx: &'static [&'static str],
}

impl Provider {
    fn has(&self, host: &HostName) -> bool {
        let is_below =
            |domain: &&str| HostName::parse(domain).is_ok_and(|d| host.is_at_or_below(&d));
        self.domains.iter().any(is_below)
    }
}

/// As their customers publish them (seen in 2026).
const PROVIDERS: &[Provider] = &[
    Provider { name: "Google Workspace", domains: &["smtp.google.com"], mx: &["smtp.google.com"] },
    Provider {
        name: "Google Workspace",
        domains: &["aspmx.l.google.com", "googlemail.com"],
        mx: &["aspmx.l.google.com", "*.aspmx.l.google.com", "*.googlemail.com"],
    },
    Provider {
        name: "Microsoft 365",
        domains: &["mail.protection.outlook.com"],
        mx: &["*.mail.protection.outlook.com"],
    },
    Provider { name: "Microsoft 365", domains: &["mx.microsoft"], mx: &["*.PARENT"] },
    Provider {
        name: "Proton Mail",
        domains: &["protonmail.ch"],
        mx: &["mail.protonmail.ch", "mailsec.protonmail.ch"],
    },
    Provider {
        name: "Fastmail",
        domains: &["messagingengine.com"],
        mx: &["in1-smtp.messagingengine.com", "in2-smtp.messagingengine.com"],
    },
    Provider {
        name: "iCloud Mail",
        domains: &["mail.icloud.com"],
        mx: &["mx01.mail.icloud.com", "mx02.mail.icloud.com"],
    },
    Provider {
        name: "Cloudflare Email Routing",
        domains: &["mx.cloudflare.net"],
        mx: &["*.mx.cloudflare.net"],
    },
    Provider {
        name: "Zoho Mail",
        domains: &["zoho.com", "zoho.eu"],
        mx: &["mx.PARENT", "mx2.PARENT", "mx3.PARENT"],
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors::{self, VectorRow};

    fn host(text: &str) -> HostName {
        HostName::parse(text).unwrap()
    }

    #[test]
    fn a_star_for_too_many_labels_is_explained() {
        for (pattern, name, want) in [
            ("*.mx.microsoft", "a-test.h-v1.mx.microsoft", Some("has 2 there")),
            ("*.google.com", "alt1.aspmx.l.google.com", Some("has 3 there")),
            ("*.a.test", "a.test", Some("not a.test itself")),
            ("a.test", "mx.a.test", Some("one name only")),
            ("*.a.test", "mx.a.test", None),
            ("mx.a.test", "mx.b.test", None),
            ("*.a.test", "mx.ba.test", None),
        ] {
            let got = near_miss(&MxPattern::parse(pattern).unwrap(), &host(name));
            assert_eq!(got.is_some(), want.is_some(), "{pattern} {name}: {got:?}");
            assert!(got.unwrap_or_default().contains(want.unwrap_or_default()), "{pattern} {name}");
        }
    }

    #[test]
    fn what_people_publish_and_its_hosts_are_judged_as_listed() {
        let mut seen = 0;
        for VectorRow { id, cells } in vectors::rows("wild.tsv") {
            let [kind, input, applied, _, said] = &cells[..] else { panic!("{id}: {cells:?}") };
            let Some((name, patterns)) = input.split_once(" vs ").filter(|_| kind == "match")
            else {
                continue;
            };
            seen += 1;
            let name = host(name);
            let patterns: Vec<_> =
                patterns.split(' ').map(|text| MxPattern::parse(text).unwrap()).collect();
            let verdict = if patterns.iter().any(|p| p.matches(&name)) { "yes" } else { "no" };
            assert_eq!(verdict, applied, "{id}");
            let misses: Vec<_> = patterns.iter().filter_map(|p| near_miss(p, &name)).collect();
            assert!(misses.join("; ").contains(said), "{id}: {misses:?}");
        }
        assert!(seen >= 2);
    }

    #[test]
    fn what_is_proposed_for_a_host_covers_it() {
        for (name, provider, mx) in [
            ("smtp.google.com", Some("Google Workspace"), "smtp.google.com"),
            ("alt1.aspmx.l.google.com", Some("Google Workspace"), "*.aspmx.l.google.com"),
            ("aspmx2.googlemail.com", Some("Google Workspace"), "*.googlemail.com"),
            (
                "a-test.mail.protection.outlook.com",
                Some("Microsoft 365"),
                "*.mail.protection.outlook.com",
            ),
            ("a-test.h-v1.mx.microsoft", Some("Microsoft 365"), "*.h-v1.mx.microsoft"),
            ("mailsec.protonmail.ch", Some("Proton Mail"), "mailsec.protonmail.ch"),
            ("mx2.zoho.eu", Some("Zoho Mail"), "mx2.zoho.eu"),
            ("route3.mx.cloudflare.net", Some("Cloudflare Email Routing"), "*.mx.cloudflare.net"),
            ("mx9.mail.icloud.com", None, "mx9.mail.icloud.com"),
            ("mx.a.test", None, "mx.a.test"),
            ("zoho.eu", None, "zoho.eu"),
        ] {
            let values = values_for(&host(name));
            assert_eq!(values.provider, provider, "{name}");
            assert!(values.mx.iter().any(|value| value == mx), "{name}: {values:?}");
            let covers = |value: &String| MxPattern::parse(value).unwrap().matches(&host(name));
            assert!(values.mx.iter().any(covers), "{name}: {values:?}");
        }
    }
}
