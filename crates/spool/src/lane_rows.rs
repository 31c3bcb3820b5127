//! The rows of lanes: made with the first recipient, gone with the last, as long as nothing has to
//! be remembered.

use jiff::{SignedDuration, Timestamp};
use rusqlite::{Connection, OptionalExtension, params};

use crate::StoreError;
use crate::message::{LaneState, LaneUpdate};
use crate::rows::problem_values;
use crate::spool::Spool;
use crate::writer::{Needs, Order, Urgency};

/// Rows looked at in one transaction: some 2 ms.
const SLICE: i64 = 256;
/// Our choice: a failing lane without mail is forgotten this long after its next probe would have
/// been.
const TROUBLE_KEPT: SignedDuration = SignedDuration::from_hours(24);

/// What a look at a slice of the lanes came to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Swept {
    /// Rows that were removed.
    pub removed: usize,
    /// Where the next look begins; `None`: that was the last slice.
    pub next: Option<i64>,
}

impl Spool {
    /// Removes unused rows of lanes from the next few after row `after`: those that an operator has
    /// emptied, that failed and have had no mail for a day, and those that former releases left
    /// behind. A few milliseconds of the writer.
    pub fn sweep_lanes<D>(&self, after: i64, now: Timestamp, done: D)
    where
        D: FnOnce(Result<Swept, StoreError>) + Send + 'static,
    {
        let stale = now.saturating_sub(TROUBLE_KEPT).unwrap_or(now).as_millisecond();
        let order = Order::needing(Urgency::Ordinary, Needs::Nothing);
        let sweep = move |db: &Connection| {
            let last: Option<i64> = db
                .prepare_cached(
                    "SELECT max(id) FROM (SELECT id FROM lanes WHERE id > ?1 ORDER BY id LIMIT ?2)",
                )?
                .query_row([after, SLICE], |row| row.get(0))?;
            let Some(last) = last else { return Ok(Swept { removed: 0, next: None }) };
            let removed = db
                .prepare_cached(
                    "DELETE FROM lanes WHERE id > ?1 AND id <= ?2 AND (failures = 0 OR next_probe_at < ?3)
                         AND NOT EXISTS (SELECT 1 FROM recipients WHERE lane = lanes.id)",
                )?
                .execute([after, last, stale])?;
            Ok(Swept { removed, next: Some(last) })
        };
        self.write_ordered(order, sweep, done);
    }
}

/// The row of a lane, made if it is new.
pub(crate) fn lane_row(db: &Connection, key: &str) -> Result<i64, StoreError> {
    let found = db
        .prepare_cached("SELECT id FROM lanes WHERE key = ?1")?
        .query_row([key], |row| row.get(0))
        .optional()?;
    if let Some(lane) = found {
        return Ok(lane);
    }
    db.prepare_cached("INSERT INTO lanes (key, failures) VALUES (?1, 0)")?.execute([key])?;
    let lane = db.last_insert_rowid();
    db.prepare_cached("UPDATE lanes SET crc = row_crc(id, key) WHERE id = ?1")?.execute([lane])?;
    Ok(lane)
}

/// Removes the row of a healthy lane that nobody waits in.
pub(crate) fn remove_if_unused(db: &Connection, lane: i64) -> Result<(), StoreError> {
    // Under load others wait there, and that costs one look at an index.
    if db.prepare_cached("SELECT 1 FROM recipients WHERE lane = ?1 LIMIT 1")?.exists([lane])? {
        return Ok(());
    }
    db.prepare_cached("DELETE FROM lanes WHERE id = ?1 AND failures = 0")?.execute([lane])?;
    Ok(())
}

/// Records what a lane learnt.
pub(crate) fn update_lane(db: &Connection, update: &LaneUpdate) -> Result<(), StoreError> {
    let LaneState::Failing(trouble) = &update.state else {
        db.prepare_cached(
            "UPDATE lanes SET failures = 0, next_probe_at = NULL, first_failed_at = NULL,
                 last_at = NULL, last_status = NULL, last_reason = NULL, last_mx = NULL,
                 last_text = NULL
             WHERE key = ?1 AND failures > 0",
        )?
        .execute([update.key.as_str()])?;
        return Ok(());
    };
    let lane = lane_row(db, update.key.as_str())?;
    let [at, status, reason, mx, text] = problem_values(Some(&trouble.problem));
    db.prepare_cached(
        "UPDATE lanes SET failures = ?2, next_probe_at = ?3, first_failed_at = ?4, last_at = ?5,
             last_status = ?6, last_reason = ?7, last_mx = ?8, last_text = ?9
         WHERE id = ?1",
    )?
    .execute(params![
        lane,
        trouble.failures.max(1),
        trouble.next_probe_at.as_millisecond(),
        trouble.first_failed_at.as_millisecond(),
        at,
        status,
        reason,
        mx,
        text,
    ])?;
    Ok(())
}
