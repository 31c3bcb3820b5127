//! The clients' command lines.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Command;

use crate::UNPACKED;
use crate::clients::{Channel, Job, PASSWORD, Stage, USER};

/// What a client can write an address in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Addresses {
    Ascii,
    /// RFC 6531.
    Utf8,
}

/// A client. Which mechanism it logs in with is in its command line; `docs/testing.md` has a table
/// of it.
pub(crate) struct Program {
    pub(crate) name: &'static str,
    pub(crate) addresses: Addresses,
    /// What is done once before the first message.
    pub(crate) prepare: Option<fn(&Stage) -> Command>,
    /// Sends one message.
    pub(crate) command: fn(&Stage, &Job<'_>) -> Command,
}

impl Program {
    const fn new(
        name: &'static str,
        addresses: Addresses,
        command: fn(&Stage, &Job<'_>) -> Command,
    ) -> Self {
        Self { name, addresses, prepare: None, command }
    }
}

pub(crate) const PROGRAMS: &[Program] = &[
    Program::new("smtplib", Addresses::Utf8, smtplib),
    Program::new("curl", Addresses::Utf8, curl),
    Program::new("nodemailer", Addresses::Utf8, nodemailer),
    Program { prepare: Some(javac), ..Program::new("jakarta-mail", Addresses::Utf8, jakarta_mail) },
    Program::new("msmtp", Addresses::Ascii, msmtp),
    Program::new("swaks", Addresses::Ascii, swaks),
    Program::new("exim", Addresses::Utf8, exim),
];

/// A program of ours in another language; all of them take the same arguments.
fn script(program: &mut Command, stage: &Stage, job: &Job<'_>) {
    program
        .args([&stage.port(job.channel), job.channel.name(), &job.from, &job.to])
        .args([&job.mail.crlf, stage.ca()])
        .args([USER, PASSWORD]);
}

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/interop/clients").join(name)
}

/// PLAIN: the first one of those that both know in its own order.
fn smtplib(stage: &Stage, job: &Job<'_>) -> Command {
    let mut command = Command::new("/usr/bin/python3");
    script(command.arg(source("send.py")), stage, job);
    command
}

fn nodemailer(stage: &Stage, job: &Job<'_>) -> Command {
    let mut command = Command::new("node");
    command.env("NODE_PATH", format!("{UNPACKED}/node_modules"));
    script(command.arg(source("send.cjs")), stage, job);
    command
}

const JARS: &str = "/usr/share/java/jakarta-mail.jar:/usr/share/java/jakarta-activation.jar";

/// Compiled once: that takes longer than to send a message. By `java`, since `javac` need not be on
/// the path.
fn javac(stage: &Stage) -> Command {
    let mut command = Command::new("java");
    command.args(["-m", "jdk.compiler/com.sun.tools.javac.Main", "-cp", JARS, "-d"]);
    command.arg(&stage.dir).arg(source("Send.java"));
    command
}

fn jakarta_mail(stage: &Stage, job: &Job<'_>) -> Command {
    let mut command = Command::new("java");
    // Its garbage collector takes a thread for each core, its compiler time that a short run does
    // not get back.
    command.args(["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]);
    let classes = format!("{JARS}:{}", stage.dir.display());
    script(command.args(["-cp", &classes, "Send"]), stage, job);
    command
}

fn curl(stage: &Stage, job: &Job<'_>) -> Command {
    let mut command = Command::new("curl");
    let scheme = if job.channel == Channel::Tls { "smtps" } else { "smtp" };
    command
        .args(["--silent", "--show-error", "--mail-from", &job.from, "--mail-rcpt", &job.to])
        .arg("--upload-file")
        .arg(&job.mail.crlf)
        .arg("--cacert")
        .arg(stage.ca())
        .arg(format!("{scheme}://localhost:{}/client.test", stage.port(job.channel)));
    if job.channel != Channel::Plain {
        let user = format!("{USER}:{PASSWORD}");
        command.args(["--ssl-reqd", "--login-options", "AUTH=PLAIN", "--user", &user]);
    }
    command
}

/// SCRAM-SHA-256 by GNU SASL.
fn msmtp(stage: &Stage, job: &Job<'_>) -> Command {
    let mut command = Command::new("msmtp");
    let on = |is_on: bool| if is_on { "on" } else { "off" };
    let auth = if job.channel == Channel::Plain { "off" } else { "scram-sha-256" };
    command
        .args(["--host=localhost", "--domain=client.test", "--set-date-header=off"])
        .arg(format!("--port={}", stage.port(job.channel)))
        .arg(format!("--from={}", job.from))
        .arg(format!("--tls={}", on(job.channel != Channel::Plain)))
        .arg(format!("--tls-starttls={}", on(job.channel == Channel::Starttls)))
        .arg(format!("--tls-trust-file={}", stage.ca().display()))
        .arg(format!("--auth={auth}"))
        .args([&format!("--user={USER}"), &format!("--passwordeval=echo '{PASSWORD}'")])
        .args(["--", &job.to])
        .stdin(std::fs::File::open(&job.mail.lf).expect("open a message"));
    command
}

fn swaks(stage: &Stage, job: &Job<'_>) -> Command {
    let mut command = Command::new("swaks");
    command
        .args(["--server", "localhost", "--port", &stage.port(job.channel)])
        .args(["--helo", "client.test", "--from", &job.from, "--to", &job.to])
        .args(["--suppress-data", "--timeout", "30", "--data"])
        .arg(format!("@{}", job.mail.unended.display()));
    match job.channel {
        Channel::Plain => return command,
        Channel::Starttls => command.arg("--tls"),
        Channel::Tls => command.arg("--tls-on-connect"),
    };
    command.args(["--tls-verify", "--tls-ca-path"]).arg(stage.ca());
    command.args(["--auth", "LOGIN", "--auth-user", USER, "--auth-password", PASSWORD]);
    command
}

/// Takes the message from stdin and delivers it before it ends. Only by SMTP it can be told that
/// addresses are UTF-8.
fn exim(stage: &Stage, job: &Job<'_>) -> Command {
    let dir = stage.dir.join(format!("exim-{}", job.channel.name()));
    let config = dir.join("exim.conf");
    if !config.exists() {
        write_exim_configuration(stage, job.channel, &dir);
    }
    let mut command = Command::new(format!("{UNPACKED}/exim/usr/sbin/exim4"));
    command.arg("-C").arg(config).arg("-odf");
    let input = if job.from.is_ascii() {
        command.args(["-i", "-f", &job.from, &job.to]);
        job.mail.lf.clone()
    } else {
        command.arg("-bs");
        let dialogue = dir.join("dialogue");
        std::fs::write(&dialogue, utf8_dialogue(job)).expect("write a dialogue");
        dialogue
    };
    command.stdin(std::fs::File::open(input).expect("open a message")).stdout(Stdio::piped());
    command
}

fn utf8_dialogue(job: &Job<'_>) -> Vec<u8> {
    let envelope = format!(
        "EHLO client.test\r\nMAIL FROM:<{}> BODY=8BITMIME SMTPUTF8\r\nRCPT TO:<{}>\r\nDATA\r\n",
        job.from, job.to
    );
    [envelope.as_bytes(), &world::stuff(&job.mail.content), b"QUIT\r\n"].concat()
}

fn write_exim_configuration(stage: &Stage, channel: Channel, dir: &Path) {
    world::real::make_public_dir(dir);
    let (protocol, secured) = match channel {
        Channel::Plain => ("smtp", ""),
        Channel::Starttls => ("smtp", "*"),
        Channel::Tls => ("smtps", "*"),
    };
    let text = format!(
        "exim_path = {UNPACKED}/exim/usr/sbin/exim4\nprimary_hostname = client.test\n\
         spool_directory = {dir}\nlog_file_path = {dir}/%slog\nkeep_environment =\n\
         message_size_limit = 64M\nno_local_from_check\nuntrusted_set_sender = *\n\
         acl_smtp_rcpt = accept\nno_smtp_enforce_sync\n\
         begin routers\nsmart:\n  driver = manualroute\n  route_list = * localhost::{port} byname\n\
         \x20 self = send\n  transport = out\n\
         begin transports\nout:\n  driver = smtp\n  protocol = {protocol}\n\
         \x20 hosts_require_tls = {secured}\n  hosts_require_auth = {secured}\n\
         \x20 tls_verify_certificates = {ca}\n  tls_verify_hosts = {secured}\n\
         begin authenticators\nplain:\n  driver = plaintext\n  public_name = PLAIN\n\
         \x20 client_send = ^{USER}^{PASSWORD}\n",
        dir = dir.display(),
        port = stage.port(channel),
        ca = stage.ca().display(),
    );
    std::fs::write(dir.join("exim.conf"), text).expect("write exim.conf");
    let owned = std::process::Command::new("chown").arg("Debian-exim:").arg(dir).status();
    assert!(owned.is_ok_and(|status| status.success()), "chown Debian-exim");
}
