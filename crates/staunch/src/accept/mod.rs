//! Mail comes in: TCP, SMTP, a body on its way to the store, and 250 once it is safe there.
//!
//! Each client has a session task that owns its connection and the message it sends. The order and
//! form of commands is judged by `smtp::server`; whether a sender, recipient or message is taken, by
//! [`desk`]; both against the configuration of the moment.
//!
//! Not here: durability (`queue::intake`), where mail goes next (`route`).

mod arrival;
mod body_hash;
mod budget;
mod desk;
mod facts;
mod incoming;
mod listener;
mod received;
mod refusal;
mod session;
mod visitors;

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::queue::intake::{HotBudget, Intake};
use budget::Budget;
use visitors::{Visit, Visitors};

pub(crate) use facts::facts_of;
pub(crate) use listener::{BindError, BoundListener, bind};

/// What all sessions share.
#[derive(Debug)]
pub(crate) struct Shared {
    config: watch::Receiver<Arc<Config>>,
    intake: Intake,
    budget: Arc<Budget>,
    visitors: Arc<Visitors>,
}

impl Shared {
    /// `config` is watched: what it says at a command holds for that command.
    pub(crate) fn new(config: watch::Receiver<Arc<Config>>, intake: Intake) -> Arc<Self> {
        let limits = config.borrow().limits.clone();
        let sessions = u64::try_from(limits.connections).unwrap_or(u64::MAX);
        let memory = limits.memory - HotBudget::share_of(limits.memory);
        let budget = Budget::new(memory, sessions);
        Arc::new(Self { config, intake, budget, visitors: Arc::default() })
    }

    fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config.borrow())
    }
}

/// Takes mail on every listener until `stop`. Returns when the sockets are closed; sessions that
/// still run are tasks of `tracker` and end by themselves.
pub(crate) async fn serve(
    listeners: Vec<BoundListener>,
    shared: Arc<Shared>,
    tracker: TaskTracker,
    stop: CancellationToken,
) {
    let open = |bound| listener::listen(bound, Arc::clone(&shared), tracker.clone(), stop.clone());
    futures_util::future::join_all(listeners.into_iter().map(open)).await;
}
