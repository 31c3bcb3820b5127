//! The log lines about policies: one line a fact.

use policy::sts::CachedPolicy;
use policy::sts::keep::{Alarm, TxtAnswer, Verdict};
use smtp::{HostName, RemoteText};
use tracing::{error, info};

/// Something that the operator should look at; the rules raise each once.
pub(super) fn raise(domain: &HostName, alarm: Alarm) {
    let text = match alarm {
        Alarm::RecordGone => {
            "a policy is kept, and the record that announces it is gone or unusable"
        }
        Alarm::FetchFailing => "a record names a policy that cannot be fetched",
        Alarm::RefreshFailing => "the kept policy cannot be refreshed; it holds until it expires",
        Alarm::DnsFailing => {
            "the look-up of the policy record fails for so long that mail goes without"
        }
        Alarm::PolicyLost => {
            "a stored enforce policy cannot be read; the domain's mail waits for a new one"
        }
    };
    error!(event = "alarm", reason = alarm.as_str(), %domain, "{text}");
}

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
    let mode = kept.policy().mode().as_str();
    let expires_at = kept.expires_at();
    info!(event = "policy_kept", reason, %domain, mode, id = kept.id().as_str(), %expires_at, %why);
}

/// A policy was fetched; a second line if it is another one than before.
pub(super) fn tell_fetched(domain: &HostName, old: Option<&CachedPolicy>, kept: &CachedPolicy) {
    let mode = kept.policy().mode().as_str();
    let max_age = kept.policy().max_age().as_secs();
    let id = kept.id().as_str();
    info!(event = "policy_fetched", %domain, mode, id, max_age);
    if let Some(old) = old
        && (old.policy() != kept.policy() || old.id() != kept.id())
    {
        let (old_mode, old_id) = (old.policy().mode().as_str(), old.id().as_str());
        info!(event = "policy_changed", %domain, mode, id, old_mode, old_id);
    }
}
