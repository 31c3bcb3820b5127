//! `staunch config`: is it valid, and what is in effect?

use std::io::{Write, stderr, stdout};

use serde_json::{Value, json};

use super::arguments::{CommandSettings, ConfigCommand};
use super::exit::{Exit, Failure};
use super::output;
use crate::config::{self, ConfigError, ConfigProblem, Loaded, Surroundings};
use crate::daemon::check_files::{check_files, data_dir_complaint, data_dir_problem};
use crate::dns;

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

/// The configuration with all that it names looked at.
fn load_wholly(settings: &CommandSettings) -> Result<Loaded, ConfigError> {
    let loaded = config::load(settings.config.as_deref(), &Surroundings::of_process())?;
    check_files(&loaded)?;
    if let Some(problem) = data_dir_problem(&loaded) {
        return Err(problem.into());
    }
    loaded.with_aliases()
}

fn check(settings: &CommandSettings) -> Result<Exit, Failure> {
    let loaded =
        load_wholly(settings).map_err(|error| Failure::new(Exit::Config, error.to_string()))?;
    for complaint in complaints(&loaded) {
        writeln!(stderr(), "warning: {complaint}")?;
    }
    let files: Vec<String> = loaded.files.iter().map(|path| path.display().to_string()).collect();
    let files = if files.is_empty() { "built-in defaults".to_owned() } else { files.join(" ") };
    writeln!(stdout(), "ok: {files}")?;
    Ok(Exit::Ok)
}

fn check_json(settings: &CommandSettings) -> Result<Exit, Failure> {
    let (errors, warnings) = match load_wholly(settings) {
        Ok(loaded) => (Vec::new(), complaints(&loaded)),
        Err(ConfigError(problems)) => (problems, Vec::new()),
    };
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
    all.extend(loaded.nobody_is_root());
    all.extend(data_dir_complaint(loaded));
    if let Ok(runtime) = crate::cli::admin_client::runtime() {
        let about = runtime.block_on(dns::complaints(&loaded.config.dns));
        all.extend(about.into_iter().map(|text| loaded.problem("dns.servers", text)));
    }
    all
}
