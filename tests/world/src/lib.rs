//! A small internet on loopback: DNS, policy hosts, certificate authorities, scripted MX hosts, and
//! the real daemon started against them.
//!
//! Everything is a real socket on an ephemeral port and belongs to one [`World`], so that any number
//! of worlds run side by side. Changes to DNS, policies and hosts hold at once. Tests wait for what
//! they expect, never for time to pass; a wait has one limit ([`log::LIMIT`]) and a failure is a
//! panic that says what was there instead.

mod client;
mod dns;
mod domain;
mod guard;
mod hosts;
pub mod load;
pub mod log;
mod mx;
mod pki;
mod policy_host;
pub mod real;
mod relay;
pub mod replay;
mod tasks;
mod tls;

pub use client::{Client, Closed, SmtpReply, message, stuff};
pub use dns::{Answer, Dns, Query};
pub use domain::{Domain, Mode, policy_text};
pub use hickory_proto::rr::RecordType;
pub use mx::{Greeting, Mx, Received, Rule, Script, Starttls, Then};
pub use pki::{Identity, Leaf, Pki};
pub use policy_host::{Handshake, HttpRequest, PolicyHost, Reply, Serve, Site};
pub use relay::{Event, EventWait, Mark, Relay};
pub use serde_json::Value;
pub use tls::TlsSeen;

use std::net::Ipv4Addr;
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
        let config = relay::configuration(self, &dir, overlay);
        Relay::start(&self.program, dir, &config, Arc::clone(&self.guard)).await
    }
}
