//! What a commit and a settlement do to the tables. Runs in the writer's transaction.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, Ordering};

use rusqlite::{Connection, OptionalExtension, params};

use crate::arrival::Arrival;
use crate::draft::{Sealed, SealedBody};
use crate::due::BodyRef;
use crate::lane_rows::{remove_if_unused, update_lane};
use crate::layout::Layout;
use crate::message::{
    Attempt, Change, RECIPIENTS_MAX, RecipientDeferral, RecipientNo, Settled, Settlement,
    StoredEnvelope, Told,
};
use crate::rows::{TOLD, body_ref, problem_values, recipient_key};
use crate::{MessageId, StoreError, marks};

/// Is this an envelope that can be kept?
pub(crate) fn check(envelope: &StoredEnvelope) -> Result<(), StoreError> {
    let count = envelope.recipients.len();
    if count == 0 || count > RECIPIENTS_MAX {
        return Err(StoreError::RecipientCount { count });
    }
    Ok(())
}

/// The rows of messages, whose numbers are not used a second time, also after a restart: a listing
/// that is under way would show mail that came later, and a repair would take what is left of an
/// old row for one of a new message.
#[derive(Debug)]
pub(crate) struct Rows {
    /// The highest number that was used.
    newest: AtomicI64,
    /// The number at which the mark is written again.
    mark_at: AtomicI64,
}

/// The mark that says which numbers have been used, and some more.
const ROWS: &str = "rows";
/// Our choice: so many numbers are given up at each start. There are 2^47.
const GIVEN_UP: i64 = 1_000_000;
/// Our choice: the mark is written again after so many; if that is rolled back, or fails, the next
/// time comes long before the numbers that it covers are used.
const MARK_EVERY: i64 = 65_536;

impl Rows {
    /// Behind all that were used. Neither a full disk nor a damaged page is a reason not to start.
    pub(crate) fn open(db: &Connection) -> Result<Self, StoreError> {
        let number = |select: &str| -> rusqlite::Result<Option<i64>> {
            db.query_row(select, [], |row| row.get(0)).optional().map(Option::flatten)
        };
        let marked = number(
            "SELECT CAST(value AS INTEGER) FROM marks WHERE name = 'rows' AND crc = row_crc(name, value)",
        )?;
        // A number that damage has made is no reason to go beyond all numbers.
        let highest = [
            "SELECT max(seq) FROM messages WHERE seq < 1 << 46",
            "SELECT max(id) >> 16 FROM recipients WHERE id < 1 << 62",
        ];
        let highest = highest.map(number);
        let is_known = marked.is_some() && highest.iter().all(Result::is_ok);
        let found = highest.into_iter().filter_map(Result::ok).chain([marked]).flatten().max();
        // Without a mark, as after the loss of marks, nobody knows.
        let more = if is_known { 0 } else { GIVEN_UP };
        let newest = found.unwrap_or_default().saturating_add(more);
        let rows = Self { newest: AtomicI64::new(newest), mark_at: AtomicI64::new(newest) };
        match rows.mark(db, newest) {
            Err(error) if error.is_failed_sync() => Err(error),
            Ok(()) | Err(_) => Ok(rows),
        }
    }

    /// The next number, in a transaction.
    pub(crate) fn next(&self, db: &Connection) -> Result<i64, StoreError> {
        let seq = self.newest.fetch_add(1, Ordering::SeqCst).saturating_add(1);
        if seq >= self.mark_at.load(Ordering::SeqCst)
            && let Err(error) = self.mark(db, seq)
            && db.is_autocommit()
        {
            // Some errors have ended the transaction, with all that was in it.
            return Err(error);
        }
        Ok(seq)
    }

    fn mark(&self, db: &Connection, seq: i64) -> Result<(), StoreError> {
        // Also if it fails: what is damaged there is not met again for each message.
        self.mark_at.store(seq.saturating_add(MARK_EVERY), Ordering::SeqCst);
        let covered = seq.saturating_add(GIVEN_UP).to_string();
        marks::set(db, ROWS, Some(&covered))
    }

    /// Messages from now on stand behind this row.
    pub(crate) fn note_newest(&self, seq: i64) {
        self.newest.fetch_max(seq, Ordering::SeqCst);
    }
}

/// What a commit writes, about: rows of recipients have some 300 octets with their indexes.
pub(crate) fn octets(sealed: &Sealed, envelope: &StoredEnvelope) -> usize {
    let body = match sealed.body() {
        SealedBody::Memory(bytes) => bytes.len(),
        SealedBody::File(_) => 0,
    };
    envelope.recipients.len().saturating_mul(300).saturating_add(body)
}

/// Adds a message with its recipients.
pub(crate) fn insert(
    db: &Connection,
    sealed: &Sealed,
    envelope: &StoredEnvelope,
    rows: &Rows,
) -> Result<(), StoreError> {
    Arrival::new(sealed, envelope).insert(db, rows, |_| false)
}

/// The row of a message, and where its body is.
pub(crate) fn find(db: &Connection, id: MessageId) -> Result<Option<(i64, BodyRef)>, StoreError> {
    let found: Option<(i64, i64)> = db
        .prepare_cached("SELECT seq, place FROM messages WHERE id = ?1")?
        .query_row([id.to_bytes()], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    found.map(|(seq, place)| Ok((seq, body_ref(place)?))).transpose()
}

/// Applies changes to recipients of the message in row `seq`; says how many there were. Those that
/// are gone are skipped: an operator may have deleted them meanwhile. Adds the lanes that somebody
/// has `left`.
fn change(
    db: &Connection,
    seq: i64,
    changes: &[(RecipientNo, Change)],
    left: &mut BTreeSet<i64>,
) -> Result<usize, StoreError> {
    let mut changed = 0;
    for (no, change) in changes {
        let key = recipient_key(seq, *no);
        changed += match change {
            Change::Delivered | Change::Failed => {
                // Cheaper than RETURNING, which collects rows first.
                let lane: Option<i64> = db
                    .prepare_cached("SELECT lane FROM recipients WHERE id = ?1")?
                    .query_row([key], |row| row.get(0))
                    .optional()?;
                left.extend(lane);
                db.prepare_cached("DELETE FROM recipients WHERE id = ?1")?.execute([key])?
            }
            Change::Deferred(deferral) => defer(db, key, deferral)?,
            Change::Told(Told::Delay) => db
                .prepare_cached("UPDATE recipients SET waits_since = ?2 WHERE id = ?1")?
                .execute([key, TOLD])?,
            Change::Told(Told::Deadline) => db
                .prepare_cached(
                    "UPDATE recipients SET waits_since = ?2, deadline = NULL WHERE id = ?1",
                )?
                .execute([key, TOLD])?,
        };
    }
    Ok(changed)
}

fn defer(db: &Connection, key: i64, deferral: &RecipientDeferral) -> Result<usize, StoreError> {
    let counted = match deferral.attempt {
        Attempt::Counted => 1,
        Attempt::NotCounted => 0,
    };
    let due = deferral.due_at.as_millisecond();
    let Some(problem) = &deferral.problem else {
        let changed = db
            .prepare_cached(
                "UPDATE recipients SET due_at = ?2, attempts = attempts + ?3 WHERE id = ?1",
            )?
            .execute(params![key, due, counted])?;
        return Ok(changed);
    };
    let [at, status, reason, mx, text] = problem_values(Some(problem));
    let changed = db
        .prepare_cached(
            "UPDATE recipients SET due_at = ?2, attempts = attempts + ?3, last_at = ?4,
                 last_status = ?5, last_reason = ?6, last_mx = ?7, last_text = ?8
             WHERE id = ?1",
        )?
        .execute(params![key, due, counted, at, status, reason, mx, text])?;
    Ok(changed)
}

/// Removes the message if nobody waits for it any more.
pub(crate) fn remove_if_done(db: &Connection, seq: i64) -> Result<Settled, StoreError> {
    let waiting = db
        .prepare_cached("SELECT 1 FROM recipients WHERE id BETWEEN ?1 AND ?2 LIMIT 1")?
        .exists([recipient_key(seq, RecipientNo(0)), recipient_key(seq, RecipientNo(u16::MAX))])?;
    if waiting {
        return Ok(Settled::Waiting);
    }
    db.prepare_cached("DELETE FROM bodies WHERE seq = ?1")?.execute([seq])?;
    db.prepare_cached("DELETE FROM messages WHERE seq = ?1")?.execute([seq])?;
    Ok(Settled::Gone)
}

/// The file to remove once a message is gone.
pub(crate) fn file_of(layout: &Layout, id: MessageId, body: BodyRef) -> Option<PathBuf> {
    match body {
        BodyRef::Inline => None,
        BodyRef::File => Some(layout.body(id)),
    }
}

/// What a settlement did.
pub(crate) struct CommitOutcome {
    pub(crate) settled: Settled,
    /// The body file to remove.
    pub(crate) file: Option<PathBuf>,
}

/// Applies a settlement to the tables, within the writer's transaction.
pub(crate) fn settle(
    db: &Connection,
    settlement: &Settlement,
    layout: &Layout,
    rows: &Rows,
) -> Result<CommitOutcome, StoreError> {
    if let Some(update) = &settlement.lane {
        update_lane(db, update)?;
    }
    let Some((seq, body)) = find(db, settlement.message)? else {
        return Ok(CommitOutcome { settled: Settled::Missing, file: None });
    };
    let mut left = BTreeSet::new();
    let changed = change(db, seq, &settlement.changes, &mut left)?;
    // Whoever took them out meanwhile has told their sender, or meant that nobody is told.
    if changed == 0 && !settlement.dsns.is_empty() {
        return Ok(CommitOutcome { settled: Settled::Moot, file: None });
    }
    for dsn in &settlement.dsns {
        insert(db, &dsn.body, &dsn.envelope, rows)?;
    }
    // A lane's row goes with the last recipient: the table is as long as the queue is wide.
    for lane in left {
        remove_if_unused(db, lane)?;
    }
    let settled = remove_if_done(db, seq)?;
    let file = match settled {
        Settled::Gone => file_of(layout, settlement.message, body),
        Settled::Waiting | Settled::Missing | Settled::Moot | Settled::Unrecorded => None,
    };
    Ok(CommitOutcome { settled, file })
}
