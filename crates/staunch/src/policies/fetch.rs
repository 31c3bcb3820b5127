//! What does a domain's policy host serve, and is it fit to be read as a policy?
//!
//! One GET of `https://mta-sts.DOMAIN/.well-known/mta-sts.txt` as RFC 8461 §3.3 wants it: a valid
//! certificate for that very name, status 200, `text/plain`, no redirect, no cache, no more than 64
//! KiB, within one time limit from the first DNS query to the last byte. The addresses are resolved
//! and filtered here and given to the client, which cannot ask for any other, so a name that
//! changes its mind between check and use gains nothing.
//!
//! Not here: when to fetch (`policy::sts::cache`), what the text means (`policy::sts::Policy`).

mod client;
mod fetched;
mod limits;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use policy::registrable_domain;
use smtp::{HostName, RemoteText};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::clock::ClockWatch;
use crate::config::{Config, IpFamily, Prefix};
use crate::dns::Resolver;
use crate::dns::addresses::is_forbidden;
pub(crate) use client::ClientSetupError;
use client::PolicyClient;
pub(crate) use fetched::{FetchError, Fetched};
pub(crate) use limits::KnownToAnswer;
use limits::{FetchLimits, SLOW_AFTER};

/// Addresses of one policy host that are tried.
const ADDRESSES_MAX: usize = 4;

/// Fetches policy texts over HTTPS, within limits that all fetches share.
#[derive(Debug)]
pub(crate) struct Fetcher {
    dns: Resolver,
    clock: ClockWatch,
    client: PolicyClient,
    limits: Arc<FetchLimits>,
    port: u16,
    timeout: Duration,
    /// The family that is tried first.
    first: IpFamily,
    allowed: Vec<Prefix>,
}

impl Fetcher {
    /// Reads the trust anchors: the system's, and those of `mta_sts.ca_file`. Certificates are
    /// judged by `clock`.
    ///
    /// # Errors
    ///
    /// [`ClientSetupError`] when the file cannot be read or there is no trust anchor at all.
    pub(crate) fn new(
        config: &Config,
        dns: Resolver,
        clock: ClockWatch,
    ) -> Result<Self, ClientSetupError> {
        Self::with_limits(config, dns, clock, Arc::default())
    }

    /// The same for a changed configuration: what runs already counts on.
    ///
    /// # Errors
    ///
    /// As [`Fetcher::new`].
    pub(crate) fn renewed(&self, config: &Config) -> Result<Self, ClientSetupError> {
        let (dns, clock) = (self.dns.clone(), self.clock.clone());
        Self::with_limits(config, dns, clock, Arc::clone(&self.limits))
    }

    fn with_limits(
        config: &Config,
        dns: Resolver,
        clock: ClockWatch,
        limits: Arc<FetchLimits>,
    ) -> Result<Self, ClientSetupError> {
        Ok(Self {
            client: PolicyClient::new(config.mta_sts.ca_file.as_deref(), clock.clone())?,
            dns,
            clock,
            limits,
            port: config.mta_sts.policy_port,
            timeout: config.mta_sts.fetch_timeout,
            first: config.delivery.ip,
            allowed: config.delivery.allow_addresses.clone(),
        })
    }

    /// The policy text of `domain`, whose policy host has lately answered or not.
    ///
    /// # Errors
    ///
    /// [`FetchError`]; all but [`FetchError::Busy`] are the domain's failure.
    pub(crate) async fn fetch(
        &self,
        domain: &HostName,
        answers: KnownToAnswer,
    ) -> Result<Fetched, FetchError> {
        let begun = Instant::now();
        let host = domain
            .prepend("mta-sts")
            .map_err(|error| FetchError::Http(RemoteText::new(&error.to_string())))?;
        let addresses = timeout(self.timeout, self.addresses(&host))
            .await
            .unwrap_or(Err(FetchError::Timeout))?;
        let waited = Instant::now();
        let owner = registrable_domain(domain);
        // Waiting for our own limits is not the host's fault, so its time stands still.
        let mut turn = timeout(self.timeout, self.limits.turn(&owner, answers))
            .await
            .map_err(|_| FetchError::Busy)?;
        let deadline = begun + self.timeout + waited.elapsed();
        let to: Vec<_> = addresses.iter().map(|ip| SocketAddr::new(*ip, self.port)).collect();
        let get = timeout_at(deadline, Box::pin(self.client.get(&host, to, self.timeout)));
        let mut get = std::pin::pin!(get);
        let is_slow = async {
            sleep(SLOW_AFTER).await;
            turn.make_way().await;
        };
        let got = tokio::select! {
            got = &mut get => got,
            () = is_slow => get.await,
        };
        got.unwrap_or(Err(FetchError::Timeout))
    }

    async fn addresses(&self, host: &HostName) -> Result<Vec<IpAddr>, FetchError> {
        // `delivery.ip` is about mail: a policy that only the other family serves binds it all the
        // same.
        let all = self.dns.all_addresses(host, self.first).await.map_err(FetchError::Dns)?;
        let Some(address) = all.first().copied() else {
            return Err(FetchError::NoAddress(host.clone()));
        };
        let usable: Vec<_> = all
            .into_iter()
            .filter(|ip| !is_forbidden(*ip, &self.allowed))
            .take(ADDRESSES_MAX)
            .collect();
        if usable.is_empty() {
            return Err(FetchError::Forbidden { host: host.clone(), address });
        }
        Ok(usable)
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use world::{Answer, Handshake, Leaf, RecordType, Reply, Serve, Site, World};

    use super::*;

    const BODY: &str = "version: STSv1\nmode: none\nmax_age: 60\n";

    fn fetcher(world: &World, allowed: &[&str], timeout: Duration) -> Fetcher {
        let dns = Resolver::with_servers(&[world.dns.address()], Duration::from_secs(2)).unwrap();
        Fetcher {
            dns,
            client: PolicyClient::new(Some(world.pki.ca_file()), ClockWatch::undoubted()).unwrap(),
            clock: ClockWatch::undoubted(),
            limits: Arc::default(),
            port: world.policies.address().port(),
            timeout,
            first: IpFamily::Both,
            allowed: allowed.iter().map(|text| Prefix::parse(text).unwrap()).collect(),
        }
    }

    /// The first words of the error, or of the body.
    async fn outcome(fetcher: &Fetcher, domain: &str) -> String {
        match fetcher.fetch(&HostName::parse(domain).unwrap(), KnownToAnswer::Unknown).await {
            Ok(fetched) => format!("ok {}", fetched.body.len()),
            Err(error) => error.to_string(),
        }
    }

    async fn served(reply: Reply) -> String {
        let world = World::start("/none").await;
        world.domain("a.test").serve(Serve::Reply(reply));
        let fetcher = fetcher(&world, &["127.0.0.0/8"], Duration::from_secs(10));
        let outcome = outcome(&fetcher, "a.test").await;
        assert_eq!(world.domain("a.test").policy_requests(), 1, "one request, whatever came back");
        outcome
    }

    #[tokio::test]
    async fn the_request_is_the_one_of_the_rfc_and_the_body_comes_back() {
        let world = World::start("/none").await;
        let reply = Reply::ok(BODY).header("Date", "Sun, 06 Nov 1994 08:49:37 GMT");
        world.domain("a.test").serve(Serve::Reply(reply));
        let fetcher = fetcher(&world, &["127.0.0.0/8"], Duration::from_secs(10));
        let fetched = fetcher
            .fetch(&HostName::parse("a.test").unwrap(), KnownToAnswer::Unknown)
            .await
            .unwrap();
        assert_eq!(fetched.body, BODY.as_bytes());
        assert_eq!(fetched.date.map(Timestamp::as_second), Some(784_111_777));
        assert_eq!(fetched.address, Some(world.policies.address().ip()));
        let request = world.policies.requests().read(|all| all[0].clone());
        assert_eq!(request.sni, "mta-sts.a.test");
        assert_eq!(request.line, "GET /.well-known/mta-sts.txt HTTP/1.1");
        assert_eq!(request.header("host"), Some("mta-sts.a.test"));
        assert_eq!(request.header("accept-encoding"), Some("identity"));
        assert_eq!(request.header("cache-control"), Some("no-cache"));
        for absent in ["if-none-match", "if-modified-since", "cookie", "referer"] {
            assert_eq!(request.header(absent), None);
        }
    }

    #[tokio::test]
    async fn only_status_200_with_a_whole_plain_text_of_64_kib_is_used() {
        let chunked = |octets: usize| Reply { chunked: true, ..Reply::ok(vec![b'a'; octets]) };
        let short = Reply { declared_length: Some(1000), ..Reply::ok(BODY) };
        let cases = [
            (Reply::ok(vec![b'a'; 65_536]), "ok 65536"),
            (Reply::ok(vec![b'a'; 65_537]), "the answer is too large"),
            (chunked(65_536), "ok 65536"),
            (chunked(65_537), "the answer is too large"),
            (chunked(1_000_000), "the answer is too large"),
            (short, "the answer is cut off"),
            (Reply::status(203, BODY), "HTTP status 203"),
            (Reply::status(206, BODY), "HTTP status 206"),
            (
                Reply::status(301, BODY).header("Location", "https://mta-sts.a.test/other"),
                "HTTP status 301",
            ),
            (Reply::status(404, BODY), "HTTP status 404"),
            (Reply::status(500, BODY), "HTTP status 500"),
            (Reply::ok(BODY).content_type(None), "content type (none), not text/plain"),
            (
                Reply::ok(BODY).content_type(Some("text/html")),
                "content type text/html, not text/plain",
            ),
            (Reply::ok(BODY).header("Content-Encoding", "gzip"), "HTTP: content encoding gzip"),
            (Reply::ok(BODY).header("X-Pad", &"a".repeat(17_000)), "the answer is too large"),
        ];
        for (reply, want) in cases {
            let about = format!("{} {:?}", reply.status, reply.headers.first());
            assert_eq!(served(reply).await, want, "{about:.60}");
        }
    }

    #[tokio::test]
    async fn the_certificate_must_be_valid_for_the_policy_host() {
        let world = World::start("/none").await;
        let host = "mta-sts.a.test";
        let cases = [
            (Leaf::named(host), "ok"),
            (Leaf::named("*.a.test"), "ok"),
            (Leaf::named("a.test"), "certificate"),
            (Leaf::named("mta-sts.b.test"), "certificate"),
            (Leaf::named(host).common_name_only(), "certificate"),
            (Leaf::named(host).expired(), "certificate"),
            (Leaf::named(host).not_yet_valid(), "certificate"),
            (Leaf::named(host).self_signed(), "certificate"),
            (Leaf::named(host).untrusted(), "certificate"),
        ];
        let fetcher = fetcher(&world, &["127.0.0.0/8"], Duration::from_secs(10));
        for (leaf, want) in cases {
            let identity = world.pki.issue(&leaf);
            let serve = Serve::Reply(Reply::ok(BODY));
            world.domain("a.test").site(Site { identity, handshake: Handshake::Good, serve });
            let before = world.policies.requests_to(host);
            let got = outcome(&fetcher, "a.test").await;
            assert!(got.starts_with(want), "{leaf:?}: {got}");
            let requests = world.policies.requests_to(host) - before;
            assert_eq!(requests, usize::from(want == "ok"), "{leaf:?}: asked a host not verified");
        }
    }

    #[tokio::test]
    async fn each_step_that_fails_is_named() {
        let world = World::start("/none").await;
        let fetcher = fetcher(&world, &["127.0.0.0/8"], Duration::from_secs(10));
        for (domain, handshake) in
            [("old.test", Handshake::Tls11Only), ("abort.test", Handshake::Abort)]
        {
            let host = format!("mta-sts.{domain}");
            let identity = world.pki.issue(&Leaf::named(&host));
            world.domain(domain).site(Site {
                identity,
                handshake,
                serve: Serve::Reply(Reply::ok(BODY)),
            });
        }
        world.domain("down.test").policy_host_down();
        world.dns.set("mta-sts.broken.test", RecordType::A, Answer::ServFail);
        world.dns.a("mta-sts.inside.test", [10, 0, 0, 1].into());
        let cases = [
            ("old.test", "TLS: "),
            ("abort.test", "connect: "),
            ("down.test", "connect: "),
            ("broken.test", "A mta-sts.broken.test: SERVFAIL"),
            ("nowhere.test", "mta-sts.nowhere.test has no address"),
            ("inside.test", "mta-sts.inside.test: address 10.0.0.1 is forbidden"),
        ];
        for (domain, want) in cases {
            let got = outcome(&fetcher, domain).await;
            assert!(got.starts_with(want), "{domain}: {got}");
        }
    }

    /// `delivery.ip` is about mail. A policy that is not seen for it would not hold.
    #[tokio::test]
    async fn a_policy_host_is_found_in_the_family_that_mail_does_not_use() {
        let world = World::start("/none").await;
        let six = std::net::Ipv6Addr::LOCALHOST;
        world.dns.aaaa("mta-sts.six.test", six);
        world.dns.aaaa("mta-sts.both.test", six);
        world.dns.a("mta-sts.both.test", [127, 0, 0, 1].into());
        let mut fetcher = fetcher(&world, &["127.0.0.0/8", "::1/128"], Duration::from_secs(10));
        fetcher.first = IpFamily::V4;
        let four: IpAddr = [127, 0, 0, 1].into();
        for (host, want) in
            [("mta-sts.six.test", vec![six.into()]), ("mta-sts.both.test", vec![four, six.into()])]
        {
            let found = fetcher.addresses(&HostName::parse(host).unwrap()).await.unwrap();
            assert_eq!(found, want, "{host}");
        }
    }

    #[tokio::test]
    async fn the_name_of_a_policy_host_is_taken_as_it_is() {
        let world = World::start("/none").await;
        let fetcher = fetcher(&world, &["127.0.0.0/8"], Duration::from_secs(10));
        for domain in ["1a.xn--4dbrk0ce.test", "_a.xn--4dbrk0ce.test", "xn--zzzzzzzzzz.test"] {
            world.domain(domain).policy_body(BODY);
            assert_eq!(outcome(&fetcher, domain).await, format!("ok {}", BODY.len()), "{domain}");
        }
    }

    #[tokio::test]
    async fn nothing_on_loopback_is_asked_unless_it_is_allowed() {
        let world = World::start("/none").await;
        world.domain("a.test").policy_body(BODY);
        let strict = fetcher(&world, &[], Duration::from_secs(10));
        let got = outcome(&strict, "a.test").await;
        assert_eq!(
            got,
            "mta-sts.a.test: address 127.0.0.1 is forbidden (delivery.allow_addresses)"
        );
        assert_eq!(world.policies.hellos_to("mta-sts.a.test"), 0);
    }

    #[tokio::test]
    async fn a_host_that_is_silent_or_drips_ends_at_the_limit() {
        let world = World::start("/none").await;
        world.domain("silent.test").serve(Serve::Silent);
        let drip = Serve::Drip(Reply::ok(vec![b'a'; 10_000]), Duration::from_millis(5));
        world.domain("drip.test").serve(drip);
        let fetcher = fetcher(&world, &["127.0.0.0/8"], Duration::from_millis(300));
        for domain in ["silent.test", "drip.test"] {
            assert_eq!(outcome(&fetcher, domain).await, "timed out", "{domain}");
        }
    }
}
