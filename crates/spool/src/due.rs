//! What waits in a lane: read by index, a page at a time, never by the writer.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Statement, params};
use smtp::{Mailbox, ReversePath};

use crate::message::{BodyFacts, LaneKey, LaneState, LaneSummary, RecipientNo};
use crate::rows::{self, Columns, count, optional_time, split_key, time};
use crate::{MessageId, StoreError};

/// Recipients of one message that wait in one lane.
#[derive(Clone, Debug)]
pub struct Due {
    /// The message.
    pub message: MessageId,
    /// Who is told about failures.
    pub sender: ReversePath,
    /// Those that are due, in no particular order.
    pub recipients: Vec<DueRecipient>,
    /// When the message arrived.
    pub arrived_at: Timestamp,
    /// What is known about its body.
    pub facts: BodyFacts,
    /// Where its body is.
    pub body: BodyRef,
}

/// One recipient that is due.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DueRecipient {
    /// Its place in the envelope.
    pub no: RecipientNo,
    /// Its address.
    pub mailbox: Mailbox,
    /// Attempts that counted.
    pub attempts: u32,
    /// When it becomes too old.
    pub expires_at: Timestamp,
}

/// Where a body is, before it is opened with [`crate::Spool::body`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum BodyRef {
    /// In the database: at most [`crate::INLINE_BODY_MAX`] octets.
    Inline,
    /// In a file of its own.
    File,
}

/// Where a page of a lane ended. Good for the same lane and verb only.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct DueCursor {
    due_at: i64,
    expires_at: i64,
    key: i64,
}

/// Before everything.
const START: DueCursor = DueCursor { due_at: i64::MIN, expires_at: i64::MIN, key: i64::MIN };

/// A page of a lane.
#[derive(Clone, Debug, Default)]
pub struct DuePage {
    /// By due time; each message once.
    pub due: Vec<Due>,
    /// Recipients whose rows are damaged and were left out. They stay until an operator looks.
    pub damaged: u64,
    /// Where to go on; `None`: this was the last page.
    pub next: Option<DueCursor>,
}

macro_rules! select_due {
    ($condition:literal) => {
        concat!(
            "SELECT r.id, r.due_at, r.expires_at, r.attempts, r.mailbox, m.id, m.sender,
                 m.arrived_at, m.place, m.size, m.header_len, m.has_8bit, m.longest_line,
                 m.ends_with_newline, m.received_count, m.body_sha256_simple, m.body_sha256_relaxed
             FROM recipients r INDEXED BY recipients_due CROSS JOIN messages m ON m.seq = r.id >> 16
             WHERE r.lane = ?1 AND r.state = 0 AND ",
            $condition,
            " AND (r.due_at, r.expires_at, r.id) > (?3, ?4, ?5)
             ORDER BY r.due_at, r.expires_at, r.id LIMIT ?6"
        )
    };
}

/// What to read of a lane.
pub(crate) struct Want<'a> {
    pub(crate) lane: &'a LaneKey,
    /// Due, or expired, by then.
    pub(crate) until: Timestamp,
    pub(crate) after: Option<DueCursor>,
    /// Recipients.
    pub(crate) limit: usize,
}

/// Recipients that are due.
pub(crate) fn next(db: &Connection, want: &Want<'_>) -> Result<DuePage, StoreError> {
    page(&mut *db.prepare_cached(select_due!("r.due_at <= ?2"))?, db, want)
}

/// Recipients that are too old, due or not.
pub(crate) fn expired(db: &Connection, want: &Want<'_>) -> Result<DuePage, StoreError> {
    page(&mut *db.prepare_cached(select_due!("r.expires_at <= ?2"))?, db, want)
}

/// Makes due at `now` what waits for a time after `latest`.
pub(crate) fn cut_waits(
    db: &Connection,
    now: Timestamp,
    latest: Timestamp,
) -> Result<usize, StoreError> {
    let times = [now.as_millisecond(), latest.as_millisecond()];
    // By lane, so that the index leads to the rows.
    let recipients = db
        .prepare_cached(
            "UPDATE recipients SET due_at = ?1
             WHERE lane IN (SELECT id FROM lanes) AND state = 0 AND due_at > ?2",
        )?
        .execute(times)?;
    let lanes = db
        .prepare_cached("UPDATE lanes SET next_probe_at = ?1 WHERE next_probe_at > ?2")?
        .execute(times)?;
    Ok(recipients + lanes)
}

/// When something is due in the lane that is not due at `after` yet.
pub(crate) fn next_due(
    db: &Connection,
    lane: &LaneKey,
    after: Timestamp,
) -> Result<Option<Timestamp>, StoreError> {
    let Some(lane) = lane_row(db, lane)? else { return Ok(None) };
    let due: Option<i64> = db
        .prepare_cached(
            "SELECT min(due_at) FROM recipients INDEXED BY recipients_due
             WHERE lane = ?1 AND state = 0 AND due_at > ?2",
        )?
        .query_row(params![lane, after.as_millisecond()], |row| row.get(0))?;
    optional_time(due)
}

fn page(
    select: &mut Statement<'_>,
    db: &Connection,
    want: &Want<'_>,
) -> Result<DuePage, StoreError> {
    let mut page = DuePage::default();
    let Some(lane) = lane_row(db, want.lane)? else { return Ok(page) };
    let after = want.after.unwrap_or(START);
    let until = want.until.as_millisecond();
    let limit = rows::number(want.limit);
    let mut found =
        select.query(params![lane, until, after.due_at, after.expires_at, after.key, limit])?;
    let mut seen = 0;
    while let Some(row) = found.next()? {
        let mut columns = Columns::new(row);
        let (key, due_at, expires_at) = (columns.next()?, columns.next()?, columns.next()?);
        page.next = Some(DueCursor { due_at, expires_at, key });
        seen += 1;
        match read(&mut columns, key, expires_at) {
            Ok((due, recipient)) => page.add(due, recipient),
            Err(StoreError::Corrupt { .. }) => page.damaged += 1,
            Err(other) => return Err(other),
        }
    }
    if seen < want.limit {
        page.next = None;
    }
    Ok(page)
}

impl DuePage {
    /// Recipients of one message mostly follow each other: they were due together.
    fn add(&mut self, due: Due, recipient: DueRecipient) {
        match self.due.iter_mut().rev().find(|known| known.message == due.message) {
            Some(known) => known.recipients.push(recipient),
            None => self.due.push(Due { recipients: vec![recipient], ..due }),
        }
    }
}

fn read(
    columns: &mut Columns<'_, '_>,
    key: i64,
    expires_at: i64,
) -> Result<(Due, DueRecipient), StoreError> {
    let recipient = DueRecipient {
        no: split_key(key).1,
        attempts: count(columns.next()?)?,
        mailbox: columns.next_text(rows::mailbox)?,
        expires_at: time(expires_at)?,
    };
    let due = Due {
        message: rows::id(columns.next()?),
        sender: columns.next_text(rows::sender)?,
        recipients: Vec::new(),
        arrived_at: time(columns.next()?)?,
        body: rows::body_ref(columns.next()?)?,
        facts: rows::facts(columns)?,
    };
    Ok((due, recipient))
}

pub(crate) fn lane_row(db: &Connection, lane: &LaneKey) -> Result<Option<i64>, StoreError> {
    Ok(db
        .prepare_cached("SELECT id FROM lanes WHERE key = ?1")?
        .query_row([lane.as_str()], |row| row.get(0))
        .optional()?)
}

/// All lanes, by one pass over the index and one over the lanes.
pub(crate) fn lanes(db: &Connection) -> Result<Vec<LaneSummary>, StoreError> {
    let mut loads = db.prepare_cached(
        "SELECT lane, count(*), min(due_at), min(expires_at)
         FROM recipients INDEXED BY recipients_due WHERE state = 0 GROUP BY lane ORDER BY lane",
    )?;
    let mut loads = loads.query([])?;
    let mut select = db.prepare_cached(
        "SELECT id, key, failures, next_probe_at, first_failed_at, last_at, last_status,
             last_reason, last_mx, last_text
         FROM lanes ORDER BY id",
    )?;
    let mut rows = select.query([])?;
    let mut load = next_load(&mut loads)?;
    let mut lanes = Vec::new();
    while let Some(row) = rows.next()? {
        let mut columns = Columns::new(row);
        let lane: i64 = columns.next()?;
        let key = columns.next_text(|text| Ok(LaneKey::new(text)))?;
        // A lane whose trouble cannot be read is probed like a healthy one.
        let state = rows::lane_state(&mut columns).unwrap_or(LaneState::Healthy);
        while load.as_ref().is_some_and(|load| load.lane < lane) {
            load = next_load(&mut loads)?;
        }
        let own = load.take_if(|load| load.lane == lane).unwrap_or_default();
        lanes.push(LaneSummary {
            key,
            queued: own.queued,
            earliest_due: optional_time(own.due_at)?,
            earliest_expiry: optional_time(own.expires_at)?,
            state,
        });
        if load.is_none() {
            load = next_load(&mut loads)?;
        }
    }
    Ok(lanes)
}

#[derive(Default)]
struct Load {
    lane: i64,
    queued: u64,
    due_at: Option<i64>,
    expires_at: Option<i64>,
}

fn next_load(rows: &mut rusqlite::Rows<'_>) -> Result<Option<Load>, StoreError> {
    let Some(row) = rows.next()? else { return Ok(None) };
    let mut columns = Columns::new(row);
    Ok(Some(Load {
        lane: columns.next()?,
        queued: count(columns.next()?)?,
        due_at: columns.next()?,
        expires_at: columns.next()?,
    }))
}
