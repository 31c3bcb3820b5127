//! Headers of very many short fields, which come to their end at the same moment: memory stays
//! within bounds, and goes back to the system afterwards.

use std::time::Duration;

use futures_util::future::join_all;
use world::real::Usage;
use world::{Client, World};

use crate::{crowd, relay};

/// Of each header: 250 KiB of fields that are empty.
const FIELDS: usize = 64_000;
/// Messages of each client.
const ROUNDS: usize = 3;
/// The promises, in MiB resident: at most, and after a rest.
const PEAK_MIB: u64 = 160;
const LATER_MIB: u64 = 80;
/// How long memory has to go back.
const LATER_MAX: Duration = Duration::from_secs(60);

pub(crate) async fn run(count: usize, window: Duration) {
    let world = World::start(env!("CARGO_BIN_EXE_staunch")).await;
    let relay = relay(&world, "").await;
    let mut clients = crowd(relay.listener(), count).await;
    for _ in 0..ROUNDS {
        join_all(clients.iter_mut().map(begin)).await;
        join_all(clients.iter_mut().map(end)).await;
    }
    let peak = Usage::resident_peak_kib(relay.pid()) / 1024;
    drop(clients);
    let rest = window.min(LATER_MAX);
    tokio::time::sleep(rest).await;
    let later = Usage::of_process(relay.pid()).resident_kib / 1024;
    println!(
        "{count} clients with {ROUNDS} headers of {FIELDS} fields each: resident {peak} MiB at most, {later} MiB {} s later",
        rest.as_secs(),
    );
    assert!(peak <= PEAK_MIB, "at most {PEAK_MIB} MiB");
    assert!(later <= LATER_MIB, "at most {LATER_MIB} MiB afterwards");
}

async fn begin(client: &mut Client) {
    client.expect("MAIL FROM:<a@x.test>", 250).await;
    client.expect("RCPT TO:<b@x.test>", 250).await;
    client.expect("DATA", 354).await;
    client.send("a:\r\n".repeat(FIELDS).as_bytes()).await.expect("taken");
}

async fn end(client: &mut Client) {
    client.send(b"\r\n.\r\n").await.expect("taken");
    assert_eq!(client.reply().await.expect("an answer").code, 250);
}
