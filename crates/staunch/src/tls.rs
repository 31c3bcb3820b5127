//! TLS towards MX hosts: the handshake, and evidence of what it showed.
//!
//! Nothing is judged here. The verifier lets every certificate pass, checks the signature by which the
//! peer proves that it has the key, and remembers whether it held; `policy::AuthorizedMx::admit` alone
//! says what that is worth. So opportunistic TLS works with every certificate (RFC 7435 §3), and no
//! way leads around the judgement where one is due.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use policy::{BadRoot, ObservedTls, Roots, TlsVersion};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls12_signature,
    verify_tls13_signature,
};
use rustls::{
    AlertDescription, ClientConfig, DigitallySignedStruct, NamedGroup, PeerIncompatible,
    ProtocolVersion, SignatureScheme, SupportedProtocolVersion, version,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use smtp::{Domain, RemoteText};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tracing::warn;

use crate::config::{MinVersion, Tls};

/// Why TLS cannot be used at all with this configuration.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsSetupError {
    /// The provider does not know what was asked of it.
    #[error("tls: {0}")]
    Provider(#[from] rustls::Error),
    /// `tls.ca_file` cannot be read.
    #[error("tls.ca_file: {path}: {source}")]
    CaFile {
        /// Its path.
        path: String,
        /// What is wrong.
        #[source]
        source: rustls_pki_types::pem::Error,
    },
    /// A certificate in `tls.ca_file` is not one.
    #[error("tls.ca_file: {path}: {source}")]
    CaCertificate {
        /// Its path.
        path: String,
        /// What is wrong.
        #[source]
        source: BadRoot,
    },
    /// `tls.ca_file` has no certificate.
    #[error("tls.ca_file: {0}: no certificate in it")]
    CaEmpty(String),
}

/// Why there is no TLS session. Certificates are never the cause.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct HandshakeError(RemoteText);

impl HandshakeError {
    /// The connection is encrypted already.
    pub(crate) fn under_tls() -> Self {
        Self(RemoteText::new("TLS inside TLS is not spoken"))
    }

    /// The limit was exceeded.
    pub(crate) fn timed_out(limit: Duration) -> Self {
        Self(RemoteText::new(&format!("not finished within {} s", limit.as_secs())))
    }
}

impl From<io::Error> for HandshakeError {
    fn from(error: io::Error) -> Self {
        let cause = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        let text = match cause {
            Some(cause) if is_about_version(cause) => {
                "the peer speaks none of the TLS versions that we accept".to_owned()
            }
            Some(cause) => cause.to_string(),
            None if error.kind() == io::ErrorKind::UnexpectedEof => {
                "the peer closed the connection during the handshake".to_owned()
            }
            None => error.to_string(),
        };
        Self(RemoteText::new(&text))
    }
}

fn is_about_version(error: &rustls::Error) -> bool {
    matches!(
        error,
        rustls::Error::AlertReceived(AlertDescription::ProtocolVersion)
            | rustls::Error::PeerIncompatible(
                PeerIncompatible::ServerDoesNotSupportTls12Or13
                    | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
            )
    )
}

/// Makes TLS sessions. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct TlsClient {
    /// Copied for each session, since the verifier records one session's evidence.
    template: ClientConfig,
    algorithms: WebPkiSupportedAlgorithms,
}

impl TlsClient {
    /// TLS as the configuration says, by aws-lc-rs.
    ///
    /// # Errors
    ///
    /// [`TlsSetupError::Provider`].
    pub(crate) fn new(config: &Tls) -> Result<Self, TlsSetupError> {
        let provider = provider(config);
        let algorithms = provider.signature_verification_algorithms;
        let mut template = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(versions(config.min_version))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Recorder::new(algorithms)))
            .with_no_client_auth();
        // A resumed session shows no chain, so it could not be judged.
        template.resumption = Resumption::disabled();
        Ok(Self { template, algorithms })
    }

    /// Shakes hands over `stream`, asking for `host`.
    ///
    /// # Errors
    ///
    /// [`HandshakeError`]. There is no time limit here.
    pub(crate) async fn handshake(
        &self,
        stream: TcpStream,
        host: &Domain,
    ) -> Result<(TlsStream<TcpStream>, ObservedTls), HandshakeError> {
        let name = host.name().and_then(|name| ServerName::try_from(name.as_str().to_owned()).ok());
        let asked_for = match name {
            Some(name) => name,
            // An address, or a name that DNS knows and certificates do not: no name is asked for.
            None => ServerName::IpAddress(stream.peer_addr()?.ip().into()),
        };
        let recorder = Arc::new(Recorder::new(self.algorithms));
        let mut config = self.template.clone();
        config.dangerous().set_certificate_verifier(Arc::clone(&recorder) as _);
        let session = TlsConnector::from(Arc::new(config)).connect(asked_for, stream).await?;
        let (_, connection) = session.get_ref();
        let observed = ObservedTls {
            chain: connection.peer_certificates().unwrap_or_default().to_vec(),
            possession_proven: recorder.proven.load(Ordering::Acquire),
            version: match connection.protocol_version() {
                Some(ProtocolVersion::TLSv1_3) => TlsVersion::Tls13,
                _ => TlsVersion::Tls12,
            },
            group: connection
                .negotiated_key_exchange_group()
                .and_then(|group| group.name().as_str()),
            server_name: host.clone(),
            // Nothing has been said under it yet.
            offers_require_tls: false,
        };
        Ok((session, observed))
    }
}

fn provider(config: &Tls) -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    if !config.post_quantum {
        provider.kx_groups.retain(|group| !is_post_quantum(group.name()));
    }
    provider
}

fn is_post_quantum(group: NamedGroup) -> bool {
    matches!(
        group,
        NamedGroup::X25519MLKEM768
            | NamedGroup::secp256r1MLKEM768
            | NamedGroup::MLKEM512
            | NamedGroup::MLKEM768
            | NamedGroup::MLKEM1024
    )
}

static FROM_TLS12: [&SupportedProtocolVersion; 2] = [&version::TLS13, &version::TLS12];
static FROM_TLS13: [&SupportedProtocolVersion; 1] = [&version::TLS13];

fn versions(min: MinVersion) -> &'static [&'static SupportedProtocolVersion] {
    match min {
        MinVersion::Tls12 => &FROM_TLS12,
        MinVersion::Tls13 => &FROM_TLS13,
    }
}

/// Lets every certificate pass and remembers whether the peer signed the handshake with its key.
#[derive(Debug)]
struct Recorder {
    algorithms: WebPkiSupportedAlgorithms,
    proven: AtomicBool,
}

impl Recorder {
    fn new(algorithms: WebPkiSupportedAlgorithms) -> Self {
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

/// The trust anchors for MX hosts: the system's, or those that came with the program where the system
/// has none, and those of `tls.ca_file`.
///
/// # Errors
///
/// [`TlsSetupError`] for `tls.ca_file`, which the operator named. The system's odd certificates are
/// skipped with a warning.
pub(crate) fn load_roots(config: &Tls) -> Result<Roots, TlsSetupError> {
    let mut roots = if config.system_roots { system_roots() } else { Roots::default() };
    if let Some(path) = &config.ca_file {
        let shown = || path.display().to_string();
        let file_error = |source| TlsSetupError::CaFile { path: shown(), source };
        let mut count = 0;
        for certificate in CertificateDer::pem_file_iter(path).map_err(file_error)? {
            let certificate = certificate.map_err(file_error)?;
            roots
                .add(&certificate)
                .map_err(|source| TlsSetupError::CaCertificate { path: shown(), source })?;
            count += 1;
        }
        if count == 0 {
            return Err(TlsSetupError::CaEmpty(shown()));
        }
    }
    Ok(roots)
}

fn system_roots() -> Roots {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        warn!(event = "trust_anchors", %error, "some of the system's trust anchors are unreadable");
    }
    let mut roots = Roots::default();
    let bad = found.certs.iter().filter(|certificate| roots.add(certificate).is_err()).count();
    if bad > 0 {
        warn!(event = "trust_anchors", bad, "some of the system's trust anchors are unusable");
    }
    if roots.is_empty() {
        return Roots::new(webpki_roots::TLS_SERVER_ROOTS.to_vec());
    }
    roots
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::path::PathBuf;

    use rustls::version::{TLS12, TLS13};
    use rustls_pki_types::PrivatePkcs8KeyDer;
    use smtp::HostName;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::connection::scripted::{Act, identity, play, server};

    fn settings() -> Tls {
        Tls {
            ca_file: None,
            system_roots: false,
            min_version: MinVersion::Tls12,
            post_quantum: true,
        }
    }

    fn host() -> Domain {
        Domain::Name(HostName::parse("mx.example.org").unwrap())
    }

    async fn shake(
        settings: &Tls,
        server: Arc<rustls::ServerConfig>,
    ) -> Result<(TlsStream<TcpStream>, ObservedTls), HandshakeError> {
        let (address, _peer) = play(vec![vec![Act::Tls(server), Act::HearAll]]).await;
        let stream = TcpStream::connect(address).await.unwrap();
        TlsClient::new(settings).unwrap().handshake(stream, &host()).await
    }

    #[tokio::test]
    async fn the_chain_is_recorded_and_possession_only_if_it_was_proven() {
        let (own, key) = identity();
        let (foreign, _) = identity();
        let junk = CertificateDer::from(b"not a certificate".to_vec());
        let copy = |key: &PrivatePkcs8KeyDer<'_>| {
            PrivatePkcs8KeyDer::from(key.secret_pkcs8_der().to_vec())
        };
        for version in [&TLS12, &TLS13] {
            let cases = [
                ("own", vec![own.clone()], true),
                ("own with more behind it", vec![own.clone(), foreign.clone()], true),
                ("another's", vec![foreign.clone()], false),
                ("unreadable", vec![junk.clone()], false),
            ];
            for (what, chain, want) in cases {
                let server = server(chain.clone(), copy(&key), &[version]);
                let (_stream, observed) = shake(&settings(), server).await.unwrap();
                assert_eq!(observed.possession_proven, want, "{what}, {version:?}");
                assert_eq!(observed.chain, chain, "{what}");
                assert_eq!(observed.server_name, host());
                let is_13 = version.version == ProtocolVersion::TLSv1_3;
                assert_eq!(observed.version == TlsVersion::Tls13, is_13);
            }
        }
    }

    #[tokio::test]
    async fn post_quantum_key_exchange_is_offered_unless_switched_off() {
        for post_quantum in [true, false] {
            let (own, key) = identity();
            let server = server(vec![own], key, &[&TLS13]);
            let (stream, _) = shake(&Tls { post_quantum, ..settings() }, server).await.unwrap();
            let group = stream.get_ref().1.negotiated_key_exchange_group().unwrap().name();
            assert_eq!(is_post_quantum(group), post_quantum, "{group:?}");
        }
    }

    #[tokio::test]
    async fn old_versions_are_refused_and_named() {
        let (own, key) = identity();
        let only_12 = server(vec![own], key, &[&TLS12]);
        let from_13 = Tls { min_version: MinVersion::Tls13, ..settings() };
        let error = shake(&from_13, only_12).await.unwrap_err().to_string();
        assert_eq!(error, "the peer speaks none of the TLS versions that we accept");

        // protocol_version (RFC 8446 §6), and a ServerHello of TLS 1.1 (RFC 4346 §7.4.1.3).
        let alert = vec![21, 3, 1, 0, 2, 2, 70];
        let mut hello = vec![22, 3, 2, 0, 42, 2, 0, 0, 38, 3, 2];
        hello.extend([7; 32]);
        hello.extend([0, 0, 0x2f, 0]);
        for answer in [alert, hello] {
            let error = shake_raw(answer).await.unwrap_err().to_string();
            assert_eq!(error, "the peer speaks none of the TLS versions that we accept");
        }
        let error = shake_raw(vec![21, 3, 3, 0, 2, 2, 40]).await.unwrap_err().to_string();
        assert!(error.contains("HandshakeFailure"), "{error}");
        let error = shake_raw(Vec::new()).await.unwrap_err().to_string();
        assert_eq!(error, "the peer closed the connection during the handshake");
    }

    /// A peer that answers the ClientHello with these octets and closes.
    async fn shake_raw(
        answer: Vec<u8>,
    ) -> Result<(TlsStream<TcpStream>, ObservedTls), HandshakeError> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut peer, _) = listener.accept().await.unwrap();
        let serve = async move {
            let mut hello = [0; 5];
            peer.read_exact(&mut hello).await.unwrap();
            let length = usize::from(u16::from_be_bytes([hello[3], hello[4]]));
            peer.read_exact(&mut vec![0; length]).await.unwrap();
            peer.write_all(&answer).await.unwrap();
            peer.shutdown().await.unwrap();
            let _rest = peer.read_to_end(&mut Vec::new()).await;
        };
        let client = TlsClient::new(&settings()).unwrap();
        let name = host();
        let (result, ()) = tokio::join!(client.handshake(stream, &name), serve);
        result
    }

    #[test]
    fn trust_anchors_come_from_the_named_file_or_not_at_all() {
        let (first, second) = (rcgen_pem(), rcgen_pem());
        let cases = [
            (format!("{first}text between\n{second}"), Ok(2)),
            (String::new(), Err("no certificate in it")),
            ("junk".to_owned(), Err("no certificate in it")),
            (NOT_A_CERTIFICATE.to_owned(), Err("not usable as a trust anchor")),
            ("-----BEGIN CERTIFICATE-----\nMII".to_owned(), Err("tls.ca_file")),
        ];
        assert!(load_roots(&settings()).unwrap().is_empty());
        for (text, want) in cases {
            let mut file = tempfile::NamedTempFile::new().unwrap();
            file.write_all(text.as_bytes()).unwrap();
            let roots = load_roots(&Tls { ca_file: Some(file.path().into()), ..settings() });
            match (roots, want) {
                (Ok(roots), Ok(count)) => assert_eq!(roots.len(), count),
                (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
                (roots, want) => panic!("{text:?}: {roots:?} instead of {want:?}"),
            }
        }
        let missing = Tls { ca_file: Some(PathBuf::from("/nonexistent/ca.pem")), ..settings() };
        assert!(load_roots(&missing).unwrap_err().to_string().contains("/nonexistent/ca.pem"));
        assert!(!load_roots(&Tls { system_roots: true, ..settings() }).unwrap().is_empty());
    }

    const NOT_A_CERTIFICATE: &str =
        "-----BEGIN CERTIFICATE-----\nbm90IGEgY2VydGlmaWNhdGU=\n-----END CERTIFICATE-----\n";

    fn rcgen_pem() -> String {
        rcgen::generate_simple_self_signed(vec!["ca.example.org".to_owned()]).unwrap().cert.pem()
    }
}
