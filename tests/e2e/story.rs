//! `grep MESSAGE_ID` in the log tells when a message came, what was tried, why it waits and until
//! when, and what became of it.

use std::net::Ipv4Addr;

use serde_json::Value;
use world::{Answer, Leaf, LogReading, Mode, Mx, Relay, Rule, Starttls, Then, World};

use crate::harness::PROGRAM;

/// A way that a recipient can go: what the log says of it, in this order; more may follow.
struct Way {
    to: &'static str,
    want: &'static [&'static str],
    /// The reason of the last of them.
    reason: Option<&'static str>,
}

const fn way(to: &'static str, want: &'static [&'static str], reason: Option<&'static str>) -> Way {
    Way { to, want, reason }
}

const WAYS: [Way; 21] = [
    way("b@good.test", &["accepted", "delivered"], None),
    way("b@grey.test", &["accepted", "deferred", "delivered"], None),
    way("b@refusing.test", &["accepted", "bounced", "dsn_queued"], None),
    way("never@refusing.test", &["accepted", "bounced"], Some("remote_5xx")),
    way("b@unlisted.test", &["accepted", "mx_refused", "deferred"], Some("mx_not_listed")),
    way("b@testing.test", &["accepted", "policy_waived", "delivered"], None),
    way("b@clear.test", &["accepted", "mx_refused", "deferred"], Some("tls_handshake_failed")),
    way("b@down.test", &["accepted", "mx_refused", "deferred"], Some("connect_failed")),
    way("late@down.test", &["accepted", "deferred"], Some("connect_failed")),
    way("b@two.test", &["accepted", "mx_refused", "delivered"], None),
    way("b@nowhere.test", &["accepted", "bounced", "dsn_queued"], None),
    way("b@null.test", &["accepted", "bounced", "dsn_queued"], None),
    way("b@small.test", &["accepted", "mx_refused", "bounced", "dsn_queued"], None),
    way("b@sevenbit.test", &["accepted", "converted", "delivered"], None),
    way("root@localhost", &["accepted", "delivered"], None),
    way("b@badcert.test", &["accepted", "mx_refused", "deferred"], Some("certificate_untrusted")),
    way("b@nodns.test", &["accepted", "deferred"], Some("dns_failure")),
    way("b@private.test", &["accepted", "mx_refused", "bounced", "dsn_queued"], None),
    way("b@nopolicy.test", &["accepted", "deferred"], Some("policy_fetch_failed")),
    way("b@strict.test", &["accepted", "mx_refused", "deferred"], Some("starttls_not_offered")),
    way("b@silent.test", &["accepted", "outcome_unknown", "deferred"], Some("connection_lost")),
];

async fn hosts(world: &World) -> Vec<Mx> {
    let mut all = Vec::new();
    for (domain, script) in [
        ("good.test", None),
        ("grey.test", Some(("RCPT", Then::reply("450 4.7.1 Greylisted")))),
        ("refusing.test", Some(("RCPT", Then::reply("550 5.1.1 Nobody")))),
        ("unlisted.test", None),
        ("testing.test", None),
        ("clear.test", None),
        ("small.test", None),
        ("sevenbit.test", None),
        ("silent.test", Some((".", Then::Close))),
        ("badcert.test", None),
        ("strict.test", None),
        ("nopolicy.test", None),
        ("client.test", None),
    ] {
        let mx = world.mx(&format!("mx.{domain}")).await;
        world.domain(domain).mx(&[(10, &mx)]);
        match (domain, script) {
            ("grey.test", Some((verb, then))) => {
                mx.script(|script| script.rules.push(Rule::times(1, verb, then)));
            }
            (_, Some((verb, then))) => mx.on(verb, then),
            ("clear.test", None) => mx.script(|script| script.starttls = Starttls::Abort),
            ("small.test", None) => mx.script(|script| script.keywords = vec!["SIZE 10".into()]),
            ("sevenbit.test", None) => mx.script(|script| script.keywords = Vec::new()),
            ("badcert.test", None) => mx.script(|script| {
                script.identity = world.pki.issue(&Leaf::named("mx.badcert.test").self_signed());
            }),
            ("strict.test", None) => mx.script(|script| script.starttls = Starttls::Absent),
            (_, None) => {}
        }
        all.push(mx);
    }
    for (domain, mode) in [("unlisted.test", Mode::Enforce), ("testing.test", Mode::Testing)] {
        world.domain(domain).mta_sts(mode, &["other.test"], 86400);
    }
    for domain in ["badcert.test", "strict.test"] {
        let mx = format!("mx.{domain}");
        world.domain(domain).mta_sts(Mode::Enforce, &[mx.as_str()], 86400);
    }
    world.domain("nopolicy.test").record("v=STSv1; id=1;").policy_host_down();
    world.domain("nodns.test").mx_answer(Answer::ServFail);
    world.dns.a("inside.test", Ipv4Addr::new(10, 0, 0, 1));
    world.domain("private.test").mx_names(&[(10, "inside.test")]);
    world.dns.a("dead.test", World::dead_address());
    world.domain("down.test").mx_names(&[(10, "dead.test")]);
    world.domain("two.test").mx_names(&[(10, "dead.test"), (20, "mx.good.test")]);
    world.domain("null.test").null_mx();
    all
}

/// What the log says of a message, from the beginning.
fn story(relay: &Relay, id: &str) -> Vec<Value> {
    let lines = relay.lines_since(world::Mark::START, id);
    lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn names(story: &[Value]) -> Vec<&str> {
    story.iter().map(|line| line["event"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn the_id_of_a_message_finds_all_that_happened_to_it() {
    let world = World::start(PROGRAM).await;
    let _hosts = hosts(&world).await;
    let relay = world
        .relay("[delivery]\nretry = [\"1s\", \"1h\"]\n[aliases]\nroot = \"admin@good.test\"\n")
        .await;
    for Way { to, want, reason } in WAYS {
        let mut client = relay.client().await;
        client.expect("MAIL FROM:<a@client.test> BODY=8BITMIME", 250).await;
        let notify = if to.starts_with("never") { " NOTIFY=NEVER" } else { "" };
        client.expect(&format!("RCPT TO:<{to}>{notify}"), 250).await;
        client.expect("DATA", 354).await;
        let content =
            format!("Message-ID: <1@{to}>\r\nFrom: a@client.test\r\n\r\ngr\u{fc}n\r\n.\r\n");
        client.send(content.as_bytes()).await.unwrap();
        let reply = client.reply().await.unwrap();
        let id = reply.text().rsplit(' ').next().unwrap().to_owned();
        let last = want.last().unwrap();
        relay.event(last).with("message_id", &id).await;

        let told = story(&relay, &id);
        assert_eq!(names(&told)[..want.len()], *want, "{to}: {told:#?}");
        let (first, end) = (&told[0], &told[want.len() - 1]);
        assert_eq!(first["header_message_id"], format!("<1@{to}>"));
        for field in
            ["sender", "recipient", "next_hop", "size", "client", "client_port", "protocol"]
        {
            assert!(!first[field].is_null(), "{field}: {first}");
        }
        if let Some(reason) = reason {
            assert_eq!(end["reason"], *reason, "{to}");
        }
        for line in &told {
            let until = &line["next_attempt_at"];
            assert_eq!(until.is_string(), line["event"] == "deferred", "{line}");
            if matches!(line["event"].as_str(), Some("delivered" | "deferred" | "bounced")) {
                assert_eq!(line["sender"], "a@client.test");
                assert!(line["age_seconds"].is_number() && line["attempts"].is_number(), "{line}");
            }
        }
    }
    let aliased = relay.event("delivered").with("recipient", "admin@good.test").await;
    assert_eq!(aliased.text("original_recipient").as_deref(), Some("root@localhost"));
    // What waits behind others names its next hop, whose lines say why.
    let hop = relay.event("deferred").with("recipient", "late@down.test").await;
    assert_eq!(hop.text("attempts").as_deref(), Some("0"));
    relay.event("lane_deferred").with("next_hop", hop.text("next_hop").unwrap()).await;
}

#[tokio::test]
async fn what_an_operator_does_to_a_message_is_in_its_story_with_the_uid() {
    let world = World::start(PROGRAM).await;
    let mx = world.mx("mx.far.test").await;
    world.domain("far.test").mx(&[(10, &mx)]);
    world.domain("client.test").mx(&[(10, &mx)]);
    let relay = world.relay("").await;
    relay.cli_json(&["pause"]).await;
    let uid = rustix::process::getuid().as_raw();
    let mut ids = Vec::new();
    for subject in ["deleted", "returned", "released"] {
        ids.push(relay.submit("a@client.test", &["b@far.test"], subject).await);
    }
    for (verb, id) in [
        ("hold", &ids[0]),
        ("delete", &ids[0]),
        ("bounce", &ids[1]),
        ("hold", &ids[2]),
        ("release", &ids[2]),
    ] {
        relay.cli_json(&["queue", verb, id]).await;
        let order = relay.event("queue_order").with("order", verb).with("selection", id).await;
        assert_eq!(order.get("uid"), Some(&uid.into()));
        assert_eq!(order.get("recipients"), Some(&1.into()));
    }
    relay.cli_json(&["resume"]).await;
    relay.event("delivered").with("message_id", &ids[2]).await;
    for (id, want) in ids.iter().zip([
        &["accepted", "held", "queue_order", "deleted", "queue_order"][..],
        &["accepted", "bounced", "dsn_queued", "queue_order"],
        &["accepted", "held", "queue_order", "released", "queue_order", "delivered"],
    ]) {
        let told = story(&relay, id);
        assert_eq!(names(&told), want, "{told:#?}");
        for line in told.iter().filter(|line| !line["uid"].is_null()) {
            assert_eq!(line["uid"], uid, "{line}");
        }
        for line in told.iter().filter(|line| line["event"] == "deleted") {
            assert_eq!(
                (&line["sender"], &line["recipient"]),
                (&"a@client.test".into(), &"b@far.test".into())
            );
        }
    }
}

#[tokio::test]
async fn the_first_and_the_last_line_of_a_daemon_say_which_one_it_was() {
    let world = World::start(PROGRAM).await;
    let mut relay = world.relay("").await;
    let ready = relay.event("ready").await;
    assert_eq!(ready.text("version").as_deref(), Some(env!("CARGO_PKG_VERSION")));
    assert_eq!(ready.text("data_dir"), Some(relay.data_dir().display().to_string()));
    assert_eq!(ready.text("files"), Some(relay.config_file().display().to_string()));
    assert!(relay.stop().await.success());
    let stopped = relay.event("stopped").await;
    assert_eq!(
        (stopped.text("unfinished"), stopped.text("queued_messages")),
        (Some("0".into()), Some("0".into()))
    );
    let order = relay.lines_since(world::Mark::START, "\"event\"");
    assert!(order.last().unwrap().contains("\"stopped\""), "{order:?}");
}

#[tokio::test]
async fn debug_shows_the_dialogue_with_hosts_without_passwords_and_content() {
    let world = World::start(PROGRAM).await;
    let mx = world.mx("mx.far.test").await;
    world.domain("far.test").mx(&[(10, &mx)]).mta_sts(Mode::Enforce, &["mx.far.test"], 86400);
    let smart = world.mx("smart.test").await;
    smart.script(|script| script.offer_in_tls(&["AUTH PLAIN"]));
    smart.on("AUTH", Then::reply("235 2.7.0 Hello"));
    let password = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(password.path(), "open sesame\n").unwrap();
    let route = format!(
        "[log]\nlevel = \"debug\"\n[[route]]\ndomains = [\"routed.test\"]\n\
         via = [\"smtp://[smart.test]:{}\"]\ntls = \"verify\"\nusername = \"me\"\npassword_file = {:?}\n",
        world.mx_port(),
        password.path()
    );
    let relay = world.relay(&route).await;
    for to in ["b@far.test", "b@routed.test"] {
        relay.submit("a@client.test", &[to], "the content").await;
        relay.event("delivered").with("recipient", to).await;
    }
    let said = |event: &str, mx: &str, text: &str| {
        let all = relay.event(event).with("mx", mx).all();
        let is_it = |event: &world::Event| event.text("message").unwrap().starts_with(text);
        assert!(all.iter().any(is_it), "{event} {mx} {text}: {all:#?}");
    };
    for text in
        ["EHLO ", "STARTTLS", "MAIL FROM:<a@client.test>", "RCPT TO:<b@far.test>", "(content)"]
    {
        said("smtp_sent", "mx.far.test", text);
    }
    said("smtp_received", "mx.far.test", "220 ");
    said("smtp_sent", "smart.test", "(a message of AUTH)");
    said("smtp_received", "smart.test", "235 2.7.0 Hello");
    let answers = relay.event("dns_answer").with("domain", "far.test").with("query", "MX").all();
    assert!(answers[0].text("message").unwrap().contains("mx.far.test"), "{answers:?}");
    let looked = relay.event("policy_looked_up").with("domain", "far.test").await;
    assert!(looked.text("message").unwrap().contains("mode enforce"), "{looked:?}");
    let secret = "bWU"; // of "\0me\0open sesame" in base64
    for word in ["the content", "sesame", secret] {
        assert_eq!(relay.lines_since(world::Mark::START, word), Vec::<String>::new());
    }
}

#[tokio::test]
async fn a_log_that_is_not_read_stops_no_mail_and_is_whole_when_it_is_read_again() {
    let world = World::start(PROGRAM).await;
    let mx = world.mx("mx.far.test").await;
    world.domain("far.test").mx(&[(10, &mx)]);
    let mut relay = world.relay("").await;
    relay.read_log(LogReading::Off);
    // Two lines each, of some 500 bytes; a pipe holds 64 KiB.
    let count = 200;
    for number in 0..count {
        relay.submit("a@client.test", &["b@far.test"], &number.to_string()).await;
    }
    let health = relay.cli(&["healthcheck"]).await;
    assert!(health.status.success(), "{health:?}");
    mx.messages(count).await;
    relay.read_log(LogReading::On);
    for event in ["accepted", "delivered"] {
        assert_eq!(relay.event(event).times(count).await.len(), count);
    }
    assert_eq!(relay.event("log_lines_lost").count(), 0);

    relay.read_log(LogReading::Off);
    for number in 0..count {
        relay.submit("a@client.test", &["b@far.test"], &number.to_string()).await;
    }
    // It ends all the same.
    assert!(relay.stop().await.success());
}

#[tokio::test]
async fn debug_is_for_one_name_and_ends_by_itself() {
    let world = World::start(PROGRAM).await;
    let mut hosts = Vec::new();
    for domain in ["far.test", "other.test"] {
        let mx = world.mx(&format!("mx.{domain}")).await;
        world.domain(domain).mx(&[(10, &mx)]);
        hosts.push(mx);
    }
    let relay = world.relay("").await;
    let deliver = async |to: &str| {
        let mark = relay.mark();
        relay.submit("a@client.test", &[to], "hello").await;
        relay.event("delivered").with("recipient", to).after(mark).await;
        mark
    };
    let said = |mark, field: &str, value: &str| {
        relay.event("smtp_sent").with(field, value).after(mark).count()
    };
    let before = deliver("b@far.test").await;
    assert_eq!(said(before, "mx", "mx.far.test"), 0);

    let uid = rustix::process::getuid().as_raw();
    let order = relay.cli_json(&["debug", "Far.test", "--for", "5m"]).await;
    assert_eq!(order[0]["name"], "far.test");
    assert_eq!(order[0]["hosts"], serde_json::json!(["mx.far.test"]));
    let told = relay.event("debugging").with("name", "far.test").await;
    assert_eq!(told.get("uid"), Some(&uid.into()));
    let during = deliver("b@far.test").await;
    deliver("b@other.test").await;
    assert!(said(during, "mx", "mx.far.test") > 1);
    assert_eq!(said(during, "mx", "mx.other.test"), 0);
    assert_eq!(said(during, "client", "127.0.0.1"), 0);

    relay.cli_json(&["debug", "127.0.0.1"]).await;
    let client = deliver("b@other.test").await;
    assert!(said(client, "client", "127.0.0.1") > 3);
    assert_eq!(said(client, "mx", "mx.other.test"), 0);

    relay.cli_json(&["debug", "far.test", "--for", "0s"]).await;
    let after = deliver("b@far.test").await;
    assert_eq!(said(after, "mx", "mx.far.test"), 0);
    relay.cli_json(&["debug", "127.0.0.1", "--for", "1s"]).await;
    let end = relay.event("debug_ended").with("name", "127.0.0.1").await;
    assert_eq!(end.get("uid"), None);
    let over = deliver("b@far.test").await;
    assert_eq!(said(over, "client", "127.0.0.1"), 0);

    for wrong in [&["debug", "far.test", "--for", "0s"][..], &["debug", "far.test", "--for", "2d"]]
    {
        assert!(!relay.cli(wrong).await.status.success(), "{wrong:?}");
    }
}
