//! Lanes in which something can begin, and whose turn it is: client by client, of each client
//! sender by sender, and of each of those one registrable domain after the other.
//!
//! So a sender who writes to a hundred thousand new domains has as many turns as one who writes to
//! a single one.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use spool::LaneKey;

use super::accounts::{Charge, LaneClass, Most};
use super::group::Group;
use super::ring::{Holds, Ring};
use super::turns::Turns;
use crate::message::Submitter;

/// Where a lane stands.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(in super::super) struct Spot {
    /// The registrable domain of its next hop.
    pub(in super::super) group: Group,
    /// Whose mail is first in it.
    pub(in super::super) submitter: Submitter,
}

/// The lanes of one class.
#[derive(Debug, Default)]
pub(super) struct Row {
    /// Clients; what they hold are places.
    turns: Turns<u32>,
    clients: BTreeMap<u32, WaitingClient>,
    /// Group and submitter of the lanes in `clients`, so that a group's are found.
    spots: BTreeSet<Spot>,
    /// Lanes that had their turn, and what they needed is there now: they go before all others, if
    /// they may.
    first: VecDeque<(Spot, LaneKey)>,
}

/// The lanes of one client.
#[derive(Debug, Default)]
struct WaitingClient {
    /// Its senders; what they hold are places.
    turns: Turns<u32>,
    rings: BTreeMap<u32, Ring>,
}

/// The lanes of all classes, by [`LaneClass::index`].
#[derive(Debug, Default)]
pub(super) struct LaneRows {
    rows: [Row; 3],
}

impl LaneRows {
    /// Those of one class.
    pub(super) fn of(&self, class: LaneClass) -> Option<&Row> {
        self.rows.get(class.index())
    }

    /// The same, to be changed.
    pub(super) fn of_mut(&mut self, class: LaneClass) -> Option<&mut Row> {
        self.rows.get_mut(class.index())
    }

    /// One more place is held.
    pub(super) fn hold(&mut self, charge: Charge) {
        self.counted(charge.class).for_each(|row| row.hold(charge.submitter));
    }

    /// One place less is held.
    pub(super) fn release(&mut self, charge: Charge) {
        self.counted(charge.class).for_each(|row| row.release(charge.submitter));
        self.rows.iter_mut().for_each(|row| row.released(charge.group));
    }

    /// Where a place of an attempt of `class` counts. Whoever has new mail is asked what all of
    /// theirs hold that took none yet: the silent ones become those that are in trouble, and it
    /// could begin as many again.
    fn counted(&mut self, class: LaneClass) -> impl Iterator<Item = &mut Row> {
        let counts =
            move |at: &LaneClass| *at == class || (*at == LaneClass::New && class.is_unproven());
        self.rows
            .iter_mut()
            .zip(LaneClass::ALL)
            .filter(move |(_, at)| counts(at))
            .map(|(row, _)| row)
    }

    /// All accounts may have room again.
    pub(super) fn unpark_all(&mut self) {
        self.rows.iter_mut().for_each(Row::unpark_all);
    }
}

/// Who wait for places that others of them hold.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Limited {
    /// All senders of this client.
    Client(u32),
    /// This sender of a client, and no other.
    Sender(Submitter),
}

impl Limited {
    /// Is `submitter` one of them?
    pub(super) fn includes(self, submitter: Submitter) -> bool {
        match self {
            Self::Client(client) => submitter.client == client,
            Self::Sender(sender) => submitter == sender,
        }
    }
}

impl Row {
    /// Behind all others there.
    pub(super) fn push_back(&mut self, spot: Spot, lane: LaneKey) {
        self.ring(spot).push_back(spot.group, lane);
        self.wait(spot.submitter);
    }

    /// Before all others, whoever's: it had its turn, and could not use it.
    pub(super) fn push_front(&mut self, spot: Spot, lane: LaneKey) {
        self.first.push_front((spot, lane));
    }

    fn ring(&mut self, spot: Spot) -> &mut Ring {
        self.spots.insert(spot);
        let Submitter { client, sender } = spot.submitter;
        self.clients.entry(client).or_default().rings.entry(sender).or_default()
    }

    fn wait(&mut self, Submitter { client, sender }: Submitter) {
        self.turns.wait(client);
        self.clients.entry(client).or_default().turns.wait(sender);
    }

    /// The next lane, of a group that may have one more place, as have its client and sender.
    pub(super) fn pop(&mut self, most: Most, holds: impl Fn(Group) -> Holds) -> Option<LaneKey> {
        while let Some((spot, lane)) = self.first.pop_front() {
            if self.may_hold(spot.submitter, most) && holds(spot.group) != Holds::All {
                return Some(lane);
            }
            // Others have what it may have.
            self.ring(spot).push_front(spot.group, lane);
            self.wait(spot.submitter);
        }
        while let Some(number) = self.turns.next(most.client) {
            let client = self.clients.entry(number).or_default();
            while let Some(sender) = client.turns.next(most.sender) {
                let ring = client.rings.entry(sender).or_default();
                let found = ring.pop(&holds);
                if ring.is_empty() {
                    client.rings.remove(&sender);
                }
                match found {
                    Some((group, lane)) => {
                        let submitter = Submitter { client: number, sender };
                        self.tidy(Spot { group, submitter });
                        return Some(lane);
                    }
                    None => client.turns.rest(sender),
                }
            }
            let is_over = client.turns.is_empty() && client.rings.is_empty();
            self.turns.rest(number);
            if is_over {
                self.clients.remove(&number);
            }
        }
        None
    }

    fn may_hold(&self, Submitter { client: number, sender }: Submitter, most: Most) -> bool {
        let client = self.clients.get(&number);
        let of_sender = client.map_or(0, |client| client.turns.held(sender));
        self.turns.held(number) < most.client && of_sender < most.sender
    }

    /// Forgets what stands nowhere any more.
    fn tidy(&mut self, spot: Spot) {
        let Submitter { client: number, sender } = spot.submitter;
        let Some(client) = self.clients.get_mut(&number) else { return };
        let ring = client.rings.get(&sender);
        if ring.is_none_or(|ring| !ring.has_any(spot.group)) {
            self.spots.remove(&spot);
        }
        if ring.is_none_or(Ring::is_empty) {
            client.rings.remove(&sender);
            client.turns.rest(sender);
        }
        if !client.turns.is_waiting() {
            self.turns.rest(number);
        }
        if client.turns.is_empty() && client.rings.is_empty() {
            self.clients.remove(&number);
        }
    }

    /// Takes the lane out, since it waits elsewhere now.
    pub(super) fn remove(&mut self, spot: Spot, lane: &LaneKey) {
        if let Some(place) = self.first.iter().position(|(_, first)| first == lane) {
            self.first.remove(place);
            return;
        }
        let Submitter { client, sender } = spot.submitter;
        let client = self.clients.get_mut(&client);
        if let Some(ring) = client.and_then(|client| client.rings.get_mut(&sender)) {
            ring.remove(spot.group, lane);
        }
        self.tidy(spot);
    }

    /// One more place is held there.
    pub(super) fn hold(&mut self, Submitter { client, sender }: Submitter) {
        self.turns.hold(client);
        self.clients.entry(client).or_default().turns.hold(sender);
    }

    /// A place is free again.
    pub(super) fn release(&mut self, submitter: Submitter) {
        let Submitter { client: number, sender } = submitter;
        self.turns.release(number);
        let Some(client) = self.clients.get_mut(&number) else { return };
        client.turns.release(sender);
        // It may have waited for just that one.
        if client.turns.is_waiting() {
            self.turns.wait(number);
        } else if client.turns.is_empty() && client.rings.is_empty() {
            self.clients.remove(&number);
        }
    }

    /// A place of the group is free again, whoever held it.
    pub(super) fn released(&mut self, group: Group) {
        if self.spots.is_empty() {
            return;
        }
        let from = Spot { group, submitter: Submitter { client: 0, sender: 0 } };
        let to = Spot { group, submitter: Submitter { client: u32::MAX, sender: u32::MAX } };
        let spots: Vec<Spot> = self.spots.range(from..=to).copied().collect();
        for spot in spots {
            self.ring(spot).released(group);
            self.wait(spot.submitter);
        }
    }

    /// All accounts may have room again.
    pub(super) fn unpark_all(&mut self) {
        let groups: BTreeSet<Group> = self.spots.iter().map(|spot| spot.group).collect();
        groups.into_iter().for_each(|group| self.released(group));
    }

    /// Lanes that wait for a place of their class, and for nothing else.
    pub(super) fn unparked(&self, most: Most) -> usize {
        let limited = self.limited(most).map(|(_, lanes)| lanes).sum();
        let in_rings: usize = self.rings().map(Ring::unparked).sum();
        self.first.len() + in_rings.saturating_sub(limited)
    }

    /// Groups whose account is full, with how many lanes of each wait.
    pub(super) fn parked(&self) -> impl Iterator<Item = (Group, usize)> {
        self.rings().flat_map(Ring::parked)
    }

    /// Who may hold no more, with how many lanes of each wait for that.
    pub(super) fn limited(&self, most: Most) -> impl Iterator<Item = (Limited, usize)> {
        let limited: BTreeSet<u32> = self.turns.at_least(most.client).collect();
        let clients = limited.clone().into_iter().filter_map(|number| {
            let lanes = self.clients.get(&number)?.rings.values().map(Ring::unparked).sum();
            Some((Limited::Client(number), lanes))
        });
        let others = self.clients.iter().filter(move |(number, _)| !limited.contains(number));
        let senders = others.flat_map(move |(number, client)| {
            client.turns.at_least(most.sender).filter_map(|sender| {
                let lanes = client.rings.get(&sender)?.unparked();
                Some((Limited::Sender(Submitter { client: *number, sender }), lanes))
            })
        });
        clients.chain(senders).filter(|(_, lanes)| *lanes > 0)
    }

    fn rings(&self) -> impl Iterator<Item = &Ring> {
        self.clients.values().flat_map(|client| client.rings.values())
    }

    /// Does `lane` stand here?
    #[cfg(test)]
    pub(super) fn has(&self, spot: Spot, lane: &LaneKey) -> bool {
        let client = self.clients.get(&spot.submitter.client);
        let ring = client.and_then(|client| client.rings.get(&spot.submitter.sender));
        let is_in_ring = ring.is_some_and(|ring| ring.has(spot.group, lane));
        self.first.iter().any(|(_, first)| first == lane)
            || (self.spots.contains(&spot) && is_in_ring)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FEW: Most = Most { client: 4, sender: 3 };

    fn spot(lane: &str, client: u32, sender: u32) -> Spot {
        let submitter = Submitter { client, sender };
        Spot { group: Group::of(&LaneKey::new(lane)), submitter }
    }

    /// `count` lanes of domains of their own, whose names begin with `prefix`.
    fn push(row: &mut Row, prefix: &str, count: u32, (client, sender): (u32, u32)) {
        for number in 0..count {
            let name = format!("{prefix}{number}.test");
            row.push_back(spot(&name, client, sender), LaneKey::new(&name));
        }
    }

    /// Begins what can begin, and says whose: the first letters of the names.
    fn begin(row: &mut Row, most: Most, count: usize, who: &[(&str, (u32, u32))]) -> String {
        let mut order = String::new();
        while order.len() < count
            && let Some(lane) = row.pop(most, |_| Holds::Nothing)
        {
            let its = who.iter().find(|(prefix, _)| lane.as_str().starts_with(prefix)).unwrap();
            let (client, sender) = its.1;
            row.hold(Submitter { client, sender });
            order += its.0;
        }
        order
    }

    #[test]
    fn clients_take_turns_and_so_do_the_senders_of_each() {
        let mut row = Row::default();
        let who = [("a", (1, 1)), ("b", (1, 2)), ("c", (2, 1))];
        push(&mut row, "a", 9, who[0].1);
        push(&mut row, "b", 9, who[1].1);
        push(&mut row, "c", 2, who[2].1);
        assert_eq!(begin(&mut row, Most::ALL, 8, &who), "acbcabab");
    }

    #[test]
    fn neither_a_sender_nor_a_client_has_all_places() {
        let mut row = Row::default();
        let who = [("a", (1, 1)), ("b", (1, 2)), ("c", (2, 1))];
        push(&mut row, "a", 9, who[0].1);
        assert_eq!(begin(&mut row, FEW, 9, &who), "aaa");
        push(&mut row, "b", 9, who[1].1);
        assert_eq!(begin(&mut row, FEW, 9, &who), "b");
        let limited: Vec<_> = row.limited(FEW).collect();
        assert_eq!(limited, [(Limited::Client(1), 14)]);
        assert_eq!(row.unparked(FEW), 0);
        push(&mut row, "c", 1, who[2].1);
        assert_eq!(row.unparked(FEW), 1);
        assert_eq!(begin(&mut row, FEW, 9, &who), "c");
        row.release(Submitter { client: 1, sender: 2 });
        assert_eq!(
            row.limited(FEW).collect::<Vec<_>>(),
            [(Limited::Sender(Submitter { client: 1, sender: 1 }), 6)]
        );
        assert_eq!(begin(&mut row, FEW, 9, &who), "b");
    }

    #[test]
    fn whoever_waited_for_a_full_account_goes_on_when_it_has_room() {
        let mut row = Row::default();
        for (client, sender) in [(1, 1), (1, 2), (2, 1)] {
            let name = format!("{client}{sender}.evil.test");
            row.push_back(spot(&name, client, sender), LaneKey::new(&name));
        }
        assert_eq!(row.pop(Most::ALL, |_| Holds::All), None);
        assert_eq!(row.parked().map(|(_, lanes)| lanes).sum::<usize>(), 3);
        assert_eq!(row.pop(Most::ALL, |_| Holds::Nothing), None, "nobody asks for it");
        row.released(spot("evil.test", 0, 0).group);
        let mut names = Vec::new();
        while let Some(lane) = row.pop(Most::ALL, |_| Holds::Some) {
            names.push(lane.to_string());
        }
        names.sort_unstable();
        assert_eq!(names, ["11.evil.test", "12.evil.test", "21.evil.test"]);
    }

    #[test]
    fn who_had_a_turn_goes_first_unless_others_of_theirs_have_what_they_may_have() {
        let mut row = Row::default();
        let who = [("a", (1, 1)), ("b", (2, 1))];
        push(&mut row, "b", 1, who[1].1);
        row.push_front(spot("a9.test", 1, 1), LaneKey::new("a9.test"));
        assert_eq!(begin(&mut row, FEW, 1, &who), "a");
        push(&mut row, "a", 2, who[0].1);
        assert_eq!(begin(&mut row, FEW, 9, &who), "baa");
        row.push_front(spot("a9.test", 1, 1), LaneKey::new("a9.test"));
        push(&mut row, "b", 1, who[1].1);
        assert_eq!(begin(&mut row, FEW, 9, &who), "b");
        assert_eq!(row.limited(FEW).count(), 1);
    }

    #[test]
    fn nothing_is_left_of_who_has_gone() {
        let mut row = Row::default();
        let who = [("a", (1, 1)), ("b", (1, 2))];
        push(&mut row, "a", 3, who[0].1);
        push(&mut row, "b", 2, who[1].1);
        row.remove(spot("b1.test", 1, 2), &LaneKey::new("b1.test"));
        assert_eq!(begin(&mut row, Most::ALL, 9, &who).len(), 4);
        for submitter in [(1, 1), (1, 1), (1, 1), (1, 2)] {
            assert_eq!(row.clients.len(), 1);
            row.release(Submitter { client: submitter.0, sender: submitter.1 });
        }
        assert!(row.clients.is_empty() && row.spots.is_empty() && row.turns.is_empty());
    }
}
