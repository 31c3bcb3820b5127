//! Which facts there are about a policy that was looked up.

use policy::sts::CachedPolicy;
use policy::sts::cache::{TxtAnswer, Verdict};
use smtp::{HostName, RemoteText};

use crate::policies::facts::PolicyFact;

/// A policy goes on holding although something looked for was not found.
pub(super) fn tell_kept(
    domain: &HostName,
    verdict: &Verdict,
    answer: &TxtAnswer,
    failure: Option<&RemoteText>,
) {
    let Verdict::Use(kept) = verdict else { return };
    let (reason, why) = match (answer, failure) {
        (TxtAnswer::Failed(text), _) => ("policy_dns_failure", text.to_string()),
        (TxtAnswer::Unusable(error), _) => ("policy_record_gone", error.to_string()),
        (TxtAnswer::Usable(_), Some(text)) => ("policy_fetch_failed", text.to_string()),
        (TxtAnswer::Usable(_), None) => return,
    };
    PolicyFact::Kept { domain, policy: kept, reason, why }.tell();
}

/// A policy was fetched; a second line if it is another one than before.
pub(super) fn tell_fetched(domain: &HostName, old: Option<&CachedPolicy>, kept: &CachedPolicy) {
    PolicyFact::Fetched { domain, policy: kept }.tell();
    if let Some(old) = old
        && (old.policy() != kept.policy() || old.id() != kept.id())
    {
        PolicyFact::Changed { domain, old, new: kept }.tell();
    }
}
