//! One delivery attempt, top to bottom: the spine of the daemon.
//!
//! Each stage needs what the stage before it made: there is no connection without an
//! [`AuthorizedMx`], and nothing is transmitted without an [`Admitted`] connection. `staunch explain`
//! walks the same functions.

use std::sync::Arc;

use policy::{
    Admitted, Asked, AuthorizedMx, Denied, NamedBy, Observed, Onward, Origin, PatternSet,
    TlsVersion, authorize,
};
use smtp::client::{Addressee, Fate, Stage};
use smtp::{Domain, RemoteText};

use crate::clock;
use crate::config::{CleartextFallback, Config};
use crate::connect::{How, Opened, Starttls};
use crate::events;
use crate::hosts::{self, Candidate};
use crate::outcome::{
    AgeCounts, Answered, AttemptError, Cut, Demand, HostError, Misfit, MxEvidence, Reason, Walk,
};
use crate::parcel::{Converting, Parcel};
use crate::pool::{Checkout, Idle, PoolKey};
use crate::queue::work::Work;
use crate::relay::Relay;
use crate::requirement::{self, Local};
use crate::resolve::Freshness;
use crate::route::{self, NextHop};
use crate::transmit::{Chunking, Mail, Trouble, transmit};

/// What is said of a host that offers CHUNKING and refuses BDAT.
const NO_BDAT: &str = "the host offers CHUNKING and does not know BDAT";
/// What is said of a session that takes nobody else.
const USED_UP: &str = "the host takes no more in this session";

/// One attempt by the rules of today, and these rules. If they change before anything was handed over, it
/// begins anew: what was found under those of yesterday, also a failure, counts for nothing.
pub(crate) async fn attempt(
    relay: &Relay,
    work: &Work,
    freshness: Freshness,
) -> (Arc<Config>, Result<Answered, AttemptError>) {
    loop {
        let config = relay.config();
        let result = attempt_under(relay, &config, work, freshness).await;
        if result.is_ok() || relay.is_of_today(&config) {
            return (config, result);
        }
    }
}

/// Tries the hosts of the next hop in order of preference, until one has answered.
///
/// # Errors
///
/// [`AttemptError`] when none was reached that may be used: nothing was delivered.
async fn attempt_under(
    relay: &Relay,
    config: &Config,
    work: &Work,
    freshness: Freshness,
) -> Result<Answered, AttemptError> {
    let Some(domain) = work.domain() else {
        return Err(AttemptError::Local("the recipient has no domain".to_owned()));
    };
    let next_hop = route::next_hop(config, domain, work.onward());
    let local = Local { floor: next_hop.floor, onward: work.onward() };
    let mut walk = Walk::new(demand(relay, local.onward));
    for leg in &next_hop.legs {
        let asked = match requirement::asked(relay, config, leg, local, freshness).await {
            Ok(asked) => asked,
            Err(error) => {
                walk.leg_failed(error);
                continue;
            }
        };
        let candidates = match hosts::candidates(relay, config, leg, &asked).await {
            Ok(candidates) => candidates,
            Err(error) => {
                walk.leg_failed(error);
                continue;
            }
        };
        let spine = Spine { relay, config, work, asked: &asked };
        if let Some(answered) = spine.walk(candidates, &mut walk).await {
            return Ok(answered);
        }
    }
    Err(conclude(relay, &next_hop, walk).await)
}

/// Under a clock that may be wrong no certificate shows that it is bad.
pub(crate) fn demand(relay: &Relay, onward: Onward) -> Demand {
    match (onward, relay.age_counts()) {
        (Onward::RequireTls, AgeCounts::Yes) => Demand::RequireTls,
        (Onward::RequireTls, AgeCounts::ClockSuspect) | (Onward::Anyhow, _) => Demand::Patient,
    }
}

/// What the walk comes to, with a look at what speaks against hearsay.
pub(crate) async fn conclude(relay: &Relay, next_hop: &NextHop, walk: Walk) -> AttemptError {
    let evidence = match next_hop.legs.first().filter(|_| walk.is_hearsay()) {
        Some(leg) => hosts::evidence(relay, leg).await,
        None => MxEvidence::Uncontested,
    };
    walk.into_error(evidence)
}

/// In which manner a host is tried.
#[derive(Clone, Copy, Debug)]
struct Manner {
    starttls: Starttls,
    converting: Converting,
}

/// What the steps of one leg share.
struct Spine<'a> {
    relay: &'a Relay,
    config: &'a Config,
    work: &'a Work,
    asked: &'a Asked,
}

impl Spine<'_> {
    /// One host after the other; then those again that take the message in another form than its own,
    /// and at last, where nothing is required and TLS broke, in clear.
    async fn walk(&self, candidates: Vec<Candidate>, walk: &mut Walk) -> Option<Answered> {
        let first = Manner { starttls: Starttls::Use, converting: Converting::Later };
        let again = Manner { converting: Converting::Now, ..first };
        let in_clear = Manner { starttls: Starttls::Skip, ..again };
        let (mut convert, mut clear) = (Vec::new(), Vec::new());
        for candidate in candidates {
            match self.try_host(&candidate, first).await {
                Ok(tried) => return tried,
                Err(HostError::Unfit(Misfit::EightBit)) => convert.push((candidate, again)),
                Err(error) => {
                    if self.may_go_clear(&candidate, &error).await {
                        clear.push((candidate.clone(), in_clear));
                    }
                    events::host_failed(self.work.message, &candidate, &error);
                    walk.host_failed(&candidate.located.mx, error);
                }
            }
        }
        for (candidate, manner) in convert.into_iter().chain(clear) {
            match self.try_host(&candidate, manner).await {
                Ok(tried) => return tried,
                Err(error) => {
                    events::host_failed(self.work.message, &candidate, &error);
                    walk.host_failed(&candidate.located.mx, error);
                }
            }
        }
        None
    }

    /// May it be used, does it answer, is it who it should be, what does it say? `None` if that was asked
    /// by rules that do not hold any more: nothing is handed over then.
    async fn try_host(
        &self,
        candidate: &Candidate,
        manner: Manner,
    ) -> Result<Option<Answered>, HostError> {
        let starttls = manner.starttls;
        let mut chunking = Chunking::IfOffered;
        loop {
            let located = candidate.located.clone();
            let mx = authorize(located, self.asked).map_err(HostError::Refused)?;
            let policy = binding(&mx);
            let host = mx.host().clone();
            let mut admitted = open(self.relay, self.config, mx, candidate.port, starttls).await?;
            if !self.relay.is_of_today(self.config) {
                self.put_back(admitted.into_connection(), starttls);
                return Ok(None);
            }
            events::findings(self.work.message, &host, admitted.findings());
            let proof = admitted.proof();
            let idle = admitted.connection_mut();
            let (tls, address) = (tls_version(idle), idle.connection.peer());
            let extensions = *idle.connection.extensions();
            let was_kept = idle.connection.transactions() > 0;
            match self.transmit(admitted, (&host, manner), chunking).await {
                // The peer ended a kept connection just when it was taken up again: that says nothing.
                Err(HostError::Interrupted { stage: Stage::Mail, .. }) if was_kept => {}
                Err(HostError::NoChunking) if chunking == Chunking::IfOffered => {
                    chunking = Chunking::Avoided;
                }
                result => {
                    let (fates, cut) = result?;
                    let mx = host;
                    return Ok(Some(Answered {
                        mx,
                        address,
                        proof,
                        tls,
                        policy,
                        extensions,
                        fates,
                        cut,
                    }));
                }
            }
        }
    }

    /// One message to its recipients, over one connection.
    async fn transmit(
        &self,
        mut admitted: Admitted<Idle>,
        (mx, manner): (&Domain, Manner),
        chunking: Chunking,
    ) -> Result<(Vec<Option<Fate>>, Option<Cut>), HostError> {
        let (relay, rules, work) = (self.relay, &self.config.delivery, self.work);
        let extensions = *admitted.connection_mut().connection.extensions();
        let packed = Parcel::pack(relay, rules, work, &extensions, manner.converting).await;
        let parcel = match packed {
            Ok(parcel) => parcel,
            Err(error) => {
                self.put_back(admitted.into_connection(), manner.starttls);
                return Err(error);
            }
        };
        if let Some(plan) = parcel.plan() {
            events::converted(work.message, mx, plan);
        }
        let work = &*parcel.addressed(work);
        let recipients: Vec<_> = work.targets.iter().map(Addressee::from).collect();
        let envelope = parcel.envelope(work, &recipients);
        let mail = Mail { envelope, body: parcel.body(), chunking };
        let transmitted = transmit(admitted, &mail).await;
        let is_used_up = transmitted.trouble == Some(Trouble::UsedUp);
        match transmitted.connection {
            Some(idle) if is_used_up => self.relay.pool.retire(idle),
            Some(idle) => self.put_back(idle, manner.starttls),
            None => {}
        }
        said(transmitted.fates, transmitted.trouble)
    }

    fn put_back(&self, idle: Idle, starttls: Starttls) {
        match starttls {
            Starttls::Use => self.relay.pool.give_back(idle),
            // In clear although the host has TLS: that was for this mail only.
            Starttls::Skip => self.relay.pool.retire(idle),
        }
    }

    /// Where nothing is required, clear text follows a failed STARTTLS when the operator allows, but
    /// never to a host that lately did better: that would be a downgrade that somebody wants.
    async fn may_go_clear(&self, candidate: &Candidate, error: &HostError) -> bool {
        let HostError::Connect(failure) = error else { return false };
        let is_second = self.work.any(|target| target.attempts > 0);
        let allowed = match self.config.delivery.cleartext_fallback {
            CleartextFallback::Never => false,
            CleartextFallback::SecondAttempt => is_second,
            CleartextFallback::Immediate => true,
        };
        let did_better = match candidate.located.mx.name() {
            Some(name) => self.relay.hosts.starttls_seen(name).await,
            None => false,
        };
        allowed && failure.is_tls() && !self.asked.binding.needs_tls() && !did_better
    }
}

/// What a transaction came to. If it was cut off before anybody can have got the message, the next host
/// may still be tried; else what is known stands.
fn said(
    fates: Vec<Option<Fate>>,
    trouble: Option<Trouble>,
) -> Result<(Vec<Option<Fate>>, Option<Cut>), HostError> {
    let Some(trouble) = trouble else { return Ok((fates, None)) };
    let is_open = fates.iter().all(Option::is_none) && !trouble.is_outcome_unknown();
    let (stage, reason, text) = match trouble {
        Trouble::Body { text } if is_open => return Err(HostError::Body(text)),
        Trouble::NoChunking if is_open => return Err(HostError::NoChunking),
        Trouble::Body { text } => (Stage::Body, Reason::LocalError, RemoteText::new(&text)),
        Trouble::NoChunking => (Stage::Body, Reason::ProtocolError, RemoteText::new(NO_BDAT)),
        Trouble::UsedUp => (Stage::Mail, Reason::ConnectionLost, RemoteText::new(USED_UP)),
        Trouble::Lost { stage, text } => (stage, Reason::ConnectionLost, text),
        Trouble::Protocol { stage, text } => (stage, Reason::ProtocolError, text),
    };
    if is_open {
        return Err(HostError::Interrupted { stage, reason, text });
    }
    Ok((fates, Some(Cut { stage, reason, text })))
}

/// Why there is no session, and what the host showed if there nearly was one.
pub(crate) struct Shut {
    /// Why.
    pub(crate) error: HostError,
    /// What was not good enough.
    pub(crate) observed: Option<Arc<Observed>>,
}

impl From<HostError> for Shut {
    fn from(error: HostError) -> Self {
        Self { error, observed: None }
    }
}

impl From<Shut> for HostError {
    fn from(shut: Shut) -> Self {
        shut.error
    }
}

/// A session with the host that mail may go over: one that waits in the pool, or a new one.
///
/// # Errors
///
/// [`Shut`] when there is none.
pub(crate) async fn open(
    relay: &Relay,
    config: &Config,
    mx: AuthorizedMx,
    port: u16,
    starttls: Starttls,
) -> Result<Admitted<Idle>, Shut> {
    let key = PoolKey { route: route_of(&mx), source: None, host: mx.host().clone(), port };
    let slot = loop {
        match relay.pool.checkout(&key).await {
            Checkout::Fresh(slot) => break slot,
            Checkout::Crowded => return Err(HostError::Crowded.into()),
            Checkout::Idle(idle) => match admit(relay, &mx, idle) {
                Ok(admitted) => return Ok(admitted),
                // Good enough for other mail once, not for this one today.
                Err(denied) => relay.pool.retire(denied.connection),
            },
        }
    };
    let addresses = hosts::locate(relay, config, &mx, port).await?;
    let opened = relay.connector.connect(mx, &addresses, How { starttls }).await;
    let Opened { mx, connection, observed } = opened.map_err(|failure| {
        if failure.is_throttling() {
            slot.throttled();
        }
        HostError::Connect(failure)
    })?;
    if let (Observed::Tls(_), Some(name)) = (&observed, mx.host().name()) {
        relay.hosts.note_starttls(name).await;
    }
    admit(relay, &mx, Idle::new(connection, observed, slot)).map_err(|denied| {
        let Denied { connection, failure } = *denied;
        let observed = Some(Arc::clone(&connection.observed));
        relay.pool.retire(connection);
        Shut { error: HostError::Tls(failure), observed }
    })
}

/// A host that the operator wrote down may be anywhere, one that DNS names may not: what was opened for
/// the one must not serve the other.
fn route_of(mx: &AuthorizedMx) -> Option<Arc<str>> {
    match mx.named_by() {
        NamedBy::Route => Some(mx.host().to_string().into()),
        NamedBy::MxRecords | NamedBy::SecureMxRecords | NamedBy::ImplicitMx => None,
    }
}

/// Judges what was seen by what is asked for this mail, today.
fn admit(
    relay: &Relay,
    mx: &AuthorizedMx,
    idle: Idle,
) -> Result<Admitted<Idle>, Box<Denied<Idle>>> {
    let observed = Arc::clone(&idle.observed);
    mx.admit(idle, &observed, &relay.roots.now(), clock::now()).map_err(Box::new)
}

fn tls_version(idle: &Idle) -> Option<TlsVersion> {
    match &*idle.observed {
        Observed::Plain => None,
        Observed::Tls(tls) => Some(tls.version),
    }
}

/// Whose word was binding, for the log.
fn binding(mx: &AuthorizedMx) -> &'static str {
    let binding = &mx.asked().binding;
    let by_sts = |list: &PatternSet| matches!(list.origin, Origin::Sts { .. });
    if binding.listings().any(by_sts) {
        "sts"
    } else if binding.needs_tls() {
        "rule"
    } else {
        "none"
    }
}
