//! Syncs that fail, and a disk that is full: no 250 that is not kept, and service comes back.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use world::load::{Load, Sizes};
use world::replay::write_wrapper;
use world::{Mark, Relay};

use crate::Plan;
use crate::scene::{Notices, Scene};

const MESSAGES: u64 = 40;
const CLIENTS: usize = 4;
/// Size of the small disk.
const DISK_MIB: u64 = 96;
/// How long a full disk lasts.
const FULL_FOR: Duration = Duration::from_secs(3);

pub(crate) async fn run(plan: Plan) {
    for nth in 1..=plan.syncs {
        sync_fails(nth).await;
    }
    disk_is_full().await;
    disk_is_read_only().await;
}

/// The Nth sync of a life fails with EIO. The daemon may end; then it is started again as a service
/// manager would.
async fn sync_fails(nth: u64) {
    let dir = tempfile::Builder::new().prefix("staunch-eio-").tempdir_in("/tmp").expect("a folder");
    let (script, armed) = (dir.path().join("staunch"), dir.path().join("armed"));
    let options = format!(
        "-o /dev/null -e trace=fsync,fdatasync -e inject=fsync,fdatasync:error=EIO:when={nth}"
    );
    write_wrapper(&script, env!("CARGO_BIN_EXE_staunch"), &options, &armed);
    let scene = Scene::new(&script, Sizes::Quick).await;
    // A first life makes the files and the configuration.
    let mut relay = scene.world.relay(&scene.configuration_with_port()).await;
    relay.stop().await;
    std::fs::write(&armed, "").expect("write a file");
    let supervisor = Supervisor::start(&script, &relay.config_file());

    let load = scene.load(Scene::listener(), CLIENTS, |id| id % 10 == 9);
    load.run(MESSAGES).await;
    assert!(!armed.exists(), "the daemon was started under strace");
    let promised: Vec<u64> = load.acknowledged().read(|all| all.iter().map(|one| one.id).collect());
    if let Err(lost) = scene.wait_for(&promised, 0).await {
        panic!("sync {nth} failed: {lost:?} were promised and did not come");
    }
    println!(
        "sync {nth} fails: {} of {MESSAGES} acknowledged, all came; {} refused; the daemon lived {} times",
        promised.len(),
        load.refused(),
        supervisor.stop()
    );
}

/// Starts a program again whenever it ends.
struct Supervisor {
    stopping: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<u32>,
}

impl Supervisor {
    fn start(program: &Path, config: &Path) -> Self {
        let stopping = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stopping);
        let (program, config) = (program.to_owned(), config.to_owned());
        let thread = std::thread::spawn(move || supervise(&program, &config, &stopped));
        Self { stopping, thread }
    }

    /// Ends it for good; returns how many lives it had.
    fn stop(self) -> u32 {
        self.stopping.store(true, Ordering::Relaxed);
        self.thread.join().expect("the supervisor does not panic")
    }
}

fn supervise(program: &Path, config: &Path, stopping: &AtomicBool) -> u32 {
    let mut lives = 0;
    loop {
        let mut child: Child = Command::new(program)
            .args(["run", "--config"])
            .arg(config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program starts");
        lives += 1;
        loop {
            if stopping.load(Ordering::Relaxed) {
                child.kill().expect("ours");
                child.wait().expect("ours");
                return lives;
            }
            if child.try_wait().expect("ours").is_some() {
                break;
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }
}

/// A small disk of its own fills up in the middle of the load, and is freed again.
async fn disk_is_full() {
    let scene = Scene::new(Path::new(env!("CARGO_BIN_EXE_staunch")), Sizes::Quick).await;
    let disk = SmallDisk::mount(scene.world.dir());
    let configuration = format!(
        "data_dir = \"{}\"\n{}[limits]\ndisk_free_min = \"8MiB\"\n",
        disk.mount.join("data").display(),
        scene.configuration_with_port()
    );
    let relay = scene.world.relay(&configuration).await;
    let load = scene.load(relay.listener(), CLIENTS, |_| false);
    let running = Arc::clone(&load);
    let mut clients = tokio::task::JoinSet::new();
    clients.spawn(async move { running.run(u64::MAX).await });
    wait_acknowledged(&load, 100).await;

    let full = relay.mark();
    disk.fill();
    wait_refused(&load, &relay, full).await;
    tokio::time::sleep(FULL_FOR).await;
    let before = load.acknowledged().len();
    disk.free();
    wait_acknowledged(&load, before + 100).await;
    load.stop();
    while let Some(done) = clients.join_next().await {
        done.expect("clients do not panic");
    }

    let promised: Vec<u64> = load.acknowledged().read(|all| all.iter().map(|one| one.id).collect());
    if let Err(lost) = scene.wait_for(&promised, 0).await {
        panic!("the disk was full: {lost:?} were promised and did not come");
    }
    let copies: usize = scene.arrivals(Notices::None).values().map(|all| all.len() - 1).sum();
    println!(
        "full disk: {} acknowledged, all came, {copies} twice; {} refused while it was full; service came back",
        promised.len(),
        load.refused()
    );
    assert!(copies <= CLIENTS * 20, "second copies of at most what was in flight");
}

/// The file system turns read-only, as ext4 does after an error of the disk: nothing is taken or
/// sent, and that is told.
async fn disk_is_read_only() {
    let scene = Scene::new(Path::new(env!("CARGO_BIN_EXE_staunch")), Sizes::Quick).await;
    let disk = SmallDisk::mount(scene.world.dir());
    let configuration = format!(
        "data_dir = \"{}\"\n{}[limits]\ndisk_free_min = \"1MiB\"\n",
        disk.mount.join("data").display(),
        scene.configuration()
    );
    let relay = scene.world.relay(&configuration).await;
    relay.submit("ann@home.test", &["user@d1.test"], "before").await;
    relay.event("delivered").await;
    let since = relay.mark();
    disk.break_down();
    let reply =
        relay.submit_content("ann@home.test", &["user@d1.test"], b"A: b\r\n\r\nx\r\n").await;
    assert!((400..500).contains(&reply.code), "{reply:?}");
    relay.event("alarm").with("reason", "data_dir_read_only").after(since).await;
    let health = relay.cli(&["healthcheck", "--json"]).await;
    let said = String::from_utf8_lossy(&health.stdout);
    assert!(!health.status.success() && said.contains("read_only"), "{health:?}");
    assert_eq!(scene.sink.arrivals().len(), 1);
    println!("read-only disk: {} to new mail, and healthcheck says why", reply.code);
}

async fn wait_acknowledged(load: &Load, count: usize) {
    let mut seen = load.acknowledged().len();
    while seen < count {
        let more = load.acknowledged().until(|all| (all.len() > seen).then_some(all.len())).await;
        seen = more.unwrap_or_else(|_| panic!("{seen} acknowledged, and no more"));
    }
}

/// New mail is refused, and the log says why.
async fn wait_refused(load: &Load, relay: &Relay, since: Mark) {
    let before = load.refused();
    while load.refused() < before + 10 {
        relay.event("rejected").after(since).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// An ext4 in a file, without a journal: it fills up to the last block.
struct SmallDisk {
    mount: PathBuf,
}

impl SmallDisk {
    fn mount(dir: &Path) -> Self {
        let (file, mount) = (dir.join("disk.img"), dir.join("disk"));
        std::fs::create_dir(&mount).expect("a folder");
        let run = |command: &mut Command| {
            let output = command.output().expect("it is installed");
            assert!(output.status.success(), "{command:?}: {output:?}");
        };
        std::fs::File::create(&file).and_then(|file| file.set_len(DISK_MIB << 20)).expect("a file");
        run(Command::new("mkfs.ext4").args(["-q", "-O", "^has_journal", "-m", "0"]).arg(&file));
        run(Command::new("mount").args(["-o", "loop"]).arg(&file).arg(&mount));
        Self { mount }
    }

    /// To the last byte.
    fn fill(&self) {
        use std::io::Write;
        let mut file = std::fs::File::create(self.mount.join("ballast")).expect("a file");
        let block = vec![0; 64 * 1024];
        while file.write_all(&block).is_ok() {}
        while file.write_all(&[0]).is_ok() {}
    }

    /// Nothing can be written to it any more.
    fn break_down(&self) {
        let status = Command::new("mount").args(["-o", "remount,abort"]).arg(&self.mount).status();
        assert!(status.expect("it is installed").success());
    }

    fn free(&self) {
        std::fs::remove_file(self.mount.join("ballast")).expect("ours");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: the daemon may still have files open.
        let _ = Command::new("umount").arg("-l").arg(&self.mount).status();
    }
}
