//! Postfix, any number of instances, without systemd.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{make_public_dir, run, stop_by_pid_file};

/// What an instance is told beyond what all of them are.
#[derive(Clone, Debug)]
pub struct PostfixSetup {
    /// Its host name.
    pub hostname: String,
    /// Where its smtpd listens.
    pub listen: SocketAddr,
    /// Parameters of main.cf.
    pub parameters: Vec<(String, String)>,
    /// How many of its SMTP clients may run; as many as of everything else, if that is not said.
    pub smtp_processes: Option<u32>,
    /// The name server that it asks at port 53, instead of the machine's.
    pub resolver: Option<Ipv4Addr>,
}

impl PostfixSetup {
    /// Relays for loopback, knows no domain of its own, takes messages up to 50 MB, asks no DNS
    /// about clients.
    pub fn new(hostname: &str, listen: SocketAddr) -> Self {
        Self {
            hostname: hostname.to_owned(),
            listen,
            parameters: Vec::new(),
            smtp_processes: None,
            resolver: None,
        }
    }

    /// With one parameter more.
    #[must_use]
    pub fn set(mut self, name: &str, value: impl std::fmt::Display) -> Self {
        self.parameters.push((name.to_owned(), value.to_string()));
        self
    }

    /// With so many SMTP clients at most.
    #[must_use]
    pub fn smtp_processes(self, count: u32) -> Self {
        Self { smtp_processes: Some(count), ..self }
    }

    /// Asking this name server, at port 53.
    #[must_use]
    pub fn resolver(self, address: Ipv4Addr) -> Self {
        Self { resolver: Some(address), ..self }
    }

    /// The command that starts it, in a view of the files in which its resolver is the machine's.
    fn command(&self, dir: &Path) -> Command {
        let Some(resolver) = self.resolver else { return Command::new("postfix") };
        let names = dir.join("resolv.conf");
        fs::write(&names, format!("nameserver {resolver}\n")).expect("write resolv.conf");
        let mut command = Command::new("unshare");
        let script = "mount --bind \"$0\" /etc/resolv.conf && exec postfix \"$@\"";
        command.args(["-m", "--propagation", "private", "sh", "-c", script]).arg(names);
        command
    }

    fn main_cf(&self, dir: &Path) -> String {
        let dir = dir.display();
        let mut text = format!(
            "compatibility_level = 3.6\nmyhostname = {hostname}\nmydestination =\nmynetworks = 127.0.0.0/8\n\
             queue_directory = {dir}/queue\ndata_directory = {dir}/data\nmaillog_file = {dir}/maillog\n\
             maillog_file_prefixes = {dir}\nsyslog_name = postfix\nsmtpd_peername_lookup = no\n\
             inet_protocols = ipv4\nalias_maps =\nalias_database =\nlocal_recipient_maps =\n\
             message_size_limit = 52428800\nmailbox_size_limit = 0\nvirtual_mailbox_limit = 0\n\
             smtpd_client_connection_count_limit = 0\nsmtpd_relay_restrictions = permit_mynetworks, reject\n",
            hostname = self.hostname
        );
        for (name, value) in &self.parameters {
            text += &format!("{name} = {value}\n");
        }
        text
    }

    fn master_cf(&self) -> String {
        let clients = self.smtp_processes.map_or("-".to_owned(), |count| count.to_string());
        format!(
            "{}:{} inet n - n - - smtpd\nsmtp unix - - n - {clients} smtp\n{MASTER_CF}",
            self.listen.ip(),
            self.listen.port()
        )
    }
}

/// The services of Debian's master.cf, without chroot: files of the test are not below a queue.
const MASTER_CF: &str = "\
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
proxywrite unix - - n - 1 proxymap
relay unix - - n - - smtp
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
local unix - n n - - local
virtual unix - n n - - virtual
lmtp unix - - n - - lmtp
tlsproxy unix - - n - 0 tlsproxy
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
";

/// A running instance.
#[derive(Debug)]
pub struct Postfix {
    dir: PathBuf,
}

impl Drop for Postfix {
    fn drop(&mut self) {
        let stop = Command::new("postfix").arg("-c").arg(&self.dir).arg("stop").output();
        if !stop.is_ok_and(|output| output.status.success()) {
            stop_by_pid_file(&self.pid_file());
        }
    }
}

impl Postfix {
    /// Writes its configuration below `dir` and starts it; it listens when this returns.
    pub fn start(dir: &Path, setup: &PostfixSetup) -> Self {
        make_public_dir(dir);
        make_public_dir(&dir.join("queue"));
        make_public_dir(&dir.join("data"));
        run(Command::new("chown").arg("postfix").arg(dir.join("data")));
        fs::write(dir.join("main.cf"), setup.main_cf(dir)).expect("write main.cf");
        fs::write(dir.join("master.cf"), setup.master_cf()).expect("write master.cf");
        run(setup.command(dir).arg("-c").arg(dir).arg("start"));
        Self { dir: dir.to_owned() }
    }

    /// Process id of its master.
    pub fn pid(&self) -> u32 {
        let text = fs::read_to_string(self.pid_file()).expect("a pid file");
        text.trim().parse().expect("a pid")
    }

    fn pid_file(&self) -> PathBuf {
        self.dir.join("queue/pid/master.pid")
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("maillog")).unwrap_or_default()
    }

    /// Asks it to try everything in its queue now.
    pub fn flush(&self) {
        run(Command::new("postqueue").arg("-c").arg(&self.dir).arg("-f"));
    }
}
