//! The server side of TLS, good and bad.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{NamedGroup, ServerConfig, SupportedProtocolVersion, version};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::pki::Identity;

/// What a scripted peer saw of a finished handshake.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TlsSeen {
    /// `1.2` or `1.3`.
    pub version: &'static str,
    /// The name the client asked for (RFC 6066 §3).
    pub sni: Option<String>,
    /// Whether an earlier session was taken up again.
    pub resumed: bool,
    /// The key exchange group, such as `X25519MLKEM768`.
    pub group: String,
}

impl TlsSeen {
    pub(crate) fn of(connection: &rustls::ServerConnection) -> Self {
        let version = match connection.protocol_version() {
            Some(rustls::ProtocolVersion::TLSv1_2) => "1.2",
            Some(rustls::ProtocolVersion::TLSv1_3) => "1.3",
            other => panic!("no such TLS version is configured: {other:?}"),
        };
        Self {
            version,
            sni: connection.server_name().map(str::to_owned),
            resumed: connection.handshake_kind() == Some(rustls::HandshakeKind::Resumed),
            group: connection
                .negotiated_key_exchange_group()
                .map(|group| format!("{:?}", group.name()))
                .unwrap_or_default(),
        }
    }
}

/// Presents one identity whatever name is asked for, and never asks whether chain and key match.
#[derive(Debug)]
struct Always(Arc<CertifiedKey>);

impl ResolvesServerCert for Always {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

/// What a server speaks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Dialect {
    /// TLS 1.2 and nothing newer.
    pub(crate) tls12_only: bool,
    /// Whether sessions can be taken up again.
    pub(crate) resumption: bool,
}

/// TLS 1.2 and 1.3 with this identity.
pub(crate) fn server_config(identity: &Identity) -> Arc<ServerConfig> {
    configure(identity, Dialect { tls12_only: false, resumption: true })
}

/// TLS with this identity. Sessions are remembered by the configuration: a new one knows none.
pub(crate) fn configure(identity: &Identity, dialect: Dialect) -> Arc<ServerConfig> {
    let versions: &[&SupportedProtocolVersion] =
        if dialect.tls12_only { &[&version::TLS12] } else { rustls::ALL_VERSIONS };
    let resolver = Arc::new(Always(identity.certified_key()));
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(versions)
        .expect("the provider supports TLS 1.2 and 1.3")
        .with_no_client_auth()
        .with_cert_resolver(resolver);
    if !dialect.resumption {
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    Arc::new(config)
}

/// Whether the client offers the hybrid key exchange whose share makes a ClientHello larger than
/// one packet.
pub(crate) fn offers_post_quantum(hello: &ClientHello<'_>) -> bool {
    hello.named_groups().is_some_and(|groups| groups.contains(&NamedGroup::X25519MLKEM768))
}

/// A TLS 1.1 ServerHello (RFC 4346 §7.4.1.3) in its record: no extension, suite
/// TLS_RSA_WITH_AES_128_CBC_SHA, which that version may use.
const TLS11_SERVER_HELLO: [u8; 47] = {
    let mut hello = [0x5a; 47];
    // Record: handshake, TLS 1.1, 42 bytes.
    hello[0] = 22;
    hello[1] = 3;
    hello[2] = 2;
    hello[3] = 0;
    hello[4] = 42;
    // Handshake: server_hello, 38 bytes.
    hello[5] = 2;
    hello[6] = 0;
    hello[7] = 0;
    hello[8] = 38;
    // TLS 1.1, then 32 bytes of "random" from 11 to 42.
    hello[9] = 3;
    hello[10] = 2;
    // No session id; suite; no compression.
    hello[43] = 0;
    hello[44] = 0;
    hello[45] = 0x2f;
    hello[46] = 0;
    hello
};

/// A fatal handshake_failure alert (RFC 8446 §6) in its record.
const HANDSHAKE_FAILURE: [u8; 7] = [21, 3, 3, 0, 2, 2, 40];

/// Reads one TLS record, the ClientHello, and throws it away.
pub(crate) async fn read_client_hello(stream: &mut TcpStream) -> std::io::Result<()> {
    let mut header = [0; 5];
    stream.read_exact(&mut header).await?;
    let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
    let mut record = vec![0; length];
    stream.read_exact(&mut record).await?;
    Ok(())
}

/// Answers an already read ClientHello as a server that knows nothing newer than TLS 1.1, and waits
/// for the client to go away.
pub(crate) async fn answer_tls11(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(&TLS11_SERVER_HELLO).await?;
    drain(stream).await
}

/// Answers an already read ClientHello with a fatal alert, and waits for the client to go away.
pub(crate) async fn answer_alert(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(&HANDSHAKE_FAILURE).await?;
    drain(stream).await
}

/// Reads until the other side closes.
pub(crate) async fn drain(stream: &mut TcpStream) -> std::io::Result<()> {
    let mut waste = [0; 1024];
    while stream.read(&mut waste).await? > 0 {}
    Ok(())
}
