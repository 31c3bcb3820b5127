//! `cargo run --release --example demo`: the whole thing on loopback.
//!
//! The real daemon relays to six domains of a small internet in this process (DNS, policy hosts, MX
//! hosts). Then a table says what happened to each message, read from the hosts that got it and
//! from `staunch queue list`. The exit status is 1 if anything differs from what RFC 8461 §5 asks.

#![expect(
    clippy::print_stdout,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a demo speaks to the terminal, and a broken promise ends it"
)]

use std::process::ExitCode;

use world::{Leaf, Mode, Mx, Relay, Starttls, World};

/// The policy of most domains lists their own MX; this one lists another.
const ELSEWHERE: &str = "mx.elsewhere.test";

/// One domain of the play.
struct Part {
    domain: &'static str,
    mode: Option<Mode>,
    fault: Fault,
    /// What the RFC asks for.
    asked: Ending,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Fault {
    None,
    MxUnlisted,
    StarttlsLost,
    CertificateExpired,
}

impl Fault {
    fn text(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::MxUnlisted => "MX is not in the policy",
            Self::StarttlsLost => "MX lost STARTTLS",
            Self::CertificateExpired => "certificate expired",
        }
    }
}

/// What became of a message.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Ending {
    /// Delivered under a policy, to a host whose certificate was verified.
    Verified,
    /// Delivered over TLS that nobody asked for.
    Encrypted,
    /// Delivered in clear.
    Clear,
    /// Waits in the queue, for this reason; the host was not even spoken to, or not offered mail.
    Waits(String),
}

impl Ending {
    fn waits(reason: &str) -> Self {
        Self::Waits(reason.to_owned())
    }

    fn text(&self) -> String {
        match self {
            Self::Verified => "delivered, TLS verified".to_owned(),
            Self::Encrypted => "delivered, TLS not asked for".to_owned(),
            Self::Clear => "delivered in clear".to_owned(),
            Self::Waits(reason) => format!("waits: {reason}"),
        }
    }
}

fn parts() -> [Part; 6] {
    let part = |domain, mode, fault, asked| Part { domain, mode, fault, asked };
    let enforce = Some(Mode::Enforce);
    [
        part("good.test", enforce, Fault::None, Ending::Verified),
        part("hijacked.test", enforce, Fault::MxUnlisted, Ending::waits("mx_not_listed")),
        part("stripped.test", enforce, Fault::StarttlsLost, Ending::waits("starttls_not_offered")),
        part(
            "stale.test",
            enforce,
            Fault::CertificateExpired,
            Ending::waits("certificate_expired"),
        ),
        part("trying.test", Some(Mode::Testing), Fault::MxUnlisted, Ending::Encrypted),
        part("nopolicy.test", None, Fault::StarttlsLost, Ending::Clear),
    ]
}

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some() {
        // The daemon and the command line of the play are this very program.
        return staunch::main(std::env::args_os());
    }
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(play())
}

async fn play() -> ExitCode {
    let program = std::env::current_exe().expect("this program");
    let world = World::start(program).await;
    println!(
        "A small internet on loopback: DNS on {}, policies on {}, MX hosts on port {}.",
        world.dns.address(),
        world.policies.address(),
        world.mx_port()
    );
    let parts = parts();
    let mut hosts = Vec::new();
    for part in &parts {
        hosts.push(stage(&world, part).await);
    }
    let mut relay = world.relay("").await;
    println!("staunch runs on {}. Six messages, one to each domain.\n", relay.listener());
    for part in &parts {
        relay.submit("you@client.test", &[&recipient(part)], part.domain).await;
    }

    println!("{:14} {:8} {:24} {:30} as asked", "domain", "policy", "fault", "what happened");
    let mut is_all_well = true;
    for (part, mx) in parts.iter().zip(&hosts) {
        let ending = ending(&relay, part, mx).await;
        let is_well = ending == part.asked;
        is_all_well &= is_well;
        println!(
            "{:14} {:8} {:24} {:30} {}",
            part.domain,
            part.mode.map_or("-", Mode::as_str),
            part.fault.text(),
            ending.text(),
            if is_well { "yes".to_owned() } else { format!("NO: {}", part.asked.text()) }
        );
    }
    is_all_well &= relay.stop().await.success();
    println!("\n{}", if is_all_well { "All as RFC 8461 asks." } else { "Something differs." });
    if is_all_well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn recipient(part: &Part) -> String {
    format!("friend@{}", part.domain)
}

/// The domain with its host and its policy.
async fn stage(world: &World, part: &Part) -> Mx {
    let host = format!("mx.{}", part.domain);
    let mx = world.mx(&host).await;
    match part.fault {
        Fault::None | Fault::MxUnlisted => {}
        Fault::StarttlsLost => mx.script(|script| script.starttls = Starttls::Absent),
        Fault::CertificateExpired => {
            let identity = world.pki.issue(&Leaf::named(&host).expired());
            mx.script(|script| script.identity = identity);
        }
    }
    let domain = world.domain(part.domain);
    domain.mx(&[(10, &mx)]);
    if let Some(mode) = part.mode {
        let listed = if part.fault == Fault::MxUnlisted { ELSEWHERE } else { host.as_str() };
        domain.mta_sts(mode, &[listed], 86400);
    }
    mx
}

/// Waits for the end of a message, and says what it was: by the host if it got mail, else by the
/// queue.
async fn ending(relay: &Relay, part: &Part, mx: &Mx) -> Ending {
    let to = recipient(part);
    let done = relay.event("delivered").with("recipient", &to);
    let waits = relay.event("deferred").with("recipient", &to);
    tokio::select! {
        _ = done => {}
        _ = waits => {}
    }
    if let Some(row) = relay.queued(&to).await {
        assert_eq!(mx.commanded("MAIL"), 0, "what waits was never offered");
        return Ending::waits(row["last"]["reason"].as_str().unwrap_or("(none)"));
    }
    let message = mx.message().await;
    let delivered = relay.event("delivered").with("recipient", &to).await;
    let is_verified = delivered.text("protection").as_deref() == Some("verified");
    match message.tls {
        Some(_) if is_verified => Ending::Verified,
        Some(_) => Ending::Encrypted,
        None => Ending::Clear,
    }
}
