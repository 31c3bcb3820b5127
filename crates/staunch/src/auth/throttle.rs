//! Guessing passwords is made slow: for an address, and for a user.
//!
//! Each wrong login makes the answer to the next one wait longer. An address that goes on gets 421
//! and is not let in for a while, unless somebody logged in from there lately: behind one address
//! there may be an office with one telephone that has an old password. A user is never locked out,
//! only answers to wrong guesses wait: otherwise whoever knows a name could keep its owner out.

use std::time::Duration;

use tokio::time::Instant;

use super::users::UserName;
use crate::lru_map::LruMap;
use crate::place::ClientPlace;

/// The wait after the first wrong login; each further one doubles it.
const DELAY_FIRST: Duration = Duration::from_millis(500);
/// The longest wait: clients give up on a command after some minutes (RFC 5321 §4.5.3.2), and a
/// wait costs us little.
const DELAY_MAX: Duration = Duration::from_secs(20);
/// Wrong logins of an address after which it is not let in any more. People mistype three or four
/// times.
const FAILURES_MAX: u32 = 10;
/// How long it is not let in.
const CLOSED_FOR: Duration = Duration::from_secs(15 * 60);
/// Wrong logins are forgotten after so long without a new one.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60 * 60);
/// How long a good login keeps an address from being shut out.
const WELCOME_FOR: Duration = Duration::from_secs(24 * 60 * 60);
/// Addresses and names that are remembered, each: some megabytes.
const REMEMBERED_MAX: usize = 10_000;
/// How long a name rests after a wrong password from a place where it is not known; each further
/// one doubles it.
const REST_FIRST: Duration = Duration::from_millis(500);
/// The longest rest: some 40,000 guesses a day, and the owner at a new place still has a turn while
/// a client waits.
const REST_MAX: Duration = Duration::from_secs(2);
/// Places of a user that are remembered: home, office, and telephones on the way.
const KNOWN_PLACES_MAX: usize = 8;

/// What is known about wrong logins.
#[derive(Debug)]
pub(super) struct LoginThrottle {
    places: LruMap<ClientPlace, Tries>,
    /// When somebody logged in from there last. Apart from the others, so that failures from many
    /// addresses do not push these out.
    good: LruMap<ClientPlace, Instant>,
    users: LruMap<UserName, Tries>,
    /// Where a user logged in last, and when; the latest last.
    known_places: LruMap<UserName, Vec<(ClientPlace, Instant)>>,
}

/// What a place is to a name whose password it tries; the better ones first.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum PlaceTrust {
    /// The user logged in from there within a day, and not many guessed from there.
    Known,
    /// Nobody failed there lately.
    Untried,
    Failed,
}

/// What a wrong login leads to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Penalty {
    /// The answer comes after this wait.
    Wait(Duration),
    /// The connection ends, and the address is not let in for a while.
    ShutOut,
}

#[derive(Clone, Copy, Debug)]
struct Tries {
    failures: u32,
    last_failure: Instant,
    closed_until: Option<Instant>,
}

impl Tries {
    fn known(tries: Option<&mut Self>, now: Instant) -> Self {
        let fresh = Self { failures: 0, last_failure: now, closed_until: None };
        tries.map_or(fresh, |tries| *tries)
    }

    /// Wrong logins that are not forgotten.
    fn failures(&self, now: Instant) -> u32 {
        let is_forgotten = now.saturating_duration_since(self.last_failure) > FORGOTTEN_AFTER;
        if is_forgotten { 0 } else { self.failures }
    }

    /// Counts one more and says how long its answer waits.
    fn fail(&mut self, now: Instant) -> Duration {
        self.failures = self.failures(now).saturating_add(1);
        self.last_failure = now;
        DELAY_FIRST.saturating_mul(doubled(self.failures - 1)).min(DELAY_MAX)
    }
}

fn doubled(times: u32) -> u32 {
    1_u32.checked_shl(times).unwrap_or(u32::MAX)
}

impl Default for LoginThrottle {
    fn default() -> Self {
        Self {
            places: LruMap::new(REMEMBERED_MAX),
            good: LruMap::new(REMEMBERED_MAX),
            users: LruMap::new(REMEMBERED_MAX),
            known_places: LruMap::new(REMEMBERED_MAX),
        }
    }
}

impl LoginThrottle {
    /// Is this address shut out now?
    pub(super) fn is_shut_out(&mut self, place: ClientPlace, now: Instant) -> bool {
        let tries = self.places.get(&place);
        tries.is_some_and(|tries| tries.closed_until.is_some_and(|until| now < until))
    }

    /// Did somebody log in from there lately?
    pub(super) fn is_welcome(&mut self, place: ClientPlace, now: Instant) -> bool {
        let then = self.good.get(&place);
        then.is_some_and(|then| now.saturating_duration_since(*then) < WELCOME_FOR)
    }

    /// What this address is to the user of that name, if there is one.
    pub(super) fn trust(
        &mut self,
        place: ClientPlace,
        user: &UserName,
        now: Instant,
    ) -> PlaceTrust {
        let failures = self.places.get(&place).map_or(0, |tries| tries.failures(now));
        let is_known = self.known_places.get(user).into_iter().flatten().any(|(known, then)| {
            *known == place && now.saturating_duration_since(*then) < WELCOME_FOR
        });
        match failures {
            // Somebody there guesses: the owner's address is no proof of the owner.
            FAILURES_MAX.. => PlaceTrust::Failed,
            _ if is_known => PlaceTrust::Known,
            0 => PlaceTrust::Untried,
            1..FAILURES_MAX => PlaceTrust::Failed,
        }
    }

    /// How long a name rests after a try that comes to nothing.
    pub(super) fn rest(&mut self, user: &UserName, now: Instant) -> Duration {
        let failures = self.users.get(user).map_or(0, |tries| tries.failures(now));
        REST_FIRST.saturating_mul(doubled(failures)).min(REST_MAX)
    }

    /// A wrong login, as `user` if that is a name that one could have.
    pub(super) fn failed(
        &mut self,
        place: ClientPlace,
        user: Option<&UserName>,
        now: Instant,
    ) -> Penalty {
        let mut tries = Tries::known(self.places.get(&place), now);
        let mut wait = tries.fail(now);
        let is_shut_out = tries.failures >= FAILURES_MAX && !self.is_welcome(place, now);
        if is_shut_out {
            tries.closed_until = Some(now + CLOSED_FOR);
            // When it may come in again, a few tries are left before the next time.
            tries.failures = FAILURES_MAX / 2;
        }
        self.places.set(place, tries);
        if let Some(user) = user {
            let mut tries = Tries::known(self.users.get(user), now);
            wait = wait.max(tries.fail(now));
            self.users.set(user.clone(), tries);
        }
        if is_shut_out { Penalty::ShutOut } else { Penalty::Wait(wait) }
    }

    /// A login that was not checked in time. It counts where there were wrong ones already: else
    /// those who flood us would have others shut out who only came at that time.
    pub(super) fn was_busy(&mut self, place: ClientPlace, now: Instant) {
        if self.places.get(&place).is_some_and(|tries| tries.failures(now) > 0) {
            let _penalty = self.failed(place, None, now);
        }
    }

    /// A good login. It does not make up for the wrong ones of the address: with an account of
    /// one's own one could guess others' for ever.
    pub(super) fn succeeded(&mut self, place: ClientPlace, user: &UserName, now: Instant) {
        self.good.set(place, now);
        if let Some(tries) = self.places.get(&place) {
            tries.closed_until = None;
        }
        self.users.remove(user);
        let mut known_places = self.known_places.get(user).map(std::mem::take).unwrap_or_default();
        known_places.retain(|(known, _)| *known != place);
        known_places.push((place, now));
        let surplus = known_places.len().saturating_sub(KNOWN_PLACES_MAX);
        known_places.drain(..surplus);
        self.known_places.set(user.clone(), known_places);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn place(n: u8) -> ClientPlace {
        ClientPlace::of([192, 0, 2, n].into())
    }

    fn name(text: &str) -> UserName {
        UserName::parse(text).unwrap()
    }

    #[test]
    fn waits_grow_and_then_the_door_is_shut_for_a_while() {
        let (mut throttle, now) = (LoginThrottle::default(), Instant::now());
        let user = name("anna");
        let mut waits = Vec::new();
        while let Penalty::Wait(wait) = throttle.failed(place(1), Some(&user), now) {
            waits.push(wait);
        }
        assert_eq!(waits.first(), Some(&DELAY_FIRST));
        assert!(waits.is_sorted() && waits.len() == 9, "{waits:?}");
        assert_eq!(waits.last(), Some(&DELAY_MAX));
        assert!(throttle.is_shut_out(place(1), now));
        assert!(!throttle.is_shut_out(place(2), now), "others come in");
        assert!(!throttle.is_shut_out(place(1), now + CLOSED_FOR), "not for ever");
        let later = now + CLOSED_FOR + MINUTE;
        assert_eq!(
            throttle.failed(place(1), None, later),
            Penalty::Wait(DELAY_MAX.min(DELAY_FIRST * 32))
        );
    }

    #[test]
    fn an_address_that_has_just_logged_in_is_never_shut_out() {
        let (mut throttle, now) = (LoginThrottle::default(), Instant::now());
        throttle.succeeded(place(1), &name("anna"), now);
        for n in 0..100 {
            let later = now + n * MINUTE;
            let penalty = throttle.failed(place(1), Some(&name("anna")), later);
            assert!(matches!(penalty, Penalty::Wait(_)), "{n}");
            assert!(!throttle.is_shut_out(place(1), later));
        }
        let much_later = now + WELCOME_FOR;
        assert!(
            matches!(throttle.failed(place(1), None, much_later), Penalty::Wait(_)),
            "forgotten"
        );
    }

    #[test]
    fn a_user_is_slowed_down_from_anywhere_but_not_shut_out() {
        let (mut throttle, now) = (LoginThrottle::default(), Instant::now());
        let user = name("anna");
        for n in 0..100 {
            assert!(matches!(throttle.failed(place(n), Some(&user), now), Penalty::Wait(_)), "{n}");
        }
        assert_eq!(throttle.failed(place(200), Some(&user), now), Penalty::Wait(DELAY_MAX));
        assert_eq!(
            throttle.failed(place(201), Some(&name("bert")), now),
            Penalty::Wait(DELAY_FIRST)
        );
        throttle.succeeded(place(202), &user, now);
        assert_eq!(throttle.failed(place(203), Some(&user), now), Penalty::Wait(DELAY_FIRST));
    }

    #[test]
    fn wrong_logins_of_long_ago_do_not_count() {
        let (mut throttle, now) = (LoginThrottle::default(), Instant::now());
        for n in 0..20 {
            let later = now + n * (FORGOTTEN_AFTER + MINUTE);
            assert_eq!(throttle.failed(place(1), None, later), Penalty::Wait(DELAY_FIRST));
        }
    }

    #[test]
    fn a_place_is_known_where_it_logged_in_within_a_day_until_somebody_guesses_there() {
        let (mut throttle, now) = (LoginThrottle::default(), Instant::now());
        let (anna, bert) = (name("anna"), name("bert"));
        assert_eq!(throttle.trust(place(1), &anna, now), PlaceTrust::Untried);
        throttle.succeeded(place(1), &anna, now);
        assert_eq!(throttle.trust(place(1), &anna, now), PlaceTrust::Known);
        assert_eq!(throttle.trust(place(1), &bert, now), PlaceTrust::Untried, "only its own");
        assert_eq!(throttle.trust(place(1), &anna, now + WELCOME_FOR), PlaceTrust::Untried);
        for _ in 0..FAILURES_MAX {
            assert_eq!(throttle.trust(place(1), &anna, now), PlaceTrust::Known);
            throttle.failed(place(1), Some(&bert), now);
        }
        assert_eq!(throttle.trust(place(1), &anna, now), PlaceTrust::Failed);
        let later = now + FORGOTTEN_AFTER + MINUTE;
        assert_eq!(throttle.trust(place(1), &anna, later), PlaceTrust::Known);
        for other in 0..KNOWN_PLACES_MAX {
            throttle.succeeded(place(100 + u8::try_from(other).unwrap()), &anna, now);
        }
        assert_eq!(throttle.trust(place(1), &anna, later), PlaceTrust::Untried, "it moved on");
    }

    #[test]
    fn a_name_rests_longer_with_each_wrong_password_but_not_for_long() {
        let (mut throttle, now) = (LoginThrottle::default(), Instant::now());
        let anna = name("anna");
        let rests: Vec<_> = (0..5)
            .map(|n| {
                let rest = throttle.rest(&anna, now);
                throttle.failed(place(n), Some(&anna), now);
                rest.as_millis()
            })
            .collect();
        assert_eq!(rests, [500, 1000, 2000, 2000, 2000]);
        throttle.succeeded(place(9), &anna, now);
        assert_eq!(throttle.rest(&anna, now), REST_FIRST);
    }

    #[test]
    fn a_login_that_was_not_checked_counts_only_where_others_were_wrong() {
        let (mut throttle, now) = (LoginThrottle::default(), Instant::now());
        for _ in 0..20 {
            throttle.was_busy(place(1), now);
        }
        assert_eq!(throttle.trust(place(1), &name("anna"), now), PlaceTrust::Untried);
        throttle.failed(place(1), None, now);
        for _ in 0..FAILURES_MAX {
            throttle.was_busy(place(1), now);
        }
        assert!(throttle.is_shut_out(place(1), now));
    }

    #[test]
    fn failures_from_many_addresses_make_no_good_one_forgotten() {
        let (mut throttle, now) = (LoginThrottle::default(), Instant::now());
        throttle.succeeded(place(1), &name("anna"), now);
        for number in 0..2 * u32::try_from(REMEMBERED_MAX).unwrap() {
            throttle.failed(ClientPlace::Local(number), None, now);
        }
        assert!(throttle.is_welcome(place(1), now));
    }
}
