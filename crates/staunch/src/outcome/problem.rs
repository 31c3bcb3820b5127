//! A failure in words.

use jiff::Timestamp;
use smtp::{Domain, RemoteText, Reply, Status};

use super::reason::Reason;

/// A failure in the words that log, queue, `explain` and notice share.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Problem {
    /// The word.
    pub(crate) reason: Reason,
    /// The code.
    pub(crate) status: Status,
    /// One line for a human.
    pub(crate) text: RemoteText,
    /// The host at fault, if it came to that.
    pub(crate) mx: Option<Domain>,
    /// What a peer answered, verbatim, for `Diagnostic-Code`.
    pub(crate) reply: Option<Reply>,
}

impl Problem {
    pub(crate) fn new(reason: Reason, text: &str) -> Self {
        let text = RemoteText::new(text);
        Self { reason, status: reason.status(), text, mx: None, reply: None }
    }

    pub(crate) fn at(mut self, mx: &Domain) -> Self {
        self.mx = Some(mx.clone());
        self
    }

    /// As the reason of a return: the same subject and detail under class 5.
    pub(crate) fn in_the_end(self) -> Self {
        // RFC 4954 §6: the credentials are invalid. That is certain now.
        let status = if self.reason == Reason::AuthFailed {
            Status::permanent(7, 8)
        } else {
            self.status.with_class(smtp::Class::Permanent)
        };
        Self { status, ..self }
    }

    /// As the reason of a wait: class 4, also where a peer that does not decide alone said 5yz.
    pub(crate) fn for_now(self) -> Self {
        Self { status: self.status.with_class(smtp::Class::Transient), ..self }
    }

    /// In the store's form.
    pub(crate) fn stored(&self, at: Timestamp) -> spool::Problem {
        spool::Problem {
            at,
            status: self.status.to_string().into(),
            reason: self.reason.as_str().into(),
            mx: self.mx.clone(),
            text: self.text.clone(),
        }
    }

    /// With what the peer said; its enhanced code counts, where it gave one.
    pub(crate) fn answered(mut self, reply: &Reply) -> Self {
        self.status = reply.status.unwrap_or_else(|| self.status.with_class(reply_class(reply)));
        self.reply = Some(reply.clone());
        self
    }
}

fn reply_class(reply: &Reply) -> smtp::Class {
    if reply.code >= 500 { smtp::Class::Permanent } else { smtp::Class::Transient }
}
