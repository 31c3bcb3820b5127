//! The operator takes mail out of the queue: it is held, deleted or returned.
//!
//! What is chosen is held first, whatever is to become of it. Only then it is asked what of it is
//! under way: what no host has heard of is withdrawn, and the rest, which a host may just be
//! taking, is queued again as it was and left to its attempt ([`crate::delivery::underway`]). What
//! is held then and not under way stays so, since nothing that is started later finds it queued. A
//! crash in between leaves mail held: never lost, never both sent and gone.

use std::collections::HashSet;
use std::sync::Arc;

use spool::{
    Acted, ActedRow, Filter, MessageId, RecipientNo, RecipientPlace, RecipientState, Selection,
    Spool, StoreError,
};

use crate::queue::bounce;
use crate::queue::events::Event;
use crate::queue::handle::QueueHandle;

/// Recipients, or messages chosen by id, that are dealt with at once: commits of mail wait some 10
/// ms for it.
const PAGE: usize = 500;

/// What becomes of mail that is taken out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Verb<'a> {
    /// It stays, and is not tried.
    Hold {
        /// In the operator's words.
        why: Option<&'a str>,
    },
    /// It is gone, and nobody is told.
    Delete,
    /// It is gone, and its senders are told.
    Bounce,
}

/// Is given each recipient that something was done to.
pub(crate) type RowTeller<'a> = &'a (dyn Fn(&ActedRow) + Sync);

/// How many recipients it was.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct TakenOut {
    /// That is done to them.
    pub(crate) count: u64,
    /// They are being sent at this moment, and stay as they are.
    pub(crate) being_sent: u64,
}

/// Does `verb` to what is selected and was in the queue when this began: what comes meanwhile,
/// DSNs that it makes included, is not meant. `told` is given what was held or deleted.
///
/// # Errors
///
/// [`StoreError`]; what was done before is done, and some may be held.
pub(crate) async fn take_out(
    handle: &Arc<QueueHandle>,
    verb: Verb<'_>,
    selection: Selection,
    told: RowTeller<'_>,
) -> Result<TakenOut, StoreError> {
    let mut total = TakenOut::default();
    match selection {
        Selection::Messages(ids) => {
            for ids in ids.chunks(PAGE).map(<[MessageId]>::to_vec) {
                let chosen = handle.ask(move |spool| places_of(spool, &ids)).await?;
                total.add(take_out_these(handle, verb, chosen, told).await?);
            }
        }
        Selection::Matching(filter) => {
            let filter = up_to_now(handle, filter).await?;
            let mut after = None;
            loop {
                let (what, from) = (filter.clone(), after);
                let page = handle.ask(move |spool| spool.list(&what, from, PAGE)).await?;
                let place = |row: &spool::QueueRow| RecipientPlace {
                    message: row.message,
                    no: row.no,
                    state: row.state,
                };
                let rows = page.rows.iter().map(place).collect();
                let chosen = ChosenRows { rows, whole: Vec::new() };
                total.add(take_out_these(handle, verb, chosen, told).await?);
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
        }
    }
    Ok(total)
}

/// `filter` without what comes later.
///
/// # Errors
///
/// [`StoreError`] when the queue cannot be read.
pub(crate) async fn up_to_now(
    handle: &Arc<QueueHandle>,
    filter: Filter,
) -> Result<Filter, StoreError> {
    let until = Some(handle.ask(|spool| spool.end()).await?);
    Ok(Filter { until, ..filter })
}

/// What one step is about.
#[derive(Debug)]
struct ChosenRows {
    rows: Vec<RecipientPlace>,
    /// Messages that were chosen as such, with what of them is damaged.
    whole: Vec<MessageId>,
}

fn places_of(spool: &Spool, ids: &[MessageId]) -> Result<ChosenRows, StoreError> {
    let mut rows = Vec::new();
    for id in ids {
        rows.extend(spool.places(*id, None)?);
    }
    Ok(ChosenRows { rows, whole: ids.to_vec() })
}

async fn take_out_these(
    handle: &Arc<QueueHandle>,
    verb: Verb<'_>,
    chosen: ChosenRows,
    told: RowTeller<'_>,
) -> Result<TakenOut, StoreError> {
    let ChosenRows { rows, whole } = chosen;
    let why = match verb {
        Verb::Hold { why } => why,
        Verb::Delete | Verb::Bounce => None,
    };
    let Stopped { left, under_way, held } = stop(handle, rows, why).await?;
    let being_sent = number(under_way.len());
    let done = match verb {
        Verb::Hold { .. } => held,
        // They are in the log as bounced.
        Verb::Bounce => {
            let count = bounce::give_up(handle, &left).await?;
            forget_hold_reasons(handle, &left).await?;
            return Ok(TakenOut { count, being_sent });
        }
        Verb::Delete => delete(handle, left, whole, &under_way).await?,
    };
    done.iter().for_each(told);
    Ok(TakenOut { count: number(done.len()), being_sent })
}

/// Recipients that somebody wants out of the queue, by whether that was in time.
#[derive(Debug)]
struct Stopped {
    /// They are held, as far as they are still in the queue, and nothing is sent to them any more.
    left: Vec<RecipientPlace>,
    /// A host may be taking their mail; they are in the queue as they were.
    under_way: Vec<RecipientPlace>,
    /// Those of `left` that were not held before.
    held: Vec<ActedRow>,
}

/// Holds `rows`, and tells what is being sent from what is not.
async fn stop(
    handle: &Arc<QueueHandle>,
    rows: Vec<RecipientPlace>,
    why: Option<&str>,
) -> Result<Stopped, StoreError> {
    let names: Vec<_> = rows.iter().map(name).collect();
    let these = names.clone();
    let why = why.map(str::to_owned);
    let hold = move |spool: &Spool| match why {
        Some(why) => spool.hold_these_because(these, why),
        None => spool.hold_these(these),
    };
    let held = handle.ask(hold).await?;
    let at_host = handle.underway.remove(&names);
    // What is in memory would only be found gone in its turn.
    handle.tell(Event::Removed(held.lanes)).await;
    let (under_way, left): (Vec<_>, Vec<_>) =
        rows.into_iter().partition(|row| at_host.contains(&name(row)));
    let were_queued = under_way.iter().filter(|row| row.state == RecipientState::Queued);
    let back: Vec<_> = were_queued.map(name).collect();
    if !back.is_empty() {
        let freed = handle.ask(move |spool| spool.give_back(back)).await?;
        handle.tell(Event::Due(freed.lanes)).await;
    }
    let mut newly_held = held.rows;
    newly_held.retain(|row| !at_host.contains(&(row.message, row.no)));
    Ok(Stopped { left, under_way, held: newly_held })
}

/// Of those that were held before.
async fn forget_hold_reasons(
    handle: &Arc<QueueHandle>,
    rows: &[RecipientPlace],
) -> Result<(), StoreError> {
    let were_held = rows.iter().filter(|row| row.state == RecipientState::Held);
    let messages: Vec<_> = were_held.map(|row| row.message).collect();
    if messages.is_empty() {
        return Ok(());
    }
    handle.ask(move |spool| spool.forget_hold_reasons(messages)).await
}

async fn delete(
    handle: &Arc<QueueHandle>,
    left: Vec<RecipientPlace>,
    mut whole: Vec<MessageId>,
    under_way: &[RecipientPlace],
) -> Result<Vec<ActedRow>, StoreError> {
    let busy: HashSet<MessageId> = under_way.iter().map(|row| row.message).collect();
    whole.retain(|message| !busy.contains(message));
    let all: HashSet<MessageId> = whole.iter().copied().collect();
    let some = left.iter().filter(|row| !all.contains(&row.message)).map(name).collect();
    let deleted = handle.ask(move |spool| {
        let mut deleted = spool.delete_these(some)?;
        let Acted { rows, lanes, .. } = spool.delete(&Selection::Messages(whole), None)?;
        deleted.rows.extend(rows);
        deleted.lanes.extend(lanes);
        Ok(deleted)
    });
    let deleted = deleted.await?;
    handle.tell(Event::Removed(deleted.lanes)).await;
    Ok(deleted.rows)
}

fn name(row: &RecipientPlace) -> (MessageId, RecipientNo) {
    (row.message, row.no)
}

fn number(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

impl TakenOut {
    fn add(&mut self, other: Self) {
        self.count += other.count;
        self.being_sent += other.being_sent;
    }
}
