//! What we say to hosts, row by row: a scripted MX listens.

use std::net::Ipv4Addr;
use std::time::Duration;

use world::{Answer, Event, Leaf, Mode, Mx, RecordType, Relay, Then, World};

use crate::harness::{PROGRAM, Stage, on_stage};

/// A host that is the only MX of `domain`.
pub(super) async fn only_mx(world: &World, domain: &str) -> Mx {
    let mx = world.mx(&format!("mx.{domain}")).await;
    world.domain(domain).mx(&[(10, &mx)]);
    mx
}

pub(super) async fn submit(relay: &Relay, recipient: &str) {
    relay.submit("a@client.test", &[recipient], recipient).await;
}

/// The first thing that the log says about what became of a recipient; DSNs go nowhere.
pub(super) async fn fate(relay: &Relay, event: &str, recipient: &str) -> Event {
    relay.event(event).with("recipient", recipient).await
}

/// Submits with the null sender, since nobody could be told, and waits for the end.
pub(super) async fn bounces(relay: &Relay, recipient: &str, reason: &str) {
    relay.submit("", &[recipient], recipient).await;
    let bounced = fate(relay, "bounced", recipient).await;
    assert_eq!(bounced.text("reason").as_deref(), Some(reason), "{recipient}");
}

pub(super) async fn waits(relay: &Relay, recipient: &str, reason: &str) {
    relay.submit("", &[recipient], recipient).await;
    let deferred = fate(relay, "deferred", recipient).await;
    assert_eq!(deferred.text("reason").as_deref(), Some(reason), "{recipient}");
}

pub(super) async fn arrives(relay: &Relay, mx: &Mx, recipient: &str) {
    submit(relay, recipient).await;
    mx.message_to(recipient).await;
}

pub(super) fn enforce(stage: &Stage, domain: &str) {
    stage.world.domain(domain).mta_sts(Mode::Enforce, &[&format!("mx.{domain}")], 86400);
}

#[test]
fn cl_01_mail_goes_to_the_mx_and_without_any_to_the_domain_itself() {
    on_stage(|stage| async {
        let (world, relay) = (&stage.world, &stage.relay);
        let mx = only_mx(world, "mx.cl01.test").await;
        let bystander = world.mx("mx.cl01.test").await;
        arrives(relay, &mx, "x@mx.cl01.test").await;
        assert_eq!(bystander.connections(), 0);

        let itself = world.mx("none.cl01.test").await;
        arrives(relay, &itself, "x@none.cl01.test").await;
        world.dns.cname("alias.cl01.test", "none.cl01.test");
        arrives(relay, &itself, "x@alias.cl01.test").await;

        // No answer is not the answer "none".
        let broken = world.mx("broken.cl01.test").await;
        world.domain("broken.cl01.test").mx_answer(Answer::ServFail);
        waits(relay, "x@broken.cl01.test", "dns_failure").await;
        assert_eq!(broken.connections(), 0);
        bounces(relay, "x@nowhere.cl01.test", "no_such_domain").await;
    });
}

#[test]
fn cl_02_where_there_are_mx_records_the_domains_own_addresses_are_never_used() {
    on_stage(|stage| async {
        let (world, relay) = (&stage.world, &stage.relay);
        let own = world.mx("cl02.test").await;
        world.dns.a("dead.cl02.test", Ipv4Addr::new(127, 0, 99, 1));
        world.domain("cl02.test").mx_names(&[(10, "dead.cl02.test")]);
        waits(relay, "x@cl02.test", "connect_failed").await;
        assert_eq!(own.connections(), 0);
    });
}

#[test]
fn cl_03_the_best_preference_comes_first_and_equal_ones_share() {
    on_stage(|stage| async {
        let (world, relay) = (&stage.world, &stage.relay);
        let one = world.mx("one.cl03.test").await;
        let other = world.mx("other.cl03.test").await;
        let last = world.mx("last.cl03.test").await;
        world.domain("cl03.test").mx(&[(20, &last), (10, &one), (10, &other)]);
        // Of 200 fair throws, fewer than 60 or more than 140 are heads less than once in four
        // million times (Hoeffding: 2·exp(-2·40²/200)).
        for number in 0..200 {
            submit(relay, &format!("x{number}@cl03.test")).await;
        }
        for number in 0..200 {
            fate(relay, "delivered", &format!("x{number}@cl03.test")).await;
        }
        let shares = [one.received().len(), other.received().len()];
        assert_eq!(shares[0] + shares[1], 200);
        assert!((60..=140).contains(&shares[0]), "{shares:?}");
        assert_eq!(last.connections(), 0);
    });
}

#[tokio::test]
async fn cl_04_a_host_with_addresses_of_the_family_that_is_left_out_ends_no_mail() {
    let world = World::start(PROGRAM).await;
    let relay = world.relay("[delivery]\nip = \"v4\"\n").await;
    world.dns.aaaa("mx.cl04.test", std::net::Ipv6Addr::LOCALHOST);
    world.domain("cl04.test").mx_names(&[(10, "mx.cl04.test")]);
    waits(&relay, "x@cl04.test", "connect_failed").await;
    world.domain("none.cl04.test").mx_names(&[(10, "mx.none.cl04.test")]);
    bounces(&relay, "x@none.cl04.test", "no_mail_host").await;
}

/// In sequence: whoever calls two addresses at once makes a host's load and its logs worse.
#[tokio::test]
async fn cl_04_the_addresses_of_a_host_are_tried_one_after_the_other() {
    let world = World::start(PROGRAM).await;
    let mx = world.mx("mx.cl04.test").await;
    let mut silent = Vec::new();
    for _ in 0..3 {
        silent.push(world.silent_address().await);
    }
    // Of one host, and of the next.
    world.dns.addresses("first.cl04.test", &silent[..1]);
    world.dns.addresses(mx.host(), &[silent[1], silent[2], mx.ip()]);
    world.domain("cl04.test").mx_names(&[(10, "first.cl04.test"), (20, mx.host())]);
    let relay = world.relay("[delivery]\nconnect_timeout = \"400ms\"\n").await;
    submit(&relay, "x@cl04.test").await;
    let mut called = Vec::new();
    while mx.received().is_empty() {
        let now = world.connecting();
        assert!(now.len() <= 1, "two SYNs at once: {now:?}");
        called.extend(now);
        tokio::task::yield_now().await;
    }
    called.dedup();
    assert_eq!(called, silent, "each once, in the order of the answer");

    // What did not answer is not called again soon.
    mx.wait_command("QUIT").await;
    world.domain("again.cl04.test").mx(&[(10, &mx)]);
    submit(&relay, "y@again.cl04.test").await;
    let mut called = Vec::new();
    while mx.received().len() < 2 {
        called.extend(world.connecting());
        tokio::task::yield_now().await;
    }
    assert!(called.iter().all(|address| *address == mx.ip()), "{called:?}");
}

/// Nobody listens on the IPv6 address, or, on a machine without IPv6, there is no way to it.
#[tokio::test]
async fn cl_04_a_dead_ipv6_address_is_passed_over_and_remembered() {
    let world = World::start(PROGRAM).await;
    let overlay = "[delivery]\nallow_addresses = [\"127.0.0.0/8\", \"::1/128\"]\n\
                   connection_idle = \"0s\"\n";
    let relay = world.relay(overlay).await;
    let mx = only_mx(&world, "cl04.test").await;
    world.dns.aaaa(mx.host(), std::net::Ipv6Addr::LOCALHOST);
    arrives(&relay, &mx, "x@cl04.test").await;
    assert_eq!(relay.event("deferred").count(), 0, "in the same attempt");

    // From now on somebody listens there, and is not called: a greylist knows us by our IPv4
    // address.
    let Some(six) = world.mx6(mx.host()) else { return };
    arrives(&relay, &mx, "y@cl04.test").await;
    assert_eq!(six.connections(), 0);
    // Who knows nothing of it begins with IPv6.
    let newcomer = world.relay(overlay).await;
    arrives(&newcomer, &six, "z@cl04.test").await;
}

#[test]
fn cl_05_we_and_all_hosts_behind_us_are_left_out() {
    on_stage(|stage| async {
        let (world, relay) = (&stage.world, &stage.relay);
        let mx = world.mx("mx.cl05.test").await;
        let records: [(&str, &[(u16, &str)]); 3] = [
            ("ahead.cl05.test", &[(10, "mx.cl05.test"), (20, "relay.test")]),
            ("behind.cl05.test", &[(10, "relay.test"), (20, "mx.cl05.test")]),
            ("beside.cl05.test", &[(10, "relay.test"), (10, "mx.cl05.test")]),
        ];
        for (domain, hosts) in records {
            world.domain(domain).mx_names(hosts);
        }
        arrives(relay, &mx, "x@ahead.cl05.test").await;
        bounces(relay, "x@behind.cl05.test", "mail_loop").await;
        bounces(relay, "x@beside.cl05.test", "mail_loop").await;
        assert_eq!(mx.received().len(), 1);
    });
}

#[test]
fn cl_06_a_null_mx_ends_it_at_once_unless_it_stands_beside_others() {
    on_stage(|stage| async {
        let (world, relay) = (&stage.world, &stage.relay);
        let own = world.mx("null.cl06.test").await;
        world.domain("null.cl06.test").null_mx();
        bounces(relay, "x@null.cl06.test", "null_mx").await;
        assert_eq!(own.connections(), 0);
        let bounced = fate(relay, "bounced", "x@null.cl06.test").await;
        assert_eq!(bounced.text("status").as_deref(), Some("5.1.10"));

        let mx = world.mx("mx.cl06.test").await;
        world.domain("mixed.cl06.test").mx_names(&[(0, "."), (10, "mx.cl06.test")]);
        arrives(relay, &mx, "x@mixed.cl06.test").await;
    });
}

#[test]
fn cl_07_an_mx_that_is_an_alias_is_followed_and_keeps_its_name_under_tls() {
    on_stage(|stage| async {
        let (world, relay) = (&stage.world, &stage.relay);
        let mx = world.mx("real.cl07.test").await;
        mx.script(|script| script.identity = world.pki.issue(&Leaf::named("mx.cl07.test")));
        world.dns.cname("mx.cl07.test", "real.cl07.test");
        world.domain("cl07.test").mx_names(&[(10, "mx.cl07.test")]);
        enforce(stage, "cl07.test");
        arrives(relay, &mx, "x@cl07.test").await;
        assert_eq!(mx.message().await.tls.unwrap().sni.as_deref(), Some("mx.cl07.test"));
    });
}

#[test]
fn cl_08_an_mx_that_is_an_address_is_skipped() {
    on_stage(|stage| async {
        let (world, relay) = (&stage.world, &stage.relay);
        let mx = world.mx("mx.cl08.test").await;
        let address = mx.ip().to_string();
        world.domain("both.cl08.test").mx_names(&[(5, &address), (10, "mx.cl08.test")]);
        arrives(relay, &mx, "x@both.cl08.test").await;
        world.domain("alone.cl08.test").mx_names(&[(5, &address)]);
        waits(relay, "x@alone.cl08.test", "no_mail_host").await;
        assert_eq!(mx.received().len(), 1);
    });
}

/// RFC 5321 §4.5.3.2 gives each answer minutes; what all of them together may take is another
/// matter, and the mail's own time is the end of it.
#[tokio::test]
async fn cl_12_a_slow_host_is_waited_for_step_by_step_but_not_beyond_the_mails_time() {
    let world = World::start(PROGRAM).await;
    let slow = only_mx(&world, "slow.test").await;
    for (command, reply) in
        [("EHLO", "250 slow"), ("MAIL", "250 ok"), ("RCPT", "250 ok"), (".", "250 ok")]
    {
        slow.on(command, Then::Drip(reply.to_owned(), Duration::from_millis(150)));
    }
    let stuck = only_mx(&world, "stuck.test").await;
    stuck.on("RCPT", Then::Hang);
    let next = world.mx("next.stuck.test").await;
    next.on("MAIL", Then::Hang);
    world.domain("stuck.test").mx(&[(10, &stuck), (20, &next)]);
    let relay = world.relay("[delivery]\nlifetime = \"8s\"\nretry = [\"1h\"]\n").await;
    arrives(&relay, &slow, "x@slow.test").await;
    submit(&relay, "x@stuck.test").await;
    let deferred = fate(&relay, "deferred", "x@stuck.test").await;
    assert_eq!(deferred.text("reason").as_deref(), Some("connection_lost"));
    assert!(stuck.received().is_empty());
    assert_eq!(next.connections(), 0, "the time is over for all hosts");
}

#[test]
fn cl_20_names_are_never_completed() {
    on_stage(|stage| async {
        let (world, relay) = (&stage.world, &stage.relay);
        bounces(relay, "x@cltwenty", "no_such_domain").await;
        let asked: Vec<String> = world.dns.queries().read(|all| {
            let about = all.iter().filter(|query| query.name.contains("cltwenty"));
            about.map(|query| query.name.clone()).collect()
        });
        assert!(!asked.is_empty());
        let is_literal = |name: &String| name == "cltwenty" || name == "_mta-sts.cltwenty";
        assert!(asked.iter().all(is_literal), "{asked:?}");
    });
}

/// `docs/operations.md`: such mail is refused at the door, so nothing is ever sent to a bare
/// address.
#[test]
fn cl_21_mail_to_an_address_literal_is_refused_at_the_door() {
    on_stage(|stage| async {
        let mut client = stage.relay.client().await;
        client.expect("MAIL FROM:<a@client.test>", 250).await;
        for literal in ["[127.0.0.1]", "[IPv6:::1]"] {
            let reply = client.expect(&format!("RCPT TO:<x@{literal}>"), 550).await;
            assert!(reply.text().starts_with("5.1.3"), "{reply:?}");
        }
    });
}

#[test]
fn cl_22_a_source_route_is_ignored_and_never_sent() {
    on_stage(|stage| async {
        let mx = only_mx(&stage.world, "cl22.test").await;
        let mut client = stage.relay.client().await;
        client.expect("MAIL FROM:<@a.test:s@client.test>", 250).await;
        client.expect("RCPT TO:<@a.test,@b.test:x@cl22.test>", 250).await;
        client.expect("DATA", 354).await;
        client.expect("Subject: routed\r\n\r\n.", 250).await;
        let message = mx.message().await;
        assert_eq!(
            (message.from.as_str(), message.to),
            ("s@client.test", vec!["x@cl22.test".into()])
        );
        assert_eq!(stage.world.dns.asked("a.test", RecordType::MX), 0);
    });
}

#[tokio::test]
async fn cl_35_a_refusal_of_our_ipv6_address_is_tried_once_over_ipv4() {
    let world = World::start(PROGRAM).await;
    let relay = world
        .relay("[delivery]\nallow_addresses = [\"127.0.0.0/8\", \"::1/128\"]\nconnection_idle = \"0s\"\nretry = [\"1s\"]\n")
        .await;
    let four = only_mx(&world, "cl35.test").await;
    let Some(six) = world.mx6("mx.cl35.test") else { return };
    let mind = [
        ("RCPT", Then::reply("550 5.7.1 No PTR record")),
        ("EHLO", Then::ReplyAndClose("550 5.7.25 No PTR record".to_owned())),
    ];
    for (number, (command, then)) in mind.into_iter().enumerate() {
        six.clear_rules();
        six.on(command, then);
        let recipient = format!("x{number}@cl35.test");
        arrives(&relay, &four, &recipient).await;
        assert_eq!(six.received().len(), 0);
    }
    assert_eq!(six.connections(), 1, "the family that worked is kept to");
    // A refusal of the recipient is none of us.
    let other = world.mx("mx.other.test").await;
    world.domain("other.test").mx(&[(10, &other)]);
    world.dns.aaaa("mx.other.test", std::net::Ipv6Addr::LOCALHOST);
    six.clear_rules();
    six.on("RCPT", Then::reply("550 5.1.1 Nobody"));
    bounces(&relay, "x@other.test", "remote_5xx").await;
    assert_eq!(other.connections(), 0);
    // Trouble over IPv4 does not make what was said over IPv6 true of it.
    let full = only_mx(&world, "full.test").await;
    full.on("EHLO", Then::ReplyAndClose("421 4.3.2 Too many connections".to_owned()));
    world.dns.aaaa("mx.full.test", std::net::Ipv6Addr::LOCALHOST);
    six.clear_rules();
    six.on("RCPT", Then::reply("550 5.7.1 No PTR record"));
    waits(&relay, "x@full.test", "throttled").await;
    full.clear_rules();
    full.message_to("x@full.test").await;
}

#[test]
fn cl_36_quit_is_sent_and_its_answer_changes_nothing() {
    on_stage(|stage| async {
        let (world, relay) = (&stage.world, &stage.relay);
        let mx = only_mx(world, "cl36.test").await;
        mx.on("QUIT", Then::Hang);
        arrives(relay, &mx, "x@cl36.test").await;
        fate(relay, "delivered", "x@cl36.test").await;
        mx.wait_command("QUIT").await;
        arrives(relay, &mx, "y@cl36.test").await;
        assert_eq!(mx.received().len(), 2);
    });
}

#[tokio::test]
async fn cl_38_a_host_and_a_site_get_no_more_connections_than_they_may() {
    let world = World::start(PROGRAM).await;
    let overlay = "[delivery]\nconnections_per_host = 3\n\
                   [[limit]]\nmx = [\"*.site.test\"]\nconnections = 1\n";
    let relay = world.relay(overlay).await;
    let mx = world.mx("mx.many.test").await;
    let site = [world.mx("a.site.test").await, world.mx("b.site.test").await];
    world.domain("a.test").mx(&[(10, &site[0])]);
    world.domain("b.test").mx(&[(10, &site[1])]);
    site[0].on(".", Then::Hang);
    submit(&relay, "x@a.test").await;
    site[0].wait_command("DATA").await;
    submit(&relay, "x@b.test").await;

    // Many domains at one host.
    mx.on(".", Then::Late("250 2.0.0 Ok".to_owned(), Duration::from_millis(100)));
    for number in 0..15 {
        let domain = format!("d{number}.test");
        world.domain(&domain).mx(&[(10, &mx)]);
        submit(&relay, &format!("x@{domain}")).await;
    }
    relay.event("delivered").times(15).await;
    assert!((2..=3).contains(&mx.open_max()), "{}", mx.open_max());
    assert_eq!(site[1].connections(), 0, "the one place of the site is taken");
}

#[tokio::test]
async fn cl_38_all_hosts_together_get_no_more_connections_than_they_may() {
    let world = World::start(PROGRAM).await;
    let mx = world.mx("mx0.many.test").await;
    mx.on(".", Then::Late("250 2.0.0 Ok".to_owned(), Duration::from_millis(50)));
    let relay = world.relay("[delivery]\nconnections = 3\n").await;
    // Many hosts at one address, so that it sees how many there are at a time.
    for number in 0..12 {
        let (domain, host) = (format!("d{number}.test"), format!("mx{number}.many.test"));
        world.dns.a(&host, mx.ip());
        world.domain(&domain).mx_names(&[(10, &host)]);
        submit(&relay, &format!("x@{domain}")).await;
    }
    relay.event("delivered").times(12).await;
    assert!((2..=3).contains(&mx.open_max()), "{}", mx.open_max());
}

#[tokio::test]
async fn cl_38_a_connection_carries_no_more_messages_than_it_may() {
    let world = World::start(PROGRAM).await;
    let mx = only_mx(&world, "far.test").await;
    let relay =
        world.relay("[delivery]\nmessages_per_connection = 2\nconnection_idle = \"20s\"\n").await;
    for number in 0..5 {
        let recipient = format!("x{number}@far.test");
        submit(&relay, &recipient).await;
        fate(&relay, "delivered", &recipient).await;
    }
    let connections: Vec<_> = mx.messages(5).await.iter().map(|one| one.connection).collect();
    assert_eq!(connections, [1, 1, 2, 2, 3]);
}

#[test]
fn cl_39_private_addresses_from_public_records_are_not_connected_to() {
    on_stage(|stage| async {
        let (world, relay) = (&stage.world, &stage.relay);
        // Outside of the stage's `delivery.allow_addresses`.
        world.dns.a("mx.cl39.test", Ipv4Addr::new(127, 1, 0, 1));
        world.domain("cl39.test").mx_names(&[(10, "mx.cl39.test")]);
        bounces(relay, "x@cl39.test", "address_forbidden").await;
    });
}
