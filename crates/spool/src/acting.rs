//! What operators do to recipients in the queue: in the writer's transaction, and with the names of
//! those that it was done to.

use std::path::PathBuf;

use jiff::Timestamp;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, params_from_iter};

use crate::commit::{file_of, find, remove_if_done};
use crate::hold_reasons;
use crate::layout::Layout;
use crate::listing::ListCursor;
use crate::message::{LaneKey, RecipientNo, RecipientState, Settled};
use crate::rows::{self, Columns, recipient_key, split_key, state_code};
use crate::{MessageId, StoreError};

/// What an operator does to recipients.
#[derive(Clone, Copy, Debug)]
pub(crate) enum BulkAction {
    Delete,
    Retry(Timestamp),
    Hold,
    Release(Timestamp),
    /// Undoes a hold of a moment ago: due when it was.
    GiveBack,
}

/// What one batch of a bulk action did.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Acted {
    /// Recipients that were changed.
    pub recipients: u64,
    /// Which those are; not told where an action changes nothing that people look for.
    pub rows: Vec<ActedRow>,
    /// The lanes they are in, each once.
    pub lanes: Vec<LaneKey>,
    /// Where to go on; `None`: all is done.
    pub next: Option<ListCursor>,
}

/// A recipient that was held, released or deleted. Addresses are as they stand in the store, which
/// may be damaged.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ActedRow {
    /// Its message, by its id.
    pub message: MessageId,
    /// The recipient's place in its envelope.
    pub no: RecipientNo,
    /// Who sent it; empty: a DSN.
    pub sender: Box<str>,
    /// Its address in the envelope.
    pub recipient: Box<str>,
}

/// Recipients that an action is for; all of the message's where there is no number.
pub(crate) type ActionTarget = (MessageId, Option<RecipientNo>);

/// Applies an action in the writer's transaction. Rows are found anew by message id, since what
/// was listed may have left meanwhile.
pub(crate) fn act(
    db: &Connection,
    layout: &Layout,
    action: BulkAction,
    targets: &[ActionTarget],
) -> Result<(Acted, Vec<PathBuf>), StoreError> {
    let (mut acted, mut files) = (Acted::default(), Vec::new());
    for (id, no) in targets {
        let Some((seq, body)) = find(db, *id)? else { continue };
        let (first, last) = no.map_or((RecipientNo(0), RecipientNo(u16::MAX)), |no| (no, no));
        let keys = [recipient_key(seq, first), recipient_key(seq, last)];
        note_lanes(db, keys, &mut acted.lanes)?;
        let changed = act_on(db, action, keys)?;
        acted.recipients += rows::number(changed.len()).unsigned_abs();
        let is_told = match action {
            BulkAction::Delete | BulkAction::Hold | BulkAction::Release(_) => !changed.is_empty(),
            BulkAction::Retry(_) | BulkAction::GiveBack => false,
        };
        if is_told {
            let sender = sender_of(db, seq)?;
            let row =
                |(no, recipient)| ActedRow { message: *id, no, sender: sender.clone(), recipient };
            acted.rows.extend(changed.into_iter().map(row));
        }
        if !matches!(action, BulkAction::Hold | BulkAction::Retry(_)) {
            hold_reasons::forget(db, *id, seq)?;
        }
        if matches!(action, BulkAction::Delete) && remove_if_done(db, seq)? == Settled::Gone {
            files.extend(file_of(layout, *id, body));
        }
    }
    Ok((acted, files))
}

fn note_lanes(db: &Connection, keys: [i64; 2], lanes: &mut Vec<LaneKey>) -> Result<(), StoreError> {
    let mut select = db.prepare_cached(
        "SELECT DISTINCT l.key FROM recipients r JOIN lanes l ON l.id = r.lane
         WHERE r.id BETWEEN ?1 AND ?2",
    )?;
    let mut found = select.query(keys)?;
    while let Some(row) = found.next()? {
        let lane = Columns::new(row).next_text(|text| Ok(LaneKey::new(text)))?;
        if !lanes.contains(&lane) {
            lanes.push(lane);
        }
    }
    Ok(())
}

fn sender_of(db: &Connection, seq: i64) -> Result<Box<str>, StoreError> {
    let mut select = db.prepare_cached("SELECT sender FROM messages WHERE seq = ?1")?;
    Ok(select.query_row([seq], |row| Ok(text_of(row.get_ref(0)?)))?)
}

/// A text that may be damaged, for people.
fn text_of(value: ValueRef<'_>) -> Box<str> {
    value.as_bytes().map(String::from_utf8_lossy).unwrap_or_default().into()
}

/// Does it, and returns which recipients it was done to: place and address.
fn act_on(
    db: &Connection,
    action: BulkAction,
    [first, last]: [i64; 2],
) -> Result<Vec<(RecipientNo, Box<str>)>, StoreError> {
    let (queued, held) = (state_code(RecipientState::Queued), state_code(RecipientState::Held));
    let between = "WHERE id BETWEEN ?1 AND ?2";
    // The operator does not overrule the time that the sender named.
    let due = "(SELECT max(?3, coalesce(not_before, ?3)) FROM messages
             WHERE seq = recipients.id >> 16)";
    let (sql, parameters): (String, Vec<i64>) = match action {
        BulkAction::Delete => (format!("DELETE FROM recipients {between}"), vec![]),
        BulkAction::Retry(now) => (
            format!("UPDATE recipients SET due_at = {due} {between} AND state = ?4"),
            vec![now.as_millisecond(), queued],
        ),
        BulkAction::Hold => (
            format!("UPDATE recipients SET state = ?3 {between} AND state = ?4"),
            vec![held, queued],
        ),
        BulkAction::Release(now) => (
            format!("UPDATE recipients SET state = ?5, due_at = {due} {between} AND state = ?4"),
            vec![now.as_millisecond(), held, queued],
        ),
        BulkAction::GiveBack => (
            format!("UPDATE recipients SET state = ?4 {between} AND state = ?3"),
            vec![held, queued],
        ),
    };
    let mut statement = db.prepare_cached(&format!("{sql} RETURNING id, mailbox"))?;
    let all = [first, last].into_iter().chain(parameters);
    let mut changed = statement.query(params_from_iter(all))?;
    let mut rows = Vec::new();
    while let Some(row) = changed.next()? {
        rows.push((split_key(row.get(0)?).1, text_of(row.get_ref(1)?)));
    }
    Ok(rows)
}
