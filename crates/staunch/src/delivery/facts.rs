//! What happens on the way of a message to its hosts.

use std::fmt::Display;

use jiff::Timestamp;
use policy::{Finding, Located, Proof};
use report::Action;
use smtp::mime::ConversionPlan;
use smtp::{Domain, HostName, Reply};
use spool::{LaneKey, MessageId};

use crate::connect::login::LoginError;
use crate::delivery::outcome::{Outcome, TransactionResult};
use crate::delivery::route::hop_of;
use crate::facts::{facts, milliseconds};
use crate::message::{Target, Work};
use crate::telemetry::{Problem, Reason, refusal_reason, tls_reason};

/// Which mail a fact about a recipient is about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct About<'a> {
    /// The message, with what is known of it.
    pub(crate) work: &'a Work,
    /// Where it waits, or waited.
    pub(crate) lane: &'a LaneKey,
    /// The time that mail goes by.
    pub(crate) now: Timestamp,
}

impl About<'_> {
    /// Seconds since the message came, to the millisecond.
    fn age(&self) -> f64 {
        self.now.duration_since(self.work.arrived_at).as_millis().max(0) as f64 / 1000.0
    }
}

facts! {
    /// A fact about deliveries.
    pub(crate) enum DeliveryFact<'a> {
        /// A host did not take the message; the next one is tried, or the message waits.
        HostFailed { message: MessageId, located: &'a Located, problem: &'a Problem } => info!(
            event = "mx_refused",
            message_id = %message,
            domain = %located.next_hop,
            mx = %located.mx,
            reason = %problem.reason,
            status = %problem.status,
            "{}", problem.text
        ),

        /// TLS did not come about with a host, for the reason that was told, and nothing asks for
        /// it.
        GoesClear { message: MessageId, located: &'a Located } => info!(
            event = "cleartext_fallback",
            message_id = %message,
            domain = %located.next_hop,
            mx = %located.mx,
            "STARTTLS failed with this host, and nothing asks for TLS: once more in clear text"
        ),

        /// All of a message was sent, and nothing came back that says whether it was taken.
        OutcomeUnknown { message: MessageId, mx: &'a Domain, trouble: &'a dyn Display } => warn!(
            event = "outcome_unknown",
            message_id = %message,
            %mx,
            "all of it was sent, and the answer is missing or cannot be read: {trouble}; it is \
             sent again later, and may arrive twice"
        ),

        /// A message is sent in another form than its own.
        Converted { message: MessageId, mx: &'a Domain, plan: &'a ConversionPlan } => info!(
            event = "converted",
            message_id = %message,
            %mx,
            dkim_signed = plan.breaks_dkim(),
            "the host does not take the message as it is"
        ),

        /// A route's server does not let us in. If that lasts, the operator must act.
        LoginFails { mx: &'a Domain, error: &'a LoginError } => error!(
            event = "alarm",
            reason = "auth_failed",
            %mx,
            "{error}"
        ),

        /// What a policy that does not bind would have refused.
        PolicyWaived { message: MessageId, mx: &'a Domain, finding: &'a Finding } => warn!(
            event = "policy_waived",
            message_id = %message,
            %mx,
            reason = %reason_of(finding),
            "a policy that is not enforced would have refused: {finding}"
        ),

        /// A forged DNS answer could end mail here; an unexpired policy says that there is a host.
        MxSetContradictsPolicy { domain: &'a HostName } => warn!(
            event = "alarm",
            reason = "mx_set_contradicts_policy",
            %domain,
            "DNS says that there is nobody to send to, which the unexpired policy contradicts"
        ),

        /// A DSN for the sender of `message` is in the queue.
        DsnQueued { message: MessageId, dsn: MessageId, action: Action } => info!(
            event = "dsn_queued",
            message_id = %message,
            dsn_id = %dsn,
            action = action.as_str(),
            "DSN queued to the sender"
        ),

        /// A DSN is one too many for its sender.
        DsnHeld { dsn: MessageId } => warn!(
            event = "held",
            message_id = %dsn,
            reason = "held",
            sender = "",
            recipients = 1,
            "over dsn.rate_per_sender_per_hour: the DSN waits for staunch queue release"
        ),

        /// A host took the message for a recipient.
        Delivered {
            about: About<'a>,
            target: &'a Target,
            answered: Option<&'a TransactionResult>,
            reply: &'a Reply,
        } => info!(
            event = "delivered",
            message_id = %about.work.message,
            sender = about.work.sender.as_str(),
            recipient = %target.mailbox,
            original_recipient = target.options.originals.first().map(|it| display(it.address())),
            domain = %target.mailbox.domain(),
            next_hop = %hop_of(about.lane),
            mx = answered.map(|answered| display(&answered.mx)),
            address = answered.map(|answered| display(answered.address.ip())),
            status = %reply.status.unwrap_or(smtp::Status::success(0, 0)),
            protection = answered.map(|answered| protection(answered.proof)),
            tls_version = answered.and_then(|answered| Some(answered.tls?.version.as_str())),
            tls_group = answered.and_then(|answered| answered.tls?.group),
            policy = answered.map(|answered| answered.policy),
            size = about.work.facts.size,
            attempts = target.attempts.saturating_add(1),
            age_seconds = about.age(),
            "{reply}"
        ),

        /// A recipient is tried again later.
        Deferred {
            about: About<'a>,
            target: &'a Target,
            problem: &'a Problem,
            attempts: u32,
            due_at: Timestamp,
        } => warn!(
            event = "deferred",
            message_id = %about.work.message,
            sender = about.work.sender.as_str(),
            recipient = %target.mailbox,
            original_recipient = target.options.originals.first().map(|it| display(it.address())),
            domain = %target.mailbox.domain(),
            next_hop = %hop_of(about.lane),
            mx = problem.mx.as_ref().map(display),
            reason = %problem.reason,
            status = %problem.status,
            size = about.work.facts.size,
            attempts,
            age_seconds = about.age(),
            next_attempt_at = %milliseconds(due_at),
            "{}", problem.text
        ),

        /// A recipient came to a next hop that waits since its hosts failed: it was not tried.
        JoinedWait {
            about: About<'a>, target: &'a Target, until: Timestamp, cause: Reason,
        } => warn!(
            event = "deferred",
            message_id = %about.work.message,
            sender = about.work.sender.as_str(),
            recipient = %target.mailbox,
            original_recipient = target.options.originals.first().map(|it| display(it.address())),
            domain = %target.mailbox.domain(),
            next_hop = %hop_of(about.lane),
            reason = %cause,
            status = %cause.status(),
            size = about.work.facts.size,
            attempts = target.attempts,
            age_seconds = about.age(),
            next_attempt_at = %milliseconds(until),
            "its next hop waits after a failure"
        ),

        /// A recipient is given up.
        Bounced {
            about: About<'a>,
            target: &'a Target,
            problem: &'a Problem,
            attempts: u32,
        } => warn!(
            event = "bounced",
            message_id = %about.work.message,
            sender = about.work.sender.as_str(),
            recipient = %target.mailbox,
            original_recipient = target.options.originals.first().map(|it| display(it.address())),
            domain = %target.mailbox.domain(),
            next_hop = %hop_of(about.lane),
            mx = problem.mx.as_ref().map(display),
            reason = %problem.reason,
            status = %problem.status,
            size = about.work.facts.size,
            attempts,
            age_seconds = about.age(),
            "{}", problem.text
        ),

        /// A next hop waits, and with it all that is queued for it.
        LaneDeferred {
            lane: &'a LaneKey, until: Timestamp, cause: &'a Problem, recipients: Option<u64>,
        } => warn!(
            event = "lane_deferred",
            next_hop = %hop_of(lane),
            mx = cause.mx.as_ref().map(display),
            reason = %cause.reason,
            status = %cause.status,
            next_attempt_at = %milliseconds(until),
            recipients,
            "{}", cause.text
        ),
    }
}

impl<'a> DeliveryFact<'a> {
    /// That a login failed, if that lasts: what ends by itself shows in the mail that waits.
    pub(crate) fn of_login(mx: &'a Domain, error: &'a LoginError) -> Option<Self> {
        error.is_lasting().then_some(Self::LoginFails { mx, error })
    }

    /// What became of a recipient of an attempt.
    pub(crate) fn of_outcome(
        about: About<'a>,
        target: &'a Target,
        outcome: &'a Outcome,
        answered: Option<&'a TransactionResult>,
    ) -> Self {
        match outcome {
            Outcome::Delivered(reply) => Self::Delivered { about, target, answered, reply },
            Outcome::Deferred { due_at, problem, attempt } => {
                let counted = u32::from(*attempt == spool::Attempt::Counted);
                let attempts = target.attempts.saturating_add(counted);
                Self::Deferred { about, target, problem, attempts, due_at: *due_at }
            }
            Outcome::Failed(problem) => {
                let attempts = target.attempts.saturating_add(1);
                Self::Bounced { about, target, problem, attempts }
            }
        }
    }
}

/// In one word.
fn reason_of(finding: &Finding) -> Reason {
    match finding {
        Finding::Host(refusal) => refusal_reason(refusal),
        Finding::Connection(failure) => tls_reason(failure),
    }
}

/// How mail was protected on its way, in the word of the log.
const fn protection(proof: Proof) -> &'static str {
    match proof {
        Proof::VerifiedPkix => "verified",
        Proof::Encrypted => "encrypted",
        Proof::Plain => "clear",
    }
}
