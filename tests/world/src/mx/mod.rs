//! Scripted MX hosts: SMTP servers that do as they are told, and remember everything they were sent.

mod script;
mod session;
mod stream;

pub use script::{Greeting, Rule, Script, Starttls, Then};

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::log::{Log, TimedOut, lock};
use crate::tasks::Tasks;
use crate::tls::TlsSeen;

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
        let Self { host, helo, from, to, parameters, tls, connection, .. } = self;
        write!(f, "{host} #{connection} {tls:?} {helo} <{from}> {parameters} {to:?}\n{text}")
    }
}

/// One MX host.
#[derive(Clone, Debug)]
pub struct Mx {
    shared: Arc<Shared>,
    address: SocketAddr,
    _tasks: Tasks,
}

/// What all connections of a host share.
#[derive(Debug)]
pub(crate) struct Shared {
    host: String,
    script: Mutex<Script>,
    received: Log<Received>,
    commands: Log<String>,
    connections: AtomicUsize,
    opened: Log<()>,
}

impl Mx {
    pub(crate) fn start(host: &str, listener: TcpListener, script: Script) -> Self {
        let address = listener.local_addr().expect("bound");
        let shared = Arc::new(Shared {
            host: host.to_owned(),
            script: Mutex::new(script),
            received: Log::default(),
            commands: Log::default(),
            connections: AtomicUsize::new(0),
            opened: Log::default(),
        });
        let tasks = Tasks::default();
        tasks.spawn(accept(listener, Arc::clone(&shared)));
        Self { shared, address, _tasks: tasks }
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

    /// Lets the commands that start with `prefix` (upper or lower case; `.` is the end of data) have
    /// this fate instead of their usual one.
    pub fn on(&self, prefix: &str, then: Then) {
        self.script(|script| script.rules.push(Rule::always(prefix, then)));
    }

    /// Forgets all rules.
    pub fn clear_rules(&self) {
        self.script(|script| script.rules.clear());
    }

    /// TCP connections so far.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Waits for the connection of that number.
    pub async fn wait_connections(&self, number: usize) {
        let enough = |all: &[()]| (all.len() >= number).then_some(());
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
        let Ok((stream, _)) = listener.accept().await else { continue };
        while sessions.try_join_next().is_some() {}
        let number = shared.connections.fetch_add(1, Ordering::SeqCst) + 1;
        shared.opened.push(());
        let shared = Arc::clone(&shared);
        sessions.spawn(async move {
            // A client that goes away is no failure of the host.
            let _ = session::run(stream, &shared, number).await;
        });
    }
}
