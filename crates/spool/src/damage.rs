//! Rows that cannot be what was written: named, parked, and kept from stopping other mail.
//!
//! One damaged value makes one recipient's mail wait for the operator. Nothing of it is deleted, and nothing is sent that
//! would rest on a guess.

use std::fmt;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, params};

use crate::due;
use crate::message::{RecipientNo, RecipientState};
use crate::rows::{split_key, state_code};
use crate::spool::Spool;
use crate::writer::Urgency;
use crate::{MessageId, StoreError};

/// `recipients.last_reason` of who is parked.
pub const MESSAGE_DAMAGED: &str = "message_damaged";
/// `recipients.last_status` of them (RFC 3463: other mail system status).
const STATUS: &str = "4.3.0";
/// Recipients that one look reads: some 10 ms.
const SLICE: i64 = 1_000;
/// Lanes whose own name cannot be read are called so, with the number of their row behind it, which is no next hop, until their mail has
/// been moved to the lanes of its next hops.
/// What is damaged where SQLite itself cannot read on.
const PAGE: &str = "a page";
const NAMELESS: &str = "damaged row ";

/// Where the damage is, and what it is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Damage {
    /// The table in queue.db.
    pub table: &'static str,
    /// The row in it.
    pub row: i64,
    /// The value that is damaged.
    pub what: &'static str,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { table, row, what } = self;
        write!(f, "queue.db, table {table}, row {row}: {what} is damaged")
    }
}

/// A recipient whose mail cannot be tried, since something of it is damaged.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DamagedRecipient {
    /// Its key in `recipients`.
    pub key: i64,
    /// Its message, if that can be named.
    pub message: Option<MessageId>,
    /// Its address, as far as it can be read; U+FFFD stands for what is no text.
    pub address: String,
    /// What is wrong.
    pub damage: Damage,
}

impl DamagedRecipient {
    /// Its place in the envelope.
    pub fn no(&self) -> RecipientNo {
        split_key(self.key).1
    }
}

/// What a look at some recipients came to.
#[derive(Clone, Debug, Default)]
pub struct Checked {
    /// Those that are damaged.
    pub damaged: Vec<DamagedRecipient>,
    /// Where the next look begins; `None`: that was the last slice.
    pub next: Option<i64>,
}

impl Spool {
    /// Reads the next few recipients behind the key `after` and what belongs to them, and says which cannot be used. Blocks for a read
    /// of some 10 ms.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the queue cannot be read.
    pub fn check(&self, after: i64) -> Result<Checked, StoreError> {
        self.read_queue(|db| check(db, after))
    }

    /// Holds this recipient until the operator releases it, with what is wrong as its problem. `done` must not block.
    pub fn park<D>(&self, damaged: DamagedRecipient, now: Timestamp, done: D)
    where
        D: FnOnce(Result<usize, StoreError>) + Send + 'static,
    {
        let park = move |db: &Connection| park(db, &damaged, now);
        self.write_queue(Urgency::Ordinary, park, done);
    }
}

fn check(db: &Connection, after: i64) -> Result<Checked, StoreError> {
    let (mut checked, mut last) = (Checked::default(), after);
    let more = check_slice(db, &mut last, &mut checked.damaged);
    checked.next = match more {
        Ok(More::Yes) => Some(last),
        Ok(More::No) => None,
        // The row behind the last one that was read. Rows behind that one may be readable again.
        Err(error) if error.is_damage() => {
            let hidden = next_key(db, last)?;
            if let Some(key) = hidden {
                checked.damaged.extend(find(db, key)?);
            }
            hidden
        }
        Err(other) => return Err(other),
    };
    Ok(checked)
}

/// Are there more recipients behind a slice?
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum More {
    Yes,
    No,
}

/// Looks at the next recipients behind `last`, which becomes that of the last one looked at.
fn check_slice(
    db: &Connection,
    last: &mut i64,
    damaged: &mut Vec<DamagedRecipient>,
) -> Result<More, StoreError> {
    let mut select = db.prepare_cached(
        "SELECT id, state FROM recipients NOT INDEXED WHERE id > ?1 ORDER BY id LIMIT ?2",
    )?;
    let mut found = select.query([*last, SLICE])?;
    let mut seen = 0;
    while let Some(row) = found.next()? {
        seen += 1;
        *last = row.get(0)?;
        // Whoever is held was looked at by an operator, or is to be.
        if !row.get(1).is_ok_and(|state: i64| state == state_code(RecipientState::Held)) {
            damaged.extend(find(db, *last)?);
        }
    }
    Ok(if seen < SLICE { More::No } else { More::Yes })
}

/// What is wrong with the recipient of this key, if something is.
pub(crate) fn find(db: &Connection, key: i64) -> Result<Option<DamagedRecipient>, StoreError> {
    match due::row(db, key) {
        Ok(Some(_)) => check_state(db, key),
        Ok(None) => name(db, key, "the message's row"),
        Err(StoreError::Corrupt { what }) => name(db, key, what),
        Err(error) if error.is_damage() => Ok(Some(describe(db, key, PAGE))),
        Err(other) => Err(other),
    }
}

/// A recipient that reads well is still lost if its state or its lane is none.
fn check_state(db: &Connection, key: i64) -> Result<Option<DamagedRecipient>, StoreError> {
    let mut select = db.prepare_cached(
        "SELECT state IN (0, 1), EXISTS (SELECT 1 FROM lanes WHERE id = recipients.lane)
         FROM recipients WHERE id = ?1",
    )?;
    let found = select.query_row([key], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    match found {
        Some((false, _)) => name(db, key, "recipient state"),
        Some((true, false)) => name(db, key, "lane"),
        Some((true, true)) | None => Ok(None),
    }
}

/// The recipient of this key, if there is one.
pub(crate) fn name(
    db: &Connection,
    key: i64,
    what: &'static str,
) -> Result<Option<DamagedRecipient>, StoreError> {
    let mut exists = db.prepare_cached("SELECT 1 FROM recipients WHERE id = ?1")?;
    Ok(exists.exists([key])?.then(|| describe(db, key, what)))
}

/// Says where it is, and shows what can be read of it.
pub(crate) fn describe(db: &Connection, key: i64, what: &'static str) -> DamagedRecipient {
    let (seq, _) = split_key(key);
    let address = address(db, key);
    let is_own = match due::recipient(db, key) {
        Ok(_) => matches!(what, "recipient state" | "lane"),
        Err(_) => true,
    };
    let (table, row) = if is_own { ("recipients", key) } else { ("messages", seq) };
    let message = message_id(db, seq);
    DamagedRecipient { key, message, address, damage: Damage { table, row, what } }
}

fn address(db: &Connection, key: i64) -> String {
    let select = "SELECT CAST(mailbox AS BLOB) FROM recipients WHERE id = ?1";
    let octets: rusqlite::Result<Vec<u8>> =
        db.prepare_cached(select).and_then(|mut select| select.query_row([key], |row| row.get(0)));
    String::from_utf8_lossy(&octets.unwrap_or_default()).into_owned()
}

/// From the table, or else by a walk through the index.
fn message_id(db: &Connection, seq: i64) -> Option<MessageId> {
    let selects = [
        "SELECT id FROM messages WHERE seq = ?1",
        "SELECT id FROM messages INDEXED BY sqlite_autoindex_messages_1 WHERE +seq = ?1",
    ];
    let ids = selects.into_iter().filter_map(|sql| {
        db.prepare_cached(sql).and_then(|mut select| select.query_row([seq], |row| row.get(0))).ok()
    });
    ids.map(MessageId::from_bytes).next()
}

/// The first recipient behind the key `after`, by a walk through an index, where the table itself cannot be read.
pub(crate) fn next_key(db: &Connection, after: i64) -> Result<Option<i64>, StoreError> {
    let mut select = db.prepare_cached(
        "SELECT min(id) FROM recipients INDEXED BY recipients_due WHERE +id > ?1",
    )?;
    Ok(select.query_row([after], |row| row.get(0))?)
}

fn park(db: &Connection, damaged: &DamagedRecipient, now: Timestamp) -> Result<usize, StoreError> {
    let parked = db
        .prepare_cached(
            "UPDATE recipients SET state = ?2, last_at = ?3, last_status = ?4, last_reason = ?5,
                 last_mx = NULL, last_text = ?6
             WHERE id = ?1 AND state <> ?2",
        )?
        .execute(params![
            damaged.key,
            state_code(RecipientState::Held),
            now.as_millisecond(),
            STATUS,
            MESSAGE_DAMAGED,
            damaged.damage.to_string(),
        ])?;
    Ok(parked)
}

/// Gives a name to lanes whose own cannot be read, and a row to those that recipients wait in and that have none. Their mail is in no
/// lane of its next hop then, and is moved as after a change of routes.
pub(crate) fn name_lanes(db: &Connection, nameless: &[i64]) -> Result<(), StoreError> {
    let mut name = db.prepare_cached(
        "INSERT INTO lanes (id, key, failures) VALUES (?1, ?2, 0)
         ON CONFLICT (id) DO UPDATE SET key = ?2",
    )?;
    for lane in nameless {
        name.execute(params![lane, format!("{NAMELESS}{lane}")])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_is_named_by_file_table_and_row() {
        let damage = Damage { table: "messages", row: 7, what: "sender address" };
        let want = "queue.db, table messages, row 7: sender address is damaged";
        assert_eq!(damage.to_string(), want);
    }
}
