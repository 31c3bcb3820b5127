//! Does the certificate prove that the peer is the MX host? (RFC 8461 §4.2, RFC 9525)
//!
//! The verdicts are webpki's: a DNS name in the SAN (no common name, no partial wildcard, a star
//! for one label), dates, and a chain to one of our [`Roots`] that is fit for TLS servers.
//! x509-parser only supplies what people read about a failure.
//!
//! A certificate with several faults always gives the same answer, in this order: whose key it is,
//! name, dates, trust. A wrong name comes first because it means another host or another
//! certificate, whose dates nobody has to mend; a renewal, which mends dates, brings a new chain.
//!
//! Not here: whether anybody asked for a proof (`admit`).

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use rustls_pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use smtp::{Domain, RemoteText};
use webpki::{ALL_VERIFICATION_ALGS, EndEntityCert, KeyUsage};

use crate::observed::ObservedTls;

/// Our choice: names of a certificate that a message quotes.
const NAMES_SHOWN_MAX: usize = 10;

/// The authorities that may vouch for an MX host.
#[derive(Clone, Debug)]
pub struct Roots {
    anchors: Vec<TrustAnchor<'static>>,
    id: RootsId,
}

/// Which authorities these are: no two sets of this process that were made apart have the same.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct RootsId(u64);

impl RootsId {
    fn new() -> Self {
        static MADE: AtomicU64 = AtomicU64::new(0);
        Self(MADE.fetch_add(1, Ordering::Relaxed))
    }
}

impl Default for Roots {
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

/// A certificate that cannot be an authority.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("not usable as a trust anchor: {0}")]
pub struct BadRoot(String);

impl Roots {
    /// Trusts these authorities and no others.
    pub fn new(anchors: Vec<TrustAnchor<'static>>) -> Self {
        Self { anchors, id: RootsId::new() }
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
        self.id = RootsId::new();
        Ok(())
    }

    pub(crate) fn id(&self) -> RootsId {
        self.id
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.anchors.len()
    }

    /// Is no authority trusted? Then no certificate is valid.
    pub fn is_empty(&self) -> bool {
        self.anchors.is_empty()
    }
}

/// Why a connection is not as protected as it must be.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum TlsFailure {
    /// The connection is in clear text, and TLS is required.
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
        server_name: Domain,
    },
    /// The certificate is for other names.
    #[error("the certificate is not valid for {expected}{}", for_instead(.presented))]
    NameMismatch {
        /// The host's name in MX record or route, which the certificate lacks.
        expected: Domain,
        /// The DNS names in it, the first ten.
        presented: Vec<RemoteText>,
    },
    /// A certificate of the chain is too old.
    #[error("the certificate expired at {not_after}")]
    Expired {
        /// The last moment of the certificate that expired.
        not_after: Timestamp,
    },
    /// A certificate of the chain is too young.
    #[error("the certificate is not valid before {not_before}")]
    NotYetValid {
        /// The first moment of the certificate that is not valid yet.
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
    /// The sender requires TLS, and the server does not promise to require it of the next one.
    #[error("the sender requires TLS, and the server does not offer REQUIRETLS")]
    RequireTlsNotOffered,
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
    host: &Domain,
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
    // An address is no DNS-ID, and address SANs are not considered (RFC 8461 §4.2).
    let name = host.name().and_then(|name| ServerName::try_from(name.as_str()).ok());
    let name = name.ok_or_else(|| name_mismatch(first, host))?;
    certificate.verify_is_valid_for_subject_name(&name).map_err(failure)?;
    // To the second, as certificates have it.
    let path = || {
        // A clock before 1970 finds every certificate not yet valid.
        let seconds = u64::try_from(now.as_second()).unwrap_or(0);
        let now = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let usage = KeyUsage::server_auth();
        certificate
            .verify_for_usage(ALL_VERIFICATION_ALGS, &roots.anchors, rest, now, usage, None, None)
            .map(drop)
            .map_err(failure)
    };
    tls.chain.is_good(roots.id(), now.as_second(), path)
}

fn timestamp(time: UnixTime) -> Timestamp {
    let seconds = i64::try_from(time.as_secs()).ok();
    seconds.and_then(|s| Timestamp::from_second(s).ok()).unwrap_or(Timestamp::MAX)
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the enum is foreign and may grow; whatever it says, the certificate is not accepted"
)]
fn explain(error: webpki::Error, first: &CertificateDer<'_>, host: &Domain) -> TlsFailure {
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

fn name_mismatch(certificate: &CertificateDer<'_>, host: &Domain) -> TlsFailure {
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

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa,
        NameConstraints, SanType, date_time_ymd,
    };

    use super::*;
    use crate::test_ca::{Ca, host, leaf_params, now, self_signed, shown, variant};
    use crate::vectors::{self, VectorRow};

    const MX: &str = "mx.example.com";

    fn judge(chain: Vec<CertificateDer<'static>>, roots: &Roots) -> Result<(), TlsFailure> {
        verify(&shown(chain, MX), &host(MX), roots, now())
    }

    fn distrust(result: Result<(), TlsFailure>) -> Option<Distrust> {
        match result {
            Err(TlsFailure::Untrusted { why, .. }) => Some(why),
            _ => None,
        }
    }

    /// The chain that a row of cert.tsv describes.
    fn presented(row: &str, ca: &Ca) -> Vec<CertificateDer<'static>> {
        let mut params = leaf_params(&[MX]);
        let names: &[&str] = match row {
            "C003" => &["*.example.com"],
            "C006" => &["m*.example.com"],
            "C007" => &["*x.example.com"],
            "C009" => &["*"],
            "C010" => &["*.com"],
            "C011" | "C013" => &[],
            "C012" => &["other"],
            "C014" => &["example.com"],
            "C015" => &["mta-sts.example.com"],
            "C019" => &["mx.example.com\0.evil.org"],
            "C020" => &["mx.example.com."],
            "C030" => &["other.example.com"],
            "C001" | "C025" | "C026" | "C027" | "C028" | "C029" => &[MX],
            other => panic!("no certificate for {other}"),
        };
        let dns = |name: &&str| SanType::DnsName((*name).try_into().unwrap());
        params.subject_alt_names = names.iter().map(dns).collect();
        let mut issuer = None;
        match row {
            "C011" | "C012" => params.distinguished_name.push(DnType::CommonName, MX),
            "C013" => {
                params.subject_alt_names = vec![SanType::IpAddress([192, 0, 2, 1].into())];
            }
            "C025" => issuer = Some(Ca::root("Private")),
            "C026" => issuer = Some(ca.intermediate(|_| {})),
            "C027" => params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained),
            "C028" => params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth],
            "C029" => {
                let permitted = GeneralSubtree::DnsName("example.org".to_owned());
                let limited = ca.intermediate(|params| {
                    params.name_constraints = Some(NameConstraints {
                        permitted_subtrees: vec![permitted],
                        excluded_subtrees: Vec::new(),
                    });
                });
                return vec![limited.leaf(&params), limited.certificate];
            }
            "C030" => params.not_after = date_time_ymd(2026, 2, 1),
            _ => {}
        }
        vec![issuer.as_ref().unwrap_or(ca).leaf(&params)]
    }

    #[test]
    fn every_certificate_vector_is_judged_as_listed() {
        let ca = Ca::root("Test CA");
        for VectorRow { id, cells } in vectors::rows("cert.tsv") {
            assert_eq!(cells[0], MX, "{id}");
            // STARTTLS refused: there is no certificate to judge, see the tests end to end.
            if id == "C033" {
                continue;
            }
            let want = match cells[2].as_str() {
                "ok" => None,
                "certificate-not-trusted" => Some("Untrusted"),
                // The row without a verdict, and the one with two: the name comes first.
                "host-mismatch" | "D (reject)" | "one of the two, fixed order" => {
                    Some("NameMismatch")
                }
                other => panic!("{id}: {other}"),
            };
            let got = judge(presented(&id, &ca), &ca.roots());
            assert_eq!(got.as_ref().err().map(variant).as_deref(), want, "{id}: {got:?}");
        }
    }

    #[test]
    fn several_faults_give_one_fixed_answer() {
        let ca = Ca::root("Test CA");
        let trusted = |params: &CertificateParams| ca.leaf(params);
        let cases = [
            // (right name, valid today, issued by our authority)
            (true, true, true, None),
            (true, true, false, Some("Untrusted")),
            (true, false, true, Some("Expired")),
            (true, false, false, Some("Expired")),
            (false, true, true, Some("NameMismatch")),
            (false, true, false, Some("NameMismatch")),
            (false, false, true, Some("NameMismatch")),
            (false, false, false, Some("NameMismatch")),
        ];
        for (name, date, issuer, want) in cases {
            let mut params = leaf_params(&[if name { MX } else { "other.example.com" }]);
            if !date {
                params.not_after = date_time_ymd(2026, 2, 1);
            }
            let leaf = if issuer { trusted(&params) } else { self_signed(&params) };
            let got = judge(vec![leaf.clone()], &ca.roots());
            let got = got.err().map(|failure| variant(&failure));
            assert_eq!(got.as_deref(), want, "name {name}, date {date}, issuer {issuer}");
            // Whose key it is comes before all of them, and nothing makes up for it.
            let unproven = ObservedTls { possession_proven: false, ..shown(vec![leaf], MX) };
            let got = verify(&unproven, &host(MX), &ca.roots(), now());
            assert_eq!(got, Err(TlsFailure::PossessionUnproven));
        }
    }

    #[test]
    fn dates_count_to_the_second_on_both_ends() {
        let ca = Ca::root("Test CA");
        let chain = vec![ca.leaf(&leaf_params(&[MX]))];
        let (first, last) = ("2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z");
        let (first, last): (Timestamp, Timestamp) = (first.parse().unwrap(), last.parse().unwrap());
        let second = |at: Timestamp, by: i64| Timestamp::from_second(at.as_second() + by).unwrap();
        let early = Err(TlsFailure::NotYetValid { not_before: first });
        let late = Err(TlsFailure::Expired { not_after: last });
        for (at, want) in [
            (second(first, -1), early.clone()),
            (first, Ok(())),
            (last, Ok(())),
            (second(last, 1), late),
            (Timestamp::from_second(-1).unwrap(), early),
        ] {
            let got = verify(&shown(chain.clone(), MX), &host(MX), &ca.roots(), at);
            assert_eq!(got, want, "{at}");
        }
    }

    #[test]
    fn a_chain_may_be_long_and_out_of_order_but_must_be_whole_and_valid() {
        let ca = Ca::root("Test CA");
        let roots = ca.roots();
        let middle = ca.intermediate(|_| {});
        let lower = middle.intermediate(|params| {
            params.distinguished_name.push(DnType::CommonName, "Lower");
        });
        let leaf = lower.leaf(&leaf_params(&[MX]));
        let [m, l] = [&middle, &lower].map(|ca| ca.certificate.clone());
        assert_eq!(judge(vec![leaf.clone(), l.clone(), m.clone()], &roots), Ok(()));
        assert_eq!(judge(vec![leaf.clone(), m.clone(), l.clone()], &roots), Ok(()));
        let missing = judge(vec![leaf.clone(), l.clone()], &roots);
        assert_eq!(distrust(missing), Some(Distrust::UnknownIssuer));
        // The first certificate is the server's, wherever a better one stands.
        assert!(judge(vec![l, leaf, m], &roots).is_err());
        let old = ca.intermediate(|params| params.not_after = date_time_ymd(2026, 2, 1));
        let got = judge(vec![old.leaf(&leaf_params(&[MX])), old.certificate], &roots);
        assert!(matches!(got, Err(TlsFailure::Expired { .. })), "{got:?}");
        // A server's certificate vouches for nobody.
        let server = ca.intermediate(|params| params.is_ca = IsCa::NoCa);
        let got = judge(vec![server.leaf(&leaf_params(&[MX])), server.certificate], &roots);
        assert_eq!(distrust(got), Some(Distrust::Chain));
    }

    #[test]
    fn distrust_has_a_named_cause() {
        let ca = Ca::root("Test CA");
        let params = leaf_params(&[MX]);
        let good = ca.leaf(&params);
        let changed = |change: fn(&mut Vec<u8>)| {
            let mut der = good.to_vec();
            change(&mut der);
            CertificateDer::from(der)
        };
        let mut ca_leaf = leaf_params(&[MX]);
        ca_leaf.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let mut client = leaf_params(&[MX]);
        client.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let cases = [
            (self_signed(&params), Distrust::SelfSigned),
            (Ca::root("Private").leaf(&params), Distrust::UnknownIssuer),
            (Ca::root("Test CA").leaf(&params), Distrust::BadSignature), // same name, other key
            (changed(|der| *der.last_mut().unwrap() ^= 1), Distrust::BadSignature),
            (changed(|der| sha224(der)), Distrust::Algorithm),
            (ca.leaf(&ca_leaf), Distrust::CaAsServer),
            (self_signed(&ca_leaf), Distrust::CaAsServer),
            (ca.leaf(&client), Distrust::WrongPurpose),
            (changed(|der| der.truncate(100)), Distrust::Malformed),
            (changed(Vec::clear), Distrust::Malformed),
        ];
        for (leaf, want) in cases {
            assert_eq!(distrust(judge(vec![leaf], &ca.roots())), Some(want));
        }
        let nobody = judge(vec![good], &Roots::default());
        assert_eq!(distrust(nobody), Some(Distrust::UnknownIssuer));
    }

    /// Rewrites the algorithm ecdsa-with-SHA256 to ecdsa-with-SHA224, which nobody accepts.
    fn sha224(der: &mut [u8]) {
        let sha256 = [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
        let at: Vec<_> = (0..der.len()).filter(|&i| der[i..].starts_with(&sha256)).collect();
        assert_eq!(at.len(), 2);
        at.into_iter().for_each(|i| der[i + 7] = 0x01);
    }

    #[test]
    fn no_certificate_and_another_sessions_certificate_prove_nothing() {
        let ca = Ca::root("Test CA");
        assert_eq!(judge(Vec::new(), &ca.roots()), Err(TlsFailure::NoCertificate));
        let other = "other.example.com";
        let both = ca.leaf(&leaf_params(&[MX, other]));
        let got = verify(&shown(vec![both], other), &host(MX), &ca.roots(), now());
        assert_eq!(got, Err(TlsFailure::OtherServerName { server_name: host(other) }));
    }

    #[test]
    fn names_compare_as_host_names_do() {
        let ca = Ca::root("Test CA");
        let cases = [
            ("MX.Example.COM", "mx.example.com", true),
            ("*.example.com", "xn--mnchen-3ya.example.com", true),
            ("*.example.com", "a.mx.example.com", false),
            ("*.example.com", "example.com", false),
            ("_mx.example.com", "_mx.example.com", true),
            ("mx", "mx", true),
        ];
        for (presented, mx, want) in cases {
            let tls = shown(vec![ca.leaf(&leaf_params(&[presented]))], mx);
            let got = verify(&tls, &host(mx), &ca.roots(), now());
            assert_eq!(got.is_ok(), want, "{presented} for {mx}: {got:?}");
        }
        let mut params = leaf_params(&[]);
        params.subject_alt_names = vec![SanType::IpAddress([192, 0, 2, 1].into())];
        let tls = shown(vec![ca.leaf(&params)], "192.0.2.1");
        let got = verify(&tls, &host("192.0.2.1"), &ca.roots(), now());
        assert_eq!(got, Err(name_mismatch(&tls.chain[0], &host("192.0.2.1"))));
    }

    #[test]
    fn what_a_certificate_says_is_shown_inert_and_bounded() {
        let ca = Ca::root("Evil\u{202e}\nCA");
        let names: Vec<String> = (0..50).map(|n| format!("h{n}\r\n.example.org")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let failure = judge(vec![ca.leaf(&leaf_params(&names))], &ca.roots()).unwrap_err();
        let TlsFailure::NameMismatch { presented, .. } = &failure else { panic!("{failure:?}") };
        assert_eq!(presented.len(), NAMES_SHOWN_MAX);
        assert_eq!(presented[0].as_str(), r"h0\r\n.example.org");
        assert!(failure.to_string().contains("mx.example.com, only for h0"));
        let none = judge(vec![ca.leaf(&leaf_params(&[]))], &ca.roots()).unwrap_err();
        assert!(none.to_string().ends_with("it has no DNS names"));
        let failure = judge(vec![ca.leaf(&leaf_params(&[MX]))], &Roots::default()).unwrap_err();
        let text = failure.to_string();
        assert!(!text.contains(['\n', '\u{202e}']) && text.contains("Evil"), "{text}");
    }

    #[test]
    fn an_authority_is_trusted_for_its_key_whatever_its_dates() {
        let mut roots = Roots::default();
        assert!(roots.is_empty());
        assert!(roots.add(&CertificateDer::from(b"junk".to_vec())).is_err());
        let top = Ca::root("Top");
        let old = top.intermediate(|params| params.not_after = date_time_ymd(2026, 2, 1));
        roots.add(&old.certificate).unwrap();
        assert_eq!(roots.len(), 1);
        assert_eq!(judge(vec![old.leaf(&leaf_params(&[MX]))], &roots), Ok(()));
        assert!(Roots::new(roots.anchors.clone()).len() == 1);
    }
}
