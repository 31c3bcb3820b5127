//! May this MX host be used, and how must the connection to it be protected?
//!
//! This module is the only place that answers. [`authorize`] is the only constructor of
//! [`AuthorizedMx`], and the connector accepts nothing else, so a path around the policy does not
//! compile.
//!
//! Not here: what is asked ([`crate::requirement`]), checking the certificate after the handshake
//! (`admit`), retry times (`staunch::schedule`).

use smtp::HostName;

use crate::certificate::TlsFailure;
use crate::requirement::{Asked, Identity, Origin, Requirement};

/// A host that could take the mail.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Located {
    /// The name in the MX record, before any alias is followed (RFC 8461 §4.1).
    pub mx: HostName,
    /// The recipient's domain, or the name of the configured route.
    pub next_hop: HostName,
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
        /// The host.
        mx: HostName,
        /// Whose list.
        origin: Origin,
    },
    /// It must prove that it is `mx`, but that it serves the next hop is only what unauthenticated
    /// DNS says, so the proof would be worth nothing.
    #[error("{mx} cannot be verified: only unauthenticated DNS says that it serves {next_hop}")]
    MxNameUnauthenticated {
        /// The host.
        mx: HostName,
        /// Whose mail it would get.
        next_hop: HostName,
    },
}

fn whose(origin: &Origin) -> String {
    match origin {
        Origin::Sts { domain } => format!("the MTA-STS policy of {domain} does not list it"),
        Origin::Rule => "a local rule does not list it".to_owned(),
    }
}

impl Refusal {
    /// The word for logs, metrics and JSON.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::MxNotListed { origin: Origin::Sts { .. }, .. } => "mx_not_listed",
            Self::MxNotListed { origin: Origin::Rule, .. } | Self::MxNameUnauthenticated { .. } => {
                "rule_not_met"
            }
        }
    }
}

/// What the shadow requirement would have refused. Recorded, reported, never acted upon.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Finding {
    /// The host would not have been used.
    Host(Refusal),
    /// The connection would not have been used.
    Connection(TlsFailure),
}

/// A host that mail may be sent to, and what must be true of the connection. Only [`authorize`]
/// makes one:
///
/// ```
/// # use policy::{Asked, AuthorizedMx, Located, NamedBy, Refusal, authorize};
/// # fn located() -> Located {
/// #     let name = smtp::HostName::parse("mx.example").unwrap();
/// #     Located { mx: name.clone(), next_hop: name, named_by: NamedBy::ImplicitMx }
/// # }
/// let mx: AuthorizedMx = authorize(located(), &Asked::default())?;
/// # Ok::<(), Refusal>(())
/// ```
///
/// ```compile_fail,E0451
/// # use policy::{Asked, AuthorizedMx, Located, NamedBy, Refusal, authorize};
/// # fn located() -> Located {
/// #     let name = smtp::HostName::parse("mx.example").unwrap();
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
/// [`Refusal`] if the binding requirement does not allow the host. What the shadow requirement
/// refuses becomes a [`Finding`].
pub fn authorize(located: Located, asked: &Asked) -> Result<AuthorizedMx, Refusal> {
    check(&located, &asked.binding)?;
    let findings = check(&located, &asked.shadow).err().map(Finding::Host).into_iter().collect();
    Ok(AuthorizedMx { located, asked: asked.clone(), findings })
}

fn check(located: &Located, requirement: &Requirement) -> Result<(), Refusal> {
    let Located { mx, next_hop, .. } = located;
    if let Some(list) = requirement.listings().find(|list| !list.allows(mx)) {
        return Err(Refusal::MxNotListed { mx: mx.clone(), origin: list.origin.clone() });
    }
    match requirement.identity() {
        Identity::None => Ok(()),
        Identity::Either | Identity::Pkix | Identity::Dane | Identity::Both => {
            if is_name_authentic(located, requirement) {
                Ok(())
            } else {
                let (mx, next_hop) = (mx.clone(), next_hop.clone());
                Err(Refusal::MxNameUnauthenticated { mx, next_hop })
            }
        }
    }
}

/// A certificate proves that the peer is `mx`. That is worth something only if it is also certain
/// that `mx` is where the mail belongs, because who can forge an MX record can have a certificate for
/// the host in it.
fn is_name_authentic(located: &Located, requirement: &Requirement) -> bool {
    match located.named_by {
        NamedBy::SecureMxRecords | NamedBy::Route => true,
        NamedBy::MxRecords | NamedBy::ImplicitMx => {
            // The lists were checked before: each of them names this host.
            requirement.listings().next().is_some() || located.mx.is_at_or_below(&located.next_hop)
        }
    }
}

impl AuthorizedMx {
    /// The MX name: what SNI and certificate are about.
    pub fn host(&self) -> &HostName {
        &self.located.mx
    }

    /// The recipient's domain or the route's name.
    pub fn next_hop(&self) -> &HostName {
        &self.located.next_hop
    }

    /// What was asked.
    pub fn asked(&self) -> &Asked {
        &self.asked
    }

    /// Must STARTTLS succeed?
    pub fn needs_tls(&self) -> bool {
        self.asked.binding.needs_tls()
    }

    /// What goes into the TLS server name (RFC 8461 §7.1).
    pub fn server_name(&self) -> &HostName {
        &self.located.mx
    }

    /// What the shadow requirement has against the host.
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }
}
