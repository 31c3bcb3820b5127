//! Addresses that never took mail from us: to one of them there are no more connections than to one
//! host, however many names it has. Plain data under the pool's lock.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use super::Pool;
use super::wanted::Bottleneck;
use crate::place::ClientPlace;

/// Our choice: so many are remembered that took mail, some 40 octets each. Who is left out has as
/// many connections as one host.
const KNOWN_MAX: usize = 100_000;

/// Who has how many connections.
#[derive(Debug, Default)]
pub(super) struct Strangers {
    open: HashMap<ClientPlace, usize>,
    /// Addresses that took mail: connections to them are not counted.
    known: HashSet<ClientPlace>,
}

impl Strangers {
    /// Room for how many more connections?
    pub(super) fn room(&self, place: ClientPlace, most: usize) -> usize {
        if self.known.contains(&place) {
            return most;
        }
        most.saturating_sub(self.open.get(&place).copied().unwrap_or_default())
    }

    /// One more. `false`: there is no need to count it, since it took mail.
    fn open(&mut self, place: ClientPlace) -> bool {
        let is_stranger = !self.known.contains(&place);
        if is_stranger {
            *self.open.entry(place).or_default() += 1;
        }
        is_stranger
    }

    fn close(&mut self, place: ClientPlace) {
        let Some(open) = self.open.get_mut(&place) else { return };
        *open = open.saturating_sub(1);
        if *open == 0 {
            self.open.remove(&place);
        }
    }

    /// It took mail. Is that news?
    pub(super) fn know(&mut self, place: ClientPlace) -> bool {
        let is_new = self.known.len() < KNOWN_MAX && self.known.insert(place);
        if is_new {
            self.open.remove(&place);
        }
        is_new
    }
}

/// A connection to a stranger, counted until it is dropped.
#[derive(Debug)]
pub(crate) struct Claim {
    pool: Pool,
    place: ClientPlace,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.pool.note_stranger(self.place, |strangers| strangers.close(self.place));
    }
}

impl Pool {
    /// The right to connect to `address`; `None` if nobody has to count that.
    ///
    /// # Errors
    ///
    /// [`Bottleneck`] when there are as many connections to it as may be.
    pub(crate) fn claim(&self, address: IpAddr) -> Result<Option<Claim>, Bottleneck> {
        let place = ClientPlace::of(address);
        let mut state = self.lock();
        if state.strangers.room(place, state.limits.per_host) == 0 {
            return Err(Bottleneck::Address(place));
        }
        Ok(state.strangers.open(place).then(|| Claim { pool: self.clone(), place }))
    }

    /// The right to be connected to `address`, in place of `claim`.
    ///
    /// # Errors
    ///
    /// [`Bottleneck`] when there are as many connections to it as may be.
    pub(crate) fn move_claim(
        &self,
        claim: Option<Claim>,
        address: IpAddr,
    ) -> Result<Option<Claim>, Bottleneck> {
        match claim {
            Some(claim) if claim.place == ClientPlace::of(address) => Ok(Some(claim)),
            Some(_) | None => self.claim(address),
        }
    }

    /// `address` took mail: it is no stranger any more.
    pub(crate) fn know(&self, address: IpAddr) {
        let place = ClientPlace::of(address);
        self.note_stranger(place, |strangers| {
            strangers.know(place);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stranger_has_the_connections_of_one_host_and_who_took_mail_is_none() {
        let mut strangers = Strangers::default();
        let place = |text: &str| ClientPlace::of(text.parse().unwrap());
        let (one, other) = (place("192.0.2.1"), place("192.0.2.2"));
        assert!(strangers.open(one) && strangers.open(one));
        assert_eq!([strangers.room(one, 2), strangers.room(other, 2)], [0, 2]);
        strangers.close(one);
        assert_eq!(strangers.room(one, 2), 1);
        assert!(strangers.know(one) && !strangers.know(one));
        assert!(!strangers.open(one), "it is not counted any more");
        assert_eq!(strangers.room(one, 2), 2);
        strangers.close(one);
        assert!(strangers.open.is_empty());
    }
}
