//! Name servers that are broken, each in its way, cost no mail and no protection while one is left
//! that works.

use world::{Answer, Mode, RecordType, World};

use crate::harness::PROGRAM;

fn servers(all: [&world::Dns; 2]) -> String {
    let [first, second] = all.map(world::Dns::address);
    format!("[dns]\nservers = [\"{first}\", \"{second}\"]\n")
}

#[tokio::test]
async fn one_broken_resolver_of_two_stops_no_mail() {
    let world = World::start(PROGRAM).await;
    let mx = world.mx("mx.far.test").await;
    let broken = world.dns.beside().await;
    for (number, answer) in
        [Answer::ServFail, Answer::Refused, Answer::Drop].into_iter().enumerate()
    {
        broken.outage(Some(answer));
        let domain = format!("d{number}.test");
        world.domain(&domain).mx(&[(10, &mx)]);
        for (order, all) in [[&broken, &world.dns], [&world.dns, &broken]].into_iter().enumerate() {
            let relay = world.relay(&servers(all)).await;
            let to = format!("{order}@{domain}");
            relay.submit("a@client.test", &[&to], "x").await;
            mx.message_to(&to).await;
            assert_eq!(relay.event("deferred").count(), 0, "{domain} {order}");
        }
    }
}

/// With a cap of nothing, mail to a domain never seen goes at once where the TXT query fails.
#[tokio::test]
async fn a_policy_that_one_resolver_of_two_cannot_find_holds() {
    let world = World::start(PROGRAM).await;
    let evil = world.mx("mx.evil.test").await;
    let broken = world.dns.beside().await;
    world.domain("far.test").mx(&[(10, &evil)]).mta_sts(Mode::Enforce, &["mx.far.test"], 86400);
    broken.here_only("_mta-sts.far.test", Some(Answer::ServFail));
    for all in [[&broken, &world.dns], [&world.dns, &broken]] {
        let overlay = servers(all) + "[mta_sts]\ndns_failure_cap = \"0s\"\n";
        let relay = world.relay(&overlay).await;
        relay.submit("a@client.test", &["b@far.test"], "x").await;
        let deferred = relay.event("deferred").await;
        assert_eq!(deferred.text("reason").as_deref(), Some("mx_not_listed"));
    }
    assert_eq!(evil.received().len(), 0);
}

#[tokio::test]
async fn a_resolver_that_is_left_out_is_named() {
    let world = World::start(PROGRAM).await;
    let mx = world.mx("mx.far.test").await;
    let broken = world.dns.beside().await;
    broken.outage(Some(Answer::Refused));
    world.domain("far.test").mx(&[(10, &mx)]);
    let relay = world.relay(&servers([&broken, &world.dns])).await;
    let (good, bad) = (world.dns.address().to_string(), broken.address().to_string());
    relay.submit("a@client.test", &["b@far.test"], "x").await;
    let alarm = relay.event("alarm").with("reason", "resolver_out").await;
    assert_eq!(alarm.text("server"), Some(bad.clone()));
    let health = relay.cli_json(&["healthcheck"]).await;
    let resolvers = health[0]["resolvers"].as_array().unwrap();
    let stands = |at: usize, member: &str| resolvers[at][member].as_str().map(str::to_owned);
    assert_eq!((stands(0, "address"), stands(1, "address")), (Some(bad.clone()), Some(good)));
    assert_eq!(
        (stands(0, "state").as_deref(), stands(1, "state").as_deref()),
        (Some("out"), Some("in_use"))
    );
    let text = String::from_utf8(relay.cli(&["healthcheck"]).await.stdout).unwrap();
    assert!(text.lines().any(|line| line.contains(&bad) && line.contains("out")), "{text}");
    let checked = relay.cli_json(&["config", "check"]).await;
    assert_eq!(checked[0]["valid"], true);
    let warnings = checked[0]["warnings"].to_string();
    assert!(warnings.contains(&format!("{bad} does not answer")), "{warnings}");
}

/// The list is long, and one host of it answers: what stands twice takes no place and is not called
/// twice.
#[tokio::test]
async fn a_host_that_stands_in_many_mx_records_is_called_once() {
    let world = World::start(PROGRAM).await;
    let dead = world.mx("mx.dead.test").await;
    dead.script(|script| script.greeting = world::Greeting::Close);
    let good = world.mx("mx.good.test").await;
    let mut hosts: Vec<(u16, &str)> =
        (0..100).map(|preference| (preference, "mx.dead.test")).collect();
    hosts.push((200, "MX.good.test"));
    world.dns.mx("far.test", &hosts);
    let relay = world.relay("").await;
    relay.submit("a@client.test", &["b@far.test"], "x").await;
    good.message().await;
    assert_eq!(dead.connections(), 1);
}

/// RFC 8461 §8.1: before mail is given up, DNS is asked anew, for hosts and addresses as well.
#[tokio::test]
async fn mail_is_given_up_only_after_a_fresh_look_at_hosts_and_addresses() {
    let world = World::start(PROGRAM).await;
    let mx = world.mx("mx.far.test").await;
    world.dns.set_ttl(3600);
    world.dns.a("mx.far.test", World::dead_address());
    world.domain("far.test").mx(&[(10, &mx)]);
    let relay = world.relay("[delivery]\nretry = [\"1s\"]\nlifetime = \"1s\"\n").await;
    relay.submit("a@client.test", &["b@far.test"], "x").await;
    relay.event("deferred").await;
    world.dns.a("mx.far.test", mx.ip());
    mx.message().await;
    assert!(world.dns.asked("far.test", RecordType::MX) >= 2);
}
