//! Whoever breaks DNS or HTTPS gains nothing (RFC 8461 §3.3, §10.2): an unexpired policy keeps
//! holding, whatever happens to its record, its host or our process; and nothing that can be forged
//! makes mail bounce or a policy be forgotten.

use world::{Answer, Domain, Gate, Mode, Mx, Relay, Starttls, Then, World};

use crate::harness::{OURSELVES, PROGRAM, Stage, on_stage};
use crate::home::Home;

/// The attempts of a test are seconds apart, and mail lives longer than any test.
const PATIENT: &str = r#"
[dns]
timeout = "1s"
[delivery]
retry = ["1s"]
"#;

/// How the daemon ends in between.
#[derive(Clone, Copy, Debug)]
enum Ending {
    Kill,
    Clean,
}

impl Ending {
    async fn restart(self, relay: &mut Relay) {
        match self {
            Self::Kill => relay.kill9().await,
            Self::Clean => assert!(relay.stop().await.success(), "a clean end"),
        }
        relay.start_again().await;
    }
}

/// How enforcement is attacked while a policy is kept.
#[derive(Clone, Copy, Debug)]
enum Attack {
    /// The TXT query gets SERVFAIL.
    RecordFails,
    /// The TXT query gets no answer.
    RecordSilent,
    /// The TXT record is gone.
    RecordGone,
    /// The record has a new id, and the policy host is down.
    IdChangedHostDown,
}

impl Attack {
    fn apply(self, domain: Domain<'_>) {
        match self {
            Self::RecordFails => domain.record_answer(Answer::ServFail),
            Self::RecordSilent => domain.record_answer(Answer::Drop),
            Self::RecordGone => domain.remove_record(),
            Self::IdChangedHostDown => domain.new_id().policy_host_down(),
        };
    }
}

/// A domain whose policy is known and kept: one message was delivered under it.
struct Victim {
    world: World,
    relay: Relay,
    good: Mx,
    /// Alive, willing, with a valid certificate for its own name, and not in the policy.
    evil: Mx,
}

const DOMAIN: &str = "victim.test";

impl Victim {
    async fn with_kept_policy() -> Self {
        let victim = Self::unknown().await;
        victim.submit("first").await;
        let delivered = victim.relay.event("delivered").with("recipient", to("first")).await;
        assert_eq!(delivered.text("policy").as_deref(), Some("sts"));
        victim
    }

    async fn unknown() -> Self {
        let world = World::start(PROGRAM).await;
        let good = world.mx("mx.victim.test").await;
        let evil = world.mx("mx.evil.test").await;
        world.domain(DOMAIN).mx(&[(10, &good)]).mta_sts(Mode::Enforce, &["mx.victim.test"], 86400);
        let relay = world.relay(PATIENT).await;
        Self { world, relay, good, evil }
    }

    fn domain(&self) -> Domain<'_> {
        self.world.domain(DOMAIN)
    }

    async fn submit(&self, local: &str) {
        self.relay.submit("sender@client.test", &[&to(local)], local).await;
    }

    /// The MX record leads to the attacker.
    fn hijack(&self) {
        self.domain().mx(&[(10, &self.evil)]);
    }

    /// Submitted now, the mail waits for this reason.
    async fn waits(&self, local: &str, reason: &str) {
        let mark = self.relay.mark();
        self.submit(local).await;
        self.still_waits(local, mark, reason).await;
    }

    async fn still_waits(&self, local: &str, mark: world::Mark, reason: &str) {
        let deferred = self.relay.event("deferred").with("recipient", to(local)).after(mark).await;
        assert_eq!(deferred.text("reason").as_deref(), Some(reason), "{local}");
        let row = self.relay.queued(&to(local)).await.expect("it waits in the queue");
        assert_eq!(row["last"]["reason"], reason, "{row}");
    }

    /// Everything is as it was; all that waited arrives where it should.
    async fn heals(&self, locals: &[&str]) {
        self.domain().mx(&[(10, &self.good)]).mta_sts(Mode::Enforce, &["mx.victim.test"], 86400);
        for local in locals {
            let message = self.good.message_to(&to(local)).await;
            assert!(message.tls.is_some(), "{local} was verified");
        }
        assert_eq!(self.evil.connections(), 0, "the attacker saw not even a TCP connection");
        assert_eq!(self.relay.event("bounced").count(), 0);
    }
}

fn to(local: &str) -> String {
    format!("{local}@{DOMAIN}")
}

/// Learn the policy; attack; the mail waits. Restart; both the old and new mail still wait.
async fn policy_outlives(attack: Attack, ending: Ending) {
    let mut victim = Victim::with_kept_policy().await;
    attack.apply(victim.domain());
    victim.hijack();
    victim.waits("before", "mx_not_listed").await;

    ending.restart(&mut victim.relay).await;
    let mark = victim.relay.mark();
    victim.still_waits("before", mark, "mx_not_listed").await;
    victim.waits("after", "mx_not_listed").await;
    victim.heals(&["before", "after"]).await;
}

/// Learn the policy; restart; only then attack: nothing was looked up since the restart.
async fn policy_outlives_a_restart(ending: Ending) {
    let mut victim = Victim::with_kept_policy().await;
    ending.restart(&mut victim.relay).await;
    Attack::RecordFails.apply(victim.domain());
    victim.hijack();
    victim.waits("after", "mx_not_listed").await;
    victim.heals(&["after"]).await;
}

/// First contact, and the TXT query fails: whether there is a policy is not known, so mail waits.
async fn first_contact_waits(answer: Answer, ending: Ending) {
    let mut victim = Victim::unknown().await;
    victim.domain().record_answer(answer);
    victim.hijack();
    victim.waits("before", "policy_dns_failure").await;

    ending.restart(&mut victim.relay).await;
    let mark = victim.relay.mark();
    victim.still_waits("before", mark, "policy_dns_failure").await;
    victim.heals(&["before"]).await;
}

macro_rules! endings {
    ($($name:ident: $test:expr;)*) => {
        mod across_kill_9 {
            use super::*;
            $(#[tokio::test] async fn $name() { let test = $test; test(Ending::Kill).await; })*
        }
        mod across_a_clean_restart {
            use super::*;
            $(#[tokio::test] async fn $name() { let test = $test; test(Ending::Clean).await; })*
        }
    };
}

endings! {
    policy_outlives_a_failing_record: |ending| policy_outlives(Attack::RecordFails, ending);
    policy_outlives_a_silent_resolver: |ending| policy_outlives(Attack::RecordSilent, ending);
    policy_outlives_its_record: |ending| policy_outlives(Attack::RecordGone, ending);
    policy_outlives_a_new_id_without_host: |ending| policy_outlives(Attack::IdChangedHostDown, ending);
    policy_is_known_before_anything_is_looked_up: policy_outlives_a_restart;
    first_contact_waits_while_the_record_fails: |ending| first_contact_waits(Answer::ServFail, ending);
    first_contact_waits_while_the_resolver_is_silent: |ending| first_contact_waits(Answer::Drop, ending);
}

/// What anybody on the path to a resolver or an MX can forge.
#[derive(Clone, Copy, Debug)]
enum Forgery {
    /// The domain does not exist.
    NxDomain,
    /// The domain exists and has neither MX nor address.
    NoHosts,
    /// The domain takes no mail (RFC 7505).
    NullMx,
    /// The MX has our name.
    OurName,
    /// The listed MX has our address.
    OurAddress,
    /// The listed MX has an address that mail from outside must not be sent to.
    ForbiddenAddress,
    /// The listed MX does not exist.
    NoAddress,
    /// Somebody answers the connection with 554.
    Greeting554,
    /// Somebody answers EHLO with 5yz.
    Ehlo554,
}

impl Forgery {
    fn apply(self, world: &World, domain: Domain<'_>, mx: &Mx) {
        match self {
            Self::NxDomain => {
                domain.mx_answer(Answer::NxDomain);
            }
            Self::NoHosts => {
                domain.mx_answer(Answer::NoData);
            }
            Self::NullMx => {
                domain.null_mx();
            }
            Self::OurName => {
                domain.mx_names(&[(10, "relay.test")]);
            }
            Self::OurAddress => world.dns.a(mx.host(), OURSELVES),
            Self::ForbiddenAddress => world.dns.a(mx.host(), "127.77.0.1".parse().unwrap()),
            Self::NoAddress => world.dns.set(mx.host(), world::RecordType::A, Answer::NxDomain),
            Self::Greeting554 => mx.script(|script| {
                script.greeting =
                    world::Greeting::Reply("554 5.7.1 No mail service here".to_owned());
            }),
            Self::Ehlo554 => mx.on("EHLO", Then::reply("554 5.7.1 No")),
        }
    }

    fn undo(domain: Domain<'_>, world: &World, mx: &Mx) {
        domain.mx(&[(10, mx)]);
        world.dns.a(mx.host(), mx.ip());
        mx.clear_rules();
        mx.script(|script| script.greeting = world::Greeting::Good);
    }
}

/// Under a kept policy the forgery makes mail wait; it does not bounce, the policy is not
/// forgotten, and afterwards the mail goes out.
fn does_not_bounce(forgery: Forgery) {
    on_stage(|stage| forgery_makes_mail_wait(stage, forgery, 86400));
}

/// A policy with `max_age` 0 binds the attempt that fetched it, and is stored nowhere.
#[test]
fn a_policy_that_is_not_stored_contests_what_dns_says_for_good() {
    on_stage(|stage| async move {
        for forgery in [Forgery::NullMx, Forgery::NxDomain, Forgery::NoAddress] {
            forgery_makes_mail_wait(stage, forgery, 0).await;
        }
    });
}

async fn forgery_makes_mail_wait(stage: &'static Stage, forgery: Forgery, max_age: u32) {
    let name = format!("{forgery:?}.age{max_age}.forged.test").to_ascii_lowercase();
    let (mx, evil) = (
        stage.world.mx(&format!("mx.{name}")).await,
        stage.world.mx(&format!("evil.{name}")).await,
    );
    let domain = stage.world.domain(&name);
    domain.mx(&[(10, &mx)]).mta_sts(Mode::Enforce, &[mx.host()], max_age);
    let (first, second, third) =
        (domain.address("first"), domain.address("second"), domain.address("third"));
    stage.relay.submit("sender@client.test", &[&first], "first").await;
    stage.relay.event("delivered").with("recipient", &first).await;
    // An idle connection would spare the second message all that is forged.
    mx.wait_command("QUIT").await;

    forgery.apply(&stage.world, domain, &mx);
    stage.relay.submit("sender@client.test", &[&second], "second").await;
    // Two attempts, so that it is no first doubt that saves the mail.
    stage.relay.event("deferred").with("recipient", &second).with("attempts", "2").await;
    let row = stage.relay.queued(&second).await.expect("it waits in the queue");
    assert!(row["last"]["status"].as_str().unwrap().starts_with("4."), "{row}");
    assert_eq!(stage.relay.event("bounced").with("recipient", &second).count(), 0);

    // The policy still holds.
    Forgery::undo(domain, &stage.world, &mx);
    domain.mx(&[(10, &evil)]);
    stage.relay.submit("sender@client.test", &[&third], "third").await;
    let deferred = stage.relay.event("deferred").with("recipient", &third).with("attempts", "1");
    let deferred = deferred.await;
    assert_eq!(deferred.text("reason").as_deref(), Some("mx_not_listed"));
    assert_eq!(evil.connections(), 0);

    domain.mx(&[(10, &mx)]);
    assert!(mx.message_to(&second).await.tls.is_some());
    assert!(mx.message_to(&third).await.tls.is_some());
}

macro_rules! forgeries {
    ($($name:ident: $forgery:ident;)*) => {
        mod forged {
            $(#[test] fn $name() { super::does_not_bounce(super::Forgery::$forgery); })*
        }
    };
}

forgeries! {
    nxdomain_makes_mail_wait: NxDomain;
    empty_domain_makes_mail_wait: NoHosts;
    null_mx_makes_mail_wait: NullMx;
    mx_with_our_name_makes_mail_wait: OurName;
    mx_with_our_address_makes_mail_wait: OurAddress;
    mx_to_a_forbidden_address_makes_mail_wait: ForbiddenAddress;
    mx_without_address_makes_mail_wait: NoAddress;
    greeting_554_makes_mail_wait: Greeting554;
    ehlo_554_makes_mail_wait: Ehlo554;
}

/// How TLS does not come about with a host that did it before, where no policy requires it.
#[derive(Clone, Copy, Debug)]
enum Strip {
    /// The offer is not in the answer to EHLO.
    Offer,
    /// STARTTLS is refused.
    Command,
    /// The handshake breaks.
    Handshake,
    /// EHLO is not known, so HELO is said.
    Ehlo,
}

impl Strip {
    fn apply(self, mx: &Mx) {
        match self {
            Self::Offer => mx.script(|script| script.starttls = Starttls::Absent),
            Self::Command => mx.script(|script| {
                script.starttls = Starttls::Reply("454 4.7.0 TLS not available".to_owned());
            }),
            Self::Handshake => mx.script(|script| script.starttls = Starttls::Abort),
            Self::Ehlo => mx.on("EHLO", Then::reply("502 5.5.1 What?")),
        }
    }
}

/// However it is done: nothing goes in clear to a host that did STARTTLS lately, the operator hears
/// of it at the first attempt and once, and says when that is as it should be.
#[tokio::test]
async fn a_host_that_did_starttls_gets_nothing_in_clear_until_the_operator_acknowledges() {
    let world = World::start(PROGRAM).await;
    let relay = world.relay(&format!("{PATIENT}connection_idle = \"0s\"\n")).await;
    for strip in [Strip::Offer, Strip::Command, Strip::Handshake, Strip::Ehlo] {
        let domain = format!("{strip:?}.test").to_lowercase();
        let mx = world.mx(&format!("mx.{domain}")).await;
        world.domain(&domain).mx(&[(10, &mx)]);
        let address = |local: &str| format!("{local}@{domain}");
        relay.submit("", &[&address("first")], "first").await;
        assert!(mx.message().await.tls.is_some(), "{strip:?}");
        relay.event("delivered").with("recipient", address("first")).await;

        strip.apply(&mx);
        relay.submit("", &[&address("second")], "second").await;
        let waits = relay.event("deferred").with("recipient", address("second"));
        for deferred in waits.times(3).await {
            let text = deferred.text("message").unwrap();
            assert!(text.contains("starttls_gone"), "{strip:?}: {text}");
        }
        let alarms = relay.event("alarm").with("reason", "starttls_gone").with("mx", mx.host());
        assert_eq!(alarms.count(), 1, "{strip:?}");
        assert_eq!(mx.received().len(), 1, "{strip:?}: {:?}", mx.received());

        let forgotten = relay.cli_json(&["policy", "forget", "--host", mx.host()]).await;
        assert_eq!(forgotten[0]["forgotten"], mx.host());
        assert!(mx.message_to(&address("second")).await.tls.is_none(), "{strip:?}");
        assert_eq!(alarms.count(), 1, "{strip:?}");
    }
    let unknown = relay.cli(&["policy", "forget", "--host", "mx.nowhere.test"]).await;
    assert_eq!(unknown.status.code(), Some(1));
    assert_eq!(relay.cli(&["policy", "forget"]).await.status.code(), Some(64));
}

/// The sender hears why it waits; and where TLS is required anyway nothing is said of it.
#[tokio::test]
async fn the_notice_of_delay_names_a_stripped_starttls_and_a_policy_needs_no_memory() {
    let stage = Home::with("delay_notice_after_policy = \"1s\"\nconnection_idle = \"0s\"").await;
    stage.mx.clear_rules();
    stage.relay.submit("alice@sender.test", &["first@far.test"], "first").await;
    assert!(stage.mx.message().await.tls.is_some());
    stage.mx.script(|script| script.starttls = Starttls::Absent);
    stage.relay.submit("alice@sender.test", &["second@far.test"], "second").await;
    let text = stage.home.message().await.text();
    assert!(text.contains("starttls_gone"), "{text}");

    let strict = stage.world.mx("mx.strict.test").await;
    let domain = stage.world.domain("strict.test");
    domain.mx(&[(10, &strict)]).mta_sts(Mode::Enforce, &["mx.strict.test"], 86_400);
    stage.relay.submit("", &["first@strict.test"], "first").await;
    strict.message().await;
    strict.script(|script| script.starttls = Starttls::Absent);
    stage.relay.submit("", &["second@strict.test"], "second").await;
    let deferred = stage.relay.event("deferred").with("recipient", "second@strict.test").await;
    assert_eq!(deferred.text("reason").as_deref(), Some("starttls_not_offered"));
    assert_eq!(stage.relay.event("alarm").with("mx", "mx.strict.test").count(), 0);
}

/// Kept connections are judged for each mail: one in clear is of no use once the host does TLS.
#[tokio::test]
async fn a_kept_connection_in_clear_takes_no_mail_once_its_host_did_tls() {
    let world = World::start(PROGRAM).await;
    let mx = world.mx("mx.both.test").await;
    mx.script(|script| script.starttls = Starttls::Absent);
    world.domain("both.test").mx(&[(10, &mx)]);
    let overlay = "[delivery]\nretry = [\"1s\"]\nconnection_idle = \"60s\"\n";
    let relay = world.relay(overlay).await;
    let gate = Gate::new();
    mx.on("RCPT TO:<first@", Then::At(gate.clone()));
    relay.submit("", &["first@both.test"], "first").await;
    mx.wait_command("RCPT TO:<first@").await;
    // A connection beside it, from when the host does TLS.
    mx.script(|script| script.starttls = Starttls::Good);
    let explained = relay.cli_json(&["explain", "x@both.test", "--connect"]).await;
    assert_eq!(explained[0]["verdict"], "encrypted", "{explained:?}");
    gate.open();
    relay.event("delivered").with("recipient", "first@both.test").await;
    relay.submit("", &["second@both.test"], "second").await;
    assert!(mx.message_to("second@both.test").await.tls.is_some());
    assert_eq!((relay.event("deferred").count(), relay.event("alarm").count()), (0, 0));
}
