//! What would happen to mail for this address now, step by step? (`staunch explain`)
//!
//! This is the walk that delivers, with its steps written down: the same route, policy, hosts,
//! authorization, connection and admission, in the same functions. Only the transaction is left
//! out.

mod question;

use jiff::Timestamp;
use policy::sts::RecordError;
use policy::sts::keep::TxtAnswer;
use policy::{Asked, Observed, ObservedTls, Onward, Proof, authorize};
use serde_json::{Value, json};
use smtp::{Domain, HostName, RemoteText};
use tokio::time::Instant;
use x509_parser::extensions::GeneralName;

use crate::config::{Config, Limit};
use crate::connect::pool::site_limit;
use crate::delivery::hosts::{self, Candidate};
use crate::delivery::open::{SessionOptions, open};
use crate::delivery::outbound::Outbound;
use crate::delivery::outcome::{AttemptError, Disposition, HostError, Walk};
use crate::delivery::plan::DeliveryPlan;
use crate::delivery::route::{self, Leg};
use crate::dns::Freshness;
use crate::policies::{Consulted, PolicySource, PolicyVerdict};
use crate::queue::handle::QueueHandle;
use crate::queue::shaping::domain_limit;
use crate::telemetry::Problem;
use question::ExplainSubject;
pub(crate) use question::{BadQuestion, ExplainQuestion};

/// Walks, and writes down what each step found.
///
/// # Errors
///
/// [`BadQuestion`].
pub(crate) async fn walk(
    queue: &QueueHandle,
    question: ExplainQuestion,
) -> Result<Value, BadQuestion> {
    let outbound = &*queue.outbound;
    let config = outbound.config();
    let ExplainSubject { domain, alias } = question.subject(&config)?;
    let onward = if question.require_tls { Onward::RequireTls } else { Onward::Anyhow };
    let next_hop = route::next_hop(&config, &domain, onward);
    let off = queue.switches.off().towards(&config, &next_hop.lane).shown(&config);
    let mut trace = WalkTrace::new();
    if let Some(targets) = alias {
        trace.step("alias", &targets);
    }
    trace.step("route", next_hop.lane.as_str());
    if !config.sources.is_empty() {
        trace.step("source", &next_hop.sources.to_string());
    }
    let how = (onward, Freshness::Cached);
    let mut plan = DeliveryPlan::new(outbound, &config, &next_hop, how);
    for leg in &next_hop.legs {
        tell_policy(outbound, leg, &mut trace).await;
        let (Some(asked), _watch) = plan.ask(leg).await else { continue };
        match plan.candidates(leg, &asked).await {
            Ok(candidates) => {
                trace.step("mx", &format!("{} hosts", candidates.len()));
                tell_limits(&config, &domain, leg, &candidates, &mut trace);
                let check =
                    HostCheck { outbound, config: &config, asked: &asked, question: &question };
                for candidate in &candidates {
                    check.look_at(candidate, &mut plan.walk, &mut trace).await;
                }
            }
            Err(problem) => trace.step("mx", problem.text.as_str()),
        }
    }
    let (verdict, reason) = match trace.best {
        Some(verdict) => (verdict, Value::Null),
        None => {
            let error = plan.conclude().await;
            (verdict_word(&error), json!(error.problem().reason.as_str()))
        }
    };
    Ok(json!({
        "address": question.address,
        "domain": domain.as_str(),
        "sender": question.sender,
        "next_hop": next_hop.lane.as_str(),
        "paused": off.paused,
        "paused_hops": off.paused_hops,
        "verdict": verdict,
        "reason": reason,
        "mta_sts": trace.mta_sts,
        "dane": Value::Null,
        "rules": [],
        "mx": trace.mx,
        "steps": trace.steps,
    }))
}

/// What becomes of mail that no host takes.
fn verdict_word(error: &AttemptError) -> &'static str {
    match error.verdict().0 {
        Disposition::Defer => "defer",
        Disposition::Fail => "reject",
    }
}

/// What was found so far.
struct WalkTrace {
    since: Instant,
    steps: Vec<Value>,
    mta_sts: Value,
    mx: Vec<Value>,
    /// The verdict, once a host was found that would be used.
    best: Option<&'static str>,
}

impl WalkTrace {
    fn new() -> Self {
        let since = Instant::now();
        let (steps, mx) = (Vec::new(), Vec::new());
        // Where a route leads to a host, no policy is asked for.
        let mta_sts = told(PolicySource::None, Value::Null, None, Value::Null, Value::Null);
        Self { since, steps, mta_sts, mx, best: None }
    }

    /// Writes a step down with the time since the one before.
    fn step(&mut self, step: &str, result: &str) {
        let now = Instant::now();
        let took = now.duration_since(self.since).as_millis();
        self.since = now;
        let took = u64::try_from(took).unwrap_or(u64::MAX);
        self.steps.push(json!({ "step": step, "took_ms": took, "result": result }));
    }
}

/// What is known of the policy that holds for `leg`.
async fn tell_policy(outbound: &Outbound, leg: &Leg, trace: &mut WalkTrace) {
    let Some(domain) = leg.policy_domain() else { return };
    let consulted = outbound.policies.consult(domain, Freshness::Cached).await;
    let result = match &consulted.verdict {
        PolicyVerdict::Policy(kept) => format!("policy, mode {}", kept.policy().mode()),
        PolicyVerdict::None(_) => "no policy".to_owned(),
        PolicyVerdict::Defer(defer) => defer.text.to_string(),
    };
    trace.step("mta_sts", &result);
    trace.mta_sts = mta_sts(&consulted);
}

fn mta_sts(consulted: &Consulted) -> Value {
    let (policy, kept) = match &consulted.verdict {
        PolicyVerdict::Policy(kept) => {
            let policy = json!({
                "mode": kept.policy().mode().to_string(),
                "max_age": kept.policy().max_age().as_secs(),
                "mx": kept.policy().mx().iter().map(ToString::to_string).collect::<Vec<_>>(),
                "id": kept.id().to_string(),
            });
            (policy, Some((kept.fetched_at(), kept.expires_at())))
        }
        PolicyVerdict::None(_) | PolicyVerdict::Defer(_) => (Value::Null, None),
    };
    let record = match &consulted.record {
        Some(TxtAnswer::Usable(id)) => json!(format!("v=STSv1; id={id};")),
        Some(TxtAnswer::Unusable(_) | TxtAnswer::Failed(_)) | None => Value::Null,
    };
    let error = match (&consulted.failure, &consulted.record, &consulted.verdict) {
        (Some(failure), _, _) => json!(failure.as_str()),
        (None, _, PolicyVerdict::Defer(defer)) => json!(defer.text.as_str()),
        (None, Some(TxtAnswer::Failed(text)), _) => json!(text.as_str()),
        (None, Some(TxtAnswer::Unusable(RecordError::NoRecord)), _) => Value::Null,
        (None, Some(TxtAnswer::Unusable(error)), _) => json!(error.to_string()),
        (None, Some(TxtAnswer::Usable(_)) | None, _) => Value::Null,
    };
    told(consulted.source, policy, kept, record, error)
}

/// The object `mta_sts`, which has the same members whatever was found.
fn told(
    source: PolicySource,
    policy: Value,
    kept: Option<(Timestamp, Timestamp)>,
    record: Value,
    error: Value,
) -> Value {
    let source = match source {
        PolicySource::Cache => "cache",
        PolicySource::Fetch => "fetch",
        PolicySource::None => "none",
    };
    json!({
        "record": record,
        "policy": policy,
        "source": source,
        "fetched_at": kept.map(|(fetched_at, _)| fetched_at.to_string()),
        "expires_at": kept.map(|(_, expires_at)| expires_at.to_string()),
        "error": error,
    })
}

/// Which `[[limit]]`s slow the mail down.
fn tell_limits(
    config: &Config,
    domain: &HostName,
    leg: &Leg,
    candidates: &[Candidate],
    trace: &mut WalkTrace,
) {
    let of_domain = match leg {
        Leg::Domain(_) => domain_limit(&config.outbound_limits, domain),
        Leg::Via(_) => None,
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
    async fn look_at(&self, candidate: &Candidate, walk: &mut Walk, trace: &mut WalkTrace) {
        let mx = &candidate.located.mx;
        let mut seen = Evidence::default();
        let result = self.try_host(candidate, &mut seen).await;
        let problem: Option<Problem> = result.as_ref().err().map(|error| error.problem(mx));
        let outcome = match (&result, self.question.connect) {
            (Ok(_), true) => "admitted",
            (Ok(_), false) => "would_connect",
            (Err(HostError::Refused(_)), _) => "refused",
            (Err(_), _) => "failed",
        };
        let text = problem.as_ref().map_or(outcome, |problem| problem.text.as_str()).to_owned();
        trace.step(&format!("host {mx}"), &text);
        trace.mx.push(json!({
            "host": mx.to_string(),
            "preference": candidate.preference,
            "addresses": seen.addresses,
            "listed": self.listed(mx),
            "requirement": requirement_word(self.asked),
            "outcome": outcome,
            "reason": problem.map(|problem| problem.reason.as_str()),
            "tls": seen.tls,
        }));
        match result {
            // The first one that would be used decides.
            Ok(verdict) => {
                trace.best.get_or_insert(verdict);
            }
            Err(error) => walk.host_failed(mx, error),
        }
    }

    /// As `attempt` does it, up to the transaction.
    async fn try_host(
        &self,
        candidate: &Candidate,
        seen: &mut Evidence,
    ) -> Result<&'static str, HostError> {
        let mx = authorize(candidate.located.clone(), self.asked).map_err(HostError::Refused)?;
        let addresses = hosts::locate(self.outbound, self.config, &mx, candidate).await?;
        seen.addresses = addresses.iter().map(|address| address.ip().to_string()).collect();
        if !self.question.connect {
            return Ok(expected_verdict(self.asked));
        }
        let (outbound, config) = (self.outbound, self.config);
        let opened = open(outbound, config, &mx, candidate, SessionOptions::USUAL).await;
        let mut admitted = opened.map_err(|shut| {
            shut.observed.iter().for_each(|observed| seen.look_at(observed));
            shut.error
        })?;
        seen.look_at(&admitted.connection_mut().observed);
        let verdict = match admitted.proof() {
            Proof::VerifiedPkix => "verified",
            Proof::Encrypted => "encrypted",
            Proof::Plain => "opportunistic",
        };
        outbound.pool.retire(admitted.into_connection());
        Ok(verdict)
    }

    /// Does the policy list the host? `null` where there is no policy.
    fn listed(&self, mx: &Domain) -> Value {
        let lists = || self.asked.binding.listings().chain(self.asked.shadow.listings());
        match mx.name() {
            Some(name) if lists().next().is_some() => json!(lists().all(|list| list.allows(name))),
            Some(_) | None => Value::Null,
        }
    }
}

/// What was seen of a host.
#[derive(Default)]
struct Evidence {
    addresses: Vec<String>,
    tls: Value,
}

impl Evidence {
    fn look_at(&mut self, observed: &Observed) {
        if let Observed::Tls(tls) = observed {
            self.tls = shown_tls(tls);
        }
    }
}

fn requirement_word(asked: &Asked) -> &'static str {
    match expected_verdict(asked) {
        "verified" => "verify",
        "encrypted" => "encrypt",
        other => other,
    }
}

/// What mail will get at least, if the host keeps to it.
fn expected_verdict(asked: &Asked) -> &'static str {
    if asked.binding.identity() != policy::Identity::None {
        "verified"
    } else if asked.binding.needs_tls() {
        "encrypted"
    } else {
        "opportunistic"
    }
}

fn shown_tls(tls: &ObservedTls) -> Value {
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
            names.value.general_names.iter().take(20).map(shown).collect::<Vec<_>>()
        });
        let at = |time: x509_parser::time::ASN1Time| {
            Timestamp::from_second(time.timestamp()).map(|time| time.to_string()).ok()
        };
        Some(json!({
            "names": names,
            "issuer": RemoteText::new(&parsed.issuer().to_string()).as_str(),
            "not_before": at(parsed.validity().not_before),
            "not_after": at(parsed.validity().not_after),
        }))
    });
    json!({
        "version": tls.version.as_str(),
        "group": tls.group,
        "certificate": certificate,
    })
}
