//! REQUIRETLS (RFC 8689), row by row: what a sender asks for holds on the whole way, also on the
//! way back.

use world::{Client, Greeting, Leaf, Mode, Mx, Relay, Starttls, Trust, World, message};

use crate::harness::PROGRAM;
use crate::home::field;

/// Both domains have a policy in force; the relay asks its clients for TLS and offers REQUIRETLS.
struct Stage {
    world: World,
    relay: Relay,
    /// For `far.test`.
    mx: Mx,
    /// For `sender.test`.
    home: Mx,
}

impl Stage {
    async fn start() -> Self {
        let world = World::start(PROGRAM).await;
        let mx = world.mx("mx.far.test").await;
        let home = world.mx("mx.sender.test").await;
        for (domain, host) in [("far.test", &mx), ("sender.test", &home)] {
            host.script(|script| script.offer_in_tls(&["REQUIRETLS"]));
            let domain = world.domain(domain);
            domain.mx(&[(10, host)]).mta_sts(Mode::Enforce, &[host.host()], 86_400);
        }
        let files = world.key_files("relay.test");
        let listener = "[[listener]]\naddress = \"127.0.0.1:0\"\nrequire_tls = true\n";
        let overlay = format!(
            "{listener}{}[delivery]\nretry = [\"1s\"]\nconnection_idle = \"0s\"\n",
            files.toml()
        );
        let relay = world.relay(&overlay).await;
        Self { world, relay, mx, home }
    }

    async fn client(&self) -> Client {
        let client = self.relay.client().await;
        client.starttls(&Trust::in_ca(&self.world.pki), "relay.test").await.unwrap()
    }

    /// Submits a message with these parameters of MAIL.
    async fn submit(&self, parameters: &str, to: &str) {
        let mut client = self.client().await;
        client.expect(&format!("MAIL FROM:<alice@sender.test>{parameters}"), 250).await;
        client.expect(&format!("RCPT TO:<{to}>"), 250).await;
        client.expect("DATA", 354).await;
        client.send(&message("alice@sender.test", to, "secret")).await.unwrap();
        client.expect(".", 250).await;
    }

    /// What became of a message with REQUIRETLS that nobody may get: the DSN's text.
    async fn returned(&self, to: &str) -> String {
        self.submit(" REQUIRETLS", to).await;
        let notice = self.home.message().await;
        assert!(notice.parameters.contains("REQUIRETLS"), "{notice:?}");
        notice.text()
    }
}

#[tokio::test]
async fn rtls_02_the_keyword_has_no_value() {
    let stage = Stage::start().await;
    let mut client = stage.client().await;
    client.expect("MAIL FROM:<a@sender.test> REQUIRETLS=yes", 501).await;
    client.expect("MAIL FROM:<a@sender.test> REQUIRETLS=", 501).await;
    client.expect("MAIL FROM:<a@sender.test> requiretls", 250).await;
}

#[tokio::test]
async fn rtls_03_what_is_not_offered_is_refused_and_never_ignored() {
    let stage = Stage::start().await;
    let mut clear = stage.relay.client().await;
    clear.expect("MAIL FROM:<a@sender.test> REQUIRETLS", 555).await;
    clear.expect("MAIL FROM:<a@sender.test>", 250).await;
}

/// RTLS-04, RTLS-13: the demand survives a kill, and goes on with the message.
#[tokio::test]
async fn rtls_04_the_demand_is_stored_with_the_message() {
    let mut stage = Stage::start().await;
    stage.mx.script(|script| script.greeting = Greeting::Close);
    stage.submit(" REQUIRETLS", "bob@far.test").await;
    stage.relay.event("deferred").await;
    stage.relay.kill9().await;
    stage.relay.start_again().await;
    stage.mx.script(|script| script.greeting = Greeting::Good);
    let message = stage.mx.message().await;
    assert!(message.parameters.contains("REQUIRETLS"), "{message:?}");
    assert!(message.tls.is_some());
}

/// RFC 8689 §4.2.1, step by step; RTLS-13: a relay does not drop the keyword.
#[tokio::test]
async fn rtls_05_host_certificate_and_keyword_are_all_needed() {
    let stage = Stage::start().await;
    stage.submit(" REQUIRETLS", "bob@far.test").await;
    let message = stage.mx.message().await;
    assert!(message.parameters.contains("REQUIRETLS") && message.tls.is_some(), "{message:?}");
    // Mail that does not ask for it goes without, over the same connection or not.
    stage.submit("", "carol@far.test").await;
    let other = stage.mx.message_to("carol@far.test").await;
    assert!(!other.parameters.contains("REQUIRETLS"), "{other:?}");
    assert!(stage.home.received().is_empty());
}

/// What was offered in clear anybody could have written.
#[tokio::test]
async fn rtls_05_the_keyword_counts_under_tls_only() {
    let stage = Stage::start().await;
    stage.mx.script(|script| {
        script.keywords_in_tls = Some(script.keywords.clone());
        script.keywords.push("REQUIRETLS".to_owned());
    });
    let text = stage.returned("bob@far.test").await;
    assert_eq!(field(&text, "Status"), ["5.7.30"], "{text}");
    assert!(stage.mx.received().is_empty());
}

/// Nobody vouches for the host: its certificate proves nothing, also where its name is below the
/// domain.
#[tokio::test]
async fn rtls_05_a_host_without_a_policy_is_not_authenticated() {
    let stage = Stage::start().await;
    let below = stage.world.mx("mx.plain.test").await;
    below.script(|script| script.offer_in_tls(&["REQUIRETLS"]));
    stage.world.domain("plain.test").mx(&[(10, &below)]);
    let text = stage.returned("bob@plain.test").await;
    assert_eq!(field(&text, "Status"), ["5.7.10"], "{text}");
    assert_eq!(below.connections(), 0);
}

#[tokio::test]
async fn rtls_05_a_host_without_tls_or_with_a_bad_certificate_is_not_authenticated() {
    let stage = Stage::start().await;
    let wrong = stage.world.pki.issue(&Leaf::named("other.test"));
    stage.mx.script(|script| script.identity = wrong);
    let text = stage.returned("bob@far.test").await;
    assert_eq!(field(&text, "Status"), ["5.7.10"], "{text}");

    let clear = stage.world.mx("mx.clear.test").await;
    clear.script(|script| script.starttls = Starttls::Absent);
    let domain = stage.world.domain("clear.test");
    domain.mx(&[(10, &clear)]).mta_sts(Mode::Enforce, &["mx.clear.test"], 86_400);
    stage.submit(" REQUIRETLS", "bob@clear.test").await;
    let text = stage.home.messages(2).await[1].text();
    assert_eq!(field(&text, "Status"), ["5.7.10"], "{text}");
    assert!(clear.received().is_empty() && stage.mx.received().is_empty());
}

#[tokio::test]
async fn rtls_06_a_policy_in_testing_vouches_for_nobody() {
    let stage = Stage::start().await;
    let mx = stage.world.mx("mx.trial.test").await;
    mx.script(|script| script.offer_in_tls(&["REQUIRETLS"]));
    let domain = stage.world.domain("trial.test");
    domain.mx(&[(10, &mx)]).mta_sts(Mode::Testing, &["mx.trial.test"], 86_400);
    let text = stage.returned("bob@trial.test").await;
    assert_eq!(field(&text, "Status"), ["5.7.10"], "{text}");
    assert!(mx.received().is_empty());
}

#[tokio::test]
async fn rtls_07_another_host_that_will_do_is_found_first() {
    let stage = Stage::start().await;
    let second = stage.world.mx("mx2.far.test").await;
    second.script(|script| script.offer_in_tls(&["REQUIRETLS"]));
    stage.mx.script(|script| script.keywords_in_tls = None);
    let domain = stage.world.domain("far.test");
    domain.mx(&[(10, &stage.mx), (20, &second)]);
    domain.mta_sts(Mode::Enforce, &["*.far.test"], 86_400);
    stage.submit(" REQUIRETLS", "bob@far.test").await;
    assert!(second.message().await.parameters.contains("REQUIRETLS"));
    assert!(stage.mx.received().is_empty() && stage.home.received().is_empty());
}

/// Impossible everywhere: back at once, with one attempt. Trouble that may pass: as with other
/// mail.
#[tokio::test]
async fn rtls_07_impossible_is_returned_at_once_and_trouble_waits() {
    let stage = Stage::start().await;
    stage.mx.script(|script| script.keywords_in_tls = None);
    let text = stage.returned("bob@far.test").await;
    assert_eq!((field(&text, "Action"), field(&text, "Status")), (vec!["failed"], vec!["5.7.30"]));
    assert_eq!(field(&text, "Remote-MTA"), ["dns; mx.far.test"]);
    let bounced = stage.relay.event("bounced").with("recipient", "bob@far.test").await;
    assert_eq!(bounced.text("reason").as_deref(), Some("require_tls_unsupported"));
    assert_eq!(stage.relay.event("deferred").count(), 0);

    stage.mx.script(|script| script.greeting = Greeting::Close);
    stage.submit(" REQUIRETLS", "carol@far.test").await;
    stage.relay.event("deferred").with("recipient", "carol@far.test").times(2).await;
    assert_eq!(stage.relay.event("bounced").count(), 1);
}

/// That mail goes to a host which the policy does not list only DNS says. Whoever forges that gets
/// nothing back, wherever their host stands among others.
#[tokio::test]
async fn rtls_07_an_mx_that_the_policy_does_not_list_proves_nothing() {
    let stage = Stage::start().await;
    let evil = stage.world.mx("mx.evil.test").await;
    stage.mx.script(|script| script.keywords_in_tls = None);
    let sets = [
        ("alone", vec![(10, &evil)], "mx_not_listed"),
        ("first", vec![(10, &evil), (20, &stage.mx)], "require_tls_unsupported"),
        ("last", vec![(10, &stage.mx), (20, &evil)], "require_tls_unsupported"),
    ];
    for (local, mx, reason) in sets {
        stage.world.domain("far.test").mx(&mx);
        let recipient = format!("{local}@far.test");
        stage.submit(" REQUIRETLS", &recipient).await;
        let deferred = stage.relay.event("deferred").with("recipient", &recipient);
        let deferred = deferred.with("attempts", "1").await;
        assert_eq!(deferred.text("reason").as_deref(), Some(reason), "{local}");
    }
    assert_eq!((stage.relay.event("bounced").count(), evil.connections()), (0, 0));
    // The listed host alone may say so.
    stage.world.domain("far.test").mx(&[(10, &stage.mx)]);
    assert_eq!(field(&stage.returned("all@far.test").await, "Status"), ["5.7.30"]);
}

/// Other mail for the domain goes on meanwhile: it waits for nothing that it did not ask for.
#[tokio::test]
async fn rtls_07_mail_that_asks_for_less_does_not_wait_behind_it() {
    let stage = Stage::start().await;
    // One host lacks the keyword, the other is down: mail with REQUIRETLS waits.
    stage.mx.script(|script| script.keywords_in_tls = None);
    let down = stage.world.mx("mx2.far.test").await;
    down.script(|script| script.greeting = Greeting::Close);
    let domain = stage.world.domain("far.test");
    domain.mx(&[(10, &stage.mx), (20, &down)]);
    domain.mta_sts(Mode::Enforce, &["*.far.test"], 86_400);
    stage.submit(" REQUIRETLS", "bob@far.test").await;
    stage.relay.event("deferred").with("recipient", "bob@far.test").await;
    stage.submit("", "carol@far.test").await;
    assert_eq!(stage.mx.message().await.to, ["carol@far.test"]);
}

/// RFC 8689 §5: also with RET=FULL nothing of the body goes back, and nothing at all over less than
/// was asked for.
#[tokio::test]
async fn rtls_08_what_was_not_to_be_read_does_not_come_back() {
    let stage = Stage::start().await;
    stage.mx.script(|script| script.keywords_in_tls = None);
    let text = stage.returned("bob@far.test").await;
    assert!(text.contains("Content-Type: text/rfc822-headers"), "{text}");
    assert!(text.contains("Message-ID: <secret@client.test>"), "{text}");
    assert!(!text.contains("\r\nsecret\r\n"), "the body: {text}");

    // The way back is not good enough: the DSN is dropped.
    stage.home.script(|script| script.keywords_in_tls = None);
    stage.submit(" REQUIRETLS", "carol@far.test").await;
    stage.relay.event("dsn_undeliverable").await;
    assert_eq!(stage.home.received().len(), 1);
    assert!(stage.relay.queue().await.is_empty());
}

#[tokio::test]
async fn explain_says_beforehand_what_will_become_of_it() {
    let stage = Stage::start().await;
    let explain = async |address: &str, more: &[&str]| {
        let arguments: Vec<&str> =
            ["explain", address, "--connect", "--json"].iter().chain(more).copied().collect();
        let output = stage.relay.cli(&arguments).await;
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        (answer["verdict"].as_str().unwrap().to_owned(), answer["reason"].clone())
    };
    let asked = &["--require-tls"][..];
    assert_eq!(explain("bob@far.test", asked).await.0, "verified");
    stage.mx.script(|script| script.keywords_in_tls = None);
    assert_eq!(explain("bob@far.test", &[]).await.0, "verified");
    let (verdict, reason) = explain("bob@far.test", asked).await;
    assert_eq!((verdict.as_str(), reason.as_str()), ("reject", Some("require_tls_unsupported")));
}
