//! Clients that send large messages slowly: what all of them hold in memory stays within the
//! budget.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;
use world::{Client, Closed, World, message};

use crate::{Budget, HEAPS_MIB, MIB, REST, crowd, pss_mib, relay};

const MESSAGE_OCTETS: usize = 5_000_000;
const OCTETS_PER_SECOND: usize = 10_000;
/// Of a thousand slow senders: the default of `limits.memory`.
const BUDGET_KIB: usize = 64 * 1024;
const BUDGET_SENDERS: usize = 1000;

/// What the slow senders did, all together.
#[derive(Debug, Default)]
struct Tally {
    begun: AtomicU64,
    refused: AtomicU64,
    octets: AtomicU64,
    broken: AtomicU64,
}

pub(crate) async fn run(count: usize, window: Duration) {
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
    // The client of a message that was given up is told only at the end.
    assert_eq!(arriving as u64, number(&tally.begun), "no message was given up for want of memory");
    assert!(budget.peak > budget.limit / 4, "the crowd is large enough to matter");
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
