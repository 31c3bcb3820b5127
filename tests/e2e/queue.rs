//! Mail in the queue gets where it should, waits or comes back, and one message's or host's trouble
//! is not another's.

use std::collections::BTreeMap;

use world::{Mx, Relay, Rule, Starttls, Then, World};

use crate::harness::PROGRAM;

/// Recipients of one message that all become too old at once; more than one transaction takes.
const MANY: usize = 120;

/// Two routes to one server, of which only the first asks for TLS.
#[tokio::test]
async fn a_route_that_asks_for_less_does_not_take_the_mail_of_one_that_asks_for_more() {
    let world = World::start(PROGRAM).await;
    let smart = world.mx("smart.test").await;
    smart.script(|script| script.starttls = Starttls::Absent);
    let port = world.mx_port();
    let route = |domain: &str, tls: &str| {
        format!(
            "[[route]]\ndomains = [\"{domain}\"]\nvia = [\"smtp://[smart.test]:{port}\"]\ntls = \"{tls}\"\n"
        )
    };
    let overlay = route("strict.test", "encrypt") + &route("lax.test", "opportunistic");
    let relay = world.relay(&overlay).await;
    relay.submit("a@client.test", &["b@lax.test", "b@strict.test"], "both").await;

    assert_eq!(smart.message().await.to, ["b@lax.test"]);
    let deferred = relay.event("deferred").with("recipient", "b@strict.test").await;
    assert_eq!(deferred.text("reason").as_deref(), Some("starttls_not_offered"));
    assert_eq!(smart.received().len(), 1);
}

/// RFC 3464 §2.2.2: where there is no name, a domain literal does.
#[tokio::test]
async fn a_next_hop_without_a_name_is_named_by_its_address_in_queue_and_notice() {
    let world = World::start(PROGRAM).await;
    let smart = world.mx("smart.test").await;
    smart.on("RCPT TO:<late@", Then::reply("451 4.2.0 Later"));
    smart.on("RCPT TO:<never@", Then::reply("550 5.1.1 Nobody"));
    let route = format!(
        "[[route]]\ndomains = [\"*\"]\nvia = [\"smtp://[{}]:{}\"]\ntls = \"opportunistic\"\n",
        smart.ip(),
        world.mx_port()
    );
    let relay = world.relay(&route).await;
    let host = format!("[{}]", smart.ip());
    relay.submit("a@client.test", &["late@far.test"], "waits").await;
    relay.event("deferred").with("recipient", "late@far.test").with("mx", &host).await;
    assert_eq!(relay.queued("late@far.test").await.unwrap()["last"]["mx"], host.as_str());
    let summary = &relay.cli_json(&["queue", "summary", "--by", "host"]).await[0];
    assert_eq!(summary["groups"], serde_json::json!([{ "host": host, "recipients": 1 }]));
    relay.submit("a@client.test", &["never@far.test"], "returned").await;
    let notice = smart.message_to("a@client.test").await.text();
    assert!(notice.contains(&format!("\nRemote-MTA: dns; {host}\r\n")), "{notice}");
}

/// A typing error in the configuration, or a forged answer about the smarthost, is no reason to
/// send everybody's mail back.
#[tokio::test]
async fn a_route_that_leads_nowhere_returns_no_mail() {
    let world = World::start(PROGRAM).await;
    let route = |domain: &str, via: &str| {
        format!("[[route]]\ndomains = [\"{domain}\"]\nvia = [\"smtp://{via}\"]\n")
    };
    world.domain("null.test").null_mx();
    let overlay = route("a.test", "[nowhere.test]:25")
        + &route("b.test", "nowhere.test:25")
        + &route("c.test", "null.test:25");
    let relay = world.relay(&overlay).await;
    for recipient in ["x@a.test", "x@b.test", "x@c.test"] {
        relay.submit("a@client.test", &[recipient], recipient).await;
        let deferred = relay.event("deferred").with("recipient", recipient).await;
        assert_eq!(deferred.text("reason").as_deref(), Some("no_mail_host"), "{recipient}");
    }
    assert_eq!(relay.event("bounced").count(), 0);
}

/// What a host takes it says after it has proved who it is, so a live policy contradicts nothing.
#[tokio::test]
async fn a_message_too_large_for_a_host_with_a_policy_comes_back_at_once() {
    let world = World::start(PROGRAM).await;
    let mx = world.mx("mx.far.test").await;
    mx.script(|script| script.keywords = vec!["SIZE 10".to_owned()]);
    world.domain("far.test").mx(&[(10, &mx)]).mta_sts(
        world::Mode::Enforce,
        &["mx.far.test"],
        86400,
    );
    let relay = world.relay("").await;
    relay.submit("", &["b@far.test"], "more than ten octets").await;
    let bounced = relay.event("bounced").with("recipient", "b@far.test").await;
    assert_eq!(bounced.text("reason").as_deref(), Some("size_exceeded"));
}

/// The second attempt of one message went in clear. The next message has its own first attempt.
#[tokio::test]
async fn a_session_in_clear_after_tls_failed_serves_one_message_only() {
    let world = World::start(PROGRAM).await;
    let mx = world.mx("mx.old.test").await;
    mx.script(|script| script.starttls = Starttls::Abort);
    world.domain("old.test").mx(&[(10, &mx)]);
    let relay = world.relay("[delivery]\nretry = [\"1s\"]\nconnection_idle = \"20s\"\n").await;
    for recipient in ["first@old.test", "second@old.test"] {
        relay.submit("a@client.test", &[recipient], recipient).await;
        let deferred = relay.event("deferred").with("recipient", recipient).await;
        assert_eq!(deferred.text("reason").as_deref(), Some("tls_handshake_failed"));
        assert!(mx.message_to(recipient).await.tls.is_none());
        relay.event("delivered").with("recipient", recipient).await;
    }
}

#[tokio::test]
async fn a_kept_connection_that_the_peer_just_closed_is_replaced() {
    let world = World::start(PROGRAM).await;
    let mx = world.mx("mx.far.test").await;
    world.domain("far.test").mx(&[(10, &mx)]);
    let relay = world.relay("[delivery]\nconnection_idle = \"20s\"\n").await;
    relay.submit("a@client.test", &["first@far.test"], "first").await;
    relay.event("delivered").with("recipient", "first@far.test").await;
    mx.script(|script| script.rules.push(Rule::times(1, "MAIL", Then::Close)));
    relay.submit("a@client.test", &["second@far.test"], "second").await;
    relay.event("delivered").with("recipient", "second@far.test").await;
    assert_eq!(relay.event("deferred").count(), 0);
    assert_eq!(mx.connections(), 2);
}

/// Exit code, stdout and stderr of a command.
async fn said(relay: &Relay, arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = relay.cli(arguments).await;
    let text = |octets| String::from_utf8(octets).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[tokio::test]
async fn a_message_is_named_by_the_beginning_of_its_id_if_no_other_begins_so() {
    let world = World::start(PROGRAM).await;
    let relay = world.relay("").await;
    relay.cli_json(&["pause"]).await;
    // Two that came within the same second, but for when they are on both sides of its end.
    let (first, second) = loop {
        let first = relay.submit("a@client.test", &["b@far.test"], "one").await;
        let second = relay.submit("a@client.test", &["c@far.test"], "two").await;
        if first.get(..8) == second.get(..8) {
            break (first, second);
        }
        relay.cli_json(&["queue", "delete", "--all"]).await;
    };
    let same = first.bytes().zip(second.bytes()).take_while(|(one, other)| one == other).count();
    let own = first.get(..=same).unwrap();
    let shown = &relay.cli_json(&["queue", "show", &own.to_uppercase()]).await[0];
    assert_eq!(shown["id"], first.as_str());
    assert!(relay.cli(&["queue", "show", own, "--body"]).await.status.success());

    let prefix = first.get(..8).unwrap();
    let want = format!("\"{prefix}\" begins the ids of several messages: {first}, {second}\n");
    for arguments in [["queue", "show", prefix], ["queue", "delete", prefix]] {
        assert_eq!(said(&relay, &arguments).await, (Some(65), String::new(), want.clone()));
    }
    // Neither short ones nor unknown ones are anybody.
    let (code, _, short) = said(&relay, &["queue", "delete", "0"]).await;
    assert_eq!(
        (code, short.as_str()),
        (Some(65), "\"0\": too short: 8 of the 26 characters of an id are needed\n")
    );
    let unknown = "00000000";
    let (code, _, none) = said(&relay, &["queue", "show", unknown]).await;
    assert_eq!((code, none.as_str()), (Some(1), "no message 00000000 in the queue\n"));
    let (code, _, none) = said(&relay, &["queue", "bounce", unknown]).await;
    assert_eq!((code, none.as_str()), (Some(1), "no such message in the queue\n"));
    assert_eq!(relay.queue().await.len(), 2, "nothing was done");

    // One that is there does not hide one that is not.
    let (code, done, missing) = said(&relay, &["queue", "hold", &first, unknown]).await;
    assert_eq!((code, done.as_str()), (Some(1), "hold: 1 recipient\n"));
    assert_eq!(missing, "no such message in the queue: 00000000\n");
    let (code, again, _) = said(&relay, &["queue", "hold", &first]).await;
    let want = "hold: 0 recipients\nall that matches is held already\n";
    assert_eq!((code, again.as_str()), (Some(0), want));

    let done = &relay.cli_json(&["queue", "delete", own, &first]).await[0];
    assert_eq!(done["count"], 1, "{done}");
    relay.event("queue_order").with("selection", &first).await;
    let left: Vec<_> = relay.queue().await.into_iter().map(|row| row["id"].clone()).collect();
    assert_eq!(left, [second.as_str()]);
}

/// Mail for two next hops, one of them reached by two domains.
#[tokio::test]
async fn a_summary_counts_by_next_hop_and_age_and_keeps_what_it_had() {
    let world = World::start(PROGRAM).await;
    let route = "[[route]]\ndomains = [\"a.test\", \"b.test\"]\nvia = [\"smtp://smart.test:25\"]\n";
    let relay = world.relay(route).await;
    let (code, text, _) = said(&relay, &["queue", "summary"]).await;
    assert_eq!(code, Some(0));
    assert!(!text.contains("oldest") && !text.contains("NEXT HOP"), "{text}");

    relay.cli_json(&["pause"]).await;
    relay.submit("a@client.test", &["x@a.test", "x@b.test", "x@far.test"], "one").await;
    let summary = &relay.cli_json(&["queue", "summary", "--by", "domain"]).await[0];
    for key in ["messages", "queued", "held", "sending_messages", "paused", "paused_hops"] {
        assert!(!summary[key].is_null(), "{key}: {summary}");
    }
    assert_eq!(summary["groups"].as_array().unwrap().len(), 3);
    assert_eq!(summary["oldest_at"], relay.queued("x@a.test").await.unwrap()["arrived_at"]);
    let ages = &summary["ages"];
    assert_eq!(ages["counts"], serde_json::json!([3, 0, 0, 0, 0, 0, 0, 0]));
    let hops: Vec<_> = ages["next_hops"].as_array().unwrap().iter().collect();
    assert_eq!((hops.len(), &ages["more_next_hops"]), (2, &0.into()));
    assert_eq!((&hops[0]["recipients"], &hops[1]["next_hop"]), (&2.into(), &"far.test".into()));

    let (_, text, _) = said(&relay, &["queue", "summary"]).await;
    assert!(text.contains("\nPaused since "), "{text}");
    assert!(text.contains("\nNEXT HOP ") && text.contains("\nfar.test "), "{text}");
}

#[tokio::test]
async fn a_list_is_sorted_and_cut_as_it_is_asked_for() {
    let world = World::start(PROGRAM).await;
    let relay = world.relay("").await;
    relay.cli_json(&["pause"]).await;
    for (recipient, body) in [("b@z.test", "x"), ("c@a.test", "a longer one"), ("a@z.test", "y")] {
        relay.submit("a@client.test", &[recipient], body).await;
    }
    let listed = async |arguments: &[&str]| -> Vec<String> {
        let all = ["queue", "list"].into_iter().chain(arguments.iter().copied());
        let rows = relay.cli_json(&all.collect::<Vec<_>>()).await;
        rows.iter().map(|row| row["recipient"].as_str().unwrap().to_owned()).collect()
    };
    for order in [&[][..], &["--sort", "age"]] {
        assert_eq!(listed(order).await, ["b@z.test", "c@a.test", "a@z.test"]);
    }
    assert_eq!(listed(&["--sort", "newest"]).await, ["a@z.test", "c@a.test", "b@z.test"]);
    assert_eq!(listed(&["--sort", "recipient"]).await, ["c@a.test", "a@z.test", "b@z.test"]);
    let largest = ["--sort", "size", "--limit", "1"];
    assert_eq!(listed(&largest).await, ["c@a.test"]);
    let in_z = ["--sort", "newest", "--limit", "1", "--domain", "z.test"];
    assert_eq!(listed(&in_z).await, ["a@z.test"]);
    let (code, text, _) = said(&relay, &["queue", "list", "--sort", "size", "--limit", "1"]).await;
    assert_eq!(code, Some(0));
    assert!(text.contains("c@a.test") && !text.contains("b@z.test"), "{text}");
    assert!(text.ends_with("There are more; staunch queue summary counts all.\n"), "{text}");
    let (code, _, error) =
        said(&relay, &["queue", "list", "--sort", "size", "--limit", "20000"]).await;
    assert_eq!(code, Some(65), "{error}");
}

/// Who waits behind others was not tried, and does not look as if.
#[tokio::test]
async fn a_failure_of_the_next_hop_is_told_from_one_of_the_message() {
    let world = World::start(PROGRAM).await;
    world.domain("dead.test").mx_names(&[(10, "mx.dead.test")]);
    world.dns.a("mx.dead.test", World::dead_address());
    let relay = world.relay("[delivery]\nretry = [\"1h\"]\n").await;
    relay.submit("a@client.test", &["tried@dead.test"], "one").await;
    relay.event("deferred").with("recipient", "tried@dead.test").await;
    let id = relay.submit("a@client.test", &["behind@dead.test"], "two").await;
    relay.event("deferred").with("recipient", "behind@dead.test").await;
    let of = async |recipient: &str| relay.queued(recipient).await.unwrap()["last"]["of"].clone();
    assert_eq!(
        (of("tried@dead.test").await, of("behind@dead.test").await),
        ("message".into(), "next_hop".into())
    );
    for arguments in
        [&["queue", "list", "--recipient", "behind@dead.test"][..], &["queue", "show", &id]]
    {
        let (_, text, _) = said(&relay, arguments).await;
        assert!(text.contains("  connect_failed  next hop: mx.dead.test ["), "{text}");
    }
    let (_, text, _) = said(&relay, &["queue", "list", "--recipient", "tried@dead.test"]).await;
    assert!(!text.contains("next hop: "), "{text}");
}

/// The reason stays with the message, also over a restart, and does not outlive the hold.
#[tokio::test]
async fn why_mail_is_held_is_shown_until_it_is_not() {
    let world = World::start(PROGRAM).await;
    let mut relay = world.relay("").await;
    relay.cli_json(&["pause"]).await;
    let id = relay.submit("a@client.test", &["b@far.test"], "one").await;
    let other = relay.submit("a@client.test", &["c@far.test"], "two").await;
    let why = "ticket 4711:\nlooks forged";
    relay.cli_json(&["queue", "hold", &id, "--why", why]).await;
    relay.cli_json(&["queue", "hold", &other]).await;
    let inert = "ticket 4711:\\nlooks forged";
    relay.event("held").with("message_id", &id).with("why", inert).await;
    relay.event("queue_order").with("selection", &id).with("why", inert).await;
    relay.stop().await;
    relay.start_again().await;
    assert_eq!(relay.queued("b@far.test").await.unwrap()["held_why"], inert);
    assert!(relay.queued("c@far.test").await.unwrap()["held_why"].is_null());
    for arguments in [&["queue", "list"][..], &["queue", "show", &id]] {
        let (_, text, _) = said(&relay, arguments).await;
        assert!(text.contains(&format!("  held: {inert}\n")), "{text}");
    }
    relay.cli_json(&["queue", "release", &id]).await;
    assert!(relay.queued("b@far.test").await.unwrap()["held_why"].is_null());
    relay.cli_json(&["queue", "hold", &id]).await;
    assert!(relay.queued("b@far.test").await.unwrap()["held_why"].is_null());
    // Nor is it anybody else's business.
    relay.cli_json(&["queue", "hold", "--all", "--why", "quarantine-7"]).await;
    relay.cli_json(&["queue", "bounce", &id]).await;
    let notice = relay.queued("a@client.test").await.unwrap();
    let (_, text, _) =
        said(&relay, &["queue", "show", notice["id"].as_str().unwrap(), "--body"]).await;
    assert!(text.contains("Subject: ") && !text.contains("quarantine-7"), "{text}");
}

#[tokio::test]
async fn a_dry_run_says_what_an_order_would_be_for_and_does_nothing() {
    let world = World::start(PROGRAM).await;
    let relay = world.relay("").await;
    relay.cli_json(&["pause"]).await;
    let id = relay.submit("a@client.test", &["b@far.test", "c@far.test"], "one").await;
    relay.submit("a@client.test", &["d@near.test"], "two").await;
    relay.cli_json(&["queue", "hold", "--domain", "near.test"]).await;
    let before = relay.queue().await;
    let mark = relay.mark();
    let far = ["--domain", "far.test"];
    for (verb, all, of_id, of_far) in [
        ("retry", 2, 2, 2),
        ("hold", 2, 2, 2),
        ("release", 1, 0, 0),
        ("bounce", 3, 2, 2),
        ("delete", 3, 2, 2),
    ] {
        let would = async |which: &[&str]| {
            let arguments = ["queue", verb, "--dry-run", "--json"].into_iter();
            let all: Vec<&str> = arguments.chain(which.iter().copied()).collect();
            let (_, text, _) = said(&relay, &all).await;
            let answer: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(answer["dry_run"], true, "{answer}");
            answer["count"].as_u64().unwrap()
        };
        let counts = (would(&["--all"]).await, would(&[&id]).await, would(&far).await);
        assert_eq!(counts, (all, of_id, of_far), "{verb}");
    }
    let (code, text, _) = said(&relay, &["queue", "delete", "--all", "--dry-run"]).await;
    let want = "delete would be for 3 recipients; nothing is changed\n";
    assert_eq!((code, text.as_str()), (Some(0), want));
    let (code, _, _) = said(&relay, &["queue", "delete", "00000000", "--dry-run"]).await;
    assert_eq!(code, Some(1));
    let (code, _, _) = said(&relay, &["queue", "delete", "0", "--dry-run"]).await;
    assert_eq!(code, Some(65));
    assert_eq!(relay.queue().await, before);
    assert_eq!(relay.lines_since(mark, "\"event\""), Vec::<String>::new());
}

#[tokio::test]
async fn a_name_that_nothing_in_the_queue_has_is_told_with_what_was_perhaps_meant() {
    let world = World::start(PROGRAM).await;
    let port = world.mx_port();
    let route = format!(
        "[[route]]\ndomains = [\"routed.test\"]\nvia = [\"smtp://smarthost.test:{port}\"]\n"
    );
    let relay = world.relay(&route).await;
    relay.cli_json(&["pause"]).await;
    let (code, text, told) = said(&relay, &["queue", "retry", "--all"]).await;
    assert_eq!(
        (code, text.as_str(), told.as_str()),
        (Some(0), "retry: 0 recipients\n", "the queue is empty\n")
    );
    let id = relay.submit("a@client.test", &["b@example.test", "b@routed.test"], "one").await;

    for verb in ["retry", "hold", "release", "bounce", "delete"] {
        let (code, text, told) = said(&relay, &["queue", verb, "--domain", "exmaple.test"]).await;
        let want =
            "nothing in the queue matches --domain exmaple.test; did you mean example.test?\n";
        assert_eq!((code, told.as_str()), (Some(0), want), "{verb}");
        assert_eq!(text, format!("{verb}: 0 recipients\n"));
        let arguments = ["queue", verb, "--domain", "other.example"];
        let done = &relay.cli_json(&arguments).await[0];
        assert_eq!(done["unmatched"], serde_json::json!({ "did_you_mean": null }), "{verb}");
        let (code, _, told) = said(&relay, &["queue", verb, "--reason", "remote_4xx"]).await;
        let want = "nothing in the queue matches --reason remote_4xx\n";
        assert_eq!((code, told.as_str()), (Some(0), want), "{verb}");
        let (code, _, told) = said(&relay, &["queue", verb, "--reason", "mx_not_lsted"]).await;
        let want = "reason: \"mx_not_lsted\" is not a reason; did you mean mx_not_listed?\n";
        assert_eq!((code, told.as_str()), (Some(65), want), "{verb}");
    }
    // What matches and has nothing to be done about is no slip.
    for which in [&["--domain", "example.test"][..], &["--all"], &[&id]] {
        let arguments: Vec<&str> = ["queue", "release"].iter().chain(which).copied().collect();
        let (code, text, told) = said(&relay, &arguments).await;
        assert_eq!((code, text.as_str(), told.as_str()), (Some(0), "release: 0 recipients\n", ""));
    }
    for (name, want) in [
        ("exmaple.test", "no mail waits for exmaple.test now; did you mean example.test?\n"),
        ("smartost.test", "no mail waits for smartost.test now; did you mean smarthost.test?\n"),
        ("new.example", "no mail waits for new.example now\n"),
        ("example.test", ""),
        ("smarthost.test", ""),
        ("routed.test", ""),
    ] {
        let (code, text, told) = said(&relay, &["pause", name]).await;
        assert_eq!((code, told.as_str()), (Some(0), want));
        assert!(text.contains(&format!("Undo: staunch resume {name}\n")), "it is paused: {text}");
    }
}

/// Home for DSNs, and a domain that waits.
struct Old {
    world: World,
    relay: Relay,
    home: Mx,
}

impl Old {
    async fn start() -> Self {
        let world = World::start(PROGRAM).await;
        let home = world.mx("home.sender.test").await;
        world.domain("sender.test").mx(&[(10, &home)]);
        let overlay = "[delivery]\nretry = [\"1s\"]\nlifetime = \"3s\"\n";
        let relay = world.relay(overlay).await;
        Self { world, relay, home }
    }
}

/// How often a DSN names each recipient.
fn named(text: &str) -> Vec<String> {
    let named = text.lines().filter_map(|line| line.strip_prefix("Final-Recipient: rfc822; "));
    named.map(|name| name.trim_end().to_owned()).collect()
}

#[tokio::test]
async fn all_that_is_too_old_comes_back_by_message_after_one_attempt() {
    let old = Old::start().await;
    old.world.domain("dead.test").mx_names(&[(10, "mx.dead.test")]);
    old.world.dns.a("mx.dead.test", World::dead_address());
    let mut expected = BTreeMap::new();
    for message in 0..3 {
        let to: Vec<String> = (0..MANY).map(|n| format!("m{message}r{n}@dead.test")).collect();
        let recipients: Vec<&str> = to.iter().map(String::as_str).collect();
        old.relay.submit("alice@sender.test", &recipients, &format!("m{message}")).await;
        expected.extend(to.into_iter().map(|address| (address, 1)));
    }
    let seen = old.home.received().until(|notices| {
        let mut seen = BTreeMap::new();
        for name in notices.iter().flat_map(|notice| named(&notice.text())) {
            *seen.entry(name).or_insert(0) += 1;
        }
        (seen.len() >= expected.len()).then_some(seen)
    });
    assert_eq!(seen.await.unwrap(), expected, "each in exactly one notice");
    // For each message one, and at most one more for those who were in a transaction that was
    // tried; it would be three if each transaction's worth were told apart.
    assert!(old.home.received().len() <= 6, "{} notices", old.home.received().len());
}

/// The disk lost the body: it is for the operator to say that it failed, and the domain's other
/// mail goes.
#[tokio::test]
async fn a_message_whose_body_is_lost_is_held_until_it_is_returned_and_holds_nothing_up() {
    let old = Old::start().await;
    let mx = old.world.mx("mx.far.test").await;
    mx.script(|script| script.rules.push(Rule::times(1, "RCPT", Then::reply("450 4.2.1 Later"))));
    old.world.domain("far.test").mx(&[(10, &mx)]);
    let large = "0123456789abcdef\r\n".repeat(20_000);
    old.relay.submit("alice@sender.test", &["lost@far.test"], &large).await;
    old.relay.event("deferred").with("recipient", "lost@far.test").await;
    let bodies = old.relay.data_dir().join("bodies");
    let mut dirs = vec![bodies];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { dirs.push(path) } else { std::fs::remove_file(path).unwrap() }
        }
    }
    old.relay.event("alarm").with("reason", "message_damaged").await;
    old.relay.submit("alice@sender.test", &["next@far.test"], "next").await;
    mx.message_to("next@far.test").await;
    old.relay.cli(&["queue", "bounce", "--reason", "message_damaged"]).await;
    let notice = old.home.message().await;
    assert_eq!(named(&notice.text()), ["lost@far.test"]);
}
