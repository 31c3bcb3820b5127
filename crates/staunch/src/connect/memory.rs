//! Which addresses are worth trying first? What earlier attempts learnt, for a while and in bounds.
//!
//! It only ever changes the order: what seems dead is tried last, not never. What is learnt at one
//! host changes nothing for others: anybody can name dead addresses, and many of them, in a zone of
//! their own.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use moka::sync::Cache;
use smtp::Domain;

/// Our choice: an address or family that does not answer is tried last for this long.
const DEAD_FOR: Duration = Duration::from_secs(10 * 60);
/// Our choice: a host is reached over the same family for this long, since greylists know us
/// by our address.
const FAMILY_FOR: Duration = Duration::from_secs(24 * 60 * 60);
/// Our choice: dead addresses in memory; a few hundred octets each. What is dropped is tried once
/// more.
const DEAD_MAX: u64 = 10_000;
/// Our choice: hosts whose family is remembered.
const HOSTS_MAX: u64 = 10_000;
/// Our choice: addresses of one host that are tried; RFC 5321 §5.1 wants at least two.
pub(super) const ADDRESSES_TRIED_MAX: usize = 5;

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum AddressFamily {
    V4,
    V6,
}

impl AddressFamily {
    /// The family of `ip`.
    pub(crate) fn of(ip: IpAddr) -> Self {
        if ip.is_ipv6() { Self::V6 } else { Self::V4 }
    }
}

/// How TCP did not come about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum AddressDeadEnd {
    /// Somebody there said no.
    Refused,
    /// Nobody answered in time.
    Silent,
    /// There is no way to addresses of this family from here.
    NoRoute,
}

/// What is known of the addresses of hosts.
#[derive(Debug)]
pub(crate) struct AddressMemory {
    dead: Cache<(Domain, SocketAddr), ()>,
    /// There is no way to addresses of the family that the host has.
    dead_families: Cache<(Domain, AddressFamily), ()>,
    families: Cache<Domain, AddressFamily>,
}

impl Default for AddressMemory {
    fn default() -> Self {
        let dead = Cache::builder().max_capacity(DEAD_MAX).time_to_live(DEAD_FOR).build();
        let dead_families = Cache::builder().max_capacity(HOSTS_MAX).time_to_live(DEAD_FOR).build();
        let families = Cache::builder().max_capacity(HOSTS_MAX).time_to_live(FAMILY_FOR).build();
        Self { dead, dead_families, families }
    }
}

impl AddressMemory {
    /// Those of `addresses` of `host` that are tried, in order: what did not answer lately after
    /// what did or may, and of each the family that worked before, else as DNS gave them. Of each
    /// family that the host has at least one is among them: however many of the other there are,
    /// the one that works is not left out.
    pub(crate) fn choose(&self, host: &Domain, addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
        let mut chosen = addresses;
        let known = self.families.get(host);
        chosen.sort_by_cached_key(|address| {
            let family = AddressFamily::of(address.ip());
            let is_silent = self.dead.contains_key(&(host.clone(), *address))
                || self.dead_families.contains_key(&(host.clone(), family));
            (is_silent, known.is_some_and(|known| known != family))
        });
        let rest = chosen.split_off(chosen.len().min(ADDRESSES_TRIED_MAX));
        let family = |address: &SocketAddr| AddressFamily::of(address.ip());
        let has = |other: &&SocketAddr| !chosen.iter().any(|one| family(one) == family(other));
        if let (Some(missing), Some(last)) = (rest.iter().find(has).copied(), chosen.last_mut()) {
            *last = missing;
        }
        chosen
    }

    /// TCP to `address` of `host` did not come about.
    pub(crate) fn failed(&self, host: &Domain, address: SocketAddr, how: AddressDeadEnd) {
        self.dead.insert((host.clone(), address), ());
        match how {
            AddressDeadEnd::NoRoute => {
                self.dead_families.insert((host.clone(), AddressFamily::of(address.ip())), ());
            }
            AddressDeadEnd::Refused | AddressDeadEnd::Silent => {}
        }
    }

    /// TCP to `address` of `host` came about.
    pub(crate) fn connected(&self, host: &Domain, address: SocketAddr) {
        self.dead.invalidate(&(host.clone(), address));
        self.dead_families.invalidate(&(host.clone(), AddressFamily::of(address.ip())));
    }

    /// From now on `host` is reached over `family`.
    pub(crate) fn prefer(&self, host: &Domain, family: AddressFamily) {
        self.families.insert(host.clone(), family);
    }
}

#[cfg(test)]
mod tests {
    use smtp::HostName;

    use super::*;

    fn host() -> Domain {
        Domain::Name(HostName::parse("mx.example.org").unwrap())
    }

    fn of(memory: &AddressMemory, host: &Domain, addresses: &[&str]) -> Vec<String> {
        let parsed = addresses.iter().map(|a| a.parse().unwrap()).collect();
        memory.choose(host, parsed).iter().map(ToString::to_string).collect()
    }

    fn sorted(memory: &AddressMemory, addresses: &[&str]) -> Vec<String> {
        of(memory, &host(), addresses)
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
        memory.failed(&host(), SIX.parse().unwrap(), AddressDeadEnd::Silent);
        assert_eq!(sorted(&memory, &all), [FOUR, OTHER_SIX, OTHER_FOUR, SIX]);
        memory.prefer(&host(), AddressFamily::V4);
        assert_eq!(sorted(&memory, &all), [FOUR, OTHER_FOUR, OTHER_SIX, SIX]);
        memory.failed(&host(), FOUR.parse().unwrap(), AddressDeadEnd::Refused);
        memory.failed(&host(), OTHER_FOUR.parse().unwrap(), AddressDeadEnd::Silent);
        assert_eq!(sorted(&memory, &all), [OTHER_SIX, FOUR, OTHER_FOUR, SIX], "last, not never");
        memory.connected(&host(), FOUR.parse().unwrap());
        assert_eq!(sorted(&memory, &all), [FOUR, OTHER_SIX, OTHER_FOUR, SIX]);
    }

    #[test]
    fn a_family_without_a_way_out_is_last_until_one_of_its_addresses_answers() {
        let memory = AddressMemory::default();
        memory.failed(&host(), SIX.parse().unwrap(), AddressDeadEnd::NoRoute);
        assert_eq!(sorted(&memory, &[OTHER_SIX, FOUR]), [FOUR, OTHER_SIX]);
        memory.connected(&host(), "[2001:db8::3]:25".parse().unwrap());
        assert_eq!(sorted(&memory, &[OTHER_SIX, FOUR]), [OTHER_SIX, FOUR]);
    }

    /// Whoever names dead addresses in a zone of their own turns nobody else's order.
    #[test]
    fn what_is_dead_for_one_host_is_not_for_another() {
        let memory = AddressMemory::default();
        for last in 0..100 {
            let address = format!("[2001:db8::dead:{last}]:25").parse().unwrap();
            memory.failed(&host(), address, AddressDeadEnd::Silent);
        }
        memory.failed(&host(), SIX.parse().unwrap(), AddressDeadEnd::NoRoute);
        let other = Domain::Name(HostName::parse("mx.example.net").unwrap());
        assert_eq!(sorted(&memory, &[OTHER_SIX, FOUR]), [FOUR, OTHER_SIX]);
        assert_eq!(of(&memory, &other, &[SIX, FOUR]), [SIX, FOUR]);
    }

    #[test]
    fn the_family_that_works_is_tried_however_many_addresses_the_other_has() {
        let many: Vec<String> = (0..9).map(|last| format!("[2001:db8::{last}]:25")).collect();
        let mut all: Vec<&str> = many.iter().map(String::as_str).collect();
        all.push(FOUR);
        let memory = AddressMemory::default();
        let chosen = sorted(&memory, &all);
        assert_eq!((chosen.len(), chosen.last().unwrap().as_str()), (ADDRESSES_TRIED_MAX, FOUR));
        memory.prefer(&host(), AddressFamily::V4);
        assert_eq!(sorted(&memory, &all)[0], FOUR);
        memory.failed(&host(), FOUR.parse().unwrap(), AddressDeadEnd::Refused);
        let chosen = sorted(&memory, &all);
        assert_eq!((chosen.len(), chosen.last().unwrap().as_str()), (ADDRESSES_TRIED_MAX, FOUR));
        assert_eq!(sorted(&memory, &[FOUR, OTHER_FOUR]), [OTHER_FOUR, FOUR], "one family only");
    }
}
