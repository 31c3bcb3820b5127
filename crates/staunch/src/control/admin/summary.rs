//! The queue in a few numbers: how much waits, where, and why.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Query, State};
use smtp::Domain;
use spool::{Filter, LaneKey, LaneTrouble, QueueRow, RecipientState};

use super::answer::{AdminRefused, ask_store};
use super::chosen::HELD;
use super::queue;
use super::switches;
use crate::control::Control;
use crate::control::api::{GroupBy, GroupCount, QueueCounts, WantedSummary};

/// Recipients read at once.
const PAGE: usize = 1_000;
/// Groups counted one by one; what comes in further ones is counted together. Our choice: some 10
/// MB.
const GROUPS_MAX: usize = 100_000;
/// Groups told, the largest ones.
const GROUPS_TOLD: usize = 100;
/// What further groups are called.
const OTHERS: &str = "(others)";

/// The name of the group of `row`. As in the list of the queue, the lane's trouble is the reason
/// for who was not tried yet.
fn group_of(by: GroupBy, row: &QueueRow, trouble: Option<&LaneTrouble>) -> String {
    let last = row.last.as_ref().or_else(|| trouble.map(|trouble| &trouble.problem));
    let none = || "-".to_owned();
    match by {
        GroupBy::Domain => row.recipient.domain().to_string(),
        GroupBy::Reason if row.state == RecipientState::Held => HELD.to_owned(),
        GroupBy::Reason => last.map_or_else(none, |problem| problem.reason.to_string()),
        GroupBy::Host => {
            let host = last.and_then(|problem| problem.mx.as_ref());
            host.map_or_else(none, Domain::to_string)
        }
    }
}

pub(super) async fn summary(
    State(control): State<Arc<Control>>,
    Query(wanted): Query<WantedSummary>,
) -> Result<Json<QueueCounts>, AdminRefused> {
    let counts = ask_store(&control, |control| control.queue.spool.count()).await?;
    let groups = match wanted.by {
        Some(by) => Some(groups(&control, by).await?),
        None => None,
    };
    Ok(Json(QueueCounts {
        messages: counts.messages,
        queued: counts.queued,
        held: counts.held,
        sending_messages: control.queue.underway.count(),
        switches: switches::shown(&control),
        groups,
    }))
}

async fn groups(control: &Arc<Control>, by: GroupBy) -> Result<Vec<GroupCount>, AdminRefused> {
    let troubles: HashMap<LaneKey, LaneTrouble> = ask_store(control, queue::troubles).await?;
    let mut counts: HashMap<String, u64> = HashMap::new();
    let mut after = None;
    loop {
        let from = after;
        let read =
            move |control: &Control| control.queue.spool.list(&Filter::default(), from, PAGE);
        let page = ask_store(control, read).await?;
        for row in &page.rows {
            let group = group_of(by, row, troubles.get(&row.lane));
            let has_room = counts.len() < GROUPS_MAX || counts.contains_key(&group);
            let group = if has_room { group } else { OTHERS.to_owned() };
            *counts.entry(group).or_default() += 1;
        }
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    let mut counts: Vec<(String, u64)> = counts.into_iter().collect();
    counts.sort_by(|(a, many), (b, more)| more.cmp(many).then_with(|| a.cmp(b)));
    let told = counts.into_iter().take(GROUPS_TOLD);
    Ok(told.map(|(group, recipients)| GroupCount::named(by, group, recipients)).collect())
}
