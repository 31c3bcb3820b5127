//! Connections that only read, so that no reader waits for the writer or makes it wait.

use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use rusqlite::Connection;

use crate::StoreError;
use crate::schema::Schema;
use crate::vitals::Vitals;

/// Our choice: more readers at once than that only wait for the same disk.
const READERS_MAX: usize = 8;

/// The readers of one database.
#[derive(Debug)]
pub(crate) struct Readers {
    schema: &'static Schema,
    root: PathBuf,
    vitals: Arc<Vitals>,
    pool: Mutex<ReaderPool>,
    returned: Condvar,
}

#[derive(Debug, Default)]
struct ReaderPool {
    idle: Vec<Connection>,
    lent: usize,
}

impl Readers {
    pub(crate) fn new(schema: &'static Schema, root: PathBuf, vitals: Arc<Vitals>) -> Self {
        Self { schema, root, vitals, pool: Mutex::default(), returned: Condvar::new() }
    }

    /// Runs `read` in one read transaction. It must be short (100 ms): while it lasts, the log
    /// cannot be written from its start again.
    pub(crate) fn read<T>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.vitals.alive()?;
        let loan = self.borrow()?;
        let Some(db) = &loan.db else { return Err(StoreError::Closed) };
        let transaction = db.unchecked_transaction()?;
        let result = read(&transaction);
        transaction.finish()?;
        if let Err(error) = &result {
            self.vitals.note(error);
        }
        result
    }

    fn borrow(&self) -> Result<ReaderLoan<'_>, StoreError> {
        let mut pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        while pool.lent >= READERS_MAX {
            pool = self.returned.wait(pool).unwrap_or_else(PoisonError::into_inner);
        }
        pool.lent += 1;
        let mut loan = ReaderLoan { readers: self, db: pool.idle.pop() };
        drop(pool);
        if loan.db.is_none() {
            let db = self.schema.reader(&self.root)?;
            db.pragma_update(None, "query_only", true)?;
            loan.db = Some(db);
        }
        Ok(loan)
    }
}

/// Comes back whatever happens to the reader.
struct ReaderLoan<'a> {
    readers: &'a Readers,
    db: Option<Connection>,
}

impl Drop for ReaderLoan<'_> {
    fn drop(&mut self) {
        let mut pool = self.readers.pool.lock().unwrap_or_else(PoisonError::into_inner);
        pool.lent = pool.lent.saturating_sub(1);
        pool.idle.extend(self.db.take().filter(Connection::is_autocommit));
        drop(pool);
        self.readers.returned.notify_one();
    }
}
