//! Nobody waits for a stranger: who may hold what, and what the log says of who waits.

use std::net::IpAddr;

use world::{Relay, World};

use crate::harness::PROGRAM;

async fn submit(relay: &Relay, recipient: &str) {
    relay.submit("a@client.test", &[recipient], recipient).await;
}

/// One stranger with many names, whose hosts say nothing, beside a customer's domain.
#[tokio::test]
async fn names_below_one_domain_do_not_hold_the_places_of_all() {
    let world = World::start(PROGRAM).await;
    let relay = world.relay("[delivery]\nconnections = 20\nconnections_per_host = 20\n").await;
    let tar = world.mx("mx.evil.test").await;
    tar.script(|script| script.greeting = world::Greeting::Silent);
    let names: Vec<String> = (0..40).map(|number| format!("d{number}.evil.test")).collect();
    for name in &names {
        world.domain(name).mx(&[(10, &tar)]);
    }
    let recipients: Vec<String> = names.iter().map(|name| format!("x@{name}")).collect();
    let recipients: Vec<&str> = recipients.iter().map(String::as_str).collect();
    relay.submit("sender@client.test", &recipients, "spam").await;
    tar.wait_connections(2).await;
    let good = world.mx("mx.good.test").await;
    world.domain("good.test").mx(&[(10, &good)]);
    submit(&relay, "x@good.test").await;
    good.message().await;
    assert_eq!(tar.connections(), 2, "a tenth of the places");
}

/// What waits for a connection of ours is not put off: it goes as soon as there is one.
#[tokio::test]
async fn mail_that_waits_for_a_busy_host_goes_as_soon_as_there_is_room() {
    let world = World::start(PROGRAM).await;
    let overlay = "[delivery]\nconnections_per_host = 1\nretry = [\"1h\"]\n";
    let relay = world.relay(overlay).await;
    let mx = world.mx("mx.site.test").await;
    for number in 0..30 {
        let name = format!("d{number}.test");
        world.domain(&name).mx(&[(10, &mx)]);
        submit(&relay, &format!("x@{name}")).await;
    }
    let all = mx.messages(30).await;
    assert_eq!(all.len(), 30);
    assert_eq!(relay.event("deferred").count(), 0, "nobody was put off");
    assert_eq!(mx.open_max(), 1);
}

/// The log tells of everybody, and once of the next hop.
#[tokio::test]
async fn who_comes_to_a_next_hop_that_waits_has_a_line_and_so_has_the_next_hop() {
    let world = World::start(PROGRAM).await;
    let relay = world.relay("[delivery]\nretry = [\"1h\"]\nconnect_timeout = \"1s\"\n").await;
    world.dns.mx("dead.test", &[(10, "mx.dead.test")]);
    world.dns.a("mx.dead.test", World::dead_address());
    submit(&relay, "a@dead.test").await;
    let lane = relay.event("lane_deferred").with("next_hop", "dead.test").await;
    assert_eq!(lane.text("reason").as_deref(), Some("connect_failed"));
    assert_eq!(lane.text("recipients").as_deref(), Some("1"));
    let own = relay.event("deferred").with("recipient", "a@dead.test").await;
    assert_eq!(own.text("attempts").as_deref(), Some("1"));
    submit(&relay, "b@dead.test").await;
    let joined = relay.event("deferred").with("recipient", "b@dead.test").await;
    assert_eq!(joined.text("attempts").as_deref(), Some("0"));
    assert_eq!(joined.text("next_hop").as_deref(), Some("dead.test"));
    assert_eq!(joined.text("reason").as_deref(), Some("connect_failed"));
    assert_eq!(joined.text("next_attempt_at"), lane.text("next_attempt_at"));
}

/// Whoever owns an address can give it any number of names, of any number of domains.
#[tokio::test]
async fn one_address_that_never_took_mail_has_the_connections_of_one_host() {
    let world = World::start(PROGRAM).await;
    let overlay = "[delivery]\nconnections = 100\nconnections_per_host = 3\nretry = [\"1h\"]\n";
    let relay = world.relay(overlay).await;
    let tar = world.mx("mx.tar.test").await;
    tar.script(|script| script.greeting = world::Greeting::Silent);
    for number in 0..12 {
        let (domain, host) = (format!("tar{number}.test"), format!("mx.host{number}.test"));
        world.dns.mx(&domain, &[(10, &host)]);
        world.dns.a(&host, tar.ip());
        submit(&relay, &format!("x@{domain}")).await;
    }
    tar.wait_connections(3).await;
    let good = world.mx("mx.good.test").await;
    world.domain("good.test").mx(&[(10, &good)]);
    submit(&relay, "x@good.test").await;
    good.message().await;
    assert_eq!(tar.connections(), 3);
    assert_eq!(
        relay.event("deferred").count(),
        0,
        "the others wait for room, and for nothing else"
    );

    // Once it has taken mail it is no stranger.
    let site = world.mx("mx.site.test").await;
    for number in 0..6 {
        let (domain, host) = (format!("site{number}.test"), format!("mx{number}.site.test"));
        world.dns.mx(&domain, &[(10, &host)]);
        world.dns.a(&host, site.ip());
        submit(&relay, &format!("x@{domain}")).await;
    }
    site.messages(6).await;
}

/// Whoever shares a host hears from others that it is down, and that it is back.
#[tokio::test]
async fn a_host_that_is_down_is_asked_by_one_for_all_domains_that_share_it() {
    let world = World::start(PROGRAM).await;
    let relay = world.relay("[delivery]\nretry = [\"1h\"]\nconnections_per_host = 4\n").await;
    let mx = world.mx("mx.site.test").await;
    mx.script(|script| script.greeting = world::Greeting::Close);
    for number in 0..30 {
        let name = format!("d{number}.test");
        world.domain(&name).mx(&[(10, &mx)]);
        submit(&relay, &format!("x@{name}")).await;
    }
    for number in 0..30 {
        let recipient = format!("x@d{number}.test");
        let own = relay.event("deferred").with("recipient", &recipient).await;
        assert_eq!(own.text("reason").as_deref(), Some("connection_lost"));
    }
    let asked = mx.connections();
    assert!(asked <= 4, "the first ones at the same time, and nobody after them: {asked}");

    mx.script(|script| script.greeting = world::Greeting::Good);
    relay.cli(&["queue", "retry", "--domain", "d7.test"]).await;
    mx.messages(30).await;
}

/// However long its next hops would wait.
#[tokio::test]
async fn mail_goes_when_the_host_is_back_and_not_when_a_wait_is_over() {
    let world = World::start(PROGRAM).await;
    let relay = world.relay("[delivery]\nretry = [\"1h\"]\n").await;
    let address = world.free_address().await;
    let IpAddr::V4(ip) = address.ip() else { panic!("{address}") };
    world.dns.a("mx.site.test", ip);
    for number in 0..5 {
        world.dns.mx(&format!("d{number}.test"), &[(10, "mx.site.test")]);
        submit(&relay, &format!("x@d{number}.test")).await;
    }
    for number in 0..5 {
        relay.event("deferred").with("recipient", format!("x@d{number}.test")).await;
    }
    let mx = world.mx_at("mx.site.test", address).await;
    mx.messages(5).await;
}
