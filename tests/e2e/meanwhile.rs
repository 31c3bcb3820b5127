//! An attempt takes as long as its hosts like. What becomes known meanwhile, and what the operator
//! says, holds for it all the same.

use world::{Gate, Greeting, Mode, Mx, Relay, Rule, Starttls, Then, World};

use crate::harness::PROGRAM;

/// What is known of the domain's policy when the attempt begins.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Before {
    Nothing,
    Testing,
    /// Lists both hosts.
    Enforce,
}

/// What becomes known while it is under way.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Change {
    /// A policy that does not list the second host.
    EnforceWithoutSecond,
    /// The same as before.
    Nothing,
}

/// How far the attempt is then.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stage {
    /// It waits for the greeting of the first host, which will not want it.
    FirstHost,
    /// It waits for EHLO at the second host.
    Ehlo,
    /// The same under TLS: nothing but MAIL is left to be said.
    EhloInTls,
}

struct Case<'w> {
    world: &'w World,
    relay: &'w Relay,
    domain: String,
    first: Mx,
    second: Mx,
    gate: Gate,
}

impl<'w> Case<'w> {
    async fn new(world: &'w World, relay: &'w Relay, domain: &str, stage: Stage) -> Self {
        let first = world.mx(&format!("first.{domain}")).await;
        let second = world.mx(&format!("second.{domain}")).await;
        let gate = Gate::new();
        let goes_to: &[(u16, &Mx)] = match stage {
            Stage::FirstHost => &[(10, &first), (20, &second)],
            Stage::Ehlo | Stage::EhloInTls => &[(20, &second)],
        };
        world.domain(domain).mx(goes_to);
        let at_gate = Then::At(gate.clone());
        match stage {
            Stage::FirstHost => first.script(|script| {
                let later = "421 4.3.2 Later".to_owned();
                script.greeting = Greeting::At(gate.clone(), later);
            }),
            Stage::Ehlo => second.on("EHLO", at_gate),
            Stage::EhloInTls => second.script(|script| {
                script.rules.push(Rule::times(1, "EHLO", Then::At(open())));
                script.rules.push(Rule::always("EHLO", at_gate));
            }),
        }
        Self { world, relay, domain: domain.to_owned(), first, second, gate }
    }

    fn publish(&self, mode: Mode, hosts: &[&Mx]) {
        let names: Vec<&str> = hosts.iter().map(|host| host.host()).collect();
        self.world.domain(&self.domain).mta_sts(mode, &names, 86_400);
    }

    async fn waits_at_gate(&self, stage: Stage) {
        match stage {
            Stage::FirstHost => self.first.wait_connections(1).await,
            Stage::Ehlo => self.second.wait_command("EHLO").await,
            Stage::EhloInTls => {
                let second = |all: &[String]| {
                    (all.iter().filter(|line| line.starts_with("EHLO")).count() > 1).then_some(())
                };
                self.second.commands().until(second).await.unwrap();
            }
        }
    }

    async fn refresh(&self) {
        self.relay.cli(&["policy", "refresh", &self.domain]).await;
    }
}

/// A gate that holds nobody up.
fn open() -> Gate {
    let gate = Gate::new();
    gate.open();
    gate
}

/// States of the policy × stages of the attempt: the second host gets the mail exactly if what is
/// known when MAIL would be said allows it, and only a changed requirement begins anything anew.
#[tokio::test]
async fn a_policy_that_becomes_known_during_an_attempt_binds_it() {
    let world = World::start(PROGRAM).await;
    let relay = world.relay("[delivery]\nretry = [\"1h\"]\n").await;
    for before in [Before::Nothing, Before::Testing, Before::Enforce] {
        for stage in [Stage::FirstHost, Stage::Ehlo, Stage::EhloInTls] {
            for change in [Change::EnforceWithoutSecond, Change::Nothing] {
                let told = format!("{before:?} {stage:?} {change:?}");
                let name: String = told.split(' ').collect::<Vec<_>>().join("-").to_lowercase();
                let case = Case::new(&world, &relay, &format!("{name}.test"), stage).await;
                met(&case, (before, stage, change), &told).await;
            }
        }
    }
}

async fn met(case: &Case<'_>, (before, stage, change): (Before, Stage, Change), told: &str) {
    let Case { first, second, .. } = case;
    match before {
        Before::Nothing => {}
        Before::Testing => case.publish(Mode::Testing, &[first]),
        Before::Enforce => case.publish(Mode::Enforce, &[first, second]),
    }
    if before != Before::Enforce && stage != Stage::EhloInTls {
        second.script(|script| script.starttls = Starttls::Absent);
    }
    let recipient = format!("u@{}", case.domain);
    case.relay.submit("a@client.test", &[&recipient], "midway").await;
    case.waits_at_gate(stage).await;
    if change == Change::EnforceWithoutSecond {
        case.publish(Mode::Enforce, &[first]);
    }
    case.refresh().await;
    case.gate.open();
    match change {
        Change::EnforceWithoutSecond => {
            case.relay.event("deferred").with("recipient", &recipient).await;
            assert!(second.received().is_empty(), "{told}");
            assert_eq!(second.commanded("MAIL"), 0, "{told}");
        }
        Change::Nothing => {
            second.message_to(&recipient).await;
            let visits = if stage == Stage::FirstHost { first } else { second };
            assert_eq!(visits.connections(), 1, "{told}: nothing begins anew");
        }
    }
}

/// Who can change a policy at will must not keep an attempt going for ever.
#[tokio::test]
async fn after_three_changes_of_the_policy_the_message_waits_and_no_attempt_is_counted() {
    let world = World::start(PROGRAM).await;
    let relay = world.relay("[delivery]\nretry = [\"1h\"]\n").await;
    let mx = world.mx("mx.far.test").await;
    let domain = world.domain("far.test");
    domain.mx(&[(10, &mx)]).mta_sts(Mode::Enforce, &["mx.far.test"], 86_400);
    let close = |gate: &Gate| {
        let greeting = Greeting::At(gate.clone(), "220 mx.far.test".to_owned());
        mx.script(|script| script.greeting = greeting);
    };
    let mut gate = Gate::new();
    close(&gate);
    relay.submit("a@client.test", &["b@far.test"], "again").await;
    for number in 1..=4 {
        mx.wait_connections(number).await;
        let more = format!("mx{number}.far.test");
        domain.mta_sts(Mode::Enforce, &["mx.far.test", &more], 86_400);
        relay.cli_json(&["policy", "refresh", "far.test"]).await;
        let next = Gate::new();
        close(&next);
        std::mem::replace(&mut gate, next).open();
    }
    let deferred = relay.event("deferred").with("recipient", "b@far.test").await;
    assert_eq!(deferred.text("reason").as_deref(), Some("own_limit"));
    assert!(deferred.text("message").unwrap().contains("policy changed"), "{deferred:?}");
    assert_eq!(relay.queued("b@far.test").await.unwrap()["attempts"], 0);
    assert_eq!(mx.commanded("MAIL"), 0);
}

/// What the operator orders of mail that is being tried.
const ORDERS: [&str; 3] = ["delete", "hold", "bounce"];

fn order(relay: &Relay, order: &str, which: &[&str]) -> impl Future<Output = serde_json::Value> {
    let arguments: Vec<&str> = ["queue", order].iter().chain(which).copied().collect();
    let arguments: Vec<String> = arguments.into_iter().map(str::to_owned).collect();
    async move {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        relay.cli_json(&arguments).await.remove(0)
    }
}

/// Wherever the attempt is before MAIL: the order counts, also for the hosts that would come next.
#[tokio::test]
async fn mail_that_was_taken_out_while_it_is_tried_is_not_sent() {
    let world = World::start(PROGRAM).await;
    let relay = world.relay("[delivery]\nretry = [\"1h\"]\n").await;
    for verb in ORDERS {
        for stage in [Stage::FirstHost, Stage::Ehlo, Stage::EhloInTls] {
            let told = format!("{verb} {stage:?}");
            let name = told.replace(' ', "-").to_lowercase();
            let case = Case::new(&world, &relay, &format!("{name}.test"), stage).await;
            let recipient = format!("u@{}", case.domain);
            let id = relay.submit("", &[&recipient], "midway").await;
            case.waits_at_gate(stage).await;
            let answer = order(&relay, verb, &[&id]).await;
            assert_eq!(answer, serde_json::json!({"count": 1, "being_sent": 0}), "{told}");
            let row = relay.queued(&recipient).await;
            let state = row.as_ref().and_then(|row| row["state"].as_str());
            assert_eq!(state, (verb == "hold").then_some("held"), "{told}");
            case.gate.open();
            // What comes later goes out, and over a connection that nothing was said on before.
            let other = format!("other@{}", case.domain);
            case.first.script(|script| script.greeting = Greeting::Good);
            relay.submit("", &[&other], "later").await;
            let host = if stage == Stage::FirstHost { &case.first } else { &case.second };
            host.message_to(&other).await;
            if verb == "hold" {
                relay.cli(&["queue", "release", &id]).await;
                host.message_to(&recipient).await;
            }
            let all = case.first.received().len() + case.second.received().len();
            assert_eq!(all, if verb == "hold" { 2 } else { 1 }, "{told}");
        }
    }
}

/// A host has heard of it: the order leaves it alone, and says so.
#[tokio::test]
async fn mail_that_a_host_may_be_taking_is_left_alone_and_said_to_be() {
    let world = World::start(PROGRAM).await;
    let relay = world.relay("").await;
    for verb in ORDERS {
        let mx = world.mx(&format!("mx.{verb}.test")).await;
        world.domain(&format!("{verb}.test")).mx(&[(10, &mx)]);
        let gate = Gate::new();
        mx.on("RCPT", Then::At(gate.clone()));
        let recipient = format!("u@{verb}.test");
        let id = relay.submit("", &[&recipient], "midway").await;
        mx.wait_command("RCPT").await;
        let output = relay.cli(&["queue", verb, &id]).await;
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{text}");
        assert!(text.contains("being sent at this moment: 1"), "{text}");
        let answer = order(&relay, verb, &["--domain", &format!("{verb}.test")]).await;
        assert_eq!(answer, serde_json::json!({"count": 0, "being_sent": 1}), "{verb}");
        assert_eq!(relay.queued(&recipient).await.unwrap()["state"], "sending", "{verb}");
        gate.open();
        mx.message_to(&recipient).await;
        relay.event("delivered").with("recipient", &recipient).await;
    }
    assert!(relay.queue().await.is_empty());
}

/// Two domains behind one smarthost, in one transaction: who was not meant is sent to at once.
#[tokio::test]
async fn of_a_transaction_only_who_was_not_taken_out_is_sent_to() {
    let world = World::start(PROGRAM).await;
    let smart = world.mx("smart.test").await;
    let gate = Gate::new();
    smart.on("EHLO", Then::At(gate.clone()));
    let overlay = format!(
        "[[route]]\ndomains = [\"*\"]\nvia = [\"smtp://[smart.test]:{}\"]\ntls = \"encrypt\"\n",
        world.mx_port()
    );
    let relay = world.relay(&overlay).await;
    relay.submit("", &["x@a.test", "y@b.test"], "both").await;
    smart.wait_command("EHLO").await;
    let answer = order(&relay, "delete", &["--domain", "a.test"]).await;
    assert_eq!(answer, serde_json::json!({"count": 1, "being_sent": 0}));
    gate.open();
    assert_eq!(smart.message().await.to, ["y@b.test"]);
    relay.event("delivered").with("recipient", "y@b.test").await;
    assert!(relay.queue().await.is_empty());
}
