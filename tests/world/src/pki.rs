//! Certificates: a CA the daemon is told to trust, one that nobody trusts, and leaves with every
//! flaw.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, date_time_ymd,
};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;

use crate::base64;

/// Both CAs of a world.
#[derive(Debug)]
pub struct Pki {
    trusted: CertifiedIssuer<'static, KeyPair>,
    untrusted: CertifiedIssuer<'static, KeyPair>,
    ca_file: PathBuf,
}

/// Who signs a leaf.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Signer {
    Trusted,
    Untrusted,
    Itself,
}

/// When a leaf is valid.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Validity {
    Now,
    Past,
    Future,
}

/// What a leaf certificate shall say. Starts as a good one; each method spoils one thing.
#[derive(Clone, Debug)]
pub struct Leaf {
    names: Vec<String>,
    common_name: String,
    validity: Validity,
    signer: Signer,
    usage: ExtendedKeyUsagePurpose,
}

impl Leaf {
    /// A good certificate for one DNS name (`*.example.test` is a wildcard).
    pub fn named(name: &str) -> Self {
        Self {
            names: vec![name.to_owned()],
            common_name: name.to_owned(),
            validity: Validity::Now,
            signer: Signer::Trusted,
            usage: ExtendedKeyUsagePurpose::ServerAuth,
        }
    }

    /// Also valid for `name`.
    pub fn and(mut self, name: &str) -> Self {
        self.names.push(name.to_owned());
        self
    }

    /// The name stands in the subject's common name only: no subjectAltName at all.
    pub fn common_name_only(mut self) -> Self {
        self.names.clear();
        self
    }

    /// Its time is over.
    pub fn expired(mut self) -> Self {
        self.validity = Validity::Past;
        self
    }

    /// Its time has not come.
    pub fn not_yet_valid(mut self) -> Self {
        self.validity = Validity::Future;
        self
    }

    /// Signed by its own key.
    pub fn self_signed(mut self) -> Self {
        self.signer = Signer::Itself;
        self
    }

    /// Signed by a CA that nobody trusts.
    pub fn untrusted(mut self) -> Self {
        self.signer = Signer::Untrusted;
        self
    }

    /// Good for clients only (extended key usage).
    pub fn for_clients(mut self) -> Self {
        self.usage = ExtendedKeyUsagePurpose::ClientAuth;
        self
    }

    fn params(&self) -> CertificateParams {
        let mut params = CertificateParams::new(self.names.clone()).expect("DNS names");
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, self.common_name.as_str());
        (params.not_before, params.not_after) = match self.validity {
            Validity::Now => (date_time_ymd(2020, 1, 1), date_time_ymd(2120, 1, 1)),
            Validity::Past => (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1)),
            Validity::Future => (date_time_ymd(2119, 1, 1), date_time_ymd(2120, 1, 1)),
        };
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![self.usage.clone()];
        params
    }
}

/// A certificate chain and the key a server uses with it.
#[derive(Clone, Debug)]
pub struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: Arc<KeyPair>,
}

impl Identity {
    /// The same chain as seen on the wire, without its private key: what somebody who is not the
    /// certificate's owner can present.
    pub fn replayed(&self) -> Self {
        Self { chain: self.chain.clone(), key: Arc::new(new_key()) }
    }

    /// Writes chain and key as PEM for a server that reads files.
    pub fn write_pem(&self, chain_file: &Path, key_file: &Path) {
        let chain: String = self.chain.iter().map(|der| pem("CERTIFICATE", der)).collect();
        std::fs::write(chain_file, chain).expect("write chain");
        std::fs::write(key_file, self.key.serialize_pem()).expect("write key");
    }

    /// Whether this is the very same chain and key.
    pub(crate) fn is(&self, other: &Self) -> bool {
        self.chain == other.chain && Arc::ptr_eq(&self.key, &other.key)
    }

    /// The leaf certificate, DER.
    pub fn certificate(&self) -> &[u8] {
        self.chain.first().expect("a leaf")
    }

    /// Chain and key as rustls wants them; whether they belong together is not asked.
    pub(crate) fn certified_key(&self) -> Arc<CertifiedKey> {
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.serialize_der()));
        let key = aws_lc_rs::sign::any_ecdsa_type(&der).expect("an ECDSA key");
        Arc::new(CertifiedKey::new(self.chain.clone(), key))
    }
}

/// A certificate chain and its key as files.
#[derive(Clone, Debug)]
pub struct KeyFiles {
    /// The chain, PEM.
    pub certificate: PathBuf,
    /// The key, PEM.
    pub key: PathBuf,
}

impl KeyFiles {
    /// The two keys of a `[[listener]]`.
    pub fn toml(&self) -> String {
        format!(
            "tls_certificate = \"{}\"\ntls_key = \"{}\"\n",
            self.certificate.display(),
            self.key.display()
        )
    }

    /// Writes another certificate in its place, each file at once.
    pub fn replace(&self, identity: &Identity) {
        let certificate = self.certificate.with_extension("pem.new");
        let key = self.key.with_extension("key.new");
        identity.write_pem(&certificate, &key);
        std::fs::rename(certificate, &self.certificate).expect("replace the chain");
        std::fs::rename(key, &self.key).expect("replace the key");
    }
}

impl Pki {
    /// Makes both CAs and writes the trusted one to `dir`.
    pub(crate) fn create(dir: &Path) -> Self {
        let trusted = authority("World trusted CA");
        let ca_file = dir.join("ca.pem");
        std::fs::write(&ca_file, trusted.pem()).expect("write ca.pem");
        Self { trusted, untrusted: authority("World untrusted CA"), ca_file }
    }

    /// The PEM file with the trusted CA, for `tls.ca_file` and `mta_sts.ca_file`.
    pub fn ca_file(&self) -> &Path {
        &self.ca_file
    }

    /// Issues a leaf with a fresh ECDSA P-256 key.
    pub fn issue(&self, leaf: &Leaf) -> Identity {
        let key = new_key();
        let params = leaf.params();
        let certificate = match leaf.signer {
            Signer::Trusted => params.signed_by(&key, &self.trusted),
            Signer::Untrusted => params.signed_by(&key, &self.untrusted),
            Signer::Itself => params.self_signed(&key),
        }
        .expect("sign a leaf");
        Identity { chain: vec![certificate.der().clone()], key: Arc::new(key) }
    }
}

fn new_key() -> KeyPair {
    KeyPair::generate().expect("an ECDSA P-256 key")
}

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2120, 1, 1);
    CertifiedIssuer::self_signed(params, new_key()).expect("a CA")
}

/// RFC 7468 text of one DER object.
fn pem(label: &str, der: &[u8]) -> String {
    let text = base64::encode(der);
    let lines: Vec<&str> =
        (0..text.len()).step_by(64).map(|at| &text[at..text.len().min(at + 64)]).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}
