//! What does a sender have to be told, and what do they want to be told (RFC 3461)? Pure.

use std::time::Duration;

use jiff::Timestamp;
use report::Action;
use smtp::params::Notify;
use smtp::{Domain, Extension, Extensions, Reply, ReversePath, Status};
use spool::{Change, MessageOptions, RecipientNo, Told};

use crate::config::DelayWarning;
use crate::delivery::outcome::{Outcome, TransactionResult};
use crate::message::{Target, Work};
use crate::schedule::after;
use crate::telemetry::{Problem, Reason};

/// One DSN: the same happened to all of its recipients.
#[derive(Clone, Debug)]
pub(crate) struct DsnRequest {
    /// What happened to all of them (Action, RFC 3464 §2.3.3).
    pub(crate) action: Action,
    /// The recipients that it is about.
    pub(crate) entries: Vec<DsnRecipient>,
    /// What is written down of it, so that it is told once; nothing of those who leave the queue.
    told: Option<Told>,
}

/// What is told about one recipient.
#[derive(Clone, Debug)]
pub(crate) struct DsnRecipient {
    /// The recipient, with what the sender asked for.
    pub(crate) target: Target,
    /// The code; a DSN gives it the class that its action has.
    pub(crate) status: Status,
    /// The host that said something.
    pub(crate) mx: Option<Domain>,
    /// What it said; none: it did not get that far.
    pub(crate) reply: Option<Reply>,
    /// What happened, in a sentence for people.
    pub(crate) explanation: String,
}

impl DsnRecipient {
    /// What stopped the message.
    pub(crate) fn problem(target: &Target, problem: &Problem) -> Self {
        Self {
            target: target.clone(),
            status: problem.status,
            mx: problem.mx.clone(),
            reply: problem.reply.clone(),
            explanation: format!("{} ({})", problem.text, problem.reason),
        }
    }

    fn relayed(target: &Target, mx: &Domain, reply: &Reply) -> Self {
        Self {
            target: target.clone(),
            status: reply.status.unwrap_or(Status::success(0, 0)),
            mx: Some(mx.clone()),
            reply: Some(reply.clone()),
            explanation: format!("{mx} took the message."),
        }
    }
}

impl DsnRequest {
    fn new(action: Action, entries: Vec<DsnRecipient>) -> Option<Self> {
        (!entries.is_empty()).then_some(Self { action, entries, told: None })
    }

    /// That the message ended for those whose sender wants to hear of it. A DSN that ends is
    /// always told of: to the log, since it has no sender.
    pub(crate) fn failed<'a>(
        sender: &ReversePath,
        failed: impl IntoIterator<Item = (&'a Target, &'a Problem)>,
    ) -> Option<Self> {
        let is_wanted = |target: &Target| match sender {
            ReversePath::Null => true,
            ReversePath::Mailbox(_) => target.options.wants_failure(),
        };
        let wanted = failed.into_iter().filter(|(target, _)| is_wanted(target));
        let entries = wanted.map(|(target, problem)| DsnRecipient::problem(target, problem));
        Self::new(Action::Failed, entries.collect())
    }

    /// That the message waits because of `problem`.
    pub(crate) fn delayed<'a>(
        delayed: impl IntoIterator<Item = (&'a Target, &'a Problem)>,
        told: Told,
    ) -> Option<Self> {
        let entries =
            delayed.into_iter().map(|(target, problem)| DsnRecipient::problem(target, problem));
        let request = Self::new(Action::Delayed, entries.collect())?;
        Some(Self { told: Some(told), ..request })
    }

    /// The changes that go with the DSN.
    pub(crate) fn marks(&self) -> impl Iterator<Item = (RecipientNo, Change)> {
        let marked = |told| self.entries.iter().map(move |e| (e.target.no, Change::Told(told)));
        self.told.into_iter().flat_map(marked)
    }
}

impl DelayWarning {
    fn with(self, reason: Reason) -> Option<Duration> {
        if reason.is_about_protection() { self.policy } else { self.usual }
    }

    /// Mail that waits for `reason` at `now` is told of if it waits since this time or longer.
    pub(crate) fn ends_for(self, reason: Reason, now: Timestamp) -> Option<Timestamp> {
        let wait = jiff::SignedDuration::try_from(self.with(reason)?).ok()?;
        now.checked_sub(wait).ok()
    }

    fn is_over(self, target: &Target, reason: Reason, now: Timestamp) -> bool {
        let end = |since| self.with(reason).map(|wait| after(since, wait));
        target.waits_since.and_then(end).is_some_and(|end| end <= now)
    }
}

/// The DSNs that an attempt calls for.
pub(crate) fn after_attempt(
    work: &Work,
    outcomes: &[Outcome],
    answered: Option<&TransactionResult>,
    patience: DelayWarning,
    now: Timestamp,
) -> Vec<DsnRequest> {
    let (mut failed, mut delayed, mut relayed) = (Vec::new(), Vec::new(), Vec::new());
    for (target, outcome) in work.targets.iter().zip(outcomes) {
        match (outcome, answered) {
            (Outcome::Failed(problem), _) => failed.push((target, problem)),
            // What was not tried is not told of either.
            (Outcome::Deferred { problem, attempt: spool::Attempt::Counted, .. }, _)
                if patience.is_over(target, problem.reason, now) =>
            {
                delayed.push((target, problem));
            }
            (Outcome::Delivered(reply), Some(answered))
                if work.sender.mailbox().is_some()
                    && wants_relayed(&work.options, target, &answered.extensions) =>
            {
                relayed.push(DsnRecipient::relayed(target, &answered.mx, reply));
            }
            (Outcome::Deferred { .. } | Outcome::Delivered(_), _) => {}
        }
    }
    let told = [
        DsnRequest::failed(&work.sender, failed),
        DsnRequest::delayed(delayed, Told::Delay),
        DsnRequest::new(Action::Relayed, relayed),
    ];
    told.into_iter().flatten().collect()
}

/// Is the sender to hear that a host with these extensions took the message?
///
/// Where the host offers DSN, what the sender wants to know was passed on, and it will tell (RFC
/// 3461 §5.2.1); where it does not, we are the last who can (§5.2.2). The same holds for a deadline
/// that the host knows nothing of. With a trace each relay tells (RFC 2852 §4).
fn wants_relayed(options: &MessageOptions, target: &Target, offered: &Extensions) -> bool {
    let Some(deadline) = options.deliver_by else {
        return target.options.wants_success() && !offered.offers(Extension::Dsn);
    };
    let is_passed_on = offered.offers(Extension::Dsn) && offered.deliver_by().is_some();
    (target.options.wants_success() && !is_passed_on)
        || (deadline.trace && target.options.notify != Some(Notify::Never))
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use policy::Proof;
    use smtp::Mailbox;
    use smtp::params::ByMode;
    use spool::{Attempt, Deadline, MessageId, RecipientOptions};

    use super::*;
    use crate::delivery::outcome::RulesStanding;
    use crate::message::{Body, Removals, Rest, Submitter, facts_of};

    const HOUR: Duration = Duration::from_secs(3600);
    const PATIENCE: DelayWarning =
        DelayWarning { usual: Some(HOUR), policy: Some(Duration::from_secs(60)) };

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    /// A recipient that has waited since second 0.
    fn target(notify: Option<&str>) -> Target {
        let notify = notify.map(|text| Notify::parse(text).unwrap());
        let options = RecipientOptions { notify, ..RecipientOptions::default() };
        Target {
            no: RecipientNo(0),
            mailbox: Mailbox::parse("a@b.test").unwrap(),
            attempts: 0,
            expires_at: at(500_000),
            waits_since: options.wants_delay().then(|| at(0)),
            options,
        }
    }

    fn work(sender: &str, target: Target, options: MessageOptions) -> Work {
        Work {
            message: MessageId::from_u128(1),
            sender: ReversePath::parse(sender).unwrap(),
            targets: vec![target],
            rest: Rest::Nobody,
            arrived_at: at(0),
            turn: at(0),
            facts: facts_of(b"\r\n"),
            body: Body::Stored,
            options,
            as_of: Removals::default(),
            submitter: Submitter::UNKNOWN,
        }
    }

    fn answered(keywords: &str) -> TransactionResult {
        let reply = format!("250-mx\r\n{keywords}250 HELP\r\n");
        TransactionResult {
            mx: Domain::parse("mx.b.test").unwrap(),
            address: SocketAddr::from(([192, 0, 2, 1], 25)),
            proof: Proof::Plain,
            tls: None,
            policy: "none",
            extensions: Extensions::from_reply(&Reply::parse(reply.as_bytes()).unwrap()),
            fates: Vec::new(),
            cut: None,
            standing: RulesStanding::Current,
        }
    }

    fn told(
        work: &Work,
        outcome: Outcome,
        answered: Option<&TransactionResult>,
        now: i64,
    ) -> Vec<Action> {
        let requests = after_attempt(work, &[outcome], answered, PATIENCE, at(now));
        requests.iter().map(|request| request.action).collect()
    }

    fn failed() -> Outcome {
        Outcome::Failed(Problem::new(Reason::Remote5xx, "no"))
    }

    fn deferred(reason: Reason, attempt: Attempt) -> Outcome {
        Outcome::Deferred { due_at: at(0), problem: Problem::new(reason, "later"), attempt }
    }

    fn delivered() -> Outcome {
        Outcome::Delivered(Reply::parse(b"250 2.0.0 ok\r\n").unwrap())
    }

    /// DSN-04, DSN-05: which sender is told what, for a host without DSN.
    #[test]
    fn dsn_05_senders_hear_what_they_asked_for() {
        let mute = answered("");
        let cases = [
            // (NOTIFY) -> failure, delay, success
            (None, true, true, false),
            (Some("NEVER"), false, false, false),
            (Some("FAILURE"), true, false, false),
            (Some("DELAY"), false, true, false),
            (Some("SUCCESS"), false, false, true),
            (Some("SUCCESS,FAILURE,DELAY"), true, true, true),
        ];
        for (notify, failure, delay, success) in cases {
            let work = work("s@a.test", target(notify), MessageOptions::default());
            let late = deferred(Reason::ConnectFailed, Attempt::Counted);
            let got = [
                told(&work, failed(), None, 1),
                told(&work, late, None, 3600),
                told(&work, delivered(), Some(&mute), 1),
            ];
            let wanted = |wanted, action| if wanted { vec![action] } else { Vec::new() };
            let want = [
                wanted(failure, Action::Failed),
                wanted(delay, Action::Delayed),
                wanted(success, Action::Relayed),
            ];
            assert_eq!(got, want, "{notify:?}");
        }
    }

    #[test]
    fn a_delay_is_told_of_when_patience_ends_and_sooner_if_protection_is_broken() {
        let work = work("s@a.test", target(None), MessageOptions::default());
        let cases = [
            (Reason::ConnectFailed, Attempt::Counted, 3599, false),
            (Reason::ConnectFailed, Attempt::Counted, 3600, true),
            (Reason::ConnectFailed, Attempt::NotCounted, 9999, false),
            (Reason::MxNotListed, Attempt::Counted, 59, false),
            (Reason::MxNotListed, Attempt::Counted, 60, true),
            (Reason::PolicyFetchFailed, Attempt::Counted, 60, true),
        ];
        for (reason, attempt, now, want) in cases {
            let got = told(&work, deferred(reason, attempt), None, now);
            assert_eq!(got == [Action::Delayed], want, "{reason} {attempt:?} {now}");
        }
        let late = deferred(Reason::ConnectFailed, Attempt::Counted);
        assert!(after_attempt(&work, &[late], None, DelayWarning::ENDLESS, at(99_999)).is_empty());
    }

    #[test]
    fn dsn_04_success_is_told_of_where_the_next_hop_will_not() {
        let by = |trace, mode| MessageOptions {
            deliver_by: Some(Deadline { at: at(9), mode, trace }),
            ..MessageOptions::default()
        };
        let (plain, notified, traced) =
            (MessageOptions::default(), by(false, ByMode::Notify), by(true, ByMode::Return));
        let (dsn, both) = ("250-DSN\r\n", "250-DSN\r\n250-DELIVERBY\r\n");
        let cases = [
            (&plain, Some("SUCCESS"), "", true),
            (&plain, Some("SUCCESS"), dsn, false),
            (&plain, None, "", false),
            (&notified, Some("SUCCESS"), dsn, true), // EXT-13: it knows nothing of the deadline
            (&notified, Some("SUCCESS"), both, false),
            (&notified, None, dsn, false),
            (&traced, None, both, true),
            (&traced, Some("NEVER"), both, false),
        ];
        for (options, notify, keywords, want) in cases {
            for sender in ["s@a.test", ""] {
                let work = work(sender, target(notify), options.clone());
                let got = told(&work, delivered(), Some(&answered(keywords)), 1);
                let want = want && !sender.is_empty();
                assert_eq!(got == [Action::Relayed], want, "{notify:?} {keywords} <{sender}>");
            }
        }
    }
}
