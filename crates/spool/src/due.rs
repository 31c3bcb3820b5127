//! What waits in a lane: read by index, a page at a time, never by the writer.

use std::collections::HashSet;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};
use smtp::params::Priority;
use smtp::{Mailbox, ReversePath};

use crate::checksum::{message_crc, recipient_crc};
use crate::commit::find;
use crate::damage::{self, DamagedRecipient, INDEX, Mismatch};
use crate::journal::format::JournalPosition;
use crate::message::{
    BodyFacts, LaneKey, MessageOptions, RecipientNo, RecipientOptions, head_start, turn,
};
use crate::rows::{self, Columns, count, number, optional_time, split_key, time};
use crate::{MessageId, StoreError};

/// Recipients of one message that wait in one lane.
#[derive(Clone, Debug)]
pub struct Due {
    /// The message that all of them wait for.
    pub message: MessageId,
    /// Who is told about failures.
    pub sender: ReversePath,
    /// Who submitted it, as [`crate::StoredEnvelope::client`].
    pub client: Box<str>,
    /// Those that are due, in no particular order.
    pub recipients: Vec<DueRecipient>,
    /// When the message arrived.
    pub arrived_at: Timestamp,
    /// The place of the first of them in the lane.
    pub turn: Timestamp,
    /// What is known about its body.
    pub facts: BodyFacts,
    /// Where its body is.
    pub body: BodyRef,
    /// What was asked for with it.
    pub options: MessageOptions,
}

/// One recipient that is due.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DueRecipient {
    /// Its place in the envelope.
    pub no: RecipientNo,
    /// The address that RCPT gets.
    pub mailbox: Mailbox,
    /// Attempts so far that said something about the destination.
    pub attempts: u32,
    /// When it becomes too old.
    pub expires_at: Timestamp,
    /// Since when it waits, if its sender does not know that and is to be told.
    pub waits_since: Option<Timestamp>,
    /// What was asked for with it.
    pub options: RecipientOptions,
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
    row: Place,
    /// Of mail that has no rows yet.
    young: JournalPosition,
}

impl DueCursor {
    pub(crate) fn young(self) -> JournalPosition {
        self.young
    }
}

/// A recipient's row in its lane, by which a page is sorted.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Place {
    /// Milliseconds since 1970, as the columns have them.
    turn: i64,
    expires_at: i64,
    waits_since: i64,
    key: i64,
}

/// Before the first row of any lane.
const START: DueCursor = DueCursor {
    row: Place { turn: i64::MIN, expires_at: i64::MIN, waits_since: i64::MIN, key: i64::MIN },
    young: JournalPosition(0),
};

/// A page of a lane.
#[derive(Clone, Debug, Default)]
pub struct DuePage {
    /// By turn; each message once.
    pub due: Vec<Due>,
    /// Recipients that cannot be tried, and were left out.
    pub damaged: Vec<DamagedRecipient>,
    /// Where to go on; `None`: this was the last page.
    pub next: Option<DueCursor>,
}

macro_rules! select_keys {
    ($condition:literal) => {
        concat!(
            "SELECT due_at, expires_at, waits_since, id FROM recipients INDEXED BY recipients_due
             WHERE lane = ?1 AND state = 0 AND priority = ?2 AND ",
            $condition,
            " AND (due_at, expires_at, waits_since, id) > (?4, ?5, ?6, ?7)
             ORDER BY due_at, expires_at, waits_since, id LIMIT ?8"
        )
    };
}

/// Which recipients of a lane a page is made of. All of it is in the index.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Which {
    /// Those that are due at a time.
    Due,
    /// Those that are too old at a time, due or not.
    Expired,
    /// Those that have waited since a time or longer, and whose sender is to be told and was not.
    Unwarned,
}

impl Which {
    fn select(self) -> &'static str {
        match self {
            Self::Due => select_keys!("due_at <= ?3"),
            Self::Expired => select_keys!("expires_at <= ?3"),
            Self::Unwarned => select_keys!("waits_since <= ?3"),
        }
    }
}

/// What to read of a lane.
pub(crate) struct Want<'a> {
    pub(crate) lane: &'a LaneKey,
    pub(crate) which: Which,
    /// The time that [`Which`] speaks of.
    pub(crate) until: Timestamp,
    pub(crate) after: Option<DueCursor>,
    /// Recipients, in all messages together.
    pub(crate) limit: usize,
}

/// Rows that [`cut_waits`] changes in one transaction.
pub(crate) const CUT_MAX: usize = 10_000;

/// Makes due at `now` what waits for a time after `latest`, unless its sender named that time: up
/// to [`CUT_MAX`] recipients.
pub(crate) fn cut_waits(
    db: &Connection,
    now: Timestamp,
    latest: Timestamp,
) -> Result<usize, StoreError> {
    let times = [now.as_millisecond(), latest.as_millisecond()];
    // By lane, so that the index leads to the rows.
    let recipients = db
        .prepare_cached(
            "UPDATE recipients SET due_at = ?1 WHERE id IN (
                 SELECT id FROM recipients
                 WHERE lane IN (SELECT id FROM lanes) AND state = 0 AND due_at > ?2
                     AND due_at > (SELECT coalesce(not_before, 0) FROM messages WHERE seq = recipients.id >> 16)
                 LIMIT ?3)",
        )?
        .execute(params![times[0], times[1], number(CUT_MAX)])?;
    let lanes = db
        .prepare_cached("UPDATE lanes SET next_probe_at = ?1 WHERE next_probe_at > ?2")?
        .execute(times)?;
    Ok(recipients + lanes)
}

/// Recipients of one lane and priority that [`make_due`] looks at.
const MADE_DUE_MAX: i64 = 1_000;

/// Makes due at `now` who waits in the lane for what it failed by, unless the sender named a time.
pub(crate) fn make_due(
    db: &Connection,
    lane: &LaneKey,
    now: Timestamp,
) -> Result<usize, StoreError> {
    let Some(lane) = lane_row(db, lane)? else { return Ok(0) };
    let mut update = db.prepare_cached(
        "UPDATE recipients SET due_at = ?3 WHERE id IN (
             SELECT id FROM recipients INDEXED BY recipients_due
             WHERE lane = ?1 AND state = 0 AND priority = ?2 AND due_at > ?3 LIMIT ?4)
         AND last_reason = (SELECT last_reason FROM lanes WHERE id = ?1)
         AND due_at > (
             SELECT coalesce(not_before, 0) FROM messages WHERE seq = recipients.id >> 16)",
    )?;
    let mut made = 0;
    for priority in priorities(db, lane)? {
        made +=
            update.execute(params![lane, priority.get(), now.as_millisecond(), MADE_DUE_MAX])?;
    }
    Ok(made)
}

/// When something is due in the lane that is not due at `after` yet.
pub(crate) fn next_due(
    db: &Connection,
    lane: &LaneKey,
    after: Timestamp,
) -> Result<Option<Timestamp>, StoreError> {
    let Some(lane) = lane_row(db, lane)? else { return Ok(None) };
    let mut select = db.prepare_cached(
        "SELECT min(due_at) FROM recipients INDEXED BY recipients_due
         WHERE lane = ?1 AND state = 0 AND priority = ?2 AND due_at > ?3",
    )?;
    let mut soonest: Option<i64> = None;
    for priority in priorities(db, lane)? {
        let values = params![lane, priority.get(), after.as_millisecond()];
        let due: Option<i64> = select.query_row(values, |row| row.get(0))?;
        soonest = soonest.into_iter().chain(due).min();
    }
    optional_time(soonest)
}

/// The priorities that occur among the queued of a lane, the highest first: a step of the index
/// each.
fn priorities(db: &Connection, lane: i64) -> Result<Vec<Priority>, StoreError> {
    let mut select = db.prepare_cached(
        "SELECT max(priority) FROM recipients INDEXED BY recipients_due
         WHERE lane = ?1 AND state = 0 AND priority < ?2",
    )?;
    let mut found = Vec::new();
    let mut below = i64::MAX;
    while let Some(number) = select.query_row([lane, below], |row| row.get::<_, Option<i64>>(0))? {
        // A number that is none is damage of ours: its recipients are not read.
        // In a damaged index it need not be lower, and would be asked for again for ever.
        if number >= below {
            break;
        }
        found.extend(rows::priority(number).ok());
        below = number;
    }
    Ok(found)
}

/// A page of a lane.
///
/// The index has the recipients of each priority by due time. What is next of each is merged here,
/// and with mail of the journal, so that a page costs the same however many are due. Only then
/// their rows are read.
pub(crate) fn page(
    db: &Connection,
    want: &Want<'_>,
    young: &[(JournalPosition, Due)],
    mismatch: Mismatch,
) -> Result<DuePage, StoreError> {
    let (mut page, mut places) = (DuePage::default(), Vec::new());
    let lane = lane_row(db, want.lane)?;
    if let Some(lane) = lane {
        for priority in priorities(db, lane)? {
            add_places(db, lane, priority, want, &mut places)?;
        }
    }
    places.sort_unstable();
    places.truncate(want.limit);
    let mut cursor = want.after.unwrap_or(START);
    let (mut count, mut young) = (0, young.iter().peekable());
    let mut places = places.into_iter().peekable();
    let mut seen = HashSet::new();
    while count < want.limit {
        let is_younger = |place: &Place| {
            young.peek().is_none_or(|(_, due)| place.turn <= due.turn.as_millisecond())
        };
        if let Some(place) = places.next_if(is_younger) {
            cursor.row = place;
            count += 1;
            page.add_row(db, (lane.unwrap_or_default(), place), &mut seen, mismatch)?;
        } else if let Some((position, due)) = young.next() {
            // It has got its rows since it was asked for, which may have been before this page.
            if find(db, due.message)?.is_some() {
                page.next = Some(START);
                return Ok(page);
            }
            cursor.young = *position;
            count += due.recipients.len();
            page.due.push(due.clone());
        } else {
            return Ok(page);
        }
    }
    page.next = Some(cursor);
    Ok(page)
}

/// What there is for a place in an index.
enum FoundDue {
    Whole(Box<Due>, DueRecipient),
    Damaged(DamagedRecipient),
}

/// Indexes have no checksums: what they say is compared with the rows before mail goes by it. A
/// changed octet there would send mail to another host, or settle another message.
fn check_place(db: &Connection, lane: i64, place: Place, due: &Due) -> Result<(), StoreError> {
    let mut is_here = db.prepare_cached(
        "SELECT lane = ?2 AND state = 0 AND expires_at = ?3 AND waits_since = ?4 FROM recipients WHERE id = ?1",
    )?;
    let values = params![place.key, lane, place.expires_at, place.waits_since];
    let is_here: bool = is_here.query_row(values, |row| row.get(0))?;
    let is_here = is_here && place.turn == due.turn.as_millisecond();
    let (seq, _) = split_key(place.key);
    let is_found = find(db, due.message)?.is_some_and(|(found, _)| found == seq);
    if is_here && is_found { Ok(()) } else { Err(StoreError::Corrupt { what: INDEX }) }
}

/// Adds the next recipients of one priority.
fn add_places(
    db: &Connection,
    lane: i64,
    priority: Priority,
    want: &Want<'_>,
    places: &mut Vec<Place>,
) -> Result<(), StoreError> {
    let after = want.after.unwrap_or(START).row;
    let ahead = i64::try_from(head_start(priority).as_millis()).unwrap_or(0);
    let mut select = db.prepare_cached(want.which.select())?;
    let mut found = select.query(params![
        lane,
        priority.get(),
        want.until.as_millisecond(),
        after.turn.saturating_add(ahead),
        after.expires_at,
        after.waits_since,
        after.key,
        number(want.limit)
    ])?;
    while let Some(row) = found.next()? {
        let mut columns = Columns::new(row);
        let due_at: i64 = columns.next()?;
        let turn = due_at.saturating_sub(ahead);
        let (expires_at, waits_since) = (columns.next()?, columns.next()?);
        let place = Place { turn, expires_at, waits_since, key: columns.next()? };
        // One that stands in a wrong place was in a page before, and must not make this one the
        // same.
        places.extend(Some(place).filter(|place| *place > after));
    }
    Ok(())
}

impl DuePage {
    /// Adds a recipient that the index names, or what is damaged of it.
    fn add_row(
        &mut self,
        db: &Connection,
        (lane, place): (i64, Place),
        seen: &mut HashSet<i64>,
        mismatch: Mismatch,
    ) -> Result<(), StoreError> {
        let is_new = seen.insert(place.key);
        let read = match row(db, place.key) {
            Ok(Some(_)) if !is_new => Err(StoreError::Corrupt { what: INDEX }),
            Ok(Some((due, recipient))) => check_place(db, lane, place, &due)
                .map(|()| FoundDue::Whole(Box::new(due), recipient)),
            Err(error) if !error.is_damage() => Err(error),
            Ok(None) | Err(_) => damage::find(db, place.key)?
                .map_or(Err(StoreError::Corrupt { what: INDEX }), |one| Ok(FoundDue::Damaged(one))),
        };
        match (read, mismatch) {
            (Ok(FoundDue::Whole(due, recipient)), _) => self.add(*due, recipient),
            (Ok(FoundDue::Damaged(damaged)), _) => self.damaged.push(damaged),
            (Err(StoreError::Corrupt { what: INDEX }), Mismatch::Name) => {
                self.damaged.push(damage::describe(db, place.key, INDEX));
            }
            (Err(error), _) => return Err(error),
        }
        Ok(())
    }

    /// Recipients of one message mostly follow each other: they were due together.
    pub(crate) fn add(&mut self, due: Due, recipient: DueRecipient) {
        match self.due.iter_mut().rev().find(|known| known.message == due.message) {
            Some(known) => known.recipients.push(recipient),
            None => self.due.push(Due { recipients: vec![recipient], ..due }),
        }
    }
}

/// The recipient with this key, and its message.
pub(crate) fn row(db: &Connection, key: i64) -> Result<Option<(Due, DueRecipient)>, StoreError> {
    let mut select = db.prepare_cached(
        concat!(
            "SELECT r.crc IS NULL OR r.crc = ", recipient_crc!(), ",
                 r.priority, r.due_at, r.expires_at, r.attempts, r.mailbox, r.waits_since, r.notify, r.original,
                 m.crc IS NULL OR m.crc = ", message_crc!(), ",
                 m.id, m.sender, m.client, m.arrived_at, m.place, m.size, m.header_len, m.has_8bit, m.longest_line,
                 m.ends_with_newline, m.received_count, m.ret, m.envelope_id, m.smtp_utf8, m.require_tls, m.deliver_by,
                 m.deliver_by_mode, m.not_before, m.user
             FROM recipients r CROSS JOIN messages m ON m.seq = r.id >> 16 WHERE r.id = ?1"
        ),
    )?;
    let mut found = select.query([key])?;
    let Some(row) = found.next()? else { return Ok(None) };
    read(&mut Columns::new(row), key).map(Some)
}

/// What the recipient's own row says, without its message's.
pub(crate) fn recipient(db: &Connection, key: i64) -> Result<Option<DueRecipient>, StoreError> {
    let mut select = db.prepare_cached(
        concat!(
            "SELECT r.crc IS NULL OR r.crc = ", recipient_crc!(), ",
                 r.priority, r.due_at, r.expires_at, r.attempts, r.mailbox, r.waits_since, r.notify, r.original
             FROM recipients r WHERE r.id = ?1"
        ),
    )?;
    let mut found = select.query([key])?;
    let Some(row) = found.next()? else { return Ok(None) };
    read_recipient(&mut Columns::new(row), key).map(|(_, _, recipient)| Some(recipient))
}

fn read_recipient(
    columns: &mut Columns<'_, '_>,
    key: i64,
) -> Result<(Priority, Timestamp, DueRecipient), StoreError> {
    check_row(columns)?;
    let priority = rows::priority(columns.next()?)?;
    let due_at = time(columns.next()?)?;
    let recipient = DueRecipient {
        no: split_key(key).1,
        expires_at: time(columns.next()?)?,
        attempts: count(columns.next()?)?,
        mailbox: columns.next_text(rows::mailbox)?,
        waits_since: rows::waits_since(columns.next()?)?,
        options: rows::recipient_options(columns)?,
    };
    Ok((priority, due_at, recipient))
}

/// The column that says whether the checksum of a row fits the values that it covers.
fn check_row(columns: &mut Columns<'_, '_>) -> Result<(), StoreError> {
    if columns.next()? {
        Ok(())
    } else {
        Err(StoreError::Corrupt { what: "value that its checksum covers" })
    }
}

fn read(columns: &mut Columns<'_, '_>, key: i64) -> Result<(Due, DueRecipient), StoreError> {
    let (priority, due_at, recipient) = read_recipient(columns, key)?;
    check_row(columns)?;
    let due = Due {
        turn: turn(due_at, priority),
        message: rows::id(columns.next()?),
        sender: columns.next_text(rows::sender)?,
        client: columns.next()?,
        recipients: Vec::new(),
        arrived_at: time(columns.next()?)?,
        body: rows::body_ref(columns.next()?)?,
        facts: rows::facts(columns)?,
        options: rows::message_options(columns, priority)?,
    };
    Ok((due, recipient))
}

pub(crate) fn lane_row(db: &Connection, lane: &LaneKey) -> Result<Option<i64>, StoreError> {
    Ok(db
        .prepare_cached("SELECT id FROM lanes WHERE key = ?1")?
        .query_row([lane.as_str()], |row| row.get(0))
        .optional()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Or a message with many recipients is sorted again for each page.
    #[test]
    fn pages_of_a_lane_are_read_in_the_order_of_the_index() {
        let db = Connection::open_in_memory().unwrap();
        db.execute_batch(include_str!("queue.sql")).unwrap();
        for which in [Which::Due, Which::Expired, Which::Unwarned] {
            let mut explain =
                db.prepare(&format!("EXPLAIN QUERY PLAN {}", which.select())).unwrap();
            let steps = explain.query_map([0; 8], |row| row.get::<_, String>(3)).unwrap();
            let steps: Vec<String> = steps.map(Result::unwrap).collect();
            assert_eq!(steps.len(), 1, "{which:?}: {steps:?}");
            let [step] = &steps[..] else { panic!("{steps:?}") };
            assert!(step.contains("COVERING INDEX recipients_due"), "{which:?}: {step}");
        }
    }
}
