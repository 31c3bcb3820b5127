//! Why an operator holds a message: a mark for each, until nothing of it is held any more.

use std::collections::HashMap;

use rusqlite::{Connection, params};

use crate::acting::{Acted, BulkAction};
use crate::commit::find;
use crate::message::{RecipientNo, RecipientState};
use crate::rows::{recipient_key, state_code};
use crate::spool::Spool;
use crate::{MessageId, StoreError, marks};

fn mark(message: MessageId) -> String {
    format!("held.{message}")
}

impl Spool {
    /// As [`Spool::hold_these`], and notes why their messages are held, also of those that were
    /// held before. Blocks for a commit.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; then nothing has changed.
    pub fn hold_these_because(
        &self,
        who: Vec<(MessageId, RecipientNo)>,
        why: String,
    ) -> Result<Acted, StoreError> {
        let targets = who.into_iter().map(|(id, no)| (id, Some(no))).collect();
        self.act_on(BulkAction::Hold, targets, Some(why))
    }

    /// Why these messages are held, of those where somebody said why. Blocks for a read.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the queue cannot be read.
    pub fn hold_reasons(
        &self,
        messages: &[MessageId],
    ) -> Result<HashMap<MessageId, String>, StoreError> {
        self.read_queue(|db| {
            let mut select = db.prepare_cached(
                "SELECT value FROM marks WHERE name = ?1 AND (crc IS NULL OR crc = row_crc(name, value))",
            )?;
            let mut reasons = HashMap::new();
            for message in messages {
                let mut found = select.query([mark(*message)])?;
                if let Some(row) = found.next()? {
                    reasons.insert(*message, row.get(0)?);
                }
            }
            Ok(reasons)
        })
    }

    /// Forgets why these messages were held, of those that are not any more. Blocks for a commit.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; then nothing has changed.
    pub fn forget_hold_reasons(&self, messages: Vec<MessageId>) -> Result<(), StoreError> {
        self.write(move |db| {
            for message in &messages {
                match find(db, *message)? {
                    Some((seq, _)) => forget(db, *message, seq)?,
                    None => marks::set(db, &mark(*message), None)?,
                }
            }
            Ok(())
        })
    }
}

/// Notes why a message is held, if something of it is; in the writer's transaction.
pub(crate) fn note(db: &Connection, message: MessageId, why: &str) -> Result<(), StoreError> {
    let Some((seq, _)) = find(db, message)? else { return Ok(()) };
    let mut held = db.prepare_cached(
        "SELECT 1 FROM recipients WHERE id BETWEEN ?1 AND ?2 AND state = ?3 LIMIT 1",
    )?;
    let [first, last] = keys(seq);
    let is_held = held.exists([first, last, state_code(RecipientState::Held)])?;
    if is_held { marks::set(db, &mark(message), Some(why)) } else { Ok(()) }
}

/// Those of all recipients of the message in this row.
fn keys(seq: i64) -> [i64; 2] {
    [RecipientNo(0), RecipientNo(u16::MAX)].map(|no| recipient_key(seq, no))
}

/// Forgets it if nothing of the message in row `seq` is held any more. A damaged page of marks is
/// no reason to keep mail.
pub(crate) fn forget(db: &Connection, message: MessageId, seq: i64) -> Result<(), StoreError> {
    let delete = "DELETE FROM marks WHERE name = ?1 AND NOT EXISTS
             (SELECT 1 FROM recipients WHERE id BETWEEN ?2 AND ?3 AND state = ?4)";
    let [first, last] = keys(seq);
    let values = params![mark(message), first, last, state_code(RecipientState::Held)];
    let forgotten = db.prepare_cached(delete).and_then(|mut delete| delete.execute(values));
    match forgotten.map_err(StoreError::from) {
        // Some errors have ended the transaction, with all that was in it.
        Err(error) if error.is_damage() && !db.is_autocommit() => Ok(()),
        forgotten => forgotten.map(drop),
    }
}
