//! Many domains with an MX host each: how fast, and at what cost, beside Postfix?
//!
//! `cargo bench -p staunch --bench fanout -- [domains=300] [each=40] [rounds=5] [only=NAME]`, as
//! root, with Debian's Postfix.
//!
//! Nothing is required, so TLS is opportunistic; the certificates are of a CA that both know.
//! Postfix is tuned as in the benchmark of one domain. Contestants take turns, and the median of
//! the rounds' ratios counts.
#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a benchmark prints, and fails by panicking"
)]

mod common;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::Arc;

use common::{Plan, median, settled, standard_ports, wait_for_all};
use tokio::time::Instant;
use world::load::{Corpus, Envelope, Load, Sink, SinkTls, Sizes};
use world::real::{Postfix, PostfixSetup, Usage};
use world::{Leaf, Relay, World};

const MESSAGE_OCTETS: usize = 10_000;
const CLIENTS: usize = 64;
/// Addresses of this benchmark alone.
const POSTFIX: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 28, 0, 1)), 2525);
const STANDARD_PORTS: Ipv4Addr = Ipv4Addr::new(127, 28, 0, 53);

/// What one run showed.
#[derive(Clone, Copy, Debug)]
struct Figures {
    /// From the first MAIL to the last message at a sink.
    messages_per_second: f64,
    /// The relay's processes, with all they started.
    cpu_seconds_per_thousand: f64,
}

#[tokio::main]
async fn main() {
    let plan = Plan::from_arguments(300, 40);
    println!(
        "{} domains with an MX host and {} messages of {MESSAGE_OCTETS} octets each, {} rounds\n",
        plan.domains, plan.each, plan.rounds
    );
    let (mut staunch, mut postfix) = (Vec::new(), Vec::new());
    for round in 1..=plan.rounds {
        for (name, figures) in [("staunch", &mut staunch), ("postfix", &mut postfix)] {
            if plan.has(name) {
                let got = run(name, &plan).await;
                println!("round {round}: {name} {got:.2?}");
                figures.push(got);
            }
        }
    }
    let ratio = |pick: fn(&Figures) -> f64| {
        median(staunch.iter().zip(&postfix).map(|(own, other)| pick(own) / pick(other)).collect())
    };
    if !staunch.is_empty() && !postfix.is_empty() {
        let rate = ratio(|one| one.messages_per_second);
        let cpu = ratio(|one| one.cpu_seconds_per_thousand);
        println!(
            "\nstaunch to tuned Postfix: {rate:.2} x the rate, {cpu:.3} of the CPU per message"
        );
    }
}

enum Running {
    Staunch(Box<Relay>),
    Postfix(Postfix),
}

impl Running {
    fn address(&self) -> SocketAddr {
        match self {
            Self::Staunch(relay) => relay.listener(),
            Self::Postfix(_) => POSTFIX,
        }
    }

    fn pid(&self) -> u32 {
        match self {
            Self::Staunch(relay) => relay.pid(),
            Self::Postfix(postfix) => postfix.pid(),
        }
    }
}

/// One contestant in a fresh world.
async fn run(name: &str, plan: &Plan) -> Figures {
    let world = World::start(env!("CARGO_BIN_EXE_staunch")).await;
    let corpus = Arc::new(Corpus::new(Sizes::Fixed(MESSAGE_OCTETS)));
    let sinks = sinks(&world, plan, &corpus).await;
    let _ports = standard_ports(&world, STANDARD_PORTS).await;
    let relay = start(name, &world).await;

    let before = Usage::of_tree(relay.pid()).cpu_seconds;
    let (start, domains) = (Instant::now(), plan.domains);
    let to = move |id| format!("user{id}@d{}.test", id % domains);
    let envelope = move |id| Envelope { from: "ann@load.test".to_owned(), to: to(id) };
    let load = Load::new(relay.address(), CLIENTS, corpus, Arc::new(envelope));
    load.run(plan.messages()).await;
    assert_eq!(load.acknowledged().len() as u64, plan.messages(), "{name} refused some");
    let mut last = start;
    for sink in &sinks {
        wait_for_all(sink, plan.each).await;
        let at = sink.arrivals().read(|all| all.iter().map(|one| one.at).max());
        last = last.max(at.unwrap_or(start));
    }
    let after = settled(relay.pid()).await.cpu_seconds;
    assert_each_once(&sinks, plan.messages());
    let thousands = plan.messages() as f64 / 1000.0;
    Figures {
        messages_per_second: plan.messages() as f64 / (last - start).as_secs_f64(),
        cpu_seconds_per_thousand: (after - before) / thousands,
    }
}

fn assert_each_once(sinks: &[Sink], count: u64) {
    let mut ids: Vec<u64> = Vec::new();
    for sink in sinks {
        sink.arrivals().read(|all| {
            assert!(all.iter().all(|one| one.intact && one.tls), "whole, and over TLS");
            ids.extend(all.iter().filter_map(|one| one.id));
        });
    }
    ids.sort_unstable();
    assert!(ids.into_iter().eq(0..count), "each message once");
}

/// The domains, each with a host of its own.
async fn sinks(world: &World, plan: &Plan, corpus: &Arc<Corpus>) -> Vec<Sink> {
    let mut sinks = Vec::new();
    for number in 0..plan.domains {
        let (domain, host) = (format!("d{number}.test"), format!("mx{number}.host{number}.test"));
        let [.., third, fourth] = number.to_be_bytes();
        let address = Ipv4Addr::new(127, 29, third, fourth);
        let tls = SinkTls::Offered(world.pki.issue(&Leaf::named(&host)));
        let sink = Sink::start(SocketAddr::from((address, 25)), tls, Arc::clone(corpus)).await;
        sinks.push(sink.expect("an address in 127.0.0.0/8 can be bound"));
        world.dns.mx(&domain, &[(10, &host)]);
        world.dns.a(&host, address);
    }
    // Answers live as long as ordinary ones do.
    world.dns.set_ttl(300);
    sinks
}

async fn start(name: &str, world: &World) -> Running {
    if name == "staunch" {
        let relay = world.relay("[delivery]\nport = 25\n").await;
        return Running::Staunch(Box::new(relay));
    }
    let opened = Command::new("chmod").arg("755").arg(world.dir()).status();
    assert!(opened.is_ok_and(|status| status.success()), "chmod");
    let setup = PostfixSetup::new("postfix.test", POSTFIX)
        .set("smtp_tls_CAfile", world.pki.ca_file().display())
        .set("smtp_tls_security_level", "may")
        .set("smtp_tls_connection_reuse", "yes")
        .set("in_flow_delay", "0")
        .set("initial_destination_concurrency", 20)
        .set("smtp_destination_concurrency_limit", 100)
        .resolver(STANDARD_PORTS);
    Running::Postfix(Postfix::start(&world.dir().join("postfix"), &setup))
}
