//! The HTTPS hosts that serve MTA-STS policies (RFC 8461 §3.3): one address for all domains, each
//! domain with its own certificate, manners and answer, told apart by SNI.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::LazyConfigAcceptor;

use crate::log::{Log, TimedOut, lock};
use crate::pki::Identity;
use crate::tasks::Tasks;
use crate::tls;

/// How a policy host behaves.
#[derive(Clone, Debug)]
pub struct Site {
    /// The certificate it presents.
    pub identity: Identity,
    /// What it does in the TLS handshake.
    pub handshake: Handshake,
    /// What it does with a request.
    pub serve: Serve,
}

/// What a policy host does in the TLS handshake.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Handshake {
    /// TLS 1.2 or 1.3.
    Good,
    /// Knows nothing newer than TLS 1.1.
    Tls11Only,
    /// Reads the ClientHello and closes.
    Abort,
}

/// What a policy host does with a request.
#[derive(Clone, Debug)]
pub enum Serve {
    /// Answers and closes.
    Reply(Reply),
    /// Sends the answer one byte per interval.
    Drip(Reply, Duration),
    /// Reads the request and says nothing.
    Silent,
}

/// An HTTP/1.1 response.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The status code.
    pub status: u16,
    /// `Content-Type`, if any.
    pub content_type: Option<String>,
    /// Further header fields.
    pub headers: Vec<(String, String)>,
    /// The body as sent.
    pub body: Vec<u8>,
    /// `Content-Length`; the true one if `None`.
    pub declared_length: Option<usize>,
    /// Sent chunked, without a length.
    pub chunked: bool,
}

impl Reply {
    /// Status 200 and `text/plain`.
    pub fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self::status(200, body)
    }

    /// Another status, as `text/plain`.
    pub fn status(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            content_type: Some("text/plain".to_owned()),
            headers: Vec::new(),
            body: body.into(),
            declared_length: None,
            chunked: false,
        }
    }

    /// With another media type, or none.
    pub fn content_type(mut self, value: Option<&str>) -> Self {
        self.content_type = value.map(str::to_owned);
        self
    }

    /// With one more header field.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut head = format!("HTTP/1.1 {} Scripted\r\nConnection: close\r\n", self.status);
        if let Some(value) = &self.content_type {
            head += &format!("Content-Type: {value}\r\n");
        }
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        let mut bytes = head.into_bytes();
        if self.chunked {
            bytes.extend(b"Transfer-Encoding: chunked\r\n\r\n");
            for chunk in self.body.chunks(1000) {
                bytes.extend(format!("{:x}\r\n", chunk.len()).bytes());
                bytes.extend(chunk);
                bytes.extend(b"\r\n");
            }
            bytes.extend(b"0\r\n\r\n");
        } else {
            let length = self.declared_length.unwrap_or(self.body.len());
            bytes.extend(format!("Content-Length: {length}\r\n\r\n").bytes());
            bytes.extend(&self.body);
        }
        bytes
    }
}

/// A request as it arrived.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HttpRequest {
    /// The name in the TLS handshake.
    pub sni: String,
    /// Method, path and version.
    pub line: String,
    /// Header fields; names in lower case.
    pub headers: Vec<(String, String)>,
}

impl HttpRequest {
    /// The value of the first field of that (lower-case) name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
    }
}

/// All policy hosts of a world.
#[derive(Clone, Debug)]
pub struct PolicyHost {
    shared: Arc<Shared>,
    address: SocketAddr,
    _tasks: Tasks,
}

#[derive(Debug, Default)]
struct Shared {
    sites: Mutex<HashMap<String, Site>>,
    hellos: Log<String>,
    requests: Log<HttpRequest>,
}

impl PolicyHost {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let shared = Arc::new(Shared::default());
        let tasks = Tasks::default();
        tasks.spawn(accept(listener, Arc::clone(&shared)));
        Self { shared, address, _tasks: tasks }
    }

    /// Where it listens: its port is `mta_sts.policy_port`.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sets what is behind this host name from now on.
    pub fn set(&self, host: &str, site: Site) {
        lock(&self.shared.sites).insert(host.to_owned(), site);
    }

    /// Changes what is behind this host name.
    pub fn change(&self, host: &str, change: impl FnOnce(&mut Site)) {
        let mut sites = lock(&self.shared.sites);
        change(sites.get_mut(host).unwrap_or_else(|| panic!("no policy host {host}")));
    }

    /// Every request so far.
    pub fn requests(&self) -> &Log<HttpRequest> {
        &self.shared.requests
    }

    /// How many requests this host got.
    pub fn requests_to(&self, host: &str) -> usize {
        self.shared.requests.read(|all| all.iter().filter(|one| one.sni == host).count())
    }

    /// How many TLS handshakes were begun with this name.
    pub fn hellos_to(&self, host: &str) -> usize {
        self.shared.hellos.read(|all| all.iter().filter(|one| *one == host).count())
    }

    /// Waits until this host got at least `times` requests.
    pub async fn wait_requests(&self, host: &str, times: usize) {
        let enough = |all: &[HttpRequest]| {
            (all.iter().filter(|one| one.sni == host).count() >= times).then_some(())
        };
        if let Err(TimedOut) = self.shared.requests.until(enough).await {
            panic!("{host} got {} requests, not {times}", self.requests_to(host));
        }
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        while connections.try_join_next().is_some() {}
        let shared = Arc::clone(&shared);
        connections.spawn(async move {
            // A client that goes away is no failure of the host.
            let _ = serve(stream, &shared).await;
        });
    }
}

async fn serve(stream: TcpStream, shared: &Shared) -> std::io::Result<()> {
    let mut start = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
    let sni = start.client_hello().server_name().unwrap_or_default().to_owned();
    shared.hellos.push(sni.clone());
    let Some(site) = lock(&shared.sites).get(&sni).cloned() else { return Ok(()) };
    match site.handshake {
        Handshake::Good => {}
        Handshake::Tls11Only => return tls::answer_tls11(&mut start.io).await,
        Handshake::Abort => return Ok(()),
    }
    let mut stream = start.into_stream(tls::server_config(&site.identity)).await?;
    let request = read_request(&mut stream, sni).await?;
    shared.requests.push(request);
    match site.serve {
        Serve::Reply(reply) => stream.write_all(&reply.to_bytes()).await?,
        Serve::Drip(reply, interval) => drip(&mut stream, &reply.to_bytes(), interval).await?,
        Serve::Silent => {
            // Until the client has had enough.
            let mut waste = [0; 64];
            while stream.read(&mut waste).await? > 0 {}
        }
    }
    stream.shutdown().await
}

async fn drip(
    stream: &mut (impl AsyncWrite + Unpin),
    bytes: &[u8],
    interval: Duration,
) -> std::io::Result<()> {
    let mut ticks = tokio::time::interval(interval);
    for byte in bytes {
        ticks.tick().await;
        stream.write_all(&[*byte]).await?;
        stream.flush().await?;
    }
    Ok(())
}

async fn read_request(
    stream: &mut (impl AsyncRead + Unpin),
    sni: String,
) -> std::io::Result<HttpRequest> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head);
    let mut lines = head.lines();
    let line = lines.next().unwrap_or_default().to_owned();
    let headers = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    Ok(HttpRequest { sni, line, headers })
}
