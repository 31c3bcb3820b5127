//! What benchmarks share: waiting for the sink, adding up, and DNS and HTTPS at their own ports.
#![allow(dead_code, reason = "each benchmark uses some of it")]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;
use world::load::{Arrival, Sink};
use world::real::Usage;
use world::{Argument, World};

/// Longest time in which nothing arrives before it is called stuck.
const PROGRESS: Duration = Duration::from_secs(60);

/// How large a run over many domains is.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) domains: u64,
    pub(crate) each: u64,
    pub(crate) rounds: usize,
    only: Option<String>,
}

impl Plan {
    /// As the command line says; otherwise so many domains, with `each` so many messages.
    pub(crate) fn from_arguments(domains: u64, each: u64) -> Self {
        let mut plan = Self { domains, each, rounds: 5, only: None };
        for argument in Argument::all() {
            match argument.name.as_str() {
                "domains" => plan.domains = argument.number(),
                "each" => plan.each = argument.number(),
                "rounds" => plan.rounds = argument.number(),
                "only" => plan.only = Some(argument.value),
                _ => argument.unknown(),
            }
        }
        plan
    }

    /// Does this contestant run?
    pub(crate) fn has(&self, name: &str) -> bool {
        self.only.as_ref().is_none_or(|only| only == name)
    }

    /// All of them.
    pub(crate) fn messages(&self) -> u64 {
        self.domains * self.each
    }
}

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

/// DNS and policies at the ports where everybody expects them.
pub(crate) async fn standard_ports(world: &World, address: Ipv4Addr) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let (dns, policies) = (world.dns.address(), world.policies.address());
    let udp = UdpSocket::bind((address, 53)).await.expect("port 53");
    tasks.spawn(forward_datagrams(Arc::new(udp), dns));
    let tcp = TcpListener::bind((address, 443)).await.expect("port 443");
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((mut client, _)) = tcp.accept().await {
            connections.spawn(async move {
                if let Ok(mut server) = TcpStream::connect(policies).await {
                    let _closed = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                }
            });
        }
    });
    tasks
}

async fn forward_datagrams(socket: Arc<UdpSocket>, to: SocketAddr) {
    let (mut query, mut answers) = (vec![0; 4096], JoinSet::new());
    while let Ok((octets, client)) = socket.recv_from(&mut query).await {
        let (socket, query) =
            (Arc::clone(&socket), query.get(..octets).unwrap_or_default().to_vec());
        answers.spawn(async move {
            let Ok(server) = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await else { return };
            let mut answer = vec![0; 4096];
            if server.send_to(&query, to).await.is_ok()
                && let Ok(Ok(octets)) =
                    tokio::time::timeout(Duration::from_secs(5), server.recv(&mut answer)).await
            {
                let _sent = socket.send_to(answer.get(..octets).unwrap_or_default(), client).await;
            }
        });
    }
}
