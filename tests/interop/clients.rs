//! Other people's clients: each sends each kind of message, plain, and after AUTH over both kinds of
//! TLS; what arrives at the MX is what was sent.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use world::real::{Postfix, PostfixSetup};
use world::{Client, Leaf, Mx, Relay, World};

use crate::UNPACKED;
use crate::mail::{Kind, Mail};

/// Longest that one client may take for one message.
const CLIENT_MAX: Duration = Duration::from_secs(60);
const USER: &str = "ann";
const PASSWORD: &str = "correct horse, battery=staple";

/// How a client gets in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Channel {
    /// By its address, in clear.
    Plain,
    /// STARTTLS, then AUTH.
    Starttls,
    /// TLS from the first octet on, then AUTH.
    Tls,
}

impl Channel {
    const ALL: [Self; 3] = [Self::Plain, Self::Starttls, Self::Tls];

    fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Starttls => "starttls",
            Self::Tls => "tls",
        }
    }

    /// The messages that are worth their time here.
    fn kinds(self) -> &'static [Kind] {
        match self {
            Self::Plain => &Kind::ALL,
            Self::Starttls => &[Kind::Plain, Kind::EightBit],
            Self::Tls => &[Kind::Utf8],
        }
    }
}

/// What a client can write an address in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Addresses {
    Ascii,
    /// RFC 6531.
    Utf8,
}

/// A client, as a command line.
struct Program {
    name: &'static str,
    addresses: Addresses,
    command: fn(&Stage, &Job<'_>) -> Command,
}

const PROGRAMS: &[Program] = &[
    Program { name: "smtplib", addresses: Addresses::Utf8, command: smtplib },
    Program { name: "curl", addresses: Addresses::Utf8, command: curl },
    Program { name: "nodemailer", addresses: Addresses::Utf8, command: nodemailer },
    Program { name: "jakarta-mail", addresses: Addresses::Utf8, command: jakarta_mail },
    Program { name: "msmtp", addresses: Addresses::Ascii, command: msmtp },
    Program { name: "swaks", addresses: Addresses::Ascii, command: swaks },
    Program { name: "exim", addresses: Addresses::Ascii, command: exim },
];

/// One message to send.
struct Job<'a> {
    channel: Channel,
    from: String,
    to: String,
    mail: &'a Mail,
}

/// The relay with its three doors, and the host that keeps what arrives.
struct Stage {
    world: World,
    relay: Relay,
    mx: Mx,
    mails: Vec<Mail>,
    dir: PathBuf,
}

impl Stage {
    async fn start() -> Self {
        let world = World::start(env!("CARGO_BIN_EXE_staunch")).await;
        let mx = world.mx("mx.capture.test").await;
        mx.script(|script| script.offer(&["SMTPUTF8", "CHUNKING", "DSN"]));
        world.domain("capture.test").mx(&[(10, &mx)]);
        let dir = world.dir().join("clients");
        world::real::make_public_dir(world.dir());
        world::real::make_public_dir(&dir);
        std::fs::write(dir.join("users"), "").expect("a file of users");
        let relay = world.relay(&configuration(&world, &dir)).await;
        add_user(&relay).await;
        let mails = Kind::ALL.map(|kind| Mail::write(kind, &dir)).to_vec();
        Self { world, relay, mx, mails, dir }
    }

    fn port(&self, channel: Channel) -> String {
        let number = match channel {
            Channel::Plain => 0,
            Channel::Starttls => 1,
            Channel::Tls => 2,
        };
        self.relay.listener_at(number).port().to_string()
    }

    fn ca(&self) -> &Path {
        self.world.pki.ca_file()
    }

    fn mail(&self, kind: Kind) -> &Mail {
        self.mails.iter().find(|mail| mail.kind == kind).expect("all kinds are there")
    }

    /// The recipient says who sent what and how.
    fn job(&self, name: &str, channel: Channel, kind: Kind, addresses: Addresses) -> Job<'_> {
        let in_utf8 = kind == Kind::Utf8 && addresses == Addresses::Utf8;
        let prefix = if in_utf8 { "ü" } else { "u" };
        let to = format!("{prefix}.{name}.{}.{kind:?}@capture.test", channel.name());
        let from = format!("{prefix}@client.test");
        Job { channel, from, to, mail: self.mail(kind) }
    }

    /// The message of `job` is there, once and unchanged.
    async fn assert_arrived(&self, job: &Job<'_>) {
        let arrived = self.mx.message_to(&job.to).await;
        job.mail.assert_same(&arrived.content, &job.to);
        assert_eq!(arrived.from, job.from);
        let copies =
            |all: &[world::Received]| all.iter().filter(|one| one.to == [job.to.as_str()]).count();
        assert_eq!(self.mx.received().read(copies), 1, "{}", job.to);
        let text = arrived.text();
        let with = match (job.channel, job.from.is_ascii()) {
            (Channel::Plain, true) => "with ESMTP id",
            (Channel::Plain, false) => "with UTF8SMTP id",
            (Channel::Starttls | Channel::Tls, true) => "with ESMTPSA id",
            (Channel::Starttls | Channel::Tls, false) => "with UTF8SMTPSA id",
        };
        assert!(text.contains(with), "{}: {with} is not in\n{:.2000}", job.to, text);
    }
}

fn configuration(world: &World, dir: &Path) -> String {
    let files = world.key_files("localhost");
    files.replace(&world.pki.issue(&Leaf::named("localhost").and("relay.test")));
    let listener = |mode: &str, keys: &str| {
        format!("[[listener]]\naddress = \"127.0.0.1:0\"\nmode = \"{mode}\"\n{keys}")
    };
    [
        listener("relay", ""),
        listener("submission", &files.toml()),
        listener("submissions", &files.toml()),
        format!("[access]\nusers_file = \"{}\"\n", dir.join("users").display()),
    ]
    .concat()
}

async fn add_user(relay: &Relay) {
    let output = relay.cli_with(&["user", "add", USER], PASSWORD.as_bytes()).await;
    assert!(output.status.success(), "{output:?}");
}

/// All programs side by side, each of them one message after the other.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_sends_arrives_unchanged() {
    let stage = Stage::start().await;
    let programs = PROGRAMS.iter().map(|program| send_all(&stage, program));
    futures_util::future::join_all(programs).await;
}

async fn send_all(stage: &Stage, program: &Program) {
    for channel in Channel::ALL {
        for kind in channel.kinds() {
            let job = stage.job(program.name, channel, *kind, program.addresses);
            run((program.command)(stage, &job), &job.to).await;
            stage.assert_arrived(&job).await;
        }
    }
}

async fn run(mut command: Command, what: &str) {
    // Their homes may have settings.
    command.env("HOME", "/nonexistent").env("LC_ALL", "C.UTF-8");
    let output = command.kill_on_drop(true).output();
    let output = tokio::time::timeout(CLIENT_MAX, output).await;
    let output = output.unwrap_or_else(|_| panic!("{what}: {command:?} does not end"));
    let output = output.unwrap_or_else(|error| panic!("{what}: {command:?}: {error}"));
    assert!(
        output.status.success(),
        "{what}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

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

fn jakarta_mail(stage: &Stage, job: &Job<'_>) -> Command {
    let jars = "/usr/share/java/jakarta-mail.jar:/usr/share/java/jakarta-activation.jar";
    let mut command = Command::new("java");
    script(command.args(["-cp", jars]).arg(source("Send.java")), stage, job);
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
        command.args(["--ssl-reqd", "--user", &format!("{USER}:{PASSWORD}")]);
    }
    command
}

fn msmtp(stage: &Stage, job: &Job<'_>) -> Command {
    let mut command = Command::new("msmtp");
    let on = |is_on: bool| if is_on { "on" } else { "off" };
    command
        .args(["--host=localhost", "--domain=client.test", "--set-date-header=off"])
        .arg(format!("--port={}", stage.port(job.channel)))
        .arg(format!("--from={}", job.from))
        .arg(format!("--tls={}", on(job.channel != Channel::Plain)))
        .arg(format!("--tls-starttls={}", on(job.channel == Channel::Starttls)))
        .arg(format!("--tls-trust-file={}", stage.ca().display()))
        .arg(format!("--auth={}", on(job.channel != Channel::Plain)))
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

/// Takes the message from stdin and delivers it before it ends.
fn exim(stage: &Stage, job: &Job<'_>) -> Command {
    let dir = stage.dir.join(format!("exim-{}", job.channel.name()));
    let config = dir.join("exim.conf");
    if !config.exists() {
        write_exim_configuration(stage, job.channel, &dir);
    }
    let mut command = Command::new(format!("{UNPACKED}/exim/usr/sbin/exim4"));
    command
        .arg("-C")
        .arg(config)
        .args(["-odf", "-i", "-f", &job.from, &job.to])
        .stdin(std::fs::File::open(&job.mail.lf).expect("open a message"))
        .stdout(Stdio::piped());
    command
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

/// PHP hands mail to `staunch sendmail` by its name of old, with mail()'s fifth argument.
#[tokio::test(flavor = "multi_thread")]
async fn what_php_s_mail_sends_arrives() {
    let stage = Stage::start().await;
    let sendmail = stage.dir.join("sendmail");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_staunch"), &sendmail).expect("a link");
    let code = "exit(mail('Bob <bob@capture.test>', 'Grüße', \"one\\r\\n.\\ntwo\", \
                ['From' => 'Shop <shop@client.test>', 'Bcc' => 'boss@capture.test'], \
                '-fbounce@client.test') ? 0 : 1);";
    let mut command = Command::new("php");
    command
        .arg("-d")
        .arg(format!("sendmail_path={} -t -i", sendmail.display()))
        .args(["-r", code])
        .env("STAUNCH_CONFIG", stage.relay.config_file());
    run(command, "php").await;
    let arrived = stage.mx.message_to("bob@capture.test").await;
    assert_eq!(arrived.from, "bounce@client.test");
    assert_eq!(arrived.to, ["bob@capture.test", "boss@capture.test"]);
    assert_eq!(arrived.body(), b"one\r\n.\r\ntwo\r\n");
    assert!(!arrived.text().contains("boss"), "{arrived:?}");
}

/// Postfix hands everything to us as its smarthost.
#[tokio::test(flavor = "multi_thread")]
async fn what_postfix_relays_arrives_unchanged() {
    let stage = Stage::start().await;
    for channel in Channel::ALL {
        let number = 10 + channel as u8;
        let listen = std::net::SocketAddr::from(([127, 25, 0, number], 25));
        let dir = stage.dir.join(format!("postfix-{}", channel.name()));
        let _postfix = Postfix::start(&dir, &smarthosted(&stage, channel, listen));
        for kind in channel.kinds() {
            let job = stage.job("postfix", channel, *kind, Addresses::Utf8);
            let mut client = Client::hello(listen).await.expect("Postfix listens");
            let utf8 = if job.from.is_ascii() { "" } else { " SMTPUTF8" };
            client.expect(&format!("MAIL FROM:<{}> BODY=8BITMIME{utf8}", job.from), 250).await;
            client.expect(&format!("RCPT TO:<{}>", job.to), 250).await;
            client.expect("DATA", 354).await;
            client.send(&world::stuff(&job.mail.content)).await.expect("Postfix reads");
            assert_eq!(client.reply().await.expect("Postfix answers").code, 250);
            stage.assert_arrived(&job).await;
        }
    }
}

fn smarthosted(stage: &Stage, channel: Channel, listen: std::net::SocketAddr) -> PostfixSetup {
    let relayhost = format!("[localhost]:{}", stage.port(channel));
    let setup = PostfixSetup::new("front.client.test", listen)
        .set("relayhost", &relayhost)
        // The name is in /etc/hosts, and there is nobody else to ask.
        .set("smtp_host_lookup", "native")
        .set("smtp_tls_CAfile", stage.ca().display());
    if channel == Channel::Plain {
        return setup;
    }
    setup
        .set("smtp_tls_wrappermode", if channel == Channel::Tls { "yes" } else { "no" })
        .set("smtp_tls_security_level", "secure")
        .set("smtp_tls_secure_cert_match", "nexthop")
        .set("smtp_sasl_auth_enable", "yes")
        .set("smtp_sasl_security_options", "noanonymous")
        .set(
            "smtp_sasl_password_maps",
            format!("inline:{{ {{ {relayhost} = {USER}:{PASSWORD} }} }}"),
        )
}
