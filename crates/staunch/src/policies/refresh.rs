//! Policies are fetched again before they expire, without mail: by how little time they have left,
//! in turns among their owners, and whose hosts did not answer lately apart from the others. A
//! queue and not a pass: who is slow holds up nobody who is due.

mod queue;

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::future::Future;
use std::hash::BuildHasher as _;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use jiff::Timestamp;
use policy::registrable_domain;
use policy::sts::cache::{KeepSettings, Listed, State, Stored, Tenant, Use};
use smtp::HostName;
use spool::StoreError;
use tokio_util::sync::CancellationToken;

use super::settings::settings;
use super::tidying::Tenants;
use super::verdict::LookUpPurpose;
use super::{CacheState, Moment, PolicyCache, WaitingMail, rows};
use crate::dns::Freshness;
use crate::policies::facts::PolicyFact;
use queue::{DueRefresh, RefreshQueue};

/// Rows read at once.
const PAGE: usize = 200;
/// Our choice: refreshes at once of policies whose hosts answered last time.
const PROMPT_AT_ONCE: usize = 16;
/// Our choice: of those whose hosts did not.
const SILENT_AT_ONCE: usize = 8;
/// Between two looks at all rows, at most.
const LOOK_EVERY_MAX: Duration = Duration::from_secs(15 * 60);
/// Between two looks, at least, however short the refresh interval is.
const LOOK_EVERY_MIN: Duration = Duration::from_secs(1);
/// How many looks a refresh interval has: the jitter is an eighth of it.
const LOOKS_PER_INTERVAL: u32 = 8;
/// Our choice: lost policies that one alarm names.
const NAMED_MAX: usize = 5;

/// What one look at all rows found.
#[derive(Debug, Default)]
pub(super) struct Census {
    due: Vec<DueRefresh>,
    pub(super) tenants: Tenants,
    /// Domains whose policy was lost.
    pub(super) lost: Vec<HostName>,
}

/// A refresh, or several looks, under way.
type RunningRefresh<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

impl PolicyCache {
    /// Refreshes and tidies until `shutdown`; then what is being written is brought to its end,
    /// since attempts go on for a while and have to hear of it. Policies of domains that have mail
    /// in `waiting` are never dropped for want of room.
    pub(crate) async fn run(&self, shutdown: &CancellationToken, waiting: &Arc<dyn WaitingMail>) {
        let jitter = RandomState::new();
        let (mut prompt, mut silent) = (Band::new(PROMPT_AT_ONCE), Band::new(SILENT_AT_ONCE));
        let mut lost_before = Vec::new();
        // The first one soon: what came due while nobody was here, and what is missing.
        let first = self.look_after(LOOK_EVERY_MIN, &jitter);
        let mut look: RunningRefresh<'_, Option<Census>> = Box::pin(first);
        let mut tidying: FuturesUnordered<RunningRefresh<'_, ()>> = FuturesUnordered::new();
        loop {
            prompt.fill(self, shutdown);
            silent.fill(self, shutdown);
            tokio::select! {
                () = shutdown.cancelled() => break,
                census = &mut look => {
                    if let Some(Census { due, tenants, lost }) = census {
                        tell_lost(&mut lost_before, lost);
                        let (quiet, answering) = due.into_iter().partition(|due| due.is_silent);
                        prompt.queue.extend(answering);
                        silent.queue.extend(quiet);
                        if tidying.is_empty() {
                            tidying.push(Box::pin(self.inner.tidy(tenants, waiting)));
                        }
                    }
                    let every =
                        self.inner.config.borrow().mta_sts.refresh_every / LOOKS_PER_INTERVAL;
                    let every = every.clamp(LOOK_EVERY_MIN, LOOK_EVERY_MAX);
                    look = Box::pin(self.look_after(every, &jitter));
                }
                Some((domain, owner)) = prompt.running.next() => prompt.queue.done(&domain, &owner),
                Some((domain, owner)) = silent.running.next() => silent.queue.done(&domain, &owner),
                Some(()) = tidying.next() => {}
            }
        }
        let refreshed = async |band: Band<'_>| band.running.for_each(async |_| {}).await;
        let tidied = tidying.for_each(async |()| {});
        tokio::join!(refreshed(prompt), refreshed(silent), tidied);
    }

    /// A look after `rest`, or sooner if there is no room for policies.
    async fn look_after(&self, rest: Duration, jitter: &RandomState) -> Option<Census> {
        tokio::select! {
            () = tokio::time::sleep(rest) => {}
            () = async {
                // Not more often than that, however many come.
                tokio::time::sleep(LOOK_EVERY_MIN).await;
                self.inner.room.is_used_up().await;
            } => {}
        }
        match self.census(jitter).await {
            Ok(census) => Some(census),
            Err(text) => {
                PolicyFact::StoreFailed {
                    error: &text,
                    what: "policies could not be looked through",
                }
                .tell();
                None
            }
        }
    }

    /// Looks at all rows, refreshes what is due and tidies; returns when all that is done.
    #[cfg(test)]
    pub(super) async fn pass(&self, jitter: &RandomState, waiting: &Arc<dyn WaitingMail>) {
        let census = self.census(jitter).await.unwrap();
        for due in census.due {
            self.inner.refresh_due(&due.domain, &CancellationToken::new()).await;
        }
        self.inner.tidy(census.tenants, waiting).await;
    }

    pub(super) async fn census(&self, jitter: &RandomState) -> Result<Census, String> {
        let inner = &self.inner;
        let mut census = Census::default();
        let settings = settings(&inner.config.borrow().mta_sts);
        let mut listed = self.listed().await?;
        let mut after: Option<Box<str>> = None;
        loop {
            let store = inner.store.clone();
            let page = tokio::task::spawn_blocking(move || {
                let page = store.list(after.as_deref(), PAGE)?;
                let read = |row: spool::PolicyRow| (row.domain.clone(), rows::stored_row(&row));
                Ok::<_, StoreError>((
                    page.next,
                    page.rows.into_iter().map(read).collect::<Vec<_>>(),
                ))
            });
            let page = page.await.map_err(|e| e.to_string())?;
            let (next, states) = page.map_err(|e| e.to_string())?;
            let look = RefreshLook { moment: inner.clock.moment(), settings: &settings, jitter };
            for (domain, stored) in states {
                if let Some(state) = inner.in_memory_or(&domain, stored) {
                    let state = State { listed: listed.remove(&domain), ..state };
                    look.at(&mut census, domain, &state);
                }
            }
            after = next;
            if after.is_none() {
                for (domain, entry) in listed {
                    match inner.in_memory_or(&domain, Stored::Absent) {
                        Some(state) => {
                            let state = State { listed: Some(entry), ..state };
                            look.at(&mut census, domain, &state);
                        }
                        None => look.at_entry(&mut census, domain, entry),
                    }
                }
                return Ok(census);
            }
        }
    }

    /// What is remembered beside the mail, as far as it can be read.
    async fn listed(&self) -> Result<HashMap<HostName, Listed>, String> {
        let store = self.inner.store.clone();
        let read = tokio::task::spawn_blocking(move || store.list_enforced());
        let list = read.await.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
        if list.is_damaged {
            PolicyFact::ListDamaged.tell();
        }
        let entry = |entry: Option<_>| entry.map_or(Listed::UNREADABLE, rows::listed_entry);
        let listed = list.rows.into_iter().map(|(name, known)| (name, entry(known)));
        Ok(listed.collect())
    }
}

/// By what rows are looked at.
struct RefreshLook<'a> {
    moment: Moment,
    settings: &'a KeepSettings,
    jitter: &'a RandomState,
}

impl RefreshLook<'_> {
    fn at(&self, census: &mut Census, domain: HostName, state: &State) {
        if state.is_spent(self.moment) {
            return census.tenants.spent.push(domain);
        }
        let owner = registrable_domain(&domain);
        if state.is_lost(self.moment) {
            census.lost.push(domain.clone());
            census.due.push(lost(domain.clone(), owner.clone(), state));
        }
        let jitter = self.jitter.hash_one(&domain).to_le_bytes()[0];
        let due = state.refresh_at(self.moment, jitter, self.settings);
        if let (Some(kept), Some(at)) = (&state.kept, due)
            && at <= self.moment.now
        {
            let (domain, owner) = (domain.clone(), owner.clone());
            let is_silent = state.failed.is_some();
            census.due.push(DueRefresh { domain, owner, expires_at: kept.expires_at(), is_silent });
        }
        let used = state.last_used_at.unwrap_or(Timestamp::MIN);
        match state.use_of(self.moment) {
            Use::Nothing if state.kept.is_none() => {
                let last = [state.none_seen_at, state.dns_failing_since, state.last_used_at];
                let last = last.into_iter().flatten().max().unwrap_or(Timestamp::MIN);
                census.tenants.others.push((last, domain));
            }
            usage @ (Use::Nothing | Use::Watched | Use::Once | Use::Regular) => {
                census.tenants.policies.push(Tenant {
                    domain,
                    registrable: owner,
                    usage,
                    last_used_at: used,
                });
            }
        }
    }

    /// An entry of the list without a row that can be read.
    fn at_entry(&self, census: &mut Census, domain: HostName, entry: Listed) {
        let state = State { listed: Some(entry), ..State::default() };
        if state.is_lost(self.moment) {
            census.lost.push(domain.clone());
            let owner = registrable_domain(&domain);
            census.due.push(lost(domain, owner, &state));
        } else {
            census.tenants.over.push(domain);
        }
    }
}

/// Its mail waits: nothing is more urgent.
fn lost(domain: HostName, owner: HostName, state: &State) -> DueRefresh {
    DueRefresh { domain, owner, expires_at: Timestamp::MIN, is_silent: state.failed.is_some() }
}

/// One alarm for all, whenever there are others than before.
fn tell_lost(before: &mut Vec<HostName>, mut lost: Vec<HostName>) {
    lost.sort_unstable();
    if *before == lost {
        return;
    }
    if !lost.is_empty() {
        let named: Vec<_> = lost.iter().take(NAMED_MAX).map(ToString::to_string).collect();
        PolicyFact::Lost { count: lost.len(), domains: named.join(" ") }.tell();
    }
    *before = lost;
}

/// Refreshes that compete with each other for places.
struct Band<'a> {
    queue: RefreshQueue,
    running: FuturesUnordered<RunningRefresh<'a, (HostName, HostName)>>,
    at_once: usize,
}

impl<'a> Band<'a> {
    fn new(at_once: usize) -> Self {
        Self { queue: RefreshQueue::default(), running: FuturesUnordered::new(), at_once }
    }

    fn fill(&mut self, keeper: &'a PolicyCache, shutdown: &'a CancellationToken) {
        while self.running.len() < self.at_once
            && let Some(DueRefresh { domain, owner, .. }) = self.queue.next()
        {
            self.running.push(Box::pin(async move {
                keeper.inner.refresh_due(&domain, shutdown).await;
                (domain, owner)
            }));
        }
    }
}

impl CacheState {
    /// What could not be stored holds all the same; else what the row says, if it can be read.
    fn in_memory_or(&self, domain: &HostName, stored: Stored) -> Option<State> {
        match (self.unstored.get(domain), stored) {
            (Some(unstored), _) => Some(State::clone(&unstored)),
            (None, Stored::Row(state)) => Some(*state),
            (None, Stored::Absent | Stored::Damaged) => None,
        }
    }

    /// Fetches a kept policy again, whatever the record says (RFC 8461 §3.3). After `shutdown`
    /// nothing is learnt any more, but what was learnt is written and told of.
    async fn refresh_due(&self, domain: &HostName, shutdown: &CancellationToken) {
        let learning = async {
            let turn = self.turns.take(domain).await;
            PolicyFact::Refreshing { domain }.tell();
            (turn, self.learn(domain, LookUpPurpose::Refresh, Freshness::Cached).await)
        };
        let learnt = shutdown.run_until_cancelled(Box::pin(learning)).await;
        let Some((mut turn, learnt)) = learnt else { return };
        let asked = self.conclude(domain, learnt).await;
        self.asked_apart(domain, &asked).await;
        turn.forget();
    }
}
