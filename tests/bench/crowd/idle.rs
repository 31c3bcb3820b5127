//! Clients that connect and say nothing, first in clear, then in TLS.

use futures_util::StreamExt;
use world::{Client, Trust, World, message};

use crate::{AT_A_TIME, MIB, REST, crowd, pss_mib, relay};

/// The promise: of ten thousand idle clients, 400 MB.
const IDLE_MIB: f64 = 400e6 / MIB;
const IDLE_CLIENTS: f64 = 10_000.0;

pub(crate) async fn run(count: usize) {
    let world = World::start(env!("CARGO_BIN_EXE_staunch")).await;
    let relay = relay(&world, "").await;
    let empty = pss_mib(&relay);
    // What the daemon has without clients does not shrink with their number.
    let most = empty + (IDLE_MIB - empty) * count as f64 / IDLE_CLIENTS;
    let clients = crowd(relay.listener(), count).await;
    tokio::time::sleep(REST).await;
    let plain = pss_mib(&relay);
    println!(
        "{count} idle clients in clear: {plain:.1} MiB PSS, {empty:.1} of them before, {most:.1} allowed"
    );
    assert!(plain < most, "under {most:.1} MiB");

    // Each with a session of its own: a shared one would be taken up again.
    let secure =
        |client: Client| async move { client.starttls(&Trust::blind(), "relay.test").await };
    let secured = futures_util::stream::iter(clients).map(secure).buffer_unordered(AT_A_TIME);
    let clients: Vec<_> = secured.map(|client| client.expect("TLS")).collect().await;
    tokio::time::sleep(REST).await;
    let tls = pss_mib(&relay);
    println!("the same {} clients in TLS: {tls:.1} MiB PSS", clients.len());
    assert!(tls < most, "under {most:.1} MiB");
    let reply = relay.submit_content("a@x.test", &["b@x.test"], &message("a", "b", "hello")).await;
    assert_eq!(reply.code, 250, "and one more is served: {reply:?}");
}
