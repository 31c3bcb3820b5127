//! The command line: arguments in, exit code out.
//!
//! Commands that look at the running daemon, or make it do something, go through its socket
//! (`admin_client`); they never touch its files. `queue backup`, `restore`, `export` and `doctor`
//! are about the files, and need no daemon. Data goes to stdout, as tables for people or with
//! `--json` for programs; everything else goes to stderr, one line a fact.

mod admin_client;
mod arguments;
mod backup;
mod clock;
mod configuration;
mod debug;
mod doctor;
mod exit;
mod explain;
mod healthcheck;
mod lint;
mod load;
mod output;
mod policy;
mod queue;
mod reload;
mod run;
mod sendmail;
mod switches;
mod table;
mod transfer;
mod usage;
mod user;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use clap::Parser;

use arguments::{Arguments, CliCommand, PolicyCommand, QueueCommand};
pub(crate) use exit::Exit;
use exit::Failure;
use load::load;
use usage::usage;

/// How long the last word of a daemon may take.
const LAST_WORD: Duration = Duration::from_secs(1);

/// Says on stderr why there is nothing. A daemon ends also where nobody reads that: whoever is to
/// start it again would wait for ever.
fn tell(text: String, command: &CliCommand) {
    if text.is_empty() {
        return;
    }
    let say = move || {
        // With stderr gone there is nobody to tell.
        let _ = writeln!(std::io::stderr(), "{text}");
    };
    if !matches!(command, CliCommand::Run) {
        return say();
    }
    let (said, is_said) = mpsc::channel();
    let told = thread::Builder::new().spawn(move || {
        say();
        // Who started this may have gone on.
        let _ = said.send(());
    });
    if told.is_ok() {
        let _ = is_said.recv_timeout(LAST_WORD);
    }
}

/// Runs the program on `arguments`, the first of which is its own name.
pub(crate) fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(sendmail::rewritten(arguments)) {
        Ok(arguments) => arguments,
        Err(error) => return usage(&error).code(),
    };
    match dispatch(&arguments) {
        Ok(exit) => exit.code(),
        Err(failure) => {
            tell(failure.text, &arguments.command);
            failure.exit.code()
        }
    }
}

fn dispatch(arguments: &Arguments) -> Result<Exit, Failure> {
    let settings = &arguments.settings;
    match &arguments.command {
        CliCommand::Run => run::run(load(settings)?, settings),
        CliCommand::Config(command) => configuration::run(command, settings),
        CliCommand::Explain(command) => explain::run(command, &load(settings)?),
        CliCommand::Queue(QueueCommand::Backup(command)) => {
            backup::backup(command, &load(settings)?)
        }
        CliCommand::Queue(QueueCommand::Restore(command)) => {
            backup::restore(command, &load(settings)?)
        }
        CliCommand::Queue(QueueCommand::Export(command)) => {
            transfer::export(command, &load(settings)?)
        }
        CliCommand::Queue(QueueCommand::Import(command)) => {
            transfer::import(command, &load(settings)?)
        }
        CliCommand::Queue(QueueCommand::Mail(command)) => queue::run(command, &load(settings)?),
        CliCommand::Policy(PolicyCommand::Lint(command)) => {
            lint::policy(command, || load(settings))
        }
        CliCommand::Policy(PolicyCommand::LintRecord(command)) => lint::record(command),
        CliCommand::Policy(PolicyCommand::Match(command)) => lint::matches(command),
        CliCommand::Policy(PolicyCommand::Cache(command)) => policy::run(command, &load(settings)?),
        CliCommand::Pause(command) => switches::pause(command, &load(settings)?),
        CliCommand::Resume(command) => switches::resume(command, &load(settings)?),
        CliCommand::Drain(command) => switches::drain(command, &load(settings)?),
        CliCommand::Doctor(command) => doctor::run(command, &load(settings)?),
        CliCommand::Debug(command) => debug::run(command, &load(settings)?),
        CliCommand::Clock(command) => clock::run(command, &load(settings)?),
        CliCommand::Reload(format) => reload::run(*format, &load(settings)?),
        CliCommand::User(command) => user::run(command, &load(settings)?),
        CliCommand::Sendmail(command) => sendmail::run(&command.arguments, || load(settings)),
        CliCommand::Healthcheck(command) => healthcheck::run(command, &load(settings)?),
    }
}

#[cfg(test)]
mod tests;
