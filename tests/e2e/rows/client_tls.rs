//! What we say to hosts before and under TLS, row by row: a scripted MX listens.

use world::{Leaf, Mx, Starttls, Then, World};

use super::client::{arrives, enforce, fate, only_mx, submit, waits};
use crate::harness::{PROGRAM, on_stage};

#[test]
fn cl_30_anything_but_220_to_starttls_is_the_hosts_failure() {
    on_stage(|stage| async {
        let (world, relay) = (&stage.world, &stage.relay);
        for (number, reply) in
            ["454 4.7.0 Not now", "501 5.5.4 What?", "250 2.0.0 Ok"].into_iter().enumerate()
        {
            let domain = format!("r{number}.cl30.test");
            let mx = only_mx(world, &domain).await;
            mx.script(|script| script.starttls = Starttls::Reply(reply.to_owned()));
            enforce(stage, &domain);
            waits(relay, &format!("x@{domain}"), "starttls_refused").await;
            let commands = mx.commands().read(<[String]>::to_vec);
            assert_eq!(commands[..2], ["EHLO relay.test", "STARTTLS"], "{reply}");
            assert_eq!(mx.commanded("MAIL"), 0, "{reply}");
        }
        // Nothing is sent behind STARTTLS before its answer, and it is tried without an offer, too.
        let quiet = only_mx(world, "quiet.cl30.test").await;
        quiet.script(|script| script.starttls = Starttls::Unadvertised);
        enforce(stage, "quiet.cl30.test");
        arrives(relay, &quiet, "x@quiet.cl30.test").await;
        assert!(quiet.message().await.tls.is_some());
    });
}

#[test]
fn cl_31_clear_text_behind_the_220_closes_the_connection() {
    on_stage(|stage| async {
        let (world, relay) = (&stage.world, &stage.relay);
        let mx = only_mx(world, "cl31.test").await;
        mx.script(|script| script.starttls = Starttls::InjectPlaintext);
        waits(relay, "x@cl31.test", "starttls_refused").await;
        assert_eq!((mx.handshakes().len(), mx.commanded("MAIL")), (0, 0));

        // Where TLS is required, it waits until nobody does that any more.
        let strict = only_mx(world, "strict.cl31.test").await;
        enforce(stage, "strict.cl31.test");
        strict.script(|script| script.starttls = Starttls::InjectPlaintext);
        let recipient = "x@strict.cl31.test";
        submit(relay, recipient).await;
        let deferred = relay.event("deferred").with("recipient", recipient);
        for event in deferred.times(3).await {
            assert_eq!(event.text("reason").as_deref(), Some("starttls_refused"));
        }
        assert_eq!((strict.handshakes().len(), strict.commanded("MAIL")), (0, 0));
        let queued = relay.queued(recipient).await.expect("it waits").to_string();
        assert!(queued.contains("clear text was injected behind"), "{queued}");
        strict.script(|script| script.starttls = Starttls::Good);
        let received = strict.message().await;
        assert!(received.tls.is_some() && received.parameters.starts_with("SIZE="), "{received:?}");
        assert_eq!(relay.lines_about("Injected"), "", "what was injected is no reply to anything");
    });
}

#[test]
fn cl_32_under_tls_only_what_was_offered_there_counts() {
    on_stage(|stage| async {
        let (world, relay) = (&stage.world, &stage.relay);
        let mx = only_mx(world, "cl32.test").await;
        mx.script(|script| {
            script.keywords = vec!["SIZE 10".into(), "8BITMIME".into()];
            script.keywords_in_tls = Some(vec!["PIPELINING".into()]);
        });
        arrives(relay, &mx, "x@cl32.test").await;
        assert_eq!(mx.message().await.parameters, "", "neither SIZE nor BODY");
        assert_eq!(mx.commanded("EHLO"), 2);
    });
}

#[test]
fn cl_33_clear_text_follows_on_a_new_connection_where_nothing_requires_tls() {
    on_stage(|stage| async {
        let (world, relay) = (&stage.world, &stage.relay);
        let lax = only_mx(world, "lax.cl33.test").await;
        let strict = only_mx(world, "strict.cl33.test").await;
        enforce(stage, "strict.cl33.test");
        for mx in [&lax, &strict] {
            mx.script(|script| script.starttls = Starttls::Alert);
        }
        // By default from the second attempt on.
        submit(relay, "x@lax.cl33.test").await;
        fate(relay, "deferred", "x@lax.cl33.test").await;
        let message = lax.message().await;
        assert!(message.tls.is_none() && message.connection > 1, "{message:?}");

        submit(relay, "x@strict.cl33.test").await;
        let deferred = relay.event("deferred").with("recipient", "x@strict.cl33.test");
        deferred.times(3).await;
        assert_eq!(strict.commanded("MAIL"), 0);
    });
}

/// RFC 3207 §4: 530 says nothing about the mail. Whoever takes the offer away gets it said, too.
#[test]
fn cl_33_a_host_that_takes_nothing_in_clear_text_does_not_end_mail() {
    on_stage(|stage| async {
        let (world, relay) = (&stage.world, &stage.relay);
        for (name, starttls) in [("none", Starttls::Absent), ("broken", Starttls::Alert)] {
            let (domain, next) = (format!("{name}.cl33.test"), format!("next.{name}.cl33.test"));
            let mx = world.mx(&format!("mx.{domain}")).await;
            mx.script(|script| script.starttls = starttls);
            mx.on("MAIL", Then::reply("530 5.7.0 Must issue a STARTTLS command first"));
            world.domain(&domain).mx(&[(10, &mx)]);
            let recipient = format!("x@{domain}");
            relay.submit("", &[&recipient], &recipient).await;
            let deferred = relay.event("deferred").with("recipient", &recipient);
            deferred.times(3).await;
            assert!(mx.commanded("MAIL") > 0, "{name}");
            assert_eq!(relay.event("bounced").with("recipient", &recipient).count(), 0, "{name}");

            // The next host may be a better one.
            let good = world.mx(&format!("good.{domain}")).await;
            world.domain(&next).mx(&[(10, &mx), (20, &good)]);
            arrives(relay, &good, &format!("x@{next}")).await;
        }
    });
}

#[test]
fn cl_34_opportunistic_tls_does_not_fail_for_certificates() {
    on_stage(|stage| async {
        let (world, relay) = (&stage.world, &stage.relay);
        let leaf = || Leaf::named("else.test");
        let bad =
            [("old", leaf().expired()), ("own", leaf().self_signed()), ("odd", leaf().untrusted())];
        for (name, leaf) in bad {
            let domain = format!("{name}.cl34.test");
            let mx = only_mx(world, &domain).await;
            mx.script(|script| script.identity = world.pki.issue(&leaf));
            arrives(relay, &mx, &format!("x@{domain}")).await;
            assert!(mx.message().await.tls.is_some(), "{domain}");
        }
    });
}

/// A smarthost that lets one user in.
fn with_login(mx: &Mx) {
    mx.script(|script| {
        script.offer_in_tls(&["AUTH PLAIN LOGIN"]);
        script.users = vec![("ann".into(), "secret".into()), ("bob".into(), "secret".into())];
        script.needs_login = true;
    });
}

/// `[[route]]` for `domain` over `host` with a login.
fn login_route(world: &World, domain: &str, host: &str, username: &str) -> String {
    let file = world.dir().join(format!("{username}.password"));
    let password = if username == "eve" { "guess" } else { "secret" };
    std::fs::write(&file, format!("{password}\n")).unwrap();
    format!(
        "[[route]]\ndomains = [\"{domain}\"]\nvia = [\"smtp://[{host}]:{}\"]\nusername = \"{username}\"\n\
         password_file = \"{}\"\n",
        world.mx_port(),
        file.display()
    )
}

#[tokio::test]
async fn cl_37_credentials_go_to_an_authenticated_server_only() {
    let world = World::start(PROGRAM).await;
    let good = world.mx("good.test").await;
    let bad = world.mx("bad.test").await;
    let clear = world.mx("clear.test").await;
    for mx in [&good, &bad, &clear] {
        with_login(mx);
    }
    bad.script(|script| script.identity = world.pki.issue(&Leaf::named("bad.test").untrusted()));
    clear.script(|script| {
        script.starttls = Starttls::Absent;
        script.offer(&["AUTH PLAIN LOGIN"]);
    });
    let overlay = login_route(&world, "a.test", "good.test", "ann")
        + &login_route(&world, "b.test", "bad.test", "bob")
        + &login_route(&world, "c.test", "clear.test", "ann")
        + &login_route(&world, "e.test", "good.test", "eve")
        + "[delivery]\nretry = [\"1s\"]\n";
    let relay = world.relay(&overlay).await;
    arrives(&relay, &good, "x@a.test").await;
    assert_eq!(good.message().await.user.as_deref(), Some("ann"));
    waits(&relay, "x@b.test", "certificate_untrusted").await;
    waits(&relay, "x@c.test", "starttls_not_offered").await;
    assert_eq!((bad.commanded("AUTH"), clear.commanded("AUTH")), (0, 0));

    waits(&relay, "x@e.test", "auth_failed").await;
    relay.event("alarm").with("reason", "auth_failed").await;
    let again = relay.event("deferred").with("recipient", "x@e.test");
    again.times(2).await;
    assert_eq!(relay.event("bounced").count(), 0, "it is the route's trouble");
}
