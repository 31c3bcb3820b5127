//! What an attempt teaches about its lane.

use jiff::Timestamp;

/// Failures of a lane in a row.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct FailureRun {
    /// How many; at least 1.
    pub(crate) failures: u32,
    /// When the first was.
    pub(crate) since: Timestamp,
}

/// What an attempt taught about its lane.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum LaneEffect {
    /// A host took mail: more may run at once.
    Works,
    /// A host answered, but took nothing: whatever it has against the mail, it works.
    Answers,
    /// Nothing was learnt: the trouble was the message's or ours.
    Neutral,
    /// No host can be used: wait, then probe with one message.
    Failed {
        /// When.
        retry_at: Timestamp,
        /// The failures in a row, this one counted.
        trouble: FailureRun,
    },
    /// A host asked for patience: fewer at once, and none before `retry_at`.
    Throttled {
        /// When.
        retry_at: Timestamp,
    },
    /// It was slow, and other mail needed its place. The lane waits as after a failure, but it says
    /// nothing of the hosts by which anybody else's mail might end.
    Yielded {
        /// Until when.
        retry_at: Timestamp,
        /// The failures in a row, this one counted.
        trouble: FailureRun,
    },
}
