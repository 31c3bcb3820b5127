//! What others may say to the queue, and what its tasks share: handles, no state of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;
use spool::{Spool, StoreError};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::delay_dsns::DelayDsns;
use super::events::Event;
use super::gathered::Gathering;
use super::named::Named;
use super::restraint::Restraint;
use crate::budget::Budget;
use crate::clock::ClockWatch;
use crate::config::Config;
use crate::delivery::outbound::Outbound;
use crate::delivery::outcome::AgeCounts;
use crate::delivery::underway::Underway;
use crate::queue::free_space::FreeSpace;
use crate::queue::switches::Switches;

/// Settlements that are under way at once: as many share a sync. Our choice: a DSN may carry 1
/// MiB.
pub(crate) const ENDED_AT_ONCE: usize = 128;

/// The queue, as everybody else sees it.
#[derive(Debug)]
pub(crate) struct QueueHandle {
    /// What attempts work with.
    pub(crate) outbound: Arc<Outbound>,
    /// The store of mail, policies and marks.
    pub(crate) spool: Spool,
    /// Is the clock to be believed?
    pub(crate) clock: ClockWatch,
    /// Every task of the daemon.
    pub(crate) tracker: TaskTracker,
    /// Memory for mail that arrives or was just accepted.
    pub(crate) budget: Arc<Budget>,
    /// Free octets of the data directory.
    pub(crate) free: Arc<FreeSpace>,
    /// Messages in the queue.
    pub(crate) messages: AtomicU64,
    /// The store can no longer be trusted: everything stops, and a restart reads the files anew.
    pub(crate) broken: CancellationToken,
    /// What is being tried at this moment.
    pub(crate) underway: Arc<Underway>,
    /// Whose senders are being told that mail waits.
    pub(crate) delay_dsns: DelayDsns,
    /// Failures that are told together.
    pub(crate) gathering: Gathering,
    /// What DSNs may cost others.
    pub(crate) restraint: Arc<Restraint>,
    /// Mail that is damaged, and was named.
    pub(crate) damaged: Named,
    /// What the operator has switched off.
    pub(crate) switches: Switches,
    /// Mail with a deadline has come.
    pub(crate) deadlines: Notify,
    /// What the queue task is told next.
    events: mpsc::Sender<Event>,
}

impl QueueHandle {
    /// On a queue whose task gets `events`, with `messages` in it, of a daemon that delivers by
    /// `outbound`.
    pub(crate) fn new(
        outbound: Arc<Outbound>,
        (switches, messages): (Switches, u64),
        budget: Arc<Budget>,
        events: mpsc::Sender<Event>,
    ) -> Self {
        Self {
            spool: outbound.spool.clone(),
            clock: outbound.clock.clone(),
            tracker: outbound.tracker.clone(),
            outbound,
            budget,
            free: FreeSpace::new(),
            messages: AtomicU64::new(messages),
            broken: CancellationToken::new(),
            underway: Arc::default(),
            delay_dsns: Default::default(),
            gathering: Default::default(),
            restraint: Default::default(),
            damaged: Default::default(),
            switches,
            deadlines: Notify::new(),
            events,
        }
    }

    /// The configuration of this moment.
    pub(crate) fn config(&self) -> Arc<Config> {
        self.outbound.config()
    }

    /// Is it still this one?
    pub(crate) fn is_current(&self, config: &Config) -> bool {
        self.outbound.is_current(config)
    }

    /// The time that mail goes by: the wall clock, or what it should be.
    pub(crate) fn now(&self) -> Timestamp {
        self.outbound.now()
    }

    /// May age end anything now?
    pub(crate) fn age_counts(&self) -> AgeCounts {
        self.outbound.age_counts()
    }

    /// Asks the store, off the async threads: it blocks.
    ///
    /// # Errors
    ///
    /// [`StoreError`]: the store's, or [`StoreError::Closed`] if asking ended in a bug.
    pub(crate) async fn ask<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Spool) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let spool = self.spool.clone();
        let asked = tokio::task::spawn_blocking(move || query(&spool)).await;
        asked.unwrap_or(Err(StoreError::Closed))
    }

    /// Tells the queue task. It only goes away when the daemon ends, and then nothing has to be
    /// told.
    pub(crate) async fn tell(&self, event: Event) {
        let _ended = self.events.send(event).await;
    }

    /// After an error of the store: if it is poisoned, the daemon ends.
    pub(crate) fn note_store_error(&self, error: &StoreError) {
        if matches!(error, StoreError::Poisoned) {
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

/// A change of the number of queued messages.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Counted {
    /// One message was committed.
    Came,
    /// One message has no recipient left.
    Left,
    /// There are so many.
    Anew(u64),
}
