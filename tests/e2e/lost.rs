//! What becomes of mail when policies that were known cannot be read any more (decision 13).

use std::path::Path;

use rustix::process::Signal;
use world::{Answer, Mode, Relay, Reply, Serve, World};

use crate::harness::PROGRAM;

/// What a disk, a backup or a hand does to policies.db while the daemon is down.
type Damage = fn(&Path);

fn removed(file: &Path) {
    std::fs::remove_file(file).unwrap();
}

fn emptied(file: &Path) {
    std::fs::write(file, b"").unwrap();
}

fn no_database(file: &Path) {
    std::fs::write(file, [0; 8192]).unwrap();
}

/// The octets of the policy are others than were written.
fn flipped(file: &Path) {
    let mut content = std::fs::read(file).unwrap();
    let (old, new) = (b"version: STSv1", b"version: STSv9");
    let places: Vec<_> =
        (0..content.len() - old.len()).filter(|at| content[*at..].starts_with(old)).collect();
    assert!(!places.is_empty(), "the policy is in the file");
    places.iter().for_each(|at| content[*at..*at + new.len()].copy_from_slice(new));
    std::fs::write(file, content).unwrap();
}

async fn between_two_lives(relay: &mut Relay, damage: Damage) {
    relay.signal(Signal::TERM);
    relay.wait_end().await;
    let file = relay.data_dir().join("policies.db");
    for suffix in ["-wal", "-shm"] {
        // Whichever there is.
        let _ = std::fs::remove_file(relay.data_dir().join(format!("policies.db{suffix}")));
    }
    damage(&file);
    relay.start_again().await;
}

#[tokio::test]
async fn mail_of_a_lost_policy_waits_whatever_dns_says_and_other_mail_goes_on() {
    let cases: [(&str, Damage); 4] = [
        ("removed", removed),
        ("emptied", emptied),
        ("no database", no_database),
        ("flipped", flipped),
    ];
    for (what, damage) in cases {
        let world = World::start(PROGRAM).await;
        let mut relay = world.relay("[mta_sts]\ndns_failure = \"deliver\"\n").await;
        let (good, evil) = (world.mx("mx.far.test").await, world.mx("mx.evil.test").await);
        let domain = world.domain("far.test");
        domain.mx(&[(10, &good)]).mta_sts(Mode::Enforce, &["mx.far.test"], 86_400);
        world.domain("plain.test").mx(&[(10, &evil)]);
        relay.submit("a@client.test", &["known@far.test"], "first").await;
        good.message_to("known@far.test").await;
        relay.cli(&["pause", "plain.test"]).await;

        between_two_lives(&mut relay, damage).await;
        domain.mx(&[(10, &evil)]).serve(Serve::Reply(Reply::status(500, "")));
        domain.record_answer(Answer::NxDomain);
        relay.submit("a@client.test", &["lost@far.test"], "waits").await;
        let deferred = relay.event("deferred").with("recipient", "lost@far.test").await;
        assert_eq!(deferred.text("reason").as_deref(), Some("policy_lost"), "{what}");
        domain.record_answer(Answer::ServFail);
        let mark = relay.mark();
        relay.cli(&["queue", "retry", "--all"]).await;
        let deferred = relay.event("deferred").with("recipient", "lost@far.test").after(mark).await;
        assert_eq!(deferred.text("reason").as_deref(), Some("policy_lost"), "{what}");
        assert_eq!(evil.connections(), 0, "{what}");
        relay.event("alarm").with("reason", "policy_lost").await;

        let health = &relay.cli_json(&["healthcheck"]).await[0];
        assert_eq!(health["paused_hops"][0]["domain"], "plain.test", "{what}: it stays paused");
        relay.submit("a@client.test", &["b@plain.test"], "paused").await;
        relay.cli_json(&["resume", "plain.test"]).await;
        evil.message_to("b@plain.test").await;

        domain.mx(&[(10, &good)]).mta_sts(Mode::Enforce, &["mx.far.test"], 86_400);
        relay.cli(&["policy", "refresh", "far.test"]).await;
        relay.cli(&["queue", "retry", "--all"]).await;
        good.message_to("lost@far.test").await;
    }
}

#[tokio::test]
async fn the_operator_ends_the_wait_for_a_lost_policy() {
    let world = World::start(PROGRAM).await;
    let mut relay = world.relay("").await;
    let (good, other) = (world.mx("mx.far.test").await, world.mx("mx.new.test").await);
    let domain = world.domain("far.test");
    domain.mx(&[(10, &good)]).mta_sts(Mode::Enforce, &["mx.far.test"], 86_400);
    relay.submit("a@client.test", &["known@far.test"], "first").await;
    good.message_to("known@far.test").await;
    between_two_lives(&mut relay, removed).await;
    relay.event("alarm").with("reason", "policies_replaced").await;
    domain.mx(&[(10, &other)]).remove_record().policy_host_down();
    relay.submit("a@client.test", &["lost@far.test"], "waits").await;
    relay.event("deferred").with("recipient", "lost@far.test").await;
    relay.cli(&["policy", "forget", "far.test"]).await;
    relay.cli(&["queue", "retry", "--all"]).await;
    other.message_to("lost@far.test").await;
}
