//! `staunch sendmail`: what cron, PHP and git call as /usr/sbin/sendmail.
//!
//! A message from stdin gets what every message must have and goes to the daemon's submit socket.
//! The program has no rights of its own and touches no file of the daemon: if that is away, nothing
//! is kept here and the caller gets 75, as sysexits(3) has it for "try again".

mod addresses;
mod header;
mod input;
mod local_user;
mod long_lines;
mod options;
mod submit;

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::io::{Write, stdin, stdout};
use std::path::Path;

use smtp::HostName;

use super::exit::{Exit, Failure};
use super::queue;
use crate::clock;
use crate::config::{Config, Loaded};
use addresses::{BadList, ReadList};
use header::{Defaults, Message};
use local_user::LocalUser;
use options::{SendmailMode, SendmailOptions};
use submit::{SubmitRefused, SubmittedEnvelope, TakenMail};

/// Options of all commands that take a value; what stands before a command may be one of them.
const GLOBAL: [&str; 2] = ["--config", "--log-level"];

/// The command line in the form that clap understands: by its names of old, the program is this
/// command; and what follows it is nobody else's to read.
pub(super) fn rewritten(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = arguments.into_iter().collect();
    let called = arguments.first().and_then(|name| Path::new(name).file_name());
    let mode: &[&str] = match called.and_then(OsStr::to_str) {
        Some("sendmail") => &["sendmail", "--"],
        Some("mailq") => &["sendmail", "--", "-bp"],
        Some("newaliases") => &["sendmail", "--", "-bi"],
        Some(_) | None => {
            if let Some(at) = own_arguments(&arguments) {
                arguments.insert(at, "--".into());
            }
            return arguments;
        }
    };
    arguments.splice(1..1, mode.iter().map(OsString::from));
    arguments
}

/// Where the arguments of `staunch sendmail` begin, unless they only ask for help.
fn own_arguments(arguments: &[OsString]) -> Option<usize> {
    let mut at = 1;
    loop {
        let word = arguments.get(at)?.to_str()?;
        if word == "sendmail" {
            let asks_for_help = arguments.get(at + 1).is_some_and(|next| next == "--help");
            return (!asks_for_help).then_some(at + 1);
        }
        if !word.starts_with("--") {
            return None;
        }
        at += if GLOBAL.contains(&word) { 2 } else { 1 };
    }
}

/// Runs the command. The configuration is read for what a mode needs, not before.
///
/// # Errors
///
/// [`Failure`] in the words of sendmail(8).
pub(super) fn run(
    arguments: &[OsString],
    load: impl FnOnce() -> Result<Loaded, Failure>,
) -> Result<Exit, Failure> {
    let options = SendmailOptions::parse(arguments)?;
    match options.mode {
        SendmailMode::Message => message(&options, &load()?.config),
        SendmailMode::Session => submit::relay(&load()?.config.submit.socket),
        SendmailMode::Queue => queue::mailq(&load()?),
        SendmailMode::Aliases => Ok(Exit::Ok),
    }
}

fn message(options: &SendmailOptions, config: &Config) -> Result<Exit, Failure> {
    if options.recipients.is_empty() && !options.reads_recipients {
        return Err(failure(Exit::Usage, "say who gets it: addresses, or -t"));
    }
    let user = LocalUser::of_process(&config.origin);
    let sender = sender(options, &user, config)?;
    let text = input::read(stdin().lock(), options.lone_dot, config.limits.message_size)
        .map_err(|error| failure(Exit::BadInput, error))?;
    let message = Message::parse(&text);
    let recipients = recipients(options, &message, config)?;
    let now = clock::now();
    let own = format!("{}@{}", user.login, config.origin);
    let is_said = options.sender.is_some() && !sender.is_empty();
    let known = if is_said { None } else { user.full_name.as_deref() };
    let content = long_lines::shortened(message.finish(&Defaults {
        from: if is_said { &sender } else { &own },
        name: options.full_name.as_deref().or(known),
        date: &now.strftime("%a, %d %b %Y %H:%M:%S +0000").to_string(),
        message_id: &format!("{}@{}", spool::IdSource::new().next(now), config.origin),
        origin: &config.origin,
    }));
    let envelope = SubmittedEnvelope {
        sender: &sender,
        recipients: &recipients.addresses,
        notify: options.notify,
        returns: options.returns,
        envelope_id: options.envelope_id.as_ref(),
    };
    let name = config.hostname.to_string();
    let taken = submit::submit(&config.submit.socket, &name, &envelope, &content)?;
    ended(&taken, &recipients.faults, options)
}

/// What `-f` says, else the user of this process.
fn sender(options: &SendmailOptions, user: &LocalUser, config: &Config) -> Result<String, Failure> {
    let written = options.sender.as_deref().map(str::trim).unwrap_or(&user.login);
    if matches!(written, "" | "<>") {
        return Ok(String::new());
    }
    let read = addresses::parse(written, &|name| at_origin(name, config));
    if let Some(fault) = read.faults.first() {
        return Err(failure(Exit::Usage, format!("-f {fault}")));
    }
    match <[String; 1]>::try_from(read.addresses) {
        Ok([sender]) => Ok(sender),
        Err(_) => Err(failure(Exit::Usage, format!("-f {written:?}: one address, please"))),
    }
}

fn at_origin(name: &str, config: &Config) -> String {
    format!("{name}@{}", config.origin)
}

/// Everybody once, in the order of the command line and then of the header; and what is not a valid
/// address. What is an alias the daemon knows.
fn recipients(
    options: &SendmailOptions,
    message: &Message<'_>,
    config: &Config,
) -> Result<ReadList, Failure> {
    let completion = |name: &str| at_origin(name, config);
    let mut all = ReadList::default();
    let on_the_line = options.recipients.iter().map(|list| addresses::parse(list, &completion));
    let in_the_header = options.reads_recipients.then(|| message.recipients(&completion));
    for read in on_the_line.chain(in_the_header) {
        all.addresses.extend(read.addresses);
        all.faults.extend(read.faults);
    }
    let mut seen = HashSet::new();
    all.addresses.retain(|address| seen.insert(same(address)));
    match (all.addresses.as_slice(), all.faults.as_slice()) {
        ([], []) => Err(failure(Exit::BadInput, "no recipient addresses in To, Cc or Bcc")),
        ([], faults) => Err(Failure::new(Exit::BadInput, lines(faults).join("\n"))),
        (_, _) => Ok(all),
    }
}

/// One line for stderr for each list that cannot be read.
fn lines(faults: &[BadList]) -> Vec<String> {
    faults.iter().map(|fault| format!("sendmail: {fault}")).collect()
}

/// Domains are compared as names, local parts as they are (RFC 5321 §2.4).
fn same(address: &str) -> String {
    let (local, domain) = address.rsplit_once('@').unwrap_or((address, ""));
    let domain =
        HostName::parse(domain).map_or_else(|_| domain.to_lowercase(), |name| name.to_string());
    format!("{local}@{domain}")
}

/// Says who has no mail. The others have their mail, as with every sendmail.
fn ended(
    taken: &TakenMail,
    faults: &[BadList],
    options: &SendmailOptions,
) -> Result<Exit, Failure> {
    if options.is_verbose {
        for answer in &taken.answers {
            writeln!(stdout(), "{answer}")?;
        }
    }
    let line = |one: &SubmitRefused| format!("sendmail: <{}>: {}", one.recipient, one.text);
    let mut lines = lines(faults);
    lines.extend(taken.refused.iter().map(line));
    match (faults, taken.refused.as_slice()) {
        ([], []) => Ok(Exit::Ok),
        ([], [first, ..]) => Err(Failure::new(first.exit, lines.join("\n"))),
        ([..], _) => Err(Failure::new(Exit::BadInput, lines.join("\n"))),
    }
}

fn failure(exit: Exit, text: impl std::fmt::Display) -> Failure {
    Failure::new(exit, format!("sendmail: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_old_are_this_command_and_its_letters_are_nobody_else_s() {
        let cases = [
            ("/usr/sbin/sendmail -t -h 3", "/usr/sbin/sendmail sendmail -- -t -h 3"),
            ("mailq", "mailq sendmail -- -bp"),
            ("newaliases -v", "newaliases sendmail -- -bi -v"),
            ("staunch sendmail -V x -- -a@b", "staunch sendmail -- -V x -- -a@b"),
            ("staunch --config sendmail sendmail a", "staunch --config sendmail sendmail -- a"),
            ("staunch --config=x sendmail", "staunch --config=x sendmail --"),
            ("staunch sendmail --help", "staunch sendmail --help"),
            ("staunch queue sendmail", "staunch queue sendmail"),
            ("staunch", "staunch"),
        ];
        for (line, want) in cases {
            let words = rewritten(line.split(' ').map(OsString::from));
            assert_eq!(words.join(OsStr::new(" ")), want);
        }
    }

    #[test]
    fn an_address_counts_once_whatever_the_case_of_its_domain() {
        assert_eq!(same("Ab@Ex.Example"), same("Ab@eX.example"));
        assert_eq!(same("ab@M\u{dc}nchen.example"), same("ab@xn--mnchen-3ya.example"));
        assert_ne!(same("ab@x.example"), same("Ab@x.example"));
    }
}
