//! What does a crowd cost? 10,000 clients that do nothing, 1,000 that send large messages at 10 KB/s, and 1,000 that
//! never finish what they begin.
//!
//! `cargo bench -p staunch --bench crowd -- [idle=10000] [slow=1000] [loris=1000] [seconds=90]`
//!
//! Only the crowds that are named, or all of them. With fewer clients the bounds on memory shrink in ratio.
//!
//! Nothing is delivered: DNS refuses to answer, so that only the accepting side is measured. The slow senders are
//! watched for a window of `seconds`, not for the 80 minutes that 50 MB take at that rate; within it each of them has
//! sent more than any message may keep in memory.
#![expect(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a benchmark prints, and fails by panicking"
)]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::task::JoinSet;
use tokio::time::Instant;
use world::real::Usage;
use world::{Answer, Argument, Client, Closed, KeyFiles, Relay, Trust, World, message};

/// Clients from one address, as `limits.connections_per_client` allows by default.
const CLIENTS_PER_ADDRESS: usize = 100;
/// Connections that are begun at a time.
const AT_A_TIME: usize = 100;
/// How long all is quiet before memory is looked at.
const REST: Duration = Duration::from_secs(5);
/// Of the slow senders.
const MESSAGE_OCTETS: usize = 50_000_000;
const OCTETS_PER_SECOND: usize = 10_000;
/// Of a thousand slow senders, the default of `limits.memory`.
const BUDGET_KIB: usize = 64 * 1024;
const BUDGET_SENDERS: usize = 1000;
/// How much the process may grow beyond its budget, however large that is: each of the 32 threads that may wait for the
/// disk has a heap of its own, in huge pages of 2 MiB, and what was freed stays there for a while.
const HEAPS_MIB: f64 = 32.0 * 2.0;
/// Messages in each round of the ordinary client.
const ROUND: usize = 200;
/// The promises: of ten thousand idle clients, 400 MB; and of a normal client's time among others to that alone.
const IDLE_MIB: f64 = 400e6 / MIB;
const IDLE_CLIENTS: f64 = 10_000.0;
const RATIO_MAX: f64 = 2.0;
const MIB: f64 = 1024.0 * 1024.0;

/// How many clients of each kind there are.
#[derive(Clone, Copy, Debug)]
struct Plan {
    idle: Option<usize>,
    slow: Option<usize>,
    loris: Option<usize>,
    window: Duration,
}

impl Plan {
    fn from_arguments() -> Self {
        let window = Duration::from_secs(90);
        let mut plan = Self { idle: None, slow: None, loris: None, window };
        for argument in Argument::all() {
            match argument.name.as_str() {
                "idle" => plan.idle = Some(argument.number()),
                "slow" => plan.slow = Some(argument.number()),
                "loris" => plan.loris = Some(argument.number()),
                "seconds" => plan.window = Duration::from_secs(argument.number()),
                _ => argument.unknown(),
            }
        }
        match (plan.idle, plan.slow, plan.loris) {
            (None, None, None) => {
                Self { idle: Some(10_000), slow: Some(1000), loris: Some(1000), ..plan }
            }
            (_, _, _) => plan,
        }
    }
}

#[tokio::main]
async fn main() {
    let plan = Plan::from_arguments();
    raise_descriptors();
    if let Some(count) = plan.idle {
        idle(count).await;
    }
    if let Some(count) = plan.slow {
        slow(count, plan.window).await;
    }
    if let Some(count) = plan.loris {
        loris(count).await;
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

async fn idle(count: usize) {
    let world = World::start(env!("CARGO_BIN_EXE_staunch")).await;
    let relay = relay(&world, "").await;
    let empty = pss_mib(&relay);
    // What the daemon has without clients does not shrink with their number.
    let most = empty + (IDLE_MIB - empty) * count as f64 / IDLE_CLIENTS;
    let clients = crowd(relay.listener(), count).await;
    tokio::time::sleep(REST).await;
    let plain = pss_mib(&relay);
    println!(
        "{count} idle clients in clear: {plain:.1} MiB PSS, {empty:.1} of them before, {most:.1} allowed"
    );
    assert!(plain < most, "under {most:.1} MiB");

    // Each with a session of its own: a shared one would be taken up again.
    let secure =
        |client: Client| async move { client.starttls(&Trust::blind(), "relay.test").await };
    let secured = futures_util::stream::iter(clients).map(secure).buffer_unordered(AT_A_TIME);
    let clients: Vec<_> = secured.map(|client| client.expect("TLS")).collect().await;
    tokio::time::sleep(REST).await;
    let tls = pss_mib(&relay);
    println!("the same {} clients in TLS: {tls:.1} MiB PSS", clients.len());
    assert!(tls < most, "under {most:.1} MiB");
    let reply = relay.submit_content("a@x.test", &["b@x.test"], &message("a", "b", "hello")).await;
    assert_eq!(reply.code, 250, "and one more is served: {reply:?}");
}

/// What the slow senders did, all together.
#[derive(Debug, Default)]
struct Tally {
    begun: AtomicU64,
    refused: AtomicU64,
    octets: AtomicU64,
    broken: AtomicU64,
}

async fn slow(count: usize, window: Duration) {
    let world = World::start(env!("CARGO_BIN_EXE_staunch")).await;
    let budget_kib = BUDGET_KIB * count / BUDGET_SENDERS;
    let relay = relay(&world, &format!("memory = \"{budget_kib}KiB\"")).await;
    let clients = crowd(relay.listener(), count).await;
    tokio::time::sleep(REST).await;
    let before = pss_mib(&relay);
    let tally = Arc::new(Tally::default());
    let end = Instant::now() + window;
    let mut senders = JoinSet::new();
    for client in clients {
        let tally = Arc::clone(&tally);
        senders.spawn(async move {
            // The connection stays until everything is counted.
            send_slowly(client, end, &tally).await.inspect_err(|Closed| {
                tally.broken.fetch_add(1, Ordering::Relaxed);
            })
        });
    }
    let mut peak = before;
    while Instant::now() < end {
        tokio::time::sleep(Duration::from_secs(1)).await;
        peak = peak.max(pss_mib(&relay));
        Budget::of(&relay).await.assert_kept();
    }
    let on_disk = octets_below(&relay.data_dir()) as f64 / MIB;
    let arriving = std::fs::read_dir(relay.data_dir().join("tmp")).expect("a folder").count();
    let reply = relay.submit_content("a@x.test", &["b@x.test"], &message("a", "b", "hello")).await;
    assert_eq!(reply.code, 250, "an ordinary client is served: {reply:?}");
    while senders.join_next().await.is_some() {}
    let budget = Budget::of(&relay).await;
    budget.assert_kept();
    let number = |of: &AtomicU64| of.load(Ordering::Relaxed);
    println!(
        "{count} clients that send {MESSAGE_OCTETS} octets each at {OCTETS_PER_SECOND} octets/s, for {} s: {} began (refused for \
         now: {} times), {:.0} MiB came, {on_disk:.0} MiB were on disk; of a budget of {:.1} MiB {:.1} were lent at most; \
         {before:.1} MiB PSS before, {peak:.1} MiB at most",
        window.as_secs(),
        number(&tally.begun),
        number(&tally.refused),
        number(&tally.octets) as f64 / MIB,
        budget.limit as f64 / MIB,
        budget.peak as f64 / MIB,
    );
    assert_eq!(number(&tally.broken), 0, "connections that broke");
    // The client of a message that was given up hears of it only at the end.
    assert_eq!(arriving as u64, number(&tally.begun), "no message was given up for want of memory");
    assert!(budget.peak > budget.limit / 2, "the crowd is large enough to want it all");
    let most = before + budget.limit as f64 / MIB + HEAPS_MIB;
    assert!(peak < most, "under {most:.1} MiB");
}

/// A message of known size, as slowly as agreed; tried again while it is refused for now.
async fn send_slowly(mut client: Client, end: Instant, tally: &Tally) -> Result<Client, Closed> {
    let second = Duration::from_secs(1);
    loop {
        client.command(&format!("MAIL FROM:<a@x.test> SIZE={MESSAGE_OCTETS}")).await?;
        client.command("RCPT TO:<b@x.test>").await?;
        if client.command("DATA").await?.code == 354 {
            break;
        }
        tally.refused.fetch_add(1, Ordering::Relaxed);
        if Instant::now() + second > end {
            return Ok(client);
        }
        client.command("RSET").await?;
        tokio::time::sleep(second).await;
    }
    tally.begun.fetch_add(1, Ordering::Relaxed);
    client.send(b"Subject: slow\r\n\r\n").await?;
    let line = [&[b'x'; 98][..], b"\r\n"].concat();
    let piece = line.repeat(OCTETS_PER_SECOND / line.len());
    while Instant::now() < end {
        client.send(&piece).await?;
        tally.octets.fetch_add(piece.len() as u64, Ordering::Relaxed);
        tokio::time::sleep(second).await;
    }
    Ok(client)
}

fn octets_below(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(data) if data.is_dir() => octets_below(&entry.path()),
            Ok(data) => data.len(),
            Err(_) => 0,
        })
        .sum()
}

async fn loris(count: usize) {
    let world = World::start(env!("CARGO_BIN_EXE_staunch")).await;
    let relay = relay(&world, "").await;
    let mut client = relay.client().await;
    // The first round only warms up.
    round(&mut client).await;
    let mut alone = round(&mut client).await;
    let mut crowd = JoinSet::new();
    for (number, mut one) in self::crowd(relay.listener(), count).await.into_iter().enumerate() {
        // Half of them dawdle in commands, half in data.
        if number.is_multiple_of(2) {
            begin_data(&mut one).await;
        }
        crowd.spawn(dawdle(one));
    }
    tokio::time::sleep(REST).await;
    let mut among = round(&mut client).await;
    assert_eq!(crowd.len(), count, "all of them are still there");
    assert!(crowd.try_join_next().is_none(), "all of them are still there");
    crowd.shutdown().await;
    alone.extend(round(&mut client).await);
    let (alone, among) = (median(&mut alone), median(&mut among));
    let ratio = among.as_secs_f64() / alone.as_secs_f64();
    println!(
        "from MAIL to 250, median of {ROUND}: {:.2} ms alone (before and after), {:.2} ms among {count} clients that never \
         finish: ratio {ratio:.2}",
        alone.as_secs_f64() * 1000.0,
        among.as_secs_f64() * 1000.0,
    );
    assert!(ratio <= RATIO_MAX, "at most {RATIO_MAX}");
}

/// How long an ordinary client waits, from MAIL to the 250 after its data.
async fn round(client: &mut Client) -> Vec<Duration> {
    let mut times = Vec::new();
    for number in 0..ROUND {
        let content = message("a@x.test", "b@x.test", &format!("n{number}"));
        let begin = Instant::now();
        let reply = client.transact("a@x.test", &["b@x.test"], &content).await.expect("served");
        times.push(begin.elapsed());
        assert_eq!(reply.code, 250, "{reply:?}");
    }
    times
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().expect("there are some")
}

async fn begin_data(client: &mut Client) {
    client.expect("MAIL FROM:<a@x.test>", 250).await;
    client.expect("RCPT TO:<b@x.test>", 250).await;
    client.expect("DATA", 354).await;
}

/// One octet a second, for ever.
async fn dawdle(mut client: Client) -> Result<(), Closed> {
    loop {
        client.send(b"x").await?;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
