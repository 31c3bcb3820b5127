//! A route is taken away while mail for several domains is on its way there: each goes to its own domain.

use world::{Mode, Mx, Relay, World};

use crate::harness::PROGRAM;

use super::{At, PATIENT, Slow, reload, route_to};

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
