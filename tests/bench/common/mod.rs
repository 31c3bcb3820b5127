//! What benchmarks share: waiting for the sink, and adding up.

use std::time::Duration;

use world::load::{Arrival, Sink};
use world::real::Usage;

/// Longest time in which nothing arrives before it is called stuck.
const PROGRESS: Duration = Duration::from_secs(60);

/// The middle one.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// Waits as long as messages keep arriving.
pub(crate) async fn wait_for_all(sink: &Sink, count: u64) {
    let mut seen = 0;
    loop {
        let more = sink.arrivals().until(|all| (all.len() > seen).then_some(all.len()));
        seen = match tokio::time::timeout(PROGRESS, more).await {
            Ok(Ok(now)) => now,
            Ok(Err(_)) | Err(_) => panic!("{seen} of {count} messages arrived"),
        };
        if seen as u64 >= count {
            return;
        }
    }
}

/// CPU time once it stands still.
pub(crate) async fn settled(pid: u32) -> Usage {
    let mut usage = Usage::of_tree(pid);
    loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let now = Usage::of_tree(pid);
        if now.cpu_seconds - usage.cpu_seconds < 0.02 {
            return now;
        }
        usage = now;
    }
}

/// Each message came once, whole and over TLS.
pub(crate) fn assert_each_once(sink: &Sink, count: u64) {
    sink.arrivals().read(|all: &[Arrival]| {
        let mut ids: Vec<u64> = all.iter().filter_map(|one| one.id).collect();
        ids.sort_unstable();
        assert!(ids.iter().copied().eq(0..count), "each message once");
        assert!(all.iter().all(|one| one.intact && one.tls), "whole, and over TLS");
    });
}

/// CPU time of this very process: generator and sink (and the DNS server, which is asked twice).
pub(crate) fn own_cpu() -> f64 {
    Usage::of_process(std::process::id()).cpu_seconds
}
