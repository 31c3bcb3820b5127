//! What do hosts that never finish, and clients that write to the whole world, cost everybody else?
//!
//! `cargo bench -p staunch --bench strangers -- [good=1000] [tarpits=100] [settle=60] [seconds=60]
//! [rounds=3]`,
//! as root.
//!
//! As much mail as is taken goes to `good` domains whose hosts answer. Beside it one other sender
//! writes to `tarpits` domains, all registered by themselves: half of their hosts say nothing, half
//! are silent behind the final dot. From `settle` seconds after the first attempt there, what
//! arrives at the good hosts is counted for `seconds`, and compared with a run without tarpits. The
//! median of the rounds' ratios counts.
#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a benchmark prints, and fails by panicking"
)]

mod common;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use common::median;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;
use world::load::{Corpus, Envelope, Load, Sink, SinkTls, Sizes};
use world::{Argument, Leaf, Relay, World};

const MESSAGE_OCTETS: usize = 1_000;
const CLIENTS: usize = 64;
/// Good domains share so many hosts.
const HOSTS: u64 = 50;
/// Addresses of tarpits.
const TARPIT_ADDRESSES: u64 = 250;
/// Recipients of one of the hostile messages.
const RECIPIENTS: u64 = 1_000;

#[derive(Clone, Copy, Debug)]
struct Plan {
    good: u64,
    tarpits: u64,
    settle: Duration,
    window: Duration,
    rounds: usize,
}

impl Plan {
    fn from_arguments() -> Self {
        let minute = Duration::from_secs(60);
        let mut plan =
            Self { good: 1_000, tarpits: 100, settle: minute, window: minute, rounds: 3 };
        for argument in Argument::all() {
            match argument.name.as_str() {
                "good" => plan.good = argument.number(),
                "tarpits" => plan.tarpits = argument.number(),
                "settle" => plan.settle = Duration::from_secs(argument.number()),
                "seconds" => plan.window = Duration::from_secs(argument.number()),
                "rounds" => plan.rounds = argument.number(),
                _ => argument.unknown(),
            }
        }
        plan
    }
}

#[tokio::main]
async fn main() {
    let plan = Plan::from_arguments();
    println!("{plan:?}, messages of {MESSAGE_OCTETS} octets\n");
    let mut ratios = Vec::new();
    for round in 1..=plan.rounds {
        let without = run(&plan, 0).await;
        let with = run(&plan, plan.tarpits).await;
        println!("round {round}: {without:.0} messages/s, with tarpits {with:.0}");
        ratios.push(with / without);
    }
    println!("\nwith {} tarpits to without, median: {:.2}", plan.tarpits, median(ratios));
}

/// Messages per second at the good hosts.
async fn run(plan: &Plan, tarpits: u64) -> f64 {
    let world = World::start(env!("CARGO_BIN_EXE_staunch")).await;
    let corpus = Arc::new(Corpus::new(Sizes::Fixed(MESSAGE_OCTETS)));
    let sinks = good_hosts(&world, plan.good, &corpus).await;
    let tar = Tar::start(&world, tarpits).await;
    world.dns.set_ttl(300);
    let relay =
        world.relay("[delivery]\nport = 25\n[log]\nlevel = \"warn,staunch::daemon=info,staunch::accept=info\"\n");
    let relay = relay.await;

    let good = plan.good;
    let to = move |id| format!("user{id}@good{}.test", id % good);
    let envelope = move |id| Envelope { from: "ann@load.test".to_owned(), to: to(id) };
    let load = Load::new(relay.listener(), CLIENTS, corpus, Arc::new(envelope));
    let mut sending = JoinSet::new();
    sending.spawn({
        let load = Arc::clone(&load);
        async move { load.run(u64::MAX).await }
    });
    if tarpits > 0 {
        submit_to_tarpits(&relay, tarpits).await;
        tar.called.notified().await;
    }
    tokio::time::sleep(plan.settle).await;
    let before = arrived(&sinks);
    let since = Instant::now();
    tokio::time::sleep(plan.window).await;
    let rate = (arrived(&sinks) - before) as f64 / since.elapsed().as_secs_f64();
    load.stop();
    sending.join_all().await;
    rate
}

fn arrived(sinks: &[Sink]) -> usize {
    sinks.iter().map(|sink| sink.arrivals().read(|all| all.len())).sum()
}

async fn good_hosts(world: &World, good: u64, corpus: &Arc<Corpus>) -> Vec<Sink> {
    // Those of the run before may not have let go of their addresses yet.
    static RUNS: AtomicU8 = AtomicU8::new(0);
    let run = RUNS.fetch_add(1, Ordering::Relaxed);
    let mut sinks = Vec::new();
    for number in 0..HOSTS {
        let host = format!("mx.host{number}.test");
        let address = Ipv4Addr::new(127, 30, run, u8::try_from(number + 1).expect("few hosts"));
        let tls = SinkTls::Offered(world.pki.issue(&Leaf::named(&host)));
        let sink = Sink::start(SocketAddr::from((address, 25)), tls, Arc::clone(corpus)).await;
        sinks.push(sink.expect("an address in 127.0.0.0/8 can be bound"));
        world.dns.a(&host, address);
    }
    for number in 0..good {
        let host = format!("mx.host{}.test", number % HOSTS);
        world.dns.mx(&format!("good{number}.test"), &[(10, &host)]);
    }
    sinks
}

async fn submit_to_tarpits(relay: &Relay, tarpits: u64) {
    let all: Vec<String> = (0..tarpits).map(|number| format!("x@tar{number}.test")).collect();
    for recipients in all.chunks(usize::try_from(RECIPIENTS).expect("small")) {
        let recipients: Vec<&str> = recipients.iter().map(String::as_str).collect();
        relay.submit("mallory@client.test", &recipients, "to the whole world").await;
    }
}

/// Hosts that keep whoever calls.
struct Tar {
    /// Somebody did.
    called: Arc<Notify>,
    _hosts: JoinSet<()>,
}

impl Tar {
    async fn start(world: &World, tarpits: u64) -> Self {
        let (called, mut hosts) = (Arc::new(Notify::new()), JoinSet::new());
        let address = |number: u64| {
            let fourth = u8::try_from(number % TARPIT_ADDRESSES + 1).expect("an octet");
            Ipv4Addr::new(127, 31, 0, fourth)
        };
        for number in 0..tarpits.min(TARPIT_ADDRESSES) {
            let listener = TcpListener::bind((address(number), 25)).await.expect("an address");
            let called = Arc::clone(&called);
            let silent = if number % 2 == 0 { Silent::Always } else { Silent::InTheEnd };
            hosts.spawn(async move {
                let mut sessions = JoinSet::new();
                while let Ok((stream, _)) = listener.accept().await {
                    called.notify_one();
                    sessions.spawn(keep(stream, silent));
                }
            });
        }
        for number in 0..tarpits {
            let host = format!("mx.tar{number}.test");
            world.dns.mx(&format!("tar{number}.test"), &[(10, &host)]);
            world.dns.a(&host, address(number));
        }
        Self { called, _hosts: hosts }
    }
}

/// When does a tarpit say nothing?
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Silent {
    /// From the first octet on.
    Always,
    /// Behind the final dot.
    InTheEnd,
}

/// Keeps whoever called, until they go.
async fn keep(stream: TcpStream, silent: Silent) {
    let mut stream = BufReader::new(stream);
    if silent == Silent::InTheEnd && stream.write_all(b"220 tar\r\n").await.is_err() {
        return;
    }
    let mut line = String::new();
    loop {
        line.clear();
        match stream.read_line(&mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) if silent == Silent::Always => {}
            Ok(_) => {
                let reply: &[u8] = match line.get(..4) {
                    Some("DATA") => b"354 go on\r\n",
                    Some("EHLO" | "MAIL" | "RCPT" | "RSET") => b"250 tar\r\n",
                    _ => b"",
                };
                if stream.write_all(reply).await.is_err() {
                    return;
                }
            }
        }
    }
}
