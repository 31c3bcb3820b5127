//! A write-ahead log that a disk or a hand has changed: SQLite would leave out all behind the
//! damage. What is not hit is there, and the log is told of.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a failure here is a failed test")]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use common::{at, commit_as, deliver, envelope, lane, open, snapshot};
use rusqlite::Connection;
use smtp::params::Priority;
use spool::{CopyError, Filter, MessageId, OpenError, RecipientState, Spool, examine, repair};
use tempfile::TempDir;

const HEADER: usize = 32;
const FRAME: usize = 24 + 4096;
const MESSAGES: usize = 60;

/// What a killed daemon leaves: everything is in the log, in one transaction for each message and
/// each delivery.
struct Killed {
    dir: TempDir,
    waiting: BTreeSet<MessageId>,
    /// The transaction that nobody can tell from an interrupted one is this message's.
    last: MessageId,
    log: Vec<u8>,
}

impl Killed {
    fn new() -> Self {
        let (work, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let spool = open(work.path());
        let one = |number: usize| {
            let to = format!("user{number}@to.example");
            let mut envelope = envelope(60, &[(&to, lane(number % 5))]);
            // Not of the journal.
            envelope.options.priority = Priority::parse("3").unwrap();
            commit_as(&spool, &[b'x'; 60], envelope)
        };
        let mut waiting: BTreeSet<_> = (0..MESSAGES).map(one).collect();
        let gone: Vec<_> = waiting.iter().copied().step_by(4).collect();
        for id in gone {
            deliver(&spool, id);
            waiting.remove(&id);
        }
        let last = one(MESSAGES);
        waiting.insert(last);
        snapshot(work.path(), dir.path());
        let log = fs::read(dir.path().join("queue.db-wal")).unwrap();
        Self { dir, waiting, last, log }
    }

    fn with_log(&self, log: &[u8]) -> TempDir {
        let copy = tempfile::tempdir().unwrap();
        snapshot(self.dir.path(), copy.path());
        fs::write(copy.path().join("queue.db-wal"), log).unwrap();
        copy
    }

    /// Where the frames begin that end a transaction; the log's own numbers begin anew behind its
    /// end.
    fn ends(&self) -> Vec<usize> {
        let salts = |frame: &[u8]| frame[8..16].to_vec();
        let frames = self.log[HEADER..].chunks_exact(FRAME).enumerate();
        let own = frames.take_while(|(_, frame)| salts(frame) == self.log[16..24]);
        let ends = own.filter(|(_, frame)| frame[4..8] != [0; 4]);
        ends.map(|(number, _)| HEADER + number * FRAME).collect()
    }

    /// Where the last transaction begins and ends.
    fn last_transaction(&self) -> (usize, usize) {
        let ends = self.ends();
        (ends[ends.len() - 2] + FRAME, ends[ends.len() - 1] + FRAME)
    }
}

/// Whose mail will be tried, and who is named: at the start, or when the body is read.
fn due_and_named(spool: &Spool) -> (BTreeSet<MessageId>, BTreeSet<Option<MessageId>>) {
    let mut named: BTreeSet<_> =
        common::check_all(spool).into_iter().map(|one| one.message).collect();
    let (lanes, _) = spool.lanes_with_names().unwrap();
    let mut due = BTreeSet::new();
    for lane in lanes {
        let page = spool.next(&lane.key, at(100), None, 1000).unwrap();
        due.extend(page.due.into_iter().map(|due| due.message));
    }
    due.retain(|id| match spool.body(*id) {
        Ok(_) => true,
        Err(error) => {
            assert!(error.is_damage(), "{error}");
            named.insert(Some(*id));
            false
        }
    });
    (due, named)
}

fn kept_logs(dir: &Path) -> Vec<Vec<u8>> {
    let entries = fs::read_dir(dir).unwrap().map(Result::unwrap);
    let kept = entries
        .filter(|entry| entry.file_name().to_str().unwrap().starts_with("queue.db-wal.damaged-"));
    kept.map(|entry| fs::read(entry.path()).unwrap()).collect()
}

#[test]
fn one_changed_octet_of_the_log_costs_what_it_is_in_and_nothing_behind_it() {
    let killed = Killed::new();
    // The end of the transaction before the last one is what proves that it ended.
    let ends = killed.ends();
    let last = ends[ends.len() - 2];
    let (mut opened, mut named_at_all) = (0, 0);
    // Of most pages a later frame has what counts; of these none has.
    let newest = (last - 20 * FRAME..last).step_by(FRAME).map(|frame| frame + FRAME - 90);
    for place in (0..last).step_by(24_989).chain(HEADER..HEADER + 24).chain(newest) {
        let mut log = killed.log.clone();
        log[place] ^= 1 << (place % 8);
        let copy = killed.with_log(&log);
        let findings = examine(copy.path()).unwrap().findings;
        assert!(findings.iter().any(|one| one.file == "queue.db-wal"), "{place}: {findings:?}");
        let spool = match Spool::open(copy.path(), common::options()) {
            // It may be the number of the page that changed, or what is in the page.
            Err(OpenError::Log { pages: 1, .. }) => continue,
            spool => spool.unwrap(),
        };
        assert_eq!(spool.report().mended_logs.len(), 1, "{place}");
        assert!(kept_logs(copy.path()) == [log], "{place}: it is kept");
        let (due, named) = due_and_named(&spool);
        let again: Vec<_> = due.difference(&killed.waiting).collect();
        assert!(again.is_empty(), "{place}: sent again: {again:?}");
        let missing = killed.waiting.difference(&due);
        let untold = missing.filter(|id| !named.contains(&Some(**id))).count();
        // Whose own id is damaged is named without it.
        assert!(untold <= usize::from(named.contains(&None)), "{place}: {untold} of {named:?}");
        opened += 1;
        named_at_all += usize::from(!named.is_empty());
    }
    assert!(opened > 90, "it can be told nearly always: {opened}");
    assert!(named_at_all > 0, "damage of a row is met as such");
}

#[test]
fn a_changed_octet_of_the_header_costs_nothing() {
    let killed = Killed::new();
    for place in 0..HEADER {
        let mut log = killed.log.clone();
        log[place] ^= 0x20;
        let spool_dir = killed.with_log(&log);
        let spool = open(spool_dir.path());
        assert_eq!(spool.report().mended_logs.len(), 1, "{place}");
        assert_eq!(due_and_named(&spool), (killed.waiting.clone(), BTreeSet::new()), "{place}");
    }
}

#[test]
fn a_transaction_that_was_interrupted_is_no_damage_and_leaves_all_before_it() {
    let killed = Killed::new();
    let (begin, end) = killed.last_transaction();
    let mut before = killed.waiting.clone();
    before.remove(&killed.last);
    let check = |log: &[u8], what: &str| {
        let copy = killed.with_log(log);
        assert_eq!(examine(copy.path()).unwrap().findings, [], "{what}");
        let spool = open(copy.path());
        assert!(spool.report().mended_logs.is_empty(), "{what}");
        assert_eq!(due_and_named(&spool).0, before, "{what}");
    };
    for place in (begin..end).step_by(FRAME / 2) {
        check(&killed.log[..place], "the rest was not written");
        let mut log = killed.log.clone();
        log[place..place + 24].fill(0xee);
        check(&log, "what came first was not written, what came last was");
    }
    let mut log = killed.log.clone();
    log[begin + 4..begin + 8].copy_from_slice(&[0, 0, 0, 5]);
    check(&log, "the head of a frame is of an earlier use, where a transaction ended with it");
    let mut log = killed.log[..begin].to_vec();
    log.resize(end, 0);
    check(&log, "its place is there, and empty");
    let copy = killed.with_log(&killed.log);
    assert!(open(copy.path()).report().mended_logs.is_empty(), "nor is a whole one");
}

#[test]
fn where_nobody_can_tell_which_page_it_was_the_start_is_refused_until_a_repair() {
    let killed = Killed::new();
    // Of a transaction nobody can tell any more where it ended, if there is no other between it and
    // the last one.
    let ends = killed.ends();
    let known = ends[ends.len() - 3] + FRAME;
    let mut refused = 0;
    for page in (0..known / 4096).step_by(13) {
        let mut log = killed.log.clone();
        log[page * 4096..(page + 1) * 4096].fill(0);
        let copy = killed.with_log(&log);
        match Spool::open(copy.path(), common::options()) {
            Err(OpenError::Log { .. }) => {
                refused += 1;
                assert!(
                    fs::read(copy.path().join("queue.db-wal")).unwrap() == log,
                    "{page}: as it was"
                );
                let repaired = repair(copy.path()).unwrap();
                assert!(repaired.log_kept.is_some() && repaired.queue_kept.is_some(), "{page}");
            }
            opened => drop(opened.unwrap()),
        }
        assert!(kept_logs(copy.path()) == [log], "{page}: it is kept");
        let spool = open(copy.path());
        let (due, _) = due_and_named(&spool);
        let held = Filter { state: Some(RecipientState::Held), ..Filter::default() };
        let held = spool.list(&held, None, 1000).unwrap();
        let held: BTreeSet<_> = held.rows.iter().map(|row| row.message).collect();
        let there = &due | &held;
        let missing: Vec<_> = killed.waiting.difference(&there).collect();
        assert!(missing.is_empty(), "{page}: {missing:?}");
    }
    assert!(refused > 0);
}

#[test]
fn a_frame_of_an_earlier_use_of_the_log_is_no_page_of_this_one() {
    let killed = Killed::new();
    let frame = HEADER + 5 * FRAME;
    let mut log = killed.log.clone();
    log[frame + 8] ^= 1;
    let spool_dir = killed.with_log(&log);
    assert_eq!(open(spool_dir.path()).report().mended_logs.len(), 1, "only its salts changed");
    // A start that was killed before it could tell told nobody.
    let kept = open(spool_dir.path()).report().mended_logs.clone();
    assert_eq!(kept, [spool_dir.path().join("queue.db-wal.damaged-1")], "told again");
    fs::remove_file(&kept[0]).unwrap();
    assert!(open(spool_dir.path()).report().mended_logs.is_empty(), "until it is removed");
    log[frame + 2000] ^= 1;
    let copy = killed.with_log(&log);
    let refused = Spool::open(copy.path(), common::options()).unwrap_err();
    assert!(matches!(refused, OpenError::Log { pages: 1, .. }), "{refused}");
}

/// For the next test: a program that reads the database whose path is in the environment.
#[test]
fn another_program_reads_for_as_long_as_its_input_is_open() {
    let Some(path) = std::env::var_os("READ_THIS") else { return };
    let db = Connection::open(path).unwrap();
    db.execute_batch("BEGIN; SELECT count(*) FROM messages").unwrap();
    std::io::stdout().write_all(b"\nreads\n").unwrap();
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

#[test]
fn a_damaged_log_is_not_changed_under_who_reads_it() {
    let killed = Killed::new();
    let mut log = killed.log.clone();
    log[HEADER + 5 * FRAME + 700] ^= 1;
    let copy = killed.with_log(&log);
    let mut reader = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "another_program_reads_for_as_long_as_its_input_is_open", "--nocapture"])
        .env("READ_THIS", copy.path().join("queue.db"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(reader.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == "reads"));
    let refused = Spool::open(copy.path(), common::options()).unwrap_err();
    assert!(matches!(refused, OpenError::LogInUse { .. }), "{refused}");
    assert!(fs::read(copy.path().join("queue.db-wal")).unwrap() == log, "it is as it was");
    // One that ends in peace copies what it believes of the log, and removes it.
    reader.kill().unwrap();
    reader.wait().unwrap();
    // Who copies the queue would miss what is behind the damage.
    let backup = spool::backup(copy.path(), &copy.path().with_extension("copy"));
    assert!(matches!(backup, Err(CopyError::Log { .. })), "{backup:?}");
    assert_eq!(open(copy.path()).report().mended_logs.len(), 1);
}
