//! One question to DNS, its aliases followed, its answer kept while its TTL lasts.
//!
//! The chain of aliases is rebuilt here from the name that was asked: what an answer holds besides
//! is not believed. Whom to ask is for `servers`.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_net::NetError;
use hickory_proto::rr::{Name, RData, RecordType};
use moka::future::Cache;
use smtp::{HostName, RemoteText};

use super::facts::DnsFact;
use super::failure::{DnsFailure, DnsSetupError, Freshness};
use super::response::{ALIASES_MAX, FoundRecords, TTL_MAX};
use super::servers::Servers;
use super::trouble::LookUpError;

/// Memory for kept answers, in bytes.
const CACHE_BYTES: u64 = 16 * 1024 * 1024;

/// The servers and what they said lately.
pub(super) struct Lookup {
    servers: Servers,
    cache: Cache<(HostName, RecordType), Arc<Answer>>,
    /// The servers' addresses, with commas, as failures name them.
    named: Arc<str>,
    /// For one question, with all retries, of all servers.
    limit: Duration,
}

/// An answer that counts: records, or that there are none.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) found: FoundRecords,
    /// Where the aliases end, unless that is no host name.
    pub(super) canonical: Option<HostName>,
    /// How long it counts from when it was given.
    ttl: Duration,
    until: tokio::time::Instant,
}

impl Answer {
    pub(super) fn new(found: FoundRecords, name: &Name, ttl: Duration) -> Self {
        let canonical = HostName::from_labels(name.iter()).ok();
        Self { found, canonical, ttl, until: tokio::time::Instant::now() + ttl }
    }

    pub(super) fn records(&self) -> &[RData] {
        match &self.found {
            FoundRecords::Records(records) => records,
            FoundRecords::NoData | FoundRecords::NoDomain => &[],
        }
    }

    /// What is left of its TTL.
    pub(super) fn remaining(&self) -> Duration {
        self.until.saturating_duration_since(tokio::time::Instant::now())
    }

    /// Memory that the cache counts for it: bytes, estimated.
    fn weight(&self) -> u32 {
        let of = |data: &RData| {
            let RData::TXT(txt) = data else { return 0 };
            txt.txt_data.iter().map(|string| string.len() + 16).sum()
        };
        let records: usize = self.records().iter().map(|r| size_of::<RData>() + of(r)).sum();
        u32::try_from(records + 512).unwrap_or(u32::MAX)
    }
}

/// For the log: the records, or that there are none.
impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.found {
            FoundRecords::NoDomain => return f.write_str("no such domain"),
            FoundRecords::NoData => return f.write_str("no such records"),
            FoundRecords::Records(_) => {}
        }
        let records: Vec<String> = self.records().iter().map(ToString::to_string).collect();
        let ttl = self.ttl.as_secs();
        write!(f, "{} (for {ttl} s)", RemoteText::new(&records.join(", ")))
    }
}

/// Each answer leaves the cache when its own TTL is over.
struct ByTtl;

impl moka::Expiry<(HostName, RecordType), Arc<Answer>> for ByTtl {
    fn expire_after_create(
        &self,
        _: &(HostName, RecordType),
        answer: &Arc<Answer>,
        _: Instant,
    ) -> Option<Duration> {
        Some(answer.ttl)
    }

    fn expire_after_update(
        &self,
        _: &(HostName, RecordType),
        answer: &Arc<Answer>,
        _: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Some(answer.ttl)
    }
}

/// The servers of `/etc/resolv.conf`; its search list is not for mail.
pub(super) fn system_servers() -> Result<Vec<SocketAddr>, DnsSetupError> {
    let (config, _) = hickory_resolver::system_conf::read_system_conf().map_err(|error| {
        DnsSetupError::System(format!(
            "is empty, and /etc/resolv.conf is of no use ({error}): write the address of a \
             resolver, as [\"127.0.0.1\"]"
        ))
    })?;
    Ok(config.name_servers.iter().map(|server| SocketAddr::new(server.ip, 53)).collect())
}

impl Lookup {
    /// Would `other` ask the same servers, with the same patience?
    pub(super) fn asks_as(&self, other: &Self) -> bool {
        self.named == other.named && self.limit == other.limit
    }

    /// Asks `servers`, each try for at most `timeout`.
    pub(super) fn new(servers: &[SocketAddr], timeout: Duration) -> Result<Self, DnsSetupError> {
        let names: Vec<String> = servers.iter().map(SocketAddr::to_string).collect();
        Ok(Self {
            servers: Servers::new(servers, timeout)?,
            cache: Cache::builder()
                .max_capacity(CACHE_BYTES)
                .weigher(|_, answer: &Arc<Answer>| answer.weight())
                .expire_after(ByTtl)
                .build(),
            named: names.join(", ").into(),
            limit: timeout.saturating_mul(3),
        })
    }

    /// The records of type `kind` at `name`, or that there are none.
    pub(super) async fn ask(
        &self,
        name: &HostName,
        kind: RecordType,
        freshness: Freshness,
    ) -> Result<Arc<Answer>, DnsFailure> {
        let key = (name.clone(), kind);
        if freshness == Freshness::Cached
            && let Some(answer) = self.cache.get(&key).await
            && !answer.remaining().is_zero()
        {
            return Ok(answer);
        }
        let asked = Box::pin(self.chase(name, kind)).await;
        let asked = asked.map_err(|trouble| self.failure(name, kind, &trouble));
        let said: &dyn fmt::Display = match &asked {
            Ok(answer) => answer,
            Err(failure) => failure,
        };
        DnsFact::Answered { name, kind, answer: said }.tell();
        let answer = Arc::new(asked?);
        self.cache.insert(key, Arc::clone(&answer)).await;
        Ok(answer)
    }

    /// Asks until an answer does not point elsewhere.
    async fn chase(&self, name: &HostName, kind: RecordType) -> Result<Answer, LookUpError> {
        let mut name = Name::from_labels(name.labels().map(str::as_bytes))
            .map_err(|error| LookUpError::Answer(error.to_string()))?;
        let mut ttl = TTL_MAX;
        for _ in 0..ALIASES_MAX {
            let asked = Box::pin(self.servers.ask(&name, kind));
            let said = tokio::time::timeout(self.limit, asked).await;
            let step = said.unwrap_or(Err(LookUpError::Net(NetError::Timeout)))?;
            ttl = ttl.min(step.ttl);
            match step.found {
                Some(found) => return Ok(Answer::new(found, &step.name, ttl)),
                None => name = step.name,
            }
        }
        Err(LookUpError::Answer("the aliases do not end".to_owned()))
    }

    /// Each server as it stands.
    pub(super) fn servers(&self) -> &Servers {
        &self.servers
    }

    fn failure(&self, name: &HostName, kind: RecordType, trouble: &LookUpError) -> DnsFailure {
        DnsFailure {
            query: format!("{kind} {name}"),
            kind: trouble.kind(),
            text: RemoteText::new(&trouble.to_string()),
            servers: Arc::clone(&self.named),
        }
    }
}

impl fmt::Debug for Lookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lookup").field("servers", &self.named).finish_non_exhaustive()
    }
}
