//! The keeper against real DNS, real policy hosts and a real store: what is asked, what holds, and
//! what is left after a restart.

use jiff::Timestamp;
use policy::sts::Id;
use policy::sts::cache::{Alarm, NoPolicy, State, Stored};
use spool::{FoundPolicy, Options, PolicyRow, Spool};
use tokio::sync::oneshot;
use world::{Answer, Domain, Mode, RecordType, Reply, Serve, World};

use super::*;
use crate::clock;
use crate::config::{Surroundings, load};
use crate::queue::waiting::QueuedMail;

const A: &str = "a.test";

/// A keeper, and the store that a restart finds again.
struct Daemon {
    keeper: PolicyCache,
    spool: Spool,
    /// The keeper reads it as long as it is held.
    config: watch::Sender<Arc<Config>>,
}

impl Daemon {
    fn start(world: &World, settings: &str) -> Self {
        let text = format!(
            "hostname = 'relay.test'\ndata_dir = '/nonexistent'\n\
             [dns]\nservers = ['{}']\ntimeout = '1s'\n\
             [delivery]\nallow_addresses = ['127.0.0.0/8']\n\
             [mta_sts]\npolicy_port = {}\nca_file = '{}'\n{settings}\n",
            world.dns.address(),
            world.policies.address().port(),
            world.pki.ca_file().display(),
        );
        let file = world.dir().join("staunch.toml");
        std::fs::write(&file, text).unwrap();
        let config = Arc::new(load(Some(&file), &Surroundings::default()).unwrap().config);
        let spool = Spool::open(&world.dir().join("spool"), Options::default()).unwrap();
        let dns = Resolver::new(&config.dns).unwrap();
        let watch = ClockWatch::open(&spool).unwrap();
        let (sender, receiver) = watch::channel(config);
        let keeper =
            PolicyCache::new(receiver, dns, spool.policies().clone(), (watch, TaskTracker::new()))
                .unwrap();
        Self { keeper, spool, config: sender }
    }

    /// Ends as a crash would: nothing is said to anybody.
    fn restart(self, world: &World) -> Self {
        drop(self);
        Self::start(world, "")
    }

    async fn look(&self) -> String {
        self.look_at(A).await
    }

    async fn look_at(&self, domain: &str) -> String {
        words(&self.keeper.lookup(&name(domain), Freshness::Cached).await)
    }

    fn stored(&self) -> State {
        match rows::stored(self.spool.policies().get(&name(A)).unwrap()) {
            Stored::Row(state) => *state,
            Stored::Absent | Stored::Damaged => State::default(),
        }
    }

    async fn put(&self, row: PolicyRow) {
        let (done, stored) = oneshot::channel();
        self.spool.policies().put(row, |result| drop(done.send(result)));
        stored.await.unwrap().unwrap();
    }

    /// As if the policy had been fetched two minutes ago, which it returns.
    async fn make_old(&self) -> Timestamp {
        let mut old = self.stored();
        let kept = old.kept.take().unwrap();
        let two_minutes = jiff::SignedDuration::from_mins(2);
        let body = kept.body().as_bytes();
        let kept =
            CachedPolicy::new(kept.id().clone(), body, kept.fetched_at() - two_minutes).unwrap();
        let fetched_at = kept.fetched_at();
        old.kept = Some(Arc::new(kept));
        old.recent.clear();
        self.put(rows::row_of(&name(A), &old)).await;
        fetched_at
    }

    fn waiting(&self) -> Arc<dyn WaitingMail> {
        Arc::new(QueuedMail::new(self.spool.clone(), self.config.subscribe()))
    }

    /// What a look at all rows finds, and drops; returns whose policies were lost.
    async fn tidy(&self) -> Vec<HostName> {
        let census = self.keeper.census(&std::hash::RandomState::new()).await.unwrap();
        self.keeper.inner.tidy(census.tenants, &self.waiting()).await;
        census.lost
    }

    async fn pass(&self) {
        let waiting = self.waiting();
        self.keeper.pass(&std::hash::RandomState::new(), &waiting).await;
    }
}

fn name(text: &str) -> HostName {
    HostName::parse(text).unwrap()
}

/// A verdict in a few words.
fn words(verdict: &PolicyVerdict) -> String {
    match verdict {
        PolicyVerdict::Policy(kept) => kept.policy().mode().as_str().to_owned(),
        PolicyVerdict::None(NoPolicy::Record(_)) => "no record".to_owned(),
        PolicyVerdict::None(NoPolicy::Dns(_)) => "no dns".to_owned(),
        PolicyVerdict::None(NoPolicy::Fetch(_)) => "no fetch".to_owned(),
        PolicyVerdict::Defer(defer) => format!("defer {}", defer.reason),
    }
}

fn enforced(world: &World) -> Domain<'_> {
    let domain = world.domain(A);
    domain.mta_sts(Mode::Enforce, &["mx.a.test"], 86_400);
    domain
}

fn failing() -> Serve {
    Serve::Reply(Reply::status(500, ""))
}

#[tokio::test]
async fn many_messages_cost_one_query_and_one_fetch() {
    let world = World::start("/none").await;
    world.dns.set_ttl(600);
    let domain = enforced(&world);
    let daemon = Daemon::start(&world, "");
    let host = name(A);
    let many = (0..50).map(|_| daemon.keeper.lookup(&host, Freshness::Cached));
    for verdict in futures_util::future::join_all(many).await {
        assert_eq!(words(&verdict), "enforce");
    }
    for _ in 0..1000 {
        assert_eq!(daemon.look().await, "enforce");
    }
    assert_eq!(domain.policy_requests(), 1);
    assert_eq!(world.dns.asked(&domain.record_name(), RecordType::TXT), 1);
    let stored = daemon.stored();
    daemon.keeper.lookup(&host, Freshness::Fresh).await;
    assert_eq!(world.dns.asked(&domain.record_name(), RecordType::TXT), 2, "a fresh one asks");
    assert_eq!(daemon.stored(), stored, "an unchanged record writes nothing");
}

/// An attempt makes room for others while its policy is looked up.
#[tokio::test]
async fn a_look_up_goes_on_when_nobody_waits_for_it_any_more() {
    let world = World::start("/none").await;
    let domain = enforced(&world);
    let daemon = Daemon::start(&world, "");
    let watch = daemon.keeper.watch(&name(A));
    tokio::select! {
        biased;
        _ = daemon.look() => panic!("it takes a moment"),
        () = std::future::ready(()) => {}
    }
    daemon.keeper.inner.tracker.close();
    daemon.keeper.inner.tracker.wait().await;
    assert!(watch.has_changed(), "attempts under way are told");
    assert!(daemon.stored().kept.is_some());
    assert_eq!(domain.policy_requests(), 1);
}

#[tokio::test]
async fn a_domain_without_a_record_is_asked_once_per_ttl_and_no_host_at_all() {
    let world = World::start("/none").await;
    world.dns.set_ttl(600);
    let domain = world.domain(A);
    domain.policy_body("version: STSv1\nmode: enforce\nmx: mx.a.test\nmax_age: 60\n");
    let daemon = Daemon::start(&world, "");
    for _ in 0..100 {
        assert_eq!(daemon.look().await, "no record");
    }
    assert_eq!(world.dns.asked(&domain.record_name(), RecordType::TXT), 1);
    assert_eq!(domain.policy_requests(), 0);
}

#[tokio::test]
async fn nothing_that_fails_ends_a_live_policy() {
    type Break = for<'d, 'w> fn(&'d Domain<'w>) -> &'d Domain<'w>;
    let cases: [(&str, Break); 9] = [
        ("servfail.test", |d| d.record_answer(Answer::ServFail)),
        ("refused.test", |d| d.record_answer(Answer::Refused)),
        ("nxdomain.test", |d| d.record_answer(Answer::NxDomain)),
        ("gone.test", |d| d.remove_record()),
        ("garbled.test", |d| d.record("v=STSv1; id=a-b")),
        ("down.test", |d| d.new_id().policy_host_down()),
        ("status.test", |d| d.new_id().serve(failing())),
        ("nonsense.test", |d| d.new_id().policy_body("version: STSv2")),
        ("large.test", |d| d.new_id().policy_body(&"a".repeat(65_537))),
    ];
    let world = World::start("/none").await;
    let daemon = Daemon::start(&world, "");
    for (domain, damage) in cases {
        world.domain(domain).mta_sts(Mode::Enforce, &["mx.a.test"], 86_400);
        assert_eq!(daemon.look_at(domain).await, "enforce", "{domain}");
        damage(&world.domain(domain));
        assert_eq!(daemon.look_at(domain).await, "enforce", "{domain}");
    }
    let daemon = daemon.restart(&world);
    for (domain, _) in cases {
        assert_eq!(daemon.look_at(domain).await, "enforce", "{domain}, after a restart");
        assert!(daemon.keeper.enforces(&name(domain)), "{domain}");
        world.domain(domain).mta_sts(Mode::None, &[], 86_400);
        assert_eq!(daemon.look_at(domain).await, "none", "{domain}: only a newer policy ends it");
        assert!(!daemon.keeper.enforces(&name(domain)), "{domain}");
    }
}

#[tokio::test]
async fn a_first_contact_waits_for_an_answer_from_dns() {
    let world = World::start("/none").await;
    let domain = world.domain(A);
    domain.record_answer(Answer::ServFail);
    let daemon = Daemon::start(&world, "");
    assert_eq!(daemon.look().await, "defer policy_dns_failure");
    let since = daemon.stored().dns_failing_since;
    assert!(since.is_some());
    let daemon = daemon.restart(&world);
    assert_eq!(daemon.look().await, "defer policy_dns_failure");
    assert_eq!(daemon.stored().dns_failing_since, since, "the wait does not begin anew");
    domain.remove_record();
    assert_eq!(daemon.look().await, "no record");
    domain.record_answer(Answer::ServFail);
    drop(daemon);
    let daemon = Daemon::start(&world, "dns_failure = 'deliver'");
    assert_eq!(daemon.look().await, "no dns");
}

#[tokio::test]
async fn a_failed_fetch_rests_also_over_a_restart_but_a_new_id_is_fetched_at_once() {
    let world = World::start("/none").await;
    let domain = world.domain(A);
    domain.serve(failing()).new_id();
    let daemon = Daemon::start(&world, "");
    for _ in 0..5 {
        assert_eq!(daemon.look().await, "defer policy_fetch_failed");
    }
    let daemon = daemon.restart(&world);
    assert_eq!(daemon.look().await, "defer policy_fetch_failed");
    assert_eq!(domain.policy_requests(), 1);
    domain.policy_body("version: STSv1\nmode: enforce\nmax_age: 60\n").new_id();
    assert_eq!(daemon.look().await, "no fetch", "the second failure ends the wait");
    assert_eq!(domain.policy_requests(), 2);
    domain.mta_sts(Mode::Enforce, &["mx.a.test"], 60);
    assert_eq!(daemon.look().await, "enforce");
    assert_eq!(domain.policy_requests(), 3);
}

#[tokio::test]
async fn a_policy_without_age_holds_for_the_mail_that_asked_and_is_not_stored() {
    let world = World::start("/none").await;
    let domain = world.domain(A);
    domain.mta_sts(Mode::Enforce, &["mx.a.test"], 86_400);
    let daemon = Daemon::start(&world, "");
    assert_eq!(daemon.look().await, "enforce");
    domain.mta_sts(Mode::Testing, &["mx.a.test"], 0);
    assert_eq!(daemon.look().await, "testing");
    assert_eq!(daemon.stored().kept, None);
    assert!(!daemon.keeper.enforces(&name(A)));
    for _ in 0..10 {
        assert_eq!(daemon.look().await, "testing");
    }
    assert_eq!(domain.policy_requests(), 4, "no more fetches in an hour than that");
}

#[tokio::test]
async fn a_damaged_row_delays_mail_until_a_policy_is_there() {
    let world = World::start("/none").await;
    let domain = enforced(&world);
    let daemon = Daemon::start(&world, "");
    assert_eq!(daemon.look().await, "enforce");
    let mut row = rows::row_of(&name(A), &daemon.stored());
    row.body = Some(b"version: STSv1".to_vec());
    daemon.put(row).await;
    domain.record_answer(Answer::ServFail);
    let daemon = daemon.restart(&world);
    assert!(daemon.keeper.enforces(&name(A)), "it cannot be ruled out");
    domain.serve(failing());
    assert_eq!(daemon.look().await, "defer policy_lost");
    domain.remove_record();
    assert_eq!(daemon.look().await, "defer policy_lost", "whatever DNS says");
    assert!(daemon.stored().alarms.contains(&Alarm::PolicyLost));
    domain.mta_sts(Mode::Enforce, &["mx.a.test"], 86_400);
    assert_eq!(daemon.look().await, "enforce");
    assert!(daemon.stored().alarms.is_empty());
}

#[tokio::test]
async fn a_row_written_by_a_clock_that_was_ahead_is_replaced() {
    let world = World::start("/none").await;
    let domain = enforced(&world);
    let daemon = Daemon::start(&world, "");
    assert_eq!(daemon.look().await, "enforce");
    let ahead = Timestamp::from_second(clock::now().as_second() + 30 * 86_400).unwrap();
    let body = b"version: STSv1\nmode: testing\nmx: mx.a.test\nmax_age: 86400\n";
    let kept = CachedPolicy::new(Id::parse("ahead").unwrap(), body, ahead).unwrap();
    let state = State { kept: Some(Arc::new(kept)), ..State::default() };
    daemon.put(rows::row_of(&name(A), &state)).await;
    assert_eq!(daemon.stored().kept.unwrap().fetched_at(), ahead);
    assert_eq!(daemon.look().await, "enforce", "the record names another policy");
    domain.record_answer(Answer::ServFail);
    assert_eq!(daemon.restart(&world).look().await, "enforce", "and it was stored");
}

#[tokio::test]
async fn a_store_that_takes_nothing_lowers_nothing() {
    let world = World::start("/none").await;
    let domain = enforced(&world);
    let daemon = Daemon::start(&world, "");
    assert_eq!(daemon.look().await, "enforce");
    domain.mta_sts(Mode::Testing, &["mx.a.test"], 86_400);
    daemon.spool.close();
    assert_eq!(daemon.look().await, "defer local_error", "what cannot be stored is not known");
    assert_eq!(daemon.stored().kept.unwrap().policy().mode(), policy::sts::Mode::Enforce);
}

#[tokio::test]
async fn an_operator_sees_refreshes_and_forgets() {
    let world = World::start("/none").await;
    let domain = enforced(&world);
    let daemon = Daemon::start(&world, "");
    let keeper = &daemon.keeper;
    assert_eq!(daemon.look().await, "enforce");
    let page = keeper.list(None).unwrap();
    let shown: Vec<_> =
        page.policies.iter().map(|p| (p.domain.as_str(), p.mode.as_str(), p.live)).collect();
    assert_eq!(shown, [(A, "enforce", true)]);
    assert_eq!(page.policies[0].mx, ["mx.a.test"]);
    let detail = keeper.show(&name(A)).unwrap().unwrap();
    assert!(detail.body.unwrap().starts_with("version: STSv1"));
    assert!(keeper.show(&name("b.test")).unwrap().is_none());

    domain.record_answer(Answer::ServFail);
    let result = keeper.refresh(&name(A)).await;
    assert!(result.fetched, "a kept policy is fetched without a record too");
    assert_eq!(domain.policy_requests(), 2);
    domain.serve(failing());
    let result = keeper.refresh(&name(A)).await;
    assert!(!result.fetched);
    let want = "https://mta-sts.a.test/.well-known/mta-sts.txt: HTTP status 500";
    assert_eq!(result.error.as_deref(), Some(want));
    assert_eq!(result.policy.unwrap().mode, "enforce", "it goes on holding");

    assert!(keeper.forget(&name(A)).await.unwrap());
    assert!(!keeper.forget(&name(A)).await.unwrap());
    assert_eq!(daemon.look().await, "defer policy_dns_failure", "a first contact again");
}

#[tokio::test]
async fn a_policy_in_use_is_fetched_again_without_mail_and_without_a_record() {
    let world = World::start("/none").await;
    let domain = enforced(&world);
    let daemon = Daemon::start(&world, "refresh_every = '1m'");
    assert_eq!(daemon.look().await, "enforce");
    domain.remove_record();
    let fetched_at = daemon.make_old().await;
    daemon.pass().await;
    assert_eq!(domain.policy_requests(), 2);
    assert!(daemon.stored().kept.unwrap().fetched_at() > fetched_at);
    daemon.pass().await;
    assert_eq!(domain.policy_requests(), 2, "not before its time");
}

#[tokio::test]
async fn a_host_that_spoke_tls_is_remembered_until_the_operator_acknowledges() {
    let world = World::start("/none").await;
    let daemon = Daemon::start(&world, "");
    let (host, other) = (name("mx.a.test"), name("mx.b.test"));
    let policies = daemon.spool.policies();
    let new = || HostMemory::new(policies.clone(), ClockWatch::undoubted());
    // Queued behind what was written before.
    let written = async || daemon.keeper.forget(&name(A)).await.unwrap();
    let note = || match policies.host(&host).unwrap() {
        FoundPolicy::Row(row) => row.note.to_string(),
        found @ (FoundPolicy::Absent | FoundPolicy::Corrupt) => format!("{found:?}"),
    };
    let memory = new();
    assert!(!memory.misses_starttls(&host, "why").await);
    memory.note_starttls(&host).await;
    written().await;
    assert_eq!(note(), "");
    for memory in [&memory, &new()] {
        assert!(memory.misses_starttls(&host, "why").await, "also after a restart");
        written().await;
        assert_eq!(note(), STARTTLS_GONE, "the operator was told");
        assert!(!memory.misses_starttls(&other, "why").await);
    }
    memory.note_starttls(&host).await;
    written().await;
    assert_eq!(note(), "", "it works again, and is told of once more when it does not");
    assert!(memory.misses_starttls(&host, "why").await);
    assert!(memory.forget(&host).await.unwrap());
    assert!(!memory.forget(&host).await.unwrap());
    for memory in [&memory, &new()] {
        assert!(!memory.misses_starttls(&host, "why").await, "the operator knows");
    }
    memory.note_starttls(&host).await;
    assert!(memory.misses_starttls(&host, "why").await);

    let long_ago = clock::now() - jiff::SignedDuration::from_hours(31 * 24);
    let (done, stored) = oneshot::channel();
    let row = spool::HostRow { host: other.clone(), starttls_seen_at: long_ago, note: "".into() };
    policies.put_host(row, |result| drop(done.send(result)));
    stored.await.unwrap().unwrap();
    assert!(!new().misses_starttls(&other, "why").await, "but not for ever");
}

#[tokio::test]
async fn only_a_changed_requirement_moves_the_epoch() {
    let world = World::start("/none").await;
    let domain = world.domain(A);
    let daemon = Daemon::start(&world, "");
    let (keeper, host) = (&daemon.keeper, name(A));
    let one = ["mx.a.test"];
    type Publish<'w> = Box<dyn Fn(&Domain<'w>)>;
    let publish = |mode, mx: &'static [&'static str], age| -> Publish<'_> {
        Box::new(move |domain: &Domain<'_>| {
            domain.mta_sts(mode, mx, age);
        })
    };
    let steps: [(&str, Publish<'_>, bool); 9] = [
        ("testing", publish(Mode::Testing, &["mx.a.test"], 86_400), false),
        ("enforce", publish(Mode::Enforce, &["mx.a.test"], 86_400), true),
        ("a new id for the same", publish(Mode::Enforce, &["mx.a.test"], 86_400), false),
        ("another age", publish(Mode::Enforce, &["mx.a.test"], 90_000), false),
        ("other hosts", publish(Mode::Enforce, &["mx.b.test"], 90_000), true),
        (
            "a failing host",
            Box::new(|d| {
                d.new_id().serve(failing());
            }),
            false,
        ),
        (
            "a failing record",
            Box::new(|d| {
                d.record_answer(Answer::ServFail);
            }),
            false,
        ),
        ("none", publish(Mode::None, &[], 86_400), true),
        ("enforce again", publish(Mode::Enforce, &["mx.a.test"], 86_400), true),
    ];
    for (told, step, moves) in steps {
        step(&domain);
        let (watch, other) = (keeper.watch(&host), keeper.watch(&name("b.test")));
        keeper.refresh(&host).await;
        assert_eq!((watch.has_changed(), other.has_changed()), (moves, false), "{told}");
    }
    assert_eq!(keeper.show(&host).unwrap().unwrap().policy.unwrap().mx, one);

    let watch = keeper.watch(&host);
    assert_eq!(daemon.look().await, "enforce");
    assert!(!watch.has_changed(), "a look-up that learns nothing");
    keeper.forget(&host).await.unwrap();
    assert!(watch.has_changed(), "forgotten");
    let watch = keeper.watch(&host);
    assert_eq!(daemon.look().await, "enforce");
    assert!(watch.has_changed(), "a look-up that learns it");

    let mut row = rows::row_of(&host, &daemon.stored());
    row.body = Some(b"version: STSv1".to_vec());
    daemon.put(row).await;
    let watch = keeper.watch(&host);
    domain.record_answer(Answer::ServFail);
    keeper.consult(&host, Freshness::Fresh).await;
    assert!(watch.has_changed(), "lost");
}

/// Whoever sees that the epoch moved finds what moved it.
#[tokio::test]
async fn what_moved_the_epoch_is_what_a_look_up_finds() {
    let world = World::start("/none").await;
    world.dns.set_ttl(600);
    let domain = world.domain(A);
    domain.mta_sts(Mode::Testing, &["mx.a.test"], 86_400);
    let daemon = Daemon::start(&world, "");
    assert_eq!(daemon.look().await, "testing");
    domain.mta_sts(Mode::Enforce, &["mx.a.test"], 86_400);
    let watch = daemon.keeper.watch(&name(A));
    let looks = async {
        while !watch.has_changed() {
            tokio::task::yield_now().await;
        }
        (daemon.keeper.enforces(&name(A)), daemon.look().await)
    };
    let host = name(A);
    let (refreshed, looked) = tokio::join!(daemon.keeper.refresh(&host), looks);
    assert!(refreshed.fetched);
    assert_eq!(looked, (true, "enforce".to_owned()));
}

/// Attempts go on after the shutdown has begun, and go by what is on the disk.
#[tokio::test]
async fn what_a_refresh_writes_at_the_shutdown_moves_the_epoch() {
    let world = World::start("/none").await;
    let domain = world.domain(A);
    domain.mta_sts(Mode::Testing, &["mx.a.test"], 86_400);
    let daemon = Daemon::start(&world, "refresh_every = '1m'");
    assert_eq!(daemon.look().await, "testing");
    domain.mta_sts(Mode::Enforce, &["mx.a.test"], 86_400);
    daemon.make_old().await;
    let watch = daemon.keeper.watch(&name(A));

    // The rows' file is busy until both are told.
    let (free, busy) = std::sync::mpsc::channel::<()>();
    let row =
        spool::HostRow { host: name("b.test"), starttls_seen_at: clock::now(), note: "".into() };
    daemon.spool.policies().put_host(row, move |_| {
        let _freed = busy.recv();
    });
    let shutdown = tokio_util::sync::CancellationToken::new();
    let waiting = daemon.waiting();
    let ends = async {
        while daemon.spool.policies().enforced(&name(A)).unwrap() == FoundPolicy::Absent {
            tokio::task::yield_now().await;
        }
        shutdown.cancel();
        tokio::task::yield_now().await;
        drop(free);
    };
    let run = async { tokio::join!(daemon.keeper.run(&shutdown, &waiting), ends) };
    tokio::time::timeout(Duration::from_secs(60), run).await.unwrap();
    assert_eq!(daemon.stored().kept.unwrap().policy().mode(), policy::sts::Mode::Enforce);
    assert!(watch.has_changed());
}

#[tokio::test]
async fn a_damaged_page_of_the_list_does_not_end_the_tidying() {
    let world = World::start("/none").await;
    let daemon = Daemon::start(&world, "");
    // Entries that are over are dropped, where they can be.
    let entry = spool::Enforced { fetched_at: clock::now(), expires_at: clock::now() };
    for number in 0..600 {
        let domain = name(&format!("d{number:03}.test"));
        synced(|done| daemon.spool.policies().put_enforced(domain, entry, done)).await.unwrap();
    }
    daemon.spool.close();
    let file = world.dir().join("spool/queue.db");
    let mut content = std::fs::read(&file).unwrap();
    let page = content.chunks_mut(4096).find(|page| page.windows(9).any(|is| is == b"d300.test"));
    page.unwrap().fill(0xff);
    std::fs::write(&file, content).unwrap();

    let daemon = daemon.restart(&world);
    let policies = daemon.spool.policies();
    let before = policies.list_enforced().unwrap();
    assert!(before.is_damaged);
    let (spent, listed) = (name("spent.test"), name("d300.test"));
    daemon.put(PolicyRow::new(spent.clone())).await;
    daemon.put(PolicyRow::new(listed.clone())).await;
    daemon.tidy().await;
    assert_eq!(policies.get(&spent).unwrap(), FoundPolicy::Absent);
    assert!(policies.list_enforced().unwrap().rows.len() < before.rows.len(), "each by itself");
    assert!(matches!(policies.get(&listed).unwrap(), FoundPolicy::Row(_)), "it may be wanted");
    assert_eq!(policies.enforced(&listed).unwrap(), FoundPolicy::Corrupt);
}

/// Its row could not be written, and after a restart it would be lost; now it is not.
#[tokio::test]
async fn a_policy_that_holds_from_memory_is_not_told_of_as_lost() {
    let world = World::start("/none").await;
    let daemon = Daemon::start(&world, "");
    enforced(&world);
    assert_eq!(daemon.look().await, "enforce");
    let known = State::clone(&daemon.stored());
    let kept = known.kept.clone().unwrap();
    let (fetched_at, expires_at) = (kept.fetched_at(), kept.expires_at());
    let policies = daemon.spool.policies();
    for row in ["damaged", "gone"] {
        match row {
            "damaged" => {
                let mut row = rows::row_of(&name(A), &known);
                row.body = Some(b"version: STSv1".to_vec());
                daemon.put(row).await;
            }
            _ => drop(synced(|done| policies.delete(name(A), done)).await.unwrap()),
        }
        assert_eq!(daemon.tidy().await, [name(A)], "{row}");
        daemon.keeper.inner.unstored.insert(name(A), Arc::new(known.clone()));
        assert_eq!(daemon.tidy().await, [], "{row}");
        assert_eq!(daemon.look().await, "enforce", "{row}");
        daemon.keeper.inner.unstored.invalidate(&name(A));
    }
    let entry = spool::Enforced { fetched_at, expires_at };
    assert_eq!(policies.enforced(&name(A)).unwrap(), FoundPolicy::Row(entry));
}

#[tokio::test]
async fn the_list_shows_that_a_policy_of_an_old_copy_does_not_hold() {
    let world = World::start("/none").await;
    let daemon = Daemon::start(&world, "");
    enforced(&world);
    assert_eq!(daemon.look().await, "enforce");
    let is_live = || daemon.keeper.list(None).unwrap().policies[0].live;
    assert!(is_live());
    let later = clock::now() + jiff::SignedDuration::from_hours(1);
    let entry = spool::Enforced { fetched_at: later, expires_at: later };
    synced(|done| daemon.spool.policies().put_enforced(name(A), entry, done)).await.unwrap();
    assert!(!is_live());
    assert!(!daemon.keeper.show(&name(A)).unwrap().unwrap().policy.unwrap().live);
}
