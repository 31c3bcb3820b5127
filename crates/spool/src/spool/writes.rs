//! How mail comes into the queue, and what becomes of it.

use std::sync::Arc;

use rusqlite::Connection;

use super::{Spool, remove_files};
use crate::draft::Sealed;
use crate::incoming::Incoming;
use crate::journal::Recordable;
use crate::journal::format::Done;
use crate::lane_rows::update_lane;
use crate::message::{
    Change, LaneState, LaneUpdate, RecipientNo, Settled, Settlement, StoredEnvelope,
};
use crate::vitals::Health;
use crate::writer::{LaneWord, Needs, Order, Urgency};
use crate::{MessageId, StoreError, commit, mend};

/// Proof that, when it was given, a settlement could be written. [`Spool::settle_permit`] makes it.
#[derive(Debug)]
pub struct SettlePermit {
    _given: (),
}

impl Spool {
    /// Puts a message into the queue, due at [`StoredEnvelope::begins_at`]. `done` runs after the
    /// sync that makes it durable, on the writer's thread: it must not block.
    pub fn commit<D>(&self, body: Sealed, envelope: StoredEnvelope, done: D)
    where
        D: FnOnce(Result<MessageId, StoreError>) + Send + 'static,
    {
        let new = match Incoming::check(body, envelope) {
            Ok(new) => new,
            Err(error) => return done(Err(error)),
        };
        let insert = new.insert(Arc::clone(&self.inner.rows));
        self.inner.queue.submit_record(new.order(), |_| (), insert, new.answer(done));
    }

    /// Proves, before anything is transmitted, that its settlement can be written.
    ///
    /// # Errors
    ///
    /// [`StoreError::Full`] while the reserve is gone, [`StoreError::ReadOnly`] while nothing can
    /// be written, [`StoreError::Poisoned`] for good.
    pub fn settle_permit(&self) -> Result<SettlePermit, StoreError> {
        match self.health() {
            Health::Good | Health::Detached => Ok(SettlePermit { _given: () }),
            Health::NoReserve => Err(StoreError::Full),
            Health::ReadOnly => Err(StoreError::ReadOnly),
            Health::Poisoned => Err(StoreError::Poisoned),
        }
    }

    /// Records what an attempt came to: recipients, DSNs and lane in one transaction. If the
    /// message was deleted meanwhile, or all recipients that this is about have left it, only the
    /// lane is updated. `done` must not block.
    ///
    /// While a settlement has failed, its recipients must not be tried again without an answer to
    /// the question why: each would get the message twice.
    pub fn settle<D>(&self, settlement: Settlement, done: D)
    where
        D: FnOnce(Result<Settled, StoreError>) + Send + 'static,
    {
        let refused = settlement.dsns.iter().find_map(|new| commit::check(&new.envelope).err());
        if let Some(error) = refused {
            return done(Err(error));
        }
        let wards: Vec<_> = settlement.dsns.iter().filter_map(|new| new.body.guard()).collect();
        let jobs = self.inner.housekeeper.jobs();
        let (bodies_dir, rows) = (Arc::clone(&self.inner.bodies_dir), Arc::clone(&self.inner.rows));
        let order = settling(&settlement);
        let (message, ends) = (settlement.message, mend::ends(&settlement.changes));
        let (queue, unrecorded) =
            (Arc::clone(&self.inner.queue), Arc::clone(&self.inner.unrecorded));
        let apply =
            move |db: &Connection| commit::settle(db, &settlement, &bodies_dir.layout, &rows);
        self.inner.queue.submit_record(
            order,
            |settled| commit::CommitOutcome { settled, file: None },
            apply,
            move |result| match result {
                Ok(outcome) => {
                    match outcome.settled {
                        // Rows name the DSNs' bodies now.
                        Settled::Waiting | Settled::Gone => {
                            wards.iter().for_each(|guard| guard.keep())
                        }
                        Settled::Missing | Settled::Moot | Settled::Unrecorded => {}
                    }
                    remove_files(jobs.as_ref(), outcome.file);
                    done(Ok(outcome.settled));
                }
                Err(error) if error.is_damage() => {
                    unrecorded.add(message, &ends);
                    let note = move |db: &Connection| mend::note_done(db, message, &ends);
                    let order = Order::needing(Urgency::Settling, Needs::Nothing);
                    queue.submit(order, note, |noted| {
                        // If not even that can be written, this process knows, and the next one
                        // does not.
                        done(noted.map(|()| Settled::Unrecorded).or(Ok(Settled::Unrecorded)));
                    });
                }
                Err(error) => done(Err(error)),
            },
        );
    }

    /// Records what was learnt about a lane without an attempt on a message.
    pub fn update_lane<D>(&self, update: LaneUpdate, done: D)
    where
        D: FnOnce(Result<(), StoreError>) + Send + 'static,
    {
        let lane = Some(lane_word(&update));
        let order = Order { lane, ..Order::needing(Urgency::Settling, Needs::Nothing) };
        let apply = move |db: &Connection| update_lane(db, &update);
        self.inner.queue.submit(order, apply, done);
    }
}

/// What a settlement asks of the writer. If all it says is who is done, it can be a record of the
/// journal.
fn settling(settlement: &Settlement) -> Order {
    let message = settlement.message;
    let octets = settlement.dsns.iter().map(|new| commit::octets(&new.body, &new.envelope));
    let lane = settlement.lane.as_ref().map(lane_word);
    let done = settlement.changes.iter().map(|(no, change)| match change {
        Change::Delivered | Change::Failed => Some(*no),
        Change::Deferred(_) | Change::Told(_) => None,
    });
    let done: Option<Vec<RecipientNo>> = done.collect();
    let healthy = match &lane {
        None => Some(None),
        Some(LaneWord::Healthy(lane)) => Some(Some(lane.clone())),
        Some(LaneWord::Failing(_)) => None,
    };
    let record = done.zip(healthy).filter(|_| settlement.dsns.is_empty());
    let record = record.map(|(recipients, healthy)| Recordable::Done {
        done: Done { message, recipients },
        healthy,
    });
    Order {
        octets: octets.sum(),
        record,
        lane,
        ..Order::needing(Urgency::Settling, Needs::Message(message))
    }
}

fn lane_word(update: &LaneUpdate) -> LaneWord {
    match update.state {
        LaneState::Healthy => LaneWord::Healthy(update.key.clone()),
        LaneState::Failing(_) => LaneWord::Failing(update.key.clone()),
    }
}
