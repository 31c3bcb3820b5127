//! What does a crowd cost? 10,000 clients that do nothing, 1,000 that send large messages at 10
//! KB/s, 1,000 that never finish what they begin, 100 that send headers of very many fields, and
//! one client with 100 transactions that it does not end; and one that sends so many MiB each of
//! content that is made to be costly.
//!
//! `cargo bench -p staunch --bench crowd -- [idle=10000] [slow=1000] [loris=1000] [headers=100]
//! [unfinished=100] [inputs=64] [seconds=90]`
//!
//! Only the crowds that are named, or all of them. With fewer clients the bounds on memory shrink
//! in ratio.
//!
//! Nothing is delivered: DNS refuses to answer, so that only the accepting side is measured. The
//! slow senders are watched for a window of `seconds`, not for the eight minutes that 5 MB take at
//! that rate; within it each of them has sent more than any message may keep in memory.
#![expect(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a benchmark prints, and fails by panicking"
)]

mod headers;
mod idle;
mod inputs;
mod loris;
mod slow;
mod unfinished;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use futures_util::StreamExt;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use world::real::Usage;
use world::{Answer, Argument, Client, KeyFiles, Relay, World};

/// Clients from one address, as `limits.connections_per_client` allows by default.
const CLIENTS_PER_ADDRESS: usize = 100;
/// Connections that are begun at a time.
const AT_A_TIME: usize = 100;
/// How long all is quiet before memory is looked at.
const REST: Duration = Duration::from_secs(5);
/// How much the process may grow beyond its budget, however large that is: each of the 32 threads
/// that may wait for the disk has a heap of its own, and what was freed stays there for a while.
const HEAPS_MIB: f64 = 32.0;
const MIB: f64 = 1024.0 * 1024.0;

/// How many clients of each kind there are, by default; of `inputs`, how many MiB of each.
const KINDS: [(&str, usize); 6] = [
    ("idle", 10_000),
    ("slow", 1000),
    ("loris", 1000),
    ("headers", 100),
    ("unfinished", 100),
    ("inputs", 64),
];

/// What is asked for.
#[derive(Debug)]
struct Plan {
    counts: Vec<(String, usize)>,
    window: Duration,
}

impl Plan {
    fn from_arguments() -> Self {
        let mut plan = Self { counts: Vec::new(), window: Duration::from_secs(90) };
        for argument in Argument::all() {
            if KINDS.iter().any(|(kind, _)| *kind == argument.name) {
                plan.counts.push((argument.name.clone(), argument.number()));
            } else if argument.name == "seconds" {
                plan.window = Duration::from_secs(argument.number());
            } else {
                argument.unknown();
            }
        }
        if plan.counts.is_empty() {
            plan.counts = KINDS.iter().map(|(kind, count)| ((*kind).to_owned(), *count)).collect();
        }
        plan
    }
}

#[tokio::main]
async fn main() {
    let plan = Plan::from_arguments();
    raise_descriptors();
    for (kind, count) in plan.counts {
        match kind.as_str() {
            "idle" => idle::run(count).await,
            "slow" => slow::run(count, plan.window).await,
            "loris" => loris::run(count).await,
            "headers" => headers::run(count, plan.window).await,
            "inputs" => inputs::run(count).await,
            _ => unfinished::run(count).await,
        }
    }
}

/// The daemon does the same for itself.
fn raise_descriptors() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let raised = Rlimit { current: maximum, maximum };
    setrlimit(Resource::Nofile, raised).expect("up to the hard limit");
}

/// A relay whose limits let the crowd in, with a certificate.
async fn relay(world: &World, limits: &str) -> Relay {
    world.dns.outage(Some(Answer::Refused));
    let files: KeyFiles = world.key_files("relay.test");
    let listener = format!("[[listener]]\naddress = \"127.0.0.1:0\"\n{}", files.toml());
    let limits = format!("[limits]\nconnections = 11000\n{limits}\n");
    let log = "[log]\nlevel = \"warn,staunch::daemon=info,staunch::accept=info\"\n";
    world.relay(&(listener + &limits + log)).await
}

/// The address of the client of this number.
fn source(number: usize) -> IpAddr {
    let of_address = u8::try_from(number / CLIENTS_PER_ADDRESS).expect("few addresses");
    Ipv4Addr::new(127, 27, 0, of_address).into()
}

/// Connected and greeted, from many addresses.
async fn crowd(server: SocketAddr, count: usize) -> Vec<Client> {
    let dial = |number| async move {
        Client::dial_from(source(number), server).await.expect("let in").greeted().await
    };
    let clients = futures_util::stream::iter(0..count).map(dial).buffer_unordered(AT_A_TIME);
    clients.map(|client| client.expect("greeted")).collect().await
}

fn pss_mib(relay: &Relay) -> f64 {
    Usage::of_process(relay.pid()).pss_kib as f64 / 1024.0
}

/// Octets of the byte budget, as the daemon tells them.
#[derive(Clone, Copy, Debug)]
struct Budget {
    lent: u64,
    peak: u64,
    limit: u64,
}

impl Budget {
    async fn of(relay: &Relay) -> Self {
        let health = relay.cli_json(&["healthcheck"]).await;
        let memory = health.first().map(|health| &health["memory"]).expect("an answer");
        let octets = |name: &str| memory[name].as_u64().expect("octets");
        Self { lent: octets("lent"), peak: octets("peak"), limit: octets("limit") }
    }

    fn assert_kept(self) {
        assert!(self.lent <= self.limit && self.peak <= self.limit, "{self:?}");
    }
}
