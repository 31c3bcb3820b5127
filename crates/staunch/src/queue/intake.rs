//! The way into the queue: what was accepted becomes durable here, and only then may anyone say
//! 250.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use jiff::Timestamp;
use smtp::{Response, ReversePath, Status};
use spool::{
    Draft, Import, LaneKey, MessageId, RecipientNo, RecipientState, Sealed, StoreError,
    StoredEnvelope,
};
use tokio::sync::oneshot;

use crate::budget::Borrower;
use crate::config::Config;
use crate::message::{Body, HotBody, Rest, Submitter, Target, Work, needs_utf8};
use crate::queue::events::{Event, LaneArrival};
use crate::queue::facts::QueueFact;
use crate::queue::free_space::Reservation;
use crate::queue::handle::{Counted, QueueHandle};
use crate::schedule::after;

/// Mail cannot be taken now; the client keeps it and tries again.
#[derive(Debug)]
pub(crate) struct NotNow {
    /// The reply to MAIL, RCPT or the content: 4xx, so the client tries again.
    pub(crate) reply: Response,
}

impl NotNow {
    fn disk_full() -> Self {
        Self::no_space("Not enough disk space, try again later")
    }

    fn no_space(text: &'static str) -> Self {
        Self { reply: Response::new(452, Status::transient(3, 1), text) }
    }
}

/// Where a message comes from.
#[derive(Debug)]
pub(crate) enum MailOrigin {
    /// A client submitted it by SMTP.
    Client,
    /// It was exported from there.
    OtherQueue(Import),
}

/// What the accepting side uses.
#[derive(Clone, Debug)]
pub(crate) struct Intake {
    handle: Arc<QueueHandle>,
}

impl Intake {
    /// Into the queue of `handle`.
    pub(crate) fn new(handle: Arc<QueueHandle>) -> Self {
        Self { handle }
    }

    /// Room for a message of `client` that is said to have `size` octets.
    ///
    /// # Errors
    ///
    /// [`NotNow`] when the disk or the queue is too full, or the store is broken.
    pub(crate) fn room_for(&self, client: Borrower, size: u64) -> Result<Reservation, NotNow> {
        let handle = &self.handle;
        let limits = &handle.config().limits;
        if handle.broken.is_cancelled() {
            return Err(NotNow::no_space("The queue is not available, try again later"));
        }
        let messages = handle.messages.load(Ordering::Relaxed);
        if limits.queue_messages.is_some_and(|max| messages >= max) {
            return Err(NotNow::no_space("The queue is full, try again later"));
        }
        handle.free.reserve(client, size, limits.disk_free_min).ok_or_else(NotNow::disk_full)
    }

    /// The message has grown to `size` octets.
    ///
    /// # Errors
    ///
    /// [`NotNow`] when it is larger than it was said to be, and there is no room for that.
    pub(crate) fn room_to_grow(&self, room: &mut Reservation, size: u64) -> Result<(), NotNow> {
        let floor = self.handle.config().limits.disk_free_min;
        room.covers(size, floor).then_some(()).ok_or_else(NotNow::disk_full)
    }

    /// The time that mail goes by.
    pub(crate) fn now(&self) -> Timestamp {
        self.handle.now()
    }

    /// Has the operator said that nothing new is to be taken?
    pub(crate) fn is_draining(&self) -> bool {
        self.handle.switches.off().accepting.is_some()
    }

    /// A new message, still empty.
    pub(crate) fn draft(&self) -> Draft {
        self.handle.spool.draft(self.handle.spool.new_id(self.now()))
    }

    /// Makes the message durable and hands it to the queue. Only after this returned, 250. The
    /// lanes of the envelope are those of `config`. `told` is called once it is durable, and before
    /// anything is done with it: so that the log has its arrival first.
    ///
    /// # Errors
    ///
    /// [`NotNow`] when it could not be written; nothing of it is kept then.
    pub(crate) async fn commit(
        &self,
        config: &Config,
        message: (Draft, StoredEnvelope),
        told: impl FnOnce(MessageId),
    ) -> Result<MessageId, NotNow> {
        self.commit_from(config, MailOrigin::Client, message, told).await
    }

    /// The same for a message from wherever.
    pub(crate) async fn commit_from(
        &self,
        config: &Config,
        origin: MailOrigin,
        (draft, envelope): (Draft, StoredEnvelope),
        told: impl FnOnce(MessageId),
    ) -> Result<MessageId, NotNow> {
        let handle = &self.handle;
        let committed = async {
            let sealed = seal(draft).await?;
            let hot = sealed.bytes().and_then(|bytes| HotBody::keep(bytes, &handle.budget));
            let pieces = pieces(handle, sealed.id(), &envelope, hot);
            let has_deadline = envelope.options.deliver_by.is_some();
            let (done, answer) = oneshot::channel();
            let done = move |result| {
                let _gone = done.send(result);
            };
            match origin {
                MailOrigin::Client => handle.spool.commit(sealed, envelope, done),
                MailOrigin::OtherQueue(import) => {
                    handle.spool.commit_imported(import, sealed, (envelope, handle.now()), done);
                }
            }
            let id = answer.await.unwrap_or(Err(StoreError::Closed))?;
            if has_deadline {
                handle.deadlines.notify_one();
            }
            Ok::<_, StoreError>((id, pieces))
        };
        match committed.await {
            Ok((id, pieces)) => {
                handle.count_messages(Counted::Came);
                told(id);
                announce(handle, config, pieces).await;
                Ok(id)
            }
            Err(error) => {
                handle.note_store_error(&error);
                QueueFact::StoreFailed { error: &error, what: "a message could not be stored" }
                    .tell();
                Err(NotNow::no_space("The message could not be stored, try again later"))
            }
        }
    }
}

/// A body that is on disk already is synced off the async threads; a small one needs no I/O here.
async fn seal(draft: Draft) -> Result<Sealed, StoreError> {
    if draft.memory() > 0 || draft.size() == 0 {
        return draft.seal();
    }
    tokio::task::spawn_blocking(move || draft.seal()).await.unwrap_or(Err(StoreError::Closed))
}

/// When mail from `sender` becomes too old that may be tried from `begins` on: the time for which
/// it was asked to be held does not count (RFC 4865 §4).
pub(crate) fn expires_at(config: &Config, sender: &ReversePath, begins: Timestamp) -> Timestamp {
    let lifetime = match sender {
        ReversePath::Null => config.delivery.bounce_lifetime,
        ReversePath::Mailbox(_) => config.delivery.lifetime,
    };
    after(begins, lifetime)
}

/// Tells the queue of what was committed, in lanes of `config`. If that is not of today any more,
/// the reload may have looked for mail with another next hop before this was there to be found.
pub(crate) async fn announce(
    handle: &QueueHandle,
    config: &Config,
    pieces: Vec<(LaneKey, LaneArrival)>,
) {
    let lanes: Vec<LaneKey> = pieces.iter().map(|(lane, _)| lane.clone()).collect();
    handle.tell(Event::Arrived(pieces)).await;
    if !handle.is_current(config) {
        handle.tell(Event::Follow(lanes)).await;
    }
}

/// What each lane has to know, asked before it is committed: the first transaction's worth of what
/// is queued, if it may be tried now.
pub(crate) fn pieces(
    handle: &QueueHandle,
    message: MessageId,
    envelope: &StoredEnvelope,
    hot: Option<HotBody>,
) -> Vec<(LaneKey, LaneArrival)> {
    let per_transaction = handle.config().delivery.recipients_per_transaction;
    let as_of = handle.underway.removals();
    let begins = envelope.begins_at();
    let user = envelope.options.user.as_deref();
    let submitter = Submitter::of(user, &envelope.client, &envelope.sender);
    let mut lanes: BTreeMap<&LaneKey, (Vec<Target>, Rest)> = BTreeMap::new();
    let recipients = (0..=u16::MAX).map(RecipientNo).zip(&envelope.recipients);
    for (no, recipient) in recipients.filter(|(_, r)| r.state == RecipientState::Queued) {
        let (targets, rest) = lanes.entry(&recipient.lane).or_insert((Vec::new(), Rest::Nobody));
        // As it is read back from the store.
        let is_other =
            |first: &Target| needs_utf8(&first.mailbox) != needs_utf8(&recipient.mailbox);
        if targets.len() >= per_transaction || targets.first().is_some_and(is_other) {
            *rest = Rest::Waiting;
            continue;
        }
        targets.push(Target {
            no,
            mailbox: recipient.mailbox.clone(),
            attempts: 0,
            expires_at: envelope.expires_at,
            waits_since: envelope.may_be_warned(recipient).then_some(begins),
            options: recipient.options.clone(),
        });
    }
    if begins > envelope.arrived_at {
        return lanes.into_keys().map(|lane| (lane.clone(), LaneArrival::Later(begins))).collect();
    }
    let body = hot.map_or(Body::Stored, Body::Hot);
    let work = |(lane, (targets, rest)): (&LaneKey, (Vec<Target>, Rest))| {
        let work = Work {
            message,
            sender: envelope.sender.clone(),
            targets,
            rest,
            arrived_at: envelope.arrived_at,
            turn: spool::turn(begins, envelope.options.priority),
            facts: envelope.facts.clone(),
            body: body.clone(),
            options: envelope.options.clone(),
            as_of,
            submitter,
        };
        (lane.clone(), LaneArrival::Work(work))
    };
    lanes.into_iter().map(work).collect()
}

#[cfg(test)]
mod tests {
    use super::super::stage::{Stage, lane};
    use super::*;
    use crate::clock;

    /// The reload may have looked through the lanes before the message was in one.
    #[tokio::test]
    async fn mail_that_a_reload_overtook_is_looked_at_once_more() {
        let mut stage = Stage::new();
        let arrived = || vec![(lane("a.test"), LaneArrival::Later(clock::now()))];
        let config = stage.handle.config();
        announce(&stage.handle, &config, arrived()).await;
        assert!(matches!(stage.next_event(), Some(Event::Arrived(_))));
        assert!(stage.next_event().is_none());

        stage.reload();
        announce(&stage.handle, &config, arrived()).await;
        assert!(matches!(stage.next_event(), Some(Event::Arrived(_))));
        let looked = stage.next_event();
        assert!(matches!(&looked, Some(Event::Follow(lanes)) if *lanes == [lane("a.test")]));
    }
}
