//! kill -9 while recipients bounce: each sender is told exactly once.

use std::collections::HashSet;
use std::path::Path;

use tokio::time::Instant;
use world::load::Sizes;

use crate::Plan;
use crate::scene::{Notices, Scene, assert_duplicates_were_in_flight};

const MESSAGES: u64 = 1000;
const CLIENTS: usize = 16;

pub(crate) async fn run(mut plan: Plan) {
    let scene = Scene::new(Path::new(env!("CARGO_BIN_EXE_staunch")), Sizes::Fixed(2000)).await;
    let mut relay = scene.world.relay(&scene.configuration_with_port()).await;
    // Nothing moves while they come in, so that all of them bounce under the kills.
    scene.world.dns.outage(Some(world::Answer::Refused));
    let load = scene.load(relay.listener(), CLIENTS, |_| true);
    load.run(MESSAGES).await;
    assert_eq!(load.acknowledged().len() as u64, MESSAGES, "all are taken");
    scene.world.dns.outage(None);

    let mut kills = Vec::new();
    let step = (MESSAGES / (plan.rounds + 1)).max(2);
    for round in 1..=plan.rounds {
        let least = scene.sink.arrivals().len()
            + usize::try_from(plan.random.between(1, step)).expect("small");
        let there = scene.sink.arrivals().until(|all| (all.len() >= least).then_some(())).await;
        there.unwrap_or_else(|_| panic!("no further notice arrives"));
        relay.kill9().await;
        kills.push(Instant::now());
        println!("round {round}: {} notices", scene.sink.arrivals().len());
        relay.start_again().await;
    }
    let ids: Vec<u64> = (0..MESSAGES).collect();
    if let Err(lost) = scene.wait_for(&ids, 0).await {
        panic!("{} senders were not told: {lost:?}", lost.len());
    }
    assert!(scene.arrivals(Notices::None).is_empty(), "nothing but notices arrives");
    let notices = scene.arrivals(Notices::Only);
    for (id, copies) in &notices {
        let distinct: HashSet<_> = copies.iter().map(|one| &one.notice).collect();
        assert_eq!(distinct.len(), 1, "message {id} has more than one notice: {distinct:?}");
    }
    let again = assert_duplicates_were_in_flight(&notices, &kills);
    println!(
        "{} kills; {MESSAGES} recipients failed, one notice each; {again} notices were in flight at a kill and sent again",
        kills.len()
    );
}
