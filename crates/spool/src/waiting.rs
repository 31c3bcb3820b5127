//! For whom does mail wait? Exact, and by index, so that it may be asked often.

use std::collections::BTreeSet;

use rusqlite::{Connection, params};
use smtp::HostName;

use crate::message::{LaneKey, RecipientState};
use crate::rows::{Columns, number, state_code};
use crate::spool::Spool;
use crate::walk::{Table, TableWalk};
use crate::writer::Needs;
use crate::{ListCursor, StoreError, rows};

impl Spool {
    /// The lanes in which mail waits, held mail too. Blocks for one look into an index for each of
    /// them: 0.2 s for 100,000.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the queue cannot be read.
    pub fn lanes_with_mail(&self) -> Result<Vec<LaneKey>, StoreError> {
        let young: Vec<LaneKey> = self.young().lock().lanes().cloned().collect();
        self.read_queue(|db| {
            let mut select = db.prepare_cached(
                "WITH RECURSIVE used (lane) AS (
                     SELECT min(lane) FROM recipients
                     UNION
                     SELECT (SELECT min(lane) FROM recipients WHERE lane > used.lane)
                     FROM used WHERE lane IS NOT NULL)
                 SELECT key FROM used CROSS JOIN lanes ON lanes.id = used.lane",
            )?;
            let mut found = select.query([])?;
            let mut lanes = Vec::new();
            while let Some(row) = found.next()? {
                lanes.push(Columns::new(row).next_text(|text| Ok(LaneKey::new(text)))?);
            }
            let known: BTreeSet<LaneKey> = lanes.iter().cloned().collect();
            lanes.extend(young.into_iter().filter(|lane| !known.contains(lane)));
            Ok(lanes)
        })
    }

    /// Does mail wait in one of these lanes, held mail too? Blocks for a few reads by index.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the queue cannot be read.
    pub fn has_mail(&self, lanes: &[LaneKey]) -> Result<bool, StoreError> {
        if lanes.iter().any(|lane| self.young().lock().count_in(lane, 1) > 0) {
            return Ok(true);
        }
        self.read_queue(|db| {
            for lane in lanes {
                if has_mail(db, lane)? {
                    return Ok(true);
                }
            }
            Ok(false)
        })
    }

    /// How many recipients are queued in `lane`, counted up to `most`. Blocks for one look at an
    /// index.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the queue cannot be read.
    pub fn count_queued(&self, lane: &LaneKey, most: u64) -> Result<u64, StoreError> {
        let young = self.young().lock().count_in(lane, most);
        let count = self.read_queue(|db| count(db, lane, RecipientState::Queued, most))?;
        Ok(count.saturating_add(young).min(most))
    }

    /// The same of those that are held.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the queue cannot be read.
    pub fn count_held(&self, lane: &LaneKey, most: u64) -> Result<u64, StoreError> {
        self.read_queue(|db| count(db, lane, RecipientState::Held, most))
    }

    /// The domains of up to `limit` recipients that wait in `lane`; call again with the cursor
    /// until there is none.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the queue cannot be read.
    pub fn domains_in(
        &self,
        lane: &LaneKey,
        after: Option<ListCursor>,
        limit: usize,
    ) -> Result<(BTreeSet<HostName>, Option<ListCursor>), StoreError> {
        self.bring_in(Needs::Everything)?;
        self.read_queue(|db| {
            let mut select = db.prepare_cached(
                "SELECT id, mailbox FROM recipients
                 WHERE id > ?1 AND +lane = (SELECT id FROM lanes WHERE key = ?2)
                 ORDER BY id LIMIT ?3",
            )?;
            let after = after.map_or(i64::MIN, ListCursor::key);
            let mut found = select.query(params![after, lane.as_str(), number(limit)])?;
            let (mut domains, mut seen) = (BTreeSet::new(), 0);
            let mut walk = TableWalk::behind(db, Table::Recipients, after);
            while let Some(row) = found.next()? {
                let mut columns = Columns::new(row);
                walk.step(columns.next()?);
                seen += 1;
                let mailbox = columns.next_text(rows::mailbox);
                domains.extend(mailbox.ok().and_then(|mailbox| mailbox.domain().name().cloned()));
            }
            let next = if seen == limit { Some(ListCursor::at(walk.next()?)) } else { None };
            Ok((domains, next))
        })
    }
}

fn count(
    db: &Connection,
    lane: &LaneKey,
    state: RecipientState,
    most: u64,
) -> Result<u64, StoreError> {
    let mut select = db.prepare_cached(
        "SELECT count(*) FROM (SELECT 1 FROM recipients
         WHERE lane = (SELECT id FROM lanes WHERE key = ?1) AND state = ?2 LIMIT ?3)",
    )?;
    let wanted = params![lane.as_str(), state_code(state), number(most)];
    let count: i64 = select.query_row(wanted, |row| row.get(0))?;
    Ok(count.unsigned_abs())
}

fn has_mail(db: &Connection, lane: &LaneKey) -> Result<bool, StoreError> {
    let mut select = db.prepare_cached(
        "SELECT EXISTS (SELECT 1 FROM recipients
             WHERE lane = (SELECT id FROM lanes WHERE key = ?1))",
    )?;
    Ok(select.query_row([lane.as_str()], |row| row.get(0))?)
}
