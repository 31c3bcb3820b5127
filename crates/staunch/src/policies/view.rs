//! Policies as operators see and change them: `staunch policy list | show | refresh | forget`.

use jiff::Timestamp;
use policy::sts::CachedPolicy;
use policy::sts::cache::{NoPolicy, State};
use serde::{Deserialize, Serialize};
use smtp::HostName;
use spool::StoreError;

use super::verdict::LookUpPurpose;
use super::{PolicyCache, PolicySource, PolicyVerdict, rows};
use crate::dns::Freshness;
use crate::policies::facts::PolicyFact;

/// Rows looked at for one page.
const PAGE_MAX: usize = 200;

/// One line of `policy list`.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct PolicySummary {
    /// The policy domain, as an A-label.
    pub(crate) domain: String,
    /// What the record named when the policy was fetched.
    pub(crate) id: String,
    /// `enforce`, `testing` or `none`.
    pub(crate) mode: String,
    /// The patterns of `mx` that can match a host (RFC 8461 §4.1).
    pub(crate) mx: Vec<String>,
    /// `max_age` of the policy, in seconds.
    pub(crate) max_age: u64,
    /// The last successful fetch.
    pub(crate) fetched_at: Timestamp,
    /// When it stops holding.
    pub(crate) expires_at: Timestamp,
    /// Does it hold now?
    pub(crate) live: bool,
    /// When mail last asked, to the hour.
    pub(crate) last_used_at: Option<Timestamp>,
    /// Alarms whose cause has not ended.
    pub(crate) alarms: Vec<String>,
}

/// A page of `policy list`.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct PolicySummaryPage {
    /// By name; can be empty although there are more pages.
    pub(crate) policies: Vec<PolicySummary>,
    /// Rows that cannot be read.
    pub(crate) damaged: u64,
    /// What to ask for next; `None`: that was all.
    pub(crate) next: Option<String>,
}

/// `policy show`: all that is known about one domain.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct PolicyDetail {
    /// The policy domain that was asked for.
    pub(crate) domain: String,
    /// The last policy, also when it has expired.
    pub(crate) policy: Option<PolicySummary>,
    /// Its file as fetched.
    pub(crate) body: Option<String>,
    /// The id whose fetch failed last.
    pub(crate) failed_id: Option<String>,
    /// When that fetch failed; none: the last one did not.
    pub(crate) failed_at: Option<Timestamp>,
    /// How often in a row.
    pub(crate) failed_count: u32,
    /// Since when the TXT query fails without a policy to fall back on.
    pub(crate) dns_failing_since: Option<Timestamp>,
    /// When the domain last said that it has no record, to the day.
    pub(crate) none_seen_at: Option<Timestamp>,
    /// Alarms whose cause has not ended.
    pub(crate) alarms: Vec<String>,
}

/// `policy refresh`: what a look-up and a fetch made now gave.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct RefreshResult {
    /// Was a policy fetched?
    pub(crate) fetched: bool,
    /// Why not, if a record or a kept policy says that there is one.
    pub(crate) error: Option<String>,
    /// The policy that holds now, be it new or kept.
    pub(crate) policy: Option<PolicySummary>,
}

impl PolicyCache {
    /// The stored policies whose domains come after `after`. Blocks for a read.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the store cannot be read.
    pub(crate) fn list(&self, after: Option<&str>) -> Result<PolicySummaryPage, StoreError> {
        let page = self.inner.store.list(after, PAGE_MAX)?;
        let mut damaged = page.damaged;
        let mut policies = Vec::new();
        for row in &page.rows {
            match rows::read(row) {
                // What is remembered beside the mail may say that it was lost.
                Some(_) => {
                    let state = self.inner.read(&row.domain)?;
                    policies.extend(self.summary(&row.domain, &state));
                }
                None => damaged += 1,
            }
        }
        Ok(PolicySummaryPage { policies, damaged, next: page.next.map(String::from) })
    }

    /// What is known about `domain`; `None`: nothing. Blocks for a read.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the store cannot be read.
    pub(crate) fn show(&self, domain: &HostName) -> Result<Option<PolicyDetail>, StoreError> {
        let state = self.inner.read(domain)?;
        if state == State::default() {
            return Ok(None);
        }
        let failed = state.failed.as_ref();
        Ok(Some(PolicyDetail {
            domain: domain.to_string(),
            policy: self.summary(domain, &state),
            body: state.kept.as_ref().map(|kept| kept.body().to_owned()),
            failed_id: failed.map(|failed| failed.id.to_string()),
            failed_at: failed.map(|failed| failed.at),
            failed_count: failed.map_or(0, |failed| failed.count),
            dns_failing_since: state.dns_failing_since,
            none_seen_at: state.none_seen_at,
            alarms: alarms(&state),
        }))
    }

    /// Looks the record up afresh and fetches the policy, whatever limits and back-off say: an
    /// operator asked. Without a usable record a kept policy is fetched all the same.
    ///
    /// Trouble of the store is the result's error.
    pub(crate) async fn refresh(&self, domain: &HostName) -> RefreshResult {
        let inner = &self.inner;
        let mut turn = inner.turns.take(domain).await;
        let asked = Box::pin(inner.ask(domain, LookUpPurpose::Order, Freshness::Fresh)).await;
        inner.asked_apart(domain, &asked).await;
        turn.forget();
        let done = asked.consulted;
        let (policy, text) = match &done.verdict {
            PolicyVerdict::Policy(kept) => {
                (Some(self.summary_of(domain, kept, &asked.state)), None)
            }
            PolicyVerdict::None(NoPolicy::Record(error)) => (None, Some(error.to_string())),
            PolicyVerdict::None(NoPolicy::Dns(text)) => (None, Some(text.to_string())),
            PolicyVerdict::None(NoPolicy::Fetch(failure)) => {
                (None, failure.as_ref().map(ToString::to_string))
            }
            PolicyVerdict::Defer(defer) => (None, Some(defer.text.to_string())),
        };
        let fetched = done.source == PolicySource::Fetch;
        let error = done.failure.map(|text| text.to_string()).or(text).filter(|_| !fetched);
        RefreshResult { fetched, error, policy }
    }

    /// Forgets all that is known about `domain`: the next mail is a first contact. Says whether
    /// anything was stored.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when it could not be deleted.
    pub(crate) async fn forget(&self, domain: &HostName) -> Result<bool, StoreError> {
        let mut turn = self.inner.turns.take(domain).await;
        let known = self.inner.delete(domain.clone()).await?;
        self.inner.verdicts.invalidate(domain).await;
        turn.forget();
        if known {
            self.inner.asks_anew(domain).await;
            PolicyFact::Forgotten { domain }.tell();
        }
        Ok(known)
    }

    fn summary(&self, domain: &HostName, state: &State) -> Option<PolicySummary> {
        state.kept.as_ref().map(|kept| self.summary_of(domain, kept, state))
    }

    fn summary_of(&self, domain: &HostName, kept: &CachedPolicy, state: &State) -> PolicySummary {
        PolicySummary {
            domain: domain.to_string(),
            id: kept.id().to_string(),
            mode: kept.policy().mode().as_str().to_owned(),
            mx: kept.policy().mx().iter().map(ToString::to_string).collect(),
            max_age: kept.policy().max_age().as_secs(),
            fetched_at: kept.fetched_at(),
            expires_at: kept.expires_at(),
            live: state.live(self.inner.clock.moment()).is_some(),
            last_used_at: state.last_used_at,
            alarms: alarms(state),
        }
    }
}

fn alarms(state: &State) -> Vec<String> {
    state.alarms.iter().map(|alarm| alarm.as_str().to_owned()).collect()
}
