//! A command line that makes no sense: what is wrong with it, in one line.

use std::io::Write as _;

use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::exit::Exit;
use super::output;

/// Letters that may differ between what was typed and what was probably meant.
const TYPING_ERRORS: usize = 2;
/// What users of other programs type, and what does it here.
const ELSEWHERE: [(&str, &str); 9] = [
    ("status", "staunch healthcheck, or staunch queue summary"),
    ("start", "staunch run"),
    ("check", "staunch config check"),
    ("show", "staunch queue show, or staunch config show"),
    ("list", "staunch queue list"),
    ("mailq", "staunch queue list"),
    ("flush", "staunch queue retry --all"),
    ("retry", "staunch queue retry"),
    ("version", "staunch --version"),
];

/// Help goes to stdout and is a success; clap's own code for mistakes is 2, sysexits' is 64.
pub(super) fn usage(error: &clap::Error) -> Exit {
    let asked = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    let is_help = asked || error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
    let printed =
        if is_help { error.print() } else { writeln!(std::io::stderr(), "{}", one_line(error)) };
    if asked && printed.is_ok() { Exit::Ok } else { Exit::Usage }
}

/// What is wrong, then what was probably meant, without the paragraphs that repeat the help.
pub(super) fn one_line(error: &clap::Error) -> String {
    let rendered = error.render().to_string();
    let (mut said, mut tips) = (Vec::new(), Vec::new());
    for paragraph in rendered.split("\n\n").map(str::trim) {
        if let Some(tip) = paragraph.strip_prefix("tip: ") {
            tips.push(words(tip));
        } else if !paragraph.starts_with("Usage:") && !paragraph.starts_with("For more information")
        {
            said.push(words(paragraph));
        }
    }
    if error.kind() == ErrorKind::InvalidSubcommand {
        tips = meant_command(error).into_iter().collect();
    }
    let text = said.into_iter().chain(tips).collect::<Vec<_>>().join("; ");
    // Arguments can come from a stranger, by way of a script.
    format!("{} (see --help)", output::inert(&text))
}

fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// clap finds `pause` in `status`, and whoever follows that stops all mail: a suggestion has to be
/// what was typed, but for a letter or two.
fn meant_command(error: &clap::Error) -> Option<String> {
    let ContextValue::String(typed) = error.get(ContextKind::InvalidSubcommand)? else {
        return None;
    };
    let suggested: &[String] = match error.get(ContextKind::SuggestedSubcommand) {
        Some(ContextValue::Strings(names)) => names,
        Some(ContextValue::String(name)) => std::slice::from_ref(name),
        _ => &[],
    };
    let is_near = |name: &&String| strsim::osa_distance(typed, name) <= TYPING_ERRORS;
    let near =
        suggested.iter().filter(is_near).min_by_key(|name| strsim::osa_distance(typed, name));
    if let Some(name) = near {
        return Some(format!("did you mean '{name}'?"));
    }
    let elsewhere = ELSEWHERE.iter().find(|(name, _)| name == typed);
    elsewhere.map(|(_, command)| format!("did you mean {command}?"))
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser as _};

    use super::*;
    use crate::cli::arguments::Arguments;

    #[test]
    fn a_mistake_is_one_line_that_ends_with_what_was_meant() {
        let cases = [
            (
                "staunch queue list --state x",
                "error: invalid value 'x' for '--state <STATE>' \
                 [possible values: queued, sending, held] (see --help)",
            ),
            (
                "staunch explan",
                "error: unrecognized subcommand 'explan'; did you mean 'explain'? (see --help)",
            ),
            (
                "staunch queue lst",
                "error: unrecognized subcommand 'lst'; did you mean 'list'? (see --help)",
            ),
            (
                "staunch status",
                "error: unrecognized subcommand 'status'; did you mean staunch healthcheck, or staunch queue \
                 summary? (see --help)",
            ),
            ("staunch stop", "error: unrecognized subcommand 'stop' (see --help)"),
            (
                "staunch queue list --stat held",
                "error: unexpected argument '--stat' found; a similar argument exists: '--state' (see --help)",
            ),
            (
                "staunch policy match \u{9b}31m.test",
                "error: unexpected argument '\\u{9b}31m.test' found (see --help)",
            ),
            (
                "staunch policy match --mx a.test",
                "error: the following required arguments were not provided: --pattern <PATTERN> (see --help)",
            ),
        ];
        for (line, want) in cases {
            let error = Arguments::try_parse_from(line.split_whitespace()).unwrap_err();
            assert_eq!(one_line(&error), want);
        }
    }

    #[test]
    fn whatever_is_typed_no_command_is_suggested_that_stops_mail_unless_it_was_meant() {
        for typed in ["status", "state", "stats", "use", "rain", "train", "delay", "pase", "drian"]
        {
            let error = Arguments::try_parse_from(["staunch", typed]).unwrap_err();
            let said = one_line(&error);
            for name in ["pause", "drain"] {
                let is_near = strsim::osa_distance(typed, name) <= TYPING_ERRORS;
                assert!(is_near || !said.contains(name), "{typed}: {said}");
            }
        }
    }

    #[test]
    fn help_fits_into_a_terminal_of_100_columns() {
        fn visit(command: &mut clap::Command, path: &str) {
            let path = format!("{path} {}", command.get_name());
            for help in [command.render_help(), command.render_long_help()] {
                for line in help.to_string().lines() {
                    assert!(line.chars().count() <= 100, "{path}: {line}");
                }
            }
            command.get_subcommands_mut().for_each(|inner| visit(inner, &path));
        }
        let mut command = Arguments::command();
        command.build();
        visit(&mut command, "");
    }
}
