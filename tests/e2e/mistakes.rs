//! Whoever makes a mistake in the configuration is told so before the start, with its place and its
//! cure; what the daemon starts with all the same is a warning, with what follows.

use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tokio::process::Command;
use world::World;

use crate::harness::{PROGRAM, unescape, vectors};

/// A folder with a configuration that has no mistake, to which `conf.d/row.toml` adds one.
struct Folder {
    dir: tempfile::TempDir,
}

impl Folder {
    fn new(world: &World) -> Self {
        let folder = Self { dir: tempfile::tempdir().unwrap() };
        let base = format!(
            "hostname = \"relay.example.net\"\ndata_dir = \"{}\"\n[[listener]]\naddress = \"127.0.0.1:0\"\n\
             [aliases]\nroot = \"ops@example.net\"\n[dns]\nservers = [\"{}\"]\n",
            folder.path("data").display(),
            world.dns.address()
        );
        fs::create_dir(folder.path("conf.d")).unwrap();
        folder.write("staunch.toml", &base, 0o644);
        folder.write("file", "text\n", 0o644);
        folder.write("aliases", "root: |/usr/bin/vacation\n", 0o644);
        folder.write("users", "anna\n", 0o640);
        let (pair, other) = (world.key_files("relay.test"), world.key_files("other.test"));
        let read = |path: &Path| fs::read_to_string(path).unwrap();
        folder.write("chain.pem", &read(&pair.certificate), 0o644);
        folder.write("key.pem", &read(&pair.key), 0o600);
        folder.write("open.pem", &read(&pair.key), 0o644);
        folder.write("other.pem", &read(&other.key), 0o600);
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str, mode: u32) {
        fs::write(self.path(name), text).unwrap();
        fs::set_permissions(self.path(name), Permissions::from_mode(mode)).unwrap();
    }

    /// The document, with DIR in it replaced.
    fn write_row(&self, document: &[u8]) {
        let document = match std::str::from_utf8(document) {
            Ok(text) => text.replace("DIR", self.dir.path().to_str().unwrap()).into_bytes(),
            Err(_) => document.to_vec(),
        };
        fs::write(self.path("conf.d/row.toml"), document).unwrap();
    }

    /// Exit code and stderr of `config check`, with what is different on each machine replaced.
    async fn check(&self, variable: Option<(&str, &str)>) -> (i32, String) {
        let mut command = Command::new(PROGRAM);
        command.env_clear().env("HOME", self.dir.path()).envs(variable);
        command.arg("--config").arg(self.path("staunch.toml")).args(["config", "check"]);
        let output = command.kill_on_drop(true).output().await.unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        let row = self.path("conf.d/row.toml");
        let text = text.replace(row.to_str().unwrap(), "FILE");
        let text = text.replace(self.dir.path().to_str().unwrap(), "DIR");
        (output.status.code().unwrap(), text.trim_end().to_owned())
    }
}

#[tokio::test]
async fn each_mistake_is_named_with_its_place_and_its_cure() {
    let world = World::start(PROGRAM).await;
    let folder = Folder::new(&world);
    assert_eq!(folder.check(None).await, (0, String::new()), "without a mistake");
    let mut wrong = Vec::new();
    let rows = vectors("config.tsv");
    for row in &rows {
        let [place, written, code, want] = row.as_slice() else { panic!("{row:?}") };
        let got = if place == "FILE" {
            folder.write_row(&unescape(written));
            folder.check(None).await
        } else {
            folder.write_row(b"");
            let value = String::from_utf8(unescape(written)).unwrap();
            folder.check(Some((place, &value))).await
        };
        let want = (code.parse().unwrap(), String::from_utf8(unescape(want)).unwrap());
        if got != want {
            wrong.push(format!("{place} {written}:\n got {got:?}\nwant {want:?}"));
        }
    }
    assert!(rows.len() >= 75, "{}", rows.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Code, errors and warnings of a check, while the daemon runs.
async fn checked(relay: &world::Relay) -> (i32, Vec<Value>, Vec<Value>) {
    let output = relay.cli(&["config", "check", "--json"]).await;
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["valid"], json!(output.status.success()));
    let list = |name: &str| answer[name].as_array().unwrap().clone();
    (output.status.code().unwrap(), list("errors"), list("warnings"))
}

#[tokio::test]
async fn a_port_that_our_daemon_has_is_no_mistake_and_that_of_another_program_is_one() {
    let world = World::start(PROGRAM).await;
    let mut relay = world.relay("[aliases]\nroot = \"ops@example.net\"\n").await;
    let port = relay.listener().port();
    let listen = |address: &str| format!("[[listener]]\naddress = \"{address}\"\n");
    relay.configure(&listen(&format!("127.0.0.1:{port}")));
    let before = checked(&relay).await;
    assert_eq!((before.0, &before.1), (0, &vec![]), "{before:?}");

    // A start could have it, but no reload.
    relay.configure(&listen(&format!("0.0.0.0:{port}")));
    let (code, errors, warnings) = checked(&relay).await;
    assert_eq!((code, &errors), (0, &vec![]));
    let restart = |warning: &Value| warning["reason"].as_str().unwrap().contains("restart it");
    assert!(warnings.iter().any(restart), "{warnings:?}");

    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = other.local_addr().unwrap();
    relay.configure(&listen(&taken.to_string()));
    let said = async |relay: &world::Relay| {
        let (code, errors, _) = checked(relay).await;
        let [error] = errors.as_slice() else { panic!("{errors:?}") };
        assert_eq!((code, &error["key"]), (78, &json!("listener[0].address")));
        error["reason"].as_str().unwrap().to_owned()
    };
    let want = format!(
        "\"{taken}\": Address already in use (os error 98); another program listens there (ss -ltnp names it)"
    );
    assert_eq!(said(&relay).await, want);
    relay.stop().await;
    assert_eq!(said(&relay).await, want, "also without a daemon");
    drop(other);
    assert_eq!(checked(&relay).await.0, 0);
}

#[tokio::test]
async fn a_reason_that_there_is_not_is_answered_with_those_that_there_are() {
    let world = World::start(PROGRAM).await;
    let relay = world.relay("").await;
    let said = async |word: &str| {
        let output = relay.cli(&["queue", "list", "--reason", word]).await;
        assert_eq!(output.status.code(), Some(65), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let near = said("mx_not_lsted").await;
    assert_eq!(near, "reason: \"mx_not_lsted\" is not a reason; did you mean mx_not_listed?\n");
    assert!(said("xyz").await.contains("`staunch queue summary --by reason` shows those"));
    assert!(said("hold").await.ends_with("did you mean held?\n"));
}
