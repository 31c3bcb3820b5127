//! What is asked of the connection for one leg: the operator's floor and the domain's policy.

use policy::{Asked, Effect, Floor, Published, Requirement};
use smtp::HostName;

use crate::config::{Config, StsMode, TlsFloor};
use crate::outcome::{AttemptError, Reason};
use crate::policy_store::{PolicyDefer, PolicyVerdict};
use crate::relay::Relay;
use crate::resolve::{DnsFailure, DnsFailureKind, Freshness};

/// What is asked for mail to `policy_domain`, the recipient domain or the next hop's name
/// (RFC 8461 §3.4); `None` for an address literal, which has no policy.
///
/// # Errors
///
/// [`AttemptError::Policy`] while it is not known whether there is a policy; [`AttemptError::Dns`] if
/// that is because no name server can be reached at all, which is trouble of our own.
pub(crate) async fn asked(
    relay: &Relay,
    config: &Config,
    policy_domain: Option<&HostName>,
    floor: TlsFloor,
    freshness: Freshness,
) -> Result<Asked, AttemptError> {
    let local = Requirement::from_floor(policy_floor(floor));
    let Some(domain) = policy_domain else { return Ok(Asked::new(local, None)) };
    let effect = match config.mta_sts.mode_for(domain) {
        StsMode::Off => return Ok(Asked::new(local, None)),
        StsMode::Report => Effect::ReportOnly,
        StsMode::Enforce => Effect::Enforced,
    };
    match relay.policies.lookup(domain, freshness).await {
        PolicyVerdict::Policy(kept) => {
            Ok(Asked::new(local, Some(Published { domain, policy: kept.policy(), effect })))
        }
        PolicyVerdict::None(_) => Ok(Asked::new(local, None)),
        // To watch a policy is no reason to hold mail back.
        PolicyVerdict::Defer(_) if effect == Effect::ReportOnly => Ok(Asked::new(local, None)),
        PolicyVerdict::Defer(defer) => match unreachable_dns(relay, domain, &defer).await {
            Some(failure) => Err(AttemptError::Dns(failure)),
            None => Err(AttemptError::Policy(defer)),
        },
    }
}

/// Is it that no name server answers at all? Then no other domain would fare better.
async fn unreachable_dns(
    relay: &Relay,
    domain: &HostName,
    defer: &PolicyDefer,
) -> Option<DnsFailure> {
    if defer.reason != Reason::PolicyDnsFailure {
        return None;
    }
    let failure = relay.dns.mail_hosts(domain).await.err()?;
    (failure.kind == DnsFailureKind::Unreachable).then_some(failure)
}

fn policy_floor(floor: TlsFloor) -> Floor {
    match floor {
        TlsFloor::Opportunistic => Floor::Opportunistic,
        TlsFloor::Encrypt => Floor::Encrypt,
        TlsFloor::Verify => Floor::Verify,
    }
}
