//! Programs of a machine that write to whoever runs it: they know `root` and `localhost`, and all
//! of that reaches `aliases.root`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::process::{Child, Command};
use world::Received;

use crate::UNPACKED;
use crate::clients::{Channel, Stage, run};

const STAUNCH: &str = env!("CARGO_BIN_EXE_staunch");
const ALIASES: &str = "[aliases]\nroot = \"ops@capture.test\"\n";
/// Longest that cron or monit may take to find something to tell.
const NEWS_MAX: Duration = Duration::from_secs(60);

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/interop/clients").join(name)
}

/// A machine with these files below /etc, on which `command` runs.
fn on_machine(stage: &Stage, name: &str, files: &[(&str, &str)], command: &[&str]) -> Command {
    let dir = stage.dir.join(name);
    let configuration = std::fs::read_to_string(stage.relay.config_file()).expect("it is there");
    let own = ("staunch/staunch.toml", configuration.as_str());
    for (file, text) in files.iter().chain([&own]) {
        let path = dir.join("etc").join(file);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("make a folder");
        std::fs::write(path, text).expect("write a file");
    }
    let mut machine = Command::new("unshare");
    machine.args(["-m", "sh"]).arg(source("machine.sh")).arg(&dir).arg(STAUNCH).args(command);
    machine.kill_on_drop(true);
    machine
}

/// The first message to whoever runs the machine that has this in it.
async fn told(stage: &Stage, what: &str) -> Received {
    let find = |all: &[Received]| all.iter().find(|one| one.text().contains(what)).cloned();
    let found = tokio::time::timeout(NEWS_MAX, stage.mx.received().until(find)).await;
    let found = found.ok().and_then(Result::ok);
    let message = found.unwrap_or_else(|| panic!("nobody is told of {what}"));
    assert_eq!(message.to, ["ops@capture.test"], "{what}");
    message
}

fn start(mut command: Command) -> Child {
    command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// The mail of a job, with UTF-8 in its command and so in the Subject.
#[tokio::test(flavor = "multi_thread")]
async fn the_output_of_a_cron_job_reaches_root() {
    let stage = Stage::start_with(ALIASES).await;
    let pam = "auth sufficient pam_permit.so\naccount sufficient pam_permit.so\n\
               session optional pam_permit.so\n";
    let files = [("cron.d/job", "@reboot root echo grün\n"), ("pam.d/cron", pam)];
    let cron = format!("{UNPACKED}/cron/usr/sbin/cron");
    let _cron = start(on_machine(&stage, "cron", &files, &[&cron, "-f"]));
    let text = told(&stage, "echo grün").await.text();
    for line in ["From: root@relay.test (Cron Daemon)", "To: root@relay.test", "", "grün"] {
        assert!(text.split("\r\n").any(|found| found == line), "{line:?} is not in\n{text}");
    }
}

/// smartd and unattended-upgrades call mail, which calls sendmail.
#[tokio::test(flavor = "multi_thread")]
async fn what_smartd_says_by_mail_reaches_root() {
    let stage = Stage::start_with(ALIASES).await;
    let say = "echo 'disk /dev/sda fails' | bsd-mailx -s 'SMART error' root@localhost";
    run(on_machine(&stage, "mailx", &[], &["sh", "-c", say]), "bsd-mailx").await;
    told(&stage, "disk /dev/sda fails").await;
}

/// monit speaks SMTP itself.
#[tokio::test(flavor = "multi_thread")]
async fn what_monit_says_reaches_root() {
    let stage = Stage::start_with(ALIASES).await;
    let dir = stage.dir.join("monit");
    std::fs::create_dir(&dir).expect("make a folder");
    let text = format!(
        "set daemon 1\nset pidfile {dir}/pid\nset idfile {dir}/id\nset statefile {dir}/state\n\
         set mailserver 127.0.0.1 port {port}\nset alert root@localhost\n\
         check file gone with path {dir}/gone\n",
        dir = dir.display(),
        port = stage.port(Channel::Plain),
    );
    let control = dir.join("monitrc");
    std::fs::write(&control, text).expect("write monitrc");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&control, mode).expect("monit wants it private");
    let mut monit = Command::new(format!("{UNPACKED}/monit/usr/bin/monit"));
    monit.arg("-c").arg(&control).arg("-I").kill_on_drop(true).stdout(std::process::Stdio::null());
    let _monit = start(monit);
    told(&stage, "Does not exist").await;
}

/// Mail programs with a queue of their own and nothing else: nullmailer with HELO, dma with EHLO.
#[tokio::test(flavor = "multi_thread")]
async fn small_relays_reach_root() {
    let stage = Stage::start_with(ALIASES).await;
    let message = "ann@client.test\nroot@localhost\n\nSubject: from nullmailer\n\na\n.\nb\n";
    let queued = stage.dir.join("nullmailer-message");
    std::fs::write(&queued, message).expect("write a message");
    let mut nullmailer = Command::new("sh");
    let script = "printf 'host=127.0.0.1\\nport=%s\\n\\n' \"$1\" | \"$2\" 3< \"$3\"";
    nullmailer
        .args(["-c", script, "sh", &stage.port(Channel::Plain)])
        .arg(format!("{UNPACKED}/nullmailer/usr/lib/nullmailer/smtp"))
        .arg(&queued)
        .env("HELOHOST", "client.test");
    run(nullmailer, "nullmailer").await;
    let arrived = told(&stage, "from nullmailer").await;
    assert_eq!(arrived.body(), b"a\r\n.\r\nb\r\n");

    let configuration = format!(
        "SMARTHOST 127.0.0.1\nPORT {}\nMAILNAME client.test\nSPOOLDIR /var/spool\n",
        stage.port(Channel::Plain)
    );
    let dma = format!("{UNPACKED}/dma/usr/sbin/dma");
    let send = "chmod 1777 /var/spool && printf 'Subject: from dma\\n\\nx\\n' | \
                \"$0\" -D -i -f ann@client.test root@relay.test";
    let files = [("dma/dma.conf", configuration.as_str()), ("aliases", "")];
    let command = ["sh", "-c", send, &dma];
    run(on_machine(&stage, "dma", &files, &command), "dma").await;
    told(&stage, "from dma").await;
}

/// As Symfony's mailer does it, and so Laravel and Drupal.
#[tokio::test(flavor = "multi_thread")]
async fn php_speaks_smtp_to_sendmail_over_pipes() {
    let stage = Stage::start_with(ALIASES).await;
    let mut php = Command::new("php");
    php.arg(source("dialogue.php"))
        .arg(format!("{STAUNCH} sendmail -bs"))
        .args(["www-data@relay.test", "root@localhost"])
        .env("STAUNCH_CONFIG", stage.relay.config_file());
    run(php, "php").await;
    told(&stage, "from php").await;
}
