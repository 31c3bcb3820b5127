//! That policies.db was made anew is told once, by the daemon: also when somebody else opened the
//! data directory first, whom nobody may have watched.

use spool::{PoliciesFile, Spool, StoreError};

use crate::daemon::facts::DaemonFact;

/// The mark of what is still to be told: where the file was moved, or nothing.
const MARK: &str = "policies_replaced";

/// Tells the operator that queue.db was made anew beside bodies.
pub(crate) fn tell_of_queue(spool: &Spool) {
    let bodies = spool.report().bodies_without_queue;
    if bodies > 0 {
        DaemonFact::QueueReplaced { bodies }.tell();
    }
}

/// Tells the operator that a write-ahead log was damaged. Messages that are damaged by that are
/// named one by one.
pub(crate) fn tell_of_logs(spool: &Spool) {
    for kept in &spool.report().mended_logs {
        DaemonFact::LogDamaged { kept }.tell();
    }
}

/// Tells the operator. Whose policies are missing is said by who misses them; this is about the
/// file.
pub(crate) fn tell(spool: &Spool) {
    let Some(aside) = news(spool) else { return };
    let how = match aside {
        Some(_) => "no database, or damaged",
        None => "missing or empty",
    };
    DaemonFact::PoliciesReplaced { how, moved_to: aside }.tell();
}

/// For who opens the data directory in the place of the daemon: it tells at its next start.
///
/// # Errors
///
/// [`StoreError`] when that could not be written down.
pub(crate) fn leave_for_the_daemon(spool: &Spool) -> Result<(), StoreError> {
    match found(spool) {
        Some(aside) => spool.set_mark(MARK, Some(&aside.unwrap_or_default())),
        None => Ok(()),
    }
}

/// What is to be told, once: where the file was moved that stood there, if one did.
fn news(spool: &Spool) -> Option<Option<String>> {
    let left = spool.mark(MARK).unwrap_or_else(|error| {
        DaemonFact::StoreFailed {
            error: &error,
            what: "what became of policies.db cannot be read",
        }
        .tell();
        None
    });
    if left.is_some()
        && let Err(error) = spool.set_mark(MARK, None)
    {
        DaemonFact::StoreFailed { error: &error, what: "this will be told again" }.tell();
    }
    let left = left.map(|aside| Some(aside).filter(|aside| !aside.is_empty()));
    found(spool).or(left)
}

/// What was found when `spool` was opened.
fn found(spool: &Spool) -> Option<Option<String>> {
    let aside = match &spool.report().policies {
        PoliciesFile::Kept => return None,
        PoliciesFile::Made => None,
        PoliciesFile::SetAside(path) => Some(path.display().to_string()),
    };
    let is_first_start = match spool.policies().list_enforced() {
        Ok(list) => list.rows.is_empty() && !list.is_damaged,
        // No reason to stop everybody's mail: each look-up meets it again.
        Err(error) => {
            DaemonFact::StoreFailed {
                error: &error,
                what: "which domains have an enforce policy cannot be read",
            }
            .tell();
            false
        }
    };
    (aside.is_some() || !is_first_start).then_some(aside)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use smtp::HostName;
    use spool::{Enforced, Options};

    use super::*;
    use crate::clock;

    fn open(dir: &Path) -> Spool {
        Spool::open(dir, Options::default()).unwrap()
    }

    fn list(spool: &Spool) {
        let (done, stored) = std::sync::mpsc::channel();
        let entry = Enforced { fetched_at: clock::now(), expires_at: clock::now() };
        let domain = HostName::parse("a.test").unwrap();
        spool.policies().put_enforced(domain, entry, move |result| done.send(result).unwrap());
        stored.recv().unwrap().unwrap();
    }

    #[test]
    fn a_file_that_was_replaced_is_told_of_once_whoever_opened_it_first() {
        let dir = tempfile::tempdir().unwrap();
        let spool = open(dir.path());
        assert_eq!(news(&spool), None, "a first start is no news");
        list(&spool);
        drop(spool);
        let file = dir.path().join("policies.db");
        type Damage = fn(&Path);
        let cases: [(Damage, bool); 2] = [
            (|file| std::fs::remove_file(file).unwrap(), false),
            (|file| std::fs::write(file, [0; 8192]).unwrap(), true),
        ];
        for (damage, is_moved) in cases {
            for is_alone in [false, true] {
                for suffix in ["-wal", "-shm"] {
                    let _ = std::fs::remove_file(dir.path().join(format!("policies.db{suffix}")));
                }
                damage(&file);
                let mut spool = open(dir.path());
                if is_alone {
                    leave_for_the_daemon(&spool).unwrap();
                    drop(spool);
                    spool = open(dir.path());
                    assert_eq!(spool.report().policies, PoliciesFile::Kept);
                }
                assert_eq!(news(&spool).map(|aside| aside.is_some()), Some(is_moved), "{is_alone}");
                drop(spool);
                assert_eq!(news(&open(dir.path())), None, "told already");
            }
        }
    }
}
