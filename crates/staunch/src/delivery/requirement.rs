//! What is asked of the connection for one destination: the operator's floor, the domain's policy,
//! and what the sender says.

use jiff::Timestamp;
use policy::sts::cache::NoPolicy;
use policy::{Asked, Effect, Floor, Published, RequireTls, Requirement};
use smtp::{HostName, RemoteText};

use crate::config::{Config, StsMode, TlsFloor};
use crate::delivery::outbound::Outbound;
use crate::delivery::outcome::AttemptError;
use crate::delivery::route::Destination;
use crate::dns::{DnsFailure, DnsFailureKind, Freshness};
use crate::policies::{DeferExtent, PolicyDefer, PolicyVerdict, PolicyWatch};
use crate::telemetry::Reason;

/// Look-ups of one requirement in a row that each move it. Our choice: the first may be the one
/// that learns of the policy, and then the second says the same.
const LOOKUPS_MAX: u32 = 3;

/// What operator and sender ask for, whoever the recipient is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Local {
    /// The operator's floor.
    pub(crate) floor: TlsFloor,
    /// What the sender asks of the way behind the next hop.
    pub(crate) require_tls: RequireTls,
}

impl Local {
    fn requirement(self) -> Requirement {
        let floor = Requirement::from_floor(policy_floor(self.floor));
        match self.require_tls {
            RequireTls::No => floor,
            RequireTls::Yes => floor.join(&Requirement::from_require_tls()),
        }
    }
}

/// As [`asked`], with a watch that shows from when on it is outdated; none where no policy can
/// bind. The watch is taken first, so that nothing falls between it and the look-up.
pub(crate) async fn watched(
    outbound: &Outbound,
    config: &Config,
    destination: &Destination,
    local: Local,
    freshness: Freshness,
) -> (Result<Asked, AttemptError>, Option<PolicyWatch>) {
    let mut freshness = freshness;
    let mut lookups = 0;
    loop {
        lookups += 1;
        let watch =
            enforced_domain(config, destination).map(|domain| outbound.policies.watch(domain));
        let asked = asked(outbound, config, destination, local, freshness).await;
        let is_outdated = watch.as_ref().is_some_and(PolicyWatch::has_changed);
        if !is_outdated || lookups >= LOOKUPS_MAX {
            return (asked, watch);
        }
        // DNS was asked as freshly as the caller wants; what it said is at hand.
        freshness = Freshness::Cached;
    }
}

/// The domain whose policy binds mail that takes `destination`.
fn enforced_domain<'l>(config: &Config, destination: &'l Destination) -> Option<&'l HostName> {
    destination.policy_domain().filter(|domain| match config.mta_sts.mode_for(domain) {
        StsMode::Enforce => true,
        StsMode::Off | StsMode::Report => false,
    })
}

/// What is asked for mail that takes `destination`. Its policy domain is the recipient domain or
/// the next hop's name (RFC 8461 §3.4); an address literal has no policy.
///
/// # Errors
///
/// [`AttemptError::Policy`] while it is not known whether there is a policy; [`AttemptError::Dns`]
/// if that is because no name server can be reached at all, which is trouble of our own.
async fn asked(
    outbound: &Outbound,
    config: &Config,
    destination: &Destination,
    local: Local,
    freshness: Freshness,
) -> Result<Asked, AttemptError> {
    let needs_policy = local.require_tls == RequireTls::Yes && !destination.names_the_host();
    let local = local.requirement();
    let Some(domain) = destination.policy_domain() else { return Ok(Asked::new(local, None)) };
    let effect = match config.mta_sts.mode_for(domain) {
        StsMode::Off => return Ok(Asked::new(local, None)),
        StsMode::Report => Effect::ReportOnly,
        StsMode::Enforce => Effect::Enforced,
    };
    match outbound.policies.lookup(domain, freshness).await {
        PolicyVerdict::Policy(kept) => {
            Ok(Asked::new(local, Some(Published { domain, policy: kept.policy(), effect })))
        }
        // Without a policy no host would do, so mail would come back for trouble that may pass.
        PolicyVerdict::None(NoPolicy::Dns(text)) if needs_policy => {
            Err(policy_unknown(Reason::PolicyDnsFailure, text))
        }
        PolicyVerdict::None(NoPolicy::Fetch(failure)) if needs_policy => {
            let text = failure.map_or_else(
                || RemoteText::new("the policy could not be fetched"),
                |failure| RemoteText::new(&failure.to_string()),
            );
            Err(policy_unknown(Reason::PolicyFetchFailed, text))
        }
        PolicyVerdict::None(_) => Ok(Asked::new(local, None)),
        // To watch a policy is no reason to hold mail back.
        PolicyVerdict::Defer(_) if effect == Effect::ReportOnly => Ok(Asked::new(local, None)),
        PolicyVerdict::Defer(defer) => match unreachable_dns(&defer) {
            Some(failure) => Err(AttemptError::Dns(failure)),
            None => Err(AttemptError::Policy(defer)),
        },
    }
}

/// The wait for a policy that could not be had; how long is for the caller to say.
fn policy_unknown(reason: Reason, text: RemoteText) -> AttemptError {
    let (until, extent) = (Timestamp::MAX, DeferExtent::Domain);
    AttemptError::Policy(PolicyDefer { reason, until, text, extent, dns: None })
}

/// Is it that no name server answers at all? Then no other domain would fare better.
fn unreachable_dns(defer: &PolicyDefer) -> Option<DnsFailure> {
    let failure = defer.dns.as_deref()?;
    (failure.kind == DnsFailureKind::Unreachable).then(|| failure.clone())
}

fn policy_floor(floor: TlsFloor) -> Floor {
    match floor {
        TlsFloor::Opportunistic => Floor::Opportunistic,
        TlsFloor::Encrypt => Floor::Encrypt,
        TlsFloor::Verify => Floor::Verify,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn defer(kind: Option<DnsFailureKind>) -> PolicyDefer {
        let text = RemoteText::new("x");
        let failure = |kind| {
            let (query, text) = ("TXT _mta-sts.a.test".to_owned(), RemoteText::new("x"));
            Box::new(DnsFailure { query, kind, text, servers: "192.0.2.1".into() })
        };
        let (reason, until, extent) =
            (Reason::PolicyDnsFailure, Timestamp::MAX, DeferExtent::Domain);
        PolicyDefer { reason, until, text, extent, dns: kind.map(failure) }
    }

    /// Or whoever publishes a record that cannot be had would stop the mail of all others.
    #[test]
    fn only_name_servers_that_nobody_reaches_are_trouble_of_ours() {
        assert!(unreachable_dns(&defer(Some(DnsFailureKind::Unreachable))).is_some());
        let of_the_domain = [
            None,
            Some(DnsFailureKind::Timeout),
            Some(DnsFailureKind::ServFail),
            Some(DnsFailureKind::Refused),
            Some(DnsFailureKind::Bogus),
            Some(DnsFailureKind::Other),
        ];
        for kind in of_the_domain {
            assert!(unreachable_dns(&defer(kind)).is_none(), "{kind:?}");
        }
    }
}
