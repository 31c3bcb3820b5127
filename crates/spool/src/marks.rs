//! Single values in queue.db that mail hangs on: what the operator stopped, and the clock's mark.
//! What they mean is for their writers to say. Not in policies.db: whoever restores or loses that
//! file must not start sending that was stopped, nor make a wrong clock right.

use std::sync::mpsc;

use rusqlite::{Connection, params};

use crate::mend;
use crate::rows::Columns;
use crate::spool::Spool;
use crate::writer::{Needs, Order, Urgency};
use crate::{StoreError, error};

/// The marks whose names begin alike.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Marks {
    /// Names and values, by name. That a mark is there matters also where its value is damaged:
    /// that is empty then.
    pub values: Vec<(String, String)>,
    /// There may be more: names that cannot be read, or pages that were lost.
    pub may_lack_some: bool,
}

/// The mark that says that others were lost.
const LOST: &str = "marks_lost";

impl Spool {
    /// The value of a mark. Blocks for a read.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the queue cannot be read, or the value is damaged.
    pub fn mark(&self, name: &str) -> Result<Option<String>, StoreError> {
        self.read_queue(|db| {
            let mut select = db.prepare_cached(
                "SELECT crc IS NULL OR crc = row_crc(name, value), value FROM marks WHERE name = ?1",
            )?;
            let mut rows = select.query([name])?;
            let Some(row) = rows.next()? else { return Ok(None) };
            let mut columns = Columns::new(row);
            let is_whole: bool = columns.next()?;
            if is_whole { columns.next().map(Some) } else { Err(StoreError::Corrupt { what: "mark" }) }
        })
    }

    /// The marks whose names begin so. Blocks for a read of all.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the queue cannot be read.
    pub fn marks(&self, prefix: &str) -> Result<Marks, StoreError> {
        self.read_queue(|db| {
            let mut select = db.prepare_cached(
                "SELECT name, crc IS NULL OR crc = row_crc(name, value), value FROM marks ORDER BY name",
            )?;
            let mut rows = select.query([])?;
            let mut marks = Marks::default();
            while let Some(row) = rows.next()? {
                let mut columns = Columns::new(row);
                let name = columns.next::<String>();
                // Null where the name is no text.
                let is_whole: bool = columns.next()?;
                marks.may_lack_some |= match &name {
                    Ok(name) => name == LOST || (!is_whole && resembles(name, prefix)),
                    Err(_) => true,
                };
                if let Ok(name) = name
                    && name.starts_with(prefix)
                {
                    marks.values.push((name, columns.next().unwrap_or_default()));
                }
            }
            Ok(marks)
        })
    }

    /// Removes the marks that cannot be read, and the one that says that others were lost: what
    /// they may have said is known now. Blocks for a commit.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; then it is as before.
    pub fn forget_damaged_marks(&self, prefix: &str) -> Result<(), StoreError> {
        let prefix = prefix.to_owned();
        self.write(move |db| {
            let mut select = db.prepare_cached(
                "SELECT name FROM marks WHERE crc IS NOT NULL AND crc <> row_crc(name, value)",
            )?;
            let names = select.query_map([], |row| row.get::<_, String>(0))?;
            let names: Vec<String> = names.filter_map(Result::ok).collect();
            for name in names.iter().filter(|name| resembles(name, &prefix)) {
                set(db, name, None)?;
            }
            set(db, LOST, None)
        })
    }

    /// Sets a mark, or removes it. Blocks for a commit.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; then it is as before.
    pub fn set_mark(&self, name: &str, value: Option<&str>) -> Result<(), StoreError> {
        let (answer, result) = mpsc::sync_channel(1);
        self.set_mark_later(name, value, move |result| {
            // The asker waits below.
            let _ = answer.send(result);
        });
        result.recv().map_err(|_| StoreError::Closed)?
    }

    /// The same without waiting; `done` must not block.
    pub fn set_mark_later<D>(&self, name: &str, value: Option<&str>, done: D)
    where
        D: FnOnce(Result<(), StoreError>) + Send + 'static,
    {
        let (name, value) = (name.to_owned(), value.map(str::to_owned));
        let set = move |db: &Connection| set(db, &name, value.as_deref());
        let order = Order::needing(Urgency::Reserved, Needs::Nothing);
        self.write_ordered(order, set, done);
    }
}

pub(crate) fn set(db: &Connection, name: &str, value: Option<&str>) -> Result<(), StoreError> {
    match value {
        Some(value) => db
            .prepare_cached(
                "INSERT OR REPLACE INTO marks (name, value, crc) VALUES (?1, ?2, row_crc(?1, ?2))",
            )?
            .execute(params![name, value])?,
        None => db.prepare_cached("DELETE FROM marks WHERE name = ?1")?.execute([name])?,
    };
    Ok(())
}

/// May this name have begun so before something in it changed?
fn resembles(name: &str, prefix: &str) -> bool {
    let front = name.bytes().zip(prefix.bytes());
    name.len() >= prefix.len() && front.filter(|(one, other)| one != other).count() <= 1
}

const TABLE: &str = "CREATE TABLE made_anew (name TEXT PRIMARY KEY, value TEXT NOT NULL, crc INTEGER) STRICT, WITHOUT ROWID";

/// Makes the table anew if a page of it is damaged, with what can be read of it, and a mark that
/// says that others were lost.
pub(crate) fn mend_pages(db: &Connection) -> rusqlite::Result<()> {
    let all = "SELECT count(*) FROM marks WHERE name >= '' AND length(value) >= 0";
    match db.query_row(all, [], |_| Ok(())) {
        Err(error) if error::is_damage(&error) => {}
        read => return read,
    }
    let rows = ["ASC", "DESC"].map(|order| -> Vec<(String, String, Option<i64>)> {
        let select = format!("SELECT name, value, crc FROM marks ORDER BY name {order}");
        let Ok(mut select) = db.prepare(&select) else { return Vec::new() };
        let rows = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)));
        // It ends at the first damaged page.
        rows.map(|rows| rows.map_while(Result::ok).collect()).unwrap_or_default()
    });
    mend::in_its_place(db, "marks", TABLE, |db| {
        let mut add = db.prepare("INSERT OR IGNORE INTO made_anew VALUES (?1, ?2, ?3)")?;
        for (name, value, crc) in rows.iter().flatten() {
            add.execute(params![name, value, crc])?;
        }
        add.execute(params![LOST, "1", None::<i64>]).map(drop)
    })
}

/// Marks that were in the file may be missing.
pub(crate) fn note_loss(db: &Connection) -> rusqlite::Result<()> {
    db.execute("INSERT OR REPLACE INTO marks (name, value) VALUES (?1, '1')", [LOST]).map(drop)
}
