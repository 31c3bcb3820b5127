//! From a host that mail may be sent to, to a session with it: TCP, greeting, EHLO, STARTTLS, EHLO.
//!
//! The connector takes an [`AuthorizedMx`] and nothing else, tries its addresses in turn, and reports
//! what the session showed. It judges no certificate, and it never goes on in clear text where TLS
//! was begun: that takes a new connection, which the caller has to ask for.
//!
//! Not here: whether mail may go over the session (`policy::AuthorizedMx::admit`), how many sessions
//! there may be (`pool`).

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use policy::{AuthorizedMx, Observed};
use rustix::io::Errno;
use smtp::limits::{GREETING_TIMEOUT, HELLO_TIMEOUT};
use smtp::{Domain, Extension, Extensions, Reply, ReplyClass};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use crate::config::{Config, Hostname};
use crate::connection::{Broken, Connection};
use crate::outcome::{Problem, Reason};
use crate::tls::{HandshakeError, TlsClient, TlsSetupError};

/// Ours: addresses of one host that are tried; RFC 5321 §5.1 wants at least two.
const ADDRESSES_TRIED_MAX: usize = 5;
/// Ours: addresses at which a session that begins and fails is taken as the host's answer. Each may
/// cost the time of a greeting.
const SESSIONS_TRIED_MAX: usize = 2;
/// The last address gets this many times `delivery.connect_timeout`: there is nothing else to try.
const LAST_ADDRESS_PATIENCE: u32 = 3;
/// Ours: for the whole TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(60);

/// What the caller asks for beyond what the [`AuthorizedMx`] needs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct How {
    /// STARTTLS where nothing requires it.
    pub(crate) starttls: Starttls,
}

/// What to do with an offered STARTTLS.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Starttls {
    /// Use it.
    Use,
    /// Leave it, since it failed before. Means nothing for a host that needs TLS.
    Skip,
}

/// A session that is ready for MAIL, and the evidence to judge it by.
#[derive(Debug)]
pub(crate) struct Opened {
    /// The host, as it was authorized.
    pub(crate) mx: AuthorizedMx,
    /// The session.
    pub(crate) connection: Connection,
    /// What it showed.
    pub(crate) observed: Observed,
}

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
#[error("{host}{}: {cause}", at(.address))]
pub(crate) struct ConnectFailure {
    /// The host.
    pub(crate) host: Domain,
    /// The address that the cause is about; none if there was no address to try.
    pub(crate) address: Option<SocketAddr>,
    /// What happened there.
    pub(crate) cause: ConnectCause,
}

fn at(address: &Option<SocketAddr>) -> String {
    address.map(|address| format!(" [{}]", address.ip())).unwrap_or_default()
}

/// What went wrong at one address, in the order of the dialogue.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectCause {
    /// There was no address.
    #[error("no address to connect to")]
    NoAddress,
    /// TCP failed.
    #[error("connection failed: {0}")]
    Tcp(#[source] io::Error),
    /// TCP did not connect in time.
    #[error("no connection within {} s", .0.as_secs())]
    TcpTimeout(Duration),
    /// The host wants no session.
    #[error("greeting: {0}")]
    Greeting(Reply),
    /// The host does not want us.
    #[error("EHLO: {0}")]
    Ehlo(Reply),
    /// TLS is needed, STARTTLS was not offered, and trying it all the same failed.
    #[error("STARTTLS is not offered: {0}")]
    StarttlsNotOffered(Reply),
    /// STARTTLS was offered and then refused.
    #[error("STARTTLS: {0}")]
    StarttlsRefused(Reply),
    /// Octets came behind the 220 to STARTTLS, in clear text: somebody on the path wants them taken
    /// for answers given under TLS (CVE-2021-38371).
    #[error("clear text was injected behind the answer to STARTTLS")]
    PlaintextInjected,
    /// The TLS handshake failed.
    #[error("TLS: {0}")]
    Handshake(#[from] HandshakeError),
    /// The connection broke.
    #[error("{}: {broken}", .step.name())]
    Broken {
        /// What was awaited.
        step: Step,
        /// What happened.
        #[source]
        broken: Broken,
    },
}

/// A reply that is awaited before there is a session.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Step {
    /// The greeting.
    Greeting,
    /// EHLO or HELO.
    Ehlo,
    /// STARTTLS.
    Starttls,
}

impl Step {
    /// For people.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Greeting => "greeting",
            Self::Ehlo => "EHLO",
            Self::Starttls => "STARTTLS",
        }
    }

    fn broken(self, broken: Broken) -> ConnectCause {
        ConnectCause::Broken { step: self, broken }
    }
}

impl ConnectFailure {
    /// Did the host say that it takes no mail at all (RFC 7504)?
    pub(crate) fn takes_no_mail(&self) -> bool {
        self.reply_to_us().is_some_and(|reply| matches!(reply.code, 521 | 556))
    }

    /// Is it about TLS, so that clear text might work where nothing is required?
    pub(crate) fn is_tls(&self) -> bool {
        match self.cause {
            ConnectCause::StarttlsNotOffered(_)
            | ConnectCause::StarttlsRefused(_)
            | ConnectCause::PlaintextInjected
            | ConnectCause::Handshake(_) => true,
            ConnectCause::Broken { step, .. } => step == Step::Starttls,
            ConnectCause::NoAddress
            | ConnectCause::Tcp(_)
            | ConnectCause::TcpTimeout(_)
            | ConnectCause::Greeting(_)
            | ConnectCause::Ehlo(_) => false,
        }
    }

    /// Does the host say for good that it does no TLS? Trouble on the way to TLS is none of it.
    pub(crate) fn has_no_tls(&self) -> bool {
        match &self.cause {
            ConnectCause::StarttlsNotOffered(reply) | ConnectCause::StarttlsRefused(reply) => {
                reply.class() == ReplyClass::Permanent
            }
            ConnectCause::NoAddress
            | ConnectCause::Tcp(_)
            | ConnectCause::TcpTimeout(_)
            | ConnectCause::Greeting(_)
            | ConnectCause::Ehlo(_)
            | ConnectCause::PlaintextInjected
            | ConnectCause::Handshake(_)
            | ConnectCause::Broken { .. } => false,
        }
    }

    /// Is the trouble our own: no descriptors, no memory?
    pub(crate) fn is_local(&self) -> bool {
        let ConnectCause::Tcp(error) = &self.cause else { return false };
        let ours = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
        Errno::from_io_error(error).is_some_and(|errno| ours.contains(&errno))
    }

    /// Does the host ask for fewer connections (RFC 5321 §3.8, RFC 3463 §3.8)?
    pub(crate) fn is_throttling(&self) -> bool {
        self.reply_to_us().is_some_and(is_throttling)
    }

    /// The refusal of the session as such.
    fn reply_to_us(&self) -> Option<&Reply> {
        match &self.cause {
            ConnectCause::Greeting(reply) | ConnectCause::Ehlo(reply) => Some(reply),
            ConnectCause::NoAddress
            | ConnectCause::Tcp(_)
            | ConnectCause::TcpTimeout(_)
            | ConnectCause::StarttlsNotOffered(_)
            | ConnectCause::StarttlsRefused(_)
            | ConnectCause::PlaintextInjected
            | ConnectCause::Handshake(_)
            | ConnectCause::Broken { .. } => None,
        }
    }

    /// The failure in the words that log, queue and notice share.
    pub(crate) fn problem(&self) -> Problem {
        let problem = Problem::new(self.reason(), &self.to_string());
        match self.reply_to_us() {
            Some(reply) => problem.answered(reply),
            None => problem,
        }
    }

    fn reason(&self) -> Reason {
        match &self.cause {
            ConnectCause::NoAddress => Reason::NoMailHost,
            ConnectCause::Tcp(_) if self.is_local() => Reason::LocalError,
            ConnectCause::Tcp(_) => Reason::ConnectFailed,
            ConnectCause::TcpTimeout(_) => Reason::ConnectTimeout,
            ConnectCause::Greeting(_) | ConnectCause::Ehlo(_) if self.is_throttling() => {
                Reason::Throttled
            }
            ConnectCause::Greeting(_) | ConnectCause::Ehlo(_) => Reason::GreetingRefused,
            ConnectCause::StarttlsNotOffered(_) => Reason::StarttlsNotOffered,
            ConnectCause::StarttlsRefused(_) | ConnectCause::PlaintextInjected => {
                Reason::StarttlsRefused
            }
            ConnectCause::Handshake(_) => Reason::TlsHandshakeFailed,
            ConnectCause::Broken { broken: Broken::NotSmtp(_) | Broken::OutOfStep, .. } => {
                Reason::ProtocolError
            }
            ConnectCause::Broken {
                broken: Broken::Closed | Broken::Io(_) | Broken::TimedOut(_),
                ..
            } => Reason::ConnectionLost,
        }
    }
}

/// 421, or 4yz with an enhanced code about security or policy, which is what rate limits use.
pub(crate) fn is_throttling(reply: &Reply) -> bool {
    let is_policy = reply.status.is_some_and(|status| status.subject == 7);
    reply.code == 421 || (reply.class() == ReplyClass::Transient && is_policy)
}

/// Makes sessions.
#[derive(Clone, Debug)]
pub(crate) struct Connector {
    tls: TlsClient,
    hostname: Hostname,
    connect_timeout: Duration,
    tracker: TaskTracker,
}

impl Connector {
    /// Sessions as the configuration says; farewells run on `tracker`.
    ///
    /// # Errors
    ///
    /// [`TlsSetupError`].
    pub(crate) fn new(config: &Config, tracker: TaskTracker) -> Result<Self, TlsSetupError> {
        Ok(Self {
            tls: TlsClient::new(&config.tls)?,
            hostname: config.hostname.clone(),
            connect_timeout: config.delivery.connect_timeout,
            tracker,
        })
    }

    /// Tries the addresses in turn until one gives a session. May be dropped at any time.
    ///
    /// # Errors
    ///
    /// [`ConnectFailure`] of the last session that began, or else of the last address. Where nothing
    /// needs TLS and it failed ([`ConnectFailure::is_tls`]), the caller may ask again with
    /// [`Starttls::Skip`].
    pub(crate) async fn connect(
        &self,
        mx: AuthorizedMx,
        addresses: &[SocketAddr],
        how: How,
    ) -> Result<Opened, ConnectFailure> {
        let (mut address, mut cause, mut sessions) = (None, ConnectCause::NoAddress, 0);
        let last = addresses.len().min(ADDRESSES_TRIED_MAX).saturating_sub(1);
        for (index, &candidate) in addresses.iter().take(ADDRESSES_TRIED_MAX).enumerate() {
            let patience = if index == last { LAST_ADDRESS_PATIENCE } else { 1 };
            let stream = match tcp(candidate, self.connect_timeout * patience).await {
                Ok(stream) => stream,
                // What a session said tells more than an address that is dead.
                Err(_) if sessions > 0 => continue,
                Err(error) => {
                    (address, cause) = (Some(candidate), error);
                    continue;
                }
            };
            match self.session(&mx, stream, candidate, how).await {
                Ok((connection, observed)) => return Ok(Opened { mx, connection, observed }),
                Err(error) => (address, cause) = (Some(candidate), error),
            }
            sessions += 1;
            if sessions == SESSIONS_TRIED_MAX {
                break;
            }
        }
        Err(ConnectFailure { host: mx.host().clone(), address, cause })
    }

    /// Says goodbye in the background.
    pub(crate) fn quit(&self, connection: Connection) {
        self.tracker.spawn(connection.quit());
    }

    /// From TCP to the session.
    async fn session(
        &self,
        mx: &AuthorizedMx,
        stream: TcpStream,
        address: SocketAddr,
        how: How,
    ) -> Result<(Connection, Observed), ConnectCause> {
        let local = stream.local_addr().map_err(ConnectCause::Tcp)?;
        let name = self.hostname.ehlo_name(local.ip());
        let mut connection = Connection::plain(stream, address);
        let wish = match (mx.needs_tls(), how.starttls) {
            (true, _) => Wish::Required,
            (false, Starttls::Use) => Wish::IfOffered,
            (false, Starttls::Skip) => Wish::No,
        };
        match opening(&mut connection, &name, wish).await {
            Ok(Opening::Plain) => Ok((connection, Observed::Plain)),
            Ok(Opening::Tls) => self.secure(mx, connection, &name).await,
            Err(cause @ ConnectCause::Broken { .. }) => Err(cause),
            Err(cause) => {
                self.quit(connection);
                Err(cause)
            }
        }
    }

    /// Under TLS everything begins anew (RFC 3207 §4.2).
    async fn secure(
        &self,
        mx: &AuthorizedMx,
        connection: Connection,
        name: &Domain,
    ) -> Result<(Connection, Observed), ConnectCause> {
        if connection.has_unread() {
            return Err(ConnectCause::PlaintextInjected);
        }
        let upgrade = connection.upgrade(&self.tls, mx.host());
        let (mut connection, mut observed) = match timeout(HANDSHAKE_TIMEOUT, upgrade).await {
            Ok(upgraded) => upgraded?,
            Err(_) => return Err(HandshakeError::timed_out(HANDSHAKE_TIMEOUT).into()),
        };
        match hello(&mut connection, name, Helo::Never).await {
            Ok(()) => {
                observed.offers_require_tls = connection.extensions().offers(Extension::RequireTls);
                Ok((connection, Observed::Tls(observed)))
            }
            Err(cause @ ConnectCause::Broken { .. }) => Err(cause),
            Err(cause) => {
                self.quit(connection);
                Err(cause)
            }
        }
    }
}

async fn tcp(address: SocketAddr, limit: Duration) -> Result<TcpStream, ConnectCause> {
    let stream = match timeout(limit, TcpStream::connect(address)).await {
        Ok(connected) => connected.map_err(ConnectCause::Tcp)?,
        Err(_) => return Err(ConnectCause::TcpTimeout(limit)),
    };
    // Every write is a whole group of commands; there is nothing to wait for.
    stream.set_nodelay(true).map_err(ConnectCause::Tcp)?;
    Ok(stream)
}

/// How much TLS is wanted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Wish {
    Required,
    IfOffered,
    No,
}

/// What follows EHLO in clear text.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Opening {
    /// Mail.
    Plain,
    /// The handshake.
    Tls,
}

async fn opening(
    connection: &mut Connection,
    name: &Domain,
    wish: Wish,
) -> Result<Opening, ConnectCause> {
    let greeting =
        connection.reply(GREETING_TIMEOUT).await.map_err(|broken| Step::Greeting.broken(broken))?;
    if greeting.class() != ReplyClass::Success {
        return Err(ConnectCause::Greeting(greeting));
    }
    let helo = if wish == Wish::Required { Helo::Never } else { Helo::Allowed };
    hello(connection, name, helo).await?;
    let is_offered = connection.extensions().offers(Extension::Starttls);
    if wish == Wish::No || (wish == Wish::IfOffered && !is_offered) {
        return Ok(Opening::Plain);
    }
    // Where it is required it is tried also if not offered: who strips the offer from EHLO gains
    // nothing (RFC 8461 §10.2).
    let reply = connection
        .command("STARTTLS\r\n", HELLO_TIMEOUT)
        .await
        .map_err(|broken| Step::Starttls.broken(broken))?;
    match (reply.code, is_offered) {
        (220, _) => Ok(Opening::Tls),
        (_, true) => Err(ConnectCause::StarttlsRefused(reply)),
        (_, false) => Err(ConnectCause::StarttlsNotOffered(reply)),
    }
}

/// May HELO follow an EHLO that was not understood? It has no extensions, so no STARTTLS.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Helo {
    Allowed,
    Never,
}

async fn hello(connection: &mut Connection, name: &Domain, helo: Helo) -> Result<(), ConnectCause> {
    let broken = |broken| Step::Ehlo.broken(broken);
    let reply =
        connection.command(&format!("EHLO {name}\r\n"), HELLO_TIMEOUT).await.map_err(broken)?;
    if reply.class() == ReplyClass::Success {
        connection.set_extensions(Extensions::from_reply(&reply));
        return Ok(());
    }
    // RFC 5321 §3.2: only what says "not implemented", never 421 or another refusal.
    if helo == Helo::Never || !matches!(reply.code, 500 | 502 | 504) {
        return Err(ConnectCause::Ehlo(reply));
    }
    let reply =
        connection.command(&format!("HELO {name}\r\n"), HELLO_TIMEOUT).await.map_err(broken)?;
    if reply.class() == ReplyClass::Success { Ok(()) } else { Err(ConnectCause::Ehlo(reply)) }
}

#[cfg(test)]
mod tests {
    use policy::Floor;
    use tokio::net::TcpListener;

    use super::*;
    use crate::config::{MinVersion, Tls};
    use crate::connection::scripted::{Act, good_server, greeted, host, play};

    const PLAIN_EHLO: &str = "250-mx.example.org\r\n250 SIZE 5000\r\n";
    const STARTTLS_EHLO: &str = "250-mx.example.org\r\n250-SIZE 5000\r\n250 starttls\r\n";

    fn connector() -> Connector {
        let tls = Tls {
            ca_file: None,
            system_roots: false,
            min_version: MinVersion::Tls12,
            post_quantum: true,
        };
        Connector {
            tls: TlsClient::new(&tls).unwrap(),
            hostname: Hostname::parse("relay.example.net").unwrap(),
            connect_timeout: Duration::from_secs(5),
            tracker: TaskTracker::new(),
        }
    }

    const USE: How = How { starttls: Starttls::Use };
    const SKIP: How = How { starttls: Starttls::Skip };

    /// Connects to peers that play these scripts on one address, and says QUIT in the end. Also what
    /// they heard.
    async fn try_scripts(
        scripts: Vec<Vec<Act>>,
        floor: Floor,
        how: How,
    ) -> (Result<(Observed, Extensions), ConnectFailure>, String) {
        let addresses = scripts.len();
        let (address, peer) = play(scripts).await;
        let connector = connector();
        let result = connector.connect(host(floor), &vec![address; addresses], how).await;
        let shown = result.map(|Opened { connection, observed, mx: _ }| {
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

    #[tokio::test]
    async fn tls_is_used_where_it_is_offered_and_its_ehlo_alone_counts() {
        let script = then(
            greeted(STARTTLS_EHLO),
            &[
                Act::Hear,
                Act::Say("220 go\r\n"),
                Act::Tls(good_server()),
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

        let script = then(greeted("451 later\r\n"), &[Act::Hear, Act::Say("221 bye\r\n")]);
        let (result, heard) = try_scripts(vec![script], Floor::Opportunistic, USE).await;
        assert!(matches!(result.unwrap_err().cause, ConnectCause::Ehlo(_)));
        assert_eq!(heard, "EHLO relay.example.net\r\nQUIT\r\n");
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
        let mx = || host(Floor::Opportunistic);
        let opened = connector().connect(mx(), &[dead, live], USE).await.unwrap();
        assert_eq!(opened.connection.peer(), live);

        let (live, _peer) = play(vec![busy(), good()]).await;
        assert!(connector().connect(mx(), &[live, live], USE).await.is_ok());

        let (live, _peer) = play(vec![busy()]).await;
        let failure = connector().connect(mx(), &[live, dead], USE).await.unwrap_err();
        assert!(failure.is_throttling(), "what a session said stands: {failure}");
        let failure = connector().connect(mx(), &[dead], USE).await.unwrap_err();
        assert_eq!(failure.problem().reason, Reason::ConnectFailed);
        let failure = connector().connect(mx(), &[], USE).await.unwrap_err();
        assert_eq!(failure.problem().reason, Reason::NoMailHost);
    }
}
