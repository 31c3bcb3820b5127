//! Which MTA-STS policy holds for a domain right now?
//!
//! [`PolicyCache`] owns what is known about every domain's policy. It asks DNS, fetches, and writes
//! what it learnt to the store before anything is decided by it; the rules, and the order of all
//! that, are `policy::sts::cache`'s. One asker at a time per domain, the others take the answer
//! along, so a thousand messages to a domain cost one query and at most one fetch. The common case
//! is an answer from memory.
//!
//! The guarantee: whatever fails here, an unexpired policy goes on holding. A store that cannot be
//! read delays mail, and so does one that cannot be written where mail hangs on what was learnt.

mod asking;
mod epochs;
mod facts;
pub(crate) mod fetch;
mod hosts;
#[cfg(test)]
mod on_disk;
mod refresh;
mod room;
mod rows;
mod settings;
mod synced;
mod tell;
#[cfg(test)]
mod tests;
mod tidying;
mod turns;
mod verdict;
mod view;
mod waiting_mail;

use std::sync::Arc;
use std::time::Duration;

use moka::future::Cache;
use policy::sts::cache::{CachedPolicy, Moment, State};
use smtp::HostName;
use spool::{Policies, StoreError};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::clock::ClockWatch;
use crate::config::Config;
use crate::dns::{Freshness, Resolver};
use crate::policies::facts::PolicyFact;
use crate::policies::fetch::{ClientSetupError, Fetcher};
use crate::reloadable::Reloadable;
use epochs::Epochs;
pub(crate) use epochs::PolicyWatch;
pub(crate) use facts::STARTTLS_GONE;
pub(crate) use hosts::HostMemory;
use room::PolicyRoom;
use synced::synced;
use turns::DomainTurns;
use verdict::LookUpPurpose;
pub(crate) use verdict::{Consulted, DeferExtent, PolicyDefer, PolicySource, PolicyVerdict};
pub(crate) use view::{PolicyDetail, PolicySummary, RefreshResult};
pub(crate) use waiting_mail::WaitingMail;

/// Memory for verdicts, in bytes.
const VERDICT_BYTES: u64 = 32 * 1024 * 1024;
/// Memory for policies that are not stored, in bytes.
const FLEETING_BYTES: u64 = 4 * 1024 * 1024;
/// Memory for what could not be stored, in bytes. Without it such a policy is fetched for each
/// mail.
const UNSTORED_BYTES: u64 = 16 * 1024 * 1024;
/// The rules look back on fetches for an hour.
const FLEETING_LIFE: Duration = Duration::from_secs(60 * 60);

/// The one owner of policy state. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct PolicyCache {
    inner: Arc<CacheState>,
}

#[derive(Debug)]
struct CacheState {
    config: watch::Receiver<Arc<Config>>,
    tracker: TaskTracker,
    dns: Resolver,
    fetcher: Reloadable<Fetcher>,
    store: Policies,
    clock: ClockWatch,
    verdicts: Cache<HostName, Remembered>,
    /// Policies with a `max_age` of 0, which are not stored.
    fleeting: Cache<HostName, Arc<CachedPolicy>>,
    /// What could not be stored, and holds until a restart.
    unstored: moka::sync::Cache<HostName, Arc<State>>,
    turns: DomainTurns,
    room: PolicyRoom,
    epochs: Epochs,
}

/// A verdict that counts until the cache drops it.
#[derive(Clone, Debug)]
struct Remembered {
    verdict: PolicyVerdict,
    ttl: Duration,
    until: Instant,
}

struct VerdictTtl;

impl moka::Expiry<HostName, Remembered> for VerdictTtl {
    fn expire_after_create(
        &self,
        _: &HostName,
        value: &Remembered,
        _: std::time::Instant,
    ) -> Option<Duration> {
        Some(value.ttl)
    }

    fn expire_after_update(
        &self,
        _: &HostName,
        value: &Remembered,
        _: std::time::Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Some(value.ttl)
    }
}

fn weight(domain: &HostName, value: &Remembered) -> u32 {
    let body = match &value.verdict {
        PolicyVerdict::Policy(kept) => kept.weight(),
        PolicyVerdict::None(_) | PolicyVerdict::Defer(_) => 0,
    };
    u32::try_from(512 + domain.as_str().len() + body).unwrap_or(u32::MAX)
}

impl PolicyCache {
    /// Keeps policies in `store`; look-ups run on `tracker`. How they are fetched is as
    /// [`PolicyCache::renew`] says last, everything else follows `config`.
    ///
    /// # Errors
    ///
    /// [`ClientSetupError`] when `mta_sts.ca_file` is of no use.
    pub(crate) fn new(
        config: watch::Receiver<Arc<Config>>,
        dns: Resolver,
        store: Policies,
        (clock, tracker): (ClockWatch, TaskTracker),
    ) -> Result<Self, ClientSetupError> {
        let fetcher = Reloadable::new(Fetcher::new(&config.borrow(), dns.clone(), clock.clone())?);
        let verdicts = Cache::builder()
            .max_capacity(VERDICT_BYTES)
            .weigher(weight)
            .expire_after(VerdictTtl)
            .build();
        let fleeting = Cache::builder()
            .max_capacity(FLEETING_BYTES)
            .weigher(|_, kept: &Arc<CachedPolicy>| {
                u32::try_from(512 + kept.weight()).unwrap_or(u32::MAX)
            })
            .time_to_live(FLEETING_LIFE)
            .build();
        let (turns, room, epochs) =
            (DomainTurns::default(), PolicyRoom::default(), Epochs::default());
        let unstored = moka::sync::Cache::builder()
            .max_capacity(UNSTORED_BYTES)
            .weigher(|_, state: &Arc<State>| {
                let kept = state.kept.as_ref().map_or(0, |kept| kept.weight());
                u32::try_from(1024 + kept).unwrap_or(u32::MAX)
            })
            .build();
        let inner = CacheState {
            config,
            tracker,
            dns,
            fetcher,
            store,
            clock,
            verdicts,
            fleeting,
            unstored,
            turns,
            room,
            epochs,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// How policies would be fetched under `config`.
    ///
    /// # Errors
    ///
    /// [`ClientSetupError`] when `mta_sts.ca_file` is of no use.
    pub(crate) fn prepare(&self, config: &Config) -> Result<Fetcher, ClientSetupError> {
        self.inner.fetcher.now().renewed(config)
    }

    /// Fetches so from now on. Verdicts that were formed under the configuration before are formed
    /// anew.
    pub(crate) fn renew(&self, fetcher: Fetcher) {
        self.inner.fetcher.replace(fetcher);
        self.inner.verdicts.invalidate_all();
    }

    /// A watch on what the policy of `domain` asks. To be taken before it is looked up.
    pub(crate) fn watch(&self, domain: &HostName) -> PolicyWatch {
        self.inner.epochs.watch(domain)
    }

    /// What holds for mail to `domain` now.
    pub(crate) async fn lookup(&self, domain: &HostName, freshness: Freshness) -> PolicyVerdict {
        if freshness == Freshness::Cached
            && let Some(known) = self.inner.verdicts.get(domain).await
            && Instant::now() < known.until
        {
            return known.verdict;
        }
        self.consult(domain, freshness).await.verdict
    }

    /// As [`PolicyCache::lookup`], with the evidence, and always with a question to DNS.
    ///
    /// It goes on when whoever asks does not wait any more, as an attempt that makes room for
    /// others: what was written halfway neither memory nor other attempts would know of.
    pub(crate) async fn consult(&self, domain: &HostName, freshness: Freshness) -> Consulted {
        let (keeper, domain) = (self.clone(), domain.clone());
        let look_up = async move { keeper.consult_to_the_end(&domain, freshness).await };
        match self.inner.tracker.spawn(look_up).await {
            Ok(consulted) => consulted,
            // Only the end of the daemon cancels it, and that ends whoever asks, too.
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => std::future::pending().await,
            },
        }
    }

    async fn consult_to_the_end(&self, domain: &HostName, freshness: Freshness) -> Consulted {
        let arrived = Instant::now();
        let mut turn = self.inner.turns.take(domain).await;
        if let Some(answer) = turn.shared(arrived, freshness) {
            return answer;
        }
        let begun = Instant::now();
        let config = Arc::clone(&self.inner.config.borrow());
        let asked = Box::pin(self.inner.ask(domain, LookUpPurpose::Mail, freshness)).await;
        // What was formed by rules that have changed meanwhile is not for the next one who asks.
        let is_current = Arc::ptr_eq(&config, &self.inner.config.borrow());
        if is_current && !asked.ttl.is_zero() {
            let (verdict, ttl) = (asked.consulted.verdict.clone(), asked.ttl);
            let remembered = Remembered { verdict, ttl, until: Instant::now() + ttl };
            self.inner.verdicts.insert(domain.clone(), remembered).await;
        } else {
            self.inner.verdicts.invalidate(domain).await;
        }
        if asked.is_changed {
            self.inner.epochs.bump(domain);
        }
        turn.done(begun, asked.consulted.clone());
        asked.consulted
    }

    /// Is an unexpired enforced policy stored for `domain`, or can that not be ruled out? Then what
    /// anybody could forge in DNS must not end its mail. Blocks for a read.
    pub(crate) fn enforces(&self, domain: &HostName) -> bool {
        let state = match self.inner.read(domain) {
            Ok(state) => state,
            Err(error) => {
                PolicyFact::StoreFailedFor {
                    domain,
                    error: &error,
                    what: "a policy could not be looked up",
                }
                .tell();
                return true;
            }
        };
        let moment = self.inner.clock.moment();
        state.is_lost(moment) || state.live(moment).is_some_and(|kept| kept.is_enforced())
    }
}

impl CacheState {
    /// Forgets the domain: first that its mail would have to wait, then the policy. Says whether
    /// anything was known.
    async fn delete(&self, domain: HostName) -> Result<bool, StoreError> {
        let (store, name) = (self.store.clone(), domain.clone());
        let found = tokio::task::spawn_blocking(move || store.enforced(&name)).await;
        let was_listed = !matches!(found, Ok(Ok(spool::FoundPolicy::Absent)));
        synced(|done| self.store.remove_enforced(domain.clone(), done)).await?;
        self.unstored.invalidate(&domain);
        self.fleeting.invalidate(&domain).await;
        let was_stored = synced(|done| self.store.delete(domain, done)).await?;
        Ok(was_listed || was_stored)
    }
}
