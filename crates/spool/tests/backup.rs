//! Backup and restore: what was acknowledged before a copy began is in it, and nothing is written
//! over.
#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{INLINE_MAX, body_file, bytes, commit, deliver, lane, open, queued};
use spool::{CopyError, OpenError, Spool, backup, restore};

fn body(number: usize) -> Vec<u8> {
    let size = if number.is_multiple_of(2) { 10 } else { INLINE_MAX + 10 };
    vec![u8::try_from(number % 256).unwrap(); size]
}

#[test]
fn a_restored_copy_is_the_queue_at_the_time_of_the_copy() {
    let [dir, away] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let (data, to) = (dir.path().join("data"), away.path().join("copy"));
    let spool = open(&data);
    let ids: Vec<_> = (0..10)
        .map(|number| commit(&spool, &body(number), &[("to@to.example", lane(number % 3))]))
        .collect();
    spool.set_mark("paused", Some("1")).unwrap();
    let copied = backup(&data, &to).unwrap();
    assert_eq!((copied.messages, copied.files), (10, 5));
    deliver(&spool, ids[1]);
    let late = commit(&spool, b"late", &[("to@to.example", lane(1))]);
    drop(spool);

    let restored = restore(&to, &data).unwrap();
    assert_eq!(restored.copied.files, 5);
    let kept = restored.kept.unwrap();
    let spool = open(&data);
    assert_eq!(queued(&spool), ids.iter().copied().collect());
    for (number, id) in ids.iter().enumerate() {
        assert_eq!(bytes(&spool, *id), body(number));
    }
    assert_eq!(spool.mark("paused").unwrap().as_deref(), Some("1"), "what was stopped stays so");
    drop(spool);
    // What was there before is a data directory of its own.
    let before = open(&kept);
    let want: BTreeSet<_> = ids.iter().copied().chain([late]).filter(|id| *id != ids[1]).collect();
    assert_eq!(queued(&before), want);

    // The copy serves again, and elsewhere.
    let other = away.path().join("other");
    let again = restore(&to, &other).unwrap();
    assert_eq!((again.kept, queued(&open(&other)).len()), (None, 10));
}

#[test]
fn at_any_load_a_copy_has_what_was_committed_before_and_not_what_was_settled_before() {
    let [dir, away] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let (data, run) = (dir.path().join("data"), AtomicBool::new(true));
    let spool = open(&data);
    let kept: BTreeSet<_> =
        (0..50).map(|number| commit(&spool, &body(number), &[("a@b.example", lane(1))])).collect();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0.. {
                let passing = commit(&spool, &body(number), &[("a@b.example", lane(number % 5))]);
                deliver(&spool, passing);
                spool.look_around().unwrap();
                if !run.load(Ordering::Relaxed) {
                    return;
                }
            }
        });
        for round in 0..20 {
            let (to, fresh) = (away.path().join(format!("copy{round}")), away.path().join("fresh"));
            let settled = commit(&spool, &body(round), &[("a@b.example", lane(2))]);
            deliver(&spool, settled);
            backup(&data, &to).unwrap();
            restore(&to, &fresh).unwrap();
            let copy = open(&fresh);
            let found = queued(&copy);
            assert!(found.is_superset(&kept) && !found.contains(&settled), "round {round}");
            assert!(found.len() <= kept.len() + 1, "what passes is one message at a time");
            found.iter().for_each(|id| drop(bytes(&copy, *id)));
            drop(copy);
            fs::remove_dir_all(&fresh).unwrap();
        }
        run.store(false, Ordering::Relaxed);
    });
}

#[test]
fn a_copy_is_for_its_owner_alone_follows_no_link_and_writes_over_nothing() {
    let [dir, away] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let data = dir.path().join("data");
    let spool = open(&data);
    let id = commit(&spool, &body(1), &[("a@b.example", lane(1))]);
    let kind = |to: &Path| backup(&data, to).unwrap_err();

    assert!(matches!(kind(&data.join("copy")), CopyError::Inside { .. }));
    assert!(matches!(kind(dir.path()), CopyError::Inside { .. }));
    let (full, link) = (away.path().join("full"), away.path().join("link"));
    fs::create_dir(&full).unwrap();
    fs::write(full.join("mine"), b"mine").unwrap();
    assert!(matches!(kind(&full), CopyError::NotEmpty { .. }));
    symlink(&full, &link).unwrap();
    assert!(matches!(kind(&link), CopyError::Kind { .. }));
    assert_eq!(fs::read_dir(&full).unwrap().count(), 1);

    let to = away.path().join("copy");
    backup(&data, &to).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&to), mode(&to.join("bodies"))), (0o700, 0o700));
    let body = body_file(&to, id);
    let found = [to.join("queue.db"), to.join("policies.db")];
    assert!(found.iter().all(|path| mode(path) == 0o600));
    assert!(matches!(kind(&to), CopyError::NotEmpty { .. }), "nor over a copy");
    // While the daemon has it, it is not replaced.
    let locked = restore(&to, &data).unwrap_err();
    assert!(matches!(locked, CopyError::Open(OpenError::Locked { .. })), "{locked}");
    drop(spool);

    fs::remove_file(&body).unwrap();
    symlink("/etc/passwd", &body).unwrap();
    assert!(matches!(restore(&to, &data), Err(CopyError::Kind { .. })));
    // A copy that was not finished is none.
    fs::rename(to.join("queue.db"), to.join("queue.db.unfinished")).unwrap();
    assert!(matches!(restore(&to, &data), Err(CopyError::NoQueue { .. })));
    fs::write(to.join("queue.db"), [b'x'; 200]).unwrap();
    let foreign = restore(&to, &data).unwrap_err();
    assert!(matches!(foreign, CopyError::Open(OpenError::Foreign { .. })), "{foreign}");
}

#[test]
fn a_body_that_is_missing_from_a_queued_message_is_missing_from_the_copy_and_named_there() {
    let [dir, away] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let (data, to) = (dir.path().join("data"), away.path().join("copy"));
    let spool = open(&data);
    let ids = [1, 3].map(|number| commit(&spool, &body(number), &[("a@b.example", lane(1))]));
    fs::remove_file(body_file(&data, ids[0])).unwrap();
    let copied = backup(&data, &to).unwrap();
    assert_eq!((copied.messages, copied.files), (2, 1));
    drop(spool);
    restore(&to, &data).unwrap();
    let spool = open(&data);
    assert_eq!(queued(&spool).len(), 2);
    assert!(spool.body(ids[0]).unwrap_err().is_damage());
    assert_eq!(bytes(&spool, ids[1]), body(3));
}

/// What a crash at any step of a restore leaves is kept or done again, and no daemon starts on half
/// of it.
#[test]
fn a_restore_that_was_interrupted_is_done_again_and_loses_nothing_of_either_queue() {
    let [dir, away] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let (data, to) = (dir.path().join("data"), away.path().join("copy"));
    let spool = open(&data);
    let old = commit(&spool, &body(1), &[("a@b.example", lane(1))]);
    backup(&data, &to).unwrap();
    let late = commit(&spool, &body(3), &[("a@b.example", lane(1))]);
    drop(spool);

    // As after a crash when the old queue is aside, and a part of the copy is there.
    let aside = data.join("before-restore-1");
    fs::create_dir(&aside).unwrap();
    fs::write(data.join("restore.unfinished"), "before-restore-1").unwrap();
    for name in ["policies.db", "queue.db"] {
        fs::rename(data.join(name), aside.join(name)).unwrap();
    }
    fs::rename(data.join("bodies"), aside.join("bodies")).unwrap();
    fs::create_dir_all(data.join("bodies/00")).unwrap();
    fs::write(data.join("bodies/00/part"), b"of a copy").unwrap();
    let refused = Spool::open(&data, common::options()).unwrap_err();
    assert!(matches!(refused, OpenError::Unfinished { .. }), "{refused}");

    let again = restore(&to, &data).unwrap();
    assert_eq!(again.kept, Some(aside.clone()), "and not what was half done");
    assert_eq!(queued(&open(&data)), BTreeSet::from([old]));
    let before = open(&aside);
    assert_eq!(queued(&before), BTreeSet::from([old, late]));
    assert_eq!(bytes(&before, late), body(3));
}

/// Mail is worth more than policies.
#[test]
fn damaged_policies_do_not_keep_the_queue_from_being_copied() {
    let [dir, away] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let (data, to) = (dir.path().join("data"), away.path().join("copy"));
    drop(open(&data));
    fs::write(data.join("policies.db"), [7; 8192]).unwrap();
    let copied = backup(&data, &to).unwrap();
    assert_eq!(copied.policies, spool::CopiedPolicies::LeftOut);
    assert!(!to.join("policies.db").exists());
    restore(&to, &data).unwrap();
    drop(open(&data));
}
