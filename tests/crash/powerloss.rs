//! The power goes, at every 250 and at random points in between.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;
use world::load::{Load, Sizes};
use world::replay::{self, Call, History, Loss};

use crate::Plan;
use crate::scene::Scene;

/// Small, large (bodies that have a file of their own) and bouncing ones.
const MESSAGES: u64 = 60;
const CLIENTS: usize = 4;
/// Longest wait for strace to write its last line.
const TRACE_END: Duration = Duration::from_secs(60);

fn bounces(id: u64) -> bool {
    id % 6 == 5
}

/// When a message was promised, and when somebody else had taken responsibility for it: lines of
/// the trace.
#[derive(Clone, Copy, Debug)]
struct Fate {
    id: u64,
    promised: usize,
    passed_on: Option<usize>,
}

impl Fate {
    /// Whether the daemon has to have it after a power cut at `point`.
    fn is_ours_at(self, point: usize) -> bool {
        self.promised <= point && self.passed_on.is_none_or(|line| line > point)
    }
}

pub(crate) async fn run(mut plan: Plan) {
    let files = Files::new();
    let scene = Scene::new(&files.script, Sizes::Quick).await;
    let (load, data_dir) = record(&scene, &files).await;
    let calls = replay::read(&std::fs::read_to_string(&files.trace).expect("strace wrote a trace"));
    let history = History::read(&data_dir, &calls);
    let fates = fates(&load, &calls);
    let lines = calls.iter().map(|call| call.ended).max().expect("there are some");

    let mut points: Vec<usize> = fates.iter().map(|fate| fate.promised).collect();
    points.sort_unstable();
    let step = points.len().div_ceil(plan.acknowledged_points.min(points.len()));
    points = points.into_iter().step_by(step).collect();
    points.extend((0..plan.points).map(|_| plan.random.below(lines)));
    println!(
        "{} calls recorded, {} messages; {} points, each twice",
        calls.len(),
        fates.len(),
        points.len()
    );

    let started = Instant::now();
    let (mut images, mut owed_in_all) = (0, 0);
    for point in points {
        for loss in [Loss::All, Loss::Torn] {
            let owed: Vec<u64> =
                fates.iter().filter(|fate| fate.is_ours_at(point)).map(|fate| fate.id).collect();
            let image = files.dir.path().join(format!("image-{point}-{loss:?}"));
            history.build(point, loss, &mut plan.random, &image);
            if let Err(lost) = survives(&scene, &image, &owed).await {
                let kept = files.keep();
                panic!(
                    "power lost at line {point} ({loss:?}): {lost:?} were promised and are gone; see {}",
                    kept.display()
                );
            }
            std::fs::remove_dir_all(&image).expect("remove an image");
            images += 1;
            owed_in_all += owed.len();
        }
    }
    println!(
        "{images} images in {:.0} s: the daemon started on each; {owed_in_all} times a message was owed, and each was there, whole",
        started.elapsed().as_secs_f64()
    );
}

/// Where script, trace and images are.
struct Files {
    dir: tempfile::TempDir,
    script: PathBuf,
    trace: PathBuf,
    armed: PathBuf,
}

impl Files {
    fn new() -> Self {
        let dir = tempfile::Builder::new()
            .prefix("staunch-powerloss-")
            .tempdir_in("/tmp")
            .expect("a folder");
        let path = |name: &str| dir.path().join(name);
        let (script, trace, armed) = (path("staunch"), path("trace"), path("armed"));
        let options = replay::recording_options(&trace);
        replay::write_wrapper(&script, env!("CARGO_BIN_EXE_staunch"), &options, &armed);
        std::fs::write(&armed, "").expect("write a file");
        Self { dir, script, trace, armed }
    }

    /// For whoever has to find out why.
    fn keep(self) -> PathBuf {
        self.dir.keep()
    }
}

/// Runs the daemon under strace until everything is delivered or bounced, and stops it.
async fn record(scene: &Scene, files: &Files) -> (std::sync::Arc<Load>, PathBuf) {
    let mut relay = scene.world.relay(&scene.configuration()).await;
    assert!(!files.armed.exists(), "this life is recorded");
    let load = scene.load(relay.listener(), CLIENTS, bounces);
    load.run(MESSAGES).await;
    assert_eq!(load.acknowledged().len() as u64, MESSAGES, "all are taken");
    let ids: Vec<u64> = (0..MESSAGES).collect();
    if let Err(lost) = scene.wait_for(&ids, 0).await {
        panic!("not even without a crash: {lost:?}");
    }
    relay.stop().await;
    wait_for_end_of(&files.trace).await;
    (load, relay.data_dir())
}

/// strace writes its last line after the daemon is gone.
async fn wait_for_end_of(trace: &Path) {
    let start = Instant::now();
    let ended = || {
        let text = std::fs::read_to_string(trace).unwrap_or_default();
        let (Some(first), Some(last)) = (text.lines().next(), text.lines().last()) else {
            return false;
        };
        let pid = first.split(' ').next().unwrap_or_default();
        last.starts_with(pid) && last.contains("+++ ")
    };
    while !ended() {
        assert!(start.elapsed() < TRACE_END, "strace does not end");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Finds the 250 to each message, and the answer of the sink that took it or the DSN about it.
fn fates(load: &Load, calls: &[Call]) -> Vec<Fate> {
    let on_tcp = |call: &&Call| call.files.first().is_some_and(|file| file.is_tcp);
    let texts = |names: &'static [&'static str]| {
        let of_name =
            calls.iter().filter(on_tcp).filter(move |call| names.contains(&call.name.as_str()));
        of_name
            .map(|call| {
                (call.begun, call.ended, String::from_utf8_lossy(&call.data()).into_owned())
            })
            .collect::<Vec<_>>()
    };
    let sent = texts(&["sendto", "write", "writev", "sendmsg"]);
    let received = texts(&["recvfrom", "read", "readv"]);
    let find = |all: &[(usize, usize, String)], what: &str| {
        all.iter()
            .find(|(_, _, text)| text.contains(what))
            .map(|(begun, ended, _)| (*begun, *ended))
    };
    load.acknowledged().read(|all| {
        all.iter()
            .map(|one| {
                let promised = find(&sent, &one.reply);
                let what = if bounces(one.id) { "notice" } else { "message" };
                let passed_on = find(&received, &format!("took {what} {}\r\n", one.id));
                Fate {
                    id: one.id,
                    promised: promised.unwrap_or_else(|| panic!("no 250 in the trace: {one:?}")).0,
                    passed_on: passed_on.map(|(_, ended)| ended),
                }
            })
            .collect()
    })
}

/// Starts the daemon on an image and waits until all it owes has come.
async fn survives(scene: &Scene, image: &Path, owed: &[u64]) -> Result<(), Vec<u64>> {
    let since = scene.sink.arrivals().len();
    let configuration = format!("data_dir = \"{}\"\n{}", image.display(), scene.configuration());
    let mut relay = scene.world.relay(&configuration).await;
    scene.wait_for(owed, since).await?;
    relay.kill9().await;
    Ok(())
}
