//! The program by its names of old: what cron, PHP, git and people hand to /usr/sbin/sendmail
//! arrives.

use std::ffi::OsString;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Output, Stdio};

use tokio::process::Command;
use world::{Mx, Relay, World, output_of};

use crate::harness::PROGRAM;

/// A world with a host for mail to `home.test` and `x.test`, and the program linked to its other
/// names.
struct Machine {
    /// Ends with the test.
    _world: World,
    mx: Mx,
    relay: Relay,
    bin: PathBuf,
}

const CONFIG: &str = r#"
origin = "home.test"
[aliases]
webmaster = "ops@x.test"
[access]
deny_recipients = ["no@x.test"]
[limits]
recipients = 3
message_size = "64KiB"
"#;

impl Machine {
    async fn start() -> Self {
        let world = World::start(PROGRAM).await;
        let mx = world.mx("mx.home.test").await;
        world.domain("home.test").mx(&[(10, &mx)]);
        world.domain("x.test").mx(&[(10, &mx)]);
        let relay = world.relay(CONFIG).await;
        let bin = world.dir().join("bin");
        std::fs::create_dir(&bin).unwrap();
        for name in ["sendmail", "mailq", "newaliases"] {
            symlink(PROGRAM, bin.join(name)).unwrap();
        }
        Self { _world: world, mx, relay, bin }
    }

    async fn call(&self, name: &str, arguments: &[&str], input: &[u8]) -> Output {
        let mut program = Command::new(self.bin.join(name));
        program.args(arguments).env("STAUNCH_CONFIG", self.relay.config_file());
        output_of(&mut program, input).await
    }

    /// Sends, and insists on silence and success.
    async fn send(&self, arguments: &[&str], input: &str) {
        let output = self.call("sendmail", arguments, input.as_bytes()).await;
        assert_eq!(code(&output), 0, "{arguments:?}: {output:?}");
        assert_eq!((output.stdout.len(), output.stderr.len()), (0, 0), "{output:?}");
    }

    /// Fails, and says why in words that contain `about`.
    async fn fails(&self, arguments: &[&str], input: &[u8], exit: i32, about: &str) {
        let output = self.call("sendmail", arguments, input).await;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(code(&output), exit, "{arguments:?}: {output:?}");
        assert!(said.starts_with("sendmail: ") && said.contains(about), "{arguments:?}: {said}");
    }
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("an exit code")
}

/// The mail of a job, as Debian's cron pipes it in.
#[tokio::test]
async fn cron_s_mail_to_a_bare_name_goes_to_origin_with_all_that_it_needs() {
    let machine = Machine::start().await;
    let job = "Subject: Cron <root@box> test\nMIME-Version: 1.0\nX-Cron-Env: <HOME=/root>\n\n\
               10%\r20%\r\n.\ngrün\n";
    machine.send(&["-FCronDaemon", "-i", "-B8BITMIME", "-oem", "root"], job).await;

    let message = machine.mx.message_to("root@home.test").await;
    assert!(message.from.ends_with("@home.test"), "{}", message.from);
    let text = message.text();
    assert!(text.contains(&format!("\r\nFrom: CronDaemon <{}>\r\n", message.from)), "{text}");
    for name in ["Date", "Message-ID"] {
        assert_eq!(text.matches(&format!("\r\n{name}: ")).count(), 1, "{text}");
    }
    assert_eq!(message.body(), "10%\r\n20%\r\n.\r\ngrün\r\n".as_bytes());
}

/// Debian's cron, and what smartd and mdadm write: large providers refuse an address without a
/// domain.
#[tokio::test]
async fn an_address_in_the_header_that_a_program_wrote_without_a_domain_gets_one() {
    let machine = Machine::start().await;
    let job = "From: root (Cron Daemon)\nTo: root, Ann <ann@x.test>\nSubject: x\n\nFrom: root\n";
    machine.send(&["-FCronDaemon", "-i", "-B8BITMIME", "-oem", "b@x.test"], job).await;
    let text = machine.mx.message_to("b@x.test").await.text();
    let head = "From: root@home.test (Cron Daemon)\r\nTo: root@home.test, Ann <ann@x.test>\r\nSubject: x\r\n";
    assert!(text.contains(head) && text.ends_with("\r\n\r\nFrom: root\r\n"), "{text}");

    machine.send(&["-t"], "To: root\nSubject: disk\n\nx\n").await;
    let message = machine.mx.message_to("root@home.test").await;
    let text = message.text();
    assert!(text.contains("\r\nTo: root@home.test\r\n"), "{text}");
    assert!(text.contains(&format!("<{}>\r\n", message.from)), "From is made: {text}");
}

/// Lists as programs write them: nobody in one is passed over in silence.
#[tokio::test]
async fn everybody_in_a_list_has_the_mail_or_is_named() {
    let machine = Machine::start().await;
    for list in ["J Doe <j@x.test>        k@x.test", "<j@x.test>\n\tK <k@x.test>"] {
        let before = machine.mx.received().len();
        machine.send(&["-t"], &format!("To: {list}\n\n")).await;
        let messages = machine.mx.messages(before + 1).await;
        assert_eq!(messages[before].to, ["j@x.test", "k@x.test"], "{list:?}");
    }
    for (list, named) in [("John Doe, l@x.test", "John Doe"), ("<l@x.test> Jr", "Jr")] {
        let before = machine.mx.received().len();
        machine.fails(&["-t"], format!("To: {list}\n\n").as_bytes(), 65, named).await;
        let messages = machine.mx.messages(before + 1).await;
        assert_eq!(messages[before].to, ["l@x.test"], "{list:?}");
    }
    machine.fails(&["-i", "b@", "m@x.test", "no@x.test"], b"\n", 65, "<no@x.test>: 550").await;
    assert_eq!(machine.mx.message_to("m@x.test").await.to, ["m@x.test"]);
}

/// `sendmail_path = "/usr/sbin/sendmail -t -i"`, and mail()'s fifth argument.
#[tokio::test]
async fn php_s_mail_has_its_envelope_sender_and_keeps_blind_copies_blind() {
    let machine = Machine::start().await;
    let mail = "To: \"Doe, Ann\" <ann@x.test>\nSubject: hello\nFrom: Shop <shop@home.test>\n\
                Bcc: boss@x.test,\n ann@X.test\nX-PHP: 1\n\nBcc: text\n";
    machine.send(&["-t", "-i", "-fbounce@home.test"], mail).await;

    let message = machine.mx.message_to("ann@x.test").await;
    assert_eq!(message.from, "bounce@home.test");
    assert_eq!(message.to, ["ann@x.test", "boss@x.test"]);
    let text = message.text();
    let (header, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(
        !header.contains("Bcc") && header.contains("\r\nFrom: Shop <shop@home.test>"),
        "{text}"
    );
    assert_eq!(body, "Bcc: text\r\n");
}

/// `git send-email --smtp-server=/usr/sbin/sendmail --envelope-sender=…`.
#[tokio::test]
async fn a_patch_from_git_goes_to_everybody_named_on_the_command_line() {
    let machine = Machine::start().await;
    let patch = "From 0123456789abcdef Mon Sep 17 00:00:00 2001\nFrom: A <a@home.test>\n\
                 To: list@x.test\nDate: Mon, 2 Mar 2026 10:00:00 +0000\nMessage-Id: <1@git>\n\n\
                 ---\n-x\n+y\n-- \n2.50.0\n";
    let to = ["b@x.test", "list@x.test", "b@x.test"];
    machine.send(&[&["-f", "a@home.test", "-i"], &to[..]].concat(), patch).await;

    let message = machine.mx.message_to("list@x.test").await;
    assert_eq!((message.from.as_str(), message.to.len()), ("a@home.test", 2));
    assert!(message.text().contains("\r\nMessage-Id: <1@git>\r\n\r\n---\r\n-x\r\n"));
    assert_eq!(message.text().matches("\nMessage-").count(), 1);
}

#[tokio::test]
async fn more_recipients_than_a_transaction_takes_get_one_copy_each() {
    let machine = Machine::start().await;
    let all: Vec<String> = (0..7).map(|n| format!("r{n}@x.test")).collect();
    let arguments: Vec<&str> =
        ["-i", "-f", ""].into_iter().chain(all.iter().map(String::as_str)).collect();
    machine.send(&arguments, "Subject: x\n\nhello\n").await;

    for recipient in &all {
        let message = machine.mx.message_to(recipient).await;
        assert_eq!(message.from, "");
    }
    let received = machine
        .mx
        .received()
        .read(|all| all.iter().flat_map(|one| one.to.clone()).collect::<Vec<_>>());
    assert_eq!(received.len(), all.len(), "{received:?}");
}

#[tokio::test]
async fn every_way_to_fail_has_its_code_and_nothing_is_sent() {
    let mut machine = Machine::start().await;
    let to = "b@x.test";
    let large = "x".repeat(70_000);
    for (arguments, input, exit, about) in [
        (&[][..], "", 64, "-t"),
        (&["-C/tmp/other.cf", to], "", 64, "-C"),
        (&["-bd"], "", 64, "staunch run"),
        (&["-f", "a@home.test\nb", to], "", 64, "control"),
        (&["-t"], "Subject: x\n\n", 65, "To"),
        (&["-t"], "To: John Doe\n\n", 65, "John Doe"),
        (&["a@"], "", 65, "a@"),
        (&[to], large.as_str(), 65, "limits.message_size"),
    ] {
        machine.fails(arguments, input.as_bytes(), exit, about).await;
    }
    assert_eq!(machine.relay.stop().await.code(), Some(0));
    machine.fails(&[to], b"Subject: x\n\n", 75, "not reachable").await;
    assert_eq!(machine.mx.connections(), 0);
}

/// A relay that takes nothing for now is no reason to lose mail: the caller keeps it, as
/// sysexits(3) has it.
#[tokio::test]
async fn a_relay_that_takes_nothing_for_now_leaves_the_mail_with_its_caller() {
    let machine = Machine::start().await;
    let (to, mail) = ("b@x.test", b"Subject: x\n\nhello\n");
    let drained = machine.relay.cli(&["drain"]).await;
    assert_eq!(code(&drained), 0, "{drained:?}");
    machine.fails(&[to], mail, 75, "draining").await;
    assert_eq!(code(&machine.relay.cli(&["drain", "--off"]).await), 0);
    for (limits, about) in [
        ("disk_free_min = \"1000000GiB\"", "disk space"),
        ("disk_free_min = \"1MiB\"\nmemory = \"1MiB\"\nqueue_messages = 1", "queue is full"),
    ] {
        machine.relay.configure(&format!("[limits]\n{limits}\n[delivery]\nretry = [\"1h\"]\n"));
        machine.relay.cli_json(&["reload"]).await;
        if about == "queue is full" {
            assert_eq!(code(&machine.relay.cli(&["pause"]).await), 0);
            machine.send(&[to], "Subject: fills it\n\nhello\n").await;
        }
        machine.fails(&[to], mail, 75, about).await;
        machine.fails(&["-t"], b"To: b@x.test\n\nhello\n", 75, about).await;
    }
    assert_eq!(machine.relay.queue().await.len(), 1);
    assert_eq!(machine.mx.connections(), 0);
}

#[tokio::test]
async fn who_is_refused_is_named_and_the_others_have_their_mail() {
    let machine = Machine::start().await;
    let mail = b"Subject: x\n\nhello\n";
    machine.fails(&["-i", "b@x.test", "no@x.test"], mail, 77, "<no@x.test>: 550 5.7.1").await;
    assert_eq!(machine.mx.message_to("b@x.test").await.to, ["b@x.test"]);
    machine.fails(&["-i", "no@x.test"], mail, 77, "<no@x.test>").await;
    assert_eq!(machine.mx.received().len(), 1);
}

#[tokio::test]
async fn wishes_about_notices_and_addresses_in_utf8_go_all_the_way() {
    let machine = Machine::start().await;
    machine.mx.script(|script| script.offer(&["DSN", "SMTPUTF8"]));
    let wishes = ["-N", "failure,delay", "-Rhdrs", "-V", "a=b", "-f", "jürgen@home.test"];
    machine.send(&[&wishes[..], &["ü@x.test"]].concat(), "Subject: grün\n\n").await;

    let message = machine.mx.message_to("ü@x.test").await;
    assert_eq!(message.from, "jürgen@home.test");
    for parameter in ["SMTPUTF8", "RET=HDRS", "ENVID=a+3Db"] {
        assert!(message.parameters.split(' ').any(|one| one == parameter), "{message:?}");
    }
    assert!(message.rcpt_parameters[0].contains("NOTIFY=FAILURE,DELAY"), "{message:?}");
}

#[tokio::test]
async fn a_local_name_may_be_somebody_elsewhere() {
    let machine = Machine::start().await;
    machine.send(&["-t"], "To: Webmaster, webmaster@x.test\n\n").await;
    let message = machine.mx.message_to("ops@x.test").await;
    assert_eq!(message.to, ["ops@x.test", "webmaster@x.test"]);
}

/// What smartd, monit and fail2ban write to reaches the one who reads root's mail, or is refused at
/// once: never accepted and lost.
#[tokio::test]
async fn every_name_of_this_machine_is_an_alias_or_nobody() {
    let machine = Machine::start().await;
    let domains = ["relay.test", "home.test", "localhost", "localhost.localdomain"];
    for (number, domain) in domains.iter().enumerate() {
        machine.send(&["-i", &format!("webmaster@{domain}")], "Subject: SMART error\n\n").await;
        machine.mx.messages(number + 1).await;
    }
    for message in machine.mx.messages(domains.len()).await {
        assert_eq!(message.to, ["ops@x.test"]);
    }
    for address in ["anna@relay.test", "anna@localhost", "anna@localhost.home.test"] {
        machine.fails(&["-i", address], b"\n", 67, "No alias and no route for this name").await;
    }
    machine.fails(&["postmaster@localhost"], b"\n", 67, "No postmaster").await;
    machine.send(&["anna"], "Subject: x\n\n").await;
    assert_eq!(machine.mx.message_to("anna@home.test").await.to, ["anna@home.test"]);
}

/// A file that was there before this relay, with what a relay can do of it.
#[tokio::test]
async fn etc_aliases_says_who_reads_the_mail_of_the_machine() {
    let machine = Machine::start().await;
    machine.mx.script(|script| script.offer(&["DSN"]));
    let warned = |output: &Output| {
        String::from_utf8_lossy(&output.stderr).contains("aliases.root: nobody reads")
    };
    let checked = machine.relay.cli(&["config", "check"]).await;
    assert!(code(&checked) == 0 && warned(&checked), "{checked:?}");
    let file = machine.relay.config_file().with_file_name("aliases");
    std::fs::write(&file, "postmaster: root\nroot: a@x.test,\n b@x.test, webmaster\n").unwrap();
    let overlay = format!(
        "origin = \"home.test\"\n[aliases]\nwebmaster = \"ops@x.test\"\n\
         [submit]\naliases_file = \"{}\"\n",
        file.display()
    );
    machine.relay.configure(&overlay);
    machine.relay.cli_json(&["reload"]).await;
    let checked = machine.relay.cli(&["config", "check"]).await;
    assert!(code(&checked) == 0 && !warned(&checked), "{checked:?}");
    machine.send(&["Postmaster"], "Subject: x\n\n").await;
    let message = machine.mx.message_to("a@x.test").await;
    assert_eq!(message.to, ["a@x.test", "b@x.test", "ops@x.test"]);
    for parameters in &message.rcpt_parameters {
        assert!(parameters.contains("ORCPT=rfc822;Postmaster@home.test"), "{parameters}");
    }

    // A line that cannot be followed is no reason to forget the others.
    std::fs::write(&file, "root: |/usr/bin/vacation\n").unwrap();
    let refused = machine.relay.cli(&["reload"]).await;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("aliases:1: root: \"|/usr/bin/vacation\": runs a program"), "{said}");
    let checked = machine.relay.cli(&["config", "check"]).await;
    assert_eq!(code(&checked), 78, "{checked:?}");
    machine.send(&["root@localhost"], "Subject: y\n\n").await;
    assert_eq!(machine.mx.messages(2).await[1].to.len(), 3);
}

/// `find -print0`, a data: image in a report: the output of a job is not lost because SMTP has no
/// place for some of it.
#[tokio::test]
async fn a_nul_or_a_line_of_90_kib_costs_no_mail() {
    let machine = Machine::start().await;
    machine.relay.configure("[limits]\nmessage_size = \"1MiB\"\n");
    machine.relay.cli_json(&["reload"]).await;
    machine.send(&["-i", "nul@x.test"], "Subject: cron\n\nfound: a\0b\0\n").await;
    assert_eq!(machine.mx.message_to("nul@x.test").await.body(), b"found: a^@b^@\r\n");

    let html = format!("<img src='data:image/png;base64,{}'>", "A".repeat(90_000));
    let mail = format!("Subject: report\nMIME-Version: 1.0\nContent-Type: text/html\n\n{html}\n");
    machine.send(&["-i", "long@x.test"], &mail).await;
    let message = machine.mx.message_to("long@x.test").await;
    let read = mail_parser::MessageParser::default().parse(&message.content).unwrap();
    assert_eq!(read.parts[0].contents(), format!("{html}\r\n").as_bytes());
}

/// Mail programs with a "local" transport talk SMTP to a child.
#[tokio::test]
async fn smtp_is_spoken_on_stdin_and_stdout() {
    let machine = Machine::start().await;
    let session = "EHLO pine\r\nMAIL FROM:<a@home.test>\r\nRCPT TO:<b@x.test>\r\nDATA\r\n\
                   Subject: x\r\n\r\nhello\r\n.\r\nQUIT\r\n";
    // DATA is the last of a group (RFC 2920 §3.1), so what follows it may be sent with it only to a
    // server that reads no further than it may; ours does.
    let output = machine.call("sendmail", &["-bs"], session.as_bytes()).await;
    let said = String::from_utf8(output.stdout.clone()).unwrap();
    assert_eq!(code(&output), 0, "{output:?}");
    assert!(
        said.starts_with("220 ") && said.contains("\r\n354 ") && said.contains("\r\n221 "),
        "{said}"
    );
    assert_eq!(machine.mx.message_to("b@x.test").await.body(), b"hello\r\n");
}

/// Symfony's mailer, and so Laravel and Drupal: two pipes, and each command waits for its answer in
/// a read that blocks.
#[tokio::test]
async fn a_program_that_waits_for_each_answer_on_a_pipe_gets_it() {
    let machine = Machine::start().await;
    for number in 0..DIALOGUES {
        let mut child = std::process::Command::new(machine.bin.join("sendmail"))
            .arg("-bs")
            .env("STAUNCH_CONFIG", machine.relay.config_file())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (to, from) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let talk = tokio::task::spawn_blocking(move || dialogue(to, from));
        let ended = tokio::time::timeout(world::log::LIMIT, talk).await;
        child.kill().unwrap();
        child.wait().unwrap();
        let last = ended.unwrap_or_else(|_| panic!("dialogue {number} hangs")).unwrap();
        assert!(last.starts_with("221 "), "{last}");
    }
    assert_eq!(machine.mx.messages(DIALOGUES).await.len(), DIALOGUES);
}

/// As many as it takes to meet one that would hang.
const DIALOGUES: usize = 20;

/// Says one thing at a time and returns the last answer.
fn dialogue(mut to: impl std::io::Write, mut from: impl std::io::Read) -> String {
    let mut answer = vec![0; 4096];
    let mut last = String::new();
    for said in [
        "",
        "EHLO [127.0.0.1]\r\n",
        "MAIL FROM:<www@home.test>\r\n",
        "RCPT TO:<b@x.test>\r\n",
        "DATA\r\n",
        "Subject: x\r\n\r\nx\r\n.\r\n",
        "QUIT\r\n",
    ] {
        to.write_all(said.as_bytes()).unwrap();
        let octets = from.read(&mut answer).unwrap();
        last = String::from_utf8_lossy(&answer[..octets]).into_owned();
    }
    last
}

#[tokio::test]
async fn mailq_lists_the_queue_and_newaliases_has_nothing_to_do() {
    let machine = Machine::start().await;
    let output = machine.call("mailq", &[], b"").await;
    assert_eq!((code(&output), output.stdout.as_slice()), (0, &b"Mail queue is empty\n"[..]));
    machine.mx.on("MAIL", world::Then::reply("451 4.3.0 Later"));
    machine.send(&["-i", "b@x.test"], "Subject: x\n\n").await;
    machine.relay.event("deferred").with("recipient", "b@x.test").await;
    let output = machine.call("sendmail", &["-bp"], b"").await;
    assert!(String::from_utf8(output.stdout).unwrap().contains("b@x.test"));

    let output = machine.call("newaliases", &[], b"").await;
    assert_eq!((code(&output), output.stdout.len(), output.stderr.len()), (0, 0, 0));
    let help = Command::new(PROGRAM).args(["sendmail", "--help"].map(OsString::from)).output();
    assert!(String::from_utf8(help.await.unwrap().stdout).unwrap().contains("Example: "));
}
