//! What can be said on the command line. The doc comments here are the texts of `--help`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args, Parser, Subcommand};

use crate::config::duration;
use crate::control::api::{Chosen, GroupBy, MailState, SortBy};

/// An outbound SMTP relay: mail goes to the right host, encrypted, or it waits
#[derive(Debug, Parser)]
#[command(name = "staunch", version, propagate_version = true, max_term_width = 100)]
#[command(after_help = "Example: staunch --config /etc/staunch/staunch.toml run")]
pub(super) struct Arguments {
    #[command(flatten)]
    pub(super) settings: CommandSettings,
    #[command(subcommand)]
    pub(super) command: CliCommand,
}

/// Options of all commands.
#[derive(Args, Debug)]
pub(super) struct CommandSettings {
    /// Configuration file [default: $STAUNCH_CONFIG, else /etc/staunch/staunch.toml if it exists,
    /// else built-in defaults]
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Instead of log.level: error, warn, info, debug, trace, or e.g. info,staunch::dns=debug
    #[arg(long, global = true, value_name = "LEVEL")]
    pub(super) log_level: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(super) enum CliCommand {
    /// Run the relay, in the foreground
    #[command(after_help = "Example: staunch run --log-level debug")]
    Run,
    /// Look at the configuration
    #[command(subcommand, after_help = "Example: staunch config check")]
    Config(ConfigCommand),
    /// Say what would happen to mail for an address or domain, step by step, and why
    #[command(after_help = "Example: staunch explain user@example.com --connect")]
    Explain(ExplainCommand),
    /// Look at queued mail, or act on it
    #[command(subcommand, after_help = "Example: staunch queue list")]
    Queue(QueueCommand),
    /// Look at MTA-STS policies: those in the cache, or any file or record
    #[command(subcommand, after_help = "Example: staunch policy show example.com")]
    Policy(PolicyCommand),
    /// Stop sending, all mail or that of one next hop; mail is still accepted, and waits
    #[command(after_help = "Example: staunch pause example.com")]
    Pause(OneHop),
    /// Send again
    #[command(after_help = "Example: staunch resume example.com")]
    Resume(OneHop),
    /// Stop accepting mail; what is here is still sent
    #[command(after_help = "Example: staunch drain && staunch queue summary")]
    Drain(Drain),
    /// Log all about one domain, host or client for a while, whatever log.level is
    ///
    /// The SMTP dialogue (without passwords and content), DNS answers and policy steps. For a
    /// domain also the dialogues with its hosts.
    #[command(after_help = "Example: staunch debug example.com --for 5m")]
    Debug(DebugCommand),
    /// Look for what is wrong
    #[command(after_help = "Example: staunch doctor --data")]
    Doctor(DoctorCommand),
    /// Say something about this machine's clock
    #[command(subcommand, after_help = "Example: date -u && staunch clock trust")]
    Clock(ClockCommand),
    /// Have the daemon read its configuration again and apply it, whole or not at all
    #[command(after_help = "Example: staunch config check && staunch reload")]
    Reload(Json),
    /// Look at the users who may submit mail, or change them
    #[command(subcommand, after_help = "Example: staunch user list")]
    User(UserCommand),
    /// Be /usr/sbin/sendmail: take a message from stdin; also by the names sendmail, mailq,
    /// newaliases
    ///
    /// Options: -t -i -f -F -B -N -R -V -v, and -bm -bs -bp -bi for what to do; tuning options of
    /// other sendmails are ignored, options for their queue or config files are rejected.
    #[command(after_help = "Example: staunch sendmail -t -i < message.eml")]
    Sendmail(SendmailCommand),
    /// Exit with 0 if the local daemon is ready, with 1 if not, with 69 if there is none; say why
    #[command(after_help = "Example: staunch healthcheck && echo ready")]
    Healthcheck(HealthCheck),
}

#[derive(Args, Debug)]
pub(super) struct HealthCheck {
    /// Only whether it is alive, for what restarts it: also while it takes no mail, as in a drain
    #[arg(long, conflicts_with = "ready")]
    pub(super) live: bool,
    /// Whether it takes mail, for what sends it some (the default)
    #[arg(long)]
    ready: bool,
    #[command(flatten)]
    pub(super) json: Json,
}

#[derive(Args, Debug)]
pub(super) struct DebugCommand {
    /// A domain, a host, or the address of a host or client
    #[arg(value_name = "NAME")]
    pub(super) name: String,
    /// For how long, at most 24h; 0s ends it
    #[arg(long = "for", value_name = "DURATION", value_parser = duration, default_value = "15m")]
    pub(super) length: Duration,
    #[command(flatten)]
    pub(super) json: Json,
}

#[derive(Debug, Subcommand)]
pub(super) enum ClockCommand {
    /// The time is right: end the doubt about it
    ///
    /// After a step of the clock, or a long time off, no policy lapses and no mail is returned for
    /// its age until the time is confirmed. Look at it before you say so: a clock that is wrong
    /// could end policies.
    #[command(after_help = "Example: date -u && staunch clock trust")]
    Trust(Json),
}

#[derive(Args, Debug)]
pub(super) struct OneHop {
    /// The next hop of this domain, or the smarthost of this name [default: everything]
    pub(super) domain: Option<String>,
    #[command(flatten)]
    pub(super) json: Json,
}

#[derive(Args, Debug)]
pub(super) struct Drain {
    /// Accept mail again
    #[arg(long)]
    pub(super) off: bool,
    #[command(flatten)]
    pub(super) json: Json,
}

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Is the configuration valid, and will it do?
    #[command(after_help = "Example: staunch config check --config ./staunch.toml")]
    Check(Json),
    /// Print the values in effect, and where each comes from
    #[command(after_help = "Example: staunch config show | grep delivery -A 20")]
    Show(Json),
}

#[derive(Args, Clone, Copy, Debug, Default)]
pub(super) struct Json {
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Args, Debug)]
pub(super) struct SendmailCommand {
    /// Options and addresses of sendmail(8)
    #[arg(value_name = "ARGUMENT", allow_hyphen_values = true)]
    pub(super) arguments: Vec<OsString>,
}

#[derive(Args, Debug)]
pub(super) struct ExplainCommand {
    /// user@example.com, or just example.com
    #[arg(value_name = "ADDRESS-OR-DOMAIN")]
    pub(super) address: String,
    /// Also connect to the MX hosts, up to EHLO under TLS; no mail is sent
    #[arg(long)]
    pub(super) connect: bool,
    /// As if from this sender
    #[arg(long, value_name = "ADDRESS")]
    pub(super) sender: Option<String>,
    /// As if the sender asked for REQUIRETLS (RFC 8689)
    #[arg(long)]
    pub(super) require_tls: bool,
    #[command(flatten)]
    pub(super) json: Json,
}

#[derive(Debug, Subcommand)]
pub(super) enum QueueCommand {
    #[command(flatten)]
    Mail(MailCommand),
    /// Copy queue and policies to a new directory, while the daemon goes on
    #[command(after_help = "Example: staunch queue backup /var/backups/staunch-monday")]
    Backup(OtherDirectory),
    /// Put a backup in the place of the queue; the daemon must not run
    #[command(after_help = "Example: staunch queue restore /var/backups/staunch-monday")]
    Restore(OtherDirectory),
    /// Write all messages to a file, for another machine; they stay in this queue
    #[command(after_help = "Example: systemctl stop staunch && staunch queue export mail.export")]
    Export(TransferFile),
    /// Have the daemon take the messages of such a file
    #[command(after_help = "Example: staunch queue import mail.export")]
    Import(TransferFile),
}

#[derive(Args, Debug)]
pub(super) struct TransferFile {
    /// The file; - for stdout or stdin
    pub(super) file: PathBuf,
}

/// What is asked of the daemon.
#[derive(Debug, Subcommand)]
pub(super) enum MailCommand {
    /// One line for each recipient that waits
    #[command(after_help = "Example: staunch queue list --domain example.com --limit 20")]
    List(QueueList),
    /// One message with all its recipients, or its text
    #[command(after_help = "Example: staunch queue show 01m8k8n64x0a1b2c3d4e5f6g7h --body | less")]
    Show(QueueShow),
    /// Try now instead of at the next attempt
    #[command(after_help = "Example: staunch queue retry --domain example.com")]
    Retry(QueueAction),
    /// How much waits, and what is paused
    #[command(after_help = "Example: staunch queue summary --by reason")]
    Summary(QueueSummary),
    /// Keep back until released; it never expires meanwhile
    #[command(after_help = "Example: staunch queue hold --domain example.com --why ticket-4711")]
    Hold(QueueHold),
    /// Let go what is held, and try it now
    #[command(after_help = "Example: staunch queue release --all")]
    Release(QueueAction),
    /// Give up: senders get a DSN
    #[command(after_help = "Example: staunch queue bounce --domain example.com")]
    Bounce(QueueAction),
    /// Remove for good, without telling the sender
    #[command(after_help = "Example: staunch queue delete 01m8k8n64x0a1b2c3d4e5f6g7h")]
    Delete(QueueAction),
}

#[derive(Args, Debug)]
pub(super) struct OtherDirectory {
    /// The directory of the backup
    pub(super) dir: PathBuf,
    #[command(flatten)]
    pub(super) json: Json,
}

#[derive(Args, Debug)]
pub(super) struct DoctorCommand {
    /// Read all of the data directory and name what is damaged
    #[arg(long, required = true)]
    data: bool,
    /// Mend what can be mended; the daemon must not run
    #[arg(long, requires = "data")]
    pub(super) repair: bool,
    #[command(flatten)]
    pub(super) json: Json,
}

#[derive(Args, Debug, Default)]
pub(super) struct QueueList {
    /// Recipients in this domain
    #[arg(long, value_name = "DOMAIN")]
    pub(super) domain: Option<String>,
    /// Recipients in this state
    #[arg(long, value_name = "STATE")]
    pub(super) state: Option<MailState>,
    /// Recipients whose last attempt ended with this reason, e.g. mx_not_listed; or held
    #[arg(long, value_name = "REASON")]
    pub(super) reason: Option<String>,
    /// Recipients of mail from this address; "" for DSNs
    #[arg(long, value_name = "ADDRESS")]
    pub(super) sender: Option<String>,
    /// This recipient
    #[arg(long, value_name = "ADDRESS")]
    pub(super) recipient: Option<String>,
    /// Recipients whose last attempt failed at this host
    #[arg(long, value_name = "HOST")]
    pub(super) host: Option<String>,
    /// Recipients of mail that came so long ago, e.g. 4h
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(super) older_than: Option<Duration>,
    /// Show at most N [default: all; with --sort 1000, and never more than 10000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) limit: Option<u64>,
    /// In this order, instead of that of arrival
    #[arg(long, value_name = "ORDER")]
    pub(super) sort: Option<SortBy>,
    #[command(flatten)]
    pub(super) json: Json,
}

#[derive(Args, Debug)]
pub(super) struct QueueShow {
    /// The id of the message, or its first characters (8 at least) if no other begins so
    pub(super) id: String,
    /// Print the message itself, as it was accepted; on a terminal, what is no text is escaped
    #[arg(long, conflicts_with = "json")]
    pub(super) body: bool,
    /// With --body: as it is, on a terminal too
    #[arg(long, requires = "body")]
    pub(super) raw: bool,
    #[command(flatten)]
    pub(super) json: Json,
}

#[derive(Args, Debug)]
pub(super) struct QueueSummary {
    /// Also count recipients by this
    #[arg(long, value_name = "WHAT")]
    pub(super) by: Option<GroupBy>,
    #[command(flatten)]
    pub(super) json: Json,
}

/// What recipients are counted by.
/// Which mail something is done to.
#[derive(Args, Debug)]
#[command(group = ArgGroup::new("which").required(true).args(["ids", "domain", "reason", "all"]))]
pub(super) struct QueueAction {
    /// Messages by id, with all their recipients; the first characters (8 at least) are enough if
    /// no other id begins so
    #[arg(value_name = "ID")]
    pub(super) ids: Vec<String>,
    /// All recipients in this domain
    #[arg(long, value_name = "DOMAIN")]
    pub(super) domain: Option<String>,
    /// All recipients whose last attempt ended with this reason; or held
    #[arg(long, value_name = "REASON")]
    pub(super) reason: Option<String>,
    /// All messages
    #[arg(long)]
    pub(super) all: bool,
    /// Only say how many recipients it would be; nothing is changed
    #[arg(long)]
    pub(super) dry_run: bool,
    #[command(flatten)]
    pub(super) json: Json,
}

#[derive(Args, Debug)]
pub(super) struct QueueHold {
    #[command(flatten)]
    pub(super) action: QueueAction,
    /// Why, for the log and for queue list and show, until it is released; also of what is held
    /// already
    #[arg(long, value_name = "TEXT")]
    pub(super) why: Option<String>,
}

impl QueueAction {
    /// As the daemon is told.
    pub(super) fn chosen(&self) -> Chosen {
        let Self { ids, domain, reason, all, dry_run: _, json: _ } = self;
        Chosen { ids: ids.clone(), domain: domain.clone(), reason: reason.clone(), all: *all }
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum PolicyCommand {
    #[command(flatten)]
    Cache(CacheCommand),
    /// Check a policy file, and whether it covers the MX hosts; needs no daemon, and no network but
    /// for --domain
    #[command(after_help = "Example: curl -s https://mta-sts.example.com/.well-known/mta-sts.txt \
                            | staunch policy lint -\n         \
                            staunch policy lint mta-sts.txt --mx mx1.example.com --mx mx2.example.com\n         \
                            staunch policy lint --domain example.com")]
    Lint(LintFile),
    /// Check the TXT records of _mta-sts.DOMAIN; needs neither network nor daemon
    #[command(after_help = "Example: staunch policy lint-record 'v=STSv1; id=20260101T000000;'")]
    LintRecord(LintRecord),
    /// Is an MX host covered by a policy's patterns? Needs neither network nor daemon
    #[command(after_help = "Example: staunch policy match --mx mx1.example.com \
                            --pattern '*.example.com'")]
    Match(Match),
}

#[derive(Debug, Subcommand)]
pub(super) enum CacheCommand {
    /// The policies in the cache
    #[command(after_help = "Example: staunch policy list --json | jq -r .domain")]
    List(Json),
    /// One policy in the cache
    #[command(after_help = "Example: staunch policy show example.com")]
    Show(OneDomain),
    /// Fetch a policy anew now
    #[command(after_help = "Example: staunch policy refresh example.com")]
    Refresh(OneDomain),
    /// Drop a policy, so that the domain counts as never seen before; or what is remembered of an
    /// MX host
    #[command(after_help = "Example: staunch policy forget example.com\n         \
                            staunch policy forget --host mx.example.com")]
    Forget(Forget),
}

#[derive(Args, Debug)]
#[command(group = ArgGroup::new("what").required(true).args(["domain", "host"]))]
pub(super) struct Forget {
    /// The recipient domain
    pub(super) domain: Option<String>,
    /// The MX host, which did STARTTLS once: it may do without again (alarm starttls_gone)
    #[arg(long, value_name = "MX")]
    pub(super) host: Option<String>,
    #[command(flatten)]
    pub(super) json: Json,
}

#[derive(Args, Debug)]
pub(super) struct OneDomain {
    /// The recipient domain
    pub(super) domain: String,
    #[command(flatten)]
    pub(super) json: Json,
}

#[derive(Args, Debug)]
pub(super) struct LintFile {
    /// The file, or - for stdin [default: with --domain, the policy that the domain publishes]
    #[arg(required_unless_present = "domain")]
    pub(super) file: Option<PathBuf>,
    /// Does the policy cover this MX host? May be repeated
    #[arg(long, value_name = "HOST", num_args = 1..)]
    pub(super) mx: Vec<String>,
    /// Ask DNS for the MX hosts and the record of this domain; without FILE, fetch its policy as
    /// well
    #[arg(long, value_name = "DOMAIN")]
    pub(super) domain: Option<String>,
    #[command(flatten)]
    pub(super) json: Json,
}

#[derive(Args, Debug)]
pub(super) struct LintRecord {
    /// One argument a record, its strings already joined; behind -- if one begins with a hyphen
    #[arg(value_name = "TXT")]
    pub(super) records: Vec<OsString>,
    #[command(flatten)]
    pub(super) json: Json,
}

#[derive(Args, Debug)]
pub(super) struct Match {
    /// The name from the MX record
    #[arg(long, value_name = "HOST", allow_hyphen_values = true)]
    pub(super) mx: String,
    /// An mx value of the policy; may be repeated
    #[arg(long = "pattern", value_name = "PATTERN", required = true, allow_hyphen_values = true)]
    pub(super) patterns: Vec<String>,
    #[command(flatten)]
    pub(super) json: Json,
}

#[derive(Debug, Subcommand)]
pub(super) enum UserCommand {
    /// Add a user to access.users_file; the password comes from the terminal or stdin
    #[command(after_help = "Example: staunch user add anna@example.net")]
    Add(NewPassword),
    /// Give a user another password, from the terminal or stdin
    #[command(after_help = "Example: pwgen 20 1 | tee /dev/stderr | staunch user passwd printer")]
    Passwd(NewPassword),
    /// Remove a user; open sessions may send nothing more
    #[command(after_help = "Example: staunch user remove anna@example.net")]
    Remove(UserRemove),
    /// Who is in the file, and in which form the password is kept
    #[command(after_help = "Example: staunch user list --json | jq -r .name")]
    List(UserList),
}

#[derive(Args, Debug)]
pub(super) struct NewPassword {
    /// The name to log in with, best the address that the user sends from
    pub(super) name: String,
    /// Store a SCRAM-SHA-256 verifier instead of an argon2id hash (SCRAM is offered only when all
    /// users have one); a line that has one keeps it
    #[arg(long)]
    pub(super) scram: bool,
    #[command(flatten)]
    pub(super) json: Json,
}

#[derive(Args, Debug)]
pub(super) struct UserRemove {
    pub(super) name: String,
    #[command(flatten)]
    pub(super) json: Json,
}

#[derive(Args, Debug)]
pub(super) struct UserList {
    /// Only this one
    pub(super) name: Option<String>,
    #[command(flatten)]
    pub(super) json: Json,
}
