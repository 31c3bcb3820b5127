//! One password tried with many names, from many addresses: nobody fails often, so no brake takes
//! hold, and only all of it together shows what it is.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::Instant;

use super::users::UserName;
use crate::place::ClientPlace;

/// Wrong logins are counted for so long.
const WINDOW: Duration = Duration::from_secs(10 * 60);
/// Users with wrong passwords, and places that sent them, that are told of. Fewer users if there
/// are no more.
const USERS: usize = 10;
const USERS_MIN: usize = 3;
const PLACES: usize = 10;
/// It is told again after so long.
const TOLD_EVERY: Duration = Duration::from_secs(60 * 60);

/// Users that wrong passwords came for, and where these came from.
#[derive(Debug, Default)]
pub(super) struct Spraying {
    since: Option<Instant>,
    users: HashSet<UserName>,
    places: HashSet<ClientPlace>,
    told: Option<Instant>,
}

impl Spraying {
    /// A wrong password of a user, one of `all`. Is it time to tell a person?
    pub(super) fn notes(
        &mut self,
        user: &UserName,
        place: ClientPlace,
        all: usize,
        now: Instant,
    ) -> bool {
        if self.since.is_none_or(|since| now.saturating_duration_since(since) >= WINDOW) {
            self.since = Some(now);
            self.users.clear();
            self.places.clear();
        }
        let enough = USERS.min(all).max(USERS_MIN);
        if self.users.len() < enough {
            self.users.insert(user.clone());
        }
        if self.places.len() < PLACES {
            self.places.insert(place);
        }
        let is_told =
            self.told.is_some_and(|told| now.saturating_duration_since(told) < TOLD_EVERY);
        let is_news = !is_told && self.users.len() >= enough && self.places.len() >= PLACES;
        if is_news {
            self.told = Some(now);
        }
        is_news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(number: usize) -> UserName {
        UserName::parse(&format!("user{number}")).unwrap()
    }

    fn place(number: usize) -> ClientPlace {
        ClientPlace::Local(u32::try_from(number).unwrap())
    }

    #[test]
    fn many_users_from_many_places_are_told_of_once_an_hour() {
        let (mut spraying, begin) = (Spraying::default(), Instant::now());
        let mut told = |from: Instant| {
            (0..50).filter(|n| spraying.notes(&user(n % 20), place(*n), 1000, from)).count()
        };
        assert_eq!(told(begin), 1);
        assert_eq!(told(begin + WINDOW), 0);
        assert_eq!(told(begin + TOLD_EVERY), 1);
    }

    #[test]
    fn one_user_from_everywhere_or_everybody_from_one_place_is_something_else() {
        let (mut spraying, now) = (Spraying::default(), Instant::now());
        assert!((0..100).all(|n| !spraying.notes(&user(1), place(n), 1000, now)));
        let mut spraying = Spraying::default();
        assert!((0..100).all(|n| !spraying.notes(&user(n), place(1), 1000, now)));
        assert!((0..5).all(|n| {
            let later = now + WINDOW * (2 + u32::try_from(n).unwrap());
            !spraying.notes(&user(n + 20), place(n), 1000, later)
        }));
    }

    #[test]
    fn of_few_users_all_are_many() {
        let (mut spraying, now) = (Spraying::default(), Instant::now());
        assert!((0..10).any(|n| spraying.notes(&user(n % 4), place(n), 4, now)));
    }
}
