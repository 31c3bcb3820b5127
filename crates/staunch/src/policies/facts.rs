//! What becomes of policies, and of what is remembered of mail hosts.

use std::fmt::Display;

use policy::sts::CachedPolicy;
use policy::sts::cache::Alarm;
use smtp::{HostName, RemoteText};
use spool::StoreError;

use crate::facts::facts;

/// The alarm about a host that did STARTTLS and now does not; its row says so as long as that
/// stands.
pub(crate) const STARTTLS_GONE: &str = "starttls_gone";

facts! {
    /// A fact about policies.
    pub(super) enum PolicyFact<'a> {
        /// A domain's policy was looked up, beyond what was known of it a moment ago.
        LookedUp { domain: &'a HostName, record: String, verdict: String } => debug!(
            event = "policy_looked_up",
            %domain,
            record,
            "{verdict}"
        ),

        /// A domain's policy was fetched.
        Fetched { domain: &'a HostName, policy: &'a CachedPolicy } => info!(
            event = "policy_fetched",
            %domain,
            mode = policy.policy().mode().as_str(),
            id = policy.id().as_str(),
            max_age = policy.policy().max_age().as_secs(),
        ),

        /// It is another one than before.
        Changed { domain: &'a HostName, old: &'a CachedPolicy, new: &'a CachedPolicy } => info!(
            event = "policy_changed",
            %domain,
            mode = new.policy().mode().as_str(),
            id = new.id().as_str(),
            old_mode = old.policy().mode().as_str(),
            old_id = old.id().as_str(),
        ),

        /// A policy goes on holding although something looked for was not found.
        Kept {
            domain: &'a HostName, policy: &'a CachedPolicy, reason: &'static str, why: String,
        } => info!(
            event = "policy_kept",
            reason,
            %domain,
            mode = policy.policy().mode().as_str(),
            id = policy.id().as_str(),
            expires_at = %policy.expires_at(),
            %why,
        ),

        /// A policy could not be fetched.
        FetchFailed {
            reason: &'static str, domain: &'a HostName, id: &'a str, error: &'a RemoteText,
        } => warn!(event = "policy_fetch_failed", reason, %domain, id, %error),

        /// A policy is refreshed before it is needed.
        Refreshing { domain: &'a HostName } => debug!(%domain, "refreshing a policy"),

        /// The operator makes us forget a domain.
        Forgotten { domain: &'a HostName } => info!(
            event = "policy_forgotten",
            %domain,
            "by the operator"
        ),

        /// Something about a domain that its operator, or ours, should look at.
        Raised { domain: &'a HostName, alarm: Alarm } => error!(
            event = "alarm",
            reason = alarm.as_str(),
            %domain,
            "{}", sentence(alarm)
        ),

        /// What was learnt is not on disk.
        NotStored { domain: &'a HostName, error: &'a StoreError } => error!(
            event = "alarm",
            reason = "policy_store_failed",
            %domain,
            %error,
            "what was learnt about a policy could not be stored"
        ),

        /// Policies on disk cannot be read.
        Lost { count: usize, domains: String } => error!(
            event = "alarm",
            reason = "policy_lost",
            count,
            domains,
            "stored enforce policies cannot be read; mail for these domains waits for new ones"
        ),

        /// No room for one more policy.
        CacheFull { domain: &'a HostName, max: usize } => error!(
            event = "alarm",
            reason = "policy_cache_full",
            %domain,
            max,
            "a new policy is not stored, nor are others until there is room: these domains stay \
             first contacts"
        ),

        /// Policies are dropped, so that there is room for others.
        CacheCut { count: usize, max: usize } => error!(
            event = "alarm",
            reason = "policy_cache_full",
            count,
            max,
            "policies of domains that hardly get mail are dropped"
        ),

        /// A host did STARTTLS before, and does not now.
        StarttlsGone { host: &'a HostName, why: &'a str } => error!(
            event = "alarm",
            reason = STARTTLS_GONE,
            mx = %host,
            "the host did STARTTLS lately, and now {why}: nothing is sent to it in clear text \
             until TLS works, or until `staunch policy forget --host {host}`"
        ),

        /// The operator makes us forget a mail host.
        HostForgotten { host: &'a HostName } => info!(
            event = "host_forgotten",
            mx = %host,
            "by the operator"
        ),

        /// The store did not do something; `what` says what follows.
        StoreFailed { error: &'a dyn Display, what: &'static str } => error!(
            event = "store_failed",
            %error,
            "{what}"
        ),

        /// The store did not do something for one domain.
        StoreFailedFor { domain: &'a HostName, error: &'a dyn Display, what: &'static str } => error!(
            event = "store_failed",
            %domain,
            %error,
            "{what}"
        ),

        /// The use of a policy is not on disk: only the order of refreshing suffers.
        UseNotNoted { error: &'a StoreError } => warn!(
            event = "store_failed",
            %error,
            "the use of a policy could not be noted"
        ),

        /// What is on disk about a domain is damaged. `is_listed`: it has, or had, an enforce
        /// policy.
        Damaged { domain: &'a HostName, is_listed: bool } => warn!(
            event = "store_failed",
            %domain,
            listed = is_listed,
            "what was stored about a policy is damaged"
        ),

        /// The list of domains with an enforce policy has rows that cannot be read.
        ListDamaged => error!(
            event = "store_failed",
            "the list of domains with an enforce policy is damaged: names that cannot be read stay on it"
        ),

        /// A mail host could not be looked up.
        HostUnreadable { host: &'a HostName, error: &'a dyn Display } => error!(
            event = "store_failed",
            %host,
            %error,
            "a mail host could not be looked up"
        ),

        /// What is on disk about a mail host is damaged.
        HostDamaged { host: &'a HostName } => error!(
            event = "store_failed",
            %host,
            "what was stored about a mail host is damaged"
        ),
    }
}

/// What an alarm is about.
const fn sentence(alarm: Alarm) -> &'static str {
    match alarm {
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
    }
}
