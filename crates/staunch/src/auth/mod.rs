//! Who may submit mail: users, their verifiers, and what becomes of wrong logins.
//!
//! A check is slow on purpose, so only a few run at once, on threads of their own, and what was
//! right a moment ago is remembered. A name that nobody has costs as much as one that somebody has,
//! and gets the same answer: neither tells who there is. (Only when more is to be checked than can
//! be, names that somebody has are checked first.)
//!
//! A login passes, in this order: the address (`throttle`), the name (`try_queues`), the machine
//! (`checks`).
//!
//! Not here: the words of SASL (`smtp::sasl`), and what a user may send (`accept::handler`).

mod checks;
pub(crate) mod edit;
mod facts;
mod prepared;
mod remembered;
mod scram;
pub(crate) mod secret;
mod spraying;
mod throttle;
mod try_queues;
pub(crate) mod users;
pub(crate) mod verifier;
mod wait_queue;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_lc_rs::hmac;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::auth::facts::AuthFact;
pub(crate) use crate::auth::throttle::Penalty;
use crate::auth::throttle::{LoginThrottle, PlaceTrust};
use crate::lock::lock;
use crate::place::ClientPlace;
use checks::{CheckClaim, Checks};
use remembered::{RememberedLogins, Tag};
use scram::ScramKeys;
use secret::{SEED_OCTETS, SaltSecret};
use spraying::Spraying;
use try_queues::{TryPermit, TryQueues};
use users::{Stamp, UserName, Users, UsersError};
use verifier::Verifier;

/// How long a login may wait until it is checked; then the client is told to come back.
const CHECK_WAIT: Duration = Duration::from_secs(30);
/// How often it is looked whether the users file has changed.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Users and what is known about logins.
#[derive(Debug)]
pub(crate) struct Auth {
    file: Mutex<CurrentUsers>,
    checks: Arc<Checks>,
    turns: Arc<TryQueues>,
    remembered: Mutex<RememberedLogins>,
    throttle: Mutex<LoginThrottle>,
    spraying: Mutex<Spraying>,
    /// What is made up for names that nobody has comes from it.
    secret: hmac::Key,
}

/// The users file as it counts now.
#[derive(Debug, Default)]
struct CurrentUsers {
    path: Option<PathBuf>,
    users: Arc<Users>,
    /// Grows with each change.
    generation: u64,
    /// Of the file that was looked at last, whether it could be used or not.
    seen: Option<Stamp>,
}

/// Users that were read and do not count yet.
#[derive(Debug)]
pub(crate) struct PreparedUsers {
    path: Option<PathBuf>,
    users: Users,
}

/// A file that is not the one that was looked at last.
#[derive(Debug)]
struct Noticed {
    path: PathBuf,
    /// Of the users that counted then.
    generation: u64,
    now: Option<Stamp>,
}

/// Somebody who has proved who it is.
#[derive(Clone, Debug)]
pub(crate) struct Login {
    pub(crate) name: UserName,
    /// The verifier that was right: if the user has another one later, the login ends.
    verifier: Arc<Verifier>,
}

/// A name that a client says it has.
#[derive(Debug)]
struct Claimed {
    /// If it can be one.
    user: Option<UserName>,
    /// As it is compared, or as it came.
    text: Box<str>,
}

impl Claimed {
    fn new(name: &str) -> Self {
        let user = UserName::parse(name).ok();
        let text = user.as_ref().map_or(name, UserName::as_str).into();
        Self { user, text }
    }
}

/// What a login came to.
#[derive(Debug)]
pub(crate) enum LoginVerdict {
    /// Name and password, or the proof, are right.
    Welcome(Login),
    /// Name or password is wrong.
    Wrong(Penalty),
    /// The address has guessed too often.
    ShutOut,
    /// Too many others are being checked. It counts as a wrong login of an address that had one.
    Busy,
}

/// What can be offered to clients under TLS.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Offered {
    /// There are no users.
    Nothing,
    /// PLAIN and LOGIN, which work with every verifier.
    Passwords,
    /// And SCRAM, since it works for everybody.
    Scram,
}

/// The keys of a name for one SCRAM exchange.
#[derive(Debug)]
pub(crate) struct Challenged {
    name: Option<UserName>,
    /// Somebody's; none for a name that nobody has.
    verifier: Option<Arc<Verifier>>,
    keys: ScramKeys,
}

impl Challenged {
    /// What the client salts its password with.
    pub(crate) fn salt(&self) -> &[u8] {
        self.keys.salt()
    }

    /// Rounds of PBKDF2 that the client has to do.
    pub(crate) fn iterations(&self) -> u32 {
        self.keys.iterations()
    }
}

impl Auth {
    /// With the users of a file, or none.
    pub(crate) fn new(prepared: PreparedUsers, secret: &SaltSecret) -> Arc<Self> {
        let auth = Arc::new(Self {
            file: Mutex::default(),
            checks: Checks::new(),
            turns: Arc::default(),
            remembered: Mutex::default(),
            throttle: Mutex::default(),
            spraying: Mutex::default(),
            secret: hmac::Key::new(hmac::HMAC_SHA256, secret),
        });
        auth.apply(prepared);
        auth
    }

    /// Reads a users file for [`Auth::apply`].
    ///
    /// # Errors
    ///
    /// [`UsersError`].
    pub(crate) fn prepare(path: Option<&Path>) -> Result<PreparedUsers, UsersError> {
        let users = path.map(Users::read).transpose()?.unwrap_or_default();
        Ok(PreparedUsers { path: path.map(Path::to_owned), users })
    }

    /// From now on these users count.
    pub(crate) fn apply(&self, prepared: PreparedUsers) {
        Self::replace(&mut lock(&self.file), prepared);
    }

    fn replace(file: &mut CurrentUsers, prepared: PreparedUsers) {
        let PreparedUsers { path, users } = prepared;
        if let Some(path) = &path {
            AuthFact::UsersLoaded { path, users: users.len(), scram: users.all_have_scram }.tell();
            if users.costly() > 0 {
                AuthFact::CostlyPasswords { path, users: users.costly() }.tell();
            }
            if users.is_exposed {
                AuthFact::UsersExposed { path }.tell();
            }
        }
        let seen = users.stamp;
        let generation = file.generation + 1;
        *file = CurrentUsers { path, users: Arc::new(users), generation, seen };
    }

    /// Looks every second whether the file has changed, until `stop`. A file that cannot be used is
    /// told of once, and the old user list stays active.
    pub(crate) async fn watch(self: Arc<Self>, stop: CancellationToken) {
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = looks.tick() => {}
            }
            let auth = Arc::clone(&self);
            // A panic there was reported already.
            let _looked = tokio::task::spawn_blocking(move || auth.look()).await;
        }
    }

    fn look(&self) {
        if let Some(noticed) = self.notice() {
            let read = Self::prepare(Some(&noticed.path));
            self.follow(&noticed, read);
        }
    }

    fn notice(&self) -> Option<Noticed> {
        let (path, seen, generation) = {
            let file = lock(&self.file);
            (file.path.clone()?, file.seen, file.generation)
        };
        let now = Stamp::now(&path);
        (now != seen).then_some(Noticed { path, generation, now })
    }

    /// What was read counts only if nothing else was applied meanwhile: a reload may have changed
    /// `access.users_file`, and users of the file before must not come back.
    fn follow(&self, noticed: &Noticed, read: Result<PreparedUsers, UsersError>) {
        let mut file = lock(&self.file);
        if file.generation != noticed.generation {
            return;
        }
        match read {
            Ok(prepared) => Self::replace(&mut file, prepared),
            Err(error) => {
                AuthFact::UsersRefused { error: &error }.tell();
                file.seen = noticed.now;
            }
        }
    }

    fn users(&self) -> (Arc<Users>, u64) {
        let file = lock(&self.file);
        (Arc::clone(&file.users), file.generation)
    }

    /// What can be offered now.
    pub(crate) fn offered(&self) -> Offered {
        let (users, _) = self.users();
        match users.len() {
            0 => Offered::Nothing,
            _ if users.all_have_scram => Offered::Scram,
            _ => Offered::Passwords,
        }
    }

    /// Has `client` guessed too often?
    pub(crate) fn is_shut_out(&self, client: ClientPlace) -> bool {
        lock(&self.throttle).is_shut_out(client, Instant::now())
    }

    /// Does `login` still count: is the user there, with the password of then?
    pub(crate) fn is_current(&self, login: &Login) -> bool {
        self.users().0.get(&login.name).is_some_and(|now| *now == login.verifier)
    }

    /// Is it the password of `name`?
    pub(crate) async fn check(
        &self,
        client: ClientPlace,
        name: &str,
        password: &str,
    ) -> LoginVerdict {
        let until = Instant::now() + CHECK_WAIT;
        let name = Claimed::new(name);
        let mut turn = match self.turn(client, name.user.as_ref(), until).await {
            Ok(turn) => turn,
            Err(verdict) => return verdict,
        };
        let verdict = self.check_now(client, name, password, (until, &mut turn)).await;
        Self::leave(turn, client, &verdict);
        verdict
    }

    /// Waits until it is the turn of this place to try the name's password; none is needed where
    /// the user is known, and for what can be no name.
    async fn turn(
        &self,
        client: ClientPlace,
        name: Option<&UserName>,
        until: Instant,
    ) -> Result<Option<TryPermit>, LoginVerdict> {
        if self.is_shut_out(client) {
            return Err(LoginVerdict::ShutOut);
        }
        let Some(name) = name else { return Ok(None) };
        let trust = lock(&self.throttle).trust(client, name, Instant::now());
        match trust {
            PlaceTrust::Known => return Ok(None),
            PlaceTrust::Untried | PlaceTrust::Failed => {}
        }
        let turn = timeout_at(until, self.turns.of(name, trust, client)).await;
        let turn = turn.map_err(|_| self.busy(client))?;
        // Others from there may have failed meanwhile: a hundred connections are no way around the
        // brake.
        if self.is_shut_out(client) {
            // Nor do they keep others waiting.
            if let Some(turn) = turn {
                turn.release(client);
            }
            return Err(LoginVerdict::ShutOut);
        }
        Ok(turn)
    }

    /// A password is compared now: if it comes to nothing, the name rests.
    fn begin(&self, turn: Option<&mut TryPermit>) {
        if let Some(turn) = turn {
            let rest = lock(&self.throttle).rest(turn.name(), Instant::now());
            turn.rest(rest);
        }
    }

    fn leave(turn: Option<TryPermit>, client: ClientPlace, verdict: &LoginVerdict) {
        match (turn, verdict) {
            (Some(turn), LoginVerdict::Welcome(_)) => turn.release(client),
            (
                _,
                LoginVerdict::Welcome(_)
                | LoginVerdict::Wrong(_)
                | LoginVerdict::ShutOut
                | LoginVerdict::Busy,
            ) => {}
        }
    }

    fn busy(&self, client: ClientPlace) -> LoginVerdict {
        lock(&self.throttle).was_busy(client, Instant::now());
        LoginVerdict::Busy
    }

    async fn check_now(
        &self,
        client: ClientPlace,
        name: Claimed,
        password: &str,
        (until, turn): (Instant, &mut Option<TryPermit>),
    ) -> LoginVerdict {
        let (users, generation) = self.users();
        let password = prepared::password(password);
        let own = name.user.as_ref().and_then(|name| users.get(name));
        let tag = Tag::new(&self.secret, generation, &name.text, password.as_bytes());
        if own.is_some() && lock(&self.remembered).knows(&tag, Instant::now()) {
            return self.end(client, name.user, own.cloned());
        }
        // A stranger's name is checked against somebody's verifier, always the same one, so that it
        // takes as long as names do in this file; the answer is no in any case.
        let Some(verifier) = own.or_else(|| users.any(self.number(&name.text))).cloned() else {
            return self.end(client, name.user, None);
        };
        let is_good = lock(&self.throttle).is_welcome(client, Instant::now());
        let claim = match (own, &*turn) {
            (Some(_), None) => CheckClaim::GoodPlace,
            _ if is_good => CheckClaim::GoodPlace,
            (Some(_), Some(_)) => CheckClaim::KnownName,
            (None, _) => CheckClaim::Nothing,
        };
        let permit = timeout_at(until, self.checks.acquire(claim, client)).await;
        let Ok(Some(permit)) = permit else { return self.busy(client) };
        if self.is_shut_out(client) {
            return LoginVerdict::ShutOut;
        }
        self.begin(turn.as_mut());
        let check = tokio::task::spawn_blocking(move || {
            let is_right = verifier.check(password.as_bytes());
            // Here and not by whoever waits: a client that leaves does not make room for another
            // check.
            drop(permit);
            is_right
        });
        let Ok(is_right) = check.await else { return self.busy(client) };
        let proved = own.filter(|_| is_right).cloned();
        if proved.is_some() {
            lock(&self.remembered).note(tag, Instant::now());
        }
        self.end(client, name.user, proved)
    }

    /// Notes how a login ended. `proved` is the user's own verifier, if it was right.
    fn end(
        &self,
        client: ClientPlace,
        name: Option<UserName>,
        proved: Option<Arc<Verifier>>,
    ) -> LoginVerdict {
        let now = Instant::now();
        let penalty = {
            let mut throttle = lock(&self.throttle);
            match (&name, proved) {
                (Some(name), Some(verifier)) => {
                    throttle.succeeded(client, name, now);
                    return LoginVerdict::Welcome(Login { name: name.clone(), verifier });
                }
                (name, _) => throttle.failed(client, name.as_ref(), now),
            }
        };
        if let Some(name) = name {
            let (users, _) = self.users();
            if users.get(&name).is_some()
                && lock(&self.spraying).notes(&name, client, users.len(), now)
            {
                AuthFact::PasswordSpraying.tell();
            }
        }
        LoginVerdict::Wrong(penalty)
    }

    /// The keys of `name` for a SCRAM exchange. For a name that nobody has they are invented, so
    /// that the client learns of it no sooner than of a wrong password.
    pub(crate) fn challenge(&self, name: &str) -> Option<Challenged> {
        let (users, _) = self.users();
        let name = Claimed::new(name);
        let own = name.user.as_ref().and_then(|name| users.get(name));
        let verifier = own.or_else(|| users.any(self.number(&name.text)))?;
        let Verifier::Scram(keys) = verifier.as_ref() else { return None };
        let keys = match own {
            Some(_) => keys.clone(),
            None => ScramKeys::invented(keys, &self.seed(&name.text)),
        };
        Some(Challenged { name: name.user, verifier: own.cloned(), keys })
    }

    /// The end of a SCRAM exchange: the verdict, and with a welcome the signature that proves to
    /// the client who we are.
    pub(crate) async fn prove(
        &self,
        client: ClientPlace,
        challenged: Challenged,
        auth_message: &[u8],
        proof: &[u8],
    ) -> (LoginVerdict, Vec<u8>) {
        let until = Instant::now() + CHECK_WAIT;
        let mut turn = match self.turn(client, challenged.name.as_ref(), until).await {
            Ok(turn) => turn,
            Err(verdict) => return (verdict, Vec::new()),
        };
        self.begin(turn.as_mut());
        let signature = challenged.keys.verify(auth_message, proof);
        let proved = challenged.verifier.filter(|_| signature.is_some());
        let verdict = self.end(client, challenged.name, proved);
        Self::leave(turn, client, &verdict);
        (verdict, signature.map(Vec::from).unwrap_or_default())
    }

    /// A login that failed before there was a proof.
    pub(crate) fn refuse(&self, client: ClientPlace) -> LoginVerdict {
        self.end(client, None, None)
    }

    fn seed(&self, name: &str) -> [u8; SEED_OCTETS] {
        let mut seed = [0; SEED_OCTETS];
        let tag = hmac::sign(&self.secret, name.as_bytes());
        for (octet, signed) in seed.iter_mut().zip(tag.as_ref()) {
            *octet = *signed;
        }
        seed
    }

    /// A number that `name` has, and nobody else can tell.
    fn number(&self, name: &str) -> u64 {
        let seed = self.seed(name);
        seed.iter().take(8).fold(0, |number, octet| (number << 8) | u64::from(*octet))
    }
}

#[cfg(test)]
mod tests;
