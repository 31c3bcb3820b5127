//! The world behaves as its scripts say, seen by a plain client: what the daemon is judged by must
//! itself be right.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use world::{
    Client, Closed, Handshake, Leaf, Mode, Reply, Rule, Serve, Starttls, Then, Trust, World,
};

/// No daemon is started here.
const NO_PROGRAM: &str = "/bin/false";

fn connector(world: &World) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    for der in CertificateDer::pem_file_iter(world.pki.ca_file()).unwrap() {
        roots.add(der.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}

async fn tls(world: &World, stream: TcpStream, name: &str) -> Option<TlsStream<TcpStream>> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    connector(world).connect(name, stream).await.ok()
}

/// Connects, says STARTTLS, and tries the handshake.
async fn starttls(trust: &Trust, address: SocketAddr, name: &str) -> Result<Client, Closed> {
    Client::hello(address).await.unwrap().starttls(trust, name).await
}

#[tokio::test]
async fn a_host_keeps_what_it_accepted_and_only_that() {
    let world = World::start(NO_PROGRAM).await;
    let mx = world.mx("mx.a.test").await;
    mx.on("RCPT TO:<no@", Then::reply("550 5.1.1 Nobody"));
    mx.script(|script| script.rules.push(Rule::times(1, ".", Then::reply("451 4.3.0 Later"))));

    let mut client = Client::hello(mx.address()).await.unwrap();
    let first = client.transact("s@b.test", &["yes@a.test"], b"A: b\r\n\r\n.x\r\n").await.unwrap();
    assert_eq!(first.code, 451);
    client.expect("MAIL FROM:<s@b.test> SIZE=10", 250).await;
    client.expect("RCPT TO:<no@a.test>", 550).await;
    client.expect("RCPT TO:<yes@a.test>", 250).await;
    client.expect("DATA", 354).await;
    client.send(&world::stuff(b"A: b\r\n\r\n.x\r\n")).await.unwrap();
    assert_eq!(client.reply().await.unwrap().code, 250);
    client.expect("QUIT", 221).await;
    assert!(client.is_closed().await);

    let message = mx.message().await;
    assert_eq!((message.from.as_str(), message.parameters.as_str()), ("s@b.test", "SIZE=10"));
    assert_eq!(message.to, ["yes@a.test"]);
    assert_eq!(message.body(), b".x\r\n");
    assert_eq!(message.tls, None);
    assert_eq!((mx.received().len(), mx.connections(), mx.commanded("mail from")), (1, 1, 2));
}

#[tokio::test]
async fn starttls_is_as_good_or_bad_as_scripted() {
    let world = World::start(NO_PROGRAM).await;
    let good = Leaf::named("mx.a.test");
    let identities = [
        (world.pki.issue(&good), true),
        (world.pki.issue(&Leaf::named("*.a.test")), true),
        (world.pki.issue(&good.clone().expired()), false),
        (world.pki.issue(&good.clone().not_yet_valid()), false),
        (world.pki.issue(&good.clone().self_signed()), false),
        (world.pki.issue(&good.clone().untrusted()), false),
        (world.pki.issue(&good.clone().common_name_only()), false),
        (world.pki.issue(&good.clone().for_clients()), false),
        (world.pki.issue(&Leaf::named("mx.b.test")), false),
        (world.pki.issue(&good).replayed(), false),
    ];
    let mx = world.mx("mx.a.test").await;
    let trust = Trust::in_ca(&world.pki);
    for (number, (identity, is_good)) in identities.into_iter().enumerate() {
        mx.script(|script| script.identity = identity);
        let client = starttls(&trust, mx.address(), "mx.a.test").await;
        assert_eq!(client.is_ok(), is_good, "identity {number}");
        let blind = starttls(&Trust::blind(), mx.address(), "mx.a.test").await;
        assert_eq!(blind.is_ok(), number + 1 < 10, "a replayed certificate is never good");
    }
    mx.script(|script| script.identity = world.pki.issue(&good));
    let bad = [Starttls::Abort, Starttls::Alert, Starttls::Tls11Only];
    for starttls_as in bad {
        mx.script(|script| script.starttls = starttls_as.clone());
        let client = starttls(&trust, mx.address(), "mx.a.test").await;
        assert!(client.is_err(), "{starttls_as:?}");
    }

    // A client that does not look takes the injected reply for an answer of the TLS session.
    mx.script(|script| script.starttls = Starttls::InjectPlaintext);
    let mut client = Client::hello(mx.address()).await.unwrap();
    client.expect("STARTTLS", 220).await;
    assert_eq!(client.reply().await.unwrap().text(), "2.0.0 Injected");
}

#[tokio::test]
async fn a_session_is_resumed_by_whoever_has_it_while_the_host_lets_it() {
    let world = World::start(NO_PROGRAM).await;
    let mx = world.mx("mx.a.test").await;
    let trusts = [(Trust::in_ca(&world.pki), "1.3"), (Trust::in_ca_tls12(&world.pki), "1.2")];
    for (trust, version) in trusts {
        for (resumption, resumed) in [(true, false), (true, true), (false, false)] {
            mx.script(|script| script.resumption = resumption);
            let client = starttls(&trust, mx.address(), "mx.a.test").await.unwrap();
            let seen = client.tls().unwrap();
            assert_eq!((seen.version, seen.resumed), (version, resumed));
        }
    }
    let seen = mx.handshakes().read(|all| all.iter().map(|one| one.resumed).collect::<Vec<_>>());
    assert_eq!(seen, [false, true, false, false, true, false]);
}

/// The client here offers the hybrid group, as ours does.
#[tokio::test]
async fn a_host_that_cannot_bear_a_large_hello_resets_the_connection() {
    let world = World::start(NO_PROGRAM).await;
    let mx = world.mx("mx.a.test").await;
    let trust = Trust::in_ca(&world.pki);
    let client = starttls(&trust, mx.address(), "mx.a.test").await;
    assert!(client.is_ok());
    assert_eq!(mx.handshakes().read(|all| all[0].group.clone()), "X25519MLKEM768");
    mx.script(|script| script.starttls = Starttls::ResetOnPostQuantum);
    assert!(starttls(&trust, mx.address(), "mx.a.test").await.is_err());
    assert_eq!(mx.handshakes().len(), 1);
}

#[tokio::test]
async fn extensions_are_used_where_they_are_offered() {
    let world = World::start(NO_PROGRAM).await;
    let mx = world.mx("mx.a.test").await;
    mx.script(|script| {
        script.offer(&["CHUNKING", "DSN", "SMTPUTF8", "LIMITS RCPTMAX=2 MAILMAX=2"]);
        script.offer_in_tls(&["REQUIRETLS", "AUTH PLAIN LOGIN SCRAM-SHA-256"]);
        script.users = vec![("ann".to_owned(), "secret".to_owned())];
    });

    let mut client = Client::hello(mx.address()).await.unwrap();
    assert_eq!(client.keyword("requiretls"), None);
    assert_eq!(client.keyword("LIMITS"), Some("RCPTMAX=2 MAILMAX=2"));
    client.expect("MAIL FROM:<a@b.test> REQUIRETLS", 555).await;
    client.expect("MAIL FROM:<ä@b.test>", 553).await;
    let mut client = client.starttls(&Trust::in_ca(&world.pki), "mx.a.test").await.unwrap();
    assert_eq!(client.keyword("STARTTLS"), None);
    assert_eq!(client.auth_login("ann", "wrong").await.unwrap().code, 535);
    assert_eq!(client.auth_scram("ann", "wrong").await.unwrap().code, 535);
    assert_eq!(client.auth_scram("ann", "secret").await.unwrap().code, 235);
    client.expect("MAIL FROM:<ä@b.test> SMTPUTF8 RET=HDRS REQUIRETLS", 250).await;
    client.expect("RCPT TO:<yes@a.test> NOTIFY=NEVER", 250).await;
    client.expect("RCPT TO:<ü@a.test>", 250).await;
    client.expect("RCPT TO:<third@a.test>", 452).await;
    assert_eq!(client.bdat(b"A: b\r\n\r\n.\r\n", false).await.unwrap().code, 250);
    client.expect("DATA", 503).await;
    assert_eq!(client.bdat(b"", true).await.unwrap().code, 250);
    assert_eq!(client.bdat(b"QUIT\r\n", true).await.unwrap().code, 503);
    let reply = client.transact("", &["a@a.test"], b"A: b\r\n\r\n").await.unwrap();
    assert_eq!(reply.code, 250);
    client.expect("MAIL FROM:<>", 421).await;
    assert!(client.is_closed().await);

    let messages = mx.messages(2).await;
    assert_eq!(messages[0].parameters, "SMTPUTF8 RET=HDRS REQUIRETLS");
    assert_eq!(messages[0].rcpt_parameters, ["NOTIFY=NEVER", ""]);
    assert_eq!(messages[0].content, b"A: b\r\n\r\n.\r\n");
    assert_eq!(messages[0].user.as_deref(), Some("ann"));
    assert_eq!((messages[0].chunked, messages[1].chunked), (true, false));

    let client = Client::hello(mx.address()).await.unwrap();
    let mut client = client.starttls(&Trust::blind(), "other.test").await.unwrap();
    assert_eq!(client.auth_plain("ann", "secret").await.unwrap().code, 235);
}

#[tokio::test]
async fn lmtp_answers_for_each_recipient() {
    let world = World::start(NO_PROGRAM).await;
    let mx = world.mx("mx.a.test").await;
    mx.on(". no@", Then::reply("452 4.2.2 Full"));
    let mut client = Client::dial(mx.address()).await.unwrap();
    client.reply().await.unwrap();
    client.expect("LHLO client.test", 250).await;
    let reply = client.transact("", &["no@a.test", "yes@a.test"], b"A: b\r\n\r\n").await.unwrap();
    assert_eq!((reply.code, client.reply().await.unwrap().code), (452, 250));
    assert_eq!(mx.message().await.to, ["yes@a.test"]);
}

#[tokio::test]
async fn a_host_can_be_slow_and_have_addresses_of_both_kinds() {
    let world = World::start(NO_PROGRAM).await;
    let mx = world.mx("mx.a.test").await;
    let second = world.add_address(&mx).await;
    let port = world.mx_port();
    let mut addresses = vec![SocketAddr::from((mx.ip(), port)), (second, port).into()];
    addresses.extend(world.add_ipv6(&mx));
    let pause = Duration::from_millis(1);
    mx.on("NOOP", Then::Drip("250 2.0.0 Ok".to_owned(), pause));
    mx.on("RSET", Then::Late("250 2.0.0 Ok".to_owned(), pause));
    let mut clients = Vec::new();
    for &address in &addresses {
        let mut client = Client::hello(address).await.unwrap();
        client.expect("NOOP", 250).await;
        client.expect("RSET", 250).await;
        clients.push(client);
    }
    assert_eq!((mx.connections(), mx.open_max()), (addresses.len(), addresses.len()));
    let opened = mx.opened().read(|all| all.iter().map(|one| one.local).collect::<Vec<_>>());
    assert_eq!(opened, addresses);
}

#[tokio::test]
async fn a_silent_address_answers_no_syn() {
    let world = World::start(NO_PROGRAM).await;
    let address = world.silent_address().await;
    assert_eq!(world.connecting(), Vec::<IpAddr>::new());
    let connect = TcpStream::connect((address, world.mx_port()));
    let waits = tokio::time::timeout(Duration::from_millis(100), async {
        let mut connect = std::pin::pin!(connect);
        let looked = async {
            while world.connecting().is_empty() {
                tokio::task::yield_now().await;
            }
            world.connecting()
        };
        tokio::select! { _ = &mut connect => Vec::new(), seen = looked => seen }
    });
    assert_eq!(waits.await.unwrap(), [IpAddr::from(address)]);
}

#[tokio::test]
async fn hosts_share_a_port_and_a_dead_address_refuses() {
    let world = World::start(NO_PROGRAM).await;
    let (a, b) = (world.mx("a.test").await, world.mx("b.test").await);
    assert_ne!(a.ip(), b.ip());
    assert_eq!(a.address().port(), b.address().port());
    assert!(TcpStream::connect((World::dead_address(), world.mx_port())).await.is_err());
    assert_eq!((a.connections(), b.connections()), (0, 0));
}

/// One GET; the whole response, or `None` if there was no handshake.
async fn get(world: &World, host: &str) -> Option<String> {
    let stream = TcpStream::connect(world.policies.address()).await.unwrap();
    let mut stream = tls(world, stream, host).await?;
    let request = format!("GET /.well-known/mta-sts.txt HTTP/1.1\r\nHost: {host}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    Some(response)
}

#[tokio::test]
async fn a_policy_host_serves_each_domain_its_own_way() {
    let world = World::start(NO_PROGRAM).await;
    let (a, b) = (world.domain("a.test"), world.domain("b.test"));
    a.mta_sts(Mode::Enforce, &["mx.a.test"], 86400);
    b.serve(Serve::Drip(Reply::status(500, "no").content_type(None), Duration::from_millis(1)));

    let response = get(&world, "mta-sts.a.test").await.unwrap();
    assert!(response.starts_with("HTTP/1.1 200 "), "{response}");
    assert!(response.ends_with("mode: enforce\r\nmx: mx.a.test\r\nmax_age: 86400\r\n"));
    let response = get(&world, "mta-sts.b.test").await.unwrap();
    assert!(response.starts_with("HTTP/1.1 500 "), "{response}");
    assert!(!response.contains("Content-Type"));

    for handshake in [Handshake::Tls11Only, Handshake::Abort] {
        a.change_site(|site| site.handshake = handshake);
        assert_eq!(get(&world, "mta-sts.a.test").await, None);
    }
    assert_eq!((a.policy_requests(), world.policies.hellos_to("mta-sts.a.test")), (1, 3));
    let host = world.policies.requests().read(|all| all[0].header("host").map(str::to_owned));
    assert_eq!(host.as_deref(), Some("mta-sts.a.test"));
}

#[tokio::test]
async fn nothing_is_left_of_a_world() {
    let world = World::start(NO_PROGRAM).await;
    let dir = world.dir().to_owned();
    assert!(dir.is_dir());
    drop(world);
    assert!(!dir.exists());
}
