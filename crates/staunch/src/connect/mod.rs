//! From a host that mail may be sent to, to a session with it: TCP, greeting, EHLO, STARTTLS, EHLO.
//!
//! The connector takes an [`AuthorizedMx`] and nothing else, tries its addresses one after the
//! other, and reports what the session showed. It judges no certificate, and it never goes on in
//! clear text where TLS was begun: that takes a new connection, which the caller has to ask for.
//!
//! Not here: whether mail may go over the session (`policy::AuthorizedMx::admit`), how many
//! sessions there may be (`pool`), logging in (`login`).

mod allowance;
pub(crate) mod connection;
mod dial;
mod dialogue;
mod down;
mod endpoint;
mod facts;
mod failure;
pub(crate) mod login;
mod memory;
pub(crate) mod pool;
pub(crate) mod tcp_check;
pub(crate) mod tls;

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use policy::{AuthorizedMx, Observed};
use smtp::{Domain, Extension};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_util::task::TaskTracker;

use crate::config::{Config, Hostname, Source};
use crate::connect::connection::Connection;
use crate::connect::tls::{HandshakeError, Hello, TlsClient, TlsSetupError};
use crate::reloadable::Reloadable;
pub(crate) use allowance::{Used, is_up};
use dial::{DialError, dial};
use dialogue::{HelloWish, Helo, Opening, greeting, hello, opening};
pub(crate) use down::DownHost;
pub(crate) use endpoint::{Endpoint, FamilySource, PoolKey, Sources, TlsStart};
pub(crate) use failure::{ConnectCause, ConnectFailure, ConnectStep, is_about_us, is_throttling};
pub(crate) use memory::AddressFamily;
use memory::AddressMemory;

/// Our choice: addresses at which a session that begins and fails is taken as the host's answer.
/// Each may cost the time of a greeting.
const SESSIONS_TRIED_MAX: usize = 2;
/// The last address gets this many times `delivery.connect_timeout`: there is nothing else to try.
const LAST_ADDRESS_PATIENCE: u32 = 3;
/// Our choice: for the whole TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(60);
/// Our choice: for a handshake that may fail because its first message is large, and can be tried
/// again with a small one. The slowest honest peers need seconds.
const LARGE_HELLO_TIMEOUT: Duration = Duration::from_secs(20);
/// Our choice: for all that comes before the first MAIL to one host, all its addresses together.
/// RFC 5321 §4.5.3.2 wants five minutes for each answer; a peer that needs them for every one is
/// not worth the place.
const SETUP_BUDGET: Duration = Duration::from_secs(15 * 60);

/// Our choice: who does not answer by then is not back.
const CHECK_TIMEOUT: Duration = Duration::from_secs(3);

/// What to do with an offered STARTTLS where nothing requires it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Starttls {
    Use,
    /// Leave it, since it failed before. Means nothing for a host that needs TLS.
    Skip,
}

/// A session that is ready for MAIL, and the evidence to judge it by.
#[derive(Debug)]
pub(crate) struct Opened {
    /// Greeted, and under TLS where that was asked for; nobody is logged in yet.
    pub(crate) connection: Connection,
    /// What was seen of the host, on which authorization is decided.
    pub(crate) observed: Observed,
    /// Is what it showed that of an earlier handshake? A new one may show better.
    pub(crate) is_resumed: bool,
}

/// Makes sessions. Clones share what is remembered.
#[derive(Clone, Debug)]
pub(crate) struct Connector {
    setup: Arc<Reloadable<Setup>>,
    memory: Arc<AddressMemory>,
    tracker: TaskTracker,
}

/// What the configuration says.
#[derive(Debug)]
pub(crate) struct Setup {
    tls: TlsClient,
    hostname: Hostname,
    sources: Vec<Source>,
    connect_timeout: Duration,
}

impl Setup {
    fn new(config: &Config) -> Result<Self, TlsSetupError> {
        Ok(Self {
            tls: TlsClient::new(&config.tls)?,
            hostname: config.hostname.clone(),
            sources: config.sources.clone(),
            connect_timeout: config.delivery.connect_timeout,
        })
    }

    /// What we call ourselves when we come from `local`.
    fn ehlo_name(&self, local: IpAddr) -> Domain {
        let source = self.sources.iter().find(|source| source.address == local.to_canonical());
        let own = source.and_then(|source| source.hostname.as_ref());
        own.unwrap_or(&self.hostname).ehlo_name(local)
    }
}

impl Connector {
    /// Sessions as the configuration says; farewells run on `tracker`.
    ///
    /// # Errors
    ///
    /// [`TlsSetupError`].
    pub(crate) fn new(config: &Config, tracker: TaskTracker) -> Result<Self, TlsSetupError> {
        let setup = Arc::new(Reloadable::new(Self::prepare(config)?));
        Ok(Self { setup, memory: Arc::default(), tracker })
    }

    /// What [`Connector::reconfigure`] takes.
    ///
    /// # Errors
    ///
    /// [`TlsSetupError`].
    pub(crate) fn prepare(config: &Config) -> Result<Setup, TlsSetupError> {
        Setup::new(config)
    }

    /// From now on so. TLS sessions are forgotten, what is known of addresses is not.
    pub(crate) fn reconfigure(&self, setup: Setup) {
        self.setup.replace(setup);
    }

    /// Tries the addresses in turn, never two at once, until one gives a session. May be dropped at
    /// any time.
    ///
    /// # Errors
    ///
    /// [`ConnectFailure`] of the last session that began, or else of the last address. Where
    /// nothing needs TLS and it failed ([`ConnectFailure::is_tls`]), the caller may ask again with
    /// [`Starttls::Skip`].
    pub(crate) async fn connect(
        &self,
        mx: &AuthorizedMx,
        addresses: &[SocketAddr],
        key: &PoolKey,
        starttls: Starttls,
    ) -> Result<Opened, ConnectFailure> {
        let setup = self.setup.now();
        let deadline = Instant::now() + SETUP_BUDGET;
        let visit =
            AddressVisit { setup: &setup, tracker: &self.tracker, mx, key, starttls, deadline };
        let mut tries = self.tries(&setup, addresses, key);
        let missing =
            if addresses.is_empty() { ConnectCause::NoAddress } else { ConnectCause::NoSource };
        let (mut address, mut cause) = (None, missing);
        let (mut sessions, mut sessions_max) = (0, SESSIONS_TRIED_MAX);
        while let Some(next) = tries.pop_front().filter(|_| Instant::now() < deadline) {
            let patience = if tries.is_empty() { LAST_ADDRESS_PATIENCE } else { 1 };
            let stream = match self.tcp(&visit, next.address, patience).await {
                Ok(stream) => stream,
                // What a session said tells more than an address that is dead.
                Err(_) if sessions > 0 => continue,
                Err(error) => {
                    (address, cause) = (Some(next.address), error);
                    continue;
                }
            };
            let failure = match visit.session(stream, next).await {
                Ok(opened) => {
                    self.memory.prefer(&key.host, AddressFamily::of(next.address.ip()));
                    if next.is_second {
                        setup.tls.remember_small(&key.host);
                    }
                    return Ok(opened);
                }
                Err(cause) => {
                    let (host, address) = (key.host.clone(), Some(next.address));
                    ConnectFailure { host, address, cause }
                }
            };
            sessions += 1;
            if failure.is_unanswered_hello() && next.hello == Hello::Large {
                tries.push_front(Try { hello: Hello::Small, is_second: true, ..next });
                sessions_max += 1;
            }
            if failure.is_about_us() && next.address.is_ipv6() {
                self.memory.prefer(&key.host, AddressFamily::V4);
                tries.make_contiguous().sort_by_key(|other| other.address.is_ipv6());
            }
            (address, cause) = (failure.address, failure.cause);
            if sessions == sessions_max {
                break;
            }
        }
        Err(ConnectFailure { host: key.host.clone(), address, cause })
    }

    /// The addresses to try, in order.
    fn tries(&self, setup: &Setup, addresses: &[SocketAddr], key: &PoolKey) -> VecDeque<Try> {
        let is_open =
            |address: &&SocketAddr| key.sources.towards(address.ip()) != FamilySource::Closed;
        let open = addresses.iter().filter(is_open).copied().collect();
        let hello = setup.tls.hello(&key.host);
        let chosen = self.memory.choose(&key.host, open).into_iter();
        chosen.map(|address| Try { address, hello, is_second: false }).collect()
    }

    async fn tcp(
        &self,
        visit: &AddressVisit<'_>,
        address: SocketAddr,
        patience: u32,
    ) -> Result<TcpStream, ConnectCause> {
        let limit = (visit.setup.connect_timeout * patience).min(visit.time_left());
        let dialled = dial(address, visit.key.sources.towards(address.ip()), limit).await;
        let error = match dialled {
            Ok(stream) => {
                self.memory.connected(&visit.key.host, address);
                return Ok(stream);
            }
            Err(error) => error,
        };
        if let Some(how) = error.dead_end() {
            self.memory.failed(&visit.key.host, address, how);
        }
        Err(match error {
            DialError::Tcp(error) => ConnectCause::Tcp(error),
            DialError::TimedOut(limit) => ConnectCause::TcpTimeout(limit),
            DialError::Source(address, error) => {
                let source = visit.setup.sources.iter().find(|source| source.address == address);
                let key = source.map_or_else(
                    || "source".to_owned(),
                    |s| format!("source[{}].address", s.index),
                );
                ConnectCause::Source { key, address, error }
            }
        })
    }

    /// Does any of these addresses of the host take a TCP connection? Nothing is said over it.
    pub(crate) async fn accepts_tcp(&self, key: &PoolKey, addresses: &[SocketAddr]) -> bool {
        for address in self.memory.choose(&key.host, addresses.to_vec()) {
            let exit = key.sources.towards(address.ip());
            if exit != FamilySource::Closed && dial(address, exit, CHECK_TIMEOUT).await.is_ok() {
                self.memory.connected(&key.host, address);
                return true;
            }
        }
        false
    }

    /// Says goodbye in the background.
    pub(crate) fn quit(&self, connection: Connection) {
        self.tracker.spawn(connection.quit());
    }

    /// From now on the host is reached over IPv4 first.
    pub(crate) fn prefer_v4(&self, host: &Domain) {
        self.memory.prefer(host, AddressFamily::V4);
    }

    /// The next session with `key` begins with a full handshake.
    pub(crate) fn forget_tls(&self, key: &PoolKey) {
        self.setup.now().tls.forget(key);
    }
}

/// An address to try.
#[derive(Clone, Copy, Debug)]
struct Try {
    address: SocketAddr,
    hello: Hello,
    /// Did the host fall silent before at a larger ClientHello?
    is_second: bool,
}

/// What all tries at one host share.
struct AddressVisit<'a> {
    setup: &'a Setup,
    tracker: &'a TaskTracker,
    mx: &'a AuthorizedMx,
    key: &'a PoolKey,
    starttls: Starttls,
    deadline: Instant,
}

impl AddressVisit<'_> {
    fn time_left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// From TCP to the session.
    async fn session(&self, stream: TcpStream, next: Try) -> Result<Opened, ConnectCause> {
        let local = stream.local_addr().map_err(ConnectCause::Tcp)?;
        let name = self.setup.ehlo_name(local.ip());
        let mut connection = Connection::plain(stream, next.address);
        connection.set_deadline(Some(self.deadline));
        connection.set_host(&self.key.host);
        let opened = match self.key.endpoint.tls {
            TlsStart::AtOnce => self.secure(connection, &name, next.hello).await?,
            TlsStart::OnCommand => {
                let wish = match (self.mx.needs_tls(), self.starttls) {
                    (true, _) => HelloWish::Required,
                    (false, Starttls::Use) => HelloWish::IfOffered,
                    (false, Starttls::Skip) => HelloWish::No,
                };
                let opening = opening(&mut connection, &name, wish).await;
                match self.or_goodbye(connection, opening)? {
                    (connection, Opening::Plain) => {
                        Opened { connection, observed: Observed::Plain, is_resumed: false }
                    }
                    (connection, Opening::Tls) => {
                        self.secure(connection, &name, next.hello).await?
                    }
                }
            }
        };
        let Opened { mut connection, observed, is_resumed } = opened;
        connection.set_deadline(None);
        Ok(Opened { connection, observed, is_resumed })
    }

    /// Under TLS everything begins anew (RFC 3207 §4.2).
    async fn secure(
        &self,
        connection: Connection,
        name: &Domain,
        small_or_large: Hello,
    ) -> Result<Opened, ConnectCause> {
        if connection.has_unread() {
            return Err(ConnectCause::PlaintextInjected);
        }
        let limit = match small_or_large {
            Hello::Large => LARGE_HELLO_TIMEOUT,
            Hello::Small => HANDSHAKE_TIMEOUT,
        };
        let upgrade = connection.upgrade(&self.setup.tls, self.key, small_or_large);
        let upgraded = match timeout(limit.min(self.time_left()), upgrade).await {
            Ok(upgraded) => upgraded?,
            Err(_) => return Err(HandshakeError::timed_out(limit).into()),
        };
        let (mut connection, mut observed, is_resumed) = upgraded;
        let said = async {
            if self.key.endpoint.tls == TlsStart::AtOnce {
                greeting(&mut connection).await?;
            }
            hello(&mut connection, name, Helo::Never).await
        };
        let said = said.await;
        let (connection, ()) = self.or_goodbye(connection, said)?;
        observed.offers_require_tls = connection.extensions().offers(Extension::RequireTls);
        Ok(Opened { connection, observed: Observed::Tls(observed), is_resumed })
    }

    /// The connection, if what was said over it went well; else goodbye, in the background.
    fn or_goodbye<T>(
        &self,
        connection: Connection,
        said: Result<T, ConnectCause>,
    ) -> Result<(Connection, T), ConnectCause> {
        match said {
            Ok(said) => Ok((connection, said)),
            Err(cause) => {
                if !cause.is_broken() {
                    self.tracker.spawn(connection.quit());
                }
                Err(cause)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use policy::Floor;
    use smtp::Extensions;
    use smtp::limits::{GREETING_TIMEOUT, HELLO_TIMEOUT};
    use tokio::net::TcpListener;

    use super::*;
    use crate::config::{MinVersion, Tls};
    use crate::connect::connection::scripted::{Act, good_server, greeted, host, play};
    use crate::telemetry::Reason;

    const PLAIN_EHLO: &str = "250-mx.example.org\r\n250 SIZE 5000\r\n";
    const STARTTLS_EHLO: &str = "250-mx.example.org\r\n250-SIZE 5000\r\n250 starttls\r\n";

    fn connector() -> Connector {
        let tls = Tls {
            ca_file: None,
            system_roots: false,
            min_version: MinVersion::Tls12,
            post_quantum: true,
        };
        let setup = Setup {
            tls: TlsClient::new(&tls).unwrap(),
            hostname: Hostname::parse("relay.example.net").unwrap(),
            sources: Vec::new(),
            connect_timeout: Duration::from_secs(5),
        };
        let setup = Arc::new(Reloadable::new(setup));
        Connector { setup, memory: Arc::default(), tracker: TaskTracker::new() }
    }

    fn key(mx: &AuthorizedMx) -> PoolKey {
        let (host, sources) = (mx.host().clone(), Sources::default());
        PoolKey { route: None, sources, host, endpoint: Endpoint::mx(25) }
    }

    async fn connect(
        connector: &Connector,
        addresses: &[SocketAddr],
        (floor, starttls): (Floor, Starttls),
    ) -> Result<Opened, ConnectFailure> {
        let mx = host(floor);
        let key = key(&mx);
        connector.connect(&mx, addresses, &key, starttls).await
    }

    const USE: Starttls = Starttls::Use;
    const SKIP: Starttls = Starttls::Skip;

    /// Connects to peers that play these scripts on one address, and says QUIT in the end. Also
    /// what they heard.
    async fn try_scripts(
        scripts: Vec<Vec<Act>>,
        floor: Floor,
        how: Starttls,
    ) -> (Result<(Observed, Extensions), ConnectFailure>, String) {
        let addresses = scripts.len();
        let (address, peer) = play(scripts).await;
        let connector = connector();
        let result = connect(&connector, &vec![address; addresses], (floor, how)).await;
        let shown = result.map(|Opened { connection, observed, is_resumed: _ }| {
            let extensions = *connection.extensions();
            connector.quit(connection);
            (observed, extensions)
        });
        connector.tracker.close();
        connector.tracker.wait().await;
        (shown, peer.await.unwrap())
    }

    fn then(mut script: Vec<Act>, more: &[Act]) -> Vec<Act> {
        script.extend_from_slice(more);
        script
    }

    /// As far as TLS.
    fn under_tls() -> Vec<Act> {
        let handshake = [Act::Hear, Act::Say("220 go\r\n"), Act::Tls(good_server())];
        then(greeted(STARTTLS_EHLO), &handshake)
    }

    #[tokio::test]
    async fn tls_is_used_where_it_is_offered_and_its_ehlo_alone_counts() {
        let script = then(
            under_tls(),
            &[
                Act::Hear,
                Act::Say("250-mx.example.org\r\n250 PIPELINING\r\n"),
                Act::Hear,
                Act::Say("221 bye\r\n"),
            ],
        );
        let (result, heard) = try_scripts(vec![script], Floor::Opportunistic, USE).await;
        let (observed, extensions) = result.unwrap();
        let Observed::Tls(observed) = observed else { panic!("not encrypted") };
        assert!(observed.possession_proven && observed.chain.len() == 1);
        assert!(extensions.offers(Extension::Pipelining));
        assert_eq!(extensions.size(), None, "what was offered before counts for nothing");
        assert_eq!(
            heard,
            "EHLO relay.example.net\r\nSTARTTLS\r\nTLS mx.example.org\nEHLO relay.example.net\r\nQUIT\r\n"
        );
    }

    #[tokio::test]
    async fn clear_text_is_used_only_where_nothing_needs_tls() {
        let ends = [Act::Hear, Act::Say("221 bye\r\n")];
        for (ehlo, how) in [(PLAIN_EHLO, USE), (STARTTLS_EHLO, SKIP)] {
            let script = then(greeted(ehlo), &ends);
            let (result, heard) = try_scripts(vec![script], Floor::Opportunistic, how).await;
            let (observed, extensions) = result.unwrap();
            assert!(matches!(observed, Observed::Plain));
            assert_eq!(extensions.size_limit(), Some(5000));
            assert_eq!(heard, "EHLO relay.example.net\r\nQUIT\r\n");
        }
        // Tried although it is not offered, or although the caller said to skip it.
        for (ehlo, how) in [(PLAIN_EHLO, USE), (STARTTLS_EHLO, SKIP)] {
            let tls = [
                Act::Hear,
                Act::Say("220 go\r\n"),
                Act::Tls(good_server()),
                Act::Hear,
                Act::Say(PLAIN_EHLO),
                Act::Hear,
                Act::Say("221 bye\r\n"),
            ];
            let (result, _) =
                try_scripts(vec![then(greeted(ehlo), &tls)], Floor::Encrypt, how).await;
            assert!(matches!(result.unwrap().0, Observed::Tls(_)));
        }
    }

    const BYE: [Act; 2] = [Act::Hear, Act::Say("221 bye\r\n")];

    /// Plays `script` to a host of that floor; the failure, and the verbs that were heard.
    async fn fail(script: Vec<Act>, floor: Floor) -> (ConnectFailure, String) {
        let (result, heard) = try_scripts(vec![script], floor, USE).await;
        let verbs: Vec<_> = heard.lines().filter_map(|line| line.split(' ').next()).collect();
        (result.unwrap_err(), verbs.join(" "))
    }

    #[tokio::test]
    async fn a_host_that_wants_no_session_is_told_from_one_that_speaks_no_smtp() {
        let cases = [
            (Some("554 no\r\n"), None, Reason::GreetingRefused, "QUIT"),
            (Some("521 no\r\n"), None, Reason::GreetingRefused, "QUIT"),
            (Some("354 go\r\n"), None, Reason::GreetingRefused, "QUIT"),
            (Some("421 busy\r\n"), None, Reason::Throttled, "QUIT"),
            (Some("450 4.7.1 slowly\r\n"), None, Reason::Throttled, "QUIT"),
            (Some("220 a\r\n"), Some("550 no\r\n"), Reason::GreetingRefused, "EHLO QUIT"),
            (Some("220 a\r\n"), Some("502 no\r\n"), Reason::GreetingRefused, "EHLO QUIT"),
            (Some("220 a\r\n"), Some("521 no\r\n"), Reason::GreetingRefused, "EHLO QUIT"),
            (Some("bogus\r\n"), None, Reason::ProtocolError, ""),
            (Some("220-a\r\n221 b\r\n"), None, Reason::ProtocolError, ""),
            (None, None, Reason::ConnectionLost, ""),
        ];
        for (greeting, ehlo, reason, want) in cases {
            let mut script: Vec<Act> = greeting.map(Act::Say).into_iter().collect();
            script.extend(ehlo.into_iter().flat_map(|reply| [Act::Hear, Act::Say(reply)]));
            if greeting.is_some() {
                script.extend(BYE);
            }
            // HELO has no STARTTLS, so it is not tried where TLS is needed.
            let (failure, verbs) = fail(script, Floor::Encrypt).await;
            if reason == Reason::ProtocolError || greeting.is_none() {
                assert!(matches!(failure.cause, ConnectCause::Broken { .. }), "{failure}");
            }
            let is_521 = greeting == Some("521 no\r\n") || ehlo == Some("521 no\r\n");
            assert_eq!(failure.takes_no_mail(), is_521, "{failure}");
            assert_eq!((failure.problem().reason, verbs.as_str()), (reason, want), "{failure}");
            assert!(!failure.is_tls() && !failure.is_local());
        }
    }

    #[tokio::test]
    async fn each_way_of_failing_starttls_has_its_name() {
        use Reason::{StarttlsNotOffered, StarttlsRefused, TlsHandshakeFailed};
        let (all, some) = (Floor::Encrypt, Floor::Opportunistic);
        let cases = [
            (STARTTLS_EHLO, "454 no\r\n", all, StarttlsRefused, "EHLO STARTTLS QUIT"),
            (STARTTLS_EHLO, "501 no\r\n", some, StarttlsRefused, "EHLO STARTTLS QUIT"),
            (STARTTLS_EHLO, "250 ok\r\n", some, StarttlsRefused, "EHLO STARTTLS QUIT"),
            (PLAIN_EHLO, "502 no\r\n", all, StarttlsNotOffered, "EHLO STARTTLS QUIT"),
            (STARTTLS_EHLO, "220 go\r\n250 ok\r\n", some, StarttlsRefused, "EHLO STARTTLS"),
            (STARTTLS_EHLO, "220 go\r\n250 o", all, StarttlsRefused, "EHLO STARTTLS"),
        ];
        for (ehlo, reply, floor, reason, want) in cases {
            let script = then(then(greeted(ehlo), &[Act::Hear, Act::Say(reply)]), &BYE);
            let (failure, verbs) = fail(script, floor).await;
            assert_eq!((failure.problem().reason, verbs.as_str()), (reason, want), "{failure}");
            assert!(failure.is_tls(), "{failure}");
        }
        let silent = then(greeted(STARTTLS_EHLO), &[Act::Hear, Act::Say("220 go\r\n")]);
        let (failure, _) = fail(silent, all).await;
        assert_eq!(failure.problem().reason, TlsHandshakeFailed);
        assert!(failure.is_tls());
    }

    #[tokio::test]
    async fn helo_follows_only_an_ehlo_that_was_not_understood() {
        let script = vec![
            Act::Say("220 old\r\n"),
            Act::Hear,
            Act::Say("502 what?\r\n"),
            Act::Hear,
            Act::Say("250 old\r\n"),
            Act::Hear,
            Act::Say("221 bye\r\n"),
        ];
        let (result, heard) = try_scripts(vec![script], Floor::Opportunistic, USE).await;
        assert!(matches!(result.unwrap().0, Observed::Plain));
        assert_eq!(heard, "EHLO relay.example.net\r\nHELO relay.example.net\r\nQUIT\r\n");

        // Under TLS there are extensions, so HELO would only hide what the host does not want to
        // say.
        let script = then(
            under_tls(),
            &[Act::Hear, Act::Say("502 what?\r\n"), Act::Hear, Act::Say("250 old\r\n")],
        );
        let (result, heard) = try_scripts(vec![script], Floor::Opportunistic, USE).await;
        assert!(matches!(result.unwrap_err().cause, ConnectCause::Ehlo(_)));
        assert!(!heard.contains("HELO"), "{heard}");

        let script = then(greeted("451 later\r\n"), &[Act::Hear, Act::Say("221 bye\r\n")]);
        let (result, heard) = try_scripts(vec![script], Floor::Opportunistic, USE).await;
        assert!(matches!(result.unwrap_err().cause, ConnectCause::Ehlo(_)));
        assert_eq!(heard, "EHLO relay.example.net\r\nQUIT\r\n");
    }

    /// RFC 5321 §4.5.3.2 for what it names; the rest is ours. An only address gets half a minute by
    /// default.
    #[test]
    fn cl_12_there_is_time_for_every_step_before_the_first_mail() {
        assert!(SETUP_BUDGET >= GREETING_TIMEOUT + 2 * HELLO_TIMEOUT, "greeting, EHLO, STARTTLS");
        assert!(HANDSHAKE_TIMEOUT >= LARGE_HELLO_TIMEOUT);
        let default = Duration::from_secs(10);
        assert!((30..=60).contains(&(default * LAST_ADDRESS_PATIENCE).as_secs()));
    }

    #[tokio::test]
    async fn addresses_are_tried_in_turn() {
        let dead = {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            listener.local_addr().unwrap()
        };
        let good = || then(greeted(PLAIN_EHLO), &[Act::HearAll]);
        let busy = || vec![Act::Say("421 busy\r\n"), Act::Hear, Act::Say("221 bye\r\n")];
        let (live, _peer) = play(vec![good()]).await;
        let plain = (Floor::Opportunistic, USE);
        let opened = connect(&connector(), &[dead, live], plain).await.unwrap();
        assert_eq!(opened.connection.peer(), live);

        let (live, _peer) = play(vec![busy(), good()]).await;
        assert!(connect(&connector(), &[live, live], plain).await.is_ok());

        let (live, _peer) = play(vec![busy()]).await;
        let failure = connect(&connector(), &[live, dead], plain).await.unwrap_err();
        assert!(failure.is_throttling(), "what a session said stands: {failure}");
        let failure = connect(&connector(), &[dead], plain).await.unwrap_err();
        assert_eq!(failure.problem().reason, Reason::ConnectFailed);
        let failure = connect(&connector(), &[], plain).await.unwrap_err();
        assert_eq!(failure.problem().reason, Reason::NoMailHost);
    }
}
