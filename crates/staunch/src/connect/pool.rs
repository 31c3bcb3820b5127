//! How many connections may there be to a host, and which one does a mail go over?
//!
//! A *place* is the right to have a connection. It is counted from before TCP until QUIT is
//! answered, for each [`PoolKey`] against a window that grows with success and shrinks when the
//! host asks for less, and for all keys together. Who needs a connection waits in line until one is
//! given back or a place is free; a wait that is given up costs nobody anything.
//!
//! The pool keeps evidence, never verdicts: what is handed out has to be admitted again for the
//! next mail. The key is where and as whom, so that no two identities share a connection.

mod down;
mod places;
mod row;
mod site;
mod slot;
mod strangers;
mod wanted;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use policy::Observed;
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{Config, Limit};
use crate::connect::PoolKey;
use crate::connect::connection::Connection;
use crate::lock::lock;
use crate::place::ClientPlace;
use places::{Parked, PoolState, Waiter};
use row::{MissingRoom, ParkedEntry};
use site::RateSlot;
pub(crate) use site::site_limit;
pub(crate) use slot::Slot;
use slot::SlotHolds;
pub(crate) use strangers::Claim;
use strangers::Strangers;
pub(crate) use wanted::Bottleneck;

/// Our choice: the longest wait for a connection of ours that is in use. Then the lane waits in its
/// turn, which costs neither an attempt nor a place.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// What the pool keeps to.
#[derive(Clone, Debug)]
pub(crate) struct PoolLimits {
    /// Connections at a time, whatever the host.
    pub(crate) total: usize,
    /// Connections for one key.
    pub(crate) per_host: usize,
    /// Connections for all hosts of one registrable domain.
    pub(crate) per_site: usize,
    /// Transactions over one connection.
    pub(crate) transactions: usize,
    /// How long an unused connection is kept.
    pub(crate) idle: Duration,
    /// What some sites have instead.
    pub(crate) limits: Vec<Limit>,
}

impl From<&Config> for PoolLimits {
    fn from(config: &Config) -> Self {
        let delivery = &config.delivery;
        Self {
            total: delivery.connections,
            per_host: delivery.connections_per_host,
            per_site: delivery.connections_per_site,
            transactions: delivery.messages_per_connection,
            idle: delivery.connection_idle,
            limits: config.outbound_limits.clone(),
        }
    }
}

impl PoolLimits {
    /// Connections for one key of `site`.
    fn per_host(&self, site: Option<usize>) -> usize {
        let limit = site.and_then(|site| self.limits.get(site));
        limit.and_then(|limit| limit.connections).unwrap_or(self.per_host)
    }
}

/// What a caller gets in the end.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "moved twice in its life; a box costs more")]
pub(crate) enum Checkout {
    /// A connection that waits for its next mail.
    Idle(Idle),
    /// The right to make one.
    Fresh(Slot),
    /// Neither, and no place in the line: enough wait already.
    ConcurrencyLimited(Bottleneck),
    /// Neither before this time has passed (`messages_per_minute`).
    TooSoon(Duration),
}

/// A connection between two mails.
#[derive(Debug)]
pub(crate) struct Idle {
    pub(crate) connection: Connection,
    /// What it showed when it was made.
    pub(crate) observed: Arc<Observed>,
    /// The place in the pool that it takes, until it is dropped.
    pub(crate) slot: Slot,
    /// It is counted as one to a stranger.
    claim: Option<Claim>,
}

impl Idle {
    /// A connection that was just made in its place.
    pub(crate) fn new(connection: Connection, observed: Observed, mut slot: Slot) -> Self {
        slot.has_session();
        Self { connection, observed: Arc::new(observed), slot, claim: None }
    }

    /// It took mail: its address is no stranger any more.
    pub(crate) fn know_address(&self) {
        if self.claim.is_some() {
            self.slot.pool.know(self.connection.peer().ip());
        }
    }

    /// It is counted as one to a stranger.
    pub(crate) fn claimed(self, claim: Option<Claim>) -> Self {
        Self { claim, ..self }
    }
}

/// All outbound connections. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Pool {
    shared: Arc<PoolShared>,
}

#[derive(Debug)]
struct PoolShared {
    tracker: TaskTracker,
    /// From now on unused connections are ended and not kept.
    closing: CancellationToken,
    /// Counts the configurations that connections were made under.
    epoch: AtomicU64,
    /// There is something in [`PoolState::wanted`] to be told.
    room_made: Notify,
    /// Hosts of which it is known that they let, or lately let, nobody in.
    down: AtomicUsize,
    /// Hosts that may be checked at once ([`crate::connect::tcp_check`]).
    tcp_checks: Arc<Semaphore>,
    state: Mutex<PoolState>,
}

/// What became of a request for a connection.
#[expect(clippy::large_enum_variant, reason = "moved twice in its life; a box costs more")]
enum TakenPlace {
    Now(Checkout),
    Later(oneshot::Receiver<Checkout>),
}

impl Pool {
    /// An empty pool; farewells run on `tracker`.
    pub(crate) fn new(limits: PoolLimits, tracker: TaskTracker) -> Self {
        let closing = CancellationToken::new();
        let state = Mutex::new(PoolState::new(limits));
        let (epoch, room_made) = (AtomicU64::new(0), Notify::new());
        let tcp_checks = Arc::new(Semaphore::new(down::CHECKED_AT_ONCE));
        Self {
            shared: Arc::new(PoolShared {
                tracker,
                closing,
                epoch,
                room_made,
                down: AtomicUsize::new(0),
                tcp_checks,
                state,
            }),
        }
    }

    /// Keeps to other limits from now on.
    pub(crate) fn set_limits(&self, limits: PoolLimits) {
        let mut guard = self.lock();
        let state = &mut *guard;
        state.set_limits(limits);
        let mut unclaimed = Vec::new();
        let waiting: Vec<PoolKey> = state.hosts.keys().cloned().collect();
        for key in waiting {
            let places = state.hosts.get(&key).map_or(0, |host| host.waiters.len());
            unclaimed.extend((0..places).filter_map(|_| self.admit_next(state, &key)));
        }
        // Whoever waits looks again.
        state.wanted.all_made();
        self.shared.room_made.notify_one();
        drop(guard);
        drop(unclaimed);
    }

    /// Ends all connections that are there, as soon as they are unused: they were made by rules
    /// that do not hold any more, and that cannot be seen in them.
    pub(crate) fn renew(&self) {
        let mut parked = Vec::new();
        {
            // Under the lock, as is whoever takes or parks one: none of the previous configuration
            // is handed out or kept as one of the current configuration.
            let mut state = self.lock();
            self.shared.epoch.fetch_add(1, Ordering::Relaxed);
            for (key, host) in &mut state.hosts {
                parked.extend(host.parked.drain(..).map(|parked| (key.clone(), parked)));
            }
        }
        for (key, parked) in parked {
            self.retire(self.idle(&key, parked));
        }
    }

    fn epoch(&self) -> u64 {
        self.shared.epoch.load(Ordering::Relaxed)
    }

    /// Says goodbye on all unused connections, and from now on as soon as one is given back.
    pub(crate) fn close(&self) {
        self.shared.closing.cancel();
    }

    /// Waits for an unused connection or a free place, first come, first served. May be dropped at
    /// any time.
    pub(crate) async fn checkout(&self, key: &PoolKey) -> Checkout {
        // Who would only wait in vain takes no turn from others.
        let limited = self.lock().concurrency_limit(key);
        if let Some(bottleneck) = limited {
            return Checkout::ConcurrencyLimited(bottleneck);
        }
        let turn = self.lock().turn(key, Instant::now());
        match turn {
            RateSlot::Now => {}
            RateSlot::At(turn, _line) => sleep_until(turn).await,
            RateSlot::TooFar(wait) => return Checkout::TooSoon(wait),
        }
        loop {
            let checkout = match self.take(key) {
                TakenPlace::Now(checkout) => checkout,
                TakenPlace::Later(granted) => match timeout(WAIT_MAX, granted).await {
                    Ok(Ok(checkout)) => checkout,
                    // The pool never drops a waiter, but if it did, asking again would be right.
                    Ok(Err(_)) => continue,
                    Err(_) => Checkout::ConcurrencyLimited(Bottleneck::Host(Arc::new(key.clone()))),
                },
            };
            let Checkout::Idle(mut idle) = checkout else { return checkout };
            // If the peer closed it meanwhile, its place is good for another one.
            return match idle.connection.is_quiet() {
                true => Checkout::Idle(idle),
                false => Checkout::Fresh(idle.slot.without_session()),
            };
        }
    }

    /// Changes what is known of strangers, and tells who waits for `place`.
    fn note_stranger(&self, place: ClientPlace, change: impl FnOnce(&mut Strangers)) {
        let mut guard = self.lock();
        let state = &mut *guard;
        change(&mut state.strangers);
        let bottleneck = Bottleneck::Address(place);
        if state.wanted.has(&bottleneck) && state.room_at(&bottleneck) > 0 {
            state.wanted.made(bottleneck);
            self.shared.room_made.notify_one();
        }
    }

    /// Takes back a connection that is ready for the next mail.
    pub(crate) fn give_back(&self, mut idle: Idle) {
        idle.connection.shrink();
        idle.connection.set_deadline(None);
        let most = self.lock().limits.transactions;
        let is_used_up = idle.connection.transactions() >= most
            || idle.connection.is_used_up()
            || self.shared.closing.is_cancelled();
        let surplus = if is_used_up { Some(idle) } else { self.park(idle) };
        if let Some(idle) = surplus {
            self.retire(idle);
        }
    }

    /// Says goodbye in the background; the place is free when that is done.
    pub(crate) fn retire(&self, idle: Idle) {
        self.shared.tracker.spawn(async move {
            idle.connection.quit().await;
            drop(idle.slot);
        });
    }

    fn lock(&self) -> MutexGuard<'_, PoolState> {
        lock(&self.shared.state)
    }

    fn slot(&self, key: &PoolKey, holds: SlotHolds) -> Slot {
        let (pool, key, epoch) = (self.clone(), key.clone(), self.epoch());
        Slot { pool, key, is_counted: true, holds, epoch }
    }

    fn idle(&self, key: &PoolKey, parked: Parked) -> Idle {
        let Parked { connection, observed, serial: _, claim } = parked;
        Idle { connection, observed, slot: self.slot(key, SlotHolds::Session), claim }
    }

    fn take(&self, key: &PoolKey) -> TakenPlace {
        let mut guard = self.lock();
        let state = &mut *guard;
        let has_place = state.open < state.limits.total;
        let host = state.host(key);
        let (site, has_window) = (host.site, host.has_room());
        let is_first = host.next_waiter().is_none();
        if is_first && let Some(parked) = host.parked.pop() {
            return TakenPlace::Now(Checkout::Idle(self.idle(key, parked)));
        }
        let full = state.full_site(key);
        if is_first && has_window && has_place && full.is_none() {
            state.count(key, |places| places + 1);
            return TakenPlace::Now(Checkout::Fresh(self.slot(key, SlotHolds::Nothing)));
        }
        if let Some(bottleneck) = state.concurrency_limit(key) {
            return TakenPlace::Now(Checkout::ConcurrencyLimited(bottleneck));
        }
        let serial = state.next_serial();
        let (grant, granted) = oneshot::channel();
        state.host(key).waiters.push_back(Waiter { serial, grant });
        let evicted = match (&full, site) {
            (Some(Bottleneck::Limit(_)), Some(site)) if has_window => {
                state.take_oldest_parked(MissingRoom::AtSite(site))
            }
            (Some(Bottleneck::Site(domain)), _) if has_window => state.take_parked_of(domain),
            (None, _) if has_window && !has_place => state.take_oldest_parked(MissingRoom::InPool),
            (_, _) => None,
        };
        drop(guard);
        if let Some((key, parked)) = evicted {
            self.retire(self.idle(&key, parked));
        }
        TakenPlace::Later(granted)
    }

    /// Hands the connection to who waits for it, or keeps it for a while; returns it if it is one
    /// too many.
    fn park(&self, mut idle: Idle) -> Option<Idle> {
        let key = idle.slot.key.clone();
        let mut guard = self.lock();
        let state = &mut *guard;
        // Under the lock, as [`Pool::renew`] is.
        let is_outdated = idle.slot.epoch != self.epoch();
        let host = state.host(&key);
        if is_outdated || host.open > host.window {
            return Some(idle);
        }
        match host.hand_over(Checkout::Idle(idle)) {
            None => {
                self.note_room(state, &key);
                return None;
            }
            Some(Checkout::Idle(unclaimed)) => idle = unclaimed,
            // Only what was handed in comes back.
            Some(Checkout::Fresh(_) | Checkout::ConcurrencyLimited(_) | Checkout::TooSoon(_)) => {
                return None;
            }
        }
        // Others wait for a place, and this one is not needed here.
        if state.is_wanted_elsewhere(&key) {
            return Some(idle);
        }
        let serial = state.next_serial();
        let Idle { connection, observed, mut slot, claim } = idle;
        slot.is_counted = false;
        let host = state.host(&key);
        host.parked.push(Parked { serial, connection, observed, claim });
        let site = host.site;
        let until = Instant::now() + state.limits.idle;
        self.note_room(state, &key);
        state.row.push(site, ParkedEntry { until, key, serial });
        state.forget_reused();
        let needs_reaper = !std::mem::replace(&mut state.has_reaper, true);
        drop(guard);
        if needs_reaper {
            self.shared.tracker.spawn(self.clone().reap());
        }
        None
    }

    /// Ends unused connections whose time is over, as long as there are any.
    async fn reap(self) {
        loop {
            let next = {
                let mut state = self.lock();
                match state.row.next_end() {
                    Some(end) => end,
                    None => {
                        state.has_reaper = false;
                        return;
                    }
                }
            };
            // On the way out nothing is kept any longer.
            let _closing = timeout_at(next, self.shared.closing.cancelled()).await;
            let expired = self.expired();
            for (key, parked) in expired {
                self.retire(self.idle(&key, parked));
            }
        }
    }

    fn expired(&self) -> Vec<(PoolKey, Parked)> {
        let now = Instant::now();
        let is_closing = self.shared.closing.is_cancelled();
        let mut state = self.lock();
        let mut expired = Vec::new();
        let is_over = |until: Instant| is_closing || until <= now;
        while let Some(ParkedEntry { key, serial, until: _ }) = state.row.pop_over(is_over) {
            if let Some(parked) = state.unpark(&key, serial) {
                expired.push((key, parked));
            }
        }
        expired
    }

    fn release(&self, key: &PoolKey, held: SlotHolds) {
        let mut guard = self.lock();
        let state = &mut *guard;
        let was_full = state.open >= state.limits.total || state.full_site(key).is_some();
        state.count(key, |places| places.saturating_sub(1));
        if held == SlotHolds::Session {
            state.end_session(key);
        }
        // Before hosts without places are forgotten.
        let mut shared = state.shared(key);
        // Only a full pool or site can hold back hosts that have room themselves.
        let turn = if was_full { state.longest_waiting() } else { Some(key.clone()) };
        let unclaimed = turn.as_ref().and_then(|turn| self.admit_next(state, turn));
        shared.extend(
            turn.filter(|turn| turn != key).map(|turn| state.shared(&turn)).into_iter().flatten(),
        );
        self.note_room_at(state, shared);
        state.forget_if_over(key);
        drop(guard);
        // Its place is released again, outside the lock.
        drop(unclaimed);
    }

    /// Changes a window by itself and the largest it may become.
    fn adjust(&self, key: &PoolKey, change: impl FnOnce(usize, usize) -> usize) {
        let mut guard = self.lock();
        let state = &mut *guard;
        if let Some(host) = state.hosts.get_mut(key) {
            host.window = change(host.window, state.limits.per_host(host.site));
        }
        let unclaimed = self.admit_next(state, key);
        self.note_room(state, key);
        drop(guard);
        drop(unclaimed);
    }

    /// Gives a place to the next one who waits for this host, if there is one; returns the place if
    /// nobody takes it after all.
    fn admit_next(&self, state: &mut PoolState, key: &PoolKey) -> Option<Checkout> {
        if state.open >= state.limits.total || state.full_site(key).is_some() {
            return None;
        }
        let host = state.hosts.get_mut(key)?;
        if !host.has_room() || host.next_waiter().is_none() {
            return None;
        }
        state.count(key, |places| places + 1);
        state.hosts.get_mut(key)?.hand_over(Checkout::Fresh(self.slot(key, SlotHolds::Nothing)))
    }
}

#[cfg(test)]
mod tests;
