//! What a DSN says to people.

use smtp::{Class, Status};

/// What happened to the recipients of a DSN; the same for all of them (RFC 3464 §2.3.3).
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Action {
    /// They were not reached, and it is not tried again.
    Failed,
    /// They were not reached yet.
    Delayed,
    /// The next hop took the message, and confirms nothing that happens behind it.
    Relayed,
    /// The message is in the mailbox.
    Delivered,
    /// The message was handed to those whom the address stands for.
    Expanded,
}

impl Action {
    /// The word in the field `Action`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Delayed => "delayed",
            Self::Relayed => "relayed",
            Self::Delivered => "delivered",
            Self::Expanded => "expanded",
        }
    }

    /// The class of each recipient's status: what is final is never told with a 4, nor the reverse.
    pub(crate) fn class(self) -> Class {
        match self {
            Self::Failed => Class::Permanent,
            Self::Delayed => Class::Transient,
            Self::Relayed | Self::Delivered | Self::Expanded => Class::Success,
        }
    }

    pub(crate) fn subject(self) -> &'static str {
        match self {
            Self::Failed => "Your message could not be delivered",
            Self::Delayed => "Your message is delayed",
            Self::Relayed => "Your message was passed on",
            Self::Delivered => "Your message was delivered",
            Self::Expanded => "Your message was distributed",
        }
    }

    /// The first sentences, about a message of `date`.
    pub(crate) fn opening(self, date: &str, whom: &str) -> String {
        match self {
            Self::Failed => format!(
                "Your message of {date} could not be delivered to {whom}. It will not be tried again."
            ),
            Self::Delayed => format!(
                "Your message of {date} could not be delivered to {whom} yet. It is tried further, and \
                 you need not send it again."
            ),
            Self::Relayed => format!(
                "As you asked to be told: your message of {date} was passed on towards {whom}. The next \
                 server confirms nothing, so you may hear no more of it."
            ),
            Self::Delivered => {
                format!("As you asked to be told: your message of {date} was delivered to {whom}.")
            }
            Self::Expanded => format!(
                "As you asked to be told: your message of {date} was sent on to those whom {whom} \
                 stands for. They confirm nothing to you."
            ),
        }
    }

    /// What the sender can do about it, by the subject of the status (RFC 3463 §3).
    pub(crate) fn advice(self, status: Status) -> Option<&'static str> {
        match self {
            Self::Failed => Some(after_failure(status)),
            Self::Delayed => match (status.subject, status.detail) {
                (7, 4 | 5) => Some(
                    "The recipient's domain asks for protected delivery, and its servers do not offer it now. \
                     The message waits rather than go unprotected. Please tell the recipient or their \
                     postmaster by another way.",
                ),
                (_, _) => None,
            },
            Self::Relayed | Self::Delivered | Self::Expanded => None,
        }
    }
}

fn after_failure(status: Status) -> &'static str {
    match (status.subject, status.detail) {
        (7, 4 | 5) => {
            "The recipient's domain asks for protected delivery, and its servers did not offer it. \
             The message was kept back rather than sent unprotected. Please tell the recipient or \
             their postmaster by another way."
        }
        (7, 10 | 30) => {
            "You asked for this message to be sent over protected connections only, and there was \
             no such way to the recipient. Send it without this demand if it need not be protected."
        }
        (4, 7) => {
            "The time in which this message was to be delivered is over. Send it again if it may \
             arrive later."
        }
        (1, _) => "Please check the address for mistakes.",
        (2, _) => "The recipient's mailbox cannot take the message. Please reach them another way.",
        (3 | 4, _) => {
            "Sending it again later may succeed. If it does not, please tell the recipient or their \
             postmaster by another way."
        }
        (6, _) => "The recipient's servers cannot take a message in this form.",
        (7, _) => {
            "The recipient's servers do not accept this message. Please ask the recipient or their \
             postmaster by another way."
        }
        (_, _) => "Please ask the recipient or their postmaster by another way.",
    }
}
