//! Backup under load, kill -9, restore, again and again: nothing that was acknowledged before a
//! copy began is lost, and nothing comes twice but what was under way at the copy, or was settled
//! after it.

use std::path::Path;
use std::sync::Arc;

use tokio::time::Instant;
use world::load::{Load, Sizes};

use crate::Plan;
use crate::scene::{Between, Notices, Scene, assert_duplicates_are_excused};

const CLIENTS: usize = 16;
/// Acknowledgements in a life before the backup, and between it and the kill.
const SOME: u64 = 150;

pub(crate) async fn run(mut plan: Plan) {
    let scene = Scene::new(Path::new(env!("CARGO_BIN_EXE_staunch")), Sizes::Quick).await;
    let mut relay = scene.world.relay(&scene.configuration_with_port()).await;
    let away = tempfile::tempdir().expect("a directory");
    let load = scene.load(relay.listener(), CLIENTS, |_| false);
    let running = Arc::clone(&load);
    let mut clients = tokio::task::JoinSet::new();
    clients.spawn(async move { running.run(u64::MAX).await });

    let (mut promised, mut settled_after) = (Vec::new(), Vec::new());
    let mut seen = 0;
    for round in 1..=plan.rounds {
        // Half of the time all of it waits, half of the time most passes.
        let verb = if plan.random.coin() { "pause" } else { "resume" };
        assert!(relay.cli(&[verb]).await.status.success());
        wait_for_acknowledgements(&load, plan.random.between(1, SOME)).await;
        let begun = Instant::now();
        let before: Vec<u64> =
            load.acknowledged().read(|all| all.iter().skip(seen).map(|one| one.id).collect());
        let to = away.path().join(round.to_string());
        let to = to.to_str().expect("a path");
        let made = relay.cli(&["queue", "backup", to]).await;
        assert!(made.status.success(), "round {round}: {made:?}");
        assert!(relay.cli(&["resume"]).await.status.success());
        wait_for_acknowledgements(&load, plan.random.between(1, SOME)).await;
        relay.kill9().await;
        settled_after.push(Between { first: begun, last: Instant::now() });
        seen = load.acknowledged().len();
        let restored = relay.cli(&["queue", "restore", to]).await;
        assert!(restored.status.success(), "round {round}: {restored:?}");
        println!("round {round}: {verb}, {} acknowledged before the copy", before.len());
        promised.extend(before);
        relay.start_again().await;
        std::fs::remove_dir_all(to).expect("it is ours");
    }
    wait_for_acknowledgements(&load, CLIENTS as u64).await;
    load.stop();
    clients.join_all().await;
    assert!(relay.cli(&["resume"]).await.status.success());
    if let Err(lost) = scene.wait_for(&promised, 0).await {
        panic!("{} messages of before a copy did not arrive: {lost:?}", lost.len());
    }
    let arrivals = scene.arrivals(Notices::None);
    let duplicates = assert_duplicates_are_excused(&arrivals, &settled_after);
    println!(
        "{} rounds; {} acknowledged before a copy began, all arrived whole; {duplicates} second copies, all of messages settled after \
         a copy or under way at it",
        plan.rounds,
        promised.len()
    );
}

async fn wait_for_acknowledgements(load: &Load, more: u64) {
    let until = load.acknowledged().len() + usize::try_from(more).expect("small");
    let mut seen = load.acknowledged().len();
    while seen < until {
        let progress = load.acknowledged().until(|all| (all.len() > seen).then_some(all.len()));
        seen = progress.await.unwrap_or_else(|_| panic!("nothing is acknowledged any more"));
    }
}
