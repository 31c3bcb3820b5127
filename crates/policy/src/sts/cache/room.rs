//! Which policies are evicted when the cache is full? Never one that mail hangs on, and never one
//! because of what a stranger did: who can make us send to many names chooses neither whom we
//! forget nor whom we do not get to know.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use smtp::HostName;

/// For how much a policy counts.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Use {
    /// It does not hold (any more).
    Nothing,
    /// It holds and binds nobody: `none` and `testing`.
    Watched,
    /// It binds, and mail asked for it on one day.
    Once,
    /// Mail asked for it on two days.
    Regular,
}

/// One stored policy, as far as it matters for which of too many go.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Tenant {
    /// The policy domain, the key of its row.
    pub domain: HostName,
    /// Its registrable domain: whose policy it is, as far as names say.
    pub registrable: HostName,
    /// For how much it counts.
    pub usage: Use,
    /// When mail asked last.
    pub last_used_at: Timestamp,
}

/// What is to be done about too many policies.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Surplus {
    /// These go, in this order, with for how much each counted: meanwhile it may count for more.
    pub go: Vec<(HostName, Use)>,
    /// After that, so many are too many still: who is new stays a first contact.
    pub excess: usize,
}

/// Which domains to evict so that at most `max` stay, and first contacts hold nine tenths of that
/// at most. None with mail: `has_mail` is asked last, about those alone that would go.
///
/// What does not bind goes first, by when it was used; then what was used once, from whoever has
/// most of these. What is used regularly stays.
pub fn surplus(
    tenants: Vec<Tenant>,
    max: usize,
    mut has_mail: impl FnMut(&HostName) -> bool,
) -> Surplus {
    let is_stranger = |tenant: &Tenant| tenant.usage < Use::Regular;
    let strangers = tenants.iter().filter(|tenant| is_stranger(tenant)).count();
    let for_strangers = max - max / 10;
    let mut excess = tenants.len().saturating_sub(max).max(strangers.saturating_sub(for_strangers));
    let mut go = Vec::new();
    if excess == 0 {
        return Surplus { go, excess };
    }
    let (mut idle, mut once) = (Vec::new(), BTreeMap::<HostName, BTreeSet<_>>::new());
    for tenant in tenants {
        match tenant.usage {
            Use::Nothing | Use::Watched => {
                idle.push((tenant.usage, tenant.last_used_at, tenant.domain));
            }
            Use::Once => {
                let of = once.entry(tenant.registrable).or_default();
                of.insert((tenant.last_used_at, tenant.domain));
            }
            Use::Regular => {}
        }
    }
    idle.sort_unstable();
    let mut offer = |domain: HostName, usage, excess: &mut usize| {
        if !has_mail(&domain) {
            go.push((domain, usage));
            *excess -= 1;
        }
    };
    for (usage, _, domain) in idle {
        if excess == 0 {
            break;
        }
        offer(domain, usage, &mut excess);
    }
    // By how many they are, the most last; of as many, whose first was used longest ago.
    let rank = |of: &BTreeSet<(Timestamp, HostName)>| {
        (of.len(), std::cmp::Reverse(of.first().map(|(at, _)| *at)))
    };
    let mut by_size: BTreeSet<_> = once.iter().map(|(name, of)| (rank(of), name.clone())).collect();
    while excess > 0
        && let Some((_, name)) = by_size.pop_last()
    {
        let Some(of) = once.get_mut(&name) else { continue };
        let Some((_, domain)) = of.pop_first() else { continue };
        if !of.is_empty() {
            by_size.insert((rank(of), name));
        }
        offer(domain, Use::Once, &mut excess);
    }
    Surplus { go, excess }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> HostName {
        HostName::parse(text).unwrap()
    }

    fn tenant(domain: &str, registrable: &str, usage: Use, used: i64) -> Tenant {
        let last_used_at = Timestamp::from_second(used).unwrap();
        Tenant { domain: name(domain), registrable: name(registrable), usage, last_used_at }
    }

    fn gone(tenants: &[Tenant], max: usize, mail: &[&str]) -> (Vec<String>, usize) {
        let has_mail = |domain: &HostName| mail.contains(&domain.as_str());
        let Surplus { go, excess } = surplus(tenants.to_vec(), max, has_mail);
        (go.iter().map(|(domain, _)| domain.to_string()).collect(), excess)
    }

    #[test]
    fn what_binds_nobody_goes_first_then_the_many_of_one_owner_and_never_who_has_mail() {
        let tenants = [
            tenant("victim.test", "victim.test", Use::Once, 1),
            tenant("regular.test", "regular.test", Use::Regular, 0),
            tenant("a.evil.test", "evil.test", Use::Once, 9),
            tenant("b.evil.test", "evil.test", Use::Once, 8),
            tenant("c.evil.test", "evil.test", Use::Once, 7),
            tenant("testing.test", "testing.test", Use::Watched, 99),
            tenant("over.test", "over.test", Use::Nothing, 100),
        ];
        let go = ["over.test", "testing.test", "c.evil.test", "b.evil.test", "victim.test"];
        for count in 0..=go.len() {
            let (gone, excess) = gone(&tenants, 7 - count, &[]);
            // A tenth is not for strangers, which counts from ten on.
            assert_eq!((&*gone, excess), (&go.map(String::from)[..count], 0), "{count}");
        }
        let with_mail = gone(&tenants, 3, &["over.test", "c.evil.test"]);
        let want = ["testing.test", "b.evil.test", "victim.test", "a.evil.test"];
        assert_eq!(with_mail, (want.map(String::from).to_vec(), 0));
        let all = ["over.test", "victim.test", "a.evil.test", "b.evil.test", "c.evil.test"];
        assert_eq!(gone(&tenants, 3, &all), (vec!["testing.test".to_owned()], 3));
    }

    #[test]
    fn strangers_leave_a_tenth_free_for_those_who_get_mail_again() {
        let tenants: Vec<_> = (0..100)
            .map(|n| tenant(&format!("d{n:02}.evil.test"), "evil.test", Use::Once, n))
            .collect();
        let (gone, excess) = gone(&tenants, 100, &[]);
        assert_eq!((gone.len(), excess), (10, 0));
        assert_eq!(gone[0], "d00.evil.test", "the one that was used longest ago");
    }
}
