//! Does the certificate prove that the peer is the MX host? (RFC 8461 §4.2, RFC 9525)
//!
//! The verdicts are webpki's: a DNS name in the SAN (no common name, no partial wildcard, a star for
//! one label), dates, and a chain to one of our [`Roots`] that is fit for TLS servers. x509-parser
//! only supplies what people read about a failure.
//!
//! A certificate with several faults always gives the same answer, in this order: whose key it is,
//! name, dates, trust. A wrong name comes first because it means another host or another
//! certificate, whose dates nobody has to mend; a renewal, which mends dates, brings a new chain.
//!
//! Not here: whether anybody asked for a proof (`admit`).

use std::time::Duration;

use jiff::Timestamp;
use rustls_pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use smtp::{HostName, RemoteText};
use webpki::{ALL_VERIFICATION_ALGS, EndEntityCert, KeyUsage};

use crate::observed::ObservedTls;

/// Ours: names of a certificate that a message quotes.
const NAMES_SHOWN_MAX: usize = 10;

/// The authorities that may vouch for an MX host.
#[derive(Clone, Debug, Default)]
pub struct Roots {
    anchors: Vec<TrustAnchor<'static>>,
}

/// A certificate that cannot be an authority.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("not usable as a trust anchor: {0}")]
pub struct BadRoot(String);

impl Roots {
    /// These authorities.
    pub fn new(anchors: Vec<TrustAnchor<'static>>) -> Self {
        Self { anchors }
    }

    /// One more authority, trusted whatever its own dates and extensions say.
    ///
    /// # Errors
    ///
    /// [`BadRoot`] if it does not parse.
    pub fn add(&mut self, certificate: &CertificateDer<'_>) -> Result<(), BadRoot> {
        let anchor = webpki::anchor_from_trusted_cert(certificate)
            .map_err(|error| BadRoot(error.to_string()))?;
        self.anchors.push(anchor.to_owned());
        Ok(())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.anchors.len()
    }

    /// Is nobody trusted?
    pub fn is_empty(&self) -> bool {
        self.anchors.is_empty()
    }
}

/// Why a connection is not as protected as it must be.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum TlsFailure {
    /// Clear text.
    #[error("the connection is not encrypted")]
    NotEncrypted,
    /// No certificate at all.
    #[error("the server presented no certificate")]
    NoCertificate,
    /// The chain may be anybody's: the handshake was not signed with its key.
    #[error("the server did not prove that the certificate is its own")]
    PossessionUnproven,
    /// The TLS session was made with another host in mind.
    #[error("the TLS session was made for {server_name}")]
    OtherServerName {
        /// The name that was asked for then.
        server_name: HostName,
    },
    /// The certificate is for other names.
    #[error("the certificate is not valid for {expected}{}", for_instead(.presented))]
    NameMismatch {
        /// The MX name.
        expected: HostName,
        /// The DNS names in it, the first ten.
        presented: Vec<RemoteText>,
    },
    /// A certificate of the chain is too old.
    #[error("the certificate expired at {not_after}")]
    Expired {
        /// Its last moment.
        not_after: Timestamp,
    },
    /// A certificate of the chain is too young.
    #[error("the certificate is not valid before {not_before}")]
    NotYetValid {
        /// Its first moment.
        not_before: Timestamp,
    },
    /// No authority that we trust vouches for it.
    #[error("the certificate is not trusted: {why} (issuer: {issuer})")]
    Untrusted {
        /// What is wrong with the chain.
        why: Distrust,
        /// Who the certificate says has issued it.
        issuer: RemoteText,
    },
    /// DANE is required, and there are no TLSA records to compare with.
    #[error("DANE is required and not available")]
    DaneRequired,
}

fn for_instead(presented: &[RemoteText]) -> String {
    if presented.is_empty() {
        return ", it has no DNS names".to_owned();
    }
    let names: Vec<&str> = presented.iter().map(RemoteText::as_str).collect();
    format!(", only for {}", names.join(", "))
}

impl TlsFailure {
    /// The word for logs, metrics and JSON.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotEncrypted => "starttls_not_offered",
            Self::OtherServerName { .. } | Self::NameMismatch { .. } => "certificate_name_mismatch",
            Self::Expired { .. } => "certificate_expired",
            Self::NotYetValid { .. } => "certificate_not_yet_valid",
            Self::NoCertificate | Self::PossessionUnproven | Self::Untrusted { .. } => {
                "certificate_untrusted"
            }
            Self::DaneRequired => "dane_required",
        }
    }
}

/// What is wrong with a chain.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Distrust {
    /// The certificate vouches for itself.
    #[error("self-signed")]
    SelfSigned,
    /// Nobody we trust issued it, or a certificate between is missing.
    #[error("no known authority issued it, or an intermediate certificate is missing")]
    UnknownIssuer,
    /// An authority's own certificate, used by a server.
    #[error("it is an authority's certificate")]
    CaAsServer,
    /// Not for TLS servers.
    #[error("it is not meant for servers")]
    WrongPurpose,
    /// Its issuer may not issue for this name.
    #[error("its issuer may not issue for this name")]
    NameConstraint,
    /// A signature in the chain is wrong.
    #[error("a signature is wrong")]
    BadSignature,
    /// A key or signature that is too weak or unknown to us.
    #[error("a key or signature algorithm is too weak or unknown")]
    Algorithm,
    /// A certificate of the chain may not issue, or the chain is too long.
    #[error("a certificate of the chain may not issue others, or the chain is too long")]
    Chain,
    /// It cannot be read.
    #[error("malformed or with critical extensions that are unknown")]
    Malformed,
}

/// Does the evidence prove that the peer is `host`?
///
/// # Errors
///
/// The first failure in the order that the module names.
pub(crate) fn verify(
    tls: &ObservedTls,
    host: &HostName,
    roots: &Roots,
    now: Timestamp,
) -> Result<(), TlsFailure> {
    let Some((first, rest)) = tls.chain.split_first() else {
        return Err(TlsFailure::NoCertificate);
    };
    if !tls.possession_proven {
        return Err(TlsFailure::PossessionUnproven);
    }
    if tls.server_name != *host {
        return Err(TlsFailure::OtherServerName { server_name: tls.server_name.clone() });
    }
    let failure = |error| explain(error, first, host);
    let certificate = EndEntityCert::try_from(first).map_err(failure)?;
    let name = ServerName::try_from(host.as_str()).map_err(|_| name_mismatch(first, host))?;
    certificate.verify_is_valid_for_subject_name(&name).map_err(failure)?;
    let usage = KeyUsage::server_auth();
    let now = unix_time(now);
    certificate
        .verify_for_usage(ALL_VERIFICATION_ALGS, &roots.anchors, rest, now, usage, None, None)
        .map(drop)
        .map_err(failure)
}

/// A clock before 1970 finds every certificate not yet valid.
fn unix_time(now: Timestamp) -> UnixTime {
    let seconds = u64::try_from(now.as_second()).unwrap_or(0);
    UnixTime::since_unix_epoch(Duration::from_secs(seconds))
}

fn timestamp(time: UnixTime) -> Timestamp {
    let seconds = i64::try_from(time.as_secs()).ok();
    seconds.and_then(|s| Timestamp::from_second(s).ok()).unwrap_or(Timestamp::MAX)
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the enum is foreign and may grow; whatever it says, the certificate is not accepted"
)]
fn explain(error: webpki::Error, first: &CertificateDer<'_>, host: &HostName) -> TlsFailure {
    use webpki::Error;
    let why = match error {
        Error::CertNotValidForName(_) => return name_mismatch(first, host),
        Error::CertExpired { not_after, .. } => {
            return TlsFailure::Expired { not_after: timestamp(not_after) };
        }
        Error::CertNotValidYet { not_before, .. } => {
            return TlsFailure::NotYetValid { not_before: timestamp(not_before) };
        }
        Error::UnknownIssuer if is_self_issued(first) => Distrust::SelfSigned,
        Error::UnknownIssuer => Distrust::UnknownIssuer,
        Error::CaUsedAsEndEntity => Distrust::CaAsServer,
        Error::RequiredEkuNotFoundContext(_) | Error::EmptyEkuExtension => Distrust::WrongPurpose,
        Error::NameConstraintViolation => Distrust::NameConstraint,
        Error::InvalidSignatureForPublicKey | Error::SignatureAlgorithmMismatch => {
            Distrust::BadSignature
        }
        Error::UnsupportedSignatureAlgorithmContext(_)
        | Error::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => Distrust::Algorithm,
        Error::EndEntityUsedAsCa
        | Error::PathLenConstraintViolated
        | Error::MaximumPathDepthExceeded
        | Error::MaximumPathBuildCallsExceeded
        | Error::MaximumSignatureChecksExceeded
        | Error::MaximumNameConstraintComparisonsExceeded => Distrust::Chain,
        _ => Distrust::Malformed,
    };
    TlsFailure::Untrusted { why, issuer: issuer(first) }
}

fn is_self_issued(certificate: &CertificateDer<'_>) -> bool {
    x509_parser::parse_x509_certificate(certificate)
        .is_ok_and(|(_, parsed)| parsed.issuer().as_raw() == parsed.subject().as_raw())
}

fn issuer(certificate: &CertificateDer<'_>) -> RemoteText {
    x509_parser::parse_x509_certificate(certificate)
        .map_or_else(|_| RemoteText::default(), |(_, c)| RemoteText::new(&c.issuer().to_string()))
}

fn name_mismatch(certificate: &CertificateDer<'_>, host: &HostName) -> TlsFailure {
    TlsFailure::NameMismatch { expected: host.clone(), presented: dns_names(certificate) }
}

fn dns_names(certificate: &CertificateDer<'_>) -> Vec<RemoteText> {
    use x509_parser::extensions::GeneralName;
    let Ok((_, parsed)) = x509_parser::parse_x509_certificate(certificate) else {
        return Vec::new();
    };
    let Ok(Some(names)) = parsed.subject_alternative_name() else {
        return Vec::new();
    };
    let dns = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(RemoteText::new(name)),
        GeneralName::OtherName(..)
        | GeneralName::RFC822Name(_)
        | GeneralName::X400Address(_)
        | GeneralName::DirectoryName(_)
        | GeneralName::EDIPartyName(_)
        | GeneralName::URI(_)
        | GeneralName::IPAddress(_)
        | GeneralName::RegisteredID(_)
        | GeneralName::Invalid(..) => None,
    });
    dns.take(NAMES_SHOWN_MAX).collect()
}
