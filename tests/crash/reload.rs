//! 100 reloads while 5,000 messages pass: nobody's connection is dropped, nothing is refused, nothing is lost.

use std::collections::BTreeMap;
use std::path::Path;

use rustix::process::Signal;
use tokio::time::Instant;
use world::Relay;
use world::load::{Load, Sizes};

use crate::Plan;
use crate::scene::{Notices, Scene};

const CLIENTS: usize = 16;

pub(crate) async fn run(plan: Plan) {
    let scene = Scene::new(Path::new(env!("CARGO_BIN_EXE_staunch")), Sizes::Quick).await;
    let relay = scene.world.relay(&scene.configuration_with_port()).await;
    let load = scene.load(relay.listener(), CLIENTS, |_| false);
    let begun = Instant::now();
    let (messages, reloads) = (plan.messages, plan.reloads);
    let submit = async {
        load.run(messages).await;
        begun.elapsed()
    };
    let (submitted, longest) =
        tokio::join!(submit, reload_all(&scene, &relay, &load, (messages, reloads)));
    assert_eq!(load.refused(), 0, "no rule refuses any of it");
    assert_eq!(load.acknowledged().len() as u64, messages, "no connection was dropped");
    let ids: Vec<u64> = (0..messages).collect();
    if let Err(lost) = scene.wait_for(&ids, 0).await {
        panic!("{} messages are lost: {lost:?}", lost.len());
    }
    let all = begun.elapsed();
    let twice: BTreeMap<_, _> =
        scene.arrivals(Notices::None).into_iter().filter(|(_, copies)| copies.len() > 1).collect();
    assert!(twice.is_empty(), "delivered more than once: {twice:?}");
    assert_eq!(relay.event("config_reloaded").count() as u64, reloads);
    assert_eq!(relay.event("reload_refused").count(), 0);
    println!(
        "{reloads} reloads, the longest {longest:?}; {messages} messages submitted in {submitted:?} over {CLIENTS} \
         connections, delivered once each in {all:?}"
    );
}

/// One reload each time that a further share of the messages was taken. Returns how long the slowest one took.
async fn reload_all(
    scene: &Scene,
    relay: &Relay,
    load: &Load,
    (messages, reloads): (u64, u64),
) -> std::time::Duration {
    let mut longest = std::time::Duration::ZERO;
    for reload in 1..=reloads {
        let least = usize::try_from(messages * reload / (reloads + 1)).expect("small");
        let there = load.acknowledged().until(|all| (all.len() >= least).then_some(())).await;
        there.unwrap_or_else(|_| panic!("no further message is taken: {}", relay.lines_about("")));
        let turn = if reload.is_multiple_of(2) { Turn::Even } else { Turn::Odd };
        let (since, mark) = (Instant::now(), relay.mark());
        relay.configure(&turn.overlay(scene));
        relay.signal(Signal::HUP);
        relay.event("config_reloaded").after(mark).await;
        longest = longest.max(since.elapsed());
    }
    longest
}

/// The two configurations that take turns.
#[derive(Clone, Copy, Debug)]
enum Turn {
    Even,
    Odd,
}

impl Turn {
    /// Limits and next hops differ.
    fn overlay(self, scene: &Scene) -> String {
        match self {
            Self::Even => "route = []\n[limits]\nrecipients = 1000\nconnections_per_client = 100\n\
                 [delivery]\ntls = \"opportunistic\"\nconnections_per_host = 10\n"
                .to_owned(),
            Self::Odd => format!(
                "[limits]\nrecipients = 10\nconnections_per_client = 50\n\
                 [delivery]\nconnections_per_host = 3\n\
                 [[route]]\ndomains = [\"d1.test\", \"d2.test\", \"d3.test\"]\n\
                 via = [\"smtp://[mx0.sink.test]:{}\"]\ntls = \"opportunistic\"\n",
                scene.sink.address().port()
            ),
        }
    }
}
