//! What the documents for operators show is what the program does: each block of configuration is
//! accepted, each command exists, and those that need nothing but a daemon work as they are
//! written.

mod shell;

use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Output;

use tokio::process::Command;
use world::{Mode, Relay, World, output_of, policy_text};

use crate::harness::{PROGRAM, repository};
use shell::{ShellLine, shell_lines};

/// Our program, by all its names.
const OURS: [&str; 4] = ["staunch", "sendmail", "mailq", "newaliases"];
/// Programs that every machine has, and that change nothing.
const HARMLESS: [&str; 2] = ["date", "printf"];
/// What is only shown, since it changes the machine, or needs root, a service manager, the network
/// or another program. A command that is in none of these lists fails the test; so does one here
/// that no document uses.
const ONLY_SHOWN: [&str; 30] = [
    "[",
    "adduser",
    "cargo",
    "cat",
    "chgrp",
    "cp",
    "do",
    "docker",
    "done",
    "dpkg-divert",
    "exit",
    "export",
    "for",
    "groupdel",
    "install",
    "journalctl",
    "ln",
    "ls",
    "postconf",
    "postfix",
    "pwgen",
    "rm",
    "runuser",
    "sed",
    "set",
    "swaks",
    "systemctl",
    "systemd-sysusers",
    "tee",
    "userdel",
];
/// Commands of ours that are only shown: the daemon itself, and what needs it stopped.
const NOT_BESIDE_A_DAEMON: [&[&str]; 2] = [&["run"], &["queue", "restore"]];
/// How the documents run our program as another user, or in a container.
const AS_ANOTHER: [&[&str]; 3] =
    [&["sudo", "-u", "staunch"], &["runuser", "-u", "staunch", "--"], &["docker", "exec", "relay"]];

/// A policy that `policy lint` has nothing against.
const MX: &str = "mx1.example.com";
/// What a program that asks for a password, or for a message, reads.
const TYPED: &str = "correct horse battery staple\n";

/// Between three backticks.
#[derive(Debug)]
struct FencedBlock {
    /// File and line.
    place: String,
    language: String,
    text: String,
}

impl FencedBlock {
    /// The lines of a script, or what is typed behind the prompts of a session.
    fn lines(&self) -> Vec<ShellLine> {
        let typed = || self.text.lines().filter_map(|line| line.strip_prefix("$ "));
        match self.language.as_str() {
            "sh" => shell_lines(&self.text),
            "console" => typed().flat_map(shell_lines).collect(),
            _ => Vec::new(),
        }
    }
}

/// Names and texts of the documents for operators.
fn documents() -> Vec<(String, String)> {
    let top = repository();
    let pages = std::fs::read_dir(top.join("docs/operations")).unwrap();
    let mut paths: Vec<PathBuf> = pages.map(|page| page.unwrap().path()).collect();
    paths.sort();
    paths.extend(["README.md", "deploy/README.md", "docs/operations.md"].map(|at| top.join(at)));
    let named = |path: PathBuf| {
        let name = path.strip_prefix(&top).unwrap().display().to_string();
        (name, std::fs::read_to_string(&path).unwrap())
    };
    paths.into_iter().map(named).collect()
}

fn blocks() -> Vec<FencedBlock> {
    documents().iter().flat_map(|(name, text)| prose_and_blocks(name, text).1).collect()
}

/// What is outside of blocks, and the blocks; one in a list is as far to the right as the list.
fn prose_and_blocks(name: &str, text: &str) -> (String, Vec<FencedBlock>) {
    let (mut prose, mut blocks) = (String::new(), Vec::<FencedBlock>::new());
    let (mut inside, mut is_behind_a_gap) = (None, true);
    for (at, line) in text.lines().enumerate() {
        let place = format!("{name}:{}", at + 1);
        let fence = line.trim_start().strip_prefix("```");
        match (fence, inside) {
            (Some(language), None) => {
                let language = language.to_owned();
                blocks.push(FencedBlock { place, language, text: String::new() });
                inside = Some(line.len() - line.trim_start().len());
            }
            (Some(_), Some(_)) => inside = None,
            (None, Some(indent)) => {
                let line = line.get(indent..).unwrap_or_default();
                blocks.last_mut().unwrap().text.extend([line, "\n"]);
            }
            (None, None) => {
                assert!(!(is_behind_a_gap && line.starts_with("    ")), "{place}: no fence");
                prose.extend([line, "\n"]);
            }
        }
        is_behind_a_gap = line.is_empty();
    }
    assert!(inside.is_none(), "{name}: a block without an end");
    (prose, blocks)
}

/// What follows our name in a command.
fn our_arguments<'w>(words: &'w [&'w str]) -> Option<&'w [&'w str]> {
    let is_assignment = |word: &&&str| word.starts_with("STAUNCH_") && word.contains('=');
    let words = &words[words.iter().take_while(is_assignment).count()..];
    let prefix = AS_ANOTHER.iter().find(|prefix| words.starts_with(prefix));
    let words = &words[prefix.map_or(0, |prefix| prefix.len())..];
    let (first, rest) = words.split_first()?;
    matches!(*first, "staunch" | "/staunch").then_some(rest)
}

fn said(output: &Output) -> String {
    let text = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    String::from_utf8_lossy(&text).into_owned()
}

#[test]
fn every_block_says_what_it_is() {
    for block in blocks() {
        let is_shell = matches!(block.language.as_str(), "sh" | "console");
        let is_known = is_shell || matches!(block.language.as_str(), "toml" | "text");
        assert!(is_known, "{}: {:?}", block.place, block.language);
        assert_eq!(is_shell, !block.lines().is_empty(), "{}: commands", block.place);
    }
}

/// Alone, beside the files that it names: a certificate, its key, users, a password.
#[tokio::test]
async fn every_block_of_configuration_is_accepted() {
    let world = World::start(PROGRAM).await;
    let keys = world.key_files("relay.example.net");
    let etc = world.dir().join("etc");
    std::fs::create_dir_all(etc.join("tls")).unwrap();
    std::fs::copy(&keys.certificate, etc.join("tls/chain.pem")).unwrap();
    std::fs::copy(&keys.key, etc.join("tls/key.pem")).unwrap();
    std::fs::write(etc.join("users"), "").unwrap();
    std::fs::write(etc.join("smarthost.password"), "secret\n").unwrap();
    std::fs::write(etc.join("aliases"), "postmaster: root\n").unwrap();

    let (mut checked, mut refused) = (0, Vec::new());
    for block in blocks() {
        let documents = match block.language.as_str() {
            "toml" => vec![block.text.clone()],
            _ => block.lines().into_iter().flat_map(|line| line.documents).collect(),
        };
        for document in documents {
            let file = etc.join("staunch.toml");
            std::fs::write(&file, document.replace("/etc/staunch", etc.to_str().unwrap())).unwrap();
            let mut check = Command::new(PROGRAM);
            check.args(["config", "check", "--config"]).arg(&file).env_clear();
            check.env("STATE_DIRECTORY", world.dir());
            check.env("STAUNCH__DNS__SERVERS", world.dns.address().to_string());
            let output = check.output().await.unwrap();
            // Whether a port is free here, and may be opened by this user, is the machine's affair.
            let is_of_the_machine = |line: &str| {
                line.starts_with("warning: ")
                    || line.contains(".address: ") && line.contains("(os error ")
            };
            if !output.status.success() && !said(&output).lines().all(is_of_the_machine) {
                refused.push(format!("{}: {}", block.place, said(&output)));
            }
            checked += 1;
        }
    }
    assert!(refused.is_empty(), "{refused:#?}");
    assert!(checked >= 8, "{checked}");
}

/// Also one in the middle of a sentence.
#[tokio::test]
async fn every_command_of_ours_that_is_shown_exists() {
    let mut shown: Vec<(String, ShellLine)> = Vec::new();
    for block in blocks() {
        shown.extend(block.lines().into_iter().map(|line| (block.place.clone(), line)));
    }
    for (name, text) in documents() {
        let (prose, _) = prose_and_blocks(&name, &text);
        let quoted = prose.split('`').skip(1).step_by(2).map(|code| code.replace('\n', " "));
        let lines = quoted.filter(|code| code.starts_with("staunch "));
        shown.extend(lines.flat_map(|code| shell_lines(&code)).map(|line| (name.clone(), line)));
    }
    let (mut tried, mut wrong) = (0, Vec::new());
    for (place, line) in shown {
        for command in &line.commands {
            let words: Vec<&str> = command.iter().map(String::as_str).collect();
            let Some(arguments) = our_arguments(&words) else { continue };
            // Its arguments are not read by the grammar of the others.
            let sendmail = arguments.iter().position(|word| *word == "sendmail");
            let arguments = &arguments[..sendmail.map_or(arguments.len(), |at| at + 1)];
            // A mistake in front of it is told instead of the help.
            let mut help = Command::new(PROGRAM);
            let output = help.args(arguments).arg("--help").output().await.unwrap();
            if !output.status.success() {
                wrong.push(format!("{place}: {}: {}", line.text, said(&output)));
            }
            tried += 1;
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(tried > 100, "{tried}");
}

/// Can it be tried here? A command that is in no list is a mistake.
fn is_to_be_run(place: &str, line: &ShellLine, seen: &mut Vec<String>) -> bool {
    let mut is_here = true;
    for command in &line.commands {
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        let first = words.iter().find(|word| !word.starts_with("STAUNCH_")).unwrap();
        if OURS.contains(first) {
            let arguments = our_arguments(&words).unwrap_or_default();
            is_here &= !NOT_BESIDE_A_DAEMON.iter().any(|known| arguments.starts_with(known));
        } else if ONLY_SHOWN.contains(first) {
            seen.push((*first).to_owned());
            is_here = false;
        } else {
            assert!(HARMLESS.contains(first), "{place}: `{first}` is in no list");
        }
    }
    is_here
}

/// A folder in which commands are typed, beside a daemon that has sent mail and keeps some.
struct CommandShell {
    relay: Relay,
    folder: PathBuf,
    /// Of a message that waits.
    id: String,
}

impl CommandShell {
    async fn start(world: &World, block: &FencedBlock) -> Self {
        let relay = world.relay("[aliases]\nroot = \"ops@example.net\"\n").await;
        relay.submit("anna@example.net", &["user@example.com"], "sent").await;
        relay.event("delivered").await;
        let id = relay.submit("anna@example.net", &["b@down.test"], "waits").await;
        relay.event("deferred").await;
        let folder = relay.config_file().with_file_name("shell");
        std::fs::create_dir_all(folder.join("bin")).unwrap();
        for name in OURS {
            symlink(PROGRAM, folder.join("bin").join(name)).unwrap();
        }
        let policy = policy_text(Mode::Enforce, &[MX], 604_800);
        std::fs::write(folder.join("mta-sts.txt"), policy).unwrap();
        std::fs::write(folder.join("message.eml"), "To: user@example.com\nSubject: x\n\nx\n")
            .unwrap();
        std::fs::create_dir(folder.join("staunch")).unwrap();
        let shell = Self { relay, folder, id };
        // What was there before a restore, and an export of another machine.
        for made in ["queue backup before-restore-1", "queue export mail.export"] {
            if block.text.contains(made.rsplit(' ').next().unwrap()) {
                let output = shell.run(&format!("staunch {made}")).await;
                assert!(output.status.success(), "{made}: {output:?}");
            }
        }
        shell
    }

    /// As it is written, but for the id of a message and for folders of the system.
    async fn run(&self, line: &str) -> Output {
        let folder = self.folder.to_str().unwrap();
        let line = line.replace("MESSAGE_ID", &self.id);
        let line = line.replace("/var/backups", folder).replace("/var/lib/staunch", folder);
        let path = format!("{folder}/bin:/usr/bin:/bin");
        let mut shell = Command::new("/bin/sh");
        shell.args(["-e", "-c", &line]).current_dir(&self.folder).env_clear();
        shell.env("PATH", path).env("STAUNCH_CONFIG", self.relay.config_file());
        output_of(&mut shell, TYPED.as_bytes()).await
    }
}

#[tokio::test]
async fn commands_that_need_only_a_daemon_work_as_they_are_written() {
    let world = World::start(PROGRAM).await;
    let mx = world.mx(MX).await;
    world.domain("example.com").mx(&[(10, &mx)]).mta_sts(Mode::Enforce, &[MX], 604_800);
    world.domain("example.net").mx(&[(10, &mx)]);
    world.domain("down.test").mx_names(&[(10, "mx.down.test")]);
    world.dns.a("mx.down.test", World::dead_address());

    let (mut run, mut shown, mut failed) = (0, 0, Vec::new());
    let mut seen = Vec::new();
    for block in blocks() {
        let lines = block.lines();
        let (here, elsewhere): (Vec<&ShellLine>, Vec<&ShellLine>) =
            lines.iter().partition(|line| is_to_be_run(&block.place, line, &mut seen));
        shown += elsewhere.len();
        if here.is_empty() {
            continue;
        }
        let shell = CommandShell::start(&world, &block).await;
        for line in here {
            let output = shell.run(&line.text).await;
            if !output.status.success() {
                failed.push(format!("{}: {}: {}", block.place, line.text, said(&output)));
            }
            run += 1;
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
    let unused: Vec<&&str> =
        ONLY_SHOWN.iter().filter(|word| !seen.iter().any(|s| s == *word)).collect();
    assert!(unused.is_empty(), "no document uses {unused:?}");
    // None is left out by a mistake of this test.
    assert!(run >= 40 && shown >= 40, "{run} run, {shown} only shown");
}

/// A shell can read all of them, those that are only shown, too.
#[tokio::test]
async fn every_script_that_is_shown_is_one() {
    for block in blocks() {
        if block.language != "sh" {
            continue;
        }
        let mut check = Command::new("/bin/sh");
        let output = check.args(["-n", "-c", &block.text]).output().await.unwrap();
        assert!(output.status.success(), "{}: {}", block.place, said(&output));
    }
}
