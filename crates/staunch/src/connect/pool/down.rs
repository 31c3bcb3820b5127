//! Hosts that let nobody in: what one attempt found out is known to the mail of all next hops that
//! share the host, and one of them asks it again.
//!
//! Only what does not depend on who asks, and with what: TCP, and the silence before the greeting.
//! Whoever asked last asks again when its own lane says so; the others are told until the pause is
//! over, and then the first one asks.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use spool::LaneKey;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::places::PoolState;
use crate::connect::pool::{Bottleneck, Pool, Slot};
use crate::connect::{ConnectFailure, DownHost, PoolKey};

/// Our choice: how long others are told of a first failure; after each further one twice as long.
const PAUSE_FIRST: Duration = Duration::from_secs(15);
/// Our choice: the longest that others are told without anybody asking again.
const PAUSE_MAX: Duration = Duration::from_secs(300);
/// Our choice: as long as one asks, the others are told. It takes no longer, with a few addresses
/// that are all silent.
const ASKING_MAX: Duration = Duration::from_secs(120);
/// Our choice: so many are remembered; some 300 octets each. Of others every next hop finds out by
/// itself.
const HOSTS_MAX: usize = 4_096;
/// Our choice: hosts that are checked at once ([`crate::connect::tcp_check`]).
pub(super) const CHECKED_AT_ONCE: usize = 256;
/// A host that nobody has asked for so long makes room for another one.
const KEPT: Duration = Duration::from_secs(900);
/// A host that shuts again before it has let people in for so long goes on where it was, so nobody
/// is called to it at short intervals.
const CALM: Duration = Duration::from_secs(300);

#[derive(Debug, Default)]
pub(super) struct DownHosts {
    hosts: HashMap<PoolKey, Down>,
    /// Failures noted so far, of all hosts: the number of the last [`CheckRound`].
    failures: u64,
}

#[derive(Debug)]
struct Down {
    failure: Arc<ConnectFailure>,
    /// When it failed the last time.
    at: Instant,
    /// How often in a row.
    failures: u32,
    /// Since when it lets people in again, if it does.
    open_since: Option<Instant>,
    /// Until when others are told.
    until: Instant,
    /// Who asks, or asked last.
    asker: LaneKey,
    /// Which failure that was, of all.
    round: CheckRound,
    /// Where to probe because of it; nowhere if that was begun, or would be in vain.
    addresses: Vec<SocketAddr>,
}

/// Checks that have begun; they count as long as this lives.
#[derive(Debug)]
pub(crate) struct BegunChecks {
    pub(crate) round: CheckRound,
    /// Tried in turn by each check, until one accepts TCP.
    pub(crate) addresses: Vec<SocketAddr>,
    _permit: OwnedSemaphorePermit,
}

/// The checks of a host that follow one failure.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct CheckRound(u64);

impl DownHosts {
    /// Does the host let nobody in, as far as is known?
    pub(super) fn has(&self, key: &PoolKey) -> bool {
        self.hosts.get(key).is_some_and(|down| down.open_since.is_none())
    }

    /// What `lane` is told at `now` instead of asking; nothing if it is the one that asks.
    fn known(&mut self, key: &PoolKey, lane: &LaneKey, now: Instant) -> Option<DownHost> {
        let down = self.hosts.get_mut(key).filter(|down| down.open_since.is_none())?;
        if down.asker != *lane && down.until > now {
            let failure = Arc::clone(&down.failure);
            let known_for = Some(now.duration_since(down.at));
            return Some(DownHost { key: Arc::new(key.clone()), failure, known_for });
        }
        down.asker.clone_from(lane);
        down.until = down.until.max(now + ASKING_MAX);
        None
    }

    /// `lane` asked, and was not let in. Nothing comes of it if too many are remembered.
    fn failed(
        &mut self,
        key: &PoolKey,
        lane: &LaneKey,
        (failure, addresses): (ConnectFailure, &[SocketAddr]),
        now: Instant,
    ) -> Result<DownHost, ConnectFailure> {
        if self.hosts.len() >= HOSTS_MAX && !self.hosts.contains_key(key) {
            self.hosts.retain(|_, down| now.duration_since(down.at) < KEPT);
            if self.hosts.len() >= HOSTS_MAX {
                return Err(failure);
            }
        }
        let (failure, known) = (Arc::new(failure), self.hosts.get(key));
        let told =
            DownHost { key: Arc::new(key.clone()), failure: Arc::clone(&failure), known_for: None };
        // Those that began at the same time are one failure.
        if known.is_some_and(|known| known.open_since.is_none() && known.asker != *lane) {
            return Ok(told);
        }
        let is_calm = |since: Instant| now.duration_since(since) >= CALM;
        let before = known.filter(|known| !known.open_since.is_some_and(is_calm));
        let failures = before.map_or(0, |known| known.failures).saturating_add(1);
        let (until, asker) = (now + pause(failures), lane.clone());
        self.failures += 1;
        let round = CheckRound(self.failures);
        let addresses = if failure.is_unreachable() { addresses.to_vec() } else { Vec::new() };
        let open_since = None;
        let down = Down { failure, at: now, failures, open_since, until, asker, round, addresses };
        self.hosts.insert(key.clone(), down);
        Ok(told)
    }

    /// Somebody was let in. Is that news?
    fn let_in(&mut self, key: &PoolKey, now: Instant) -> bool {
        let shut = self.hosts.get_mut(key).filter(|down| down.open_since.is_none());
        shut.map(|down| down.open_since = Some(now)).is_some()
    }
}

fn pause(failures: u32) -> Duration {
    let doubled = 1u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
    PAUSE_FIRST.saturating_mul(doubled).min(PAUSE_MAX)
}

impl Pool {
    /// What is known of a host that lets nobody in; nothing if `lane` is to ask it.
    pub(crate) fn down(&self, key: &PoolKey, lane: &LaneKey) -> Option<DownHost> {
        // Nearly always there is none at all.
        if self.shared.down.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let mut state = self.lock();
        state.down.known(key, lane, Instant::now())
    }

    /// No session came about in the place `slot`, that `lane` asked for: others are told so from
    /// now on, unless some have a session there.
    ///
    /// # Errors
    ///
    /// The failure, if it says nothing of the host as such, or cannot be remembered.
    pub(crate) fn note_down(
        &self,
        slot: &Slot,
        lane: &LaneKey,
        (failure, addresses): (ConnectFailure, &[SocketAddr]),
    ) -> Result<DownHost, ConnectFailure> {
        let key = slot.key();
        let mut guard = self.lock();
        let state = &mut *guard;
        let has_sessions = state.hosts.get(key).is_some_and(|host| host.sessions > 0);
        if has_sessions || !failure.is_shut_to_all() {
            return Err(failure);
        }
        let told = state.down.failed(key, lane, (failure, addresses), Instant::now())?;
        self.shared.down.store(state.down.hosts.len(), Ordering::Relaxed);
        // Whoever waits for a connection there need not wait.
        self.note_room(state, key);
        Ok(told)
    }

    /// The checks that are to follow the last failure there, and where, once. Nothing if so many
    /// hosts are checked already: anybody can name hosts that are dead.
    pub(crate) fn begin_checks(&self, key: &PoolKey) -> Option<BegunChecks> {
        let mut state = self.lock();
        let down = state.down.hosts.get_mut(key)?;
        if down.addresses.is_empty() || down.open_since.is_some() {
            return None;
        }
        let permit = Arc::clone(&self.shared.tcp_checks).try_acquire_owned().ok()?;
        Some(BegunChecks {
            round: down.round,
            addresses: std::mem::take(&mut down.addresses),
            _permit: permit,
        })
    }

    /// Is the host down since that failure, and none after it?
    pub(crate) fn goes_on(&self, key: &PoolKey, round: CheckRound) -> bool {
        let state = self.lock();
        let down = state.down.hosts.get(key);
        down.is_some_and(|down| down.round == round && down.open_since.is_none())
    }

    /// It accepts TCP again: the mail that waits goes on.
    pub(crate) fn note_open(&self, key: &PoolKey) {
        self.let_in(&mut self.lock(), key);
    }

    /// Returns when no new connections are made any more.
    pub(crate) async fn closed(&self) {
        self.shared.closing.cancelled().await;
    }

    fn let_in(&self, state: &mut PoolState, key: &PoolKey) {
        if state.down.let_in(key, Instant::now()) {
            state.wanted.made(Bottleneck::Host(Arc::new(key.clone())));
            self.shared.room_made.notify_one();
        }
    }

    /// Does the host let nobody in, as far as is known?
    pub(crate) fn is_down(&self, key: &PoolKey) -> bool {
        self.lock().down.has(key)
    }

    /// The operator wants mail tried now: whoever comes first to a host asks it.
    pub(crate) fn ask_down_hosts(&self) {
        let now = Instant::now();
        self.lock().down.hosts.values_mut().for_each(|down| down.until = now);
    }

    /// A session there is over.
    pub(super) fn note_session_end(&self, key: &PoolKey) {
        self.lock().end_session(key);
    }

    /// The host let somebody in.
    pub(super) fn note_session(&self, key: &PoolKey) {
        let mut guard = self.lock();
        let state = &mut *guard;
        if let Some(host) = state.hosts.get_mut(key) {
            host.sessions += 1;
        }
        self.let_in(state, key);
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use smtp::{Domain, HostName};

    use super::*;
    use crate::connect::{ConnectCause, Endpoint, Sources};

    fn key(host: &str) -> PoolKey {
        let host = Domain::Name(HostName::parse(host).unwrap());
        PoolKey { route: None, sources: Sources::default(), host, endpoint: Endpoint::mx(25) }
    }

    fn fails(hosts: &mut DownHosts, key: &PoolKey, lane: &LaneKey, at: Instant) -> bool {
        let cause = ConnectCause::Tcp(io::ErrorKind::ConnectionRefused.into());
        let failure = ConnectFailure { host: key.host.clone(), address: None, cause };
        hosts.failed(key, lane, (failure, &[]), at).is_ok()
    }

    #[test]
    fn one_lane_asks_and_the_others_are_told() {
        let (a, b, c) = (LaneKey::new("a.test"), LaneKey::new("b.test"), LaneKey::new("c.test"));
        let (start, key) = (Instant::now(), key("mx.test"));
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut hosts = DownHosts::default();
        assert!(hosts.known(&key, &a, at(0)).is_none());
        fails(&mut hosts, &key, &a, at(0));
        assert!(hosts.known(&key, &b, at(1)).is_some());
        assert!(hosts.known(&key, &a, at(2)).is_none(), "it asks whenever its lane says so");
        assert!(hosts.known(&key, &b, at(16)).is_some(), "it is being asked");
        fails(&mut hosts, &key, &a, at(17));
        assert!(hosts.known(&key, &b, at(46)).is_some());
        assert!(hosts.known(&key, &b, at(47)).is_none(), "twice as long, then another one asks");
        assert!(hosts.known(&key, &c, at(48)).is_some());
        assert!(hosts.known(&key, &a, at(48)).is_some(), "that asked before");
        fails(&mut hosts, &key, &a, at(49));
        assert!(hosts.known(&key, &c, at(166)).is_some(), "what began before counts for nothing");
        assert!(hosts.known(&key, &c, at(167)).is_none(), "whoever asks may be gone");
    }

    #[test]
    fn a_host_that_shuts_again_at_once_calls_nobody_at_short_intervals() {
        let (start, key, lane) = (Instant::now(), key("mx.test"), LaneKey::new("a.test"));
        let (mut hosts, mut now, mut waits) = (DownHosts::default(), start, Vec::new());
        for _ in 0..6 {
            assert!(fails(&mut hosts, &key, &lane, now) && hosts.has(&key));
            let other = LaneKey::new("b.test");
            let shut = now;
            while hosts.known(&key, &other, now).is_some() {
                now += Duration::from_secs(1);
            }
            waits.push(now.duration_since(shut).as_secs());
            assert!(hosts.let_in(&key, now) && !hosts.let_in(&key, now) && !hosts.has(&key));
        }
        assert_eq!(waits, [15, 30, 60, 120, 240, 300]);
        assert!(hosts.known(&key, &lane, now).is_none());
        now += CALM;
        fails(&mut hosts, &key, &lane, now);
        let later = now + PAUSE_FIRST;
        assert!(hosts.known(&key, &LaneKey::new("b.test"), later).is_none(), "it was well");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (start, lane) = (Instant::now(), LaneKey::new("a.test"));
        let mut hosts = DownHosts::default();
        for number in 0..HOSTS_MAX {
            assert!(fails(&mut hosts, &key(&format!("mx{number}.test")), &lane, start));
        }
        assert!(!fails(&mut hosts, &key("other.test"), &lane, start), "each finds out by itself");
        assert!(fails(&mut hosts, &key("mx7.test"), &lane, start));
        assert!(fails(&mut hosts, &key("other.test"), &lane, start + KEPT));
        assert_eq!(hosts.hosts.len(), 1);
    }
}
