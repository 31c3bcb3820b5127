//! A session with a host that this very mail may go over: one that waits in the pool, or a new one.
//!
//! Where a route has credentials, they are given after the session was admitted and before any
//! mail: the proof that admission asks for is what makes it safe to say the password.

use std::net::SocketAddr;
use std::sync::Arc;

use policy::{Admitted, AuthorizedMx, Denied, Observed, Proof, TlsFailure};
use spool::LaneKey;

use crate::config::Config;
use crate::connect::login::{LoginFailure, log_in};
use crate::connect::pool::{Bottleneck, Checkout, Claim, Idle, Slot};
use crate::connect::{AddressFamily, Opened, PoolKey, Starttls, TlsStart};
use crate::delivery::facts::DeliveryFact;
use crate::delivery::hosts::{self, Candidate};
use crate::delivery::outbound::Outbound;
use crate::delivery::outcome::{HostError, StarttlsGone};

/// What the caller asks for beyond what the [`AuthorizedMx`] needs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct SessionOptions<'a> {
    /// STARTTLS where nothing requires it.
    pub(crate) starttls: Starttls,
    /// Over which addresses.
    pub(crate) reach: Families,
    /// For whom.
    pub(crate) asker: Asker<'a>,
}

impl SessionOptions<'_> {
    /// May the host be asked?
    ///
    /// # Errors
    ///
    /// [`HostError::Down`]: others have done that lately, in vain.
    fn ask(self, outbound: &Outbound, key: &PoolKey) -> Result<(), HostError> {
        match self.asker {
            Asker::Lane(lane) => {
                outbound.pool.down(key, lane).map_or(Ok(()), |down| Err(HostError::Down(down)))
            }
            Asker::LaneAnew(_) | Asker::Operator => Ok(()),
        }
    }

    /// As it should be.
    pub(crate) const USUAL: Self =
        Self { starttls: Starttls::Use, reach: Families::Any, asker: Asker::Operator };
}

/// Who wants the session?
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Asker<'a> {
    /// The operator, who wants to see what happens.
    Operator,
    /// Mail of this lane: what other mail has found out lately will do.
    Lane(&'a LaneKey),
    /// Mail of this lane that may end by what happens.
    LaneAnew(&'a LaneKey),
}

/// Which addresses of a host are used.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Families {
    /// All.
    Any,
    /// IPv4 only: over IPv6 the host minds where we come from.
    V4,
}

impl Families {
    fn includes(self, family: AddressFamily) -> bool {
        match (self, family) {
            (Self::Any, _) | (Self::V4, AddressFamily::V4) => true,
            (Self::V4, AddressFamily::V6) => false,
        }
    }
}

/// Why there is no session, and what the host showed if there nearly was one.
pub(crate) struct SessionError {
    /// Why.
    pub(crate) error: HostError,
    /// What was not good enough.
    pub(crate) observed: Option<Arc<Observed>>,
}

impl From<HostError> for SessionError {
    fn from(error: HostError) -> Self {
        Self { error, observed: None }
    }
}

impl From<SessionError> for HostError {
    fn from(shut: SessionError) -> Self {
        shut.error
    }
}

/// A session with `candidate`, authorized as `mx`.
///
/// # Errors
///
/// [`SessionError`] when there is none, or none but in clear text with a host that did TLS lately.
pub(crate) async fn open(
    outbound: &Outbound,
    config: &Config,
    mx: &AuthorizedMx,
    candidate: &Candidate,
    how: SessionOptions<'_>,
) -> Result<Admitted<Idle>, SessionError> {
    let opened = open_any(outbound, config, mx, candidate, how).await;
    // Where TLS came about, or is required, nothing is asked of the memory.
    let in_clear = match (&opened, candidate.endpoint.tls) {
        (_, TlsStart::AtOnce) => false,
        (Ok(admitted), TlsStart::OnCommand) => admitted.proof() == Proof::Plain,
        (Err(SessionError { error: HostError::Connect(failure), .. }), TlsStart::OnCommand) => {
            failure.is_tls()
        }
        (Err(_), TlsStart::OnCommand) => false,
    };
    if mx.needs_tls() || !in_clear {
        return opened;
    }
    let Some(name) = mx.host().name() else { return opened };
    let gone = match &opened {
        Ok(_) => StarttlsGone::NotOffered.to_string(),
        Err(shut) => shut.error.problem(mx.host()).text.to_string(),
    };
    if !outbound.hosts.misses_starttls(name, &gone).await {
        return opened;
    }
    let gone = match opened {
        Ok(admitted) => {
            outbound.pool.retire(admitted.into_connection());
            StarttlsGone::NotOffered
        }
        Err(SessionError { error: HostError::Connect(failure), .. }) => {
            StarttlsGone::Failed(failure)
        }
        Err(other) => return Err(other),
    };
    Err(HostError::StarttlsGone(gone).into())
}

/// The same, whatever the host did lately.
async fn open_any(
    outbound: &Outbound,
    config: &Config,
    mx: &AuthorizedMx,
    candidate: &Candidate,
    how: SessionOptions<'_>,
) -> Result<Admitted<Idle>, SessionError> {
    let key = candidate.key(mx);
    let slot = loop {
        how.ask(outbound, &key)?;
        match outbound.pool.checkout(&key).await {
            Checkout::Fresh(slot) => break slot,
            Checkout::ConcurrencyLimited(bottleneck) => {
                return Err(HostError::ConcurrencyLimited(bottleneck).into());
            }
            Checkout::TooSoon(wait) => return Err(HostError::TooSoon(wait).into()),
            Checkout::Idle(idle) => {
                let is_reached = how.reach.includes(AddressFamily::of(idle.connection.peer().ip()));
                if !is_reached || is_outdone(outbound, mx, &idle).await {
                    outbound.pool.retire(idle);
                    continue;
                }
                match admit(outbound, mx, idle) {
                    Ok(admitted) => return Ok(admitted),
                    // Good enough for other mail once, not for this one today.
                    Err(denied) => outbound.pool.retire(denied.connection),
                }
            }
        }
    };
    // It may have waited for others that were not let in.
    how.ask(outbound, &key)?;
    let addresses = hosts::locate(outbound, config, mx, candidate).await?;
    let reached =
        addresses.into_iter().filter(|a| how.reach.includes(AddressFamily::of(a.ip()))).collect();
    SessionEntry { outbound, mx, key, addresses: reached, how }.enter(slot).await
}

/// Is it in clear, and the host has done TLS with us since? A new one will be better, or tell.
async fn is_outdone(outbound: &Outbound, mx: &AuthorizedMx, idle: &Idle) -> bool {
    match (&*idle.observed, mx.host().name()) {
        (Observed::Plain, Some(name)) => outbound.hosts.did_starttls(name).await,
        (Observed::Plain, None) | (Observed::Tls(_), _) => false,
    }
}

/// The way to a new session.
struct SessionEntry<'a> {
    outbound: &'a Outbound,
    mx: &'a AuthorizedMx,
    key: PoolKey,
    addresses: Vec<SocketAddr>,
    how: SessionOptions<'a>,
}

impl SessionEntry<'_> {
    /// Connects in the place `slot`, and judges what came of it.
    async fn enter(&self, slot: Slot) -> Result<Admitted<Idle>, SessionError> {
        let (opened, claim) = self.connect(&slot).await?;
        let Opened { connection, observed, is_resumed } = opened;
        let idle = Idle::new(connection, observed, slot).claimed(claim);
        let denied = match admit(self.outbound, self.mx, idle) {
            Ok(admitted) => return self.known(admitted).await,
            Err(denied) => denied,
        };
        // EHLO was said anew; only what the handshake showed is of another time.
        if !is_resumed || denied.failure == TlsFailure::RequireTlsNotOffered {
            return Err(self.shut(*denied));
        }
        // What was not good enough is what the host showed at an earlier handshake. It may have
        // renewed its certificate since.
        let Idle { connection, slot, .. } = denied.connection;
        self.outbound.connector.quit(connection);
        self.outbound.connector.forget_tls(&self.key);
        let (opened, claim) = self.connect(&slot).await?;
        let Opened { connection, observed, is_resumed: _ } = opened;
        let idle = Idle::new(connection, observed, slot).claimed(claim);
        match admit(self.outbound, self.mx, idle) {
            Ok(admitted) => self.known(admitted).await,
            Err(denied) => Err(self.shut(*denied)),
        }
    }

    /// Says who we are, where that is asked for.
    async fn known(&self, mut admitted: Admitted<Idle>) -> Result<Admitted<Idle>, SessionError> {
        let Some(login) = &self.key.endpoint.login else { return Ok(admitted) };
        match log_in(&mut admitted, login).await {
            Ok(()) => Ok(admitted),
            Err(error) => {
                self.outbound.pool.retire(admitted.into_connection());
                if let LoginFailure::Login(error) = &error {
                    let fact = DeliveryFact::of_login(&self.key.host, error);
                    fact.into_iter().for_each(DeliveryFact::tell);
                }
                Err(HostError::from(error).into())
            }
        }
    }

    /// Connects to the first of the addresses that may have one more connection.
    async fn connect(&self, slot: &Slot) -> Result<(Opened, Option<Claim>), SessionError> {
        let connector = &self.outbound.connector;
        let (addresses, claim) = self.claim().map_err(HostError::ConcurrencyLimited)?;
        let opened = connector.connect(self.mx, addresses, &self.key, self.how.starttls).await;
        let opened = opened.map_err(|failure| {
            if failure.is_throttling() {
                slot.throttled();
            }
            // Of addresses that were left out it says nothing.
            let is_whole =
                addresses.len() == self.addresses.len() && self.how.reach == Families::Any;
            match self.how.asker {
                Asker::Lane(lane) | Asker::LaneAnew(lane) if is_whole => {
                    let noted = self.outbound.pool.note_down(slot, lane, (failure, addresses));
                    noted.map_or_else(HostError::Connect, HostError::Down)
                }
                Asker::Lane(_) | Asker::LaneAnew(_) | Asker::Operator => {
                    HostError::Connect(failure)
                }
            }
        })?;
        // It may have become another one of them.
        let peer = opened.connection.peer().ip();
        let claim = match self.key.route {
            Some(_) => None,
            None => match self.outbound.pool.move_claim(claim, peer) {
                Ok(claim) => claim,
                Err(bottleneck) => {
                    connector.quit(opened.connection);
                    return Err(HostError::ConcurrencyLimited(bottleneck).into());
                }
            },
        };
        if let (Observed::Tls(_), Some(name)) = (&opened.observed, self.mx.host().name()) {
            self.outbound.hosts.note_starttls(name).await;
        }
        Ok((opened, claim))
    }

    /// The addresses that may be called, and the right to call the first. Those of routes are the
    /// operator's.
    fn claim(&self) -> Result<(&[SocketAddr], Option<Claim>), Bottleneck> {
        if self.key.route.is_some() {
            return Ok((&self.addresses, None));
        }
        let mut full = None;
        for (index, address) in self.addresses.iter().enumerate() {
            match self.outbound.pool.claim(address.ip()) {
                Ok(claim) => return Ok((self.addresses.get(index..).unwrap_or_default(), claim)),
                Err(bottleneck) => full = Some(bottleneck),
            }
        }
        match full {
            Some(bottleneck) => Err(bottleneck),
            None => Ok((&[], None)),
        }
    }

    fn shut(&self, denied: Denied<Idle>) -> SessionError {
        let Denied { connection, failure } = denied;
        let observed = Some(Arc::clone(&connection.observed));
        self.outbound.pool.retire(connection);
        SessionError { error: HostError::Tls(failure), observed }
    }
}

/// Judges what was seen by what is asked for this mail, today.
fn admit(
    outbound: &Outbound,
    mx: &AuthorizedMx,
    idle: Idle,
) -> Result<Admitted<Idle>, Box<Denied<Idle>>> {
    let observed = Arc::clone(&idle.observed);
    mx.admit(idle, &observed, &outbound.roots.now(), outbound.now()).map_err(Box::new)
}
