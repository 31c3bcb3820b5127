//! Senders hear that their mail waits: once, in time, and never without a mark that they did.

use std::collections::{BTreeMap, BTreeSet};

use world::{Greeting, Mode, Received, Then};

use crate::home::{Home, field};

/// Recipients that wait in the crash test.
const RECIPIENTS: usize = 60;

/// DSNs so far, by what they say happened.
fn actions(notices: &[Received]) -> Vec<String> {
    notices
        .iter()
        .flat_map(|n| field(&n.text(), "Action").into_iter().map(str::to_owned).collect::<Vec<_>>())
        .collect()
}

#[tokio::test]
async fn a_delay_is_told_once_and_the_message_is_delivered_all_the_same() {
    let stage = Home::with("delay_notice_after = \"1s\"").await;
    stage.mx.clear_rules();
    stage.mx.on("RCPT", Then::reply("450 4.2.1 Come back later"));
    let id = stage.relay.submit("alice@sender.test", &["slow@far.test"], "hello").await;

    let notice = stage.home.message().await;
    assert_eq!(
        (notice.from.as_str(), notice.to.as_slice()),
        ("", &["alice@sender.test".to_owned()][..])
    );
    let text = notice.text();
    assert_eq!(field(&text, "Subject")[0], "Your message is delayed");
    assert_eq!(field(&text, "Action"), ["delayed"], "{text}");
    assert_eq!(field(&text, "Status"), ["4.2.1"]);
    assert_eq!(field(&text, "Final-Recipient"), ["rfc822; slow@far.test"]);
    assert_eq!(field(&text, "Will-Retry-Until").len(), 1, "{text}");
    let told = stage.relay.event("dsn_queued").with("message_id", &id).await;
    assert_eq!(told.text("action").as_deref(), Some("delayed"));

    // Attempt after attempt, and no second DSN.
    let mark = stage.relay.mark();
    stage.relay.event("deferred").after(mark).with("recipient", "slow@far.test").times(3).await;
    assert_eq!(stage.home.received().len(), 1);
    stage.mx.clear_rules();
    assert_eq!(stage.mx.message().await.to, ["slow@far.test"]);
    stage.relay.event("delivered").with("recipient", "slow@far.test").await;
    assert_eq!(stage.home.received().len(), 1);
}

/// One message probes a host that is down, and speaks for all that wait behind it.
#[tokio::test]
async fn who_waits_behind_a_dead_host_hears_of_it_too() {
    let stage = Home::with("delay_notice_after = \"2s\"").await;
    stage.mx.script(|script| script.greeting = Greeting::Close);
    for number in 0..5 {
        let (from, to) = (format!("s{number}@sender.test"), format!("r{number}@far.test"));
        stage.relay.submit(&from, &[&to], &format!("n{number}")).await;
    }
    let notices = stage.home.messages(5).await;
    assert_eq!(actions(&notices), ["delayed"; 5]);
    assert!(notices.iter().all(|n| field(&n.text(), "Status") == ["4.4.2"]));
    let mut to: Vec<&str> = notices.iter().flat_map(|n| &n.to).map(String::as_str).collect();
    to.sort_unstable();
    assert_eq!(
        to,
        ["s0@sender.test", "s1@sender.test", "s2@sender.test", "s3@sender.test", "s4@sender.test"]
    );
    let attempts = stage.relay.event("deferred").count();
    assert!(attempts < 20, "{attempts} attempts: each message probed");
}

#[tokio::test]
async fn a_broken_policy_is_told_sooner_than_a_host_that_is_down() {
    let stage = Home::with("delay_notice_after = \"1h\"\ndelay_notice_after_policy = \"1s\"").await;
    stage.world.domain("far.test").mta_sts(Mode::Enforce, &["mx.other.test"], 86_400);
    let other = stage.world.mx("mx.down.test").await;
    other.script(|script| script.greeting = Greeting::Close);
    stage.world.domain("down.test").mx(&[(10, &other)]);
    stage.relay.submit("bob@sender.test", &["x@down.test"], "down").await;
    stage.relay.submit("alice@sender.test", &["y@far.test"], "policy").await;
    let text = stage.home.message().await.text();
    assert_eq!(field(&text, "Final-Recipient"), ["rfc822; y@far.test"], "{text}");
    assert_eq!((field(&text, "Action"), field(&text, "Status")), (vec!["delayed"], vec!["4.7.5"]));
    assert!(text.contains("(mx_not_listed)"), "{text}");
    assert!(text.contains("protected delivery"), "the sender reads what it is about: {text}");
    let mark = stage.relay.mark();
    stage.relay.event("deferred").after(mark).with("recipient", "x@down.test").await;
    assert_eq!(stage.home.received().len(), 1);
}

#[tokio::test]
async fn nobody_is_told_of_a_delayed_notice_and_nothing_if_it_is_switched_off() {
    let stage = Home::with("delay_notice_after = \"0s\"").await;
    stage.mx.clear_rules();
    stage.mx.on("RCPT", Then::reply("450 4.2.1 Come back later"));
    stage.relay.submit("alice@sender.test", &["slow@far.test"], "hello").await;
    stage.relay.submit("", &["slow2@far.test"], "a notice").await;
    stage.relay.event("deferred").with("recipient", "slow@far.test").times(3).await;
    stage.relay.event("deferred").with("recipient", "slow2@far.test").times(3).await;
    assert_eq!(stage.relay.event("dsn_queued").count(), 0);
    assert_eq!(stage.home.connections(), 0);
}

/// The mark and the DSN are one transaction: nobody hears twice, and nobody is forgotten.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_while_delays_are_told_repeats_and_forgets_none() {
    let mut stage = Home::with("delay_notice_after = \"1s\"").await;
    stage.mx.script(|script| script.greeting = Greeting::Close);
    // Home is closed until the killing is over: no DSN can be on its way when it happens.
    stage.home.script(|script| script.greeting = Greeting::Reply("421 4.3.2 Closed".to_owned()));
    for number in 0..RECIPIENTS {
        let (from, to) = (format!("s{number}@sender.test"), format!("r{number}@far.test"));
        stage.relay.submit(&from, &[&to], &format!("n{number}")).await;
    }
    for told in [RECIPIENTS / 10, RECIPIENTS / 2] {
        stage.relay.event("dsn_queued").times(told).await;
        stage.relay.kill9().await;
        stage.relay.start_again().await;
    }
    stage.home.script(|script| script.greeting = Greeting::Good);
    let notices = stage.home.messages(RECIPIENTS).await;
    let mut told: BTreeMap<String, usize> = BTreeMap::new();
    for notice in &notices {
        assert_eq!(field(&notice.text(), "Action"), ["delayed"]);
        for recipient in field(&notice.text(), "Final-Recipient") {
            *told.entry(recipient.to_owned()).or_default() += 1;
        }
    }
    assert_eq!(told.len(), RECIPIENTS);
    assert!(told.values().all(|count| *count == 1), "{told:?}");
}

/// Next hops that refuse a message.
const REFUSING: usize = 30;

/// A large message to many who refuse it costs its sender, who may be forged, one DSN with all
/// of it.
#[tokio::test]
async fn failures_of_one_message_are_one_notice_and_the_message_goes_back_once() {
    let stage = Home::with("").await;
    stage.mx.clear_rules();
    stage.mx.on("RCPT", Then::reply("550 5.1.1 No such user"));
    for number in 0..REFUSING {
        stage.world.domain(&format!("d{number}.test")).mx(&[(10, &stage.mx)]);
    }
    let slow = stage.world.mx("mx.slow.test").await;
    stage.world.domain("slow.test").mx(&[(10, &slow)]);
    slow.on("RCPT", Then::reply("450 4.2.1 Come back later"));
    let mut to: Vec<String> = (0..REFUSING).map(|n| format!("r{n}@d{n}.test")).collect();
    to.push("late@slow.test".to_owned());
    let mut client = stage.relay.client().await;
    client.expect("MAIL FROM:<alice@sender.test> RET=FULL", 250).await;
    for to in &to {
        client.expect(&format!("RCPT TO:<{to}>"), 250).await;
    }
    client.expect("DATA", 354).await;
    client.send(b"Subject: large\r\n\r\nThe whole of it.\r\n.\r\n").await.unwrap();
    assert_eq!(client.reply().await.unwrap().code, 250);

    let first = stage.home.message().await.text();
    let failed: BTreeSet<&str> = field(&first, "Final-Recipient").into_iter().collect();
    assert_eq!(failed.len(), REFUSING, "{first}");
    assert!(first.contains("The whole of it."), "{first}");

    slow.clear_rules();
    slow.on("RCPT", Then::reply("550 5.1.1 No such user"));
    let second = stage.home.messages(2).await.pop().unwrap().text();
    assert_eq!(field(&second, "Final-Recipient"), ["rfc822; late@slow.test"]);
    assert!(second.contains("Subject: large") && !second.contains("The whole of it."), "{second}");
    assert_eq!(stage.relay.event("bounced").count(), REFUSING + 1);
}

#[tokio::test]
async fn a_failure_that_waits_for_others_is_not_lost_when_the_daemon_ends() {
    let mut stage = Home::with("").await;
    stage.mx.clear_rules();
    stage.mx.on("RCPT", Then::reply("550 5.1.1 No such user"));
    let silent = stage.world.mx("mx.silent.test").await;
    stage.world.domain("silent.test").mx(&[(10, &silent)]);
    silent.on("RCPT", Then::reply("450 4.2.1 Come back later"));
    stage.relay.submit("alice@sender.test", &["a@far.test", "b@silent.test"], "two").await;
    stage.mx.wait_command("RCPT").await;
    silent.wait_command("RCPT").await;
    stage.relay.stop().await;
    stage.relay.start_again().await;
    let text = stage.home.message().await.text();
    assert_eq!(field(&text, "Final-Recipient"), ["rfc822; a@far.test"]);
}

#[tokio::test]
async fn notices_beyond_the_rate_of_their_sender_are_held_until_somebody_looks() {
    let stage = Home::with("lifetime = \"1d\"\n[dsn]\nrate_per_sender_per_hour = 2").await;
    stage.mx.clear_rules();
    stage.mx.on("RCPT", Then::reply("550 5.1.1 No such user"));
    for number in 0..4 {
        stage.relay.submit("alice@sender.test", &[&format!("r{number}@far.test")], "m").await;
    }
    stage.relay.submit("bert@sender.test", &["r@far.test"], "m").await;
    stage.relay.event("held").times(2).await;
    let notices = stage.home.messages(3).await;
    let to_bert = notices.iter().filter(|notice| notice.to == ["bert@sender.test"]).count();
    assert_eq!(to_bert, 1, "others are told");
    let held = stage.relay.queue().await;
    assert_eq!(held.len(), 2, "{held:?}");
    stage.relay.cli(&["queue", "release", "--all"]).await;
    assert_eq!(stage.home.messages(5).await.len(), 5);
}
