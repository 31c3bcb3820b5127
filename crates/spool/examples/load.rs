//! How fast is the store, and what does a message cost?
//!
//! `cargo run --release -p spool --example load -- DIR [THREADS] [MESSAGES] [BACKLOG] [LANES]`
//!
//! Fills a new store with a backlog, then lets threads commit and settle messages of 10,000 octets,
//! each waiting for its own sync as a session does, and prints rates, latencies and processor time.
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a measuring tool")]
#![allow(clippy::disallowed_methods, reason = "measuring is about the clock")]
#![allow(clippy::indexing_slicing, clippy::cast_possible_truncation, reason = "small numbers")]
#![allow(clippy::cast_sign_loss, reason = "of its own making")]

use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use smtp::{Mailbox, ReversePath};
use spool::{
    BodyFacts, Change, LaneKey, MessageId, MessageOptions, NewRecipient, Options, RecipientNo,
    RecipientOptions, RecipientState, Settlement, Spool, StoredEnvelope,
};

const BODY: usize = 10_000;

fn main() {
    let arguments: Vec<_> = std::env::args().collect();
    let number = |place: usize, default: usize| {
        arguments.get(place).map_or(default, |text| text.parse().unwrap())
    };
    let dir = Path::new(&arguments[1]);
    let (threads, messages) = (number(2, 64), number(3, 50_000));
    let (backlog, lanes) = (number(4, 0), number(5, 5_000).max(1));

    let spool = Spool::open(dir, Options::default()).unwrap();
    report("backlog", backlog, || fill(&spool, backlog, lanes));
    run(&spool, "commit + settle", threads, messages, lanes);
    read(&spool, lanes);
    report("close", 1, || spool.close());
    report("open", 1, || drop(Spool::open(dir, Options::default()).unwrap()));
    println!("{} MB resident at most", status("VmHWM:") / 1024);
}

fn fill(spool: &Spool, count: usize, lanes: usize) {
    // Windows of 512 keep the writer busy without waiting for each.
    for start in (0..count).step_by(512) {
        let (answer, results) = mpsc::channel();
        let end = count.min(start + 512);
        for number in start..end {
            let answer = answer.clone();
            let (sealed, envelope) = message(spool, number, lanes);
            spool.commit(sealed, envelope, move |result| answer.send(result).unwrap());
        }
        assert!(results.iter().take(end - start).all(|result| result.is_ok()));
    }
}

fn message(spool: &Spool, number: usize, lanes: usize) -> (spool::Sealed, StoredEnvelope) {
    let now = Timestamp::now();
    let mut draft = spool.draft(spool.new_id(now));
    draft.write(&vec![b'x'; BODY]).unwrap();
    let lane = number.wrapping_mul(7919) % lanes;
    let recipient = NewRecipient {
        mailbox: Mailbox::parse(&format!("someone{number}@domain{lane}.example")).unwrap(),
        lane: LaneKey::new(&format!("domain{lane}.example")),
        options: RecipientOptions::default(),
        state: RecipientState::Queued,
    };
    let facts = BodyFacts {
        size: BODY as u64,
        header_len: 700,
        has_8bit: false,
        longest_line: 78,
        ends_with_newline: true,
        received_count: 1,
    };
    let envelope = StoredEnvelope {
        sender: ReversePath::parse("sender@from.example").unwrap(),
        recipients: vec![recipient],
        arrived_at: now,
        expires_at: now + SignedDuration::from_hours(120),
        client: "192.0.2.1 mail.from.example".into(),
        facts,
        options: MessageOptions::default(),
    };
    (draft.seal().unwrap(), envelope)
}

fn run(spool: &Spool, what: &str, threads: usize, messages: usize, lanes: usize) {
    let each = messages / threads;
    let mut latencies = report(what, each * threads, || {
        thread::scope(|scope| {
            let work = |thread| {
                move || {
                    let one = |round| {
                        let number = 1_000_000_000 + thread * each + round;
                        let begun = Instant::now();
                        let id = commit(spool, number, lanes);
                        let taken = begun.elapsed();
                        settle(spool, id);
                        taken
                    };
                    (0..each).map(one).collect::<Vec<_>>()
                }
            };
            let handles: Vec<_> = (0..threads).map(|thread| scope.spawn(work(thread))).collect();
            handles.into_iter().flat_map(|handle| handle.join().unwrap()).collect::<Vec<_>>()
        })
    });
    latencies.sort_unstable();
    let at = |share: f64| latencies[(latencies.len() as f64 * share) as usize];
    println!("  commit: p50 {:?}, p99 {:?}, p99.9 {:?}", at(0.5), at(0.99), at(0.999));
}

fn commit(spool: &Spool, number: usize, lanes: usize) -> MessageId {
    let (answer, result) = mpsc::sync_channel(1);
    let (sealed, envelope) = message(spool, number, lanes);
    spool.commit(sealed, envelope, move |result| answer.send(result).unwrap());
    result.recv().unwrap().unwrap()
}

fn settle(spool: &Spool, message: MessageId) {
    let (answer, result) = mpsc::sync_channel(1);
    let settlement = Settlement {
        permit: spool.settle_permit().unwrap(),
        message,
        changes: vec![(RecipientNo(0), Change::Delivered)],
        dsns: Vec::new(),
        lane: None,
    };
    spool.settle(settlement, move |result| answer.send(result).unwrap());
    result.recv().unwrap().unwrap();
}

fn read(spool: &Spool, lanes: usize) {
    let summary = report("lanes", 1, || spool.lanes().unwrap());
    println!("  {} lanes, {:?}", summary.len(), spool.count().unwrap());
    let later = Timestamp::now() + SignedDuration::from_hours(1);
    let fetched = report("next", 1000.min(lanes), || {
        let pages = (0..1000.min(lanes)).map(|lane| {
            let lane = LaneKey::new(&format!("domain{lane}.example"));
            spool.next(&lane, later, None, 50).unwrap().due
        });
        pages.flatten().collect::<Vec<_>>()
    });
    report("body", fetched.len(), || {
        fetched.iter().for_each(|due| drop(spool.body(due.message).unwrap()));
    });
}

fn report<T>(what: &str, count: usize, work: impl FnOnce() -> T) -> T {
    let (begun, before) = (Instant::now(), processor_time());
    let result = work();
    let (taken, used) = (begun.elapsed(), processor_time().saturating_sub(before));
    println!(
        "{what}: {count} in {taken:?} ({:.0}/s), processor {:.1} µs each",
        count as f64 / taken.as_secs_f64(),
        used.as_secs_f64() * 1e6 / count.max(1) as f64
    );
    result
}

/// User and system time of all threads, in the kernel's 10 ms ticks.
fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let (_, rest) = stat.rsplit_once(')').unwrap();
    let fields: Vec<_> = rest.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

fn status(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
