//! Recipients whose sender has named a time by which they are to be reached (BY, RFC 2852).

use jiff::Timestamp;
use rusqlite::{Connection, params};

use crate::commit::find;
use crate::due::{DuePage, lane_row, row};
use crate::message::{LaneKey, RecipientNo};
use crate::rows::{self, Columns, number, optional_time, recipient_key};
use crate::{MessageId, StoreError, damage};

/// A message whose time by BY is over, and a lane where recipients of it still wait for that.
pub type Overdue = (MessageId, LaneKey);

/// When the next deadline is that was not dealt with.
pub(crate) fn next_deadline(
    db: &Connection,
    after: Timestamp,
) -> Result<Option<Timestamp>, StoreError> {
    let found: Option<i64> = db
        .prepare_cached(
            "SELECT min(deadline) FROM recipients INDEXED BY recipients_deadline
             WHERE deadline > ?1",
        )?
        .query_row([after.as_millisecond()], |row| row.get(0))?;
    optional_time(found)
}

/// A page of what is overdue.
#[derive(Clone, Debug, Default)]
pub struct OverduePage {
    /// The earliest first; can name the same twice.
    pub overdue: Vec<Overdue>,
    /// Where to go on; `None`: this was the last page.
    pub next: Option<OverdueCursor>,
}

/// Where a page of what is overdue ended.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct OverdueCursor {
    deadline: i64,
    key: i64,
}

/// A page of the messages and lanes of recipients with a deadline at `at` or before.
pub(crate) fn overdue(
    db: &Connection,
    at: Timestamp,
    after: Option<OverdueCursor>,
    limit: usize,
) -> Result<OverduePage, StoreError> {
    let after = after.unwrap_or(OverdueCursor { deadline: i64::MIN, key: i64::MIN });
    let mut select = db.prepare_cached(
        "SELECT r.deadline, r.id, m.id, l.key FROM recipients r INDEXED BY recipients_deadline
             CROSS JOIN messages m ON m.seq = r.id >> 16 CROSS JOIN lanes l ON l.id = r.lane
         WHERE r.deadline <= ?1 AND (r.deadline, r.id) > (?2, ?3)
         ORDER BY r.deadline, r.id LIMIT ?4",
    )?;
    let until = at.as_millisecond();
    let mut found = select.query(params![until, after.deadline, after.key, number(limit)])?;
    let mut page = OverduePage::default();
    let mut seen = 0;
    while let Some(row) = found.next()? {
        seen += 1;
        let mut columns = Columns::new(row);
        let place = OverdueCursor { deadline: columns.next()?, key: columns.next()? };
        // One that stands in a wrong place was in a page before, and must not make this one the
        // same.
        if place <= after {
            continue;
        }
        page.next = page.next.max(Some(place));
        // What cannot be read is found where it waits.
        let Ok(message) = columns.next().map(rows::id) else { continue };
        let Ok(lane) = columns.next_text(|text| Ok(LaneKey::new(text))) else { continue };
        let overdue = (message, lane);
        if page.overdue.last() != Some(&overdue) {
            page.overdue.push(overdue);
        }
    }
    if seen < limit {
        page.next = None;
    }
    Ok(page)
}

/// The recipients of one message and lane with a deadline before `at`, held ones too.
pub(crate) fn overdue_of(
    db: &Connection,
    (message, lane): &Overdue,
    at: Timestamp,
) -> Result<DuePage, StoreError> {
    let mut page = DuePage::default();
    let (Some((seq, _)), Some(lane)) = (find(db, *message)?, lane_row(db, lane)?) else {
        return Ok(page);
    };
    let mut select = db.prepare_cached(
        "SELECT id FROM recipients
         WHERE id BETWEEN ?1 AND ?2 AND lane = ?3 AND deadline <= ?4 ORDER BY id",
    )?;
    let (first, last) = (RecipientNo(0), RecipientNo(u16::MAX));
    let (first, last) = (recipient_key(seq, first), recipient_key(seq, last));
    let mut found = select.query([first, last, lane, at.as_millisecond()])?;
    while let Some(found) = found.next()? {
        let key = found.get(0)?;
        match row(db, key) {
            Ok(Some((due, recipient))) => page.add(due, recipient),
            Err(error) if !error.is_damage() => return Err(error),
            Ok(None) | Err(_) => page.damaged.extend(damage::find(db, key)?),
        }
    }
    Ok(page)
}
