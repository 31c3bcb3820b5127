//! Clients that never finish what they begin: an ordinary client is served as if alone.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;
use world::{Client, Closed, World, message};

use crate::{REST, relay};

/// Messages in each round of the ordinary client.
const ROUND: usize = 200;
/// The promise: a normal client's time among others, to that alone.
const RATIO_MAX: f64 = 2.0;

pub(crate) async fn run(count: usize) {
    let world = World::start(env!("CARGO_BIN_EXE_staunch")).await;
    let relay = relay(&world, "").await;
    let mut client = relay.client().await;
    // The first round only warms up.
    round(&mut client).await;
    let mut alone = round(&mut client).await;
    let mut crowd = JoinSet::new();
    for (number, mut one) in crate::crowd(relay.listener(), count).await.into_iter().enumerate() {
        // Half of them dawdle in commands, half in data.
        if number.is_multiple_of(2) {
            begin_data(&mut one).await;
        }
        crowd.spawn(dawdle(one));
    }
    tokio::time::sleep(REST).await;
    let mut among = round(&mut client).await;
    assert_eq!(crowd.len(), count, "all of them are still there");
    assert!(crowd.try_join_next().is_none(), "all of them are still there");
    crowd.shutdown().await;
    alone.extend(round(&mut client).await);
    let (alone, among) = (median(&mut alone), median(&mut among));
    let ratio = among.as_secs_f64() / alone.as_secs_f64();
    println!(
        "from MAIL to 250, median of {ROUND}: {:.2} ms alone (before and after), {:.2} ms among {count} clients that never \
         finish: ratio {ratio:.2}",
        alone.as_secs_f64() * 1000.0,
        among.as_secs_f64() * 1000.0,
    );
    assert!(ratio <= RATIO_MAX, "at most {RATIO_MAX}");
}

/// How long an ordinary client waits, from MAIL to the 250 after its data.
async fn round(client: &mut Client) -> Vec<Duration> {
    let mut times = Vec::new();
    for number in 0..ROUND {
        let content = message("a@x.test", "b@x.test", &format!("n{number}"));
        let begin = Instant::now();
        let reply = client.transact("a@x.test", &["b@x.test"], &content).await.expect("served");
        times.push(begin.elapsed());
        assert_eq!(reply.code, 250, "{reply:?}");
    }
    times
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().expect("there are some")
}

async fn begin_data(client: &mut Client) {
    client.expect("MAIL FROM:<a@x.test>", 250).await;
    client.expect("RCPT TO:<b@x.test>", 250).await;
    client.expect("DATA", 354).await;
}

/// One octet a second, for ever.
async fn dawdle(mut client: Client) -> Result<(), Closed> {
    loop {
        client.send(b"x").await?;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
