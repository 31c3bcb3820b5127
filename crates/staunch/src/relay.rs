//! What every part of the running daemon shares: handles, no state of its own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;
use policy::Roots;
use policy::clock::ClockTrust;
use spool::Spool;
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::addresses::ends;
use crate::budget::Budget;
use crate::clock::ClockWatch;
use crate::config::Config;
use crate::connect::Connector;
use crate::delivery::underway::Underway;
use crate::free_space::FreeSpace;
use crate::live::Live;
use crate::outcome::AgeCounts;
use crate::policy_store::{HostMemory, PolicyKeeper};
use crate::pool::Pool;
use crate::queue::events::Event;
use crate::queue::gathering::Gathering;
use crate::queue::restraint::Restraint;
use crate::queue::{aftermath, damaged};
use crate::reload;
use crate::resolve::Dns;
use crate::switches::Switches;

/// The shared handles.
#[derive(Debug)]
pub(crate) struct Relay {
    /// The configuration of today; an attempt takes a snapshot and keeps it.
    pub(crate) config: watch::Receiver<Arc<Config>>,
    /// The store.
    pub(crate) spool: Spool,
    /// The resolver.
    pub(crate) dns: Dns,
    /// MTA-STS policies.
    pub(crate) policies: PolicyKeeper,
    /// What is remembered about MX hosts.
    pub(crate) hosts: HostMemory,
    /// Is the clock to be believed?
    pub(crate) clock: ClockWatch,
    /// Opens connections.
    pub(crate) connector: Connector,
    /// Keeps them for the next mail.
    pub(crate) pool: Pool,
    /// Whom certificates must come from.
    pub(crate) roots: Live<Roots>,
    /// Every task of the daemon.
    pub(crate) tracker: TaskTracker,
    /// Memory for mail that arrives or was just accepted.
    pub(crate) budget: Arc<Budget>,
    /// Free octets of the data directory.
    pub(crate) free: Arc<FreeSpace>,
    /// Messages in the queue.
    pub(crate) messages: AtomicU64,
    /// Where we listen ourselves: mail is never sent there.
    pub(crate) listening: Live<Vec<SocketAddr>>,
    /// The store can no longer be trusted: everything stops, and a restart reads the files anew.
    pub(crate) broken: CancellationToken,
    /// What is being tried at this moment.
    pub(crate) underway: Arc<Underway>,
    /// Whose senders are being told that mail waits.
    pub(crate) delay_dsns: aftermath::DelayDsns,
    /// Failures that are told together.
    pub(crate) gathering: Gathering,
    /// What notices may cost others.
    pub(crate) restraint: Arc<Restraint>,
    /// Mail that is damaged, and was named.
    pub(crate) damaged: damaged::Named,
    /// What the operator has switched off.
    pub(crate) switches: Switches,
    /// Mail with a deadline has come.
    pub(crate) deadlines: Notify,
    /// The queue task.
    pub(crate) queue: mpsc::Sender<Event>,
    /// Whoever reloads the configuration.
    pub(crate) reloads: mpsc::Sender<reload::Request>,
}

impl Relay {
    /// The configuration of this moment.
    pub(crate) fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config.borrow())
    }

    /// Is it still this one?
    pub(crate) fn is_of_today(&self, config: &Config) -> bool {
        std::ptr::eq(Arc::as_ptr(&self.config.borrow()), config)
    }

    /// The time that mail goes by: the wall clock, or what it should be.
    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// May age end anything now?
    pub(crate) fn age_counts(&self) -> AgeCounts {
        match self.clock.moment().clock {
            ClockTrust::Trusted => AgeCounts::Yes,
            ClockTrust::Suspect => AgeCounts::ClockSuspect,
        }
    }

    /// Tells the queue task. It only goes away when the daemon ends, and then nobody has to know.
    pub(crate) async fn tell_queue(&self, event: Event) {
        let _ended = self.queue.send(event).await;
    }

    /// Is this one of our own listeners, whatever the address is wrapped in?
    pub(crate) fn is_ourselves(&self, address: SocketAddr) -> bool {
        ends(address.ip()).any(|ip| {
            let end = SocketAddr::new(ip, address.port());
            self.listening.now().iter().any(|listener| is_at(*listener, end))
        })
    }

    /// After an error of the store: if it is poisoned, the daemon ends.
    pub(crate) fn note_store_error(&self, error: &spool::StoreError) {
        if matches!(error, spool::StoreError::Poisoned) {
            self.broken.cancel();
        }
    }

    /// Keeps the number of queued messages up to date.
    pub(crate) fn count_messages(&self, change: Counted) {
        match change {
            Counted::Came => {
                self.messages.fetch_add(1, Ordering::Relaxed);
            }
            Counted::Left => {
                let less = |n: u64| Some(n.saturating_sub(1));
                let _before =
                    self.messages.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
            }
            Counted::Anew(count) => self.messages.store(count, Ordering::Relaxed),
        }
    }
}

/// Does `listener` answer at `address`?
fn is_at(listener: SocketAddr, address: SocketAddr) -> bool {
    let ip = listener.ip().to_canonical();
    listener.port() == address.port()
        && (ip == address.ip() || (ip.is_unspecified() && is_on_this_machine(address)))
}

/// Is `address` one of this machine's? The system then takes it as the source towards itself. Nothing
/// is sent: a UDP socket is connected by a look at the routing table.
fn is_on_this_machine(address: SocketAddr) -> bool {
    if address.ip().to_canonical().is_loopback() {
        return true;
    }
    let any: IpAddr = match address {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let source = UdpSocket::bind((any, 0)).and_then(|socket| {
        socket.connect(address)?;
        socket.local_addr()
    });
    source.is_ok_and(|source| source.ip() == address.ip())
}

/// A change of the number of queued messages.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Counted {
    /// One was committed.
    Came,
    /// One is done.
    Left,
    /// There are so many.
    Anew(u64),
}

/// A random byte, for spreading waits. Without randomness the middle.
pub(crate) fn dice() -> u8 {
    let mut byte = [127];
    let _middle = aws_lc_rs::rand::fill(&mut byte);
    byte[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_own_address_is_ourselves_in_every_wrapping() {
        let stage = crate::queue::stage::Stage::new();
        let relay = &stage.relay;
        let listening = ["192.0.2.1:25", "[2001:db8::1]:25", "[::ffff:192.0.2.9]:25", "0.0.0.0:26"];
        relay.listening.replace(listening.map(|address| address.parse().unwrap()).to_vec());
        let cases = [
            ("192.0.2.1:25", true),
            ("192.0.2.1:2525", false),
            ("192.0.2.2:25", false),
            ("192.0.2.9:25", true),
            ("[2001:db8::1]:25", true),
            ("[2001:db8::2]:25", false),
            ("[::ffff:192.0.2.1]:25", true),
            ("[::ffff:192.0.2.2]:25", false),
            ("[64:ff9b::c000:201]:25", true),
            ("[64:ff9b::c000:201]:2525", false),
            ("[64:ff9b::c000:202]:25", false),
            ("[2002:c000:201::1]:25", true),
            ("[::ffff:127.0.0.1]:26", true),
            ("[64:ff9b::7f00:1]:26", true),
        ];
        for (address, want) in cases {
            assert_eq!(relay.is_ourselves(address.parse().unwrap()), want, "{address}");
        }
    }

    #[test]
    fn a_listener_on_every_address_is_on_those_of_this_machine_and_not_on_all_of_the_world() {
        for (address, want) in
            [("127.0.0.1:25", true), ("127.0.0.9:25", true), ("192.0.2.1:25", false)]
        {
            assert_eq!(is_on_this_machine(address.parse().unwrap()), want, "{address}");
        }
    }
}
