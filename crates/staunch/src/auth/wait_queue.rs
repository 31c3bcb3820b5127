//! Clients that wait for a turn, and which of them is next.
//!
//! A crowd of strangers has many addresses, but most of them lie close together. So networks have
//! turns, large ones first: of two that wait, the next is the one whose /8 was served longer ago,
//! then whose /16, then whose /24, and so on. One client from elsewhere does not wait for hundreds
//! that come from one place. Among equals the newest is next: under a flood a client that has
//! waited for long gives up, and the newest is still there.

use std::cmp::Reverse;
use std::net::{Ipv4Addr, Ipv6Addr};

use tokio::sync::oneshot;

use crate::lru_map::LruMap;
use crate::place::ClientPlace;

/// How large the networks are that have turns, in bits of the address: what a registry gives out, a
/// provider, a customer, and a place.
const V4_BITS: [u32; 4] = [8, 16, 24, 32];
const V6_BITS: [u32; 4] = [32, 48, 56, 64];
/// Networks whose last turn is remembered.
const SERVED_MAX: usize = 1000;

/// The clients that wait. `R` orders them before all else, the least first; `T` is what they get
/// when it is their turn.
#[derive(Debug)]
pub(super) struct WaitQueue<R, T> {
    /// In the order in which they came.
    waiting: Vec<WaitingTry<R, T>>,
    /// The number of the last turn of a network.
    served: LruMap<Network, u64>,
    turns: u64,
}

#[derive(Debug)]
struct WaitingTry<R, T> {
    rank: R,
    place: ClientPlace,
    call: oneshot::Sender<T>,
}

/// All places of one network.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum Network {
    V4(u32, Ipv4Addr),
    V6(u32, Ipv6Addr),
    /// A user of this machine.
    Local(u32),
}

impl Network {
    /// From the largest to the place itself.
    fn all_of(place: ClientPlace) -> [Self; 4] {
        match place {
            ClientPlace::V4(address) => V4_BITS.map(|bits| {
                let mask = u32::MAX << (u32::BITS - bits);
                Self::V4(bits, Ipv4Addr::from_bits(address.to_bits() & mask))
            }),
            ClientPlace::V6(address) => V6_BITS.map(|bits| {
                let mask = u128::MAX << (u128::BITS - bits);
                Self::V6(bits, Ipv6Addr::from_bits(address.to_bits() & mask))
            }),
            ClientPlace::Local(user) => [Self::Local(user); 4],
        }
    }
}

impl<R, T> Default for WaitQueue<R, T> {
    fn default() -> Self {
        Self { waiting: Vec::new(), served: LruMap::new(SERVED_MAX), turns: 0 }
    }
}

impl<R: Copy + Ord, T> WaitQueue<R, T> {
    /// Waits from now on, until the receiver gets its turn or is dropped.
    pub(super) fn join(&mut self, rank: R, place: ClientPlace) -> oneshot::Receiver<T> {
        let (call, receiver) = oneshot::channel();
        self.waiting.push(WaitingTry { rank, place, call });
        receiver
    }

    /// Takes out the client that is next.
    pub(super) fn next(&mut self) -> Option<oneshot::Sender<T>> {
        self.waiting.retain(|one| !one.call.is_closed());
        let mut last_turns = |place| {
            Network::all_of(place)
                .map(|network| self.served.get(&network).copied().unwrap_or_default())
        };
        let (next, _) = self
            .waiting
            .iter()
            .enumerate()
            .min_by_key(|(number, one)| (one.rank, last_turns(one.place), Reverse(*number)))?;
        let one = self.waiting.remove(next);
        self.turns += 1;
        for network in Network::all_of(one.place) {
            self.served.set(network, self.turns);
        }
        Some(one.call)
    }

    /// Takes out all of one place.
    pub(super) fn take_all_of(&mut self, place: ClientPlace) -> Vec<oneshot::Sender<T>> {
        let own = self.waiting.extract_if(.., |one| one.place == place);
        own.map(|one| one.call).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(text: &str) -> ClientPlace {
        ClientPlace::of(text.parse().unwrap())
    }

    /// The order in which places that come in this order have their turns.
    fn turns(arrivals: &[(u8, &'static str)]) -> Vec<&'static str> {
        let mut line = WaitQueue::default();
        let mut waiting: Vec<_> = arrivals
            .iter()
            .map(|(rank, address)| (*address, line.join(*rank, place(address))))
            .collect();
        let mut order = Vec::new();
        while let Some(call) = line.next() {
            call.send(()).unwrap();
            let at = waiting.iter_mut().position(|(_, call)| call.try_recv().is_ok()).unwrap();
            order.push(waiting.remove(at).0);
        }
        order
    }

    #[test]
    fn networks_have_turns_and_the_newest_of_a_network_is_first() {
        let mut arrivals = vec![(0, "198.51.100.1")];
        arrivals.extend([(0, "192.0.2.1"), (0, "192.0.2.2"), (0, "192.0.2.3"), (0, "192.0.3.1")]);
        assert_eq!(
            turns(&arrivals),
            ["192.0.3.1", "198.51.100.1", "192.0.2.3", "192.0.2.2", "192.0.2.1"]
        );
        let of_one_provider =
            [(0, "2001:db8:1::1"), (0, "2001:db8:0:2::"), (0, "2001:db8:0:3::"), (0, "2001:db9::")];
        assert_eq!(
            turns(&of_one_provider),
            ["2001:db9::", "2001:db8:0:3::", "2001:db8:1::1", "2001:db8:0:2::"]
        );
    }

    #[test]
    fn a_better_rank_is_first_wherever_it_is() {
        let arrivals =
            [(1, "198.51.100.1"), (0, "192.0.2.1"), (0, "192.0.2.2"), (1, "203.0.113.1")];
        assert_eq!(turns(&arrivals), ["192.0.2.2", "192.0.2.1", "203.0.113.1", "198.51.100.1"]);
    }

    #[test]
    fn one_from_elsewhere_waits_for_one_turn_and_not_for_hundreds() {
        let mut line: WaitQueue<u8, ()> = WaitQueue::default();
        let _crowd: Vec<_> = (0..=200)
            .flat_map(|n| (1..=4).map(move |m| ClientPlace::of([192, 0, n, m].into())))
            .map(|place| line.join(0, place))
            .collect();
        line.next().unwrap();
        let mut other = line.join(0, place("198.51.100.1"));
        let _later = line.join(0, place("192.0.250.1"));
        line.next().unwrap().send(()).unwrap();
        assert_eq!(other.try_recv(), Ok(()));
    }

    #[test]
    fn nobody_who_left_has_a_turn() {
        let mut line: WaitQueue<u8, ()> = WaitQueue::default();
        drop(line.join(0, place("192.0.2.1")));
        assert!(line.next().is_none());
        let _left = line.join(0, place("192.0.2.1"));
        let _other = line.join(0, place("192.0.2.2"));
        assert_eq!(line.take_all_of(place("192.0.2.1")).len(), 1);
        assert!(line.next().is_some() && line.next().is_none());
    }
}
