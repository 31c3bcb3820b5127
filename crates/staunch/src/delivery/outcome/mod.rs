//! What became of each recipient, and what does it mean for the lane? Pure: the caller passes the
//! time and the dice.

mod effect;
mod error;
mod gone;
mod unsupported;
mod walk;

use std::net::SocketAddr;
use std::time::Duration;

use jiff::Timestamp;
use policy::clock::{ClockTrust, Moment};
use policy::{Proof, TlsVersion};
use smtp::client::{self, Stage};
use smtp::{Domain, Extensions, RemoteText, Reply, ReplyClass};

pub(crate) use crate::delivery::outcome::unsupported::Unsupported;
use crate::message::Target;
use crate::schedule::{after, retry_delay, spread};
use crate::telemetry::{Problem, Reason};
pub(crate) use effect::{FailureRun, LaneEffect};
pub(crate) use error::{
    AttemptError, DeadEnd, Disposition, HostError, MxEvidence, Permanence, Scope,
};
pub(crate) use gone::StarttlsGone;
pub(crate) use walk::{Demand, Walk};

/// RFC 5321 §3.8: the host is about to close, usually because we are too many.
pub(crate) const SERVICE_CLOSING: u16 = 421;
/// RFC 3207 §4: the host takes nothing without TLS.
const TLS_WANTED: u16 = 530;
/// How long a lane rests after 421, if its first retry is not sooner. Our choice: long enough to
/// let a host recover, short enough not to be noticed by people.
const THROTTLE_REST: Duration = Duration::from_secs(30);
/// How long everything rests when the trouble is ours. Our choice: a resolver that restarts is back
/// by then.
const LOCAL_REST: Duration = Duration::from_secs(15);

/// How long a lane rests because of a limit of ours that does not say for how long.
const OWN_LIMIT_REST: Duration = Duration::from_secs(15);

/// What the log says of TLS.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct TlsShown {
    pub(crate) version: TlsVersion,
    /// The key exchange, where it is known: not that of a resumed TLS 1.2 session.
    pub(crate) group: Option<&'static str>,
}

/// A transaction that took place: the host was found, admitted and asked.
#[derive(Debug)]
pub(crate) struct TransactionResult {
    /// The host.
    pub(crate) mx: Domain,
    /// Where it was reached.
    pub(crate) address: SocketAddr,
    /// What its connection proved.
    pub(crate) proof: Proof,
    /// TLS, if there was TLS.
    pub(crate) tls: Option<TlsShown>,
    /// Whose word was binding: `sts`, `rule` or `none`.
    pub(crate) policy: &'static str,
    /// What the host offered.
    pub(crate) extensions: Extensions,
    /// One for each recipient, in order; `None` where the connection broke before the answer.
    pub(crate) fates: Vec<Option<client::RecipientReply>>,
    /// Why not everybody has an answer, if so.
    pub(crate) cut: Option<Cut>,
    /// Do the rules still hold by which the host was asked?
    pub(crate) standing: RulesStanding,
}

/// Do the rules of an attempt still hold when it is over?
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum RulesStanding {
    /// They do.
    Current,
    /// By those of the current configuration the host might not have been asked: that it refuses
    /// for good ends nothing.
    Outdated,
}

impl TransactionResult {
    /// Was everybody refused who was asked, and so? Not if the transaction was cut: more may have
    /// been said.
    pub(crate) fn all_refused(&self, so: impl Fn(Stage, &Reply) -> bool) -> bool {
        self.first_refusal(so).is_some()
    }

    /// What the host says who wants TLS first (RFC 3207 §4), if this was in clear and it said
    /// nothing else.
    pub(crate) fn wants_tls(&self) -> Option<&Reply> {
        let in_clear = self.tls.is_none();
        self.first_refusal(|_, reply| reply.code == TLS_WANTED).filter(|_| in_clear)
    }

    /// The first refusal, if everybody who was asked was refused, and so.
    pub(crate) fn first_refusal(&self, so: impl Fn(Stage, &Reply) -> bool) -> Option<&Reply> {
        let refusal = |fate: &client::RecipientReply| match fate {
            client::RecipientReply::Refused { stage, reply } => so(*stage, reply),
            client::RecipientReply::Accepted(_) => false,
        };
        let mut asked = self.fates.iter().flatten();
        if self.cut.is_some() || !asked.clone().all(refusal) {
            return None;
        }
        asked.find_map(|fate| match fate {
            client::RecipientReply::Refused { reply, .. } => Some(reply),
            client::RecipientReply::Accepted(_) => None,
        })
    }
}

/// The end of a transaction before its time.
#[derive(Clone, Debug)]
pub(crate) struct Cut {
    /// What was awaited.
    pub(crate) stage: Stage,
    /// `connection_lost` or `protocol_error`.
    pub(crate) reason: Reason,
    /// What happened.
    pub(crate) text: RemoteText,
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

impl Outcome {
    /// Does the recipient leave the queue?
    pub(crate) fn is_end(&self) -> bool {
        match self {
            Self::Delivered(_) | Self::Failed(_) => true,
            Self::Deferred { .. } => false,
        }
    }

    /// Why it is returned, if it is.
    pub(crate) fn failed(&self) -> Option<&Problem> {
        match self {
            Self::Failed(problem) => Some(problem),
            Self::Delivered(_) | Self::Deferred { .. } => None,
        }
    }
}

/// What is decided after an attempt.
#[derive(Debug)]
pub(crate) struct Decided {
    /// One for each recipient, in order.
    pub(crate) outcomes: Vec<Outcome>,
    /// What the lane learns.
    pub(crate) effect: LaneEffect,
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
    pub(crate) trouble: Option<FailureRun>,
}

/// May a recipient be returned because it is old?
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum AgeCounts {
    /// The clock can be believed.
    Yes,
    /// The clock made a step that nobody has explained, or did so lately.
    ClockSuspect,
}

impl AgeCounts {
    /// After an attempt that began and ended so. If the clock was in doubt meanwhile, or is
    /// believed again only since, the next attempt may show that it is not too late at all.
    pub(crate) fn for_attempt(begun: Moment, ended: Moment) -> Self {
        let trusted = |moment: Moment| moment.clock == ClockTrust::Trusted;
        let counts = trusted(begun)
            && trusted(ended)
            && begun.trusted_since == ended.trusted_since
            && begun.trusted_since <= begun.now;
        if counts { Self::Yes } else { Self::ClockSuspect }
    }
}

impl Circumstances<'_> {
    pub(crate) fn is_too_old(&self, expires_at: Timestamp) -> bool {
        self.age_counts == AgeCounts::Yes && expires_at <= self.started
    }

    fn next_failure(&self) -> FailureRun {
        match self.trouble {
            Some(FailureRun { failures, since }) => {
                FailureRun { failures: failures.saturating_add(1), since }
            }
            None => FailureRun { failures: 1, since: self.now },
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
        let problem = problem.for_now();
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
        // The keeper knows when it is worth another look; asking sooner costs it nothing.
        AttemptError::Policy(defer) => {
            defer.until.min(circumstances.retry_at(trouble.failures)).max(circumstances.now)
        }
        AttemptError::Dns(_)
        | AttemptError::DeadEnd { .. }
        | AttemptError::BadMx { .. }
        | AttemptError::Host { .. }
        | AttemptError::RequireTls { .. }
        | AttemptError::PolicyChanged
        | AttemptError::Yielded { .. }
        | AttemptError::Local(_) => circumstances.retry_at(trouble.failures),
    };
    let rest = match scope {
        Scope::OwnLimit => {
            let wait =
                error.own_wait().unwrap_or_else(|| spread(OWN_LIMIT_REST, circumstances.dice));
            after(circumstances.now, wait)
        }
        Scope::Yielded => lane_retry,
        Scope::Message | Scope::Lane | Scope::Local => after(circumstances.now, LOCAL_REST),
    };
    let outcome = |target: &Target| match (fate, scope) {
        (Disposition::Fail, _) => Outcome::Failed(problem.clone().in_the_end()),
        (Disposition::Defer, Scope::Lane) => {
            circumstances.wait_or_return(target, problem.clone(), lane_retry)
        }
        (Disposition::Defer, Scope::Message) => {
            let due_at = circumstances.retry_at(target.attempts.saturating_add(1));
            circumstances.wait_or_return(target, problem.clone(), due_at)
        }
        // Lest a host that never comes to the point keep mail for ever. But not by our own haste
        // alone.
        (Disposition::Defer, Scope::Yielded)
            if target.attempts > 0 && circumstances.is_too_old(target.expires_at) =>
        {
            Outcome::Failed(problem.clone().in_the_end())
        }
        // No attempt was made, so age ends nothing. A DSN would not get away either.
        (Disposition::Defer, Scope::OwnLimit | Scope::Yielded | Scope::Local) => {
            Outcome::Deferred {
                due_at: rest,
                problem: problem.clone().for_now(),
                attempt: spool::Attempt::NotCounted,
            }
        }
    };
    let effect = match (fate, scope) {
        (Disposition::Defer, Scope::Lane) => LaneEffect::Failed { retry_at: lane_retry, trouble },
        (Disposition::Defer, Scope::Yielded) => {
            LaneEffect::Yielded { retry_at: lane_retry, trouble }
        }
        (Disposition::Defer, Scope::OwnLimit) => LaneEffect::Throttled { retry_at: rest },
        (Disposition::Defer, Scope::Message | Scope::Local) | (Disposition::Fail, _) => {
            LaneEffect::Neutral
        }
    };
    let pause = (scope == Scope::Local).then_some(rest);
    Decided { outcomes: targets.iter().map(outcome).collect(), effect, pause }
}

/// Decides after a transaction.
pub(crate) fn decide_answer(
    targets: &[Target],
    answered: &TransactionResult,
    circumstances: &Circumstances<'_>,
) -> Decided {
    let took_some = answered.fates.iter().flatten().any(is_accepted);
    let outcomes = targets.iter().zip(&answered.fates).map(|(target, fate)| match fate {
        Some(client::RecipientReply::Accepted(reply)) => Outcome::Delivered(reply.clone()),
        // If not even one was taken, it is a refusal like any other, which age ends.
        Some(fate @ client::RecipientReply::Refused { reply, .. })
            if took_some && fate.is_too_many_recipients() =>
        {
            Outcome::Deferred {
                due_at: circumstances.now,
                problem: refusal_problem(&answered.mx, Stage::Rcpt, reply).for_now(),
                attempt: spool::Attempt::NotCounted,
            }
        }
        Some(fate @ client::RecipientReply::Refused { stage, reply }) => {
            let problem = refusal_problem(&answered.mx, *stage, reply);
            if fate.class() == ReplyClass::Permanent {
                return Outcome::Failed(problem.in_the_end());
            }
            let due_at = circumstances.retry_at(target.attempts.saturating_add(1));
            circumstances.wait_or_return(target, problem, due_at)
        }
        None => match &answered.cut {
            Some(cut) => {
                let due_at = circumstances.retry_at(target.attempts.saturating_add(1));
                circumstances.wait_or_return(target, cut_problem(answered, cut), due_at)
            }
            None => Outcome::Deferred {
                due_at: circumstances.now,
                problem: not_asked_problem(answered).for_now(),
                attempt: spool::Attempt::NotCounted,
            },
        },
    });
    let standing = |(target, outcome): (&Target, Outcome)| match (answered.standing, outcome) {
        (RulesStanding::Outdated, Outcome::Failed(problem)) => {
            let due_at = circumstances.retry_at(target.attempts.saturating_add(1));
            let (problem, attempt) = (problem.for_now(), spool::Attempt::Counted);
            Outcome::Deferred { due_at, problem, attempt }
        }
        (RulesStanding::Current | RulesStanding::Outdated, outcome) => outcome,
    };
    Decided {
        outcomes: targets.iter().zip(outcomes).map(standing).collect(),
        effect: if took_some { LaneEffect::Works } else { refusal_effect(answered, circumstances) },
        pause: None,
    }
}

/// A host that answers works, whatever it says about a message; only 421 speaks of the host itself.
fn refusal_effect(answered: &TransactionResult, circumstances: &Circumstances<'_>) -> LaneEffect {
    let closing = |fate: &client::RecipientReply| match fate {
        client::RecipientReply::Refused { reply, .. } => reply.code == SERVICE_CLOSING,
        client::RecipientReply::Accepted(_) => false,
    };
    let mut answers = answered.fates.iter().flatten().peekable();
    if answers.peek().is_none() {
        return LaneEffect::Neutral;
    }
    if !answers.any(closing) {
        return LaneEffect::Answers;
    }
    let first = circumstances.retry.first().copied().unwrap_or(THROTTLE_REST);
    LaneEffect::Throttled { retry_at: after(circumstances.now, first.min(THROTTLE_REST)) }
}

fn is_accepted(fate: &client::RecipientReply) -> bool {
    match fate {
        client::RecipientReply::Accepted(_) => true,
        client::RecipientReply::Refused { .. } => false,
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

fn cut_problem(answered: &TransactionResult, Cut { stage, reason, text }: &Cut) -> Problem {
    let text = format!("{}: interrupted at {}: {text}", answered.mx, stage.name());
    Problem::new(*reason, &text).at(&answered.mx)
}

/// The session was over before this recipient's turn: it takes so many (RFC 9422), or what was said
/// about others ended it. The next one follows at once. Somebody was asked in each, so that ends.
fn not_asked_problem(answered: &TransactionResult) -> Problem {
    let text = format!("not yet asked in the session with {}: it follows in the next", answered.mx);
    Problem::new(Reason::Throttled, &text).at(&answered.mx)
}

#[cfg(test)]
mod tests {
    use smtp::HostName;
    use spool::{Attempt, RecipientNo};

    use super::*;
    use crate::delivery::yielding::Doing;
    use crate::policies::{DeferExtent, PolicyDefer};

    const MINUTE: Duration = Duration::from_secs(60);
    const RETRY: [Duration; 2] = [MINUTE, Duration::from_secs(600)];

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn target(attempts: u32, expires_at: i64) -> Target {
        Target {
            no: RecipientNo(0),
            mailbox: smtp::Mailbox::parse("a@b.test").unwrap(),
            attempts,
            expires_at: at(expires_at),
            waits_since: None,
            options: spool::RecipientOptions::default(),
        }
    }

    /// An attempt from 1000 to 1010 s, with the dice in the middle (which is a little less).
    fn circumstances() -> Circumstances<'static> {
        Circumstances {
            started: at(1000),
            now: at(1010),
            age_counts: AgeCounts::Yes,
            retry: &RETRY,
            dice: 0,
            trouble: None,
        }
    }

    fn answered(replies: &[Option<(Stage, &str)>]) -> TransactionResult {
        let fate = |(stage, text): (Stage, &str)| {
            let reply = Reply::parse(format!("{text}\r\n").as_bytes()).unwrap();
            if reply.class() == ReplyClass::Success {
                return client::RecipientReply::Accepted(reply);
            }
            client::RecipientReply::Refused { stage, reply }
        };
        TransactionResult {
            mx: Domain::Name(HostName::parse("mx.b.test").unwrap()),
            address: SocketAddr::from(([192, 0, 2, 1], 25)),
            proof: Proof::Encrypted,
            tls: Some(TlsShown { version: TlsVersion::Tls13, group: None }),
            policy: "none",
            extensions: Extensions::default(),
            fates: replies.iter().map(|reply| reply.map(fate)).collect(),
            cut: None,
            standing: RulesStanding::Current,
        }
    }

    /// What became of one recipient: the word, the code, and the wait.
    fn told(outcome: &Outcome) -> String {
        match outcome {
            Outcome::Delivered(reply) => format!("delivered {}", reply.code),
            Outcome::Failed(problem) => format!("failed {} {}", problem.reason, problem.status),
            Outcome::Deferred { due_at, problem, attempt } => {
                let counted = if *attempt == Attempt::Counted { "" } else { " uncounted" };
                let wait = due_at.as_second() - 1010;
                format!("deferred {} {} {wait}s{counted}", problem.reason, problem.status)
            }
        }
    }

    /// The host might not have been asked by what is known now, so its word is not the last one.
    #[test]
    fn what_was_asked_by_outdated_rules_ends_nothing() {
        let replies = [
            Some((Stage::Rcpt, "550 5.1.1 no")),
            Some((Stage::Rcpt, "450 4.2.1 later")),
            Some((Stage::EndOfData, "250 ok")),
        ];
        let (young, old) = (target(0, 9_000), target(0, 900));
        let decide = |standing| {
            let answered = TransactionResult { standing, ..answered(&replies) };
            let targets = [young.clone(), old.clone(), young.clone()];
            let decided = decide_answer(&targets, &answered, &circumstances());
            decided.outcomes.iter().map(told).collect::<Vec<_>>()
        };
        let current = ["failed remote_5xx 5.1.1", "failed remote_4xx 5.2.1", "delivered 250"];
        assert_eq!(decide(RulesStanding::Current), current);
        for outcome in decide(RulesStanding::Outdated) {
            assert!(!outcome.starts_with("failed"), "{outcome}");
        }
    }

    #[test]
    fn each_reply_decides_for_its_recipient_alone() {
        use Stage::{Data, EndOfData, Mail, Rcpt};
        let cases: &[(Option<(Stage, &str)>, &str)] = &[
            (Some((EndOfData, "250 2.0.0 ok")), "delivered 250"),
            (Some((Rcpt, "550 5.1.1 no")), "failed remote_5xx 5.1.1"),
            (Some((Rcpt, "550 no")), "failed remote_5xx 5.0.0"),
            (Some((Rcpt, "550 4.2.1 no, with a wrong code")), "failed remote_5xx 5.2.1"),
            (Some((Mail, "553 5.7.1 no")), "failed remote_5xx 5.7.1"),
            (Some((Rcpt, "450 4.2.1 later")), "deferred remote_4xx 4.2.1 48s"),
            (Some((Data, "451 later")), "deferred remote_4xx 4.0.0 48s"),
            (Some((Mail, "421 4.3.2 bye")), "deferred throttled 4.3.2 48s"),
            (
                Some((Rcpt, "452 4.5.3 too many, says one who takes none")),
                "deferred remote_4xx 4.5.3 48s",
            ),
            (Some((Rcpt, "552 too many")), "deferred remote_5xx 4.0.0 48s"),
            (Some((Rcpt, "452 4.2.2 mailbox full")), "deferred remote_4xx 4.2.2 48s"),
        ];
        for (reply, want) in cases {
            let decided = decide_answer(&[target(0, 5000)], &answered(&[*reply]), &circumstances());
            assert_eq!(told(&decided.outcomes[0]), *want, "{reply:?}");
        }
    }

    #[test]
    fn who_has_no_answer_waits_as_after_a_failure_unless_nobody_asked() {
        let text = RemoteText::new("closed");
        let cut = Cut { stage: Stage::EndOfData, reason: Reason::ConnectionLost, text };
        let cases = [
            (Some(cut), "deferred connection_lost 4.4.2 48s"),
            (None, "deferred throttled 4.3.2 0s uncounted"),
        ];
        for (cut, want) in cases {
            let answered =
                TransactionResult { cut, ..answered(&[Some((Stage::Rcpt, "550 no")), None]) };
            let targets = [target(0, 5000), target(0, 5000)];
            let decided = decide_answer(&targets, &answered, &circumstances());
            assert_eq!(told(&decided.outcomes[1]), want);
        }
        let said = not_asked_problem(&answered(&[])).text;
        assert_eq!(
            said.as_str(),
            "not yet asked in the session with mx.b.test: it follows in the next"
        );
    }

    #[test]
    fn who_was_one_too_many_goes_at_once_if_others_were_taken() {
        let replies = [Some((Stage::EndOfData, "250 ok")), Some((Stage::Rcpt, "452 4.5.3 many"))];
        let targets = [target(0, 5000), target(0, 5000)];
        let decided = decide_answer(&targets, &answered(&replies), &circumstances());
        assert_eq!(told(&decided.outcomes[1]), "deferred remote_4xx 4.5.3 0s uncounted");
        assert_eq!(decided.effect, LaneEffect::Works);
    }

    #[test]
    fn only_421_speaks_of_the_host_and_only_success_opens_the_lane() {
        let cases = [
            ("250 ok", LaneEffect::Works),
            ("550 no", LaneEffect::Answers),
            ("450 later", LaneEffect::Answers),
            ("421 bye", LaneEffect::Throttled { retry_at: at(1040) }),
        ];
        for (reply, want) in cases {
            let answered = answered(&[Some((Stage::Mail, reply))]);
            let decided = decide_answer(&[target(0, 5000)], &answered, &circumstances());
            assert_eq!(decided.effect, want, "{reply}");
        }
    }

    #[test]
    fn age_ends_nothing_but_after_an_attempt_by_a_clock_that_was_trusted_throughout() {
        let trusted = Moment::undoubted(at(1000));
        let suspect = Moment { clock: ClockTrust::Suspect, ..trusted };
        let since = |trusted_since| Moment { trusted_since, ..trusted };
        let cases = [
            (trusted, trusted, AgeCounts::Yes),
            (suspect, trusted, AgeCounts::ClockSuspect),
            (trusted, suspect, AgeCounts::ClockSuspect),
            (since(at(1000)), since(at(1000)), AgeCounts::Yes),
            (trusted, since(at(1000)), AgeCounts::ClockSuspect), // doubt and trust within the attempt
            (since(at(1001)), since(at(1001)), AgeCounts::ClockSuspect),
        ];
        for (begun, ended, want) in cases {
            assert_eq!(AgeCounts::for_attempt(begun, ended), want, "{begun:?} {ended:?}");
        }
    }

    #[test]
    fn age_ends_a_message_only_after_an_attempt_that_began_when_it_was_too_old() {
        let reply = answered(&[Some((Stage::Rcpt, "450 4.2.1 later"))]);
        let suspect = Circumstances { age_counts: AgeCounts::ClockSuspect, ..circumstances() };
        let cases = [
            (999, circumstances(), "failed remote_4xx 5.2.1"),
            (1000, circumstances(), "failed remote_4xx 5.2.1"),
            (1005, circumstances(), "deferred remote_4xx 4.2.1 48s"),
            (999, suspect, "deferred remote_4xx 4.2.1 48s"),
        ];
        for (expires_at, circumstances, want) in cases {
            let decided = decide_answer(&[target(0, expires_at)], &reply, &circumstances);
            assert_eq!(told(&decided.outcomes[0]), want, "{expires_at}");
        }
    }

    #[test]
    fn a_failing_lane_waits_longer_each_time_and_remembers_since_when() {
        let error = AttemptError::BadMx {
            domain: HostName::parse("b.test").unwrap(),
            text: RemoteText::new("192.0.2.1"),
        };
        let first = decide_failure(&[target(0, 5000)], &error, &circumstances());
        let trouble = FailureRun { failures: 1, since: at(1010) };
        assert_eq!(first.effect, LaneEffect::Failed { retry_at: at(1058), trouble });
        assert_eq!(told(&first.outcomes[0]), "deferred no_mail_host 4.4.4 48s");

        let trouble = Some(FailureRun { failures: 1, since: at(10) });
        let again = Circumstances { trouble, ..circumstances() };
        let second = decide_failure(&[target(1, 5000)], &error, &again);
        let trouble = FailureRun { failures: 2, since: at(10) };
        assert_eq!(second.effect, LaneEffect::Failed { retry_at: at(1490), trouble });
    }

    #[test]
    fn trouble_of_our_own_pauses_everything_and_consumes_no_attempt() {
        let error = AttemptError::Local("no descriptors".to_owned());
        let targets = [target(3, 5000), target(3, 1)];
        let decided = decide_failure(&targets, &error, &circumstances());
        assert_eq!(told(&decided.outcomes[0]), "deferred local_error 4.3.0 15s uncounted");
        assert_eq!(
            told(&decided.outcomes[1]),
            "deferred local_error 4.3.0 15s uncounted",
            "too old, but nothing was tried"
        );
        assert_eq!(decided.effect, LaneEffect::Neutral);
        assert_eq!(decided.pause, Some(at(1025)));
    }

    #[test]
    fn who_always_says_too_many_does_not_keep_mail_for_ever() {
        let reply = answered(&[Some((Stage::Rcpt, "452 too many"))]);
        let decided = decide_answer(&[target(9, 999)], &reply, &circumstances());
        assert_eq!(told(&decided.outcomes[0]), "failed remote_4xx 5.0.0");
    }

    #[test]
    fn a_limit_of_ours_lets_the_lane_wait_as_long_as_it_says_and_costs_no_attempt() {
        let mx = Domain::Name(HostName::parse("mx.b.test").unwrap());
        let conclusive = error::Conclusive::No;
        let error = AttemptError::Host { mx, error: HostError::TooSoon(MINUTE), conclusive };
        let decided = decide_failure(&[target(3, 1)], &error, &circumstances());
        assert_eq!(told(&decided.outcomes[0]), "deferred own_limit 4.3.2 60s uncounted");
        assert_eq!(decided.effect, LaneEffect::Throttled { retry_at: at(1070) });
        assert_eq!(decided.pause, None, "nobody else has to wait");
    }

    #[test]
    fn who_made_room_waits_as_after_a_failure_costs_no_attempt_and_keeps_no_mail_for_ever() {
        let mx = Domain::Name(HostName::parse("mx.b.test").unwrap());
        for doing in [Doing::LookingUp, Doing::Asking(mx)] {
            let error = AttemptError::Yielded { doing };
            let decided = decide_failure(
                &[target(3, 5000), target(3, 1), target(0, 1)],
                &error,
                &circumstances(),
            );
            assert_eq!(told(&decided.outcomes[0]), "deferred yielded 4.3.2 48s uncounted");
            assert_eq!(told(&decided.outcomes[2]), "deferred yielded 4.3.2 48s uncounted");
            assert_eq!(told(&decided.outcomes[1]), "failed yielded 5.3.2");
            let trouble = FailureRun { failures: 1, since: at(1010) };
            assert_eq!(decided.effect, LaneEffect::Yielded { retry_at: at(1058), trouble });
        }
    }

    #[test]
    fn a_message_that_a_host_chokes_on_does_not_hold_the_lane_up() {
        let mx = Domain::Name(HostName::parse("mx.b.test").unwrap());
        let cases = [(Stage::Data, false), (Stage::Body, true)];
        for (stage, wants_neutral) in cases {
            let (reason, text) = (Reason::ConnectionLost, RemoteText::new("closed"));
            let error = HostError::Interrupted { stage, reason, text };
            let conclusive = error::Conclusive::No;
            let error = AttemptError::Host { mx: mx.clone(), error, conclusive };
            let decided = decide_failure(&[target(0, 5000)], &error, &circumstances());
            assert_eq!(decided.effect == LaneEffect::Neutral, wants_neutral, "{stage:?}");
        }
    }

    #[test]
    fn nothing_that_dns_says_ends_mail_against_a_live_policy() {
        let domain = HostName::parse("b.test").unwrap();
        let cases = [
            (DeadEnd::NullMx, "failed null_mx 5.1.10"),
            (DeadEnd::NoSuchDomain, "failed no_such_domain 5.1.2"),
            (DeadEnd::MailLoop, "failed mail_loop 5.4.6"),
        ];
        for (end, want) in cases {
            let decide = |evidence| {
                let error = AttemptError::DeadEnd { domain: domain.clone(), end, evidence };
                told(&decide_failure(&[target(0, 5000)], &error, &circumstances()).outcomes[0])
            };
            assert_eq!(decide(MxEvidence::Uncontested), want);
            assert_eq!(
                decide(MxEvidence::ContradictsPolicy),
                "deferred mx_not_listed 4.7.5 48s",
                "{end:?}"
            );
            // A mistake in a route must not return everybody's mail.
            assert_eq!(decide(MxEvidence::ContradictsRoute), "deferred no_mail_host 4.4.4 48s");
        }
    }

    #[test]
    fn an_unknown_policy_is_asked_for_again_no_later_than_the_keeper_says() {
        let error = |until| {
            let (reason, extent) = (Reason::PolicyDnsFailure, DeferExtent::Domain);
            let text = RemoteText::new("SERVFAIL");
            AttemptError::Policy(PolicyDefer { reason, until, text, extent, dns: None })
        };
        let retry_at = |until| {
            let decided = decide_failure(&[target(0, 5000)], &error(until), &circumstances());
            let LaneEffect::Failed { retry_at, .. } = decided.effect else { panic!("{decided:?}") };
            retry_at
        };
        assert_eq!(retry_at(at(5000)), at(1058));
        assert_eq!(retry_at(at(1020)), at(1020));
        assert_eq!(retry_at(at(500)), at(1010));
    }
}
