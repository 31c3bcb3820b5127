//! kill -9 at random moments under load.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use world::load::{Load, Sizes};

use crate::Plan;
use crate::scene::{Notices, Scene, assert_duplicates_were_in_flight};

const CLIENTS: usize = 32;
/// Acknowledgements between the start of a life and the moment that its end is planned for.
const LIFE: std::ops::Range<u64> = 20..600;
/// The end comes up to so many microseconds later.
const LATER_MICROS: u64 = 20_000;

pub(crate) async fn run(mut plan: Plan) {
    let scene = Scene::new(Path::new(env!("CARGO_BIN_EXE_staunch")), Sizes::Quick).await;
    let mut relay = scene.world.relay(&scene.configuration_with_port()).await;
    let load = scene.load(relay.listener(), CLIENTS, |_| false);
    let running = Arc::clone(&load);
    let mut clients = tokio::task::JoinSet::new();
    clients.spawn(async move { running.run(u64::MAX).await });

    let mut kills = Vec::new();
    for round in 1..=plan.rounds {
        let life = plan.random.between(LIFE.start, LIFE.end);
        wait_for_acknowledgements(&load, usize::try_from(life).expect("small")).await;
        let later = plan.random.between(0, LATER_MICROS);
        tokio::time::sleep(Duration::from_micros(later)).await;
        relay.kill9().await;
        kills.push(Instant::now());
        println!(
            "round {round}: {} acknowledged, {} arrived",
            load.acknowledged().len(),
            scene.sink.arrivals().len()
        );
        relay.start_again().await;
    }
    wait_for_acknowledgements(&load, CLIENTS).await;
    load.stop();
    while let Some(done) = clients.join_next().await {
        done.expect("clients do not panic");
    }

    let promised: Vec<u64> = load.acknowledged().read(|all| all.iter().map(|one| one.id).collect());
    if let Err(lost) = scene.wait_for(&promised, 0).await {
        panic!("{} acknowledged messages did not arrive: {lost:?}", lost.len());
    }
    let arrivals = scene.arrivals(Notices::None);
    let duplicates = assert_duplicates_were_in_flight(&arrivals, &kills);
    println!(
        "{} kills; {} messages acknowledged, all arrived whole; {duplicates} second copies, all of messages in flight at a kill",
        kills.len(),
        promised.len()
    );
}

async fn wait_for_acknowledgements(load: &Load, more: usize) {
    let until = load.acknowledged().len() + more;
    let mut seen = load.acknowledged().len();
    while seen < until {
        let progress =
            load.acknowledged().until(|all| (all.len() > seen).then_some(all.len())).await;
        seen = progress.unwrap_or_else(|_| panic!("nothing is acknowledged any more"));
    }
}
