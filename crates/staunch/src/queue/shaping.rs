//! How much may a lane do at once, how often, and may it do anything?

use std::collections::HashSet;
use std::time::Duration;

use smtp::HostName;
use spool::LaneKey;

use super::lanes::Shares;
use crate::config::{Config, Limit, most_specific};
use crate::delivery::route;

/// Of `limits.memory`, what jobs take that wait for their attempt: one of so many parts. Their
/// bodies are counted there, too.
const READY_SHARE: u64 = 4;
/// What `messages_per_minute` is about.
const MINUTE: Duration = Duration::from_secs(60);

/// How many attempts may run at once.
#[derive(Clone, Debug, Default)]
pub(crate) struct ShapingLimits {
    /// In one lane, once it is known to work (`delivery.connections_per_domain`).
    pub(crate) per_lane: u32,
    /// In all lanes (`delivery.connections`).
    pub(crate) total: u32,
    /// For one registrable domain that took mail (`delivery.connections_per_site`).
    pub(crate) per_site: u32,
    /// Octets of jobs that all lanes together keep in memory.
    pub(crate) ready: u64,
    /// What some domains have instead.
    pub(crate) limits: Vec<Limit>,
}

/// What one lane keeps to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Shape {
    /// Attempts that may run at once.
    pub(crate) most: u32,
    /// From the beginning of one to that of the next.
    pub(crate) interval: Option<Duration>,
}

impl From<&Config> for ShapingLimits {
    fn from(config: &Config) -> Self {
        Self {
            per_lane: count(config.delivery.connections_per_domain),
            total: count(config.delivery.connections),
            per_site: count(config.delivery.connections_per_site),
            ready: config.limits.memory / READY_SHARE,
            limits: config.outbound_limits.clone(),
        }
    }
}

impl ShapingLimits {
    /// How the places are shared.
    pub(super) fn shares(&self) -> Shares {
        Shares { total: self.total, proven_group: self.per_site }
    }

    /// What `lane` keeps to. Lanes of routes are not named after a domain, so no limit is about
    /// them.
    pub(crate) fn of(&self, lane: &LaneKey) -> Shape {
        let domain = route::domain_of(lane);
        let limit = domain.and_then(|domain| domain_limit(&self.limits, &domain));
        let per_minute = limit.and_then(|limit| limit.messages_per_minute).map(count);
        Shape {
            most: limit.and_then(|limit| limit.connections).map_or(self.per_lane, count),
            interval: per_minute.and_then(|n| MINUTE.checked_div(n)),
        }
    }
}

/// May anything start in a lane, as far as the operator is concerned?
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Gate {
    /// What is due may start.
    Open,
    /// The lane is paused.
    Closed,
}

/// What the operator has stopped: nothing starts there, but all of it may arrive.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) enum Pause {
    /// Nothing is stopped anywhere.
    #[default]
    None,
    /// Nothing starts in these lanes.
    Lanes(HashSet<LaneKey>),
    /// Nothing starts in any lane.
    All,
}

impl Pause {
    /// What it means for `key`.
    pub(super) fn gate(&self, key: &LaneKey) -> Gate {
        match self {
            Self::None => Gate::Open,
            Self::Lanes(lanes) if lanes.contains(key) => Gate::Closed,
            Self::Lanes(_) => Gate::Open,
            Self::All => Gate::Closed,
        }
    }
}

/// The limit for mail to `domain`, if one is about it.
pub(crate) fn domain_limit<'a>(limits: &'a [Limit], domain: &HostName) -> Option<&'a Limit> {
    most_specific(limits, |limit| limit.domains.as_slice(), domain)
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::DomainPattern;

    #[test]
    fn a_domain_has_its_closest_limit_and_a_route_none() {
        let limit = |index, domain: &str, connections, messages_per_minute| Limit {
            index,
            domains: vec![DomainPattern::parse(domain).unwrap()],
            mx: Vec::new(),
            connections,
            messages_per_minute,
        };
        let limits = vec![limit(0, "*.slow.test", Some(2), None), limit(1, "*", None, Some(30))];
        let limits = ShapingLimits { per_lane: 20, total: 100, limits, ..ShapingLimits::default() };
        let interval = Some(Duration::from_secs(2));
        for (lane, want) in [
            ("a.slow.test", Shape { most: 2, interval: None }),
            ("slow.test", Shape { most: 20, interval }),
            ("slow.test requiretls", Shape { most: 20, interval }),
            ("via smtp://[a.slow.test]:25 tls=verify", Shape { most: 20, interval: None }),
        ] {
            assert_eq!(limits.of(&LaneKey::new(lane)), want, "{lane}");
        }
    }
}
