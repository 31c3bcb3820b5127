//! Which name server is asked, and what is believed?
//!
//! Servers are asked in the order in which they are written. The next one is asked when the one
//! before says that it cannot tell, or has said nothing for [`HEAD_START`]. The first answer that
//! settles the question ends it; an error is the outcome only when no server is left to ask, or one
//! broken server would make all mail wait, and a policy look unknowable that the next one knows.
//!
//! Whoever errs or is late is asked a control question. If that goes wrong too, it is the server
//! and not the name: it is left out for a while. The last one never is.
//!
//! hickory does the transport: UDP, TCP, EDNS, request ids and ports.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use hickory_net::runtime::TokioRuntimeProvider;
use hickory_net::xfer::{DnsHandle as _, FirstAnswer as _};
use hickory_net::{DnsError, NetError};
use hickory_proto::op::{DnsRequest, DnsRequestOptions, DnsResponse, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverOpts};
use hickory_resolver::{NameServerPool, PoolContext, TlsConfig};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::response::ResponseStep;
use super::standing::{ServerVerdict, StandingState, Standings};
use super::trouble::LookUpError;
use super::{DnsFailureKind, DnsSetupError};
use crate::dns::facts::DnsFact;
use crate::lock::lock;

/// How long a server may be silent before the next one is asked as well. Our choice: what a
/// recursion takes that is not cached, more often than not.
const HEAD_START: Duration = Duration::from_millis(250);
/// For the control question. Our choice: the root's name servers are in the cache of every
/// resolver.
const CONTROL_LIMIT: Duration = Duration::from_secs(1);
/// Further tries after one that got no answer.
const RETRIES: usize = 1;
/// DNS flag day 2020: no fragments.
const UDP_PAYLOAD: u16 = 1232;
/// Queries at once over one TCP connection to a server.
const TCP_QUERIES_MAX: usize = 256;

type ServerPool = NameServerPool<TokioRuntimeProvider>;

/// The servers that are asked.
#[derive(Debug)]
pub(super) struct Servers {
    shared: Arc<ServersShared>,
    /// Control questions that nobody waits for; they end with this.
    examinations: Mutex<JoinSet<()>>,
}

#[derive(Debug)]
struct ServersShared {
    all: Box<[Server]>,
    standings: Mutex<Standings>,
}

/// What is known of one server.
#[derive(Clone, Debug)]
pub(crate) struct ServerState {
    /// Address and port that are asked.
    pub(crate) address: SocketAddr,
    /// As the control questions of late have it.
    pub(crate) state: StandingState,
    /// What it said to the control question, if that went wrong.
    pub(crate) fault: Option<Arc<str>>,
    /// Is it asked with EDNS (RFC 6891)?
    pub(crate) edns: bool,
}

impl Servers {
    /// Asks `servers`, each try for at most `limit`.
    pub(super) fn new(servers: &[SocketAddr], limit: Duration) -> Result<Self, DnsSetupError> {
        // Off this machine, somebody may answer in the server's name: letters in random case are
        // what he has to guess besides port and id (draft-vixie-dnsext-dns0x20).
        let case =
            |server: &SocketAddr| if server.ip().is_loopback() { Case::Kept } else { Case::Random };
        Self::with_case(servers, limit, case)
    }

    fn with_case(
        servers: &[SocketAddr],
        limit: Duration,
        case: impl Fn(&SocketAddr) -> Case,
    ) -> Result<Self, DnsSetupError> {
        let mut options = ResolverOpts::default();
        options.timeout = limit;
        options.max_active_requests = TCP_QUERIES_MAX;
        let tls = TlsConfig::new().map_err(|error| DnsSetupError::Setup(error.to_string()))?;
        let context = Arc::new(PoolContext::new(options, tls));
        let server = |address: &SocketAddr| Server::new(*address, &context, limit, case(address));
        let standings = Mutex::new(Standings::of(servers.len()));
        let shared =
            Arc::new(ServersShared { all: servers.iter().map(server).collect(), standings });
        Ok(Self { shared, examinations: Mutex::default() })
    }

    /// What the servers say of `name`.
    ///
    /// # Errors
    ///
    /// What each of them said when none could tell.
    pub(super) async fn ask(
        &self,
        name: &Name,
        kind: RecordType,
    ) -> Result<ResponseStep, LookUpError> {
        let query = Query::query(name.clone(), kind);
        let (order, to_examine) = {
            let standings = self.shared.standings();
            (standings.order(), standings.overdue(Instant::now()))
        };
        to_examine.into_iter().for_each(|number| self.examine_later(number));
        let mut waiting = order.into_iter();
        let mut running = FuturesUnordered::new();
        let (mut late, mut troubles) = (Vec::new(), Vec::new());
        let step = loop {
            // At first, after a failure, or when the one before is slow.
            if let Some(number) = waiting.next() {
                late.push(number);
                let said = Box::pin(self.shared.raw(number, &query));
                running.push(async move { (number, ResponseStep::of(said.await, name, kind)) });
            }
            tokio::select! {
                said = running.next() => match said {
                    Some((number, Ok(step))) => {
                        late.retain(|asked| *asked != number);
                        self.shared.answers(number);
                        break Some(step);
                    }
                    Some((number, Err(trouble))) => {
                        late.retain(|asked| *asked != number);
                        troubles.push((number, trouble));
                    }
                    None => break None,
                },
                () = sleep(HEAD_START), if waiting.len() > 0 => {}
            }
        };
        drop(running);
        late.into_iter().for_each(|number| self.examine_later(number));
        let Some(step) = step else { return Err(self.conclude(troubles).await) };
        troubles.into_iter().for_each(|(number, _)| self.examine_later(number));
        Ok(step)
    }

    /// What it comes to that no server could tell.
    async fn conclude(&self, troubles: Vec<(usize, LookUpError)>) -> LookUpError {
        for (number, _) in &troubles {
            self.examine_later(*number);
        }
        let address = |number| self.shared.all.get(number).map_or(String::new(), Server::to_string);
        let told = troubles.into_iter().map(|(number, trouble)| (address(number), trouble));
        let trouble = LookUpError::of_all(told.collect());
        if trouble.kind() == DnsFailureKind::Unreachable && self.shared.is_anybody_there().await {
            return trouble.of_this_name();
        }
        trouble
    }

    /// Nobody waits for it.
    fn examine_later(&self, number: usize) {
        let shared = Arc::clone(&self.shared);
        let mut running = lock(&self.examinations);
        while running.try_join_next().is_some() {}
        running.spawn(async move { shared.examine(number).await });
    }

    /// Each server as it stands.
    pub(super) fn states(&self) -> Vec<ServerState> {
        let now = Instant::now();
        let standings = self.shared.standings();
        let state = |(number, server): (usize, &Server)| ServerState {
            address: server.address,
            state: standings.state(number),
            fault: standings.fault(number),
            edns: standings.uses_edns(number, now),
        };
        self.shared.all.iter().enumerate().map(state).collect()
    }

    /// Says each server that the root's SOA record is authentic (AD, RFC 4035 §3.2.3)?
    pub(super) async fn authentic(
        &self,
        limit: Duration,
    ) -> Vec<(SocketAddr, Result<bool, LookUpError>)> {
        let query = Query::query(Name::root(), RecordType::SOA);
        let ask = async |server: &Server| {
            let mut options = server.options(Edns::With);
            options.edns_set_dnssec_ok = true;
            let said = timeout(limit, server.send(&query, &options)).await;
            match said.unwrap_or(Err(NetError::Timeout)) {
                Ok(response) => Ok(response.metadata.authentic_data),
                Err(error) if error.is_no_records_found() => Ok(false),
                Err(error) => Err(LookUpError::of(error)),
            }
        };
        let all = self.shared.all.iter().map(async |server| (server.address, ask(server).await));
        futures_util::future::join_all(all).await
    }
}

impl ServersShared {
    fn standings(&self) -> MutexGuard<'_, Standings> {
        lock(&self.standings)
    }

    /// Asked with EDNS, and without where the server does not know it (RFC 6891 §7).
    async fn raw(&self, number: usize, query: &Query) -> Result<DnsResponse, NetError> {
        let Some(server) = self.all.get(number) else { return Err(NetError::NoConnections) };
        let knows_edns = self.standings().uses_edns(number, Instant::now());
        let edns = if knows_edns { Edns::With } else { Edns::Without };
        let said = server.send(query, &server.options(edns)).await;
        if edns == Edns::Without || !said.as_ref().is_err_and(is_about_edns) {
            return said;
        }
        let again = server.send(query, &server.options(Edns::Without)).await;
        if is_answer(&again) {
            self.standings().knows_no_edns(number, Instant::now());
        }
        again
    }

    /// Is it the server, or was it the name? Not more often than makes sense.
    async fn examine(&self, number: usize) {
        if !self.standings().begin_examination(number, Instant::now()) {
            return;
        }
        let Some(server) = self.all.get(number) else { return };
        let fault = match self.control(number).await {
            Ok(()) => return self.answers(number),
            Err(error) => LookUpError::of(error).to_string(),
        };
        match self.standings().failed(number, &fault, Instant::now()) {
            ServerVerdict::TakenOut => DnsFact::ResolverOut { server, fault: &fault }.tell(),
            ServerVerdict::StillOut | ServerVerdict::Last => {}
        }
    }

    fn answers(&self, number: usize) {
        let was_out = self.standings().passed(number);
        if was_out && let Some(server) = self.all.get(number) {
            DnsFact::ResolverBack { server }.tell();
        }
    }

    /// The name servers of the root: whoever resolves anything knows them.
    async fn control(&self, number: usize) -> Result<(), NetError> {
        let query = Query::query(Name::root(), RecordType::NS);
        let said = timeout(CONTROL_LIMIT, Box::pin(self.raw(number, &query))).await;
        let said = said.unwrap_or(Err(NetError::Timeout));
        if is_answer(&said) { Ok(()) } else { said.map(drop) }
    }

    /// Does any server say anything, if only that it will not?
    async fn is_anybody_there(&self) -> bool {
        let mut asked: FuturesUnordered<_> =
            (0..self.all.len()).map(|number| self.control(number)).collect();
        while let Some(said) = asked.next().await {
            let is_silence =
                matches!(said, Err(NetError::Timeout | NetError::Io(_) | NetError::NoConnections));
            if !is_silence {
                return true;
            }
        }
        false
    }
}

struct Server {
    address: SocketAddr,
    udp: ServerPool,
    tcp: ServerPool,
    /// For one try, over UDP or TCP (`dns.timeout`).
    limit: Duration,
    case: Case,
}

/// In which case the letters of a name are sent, to be echoed so.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Case {
    /// As the caller wrote them.
    Kept,
    /// In one that nobody can know.
    Random,
}

/// Does a query have an OPT record (RFC 6891)?
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Edns {
    With,
    Without,
}

impl Server {
    fn new(address: SocketAddr, context: &Arc<PoolContext>, limit: Duration, case: Case) -> Self {
        let pool = |mut connection: ConnectionConfig| {
            connection.port = address.port();
            let config = NameServerConfig::new(address.ip(), true, vec![connection]);
            ServerPool::from_config([config], Arc::clone(context), TokioRuntimeProvider::default())
        };
        let (udp, tcp) = (pool(ConnectionConfig::udp()), pool(ConnectionConfig::tcp()));
        Self { address, udp, tcp, limit, case }
    }

    fn options(&self, edns: Edns) -> DnsRequestOptions {
        let mut options = DnsRequestOptions::default();
        options.use_edns = edns == Edns::With;
        options.edns_payload_len = UDP_PAYLOAD;
        options.recursion_desired = true;
        options.case_randomization = self.case == Case::Random;
        options
    }

    /// Over UDP; over TCP where UDP did not bring the answer but a sign of life.
    async fn send(
        &self,
        query: &Query,
        options: &DnsRequestOptions,
    ) -> Result<DnsResponse, NetError> {
        let mut said = self.over(&self.udp, query, options).await;
        for _ in 0..RETRIES {
            if !matches!(said, Err(NetError::Timeout)) {
                break;
            }
            said = self.over(&self.udp, query, options).await;
        }
        let why = match said {
            Err(NetError::Truncated) => "is truncated",
            // Longer than announced, so that its end is lost, or garbled.
            Err(NetError::Proto(_)) => "cannot be read",
            // All that the pool says when the letters came back in another case, or nothing could
            // be sent.
            Err(NetError::QueryCaseMismatch | NetError::NoConnections) => {
                return self.over(&self.tcp, query, options).await;
            }
            said => return said,
        };
        // It spoke, so it is there.
        let is_there = |error| format!("the answer over UDP {why}, and over TCP: {error}").into();
        self.over(&self.tcp, query, options)
            .await
            .map_err(|error| if let NetError::Dns(_) = error { error } else { is_there(error) })
    }

    async fn over(
        &self,
        pool: &ServerPool,
        query: &Query,
        options: &DnsRequestOptions,
    ) -> Result<DnsResponse, NetError> {
        let request = DnsRequest::from_query(query.clone(), *options);
        let answer = timeout(self.limit, pool.send(request).first_answer());
        answer.await.unwrap_or(Err(NetError::Timeout))
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("address", &self.address).finish_non_exhaustive()
    }
}

/// Records, or that there are none: either settles the question.
fn is_answer(said: &Result<DnsResponse, NetError>) -> bool {
    match said {
        Ok(_) => true,
        Err(error) => error.is_no_records_found(),
    }
}

/// RFC 6891 §7 has FORMERR; NOTIMP is seen, too; BADVERS is §6.1.3, which hickory reads as the
/// other meaning of 16.
fn is_about_edns(error: &NetError) -> bool {
    matches!(
        error,
        NetError::Dns(DnsError::ResponseCode(
            ResponseCode::FormErr
                | ResponseCode::NotImp
                | ResponseCode::BADVERS
                | ResponseCode::BADSIG
        ))
    )
}

#[cfg(test)]
mod tests;
