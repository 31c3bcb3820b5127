//! Other people's servers with habits of their own: what is about a session or about the number of
//! recipients is not about the mail.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use world::{Relay, World};

use crate::UNPACKED;
use crate::receivers::{Foreground, Place, Policy, exim, set_mode, wait_for_listener};

const SENDER: &str = "ann@client.test";

async fn relay(world: &World) -> Relay {
    world.relay("[delivery]\nretry = [\"1s\"]\n").await
}

/// One message to all of them.
async fn send(relay: &Relay, recipients: &[String]) {
    let to: Vec<&str> = recipients.iter().map(String::as_str).collect();
    relay.submit(SENDER, &to, "hello").await;
}

/// Courier's server, which is given each connection as its stdin and stdout, as by inetd.
struct Courier {
    connections: Arc<AtomicUsize>,
}

impl Courier {
    fn start(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).expect("the address is free");
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = OwnedFd::from(stream.expect("a connection"));
                count.fetch_add(1, Ordering::Relaxed);
                let mut served = serve(stream, address);
                // It ends with its connection.
                std::thread::spawn(move || served.wait());
            }
        });
        Self { connections }
    }
}

fn serve(stream: OwnedFd, address: SocketAddr) -> Child {
    let root = format!("{UNPACKED}/courier");
    let output = stream.try_clone().expect("a descriptor");
    let (uid, gid) = courier_ids();
    Command::new(format!("{root}/usr/sbin/courieresmtpd"))
        .env_clear()
        .env("LD_LIBRARY_PATH", format!("{root}/usr/lib:{root}/usr/lib/x86_64-linux-gnu"))
        .envs([
            ("TCPREMOTEIP", "127.0.0.1"),
            ("TCPREMOTEPORT", "1"),
            ("TCPREMOTEHOST", "client.test"),
        ])
        .env("TCPLOCALIP", address.ip().to_string())
        .envs([("TCPLOCALPORT", "25"), ("TCPLOCALHOST", "mx.courier.test")])
        // Who connects may relay, and no look-up or pause is in the way.
        .envs([("RELAYCLIENT", ""), ("TARPIT", "0"), ("BOFHCHECKDNS", "0")])
        .stdin(Stdio::from(stream))
        .stdout(Stdio::from(output))
        .stderr(Stdio::null())
        .uid(uid)
        .gid(gid)
        .spawn()
        .expect("Courier is unpacked")
}

/// Of the user that `.ci/lib.sh` makes.
fn courier_ids() -> (u32, u32) {
    let passwd = std::fs::read_to_string("/etc/passwd").expect("there is one");
    let line = passwd.lines().find(|line| line.starts_with("courier:")).expect("the user");
    let mut numbers = line.split(':').skip(2).map(|number| number.parse().expect("a number"));
    (numbers.next().expect("a uid"), numbers.next().expect("a gid"))
}

/// It takes 100 at a time and says 431 to the others, which is no code for that.
#[tokio::test(flavor = "multi_thread")]
async fn courier_gets_150_recipients_in_one_session_and_none_waits() {
    let world = World::start(env!("CARGO_BIN_EXE_staunch")).await;
    let place = Place::prepare(&world, "courier", Policy::Absent).await;
    let courier = Courier::start(place.address);
    let relay = world.relay("[delivery]\nrecipients_per_transaction = 150\n").await;
    let recipients: Vec<_> = (0..150).map(|number| format!("b{number}@courier.test")).collect();
    send(&relay, &recipients).await;
    relay.event("delivered").with("domain", "courier.test").times(150).await;
    assert_eq!(relay.event("deferred").count(), 0);
    assert_eq!(courier.connections.load(Ordering::Relaxed), 1);
}

/// It closes the session at its fourth 501. That says nothing about those who were not asked yet.
#[tokio::test(flavor = "multi_thread")]
async fn exim_hangs_up_over_odd_recipients_and_the_others_get_their_mail() {
    let world = World::start(env!("CARGO_BIN_EXE_staunch")).await;
    let place = Place::prepare(&world, "exim", Policy::Enforce).await;
    let _exim = exim(&place);
    wait_for_listener(&place).await;
    // One lane, and so one transaction, for all domains.
    let route = format!(
        "[[route]]\ndomains = [\"*\"]\nvia = [\"smtp://[mx.exim.test]:{}\"]\n\
         [delivery]\nretry = [\"1s\"]\n",
        place.address.port()
    );
    let relay = world.relay(&route).await;
    let odd = (0..5).map(|number| format!("b@odd_{number}.exim.test"));
    let good = ["first@exim.test", "last@exim.test"].map(str::to_owned);
    let recipients: Vec<_> =
        good[..1].iter().cloned().chain(odd).chain(good[1..].to_vec()).collect();
    send(&relay, &recipients).await;
    for recipient in &good {
        relay.event("delivered").with("recipient", recipient).await;
    }
    let bounced = relay.event("bounced").with("mx", "mx.exim.test").times(5).await;
    assert!(
        bounced
            .iter()
            .all(|event| event.text("message").is_some_and(|text| text.contains(" 501 "))),
        "{bounced:?}"
    );
    let delivered = relay.event("delivered").with("domain", "exim.test").all();
    assert_eq!(delivered.len(), 2, "each once: {delivered:?}");
}

/// aiosmtpd with the habit that it is named after.
async fn aiosmtpd(world: &World, habit: &'static str) -> (Place, Foreground) {
    let place = Place::prepare(world, habit, Policy::Absent).await;
    let kept = place.dir.join("kept");
    std::fs::create_dir(&kept).expect("a folder");
    set_mode(&kept, 0o777);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/interop/clients/odd.py");
    let server = Foreground::start(
        Command::new("/usr/bin/python3")
            .arg(script)
            .args([place.address.ip().to_string(), place.address.port().to_string()])
            .arg(habit)
            .arg(kept),
    );
    wait_for_listener(&place).await;
    (place, server)
}

/// The recipients of each message that was kept.
fn kept(place: &Place) -> Vec<Vec<String>> {
    let files = std::fs::read_dir(place.dir.join("kept")).expect("the folder");
    let texts = files.map(|file| std::fs::read_to_string(file.expect("a file").path()));
    let texts = texts.map(|text| text.expect("it is text"));
    let recipients = |text: String| {
        assert!(text.contains("\nhello"), "no empty message: {text}");
        text.lines().take_while(|line| !line.is_empty()).map(str::to_owned).collect()
    };
    let mut all: Vec<Vec<String>> = texts.map(recipients).collect();
    all.sort();
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_keeps_transactions_open_gets_each_message_once() {
    let world = World::start(env!("CARGO_BIN_EXE_staunch")).await;
    let (place, _server) = aiosmtpd(&world, "open").await;
    let relay = relay(&world).await;
    let recipients: Vec<_> = (0..5).map(|number| format!("b{number}@open.test")).collect();
    for recipient in &recipients {
        send(&relay, std::slice::from_ref(recipient)).await;
    }
    relay.event("delivered").with("domain", "open.test").times(5).await;
    assert_eq!(relay.event("bounced").count(), 0);
    assert_eq!(kept(&place), recipients.iter().map(|one| vec![one.clone()]).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_takes_one_recipient_a_transaction_gets_the_others_at_once() {
    let world = World::start(env!("CARGO_BIN_EXE_staunch")).await;
    let (place, _server) = aiosmtpd(&world, "single").await;
    let relay = relay(&world).await;
    let recipients: Vec<_> = (0..5).map(|number| format!("b{number}@single.test")).collect();
    send(&relay, &recipients).await;
    relay.event("delivered").with("domain", "single.test").times(5).await;
    assert_eq!(relay.event("deferred").count(), 0);
    assert_eq!(kept(&place), recipients.iter().map(|one| vec![one.clone()]).collect::<Vec<_>>());
}
