//! A 250 is a promise: `kill -9` under load loses nothing, and sends twice only what was on its way
//! to the peer when it came.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::watch;
use world::{Client, Mode, Mx, Received, Relay, World};

use crate::harness::PROGRAM;

/// Clients that submit all the time.
const CLIENTS: usize = 32;

/// How often the daemon is killed.
const ROUNDS: usize = 10;

/// Numbers that look random and are the same in every run (xorshift, Marsaglia 2003).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

/// The content for an id: its size and bytes follow from the id, so that the sink's copy can be
/// checked. From a line to 100 KB, which is beyond what is kept in memory or in a row.
fn content(id: &str) -> Vec<u8> {
    let mix = |seed: u64, byte: u8| seed.wrapping_mul(31).wrapping_add(u64::from(byte));
    let mut dice = Dice(id.bytes().fold(88_172_645_463_325_252, mix));
    let lines = match dice.roll(10) {
        0 => 1_400,
        1..=3 => 150,
        _ => 10,
    };
    let mut content = format!("Date: x\r\nMessage-ID: <{id}@client.test>\r\n\r\n");
    for _ in 0..lines {
        content +=
            &format!(".{:016x}{:016x} of {id}\r\n", dice.roll(u64::MAX), dice.roll(u64::MAX));
    }
    content.into_bytes()
}

/// What the clients know.
struct Load {
    listener: watch::Sender<std::net::SocketAddr>,
    acknowledged: Mutex<BTreeSet<(String, String)>>,
    count: watch::Sender<usize>,
    next: AtomicUsize,
    is_over: AtomicBool,
}

impl Load {
    /// Submits until told to stop; whoever loses the connection comes again.
    async fn client(self: Arc<Self>) {
        let mut listener = self.listener.subscribe();
        while !self.is_over.load(Ordering::SeqCst) {
            let address = *listener.borrow_and_update();
            if let Ok(client) = Client::hello(address).await {
                self.session(client).await;
            }
            if !self.is_over.load(Ordering::SeqCst) && address == *self.listener.borrow() {
                // The daemon is down: the next address says that it is back.
                let _ = listener.changed().await;
            }
        }
    }

    /// A session to the first failure.
    async fn session(&self, mut client: Client) {
        while !self.is_over.load(Ordering::SeqCst) {
            let number = self.next.fetch_add(1, Ordering::SeqCst);
            let id = format!("m{number}");
            let mut to = vec![format!("{id}@victim.test")];
            if number.is_multiple_of(8) {
                to.extend([format!("{id}-b@victim.test"), format!("{id}-c@victim.test")]);
            }
            let to: Vec<&str> = to.iter().map(String::as_str).collect();
            let Ok(reply) = client.transact("sender@client.test", &to, &content(&id)).await else {
                return;
            };
            assert_eq!(reply.code, 250, "{reply:?}");
            let mut acknowledged = self.acknowledged.lock().unwrap();
            acknowledged.extend(to.iter().map(|to| (id.clone(), (*to).to_owned())));
            self.count.send_modify(|count| *count += 1);
        }
    }

    /// Waits for so many acknowledgements more.
    async fn more(&self, count: usize) {
        let mut counter = self.count.subscribe();
        let goal = *counter.borrow() + count;
        let wait = counter.wait_for(|count| *count >= goal);
        tokio::time::timeout(world::log::LIMIT, wait).await.expect("the load goes on").unwrap();
    }
}

/// A daemon's life: the connections of the sink and the lines of the log that fall into it.
struct Life {
    connections_before_end: usize,
    settled: BTreeSet<String>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_under_load_loses_nothing() {
    let world = World::start(PROGRAM).await;
    let mx = world.mx("mx.victim.test").await;
    world.domain("victim.test").mx(&[(10, &mx)]).mta_sts(Mode::Enforce, &[mx.host()], 86400);
    let mut relay = world.relay("[delivery]\nretry = [\"1s\"]").await;

    let load = Arc::new(Load {
        listener: watch::Sender::new(relay.listener()),
        acknowledged: Mutex::default(),
        count: watch::Sender::new(0),
        next: AtomicUsize::new(1),
        is_over: AtomicBool::new(false),
    });
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..CLIENTS {
        clients.spawn(Arc::clone(&load).client());
    }

    let mut dice = Dice(0x5eed);
    let mut lives = Vec::new();
    for _ in 0..ROUNDS {
        let mark = relay.mark();
        load.more(20 + usize::try_from(dice.roll(150)).unwrap()).await;
        relay.kill9().await;
        let settled = settled(&relay, mark);
        relay.start_again().await;
        // What was read from a connection of the dead daemon is in the log by now or lost with it.
        lives.push(Life { connections_before_end: mx.connections(), settled });
        load.listener.send_replace(relay.listener());
    }
    load.more(50).await;
    load.is_over.store(true, Ordering::SeqCst);
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }

    let acknowledged = load.acknowledged.lock().unwrap().clone();
    let copies = wait_for_all(&mx, &acknowledged).await;
    for ((id, to), copies) in &copies {
        for copy in copies {
            assert!(copy.content.ends_with(&content(id)), "the content of {id} to {to}");
        }
        check_duplicates(to, copies, &lives);
    }
}

/// Recipients whose delivery the daemon had recorded.
fn settled(relay: &Relay, mark: world::Mark) -> BTreeSet<String> {
    let events = relay.event("delivered").after(mark).all();
    events.iter().filter_map(|event| event.text("recipient")).collect()
}

/// All copies of all messages, once every acknowledged one is there.
async fn wait_for_all(
    mx: &Mx,
    acknowledged: &BTreeSet<(String, String)>,
) -> BTreeMap<(String, String), Vec<Received>> {
    let all_there = |all: &[Received]| {
        let there: BTreeSet<&str> =
            all.iter().flat_map(|one| one.to.iter().map(String::as_str)).collect();
        acknowledged.iter().all(|(_, to)| there.contains(to.as_str())).then_some(())
    };
    if mx.received().until(all_there).await.is_err() {
        let all = mx.received().read(<[Received]>::to_vec);
        let there: BTreeSet<&String> = all.iter().flat_map(|one| &one.to).collect();
        let lost: Vec<_> = acknowledged.iter().filter(|(_, to)| !there.contains(to)).collect();
        panic!("{} acknowledged, lost: {lost:?}", acknowledged.len());
    }
    let mut copies = BTreeMap::<_, Vec<_>>::new();
    for message in mx.received().read(<[Received]>::to_vec) {
        for to in &message.to {
            let id = to.split(['@', '-']).next().unwrap().to_owned();
            copies.entry((id, to.clone())).or_default().push(message.clone());
        }
    }
    copies
}

/// A second copy comes from a later life, and only if the earlier one had not recorded the first.
fn check_duplicates(to: &str, copies: &[Received], lives: &[Life]) {
    let life_of = |copy: &Received| {
        lives.iter().position(|life| copy.connection <= life.connections_before_end)
    };
    for pair in copies.windows(2) {
        let life = life_of(&pair[0]);
        assert_ne!(life, life_of(&pair[1]), "{to} twice in one life");
        let life = &lives[life.expect("nothing comes twice in the last life")];
        assert!(!life.settled.contains(to), "{to} was recorded as delivered, and sent again");
    }
}
