//! What `staunch doctor --data` finds, and what a repair brings back.
#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use common::{INLINE_MAX, at, body_file, bytes, commit, lane, open, settle, settlement, snapshot};
use rusqlite::Connection;
use spool::{Change, Cure, Filter, MessageId, RecipientNo, RecipientState, Spool, examine, repair};

const PAGE: usize = 4096;
const MESSAGES: usize = 160;

fn body(number: usize) -> Vec<u8> {
    let size = if number.is_multiple_of(40) { INLINE_MAX + 400 } else { 60 };
    vec![u8::try_from(number % 256).unwrap(); size]
}

/// A queue that is more than one level deep, from which every second message was delivered.
fn fill(dir: &Path) -> (Vec<MessageId>, BTreeSet<MessageId>) {
    let spool = open(dir);
    let to = |number: usize| format!("{}@to.example", format!("user{number}-").repeat(6));
    let all: Vec<_> = (0..2 * MESSAGES)
        .map(|number| commit(&spool, &body(number), &[(&to(number), lane(number % 7))]))
        .collect();
    for id in all.iter().skip(1).step_by(2) {
        let mut done = settlement(&spool, *id);
        done.changes.push((RecipientNo(0), Change::Delivered));
        settle(&spool, done).unwrap();
    }
    spool.set_mark("switched_off.sending", Some("1")).unwrap();
    let waiting = all.iter().copied().step_by(2).collect();
    (all, waiting)
}

/// Those that will be tried, with their bodies, and those that are held.
fn outcome(spool: &Spool) -> (BTreeSet<MessageId>, BTreeSet<MessageId>) {
    let (lanes, _) = spool.lanes_with_names().unwrap();
    let mut due = BTreeSet::new();
    for lane in lanes {
        let page = spool.next(&lane.key, at(100), None, 1000).unwrap();
        due.extend(page.due.into_iter().map(|due| due.message));
    }
    due.retain(|id| spool.body(*id).is_ok());
    let held = Filter { state: Some(RecipientState::Held), ..Filter::default() };
    let held = spool.list(&held, None, 1000).unwrap();
    let held = held.rows.iter().map(|row| row.message);
    (due, held.collect())
}

#[test]
fn a_whole_queue_has_no_findings_and_a_repair_leaves_it_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let (_, waiting) = fill(dir.path());
    let examined = examine(dir.path()).unwrap();
    assert_eq!((examined.messages, examined.findings), (waiting.len() as u64, vec![]));
    let before = fs::read(dir.path().join("queue.db")).unwrap();
    assert_eq!(repair(dir.path()).unwrap(), spool::Repaired::default());
    assert_eq!(fs::read(dir.path().join("queue.db")).unwrap(), before);
    // Also while a daemon works in it.
    let spool = open(dir.path());
    commit(&spool, b"x", &[("a@b.example", lane(1))]);
    assert_eq!(examine(dir.path()).unwrap().findings, vec![]);
}

#[test]
fn no_single_octet_of_queue_db_costs_more_than_the_message_it_belongs_to() {
    let dir = tempfile::tempdir().unwrap();
    let (all, waiting) = fill(dir.path());
    let pages = fs::read(dir.path().join("queue.db")).unwrap().len() / PAGE;
    // The page's type, the number of its cells, the first pointer, and something in the middle and
    // at the end.
    let offsets = [0, 4, 9, 2000, 4000];
    for page in 0..pages {
        let offset = offsets[page % offsets.len()];
        let copy = tempfile::tempdir().unwrap();
        snapshot(dir.path(), copy.path());
        let path = copy.path().join("queue.db");
        let mut octets = fs::read(&path).unwrap();
        octets[page * PAGE + offset] ^= 0x10;
        fs::write(&path, octets).unwrap();
        repair(copy.path()).unwrap();
        let spool = open(copy.path());
        let (due, held) = outcome(&spool);
        let place = format!("page {page}, octet {offset}");
        let kept: BTreeSet<_> = due.union(&held).copied().collect();
        assert!(
            waiting.difference(&kept).count() <= 1,
            "{place}: {} are missing",
            waiting.difference(&kept).count()
        );
        assert!(
            due.iter().all(|id| waiting.contains(id)),
            "{place}: what was delivered is not sent again"
        );
        assert!(kept.iter().all(|id| all.contains(id)), "{place}");
        for id in &due {
            let number = all.iter().position(|one| one == id).unwrap();
            assert_eq!(bytes(&spool, *id), body(number), "{place}");
        }
        // What a damaged schema or the tree of the marks hides was not named by an operator: it
        // stays off.
        let told = spool.marks("switched_off").unwrap();
        let is_told = !told.values.is_empty() || told.may_lack_some;
        assert!(is_told || page == 0, "{place}: {told:?}");
    }
}

/// What was delivered may be in the log only, and on pages that nobody says are free.
#[test]
fn what_was_delivered_is_not_taken_for_mail_that_waits() {
    let dir = tempfile::tempdir().unwrap();
    let (_, waiting) = fill(dir.path());
    // Somebody reads, so that the log cannot be copied.
    let reader = Connection::open(dir.path().join("queue.db")).unwrap();
    let spool = open(dir.path());
    reader.execute_batch("BEGIN; SELECT count(*) FROM messages").unwrap();
    let gone: Vec<MessageId> = waiting.iter().take(20).copied().collect();
    for id in &gone {
        let mut done = settlement(&spool, *id);
        done.changes.push((RecipientNo(0), Change::Delivered));
        settle(&spool, done).unwrap();
    }
    drop(spool);
    let copy = tempfile::tempdir().unwrap();
    snapshot(dir.path(), copy.path());
    let db = Connection::open(dir.path().join("queue.db")).unwrap();
    db.execute("INSERT INTO bodies VALUES (5, x'00')", []).unwrap();
    let refused = repair(dir.path()).unwrap_err();
    assert!(matches!(refused, spool::CopyError::Read { .. }), "{refused}");
    drop(reader);

    // And without a first page nothing is certain.
    let path = copy.path().join("queue.db");
    let mut octets = fs::read(&path).unwrap();
    octets.iter_mut().take(PAGE).for_each(|octet| *octet = 0);
    fs::write(&path, octets).unwrap();
    for log in ["queue.db-wal", "queue.db-shm"] {
        let _ = fs::remove_file(copy.path().join(log));
    }
    repair(copy.path()).unwrap();
    assert_eq!(outcome(&open(copy.path())).0, BTreeSet::new(), "all of it is held");
}

#[test]
fn a_lost_file_of_a_body_comes_back_and_one_that_changed_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (all, _) = fill(dir.path());
    let [gone, moved, changed] = [0, 40, 80].map(|number| all[number]);
    let path = |id| body_file(dir.path(), id);
    fs::remove_file(path(gone)).unwrap();
    fs::rename(path(moved), dir.path().join("bodies/lost").join(moved.to_string())).unwrap();
    let mut octets = fs::read(path(changed)).unwrap();
    octets[3] ^= 1;
    fs::write(path(changed), octets).unwrap();
    let found = examine(dir.path()).unwrap().findings;
    let of = |id: MessageId| {
        found.iter().find(|one| one.what.contains(&id.to_string())).map(|one| one.cure)
    };
    let cures = [gone, moved, changed].map(of);
    assert_eq!(cures, [Some(Cure::Backup), Some(Cure::Repair), Some(Cure::Backup)], "{found:?}");
    assert_eq!(repair(dir.path()).unwrap().bodies, 1);
    assert_eq!(bytes(&open(dir.path()), moved), body(40));
    assert_eq!(examine(dir.path()).unwrap().findings.len(), 2);
}

#[test]
fn damaged_policies_are_moved_away_and_what_is_paused_stays_so() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path());
    fs::write(dir.path().join("policies.db"), [7; 8192]).unwrap();
    let found = examine(dir.path()).unwrap().findings;
    assert_eq!(found.iter().map(|one| one.file.as_str()).collect::<Vec<_>>(), ["policies.db"]);
    let repaired = repair(dir.path()).unwrap();
    assert!(repaired.policies_kept.is_some_and(|kept| kept.exists()));
    assert_eq!(repaired.queue_kept, None);
    assert_eq!(examine(dir.path()).unwrap().findings, vec![]);
    let db = Connection::open(dir.path().join("queue.db")).unwrap();
    let marks: i64 = db
        .query_row("SELECT count(*) FROM marks WHERE name = 'switched_off.sending'", [], |row| {
            row.get(0)
        })
        .unwrap();
    assert_eq!(marks, 1);
}

/// The limit of the file size stands in for a full disk.
#[test]
fn a_repair_without_space_says_so_leaves_the_queue_as_it_is_and_nothing_beside_it() {
    let name = "a_repair_without_space_says_so_leaves_the_queue_as_it_is_and_nothing_beside_it";
    if let Some(dir) = std::env::var_os("REPAIR_LIMITED_DIR") {
        let error = repair(Path::new(&dir)).unwrap_err().to_string();
        assert!(!error.contains("doctor") && !error.contains("transaction"), "{error}");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path());
    let path = dir.path().join("queue.db");
    let mut octets = fs::read(&path).unwrap();
    octets[5 * PAGE] ^= 0x10;
    fs::write(&path, &octets).unwrap();
    let done = std::process::Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 200; exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env("REPAIR_LIMITED_DIR", dir.path())
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stdout));
    assert_eq!(fs::read(&path).unwrap(), octets);
    let beside = fs::read_dir(dir.path()).unwrap().map(|one| one.unwrap().file_name());
    let beside: Vec<_> =
        beside.filter(|name| name.to_string_lossy().contains("repaired")).collect();
    assert!(beside.is_empty(), "{beside:?}");
}
