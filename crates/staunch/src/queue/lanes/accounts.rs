//! How many places may whom have at once? Nested accounts over the places that all attempts share.
//!
//! A *place* is the right to make an attempt, from its first look-up to its last word. What
//! strangers may hold together leaves a part that is never lent to them, so nothing has to be taken
//! back from a host that has the content and is silent.

use std::collections::HashMap;

use super::group::Group;
use super::ring::Holds;
use crate::message::Submitter;

/// What is known of the next hop of an attempt.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum LaneClass {
    /// Its hosts or its registrable domain took mail lately, or the operator wrote it down.
    Proven,
    /// Nothing is known: it neither took mail lately nor failed.
    New,
    /// It failed the last time, or was slow.
    Troubled,
}

impl LaneClass {
    /// All, in the order in which they are served.
    pub(super) const ALL: [Self; 3] = [Self::Proven, Self::New, Self::Troubled];

    /// Its place in an array of one for each.
    pub(super) fn index(self) -> usize {
        match self {
            Self::Proven => 0,
            Self::New => 1,
            Self::Troubled => 2,
        }
    }

    /// Are its attempts charged to what strangers may hold together?
    pub(super) fn is_unproven(self) -> bool {
        match self {
            Self::Proven => false,
            Self::New | Self::Troubled => true,
        }
    }
}

/// How many places there are, and how large the parts are.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Shares {
    /// All places together (`delivery.connections`).
    pub(crate) total: u32,
    /// One registrable domain that took mail (`delivery.connections_per_site`).
    pub(crate) proven_group: u32,
}

impl Shares {
    /// New, in trouble and slow together: 60 %.
    pub(super) fn unproven(self) -> u32 {
        self.part(6)
    }

    /// New alone: 50 %, so that those who failed once have their turn, however many others are new.
    pub(super) fn strangers(self) -> u32 {
        self.part(5)
    }

    /// In trouble or slow: 30 %.
    pub(super) fn troubled(self) -> u32 {
        self.part(3)
    }

    /// One client of whoever may hold these places: 80 %, and one sender of it 60 %. What is left
    /// is for the others.
    pub(super) fn most(self, class: LaneClass) -> Most {
        let part = match class {
            LaneClass::Proven => return Most::ALL,
            LaneClass::New => self.unproven(),
            LaneClass::Troubled => self.troubled(),
        };
        let fifths = |count: u32| part.saturating_mul(count).div_ceil(5);
        Most { client: fifths(4), sender: fifths(3) }
    }

    /// One registrable domain of which nothing is known, or nothing good: 10 %.
    pub(super) fn unproven_group(self) -> u32 {
        self.part(1)
    }

    /// So many tenths, and at least one place.
    fn part(self, tenths: u32) -> u32 {
        let part = u64::from(self.total) * u64::from(tenths) / 10;
        u32::try_from(part).unwrap_or(u32::MAX).max(1)
    }
}

/// How many places one client may have, and one sender of it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Most {
    pub(super) client: u32,
    pub(super) sender: u32,
}

impl Most {
    /// As many as there are.
    pub(super) const ALL: Self = Self { client: u32::MAX, sender: u32::MAX };
}

/// Whom a place is charged to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Charge {
    /// The account of what is known of the next hop.
    pub(crate) class: LaneClass,
    /// The account of the registrable domain.
    pub(crate) group: Group,
    /// Whose mail is first in the lane.
    pub(crate) submitter: Submitter,
}

/// Who holds how many places.
#[derive(Debug)]
pub(super) struct Accounts {
    shares: Shares,
    /// Places that each class holds, by [`LaneClass::index`].
    held: [u32; 3],
    /// Proven and unproven, of each registrable domain that holds any.
    groups: HashMap<Group, [u32; 2]>,
}

impl Accounts {
    pub(super) fn new(shares: Shares) -> Self {
        Self { shares, held: [0; 3], groups: HashMap::new() }
    }

    /// Other shares from now on. What is held stays held.
    pub(super) fn set_shares(&mut self, shares: Shares) {
        self.shares = shares;
    }

    /// How many places one client and one sender may have in `class`.
    pub(super) fn most(&self, class: LaneClass) -> Most {
        self.shares.most(class)
    }

    /// Places that are held.
    pub(super) fn held(&self) -> u32 {
        self.held.iter().sum()
    }

    /// Places that are held by attempts of `class`.
    pub(super) fn held_by(&self, class: LaneClass) -> u32 {
        self.held.get(class.index()).copied().unwrap_or_default()
    }

    /// May an attempt of `class` begin, whichever its registrable domain?
    pub(super) fn has_room(&self, class: LaneClass) -> bool {
        let unproven = self.held_by(LaneClass::New) + self.held_by(LaneClass::Troubled);
        let in_all = self.held() < self.shares.total;
        let in_unproven = unproven < self.shares.unproven();
        match class {
            LaneClass::Proven => in_all,
            LaneClass::New => {
                in_all && in_unproven && self.held_by(LaneClass::New) < self.shares.strangers()
            }
            LaneClass::Troubled => {
                in_all && in_unproven && self.held_by(LaneClass::Troubled) < self.shares.troubled()
            }
        }
    }

    /// What `group` has of what it may have in `class`.
    pub(super) fn holds(&self, class: LaneClass, group: Group) -> Holds {
        let [proven, unproven] = self.groups.get(&group).copied().unwrap_or_default();
        let (held, most) = if class.is_unproven() {
            (unproven, self.shares.unproven_group())
        } else {
            (proven, self.shares.proven_group.max(1))
        };
        if held >= most {
            Holds::All
        } else if held == 0 {
            Holds::Nothing
        } else {
            Holds::Some
        }
    }

    /// One more place, whether there is room or not.
    pub(super) fn take(&mut self, charge: Charge) {
        if let Some(held) = self.held.get_mut(charge.class.index()) {
            *held += 1;
        }
        let [proven, unproven] = self.groups.entry(charge.group).or_default();
        *(if charge.class.is_unproven() { unproven } else { proven }) += 1;
    }

    /// One place less is held.
    pub(super) fn give_back(&mut self, charge: Charge) {
        if let Some(held) = self.held.get_mut(charge.class.index()) {
            *held = held.saturating_sub(1);
        }
        let Some([proven, unproven]) = self.groups.get_mut(&charge.group) else { return };
        let held = if charge.class.is_unproven() { &mut *unproven } else { &mut *proven };
        *held = held.saturating_sub(1);
        if *proven + *unproven == 0 {
            self.groups.remove(&charge.group);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn charge(class: LaneClass, group: &str) -> Charge {
        Charge { class, group: Group::of_name(group), submitter: Submitter::UNKNOWN }
    }

    fn accounts(total: u32) -> Accounts {
        Accounts::new(Shares { total, proven_group: 100 })
    }

    /// Which account keeps an attempt from its beginning?
    #[derive(Debug, PartialEq)]
    enum Full {
        Class,
        Group,
    }

    fn full(accounts: &Accounts, charge: Charge) -> Option<Full> {
        match (accounts.has_room(charge.class), accounts.holds(charge.class, charge.group)) {
            (false, _) => Some(Full::Class),
            (true, Holds::All) => Some(Full::Group),
            (true, Holds::Nothing | Holds::Some) => None,
        }
    }

    /// Takes places for registrable domains of their own until there is no more room.
    fn fill(accounts: &mut Accounts, class: LaneClass) -> u32 {
        let before = accounts.held();
        for number in 0..10_000 {
            let charge = charge(class, &format!("{class:?}{number}.test"));
            if full(accounts, charge).is_some() {
                break;
            }
            accounts.take(charge);
        }
        accounts.held() - before
    }

    #[test]
    fn strangers_leave_two_fifths_to_those_who_take_mail() {
        let mut accounts = accounts(500);
        assert_eq!(fill(&mut accounts, LaneClass::Troubled), 150);
        assert_eq!(fill(&mut accounts, LaneClass::New), 150);
        assert_eq!(fill(&mut accounts, LaneClass::Proven), 200);
        let mut accounts = self::accounts(500);
        assert_eq!(fill(&mut accounts, LaneClass::New), 250);
        assert_eq!(fill(&mut accounts, LaneClass::Troubled), 50, "they are part of the same");
        assert_eq!(fill(&mut accounts, LaneClass::New), 0);
        assert_eq!(fill(&mut accounts, LaneClass::Proven), 200);
    }

    #[test]
    fn one_registrable_domain_has_a_tenth_until_it_took_mail() {
        let mut accounts = accounts(500);
        let stranger = charge(LaneClass::New, "a.test");
        for _ in 0..50 {
            assert_eq!(full(&accounts, stranger), None);
            accounts.take(stranger);
        }
        assert_eq!(full(&accounts, stranger), Some(Full::Group));
        assert_eq!(full(&accounts, charge(LaneClass::Troubled, "a.test")), Some(Full::Group));
        assert_eq!(full(&accounts, charge(LaneClass::New, "b.test")), None);
        assert_eq!(full(&accounts, charge(LaneClass::Proven, "a.test")), None);
        accounts.give_back(stranger);
        assert_eq!(full(&accounts, stranger), None);
    }

    #[test]
    fn whoever_is_served_has_at_least_one_place() {
        for total in 1..20 {
            for class in LaneClass::ALL {
                let mut accounts = accounts(total);
                let held = fill(&mut accounts, class);
                assert!(held >= 1 && held <= total, "{class:?}: {held} of {total}");
            }
            let mut accounts = accounts(total);
            fill(&mut accounts, LaneClass::New);
            let left = fill(&mut accounts, LaneClass::Proven);
            assert_eq!(left > 0, total > 1, "of {total} one is never lent to strangers");
        }
    }

    #[test]
    fn what_is_given_back_leaves_nothing_behind() {
        let mut accounts = accounts(10);
        for class in LaneClass::ALL {
            accounts.take(charge(class, "a.test"));
            accounts.give_back(charge(class, "a.test"));
        }
        assert!(accounts.held() == 0 && accounts.groups.is_empty());
    }
}
