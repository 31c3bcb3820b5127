//! What happens to policies without mail: they are fetched again before they expire, and rows that
//! say nothing any more are dropped.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::time::Duration;

use futures_util::StreamExt as _;
use jiff::Timestamp;
use policy::sts::keep::{State, TxtAnswer};
use smtp::HostName;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error};

use super::{HostMemory, Inner, PolicyKeeper, Question, rows, settings};
use crate::resolve::Freshness;

/// Policies kept. Ours: more than there are domains with one today.
const POLICIES_MAX: usize = 100_000;
/// Domains without a policy about which something is remembered.
const OTHERS_MAX: usize = 100_000;
/// Rows read at once.
const PAGE: usize = 200;
/// Refreshes at once; the fetcher has limits of its own.
const AT_ONCE: usize = 16;
/// Between two looks at all rows, at most.
const PASS_EVERY_MAX: Duration = Duration::from_secs(15 * 60);
/// At least.
const PASS_EVERY_MIN: Duration = Duration::from_secs(1);
/// How many looks a refresh interval has: the jitter is an eighth of it.
const PASSES_PER_INTERVAL: u32 = 8;

/// What one look at all rows found.
#[derive(Debug, Default)]
struct Census {
    due: Vec<HostName>,
    spent: Vec<HostName>,
    /// The others, with what they were last good for.
    policies: Vec<(Timestamp, HostName)>,
    without: Vec<(Timestamp, HostName)>,
}

impl PolicyKeeper {
    /// Refreshes and tidies until `shutdown`. `has_mail` says whether mail for a domain is queued:
    /// its policy is never dropped for want of room.
    pub(crate) async fn run(
        &self,
        shutdown: &CancellationToken,
        has_mail: impl Fn(&HostName) -> bool,
    ) {
        let jitter = RandomState::new();
        loop {
            let every = self.inner.config.borrow().mta_sts.refresh_every / PASSES_PER_INTERVAL;
            let rest = tokio::time::sleep(every.clamp(PASS_EVERY_MIN, PASS_EVERY_MAX));
            let pass = async {
                rest.await;
                self.pass(&jitter, &has_mail).await;
            };
            if shutdown.run_until_cancelled(Box::pin(pass)).await.is_none() {
                return;
            }
        }
    }

    pub(super) async fn pass(&self, jitter: &RandomState, has_mail: &impl Fn(&HostName) -> bool) {
        let census = match self.census(jitter).await {
            Ok(census) => census,
            Err(text) => {
                error!(
                    event = "store_failed",
                    error = text,
                    "policies could not be looked through"
                );
                return;
            }
        };
        let Census { due, spent, policies, without } = census;
        let refresh = async |domain: HostName| self.inner.refresh_due(&domain).await;
        let refreshes: Vec<_> = due.into_iter().map(refresh).collect();
        futures_util::stream::iter(refreshes).buffer_unordered(AT_ONCE).collect::<()>().await;
        let surplus = surplus(policies, POLICIES_MAX, has_mail);
        if !surplus.is_empty() {
            let count = surplus.len();
            error!(event = "alarm", reason = "policy_cache_full", count, "policies are dropped");
        }
        for domain in
            spent.into_iter().chain(surplus).chain(self::surplus(without, OTHERS_MAX, has_mail))
        {
            self.inner.drop_row(domain).await;
        }
        HostMemory::tidy(&self.inner.store, self.inner.clock.moment().now);
    }

    async fn census(&self, jitter: &RandomState) -> Result<Census, String> {
        let mut census = Census::default();
        let mut after: Option<Box<str>> = None;
        loop {
            let store = self.inner.store.clone();
            let page = tokio::task::spawn_blocking(move || store.list(after.as_deref(), PAGE));
            let page = page.await.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
            for row in page.rows {
                if let Some(state) = rows::read(&row) {
                    self.inner.count(&mut census, row.domain, &state, jitter);
                }
            }
            after = page.next;
            if after.is_none() {
                return Ok(census);
            }
        }
    }
}

impl Inner {
    fn count(&self, census: &mut Census, domain: HostName, state: &State, jitter: &RandomState) {
        let moment = self.clock.moment();
        if state.is_spent(moment) {
            census.spent.push(domain);
            return;
        }
        let settings = settings(&self.config.borrow().mta_sts);
        let byte = jitter.hash_one(&domain).to_le_bytes()[0];
        if state.refresh_at(moment, byte, &settings).is_some_and(|at| at <= moment.now) {
            census.due.push(domain.clone());
        }
        let used = state.last_used_at.unwrap_or(Timestamp::MIN);
        let kept = if state.kept.is_some() { &mut census.policies } else { &mut census.without };
        kept.push((used, domain));
    }

    /// Fetches a kept policy again, whatever the record says (RFC 8461 §3.3).
    async fn refresh_due(&self, domain: &HostName) {
        let mut turn = self.turns.take(domain).await;
        let Ok(before) = self.load(domain).await else { return };
        let mut state = before.clone();
        let Some(kept) = state.live(self.clock.moment()) else { return };
        let record = self.dns.sts_record(domain, Freshness::Cached).await;
        let id = match record.answer {
            TxtAnswer::Usable(id) => id,
            TxtAnswer::Unusable(_) | TxtAnswer::Failed(_) => kept.id().clone(),
        };
        if !state.may_fetch(&id, self.clock.moment().now) {
            return;
        }
        debug!(%domain, id = id.as_str(), "refreshing a policy");
        let question = Question { domain, settings: settings(&self.config.borrow().mta_sts) };
        Box::pin(self.fetch(&question, id, &mut state)).await;
        self.save(domain, &before, &state).await;
        self.verdicts.invalidate(domain).await;
        turn.forget();
    }

    async fn drop_row(&self, domain: HostName) {
        let mut turn = self.turns.take(&domain).await;
        self.verdicts.invalidate(&domain).await;
        turn.forget();
        if let Err(error) = self.delete(domain).await {
            error!(event = "store_failed", %error, "an old policy row could not be dropped");
        }
    }
}

/// The least recently used beyond `max`, but none that mail is queued for.
fn surplus(
    mut rows: Vec<(Timestamp, HostName)>,
    max: usize,
    has_mail: &impl Fn(&HostName) -> bool,
) -> Vec<HostName> {
    let excess = rows.len().saturating_sub(max);
    if excess == 0 {
        return Vec::new();
    }
    rows.sort_unstable();
    let unused = rows.into_iter().map(|(_, domain)| domain).filter(|domain| !has_mail(domain));
    unused.take(excess).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_go_first_but_none_with_mail() {
        let name = |text: &str| HostName::parse(text).unwrap();
        let at = |second| Timestamp::from_second(second).unwrap();
        let rows = vec![
            (at(3), name("c.test")),
            (at(1), name("a.test")),
            (at(4), name("d.test")),
            (at(2), name("b.test")),
        ];
        let has_mail = |domain: &HostName| domain.as_str() == "a.test";
        assert!(surplus(rows.clone(), 4, &has_mail).is_empty());
        assert_eq!(surplus(rows.clone(), 3, &has_mail), [name("b.test")]);
        let all = [name("b.test"), name("c.test"), name("d.test")];
        assert_eq!(surplus(rows, 0, &has_mail), all);
    }
}
