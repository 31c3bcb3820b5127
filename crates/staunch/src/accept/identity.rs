//! Who we are to clients under TLS: a certificate chain and its key, read from PEM files.
//!
//! Not here: whose certificates we believe (`tls`, `policy`), and when files are read again
//! (`accept::certificates`).

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::{self, PemObject as _};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::config::TlsIdentity;
use crate::regular_file;

/// Our choice: over ten times the largest chain with the largest key.
const PEM_BYTES_MAX: u64 = 1 << 20;

/// What the files of an [`TlsIdentity`] say.
#[derive(Debug)]
pub(crate) struct LoadedIdentity {
    /// The chain and its key, which belong together.
    pub(crate) certified: CertifiedKey,
    /// When our certificate begins to hold.
    pub(crate) issued_at: Timestamp,
    /// When our certificate ends to hold (notAfter).
    pub(crate) expires_at: Timestamp,
}

/// Which of the two files is at fault.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum IdentityPart {
    /// The file in `tls_certificate`: it, or the certificates in it.
    Certificate,
    /// The file in `tls_key`: it, or a key that does not fit the certificate.
    Key,
}

impl IdentityPart {
    /// The key of the configuration.
    pub(crate) fn key(self) -> &'static str {
        match self {
            Self::Certificate => "tls_certificate",
            Self::Key => "tls_key",
        }
    }
}

/// Why an identity cannot be used: which file, and what would help.
#[derive(Debug, thiserror::Error)]
#[error("{:?}: {fault}", path.display().to_string())]
pub(crate) struct IdentityError {
    /// Which of the two it is.
    pub(crate) part: IdentityPart,
    path: PathBuf,
    fault: IdentityFault,
}

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
enum IdentityFault {
    #[error("{0}; staunch must be able to read it as the user that it runs as")]
    Unreadable(#[source] io::Error),
    #[error("over {PEM_BYTES_MAX} bytes: not a file of certificates or keys")]
    TooLong,
    #[error("no certificate in PEM form in it")]
    NoCertificate,
    #[error("no private key in PEM form in it")]
    NoKey,
    #[error("its key is encrypted, or not of a kind that can be used: {0}")]
    BadKey(rustls::Error),
    #[error("damaged PEM: {0}")]
    Pem(pem::Error),
    #[error("its first certificate cannot be read")]
    BadCertificate,
    #[error("not the key of the first certificate in tls_certificate: name the files of one pair")]
    Mismatch,
}

/// Reads both files.
///
/// # Errors
///
/// [`IdentityError`].
pub(crate) fn load(identity: &TlsIdentity) -> Result<LoadedIdentity, IdentityError> {
    let TlsIdentity { certificate, key } = identity;
    let failed = |part, path: &PathBuf| {
        let path = path.clone();
        move |fault| IdentityError { part, path, fault }
    };
    let CertificateChain { chain, issued_at, expires_at } =
        read_chain(certificate).map_err(failed(IdentityPart::Certificate, certificate))?;
    let certified = read_key(key)
        .and_then(|key| CertifiedKey::from_der(chain, key, &provider()).map_err(Into::into))
        .map_err(failed(IdentityPart::Key, key))?;
    Ok(LoadedIdentity { certified, issued_at, expires_at })
}

/// The cryptography of our side of inbound TLS.
pub(crate) fn provider() -> CryptoProvider {
    rustls::crypto::aws_lc_rs::default_provider()
}

impl From<rustls::Error> for IdentityFault {
    /// What is wrong with a key beside its certificate.
    #[expect(clippy::wildcard_enum_match_arm, reason = "rustls's enum, which may grow")]
    fn from(error: rustls::Error) -> Self {
        match error {
            rustls::Error::InconsistentKeys(_) => Self::Mismatch,
            other => Self::BadKey(other),
        }
    }
}

struct CertificateChain {
    chain: Vec<CertificateDer<'static>>,
    issued_at: Timestamp,
    expires_at: Timestamp,
}

fn read_chain(path: &Path) -> Result<CertificateChain, IdentityFault> {
    let text = read(path)?;
    let chain = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<Vec<_>, _>>()
        .map_err(IdentityFault::Pem)?;
    let first = chain.first().ok_or(IdentityFault::NoCertificate)?;
    let (_, parsed) =
        x509_parser::parse_x509_certificate(first).map_err(|_| IdentityFault::BadCertificate)?;
    let validity = parsed.validity();
    let issued_at =
        Timestamp::from_second(validity.not_before.timestamp()).unwrap_or(Timestamp::MIN);
    let expires_at =
        Timestamp::from_second(validity.not_after.timestamp()).unwrap_or(Timestamp::MAX);
    Ok(CertificateChain { chain, issued_at, expires_at })
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the library's enum, which may grow")]
fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, IdentityFault> {
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|error| match error {
        pem::Error::NoItemsFound => IdentityFault::NoKey,
        other => IdentityFault::Pem(other),
    })
}

fn read(path: &Path) -> Result<Vec<u8>, IdentityFault> {
    let mut text = Vec::new();
    let file = regular_file::open(path).map_err(IdentityFault::Unreadable)?;
    file.take(PEM_BYTES_MAX + 1).read_to_end(&mut text).map_err(IdentityFault::Unreadable)?;
    let is_short = u64::try_from(text.len()).is_ok_and(|length| length <= PEM_BYTES_MAX);
    if is_short { Ok(text) } else { Err(IdentityFault::TooLong) }
}

#[cfg(test)]
mod tests {
    use std::fs::write;

    use super::*;

    fn pair(name: &str) -> (String, String) {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    #[test]
    fn a_pair_is_read_and_what_is_none_is_named_with_a_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let (certificate, key) = pair("relay.test");
        let (other_certificate, other_key) = pair("other.test");
        write(at("cert"), &certificate).unwrap();
        write(at("chain"), format!("{certificate}{other_certificate}")).unwrap();
        write(at("key"), &key).unwrap();
        write(at("both"), format!("{certificate}{key}")).unwrap();
        write(at("other"), &other_key).unwrap();
        write(at("empty"), "").unwrap();
        write(at("damaged"), "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----").unwrap();
        let cases = [
            ("cert", "key", None),
            ("chain", "key", None),
            ("both", "both", None),
            ("none", "key", Some((IdentityPart::Certificate, "No such file"))),
            ("cert", "none", Some((IdentityPart::Key, "as the user that it runs as"))),
            ("empty", "key", Some((IdentityPart::Certificate, "no certificate in PEM form"))),
            ("damaged", "key", Some((IdentityPart::Certificate, "damaged PEM"))),
            ("cert", "empty", Some((IdentityPart::Key, "no private key in PEM form"))),
            ("cert", "cert", Some((IdentityPart::Key, "no private key in PEM form"))),
            ("cert", "other", Some((IdentityPart::Key, "not the key of the first certificate"))),
        ];
        for (certificate, key, want) in cases {
            let identity = TlsIdentity { certificate: at(certificate), key: at(key) };
            let got = load(&identity);
            match (got, want) {
                (Ok(loaded), None) => assert!(loaded.expires_at > Timestamp::UNIX_EPOCH),
                (Err(error), Some((part, text))) => {
                    assert_eq!(error.part, part, "{error}");
                    let text = (text, error.to_string());
                    assert!(text.1.contains(text.0), "{text:?}");
                }
                (got, want) => panic!("{certificate} {key}: {got:?}, not {want:?}"),
            }
        }
    }
}
