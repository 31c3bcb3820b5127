//! Who gets which connection, and in which order.

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
    PoolLimits { total: 500, per_host: 10, per_site: 100, transactions: 100, idle: LONG, limits }
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
    let (pool, a, b) = (pool(PoolLimits { total: 2, ..limits() }), key("a.test"), key("b.test"));
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
