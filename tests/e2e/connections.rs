//! Which connections mail goes over: whose, from where, judged when, and how many.

use std::time::Duration;

use world::{Leaf, Mode, Mx, Relay, Rule, Script, Starttls, Then, World};

use crate::harness::PROGRAM;

async fn submit(relay: &Relay, recipient: &str) {
    relay.submit("a@client.test", &[recipient], recipient).await;
}

async fn delivered(relay: &Relay, recipient: &str) {
    submit(relay, recipient).await;
    relay.event("delivered").with("recipient", recipient).await;
}

async fn deferred(relay: &Relay, recipient: &str, reason: &str) {
    submit(relay, recipient).await;
    let deferred = relay.event("deferred").with("recipient", recipient).await;
    assert_eq!(deferred.text("reason").as_deref(), Some(reason), "{recipient}");
}

/// Two domains at one host, of which the second has a policy.
async fn lax_and_strict(world: &World) -> Mx {
    let mx = world.mx("mx.both.test").await;
    world.domain("lax.test").mx(&[(10, &mx)]);
    world.domain("strict.test").mx(&[(10, &mx)]).mta_sts(Mode::Enforce, &[mx.host()], 86400);
    mx
}

fn certificate(mx: &Mx, identity: world::Identity) {
    mx.script(|script: &mut Script| script.identity = identity);
}

#[tokio::test]
async fn mail_that_asks_for_more_has_kept_and_resumed_connections_judged_for_itself() {
    let world = World::start(PROGRAM).await;
    let mx = lax_and_strict(&world).await;
    certificate(&mx, world.pki.issue(&Leaf::named(mx.host()).untrusted()));
    mx.script(|script| script.sessions_stay = true);
    let relay = world.relay("[delivery]\nconnection_idle = \"20s\"\nretry = [\"1s\"]\n").await;
    delivered(&relay, "x@lax.test").await;
    // The connection is there, and its session could be resumed; for this mail neither is good
    // enough.
    deferred(&relay, "x@strict.test", "certificate_untrusted").await;
    assert_eq!(mx.received().len(), 1);

    // A session of now would show the old chain; so a full handshake finds the new one.
    delivered(&relay, "y@lax.test").await;
    certificate(&mx, world.pki.issue(&Leaf::named(mx.host())));
    relay
        .event("delivered")
        .with("recipient", "x@strict.test")
        .with("protection", "verified")
        .await;
    let before = mx.connections();
    delivered(&relay, "y@strict.test").await;
    delivered(&relay, "z@lax.test").await;
    assert_eq!(mx.connections(), before, "what proved enough serves both");
}

#[tokio::test]
async fn sessions_are_resumed_and_still_verified() {
    let world = World::start(PROGRAM).await;
    let mx = lax_and_strict(&world).await;
    let relay = world.relay("[delivery]\nconnection_idle = \"0s\"\n").await;
    for version in [Starttls::Good, Starttls::Tls12Only] {
        mx.script(|script| script.starttls = version.clone());
        let before = mx.handshakes().len();
        for recipient in ["x@strict.test", "y@strict.test", "z@strict.test"] {
            let recipient = format!("{before}{recipient}");
            delivered(&relay, &recipient).await;
        }
        let resumed = mx
            .handshakes()
            .read(|all| all[before..].iter().map(|seen| seen.resumed).collect::<Vec<_>>());
        assert_eq!(resumed, [false, true, true], "{version:?}");
    }
    let verified = relay.event("delivered").with("protection", "verified").count();
    assert_eq!(verified, 6);
}

#[tokio::test]
async fn a_host_that_minds_a_large_client_hello_is_asked_with_a_small_one_and_never_in_clear() {
    let world = World::start(PROGRAM).await;
    let mx = world.mx("mx.small.test").await;
    world.domain("small.test").mx(&[(10, &mx)]);
    mx.script(|script| script.starttls = Starttls::ResetOnPostQuantum);
    let relay = world.relay("[delivery]\nconnection_idle = \"0s\"\n").await;
    for recipient in ["x@small.test", "y@small.test"] {
        delivered(&relay, recipient).await;
        assert!(mx.message_to(recipient).await.tls.is_some());
    }
    assert_eq!(mx.connections(), 3, "once in two ways, then in the one that works");
    assert_eq!(relay.event("deferred").count(), 0);
}

#[tokio::test]
async fn what_leaves_from_an_address_has_its_name_and_keeps_it() {
    let world = World::start(PROGRAM).await;
    let mx = world.mx("mx.far.test").await;
    let overlay = "[delivery]\nconnection_idle = \"0s\"\n\
        [[source]]\naddress = \"127.0.88.1\"\nhostname = \"one.relay.test\"\n\
        [[source]]\naddress = \"127.0.88.2\"\n";
    let relay = world.relay(overlay).await;
    let mut sources = std::collections::BTreeSet::new();
    for number in 0..12 {
        let domain = format!("d{number}.test");
        world.domain(&domain).mx(&[(10, &mx)]);
        let mut of_domain = std::collections::BTreeSet::new();
        for local in ["x", "y"] {
            let recipient = format!("{local}@{domain}");
            delivered(&relay, &recipient).await;
            let message = mx.message_to(&recipient).await;
            let peer = mx.opened().read(|all| all[message.connection - 1].peer.ip().to_string());
            let name = if peer == "127.0.88.1" { "one.relay.test" } else { "relay.test" };
            assert_eq!(message.helo, name);
            of_domain.insert(peer);
        }
        assert_eq!(of_domain.len(), 1, "{domain}");
        sources.extend(of_domain);
    }
    // That twelve domains have the same of two happens once in 2,000 times, but it is always the
    // same.
    assert_eq!(sources.into_iter().collect::<Vec<_>>(), ["127.0.88.1", "127.0.88.2"]);
}

#[tokio::test]
async fn an_address_that_is_not_ours_is_our_own_trouble_and_named() {
    let world = World::start(PROGRAM).await;
    let mx = world.mx("mx.far.test").await;
    world.domain("far.test").mx(&[(10, &mx)]);
    let relay = world.relay("[[source]]\naddress = \"192.0.2.1\"\n").await;
    deferred(&relay, "x@far.test", "local_error").await;
    let row = relay.queued("x@far.test").await.unwrap();
    let text = row["last"]["text"].as_str().unwrap();
    assert!(text.contains("source[0].address"), "{text}");
    assert_eq!(row["attempts"], 0, "it is no attempt");
    assert_eq!(mx.connections(), 0);
}

fn login(world: &World, domain: &str, username: &str, password: &str) -> String {
    let file = world.dir().join(format!("{username}.password"));
    std::fs::write(&file, format!("{password}\n")).unwrap();
    format!(
        "[[route]]\ndomains = [\"{domain}\"]\nvia = [\"smtps://[smart.test]:{}\"]\n\
         username = \"{username}\"\npassword_file = \"{}\"\n",
        world.mx_port(),
        file.display()
    )
}

/// Over TLS from the first octet, too.
#[tokio::test]
async fn two_routes_with_different_credentials_never_share_a_connection() {
    let world = World::start(PROGRAM).await;
    let smart = world.mx("smart.test").await;
    smart.script(|script| {
        script.implicit_tls = true;
        script.offer(&["AUTH PLAIN LOGIN"]);
        script.users = vec![("ann".into(), "a".into()), ("bob".into(), "b".into())];
        script.needs_login = true;
    });
    let routes = login(&world, "a.test", "ann", "a") + &login(&world, "b.test", "bob", "b");
    let overlay = routes.clone() + "[delivery]\nconnection_idle = \"20s\"\n";
    let relay = world.relay(&overlay).await;
    for number in 0..10 {
        delivered(&relay, &format!("x{number}@a.test")).await;
        delivered(&relay, &format!("x{number}@b.test")).await;
    }
    // Nor a transaction.
    relay.submit("a@client.test", &["y@a.test", "y@b.test"], "to both").await;
    let messages = smart.messages(22).await;
    for message in &messages {
        let owner = if message.to[0].ends_with("@a.test") { "ann" } else { "bob" };
        assert_eq!(message.to.len(), 1, "{message:?}");
        assert_eq!(message.user.as_deref(), Some(owner), "{message:?}");
    }
    assert_eq!((smart.connections(), smart.commanded("AUTH")), (2, 2), "each keeps its own");
    drop(relay);

    // Nor a TLS session, by which a server could tell that the two are one.
    let before = smart.handshakes().len();
    let relay = world.relay(&(routes + "[delivery]\nconnection_idle = \"0s\"\n")).await;
    for recipient in ["v@a.test", "v@b.test", "w@a.test", "w@b.test"] {
        delivered(&relay, recipient).await;
    }
    let resumed = smart
        .handshakes()
        .read(|all| all[before..].iter().map(|seen| seen.resumed).collect::<Vec<_>>());
    assert_eq!(resumed, [false, false, true, true]);
}

#[tokio::test]
async fn a_kept_connection_that_ends_with_421_is_replaced_at_once() {
    let world = World::start(PROGRAM).await;
    let mx = world.mx("mx.far.test").await;
    world.domain("far.test").mx(&[(10, &mx)]);
    let relay = world.relay("[delivery]\nconnection_idle = \"20s\"\n").await;
    delivered(&relay, "first@far.test").await;
    let bye = Then::ReplyAndClose("421 4.4.2 Idle for too long".to_owned());
    mx.script(|script| script.rules.push(Rule::times(1, "MAIL", bye)));
    delivered(&relay, "second@far.test").await;
    assert_eq!(relay.event("deferred").count(), 0);
    assert_eq!(mx.connections(), 2);
}

#[tokio::test]
async fn a_rate_spreads_the_messages_to_a_site_and_is_explained() {
    let world = World::start(PROGRAM).await;
    let site = [world.mx("a.site.test").await, world.mx("b.site.test").await];
    let overlay = "[[limit]]\nmx = [\"*.site.test\"]\nmessages_per_minute = 120\n\
                   [[limit]]\ndomains = [\"d1.test\"]\nconnections = 1\n";
    let relay = world.relay(overlay).await;
    let start = tokio::time::Instant::now();
    for number in 0..6 {
        let domain = format!("d{number}.test");
        world.domain(&domain).mx(&[(10, &site[number % 2])]);
        submit(&relay, &format!("x@{domain}")).await;
    }
    relay.event("delivered").times(6).await;
    assert!(start.elapsed() >= Duration::from_millis(2400), "{:?}", start.elapsed());

    let told = relay.cli_json(&["explain", "x@d1.test"]).await;
    let steps = told[0]["steps"].as_array().unwrap();
    let limits: Vec<&str> = steps
        .iter()
        .filter(|step| step["step"] == "limit")
        .filter_map(|step| step["result"].as_str())
        .collect();
    assert_eq!(
        limits,
        [
            "limit[0]: 120 messages a minute, all of *.site.test",
            "limit[1]: 1 connections, each of d1.test"
        ]
    );
}

/// Hosts that take their time hold the places of all until others need them.
#[tokio::test]
async fn hosts_that_are_slow_before_the_content_make_room_for_mail_that_goes() {
    let silent = |script: &mut Script| script.greeting = world::Greeting::Silent;
    let stuck = |script: &mut Script| script.rules.push(Rule::always("RCPT", Then::Hang));
    tokio::join!(make_room(silent), make_room(stuck), make_room_at_a_login());
}

async fn make_room(spoil: impl Fn(&mut Script)) {
    let world = World::start(PROGRAM).await;
    let relay = world.relay("[delivery]\nconnections = 4\nretry = [\"1h\"]\n").await;
    let mut tar = Vec::new();
    // As many as strangers may have, of four.
    for number in 0..2 {
        let (host, domain) = (format!("mx.tar{number}.test"), format!("tar{number}.test"));
        let mx = world.mx(&host).await;
        mx.script(&spoil);
        world.domain(&domain).mx(&[(10, &mx)]);
        submit(&relay, &format!("x@{domain}")).await;
        mx.wait_connections(1).await;
        tar.push(mx);
    }
    good_mail_goes(&world, &relay).await;
    assert!(tar.iter().all(|mx| mx.received().is_empty()));
}

async fn make_room_at_a_login() {
    let world = World::start(PROGRAM).await;
    let smart = world.mx("smart.test").await;
    smart.script(|script| {
        script.implicit_tls = true;
        script.offer(&["AUTH PLAIN"]);
        script.rules.push(Rule::always("AUTH", Then::Hang));
    });
    let overlay =
        login(&world, "tar.test", "ann", "a") + "[delivery]\nconnections = 1\nretry = [\"1h\"]\n";
    let relay = world.relay(&overlay).await;
    submit(&relay, "x@tar.test").await;
    smart.wait_command("AUTH").await;
    good_mail_goes(&world, &relay).await;
}

/// Though the places of all are taken.
async fn good_mail_goes(world: &World, relay: &Relay) {
    let good = world.mx("mx.good.test").await;
    world.domain("good.test").mx(&[(10, &good)]);
    submit(relay, "x@good.test").await;
    let patience = Duration::from_secs(60);
    let came = tokio::time::timeout(patience, async {
        while good.received().is_empty() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    came.await.expect("it goes while the others may still take minutes for their answer");
}
