//! What would happen to mail for this address now, step by step? (`staunch explain`)
//!
//! This is the walk that delivers, with its steps written down: the same route, policy, hosts,
//! authorization, connection and admission, in the same functions. Only the transaction is left
//! out.

mod question;

use jiff::Timestamp;
use policy::sts::RecordError;
use policy::sts::cache::TxtAnswer;
use policy::{Asked, Observed, ObservedTls, Proof, RequireTls, authorize};
use serde_json::Value;
use smtp::extensions::Extension;
use smtp::{Domain, HostName, RemoteText};
use spool::LaneKey;
use tokio::time::Instant;
use x509_parser::extensions::GeneralName;

use crate::config::{Config, Limit};
use crate::connect::Starttls;
use crate::connect::pool::site_limit;
use crate::control::api::{
    AskedProtection, BackOffState, DeliveryVerdict, ExplainStep, Explanation, FetchedPolicy,
    HostOutcome, NextHopQueue, PeerCertificate, PolicyOrigin, ShownMx, ShownPolicy, ShownTls,
    SwitchStates,
};
use crate::delivery::hosts::{self, Candidate};
use crate::delivery::open::{SessionOptions, open};
use crate::delivery::outbound::Outbound;
use crate::delivery::outcome::{AttemptError, Disposition, HostError};
use crate::delivery::plan::{DeliveryPlan, HostOrder, Retry, TryOptions};
use crate::delivery::route::{self, Destination};
use crate::dns::Freshness;
use crate::policies::{Consulted, PolicySource, PolicyVerdict};
use crate::queue::handle::QueueHandle;
use crate::queue::shaping::domain_limit;
use crate::telemetry::Problem;
use question::ExplainSubject;
pub(crate) use question::{BadQuestion, ExplainQuestion};

/// Our choice: names of a certificate that are shown.
const NAMES_MAX: usize = 20;
/// Our choice: recipients that are counted; some milliseconds.
const COUNTED_TO: u64 = 10_000;

/// Walks, and writes down what each step found.
///
/// # Errors
///
/// [`BadQuestion`].
pub(crate) async fn walk(
    queue: &QueueHandle,
    question: ExplainQuestion,
) -> Result<Explanation, BadQuestion> {
    let outbound = &*queue.outbound;
    let config = outbound.config();
    let ExplainSubject { domain, alias } = question.subject(&config)?;
    let require_tls = if question.require_tls { RequireTls::Yes } else { RequireTls::No };
    let next_hop = route::next_hop(&config, &domain, require_tls);
    let off = queue.switches.off().towards(&config, &next_hop.lane);
    let off = SwitchStates::of(&off, &config);
    let mut trace = WalkTrace::new();
    if let Some(targets) = alias {
        trace.step("alias", &targets);
    }
    trace.step("route", next_hop.lane.as_str());
    if !config.sources.is_empty() {
        trace.step("source", &next_hop.sources.to_string());
    }
    let how = (require_tls, Freshness::Cached);
    let mut plan = DeliveryPlan::new(outbound, &config, &next_hop, how);
    for destination in &next_hop.destinations {
        tell_policy(outbound, destination, &mut trace).await;
        let (Some(asked), _watch) = plan.ask(destination).await else { continue };
        match plan.candidates(destination, &asked).await {
            Ok(candidates) => {
                trace.step("mx", &hosts_in_words(candidates.len()));
                tell_limits(&config, &domain, destination, &candidates, &mut trace);
                let check =
                    HostCheck { outbound, config: &config, asked: &asked, question: &question };
                // As for the first attempt on a message.
                let fallback = config.delivery.cleartext_fallback;
                let mut order = HostOrder::new(candidates, fallback, &asked, Retry::No);
                while let Some((candidate, options)) = order.next() {
                    let failed = check.look_at(&candidate, options, &mut trace).await;
                    let Some(error) = failed else { continue };
                    let mx = candidate.located.mx.clone();
                    order.failed(candidate, options, &error);
                    plan.walk.host_failed(&mx, error);
                }
            }
            Err(problem) => trace.step("mx", problem.text.as_str()),
        }
    }
    let (verdict, reason) = match trace.best {
        Some(verdict) => (verdict, None),
        None => {
            let error = plan.conclude().await;
            (verdict_of(&error), Some(error.problem().reason.as_str().to_owned()))
        }
    };
    Ok(Explanation {
        address: question.address,
        domain: domain.to_string(),
        sender: question.sender,
        next_hop: next_hop.lane.as_str().to_owned(),
        paused: off.paused,
        paused_hops: off.paused_hops,
        back_off: back_off(queue, &next_hop.lane).await,
        queue: waiting(queue, &next_hop.lane).await,
        verdict,
        reason,
        mta_sts: trace.mta_sts,
        dane: Value::Null,
        rules: Vec::new(),
        mx: trace.mx,
        steps: trace.steps,
    })
}

/// The wait of the next hop, if it has one; what cannot be read is left out.
async fn back_off(queue: &QueueHandle, lane: &LaneKey) -> Option<BackOffState> {
    let now = queue.now();
    let all = queue.ask(|spool| spool.troubles()).await.ok()?;
    let (_, trouble) = all.into_iter().find(|(key, _)| key == lane)?;
    (trouble.next_probe_at > now).then(|| BackOffState {
        until: trouble.next_probe_at,
        since: trouble.first_failed_at,
        failures: trouble.failures,
        reason: trouble.problem.reason.to_string(),
        text: trouble.problem.text.to_string(),
    })
}

/// What waits for the next hop; a full count of a long queue would take long.
async fn waiting(queue: &QueueHandle, lane: &LaneKey) -> Option<NextHopQueue> {
    let lane = lane.clone();
    let counted = queue.ask(move |spool| {
        let queued = spool.count_queued(&lane, COUNTED_TO)?;
        Ok((queued, spool.count_held(&lane, COUNTED_TO)?))
    });
    let (queued, held) = counted.await.ok()?;
    Some(NextHopQueue { queued, held, counted_to: COUNTED_TO })
}

fn hosts_in_words(count: usize) -> String {
    if count == 1 { "1 host".to_owned() } else { format!("{count} hosts") }
}

/// What becomes of mail that no host takes.
fn verdict_of(error: &AttemptError) -> DeliveryVerdict {
    match error.verdict().0 {
        Disposition::Defer => DeliveryVerdict::Defer,
        Disposition::Fail => DeliveryVerdict::Reject,
    }
}

/// What was found so far.
struct WalkTrace {
    since: Instant,
    steps: Vec<ExplainStep>,
    mta_sts: ShownPolicy,
    mx: Vec<ShownMx>,
    /// The verdict, once a host was found that would be used.
    best: Option<DeliveryVerdict>,
}

impl WalkTrace {
    fn new() -> Self {
        let since = Instant::now();
        let (steps, mx) = (Vec::new(), Vec::new());
        // Where a route leads to a host, no policy is asked for.
        let mta_sts = ShownPolicy {
            record: None,
            policy: None,
            source: PolicyOrigin::None,
            fetched_at: None,
            expires_at: None,
            error: None,
        };
        Self { since, steps, mta_sts, mx, best: None }
    }

    /// Writes a step down with the time since the one before.
    fn step(&mut self, step: &str, result: &str) {
        let now = Instant::now();
        let took = now.duration_since(self.since).as_millis();
        self.since = now;
        let took_ms = u64::try_from(took).unwrap_or(u64::MAX);
        self.steps.push(ExplainStep { step: step.to_owned(), took_ms, result: result.to_owned() });
    }
}

/// What is known of the policy that holds for `destination`.
async fn tell_policy(outbound: &Outbound, destination: &Destination, trace: &mut WalkTrace) {
    let Some(domain) = destination.policy_domain() else { return };
    let consulted = outbound.policies.consult(domain, Freshness::Cached).await;
    let result = match &consulted.verdict {
        PolicyVerdict::Policy(kept) => format!("policy, mode {}", kept.policy().mode()),
        PolicyVerdict::None(_) => "no policy".to_owned(),
        PolicyVerdict::Defer(defer) => defer.text.to_string(),
    };
    trace.step("mta_sts", &result);
    trace.mta_sts = mta_sts(&consulted);
}

fn mta_sts(consulted: &Consulted) -> ShownPolicy {
    let kept = match &consulted.verdict {
        PolicyVerdict::Policy(kept) => Some(kept),
        PolicyVerdict::None(_) | PolicyVerdict::Defer(_) => None,
    };
    let record = match &consulted.record {
        Some(TxtAnswer::Usable(id)) => Some(format!("v=STSv1; id={id};")),
        Some(TxtAnswer::Unusable(_) | TxtAnswer::Failed(_)) | None => None,
    };
    let error = match (&consulted.failure, &consulted.record, &consulted.verdict) {
        (Some(failure), _, _) => Some(failure.to_string()),
        (None, _, PolicyVerdict::Defer(defer)) => Some(defer.text.to_string()),
        (None, Some(TxtAnswer::Failed(text)), _) => Some(text.to_string()),
        (None, Some(TxtAnswer::Unusable(RecordError::NoRecord)), _) => None,
        (None, Some(TxtAnswer::Unusable(error)), _) => Some(error.to_string()),
        (None, Some(TxtAnswer::Usable(_)) | None, _) => None,
    };
    ShownPolicy {
        record,
        policy: kept.map(|kept| FetchedPolicy {
            mode: kept.policy().mode().to_string(),
            max_age: kept.policy().max_age().as_secs(),
            mx: kept.policy().mx().iter().map(ToString::to_string).collect(),
            id: kept.id().to_string(),
        }),
        source: match consulted.source {
            PolicySource::Cache => PolicyOrigin::Cache,
            PolicySource::Fetch => PolicyOrigin::Fetch,
            PolicySource::None => PolicyOrigin::None,
        },
        fetched_at: kept.map(|kept| kept.fetched_at()),
        expires_at: kept.map(|kept| kept.expires_at()),
        error,
    }
}

/// Which `[[limit]]`s slow the mail down.
fn tell_limits(
    config: &Config,
    domain: &HostName,
    destination: &Destination,
    candidates: &[Candidate],
    trace: &mut WalkTrace,
) {
    let of_domain = match destination {
        Destination::Domain(_) => domain_limit(&config.outbound_limits, domain),
        Destination::Via(_) => None,
    };
    let of_host =
        |candidate: &Candidate| site_limit(&config.outbound_limits, &candidate.located.mx);
    let mut limits: Vec<&Limit> =
        of_domain.into_iter().chain(candidates.iter().filter_map(of_host)).collect();
    limits.sort_by_key(|limit| limit.index);
    limits.dedup_by_key(|limit| limit.index);
    for limit in limits {
        trace.step("limit", &limit.to_string());
    }
}

/// What the look at each host shares.
struct HostCheck<'a> {
    outbound: &'a Outbound,
    config: &'a Config,
    asked: &'a Asked,
    question: &'a ExplainQuestion,
}

impl HostCheck<'_> {
    /// Why the host would not be used, if so.
    async fn look_at(
        &self,
        candidate: &Candidate,
        options: TryOptions,
        trace: &mut WalkTrace,
    ) -> Option<HostError> {
        let mx = &candidate.located.mx;
        let mut seen = Evidence::default();
        let result = self.try_host(candidate, options, &mut seen).await;
        let problem: Option<Problem> = result.as_ref().err().map(|error| error.problem(mx));
        let outcome = match (&result, self.question.connect) {
            (Ok(_), true) => HostOutcome::Admitted,
            (Ok(_), false) => HostOutcome::WouldConnect,
            (Err(HostError::Refused(_)), _) => HostOutcome::Refused,
            (Err(_), _) => HostOutcome::Failed,
        };
        let is_plain =
            self.question.connect && matches!(result, Ok(DeliveryVerdict::Opportunistic));
        let clear_text = is_plain || options.starttls == Starttls::Skip;
        let manner = if clear_text { ", in clear text" } else { "" };
        let text = problem.as_ref().map_or(outcome.as_str(), |problem| problem.text.as_str());
        trace.step(&format!("host {mx}{manner}"), text);
        trace.mx.push(ShownMx {
            host: mx.to_string(),
            preference: candidate.preference,
            addresses: seen.addresses,
            listed: self.listed(mx),
            requirement: asked_protection(self.asked),
            outcome,
            reason: problem.map(|problem| problem.reason.as_str().to_owned()),
            clear_text,
            eightbitmime: seen.eightbitmime,
            tls: seen.tls,
        });
        // The first one that would be used decides.
        result.map(|verdict| *trace.best.get_or_insert(verdict)).err()
    }

    /// As `attempt` does it, up to the transaction.
    async fn try_host(
        &self,
        candidate: &Candidate,
        options: TryOptions,
        seen: &mut Evidence,
    ) -> Result<DeliveryVerdict, HostError> {
        let mx = authorize(candidate.located.clone(), self.asked).map_err(HostError::Refused)?;
        let addresses = hosts::locate(self.outbound, self.config, &mx, candidate).await?;
        seen.addresses = addresses.iter().map(|address| address.ip().to_string()).collect();
        if !self.question.connect {
            return Ok(match asked_protection(self.asked) {
                AskedProtection::Verify => DeliveryVerdict::Verified,
                AskedProtection::Encrypt => DeliveryVerdict::Encrypted,
                AskedProtection::Opportunistic => DeliveryVerdict::Opportunistic,
            });
        }
        let (outbound, config) = (self.outbound, self.config);
        let how = SessionOptions { starttls: options.starttls, ..SessionOptions::USUAL };
        let opened = open(outbound, config, &mx, candidate, how).await;
        let mut admitted = opened.map_err(|shut| {
            shut.observed.iter().for_each(|observed| seen.look_at(observed));
            shut.error
        })?;
        let idle = admitted.connection_mut();
        seen.look_at(&idle.observed);
        seen.eightbitmime = Some(idle.connection.extensions().offers(Extension::EightBitMime));
        let verdict = match admitted.proof() {
            Proof::VerifiedPkix => DeliveryVerdict::Verified,
            Proof::Encrypted => DeliveryVerdict::Encrypted,
            Proof::Plain => DeliveryVerdict::Opportunistic,
        };
        outbound.pool.retire(admitted.into_connection());
        Ok(verdict)
    }

    /// Does the policy list the host? `None` where there is no policy.
    fn listed(&self, mx: &Domain) -> Option<bool> {
        let lists = || self.asked.enforced.listings().chain(self.asked.report_only.listings());
        let name = mx.name().filter(|_| lists().next().is_some())?;
        Some(lists().all(|list| list.allows(name)))
    }
}

/// What was seen of a host.
#[derive(Default)]
struct Evidence {
    addresses: Vec<String>,
    eightbitmime: Option<bool>,
    tls: Option<ShownTls>,
}

impl Evidence {
    fn look_at(&mut self, observed: &Observed) {
        if let Observed::Tls(tls) = observed {
            self.tls = Some(shown_tls(tls));
        }
    }
}

/// What mail gets at least, if the host keeps to it.
fn asked_protection(asked: &Asked) -> AskedProtection {
    if asked.enforced.identity() != policy::Identity::None {
        AskedProtection::Verify
    } else if asked.enforced.needs_tls() {
        AskedProtection::Encrypt
    } else {
        AskedProtection::Opportunistic
    }
}

fn shown_tls(tls: &ObservedTls) -> ShownTls {
    let certificate = tls.chain.first().and_then(|der| {
        let (_, parsed) = x509_parser::parse_x509_certificate(der).ok()?;
        let names = parsed.subject_alternative_name().ok().flatten().map(|names| {
            let shown = |name: &GeneralName<'_>| {
                let text = if let GeneralName::DNSName(dns) = name {
                    (*dns).into()
                } else {
                    name.to_string()
                };
                RemoteText::new(&text).to_string()
            };
            names.value.general_names.iter().take(NAMES_MAX).map(shown).collect()
        });
        let at = |time: x509_parser::time::ASN1Time| Timestamp::from_second(time.timestamp()).ok();
        Some(PeerCertificate {
            names,
            issuer: RemoteText::new(&parsed.issuer().to_string()).to_string(),
            not_before: at(parsed.validity().not_before),
            not_after: at(parsed.validity().not_after),
        })
    });
    ShownTls {
        version: tls.version.as_str().to_owned(),
        group: tls.group.map(str::to_owned),
        certificate,
    }
}
