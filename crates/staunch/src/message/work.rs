//! What one attempt is about: a message, some of its recipients, and where its body is.

use std::borrow::Cow;

use jiff::Timestamp;
use policy::RequireTls;
use smtp::{Addressee, HostName, Mailbox, ReversePath};
use spool::{BodyFacts, MessageId, MessageOptions, RecipientNo, RecipientOptions};

use super::{Body, Submitter};

/// One recipient to be tried.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// Its place in the envelope.
    pub(crate) no: RecipientNo,
    /// Where it goes, after aliases.
    pub(crate) mailbox: Mailbox,
    /// Attempts that counted until now; 0 before the first.
    pub(crate) attempts: u32,
    /// When it becomes too old.
    pub(crate) expires_at: Timestamp,
    /// Since when it waits, if its sender does not know that and is to be told.
    pub(crate) waits_since: Option<Timestamp>,
    /// What was asked for with it.
    pub(crate) options: RecipientOptions,
}

impl<'a> From<&'a Target> for Addressee<'a> {
    fn from(target: &'a Target) -> Self {
        let RecipientOptions { notify, originals } = &target.options;
        Self { mailbox: &target.mailbox, notify: *notify, original: originals.first() }
    }
}

/// Recipients of one message that go to one next hop, few enough for one transaction.
#[derive(Clone, Debug)]
pub(crate) struct Work {
    pub(crate) message: MessageId,
    /// Who is told of failures.
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
    pub(crate) body: Body,
    /// What was asked for with it.
    pub(crate) options: MessageOptions,
    /// From before it was read from the store, or committed: who was taken out since is not to get
    /// it.
    pub(crate) as_of: Removals,
    /// Who handed it in.
    pub(crate) submitter: Submitter,
}

/// What these options ask of the way behind the next hop.
pub(crate) fn require_tls(options: &MessageOptions) -> RequireTls {
    if options.require_tls { RequireTls::Yes } else { RequireTls::No }
}

/// How often mail was taken out of the queue by others than its own attempt. The default is before
/// all, so what carries it is always looked at again.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Removals(pub(crate) u64);

/// Can the address only be sent with SMTPUTF8? A local part has one form only.
pub(crate) fn needs_utf8(mailbox: &Mailbox) -> bool {
    !mailbox.is_ascii() && mailbox.to_ascii().is_none()
}

fn rewrite(mailbox: &mut Mailbox) {
    if let Some(ascii) = mailbox.to_ascii().and_then(|text| Mailbox::parse(&text).ok()) {
        *mailbox = ascii;
    }
}

/// What of a message stays behind in the lane when some of its recipients are tried.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Rest {
    Nobody,
    /// Recipients that did not fit into the transaction.
    Waiting,
}

impl Work {
    /// The domain of the recipients. Where the lane is current, all have the same next hop, so any
    /// stands for all. `None` only for address literals, which are refused at RCPT.
    pub(crate) fn domain(&self) -> Option<&HostName> {
        self.targets.first().and_then(|target| target.mailbox.domain().name())
    }

    /// What the sender asks of the way behind the next hop.
    pub(crate) fn require_tls(&self) -> RequireTls {
        require_tls(&self.options)
    }

    /// Has sender or recipient an address that cannot be written in ASCII (RFC 6531 §3.3)?
    pub(crate) fn needs_utf8_addresses(&self) -> bool {
        self.sender.mailbox().is_some_and(needs_utf8)
            || self.any(|target| needs_utf8(&target.mailbox))
    }

    /// With all addresses in ASCII that can be: their domains as A-labels.
    pub(crate) fn in_ascii(&self) -> Cow<'_, Self> {
        let is_ascii = self.sender.mailbox().is_none_or(Mailbox::is_ascii)
            && !self.any(|target| !target.mailbox.is_ascii());
        if is_ascii {
            return Cow::Borrowed(self);
        }
        let mut work = self.clone();
        if let ReversePath::Mailbox(mailbox) = &mut work.sender {
            rewrite(mailbox);
        }
        work.targets.iter_mut().for_each(|target| rewrite(&mut target.mailbox));
        Cow::Owned(work)
    }

    /// Does `test` hold for a recipient?
    pub(crate) fn any(&self, test: impl Fn(&Target) -> bool) -> bool {
        self.targets.iter().any(test)
    }
}
