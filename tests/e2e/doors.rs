//! How clients come in: sockets, TLS, proxies, and what becomes of them when the configuration
//! changes.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rustix::process::{Signal, getuid};
use world::{Client, Leaf, Relay, Trust, World, message};

use crate::harness::PROGRAM;

const STRANGER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

/// Changes the configuration and waits until it is in effect.
async fn reload(relay: &Relay, overlay: &str) {
    let mark = relay.mark();
    relay.configure(overlay);
    relay.signal(Signal::HUP);
    relay.event("config_reloaded").after(mark).await;
}

/// The only Received field of the message that `host` got.
fn received_field(content: &str) -> String {
    let field = content.split("\r\nFrom:").next().unwrap_or_default();
    assert_eq!(field.matches("Received:").count(), 1, "{content}");
    field.to_owned()
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_without_a_restart_and_a_broken_one_never() {
    let world = World::start(PROGRAM).await;
    let files = world.key_files("relay.test");
    let listener = format!("[[listener]]\naddress = \"127.0.0.1:0\"\n{}", files.toml());
    let relay = world.relay(&listener).await;
    let trust = Trust::in_ca(&world.pki);
    let shown = async || {
        let client = relay.client().await.starttls(&trust, "relay.test").await.unwrap();
        client.tls().unwrap().certificate.clone()
    };
    let first = shown().await;
    let mut before = relay.client().await.starttls(&trust, "relay.test").await.unwrap();

    files.replace(&world.pki.issue(&Leaf::named("relay.test")));
    reload(&relay, "").await;
    let second = shown().await;
    assert_ne!(first, second);
    before.expect("NOOP", 250).await;

    std::fs::write(&files.key, "half of a").unwrap();
    let mark = relay.mark();
    relay.signal(Signal::HUP);
    let refused = relay.event("reload_refused").after(mark).await;
    assert_eq!(refused.text("key").as_deref(), Some("listener[0].tls_key"));
    assert_eq!(shown().await, second);
}

/// Records are no commands: they may hold an octet, or more than is read at once.
#[tokio::test]
async fn how_tls_cuts_a_session_into_records_changes_nothing() {
    let world = World::start(PROGRAM).await;
    let mx = world.mx("mx.far.test").await;
    world.domain("far.test").mx(&[(10, &mx)]);
    let files = world.key_files("relay.test");
    let listener = format!("[[listener]]\naddress = \"127.0.0.1:0\"\n{}", files.toml());
    let relay = world.relay(&listener).await;
    let trust = Trust::in_ca(&world.pki);
    let line = format!("{}\r\n", "x".repeat(78));
    for (name, lines, record) in [("octets", 10, 1), ("records", 5000, usize::MAX)] {
        let mut client = relay.client().await.starttls(&trust, "relay.test").await.unwrap();
        let content = format!("Date: x\r\nMessage-ID: <x@y>\r\n\r\n{}", line.repeat(lines));
        let session = format!(
            "MAIL FROM:<a@client.test>\r\nRCPT TO:<{name}@far.test>\r\nDATA\r\n{content}.\r\nQUIT\r\n"
        );
        client.send_split(session.as_bytes(), record).await.unwrap();
        for code in [250, 250, 354, 250, 221] {
            assert_eq!(client.reply().await.unwrap().code, code, "{name}");
        }
        assert!(client.is_closed().await);
        let received = mx.message_to(&format!("{name}@far.test")).await;
        assert!(received.text().ends_with(&content), "{name}");
    }
}

#[tokio::test]
async fn a_certificate_that_cannot_be_read_costs_tls_and_no_mail() {
    let world = World::start(PROGRAM).await;
    let files = "tls_certificate = \"/nonexistent/c.pem\"\ntls_key = \"/nonexistent/k.pem\"\n";
    let relay = world
        .relay(&format!(
            "[[listener]]\naddress = \"127.0.0.1:0\"\n{files}\
             [[listener]]\naddress = \"127.0.0.1:0\"\nmode = \"submissions\"\n{files}"
        ))
        .await;
    let alarm = relay.event("alarm").with("reason", "certificate_unusable").await;
    assert!(alarm.text("message").unwrap().contains("/nonexistent/c.pem"), "{alarm:?}");
    let mut client = relay.client().await;
    let reply = client.expect("STARTTLS", 454).await;
    assert!(reply.text().starts_with("4.7.0"), "{reply:?}");
    let content = message("a@client.test", "b@far.test", "clear");
    let reply = client.transact("a@client.test", &["b@far.test"], &content).await.unwrap();
    assert_eq!(reply.code, 250, "{reply:?}");
    let mut client = Client::dial(relay.listener_at(1)).await.unwrap();
    assert!(client.is_closed().await, "nothing can be said there");
}

/// The submit socket: whatever `access.networks` says, local programs may send, and are named.
#[tokio::test]
async fn every_user_of_this_machine_hands_in_mail_through_the_submit_socket() {
    let world = World::start(PROGRAM).await;
    let mx = world.mx("mx.far.test").await;
    world.domain("far.test").mx(&[(10, &mx)]);
    let relay = world.relay("[access]\nnetworks = []\n").await;
    let socket = relay.data_dir().join("submit.sock");
    let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o666);

    let mut client = Client::dial_unix(&socket).await.unwrap().greeted().await.unwrap();
    let content = message("a@client.test", "b@far.test", "local");
    let reply = client.transact("a@client.test", &["b@far.test"], &content).await.unwrap();
    assert_eq!(reply.code, 250, "{reply:?}");
    let us = format!("uid {}", getuid().as_raw());
    let accepted = relay.event("accepted").await;
    assert_eq!(accepted.text("client").as_deref(), Some(us.as_str()));
    let field = received_field(&mx.message().await.text());
    assert!(field.contains(&format!("from client.test ({us})")), "{field}");
    // A host is a host.
    relay.client().await.expect("MAIL FROM:<a@client.test>", 550).await;
}

#[tokio::test]
async fn a_unix_listener_is_for_its_group_and_may_have_tls() {
    let world = World::start(PROGRAM).await;
    let files = world.key_files("relay.test");
    let path = world.dir().join("smtp.sock");
    let mut relay = world
        .relay(&format!(
            "[[listener]]\naddress = \"127.0.0.1:0\"\n\
             [[listener]]\naddress = \"unix:{}\"\n{}",
            path.display(),
            files.toml()
        ))
        .await;
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
    let client = Client::dial_unix(&path).await.unwrap().greeted().await.unwrap();
    let trust = Trust::in_ca(&world.pki);
    let mut client = client.starttls(&trust, "relay.test").await.unwrap();
    client.expect("MAIL FROM:<a@client.test>", 250).await;
    assert!(relay.stop().await.success());
    assert!(!path.exists(), "its name goes with it");
}

#[tokio::test]
async fn a_path_that_moves_between_the_submit_socket_and_a_listener_changes_whom_it_lets_in() {
    let world = World::start(PROGRAM).await;
    let (one, two) = (world.dir().join("one.sock"), world.dir().join("two.sock"));
    let overlay = |submit: &Path, listener: &Path| {
        format!(
            "[submit]\nsocket = \"{}\"\n[[listener]]\naddress = \"127.0.0.1:0\"\n\
             [[listener]]\naddress = \"unix:{}\"\n",
            submit.display(),
            listener.display()
        )
    };
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let relay = world.relay(&overlay(&one, &two)).await;
    assert_eq!((mode(&one), mode(&two)), (0o666, 0o660));
    reload(&relay, &overlay(&two, &one)).await;
    assert_eq!((mode(&one), mode(&two)), (0o660, 0o666));
    reload(&relay, &overlay(&one, &two)).await;
    assert_eq!((mode(&one), mode(&two)), (0o666, 0o660));
}

/// A program that starts the daemon as systemd does: with a socket called `front` as descriptor 3.
/// Returns the socket's address, too.
fn activated(dir: &Path) -> (PathBuf, SocketAddr, std::net::TcpListener) {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::empty()).unwrap();
    let number = std::os::fd::AsRawFd::as_raw_fd(&socket);
    let script = dir.join("activated");
    let text = format!(
        // Not sh, whose descriptors have one digit.
        "#!/bin/bash\nexec 3<&{number}\n\
         LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=front exec {PROGRAM} \"$@\"\n"
    );
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let address = socket.local_addr().unwrap();
    (script, address, socket)
}

#[tokio::test]
async fn a_socket_of_the_service_manager_is_used_by_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let (program, address, socket) = activated(dir.path());
    let world = World::start(program).await;
    // The manager's socket is there before the daemon, and so may be a client.
    let early = Client::dial(address).await.unwrap();
    let relay = world.relay("[[listener]]\naddress = \"systemd:front\"\n").await;
    rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::CLOEXEC).unwrap();
    assert_eq!(relay.listener(), address);
    let mut early = early.greeted().await.unwrap();
    early.expect("MAIL FROM:<a@client.test>", 250).await;
    // It can go and come back.
    reload(&relay, "[[listener]]\naddress = \"127.0.0.1:0\"\n").await;
    reload(&relay, "[[listener]]\naddress = \"systemd:front\"\n").await;
    Client::hello(address).await.unwrap().expect("MAIL FROM:<a@client.test>", 250).await;
    early.expect("RSET", 250).await;

    let mark = relay.mark();
    relay.configure("[[listener]]\naddress = \"systemd:back\"\n");
    relay.signal(Signal::HUP);
    let refused = relay.event("reload_refused").after(mark).await;
    let text = refused.text("message").unwrap();
    assert!(text.contains("no stream socket named \"back\", but front"), "{text}");
}

/// Connects as a listed proxy and says `header`.
async fn behind(relay: &Relay, header: &[u8]) -> Client {
    let mut client = Client::dial(relay.listener()).await.unwrap();
    client.send(header).await.unwrap();
    client
}

/// Version 2 of the PROXY protocol, §2.2: TCP over IPv4 from `source`, or LOCAL.
fn v2(source: Option<[u8; 4]>) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    match source {
        Some(source) => {
            header.extend([0x21, 0x11, 0, 12]);
            header.extend(source);
            header.extend([127, 0, 0, 1]);
            header.extend([0x9c, 0x40, 0, 25]);
        }
        None => header.extend([0x20, 0, 0, 0]),
    }
    header
}

const PROXIED: &str = "[access]\nnetworks = [\"192.0.2.0/24\", \"127.0.0.9\"]\n\
    [limits]\nconnections_per_client = 2\n\
    [[listener]]\naddress = \"127.0.0.1:0\"\nproxy_protocol_from = [\"127.0.0.1\"]\n";

#[tokio::test]
async fn a_listed_proxy_speaks_for_its_clients() {
    let world = World::start(PROGRAM).await;
    let mx = world.mx("mx.far.test").await;
    world.domain("far.test").mx(&[(10, &mx)]);
    let relay = world.relay(PROXIED).await;
    let v1 = |source: &str| format!("PROXY TCP4 {source} 127.0.0.1 40000 25\r\n").into_bytes();

    let mut friend = behind(&relay, &v1("192.0.2.1")).await.greeted().await.unwrap();
    let content = message("a@client.test", "b@far.test", "proxied");
    let reply = friend.transact("a@client.test", &["b@far.test"], &content).await.unwrap();
    assert_eq!(reply.code, 250, "{reply:?}");
    let field = received_field(&mx.message().await.text());
    assert!(field.contains("from client.test ([192.0.2.1])"), "{field}");

    // The same client again, in the other form; a third time is too often.
    let mut again = behind(&relay, &v2(Some([192, 0, 2, 1]))).await.greeted().await.unwrap();
    again.expect("MAIL FROM:<a@client.test>", 250).await;
    let reply = behind(&relay, &v1("192.0.2.1")).await.reply().await.unwrap();
    assert_eq!(reply.code, 421, "{reply:?}");

    // Others behind it are strangers.
    for header in [v1("198.51.100.1"), v2(Some([198, 51, 100, 1]))] {
        let mut stranger = behind(&relay, &header).await.greeted().await.unwrap();
        stranger.expect("MAIL FROM:<a@client.test>", 550).await;
    }
}

/// The proxy may relay by its own address, and so could everybody behind it of whom it says
/// nothing.
#[tokio::test]
async fn whom_a_proxy_does_not_name_is_a_stranger_whatever_the_proxy_may() {
    let world = World::start(PROGRAM).await;
    let trusted =
        PROXIED.replace("127.0.0.9", "127.0.0.1").replace("connections_per_client = 2", "");
    let relay = world.relay(&trusted).await;
    let v2_of = |command: u8, family: u8, body: &[u8]| {
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        [&b"\r\n\r\n\0\r\nQUIT\n"[..], &[command, family], &length, body].concat()
    };
    let from_far = [192, 0, 2, 1, 127, 0, 0, 1, 0x9c, 0x40, 0, 25];
    for header in [
        b"PROXY UNKNOWN\r\n".to_vec(),
        b"PROXY UNKNOWN 192.0.2.1 127.0.0.1 40000 25\r\n".to_vec(),
        v2(None),
        v2_of(0x20, 0x11, &from_far),
        v2_of(0x21, 0x00, &from_far),
        v2_of(0x21, 0x31, &[0; 216]),
    ] {
        let mut stranger = behind(&relay, &header).await.greeted().await.unwrap();
        stranger.expect("MAIL FROM:<a@client.test>", 550).await;
    }
    // With all the room for what else a proxy tells.
    let long = v2_of(0x21, 0x11, &[&from_far[..], &[0; 0xffff - 12]].concat());
    let mut friend = behind(&relay, &long).await.greeted().await.unwrap();
    friend.expect("MAIL FROM:<a@client.test>", 250).await;
}

#[tokio::test]
async fn only_a_listed_proxy_is_believed_and_it_must_speak() {
    let world = World::start(PROGRAM).await;
    let relay = world.relay(PROXIED).await;
    // Not listed: to us a client that begins with nonsense, and may relay or not by its own
    // address.
    for (source, code) in [(STRANGER, 550), (IpAddr::from([127, 0, 0, 9]), 250)] {
        let mut client = Client::dial_from(source, relay.listener()).await.unwrap();
        client.reply().await.unwrap();
        client.expect("PROXY TCP4 192.0.2.1 127.0.0.1 40000 25", 500).await;
        client.ehlo().await.unwrap();
        client.expect("MAIL FROM:<a@client.test>", code).await;
    }
    let mut silent = behind(&relay, b"EHLO proxy.test\r\n").await;
    assert!(silent.is_closed().await);
    relay.event("proxy_failed").with("client", "127.0.0.1").await;
}

#[tokio::test]
async fn listeners_come_and_go_and_sessions_stay() {
    let world = World::start(PROGRAM).await;
    let relay = world.relay("").await;
    let first = relay.listener();
    let mut session = relay.client().await;
    session.expect("MAIL FROM:<a@client.test>", 250).await;

    let mark = relay.mark();
    reload(
        &relay,
        "[[listener]]\naddress = \"127.0.0.1:0\"\n[[listener]]\naddress = \"127.0.0.3:0\"\n",
    )
    .await;
    let opened = relay.event("listening").after(mark).all();
    assert_eq!(opened.len(), 1, "{opened:?}");
    let second: SocketAddr = opened[0].text("address").unwrap().parse().unwrap();
    Client::hello(first).await.unwrap();
    Client::hello(second).await.unwrap();

    // One address cannot be had, so nothing changes.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken_address = taken.local_addr().unwrap();
    let before = std::fs::read_to_string(relay.config_file()).unwrap();
    let mark = relay.mark();
    relay.configure(&format!(
        "[[listener]]\naddress = \"127.0.0.4:0\"\n[[listener]]\naddress = \"{taken_address}\"\n"
    ));
    relay.signal(Signal::HUP);
    let refused = relay.event("reload_refused").after(mark).await;
    let text = refused.text("message").unwrap();
    assert!(text.contains(&format!("listener.address: {taken_address}: ")), "{text}");
    Client::hello(first).await.unwrap();
    Client::hello(second).await.unwrap();
    std::fs::write(relay.config_file(), before).unwrap();

    reload(&relay, "[[listener]]\naddress = \"127.0.0.3:0\"\n").await;
    relay.event("listening_ended").after(mark).await;
    let gone = async || loop {
        if Client::dial(first).await.is_err() {
            return;
        }
        tokio::task::yield_now().await;
    };
    tokio::time::timeout(world::log::LIMIT, gone()).await.expect("the old listener closes");
    session.expect("RCPT TO:<b@far.test>", 250).await;
    session.expect("QUIT", 221).await;
}

#[tokio::test]
async fn strangers_leave_places_to_those_who_may_relay() {
    let world = World::start(PROGRAM).await;
    let limits = "[access]\nnetworks = [\"127.0.0.1\"]\n[limits]\nconnections = 10\n";
    let relay = world.relay(limits).await;
    let mut strangers = Vec::new();
    for _ in 0..9 {
        let client = Client::dial_from(STRANGER, relay.listener()).await.unwrap();
        strangers.push(client.greeted().await.unwrap());
    }
    let mut tenth = Client::dial_from(STRANGER, relay.listener()).await.unwrap();
    assert_eq!(tenth.reply().await.unwrap().code, 421);
    relay.client().await.expect("MAIL FROM:<a@client.test>", 250).await;
}
