//! `staunch config`: is it valid, and what is in effect?

use std::io::{Write, stderr, stdout};
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use super::arguments::{CommandSettings, ConfigCommand};
use super::exit::{Exit, Failure};
use super::output;
use crate::cli::admin_client::{read, runtime, with_client};
use crate::config::{self, ConfigError, ConfigProblem, Loaded, Surroundings};
use crate::control::api::OpenAddresses;
use crate::daemon::check_files::{self, data_dir_complaint, data_dir_problem};
use crate::daemon::check_listeners;
use crate::daemon::start_findings::{CheckUser, RunningDaemon};
use crate::dns;

/// Our choice: a daemon that is alive answers at once.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

pub(super) fn run(command: &ConfigCommand, settings: &CommandSettings) -> Result<Exit, Failure> {
    match command {
        ConfigCommand::Check(format) if format.json => check_json(settings),
        ConfigCommand::Check(_) => check(settings),
        ConfigCommand::Show(format) => {
            let shown = super::load::load(settings)?.shown;
            let mut out = stdout().lock();
            if format.json {
                output::json(&mut out, &shown.to_json())?;
            } else {
                write!(out, "{shown}")?;
            }
            Ok(Exit::Ok)
        }
    }
}

/// What there is to say of a configuration.
#[derive(Debug, Default)]
struct CheckedConfig {
    files: Vec<PathBuf>,
    errors: Vec<ConfigProblem>,
    warnings: Vec<ConfigProblem>,
}

/// Reads the configuration and looks at all that it names, as a start would. Whoever asks may be
/// another user than the daemon's, and the daemon may run.
fn look(settings: &CommandSettings) -> CheckedConfig {
    let read = config::load(settings.config.as_deref(), &Surroundings::of_process());
    let loaded = match read {
        Ok(loaded) => loaded,
        Err(ConfigError(errors)) => return CheckedConfig { errors, ..Default::default() },
    };
    let files = loaded.files.clone();
    let asker = CheckUser::of(&loaded.config.data_dir);
    let mut found = check_files::look(&loaded, asker);
    found.fatal.extend(data_dir_problem(&loaded));
    found.tolerated.extend(data_dir_complaint(&loaded));
    found.add(check_listeners::look(&loaded, &running(&loaded), asker));
    let no_server = dns::no_server(&loaded.config.dns);
    found.fatal.extend(no_server.map(|reason| loaded.problem("dns.servers", reason)));
    let mut warnings = complaints(&loaded);
    match loaded.with_aliases() {
        Ok(loaded) => warnings.extend(loaded.nobody_is_root()),
        Err(ConfigError(problems)) => found.fatal.extend(problems),
    }
    warnings.append(&mut found.tolerated);
    let ConfigError(errors) = ConfigError(found.fatal).in_order();
    CheckedConfig { files, errors, warnings }
}

/// Where the daemon that runs with these data listens.
fn running(loaded: &Loaded) -> RunningDaemon {
    let asked = with_client(&loaded.config.admin.socket, async |client| {
        let answer = client.get(&["v1", "listeners"], &[]);
        let late = || Failure::new(Exit::TemporaryFailure, "the daemon does not answer");
        tokio::time::timeout(ANSWER_LIMIT, answer).await.map_err(|_| late())?
    });
    match asked.and_then(|answer| read::<OpenAddresses>(&answer)) {
        Ok(OpenAddresses { listening }) => RunningDaemon::Listening(listening),
        Err(failure) if failure.exit == Exit::Unavailable => RunningDaemon::None,
        Err(failure) => RunningDaemon::Unknown(failure.text),
    }
}

fn check(settings: &CommandSettings) -> Result<Exit, Failure> {
    let CheckedConfig { files, errors, warnings } = look(settings);
    for warning in warnings {
        writeln!(stderr(), "warning: {warning}")?;
    }
    if !errors.is_empty() {
        return Err(Failure::new(Exit::Config, ConfigError(errors).to_string()));
    }
    let files: Vec<String> = files.iter().map(|path| path.display().to_string()).collect();
    let files = if files.is_empty() { "built-in defaults".to_owned() } else { files.join(" ") };
    writeln!(stdout(), "ok: {files}")?;
    Ok(Exit::Ok)
}

fn check_json(settings: &CommandSettings) -> Result<Exit, Failure> {
    let CheckedConfig { errors, warnings, .. } = look(settings);
    let in_json = |problem: &ConfigProblem| json!({ "place": problem.place, "key": problem.key, "reason": problem.reason });
    let list =
        |problems: &[ConfigProblem]| -> Vec<Value> { problems.iter().map(in_json).collect() };
    let valid = errors.is_empty();
    let answer = json!({ "valid": valid, "errors": list(&errors), "warnings": list(&warnings) });
    output::json(&mut stdout().lock(), &answer)?;
    Ok(if valid { Exit::Ok } else { Exit::Config })
}

/// What is legal but will cost mail, also what only the name servers show. That takes no longer
/// than a look should, wherever this runs.
fn complaints(loaded: &Loaded) -> Vec<ConfigProblem> {
    let mut all = loaded.complaints();
    if let Ok(runtime) = runtime() {
        let about = runtime.block_on(dns::complaints(&loaded.config.dns));
        all.extend(about.into_iter().map(|text| loaded.problem("dns.servers", text)));
    }
    all
}
