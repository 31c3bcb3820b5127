//! What every attempt works with: handles, no state of its own.

use std::sync::Arc;

use jiff::Timestamp;
use policy::Roots;
use policy::clock::ClockTrust;
use spool::Spool;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use super::listening::Listening;
use crate::clock::ClockWatch;
use crate::config::Config;
use crate::connect::Connector;
use crate::connect::pool::Pool;
use crate::delivery::outcome::AgeCounts;
use crate::dns::Resolver;
use crate::policies::{HostMemory, PolicyCache};
use crate::reloadable::Reloadable;

/// The handles.
#[derive(Debug)]
pub(crate) struct Outbound {
    /// The current configuration; an attempt takes a snapshot and keeps it.
    pub(crate) config: watch::Receiver<Arc<Config>>,
    /// The store, for bodies.
    pub(crate) spool: Spool,
    /// The resolver.
    pub(crate) dns: Resolver,
    /// MTA-STS policies.
    pub(crate) policies: PolicyCache,
    /// What is remembered about MX hosts.
    pub(crate) hosts: HostMemory,
    /// Is the clock to be believed?
    pub(crate) clock: ClockWatch,
    /// Opens connections.
    pub(crate) connector: Connector,
    /// Keeps them for the next mail.
    pub(crate) pool: Pool,
    /// Whom certificates must come from.
    pub(crate) roots: Reloadable<Roots>,
    /// Every task of the daemon.
    pub(crate) tracker: TaskTracker,
    /// Where mail is never sent.
    pub(crate) listening: Listening,
}

impl Outbound {
    /// The configuration of this moment.
    pub(crate) fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config.borrow())
    }

    /// Is it still this one?
    pub(crate) fn is_current(&self, config: &Config) -> bool {
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
}
