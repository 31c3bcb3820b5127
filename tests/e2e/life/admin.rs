//! Whoever speaks to the daemon badly, or goes away in the middle, harms neither mail nor the
//! daemon's end.

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use world::{Relay, World};

use crate::harness::PROGRAM;

/// A connection to the door of the command line.
async fn door(relay: &Relay) -> UnixStream {
    let path = relay.config_file().with_file_name("admin.sock");
    UnixStream::connect(path).await.unwrap()
}

/// A request with JSON.
fn post(path: &str, json: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: staunch\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{json}",
        json.len()
    )
}

/// How many recipients are held back.
async fn held(relay: &Relay) -> u64 {
    let mut stream = door(relay).await;
    let request = "GET /v1/queue/summary HTTP/1.1\r\nHost: staunch\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    let summary: serde_json::Value = serde_json::from_str(body).unwrap();
    summary["held"].as_u64().unwrap()
}

/// Three thousand recipients, more than are acted upon at once.
async fn submit_many(relay: &Relay) {
    let recipients: Vec<String> = (0..1_000).map(|n| format!("r{n}@far.test")).collect();
    let recipients: Vec<&str> = recipients.iter().map(String::as_str).collect();
    for body in ["one", "two", "three"] {
        relay.submit("a@client.test", &recipients, body).await;
    }
}

#[tokio::test]
async fn who_asks_nothing_or_only_half_does_not_hold_up_the_end() {
    let world = World::start(PROGRAM).await;
    let mut relay = world.relay("shutdown_grace = \"10m\"\n").await;
    let whole = post("/v1/pause", "{\"domain\": \"far.test\"}");
    let half = whole.strip_suffix("test\"}").unwrap();
    let mut kept = Vec::new();
    for said in ["", "GET /heal", half, "\0\u{ff}\r\n\r\n"] {
        let mut stream = door(&relay).await;
        stream.write_all(said.as_bytes()).await.unwrap();
        kept.push(stream);
    }
    let state = &relay.cli_json(&["queue", "summary"]).await[0];
    assert_eq!(state["paused_hops"], json!([]), "half a request is none");
    assert!(relay.stop().await.success());
}

#[tokio::test]
async fn what_was_begun_is_done_although_whoever_asked_has_gone() {
    let world = World::start(PROGRAM).await;
    let relay = world.relay("").await;
    relay.cli_json(&["pause"]).await;
    submit_many(&relay).await;
    let mut stream = door(&relay).await;
    stream.write_all(post("/v1/queue/hold", "{\"all\": true}").as_bytes()).await.unwrap();
    while held(&relay).await == 0 {}
    drop(stream);
    relay.event("queue_order").with("recipients", 3_000).await;

    // And who waits hears how many.
    let mut stream = door(&relay).await;
    let release = post("/v1/queue/release", "{\"all\": true}");
    stream.write_all(release.as_bytes()).await.unwrap();
    let mut answer = [0; 4096];
    let octets = stream.read(&mut answer).await.unwrap();
    assert!(String::from_utf8_lossy(&answer[..octets]).contains("\"count\":3000"));
}

/// They match as well as what they are about, and stand behind it in the queue.
#[tokio::test]
async fn the_notices_that_giving_up_makes_are_not_given_up() {
    let world = World::start(PROGRAM).await;
    let relay = world.relay("").await;
    relay.cli_json(&["pause"]).await;
    submit_many(&relay).await;
    let said = &relay.cli_json(&["queue", "bounce", "--all"]).await[0];
    assert_eq!((&said["count"], &said["being_sent"]), (&json!(3_000), &json!(0)));
    assert_eq!(relay.event("dsn_undeliverable").count(), 0);
    let left = relay.queue().await;
    assert!(!left.is_empty());
    assert!(left.iter().all(|row| row["recipient"] == "a@client.test"), "{left:?}");
}
