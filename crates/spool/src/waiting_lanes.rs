//! The lanes that matter at a start: by one pass over an index and one over their table.

use jiff::Timestamp;
use rusqlite::Connection;

use crate::damage::INDEX;
use crate::message::{LaneKey, LaneState, LaneSummary, LaneTrouble};
use crate::rows::{self, Columns, count, time};
use crate::{StoreError, due};

/// Those in which mail waits that is not held, and those that failed: one pass over the index and
/// one over the lanes.
pub(crate) fn lanes(db: &Connection, index: Index) -> Result<WaitingLanes, StoreError> {
    let mut loads = db.prepare_cached(
        "SELECT lane, count(*), min(due_at), min(expires_at)
         FROM recipients INDEXED BY recipients_due WHERE state = 0 GROUP BY lane ORDER BY lane",
    )?;
    let mut loads = loads.query([])?;
    let mut select = db.prepare_cached(
        "SELECT id, crc IS NULL OR crc = row_crc(id, key), key, failures, next_probe_at, first_failed_at, last_at,
             last_status, last_reason, last_mx, last_text
         FROM lanes ORDER BY id",
    )?;
    let mut rows = select.query([])?;
    let mut load = next_load(&mut loads)?;
    let mut found = WaitingLanes::default();
    while let Some(row) = rows.next()? {
        let mut columns = Columns::new(row);
        let lane: i64 = columns.next()?;
        while let Some(left) = load.take_if(|load| load.lane < lane) {
            found.nameless.push(left.lane);
            load = next_load(&mut loads)?;
        }
        let own = load.take_if(|load| load.lane == lane);
        if own.is_some() {
            load = next_load(&mut loads)?;
        }
        // Nothing to remember, nothing to do.
        if own.is_none() && row.get::<_, i64>(3).is_ok_and(|failures| failures == 0) {
            continue;
        }
        let is_whole: bool = columns.next()?;
        let name = columns.next_text(|text| Ok(LaneKey::new(text)));
        let Some(key) = name.ok().filter(|_| is_whole) else {
            found.nameless.push(lane);
            continue;
        };
        if index == Index::Compared && due::lane_row(db, &key)? != Some(lane) {
            return Err(StoreError::Corrupt { what: INDEX });
        }
        let own = own.unwrap_or_default();
        // What cannot be read is looked at now, and named.
        let soonest = |at: i64| time(at).unwrap_or(Timestamp::MIN);
        found.lanes.push(LaneSummary {
            key,
            queued: own.queued,
            earliest_due: own.due_at.map(soonest),
            earliest_expiry: own.expires_at.map(soonest),
            // A lane whose trouble cannot be read is probed like a healthy one.
            state: rows::lane_state(&mut columns).unwrap_or(LaneState::Healthy),
        });
    }
    while let Some(left) = load {
        found.nameless.push(left.lane);
        load = next_load(&mut loads)?;
    }
    Ok(found)
}

/// Those that failed, and how: one pass over their table, which is as long as the queue is wide.
pub(crate) fn troubles(db: &Connection) -> Result<Vec<(LaneKey, LaneTrouble)>, StoreError> {
    let mut select = db.prepare_cached(
        "SELECT key, failures, next_probe_at, first_failed_at, last_at, last_status, last_reason, last_mx, last_text
         FROM lanes NOT INDEXED WHERE failures > 0",
    )?;
    let mut rows = select.query([])?;
    let mut troubles = Vec::new();
    while let Some(row) = rows.next()? {
        let mut columns = Columns::new(row);
        // What cannot be read is named at the start.
        let Ok(key) = columns.next_text(|text| Ok(LaneKey::new(text))) else { continue };
        if let Ok(LaneState::Failing(trouble)) = rows::lane_state(&mut columns) {
            troubles.push((key, trouble));
        }
    }
    Ok(troubles)
}

/// Is the index of their names compared with them? That doubles the time, and is done at a start.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Index {
    Compared,
    Trusted,
}

/// All lanes that matter.
#[derive(Clone, Debug, Default)]
pub(crate) struct WaitingLanes {
    pub(crate) lanes: Vec<LaneSummary>,
    /// Rows whose name cannot be read, or that are gone although recipients wait there.
    pub(crate) nameless: Vec<i64>,
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
