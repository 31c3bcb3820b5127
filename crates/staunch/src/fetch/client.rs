//! One HTTPS request, with nothing that a browser would add.

use std::error::Error;
use std::fmt::Display;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{
    ACCEPT, ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, DATE, HeaderMap,
    HeaderValue,
};
use reqwest::{Response, StatusCode};
use rustls::{ClientConfig, RootCertStore};
use smtp::{HostName, RemoteText};

use super::{FetchError, Fetched};
use crate::clock::ClockWatch;
use crate::regular_file;

/// RFC 8461 §3.3 suggests 64 KiB.
const BODY_MAX: usize = 64 * 1024;
/// Ours: names and values of all header fields.
const HEADERS_MAX: usize = 16 * 1024;
/// Ours.
const HEADER_FIELDS_MAX: usize = 100;

/// Trust anchors cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientSetupError {
    /// `mta_sts.ca_file` is not a readable PEM file with certificates.
    #[error("mta_sts.ca_file: {}: {text}", path.display())]
    CaFile {
        /// The file.
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
pub(super) struct Client {
    tls: ClientConfig,
}

impl Client {
    pub(super) fn new(ca_file: Option<&Path>, clock: ClockWatch) -> Result<Self, ClientSetupError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = ClientConfig::builder_with_details(provider, Arc::new(clock))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
            .with_root_certificates(roots(ca_file)?)
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        // Each fetch proves the host's certificate anew.
        tls.resumption = rustls::client::Resumption::disabled();
        Ok(Self { tls })
    }

    /// The policy text of the policy host `host`, which is at one of `addresses`.
    pub(super) async fn get(
        &self,
        host: &HostName,
        addresses: Vec<SocketAddr>,
        limit: Duration,
    ) -> Result<Fetched, FetchError> {
        let http = self.http(host, addresses, limit)?;
        let url = format!("https://{host}/.well-known/mta-sts.txt");
        let response = http.get(url).send().await.map_err(|error| failure(&error))?;
        check(&response)?;
        let date = date(response.headers());
        let address = response.remote_addr().map(|address| address.ip());
        let body = body(response).await?;
        Ok(Fetched { body, date, address })
    }

    fn http(
        &self,
        host: &HostName,
        addresses: Vec<SocketAddr>,
        limit: Duration,
    ) -> Result<reqwest::Client, FetchError> {
        reqwest::Client::builder()
            .tls_backend_preconfigured(self.tls.clone())
            .dns_resolver(Pinned { host: host.clone(), addresses })
            .https_only(true)
            .http1_only()
            .http1_max_headers(HEADER_FIELDS_MAX)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .pool_max_idle_per_host(0)
            // hyper divides it among the addresses: a dead one leaves time for the next.
            .connect_timeout(limit / 2)
            .timeout(limit)
            .default_headers(headers())
            .user_agent(concat!("staunch/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| failure(&error))
    }
}

fn headers() -> HeaderMap {
    HeaderMap::from_iter([
        (ACCEPT, HeaderValue::from_static("text/plain")),
        // No decompression: what is counted is what is read.
        (ACCEPT_ENCODING, HeaderValue::from_static("identity")),
        // RFC 8461 §3.3: HTTP caching must not be used.
        (CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    ])
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

/// The one name that may be connected to, and where.
struct Pinned {
    host: HostName,
    addresses: Vec<SocketAddr>,
}

impl Resolve for Pinned {
    fn resolve(&self, name: Name) -> Resolving {
        let answer = if name.as_str() == self.host.as_str() {
            let addresses: Addrs = Box::new(self.addresses.clone().into_iter());
            Ok(addresses)
        } else {
            Err("only the policy host is resolved".into())
        };
        Box::pin(std::future::ready(answer))
    }
}

/// RFC 8461 §3.3 and §3.2: only 200, only `text/plain`.
fn check(response: &Response) -> Result<(), FetchError> {
    if response.status() != StatusCode::OK {
        return Err(FetchError::Status(response.status().as_u16()));
    }
    let headers = response.headers();
    let size: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if size > HEADERS_MAX || response.content_length().is_some_and(|n| n > BODY_MAX as u64) {
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

async fn body(mut response: Response) -> Result<Vec<u8>, FetchError> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| failure(&error))? {
        if body.len() + chunk.len() > BODY_MAX {
            return Err(FetchError::TooLarge);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// Names the step that failed. reqwest says little itself; the cause is further down.
fn failure(error: &reqwest::Error) -> FetchError {
    if error.is_timeout() {
        return FetchError::Timeout;
    }
    let text = |error: &dyn Display| RemoteText::new(&error.to_string());
    let mut last: &(dyn Error + 'static) = error;
    for cause in causes(error) {
        if let Some(tls) = cause.downcast_ref::<rustls::Error>() {
            return if let rustls::Error::InvalidCertificate(why) = tls {
                FetchError::Certificate(text(why))
            } else {
                FetchError::Tls(text(tls))
            };
        }
        if !error.is_connect() && is_cut_off(cause) {
            return FetchError::Truncated;
        }
        last = cause;
    }
    if error.is_connect() {
        FetchError::Connect(text(&last))
    } else {
        FetchError::Http(text(&last))
    }
}

fn is_cut_off(cause: &(dyn Error + 'static)) -> bool {
    let kind = cause.downcast_ref::<io::Error>().map(io::Error::kind);
    kind == Some(io::ErrorKind::UnexpectedEof)
}

/// An error and everything below it. [`io::Error`] hides what it wraps from `source`.
fn causes<'e>(error: &'e (dyn Error + 'static)) -> impl Iterator<Item = &'e (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| match error.downcast_ref::<io::Error>() {
        Some(io) => io.get_ref().map(|inner| inner as &(dyn Error + 'static)),
        None => error.source(),
    })
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
