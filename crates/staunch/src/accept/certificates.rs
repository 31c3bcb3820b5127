//! The certificates that clients are shown, kept up to date with their files.
//!
//! Files are looked at every minute and at each reload. What cannot be read leaves the certificate
//! before in use: half of a renewal is not the end of TLS.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rustls::ServerConfig;
use rustls::sign::SingleCertAndKey;
use tokio_util::sync::CancellationToken;

use crate::accept::facts::AcceptFact;
use crate::accept::identity::{self, LoadedIdentity};
use crate::clock;
use crate::config::TlsIdentity;
use crate::lock::lock;

/// How often files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// A certificate that ends this soon should have been renewed: those with a long life ...
const EXPIRY_WARNING: SignedDuration = SignedDuration::from_hours(14 * 24);
/// ... and those with a short one, in parts of it.
const EXPIRY_WARNING_PART: i32 = 6;
/// That is said again after this time.
const WARN_AGAIN: SignedDuration = SignedDuration::from_hours(24);

/// Every certificate in use, by its files.
#[derive(Debug, Default)]
pub(super) struct Certificates {
    used: Mutex<BTreeMap<TlsIdentity, Arc<Certificate>>>,
}

impl Certificates {
    /// The certificate in these files, read if nobody uses it yet.
    pub(super) fn of(&self, identity: &TlsIdentity) -> Arc<Certificate> {
        let mut used = lock(&self.used);
        let found = used.entry(identity.clone());
        Arc::clone(found.or_insert_with(|| Arc::new(Certificate::read(identity.clone()))))
    }

    /// Forgets those that nobody uses any more, and looks at the files of the others.
    pub(super) fn look(&self) {
        let used: Vec<_> = {
            let mut used = lock(&self.used);
            used.retain(|_, certificate| Arc::strong_count(certificate) > 1);
            used.values().cloned().collect()
        };
        for certificate in used {
            certificate.look(clock::now());
        }
    }

    /// Looks at intervals until `stop`.
    pub(super) async fn watch(self: Arc<Self>, stop: CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await.is_some() {
            let certificates = Arc::clone(&self);
            let looked = tokio::task::spawn_blocking(move || certificates.look()).await;
            if looked.is_err() {
                AcceptFact::CertificatesPanicked.tell();
            }
        }
    }
}

/// A certificate as clients see it, and its files.
#[derive(Debug)]
pub(super) struct Certificate {
    identity: TlsIdentity,
    state: Mutex<CertificateState>,
}

#[derive(Debug)]
struct CertificateState {
    /// None: its files could never be read.
    shown: Option<ShownCertificate>,
    /// The files when they were last read.
    files: Files,
    trouble: CertificateTrouble,
    warned_at: Option<Timestamp>,
}

#[derive(Debug)]
struct ShownCertificate {
    config: Arc<ServerConfig>,
    expires_at: Timestamp,
    /// From when on its end is said to be near.
    warn_from: Timestamp,
}

/// Are the files of use?
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum CertificateTrouble {
    None,
    /// No. Perhaps they are being replaced one after the other.
    Seen,
    /// No, and somebody was told.
    Told,
}

/// What tells whether files have changed.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Files([Option<FileState>; 2]);

/// Inode, size in octets, seconds and nanoseconds of the last change.
type FileState = (u64, u64, i64, i64);

impl Files {
    fn of(identity: &TlsIdentity) -> Self {
        let state = |path: &Path| {
            let file = std::fs::metadata(path).ok()?;
            Some((file.ino(), file.size(), file.mtime(), file.mtime_nsec()))
        };
        Self([state(&identity.certificate), state(&identity.key)])
    }
}

impl Certificate {
    fn read(identity: TlsIdentity) -> Self {
        let files = Files::of(&identity);
        let loaded = load(&identity);
        let trouble =
            if loaded.is_err() { CertificateTrouble::Told } else { CertificateTrouble::None };
        let shown = loaded.map_err(|text| raise_unusable(&text, None)).ok();
        let state = CertificateState { shown, files, trouble, warned_at: None };
        let certificate = Self { identity, state: Mutex::new(state) };
        certificate.look(clock::now());
        certificate
    }

    /// What the next client is shown; none if the files could never be read.
    pub(super) fn shown(&self) -> Option<Arc<ServerConfig>> {
        let state = lock(&self.state);
        state.shown.as_ref().map(|shown| Arc::clone(&shown.config))
    }

    /// Reads the files again if they have changed or were of no use; says what somebody should do.
    fn look(&self, now: Timestamp) {
        let files = Files::of(&self.identity);
        let mut state = lock(&self.state);
        if files != state.files || state.trouble != CertificateTrouble::None {
            match load(&self.identity) {
                Ok(shown) => {
                    let file = &self.identity.certificate;
                    AcceptFact::CertificateLoaded { file, expires_at: shown.expires_at }.tell();
                    let (shown, trouble) = (Some(shown), CertificateTrouble::None);
                    *state = CertificateState { shown, files, trouble, warned_at: None };
                }
                Err(text) => state.keep(&text, files),
            }
        }
        state.warn_of_expiry(now, &self.identity);
    }
}

impl CertificateState {
    fn keep(&mut self, text: &str, files: Files) {
        let is_same = self.files == files;
        self.files = files;
        self.trouble = match self.trouble {
            CertificateTrouble::Told if is_same => CertificateTrouble::Told,
            CertificateTrouble::Seen => {
                raise_unusable(text, self.shown.as_ref());
                CertificateTrouble::Told
            }
            CertificateTrouble::None | CertificateTrouble::Told => CertificateTrouble::Seen,
        };
    }

    fn warn_of_expiry(&mut self, now: Timestamp, identity: &TlsIdentity) {
        let Some(shown) = &self.shown else { return };
        let is_fresh = |at| now.duration_since(at) < WARN_AGAIN;
        if now < shown.warn_from || self.warned_at.is_some_and(is_fresh) {
            return;
        }
        self.warned_at = Some(now);
        let file = &identity.certificate;
        AcceptFact::CertificateExpiring { file, expires_at: shown.expires_at }.tell();
    }
}

fn raise_unusable(text: &str, shown: Option<&ShownCertificate>) {
    let instead = match shown {
        Some(_) => "the one before is still shown",
        None => "its listeners offer no TLS",
    };
    AcceptFact::CertificateUnusable { text, instead }.tell();
}

/// # Errors
///
/// The text of what is wrong.
fn load(identity: &TlsIdentity) -> Result<ShownCertificate, String> {
    let LoadedIdentity { certified, issued_at, expires_at } =
        identity::load(identity).map_err(|error| error.to_string())?;
    let config = ServerConfig::builder_with_provider(Arc::new(identity::provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    let ahead = (expires_at.duration_since(issued_at) / EXPIRY_WARNING_PART).min(EXPIRY_WARNING);
    let warn_from = expires_at.checked_sub(ahead).unwrap_or(Timestamp::MIN);
    Ok(ShownCertificate { config: Arc::new(config), expires_at, warn_from })
}

#[cfg(test)]
mod tests {
    use std::fs::write;

    use tempfile::TempDir;

    use super::*;

    fn pair() -> (String, String) {
        let mut params = rcgen::CertificateParams::new(["relay.test".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        params.not_after = rcgen::date_time_ymd(2026, 3, 1);
        let key = rcgen::KeyPair::generate().unwrap();
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    fn in_files((certificate, key): &(String, String)) -> (TempDir, TlsIdentity) {
        let dir = tempfile::tempdir().unwrap();
        let identity =
            TlsIdentity { certificate: dir.path().join("cert"), key: dir.path().join("key") };
        write(&identity.certificate, certificate).unwrap();
        write(&identity.key, key).unwrap();
        (dir, identity)
    }

    fn shown(certificate: &Certificate) -> Arc<ServerConfig> {
        certificate.shown().unwrap()
    }

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    #[test]
    fn a_changed_pair_is_shown_and_half_of_one_is_not() {
        let (first, second) = (pair(), pair());
        let (_dir, identity) = in_files(&first);
        let certificate = Certificate::read(identity.clone());
        let before = shown(&certificate);
        certificate.look(NOW);
        assert!(Arc::ptr_eq(&before, &shown(&certificate)), "nothing has changed");

        write(&identity.certificate, &second.0).unwrap();
        certificate.look(NOW);
        assert!(Arc::ptr_eq(&before, &shown(&certificate)), "the key is still the other's");
        assert_eq!(certificate.state.lock().unwrap().trouble, CertificateTrouble::Seen);
        certificate.look(NOW);
        assert_eq!(certificate.state.lock().unwrap().trouble, CertificateTrouble::Told);

        write(&identity.key, &second.1).unwrap();
        certificate.look(NOW);
        assert!(!Arc::ptr_eq(&before, &shown(&certificate)));
        assert_eq!(certificate.state.lock().unwrap().trouble, CertificateTrouble::None);
    }

    #[test]
    fn what_could_never_be_read_is_shown_once_it_can() {
        let files = pair();
        let (_dir, identity) = in_files(&files);
        std::fs::remove_file(&identity.key).unwrap();
        let certificate = Certificate::read(identity.clone());
        assert!(certificate.shown().is_none());
        write(&identity.key, &files.1).unwrap();
        certificate.look(NOW);
        assert!(certificate.shown().is_some());
    }

    #[test]
    fn an_end_that_is_near_is_said_once_a_day() {
        let (_dir, identity) = in_files(&pair());
        let certificate = Certificate::read(identity);
        let warned_at = |now: &str| {
            certificate.look(now.parse().unwrap());
            certificate.state.lock().unwrap().warned_at.map(|at| at.to_string())
        };
        certificate.state.lock().unwrap().warned_at = None;
        // Of 59 days the last sixth is a little less than ten.
        assert_eq!(warned_at("2026-02-19T00:00:00Z"), None);
        let first = Some("2026-02-20T00:00:00Z".to_owned());
        assert_eq!(warned_at("2026-02-20T00:00:00Z"), first);
        assert_eq!(warned_at("2026-02-20T23:00:00Z"), first);
        let later = Some("2026-03-02T00:00:00Z".to_owned());
        assert_eq!(warned_at("2026-03-02T00:00:00Z"), later);
    }

    #[test]
    fn a_certificate_is_kept_for_as_long_as_somebody_uses_it() {
        let (_dir, identity) = in_files(&pair());
        let certificates = Certificates::default();
        let used = certificates.of(&identity);
        certificates.look();
        assert!(Arc::ptr_eq(&used, &certificates.of(&identity)));
        drop(used);
        certificates.look();
        assert!(certificates.used.lock().unwrap().is_empty());
    }
}
