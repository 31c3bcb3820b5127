//! A walk through a table by its key, slice by slice, where keys may be damaged: it goes forward,
//! and leaves no row out.
//!
//! A row whose key changed stands where its old key belongs. A walk that went on behind the new key
//! would read the same rows for ever, or leave out all rows between.

use rusqlite::Connection;

use crate::StoreError;

/// What is damaged where a slice does not come forward.
pub(crate) const ORDER: &str = "order of rows";

/// A table with numbers as keys.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Table {
    Recipients,
    Messages,
}

/// Which of two rows that follow each other is not where its key belongs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Misplaced {
    Neither,
    /// The first: the second belongs in front of it.
    First,
    Second,
}

/// Where a slice is.
#[derive(Debug)]
pub(crate) struct TableWalk<'a> {
    db: &'a Connection,
    table: Table,
    start: i64,
    /// All rows up to this key were read.
    passed: i64,
    /// The last one that was read, if it was behind that.
    read: Option<i64>,
}

impl<'a> TableWalk<'a> {
    /// A slice of the rows behind this key.
    pub(crate) fn behind(db: &'a Connection, table: Table, start: i64) -> Self {
        Self { db, table, start, passed: start, read: None }
    }

    pub(crate) fn db(&self) -> &'a Connection {
        self.db
    }

    /// The row that is read next has this key.
    pub(crate) fn step(&mut self, key: i64) -> Misplaced {
        match self.read {
            None if key <= self.passed => Misplaced::Second,
            None => {
                self.read = Some(key);
                Misplaced::Neither
            }
            Some(read) if read < key => {
                (self.passed, self.read) = (read, Some(key));
                Misplaced::Neither
            }
            Some(_) if key <= self.passed => Misplaced::Second,
            Some(_) => {
                self.read = Some(key);
                Misplaced::First
            }
        }
    }

    /// Does the table lead to a row with this key?
    pub(crate) fn is_found(&self, key: i64) -> Result<bool, StoreError> {
        let find = match self.table {
            Table::Recipients => "SELECT 1 FROM recipients WHERE id = ?1",
            Table::Messages => "SELECT 1 FROM messages WHERE seq = ?1",
        };
        Ok(self.db.prepare_cached(find)?.exists([key])?)
    }

    /// The last row that was read, whether a look-up finds it or not.
    pub(crate) fn last(&self) -> i64 {
        self.read.unwrap_or(self.passed)
    }

    /// Where the next slice begins, as far as this one could be read.
    pub(crate) fn reached(&self) -> Result<i64, StoreError> {
        Ok(match self.read {
            Some(read) if self.is_found(read)? => read,
            Some(_) | None => self.passed,
        })
    }

    /// The same behind a full slice.
    ///
    /// # Errors
    ///
    /// [`StoreError::Corrupt`] when that would be the same slice.
    pub(crate) fn next(&self) -> Result<i64, StoreError> {
        match self.reached()? {
            reached if reached > self.start => Ok(reached),
            _ => Err(StoreError::Corrupt { what: ORDER }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where a walk goes on that reads these keys behind 10, of which the table leads to the ones
    /// of `found`.
    fn reached(found: &[i64], keys: &[i64]) -> i64 {
        let db = Connection::open_in_memory().unwrap();
        db.execute_batch("CREATE TABLE recipients (id INTEGER PRIMARY KEY)").unwrap();
        for key in found {
            db.execute("INSERT INTO recipients VALUES (?1)", [key]).unwrap();
        }
        let mut walk = TableWalk::behind(&db, Table::Recipients, 10);
        for key in keys {
            walk.step(*key);
        }
        walk.reached().unwrap()
    }

    #[test]
    fn a_walk_goes_on_behind_the_last_row_that_is_where_it_belongs() {
        assert_eq!(reached(&[11, 12, 13], &[11, 12, 13]), 13);
        assert_eq!(reached(&[11, 13, 14], &[11, 999, 13, 14]), 14, "a key that became larger");
        assert_eq!(reached(&[11, 12], &[11, 12, 999]), 12, "the last one did");
        assert_eq!(reached(&[11, 12, 14], &[11, 12, 2, 14]), 14, "one that became smaller");
        assert_eq!(reached(&[11, 12], &[11, 12, 2]), 12);
        assert_eq!(reached(&[11, 13, 14, 999], &[11, 999, 13, 14]), 14, "one that another has");
        assert_eq!(reached(&[12, 13], &[2, 12, 13]), 13, "the first one did");
        assert_eq!(reached(&[], &[999, 2]), 10, "and never behind nothing");
    }

    #[test]
    fn a_full_slice_that_leads_nowhere_is_damage() {
        let db = Connection::open_in_memory().unwrap();
        db.execute_batch("CREATE TABLE messages (seq INTEGER PRIMARY KEY)").unwrap();
        let mut walk = TableWalk::behind(&db, Table::Messages, 10);
        assert_eq!(walk.step(3), Misplaced::Second);
        assert!(matches!(walk.next(), Err(StoreError::Corrupt { what: ORDER })));
    }
}
