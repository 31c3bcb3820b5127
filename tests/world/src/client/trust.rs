//! TLS from the client's side.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, HandshakeKind, RootCertStore,
    SignatureScheme, SupportedProtocolVersion, version,
};

use crate::pki::Pki;
use crate::scram;

/// Both TLS versions in use.
const ALL_VERSIONS: &[&SupportedProtocolVersion] = &[&version::TLS12, &version::TLS13];

/// Which servers a client believes, and the sessions it remembers: the next connection with the
/// same value takes up the last session if the server lets it.
#[derive(Clone, Debug)]
pub struct Trust(pub(super) Arc<ClientConfig>);

impl Trust {
    /// Certificates of this world's good CA, for the right name.
    pub fn in_ca(pki: &Pki) -> Self {
        Self::verifying(pki, ALL_VERSIONS)
    }

    /// The same, and nothing newer than TLS 1.2.
    pub fn in_ca_tls12(pki: &Pki) -> Self {
        Self::verifying(pki, &[&version::TLS12])
    }

    /// Every certificate.
    pub fn blind() -> Self {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .expect("the provider supports TLS 1.2 and 1.3")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anyone(provider)))
            .with_no_client_auth();
        Self(Arc::new(config))
    }

    fn verifying(pki: &Pki, versions: &[&'static SupportedProtocolVersion]) -> Self {
        let mut roots = RootCertStore::empty();
        for der in CertificateDer::pem_file_iter(pki.ca_file()).expect("the CA file") {
            roots.add(der.expect("a certificate")).expect("a root");
        }
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(versions)
            .expect("the provider supports TLS 1.2 and 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self(Arc::new(config))
    }
}

/// What a client saw of a finished handshake.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ServerSeen {
    /// `1.2` or `1.3`.
    pub version: &'static str,
    /// The server's own certificate, DER.
    pub certificate: Vec<u8>,
    /// Whether an earlier session was taken up again.
    pub resumed: bool,
    /// `tls-exporter` channel binding (RFC 9266).
    pub(super) exporter: [u8; 32],
}

impl ServerSeen {
    pub(super) fn of(connection: &ClientConnection) -> Self {
        let version = match connection.protocol_version() {
            Some(rustls::ProtocolVersion::TLSv1_2) => "1.2",
            Some(rustls::ProtocolVersion::TLSv1_3) => "1.3",
            other => panic!("no such TLS version is configured: {other:?}"),
        };
        let chain = connection.peer_certificates().unwrap_or_default();
        let exporter = connection
            .export_keying_material([0; 32], b"EXPORTER-Channel-Binding", Some(b""))
            .expect("the handshake is over");
        Self {
            version,
            certificate: chain.first().map(|der| der.to_vec()).unwrap_or_default(),
            resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
            exporter,
        }
    }

    /// `tls-server-end-point` channel binding (RFC 5929 §4.1); all certificates here are signed
    /// with SHA-256.
    pub(super) fn end_point(&self) -> scram::Block {
        scram::hash(&self.certificate)
    }
}

/// Checks that the server has the key of the certificate that it shows, and nothing else.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
