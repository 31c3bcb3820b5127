//! A valid configuration, as the daemon runs on it. Fields are named as the keys.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use smtp::{Domain, HostName, Mailbox};

use super::access::Access;
use super::aliases::Aliases;
use super::hostname::Hostname;
use super::listener::{Listener, Submit};
use super::pattern::DomainPattern;
use super::prefix::Prefix;

/// A configuration in which every value is valid, with defaults filled in.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// Our name in EHLO and Received (RFC 5321 §4.1.1.1).
    pub(crate) hostname: Hostname,
    /// What completes a name without a domain; the host name unless written. Aliases are known
    /// there, too.
    pub(crate) origin: Domain,
    /// Where accepted mail and policies are kept. Must survive a reboot.
    pub(crate) data_dir: PathBuf,
    /// How long running attempts may take after a stop was asked for.
    pub(crate) shutdown_grace: Duration,
    /// Where mail comes in; at least one.
    pub(crate) listeners: Vec<Listener>,
    /// Who may relay or log in, and to and from which addresses mail is refused.
    pub(crate) access: Access,
    /// Local names, and the addresses that their mail goes to.
    pub(crate) aliases: Aliases,
    /// What is too much.
    pub(crate) limits: Limits,
    /// Resolvers, and how long one may take.
    pub(crate) dns: Dns,
    /// What holds for mail that leaves, where no route says otherwise.
    pub(crate) delivery: Delivery,
    /// TLS towards MX hosts and routes.
    pub(crate) tls: Tls,
    /// MTA-STS (RFC 8461): policies and how they are fetched.
    pub(crate) mta_sts: MtaSts,
    /// Next hops other than the recipient's MX. No pattern stands in two of them.
    pub(crate) routes: Vec<Route>,
    /// Our addresses; empty: the system chooses.
    pub(crate) sources: Vec<Source>,
    /// How fast mail leaves. No pattern stands in two of them.
    pub(crate) outbound_limits: Vec<Limit>,
    /// DSNs of failure (RFC 3464).
    pub(crate) dsn: DsnSettings,
    /// The socket of the command line.
    pub(crate) admin: Admin,
    /// The socket for programs of this machine.
    pub(crate) submit: Submit,
    /// What is written to stderr.
    pub(crate) log: Log,
}

impl Config {
    /// Who may log in. Without a listener for them nobody may, and the file need not be there.
    pub(crate) fn users_file(&self) -> Option<&Path> {
        let is_asked_for = self.listeners.iter().any(|listener| listener.mode.is_for_users());
        self.access.users_file.as_deref().filter(|_| is_asked_for)
    }
}

/// `[limits]`; sizes in bytes, counts at least 1.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    /// Largest message taken, as SIZE says (RFC 1870).
    pub(crate) message_size: u64,
    /// Recipients that one message may have.
    pub(crate) recipients: usize,
    /// Inbound, all listeners together.
    pub(crate) connections: usize,
    /// Inbound, of one client address.
    pub(crate) connections_per_client: usize,
    /// Mistakes after which a session is ended.
    pub(crate) errors_per_session: usize,
    /// How long a client may take for a command, or for a block of content.
    pub(crate) client_timeout: Duration,
    /// Inbound buffers and bodies held in memory, all together.
    pub(crate) memory: u64,
    /// Messages in the queue; none: bounded by the disk.
    pub(crate) queue_messages: Option<u64>,
    /// Free space of the data directory's file system below which mail is refused for now.
    pub(crate) disk_free_min: u64,
    /// Messages that one client may hand in; none: as many as it likes.
    pub(crate) messages_per_client_per_minute: Option<NonZeroU32>,
    /// Recipients that one sender may have before the mail to further ones is held.
    pub(crate) recipients_per_sender_per_hour: Option<NonZeroU32>,
}

#[derive(Clone, Debug)]
pub(crate) struct Dns {
    /// Resolvers; empty: the system's.
    pub(crate) servers: Vec<SocketAddr>,
    /// Of one try at one server.
    pub(crate) timeout: Duration,
}

/// `[delivery]`; counts at least 1.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Delivery {
    /// TCP port of MX hosts.
    pub(crate) port: u16,
    /// What is asked where the domain asks nothing.
    pub(crate) tls: TlsFloor,
    /// When plain text follows a failed STARTTLS, where nothing is required.
    pub(crate) cleartext_fallback: CleartextFallback,
    /// What becomes of octets above 127.
    pub(crate) eightbit: EightBit,
    /// What becomes of long lines.
    pub(crate) long_lines: LongLines,
    /// Address families that connections to MX hosts and routes use.
    pub(crate) ip: IpFamily,
    /// Waits between attempts; not empty, the last one repeats.
    pub(crate) retry: Vec<Duration>,
    /// Age at which a message is returned.
    pub(crate) lifetime: Duration,
    /// The same for mail with the null sender.
    pub(crate) bounce_lifetime: Duration,
    /// When senders hear that their mail waits.
    pub(crate) delay_notice: DelayWarning,
    /// Outbound connections at a time, in all.
    pub(crate) connections: usize,
    /// Outbound, for one next hop.
    pub(crate) connections_per_domain: usize,
    /// Outbound, for one MX host, all domains together.
    pub(crate) connections_per_host: usize,
    /// Connections at a time to all MX hosts of one registrable domain.
    pub(crate) connections_per_site: usize,
    /// Mails over one connection before it is closed.
    pub(crate) messages_per_connection: usize,
    /// Recipients in one transaction.
    pub(crate) recipients_per_transaction: usize,
    /// How long an unused connection is kept.
    pub(crate) connection_idle: Duration,
    /// For TCP to one address.
    pub(crate) connect_timeout: Duration,
    /// Private and special space that MX and policy hosts may be in.
    pub(crate) allow_addresses: Vec<Prefix>,
}

/// `delivery.tls` and `route.tls`, weakest first.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum TlsFloor {
    /// Encrypted where the host offers it; else plain text is good enough.
    Opportunistic,
    /// Encrypted, whatever certificate the host shows.
    Encrypt,
    /// Encrypted, to an authenticated host.
    Verify,
}

/// `delivery.eightbit`: octets above 127, to hosts without 8BITMIME.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum EightBit {
    /// As quoted-printable or base64.
    Convert,
    /// As they are, whatever comes of it.
    Send,
}

/// `delivery.long_lines`: lines of more octets than every host takes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum LongLines {
    /// As they are, although a host may refuse or break them.
    Pass,
    /// As quoted-printable or base64.
    Encode,
    /// Such messages are returned.
    Refuse,
}

/// `delivery.cleartext_fallback`: does plain text follow a failed STARTTLS, and when?
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum CleartextFallback {
    /// Never after STARTTLS was offered.
    Never,
    /// From the second attempt on.
    SecondAttempt,
    /// In the attempt in which STARTTLS failed.
    Immediate,
}

/// `delivery.ip`: the address families that may be used.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum IpFamily {
    Both,
    V4,
    V6,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Tls {
    /// Additional CA certificates (PEM).
    pub(crate) ca_file: Option<PathBuf>,
    /// Trust the system's CA certificates.
    pub(crate) system_roots: bool,
    /// Oldest version of TLS that is spoken.
    pub(crate) min_version: MinVersion,
    /// Is the key exchange X25519MLKEM768 offered?
    pub(crate) post_quantum: bool,
}

/// `tls.min_version`: the oldest version of TLS that is spoken.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum MinVersion {
    Tls12,
    Tls13,
}

#[derive(Clone, Debug)]
pub(crate) struct MtaSts {
    /// What a policy does here.
    pub(crate) mode: StsMode,
    /// Domains for which the mode is [`StsMode::Report`].
    pub(crate) report_domains: Vec<DomainPattern>,
    /// TCP port of policy hosts.
    pub(crate) policy_port: u16,
    /// Additional CA certificates for policy hosts (PEM).
    pub(crate) ca_file: Option<PathBuf>,
    /// For one fetch, all in all.
    pub(crate) fetch_timeout: Duration,
    /// First contact, and the TXT query fails.
    pub(crate) dns_failure: OnFetchFailure,
    /// How long such failures may hold mail of one domain.
    pub(crate) dns_failure_cap: Duration,
    /// First contact, and the fetch failed twice.
    pub(crate) fetch_failure: OnFetchFailure,
    /// How often a policy in use is fetched anew, whatever the TXT record says.
    pub(crate) refresh_every: Duration,
}

impl MtaSts {
    /// What `domain`'s policy does here: the mode, or report where the operator says so.
    pub(crate) fn mode_for(&self, domain: &HostName) -> StsMode {
        let reported = self.report_domains.iter().any(|pattern| pattern.matches(domain));
        match self.mode {
            StsMode::Enforce if reported => StsMode::Report,
            StsMode::Enforce => StsMode::Enforce,
            StsMode::Report => StsMode::Report,
            StsMode::Off => StsMode::Off,
        }
    }
}

/// `mta_sts.mode`: what policies do to mail.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum StsMode {
    /// As the policy says.
    Enforce,
    /// Everything is checked and recorded; mail goes as under a testing policy.
    Report,
    /// Policies are neither looked up nor fetched.
    Off,
}

/// `mta_sts.dns_failure` and `mta_sts.fetch_failure`, for a domain never seen before.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum OnFetchFailure {
    /// Mail waits for a later attempt.
    Defer,
    /// Mail goes as if there were no policy.
    Deliver,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Route {
    /// Recipient domains it is for; not empty.
    pub(crate) domains: Vec<DomainPattern>,
    /// Next hops in the order in which they are tried; not empty.
    pub(crate) via: Vec<Via>,
    /// What is asked of the connection; [`TlsFloor::Verify`] where there is a login.
    pub(crate) tls: TlsFloor,
    /// As whom we log in, if we do.
    pub(crate) login: Option<Arc<RouteLogin>>,
}

/// `route.username` and `route.password_file`: who we are at a smarthost.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct RouteLogin {
    /// Who we are there.
    pub(crate) username: Box<str>,
    /// Its first line is the password. Read at each login, so that a new one needs no reload.
    pub(crate) password_file: PathBuf,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Source {
    /// Its place in the file, for those who have to mend it.
    pub(crate) index: usize,
    /// Where we connect from.
    pub(crate) address: IpAddr,
    /// Our name in EHLO from there, if it is another than `hostname`.
    pub(crate) hostname: Option<Hostname>,
}

/// `[[limit]]`: of each of the `domains`, or of all `mx` hosts together.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Limit {
    /// Its place in the file.
    pub(crate) index: usize,
    /// Recipient domains that have no route; empty if it is about hosts.
    pub(crate) domains: Vec<DomainPattern>,
    /// MX hosts; empty if it is about domains.
    pub(crate) mx: Vec<DomainPattern>,
    /// Connections at a time, instead of `connections_per_domain` or `connections_per_host`.
    pub(crate) connections: Option<usize>,
    /// Messages begun in a minute.
    pub(crate) messages_per_minute: Option<usize>,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "limit[{}]:", self.index)?;
        let patterns: Vec<String> =
            self.domains.iter().chain(&self.mx).map(ToString::to_string).collect();
        if let Some(connections) = self.connections {
            write!(f, " {connections} connections,")?;
        }
        if let Some(messages) = self.messages_per_minute {
            write!(f, " {messages} messages a minute,")?;
        }
        let whose = if self.mx.is_empty() { "each of" } else { "all of" };
        write!(f, " {whose} {}", patterns.join(", "))
    }
}

/// One entry of `route.via`: `smtp://[host]:port`, or `smtp://domain` with an MX look-up.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Via {
    /// `smtp` or `smtps`: when TLS begins.
    pub(crate) scheme: ViaScheme,
    /// The host (in brackets also an address), or the domain whose MX is asked for.
    pub(crate) host: Domain,
    /// Where it listens; 25 or 465 unless written.
    pub(crate) port: u16,
    /// Do brackets say that this very host is meant?
    pub(crate) lookup: ViaLookup,
}

impl fmt::Display for Via {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.scheme {
            ViaScheme::Smtp => "smtp",
            ViaScheme::Smtps => "smtps",
        };
        match self.lookup {
            ViaLookup::Address => match &self.host {
                Domain::Name(name) => write!(f, "{scheme}://[{name}]:{}", self.port),
                Domain::Literal(address) => write!(f, "{scheme}://[{address}]:{}", self.port),
            },
            ViaLookup::Mx => write!(f, "{scheme}://{}:{}", self.host, self.port),
        }
    }
}

/// The scheme of a [`Via`].
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum ViaScheme {
    /// `smtp`: TLS begins with STARTTLS (RFC 3207).
    Smtp,
    /// `smtps`: TLS begins at once (RFC 8314 §3.3).
    Smtps,
}

impl ViaScheme {
    /// Where it is spoken unless a port is written (RFC 5321 §4.5.4.2, RFC 8314 §7.3).
    pub(super) fn port(self) -> u16 {
        match self {
            Self::Smtp => 25,
            Self::Smtps => 465,
        }
    }
}

/// How the hosts behind a [`Via`] are found.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum ViaLookup {
    /// In brackets: the addresses of this name, which the operator's word authenticates.
    Address,
    /// Without brackets: the MX records of this domain.
    Mx,
}

/// How long mail waits before its sender is told; `None`: for ever.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct DelayWarning {
    /// Usually: the key `delivery.delay_notice_after`.
    pub(crate) usual: Option<Duration>,
    /// Where a policy or certificate is broken: somebody has to mend it, and the sender may know
    /// who.
    pub(crate) policy: Option<Duration>,
}

impl DelayWarning {
    /// No sender is told of a wait.
    pub(crate) const ENDLESS: Self = Self { usual: None, policy: None };
}

#[derive(Clone, Debug)]
pub(crate) struct DsnSettings {
    /// Header From; `mailer-daemon@hostname` unless written.
    pub(crate) from: Mailbox,
    /// What comes back where RET is absent; the key is `return`.
    pub(crate) returns: DsnReturn,
    /// DSNs that a sender gets; the others are held. None: as many as there are.
    pub(crate) rate_per_sender_per_hour: Option<NonZeroU32>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum DsnReturn {
    /// `headers`: the header of the message (RFC 3461 §4.3).
    Headers,
    /// `full`: the whole message, if it failed (RFC 3461 §4.3).
    Full,
}

#[derive(Clone, Debug)]
pub(crate) struct Admin {
    /// Where the command line finds the daemon; short enough for a socket's name.
    pub(crate) socket: PathBuf,
}

#[derive(Clone, Debug)]
pub(crate) struct Log {
    /// How a line looks.
    pub(crate) format: LogFormat,
    /// A level, or directives like `info,staunch::dns=debug`.
    pub(crate) level: String,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum LogFormat {
    /// Journald where stderr is the journal, else text.
    Auto,
    /// `2026-01-02T03:04:05Z INFO event=… key=value`.
    Text,
    /// One flat object a line.
    Json,
    /// Fields of the journal.
    Journald,
}
