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
pub(crate) use down::BegunChecks;
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
    /// Connections in all.
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
    /// Its place.
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
mod tests {
    use std::net::SocketAddr;
    use std::pin::pin;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Poll, Waker};

    use smtp::{Domain, HostName};
    use tokio::net::TcpStream;
    use tokio::task::{JoinHandle, JoinSet, yield_now};

    use super::*;
    use crate::connect::connection::scripted::{Act, play};
    use crate::connect::{Endpoint, Sources};

    const LONG: Duration = Duration::from_secs(60);

    fn limits() -> PoolLimits {
        let limits = Vec::new();
        PoolLimits {
            total: 500,
            per_host: 10,
            per_site: 100,
            transactions: 100,
            idle: LONG,
            limits,
        }
    }

    fn pool(limits: PoolLimits) -> Pool {
        Pool::new(limits, TaskTracker::new())
    }

    fn key(name: &str) -> PoolKey {
        let host = Domain::Name(HostName::parse(name).unwrap());
        PoolKey { route: None, sources: Sources::default(), host, endpoint: Endpoint::mx(25) }
    }

    /// A peer that waits for one line on each of so many connections, one after the other, and says
    /// goodbye.
    async fn polite(connections: usize) -> (SocketAddr, JoinHandle<String>) {
        play(vec![vec![Act::Hear, Act::Say("221 bye\r\n")]; connections]).await
    }

    async fn connected(address: SocketAddr, slot: Slot) -> Idle {
        let stream = TcpStream::connect(address).await.unwrap();
        Idle::new(Connection::plain(stream, address), Observed::Plain, slot)
    }

    /// What there is without waiting; a wait is given up at once.
    fn now(pool: &Pool, key: &PoolKey) -> Option<Checkout> {
        match pin!(pool.checkout(key)).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(checkout) => Some(checkout),
            Poll::Pending => None,
        }
    }

    fn fresh(pool: &Pool, key: &PoolKey) -> Slot {
        match now(pool, key).expect("has to wait") {
            Checkout::Fresh(slot) => slot,
            Checkout::Idle(_) => panic!("an unused connection"),
            Checkout::ConcurrencyLimited(_) | Checkout::TooSoon(_) => panic!("too many wait"),
        }
    }

    fn is_fresh(checkout: &Checkout) -> bool {
        matches!(checkout, Checkout::Fresh(_))
    }

    #[tokio::test]
    async fn a_host_has_two_places_and_earns_more() {
        let (pool, key) = (pool(limits()), key("mx.example.org"));
        let mut slots = vec![fresh(&pool, &key), fresh(&pool, &key)];
        assert!(now(&pool, &key).is_none());
        slots[0].succeeded();
        slots.push(fresh(&pool, &key));
        assert!(now(&pool, &key).is_none());
        for _ in 0..20 {
            slots[0].succeeded();
        }
        while let Some(Checkout::Fresh(slot)) = now(&pool, &key) {
            slots.push(slot);
        }
        assert_eq!(slots.len(), 10, "delivery.connections_per_host");

        slots[0].throttled();
        slots.truncate(5);
        assert!(now(&pool, &key).is_none(), "half as many: the first to end are not replaced");
        slots.pop();
        slots.push(fresh(&pool, &key));
        for _ in 0..9 {
            slots[0].throttled();
        }
        slots.clear();
        drop(fresh(&pool, &key));
        assert!(pool.lock().hosts.is_empty(), "nothing is remembered of a host without places");
        assert_eq!(pool.lock().open, 0);
    }

    #[tokio::test]
    async fn who_waits_longest_is_next_and_who_gives_up_costs_nothing() {
        let (pool, key) = (pool(limits()), key("mx.example.org"));
        let held = [fresh(&pool, &key), fresh(&pool, &key)];
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut waiting = JoinSet::new();
        for number in 0..3 {
            let (pool, key, order) = (pool.clone(), key.clone(), Arc::clone(&order));
            let ticket = waiting.spawn(async move {
                let checkout = pool.checkout(&key).await;
                order.lock().unwrap().push(number);
                drop(checkout);
            });
            yield_now().await;
            if number == 1 {
                ticket.abort();
                yield_now().await;
            }
        }
        drop(held);
        while waiting.join_next().await.is_some() {}
        assert_eq!(*order.lock().unwrap(), [0, 2]);
        assert_eq!(pool.lock().open, 0);
    }

    #[tokio::test]
    async fn one_waits_for_each_connection_and_the_others_are_told_of_room() {
        let (pool, key) = (pool(limits()), key("slow.test"));
        let _held = [fresh(&pool, &key), fresh(&pool, &key)];
        let mut cx = Context::from_waker(Waker::noop());
        let mut line: Vec<_> = (0..2).map(|_| Box::pin(pool.checkout(&key))).collect();
        assert!(line.iter_mut().all(|place| place.as_mut().poll(&mut cx).is_pending()));
        let Some(Checkout::ConcurrencyLimited(bottleneck)) = now(&pool, &key) else {
            panic!("a third")
        };
        assert_eq!(bottleneck, Bottleneck::Host(Arc::new(key.clone())));
        assert_eq!(pool.room_at(&bottleneck), 0);
        let mut told = pin!(pool.room_made());
        assert!(told.as_mut().poll(&mut cx).is_pending());
        line.pop();
        assert_eq!(pool.room_at(&bottleneck), 1, "who gave up made room in the line");
        let mut last = Box::pin(pool.checkout(&key));
        assert!(last.as_mut().poll(&mut cx).is_pending());
        assert_eq!(pool.room_at(&bottleneck), 0);
        // A connection that is given back goes to the first in the line, which is shorter then.
        let [_first, second] = _held;
        drop(second);
        assert_eq!(told.await, std::slice::from_ref(&bottleneck));
        assert_eq!(pool.room_at(&bottleneck), 1);
        assert!(pool.lock().wanted.is_empty(), "it is told once");
    }

    #[tokio::test]
    async fn hosts_of_one_registrable_domain_have_a_hundred_connections_together() {
        let pool = pool(PoolLimits { per_site: 3, ..limits() });
        let [a, b, c] = ["a", "b", "c"].map(|name| key(&format!("{name}.google.test")));
        let mut held = vec![fresh(&pool, &a), fresh(&pool, &a), fresh(&pool, &b)];
        assert!(now(&pool, &c).is_none(), "it waits in the line of the site");
        assert!(now(&pool, &key("mx.test")).is_some_and(|checkout| is_fresh(&checkout)));
        let mut waiting = pin!(pool.checkout(&c));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(waiting.as_mut().poll(&mut cx).is_pending());
        held.pop();
        assert!(waiting.as_mut().poll(&mut cx).is_ready());
        // An unused one gives its place to another host of the site.
        let (address, _peer) = polite(1).await;
        drop(held.pop());
        let idle = connected(address, fresh(&pool, &a)).await;
        pool.give_back(idle);
    }

    #[tokio::test]
    async fn a_place_that_nobody_collects_goes_to_the_next() {
        let (pool, key) = (pool(limits()), key("mx.example.org"));
        let mut held = vec![fresh(&pool, &key), fresh(&pool, &key)];
        let mut first = Box::pin(pool.checkout(&key));
        let mut second = Box::pin(pool.checkout(&key));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(first.as_mut().poll(&mut cx).is_pending());
        assert!(second.as_mut().poll(&mut cx).is_pending());
        held.pop();
        // It is the first one's now, who is gone before it DSNs.
        drop(first);
        assert!(second.as_mut().poll(&mut cx).is_ready());
    }

    #[tokio::test]
    async fn unused_connections_are_reused_then_end_with_quit() {
        let idle_time = Duration::from_millis(50);
        let (pool, key) = (pool(PoolLimits { idle: idle_time, ..limits() }), key("mx.example.org"));
        let (address, peer) = polite(1).await;
        let start = Instant::now();
        pool.give_back(connected(address, fresh(&pool, &key)).await);
        let Some(Checkout::Idle(idle)) = now(&pool, &key) else { panic!("not kept") };
        assert!(
            now(&pool, &PoolKey { endpoint: Endpoint::mx(587), ..key.clone() })
                .is_some_and(|c| is_fresh(&c))
        );
        pool.give_back(idle);
        assert_eq!(peer.await.unwrap(), "QUIT\r\n");
        assert!(start.elapsed() >= idle_time);
        pool.shared.tracker.close();
        pool.shared.tracker.wait().await;
        assert!(pool.lock().hosts.is_empty());
        assert!(!pool.lock().has_reaper, "nothing runs where nothing is kept");
    }

    #[tokio::test]
    async fn a_busy_connection_leaves_nothing_behind_for_each_mail() {
        let (pool, key) = (pool(limits()), key("mx.example.org"));
        let (address, peer) = polite(1).await;
        let mut idle = connected(address, fresh(&pool, &key)).await;
        for _ in 0..1_000 {
            pool.give_back(idle);
            let Some(Checkout::Idle(again)) = now(&pool, &key) else { panic!("not kept") };
            idle = again;
        }
        pool.give_back(idle);
        assert!(pool.lock().row.len() <= 100, "{}", pool.lock().row.len());
        pool.close();
        assert_eq!(peer.await.unwrap(), "QUIT\r\n", "what counts is still there");
    }

    #[tokio::test]
    async fn a_closing_pool_ends_unused_connections_at_once() {
        let patient = PoolLimits { idle: Duration::from_secs(3600), ..limits() };
        let (pool, key) = (pool(patient), key("mx.example.org"));
        let (address, peer) = polite(2).await;
        let first = connected(address, fresh(&pool, &key)).await;
        let second = connected(address, fresh(&pool, &key)).await;
        pool.give_back(first);
        pool.close();
        pool.give_back(second);
        assert_eq!(peer.await.unwrap(), "QUIT\r\nQUIT\r\n");
    }

    #[tokio::test]
    async fn a_connection_that_is_used_up_or_one_too_many_ends_at_once() {
        let (pool, key) = (pool(PoolLimits { transactions: 2, ..limits() }), key("mx.example.org"));
        let (address, peer) = polite(2).await;
        let mut first = connected(address, fresh(&pool, &key)).await;
        let second = connected(address, fresh(&pool, &key)).await;
        first.connection.count_transaction();
        first.connection.count_transaction();
        pool.give_back(first);
        second.slot.throttled();
        pool.give_back(second);
        assert_eq!(peer.await.unwrap(), "QUIT\r\nQUIT\r\n");
    }

    #[tokio::test]
    async fn a_connection_that_the_peer_closed_is_not_handed_out() {
        let (pool, key) = (pool(limits()), key("mx.example.org"));
        let (address, _peer) = play(vec![vec![]]).await;
        let mut idle = connected(address, fresh(&pool, &key)).await;
        // Waits until the runtime has heard of it.
        assert!(idle.connection.reply(LONG).await.is_err());
        pool.give_back(idle);
        assert!(now(&pool, &key).is_some_and(|checkout| is_fresh(&checkout)));
    }

    #[tokio::test]
    async fn a_full_pool_takes_from_who_does_not_need() {
        let (pool, a, b) =
            (pool(PoolLimits { total: 2, ..limits() }), key("a.test"), key("b.test"));
        let (address, _peer) = polite(2).await;
        let first = connected(address, fresh(&pool, &a)).await;
        let second = connected(address, fresh(&pool, &a)).await;
        pool.give_back(first);
        let held = pool.checkout(&b).await;
        assert!(is_fresh(&held), "the unused one was ended");

        let mut waiting = pin!(pool.checkout(&b));
        assert!(waiting.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        pool.give_back(second);
        assert!(is_fresh(&waiting.await), "not kept while others wait");
    }

    #[tokio::test]
    async fn five_thousand_mails_need_few_connections() {
        let (pool, key) = (pool(limits()), key("mx.example.org"));
        let made = Arc::new(AtomicUsize::new(0));
        let busy = Arc::new(AtomicUsize::new(0));
        let mut attempts = JoinSet::new();
        for _ in 0..20 {
            let (pool, key) = (pool.clone(), key.clone());
            let (made, busy) = (Arc::clone(&made), Arc::clone(&busy));
            attempts.spawn(async move {
                for _ in 0..250 {
                    let mut checkout = pool.checkout(&key).await;
                    while let Checkout::ConcurrencyLimited(_) = checkout {
                        yield_now().await;
                        checkout = pool.checkout(&key).await;
                    }
                    let mut idle = match checkout {
                        Checkout::Idle(idle) => idle,
                        Checkout::Fresh(slot) => {
                            made.fetch_add(1, Ordering::Relaxed);
                            connected(polite(1).await.0, slot).await
                        }
                        Checkout::ConcurrencyLimited(_) | Checkout::TooSoon(_) => {
                            panic!("too many wait")
                        }
                    };
                    assert!(busy.fetch_add(1, Ordering::Relaxed) < 10);
                    yield_now().await;
                    busy.fetch_sub(1, Ordering::Relaxed);
                    idle.connection.count_transaction();
                    idle.slot.succeeded();
                    pool.give_back(idle);
                }
            });
        }
        while let Some(attempt) = attempts.join_next().await {
            attempt.unwrap();
        }
        let made = made.load(Ordering::Relaxed);
        assert!((50..=55).contains(&made), "{made} connections");
    }

    fn site(connections: usize) -> PoolLimits {
        let mx = vec![crate::config::DomainPattern::parse("*.site.test").unwrap()];
        let (domains, messages_per_minute) = (Vec::new(), None);
        let connections = Some(connections);
        let limit = Limit { index: 0, domains, mx, connections, messages_per_minute };
        PoolLimits { limits: vec![limit], ..limits() }
    }

    #[tokio::test]
    async fn nothing_is_kept_of_a_host_that_nobody_waits_for_any_more() {
        let pool = pool(PoolLimits { total: 1, ..limits() });
        let held = fresh(&pool, &key("a.test"));
        assert!(now(&pool, &key("b.test")).is_none() && now(&pool, &key("c.test")).is_none());
        drop(held);
        assert_eq!(pool.lock().hosts.len(), 0);
    }

    #[tokio::test]
    async fn hosts_of_a_site_share_its_line_and_who_gives_up_leaves_it() {
        let pool = pool(PoolLimits { total: 20, per_host: 2, ..site(2) });
        let [a, b, c, d] = ["a", "b", "c", "d"].map(|name| key(&format!("{name}.site.test")));
        let _held = [fresh(&pool, &a), fresh(&pool, &a)];
        let mut cx = Context::from_waker(Waker::noop());
        let mut waits = [Box::pin(pool.checkout(&b)), Box::pin(pool.checkout(&c))];
        for wait in &mut waits {
            assert!(wait.as_mut().poll(&mut cx).is_pending());
        }
        let limited = now(&pool, &d);
        assert!(
            matches!(limited, Some(Checkout::ConcurrencyLimited(Bottleneck::Limit(0)))),
            "{limited:?}"
        );
        assert!(now(&pool, &key("mx.test")).is_some_and(|checkout| is_fresh(&checkout)));
        let [_waits, gives_up] = waits;
        drop(gives_up);
        assert!(now(&pool, &d).is_none(), "there is room in the line again");
    }

    #[tokio::test]
    async fn hosts_of_a_site_share_its_places_and_others_do_not_wait_for_them() {
        let pool = pool(site(2));
        let (a, b, other) = (key("a.site.test"), key("b.site.test"), key("mx.test"));
        let (address, _peer) = polite(2).await;
        let first = connected(address, fresh(&pool, &a)).await;
        let held = fresh(&pool, &a);
        assert!(now(&pool, &b).is_none() && now(&pool, &other).is_some_and(|c| is_fresh(&c)));
        // An unused connection to one host gives its place to the other.
        pool.give_back(first);
        let second = pool.checkout(&b).await;
        assert!(is_fresh(&second));
        let mut waiting = pin!(pool.checkout(&b));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(waiting.as_mut().poll(&mut cx).is_pending());
        drop(held);
        assert!(waiting.as_mut().poll(&mut cx).is_ready(), "whose turn it is, whichever host's");
        drop(second);
    }

    #[tokio::test]
    async fn other_limits_hold_from_now_on() {
        let (pool, key) = (pool(site(1)), key("a.site.test"));
        let held = fresh(&pool, &key);
        let mut waiting = pin!(pool.checkout(&key));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(waiting.as_mut().poll(&mut cx).is_pending());
        pool.set_limits(PoolLimits { per_host: 10, ..limits() });
        // The window opens with the next success.
        held.succeeded();
        assert!(waiting.as_mut().poll(&mut cx).is_ready());
        pool.set_limits(site(1));
        assert!(now(&pool, &key).is_none());
    }
}
