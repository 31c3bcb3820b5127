//! The queue as operators see it: listed in pages, acted upon in batches.

use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};
use smtp::{HostName, Mailbox, ReversePath};

use crate::damage::{self, DamagedRecipient, MESSAGE_DAMAGED};
use crate::due::BodyRef;
use crate::message::{
    BodyFacts, LaneKey, MessageOptions, RecipientNo, RecipientOptions, RecipientState,
    StoredProblem,
};
use crate::rows::{self, Columns, count, recipient_key, split_key, time};
use crate::{IdPrefix, MessageId, StoreError};

/// Rows looked at in one read transaction, matching or not: some 30 ms.
pub(crate) const SCAN_MAX: usize = 20_000;

/// Which recipients are meant. Empty: all of them.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Filter {
    /// The domain of the recipient's address.
    pub domain: Option<HostName>,
    /// The lane it waits in.
    pub lane: Option<LaneKey>,
    /// Whether it is held or waits for its time.
    pub state: Option<RecipientState>,
    /// The reason of its last problem.
    pub reason: Option<Box<str>>,
    /// What came later is not meant ([`Spool::end`](crate::Spool::end)).
    pub until: Option<ListCursor>,
}

/// What an operator acts upon.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Selection {
    /// All recipients of these messages. Ids that are not in the queue are skipped.
    Messages(Vec<MessageId>),
    /// All recipients that match.
    Matching(Filter),
}

/// Where a listing or a bulk action goes on. Its text form is for clients to hand back.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ListCursor(i64);

impl ListCursor {
    pub(crate) fn at(key: i64) -> Self {
        Self(key)
    }

    pub(crate) fn key(self) -> i64 {
        self.0
    }

    /// The row of the message that it is in.
    pub(crate) fn message_row(self) -> i64 {
        split_key(self.0).0
    }
}

impl fmt::Display for ListCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for ListCursor {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, ParseIntError> {
        text.parse().map(Self)
    }
}

/// One recipient of one message, with all that `queue list` shows.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct QueueRow {
    /// Its message, by its id.
    pub message: MessageId,
    /// The recipient's place in its envelope.
    pub no: RecipientNo,
    /// Who is told about failures.
    pub sender: ReversePath,
    /// Its address in the envelope.
    pub recipient: Mailbox,
    /// The lane it waits in.
    pub lane: LaneKey,
    /// Whether it is held.
    pub state: RecipientState,
    /// Attempts so far that said something about the destination.
    pub attempts: u32,
    /// Octets of the body.
    pub size: u64,
    /// When the message arrived.
    pub arrived_at: Timestamp,
    /// The time before which its sender does not want it tried.
    pub not_before: Option<Timestamp>,
    /// When it is due; without meaning while held.
    pub next_attempt_at: Timestamp,
    /// When it becomes too old.
    pub expires_at: Timestamp,
    /// What went wrong last.
    pub last: Option<StoredProblem>,
    /// What was asked for with it.
    pub options: RecipientOptions,
}

/// A recipient's place in the queue, without what is known about its mail.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RecipientPlace {
    /// Its message, by its id.
    pub message: MessageId,
    /// The recipient's place in its envelope.
    pub no: RecipientNo,
    /// Whether it is held.
    pub state: RecipientState,
}

/// A page of a listing.
#[derive(Clone, Debug, Default)]
pub struct ListPage {
    /// In the order of arrival; can be empty although there are more pages.
    pub rows: Vec<QueueRow>,
    /// Those that are damaged, and would match as far as can be said.
    pub damaged: Vec<DamagedRecipient>,
    /// Where to go on; `None`: this was the last page.
    pub next: Option<ListCursor>,
}

/// One message with its recipients.
#[derive(Clone, Debug)]
pub struct MessageDetail {
    /// Its id, by which the operator names it.
    pub message: MessageId,
    /// Who is told about failures.
    pub sender: ReversePath,
    /// The client that submitted it, as [`crate::StoredEnvelope::client`].
    pub client: Box<str>,
    /// When it was accepted.
    pub arrived_at: Timestamp,
    /// What is known about the body.
    pub facts: BodyFacts,
    /// Where the body is.
    pub body: BodyRef,
    /// What was asked for with it.
    pub options: MessageOptions,
    /// Those it still waits for.
    pub recipients: Vec<QueueRow>,
}

/// What the queue holds.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counts {
    /// Messages that still have a recipient.
    pub messages: u64,
    /// Recipients that wait for their time.
    pub queued: u64,
    /// Recipients that are held.
    pub held: u64,
}

macro_rules! select_rows {
    ($order:literal) => {
        concat!(
            "SELECT r.id, r.lane, r.state, r.mailbox, r.last_reason, l.key, r.attempts, r.due_at,
                 r.expires_at, r.last_at, r.last_status, r.last_reason, r.last_mx, r.last_text,
                 m.id, m.sender, m.arrived_at, m.not_before, m.size, r.notify, r.original
             FROM recipients r LEFT JOIN lanes l ON l.id = r.lane
                 LEFT JOIN messages m ON m.seq = r.id >> 16
             WHERE r.id BETWEEN ?1 AND ?2 ORDER BY r.id ",
            $order
        )
    };
}

mod scan;

use self::scan::scan;

/// A page of the recipients that match, of at most `limit`.
pub(crate) fn list(
    db: &Connection,
    filter: &Filter,
    after: Option<ListCursor>,
    limit: usize,
) -> Result<ListPage, StoreError> {
    let mut page = ListPage::default();
    let lane = match &filter.lane {
        None => None,
        Some(key) => match crate::due::lane_row(db, key)? {
            None => return Ok(page),
            found => found,
        },
    };
    let before = after.map_or(i64::MIN, |cursor| cursor.0);
    let last = filter.until.map_or(i64::MAX, |until| until.0);
    match scan(db, (filter, lane), [before, last], limit, &mut page) {
        // The row behind the last one that was read. Rows behind that one may be readable again.
        Err(error) if error.is_damage() => {
            let read = page.next.map_or(before, |cursor| cursor.0);
            let hidden = damage::next_key(db, read)?.filter(|key| *key <= last);
            page.next = hidden.map(ListCursor);
            if let Some(key) = hidden {
                let damaged = damage::find_hidden(db, key)?;
                page.damaged.extend(damaged.filter(|one| may_match(one, filter)));
            }
            Ok(page)
        }
        Err(other) => Err(other),
        Ok(()) => {
            // Behind everybody else come messages whose recipients are all gone.
            let is_last = page.next.is_none();
            let are_wanted = is_last && filter.domain.is_none() && filter.lane.is_none();
            let mut after = are_wanted.then_some(i64::MIN);
            while let Some(seq) = after {
                let (lonely, next) = damage::lonely(db, seq)?;
                page.damaged.extend(lonely.into_iter().filter(|one| may_match(one, filter)));
                after = next;
            }
            Ok(page)
        }
    }
}

/// Whatever is damaged is held, or is about to be.
fn may_match(damaged: &DamagedRecipient, filter: &Filter) -> bool {
    let is_held = filter.state.is_none_or(|state| state == RecipientState::Held);
    let is_reason = filter.reason.as_ref().is_none_or(|reason| **reason == *MESSAGE_DAMAGED);
    let is_there = filter.domain.as_ref().is_none_or(|wanted| may_be_at(&damaged.address, wanted));
    is_held && is_reason && is_there && filter.lane.is_none()
}

/// The last row that there is.
pub(crate) fn end(db: &Connection) -> Result<ListCursor, StoreError> {
    let mut select = db.prepare_cached("SELECT coalesce(max(id), 0) FROM recipients")?;
    Ok(ListCursor(select.query_row([], |row| row.get(0))?))
}

/// The row if it matches. What decides is read first, the rest only then.
fn read_if(
    columns: &mut Columns<'_, '_>,
    key: i64,
    filter: &Filter,
    lane: Option<i64>,
) -> Result<Option<QueueRow>, StoreError> {
    let own_lane: i64 = columns.next()?;
    let state = rows::state(columns.next()?)?;
    let recipient = columns.next_text(|text| {
        if filter.domain.as_ref().is_none_or(|wanted| may_be_at(text, wanted)) {
            let recipient = rows::mailbox(text)?;
            let is_wanted = |wanted| recipient.domain().name() == Some(wanted);
            Ok(filter.domain.as_ref().is_none_or(is_wanted).then_some(recipient))
        } else {
            Ok(None)
        }
    })?;
    let reason: Option<Box<str>> = columns.next()?;
    let Some(recipient) = recipient else { return Ok(None) };
    if lane.is_some_and(|wanted| wanted != own_lane)
        || filter.state.is_some_and(|wanted| wanted != state)
        || filter.reason.as_ref().is_some_and(|wanted| reason.as_ref() != Some(wanted))
    {
        return Ok(None);
    }
    Ok(Some(QueueRow {
        no: split_key(key).1,
        recipient,
        state,
        lane: columns.next_text(|text| Ok(LaneKey::new(text)))?,
        attempts: count(columns.next()?)?,
        next_attempt_at: time(columns.next()?)?,
        expires_at: time(columns.next()?)?,
        last: rows::problem(columns)?,
        message: rows::id(columns.next()?),
        sender: columns.next_text(rows::sender)?,
        arrived_at: time(columns.next()?)?,
        not_before: rows::optional_time(columns.next()?)?,
        size: count(columns.next()?)?,
        options: rows::recipient_options(columns)?,
    }))
}

/// Without reading the whole address: a domain in U-labels may be any.
fn may_be_at(address: &str, domain: &HostName) -> bool {
    let written = address.rsplit_once('@').map_or("", |(_, domain)| domain);
    !written.is_ascii() || written.eq_ignore_ascii_case(domain.as_str())
}

/// One message and all its recipients.
pub(crate) fn show(db: &Connection, id: MessageId) -> Result<Option<MessageDetail>, StoreError> {
    let mut select = db.prepare_cached(
        "SELECT seq,
             (SELECT priority FROM recipients WHERE id BETWEEN seq << 16 AND (seq << 16) + 65535),
             sender, client, arrived_at, place, size, header_len, has_8bit, longest_line,
             ends_with_newline, received_count, ret, envelope_id, smtp_utf8, require_tls, deliver_by, deliver_by_mode, not_before, user
         FROM messages WHERE id = ?1",
    )?;
    let found = select
        .query_row([id.to_bytes()], |row| Ok(read_message(&mut Columns::new(row), id)))
        .optional()?;
    let Some((seq, mut detail)) = found.transpose()? else { return Ok(None) };
    let mut select = db.prepare_cached(select_rows!(""))?;
    let (first, last) = (RecipientNo(0), RecipientNo(u16::MAX));
    let mut found = select.query([recipient_key(seq, first), recipient_key(seq, last)])?;
    while let Some(row) = found.next()? {
        let mut columns = Columns::new(row);
        let key = columns.next()?;
        match read_if(&mut columns, key, &Filter::default(), None) {
            Ok(row) => detail.recipients.extend(row),
            Err(StoreError::Corrupt { .. }) => {}
            Err(other) => return Err(other),
        }
    }
    Ok(Some(detail))
}

fn read_message(
    columns: &mut Columns<'_, '_>,
    message: MessageId,
) -> Result<(i64, MessageDetail), StoreError> {
    let seq = columns.next()?;
    let priority: Option<i64> = columns.next()?;
    let priority = rows::priority(priority.unwrap_or_default())?;
    let detail = MessageDetail {
        message,
        sender: columns.next_text(rows::sender)?,
        client: columns.next()?,
        arrived_at: time(columns.next()?)?,
        body: rows::body_ref(columns.next()?)?,
        facts: rows::facts(columns)?,
        options: rows::message_options(columns, priority)?,
        recipients: Vec::new(),
    };
    Ok((seq, detail))
}

/// Where the recipients of a message are; in `lane` only, if that is given. Nothing else of the
/// rows is read, so that damage elsewhere does not matter; a recipient with an unknown state is
/// left out.
pub(crate) fn places(
    db: &Connection,
    message: MessageId,
    lane: Option<&LaneKey>,
) -> Result<Vec<RecipientPlace>, StoreError> {
    let mut select = db.prepare_cached(
        "SELECT r.id, r.state FROM recipients r
         WHERE r.id BETWEEN (SELECT seq << 16 FROM messages WHERE id = ?1)
                 AND (SELECT (seq << 16) + 65535 FROM messages WHERE id = ?1)
             AND (?2 IS NULL OR r.lane = (SELECT id FROM lanes WHERE key = ?2))
         ORDER BY r.id",
    )?;
    let mut found = select.query(params![message.to_bytes(), lane.map(LaneKey::as_str)])?;
    let mut places = Vec::new();
    while let Some(row) = found.next()? {
        let mut columns = Columns::new(row);
        let no = split_key(columns.next()?).1;
        let state = columns.next().and_then(rows::state);
        places.extend(state.ok().map(|state| RecipientPlace { message, no, state }));
    }
    Ok(places)
}

/// The first messages whose ids begin so.
pub(crate) fn ids(
    db: &Connection,
    prefix: IdPrefix,
    limit: usize,
) -> Result<Vec<MessageId>, StoreError> {
    let mut select = db.prepare_cached(
        "SELECT id FROM messages WHERE id BETWEEN ?1 AND ?2 ORDER BY id LIMIT ?3",
    )?;
    let [first, last] = prefix.bounds();
    let mut found = select.query(params![first, last, rows::number(limit)])?;
    let mut ids = Vec::new();
    while let Some(row) = found.next()? {
        ids.push(rows::id(Columns::new(row).next()?));
    }
    Ok(ids)
}

/// Messages and recipients, by one pass over two indexes.
pub(crate) fn counts(db: &Connection) -> Result<Counts, StoreError> {
    let mut select = db.prepare_cached(
        "SELECT (SELECT count(*) FROM messages), count(*) FILTER (WHERE state = 0),
             count(*) FILTER (WHERE state = 1)
         FROM recipients INDEXED BY recipients_due",
    )?;
    let (messages, queued, held): (i64, i64, i64) =
        select.query_row([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    Ok(Counts { messages: count(messages)?, queued: count(queued)?, held: count(held)? })
}
