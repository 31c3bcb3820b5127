//! The write-ahead log: bounded by itself, and by nobody who reads the file.
#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

mod common;

use std::path::Path;
use std::sync::mpsc;

use common::{envelope, lane, sealed};
use rusqlite::Connection;
use spool::{Options, Spool};

const MIB: u64 = 1024 * 1024;
/// Octets of a body; they stand in the database.
const BODY: usize = 60_000;

fn open(dir: &Path) -> Spool {
    let options = Options { reserve_bytes: 64 * 1024, ..Options::default() };
    Spool::open(dir, options).unwrap()
}

/// Commits so many messages, all at once.
fn commit(spool: &Spool, count: usize) {
    let (answer, results) = mpsc::channel();
    for _ in 0..count {
        let (body, answer) = (sealed(spool, &[b'x'; BODY]), answer.clone());
        let envelope = envelope(BODY, &[("to@to.example", lane(1))]);
        spool.commit(body, envelope, move |result| answer.send(result.is_ok()).unwrap());
    }
    assert!(results.iter().take(count).all(|is_ok| is_ok));
}

fn log(dir: &Path) -> u64 {
    dir.join("queue.db-wal").metadata().unwrap().len()
}

#[test]
fn however_fast_mail_comes_the_log_stays_below_64_mib() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    for _ in 0..10 {
        commit(&spool, 500);
        spool.count().unwrap();
        assert!(log(dir.path()) <= 64 * MIB, "{} MiB", log(dir.path()) / MIB);
    }
    assert_eq!(spool.pinned(), None);
}

#[test]
fn a_reader_pins_the_log_which_grows_and_is_cut_when_the_reader_has_gone() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    commit(&spool, 1);
    spool.count().unwrap();
    let reader = Connection::open(dir.path().join("queue.db")).unwrap();
    reader.execute_batch("BEGIN; SELECT count(*) FROM messages").unwrap();
    for _ in 0..3 {
        commit(&spool, 500);
        spool.count().unwrap();
    }
    assert!(log(dir.path()) > 64 * MIB, "what came since cannot be copied into the tables");
    let mut pinned = spool.pinned();
    while pinned.is_none() {
        spool.look_around().unwrap();
        commit(&spool, 64);
        spool.count().unwrap();
        pinned = spool.pinned();
    }
    // Its own process is nobody to name.
    assert_eq!(pinned.map(|pinned| pinned.readers), Some(Vec::new()));
    let count = "SELECT count(*) FROM messages";
    assert_eq!(reader.query_row(count, [], |row| row.get(0)), Ok(1), "and it sees what it saw");
    reader.execute_batch("COMMIT").unwrap();
    while log(dir.path()) > 64 * MIB || spool.pinned().is_some() {
        spool.look_around().unwrap();
        commit(&spool, 1);
    }
}
