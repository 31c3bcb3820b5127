//! `staunch explain` says what decides about a message, the queue and the operator's switches too.

use serde_json::json;
use world::{Answer, RecordType, World};

use crate::harness::PROGRAM;

#[tokio::test]
async fn what_waits_in_front_and_what_is_held_is_counted() {
    let world = World::start(PROGRAM).await;
    let mx = world.mx("mx.far.test").await;
    world.domain("far.test").mx(&[(10, &mx)]);
    let relay = world.relay("").await;
    let told = &relay.cli_json(&["explain", "x@far.test"]).await[0];
    assert_eq!(told["queue"], json!({"queued": 0, "held": 0, "counted_to": 10_000}));
    relay.cli_json(&["pause", "far.test"]).await;
    let id = relay.submit("a@client.test", &["held@far.test"], "one").await;
    relay.submit("a@client.test", &["b@far.test", "c@far.test"], "two").await;
    relay.submit("a@client.test", &["d@other.test"], "three").await;
    relay.cli_json(&["queue", "hold", &id]).await;
    let output = relay.cli(&["explain", "x@far.test"]).await;
    let text = String::from_utf8(output.stdout).unwrap();
    for line in [
        "queue     2 recipients of this next hop in front",
        "held      1 recipient; staunch queue release --domain far.test",
        "MTA-STS   no policy: far.test publishes no record for it",
    ] {
        assert!(text.lines().any(|said| said == line), "{line}\n{text}");
    }
    assert!(text.contains("mx: 1 host\n"), "{text}");
    assert!(text.contains("nothing is sent there; staunch resume far.test"), "{text}");
}

#[tokio::test]
async fn an_address_that_is_the_host_is_named_once() {
    let world = World::start(PROGRAM).await;
    let dead = World::dead_address();
    let overlay = format!(
        "[[route]]\ndomains = [\"far.test\"]\nvia = [\"smtp://[{dead}]:{}\"]\ntls = \"opportunistic\"\n",
        world.mx_port()
    );
    let relay = world.relay(&overlay).await;
    let output = relay.cli(&["explain", "x@far.test", "--connect"]).await;
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("MTA-STS   not asked: a route says where mail goes\n"), "{text}");
    assert!(text.contains(&format!("host [{dead}]: [{dead}]: connection failed")), "{text}");
    assert!(!text.contains(&format!("[{dead}] [{dead}]")), "{text}");
}

/// On stderr, since scripts read what is on stdout; and with `--json` nowhere.
#[tokio::test]
async fn whoever_waits_for_slow_dns_is_told_so() {
    let world = World::start(PROGRAM).await;
    world.dns.set("slow.test", RecordType::MX, Answer::Drop);
    let relay = world.relay("[dns]\ntimeout = \"1500ms\"\n").await;
    let output = relay.cli(&["explain", "slow.test"]).await;
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(error, "waiting for DNS and other hosts; each may take some seconds ...\n");
    let output = relay.cli(&["explain", "slow.test", "--json"]).await;
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
}
