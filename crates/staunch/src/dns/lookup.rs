//! One question to DNS, its aliases followed, its answer kept while its TTL lasts.
//!
//! The chain of aliases is rebuilt here from the name that was asked: what an answer holds besides
//! is not believed. Whom to ask is for `servers`.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_net::{DnsError, NetError, NoRecords};
use hickory_proto::op::{DnsResponse, ResponseCode};
use hickory_proto::rr::rdata::CNAME;
use hickory_proto::rr::{Name, RData, RecordType};
use moka::future::Cache;
use smtp::{HostName, RemoteText};

use super::servers::Servers;
use super::{DnsFailure, DnsFailureKind, DnsSetupError, Freshness};

/// Ours: an answer is asked for anew after an hour, even if its TTL is longer.
const TTL_MAX: Duration = Duration::from_secs(60 * 60);
/// RFC 2308 §5 allows hours; ours is short, because "no policy" and "no host" matter.
pub(super) const TTL_NEGATIVE_MAX: Duration = Duration::from_secs(5 * 60);
/// For a denial that names no time (RFC 2308 §5 would not keep it).
const TTL_NEGATIVE_UNSAID: Duration = Duration::from_secs(60);
/// Memory for kept answers, in bytes.
const CACHE_BYTES: u64 = 16 * 1024 * 1024;
/// Aliases followed. Ours; unbound follows 11.
const ALIASES_MAX: usize = 16;

/// The servers and what they said lately.
pub(super) struct Lookup {
    servers: Servers,
    cache: Cache<(HostName, RecordType), Arc<Answer>>,
    /// For messages.
    named: Arc<str>,
    /// For one question, with all retries, of all servers.
    limit: Duration,
}

/// A conclusive answer.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) found: Found,
    /// Where the aliases end, unless that is no host name.
    pub(super) canonical: Option<HostName>,
    /// How long it counts from when it was given.
    ttl: Duration,
    until: tokio::time::Instant,
}

/// What is there.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Found {
    /// Records of the type asked for; at least one.
    Records(Box<[RData]>),
    /// The name exists, records of this type do not.
    NoData,
    /// The name does not exist.
    NoDomain,
}

impl Answer {
    pub(super) fn new(found: Found, name: &Name, ttl: Duration) -> Self {
        let canonical = HostName::from_labels(name.iter()).ok();
        Self { found, canonical, ttl, until: tokio::time::Instant::now() + ttl }
    }

    pub(super) fn records(&self) -> &[RData] {
        match &self.found {
            Found::Records(records) => records,
            Found::NoData | Found::NoDomain => &[],
        }
    }

    /// What is left of its TTL.
    pub(super) fn remaining(&self) -> Duration {
        self.until.saturating_duration_since(tokio::time::Instant::now())
    }

    /// Bytes held, about.
    fn weight(&self) -> u32 {
        let of = |data: &RData| {
            let RData::TXT(txt) = data else { return 0 };
            txt.txt_data.iter().map(|string| string.len() + 16).sum()
        };
        let records: usize = self.records().iter().map(|r| size_of::<RData>() + of(r)).sum();
        u32::try_from(records + 512).unwrap_or(u32::MAX)
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
    let (config, _) = hickory_resolver::system_conf::read_system_conf()
        .map_err(|error| DnsSetupError::System(error.to_string()))?;
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
        let answer = Arc::new(asked.map_err(|trouble| self.failure(name, kind, &trouble))?);
        self.cache.insert(key, Arc::clone(&answer)).await;
        Ok(answer)
    }

    /// Asks until an answer does not point elsewhere.
    async fn chase(&self, name: &HostName, kind: RecordType) -> Result<Answer, Trouble> {
        let mut name = Name::from_labels(name.labels().map(str::as_bytes))
            .map_err(|error| Trouble::Answer(error.to_string()))?;
        let mut ttl = TTL_MAX;
        for _ in 0..ALIASES_MAX {
            let asked = Box::pin(self.servers.ask(&name, kind));
            let said = tokio::time::timeout(self.limit, asked).await;
            let step = said.unwrap_or(Err(Trouble::Net(NetError::Timeout)))?;
            ttl = ttl.min(step.ttl);
            match step.found {
                Some(found) => return Ok(Answer::new(found, &step.name, ttl)),
                None => name = step.name,
            }
        }
        Err(Trouble::Answer("the aliases do not end".to_owned()))
    }

    /// Each server as it stands.
    pub(super) fn servers(&self) -> &Servers {
        &self.servers
    }

    fn failure(&self, name: &HostName, kind: RecordType, trouble: &Trouble) -> DnsFailure {
        DnsFailure {
            query: format!("{kind} {name}"),
            kind: trouble.kind(),
            text: RemoteText::new(&trouble.to_string()),
            servers: Arc::clone(&self.named),
        }
    }
}

/// Why there is no conclusive answer.
#[derive(Clone, Debug)]
pub(super) enum Trouble {
    /// There was no answer.
    Net(NetError),
    /// A response code that says neither yes nor no.
    Code(ResponseCode),
    /// There was an answer, but it says nothing.
    Answer(String),
    /// What several servers said, one after the other.
    All(DnsFailureKind, String),
}

impl Trouble {
    pub(super) fn of(error: NetError) -> Self {
        if let NetError::Dns(DnsError::ResponseCode(code)) = error {
            Self::Code(code)
        } else {
            Self::Net(error)
        }
    }

    /// What it comes to that each of these servers had trouble.
    pub(super) fn of_all(mut told: Vec<(String, Self)>) -> Self {
        if told.len() == 1
            && let Some((_, trouble)) = told.pop()
        {
            return trouble;
        }
        let kinds = told.iter().map(|(_, trouble)| trouble.kind());
        let kind = kinds.max_by_key(|kind| weight(*kind));
        let said: Vec<String> =
            told.iter().map(|(server, trouble)| format!("{server}: {trouble}")).collect();
        Self::All(kind.unwrap_or(DnsFailureKind::Unreachable), said.join("; "))
    }

    /// The same where there are servers that answer other questions.
    pub(super) fn of_this_name(self) -> Self {
        Self::All(DnsFailureKind::Other, self.to_string())
    }

    pub(super) fn kind(&self) -> DnsFailureKind {
        match self {
            Self::Net(NetError::Timeout) => DnsFailureKind::Timeout,
            Self::Net(NetError::Io(_) | NetError::NoConnections) => DnsFailureKind::Unreachable,
            Self::Net(NetError::Dns(DnsError::DnssecBogus)) => DnsFailureKind::Bogus,
            Self::Code(ResponseCode::ServFail) => DnsFailureKind::ServFail,
            Self::Code(ResponseCode::Refused) => DnsFailureKind::Refused,
            Self::Net(_) | Self::Code(_) | Self::Answer(_) => DnsFailureKind::Other,
            Self::All(kind, _) => *kind,
        }
    }
}

/// Which of several kinds is told: whoever spoke knows more than who was silent.
fn weight(kind: DnsFailureKind) -> u8 {
    match kind {
        DnsFailureKind::Bogus => 5,
        DnsFailureKind::ServFail => 4,
        DnsFailureKind::Other => 3,
        DnsFailureKind::Refused => 2,
        DnsFailureKind::Timeout => 1,
        DnsFailureKind::Unreachable => 0,
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Net(error) => error.fmt(f),
            Self::Code(code) => write!(f, "response code {code}"),
            Self::Answer(text) | Self::All(_, text) => f.write_str(text),
        }
    }
}

/// What a negative answer denies. RFC 2308 §2.2: one with name servers but no SOA is a referral,
/// which a server that recurses for us has no business to give.
fn denial(none: &NoRecords) -> Result<Found, Trouble> {
    if none.response_code == ResponseCode::NXDomain {
        return Ok(Found::NoDomain);
    }
    if none.response_code != ResponseCode::NoError {
        return Err(Trouble::Code(none.response_code));
    }
    if none.soa.is_none() && none.ns.is_some() {
        return Err(Trouble::Answer("a referral instead of an answer".to_owned()));
    }
    Ok(Found::NoData)
}

fn negative_ttl(said: Option<u32>, chain: Duration) -> Duration {
    said.map_or(TTL_NEGATIVE_UNSAID, |ttl| Duration::from_secs(ttl.into()))
        .min(TTL_NEGATIVE_MAX)
        .min(chain)
}

/// What one response brings.
#[derive(Debug)]
pub(super) struct Step {
    /// None: the aliases lead to `name`, and the response says nothing about it.
    pub(super) found: Option<Found>,
    name: Name,
    ttl: Duration,
}

impl Step {
    /// Reads what a server said to a question.
    pub(super) fn of(
        said: Result<DnsResponse, NetError>,
        asked: &Name,
        kind: RecordType,
    ) -> Result<Self, Trouble> {
        match said {
            Ok(response) => Self::read(&response, asked, kind),
            Err(NetError::Dns(DnsError::NoRecordsFound(none))) => {
                let (found, ttl) = (denial(&none)?, negative_ttl(none.negative_ttl, TTL_MAX));
                Ok(Self { found: Some(found), name: asked.clone(), ttl })
            }
            Err(error) => Err(Trouble::of(error)),
        }
    }

    fn read(response: &DnsResponse, asked: &Name, kind: RecordType) -> Result<Self, Trouble> {
        if !matches!(response.response_code, ResponseCode::NoError | ResponseCode::NXDomain) {
            return Err(Trouble::Code(response.response_code));
        }
        let mut name = asked.clone();
        let mut ttl = TTL_MAX;
        for _ in 0..ALIASES_MAX {
            let records: Vec<_> = response
                .answers
                .iter()
                .filter(|record| record.name == name && record.data.record_type() == kind)
                .collect();
            if !records.is_empty() {
                let seconds = records.iter().map(|record| record.ttl).min().unwrap_or(0);
                let found = Found::Records(records.iter().map(|r| r.data.clone()).collect());
                let ttl = ttl.min(Duration::from_secs(seconds.into()));
                return Ok(Self { found: Some(found), name, ttl });
            }
            let alias = response.answers.iter().find_map(|record| {
                let RData::CNAME(CNAME(target)) = &record.data else { return None };
                (record.name == name).then_some((target, record.ttl))
            });
            let Some((next, seconds)) = alias else {
                return Self::end(response, asked, name, ttl);
            };
            name = next.clone();
            ttl = ttl.min(Duration::from_secs(seconds.into()));
        }
        Err(Trouble::Answer("the aliases do not end".to_owned()))
    }

    /// The answer section says no more about `name`.
    fn end(
        response: &DnsResponse,
        asked: &Name,
        name: Name,
        ttl: Duration,
    ) -> Result<Self, Trouble> {
        // RFC 6604 §3: the code is about the end of the chain.
        if response.response_code == ResponseCode::NXDomain {
            let ttl = negative_ttl(response.negative_ttl(), ttl);
            return Ok(Self { found: Some(Found::NoDomain), name, ttl });
        }
        if name == *asked {
            return Err(Trouble::Answer("the answer is about something else".to_owned()));
        }
        Ok(Self { found: None, name, ttl })
    }
}

impl fmt::Debug for Lookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lookup").field("servers", &self.named).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::op::{Message, OpCode, Query};
    use hickory_proto::rr::Record;
    use hickory_proto::rr::rdata::{A, MX};

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    fn alias(from: &str, to: &str, ttl: u32) -> Record {
        Record::from_rdata(name(from), ttl, RData::CNAME(CNAME(name(to))))
    }

    fn mx(owner: &str, ttl: u32) -> Record {
        Record::from_rdata(name(owner), ttl, RData::MX(MX::new(1, name("mx.test."))))
    }

    fn a(owner: &str) -> Record {
        Record::from_rdata(name(owner), 60, RData::A(A::new(8, 8, 8, 8)))
    }

    /// What the answer to "MX a.test." with these records brings, in words.
    fn read(code: ResponseCode, answers: Vec<Record>) -> String {
        let mut message = Message::response(1, OpCode::Query);
        message.add_query(Query::query(name("a.test."), RecordType::MX));
        message.metadata.response_code = code;
        message.add_answers(answers);
        let response = DnsResponse::from_message(message).unwrap();
        match Step::read(&response, &name("a.test."), RecordType::MX) {
            Ok(Step { found: None, name, ttl }) => format!("ask {name} {ttl:?}"),
            Ok(Step { found: Some(Found::Records(records)), name, ttl }) => {
                format!("{} at {name} {ttl:?}", records.len())
            }
            Ok(Step { found: Some(found), name, .. }) => format!("{found:?} at {name}"),
            Err(trouble) => trouble.to_string(),
        }
    }

    #[test]
    fn an_answer_is_believed_only_along_the_chain_from_the_name_asked() {
        use ResponseCode::{NXDomain, NoError};
        let loops = || vec![alias("a.test.", "b.test.", 60), alias("b.test.", "a.test.", 60)];
        let unending: Vec<_> = (0..20)
            .map(|i| {
                let from = if i == 0 { "a.test.".to_owned() } else { format!("a{i}.test.") };
                alias(&from, &format!("a{}.test.", i + 1), 60)
            })
            .collect();
        let cases = [
            (NoError, vec![mx("a.test.", 60), mx("A.TEST.", 30)], "2 at a.test. 30s"),
            (NoError, vec![mx("a.test.", 4_000_000)], "1 at a.test. 3600s"),
            (NoError, vec![mx("b.test.", 60), alias("a.test.", "b.test.", 5)], "1 at b.test. 5s"),
            (NoError, vec![alias("a.test.", "b.test.", 5)], "ask b.test. 5s"),
            (NXDomain, vec![alias("a.test.", "b.test.", 5)], "NoDomain at b.test."),
            (NoError, vec![mx("evil.test.", 60)], "the answer is about something else"),
            (NoError, vec![a("a.test.")], "the answer is about something else"),
            (NoError, loops(), "the aliases do not end"),
            (NoError, unending, "the aliases do not end"),
            (ResponseCode::YXDomain, vec![a("a.test.")], "response code Name should not exist"),
        ];
        for (code, answers, want) in cases {
            assert_eq!(read(code, answers.clone()), want, "{code} {answers:?}");
        }
    }

    #[test]
    fn a_denial_is_kept_as_long_as_it_says_but_not_long() {
        let cases = [
            (Some(0), TTL_MAX, 0),
            (Some(60), TTL_MAX, 60),
            (Some(86_400), TTL_MAX, 300),
            (None, TTL_MAX, 60),
            (Some(60), Duration::from_secs(5), 5),
        ];
        for (said, chain, want) in cases {
            assert_eq!(negative_ttl(said, chain).as_secs(), want, "{said:?} {chain:?}");
        }
    }

    #[test]
    fn a_referral_or_an_odd_code_denies_nothing() {
        let none = |code| NoRecords::new(Query::query(name("a.test."), RecordType::MX), code);
        assert!(matches!(denial(&none(ResponseCode::NoError)), Ok(Found::NoData)));
        assert!(matches!(denial(&none(ResponseCode::NXDomain)), Ok(Found::NoDomain)));
        assert!(denial(&none(ResponseCode::YXRRSet)).is_err());
        let mut referral = none(ResponseCode::NoError);
        referral.ns = Some([].into());
        assert!(denial(&referral).is_err());
    }
}
