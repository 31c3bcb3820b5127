//! Domains of every script are domains: none goes without its policy or without its mail for the
//! form of a name, and one is the same in U-labels and in A-labels.

use world::{Mode, Mx, RecordType, Relay, World, message};

use crate::harness::PROGRAM;

/// A Hebrew label: IDNA's bidi rule allows neither `_mta-sts` nor a digit in front of one, DNS
/// does.
const RTL: &str = "xn--4dbrk0ce";

/// Mail to `domain` waits because its policy does not list the MX.
async fn is_protected(world: &World, relay: &Relay, evil: &Mx, domain: &str) {
    world.domain(domain).mta_sts(Mode::Enforce, &["mx.good.test"], 86400).mx(&[(10, evil)]);
    let to = format!("u@{domain}");
    relay.submit("a@client.test", &[&to], "x").await;
    let deferred = relay.event("deferred").with("recipient", &to).await;
    assert_eq!(deferred.text("reason").as_deref(), Some("mx_not_listed"), "{domain}");
    assert_eq!(world.domain(domain).policy_requests(), 1, "{domain}");
}

#[tokio::test]
async fn domains_written_from_right_to_left_have_policies() {
    let world = World::start(PROGRAM).await;
    let evil = world.mx("mx.evil.test").await;
    let relay = world.relay("").await;
    let domains = [
        format!("{RTL}.test"),
        "xn--mgbh0fb.xn--kgbechtv".to_owned(),
        format!("1mail.{RTL}.test"),
        format!("_mail.{RTL}.test"),
        // A-labels of no Unicode that anybody knows.
        "xn--zzzzzzzzzz.test".to_owned(),
    ];
    for domain in &domains {
        is_protected(&world, &relay, &evil, domain).await;
    }
    assert_eq!(evil.received().len(), 0);
}

#[tokio::test]
async fn hosts_below_right_to_left_domains_get_mail() {
    let world = World::start(PROGRAM).await;
    let relay = world.relay("").await;
    for (number, label) in ["1mx", "_mx", "mx"].into_iter().enumerate() {
        let host = format!("{label}.{RTL}.test");
        let mx = world.mx(&host).await;
        let domain = format!("1c{number}.{RTL}.test");
        world.domain(&domain).mx(&[(10, &mx)]).mta_sts(Mode::Enforce, &[&host], 86400);
        let to = format!("u@{domain}");
        relay.submit("a@client.test", &[&to], "x").await;
        assert_eq!(mx.message_to(&to).await.to, [to]);
    }
}

#[tokio::test]
async fn a_domain_in_u_labels_is_the_one_in_a_labels() {
    let world = World::start(PROGRAM).await;
    let ascii = "xn--mnchen-3ya.test";
    world.domain(ascii).mx_names(&[(10, "mx.dead.test")]);
    world.dns.a("mx.dead.test", World::dead_address());
    world.dns.set_ttl(600);
    let deny = "[access]\ndeny_recipients = [\"x@m\u{fc}nchen.test\"]\n";
    let relay = world.relay(deny).await;
    let (first, second) = ("a@m\u{fc}nchen.test", "b@xn--mnchen-3ya.test");
    for to in [first, second] {
        let mut client = relay.client().await;
        client.expect("MAIL FROM:<s@client.test> SMTPUTF8", 250).await;
        client.expect(&format!("RCPT TO:<x@{ascii}>"), 550).await;
        client.expect("RCPT TO:<x@M\u{dc}nchen.test>", 550).await;
        client.expect(&format!("RCPT TO:<{to}>"), 250).await;
        client.expect("DATA", 354).await;
        client.send(&message("s@client.test", "u@x.test", "x")).await.unwrap();
        client.expect(".", 250).await;
        // The second waits behind the first: one domain is one lane.
        relay.event("deferred").with("recipient", first).await;
    }
    assert_eq!(world.dns.asked(&format!("_mta-sts.{ascii}"), RecordType::TXT), 1, "one cache");
    for name in [ascii, "m\u{fc}nchen.test"] {
        let listed = relay.cli_json(&["queue", "list", "--domain", name]).await;
        let found: Vec<_> = listed.iter().map(|row| row["recipient"].as_str().unwrap()).collect();
        assert_eq!(found, [first, second], "{name}");
        assert!(listed.iter().all(|row| row["domain"] == ascii), "{listed:?}");
        let told = relay.cli(&["explain", &format!("u@{name}")]).await;
        assert!(String::from_utf8(told.stdout).unwrap().contains(ascii), "{name}");
    }
    assert!(
        relay.cli(&["queue", "delete", "--domain", "m\u{fc}nchen.test"]).await.status.success()
    );
    assert!(relay.queue().await.is_empty());
}
