//! A file of the data directory changed while the daemon was down: it starts, or says which file
//! and what to do; mail that needs nothing of what changed is delivered once; all other mail is
//! named.
//!
//! The same in one process, with thousands of damages: `cargo test -p spool --test damages`.

mod left;
mod needs;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;
use world::damage::Damage;
use world::load::Sizes;
use world::{Mark, Relay};

use crate::Plan;
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
        let damage = left.needs.choose(&mut plan.random, left.dir.path());
        damage.apply(&relay.data_dir());
        println!("round {round}: {damage:?}");
        let since = relay.mark();
        refused += u32::from(start(&mut relay, &damage).await == Start::AfterRepair);
        Judged { scene: &scene, relay: &relay, since, needs: &left.needs, damage: &damage }
            .deliver()
            .await;
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
    let since = relay.mark();
    let Some(status) = relay.start_again_or_end().await else { return Start::AtOnce };
    let told = relay.lines_since(since, &damage.file().display().to_string());
    assert!(
        told.iter().any(|line| line.contains("doctor --data --repair")),
        "{damage:?}: {status}: {}",
        relay.lines_about("")
    );
    let repaired = relay.cli(&["doctor", "--data", "--repair"]).await;
    assert!(matches!(repaired.status.code(), Some(0 | 1)), "{damage:?}: {repaired:?}");
    let status = relay.start_again_or_end().await;
    assert!(status.is_none(), "{damage:?}: {status:?}\n{}", relay.lines_about(""));
    Start::AfterRepair
}

/// One damage, and what came of it.
struct Judged<'a> {
    scene: &'a Scene,
    relay: &'a Relay,
    /// The start.
    since: Mark,
    needs: &'a Needs,
    damage: &'a Damage,
}

impl Judged<'_> {
    async fn deliver(&self) {
        let Self { scene, relay, needs, damage, .. } = self;
        let since = scene.sink.arrivals().len();
        let resumed = relay.cli(&["resume"]).await;
        assert!(resumed.status.success(), "{damage:?}: {resumed:?}");
        let pages = needs.pages_hit(damage);
        let (hit, whole): (Vec<u64>, Vec<u64>) =
            needs.by_id.keys().partition(|id| needs.by_id[id].is_hit(damage, &pages));
        if let Err(missing) = scene.wait_for(&whole, since).await {
            let listed = self.listed().await;
            let lost: Vec<_> = missing.iter().filter(|id| !listed.contains(id)).collect();
            assert!(lost.is_empty(), "{damage:?}: neither delivered nor listed: {lost:?}");
        }
        // What was hit may be whole all the same: then it comes.
        let named = self.named();
        let unnamed: Vec<u64> = hit.iter().copied().filter(|id| !named.contains(id)).collect();
        let _missing = scene.wait_for_at_most(SILENCE, &unnamed, since).await;
        let arrived = scene.copies_since(since);
        for (id, copies) in &arrived {
            assert_eq!(*copies, 1, "{damage:?}: message {id}");
        }
        if damage.takes_names() || needs.may_be_interrupted(damage) {
            return;
        }
        let (named, listed) = (self.named(), self.listed().await);
        for id in hit.iter().filter(|id| !arrived.contains_key(id)) {
            // A time that changed has no checksum: such mail waits, and is in the list.
            assert!(
                named.contains(id) || listed.contains(id),
                "{damage:?}: {id} ({:?}) is not named",
                needs.by_id[id]
            );
        }
    }

    /// Where even the id of a message cannot be read, its address can be, or the other way round.
    /// Of the journal a place is named.
    fn named(&self) -> BTreeSet<u64> {
        let lines = self.relay.lines_since(self.since, "message_damaged");
        let has_place = !self.relay.lines_since(self.since, "journal_damaged").is_empty();
        let is_named = |id: u64, need: &Need| match &need.queue_id {
            Some(queue_id) => {
                let user = format!("user{id}@");
                lines.iter().any(|line| line.contains(queue_id) || line.contains(&user))
            }
            None => has_place,
        };
        let all = self.needs.by_id.iter().filter(|(id, need)| is_named(**id, need));
        all.map(|(id, _)| *id).collect()
    }

    async fn listed(&self) -> BTreeSet<u64> {
        let rows = self.relay.queue().await;
        let users = rows.iter().filter_map(|row| row["recipient"].as_str()?.strip_prefix("user"));
        users.filter_map(|user| user.split_once('@')?.0.parse().ok()).collect()
    }
}
