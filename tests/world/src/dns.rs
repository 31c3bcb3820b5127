//! An authoritative and, for the daemon, "recursive" DNS server over a store that tests change
//! while it runs. Every name has its own behaviour: it can answer, deny, fail or say nothing.

use std::collections::{BTreeMap, HashMap};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_proto::op::{Edns, Header, HeaderCounts, MessageType, Metadata, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, MX, SOA, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use hickory_server::Server;
use hickory_server::net::runtime::Time;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use tokio::net::{TcpListener, UdpSocket};

use crate::log::{Log, TimedOut, lock};

/// What the server does with a query.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// These records.
    Records(Vec<RData>),
    /// The name exists, this type does not.
    NoData,
    /// The name does not exist.
    NxDomain,
    /// The server failed.
    ServFail,
    /// The server does not want to.
    Refused,
    /// No answer at all: the client runs into its time limit.
    Drop,
}

/// A query as it arrived: the lower-case name without its last dot, and the type.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Query {
    /// The name asked for.
    pub name: String,
    /// The type asked for.
    pub kind: RecordType,
}

/// The DNS of one world.
#[derive(Clone)]
pub struct Dns {
    store: Arc<Store>,
    own: Arc<Own>,
    address: SocketAddr,
    /// Stops with its last holder.
    _server: Arc<Server<Handler>>,
}

impl std::fmt::Debug for Dns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dns").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Dns {
    /// Serves UDP and TCP on one ephemeral loopback port.
    pub(crate) async fn start() -> Self {
        Self::serve(Arc::default()).await
    }

    /// A further server that knows the same names; outages and queries are its own.
    pub async fn beside(&self) -> Self {
        Self::serve(Arc::clone(&self.store)).await
    }

    async fn serve(store: Arc<Store>) -> Self {
        let (udp, tcp) = bind_both().await;
        let address = udp.local_addr().expect("bound");
        let own = Arc::<Own>::default();
        let mut server = Server::new(Handler(Arc::clone(&store), Arc::clone(&own)));
        server.register_socket(udp);
        server.register_listener(tcp, Duration::from_secs(60), 16);
        Self { store, own, address, _server: Arc::new(server) }
    }

    /// Where to ask: for `dns.servers`.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sets what the answer for this name and type is from now on.
    pub fn set(&self, name: &str, kind: RecordType, answer: Answer) {
        lock(&self.store.names).entry(key(name)).or_default().insert(kind, answer);
    }

    /// Forgets name and type, so that the rest of the store decides: no such name, or no such type.
    pub fn remove(&self, name: &str, kind: RecordType) {
        let mut names = lock(&self.store.names);
        if let Some(kinds) = names.get_mut(&key(name)) {
            kinds.remove(&kind);
            if kinds.is_empty() {
                names.remove(&key(name));
            }
        }
    }

    /// While set, every query gets this answer: the resolver is in trouble.
    pub fn outage(&self, answer: Option<Answer>) {
        *lock(&self.own.outage) = answer;
    }

    /// While set, this server gives this answer for the name, whatever the others say: it is in
    /// trouble with it.
    pub fn here_only(&self, name: &str, answer: Option<Answer>) {
        let mut names = lock(&self.own.names);
        match answer {
            Some(answer) => names.insert(key(name), answer),
            None => names.remove(&key(name)),
        };
    }

    /// The time to live of every answer, 0 at first, so that each change is seen at once.
    pub fn set_ttl(&self, seconds: u32) {
        self.store.ttl.store(seconds, Ordering::Relaxed);
    }

    /// An address record.
    pub fn a(&self, name: &str, address: Ipv4Addr) {
        self.set(name, RecordType::A, Answer::Records(vec![RData::A(A(address))]));
    }

    /// Several address records.
    pub fn addresses(&self, name: &str, addresses: &[Ipv4Addr]) {
        let records = addresses.iter().map(|ip| RData::A(A(*ip))).collect();
        self.set(name, RecordType::A, Answer::Records(records));
    }

    /// An IPv6 address record.
    pub fn aaaa(&self, name: &str, address: Ipv6Addr) {
        self.set(name, RecordType::AAAA, Answer::Records(vec![RData::AAAA(AAAA(address))]));
    }

    /// The whole MX set of a domain.
    pub fn mx(&self, domain: &str, hosts: &[(u16, &str)]) {
        let records = hosts
            .iter()
            .map(|(preference, host)| RData::MX(MX::new(*preference, absolute(host))))
            .collect();
        self.set(domain, RecordType::MX, Answer::Records(records));
    }

    /// An alias.
    pub fn cname(&self, name: &str, target: &str) {
        let record = RData::CNAME(CNAME(absolute(target)));
        self.set(name, RecordType::CNAME, Answer::Records(vec![record]));
    }

    /// TXT records, each given by its character-strings.
    pub fn txt(&self, name: &str, records: &[&[&[u8]]]) {
        let records =
            records.iter().map(|strings| RData::TXT(TXT::from_bytes(strings.to_vec()))).collect();
        self.set(name, RecordType::TXT, Answer::Records(records));
    }

    /// Every query so far.
    pub fn queries(&self) -> &Log<Query> {
        &self.own.queries
    }

    /// How often this was asked.
    pub fn asked(&self, name: &str, kind: RecordType) -> usize {
        let query = Query { name: key(name), kind };
        self.own.queries.read(|all| all.iter().filter(|one| **one == query).count())
    }

    /// Waits until this was asked at least `times` times.
    pub async fn wait_asked(&self, name: &str, kind: RecordType, times: usize) {
        let query = Query { name: key(name), kind };
        let enough = |all: &[Query]| {
            (all.iter().filter(|one| **one == query).count() >= times).then_some(())
        };
        if let Err(TimedOut) = self.own.queries.until(enough).await {
            panic!("{name} {kind} was asked {} times, not {times}", self.asked(name, kind));
        }
    }
}

/// The same port for UDP and TCP.
pub(crate) async fn bind_both() -> (UdpSocket, TcpListener) {
    // Somebody else may hold the TCP port of our UDP port; fifty times in a row nobody does.
    for _ in 0..50 {
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a UDP port");
        let address = udp.local_addr().expect("bound");
        if let Ok(tcp) = TcpListener::bind(address).await {
            return (udp, tcp);
        }
    }
    panic!("no port is free for both UDP and TCP");
}

#[derive(Debug, Default)]
struct Store {
    names: Mutex<BTreeMap<String, HashMap<RecordType, Answer>>>,
    ttl: AtomicU32,
}

/// What is one server's alone.
#[derive(Debug, Default)]
struct Own {
    outage: Mutex<Option<Answer>>,
    names: Mutex<HashMap<String, Answer>>,
    queries: Log<Query>,
}

impl Own {
    fn trouble(&self, name: &str) -> Option<Answer> {
        lock(&self.outage).clone().or_else(|| lock(&self.names).get(name).cloned())
    }
}

/// Longest alias chain followed.
const ALIASES_MAX: usize = 16;

impl Store {
    /// The alias chain that was followed, and what stands at its end.
    fn answer(&self, name: &str, kind: RecordType) -> (Vec<Record>, Answer) {
        let names = lock(&self.names);
        let mut chain = Vec::new();
        let mut at = name.to_owned();
        for _ in 0..ALIASES_MAX {
            let kinds = names.get(&at);
            if let Some(answer) = kinds.and_then(|kinds| kinds.get(&kind)) {
                return (chain, answer.clone());
            }
            let alias = kinds.and_then(|kinds| kinds.get(&RecordType::CNAME));
            let Some(Answer::Records(alias)) = alias else {
                let below = format!(".{at}");
                let exists = kinds.is_some() || names.keys().any(|name| name.ends_with(&below));
                return (chain, if exists { Answer::NoData } else { Answer::NxDomain });
            };
            chain.extend(alias.iter().map(|data| self.record(&at, data.clone())));
            let Some(RData::CNAME(target)) = alias.first() else { panic!("an alias is a CNAME") };
            at = key(&target.0.to_ascii());
        }
        (chain, Answer::ServFail)
    }

    fn record(&self, name: &str, data: RData) -> Record {
        Record::from_rdata(absolute(name), self.ttl.load(Ordering::Relaxed), data)
    }

    /// The SOA record that goes with a denial (RFC 2308 §3). Each top label is a zone here.
    fn soa(&self, name: &str) -> Record {
        let zone = name.rsplit('.').next().unwrap_or(name);
        let ttl = self.ttl.load(Ordering::Relaxed);
        let soa =
            SOA::new(absolute("ns.world.test"), absolute("root.world.test"), 1, 60, 60, 60, ttl);
        self.record(zone, RData::SOA(soa))
    }
}

struct Handler(Arc<Store>, Arc<Own>);

#[async_trait::async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut reply: R,
    ) -> ResponseInfo {
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.recursion_available = true;
        metadata.authoritative = true;
        let Ok(info) = request.request_info() else {
            metadata.response_code = ResponseCode::FormErr;
            return Header { metadata, counts: HeaderCounts::default() }.into();
        };
        // As it was asked: shown as text it would have U-labels.
        let name = key(&info.query.name().to_ascii());
        let kind = info.query.query_type();
        self.1.queries.push(Query { name: name.clone(), kind });

        let trouble = self.1.trouble(&name).map(|answer| (Vec::new(), answer));
        let (mut records, answer) = trouble.unwrap_or_else(|| self.0.answer(&name, kind));
        let last = records.last().and_then(|record| match &record.data {
            RData::CNAME(target) => Some(key(&target.0.to_ascii())),
            _ => None,
        });
        let owner = last.unwrap_or(name);
        let mut denial = Vec::new();
        match answer {
            Answer::Records(data) => {
                records.extend(data.into_iter().map(|data| self.0.record(&owner, data)));
            }
            Answer::NoData => denial.push(self.0.soa(&owner)),
            Answer::NxDomain => {
                metadata.response_code = ResponseCode::NXDomain;
                denial.push(self.0.soa(&owner));
            }
            Answer::ServFail => metadata.response_code = ResponseCode::ServFail,
            Answer::Refused => metadata.response_code = ResponseCode::Refused,
            Answer::Drop => return Header { metadata, counts: HeaderCounts::default() }.into(),
        }

        let mut edns = Edns::new();
        edns.set_max_payload(1232);
        let mut builder = MessageResponseBuilder::from_message_request(request);
        if request.edns.is_some() {
            builder.edns(&edns);
        }
        let response = builder.build(metadata, records.iter(), [], denial.iter(), []);
        match reply.send_response(response).await {
            Ok(info) => info,
            Err(_) => Header {
                metadata: Metadata::new(0, MessageType::Response, request.metadata.op_code),
                counts: HeaderCounts::default(),
            }
            .into(),
        }
    }
}

/// How names are kept: lower case, without the last dot.
fn key(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

/// The name with its last dot; `.` is the root.
fn absolute(name: &str) -> Name {
    let mut name = Name::from_ascii(name).unwrap_or_else(|error| panic!("{name}: {error}"));
    name.set_fqdn(true);
    name
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::{Message, Query as Question};
    use hickory_proto::serialize::binary::{BinDecodable, BinEncodable};

    use super::*;

    async fn ask(dns: &Dns, name: &str, kind: RecordType) -> Option<Message> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let mut message = Message::query();
        message.add_query(Question::query(absolute(name), kind));
        socket.send_to(&message.to_bytes().unwrap(), dns.address()).await.unwrap();
        let mut buffer = [0; 4096];
        let wait = socket.recv(&mut buffer);
        let length = tokio::time::timeout(Duration::from_millis(300), wait).await.ok()?.unwrap();
        Some(Message::from_bytes(&buffer[..length]).unwrap())
    }

    #[tokio::test]
    async fn each_name_has_its_own_behaviour() {
        let dns = Dns::start().await;
        dns.mx("a.test", &[(10, "mx.a.test"), (20, "mx.b.test")]);
        dns.a("mx.a.test", Ipv4Addr::LOCALHOST);
        dns.txt("_mta-sts.a.test", &[&[b"v=STSv1; ", b"id=1"]]);
        dns.cname("alias.test", "mx.a.test");
        dns.set("broken.test", RecordType::MX, Answer::ServFail);
        dns.set("silent.test", RecordType::MX, Answer::Drop);
        dns.set("shy.test", RecordType::MX, Answer::Refused);

        let cases = [
            ("A.test", RecordType::MX, ResponseCode::NoError, 2),
            ("_mta-sts.a.test", RecordType::TXT, ResponseCode::NoError, 1),
            ("alias.test", RecordType::A, ResponseCode::NoError, 2),
            ("mx.a.test", RecordType::AAAA, ResponseCode::NoError, 0),
            ("nothing.test", RecordType::MX, ResponseCode::NXDomain, 0),
            ("broken.test", RecordType::MX, ResponseCode::ServFail, 0),
            ("shy.test", RecordType::MX, ResponseCode::Refused, 0),
        ];
        for (name, kind, code, count) in cases {
            let answer = ask(&dns, name, kind).await.unwrap();
            assert_eq!(answer.metadata.response_code, code, "{name}");
            assert_eq!(answer.answers.len(), count, "{name}");
        }
        assert!(ask(&dns, "silent.test", RecordType::MX).await.is_none());
        assert_eq!(dns.asked("a.test", RecordType::MX), 1);

        dns.outage(Some(Answer::ServFail));
        let answer = ask(&dns, "a.test", RecordType::MX).await.unwrap();
        assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    }
}
