//! An attempt takes as long as its hosts like. What becomes known meanwhile, and what the operator says, holds
//! for it all the same.

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

/// States of the policy × stages of the attempt: the second host gets the mail exactly if what is known when
/// MAIL would be said allows it, and only a changed requirement begins anything anew.
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
    assert_eq!(deferred.text("reason").as_deref(), Some("throttled"));
    assert!(deferred.text("message").unwrap().contains("policy changed"), "{deferred:?}");
    assert_eq!(relay.queued("b@far.test").await.unwrap()["attempts"], 0);
    assert_eq!(mx.commanded("MAIL"), 0);
}
