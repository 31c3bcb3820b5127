//! Why there is no session, and what that means.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use smtp::{Domain, Reply, ReplyClass};

use super::dial::{is_local, is_no_route};
use crate::connect::connection::BrokenConnection;
use crate::connect::tls::HandshakeError;
use crate::telemetry::{Problem, Reason};

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
#[error("{host}{}: {cause}", at(host, *address))]
pub(crate) struct ConnectFailure {
    pub(crate) host: Domain,
    /// The address that the cause is about; none if there was no address to try.
    pub(crate) address: Option<SocketAddr>,
    /// Which step failed there, and how.
    pub(crate) cause: ConnectCause,
}

/// The address, unless the host is named by it.
fn at(host: &Domain, address: Option<SocketAddr>) -> String {
    let Some(ip) = address.map(|address| address.ip()) else { return String::new() };
    if *host == Domain::Literal(ip) { String::new() } else { format!(" [{ip}]") }
}

/// What went wrong at one address, in the order of the dialogue.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectCause {
    /// There was no address.
    #[error("no address to connect to")]
    NoAddress,
    /// There were addresses, of families that none of ours is of.
    #[error("no [[source]] is of a family that the host has an address of")]
    NoSource,
    /// There were addresses, of a family that the operator leaves out.
    #[error("delivery.ip leaves out every address that the host has")]
    LeftOut,
    /// We cannot leave from our own address.
    #[error("{key}: cannot connect from {address}: {error}")]
    Source {
        /// The key in the configuration.
        key: String,
        /// The address that `[[source]]` names.
        address: IpAddr,
        /// What the system says.
        #[source]
        error: io::Error,
    },
    /// TCP did not connect: refused, no route, or an error of this system.
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
    /// The connection ended, timed out or spoke nonsense while a reply was awaited.
    #[error("{}: {broken}", .step.name())]
    Broken {
        /// The reply that was awaited.
        step: ConnectStep,
        /// How the connection failed.
        #[source]
        broken: BrokenConnection,
    },
}

/// A reply that is awaited before there is a session.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum ConnectStep {
    Greeting,
    /// EHLO, or HELO after it.
    Ehlo,
    Starttls,
    Auth,
}

impl ConnectStep {
    /// The word for log and DSN.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Greeting => "greeting",
            Self::Ehlo => "EHLO",
            Self::Starttls => "STARTTLS",
            Self::Auth => "AUTH",
        }
    }

    pub(super) fn broken(self, broken: BrokenConnection) -> ConnectCause {
        ConnectCause::Broken { step: self, broken }
    }
}

impl ConnectCause {
    /// Is there nobody left to say goodbye to?
    pub(super) fn is_broken(&self) -> bool {
        matches!(self, Self::Broken { .. })
    }
}

/// A refusal in words.
enum HostAnswer<'a> {
    /// To the session: greeting or EHLO.
    ToUs(&'a Reply),
    /// To STARTTLS, or that it is not offered: the reply to EHLO.
    ToStarttls(&'a Reply),
    /// The failure is no reply of the host.
    None,
}

impl ConnectFailure {
    /// Did the peer fall silent over our first words of TLS?
    pub(super) fn is_unanswered_hello(&self) -> bool {
        matches!(&self.cause, ConnectCause::Handshake(error) if error.is_silence())
    }

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
            ConnectCause::Broken { step, .. } => step == ConnectStep::Starttls,
            ConnectCause::NoAddress
            | ConnectCause::NoSource
            | ConnectCause::LeftOut
            | ConnectCause::Source { .. }
            | ConnectCause::Tcp(_)
            | ConnectCause::TcpTimeout(_)
            | ConnectCause::Greeting(_)
            | ConnectCause::Ehlo(_) => false,
        }
    }

    /// Does the host say for good that it does no TLS? Trouble on the way to TLS is none of it.
    pub(crate) fn has_no_tls(&self) -> bool {
        matches!(self.answer(), HostAnswer::ToStarttls(reply) if reply.class() == ReplyClass::Permanent)
    }

    /// Is the trouble our own: no descriptors, no memory?
    pub(crate) fn is_local(&self) -> bool {
        matches!(&self.cause, ConnectCause::Tcp(error) if is_local(error))
    }

    /// Is it about our own address? Mail that leaves from another one is not concerned.
    pub(crate) fn is_source(&self) -> bool {
        matches!(self.cause, ConnectCause::Source { .. })
    }

    /// Is there no such way to the host at all, so that trying again would find none either?
    pub(crate) fn has_no_way(&self) -> bool {
        match &self.cause {
            ConnectCause::NoAddress | ConnectCause::NoSource | ConnectCause::LeftOut => true,
            ConnectCause::Tcp(error) => is_no_route(error),
            ConnectCause::Source { .. }
            | ConnectCause::TcpTimeout(_)
            | ConnectCause::Greeting(_)
            | ConnectCause::Ehlo(_)
            | ConnectCause::StarttlsNotOffered(_)
            | ConnectCause::StarttlsRefused(_)
            | ConnectCause::PlaintextInjected
            | ConnectCause::Handshake(_)
            | ConnectCause::Broken { .. } => false,
        }
    }

    /// Is nobody let in there, whoever asks and for whatever mail?
    pub(crate) fn is_shut_to_all(&self) -> bool {
        match &self.cause {
            ConnectCause::Tcp(error) => !is_local(error) && !is_no_route(error),
            ConnectCause::TcpTimeout(_) => true,
            ConnectCause::Broken { step, .. } => *step == ConnectStep::Greeting,
            ConnectCause::NoAddress
            | ConnectCause::NoSource
            | ConnectCause::LeftOut
            | ConnectCause::Source { .. }
            | ConnectCause::Greeting(_)
            | ConnectCause::Ehlo(_)
            | ConnectCause::StarttlsNotOffered(_)
            | ConnectCause::StarttlsRefused(_)
            | ConnectCause::PlaintextInjected
            | ConnectCause::Handshake(_) => false,
        }
    }

    /// Is it that TCP did not connect?
    pub(crate) fn is_unreachable(&self) -> bool {
        matches!(self.cause, ConnectCause::Tcp(_) | ConnectCause::TcpTimeout(_))
    }

    /// Does the host ask for fewer connections (RFC 5321 §3.8, RFC 3463 §3.8)?
    pub(crate) fn is_throttling(&self) -> bool {
        self.reply_to_us().is_some_and(is_throttling)
    }

    /// Does the host mind who we are, as far as it can tell by our address (RFC 3463 §3.8)?
    pub(crate) fn is_about_us(&self) -> bool {
        self.reply_to_us().is_some_and(is_about_us)
    }

    /// The refusal of the session as such.
    fn reply_to_us(&self) -> Option<&Reply> {
        match self.answer() {
            HostAnswer::ToUs(reply) => Some(reply),
            HostAnswer::ToStarttls(_) | HostAnswer::None => None,
        }
    }

    /// What the host said no to.
    fn answer(&self) -> HostAnswer<'_> {
        match &self.cause {
            ConnectCause::Greeting(reply) | ConnectCause::Ehlo(reply) => HostAnswer::ToUs(reply),
            ConnectCause::StarttlsNotOffered(reply) | ConnectCause::StarttlsRefused(reply) => {
                HostAnswer::ToStarttls(reply)
            }
            ConnectCause::NoAddress
            | ConnectCause::NoSource
            | ConnectCause::LeftOut
            | ConnectCause::Source { .. }
            | ConnectCause::Tcp(_)
            | ConnectCause::TcpTimeout(_)
            | ConnectCause::PlaintextInjected
            | ConnectCause::Handshake(_)
            | ConnectCause::Broken { .. } => HostAnswer::None,
        }
    }

    /// The failure in the words that log, queue and DSN share.
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
            ConnectCause::Source { .. } => Reason::LocalError,
            ConnectCause::Tcp(_) | ConnectCause::NoSource | ConnectCause::LeftOut => {
                Reason::ConnectFailed
            }
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
            ConnectCause::Broken {
                broken: BrokenConnection::NotSmtp(_) | BrokenConnection::OutOfStep,
                ..
            } => Reason::ProtocolError,
            ConnectCause::Broken {
                broken:
                    BrokenConnection::Closed | BrokenConnection::Io(_) | BrokenConnection::TimedOut(_),
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

/// 5.7.x: refused for good, for reasons of policy, which often is a policy about our address.
pub(crate) fn is_about_us(reply: &Reply) -> bool {
    let is_policy = reply.status.is_some_and(|status| status.subject == 7);
    reply.class() == ReplyClass::Permanent && is_policy
}
