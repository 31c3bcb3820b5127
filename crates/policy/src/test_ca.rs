//! Certificates for the tests, good ones and every kind of bad one.

use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    SanType, date_time_ymd,
};
use rustls_pki_types::CertificateDer;
use smtp::{Domain, HostName};

use crate::{Observed, ObservedTls, Roots, TlsVersion};

/// A moment at which what is made here is valid.
pub(crate) fn now() -> Timestamp {
    "2026-03-01T12:00:00Z".parse().unwrap()
}

pub(crate) fn name(text: &str) -> HostName {
    HostName::parse(text).unwrap()
}

/// The host with this name or address.
pub(crate) fn host(text: &str) -> Domain {
    text.parse().map_or_else(|_| Domain::Name(name(text)), Domain::Literal)
}

/// An authority, root or not.
pub(crate) struct Ca {
    pub(crate) certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    pub(crate) fn root(name: &str) -> Self {
        let (params, key) = ca_params(name);
        let certificate = params.self_signed(&key).unwrap().into();
        Self { certificate, issuer: Issuer::new(params, key) }
    }

    /// An authority that this one vouches for.
    pub(crate) fn intermediate(&self, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let (mut params, key) = ca_params("Intermediate");
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).unwrap().into();
        Self { certificate, issuer: Issuer::new(params, key) }
    }

    pub(crate) fn roots(&self) -> Roots {
        let mut roots = Roots::default();
        roots.add(&self.certificate).unwrap();
        roots
    }

    /// A certificate for a server, signed by this authority; nobody keeps its key.
    pub(crate) fn leaf(&self, params: &CertificateParams) -> CertificateDer<'static> {
        params.signed_by(&KeyPair::generate().unwrap(), &self.issuer).unwrap().into()
    }
}

fn ca_params(name: &str) -> (CertificateParams, KeyPair) {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    (params, KeyPair::generate().unwrap())
}

/// What a good server's certificate has, valid during 2026.
pub(crate) fn leaf_params(dns_names: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "server");
    params.subject_alt_names =
        dns_names.iter().map(|name| SanType::DnsName((*name).try_into().unwrap())).collect();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.not_before = date_time_ymd(2026, 1, 1);
    params.not_after = date_time_ymd(2027, 1, 1);
    params
}

pub(crate) fn self_signed(params: &CertificateParams) -> CertificateDer<'static> {
    params.self_signed(&KeyPair::generate().unwrap()).unwrap().into()
}

/// What a peer with this chain shows, asked for `name`.
pub(crate) fn shown(chain: Vec<CertificateDer<'static>>, name: &str) -> ObservedTls {
    let version = TlsVersion::Tls13;
    let server_name = host(name);
    ObservedTls {
        chain: chain.into(),
        possession_proven: true,
        version,
        group: None,
        server_name,
        offers_require_tls: false,
    }
}

pub(crate) fn observed(chain: Vec<CertificateDer<'static>>, name: &str) -> Observed {
    Observed::Tls(shown(chain, name))
}

/// The name of a failure's variant, for tables.
pub(crate) fn variant(failure: &crate::TlsFailure) -> String {
    let text = format!("{failure:?}");
    text.split(' ').next().unwrap_or_default().to_owned()
}
