//! Single values in queue.db that mail hangs on: what the operator stopped, and the clock's mark. What
//! they mean is for their writers to say. Not in policies.db: whoever restores or loses that file must not start
//! sending that was stopped, nor make a wrong clock right.

use std::sync::mpsc;

use rusqlite::{Connection, OptionalExtension as _, params};

use crate::StoreError;
use crate::rows::Columns;
use crate::spool::Spool;
use crate::writer::Urgency;

impl Spool {
    /// The value of a mark. Blocks for a read.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the queue cannot be read, or the value is damaged.
    pub fn mark(&self, name: &str) -> Result<Option<String>, StoreError> {
        self.read_queue(|db| {
            let mut select = db.prepare_cached("SELECT value FROM marks WHERE name = ?1")?;
            select.query_row([name], |row| Ok(Columns::new(row).next())).optional()?.transpose()
        })
    }

    /// The marks whose names begin so, with their values, by name. That a mark is there
    /// matters also where its value is damaged: that is empty then. Names that are damaged are left out.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the queue cannot be read.
    pub fn marks(&self, prefix: &str) -> Result<Vec<(String, String)>, StoreError> {
        self.read_queue(|db| {
            let mut select = db.prepare_cached(
                "SELECT name, value FROM marks WHERE substr(name, 1, length(?1)) = ?1 ORDER BY name",
            )?;
            let mut rows = select.query([prefix])?;
            let mut marks = Vec::new();
            while let Some(row) = rows.next()? {
                let mut columns = Columns::new(row);
                if let (Ok(name), value) = (columns.next(), columns.next()) {
                    marks.push((name, value.unwrap_or_default()));
                }
            }
            Ok(marks)
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
        self.write_queue(Urgency::Reserved, set, done);
    }
}

pub(crate) fn set(db: &Connection, name: &str, value: Option<&str>) -> Result<(), StoreError> {
    match value {
        Some(value) => db
            .prepare_cached("INSERT OR REPLACE INTO marks (name, value) VALUES (?1, ?2)")?
            .execute(params![name, value])?,
        None => db.prepare_cached("DELETE FROM marks WHERE name = ?1")?.execute([name])?,
    };
    Ok(())
}
