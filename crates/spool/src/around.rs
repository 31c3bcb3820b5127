//! What can still be read of damaged pages: every order in which rows can be walked, from both
//! ends, up to the first damaged page.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use rusqlite::{Connection, Row};

use crate::message::{LaneKey, LaneState, LaneSummary};
use crate::waiting_lanes::WaitingLanes;

const NAMES: [&str; 4] = [
    "SELECT id, key FROM lanes NOT INDEXED WHERE crc IS NULL OR crc = row_crc(id, key) ORDER BY id",
    "SELECT id, key FROM lanes NOT INDEXED WHERE crc IS NULL OR crc = row_crc(id, key) ORDER BY id DESC",
    "SELECT id, key FROM lanes INDEXED BY sqlite_autoindex_lanes_1 WHERE key > '' ORDER BY key",
    "SELECT id, key FROM lanes INDEXED BY sqlite_autoindex_lanes_1 WHERE key > '' ORDER BY key DESC",
];
const WAITING: [&str; 4] = [
    "SELECT lane FROM recipients INDEXED BY recipients_due WHERE state = 0 AND lane > 0
     ORDER BY lane",
    "SELECT lane FROM recipients INDEXED BY recipients_due WHERE state = 0 AND lane > 0
     ORDER BY lane DESC",
    "SELECT lane FROM recipients NOT INDEXED WHERE state = 0 ORDER BY id",
    "SELECT lane FROM recipients NOT INDEXED WHERE state = 0 ORDER BY id DESC",
];

/// Calls `take` with each row that can be read by this statement.
fn walk(db: &Connection, sql: &str, mut take: impl FnMut(&Row<'_>)) -> rusqlite::Result<()> {
    let mut select = db.prepare(sql)?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        take(row);
    }
    Ok(())
}

/// The lanes in which mail waits, as far as they can be found. What of it is due is not known: it
/// is looked at now.
pub(crate) fn lanes(db: &Connection) -> WaitingLanes {
    let (mut names, mut waiting) = (BTreeMap::new(), BTreeSet::new());
    for sql in NAMES {
        // It ends at the first damaged page.
        let _ = walk(db, sql, |row| {
            if let (Ok(id), Ok(key)) = (row.get::<_, i64>(0), row.get::<_, String>(1)) {
                // The table comes first: an index has no checksum.
                names.entry(id).or_insert_with(|| LaneKey::new(&key));
            }
        });
    }
    for sql in WAITING {
        let _ = walk(db, sql, |row| waiting.extend(row.get::<_, i64>(0)));
    }
    let summary = |key| LaneSummary {
        key,
        queued: 1,
        earliest_due: Some(Timestamp::MIN),
        earliest_expiry: Some(Timestamp::MIN),
        state: LaneState::Healthy,
    };
    let lanes = waiting.iter().filter_map(|lane| names.remove(lane)).map(summary).collect();
    // Names may be missing only because they cannot be read: none is given anew.
    WaitingLanes { lanes, nameless: Vec::new() }
}
