//! A failed recipient's sender hears of it, once, whatever happens in between (RFC 5321 §6.1).

use std::collections::BTreeMap;

use world::{Greeting, Received, Then};

use crate::harness::{OURSELVES, on_stage};
use crate::home::{Home, field};

/// Recipients that fail in the crash test.
const RECIPIENTS: usize = 1000;

/// Recipients of one message there.
const PER_MESSAGE: usize = 100;

#[tokio::test]
async fn a_refused_recipient_is_reported_to_the_sender_by_our_own_route() {
    let stage = Home::start().await;
    stage.mx.clear_rules();
    stage.mx.on("RCPT TO:<bad@", Then::reply("550 5.1.1 Nobody of that name"));
    stage.relay.submit("alice@sender.test", &["bad@far.test", "good@far.test"], "hello").await;

    let notice = stage.home.message().await;
    assert_eq!(
        (notice.from.as_str(), notice.to.as_slice()),
        ("", &["alice@sender.test".to_owned()][..])
    );
    let text = notice.text();
    assert_eq!(field(&text, "Final-Recipient"), ["rfc822; bad@far.test"], "{text}");
    assert_eq!(field(&text, "Action"), ["failed"]);
    assert_eq!(field(&text, "Status"), ["5.1.1"]);
    assert!(field(&text, "Diagnostic-Code")[0].starts_with("smtp; 550 5.1.1"), "{text}");
    assert!(text.contains("Auto-Submitted: auto-replied"), "{text}");
    assert!(text.contains("Message-ID: <hello@client.test>"), "the header of the original: {text}");

    assert_eq!(stage.mx.message().await.to, ["good@far.test"]);
    let bounced = stage.relay.event("bounced").with("recipient", "bad@far.test").await;
    assert_eq!(bounced.text("reason").as_deref(), Some("remote_5xx"));
    assert_eq!(bounced.text("status").as_deref(), Some("5.1.1"));
    stage.relay.event("delivered").with("recipient", "alice@sender.test").await;
    assert!(stage.relay.queue().await.is_empty());
    assert_eq!(stage.home.received().len(), 1);
}

/// Without a policy there is nobody whose word DNS could contradict: what it says for good, is.
#[test]
fn what_dns_says_for_good_ends_mail_where_no_policy_contradicts() {
    on_stage(|stage| async move {
        stage.world.domain("null.bounce.test").null_mx();
        stage.world.domain("loop.bounce.test").mx_names(&[(10, "relay.test")]);
        stage.world.dns.a("relay.test", OURSELVES);
        let cases = [
            ("user@null.bounce.test", "null_mx", "5.1.10"),
            ("user@gone.bounce.test", "no_such_domain", "5.1.2"),
            ("user@loop.bounce.test", "mail_loop", "5.4.6"),
        ];
        for (recipient, reason, status) in cases {
            // A DSN to the null sender is not made.
            stage.relay.submit("", &[recipient], reason).await;
            let bounced = stage.relay.event("bounced").with("recipient", recipient).await;
            assert_eq!(bounced.text("reason").as_deref(), Some(reason));
            assert_eq!(bounced.text("status").as_deref(), Some(status));
        }
    });
}

#[tokio::test]
async fn a_failed_notice_makes_no_notice() {
    let stage = Home::start().await;
    stage.home.on("RCPT", Then::reply("550 5.1.1 Nobody of that name"));
    stage.relay.submit("alice@sender.test", &["bad@far.test"], "hello").await;
    // The DSN to the sender fails in its turn, and that is the end of it.
    stage.relay.event("bounced").with("recipient", "bad@far.test").await;
    stage.home.wait_command("RCPT TO:<alice@sender.test>").await;
    stage.relay.event("dsn_undeliverable").await;
    assert!(stage.relay.queue().await.is_empty());
    assert_eq!(stage.home.received().len(), 0);
}

#[tokio::test]
async fn a_message_that_waited_too_long_comes_back_with_its_last_cause() {
    let stage = Home::with("lifetime = \"2s\"").await;
    stage.mx.clear_rules();
    stage.mx.on("RCPT", Then::reply("450 4.2.1 Come back later"));
    stage.relay.submit("alice@sender.test", &["slow@far.test"], "hello").await;
    let text = stage.home.message().await.text();
    assert_eq!(field(&text, "Status"), ["5.2.1"], "{text}");
    assert!(field(&text, "Diagnostic-Code")[0].starts_with("smtp; 450 4.2.1"), "{text}");
}

/// Each recipient in exactly one DSN, though the daemon is killed in the middle of bouncing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_while_a_thousand_recipients_bounce_loses_and_repeats_no_notice() {
    let mut stage = Home::start().await;
    // Home is closed until the killing is over: no DSN can be on its way when it happens.
    stage.home.script(|script| script.greeting = Greeting::Reply("421 4.3.2 Closed".to_owned()));
    let addresses: Vec<String> = (0..RECIPIENTS).map(|n| format!("r{n}@far.test")).collect();
    for (number, recipients) in addresses.chunks(PER_MESSAGE).enumerate() {
        let to: Vec<&str> = recipients.iter().map(String::as_str).collect();
        stage.relay.submit(&format!("s{number}@sender.test"), &to, &format!("n{number}")).await;
    }
    for bounced in [RECIPIENTS / 10, RECIPIENTS / 3] {
        stage.relay.event("bounced").times(bounced).await;
        stage.relay.kill9().await;
        stage.relay.start_again().await;
    }
    let mark = stage.relay.mark();
    stage.home.script(|script| script.greeting = Greeting::Good);

    let all_named = |all: &[Received]| (named(all).len() >= RECIPIENTS).then(|| named(all));
    let named = stage.home.received().until(all_named).await.expect("a notice for each recipient");
    for address in &addresses {
        assert_eq!(named.get(address), Some(&1), "{address} in exactly one notice");
    }
    stage.relay.event("delivered").after(mark).times(1).await;
}

/// How often each recipient is named by a DSN.
fn named(notices: &[Received]) -> BTreeMap<String, usize> {
    let mut named = BTreeMap::new();
    for notice in notices {
        for recipient in field(&notice.text(), "Final-Recipient") {
            *named.entry(recipient.trim_start_matches("rfc822; ").to_owned()).or_default() += 1;
        }
    }
    named
}
