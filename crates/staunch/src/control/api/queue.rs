//! The queue: which mail is meant, what waits, what was done.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::SwitchStates;

/// `queue list`: which recipients; those that fit all that is given.
#[derive(Debug, Default, Deserialize, Serialize)]
pub(crate) struct WantedPage {
    pub(crate) domain: Option<String>,
    pub(crate) state: Option<MailState>,
    /// The last attempt's, or `held`.
    pub(crate) reason: Option<String>,
    /// An address; empty: DSNs.
    pub(crate) sender: Option<String>,
    /// An address.
    pub(crate) recipient: Option<String>,
    /// The host that was at fault last.
    pub(crate) host: Option<String>,
    /// In the queue for so many seconds at least.
    pub(crate) older_than: Option<u64>,
    /// Rows at most.
    pub(crate) limit: Option<u64>,
    /// Without one as with [`SortBy::Age`].
    pub(crate) sort: Option<SortBy>,
}

/// Our choice: rows that a sorted list can have, unless it is sorted by age: the daemon keeps them
/// in memory, some 10 MB.
pub(crate) const SORTED_ROWS_MAX: u64 = 10_000;

/// In which order recipients are listed. Those that are equal come in the order of arrival.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum SortBy {
    /// In the order of arrival, the oldest first (the default)
    Age,
    /// The latest first
    Newest,
    /// The largest first
    Size,
    /// By the next attempt, the soonest first; what is held comes last
    Next,
    /// By domain, then by the rest of the address
    Recipient,
}

impl SortBy {
    /// As in JSON.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Age => "age",
            Self::Newest => "newest",
            Self::Size => "size",
            Self::Next => "next",
            Self::Recipient => "recipient",
        }
    }
}

/// Where a recipient's mail is.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum MailState {
    /// It waits for its time, or for room.
    Queued,
    /// It is being tried.
    Sending,
    /// It waits for the operator.
    Held,
}

impl MailState {
    /// As in JSON.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Sending => "sending",
            Self::Held => "held",
        }
    }
}

/// A line of `queue list`: one recipient of one message. Of what is damaged the rest is null.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct ListedRecipient {
    /// The message's.
    pub(crate) id: Option<String>,
    /// Empty: a DSN.
    pub(crate) sender: Option<String>,
    pub(crate) recipient: String,
    pub(crate) domain: Option<String>,
    pub(crate) state: MailState,
    pub(crate) attempts: Option<u32>,
    /// Octets of the message.
    pub(crate) size: Option<u64>,
    pub(crate) arrived_at: Option<Timestamp>,
    /// The sender wants it kept until then (RFC 4865).
    pub(crate) not_before: Option<Timestamp>,
    pub(crate) next_attempt_at: Option<Timestamp>,
    /// When the sender gets it back.
    pub(crate) expires_at: Option<Timestamp>,
    /// Null before the first attempt.
    pub(crate) last: Option<LastProblem>,
    /// Why the operator holds it, if that was said.
    #[serde(default)]
    pub(crate) held_why: Option<String>,
    /// NOTIFY of RCPT (RFC 3461 §4.1).
    pub(crate) notify: Option<String>,
    /// ORCPT of RCPT (RFC 3461 §4.2).
    pub(crate) original_recipient: Option<String>,
}

/// Why the last attempt came to nothing.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct LastProblem {
    /// What failed.
    #[serde(default)]
    pub(crate) of: FailureOf,
    pub(crate) at: Option<Timestamp>,
    /// An enhanced status code (RFC 3463).
    pub(crate) status: String,
    /// A word of the list in `docs/operations.md`.
    pub(crate) reason: String,
    /// The host at fault, if there is one.
    pub(crate) mx: Option<String>,
    /// One line for people.
    pub(crate) text: String,
}

/// What a failure is about.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FailureOf {
    /// An attempt at this recipient.
    #[default]
    Message,
    /// The next hop: other mail found it, and this recipient, which was not tried yet, waits for
    /// it.
    NextHop,
}

/// `queue show`.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct ListedMessage {
    pub(crate) id: String,
    /// Empty: a DSN.
    pub(crate) sender: String,
    /// Where it came from, as in its Received field.
    pub(crate) client: String,
    pub(crate) arrived_at: Timestamp,
    /// Octets.
    pub(crate) size: u64,
    pub(crate) has_8bit: bool,
    /// Octets of its longest line, without the end.
    pub(crate) longest_line: u64,
    /// Received fields it came with.
    pub(crate) received_count: u32,
    /// Null where the body cannot be read.
    pub(crate) header: Option<ShownHeader>,
    pub(crate) options: ShownOptions,
    pub(crate) recipients: Vec<ListedRecipient>,
}

/// Fields of a message, decoded (RFC 2047), cut and inert; null where they are missing.
#[derive(Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct ShownHeader {
    pub(crate) from: Option<String>,
    pub(crate) to: Option<String>,
    pub(crate) cc: Option<String>,
    pub(crate) date: Option<String>,
    pub(crate) message_id: Option<String>,
    pub(crate) subject: Option<String>,
}

/// What the client asked for with MAIL.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct ShownOptions {
    /// RET (RFC 3461 §4.3).
    pub(crate) ret: Option<String>,
    /// ENVID (RFC 3461 §4.4), decoded.
    pub(crate) envelope_id: Option<String>,
    pub(crate) smtp_utf8: bool,
    pub(crate) require_tls: bool,
    pub(crate) deliver_by: Option<ShownDeadline>,
    /// MT-PRIORITY (RFC 6710): −9 to 9.
    pub(crate) priority: i8,
    pub(crate) not_before: Option<Timestamp>,
    /// The submission user.
    pub(crate) user: Option<String>,
}

/// BY of MAIL (RFC 2852).
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct ShownDeadline {
    pub(crate) at: Timestamp,
    pub(crate) mode: DeadlineEffect,
    /// Is the sender told of each relay?
    pub(crate) trace: bool,
}

/// What happens at the deadline.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum DeadlineEffect {
    /// The message comes back.
    Return,
    /// The sender is told, and it is tried on.
    Notify,
}

/// Which mail an order is about: exactly one of them is given.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct Chosen {
    /// Messages, with all their recipients.
    pub(crate) ids: Vec<String>,
    pub(crate) domain: Option<String>,
    /// The last attempt's, or `held`.
    pub(crate) reason: Option<String>,
    pub(crate) all: bool,
}

/// `pause` was done.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct PauseDone {
    #[serde(flatten)]
    pub(crate) states: SwitchStates,
    /// No mail waits for the next hop that was named; it is paused all the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) unmatched: Option<Unmatched>,
}

/// What is done to mail in the queue.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum QueueOrder {
    Retry,
    Hold,
    Release,
    Bounce,
    Delete,
}

impl QueueOrder {
    /// As on the command line.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Hold => "hold",
            Self::Release => "release",
            Self::Bounce => "bounce",
            Self::Delete => "delete",
        }
    }
}

/// `queue hold`.
#[derive(Debug, Default, Deserialize, Serialize)]
pub(crate) struct HoldOrder {
    #[serde(flatten)]
    pub(crate) chosen: Chosen,
    /// For the log and for whoever looks at the queue.
    #[serde(default)]
    pub(crate) why: Option<String>,
}

/// What an order did.
#[derive(Debug, Default, Deserialize, Serialize)]
pub(crate) struct ActionDone {
    /// Recipients that it was done to.
    pub(crate) count: u64,
    /// Recipients left alone, since they were being sent; of orders that take mail out of the
    /// queue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) being_sent: Option<u64>,
    /// Nothing was done: that is how many there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) dry_run: Option<bool>,
    /// It was for nobody, since nothing in the queue matches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) unmatched: Option<Unmatched>,
    /// Of the ids that it was for, those that no message in the queue has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) missing: Vec<String>,
}

/// Nothing in the queue is what was named.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Unmatched {
    /// The most similar name that there is mail for, if it is similar.
    pub(crate) did_you_mean: Option<String>,
}

/// `queue summary`: how the answer is grouped.
#[derive(Debug, Default, Deserialize, Serialize)]
pub(crate) struct WantedSummary {
    pub(crate) by: Option<GroupBy>,
}

/// How recipients are grouped.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum GroupBy {
    /// By the recipient's domain.
    Domain,
    /// By why they wait.
    Reason,
    /// By the host that was at fault last.
    Host,
}

impl GroupBy {
    /// As in JSON.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Domain => "domain",
            Self::Reason => "reason",
            Self::Host => "host",
        }
    }
}

/// `queue summary`.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct QueueCounts {
    pub(crate) messages: u64,
    /// Recipients that wait or are being tried.
    pub(crate) queued: u64,
    /// Recipients that wait for the operator.
    pub(crate) held: u64,
    pub(crate) sending_messages: usize,
    /// When the oldest message arrived; null: there is none.
    #[serde(default)]
    pub(crate) oldest_at: Option<Timestamp>,
    /// Recipients by age and next hop.
    #[serde(default)]
    pub(crate) ages: Option<AgeTable>,
    #[serde(flatten)]
    pub(crate) switches: SwitchStates,
    /// The largest ones, where groups are asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) groups: Option<Vec<GroupCount>>,
}

/// Recipients, held ones too, by how long ago their messages arrived.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct AgeTable {
    /// The first count is of ages up to the first of these, and so on; the last one of what is
    /// older.
    pub(crate) up_to_seconds: Vec<u64>,
    /// Of all next hops.
    pub(crate) counts: Vec<u64>,
    /// Those with the most mail, most first.
    pub(crate) next_hops: Vec<HopAges>,
    /// Next hops that are not among them.
    pub(crate) more_next_hops: usize,
}

/// The recipients that wait for one next hop, by age.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct HopAges {
    pub(crate) next_hop: String,
    pub(crate) recipients: u64,
    pub(crate) counts: Vec<u64>,
}

/// A group of recipients, under the name of what they are grouped by.
#[derive(Debug, Default, Deserialize, Serialize)]
pub(crate) struct GroupCount {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) domain: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) host: Option<String>,
    pub(crate) recipients: u64,
}

impl GroupCount {
    /// A group of this name.
    pub(crate) fn named(by: GroupBy, name: String, recipients: u64) -> Self {
        let none = Self { recipients, ..Self::default() };
        match by {
            GroupBy::Domain => Self { domain: Some(name), ..none },
            GroupBy::Reason => Self { reason: Some(name), ..none },
            GroupBy::Host => Self { host: Some(name), ..none },
        }
    }
}
