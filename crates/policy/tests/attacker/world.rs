//! The attacker's world: what DNS says, what policy hosts serve, which certificate a mail host
//! shows.

use std::collections::BTreeMap;
use std::net::IpAddr;

use policy::sts::cache::{FetchFailure, FetchFailureKind, TxtAnswer};
use policy::sts::{Id, RecordError};
use smtp::{HostName, RemoteText};

pub(crate) type Dom = HostName;

/// Domains that an honest owner has: their bodies and certificates cannot be forged, only withheld.
/// One reads from right to left.
pub(crate) const HONEST: [&str; 5] =
    ["a.test", "xn--4dbrk0ce.test", "sub.c.test", "d.test", "e.test"];

pub(crate) fn name(text: &str) -> HostName {
    HostName::parse(text).unwrap()
}

/// What the TXT query gives.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Txt {
    Honest,
    None,
    Several,
    Fail,
    /// Another id than the honest one.
    Other,
}

/// Where the MX records lead.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Mx {
    Honest,
    Forged,
    /// A forged one behind the honest one.
    Both,
    Null,
    NxDomain,
    Fail,
}

/// What the policy host does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Site {
    Serve,
    Withhold,
}

/// What a mail host shows.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) enum Shown {
    Good,
    Plain,
    Untrusted,
    OtherName,
}

/// What an honest owner publishes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Body {
    Enforce { days: i64 },
    EnforceOther { days: i64 },
    Testing { days: i64 },
    None { days: i64 },
    Fleeting,
}

impl Body {
    pub(crate) fn text(self, domain: &Dom) -> String {
        let (mode, host, seconds) = match self {
            Self::Enforce { days } => ("enforce", "mx", days * 86_400),
            Self::EnforceOther { days } => ("enforce", "mx2", days * 86_400),
            Self::Testing { days } => ("testing", "mx", days * 86_400),
            Self::None { days } => ("none", "mx", days * 86_400),
            Self::Fleeting => ("enforce", "mx", 0),
        };
        format!("version: STSv1\nmode: {mode}\nmx: {host}.{domain}\nmax_age: {seconds}\n")
    }
}

/// One domain.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) txt: Txt,
    pub(crate) mx: Mx,
    pub(crate) site: Site,
    pub(crate) body: Body,
    /// Counts up whenever its owner publishes something else.
    pub(crate) version: u32,
    pub(crate) shown: Shown,
    pub(crate) forged_shown: Shown,
}

impl Default for Place {
    fn default() -> Self {
        Self {
            txt: Txt::Honest,
            mx: Mx::Honest,
            site: Site::Serve,
            body: Body::Enforce { days: 7 },
            version: 1,
            shown: Shown::Good,
            forged_shown: Shown::Plain,
        }
    }
}

/// All of them, by name; who is not named is as at first.
#[derive(Clone, Debug, Default)]
pub(crate) struct World(BTreeMap<Dom, Place>);

impl World {
    pub(crate) fn at(&mut self, domain: &Dom) -> &mut Place {
        self.0.entry(domain.clone()).or_default()
    }

    pub(crate) fn txt(&mut self, domain: &Dom) -> TxtAnswer {
        let place = self.at(domain);
        match place.txt {
            Txt::Honest => TxtAnswer::Usable(Id::parse(&format!("v{}", place.version)).unwrap()),
            Txt::Other => TxtAnswer::Usable(Id::parse("forged").unwrap()),
            Txt::None => TxtAnswer::Unusable(RecordError::NoRecord),
            Txt::Several => TxtAnswer::Unusable(RecordError::Several { count: 2 }),
            Txt::Fail => TxtAnswer::Failed(RemoteText::new("SERVFAIL")),
        }
    }

    pub(crate) fn fetch(&mut self, domain: &Dom) -> Result<String, FetchFailure> {
        let place = self.at(domain);
        match place.site {
            Site::Serve => Ok(place.body.text(domain)),
            Site::Withhold => {
                let text = RemoteText::new("timed out");
                Err(FetchFailure { kind: FetchFailureKind::Fetch, text })
            }
        }
    }

    /// Names in the order of preference.
    pub(crate) fn hosts(&mut self, domain: &Dom) -> Vec<HostName> {
        // Whatever it publishes now, its owner runs both.
        let honest = match self.at(domain).body {
            Body::EnforceOther { .. } => name(&format!("mx2.{domain}")),
            Body::Enforce { .. } | Body::Testing { .. } | Body::None { .. } | Body::Fleeting => {
                name(&format!("mx.{domain}"))
            }
        };
        let forged = name("mx.evil.test");
        match self.at(domain).mx {
            Mx::Honest => vec![honest],
            Mx::Forged => vec![forged],
            Mx::Both => vec![honest, forged],
            Mx::Null | Mx::NxDomain | Mx::Fail => Vec::new(),
        }
    }

    pub(crate) fn shown(&mut self, domain: &Dom, host: &HostName) -> Shown {
        let place = self.at(domain);
        if host.as_str() == "mx.evil.test" { place.forged_shown } else { place.shown }
    }
}

/// Where a policy host answers: each honest owner has an address of his own.
pub(crate) fn address(domain: &Dom) -> IpAddr {
    let index = HONEST.iter().position(|name| *name == domain.as_str());
    let last = index.map_or(200, |index| u8::try_from(index).unwrap() + 1);
    IpAddr::from([192, 0, 2, last])
}
