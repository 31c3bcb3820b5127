//! A clock that is 30 days ahead makes nothing bounce and no policy be forgotten, and leaves
//! nothing behind when it is set right. If the operator believes it, mail has one more attempt
//! before it is too old.

use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::Value;
use world::{Answer, Mark, Mode, Mx, Relay, Reply, Serve, Then, World, policy_text};

const DOMAIN: &str = "victim.test";
/// The policy is long over, and mail of the default lifetime too, by a clock that is this wrong.
const AHEAD: &str = "+30d";
const MAX_AGE: u32 = 7 * 86_400;
/// All that differs from the defaults is how soon mail is tried again.
const OVERLAY: &str = "[delivery]\nretry = [\"1s\"]\n[dns]\ntimeout = \"1s\"\n";

/// How the daemon ends in between.
#[derive(Clone, Copy, Debug)]
enum Ending {
    Clean,
    Kill,
}

/// What DNS and the policy host do while the clock is wrong.
#[derive(Clone, Copy, Debug)]
enum Policies {
    /// The TXT query gets SERVFAIL, and nobody listens at the policy host.
    Out,
    /// There is a new id, and the policy host serves it and says what time it is.
    Served,
}

pub(crate) async fn run() {
    for ending in [Ending::Clean, Ending::Kill] {
        for policies in [Policies::Out, Policies::Served] {
            nothing_ends_by_a_wrong_clock(ending, policies).await;
            println!(
                "{AHEAD}, ending {ending:?}, policies {policies:?}: mail waits, policy holds, heals"
            );
        }
    }
    the_operator_ends_a_doubt().await;
    println!("{AHEAD}, and the operator believes it: one more attempt, then the mail is too old");
}

/// What the operator says counts at once and for good, but what it makes too old is tried once
/// more.
async fn the_operator_ends_a_doubt() {
    let dir =
        tempfile::Builder::new().prefix("staunch-clock-").tempdir_in("/tmp").expect("a folder");
    let clock = WallClock::new(dir.path());
    let world = World::start(&clock.script).await;
    let mx = world.mx("mx.plain.test").await;
    world.domain("plain.test").mx(&[(10, &mx)]);
    mx.on("RCPT", Then::reply("451 4.3.0 not now"));
    let mut relay = world.relay(OVERLAY).await;
    let said = |output: Output| String::from_utf8(output.stdout).expect("text");
    let trusted = relay.cli(&["clock", "trust"]).await;
    assert!(trusted.status.success(), "{trusted:?}");
    assert_eq!(said(trusted), "it was not in doubt\n");
    relay.submit("sender@client.test", &["old@plain.test"], "old").await;
    relay.event("deferred").with("recipient", "old@plain.test").await;
    assert!(relay.stop().await.success(), "a clean end");

    clock.set(AHEAD);
    relay.start_again().await;
    let mark = relay.mark();
    relay.event("deferred").with("recipient", "old@plain.test").after(mark).times(2).await;
    assert_eq!(relay.event("bounced").count(), 0);
    let health = relay.cli_json(&["healthcheck"]).await;
    assert!(
        health[0]["clock_suspect"]["offset_seconds"].as_i64() > Some(29 * 86_400),
        "{health:?}"
    );
    let before = mx.commanded("RCPT");
    let order = relay.cli_json(&["clock", "trust"]).await;
    assert!(order[0]["clock_suspect"]["seconds_left"].as_i64() <= Some(86_400), "{order:?}");
    let uid = rustix::process::getuid().as_raw().to_string();
    relay.event("clock_trusted").with("by", "operator").with("uid", uid).await;
    relay.event("bounced").with("recipient", "old@plain.test").await;
    assert!(mx.commanded("RCPT") > before, "it was tried once more");

    let mark = relay.mark();
    relay.kill9().await;
    relay.start_again().await;
    assert_eq!(relay.cli_json(&["healthcheck"]).await[0]["clock_suspect"], Value::Null);
    assert_eq!(relay.event("alarm").with("reason", "clock_suspect").after(mark).count(), 0);
}

async fn nothing_ends_by_a_wrong_clock(ending: Ending, policies: Policies) {
    let dir =
        tempfile::Builder::new().prefix("staunch-clock-").tempdir_in("/tmp").expect("a folder");
    let clock = WallClock::new(dir.path());
    let mut victim = Victim::with_kept_policy(&clock).await;
    victim.world.domain(DOMAIN).mx(&[(10, &victim.evil)]);
    let mark = victim.relay.mark();
    victim.submit("old").await;
    victim.waits("old", mark).await;

    let mark = victim.end(ending).await;
    victim.meanwhile(policies);
    clock.set(AHEAD);
    victim.relay.start_again().await;
    victim.submit("new").await;
    victim.waits("old", mark).await;
    victim.waits("new", mark).await;
    if matches!(policies, Policies::Served) {
        assert_eq!(victim.world.domain(DOMAIN).policy_requests(), 2, "the new policy was fetched");
    }
    assert_eq!(victim.doubts(mark), 1, "it is said that the clock is not believed");
    assert_eq!(victim.relay.event("clock_trusted").count(), 0);

    let pid = victim.relay.pid();
    let mark = victim.end(ending).await;
    clock.set_right(pid);
    victim.relay.start_again().await;
    victim.waits("old", mark).await;
    victim.waits("new", mark).await;
    assert_eq!(victim.doubts(mark), 0, "the right clock is believed");
    victim.heals(&["old", "new"]).await;
}

/// The clock that the daemon sees: whatever runs the script has it.
struct WallClock {
    script: PathBuf,
    offset: PathBuf,
}

impl WallClock {
    fn new(dir: &Path) -> Self {
        use std::os::unix::fs::PermissionsExt;
        let (script, offset) = (dir.join("staunch"), dir.join("offset"));
        // The program `faketime` itself stays as the parent, and signals would end there. The
        // monotonic clock goes on as it is: only somebody's setting of the wall clock is at stake.
        let text = format!(
            "#!/bin/sh\n[ -e {offset} ] || exec {program} \"$@\"\n\
             exec env LD_PRELOAD={library} FAKETIME=\"$(cat {offset})\" \
             FAKETIME_DONT_FAKE_MONOTONIC=1 NO_FAKE_STAT=1 {program} \"$@\"\n",
            offset = offset.display(),
            program = env!("CARGO_BIN_EXE_staunch"),
            library = library().display(),
        );
        std::fs::write(&script, text).expect("write a script");
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).expect("ours");
        Self { script, offset }
    }

    /// For processes that start from now on.
    fn set(&self, offset: &str) {
        std::fs::write(&self.offset, offset).expect("write a file");
    }

    /// `pid` was the process that had the wrong clock: killed, it leaves libfaketime's memory
    /// behind.
    fn set_right(&self, pid: u32) {
        std::fs::remove_file(&self.offset).expect("it was set");
        for name in ["faketime_shm", "sem.faketime_sem"] {
            let _ = std::fs::remove_file(format!("/dev/shm/{name}_{pid}"));
        }
    }
}

/// Debian has it below the architecture's own folder.
fn library() -> PathBuf {
    std::fs::read_dir("/usr/lib")
        .expect("a folder")
        .filter_map(Result::ok)
        .map(|entry| entry.path().join("faketime/libfaketimeMT.so.1"))
        .find(|library| library.exists())
        .expect("faketime is not installed")
}

/// A domain whose policy is known and kept: one message was delivered under it.
struct Victim {
    world: World,
    relay: Relay,
    good: Mx,
    /// Alive, willing, with a valid certificate for its own name, and not in the policy.
    evil: Mx,
}

impl Victim {
    async fn with_kept_policy(clock: &WallClock) -> Self {
        let world = World::start(&clock.script).await;
        let good = world.mx("mx.victim.test").await;
        let evil = world.mx("mx.evil.test").await;
        world.domain(DOMAIN).mx(&[(10, &good)]).mta_sts(Mode::Enforce, &[good.host()], MAX_AGE);
        let relay = world.relay(OVERLAY).await;
        let victim = Self { world, relay, good, evil };
        victim.submit("first").await;
        let delivered = victim.relay.event("delivered").with("recipient", to("first")).await;
        assert_eq!(delivered.text("policy").as_deref(), Some("sts"));
        victim
    }

    fn meanwhile(&self, policies: Policies) {
        let domain = self.world.domain(DOMAIN);
        match policies {
            Policies::Out => domain.record_answer(Answer::ServFail).policy_host_down(),
            Policies::Served => {
                let body = policy_text(Mode::Enforce, &[self.good.host()], MAX_AGE);
                domain.serve(Serve::Reply(Reply::ok(body).header("Date", &date()))).new_id()
            }
        };
    }

    async fn submit(&self, local: &str) {
        self.relay.submit("sender@client.test", &[&to(local)], local).await;
    }

    /// Tried twice since `mark`, it waits because of the policy.
    async fn waits(&self, local: &str, mark: Mark) {
        let deferred = self.relay.event("deferred").with("recipient", to(local)).after(mark);
        for deferred in deferred.times(2).await {
            assert_eq!(deferred.text("reason").as_deref(), Some("mx_not_listed"), "{local}");
        }
        let row = self.relay.queued(&to(local)).await.expect("it waits in the queue");
        assert_eq!(row["last"]["reason"], "mx_not_listed", "{row}");
        assert_eq!(self.relay.event("bounced").count(), 0);
    }

    /// Ends the daemon; the next life begins at the mark.
    async fn end(&mut self, ending: Ending) -> Mark {
        match ending {
            Ending::Kill => self.relay.kill9().await,
            Ending::Clean => assert!(self.relay.stop().await.success(), "a clean end"),
        }
        self.relay.mark()
    }

    /// How often the clock was called wrong since `mark`.
    fn doubts(&self, mark: Mark) -> usize {
        self.relay.event("alarm").with("reason", "clock_suspect").after(mark).count()
    }

    /// Everything is as it was; all that waited arrives where it should.
    async fn heals(&self, locals: &[&str]) {
        let domain = self.world.domain(DOMAIN);
        domain.mx(&[(10, &self.good)]).mta_sts(Mode::Enforce, &[self.good.host()], MAX_AGE);
        for local in locals {
            let delivered = self.relay.event("delivered").with("recipient", to(local)).await;
            assert_eq!(delivered.text("policy").as_deref(), Some("sts"), "{local}");
            let message = self.good.message_to(&to(local)).await;
            assert!(message.tls.is_some(), "{local} went by TLS");
        }
        assert_eq!(self.evil.connections(), 0, "the attacker saw not even a TCP connection");
        assert_eq!(self.relay.event("bounced").count(), 0);
        assert_eq!(self.relay.event("dsn_queued").count(), 0, "nobody waited for 30 days");
    }
}

/// As an HTTP server says it.
#[expect(clippy::disallowed_methods, reason = "the policy host has a clock of its own")]
fn date() -> String {
    jiff::Timestamp::now().strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

fn to(local: &str) -> String {
    format!("{local}@{DOMAIN}")
}
