//! A message that asks to be committed: what is asked of the writer for it.

use std::sync::Arc;

use rusqlite::Connection;
use smtp::params::Priority;

use crate::commit::{self, Rows};
use crate::draft::{OrphanGuard, Sealed, SealedBody};
use crate::journal::Recordable;
use crate::message::{RecipientState, StoredEnvelope};
use crate::writer::{Needs, Order, Urgency};
use crate::{MessageId, StoreError};

/// A message with its envelope, shared by what may be done with it.
#[derive(Debug)]
pub(crate) struct Incoming {
    new: Arc<(Sealed, Arc<StoredEnvelope>)>,
}

impl Incoming {
    /// Can it be kept?
    pub(crate) fn check(body: Sealed, envelope: StoredEnvelope) -> Result<Self, StoreError> {
        commit::check(&envelope)?;
        Ok(Self { new: Arc::new((body, Arc::new(envelope))) })
    }

    /// What it asks of the writer.
    pub(crate) fn order(&self) -> Order {
        let (body, envelope) = &*self.new;
        let record =
            may_leave_soon(body, envelope).then(|| Recordable::Accepted(Arc::clone(&self.new)));
        Order {
            octets: commit::octets(body, envelope),
            record,
            // Another one with its id is met there.
            ..Order::needing(Urgency::Ordinary, Needs::Message(body.id()))
        }
    }

    /// The change that adds its rows, for the writer to make.
    pub(crate) fn insert(
        &self,
        rows: Arc<Rows>,
    ) -> impl Fn(&Connection) -> Result<(), StoreError> + Send + use<> {
        let new = Arc::clone(&self.new);
        move |db: &Connection| commit::insert(db, &new.0, &new.1, &rows)
    }

    /// Once it is committed, or not.
    pub(crate) fn answer<D>(&self, done: D) -> impl FnOnce(Result<(), StoreError>) + Send + use<D>
    where
        D: FnOnce(Result<MessageId, StoreError>) + Send,
    {
        let (id, guard): (_, Option<Arc<OrphanGuard>>) = (self.new.0.id(), self.new.0.guard());
        move |result| {
            if let (Ok(()), Some(guard)) = (&result, guard) {
                guard.keep();
            }
            done(result.map(|()| id));
        }
    }
}

/// What waits from the first has its rows from the first, and a body that is a file is written once
/// as it is.
fn may_leave_soon(body: &Sealed, envelope: &StoredEnvelope) -> bool {
    let is_small = match body.body() {
        SealedBody::Memory(_) => true,
        SealedBody::File(_) => false,
    };
    is_small
        && envelope.options.not_before.is_none()
        && envelope.options.deliver_by.is_none()
        // Lanes are read by turn, and mail of the journal has that of its arrival.
        && envelope.options.priority == Priority::default()
        && envelope.recipients.iter().all(|one| one.state == RecipientState::Queued)
}
