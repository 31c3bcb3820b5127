//! Real certificates, judged by the program itself; the judgement about each kind is kept, since it
//! hangs on nothing else here.

use std::collections::HashMap;

use jiff::Timestamp;
use policy::{Asked, AuthorizedMx, Observed, ObservedTls, Roots, TlsVersion};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use rustls_pki_types::CertificateDer;
use smtp::{Domain, HostName};

use crate::world::Shown;

/// An authority of the world, one of the attacker's, and what they vouched for.
pub(crate) struct Certificates {
    roots: Roots,
    trusted: CertifiedIssuer<'static, KeyPair>,
    untrusted: CertifiedIssuer<'static, KeyPair>,
    made: HashMap<(HostName, Shown), Observed>,
    judged: HashMap<(HostName, Shown, Asked), bool>,
}

impl Certificates {
    pub(crate) fn new() -> Self {
        let trusted = authority("Trusted");
        let mut roots = Roots::default();
        roots.add(trusted.der()).unwrap();
        Self {
            roots,
            trusted,
            untrusted: authority("Untrusted"),
            made: HashMap::new(),
            judged: HashMap::new(),
        }
    }

    /// May mail go over a connection to `mx` that shows this?
    pub(crate) fn admits(
        &mut self,
        mx: AuthorizedMx,
        (host, shown): (&HostName, Shown),
        asked: &Asked,
        now: Timestamp,
    ) -> bool {
        let key = (host.clone(), shown, asked.clone());
        if let Some(known) = self.judged.get(&key) {
            return *known;
        }
        let observed = self.observed(host, shown);
        let admitted = mx.admit((), &observed, &self.roots, now).is_ok();
        self.judged.insert(key, admitted);
        admitted
    }

    fn observed(&mut self, host: &HostName, shown: Shown) -> Observed {
        let key = (host.clone(), shown);
        if let Some(made) = self.made.get(&key) {
            return made.clone();
        }
        let observed = match shown {
            Shown::Plain => Observed::Plain,
            Shown::Good => tls(host, leaf(host.as_str(), &self.trusted)),
            Shown::Untrusted => tls(host, leaf(host.as_str(), &self.untrusted)),
            Shown::OtherName => tls(host, leaf("mx.evil.test", &self.trusted)),
        };
        self.made.insert(key, observed.clone());
        observed
    }
}

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    (params.not_before, params.not_after) = (date_time_ymd(2000, 1, 1), date_time_ymd(2100, 1, 1));
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn leaf(name: &str, by: &CertifiedIssuer<'static, KeyPair>) -> CertificateDer<'static> {
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    (params.not_before, params.not_after) = (date_time_ymd(2000, 1, 1), date_time_ymd(2100, 1, 1));
    params.signed_by(&KeyPair::generate().unwrap(), by).unwrap().into()
}

fn tls(host: &HostName, certificate: CertificateDer<'static>) -> Observed {
    Observed::Tls(ObservedTls {
        chain: vec![certificate].into(),
        possession_proven: true,
        version: TlsVersion::Tls13,
        group: None,
        server_name: Domain::Name(host.clone()),
        offers_require_tls: false,
    })
}
