//! A file of the data directory changed while the daemon was down: it starts, or says which file and what to do; mail that needs
//! nothing of what changed is delivered once; all other mail is named.
//!
//! The same in one process, with thousands of damages: `cargo test -p spool --test damages`.

mod change;
mod left;
mod needs;

use std::fs;
use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;
use world::Relay;
use world::load::Sizes;

use crate::Plan;
use crate::damage::change::Damage;
use crate::damage::needs::{Need, Needs};
use crate::scene::Scene;

const MESSAGES: u64 = 200;
/// So many get their rows before a kill, the others stand where they were written first.
const WITH_ROWS: u64 = 120;

/// All other mail has come, so what is still to come comes at once.
const SILENCE: Duration = Duration::from_secs(5);

pub(crate) async fn run(mut plan: Plan) {
    let scene = Scene::new(Path::new(env!("CARGO_BIN_EXE_staunch")), Sizes::Quick).await;
    let mut relay = scene.world.relay(&scene.configuration_with_port()).await;
    relay.cli(&["pause"]).await;
    let load = scene.load(relay.listener(), 8, |_| false);
    load.run(WITH_ROWS).await;
    assert!(relay.cli(&["queue", "list"]).await.status.success(), "what is listed has rows");
    load.run(MESSAGES).await;
    relay.kill9().await;
    let killed = Left::by(&relay);
    relay.start_again().await;
    assert!(relay.stop().await.success());
    let stopped = Left::by(&relay);
    assert!(
        killed.needs.of_the_queue.len() > 2,
        "log and journal: {:?}",
        killed.needs.of_the_queue
    );

    let mut refused = 0;
    for round in 1..=plan.rounds {
        let left = if round % 2 == 0 { &killed } else { &stopped };
        fs::remove_dir_all(relay.data_dir()).expect("it is ours");
        copy(left.dir.path(), &relay.data_dir());
        let damage = Damage::choose(&mut plan.random, left.dir.path(), &left.needs);
        damage.apply(&relay.data_dir());
        println!("round {round}: {damage:?}");
        refused += u32::from(start(&mut relay, &damage).await == Start::AfterRepair);
        deliver(&scene, &relay, &left.needs, &damage).await;
        relay.kill9().await;
    }
    println!("{} damages; {refused} starts needed a repair", plan.rounds);
}

/// A data directory without its daemon.
struct Left {
    dir: TempDir,
    needs: Needs,
}

impl Left {
    fn by(relay: &Relay) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        copy(&relay.data_dir(), dir.path());
        let needs = Needs::of(dir.path());
        assert_eq!(needs.by_id.len() as u64, MESSAGES);
        assert!(needs.files().len() > 5, "some bodies are files");
        Self { dir, needs }
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory");
    for entry in fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy(&entry.path(), &target);
        } else if entry.file_type().expect("a type").is_file() {
            fs::copy(entry.path(), target).expect("a copy");
        }
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Start {
    AtOnce,
    AfterRepair,
}

/// Starts it; if it refuses, for a reason that it tells with the cure, after that cure.
async fn start(relay: &mut Relay, damage: &Damage) -> Start {
    let Some(status) = relay.start_again_or_end().await else { return Start::AtOnce };
    let told = relay.lines_about(&damage.file().display().to_string());
    assert!(
        told.contains("doctor --data --repair"),
        "{damage:?}: {status}: {}",
        relay.lines_about("")
    );
    let repaired = relay.cli(&["doctor", "--data", "--repair"]).await;
    assert!(matches!(repaired.status.code(), Some(0 | 1)), "{damage:?}: {repaired:?}");
    let status = relay.start_again_or_end().await;
    assert!(status.is_none(), "{damage:?}: {status:?}\n{}", relay.lines_about(""));
    Start::AfterRepair
}

async fn deliver(scene: &Scene, relay: &Relay, needs: &Needs, damage: &Damage) {
    let since = scene.sink.arrivals().len();
    let resumed = relay.cli(&["resume"]).await;
    assert!(resumed.status.success(), "{damage:?}: {resumed:?}");
    let pages = needs.pages_hit(damage);
    let whole = |need: &Need| !need.is_hit(damage, &pages);
    let ids: Vec<u64> =
        needs.by_id.iter().filter(|(_, need)| whole(need)).map(|(id, _)| *id).collect();
    if let Err(missing) = scene.wait_for(&ids, since).await {
        let listed = relay.queue().await;
        let is_listed = |id: &u64| {
            listed.iter().any(|row| {
                row["recipient"].as_str().is_some_and(|one| one.starts_with(&format!("user{id}@")))
            })
        };
        let lost: Vec<_> = missing.iter().filter(|id| !is_listed(id)).collect();
        assert!(lost.is_empty(), "{damage:?}: neither delivered nor listed: {lost:?}");
    }
    // Where even the id cannot be read, its address can be, or the other way round.
    let is_named = |id: u64, need: &Need| {
        let words = need.queue_id.iter().cloned().chain([format!("user{id}@")]);
        words.into_iter().any(|word| relay.lines_about(&word).contains("message_damaged"))
            || need.queue_id.is_none() && relay.lines_about("journal_damaged").contains("alarm")
    };
    // What was hit may be whole all the same: then it comes.
    let hit = needs.by_id.iter().filter(|(id, need)| !whole(need) && !is_named(**id, need));
    let hit: Vec<u64> = hit.map(|(id, _)| *id).collect();
    let _missing = scene.wait_for_at_most(SILENCE, &hit, since).await;
    let arrived = scene.copies_since(since);
    for (id, copies) in &arrived {
        assert_eq!(*copies, 1, "{damage:?}: message {id}");
    }
    // A time that changed has no checksum: such mail waits, and is in the list.
    let listed = relay.queue().await;
    let is_listed = |id: &u64| {
        let user = format!("user{id}@");
        listed.iter().any(|row| row["recipient"].as_str().is_some_and(|one| one.starts_with(&user)))
    };
    for (id, need) in needs.by_id.iter().filter(|(id, _)| !arrived.contains_key(id)) {
        let may_be_unknown = damage.takes_names() || needs.may_be_interrupted(damage);
        assert!(
            is_named(*id, need) || is_listed(id) || may_be_unknown || whole(need),
            "{damage:?}: {id} ({need:?}) is not named"
        );
    }
}
