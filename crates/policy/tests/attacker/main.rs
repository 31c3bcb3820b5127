//! A simulated attacker against the cache's core: whoever forges DNS, keeps HTTPS from us, steps
//! our clock, floods the cache, damages rows, loses files and pulls the plug at any instant must
//! get no byte of mail to a host that an unexpired `enforce` policy, once known, does not allow,
//! and must not make us return mail.
//!
//! Everything here is the program's own: the look-up and its writes, the judge of the clock,
//! eviction, authorization and admission. What is not is the world, the disk and the truth. No I/O,
//! and true time is an argument.
//!
//! ```text
//! cargo test -p policy --test attacker                       2,000 sequences
//! cargo test -p policy --release --test attacker -- sequences=100000 [first=N]
//! ```

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test stops at what it did not expect, and says what it saw"
)]

mod certificates;
mod core;
mod coverage;
mod disk;
mod random;
mod steps;
mod trouble;
mod truth;
mod world;

use std::cell::RefCell;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::certificates::Certificates;
use crate::coverage::Coverage;
use crate::steps::{Run, Step};

/// Steps of one sequence.
const STEPS: usize = 60;
/// Sequences where nobody says how many.
const SEQUENCES: u64 = 2_000;
/// Of each kind of trouble that has to come up, so many in a hundred thousand sequences. Fewer say
/// nothing.
const COVERED_MIN: u64 = 1_000;
const COVERED_FROM: u64 = 100_000;

fn main() -> ExitCode {
    let (mut sequences, mut first) = (SEQUENCES, 0);
    for argument in std::env::args().skip(1) {
        match argument.split_once('=') {
            Some(("sequences", count)) => sequences = count.parse().unwrap(),
            Some(("first", seed)) => first = seed.parse().unwrap(),
            // What cargo passes to every test.
            _ => {}
        }
    }
    let Some(coverage) = explore_all(first, sequences) else { return ExitCode::FAILURE };
    println!("{sequences} sequences of {STEPS} steps from seed {first}: none got through");
    let min = if sequences >= COVERED_FROM { COVERED_MIN } else { 0 };
    let missing = coverage.print(sequences, min);
    println!("test result: {} passed; {missing} failed", sequences.saturating_sub(missing));
    if missing == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// All sequences, on as many threads as there are processors; none if one of them got through.
fn explore_all(first: u64, sequences: u64) -> Option<Coverage> {
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let explore = |worker| {
            let seeds = (first..first + sequences).skip(worker).step_by(workers);
            let is_over = &is_over;
            scope.spawn(move || explore(seeds, is_over))
        };
        let running: Vec<_> = (0..workers).map(explore).collect();
        let mut all = Coverage::default();
        for worker in running {
            all.add(&worker.join().unwrap()?);
        }
        Some(all)
    })
}

/// One sequence after the other, until one gets through here or elsewhere.
fn explore(seeds: impl Iterator<Item = u64>, is_over: &AtomicBool) -> Option<Coverage> {
    let mut coverage = Coverage::default();
    let certificates = Rc::new(RefCell::new(Certificates::new()));
    for seed in seeds {
        if is_over.load(Ordering::Relaxed) {
            break;
        }
        let mut run = Run::new(seed, Rc::clone(&certificates));
        let mut steps = Vec::new();
        for _ in 0..STEPS {
            let step = run.choose();
            steps.push(step.clone());
            if let Err(why) = run.take(&step) {
                if !is_over.swap(true, Ordering::Relaxed) {
                    report(seed, steps, &why, &certificates);
                }
                return None;
            }
        }
        coverage.add(&run.coverage());
    }
    Some(coverage)
}

/// The shortest sequence that still gets through, by leaving out steps.
fn report(seed: u64, mut steps: Vec<Step>, why: &str, certificates: &Rc<RefCell<Certificates>>) {
    let mut why = why.to_owned();
    let mut at = 0;
    while at < steps.len() {
        let mut fewer = steps.clone();
        fewer.remove(at);
        match replay(seed, &fewer, certificates) {
            Some(still) => (steps, why) = (fewer, still),
            None => at += 1,
        }
    }
    eprintln!("seed {seed}: {why}");
    for step in &steps {
        eprintln!("    {step:?}");
    }
    println!("test result: 0 passed; 1 failed");
}

fn replay(seed: u64, steps: &[Step], certificates: &Rc<RefCell<Certificates>>) -> Option<String> {
    let mut run = Run::new(seed, Rc::clone(certificates));
    steps.iter().find_map(|step| run.take(step).err())
}
