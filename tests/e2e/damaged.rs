//! What a disk has changed in the queue stops the mail that it belongs to, and no other; and it is
//! told.

use world::{Relay, World};

use crate::harness::PROGRAM;

/// Larger than what stands in the database.
fn large() -> String {
    "a line of a large message\r\n".repeat(5_000)
}

/// Changes one octet of an address, wherever it stands in queue.db.
fn spoil(relay: &Relay, address: &str) {
    let file = relay.data_dir().join("queue.db");
    let mut content = std::fs::read(&file).unwrap();
    let is_there = |octets: &[u8]| octets == address.as_bytes();
    let found: Vec<_> =
        content.windows(address.len()).enumerate().filter(|(_, w)| is_there(w)).collect();
    let places: Vec<usize> = found.into_iter().map(|(place, _)| place).collect();
    for place in places {
        content[place + address.find('@').unwrap()] = b' ';
    }
    std::fs::write(&file, content).unwrap();
}

fn remove_bodies(relay: &Relay) {
    for shelf in std::fs::read_dir(relay.data_dir().join("bodies")).unwrap() {
        for body in std::fs::read_dir(shelf.unwrap().path()).unwrap() {
            std::fs::remove_file(body.unwrap().path()).unwrap();
        }
    }
}

#[tokio::test]
async fn damaged_mail_is_named_listed_and_held_while_all_other_mail_goes() {
    let world = World::start(PROGRAM).await;
    let mut relay = world.relay("").await;
    let mx = world.mx("mx.b.test").await;
    world.domain("b.test").mx(&[(10, &mx)]);
    relay.cli(&["pause"]).await;
    let spoilt = relay.submit("a@client.test", &["spoilt@b.test"], "one").await;
    let bodiless = relay.submit("a@client.test", &["bodiless@b.test"], &large()).await;
    for number in 0..5 {
        relay.submit("a@client.test", &[&format!("u{number}@b.test")], "whole").await;
    }
    relay.stop().await;
    spoil(&relay, "spoilt@b.test");
    remove_bodies(&relay);
    relay.start_again().await;
    relay.cli(&["resume"]).await;
    mx.messages(5).await;
    for (id, words) in [(&spoilt, "table recipients"), (&bodiless, "body")] {
        let alarm = relay.event("alarm").with("message_id", id).await;
        assert_eq!(alarm.text("reason").as_deref(), Some("message_damaged"));
        assert!(alarm.text("message").unwrap().contains(words), "{alarm:?}");
    }
    let list = ["queue", "list", "--reason", "message_damaged"];
    let mut listed = relay.cli_json(&list).await;
    while listed.len() < 2 {
        listed = relay.cli_json(&list).await;
    }
    let rows: Vec<_> = listed
        .iter()
        .map(|row| (row["id"].as_str().unwrap(), row["state"].as_str().unwrap()))
        .collect();
    assert_eq!(rows.len(), 2);
    assert!(rows.contains(&(&*spoilt, "held")) && rows.contains(&(&*bodiless, "held")), "{rows:?}");
    assert_eq!(listed.iter().filter(|row| row["recipient"] == "spoilt b.test").count(), 1);
    // Released without a cure it is not tried, and held again.
    relay.cli(&["queue", "release", &spoilt]).await;
    let mut held = 0;
    for _ in 0..500 {
        let summary = relay.cli_json(&["queue", "summary"]).await;
        held = summary[0]["held"].as_u64().unwrap();
        if held == 2 {
            break;
        }
    }
    assert_eq!(held, 2);
    relay.cli(&["queue", "delete", &spoilt, &bodiless]).await;
    assert_eq!(relay.queue().await.len(), 0);
}

/// No 250 for what no start would find.
#[tokio::test]
async fn a_data_directory_that_is_moved_away_takes_no_mail_until_it_is_back() {
    let world = World::start(PROGRAM).await;
    let relay = world.relay("").await;
    let mx = world.mx("mx.b.test").await;
    world.domain("b.test").mx(&[(10, &mx)]);
    relay.submit("a@client.test", &["first@b.test"], "one").await;
    mx.message_to("first@b.test").await;
    let (dir, aside) = (relay.data_dir(), relay.data_dir().with_extension("aside"));
    std::fs::rename(&dir, &aside).unwrap();
    let content = world::message("a@client.test", "refused@b.test", "two");
    let reply = relay.submit_content("a@client.test", &["refused@b.test"], &content).await;
    assert_eq!(reply.code, 452, "{reply:?}");
    relay.event("alarm").with("reason", "data_dir_replaced").await;
    std::fs::rename(&aside, &dir).unwrap();
    relay.event("data_dir_back").await;
    relay.submit("a@client.test", &["second@b.test"], "three").await;
    mx.message_to("second@b.test").await;
}
