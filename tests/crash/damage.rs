//! A file of the data directory changed while the daemon was down: it starts, or says which file and what to do; mail that needs
//! nothing of what changed is delivered once; all other mail is named.
//!
//! The same in one process, with thousands of damages: `cargo test -p spool --test damages`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use world::Relay;
use world::load::Sizes;
use world::pages::{Field, Map, Row};
use world::replay::Random;

use crate::Plan;
use crate::scene::Scene;

const MESSAGES: u64 = 200;
const PAGE: usize = 4096;
/// What the base-32 digits of message ids are.
const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

pub(crate) async fn run(mut plan: Plan) {
    let scene = Scene::new(Path::new(env!("CARGO_BIN_EXE_staunch")), Sizes::Quick).await;
    let mut relay = scene.world.relay(&scene.configuration_with_port()).await;
    relay.cli(&["pause"]).await;
    let load = scene.load(relay.listener(), 8, |_| false);
    load.run(MESSAGES).await;
    assert!(relay.stop().await.success());
    let master = tempfile::tempdir().expect("a directory");
    copy(&relay.data_dir(), master.path());
    let needs = Needs::of(master.path());
    assert_eq!(needs.by_id.len() as u64, MESSAGES);
    assert!(needs.files().len() > 5, "some bodies are files");

    let mut refused = 0;
    for round in 1..=plan.rounds {
        fs::remove_dir_all(relay.data_dir()).expect("it is ours");
        copy(master.path(), &relay.data_dir());
        let damage = Damage::choose(&mut plan.random, master.path(), &needs);
        damage.apply(&relay.data_dir());
        println!("round {round}: {damage:?}");
        refused += u32::from(start(&mut relay, &damage).await == Start::AfterRepair);
        deliver(&scene, &relay, &needs, &damage).await;
        relay.kill9().await;
    }
    println!("{} damages; {refused} starts needed a repair", plan.rounds);
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

/// What each message needs of the files.
#[derive(Debug)]
struct Need {
    pages: BTreeSet<usize>,
    file: Option<PathBuf>,
    queue_id: String,
}

#[derive(Debug)]
struct Needs {
    /// By the number in the load.
    by_id: BTreeMap<u64, Need>,
    /// Pages of queue.db that are not for bodies, which have most.
    lean: Vec<usize>,
}

impl Needs {
    fn of(dir: &Path) -> Self {
        let map = Map::of(&fs::read(dir.join("queue.db")).expect("queue.db"));
        let mut by_id = BTreeMap::new();
        for (key, row) in map.table("recipients") {
            let address = row.fields[6].text();
            let (user, _) = address.split_once('@').expect("an address");
            let id = user.trim_start_matches("user").parse().expect("a number");
            let seq = key >> 16;
            let message = &map.table("messages")[&seq];
            let body = map.table("bodies").get(&seq);
            let lane = &map.table("lanes")[&row.fields[1].number()];
            let rows = [Some(row), Some(message), body, Some(lane)];
            let pages = rows.into_iter().flatten().flat_map(|row| row.pages.iter().copied());
            let pages = pages.chain(map.schema.iter().copied()).collect();
            let queue_id = queue_id(message);
            let file = body.is_none().then(|| path_of(dir, &queue_id));
            by_id.insert(id, Need { pages, file, queue_id });
        }
        let bodies = map.table("bodies").values().flat_map(|row| row.pages.iter().copied());
        let bodies: BTreeSet<usize> = bodies.collect();
        let pages = fs::metadata(dir.join("queue.db")).expect("queue.db").len() / PAGE as u64;
        let pages = 1..=usize::try_from(pages).expect("small");
        Self { by_id, lean: pages.filter(|page| !bodies.contains(page)).collect() }
    }

    /// A page of a file, from 0.
    fn page(&self, random: &mut Random, file: &Path, length: usize) -> usize {
        if file == Path::new("queue.db") && random.coin() {
            return self.lean[random.below(self.lean.len())] - 1;
        }
        random.below(length.div_ceil(PAGE))
    }

    fn files(&self) -> Vec<PathBuf> {
        self.by_id.values().filter_map(|need| need.file.clone()).collect()
    }
}

fn queue_id(message: &Row) -> String {
    let Field::Octets(octets) = &message.fields[1] else { panic!("an id") };
    let mut number = u128::from_be_bytes(octets.as_slice().try_into().expect("16 octets"));
    let mut text = Vec::new();
    for _ in 0..26 {
        text.push(DIGITS[usize::try_from(number & 31).expect("small")]);
        number >>= 5;
    }
    text.reverse();
    String::from_utf8(text).expect("digits")
}

/// Relative to the data directory.
fn path_of(dir: &Path, queue_id: &str) -> PathBuf {
    let shelves = fs::read_dir(dir.join("bodies")).expect("bodies");
    let mut paths = shelves.map(|shelf| shelf.expect("a shelf").path().join(queue_id));
    let path = paths.find(|path| path.exists()).expect("a body");
    path.strip_prefix(dir).expect("below it").into()
}

/// One change to one file.
#[derive(Debug)]
enum Damage {
    Bit { file: PathBuf, at: usize, bit: u8 },
    Zeros { file: PathBuf, page: usize },
    Cut { file: PathBuf, length: usize },
    Gone { file: PathBuf },
}

impl Damage {
    fn choose(random: &mut Random, dir: &Path, needs: &Needs) -> Self {
        let files = needs.files();
        let file: PathBuf = match random.below(12) {
            0..8 => "queue.db".into(),
            8 | 9 => files[random.below(files.len())].clone(),
            10 => "policies.db".into(),
            _ => ["reserve", "policies.reserve", "lock", "salts.key"][random.below(4)].into(),
        };
        let length = fs::metadata(dir.join(&file)).expect("a file").len();
        let length = usize::try_from(length).expect("small");
        match random.below(12) {
            // Without its queue there is nothing to deliver.
            0 if file != Path::new("queue.db") => Self::Gone { file },
            0 | 1 => Self::Cut { file, length: random.below(length) },
            2..5 => {
                let page = needs.page(random, &file, length);
                Self::Zeros { file, page }
            }
            _ => {
                let at = needs.page(random, &file, length) * PAGE + random.below(PAGE);
                let bit = u8::try_from(random.below(8)).expect("small");
                Self::Bit { file, at: at.min(length - 1), bit }
            }
        }
    }

    fn file(&self) -> &Path {
        match self {
            Self::Bit { file, .. }
            | Self::Zeros { file, .. }
            | Self::Cut { file, .. }
            | Self::Gone { file } => file,
        }
    }

    fn apply(&self, dir: &Path) {
        let path = dir.join(self.file());
        let mut octets = fs::read(&path).expect("a file");
        match self {
            Self::Bit { at, bit, .. } => octets[*at] ^= 1 << bit,
            Self::Zeros { page, .. } => {
                octets.iter_mut().skip(page * PAGE).take(PAGE).for_each(|octet| *octet = 0);
            }
            Self::Cut { length, .. } => octets.truncate(*length),
            Self::Gone { .. } => return fs::remove_file(path).expect("it is there"),
        }
        fs::write(path, octets).expect("written");
    }

    fn hits(&self, need: &Need) -> bool {
        if need.file.as_deref() == Some(self.file()) {
            return true;
        }
        let hits = |page: usize| match self {
            Self::Bit { at, .. } => at / PAGE + 1 == page,
            Self::Zeros { page: hit, .. } => hit + 1 == page,
            Self::Cut { length, .. } => page * PAGE > *length,
            Self::Gone { .. } => true,
        };
        self.file() == Path::new("queue.db") && need.pages.iter().any(|page| hits(*page))
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
    let whole = |need: &Need| !damage.hits(need);
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
        let words = [need.queue_id.clone(), format!("user{id}@")];
        words.iter().any(|word| relay.lines_about(word).contains("message_damaged"))
    };
    // What was hit may be whole all the same: then it comes.
    let hit = needs.by_id.iter().filter(|(id, need)| !whole(need) && !is_named(**id, need));
    let hit: Vec<u64> = hit.map(|(id, _)| *id).collect();
    let _missing = scene.wait_for(&hit, since).await;
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
        // Of a page of zeros, or the end of a file, not even the id may be left.
        let may_be_unknown = matches!(damage, Damage::Zeros { .. } | Damage::Cut { .. });
        assert!(
            is_named(*id, need) || is_listed(id) || may_be_unknown || whole(need),
            "{damage:?}: {id} ({}) is not named",
            need.queue_id
        );
    }
}
