//! How many TLS handshakes does it take?
//!
//! `cargo bench -p staunch --bench handshakes -- [messages=5000] [domains=500]`
//!
//! To one domain; to many domains that share one MX host, without a policy and with an equal one
//! each. Handshakes are counted by the host, resumed ones too, and the numbers are promises.
#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a benchmark prints, and fails by panicking"
)]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use world::load::{Corpus, Envelope, Load, Sink, SinkTls, Sizes};
use world::{Argument, Leaf, Mode, World};

const MESSAGE_OCTETS: usize = 10_000;
const CONNECTIONS: usize = 32;
const SINK: Ipv4Addr = Ipv4Addr::new(127, 0, 77, 1);
const SINK_HOST: &str = "mx.sink.test";
/// As long as messages arrive within this time, it goes on.
const PROGRESS: Duration = Duration::from_secs(60);

/// What mail goes to.
#[derive(Clone, Copy, Debug)]
enum Scene {
    OneDomain,
    ManyDomains,
    ManyPolicies,
}

impl Scene {
    fn name(self) -> &'static str {
        match self {
            Self::OneDomain => "one domain",
            Self::ManyDomains => "many domains",
            Self::ManyPolicies => "many domains, equal policies",
        }
    }

    /// The promise for 5,000 messages: 50 connections are inevitable with 100 messages each
    /// (`delivery.messages_per_connection`).
    fn most(self) -> usize {
        match self {
            Self::OneDomain => 60,
            Self::ManyDomains | Self::ManyPolicies => 100,
        }
    }

    fn domains(self, domains: u64) -> u64 {
        match self {
            Self::OneDomain => 1,
            Self::ManyDomains | Self::ManyPolicies => domains,
        }
    }
}

#[tokio::main]
async fn main() {
    let (mut messages, mut domains) = (5000, 500);
    for argument in Argument::all() {
        match argument.name.as_str() {
            "messages" => messages = argument.number(),
            "domains" => domains = argument.number(),
            _ => argument.unknown(),
        }
    }
    println!("| {messages} messages to | handshakes | resumed | at most | seconds |");
    println!("| --- | --- | --- | --- | --- |");
    for scene in [Scene::OneDomain, Scene::ManyDomains, Scene::ManyPolicies] {
        run(scene, messages, scene.domains(domains)).await;
    }
}

async fn run(scene: Scene, messages: u64, domains: u64) {
    let world = World::start(env!("CARGO_BIN_EXE_staunch")).await;
    let corpus = Arc::new(Corpus::new(Sizes::Fixed(MESSAGE_OCTETS)));
    let tls = SinkTls::Offered(world.pki.issue(&Leaf::named(SINK_HOST)));
    let sink = Sink::start(SocketAddr::from((SINK, 0)), tls, Arc::clone(&corpus)).await;
    let sink = sink.expect("an address in 127.0.0.0/8 can be bound");
    publish(&world, scene, domains);
    // One policy host for all: they are fetched a few at a time.
    let port = sink.address().port();
    let overlay = format!("[delivery]\nport = {port}\n[mta_sts]\nfetch_timeout = \"60s\"\n");
    let relay = world.relay(&overlay).await;

    let envelope = move |id: u64| Envelope {
        from: "ann@load.test".to_owned(),
        to: format!("user{id}@d{}.test", id % domains),
    };
    let start = Instant::now();
    let load = Load::new(relay.listener(), CONNECTIONS, corpus, Arc::new(envelope));
    load.run(messages).await;
    assert_eq!(load.acknowledged().len() as u64, messages, "all are taken");
    wait_for_all(&sink, messages).await;
    let took = start.elapsed().as_secs_f64();
    assert!(sink.arrivals().read(|all| all.iter().all(|one| one.intact && one.tls)));
    let (count, resumed) =
        sink.handshakes().read(|all| (all.len(), all.iter().filter(|seen| seen.resumed).count()));
    let most = scene.most();
    println!("| {} | {count} | {resumed} | {most} | {took:.1} |", scene.name());
    assert!(count <= most, "{scene:?}: {count} handshakes");
}

fn publish(world: &World, scene: Scene, domains: u64) {
    world.dns.a(SINK_HOST, SINK);
    // Answers live as long as ordinary ones do.
    world.dns.set_ttl(300);
    for number in 0..domains {
        let name = format!("d{number}.test");
        let domain = world.domain(&name);
        domain.mx_names(&[(10, SINK_HOST)]);
        match scene {
            Scene::OneDomain | Scene::ManyDomains => {}
            Scene::ManyPolicies => {
                domain.mta_sts(Mode::Enforce, &[SINK_HOST], 86400);
            }
        }
    }
}

async fn wait_for_all(sink: &Sink, count: u64) {
    let mut seen = 0;
    while (seen as u64) < count {
        let more = sink.arrivals().until(|all| (all.len() > seen).then_some(all.len()));
        seen = match tokio::time::timeout(PROGRESS, more).await {
            Ok(Ok(now)) => now,
            Ok(Err(_)) | Err(_) => panic!("{seen} of {count} messages arrived"),
        };
    }
}
