//! What somebody does who means harm, or a machine that is broken: the accepting side answers,
//! loses nothing, and goes on for the others.

use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::net::UnixListener;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::Signal;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use world::{Client, Event, Relay, Trust, World, message};

use crate::harness::PROGRAM;
use crate::submission::{BCRYPT, IMPLICIT, NAME, Office, RELAY, STARTTLS, write_users};

/// SIGHUP, which the daemon must refuse.
async fn refused_reload(relay: &Relay) -> Event {
    let mark = relay.mark();
    relay.signal(Signal::HUP);
    relay.event("reload_refused").after(mark).await
}

fn make_fifo(path: &Path) {
    mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
}

/// Gone, a folder, a FIFO that nobody writes to: whoever could log in still can, a reload is
/// refused and the next one is not, and a stop ends it.
#[tokio::test]
async fn a_users_file_that_becomes_something_else_stops_nothing() {
    let mut office = Office::open(&[("anna", BCRYPT)], "").await;
    let users = office.users.clone();
    let changes: [fn(&Path); 3] = [
        |users| std::fs::remove_file(users).unwrap(),
        |users| std::fs::create_dir(users).unwrap(),
        |users| {
            std::fs::remove_dir(users).unwrap();
            make_fifo(users);
        },
    ];
    for change in changes {
        let mark = office.relay.mark();
        change(&users);
        office.relay.event("users_refused").after(mark).await;
        office.user(IMPLICIT, "anna", "secret").await;
        let refused = refused_reload(&office.relay).await;
        assert_eq!(refused.text("key").as_deref(), Some("access.users_file"), "{refused:?}");
        office.user(STARTTLS, "anna", "secret").await;
    }
    let mark = office.relay.mark();
    write_users(&users, &[("anna", BCRYPT), ("bert", BCRYPT)]);
    office.relay.event("users_loaded").after(mark).with("users", 2).await;
    office.user(STARTTLS, "bert", "secret").await;
    std::fs::remove_file(&users).unwrap();
    make_fifo(&users);
    refused_reload(&office.relay).await;
    assert!(office.relay.stop().await.success());
}

/// A configuration that nobody ever finishes writing keeps a reload waiting, and nothing else: not
/// mail, not the end.
#[tokio::test]
async fn a_reload_that_never_ends_holds_up_no_mail_and_no_stop() {
    let world = World::start(PROGRAM).await;
    let mx = world.mx("mx.far.test").await;
    world.domain("far.test").mx(&[(10, &mx)]);
    let mut relay = world.relay("").await;
    std::fs::remove_file(relay.config_file()).unwrap();
    make_fifo(&relay.config_file());
    relay.signal(Signal::HUP);
    // It has opened the FIFO once this is open, too; and now it reads.
    let path = relay.config_file();
    let opened =
        tokio::task::spawn_blocking(move || std::fs::File::options().write(true).open(path));
    let _silent = opened.await.unwrap().unwrap();
    relay.submit("a@client.test", &["b@far.test"], "still here").await;
    mx.message().await;
    assert!(relay.stop().await.success());
}

/// A chain or a key that was half written when the reload came, wherever it was cut.
#[tokio::test]
async fn half_a_certificate_is_never_shown() {
    let world = World::start(PROGRAM).await;
    let files = world.key_files(NAME);
    let listener = format!("[[listener]]\naddress = \"127.0.0.1:0\"\n{}", files.toml());
    let relay = world.relay(&listener).await;
    let trust = Trust::in_ca(&world.pki);
    for path in [&files.certificate, &files.key] {
        let whole = std::fs::read(path).unwrap();
        for length in [0, 1, whole.len() / 3, whole.len() / 2, whole.len() - 30] {
            std::fs::write(path, &whole[..length]).unwrap();
            refused_reload(&relay).await;
            relay.client().await.starttls(&trust, NAME).await.unwrap();
        }
        std::fs::remove_file(path).unwrap();
        make_fifo(path);
        refused_reload(&relay).await;
        relay.client().await.starttls(&trust, NAME).await.unwrap();
        std::fs::remove_file(path).unwrap();
        std::fs::write(path, &whole).unwrap();
    }
    relay.cli_json(&["reload"]).await;
}

/// RFC 3030 §2: a number of octets is digits. A chunk whose length cannot be read has no end that
/// could be found, so nothing behind it is looked at.
#[tokio::test]
async fn a_chunk_without_a_readable_length_ends_the_session() {
    let world = World::start(PROGRAM).await;
    let relay = world.relay("").await;
    for length in [
        "",
        "LAST",
        "+6",
        "-6",
        "-0",
        "6,",
        "6.0",
        "6e0",
        "0x6",
        "\u{ff16}",
        "6LAST",
        "6 LASTLY",
        "6 LAST 6",
        "6 6",
        "18446744073709551616",
        "99999999999999999999999",
        "6\0",
        "6\r",
        "6\n",
    ] {
        let mut client = relay.client().await;
        client.expect("MAIL FROM:<a@client.test>", 250).await;
        client.expect("RCPT TO:<b@far.test>", 250).await;
        client.send(format!("BDAT {length}\r\nNOOP\r\nQUIT\r\n").as_bytes()).await.unwrap();
        let answer = String::from_utf8(client.rest().await).unwrap();
        // A line that ends in LF is none of which the arguments are looked at.
        let want = if length.ends_with('\n') { "500 5.5.2 " } else { "501 5.5.4 " };
        assert!(answer.starts_with(want), "{length:?}: {answer}");
        assert_eq!(answer.lines().count(), 1, "{length:?}: {answer}");
    }
    assert!(relay.queue().await.is_empty());
}

/// Leading noughts are digits, too; and what can be counted and never comes is given up in its
/// time.
#[tokio::test]
async fn a_chunk_of_any_length_that_can_be_counted_is_counted() {
    let world = World::start(PROGRAM).await;
    world.dns.outage(Some(world::Answer::Refused));
    let relay = world.relay("[limits]\nmessage_size = \"64KiB\"\n").await;
    let mut client = relay.client().await;
    client.expect("MAIL FROM:<a@client.test>", 250).await;
    client.expect("RCPT TO:<b@far.test>", 250).await;
    client
        .send(b"BDAT 00000000000000000000000017 LAST\r\nSubject: x\r\n\r\nx\r\nNOOP\r\n")
        .await
        .unwrap();
    for _ in 0..2 {
        assert_eq!(client.reply().await.unwrap().code, 250);
    }
    assert_eq!(relay.queue().await.len(), 1);

    for accepted in [true, false] {
        let mut client = relay.client().await;
        if accepted {
            client.expect("MAIL FROM:<a@client.test>", 250).await;
            client.expect("RCPT TO:<b@far.test>", 250).await;
        }
        client.send(b"BDAT 18446744073709551615 LAST\r\n").await.unwrap();
        let piece = b"MAIL FROM:<x@client.test>\r\n".repeat(1000);
        let mut sent = 0;
        while client.send(&piece).await.is_ok() {
            sent += piece.len();
            assert!(sent < 64 << 20, "it reads on for ever");
        }
    }
    relay.event("rejected").with("code", 421).with("status", "4.3.4").times(2).await;
    assert_eq!(relay.queue().await.len(), 1);
}

/// RFC 2920 §3.1, RFC 3030 §4.2: a client that does not wait for the answer to MAIL sends its
/// octets all the same, and they are never commands.
#[tokio::test]
async fn chunks_behind_a_refused_sender_or_recipient_are_read_and_not_run() {
    let world = World::start(PROGRAM).await;
    let relay = world
        .relay("[access]\ndeny_senders = [\"bad@client.test\"]\ndeny_recipients = [\"bad@far.test\"]\n")
        .await;
    let chunks =
        "BDAT 12\r\nQUIT\r\nQUIT\r\nBDAT 0\r\nBDAT 6 LAST\r\nQUIT\r\nBDAT 0 LAST\r\nNOOP\r\n";
    for (from, to, want) in [
        ("bad@client.test", "b@far.test", [550, 503, 503, 503, 503, 503, 250]),
        ("a@client.test", "bad@far.test", [250, 550, 503, 503, 503, 503, 250]),
    ] {
        let mut client = relay.client().await;
        let envelope = format!("MAIL FROM:<{from}>\r\nRCPT TO:<{to}>\r\n");
        client.send(format!("{envelope}{chunks}").as_bytes()).await.unwrap();
        let mut codes = Vec::new();
        for _ in want {
            codes.push(client.reply().await.unwrap().code);
        }
        assert_eq!(codes, want, "{from} to {to}");
    }
    assert!(relay.queue().await.is_empty());
}

/// RFC 5321 §4.5.3.2.7: a client that sends as fast as others is not too slow because nobody wants
/// what it sends: it hears why, and does not come again.
#[tokio::test]
async fn refused_octets_have_the_time_that_content_has() {
    let world = World::start(PROGRAM).await;
    let relay = world.relay("[limits]\nclient_timeout = \"2s\"\n").await;
    let mut client = relay.client().await;
    let block = [b'x'; 64 * 1024];
    client.send(format!("BDAT {} LAST\r\n", 7 * block.len()).as_bytes()).await.unwrap();
    // The link carries a block every half second: three for all of them.
    let mut pace = tokio::time::interval(std::time::Duration::from_millis(500));
    for _ in 0..7 {
        pace.tick().await;
        client.send(&block).await.expect("it is listened to");
    }
    assert_eq!(client.reply().await.unwrap().code, 503);
}

/// A transaction holds memory that others could have, and NOOP does not belong to it.
#[tokio::test]
async fn noop_keeps_no_transaction_open() {
    let world = World::start(PROGRAM).await;
    let relay = world.relay("[limits]\nclient_timeout = \"2s\"\n").await;
    let mut begun = relay.client().await;
    let mut idle = relay.client().await;
    begun.expect("MAIL FROM:<a@client.test>", 250).await;
    let mut seconds = tokio::time::interval(std::time::Duration::from_millis(500));
    let mut code = 250;
    for _ in 0..20 {
        seconds.tick().await;
        idle.expect("NOOP", 250).await;
        match begun.command("NOOP").await {
            Ok(reply) if reply.code == 250 => {}
            Ok(reply) => {
                code = reply.code;
                break;
            }
            Err(_) => panic!("it is told before it is closed"),
        }
    }
    assert_eq!(code, 421);
    idle.expect("MAIL FROM:<a@client.test>", 250).await;
}

#[tokio::test]
async fn a_client_that_is_lost_or_stalls_in_a_message_is_told_of() {
    let world = World::start(PROGRAM).await;
    let relay = world.relay("[limits]\nclient_timeout = \"2s\"\n").await;
    let begin = async || {
        let mut client = relay.client().await;
        client.expect("MAIL FROM:<scan@client.test>", 250).await;
        client.expect("RCPT TO:<b@x.test>", 250).await;
        client.expect("DATA", 354).await;
        client.send(b"Subject: scan\r\n\r\nx\r\n").await.unwrap();
        client
    };
    drop(begin().await);
    let lost = relay.event("client_lost").with("how", "lost").await;
    assert_eq!(lost.text("sender").as_deref(), Some("scan@client.test"));
    assert_eq!(lost.text("recipients").as_deref(), Some("1"));
    let stalled = begin().await;
    let told = relay.event("client_lost").with("how", "timed_out").await;
    assert!(told.get("octets").is_some());
    drop(stalled);
    let mut done = relay.client().await;
    done.expect("MAIL FROM:<scan@client.test>", 250).await;
    done.expect("QUIT", 221).await;
    assert_eq!(relay.event("client_lost").count(), 2, "one that says good-bye is not lost");
}

/// Whatever one client holds, there is memory for others.
#[tokio::test]
async fn one_client_s_open_transactions_leave_memory_for_others() {
    let world = World::start(PROGRAM).await;
    let config = "[access]\nnetworks = [\"127.0.0.0/8\"]\n[limits]\nmemory = \"16MiB\"\nconnections_per_client = 200\n";
    let relay = world.relay(config).await;
    let greedy = IpAddr::from([127, 0, 0, 66]);
    let mut open = Vec::new();
    for _ in 0..100 {
        let client = Client::dial_from(greedy, relay.listener()).await.unwrap();
        let mut client = client.greeted().await.unwrap();
        client.expect("MAIL FROM:<a@client.test>", 250).await;
        client.expect("RCPT TO:<b@far.test>", 250).await;
        client.expect("DATA", 354).await;
        client
            .send(&b"x: ".iter().chain(&[b'y'; 60_000]).copied().collect::<Vec<u8>>())
            .await
            .unwrap();
        open.push(client);
    }
    let recipients: Vec<String> = (0..1_000).map(|number| format!("u{number}@far.test")).collect();
    let recipients: Vec<&str> = recipients.iter().map(String::as_str).collect();
    let header = "x: y\r\n".repeat(33_000);
    let content = format!("{header}\r\nbody\r\n");
    for _ in 0..5 {
        let mut other = relay.client().await;
        let reply = other.transact("a@client.test", &recipients, content.as_bytes()).await.unwrap();
        assert_eq!(reply.code, 250, "{reply:?}");
    }
}

/// RFC 2920 §3.2: many commands at once get as many replies, also where those are fifty times as
/// long and nobody reads them before the last command is sent.
#[tokio::test]
async fn a_flood_of_questions_is_answered_piece_by_piece() {
    let world = World::start(PROGRAM).await;
    let relay = world.relay("").await;
    let mut client = relay.client().await;
    client.send("EHLO x\r\nHELP\r\n".repeat(1000).as_bytes()).await.unwrap();
    for _ in 0..1000 {
        assert_eq!(client.reply().await.unwrap().code, 250);
        assert_eq!(client.reply().await.unwrap().code, 214);
    }
    client.expect("QUIT", 221).await;
}

/// In the dialogue of AUTH and before the late answer to a wrong login, inside a chunk that is
/// refused and inside a command: 421, and no wait for the grace.
#[tokio::test]
async fn a_stop_does_not_wait_for_a_login_or_for_octets_that_nobody_keeps() {
    let mut office = Office::open(&[("anna", BCRYPT)], "").await;
    office.relay.configure("shutdown_grace = \"1h\"\n");
    office.relay.cli_json(&["reload"]).await;
    let mut login = office.client(IMPLICIT).await;
    login.expect("AUTH LOGIN", 334).await;
    let mut named = office.client(STARTTLS).await;
    named.expect("AUTH LOGIN YW5uYQ==", 334).await;
    let mut refused = office.client(RELAY).await;
    refused.send(b"NOOP\r\nBDAT 100 LAST\r\nhalf of it").await.unwrap();
    assert_eq!(refused.reply().await.unwrap().code, 250);
    let mut long = office.client(RELAY).await;
    long.send(&[b"NOOP\r\nNOOP ", &[b'x'; 3000][..]].concat()).await.unwrap();
    assert_eq!(long.reply().await.unwrap().code, 250);
    // The answer to the second guess waits for a second.
    let mut guessing = office.client(IMPLICIT).await;
    assert_eq!(guessing.auth_plain("anna", "wrong").await.unwrap().code, 535);
    guessing.send(b"AUTH PLAIN AGFubmEAd3Jvbmc=\r\n").await.unwrap();
    office.relay.client().await.expect("NOOP", 250).await;
    office.relay.signal(Signal::TERM);
    for client in [&mut login, &mut named, &mut refused, &mut long, &mut guessing] {
        let reply = client.reply().await.unwrap();
        assert_eq!(reply.code, 421, "{reply:?}");
        assert!(reply.text().starts_with("4.3.2 "), "{reply:?}");
        assert!(client.is_closed().await);
    }
    assert!(office.relay.wait_end().await.success());
}

/// Whoever stands in between can go on when both sides have ended: that is not even decrypted.
#[tokio::test]
async fn what_comes_behind_the_last_word_in_tls_harms_nobody() {
    let mut office = Office::open(&[("anna", BCRYPT)], "").await;
    let front = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, back) = (front.local_addr().unwrap(), office.relay.listener_at(IMPLICIT));
    let between = async {
        let (mut client, _) = front.accept().await.unwrap();
        let mut server = TcpStream::connect(back).await.unwrap();
        let (mut from_client, mut to_client) = client.split();
        let (mut from_server, mut to_server) = server.split();
        let there = async {
            let _ended = tokio::io::copy(&mut from_client, &mut to_server).await;
            // A record of application data whose tag is wrong.
            let _ended =
                to_server.write_all(b"\x17\x03\x03\x00\x20a record of thirty-two octets no").await;
        };
        let _ended = tokio::join!(there, tokio::io::copy(&mut from_server, &mut to_client));
    };
    let talking = async {
        let trust = Trust::in_ca(&office.world.pki);
        let client = Client::dial(address).await.unwrap();
        let mut client = client.secure(&trust, NAME).await.unwrap().greeted().await.unwrap();
        client.expect("QUIT", 221).await;
        assert!(client.is_closed().await);
    };
    tokio::join!(between, talking);
    assert!(office.relay.stop().await.success());
    assert_eq!(office.relay.lines_about("panicked"), "");
}

/// However a proxy's header and what follows it are cut, it is one client, who is greeted once.
#[tokio::test]
async fn a_proxy_s_header_may_come_octet_by_octet() {
    let world = World::start(PROGRAM).await;
    let relay = world
        .relay(
            "[access]\nnetworks = [\"192.0.2.0/24\"]\n\
             [[listener]]\naddress = \"127.0.0.1:0\"\nproxy_protocol_from = [\"127.0.0.1\"]\n",
        )
        .await;
    let v1 = b"PROXY TCP4 192.0.2.1 127.0.0.1 40000 25\r\n".to_vec();
    let v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x01\x7f\0\0\x01\x9c\x40\0\x19".to_vec();
    for header in [v1, v2] {
        let said = [&header[..], b"EHLO x\r\nMAIL FROM:<a@client.test>\r\nQUIT\r\n"].concat();
        for cut in 1..said.len() {
            let mut client = Client::dial(relay.listener()).await.unwrap();
            client.send_split(&said, cut).await.unwrap();
            let mut codes = Vec::new();
            while let Ok(reply) = client.reply().await {
                codes.push(reply.code);
            }
            assert_eq!(codes, [220, 250, 250, 221], "in pieces of {cut}");
        }
        // Gone in the middle: nobody came.
        for cut in 0..header.len() {
            let mut client = Client::dial(relay.listener()).await.unwrap();
            client.send(&header[..cut]).await.unwrap();
            client.shutdown().await.unwrap();
            assert!(client.rest().await.is_empty(), "cut at {cut}");
        }
    }
}

/// The second of two says whose the directory is and ends; the first does not DSN.
#[tokio::test]
async fn a_second_daemon_on_the_same_data_ends_and_takes_nothing_away() {
    let world = World::start(PROGRAM).await;
    let mx = world.mx("mx.far.test").await;
    world.domain("far.test").mx(&[(10, &mx)]);
    let relay = world.relay("").await;
    let output = relay.cli(&["run"]).await;
    assert_eq!(output.status.code(), Some(75), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("data_dir") && said.contains(&relay.pid().to_string()), "{said}");
    // Neither socket went with it.
    relay.submit("a@client.test", &["b@far.test"], "first").await;
    mx.message().await;
    assert_eq!(relay.cli(&["healthcheck"]).await.status.code(), Some(0));
    Client::dial_unix(&relay.data_dir().join("submit.sock"))
        .await
        .unwrap()
        .greeted()
        .await
        .unwrap();
}

/// A name that a living process answers at is not taken from it: not at a start, and not at a
/// reload, which changes nothing else then.
#[tokio::test]
async fn a_socket_that_somebody_answers_stays_with_them() {
    let world = World::start(PROGRAM).await;
    let mut relay = world.relay("").await;
    let path = world.dir().join("taken.sock");
    let owner = UnixListener::bind(&path).unwrap();
    let doors = format!(
        "[limits]\nrecipients = 1\n[[listener]]\naddress = \"127.0.0.1:0\"\n\
         [[listener]]\naddress = \"unix:{}\"\n",
        path.display()
    );
    relay.configure(&doors);
    let refused = refused_reload(&relay).await;
    assert!(refused.text("message").unwrap().contains("taken.sock"), "{refused:?}");
    let mut client = relay.client().await;
    client.expect("MAIL FROM:<a@client.test>", 250).await;
    for recipient in ["b@far.test", "c@far.test"] {
        client.expect(&format!("RCPT TO:<{recipient}>"), 250).await;
    }
    assert!(relay.stop().await.success());
    let output = relay.cli(&["run"]).await;
    assert_eq!(output.status.code(), Some(75), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("taken.sock"), "{said}");
    owner.set_nonblocking(true).unwrap();
    owner.accept().expect("it is the owner's still, and was knocked at");
}

/// As many as the system passes on: the last configuration that was there counts, and nobody is
/// sent away.
#[tokio::test]
async fn a_storm_of_reloads_ends_with_the_last_configuration() {
    let world = World::start(PROGRAM).await;
    world.dns.outage(Some(world::Answer::Refused));
    let relay = world.relay("").await;
    let mut session = relay.client().await;
    let content = message("a@client.test", "b@far.test", "storm");
    for round in 1..=20 {
        relay.configure(&format!("[limits]\nrecipients = {}\n", 100 + round));
        for _ in 0..50 {
            relay.signal(Signal::HUP);
        }
        let reply = session.transact("a@client.test", &["b@far.test"], &content).await.unwrap();
        assert_eq!(reply.code, 250, "{reply:?}");
    }
    // Whoever asks is answered behind all of them.
    relay.cli_json(&["reload"]).await;
    session.ehlo().await.unwrap();
    assert_eq!(session.keyword("LIMITS"), Some("RCPTMAX=120"));
    assert_eq!(relay.event("reload_refused").count(), 0);
    assert_eq!(relay.queue().await.len(), 20);
}

/// Somebody connects again and again while the door closes: it closes all the same.
#[tokio::test]
async fn a_door_that_closes_does_so_whoever_keeps_coming() {
    let world = World::start(PROGRAM).await;
    let relay = world
        .relay("[[listener]]\naddress = \"127.0.0.1:0\"\n[[listener]]\naddress = \"127.0.0.4:0\"\n")
        .await;
    let gone = relay.listener_at(1);
    assert_eq!(gone.ip(), Ipv4Addr::new(127, 0, 0, 4));
    let knocking =
        tokio::task::spawn_blocking(move || while std::net::TcpStream::connect(gone).is_ok() {});
    relay.configure("[[listener]]\naddress = \"127.0.0.1:0\"\n");
    relay.signal(Signal::HUP);
    relay.event("listening_ended").await;
    tokio::time::timeout(world::log::LIMIT, knocking).await.expect("it is closed").unwrap();
    relay.client().await.expect("NOOP", 250).await;
}
