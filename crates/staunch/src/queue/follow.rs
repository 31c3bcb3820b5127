//! Mail follows the configuration: it waits in the lane of the next hop that it has today.
//!
//! A lane is stopped before its mail is moved, and what is under way in it stays; so nobody is
//! tried in two lanes at once. What stays behind that way, or came under the configuration of a
//! moment ago, is found when its attempt begins, also anew, when it is over or when the lane is
//! read, and then moved, too. A crash leaves some mail moved and some not; the next start goes on.

use std::collections::{BTreeMap, HashSet};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt as _;
use spool::{DueCursor, LaneKey, MessageId, Move, StoreError};

use super::store;
use crate::delivery::route;
use crate::message::require_tls;
use crate::queue::events::{Followed, MoveEnd};
use crate::queue::facts::QueueFact;
use crate::queue::handle::QueueHandle;

/// Recipients read at once.
const PAGE: usize = 1_000;
/// Recipients moved in one transaction. Our choice: commits of mail wait some 10 ms for it.
const MOVED_AT_ONCE: usize = 1_000;

/// Which lanes are to be looked at?
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Astray {
    /// Those that are no next hop any more. Others are looked at when they are read.
    Wholly,
    /// Those of routes, too: a route may have lost some of its domains.
    Partly,
}

/// A lane that stands still.
#[derive(Debug)]
pub(super) struct Frozen {
    pub(super) lane: LaneKey,
    /// What is under way there and must stay.
    pub(super) in_flight: HashSet<MessageId>,
}

/// The lanes with mail that may have another next hop today.
pub(super) async fn lanes_astray(handle: &Arc<QueueHandle>, astray: Astray) -> Vec<LaneKey> {
    let reader = Arc::clone(handle);
    let read = tokio::task::spawn_blocking(move || reader.spool.lanes()).await;
    let lanes = match read.unwrap_or(Err(StoreError::Closed)) {
        Ok(lanes) => lanes,
        Err(error) => {
            QueueFact::StoreFailed { error: &error, what: "the lanes cannot be read" }.tell();
            return Vec::new();
        }
    };
    let config = handle.config();
    // Who is held is looked at when released.
    let keys = lanes.into_iter().filter(|lane| lane.queued > 0).map(|lane| lane.key);
    keys.filter(|key| match route::mail_of(&config, key) {
        route::MailOf::ThisHop => false,
        route::MailOf::ARoute => astray == Astray::Partly,
        route::MailOf::AnotherHop => true,
    })
    .collect()
}

/// Moves the mail of `frozen` where it belongs. Whatever happens, the lanes are free again then.
pub(super) async fn follow(handle: &Arc<QueueHandle>, frozen: Vec<Frozen>) -> Followed {
    let mut mover = Mover { handle, moves: Vec::new(), moved: BTreeMap::new() };
    let end = match AssertUnwindSafe(mover.all(&frozen)).catch_unwind().await {
        Ok(Ok(())) => MoveEnd::Done,
        Ok(Err(error)) => {
            QueueFact::StoreFailed {
                error: &error,
                what: "mail could not be moved; it is tried again",
            }
            .tell();
            MoveEnd::Failed
        }
        Err(_) => {
            QueueFact::MovePanicked.tell();
            MoveEnd::Failed
        }
    };
    for (to, recipients) in &mover.moved {
        QueueFact::Rerouted { to, recipients: *recipients }.tell();
    }
    let to = mover.moved.into_keys().collect();
    Followed { from: frozen.into_iter().map(|frozen| frozen.lane).collect(), to, end }
}

struct Mover<'a> {
    handle: &'a Arc<QueueHandle>,
    /// Found, and not written yet.
    moves: Vec<Move>,
    /// Recipients, by where they are now.
    moved: BTreeMap<LaneKey, usize>,
}

impl Mover<'_> {
    async fn all(&mut self, frozen: &[Frozen]) -> Result<(), StoreError> {
        for lane in frozen {
            self.lane(lane).await?;
        }
        self.write().await
    }

    async fn lane(&mut self, frozen: &Frozen) -> Result<(), StoreError> {
        let mut after: Option<DueCursor> = None;
        loop {
            let at = after;
            let page = store::read(self.handle, frozen.lane.clone(), move |spool, lane| {
                spool.next(lane, jiff::Timestamp::MAX, at, PAGE)
            });
            let page = page.await?;
            let config = self.handle.config();
            for due in page.due {
                if frozen.in_flight.contains(&due.message) {
                    continue;
                }
                let require_tls = require_tls(&due.options);
                for recipient in &due.recipients {
                    let today = store::lane_today(&config, recipient, require_tls);
                    if let Some(to) = today.filter(|today| *today != frozen.lane) {
                        self.moves.push(Move { message: due.message, no: recipient.no, to });
                    }
                }
            }
            if self.moves.len() >= MOVED_AT_ONCE {
                self.write().await?;
            }
            after = page.next;
            if after.is_none() {
                return Ok(());
            }
        }
    }

    async fn write(&mut self) -> Result<(), StoreError> {
        if self.moves.is_empty() {
            return Ok(());
        }
        let moves = std::mem::take(&mut self.moves);
        let mut counts = BTreeMap::new();
        for to in moves.iter().map(|moved| &moved.to) {
            *counts.entry(to.clone()).or_insert(0) += 1;
        }
        let spool = self.handle.spool.clone();
        let now = self.handle.now();
        let write = tokio::task::spawn_blocking(move || spool.move_to_lanes(moves, now));
        write.await.unwrap_or(Err(StoreError::Closed))?;
        for (to, count) in counts {
            *self.moved.entry(to).or_insert(0) += count;
        }
        Ok(())
    }
}
