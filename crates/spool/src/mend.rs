//! Indexes that are damaged are made anew from their tables. What a table itself has lost stays
//! lost, and is named where it is missed.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use rusqlite::{Connection, params};

use crate::due::DuePage;
use crate::message::{Change, RecipientNo};
use crate::spool::Spool;
use crate::writer::Urgency;
use crate::{MessageId, StoreError, marks};

/// What was done about damage.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Mended {
    /// Indexes that were made anew.
    pub indexes: Vec<String>,
    /// Those that could not be, and why: their table is damaged, too.
    pub failed: Vec<(String, String)>,
}

/// The indexes of queue.sql by name, and what they are made of.
const INDEXES: [(&str, &str); 4] = [
    ("recipients_due", "recipients (lane, state, priority, due_at, expires_at, waits_since)"),
    ("recipients_deadline", "recipients (deadline) WHERE deadline IS NOT NULL"),
    ("sqlite_autoindex_messages_1", "messages (id)"),
    ("sqlite_autoindex_lanes_1", "lanes (key)"),
];

/// Rows whose times are looked after at once. Our choice: damage is a page, not a queue.
const EARLIER_MAX: i64 = 10_000;

/// Makes every index of the queue anew, each in a transaction of its own.
pub(crate) fn mend(db: &Connection) -> Mended {
    // Where that cannot be read, there is nothing to compare with.
    let earlier = earlier_times(db).unwrap_or_default();
    let mended = make_anew(db);
    for (recipient, due_at) in earlier {
        // Through an index that could not be mended: that is told already.
        let _ = db
            .execute("UPDATE recipients SET due_at = ?2 WHERE id = ?1", params![recipient, due_at]);
    }
    mended
}

/// Queued recipients that are due earlier by the index than by their rows. A time is in no
/// checksum, since it changes, so either may be the damaged one: trying too early costs an attempt,
/// trying in a hundred years costs the mail.
fn earlier_times(db: &Connection) -> rusqlite::Result<Vec<(i64, i64)>> {
    let mut select = db.prepare(
        "SELECT i.id, i.due_at
         FROM recipients AS i INDEXED BY recipients_due
         CROSS JOIN recipients AS r NOT INDEXED ON r.id = i.id
         WHERE i.state = 0 AND i.due_at < r.due_at LIMIT ?1",
    )?;
    select.query_map([EARLIER_MAX], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
}

fn make_anew(db: &Connection) -> Mended {
    let mut mended = Mended::default();
    for (name, of) in INDEXES {
        let create = format!("CREATE INDEX made_anew ON {of}");
        match in_its_place(db, name, &create, |_| Ok(())) {
            Ok(()) => mended.indexes.push(name.to_owned()),
            Err(error) => mended.failed.push((name.to_owned(), error.to_string())),
        }
    }
    mended
}

/// `REINDEX` would first empty the old index, and fail where that is no index any more. So a new
/// one, or a new table, is made beside it as `made_anew`, filled, and takes its place in the
/// schema; the old one's pages are in nobody's use until a VACUUM.
pub(crate) fn in_its_place(
    db: &Connection,
    name: &str,
    create: &str,
    fill: impl FnOnce(&Connection) -> rusqlite::Result<()>,
) -> rusqlite::Result<()> {
    // Taken back whatever happens: nobody else may write the schema.
    let result = swap(db, name, create, fill);
    if result.is_err() && !db.is_autocommit() {
        db.execute_batch("ROLLBACK")?;
    }
    db.execute_batch("PRAGMA writable_schema = RESET")?;
    result
}

fn swap(
    db: &Connection,
    name: &str,
    create: &str,
    fill: impl FnOnce(&Connection) -> rusqlite::Result<()>,
) -> rusqlite::Result<()> {
    db.execute_batch(&format!("BEGIN IMMEDIATE; {create}"))?;
    fill(db)?;
    let new = "SELECT rootpage FROM sqlite_schema WHERE name = 'made_anew'";
    let root: i64 = db.query_row(new, [], |row| row.get(0))?;
    db.execute_batch("PRAGMA writable_schema = ON")?;
    let changed =
        db.execute("UPDATE sqlite_schema SET rootpage = ?1 WHERE name = ?2", params![root, name])?;
    if changed != 1 {
        return Err(rusqlite::Error::StatementChangedRows(changed));
    }
    db.execute("DELETE FROM sqlite_schema WHERE name = 'made_anew'", [])?;
    // All connections read the schema anew.
    let version: i64 = db.query_row("PRAGMA schema_version", [], |row| row.get(0))?;
    db.execute_batch(&format!("PRAGMA schema_version = {}; COMMIT", version + 1))
}

/// Marks of recipients who are done although their rows could not be removed.
const DONE: &str = "done.";

/// Whom such a mark is about.
fn parse(name: &str) -> Option<(MessageId, RecipientNo)> {
    let (id, no) = name.strip_prefix(DONE)?.split_once('.')?;
    Some((id.parse().ok()?, RecipientNo(no.parse().ok()?)))
}

/// All whom such marks are about.
pub(crate) fn done(db: &Connection) -> rusqlite::Result<HashSet<(MessageId, RecipientNo)>> {
    let mut select = db.prepare("SELECT name FROM marks WHERE name GLOB 'done.*'")?;
    let names = select.query_map([], |row| row.get::<_, String>(0))?;
    Ok(names.collect::<Result<Vec<_>, _>>()?.iter().filter_map(|name| parse(name)).collect())
}

/// Recipients whose result could not be written down, because of damage: nothing of them is tried
/// again.
#[derive(Debug, Default)]
pub(crate) struct Unrecorded {
    who: Mutex<HashSet<(MessageId, RecipientNo)>>,
}

impl Unrecorded {
    fn with<T>(&self, then: impl FnOnce(&mut HashSet<(MessageId, RecipientNo)>) -> T) -> T {
        then(&mut self.who.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes up what was written down by former processes.
    pub(crate) fn restore(&self, marks: Vec<(String, String)>) {
        let who = marks.iter().filter_map(|(name, _)| parse(name));
        self.with(|all| all.extend(who));
    }

    /// None of these is tried again by this process.
    pub(crate) fn add(&self, message: MessageId, ends: &[(RecipientNo, Ends)]) {
        self.with(|all| all.extend(ends.iter().map(|(no, _)| (message, *no))));
    }

    /// The page without these recipients, and without messages that have no other.
    pub(crate) fn left_out(&self, mut page: DuePage) -> DuePage {
        self.with(|all| {
            if all.is_empty() {
                return;
            }
            for due in &mut page.due {
                due.recipients.retain(|one| !all.contains(&(due.message, one.no)));
            }
            page.due.retain(|due| !due.recipients.is_empty());
        });
        page
    }
}

/// Is a recipient done?
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Ends {
    Yes,
    No,
}

/// Whom a settlement is about.
pub(crate) fn ends(changes: &[(RecipientNo, Change)]) -> Vec<(RecipientNo, Ends)> {
    let end = |change: &Change| match change {
        Change::Delivered | Change::Failed => Ends::Yes,
        Change::Deferred(_) | Change::Told(_) => Ends::No,
    };
    changes.iter().map(|(no, change)| (*no, end(change))).collect()
}

/// Writes down who is done, where damage elsewhere does not matter.
pub(crate) fn note_done(
    db: &Connection,
    message: MessageId,
    ends: &[(RecipientNo, Ends)],
) -> Result<(), StoreError> {
    for (no, _) in ends.iter().filter(|(_, ends)| *ends == Ends::Yes) {
        marks::set(db, &format!("{DONE}{message}.{}", no.0), Some("1"))?;
    }
    Ok(())
}

impl Spool {
    /// Who was done when it could not be recorded.
    pub(crate) fn marks_of_done(&self) -> Vec<(String, String)> {
        // Damage there is met again by whoever reads more of it.
        self.marks(DONE).unwrap_or_default().values
    }

    /// If damage was met since the last time, makes the indexes anew, at most every few minutes.
    /// Does not wait for it; what was done, also by others who met damage, says
    /// [`Spool::take_mended`].
    pub fn mend_if_damaged(&self) {
        if self.has_met_damage() {
            // The writer looks after each batch.
            self.write_ordered(Urgency::Ordinary, |_| Ok(()), |_| {});
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Else one that is added to queue.sql would stay damaged.
    #[test]
    fn all_indexes_of_the_queue_can_be_made_anew() {
        let db = Connection::open_in_memory().unwrap();
        db.execute_batch(include_str!("queue.sql")).unwrap();
        let select = "SELECT name, tbl_name, coalesce(sql, '') FROM sqlite_schema
                      WHERE type = 'index' AND tbl_name IN ('messages', 'recipients', 'lanes')";
        let mut select = db.prepare(select).unwrap();
        let texts = |row: &rusqlite::Row<'_>| Ok([row.get(0)?, row.get(1)?, row.get(2)?]);
        let found = select.query_map([], texts).unwrap();
        let found: Vec<[String; 3]> = found.map(Result::unwrap).collect();
        assert_eq!(found.len(), INDEXES.len());
        for [name, table, sql] in found {
            let (_, of) = INDEXES.into_iter().find(|(index, _)| *index == name).unwrap();
            assert!(of.starts_with(&format!("{table} (")), "{name}");
            let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(sql.is_empty() || words(&sql).ends_with(of), "{name}: {sql}");
        }
        drop(select);
        assert_eq!(mend(&db).failed, []);
        let check: String = db.query_row("PRAGMA quick_check", [], |row| row.get(0)).unwrap();
        assert!(check == "ok" || check.contains("never used"), "{check}");
    }

    /// A row whose time was damaged would be tried when nobody waits for it any more.
    #[test]
    fn mail_is_due_at_the_earlier_time_of_row_and_index() {
        let db = Connection::open_in_memory().unwrap();
        db.execute_batch(include_str!("queue.sql")).unwrap();
        db.execute_batch(
            "INSERT INTO recipients (id, lane, state, due_at, expires_at, attempts, mailbox)
             VALUES (65536, 1, 0, 6198046811104, 100, 0, 'a@b.example'),
                    (131072, 1, 0, 7, 100, 0, 'c@d.example');
             -- What the index said before the first row changed.
             CREATE TABLE former (id INTEGER PRIMARY KEY, lane, state, priority, due_at,
                                  expires_at, waits_since);
             INSERT INTO former SELECT id, lane, state, priority, 5 + id / 65536 * 2, expires_at,
                                       waits_since FROM recipients;
             CREATE INDEX former_due
                 ON former (lane, state, priority, due_at, expires_at, waits_since);
             PRAGMA writable_schema = ON;
             UPDATE sqlite_schema SET rootpage =
                 (SELECT rootpage FROM sqlite_schema WHERE name = 'former_due')
                 WHERE name = 'recipients_due';
             DELETE FROM sqlite_schema WHERE name IN ('former', 'former_due');
             PRAGMA writable_schema = RESET;",
        )
        .unwrap();
        assert_eq!(mend(&db).failed, []);
        let mut select =
            db.prepare("SELECT due_at FROM recipients NOT INDEXED ORDER BY id").unwrap();
        let due: Vec<i64> =
            select.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
        assert_eq!(due, [7, 7]);
    }

    #[test]
    fn who_is_done_is_remembered_over_a_restart() {
        let unrecorded = Unrecorded::default();
        let id = MessageId::from_u128(7);
        let mark = |name: String| (name, "1".to_owned());
        let marks = [format!("{DONE}{id}.3"), format!("{DONE}x.3"), DONE.to_owned()];
        unrecorded.restore(marks.map(mark).to_vec());
        unrecorded.with(|all| assert_eq!(*all, HashSet::from([(id, RecipientNo(3))])));
    }
}
