//! TLS sessions that may be taken up again, and what is known of the handshakes they come from.
//!
//! A resumed handshake shows the chain of the first one and proves nothing anew: that both sides
//! know the secret means that the peer is the one of the first handshake. So all hangs on what that
//! one proved. A [`SessionFamily`] is one full handshake and the sessions that descend from it; it
//! is used by one handshake at a time, and only a family whose peer has proved that it has its
//! certificate's key is ever put back. The chain itself is judged by `policy::AuthorizedMx::admit`
//! as that of a new session is, at its own time.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use moka::sync::Cache;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{
    ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue,
};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, NamedGroup, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::time::Instant;

use crate::connect::PoolKey;
use crate::lock::lock;

/// Our choice: hosts whose sessions are kept. A hostile host can make each session some 100 KiB.
const HOSTS_MAX: u64 = 256;
/// Our choice: sessions of one host; connections to it end one by one.
const FAMILIES_MAX: usize = 4;
/// Our choice: no proof of a key is relied on for longer. RFC 8446 §4.6.1 allows seven days.
const FAMILY_AGE_MAX: Duration = Duration::from_secs(12 * 60 * 60);
/// Our choice: what nobody took up by then is not likely to be.
const UNUSED_MAX: Duration = Duration::from_secs(60 * 60);

/// One full handshake and its descendants.
#[derive(Debug)]
pub(super) struct SessionFamily {
    /// To shake hands with.
    pub(super) config: Arc<ClientConfig>,
    recorder: Arc<Recorder>,
    since: Instant,
}

impl SessionFamily {
    /// A family of its own, by `template`.
    pub(super) fn new(template: &ClientConfig, algorithms: WebPkiSupportedAlgorithms) -> Self {
        let recorder = Arc::new(Recorder { algorithms, proven: AtomicBool::new(false) });
        let mut config = template.clone();
        config.dangerous().set_certificate_verifier(Arc::clone(&recorder) as _);
        config.resumption = Resumption::store(Arc::new(OneSession::default()));
        Self { config: Arc::new(config), recorder, since: Instant::now() }
    }

    /// A full handshake was made: its proof is a new one.
    pub(super) fn renew(&mut self) {
        self.since = Instant::now();
    }

    /// Did the peer prove in this handshake, or in the full one that it descends from, that the key
    /// is its own?
    pub(super) fn is_proven(&self) -> bool {
        self.recorder.proven.load(Ordering::Acquire)
    }
}

/// Whose sessions they are: of one destination, made with one kind of ClientHello.
pub(super) type StockKey = (PoolKey, Hello);

/// Which key exchanges a ClientHello offers.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Hello {
    /// Also the post-quantum ones, which make it larger than one packet.
    Large,
    /// Only those that every peer has met before.
    Small,
}

/// The families at rest.
#[derive(Clone, Debug)]
pub(super) struct Stock {
    families: Cache<StockKey, Arc<Mutex<Vec<SessionFamily>>>>,
}

impl Default for Stock {
    fn default() -> Self {
        let families = Cache::builder().max_capacity(HOSTS_MAX).time_to_idle(UNUSED_MAX).build();
        Self { families }
    }
}

impl Stock {
    /// A family for the next handshake, which then has it alone.
    pub(super) fn take(&self, key: &StockKey) -> Option<SessionFamily> {
        let families = self.families.get(key)?;
        let mut families = lock(&families);
        families.retain(|family| family.since.elapsed() < FAMILY_AGE_MAX);
        families.pop()
    }

    /// Keeps a family for later if it is worth it.
    pub(super) fn put(&self, key: &StockKey, family: SessionFamily) {
        if !family.is_proven() {
            return;
        }
        let families = self.families.get_with_by_ref(key, Arc::default);
        let mut families = lock(&families);
        if families.len() >= FAMILIES_MAX {
            families.remove(0);
        }
        families.push(family);
    }

    /// Forgets the sessions with one destination: the next handshake with it is a full one.
    pub(super) fn forget(&self, key: &PoolKey) {
        for hello in [Hello::Large, Hello::Small] {
            self.families.invalidate(&(key.clone(), hello));
        }
    }
}

/// The last session of a family; a peer that hands out many gains nothing.
#[derive(Default)]
struct OneSession(Mutex<KeptSession>);

#[derive(Default)]
struct KeptSession {
    group: Option<NamedGroup>,
    tls12: Option<Tls12ClientSessionValue>,
    tls13: Option<Tls13ClientSessionValue>,
}

impl fmt::Debug for OneSession {
    /// Only the name: tickets and secrets do not belong in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OneSession")
    }
}

/// A family has one destination, so the name says nothing more.
impl ClientSessionStore for OneSession {
    fn set_kx_hint(&self, _name: ServerName<'static>, group: NamedGroup) {
        lock(&self.0).group = Some(group);
    }

    fn kx_hint(&self, _name: &ServerName<'_>) -> Option<NamedGroup> {
        lock(&self.0).group
    }

    fn set_tls12_session(&self, _name: ServerName<'static>, value: Tls12ClientSessionValue) {
        lock(&self.0).tls12 = Some(value);
    }

    fn tls12_session(&self, _name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        lock(&self.0).tls12.clone()
    }

    fn remove_tls12_session(&self, _name: &ServerName<'static>) {
        lock(&self.0).tls12 = None;
    }

    fn insert_tls13_ticket(&self, _name: ServerName<'static>, value: Tls13ClientSessionValue) {
        lock(&self.0).tls13 = Some(value);
    }

    fn take_tls13_ticket(&self, _name: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        lock(&self.0).tls13.take()
    }
}

/// Lets every certificate pass and remembers whether the peer signed the handshake with its key.
#[derive(Debug)]
pub(super) struct Recorder {
    algorithms: WebPkiSupportedAlgorithms,
    proven: AtomicBool,
}

impl Recorder {
    /// For a template that never shakes hands itself.
    pub(super) fn of_template(algorithms: WebPkiSupportedAlgorithms) -> Self {
        Self { algorithms, proven: AtomicBool::new(false) }
    }

    /// A signature that does not hold, or cannot be checked since the certificate is too odd to be
    /// read, proves nothing; it is no reason to go without encryption.
    fn record(&self, signature: &Result<HandshakeSignatureValid, rustls::Error>) {
        self.proven.store(signature.is_ok(), Ordering::Release);
    }
}

impl ServerCertVerifier for Recorder {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        // A certificate means a full handshake: what an earlier one proved counts no more.
        self.proven.store(false, Ordering::Release);
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.record(&verify_tls12_signature(message, cert, dss, &self.algorithms));
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.record(&verify_tls13_signature(message, cert, dss, &self.algorithms));
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
