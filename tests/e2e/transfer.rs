//! Mail moves to another machine, a backup is made while mail goes, and the doctor reads what is
//! there.

use world::World;

use crate::harness::PROGRAM;

fn large() -> String {
    "a line of a large message\r\n".repeat(5_000)
}

#[tokio::test]
async fn what_one_queue_exports_another_one_imports_once_and_sends() {
    let world = World::start(PROGRAM).await;
    let [old, new] = [world.relay("").await, world.relay("").await];
    let mx = world.mx("mx.b.test").await;
    world.domain("b.test").mx(&[(10, &mx)]);
    for relay in [&old, &new] {
        assert!(relay.cli(&["pause"]).await.status.success());
    }
    let small = old.submit("a@client.test", &["u1@b.test", "u2@b.test"], "small").await;
    old.submit("a@client.test", &["u3@b.test"], &large()).await;
    let held = old.submit("a@client.test", &["u4@b.test"], "held").await;
    old.cli(&["queue", "hold", &held]).await;

    let exported = old.cli(&["queue", "export", "-"]).await;
    assert!(exported.status.success(), "{exported:?}");
    assert!(String::from_utf8_lossy(&exported.stderr).contains("3 messages exported"));
    for want in ["3 messages imported, 0 were", "0 messages imported, 3 were"] {
        let imported = new.cli_with(&["queue", "import", "-"], &exported.stdout).await;
        assert!(imported.status.success(), "{imported:?}");
        assert!(String::from_utf8_lossy(&imported.stdout).contains(want), "{imported:?}");
    }
    let [there, here] = [old.queue().await, new.queue().await];
    for key in ["id", "recipient", "sender", "size", "arrived_at", "expires_at", "state"] {
        let of =
            |rows: &[world::Value]| rows.iter().map(|row| row[key].to_string()).collect::<Vec<_>>();
        assert_eq!(of(&there), of(&here), "{key}");
    }
    new.cli(&["resume"]).await;
    let got = mx.messages(2).await;
    new.event("delivered").times(3).await;
    while new.queue().await.len() > 1 {}
    assert!(got.iter().any(|one| one.to.len() == 2), "{small} goes to both");
    assert_eq!(new.queue().await[0]["state"], "held", "what is held stays so");
    assert_eq!(old.queue().await.len(), 4, "the old queue keeps all of it");

    new.cli(&["queue", "delete", "--all"]).await;
    let again = new.cli_with(&["queue", "import", "-"], &exported.stdout).await;
    let said = String::from_utf8_lossy(&again.stdout);
    assert!(said.contains("0 messages imported"), "what has left is not taken again: {again:?}");

    let cut = exported.stdout.len() - 1;
    let broken = new.cli_with(&["queue", "import", "-"], &exported.stdout[..cut]).await;
    assert_eq!(broken.status.code(), Some(65), "{broken:?}");
    let foreign = new.cli_with(&["queue", "import", "-"], b"From a@b\n").await;
    assert_eq!(foreign.status.code(), Some(65), "{foreign:?}");
}

#[tokio::test]
async fn a_backup_needs_no_stop_a_restore_does_and_the_doctor_finds_nothing_wrong_in_either() {
    let world = World::start(PROGRAM).await;
    let mut relay = world.relay("").await;
    let mx = world.mx("mx.b.test").await;
    world.domain("b.test").mx(&[(10, &mx)]);
    relay.cli(&["pause"]).await;
    relay.submit("a@client.test", &["u1@b.test"], "small").await;
    relay.submit("a@client.test", &["u2@b.test"], &large()).await;
    let away = tempfile::tempdir().unwrap();
    let to = away.path().join("copy");
    let to = to.to_str().unwrap();
    let backup = relay.cli_json(&["queue", "backup", to]).await;
    assert_eq!((backup[0]["messages"].as_u64(), backup[0]["bodies"].as_u64()), (Some(2), Some(1)));
    let again = relay.cli(&["queue", "backup", to]).await;
    assert_eq!(again.status.code(), Some(64), "{again:?}");
    let running = relay.cli(&["queue", "restore", to]).await;
    assert_eq!(running.status.code(), Some(75), "{running:?}");
    assert!(String::from_utf8_lossy(&running.stderr).contains("stop the daemon"));
    let doctor = relay.cli_json(&["doctor", "--data"]).await;
    assert_eq!(
        (doctor[0]["messages"].as_u64(), doctor[0]["findings"].as_array().map(Vec::len)),
        (Some(2), Some(0))
    );

    relay.cli(&["queue", "delete", "--all"]).await;
    relay.stop().await;
    assert!(relay.cli(&["queue", "restore", to]).await.status.success());
    relay.start_again().await;
    assert_eq!(relay.queue().await.len(), 2);
    relay.cli(&["resume"]).await;
    mx.messages(2).await;
}
