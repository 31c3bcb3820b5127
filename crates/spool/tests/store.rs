//! What the store promises, one rule a test.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test stops at what it did not expect"
)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;

use common::{
    at, bytes, commit, commit_as, envelope, facts, files, hold, hold_matching, lane, open, options,
    problem, sealed, settle, settlement, try_commit, wait,
};
use jiff::Timestamp;
use rusqlite::Connection;
use smtp::HostName;
use spool::{
    Attempt, BodyRef, Change, Enforced, Filter, FoundPolicy, Health, HostRow, LaneKey, LaneState,
    LaneUpdate, Marks, MessageId, MessageOptions, Move, OpenError, PoliciesFile, PolicyRow,
    RecipientDeferral, RecipientNo, RecipientOptions, RecipientState, Selection, Settled, Spool,
    StoreError, StoredEnvelope,
};

fn host(name: &str) -> HostName {
    HostName::parse(name).unwrap()
}

fn large(size: usize) -> Vec<u8> {
    (b'a'..=b'z').cycle().take(size).collect()
}

#[test]
fn a_data_directory_is_made_with_those_above_it_for_its_owner_alone() {
    let home = tempfile::tempdir().unwrap();
    let above = home.path().join(".local/state");
    drop(open(&above.join("staunch")));
    for path in [above.clone(), above.join("staunch")] {
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700, "{}", path.display());
    }
}

#[test]
fn what_was_committed_comes_back_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    for size in [0, 1, common::INLINE_MAX, common::INLINE_MAX + 1, 300_000] {
        let body = large(size);
        let id = commit(&spool, &body, &[("b@to.example", lane(1)), ("c@to.example", lane(1))]);
        assert_eq!(bytes(&spool, id), body, "{size}");
        let detail = spool.show(id).unwrap().unwrap();
        let want = envelope(size, &[]);
        assert_eq!(detail.sender, want.sender);
        assert_eq!((detail.arrived_at, detail.client), (want.arrived_at, want.client));
        assert_eq!(detail.facts, facts(size));
        let file = size > common::INLINE_MAX;
        assert_eq!(detail.body, if file { BodyRef::File } else { BodyRef::Inline });
        assert_eq!(detail.recipients.len(), 2);
        assert_eq!(detail.recipients[1].recipient.as_str(), "c@to.example");
        assert_eq!(spool.header_block(id, 5).unwrap(), body[..size.min(5)]);
        assert_eq!(spool.header_block(id, 99).unwrap(), body[..size.min(10)]);
    }
}

#[test]
fn a_draft_that_is_dropped_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    let mut draft = spool.draft(spool.new_id(at(0)));
    draft.write(b"small").unwrap();
    assert_eq!(files(dir.path()).len(), 0);
    draft.spill().unwrap();
    draft.write(b" and more").unwrap();
    assert_eq!((draft.size(), draft.memory(), files(dir.path()).len()), (14, 0, 1));
    drop(draft);
    assert_eq!(files(dir.path()).len(), 0);
    drop(sealed(&spool, &large(1000)));
    assert_eq!(files(dir.path()).len(), 0, "sealed, never committed");
}

#[test]
fn a_spilled_small_body_is_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    let mut draft = spool.draft(spool.new_id(at(0)));
    draft.write(b"sm").unwrap();
    draft.spill().unwrap();
    draft.write(b"all").unwrap();
    let sealed = draft.seal().unwrap();
    assert_eq!(sealed.bytes(), None);
    let id = wait(|done| spool.commit(sealed, envelope(5, &[("b@to.example", lane(1))]), done));
    assert_eq!(bytes(&spool, id.unwrap()), b"small");
}

#[test]
fn a_message_goes_with_its_last_recipient_and_takes_its_file_along() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    let two = [("b@to.example", lane(1)), ("c@to.example", lane(2))];
    let id = commit(&spool, &large(1000), &two);
    let mut first = settlement(&spool, id);
    first.changes.push((RecipientNo(0), Change::Delivered));
    assert_eq!(settle(&spool, first).unwrap(), Settled::Waiting);
    let mut last = settlement(&spool, id);
    last.changes.push((RecipientNo(1), Change::Failed));
    assert_eq!(settle(&spool, last).unwrap(), Settled::Gone);
    assert!(matches!(spool.body(id), Err(StoreError::Missing { message }) if message == id));
    assert_eq!(spool.count().unwrap(), spool::Counts::default());
    spool.close();
    drop(open(dir.path()));
    assert_eq!(files(dir.path()).len(), 0);
}

#[test]
fn settling_a_message_that_was_deleted_changes_nothing_and_sends_no_notice() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    let id = commit(&spool, b"x", &[("b@to.example", lane(1))]);
    let mut late = settlement(&spool, id);
    late.changes.push((RecipientNo(0), Change::Failed));
    let dsn = sealed(&spool, &large(1000));
    late.dsns.push(spool::NewMessage {
        body: dsn,
        envelope: envelope(1000, &[("sender@from.example", lane(3))]),
    });
    assert_eq!(spool.delete(&Selection::Messages(vec![id]), None).unwrap().recipients, 1);
    assert_eq!(settle(&spool, late).unwrap(), Settled::Missing);
    assert_eq!(spool.count().unwrap().messages, 0);
    spool.close();
    assert_eq!(files(dir.path()).len(), 0);
}

#[test]
fn settling_recipients_that_have_left_a_message_sends_no_notice() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    let id = commit(&spool, b"x", &[("b@to.example", lane(1)), ("c@to.example", lane(2))]);
    for want in [Settled::Waiting, Settled::Moot] {
        let mut fails = settlement(&spool, id);
        fails.changes.push((RecipientNo(0), Change::Failed));
        let dsn = sealed(&spool, &large(1000));
        fails.dsns.push(spool::NewMessage {
            body: dsn,
            envelope: envelope(1000, &[("sender@from.example", lane(3))]),
        });
        assert_eq!(settle(&spool, fails).unwrap(), want);
    }
    assert_eq!(spool.count().unwrap().messages, 2, "the message and one notice");
    spool.close();
    assert_eq!(files(dir.path()).len(), 1, "that of the notice that was queued");
}

#[test]
fn a_deferral_keeps_its_reason_and_comes_back_at_its_time() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    let id = commit(&spool, b"x", &[("b@to.example", lane(1)), ("c@to.example", lane(1))]);
    let defer = |due, problem, attempt| {
        Change::Deferred(RecipientDeferral { due_at: at(due), problem, attempt })
    };
    let mut first = settlement(&spool, id);
    first.changes.push((RecipientNo(0), defer(60, Some(problem(2)), Attempt::Counted)));
    settle(&spool, first).unwrap();
    let mut second = settlement(&spool, id);
    second.changes.push((RecipientNo(0), defer(90, None, Attempt::NotCounted)));
    settle(&spool, second).unwrap();

    let row = &spool.show(id).unwrap().unwrap().recipients[0];
    assert_eq!((row.attempts, row.next_attempt_at), (1, at(90)));
    assert_eq!(row.last, Some(problem(2)), "the reason before stays");
    let due = |second| -> Vec<_> {
        let page = spool.next(&lane(1), at(second), None, 10).unwrap();
        page.due.iter().flat_map(|due| due.recipients.iter().map(|r| r.no.0)).collect()
    };
    assert_eq!((due(89), due(90)), (vec![1], vec![1, 0]));
    let expired = |second| spool.expired(&lane(1), at(second), None, 10).unwrap().due.len();
    assert_eq!((expired(431_999), expired(432_000)), (0, 1));
}

#[test]
fn a_wait_that_only_a_wrong_clock_can_have_set_is_cut() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    let id = commit(&spool, b"x", &[("b@to.example", lane(1)), ("c@to.example", lane(1))]);
    let mut new = settlement(&spool, id);
    for (no, due) in [(0, 1000), (1, 1001)] {
        let deferral =
            RecipientDeferral { due_at: at(due), problem: None, attempt: Attempt::Counted };
        new.changes.push((RecipientNo(no), Change::Deferred(deferral)));
    }
    settle(&spool, new).unwrap();
    assert_eq!(spool.cut_waits(at(10), at(1000)).unwrap(), 1);
    let due = spool.next(&lane(1), at(10), None, 10).unwrap().due;
    assert_eq!(due[0].recipients.iter().map(|r| r.no.0).collect::<Vec<_>>(), [1]);
    assert_eq!(spool.next_due(&lane(1), at(10)).unwrap(), Some(at(1000)), "a legal wait stays");
}

#[test]
fn held_recipients_are_listed_but_not_due() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    let id = commit(&spool, b"x", &[("b@to.example", lane(1)), ("c@TO2.example", lane(2))]);
    let domain = Filter { domain: Some(host("to2.example")), ..Filter::default() };
    let acted = hold_matching(&spool, &domain);
    assert_eq!((acted.recipients, acted.lanes), (1, vec![lane(2)]));
    assert!(spool.next(&lane(2), at(9), None, 10).unwrap().due.is_empty());
    let held = Filter { state: Some(RecipientState::Held), ..Filter::default() };
    let rows = spool.list(&held, None, 10).unwrap().rows;
    assert_eq!((rows.len(), rows[0].message, rows[0].no), (1, id, RecipientNo(1)));
    let counts = spool.count().unwrap();
    assert_eq!((counts.queued, counts.held), (1, 1));
    assert_eq!(spool.lanes().unwrap().iter().map(|lane| lane.queued).sum::<u64>(), 1);
    spool.release(&Selection::Matching(domain), at(3), None).unwrap();
    assert_eq!(spool.next(&lane(2), at(3), None, 10).unwrap().due.len(), 1);
}

#[test]
fn a_domain_is_the_same_in_u_labels_and_in_a_labels() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    let written = ["a@m\u{fc}nchen.example", "b@xn--mnchen-3ya.example", "c@M\u{dc}NCHEN.Example"];
    let other = ["d@k\u{f6}ln.example", "e@example"];
    let all: Vec<_> = written.iter().chain(&other).map(|address| (*address, lane(1))).collect();
    commit(&spool, b"x", &all);
    for name in ["xn--mnchen-3ya.example", "m\u{fc}nchen.example"] {
        let filter = Filter { domain: Some(host(name)), ..Filter::default() };
        let rows = spool.list(&filter, None, 10).unwrap().rows;
        let found: Vec<_> = rows.iter().map(|row| row.recipient.as_str()).collect();
        assert_eq!(found, written);
    }
    let filter = Filter { domain: Some(host("xn--mnchen-3ya.example")), ..Filter::default() };
    assert_eq!(hold_matching(&spool, &filter).recipients, 3);
}

/// What waited for another next hop's sake waits no longer; what has a time of its own keeps it.
#[test]
fn recipients_that_are_moved_wait_in_the_other_lane() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    let to: Vec<_> = ["b", "c", "d"].map(|name| format!("{name}@to.example")).into();
    let recipients: Vec<(&str, LaneKey)> = to.iter().map(|to| (to.as_str(), lane(1))).collect();
    let id = commit(&spool, b"x", &recipients);
    let mut new = settlement(&spool, id);
    for (no, attempt) in [(0, Attempt::Counted), (1, Attempt::NotCounted)] {
        let deferral = RecipientDeferral { due_at: at(1000), problem: None, attempt };
        new.changes.push((RecipientNo(no), Change::Deferred(deferral)));
    }
    settle(&spool, new).unwrap();
    let elsewhere = |message, no| Move { message, no: RecipientNo(no), to: lane(2) };
    let gone = spool.new_id(at(0));
    let moves = vec![elsewhere(id, 0), elsewhere(id, 1), elsewhere(gone, 0), elsewhere(id, 9)];
    assert_eq!(spool.move_to_lanes(moves, at(20)).unwrap(), 2);

    let numbers = |lane: &LaneKey, now| {
        let due = spool.next(lane, at(now), None, 10).unwrap().due;
        let all = due.iter().flat_map(|due| &due.recipients);
        all.map(|recipient| recipient.no.0).collect::<Vec<_>>()
    };
    assert_eq!((numbers(&lane(1), 5000), numbers(&lane(2), 20)), (vec![2], vec![0]));
    assert_eq!(numbers(&lane(2), 1000), [0, 1]);
    drop(spool);
    assert_eq!(open(dir.path()).next(&lane(2), at(20), None, 10).unwrap().due.len(), 1);
}

#[test]
fn listings_select_by_reason() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    let id = commit(&spool, b"x", &[("b@to.example", lane(1)), ("c@to.example", lane(1))]);
    let mut new = settlement(&spool, id);
    let deferral =
        RecipientDeferral { due_at: at(1), problem: Some(problem(1)), attempt: Attempt::Counted };
    new.changes.push((RecipientNo(1), Change::Deferred(deferral)));
    settle(&spool, new).unwrap();
    let found = |reason: &str| {
        let filter = Filter { reason: Some(reason.into()), ..Filter::default() };
        spool.list(&filter, None, 10).unwrap().rows.len()
    };
    assert_eq!((found("connect_failed"), found("null_mx")), (1, 0));
}

#[test]
fn what_comes_after_the_end_is_not_meant() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    let ids_until = |until| {
        let filter = Filter { until: Some(until), ..Filter::default() };
        let rows = spool.list(&filter, None, 10).unwrap().rows;
        rows.into_iter().map(|row| row.message).collect::<Vec<_>>()
    };
    let empty = spool.end().unwrap();
    let first = commit(&spool, b"x", &[("b@to.example", lane(1)), ("c@to.example", lane(1))]);
    let one = spool.end().unwrap();
    let second = commit(&spool, b"x", &[("b@to.example", lane(1))]);
    assert_eq!(ids_until(empty), []);
    assert_eq!(ids_until(one), [first, first]);
    let two = spool.end().unwrap();
    assert_eq!(ids_until(two), [first, first, second]);
    // Also if the place of what left is free again, and the process is another one since it came.
    spool.delete(&Selection::Messages(vec![second]), None).unwrap();
    commit(&spool, b"x", &[("b@to.example", lane(1))]);
    assert_eq!(ids_until(two), [first, first]);
    drop(spool);
    let spool = open(dir.path());
    let three = spool.end().unwrap();
    spool.delete(&Selection::Matching(Filter::default()), None).unwrap();
    commit(&spool, b"x", &[("b@to.example", lane(1))]);
    let filter = Filter { until: Some(three), ..Filter::default() };
    assert!(spool.list(&filter, None, 10).unwrap().rows.is_empty());
}

#[test]
fn ages_are_counted_for_each_lane_slice_by_slice() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    let add = |number: usize, count: usize, arrived_at: Timestamp| {
        let recipients = vec![("b@to.example", lane(number)); count];
        commit_as(&spool, b"x", StoredEnvelope { arrived_at, ..envelope(1, &recipients) });
    };
    assert!(spool.ages(&[at(0)], None).unwrap().lanes.is_empty());
    add(1, 15_000, at(100));
    add(1, 10_000, at(99));
    add(2, 1, at(50));
    add(2, 1, at(49));
    hold_matching(&spool, &Filter { lane: Some(lane(2)), ..Filter::default() });
    let (mut counts, mut oldest, mut after, mut slices) = (BTreeMap::new(), None, None, 0);
    loop {
        let slice = spool.ages(&[at(100), at(50)], after).unwrap();
        for (lane, add) in slice.lanes {
            let sum = counts.entry(lane.unwrap()).or_insert_with(|| vec![0; 3]);
            sum.iter_mut().zip(add).for_each(|(sum, count)| *sum += count);
        }
        oldest = oldest.into_iter().chain(slice.oldest).min();
        after = slice.next;
        slices += 1;
        if after.is_none() {
            break;
        }
    }
    let want = [(lane(1), vec![15_000, 10_000, 0]), (lane(2), vec![0, 1, 1])];
    assert_eq!((counts, oldest), (BTreeMap::from(want), Some(at(49))));
    assert!(slices > 1, "all at once");
}

#[test]
fn why_a_message_is_held_is_known_until_nothing_of_it_is_held() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    let recipients = [("a@to.example", lane(1)), ("b@to.example", lane(2))];
    let (id, other) = (commit(&spool, b"x", &recipients), commit(&spool, b"x", &recipients));
    let both = vec![(id, RecipientNo(0)), (id, RecipientNo(1))];
    let why = |spool: &Spool| {
        let found = spool.hold_reasons(&[id, other]).unwrap();
        found.get(&id).cloned().filter(|_| found.len() == 1)
    };
    let release = |which| spool.release(&which, at(1), None).unwrap();
    let hold = |why: &str| spool.hold_these_because(both.clone(), why.into()).unwrap();

    hold_matching(&spool, &Filter { lane: Some(lane(2)), ..Filter::default() });
    assert_eq!(hold("a virus?").recipients, 1, "one is held already");
    assert_eq!(why(&spool).as_deref(), Some("a virus?"));
    assert_eq!(hold("it is one").recipients, 0, "only the reason is another");
    spool.give_back(vec![both[0]]).unwrap();
    assert_eq!(why(&spool).as_deref(), Some("it is one"), "the other is held");
    release(Selection::Messages(vec![id]));
    assert_eq!(why(&spool), None);
    hold("deleted");
    spool.delete(&Selection::Messages(vec![id]), None).unwrap();
    assert_eq!(why(&spool), None);
    assert_eq!(spool.marks("held.").unwrap(), Marks::default());
}

#[test]
fn why_a_message_was_held_is_forgotten_when_it_is_said_to_be_gone_and_not_before() {
    let dir = tempfile::tempdir().unwrap();
    let id = {
        let spool = open(dir.path());
        let id = commit(&spool, b"x", &[("a@to.example", lane(1)), ("b@to.example", lane(1))]);
        let who = vec![(id, RecipientNo(0)), (id, RecipientNo(1))];
        spool.hold_these_because(who, "why".into()).unwrap();
        id
    };
    let spool = open(dir.path());
    let give_up = |no| {
        let mut gone = settlement(&spool, id);
        gone.changes = vec![(RecipientNo(no), Change::Failed)];
        settle(&spool, gone).unwrap();
        spool.forget_hold_reasons(vec![id]).unwrap();
    };
    give_up(0);
    assert_eq!(spool.hold_reasons(&[id]).unwrap()[&id], "why");
    give_up(1);
    assert_eq!(spool.marks("held.").unwrap(), Marks::default());
}

#[test]
fn a_hold_is_undone_as_if_it_had_not_been_and_takes_only_whom_it_names() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    let id = commit(&spool, b"x", &[("a@to.example", lane(1)), ("b@to.example", lane(2))]);
    let rows = || spool.show(id).unwrap().unwrap().recipients;
    let before = rows();
    let states = |lane: Option<&LaneKey>| {
        let places = spool.places(id, lane).unwrap();
        places.into_iter().map(|place| (place.no.0, place.state)).collect::<Vec<_>>()
    };
    use RecipientState::{Held, Queued};
    let first = vec![(id, RecipientNo(0))];
    assert_eq!(spool.hold_these(first.clone()).unwrap().recipients, 1);
    assert_eq!(states(None), [(0, Held), (1, Queued)]);
    assert_eq!(states(Some(&lane(2))), [(1, Queued)]);
    assert_eq!(states(Some(&lane(3))), []);
    assert_eq!(spool.give_back(first.clone()).unwrap().lanes, [lane(1)]);
    assert_eq!(rows(), before);
    assert_eq!(spool.delete_these(first).unwrap().recipients, 1);
    assert_eq!(states(None), [(1, Queued)]);
    assert_eq!(spool.delete_these(vec![(id, RecipientNo(1))]).unwrap().recipients, 1);
    assert!(spool.show(id).unwrap().is_none() && spool.places(id, None).unwrap().is_empty());
}

#[test]
fn many_threads_share_syncs_and_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    let kept = AtomicUsize::new(0);
    thread::scope(|scope| {
        for number in 0..16 {
            let (spool, kept) = (&spool, &kept);
            scope.spawn(move || {
                for round in 0..40 {
                    let body = large(90 + round);
                    let id = commit(spool, &body, &[("b@to.example", lane(number % 5))]);
                    if round % 2 == 0 {
                        let mut new = settlement(spool, id);
                        new.changes.push((RecipientNo(0), Change::Delivered));
                        assert_eq!(settle(spool, new).unwrap(), Settled::Gone);
                    } else {
                        assert_eq!(bytes(spool, id), body);
                        kept.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let kept = kept.into_inner() as u64;
    assert_eq!(spool.count().unwrap().messages, kept);
    drop(spool);
    assert_eq!(open(dir.path()).count().unwrap().messages, kept);
}

#[test]
fn what_a_crash_leaves_is_all_that_was_acknowledged_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(&dir.path().join("live"));
    let small = commit(&spool, b"x", &[("b@to.example", lane(1))]);
    let big = commit(&spool, &large(5000), &[("b@to.example", lane(1))]);
    let mut arriving = spool.draft(spool.new_id(at(0)));
    arriving.write(&large(5000)).unwrap();
    let _sealed = sealed(&spool, &large(6000));
    assert_eq!(files(&dir.path().join("live")).len(), 3);

    let copy = dir.path().join("copy");
    common::snapshot(&dir.path().join("live"), &copy);
    let after = open(&copy);
    assert_eq!((bytes(&after, small), bytes(&after, big)), (b"x".to_vec(), large(5000)));
    assert_eq!(after.count().unwrap().messages, 2);
    // The sweep runs beside the service; a second start is certain to find it done or to do it.
    for _ in 0..100 {
        if files(&copy).len() == 1 {
            break;
        }
        thread::yield_now();
        commit(&after, b"y", &[("b@to.example", lane(1))]);
    }
    assert_eq!(files(&copy), [big.to_string()]);
    // What nobody was told 250 for is not needed; but who says so is an index.
    assert_eq!(std::fs::read_dir(copy.join("bodies/lost")).unwrap().count(), 1);
    assert_eq!(after.lost_bodies(), 1);
    let ctime_of_any = Timestamp::from_second(4_000_000_000).unwrap();
    after.forget_lost_bodies(Timestamp::UNIX_EPOCH).unwrap();
    assert_eq!(std::fs::read_dir(copy.join("bodies/lost")).unwrap().count(), 1, "too young");
    after.forget_lost_bodies(ctime_of_any).unwrap();
    assert_eq!(std::fs::read_dir(copy.join("bodies/lost")).unwrap().count(), 0);
}

/// Nobody can say whose they are, but they are somebody's mail.
#[test]
fn bodies_beside_a_queue_that_was_lost_stay() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    let big = commit(&spool, &large(5000), &[("b@to.example", lane(1))]);
    drop(spool);
    for suffix in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(dir.path().join(format!("queue.db{suffix}")));
    }
    let spool = open(dir.path());
    assert_eq!(spool.report().bodies_without_queue, 1);
    drop(spool);
    assert_eq!(files(dir.path()), [big.to_string()]);
    let spool = open(dir.path());
    assert_eq!(spool.report().bodies_without_queue, 0);
    while spool.lost_bodies() == 0 {
        thread::yield_now();
    }
    assert!(dir.path().join(format!("bodies/lost/{big}")).exists());
}

/// The index of ids does not know it; the table does.
#[test]
fn a_body_is_not_moved_away_on_the_word_of_a_damaged_index() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    let bodies: Vec<_> = (0..3).map(|n| large(5000 + n)).collect();
    let ids: Vec<_> =
        bodies.iter().map(|body| commit(&spool, body, &[("b@to.example", lane(1))])).collect();
    drop(spool);
    let orphan = dir.path().join("bodies/00").join(MessageId::from_u128(0x100).to_string());
    std::fs::write(&orphan, b"x").unwrap();
    // An index that lacks all of them.
    let db = Connection::open(dir.path().join("queue.db")).unwrap();
    let page: i64 = db
        .query_row(
            "SELECT rootpage FROM sqlite_schema WHERE name = 'sqlite_autoindex_messages_1'",
            [],
            |row| row.get(0),
        )
        .unwrap();
    drop(db);
    let file = dir.path().join("queue.db");
    let mut content = std::fs::read(&file).unwrap();
    // The header of a leaf of an index: kind, no free block, no cells.
    let at = usize::try_from(page - 1).unwrap() * 4096;
    content[at..][..5].copy_from_slice(&[10, 0, 0, 0, 0]);
    std::fs::write(&file, content).unwrap();
    let spool = open(dir.path());
    while spool.lost_bodies() == 0 {
        thread::yield_now();
    }
    drop(spool);
    let mut want: Vec<_> = ids.iter().map(ToString::to_string).collect();
    want.sort();
    assert_eq!(files(dir.path()), want);
}

#[test]
fn a_second_process_is_told_who_holds_the_directory() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    let error = Spool::open(dir.path(), options()).unwrap_err();
    let own = std::process::id();
    assert!(matches!(error, OpenError::Locked { pid: Some(pid), .. } if pid == own), "{error}");
    assert!(error.to_string().contains(&format!("process {own}")), "{error}");
    spool.close();
    drop(open(dir.path()));
}

#[test]
fn a_file_that_a_crash_left_without_tables_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["queue.db", "policies.db"] {
        let db = Connection::open(dir.path().join(name)).unwrap();
        // Writes the first page, with no id of ours in it yet.
        db.execute_batch("PRAGMA journal_mode = WAL").unwrap();
    }
    let spool = open(dir.path());
    commit(&spool, b"body", &[("b@to.example", lane(1))]);
}

#[test]
fn a_newer_format_and_a_foreign_file_are_refused_and_left_alone() {
    for (pragma, want) in
        [("user_version = 99", "has format 99"), ("application_id = 7", "not a file")]
    {
        let dir = tempfile::tempdir().unwrap();
        drop(open(dir.path()));
        let path = dir.path().join("queue.db");
        Connection::open(&path).unwrap().execute_batch(&format!("PRAGMA {pragma}")).unwrap();
        let before = std::fs::read(&path).unwrap();
        let error = Spool::open(dir.path(), options()).unwrap_err().to_string();
        assert!(error.contains(want) && error.contains("queue.db"), "{error}");
        assert!(std::fs::read(&path).unwrap() == before, "{pragma}");
    }
}

#[test]
fn nobody_else_can_read_the_mail() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("data");
    let spool = open(&root);
    commit(&spool, &large(1000), &[("b@to.example", lane(1))]);
    let mut all = vec![root];
    while let Some(path) = all.pop() {
        let meta = path.metadata().unwrap();
        assert_eq!(meta.permissions().mode() & 0o077, 0, "{}", path.display());
        if meta.is_dir() {
            all.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
}

#[test]
fn after_close_everything_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    let id = commit(&spool, b"x", &[("b@to.example", lane(1))]);
    spool.close();
    let error = try_commit(&spool, b"x", &[("b@to.example", lane(1))]);
    assert!(matches!(error, Err(StoreError::Closed)), "{error:?}");
    let error = spool.delete(&Selection::Messages(vec![id]), None);
    assert!(matches!(error, Err(StoreError::Closed)), "{error:?}");
}

#[test]
fn a_message_needs_a_recipient() {
    let dir = tempfile::tempdir().unwrap();
    let error = try_commit(&open(dir.path()), b"x", &[]);
    assert!(matches!(error, Err(StoreError::RecipientCount { count: 0 })), "{error:?}");
}

/// One bad item does not take the others of its batch along.
#[test]
fn work_that_fails_in_a_batch_fails_alone() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    let id = spool.new_id(at(0));
    let (answer, results) = mpsc::channel();
    for number in 0..20 {
        // All have the same id, which must be unique: the first wins.
        let draft = spool.draft(if number < 10 { id } else { spool.new_id(at(0)) });
        let answer = answer.clone();
        let envelope = envelope(0, &[("b@to.example", lane(1))]);
        spool.commit(draft.seal().unwrap(), envelope, move |result| {
            answer.send(result.is_ok()).unwrap();
        });
    }
    drop(answer);
    assert_eq!(results.iter().filter(|ok| *ok).count(), 11);
    assert_eq!(spool.count().unwrap().messages, 11);
    assert_eq!(spool.health(), Health::Good);
}

/// The rows of `lanes`, by their keys, once all mail has rows.
fn lane_rows(spool: &Spool, dir: &Path) -> Vec<String> {
    spool.count().unwrap();
    let db = Connection::open(dir.join("queue.db")).unwrap();
    let mut select = db.prepare("SELECT key FROM lanes ORDER BY key").unwrap();
    select.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

fn failing(number: u8) -> LaneUpdate {
    let trouble = spool::LaneTrouble {
        failures: 1,
        next_probe_at: at(1),
        first_failed_at: at(0),
        problem: problem(0),
    };
    LaneUpdate { key: lane(number), state: LaneState::Failing(trouble) }
}

#[test]
fn a_lane_is_forgotten_with_its_last_recipient_and_not_before() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    let both = commit(&spool, b"x", &[("a@to.example", lane(1)), ("b@to.example", lane(2))]);
    let second = commit(&spool, b"x", &[("b@to.example", lane(2))]);
    let settle_one = |id, no, update| {
        let mut new = settlement(&spool, id);
        new.changes.push((RecipientNo(no), Change::Delivered));
        new.lane = update;
        settle(&spool, new).unwrap();
    };
    settle_one(both, 0, None);
    assert_eq!(lane_rows(&spool, dir.path()), ["lane2.example"]);
    settle_one(both, 1, None);
    assert_eq!(lane_rows(&spool, dir.path()), ["lane2.example"], "the other message waits there");
    settle_one(second, 0, Some(failing(2)));
    assert_eq!(lane_rows(&spool, dir.path()), ["lane2.example"], "that it failed is remembered");
    let third = commit(&spool, b"x", &[("b@to.example", lane(2))]);
    settle_one(third, 0, Some(LaneUpdate { key: lane(2), state: LaneState::Healthy }));
    assert_eq!(lane_rows(&spool, dir.path()), [""; 0]);
}

#[test]
fn unused_rows_of_lanes_are_swept_a_few_at_a_time_and_cost_nothing_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    let db = Connection::open(dir.path().join("queue.db")).unwrap();
    db.execute_batch(
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 600)
         INSERT INTO lanes (key, failures) SELECT 'old' || i, 0 FROM n",
    )
    .unwrap();
    drop(db);
    let spool = open(dir.path());
    commit(&spool, b"x", &[("b@to.example", lane(1))]);
    let (done, updated) = mpsc::channel();
    spool.update_lane(failing(2), move |result| done.send(result).unwrap());
    updated.recv().unwrap().unwrap();
    assert_eq!(spool.lanes().unwrap().len(), 2, "the others are not even listed");
    let sweep = |after: i64, now| {
        let (done, swept) = mpsc::channel();
        spool.sweep_lanes(after, now, move |result| done.send(result).unwrap());
        swept.recv().unwrap().unwrap()
    };
    let mut after = Some(0);
    let mut removed = Vec::new();
    while let Some(from) = after {
        let swept = sweep(from, at(100));
        removed.push(swept.removed);
        after = swept.next;
    }
    assert_eq!(removed, [256, 256, 88, 0]);
    assert_eq!(lane_rows(&spool, dir.path()), ["lane1.example", "lane2.example"]);
    assert_eq!(sweep(0, at(100_000)).removed, 1, "a day later nobody cares that it failed");
}

#[test]
fn policies_hosts_and_marks_survive() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    let mut row = PolicyRow::new(host("a.example"));
    row.fetched_at = Some(at(10));
    row.body = Some(b"version: STSv1".to_vec());
    row.id = Some("2026".into());
    row.failed_count = 3;
    row.recent_fetches = "1,2".into();
    let policies = spool.policies();
    row.first_used_at = Some(at(11));
    row.last_used_at = Some(at(20));
    row.known_since = Some(at(9));
    wait(|done| policies.put(row.clone(), done)).unwrap();
    let host_row = HostRow { host: host("mx.example"), starttls_seen_at: at(5), note: "x".into() };
    wait(|done| policies.put_host(host_row.clone(), done)).unwrap();
    for (name, value) in [("off.b", "2"), ("off.a", "1"), ("clock", "77")] {
        spool.set_mark(name, Some(value)).unwrap();
    }
    spool.set_mark("off.b", None).unwrap();
    drop(spool);

    let spool = open(dir.path());
    let policies = spool.policies();
    assert_eq!(policies.get(&host("a.example")).unwrap(), FoundPolicy::Row(row));
    assert_eq!(policies.get(&host("b.example")).unwrap(), FoundPolicy::Absent);
    assert_eq!(policies.host(&host("mx.example")).unwrap(), FoundPolicy::Row(host_row));
    assert_eq!(spool.mark("clock").unwrap().as_deref(), Some("77"));
    assert_eq!(spool.mark("off.b").unwrap(), None);
    assert_eq!(spool.marks("off.").unwrap().values, [("off.a".to_owned(), "1".to_owned())]);
    assert_eq!(wait(|done| policies.forget_hosts(at(6), done)).unwrap(), 1);
    assert_eq!(policies.host(&host("mx.example")).unwrap(), FoundPolicy::Absent);
    assert!(wait(|done| policies.delete(host("a.example"), done)).unwrap());
    assert_eq!(policies.get(&host("a.example")).unwrap(), FoundPolicy::Absent);
}

#[test]
fn a_policy_takes_the_place_of_any_other_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    for fetched in [Some(10), Some(9), None] {
        let mut row = PolicyRow::new(host("a.example"));
        row.fetched_at = fetched.map(at);
        wait(|done| spool.policies().put(row.clone(), done)).unwrap();
        assert_eq!(spool.policies().get(&host("a.example")).unwrap(), FoundPolicy::Row(row));
    }
    assert_eq!(spool.policies().list(None, 10).unwrap().rows.len(), 1);
}

/// Whoever reads while it is replaced finds the old one or the new one.
#[test]
fn a_policy_is_never_missing_while_it_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    let put = || {
        let row = PolicyRow { body: Some(vec![b'x'; 1000]), ..PolicyRow::new(host("a.example")) };
        wait(|done| spool.policies().put(row, done)).unwrap();
    };
    put();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut missing = 0;
            while !is_over.load(Ordering::Acquire) {
                let found = spool.policies().get(&host("a.example")).unwrap();
                missing += u32::from(!matches!(found, FoundPolicy::Row(_)));
            }
            missing
        });
        (0..200).for_each(|_| put());
        is_over.store(true, Ordering::Release);
        assert_eq!(reader.join().unwrap(), 0);
    });
}

/// Leaf pages of the table `policies`, and those of the index of its names.
fn leaves(file: &Path, of: &str) -> Vec<usize> {
    let db = Connection::open(file).unwrap();
    let mut pages = db.prepare("SELECT pageno FROM dbstat WHERE name = ?1 AND pagetype = 'leaf'");
    let pages = pages.as_mut().unwrap();
    let numbers = pages.query_map([of], |row| row.get::<_, i64>(0)).unwrap();
    numbers.map(|page| usize::try_from(page.unwrap()).unwrap()).collect()
}

#[test]
fn a_damaged_page_of_policies_hides_only_what_is_on_it() {
    for of in ["policies", "sqlite_autoindex_policies_1"] {
        let dir = tempfile::tempdir().unwrap();
        let spool = open(dir.path());
        for number in 0..600 {
            let mut row = PolicyRow::new(host(&format!("d{number:03}.example")));
            row.body = Some(vec![b'x'; 100]);
            wait(|done| spool.policies().put(row, done)).unwrap();
        }
        drop(spool);
        let file = dir.path().join("policies.db");
        let pages = leaves(&file, of);
        assert!(pages.len() > 2, "{of}: {pages:?}");
        let mut content = std::fs::read(&file).unwrap();
        let at = (pages[1] - 1) * 4096;
        content[at..at + 4096].fill(0xff);
        std::fs::write(&file, content).unwrap();

        let spool = open(dir.path());
        let (mut rows, mut damaged, mut after) = (0, 0, None);
        loop {
            let page = spool.policies().list(after.as_deref(), 50).unwrap();
            (rows, damaged) = (rows + page.rows.len(), damaged + page.damaged);
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert!(damaged > 0 && rows > 300, "{of}: {rows} rows, {damaged} damaged");
        assert_eq!(rows + usize::try_from(damaged).unwrap(), 600, "{of}: each is named");
    }
}

#[test]
fn a_mark_whose_value_is_damaged_is_there_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    let damage =
        "INSERT INTO marks (name, value) VALUES ('off.a', CAST(x'ff' AS TEXT)), ('off.b', '1'),
                      (CAST(x'6f66662eff' AS TEXT), '1')";
    Connection::open(dir.path().join("queue.db")).unwrap().execute_batch(damage).unwrap();
    let spool = open(dir.path());
    assert!(spool.mark("off.a").is_err());
    let marks = [("off.a", ""), ("off.b", "1")].map(|(name, value)| (name.into(), value.into()));
    let found = spool.marks("off.").unwrap();
    assert_eq!(found.values, marks);
    assert!(found.may_lack_some, "one has no name that can be read");
}

#[test]
fn a_mark_that_was_another_one_makes_its_kind_uncertain_until_that_is_dealt_with() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    for name in ["off.a", "clock"] {
        spool.set_mark(name, Some("7")).unwrap();
    }
    drop(spool);
    let change = |sql: &str| {
        let db = Connection::open(dir.path().join("queue.db")).unwrap();
        assert_eq!(db.execute(sql, []).unwrap(), 1);
    };
    change("UPDATE marks SET value = '8' WHERE name = 'clock'");
    let spool = open(dir.path());
    assert!(!spool.marks("off.").unwrap().may_lack_some, "it was none of them");
    assert!(spool.mark("clock").is_err());
    drop(spool);
    change("UPDATE marks SET name = 'ogf.a' WHERE name = 'off.a'");
    let spool = open(dir.path());
    let found = spool.marks("off.").unwrap();
    assert!(found.values.is_empty() && found.may_lack_some);
    spool.forget_damaged_marks("off.").unwrap();
    assert_eq!(spool.marks("off.").unwrap(), Marks::default());
    assert!(spool.mark("clock").is_err(), "what is of another kind stays");
}

/// Whoever can be found by either order is named; only who stands on both damaged pages is not.
#[test]
fn damaged_pages_of_names_and_of_rows_hide_only_what_is_on_both() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    // Their rows are not in the order of their names.
    for number in (0..600).map(|number| number * 7 % 600) {
        let mut row = PolicyRow::new(host(&format!("d{number:03}.example")));
        row.body = Some(vec![b'x'; 100]);
        wait(|done| spool.policies().put(row, done)).unwrap();
    }
    drop(spool);
    let file = dir.path().join("policies.db");
    let mut content = std::fs::read(&file).unwrap();
    for of in ["policies", "sqlite_autoindex_policies_1"] {
        let pages = leaves(&file, of);
        let at = (pages[pages.len() / 2] - 1) * 4096;
        content[at..at + 4096].fill(0xff);
    }
    std::fs::write(&file, content).unwrap();

    let spool = open(dir.path());
    let (mut rows, mut pages, mut after) = (0, 0, None);
    loop {
        let page = spool.policies().list(after.as_deref(), 50).unwrap();
        (rows, pages) = (rows + page.rows.len(), pages + 1);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert!(rows > 300 && pages > 10, "{rows} rows on {pages} pages");
}

#[test]
fn which_domains_are_enforced_is_known_without_the_policies() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    let entry = |from, to| Enforced { fetched_at: at(from), expires_at: at(to) };
    let put = |name: &str, entry| {
        wait(|done| spool.policies().put_enforced(host(name), entry, done)).unwrap();
    };
    put("a.example", entry(1, 10));
    put("b.example", entry(2, 20));
    put("a.example", entry(3, 30));
    put("c.example", entry(4, 40));
    wait(|done| spool.policies().remove_enforced(host("c.example"), done)).unwrap();
    spool.set_mark("switched_off.sending", Some("5")).unwrap();
    drop(spool);

    type Damage = fn(&Path);
    let cases: [(&str, Damage); 3] = [
        ("missing", |file| std::fs::remove_file(file).unwrap()),
        ("empty", |file| std::fs::write(file, b"").unwrap()),
        ("garbage", |file| std::fs::write(file, [0; 8192]).unwrap()),
    ];
    for (what, damage) in cases {
        let file = dir.path().join("policies.db");
        for suffix in ["-wal", "-shm"] {
            let _ = std::fs::remove_file(dir.path().join(format!("policies.db{suffix}")));
        }
        damage(&file);
        let spool = open(dir.path());
        match (what, &spool.report().policies) {
            ("garbage", PoliciesFile::SetAside(aside)) => {
                assert_eq!(std::fs::read(aside).unwrap(), [0; 8192], "nothing is thrown away");
            }
            ("missing" | "empty", PoliciesFile::Made) => {}
            (what, found) => panic!("{what}: {found:?}"),
        }
        let list = spool.policies().list_enforced().unwrap();
        let entries =
            [(host("a.example"), Some(entry(3, 30))), (host("b.example"), Some(entry(2, 20)))];
        assert_eq!((list.rows, list.is_damaged), (entries.to_vec(), false), "{what}");
        let found = spool.policies().enforced(&host("a.example")).unwrap();
        assert_eq!(found, FoundPolicy::Row(entry(3, 30)));
        assert_eq!(spool.policies().enforced(&host("c.example")).unwrap(), FoundPolicy::Absent);
        assert_eq!(spool.mark("switched_off.sending").unwrap().as_deref(), Some("5"));
    }
}

#[test]
fn for_whom_mail_waits_is_known_exactly() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    let id = commit(&spool, b"x\r\n", &[("b@to.example", lane(1)), ("c@of.example", lane(1))]);
    commit(&spool, b"x\r\n", &[("d@to.example", lane(2))]);
    let lanes: BTreeSet<_> = spool.lanes_with_mail().unwrap().into_iter().collect();
    assert_eq!(lanes, [lane(1), lane(2)].into());
    let (first, after) = spool.domains_in(&lane(1), None, 1).unwrap();
    let (second, after) = spool.domains_in(&lane(1), after, 1).unwrap();
    assert_eq!([first, second], [host("to.example"), host("of.example")].map(|n| [n].into()));
    assert_eq!(spool.domains_in(&lane(1), after, 1).unwrap(), (BTreeSet::new(), None));
    hold(&spool, id);
    assert!(spool.has_mail(&[lane(3), lane(1)]).unwrap(), "held mail is mail");
    spool.delete(&Selection::Messages(vec![id]), None).unwrap();
    assert!(!spool.has_mail(&[lane(3), lane(1)]).unwrap());
    assert_eq!(spool.lanes_with_mail().unwrap(), [lane(2)]);
}

#[test]
fn a_damaged_policy_row_is_reported_and_stops_nothing() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    Connection::open(dir.path().join("policies.db"))
        .unwrap()
        .execute_batch(
            "INSERT INTO policies (domain, failed_count, first_fetch_failures, recent_fetches)
             VALUES ('a.example', -1, 0, ''), ('b.example', 0, 0, '');",
        )
        .unwrap();
    let spool = open(dir.path());
    assert_eq!(spool.policies().get(&host("a.example")).unwrap(), FoundPolicy::Corrupt);
    let page = spool.policies().list(None, 1).unwrap();
    assert_eq!((page.rows.len(), page.damaged), (0, 1));
    let page = spool.policies().list(page.next.as_deref(), 10).unwrap();
    assert_eq!((page.rows.len(), page.damaged, page.next), (1, 0, None));
}

/// The oldest format there is: whatever comes later must read it.
#[test]
fn format_1_can_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    for (file, sql) in [
        ("queue.db", include_str!("data/queue-v1.sql")),
        ("policies.db", include_str!("data/policies-v1.sql")),
    ] {
        Connection::open(root.join(file)).unwrap().execute_batch(sql).unwrap();
    }
    let mark = "INSERT INTO marks VALUES ('switched_off.sending', 1800000000000)";
    Connection::open(root.join("policies.db")).unwrap().execute_batch(mark).unwrap();
    let spool = open(root);
    // Its sender was never told of a delay; otherwise nothing was asked for.
    let page = spool.unwarned(&LaneKey::new("to.example"), at(0), None, 10).unwrap();
    let due = &page.due[0];
    assert_eq!((&due.options, due.recipients.len()), (&MessageOptions::default(), 1));
    assert_eq!(due.recipients[0].options, RecipientOptions::default());
    let rows = spool.list(&Filter::default(), None, 10).unwrap().rows;
    let texts: Vec<_> = rows.iter().map(|row| row.recipient.to_string()).collect();
    assert_eq!(texts, ["b@to.example", "c@to.example"]);
    assert_eq!(rows[0].last, Some(problem(2)));
    assert_eq!(bytes(&spool, rows[0].message), b"Subject: kept\r\n\r\nx\r\n");
    assert!(matches!(spool.policies().get(&host("a.example")).unwrap(), FoundPolicy::Row(_)));
    // What mail hangs on is beside the mail now.
    let enforced = spool.policies().list_enforced().unwrap().rows;
    let times = (at(0), at(86_400));
    let entry = Enforced { fetched_at: times.0, expires_at: times.1 };
    assert_eq!(enforced, [(host("a.example"), Some(entry))]);
    assert_eq!(spool.mark("switched_off.sending").unwrap().as_deref(), Some("1800000000000"));
}

#[test]
fn a_queue_of_before_checksums_is_read_and_what_comes_later_has_them() {
    let dir = tempfile::tempdir().unwrap();
    let db = Connection::open(dir.path().join("queue.db")).unwrap();
    db.execute_batch(include_str!("data/queue-v3.sql")).unwrap();
    drop(db);
    let spool = open(dir.path());
    let page = spool.next(&LaneKey::new("to.example"), at(0), None, 10).unwrap();
    assert_eq!((page.due.len(), page.damaged.len()), (1, 0));
    let due = &page.due[0];
    assert_eq!((due.options.user.as_deref(), due.options.require_tls), (Some("ann"), true));
    assert_eq!(bytes(&spool, due.message), b"Subject: kept\r\n\r\nx\r\n");
    assert_eq!(common::check_all(&spool), []);
    assert_eq!(spool.mark("switched_off.sending").unwrap().as_deref(), Some("1800000000000"));
    assert!(is_listed(&spool, "a.example"));
    commit(&spool, b"later", &[("b@to.example", lane(7))]);
    spool.close();
    drop(spool);
    let db = Connection::open(dir.path().join("queue.db")).unwrap();
    let count = |sql: &str| db.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    for table in ["messages", "recipients", "lanes"] {
        let with = count(&format!("SELECT count(*) FROM {table} WHERE crc IS NOT NULL"));
        assert_eq!(with, 1, "{table}");
    }
}

/// A policies.db of format 1 with sending switched off; `sql` puts something into it.
fn old_policies(root: &Path, sql: &str) -> Connection {
    let db = Connection::open(root.join("policies.db")).unwrap();
    db.execute_batch(include_str!("data/policies-v1.sql")).unwrap();
    db.execute_batch("INSERT INTO marks VALUES ('switched_off.sending', 5)").unwrap();
    db.execute_batch(sql).unwrap();
    db
}

/// Fills a column that is NOT NULL with NULL.
fn write_null(db: &Connection, table: &str, column: &str) {
    let change = |from: &str, to: &str| {
        db.execute_batch(&format!(
            "PRAGMA writable_schema = ON;
             UPDATE sqlite_schema SET sql = replace(sql, '{from}', '{to}') WHERE name = '{table}';
             PRAGMA writable_schema = RESET;"
        ))
        .unwrap();
    };
    let (strict, loose) = (format!("{column} INTEGER NOT NULL"), format!("{column} INTEGER"));
    change(&strict, &loose);
    db.execute_batch(&format!("UPDATE {table} SET {column} = NULL")).unwrap();
    change(&loose, &strict);
}

fn is_listed(spool: &Spool, name: &str) -> bool {
    spool.policies().enforced(&host(name)).unwrap() != FoundPolicy::Absent
}

#[test]
fn a_damaged_page_of_an_old_file_takes_no_enforce_policy_and_no_pause_along() {
    type Pages = fn(&[usize], &[usize]) -> Vec<usize>;
    let cases: [(&str, Pages); 4] = [
        ("rows", |rows, _| vec![rows[1]]),
        ("rows, twice", |rows, _| vec![rows[1], rows[3]]),
        ("names", |_, names| vec![names[1]]),
        ("names and rows", |rows, names| vec![names[0], rows[rows.len() - 1]]),
    ];
    for (what, which) in cases {
        let dir = tempfile::tempdir().unwrap();
        let db = old_policies(
            dir.path(),
            "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 599)
             INSERT INTO policies SELECT format('d%03d.example', i), 1800000000000, 1800086400000,
                 'x', iif(i % 2, 'testing', 'enforce'), zeroblob(100), NULL, NULL, NULL, 0, 0,
                 NULL, NULL, '', NULL FROM n",
        );
        drop(db);
        let file = dir.path().join("policies.db");
        let pages =
            which(&leaves(&file, "policies"), &leaves(&file, "sqlite_autoindex_policies_1"));
        let mut content = std::fs::read(&file).unwrap();
        for page in pages {
            content[(page - 1) * 4096..page * 4096].fill(0xff);
        }
        std::fs::write(&file, content).unwrap();

        let spool = open(dir.path());
        let is_listed = |number: &usize| is_listed(&spool, &format!("d{number:03}.example"));
        let missing: Vec<_> = (0..600).step_by(2).filter(|number| !is_listed(number)).collect();
        assert!(missing.is_empty(), "{what}: {missing:?}");
        let others = (1..600).step_by(2).filter(is_listed).count();
        assert!(others < 150, "{what}: {others} whose rows can be read wait for nothing");
        assert_eq!(spool.mark("switched_off.sending").unwrap().as_deref(), Some("5"), "{what}");
    }
}

#[test]
fn an_old_file_with_a_damaged_row_is_moved_aside_when_what_mail_hangs_on_is_copied() {
    let dir = tempfile::tempdir().unwrap();
    let db = old_policies(dir.path(), "");
    write_null(&db, "policies", "failed_count");
    write_null(&db, "marks", "value");
    drop(db);
    let spool = open(dir.path());
    assert!(matches!(spool.report().policies, PoliciesFile::SetAside(_)));
    let entry = Enforced { fetched_at: at(0), expires_at: at(86_400) };
    assert_eq!(spool.policies().enforced(&host("a.example")).unwrap(), FoundPolicy::Row(entry));
    // It is off, whatever the value says.
    assert_eq!(spool.mark("switched_off.sending").unwrap().as_deref(), Some(""));
}

#[test]
fn a_policy_that_was_lost_before_the_upgrade_is_still_lost() {
    let dir = tempfile::tempdir().unwrap();
    let row = |name: &str, fetched_at: &str, mode: &str, alarm: &str| {
        format!(
            "INSERT INTO policies (domain, fetched_at, mode, failed_count, first_fetch_failures,
                 recent_fetches, alarm)
             VALUES ('{name}', {fetched_at}, {mode}, 0, 0, '', {alarm});"
        )
    };
    let sql = [
        row("lost.example", "NULL", "NULL", "'dns_failing policy_lost'"),
        row("untimed.example", "NULL", "'enforce'", "NULL"),
        row("impossible.example", "9223372036854775807", "'enforce'", "NULL"),
        row("half.example", "1800000000000", "NULL", "NULL"),
        row("other.example", "NULL", "NULL", "'dns_failing'"),
        row("none.example", "NULL", "NULL", "NULL"),
    ];
    drop(old_policies(dir.path(), &sql.concat()));
    let spool = open(dir.path());
    assert_eq!(spool.report().policies, PoliciesFile::Kept);
    for name in ["lost.example", "untimed.example", "impossible.example", "half.example"] {
        assert_eq!(spool.policies().enforced(&host(name)).unwrap(), FoundPolicy::Corrupt, "{name}");
    }
    assert!(is_listed(&spool, "a.example"));
    assert!(!is_listed(&spool, "other.example") && !is_listed(&spool, "none.example"));
}

#[test]
fn a_file_whose_tables_are_not_ours_any_more_is_moved_aside() {
    let cases = ["PRAGMA user_version = 0", "DROP TABLE hosts; ALTER TABLE policies RENAME TO x"];
    for sql in cases {
        let dir = tempfile::tempdir().unwrap();
        drop(old_policies(dir.path(), sql));
        let spool = open(dir.path());
        assert!(matches!(spool.report().policies, PoliciesFile::SetAside(_)), "{sql}");
        assert_eq!(spool.mark("switched_off.sending").unwrap().as_deref(), Some("5"), "{sql}");
    }
}

/// The columns and indexes of a database, in words.
fn shape(db: &Connection) -> Vec<String> {
    let mut select = db
        .prepare(
            "SELECT t.name || '.' || c.name || ' ' || c.type || ' ' || c.\"notnull\"
                 || ' ' || coalesce(c.dflt_value, '') || ' ' || c.pk
             FROM sqlite_schema t JOIN pragma_table_info(t.name) c WHERE t.type = 'table'
             UNION ALL SELECT sql FROM sqlite_schema WHERE type = 'index' AND sql NOT NULL
             ORDER BY 1",
        )
        .unwrap();
    let words = select.query_map([], |row| row.get(0)).unwrap();
    words.map(|word: Result<String, _>| word.unwrap()).collect()
}

fn format_of(db: &Connection) -> i64 {
    db.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap()
}

#[test]
fn a_file_brought_to_the_new_format_is_like_one_made_in_it() {
    let (old, new) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let files = [
        ("queue.db", include_str!("data/queue-v1.sql"), 4),
        ("policies.db", include_str!("data/policies-v1.sql"), 3),
    ];
    for (file, sql, _) in files {
        Connection::open(old.path().join(file)).unwrap().execute_batch(sql).unwrap();
    }
    [&old, &new].iter().for_each(|dir| open(dir.path()).close());
    for (file, _, format) in files {
        let shapes = [&old, &new].map(|dir| {
            let db = Connection::open(dir.path().join(file)).unwrap();
            (format_of(&db), shape(&db))
        });
        assert_eq!(shapes[0], shapes[1]);
        assert_eq!(shapes[0].0, format);
    }
    open(old.path());
}

/// What the operator paused and resumed since is known from queue.db alone.
#[test]
fn a_queue_that_is_lost_after_the_upgrade_takes_no_switch_of_old_from_policies_db() {
    let dir = tempfile::tempdir().unwrap();
    drop(old_policies(dir.path(), ""));
    let spool = open(dir.path());
    assert_eq!(spool.mark("switched_off.sending").unwrap().as_deref(), Some("5"));
    spool.set_mark("switched_off.sending", None).unwrap();
    spool.close();
    drop(spool);
    for file in ["queue.db", "queue.db-wal", "queue.db-shm"] {
        let _ = std::fs::remove_file(dir.path().join(file));
    }
    let spool = open(dir.path());
    assert_eq!(spool.report().policies, PoliciesFile::Kept);
    assert_eq!(spool.mark("switched_off.sending").unwrap(), None);
    assert!(is_listed(&spool, "a.example"), "policies are the current ones");
}

#[test]
fn a_change_of_format_that_does_not_end_leaves_the_old_one() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("queue.db");
    let db = Connection::open(&file).unwrap();
    db.execute_batch(include_str!("data/queue-v1.sql")).unwrap();
    let before = shape(&db);
    // The last step of the change cannot be done.
    db.execute_batch("CREATE TABLE recipients_deadline (id INTEGER)").unwrap();
    drop(db);
    assert!(matches!(Spool::open(dir.path(), options()), Err(OpenError::Database { .. })));
    let db = Connection::open(&file).unwrap();
    assert_eq!(format_of(&db), 1);
    db.execute_batch("DROP TABLE recipients_deadline").unwrap();
    assert_eq!(shape(&db), before);
    drop(db);
    let spool = open(dir.path());
    assert_eq!(spool.list(&Filter::default(), None, 10).unwrap().rows.len(), 2);
}

#[test]
fn space_counts_what_the_queue_can_use_again() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    let before = spool.space().unwrap();
    assert!(before.available > 0 && before.inodes > 0);
    let options = spool::Options { inline_body_max: 60_000, ..options() };
    let (other, other_dir) = (options, tempfile::tempdir().unwrap());
    let spool = Spool::open(other_dir.path(), other).unwrap();
    let id = commit(&spool, &large(50_000), &[("b@to.example", lane(1))]);
    spool.delete(&Selection::Messages(vec![id]), None).unwrap();
    assert!(spool.space().unwrap().reusable >= 48 * 1024);
}

#[test]
fn callbacks_may_hold_the_last_handle() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Arc::new(open(dir.path()));
    let (answer, result) = mpsc::channel();
    let sealed = sealed(&spool, b"x");
    let own = Arc::clone(&spool);
    spool.commit(sealed, envelope(1, &[("b@to.example", lane(1))]), move |outcome| {
        drop(own);
        answer.send(outcome.is_ok()).unwrap();
    });
    drop(spool);
    assert!(result.recv().unwrap());
}

/// Runs the test `name` of this file again in a process whose files cannot grow beyond `kib`.
fn run_limited(name: &str, dir: &Path, kib: u32) {
    let limit = format!("trap '' XFSZ; ulimit -f {}; exec \"$0\" \"$@\"", kib * 2);
    let done = std::process::Command::new("sh")
        .args(["-c", &limit])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env("SPOOL_LIMITED_DIR", dir)
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// The file size limit stands in for a full disk: writes fail, and there is nothing to undo it.
#[test]
fn a_full_store_refuses_mail_settles_what_it_has_and_recovers() {
    let name = "a_full_store_refuses_mail_settles_what_it_has_and_recovers";
    let Some(dir) = std::env::var_os("SPOOL_LIMITED_DIR") else {
        let dir = tempfile::tempdir().unwrap();
        run_limited(name, dir.path(), 2048);
        assert_eq!(open(dir.path()).count().unwrap().messages, 1, "after the limit is gone");
        return;
    };
    let options = spool::Options {
        inline_body_max: 60_000,
        reserve_bytes: 1_900_000,
        ..spool::Options::default()
    };
    let spool = Spool::open(dir.as_ref(), options).unwrap();
    let one = [("b@to.example", lane(1))];
    let mut kept = Vec::new();
    while let Ok(id) = try_commit(&spool, &large(50_000), &one) {
        kept.push(id);
        assert!(kept.len() < 100, "the limit is not there");
    }
    assert!(kept.len() > 10, "{}", kept.len());
    assert_eq!(spool.health(), Health::Good, "a full disk is no failed sync");
    assert_eq!(spool.count().unwrap().messages, kept.len() as u64);

    let mut draft = spool.draft(spool.new_id(at(0)));
    let written = draft.write(&large(3_000_000));
    assert!(matches!(written, Err(StoreError::Full)), "{written:?}");
    drop(draft);
    for id in kept {
        let mut new = settlement(&spool, id);
        new.changes.push((RecipientNo(0), Change::Delivered));
        assert_eq!(settle(&spool, new).unwrap(), Settled::Gone);
    }
    commit(&spool, &large(50_000), &one);
    assert_eq!(files(dir.as_ref()).len(), 0);
}

/// Nothing is promised that no start would find, and what was promised is settled where it stands.
#[test]
fn a_queue_that_was_moved_away_takes_nothing_new_until_it_is_back() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    let id = commit(&spool, b"x", &[("b@to.example", lane(1))]);
    let aside = dir.path().join("aside.db");
    std::fs::rename(dir.path().join("queue.db"), &aside).unwrap();
    let refused = try_commit(&spool, b"y", &[("b@to.example", lane(1))]);
    assert!(matches!(refused, Err(StoreError::Detached)), "{refused:?}");
    spool.look_around().unwrap();
    assert_eq!(spool.health(), Health::Detached);
    let mut done = settlement(&spool, id);
    done.changes = vec![(RecipientNo(0), Change::Delivered)];
    assert_eq!(settle(&spool, done).unwrap(), Settled::Gone);
    std::fs::write(dir.path().join("queue.db"), b"").unwrap();
    assert!(try_commit(&spool, b"y", &[("b@to.example", lane(1))]).is_err(), "another one");
    std::fs::rename(&aside, dir.path().join("queue.db")).unwrap();
    spool.look_around().unwrap();
    assert_eq!(spool.health(), Health::Good);
    commit(&spool, b"z", &[("b@to.example", lane(1))]);
}

#[test]
fn a_removed_lock_is_made_anew_and_keeps_no_door_open_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    std::fs::remove_file(dir.path().join("lock")).unwrap();
    let error = Spool::open(dir.path(), options()).unwrap_err();
    assert!(matches!(error, OpenError::Locked { .. }), "{error}");
    // That one has made the file, and let it go again.
    assert!(spool.look_around().unwrap());
    assert!(!spool.look_around().unwrap());
    let error = Spool::open(dir.path(), options()).unwrap_err();
    assert!(matches!(error, OpenError::Locked { pid: Some(_), .. }), "{error}");
}

/// A repair would take what is left of an old row for one of a new message.
#[test]
fn the_number_of_a_row_is_not_used_again_also_after_a_restart_or_without_its_mark() {
    let dir = tempfile::tempdir().unwrap();
    let mut last = 0;
    for forget in [false, false, true] {
        let spool = open(dir.path());
        let id = commit(&spool, b"x", &[("a@b.example", lane(1))]);
        spool.close();
        drop(spool);
        let db = Connection::open(dir.path().join("queue.db")).unwrap();
        let seq = db.query_row("SELECT max(seq) FROM messages", [], |row| row.get(0)).unwrap();
        assert!(seq > last, "{seq} after {last}");
        last = seq;
        if forget {
            db.execute("DELETE FROM marks WHERE name = 'rows'", []).unwrap();
        }
        drop(db);
        let spool = open(dir.path());
        let mut done = settlement(&spool, id);
        done.changes.push((RecipientNo(0), Change::Delivered));
        assert_eq!(settle(&spool, done).unwrap(), Settled::Gone);
    }
}
