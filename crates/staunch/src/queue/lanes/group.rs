//! Lanes that belong together: those of one registrable domain.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use policy::registrable_domain;
use smtp::HostName;
use spool::LaneKey;

use crate::delivery::route;

/// The registrable domain of a next hop, or a route of the operator's. Whoever has a domain can
/// make as many names below it as they like, but has to pay for another one.
///
/// It is a number, not the name, since there is one for each lane. Two domains that share it share
/// their places, and nothing else.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) struct Group(u64);

impl Group {
    /// The group of `lane`: its registrable domain, or the name of its route.
    pub(crate) fn of(lane: &LaneKey) -> Self {
        match route::domain_of(lane) {
            Some(domain) => Self::of_host(&domain),
            None => Self::of_name(lane.as_str()),
        }
    }

    /// That of a host.
    pub(crate) fn of_host(host: &HostName) -> Self {
        Self::of_name(registrable_domain(host).as_str())
    }

    /// That of a registrable domain.
    pub(crate) fn of_name(name: &str) -> Self {
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        Self(hasher.finish())
    }
}
