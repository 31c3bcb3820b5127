//! What earlier releases kept in policies.db and mail hangs on is copied into queue.db, once.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension as _, params};

use crate::OpenError;
use crate::schema::QUEUE;

/// The mark that it was done.
const DONE: &str = "policies_copied";

/// Copies the operator's switches, the clock's mark, and which domains have an `enforce` policy. What cannot be
/// read is left out: no mail stops for it.
pub(crate) fn copy_from_policies(
    queue: &Connection,
    policies: &Connection,
    root: &Path,
) -> Result<(), OpenError> {
    copy(queue, policies)
        .map_err(|source| OpenError::Database { path: root.join(QUEUE.file), source })
}

fn copy(queue: &Connection, policies: &Connection) -> rusqlite::Result<()> {
    let done = queue.query_row("SELECT 1 FROM marks WHERE name = ?1", [DONE], |_| Ok(()));
    if done.optional()?.is_some() {
        return Ok(());
    }
    let transaction = queue.unchecked_transaction()?;
    {
        let mut mark = transaction.prepare("INSERT OR IGNORE INTO marks VALUES (?1, ?2)")?;
        for (name, value) in readable(policies, "SELECT name, value FROM marks", |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?))
        }) {
            mark.execute(params![name, value.to_string()])?;
        }
        mark.execute(params![DONE, "1"])?;
        let mut enforced =
            transaction.prepare("INSERT OR IGNORE INTO enforced VALUES (?1, ?2, ?3)")?;
        let query = "SELECT domain, fetched_at, expires_at FROM policies WHERE mode = 'enforce'";
        for row in readable(policies, query, |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?))
        }) {
            enforced.execute(row)?;
        }
    }
    transaction.commit()
}

/// The rows up to the first damaged page, those with damaged values left out.
fn readable<T>(
    db: &Connection,
    query: &str,
    read: impl Fn(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
) -> Vec<T> {
    let mut found = Vec::new();
    let Ok(mut select) = db.prepare(query) else { return found };
    let Ok(mut rows) = select.query([]) else { return found };
    while let Ok(Some(row)) = rows.next() {
        found.extend(read(row));
    }
    found
}
