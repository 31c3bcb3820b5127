//! What became of each recipient, and what does it mean for the lane? Pure: the caller passes the
//! time and the dice.

mod error;
mod reason;
mod walk;

use std::time::Duration;

use jiff::Timestamp;
use policy::{Proof, TlsVersion};
use smtp::client::{self, Stage};
use smtp::{Domain, RemoteText, Reply, ReplyClass};

pub(crate) use error::{
    AttemptError, DeadEnd, Fate, HostError, MxEvidence, Problem, Scope, refusal_reason,
    tls_reason,
};
pub(crate) use reason::Reason;
pub(crate) use walk::Walk;

use crate::queue::lanes::{Effect, Trouble};
use crate::queue::work::Target;
use crate::schedule::{after, retry_delay};

/// RFC 5321 §3.8: the host is about to close, usually because we are too many.
const SERVICE_CLOSING: u16 = 421;
/// How long a lane rests after 421, if its first retry is not sooner. Ours: long enough to let a
/// host recover, short enough not to be noticed by people.
const THROTTLE_REST: Duration = Duration::from_secs(30);
/// How long everything rests when the trouble is ours. Ours: a resolver that restarts is back by then.
const LOCAL_REST: Duration = Duration::from_secs(15);

/// A transaction that took place: the host was found, admitted and asked.
#[derive(Debug)]
pub(crate) struct Answered {
    /// The host.
    pub(crate) mx: Domain,
    /// What its connection proved.
    pub(crate) proof: Proof,
    /// The version of TLS, if there was TLS.
    pub(crate) tls: Option<TlsVersion>,
    /// Whose word was binding: `sts`, `rule` or `none`.
    pub(crate) policy: &'static str,
    /// One for each recipient, in order; `None` where the connection broke before the answer.
    pub(crate) fates: Vec<Option<client::Fate>>,
    /// Why the connection broke, if it did.
    pub(crate) lost: Option<(Stage, RemoteText)>,
}

/// What became of one recipient.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Outcome {
    /// The host took responsibility.
    Delivered(Reply),
    /// It waits.
    Deferred {
        /// Until then.
        due_at: Timestamp,
        /// Because of this.
        problem: Problem,
        /// Does the attempt count?
        attempt: spool::Attempt,
    },
    /// It is returned.
    Failed(Problem),
}

/// What is decided after an attempt.
#[derive(Debug)]
pub(crate) struct Decided {
    /// One for each recipient, in order.
    pub(crate) outcomes: Vec<Outcome>,
    /// What the lane learns.
    pub(crate) effect: Effect,
    /// Nothing at all is tried before this time: the trouble is ours.
    pub(crate) pause: Option<Timestamp>,
}

/// What a decision needs to know beside the attempt itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Circumstances<'a> {
    /// When the attempt began. Who was too old then, and only then, is returned for age.
    pub(crate) started: Timestamp,
    /// When it ended.
    pub(crate) now: Timestamp,
    /// May age end anything? Not while the clock is suspect.
    pub(crate) age_counts: AgeCounts,
    /// `delivery.retry`.
    pub(crate) retry: &'a [Duration],
    /// A random byte.
    pub(crate) dice: u8,
    /// The lane's failures so far.
    pub(crate) trouble: Option<Trouble>,
}

/// May a recipient be returned because it is old?
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum AgeCounts {
    /// The clock can be believed.
    Yes,
    /// The clock made a step that nobody has explained.
    ClockSuspect,
}

impl Circumstances<'_> {
    pub(crate) fn is_too_old(&self, expires_at: Timestamp) -> bool {
        self.age_counts == AgeCounts::Yes && expires_at <= self.started
    }

    fn next_failure(&self) -> Trouble {
        match self.trouble {
            Some(Trouble { failures, since }) => {
                Trouble { failures: failures.saturating_add(1), since }
            }
            None => Trouble { failures: 1, since: self.now },
        }
    }

    fn retry_at(&self, failures: u32) -> Timestamp {
        after(self.now, retry_delay(self.retry, failures, self.dice))
    }

    /// The end of `target` if it is too old, else its wait.
    fn wait_or_return(&self, target: &Target, problem: Problem, due_at: Timestamp) -> Outcome {
        if self.is_too_old(target.expires_at) {
            return Outcome::Failed(problem.in_the_end());
        }
        Outcome::Deferred { due_at, problem, attempt: spool::Attempt::Counted }
    }
}

/// Decides after an attempt that reached no transaction.
pub(crate) fn decide_failure(
    targets: &[Target],
    error: &AttemptError,
    circumstances: &Circumstances<'_>,
) -> Decided {
    let problem = error.problem();
    let (fate, scope) = error.verdict();
    let trouble = circumstances.next_failure();
    let lane_retry = match error {
        AttemptError::Policy(defer) => defer.until.max(circumstances.now),
        AttemptError::Dns(_)
        | AttemptError::DeadEnd { .. }
        | AttemptError::BadMx { .. }
        | AttemptError::Host { .. }
        | AttemptError::Local(_) => circumstances.retry_at(trouble.failures),
    };
    let outcome = |target: &Target| match (fate, scope) {
        (Fate::Fail, _) => Outcome::Failed(problem.clone().in_the_end()),
        (Fate::Defer, Scope::Lane) => {
            circumstances.wait_or_return(target, problem.clone(), lane_retry)
        }
        (Fate::Defer, Scope::Message | Scope::Recipient) => {
            let due_at = circumstances.retry_at(target.attempts.saturating_add(1));
            circumstances.wait_or_return(target, problem.clone(), due_at)
        }
        (Fate::Defer, Scope::Local) => Outcome::Deferred {
            due_at: after(circumstances.now, LOCAL_REST),
            problem: problem.clone(),
            attempt: spool::Attempt::NotCounted,
        },
    };
    let effect = match (fate, scope) {
        (Fate::Defer, Scope::Lane) => Effect::Failed { retry_at: lane_retry, trouble },
        (Fate::Defer | Fate::Fail, _) => Effect::Neutral,
    };
    let pause = (scope == Scope::Local).then(|| after(circumstances.now, LOCAL_REST));
    Decided { outcomes: targets.iter().map(outcome).collect(), effect, pause }
}

/// Decides after a transaction.
pub(crate) fn decide_answer(
    targets: &[Target],
    answered: &Answered,
    circumstances: &Circumstances<'_>,
) -> Decided {
    let took_some = answered.fates.iter().flatten().any(is_accepted);
    let outcomes = targets.iter().zip(&answered.fates).map(|(target, fate)| match fate {
        Some(client::Fate::Accepted(reply)) => Outcome::Delivered(reply.clone()),
        Some(fate @ client::Fate::Refused { reply, .. }) if fate.is_too_many_recipients() => {
            let due_at = match took_some {
                true => circumstances.now,
                false => circumstances.retry_at(target.attempts.saturating_add(1)),
            };
            Outcome::Deferred {
                due_at,
                problem: refusal_problem(&answered.mx, Stage::Rcpt, reply),
                attempt: spool::Attempt::NotCounted,
            }
        }
        Some(fate @ client::Fate::Refused { stage, reply }) => {
            let problem = refusal_problem(&answered.mx, *stage, reply);
            if fate.class() == ReplyClass::Permanent {
                return Outcome::Failed(problem);
            }
            let due_at = circumstances.retry_at(target.attempts.saturating_add(1));
            circumstances.wait_or_return(target, problem, due_at)
        }
        None => {
            let due_at = circumstances.retry_at(target.attempts.saturating_add(1));
            circumstances.wait_or_return(target, lost_problem(answered), due_at)
        }
    });
    Decided {
        outcomes: outcomes.collect(),
        effect: answer_effect(answered, took_some, circumstances),
        pause: None,
    }
}

/// A host that answers works, whatever it says about a message; only 421 speaks of the host itself.
fn answer_effect(
    answered: &Answered,
    took_some: bool,
    circumstances: &Circumstances<'_>,
) -> Effect {
    let closing = |fate: &client::Fate| match fate {
        client::Fate::Refused { reply, .. } => reply.code == SERVICE_CLOSING,
        client::Fate::Accepted(_) => false,
    };
    if took_some {
        Effect::Works
    } else if answered.fates.iter().flatten().any(closing) {
        let first = circumstances.retry.first().copied().unwrap_or(THROTTLE_REST);
        Effect::Throttled { retry_at: after(circumstances.now, first.min(THROTTLE_REST)) }
    } else {
        Effect::Neutral
    }
}

fn is_accepted(fate: &client::Fate) -> bool {
    match fate {
        client::Fate::Accepted(_) => true,
        client::Fate::Refused { .. } => false,
    }
}

fn refusal_problem(mx: &Domain, stage: Stage, reply: &Reply) -> Problem {
    let reason = match reply.class() {
        ReplyClass::Permanent => Reason::Remote5xx,
        ReplyClass::Success | ReplyClass::Continue | ReplyClass::Transient
            if reply.code == SERVICE_CLOSING =>
        {
            Reason::Throttled
        }
        ReplyClass::Success | ReplyClass::Continue | ReplyClass::Transient => Reason::Remote4xx,
    };
    Problem::new(reason, &format!("{mx} answered {}: {reply}", stage.name())).at(mx).answered(reply)
}

fn lost_problem(answered: &Answered) -> Problem {
    let text = match &answered.lost {
        Some((stage, text)) => {
            format!("{}: connection lost at {}: {text}", answered.mx, stage.name())
        }
        None => format!("{}: no answer for this recipient", answered.mx),
    };
    Problem::new(Reason::ConnectionLost, &text).at(&answered.mx)
}
