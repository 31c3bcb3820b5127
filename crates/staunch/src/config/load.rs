//! Where a configuration is read from, and which word counts when several speak.
//!
//! Built-in defaults, the file, `conf.d/*.toml` beside it in the order of their names, variables
//! `STAUNCH__SECTION__KEY`, and last the document in `STAUNCH_CONFIG_TOML`: each replaces what the
//! ones before it say, but that `[[…]]` tables add up. Every document is read strictly by itself
//! first, so that a misspelt key is found also where another layer would hide it.

use std::io::Read;
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::file::{self, File};
use super::layer::{self, Layer, VARIABLE_PREFIX};
use super::listener::ListenersFrom;
use super::show::KeySources;
use super::surroundings::Surroundings;
use super::{Config, ConfigError, ConfigProblem, ShownConfig, Source, check, not_toml};

/// Our choice: over a hundred times any sensible configuration.
const FILE_BYTES_MAX: u64 = 4 << 20;
/// A whole document in the environment, for tables that single variables cannot write.
const DOCUMENT_VARIABLE: &str = "STAUNCH_CONFIG_TOML";

/// The place of what nobody wrote and is in data_dir.
const FROM_DATA_DIR: &str = "default: data_dir";

/// A configuration and what is known about it.
#[derive(Clone, Debug)]
pub(crate) struct Loaded {
    /// What the daemon runs on.
    pub(crate) config: Config,
    /// The same for people, with sources.
    pub(crate) shown: ShownConfig,
    /// The file and those of `conf.d`, in the order in which they were read.
    pub(crate) files: Vec<PathBuf>,
    /// Variables of our name that set nothing.
    unread: Vec<String>,
}

/// Of the variables that are ours, those that set no key.
const OWN_VARIABLES: [&str; 2] = ["STAUNCH_CONFIG", DOCUMENT_VARIABLE];

/// Reads the configuration named by `explicit`, else by `$STAUNCH_CONFIG`, else the system's if it
/// exists, else the built-in one; and whatever stands above it.
///
/// # Errors
///
/// [`ConfigError`] with everything that is wrong. Nothing but configuration files was opened.
pub(crate) fn load(
    explicit: Option<&Path>,
    surroundings: &Surroundings,
) -> Result<Loaded, ConfigError> {
    let files = find_files(explicit, surroundings)?;
    let mut layers = Vec::new();
    for path in &files {
        layers.push(Layer::of_document(&path.to_string_lossy(), &read(path)?)?);
    }
    layers.extend(Layer::of_variables(&surroundings.variables)?);
    if let Some(text) = surroundings.get(DOCUMENT_VARIABLE)? {
        layers.push(Layer::of_document(DOCUMENT_VARIABLE, text)?);
    }
    let (mut file, mut sources) = layer::merge(layers)?;
    let listeners = complete(&mut file, &mut sources, surroundings)?;
    let config = check::check(&file, listeners).map_err(|findings| {
        let located = |(key, reason): (String, String)| ConfigProblem {
            place: sources.of(&key).to_owned(),
            key,
            reason,
        };
        // What is made of data_dir is as wrong as that, and not a mistake of its own.
        let bad_data_dir = findings.iter().any(|(key, _)| key == "data_dir");
        let mut problems: Vec<ConfigProblem> = findings.into_iter().map(located).collect();
        problems.retain(|problem| !bad_data_dir || problem.place != FROM_DATA_DIR);
        ConfigError(problems).in_order()
    })?;
    let unread = unread(surroundings);
    Ok(Loaded { config, shown: ShownConfig { file, sources }, files, unread })
}

/// With one underscore behind our name, or misspelt: nothing reads them.
fn unread(surroundings: &Surroundings) -> Vec<String> {
    let ours = surroundings.variables.keys().filter_map(|name| name.to_str());
    ours.filter(|name| name.starts_with("STAUNCH_") && !name.starts_with(VARIABLE_PREFIX))
        .filter(|name| !OWN_VARIABLES.contains(name))
        .map(str::to_owned)
        .collect()
}

impl Loaded {
    /// A problem with the value of `key`, at the place where it was set.
    pub(crate) fn problem(&self, key: &str, reason: impl Into<String>) -> ConfigProblem {
        let place = self.shown.sources.of(key).to_owned();
        ConfigProblem { place, key: key.into(), reason: reason.into() }
    }

    /// What is legal but will cost mail, one line each.
    pub(crate) fn complaints(&self) -> Vec<ConfigProblem> {
        let hostname = &self.config.hostname;
        let complaint = hostname.complaint().map(|complaint| ConfigProblem {
            place: self.shown.sources.of("hostname").to_owned(),
            key: "hostname".into(),
            reason: format!(
                "{:?} {complaint}; EHLO will use an address literal, which many refuse",
                hostname.to_string()
            ),
        });
        let nobody = self.config.access.networks.is_empty().then(|| ConfigProblem {
            place: self.shown.sources.of("access.networks").to_owned(),
            key: "access.networks".into(),
            reason: "is empty: nobody may relay".into(),
        });
        let mut listeners = self.config.listeners.iter();
        let for_users = listeners.position(|listener| listener.mode.is_for_users());
        let for_users = for_users.filter(|_| self.config.access.users_file.is_none());
        let no_users = for_users.map(|index| {
            let reason = "needs users who may log in: set access.users_file".to_owned();
            self.problem(&format!("listener[{index}].mode"), reason)
        });
        // The address of another machine, or of none yet. A UDP socket finds out without a packet.
        let not_ours =
            self.config.sources.iter().filter_map(|Source { address, index, .. }| {
                let error = UdpSocket::bind((*address, 0)).err()?;
                let reason =
                    format!("\"{address}\": nothing can leave from it, so mail waits: {error}");
                Some(self.problem(&format!("source[{index}].address"), reason))
            });
        let unread = self.unread.iter().map(|name| ConfigProblem {
            place: name.clone(),
            key: String::new(),
            reason: match layer::nearest_variable(name) {
                Some(meant) => format!("nothing reads this variable; did you mean {meant}?"),
                None => {
                    "nothing reads this variable; a key is STAUNCH__KEY or STAUNCH__SECTION__KEY"
                        .into()
                }
            },
        });
        complaint
            .into_iter()
            .chain(nobody)
            .chain(no_users)
            .chain(not_ours)
            .chain(unread)
            .chain(self.exposed())
            .collect()
    }

    /// Secrets that others may read.
    fn exposed(&self) -> Vec<ConfigProblem> {
        let listeners = self.config.listeners.iter().enumerate().filter_map(|(index, listener)| {
            Some((format!("listener[{index}].tls_key"), listener.tls.as_ref()?.key.as_path()))
        });
        let routes = self.config.routes.iter().enumerate().filter_map(|(index, route)| {
            let login = route.login.as_ref()?;
            Some((format!("route[{index}].password_file"), login.password_file.as_path()))
        });
        let users =
            self.config.users_file().into_iter().map(|path| ("access.users_file".to_owned(), path));
        let is_open = |path: &Path| {
            let mode = std::fs::metadata(path).ok().map(|metadata| metadata.permissions().mode());
            mode.is_some_and(|mode| mode & 0o007 != 0)
        };
        listeners
            .chain(routes)
            .chain(users)
            .filter(|(_, path)| is_open(path))
            .map(|(key, path)| {
                let reason = format!(
                    "{}: everybody on this machine may use it: chmod o= it",
                    path.display()
                );
                self.problem(&key, reason)
            })
            .collect()
    }

    /// Programs of this machine write to root; who reads that?
    pub(crate) fn nobody_is_root(&self) -> Option<ConfigProblem> {
        let reason = "nobody reads root's mail: cron and other programs write to root@localhost, which is refused, and \
                      DSNs to them are dropped; set root = \"you@example.net\"";
        let is_somebody = self.config.aliases.targets("root").is_some();
        (!is_somebody).then(|| self.problem("aliases.root", reason))
    }
}

/// The file, if one is meant, and those in `conf.d` beside it by name.
fn find_files(
    explicit: Option<&Path>,
    surroundings: &Surroundings,
) -> Result<Vec<PathBuf>, ConfigError> {
    let named = match explicit {
        Some(path) => Some(path.to_owned()),
        None => surroundings.get("STAUNCH_CONFIG")?.map(PathBuf::from),
    };
    let path = match named {
        Some(path) => path,
        None if surroundings.system_file.exists() => surroundings.system_file.clone(),
        None => return Ok(Vec::new()),
    };
    let directory = path.parent().unwrap_or_else(|| Path::new("")).join("conf.d");
    let mut files = vec![path];
    let entries = match std::fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(files),
        Err(error) => return Err(io_problem(&directory, &error).into()),
    };
    let mut more = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| io_problem(&directory, &error))?.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            more.push(path);
        }
    }
    more.sort();
    files.append(&mut more);
    Ok(files)
}

fn io_problem(path: &Path, error: &std::io::Error) -> ConfigProblem {
    ConfigProblem {
        place: path.to_string_lossy().into_owned(),
        key: String::new(),
        reason: error.to_string(),
    }
}

fn read(path: &Path) -> Result<String, ConfigProblem> {
    let problem = |error| io_problem(path, &error);
    let mut octets = Vec::new();
    let file = std::fs::File::open(path).map_err(problem)?;
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut octets).map_err(problem)?;
    let place = path.to_string_lossy().into_owned();
    if u64::try_from(octets.len()).is_ok_and(|length| length > FILE_BYTES_MAX) {
        let reason = format!("over {FILE_BYTES_MAX} bytes");
        return Err(ConfigProblem { place, key: String::new(), reason });
    }
    String::from_utf8(octets).map_err(|error| {
        let (line, reason) = not_toml::not_utf8(error.as_bytes(), error.utf8_error().valid_up_to());
        ConfigProblem { place: format!("{place}:{line}"), key: String::new(), reason }
    })
}

/// Fills in what depends on the machine, and the listeners if nobody named one.
fn complete(
    file: &mut File,
    sources: &mut KeySources,
    surroundings: &Surroundings,
) -> Result<ListenersFrom, ConfigProblem> {
    let mut derive = |key: &str, from: &str| {
        sources.0.insert(key.to_owned(), format!("default: {from}"));
    };
    if file.hostname.is_empty() {
        // A node name that is no host name at all must not keep a relay from starting.
        let usable = super::Hostname::parse(&surroundings.host_name).is_ok();
        file.hostname = if usable { surroundings.host_name.clone() } else { "localhost".into() };
        derive("hostname", "the system's");
    }
    if file.data_dir.is_empty() {
        let (directory, from) = default_data_dir(surroundings)?;
        file.data_dir = directory;
        derive("data_dir", from);
    }
    let (directory, from) = match surroundings.get("RUNTIME_DIRECTORY")? {
        Some(list) => (first_of_list(list).to_owned(), "$RUNTIME_DIRECTORY"),
        None => (file.data_dir.clone(), "data_dir"),
    };
    for (key, socket, name) in [
        ("admin.socket", &mut file.admin.socket, "admin.sock"),
        ("submit.socket", &mut file.submit.socket, "submit.sock"),
    ] {
        if socket.is_empty() {
            *socket = format!("{directory}/{name}");
            derive(key, from);
        }
    }
    // A host name that does not parse is reported by itself.
    let own_name = super::Hostname::parse(&file.hostname)
        .map_or_else(|_| "localhost".to_owned(), |hostname| hostname.to_string());
    if file.dsn.from.is_empty() {
        file.dsn.from = format!("mailer-daemon@{own_name}");
        derive("dsn.from", "hostname");
    }
    if file.origin.is_empty() {
        file.origin = own_name;
        derive("origin", "hostname");
    }
    if !file.listener.is_empty() {
        return Ok(ListenersFrom::Written);
    }
    file.listener = file::ListenerTable::built_in();
    Ok(ListenersFrom::BuiltIn)
}

/// systemd separates several directories by colons; the first is the one we use.
fn first_of_list(list: &str) -> &str {
    list.split(':').next().unwrap_or_default()
}

fn default_data_dir(surroundings: &Surroundings) -> Result<(String, &'static str), ConfigProblem> {
    if let Some(list) = surroundings.get("STATE_DIRECTORY")? {
        return Ok((first_of_list(list).to_owned(), "$STATE_DIRECTORY"));
    }
    if let Some(directory) = surroundings.get("XDG_STATE_HOME")? {
        return Ok((format!("{directory}/staunch"), "$XDG_STATE_HOME"));
    }
    if let Some(home) = surroundings.get("HOME")? {
        return Ok((format!("{home}/.local/state/staunch"), "$HOME"));
    }
    let reason = "not set, and neither are $STATE_DIRECTORY, $XDG_STATE_HOME and $HOME";
    Err(ConfigProblem { place: "default".into(), key: "data_dir".into(), reason: reason.into() })
}
