//! Nothing that was answered 250 is lost, whatever stops the program or the machine.
//!
//! `cargo test -p staunch --test crash --` with one of these:
//!
//! ```text
//! kill9 rounds=10      kill -9 at random moments under load
//! bounces              kill -9 while 1,000 recipients bounce: one DSN each
//! powerloss points=200 the disk as a power cut may leave it, many times
//! faults syncs=20      failing syncs, then a full disk
//! reload messages=5000 another configuration again and again under load
//! clock                a clock 30 days ahead between two starts
//! damage rounds=20     a file that changed between two starts, many times
//! backup rounds=20     backup under load, kill -9, restore
//! ```
//!
//! `powerloss` needs strace; `faults` needs strace, root and loop mounts; `clock` needs faketime.
//! `seed=N` repeats a run's random choices. Not part of `cargo test --workspace`: `.ci/run` calls
//! it by name. How the disk is modelled: `docs/testing.md`.
#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::indexing_slicing,
    reason = "a test program prints, and fails by panicking"
)]

mod backup;
mod bounces;
mod clock;
mod damage;
mod faults;
mod kill9;
mod powerloss;
mod reload;
mod scene;

use std::time::{SystemTime, UNIX_EPOCH};

use world::Argument;
use world::replay::Random;

/// What the command line asks for.
#[derive(Debug)]
pub(crate) struct Plan {
    /// How often `kill9` and `bounces` kill, `damage` damages, `backup` restores.
    rounds: u64,
    /// Random points of `powerloss`.
    points: usize,
    /// Points of `powerloss` right after a 250; all if not given.
    acknowledged_points: usize,
    /// How many first syncs `faults` lets fail, one at a time.
    syncs: u64,
    /// Messages that pass during `reload`.
    messages: u64,
    /// Recipients that follow a route in `reload`.
    recipients: u64,
    /// How often `reload` reloads.
    reloads: u64,
    random: Random,
}

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1).filter(|argument| !argument.starts_with("--"));
    let part = arguments.next().unwrap_or_default();
    let plan = plan(arguments);
    match part.as_str() {
        "kill9" => kill9::run(plan).await,
        "bounces" => bounces::run(plan).await,
        "powerloss" => powerloss::run(plan).await,
        "faults" => faults::run(plan).await,
        "reload" => reload::run(plan).await,
        "clock" => clock::run().await,
        "damage" => damage::run(plan).await,
        "backup" => backup::run(plan).await,
        other => {
            panic!(
                "{other:?} is not kill9, bounces, powerloss, faults, reload, clock, damage or backup"
            )
        }
    }
    println!("\n{part}: ok");
}

fn plan(arguments: impl Iterator<Item = String>) -> Plan {
    let mut seed = seed_of_the_day();
    let mut plan = Plan {
        rounds: 10,
        points: 200,
        acknowledged_points: usize::MAX,
        syncs: 20,
        messages: 5_000,
        recipients: 100_000,
        reloads: 100,
        random: Random::new(0),
    };
    for argument in arguments {
        let argument = Argument::parse(&argument);
        match argument.name.as_str() {
            "rounds" => plan.rounds = argument.number(),
            "points" => plan.points = argument.number(),
            "acknowledged" => plan.acknowledged_points = argument.number(),
            "syncs" => plan.syncs = argument.number(),
            "messages" => plan.messages = argument.number(),
            "recipients" => plan.recipients = argument.number(),
            "reloads" => plan.reloads = argument.number(),
            "seed" => seed = argument.number(),
            _ => argument.unknown(),
        }
    }
    println!("seed={seed}");
    plan.random = Random::new(seed);
    plan
}

#[expect(clippy::disallowed_methods, reason = "another seed each time is what is wanted")]
fn seed_of_the_day() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
