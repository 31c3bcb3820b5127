//! One delivery attempt, top to bottom: the spine of the daemon.
//!
//! Each stage needs what the stage before it made: there is no connection without an
//! [`AuthorizedMx`], and nothing is transmitted without an [`Admitted`] connection. `staunch explain`
//! walks the same functions.

use std::fs::File;
use std::sync::Arc;

use policy::{
    Admitted, Asked, AuthorizedMx, Denied, Observed, Origin, PatternSet, TlsVersion, authorize,
};
use smtp::client::{Envelope, Fate, Stage};
use smtp::{Mailbox, RemoteText};
use spool::{BodyBytes, StoreError};

use crate::clock;
use crate::config::{CleartextFallback, Config};
use crate::connect::{How, Opened, Starttls};
use crate::events;
use crate::hosts::{self, Candidate};
use crate::outcome::{Answered, AttemptError, HostError, Reason, Walk};
use crate::pool::{Checkout, Idle, PoolKey};
use crate::queue::work::{Body, Work};
use crate::relay::Relay;
use crate::requirement;
use crate::resolve::Freshness;
use crate::route;
use crate::transmit::{BodySource, Mail, Trouble, transmit};

/// Tries the hosts of the next hop in order of preference, until one has answered.
///
/// # Errors
///
/// [`AttemptError`] when none was reached that may be used: nothing was delivered.
pub(crate) async fn attempt(
    relay: &Relay,
    config: &Config,
    work: &Work,
    freshness: Freshness,
) -> Result<Answered, AttemptError> {
    let Some(domain) = work.domain() else {
        return Err(AttemptError::Local("the recipient has no domain".to_owned()));
    };
    let next_hop = route::next_hop(config, domain);
    let mut walk = Walk::default();
    for leg in &next_hop.legs {
        let domain = leg.policy_domain();
        let asked =
            match requirement::asked(config, &relay.policies, domain, next_hop.floor, freshness)
                .await
            {
                Ok(asked) => asked,
                Err(defer) => {
                    walk.leg_failed(AttemptError::Policy(defer));
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
    Err(walk.into_error(|| hosts::evidence(relay, domain)))
}

/// What the steps of one leg share.
struct Spine<'a> {
    relay: &'a Relay,
    config: &'a Config,
    work: &'a Work,
    asked: &'a Asked,
}

impl Spine<'_> {
    /// One host after the other; where nothing is required and TLS broke, at last in clear.
    async fn walk(&self, candidates: Vec<Candidate>, walk: &mut Walk) -> Option<Answered> {
        let mut clear = Vec::new();
        for candidate in candidates {
            match self.try_host(&candidate, Starttls::Use).await {
                Ok(answered) => return Some(answered),
                Err(error) => {
                    if self.may_go_clear(&candidate, &error).await {
                        clear.push(candidate.clone());
                    }
                    events::host_failed(self.work.message, &candidate, &error);
                    walk.host_failed(&candidate.located.mx, error);
                }
            }
        }
        for candidate in clear {
            match self.try_host(&candidate, Starttls::Skip).await {
                Ok(answered) => return Some(answered),
                Err(error) => walk.host_failed(&candidate.located.mx, error),
            }
        }
        None
    }

    /// May it be used, does it answer, is it who it should be, what does it say?
    async fn try_host(
        &self,
        candidate: &Candidate,
        starttls: Starttls,
    ) -> Result<Answered, HostError> {
        let mx = authorize(candidate.located.clone(), self.asked).map_err(HostError::Refused)?;
        let policy = binding(&mx);
        let host = mx.host().clone();
        let mut admitted = open(self.relay, self.config, mx, candidate.port, starttls).await?;
        events::findings(self.work.message, &host, admitted.findings());
        let proof = admitted.proof();
        let idle = admitted.connection_mut();
        let (tls, address) = (tls_version(idle), idle.connection.peer());
        if let (Some(_), Some(name)) = (tls, host.name()) {
            self.relay.hosts.note_starttls(name).await;
        }
        let (fates, lost) = self.transmit(admitted).await?;
        Ok(Answered { mx: host, address, proof, tls, policy, fates, lost })
    }

    /// One transaction. If it was cut off before anybody can have got the message, the next host may
    /// still be tried; else what is known stands.
    async fn transmit(
        &self,
        admitted: Admitted<Idle>,
    ) -> Result<(Vec<Option<Fate>>, Option<(Stage, RemoteText)>), HostError> {
        let body = load(self.relay, self.work).await.map_err(HostError::Body)?;
        let recipients: Vec<Mailbox> =
            self.work.targets.iter().map(|target| target.mailbox.clone()).collect();
        let envelope = Envelope {
            sender: &self.work.sender,
            recipients: &recipients,
            size: self.work.facts.size,
            has_8bit: self.work.facts.has_8bit,
        };
        let body = match &body {
            Loaded::Memory(bytes) => BodySource::Memory(bytes),
            Loaded::File(file) => BodySource::File(Arc::clone(file)),
        };
        let transmitted = transmit(admitted, &Mail { envelope, body }).await;
        if let Some(idle) = transmitted.connection {
            self.relay.pool.give_back(idle);
        }
        let (fates, trouble) = (transmitted.fates, transmitted.trouble);
        let is_open = fates.iter().all(Option::is_none)
            && !trouble.as_ref().is_some_and(Trouble::is_outcome_unknown);
        match trouble {
            None => Ok((fates, None)),
            Some(Trouble::TooLarge { limit }) => Err(HostError::TooLarge { limit }),
            Some(Trouble::Body { text }) => Err(HostError::Body(text)),
            Some(Trouble::Lost { stage, text }) if is_open => {
                Err(HostError::Interrupted { stage, reason: Reason::ConnectionLost, text })
            }
            Some(Trouble::Protocol { stage, text }) if is_open => {
                Err(HostError::Interrupted { stage, reason: Reason::ProtocolError, text })
            }
            Some(Trouble::Lost { stage, text } | Trouble::Protocol { stage, text }) => {
                Ok((fates, Some((stage, text))))
            }
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
    let key = PoolKey { route: None, source: None, host: mx.host().clone(), port };
    let slot = loop {
        match relay.pool.checkout(&key).await {
            Checkout::Fresh(slot) => break slot,
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
    admit(relay, &mx, Idle::new(connection, observed, slot)).map_err(|denied| {
        let Denied { connection, failure } = *denied;
        let observed = Some(Arc::clone(&connection.observed));
        relay.pool.retire(connection);
        Shut { error: HostError::Tls(failure), observed }
    })
}

/// A body at hand.
enum Loaded {
    Memory(BodyBytes),
    File(Arc<File>),
}

async fn load(relay: &Relay, work: &Work) -> Result<Loaded, String> {
    if let Body::Hot(hot) = &work.body {
        return Ok(Loaded::Memory(hot.bytes.clone()));
    }
    let (spool, message) = (relay.spool.clone(), work.message);
    let read = tokio::task::spawn_blocking(move || spool.body(message)).await;
    match read.unwrap_or(Err(StoreError::Closed)) {
        Ok(spool::Body::Memory(bytes)) => Ok(Loaded::Memory(bytes)),
        Ok(spool::Body::File { file, .. }) => Ok(Loaded::File(Arc::new(file))),
        Err(error) => Err(format!("the message cannot be read: {error}")),
    }
}

/// Judges what was seen by what is asked for this mail, today.
fn admit(
    relay: &Relay,
    mx: &AuthorizedMx,
    idle: Idle,
) -> Result<Admitted<Idle>, Box<Denied<Idle>>> {
    let observed = Arc::clone(&idle.observed);
    mx.admit(idle, &observed, &relay.roots, clock::now()).map_err(Box::new)
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
