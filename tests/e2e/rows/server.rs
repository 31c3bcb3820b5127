//! What clients may say to us, row by row.

use std::net::{IpAddr, Ipv4Addr};

use world::{Client, KeyFiles, Relay, SmtpReply, Trust, World, message};

use crate::harness::PROGRAM;

const STRANGER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

/// A daemon whose listener has a certificate; `more` belongs to the listener.
async fn with_certificate(world: &World, more: &str) -> Relay {
    let files: KeyFiles = world.key_files("relay.test");
    world.relay(&format!("[[listener]]\naddress = \"127.0.0.1:0\"\n{}{more}", files.toml())).await
}

async fn in_tls(world: &World, relay: &Relay) -> Client {
    relay.client().await.starttls(&Trust::in_ca(&world.pki), "relay.test").await.unwrap()
}

fn starts(reply: &SmtpReply, status: &str) {
    assert!(reply.text().starts_with(status), "{status}: {reply:?}");
}

/// RFC 3207 §4.
#[tokio::test]
async fn sv_15_starttls_stands_alone_once_and_not_inside_tls() {
    let world = World::start(PROGRAM).await;
    let relay = with_certificate(&world, "").await;
    let mut client = relay.client().await;
    assert_eq!(client.keyword("STARTTLS"), Some(""));
    starts(&client.expect("STARTTLS now", 501).await, "5.5.4");
    let mut client = client.starttls(&Trust::in_ca(&world.pki), "relay.test").await.unwrap();
    assert_eq!(client.keyword("STARTTLS"), None);
    client.expect("STARTTLS", 503).await;
    client.expect("NOOP", 250).await;

    let without = world.relay("").await;
    let mut client = without.client().await;
    assert_eq!(client.keyword("STARTTLS"), None);
    let reply = client.command("STARTTLS").await.unwrap();
    assert!(matches!(reply.code, 502 | 503), "{reply:?}");
}

/// RFC 3207 §4.2, CVE-2011-0411: in one segment with STARTTLS, and in the next.
#[tokio::test]
async fn sv_16_plaintext_behind_starttls_is_thrown_away() {
    let world = World::start(PROGRAM).await;
    let relay = with_certificate(&world, "").await;
    let trust = Trust::in_ca(&world.pki);
    for injected in ["MAIL FROM:<x@evil.test>\r\n", "EHLO evil.test\r\nRSET\r\n", "x"] {
        let mut client = relay.client().await;
        client.send(format!("STARTTLS\r\n{injected}").as_bytes()).await.unwrap();
        assert!(client.is_closed().await, "{injected:?}");
    }
    relay.event("rejected").with("reason", "plaintext_before_tls").times(3).await;

    // After the 220 it is part of a handshake, and no good one.
    let mut client = relay.client().await;
    client.expect("STARTTLS", 220).await;
    client.send(b"MAIL FROM:<x@evil.test>\r\n").await.unwrap();
    let answer = client.rest().await;
    assert!(!answer.starts_with(b"2") && !answer.starts_with(b"5"), "{answer:?}");

    // What was said before TLS is forgotten.
    let mut client = relay.client().await;
    client.expect("MAIL FROM:<before@client.test>", 250).await;
    client.expect("STARTTLS", 220).await;
    let mut client = client.secure(&trust, "relay.test").await.unwrap();
    client.expect("RCPT TO:<b@far.test>", 503).await;
    client.expect("MAIL FROM:<a@client.test>", 503).await;
    client.ehlo().await.unwrap();
    client.expect("RCPT TO:<b@far.test>", 503).await;
    client.expect("MAIL FROM:<a@client.test>", 250).await;
    assert!(relay.queue().await.is_empty());
}

/// RFC 5321 §4.5.3.2.7. Not the wait for an octet counts but that for a whole command, or for
/// content worth the name. That the default is five minutes is a test of the configuration.
#[tokio::test]
async fn sv_20_a_client_that_takes_too_long_hears_421() {
    let world = World::start(PROGRAM).await;
    let relay = world.relay("[limits]\nclient_timeout = \"2s\"").await;
    let mut idle = relay.client().await;
    starts(&idle.reply().await.unwrap(), "4.4.2");
    assert!(idle.is_closed().await);

    let commands: [&[&str]; 2] =
        [&[], &["MAIL FROM:<a@client.test>", "RCPT TO:<b@far.test>", "DATA"]];
    for before in commands {
        let mut dribbling = relay.client().await;
        for command in before {
            dribbling.command(command).await.unwrap();
        }
        let pace = std::time::Duration::from_millis(100);
        let mut octets = 0;
        let reply = loop {
            match tokio::time::timeout(pace, dribbling.reply()).await {
                Ok(reply) => break reply.unwrap(),
                Err(_) => dribbling.send(b"x").await.unwrap(),
            }
            octets += 1;
            assert!(octets < 100, "it may go on for ever");
        };
        assert_eq!(reply.code, 421, "{before:?}");
        assert!(octets > 3, "closed too early");
    }
    assert!(relay.queue().await.is_empty());
}

/// The refusal comes behind the true end, however far away that is; nothing of the message is kept
/// until then.
#[tokio::test]
async fn sv_03_what_was_kept_of_a_refused_message_is_gone_before_it_ends() {
    let world = World::start(PROGRAM).await;
    let relay = world.relay("").await;
    let drafts = relay.data_dir().join("tmp");
    let wait_for = async |count: usize| loop {
        if std::fs::read_dir(&drafts).unwrap().count() == count {
            return;
        }
        tokio::task::yield_now().await;
    };
    let limit = world::log::LIMIT;
    let mut client = relay.client().await;
    client.expect("MAIL FROM:<a@client.test>", 250).await;
    client.expect("RCPT TO:<b@far.test>", 250).await;
    client.expect("DATA", 354).await;
    let line = format!("{}\r\n", "x".repeat(78));
    client.send(format!("Subject: large\r\n\r\n{}", line.repeat(5000)).as_bytes()).await.unwrap();
    tokio::time::timeout(limit, wait_for(1)).await.expect("it is on its way to the disk");
    client.send(b"\0").await.unwrap();
    tokio::time::timeout(limit, wait_for(0)).await.expect("it is dropped");
    client.send(format!("{line}.\r\n").as_bytes()).await.unwrap();
    starts(&client.reply().await.unwrap(), "5.5.2");
    let refused = relay.event("rejected").with("reason", "nul_in_content").await;
    assert_eq!(refused.text("sender").as_deref(), Some("a@client.test"));
    client.expect("NOOP", 250).await;
}

/// Whoever names recipients fills memory, too; what was promised to others, and to its own header,
/// is left.
#[tokio::test]
async fn recipients_count_as_memory_and_leave_room_for_messages() {
    let world = World::start(PROGRAM).await;
    world.dns.outage(Some(world::Answer::Refused));
    let relay = world.relay("[limits]\nmemory = \"1MiB\"\nrecipients = 1000\n").await;
    let mut greedy = relay.client().await;
    greedy.expect("MAIL FROM:<a@client.test>", 250).await;
    let long = format!("{}.{}.far.test", "x".repeat(60), "y".repeat(60));
    let mut taken = 0;
    let refused = loop {
        let command = format!("RCPT TO:<{taken}.{}@{long}>", "z".repeat(50));
        let reply = greedy.command(&command).await.unwrap();
        if reply.code != 250 {
            break reply;
        }
        taken += 1;
    };
    assert_eq!(refused.code, 452);
    starts(&refused, "4.3.1");
    assert!(taken > 100, "{taken}");
    relay.event("rejected").with("reason", "memory_exhausted").await;

    let content = message("a@client.test", "b@far.test", "small");
    let mut other = relay.client().await;
    let reply = other.transact("a@client.test", &["b@far.test"], &content).await.unwrap();
    assert_eq!(reply.code, 250, "{reply:?}");
    greedy.expect("DATA", 354).await;
    greedy.send(format!("X: {}\r\n\r\nbody\r\n.\r\n", "x".repeat(3000)).as_bytes()).await.unwrap();
    assert_eq!(greedy.reply().await.unwrap().code, 250);
    greedy.expect("MAIL FROM:<a@client.test>", 250).await;
}

#[tokio::test]
async fn health_says_how_much_memory_mail_holds() {
    let world = World::start(PROGRAM).await;
    let mx = world.mx("mx.far.test").await;
    world.domain("far.test").mx(&[(10, &mx)]);
    let relay = world.relay("[limits]\nmemory = \"1MiB\"\n").await;
    let memory = async |what: &str| {
        let health = relay.cli_json(&["healthcheck"]).await;
        health[0]["memory"][what].as_u64().unwrap_or_else(|| panic!("{what} in {health:?}"))
    };
    assert_eq!((memory("lent").await, memory("peak").await), (0, 0));
    assert_eq!(memory("limit").await, 1 << 20);
    let mut client = relay.client().await;
    client.expect("MAIL FROM:<a@client.test>", 250).await;
    assert!(memory("lent").await > 0, "a message that has begun can come to its end");
    client.expect("RSET", 250).await;
    assert_eq!(memory("lent").await, 0);

    relay.submit("a@client.test", &["b@far.test"], &"x".repeat(20_000)).await;
    relay.event("delivered").await;
    // While it is committed it is the session's, and that of its first attempt as well.
    assert!(memory("peak").await > 40_000);
    assert!(memory("peak").await <= 1 << 20);
    let is_returned = async { while memory("lent").await > 0 {} };
    tokio::time::timeout(world::log::LIMIT, is_returned).await.expect("all of it comes back");
}

/// RFC 5321 §3.8, §4.2.5: what was begun is finished, and the others are told.
#[tokio::test]
async fn sv_22_a_stop_finishes_what_is_being_sent() {
    let world = World::start(PROGRAM).await;
    // What is taken stays in the queue.
    world.dns.outage(Some(world::Answer::Refused));
    let mut relay = with_certificate(&world, "").await;
    let socket = relay.data_dir().join("submit.sock");
    let clients = [
        relay.client().await,
        in_tls(&world, &relay).await,
        Client::dial_unix(&socket).await.unwrap().greeted().await.unwrap(),
    ];
    let mut sending = Vec::new();
    for (number, mut client) in clients.into_iter().enumerate() {
        client.expect("MAIL FROM:<a@client.test>", 250).await;
        client.expect(&format!("RCPT TO:<b{number}@far.test>"), 250).await;
        client.expect("DATA", 354).await;
        client.send(b"Subject: in the middle\r\n\r\n").await.unwrap();
        sending.push(client);
    }
    let mut chunks = relay.client().await;
    chunks.expect("MAIL FROM:<a@client.test>", 250).await;
    chunks.expect("RCPT TO:<b3@far.test>", 250).await;
    chunks.bdat(b"Subject: in chunks\r\n\r\n", false).await.unwrap();
    let mut idle = relay.client().await;
    let mut between = in_tls(&world, &relay).await;
    between.expect("MAIL FROM:<a@client.test>", 250).await;

    relay.signal(rustix::process::Signal::TERM);
    for client in [&mut idle, &mut between] {
        let reply = client.reply().await.unwrap();
        assert_eq!(reply.code, 421, "{reply:?}");
        assert!(client.is_closed().await);
    }
    for client in &mut sending {
        client.send(b"the rest\r\n.\r\n").await.unwrap();
        assert_eq!(client.reply().await.unwrap().code, 250);
        assert_eq!(client.reply().await.unwrap().code, 421, "and then the same for it");
    }
    assert_eq!(chunks.bdat(b"the rest\r\n", true).await.unwrap().code, 250);
    assert!(relay.wait_end().await.success());
    relay.start_again().await;
    assert_eq!(relay.queue().await.len(), 4);
}

/// A message that does not end is given up when `shutdown_grace` is over, and its sender is told.
#[tokio::test]
async fn sv_22_a_message_that_does_not_end_does_not_hold_the_stop_up() {
    let world = World::start(PROGRAM).await;
    let mut relay = world.relay("shutdown_grace = \"1s\"").await;
    let mut client = relay.client().await;
    client.expect("MAIL FROM:<a@client.test>", 250).await;
    client.expect("RCPT TO:<b@far.test>", 250).await;
    client.expect("DATA", 354).await;
    relay.signal(rustix::process::Signal::TERM);
    assert_eq!(client.reply().await.unwrap().code, 421);
    assert!(relay.wait_end().await.success());
}

#[tokio::test]
async fn sv_23_errors_early_talkers_and_browsers_end_a_session() {
    let world = World::start(PROGRAM).await;
    let relay = world
        .relay(
            "[access]\nnetworks = [\"127.0.0.1\"]\n[limits]\nerrors_per_session = 3\n\
             [[listener]]\naddress = \"127.0.0.1:0\"\nproxy_protocol_from = [\"127.0.0.5\"]\n",
        )
        .await;
    let mut client = relay.client().await;
    for _ in 0..3 {
        client.expect("FROBNICATE", 500).await;
    }
    client.expect("FROBNICATE", 421).await;
    assert!(client.is_closed().await);

    // Every method of RFC 9110 §9.3 and RFC 5789, and how HTTP/2 begins (RFC 9113 §3.4).
    let methods = "GET HEAD POST PUT DELETE CONNECT OPTIONS TRACE PATCH PRI";
    let path = format!("/{}", "x".repeat(5000));
    for method in methods.split(' ') {
        for target in ["/", "mx.far.test:25", "*", &path] {
            let mut browser = Client::dial(relay.listener()).await.unwrap();
            browser.reply().await.unwrap();
            let request = format!("{method} {target} HTTP/1.1\r\nHost: x\r\n\r\n");
            let behind = "EHLO x\r\nMAIL FROM:<a@b.test>\r\n";
            browser.send(format!("{request}{behind}").as_bytes()).await.unwrap();
            let answer = String::from_utf8(browser.rest().await).unwrap();
            assert!(answer.starts_with("502 5.5.1 "), "{method}: {answer}");
            assert_eq!(answer.lines().count(), 1, "nothing behind is carried out: {answer}");
        }
    }
    let requests = methods.split(' ').count() * 4;
    relay.event("rejected").with("reason", "bad_command").with("code", 502).times(requests).await;

    // Behind the header of a proxy, so that it has certainly come before the greeting.
    for (source, code) in [("198.51.100.1", 554), ("127.0.0.1", 220)] {
        let proxy = IpAddr::from([127, 0, 0, 5]);
        let mut early = Client::dial_from(proxy, relay.listener()).await.unwrap();
        let said = format!("PROXY TCP4 {source} 127.0.0.1 40000 25\r\nEHLO early.test\r\n");
        early.send(said.as_bytes()).await.unwrap();
        let reply = early.reply().await.unwrap();
        assert_eq!(reply.code, code, "{source}: {reply:?}");
        if code == 220 {
            assert_eq!(early.reply().await.unwrap().code, 250, "those who may relay are served");
        } else {
            assert!(early.is_closed().await);
        }
    }
}

/// RFC 8314 §3.3, RFC 4954 §4: no login without TLS, and no mail without login.
#[tokio::test]
async fn sv_24_submission_has_no_auth_without_tls_and_no_mail_without_auth() {
    let world = World::start(PROGRAM).await;
    let files = world.key_files("relay.test");
    let relay = world
        .relay(&format!(
            "[[listener]]\naddress = \"127.0.0.1:0\"\nmode = \"submission\"\n{0}\
             [[listener]]\naddress = \"127.0.0.1:0\"\nmode = \"submissions\"\n{0}",
            files.toml()
        ))
        .await;
    let trust = Trust::in_ca(&world.pki);
    let mut clear = Client::hello(relay.listener_at(0)).await.unwrap();
    assert_eq!(clear.keyword("AUTH"), None);
    let reply = clear.auth_plain("user", "secret").await.unwrap();
    assert_eq!(reply.code, 538, "{reply:?}");
    starts(&reply, "5.7.11 ");
    clear.expect("MAIL FROM:<a@client.test>", 530).await;
    let mut started = clear.starttls(&trust, "relay.test").await.unwrap();
    started.expect("MAIL FROM:<a@client.test>", 530).await;

    let implicit = Client::dial(relay.listener_at(1)).await.unwrap();
    let implicit = implicit.secure(&trust, "relay.test").await.unwrap();
    let mut implicit = implicit.greeted().await.unwrap();
    assert_eq!(implicit.keyword("STARTTLS"), None);
    implicit.expect("MAIL FROM:<a@client.test>", 530).await;

    // Who speaks plain SMTP there gets no answer in it.
    let mut plain = Client::dial_from(STRANGER, relay.listener_at(1)).await.unwrap();
    plain.send(b"EHLO client.test\r\n").await.unwrap();
    assert!(!plain.rest().await.starts_with(b"2"));
    relay.event("handshake_failed").with("client", STRANGER).await;
}

/// RFC 8689 §2.
#[tokio::test]
async fn rtls_01_requiretls_is_offered_under_tls_and_where_it_is_configured() {
    let world = World::start(PROGRAM).await;
    let relay = with_certificate(&world, "require_tls = true\n").await;
    let mut client = relay.client().await;
    assert_eq!(client.keyword("REQUIRETLS"), None);
    client.expect("MAIL FROM:<a@client.test> REQUIRETLS", 555).await;
    let mut client = client.starttls(&Trust::in_ca(&world.pki), "relay.test").await.unwrap();
    assert_eq!(client.keyword("REQUIRETLS"), Some(""));
    client.expect("MAIL FROM:<a@client.test> REQUIRETLS", 250).await;

    let without = with_certificate(&world, "").await;
    let mut client = in_tls(&world, &without).await;
    assert_eq!(client.keyword("REQUIRETLS"), None);
    client.expect("MAIL FROM:<a@client.test> REQUIRETLS", 555).await;
}

/// RFC 8314 §4.3: Received tells what protected the message.
#[tokio::test]
async fn sv_11_received_names_the_cipher_suite() {
    let world = World::start(PROGRAM).await;
    let mx = world.mx("mx.far.test").await;
    world.domain("far.test").mx(&[(10, &mx)]);
    let relay = with_certificate(&world, "").await;
    for (trust, suites) in [
        (Trust::in_ca(&world.pki), "tls TLS_AES_"),
        (Trust::in_ca_tls12(&world.pki), "tls TLS_ECDHE_ECDSA_WITH_"),
    ] {
        let mut client = relay.client().await.starttls(&trust, "relay.test").await.unwrap();
        let to = format!("{}@far.test", suites.len());
        let content = message("a@client.test", &to, "tls");
        let reply = client.transact("a@client.test", &[&to], &content).await.unwrap();
        assert_eq!(reply.code, 250, "{reply:?}");
        let text = mx.message_to(&to).await.text();
        assert!(text.contains("with ESMTPS id ") && text.contains(suites), "{text}");
    }
}
