//! Scripted MX hosts: SMTP servers that do as they are told, and remember everything they were
//! sent.

mod auth;
mod gate;
mod script;
mod session;
mod stream;

pub use gate::Gate;
pub use script::{Greeting, Rule, Script, Starttls, Then};

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::log::{Log, TimedOut, lock};
use crate::pki::Identity;
use crate::tasks::Tasks;
use crate::tls::{self, Dialect, TlsSeen};

/// A message that a host answered 250 to.
#[derive(Clone, Eq, PartialEq)]
pub struct Received {
    /// The name of the host.
    pub host: String,
    /// What the client called itself.
    pub helo: String,
    /// The reverse path without its angle brackets.
    pub from: String,
    /// The forward paths that were accepted.
    pub to: Vec<String>,
    /// The parameters of MAIL.
    pub parameters: String,
    /// The parameters of RCPT, for each of `to`.
    pub rcpt_parameters: Vec<String>,
    /// Whether the content came in chunks (RFC 3030).
    pub chunked: bool,
    /// Who had logged in.
    pub user: Option<String>,
    /// Header and body, dots unstuffed, lines ended by CRLF.
    pub content: Vec<u8>,
    /// The handshake; `None` for a message in clear.
    pub tls: Option<TlsSeen>,
    /// Number of the connection, from 1.
    pub connection: usize,
}

impl Received {
    /// The content as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.content).into_owned()
    }

    /// What follows the header section.
    pub fn body(&self) -> &[u8] {
        let end = memchr::memmem::find(&self.content, b"\r\n\r\n").map_or(0, |at| at + 4);
        &self.content[end..]
    }
}

impl std::fmt::Debug for Received {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // A body of megabytes helps nobody.
        let text: String = self.text().chars().take(1000).collect();
        let Self { host, helo, from, to, parameters, rcpt_parameters, tls, connection, .. } = self;
        write!(
            f,
            "{host} #{connection} {tls:?} {helo} <{from}> {parameters} {to:?} {rcpt_parameters:?}\n{text}"
        )
    }
}

/// A connection from its begin.
#[derive(Clone, Copy, Debug)]
pub struct Opened {
    /// The client's end.
    pub peer: SocketAddr,
    /// Our end.
    pub local: SocketAddr,
    /// When it was accepted.
    pub at: Instant,
    /// How many there were then at a time, this one included.
    pub open: usize,
}

/// One MX host.
#[derive(Clone, Debug)]
pub struct Mx {
    shared: Arc<Shared>,
    address: SocketAddr,
    tasks: Tasks,
}

/// What all connections of a host share.
#[derive(Debug)]
pub(crate) struct Shared {
    host: String,
    script: Mutex<Script>,
    received: Log<Received>,
    commands: Log<String>,
    opened: Log<Opened>,
    open: AtomicUsize,
    handshakes: Log<TlsSeen>,
    tls: Mutex<Option<TlsServer>>,
}

/// Kept from one handshake to the next, since it remembers the sessions.
#[derive(Debug)]
struct TlsServer {
    identity: Identity,
    dialect: Dialect,
    config: Arc<ServerConfig>,
}

impl Shared {
    /// The server side of a handshake now; a new one when the script has changed.
    fn tls_config(&self, dialect: Dialect) -> Arc<ServerConfig> {
        let (identity, sessions_stay) = {
            let script = lock(&self.script);
            (script.identity.clone(), script.sessions_stay)
        };
        let mut server = lock(&self.tls);
        match &*server {
            Some(server) if server.identity.is(&identity) && server.dialect == dialect => {
                Arc::clone(&server.config)
            }
            former => {
                let mut config = tls::configure(&identity, dialect);
                if let Some(former) = former.as_ref().filter(|_| sessions_stay) {
                    let sessions = Arc::clone(&former.config.session_storage);
                    Arc::make_mut(&mut config).session_storage = sessions;
                }
                *server = Some(TlsServer { identity, dialect, config: Arc::clone(&config) });
                config
            }
        }
    }
}

impl Mx {
    pub(crate) fn start(host: &str, listener: TcpListener, script: Script) -> Self {
        let address = listener.local_addr().expect("bound");
        let shared = Arc::new(Shared {
            host: host.to_owned(),
            script: Mutex::new(script),
            received: Log::default(),
            commands: Log::default(),
            opened: Log::default(),
            open: AtomicUsize::new(0),
            handshakes: Log::default(),
            tls: Mutex::new(None),
        });
        let tasks = Tasks::default();
        tasks.spawn(accept(listener, Arc::clone(&shared)));
        Self { shared, address, tasks }
    }

    /// Serves at a further address in the same way.
    pub(crate) fn listen_also(&self, listener: TcpListener) {
        self.tasks.spawn(accept(listener, Arc::clone(&self.shared)));
    }

    /// The name it was made with.
    pub fn host(&self) -> &str {
        &self.shared.host
    }

    /// Its address, for more names than one.
    pub fn ip(&self) -> Ipv4Addr {
        match self.address {
            SocketAddr::V4(address) => *address.ip(),
            SocketAddr::V6(_) => panic!("hosts are bound to IPv4"),
        }
    }

    /// Address and port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes how it behaves, from the next command on.
    pub fn script(&self, change: impl FnOnce(&mut Script)) {
        change(&mut lock(&self.shared.script));
    }

    /// Lets the commands that start with `prefix` (upper or lower case; `.` is the end of data)
    /// have this fate instead of their usual one.
    pub fn on(&self, prefix: &str, then: Then) {
        self.script(|script| script.rules.push(Rule::always(prefix, then)));
    }

    /// Forgets all rules.
    pub fn clear_rules(&self) {
        self.script(|script| script.rules.clear());
    }

    /// TCP connections so far.
    pub fn connections(&self) -> usize {
        self.shared.opened.len()
    }

    /// Every connection from its begin.
    pub fn opened(&self) -> &Log<Opened> {
        &self.shared.opened
    }

    /// The most connections that were open at a time.
    pub fn open_max(&self) -> usize {
        self.opened().read(|all| all.iter().map(|one| one.open).max().unwrap_or_default())
    }

    /// Every finished handshake.
    pub fn handshakes(&self) -> &Log<TlsSeen> {
        &self.shared.handshakes
    }

    /// Waits for the connection of that number.
    pub async fn wait_connections(&self, number: usize) {
        let enough = |all: &[Opened]| (all.len() >= number).then_some(());
        if let Err(TimedOut) = self.shared.opened.until(enough).await {
            panic!("{}: {} connections, not {number}", self.host(), self.connections());
        }
    }

    /// The messages so far.
    pub fn received(&self) -> &Log<Received> {
        &self.shared.received
    }

    /// Every command line so far, without line end; in TLS or not.
    pub fn commands(&self) -> &Log<String> {
        &self.shared.commands
    }

    /// How many command lines started with `prefix`.
    pub fn commanded(&self, prefix: &str) -> usize {
        self.commands().read(|all| all.iter().filter(|line| starts_with(line, prefix)).count())
    }

    /// Waits until a command starts with `prefix`.
    pub async fn wait_command(&self, prefix: &str) {
        let seen = |all: &[String]| all.iter().any(|line| starts_with(line, prefix)).then_some(());
        if let Err(TimedOut) = self.commands().until(seen).await {
            let commands = self.commands().read(<[String]>::to_vec);
            panic!("{}: no {prefix}: {commands:?}", self.host());
        }
    }

    /// Waits for the first message.
    pub async fn message(&self) -> Received {
        self.messages(1).await.remove(0)
    }

    /// Waits until there are at least `count` messages, and returns all there are.
    pub async fn messages(&self, count: usize) -> Vec<Received> {
        let enough = |all: &[Received]| (all.len() >= count).then(|| all.to_vec());
        self.received().until(enough).await.unwrap_or_else(|TimedOut| {
            panic!("{}: {} messages, not {count}", self.host(), self.received().len())
        })
    }

    /// Waits for the first message to this address.
    pub async fn message_to(&self, recipient: &str) -> Received {
        let find = |all: &[Received]| {
            all.iter().find(|one| one.to.iter().any(|to| to == recipient)).cloned()
        };
        self.received()
            .until(find)
            .await
            .unwrap_or_else(|TimedOut| panic!("{}: nothing for {recipient}", self.host()))
    }
}

/// Whether `line` starts with `prefix`, whatever the case.
fn starts_with(line: &str, prefix: &str) -> bool {
    line.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut sessions = JoinSet::new();
    loop {
        let Ok((stream, peer)) = listener.accept().await else { continue };
        while sessions.try_join_next().is_some() {}
        let Ok(local) = stream.local_addr() else { continue };
        let open = shared.open.fetch_add(1, Ordering::SeqCst) + 1;
        let number = shared.opened.push(Opened { peer, local, at: Instant::now(), open });
        let shared = Arc::clone(&shared);
        sessions.spawn(async move {
            // A client that goes away is no failure of the host.
            let _ = session::run(stream, &shared, number).await;
            shared.open.fetch_sub(1, Ordering::SeqCst);
        });
    }
}
