//! The notice to a sender whose mail failed: composed before the settlement, committed with it.

use std::io::Read as _;
use std::sync::Arc;

use jiff::Timestamp;
use report::{Dsn, FailedRecipient, Returned};
use smtp::params::Notify;
use smtp::{Mailbox, RemoteText, ReversePath};
use spool::{
    Envelope, LaneKey, MessageId, MessageOptions, NewMessage, NewRecipient, RecipientOptions,
    RecipientState, StoreError,
};

use super::intake;
use super::work::{Arrival, Body, Target, Work};
use crate::accept::facts_of;
use crate::clock;
use crate::config::{Config, DsnReturn};
use crate::outcome::Problem;
use crate::relay::Relay;
use crate::requirement;
use crate::route;

/// Octets of the original's header that a notice carries (architecture: header blocks ≤ 256 KiB).
const HEADER_MAX: usize = 256 * 1024;
const HEADER_MAX_OCTETS: u64 = 256 * 1024;
/// A larger original goes back as its header only, even under `dsn.return = "full"`. Ours: senders
/// have their message, and notices must not fill queues.
const FULL_RETURN_MAX: u64 = 1024 * 1024;

/// The message that failed, as far as a notice speaks of it.
#[derive(Debug)]
pub(crate) struct Subject<'a> {
    /// Its id.
    pub(crate) message: MessageId,
    sender: &'a ReversePath,
    arrived_at: Timestamp,
    size: u64,
    body: &'a Body,
    options: &'a MessageOptions,
}

impl<'a> From<&'a Work> for Subject<'a> {
    fn from(work: &'a Work) -> Self {
        Self {
            message: work.message,
            sender: &work.sender,
            arrived_at: work.arrived_at,
            size: work.facts.size,
            body: &work.body,
            options: &work.options,
        }
    }
}

/// A recipient that failed, and why.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    /// Whom the message did not reach.
    pub(crate) target: Target,
    /// Why, in final words.
    pub(crate) problem: Problem,
}

/// A notice ready to be committed.
#[derive(Debug)]
pub(crate) struct Notice {
    /// For the settlement.
    pub(crate) message: NewMessage,
    /// For the queue, once it is committed.
    pub(crate) pieces: Vec<(LaneKey, Arrival)>,
}

/// The notice about `failures`; `None` if nothing failed or nobody is to be told: a notice about a
/// notice is never sent (RFC 5321 §4.5.5).
///
/// # Errors
///
/// [`StoreError`] when the original cannot be read or the notice not be written.
pub(crate) async fn compose(
    relay: &Arc<Relay>,
    config: &Config,
    subject: &Subject<'_>,
    failures: &[Failure],
) -> Result<Option<Notice>, StoreError> {
    if failures.is_empty() {
        return Ok(None);
    }
    let to = subject.sender.mailbox().and_then(|to| Some((to, to.domain().name()?)));
    let Some((sender, domain)) = to else {
        tracing::warn!(
            event = "dsn_undeliverable",
            message_id = %subject.message,
            sender = %subject.sender,
            "mail failed for good, and nobody can be told"
        );
        return Ok(None);
    };
    let original = match original(relay, config, subject).await {
        Ok(original) => original,
        // An operator deleted the message while it was tried: nobody is told.
        Err(StoreError::Missing { .. }) => return Ok(None),
        Err(error @ (StoreError::Poisoned | StoreError::Closed)) => return Err(error),
        // A notice without the original is better than none, and than asking a broken disk for ever.
        Err(error) => {
            let message = subject.message;
            tracing::error!(event = "store_failed", message_id = %message, %error, "a notice goes without its original");
            Vec::new()
        }
    };
    let now = clock::now();
    let id = relay.spool.new_id(now);
    let text = write(config, subject, failures, Parts { sender, id, now, original: &original });
    let facts = facts_of(&text);
    let mut draft = relay.spool.draft(id);
    // A large notice is written to the disk here.
    let sealed = tokio::task::spawn_blocking(move || {
        draft.write(&text)?;
        draft.seal()
    });
    let sealed = sealed.await.unwrap_or(Err(StoreError::Closed))?;
    // What was not to be read on its way there is not to be read on its way back (RFC 8689 §5).
    let options =
        MessageOptions { require_tls: subject.options.require_tls, ..MessageOptions::default() };
    let lane = route::lane(config, domain, requirement::onward(&options));
    let envelope = Envelope {
        sender: ReversePath::Null,
        recipients: vec![NewRecipient {
            mailbox: sender.clone(),
            lane,
            // RFC 3461 §6: nobody is told what becomes of a notice.
            options: RecipientOptions { notify: Some(Notify::Never), original: None },
            state: RecipientState::Queued,
        }],
        arrived_at: now,
        expires_at: intake::expires_at(config, &ReversePath::Null, now),
        client: "notice".into(),
        facts,
        options,
    };
    let pieces = intake::pieces(relay, id, &envelope, None);
    Ok(Some(Notice { message: NewMessage { body: sealed, envelope }, pieces }))
}

/// The original, or its header.
async fn original(
    relay: &Relay,
    config: &Config,
    subject: &Subject<'_>,
) -> Result<Vec<u8>, StoreError> {
    let returned = returned(config, subject);
    if let Body::Hot(body) = subject.body {
        let wanted = match returned {
            Returned::Full => body.bytes.len(),
            Returned::Headers => HEADER_MAX,
        };
        return Ok(body.bytes.get(..wanted).unwrap_or(&body.bytes).to_vec());
    }
    let (spool, message, size) = (relay.spool.clone(), subject.message, subject.size);
    let read = move || match returned {
        Returned::Headers => spool.header_block(message, HEADER_MAX_OCTETS),
        Returned::Full => match spool.body(message)? {
            spool::Body::Memory(bytes) => Ok(bytes.to_vec()),
            spool::Body::File { file, .. } => {
                let mut bytes = Vec::new();
                file.take(size).read_to_end(&mut bytes).map_err(StoreError::reading_a_body)?;
                Ok(bytes)
            }
        },
    };
    tokio::task::spawn_blocking(read).await.unwrap_or(Err(StoreError::Closed))
}

fn returned(config: &Config, subject: &Subject<'_>) -> Returned {
    if subject.options.require_tls {
        return Returned::Headers;
    }
    match config.dsn.returns {
        DsnReturn::Full if subject.size <= FULL_RETURN_MAX => Returned::Full,
        DsnReturn::Full | DsnReturn::Headers => Returned::Headers,
    }
}

struct Parts<'a> {
    sender: &'a Mailbox,
    id: MessageId,
    now: Timestamp,
    original: &'a [u8],
}

fn write(
    config: &Config,
    subject: &Subject<'_>,
    failures: &[Failure],
    parts: Parts<'_>,
) -> Vec<u8> {
    let reporting_mta = config.hostname.to_string();
    let texts: Vec<String> = failures.iter().map(|failure| explanation(&failure.problem)).collect();
    let recipients: Vec<FailedRecipient<'_>> = failures
        .iter()
        .zip(&texts)
        .map(|(Failure { target, problem }, explanation)| FailedRecipient {
            final_recipient: &target.mailbox,
            status: problem.status,
            remote_mta: problem.mx.as_ref(),
            diagnostic: problem.reply.as_ref().map(|reply| RemoteText::new(&reply.to_string())),
            last_attempt: Some(parts.now),
            explanation,
        })
        .collect();
    Dsn {
        reporting_mta: &reporting_mta,
        from: &config.dsn.from,
        to: parts.sender,
        message_id: &format!("{}@{}", parts.id, config.dsn.from.domain()),
        date: parts.now,
        arrival_date: subject.arrived_at,
        original_id: &subject.message.to_string(),
        recipients: &recipients,
        returned: returned(config, subject),
        original: parts.original,
    }
    .compose()
}

fn explanation(problem: &Problem) -> String {
    format!("{} ({})", problem.text, problem.reason)
}
