//! Rows that cannot be what was written: named, parked, and kept from stopping other mail.
//!
//! One damaged value makes one recipient's mail wait for the operator. Nothing of it is deleted,
//! and nothing is sent that would rest on a guess.

use std::fmt;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, params};

use crate::due;
use crate::message::{RecipientNo, RecipientState};
use crate::rows::{recipient_key, split_key, state_code};
use crate::spool::Spool;
use crate::walk::{Misplaced, Table, TableWalk};
use crate::writer::Urgency;
use crate::{MessageId, StoreError};

/// `recipients.last_reason` of who is parked.
pub const MESSAGE_DAMAGED: &str = "message_damaged";
/// `recipients.last_status` of them (RFC 3463: other mail system status).
const STATUS: &str = "4.3.0";
/// Recipients that one look reads: some 10 ms.
const SLICE: i64 = 1_000;
/// What is damaged where an index and its table do not say the same: it is made anew.
pub(crate) const INDEX: &str = "index";
/// What is done where an index and its table do not say the same.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Mismatch {
    /// It is an error: the indexes are made anew, and it is read again.
    Mend,
    /// That did not help: the table is damaged, and the recipient is named.
    Name,
}

/// No row has this key, so nobody is held for it.
const NOBODY: i64 = -1;
/// What is damaged where SQLite itself cannot read on.
const PAGE: &str = "a page";
/// Lanes whose own name cannot be read are called so, with the number of their row behind it, which
/// is no next hop, until their mail has been moved to the lanes of its next hops.
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
    /// Which value of which row is damaged.
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
    pub next: Option<CheckCursor>,
}

/// Where a look ended: first all recipients are looked at, then all messages.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CheckCursor {
    /// Behind the recipient of this key.
    Recipients(i64),
    /// Behind the message in this row.
    Messages(i64),
}

impl CheckCursor {
    /// Begins with the first recipient.
    pub const START: Self = Self::Recipients(i64::MIN);
}

impl Spool {
    /// Reads the next few recipients, or messages, and what belongs to them, and says which cannot
    /// be used. Blocks for a read of some 10 ms.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the queue cannot be read.
    pub fn check(&self, after: CheckCursor) -> Result<Checked, StoreError> {
        self.read_mended(|db, mismatch| check(db, after, (Look::Unknown, mismatch)))
    }

    /// Holds this recipient until the operator releases it, with what is wrong as its problem.
    /// `done` must not block.
    pub fn park<D>(&self, damaged: DamagedRecipient, now: Timestamp, done: D)
    where
        D: FnOnce(Result<usize, StoreError>) + Send + 'static,
    {
        let park = move |db: &Connection| park(db, &damaged, now);
        self.write_ordered(Urgency::Ordinary, park, done);
    }
}

/// Which damaged recipients a check names.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Look {
    All,
    /// Whoever is held because of damage is known.
    Unknown,
}

pub(crate) fn check(
    db: &Connection,
    after: CheckCursor,
    at: (Look, Mismatch),
) -> Result<Checked, StoreError> {
    match after {
        CheckCursor::Recipients(key) => check_recipients(db, key, at),
        CheckCursor::Messages(seq) => {
            let (damaged, next) = lonely(db, seq)?;
            Ok(Checked { damaged, next: next.map(CheckCursor::Messages) })
        }
    }
}

fn check_recipients(
    db: &Connection,
    after: i64,
    at: (Look, Mismatch),
) -> Result<Checked, StoreError> {
    let mut checked = Checked::default();
    let mut walk = TableWalk::behind(db, Table::Recipients, after);
    checked.next = match check_slice(db, at, &mut walk, &mut checked.damaged) {
        Ok(Some(last)) => Some(CheckCursor::Recipients(last)),
        Ok(None) => Some(CheckCursor::Messages(i64::MIN)),
        // After it was made anew this slice is looked at again.
        Err(error @ StoreError::Corrupt { what: INDEX }) => return Err(error),
        // The row behind the last one that was read. Rows behind that one may be readable again.
        Err(error) if error.is_damage() => {
            let (reached, last) = (walk.reached().unwrap_or(after), walk.last());
            let hidden = next_key(db, reached)?;
            let named = hidden.map(|key| find_hidden(db, key)).transpose()?.flatten();
            // Behind a row that an index named before it is still the same damage.
            let is_unnamed = last > after && (named.is_none() || last != reached);
            checked.damaged.extend(named);
            if is_unnamed {
                let damage = Damage { table: "recipients", row: last, what: "what is behind it" };
                let (message, address) = (None, String::new());
                checked.damaged.push(DamagedRecipient { key: NOBODY, message, address, damage });
            }
            Some(hidden.map_or(CheckCursor::Messages(i64::MIN), CheckCursor::Recipients))
        }
        Err(other) => return Err(other),
    };
    Ok(checked)
}

/// Looks at the next recipients of a walk. Where the next slice begins; `None`: this was the last.
fn check_slice(
    db: &Connection,
    (at, mismatch): (Look, Mismatch),
    walk: &mut TableWalk<'_>,
    damaged: &mut Vec<DamagedRecipient>,
) -> Result<Option<i64>, StoreError> {
    let mut select = db.prepare_cached(
        "SELECT id, state = 1 AND last_reason IS 'message_damaged', CAST(mailbox AS BLOB) FROM recipients NOT INDEXED
         WHERE id > ?1 ORDER BY id LIMIT ?2",
    )?;
    let mut found = select.query([walk.reached()?, SLICE])?;
    let (mut seen, mut former): (i64, Option<(i64, Vec<u8>)>) = (0, None);
    while let Some(row) = found.next()? {
        seen += 1;
        let key = row.get(0)?;
        let mailbox: Vec<u8> = row.get(2).unwrap_or_default();
        let which = walk.step(key);
        // A row that no look-up finds was named when it was read.
        if let (Misplaced::First, Some((key, mailbox))) = (which, former.take())
            && walk.is_found(key)?
        {
            damaged.push(misplaced(key, &mailbox));
        }
        if which == Misplaced::Second || !walk.is_found(key)? {
            damaged.push(misplaced(key, &mailbox));
            continue;
        }
        former = Some((key, mailbox));
        let is_known = row.get(1).unwrap_or(false);
        let found = if at == Look::All || !is_known { find(db, key)? } else { None };
        if let Some(found) = found {
            damaged.push(found);
            continue;
        }
        match (check_indexes(db, key), mismatch) {
            (Err(StoreError::Corrupt { .. }), Mismatch::Name) => {
                damaged.push(describe(db, key, INDEX));
            }
            (checked, _) => checked?,
        }
    }
    if seen < SLICE { Ok(None) } else { walk.next().map(Some) }
}

/// A row whose key is not what it was: whose message it is for is not known, and nothing leads to
/// it.
fn misplaced(key: i64, mailbox: &[u8]) -> DamagedRecipient {
    let damage = Damage { table: "recipients", row: key, what: "key" };
    let address = String::from_utf8_lossy(mailbox).into_owned();
    // The key may be another's.
    DamagedRecipient { key: NOBODY, message: None, address, damage }
}

/// Messages whose recipients are all gone, of the next few behind this row; and where to go on. A
/// page that says that it has fewer rows than it has hides them without an error.
pub(crate) fn lonely(
    db: &Connection,
    after: i64,
) -> Result<(Vec<DamagedRecipient>, Option<i64>), StoreError> {
    let mut damaged = Vec::new();
    match add_lonely(db, after, &mut damaged) {
        Ok(next) => Ok((damaged, next)),
        // Who is on a page that cannot be read is named as a recipient.
        Err(error) if error.is_damage() => Ok((damaged, None)),
        Err(other) => Err(other),
    }
}

fn add_lonely(
    db: &Connection,
    after: i64,
    damaged: &mut Vec<DamagedRecipient>,
) -> Result<Option<i64>, StoreError> {
    let mut select = db.prepare_cached(
        "SELECT seq, id, EXISTS (
             SELECT 1 FROM recipients WHERE id BETWEEN m.seq << 16 AND (m.seq << 16) + 65535)
         FROM messages m NOT INDEXED WHERE seq > ?1 ORDER BY seq LIMIT ?2",
    )?;
    let mut walk = TableWalk::behind(db, Table::Messages, after);
    let mut found = select.query([after, SLICE])?;
    let mut seen = 0;
    while let Some(row) = found.next()? {
        seen += 1;
        let seq = row.get(0)?;
        walk.step(seq);
        if !row.get::<_, bool>(2)? {
            let damage = Damage { table: "messages", row: seq, what: "list of recipients" };
            let message = row.get(1).ok().map(MessageId::from_bytes);
            let key = recipient_key(seq, RecipientNo(0));
            damaged.push(DamagedRecipient { key, message, address: String::new(), damage });
        }
    }
    if seen < SLICE { Ok(None) } else { walk.next().map(Some) }
}

/// Who is not in the indexes is never tried, or tried again after it was delivered.
fn check_indexes(db: &Connection, key: i64) -> Result<(), StoreError> {
    let mut find = db.prepare_cached(
        "SELECT EXISTS (
             SELECT 1 FROM recipients d INDEXED BY recipients_due
             WHERE (d.lane, d.state, d.priority, d.due_at, d.expires_at, d.waits_since, d.id)
                 = (r.lane, r.state, r.priority, r.due_at, r.expires_at, r.waits_since, r.id))
         AND (r.deadline IS NULL OR EXISTS (
             SELECT 1 FROM recipients d INDEXED BY recipients_deadline
             WHERE d.deadline = r.deadline AND d.id = r.id))
         AND coalesce((
             SELECT i.seq = m.seq FROM messages i WHERE i.id = m.id), m.seq IS NULL)
         FROM recipients r NOT INDEXED LEFT JOIN messages m NOT INDEXED ON m.seq = r.id >> 16
         WHERE r.id = ?1",
    )?;
    let is_found = find.query_row([key], |row| row.get(0)).optional()?;
    // A row that only a walk finds has another key than it had.
    if is_found.unwrap_or(false) { Ok(()) } else { Err(StoreError::Corrupt { what: INDEX }) }
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

/// What is wrong with a recipient whom an index names behind a row that cannot be read: the table
/// may not lead to it at all.
pub(crate) fn find_hidden(
    db: &Connection,
    key: i64,
) -> Result<Option<DamagedRecipient>, StoreError> {
    let found = find(db, key)?;
    let is_there = db.prepare_cached("SELECT 1 FROM recipients WHERE id = ?1")?.exists([key]);
    Ok(found.or_else(|| (!is_there.unwrap_or(false)).then(|| describe(db, key, PAGE))))
}

/// A recipient that reads well is still lost if its state or its lane is none.
fn check_state(db: &Connection, key: i64) -> Result<Option<DamagedRecipient>, StoreError> {
    let mut select =
        db.prepare_cached("SELECT state IN (0, 1), lane FROM recipients WHERE id = ?1")?;
    let found = select.query_row([key], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    match found {
        Some((false, _)) => name(db, key, "recipient state"),
        Some((true, lane)) if !may_have_lane(db, lane)? => name(db, key, "lane"),
        Some((true, _)) | None => Ok(None),
    }
}

/// Where the table of lanes cannot be read, their names are in its index.
fn may_have_lane(db: &Connection, lane: i64) -> Result<bool, StoreError> {
    let found = db
        .prepare_cached("SELECT 1 FROM lanes WHERE id = ?1")
        .and_then(|mut select| select.exists([lane]))
        .map_err(StoreError::from);
    match found {
        Err(error) if error.is_damage() => Ok(true),
        found => found,
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
    // From the table, or else by a walk through the index.
    let selects = [
        "SELECT id FROM messages WHERE seq = ?1",
        "SELECT id FROM messages INDEXED BY sqlite_autoindex_messages_1 WHERE +seq = ?1",
    ];
    let mut ids = selects.into_iter().filter_map(|sql| {
        db.prepare_cached(sql).and_then(|mut select| select.query_row([seq], |row| row.get(0))).ok()
    });
    let message = ids.next().map(MessageId::from_bytes);
    DamagedRecipient { key, message, address, damage: Damage { table, row, what } }
}

fn address(db: &Connection, key: i64) -> String {
    let select = "SELECT CAST(mailbox AS BLOB) FROM recipients WHERE id = ?1";
    let octets: rusqlite::Result<Vec<u8>> =
        db.prepare_cached(select).and_then(|mut select| select.query_row([key], |row| row.get(0)));
    String::from_utf8_lossy(&octets.unwrap_or_default()).into_owned()
}

/// The first recipient behind the key `after`, by a walk through an index, where the table itself
/// cannot be read.
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
             WHERE id = ?1 AND (state <> ?2 OR last_reason IS NOT ?5)",
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

/// Gives a name to lanes whose own cannot be read, and a row to those that recipients wait in and
/// that have none. Their mail is in no lane of its next hop then, and is moved as after a change of
/// routes.
pub(crate) fn name_lanes(db: &Connection, nameless: &[i64]) -> Result<(), StoreError> {
    let mut name = db.prepare_cached(
        "INSERT INTO lanes (id, key, failures, crc) VALUES (?1, ?2, 0, row_crc(?1, ?2))
         ON CONFLICT (id) DO UPDATE SET key = ?2, crc = row_crc(?1, ?2)",
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
