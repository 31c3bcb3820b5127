//! Which MTA-STS policy holds for a domain right now?
//!
//! [`PolicyKeeper`] owns what is known about every domain's policy. It asks DNS, fetches, and writes
//! what it learnt to the store before anything is decided by it; the rules, and the order of all that, are
//! `policy::sts::keep`'s. One asker at a time per domain, the others take the answer along, so a thousand messages
//! to a domain cost one query and at most one fetch. The common case is an answer from memory.
//!
//! The guarantee: whatever fails here, an unexpired policy goes on holding. A store that cannot be
//! read delays mail, and so does one that cannot be written where mail hangs on what was learnt.

mod asking;
mod epochs;
pub(crate) mod fetch;
mod hosts;
#[cfg(test)]
mod on_disk;
mod refresh;
mod room;
mod rows;
mod tell;
#[cfg(test)]
mod tests;
mod turns;
mod view;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use moka::future::Cache;
use policy::sts::keep::{
    DeferCause, Deferral, FetchFailure, FetchFailureKind, Kept, Moment, NoPolicy, OnFailure,
    Settings, State, TxtAnswer, Verdict,
};
use smtp::{HostName, RemoteText};
use spool::{Policies, StoreError};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use tracing::error;

use crate::clock::ClockWatch;
use crate::config::{self, Config, MtaSts};
use crate::dns::{Dns, DnsFailure, Freshness, StsRecord};
use crate::live::Live;
use crate::policies::fetch::{ClientSetupError, Fetcher};
use crate::telemetry::Reason;
use asking::Purpose;
use epochs::Epochs;
pub(crate) use epochs::PolicyWatch;
pub(crate) use hosts::{HostMemory, STARTTLS_GONE};
use room::Room;
use turns::Turns;

/// A verdict is believed no longer without a look at DNS, however long the TTL.
const VERDICT_MAX: Duration = Duration::from_secs(60);
/// "No record" is believed for its TTL, but no longer than this.
const NO_RECORD_MAX: Duration = Duration::from_secs(5 * 60);
/// A look-up that fails after less than this may be made again for the next mail.
const FAILURE_IS_SLOW: Duration = Duration::from_secs(1);
/// After a slower one, with a policy to fall back on, rest as long as it took, but no longer.
const AFTER_FAILURE_MAX: Duration = Duration::from_secs(30);
/// Memory for verdicts, in bytes.
const VERDICT_BYTES: u64 = 32 * 1024 * 1024;
/// Memory for policies that are not stored, in bytes.
const FLEETING_BYTES: u64 = 4 * 1024 * 1024;
/// Memory for what could not be stored, in bytes. Without it such a policy is fetched for each mail.
const UNSTORED_BYTES: u64 = 16 * 1024 * 1024;
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
    /// Whom it concerns.
    pub(crate) extent: Extent,
    /// The look-up that failed, if that is why.
    pub(crate) dns: Option<Box<DnsFailure>>,
}

/// For which policy domains does mail wait? All of it blocks for reads.
pub(crate) trait WaitingMail: Send + Sync {
    /// Every domain that mail waits for, and every next hop that it waits for under a name: any of them can have
    /// a policy that counts for this mail, today or under another configuration.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the queue cannot be read: then all have mail.
    fn domains(&self) -> Result<HashSet<HostName>, StoreError>;

    /// Does mail wait in the lanes of `domain` or of the next hops of this name?
    fn is_for(&self, domain: &HostName) -> bool;
}

/// Whose mail waits for the same?
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Extent {
    /// That of the domain.
    Domain,
    /// Everybody's: the trouble is ours, and no other domain would fare better.
    Everybody,
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
    tracker: TaskTracker,
    dns: Dns,
    fetcher: Live<Fetcher>,
    store: Policies,
    clock: ClockWatch,
    verdicts: Cache<HostName, Remembered>,
    /// Policies with a `max_age` of 0, which are not stored.
    fleeting: Cache<HostName, Arc<Kept>>,
    /// What could not be stored, and holds until a restart.
    unstored: moka::sync::Cache<HostName, Arc<State>>,
    turns: Turns,
    room: Room,
    epochs: Epochs,
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
        PolicyVerdict::Policy(kept) => kept.weight(),
        PolicyVerdict::None(_) | PolicyVerdict::Defer(_) => 0,
    };
    u32::try_from(512 + domain.as_str().len() + body).unwrap_or(u32::MAX)
}

impl PolicyKeeper {
    /// Keeps policies in `store`; look-ups run on `tracker`. How they are fetched is as [`PolicyKeeper::renew`] says last, everything
    /// else follows `config`.
    ///
    /// # Errors
    ///
    /// [`ClientSetupError`] when `mta_sts.ca_file` is of no use.
    pub(crate) fn new(
        config: watch::Receiver<Arc<Config>>,
        dns: Dns,
        store: Policies,
        (clock, tracker): (ClockWatch, TaskTracker),
    ) -> Result<Self, ClientSetupError> {
        let fetcher = Live::new(Fetcher::new(&config.borrow(), dns.clone(), clock.clone())?);
        let verdicts = Cache::builder()
            .max_capacity(VERDICT_BYTES)
            .weigher(weight)
            .expire_after(ByTtl)
            .build();
        let fleeting = Cache::builder()
            .max_capacity(FLEETING_BYTES)
            .weigher(|_, kept: &Arc<Kept>| u32::try_from(512 + kept.weight()).unwrap_or(u32::MAX))
            .time_to_live(FLEETING_LIFE)
            .build();
        let (turns, room, epochs) = (Turns::default(), Room::default(), Epochs::default());
        let unstored = moka::sync::Cache::builder()
            .max_capacity(UNSTORED_BYTES)
            .weigher(|_, state: &Arc<State>| {
                let kept = state.kept.as_ref().map_or(0, |kept| kept.weight());
                u32::try_from(1024 + kept).unwrap_or(u32::MAX)
            })
            .build();
        let inner = Inner {
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
    ///
    /// It goes on when whoever asks does not wait any more, as an attempt that makes room for others: what was
    /// written halfway neither memory nor other attempts would know of.
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
        let asked = Box::pin(self.inner.ask(domain, Purpose::Mail, freshness)).await;
        // What was formed by rules that have changed meanwhile is not for the next one who asks.
        if Arc::ptr_eq(&config, &self.inner.config.borrow()) {
            self.inner.remember(domain, &asked.consulted.verdict, asked.ttl).await;
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
                error!(event = "store_failed", %domain, %error, "a policy could not be looked up");
                return true;
            }
        };
        let moment = self.inner.clock.moment();
        state.is_lost(moment) || state.live(moment).is_some_and(|kept| kept.is_enforced())
    }
}

impl Inner {
    /// Forgets the domain: first that its mail would have to wait, then the policy. Says whether anything was known.
    async fn delete(&self, domain: HostName) -> Result<bool, StoreError> {
        let (store, name) = (self.store.clone(), domain.clone());
        let found = tokio::task::spawn_blocking(move || store.enforced(&name)).await;
        let was_listed = !matches!(found, Ok(Ok(spool::Found::Absent)));
        synced(|done| self.store.remove_enforced(domain.clone(), done)).await?;
        self.unstored.invalidate(&domain);
        self.fleeting.invalidate(&domain).await;
        let was_stored = synced(|done| self.store.delete(domain, done)).await?;
        Ok(was_listed || was_stored)
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

/// What a write calls when it is on the disk, or will not be.
type Done<T> = Box<dyn FnOnce(Result<T, StoreError>) + Send>;

/// Begins a write and waits for its end.
async fn synced<T: Send + 'static>(begin: impl FnOnce(Done<T>)) -> Result<T, StoreError> {
    let (done, synced) = oneshot::channel();
    // Whoever waited may be gone.
    begin(Box::new(|result| drop(done.send(result))));
    synced.await.unwrap_or(Err(StoreError::Closed))
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

fn verdict_of(domain: &HostName, verdict: Verdict, dns: Option<Box<DnsFailure>>) -> PolicyVerdict {
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
                DeferCause::Lost(failure) => (Reason::PolicyLost, lost_text(domain, failure)),
                DeferCause::OwnLimit => {
                    let text = format!("{}: too many policy fetches are running", url(domain));
                    (Reason::OwnLimit, RemoteText::new(&text))
                }
                DeferCause::Store => {
                    let text = "what was learnt about the policy could not be stored";
                    (Reason::LocalError, RemoteText::new(text))
                }
            };
            let dns = dns.filter(|_| reason == Reason::PolicyDnsFailure);
            PolicyVerdict::Defer(PolicyDefer { reason, until, text, extent: Extent::Domain, dns })
        }
    }
}

fn fetch_reason(kind: FetchFailureKind) -> Reason {
    match kind {
        FetchFailureKind::Fetch | FetchFailureKind::Certificate => Reason::PolicyFetchFailed,
        FetchFailureKind::Invalid => Reason::PolicyInvalid,
    }
}

fn failure_text(domain: &HostName, failure: &FetchFailure) -> RemoteText {
    RemoteText::new(&format!("{}: {}", url(domain), failure.text))
}

fn lost_text(domain: &HostName, failure: Option<FetchFailure>) -> RemoteText {
    let why = match failure {
        Some(failure) => failure_text(domain, &failure).to_string(),
        None => format!("{}: waiting for the next try", url(domain)),
    };
    let text = format!(
        "the stored enforce policy cannot be read, and mail waits for a new one \
         (or `staunch policy forget {domain}`): {why}"
    );
    RemoteText::new(&text)
}

fn url(domain: &HostName) -> String {
    format!("https://mta-sts.{domain}/.well-known/mta-sts.txt")
}
