//! The real daemon: started, watched through its log, stopped, killed, and asked by its own command
//! line. Nothing here knows its inside.

use std::future::IntoFuture;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{ExitStatus, Output, Stdio};
use std::sync::Arc;

use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};
use tokio::sync::watch;

use crate::World;
use crate::client::{Client, SmtpReply, message};
use crate::guard::Guard;
use crate::log::{LIMIT, Log, TimedOut};
use crate::relay_log::{Event, Line, LogReading, spawn_reader};

/// A place in the log.
#[derive(Clone, Copy, Debug)]
pub struct Mark(usize);

impl Mark {
    /// Before the first line.
    pub const START: Self = Self(0);
}

/// The daemon.
#[derive(Debug)]
pub struct Relay {
    program: PathBuf,
    dir: PathBuf,
    child: Child,
    log: Arc<Log<Line>>,
    /// Does the reader of the log read?
    is_read: watch::Sender<bool>,
    listeners: Vec<SocketAddr>,
    /// How often it ended.
    ends: usize,
    guard: Arc<Guard>,
}

/// The configuration of a daemon in `world`, with its files in `dir`.
pub(crate) fn configuration(world: &World, dir: &Path, overlay: &str) -> String {
    let ca_file = world.pki.ca_file().display();
    let base = format!(
        r#"
hostname = "relay.test"
data_dir = "{data}"
shutdown_grace = "5s"
[[listener]]
address = "127.0.0.1:0"
[dns]
servers = ["{dns}"]
dnssec = "off"
timeout = "2s"
[delivery]
port = {port}
allow_addresses = ["127.0.0.0/8"]
connect_timeout = "5s"
[tls]
ca_file = "{ca_file}"
system_roots = false
[mta_sts]
policy_port = {policy_port}
ca_file = "{ca_file}"
fetch_timeout = "5s"
[access]
users_file = "{dir}/users"
[admin]
socket = "{dir}/admin.sock"
[log]
format = "json"
"#,
        data = dir.join("data").display(),
        dns = world.dns.address(),
        port = world.mx_port(),
        policy_port = world.policies.address().port(),
        dir = dir.display(),
    );
    let mut config: toml::Table = base.parse().expect("the base is TOML");
    merge(&mut config, overlay.parse().unwrap_or_else(|error| panic!("overlay: {error}")));
    config.to_string()
}

/// Tables are merged, everything else is replaced.
fn merge(base: &mut toml::Table, overlay: toml::Table) {
    for (key, value) in overlay {
        match (base.get_mut(&key), value) {
            (Some(toml::Value::Table(below)), toml::Value::Table(above)) => merge(below, above),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

impl Relay {
    pub(crate) async fn start(
        program: &Path,
        dir: PathBuf,
        config: &str,
        guard: Arc<Guard>,
    ) -> Self {
        std::fs::write(dir.join("staunch.toml"), config).expect("write the configuration");
        let log = Arc::new(Log::default());
        let is_read = watch::Sender::new(true);
        let child = spawn(program, &dir, &log, &guard, &is_read);
        let mut relay = Self {
            program: program.to_owned(),
            dir,
            child,
            log,
            is_read,
            listeners: Vec::new(),
            ends: 0,
            guard,
        };
        relay.wait_ready(Mark(0)).await;
        relay
    }

    async fn wait_ready(&mut self, since: Mark) {
        self.event("ready").after(since).await;
        let listening = self.event("listening").after(since).all();
        let addresses = listening.iter().filter_map(|event| event.text("address"));
        self.listeners = addresses.filter_map(|address| address.parse().ok()).collect();
    }

    /// Where it accepts mail: its first TCP listener.
    pub fn listener(&self) -> SocketAddr {
        self.listener_at(0)
    }

    /// Its TCP listener of that number, from 0, in the order of the log, which is that of the
    /// configuration.
    pub fn listener_at(&self, number: usize) -> SocketAddr {
        let address = self.listeners.get(number).copied();
        address.unwrap_or_else(|| panic!("no listener {number}: {:?}", self.listeners))
    }

    /// Its data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// Its configuration file.
    pub fn config_file(&self) -> PathBuf {
        self.dir.join("staunch.toml")
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    /// Submits a small message, which must be accepted, and returns the id it was queued under.
    pub async fn submit(&self, from: &str, to: &[&str], body: &str) -> String {
        let content = message(from, to.first().expect("a recipient"), body);
        let reply = self.submit_content(from, to, &content).await;
        assert_eq!(reply.code, 250, "{reply:?}");
        queue_id(&reply)
    }

    /// Submits any message and returns the reply that ended the transaction.
    pub async fn submit_content(&self, from: &str, to: &[&str], content: &[u8]) -> SmtpReply {
        let mut client = self.client().await;
        let reply = client.transact(from, to, content).await.expect("the daemon answers");
        let _ = client.command("QUIT").await;
        reply
    }

    /// A session after EHLO.
    pub async fn client(&self) -> Client {
        Client::hello(self.listener()).await.expect("the daemon listens")
    }

    /// The end of the log: what comes later is after it.
    pub fn mark(&self) -> Mark {
        Mark(self.log.len())
    }

    /// Waits for an event, from the beginning of the log on.
    pub fn event(&self, name: &str) -> EventWait<'_> {
        let fields = vec![("event".to_owned(), name.to_owned())];
        EventWait { relay: self, fields, since: 0 }
    }

    /// Runs the program as a client of this daemon.
    pub async fn cli(&self, arguments: &[&str]) -> Output {
        self.cli_with(arguments, b"").await
    }

    /// The same with this on stdin.
    pub async fn cli_with(&self, arguments: &[&str], input: &[u8]) -> Output {
        let mut command = clean_command(&self.program);
        output_of(command.arg("--config").arg(self.config_file()).args(arguments), input).await
    }

    /// Runs the program with `--json`, insists on success, and parses a value from each line.
    pub async fn cli_json(&self, arguments: &[&str]) -> Vec<Value> {
        let arguments: Vec<&str> = arguments.iter().copied().chain(["--json"]).collect();
        let output = self.cli(&arguments).await;
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}")))
            .collect()
    }

    /// The rows of `queue list`.
    pub async fn queue(&self) -> Vec<Value> {
        self.cli_json(&["queue", "list"]).await
    }

    /// The queue's row of this recipient, if it is queued.
    pub async fn queued(&self, recipient: &str) -> Option<Value> {
        self.queue().await.into_iter().find(|row| row["recipient"] == recipient)
    }

    /// Stands still as the reader of its log, or goes on.
    pub fn read_log(&self, reading: LogReading) {
        self.is_read.send_replace(matches!(reading, LogReading::On));
    }

    /// SIGTERM, and its exit status.
    pub async fn stop(&mut self) -> ExitStatus {
        self.signal(rustix::process::Signal::TERM);
        self.wait_end().await
    }

    /// SIGKILL: it has no chance to do anything.
    pub async fn kill9(&mut self) {
        self.signal(rustix::process::Signal::KILL);
        self.wait_end().await;
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = i32::try_from(self.pid()).ok().and_then(rustix::process::Pid::from_raw);
        rustix::process::kill_process(pid.expect("a process id"), signal).expect("it runs");
    }

    /// Waits until it ends by itself.
    pub async fn wait_end(&mut self) -> ExitStatus {
        let pid = self.pid();
        let status = tokio::time::timeout(LIMIT, self.child.wait())
            .await
            .unwrap_or_else(|_| panic!("the daemon does not end\n{}", self.lines_about("")))
            .expect("the daemon is ours");
        self.guard.forget(pid);
        // What it wrote last is in the log before anybody looks for what a successor writes.
        self.read_log(LogReading::On);
        self.ends += 1;
        let ends = self.ends;
        let is_read = |lines: &[Line]| {
            let seen = lines.iter().filter(|line| matches!(line, Line::End)).count();
            (seen >= ends).then_some(())
        };
        self.log.until(is_read).await.expect("its log ends with it");
        status
    }

    /// Starts it again after its end, with the same data and configuration. The listener's port is
    /// another one.
    pub async fn start_again(&mut self) {
        let since = self.mark();
        self.child = spawn(&self.program, &self.dir, &self.log, &self.guard, &self.is_read);
        self.wait_ready(since).await;
    }

    /// The same for one that may refuse to start: says how it ended then.
    pub async fn start_again_or_end(&mut self) -> Option<ExitStatus> {
        let since = self.mark();
        self.child = spawn(&self.program, &self.dir, &self.log, &self.guard, &self.is_read);
        let is_ready = |line: &Line| match line {
            Line::Event(event) if event.text("event").as_deref() == Some("ready") => Some(true),
            Line::End => Some(false),
            Line::Event(_) | Line::Text(_) | Line::Start => None,
        };
        let first = |lines: &[Line]| lines.iter().skip(since.0).find_map(is_ready);
        if !self.log.until(first).await.expect("it is ready, or ends") {
            return Some(self.wait_end().await);
        }
        self.wait_ready(since).await;
        None
    }

    /// Changes the configuration file, for the next start.
    pub fn configure(&self, overlay: &str) {
        let text = std::fs::read_to_string(self.config_file()).expect("read the configuration");
        let mut config: toml::Table = text.parse().expect("it is TOML");
        merge(&mut config, overlay.parse().unwrap_or_else(|error| panic!("overlay: {error}")));
        // A reload under way reads the one or the other, and never half of one.
        let new = self.config_file().with_extension("new");
        std::fs::write(&new, config.to_string()).expect("write the configuration");
        std::fs::rename(new, self.config_file()).expect("replace the configuration");
    }

    /// All lines behind this place that contain `word`.
    pub fn lines_since(&self, since: Mark, word: &str) -> Vec<String> {
        let lines = self
            .log
            .read(|lines| lines.iter().skip(since.0).map(Line::to_string).collect::<Vec<_>>());
        lines.into_iter().filter(|line| line.contains(word)).collect()
    }

    /// The last lines of the log that contain `word`, for failures. Every line contains the empty
    /// word.
    pub fn lines_about(&self, word: &str) -> String {
        let lines = self.log.read(|lines| lines.iter().map(Line::to_string).collect::<Vec<_>>());
        let lines: Vec<String> = lines.into_iter().filter(|line| line.contains(word)).collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // The child is killed on drop and reaped in the background; it may not be killed again.
        if let Some(pid) = self.child.id() {
            self.guard.forget(pid);
        }
    }
}

/// What a reply to the end of data calls the message: its last word.
fn queue_id(reply: &SmtpReply) -> String {
    let text = reply.text();
    text.rsplit(' ').next().unwrap_or_default().to_owned()
}

/// Runs `command` with `input` on stdin, until it ends.
pub async fn output_of(command: &mut Command, input: &[u8]) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.kill_on_drop(true).spawn().expect("the program starts");
    let mut stdin = child.stdin.take().expect("piped");
    let run = async {
        // A program that refuses its arguments does not read.
        let _ = stdin.write_all(input).await;
        drop(stdin);
        child.wait_with_output().await
    };
    tokio::time::timeout(LIMIT, run)
        .await
        .unwrap_or_else(|_| panic!("{command:?} does not end"))
        .expect("the program ends")
}

/// Our own environment says nothing to the program.
fn clean_command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear();
    for name in ["PATH", "LD_LIBRARY_PATH", "LLVM_PROFILE_FILE"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command.env("RUST_BACKTRACE", "1");
    command
}

fn spawn(
    program: &Path,
    dir: &Path,
    log: &Arc<Log<Line>>,
    guard: &Guard,
    is_read: &watch::Sender<bool>,
) -> Child {
    let mut child = clean_command(program)
        .args(["run", "--config"])
        .arg(dir.join("staunch.toml"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap_or_else(|error| panic!("{}: {error}", program.display()));
    guard.watch(child.id().expect("just started"));
    log.push(Line::Start);
    let stderr = child.stderr.take().expect("piped");
    spawn_reader(stderr, Arc::clone(log), is_read.subscribe());
    child
}

/// A search in the daemon's log; awaiting it waits for the event.
#[derive(Clone, Debug)]
pub struct EventWait<'r> {
    relay: &'r Relay,
    fields: Vec<(String, String)>,
    since: usize,
}

impl<'r> EventWait<'r> {
    /// Only if this field has this value.
    pub fn with(mut self, field: &str, value: impl ToString) -> Self {
        self.fields.push((field.to_owned(), value.to_string()));
        self
    }

    /// Only what was logged after this.
    pub fn after(mut self, mark: Mark) -> Self {
        self.since = mark.0;
        self
    }

    /// All such events so far, without waiting.
    pub fn all(&self) -> Vec<Event> {
        let fits = |line: &Line| match line {
            Line::Event(event) => self.fits(event).then(|| event.clone()),
            Line::Text(_) | Line::Start | Line::End => None,
        };
        self.relay.log.read(|lines| lines.iter().skip(self.since).filter_map(fits).collect())
    }

    /// How many such events there are so far, without waiting.
    pub fn count(&self) -> usize {
        self.all().len()
    }

    /// Waits until there are at least `count`.
    pub async fn times(&self, count: usize) -> Vec<Event> {
        let enough = |lines: &[Line]| {
            let new = lines.iter().skip(self.since);
            let mut has_ended = false;
            let mut found = Vec::new();
            for line in new {
                match line {
                    Line::Event(event) if self.fits(event) => found.push(event.clone()),
                    Line::Event(_) | Line::Text(_) => {}
                    Line::Start => has_ended = false,
                    Line::End => has_ended = true,
                }
            }
            // The failure is told outside: telling it reads the log, which is locked in here.
            let is_enough = found.len() >= count;
            (is_enough || has_ended).then_some(is_enough.then_some(found))
        };
        match self.relay.log.until(enough).await {
            Ok(Some(found)) => found,
            Ok(None) => panic!("ended before {:?}\n{}", self.fields, self.context()),
            Err(TimedOut) => {
                panic!("no {:?} x {count} in the log\n{}", self.fields, self.context())
            }
        }
    }

    /// What the log says about what is searched, for failures.
    fn context(&self) -> String {
        let word =
            if self.fields.len() > 1 { self.fields[self.fields.len() - 1].1.as_str() } else { "" };
        self.relay.lines_about(word.rsplit('@').next().unwrap_or_default())
    }

    fn fits(&self, event: &Event) -> bool {
        self.fields.iter().all(|(field, value)| event.text(field).as_ref() == Some(value))
    }
}

impl<'r> IntoFuture for EventWait<'r> {
    type Output = Event;
    type IntoFuture = Pin<Box<dyn Future<Output = Event> + Send + 'r>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move { self.times(1).await.remove(0) })
    }
}
