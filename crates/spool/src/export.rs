//! The queue, message by message, as it stood at one moment: for who moves it to another machine.

use std::path::Path;

use rusqlite::Connection;

use crate::backup::CopyError;
use crate::body::{self, Body};
use crate::layout::Layout;
use crate::listing::{self, MessageDetail};
use crate::rows::recipient_key;
use crate::schema::QUEUE;
use crate::{MessageId, OpenError, StoreError, checksum, damage};

/// One message of an [`Export`].
#[derive(Debug)]
pub enum Exported {
    /// What is known of it, and its body.
    Message(Box<MessageDetail>, Body),
    /// Something of it is damaged: it stays where it is.
    Damaged(MessageId, StoreError),
}

/// All messages of a data directory; a daemon may work in it meanwhile, and is not made to wait.
#[derive(Debug)]
pub struct Export {
    db: Connection,
    layout: Layout,
    /// In the order in which they came.
    left: std::vec::IntoIter<MessageId>,
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
        let ids = ids(&db).map_err(|source| OpenError::Database { path, source })?;
        Ok(Self { db, layout: Layout::at(data_dir), left: ids.into_iter() })
    }

    fn read(&self, id: MessageId) -> Result<Option<(MessageDetail, Body)>, StoreError> {
        let Some(detail) = listing::show(&self.db, id)? else { return Ok(None) };
        let seq: i64 = self
            .db
            .prepare_cached("SELECT seq FROM messages WHERE id = ?1")?
            .query_row([id.to_bytes()], |row| row.get(0))?;
        for recipient in &detail.recipients {
            if let Some(damaged) = damage::find(&self.db, recipient_key(seq, recipient.no))? {
                return Err(StoreError::Corrupt { what: damaged.damage.what });
            }
        }
        let body = body::open(&self.db, &self.layout, id)?.check()?;
        Ok(Some((detail, body)))
    }
}

/// What the look at them begins is one transaction, to the end of the export.
fn ids(db: &Connection) -> rusqlite::Result<Vec<MessageId>> {
    checksum::add_to(db)?;
    db.execute_batch("BEGIN")?;
    let mut select = db.prepare("SELECT id FROM messages NOT INDEXED ORDER BY seq")?;
    let ids = select.query_map([], |row| row.get(0).map(MessageId::from_bytes))?;
    // A row without an id that can be read is named by who examines.
    Ok(ids.filter_map(Result::ok).collect())
}

impl Iterator for Export {
    type Item = Exported;

    fn next(&mut self) -> Option<Exported> {
        loop {
            let id = self.left.next()?;
            match self.read(id) {
                Ok(Some((detail, body))) => return Some(Exported::Message(Box::new(detail), body)),
                Ok(None) => {}
                Err(error) => return Some(Exported::Damaged(id, error)),
            }
        }
    }
}
