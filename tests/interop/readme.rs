//! README's words on Postfix, done to a real one: its mail goes through staunch, bounces come home.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use world::real::{Postfix, PostfixSetup};
use world::{Client, Mode, Then, World};

use crate::servers::{make_mailboxes, with_mailboxes};
use crate::wait_for_files;

const SENDER: &str = "anna@example.org";

fn read(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(name);
    fs::read_to_string(path).expect("a document")
}

/// The words of a document, with the places of this test in them: nothing else of the machine may
/// stand in the way of ports that everybody uses.
fn placed(text: &str, staunch: SocketAddr, postfix: SocketAddr) -> String {
    let at = |place: SocketAddr| format!("[{}]:{}", place.ip(), place.port());
    let text = text.replace("[127.0.0.1]:2525", &at(staunch));
    text.replace("[127.0.0.1]:25\"", &format!("{}\"", at(postfix)))
}

/// The blocks of one language in a text.
fn blocks<'t>(text: &'t str, language: &str) -> Vec<&'t str> {
    let start = format!("\n```{language}\n");
    let behind = text.split(start.as_str()).skip(1);
    behind.map(|rest| rest.split("\n```").next().unwrap_or_default()).collect()
}

/// As root would type it on the machine of this Postfix.
fn type_in(postfix: &Path, block: &str) {
    let mut shell = Command::new("sh");
    let output = shell.args(["-e", "-c", block]).env("MAIL_CONFIG", postfix).output();
    let output = output.expect("a shell");
    assert!(output.status.success(), "{block}: {output:?}");
}

async fn submit(postfix: SocketAddr, recipient: &str) {
    let content =
        format!("From: <{SENDER}>\r\nTo: <{recipient}>\r\nSubject: readme\r\n\r\nHello\r\n");
    let mut client = Client::hello(postfix).await.expect("Postfix listens");
    let reply = client.transact(SENDER, &[recipient], content.as_bytes()).await.expect("an answer");
    assert_eq!(reply.code, 250, "{reply:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn postfix_sends_through_staunch_and_gets_its_bounces_by_the_words_of_the_readme() {
    let readme = read("README.md");
    let (_, behind) = readme.split_once("\n## Put it behind Postfix\n").expect("a heading");
    let section = behind.split("\n## ").next().unwrap_or_default();

    let world = World::start(env!("CARGO_BIN_EXE_staunch")).await;
    let opened = Command::new("chmod").arg("755").arg(world.dir()).status();
    assert!(opened.is_ok_and(|status| status.success()), "chmod");
    let mx = world.mx("mx.example.com").await;
    mx.on("RCPT TO:<nobody@", Then::reply("550 5.1.1 Nobody of that name"));
    let policy = ["mx.example.com"];
    world.domain("example.com").mx(&[(10, &mx)]).mta_sts(Mode::Enforce, &policy, 86_400);
    let at = world.free_address().await;
    let routes = placed(&blocks(section, "toml").join("\n"), at, at);
    assert!(routes.contains("example.org") && !routes.contains("]:25\""), "{routes}");
    let relay = world.relay(&routes).await;

    let (dir, mailboxes) = (world.dir().join("postfix"), world.dir().join("mailboxes"));
    make_mailboxes(&mailboxes);
    // It asks for more than loopback offers, so that the exception is needed.
    let setup = PostfixSetup::new("mail.example.org", at)
        .set("smtp_tls_security_level", "encrypt")
        .set("virtual_mailbox_domains", "example.org")
        .set("virtual_mailbox_maps", "static:example.org/anna/");
    let postfix = Postfix::start(&dir, &with_mailboxes(setup, &mailboxes));
    let scripts = blocks(section, "sh");
    assert_eq!(scripts.len(), 2, "{scripts:?}");
    let type_in = |script: &&str| type_in(&dir, &placed(script, relay.listener(), at));
    scripts.iter().for_each(type_in);

    submit(at, "user@example.com").await;
    let delivered = relay.event("delivered").with("recipient", "user@example.com").await;
    assert_eq!(delivered.text("policy").as_deref(), Some("sts"), "{}", postfix.log());
    submit(at, "nobody@example.com").await;
    let bounces = wait_for_files(&mailboxes.join("example.org"), 1).await;
    let bounce = fs::read_to_string(&bounces[0]).expect("a bounce is text");
    assert!(bounce.contains("Final-Recipient: rfc822; nobody@example.com"), "{bounce}");
    // The id is the same in both logs.
    let id = delivered.text("message_id").expect("an id");
    assert!(postfix.log().contains(&format!("queued as {id}")), "{}", postfix.log());

    // The page on Postfix ends with the way back.
    blocks(&read("docs/operations/postfix.md"), "sh").iter().for_each(type_in);
    let mut postconf = Command::new("postconf");
    let left = postconf.arg("-c").arg(&dir).args(["-h", "relayhost"]).output().expect("postconf");
    assert_eq!(left.stdout, b"\n", "{left:?}");
}
