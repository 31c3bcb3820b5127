//! staunch among other people's servers: Postfix hands mail in and takes it at the other end, Knot
//! answers DNS, nginx serves the policy.
//!
//! ```text
//! load ─▶ Postfix (front) ─relayhost─▶ staunch ─STARTTLS, verified─▶ Postfix (back)
//!             ▲                          │  asks Knot, fetches the policy from nginx
//!             └───────── bounces ────────┘  never connects to unlisted.test's MX
//! ```
//!
//! Needs root and Debian's packages; `.ci/run` installs them. Not part of `cargo test --workspace`.
#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod clients;
mod dkim;
mod local;
mod mail;
mod odd_hosts;
mod programs;
mod readme;
mod receivers;
mod servers;

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use servers::Servers;
use tokio::net::TcpListener;
use tokio::time::Instant;
use world::load::{Corpus, Envelope, Load, Sizes};
use world::{Relay, World};

/// Where `.ci/lib.sh` puts what cannot be installed as a package.
const UNPACKED: &str = "/opt/staunch-interop";
const SENDER: &str = "ann@home.test";
/// How many messages are sent; `.ci/long interop` sends more.
const MESSAGES: u64 = 100;
const MESSAGES_VARIABLE: &str = "INTEROP_MESSAGES";
/// Longest time in which nothing new may arrive.
const PROGRESS: Duration = Duration::from_secs(60);
/// How often a mailbox is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

fn message_count() -> u64 {
    let set = std::env::var(MESSAGES_VARIABLE).ok();
    set.map_or(MESSAGES, |text| text.parse().expect("INTEROP_MESSAGES is a number"))
}

/// From one Postfix to another, with all that stands between them.
#[tokio::test(flavor = "multi_thread")]
async fn mail_between_two_postfixes_is_verified_and_unchanged() {
    let world = World::start(env!("CARGO_BIN_EXE_staunch")).await;
    let servers = Servers::start(&world);
    // Whoever connects here would get mail for a host that the policy does not list.
    let rogue = TcpListener::bind(servers::ROGUE).await.expect("root may bind port 25");
    let relay = world.relay(&servers.staunch_configuration()).await;
    let (front, mailboxes) = (servers.start_front(relay.listener()), servers.mailboxes());

    let corpus = Arc::new(Corpus::new(Sizes::People));
    let count = message_count();
    let envelope =
        |id: u64| Envelope { from: SENDER.to_owned(), to: format!("user{}@good.test", id % 5) };
    let load = Load::new(servers::FRONT, 4, Arc::clone(&corpus), Arc::new(envelope));
    load.run(count).await;
    assert_eq!(load.acknowledged().len() as u64, count, "the front takes them all");

    let delivered = wait_for_files(&mailboxes.join("good.test"), count).await;
    assert_all_there_and_unchanged(&corpus, &delivered, count);
    let expected = usize::try_from(count).expect("small");
    let events = relay.event("delivered").times(expected).await;
    assert_eq!(events.len(), expected, "each once");
    for event in events {
        assert_eq!(event.text("policy").as_deref(), Some("sts"), "{event:?}");
        assert_eq!(event.text("mx").as_deref(), Some("mx.good.test"));
        let version = event.text("tls_version");
        assert!(version.is_some_and(|version| version.contains("1.3")), "{event:?}");
    }

    an_unlisted_host_is_not_even_connected_to(&relay, &rogue).await;
    a_bounce_comes_home(&relay, &mailboxes).await;
    drop(front);
}

/// Deferred with its reason, and not one SYN to the host that DNS names and the policy does not.
async fn an_unlisted_host_is_not_even_connected_to(relay: &Relay, rogue: &TcpListener) {
    submit(&relay_front("bob@unlisted.test")).await;
    let event = relay.event("deferred").with("recipient", "bob@unlisted.test").await;
    assert_eq!(event.text("reason").as_deref(), Some("mx_not_listed"));
    let row = relay.queued("bob@unlisted.test").await.expect("it waits");
    assert_eq!(row["last"]["reason"], "mx_not_listed");
    let nobody = tokio::time::timeout(Duration::ZERO, rogue.accept()).await;
    assert!(nobody.is_err(), "a connection to the unlisted host: {nobody:?}");
}

/// The back Postfix refuses the recipient; the DSN goes to the sender's own server by its route.
async fn a_bounce_comes_home(relay: &Relay, mailboxes: &Path) {
    submit(&relay_front("nobody@good.test")).await;
    relay.event("bounced").with("recipient", "nobody@good.test").await;
    let notices = wait_for_files(&mailboxes.join("home.test"), 1).await;
    let notice = fs::read_to_string(&notices[0]).expect("a notice is text");
    for line in [
        "Return-Path: <>",
        "Auto-Submitted: auto-replied",
        "Final-Recipient: rfc822; nobody@good.test",
        "Action: failed",
        "Status: 5.1.1",
        "Remote-MTA: dns; mx.good.test",
        "Subject: interop",
    ] {
        assert!(notice.lines().any(|found| found == line), "{line} is missing in\n{notice}");
    }
}

/// One message from [`SENDER`] to `recipient`.
fn relay_front(recipient: &str) -> (String, Vec<u8>) {
    let message =
        format!("From: <{SENDER}>\r\nTo: <{recipient}>\r\nSubject: interop\r\n\r\nHello\r\n");
    (recipient.to_owned(), message.into_bytes())
}

async fn submit((recipient, message): &(String, Vec<u8>)) {
    let mut client = world::Client::hello(servers::FRONT).await.expect("the front listens");
    let reply = client.transact(SENDER, &[recipient], message).await.expect("the front answers");
    assert_eq!(reply.code, 250, "{reply:?}");
}

/// All messages in the mailboxes below `dir`, once there are `count` of them.
async fn wait_for_files(dir: &Path, count: u64) -> Vec<PathBuf> {
    let (mut seen, mut since) = (0, Instant::now());
    loop {
        let files = files_in(dir);
        if files.len() as u64 >= count {
            return files;
        }
        if files.len() > seen {
            (seen, since) = (files.len(), Instant::now());
        }
        assert!(since.elapsed() < PROGRESS, "{seen} of {count} messages in {}", dir.display());
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// `dir/USER/new/*`: maildirs.
fn files_in(dir: &Path) -> Vec<PathBuf> {
    let entries = |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten();
    let users = entries(dir).map(|user| user.path().join("new"));
    users.flat_map(|new| entries(&new).map(|file| file.path()).collect::<Vec<_>>()).collect()
}

/// Each message once, and below what the three servers put on top of it exactly as submitted.
fn assert_all_there_and_unchanged(corpus: &Corpus, files: &[PathBuf], count: u64) {
    let mut ids = HashSet::new();
    for file in files {
        let stored = fs::read(file).expect("read a message");
        let id = Corpus::id_in(&stored).expect("a message of ours");
        assert!(ids.insert(id), "message {id} came twice");
        // A maildir has the line ends of its system.
        let mut expected = corpus.message(id);
        expected.retain(|&byte| byte != b'\r');
        let top = stored.strip_suffix(expected.as_slice());
        let top = top.unwrap_or_else(|| panic!("message {id} was changed: {}", file.display()));
        assert_only_trace_fields(std::str::from_utf8(top).expect("ASCII"));
    }
    assert_eq!(ids.len() as u64, count);
}

fn assert_only_trace_fields(top: &str) {
    for line in top.lines().filter(|line| !line.starts_with([' ', '\t'])) {
        let name = line.split(':').next().unwrap_or_default();
        let known = ["Return-Path", "X-Original-To", "Delivered-To", "Received"];
        assert!(known.contains(&name), "{line}");
    }
    assert!(top.contains("by relay.test"), "our own Received is among them:\n{top}");
    assert!(top.contains("using TLSv1.3"), "the back Postfix saw TLS:\n{top}");
}
