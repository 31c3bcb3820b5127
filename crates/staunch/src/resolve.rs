//! What does DNS say about a domain: its mail hosts, their addresses, its MTA-STS record?
//!
//! The guarantee: "there is none" is only ever said when a server said so. A time-out, SERVFAIL, a
//! refusal, a referral, a looping alias or an answer about something else is a [`DnsFailure`], never
//! an empty answer, because an empty answer changes where mail goes or whether it is protected.
//!
//! Names are asked as they are: no search list, no hosts file (RFC 5321 §2.3.5). DNSSEC is not
//! looked at: everything counts as insecure.
//!
//! Not here: which addresses may be connected to (`addresses`), what a record means (`policy::sts`).

mod lookup;

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::rr::{Name, RData, RecordType};
use policy::sts::keep::TxtAnswer;
use smtp::{HostName, RemoteText};

use crate::config::{self, IpFamily};
use crate::live::Live;
use lookup::{Answer, Found, Lookup};

/// MX records looked at. Ours: the largest real sets have about 20.
const MX_MAX: usize = 64;
/// Addresses of one host. Ours: more are never tried within one attempt.
const ADDRESSES_MAX: usize = 16;

/// May an answer come from our cache?
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Freshness {
    /// Yes, while its TTL lasts.
    Cached,
    /// No: a decision that ends something hangs on it (RFC 8461 §8.1).
    Fresh,
}

/// Where a domain's mail goes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum MailHosts {
    /// Its MX records by preference, equal ones in random order (RFC 5321 §5.1); at least one.
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

/// One MX record.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct MxRecord {
    /// Lower is tried first.
    pub(crate) preference: u16,
    /// Whom it names.
    pub(crate) name: MxTarget,
}

/// The host that an MX record names.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum MxTarget {
    /// A host name.
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
}

/// A query that got no conclusive answer.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{query}: {kind}: {text} (asked {servers})")]
pub(crate) struct DnsFailure {
    /// Type and name, as in `MX example.com`.
    pub(crate) query: String,
    /// What went wrong.
    pub(crate) kind: DnsFailureKind,
    /// In words.
    pub(crate) text: RemoteText,
    /// The servers that were there to ask.
    pub(crate) servers: Arc<str>,
}

/// Why a query got no conclusive answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum DnsFailureKind {
    /// Nobody answered in time.
    #[error("timed out")]
    Timeout,
    /// The server could not find out.
    #[error("SERVFAIL")]
    ServFail,
    /// The server does not serve us.
    #[error("REFUSED")]
    Refused,
    /// The signatures are wrong.
    #[error("DNSSEC validation failed")]
    Bogus,
    /// No server could be reached at all: our trouble, not the domain's.
    #[error("no name server reachable")]
    Unreachable,
    /// An answer that answers nothing.
    #[error("unusable answer")]
    Other,
}

/// The resolver cannot be set up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DnsSetupError {
    /// `dns.servers` is empty and the system has none either.
    #[error("dns.servers: empty, and the system's resolv.conf is of no use: {0}")]
    System(String),
    /// hickory could not be set up.
    #[error("dns: {0}")]
    Setup(String),
}

/// The resolver: one cache for the whole daemon. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Dns {
    lookup: Arc<Live<Lookup>>,
}

/// A resolver for a changed configuration, not yet in use.
#[derive(Debug)]
pub(crate) struct NewResolver(Lookup);

fn servers(config: &config::Dns) -> Result<Vec<SocketAddr>, DnsSetupError> {
    if config.servers.is_empty() { lookup::system_servers() } else { Ok(config.servers.clone()) }
}

impl Dns {
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
    /// As [`Dns::new`].
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
        Ok(Self { lookup: Arc::new(Live::new(Lookup::new(servers, timeout)?)) })
    }

    /// The hosts that take mail for `domain`.
    ///
    /// # Errors
    ///
    /// [`DnsFailure`] when that is not known; the mail waits.
    pub(crate) async fn mail_hosts(&self, domain: &HostName) -> Result<MailHosts, DnsFailure> {
        let answer = self.lookup.now().ask(domain, RecordType::MX, Freshness::Cached).await?;
        Ok(mail_hosts(domain, &answer, &RandomState::new()))
    }

    /// The addresses of `host`, IPv6 and IPv4 in turns; empty: there conclusively is none.
    ///
    /// # Errors
    ///
    /// [`DnsFailure`] if no address was found and a query failed. One broken query does not hide
    /// what the other found.
    pub(crate) async fn addresses(
        &self,
        host: &HostName,
        family: IpFamily,
    ) -> Result<Vec<IpAddr>, DnsFailure> {
        let (v6, v4) = match family {
            IpFamily::V6 => (self.family(host, RecordType::AAAA).await, Ok(Vec::new())),
            IpFamily::V4 => (Ok(Vec::new()), self.family(host, RecordType::A).await),
            IpFamily::Both => {
                tokio::join!(self.family(host, RecordType::AAAA), self.family(host, RecordType::A))
            }
        };
        match (v6, v4) {
            (Ok(v6), Ok(v4)) => Ok(in_turns(v6, v4)),
            (Ok(some), Err(_)) | (Err(_), Ok(some)) if !some.is_empty() => {
                Ok(in_turns(some, Vec::new()))
            }
            (Err(failure), _) | (_, Err(failure)) => Err(failure),
        }
    }

    async fn family(&self, host: &HostName, kind: RecordType) -> Result<Vec<IpAddr>, DnsFailure> {
        let answer = self.lookup.now().ask(host, kind, Freshness::Cached).await?;
        Ok(answer.records().iter().filter_map(RData::ip_addr).collect())
    }

    /// The MTA-STS record of `domain` (RFC 8461 §3.1).
    pub(crate) async fn sts_record(&self, domain: &HostName, freshness: Freshness) -> StsRecord {
        let Ok(name) = HostName::parse(&format!("_mta-sts.{domain}")) else {
            // So long a name cannot exist in DNS.
            return StsRecord {
                answer: policy::sts::parse_txt(&[]).into(),
                ttl: lookup::TTL_NEGATIVE_MAX,
            };
        };
        match self.lookup.now().ask(&name, RecordType::TXT, freshness).await {
            Ok(answer) => StsRecord {
                answer: policy::sts::parse_txt(&texts(&answer)).into(),
                ttl: answer.remaining(),
            },
            Err(failure) => StsRecord {
                answer: TxtAnswer::Failed(RemoteText::new(&failure.to_string())),
                ttl: Duration::ZERO,
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

fn mail_hosts(domain: &HostName, answer: &Answer, random: &RandomState) -> MailHosts {
    let records = match &answer.found {
        Found::Records(records) => records,
        Found::NoDomain => return MailHosts::NoSuchDomain,
        Found::NoData => {
            let canonical = answer.canonical.clone().filter(|canonical| canonical != domain);
            return MailHosts::Implicit { name: domain.clone(), canonical };
        }
    };
    let mut hosts: Vec<(u16, u64, MxTarget)> = records
        .iter()
        .filter_map(|data| if let RData::MX(mx) = data { Some(mx) } else { None })
        // RFC 7505 §3: the root stands for "no host"; among real hosts it is a mistake.
        .filter(|mx| !mx.exchange.is_root())
        .enumerate()
        .map(|(index, mx)| (mx.preference, random.hash_one(index), target(&mx.exchange)))
        .collect();
    hosts.sort_by_key(|(preference, draw, _)| (*preference, *draw));
    hosts.truncate(MX_MAX);
    if hosts.is_empty() {
        return MailHosts::NullMx;
    }
    MailHosts::Mx(
        hosts.into_iter().map(|(preference, _, name)| MxRecord { preference, name }).collect(),
    )
}

fn target(exchange: &Name) -> MxTarget {
    let text = exchange.to_ascii();
    HostName::parse(&text)
        .map_or_else(|_| MxTarget::Invalid(RemoteText::new(&text)), MxTarget::Host)
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
    use super::*;
    use hickory_proto::rr::rdata::MX;
    use std::net::{Ipv4Addr, Ipv6Addr};
    use world::World;

    fn name(text: &str) -> HostName {
        HostName::parse(text).unwrap()
    }

    fn dns(world: &World) -> Dns {
        Dns::with_servers(&[world.dns.address()], Duration::from_millis(300)).unwrap()
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
        let cases: [(&str, &[&str]); 3] = [
            ("a.test", &["10 mx1.a.test", "20 mx2.a.test"]),
            ("alias.test", &["10 mx1.a.test", "20 mx2.a.test"]),
            ("mixed.test", &["5 !192.0.2.1.", "7 mx.a.test"]),
        ];
        for (domain, want) in cases {
            let hosts = dns.mail_hosts(&name(domain)).await.unwrap();
            assert_eq!(names(&hosts), want, "{domain}");
        }
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
            assert_eq!(dns.mail_hosts(&name(domain)).await.unwrap(), want, "{domain}");
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
            let failure = dns.mail_hosts(&name(domain)).await.unwrap_err();
            assert_eq!(failure.kind, want, "{failure}");
            assert_eq!(failure.query, format!("MX {domain}"));
            let server = world.dns.address().to_string();
            assert!(failure.to_string().contains(&server), "{failure}");
        }
        let free = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let nobody = Dns::with_servers(&[free.local_addr().unwrap()], Duration::from_millis(100));
        assert!(nobody.unwrap().mail_hosts(&name("a.test")).await.is_err());
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
            let got = dns.addresses(&name(host), family).await;
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
            dns.mail_hosts(&name("a.test")).await.unwrap();
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
        let found = Found::Records([mx(10, "b.test."), mx(10, "a.test."), mx(5, "c.test.")].into());
        let answer = Answer::new(found, &Name::from_ascii("x.test.").unwrap(), Duration::ZERO);
        let mut first = [0; 2];
        for _ in 0..1000 {
            let hosts = names(&mail_hosts(&name("x.test"), &answer, &RandomState::new()));
            assert_eq!(hosts[0], "5 c.test");
            first[usize::from(hosts[1] == "10 a.test")] += 1;
        }
        assert!(first.iter().all(|count| *count > 400), "{first:?}");

        let many: Vec<_> = (0..1000).map(|i| mx(i, &format!("mx{i}.test."))).collect();
        let found = Found::Records(many.into());
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
        assert_eq!(in_turns(Vec::new(), many).len(), ADDRESSES_MAX);
    }
}
