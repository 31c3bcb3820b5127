//! May this MX host be used, and how must the connection to it be protected?
//!
//! This module is the only place that answers. [`authorize`] is the only constructor of
//! [`AuthorizedMx`], and the connector accepts nothing else, so a path around the policy does not
//! compile.
//!
//! Not here: what is asked ([`crate::requirement`]), checking the certificate after the handshake
//! (`admit`), retry times (`staunch::schedule`).

use std::fmt;

use smtp::{Domain, HostName};

use crate::certificate::TlsFailure;
use crate::requirement::{Asked, Identity, Origin, RequireTls, Requirement};

/// A host that could take the mail.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Located {
    /// The name in the MX record, before any alias is followed (RFC 8461 §4.1). An address only
    /// where the operator wrote one into a route; no certificate is valid for it.
    pub mx: Domain,
    /// The recipient's domain, or the name of the configured route.
    pub next_hop: Domain,
    /// Where the name comes from.
    pub named_by: NamedBy,
}

/// Who says that the host serves the next hop.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum NamedBy {
    /// An MX record that anybody on the path could have forged.
    MxRecords,
    /// A DNSSEC-secure MX record set.
    SecureMxRecords,
    /// There are no MX records: the domain itself, or what its aliases lead to (RFC 5321 §5.1).
    ImplicitMx,
    /// The operator, who wrote the host's name in brackets.
    Route,
}

/// Why a host may not be used. The next one may; when none is left the mail waits, because a policy
/// may change (RFC 8461 §5.1).
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// Its name is not one of those that count.
    #[error("{mx} is not an allowed MX host: {}", whose(.origin))]
    MxNotListed {
        /// The host, by the name in its MX record or in the route.
        mx: Domain,
        /// Whose list it is not in: that of a policy or the operator's.
        origin: Origin,
    },
    /// It must prove that it is `mx`, but that it serves the next hop is only what unauthenticated
    /// DNS says, so the proof would be worth nothing.
    #[error("{mx} cannot be verified: only unauthenticated DNS says that it serves {next_hop}")]
    MxNameUnauthenticated {
        /// The host whose name would have to be proved.
        mx: Domain,
        /// Whose mail it would get.
        next_hop: Domain,
    },
    /// The sender requires TLS, and that the host serves the next hop is only what unauthenticated
    /// DNS says (RFC 8689 §4.2.1).
    #[error(
        "the sender requires TLS, and only unauthenticated DNS says that {mx} serves {next_hop}"
    )]
    RequireTlsUnauthenticated {
        /// The host that only unauthenticated DNS names.
        mx: Domain,
        /// Whose mail it would get.
        next_hop: Domain,
    },
}

fn whose(origin: &Origin) -> String {
    match origin {
        Origin::Sts { domain } => format!("the MTA-STS policy of {domain} does not list it"),
        Origin::Rule => "a local rule does not list it".to_owned(),
    }
}

/// What the report-only requirement would have refused. Recorded, reported, never acted upon.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Finding {
    /// The host would not have been used.
    Host(Refusal),
    /// The connection would not have been used.
    Connection(TlsFailure),
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(refusal) => refusal.fmt(f),
            Self::Connection(failure) => failure.fmt(f),
        }
    }
}

/// A host that mail may be sent to, and what must be true of the connection. Only [`authorize`]
/// makes one:
///
/// ```
/// # use policy::{Asked, AuthorizedMx, Located, NamedBy, Refusal, authorize};
/// # fn located() -> Located {
/// #     let name = smtp::Domain::Name(smtp::HostName::parse("mx.example").unwrap());
/// #     Located { mx: name.clone(), next_hop: name, named_by: NamedBy::ImplicitMx }
/// # }
/// let mx: AuthorizedMx = authorize(located(), &Asked::default())?;
/// # Ok::<(), Refusal>(())
/// ```
///
/// ```compile_fail,E0451
/// # use policy::{Asked, AuthorizedMx, Located, NamedBy, Refusal, authorize};
/// # fn located() -> Located {
/// #     let name = smtp::Domain::Name(smtp::HostName::parse("mx.example").unwrap());
/// #     Located { mx: name.clone(), next_hop: name, named_by: NamedBy::ImplicitMx }
/// # }
/// let mx = AuthorizedMx { located: located(), asked: Asked::default(), findings: Vec::new() };
/// # Ok::<(), Refusal>(())
/// ```
#[derive(Debug)]
pub struct AuthorizedMx {
    located: Located,
    asked: Asked,
    findings: Vec<Finding>,
}

/// Decides whether mail may be sent to the host, and what the connection must prove.
///
/// # Errors
///
/// [`Refusal`] if the enforced requirement does not allow the host. What the report-only
/// requirement refuses becomes a [`Finding`].
pub fn authorize(located: Located, asked: &Asked) -> Result<AuthorizedMx, Refusal> {
    check(&located, &asked.enforced)?;
    let findings =
        check(&located, &asked.report_only).err().map(Finding::Host).into_iter().collect();
    Ok(AuthorizedMx { located, asked: asked.clone(), findings })
}

fn check(located: &Located, requirement: &Requirement) -> Result<(), Refusal> {
    let Located { mx, next_hop, .. } = located;
    if let Some(list) =
        requirement.listings().find(|list| !mx.name().is_some_and(|mx| list.allows(mx)))
    {
        return Err(Refusal::MxNotListed { mx: mx.clone(), origin: list.origin.clone() });
    }
    let is_vouched_for = is_vouched_for(located, requirement);
    if requirement.require_tls() == RequireTls::Yes && !is_vouched_for {
        let (mx, next_hop) = (mx.clone(), next_hop.clone());
        return Err(Refusal::RequireTlsUnauthenticated { mx, next_hop });
    }
    match requirement.identity() {
        Identity::None => Ok(()),
        Identity::Either | Identity::Pkix | Identity::Dane | Identity::Both => {
            // The operator's own demand is also met by a host below the domain: who can have a
            // certificate for its name speaks for the domain.
            if is_vouched_for || is_at_or_below(mx, next_hop) {
                Ok(())
            } else {
                let (mx, next_hop) = (mx.clone(), next_hop.clone());
                Err(Refusal::MxNameUnauthenticated { mx, next_hop })
            }
        }
    }
}

/// A certificate proves that the peer is `mx`. That is worth something only if it is also certain
/// that `mx` is where the mail belongs, because who can forge an MX record can have a certificate
/// for the host in it.
fn is_vouched_for(located: &Located, requirement: &Requirement) -> bool {
    match located.named_by {
        NamedBy::SecureMxRecords | NamedBy::Route => true,
        // The lists were checked before: each of them names this host.
        NamedBy::MxRecords | NamedBy::ImplicitMx => requirement.listings().next().is_some(),
    }
}

fn is_at_or_below(mx: &Domain, domain: &Domain) -> bool {
    match (mx.name(), domain.name()) {
        (Some(mx), Some(domain)) => mx.is_at_or_below(domain),
        (None, _) | (_, None) => false,
    }
}

impl AuthorizedMx {
    /// The MX name: what SNI and certificate are about.
    pub fn host(&self) -> &Domain {
        &self.located.mx
    }

    /// The recipient's domain or the route's name.
    pub fn next_hop(&self) -> &Domain {
        &self.located.next_hop
    }

    /// Who says that the host serves the next hop.
    pub fn named_by(&self) -> NamedBy {
        self.located.named_by
    }

    /// The requirements that [`authorize`] was called with, enforced and report-only.
    pub fn asked(&self) -> &Asked {
        &self.asked
    }

    /// Must STARTTLS succeed before mail may be sent?
    pub fn needs_tls(&self) -> bool {
        self.asked.enforced.needs_tls()
    }

    /// What goes into the TLS server name (RFC 8461 §7.1); none for an address.
    pub fn server_name(&self) -> Option<&HostName> {
        self.located.mx.name()
    }

    /// What the report-only requirement has against the host.
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::requirement::{Effect, Floor, PatternSet, Published};
    use crate::sts::{Mode, MxPattern, Policy};
    use crate::test_ca::{host, name};

    fn located(mx: &str, next_hop: &str, named_by: NamedBy) -> Located {
        Located { mx: host(mx), next_hop: host(next_hop), named_by }
    }

    fn policy(mode: Mode) -> Policy {
        let body = format!("version: STSv1\nmode: {mode}\nmx: mx.test\nmax_age: 60");
        Policy::parse(body.as_bytes()).unwrap()
    }

    fn asked(floor: Floor, mode: Option<Mode>, effect: Effect) -> Asked {
        let domain = name("example.test");
        let policy = mode.map(policy);
        let published = policy.as_ref().map(|policy| Published { domain: &domain, policy, effect });
        Asked::new(Requirement::from_floor(floor), published)
    }

    #[test]
    fn mode_listing_and_floor_decide_together() {
        use Floor::{Encrypt, Opportunistic, Verify};
        use Identity::{Either, None as Anybody, Pkix};
        let not_listed = || Refusal::MxNotListed {
            mx: host("no.test"),
            origin: Origin::Sts { domain: name("example.test") },
        };
        let unauthenticated =
            |mx| Refusal::MxNameUnauthenticated { mx: host(mx), next_hop: host("example.test") };
        let found = || vec![Finding::Host(not_listed())];
        let cases = [
            // (mode, listed, operator's floor) -> (TLS needed, identity, findings)
            (None, false, Opportunistic, Ok((false, Anybody, vec![]))),
            (None, false, Encrypt, Ok((true, Anybody, vec![]))),
            (None, false, Verify, Err(unauthenticated("no.test"))),
            (Some(Mode::None), false, Opportunistic, Ok((false, Anybody, vec![]))),
            (Some(Mode::None), false, Encrypt, Ok((true, Anybody, vec![]))),
            (Some(Mode::None), true, Verify, Err(unauthenticated("mx.test"))),
            (Some(Mode::Testing), true, Opportunistic, Ok((false, Anybody, vec![]))),
            (Some(Mode::Testing), false, Opportunistic, Ok((false, Anybody, found()))),
            (Some(Mode::Testing), true, Encrypt, Ok((true, Anybody, vec![]))), // never weakened
            (Some(Mode::Testing), false, Encrypt, Ok((true, Anybody, found()))),
            (Some(Mode::Testing), true, Verify, Err(unauthenticated("mx.test"))),
            (Some(Mode::Testing), false, Verify, Err(unauthenticated("no.test"))),
            (Some(Mode::Enforce), true, Opportunistic, Ok((true, Pkix, vec![]))),
            (Some(Mode::Enforce), true, Encrypt, Ok((true, Pkix, vec![]))),
            (Some(Mode::Enforce), true, Verify, Ok((true, Pkix, vec![]))),
            (Some(Mode::Enforce), false, Opportunistic, Err(not_listed())),
            (Some(Mode::Enforce), false, Encrypt, Err(not_listed())),
            (Some(Mode::Enforce), false, Verify, Err(not_listed())),
        ];
        for (mode, listed, floor, want) in cases {
            let mx = if listed { "mx.test" } else { "no.test" };
            let asked = asked(floor, mode, Effect::Enforced);
            let got = authorize(located(mx, "example.test", NamedBy::MxRecords), &asked);
            let got = got.map(|mx| {
                let identity = mx.asked().enforced.identity();
                (mx.needs_tls(), identity, mx.findings().to_vec())
            });
            assert_eq!(got, want, "{mode:?}, listed: {listed}, floor: {floor:?}");
        }
        // Below the domain the name is authentic by itself.
        let below = located("mx.example.test", "example.test", NamedBy::MxRecords);
        let mx = authorize(below, &asked(Verify, None, Effect::Enforced)).unwrap();
        assert_eq!(mx.asked().enforced.identity(), Either);
    }

    #[test]
    fn report_mode_turns_refusals_into_findings() {
        let asked = asked(Floor::Opportunistic, Some(Mode::Enforce), Effect::ReportOnly);
        let mx = authorize(located("no.test", "example.test", NamedBy::MxRecords), &asked).unwrap();
        assert!(!mx.needs_tls());
        assert_eq!(mx.findings().len(), 1);
    }

    #[test]
    fn a_proof_of_identity_is_worth_as_much_as_the_name() {
        use NamedBy::{ImplicitMx, MxRecords, Route, SecureMxRecords};
        let cases = [
            ("192.0.2.1", Route, true),
            ("192.0.2.1", MxRecords, false),
            ("mx.provider.test", MxRecords, false),
            ("mx.provider.test", SecureMxRecords, true),
            ("mx.provider.test", Route, true),
            ("mx.example.test", MxRecords, true),
            ("example.test", MxRecords, true),
            ("example.test", ImplicitMx, true),
            ("alias-target.test", ImplicitMx, false), // forged DNS could have led there
            ("badexample.test", MxRecords, false),
            ("test", MxRecords, false),
        ];
        for (mx, named_by, authentic) in cases {
            for (floor, needed) in
                [(Floor::Opportunistic, false), (Floor::Encrypt, false), (Floor::Verify, true)]
            {
                let asked = asked(floor, None, Effect::Enforced);
                let got = authorize(located(mx, "example.test", named_by), &asked);
                assert_eq!(got.is_ok(), authentic || !needed, "{mx} {named_by:?} {floor:?}");
                if let Err(refusal) = got {
                    assert!(
                        matches!(refusal, Refusal::MxNameUnauthenticated { .. }),
                        "{refusal:?}"
                    );
                }
            }
            // A listed host is authentic, an unlisted one is refused, whoever names it.
            let asked = asked(Floor::Verify, Some(Mode::Enforce), Effect::Enforced);
            assert!(authorize(located(mx, "example.test", named_by), &asked).is_err());
            assert!(authorize(located("mx.test", "example.test", named_by), &asked).is_ok());
        }
    }

    #[test]
    fn rtls_05_require_tls_wants_a_host_that_somebody_vouches_for() {
        use NamedBy::{ImplicitMx, MxRecords, Route, SecureMxRecords};
        let cases = [
            // (host, named by, MTA-STS mode) -> good enough
            ("mx.test", MxRecords, Some(Mode::Enforce), true),
            ("mx.test", Route, None, true),
            ("mx.test", SecureMxRecords, None, true),
            ("mx.test", MxRecords, None, false),
            ("mx.test", MxRecords, Some(Mode::None), false),
            ("mx.test", MxRecords, Some(Mode::Testing), false), // RTLS-06
            ("mx.example.test", MxRecords, None, false),
            ("example.test", ImplicitMx, None, false),
        ];
        for (mx, named_by, mode, want) in cases {
            for floor in [Floor::Opportunistic, Floor::Encrypt, Floor::Verify] {
                let domain = name("example.test");
                let policy = mode.map(policy);
                let effect = Effect::Enforced;
                let published =
                    policy.as_ref().map(|policy| Published { domain: &domain, policy, effect });
                let local = Requirement::from_floor(floor).join(&Requirement::from_require_tls());
                let asked = Asked::new(local, published);
                let got = authorize(located(mx, "example.test", named_by), &asked);
                assert_eq!(got.is_ok(), want, "{mx} {named_by:?} {mode:?} {floor:?}");
                if let Err(refusal) = got {
                    let expected = matches!(refusal, Refusal::RequireTlsUnauthenticated { .. });
                    assert!(expected, "{refusal:?}");
                }
            }
        }
        // Who is vouched for by DNS or the operator, and not by the policy in force, is still
        // refused.
        let domain = name("example.test");
        let policy = policy(Mode::Enforce);
        let published = Published { domain: &domain, policy: &policy, effect: Effect::Enforced };
        let asked = Asked::new(Requirement::from_require_tls(), Some(published));
        for named_by in [Route, SecureMxRecords] {
            let refusal = authorize(located("no.test", "example.test", named_by), &asked);
            assert!(matches!(refusal.unwrap_err(), Refusal::MxNotListed { .. }));
        }
    }

    #[test]
    fn every_list_must_name_the_host() {
        let list = |origin, patterns: &[&str]| {
            let patterns = patterns.iter().map(|p| MxPattern::parse(p).unwrap()).collect();
            Requirement::listed(PatternSet { origin, patterns })
        };
        let by_sts = Origin::Sts { domain: name("example.test") };
        let sts = list(by_sts.clone(), &["*.a.test", "*.b.test"]);
        let rule = list(Origin::Rule, &["*.b.test", "*.c.test"]);
        let nobody = list(Origin::Rule, &[]);
        let cases = [
            (sts.clone(), "mx.a.test", None),
            (sts.join(&rule), "mx.a.test", Some(Origin::Rule)),
            (sts.join(&rule), "mx.b.test", None),
            (sts.join(&rule), "mx.c.test", Some(by_sts)),
            (sts.join(&nobody), "mx.a.test", Some(Origin::Rule)),
        ];
        for (binding, mx, want) in cases {
            let asked = Asked { enforced: binding.into(), ..Asked::default() };
            let got = authorize(located(mx, "example.test", NamedBy::MxRecords), &asked);
            let not_listed = |origin| Refusal::MxNotListed { mx: host(mx), origin };
            assert_eq!(got.err(), want.map(not_listed), "{mx}");
        }
    }

    #[test]
    fn an_address_is_in_no_list_and_has_no_server_name() {
        let route = || located("192.0.2.1", "192.0.2.1", NamedBy::Route);
        let enforce = asked(Floor::Opportunistic, Some(Mode::Enforce), Effect::Enforced);
        let refusal = authorize(route(), &enforce).unwrap_err();
        assert!(matches!(refusal, Refusal::MxNotListed { .. }), "{refusal:?}");
        let mx = authorize(route(), &Asked::default()).unwrap();
        assert_eq!((mx.server_name(), mx.named_by()), (None, NamedBy::Route));
    }

    #[test]
    fn sni_and_certificate_are_about_the_mx_name() {
        let asked = asked(Floor::Opportunistic, Some(Mode::Enforce), Effect::Enforced);
        let mx = authorize(located("mx.test", "example.test", NamedBy::MxRecords), &asked).unwrap();
        assert_eq!(mx.host(), &host("mx.test"));
        assert_eq!(mx.server_name(), Some(&name("mx.test")));
        assert_eq!(mx.next_hop(), &host("example.test"));
    }
}
