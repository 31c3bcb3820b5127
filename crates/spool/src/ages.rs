//! How old the queue is, by next hop: a walk through all recipients, slice by slice.

use std::collections::HashMap;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, params};

use crate::listing::{ListCursor, SCAN_MAX};
use crate::message::LaneKey;
use crate::rows::{self, Columns, time};
use crate::walk::{Table, TableWalk};
use crate::{StoreError, damage};

/// Recipients of a slice, by the lane they wait in and by when their messages arrived.
#[derive(Clone, Debug, Default)]
pub struct AgeSlice {
    /// Of each lane one count more than there are bounds; the name is missing where it is lost.
    pub lanes: Vec<(Option<LaneKey>, Vec<u64>)>,
    /// When the oldest of the messages arrived.
    pub oldest: Option<Timestamp>,
    /// Where to go on; `None`: this was the last slice.
    pub next: Option<ListCursor>,
}

/// What is counted in a slice, by the row of the lane.
struct SliceCounts<'a> {
    /// Times, the latest first. What arrived then or later is counted before it.
    bounds: &'a [Timestamp],
    lanes: HashMap<i64, Vec<u64>>,
    oldest: Option<Timestamp>,
}

impl SliceCounts<'_> {
    fn add(&mut self, lane: i64, arrived: Timestamp) {
        let spans = self.bounds.len() + 1;
        let span = self.bounds.iter().take_while(|bound| arrived < **bound).count();
        let counts = self.lanes.entry(lane).or_insert_with(|| vec![0; spans]);
        counts.iter_mut().skip(span).take(1).for_each(|count| *count += 1);
        self.oldest = Some(self.oldest.map_or(arrived, |oldest| oldest.min(arrived)));
    }
}

/// Counts the next recipients. What cannot be read is left out.
pub(crate) fn slice(
    db: &Connection,
    bounds: &[Timestamp],
    after: Option<ListCursor>,
) -> Result<AgeSlice, StoreError> {
    let before = after.map_or(i64::MIN, ListCursor::key);
    let mut counts = SliceCounts { bounds, lanes: HashMap::new(), oldest: None };
    let mut walk = TableWalk::behind(db, Table::Recipients, before);
    let scanned = scan(&mut walk, &mut counts).and_then(|seen| {
        let is_last = seen < SCAN_MAX;
        if is_last { Ok(None) } else { walk.next().map(Some) }
    });
    let next = match scanned {
        // Rows behind the damaged one may be readable again.
        Err(error) if error.is_damage() => {
            let read = walk.reached().unwrap_or(before);
            damage::next_key(db, read).unwrap_or_default()
        }
        scanned => scanned?,
    };
    let name = |(lane, counts)| Ok((name_of(db, lane)?, counts));
    let lanes: Result<_, StoreError> = counts.lanes.into_iter().map(name).collect();
    Ok(AgeSlice { lanes: lanes?, oldest: counts.oldest, next: next.map(ListCursor::at) })
}

/// Returns how many rows were read.
fn scan(walk: &mut TableWalk<'_>, counts: &mut SliceCounts<'_>) -> Result<usize, StoreError> {
    let db = walk.db();
    // From the next key on, not behind the last one, which may lead to a damaged page.
    let first = walk.reached()?.saturating_add(1);
    let mut select = db.prepare_cached(
        "SELECT r.id, r.lane, m.arrived_at
         FROM recipients r LEFT JOIN messages m ON m.seq = r.id >> 16
         WHERE r.id >= ?1 ORDER BY r.id LIMIT ?2",
    )?;
    let mut found = select.query(params![first, rows::number(SCAN_MAX)])?;
    let mut seen = 0;
    while let Some(row) = found.next()? {
        seen += 1;
        let mut columns = Columns::new(row);
        walk.step(columns.next()?);
        if let (Ok(lane), Ok(Ok(arrived))) = (columns.next(), columns.next().map(time)) {
            counts.add(lane, arrived);
        }
    }
    Ok(seen)
}

fn name_of(db: &Connection, lane: i64) -> Result<Option<LaneKey>, StoreError> {
    let mut select = db.prepare_cached("SELECT key FROM lanes WHERE id = ?1")?;
    let name = select.query_row([lane], |row| {
        Ok(Columns::new(row).next_text(|text| Ok(LaneKey::new(text))).ok())
    });
    match name.optional().map_err(StoreError::from) {
        Err(error) if error.is_damage() => Ok(None),
        name => Ok(name?.flatten()),
    }
}
