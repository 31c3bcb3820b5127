//! Mail on its way from one queue to another: one line of JSON for the envelope, then the body,
//! octet by octet.
//!
//! ```text
//! {"staunch_queue":1}
//! {"id":"01k9…","sender":"a@b.example","size":1234,…}
//! …1234 octets…
//! {"id":…
//! …
//! {"end":17}
//! ```

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use smtp::originals::OriginalRecipients;
use smtp::params::{ByMode, EnvelopeId, Notify, Priority, Return};
use smtp::{Mailbox, ReversePath};
use spool::{
    BodyFacts, Deadline, MessageDetail, MessageId, MessageOptions, NewRecipient, QueueRow,
    RecipientOptions, RecipientState, StoredEnvelope,
};

use crate::config::Config;
use crate::delivery::route;
use crate::message::require_tls;

/// The first line of a file.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct ExportHead {
    /// The format of what follows.
    pub(crate) staunch_queue: u32,
}

/// The last line, without which a file is not whole.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExportEnd {
    /// Messages before it.
    pub(crate) end: u64,
}

/// The format that is written, and read.
pub(crate) const FORMAT: u32 = 1;

/// Our choice: octets of the longest line. A message has at most 65,536 recipients of some 300
/// octets.
pub(crate) const LINE_MAX: usize = 32 * 1024 * 1024;

/// What a queue knows of a message, without what happened to it there.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EnvelopeLine {
    pub(crate) id: String,
    sender: String,
    client: String,
    arrived_at: Timestamp,
    expires_at: Timestamp,
    /// Octets of the body that follows.
    pub(crate) size: u64,
    ret: Option<String>,
    envelope_id: Option<String>,
    smtp_utf8: bool,
    require_tls: bool,
    deliver_by: Option<By>,
    priority: i8,
    not_before: Option<Timestamp>,
    user: Option<String>,
    recipients: Vec<To>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct By {
    at: Timestamp,
    /// Else its sender is only told.
    returned: bool,
    trace: bool,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct To {
    address: String,
    held: bool,
    notify: Option<String>,
    original: Option<String>,
}

/// A line that says nothing that could be queued.
#[derive(Debug, thiserror::Error)]
#[error("{what} of message {id} makes no sense")]
pub(crate) struct BadEnvelope {
    id: String,
    what: &'static str,
}

impl EnvelopeLine {
    /// What is to be written of a message.
    pub(crate) fn of(message: &MessageDetail) -> Self {
        let options = &message.options;
        let by = |deadline: Deadline| By {
            at: deadline.at,
            returned: deadline.mode == ByMode::Return,
            trace: deadline.trace,
        };
        let expires_at = message.recipients.iter().map(|row| row.expires_at).min();
        Self {
            id: message.message.to_string(),
            sender: message.sender.as_str().to_owned(),
            client: message.client.to_string(),
            arrived_at: message.arrived_at,
            expires_at: expires_at.unwrap_or(message.arrived_at),
            size: message.facts.size,
            ret: options.ret.map(|ret| ret.to_string()),
            envelope_id: options.envelope_id.as_ref().map(|id| id.as_str().to_owned()),
            smtp_utf8: options.smtp_utf8,
            require_tls: options.require_tls,
            deliver_by: options.deliver_by.map(by),
            priority: options.priority.get(),
            not_before: options.not_before,
            user: options.user.as_deref().map(str::to_owned),
            recipients: message.recipients.iter().map(To::of).collect(),
        }
    }

    /// The id under which it is queued.
    pub(crate) fn id(&self) -> Result<MessageId, BadEnvelope> {
        self.id.parse().map_err(|_| self.bad("the id"))
    }

    fn bad(&self, what: &'static str) -> BadEnvelope {
        BadEnvelope { id: self.id.clone(), what }
    }

    /// What is put into the queue of a relay that has this configuration, for a body with these
    /// facts.
    pub(crate) fn envelope(
        &self,
        config: &Config,
        facts: BodyFacts,
    ) -> Result<StoredEnvelope, BadEnvelope> {
        let options = self.options()?;
        let require_tls = require_tls(&options);
        let recipients = self.recipients.iter().map(|to| {
            let mailbox = Mailbox::parse_utf8(&to.address).map_err(|_| self.bad("a recipient"))?;
            let domain = mailbox.domain().name().ok_or_else(|| self.bad("a recipient's domain"))?;
            Ok(NewRecipient {
                lane: route::lane(config, domain, require_tls),
                options: to.options().ok_or_else(|| self.bad("NOTIFY or ORCPT"))?,
                state: if to.held { RecipientState::Held } else { RecipientState::Queued },
                mailbox,
            })
        });
        Ok(StoredEnvelope {
            recipients: recipients.collect::<Result<_, BadEnvelope>>()?,
            sender: ReversePath::parse_utf8(&self.sender).map_err(|_| self.bad("the sender"))?,
            arrived_at: self.arrived_at,
            expires_at: self.expires_at,
            client: self.client.as_str().into(),
            facts,
            options,
        })
    }

    fn options(&self) -> Result<MessageOptions, BadEnvelope> {
        let ret = |word: &str| Return::parse(word).ok_or_else(|| self.bad("RET"));
        let id = |text: &str| EnvelopeId::parse(text).ok_or_else(|| self.bad("ENVID"));
        let by = |by: &By| {
            let mode = if by.returned { ByMode::Return } else { ByMode::Notify };
            Deadline { at: by.at, mode, trace: by.trace }
        };
        Ok(MessageOptions {
            ret: self.ret.as_deref().map(ret).transpose()?,
            envelope_id: self.envelope_id.as_deref().map(id).transpose()?,
            smtp_utf8: self.smtp_utf8,
            require_tls: self.require_tls,
            deliver_by: self.deliver_by.as_ref().map(by),
            priority: Priority::new(self.priority).ok_or_else(|| self.bad("MT-PRIORITY"))?,
            not_before: self.not_before,
            user: self.user.as_deref().map(Into::into),
        })
    }
}

impl To {
    fn of(row: &QueueRow) -> Self {
        Self {
            address: row.recipient.as_str().to_owned(),
            held: row.state == RecipientState::Held,
            notify: row.options.notify.map(|notify| notify.to_string()),
            original: Some(row.options.originals.as_str().to_owned())
                .filter(|text| !text.is_empty()),
        }
    }

    fn options(&self) -> Option<RecipientOptions> {
        let originals = OriginalRecipients::parse(self.original.as_deref().unwrap_or_default())?;
        let notify = match self.notify.as_deref() {
            Some(words) => Some(Notify::parse(words)?),
            None => None,
        };
        Some(RecipientOptions { notify, originals })
    }
}
