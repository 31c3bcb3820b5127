//! What is asked of the connection for one leg: the operator's floor and the domain's policy.

use policy::{Asked, Effect, Floor, Published, Requirement};
use smtp::HostName;

use crate::config::{Config, StsMode, TlsFloor};
use crate::policy_store::{PolicyDefer, PolicyKeeper, PolicyVerdict};
use crate::resolve::Freshness;

/// What is asked for mail to `policy_domain`, the recipient domain or the next hop's name
/// (RFC 8461 §3.4); `None` for an address literal, which has no policy.
///
/// # Errors
///
/// [`PolicyDefer`] while it is not known whether there is a policy.
pub(crate) async fn asked(
    config: &Config,
    policies: &PolicyKeeper,
    policy_domain: Option<&HostName>,
    floor: TlsFloor,
    freshness: Freshness,
) -> Result<Asked, PolicyDefer> {
    let local = Requirement::from_floor(policy_floor(floor));
    let Some(domain) = policy_domain else { return Ok(Asked::new(local, None)) };
    let effect = match config.mta_sts.mode_for(domain) {
        StsMode::Off => return Ok(Asked::new(local, None)),
        StsMode::Report => Effect::ReportOnly,
        StsMode::Enforce => Effect::Enforced,
    };
    match policies.lookup(domain, freshness).await {
        PolicyVerdict::Policy(kept) => {
            Ok(Asked::new(local, Some(Published { domain, policy: kept.policy(), effect })))
        }
        PolicyVerdict::None(_) => Ok(Asked::new(local, None)),
        // To watch a policy is no reason to hold mail back.
        PolicyVerdict::Defer(_) if effect == Effect::ReportOnly => Ok(Asked::new(local, None)),
        PolicyVerdict::Defer(defer) => Err(defer),
    }
}

fn policy_floor(floor: TlsFloor) -> Floor {
    match floor {
        TlsFloor::Opportunistic => Floor::Opportunistic,
        TlsFloor::Encrypt => Floor::Encrypt,
        TlsFloor::Verify => Floor::Verify,
    }
}
