//! Other people's clients: each sends each kind of message in clear, after STARTTLS and AUTH, and
//! over TLS with AUTH; what arrives at the MX is what was sent, octet by octet.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::process::Command;
use tokio::sync::Semaphore;
use world::real::{Postfix, PostfixSetup};
use world::{Client, Leaf, Mx, Relay, World};

use crate::mail::{Kind, Mail};
use crate::programs::{Addresses, PROGRAMS, Program};

/// Longest that one client may take for one message.
const CLIENT_MAX: Duration = Duration::from_secs(60);
/// Large messages on their way at a time: what comes in has to arrive within the limit of every
/// wait.
const LARGE_AT_A_TIME: usize = 2;
pub(crate) const USER: &str = "ann";
pub(crate) const PASSWORD: &str = "correct horse, battery=staple";

/// How a client gets in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Channel {
    /// By its address, in clear.
    Plain,
    /// STARTTLS, then AUTH.
    Starttls,
    /// TLS from the first octet on, then AUTH.
    Tls,
}

impl Channel {
    const ALL: [Self; 3] = [Self::Plain, Self::Starttls, Self::Tls];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Starttls => "starttls",
            Self::Tls => "tls",
        }
    }
}

/// One message to send.
pub(crate) struct Job<'a> {
    pub(crate) channel: Channel,
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) mail: &'a Mail,
}

/// The relay with its three doors, and the host that keeps what arrives.
pub(crate) struct Stage {
    world: World,
    pub(crate) relay: Relay,
    pub(crate) mx: Mx,
    mails: Vec<Mail>,
    large: Semaphore,
    /// For files of the clients.
    pub(crate) dir: PathBuf,
}

impl Stage {
    async fn start() -> Self {
        Self::start_with("").await
    }

    /// With more of a configuration.
    pub(crate) async fn start_with(more: &str) -> Self {
        let world = World::start(env!("CARGO_BIN_EXE_staunch")).await;
        let mx = world.mx("mx.capture.test").await;
        mx.script(|script| script.offer(&["SMTPUTF8", "CHUNKING", "DSN"]));
        world.domain("capture.test").mx(&[(10, &mx)]);
        let dir = world.dir().join("clients");
        world::real::make_public_dir(world.dir());
        world::real::make_public_dir(&dir);
        std::fs::write(dir.join("users"), "").expect("a file of users");
        let relay = world.relay(&(configuration(&world, &dir) + more)).await;
        add_user(&relay).await;
        let mails = Kind::ALL.map(|kind| Mail::write(kind, &dir)).to_vec();
        Self { world, relay, mx, mails, large: Semaphore::new(LARGE_AT_A_TIME), dir }
    }

    pub(crate) fn port(&self, channel: Channel) -> String {
        let number = match channel {
            Channel::Plain => 0,
            Channel::Starttls => 1,
            Channel::Tls => 2,
        };
        self.relay.listener_at(number).port().to_string()
    }

    pub(crate) fn ca(&self) -> &Path {
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
        job.mail.assert_unchanged(&arrived.content, &["Received"], &job.to);
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
    let output = relay.cli_with(&["user", "add", USER, "--scram"], PASSWORD.as_bytes()).await;
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
    if let Some(prepare) = program.prepare {
        run(prepare(stage), program.name).await;
    }
    for channel in Channel::ALL {
        for kind in Kind::ALL {
            let turn = if kind == Kind::Large { stage.large.acquire().await.ok() } else { None };
            let job = stage.job(program.name, channel, kind, program.addresses);
            run((program.command)(stage, &job), &job.to).await;
            stage.assert_arrived(&job).await;
            drop(turn);
        }
    }
}

pub(crate) async fn run(mut command: Command, what: &str) {
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

/// Scripts that give smtplib whole commands leave the brackets out.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_without_brackets_sends_arrives() {
    let stage = Stage::start().await;
    let code = "import smtplib, sys\n\
                c = smtplib.SMTP('127.0.0.1', int(sys.argv[1]))\n\
                c.ehlo('ups')\n\
                for line in ('MAIL FROM:ups@client.test', 'RCPT TO:bob@capture.test'):\n\
                \x20   assert c.docmd(line)[0] == 250\n\
                assert c.data('Subject: battery\\n\\nlow\\n')[0] == 250\n\
                c.quit()\n";
    let mut command = Command::new("/usr/bin/python3");
    command.args(["-c", code, &stage.port(Channel::Plain)]);
    run(command, "smtplib without brackets").await;
    let arrived = stage.mx.message_to("bob@capture.test").await;
    assert_eq!((arrived.from.as_str(), arrived.body()), ("ups@client.test", &b"low\r\n"[..]));
    stage.relay.event("no_brackets").await;
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
        for kind in Kind::ALL {
            let job = stage.job("postfix", channel, kind, Addresses::Utf8);
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
        // By Cyrus SASL.
        .set("smtp_sasl_mechanism_filter", "scram-sha-256")
        .set(
            "smtp_sasl_password_maps",
            format!("inline:{{ {{ {relayhost} = {USER}:{PASSWORD} }} }}"),
        )
}
