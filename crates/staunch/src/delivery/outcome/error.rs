//! Everything that can stop an attempt, and the one table that says what each means.
//!
//! The variants follow the data flow. [`AttemptError::verdict`] gives a failure its fate and its
//! scope, [`AttemptError::problem`] the words under which it is stored, shown and sent. Neither has
//! a wildcard arm: a new failure has to choose.

use std::net::IpAddr;
use std::time::Duration;

use policy::{Refusal, TlsFailure};
use smtp::client::Stage;
use smtp::{Domain, HostName, RemoteText, Reply};

use super::gone::StarttlsGone;
use crate::connect::login::{LoginError, LoginFailure};
use crate::connect::pool::Bottleneck;
use crate::connect::{ConnectFailure, DownHost};
use crate::delivery::outcome::unsupported::Unsupported;
use crate::delivery::yielding::{Doing, PATIENCE};
use crate::dns::{DnsFailure, DnsFailureKind};
use crate::policies::{DeferExtent, PolicyDefer};
use crate::telemetry::{Problem, Reason, refusal_reason, tls_reason};

/// What becomes of a recipient after a failure.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Disposition {
    /// Try again, until the message is too old.
    Defer,
    /// Return it now.
    Fail,
}

/// How far a failure reaches. Only [`Scope::Lane`] moves a lane's back-off.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Scope {
    Message,
    /// The next hop as a whole: all its hosts, its DNS, its policy.
    Lane,
    /// Our own limits: enough of ours is under way there already. No attempt is consumed.
    OwnLimit,
    /// Our own patience: it took too long while other mail waited. The lane waits as after a
    /// failure, and no attempt is consumed.
    Yielded,
    /// Ourselves: no lane can do better now, and no attempt is consumed.
    Local,
}

/// May we believe what DNS says about where a domain's mail goes?
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum MxEvidence {
    /// Nothing speaks against it.
    Uncontested,
    /// An unexpired `enforce` policy is stored, so somebody may be forging the answer to make us
    /// bounce or forget.
    ContradictsPolicy,
    /// The operator wrote the next hop down, so the mistake is in the route or in DNS, and no fault
    /// of any recipient's.
    ContradictsRoute,
}

/// What DNS says when there is nobody to send to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum DeadEnd {
    /// RFC 7505.
    NullMx,
    /// NXDOMAIN.
    NoSuchDomain,
    /// We are the best host (RFC 5321 §5.1).
    MailLoop,
}

/// Why nobody took the message.
#[derive(Debug)]
pub(crate) enum AttemptError {
    /// The policy is not known, and going on without could be a downgrade.
    Policy(PolicyDefer),
    /// The MX look-up failed.
    Dns(DnsFailure),
    /// There is no host to send to.
    DeadEnd {
        /// The recipient domain or next hop.
        domain: HostName,
        /// Which kind.
        end: DeadEnd,
        /// Whether to believe it.
        evidence: MxEvidence,
    },
    /// The MX records name no host at all.
    BadMx {
        /// The recipient domain or next hop.
        domain: HostName,
        /// What they name.
        text: RemoteText,
    },
    /// Every host failed; the failure that says most.
    Host {
        /// The host.
        mx: Domain,
        /// What happened.
        error: HostError,
        /// Could every host say for good that mail is not for it, and may that be believed?
        conclusive: Conclusive,
    },
    /// The sender requires TLS, every host has shown that it cannot be had, and waiting would not
    /// help (RFC 8689 §4.2.1).
    RequireTls {
        /// The host that came closest.
        mx: Domain,
        /// What it lacks.
        error: HostError,
    },
    /// What the domain's policy asks changed again and again while the mail was tried.
    PolicyChanged,
    /// It took too long while other mail waited.
    Yielded {
        /// What took so long.
        doing: Doing,
    },
    /// Trouble of our own.
    Local(String),
}

/// Did every host of a next hop fail in a way that time does not heal?
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Conclusive {
    /// They did, and no live policy contradicts.
    Yes,
    /// At least one may work later, or the answer is not to be believed.
    No,
}

/// Will a host's failure last?
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Permanence {
    /// For good, says the host itself, over a session that was good enough for the mail.
    Permanent,
    /// For good, says what anybody on the path could have said.
    Unauthenticated,
    /// It may work later.
    Transient,
}

/// Why one host did not take the message.
#[derive(Debug)]
pub(crate) enum HostError {
    /// A policy does not allow the host.
    Refused(Refusal),
    /// Its address look-up failed.
    Dns(DnsFailure),
    /// It has no address.
    NoAddress,
    /// All its addresses are private or special, or our own, e.g. this one.
    ForbiddenAddress(IpAddr),
    /// So much mail waits for these connections that more would be in the way of other mail.
    ConcurrencyLimited(Bottleneck),
    /// The next message may go there after this time (`messages_per_minute`).
    TooSoon(Duration),
    /// No usable session came about.
    Connect(ConnectFailure),
    /// It lets nobody in, whatever the mail.
    Down(DownHost),
    /// The session is not as protected as it must be.
    Tls(TlsFailure),
    /// It did TLS with us lately, and now that does not come about: somebody may want the mail in
    /// clear.
    StarttlsGone(StarttlsGone),
    /// It takes nothing without TLS, which did not come about: it is not offered, or it broke
    /// before.
    TlsWanted(Reply),
    /// It does not let us in, or it must not get to know our password.
    Login(LoginError),
    /// It takes messages up to this size.
    TooLarge {
        /// Octets.
        limit: u64,
    },
    /// It does not take the message in the form that it has.
    Unfit(Unsupported),
    /// It offers CHUNKING and does not know BDAT.
    NoChunking,
    /// The connection broke before the message was sent in full.
    Interrupted {
        /// What was awaited.
        stage: Stage,
        /// `connection_lost` or `protocol_error`.
        reason: Reason,
        /// What happened.
        text: RemoteText,
    },
    /// Our copy of the message cannot be read, or must not be sent.
    Body(String),
    /// Our copy of the message is not what was stored.
    Damaged(String),
}

impl AttemptError {
    /// What the failure means.
    pub(crate) fn verdict(&self) -> (Disposition, Scope) {
        match self {
            Self::Policy(defer) if defer.extent == DeferExtent::Everybody => {
                (Disposition::Defer, Scope::Local)
            }
            // That we fetch enough policies already is no fault of the domain.
            Self::Policy(defer) if defer.reason == Reason::OwnLimit => {
                (Disposition::Defer, Scope::OwnLimit)
            }
            Self::Policy(_) => (Disposition::Defer, Scope::Lane),
            Self::Dns(failure) => (Disposition::Defer, dns_scope(failure)),
            Self::DeadEnd { evidence: MxEvidence::Uncontested, .. } => {
                (Disposition::Fail, Scope::Lane)
            }
            Self::DeadEnd {
                evidence: MxEvidence::ContradictsPolicy | MxEvidence::ContradictsRoute,
                ..
            } => (Disposition::Defer, Scope::Lane),
            Self::BadMx { .. } => (Disposition::Defer, Scope::Lane),
            Self::Host { conclusive: Conclusive::Yes, error, .. } => {
                (Disposition::Fail, error.scope())
            }
            Self::Host { conclusive: Conclusive::No, error, .. } => {
                (Disposition::Defer, error.scope())
            }
            Self::RequireTls { .. } => (Disposition::Fail, Scope::Message),
            Self::PolicyChanged => (Disposition::Defer, Scope::OwnLimit),
            Self::Yielded { .. } => (Disposition::Defer, Scope::Yielded),
            Self::Local(_) => (Disposition::Defer, Scope::Local),
        }
    }

    /// Why the host failed that says most, if it came to that.
    fn host_error(&self) -> Option<&HostError> {
        match self {
            Self::Host { error, .. } | Self::RequireTls { error, .. } => Some(error),
            Self::Policy(_)
            | Self::Dns(_)
            | Self::DeadEnd { .. }
            | Self::BadMx { .. }
            | Self::PolicyChanged
            | Self::Yielded { .. }
            | Self::Local(_) => None,
        }
    }

    /// The connections that the mail waits for, if it waits for nothing else.
    pub(crate) fn bottleneck(&self) -> Option<&Bottleneck> {
        if let Some(HostError::ConcurrencyLimited(bottleneck)) = self.host_error() {
            Some(bottleneck)
        } else {
            None
        }
    }

    /// The host that lets nobody in, if that is why.
    pub(crate) fn down(&self) -> Option<&DownHost> {
        if let Some(HostError::Down(down)) = self.host_error() { Some(down) } else { None }
    }

    /// How long our own limits make it wait, where they say so.
    pub(crate) fn own_wait(&self) -> Option<Duration> {
        if let Some(HostError::TooSoon(wait)) = self.host_error() { Some(*wait) } else { None }
    }

    /// The failure in words.
    pub(crate) fn problem(&self) -> Problem {
        match self {
            Self::Policy(defer) => Problem::new(defer.reason, defer.text.as_str()),
            Self::Dns(failure) => Problem::new(Reason::DnsFailure, &failure.to_string()),
            Self::DeadEnd { domain, end, evidence } => dead_end_problem(domain, *end, *evidence),
            Self::BadMx { domain, text } => {
                let text = format!(
                    "the MX records of {domain} name no host but {text}: a mistake of the domain's owner"
                );
                Problem::new(Reason::NoMailHost, &text)
            }
            Self::Host { mx, error, .. } => error.problem(mx),
            Self::RequireTls { mx, error } => require_tls_problem(error.problem(mx)),
            // Our choice, as when the lane waits for its turn: no host is at fault, and no attempt
            // counts.
            Self::PolicyChanged => Problem::new(
                Reason::OwnLimit,
                "the domain's policy changed while it was tried; it begins anew in a moment",
            ),
            Self::Yielded { doing } => yielded_problem(doing),
            Self::Local(text) => Problem::new(Reason::LocalError, text),
        }
    }
}

fn yielded_problem(doing: &Doing) -> Problem {
    let within = format!("within {} s, and other mail needed the place", PATIENCE.as_secs());
    match doing {
        Doing::LookingUp => {
            Problem::new(Reason::Yielded, &format!("policy and hosts were not known {within}"))
        }
        Doing::Asking(mx) => {
            let text = format!("{mx}: no word about the mail {within}");
            Problem::new(Reason::Yielded, &text).at(mx)
        }
    }
}

/// Whatever keeps a host from being authenticated has one word and code here: what the sender asked
/// for cannot be had.
fn require_tls_problem(cause: Problem) -> Problem {
    if matches!(cause.reason, Reason::RequireTlsUnsupported | Reason::RequireTlsUnauthenticated) {
        return cause;
    }
    let reason = Reason::RequireTlsUnauthenticated;
    let text = format!("the sender requires TLS, and no host can be authenticated: {}", cause.text);
    Problem { reason, status: reason.status(), text: RemoteText::new(&text), ..cause }
}

/// A resolver that cannot be reached at all is our trouble, not the domain's.
fn dns_scope(failure: &DnsFailure) -> Scope {
    match failure.kind {
        DnsFailureKind::Unreachable => Scope::Local,
        DnsFailureKind::Timeout
        | DnsFailureKind::ServFail
        | DnsFailureKind::Refused
        | DnsFailureKind::Bogus
        | DnsFailureKind::Other => Scope::Lane,
    }
}

fn dead_end_problem(domain: &HostName, end: DeadEnd, evidence: MxEvidence) -> Problem {
    let (reason, what) = match end {
        DeadEnd::NullMx => (Reason::NullMx, "takes no mail: it publishes a null MX"),
        DeadEnd::NoSuchDomain => (Reason::NoSuchDomain, "does not exist"),
        DeadEnd::MailLoop => (Reason::MailLoop, "has ourselves as its best MX"),
    };
    match evidence {
        MxEvidence::Uncontested => Problem::new(reason, &format!("{domain} {what}")),
        MxEvidence::ContradictsPolicy => Problem::new(
            Reason::MxNotListed,
            &format!(
                "MX hosts of {domain} failed MTA-STS validation: DNS says that it {what}, \
                 which its unexpired policy contradicts"
            ),
        ),
        MxEvidence::ContradictsRoute => {
            Problem::new(Reason::NoMailHost, &format!("the route leads to {domain}, which {what}"))
        }
    }
}

/// What a host's failure means.
#[derive(Clone, Copy, Debug)]
struct Meaning {
    scope: Scope,
    permanence: Permanence,
    weight: u8,
    proof: RequireTlsProof,
}

/// Is it shown that mail which requires TLS cannot go to a host? Trouble that may pass is no proof.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum RequireTlsProof {
    /// It is.
    Given,
    /// It is not.
    Missing,
}

/// What it means that no usable session came about.
fn connect_meaning(failure: &ConnectFailure) -> Meaning {
    let scope = if failure.is_local() {
        Scope::Local
    } else if failure.is_source() {
        // Mail that leaves from another address can go on.
        Scope::OwnLimit
    } else {
        Scope::Lane
    };
    let permanence =
        if failure.takes_no_mail() { Permanence::Unauthenticated } else { Permanence::Transient };
    let weight = if failure.is_tls() { 6 } else { 4 };
    let proof =
        if failure.has_no_tls() { RequireTlsProof::Given } else { RequireTlsProof::Missing };
    Meaning { scope, permanence, weight, proof }
}

impl From<LoginFailure> for HostError {
    fn from(failure: LoginFailure) -> Self {
        match failure {
            LoginFailure::Login(error) => error.into(),
            LoginFailure::Connect(failure) => Self::Connect(failure),
        }
    }
}

impl From<LoginError> for HostError {
    fn from(error: LoginError) -> Self {
        Self::Login(error)
    }
}

impl HostError {
    /// What it means: a row for each failure.
    fn meaning(&self) -> Meaning {
        use Permanence::{Permanent, Transient, Unauthenticated};
        use RequireTlsProof::{Given, Missing};
        let row = |scope, permanence, weight, proof| Meaning { scope, permanence, weight, proof };
        match self {
            Self::ConcurrencyLimited(_) | Self::TooSoon(_) => {
                row(Scope::OwnLimit, Transient, 9, Missing)
            }
            Self::Body(_) | Self::Damaged(_) => row(Scope::Message, Transient, 8, Missing),
            // It is the right host, with a good certificate.
            Self::Tls(TlsFailure::RequireTlsNotOffered) => row(Scope::Lane, Transient, 7, Given),
            Self::Tls(_) => row(Scope::Lane, Transient, 6, Given),
            Self::StarttlsGone(_) | Self::TlsWanted(_) | Self::Login(_) => {
                row(Scope::Lane, Transient, 6, Missing)
            }
            // The host took the envelope and then choked on the content, which other mail does not
            // have.
            Self::Interrupted { stage: Stage::Body | Stage::EndOfData, .. } | Self::NoChunking => {
                row(Scope::Message, Transient, 5, Missing)
            }
            Self::Interrupted { stage: Stage::Mail | Stage::Rcpt | Stage::Data, .. } => {
                row(Scope::Lane, Transient, 5, Missing)
            }
            Self::Connect(failure) => connect_meaning(failure),
            Self::Down(_) => row(Scope::Lane, Transient, 4, Missing),
            Self::TooLarge { .. } | Self::Unfit(_) => row(Scope::Message, Permanent, 3, Missing),
            // That mail goes to a host which a policy does not list only DNS says, which can be
            // forged.
            Self::Refused(Refusal::MxNotListed { .. }) => row(Scope::Lane, Transient, 2, Missing),
            Self::Refused(
                Refusal::MxNameUnauthenticated { .. } | Refusal::RequireTlsUnauthenticated { .. },
            ) => row(Scope::Lane, Transient, 2, Given),
            Self::Dns(failure) => row(dns_scope(failure), Transient, 1, Missing),
            Self::NoAddress | Self::ForbiddenAddress(_) => {
                row(Scope::Lane, Unauthenticated, 0, Missing)
            }
        }
    }

    /// Can nothing but a change at the recipient's side make this host take the message, and who
    /// says so?
    pub(crate) fn permanence(&self) -> Permanence {
        self.meaning().permanence
    }

    /// Has the host shown that mail which requires TLS cannot go there?
    pub(crate) fn rules_out_require_tls(&self) -> bool {
        self.meaning().proof == RequireTlsProof::Given
    }

    /// Of several hosts' failures the one with the greatest weight is reported: it tells most about
    /// what has to change.
    pub(crate) fn weight(&self) -> u8 {
        self.meaning().weight
    }

    fn scope(&self) -> Scope {
        self.meaning().scope
    }

    /// The failure in words.
    pub(crate) fn problem(&self, mx: &Domain) -> Problem {
        let problem = match self {
            Self::Refused(refusal) => Problem::new(refusal_reason(refusal), &refusal.to_string()),
            Self::Dns(failure) => Problem::new(Reason::DnsFailure, &failure.to_string()),
            Self::NoAddress => Problem::new(Reason::NoMailHost, &format!("{mx} has no address")),
            Self::ForbiddenAddress(address) => Problem::new(
                Reason::AddressForbidden,
                &format!(
                    "{mx} has the address {address}, which is a private or special address, or this relay itself (see delivery.allow_addresses)"
                ),
            ),
            Self::ConcurrencyLimited(_) => Problem::new(
                Reason::OwnLimit,
                &format!("{mx}: enough mail waits for a connection already"),
            ),
            Self::TooSoon(wait) => Problem::new(
                Reason::OwnLimit,
                &format!("{mx}: the limit allows the next message in {} s", wait.as_secs()),
            ),
            Self::Connect(failure) => failure.problem(),
            Self::Down(down) => down.problem(),
            Self::Tls(failure) => Problem::new(tls_reason(failure), &format!("{mx}: {failure}")),
            Self::StarttlsGone(gone) => gone.problem(mx),
            Self::TlsWanted(reply) => Problem::new(
                Reason::StarttlsNotOffered,
                &format!("{mx} takes nothing without TLS, and there was none: {reply}"),
            )
            .answered(reply),
            Self::Login(error) => Problem::new(Reason::AuthFailed, &format!("{mx}: {error}")),
            Self::TooLarge { limit } => Problem::new(
                Reason::SizeExceeded,
                &format!("{mx} takes messages up to {limit} octets"),
            ),
            Self::Unfit(misfit) => misfit.problem(mx),
            Self::NoChunking => Problem::new(
                Reason::ProtocolError,
                &format!("{mx} offers CHUNKING and does not know BDAT"),
            ),
            Self::Interrupted { stage, reason, text } => {
                Problem::new(*reason, &format!("{mx}: interrupted at {}: {text}", stage.name()))
            }
            Self::Body(text) => Problem::new(Reason::LocalError, text),
            Self::Damaged(text) => Problem::new(Reason::MessageDamaged, text),
        };
        problem.at(mx)
    }
}
