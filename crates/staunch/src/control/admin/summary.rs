//! The queue in a few numbers: how much waits, where, and why.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Query, State};
use jiff::Timestamp;
use smtp::Domain;
use spool::{Filter, LaneKey, LaneTrouble, QueueRow, RecipientState};

use super::answer::{AdminRefused, ask_store};
use super::chosen::HELD;
use super::queue;
use super::switches;
use crate::control::Control;
use crate::control::api::{AgeTable, GroupBy, GroupCount, HopAges, QueueCounts, WantedSummary};
use crate::delivery::route;

/// Recipients read at once.
const PAGE: usize = 1_000;
/// Groups counted one by one; what comes in further ones is counted together. Our choice: some 10
/// MB.
const GROUPS_MAX: usize = 100_000;
/// Groups told, the largest ones.
const GROUPS_TOLD: usize = 100;
/// What a next hop is called whose name is damaged.
const NAMELESS: &str = "-";
/// What further groups are called.
const OTHERS: &str = "(others)";
/// Our choice: the ages between which recipients are counted, in seconds; from a greylisting host's
/// patience to the end of most lifetimes.
const AGES: [u64; 7] = [300, 900, 3_600, 4 * 3_600, 12 * 3_600, 86_400, 3 * 86_400];

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
    let (oldest_at, ages) = ages(&control).await?;
    Ok(Json(QueueCounts {
        messages: counts.messages,
        queued: counts.queued,
        held: counts.held,
        sending_messages: control.queue.underway.count(),
        oldest_at,
        ages: Some(ages),
        switches: switches::shown(&control),
        groups,
    }))
}

/// When the oldest message arrived, and who waits for how long. Memory: as many next hops as there
/// may be groups.
async fn ages(control: &Arc<Control>) -> Result<(Option<Timestamp>, AgeTable), AdminRefused> {
    let now = control.queue.now();
    let ago = |seconds: &u64| now.checked_sub(Duration::from_secs(*seconds)).unwrap_or_default();
    let bounds: Vec<Timestamp> = AGES.iter().map(ago).collect();
    let mut hops: HashMap<String, Vec<u64>> = HashMap::new();
    let (mut oldest, mut after) = (None::<Timestamp>, None);
    loop {
        let (from, until) = (after, bounds.clone());
        let slice = ask_store(control, move |control| control.queue.spool.ages(&until, from));
        let slice = slice.await?;
        oldest = oldest.into_iter().chain(slice.oldest).min();
        for (lane, counts) in slice.lanes {
            let hop = lane.as_ref().map_or(NAMELESS, route::hop_of);
            let has_room = hops.len() < GROUPS_MAX || hops.contains_key(hop);
            let hop = if has_room { hop } else { OTHERS };
            add(hops.entry(hop.to_owned()).or_default(), &counts);
        }
        after = slice.next;
        if after.is_none() {
            break;
        }
    }
    Ok((oldest, age_table(hops)))
}

fn age_table(hops: HashMap<String, Vec<u64>>) -> AgeTable {
    let mut all = vec![0; AGES.len() + 1];
    let mut next_hops: Vec<HopAges> = hops
        .into_iter()
        .map(|(next_hop, counts)| HopAges { next_hop, recipients: counts.iter().sum(), counts })
        .collect();
    next_hops.iter().for_each(|hop| add(&mut all, &hop.counts));
    next_hops
        .sort_by(|a, b| b.recipients.cmp(&a.recipients).then_with(|| a.next_hop.cmp(&b.next_hop)));
    let more_next_hops = next_hops.len().saturating_sub(GROUPS_TOLD);
    next_hops.truncate(GROUPS_TOLD);
    AgeTable { up_to_seconds: AGES.to_vec(), counts: all, next_hops, more_next_hops }
}

fn add(to: &mut Vec<u64>, counts: &[u64]) {
    to.resize(to.len().max(counts.len()), 0);
    to.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
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
