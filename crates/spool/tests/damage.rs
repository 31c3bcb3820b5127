//! One damaged value: named, held, and in nobody's way.
#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

mod common;

use std::collections::BTreeSet;
use std::path::Path;

use common::{at, commit, lane, open, wait};
use rusqlite::Connection;
use spool::{Filter, LaneKey, MESSAGE_DAMAGED, MessageId, RecipientState, Spool};

/// What is done to queue.db, the table that is to be named, and where the message can be named,
/// too.
type Case = (&'static str, &'static str, bool);

/// Of twelve messages to four lanes, the first is damaged.
const CASES: [Case; 19] = [
    ("UPDATE recipients SET due_at = -8000000000000000000 WHERE id = :one", "recipients", true),
    ("UPDATE recipients SET expires_at = -8000000000000000000 WHERE id = :one", "recipients", true),
    ("UPDATE recipients SET priority = 100 WHERE id = :one", "recipients", true),
    ("UPDATE recipients SET state = 7 WHERE id = :one", "recipients", true),
    ("UPDATE recipients SET notify = 99 WHERE id = :one", "recipients", true),
    ("UPDATE recipients SET mailbox = 'u0 to.example' WHERE id = :one", "recipients", true),
    (
        "UPDATE recipients SET mailbox = CAST(x'75ff406200' AS TEXT) WHERE id = :one",
        "recipients",
        true,
    ),
    // What could be, and is not what was written: it would go to somebody else, too late, or
    // unprotected.
    ("UPDATE recipients SET mailbox = 'u9@to.example' WHERE id = :one", "recipients", true),
    ("UPDATE recipients SET expires_at = expires_at + 1 WHERE id = :one", "recipients", true),
    ("UPDATE messages SET sender = 'sendes@from.example' WHERE seq = :message", "messages", true),
    ("UPDATE messages SET require_tls = 1 - require_tls WHERE seq = :message", "messages", true),
    ("UPDATE messages SET size = size + 1 WHERE seq = :message", "messages", true),
    ("UPDATE messages SET sender = 'x y' WHERE seq = :message", "messages", true),
    ("UPDATE messages SET place = 9 WHERE seq = :message", "messages", true),
    ("UPDATE messages SET size = -1 WHERE seq = :message", "messages", true),
    (
        "UPDATE messages SET deliver_by_mode = 'X', deliver_by = 1 WHERE seq = :message",
        "messages",
        true,
    ),
    ("UPDATE messages SET arrived_at = 9000000000000000000 WHERE seq = :message", "messages", true),
    ("UPDATE messages SET id = substr(id, 1, 15) WHERE seq = :message", "messages", false),
    ("DELETE FROM messages WHERE seq = :message", "messages", false),
];

fn fill(dir: &Path) -> Vec<MessageId> {
    let spool = open(dir);
    let ids = (0..12).map(|number| {
        let size = if number % 5 == 0 { common::INLINE_MAX + 50 } else { 20 };
        let to = format!("u{number}@to.example");
        commit(&spool, &vec![b'x'; size], &[(&to, lane(number % 4))])
    });
    ids.collect()
}

fn damage(dir: &Path, sql: &str) {
    let db = Connection::open(dir.join("queue.db")).unwrap();
    let seq: i64 = db.query_row("SELECT min(seq) FROM messages", [], |row| row.get(0)).unwrap();
    let sql = sql.replace(":one", &(seq << 16).to_string()).replace(":message", &seq.to_string());
    assert_eq!(db.execute(&sql, []).unwrap(), 1, "{sql}");
}

/// Whoever can be tried, of all lanes; and the keys of those who are damaged.
fn read_all(spool: &Spool) -> (BTreeSet<MessageId>, BTreeSet<i64>) {
    let (mut due, mut damaged) = (BTreeSet::new(), BTreeSet::new());
    for lane in spool.lanes().unwrap() {
        let page = spool.next(&lane.key, at(100), None, 100).unwrap();
        due.extend(page.due.into_iter().map(|due| due.message));
        damaged.extend(page.damaged.into_iter().map(|one| one.key));
    }
    (due, damaged)
}

#[test]
fn one_damaged_value_stops_one_recipient_who_is_named_and_held() {
    for (sql, table, has_id) in CASES {
        let dir = tempfile::tempdir().unwrap();
        let ids = fill(dir.path());
        damage(dir.path(), sql);
        let spool = open(dir.path());
        let (due, met) = read_all(&spool);
        assert!(due.len() == 11 && !due.contains(&ids[0]), "{sql}: others flow");

        let checked = common::check_all(&spool);
        assert_eq!(checked.len(), 1, "{sql}");
        let damaged = checked.into_iter().next().unwrap();
        assert!(met.iter().all(|key| *key == damaged.key), "{sql}");
        assert_eq!(damaged.damage.table, table, "{sql}: {}", damaged.damage);
        assert_eq!(damaged.message, has_id.then_some(ids[0]), "{sql}");
        assert!(damaged.address.starts_with('u'), "{sql}: {}", damaged.address);
        let listed = spool.list(&Filter::default(), None, 100).unwrap();
        assert_eq!((listed.rows.len() + listed.damaged.len(), listed.next), (12, None), "{sql}");

        let key = damaged.key;
        let parked = wait(|done| spool.park(damaged.clone(), at(7), done)).unwrap();
        assert_eq!(parked, 1, "{sql}");
        assert!(!read_all(&spool).1.contains(&key), "{sql}: it is held");
        assert_eq!(common::check_all(&spool), [], "{sql}: and known");
        let held = Filter { state: Some(RecipientState::Held), ..Filter::default() };
        let held = spool.list(&held, None, 100).unwrap();
        let reasons: Vec<_> = held.rows.iter().filter_map(|row| row.last.as_ref()).collect();
        let is_told = reasons.iter().any(|last| {
            &*last.reason == MESSAGE_DAMAGED && last.text.as_str() == damaged.damage.to_string()
        });
        assert!(is_told || held.damaged == [damaged], "{sql}");
    }
}

/// A name that cannot be read, a row that is gone: their mail is found, and can be moved where it
/// belongs.
#[test]
fn mail_whose_lane_cannot_be_named_is_not_lost() {
    let cases = [
        "UPDATE lanes SET key = CAST(x'ff642e74' AS TEXT) WHERE key = 'lane1.example'",
        "DELETE FROM lanes WHERE key = 'lane1.example'",
        "UPDATE lanes SET key = 'lane5.example' WHERE key = 'lane1.example'",
        "UPDATE recipients SET lane = 9999 WHERE id = :one",
    ];
    for sql in cases {
        let dir = tempfile::tempdir().unwrap();
        let ids = fill(dir.path());
        damage(dir.path(), sql);
        let spool = open(dir.path());
        assert!(read_all(&spool).0.len() < 12, "{sql}");
        let (lanes, named) = spool.lanes_with_names().unwrap();
        assert_eq!(named, 1, "{sql}");
        let is_nameless = |key: &LaneKey| key.as_str().starts_with("damaged row ");
        assert_eq!(lanes.iter().filter(|lane| is_nameless(&lane.key)).count(), 1, "{sql}");
        assert_eq!(read_all(&spool).0, ids.into_iter().collect(), "{sql}");
        assert_eq!(spool.lanes_with_names().unwrap().1, 0, "once");
    }
}

/// The pages of an index, by its name.
fn pages(dir: &Path, of: &str) -> Vec<usize> {
    let db = Connection::open(dir.join("queue.db")).unwrap();
    let mut select = db.prepare("SELECT pageno FROM dbstat WHERE name = ?1").unwrap();
    let numbers = select.query_map([of], |row| row.get::<_, i64>(0)).unwrap();
    numbers.map(|number| usize::try_from(number.unwrap()).unwrap()).collect()
}

fn zero(dir: &Path, page: usize) {
    let file = dir.join("queue.db");
    let mut content = std::fs::read(&file).unwrap();
    content.get_mut((page - 1) * 4096..page * 4096).unwrap().fill(0);
    std::fs::write(&file, content).unwrap();
}

/// Whatever page of whatever index it is: who waits is found, and settled.
#[test]
fn a_damaged_page_of_an_index_costs_nobody_anything() {
    let whole = tempfile::tempdir().unwrap();
    {
        let spool = open(whole.path());
        for number in 0..300 {
            let to = format!("u{number}@to.example");
            commit(&spool, b"x", &[(&to, lane(number % 40))]);
        }
    }
    for index in ["recipients_due", "sqlite_autoindex_messages_1", "sqlite_autoindex_lanes_1"] {
        for page in pages(whole.path(), index) {
            let dir = tempfile::tempdir().unwrap();
            common::snapshot(whole.path(), dir.path());
            zero(dir.path(), page);
            let spool = open(dir.path());
            let mut lanes = spool.lanes_with_names().unwrap().0;
            let (mut settled, mut tries) = (0, 0);
            // The first look may be the one that meets it.
            while let Some(lane) = lanes.pop() {
                let page = spool.next(&lane.key, at(100), None, 100);
                let page = match page {
                    Ok(page) => page,
                    Err(error) => {
                        assert!(error.is_damage() && tries < 3, "{index}: {error}");
                        tries += 1;
                        spool.mend_if_damaged();
                        // The writer has dealt with it before it takes the next work.
                        spool.set_mark("a", Some("b")).unwrap();
                        lanes.push(lane);
                        continue;
                    }
                };
                for due in page.due {
                    let mut done = common::settlement(&spool, due.message);
                    let ends = |one: &spool::DueRecipient| (one.no, spool::Change::Delivered);
                    done.changes = due.recipients.iter().map(ends).collect();
                    let outcome = common::settle(&spool, done).unwrap();
                    assert_eq!(outcome, spool::Settled::Gone, "{index}");
                    settled += 1;
                }
            }
            assert_eq!(settled, 300, "{index}");
            assert_eq!(spool.count().unwrap(), spool::Counts::default(), "{index}");
            assert_eq!(spool.health(), spool::Health::Good);
        }
    }
}

/// A page of rows is gone: others flow, nothing is sent again, also by the next process.
#[test]
fn a_result_that_cannot_be_written_is_kept_beside_it() {
    let whole = tempfile::tempdir().unwrap();
    let ids: Vec<_> = {
        let spool = open(whole.path());
        let commit = |number| {
            let to = format!("u{number}@to.example");
            commit(&spool, b"x", &[(&to, lane(number % 7))])
        };
        (0..300).map(commit).collect()
    };
    let dir = tempfile::tempdir().unwrap();
    common::snapshot(whole.path(), dir.path());
    let spool = open(dir.path());
    let all = read_all(&spool).0;
    assert_eq!(all.len(), ids.len());
    drop(spool);
    // Every page is read anew, so what was read above is not what is settled below.
    let page = pages(whole.path(), "recipients")[1];
    zero(dir.path(), page);
    let spool = open(dir.path());
    let mut unrecorded = Vec::new();
    for id in &all {
        let mut done = common::settlement(&spool, *id);
        done.changes = vec![(spool::RecipientNo(0), spool::Change::Delivered)];
        match common::settle(&spool, done).unwrap() {
            spool::Settled::Gone => {}
            spool::Settled::Unrecorded => unrecorded.push(*id),
            other @ (spool::Settled::Waiting | spool::Settled::Missing | spool::Settled::Moot) => {
                panic!("{other:?}")
            }
        }
    }
    assert!(!unrecorded.is_empty() && unrecorded.len() < 290, "{}", unrecorded.len());
    assert_eq!(spool.health(), spool::Health::Good, "other mail goes on");
    drop(spool);
    let spool = open(dir.path());
    let again: Vec<_> = spool
        .lanes_with_names()
        .unwrap()
        .0
        .iter()
        .filter_map(|lane| spool.next(&lane.key, at(100), None, 400).ok())
        .flat_map(|page| page.due)
        .collect();
    assert!(again.is_empty(), "sent again: {again:?}");
}

/// Whatever page of rows it is: who is not on it is sent, who is on it is named.
#[test]
fn a_damaged_page_of_rows_hides_nobody_else() {
    let whole = tempfile::tempdir().unwrap();
    let ids: BTreeSet<MessageId> = {
        let spool = open(whole.path());
        let commit = |number| {
            let to = format!("u{number}@to.example");
            commit(&spool, b"x", &[(&to, lane(number % 7))])
        };
        (0..300).map(commit).collect()
    };
    let recipients = pages(whole.path(), "recipients");
    let messages = pages(whole.path(), "messages");
    // The first one is the root, on the way to all rows.
    for page in recipients[1..].iter().chain(&messages[1..]) {
        let dir = tempfile::tempdir().unwrap();
        common::snapshot(whole.path(), dir.path());
        zero(dir.path(), *page);
        let spool = open(dir.path());
        spool.lanes_with_names().unwrap();
        let (due, damaged) = read_all(&spool);
        assert!(due.is_subset(&ids) && due.len() > 200, "page {page}: {} flow", due.len());
        assert_eq!(due.len() + damaged.len(), 300, "page {page}: the others are named");
        let checked: BTreeSet<i64> = common::check_all(&spool).iter().map(|one| one.key).collect();
        assert_eq!(checked, damaged, "page {page}: and without waiting for their time");
        let (mut listed, mut named, mut after) = (0, BTreeSet::new(), None);
        loop {
            let look = spool.list(&Filter::default(), after, 100).unwrap();
            listed += look.rows.len();
            named.extend(look.damaged.into_iter().map(|one| one.key));
            after = look.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!((listed, named), (due.len(), damaged), "page {page}: all are listed");
        let (mut counted, mut after) = (0, None);
        loop {
            let slice = spool.ages(&[], after).unwrap();
            counted += slice.lanes.iter().flat_map(|(_, counts)| counts).sum::<u64>();
            after = slice.next;
            if after.is_none() {
                break;
            }
        }
        let readable = due.len() as u64..=300;
        assert!(readable.contains(&counted), "page {page}: {counted} have an age");
    }
}

#[test]
fn an_octet_of_a_body_that_changed_is_damage_in_a_row_and_in_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    let [small, large] = [20, common::INLINE_MAX + 50]
        .map(|size| commit(&spool, &vec![b'x'; size], &[("u@to.example", lane(1))]));
    let path = common::body_file(dir.path(), large);
    drop(spool);
    Connection::open(dir.path().join("queue.db"))
        .unwrap()
        .execute(
            "UPDATE bodies SET body = CAST(replace(CAST(body AS TEXT), 'xxxxx', 'xxxxy') AS BLOB)",
            [],
        )
        .unwrap();
    let mut octets = std::fs::read(&path).unwrap();
    octets[70] ^= 1;
    std::fs::write(&path, octets).unwrap();
    let spool = open(dir.path());
    for id in [small, large] {
        let error = spool.body(id).unwrap_err();
        assert!(matches!(error, spool::StoreError::Corrupt { what: "body" }), "{error}");
    }
}

/// SQLite's own way to write a number: seven bits in each octet, the highest first ("Database File
/// Format", 1.6).
fn varint(number: i64) -> Vec<u8> {
    let octets = (0..9).map(|place| u8::try_from(number >> (7 * place) & 0x7f).unwrap());
    let mut octets: Vec<u8> = octets.collect();
    while octets.last() == Some(&0) {
        octets.pop();
    }
    octets.iter_mut().skip(1).for_each(|octet| *octet |= 0x80);
    octets.reverse();
    octets
}

#[test]
fn a_row_whose_key_changed_is_named_by_its_address_and_hides_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let ids = fill(dir.path());
    let spool = open(dir.path());
    let to = [("u12@to.example", lane(1)), ("v12@to.example", lane(2))];
    let two = commit(&spool, b"two", &to);
    spool.close();
    let db = Connection::open(dir.path().join("queue.db")).unwrap();
    let select = "SELECT id FROM recipients WHERE mailbox = 'u12@to.example'";
    let key: i64 = db.query_row(select, [], |row| row.get(0)).unwrap();
    drop(db);
    let path = dir.path().join("queue.db");
    let octets = std::fs::read(&path).unwrap();
    let address = octets.windows(14).position(|text| text == b"u12@to.example").unwrap();
    let key = varint(key);
    let row = octets.get(..address).unwrap();
    let place = row.windows(key.len()).rposition(|number| number == key).unwrap();
    assert!(address - place < 60, "it is that row's");
    // The number becomes larger or smaller, by much or by little.
    for (octet, bit) in [(0, 0x70), (2, 0x04), (2, 0x10), (0, 0x08)] {
        let damaged: Vec<u8> = octets
            .iter()
            .enumerate()
            .map(|(at, one)| if at == place + octet { one ^ bit } else { *one })
            .collect();
        std::fs::write(&path, &damaged).unwrap();
        let what = format!("octet {octet} of the key, {bit:#x}");
        let spool = open(dir.path());
        let named = common::check_all(&spool);
        let is_named = |address: &str| named.iter().any(|one| one.address == address);
        assert!(is_named("u12@to.example"), "{what}: {named:?}");
        let (due, _) = read_all(&spool);
        assert!(ids.iter().all(|id| due.contains(id)), "{what}: {due:?}");
        // SQLite may look for its neighbour on the wrong side of it.
        assert!(due.contains(&two) || is_named("v12@to.example"), "{what}: {named:?}");
        let (mut rows, mut after) = (BTreeSet::new(), None);
        for _ in 0..20 {
            let page = spool.list(&Filter::default(), after, 3).unwrap();
            rows.extend(page.rows.iter().map(|row| row.recipient.to_string()));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(after, None, "{what}: the list has an end");
        let mut all: BTreeSet<_> = (0..13).map(|number| format!("u{number}@to.example")).collect();
        all.insert("v12@to.example".into());
        let missing: Vec<_> =
            all.difference(&rows).filter(|one| *one != "u12@to.example").collect();
        assert!(missing.is_empty(), "{what}: not listed: {missing:?}");
    }
}
