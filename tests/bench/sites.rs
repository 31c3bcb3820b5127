//! Many enforcing domains at one site, as the customers of a large provider are: how fast, and at
//! what cost?
//!
//! `cargo bench -p staunch --bench sites -- [domains=100] [each=40] [rounds=5] [only=NAME]`, as
//! root, with Debian's Postfix.
//!
//! Every domain publishes an `enforce` policy of its own over HTTPS, all name the same MX host,
//! nothing is cached at the beginning, and every contestant may have 50 connections to that host.
//! Postfix has TLS connection reuse and looks policies up by postfix-mta-sts-resolver (from PyPI,
//! in a folder of the run; `python3-venv` is needed). Beside them staunch with as much mail for a
//! single domain. Contestants take turns, and the median of the rounds' ratios counts.
#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a benchmark prints, and fails by panicking"
)]

mod common;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use common::{Plan, assert_each_once, median, own_cpu, settled, standard_ports, wait_for_all};
use tokio::net::TcpStream;
use tokio::time::Instant;
use world::load::{Corpus, Envelope, Load, Sink, SinkTls, Sizes};
use world::real::{Postfix, PostfixSetup, Usage};
use world::{Leaf, Mode, Relay, World};

const MESSAGE_OCTETS: usize = 10_000;
const CLIENTS: usize = 64;
/// Connections to the site.
const CONNECTIONS: u32 = 50;
const SINK_HOST: &str = "mx.site.test";
/// Addresses of this benchmark alone.
const SINK: Ipv4Addr = Ipv4Addr::new(127, 27, 0, 9);
const POSTFIX: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 27, 0, 1)), 2525);
const POLICY_SERVICE: &str = "127.27.0.1:8461";
/// Where programs look that cannot be told a port: DNS and HTTPS.
const STANDARD_PORTS: Ipv4Addr = Ipv4Addr::new(127, 27, 0, 53);
const RESOLVER: &str = "postfix-mta-sts-resolver==1.5.1";

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Contestant {
    /// All domains.
    Staunch,
    /// As much mail for one of them.
    OneDomain,
    Postfix,
}

const ALL: [Contestant; 3] = [Contestant::Staunch, Contestant::OneDomain, Contestant::Postfix];

impl Contestant {
    fn name(self) -> &'static str {
        match self {
            Self::Staunch => "staunch",
            Self::OneDomain => "one-domain",
            Self::Postfix => "postfix",
        }
    }
}

/// What one run showed.
#[derive(Clone, Copy, Debug)]
struct Figures {
    /// From the first MAIL to the last message at the sink.
    messages_per_second: f64,
    /// While the second half arrived.
    second_half: f64,
    /// The relay's processes, with all they started.
    cpu_seconds_per_thousand: f64,
    /// Generator, sink, DNS and policy host.
    own_cpu_seconds_per_thousand: f64,
}

#[tokio::main]
async fn main() {
    let plan = Plan::from_arguments(100, 40);
    let scratch = tempfile::tempdir().expect("a directory");
    if plan.has(Contestant::Postfix.name()) {
        install_resolver(scratch.path());
    }
    println!(
        "{} domains with {} messages of {MESSAGE_OCTETS} octets each at one site of {CONNECTIONS} connections, {} rounds\n",
        plan.domains, plan.each, plan.rounds
    );
    let mut results: Vec<(Contestant, Vec<Figures>)> =
        ALL.into_iter().filter(|one| plan.has(one.name())).map(|one| (one, Vec::new())).collect();
    for round in 1..=plan.rounds {
        for (contestant, figures) in &mut results {
            let got = run(*contestant, &plan, scratch.path()).await;
            println!("round {round}: {} {got:.2?}", contestant.name());
            figures.push(got);
        }
    }
    report(&results);
}

fn report(results: &[(Contestant, Vec<Figures>)]) {
    println!(
        "\n| median | messages/s | in the second half | CPU s per 1,000 | load, sink, DNS, policies: CPU s per 1,000 |"
    );
    println!("| --- | --- | --- | --- | --- |");
    for (contestant, figures) in results {
        let median = |pick: fn(&Figures) -> f64| median(figures.iter().map(pick).collect());
        println!(
            "| {} | {:.0} | {:.0} | {:.2} | {:.2} |",
            contestant.name(),
            median(|one| one.messages_per_second),
            median(|one| one.second_half),
            median(|one| one.cpu_seconds_per_thousand),
            median(|one| one.own_cpu_seconds_per_thousand),
        );
    }
    let of = |wanted| results.iter().find(|(one, _)| *one == wanted).map(|(_, figures)| figures);
    let Some(staunch) = of(Contestant::Staunch) else { return };
    let ratio = |other: &[Figures], pick: fn(&Figures) -> f64| {
        median(staunch.iter().zip(other).map(|(own, other)| pick(own) / pick(other)).collect())
    };
    if let Some(postfix) = of(Contestant::Postfix) {
        let rate = ratio(postfix, |one| one.messages_per_second);
        let cpu = ratio(postfix, |one| one.cpu_seconds_per_thousand);
        println!("\nstaunch to Postfix: {rate:.2} x the rate, {cpu:.3} of the CPU per message");
    }
    if let Some(one) = of(Contestant::OneDomain) {
        let rate = ratio(one, |one| one.second_half);
        println!("the second half to staunch's own with one domain: {rate:.2}");
    }
}

/// A contestant that runs.
enum Running {
    Staunch(Box<Relay>),
    Postfix(Postfix, Resolver),
}

/// The policy service beside Postfix; ends with this.
struct Resolver(Child);

impl Drop for Resolver {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

impl Running {
    fn address(&self) -> SocketAddr {
        match self {
            Self::Staunch(relay) => relay.listener(),
            Self::Postfix(..) => POSTFIX,
        }
    }

    fn pids(&self) -> Vec<u32> {
        match self {
            Self::Staunch(relay) => vec![relay.pid()],
            Self::Postfix(postfix, resolver) => vec![postfix.pid(), resolver.0.id()],
        }
    }

    fn cpu(&self) -> f64 {
        self.pids().into_iter().map(|pid| Usage::of_tree(pid).cpu_seconds).sum()
    }
}

/// One contestant in a fresh world.
async fn run(contestant: Contestant, plan: &Plan, scratch: &Path) -> Figures {
    let world = World::start(env!("CARGO_BIN_EXE_staunch")).await;
    let corpus = Arc::new(Corpus::new(Sizes::Fixed(MESSAGE_OCTETS)));
    let tls = SinkTls::Offered(world.pki.issue(&Leaf::named(SINK_HOST)));
    let sink = Sink::start(SocketAddr::from((SINK, 25)), tls, Arc::clone(&corpus)).await;
    let sink = sink.expect("an address in 127.0.0.0/8 can be bound");
    let domains = match contestant {
        Contestant::Staunch | Contestant::Postfix => plan.domains,
        Contestant::OneDomain => 1,
    };
    publish(&world, domains);
    let _ports = standard_ports(&world, STANDARD_PORTS).await;
    let relay = start(contestant, &world, scratch).await;

    let (before, own_before, start) = (relay.cpu(), own_cpu(), Instant::now());
    let to = move |id| format!("user{id}@d{}.test", id % domains);
    let envelope = move |id| Envelope { from: "ann@load.test".to_owned(), to: to(id) };
    let load = Load::new(relay.address(), CLIENTS, corpus, Arc::new(envelope));
    load.run(plan.messages()).await;
    assert_eq!(load.acknowledged().len() as u64, plan.messages(), "{contestant:?} refused some");
    wait_for_all(&sink, plan.messages()).await;
    let mut at: Vec<Instant> = sink.arrivals().read(|all| all.iter().map(|one| one.at).collect());
    at.sort_unstable();
    let (last, half) = (at.last().copied(), at.get(at.len() / 2).copied());
    let (last, half) = (last.unwrap_or(start), half.unwrap_or(start));
    for pid in relay.pids() {
        settled(pid).await;
    }
    let (after, own_after) = (relay.cpu(), own_cpu());
    assert_each_once(&sink, plan.messages());
    let (messages, thousands) = (plan.messages() as f64, plan.messages() as f64 / 1000.0);
    Figures {
        messages_per_second: messages / (last - start).as_secs_f64(),
        second_half: messages / 2.0 / (last - half).as_secs_f64(),
        cpu_seconds_per_thousand: (after - before) / thousands,
        own_cpu_seconds_per_thousand: (own_after - own_before) / thousands,
    }
}

fn publish(world: &World, domains: u64) {
    world.dns.a(SINK_HOST, SINK);
    for number in 0..domains {
        let name = format!("d{number}.test");
        world.dns.mx(&name, &[(10, SINK_HOST)]);
        let domain = world.domain(&name);
        domain.mta_sts(Mode::Enforce, &[SINK_HOST], 86_400);
        world.dns.a(&domain.policy_host(), STANDARD_PORTS);
    }
    // Answers live as long as ordinary ones do.
    world.dns.set_ttl(300);
}

async fn start(contestant: Contestant, world: &World, scratch: &Path) -> Running {
    if contestant != Contestant::Postfix {
        let overlay = format!(
            "[delivery]\nport = 25\nconnections_per_host = {CONNECTIONS}\n\
             connections_per_domain = {CONNECTIONS}\n[mta_sts]\npolicy_port = 443\n"
        );
        return Running::Staunch(Box::new(world.relay(&overlay).await));
    }
    let opened = Command::new("chmod").arg("755").arg(world.dir()).status();
    assert!(opened.is_ok_and(|status| status.success()), "chmod");
    let resolver = start_resolver(world, scratch).await;
    let setup = PostfixSetup::new("postfix.test", POSTFIX)
        .set("smtp_tls_CAfile", world.pki.ca_file().display())
        .set("smtp_tls_security_level", "may")
        .set("smtp_tls_policy_maps", format!("socketmap:inet:{POLICY_SERVICE}:postfix"))
        .set("smtp_tls_connection_reuse", "yes")
        .set("in_flow_delay", "0")
        .set("initial_destination_concurrency", 20)
        .set("smtp_destination_concurrency_limit", CONNECTIONS)
        .smtp_processes(CONNECTIONS)
        .resolver(STANDARD_PORTS);
    Running::Postfix(Postfix::start(&world.dir().join("postfix"), &setup), resolver)
}

/// The newest release on PyPI, into a folder of this run.
fn install_resolver(scratch: &Path) {
    let venv = scratch.join("venv");
    let made = Command::new("python3").arg("-m").arg("venv").arg(&venv).status();
    assert!(made.is_ok_and(|status| status.success()), "python3 -m venv (package python3-venv)");
    let installed = Command::new(venv.join("bin/pip"))
        .args(["install", "--quiet", RESOLVER, "uvloop"])
        .status();
    assert!(installed.is_ok_and(|status| status.success()), "pip install {RESOLVER}");
}

async fn start_resolver(world: &World, scratch: &Path) -> Resolver {
    let (dir, names) = (world.dir(), world.dir().join("resolv.conf"));
    std::fs::write(&names, format!("nameserver {STANDARD_PORTS}\n")).expect("resolv.conf");
    let settings = dir.join("mta-sts.yml");
    let (host, port) = POLICY_SERVICE.split_once(':').expect("a port");
    let text = format!(
        "host: {host}\nport: {port}\nreuse_port: true\ncache_grace: 60\nproactive_policy_fetching:\n  enabled: false\n\
         cache:\n  type: internal\n  options:\n    cache_size: 10000\ndefault_zone:\n  strict_testing: false\n  timeout: 4\n"
    );
    std::fs::write(&settings, text).expect("its settings");
    let script = "mount --bind \"$1\" /etc/resolv.conf && exec \"$2\" -c \"$3\"";
    let child = Command::new("unshare")
        .args(["-m", "--propagation", "private", "sh", "-c", script, "sh"])
        .arg(&names)
        .arg(scratch.join("venv/bin/mta-sts-daemon"))
        .arg(&settings)
        .env("SSL_CERT_FILE", world.pki.ca_file())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let resolver = Resolver(child.expect("unshare"));
    let since = Instant::now();
    while TcpStream::connect(POLICY_SERVICE).await.is_err() {
        assert!(since.elapsed() < Duration::from_secs(20), "the policy service does not answer");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    resolver
}
