//! A new message as the values of its rows: what a commit writes into the tables at once, and the
//! journal until they need it.

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, Params, params_from_iter};
use smtp::params::ByMode;

use crate::commit::Rows;
use crate::draft::{Sealed, SealedBody};
use crate::due::BodyRef;
use crate::lane_rows::lane_row;
use crate::message::{NewRecipient, RecipientNo, StoredEnvelope};
use crate::rows::recipient_key;
use crate::rows::{TOLD, mode_code, notify_code, number, place_code, ret_code, state_code};
use crate::{MessageId, StoreError};

/// Values of a message's row, without its number and its id: those of [`INSERT_MESSAGE`] from the
/// third on.
pub(crate) const MESSAGE_VALUES: usize = 19;
/// Which of them is `header_len`, and which `body_crc`.
pub(crate) const HEADER_LEN: usize = 5;
pub(crate) const BODY_CRC: usize = MESSAGE_VALUES - 1;
/// Values of a recipient's row, without its key and its lane's row: those of [`INSERT_RECIPIENT`]
/// from the third on.
pub(crate) const RECIPIENT_VALUES: usize = 9;

const INSERT_MESSAGE: &str = "INSERT INTO messages (seq, id, sender, client, arrived_at, place, size, header_len, has_8bit,
         longest_line, ends_with_newline, received_count, ret, envelope_id, smtp_utf8, require_tls, deliver_by,
         deliver_by_mode, not_before, user, body_crc, body_sha256_simple, body_sha256_relaxed, crc)
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, x'', x'',
         row_crc(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21))";

const INSERT_RECIPIENT: &str =
    "INSERT INTO recipients (id, lane, state, due_at, expires_at, attempts, mailbox, priority,
         notify, original, waits_since, deadline, crc)
     VALUES (?1, ?2, ?3, ?4, ?5, 0, ?6, ?7, ?8, ?9, ?10, ?11, row_crc(?1, ?6, ?5, ?7, ?8, ?9))";

/// The rows of a new message.
#[derive(Debug)]
pub(crate) struct Arrival<'a> {
    pub(crate) id: MessageId,
    pub(crate) message: [ValueRef<'a>; MESSAGE_VALUES],
    /// By their numbers, from 0.
    pub(crate) recipients: Vec<ArrivedRecipient<'a>>,
    /// `None`: it is a file.
    pub(crate) body: Option<&'a [u8]>,
}

/// The row of one of its recipients.
#[derive(Debug)]
pub(crate) struct ArrivedRecipient<'a> {
    /// The name of its lane.
    pub(crate) lane: &'a str,
    pub(crate) values: [ValueRef<'a>; RECIPIENT_VALUES],
}

fn text(text: &str) -> ValueRef<'_> {
    ValueRef::Text(text.as_bytes())
}

fn integer<'a>(number: impl Into<i64>) -> ValueRef<'a> {
    ValueRef::Integer(number.into())
}

fn optional(found: Option<ValueRef<'_>>) -> ValueRef<'_> {
    found.unwrap_or(ValueRef::Null)
}

impl<'a> Arrival<'a> {
    /// Of what is to be committed.
    pub(crate) fn new(sealed: &'a Sealed, envelope: &'a StoredEnvelope) -> Self {
        let body = match sealed.body() {
            SealedBody::Memory(bytes) => Some(&**bytes),
            SealedBody::File(_) => None,
        };
        let recipients = envelope.recipients.iter().map(|one| ArrivedRecipient::new(envelope, one));
        Self {
            id: sealed.id(),
            message: message_values(sealed, envelope),
            recipients: recipients.collect(),
            body,
        }
    }

    /// Adds the rows, without those of the recipients that are `done`, in a transaction.
    pub(crate) fn insert(
        &self,
        db: &Connection,
        rows: &Rows,
        is_done: impl Fn(RecipientNo) -> bool,
    ) -> Result<(), StoreError> {
        let seq = rows.next(db)?;
        let id = self.id.to_bytes();
        let row = [integer(seq), ValueRef::Blob(&id)];
        db.prepare_cached(INSERT_MESSAGE)?.execute(all(&row, &self.message))?;
        if let Some(body) = self.body {
            db.prepare_cached("INSERT INTO bodies (seq, body) VALUES (?1, ?2)")?
                .execute((seq, body))?;
        }
        let mut add = db.prepare_cached(INSERT_RECIPIENT)?;
        let mut last_lane: Option<(&str, i64)> = None;
        let numbered = (0..=u16::MAX).map(RecipientNo).zip(&self.recipients);
        for (no, recipient) in numbered.filter(|(no, _)| !is_done(*no)) {
            let lane = match last_lane {
                Some((key, lane)) if key == recipient.lane => lane,
                _ => lane_row(db, recipient.lane)?,
            };
            last_lane = Some((recipient.lane, lane));
            let row = [integer(recipient_key(seq, no)), integer(lane)];
            add.execute(all(&row, &recipient.values))?;
        }
        Ok(())
    }
}

/// As the parameters of a statement.
fn all<'a>(row: &'a [ValueRef<'a>], values: &'a [ValueRef<'a>]) -> impl Params + 'a {
    params_from_iter(row.iter().chain(values).map(|value| ToSqlOutput::Borrowed(*value)))
}

fn message_values<'a>(
    sealed: &Sealed,
    envelope: &'a StoredEnvelope,
) -> [ValueRef<'a>; MESSAGE_VALUES] {
    let (facts, options) = (&envelope.facts, &envelope.options);
    let place = match sealed.body() {
        SealedBody::Memory(_) => BodyRef::Inline,
        SealedBody::File(_) => BodyRef::File,
    };
    let deadline = options.deliver_by.as_ref();
    [
        text(envelope.sender.as_str()),
        text(&envelope.client),
        integer(envelope.arrived_at.as_millisecond()),
        integer(place_code(place)),
        integer(number(facts.size)),
        integer(number(facts.header_len)),
        integer(facts.has_8bit),
        integer(number(facts.longest_line)),
        integer(facts.ends_with_newline),
        integer(facts.received_count),
        optional(options.ret.map(|ret| integer(ret_code(ret)))),
        optional(options.envelope_id.as_ref().map(|id| text(id.as_str()))),
        integer(options.smtp_utf8),
        integer(options.require_tls),
        optional(deadline.map(|deadline| integer(deadline.at.as_millisecond()))),
        optional(deadline.map(|deadline| text(mode_code(deadline)))),
        optional(options.not_before.map(|release| integer(release.as_millisecond()))),
        optional(options.user.as_deref().map(text)),
        integer(sealed.crc()),
    ]
}

impl<'a> ArrivedRecipient<'a> {
    fn new(envelope: &'a StoredEnvelope, recipient: &'a NewRecipient) -> Self {
        let begins = envelope.begins_at().as_millisecond();
        let options = &recipient.options;
        let originals = Some(&options.originals).filter(|originals| !originals.is_empty());
        let waits_since = if envelope.may_be_warned(recipient) { begins } else { TOLD };
        let values = [
            integer(state_code(recipient.state)),
            integer(begins),
            integer(envelope.expires_at.as_millisecond()),
            text(recipient.mailbox.as_str()),
            integer(envelope.options.priority.get()),
            optional(options.notify.map(|notify| integer(notify_code(notify)))),
            optional(originals.map(|originals| text(originals.as_str()))),
            integer(waits_since),
            optional(deadline(envelope, recipient).map(integer)),
        ];
        Self { lane: recipient.lane.as_str(), values }
    }
}

/// When something has to be done because the message was not delivered in time.
fn deadline(envelope: &StoredEnvelope, recipient: &NewRecipient) -> Option<i64> {
    let deadline = envelope.options.deliver_by.as_ref()?;
    let matters = match deadline.mode {
        ByMode::Return => true,
        ByMode::Notify => envelope.may_be_warned(recipient),
    };
    matters.then(|| deadline.at.as_millisecond())
}
