//! A peer that plays a script over a real socket, for the tests of the sending side.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use policy::{Asked, AuthorizedMx, Floor, Located, NamedBy, Requirement, authorize};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::crypto::aws_lc_rs;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::{ServerConfig, SupportedProtocolVersion};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use smtp::{Domain, HostName};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;

/// What the peer does next.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// Writes this text as it is.
    Say(&'static str),
    /// Reads one line, whatever it says.
    Hear,
    /// Reads until the end of the data.
    HearBody,
    /// Reads this many octets and forgets them.
    Swallow(usize),
    /// Is in no hurry.
    Wait(Duration),
    /// Takes part in a TLS handshake, as the server.
    Tls(Arc<ServerConfig>),
    /// Reads until the other side closes.
    HearAll,
}

/// A script that greets and answers EHLO with these lines.
pub(crate) fn greeted(ehlo: &'static str) -> Vec<Act> {
    vec![Act::Say("220 hello\r\n"), Act::Hear, Act::Say(ehlo)]
}

/// Plays one script for each connection, in turn; the handle gives what was heard over all of them.
pub(crate) async fn play(scripts: Vec<Vec<Act>>) -> (SocketAddr, JoinHandle<String>) {
    play_on(TcpListener::bind("127.0.0.1:0").await.unwrap(), scripts)
}

/// Plays them to whoever comes to `listener`.
pub(crate) fn play_on(
    listener: TcpListener,
    scripts: Vec<Vec<Act>>,
) -> (SocketAddr, JoinHandle<String>) {
    let address = listener.local_addr().unwrap();
    let peer = TaskTracker::new().spawn(async move {
        let mut heard = String::new();
        for script in scripts {
            let (stream, _) = listener.accept().await.unwrap();
            act(Box::new(stream), &script, &mut heard).await;
        }
        heard
    });
    (address, peer)
}

trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

async fn act(stream: Box<dyn Duplex>, script: &[Act], heard: &mut String) {
    let mut stream = BufReader::new(stream);
    for (index, step) in script.iter().enumerate() {
        match step {
            Act::Say(text) => {
                if stream.write_all(text.as_bytes()).await.is_err() {
                    return;
                }
            }
            Act::Hear => {
                stream.read_line(heard).await.unwrap();
            }
            Act::HearBody => {
                let mut line = String::new();
                while line != ".\r\n" {
                    line.clear();
                    if stream.read_line(&mut line).await.unwrap() == 0 {
                        return;
                    }
                    heard.push_str(&line);
                }
            }
            Act::Swallow(octets) => {
                stream.read_exact(&mut vec![0; *octets]).await.unwrap();
            }
            Act::Wait(duration) => tokio::time::sleep(*duration).await,
            Act::Tls(config) => {
                assert!(stream.buffer().is_empty(), "the client did not wait for 220");
                let acceptor = TlsAcceptor::from(Arc::clone(config));
                let Ok(session) = acceptor.accept(stream.into_inner()).await else { return };
                let name = session.get_ref().1.server_name().unwrap_or("-").to_owned();
                heard.push_str(&format!("TLS {name}\n"));
                let rest = script.get(index + 1..).unwrap_or_default();
                return Box::pin(act(Box::new(session), rest, heard)).await;
            }
            Act::HearAll => {
                let mut rest = Vec::new();
                let _closed = stream.read_to_end(&mut rest).await;
                heard.push_str(&String::from_utf8_lossy(&rest));
            }
        }
    }
}

/// A host of that name that needs no less than `floor`.
pub(crate) fn host(floor: Floor) -> AuthorizedMx {
    let name = Domain::Name(HostName::parse("mx.example.org").unwrap());
    let located = Located { mx: name.clone(), next_hop: name, named_by: NamedBy::Route };
    authorize(located, &Asked::new(Requirement::from_floor(floor), None)).unwrap()
}

/// What a server presents, whatever it is asked for.
#[derive(Debug)]
struct Always(Arc<rustls::sign::CertifiedKey>);

impl ResolvesServerCert for Always {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<rustls::sign::CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

/// A self-signed certificate and its key.
pub(crate) fn identity() -> (CertificateDer<'static>, PrivatePkcs8KeyDer<'static>) {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(vec!["mx.example.org".to_owned()]).unwrap();
    (cert.der().clone(), PrivatePkcs8KeyDer::from(signing_key.serialize_der()))
}

/// A server that presents `chain` and signs with `key`, whether they belong together or not.
pub(crate) fn server(
    chain: Vec<CertificateDer<'static>>,
    key: PrivatePkcs8KeyDer<'static>,
    versions: &[&'static SupportedProtocolVersion],
) -> Arc<ServerConfig> {
    let provider = aws_lc_rs::default_provider();
    let key = provider.key_provider.load_private_key(key.into()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(versions)
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Always(Arc::new(rustls::sign::CertifiedKey::new(
            chain, key,
        )))));
    Arc::new(config)
}

/// A server with a self-signed certificate and every TLS version we speak.
pub(crate) fn good_server() -> Arc<ServerConfig> {
    let (certificate, key) = identity();
    server(vec![certificate], key, rustls::ALL_VERSIONS)
}
