//! Which MTA-STS policy holds for a domain right now?
//!
//! [`PolicyKeeper`] owns what is known about every domain's policy. It asks DNS, fetches, and writes
//! what it learnt to the store before anything is decided by it; the rules are `policy::sts::keep`'s.
//! One asker at a time per domain, the others take the answer along, so a thousand messages to a
//! domain cost one query and at most one fetch. The common case is an answer from memory.
//!
//! The guarantee: whatever fails here, an unexpired policy goes on holding. A store that cannot be
//! read delays mail; one that cannot be written loses nothing but what was learnt just now.

mod hosts;
mod refresh;
mod rows;
mod tell;
#[cfg(test)]
mod tests;
mod turns;
mod view;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use moka::future::Cache;
use policy::sts::keep::{
    Alarm, DeferCause, Deferral, FetchFailure, FetchFailureKind, Kept, Moment, NoPolicy, OnFailure,
    Plan, Settings, State, TxtAnswer, Verdict,
};
use policy::sts::{Id, Mode, Policy};
use smtp::{HostName, RemoteText};
use spool::{Policies, PolicyRow, StoreError};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use tracing::{error, warn};

use crate::clock::ClockWatch;
use crate::config::{self, Config, MtaSts};
use crate::fetch::{ClientSetupError, FetchError, Fetcher};
use crate::live::Live;
use crate::outcome::Reason;
use crate::resolve::{Dns, Freshness, StsRecord};
pub(crate) use hosts::HostMemory;
use tell::{raise, tell_fetched, tell_kept};
use turns::Turns;

/// A verdict is believed no longer without a look at DNS, however long the TTL.
const VERDICT_MAX: Duration = Duration::from_secs(60);
/// "No record" is believed for its TTL, but no longer than this.
const NO_RECORD_MAX: Duration = Duration::from_secs(5 * 60);
/// A look-up that fails after less than this may be made again for the next mail.
const FAILURE_IS_SLOW: Duration = Duration::from_secs(1);
/// After a slower one, with a policy to fall back on, rest as long as it took, but no longer.
const AFTER_FAILURE_MAX: Duration = Duration::from_secs(30);
/// Mail waits this long when the trouble is ours: the store, or too many fetches.
const LOCAL_REST: Duration = Duration::from_secs(60);
/// Memory for verdicts, in bytes.
const VERDICT_BYTES: u64 = 32 * 1024 * 1024;
/// Memory for policies that are not stored, in bytes.
const FLEETING_BYTES: u64 = 4 * 1024 * 1024;
/// The rules look back on fetches for an hour.
const FLEETING_LIFE: Duration = Duration::from_secs(60 * 60);

/// What holds for a domain's mail.
#[derive(Clone, Debug)]
pub(crate) enum PolicyVerdict {
    /// This policy; its mode may be `none`.
    Policy(Arc<Kept>),
    /// No policy.
    None(NoPolicy),
    /// It is not known yet: the mail waits.
    Defer(PolicyDefer),
}

/// A wait for knowledge about a policy.
#[derive(Clone, Debug)]
pub(crate) struct PolicyDefer {
    /// Why.
    pub(crate) reason: Reason,
    /// When it is worth another look.
    pub(crate) until: Timestamp,
    /// What happened, with the step that failed.
    pub(crate) text: RemoteText,
}

/// A verdict with the evidence that `explain` shows.
#[derive(Clone, Debug)]
pub(crate) struct Consulted {
    /// What holds.
    pub(crate) verdict: PolicyVerdict,
    /// What DNS said; `None` if it was not asked, because an answer was at hand or nothing helps.
    pub(crate) record: Option<TxtAnswer>,
    /// Where the policy is from.
    pub(crate) source: Source,
    /// Why no new policy could be fetched although a record names one.
    pub(crate) failure: Option<RemoteText>,
}

/// Where a policy is from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Source {
    /// Fetched earlier.
    Cache,
    /// Fetched just now.
    Fetch,
    /// There is none.
    None,
}

/// The one owner of policy state. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct PolicyKeeper {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: watch::Receiver<Arc<Config>>,
    dns: Dns,
    fetcher: Live<Fetcher>,
    store: Policies,
    clock: ClockWatch,
    verdicts: Cache<HostName, Remembered>,
    /// Policies with a `max_age` of 0, which are not stored.
    fleeting: Cache<HostName, Arc<Kept>>,
    turns: Turns,
}

/// A verdict that counts until the cache drops it.
#[derive(Clone, Debug)]
struct Remembered {
    verdict: PolicyVerdict,
    ttl: Duration,
    until: Instant,
}

struct ByTtl;

impl moka::Expiry<HostName, Remembered> for ByTtl {
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
        PolicyVerdict::Policy(kept) => kept.body().len() * 2,
        PolicyVerdict::None(_) | PolicyVerdict::Defer(_) => 0,
    };
    u32::try_from(512 + domain.as_str().len() + body).unwrap_or(u32::MAX)
}

impl PolicyKeeper {
    /// Keeps policies in `store`. How they are fetched is as [`PolicyKeeper::renew`] says last, everything
    /// else follows `config`.
    ///
    /// # Errors
    ///
    /// [`ClientSetupError`] when `mta_sts.ca_file` is of no use.
    pub(crate) fn new(
        config: watch::Receiver<Arc<Config>>,
        dns: Dns,
        store: Policies,
        clock: ClockWatch,
    ) -> Result<Self, ClientSetupError> {
        let fetcher = Live::new(Fetcher::new(&config.borrow(), dns.clone())?);
        let verdicts = Cache::builder()
            .max_capacity(VERDICT_BYTES)
            .weigher(weight)
            .expire_after(ByTtl)
            .build();
        let fleeting = Cache::builder()
            .max_capacity(FLEETING_BYTES)
            .weigher(|_, kept: &Arc<Kept>| {
                u32::try_from(512 + kept.body().len()).unwrap_or(u32::MAX)
            })
            .time_to_live(FLEETING_LIFE)
            .build();
        let turns = Turns::default();
        let inner = Inner { config, dns, fetcher, store, clock, verdicts, fleeting, turns };
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

    /// Fetches so from now on. Verdicts that were formed under the configuration before are formed anew.
    pub(crate) fn renew(&self, fetcher: Fetcher) {
        self.inner.fetcher.replace(fetcher);
        self.inner.verdicts.invalidate_all();
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

    /// As [`PolicyKeeper::lookup`], with the evidence, and always with a question to DNS.
    pub(crate) async fn consult(&self, domain: &HostName, freshness: Freshness) -> Consulted {
        let arrived = Instant::now();
        let mut turn = self.inner.turns.take(domain).await;
        if let Some(answer) = turn.shared(arrived, freshness) {
            return answer;
        }
        let begun = Instant::now();
        let config = Arc::clone(&self.inner.config.borrow());
        let (answer, ttl) = Box::pin(self.inner.decide(domain, freshness)).await;
        // What was formed by rules that have changed meanwhile is not for the next one who asks.
        if Arc::ptr_eq(&config, &self.inner.config.borrow()) {
            self.inner.remember(domain, &answer.verdict, ttl).await;
        }
        turn.done(begun, answer.clone());
        answer
    }

    /// Is an unexpired enforced policy stored for `domain`, or can that not be ruled out? Then what
    /// anybody could forge in DNS must not end its mail. Blocks for a read.
    pub(crate) fn enforces(&self, domain: &HostName) -> bool {
        let state = match self.inner.store.get(domain) {
            Ok(found) => rows::state_of(found),
            Err(error) => {
                error!(event = "store_failed", %domain, %error, "a policy could not be looked up");
                return true;
            }
        };
        let enforced = |kept: Arc<Kept>| kept.policy().mode() == Mode::Enforce;
        state.live(self.inner.clock.moment()).is_some_and(enforced)
            || state.alarms.contains(&Alarm::PolicyLost)
    }
}

/// What a look-up is about.
struct Question<'q> {
    domain: &'q HostName,
    settings: Settings,
}

impl Inner {
    /// The verdict, and how long it may be believed.
    async fn decide(&self, domain: &HostName, freshness: Freshness) -> (Consulted, Duration) {
        let settings = settings(&self.config.borrow().mta_sts);
        let question = Question { domain, settings };
        let before = match self.load(domain).await {
            Ok(state) => state,
            Err(text) => return (self.local_trouble(domain, &text), Duration::ZERO),
        };
        let mut state = before.clone();
        let begun = Instant::now();
        let record = self.dns.sts_record(domain, freshness).await;
        let moment = self.clock.moment();
        let step = state.plan(&record.answer, moment, &question.settings);
        raise(domain, step.alarm);
        let (verdict, source, failure) = match step.decision {
            Plan::Decided(verdict) => (verdict, Source::Cache, None),
            Plan::Fetch { id } => self.fetch(&question, id, &mut state).await,
        };
        tell_kept(domain, &verdict, &record.answer, failure.as_ref());
        self.save(domain, &before, &state).await;
        let ttl = rest(&verdict, &record, self.clock.moment(), begun.elapsed());
        let source = if matches!(verdict, Verdict::Use(_)) { source } else { Source::None };
        let verdict = verdict_of(domain, verdict);
        (Consulted { verdict, record: Some(record.answer), source, failure }, ttl)
    }

    /// Fetches the policy and takes in what came of it.
    async fn fetch(
        &self,
        question: &Question<'_>,
        id: Id,
        state: &mut State,
    ) -> (Verdict, Source, Option<RemoteText>) {
        let domain = question.domain;
        let old = state.live(self.clock.moment());
        let fetched = match self.fetcher.now().fetch(domain).await {
            Ok(fetched) => match Policy::parse(&fetched.body) {
                Ok(_) => Ok(fetched),
                Err(invalid) => Err(FetchFailure::from(invalid)),
            },
            Err(FetchError::Busy) => return (self.busy(old), Source::Cache, None),
            Err(error) => Err(failure_of(&error)),
        };
        if let Some(date) = fetched.as_ref().ok().and_then(|fetched| fetched.date) {
            self.clock.confirm(date);
        }
        let failure = fetched.as_ref().err().map(|failure| failure_text(domain, failure));
        if let (Err(failure), Some(text)) = (&fetched, &failure) {
            let reason = failure.reason();
            warn!(event = "policy_fetch_failed", reason, %domain, id = id.as_str(), error = %text);
        }
        let moment = self.clock.moment();
        let body = fetched.as_ref().map(|fetched| fetched.body.as_slice()).map_err(Clone::clone);
        let step = state.after_fetch(id, body, moment, &question.settings);
        raise(domain, step.alarm);
        if fetched.is_err() {
            return (step.decision, Source::Cache, failure);
        }
        tell_fetched(domain, old.as_deref(), &step.decision);
        (step.decision, Source::Fetch, None)
    }

    /// No fetch was possible for reasons of our own, so nothing was learnt.
    fn busy(&self, live: Option<Arc<Kept>>) -> Verdict {
        live.map_or_else(
            || {
                let until = after(self.clock.moment().now, LOCAL_REST);
                Verdict::Defer(Deferral { until, cause: DeferCause::Fetch(None) })
            },
            Verdict::Use,
        )
    }

    fn local_trouble(&self, domain: &HostName, text: &str) -> Consulted {
        error!(event = "store_failed", %domain, error = text, "a policy could not be looked up");
        let until = after(self.clock.moment().now, LOCAL_REST);
        let text = RemoteText::new(text);
        let defer = PolicyDefer { reason: Reason::LocalError, until, text };
        Consulted {
            verdict: PolicyVerdict::Defer(defer),
            record: None,
            source: Source::None,
            failure: None,
        }
    }

    async fn load(&self, domain: &HostName) -> Result<State, String> {
        let (store, name) = (self.store.clone(), domain.clone());
        let found = tokio::task::spawn_blocking(move || store.get(&name)).await;
        let found = found.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        let mut state = rows::state_of(found);
        if state == State::lost() {
            // Only the first time: from then on the state has more to it.
            raise(domain, Some(Alarm::PolicyLost));
        }
        state.fleeting = self.fleeting.get(domain).await;
        Ok(state)
    }

    /// Writes what changed, and waits until it is on the disk where a decision hangs on it.
    async fn save(&self, domain: &HostName, before: &State, state: &State) {
        if let Some(kept) = &state.fleeting {
            self.fleeting.insert(domain.clone(), Arc::clone(kept)).await;
        }
        if state == before {
            return;
        }
        let marks_aside = State {
            last_used_at: before.last_used_at,
            none_seen_at: before.none_seen_at,
            ..state.clone()
        };
        let only_marks = marks_aside == *before && *before != State::lost();
        let row = rows::row_of(domain, state);
        let stored = if only_marks { self.put_later(row) } else { self.put(row).await };
        if let Err(error) = stored {
            error!(
                event = "alarm",
                reason = "policy_store_failed",
                %domain,
                %error,
                "what was learnt about a policy holds for this mail only"
            );
        }
    }

    fn put_later(&self, row: PolicyRow) -> Result<(), StoreError> {
        self.store.put(row, |stored| {
            if let Err(error) = stored {
                warn!(event = "store_failed", %error, "the use of a policy could not be noted");
            }
        });
        Ok(())
    }

    async fn put(&self, row: PolicyRow) -> Result<(), StoreError> {
        let (done, stored) = oneshot::channel();
        self.store.put(row, |result| drop(done.send(result)));
        stored.await.unwrap_or(Err(StoreError::Closed))
    }

    async fn delete(&self, domain: HostName) -> Result<bool, StoreError> {
        let (done, deleted) = oneshot::channel();
        self.store.delete(domain, |result| drop(done.send(result)));
        deleted.await.unwrap_or(Err(StoreError::Closed))
    }

    async fn remember(&self, domain: &HostName, verdict: &PolicyVerdict, ttl: Duration) {
        if ttl.is_zero() {
            self.verdicts.invalidate(domain).await;
            return;
        }
        let until = Instant::now() + ttl;
        let remembered = Remembered { verdict: verdict.clone(), ttl, until };
        self.verdicts.insert(domain.clone(), remembered).await;
    }
}

fn settings(config: &MtaSts) -> Settings {
    Settings {
        dns_failure: on_failure(config.dns_failure),
        dns_failure_cap: config.dns_failure_cap,
        fetch_failure: on_failure(config.fetch_failure),
        refresh_every: config.refresh_every,
    }
}

fn on_failure(choice: config::OnFailure) -> OnFailure {
    match choice {
        config::OnFailure::Defer => OnFailure::Defer,
        config::OnFailure::Deliver => OnFailure::Deliver,
    }
}

fn after(at: Timestamp, by: Duration) -> Timestamp {
    at.checked_add(by).unwrap_or(Timestamp::MAX)
}

/// How long a verdict may be believed without a look at DNS: as DNS says, never past the policy's
/// end, and after a failure only so long that the failing look-ups do not become the bottleneck.
fn rest(verdict: &Verdict, record: &StsRecord, moment: Moment, took: Duration) -> Duration {
    let by_record = match &record.answer {
        TxtAnswer::Usable(_) | TxtAnswer::Unusable(_) => record.ttl,
        TxtAnswer::Failed(_) if took < FAILURE_IS_SLOW => Duration::ZERO,
        TxtAnswer::Failed(_) => took.min(AFTER_FAILURE_MAX),
    };
    match verdict {
        Verdict::Use(kept) => {
            let left = kept.expires_at().duration_since(moment.now);
            by_record.min(VERDICT_MAX).min(left.try_into().unwrap_or_default())
        }
        Verdict::NoPolicy(NoPolicy::Record(_)) => by_record.min(NO_RECORD_MAX),
        Verdict::NoPolicy(NoPolicy::Dns(_) | NoPolicy::Fetch(_)) => by_record.min(VERDICT_MAX),
        // Who asks again has a reason to: a schedule of its own, or an operator.
        Verdict::Defer(_) => Duration::ZERO,
    }
}

fn verdict_of(domain: &HostName, verdict: Verdict) -> PolicyVerdict {
    match verdict {
        Verdict::Use(kept) => PolicyVerdict::Policy(kept),
        Verdict::NoPolicy(why) => PolicyVerdict::None(why),
        Verdict::Defer(Deferral { until, cause }) => {
            let (reason, text) = match cause {
                DeferCause::Dns(text) => (Reason::PolicyDnsFailure, text),
                DeferCause::Fetch(Some(failure)) => {
                    (fetch_reason(failure.kind), failure_text(domain, &failure))
                }
                DeferCause::Fetch(None) => {
                    let text = format!("{}: waiting for the next try", url(domain));
                    (Reason::PolicyFetchFailed, RemoteText::new(&text))
                }
            };
            PolicyVerdict::Defer(PolicyDefer { reason, until, text })
        }
    }
}

fn fetch_reason(kind: FetchFailureKind) -> Reason {
    match kind {
        FetchFailureKind::Fetch | FetchFailureKind::Certificate => Reason::PolicyFetchFailed,
        FetchFailureKind::Invalid => Reason::PolicyInvalid,
    }
}

/// How the rules call a failure of the fetch.
fn failure_of(error: &FetchError) -> FetchFailure {
    let kind = match error {
        FetchError::Certificate(_) => FetchFailureKind::Certificate,
        FetchError::Busy
        | FetchError::Dns(_)
        | FetchError::NoAddress(_)
        | FetchError::Forbidden { .. }
        | FetchError::Connect(_)
        | FetchError::Tls(_)
        | FetchError::Status(_)
        | FetchError::ContentType(_)
        | FetchError::TooLarge
        | FetchError::Timeout
        | FetchError::Truncated
        | FetchError::Http(_) => FetchFailureKind::Fetch,
    };
    FetchFailure { kind, text: RemoteText::new(&error.to_string()) }
}

fn failure_text(domain: &HostName, failure: &FetchFailure) -> RemoteText {
    RemoteText::new(&format!("{}: {}", url(domain), failure.text))
}

fn url(domain: &HostName) -> String {
    format!("https://mta-sts.{domain}/.well-known/mta-sts.txt")
}
