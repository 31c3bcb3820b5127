//! Who has a place, who waits for one, and whose turn is next. Plain data under the pool's lock.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use policy::Observed;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::row::{Entry, Room, Row};
use super::site::{InLine, Site, site_of};
use super::{Checkout, PoolKey, PoolLimits, WAITING_SHARE};
use crate::connection::Connection;

/// Slow start: connections to a host that has not taken anything from us yet.
const FIRST_WINDOW: usize = 2;
/// Ours: so many entries in [`State::row`] are not worth a look at which of them still count.
const ROW_MIN: usize = 64;

#[derive(Debug)]
pub(super) struct State {
    pub(super) limits: PoolLimits,
    pub(super) hosts: HashMap<PoolKey, Host>,
    /// By their place in `limits.limits`.
    pub(super) sites: HashMap<usize, Site>,
    /// Places taken, of all hosts.
    pub(super) open: usize,
    /// Counts waiters and parked connections.
    pub(super) serial: u64,
    /// Parked connections in the order of their parking; [`State::forget_reused`] bounds how many of them
    /// may be in use again.
    pub(super) row: Row,
    /// Does a task watch over `row`?
    pub(super) has_reaper: bool,
}

#[derive(Debug)]
pub(super) struct Host {
    /// The limit that it shares with others.
    pub(super) site: Option<usize>,
    pub(super) window: usize,
    /// Places taken, parked connections included.
    pub(super) open: usize,
    pub(super) parked: Vec<Parked>,
    pub(super) waiters: VecDeque<Waiter>,
}

/// An unused connection; its place is counted.
#[derive(Debug)]
pub(super) struct Parked {
    pub(super) serial: u64,
    pub(super) connection: Connection,
    pub(super) observed: Arc<Observed>,
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

    /// Is the line long enough? Those who gave up do not count.
    pub(super) fn is_crowded(&mut self, most: usize) -> bool {
        if self.waiters.len() >= most {
            self.waiters.retain(|waiter| !waiter.grant.is_closed());
        }
        self.waiters.len() >= most
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

impl State {
    pub(super) fn new(limits: PoolLimits) -> Self {
        Self {
            limits,
            hosts: HashMap::new(),
            sites: HashMap::new(),
            open: 0,
            serial: 0,
            row: Row::default(),
            has_reaper: false,
        }
    }

    pub(super) fn host(&mut self, key: &PoolKey) -> &mut Host {
        let limits = &self.limits;
        self.hosts.entry(key.clone()).or_insert_with(|| {
            let site = site_of(&limits.limits, &key.host);
            Host {
                site,
                window: FIRST_WINDOW.min(limits.per_host(site)),
                open: 0,
                parked: Vec::new(),
                waiters: VecDeque::new(),
            }
        })
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

    /// Who may wait for one host, or for one site.
    pub(super) fn most_waiting(&self) -> usize {
        (self.limits.total / WAITING_SHARE).max(self.limits.per_host)
    }

    /// When the next message may go to the site of `key`, and a place in its line until then; none if that
    /// is too far off, or too many wait.
    pub(super) fn turn(
        &mut self,
        key: &PoolKey,
        now: Instant,
    ) -> Option<(Instant, Option<InLine>)> {
        let most = self.most_waiting();
        // Looked up and not remembered: a host without places has no entry.
        let Some(site) = site_of(&self.limits.limits, &key.host) else { return Some((now, None)) };
        let Some(limit) = self.limits.limits.get(site) else { return Some((now, None)) };
        self.sites.entry(site).or_default().turn_in_line(limit, now, most)
    }

    /// Has the site of `key` another place?
    pub(super) fn site_has_room(&self, key: &PoolKey) -> bool {
        let site = self.hosts.get(key).and_then(|host| host.site);
        site.is_none_or(|site| has_room(&self.limits, &self.sites, site))
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
        let (limits, sites) = (&self.limits, &self.sites);
        let turns = self.hosts.iter_mut().filter(|(_, host)| {
            host.has_room() && host.site.is_none_or(|site| has_room(limits, sites, site))
        });
        let serials =
            turns.filter_map(|(key, host)| host.next_waiter().map(|waiter| (waiter.serial, key)));
        serials.min_by_key(|(serial, _)| *serial).map(|(_, key)| key.clone())
    }

    /// Does another host wait for just the place that a connection of `key` holds?
    pub(super) fn is_wanted_elsewhere(&mut self, key: &PoolKey) -> bool {
        let is_full = self.open >= self.limits.total;
        let full_site = match self.hosts.get(key).and_then(|host| host.site) {
            Some(site) if !has_room(&self.limits, &self.sites, site) => Some(site),
            Some(_) | None => None,
        };
        // The usual case, found out without a look at all hosts.
        if !is_full && full_site.is_none() {
            return false;
        }
        let (limits, sites) = (&self.limits, &self.sites);
        self.hosts.values_mut().any(|host| {
            let is_held_back = match host.site {
                Some(site) if Some(site) == full_site => true,
                Some(site) => is_full && has_room(limits, sites, site),
                None => is_full,
            };
            is_held_back && host.has_room() && host.next_waiter().is_some()
        })
    }

    /// An unused connection, to make room for another host: of whichever host, or of the same site.
    pub(super) fn take_oldest_parked(&mut self, room: Room) -> Option<(PoolKey, Parked)> {
        while let Some(Entry { key, serial, until: _ }) = self.row.pop_oldest(room) {
            if let Some(parked) = self.unpark(&key, serial) {
                return Some((key, parked));
            }
        }
        None
    }

    /// Drops the entries of connections that are in use again, once they are as many as the others: else a
    /// busy connection would leave one behind for each mail of `connection_idle`.
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
