//! Who has a place, who waits for one, and whose turn is next. Plain data under the pool's lock.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use policy::{Observed, registrable_domain};
use smtp::HostName;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::down::DownHosts;
use super::row::{MissingRoom, ParkedEntry, ParkedRow};
use super::site::{RateSlot, Site, site_of};
use super::strangers::{Claim, Strangers};
use super::wanted::{Bottleneck, Wanted};
use crate::connect::PoolKey;
use crate::connect::connection::Connection;
use crate::connect::pool::{Checkout, PoolLimits};

/// Slow start: connections to a host that has not taken anything from us yet.
const FIRST_WINDOW: usize = 2;
/// Our choice: so many entries in [`PoolState::row`] are not worth a look at which of them still
/// count.
const ROW_MIN: usize = 64;

#[derive(Debug)]
pub(super) struct PoolState {
    pub(super) limits: PoolLimits,
    pub(super) hosts: HashMap<PoolKey, Host>,
    /// By their place in `limits.limits`.
    pub(super) sites: HashMap<usize, Site>,
    /// Places taken, of all hosts.
    pub(super) open: usize,
    /// Counts waiters and parked connections.
    pub(super) serial: u64,
    /// Parked connections in the order of their parking; [`PoolState::forget_reused`] bounds how
    /// many of them may be in use again.
    pub(super) row: ParkedRow,
    /// Does a task watch over `row`?
    pub(super) has_reaper: bool,
    /// Places taken by all hosts of a registrable domain.
    pub(super) domains: HashMap<HostName, usize>,
    /// Who lets nobody in.
    pub(super) down: DownHosts,
    /// Who never took mail.
    pub(super) strangers: Strangers,
    /// Where room is waited for.
    pub(super) wanted: Wanted,
}

#[derive(Debug)]
pub(super) struct Host {
    /// The limit that it shares with others.
    pub(super) site: Option<usize>,
    /// Its registrable domain, unless it is one that the operator wrote down.
    pub(super) domain: Option<HostName>,
    pub(super) window: usize,
    /// Places taken, parked connections included.
    pub(super) open: usize,
    /// Of those, the ones with a session.
    pub(super) sessions: usize,
    pub(super) parked: Vec<Parked>,
    pub(super) waiters: VecDeque<Waiter>,
}

/// An unused connection; its place is counted.
#[derive(Debug)]
pub(super) struct Parked {
    pub(super) serial: u64,
    pub(super) connection: Connection,
    pub(super) observed: Arc<Observed>,
    pub(super) claim: Option<Claim>,
}

#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) serial: u64,
    pub(super) grant: oneshot::Sender<Checkout>,
}

impl Host {
    pub(super) fn has_room(&self) -> bool {
        self.open < self.window
    }

    /// How many more may wait? Those who gave up do not count. One for each connection is enough:
    /// it goes from one to the next without a pause, and the others wait where they are in nobody's
    /// way.
    pub(super) fn room_in_line(&mut self) -> usize {
        let most = self.window.max(1);
        if self.waiters.len() >= most {
            self.waiters.retain(|waiter| !waiter.grant.is_closed());
        }
        most.saturating_sub(self.waiters.len())
    }

    /// Is it one of those that share `bottleneck`?
    fn is_at(&self, bottleneck: &Bottleneck) -> bool {
        match bottleneck {
            Bottleneck::Limit(site) => self.site == Some(*site),
            Bottleneck::Site(domain) => self.domain.as_ref() == Some(domain),
            Bottleneck::Host(_) | Bottleneck::Address(_) => false,
        }
    }

    fn domain_has_room(&self, domains: &HashMap<HostName, usize>, most: usize) -> bool {
        let open = self.domain.as_ref().and_then(|domain| domains.get(domain));
        open.is_none_or(|open| *open < most)
    }

    /// The first one who still waits.
    pub(super) fn next_waiter(&mut self) -> Option<&Waiter> {
        while self.waiters.front().is_some_and(|waiter| waiter.grant.is_closed()) {
            self.waiters.pop_front();
        }
        self.waiters.front()
    }

    /// Hands `checkout` to the first one who takes it; back if nobody does.
    pub(super) fn hand_over(&mut self, mut checkout: Checkout) -> Option<Checkout> {
        while let Some(waiter) = self.waiters.pop_front() {
            match waiter.grant.send(checkout) {
                Ok(()) => return None,
                Err(refused) => checkout = refused,
            }
        }
        Some(checkout)
    }
}

impl PoolState {
    pub(super) fn new(limits: PoolLimits) -> Self {
        Self {
            limits,
            hosts: HashMap::new(),
            sites: HashMap::new(),
            open: 0,
            serial: 0,
            row: ParkedRow::default(),
            has_reaper: false,
            domains: HashMap::new(),
            down: DownHosts::default(),
            strangers: Strangers::default(),
            wanted: Wanted::default(),
        }
    }

    pub(super) fn host(&mut self, key: &PoolKey) -> &mut Host {
        let limits = &self.limits;
        self.hosts.entry(key.clone()).or_insert_with(|| {
            let site = site_of(&limits.limits, &key.host);
            let domain = match (&key.route, key.host.name()) {
                (None, Some(name)) => Some(registrable_domain(name)),
                (Some(_), _) | (None, None) => None,
            };
            Host {
                site,
                domain,
                window: FIRST_WINDOW.min(limits.per_host(site)),
                open: 0,
                sessions: 0,
                parked: Vec::new(),
                waiters: VecDeque::new(),
            }
        })
    }

    /// A session with the host of `key` is over.
    pub(super) fn end_session(&mut self, key: &PoolKey) {
        if let Some(host) = self.hosts.get_mut(key) {
            host.sessions = host.sessions.saturating_sub(1);
        }
    }

    /// Keeps to other limits from now on. What is open stays; windows that are too large shrink.
    pub(super) fn set_limits(&mut self, limits: PoolLimits) {
        self.limits = limits;
        self.sites.clear();
        for (key, host) in &mut self.hosts {
            host.site = site_of(&self.limits.limits, &key.host);
            host.window = host.window.min(self.limits.per_host(host.site));
            if let Some(site) = host.site {
                self.sites.entry(site).or_default().open += host.open;
            }
        }
        let limits = &self.limits.limits;
        self.row.sort_anew(|key| site_of(limits, &key.host));
    }

    /// When the next message may go to the site of `key`.
    pub(super) fn turn(&mut self, key: &PoolKey, now: Instant) -> RateSlot {
        // Looked up and not remembered: a host without places has no entry.
        let Some(site) = site_of(&self.limits.limits, &key.host) else { return RateSlot::Now };
        let Some(limit) = self.limits.limits.get(site) else { return RateSlot::Now };
        self.sites.entry(site).or_default().turn_in_line(limit, now, self.limits.per_host)
    }

    /// What the hosts of `key` share with others that has no place left, if there is such a thing.
    pub(super) fn full_site(&self, key: &PoolKey) -> Option<Bottleneck> {
        let host = self.hosts.get(key)?;
        if let Some(site) = host.site.filter(|site| !has_room(&self.limits, &self.sites, *site)) {
            return Some(Bottleneck::Limit(site));
        }
        host.domain.as_ref().filter(|domain| self.is_full(domain)).cloned().map(Bottleneck::Site)
    }

    fn is_full(&self, domain: &HostName) -> bool {
        self.domains.get(domain).is_some_and(|open| *open >= self.limits.per_site)
    }

    /// What so many wait for already that one more at `key` would wait in vain.
    pub(super) fn concurrency_limit(&mut self, key: &PoolKey) -> Option<Bottleneck> {
        let full = self.full_site(key);
        let has_place = self.open < self.limits.total;
        // A host without places has no entry, and none is made by a question.
        let host = self.hosts.get_mut(key)?;
        let is_first = host.next_waiter().is_none();
        let is_free = host.has_room() && has_place && full.is_none();
        if is_first && (!host.parked.is_empty() || is_free) {
            return None;
        }
        if host.room_in_line() == 0 {
            return Some(Bottleneck::Host(Arc::new(key.clone())));
        }
        full.filter(|bottleneck| self.room_at(bottleneck) == 0)
    }

    /// How many may wait for what some hosts share: as many as there are places.
    fn most_waiting(&self, bottleneck: &Bottleneck) -> usize {
        let limit = |site: &usize| self.limits.limits.get(*site).and_then(|it| it.connections);
        match bottleneck {
            Bottleneck::Limit(site) => limit(site).unwrap_or(self.limits.per_site).max(1),
            Bottleneck::Site(_) | Bottleneck::Host(_) | Bottleneck::Address(_) => {
                self.limits.per_site.max(1)
            }
        }
    }

    /// Room for how many more attempts is there?
    pub(super) fn room_at(&mut self, bottleneck: &Bottleneck) -> usize {
        match bottleneck {
            // Nobody has to wait for what there is not.
            Bottleneck::Host(key) if self.down.has(key) => usize::MAX,
            Bottleneck::Host(key) => {
                let is_full = self.open >= self.limits.total || self.full_site(key).is_some();
                let Some(host) = self.hosts.get_mut(key.as_ref()) else { return 1 };
                let free = if is_full { 0 } else { host.window.saturating_sub(host.open) };
                let unused = free + host.parked.len();
                host.room_in_line() + unused.saturating_sub(host.waiters.len())
            }
            Bottleneck::Address(place) => self.strangers.room(*place, self.limits.per_host),
            Bottleneck::Site(_) | Bottleneck::Limit(_) => {
                let its = self.hosts.values_mut().filter(|host| host.is_at(bottleneck));
                let waiting: usize = its
                    .filter_map(|host| host.next_waiter().is_some().then_some(host.waiters.len()))
                    .sum();
                self.most_waiting(bottleneck).saturating_sub(waiting)
            }
        }
    }

    /// What mail at `key` may wait for.
    pub(super) fn shared(&self, key: &PoolKey) -> Vec<Bottleneck> {
        let host = self.hosts.get(key);
        let limit = host.and_then(|host| host.site).map(Bottleneck::Limit);
        let site = host.and_then(|host| host.domain.clone()).map(Bottleneck::Site);
        let own = Bottleneck::Host(Arc::new(key.clone()));
        [Some(own), limit, site].into_iter().flatten().collect()
    }

    /// Something changed at these: whoever wants to hear of room there, does.
    pub(super) fn note_room(&mut self, shared: Vec<Bottleneck>) {
        for bottleneck in shared {
            if self.wanted.has(&bottleneck) && self.room_at(&bottleneck) > 0 {
                self.wanted.made(bottleneck);
            }
        }
    }

    /// Nothing is remembered of a host without places.
    pub(super) fn forget_if_over(&mut self, key: &PoolKey) {
        let is_over = |host: &mut Host| host.open == 0 && host.next_waiter().is_none();
        if self.hosts.get_mut(key).is_some_and(is_over) {
            self.hosts.remove(key);
        }
    }

    /// One more place is taken, or one less.
    pub(super) fn count(&mut self, key: &PoolKey, change: impl Fn(usize) -> usize) {
        self.open = change(self.open);
        let Some(host) = self.hosts.get_mut(key) else { return };
        host.open = change(host.open);
        if let Some(site) = host.site {
            let site = self.sites.entry(site).or_default();
            site.open = change(site.open);
        }
        if let Some(domain) = &host.domain {
            let open = self.domains.entry(domain.clone()).or_default();
            *open = change(*open);
            if *open == 0 {
                self.domains.remove(domain);
            }
        }
    }

    pub(super) fn next_serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    /// Whose turn is it, if a place in the whole pool is free: who has waited longest of those that
    /// their own host does not hold back.
    pub(super) fn longest_waiting(&mut self) -> Option<PoolKey> {
        // Those without places whose waiters gave up: no place of theirs will ever be released.
        self.hosts.retain(|_, host| host.open > 0 || host.next_waiter().is_some());
        let (limits, sites, domains) = (&self.limits, &self.sites, &self.domains);
        let turns = self.hosts.iter_mut().filter(|(_, host)| {
            host.has_room()
                && host.site.is_none_or(|site| has_room(limits, sites, site))
                && host.domain_has_room(domains, limits.per_site)
        });
        let serials =
            turns.filter_map(|(key, host)| host.next_waiter().map(|waiter| (waiter.serial, key)));
        serials.min_by_key(|(serial, _)| *serial).map(|(_, key)| key.clone())
    }

    /// Does another host wait for just the place that a connection of `key` holds?
    pub(super) fn is_wanted_elsewhere(&mut self, key: &PoolKey) -> bool {
        let is_full = self.open >= self.limits.total;
        let full_site = self.full_site(key);
        // The usual case, found out without a look at all hosts.
        if !is_full && full_site.is_none() {
            return false;
        }
        let (limits, sites, domains) = (&self.limits, &self.sites, &self.domains);
        self.hosts.values_mut().any(|host| {
            let shares_full = full_site.as_ref().is_some_and(|full| host.is_at(full));
            let has_sites = host.site.is_none_or(|site| has_room(limits, sites, site))
                && host.domain_has_room(domains, limits.per_site);
            let is_held_back = shares_full || (is_full && has_sites);
            is_held_back && host.has_room() && host.next_waiter().is_some()
        })
    }

    /// An unused connection, to make room for another host: of whichever host, or of the same site.
    pub(super) fn take_oldest_parked(&mut self, room: MissingRoom) -> Option<(PoolKey, Parked)> {
        while let Some(ParkedEntry { key, serial, until: _ }) = self.row.pop_oldest(room) {
            if let Some(parked) = self.unpark(&key, serial) {
                return Some((key, parked));
            }
        }
        None
    }

    /// An unused connection to a host of `domain`, likewise.
    pub(super) fn take_parked_of(&mut self, domain: &HostName) -> Option<(PoolKey, Parked)> {
        let is_its = |host: &Host| host.domain.as_ref() == Some(domain);
        let its = self.hosts.iter().filter(|(_, host)| is_its(host));
        let parked = its.filter_map(|(key, host)| Some((key, host.parked.first()?.serial)));
        let (key, serial) = parked.min_by_key(|(_, serial)| *serial)?;
        let key = key.clone();
        self.unpark(&key, serial).map(|parked| (key, parked))
    }

    /// Drops the entries of connections that are in use again, once they are as many as the others:
    /// else a busy connection would leave one behind for each mail of `connection_idle`.
    pub(super) fn forget_reused(&mut self) {
        if self.row.len() <= ROW_MIN.max(2 * self.open) {
            return;
        }
        let hosts = &self.hosts;
        self.row.retain(|entry| {
            let is_it = |parked: &Parked| parked.serial == entry.serial;
            hosts.get(&entry.key).is_some_and(|host| host.parked.iter().any(is_it))
        });
    }

    pub(super) fn unpark(&mut self, key: &PoolKey, serial: u64) -> Option<Parked> {
        let parked = &mut self.hosts.get_mut(key)?.parked;
        let index = parked.iter().position(|parked| parked.serial == serial)?;
        Some(parked.swap_remove(index))
    }
}

pub(super) fn has_room(limits: &PoolLimits, sites: &HashMap<usize, Site>, site: usize) -> bool {
    let limit = limits.limits.get(site);
    limit.is_none_or(|limit| sites.get(&site).is_none_or(|site| site.has_room(limit)))
}
