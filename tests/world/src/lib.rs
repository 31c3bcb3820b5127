//! A small internet on loopback: DNS, policy hosts, certificate authorities, scripted MX hosts, and
//! the real daemon started against them.
//!
//! Everything is a real socket on an ephemeral port and belongs to one [`World`], so that any
//! number of worlds run side by side. Changes to DNS, policies and hosts hold at once. Tests wait
//! for what they expect, never for time to pass; a wait has one limit ([`log::LIMIT`]) and a
//! failure is a panic that says what was there instead.

mod arguments;
mod base64;
mod client;
pub mod damage;
mod dns;
mod domain;
mod guard;
mod hosts;
pub mod load;
pub mod log;
mod mx;
mod name_server;
pub mod pages;
mod pki;
mod policy_host;
pub mod real;
mod relay;
mod relay_log;
pub mod replay;
mod scram;
mod tasks;
mod tls;

pub use arguments::Argument;
pub use client::{Binding, Client, Closed, ServerSeen, SmtpReply, Trust, message, stuff};
pub use dns::{Answer, Dns, Query};
pub use domain::{Domain, Mode, policy_text};
pub use hickory_proto::rr::RecordType;
pub use mx::{Gate, Greeting, Mx, Opened, Received, Rule, Script, Starttls, Then};
pub use name_server::{NameServer, Over};
pub use pki::{Identity, KeyFiles, Leaf, Pki};
pub use policy_host::{Handshake, HttpRequest, PolicyHost, Reply, Serve, Site};
pub use relay::{EventWait, Mark, Relay, output_of};
pub use relay_log::{Event, LogReading};
pub use serde_json::Value;
pub use tls::TlsSeen;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use guard::Guard;
use hosts::Hosts;

/// One internet of its own.
#[derive(Debug)]
pub struct World {
    /// Names and addresses.
    pub dns: Dns,
    /// Certificates.
    pub pki: Pki,
    /// HTTPS hosts of policies.
    pub policies: PolicyHost,
    hosts: Hosts,
    program: PathBuf,
    relays: AtomicUsize,
    /// Removes the directory, so it stands before it.
    guard: Arc<Guard>,
    dir: PathBuf,
}

impl World {
    /// Starts DNS and policy hosts; `program` is the daemon and the command line.
    pub async fn start(program: impl AsRef<Path>) -> Self {
        // Not $TMPDIR: the admin socket's path must stay below 108 bytes.
        let dir =
            tempfile::Builder::new().prefix("staunch-").tempdir_in("/tmp").expect("a directory");
        let dir = dir.keep();
        let guard = Arc::new(Guard::start(&dir));
        Self {
            dns: Dns::start().await,
            pki: Pki::create(&dir),
            policies: PolicyHost::start().await,
            hosts: Hosts::reserve(),
            program: program.as_ref().to_owned(),
            relays: AtomicUsize::new(0),
            guard,
            dir,
        }
    }

    /// Files of this world; removed with it.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The port of all MX hosts.
    pub fn mx_port(&self) -> u16 {
        self.hosts.port()
    }

    /// A good host with an address record and a certificate for its name.
    pub async fn mx(&self, host: &str) -> Mx {
        let (listener, address) = self.hosts.listen().await;
        self.dns.a(host, address);
        Mx::start(host, listener, Script::good(self.pki.issue(&Leaf::named(host))))
    }

    /// A good host on `::1` with nothing but an AAAA record; there can be one in a world. `None`,
    /// and a word about it, where the machine has no IPv6: the test goes on without, or says no
    /// more.
    pub fn mx6(&self, host: &str) -> Option<Mx> {
        let listener = self.hosts.listen6()?;
        self.dns.aaaa(host, Ipv6Addr::LOCALHOST);
        Some(Mx::start(host, listener, Script::good(self.pki.issue(&Leaf::named(host)))))
    }

    /// Lets a host listen on `::1`, too, and gives it an AAAA record. What it listens on now;
    /// `None`, and a word about it, where the machine has no IPv6.
    pub fn add_ipv6(&self, mx: &Mx) -> Option<SocketAddr> {
        let listener = self.hosts.listen6()?;
        let address = listener.local_addr().expect("bound");
        mx.listen_also(listener);
        self.dns.aaaa(mx.host(), Ipv6Addr::LOCALHOST);
        Some(address)
    }

    /// A good host at an address of [`World::free_address`], which nobody has listened at so far.
    /// Its A records are the test's affair.
    pub async fn mx_at(&self, host: &str, address: SocketAddr) -> Mx {
        let listener = tokio::net::TcpListener::bind(address).await.expect("a free address");
        Mx::start(host, listener, Script::good(self.pki.issue(&Leaf::named(host))))
    }

    /// An address with the port of all MX hosts, for a real server.
    pub async fn free_address(&self) -> SocketAddr {
        let (listener, _) = self.hosts.listen().await;
        listener.local_addr().expect("bound")
    }

    /// Lets a host listen on a further IPv4 address. Its A records are the test's affair.
    pub async fn add_address(&self, mx: &Mx) -> Ipv4Addr {
        let (listener, address) = self.hosts.listen().await;
        mx.listen_also(listener);
        address
    }

    /// An address on which a connection is never refused and never made: no SYN is answered.
    pub async fn silent_address(&self) -> Ipv4Addr {
        self.hosts.silent().await
    }

    /// Who waits just now for the answer to a SYN that he sent to an MX host of this world: the
    /// addresses called (proc(5), `/proc/net/tcp`).
    pub fn connecting(&self) -> Vec<IpAddr> {
        hosts::connecting(self.mx_port())
    }

    /// A certificate for `name` from the good CA, in files for a listener of the daemon.
    pub fn key_files(&self, name: &str) -> KeyFiles {
        let files = KeyFiles {
            certificate: self.dir.join(format!("{name}.pem")),
            key: self.dir.join(format!("{name}.key")),
        };
        files.replace(&self.pki.issue(&Leaf::named(name)));
        files
    }

    /// An address that refuses every connection.
    pub fn dead_address() -> Ipv4Addr {
        Hosts::dead()
    }

    /// A recipient domain.
    pub fn domain<'w>(&'w self, name: &'w str) -> Domain<'w> {
        Domain::new(self, name)
    }

    /// The real daemon with this world as its internet. `overlay` is TOML that adds to or replaces
    /// the world's configuration.
    pub async fn relay(&self, overlay: &str) -> Relay {
        let number = self.relays.fetch_add(1, Ordering::Relaxed);
        let dir = self.dir.join(format!("r{number}"));
        std::fs::create_dir(&dir).expect("a directory");
        // Nobody; and not the users of this machine.
        std::fs::write(dir.join("users"), "").expect("a file");
        let config = relay::configuration(self, &dir, overlay);
        Relay::start(&self.program, dir, &config, Arc::clone(&self.guard)).await
    }
}
