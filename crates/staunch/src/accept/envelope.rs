//! What is kept of the parameters of MAIL and RCPT, and when a message is due and too old.

use std::borrow::Cow;
use std::collections::HashMap;
use std::hash::BuildHasher as _;

use jiff::{SignedDuration, Timestamp};
use smtp::command::{Mail, Rcpt, Recipient};
use smtp::params::{DeliverBy, Hold, Notify, OriginalRecipient};
use smtp::server::Client;
use smtp::{Domain, HostName, Mailbox, xtext};
use spool::{
    BodyFacts, Deadline, MessageOptions, NewRecipient, RecipientOptions, RecipientState,
    StoredEnvelope,
};

use super::peer::Peer;
use super::refusal::ClientRefusal;
use crate::auth::users::UserName;
use crate::config::Config;
use crate::delivery::route;
use crate::message::require_tls;
use crate::queue::intake::expires_at;
use crate::queue::rates::Rate;

/// How far ahead mail may be submitted (RFC 4865): a month, as long as people plan and programs
/// keep accounts.
pub(super) const HOLD_SECONDS_MAX: u64 = 30 * 24 * 60 * 60;
/// The shortest time in which mail may be asked to be delivered or returned (RFC 2852 §4): a first
/// attempt with several hosts that time out takes as long.
pub(super) const DELIVER_BY_SECONDS_MIN: u32 = 60;

/// What MAIL and RCPT said so far.
#[derive(Debug)]
pub(super) struct Requested {
    /// The arguments of MAIL.
    pub(super) mail: Mail,
    /// The times among them.
    pub(super) times: Times,
    /// The recipients that were answered 250, without repetitions.
    pub(super) recipients: Recipients,
}

/// The recipients of a message, each once: programs repeat RCPT where an address stands in To, Cc
/// and Bcc, and several aliases may lead to one mailbox.
#[derive(Debug, Default)]
pub(super) struct Recipients {
    all: Vec<AcceptedRecipient>,
    /// Where each stands, by the hash of its [`key`], which costs less than the key. Of two with
    /// one hash the later is added again.
    places: HashMap<u64, usize>,
    /// RCPTs that were taken.
    taken: usize,
    /// About how many octets they hold.
    memory: usize,
}

impl Recipients {
    /// In the order in which they came.
    pub(super) fn all(&self) -> &[AcceptedRecipient] {
        &self.all
    }

    /// How many RCPTs were taken, repeated ones counted.
    pub(super) fn taken(&self) -> usize {
        self.taken
    }

    /// About how many octets they hold in memory.
    pub(super) fn memory(&self) -> usize {
        self.memory
    }

    /// Is it there already?
    pub(super) fn has(&self, addressee: &AcceptedRecipient) -> bool {
        self.place(&addressee.mailbox).is_some()
    }

    fn place(&self, mailbox: &Mailbox) -> Option<usize> {
        let wanted = key(mailbox);
        let place = *self.places.get(&self.places.hasher().hash_one(&wanted))?;
        self.all.get(place).is_some_and(|known| key(&known.mailbox) == wanted).then_some(place)
    }

    /// Those of one RCPT: more, or what is asked for one that is there already.
    pub(super) fn add(&mut self, addressees: Vec<AcceptedRecipient>) {
        self.taken += 1;
        for addressee in addressees {
            self.memory += addressee.memory();
            match self.place(&addressee.mailbox).and_then(|place| self.all.get_mut(place)) {
                None => {
                    let hash = self.places.hasher().hash_one(key(&addressee.mailbox));
                    self.places.insert(hash, self.all.len());
                    self.all.push(addressee);
                }
                Some(known) => {
                    known.options.notify =
                        Notify::together(known.options.notify, addressee.options.notify);
                    let originals = addressee.options.originals.iter();
                    originals.for_each(|original| known.options.originals.add(original.clone()));
                }
            }
        }
    }
}

/// The same for every way to write a mailbox; the case of a local part counts (RFC 5321 §2.4).
fn key(mailbox: &Mailbox) -> (Cow<'_, str>, &Domain) {
    (mailbox.unquoted_local_part(), mailbox.domain())
}

/// A recipient that was taken.
#[derive(Debug)]
pub(super) struct AcceptedRecipient {
    /// As the client wrote it first.
    pub(super) written: Recipient,
    /// Where its mail goes.
    pub(super) mailbox: Mailbox,
    /// The domain of that. An address literal is not taken.
    pub(super) domain: HostName,
    /// What is asked for with it.
    pub(super) options: RecipientOptions,
}

impl AcceptedRecipient {
    pub(super) fn new(rcpt: &Rcpt, mailbox: Mailbox, domain: HostName) -> Self {
        let originals = original(rcpt, &mailbox).into();
        let options = RecipientOptions { notify: rcpt.notify, originals };
        Self { written: rcpt.recipient.clone(), mailbox, domain, options }
    }

    /// About how many octets it holds in memory.
    pub(super) fn memory(&self) -> usize {
        // A list that grows has up to twice the room, and each of the two addresses has its domain
        // beside it.
        2 * (size_of::<Self>() + size_of::<(u64, usize)>())
            + 4 * self.mailbox.as_str().len()
            + self.options.originals.as_str().len()
            + self.domain.as_str().len()
    }
}

/// What a client asked for at MAIL, as points in time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Times {
    /// When MAIL came: its relative times count from here.
    pub(super) now: Timestamp,
    /// Not to be sent before.
    pub(super) not_before: Option<Timestamp>,
    /// To be delivered by then.
    pub(super) deliver_by: Option<Timestamp>,
}

impl Times {
    /// # Errors
    ///
    /// [`ClientRefusal::BadHold`].
    pub(super) fn new(mail: &Mail, now: Timestamp) -> Result<Self, ClientRefusal> {
        let after = |seconds: i64| {
            now.saturating_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX)
        };
        let latest = after(i64::try_from(HOLD_SECONDS_MAX).unwrap_or(i64::MAX));
        let not_before = match &mail.hold {
            None => None,
            Some(Hold::For(seconds)) => Some(after(i64::try_from(*seconds).unwrap_or(i64::MAX))),
            Some(Hold::Until(date)) => {
                Some(date.parse::<Timestamp>().map_err(|_| ClientRefusal::BadHold)?)
            }
        };
        if not_before.is_some_and(|time| time > latest) {
            return Err(ClientRefusal::BadHold);
        }
        Ok(Self { now, not_before, deliver_by: mail.deliver_by.map(|by| after(by.seconds)) })
    }
}

/// How a message was submitted.
#[derive(Debug)]
pub(super) struct Submission<'a> {
    /// For logs and `queue show`.
    pub(super) client: Box<str>,
    /// The user who logged in, if one did.
    pub(super) user: Option<&'a UserName>,
    /// May it go on at once?
    pub(super) rate: Rate,
}

impl Submission<'_> {
    /// All that the store keeps beside the body. The lanes are those of `config`, and not of the
    /// one under which each RCPT was answered: recipients of one lane have one next hop.
    pub(super) fn envelope(
        self,
        config: &Config,
        asked: Requested,
        facts: BodyFacts,
        arrived_at: Timestamp,
    ) -> StoredEnvelope {
        let Requested { mail, times, recipients } = asked;
        let deadline =
            |(by, at): (DeliverBy, Timestamp)| Deadline { at, mode: by.mode, trace: by.trace };
        let options = MessageOptions {
            ret: mail.ret,
            envelope_id: mail.envelope_id,
            smtp_utf8: mail.smtp_utf8,
            require_tls: mail.require_tls,
            deliver_by: mail.deliver_by.zip(times.deliver_by).map(deadline),
            priority: mail.priority.unwrap_or_default(),
            not_before: times.not_before,
            user: self.user.map(|user| user.as_str().into()),
        };
        let state = match self.rate {
            Rate::Within => RecipientState::Queued,
            Rate::Over => RecipientState::Held,
        };
        let require_tls = require_tls(&options);
        let recipient = |AcceptedRecipient { mailbox, domain, options, .. }| {
            let lane = route::lane(config, &domain, require_tls);
            NewRecipient { mailbox, lane, options, state }
        };
        StoredEnvelope {
            expires_at: expires_at(config, &mail.sender, options.begins_at(arrived_at)),
            sender: mail.sender,
            recipients: recipients.all.into_iter().map(recipient).collect(),
            arrived_at,
            client: self.client,
            facts,
            options,
        }
    }
}

/// Whom the sender wrote to: what they say, or what an alias replaced (RFC 3461 §5.2.7), so that
/// they recognize it in a DSN.
fn original(rcpt: &Rcpt, mailbox: &Mailbox) -> Option<OriginalRecipient> {
    let replaced = || match &rcpt.recipient {
        Recipient::Mailbox(written) if written != mailbox => OriginalRecipient::parse(&format!(
            "rfc822;{}",
            xtext::encode(written.as_str().as_bytes())
        )),
        Recipient::Mailbox(_) | Recipient::Postmaster => None,
    };
    rcpt.original.clone().or_else(replaced)
}

/// For the queue: `192.0.2.1 (client.example)`, with the name of EHLO if there was one.
pub(super) fn client(peer: Peer, client: Option<&Client>) -> Box<str> {
    match client {
        Some(client) => format!("{peer} ({})", client.name).into(),
        None => peer.to_string().into(),
    }
}
