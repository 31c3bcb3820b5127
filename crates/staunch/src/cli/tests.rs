//! The command line as it is typed.

use clap::CommandFactory;

use super::arguments::{Arguments, MailCommand, QueueCommand};
use super::*;

fn parse(line: &str) -> Result<Arguments, clap::Error> {
    Arguments::try_parse_from(line.split_whitespace())
}

#[test]
fn the_definition_is_sound_and_every_command_has_an_example() {
    fn visit(command: &clap::Command) {
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        assert!(help.contains("Example: "), "{}", command.get_name());
        assert!(command.get_about().is_some(), "{}", command.get_name());
        command.get_subcommands().for_each(visit);
    }
    Arguments::command().debug_assert();
    visit(&Arguments::command());
}

/// The command lines in the examples that are ours.
fn examples(command: &clap::Command) -> Vec<String> {
    let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let lines = help.split(['\n', '|']).flat_map(|line| line.split("&&"));
    let lines = lines.map(|line| line.trim().trim_start_matches("Example:").trim());
    let ours = lines.filter(|line| line.starts_with("staunch "));
    let ours = ours.map(|line| line.replace(['\'', '<'], " "));
    let below = command.get_subcommands().flat_map(examples);
    ours.chain(below).collect()
}

#[test]
fn every_example_is_a_command_line_and_its_ids_are_ids() {
    let mut ids = 0;
    for line in examples(&Arguments::command()) {
        let arguments = parse(&line).unwrap_or_else(|error| panic!("{line}: {error}"));
        let CliCommand::Queue(QueueCommand::Mail(command)) = arguments.command else { continue };
        let named = match command {
            MailCommand::Show(command) => vec![command.id],
            MailCommand::Hold(command) => command.action.ids,
            MailCommand::Retry(action)
            | MailCommand::Release(action)
            | MailCommand::Bounce(action)
            | MailCommand::Delete(action) => action.ids,
            MailCommand::List(_) | MailCommand::Summary(_) => vec![],
        };
        for id in &named {
            let read: spool::MessageId = id.parse().unwrap_or_else(|_| panic!("{line}"));
            assert_eq!(read.to_string(), *id, "as they are printed");
        }
        ids += named.len();
    }
    assert!(ids >= 2, "show and delete have an id in their example");
}

#[test]
fn bulk_actions_need_exactly_one_kind_of_choice() {
    let cases = [
        ("staunch queue retry", false),
        ("staunch queue retry a b", true),
        ("staunch queue retry --all", true),
        ("staunch queue delete --domain x.example", true),
        ("staunch queue delete --reason expired --json", true),
        ("staunch queue delete a --all", false),
        ("staunch queue delete --all --dry-run --json", true),
        ("staunch queue bounce --dry-run", false),
        ("staunch queue hold a --why x --dry-run", true),
        ("staunch queue delete a --why x", false),
        ("staunch queue delete --all --domain x.example", false),
        ("staunch queue show a --body", true),
        ("staunch queue show a --body --json", false),
        ("staunch queue list --state sleeping", false),
        ("staunch queue list --state held --limit 1 --config /x", true),
        ("staunch --config /x run", true),
        ("staunch run --config /x --log-level debug", true),
        ("staunch policy lint-record", true),
        ("staunch policy match --mx a", false),
        ("staunch policy match --mx a --pattern -b", true),
        ("staunch", false),
        ("staunch sleep", false),
    ];
    for (line, want) in cases {
        assert_eq!(parse(line).is_ok(), want, "{line}");
    }
}

#[test]
fn a_bulk_action_s_request_says_only_what_was_chosen() {
    let cases = [
        ("staunch queue retry a b", r#"{"ids":["a","b"],"domain":null,"reason":null,"all":false}"#),
        (
            "staunch queue retry --domain x.example",
            r#"{"ids":[],"domain":"x.example","reason":null,"all":false}"#,
        ),
        (
            "staunch queue retry --all --json",
            r#"{"ids":[],"domain":null,"reason":null,"all":true}"#,
        ),
    ];
    for (line, want) in cases {
        let CliCommand::Queue(QueueCommand::Mail(MailCommand::Retry(action))) =
            parse(line).unwrap().command
        else {
            panic!("{line}")
        };
        assert_eq!(serde_json::to_string(&action.chosen()).unwrap(), want);
    }
}

#[test]
fn mistakes_and_help_end_as_sysexits_wants() {
    let exit = |line| usage(&parse(line).unwrap_err());
    assert_eq!(exit("staunch --nonsense"), Exit::Usage);
    assert_eq!(exit("staunch"), Exit::Usage);
    assert_eq!(exit("staunch --help"), Exit::Ok);
    assert_eq!(exit("staunch --version"), Exit::Ok);
    assert_eq!(exit("staunch queue list --help"), Exit::Ok);
}
