//! What the tests share: the program, a stage for many small tests at once, and rows of data files.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use tokio::runtime::Runtime;
use world::{Relay, World};

/// The program under test, built by cargo.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_staunch");

/// A world and a daemon for tests that need a domain of their own and nothing else. It lives as
/// long as the test process; the world sees to it that nothing is left then.
pub(crate) struct Stage {
    runtime: Runtime,
    pub(crate) world: World,
    pub(crate) relay: Relay,
}

/// Where the daemon of the stage also listens, on the port that it delivers to: an MX record that
/// leads here leads to ourselves.
pub(crate) const OURSELVES: Ipv4Addr = Ipv4Addr::new(127, 0, 200, 1);

/// Addresses outside the first /16 of loopback are forbidden ones here. A failed attempt is
/// repeated every second, so that a test of what comes next does not take long.
const STAGE: &str = r#"
[limits]
connections_per_client = 1000
[delivery]
allow_addresses = ["127.0.0.0/16"]
retry = ["1s"]
connections_per_host = 50
connection_idle = "1s"
[mta_sts]
fetch_timeout = "2s"
"#;

static SHARED: LazyLock<Stage> = LazyLock::new(|| {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (world, relay) = runtime.block_on(async {
        let world = World::start(PROGRAM).await;
        let listeners = format!(
            "[[listener]]\naddress = \"127.0.0.1:0\"\n\
             [[listener]]\naddress = \"{OURSELVES}:{}\"\n",
            world.mx_port()
        );
        let relay = world.relay(&(listeners + STAGE)).await;
        (world, relay)
    });
    Stage { runtime, world, relay }
});

/// Runs a test on the shared stage.
pub(crate) fn on_stage<F: Future<Output = ()>>(test: impl FnOnce(&'static Stage) -> F) {
    let stage = &*SHARED;
    stage.runtime.block_on(test(stage));
}

impl Stage {
    /// Takes a message that shall wait for ever out of the queue.
    pub(crate) async fn discard(&self, id: &str) {
        let output = self.relay.cli(&["queue", "delete", id]).await;
        assert!(output.status.success(), "{output:?}");
    }
}

/// The top of the repository.
pub(crate) fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// The rows of a data file: cells by column, without comments.
pub(crate) fn vectors(name: &str) -> Vec<Vec<String>> {
    let path = repository().join("tests/data/vectors").join(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    text.lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
        .map(|line| line.split('\t').map(str::to_owned).collect())
        .collect()
}

/// A cell with its C escapes (`\n \r \t \\ \xHH`) replaced.
pub(crate) fn unescape(cell: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = cell.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        bytes.push(match rest.next() {
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b't') => b'\t',
            Some(b'\\') => b'\\',
            Some(b'x') => {
                let digits = [rest.next().unwrap(), rest.next().unwrap()];
                u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
            }
            other => panic!("{cell}: unknown escape {other:?}"),
        });
    }
    bytes
}
