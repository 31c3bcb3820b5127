//! What becomes of a policy that is kept (RFC 8461 §3.3, §5.1, §8.3, §10.2), row by row of
//! `tests/data/vectors/cache.tsv`, seen from outside: which requests are made, and who gets mail.

use world::{Answer, Domain, Mode, Mx, Reply, Serve, World, policy_text};

use crate::harness::{PROGRAM, Stage, on_stage, vectors};

/// A domain on the shared stage, with the MX of its policy and one that is in no policy of it.
struct Case {
    stage: &'static Stage,
    name: &'static str,
    good: Mx,
    other: Mx,
}

/// Longer than any test.
const LONG: u32 = 86400;

impl Case {
    /// A domain that was never heard of.
    async fn new(stage: &'static Stage, name: &'static str) -> Self {
        let good = stage.world.mx(&format!("mx.{name}")).await;
        let other = stage.world.mx(&format!("other.{name}")).await;
        stage.world.domain(name).mx(&[(10, &good)]);
        Self { stage, name, good, other }
    }

    /// A domain whose enforce policy is kept, after one message.
    async fn enforced(stage: &'static Stage, name: &'static str, max_age: u32) -> Self {
        let case = Self::new(stage, name).await;
        case.domain().mta_sts(Mode::Enforce, &[case.good.host()], max_age);
        case.submit("first").await;
        case.good.message_to(&case.to("first")).await;
        assert_eq!(case.domain().policy_requests(), 1);
        case
    }

    fn domain(&self) -> Domain<'_> {
        self.stage.world.domain(self.name)
    }

    fn to(&self, local: &str) -> String {
        format!("{local}@{}", self.name)
    }

    async fn submit(&self, local: &str) -> String {
        self.stage.relay.submit("sender@client.test", &[&self.to(local)], local).await
    }

    /// From now on the MX record leads to a host that is not in the policy.
    fn hijack(&self) {
        self.domain().mx(&[(10, &self.other)]);
    }

    /// Mail to the hijacked domain waits: the policy holds.
    async fn is_enforced(&self, local: &str) {
        self.hijack();
        self.waits(local, "mx_not_listed").await;
        assert_eq!(self.other.connections(), 0);
    }

    async fn waits(&self, local: &str, reason: &str) {
        let id = self.submit(local).await;
        let deferred = self.stage.relay.event("deferred").with("recipient", self.to(local)).await;
        assert_eq!(deferred.text("reason").as_deref(), Some(reason));
        self.stage.discard(&id).await;
    }

    /// Mail to the hijacked domain goes out: no policy holds.
    async fn is_free(&self, local: &str) {
        self.hijack();
        self.submit(local).await;
        self.other.message_to(&self.to(local)).await;
    }

    fn requests(&self) -> usize {
        self.domain().policy_requests()
    }
}

/// S002.
#[test]
fn without_a_record_nothing_is_fetched() {
    on_stage(|stage| async move {
        let case = Case::new(stage, "s002.cache.test").await;
        case.domain().policy_body(&policy_text(Mode::Enforce, &["mx.none.test"], LONG));
        case.is_free("user").await;
        assert_eq!(stage.world.policies.hellos_to(&case.domain().policy_host()), 0);
    });
}

/// S004 to S006. The first failure defers (the policy was announced); the id is not tried again for
/// five minutes, but another id at once.
#[test]
fn a_failed_id_backs_off_and_another_is_fetched_at_once() {
    on_stage(|stage| async move {
        let case = Case::new(stage, "s004.cache.test").await;
        case.domain().serve(Serve::Reply(Reply::status(500, ""))).new_id();
        for local in ["one", "two", "three"] {
            case.waits(local, "policy_fetch_failed").await;
        }
        assert_eq!(case.requests(), 1, "one request for the id");

        case.domain().mta_sts(Mode::Enforce, &[case.good.host()], LONG);
        case.submit("new").await;
        case.good.message_to(&case.to("new")).await;
        assert_eq!(case.requests(), 2);
        case.is_enforced("bad").await;
    });
}

/// S008.
#[test]
fn a_known_id_is_not_fetched_again() {
    on_stage(|stage| async move {
        let case = Case::enforced(stage, "s008.cache.test", LONG).await;
        case.submit("second").await;
        case.good.message_to(&case.to("second")).await;
        case.is_enforced("bad").await;
        assert_eq!(case.requests(), 1);
    });
}

/// S013.
#[test]
fn two_records_leave_the_kept_policy_in_force() {
    on_stage(|stage| async move {
        let case = Case::enforced(stage, "s013.cache.test", LONG).await;
        let records: [&[&[u8]]; 2] = [&[b"v=STSv1; id=a;"], &[b"v=STSv1; id=b;"]];
        stage.world.dns.txt(&case.domain().record_name(), &records);
        case.is_enforced("bad").await;
        assert_eq!(case.requests(), 1);
    });
}

/// S014.
#[test]
fn a_record_without_id_leaves_the_kept_policy_in_force() {
    on_stage(|stage| async move {
        let case = Case::enforced(stage, "s014.cache.test", LONG).await;
        case.domain().record("v=STSv1;");
        case.is_enforced("bad").await;
        assert_eq!(case.requests(), 1);
    });
}

/// S015.
#[test]
fn a_new_id_whose_host_does_not_exist_leaves_the_kept_policy_in_force() {
    on_stage(|stage| async move {
        let case = Case::enforced(stage, "s015.cache.test", LONG).await;
        let host = case.domain().policy_host();
        stage.world.dns.set(&host, world::RecordType::A, Answer::NxDomain);
        case.domain().new_id();
        case.is_enforced("bad").await;
    });
}

/// S017 and S018.
#[test]
fn a_new_id_that_fails_backs_off_under_the_kept_policy() {
    on_stage(|stage| async move {
        let case = Case::enforced(stage, "s017.cache.test", LONG).await;
        case.domain().serve(Serve::Reply(Reply::status(500, ""))).new_id();
        for local in ["one", "two", "three", "four", "five"] {
            case.is_enforced(local).await;
        }
        assert_eq!(case.requests(), 2, "one request for the new id");
        case.domain().mta_sts(Mode::Enforce, &[case.other.host()], LONG);
        case.is_free("listed").await;
        assert_eq!(case.requests(), 3);
    });
}

/// S019.
#[test]
fn a_new_id_with_an_invalid_body_leaves_the_kept_policy_in_force() {
    on_stage(|stage| async move {
        let case = Case::enforced(stage, "s019.cache.test", LONG).await;
        case.domain().policy_body("version: STSv1\r\nmx: *.test\r\nmax_age: 86400\r\n").new_id();
        case.is_enforced("bad").await;
        assert_eq!(case.requests(), 2);
    });
}

/// S022.
#[test]
fn a_new_policy_of_mode_none_ends_enforcement() {
    on_stage(|stage| async move {
        let case = Case::enforced(stage, "s022.cache.test", LONG).await;
        case.domain().mta_sts(Mode::None, &[], LONG);
        case.is_free("user").await;
    });
}

/// S023.
#[test]
fn the_first_of_two_modes_counts() {
    on_stage(|stage| async move {
        let case = Case::enforced(stage, "s023.cache.test", LONG).await;
        let body = policy_text(Mode::Enforce, &[case.good.host()], LONG) + "mode: none\r\n";
        case.domain().policy_body(&body).new_id();
        case.is_enforced("bad").await;
        assert_eq!(case.requests(), 2);
    });
}

/// S024.
#[test]
fn an_expired_policy_is_fetched_again_under_the_same_id() {
    on_stage(|stage| async move {
        let case = Case::enforced(stage, "s024.cache.test", 1).await;
        case.hijack();
        let id = case.submit("bad").await;
        stage.world.policies.wait_requests(&case.domain().policy_host(), 2).await;
        let deferred = stage.relay.event("deferred").with("recipient", case.to("bad"));
        let last = deferred.times(2).await.pop().unwrap();
        assert_eq!(last.text("reason").as_deref(), Some("mx_not_listed"));
        assert_eq!(case.other.connections(), 0);
        stage.discard(&id).await;
    });
}

/// S026.
#[test]
fn an_expired_policy_without_record_is_none() {
    on_stage(|stage| async move {
        let case = Case::enforced(stage, "s026.cache.test", 3).await;
        case.domain().remove_record();
        case.hijack();
        case.submit("user").await;
        let deferred = stage.relay.event("deferred").with("recipient", case.to("user")).await;
        assert_eq!(
            deferred.text("reason").as_deref(),
            Some("mx_not_listed"),
            "as long as it holds"
        );
        case.other.message_to(&case.to("user")).await;
    });
}

/// S027.
#[test]
fn mode_none_may_lose_its_record_quietly() {
    on_stage(|stage| async move {
        let case = Case::new(stage, "s027.cache.test").await;
        case.domain().mta_sts(Mode::None, &[], LONG);
        case.submit("first").await;
        case.good.message_to(&case.to("first")).await;
        case.domain().remove_record();
        case.is_free("second").await;
        assert_eq!(stage.relay.event("alarm").with("domain", case.name).count(), 0);
    });
}

/// S028.
#[test]
fn a_refresh_takes_a_new_body_under_the_same_id() {
    on_stage(|stage| async move {
        let case = Case::enforced(stage, "s028.cache.test", LONG).await;
        case.domain().policy_body(&policy_text(Mode::Enforce, &[case.other.host()], LONG));
        let output = stage.relay.cli(&["policy", "refresh", case.name]).await;
        assert!(output.status.success(), "{output:?}");
        case.is_free("listed").await;
        case.domain().mx(&[(10, &case.good)]);
        case.waits("unlisted", "mx_not_listed").await;
    });
}

/// S034, and the clamp of architecture: nothing is kept longer than a year.
#[test]
fn the_longest_max_age_is_kept_as_it_is_and_no_longer() {
    on_stage(|stage| async move {
        let case = Case::enforced(stage, "s034.cache.test", 31_557_600).await;
        let shown = stage.relay.cli_json(&["policy", "show", case.name]).await.remove(0);
        assert_eq!(shown["policy"]["max_age"], 31_557_600, "{shown}");
        let policy = &shown["policy"];
        let (fetched, expires) = (policy["fetched_at"].as_str(), policy["expires_at"].as_str());
        let year =
            |text: Option<&str>| text.unwrap().split('-').next().unwrap().parse::<u32>().unwrap();
        assert_eq!(year(expires), year(fetched) + 1, "{shown}");
    });
}

/// S037: what a connection proved for one domain is no proof for another's policy.
#[test]
fn a_connection_of_a_domain_without_policy_is_not_used_for_one_with() {
    on_stage(|stage| async move {
        let mx = stage.world.mx("mx.s037.cache.test").await;
        let identity = stage.world.pki.issue(&world::Leaf::named(mx.host()).self_signed());
        mx.script(|script| script.identity = identity);
        let (free, strict) =
            (stage.world.domain("free.s037.cache.test"), stage.world.domain("s037.cache.test"));
        free.mx(&[(10, &mx)]);
        strict.mx(&[(10, &mx)]).mta_sts(Mode::Enforce, &[mx.host()], LONG);

        stage.relay.submit("sender@client.test", &[&free.address("user")], "free").await;
        mx.message_to(&free.address("user")).await;
        let to = strict.address("user");
        let id = stage.relay.submit("sender@client.test", &[&to], "strict").await;
        let deferred = stage.relay.event("deferred").with("recipient", &to).await;
        assert_eq!(deferred.text("reason").as_deref(), Some("certificate_untrusted"));
        assert_eq!(mx.received().len(), 1);
        stage.discard(&id).await;
    });
}

/// RFC 8461 §3.3: many first messages at once share one fetch.
#[test]
fn parallel_first_messages_share_one_fetch() {
    on_stage(|stage| async move {
        let case = Case::new(stage, "single.cache.test").await;
        case.domain().mta_sts(Mode::Enforce, &[case.good.host()], LONG);
        let mut submissions = tokio::task::JoinSet::new();
        for number in 0..50 {
            let to = case.to(&format!("user{number}"));
            submissions.spawn(async move {
                stage.relay.submit("sender@client.test", &[&to], "parallel").await;
            });
        }
        while let Some(submission) = submissions.join_next().await {
            submission.unwrap();
        }
        case.good.messages(50).await;
        assert_eq!(case.requests(), 1);
    });
}

/// A world whose resolver's answers last, and a daemon that gives mail up soon.
async fn short_lived(home: &str) -> (World, world::Relay, Mx, Mx) {
    let world = World::start(PROGRAM).await;
    world.dns.set_ttl(3600);
    let mx = world.mx("mx.victim.test").await;
    let bounces = world.mx(home).await;
    world.domain("victim.test").mx(&[(10, &mx)]).mta_sts(Mode::Enforce, &["mx.gone.test"], LONG);
    let overlay = format!(
        "[delivery]\nretry = [\"1s\"]\nlifetime = \"4s\"\n\
         [[route]]\ndomains = [\"sender.test\"]\nvia = [\"smtp://[{home}]:{}\"]\n\
         tls = \"opportunistic\"\n",
        world.mx_port()
    );
    let relay = world.relay(&overlay).await;
    relay.submit("alice@sender.test", &["user@victim.test"], "late").await;
    let deferred = relay.event("deferred").with("recipient", "user@victim.test").await;
    assert_eq!(deferred.text("reason").as_deref(), Some("mx_not_listed"));
    (world, relay, mx, bounces)
}

/// S035: before mail is given up for a policy's sake, the record is asked afresh (RFC 8461 §5.1).
#[tokio::test]
async fn the_record_is_asked_again_before_mail_is_given_up() {
    let (world, relay, mx, bounces) = short_lived("home.sender.test").await;
    // Until its answer's hour is over, the resolver's cache hides this.
    world.domain("victim.test").mta_sts(Mode::None, &[], LONG);
    mx.message_to("user@victim.test").await;
    relay.event("delivered").with("recipient", "user@victim.test").await;
    assert_eq!(bounces.received().len(), 0);
}

/// S036.
#[tokio::test]
async fn mail_that_the_policy_held_to_its_end_comes_back_with_the_policy_as_reason() {
    let (_world, relay, mx, bounces) = short_lived("home.sender.test").await;
    let notice = bounces.message().await.text();
    assert!(notice.contains("Status: 5.7.5"), "{notice}");
    let bounced = relay.event("bounced").with("recipient", "user@victim.test").await;
    assert_eq!(bounced.text("reason").as_deref(), Some("mx_not_listed"));
    assert_eq!(mx.connections(), 0);
}

/// S043: the policy of a configured next hop is that of its own name.
#[tokio::test]
async fn a_route_has_the_policy_of_its_next_hop() {
    let world = World::start(PROGRAM).await;
    let hop = world.mx("smart.test").await;
    world.domain("smart.test").mta_sts(Mode::Enforce, &["mx.other.test"], LONG);
    let overlay = format!(
        "[delivery]\nretry = [\"1s\"]\n[[route]]\ndomains = [\"routed.test\"]\n\
         via = [\"smtp://[smart.test]:{}\"]\ntls = \"opportunistic\"\n",
        world.mx_port()
    );
    let relay = world.relay(&overlay).await;
    relay.submit("sender@client.test", &["user@routed.test"], "routed").await;
    let deferred = relay.event("deferred").with("recipient", "user@routed.test").await;
    assert_eq!(deferred.text("reason").as_deref(), Some("mx_not_listed"));
    assert_eq!(world.dns.asked("_mta-sts.routed.test", world::RecordType::TXT), 0);
    assert_eq!(hop.connections(), 0);
}

/// Rows that are not here: where they are.
const ELSEWHERE: [(&str, &str); 8] = [
    ("S012", "downgrade: policy_outlives_a_silent_resolver"),
    ("S029", "downgrade: across_kill_9"),
    ("S030", "spool: a corrupt row is an unknown policy"),
    ("S031", "spool: a corrupt row is an unknown policy"),
    ("S038", "matrix: testing::mx_unlisted"),
    ("S039", "matrix: testing::starttls_absent"),
    ("S040", "smtp: host names lose their last dot"),
    ("S041", "smtp: an empty label is no host name"),
];

#[test]
fn every_row_of_the_file_has_a_test() {
    let here = [
        "S002", "S004", "S005", "S006", "S008", "S013", "S014", "S015", "S017", "S018", "S019",
        "S022", "S023", "S024", "S026", "S027", "S028", "S034", "S035", "S036", "S037", "S043",
    ];
    let mut tested: Vec<&str> =
        here.into_iter().chain(ELSEWHERE.iter().map(|(row, _)| *row)).collect();
    tested.sort_unstable();
    let mut rows: Vec<String> = vectors("cache.tsv").iter().map(|row| row[0].clone()).collect();
    rows.sort_unstable();
    assert_eq!(tested, rows);
}
