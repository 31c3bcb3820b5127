//! The DSN to a sender: composed before the settlement, committed with it.

use std::io::Read as _;
use std::slice;
use std::sync::Arc;

use jiff::Timestamp;
use report::{Action, Dsn, DsnKind, ReportedRecipient, Returned};
use smtp::mime::{ConversionRefused, Goal, Survey};
use smtp::params::{Notify, Return};
use smtp::{Mailbox, RemoteText, ReversePath};
use spool::{
    LaneKey, MessageId, MessageOptions, NewMessage, NewRecipient, RecipientOptions, StoreError,
    StoredEnvelope,
};

use super::intake;
use super::restraint::{Admission, DsnKey};
use crate::config::{AliasLookup, Config, DsnReturn};
use crate::delivery::route;
use crate::message::{Body, Work, facts_of, require_tls};
use crate::queue::dsn_request::{DsnRecipient, DsnRequest};
use crate::queue::events::LaneArrival;
use crate::queue::facts::QueueFact;
use crate::queue::handle::QueueHandle;

/// Octets of the original's header that a DSN carries (architecture: header blocks ≤ 256 KiB).
const HEADER_MAX: usize = 256 * 1024;
const HEADER_MAX_OCTETS: u64 = 256 * 1024;
/// A larger original goes back as its header only, also where RET=FULL asks for more, which is a
/// wish (RFC 3461 §4.3). Our choice: senders have their message, and DSNs must not fill queues.
const FULL_RETURN_MAX: u64 = 1024 * 1024;
/// Our choice: octets of what a DSN says besides.
const SAID_OCTETS: u64 = 32 * 1024;

/// The message that a DSN is about, as far as a DSN speaks of it.
#[derive(Debug)]
pub(crate) struct DsnSubject<'a> {
    /// Its queue id, as log lines name it.
    pub(crate) message: MessageId,
    sender: &'a ReversePath,
    arrived_at: Timestamp,
    size: u64,
    body: &'a Body,
    options: &'a MessageOptions,
}

impl<'a> From<&'a Work> for DsnSubject<'a> {
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

/// A DSN ready to be committed.
#[derive(Debug)]
pub(crate) struct ComposedDsn {
    /// To be committed together with the settlement.
    pub(crate) message: NewMessage,
    /// For the queue, once it is committed.
    pub(crate) pieces: Vec<(LaneKey, LaneArrival)>,
    /// What it may be.
    pub(crate) admission: Admission,
}

/// What there is to commit for a DSN request.
#[derive(Debug)]
pub(crate) enum Composed {
    /// A DSN.
    Dsn(Box<ComposedDsn>),
    /// There is no address that it could go to.
    Undeliverable(Undeliverable),
    /// The message is gone: an operator deleted it while it was tried.
    Moot,
}

/// Why a DSN goes nowhere.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Undeliverable {
    /// It would be a DSN about a DSN, or its address is a literal.
    NoAddress,
    /// Its address is a name of this machine that has no alias, and root has none.
    NoRootAlias,
}

impl Undeliverable {
    /// Writes it into the log, behind what became of the message.
    pub(crate) fn tell(self, subject: &DsnSubject<'_>) {
        let (message, sender) = (subject.message, subject.sender);
        match self {
            Self::NoAddress => {}
            Self::NoRootAlias => QueueFact::NoRootAlias { message, sender }.tell(),
        }
        QueueFact::DsnUndeliverable { message, sender }.tell();
    }
}

/// The DSN that says what `request` says. A DSN about a DSN is never sent (RFC 5321 §4.5.5).
///
/// # Errors
///
/// [`StoreError`] when the original cannot be read or the DSN not be written.
pub(crate) async fn compose(
    handle: &Arc<QueueHandle>,
    config: &Config,
    subject: &DsnSubject<'_>,
    request: &DsnRequest,
) -> Result<Composed, StoreError> {
    let (sender, to) = match addressees(config, subject) {
        Ok(found) => found,
        Err(why) => return Ok(Composed::Undeliverable(why)),
    };
    let about = DsnKey { message: subject.message, sender: sender.clone(), action: request.action };
    let wanted = returned(config, subject, request.action);
    let mut admission = handle.restraint.admit(about, wanted, config.dsn.rate_per_sender_per_hour);
    let returned = admission.returned();
    let _lease = handle.budget.dsn(octets_held(subject.size, returned)).await;
    let original = match original(handle, subject, returned).await {
        Ok(original) => original,
        Err(StoreError::Missing { .. }) => return Ok(Composed::Moot),
        Err(error @ (StoreError::Poisoned | StoreError::Closed)) => return Err(error),
        // A DSN without the original is better than none, and than asking a broken disk for
        // ever.
        Err(error) => {
            let message = subject.message;
            QueueFact::StoreFailedFor {
                message,
                error: &error,
                what: "a DSN goes without its original",
            }
            .tell();
            Vec::new()
        }
    };
    let now = handle.now();
    let id = handle.spool.new_id(now);
    let parts = Parts { sender, id, now, returned, original: &original };
    let (text, carried) = write_so_that_it_travels(config, subject, request, parts);
    if carried == Returned::Headers {
        admission.without_content();
    }
    let facts = facts_of(&text);
    let mut draft = handle.spool.draft(id);
    // A large DSN is written to the disk here.
    let sealed = tokio::task::spawn_blocking(move || {
        draft.write(&text)?;
        draft.seal()
    });
    let sealed = sealed.await.unwrap_or(Err(StoreError::Closed))?;
    // What was not to be read on its way there is not to be read on its way back (RFC 8689 §5).
    let options = MessageOptions {
        require_tls: subject.options.require_tls,
        smtp_utf8: !sender.is_ascii() || to.iter().any(|mailbox| !mailbox.is_ascii()),
        ..MessageOptions::default()
    };
    let require_tls = require_tls(&options);
    let recipient = |mailbox: &Mailbox| {
        Some(NewRecipient {
            mailbox: mailbox.clone(),
            lane: route::lane(config, mailbox.domain().name()?, require_tls),
            // RFC 3461 §6: nobody is told what becomes of a DSN.
            options: RecipientOptions {
                notify: Some(Notify::Never),
                ..RecipientOptions::default()
            },
            state: admission.state(),
        })
    };
    let envelope = StoredEnvelope {
        sender: ReversePath::Null,
        recipients: to.iter().filter_map(recipient).collect(),
        arrived_at: now,
        expires_at: intake::expires_at(config, &ReversePath::Null, now),
        client: "notice".into(),
        facts,
        options,
    };
    let pieces = intake::pieces(handle, id, &envelope, None);
    let message = NewMessage { body: sealed, envelope };
    Ok(Composed::Dsn(Box::new(ComposedDsn { message, pieces, admission })))
}

/// The sender, and the addresses that a DSN to it goes to: none are literals.
///
/// A DSN to a name of this machine that has no alias goes to root, as mail of programs does: the
/// message was accepted, so it must not be lost in silence.
fn addressees<'a>(
    config: &'a Config,
    subject: &DsnSubject<'a>,
) -> Result<(&'a Mailbox, &'a [Mailbox]), Undeliverable> {
    let mut why = Undeliverable::NoAddress;
    let sender = subject.sender.mailbox();
    let to = match sender.map(|sender| (sender, config.destination(sender, None))) {
        Some((sender, AliasLookup::Itself)) => slice::from_ref(sender),
        Some((_, AliasLookup::Aliased(targets))) => targets,
        Some((_, AliasLookup::NoPostmaster | AliasLookup::Unknown)) => {
            let root = config.aliases.targets("root");
            if root.is_none() {
                why = Undeliverable::NoRootAlias;
            }
            root.unwrap_or_default()
        }
        None => &[],
    };
    let is_sendable = to.iter().any(|mailbox| mailbox.domain().name().is_some());
    sender.filter(|_| is_sendable).map(|sender| (sender, to)).ok_or(why)
}

/// What a DSN holds while it is written: what it carries of the original, the text that is made
/// of that, perhaps twice, and what is said.
fn octets_held(size: u64, returned: Returned) -> u64 {
    let carried = match returned {
        Returned::Full => size,
        Returned::Headers => size.min(HEADER_MAX_OCTETS),
    };
    carried.saturating_mul(3).saturating_add(SAID_OCTETS)
}

/// The original, or its header.
async fn original(
    handle: &QueueHandle,
    subject: &DsnSubject<'_>,
    returned: Returned,
) -> Result<Vec<u8>, StoreError> {
    if let Body::Hot(body) = subject.body {
        let wanted = match returned {
            Returned::Full => body.bytes.len(),
            Returned::Headers => HEADER_MAX,
        };
        return Ok(body.bytes.get(..wanted).unwrap_or(&body.bytes).to_vec());
    }
    let (spool, message, size) = (handle.spool.clone(), subject.message, subject.size);
    let read = move || match returned {
        Returned::Headers => spool.header_block(message, HEADER_MAX_OCTETS),
        Returned::Full => match spool.body(message)? {
            spool::StoredBody::Memory(bytes) => Ok(bytes.to_vec()),
            spool::StoredBody::File { file, .. } => {
                let mut bytes = Vec::new();
                file.take(size).read_to_end(&mut bytes).map_err(StoreError::reading_a_body)?;
                Ok(bytes)
            }
        },
    };
    tokio::task::spawn_blocking(read).await.unwrap_or(Err(StoreError::Closed))
}

/// RET is about failures (RFC 3461 §4.3): of good news and delays the header tells enough. What
/// must not travel unprotected does not go back at all (RFC 8689 §5).
fn returned(config: &Config, subject: &DsnSubject<'_>, action: Action) -> Returned {
    let by_config = || match config.dsn.returns {
        DsnReturn::Full => Return::Full,
        DsnReturn::Headers => Return::Headers,
    };
    match action {
        Action::Failed if !subject.options.require_tls && subject.size <= FULL_RETURN_MAX => {
            match subject.options.ret.unwrap_or_else(by_config) {
                Return::Full => Returned::Full,
                Return::Headers => Returned::Headers,
            }
        }
        Action::Failed
        | Action::Delayed
        | Action::Relayed
        | Action::Delivered
        | Action::Expanded => Returned::Headers,
    }
}

struct Parts<'a> {
    sender: &'a Mailbox,
    id: MessageId,
    now: Timestamp,
    returned: Returned,
    original: &'a [u8],
}

/// The DSN; with the original's header only where the whole of it would keep the DSN from
/// hosts that take seven bits: what cannot be encoded (signed content) cannot be sent there, and a
/// DSN that does not arrive tells nobody anything.
fn write_so_that_it_travels(
    config: &Config,
    subject: &DsnSubject<'_>,
    request: &DsnRequest,
    parts: Parts<'_>,
) -> (Vec<u8>, Returned) {
    let text = write(config, subject, request, &parts);
    // Who takes UTF-8 in addresses takes eight bits in content (RFC 6531 §3.1).
    let goes_anywhere = text.is_ascii()
        || !parts.sender.as_str().is_ascii()
        || survey_for_seven_bits(&text).is_ok();
    match parts.returned {
        Returned::Full if !goes_anywhere => {
            let parts = Parts { returned: Returned::Headers, ..parts };
            (write(config, subject, request, &parts), Returned::Headers)
        }
        returned @ (Returned::Full | Returned::Headers) => (text, returned),
    }
}

fn survey_for_seven_bits(text: &[u8]) -> Result<(), ConversionRefused> {
    let mut survey = Survey::new(Goal { seven_bit: true, ..Goal::default() });
    survey.push(text)?;
    survey.finish().map(drop)
}

fn write(
    config: &Config,
    subject: &DsnSubject<'_>,
    request: &DsnRequest,
    parts: &Parts<'_>,
) -> Vec<u8> {
    let reporting_mta = config.hostname.to_string();
    let recipients: Vec<ReportedRecipient<'_>> =
        request.entries.iter().map(|entry| recipient(entry, parts.now)).collect();
    Dsn {
        reporting_mta: &reporting_mta,
        from: &config.dsn.from,
        to: parts.sender,
        message_id: &format!("{}@{}", parts.id, config.dsn.from.domain()),
        date: parts.now,
        arrival_date: subject.arrived_at,
        original_id: &subject.message.to_string(),
        envelope_id: subject.options.envelope_id.as_ref(),
        action: request.action,
        recipients: &recipients,
        returned: parts.returned,
        kind: if subject.options.smtp_utf8 { DsnKind::Utf8 } else { DsnKind::Ordinary },
        original: parts.original,
    }
    .compose()
}

fn recipient(entry: &DsnRecipient, now: Timestamp) -> ReportedRecipient<'_> {
    ReportedRecipient {
        originals: &entry.target.options.originals,
        final_recipient: &entry.target.mailbox,
        status: entry.status,
        remote_mta: entry.mx.as_ref(),
        diagnostic: entry.reply.as_ref().map(|reply| RemoteText::new(&reply.to_string())),
        last_attempt: Some(now),
        retry_until: Some(entry.target.expires_at),
        explanation: &entry.explanation,
    }
}
