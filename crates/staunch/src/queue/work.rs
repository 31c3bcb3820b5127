//! What one attempt is about: a message, some of its recipients, and where its body is.

use std::borrow::Cow;

use jiff::Timestamp;
use smtp::{Addressee, HostName, Mailbox, ReversePath};
use spool::{BodyFacts, LaneKey, MessageId, MessageOptions, RecipientNo, RecipientOptions};

use policy::Onward;

use super::Place;
use super::intake::HotBody;
use super::lane::Job;
use super::lanes::{Class, Company, Submitter, Ticket};
use super::underway::Removals;
use crate::config::Config;
use crate::outcome::Trouble;
use crate::{requirement, route};

/// What the text of an address takes on the heap, about. RFC 5321 §4.5.3.1.3 allows four times as much, and
/// nobody uses it.
const ADDRESS_OCTETS: usize = 64;

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

impl<'a> From<&'a Target> for Addressee<'a> {
    fn from(target: &'a Target) -> Self {
        let RecipientOptions { notify, originals } = &target.options;
        Self { mailbox: &target.mailbox, notify: *notify, original: originals.first() }
    }
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
    /// From before it was read from the store, or committed: who was taken out since is not to get it.
    pub(crate) as_of: Removals,
    /// Who handed it in.
    pub(crate) submitter: Submitter,
}

/// What mail that was just committed is for a lane.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly all are the large one, and none is kept")]
pub(crate) enum Arrival {
    /// To be tried.
    Work(Work),
    /// In the store, for a later time.
    Later(Timestamp),
}

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

    fn octets(&self) -> u64 {
        let own = size_of::<Self>() + self.targets.capacity() * size_of::<Target>();
        let texts = self.targets.len() * ADDRESS_OCTETS;
        u64::try_from(own + texts).unwrap_or(u64::MAX)
    }

    fn submitter(&self) -> Submitter {
        self.submitter
    }
}

/// A piece of work under way, with what its lane knows.
#[derive(Debug)]
pub(crate) struct Due {
    /// The lane.
    pub(crate) lane: LaneKey,
    /// The attempt.
    pub(crate) ticket: Ticket,
    /// What is known of the next hop.
    pub(crate) class: Class,
    /// The lane's failures so far, if this is a probe.
    pub(crate) trouble: Option<Trouble>,
    /// Does anything else of the lane run?
    pub(crate) company: Company,
    /// What to try.
    pub(crate) work: Work,
}

impl Due {
    /// Is the lane that of every recipient's next hop under `config`? Who shared a route may have next hops
    /// of their own since. An address literal has none at all.
    pub(crate) fn place(&self, config: &Config) -> Place {
        let onward = self.work.onward();
        let is_astray = |target: &Target| {
            let domain = target.mailbox.domain().name();
            domain.is_some_and(|domain| route::lane(config, domain, onward) != self.lane)
        };
        if self.work.any(is_astray) { Place::Astray } else { Place::Right }
    }
}

impl Work {
    /// The domain of the recipients. Where [`Due::place`] is right, all have the same next hop, so any stands
    /// for all. `None` only for address literals, which are refused at the door.
    pub(crate) fn domain(&self) -> Option<&HostName> {
        self.targets.first().and_then(|target| target.mailbox.domain().name())
    }

    /// What the sender asks of the way behind the next hop.
    pub(crate) fn onward(&self) -> Onward {
        requirement::onward(&self.options)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accept::facts_of;
    use crate::config::{Surroundings, load};

    fn due(lane: &str, to: &[&str], options: &MessageOptions) -> Due {
        let at = Timestamp::UNIX_EPOCH;
        let target = |to: &&str| Target {
            no: RecipientNo(0),
            mailbox: Mailbox::parse(to).unwrap(),
            attempts: 0,
            expires_at: at,
            waits_since: None,
            options: RecipientOptions::default(),
        };
        let facts = facts_of(b"\r\n");
        let work = Work {
            message: MessageId::from_u128(1),
            sender: ReversePath::Null,
            targets: to.iter().map(target).collect(),
            rest: Rest::Nobody,
            arrived_at: at,
            turn: at,
            facts,
            body: Body::Stored,
            options: options.clone(),
            as_of: Removals::default(),
            submitter: Submitter::UNKNOWN,
        };
        Due {
            lane: LaneKey::new(lane),
            ticket: Ticket::ALONE,
            class: Class::New,
            trouble: None,
            company: Company::Others,
            work,
        }
    }

    #[test]
    fn work_is_astray_as_soon_as_one_recipient_has_another_next_hop() {
        let text = r#"
            hostname = "relay.test"
            data_dir = "/tmp"
            [[route]]
            domains = ["a.test", "c.test"]
            via = ["smtp://[smart.test]"]
        "#;
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let config = load(Some(file.path()), &Surroundings::default()).unwrap().config;
        let require_tls = MessageOptions { require_tls: true, ..MessageOptions::default() };
        let routed = |options: &MessageOptions| {
            let domain = HostName::parse("a.test").unwrap();
            route::lane(&config, &domain, requirement::onward(options)).to_string()
        };
        for options in [MessageOptions::default(), require_tls] {
            let place = |lane: &str, to: &[&str]| due(lane, to, &options).place(&config);
            let lane = routed(&options);
            assert_eq!(place(&lane, &["x@a.test", "y@c.test"]), Place::Right);
            assert_eq!(place(&lane, &["x@a.test", "y@b.test"]), Place::Astray, "the second");
            assert_eq!(place(&lane, &["y@b.test", "x@a.test"]), Place::Astray, "the first");
            assert_eq!(place("a.test", &["x@a.test"]), Place::Astray, "a lane of former days");
        }
        let plain = MessageOptions::default();
        assert_eq!(due("b.test", &["y@b.test"], &plain).place(&config), Place::Right);
    }
}
