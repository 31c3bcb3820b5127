//! What all sessions share.

use std::sync::{Arc, Mutex};

use tokio::sync::{Semaphore, watch};

use super::stream::GREEDIEST;
use crate::accept::client_limits::ClientLimits;
use crate::auth::{self, Auth};
use crate::budget::{Budget, MemoryShares};
use crate::config::{Config, Limits};
use crate::lock::lock;
use crate::lru_map::LruMap;
use crate::place::ClientPlace;
use crate::queue::intake::Intake;
use crate::queue::rates::Rates;

/// Places that are remembered, so that each is told of once.
const TOLD_MAX: usize = 1000;
/// Our choice: sessions that write to the disk at a time. Each has a thread for it, and each thread
/// memory of its own: a thousand clients with large messages would be a thousand threads.
const DISK_TURNS: usize = 4;

/// What all sessions share.
#[derive(Debug)]
pub(crate) struct SessionsShared {
    pub(super) config: watch::Receiver<Arc<Config>>,
    pub(super) intake: Intake,
    pub(super) auth: Arc<Auth>,
    pub(super) budget: Arc<Budget>,
    pub(super) client_limits: Arc<ClientLimits>,
    pub(super) rates: Rates,
    pub(super) disk_turns: Semaphore,
    /// Where clients are that write addresses without brackets, as far as that was told.
    pub(super) without_brackets: Mutex<LruMap<ClientPlace, ()>>,
}

impl SessionsShared {
    /// `config` is watched: what it says at a command holds for that command.
    pub(crate) fn new(
        config: watch::Receiver<Arc<Config>>,
        intake: Intake,
        auth: Arc<Auth>,
        budget: Arc<Budget>,
    ) -> Arc<Self> {
        Arc::new(Self {
            config,
            intake,
            auth,
            budget,
            client_limits: Arc::default(),
            rates: Rates::default(),
            disk_turns: Semaphore::new(DISK_TURNS),
            without_brackets: Mutex::new(LruMap::new(TOLD_MAX)),
        })
    }

    /// Is it the first client of that place which writes addresses without brackets?
    pub(super) fn is_first_without_brackets(&self, place: ClientPlace) -> bool {
        let mut told = lock(&self.without_brackets);
        let is_first = told.get(&place).is_none();
        told.set(place, ());
        is_first
    }

    /// Another configuration holds from now on, and these users; what is lent already stays so.
    pub(crate) fn reconfigure(&self, config: &Config, users: auth::PreparedUsers) {
        self.budget.resize(shares(&config.limits));
        self.auth.apply(users);
    }

    /// The configuration of this moment.
    pub(super) fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config.borrow())
    }
}

/// How memory is divided, so that each session can take a message.
pub(crate) fn shares(limits: &Limits) -> MemoryShares {
    let sessions = u64::try_from(limits.connections).unwrap_or(u64::MAX);
    MemoryShares::of(limits.memory, sessions.saturating_mul(GREEDIEST.guarantee()))
}
