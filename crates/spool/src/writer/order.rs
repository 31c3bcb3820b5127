//! What a piece of work asks of the writer.

use crate::MessageId;
use crate::journal::Recordable;
use crate::message::LaneKey;

/// May this work be refused?
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Urgency {
    /// It may: nobody has been promised anything.
    Ordinary,
    /// It may use the reserve, since without it mail would go less protected, or have to wait.
    Reserved,
    /// It settles what a peer has already acknowledged: it may use the reserve, and if it fails
    /// nothing may be sent.
    Settling,
}

/// Which mail of the journal must have its rows before the work is done.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Needs {
    /// It is not about mail, or about new mail.
    Nothing,
    /// It is about this message.
    Message(MessageId),
    /// It may be about any.
    Everything,
}

/// What is known of a lane once the work is done.
#[derive(Clone, Debug)]
pub(crate) enum LaneWord {
    Healthy(LaneKey),
    Failing(LaneKey),
}

/// What a piece of work asks of the writer.
#[derive(Debug)]
pub(crate) struct Order {
    pub(crate) urgency: Urgency,
    /// What it writes, about.
    pub(crate) octets: usize,
    pub(crate) needs: Needs,
    pub(crate) record: Option<Recordable>,
    pub(crate) lane: Option<LaneWord>,
}

impl From<Urgency> for Order {
    /// The careful one: whatever the work reads is in the tables.
    fn from(urgency: Urgency) -> Self {
        Self { urgency, octets: 0, needs: Needs::Everything, record: None, lane: None }
    }
}

impl Order {
    pub(crate) fn needing(urgency: Urgency, needs: Needs) -> Self {
        Self { needs, ..Self::from(urgency) }
    }
}
