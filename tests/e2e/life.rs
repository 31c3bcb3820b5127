//! A running daemon is changed, paused, emptied and stopped, and no mail is lost by it.

mod admin;
mod reloads;
mod routes;

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::sync::Mutex;

use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use world::{Client, Event, Leaf, Mark, Relay, Rule, Then, Trust, World};

use crate::harness::PROGRAM;

/// Writes `overlay` into the configuration and has it read again by SIGHUP.
async fn reload(relay: &Relay, overlay: &str) -> Event {
    let mark = change(relay, overlay);
    relay.event("config_reloaded").after(mark).await
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

/// What it was made by cannot be seen in a connection: it serves nobody else.
#[tokio::test]
async fn a_pooled_connection_made_by_rules_of_yesterday_is_ended() {
    let world = World::start(PROGRAM).await;
    let mx = world.mx("mx.far.test").await;
    world.domain("far.test").mx(&[(10, &mx)]);
    let relay = world.relay("[delivery]\nconnection_idle = \"60s\"\n").await;
    let send = async |name: &str| {
        relay.submit("a@client.test", &[&format!("{name}@far.test")], name).await;
        relay.event("delivered").with("recipient", format!("{name}@far.test")).await;
    };
    send("first").await;
    reload(&relay, "[limits]\nrecipients = 7\n[delivery]\ntls = \"encrypt\"\n").await;
    send("second").await;
    assert_eq!(mx.connections(), 1, "it is as good as it was");
    reload(&relay, "[tls]\nmin_version = \"1.3\"\n").await;
    send("third").await;
    assert_eq!(mx.connections(), 2);
    reload(&relay, "[delivery]\nallow_addresses = []\n").await;
    relay.submit("a@client.test", &["fourth@far.test"], "fourth").await;
    relay.event("mx_refused").with("reason", "address_forbidden").await;
    assert_eq!(mx.received().len(), 3);
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
    client.expect("MAIL FROM:<a@client.test> SIZE=1000000", 250).await;
    client.expect("RSET", 250).await;
    // Also what is judged by what the session was offered.
    reload(&relay, "[limits]\nmessage_size = \"64KiB\"\n").await;
    client.expect("MAIL FROM:<a@client.test> SIZE=1000000", 552).await;
    client.expect("MAIL FROM:<a@client.test> SIZE=1000", 250).await;
    client.expect("QUIT", 221).await;
}

/// The end of a message with a bare LF.
async fn send_bare_newline(client: &mut Client, code: u16) {
    client.expect("MAIL FROM:<a@client.test>", 250).await;
    client.expect("RCPT TO:<b@far.test>", 250).await;
    client.expect("DATA", 354).await;
    client.send(b"Subject: bare\nnewline\r\n\r\n.\r\n").await.unwrap();
    assert_eq!(client.reply().await.unwrap().code, code);
}

#[tokio::test]
async fn a_listener_that_was_tightened_binds_the_sessions_that_it_has() {
    let world = World::start(PROGRAM).await;
    let files = world.key_files("relay.test");
    let listener = |address: &str, more: &str| {
        format!("[[listener]]\naddress = \"{address}\"\n{}{more}", files.toml())
    };
    let loose = "bare_newline = \"normalize\"\nrequire_tls = true\n";
    let relay = world.relay(&listener("127.0.0.1:0", loose)).await;
    let trust = Trust::in_ca(&world.pki);
    let mut client = relay.client().await.starttls(&trust, "relay.test").await.unwrap();
    client.expect("MAIL FROM:<a@client.test> REQUIRETLS", 250).await;
    client.expect("RSET", 250).await;
    send_bare_newline(&mut client, 250).await;
    reload(&relay, &listener("127.0.0.1:0", "")).await;
    client.expect("MAIL FROM:<a@client.test> REQUIRETLS", 555).await;
    send_bare_newline(&mut client, 550).await;

    // What it is for, who speaks for others there, and whether it is there at all.
    for changed in [
        listener("127.0.0.1:0", "mode = \"submission\"\n"),
        listener("127.0.0.1:0", "proxy_protocol_from = [\"127.0.0.1\"]\n"),
        listener("127.0.0.3:0", ""),
    ] {
        reload(&relay, &listener("127.0.0.1:0", "")).await;
        let mut client = relay.client().await;
        client.expect("MAIL FROM:<a@client.test>", 250).await;
        reload(&relay, &changed).await;
        client.expect("RCPT TO:<b@far.test>", 250).await;
        client.expect("RSET", 250).await;
        client.expect("MAIL FROM:<a@client.test>", 421).await;
        assert!(client.is_closed().await, "{changed}");
        relay.event("rejected").with("reason", "listener_changed").await;
    }
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
        let mark = change(&relay, overlay);
        relay.event("reload_refused").with("key", key).after(mark).await;
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
    relay.configure("[limits]\nrecipients = 1\n[log]\nlevel = \"warn\"\n");
    let said = relay.cli_json(&["reload"]).await;
    assert_eq!(said[0]["changed"], json!(["limits.recipients", "log.level"]));
    let mut client = relay.client().await;
    client.expect("MAIL FROM:<a@client.test>", 250).await;
    client.expect("RCPT TO:<one@far.test>", 250).await;
    client.expect("RCPT TO:<two@far.test>", 452).await;
    relay.configure("[log]\nlevel = \"info\"\n");
    relay.cli_json(&["reload"]).await;
    client.expect("RCPT TO:<three@far.test>", 452).await;
    relay.event("rejected").with("recipient", "three@far.test").await;
    assert_eq!(relay.event("rejected").count(), 1, "the first was no more than information");
}

/// A failed attempt is not repeated within the test.
const PATIENT: &str = "[delivery]\nretry = [\"1h\"]\n";

#[tokio::test]
async fn a_pause_of_everything_holds_over_a_restart_while_mail_is_accepted() {
    let world = World::start(PROGRAM).await;
    let mx = world.mx("mx.far.test").await;
    world.domain("far.test").mx(&[(10, &mx)]);
    let mut relay = world.relay("").await;
    let state = &relay.cli_json(&["pause"]).await[0];
    assert!(state["paused"].is_string() && state["draining"].is_null(), "{state}");
    relay.submit("a@client.test", &["b@far.test"], "one").await;
    relay.stop().await;
    relay.start_again().await;
    relay.submit("a@client.test", &["c@far.test"], "two").await;
    let summary = &relay.cli_json(&["queue", "summary", "--by", "domain"]).await[0];
    assert!(summary["paused"].is_string(), "{summary}");
    assert_eq!(summary["groups"], json!([{ "domain": "far.test", "recipients": 2 }]));
    assert_eq!(mx.connections(), 0);
    let state = &relay.cli_json(&["resume"]).await[0];
    assert!(state["paused"].is_null(), "{state}");
    relay.event("delivered").times(2).await;
}

#[tokio::test]
async fn a_pause_of_one_next_hop_leaves_the_others_alone() {
    let world = World::start(PROGRAM).await;
    let (far, near) = (world.mx("mx.far.test").await, world.mx("mx.near.test").await);
    world.domain("far.test").mx(&[(10, &far)]);
    world.domain("near.test").mx(&[(10, &near)]);
    let relay = world.relay("").await;
    let state = &relay.cli_json(&["pause", "far.test"]).await[0];
    assert_eq!(state["paused_hops"][0]["domain"], "far.test");
    assert_eq!(state["paused_hops"][0]["next_hops"], json!(["far.test"]));
    relay.submit("a@client.test", &["b@far.test", "b@near.test"], "one").await;
    relay.event("delivered").with("recipient", "b@near.test").await;
    let queued = relay.queued("b@far.test").await.unwrap();
    assert_eq!((&queued["state"], &queued["attempts"]), (&json!("queued"), &json!(0)));
    for (address, paused) in [("b@far.test", json!("far.test")), ("b@near.test", Value::Null)] {
        let told = &relay.cli_json(&["explain", address]).await[0];
        assert_eq!(told["paused"], Value::Null, "{told}");
        assert_eq!(*told.pointer("/paused_hops/0/domain").unwrap_or(&Value::Null), paused);
    }
    assert_eq!(relay.cli(&["resume", "near.test"]).await.status.code(), Some(1));
    relay.cli_json(&["resume", "far.test"]).await;
    relay.event("delivered").with("recipient", "b@far.test").await;
    assert_eq!(far.received().len(), 1);
}

#[tokio::test]
async fn a_drained_relay_takes_nothing_new_and_sends_what_it_has() {
    let world = World::start(PROGRAM).await;
    let mx = world.mx("mx.far.test").await;
    world.domain("far.test").mx(&[(10, &mx)]);
    let mut relay = world.relay("").await;
    relay.cli_json(&["pause"]).await;
    relay.submit("a@client.test", &["b@far.test"], "one").await;
    let mut client = relay.client().await;
    let mut begun = relay.client().await;
    begun.expect("MAIL FROM:<a@client.test>", 250).await;
    begun.expect("RCPT TO:<b@far.test>", 250).await;
    relay.cli_json(&["drain"]).await;
    let reply = client.expect("MAIL FROM:<a@client.test>", 451).await;
    assert!(reply.text().starts_with("4.3.2 "), "{reply:?}");
    begun.expect("DATA", 451).await;
    assert_eq!(relay.cli(&["healthcheck"]).await.status.code(), Some(1), "not for new mail");
    let told = relay.cli(&["resume"]).await;
    let told = String::from_utf8(told.stdout).unwrap();
    assert!(told.ends_with("staunch drain --off\n"), "{told}");
    relay.event("delivered").with("recipient", "b@far.test").await;
    relay.stop().await;
    relay.start_again().await;
    let mut client = relay.client().await;
    client.expect("MAIL FROM:<a@client.test>", 451).await;
    relay.cli_json(&["drain", "--off"]).await;
    client.expect("MAIL FROM:<a@client.test>", 250).await;
    assert!(relay.cli(&["healthcheck"]).await.status.success());
}

#[expect(clippy::disallowed_methods, reason = "the daemon's clock is this one, too")]
fn now() -> jiff::Timestamp {
    jiff::Timestamp::now()
}

#[tokio::test]
async fn held_mail_waits_beyond_its_lifetime_and_is_tried_when_released() {
    let world = World::start(PROGRAM).await;
    let mx = world.mx("mx.far.test").await;
    mx.script(|script| script.rules.push(Rule::times(2, "RCPT", Then::reply("450 4.2.1 Later"))));
    world.domain("far.test").mx(&[(10, &mx)]);
    let relay = world.relay("[delivery]\nretry = [\"1h\"]\nlifetime = \"1s\"\n").await;
    let (kept, other) = ("kept@far.test", "other@far.test");
    let id = relay.submit("a@client.test", &[kept, other], "one").await;
    relay.event("deferred").times(2).await;
    let count = |value: &[Value]| value[0]["count"].as_u64().unwrap();
    assert_eq!(count(&relay.cli_json(&["queue", "hold", &id]).await), 2);
    let row = relay.queued(kept).await.unwrap();
    assert_eq!(row["state"], "held");
    // Past its lifetime by the time that this has been asked for; a retry is not for held mail.
    let states = || async {
        let rows = relay.cli_json(&["queue", "list", "--state", "held"]).await;
        rows.iter().fold(BTreeMap::new(), |mut counts, row| {
            *counts.entry(row["state"].to_string()).or_insert(0) += 1;
            counts
        })
    };
    let expires: jiff::Timestamp = row["expires_at"].as_str().unwrap().parse().unwrap();
    while now() < expires {
        assert_eq!(states().await.into_values().sum::<i32>(), 2);
    }
    assert_eq!(count(&relay.cli_json(&["queue", "retry", "--all"]).await), 0);
    assert_eq!(count(&relay.cli_json(&["queue", "release", "--domain", "far.test"]).await), 2);
    relay.event("delivered").times(2).await;
    assert_eq!(relay.event("bounced").count(), 0);
}

/// Where a [`Slow`] host keeps its client waiting.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum At {
    Ehlo,
    /// There it hangs up instead of going on.
    Mail,
    EndOfData,
}

/// A host in clear text that stops once, says so, and goes on when it is told.
struct Slow {
    listener: TcpListener,
    at: At,
    reached: Notify,
    go_on: Notify,
    heard: Mutex<Vec<String>>,
}

impl Slow {
    /// The host `slow.test` of `world`.
    async fn start(world: &World, at: At) -> Self {
        let address = Ipv4Addr::new(127, 0, 77, 7);
        world.dns.a("slow.test", address);
        let listener = TcpListener::bind((address, world.mx_port())).await.unwrap();
        let (reached, go_on, heard) = Default::default();
        Self { listener, at, reached, go_on, heard }
    }

    /// Serves one client after the other while `test` runs.
    async fn during<T>(&self, test: impl Future<Output = T>) -> T {
        tokio::select! {
            () = self.serve() => unreachable!("it serves for ever"),
            result = test => result,
        }
    }

    async fn serve(&self) {
        let mut stalls = Some(self.at);
        loop {
            let (mut stream, _) = self.listener.accept().await.unwrap();
            // A client that goes away is part of some tests.
            let _ = self.session(&mut stream, &mut stalls).await;
        }
    }

    async fn session(&self, stream: &mut TcpStream, stalls: &mut Option<At>) -> io::Result<()> {
        let (input, mut output) = stream.split();
        output.write_all(b"220 slow.test\r\n").await?;
        let mut lines = BufReader::new(input).lines();
        let mut is_in_data = false;
        while let Some(line) = lines.next_line().await? {
            let is_end = is_in_data && line == ".";
            if is_in_data && !is_end {
                continue;
            }
            self.heard.lock().unwrap().push(line.clone());
            let here = if is_end {
                Some(At::EndOfData)
            } else if line.starts_with("MAIL") {
                Some(At::Mail)
            } else {
                line.starts_with("EHLO").then_some(At::Ehlo)
            };
            if here.is_some() && *stalls == here {
                *stalls = None;
                self.reached.notify_one();
                self.go_on.notified().await;
                if here == Some(At::Mail) {
                    return Ok(());
                }
            }
            let reply = match line.get(..4) {
                Some("DATA") => "354 go on",
                Some("QUIT") => "221 bye",
                Some("STAR") => "502 no",
                _ => "250 ok",
            };
            is_in_data = line == "DATA";
            output.write_all(format!("{reply}\r\n").as_bytes()).await?;
        }
        Ok(())
    }

    fn has_heard(&self, line: &str) -> bool {
        self.heard.lock().unwrap().iter().any(|heard| heard.starts_with(line))
    }
}

/// It was about to be sent by the rules that held when its attempt began.
#[tokio::test]
async fn a_rule_tightened_while_a_host_is_slow_stops_the_message() {
    let world = World::start(PROGRAM).await;
    let slow = Slow::start(&world, At::Ehlo).await;
    world.domain("far.test").mx_names(&[(10, "slow.test")]);
    let relay = world.relay(PATIENT).await;
    slow.during(async {
        relay.submit("a@client.test", &["b@far.test"], "one").await;
        slow.reached.notified().await;
        reload(&relay, "[delivery]\ntls = \"encrypt\"\n").await;
        slow.go_on.notify_one();
        let deferred = relay.event("deferred").await;
        assert_eq!(deferred.text("reason").as_deref(), Some("starttls_not_offered"));
    })
    .await;
    assert!(slow.has_heard("STARTTLS") && !slow.has_heard("MAIL"));
}

#[tokio::test]
async fn a_stop_lets_the_transfer_under_way_end() {
    let world = World::start(PROGRAM).await;
    let slow = Slow::start(&world, At::EndOfData).await;
    world.domain("far.test").mx_names(&[(10, "slow.test")]);
    let mut relay = world.relay("shutdown_grace = \"20s\"\n").await;
    relay.submit("a@client.test", &["b@far.test"], "one").await;
    slow.during(async {
        slow.reached.notified().await;
        relay.signal(Signal::TERM);
        relay.event("stopping").await;
        slow.go_on.notify_one();
        assert!(relay.wait_end().await.success());
    })
    .await;
    assert_eq!(relay.event("delivered").count(), 1);
    assert!(slow.has_heard("QUIT"), "its connection ends politely");
    relay.start_again().await;
    assert_eq!(relay.queue().await.len(), 0);
}

#[tokio::test]
async fn a_transfer_that_hangs_is_cut_at_the_end_of_the_grace_and_waits_in_the_queue() {
    let world = World::start(PROGRAM).await;
    let slow = Slow::start(&world, At::EndOfData).await;
    world.domain("far.test").mx_names(&[(10, "slow.test")]);
    let mut relay = world.relay("shutdown_grace = \"1s\"\n").await;
    relay.submit("a@client.test", &["b@far.test"], "one").await;
    slow.during(async {
        slow.reached.notified().await;
        assert!(relay.stop().await.success());
        assert_eq!(relay.event("deferred").count() + relay.event("delivered").count(), 0);
        slow.go_on.notify_one();
        relay.start_again().await;
        relay.event("delivered").await;
    })
    .await;
}

#[tokio::test]
async fn mail_that_the_operator_returns_comes_back_once_and_what_is_under_way_does_not() {
    let world = World::start(PROGRAM).await;
    let slow = Slow::start(&world, At::EndOfData).await;
    let home = world.mx("mx.home.test").await;
    world.domain("home.test").mx(&[(10, &home)]);
    world.domain("far.test").mx_names(&[(10, "slow.test")]);
    world.domain("dead.test").mx_names(&[(10, "dead.test")]);
    world.dns.a("dead.test", World::dead_address());
    let relay = world.relay(PATIENT).await;
    relay.submit("ann@home.test", &["b@dead.test", "c@dead.test"], "one").await;
    relay.event("deferred").times(2).await;
    relay.submit("ann@home.test", &["held@dead.test"], "two").await;
    relay.cli_json(&["queue", "hold", "--domain", "dead.test"]).await;
    slow.during(async {
        relay.submit("ann@home.test", &["b@far.test"], "three").await;
        slow.reached.notified().await;
        let said = &relay.cli_json(&["queue", "bounce", "--all"]).await[0];
        assert_eq!((&said["count"], &said["being_sent"]), (&json!(3), &json!(1)), "{said}");
        slow.go_on.notify_one();
        relay.event("delivered").with("recipient", "b@far.test").await;
    })
    .await;
    let texts: Vec<String> = home.messages(2).await.iter().map(|notice| notice.text()).collect();
    let about = |word: &str| texts.iter().filter(|text| text.contains(word)).count();
    assert_eq!((about("b@dead.test"), about("c@dead.test"), about("held@dead.test")), (1, 1, 1));
    assert!(texts.iter().all(|text| text.contains("Status: 5.3.0")), "{texts:?}");
    assert_eq!(relay.event("bounced").with("reason", "returned_by_operator").count(), 3);
    assert_eq!(relay.queue().await.len(), 0);
}

#[tokio::test]
async fn a_second_signal_ends_at_once() {
    let world = World::start(PROGRAM).await;
    let slow = Slow::start(&world, At::EndOfData).await;
    world.domain("far.test").mx_names(&[(10, "slow.test")]);
    let mut relay = world.relay("shutdown_grace = \"1h\"\n").await;
    relay.submit("a@client.test", &["b@far.test"], "one").await;
    slow.during(async {
        slow.reached.notified().await;
        relay.signal(Signal::TERM);
        relay.event("stopping").await;
        relay.signal(Signal::INT);
        assert!(relay.wait_end().await.success());
    })
    .await;
    relay.configure("[delivery]\nport = 1\n");
    relay.start_again().await;
    let row = relay.queued("b@far.test").await.unwrap();
    assert_eq!(row["sender"], "a@client.test");
}
