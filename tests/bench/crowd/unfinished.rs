//! One client that begins many large transactions and ends none: others go on as if it was not
//! there.

use futures_util::StreamExt;
use world::{Client, Closed, World, message};

use crate::{AT_A_TIME, crowd, relay};

/// What the client asks for in each transaction.
const RECIPIENTS: usize = 1000;
/// The other client's messages, of each kind.
const MESSAGES: usize = 20;
/// Octets of a large header of the other client.
const HEADER_OCTETS: usize = 200 * 1024;

pub(crate) async fn run(count: usize) {
    let world = World::start(env!("CARGO_BIN_EXE_staunch")).await;
    let relay = relay(&world, "").await;
    let clients = futures_util::stream::iter(crowd(relay.listener(), count).await);
    let held = clients.map(hold).buffer_unordered(AT_A_TIME).collect::<Vec<_>>().await;
    let taken: usize = held.iter().flatten().map(|(_, taken)| taken).sum();

    let mut other = relay.client().await;
    let many: Vec<String> = (0..RECIPIENTS).map(|n| format!("user{n}@x.test")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let plain = message("a", "b", "hello");
    let field = format!("X-Long: {}\r\n", "x".repeat(70));
    let large = [field.repeat(HEADER_OCTETS / field.len()).as_bytes(), &plain].concat();
    let (mut with_recipients, mut with_header) = (0, 0);
    for _ in 0..MESSAGES {
        let reply = other.transact("a@x.test", &many, &plain).await;
        with_recipients += usize::from(reply.is_ok_and(|reply| reply.code == 250));
        let reply = other.transact("a@x.test", &["b@x.test"], &large).await;
        with_header += usize::from(reply.is_ok_and(|reply| reply.code == 250));
    }
    println!(
        "{} transactions of one client stay unfinished, with {taken} of {} recipients: of another client's messages, \
         {with_recipients} of {MESSAGES} with {RECIPIENTS} recipients were taken, and {with_header} of {MESSAGES} with a header of 200 KiB",
        held.len(),
        count * RECIPIENTS,
    );
    assert_eq!(held.iter().flatten().count(), count, "none of them was closed");
    assert_eq!((with_recipients, with_header), (MESSAGES, MESSAGES), "others are served");
}

/// A transaction with as many recipients of the longest names as are taken, and how many these are.
async fn hold(mut client: Client) -> Result<(Client, usize), Closed> {
    client.command("MAIL FROM:<a@x.test>").await?;
    let label = "d".repeat(60);
    let domain = [label.as_str(); 3].join(".");
    let mut taken = 0;
    for number in 0..RECIPIENTS {
        let local = format!("{number:x>58}");
        let reply = client.command(&format!("RCPT TO:<{local}@{domain}.test>")).await?;
        taken += usize::from(reply.code == 250);
    }
    Ok((client, taken))
}
