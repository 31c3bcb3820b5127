//! Signatures that others made still hold behind us, whatever we are told to add, fold or encode.

use std::path::{Path, PathBuf};
use std::process::Command;

use world::World;

/// Signed by dkimpy in all four pairs of canonicalizations.
const MESSAGES: usize = 200;

/// Its script.
fn dkimpy(arguments: &[&Path]) -> String {
    let script =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/interop/clients/signatures.py");
    let output = Command::new("/usr/bin/python3").arg(script).args(arguments).output();
    let output = output.expect("python3 is there");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_signatures_hold_behind_us() {
    let world = World::start(env!("CARGO_BIN_EXE_staunch")).await;
    let mx = world.mx("mx.capture.test").await;
    world.domain("capture.test").mx(&[(10, &mx)]);
    let relay = world
        .relay(
            "[[listener]]\naddress = \"127.0.0.1:0\"\nadd_missing_headers = true\n\
             [delivery]\nlong_lines = \"encode\"\n",
        )
        .await;
    let signed = world.dir().join("signed");
    let arrived = world.dir().join("arrived");
    for dir in [&signed, &arrived] {
        std::fs::create_dir(dir).expect("a folder");
    }
    dkimpy(&[Path::new("sign"), &signed, Path::new(&MESSAGES.to_string())]);
    let mut files: Vec<PathBuf> = Vec::new();
    for number in 0..MESSAGES {
        let content = std::fs::read(signed.join(format!("{number}.eml"))).expect("it was signed");
        let to = format!("b{number}@capture.test");
        let reply = relay.submit_content("ann@signed.test", &[&to], &content).await;
        assert_eq!(reply.code, 250, "{reply:?}");
        let received = mx.message_to(&to).await;
        if number % 5 != 2 {
            assert!(received.content.ends_with(&content), "{number} has changed");
        }
        let file = arrived.join(format!("{number}.eml"));
        std::fs::write(&file, &received.content).expect("write a message");
        files.push(file);
    }
    let (verify, record) = (PathBuf::from("verify"), signed.join("record"));
    let arguments: Vec<&Path> =
        [&verify, &record].into_iter().chain(&files).map(PathBuf::as_path).collect();
    assert_eq!(dkimpy(&arguments).trim(), format!("{MESSAGES} verified"));
}
