//! Routes come and go while mail waits for them or is on its way: it goes where it belongs today.

use world::{Mode, Mx, Relay, World};

use crate::harness::PROGRAM;

use super::{At, PATIENT, Slow, reload};

/// A route to `host` for everything.
fn route_to(world: &World, host: &str) -> String {
    let port = world.mx_port();
    format!(
        "[[route]]\ndomains = [\"*\"]\nvia = [\"smtp://[{host}]:{port}\"]\ntls = \"opportunistic\"\n"
    )
}

#[tokio::test]
async fn waiting_mail_follows_a_changed_route_without_waiting_for_its_next_attempt() {
    let world = World::start(PROGRAM).await;
    let good = world.mx("good.test").await;
    world.dns.a("dead.test", World::dead_address());
    let relay = world.relay(&(PATIENT.to_owned() + &route_to(&world, "dead.test"))).await;
    for n in 0..20 {
        let (one, two) = (format!("u{n}@a.test"), format!("u{n}@b{n}.test"));
        relay.submit("a@client.test", &[&one, &two], &format!("m{n}")).await;
    }
    relay.event("deferred").await;
    reload(&relay, &route_to(&world, "good.test")).await;
    good.messages(20).await;
    relay.event("delivered").times(40).await;
    assert_eq!(relay.queue().await.len(), 0);
}

#[tokio::test]
async fn waiting_mail_follows_a_route_that_is_gone_also_over_a_restart() {
    let world = World::start(PROGRAM).await;
    let mx = world.mx("mx.far.test").await;
    world.domain("far.test").mx(&[(10, &mx)]);
    world.domain("near.test").mx(&[(10, &mx)]);
    world.dns.a("dead.test", World::dead_address());
    let mut relay = world.relay(&(PATIENT.to_owned() + &route_to(&world, "dead.test"))).await;
    relay.submit("a@client.test", &["u@far.test", "u@near.test"], "one").await;
    relay.event("deferred").times(2).await;
    relay.submit("a@client.test", &["held@far.test"], "two").await;
    relay.cli_json(&["queue", "hold", "--all"]).await;
    relay.stop().await;
    relay.configure("route = []\n");
    relay.start_again().await;
    relay.cli_json(&["queue", "release", "--all"]).await;
    relay.event("delivered").times(3).await;
}

/// Two domains with a host each, the second with a policy.
struct Two {
    a: Mx,
    b: Mx,
}

impl Two {
    async fn start(world: &World) -> Self {
        let (a, b) = (world.mx("mx.a.test").await, world.mx("mx.b.test").await);
        world.domain("a.test").mx(&[(10, &a)]);
        world.domain("b.test").mx(&[(10, &b)]).mta_sts(Mode::Enforce, &["mx.b.test"], 86_400);
        Self { a, b }
    }

    /// Each gets what is for it, under its own policy, and hears of nobody else's.
    async fn get_their_own(&self, world: &World, relay: &Relay) {
        relay.event("delivered").times(2).await;
        for (recipient, mx) in [("x@a.test", &self.a), ("y@b.test", &self.b)] {
            assert_eq!(mx.messages(1).await[0].to, [recipient]);
            assert_eq!(mx.commanded("RCPT"), 1, "{recipient}");
        }
        assert!(world.domain("b.test").policy_requests() > 0, "its policy counts");
        assert_eq!(relay.event("bounced").count() + relay.event("deferred").count(), 0);
        assert_eq!(relay.queue().await.len(), 0);
    }
}

async fn a_route_goes_while_its_host_stalls(at: At) {
    let world = World::start(PROGRAM).await;
    let two = Two::start(&world).await;
    let slow = Slow::start(&world, at).await;
    let relay = world.relay(&(PATIENT.to_owned() + &route_to(&world, "slow.test"))).await;
    slow.during(async {
        relay.submit("s@client.test", &["x@a.test", "y@b.test"], "one").await;
        slow.reached.notified().await;
        reload(&relay, "route = []\n").await;
        slow.go_on.notify_one();
        two.get_their_own(&world, &relay).await;
    })
    .await;
    assert!(!slow.has_heard("RCPT"));
}

#[tokio::test]
async fn a_route_that_goes_before_mail_is_handed_over_sends_each_to_its_own_domain() {
    a_route_goes_while_its_host_stalls(At::Ehlo).await;
}

#[tokio::test]
async fn a_route_that_goes_while_its_host_hangs_sends_each_to_its_own_domain() {
    a_route_goes_while_its_host_stalls(At::Mail).await;
}

#[tokio::test]
async fn a_route_that_goes_between_recipients_and_data_sends_each_to_its_own_domain() {
    let world = World::start(PROGRAM).await;
    let two = Two::start(&world).await;
    world.dns.a("dead.test", World::dead_address());
    let relay = world.relay(&(PATIENT.to_owned() + &route_to(&world, "dead.test"))).await;
    let mut client = relay.client().await;
    client.expect("MAIL FROM:<s@client.test>", 250).await;
    client.expect("RCPT TO:<x@a.test>", 250).await;
    client.expect("RCPT TO:<y@b.test>", 250).await;
    reload(&relay, "route = []\n").await;
    client.expect("DATA", 354).await;
    client.expect("Subject: one\r\n\r\none\r\n.", 250).await;
    two.get_their_own(&world, &relay).await;
}

/// The other way round: domains that had lanes of their own come to share one.
#[tokio::test]
async fn a_route_that_comes_between_recipients_and_data_takes_them_together() {
    let world = World::start(PROGRAM).await;
    let two = Two::start(&world).await;
    let smart = world.mx("smart.test").await;
    let relay = world.relay(PATIENT).await;
    let mut client = relay.client().await;
    client.expect("MAIL FROM:<s@client.test>", 250).await;
    client.expect("RCPT TO:<x@a.test>", 250).await;
    reload(&relay, &route_to(&world, "smart.test")).await;
    client.expect("RCPT TO:<y@b.test>", 250).await;
    client.expect("DATA", 354).await;
    client.expect("Subject: one\r\n\r\none\r\n.", 250).await;
    relay.event("delivered").times(2).await;
    assert_eq!(smart.message().await.to, ["x@a.test", "y@b.test"]);
    assert_eq!(two.a.connections() + two.b.connections(), 0);
}
