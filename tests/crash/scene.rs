//! What all parts share: a world whose every domain ends at one sink, and the accounts of what came
//! there.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use world::World;
use world::load::{Arrival, Corpus, Envelope, Load, Sink, SinkTls, Sizes};

/// Messages go to as many domains, so that there is more than one lane.
const DOMAINS: u64 = 8;
/// Address of the sink: all domains' MX.
const SINK: Ipv4Addr = Ipv4Addr::new(127, 27, 0, 9);
/// Where the daemon listens in every life: clients have to find it again.
const LISTENER: Ipv4Addr = Ipv4Addr::new(127, 27, 0, 1);
/// Longest time in which nothing new may arrive.
const PROGRESS: Duration = Duration::from_secs(60);

/// World, sink and corpus.
pub(crate) struct Scene {
    pub(crate) world: World,
    pub(crate) sink: Sink,
    pub(crate) corpus: Arc<Corpus>,
}

impl Scene {
    /// `program` is the daemon, or a script that ends as it.
    pub(crate) async fn new(program: &Path, sizes: Sizes) -> Self {
        let world = World::start(program).await;
        let corpus = Arc::new(Corpus::new(sizes));
        let address = SocketAddr::from((SINK, 0));
        let sink = Sink::start(address, SinkTls::Never, Arc::clone(&corpus)).await;
        for number in 0..DOMAINS {
            world.dns.mx(&format!("d{number}.test"), &[(10, &format!("mx{number}.sink.test"))]);
            world.dns.a(&format!("mx{number}.sink.test"), SINK);
        }
        world.dns.mx("home.test", &[(10, "mx0.sink.test")]);
        world.dns.set_ttl(300);
        Self { world, sink: sink.expect("an address in 127.0.0.0/8 can be bound"), corpus }
    }

    /// What differs from the world's own configuration.
    pub(crate) fn configuration(&self) -> String {
        format!(
            "[delivery]\nport = {}\nretry = [\"1s\"]\n[log]\nlevel = \"info\"\n",
            self.sink.address().port()
        )
    }

    /// As before, and the listener's port stays the same in every life.
    pub(crate) fn configuration_with_port(&self) -> String {
        format!("{}[[listener]]\naddress = \"{}\"\n", self.configuration(), Self::listener())
    }

    /// The address that [`Scene::configuration_with_port`] names.
    pub(crate) fn listener() -> SocketAddr {
        SocketAddr::from((LISTENER, 2525))
    }

    /// Clients of `server`; `bounces` tells which messages have a recipient that the sink refuses.
    pub(crate) fn load(
        &self,
        server: SocketAddr,
        connections: usize,
        bounces: fn(u64) -> bool,
    ) -> Arc<Load> {
        let envelope = move |id: u64| {
            let user = if bounces(id) { "bounce" } else { "user" };
            Envelope {
                from: format!("ann{id}@home.test"),
                to: format!("{user}{id}@d{}.test", id % DOMAINS),
            }
        };
        Load::new(server, connections, Arc::clone(&self.corpus), Arc::new(envelope))
    }

    /// Waits until a message (or the DSN about it) arrived for each of `ids`, as long as
    /// something new keeps arriving.
    ///
    /// # Errors
    ///
    /// Those that did not come.
    pub(crate) async fn wait_for(&self, ids: &[u64], since: usize) -> Result<(), Vec<u64>> {
        self.wait_for_at_most(PROGRESS, ids, since).await
    }

    /// The same, as long as not so much time passes in which nothing arrives.
    pub(crate) async fn wait_for_at_most(
        &self,
        silence: Duration,
        ids: &[u64],
        since: usize,
    ) -> Result<(), Vec<u64>> {
        let missing = |all: &[Arrival]| {
            let come: std::collections::HashSet<u64> =
                all.iter().skip(since).filter(|one| one.intact).filter_map(|one| one.id).collect();
            let left = ids.iter().copied().filter(|id| !come.contains(id)).collect::<Vec<_>>();
            // One look for both, so that nothing comes unseen between the two.
            (left, all.len())
        };
        let (mut left, mut length) = self.sink.arrivals().read(missing);
        let mut progress = Instant::now();
        while !left.is_empty() {
            let more = self.sink.arrivals().until(|all| (all.len() > length).then_some(()));
            let came = tokio::time::timeout(silence.min(Duration::from_secs(5)), more).await;
            if matches!(came, Ok(Ok(()))) {
                progress = Instant::now();
            }
            (left, length) = self.sink.arrivals().read(missing);
            if !left.is_empty() && progress.elapsed() >= silence {
                return Err(left);
            }
        }
        Ok(())
    }

    /// How often each message came behind the first `since` arrivals.
    pub(crate) fn copies_since(&self, since: usize) -> BTreeMap<u64, usize> {
        let mut copies = BTreeMap::new();
        self.sink.arrivals().read(|all| {
            for one in all.iter().skip(since) {
                assert!(one.intact, "it arrived, but not as it was submitted: {one:?}");
                *copies.entry(one.id.expect("it has a number")).or_default() += 1;
            }
        });
        copies
    }

    /// Arrivals by message number; DSNs and messages apart.
    pub(crate) fn arrivals(&self, notices: Notices) -> BTreeMap<u64, Vec<Arrival>> {
        let mut by_id: BTreeMap<u64, Vec<Arrival>> = BTreeMap::new();
        self.sink.arrivals().read(|all| {
            for one in all.iter().filter(|one| one.notice.is_some() == (notices == Notices::Only)) {
                assert!(one.intact, "it arrived, but not as it was submitted: {one:?}");
                by_id.entry(one.id.expect("it has a number")).or_default().push(one.clone());
            }
        });
        by_id
    }
}

/// Which arrivals are meant.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Notices {
    /// Failure DSNs.
    Only,
    /// Everything else.
    None,
}

/// How long before a kill a delivery may have ended without its settling being durable, and how
/// long after it the sink may still read what the daemon had sent.
const IN_FLIGHT: Duration = Duration::from_secs(1);

/// Second copies are allowed only of what was in flight to the peer at a kill; `kills` says when
/// the daemon was gone.
///
/// Returns how many there were.
pub(crate) fn assert_duplicates_were_in_flight(
    arrivals: &BTreeMap<u64, Vec<Arrival>>,
    kills: &[Instant],
) -> usize {
    let times: Vec<Between> =
        kills.iter().map(|gone| Between { first: *gone, last: *gone }).collect();
    assert_duplicates_are_excused(arrivals, &times)
}

/// A time whose deliveries the next start does not know of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Between {
    pub(crate) first: Instant,
    /// The daemon was gone.
    pub(crate) last: Instant,
}

/// Second copies are allowed only of what was delivered in one of these times, and came again after
/// it.
///
/// Returns how many there were.
pub(crate) fn assert_duplicates_are_excused(
    arrivals: &BTreeMap<u64, Vec<Arrival>>,
    times: &[Between],
) -> usize {
    let mut duplicates = 0;
    for (id, copies) in arrivals {
        for pair in copies.windows(2) {
            duplicates += 1;
            let excused = times.iter().any(|time| {
                let near = time.first - IN_FLIGHT..=time.last + IN_FLIGHT;
                near.contains(&pair[0].at) && pair[1].at > time.last
            });
            assert!(excused, "message {id} came again and nothing explains it: {pair:?}");
        }
    }
    duplicates
}
