//! A running daemon is changed, paused, emptied and stopped, and no mail is lost by it.

use rustix::process::Signal;
use world::{Event, Leaf, Mark, Relay, World};

use crate::harness::PROGRAM;

/// Writes `overlay` into the configuration and has it read again by SIGHUP.
async fn reload(relay: &Relay, overlay: &str) -> Event {
    let mark = change(relay, overlay);
    relay.event("config_reloaded").after(mark).await
}

/// The same where the daemon must refuse.
async fn refused(relay: &Relay, overlay: &str) -> Event {
    let mark = change(relay, overlay);
    relay.event("reload_refused").after(mark).await
}

fn change(relay: &Relay, overlay: &str) -> Mark {
    let mark = relay.mark();
    relay.configure(overlay);
    relay.signal(Signal::HUP);
    mark
}

#[tokio::test]
async fn a_tightened_floor_stops_the_next_message_on_a_pooled_connection() {
    let world = World::start(PROGRAM).await;
    let mx = world.mx("mx.far.test").await;
    // A certificate that nobody asked about so far.
    mx.script(|script| {
        script.identity = world.pki.issue(&Leaf::named("mx.far.test").self_signed())
    });
    world.domain("far.test").mx(&[(10, &mx)]);
    let relay = world.relay("[delivery]\nconnection_idle = \"60s\"\n").await;
    relay.submit("a@client.test", &["first@far.test"], "first").await;
    relay.event("delivered").with("recipient", "first@far.test").await;
    assert_eq!(mx.connections(), 1);

    let event = reload(&relay, "[delivery]\ntls = \"verify\"\n").await;
    assert_eq!(event.text("changed").as_deref(), Some("delivery.tls"));
    relay.submit("a@client.test", &["second@far.test"], "second").await;
    let deferred = relay.event("deferred").with("recipient", "second@far.test").await;
    assert_eq!(deferred.text("reason").as_deref(), Some("certificate_untrusted"));
    assert_eq!(mx.received().len(), 1);

    reload(&relay, "[delivery]\ntls = \"opportunistic\"\n").await;
    relay.cli(&["queue", "retry", "--all"]).await;
    relay.event("delivered").with("recipient", "second@far.test").await;
}

#[tokio::test]
async fn a_client_that_may_not_relay_any_more_hears_so_in_the_session_it_has() {
    let world = World::start(PROGRAM).await;
    let relay = world.relay("").await;
    let mut client = relay.client().await;
    client.expect("MAIL FROM:<a@client.test>", 250).await;
    client.expect("RSET", 250).await;
    reload(&relay, "[access]\nnetworks = [\"192.0.2.0/24\"]\n").await;
    client.expect("MAIL FROM:<a@client.test>", 550).await;
    reload(&relay, "[access]\nnetworks = [\"127.0.0.0/8\"]\n").await;
    client.expect("MAIL FROM:<a@client.test>", 250).await;
    client.expect("QUIT", 221).await;
}

#[tokio::test]
async fn a_configuration_that_is_refused_changes_nothing() {
    let world = World::start(PROGRAM).await;
    let relay = world.relay("").await;
    let before = std::fs::read_to_string(relay.config_file()).unwrap();
    for (overlay, key) in [
        // The second key is fine, and must not count either.
        ("[delivery]\ntls = \"loose\"\n[access]\nnetworks = []\n", "delivery.tls"),
        ("data_dir = \"/nonexistent\"\n[access]\nnetworks = []\n", "data_dir"),
        ("[log]\nformat = \"text\"\n[access]\nnetworks = []\n", "log.format"),
        ("[tls]\nca_file = \"/nonexistent/ca.pem\"\n[access]\nnetworks = []\n", "tls.ca_file"),
        ("[nonsense]\n[access]\nnetworks = []\n", "nonsense"),
    ] {
        let event = refused(&relay, overlay).await;
        assert_eq!(event.text("key").as_deref(), Some(key), "{event:?}");
        let output = relay.cli(&["reload"]).await;
        assert_eq!(output.status.code(), Some(78), "{output:?}");
        relay.client().await.expect("MAIL FROM:<a@client.test>", 250).await;
        std::fs::write(relay.config_file(), &before).unwrap();
    }
    assert_eq!(relay.event("config_reloaded").count(), 0);
}

#[tokio::test]
async fn reload_by_command_says_what_changed() {
    let world = World::start(PROGRAM).await;
    let relay = world.relay("").await;
    assert_eq!(relay.cli_json(&["reload"]).await[0]["changed"].as_array().unwrap().len(), 0);
    relay.configure("[limits]\nrecipients = 1\n[log]\nlevel = \"debug\"\n");
    let said = relay.cli_json(&["reload"]).await;
    assert_eq!(said[0]["changed"], serde_json::json!(["limits.recipients", "log.level"]));
    let mut client = relay.client().await;
    client.expect("MAIL FROM:<a@client.test>", 250).await;
    client.expect("RCPT TO:<one@far.test>", 250).await;
    client.expect("RCPT TO:<two@far.test>", 452).await;
    // The debug level is in effect: it tells of clients that go away.
    client.send(b"DATA\r\n").await.unwrap();
    drop(client);
    relay.event("connection_lost").await;
}
