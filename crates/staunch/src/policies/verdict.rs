//! What holds for a domain's mail, in the words that mail and `explain` share.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use policy::sts::cache::{
    CachedPolicy, DeferCause, Deferral, FetchFailure, FetchFailureKind, Moment, NoPolicy,
    TxtAnswer, Verdict,
};
use smtp::{HostName, RemoteText};

use crate::dns::{DnsFailure, StsRecord};
use crate::telemetry::Reason;

/// A verdict is believed no longer without a look at DNS, however long the TTL.
const VERDICT_MAX: Duration = Duration::from_secs(60);
/// "No record" is believed for its TTL, but no longer than this.
const NO_RECORD_MAX: Duration = Duration::from_secs(5 * 60);
/// A look-up that fails after less than this may be made again for the next mail.
const FAILURE_IS_SLOW: Duration = Duration::from_secs(1);
/// After a slower one, with a policy to fall back on, rest as long as it took, but no longer.
const AFTER_FAILURE_MAX: Duration = Duration::from_secs(30);

/// What holds for a domain's mail.
#[derive(Clone, Debug)]
pub(crate) enum PolicyVerdict {
    /// This policy; its mode may be `none`.
    Policy(Arc<CachedPolicy>),
    /// No policy: it is known that there is none, or mail goes without.
    None(NoPolicy),
    /// It is not known yet: the mail waits.
    Defer(PolicyDefer),
}

/// A wait for knowledge about a policy.
#[derive(Clone, Debug)]
pub(crate) struct PolicyDefer {
    /// The reason code for log, queue and `explain`.
    pub(crate) reason: Reason,
    /// When it is worth another look.
    pub(crate) until: Timestamp,
    /// What happened, with the step that failed.
    pub(crate) text: RemoteText,
    /// Whose mail waits with it.
    pub(crate) extent: DeferExtent,
    /// The look-up that failed, if that is why.
    pub(crate) dns: Option<Box<DnsFailure>>,
}

/// Whose mail waits for the same?
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum DeferExtent {
    /// That of the domain.
    Domain,
    /// Everybody's: the trouble is ours, and no other domain would fare better.
    Everybody,
}

/// A verdict with the evidence that `explain` shows.
#[derive(Clone, Debug)]
pub(crate) struct Consulted {
    /// What mail has to do: keep to a policy, go without, or wait.
    pub(crate) verdict: PolicyVerdict,
    /// What DNS said; `None` if it was not asked, because an answer was at hand or nothing helps.
    pub(crate) record: Option<TxtAnswer>,
    /// Where the policy is from.
    pub(crate) source: PolicySource,
    /// Why no new policy could be fetched although a record names one.
    pub(crate) failure: Option<RemoteText>,
}

/// Where a policy is from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum PolicySource {
    /// From the cache: it was fetched earlier.
    Cache,
    /// From its host: it was fetched for this look-up.
    Fetch,
    /// There is no policy to have a source.
    None,
}

/// For whom a policy is looked up.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum LookUpPurpose {
    Mail,
    /// The policy itself, which gets old.
    Refresh,
    /// An operator asked, so limits and back-off do not count.
    Order,
}

/// How long a verdict may be believed without a look at DNS: as DNS says, never past the policy's
/// end, and after a failure only so long that the failing look-ups do not become the bottleneck.
pub(super) fn rest(
    verdict: &Verdict,
    record: &StsRecord,
    moment: Moment,
    took: Duration,
) -> Duration {
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

pub(super) fn verdict_of(
    domain: &HostName,
    verdict: Verdict,
    dns: Option<Box<DnsFailure>>,
) -> PolicyVerdict {
    match verdict {
        Verdict::Use(kept) => PolicyVerdict::Policy(kept),
        Verdict::NoPolicy(why) => PolicyVerdict::None(why),
        Verdict::Defer(Deferral { until, cause }) => {
            let (reason, text) = match cause {
                DeferCause::Dns(text) => (Reason::PolicyDnsFailure, text),
                DeferCause::Fetch(Some(failure)) => {
                    let reason = match failure.kind {
                        FetchFailureKind::Fetch | FetchFailureKind::Certificate => {
                            Reason::PolicyFetchFailed
                        }
                        FetchFailureKind::Invalid => Reason::PolicyInvalid,
                    };
                    (reason, failure_text(domain, &failure))
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
            PolicyVerdict::Defer(PolicyDefer {
                reason,
                until,
                text,
                extent: DeferExtent::Domain,
                dns,
            })
        }
    }
}

pub(super) fn failure_text(domain: &HostName, failure: &FetchFailure) -> RemoteText {
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
