//! Hosts that speak SMTP in their own way get their mail, or what is wrong with them is said.

use world::{Greeting, Mx, Relay, Rule, Then, World};

use crate::harness::PROGRAM;

const RETRY: &str = "[delivery]\nretry = [\"1s\"]\n";

async fn stage(overlay: &str) -> (World, Mx, Relay) {
    let world = World::start(PROGRAM).await;
    let mx = world.mx("mx.far.test").await;
    world.domain("far.test").mx(&[(10, &mx)]);
    let relay = world.relay(overlay).await;
    (world, mx, relay)
}

#[tokio::test]
async fn empty_lines_around_replies_are_passed_over() {
    let (_world, mx, relay) = stage("").await;
    mx.script(|script| {
        script.greeting = Greeting::Reply("\r\n220-mx.far.test\r\n\r\n220 ESMTP\r\n".to_owned());
        script.rules.push(Rule::always("RCPT", Then::reply("250\tTaken")));
    });
    relay.submit("a@client.test", &["b@far.test"], "hello").await;
    assert_eq!(mx.message().await.to, ["b@far.test"]);
}

#[tokio::test]
async fn a_greeting_that_begins_well_and_ends_badly_is_quoted() {
    let (_world, mx, relay) = stage("").await;
    let greeting = "220-mx.far.test ESMTP\r\n521 5.7.1 blocked using bl.test";
    mx.script(|script| script.greeting = Greeting::Reply(greeting.to_owned()));
    relay.submit("a@client.test", &["b@far.test"], "hello").await;
    let deferred = relay.event("deferred").with("recipient", "b@far.test").await;
    assert!(deferred.text("message").unwrap().contains("blocked using bl.test"), "{deferred:?}");
}

#[tokio::test]
async fn recipients_beyond_what_a_host_takes_follow_at_once_whatever_it_calls_that() {
    for (too_many, overlay) in [("431 Later", ""), ("550 5.5.3 Too many", "")] {
        let (_world, mx, relay) = stage(overlay).await;
        mx.script(|script| {
            script.rcpt_max = Some(2);
            script.too_many = too_many.to_owned();
        });
        let recipients: Vec<_> = (0..6).map(|number| format!("b{number}@far.test")).collect();
        let to: Vec<_> = recipients.iter().map(String::as_str).collect();
        relay.submit("a@client.test", &to, "hello").await;
        relay.event("delivered").with("domain", "far.test").times(6).await;
        assert_eq!(relay.event("deferred").count(), 0, "{too_many}");
        assert_eq!((mx.received().len(), mx.connections()), (3, 1), "{too_many}");
    }
}

#[tokio::test]
async fn an_answer_to_the_message_that_cannot_be_read_is_told_and_waits_its_turn() {
    let (_world, mx, relay) = stage(RETRY).await;
    mx.script(|script| script.rules.push(Rule::times(1, ".", Then::reply("Taken, perhaps"))));
    relay.submit("a@client.test", &["b@far.test"], "hello").await;
    let told = relay.event("outcome_unknown").with("mx", "mx.far.test").await;
    assert!(told.text("message").unwrap().contains("Taken, perhaps"), "{told:?}");
    relay.event("deferred").with("reason", "protocol_error").await;
    relay.event("delivered").with("recipient", "b@far.test").await;
}

#[tokio::test]
async fn a_route_that_wants_a_login_makes_mail_wait_and_is_an_alarm() {
    let world = World::start(PROGRAM).await;
    let smart = world.mx("smart.test").await;
    smart.on("MAIL", Then::reply("530 5.7.0 Authentication required"));
    let route = format!(
        "[[route]]\ndomains = [\"*\"]\nvia = [\"smtp://[smart.test]:{}\"]\ntls = \"encrypt\"\n",
        world.mx_port()
    );
    let relay = world.relay(&route).await;
    relay.submit("a@client.test", &["b@far.test"], "hello").await;
    let deferred = relay.event("deferred").with("reason", "auth_failed").await;
    assert!(deferred.text("message").unwrap().contains("username"), "{deferred:?}");
    relay.event("alarm").with("reason", "auth_failed").with("mx", "smart.test").await;
    assert_eq!(relay.event("bounced").count(), 0);
}

#[tokio::test]
async fn an_mx_record_with_an_address_is_named_as_the_domain_owner_s_mistake() {
    let world = World::start(PROGRAM).await;
    world.domain("far.test").mx_names(&[(10, "192.0.2.1")]);
    let relay = world.relay("").await;
    relay.submit("a@client.test", &["b@far.test"], "hello").await;
    let deferred = relay.event("deferred").with("recipient", "b@far.test").await;
    let text = deferred.text("message").unwrap();
    assert!(text.contains("no host but 192.0.2.1") && text.contains("owner"), "{text}");
}
