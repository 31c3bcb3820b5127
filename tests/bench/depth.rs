//! What does a deep queue cost? A million messages to 50,000 domains: taking more, starting,
//! listing, sending.
//!
//! `cargo bench -p staunch --bench depth -- [messages=1000000] [domains=50000] [seconds=120]`, as
//! root.
//!
//! Sending is paused until they are there. The rate at which the last tenth was taken is compared
//! with that of the first; that at which they leave during `seconds`, with the rate of a relay that
//! has an empty queue and mail for the same domains.
#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a benchmark prints, and fails by panicking"
)]

mod common;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use common::wait_for_all;
use tokio::time::Instant;
use world::load::{Corpus, Envelope, Load, Sink, SinkTls, Sizes};
use world::real::Usage;
use world::{Argument, Leaf, Relay, World};

const MESSAGE_OCTETS: usize = 1_000;
const CLIENTS: usize = 64;
const HOST: &str = "mx.site.test";
const SINK: Ipv4Addr = Ipv4Addr::new(127, 32, 0, 9);
/// How long a relay rests after its start before its memory is looked at.
const REST: Duration = Duration::from_secs(3);

#[derive(Clone, Copy, Debug)]
struct Plan {
    messages: u64,
    domains: u64,
    window: Duration,
}

impl Plan {
    fn from_arguments() -> Self {
        let window = Duration::from_secs(120);
        let mut plan = Self { messages: 1_000_000, domains: 50_000, window };
        for argument in Argument::all() {
            match argument.name.as_str() {
                "messages" => plan.messages = argument.number(),
                "domains" => plan.domains = argument.number(),
                "seconds" => plan.window = Duration::from_secs(argument.number()),
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
    let deep = deep(&plan).await;
    let shallow = shallow(&plan).await;
    println!("with an empty queue, to the same domains: {shallow:.0} messages/s");
    println!("\ndrain at depth to an empty queue's rate: {:.2}", deep / shallow);
}

/// A small internet in which all domains have one host.
async fn world(plan: &Plan, corpus: &Arc<Corpus>) -> (World, Sink) {
    let world = World::start(env!("CARGO_BIN_EXE_staunch")).await;
    let tls = SinkTls::Offered(world.pki.issue(&Leaf::named(HOST)));
    let sink = Sink::start(SocketAddr::from((SINK, 25)), tls, Arc::clone(corpus)).await;
    world.dns.a(HOST, SINK);
    for number in 0..plan.domains {
        world.dns.mx(&format!("d{number}.test"), &[(10, HOST)]);
    }
    world.dns.set_ttl(300);
    (world, sink.expect("an address in 127.0.0.0/8 can be bound"))
}

async fn relay(world: &World) -> Relay {
    world.relay("[delivery]\nport = 25\n[log]\nlevel = \"warn,staunch::daemon=info,staunch::accept=info\"\n").await
}

fn load(relay: &Relay, domains: u64, corpus: &Arc<Corpus>) -> Arc<Load> {
    let to = move |id| format!("user{id}@d{}.test", id % domains);
    let envelope = move |id| Envelope { from: "ann@load.test".to_owned(), to: to(id) };
    Load::new(relay.listener(), CLIENTS, Arc::clone(corpus), Arc::new(envelope))
}

/// Messages per second that leave a full queue.
async fn deep(plan: &Plan) -> f64 {
    let corpus = Arc::new(Corpus::new(Sizes::Fixed(MESSAGE_OCTETS)));
    let (world, sink) = world(plan, &corpus).await;
    let mut relay = relay(&world).await;
    relay.cli(&["pause"]).await;
    let load = load(&relay, plan.domains, &corpus);
    load.run(plan.messages).await;
    let mut at: Vec<Instant> =
        load.acknowledged().read(|all| all.iter().map(|one| one.at).collect());
    at.sort_unstable();
    let tenth = at.len() / 10;
    let rate = |part: &[Instant]| {
        let ends = part.first().zip(part.last()).map(|(first, last)| *last - *first);
        part.len() as f64 / ends.unwrap_or_default().as_secs_f64()
    };
    let first = rate(at.get(..tenth).unwrap_or_default());
    let last = rate(at.get(at.len() - tenth..).unwrap_or_default());
    println!("taken: {first:.0} messages/s at first, {last:.0} in the end: {:.2}", last / first);

    relay.stop().await;
    let since = Instant::now();
    relay.start_again().await;
    println!("started in {:.2} s", since.elapsed().as_secs_f64());
    tokio::time::sleep(REST).await;
    println!("resident: {} MiB", Usage::of_process(relay.pid()).pss_kib / 1024);
    for command in [&["queue", "summary"][..], &["queue", "list", "--limit", "50"]] {
        let since = Instant::now();
        relay.cli(command).await;
        println!("{}: {:.0} ms", command.join(" "), since.elapsed().as_secs_f64() * 1_000.0);
    }

    relay.cli(&["resume"]).await;
    let since = Instant::now();
    tokio::time::sleep(plan.window).await;
    let left = sink.arrivals().read(|all| all.len()) as f64 / since.elapsed().as_secs_f64();
    println!(
        "sent: {left:.0} messages/s, resident {} MiB",
        Usage::of_process(relay.pid()).pss_kib / 1024
    );
    left
}

/// Messages per second through an empty queue.
async fn shallow(plan: &Plan) -> f64 {
    let corpus = Arc::new(Corpus::new(Sizes::Fixed(MESSAGE_OCTETS)));
    let (world, sink) = world(plan, &corpus).await;
    let relay = relay(&world).await;
    let count = plan.messages / 5;
    let since = Instant::now();
    load(&relay, plan.domains, &corpus).run(count).await;
    wait_for_all(&sink, count).await;
    count as f64 / since.elapsed().as_secs_f64()
}
