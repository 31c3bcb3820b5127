//! The queue, message by message, as it stood at one moment: for who moves it to another machine.

use std::collections::HashSet;
use std::path::Path;

use rusqlite::{Connection, OptionalExtension as _};

use crate::backup::CopyError;
use crate::body::{self, StoredBody};
use crate::damage::INDEX;
use crate::journal::outside::wait_for_all_rows;
use crate::layout::Layout;
use crate::listing::{self, MessageDetail};
use crate::message::RecipientNo;
use crate::rows::recipient_key;
use crate::schema::QUEUE;
use crate::{MessageId, OpenError, StoreError, checksum, damage, mend};

/// One message of an [`Export`].
#[derive(Debug)]
pub enum Exported {
    /// What is known of it, and its body.
    Message(Box<MessageDetail>, StoredBody),
    /// Something of it is damaged: it stays where it is.
    Damaged(MessageId, StoreError),
}

/// All messages of a data directory; a daemon may work in it meanwhile, and is not made to wait.
#[derive(Debug)]
pub struct Export {
    db: Connection,
    layout: Layout,
    /// In the order in which they came.
    left: std::vec::IntoIter<(i64, MessageId)>,
    /// Recipients that were delivered and could not be removed.
    done: HashSet<(MessageId, RecipientNo)>,
}

impl Export {
    /// Begins.
    ///
    /// # Errors
    ///
    /// [`CopyError`] when there is no queue, or it cannot be read.
    pub fn open(data_dir: &Path) -> Result<Self, CopyError> {
        let path = data_dir.join(QUEUE.file);
        let Some(db) = QUEUE.peek(data_dir)? else { return Err(CopyError::NoQueue { path }) };
        QUEUE.check_shape(&db, &path)?;
        wait_for_all_rows(&Layout::at(data_dir), &db)?;
        let database = |source| OpenError::Database { path: path.clone(), source };
        let ids = ids(&db).map_err(database)?;
        let done = mend::done(&db).map_err(database)?;
        Ok(Self { db, layout: Layout::at(data_dir), left: ids.into_iter(), done })
    }

    fn read(&self, seq: i64, id: MessageId) -> Result<(MessageDetail, StoredBody), StoreError> {
        let detail = listing::show(&self.db, id)?;
        // All of it is one transaction: who is not found is hidden by a damaged index.
        let mut detail = detail.ok_or(StoreError::Corrupt { what: INDEX })?;
        let [first, last] =
            [RecipientNo(0), RecipientNo(u16::MAX)].map(|no| recipient_key(seq, no));
        let mut keys =
            self.db.prepare_cached("SELECT id FROM recipients WHERE id BETWEEN ?1 AND ?2")?;
        let keys: Vec<i64> =
            keys.query_map([first, last], |row| row.get(0))?.collect::<Result<_, _>>()?;
        for key in &keys {
            if let Some(damaged) = damage::find(&self.db, *key)? {
                return Err(StoreError::Corrupt { what: damaged.damage.what });
            }
        }
        if keys.len() != detail.recipients.len() || keys.is_empty() {
            return Err(StoreError::Corrupt { what: "list of recipients" });
        }
        // Who is done although their row could not be removed.
        detail.recipients.retain(|row| !self.done.contains(&(id, row.no)));
        let body = body::open(&self.db, &self.layout, id)?.check()?;
        Ok((detail, body))
    }

    /// Did it leave the queue since the export began? Then its file has gone, and nothing is
    /// damaged.
    fn has_left(&self, id: MessageId) -> bool {
        let live = QUEUE.peek(self.layout.root()).ok().flatten();
        let select = "SELECT 1 FROM messages WHERE id = ?1";
        let is_there = live.map(|db| db.query_row(select, [id.to_bytes()], |_| Ok(())).optional());
        matches!(is_there, Some(Ok(None)))
    }
}

/// What the look at them begins is one transaction, to the end of the export.
fn ids(db: &Connection) -> rusqlite::Result<Vec<(i64, MessageId)>> {
    checksum::add_to(db)?;
    db.execute_batch("BEGIN")?;
    let mut select = db.prepare("SELECT seq, id FROM messages NOT INDEXED ORDER BY seq")?;
    // A page, or an id, that cannot be read is for the doctor: an export that lacks some says so by
    // not being made.
    let ids = select.query_map([], |row| Ok((row.get(0)?, MessageId::from_bytes(row.get(1)?))))?;
    ids.collect()
}

impl Iterator for Export {
    type Item = Exported;

    fn next(&mut self) -> Option<Exported> {
        loop {
            let (seq, id) = self.left.next()?;
            match self.read(seq, id) {
                Ok((detail, _)) if detail.recipients.is_empty() => {}
                Ok((detail, body)) => return Some(Exported::Message(Box::new(detail), body)),
                Err(_) if self.has_left(id) => {}
                Err(error) => return Some(Exported::Damaged(id, error)),
            }
        }
    }
}
