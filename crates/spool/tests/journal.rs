//! Mail on its way through stands in the journal: what a crash, damage or a hand leaves of it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a failure here is a failed test")]

mod common;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::{at, bytes, commit, deliver, lane, queued, settle, settlement, snapshot};
use rusqlite::Connection;
use spool::{
    Attempt, Change, CopyError, MessageId, Options, RecipientDeferral, RecipientNo, Settled, Spool,
    StoreError, StoredBody, backup, examine, repair, restore,
};

/// What a crash leaves: the files as they are, in another place.
fn crashed(dir: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    snapshot(dir, copy.path());
    copy
}

/// Mail waits for no rows because nothing happens for a while.
fn open(dir: &Path) -> Spool {
    let options = Options { journal_idle: Duration::from_hours(1), ..common::options() };
    Spool::open(dir, options).unwrap()
}

/// Rows of messages, as another program sees them.
fn rows(dir: &Path) -> i64 {
    let db = Connection::open(dir.join("queue.db")).unwrap();
    db.query_row("SELECT count(*) FROM messages", [], |row| row.get(0)).unwrap()
}

fn segments(dir: &Path) -> BTreeSet<PathBuf> {
    let entries = fs::read_dir(dir.join("journal")).unwrap();
    entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().unwrap() == "log")
        .collect()
}

fn one(spool: &Spool, number: usize) -> MessageId {
    commit(spool, format!("body {number}").as_bytes(), &[("a@to.example", lane(number % 3))])
}

/// Where a text stands in the only segment.
fn place_of(dir: &Path, text: &str) -> (PathBuf, u64) {
    let path = segments(dir).into_iter().next().unwrap();
    let octets = fs::read(&path).unwrap();
    let found = octets.windows(text.len()).position(|window| window == text.as_bytes());
    (path, found.unwrap() as u64)
}

/// Changes some octets of the record of the message with this body.
fn damage(dir: &Path, text: &str, octets: std::ops::Range<i64>) {
    let (path, place) = place_of(dir, text);
    let file = File::options().read(true).write(true).open(path).unwrap();
    for offset in octets {
        let (place, mut octet) = (place.checked_add_signed(offset).unwrap(), [0]);
        file.read_exact_at(&mut octet, place).unwrap();
        file.write_all_at(&[!octet[0]], place).unwrap();
    }
}

#[test]
fn a_crash_leaves_what_was_acknowledged_without_what_was_done() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    let ids: Vec<_> = (0..30).map(|number| one(&spool, number)).collect();
    assert_eq!(rows(dir.path()), 0, "nothing of it was written twice");
    let two = commit(&spool, b"two", &[("a@to.example", lane(1)), ("b@to.example", lane(2))]);
    ids.iter().step_by(2).for_each(|id| deliver(&spool, *id));
    let mut first = settlement(&spool, two);
    first.changes.push((RecipientNo(0), Change::Delivered));
    assert_eq!(settle(&spool, first).unwrap(), Settled::Waiting);
    // One gets its rows, out of the order, and is done there.
    assert!(spool.show(ids[21]).unwrap().is_some());
    deliver(&spool, ids[21]);
    assert!(spool.show(ids[23]).unwrap().is_some());

    let copy = crashed(dir.path());
    let after = open(copy.path());
    let left = ids.iter().skip(1).step_by(2).copied().chain([two]).filter(|id| *id != ids[21]);
    assert_eq!(queued(&after), left.clone().collect());
    assert_eq!(after.show(two).unwrap().unwrap().recipients.len(), 1);
    assert_eq!(after.take_journal_damage(), [""; 0]);
    assert_eq!(bytes(&after, ids[1]), b"body 1");
    // And the one that goes on says the same.
    assert_eq!(queued(&spool), left.collect());
}

#[test]
fn an_end_leaves_all_in_the_tables_and_no_journal() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    let ids: BTreeSet<_> = (0..5).map(|number| one(&spool, number)).collect();
    assert_eq!(segments(dir.path()).len(), 1);
    drop(spool);
    assert_eq!((rows(dir.path()), segments(dir.path()).len()), (5, 0));
    assert_eq!(queued(&open(dir.path())), ids);
}

#[test]
fn mail_is_due_and_read_and_done_without_rows() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    let ids: Vec<_> = (0..30).map(|number| one(&spool, number)).collect();
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = spool.next(&lane(1), at(1), after, 3).unwrap();
        found.extend(page.due.iter().map(|due| due.message));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    let want: Vec<_> = ids.iter().copied().skip(1).step_by(3).collect();
    assert_eq!(found, want);
    assert!(
        matches!(spool.body(ids[4]).unwrap(), StoredBody::Memory(bytes) if *bytes == *b"body 4")
    );
    assert_eq!(spool.header_block(ids[4], 4).unwrap(), b"body");
    ids.iter().for_each(|id| deliver(&spool, *id));
    assert_eq!(rows(dir.path()), 0);
    assert!(matches!(spool.body(ids[4]), Err(StoreError::Missing { .. })));
    assert!(spool.next(&lane(1), at(1), None, 3).unwrap().due.is_empty());
}

/// What was not synced was not acknowledged.
#[test]
fn a_last_batch_that_is_not_whole_is_dropped_without_a_word() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    let kept = one(&spool, 1);
    one(&spool, 22);
    let copy = crashed(dir.path());
    damage(copy.path(), "body 22", -40..-30);
    let after = open(copy.path());
    assert_eq!(queued(&after), BTreeSet::from([kept]));
    assert_eq!(after.take_journal_damage(), [""; 0]);
}

#[test]
fn damage_takes_one_message_is_named_and_its_segment_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    let ids: Vec<_> = (10..15).map(|number| one(&spool, number)).collect();
    // Of one its envelope, of another its body.
    let copy = crashed(dir.path());
    damage(copy.path(), "body 11", -40..-39);
    damage(copy.path(), "body 13", 0..1);
    let after = open(copy.path());
    let whole = ids.iter().copied().filter(|id| *id != ids[1]).collect();
    assert_eq!(queued(&after), whole);
    assert!(matches!(after.body(ids[3]), Err(StoreError::Corrupt { .. })), "it is named as others");
    let damage = after.take_journal_damage();
    assert!(matches!(&*damage, [one] if one.contains("one record") && one.contains(".damaged")));
    assert!(copy.path().join("journal/0000000001.log.damaged").exists());
}

#[test]
fn a_batch_whose_beginning_is_damaged_is_missed_by_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    let ids: Vec<_> = (10..14).map(|number| one(&spool, number)).collect();
    let copy = crashed(dir.path());
    let (path, place) = place_of(copy.path(), "body 12");
    let begin = place / 512 * 512;
    File::options().write(true).open(path).unwrap().write_all_at(b"?", begin).unwrap();
    let after = open(copy.path());
    let whole = ids.iter().copied().filter(|id| *id != ids[2]).collect();
    assert_eq!(queued(&after), whole);
    assert_eq!(after.take_journal_damage().len(), 1);
}

/// One octet costs one message at most, or its batch, and that is named; of the last batch nobody
/// heard 250, as far as a start can tell.
#[test]
fn any_octet_may_be_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    let ids: Vec<_> = (100..120).map(|number| one(&spool, number)).collect();
    let done = ids[5];
    deliver(&spool, done);
    let last = one(&spool, 120);
    let (_, end) = place_of(dir.path(), "body 120");
    for round in 0..60 {
        let copy = crashed(dir.path());
        let path = segments(copy.path()).into_iter().next().unwrap();
        let place = end * round / 60 + round;
        let (file, mut octet) = (File::options().read(true).write(true).open(path).unwrap(), [0]);
        file.read_exact_at(&mut octet, place).unwrap();
        file.write_all_at(&[octet[0] ^ 1 << (round % 8)], place).unwrap();
        let after = open(copy.path());
        let named = !after.take_journal_damage().is_empty();
        let found = queued(&after);
        let lost = ids.iter().filter(|id| **id != done && !found.contains(id)).count();
        let is_unread = found.iter().filter(|id| after.body(**id).is_err()).count();
        assert!(lost + is_unread + usize::from(found.contains(&done)) <= 1, "octet {place}");
        assert!(named || (lost == 0 && !found.contains(&done)), "octet {place}");
        assert!(found.contains(&last) || place >= end / 512 * 512, "octet {place}");
    }
}

/// Without it the journal itself says up to where nothing is needed, and ids tell what has rows.
#[test]
fn the_mark_may_be_lost() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    let ids: Vec<_> = (0..10).map(|number| one(&spool, number)).collect();
    assert_eq!(spool.count().unwrap().messages, 10);
    deliver(&spool, ids[0]);
    one(&spool, 10);
    let copy = crashed(dir.path());
    let db = Connection::open(copy.path().join("queue.db")).unwrap();
    db.execute("UPDATE marks SET value = 'x' WHERE name = 'journal'", []).unwrap();
    drop(db);
    assert_eq!(open(copy.path()).count().unwrap().messages, 10);
}

#[test]
fn a_journal_that_somebody_removes_takes_no_mail_along() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    let mut ids: BTreeSet<_> = (0..3).map(|number| one(&spool, number)).collect();
    fs::remove_file(segments(dir.path()).first().unwrap()).unwrap();
    ids.extend((3..6).map(|number| one(&spool, number)));
    assert_eq!(queued(&spool), ids);
    fs::remove_dir_all(dir.path().join("journal")).unwrap();
    spool.look_around().unwrap();
    ids.extend((6..9).map(|number| one(&spool, number)));
    assert_eq!(queued(&open(crashed(dir.path()).path())), ids);
}

#[test]
fn segments_are_used_again() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(dir.path(), Options::default()).unwrap();
    let body = vec![b'x'; 60_000];
    let mut highest = 0;
    let waits = commit(&spool, &body, &[("a@to.example", lane(0))]);
    for number in 0..2_500 {
        let id = commit(&spool, &body, &[("a@to.example", lane(number % 3))]);
        if number % 100 == 50 {
            spool.look_around().unwrap();
        }
        deliver(&spool, id);
        highest = highest.max(segments(dir.path()).len());
    }
    // 150 MB went through.
    assert!(highest <= 6, "{highest} segments");
    let after = open(crashed(dir.path()).path());
    assert_eq!(queued(&after), BTreeSet::from([waits]));
}

#[test]
fn a_settlement_that_says_more_goes_into_the_tables_with_its_message() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    let ids: Vec<_> = (0..4).map(|number| one(&spool, number)).collect();
    let mut later = settlement(&spool, ids[2]);
    let deferral = RecipientDeferral { due_at: at(60), problem: None, attempt: Attempt::Counted };
    later.changes.push((RecipientNo(0), Change::Deferred(deferral)));
    settle(&spool, later).unwrap();
    assert_eq!(rows(dir.path()), 1, "the others need no rows for that");
    let after = open(crashed(dir.path()).path());
    assert_eq!(queued(&after).len(), 4);
    let due: Vec<_> = after.next(&lane(2), at(60), None, 9).unwrap().due;
    assert_eq!(due.iter().map(|due| due.recipients[0].attempts).collect::<Vec<_>>(), [1]);
}

#[test]
fn who_reads_a_directory_whose_daemon_was_killed_is_told_what_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    let ids: BTreeSet<_> = (0..3).map(|number| one(&spool, number)).collect();
    let (copy, away) = (crashed(dir.path()), tempfile::tempdir().unwrap());
    let unfinished = backup(copy.path(), &away.path().join("copy")).unwrap_err();
    assert!(matches!(unfinished, CopyError::Unfinished { messages: 3, .. }), "{unfinished}");
    let examined = examine(copy.path()).unwrap();
    assert_eq!((examined.in_journal, examined.findings), (3, vec![]));
    assert!(!copy.path().join("journal/wanted").exists(), "nothing is changed");

    // A repair takes it over, and has nothing to make anew.
    let repaired = repair(copy.path()).unwrap();
    assert_eq!((repaired.queue_kept, examine(copy.path()).unwrap().messages), (None, 3));
    backup(copy.path(), &away.path().join("copy")).unwrap();

    // What a restore puts aside has its journal, and is restored with it.
    let other = crashed(dir.path());
    let kept = restore(&away.path().join("copy"), other.path()).unwrap().kept.unwrap();
    assert_eq!(segments(&kept).len(), 1);
    restore(&kept, &away.path().join("again")).unwrap();
    assert_eq!(queued(&open(&away.path().join("again"))), ids);
}

#[test]
fn many_results_that_need_rows_do_not_bring_all_other_mail_into_the_tables_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    let ids: Vec<_> = (0..200).map(|number| one(&spool, number)).collect();
    for id in ids.iter().skip(1).step_by(2) {
        assert!(spool.show(*id).unwrap().is_some());
    }
    assert_eq!(rows(dir.path()), 100);
    let after = open(crashed(dir.path()).path());
    assert_eq!(queued(&after).len(), 200);
}

#[test]
fn a_directory_that_took_our_place_keeps_its_journal() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let spool = open(&data);
    one(&spool, 1);
    let other = crashed(&data);
    fs::rename(&data, dir.path().join("moved")).unwrap();
    snapshot(other.path(), &data);
    drop(spool);
    assert_eq!(segments(&data).len(), 1);
    assert_eq!(queued(&open(&data)).len(), 1);
}
