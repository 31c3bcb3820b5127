//! Messages that come from another queue under the id that they had there: each is taken once, also
//! after it has left this queue.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use rusqlite::Connection;

use crate::draft::{Draft, Sealed};
use crate::incoming::Incoming;
use crate::message::StoredEnvelope;
use crate::spool::Spool;
use crate::writer::Order;
use crate::{MessageId, StoreError, marks};

/// Before the id in the mark that says when it was imported, in milliseconds since 1970.
const IMPORTED: &str = "imported.";

/// Ids of messages that are arriving from another queue.
pub(crate) type Arriving = Arc<Mutex<HashSet<MessageId>>>;

/// One message that is being imported. Nobody else imports it meanwhile: files have the names of
/// ids.
#[derive(Debug)]
pub struct Import {
    id: MessageId,
    arriving: Arriving,
}

impl Drop for Import {
    fn drop(&mut self) {
        self.arriving.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

fn mark(id: MessageId) -> String {
    format!("{IMPORTED}{id}")
}

impl Spool {
    /// Begins to import a message; `None`: it is here, was here, or is just being imported. Blocks
    /// for a read.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the queue cannot be read.
    pub fn begin_import(&self, id: MessageId) -> Result<Option<(Import, Draft)>, StoreError> {
        let arriving = Arc::clone(self.arriving());
        let is_free = arriving.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
        if !is_free {
            return Ok(None);
        }
        let import = Import { id, arriving };
        // That the mark is there counts, whatever it says.
        let was_here = match self.mark(&mark(id)) {
            Ok(value) => value.is_some(),
            Err(StoreError::Corrupt { .. }) => true,
            Err(error) => return Err(error),
        };
        if was_here || !self.places(id, None)?.is_empty() {
            return Ok(None);
        }
        Ok(Some((import, self.draft(id))))
    }

    /// As [`Spool::commit`], and remembers that it was imported at `now`.
    pub fn commit_imported<D>(
        &self,
        import: Import,
        body: Sealed,
        (envelope, now): (StoredEnvelope, Timestamp),
        done: D,
    ) where
        D: FnOnce(Result<MessageId, StoreError>) + Send + 'static,
    {
        let name = mark(body.id());
        let value = now.as_millisecond().to_string();
        let done = move |result| {
            drop(import);
            done(result);
        };
        let new = match Incoming::check(body, envelope) {
            Ok(new) => new,
            Err(error) => return done(Err(error)),
        };
        let order = Order { record: None, ..new.order() };
        let insert = new.insert(Arc::clone(self.rows()));
        // In one transaction.
        let apply = move |db: &Connection| {
            insert(db)?;
            marks::set(db, &name, Some(&value))
        };
        self.write_ordered(order, apply, new.answer(done));
    }

    /// Forgets what was imported before this time. Blocks for a commit.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; then nothing is forgotten.
    pub fn forget_imported(&self, before: Timestamp) -> Result<(), StoreError> {
        self.write(move |db| {
            db.prepare_cached(
                "DELETE FROM marks WHERE name GLOB 'imported.*' AND CAST(value AS INTEGER) < ?1",
            )?
            .execute([before.as_millisecond()])?;
            Ok(())
        })
    }
}
