//! The log lines about deliveries: one line a fact, at one place each (`docs/operations.md`).

use jiff::Timestamp;
use policy::{Finding, Proof};
use report::Action;
use smtp::Domain;
use smtp::mime::ConversionPlan;
use spool::{LaneKey, MessageId};

use crate::connect::login::LoginError;
use crate::delivery::hosts::Candidate;
use crate::delivery::outcome::{HostError, Outcome, TransactionResult};
use crate::delivery::route;
use crate::message::Target;
use crate::telemetry::{Problem, Reason, refusal_reason, tls_reason};

/// A host did not take the message; the next one is tried, or the message waits.
pub(crate) fn host_failed(message: MessageId, candidate: &Candidate, error: &HostError) {
    // Nobody was asked: it goes on as soon as there is room.
    if matches!(error, HostError::ConcurrencyLimited(_)) {
        return;
    }
    let mx = &candidate.located.mx;
    let Problem { reason, status, text, .. } = error.problem(mx);
    tracing::warn!(
        event = "mx_refused",
        message_id = %message,
        domain = %candidate.located.next_hop,
        %mx,
        %reason,
        %status,
        "{text}"
    );
}

/// TLS did not come about with a host, for the reason that was told, and nothing asks for it.
pub(crate) fn goes_clear(message: MessageId, candidate: &Candidate) {
    tracing::info!(
        event = "cleartext_fallback",
        message_id = %message,
        domain = %candidate.located.next_hop,
        mx = %candidate.located.mx,
        "STARTTLS failed with this host, and nothing asks for TLS: once more in clear text"
    );
}

/// All of a message was sent, and nothing came back that says whether it was taken.
pub(crate) fn outcome_unknown(message: MessageId, mx: &Domain, text: &dyn std::fmt::Display) {
    tracing::warn!(
        event = "outcome_unknown",
        message_id = %message,
        %mx,
        "all of it was sent, and the answer is missing or cannot be read: {text}; it is sent again later, and may arrive twice"
    );
}

/// A message is sent in another form than its own.
pub(crate) fn converted(message: MessageId, mx: &Domain, plan: &ConversionPlan) {
    tracing::info!(
        event = "converted",
        message_id = %message,
        %mx,
        dkim_signed = plan.breaks_dkim(),
        "the host does not take the message as it is"
    );
}

/// A route's server does not let us in. If that lasts, somebody must act.
pub(crate) fn login_failed(mx: &Domain, error: &LoginError) {
    if error.is_lasting() {
        tracing::error!(event = "alarm", reason = "auth_failed", %mx, "{error}");
    }
}

/// What a policy that does not bind would have refused.
pub(crate) fn findings(message: MessageId, mx: &Domain, findings: &[Finding]) {
    for finding in findings {
        let (reason, text) = match finding {
            Finding::Host(refusal) => (refusal_reason(refusal), refusal.to_string()),
            Finding::Connection(failure) => (tls_reason(failure), failure.to_string()),
        };
        tracing::warn!(
            event = "policy_waived",
            message_id = %message,
            %mx,
            %reason,
            "a policy that is not enforced would have refused: {text}"
        );
    }
}

/// A line about a recipient that was not reached, under a name that must be known to the compiler.
macro_rules! gone_wrong {
    (event = $event:literal, $about:ident, $target:ident, $problem:ident $(, $more:tt = $value:expr)*) => {{
        let Problem { reason, status, text, mx, .. } = $problem;
        tracing::warn!(
            event = $event,
            message_id = %$about.message,
            recipient = %$target.mailbox,
            domain = %$target.mailbox.domain(),
            next_hop = %route::hop_of($about.lane),
            mx = mx.as_ref().map(tracing::field::display),
            %reason,
            %status,
            $($more = $value,)*
            "{text}"
        );
    }};
}

/// The sender of `message` is told what happened.
pub(crate) fn dsn_queued(message: MessageId, action: Action, dsn: MessageId) {
    tracing::info!(
        event = "dsn_queued",
        message_id = %message,
        dsn_id = %dsn,
        action = action.as_str(),
        "DSN queued to the sender"
    );
}

/// A DSN is one too many for its sender.
pub(crate) fn dsn_held(dsn: MessageId) {
    tracing::warn!(
        event = "held",
        message_id = %dsn,
        reason = "held",
        sender = "",
        recipients = 1,
        "over dsn.rate_per_sender_per_hour: the DSN waits for staunch queue release"
    );
}

/// Which mail a line about a recipient is about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct About<'a> {
    pub(crate) message: MessageId,
    /// Where it waits, or waited.
    pub(crate) lane: &'a LaneKey,
}

/// What became of a recipient.
pub(crate) fn recipient_done(
    about: About<'_>,
    target: &Target,
    outcome: &Outcome,
    answered: Option<&TransactionResult>,
) {
    match outcome {
        Outcome::Delivered(reply) => delivered(about, target, answered, reply),
        Outcome::Deferred { due_at, problem, attempt } => {
            let counted = u32::from(*attempt == spool::Attempt::Counted);
            let attempts = target.attempts.saturating_add(counted);
            let next = tracing::field::display(due_at);
            gone_wrong!(
                event = "deferred",
                about,
                target,
                problem,
                attempts = attempts,
                next_attempt_at = next
            );
        }
        Outcome::Failed(problem) => {
            gone_wrong!(event = "bounced", about, target, problem);
        }
    }
}

/// A recipient came to a next hop that waits since its hosts failed: it was not tried.
pub(crate) fn joined_wait(about: About<'_>, target: &Target, until: Timestamp, cause: Reason) {
    tracing::warn!(
        event = "deferred",
        message_id = %about.message,
        recipient = %target.mailbox,
        domain = %target.mailbox.domain(),
        next_hop = %route::hop_of(about.lane),
        reason = %cause,
        status = %cause.status(),
        attempts = target.attempts,
        next_attempt_at = %until,
        "its next hop waits after a failure"
    );
}

/// A next hop waits, and with it all that is queued for it.
pub(crate) fn lane_deferred(
    lane: &LaneKey,
    until: Timestamp,
    cause: &Problem,
    recipients: Option<u64>,
) {
    let Problem { reason, status, text, mx, .. } = cause;
    tracing::warn!(
        event = "lane_deferred",
        next_hop = %route::hop_of(lane),
        mx = mx.as_ref().map(tracing::field::display),
        %reason,
        %status,
        next_attempt_at = %until,
        recipients,
        "{text}"
    );
}

fn delivered(
    about: About<'_>,
    target: &Target,
    answered: Option<&TransactionResult>,
    reply: &smtp::Reply,
) {
    let mx = answered.map(|answered| tracing::field::display(&answered.mx));
    let tls = answered.and_then(|answered| answered.tls);
    let tls_version = tls.map(|tls| tls.version.as_str());
    let tls_group = tls.and_then(|tls| tls.group);
    let policy = answered.map(|answered| answered.policy);
    let address = answered.map(|answered| tracing::field::display(answered.address.ip()));
    let protection = answered.map(|answered| match answered.proof {
        Proof::VerifiedPkix => "verified",
        Proof::Encrypted => "encrypted",
        Proof::Plain => "clear",
    });
    let status = reply.status.unwrap_or(smtp::Status::success(0, 0));
    tracing::info!(
        event = "delivered",
        message_id = %about.message,
        recipient = %target.mailbox,
        domain = %target.mailbox.domain(),
        next_hop = %route::hop_of(about.lane),
        mx,
        address,
        %status,
        protection,
        tls_version,
        tls_group,
        policy,
        "{reply}"
    );
}
