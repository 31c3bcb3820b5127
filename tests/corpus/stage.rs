//! The world of all roads: hosts of several kinds, one daemon, and the ways into it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;
use world::{Client, Closed, Mark, Mx, Received, Relay, SmtpReply, Then, Trust, World};

use crate::message::{Message, number_in};

/// Messages that are under way at a time.
pub(crate) const BATCH: usize = 100;
/// Longest time in which nothing may happen.
const PROGRESS: Duration = Duration::from_secs(30);
/// How often the queue is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// The user who submits, and a verifier of the password "secret" that is cheap to check.
const USER: &str = "anna";
const VERIFIER: &str = "$2b$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW";
/// The name in the listeners' certificate.
const NAME: &str = "relay.test";

pub(crate) struct Stage {
    /// Ends with the test.
    _world: World,
    /// Delivers by MX.
    relay: Relay,
    /// Delivers whatever the domain is to the home host: real messages name real domains.
    pub(crate) machine: Relay,
    trust: Trust,
    /// MX of full.test: 8BITMIME and SMTPUTF8.
    pub(crate) full: Mx,
    /// MX of bare.test: neither.
    pub(crate) bare: Mx,
    /// MX of sender.test, where DSNs go to; `machine` delivers everything here.
    pub(crate) home: Mx,
    /// Refuses each recipient.
    _refusing: Mx,
    /// Where `fetch.py` and pip put their files.
    pub(crate) cache: PathBuf,
    /// Where messages are written for the judges.
    pub(crate) dir: PathBuf,
}

/// How a message comes to the daemon.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Door {
    Relay,
    /// TLS, and a user.
    Submission,
}

/// The envelope of a message.
#[derive(Clone, Debug)]
pub(crate) struct Envelope {
    pub(crate) from: String,
    pub(crate) to: String,
    /// Parameters of MAIL and of RCPT, each with a blank before it.
    pub(crate) mail: String,
    pub(crate) rcpt: &'static str,
}

impl Stage {
    pub(crate) async fn start(cache: PathBuf, keep: Option<PathBuf>) -> Self {
        let world = World::start(env!("CARGO_BIN_EXE_staunch")).await;
        let full = world.mx("mx.full.test").await;
        full.script(|script| script.offer(&["SMTPUTF8"]));
        let bare = world.mx("mx.bare.test").await;
        bare.script(|script| script.keywords.retain(|keyword| keyword != "8BITMIME"));
        let refusing = world.mx("mx.refusing.test").await;
        refusing.on("RCPT", Then::reply("550 5.1.1 Nobody of that name"));
        let home = world.mx("mx.home.test").await;
        home.script(|script| script.offer(&["SMTPUTF8"]));
        world.domain("full.test").mx(&[(10, &full)]);
        world.domain("bare.test").mx(&[(10, &bare)]);
        world.domain("refusing.test").mx(&[(10, &refusing)]);
        world.domain("sender.test").mx(&[(10, &home)]);
        let users = world.dir().join("users");
        write_users(&users);
        let relay = world.relay(&with_listeners(&world, &users)).await;
        let machine = world.relay(&with_one_route(&world)).await;
        let dir = keep.unwrap_or_else(|| world.dir().join("arrived"));
        std::fs::create_dir_all(&dir).expect("a folder for what arrives");
        let trust = Trust::in_ca(&world.pki);
        Self {
            _world: world,
            relay,
            machine,
            trust,
            full,
            bare,
            home,
            _refusing: refusing,
            cache,
            dir,
        }
    }

    async fn client(&self, door: Door) -> Result<Client, Closed> {
        match door {
            Door::Relay => Client::hello(self.relay.listener_at(0)).await,
            Door::Submission => {
                let client = Client::hello(self.relay.listener_at(1)).await?;
                let mut client = client.starttls(&self.trust, NAME).await?;
                let reply = client.auth_plain(USER, "secret").await?;
                assert_eq!(reply.code, 235, "{reply:?}");
                Ok(client)
            }
        }
    }

    /// Hands in all of them, waits until nothing is in the queue, and says of each that was not
    /// taken, or returned, why.
    pub(crate) async fn pass(
        &self,
        door: Door,
        messages: &[Message],
        envelope: impl Fn(&Message) -> Envelope,
    ) -> BTreeMap<usize, String> {
        let mut refused = BTreeMap::new();
        for batch in messages.chunks(BATCH) {
            let mark = self.relay.mark();
            let mut client = None;
            for message in batch {
                let Ok(mut open) = (match client.take() {
                    Some(open) => Ok(open),
                    None => self.client(door).await,
                }) else {
                    panic!("the daemon does not listen");
                };
                match hand_in(&mut open, &envelope(message), &message.octets).await {
                    Ok(reply) if reply.code < 300 => client = Some(open),
                    // A new session for the next: its mistakes are its own.
                    Ok(reply) => drop(refused.insert(message.number, said(&reply))),
                    Err(Closed) => drop(refused.insert(message.number, "closed".to_owned())),
                }
            }
            refused.extend(settle(&self.relay, mark).await);
        }
        refused
    }

    /// Writes a message for the judges.
    pub(crate) fn write(&self, name: &str, octets: &[u8]) -> PathBuf {
        let path = self.dir.join(name);
        std::fs::write(&path, octets).expect("write a message");
        path
    }
}

/// Waits until nothing is in the queue. The reasons for what was returned since `mark`, by the
/// number in the recipient or, if that has none, in the sender.
pub(crate) async fn settle(relay: &Relay, mark: Mark) -> BTreeMap<usize, String> {
    let mut reasons = BTreeMap::new();
    let (mut left, mut since) = (usize::MAX, Instant::now());
    loop {
        let rows = relay.queue().await;
        if rows.is_empty() {
            break;
        }
        if rows.len() < left {
            (left, since) = (rows.len(), Instant::now());
        }
        assert!(since.elapsed() < PROGRESS, "nothing moves: {rows:#?}");
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    for event in relay.event("bounced").after(mark).all() {
        let text = |field| event.text(field).unwrap_or_default();
        let number = number_in(&text("recipient")).or_else(|| number_in(&text("sender")));
        if let Some(number) = number {
            reasons.insert(number, format!("returned, {}", text("reason")));
        }
    }
    reasons
}

/// What arrived behind the first `since`, by the number in what `address` says of it.
pub(crate) fn arrived(
    mx: &Mx,
    since: usize,
    address: impl Fn(&Received) -> Option<String>,
) -> BTreeMap<usize, Vec<Received>> {
    let mut by_number: BTreeMap<usize, Vec<Received>> = BTreeMap::new();
    mx.received().read(|all| {
        for one in all.iter().skip(since) {
            if let Some(number) = address(one).as_deref().and_then(number_in) {
                by_number.entry(number).or_default().push(one.clone());
            }
        }
    });
    by_number
}

/// One transaction; the reply that ended it.
async fn hand_in(
    client: &mut Client,
    envelope: &Envelope,
    octets: &[u8],
) -> Result<SmtpReply, Closed> {
    let Envelope { from, to, mail, rcpt } = envelope;
    let commands = [format!("MAIL FROM:<{from}>{mail}"), format!("RCPT TO:<{to}>{rcpt}")];
    for command in commands.iter().map(String::as_str).chain(["DATA"]) {
        let reply = client.command(command).await?;
        if reply.code >= 400 {
            return Ok(reply);
        }
    }
    client.send(&world::stuff(octets)).await?;
    client.reply().await
}

/// A reply as a reason: without what is of one message only.
fn said(reply: &SmtpReply) -> String {
    format!("{} {}", reply.code, reply.text())
}

fn write_users(path: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::write(path, format!("{USER}:{VERIFIER}\n")).expect("write the users");
    let only_ours = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(path, only_ours).expect("change the mode");
}

/// A listener for relay, on which nothing is added, and one for users.
fn with_listeners(world: &World, users: &Path) -> String {
    let keys = world.key_files(NAME).toml();
    format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\nadd_missing_headers = false\n\
         [[listener]]\naddress = \"127.0.0.1:0\"\nmode = \"submission\"\nrequire_tls = true\n{keys}\n\
         [access]\nusers_file = \"{}\"\n[delivery]\nretry = [\"1s\"]\n",
        users.display(),
    )
}

fn with_one_route(world: &World) -> String {
    format!(
        "origin = \"home.test\"\n[delivery]\nretry = [\"1s\"]\n\
         [[route]]\ndomains = [\"*\"]\nvia = [\"smtp://[mx.home.test]:{}\"]\ntls = \"opportunistic\"\n",
        world.mx_port(),
    )
}
