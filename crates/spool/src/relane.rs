//! Recipients get another next hop, and so another lane.

use jiff::Timestamp;
use rusqlite::{Connection, params};

use crate::commit::find;
use crate::lane_rows::lane_row;
use crate::message::{LaneKey, RecipientNo};
use crate::rows::{number, recipient_key};
use crate::{MessageId, StoreError};

/// A recipient that shall wait elsewhere.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Move {
    /// Its message, by its id.
    pub message: MessageId,
    /// Its place in the envelope.
    pub no: RecipientNo,
    /// The lane that it waits in from now on.
    pub to: LaneKey,
}

/// Moves those that are still there; returns how many.
pub(crate) fn apply(db: &Connection, moves: &[Move], now: Timestamp) -> Result<u64, StoreError> {
    // Who was tried waits for what was the trouble of another next hop; who was not has a time of
    // its own.
    let mut update = db.prepare_cached(
        "UPDATE recipients SET lane = ?2,
             due_at = CASE attempts WHEN 0 THEN due_at ELSE min(due_at, ?3) END
         WHERE id = ?1",
    )?;
    let mut count = 0;
    let mut last_lane: Option<(&LaneKey, i64)> = None;
    let mut last_message: Option<(MessageId, Option<i64>)> = None;
    for Move { message, no, to } in moves {
        let seq = match last_message {
            Some((id, seq)) if id == *message => seq,
            _ => find(db, *message)?.map(|(seq, _)| seq),
        };
        last_message = Some((*message, seq));
        let Some(seq) = seq else { continue };
        let lane = match last_lane {
            Some((key, lane)) if key == to => lane,
            _ => lane_row(db, to.as_str())?,
        };
        last_lane = Some((to, lane));
        let key = recipient_key(seq, *no);
        count += update.execute(params![key, lane, now.as_millisecond()])?;
    }
    Ok(number(count).unsigned_abs())
}
