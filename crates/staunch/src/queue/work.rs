//! What one attempt is about: a message, some of its recipients, and where its body is.

use jiff::Timestamp;
use smtp::{HostName, Mailbox, ReversePath};
use spool::{BodyFacts, LaneKey, MessageId, MessageOptions, RecipientNo, RecipientOptions};

use policy::Onward;

use super::intake::HotBody;
use super::lane::Job;
use super::lanes::{Company, Trouble};
use crate::requirement;

/// One recipient to be tried.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// Its place in the envelope.
    pub(crate) no: RecipientNo,
    /// Its address.
    pub(crate) mailbox: Mailbox,
    /// Attempts so far.
    pub(crate) attempts: u32,
    /// When it becomes too old.
    pub(crate) expires_at: Timestamp,
    /// Since when it waits, if its sender does not know that and is to be told.
    pub(crate) waits_since: Option<Timestamp>,
    /// What was asked for with it.
    pub(crate) options: RecipientOptions,
}

/// Where the body is.
#[derive(Clone, Debug)]
pub(crate) enum Body {
    /// Still in memory since it was accepted.
    Hot(HotBody),
    /// In the store only.
    Stored,
}

/// Recipients of one message that go to one next hop, few enough for one transaction.
#[derive(Clone, Debug)]
pub(crate) struct Work {
    /// The message.
    pub(crate) message: MessageId,
    /// Who hears of failures.
    pub(crate) sender: ReversePath,
    /// Who is to get it; at least one, all of the same lane.
    pub(crate) targets: Vec<Target>,
    /// Are there more recipients of this message in the lane, for the next transaction?
    pub(crate) rest: Rest,
    /// When it was accepted.
    pub(crate) arrived_at: Timestamp,
    /// Its place in the lane.
    pub(crate) turn: Timestamp,
    /// What is known about the body.
    pub(crate) facts: BodyFacts,
    /// The body.
    pub(crate) body: Body,
    /// What was asked for with it.
    pub(crate) options: MessageOptions,
}

/// What mail that was just committed is for a lane.
#[derive(Debug)]
pub(crate) enum Arrival {
    /// To be tried.
    Work(Work),
    /// In the store, for a later time.
    Later(Timestamp),
}

/// What of a message stays behind in the lane when some of its recipients are tried.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Rest {
    /// Nobody.
    Nobody,
    /// Recipients that did not fit into the transaction.
    Waiting,
}

impl Job for Work {
    fn message(&self) -> MessageId {
        self.message
    }

    fn turn(&self) -> Timestamp {
        self.turn
    }
}

/// A piece of work under way, with what its lane knows.
#[derive(Debug)]
pub(crate) struct Due {
    /// The lane.
    pub(crate) lane: LaneKey,
    /// The lane's failures so far, if this is a probe.
    pub(crate) trouble: Option<Trouble>,
    /// Does anything else of the lane run?
    pub(crate) company: Company,
    /// What to try.
    pub(crate) work: Work,
}

impl Work {
    /// The domain of the recipients; all of one lane have the same next hop, so any stands for all.
    /// `None` only for address literals, which are refused at the door.
    pub(crate) fn domain(&self) -> Option<&HostName> {
        self.targets.first().and_then(|target| target.mailbox.domain().name())
    }

    /// What the sender asks of the way behind the next hop.
    pub(crate) fn onward(&self) -> Onward {
        requirement::onward(&self.options)
    }

    /// Does `test` hold for a recipient?
    pub(crate) fn any(&self, test: impl Fn(&Target) -> bool) -> bool {
        self.targets.iter().any(test)
    }
}
