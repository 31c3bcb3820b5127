//! `--dry-run`: what an order would be about. It looks where the order would, and changes nothing.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use spool::{MessageId, QueueRow, RecipientPlace, RecipientState, Selection};

use super::answer::{AdminRefused, ask_store};
use super::chosen;
use super::unmatched;
use crate::control::Control;
use crate::control::api::{ActionDone, Chosen, QueueOrder};

/// Recipients, or messages chosen by id, that are read at once.
const PAGE: usize = 1_000;

/// Counts the recipients that `order` would be about now.
pub(super) async fn count(
    State(control): State<Arc<Control>>,
    Path(order): Path<QueueOrder>,
    Json(chosen): Json<Chosen>,
) -> Result<Json<ActionDone>, AdminRefused> {
    let chosen = chosen::mail(&control, chosen).await?;
    let mut would = WouldBe { order, count: 0, being_sent: 0 };
    match &chosen.selection {
        Selection::Messages(ids) => {
            for ids in ids.chunks(PAGE).map(<[MessageId]>::to_vec) {
                let places = ask_store(&control, move |control| {
                    let of = |id: &MessageId| control.queue.spool.places(*id, None);
                    ids.iter().map(of).collect::<Result<Vec<_>, _>>()
                });
                places.await?.iter().flatten().for_each(|place| would.add(&control, place));
            }
        }
        Selection::Matching(filter) => {
            let mut after = None;
            loop {
                let (what, from) = (filter.clone(), after);
                let read = move |control: &Control| control.queue.spool.list(&what, from, PAGE);
                let page = ask_store(&control, read).await?;
                page.rows.iter().map(place).for_each(|place| would.add(&control, &place));
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
        }
    }
    unmatched::told(&control, chosen, would.answer()).await
}

fn place(row: &QueueRow) -> RecipientPlace {
    RecipientPlace { message: row.message, no: row.no, state: row.state }
}

/// What would come of an order.
#[derive(Debug)]
struct WouldBe {
    order: QueueOrder,
    count: u64,
    being_sent: u64,
}

impl WouldBe {
    fn add(&mut self, control: &Control, place: &RecipientPlace) {
        let is_held = place.state == RecipientState::Held;
        let is_at_host = || control.queue.underway.is_at_host(place.message, place.no);
        match self.order {
            QueueOrder::Retry => self.count += u64::from(!is_held),
            QueueOrder::Release => self.count += u64::from(is_held),
            QueueOrder::Hold | QueueOrder::Bounce | QueueOrder::Delete if is_at_host() => {
                self.being_sent += 1;
            }
            QueueOrder::Hold => self.count += u64::from(!is_held),
            QueueOrder::Bounce | QueueOrder::Delete => self.count += 1,
        }
    }

    fn answer(self) -> ActionDone {
        let being_sent = match self.order {
            QueueOrder::Retry | QueueOrder::Release => None,
            QueueOrder::Hold | QueueOrder::Bounce | QueueOrder::Delete => Some(self.being_sent),
        };
        let count = self.count;
        ActionDone { count, being_sent, dry_run: Some(true), ..ActionDone::default() }
    }
}
