//! A changed configuration is applied whole or not at all, while mail flows.
//!
//! Everything that can fail is made first, beside what runs; only when all of it is there does the
//! new configuration take its place, and that part cannot fail. A refusal leaves everything as it
//! was.
//!
//! What is under way ends under the configuration it began with, except that no mail is handed over
//! under the previous rules: an attempt looks again before it transmits (`attempt`), a session at
//! each command (`accept::handler`).

use std::path::PathBuf;
use std::sync::Arc;

use policy::Roots;
use tokio::sync::watch;

use crate::accept::{self, Listeners, PreparedListeners};
use crate::auth::{self, Auth};
use crate::config::{self, Config, ConfigError, ConfigProblem, Loaded, Surroundings};
use crate::connect::tls::load_roots;
use crate::connect::{Connector, Setup};
use crate::control::api::Reloaded;
use crate::daemon::check_files::check_files;
use crate::daemon::facts::DaemonFact;
use crate::daemon::listener_changes::listener_changes;
use crate::daemon::named_files::NamedFiles;
use crate::daemon::setup::SetupError;
use crate::dns::{NewResolver, Resolver};
use crate::policies::fetch::Fetcher;
use crate::queue::events::{Event, Routes};
use crate::queue::handle::QueueHandle;
use crate::telemetry;

/// What a process is bound to for life: its data, the socket of the command line, which must lead
/// to the process that has the data, and the place where it logs.
const FIXED: [&str; 3] = ["data_dir", "admin.socket", "log.format"];
/// Keys named in one log line. Our choice: it is for people; `staunch reload` names them all.
const KEYS_LOGGED: usize = 50;
/// Names a file that may have changed where the key has not.
const ALIASES_FILE: &str = "submit.aliases_file";

/// Where this process has its configuration from, and what of the command line stands above it.
#[derive(Clone, Debug)]
pub(crate) struct ConfigOrigin {
    /// The value of `--config`; none: it is found as at the start.
    pub(crate) file: Option<PathBuf>,
    /// What is logged.
    pub(crate) log: telemetry::LogControl,
}

/// Why the configuration stays as it is.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReloadRefused {
    /// It is not a valid configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// It cannot be put to work here.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// Reading it ended in a bug of ours.
    #[error("reading the configuration ended in a bug")]
    Bug,
}

/// All that a reload reads, compares and replaces.
#[derive(Debug)]
pub(crate) struct Reloader {
    /// Where the next configuration comes from.
    pub(crate) origin: ConfigOrigin,
    /// The one in effect.
    pub(crate) loaded: Loaded,
    /// Tells everybody who looks.
    pub(crate) config: watch::Sender<Arc<Config>>,
    /// The queue, and through it what sends mail.
    pub(crate) handle: Arc<QueueHandle>,
    /// And those that take mail in.
    pub(crate) shared: Arc<accept::SessionsShared>,
    /// Where mail comes in.
    pub(crate) listeners: Arc<Listeners>,
    /// What stands in the files that it names.
    pub(crate) files: NamedFiles,
}

/// The parts of a new configuration that had to be made.
struct PreparedConfig {
    loaded: Loaded,
    roots: Roots,
    fetcher: Fetcher,
    resolver: NewResolver,
    users: auth::PreparedUsers,
    listeners: PreparedListeners,
    setup: Setup,
    files: NamedFiles,
}

impl Reloader {
    /// Reads the configuration again and applies it, or says why not and changes nothing.
    ///
    /// # Errors
    ///
    /// [`ReloadRefused`], which is in the log already.
    pub(crate) async fn reload(&mut self) -> Result<Reloaded, ReloadRefused> {
        let result = self.try_reload().await;
        match &result {
            Ok(done) => tell_changed(done, &self.loaded),
            Err(refused) => tell_refused(refused),
        }
        result
    }

    async fn try_reload(&mut self) -> Result<Reloaded, ReloadRefused> {
        let (handle, listeners) = (Arc::clone(&self.handle), Arc::clone(&self.listeners));
        let file = self.origin.file.clone();
        // Files may lie on a slow disk.
        let (before, files) = (self.loaded.clone(), self.files.clone());
        let prepared = tokio::task::spawn_blocking(move || {
            let loaded = config::load(file.as_deref(), &Surroundings::of_process())?;
            let mut changed = loaded.shown.changes(&before.shown);
            check_fixed(&loaded, &changed)?;
            check_files(&loaded)?;
            let loaded = loaded.with_aliases()?;
            // Also where only the file has other names.
            let names_them = |key: &String| key.starts_with("aliases") || key == ALIASES_FILE;
            if loaded.config.aliases != before.config.aliases && !changed.iter().any(names_them) {
                changed.push(ALIASES_FILE.to_owned());
            }
            let listener_changes = listener_changes(&before.config, &loaded.config);
            let (files, read_again) = files.look_again(&loaded.config);
            let done = Reloaded { changed, listeners: listener_changes, read_again };
            Ok::<_, ReloadRefused>((prepare(loaded, files, &handle, &listeners)?, done))
        });
        let (prepared, done) = prepared.await.map_err(|_| ReloadRefused::Bug)??;
        self.apply(prepared).await;
        Ok(done)
    }

    async fn apply(&mut self, prepared: PreparedConfig) {
        let PreparedConfig { loaded, roots, fetcher, resolver, users, listeners, setup, files } =
            prepared;
        self.files = files;
        let config = Arc::new(loaded.config.clone());
        let before = std::mem::replace(&mut self.loaded, loaded).config;
        let handle = &self.handle;
        handle.outbound.roots.replace(roots);
        handle.outbound.dns.renew(resolver);
        if !connects_alike(&before, &config) {
            handle.outbound.connector.reconfigure(setup);
        }
        handle.outbound.pool.set_limits((&*config).into());
        self.config.send_modify(|today| {
            // Before anybody can read the new one: no mail that is tried by it finds a connection
            // of the old.
            if !is_seen_alike(&before, &config) {
                handle.outbound.pool.renew();
            }
            *today = Arc::clone(&config);
        });
        self.shared.reconfigure(&config, users);
        handle.outbound.policies.renew(fetcher);
        self.listeners.apply(listeners);
        self.origin.log.set(&config.log.level);
        let routes = if before.routes == config.routes { Routes::Same } else { Routes::Changed };
        handle.tell(Event::Reconfigured(routes)).await;
    }
}

/// Are connections to hosts made in the same way under both?
fn connects_alike(before: &Config, config: &Config) -> bool {
    before.hostname == config.hostname
        && before.delivery == config.delivery
        && before.tls == config.tls
        && before.sources == config.sources
        && before.outbound_limits == config.outbound_limits
        && before.routes == config.routes
}

/// Is the same in both of which the effect cannot be seen in a connection, so that none that was
/// made under the one may be used under the other? What the rest asks for is judged anew for each
/// mail.
fn is_seen_alike(before: &Config, config: &Config) -> bool {
    before.hostname == config.hostname
        && before.delivery.allow_addresses == config.delivery.allow_addresses
        && before.delivery.ip == config.delivery.ip
        && before.tls == config.tls
        && before.sources == config.sources
}

/// # Errors
///
/// [`ReloadRefused::Config`] that names the keys.
fn check_fixed(loaded: &Loaded, changed: &[String]) -> Result<(), ReloadRefused> {
    let fixed = changed.iter().filter(|key| FIXED.contains(&key.as_str()));
    let problems: Vec<ConfigProblem> = fixed
        .map(|key| loaded.problem(key, "cannot change while it runs: restart for that"))
        .collect();
    if problems.is_empty() { Ok(()) } else { Err(ConfigError(problems).into()) }
}

/// Makes what a new configuration asks for. Blocks.
fn prepare(
    loaded: Loaded,
    files: NamedFiles,
    handle: &QueueHandle,
    listeners: &Listeners,
) -> Result<PreparedConfig, SetupError> {
    let config = &loaded.config;
    Ok(PreparedConfig {
        roots: load_roots(&config.tls)?,
        fetcher: handle.outbound.policies.prepare(config)?,
        resolver: Resolver::prepare(&config.dns)?,
        users: Auth::prepare(config.users_file())?,
        listeners: listeners.prepare(config)?,
        setup: Connector::prepare(config)?,
        files,
        loaded,
    })
}

fn tell_changed(done: &Reloaded, loaded: &Loaded) {
    let named: Vec<&str> = done.changed.iter().take(KEYS_LOGGED).map(String::as_str).collect();
    let files: Vec<&str> =
        done.read_again.iter().take(KEYS_LOGGED).map(|file| file.path.as_str()).collect();
    DaemonFact::ConfigReloaded {
        changed: named.join(","),
        keys: done.changed.len(),
        read_again: files.join(","),
    }
    .tell();
    for complaint in loaded.complaints() {
        DaemonFact::ConfigComplaint { complaint: &complaint }.tell();
    }
}

fn tell_refused(refused: &ReloadRefused) {
    match refused {
        ReloadRefused::Config(ConfigError(problems)) => {
            for problem in problems.iter().take(KEYS_LOGGED) {
                DaemonFact::ReloadRefused { key: &problem.key, text: problem }.tell();
            }
        }
        ReloadRefused::Setup(error) => {
            DaemonFact::ReloadRefused { key: error.key(), text: error }.tell();
        }
        ReloadRefused::Bug => DaemonFact::ReloadRefused { key: "", text: refused }.tell(),
    }
}
