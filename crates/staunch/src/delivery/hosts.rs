//! Which hosts could take the mail of one destination, in order? And where are they?

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use policy::{Asked, AuthorizedMx, Located, NamedBy, Origin};
use smtp::{Domain, HostName, RemoteText};

use crate::config::{Config, IpFamily, RouteLogin, Via, ViaLookup, ViaScheme};
use crate::connect::{ConnectCause, ConnectFailure, Endpoint, PoolKey, Sources, TlsStart};
use crate::delivery::facts::DeliveryFact;
use crate::delivery::outbound::Outbound;
use crate::delivery::outcome::{AttemptError, DeadEnd, HostError, MxEvidence};
use crate::delivery::route::{Destination, NextHop};
use crate::dns::addresses::is_forbidden;
use crate::dns::{Freshness, MailHosts, MxRecord, MxTarget};

/// Hosts of one next hop that are tried in one attempt. Our choice: more are never needed, and a
/// long list of dead ones must not hold an attempt for hours.
const HOSTS_MAX: usize = 16;

/// A host that could take the mail.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    /// The MX preference, 0 where there is none.
    pub(crate) preference: u16,
    /// Who it is, and who says so.
    pub(crate) located: Located,
    /// How it is entered.
    pub(crate) endpoint: Endpoint,
    /// Where our packets leave from.
    pub(crate) sources: Sources,
    /// How its addresses are looked up.
    pub(crate) freshness: Freshness,
}

impl Candidate {
    /// Which connections serve `mx`, this host once it is authorized.
    pub(crate) fn key(&self, mx: &AuthorizedMx) -> PoolKey {
        // A host that the operator wrote down may be anywhere, one that DNS names may not: what was
        // opened for the one must not serve the other.
        let route = match mx.named_by() {
            NamedBy::Route => Some(mx.host().to_string().into()),
            NamedBy::MxRecords | NamedBy::SecureMxRecords | NamedBy::ImplicitMx => None,
        };
        let (sources, endpoint) = (self.sources, self.endpoint.clone());
        PoolKey { route, sources, host: mx.host().clone(), endpoint }
    }
}

/// The hosts of `destination` in the order in which they are tried.
///
/// # Errors
///
/// [`AttemptError::Dns`] and [`AttemptError::DeadEnd`].
pub(crate) async fn candidates(
    outbound: &Outbound,
    config: &Config,
    next_hop: &NextHop,
    destination: &Destination,
    (asked, freshness): (&Asked, Freshness),
) -> Result<Vec<Candidate>, AttemptError> {
    let sources = next_hop.sources;
    let endpoint = match destination {
        Destination::Domain(_) => Endpoint::mx(config.delivery.port),
        Destination::Via(via) => endpoint(via, next_hop.login.clone()),
    };
    let candidate = |(preference, located)| {
        let endpoint = endpoint.clone();
        Candidate { preference, located, endpoint, sources, freshness }
    };
    let found = match destination {
        Destination::Domain(domain) => {
            looked_up(outbound, config, destination, domain, (asked, freshness)).await?
        }
        Destination::Via(Via { host: Domain::Name(name), lookup: ViaLookup::Mx, .. }) => {
            looked_up(outbound, config, destination, name, (asked, freshness)).await?
        }
        Destination::Via(Via { host, .. }) => {
            let next_hop = host.clone();
            vec![(0, Located { mx: host.clone(), next_hop, named_by: NamedBy::Route })]
        }
    };
    Ok(found.into_iter().map(candidate).collect())
}

fn endpoint(via: &Via, login: Option<Arc<RouteLogin>>) -> Endpoint {
    let tls = match via.scheme {
        ViaScheme::Smtp => TlsStart::OnCommand,
        ViaScheme::Smtps => TlsStart::AtOnce,
    };
    Endpoint { port: via.port, tls, login }
}

async fn looked_up(
    outbound: &Outbound,
    config: &Config,
    destination: &Destination,
    domain: &HostName,
    (asked, freshness): (&Asked, Freshness),
) -> Result<Vec<(u16, Located)>, AttemptError> {
    let candidate = |preference, mx: HostName, named_by| {
        let next_hop = Domain::Name(domain.clone());
        (preference, Located { mx: Domain::Name(mx), next_hop, named_by })
    };
    match outbound.dns.mail_hosts(domain, freshness).await.map_err(AttemptError::Dns)? {
        MailHosts::NullMx => {
            Err(dead_end(outbound, destination, (domain, asked), DeadEnd::NullMx).await)
        }
        MailHosts::NoSuchDomain => {
            Err(dead_end(outbound, destination, (domain, asked), DeadEnd::NoSuchDomain).await)
        }
        MailHosts::Implicit { name, canonical } => {
            let mx = implicit_name(name, canonical, asked);
            Ok(vec![candidate(0, mx, NamedBy::ImplicitMx)])
        }
        MailHosts::Mx(records) => {
            let own = own_preference(config, &records);
            let nearer = |record: &MxRecord| own.is_none_or(|own| record.preference < own);
            let mut invalid = None;
            let mut hosts = Vec::new();
            // A host that stands there twice is asked once, where it is preferred most.
            let mut asked_already = HashSet::new();
            for record in records.into_iter().filter(nearer) {
                match record.name {
                    // Which no top-level domain is: it needs no question.
                    MxTarget::Host(name) if name.as_str().parse::<IpAddr>().is_ok() => {
                        invalid = Some(RemoteText::new(name.as_str()));
                    }
                    MxTarget::Host(name) if !asked_already.insert(name.clone()) => {}
                    MxTarget::Host(_) if hosts.len() == HOSTS_MAX => break,
                    MxTarget::Host(name) => {
                        hosts.push(candidate(record.preference, name, NamedBy::MxRecords));
                    }
                    MxTarget::Invalid(text) => invalid = Some(text),
                }
            }
            match invalid {
                _ if !hosts.is_empty() => Ok(hosts),
                Some(text) => Err(AttemptError::BadMx { domain: domain.clone(), text }),
                None => {
                    Err(dead_end(outbound, destination, (domain, asked), DeadEnd::MailLoop).await)
                }
            }
        }
    }
}

/// RFC 5321 §5.1: neither ourselves nor any host behind us, or mail runs in circles.
fn own_preference(config: &Config, records: &[MxRecord]) -> Option<u16> {
    let is_ourselves = |record: &&MxRecord| match &record.name {
        MxTarget::Host(name) => config.hostname.name() == Some(name),
        MxTarget::Invalid(_) => false,
    };
    records.iter().filter(is_ourselves).map(|record| record.preference).min()
}

/// RFC 5321 §5.1 makes the end of the aliases the host; RFC 8461 does not say which name a policy
/// means. The one that it lists is taken, and checked against the certificate.
fn implicit_name(name: HostName, canonical: Option<HostName>, asked: &Asked) -> HostName {
    let lists = |name: &HostName| asked.enforced.listings().all(|list| list.allows(name));
    match canonical {
        Some(canonical) if !lists(&name) && lists(&canonical) => canonical,
        Some(_) | None => name,
    }
}

/// May an answer that nobody authenticated end mail for `destination`? Whoever can forge DNS could,
/// so a live policy is believed first, stored or only in `asked` (what binds this attempt), and so
/// is the operator who wrote the next hop down.
pub(crate) async fn evidence(
    outbound: &Outbound,
    destination: &Destination,
    asked: Option<&Asked>,
) -> MxEvidence {
    let domain = match destination {
        Destination::Via(_) => return MxEvidence::ContradictsRoute,
        Destination::Domain(domain) => domain,
    };
    // The store does not have every policy that binds: not one whose max_age is 0, nor one it had
    // no room for.
    if !asked.is_some_and(is_bound_by_policy) && !is_enforced_in_store(outbound, domain).await {
        return MxEvidence::Uncontested;
    }
    DeliveryFact::MxSetContradictsPolicy { domain }.tell();
    MxEvidence::ContradictsPolicy
}

fn is_bound_by_policy(asked: &Asked) -> bool {
    asked.enforced.listings().any(|listing| match listing.origin {
        Origin::Sts { .. } => true,
        Origin::Rule => false,
    })
}

async fn is_enforced_in_store(outbound: &Outbound, domain: &HostName) -> bool {
    let (policies, name) = (outbound.policies.clone(), domain.clone());
    let enforced = tokio::task::spawn_blocking(move || policies.enforces(&name)).await;
    // What cannot be ruled out is taken for true.
    enforced.unwrap_or(true)
}

async fn dead_end(
    outbound: &Outbound,
    destination: &Destination,
    (domain, asked): (&HostName, &Asked),
    end: DeadEnd,
) -> AttemptError {
    let evidence = evidence(outbound, destination, Some(asked)).await;
    AttemptError::DeadEnd { domain: domain.clone(), end, evidence }
}

/// The addresses to connect to, forbidden ones left out.
///
/// # Errors
///
/// [`HostError::Dns`], [`HostError::NoAddress`], [`HostError::ForbiddenAddress`], and
/// [`HostError::Connect`] where `delivery.ip` leaves out what there is.
pub(crate) async fn locate(
    outbound: &Outbound,
    config: &Config,
    mx: &AuthorizedMx,
    candidate: &Candidate,
) -> Result<Vec<SocketAddr>, HostError> {
    let (port, freshness) = (candidate.endpoint.port, candidate.freshness);
    let found = match mx.host() {
        Domain::Literal(address) => vec![*address],
        Domain::Name(name) => outbound
            .dns
            .addresses(name, config.delivery.ip, freshness)
            .await
            .map_err(HostError::Dns)?,
    };
    let Some(first) = found.first().copied() else {
        return Err(without_address(outbound, config, mx.host(), freshness).await);
    };
    let allowed = |address: &IpAddr| match mx.named_by() {
        // The operator wrote the host down: its addresses are the operator's word.
        NamedBy::Route => true,
        NamedBy::MxRecords | NamedBy::SecureMxRecords | NamedBy::ImplicitMx => {
            !is_forbidden(*address, &config.delivery.allow_addresses)
        }
    };
    let addresses: Vec<SocketAddr> = found
        .into_iter()
        .filter(allowed)
        .map(|ip| SocketAddr::new(ip, port))
        .filter(|address| !outbound.listening.is_ourselves(*address))
        .collect();
    if addresses.is_empty() { Err(HostError::ForbiddenAddress(first)) } else { Ok(addresses) }
}

/// Has the host no address, or none that the operator wants used? The one ends mail, the other is
/// no fault of any recipient's.
async fn without_address(
    outbound: &Outbound,
    config: &Config,
    host: &Domain,
    freshness: Freshness,
) -> HostError {
    let left_out = match config.delivery.ip {
        IpFamily::Both => return HostError::NoAddress,
        IpFamily::V4 => IpFamily::V6,
        IpFamily::V6 => IpFamily::V4,
    };
    let Some(name) = host.name() else { return HostError::NoAddress };
    match outbound.dns.addresses(name, left_out, freshness).await {
        Ok(none) if none.is_empty() => HostError::NoAddress,
        Ok(_) => {
            let (host, cause) = (host.clone(), ConnectCause::LeftOut);
            HostError::Connect(ConnectFailure { host, address: None, cause })
        }
        Err(failure) => HostError::Dns(failure),
    }
}
