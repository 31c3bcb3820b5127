//! What earlier releases kept in policies.db and mail hangs on is copied into queue.db, once.
//!
//! Before that file is changed or moved aside, whatever its format: what is damaged in it must not
//! take the rest along.

use std::collections::BTreeMap;
use std::path::Path;

use rusqlite::{Connection, OptionalExtension as _, Row, params};

use crate::OpenError;
use crate::policies::host_name;
use crate::rows::time;
use crate::schema::{POLICIES, QUEUE};

/// The mark that it was done.
const DONE: &str = "policies_copied";
/// No time at all: the entry reads back as damaged, and its domain's mail waits for a new policy.
const UNREADABLE: (i64, i64) = (i64::MAX, i64::MAX);
/// In column `alarm` of format 1: a policy was there and could not be read.
const LOST: &str = "policy_lost";

/// Names in the order of their index, and of the rows. Each from both ends: a damaged page hides
/// what is behind it.
const POLICY_WALKS: [[&str; 2]; 2] = [
    [
        "SELECT domain, rowid FROM policies INDEXED BY sqlite_autoindex_policies_1
         WHERE domain > '' ORDER BY domain",
        "SELECT domain, rowid FROM policies INDEXED BY sqlite_autoindex_policies_1
         WHERE domain > '' ORDER BY domain DESC",
    ],
    [
        "SELECT domain, rowid FROM policies NOT INDEXED ORDER BY rowid",
        "SELECT domain, rowid FROM policies NOT INDEXED ORDER BY rowid DESC",
    ],
];
const MARK_WALKS: [[&str; 2]; 1] = [[
    "SELECT name, value FROM marks ORDER BY name",
    "SELECT name, value FROM marks ORDER BY name DESC",
]];

/// Copies the operator's switches, the clock's mark, and which domains have an `enforce` policy. A
/// domain whose row cannot be read may have one.
///
/// # Errors
///
/// [`OpenError`] when queue.db cannot be written, or policies.db is of a newer release or cannot be
/// opened for another reason than damage. Then it is done at the next start.
pub(crate) fn copy_from_policies(queue: &Connection, root: &Path) -> Result<(), OpenError> {
    let failed = |file: &str, source| OpenError::Database { path: root.join(file), source };
    let done = queue.query_row("SELECT 1 FROM marks WHERE name = ?1", [DONE], |_| Ok(()));
    if done.optional().map_err(|error| failed(QUEUE.file, error))?.is_some() {
        return Ok(());
    }
    let old = match POLICIES.peek(root) {
        Err(error) if error.is_damage() => None,
        old => old?,
    };
    // One look at the file for all that is read.
    let old = old.as_ref().map(Connection::unchecked_transaction).transpose();
    let old = old.map_err(|error| failed(POLICIES.file, error))?;
    copy(queue, old.as_deref()).map_err(|error| failed(QUEUE.file, error))
}

fn copy(queue: &Connection, old: Option<&Connection>) -> rusqlite::Result<()> {
    let transaction = queue.unchecked_transaction()?;
    {
        let mut mark =
            transaction.prepare("INSERT OR IGNORE INTO marks VALUES (?1, ?2, row_crc(?1, ?2))")?;
        let mut enforced = transaction
            .prepare("INSERT OR IGNORE INTO enforced VALUES (?1, ?2, ?3, row_crc(?1, ?2, ?3))")?;
        if let Some(old) = old {
            // That a mark is there matters even where its value cannot be read.
            let value = |row: &Row<'_>| Ok(row.get::<_, i64>(1).map(|value| value.to_string()));
            for (name, value) in named(old, &MARK_WALKS, value) {
                mark.execute(params![name, value.unwrap_or_default()])?;
            }
            for (name, row) in named(old, &POLICY_WALKS, |row| row.get(1)) {
                // No mail goes to a name that is none.
                let Ok(domain) = host_name(&name) else { continue };
                if let Some((fetched_at, expires_at)) = times(old, &name, row) {
                    enforced.execute(params![domain.as_str(), fetched_at, expires_at])?;
                }
            }
        }
        mark.execute(params![DONE, "1"])?;
    }
    transaction.commit()
}

/// What the walks find, by the name in the first column; a later walk's word counts. Names that are
/// no text are left out.
fn named<T>(
    db: &Connection,
    walks: &[[&str; 2]],
    read: impl Fn(&Row<'_>) -> rusqlite::Result<T>,
) -> BTreeMap<String, T> {
    let mut found = BTreeMap::new();
    for [forward, backward] in walks {
        if walk(db, forward, &read, &mut found).is_err() {
            // What lies between two damaged pages of one order is in the other order.
            let _ = walk(db, backward, &read, &mut found);
        }
    }
    found
}

fn walk<T>(
    db: &Connection,
    query: &str,
    read: impl Fn(&Row<'_>) -> rusqlite::Result<T>,
    found: &mut BTreeMap<String, T>,
) -> rusqlite::Result<()> {
    let mut select = db.prepare(query)?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        found.extend(row.get(0).and_then(|name| Ok((name, read(row)?))));
    }
    Ok(())
}

/// When the `enforce` policy of a domain was fetched and ends; `None`: it has none.
fn times(db: &Connection, domain: &str, row: i64) -> Option<(i64, i64)> {
    read_times(db, domain, row).unwrap_or(Some(UNREADABLE))
}

/// The row is sought by its number, so that a damaged page of the index does not matter.
fn read_times(db: &Connection, domain: &str, row: i64) -> rusqlite::Result<Option<(i64, i64)>> {
    // What follows the body is read only where there is none: the pages it goes on in may be
    // damaged.
    let mut select = db.prepare_cached(
        "SELECT mode, fetched_at, expires_at,
             CASE WHEN body IS NULL AND fetched_at IS NULL THEN coalesce(alarm, '') END
         FROM policies NOT INDEXED WHERE rowid = ?1 AND domain = ?2",
    )?;
    select.query_row(params![row, domain], |row| {
        let mode: Option<String> = row.get(0)?;
        let alarms_without_policy: Option<String> = row.get(3)?;
        Ok(match (mode.as_deref(), alarms_without_policy) {
            (Some("enforce"), _) => {
                let times = (row.get(1)?, row.get(2)?);
                let can_be = time(times.0).is_ok() && time(times.1).is_ok();
                Some(if can_be { times } else { UNREADABLE })
            }
            (Some("testing" | "none"), _) => None,
            (None, Some(alarms)) => {
                alarms.split(' ').any(|alarm| alarm == LOST).then_some(UNREADABLE)
            }
            // No release wrote that.
            (Some(_) | None, _) => Some(UNREADABLE),
        })
    })
}
