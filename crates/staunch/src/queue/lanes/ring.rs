//! Whose turn is it among lanes of one class? One registrable domain after the other, and of each
//! one lane after the other.

use std::collections::{HashMap, HashSet, VecDeque};

use spool::LaneKey;

use super::group::Group;

/// Lanes in which something can begin as soon as there is a place.
///
/// Who has a place already stands behind those who have none: that a place of theirs becomes free
/// is no reason to give it to them again while others wait.
#[derive(Debug, Default)]
pub(super) struct Ring {
    groups: HashMap<Group, WaitingLane>,
    /// Groups that may have no place, in turn.
    without: VecDeque<Group>,
    /// Groups that had one when it was their turn.
    with: VecDeque<Group>,
    /// Groups whose account is full: they have no turn until [`Ring::released`].
    parked: HashSet<Group>,
    len: usize,
}

/// The lanes of one group. It stays as long as it stands in a row.
#[derive(Debug, Default)]
struct WaitingLane {
    lanes: VecDeque<LaneKey>,
    is_in_without: bool,
    is_in_with: bool,
}

/// What a group has.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Holds {
    /// No place yet: its turn comes before that of groups with some.
    Nothing,
    /// At least one, and may have more.
    Some,
    /// All that it may have.
    All,
}

impl Ring {
    /// Puts the lane behind all others of its group.
    pub(super) fn push_back(&mut self, group: Group, lane: LaneKey) {
        let waiting = self.groups.entry(group).or_default();
        waiting.lanes.push_back(lane);
        self.len += 1;
        let stands = waiting.is_in_without || waiting.is_in_with || self.parked.contains(&group);
        if !stands {
            waiting.is_in_without = true;
            self.without.push_back(group);
        }
    }

    /// Before all others: it had its turn, and could not use it.
    pub(super) fn push_front(&mut self, group: Group, lane: LaneKey) {
        let waiting = self.groups.entry(group).or_default();
        waiting.lanes.push_front(lane);
        self.len += 1;
        if !self.parked.contains(&group) {
            waiting.is_in_without = true;
            self.without.push_front(group);
        }
    }

    /// The next lane, of a group that may have one more place.
    pub(super) fn pop(&mut self, holds: impl Fn(Group) -> Holds) -> Option<(Group, LaneKey)> {
        while let Some(group) = self.without.pop_front() {
            let Some(waiting) = self.groups.get_mut(&group) else { continue };
            waiting.is_in_without = false;
            match holds(group) {
                Holds::Nothing => {
                    if let Some(lane) = self.take(group) {
                        return Some((group, lane));
                    }
                }
                Holds::Some if !waiting.is_in_with => {
                    waiting.is_in_with = true;
                    self.with.push_back(group);
                }
                Holds::Some => {}
                Holds::All => self.park(group),
            }
        }
        while let Some(group) = self.with.pop_front() {
            let Some(waiting) = self.groups.get_mut(&group) else { continue };
            waiting.is_in_with = false;
            match holds(group) {
                Holds::Nothing | Holds::Some => {
                    if let Some(lane) = self.take(group) {
                        return Some((group, lane));
                    }
                }
                Holds::All => self.park(group),
            }
        }
        None
    }

    /// The group's next lane; the others wait for its next turn.
    fn take(&mut self, group: Group) -> Option<LaneKey> {
        let waiting = self.groups.get_mut(&group)?;
        let lane = waiting.lanes.pop_front();
        if !waiting.lanes.is_empty() && !waiting.is_in_without && !waiting.is_in_with {
            waiting.is_in_with = true;
            self.with.push_back(group);
        }
        self.forget_if_over(group);
        self.len -= usize::from(lane.is_some());
        lane
    }

    fn park(&mut self, group: Group) {
        let has_lanes = self.groups.get(&group).is_some_and(|waiting| !waiting.lanes.is_empty());
        if has_lanes {
            self.parked.insert(group);
        }
        self.forget_if_over(group);
    }

    fn forget_if_over(&mut self, group: Group) {
        let is_over = |waiting: &WaitingLane| {
            waiting.lanes.is_empty() && !waiting.is_in_without && !waiting.is_in_with
        };
        if self.groups.get(&group).is_some_and(is_over) {
            self.groups.remove(&group);
        }
    }

    /// Takes the lane out, since it waits elsewhere now.
    pub(super) fn remove(&mut self, group: Group, lane: &LaneKey) {
        let Some(waiting) = self.groups.get_mut(&group) else { return };
        let Some(place) = waiting.lanes.iter().position(|other| other == lane) else { return };
        waiting.lanes.remove(place);
        self.len = self.len.saturating_sub(1);
        if waiting.lanes.is_empty() {
            self.parked.remove(&group);
        }
        self.forget_if_over(group);
    }

    /// A place of the group is free again.
    pub(super) fn released(&mut self, group: Group) {
        self.parked.remove(&group);
        if let Some(waiting) = self.groups.get_mut(&group)
            && !std::mem::replace(&mut waiting.is_in_without, true)
        {
            self.without.push_back(group);
        }
    }

    /// Does no lane stand here?
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Does a lane of `group` stand here?
    pub(super) fn has_any(&self, group: Group) -> bool {
        self.groups.get(&group).is_some_and(|waiting| !waiting.lanes.is_empty())
    }

    /// Does `lane` of `group` stand here?
    #[cfg(test)]
    pub(super) fn has(&self, group: Group, lane: &LaneKey) -> bool {
        self.groups.get(&group).is_some_and(|waiting| waiting.lanes.contains(lane))
    }

    /// Lanes whose group is not what they wait for.
    pub(super) fn unparked(&self) -> usize {
        let parked: usize = self.parked().map(|(_, lanes)| lanes).sum();
        self.len.saturating_sub(parked)
    }

    /// Groups whose account is full, with how many lanes of each wait.
    pub(super) fn parked(&self) -> impl Iterator<Item = (Group, usize)> {
        self.parked.iter().filter_map(|group| Some((*group, self.groups.get(group)?.lanes.len())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(lanes: &[&str]) -> Ring {
        let mut ring = Ring::default();
        for lane in lanes {
            let key = LaneKey::new(lane);
            ring.push_back(Group::of(&key), key);
        }
        ring
    }

    /// Takes all that can be taken; a group may hold so many places, and gives none back.
    fn all(ring: &mut Ring, most: usize) -> Vec<String> {
        let mut held: HashMap<Group, usize> = HashMap::new();
        let mut order = Vec::new();
        while let Some((group, lane)) = ring.pop(|group| match held.get(&group) {
            None if most == 0 => Holds::All,
            None => Holds::Nothing,
            Some(held) if *held < most => Holds::Some,
            Some(_) => Holds::All,
        }) {
            *held.entry(group).or_default() += 1;
            order.push(lane.to_string());
        }
        order
    }

    #[test]
    fn many_names_below_one_domain_have_one_turn_together() {
        let mut ring = ring(&["a.evil.test", "b.evil.test", "c.evil.test", "good.example"]);
        let order = all(&mut ring, 10);
        assert_eq!(order, ["a.evil.test", "good.example", "b.evil.test", "c.evil.test"]);
        assert!(ring.len == 0 && ring.groups.is_empty());
    }

    #[test]
    fn who_has_a_place_stands_behind_those_who_have_none() {
        let mut ring = ring(&["a.evil.test", "b.evil.test"]);
        let evil = Group::of(&LaneKey::new("evil.test"));
        let mut next = |holds: &dyn Fn(Group) -> Holds| ring.pop(holds).map(|(_, lane)| lane);
        assert_eq!(next(&|_| Holds::Nothing), Some(LaneKey::new("a.evil.test")));
        let good = LaneKey::new("good.example");
        ring.push_back(Group::of(&good), good.clone());
        let mut next = |holds: &dyn Fn(Group) -> Holds| ring.pop(holds).map(|(_, lane)| lane);
        let holds = |group| if group == evil { Holds::Some } else { Holds::Nothing };
        assert_eq!(next(&holds), Some(good));
        assert_eq!(next(&holds), Some(LaneKey::new("b.evil.test")));
        assert_eq!(next(&holds), None);
    }

    #[test]
    fn a_domain_with_a_full_account_is_passed_over_until_it_has_room() {
        let mut ring = ring(&["a.evil.test", "b.evil.test", "good.example"]);
        let evil = Group::of(&LaneKey::new("evil.test"));
        assert_eq!(all(&mut ring, 1), ["a.evil.test", "good.example"]);
        assert_eq!((ring.len, ring.unparked()), (1, 0));
        assert_eq!(ring.parked().collect::<Vec<_>>(), [(evil, 1)]);
        ring.push_back(evil, LaneKey::new("c.evil.test"));
        assert_eq!(all(&mut ring, 10), [""; 0], "nobody asks for it");
        ring.released(evil);
        assert_eq!(all(&mut ring, 10), ["b.evil.test", "c.evil.test"]);
        assert!(ring.len == 0 && ring.groups.is_empty());
    }

    #[test]
    fn a_turn_that_could_not_be_used_is_not_lost() {
        let mut ring = ring(&["a.example", "b.example", "c.test"]);
        let (group, first) = ring.pop(|_| Holds::Nothing).unwrap();
        ring.push_front(group, first);
        assert_eq!(all(&mut ring, 1), ["a.example", "b.example", "c.test"]);
    }
}
