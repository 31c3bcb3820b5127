//! How fast does staunch relay, and what does it cost, beside Postfix on the same machine in the
//! same minutes?
//!
//! `cargo bench -p staunch --bench relay -- [messages=5000] [octets=10000] [connections=64]
//! [rounds=3] [only=NAME] [beside=PATH] [offered=RATE]`,
//! as root, with Debian's Postfix. `beside` is another build of staunch; the ratios to it are those
//! of each round. With `offered` the generator submits so many messages a second, and not as many
//! as are taken.
//!
//! One generator, one sink, one recipient domain. Each contestant takes 10 KB messages over plain
//! SMTP, stores them durably, and passes them on over STARTTLS (TLS 1.3, ECDSA P-256) to a host
//! whose certificate it has to verify. The sink compares every message with what was submitted,
//! octet by octet, and wants each exactly once. Contestants take turns, so a noisy minute hits them
//! all; the median of the rounds counts.
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

use common::{assert_each_once, median, own_cpu, settled, wait_for_all};
use tokio::time::Instant;
use world::load::{Corpus, Envelope, Load, Sink, SinkTls, Sizes};
use world::real::process::PeakMemory;
use world::real::{Postfix, PostfixSetup, Usage};
use world::{Argument, Leaf, Relay, World};

const SINK_HOST: &str = "mx.sink.test";
/// Addresses of this benchmark alone.
const SINK: Ipv4Addr = Ipv4Addr::new(127, 26, 0, 9);
const POSTFIX: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(127, 26, 0, 1)), 2525);

/// What stands between generator and sink.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Contestant {
    AnotherStaunch,
    Staunch,
    PostfixDefault,
    PostfixTuned,
}

const ALL: [Contestant; 4] = [
    Contestant::AnotherStaunch,
    Contestant::Staunch,
    Contestant::PostfixDefault,
    Contestant::PostfixTuned,
];

impl Contestant {
    fn name(self) -> &'static str {
        match self {
            Self::AnotherStaunch => "another staunch",
            Self::Staunch => "staunch",
            Self::PostfixDefault => "Postfix default",
            Self::PostfixTuned => "Postfix tuned",
        }
    }
}

/// How large a run is.
#[derive(Clone, Debug)]
struct Plan {
    messages: u64,
    /// Octets of each.
    octets: usize,
    connections: usize,
    rounds: usize,
    only: Option<String>,
    /// The program of [`Contestant::AnotherStaunch`].
    beside: Option<String>,
    /// Messages a second.
    offered: Option<u64>,
}

impl Plan {
    fn from_arguments() -> Self {
        let mut plan = Self {
            messages: 5000,
            octets: 10_000,
            connections: 64,
            rounds: 3,
            only: None,
            beside: None,
            offered: None,
        };
        for argument in Argument::all() {
            match argument.name.as_str() {
                "messages" => plan.messages = argument.number(),
                "octets" => plan.octets = argument.number(),
                "beside" => plan.beside = Some(argument.value),
                "connections" => plan.connections = argument.number(),
                "rounds" => plan.rounds = argument.number(),
                "only" => plan.only = Some(argument.value),
                "offered" => plan.offered = Some(argument.number()),
                _ => argument.unknown(),
            }
        }
        plan
    }

    fn contestants(&self) -> impl Iterator<Item = Contestant> {
        ALL.into_iter().filter(|one| match one {
            Contestant::AnotherStaunch => self.beside.is_some(),
            Contestant::Staunch | Contestant::PostfixDefault | Contestant::PostfixTuned => {
                self.only.as_ref().is_none_or(|only| one.name() == only)
            }
        })
    }

    fn program(&self, contestant: Contestant) -> &str {
        let own = env!("CARGO_BIN_EXE_staunch");
        match contestant {
            Contestant::AnotherStaunch => self.beside.as_deref().unwrap_or(own),
            Contestant::Staunch | Contestant::PostfixDefault | Contestant::PostfixTuned => own,
        }
    }
}

/// What one run showed.
#[derive(Clone, Copy, Debug)]
struct Figures {
    /// From the first MAIL to the last message at the sink.
    messages_per_second: f64,
    /// From the first MAIL to the last 250.
    accepted_per_second: f64,
    /// The relay's processes, with all they started.
    cpu_seconds_per_thousand: f64,
    /// Sum of their proportional set sizes.
    peak_mib: f64,
    /// Generator and sink.
    own_cpu_seconds_per_thousand: f64,
    /// Octets that staunch gave the disk for each octet of mail.
    written: Option<f64>,
}

#[tokio::main]
async fn main() {
    let plan = Plan::from_arguments();
    let mut results: Vec<(Contestant, Vec<Figures>)> =
        plan.contestants().map(|one| (one, Vec::new())).collect();
    println!(
        "{} messages of {} octets, {} connections, {} rounds, {} cores\n",
        plan.messages,
        plan.octets,
        plan.connections,
        plan.rounds,
        std::thread::available_parallelism().map_or(0, usize::from)
    );
    for round in 1..=plan.rounds {
        // Who goes second finds another machine than who goes first.
        let turns: Vec<_> = if round % 2 == 0 {
            results.iter_mut().rev().collect()
        } else {
            results.iter_mut().collect()
        };
        for (contestant, figures) in turns {
            let got = run(*contestant, &plan).await;
            println!("round {round}: {} {got:.2?}", contestant.name());
            figures.push(got);
        }
    }
    println!(
        "\n| median of {} | messages/s | accepted/s | CPU s per 1,000 | peak PSS MiB | load and sink: CPU s per 1,000 | written per octet |",
        plan.rounds
    );
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    for (contestant, figures) in &results {
        let median = |pick: fn(&Figures) -> f64| median(figures.iter().map(pick).collect());
        println!(
            "| {} | {:.0} | {:.0} | {:.2} | {:.0} | {:.2} | {} |",
            contestant.name(),
            median(|one| one.messages_per_second),
            median(|one| one.accepted_per_second),
            median(|one| one.cpu_seconds_per_thousand),
            median(|one| one.peak_mib),
            median(|one| one.own_cpu_seconds_per_thousand),
            written(figures),
        );
    }
    if let [(Contestant::AnotherStaunch, before), (Contestant::Staunch, now), ..] = &results[..] {
        let ratio = |pick: fn(&Figures) -> f64| {
            median(now.iter().zip(before).map(|(now, before)| pick(now) / pick(before)).collect())
        };
        println!(
            "\nmedian of the rounds' ratios to the other build: rate {:.2}, accepted {:.2}, CPU {:.2}",
            ratio(|one| one.messages_per_second),
            ratio(|one| one.accepted_per_second),
            ratio(|one| one.cpu_seconds_per_thousand),
        );
    }
}

fn written(figures: &[Figures]) -> String {
    let known: Option<Vec<f64>> = figures.iter().map(|one| one.written).collect();
    known.map_or_else(|| "not measured".to_owned(), |all| format!("{:.2}", median(all)))
}

/// A contestant that runs.
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

    /// Octets that were given to the disk, and not taken back before they reached it; one process
    /// alone has this figure.
    fn written(&self) -> Option<u64> {
        let Self::Staunch(relay) = self else { return None };
        let text = std::fs::read_to_string(format!("/proc/{}/io", relay.pid())).ok()?;
        let figure = |name: &str| {
            text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok())
        };
        Some(figure("write_bytes:")?.saturating_sub(figure("cancelled_write_bytes:")?))
    }

    fn pid(&self) -> u32 {
        match self {
            Self::Staunch(relay) => relay.pid(),
            Self::Postfix(postfix) => postfix.pid(),
        }
    }
}

/// One contestant in a fresh world.
async fn run(contestant: Contestant, plan: &Plan) -> Figures {
    let world = World::start(plan.program(contestant)).await;
    let corpus = Arc::new(Corpus::new(Sizes::Fixed(plan.octets)));
    let tls = SinkTls::Offered(world.pki.issue(&Leaf::named(SINK_HOST)));
    let sink = Sink::start(SocketAddr::from((SINK, 0)), tls, Arc::clone(&corpus)).await;
    let sink = sink.expect("an address in 127.0.0.0/8 can be bound");
    let relay = start(contestant, &world, sink.address()).await;

    let memory = PeakMemory::watch(relay.pid());
    let (before, own_before) = (Usage::of_tree(relay.pid()), own_cpu());
    let start = Instant::now();
    let envelope =
        |id| Envelope { from: "ann@load.test".to_owned(), to: format!("user{id}@sink.test") };
    let load = Load::new(relay.address(), plan.connections, corpus, Arc::new(envelope));
    submit(&load, plan).await;
    let accepted = start.elapsed();
    assert_eq!(load.acknowledged().len() as u64, plan.messages, "{contestant:?} refused some");
    wait_for_all(&sink, plan.messages).await;
    let last = sink.arrivals().read(|all| all.iter().map(|one| one.at).max());
    let whole = last.expect("there are some") - start;
    // The CPU of what follows the last message (its settling) belongs to it.
    let (after, own_after) = (settled(relay.pid()).await, own_cpu());
    assert_each_once(&sink, plan.messages);

    let thousands = plan.messages as f64 / 1000.0;
    Figures {
        messages_per_second: plan.messages as f64 / whole.as_secs_f64(),
        accepted_per_second: plan.messages as f64 / accepted.as_secs_f64(),
        cpu_seconds_per_thousand: (after.cpu_seconds - before.cpu_seconds) / thousands,
        peak_mib: memory.finish() as f64 / 1024.0,
        own_cpu_seconds_per_thousand: (own_after - own_before) / thousands,
        written: relay
            .written()
            .map(|octets| octets as f64 / thousands / 1000.0 / plan.octets as f64),
    }
}

/// As fast as it is taken, or at the rate that was asked for.
async fn submit(load: &Arc<Load>, plan: &Plan) {
    let Some(offered) = plan.offered else { return load.run(plan.messages).await };
    let mut tenths = tokio::time::interval(Duration::from_millis(100));
    let mut goal = 0;
    while goal < plan.messages {
        tenths.tick().await;
        goal = (goal + offered / 10).min(plan.messages);
        load.run(goal).await;
    }
}

async fn start(contestant: Contestant, world: &World, sink: SocketAddr) -> Running {
    if matches!(contestant, Contestant::Staunch | Contestant::AnotherStaunch) {
        world.dns.mx("sink.test", &[(10, SINK_HOST)]);
        world.dns.a(SINK_HOST, SINK);
        // Answers live as long as ordinary ones do.
        world.dns.set_ttl(300);
        let overlay = format!("[delivery]\nport = {}\ntls = \"verify\"\n", sink.port());
        return Running::Staunch(Box::new(world.relay(&overlay).await));
    }
    let opened = std::process::Command::new("chmod").arg("755").arg(world.dir()).status();
    assert!(opened.is_ok_and(|status| status.success()), "chmod");
    let next_hop = format!("[{}]:{}", sink.ip(), sink.port());
    let mut setup = PostfixSetup::new("postfix.test", POSTFIX)
        .set("relayhost", &next_hop)
        .set("smtp_tls_CAfile", world.pki.ca_file().display())
        .set("smtp_tls_security_level", "encrypt")
        .set(
            "smtp_tls_policy_maps",
            format!("inline:{{ {{ {next_hop} = secure match={SINK_HOST} }} }}"),
        );
    if contestant == Contestant::PostfixTuned {
        setup = setup
            .set("smtp_tls_connection_reuse", "yes")
            .set("in_flow_delay", "0")
            .set("initial_destination_concurrency", 20)
            .set("smtp_destination_concurrency_limit", 100);
    }
    Running::Postfix(Postfix::start(&world.dir().join("postfix"), &setup))
}
