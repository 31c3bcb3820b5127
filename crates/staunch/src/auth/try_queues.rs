//! The passwords of one name are tried one after the other, and after a wrong one there is a rest:
//! from however many addresses somebody guesses, no more than two tries a second are looked at in
//! all.
//!
//! Clients that wait are those from places where the name has not logged in lately: the owner, at
//! the usual places, does not wait. Names that nobody has are treated alike, since otherwise the
//! wait would tell who there is.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::sleep;

use super::users::UserName;
use super::wait_queue::WaitQueue;
use crate::auth::throttle::PlaceTrust;
use crate::lock::lock;
use crate::place::ClientPlace;

/// The names whose turn somebody has, or that rest after a wrong password.
#[derive(Debug, Default)]
pub(super) struct TryQueues {
    names: Mutex<HashMap<UserName, WaitQueue<PlaceTrust, Option<TryPermit>>>>,
}

/// A password of this name may be tried now; the next one when this is dropped, and has rested.
#[derive(Debug)]
pub(super) struct TryPermit {
    turns: Arc<TryQueues>,
    name: UserName,
    rest: Duration,
}

impl TryQueues {
    /// Waits for a turn. None if the place needs none any more.
    pub(super) async fn of(
        self: &Arc<Self>,
        name: &UserName,
        trust: PlaceTrust,
        place: ClientPlace,
    ) -> Option<TryPermit> {
        let turn = match lock(&self.names).entry(name.clone()) {
            Entry::Vacant(free) => {
                free.insert(WaitQueue::default());
                return Some(self.turn(name));
            }
            Entry::Occupied(mut taken) => taken.get_mut().join(trust, place),
        };
        // A line ends only when nobody waits in it.
        turn.await.ok().flatten()
    }

    fn turn(self: &Arc<Self>, name: &UserName) -> TryPermit {
        TryPermit { turns: Arc::clone(self), name: name.clone(), rest: Duration::ZERO }
    }

    fn pass_on(self: &Arc<Self>, name: &UserName) {
        let next = {
            let mut names = lock(&self.names);
            let next = names.get_mut(name).and_then(WaitQueue::next);
            if next.is_none() {
                names.remove(name);
            }
            next
        };
        if let Some(next) = next {
            // If it has just left, its turn is dropped unused, and passed on without a rest.
            let _left = next.send(Some(self.turn(name)));
        }
    }
}

impl TryPermit {
    /// How long the name rests afterwards.
    pub(super) fn rest(&mut self, rest: Duration) {
        self.rest = rest;
    }

    /// Whose password may be tried.
    pub(super) fn name(&self) -> &UserName {
        &self.name
    }

    /// The place needs no turns any more, since the password was right or since it is shut out:
    /// there is no rest, and nobody else there waits.
    pub(super) fn release(mut self, place: ClientPlace) {
        self.rest = Duration::ZERO;
        let others =
            lock(&self.turns.names).get_mut(&self.name).map(|line| line.take_all_of(place));
        for other in others.into_iter().flatten() {
            let _left = other.send(None);
        }
    }
}

impl Drop for TryPermit {
    fn drop(&mut self) {
        let (turns, name, rest) = (Arc::clone(&self.turns), self.name.clone(), self.rest);
        match Handle::try_current() {
            Ok(runtime) if !rest.is_zero() => {
                runtime.spawn(async move {
                    sleep(rest).await;
                    turns.pass_on(&name);
                });
            }
            Ok(_) | Err(_) => turns.pass_on(&name),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::poll;
    use tokio::time::Instant;

    use super::*;

    const REST: Duration = Duration::from_millis(10);

    fn place(number: u32) -> ClientPlace {
        ClientPlace::Local(number)
    }

    async fn guess(turns: &Arc<TryQueues>, name: &UserName, from: u32) {
        let turn = turns.of(name, PlaceTrust::Untried, place(from)).await;
        turn.expect("a turn").rest(REST);
    }

    #[tokio::test]
    async fn a_name_rests_between_two_tries_and_another_one_does_not_wait_for_it() {
        let (turns, begin) = (Arc::new(TryQueues::default()), Instant::now());
        let [anna, bert] = ["anna", "bert"].map(|name| UserName::parse(name).unwrap());
        let mut guesses = tokio::task::JoinSet::new();
        for number in 0..20 {
            let (turns, anna) = (Arc::clone(&turns), anna.clone());
            guesses.spawn(async move { guess(&turns, &anna, number).await });
        }
        guess(&turns, &bert, 0).await;
        assert!(guesses.len() == 20);
        while guesses.join_next().await.is_some() {}
        assert!(begin.elapsed() >= REST * 19);
        while !lock(&turns.names).is_empty() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_right_password_lets_all_of_its_place_go_on_and_a_client_that_leaves_holds_up_nobody()
    {
        let turns = Arc::new(TryQueues::default());
        let anna = UserName::parse("anna").unwrap();
        let turn = turns.of(&anna, PlaceTrust::Untried, place(1)).await.unwrap();
        let mut own = pin!(turns.of(&anna, PlaceTrust::Untried, place(1)));
        let mut other = pin!(turns.of(&anna, PlaceTrust::Untried, place(2)));
        let mut gone = Box::pin(turns.of(&anna, PlaceTrust::Untried, place(3)));
        assert!(poll!(&mut own).is_pending() && poll!(&mut other).is_pending());
        assert!(poll!(&mut gone).is_pending());
        drop(gone);
        turn.release(place(1));
        assert!(own.await.is_none(), "no turn is needed");
        assert!(other.await.is_some());
    }
}
