//! One HTTPS request, with nothing that a browser would add.

use std::convert::Infallible;
use std::error::Error;
use std::fmt::Display;
use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{
    ACCEPT, ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, DATE,
    HOST, HeaderMap, HeaderValue, USER_AGENT,
};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use smtp::{HostName, RemoteText};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::fetched::{FetchError, Fetched};
use crate::clock::ClockWatch;
use crate::regular_file;

/// RFC 8461 §3.3 suggests 64 KiB.
const BODY_MAX: usize = 64 * 1024;
/// Our choice: names and values of all header fields.
const HEADERS_MAX: usize = 16 * 1024;
/// Our choice: header fields, of any size.
const HEADER_FIELDS_MAX: usize = 100;
/// Where each policy host has the text (RFC 8461 §3.3).
const PATH: &str = "/.well-known/mta-sts.txt";
/// How long one address may be silent before the next is called as well (RFC 8305 §8 recommends 250
/// ms).
const NEXT_ADDRESS_AFTER: Duration = Duration::from_millis(250);

/// Trust anchors cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientSetupError {
    /// `mta_sts.ca_file` is not a readable PEM file with certificates.
    #[error("mta_sts.ca_file: {}: {text}", path.display())]
    CaFile {
        /// The value of `mta_sts.ca_file`.
        path: PathBuf,
        /// What is wrong with it.
        text: String,
    },
    /// rustls refuses the settings.
    #[error("TLS for policy hosts: {0}")]
    Tls(#[from] rustls::Error),
}

/// What all fetches share.
#[derive(Debug)]
pub(super) struct PolicyClient {
    tls: Arc<ClientConfig>,
}

impl PolicyClient {
    pub(super) fn new(ca_file: Option<&Path>, clock: ClockWatch) -> Result<Self, ClientSetupError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = ClientConfig::builder_with_details(provider, Arc::new(clock))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
            .with_root_certificates(roots(ca_file)?)
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        // Each fetch proves the host's certificate anew.
        tls.resumption = rustls::client::Resumption::disabled();
        Ok(Self { tls: Arc::new(tls) })
    }

    /// The policy text of the policy host `host`, which is at one of `addresses`. The name is taken
    /// as it is: what URLs would make of it (IDNA) is nothing that DNS and certificates know of.
    pub(super) async fn get(
        &self,
        host: &HostName,
        addresses: Vec<SocketAddr>,
        limit: Duration,
    ) -> Result<Fetched, FetchError> {
        // The other half is for the answer.
        let opened = timeout(limit / 2, self.open(host, addresses)).await;
        let stream = opened.unwrap_or(Err(FetchError::Timeout))?;
        let address = stream.get_ref().0.peer_addr().ok().map(|address| address.ip());
        let exchange = http1::Builder::new()
            .max_headers(HEADER_FIELDS_MAX)
            .handshake(TokioIo::new(stream))
            .await;
        let (mut sender, connection) = exchange.map_err(|error| failure(&error))?;
        let request = request(host)?;
        let exchanged = async move {
            let response = sender.send_request(request).await.map_err(|error| failure(&error))?;
            check(&response)?;
            let date = date(response.headers());
            let body = body(response).await?;
            Ok(Fetched { body, date, address })
        };
        // Its errors are told by what waits for it; its end is not yet that of what was read.
        let driven = async move {
            let _ = connection.await;
            pending::<Infallible>().await
        };
        tokio::select! {
            fetched = exchanged => fetched,
            never = driven => match never {},
        }
    }

    /// TCP and TLS, verified.
    async fn open(
        &self,
        host: &HostName,
        addresses: Vec<SocketAddr>,
    ) -> Result<TlsStream<TcpStream>, FetchError> {
        let name = ServerName::try_from(host.as_str().to_owned())
            .map_err(|error| FetchError::Tls(text(&error)))?;
        let stream = connect(addresses).await.map_err(|error| FetchError::Connect(text(&error)))?;
        let tls = TlsConnector::from(Arc::clone(&self.tls));
        tls.connect(name, stream).await.map_err(|error| {
            match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
                Some(rustls::Error::InvalidCertificate(why)) => FetchError::Certificate(text(why)),
                Some(tls) => FetchError::Tls(text(tls)),
                None => FetchError::Connect(text(&error)),
            }
        })
    }
}

/// The first address that answers, each called a little after the one before.
async fn connect(addresses: Vec<SocketAddr>) -> io::Result<TcpStream> {
    let mut waiting = addresses.into_iter();
    let mut calls = FuturesUnordered::new();
    let mut failed = io::Error::from(io::ErrorKind::AddrNotAvailable);
    loop {
        // At first, after a failure, or when the one before is slow.
        if let Some(address) = waiting.next() {
            calls.push(TcpStream::connect(address));
        }
        tokio::select! {
            called = calls.next() => match called {
                Some(Ok(stream)) => return Ok(stream),
                Some(Err(error)) => failed = error,
                None => return Err(failed),
            },
            () = sleep(NEXT_ADDRESS_AFTER), if waiting.len() > 0 => {}
        }
    }
}

fn request(host: &HostName) -> Result<Request<Empty<Bytes>>, FetchError> {
    Request::get(PATH)
        .header(HOST, host.as_str())
        .header(USER_AGENT, concat!("staunch/", env!("CARGO_PKG_VERSION")))
        .header(ACCEPT, "text/plain")
        // No decompression: what is counted is what is read.
        .header(ACCEPT_ENCODING, "identity")
        // RFC 8461 §3.3: HTTP caching must not be used.
        .header(CACHE_CONTROL, "no-cache")
        .body(Empty::new())
        .map_err(|error| FetchError::Http(text(&error)))
}

/// The system's trust anchors, or Mozilla's where it has none, and those of `ca_file`.
fn roots(ca_file: Option<&Path>) -> Result<RootCertStore, ClientSetupError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    let Some(path) = ca_file else {
        return Ok(roots);
    };
    let failed = |text: String| ClientSetupError::CaFile { path: path.to_owned(), text };
    let mut found = false;
    for certificate in regular_file::certificates(path).map_err(|e| failed(e.to_string()))? {
        let certificate = certificate.map_err(|error| failed(error.to_string()))?;
        roots.add(certificate).map_err(|error| failed(error.to_string()))?;
        found = true;
    }
    if found { Ok(roots) } else { Err(failed("no certificate in it".to_owned())) }
}

/// RFC 8461 §3.3 and §3.2: only 200, only `text/plain`.
fn check(response: &Response<Incoming>) -> Result<(), FetchError> {
    if response.status() != StatusCode::OK {
        return Err(FetchError::Status(response.status().as_u16()));
    }
    let headers = response.headers();
    let size: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    // What is announced; that there is as much is for hyper to see to.
    let announced = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    let announced = announced.and_then(|length| length.parse::<u64>().ok());
    if size > HEADERS_MAX || announced.is_some_and(|octets| octets > BODY_MAX as u64) {
        return Err(FetchError::TooLarge);
    }
    if let Some(coding) = headers.get(CONTENT_ENCODING)
        && !coding.as_bytes().eq_ignore_ascii_case(b"identity")
    {
        let text = format!("content encoding {}", RemoteText::from_bytes(coding.as_bytes()));
        return Err(FetchError::Http(RemoteText::new(&text)));
    }
    let types: Vec<_> = headers.get_all(CONTENT_TYPE).iter().map(HeaderValue::as_bytes).collect();
    if types.is_empty() || !types.iter().all(|value| is_text_plain(value)) {
        let seen = if types.is_empty() { b"(none)".to_vec() } else { types.join(&b", "[..]) };
        return Err(FetchError::ContentType(RemoteText::from_bytes(&seen)));
    }
    Ok(())
}

/// RFC 9110 §8.3.1. Parameters do not matter: a policy is ASCII, or UTF-8 in its extensions.
fn is_text_plain(value: &[u8]) -> bool {
    let essence = value.split(|b| *b == b';').next().unwrap_or_default();
    essence.trim_ascii().eq_ignore_ascii_case(b"text/plain")
}

/// RFC 9110 §6.6.1. Clocks are compared by it, nothing else.
fn date(headers: &HeaderMap) -> Option<Timestamp> {
    let text = headers.get(DATE)?.to_str().ok()?;
    let date = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text);
    date.ok()
}

async fn body(response: Response<Incoming>) -> Result<Vec<u8>, FetchError> {
    let (mut incoming, mut body) = (response.into_body(), Vec::new());
    while let Some(frame) = incoming.frame().await {
        // What is no data is trailers, which say nothing here.
        let Ok(chunk) = frame.map_err(|error| failure(&error))?.into_data() else { continue };
        if body.len() + chunk.len() > BODY_MAX {
            return Err(FetchError::TooLarge);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

fn text(error: &dyn Display) -> RemoteText {
    RemoteText::new(&error.to_string())
}

/// Names what failed in an exchange. hyper says little itself; the cause is further down.
fn failure(error: &hyper::Error) -> FetchError {
    let first: &(dyn Error + 'static) = error;
    // [`io::Error`] hides what it wraps from `source`.
    let causes = std::iter::successors(Some(first), |&error| match error.downcast_ref() {
        Some(io) => io::Error::get_ref(io).map(|inner| inner as &(dyn Error + 'static)),
        None => error.source(),
    });
    let mut last = first;
    for cause in causes {
        if let Some(tls) = cause.downcast_ref::<rustls::Error>() {
            return FetchError::Tls(text(tls));
        }
        let kind = cause.downcast_ref::<io::Error>().map(io::Error::kind);
        if kind == Some(io::ErrorKind::UnexpectedEof) {
            return FetchError::Truncated;
        }
        last = cause;
    }
    FetchError::Http(text(&last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_text_plain_is_read_as_a_policy() {
        let cases: [(&[u8], bool); 16] = [
            (b"text/plain", true),
            (b"TEXT/PLAIN", true),
            (b"TeXT/PlAiN", true),
            (b"text/plain;charset=utf-8", true),
            (b"text/plain ; charset=UTF-8", true),
            (b"text/plain; charset=\"us-ascii\"; format=flowed", true),
            (b"text/plain;", true),
            (b"", false),
            (b"text", false),
            (b"text/html", false),
            (b"text/json", false),
            (b"text/plainer", false),
            (b"text/plain, text/html", false),
            (b"application/octet-stream", false),
            (b"application/octet-stream+text/plain", false),
            (b"\xfftext/plain", false),
        ];
        for (value, want) in cases {
            assert_eq!(is_text_plain(value), want, "{}", RemoteText::from_bytes(value));
        }
    }
}
