//! A failure in words.

use jiff::Timestamp;
use smtp::{Domain, RemoteText, Reply, Status};

use super::reason::Reason;

/// A failure in the words that log, queue, `explain` and DSN share.
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
        } else if self.is_wait_by_policy() {
            Status::permanent(4, 7)
        } else {
            self.status.with_class(smtp::Class::Permanent)
        };
        Self { status, ..self }
    }

    /// Did a host ask for patience by its policy, as for greylisting? Under class 5 its code would
    /// say that it refused the sender (X.7.1), which it never did: the time ran out (RFC 3463 §3.5,
    /// X.4.7).
    fn is_wait_by_policy(&self) -> bool {
        let is_wait =
            self.reply.as_ref().is_some_and(|reply| reply_class(reply) == smtp::Class::Transient);
        is_wait && self.status.subject == 7 && !self.reason.is_about_protection()
    }

    /// As the reason of a wait: class 4, also where a peer that does not decide alone said 5yz.
    pub(crate) fn for_now(self) -> Self {
        Self { status: self.status.with_class(smtp::Class::Transient), ..self }
    }

    /// In the store's form.
    pub(crate) fn stored(&self, at: Timestamp) -> spool::StoredProblem {
        spool::StoredProblem {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_asked_for_patience_until_the_end_was_not_refused() {
        let ended = |reason, reply: &str| {
            let reply = Reply::parse(format!("{reply}\r\n").as_bytes()).unwrap();
            let problem = Problem::new(reason, "x").answered(&reply).in_the_end();
            assert_eq!(problem.reply, Some(reply), "it is quoted");
            problem.status.to_string()
        };
        assert_eq!(ended(Reason::Remote4xx, "451 4.7.1 greylisted"), "5.4.7");
        assert_eq!(ended(Reason::Throttled, "421 4.7.0 too fast"), "5.4.7");
        assert_eq!(ended(Reason::Remote4xx, "452 4.2.2 full"), "5.2.2");
        assert_eq!(ended(Reason::Remote4xx, "451 later"), "5.0.0");
        assert_eq!(ended(Reason::Remote5xx, "550 5.7.1 blocked"), "5.7.1");
        assert_eq!(ended(Reason::StarttlsRefused, "454 4.7.0 no TLS"), "5.7.0");
        let ours = Problem::new(Reason::MxNotListed, "x").in_the_end();
        assert_eq!(ours.status.to_string(), "5.7.5");
    }
}
