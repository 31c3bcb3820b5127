//! Between rows and our nouns. Times are milliseconds since 1970 at this border.

use jiff::Timestamp;
use rusqlite::types::{FromSql, Value};
use rusqlite::{Row, RowIndex};
use smtp::originals::OriginalRecipients;
use smtp::params::{ByMode, EnvelopeId, Notify, Priority, Return};
use smtp::{Domain, Mailbox, RemoteText, ReversePath};

use crate::due::BodyRef;
use crate::message::{
    BodyFacts, Deadline, LaneState, LaneTrouble, MessageOptions, RecipientNo, RecipientOptions,
    RecipientState, StoredProblem,
};
use crate::{MessageId, StoreError};

/// Bits of a recipient's number in its key.
const NUMBER_BITS: u32 = 16;

/// The key of a recipient: its message's row above, its number below.
pub(crate) fn recipient_key(seq: i64, no: RecipientNo) -> i64 {
    seq << NUMBER_BITS | i64::from(no.0)
}

/// The message's row and the number of the recipient with this key.
pub(crate) fn split_key(key: i64) -> (i64, RecipientNo) {
    let no = u16::try_from(key & i64::from(u16::MAX)).unwrap_or_default();
    (key >> NUMBER_BITS, RecipientNo(no))
}

pub(crate) fn time(milliseconds: i64) -> Result<Timestamp, StoreError> {
    Timestamp::from_millisecond(milliseconds).map_err(|_| StoreError::Corrupt { what: "time" })
}

pub(crate) fn optional_time(milliseconds: Option<i64>) -> Result<Option<Timestamp>, StoreError> {
    milliseconds.map(time).transpose()
}

pub(crate) fn state_code(state: RecipientState) -> i64 {
    match state {
        RecipientState::Queued => 0,
        RecipientState::Held => 1,
    }
}

pub(crate) fn state(code: i64) -> Result<RecipientState, StoreError> {
    match code {
        0 => Ok(RecipientState::Queued),
        1 => Ok(RecipientState::Held),
        _ => Err(StoreError::Corrupt { what: "recipient state" }),
    }
}

/// `recipients.waits_since` of who is not to be told. No null, which would stand in the way of the
/// order that the index has.
pub(crate) const TOLD: i64 = i64::MAX;

/// Reads `recipients.waits_since`; `None` if its sender is not to be told.
pub(crate) fn waits_since(milliseconds: i64) -> Result<Option<Timestamp>, StoreError> {
    if milliseconds == TOLD { Ok(None) } else { time(milliseconds).map(Some) }
}

/// The code of `messages.place`: where the body is.
pub(crate) fn place_code(body: BodyRef) -> i64 {
    match body {
        BodyRef::Inline => 0,
        BodyRef::File => 1,
    }
}

pub(crate) fn body_ref(place: i64) -> Result<BodyRef, StoreError> {
    match place {
        0 => Ok(BodyRef::Inline),
        1 => Ok(BodyRef::File),
        _ => Err(StoreError::Corrupt { what: "place" }),
    }
}

pub(crate) fn mailbox(text: &str) -> Result<Mailbox, StoreError> {
    Mailbox::parse_utf8(text).map_err(|_| StoreError::Corrupt { what: "recipient address" })
}

pub(crate) fn sender(text: &str) -> Result<ReversePath, StoreError> {
    ReversePath::parse_utf8(text).map_err(|_| StoreError::Corrupt { what: "sender address" })
}

pub(crate) fn id(bytes: [u8; 16]) -> MessageId {
    MessageId::from_bytes(bytes)
}

/// The code of `messages.ret`: RET (RFC 3461 §4.3).
pub(crate) fn ret_code(ret: Return) -> i64 {
    match ret {
        Return::Full => 0,
        Return::Headers => 1,
    }
}

fn ret(code: i64) -> Result<Return, StoreError> {
    match code {
        0 => Ok(Return::Full),
        1 => Ok(Return::Headers),
        _ => Err(StoreError::Corrupt { what: "ret" }),
    }
}

/// `messages.deliver_by_mode`, in the letters of RFC 2852 §4.
pub(crate) fn mode_code(deadline: &Deadline) -> &'static str {
    match (deadline.mode, deadline.trace) {
        (ByMode::Return, false) => "R",
        (ByMode::Return, true) => "RT",
        (ByMode::Notify, false) => "N",
        (ByMode::Notify, true) => "NT",
    }
}

fn mode(code: &str) -> Result<(ByMode, bool), StoreError> {
    match code {
        "R" => Ok((ByMode::Return, false)),
        "RT" => Ok((ByMode::Return, true)),
        "N" => Ok((ByMode::Notify, false)),
        "NT" => Ok((ByMode::Notify, true)),
        _ => Err(StoreError::Corrupt { what: "mode of deadline" }),
    }
}

const SUCCESS: i64 = 1;
const FAILURE: i64 = 2;
const DELAY: i64 = 4;

/// The bits of `recipients.notify`: NOTIFY (RFC 3461 §4.1).
pub(crate) fn notify_code(notify: Notify) -> i64 {
    match notify {
        Notify::Never => 0,
        Notify::On { success, failure, delay } => {
            let bit = |wanted, bit| if wanted { bit } else { 0 };
            bit(success, SUCCESS) | bit(failure, FAILURE) | bit(delay, DELAY)
        }
    }
}

fn notify(code: i64) -> Result<Notify, StoreError> {
    let has = |bit| code & bit != 0;
    match code {
        0 => Ok(Notify::Never),
        1..=7 => Ok(Notify::On { success: has(SUCCESS), failure: has(FAILURE), delay: has(DELAY) }),
        _ => Err(StoreError::Corrupt { what: "notify" }),
    }
}

/// Reads `recipients.priority`, -9 to 9.
pub(crate) fn priority(number: i64) -> Result<Priority, StoreError> {
    let known = i8::try_from(number).ok().and_then(Priority::new);
    known.ok_or(StoreError::Corrupt { what: "priority" })
}

/// A count from a column that our own writes keep in range.
pub(crate) fn count<T: TryFrom<i64>>(number: i64) -> Result<T, StoreError> {
    T::try_from(number).map_err(|_| StoreError::Corrupt { what: "number" })
}

/// A number for a column; those of ours are far below the limit.
pub(crate) fn number<T: TryInto<i64>>(count: T) -> i64 {
    count.try_into().unwrap_or(i64::MAX)
}

/// Reads the columns of one row from a given place on, in order.
pub(crate) struct Columns<'a, 'r> {
    row: &'a Row<'r>,
    place: usize,
}

impl<'a, 'r> Columns<'a, 'r> {
    pub(crate) fn new(row: &'a Row<'r>) -> Self {
        Self { row, place: 0 }
    }

    pub(crate) fn next<T: FromSql>(&mut self) -> Result<T, StoreError> {
        let place = self.place;
        self.place += 1;
        get(self.row, place)
    }

    /// A text that is looked at where it lies.
    pub(crate) fn next_text<T>(
        &mut self,
        read: impl FnOnce(&str) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let value = self.row.get_ref(self.place)?;
        self.place += 1;
        read(value.as_str().map_err(|_| StoreError::Corrupt { what: "text" })?)
    }
}

/// The columns `ret` to `user` of a message; the priority, which is with its recipients, is passed.
pub(crate) fn message_options(
    columns: &mut Columns<'_, '_>,
    priority: Priority,
) -> Result<MessageOptions, StoreError> {
    let found: Option<i64> = columns.next()?;
    let envelope_id: Option<String> = columns.next()?;
    let read_id =
        |id: String| EnvelopeId::parse(&id).ok_or(StoreError::Corrupt { what: "envelope id" });
    Ok(MessageOptions {
        ret: found.map(ret).transpose()?,
        envelope_id: envelope_id.map(read_id).transpose()?,
        smtp_utf8: columns.next()?,
        require_tls: columns.next()?,
        deliver_by: deadline(columns)?,
        priority,
        not_before: optional_time(columns.next()?)?,
        user: columns.next()?,
    })
}

fn deadline(columns: &mut Columns<'_, '_>) -> Result<Option<Deadline>, StoreError> {
    let at = optional_time(columns.next()?)?;
    let code: Option<String> = columns.next()?;
    let (Some(at), Some(code)) = (at, code) else { return Ok(None) };
    let (mode, trace) = mode(&code)?;
    Ok(Some(Deadline { at, mode, trace }))
}

/// The columns `notify` and `original` of a recipient.
pub(crate) fn recipient_options(
    columns: &mut Columns<'_, '_>,
) -> Result<RecipientOptions, StoreError> {
    let found: Option<i64> = columns.next()?;
    let originals: Option<String> = columns.next()?;
    let read = |text: String| {
        OriginalRecipients::parse(&text).ok_or(StoreError::Corrupt { what: "original recipient" })
    };
    Ok(RecipientOptions {
        notify: found.map(notify).transpose()?,
        originals: originals.map(read).transpose()?.unwrap_or_default(),
    })
}

fn get<I: RowIndex, T: FromSql>(row: &Row<'_>, place: I) -> Result<T, StoreError> {
    row.get(place).map_err(|error| {
        let damaged = matches!(
            error,
            rusqlite::Error::FromSqlConversionFailure(..)
                | rusqlite::Error::InvalidColumnType(..)
                | rusqlite::Error::IntegralValueOutOfRange(..)
                | rusqlite::Error::Utf8Error(..)
        );
        if damaged { StoreError::Corrupt { what: "value" } } else { error.into() }
    })
}

/// The columns `last_at` to `last_text`, null when there is no problem.
pub(crate) fn problem_values(problem: Option<&StoredProblem>) -> [Value; 5] {
    let Some(problem) = problem else {
        return [const { Value::Null }; 5];
    };
    let text = |text: &str| Value::Text(text.to_owned());
    [
        Value::Integer(problem.at.as_millisecond()),
        text(&problem.status),
        text(&problem.reason),
        problem.mx.as_ref().map_or(Value::Null, |mx| text(&mx.to_string())),
        text(problem.text.as_str()),
    ]
}

pub(crate) fn problem(columns: &mut Columns<'_, '_>) -> Result<Option<StoredProblem>, StoreError> {
    let at: Option<i64> = columns.next()?;
    let status: Option<Box<str>> = columns.next()?;
    let reason: Option<Box<str>> = columns.next()?;
    let mx: Option<String> = columns.next()?;
    let text: Option<String> = columns.next()?;
    let (Some(at), Some(status), Some(reason)) = (at, status, reason) else { return Ok(None) };
    Ok(Some(StoredProblem {
        at: time(at)?,
        status,
        reason,
        // A name that is none is only not shown.
        mx: mx.and_then(|name| Domain::parse(&name).ok()),
        text: RemoteText::new(&text.unwrap_or_default()),
    }))
}

/// The columns `failures` to `last_text` of a lane.
pub(crate) fn lane_state(columns: &mut Columns<'_, '_>) -> Result<LaneState, StoreError> {
    let failures: i64 = columns.next()?;
    let next_probe_at = optional_time(columns.next()?)?;
    let first_failed_at = optional_time(columns.next()?)?;
    let (Some(next_probe_at), Some(first_failed_at), Some(problem)) =
        (next_probe_at, first_failed_at, problem(columns)?)
    else {
        return Ok(LaneState::Healthy);
    };
    Ok(LaneState::Failing(LaneTrouble {
        failures: count(failures)?,
        next_probe_at,
        first_failed_at,
        problem,
    }))
}

/// The columns `size` to `received_count` of a message.
pub(crate) fn facts(columns: &mut Columns<'_, '_>) -> Result<BodyFacts, StoreError> {
    Ok(BodyFacts {
        size: count(columns.next()?)?,
        header_len: count(columns.next()?)?,
        has_8bit: columns.next()?,
        longest_line: count(columns.next()?)?,
        ends_with_newline: columns.next()?,
        received_count: count(columns.next()?)?,
    })
}
