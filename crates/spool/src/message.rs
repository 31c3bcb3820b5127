//! What is kept about a message: the nouns that cross the crate's border.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use smtp::originals::OriginalRecipients;
use smtp::params::{ByMode, EnvelopeId, Notify, Priority, Return};
use smtp::{Domain, Mailbox, RemoteText, ReversePath};

use crate::{MessageId, Sealed};

/// What was learnt about a body while it streamed in; stored, so that nobody reads it again.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BodyFacts {
    /// Octets, header section included, without dot-stuffing.
    pub size: u64,
    /// Octets of the header section, the empty line not counted.
    pub header_len: u64,
    /// Has it octets over 127?
    pub has_8bit: bool,
    /// Octets of the longest line, CRLF not counted.
    pub longest_line: u64,
    /// Does it end with CRLF?
    pub ends_with_newline: bool,
    /// `Received` fields, for loop detection (RFC 5321 §6.3).
    pub received_count: u32,
}

/// What SMTP said about a message, and how long we keep trying.
#[derive(Clone, Debug)]
pub struct StoredEnvelope {
    /// Who is told about failures.
    pub sender: ReversePath,
    /// Who gets it: 1 to [`RECIPIENTS_MAX`].
    pub recipients: Vec<NewRecipient>,
    /// When the last octet arrived; the first attempt is due at once, or at
    /// [`MessageOptions::not_before`].
    pub arrived_at: Timestamp,
    /// When undelivered recipients become too old.
    pub expires_at: Timestamp,
    /// Who submitted it, for logs and `queue show`: address, EHLO name, user.
    pub client: Box<str>,
    /// What is known about the body.
    pub facts: BodyFacts,
    /// What was asked for with the message.
    pub options: MessageOptions,
}

impl StoredEnvelope {
    /// When the message may first be tried.
    pub fn begins_at(&self) -> Timestamp {
        self.options.begins_at(self.arrived_at)
    }

    /// Is there anybody to tell that the recipient waits, and may they be told?
    pub fn may_be_warned(&self, recipient: &NewRecipient) -> bool {
        match self.sender {
            ReversePath::Null => false,
            ReversePath::Mailbox(_) => recipient.options.wants_delay(),
        }
    }
}

/// What the client asked for with MAIL, and who it was. The default asks for nothing.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct MessageOptions {
    /// RET: how much of the message a DSN of failure returns (RFC 3461 §4.3).
    pub ret: Option<Return>,
    /// ENVID: the sender's own name for this sending (RFC 3461 §4.4).
    pub envelope_id: Option<EnvelopeId>,
    /// SMTPUTF8: addresses and header may have UTF-8 (RFC 6531).
    pub smtp_utf8: bool,
    /// REQUIRETLS: over authenticated TLS or not at all (RFC 8689).
    pub require_tls: bool,
    /// BY: when it shall have been delivered (RFC 2852).
    pub deliver_by: Option<Deadline>,
    /// MT-PRIORITY: what is sent first of a lane (RFC 6710).
    pub priority: Priority,
    /// HOLDFOR or HOLDUNTIL: not tried before (RFC 4865).
    pub not_before: Option<Timestamp>,
    /// The user that submitted it, if one was authenticated.
    pub user: Option<Box<str>>,
}

impl MessageOptions {
    /// When a message may first be tried that arrived at `arrived_at`.
    pub fn begins_at(&self, arrived_at: Timestamp) -> Timestamp {
        self.not_before.map_or(arrived_at, |release| release.max(arrived_at))
    }
}

/// The end of the time that a sender gave a message.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Deadline {
    /// The moment until which it shall have been delivered.
    pub at: Timestamp,
    /// Whether it is returned then, or the sender only told.
    pub mode: ByMode,
    /// Shall the sender hear from each relay on the way?
    pub trace: bool,
}

/// How far one step of priority carries a recipient past those that are due as long as it. Our
/// choice: the most urgent mail goes before all ordinary mail that was due up to an hour and a half
/// before it, and nothing waits for more than three hours' worth of mail that came later, however
/// much more urgent.
const PRIORITY_STEP: SignedDuration = SignedDuration::from_mins(10);

/// The place of a recipient in its lane: when it is due, moved by its message's priority. The
/// lowest is tried first.
pub fn turn(due_at: Timestamp, priority: Priority) -> Timestamp {
    due_at.saturating_sub(head_start(priority)).unwrap_or(due_at)
}

/// By how much mail of this priority goes before ordinary mail.
pub(crate) fn head_start(priority: Priority) -> SignedDuration {
    PRIORITY_STEP * i32::from(priority.get())
}

/// Recipients one message can have here. Our choice: their numbers have 16 bits; SMTP limits are
/// lower.
pub const RECIPIENTS_MAX: usize = 1 << 16;

/// One recipient of a new message.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NewRecipient {
    /// The address as the client wrote it.
    pub mailbox: Mailbox,
    /// The lane it waits in.
    pub lane: LaneKey,
    /// What was asked for with it.
    pub options: RecipientOptions,
    /// Does it wait for its time, or is it held from the first?
    pub state: RecipientState,
}

/// What the client asked for with RCPT. The default asks for nothing.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct RecipientOptions {
    /// NOTIFY: what the sender wants to be told (RFC 3461 §4.1).
    pub notify: Option<Notify>,
    /// ORCPT: what the sender wrote for it (RFC 3461 §4.2).
    pub originals: OriginalRecipients,
}

impl RecipientOptions {
    /// Shall the sender hear that the recipient was not reached? Without NOTIFY, yes.
    pub fn wants_failure(&self) -> bool {
        match self.notify {
            None => true,
            Some(Notify::Never) => false,
            Some(Notify::On { failure, .. }) => failure,
        }
    }

    /// Shall the sender hear that it takes long? Without NOTIFY the relay may choose
    /// (RFC 3461 §4.1), and the choice is yes.
    pub fn wants_delay(&self) -> bool {
        match self.notify {
            None => true,
            Some(Notify::Never) => false,
            Some(Notify::On { delay, .. }) => delay,
        }
    }

    /// Shall the sender hear that it went well? Only where it says so.
    pub fn wants_success(&self) -> bool {
        match self.notify {
            None | Some(Notify::Never) => false,
            Some(Notify::On { success, .. }) => success,
        }
    }
}

/// The place of a recipient in its message's envelope, from 0.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct RecipientNo(pub u16);

/// The name of a lane: all that wait for the same next hop in the same way. Opaque here.
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct LaneKey(Arc<str>);

impl LaneKey {
    /// A lane with this name.
    pub fn new(name: &str) -> Self {
        Self(name.into())
    }

    /// The text form, by which rows and listings name it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for LaneKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for LaneKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What keeps a recipient in the queue.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum RecipientState {
    /// It waits for its time.
    Queued,
    /// An operator holds it back.
    Held,
}

/// The last thing that went wrong, in the words that log, queue and DSN share.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct StoredProblem {
    /// When it went wrong, the last time.
    pub at: Timestamp,
    /// Enhanced status code (RFC 3463).
    pub status: Box<str>,
    /// The word from the closed vocabulary of reasons.
    pub reason: Box<str>,
    /// The host at fault, if it came to that.
    pub mx: Option<Domain>,
    /// What was said about it, as one inert line.
    pub text: RemoteText,
}

/// What an attempt meant for one recipient.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Change {
    /// The peer took responsibility: the recipient is done.
    Delivered,
    /// It will never be delivered: done; the DSN is in the same settlement.
    Failed,
    /// It is tried again later.
    Deferred(RecipientDeferral),
    /// The DSN in the same settlement tells its sender that it waits: no other one will.
    Told(Told),
}

/// What a sender was told about a recipient that goes on waiting.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Told {
    /// That it takes long.
    Delay,
    /// That the time of BY is over.
    Deadline,
}

/// When and why a recipient is tried again.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RecipientDeferral {
    /// When the next attempt is due.
    pub due_at: Timestamp,
    /// What is shown as the last problem; `None` leaves the one before.
    pub problem: Option<StoredProblem>,
    /// Whether the attempt counts.
    pub attempt: Attempt,
}

/// Did a try say anything about the destination?
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Attempt {
    /// It did: one attempt more.
    Counted,
    /// Our own trouble (DNS, disk, shutdown): no attempt is consumed.
    NotCounted,
}

/// A message that the store is asked to keep.
#[derive(Debug)]
pub struct NewMessage {
    /// The body, written to its end.
    pub body: Sealed,
    /// Sender, recipients and what was asked for.
    pub envelope: StoredEnvelope,
}

/// All that one attempt on one message changes; takes effect wholly or not at all.
#[derive(Debug)]
pub struct Settlement {
    /// Proof that, when the attempt began, this settlement could be written.
    pub permit: crate::SettlePermit,
    /// The message that was tried.
    pub message: MessageId,
    /// What became of each recipient that was tried.
    pub changes: Vec<(RecipientNo, Change)>,
    /// DSNs about them; they take effect with the rest.
    pub dsns: Vec<NewMessage>,
    /// What the lane learnt, if anything.
    pub lane: Option<LaneUpdate>,
}

/// What a settlement left.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Settled {
    /// Recipients of the message still wait.
    Waiting,
    /// The message has left the queue by this settlement.
    Gone,
    /// The message had left before: an operator deleted it. Only the lane was updated, and the
    /// DSNs were dropped.
    Missing,
    /// Recipients of the message still wait, but none of those that this is about: they had left
    /// before, and who should know was told then. Only the lane was updated, and the DSNs were
    /// dropped.
    Moot,
    /// Damage is in the way of writing it down: nothing of those that this is about is tried again,
    /// and no DSN of it is sent.
    Unrecorded,
}

/// The health of a lane's next hop.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum LaneState {
    /// Nothing is known against it.
    Healthy,
    /// The last probe failed.
    Failing(LaneTrouble),
}

/// How long a lane has failed, and when it is probed next.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LaneTrouble {
    /// Probes that failed in a row.
    pub failures: u32,
    /// When the next probe is due.
    pub next_probe_at: Timestamp,
    /// The first failure of the row.
    pub first_failed_at: Timestamp,
    /// What went wrong last.
    pub problem: StoredProblem,
}

/// New knowledge about a lane.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LaneUpdate {
    /// The lane that the knowledge is about.
    pub key: LaneKey,
    /// Its health from now on.
    pub state: LaneState,
}

/// A lane at start-up: enough to schedule it without reading its messages.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LaneSummary {
    /// The key that its recipients' rows have.
    pub key: LaneKey,
    /// Recipients that wait in it, without held ones.
    pub queued: u64,
    /// When the first of them is due.
    pub earliest_due: Option<Timestamp>,
    /// When the first of them becomes too old.
    pub earliest_expiry: Option<Timestamp>,
    /// Its health as it was last written down.
    pub state: LaneState,
}

/// A small body in memory. Clones share it.
#[derive(Clone, Eq, PartialEq)]
pub struct BodyBytes(Arc<Vec<u8>>);

impl BodyBytes {
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        Self(Arc::new(bytes))
    }
}

impl AsRef<[u8]> for BodyBytes {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Deref for BodyBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for BodyBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} octets", self.0.len())
    }
}
