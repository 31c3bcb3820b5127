//! What came of a transaction.

use std::fmt;

use smtp::RemoteText;
use smtp::client::{RecipientReply, Stage};

use crate::connect::pool::Idle;

/// What came of it.
#[derive(Debug)]
pub(crate) struct Transmitted {
    /// One for each recipient, in order; `None` where [`Transmitted::trouble`] came first, or,
    /// without any, who was not asked: the host takes no more of them in this session, or it
    /// refused others.
    pub(crate) fates: Vec<Option<RecipientReply>>,
    /// Why not every recipient has an answer.
    pub(crate) trouble: Option<TransactionError>,
    /// The connection, if it is ready for the next mail.
    pub(crate) connection: Option<Idle>,
}

/// What ended a transaction before its time.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum TransactionError {
    /// The host takes nobody of the recipients in this session, which served others before.
    UsedUp,
    /// The host offers CHUNKING and does not know BDAT.
    NoChunking,
    /// The connection broke, or the peer was too slow.
    Lost {
        /// What was awaited.
        stage: Stage,
        /// What happened.
        text: RemoteText,
    },
    /// The peer said what cannot be said there.
    Protocol {
        /// What was awaited.
        stage: Stage,
        /// What it said.
        text: RemoteText,
    },
    /// The body cannot be read, or must not be sent.
    Body {
        /// Why.
        text: String,
    },
}

impl fmt::Display for TransactionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UsedUp => f.write_str("the host takes no more in this session"),
            Self::NoChunking => f.write_str("the host offers CHUNKING and does not know BDAT"),
            Self::Lost { text, .. } | Self::Protocol { text, .. } => text.fmt(f),
            Self::Body { text } => text.fmt(f),
        }
    }
}

impl TransactionError {
    /// May the mail have been delivered nevertheless?
    pub(crate) fn is_outcome_unknown(&self) -> bool {
        match self {
            Self::Lost { stage, .. } | Self::Protocol { stage, .. } => *stage == Stage::EndOfData,
            Self::UsedUp | Self::NoChunking | Self::Body { .. } => false,
        }
    }
}
