//! One delivery attempt, top to bottom: the spine of the daemon.
//!
//! Each stage needs what the stage before it made: there is no connection without an
//! [`policy::AuthorizedMx`], and nothing is transmitted without an [`Admitted`] connection.
//! `staunch explain` walks the same functions.

mod rules;
mod said;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use policy::{Admitted, Asked, Finding, authorize};
use smtp::Domain;
use smtp::client::Addressee;
use spool::LaneKey;
use tokio::time::Instant;

use crate::config::Config;
use crate::connect::Starttls;
use crate::connect::pool::Idle;
use crate::delivery::facts::DeliveryFact;
use crate::delivery::hosts::Candidate;
use crate::delivery::open::{Asker, Families, SessionOptions, open};
use crate::delivery::outbound::Outbound;
use crate::delivery::outcome::{
    AgeCounts, AttemptError, HostError, RulesStanding, TransactionResult, Unsupported, Walk,
};
use crate::delivery::plan::{DeliveryPlan, HostOrder, Retry, TryOptions};
use crate::delivery::rendition::Rendition;
use crate::delivery::route::{self, Routing};
use crate::delivery::transmit::{Chunking, OutgoingMail, TransactionError, transmit};
use crate::delivery::underway::Sending;
use crate::delivery::yielding::{Doing, Yielding};
use crate::dns::Freshness;
use crate::message::Work;
pub(crate) use rules::Sessions;
use rules::{RuleChange, Rules};
use said::{
    Said, SessionKind, binding, is_goodbye, is_no_way, minds_our_v6, said, tls_shown, wants_login,
};

/// Our choice: for all that is said around the content, 50 recipients included. RFC 5321 §4.5.3.2
/// wants five minutes for each answer; a peer that needs them for every one is not worth the place.
const ENVELOPE_BUDGET: Duration = Duration::from_secs(30 * 60);
/// Our choice: the slowest that content may become, on average. 50 MiB take three and a half hours
/// so.
const OCTETS_PER_SECOND_MIN: u64 = 4 * 1024;
/// Our choice: how often an attempt begins anew because a policy asks for something else. A policy
/// that changes more often is made to.
const POLICIES_MAX: u32 = 3;
/// Our choice: kept connections that may turn out to have ended, before the end is taken for an
/// answer.
const KEPT_TRIES_MAX: u32 = 10;

/// What is tried.
#[derive(Clone, Copy)]
pub(crate) struct AttemptTask<'a> {
    /// Where it waits.
    pub(crate) lane: &'a LaneKey,
    /// A message and some of its recipients.
    pub(crate) work: &'a Work,
    /// Who wants to know with which host there is a session.
    pub(crate) sessions: Option<&'a dyn Sessions>,
}

/// How an attempt ended.
#[derive(Debug)]
pub(crate) enum Tried {
    /// So, by these rules.
    Ended(Arc<Config>, Result<TransactionResult, AttemptError>),
    /// Under the current configuration the lane is not that of every recipient: no next hop is for
    /// all of them.
    Rerouted,
    /// The operator took it out of the queue, and no host has got it.
    Withdrawn,
}

/// One attempt under the current configuration and policy. If either changes before MAIL FROM, it
/// begins anew: what was found under the former one, also a failure, counts for nothing.
pub(crate) async fn attempt(
    outbound: &Outbound,
    task: &AttemptTask<'_>,
    (sending, yielding): (&Sending, &Yielding),
    freshness: Freshness,
) -> Tried {
    let AttemptTask { lane, work, sessions } = *task;
    let ends_at = ends_at(outbound, work);
    let mut policies = 0;
    loop {
        let config = outbound.config();
        match route::place(&config, lane, work) {
            Routing::Current => {}
            Routing::Stale => return Tried::Rerouted,
        }
        let (watches, told) = (Vec::new(), AtomicBool::new(false));
        let asker = match freshness {
            Freshness::Cached => Asker::Lane(lane),
            Freshness::Fresh => Asker::LaneAnew(lane),
        };
        let mut rules =
            Rules { outbound, config: &config, asker, sending, yielding, sessions, told, watches };
        let result = attempt_under(&mut rules, work, freshness, ends_at).await;
        match (result, rules.change()) {
            (Some(Ok(answered)), change) => {
                let standing = change.map_or(RulesStanding::Current, |_| RulesStanding::Outdated);
                return Tried::Ended(config, Ok(TransactionResult { standing, ..answered }));
            }
            (Some(Err(error)), None) => return ended_without_answer(sending, config, error),
            (Some(Err(_)) | None, Some(RuleChange::Withdrawn)) => return Tried::Withdrawn,
            (Some(Err(_)) | None, Some(RuleChange::Policy)) if policies >= POLICIES_MAX => {
                return ended_without_answer(sending, config, AttemptError::PolicyChanged);
            }
            (Some(Err(_)) | None, Some(RuleChange::Policy)) => policies += 1,
            (Some(Err(_)) | None, Some(RuleChange::Configuration)) | (None, None) => {}
        }
    }
}

/// From here on the mail is at its attempt's outcome as if it were at a host: who takes it out of
/// the queue meanwhile would find it returned all the same.
pub(crate) fn ended_without_answer(
    sending: &Sending,
    config: Arc<Config>,
    error: AttemptError,
) -> Tried {
    if sending.hand_over() { Tried::Ended(config, Err(error)) } else { Tried::Withdrawn }
}

/// When the time of `work` is over, which ends the attempt on it, whatever is still to be tried: a
/// message is not under way for hours beyond its age. None for who is too old already, and so gets
/// this one try.
fn ends_at(outbound: &Outbound, work: &Work) -> Option<Instant> {
    if outbound.age_counts() == AgeCounts::ClockSuspect {
        return None;
    }
    let (now, today) = (Instant::now(), outbound.now());
    let last = work.targets.iter().map(|target| target.expires_at).max()?;
    let left = Duration::try_from(last.duration_since(today)).ok()?;
    (!left.is_zero()).then(|| now + left)
}

/// Tries the hosts of the next hop in order of preference, until one has answered or the mail's
/// time is over: then nothing was delivered. `None` if the rules changed meanwhile: then neither
/// was anything.
async fn attempt_under(
    rules: &mut Rules<'_>,
    work: &Work,
    freshness: Freshness,
    ends_at: Option<Instant>,
) -> Option<Result<TransactionResult, AttemptError>> {
    let (outbound, config) = (rules.outbound, rules.config);
    let Some(domain) = work.domain() else {
        return Some(Err(AttemptError::Local("the recipient has no domain".to_owned())));
    };
    let next_hop = route::next_hop(config, domain, work.require_tls());
    let how = (work.require_tls(), freshness);
    let mut plan = DeliveryPlan::new(outbound, config, &next_hop, how);
    for destination in &next_hop.destinations {
        if is_too_late(ends_at, &mut plan.walk) {
            break;
        }
        rules.yielding.set_doing(Doing::LookingUp);
        let (asked, watch) = plan.ask(destination).await;
        rules.watches.extend(watch);
        let Some(asked) = asked else { continue };
        let Ok(candidates) = plan.candidates(destination, &asked).await else { continue };
        let mut spine = Spine { rules, work, asked: &asked, ends_at, waived: Vec::new() };
        match spine.walk(candidates, &mut plan.walk).await {
            Walked::Answered(answered) => return Some(Ok(*answered)),
            Walked::Overtaken => return None,
            Walked::Through => {}
        }
    }
    Some(Err(plan.conclude().await))
}

/// What the hosts of one destination came to.
enum Walked {
    /// One has answered.
    Answered(Box<TransactionResult>),
    /// None has.
    Through,
    /// What they were asked by does not hold any more.
    Overtaken,
}

/// What the steps of one destination share.
struct Spine<'a> {
    rules: &'a Rules<'a>,
    work: &'a Work,
    asked: &'a Asked,
    ends_at: Option<Instant>,
    /// What was told of hosts already: that one is tried in another manner is no news.
    waived: Vec<(Domain, Vec<Finding>)>,
}

impl Spine<'_> {
    /// In the order of [`HostOrder`], until one has answered.
    async fn walk(&mut self, candidates: Vec<Candidate>, walk: &mut Walk) -> Walked {
        let retry =
            if self.work.any(|target| target.attempts > 0) { Retry::Yes } else { Retry::No };
        let fallback = self.rules.config.delivery.cleartext_fallback;
        let mut order = HostOrder::new(candidates, fallback, self.asked, retry);
        while let Some((candidate, manner)) = order.next() {
            if is_too_late(self.ends_at, walk) {
                return Walked::Through;
            }
            if self.rules.change().is_some() {
                return Walked::Overtaken;
            }
            self.rules.yielding.set_doing(Doing::Asking(candidate.located.mx.clone()));
            self.rules.tell_host(None).await;
            if manner.starttls == Starttls::Skip {
                DeliveryFact::GoesClear { message: self.work.message, located: &candidate.located }
                    .tell();
            }
            match self.try_host(&candidate, manner).await {
                Ok(Some(answered)) => return Walked::Answered(Box::new(answered)),
                Ok(None) => return Walked::Overtaken,
                Err(HostError::Unfit(Unsupported::EightBit)) => order.convert_later(candidate),
                Err(error) => {
                    let mx = candidate.located.mx.clone();
                    self.tell_failed(&candidate, &error);
                    order.failed(candidate, manner, &error);
                    walk.host_failed(&mx, error);
                }
            }
        }
        Walked::Through
    }

    /// Until the host has given an answer that is about the mail. `None` if it was asked by rules
    /// that do not hold any more: nothing is handed over then.
    async fn try_host(
        &mut self,
        candidate: &Candidate,
        manner: TryOptions,
    ) -> Result<Option<TransactionResult>, HostError> {
        let (mut reach, mut over_v6, mut kept) = (Families::Any, None, 0);
        let mut chunking = Chunking::IfOffered;
        loop {
            let (session, result) = self.try_once(candidate, manner, reach, chunking).await;
            let may_go_on = kept < KEPT_TRIES_MAX && !is_over(self.ends_at);
            if session == SessionKind::Kept && may_go_on && is_goodbye(&result) {
                kept += 1;
                continue;
            }
            match result {
                Err(HostError::NoChunking) if chunking == Chunking::IfOffered => {
                    chunking = Chunking::Avoided;
                }
                Ok(Some(answered)) if reach == Families::Any && minds_our_v6(&answered) => {
                    self.rules.outbound.connector.prefer_v4(&answered.mx);
                    reach = Families::V4;
                    over_v6 = Some(answered);
                }
                Ok(answered) => return Ok(answered),
                // Where there is no other way, what it said stands. Else the next attempt begins
                // with that.
                Err(error) => {
                    return over_v6.filter(|_| is_no_way(&error)).map(Some).ok_or(error);
                }
            }
        }
    }

    /// May it be used, does it answer, is it who it should be, what does it say?
    async fn try_once(
        &mut self,
        candidate: &Candidate,
        manner: TryOptions,
        reach: Families,
        chunking: Chunking,
    ) -> (SessionKind, Result<Option<TransactionResult>, HostError>) {
        let mx = match authorize(candidate.located.clone(), self.asked) {
            Ok(mx) => mx,
            Err(refusal) => return (SessionKind::Fresh, Err(HostError::Refused(refusal))),
        };
        let how = SessionOptions { starttls: manner.starttls, reach, asker: self.rules.asker };
        let Rules { outbound, config, sending, .. } = self.rules;
        let opened = tokio::select! {
            biased;
            opened = open(outbound, config, &mx, candidate, how) => opened,
            () = sending.withdrawn() => return (SessionKind::Fresh, Ok(None)),
        };
        let mut admitted = match opened {
            Ok(admitted) => admitted,
            Err(shut) => return (SessionKind::Fresh, Err(shut.into())),
        };
        self.rules.tell_host(Some(mx.host())).await;
        self.tell_once(mx.host(), admitted.findings());
        let proof = admitted.proof();
        let idle = admitted.connection_mut();
        let (tls, address) = (tls_shown(idle), idle.connection.peer());
        let extensions = *idle.connection.extensions();
        let is_kept = idle.connection.transactions() > 0;
        let session = if is_kept { SessionKind::Kept } else { SessionKind::Fresh };
        let transmitted = self.transmit(admitted, (mx.host(), manner), chunking).await;
        let answered = transmitted.and_then(|said| {
            let Some((fates, cut)) = said else { return Ok(None) };
            let standing = RulesStanding::Current;
            let (policy, host) = (binding(&mx), mx.host().clone());
            let answered = TransactionResult {
                mx: host,
                address,
                proof,
                tls,
                policy,
                extensions,
                fates,
                cut,
                standing,
            };
            // No word about the mail: whoever keeps TLS from us could make us say so of any host.
            if let Some(reply) = answered.wants_tls() {
                return Err(HostError::TlsWanted(reply.clone()));
            }
            match wants_login(&answered, &mx, &candidate.endpoint) {
                Some(error) => {
                    let fact = DeliveryFact::of_login(mx.host(), &error);
                    fact.into_iter().for_each(DeliveryFact::tell);
                    Err(HostError::Login(error))
                }
                None => Ok(Some(answered)),
            }
        });
        if answered.is_err() {
            self.rules.sending.take_back();
        }
        (session, answered)
    }

    fn tell_failed(&self, candidate: &Candidate, error: &HostError) {
        // Without room for one more connection no host was asked: it goes on when there is.
        if !matches!(error, HostError::ConcurrencyLimited(_)) {
            let (message, problem) = (self.work.message, &error.problem(&candidate.located.mx));
            DeliveryFact::HostFailed { message, located: &candidate.located, problem }.tell();
        }
    }

    fn tell_once(&mut self, mx: &Domain, findings: &[Finding]) {
        if !self.waived.iter().any(|(host, told)| host == mx && told == findings) {
            let message = self.work.message;
            findings.iter().for_each(|finding| {
                DeliveryFact::PolicyWaived { message, mx, finding }.tell();
            });
            self.waived.push((mx.clone(), findings.to_vec()));
        }
    }

    /// One message to its recipients, over one connection. `None` if the rules have changed by
    /// which the connection was opened: nothing is said over it then.
    async fn transmit(
        &self,
        mut admitted: Admitted<Idle>,
        (mx, manner): (&Domain, TryOptions),
        chunking: Chunking,
    ) -> Result<Option<Said>, HostError> {
        let (outbound, work) = (self.rules.outbound, self.work);
        let extensions = *admitted.connection_mut().connection.extensions();
        let packed = Rendition::pack(
            outbound,
            &self.rules.config.delivery,
            work,
            &extensions,
            manner.converting,
        )
        .await;
        let rendition = match packed {
            Ok(rendition) => rendition,
            Err(error) => {
                self.put_back(admitted.into_connection(), manner.starttls);
                return Err(error);
            }
        };
        if let Some(plan) = rendition.plan() {
            DeliveryFact::Converted { message: work.message, mx, plan }.tell();
        }
        let work = &*rendition.addressed(work);
        let recipients: Vec<_> = work.targets.iter().map(Addressee::from).collect();
        let envelope = rendition.envelope(work, &recipients);
        let deadline = Some(self.deadline());
        let yielding = self.rules.yielding;
        let mail = OutgoingMail { envelope, body: rendition.body(), chunking, deadline, yielding };
        if !self.rules.hand_over() {
            // Its place may be of the current configuration while it was opened by these rules.
            outbound.pool.retire(admitted.into_connection());
            return Ok(None);
        }
        let transmitted = transmit(admitted, &mail).await;
        yielding.content_ended();
        if let Some(trouble) =
            transmitted.trouble.as_ref().filter(|trouble| trouble.is_outcome_unknown())
        {
            DeliveryFact::OutcomeUnknown { message: work.message, mx, trouble }.tell();
        }
        let is_used_up = transmitted.trouble == Some(TransactionError::UsedUp);
        match transmitted.connection {
            Some(idle) if is_used_up => outbound.pool.retire(idle),
            Some(idle) => self.put_back(idle, manner.starttls),
            None => {}
        }
        said(transmitted.fates, transmitted.trouble).map(Some)
    }

    fn put_back(&self, idle: Idle, starttls: Starttls) {
        match starttls {
            Starttls::Use => self.rules.outbound.pool.give_back(idle),
            // In clear although the host has TLS: that was for this mail only.
            Starttls::Skip => self.rules.outbound.pool.retire(idle),
        }
    }

    /// When a transaction is cut off that has not come to its final dot: a peer may be slow, but
    /// neither without end nor beyond the mail's time.
    fn deadline(&self) -> Instant {
        let size = Duration::from_secs(self.work.facts.size / OCTETS_PER_SECOND_MIN);
        let budget = Instant::now() + ENVELOPE_BUDGET + size;
        match self.ends_at {
            Some(ends_at) if ends_at > Instant::now() => ends_at.min(budget),
            // What became too old while it waited for a place is no fault of the host's.
            Some(_) | None => budget,
        }
    }
}

/// Is the mail's time over before all was tried? Not before one thing was: the attempt has to come
/// to something.
fn is_too_late(ends_at: Option<Instant>, walk: &mut Walk) -> bool {
    is_over(ends_at) && walk.break_off()
}

fn is_over(ends_at: Option<Instant>) -> bool {
    ends_at.is_some_and(|ends_at| ends_at <= Instant::now())
}
