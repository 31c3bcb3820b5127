//! How much memory does staunch need, idle and with 100,000 messages waiting?
//!
//! `cargo bench -p staunch --bench memory -- [messages=100000] [domains=5000]`
//!
//! The messages go to domains whose DNS does not answer, so every one of them waits, each domain in
//! a lane of its own.
#![expect(clippy::print_stdout, reason = "a benchmark prints")]

use std::sync::Arc;
use std::time::Duration;

use world::load::{Corpus, Envelope, Load, Sizes};
use world::real::Usage;
use world::{Argument, World};

/// Octets of a message; what waits is on disk, so it does not matter much.
const MESSAGE_OCTETS: usize = 2000;
const CONNECTIONS: usize = 32;
/// How long after the last message it is looked at.
const REST: Duration = Duration::from_secs(10);
/// The two promises.
const IDLE_MIB: f64 = 30.0;
const ADDED_MIB: f64 = 60.0;

#[tokio::main]
async fn main() {
    let (mut messages, mut domains) = (100_000, 5000);
    for argument in Argument::all() {
        match argument.name.as_str() {
            "messages" => messages = argument.number(),
            "domains" => domains = argument.number(),
            _ => argument.unknown(),
        }
    }
    let world = World::start(env!("CARGO_BIN_EXE_staunch")).await;
    world.dns.outage(Some(world::Answer::Refused));
    let relay =
        world.relay("[log]\nlevel = \"warn,staunch::daemon=info,staunch::accept=info\"\n").await;
    tokio::time::sleep(REST).await;
    let idle = pss_mib(relay.pid());
    println!("idle: {idle:.1} MiB PSS");

    let corpus = Arc::new(Corpus::new(Sizes::Fixed(MESSAGE_OCTETS)));
    let envelope = move |id: u64| Envelope {
        from: "ann@load.test".to_owned(),
        to: format!("user{id}@d{}.test", id % domains),
    };
    let load = Load::new(relay.listener(), CONNECTIONS, corpus, Arc::new(envelope));
    load.run(messages).await;
    assert_eq!(load.acknowledged().len() as u64, messages, "all are taken");
    tokio::time::sleep(REST).await;
    let full = pss_mib(relay.pid());
    println!(
        "{messages} messages to {domains} domains waiting: {full:.1} MiB PSS, {:.1} more",
        full - idle
    );
    assert!(idle < IDLE_MIB, "idle it is to stay under {IDLE_MIB} MiB");
    assert!(full - idle < ADDED_MIB, "the queue is to add less than {ADDED_MIB} MiB");
}

fn pss_mib(pid: u32) -> f64 {
    Usage::of_process(pid).pss_kib as f64 / 1024.0
}
