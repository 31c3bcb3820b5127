//! What does DNS say about a domain: its mail hosts, their addresses, its MTA-STS record?
//!
//! The guarantee: "there is none" is only ever said when a server said so. A time-out, SERVFAIL, a
//! refusal, a referral, a looping alias or an answer about something else is a [`DnsFailure`],
//! never an empty answer, because an empty answer changes where mail goes or whether it is
//! protected.
//!
//! Names are asked as they are: no search list, no hosts file (RFC 5321 §2.3.5). DNSSEC is not
//! looked at: everything counts as insecure.
//!
//! Not here: which addresses may be connected to (`addresses`), what a record means
//! (`policy::sts`).

pub(crate) mod addresses;
mod facts;
mod failure;
mod lookup;
mod response;
mod servers;
mod standing;
mod trouble;

use std::collections::HashSet;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::rr::rdata::MX;
use hickory_proto::rr::{RData, RecordType};
use policy::sts::cache::TxtAnswer;
use smtp::{HostName, RemoteText};

use crate::config::{self, IpFamily};
use crate::reloadable::Reloadable;
pub(crate) use failure::{DnsFailure, DnsFailureKind, DnsSetupError, Freshness};
use lookup::{Answer, Lookup};
use response::FoundRecords;
pub(crate) use servers::ServerState;
use servers::Servers;

/// MX records looked at. Our choice: the largest real sets have about 20.
const MX_MAX: usize = 64;
/// For one server, when a configuration is checked. Our choice: nobody waits longer for a look.
const CHECK_LIMIT: Duration = Duration::from_secs(2);
/// Addresses of one host. Our choice: more are never tried within one attempt.
const ADDRESSES_MAX: usize = 16;

/// Where a domain's mail goes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum MailHosts {
    /// Its MX records by preference, equal ones in random order (RFC 5321 §5.1), each host once,
    /// where it is preferred most; at least one.
    Mx(Vec<MxRecord>),
    /// No MX record: the name itself is the host (RFC 5321 §5.1).
    Implicit {
        /// The domain as asked.
        name: HostName,
        /// Where its aliases end, if it is an alias.
        canonical: Option<HostName>,
    },
    /// The domain says that it takes no mail (RFC 7505).
    NullMx,
    /// The name does not exist.
    NoSuchDomain,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct MxRecord {
    /// Lower is tried first.
    pub(crate) preference: u16,
    /// The host, or what stands in its place.
    pub(crate) name: MxTarget,
}

/// The host that an MX record names.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) enum MxTarget {
    /// A name whose addresses can be looked up.
    Host(HostName),
    /// An address or something else that is no host name; skipped, with this as the evidence.
    Invalid(RemoteText),
}

/// The MTA-STS record of a domain.
#[derive(Clone, Debug)]
pub(crate) struct StsRecord {
    /// What RFC 8461 §3.1 makes of it.
    pub(crate) answer: TxtAnswer,
    /// How long this may be believed without asking again; zero after a failure.
    pub(crate) ttl: Duration,
    /// Why there is no answer, if there is none.
    pub(crate) failure: Option<DnsFailure>,
}

/// The resolver: one cache for the whole daemon. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Resolver {
    lookup: Arc<Reloadable<Lookup>>,
}

/// A resolver for a changed configuration, not yet in use.
#[derive(Debug)]
pub(crate) struct NewResolver(Lookup);

fn servers(config: &config::Dns) -> Result<Vec<SocketAddr>, DnsSetupError> {
    if config.servers.is_empty() { lookup::system_servers() } else { Ok(config.servers.clone()) }
}

impl Resolver {
    /// Asks `config.servers`, or the system's if there are none.
    ///
    /// # Errors
    ///
    /// [`DnsSetupError`] when there is nobody to ask.
    pub(crate) fn new(config: &config::Dns) -> Result<Self, DnsSetupError> {
        Self::with_servers(&servers(config)?, config.timeout)
    }

    /// A resolver as `config` has it. The system's servers are looked up anew.
    ///
    /// # Errors
    ///
    /// As [`Resolver::new`].
    pub(crate) fn prepare(config: &config::Dns) -> Result<NewResolver, DnsSetupError> {
        Ok(NewResolver(Lookup::new(&servers(config)?, config.timeout)?))
    }

    /// Asks `resolver` from now on. What the one before knows is forgotten only if it asked others.
    pub(crate) fn renew(&self, NewResolver(lookup): NewResolver) {
        if !self.lookup.now().asks_as(&lookup) {
            self.lookup.replace(lookup);
        }
    }

    /// Asks `servers`, each try for at most `timeout`.
    ///
    /// # Errors
    ///
    /// [`DnsSetupError`] when hickory refuses.
    pub(crate) fn with_servers(
        servers: &[SocketAddr],
        timeout: Duration,
    ) -> Result<Self, DnsSetupError> {
        Ok(Self { lookup: Arc::new(Reloadable::new(Lookup::new(servers, timeout)?)) })
    }

    /// The name servers as they stand.
    pub(crate) fn servers(&self) -> Vec<ServerState> {
        self.lookup.now().servers().states()
    }

    /// The hosts that take mail for `domain`.
    ///
    /// # Errors
    ///
    /// [`DnsFailure`] when that is not known; the mail waits.
    pub(crate) async fn mail_hosts(
        &self,
        domain: &HostName,
        freshness: Freshness,
    ) -> Result<MailHosts, DnsFailure> {
        let answer = self.lookup.now().ask(domain, RecordType::MX, freshness).await?;
        Ok(mail_hosts(domain, &answer, &RandomState::new()))
    }

    /// The addresses of `host` of the family that is wanted, IPv6 and IPv4 in turns; empty: there
    /// conclusively is none.
    ///
    /// # Errors
    ///
    /// [`DnsFailure`] if no address was found and a query failed. One broken query does not hide
    /// what the other found.
    pub(crate) async fn addresses(
        &self,
        host: &HostName,
        family: IpFamily,
        freshness: Freshness,
    ) -> Result<Vec<IpAddr>, DnsFailure> {
        let v6 = self.family(host, RecordType::AAAA, freshness);
        let v4 = self.family(host, RecordType::A, freshness);
        let (v6, v4) = match family {
            IpFamily::V6 => (v6.await, Ok(Vec::new())),
            IpFamily::V4 => (Ok(Vec::new()), v4.await),
            IpFamily::Both => tokio::join!(v6, v4),
        };
        some_of(v6, v4)
    }

    /// The addresses of `host` of both families, those of `first` first in each turn.
    ///
    /// # Errors
    ///
    /// As [`Resolver::addresses`].
    pub(crate) async fn all_addresses(
        &self,
        host: &HostName,
        first: IpFamily,
    ) -> Result<Vec<IpAddr>, DnsFailure> {
        let (v6, v4) = tokio::join!(
            self.family(host, RecordType::AAAA, Freshness::Cached),
            self.family(host, RecordType::A, Freshness::Cached)
        );
        match first {
            IpFamily::Both | IpFamily::V6 => some_of(v6, v4),
            IpFamily::V4 => some_of(v4, v6),
        }
    }

    async fn family(
        &self,
        host: &HostName,
        kind: RecordType,
        freshness: Freshness,
    ) -> Result<Vec<IpAddr>, DnsFailure> {
        let answer = self.lookup.now().ask(host, kind, freshness).await?;
        Ok(answer.records().iter().filter_map(RData::ip_addr).collect())
    }

    /// The TXT records of `name`, each with its strings joined.
    ///
    /// # Errors
    ///
    /// [`DnsFailure`] when that is not known.
    pub(crate) async fn txt_records(&self, name: &HostName) -> Result<Vec<Vec<u8>>, DnsFailure> {
        let answer = self.lookup.now().ask(name, RecordType::TXT, Freshness::Cached).await?;
        Ok(texts(&answer))
    }

    /// The MTA-STS record of `domain` (RFC 8461 §3.1).
    pub(crate) async fn sts_record(&self, domain: &HostName, freshness: Freshness) -> StsRecord {
        let Ok(name) = domain.prepend("_mta-sts") else {
            // The only failure there is: so long a name cannot exist in DNS.
            return StsRecord {
                answer: policy::sts::parse_txt(&[]).into(),
                ttl: response::TTL_NEGATIVE_MAX,
                failure: None,
            };
        };
        match self.lookup.now().ask(&name, RecordType::TXT, freshness).await {
            Ok(answer) => StsRecord {
                answer: policy::sts::parse_txt(&texts(&answer)).into(),
                ttl: answer.remaining(),
                failure: None,
            },
            Err(failure) => StsRecord {
                answer: TxtAnswer::Failed(RemoteText::new(&failure.to_string())),
                ttl: Duration::ZERO,
                failure: Some(failure),
            },
        }
    }
}

/// Each record as one text: its strings joined with nothing between (RFC 8461 §3.1).
fn texts(answer: &Answer) -> Vec<Vec<u8>> {
    let text = |data: &RData| {
        let RData::TXT(txt) = data else { return None };
        Some(txt.txt_data.concat())
    };
    answer.records().iter().filter_map(text).collect()
}

/// What was found of either family, in turns; the failure, if that is nothing.
fn some_of(
    first: Result<Vec<IpAddr>, DnsFailure>,
    second: Result<Vec<IpAddr>, DnsFailure>,
) -> Result<Vec<IpAddr>, DnsFailure> {
    match (first, second) {
        (Ok(first), Ok(second)) => Ok(in_turns(first, second)),
        (Ok(some), Err(_)) | (Err(_), Ok(some)) if !some.is_empty() => {
            Ok(in_turns(some, Vec::new()))
        }
        (Err(failure), _) | (_, Err(failure)) => Err(failure),
    }
}

fn mail_hosts(domain: &HostName, answer: &Answer, random: &RandomState) -> MailHosts {
    let records = match &answer.found {
        FoundRecords::Records(records) => records,
        FoundRecords::NoDomain => return MailHosts::NoSuchDomain,
        FoundRecords::NoData => {
            let canonical = answer.canonical.clone().filter(|canonical| canonical != domain);
            return MailHosts::Implicit { name: domain.clone(), canonical };
        }
    };
    // Drawn by name: a host that is named twice has no better chance.
    let drawn = |mx: &MX| {
        let name = HostName::from_labels(mx.exchange.iter()).map_or_else(
            |_| MxTarget::Invalid(RemoteText::new(&mx.exchange.to_ascii())),
            MxTarget::Host,
        );
        (mx.preference, random.hash_one(&name), name)
    };
    let mut hosts: Vec<(u16, u64, MxTarget)> = records
        .iter()
        .filter_map(|data| if let RData::MX(mx) = data { Some(mx) } else { None })
        // RFC 7505 §3: the root stands for "no host"; among real hosts it is a mistake.
        .filter(|mx| !mx.exchange.is_root())
        .map(drawn)
        .collect();
    hosts.sort_by_key(|(preference, draw, _)| (*preference, *draw));
    // Named twice, it is one host still, and one that does not take the place of another.
    let mut seen = HashSet::new();
    hosts.retain(|(_, _, name)| seen.insert(name.clone()));
    hosts.truncate(MX_MAX);
    if hosts.is_empty() {
        return MailHosts::NullMx;
    }
    MailHosts::Mx(
        hosts.into_iter().map(|(preference, _, name)| MxRecord { preference, name }).collect(),
    )
}

/// Why no name server is known to a daemon with this configuration, which does not start then.
pub(crate) fn no_server(config: &config::Dns) -> Option<String> {
    match servers(config) {
        Err(DnsSetupError::System(reason)) => Some(reason),
        Err(DnsSetupError::Setup(_)) | Ok(_) => None,
    }
}

/// What is wrong with `config.servers`, or the system's, as far as they can be reached from here.
/// That there are none is for [`no_server`].
pub(crate) async fn complaints(config: &config::Dns) -> Vec<String> {
    let found = servers(config).and_then(|all| Servers::new(&all, CHECK_LIMIT));
    let asked = match found {
        Ok(servers) => servers.authentic(CHECK_LIMIT).await,
        Err(DnsSetupError::System(_)) => return Vec::new(),
        Err(error @ DnsSetupError::Setup(_)) => return vec![error.to_string()],
    };
    let (mut vouching, mut plain, mut complaints) = (Vec::new(), Vec::new(), Vec::new());
    for (server, said) in asked {
        match said {
            Ok(true) => vouching.push(server.to_string()),
            Ok(false) => plain.push(server.to_string()),
            Err(trouble) => {
                complaints.push(format!("{server} does not answer for the root zone: {trouble}"));
            }
        }
    }
    if !vouching.is_empty() && !plain.is_empty() {
        complaints.push(format!(
            "{} and {} differ: only the former check DNSSEC (AD), so what they refuse as forged \
             the latter answer",
            vouching.join(", "),
            plain.join(", ")
        ));
    }
    complaints
}

/// First, second, first, second and so on, so that a dead family costs one try and not all.
fn in_turns(first: Vec<IpAddr>, second: Vec<IpAddr>) -> Vec<IpAddr> {
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut all: Vec<IpAddr> = Vec::new();
    while all.len() < ADDRESSES_MAX {
        let pair = [first.next(), second.next()];
        if pair == [None, None] {
            break;
        }
        for ip in pair.into_iter().flatten() {
            if !all.contains(&ip) {
                all.push(ip);
            }
        }
    }
    all.truncate(ADDRESSES_MAX);
    all
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use hickory_proto::rr::rdata::SOA;
    use hickory_proto::rr::{Name, Record};
    use hickory_proto::serialize::binary::BinEncodable as _;
    use world::World;

    use super::*;

    fn name(text: &str) -> HostName {
        HostName::parse(text).unwrap()
    }

    fn dns(world: &World) -> Resolver {
        Resolver::with_servers(&[world.dns.address()], Duration::from_millis(300)).unwrap()
    }

    fn names(hosts: &MailHosts) -> Vec<String> {
        let MailHosts::Mx(records) = hosts else { panic!("{hosts:?}") };
        let text = |record: &MxRecord| match &record.name {
            MxTarget::Host(host) => format!("{} {host}", record.preference),
            MxTarget::Invalid(text) => format!("{} !{text}", record.preference),
        };
        records.iter().map(text).collect()
    }

    #[tokio::test]
    async fn mail_hosts_are_what_the_mx_records_say() {
        let world = World::start("/none").await;
        world.dns.mx("a.test", &[(20, "mx2.a.test"), (10, "MX1.A.test")]);
        world.dns.mx("mixed.test", &[(0, "."), (5, "192.0.2.1"), (7, "mx.a.test")]);
        world.dns.cname("alias.test", "a.test");
        let dns = dns(&world);
        world.dns.mx(
            "twice.test",
            &[(9, "MX.b.test"), (7, "mx.a.test"), (5, "mx.b.test"), (8, "mx.a.test")],
        );
        let cases: [(&str, &[&str]); 4] = [
            ("a.test", &["10 mx1.a.test", "20 mx2.a.test"]),
            ("alias.test", &["10 mx1.a.test", "20 mx2.a.test"]),
            ("mixed.test", &["5 !192.0.2.1.", "7 mx.a.test"]),
            ("twice.test", &["5 mx.b.test", "7 mx.a.test"]),
        ];
        for (domain, want) in cases {
            let hosts = dns.mail_hosts(&name(domain), Freshness::Cached).await.unwrap();
            assert_eq!(names(&hosts), want, "{domain}");
        }
    }

    /// Hebrew: IDNA's bidi rule wants a letter in front, DNS does not.
    const RTL: &str = "xn--4dbrk0ce.test";

    #[tokio::test]
    async fn names_in_dns_are_names_whatever_idna_says_of_them() {
        let world = World::start("/none").await;
        let raw = |labels: &[&[u8]]| {
            RData::MX(MX::new(1, Name::from_labels(labels.iter().copied()).unwrap()))
        };
        let cases: [(&[&[u8]], &str); 6] = [
            (&[b"1mx", b"xn--4dbrk0ce", b"test"], "1 1mx.xn--4dbrk0ce.test"),
            (&[b"_mx", b"xn--4dbrk0ce", b"test"], "1 _mx.xn--4dbrk0ce.test"),
            (&[b"mx", b"xn--zzzzzzzzzz", b"test"], "1 mx.xn--zzzzzzzzzz.test"),
            (&[b"mx", "m\u{fc}nchen".as_bytes(), b"test"], "1 mx.xn--mnchen-3ya.test"),
            (&[b"mx", b"m\xfcnchen", b"test"], "1 !mx.m\\374nchen.test."),
            (&[b"mx.a", b"test"], "1 !mx\\.a.test."),
        ];
        let dns = dns(&world);
        for (labels, want) in cases {
            world.dns.set("a.test", RecordType::MX, world::Answer::Records(vec![raw(labels)]));
            let hosts = dns.mail_hosts(&name("a.test"), Freshness::Fresh).await.unwrap();
            assert_eq!(names(&hosts), [want]);
        }
        world.dns.cname("alias.test", &format!("1a.{RTL}"));
        world.dns.a(&format!("1a.{RTL}"), Ipv4Addr::LOCALHOST);
        let hosts = dns.mail_hosts(&name("alias.test"), Freshness::Cached).await.unwrap();
        let MailHosts::Implicit { canonical, .. } = hosts else { panic!("{hosts:?}") };
        assert_eq!(canonical, Some(name(&format!("1a.{RTL}"))));
    }

    #[tokio::test]
    async fn the_record_of_every_domain_is_asked_for() {
        let world = World::start("/none").await;
        let dns = dns(&world);
        for domain in
            [RTL, "xn--mgbh0fb.xn--kgbechtv", "xn--zzzzzzzzzz.test", "1a.xn--4dbrk0ce.test"]
        {
            let record = format!("_mta-sts.{domain}");
            world.dns.txt(&record, &[&[b"v=STSv1; id=1"]]);
            let found = dns.sts_record(&name(domain), Freshness::Cached).await;
            assert!(matches!(found.answer, TxtAnswer::Usable(_)), "{domain}");
        }
        let label = "a".repeat(63);
        let longest = name(&format!("{label}.{label}.{label}.{}", "b".repeat(61)));
        let found = dns.sts_record(&longest, Freshness::Cached).await;
        assert!(matches!(found.answer, TxtAnswer::Unusable(_)), "no such name can be: {found:?}");
    }

    #[tokio::test]
    async fn a_fresh_look_at_hosts_and_addresses_asks_anew() {
        let world = World::start("/none").await;
        world.dns.set_ttl(600);
        world.dns.mx("a.test", &[(10, "mx.a.test")]);
        world.dns.a("mx.a.test", Ipv4Addr::LOCALHOST);
        let dns = dns(&world);
        for freshness in [Freshness::Cached, Freshness::Cached, Freshness::Fresh] {
            dns.mail_hosts(&name("a.test"), freshness).await.unwrap();
            dns.addresses(&name("mx.a.test"), IpFamily::Both, freshness).await.unwrap();
        }
        for (asked, kind) in [
            ("a.test", RecordType::MX),
            ("mx.a.test", RecordType::A),
            ("mx.a.test", RecordType::AAAA),
        ] {
            assert_eq!(world.dns.asked(asked, kind), 2, "{asked} {kind}");
        }
    }

    #[tokio::test]
    async fn a_policy_record_that_one_server_fails_for_is_found_at_the_other() {
        let world = World::start("/none").await;
        let other = world.dns.beside().await;
        world.dns.txt("_mta-sts.a.test", &[&[b"v=STSv1; id=1"]]);
        for (first, second) in [(&world.dns, &other), (&other, &world.dns)] {
            other.here_only("_mta-sts.a.test", Some(world::Answer::ServFail));
            let servers = [first.address(), second.address()];
            let dns = Resolver::with_servers(&servers, Duration::from_secs(5)).unwrap();
            let found = dns.sts_record(&name("a.test"), Freshness::Cached).await;
            assert!(matches!(found.answer, TxtAnswer::Usable(_)), "{found:?}");
            assert!(dns.servers().iter().all(|server| server.state.as_str() == "in_use"));
        }
    }

    #[tokio::test]
    async fn a_check_tells_silent_servers_and_those_that_differ_in_dnssec() {
        let vouching = world::NameServer::start(|query, _| {
            let mut reply = world::NameServer::reply(query);
            reply.metadata.authentic_data =
                query.edns.as_ref().is_some_and(|e| e.flags().dnssec_ok);
            let soa = RData::SOA(SOA::new(Name::root(), Name::root(), 1, 60, 60, 60, 60));
            reply.add_answers([Record::from_rdata(Name::root(), 60, soa)]);
            Some(reply.to_bytes().unwrap())
        });
        let (vouching, world) = (vouching.await, World::start("/none").await);
        let broken = world.dns.beside().await;
        broken.outage(Some(world::Answer::Refused));
        let (yes, no, broken) = (vouching.address(), world.dns.address(), broken.address());
        let check = async |servers: &[SocketAddr]| {
            let timeout = Duration::from_secs(5);
            complaints(&config::Dns { servers: servers.to_vec(), timeout }).await
        };
        for fine in [&[yes, yes][..], &[no, no]] {
            assert_eq!(check(fine).await, Vec::<String>::new());
        }
        let differ = check(&[yes, no]).await;
        assert!(differ[0].starts_with(&format!("{yes} and {no} differ")), "{differ:?}");
        let silent = check(&[no, broken]).await;
        assert!(silent[0].starts_with(&format!("{broken} does not answer")), "{silent:?}");
    }

    #[tokio::test]
    async fn a_domain_without_mx_is_its_own_host_and_null_mx_has_none() {
        let world = World::start("/none").await;
        world.dns.a("plain.test", Ipv4Addr::LOCALHOST);
        world.dns.cname("alias.test", "plain.test");
        world.dns.cname("dangling.test", "nowhere.test");
        world.dns.mx("null.test", &[(0, ".")]);
        let implicit = |own: &str, canonical: Option<&str>| MailHosts::Implicit {
            name: name(own),
            canonical: canonical.map(name),
        };
        let cases = [
            ("plain.test", implicit("plain.test", None)),
            ("alias.test", implicit("alias.test", Some("plain.test"))),
            ("null.test", MailHosts::NullMx),
            ("nowhere.test", MailHosts::NoSuchDomain),
            ("dangling.test", MailHosts::NoSuchDomain),
        ];
        let dns = dns(&world);
        for (domain, want) in cases {
            assert_eq!(
                dns.mail_hosts(&name(domain), Freshness::Cached).await.unwrap(),
                want,
                "{domain}"
            );
        }
    }

    #[tokio::test]
    async fn trouble_is_never_read_as_none() {
        let world = World::start("/none").await;
        for (domain, answer) in [
            ("servfail.test", world::Answer::ServFail),
            ("refused.test", world::Answer::Refused),
            ("silent.test", world::Answer::Drop),
        ] {
            world.dns.set(domain, RecordType::MX, answer);
        }
        world.dns.cname("loop-a.test", "loop-b.test");
        world.dns.cname("loop-b.test", "loop-a.test");
        let cases = [
            ("servfail.test", DnsFailureKind::ServFail),
            ("refused.test", DnsFailureKind::Refused),
            ("silent.test", DnsFailureKind::Timeout),
            ("loop-a.test", DnsFailureKind::ServFail),
        ];
        let dns = dns(&world);
        for (domain, want) in cases {
            let failure = dns.mail_hosts(&name(domain), Freshness::Cached).await.unwrap_err();
            assert_eq!(failure.kind, want, "{failure}");
            assert_eq!(failure.query, format!("MX {domain}"));
            let server = world.dns.address().to_string();
            assert!(failure.to_string().contains(&server), "{failure}");
        }
        let free = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let nobody =
            Resolver::with_servers(&[free.local_addr().unwrap()], Duration::from_millis(100));
        assert!(nobody.unwrap().mail_hosts(&name("a.test"), Freshness::Cached).await.is_err());
    }

    #[tokio::test]
    async fn a_broken_family_does_not_hide_the_other() {
        let world = World::start("/none").await;
        let v6 = |name: &str, answer| world.dns.set(name, RecordType::AAAA, answer);
        world.dns.a("half.test", Ipv4Addr::LOCALHOST);
        v6("half.test", world::Answer::ServFail);
        world.dns.a("both.test", Ipv4Addr::LOCALHOST);
        let records = vec![RData::AAAA(Ipv6Addr::LOCALHOST.into())];
        v6("both.test", world::Answer::Records(records));
        v6("unsure.test", world::Answer::ServFail);
        world.dns.txt("empty.test", &[&[b"x"]]);
        let dns = dns(&world);
        let v4: IpAddr = Ipv4Addr::LOCALHOST.into();
        let cases = [
            ("half.test", IpFamily::Both, Some(vec![v4])),
            ("half.test", IpFamily::V6, None),
            ("both.test", IpFamily::Both, Some(vec![Ipv6Addr::LOCALHOST.into(), v4])),
            ("both.test", IpFamily::V4, Some(vec![v4])),
            ("unsure.test", IpFamily::Both, None),
            ("empty.test", IpFamily::Both, Some(vec![])),
        ];
        for (host, family, want) in cases {
            let got = dns.addresses(&name(host), family, Freshness::Cached).await;
            assert_eq!(got.ok(), want, "{host} {family:?}");
        }
    }

    #[tokio::test]
    async fn an_answer_is_kept_for_its_ttl_unless_a_fresh_one_is_asked_for() {
        let world = World::start("/none").await;
        world.dns.set_ttl(600);
        world.dns.mx("a.test", &[(10, "mx.a.test")]);
        let dns = dns(&world);
        for _ in 0..3 {
            dns.mail_hosts(&name("a.test"), Freshness::Cached).await.unwrap();
        }
        assert_eq!(world.dns.asked("a.test", RecordType::MX), 1);
        let record = "_mta-sts.a.test";
        for freshness in [Freshness::Cached, Freshness::Cached, Freshness::Fresh] {
            dns.sts_record(&name("a.test"), freshness).await;
        }
        assert_eq!(world.dns.asked(record, RecordType::TXT), 2);
        world.dns.txt(record, &[&[b"v=STSv1; ", b"id=1"]]);
        dns.sts_record(&name("a.test"), Freshness::Fresh).await;
        let after = dns.sts_record(&name("a.test"), Freshness::Cached).await;
        assert_eq!(world.dns.asked(record, RecordType::TXT), 3, "a fresh answer replaces the old");
        assert!(matches!(after.answer, TxtAnswer::Usable(id) if id.as_str() == "1"));
    }

    #[test]
    fn equal_preferences_are_shuffled_and_large_sets_cut() {
        let mx = |preference, host: &str| {
            RData::MX(MX::new(preference, Name::from_ascii(host).unwrap()))
        };
        let found =
            FoundRecords::Records([mx(10, "b.test."), mx(10, "a.test."), mx(5, "c.test.")].into());
        let answer = Answer::new(found, &Name::from_ascii("x.test.").unwrap(), Duration::ZERO);
        let mut first = [0; 2];
        for _ in 0..1000 {
            let hosts = names(&mail_hosts(&name("x.test"), &answer, &RandomState::new()));
            assert_eq!(hosts[0], "5 c.test");
            first[usize::from(hosts[1] == "10 a.test")] += 1;
        }
        assert!(first.iter().all(|count| *count > 400), "{first:?}");

        let many: Vec<_> = (0..1000).map(|i| mx(i, &format!("mx{i}.test."))).collect();
        let found = FoundRecords::Records(many.into());
        let answer = Answer::new(found, &Name::from_ascii("x.test.").unwrap(), Duration::ZERO);
        let hosts = names(&mail_hosts(&name("x.test"), &answer, &RandomState::new()));
        assert_eq!((hosts.len(), hosts[63].as_str()), (MX_MAX, "63 mx63.test"));
    }

    #[test]
    fn families_take_turns_up_to_the_limit() {
        let v6 = |n: u16| IpAddr::from([0x2600, 0, 0, 0, 0, 0, 0, n]);
        let v4 = |n: u8| IpAddr::from([8, 8, 8, n]);
        assert_eq!(in_turns(vec![v6(1), v6(2), v6(1)], vec![v4(1)]), [v6(1), v4(1), v6(2)]);
        let many: Vec<_> = (0..100).map(v4).collect();
        assert_eq!(in_turns(Vec::new(), many.clone()).len(), ADDRESSES_MAX);
        let lone = in_turns(vec![v6(1)], many.clone());
        assert!(lone.contains(&v6(1)) && lone.len() == ADDRESSES_MAX, "{lone:?}");
        let lone = in_turns((0..100).map(v6).collect(), vec![v4(1)]);
        assert!(lone.contains(&v4(1)) && lone.len() == ADDRESSES_MAX, "{lone:?}");
        let both = in_turns((0..100).map(v6).collect(), many);
        assert_eq!(both.iter().filter(|ip| ip.is_ipv4()).count(), ADDRESSES_MAX / 2);
    }
}
