//! The queue in a few numbers: how much waits, where, and why.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Query, State};
use serde::Deserialize;
use serde_json::{Value, json};
use smtp::Domain;
use spool::{Filter, LaneKey, LaneTrouble, QueueRow, RecipientState};

use super::answer::{AdminRefused, ask_store};
use super::queue::{self, HELD};
use super::switches;
use crate::control::Control;

/// Recipients read at once.
const PAGE: usize = 1_000;
/// Groups counted one by one; what comes in further ones is counted together. Our choice: some 10
/// MB.
const GROUPS_MAX: usize = 100_000;
/// Groups told, the largest ones.
const GROUPS_TOLD: usize = 100;
/// What further groups are called.
const OTHERS: &str = "(others)";

/// How recipients are grouped.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum GroupBy {
    /// The recipient's domain.
    Domain,
    /// Why they wait.
    Reason,
    /// The host that was at fault last.
    Host,
}

impl GroupBy {
    const fn name(self) -> &'static str {
        match self {
            Self::Domain => "domain",
            Self::Reason => "reason",
            Self::Host => "host",
        }
    }

    /// As in the list of the queue: the lane's trouble is the reason for who was not tried yet.
    fn of(self, row: &QueueRow, trouble: Option<&LaneTrouble>) -> String {
        let last = row.last.as_ref().or_else(|| trouble.map(|trouble| &trouble.problem));
        let none = || "-".to_owned();
        match self {
            Self::Domain => row.recipient.domain().to_string(),
            Self::Reason if row.state == RecipientState::Held => HELD.to_owned(),
            Self::Reason => last.map_or_else(none, |problem| problem.reason.to_string()),
            Self::Host => {
                let host = last.and_then(|problem| problem.mx.as_ref());
                host.map_or_else(none, Domain::to_string)
            }
        }
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct WantedSummary {
    by: Option<GroupBy>,
}

pub(super) async fn summary(
    State(control): State<Arc<Control>>,
    Query(wanted): Query<WantedSummary>,
) -> Result<Json<Value>, AdminRefused> {
    let counts = ask_store(&control, |control| control.queue.spool.count()).await?;
    let mut answer = json!({
        "messages": counts.messages,
        "queued": counts.queued,
        "held": counts.held,
        "sending_messages": control.queue.underway.count(),
    });
    let Some(members) = answer.as_object_mut() else { return Ok(Json(answer)) };
    if let Value::Object(state) = switches::shown(&control) {
        members.extend(state);
    }
    if let Some(by) = wanted.by {
        members.insert("groups".to_owned(), groups(&control, by).await?);
    }
    Ok(Json(answer))
}

async fn groups(control: &Arc<Control>, by: GroupBy) -> Result<Value, AdminRefused> {
    let troubles: HashMap<LaneKey, LaneTrouble> = ask_store(control, queue::troubles).await?;
    let mut counts: HashMap<String, u64> = HashMap::new();
    let mut after = None;
    loop {
        let from = after;
        let read =
            move |control: &Control| control.queue.spool.list(&Filter::default(), from, PAGE);
        let page = ask_store(control, read).await?;
        for row in &page.rows {
            let group = by.of(row, troubles.get(&row.lane));
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
    Ok(told.map(|(group, count)| json!({ by.name(): group, "recipients": count })).collect())
}
