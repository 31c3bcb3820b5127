//! Who goes when there are too many policies, and what is forgotten because it says nothing any
//! more. Beside the refreshes, in batches, and never on a thread that mail waits for.

use std::collections::HashSet;
use std::sync::Arc;

use jiff::Timestamp;
use policy::sts::cache::{ClockTrust, Tenant, Use, surplus};
use smtp::HostName;
use spool::StoreError;

use super::asking::read;
use super::room::{POLICIES_MAX, POLICIES_OVER};
use super::synced::synced;
use super::waiting_mail::WaitingMail;
use super::{CacheState, HostMemory};
use crate::policies::facts::PolicyFact;

/// Domains without a policy about which something is remembered.
const OTHERS_MAX: usize = 100_000;
/// Rows deleted in one transaction: mail waits some 10 ms for it at most.
const BATCH: usize = 500;

/// As what a domain was to go when all rows were looked at.
#[derive(Clone, Copy, Debug)]
enum CountsFor {
    /// It says nothing any more.
    Spent,
    /// It counted for no more than this.
    For(Use),
}

/// What a look at all rows found, but for refreshes.
#[derive(Debug, Default)]
pub(super) struct Tenants {
    /// Rows with a policy.
    pub(super) policies: Vec<Tenant>,
    /// Rows without one, with what they were last good for.
    pub(super) others: Vec<(Timestamp, HostName)>,
    /// Rows that say nothing any more.
    pub(super) spent: Vec<HostName>,
    /// Entries of the list beside the mail that are over, and have no row.
    pub(super) over: Vec<HostName>,
}

impl CacheState {
    /// Drops what is too much or too old. Nothing while the clock is in doubt. Where the list
    /// beside the mail is damaged, whoever's entry cannot be read stays: each is looked at again
    /// before it goes.
    pub(super) async fn tidy(&self, tenants: Tenants, waiting: &Arc<dyn WaitingMail>) {
        let Tenants { policies, mut others, spent, over } = tenants;
        let count = policies.len();
        if self.clock.moment().clock == ClockTrust::Suspect {
            return self.room.is((POLICIES_MAX + POLICIES_OVER).saturating_sub(count));
        }
        let go = spent.into_iter().chain(over).map(|domain| (domain, CountsFor::Spent));
        self.drop_all(go.collect(), None).await;
        let excess = others.len().saturating_sub(OTHERS_MAX);
        if excess > 0 {
            others.sort_unstable();
            let oldest: Vec<_> =
                others.into_iter().take(excess).map(|(_, domain)| domain).collect();
            for batch in oldest.chunks(BATCH).map(<[_]>::to_vec) {
                let dropped = synced(|done| self.store.delete_without_policy(batch, done)).await;
                if let Err(error) = dropped {
                    let what = "what says nothing any more could not be dropped";
                    PolicyFact::StoreFailed { error: &error, what }.tell();
                }
            }
        }
        let left = self.make_room(policies, waiting).await;
        self.room.is((POLICIES_MAX + POLICIES_OVER).saturating_sub(left));
        HostMemory::tidy(&self.store, self.clock.moment());
    }

    /// Returns how many stay.
    async fn make_room(&self, policies: Vec<Tenant>, waiting: &Arc<dyn WaitingMail>) -> usize {
        let count = policies.len();
        let asked = Arc::clone(waiting);
        let choose = move || {
            let mut with_mail: Option<Result<HashSet<HostName>, StoreError>> = None;
            surplus(policies, POLICIES_MAX, |domain| {
                match with_mail.get_or_insert_with(|| asked.domains()) {
                    Ok(domains) => domains.contains(domain),
                    // What cannot be ruled out is kept.
                    Err(_) => true,
                }
            })
        };
        let Ok(surplus) = tokio::task::spawn_blocking(choose).await else { return count };
        if surplus.go.is_empty() && surplus.excess == 0 {
            return count;
        }
        PolicyFact::CacheCut { count: surplus.go.len(), max: POLICIES_MAX }.tell();
        let go = surplus.go.into_iter().map(|(domain, usage)| (domain, CountsFor::For(usage)));
        count - self.drop_all(go.collect(), Some(waiting)).await
    }

    /// Forgets all about these domains, but for those that somebody asks about now, that mail has
    /// come for, or that count for more than they did: much may have happened since all rows were
    /// looked at. Returns how many they were.
    async fn drop_all(
        &self,
        domains: Vec<(HostName, CountsFor)>,
        waiting: Option<&Arc<dyn WaitingMail>>,
    ) -> usize {
        let mut count = 0;
        for batch in domains.chunks(BATCH) {
            // From here on nobody learns anything about them.
            let turn = |(domain, _): &(HostName, CountsFor)| self.turns.try_take(domain);
            let taken: Vec<_> = batch.iter().filter_map(|one| Some((one, turn(one)?))).collect();
            let candidates = taken.iter().map(|(one, _)| (*one).clone()).collect();
            let go = self.still_to_go(candidates, waiting).await;
            count += self.delete_all_or_each(&go).await;
            for ((domain, _), mut turn) in taken {
                if go.contains(domain) {
                    self.fleeting.invalidate(domain).await;
                    self.asks_anew(domain).await;
                    turn.forget();
                }
            }
        }
        count
    }

    /// Whoever asks holds their turns.
    async fn still_to_go(
        &self,
        candidates: Vec<(HostName, CountsFor)>,
        waiting: Option<&Arc<dyn WaitingMail>>,
    ) -> HashSet<HostName> {
        let candidates: Vec<_> = candidates
            .into_iter()
            .filter(|(domain, _)| !self.unstored.contains_key(domain))
            .collect();
        let (store, moment, waiting) = (self.store.clone(), self.clock.moment(), waiting.cloned());
        let choose = move || {
            let may_go = |(domain, counted): &(HostName, CountsFor)| {
                let Ok(state) = read(&store, domain) else { return false };
                let may_go = match counted {
                    CountsFor::Spent => state.is_spent(moment),
                    CountsFor::For(usage) => state.may_still_go(*usage, moment),
                };
                may_go && !waiting.as_ref().is_some_and(|waiting| waiting.is_for(domain))
            };
            let go = candidates.into_iter().filter(may_go);
            go.map(|(domain, _)| domain).collect()
        };
        tokio::task::spawn_blocking(choose).await.unwrap_or_default()
    }

    /// Returns how many are deleted. A damaged page in the way of some keeps no others.
    async fn delete_all_or_each(&self, domains: &HashSet<HostName>) -> usize {
        let mut deleted = self.delete_all(domains.iter().cloned().collect()).await;
        let mut count = if deleted.is_ok() { domains.len() } else { 0 };
        if let Err(StoreError::Database { .. }) = &deleted {
            for domain in domains {
                match self.delete_all(vec![domain.clone()]).await {
                    Ok(()) => count += 1,
                    failed @ Err(_) => deleted = failed,
                }
            }
        }
        if let Err(error) = deleted {
            PolicyFact::StoreFailed { error: &error, what: "policies could not be dropped" }.tell();
        }
        count
    }

    /// First that their mail would have to wait, then the policies.
    async fn delete_all(&self, domains: Vec<HostName>) -> Result<(), StoreError> {
        synced(|done| self.store.remove_all_enforced(domains.clone(), done)).await?;
        synced(|done| self.store.delete_all(domains, done)).await.map(drop)
    }
}
