//! Which addresses are worth trying first? What earlier attempts learnt, for a while and in bounds.
//!
//! It only ever changes the order: what seems dead is tried last, not never.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use moka::sync::Cache;
use smtp::Domain;

/// architecture.md: an address or family that does not answer is tried last for this long.
const DEAD_FOR: Duration = Duration::from_secs(10 * 60);
/// architecture.md: a host is reached over the same family for this long, since greylists know us by our
/// address.
const FAMILY_FOR: Duration = Duration::from_secs(24 * 60 * 60);
/// Ours: dead addresses in memory; a few hundred octets each. What is dropped is tried once more.
const DEAD_MAX: u64 = 10_000;
/// Ours: hosts whose family is remembered.
const HOSTS_MAX: u64 = 10_000;
/// Ours: after so many addresses of a family in a row that did not answer, it is the family.
const STRIKES_MAX: u32 = 8;

/// An address family.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of `ip`.
    pub(crate) fn of(ip: IpAddr) -> Self {
        if ip.is_ipv6() { Self::V6 } else { Self::V4 }
    }
}

/// How TCP did not come about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum DeadEnd {
    /// Somebody there said no.
    Refused,
    /// Nobody answered.
    Silent,
    /// There is no way to addresses of this family from here.
    NoRoute,
}

/// What is known of addresses.
#[derive(Debug)]
pub(crate) struct AddressMemory {
    dead: Cache<SocketAddr, ()>,
    dead_families: Cache<Family, ()>,
    /// Addresses in a row that did not answer: IPv4, IPv6.
    strikes: [AtomicU32; 2],
    families: Cache<Domain, Family>,
}

impl Default for AddressMemory {
    fn default() -> Self {
        let dead = Cache::builder().max_capacity(DEAD_MAX).time_to_live(DEAD_FOR).build();
        let dead_families = Cache::builder().max_capacity(2).time_to_live(DEAD_FOR).build();
        let families = Cache::builder().max_capacity(HOSTS_MAX).time_to_live(FAMILY_FOR).build();
        Self { dead, dead_families, strikes: Default::default(), families }
    }
}

impl AddressMemory {
    /// Puts `addresses` of `host` into the order in which they are tried: the family that worked before
    /// what did not answer lately, else as DNS gave them.
    pub(crate) fn sort(&self, host: &Domain, addresses: &mut [SocketAddr]) {
        let known = self.families.get(host);
        addresses.sort_by_key(|address| {
            let family = Family::of(address.ip());
            let is_silent =
                self.dead.contains_key(address) || self.dead_families.contains_key(&family);
            (is_silent, known.is_some_and(|known| known != family))
        });
    }

    /// TCP to `address` did not come about.
    pub(crate) fn failed(&self, address: SocketAddr, how: DeadEnd) {
        let family = Family::of(address.ip());
        self.dead.insert(address, ());
        let is_family = match how {
            DeadEnd::Refused => false,
            DeadEnd::Silent => {
                let before = self.strikes(family).fetch_add(1, Ordering::Relaxed);
                before.saturating_add(1) >= STRIKES_MAX
            }
            DeadEnd::NoRoute => true,
        };
        if is_family {
            self.dead_families.insert(family, ());
        }
    }

    /// TCP to `address` came about.
    pub(crate) fn connected(&self, address: SocketAddr) {
        let family = Family::of(address.ip());
        self.strikes(family).store(0, Ordering::Relaxed);
        self.dead.invalidate(&address);
        self.dead_families.invalidate(&family);
    }

    /// From now on `host` is reached over `family`.
    pub(crate) fn prefer(&self, host: &Domain, family: Family) {
        self.families.insert(host.clone(), family);
    }

    fn strikes(&self, family: Family) -> &AtomicU32 {
        let [v4, v6] = &self.strikes;
        match family {
            Family::V4 => v4,
            Family::V6 => v6,
        }
    }
}

#[cfg(test)]
mod tests {
    use smtp::HostName;

    use super::*;

    fn host() -> Domain {
        Domain::Name(HostName::parse("mx.example.org").unwrap())
    }

    fn sorted(memory: &AddressMemory, addresses: &[&str]) -> Vec<String> {
        let mut parsed: Vec<SocketAddr> = addresses.iter().map(|a| a.parse().unwrap()).collect();
        memory.sort(&host(), &mut parsed);
        parsed.iter().map(ToString::to_string).collect()
    }

    const SIX: &str = "[2001:db8::1]:25";
    const OTHER_SIX: &str = "[2001:db8::2]:25";
    const FOUR: &str = "192.0.2.1:25";
    const OTHER_FOUR: &str = "192.0.2.2:25";

    #[test]
    fn what_does_not_answer_is_tried_last_and_the_family_that_worked_first() {
        let all = [SIX, FOUR, OTHER_SIX, OTHER_FOUR];
        let memory = AddressMemory::default();
        assert_eq!(sorted(&memory, &all), all, "nothing is known");
        memory.failed(SIX.parse().unwrap(), DeadEnd::Silent);
        assert_eq!(sorted(&memory, &all), [FOUR, OTHER_SIX, OTHER_FOUR, SIX]);
        memory.prefer(&host(), Family::V4);
        assert_eq!(sorted(&memory, &all), [FOUR, OTHER_FOUR, OTHER_SIX, SIX]);
        memory.failed(FOUR.parse().unwrap(), DeadEnd::Refused);
        memory.failed(OTHER_FOUR.parse().unwrap(), DeadEnd::Silent);
        assert_eq!(sorted(&memory, &all), [OTHER_SIX, FOUR, OTHER_FOUR, SIX], "last, not never");
        memory.connected(FOUR.parse().unwrap());
        assert_eq!(sorted(&memory, &all), [FOUR, OTHER_SIX, OTHER_FOUR, SIX]);
    }

    #[test]
    fn a_family_without_a_way_out_is_last_until_one_of_its_addresses_answers() {
        let memory = AddressMemory::default();
        memory.failed(SIX.parse().unwrap(), DeadEnd::NoRoute);
        assert_eq!(sorted(&memory, &[OTHER_SIX, FOUR]), [FOUR, OTHER_SIX]);
        memory.connected("[2001:db8::3]:25".parse().unwrap());
        assert_eq!(sorted(&memory, &[OTHER_SIX, FOUR]), [OTHER_SIX, FOUR]);

        for last in 0..STRIKES_MAX {
            let address = format!("[2001:db8::dead:{last}]:25").parse().unwrap();
            assert_eq!(sorted(&memory, &[OTHER_SIX, FOUR]), [OTHER_SIX, FOUR], "{last}");
            memory.failed(address, DeadEnd::Silent);
        }
        assert_eq!(sorted(&memory, &[OTHER_SIX, FOUR]), [FOUR, OTHER_SIX]);
    }
}
