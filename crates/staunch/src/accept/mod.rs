//! Mail comes in: TCP, SMTP, a body on its way to the store, and 250 once it is safe there.
//!
//! Each client has a session task that owns its connection and the message it sends. The order and
//! form of commands is judged by `smtp::server`; whether a sender, recipient or message is taken, by
//! [`desk`]; both against the configuration of the moment.
//!
//! Not here: durability (`queue::intake`), where mail goes next (`route`).

mod arrival;
mod bind;
mod certificates;
mod desk;
mod doors;
mod envelope;
mod fixups;
mod gathered;
mod handshake;
pub(crate) mod identity;
mod incoming;
mod inherited;
mod leave;
mod listener;
mod login;
mod offer;
mod pace;
mod proxy;
mod received;
mod refusal;
mod rules;
mod session;
mod stream;
mod visitors;

use std::sync::{Arc, Mutex};

use tokio::sync::{Semaphore, watch};

use crate::auth::{self, Auth};
use crate::budget::{Budget, Shares};
use crate::config::{Config, Limits};
use crate::lock::lock;
use crate::place::Place;
use crate::queue::intake::Intake;
use crate::queue::rates::Rates;
use crate::recent::Recent;
use visitors::Visitors;

pub(crate) use doors::{BindError, Doors, PreparedDoors};
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
    /// Where clients are that write addresses without brackets, as far as that was told.
    without_brackets: Mutex<Recent<Place, ()>>,
}

/// Places that are remembered, so that each is told of once.
const TOLD_MAX: usize = 1000;

/// Ours: sessions that write to the disk at a time. Each has a thread for it, and each thread memory of its own:
/// a thousand clients with large messages would be a thousand threads.
const DISK_TURNS: usize = 4;

impl Shared {
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
            visitors: Arc::default(),
            rates: Rates::default(),
            disk_turns: Semaphore::new(DISK_TURNS),
            without_brackets: Mutex::new(Recent::new(TOLD_MAX)),
        })
    }

    /// Is it the first client of that place which writes addresses without brackets?
    fn is_first_without_brackets(&self, place: Place) -> bool {
        let mut told = lock(&self.without_brackets);
        let is_first = told.get(&place).is_none();
        told.set(place, ());
        is_first
    }

    /// Another configuration holds from now on, and these users; what is lent already stays so.
    pub(crate) fn reconfigure(&self, config: &Config, users: auth::Prepared) {
        self.budget.resize(shares(&config.limits));
        self.auth.apply(users);
    }

    fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config.borrow())
    }
}

/// How memory is divided, so that each session can take a message.
pub(crate) fn shares(limits: &Limits) -> Shares {
    let sessions = u64::try_from(limits.connections).unwrap_or(u64::MAX);
    Shares::of(limits.memory, sessions.saturating_mul(session::GREEDIEST.guarantee()))
}
