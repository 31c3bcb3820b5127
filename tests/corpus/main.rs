//! Messages that gave other programs trouble pass through the real binary, and arrive as they were
//! sent.
//!
//! ```text
//! cargo test -p staunch --test corpus -- cache=FOLDER           every road
//! cargo test -p staunch --test corpus -- cache=FOLDER only=NAME  one of
//!     full, bare, utf8, sendmail, submission, bounces
//! ```
//!
//! `tests/corpus/fetch.py FOLDER` fetches the messages from the tests of 48 other packages; none of
//! them is in this repository. `least=N` says how many there have to be, `match=ID` takes only
//! those whose name begins with it, `keep=FOLDER` writes what arrived there. Not part of
//! `cargo test --workspace`: `.ci/long corpus` calls it.
#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::wildcard_enum_match_arm,
    reason = "a test program prints, and fails by panicking"
)]

mod bounces;
mod judge;
mod message;
mod roads;
mod sendmail;
mod stage;
mod tally;
mod trees;

use std::path::PathBuf;

use message::Message;
use stage::Stage;
use tally::Tally;
use world::Argument;

/// What the command line asks for.
#[derive(Debug, Default)]
struct Plan {
    cache: PathBuf,
    /// All roads if it is empty.
    only: String,
    /// Messages whose name begins so.
    matching: String,
    least: usize,
    keep: Option<PathBuf>,
}

impl Plan {
    fn asked() -> Self {
        let mut plan = Self::default();
        for argument in std::env::args().skip(1).filter(|argument| !argument.starts_with("--")) {
            let argument = Argument::parse(&argument);
            match argument.name.as_str() {
                "cache" => plan.cache = argument.value.into(),
                "only" => plan.only = argument.value,
                "match" => plan.matching = argument.value,
                "least" => plan.least = argument.number(),
                "keep" => plan.keep = Some(argument.value.into()),
                _ => argument.unknown(),
            }
        }
        plan
    }
}

#[tokio::main]
async fn main() {
    let plan = Plan::asked();
    let messages = message::all(&plan.cache, &plan.matching);
    assert!(messages.len() >= plan.least, "{} messages, not {}", messages.len(), plan.least);
    let stage = Stage::start(plan.cache, plan.keep).await;
    let mut tallies = Vec::new();
    for road in ["full", "bare", "utf8", "submission", "sendmail", "bounces"] {
        if plan.only.is_empty() || plan.only == road {
            tallies.extend(take(road, &stage, &messages).await);
        }
    }
    println!("{}", tally::table(&tallies));
    for tally in &tallies {
        println!("{}", tally.details());
    }
    let differing: usize = tallies.iter().map(Tally::differing).sum();
    assert_eq!(differing, 0, "messages differ, and no class that is named above explains it");
    println!("corpus: ok");
}

async fn take(road: &str, stage: &Stage, messages: &[Message]) -> Vec<Tally> {
    match road {
        "full" => vec![roads::to_a_full_host(stage, messages).await],
        "bare" => vec![roads::to_a_bare_host(stage, messages).await],
        "utf8" => vec![roads::to_a_bare_host_with_smtputf8(stage, messages).await],
        "submission" => vec![roads::by_submission(stage, messages).await],
        "sendmail" => vec![sendmail::run(stage, messages).await],
        "bounces" => bounces::run(stage, messages).await,
        other => panic!("{other:?} is no road"),
    }
}
