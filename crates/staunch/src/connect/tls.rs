//! TLS towards MX hosts: the handshake, and evidence of what it showed.
//!
//! Nothing is judged here. The verifier lets every certificate pass, checks the signature by which
//! the peer proves that it has the key, and remembers whether it held;
//! `policy::AuthorizedMx::admit` alone says what that is worth. So opportunistic TLS works with
//! every certificate (RFC 7435 §3), and no way leads around the judgement where one is due.
//! Sessions are taken up again: [`sessions`].

mod failure;
mod sessions;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;
use policy::{BadRoot, ObservedTls, Roots, TlsVersion};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs};
use rustls::{
    ClientConfig, HandshakeKind, NamedGroup, ProtocolVersion, SupportedProtocolVersion, version,
};
use rustls_pki_types::ServerName;
use smtp::{Domain, RemoteText};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::config::{MinVersion, Tls};
use crate::connect::PoolKey;
use crate::connect::facts::ConnectFact;
use crate::regular_file;
pub(crate) use failure::{Side, described};
pub(crate) use sessions::Hello;
use sessions::{Recorder, SessionFamily, Stock};

/// Our choice: how long a host is spared a ClientHello that it did not answer. In memory only:
/// after a restart it costs one connection to learn it again.
const SMALL_FOR: Duration = Duration::from_secs(24 * 60 * 60);
/// Our choice: such hosts in memory.
const SMALL_HOSTS_MAX: u64 = 10_000;

/// Why TLS cannot be used at all with this configuration.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsSetupError {
    /// The provider does not know what was asked of it.
    #[error("tls: {0}")]
    Provider(#[from] rustls::Error),
    /// `tls.ca_file` cannot be read.
    #[error("tls.ca_file: {path}: {source}")]
    CaFile {
        path: String,
        /// What is wrong with the file.
        #[source]
        source: rustls_pki_types::pem::Error,
    },
    /// A certificate in `tls.ca_file` is not one.
    #[error("tls.ca_file: {path}: {source}")]
    CaCertificate {
        path: String,
        /// What is wrong with the certificate.
        #[source]
        source: BadRoot,
    },
    /// `tls.ca_file` has no certificate.
    #[error("tls.ca_file: {0}: no certificate in it")]
    CaEmpty(String),
}

/// Why there is no TLS session. Certificates are never the cause.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{text}")]
pub(crate) struct HandshakeError {
    text: RemoteText,
    is_silence: bool,
}

impl HandshakeError {
    fn new(text: &str) -> Self {
        Self { text: RemoteText::new(text), is_silence: false }
    }

    fn silence(text: &str) -> Self {
        Self { is_silence: true, ..Self::new(text) }
    }

    /// The connection is encrypted already.
    pub(crate) fn under_tls() -> Self {
        Self::new("TLS inside TLS is not spoken")
    }

    /// The limit was exceeded.
    pub(crate) fn timed_out(limit: Duration) -> Self {
        Self::silence(&format!("not finished within {} s", limit.as_secs()))
    }

    /// Did the peer go away or fall silent, instead of saying what it minds? Some do over a
    /// ClientHello of more than one packet.
    pub(crate) fn is_silence(&self) -> bool {
        self.is_silence
    }
}

impl From<io::Error> for HandshakeError {
    fn from(error: io::Error) -> Self {
        let cause = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        match cause {
            Some(cause) => Self::new(&described(cause, Side::Host)),
            None if error.kind() == io::ErrorKind::UnexpectedEof => {
                Self::silence("the peer closed the connection during the handshake")
            }
            None => Self::silence(&error.to_string()),
        }
    }
}

/// A session under TLS, and what its handshake proved.
#[derive(Debug)]
pub(crate) struct Handshaken {
    /// The connection, under TLS.
    pub(crate) stream: TlsStream<TcpStream>,
    /// What the handshake showed: chain, proof of its key, version.
    pub(crate) observed: ObservedTls,
    /// Is what it showed that of an earlier handshake?
    pub(crate) is_resumed: bool,
}

/// Makes TLS sessions. Clones share what is remembered.
#[derive(Clone, Debug)]
pub(crate) struct TlsClient {
    /// Copied for each [`SessionFamily`]. The large one is missing where the operator does not want
    /// it.
    small: ClientConfig,
    large: Option<ClientConfig>,
    algorithms: WebPkiSupportedAlgorithms,
    stock: Stock,
    /// Hosts that could do with a small ClientHello only.
    needs_small: Cache<Domain, ()>,
}

impl TlsClient {
    /// TLS as the configuration says, by aws-lc-rs.
    ///
    /// # Errors
    ///
    /// [`TlsSetupError::Provider`].
    pub(crate) fn new(config: &Tls) -> Result<Self, TlsSetupError> {
        let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
        let template = |hello| {
            let built = ClientConfig::builder_with_provider(Arc::new(provider(hello)))
                .with_protocol_versions(versions(config.min_version))?
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Recorder::of_template(algorithms)))
                .with_no_client_auth();
            Ok::<_, TlsSetupError>(built)
        };
        Ok(Self {
            small: template(Hello::Small)?,
            large: config.post_quantum.then(|| template(Hello::Large)).transpose()?,
            algorithms,
            stock: Stock::default(),
            needs_small: Cache::builder()
                .max_capacity(SMALL_HOSTS_MAX)
                .time_to_live(SMALL_FOR)
                .build(),
        })
    }

    /// How the next handshake with `host` begins.
    pub(crate) fn hello(&self, host: &Domain) -> Hello {
        if self.large.is_none() || self.needs_small.contains_key(host) {
            Hello::Small
        } else {
            Hello::Large
        }
    }

    /// The host shook hands after [`Hello::Small`] only.
    pub(crate) fn remember_small(&self, host: &Domain) {
        self.needs_small.insert(host.clone(), ());
    }

    /// What the sessions with `key` show is not good enough today: the next handshake is a full
    /// one.
    pub(crate) fn forget(&self, key: &PoolKey) {
        self.stock.forget(key);
    }

    /// Shakes hands over `stream`, asking for the host of `key`; takes an earlier session up again
    /// where there is one.
    ///
    /// # Errors
    ///
    /// [`HandshakeError`]. There is no time limit here.
    pub(crate) async fn handshake(
        &self,
        stream: TcpStream,
        key: &PoolKey,
        hello: Hello,
    ) -> Result<Handshaken, HandshakeError> {
        let host = &key.host;
        let name = host.name().and_then(|name| ServerName::try_from(name.as_str().to_owned()).ok());
        let asked_for = match name {
            Some(name) => name,
            // An address, or a name that DNS knows and certificates do not: no name is asked for.
            None => ServerName::IpAddress(stream.peer_addr()?.ip().into()),
        };
        let stock_key = (key.clone(), hello);
        let mut family = match self.stock.take(&stock_key) {
            Some(family) => family,
            None => SessionFamily::new(self.template(hello), self.algorithms),
        };
        let connector = TlsConnector::from(Arc::clone(&family.config));
        let stream = connector.connect(asked_for, stream).await?;
        let (_, connection) = stream.get_ref();
        let is_resumed = connection.handshake_kind() == Some(HandshakeKind::Resumed);
        let observed = ObservedTls {
            chain: connection.peer_certificates().unwrap_or_default().to_vec().into(),
            possession_proven: family.is_proven(),
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
        if !is_resumed {
            family.renew();
        }
        self.stock.put(&stock_key, family);
        Ok(Handshaken { stream, observed, is_resumed })
    }

    fn template(&self, hello: Hello) -> &ClientConfig {
        match (hello, &self.large) {
            (Hello::Large, Some(large)) => large,
            (Hello::Large, None) | (Hello::Small, _) => &self.small,
        }
    }
}

fn provider(hello: Hello) -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    match hello {
        Hello::Large => {}
        Hello::Small => provider.kx_groups.retain(|group| !is_post_quantum(group.name())),
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

/// The trust anchors for MX hosts: the system's, or those that came with the program where the
/// system has none, and those of `tls.ca_file`.
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
        for certificate in regular_file::certificates(path).map_err(file_error)? {
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
        ConnectFact::AnchorsUnreadable { error }.tell();
    }
    let mut roots = Roots::default();
    let bad = found.certs.iter().filter(|certificate| roots.add(certificate).is_err()).count();
    if bad > 0 {
        ConnectFact::AnchorsUnusable { bad }.tell();
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
    use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
    use smtp::HostName;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::config::{RouteLogin, Source};
    use crate::connect::connection::scripted::{Act, identity, play, server};
    use crate::connect::{Endpoint, Sources};

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

    fn destination() -> PoolKey {
        PoolKey {
            route: None,
            sources: Sources::default(),
            host: host(),
            endpoint: Endpoint::mx(25),
        }
    }

    async fn shake(
        settings: &Tls,
        server: Arc<rustls::ServerConfig>,
    ) -> Result<Handshaken, HandshakeError> {
        shake_with(&TlsClient::new(settings).unwrap(), server).await
    }

    /// One handshake, and a few words, since tickets come behind it.
    async fn shake_with(
        client: &TlsClient,
        server: Arc<rustls::ServerConfig>,
    ) -> Result<Handshaken, HandshakeError> {
        let script = vec![Act::Tls(server), Act::Say("220 hello\r\n"), Act::HearAll];
        let (address, _peer) = play(vec![script]).await;
        let stream = TcpStream::connect(address).await.unwrap();
        let mut shaken = client.handshake(stream, &destination(), client.hello(&host())).await?;
        shaken.stream.read_exact(&mut [0; 11]).await.unwrap();
        Ok(shaken)
    }

    #[tokio::test]
    async fn a_resumed_session_shows_the_chain_of_the_first_and_what_that_one_proved() {
        for version in [&TLS12, &TLS13] {
            let (own, key) = identity();
            let (foreign, foreign_key) = identity();
            let good = server(vec![own.clone()], key, &[version]);
            let client = TlsClient::new(&settings()).unwrap();
            let first = shake_with(&client, Arc::clone(&good)).await.unwrap();
            assert!(!first.is_resumed && first.observed.possession_proven, "{version:?}");
            for _ in 0..3 {
                let again = shake_with(&client, Arc::clone(&good)).await.unwrap();
                assert!(again.is_resumed && again.observed.possession_proven, "{version:?}");
                assert_eq!(*again.observed.chain, *std::slice::from_ref(&own));
                assert_eq!(again.observed.version, first.observed.version);
            }
            client.forget(&destination());
            assert!(!shake_with(&client, Arc::clone(&good)).await.unwrap().is_resumed);

            // Another server in its place does not know the session: all begins anew, also the
            // proof.
            let liar = server(vec![own.clone()], foreign_key, &[version]);
            let full = shake_with(&client, Arc::clone(&liar)).await.unwrap();
            assert!(!full.is_resumed && !full.observed.possession_proven, "{version:?}");
            assert_ne!(*full.observed.chain, [foreign]);
            // And what proved nothing is never taken up again.
            let again = shake_with(&client, liar).await.unwrap();
            assert!(!again.is_resumed && !again.observed.possession_proven, "{version:?}");
        }
    }

    #[tokio::test]
    async fn sessions_are_not_shared_between_destinations() {
        let (own, key) = identity();
        let good = server(vec![own], key, &[&TLS13]);
        let client = TlsClient::new(&settings()).unwrap();
        shake_with(&client, Arc::clone(&good)).await.unwrap();
        let login = RouteLogin { username: "ann".into(), password_file: "/p".into() };
        let source = Source { index: 0, address: [127, 0, 0, 1].into(), hostname: None };
        let others = [
            PoolKey { route: Some("smart".into()), ..destination() },
            PoolKey { sources: Sources::for_hop(&[source], "a"), ..destination() },
            PoolKey { endpoint: Endpoint::mx(587), ..destination() },
            PoolKey {
                endpoint: Endpoint { login: Some(Arc::new(login)), ..Endpoint::mx(25) },
                ..destination()
            },
        ];
        for other in others {
            let script = vec![Act::Tls(Arc::clone(&good)), Act::HearAll];
            let (address, _peer) = play(vec![script]).await;
            let stream = TcpStream::connect(address).await.unwrap();
            let shaken = client.handshake(stream, &other, Hello::Large).await.unwrap();
            assert!(!shaken.is_resumed, "{other:?}");
        }
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
                let observed = shake(&settings(), server).await.unwrap().observed;
                assert_eq!(observed.possession_proven, want, "{what}, {version:?}");
                assert_eq!(*observed.chain, *chain, "{what}");
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
            let stream = shake(&Tls { post_quantum, ..settings() }, server).await.unwrap().stream;
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
        assert!(error.contains("no cipher suite in common with the peer"), "{error}");
        assert!(error.contains("HandshakeFailure"), "{error}");
        let error = shake_raw(Vec::new()).await.unwrap_err().to_string();
        assert_eq!(error, "the peer closed the connection during the handshake");
    }

    /// A peer that answers the ClientHello with these octets and closes.
    async fn shake_raw(answer: Vec<u8>) -> Result<Handshaken, HandshakeError> {
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
        let destination = destination();
        let (result, ()) =
            tokio::join!(client.handshake(stream, &destination, Hello::Large), serve);
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
