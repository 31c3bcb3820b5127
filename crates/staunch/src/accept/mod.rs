//! Mail comes in: TCP, SMTP, a body on its way to the store, and 250 once it is safe there.
//!
//! Each client has a session task that owns its connection and the message it sends. The order and
//! form of commands is judged by `smtp::server`; whether a sender, recipient or message is taken, by
//! [`desk`]; both against the configuration of the moment.
//!
//! Not here: durability (`queue::intake`), where mail goes next (`route`).

mod arrival;
mod bind;
mod body_hash;
mod budget;
mod certificates;
mod desk;
mod doors;
mod envelope;
mod facts;
mod fixups;
mod incoming;
mod inherited;
mod listener;
mod login;
mod offer;
mod pace;
mod proxy;
mod rates;
mod received;
mod refusal;
mod rules;
mod session;
mod stream;
mod visitors;

use std::sync::Arc;

use tokio::sync::{Semaphore, watch};

use crate::auth::{self, Auth};
use crate::config::{Config, Limits};
use crate::queue::intake::{HotBudget, Intake};
use budget::Budget;
use rates::Rates;
use visitors::Visitors;

pub(crate) use doors::{BindError, Doors, PreparedDoors};
pub(crate) use facts::facts_of;
pub(crate) use inherited::Inherited;

/// What all sessions share.
#[derive(Debug)]
pub(crate) struct Shared {
    config: watch::Receiver<Arc<Config>>,
    intake: Intake,
    auth: Arc<Auth>,
    budget: Arc<Budget>,
    visitors: Arc<Visitors>,
    rates: Rates,
    disk_turns: Semaphore,
}

/// Ours: sessions that write to the disk at a time. Each has a thread for it, and each thread memory of its own:
/// a thousand clients with large messages would be a thousand threads.
const DISK_TURNS: usize = 4;

impl Shared {
    /// `config` is watched: what it says at a command holds for that command.
    pub(crate) fn new(
        config: watch::Receiver<Arc<Config>>,
        intake: Intake,
        auth: Arc<Auth>,
    ) -> Arc<Self> {
        let (memory, kept_back) = memory_of(&config.borrow().limits);
        let budget = Budget::new(memory, kept_back);
        Arc::new(Self {
            config,
            intake,
            auth,
            budget,
            visitors: Arc::default(),
            rates: Rates::default(),
            disk_turns: Semaphore::new(DISK_TURNS),
        })
    }

    /// Another configuration holds from now on, and these users; what is lent already stays so.
    pub(crate) fn reconfigure(&self, config: &Config, users: auth::Prepared) {
        let (memory, kept_back) = memory_of(&config.limits);
        self.budget.resize(memory, kept_back);
        self.auth.apply(users);
    }

    fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config.borrow())
    }
}

/// What of `limits.memory` is for sessions, and what of that is kept back so that each can take a message.
fn memory_of(limits: &Limits) -> (u64, u64) {
    let memory = limits.memory.saturating_sub(HotBudget::share_of(limits.memory));
    let sessions = u64::try_from(limits.connections).unwrap_or(u64::MAX);
    (memory, sessions.saturating_mul(session::GREEDIEST.guarantee()))
}
