//! 100 reloads while 5,000 messages pass: nobody's connection is dropped, nothing is refused but by
//! the new rules, nothing is lost or sent twice. Then a queue of 100,000 recipients follows a
//! changed route.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;
use tokio::net::TcpStream;
use tokio::time::Instant;
use world::load::{Load, Sizes};
use world::{Client, KeyFiles, Leaf, Relay, Trust};

use crate::Plan;
use crate::scene::{Notices, Scene};

const CLIENTS: usize = 16;
/// The listener that is there in every second configuration.
const GUESTS: &str = "127.27.0.2:2525";
/// Far longer than a listener takes to close.
const CLOSING: Duration = Duration::from_secs(5);
/// Numbers of guests' messages begin here.
const FIRST_GUEST: u64 = 1_000_000;

/// Recipients of each message that waits for [`follow`].
const EACH: u64 = 1_000;
/// Their domains: as many lanes that are moved to one.
const DOMAINS: u64 = 1_000;

pub(crate) async fn run(plan: Plan) {
    under_load(&plan).await;
    follow(plan.recipients / EACH).await;
}

/// A queue of many recipients goes over to another next hop, also if the daemon is killed in the
/// middle.
async fn follow(messages: u64) {
    let scene = Scene::new(Path::new(env!("CARGO_BIN_EXE_staunch")), Sizes::Fixed(2_000)).await;
    let mut relay = scene.world.relay(&scene.configuration_with_port()).await;
    let paused = relay.cli(&["pause"]).await;
    assert!(paused.status.success(), "{paused:?}");
    for id in 0..messages {
        submit(&scene, id).await;
    }
    let total = messages * EACH;
    let count = |relay: &Relay| {
        let moved = relay.event("rerouted").all();
        let numbers = moved.iter().filter_map(|event| event.text("recipients"));
        numbers.filter_map(|number| number.parse::<u64>().ok()).sum::<u64>()
    };
    let (since, mark) = (Instant::now(), relay.mark());
    relay.configure(&to_sink(&scene));
    relay.signal(Signal::HUP);
    relay.event("rerouted").after(mark).await;
    while count(&relay) < total {
        relay.event("rerouted").times(relay.event("rerouted").count() + 1).await;
    }
    println!(
        "{total} recipients in {DOMAINS} lanes went over to another next hop in {:?}",
        since.elapsed()
    );

    // And back again, with a kill as soon as the first have moved.
    let mark = relay.mark();
    relay.configure(&to_sink(&scene).replace("mx0.", "mx1."));
    relay.signal(Signal::HUP);
    relay.event("config_reloaded").after(mark).await;
    relay.kill9().await;
    relay.start_again().await;
    let resumed = relay.cli(&["resume"]).await;
    assert!(resumed.status.success(), "{resumed:?}");
    let mut length = 0;
    while relay.cli_json(&["queue", "summary"]).await[0]["messages"] != 0 {
        let more = scene.sink.arrivals().until(|all| (all.len() > length).then_some(all.len()));
        length = more.await.unwrap_or_else(|_| panic!("stuck: {}", relay.lines_about("")));
    }
    relay.stop().await;
    assert!(scene.arrivals(Notices::None).keys().copied().eq(0..messages), "each message");
    assert_eq!(relay.event("delivered").count() as u64, total, "each recipient once");
    println!("killed in the middle of the way back, and sent to each once");
}

/// Everything goes over one host.
fn to_sink(scene: &Scene) -> String {
    format!(
        "[[route]]\ndomains = [\"*\"]\nvia = [\"smtp://[mx0.sink.test]:{}\"]\ntls = \"opportunistic\"\n",
        scene.sink.address().port()
    )
}

/// A message to [`EACH`] recipients, all commands at once.
async fn submit(scene: &Scene, id: u64) {
    let mut client = Client::hello(Scene::listener()).await.expect("it listens");
    client.expect("MAIL FROM:<ann@home.test>", 250).await;
    let lines: String =
        (0..EACH).map(|n| format!("RCPT TO:<user{n}@r{}.test>\r\n", n % DOMAINS)).collect();
    client.send(lines.as_bytes()).await.expect("it is there");
    for _ in 0..EACH {
        assert_eq!(client.reply().await.expect("it is there").code, 250);
    }
    client.expect("DATA", 354).await;
    client.send(&world::stuff(&scene.corpus.message(id))).await.expect("it is there");
    assert_eq!(client.reply().await.expect("it is there").code, 250);
    client.expect("QUIT", 221).await;
}

async fn under_load(plan: &Plan) {
    let scene = Scene::new(Path::new(env!("CARGO_BIN_EXE_staunch")), Sizes::Quick).await;
    let relay = scene.world.relay(&scene.configuration_with_port()).await;
    let load = scene.load(relay.listener(), CLIENTS, |_| false);
    let (messages, reloads) = (plan.messages, plan.reloads);
    let turns = Turns::new(&scene, &relay);
    let begun = Instant::now();
    let submit = async {
        load.run(messages).await;
        begun.elapsed()
    };
    let (submitted, longest) = tokio::join!(submit, turns.all(&load, messages, reloads));
    assert_eq!(load.refused(), 0, "no rule refuses any of it");
    assert_eq!(load.acknowledged().len() as u64, messages, "no connection was dropped");
    let guests = reloads / 2;
    let ids: Vec<u64> = (0..messages).chain(FIRST_GUEST..FIRST_GUEST + guests).collect();
    if let Err(lost) = scene.wait_for(&ids, 0).await {
        panic!("{} messages are lost: {lost:?}", lost.len());
    }
    let all = begun.elapsed();
    let arrivals = scene.arrivals(Notices::None);
    let twice: Vec<_> = arrivals.values().filter(|copies| copies.len() > 1).collect();
    assert!(twice.is_empty(), "delivered more than once: {twice:?}");
    assert_eq!(relay.event("config_reloaded").count() as u64, reloads);
    assert_eq!(relay.event("reload_refused").count(), 0);
    println!(
        "{reloads} reloads, the longest {longest:?}; {messages} messages submitted in {submitted:?} over {CLIENTS} \
         connections, and {guests} over listeners that were gone by then; delivered once each in {all:?}"
    );
}

/// The two configurations that take turns: limits, next hops, listeners and certificates differ.
struct Turns<'a> {
    scene: &'a Scene,
    relay: &'a Relay,
    even: KeyFiles,
    odd: KeyFiles,
    trust: Trust,
}

impl<'a> Turns<'a> {
    fn new(scene: &'a Scene, relay: &'a Relay) -> Self {
        let pki = &scene.world.pki;
        let files = |name: &str| {
            let file = |kind: &str| relay.data_dir().with_file_name(format!("{name}.{kind}.pem"));
            let files = KeyFiles { certificate: file("chain"), key: file("key") };
            files.replace(&pki.issue(&Leaf::named(name)));
            files
        };
        Self {
            scene,
            relay,
            even: files("even.test"),
            odd: files("odd.test"),
            trust: Trust::in_ca(pki),
        }
    }

    /// One reload each time that a further share of the messages was taken. Returns how long the
    /// slowest one took.
    async fn all(&self, load: &Load, messages: u64, reloads: u64) -> Duration {
        let mut longest = Duration::ZERO;
        let mut guest = None;
        for reload in 1..=reloads {
            let least = usize::try_from(messages * reload / (reloads + 1)).expect("small");
            let there = load.acknowledged().until(|all| (all.len() >= least).then_some(())).await;
            there.unwrap_or_else(|_| panic!("nothing is taken: {}", self.relay.lines_about("")));
            let is_even = reload.is_multiple_of(2);
            longest =
                longest.max(self.reload(&if is_even { self.even() } else { self.odd() }).await);
            self.check_certificate(if is_even { "even.test" } else { "odd.test" }).await;
            guest = match guest {
                None => Some(self.welcome().await),
                Some(client) => {
                    self.farewell(client, FIRST_GUEST + reload / 2 - 1).await;
                    None
                }
            };
        }
        longest
    }

    async fn reload(&self, overlay: &str) -> Duration {
        let (since, mark) = (Instant::now(), self.relay.mark());
        self.relay.configure(overlay);
        self.relay.signal(Signal::HUP);
        self.relay.event("config_reloaded").after(mark).await;
        since.elapsed()
    }

    /// Who comes now sees the certificate of now.
    async fn check_certificate(&self, name: &str) {
        let client = Client::hello(Scene::listener()).await.expect("it listens");
        let mut client = client.starttls(&self.trust, name).await.expect("the new certificate");
        client.expect("QUIT", 221).await;
    }

    /// A session on the listener that will be gone.
    async fn welcome(&self) -> Client {
        let address: SocketAddr = GUESTS.parse().expect("an address");
        let mut client = Client::hello(address).await.expect("it listens there now");
        client.expect("MAIL FROM:<guest@home.test>", 250).await;
        client
    }

    /// What a session began it ends though its listener is gone, which takes nobody else; the next
    /// message has to come another way.
    async fn farewell(&self, mut client: Client, id: u64) {
        let address: SocketAddr = GUESTS.parse().expect("an address");
        // Nobody waits for a greeting here: whoever connects at the very moment when a socket
        // closes may be told by the system that it is connected, and never hear anything more.
        let since = Instant::now();
        while TcpStream::connect(address).await.is_ok() {
            assert!(since.elapsed() < CLOSING, "its listener is gone");
        }
        client.expect("RCPT TO:<guest@d0.test>", 250).await;
        client.expect("DATA", 354).await;
        client.send(&world::stuff(&self.scene.corpus.message(id))).await.expect("it is there");
        assert_eq!(client.reply().await.expect("it is still there").code, 250);
        client.expect("MAIL FROM:<guest@home.test>", 421).await;
    }

    fn even(&self) -> String {
        format!(
            "route = []\n[limits]\nrecipients = 1000\nconnections_per_client = 100\n\
             [delivery]\nconnections_per_host = 10\n[[listener]]\naddress = \"{}\"\n{}",
            Scene::listener(),
            self.even.toml()
        )
    }

    fn odd(&self) -> String {
        format!(
            "[limits]\nrecipients = 10\nconnections_per_client = 50\n\
             [delivery]\nconnections_per_host = 3\n\
             [[route]]\ndomains = [\"d1.test\", \"d2.test\", \"d3.test\"]\n\
             via = [\"smtp://[mx0.sink.test]:{}\"]\ntls = \"opportunistic\"\n\
             [[listener]]\naddress = \"{}\"\n{}[[listener]]\naddress = \"{GUESTS}\"\n",
            self.scene.sink.address().port(),
            Scene::listener(),
            self.odd.toml()
        )
    }
}
