//! Who may send how much to whom: deny lists, aliases, limits of clients and senders, and the brake
//! on probing.

use world::{Relay, World, message};

use crate::harness::PROGRAM;
use crate::home::{Home, field};

async fn codes(relay: &Relay, from: &str, to: &[(&str, u16)]) {
    let mut client = relay.client().await;
    client.expect(&format!("MAIL FROM:<{from}>"), 250).await;
    for (to, code) in to {
        client.expect(&format!("RCPT TO:<{to}>"), *code).await;
    }
}

#[tokio::test]
async fn denied_senders_and_recipients_are_refused_in_any_case_and_at_once_after_a_reload() {
    let world = World::start(PROGRAM).await;
    let relay = world.relay("").await;
    let mut open = relay.client().await;
    open.expect("MAIL FROM:<a@client.test>", 250).await;
    open.expect("RCPT TO:<gone@elsewhere.test>", 250).await;
    relay.configure(
        "[access]\ndeny_recipients = [\"Gone@elsewhere.test\", \"*.spam.test\"]\n\
         deny_senders = [\"bulk.test\"]",
    );
    relay.signal(rustix::process::Signal::HUP);
    relay.event("config_reloaded").await;
    let reply = open.expect("RCPT TO:<GONE@elsewhere.test>", 550).await;
    assert!(reply.text().starts_with("5.7.1 "), "{reply:?}");
    let to = [("a@x.spam.test", 550), ("a@spam.test", 250), ("here@elsewhere.test", 250)];
    codes(&relay, "a@client.test", &to).await;
    let mut client = relay.client().await;
    let reply = client.expect("MAIL FROM:<a@bulk.test>", 550).await;
    assert!(reply.text().starts_with("5.7.1 "), "{reply:?}");
    client.expect("MAIL FROM:<>", 250).await;
    relay.event("rejected").with("reason", "recipient_denied").await;
    relay.event("rejected").with("reason", "sender_denied").await;
}

#[tokio::test]
async fn a_client_that_sends_too_much_waits_for_the_next_minute() {
    let world = World::start(PROGRAM).await;
    let relay = world.relay("[limits]\nmessages_per_client_per_minute = 2").await;
    for code in [250, 250, 451] {
        let mut client = relay.client().await;
        let reply = client.expect("MAIL FROM:<a@client.test>", code).await;
        assert!(code == 250 || reply.text().starts_with("4.7.1 "), "{reply:?}");
    }
    relay.event("rejected").with("reason", "too_many_messages").await;
}

#[tokio::test]
async fn mail_beyond_a_senders_recipients_is_held_until_somebody_looks() {
    let world = World::start(PROGRAM).await;
    let mx = world.mx("mx.held.test").await;
    world.domain("held.test").mx(&[(10, &mx)]);
    let relay = world.relay("[limits]\nrecipients_per_sender_per_hour = 3").await;
    relay.submit("a@client.test", &["one@held.test", "two@held.test"], "within").await;
    let id =
        relay.submit("\"\\A\"@client.test", &["three@held.test", "four@held.test"], "over").await;
    relay.submit("b@client.test", &["five@held.test"], "another").await;
    let held = relay.event("held").with("message_id", &id).await;
    assert_eq!(held.text("reason").as_deref(), Some("held"));
    assert_eq!(mx.messages(2).await.len(), 2);
    for to in ["three@held.test", "four@held.test"] {
        assert_eq!(relay.queued(to).await.expect("it is kept")["state"], "held");
    }
    let summary = relay.cli(&["queue", "summary", "--by", "reason", "--json"]).await;
    let summary: serde_json::Value = serde_json::from_slice(&summary.stdout).unwrap();
    assert_eq!(summary["groups"], serde_json::json!([{ "reason": "held", "recipients": 2 }]));
    let listed = relay.cli(&["queue", "list", "--reason", "held", "--json"]).await;
    assert_eq!(listed.stdout.split_inclusive(|&octet| octet == b'\n').count(), 2);
    let released = relay.cli(&["queue", "release", "--reason", "held", "--json"]).await;
    assert_eq!(String::from_utf8(released.stdout).unwrap().trim(), r#"{"count":2}"#);
    let mut to = mx.message_to("three@held.test").await.to;
    to.sort();
    assert_eq!(to, ["four@held.test", "three@held.test"]);
}

/// Whoever tries names until one is taken is one client with many mistakes.
#[tokio::test]
async fn probing_for_recipients_ends_the_session() {
    let world = World::start(PROGRAM).await;
    let relay = world
        .relay("[limits]\nerrors_per_session = 5\n[access]\ndeny_recipients = [\"probed.test\"]")
        .await;
    let mut client = relay.client().await;
    client.expect("MAIL FROM:<a@client.test>", 250).await;
    for number in 0..5 {
        client.expect(&format!("RCPT TO:<name{number}@probed.test>"), 550).await;
    }
    client.expect("RCPT TO:<name@probed.test>", 421).await;
    assert!(client.is_closed().await);
    relay.event("rejected").with("reason", "bad_command").with("code", 421).await;
}

#[tokio::test]
async fn a_notice_speaks_of_the_alias_and_not_of_whom_it_stands_for() {
    let home = Home::start().await;
    home.relay.configure("[aliases]\nsupport = \"secret@far.test\"");
    home.relay.signal(rustix::process::Signal::HUP);
    home.relay.event("config_reloaded").await;
    let content = message("alice@sender.test", "x", "alias");
    let to = ["support@relay.test"];
    let reply = home.relay.submit_content("alice@sender.test", &to, &content).await;
    assert_eq!(reply.code, 250, "{reply:?}");
    let notice = home.home.message().await.text();
    assert_eq!(field(&notice, "Original-Recipient"), ["rfc822; support@relay.test"], "{notice}");
}
