//! Senders hear that their mail waits: once, in time, and never without a mark that they did.

use std::collections::BTreeMap;

use world::{Greeting, Mode, Received, Then};

use crate::home::{Home, field};

/// Recipients that wait in the crash test.
const RECIPIENTS: usize = 60;

/// Notices so far, by what they say happened.
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
    let told = stage.relay.event("notice_queued").with("message_id", &id).await;
    assert_eq!(told.text("action").as_deref(), Some("delayed"));

    // Attempt after attempt, and no second notice.
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
    assert_eq!(stage.relay.event("notice_queued").count(), 0);
    assert_eq!(stage.home.connections(), 0);
}

/// The mark and the notice are one transaction: nobody hears twice, and nobody is forgotten.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_while_delays_are_told_repeats_and_forgets_none() {
    let mut stage = Home::with("delay_notice_after = \"1s\"").await;
    stage.mx.script(|script| script.greeting = Greeting::Close);
    // Home is closed until the killing is over: no notice can be on its way when it happens.
    stage.home.script(|script| script.greeting = Greeting::Reply("421 4.3.2 Closed".to_owned()));
    for number in 0..RECIPIENTS {
        let (from, to) = (format!("s{number}@sender.test"), format!("r{number}@far.test"));
        stage.relay.submit(&from, &[&to], &format!("n{number}")).await;
    }
    for told in [RECIPIENTS / 10, RECIPIENTS / 2] {
        stage.relay.event("notice_queued").times(told).await;
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
