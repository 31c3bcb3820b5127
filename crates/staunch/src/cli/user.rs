//! `staunch user add`, `passwd`, `remove`, `list`: the users file, which the daemon notices by
//! itself.
//!
//! A password is typed at the terminal, without an echo, or comes as the first line of stdin; it is
//! never an argument, which everybody on the machine could read.

use std::io::{self, BufRead as _, IsTerminal as _, Read as _, Write, stderr, stdin, stdout};
use std::path::Path;

use rustix::termios::{self, LocalModes, OptionalActions};
use serde_json::json;
use smtp::sasl::NAME_OCTETS_MAX;
use zeroize::Zeroizing;

use super::arguments::{Json, NewPassword, UserCommand, UserList, UserRemove};
use super::exit::{Exit, Failure};
use super::output;
use super::table::TextTable;
use crate::auth::edit::{Edit, EditError, Edited, edit};
use crate::auth::users::{UserName, Users, UsersError};
use crate::auth::verifier::{SecretForm, Verifier};
use crate::config::Loaded;

pub(super) fn run(command: &UserCommand, loaded: &Loaded) -> Result<Exit, Failure> {
    let path = loaded.config.access.users_file.as_deref().ok_or_else(|| {
        Failure::new(Exit::Config, "access.users_file: is empty, so there is no file of users")
    })?;
    match command {
        UserCommand::Add(command) => set(path, command, UserChange::Added),
        UserCommand::Passwd(command) => set(path, command, UserChange::Changed),
        UserCommand::Remove(command) => remove(path, command),
        UserCommand::List(command) => list(path, command),
    }
}

/// What was done, in the word that is printed.
#[derive(Clone, Copy, Debug)]
enum UserChange {
    Added,
    Changed,
    Removed,
}

impl UserChange {
    fn word(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Changed => "changed",
            Self::Removed => "removed",
        }
    }
}

fn set(path: &Path, command: &NewPassword, change: UserChange) -> Result<Exit, Failure> {
    let name = name(&command.name)?;
    // One user without SCRAM takes it from all: a new password keeps it.
    let has_scram = || Users::read(path).is_ok_and(|users| users.has_scram(&name));
    let form = if command.scram || has_scram() { SecretForm::Scram } else { SecretForm::Argon2id };
    let password = password(&name)?;
    let verifier = Verifier::make(form, &password)
        .map_err(|error| Failure::new(Exit::BadInput, error.to_string()))?;
    let wanted = match change {
        UserChange::Added => Edit::Add(&verifier),
        UserChange::Changed | UserChange::Removed => Edit::Replace(&verifier),
    };
    if let Some(warning) = warning(path, edit(path, &name, wanted)?) {
        writeln!(stderr(), "{warning}")?;
    }
    say(&name, change, command.json)
}

/// A file that root makes in a folder of root is read by root alone, and the daemon is somebody
/// else.
fn warning(path: &Path, done: Edited) -> Option<String> {
    match done {
        Edited::Made { group: 0 } => Some(format!(
            "access.users_file: {path} is new and belongs to the group root, so that the user who runs the \
             daemon may not be able to read it; chgrp its group, as in: chgrp staunch {path}",
            path = path.display()
        )),
        Edited::Made { .. } | Edited::Changed => None,
    }
}

fn remove(path: &Path, command: &UserRemove) -> Result<Exit, Failure> {
    let name = name(&command.name)?;
    edit(path, &name, Edit::Remove)?;
    say(&name, UserChange::Removed, command.json)
}

fn say(name: &UserName, change: UserChange, format: Json) -> Result<Exit, Failure> {
    let mut out = stdout().lock();
    if format.json {
        output::json(&mut out, &json!({ "name": name.as_str(), "change": change.word() }))?;
    } else {
        writeln!(out, "{}: {name}", change.word())?;
    }
    Ok(Exit::Ok)
}

fn list(path: &Path, command: &UserList) -> Result<Exit, Failure> {
    let users = Users::read(path)?;
    let wanted = command.name.as_deref().map(name).transpose()?;
    let mut out = stdout().lock();
    let mut table = TextTable::new(&["NAME", "VERIFIER"]);
    let mut is_anybody = false;
    for (name, kind) in users.list() {
        if wanted.as_ref().is_some_and(|wanted| wanted != name) {
            continue;
        }
        is_anybody = true;
        if command.json.json {
            output::json(&mut out, &json!({ "name": name.as_str(), "verifier": kind }))?;
        } else {
            table.row(&mut out, vec![name.to_string(), kind.into()])?;
        }
    }
    table.finish(&mut out)?;
    Ok(Exit::from(is_anybody || wanted.is_none()))
}

fn name(text: &str) -> Result<UserName, Failure> {
    UserName::parse(text)
        .map_err(|reason| Failure::new(Exit::BadInput, format!("{text:?}: {reason}")))
}

/// Typed twice, or read from stdin once.
fn password(name: &UserName) -> Result<Zeroizing<String>, Failure> {
    let unread = |error: io::Error| Failure::new(Exit::NoInput, format!("the password: {error}"));
    let first = if stdin().is_terminal() {
        let first = ask(&format!("Password of {name}: ")).map_err(unread)?;
        let again = ask("The same again: ").map_err(unread)?;
        if first != again {
            return Err(Failure::new(Exit::BadInput, "the two passwords differ"));
        }
        first
    } else {
        line().map_err(unread)?
    };
    let wrong = if first.is_empty() {
        "the password is empty"
    } else if first.len() > NAME_OCTETS_MAX {
        "the password is longer than the 255 octets that clients can send"
    } else if first.contains(char::is_control) {
        "the password has a control character"
    } else {
        return Ok(first);
    };
    Err(Failure::new(Exit::BadInput, wrong))
}

/// A line from the terminal, which does not show it.
fn ask(prompt: &str) -> io::Result<Zeroizing<String>> {
    let mut terminal = stderr();
    write!(terminal, "{prompt}")?;
    let input = stdin();
    let before = termios::tcgetattr(&input)?;
    let mut silent = before.clone();
    silent.local_modes.remove(LocalModes::ECHO);
    termios::tcsetattr(&input, OptionalActions::Flush, &silent)?;
    let line = line();
    termios::tcsetattr(&input, OptionalActions::Flush, &before)?;
    writeln!(terminal)?;
    line
}

/// The first line of stdin without its end.
fn line() -> io::Result<Zeroizing<String>> {
    let limit = u64::try_from(NAME_OCTETS_MAX).unwrap_or(u64::MAX).saturating_add(2);
    let mut line = Zeroizing::new(String::new());
    stdin().lock().take(limit).read_line(&mut line)?;
    let end = line.trim_end_matches(['\r', '\n']).len();
    line.truncate(end);
    Ok(line)
}

impl From<EditError> for Failure {
    fn from(error: EditError) -> Self {
        let exit = match &error {
            EditError::Exists { .. } | EditError::Missing { .. } => Exit::BadInput,
            EditError::Unreadable(UsersError::Line { .. }) => Exit::Config,
            EditError::Unreadable(
                UsersError::Missing { .. } | UsersError::Io { .. } | UsersError::NoRandomness,
            ) => Exit::NoInput,
            EditError::Io { .. } => Exit::TemporaryFailure,
        };
        Self::new(exit, format!("access.users_file: {error}"))
    }
}

impl From<UsersError> for Failure {
    fn from(error: UsersError) -> Self {
        EditError::from(error).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_file_that_only_root_can_read_is_told_of_with_the_remedy() {
        let path = Path::new("/etc/staunch/users");
        let told = |done| warning(path, done);
        let text = told(Edited::Made { group: 0 }).unwrap();
        assert!(text.contains("chgrp staunch /etc/staunch/users"), "{text}");
        assert_eq!(told(Edited::Made { group: 107 }), None);
        assert_eq!(told(Edited::Changed), None);
    }
}
