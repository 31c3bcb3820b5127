//! Could the daemon have the addresses of its listeners, now and on this machine?
//!
//! Addresses are bound for a moment, and never listened at. A daemon that runs already has them and
//! frees them for the next start: that is no mistake.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;

use crate::accept::bind::{self, UNPRIVILEGED_PORTS};
use crate::config::{ConfigProblem, ListenAddress, Loaded};
use crate::daemon::start_findings::{CheckUser, RunningDaemon, StartFindings};

/// From which port on nobody needs a right (ip(7)).
const FIRST_FREE_PORT: &str = "/proc/sys/net/ipv4/ip_unprivileged_port_start";
/// What lives here is made at a start, by the service manager.
const MADE_AT_START: &str = "/run";

/// What became of a try to bind an address.
#[derive(Debug, Eq, PartialEq)]
enum AddressFinding {
    Fine,
    /// The system has no such family, which is forgiven if another listener is there.
    FamilyMissing(String),
    Tolerated(String),
    Fatal(String),
}

/// What the machine says to the address of a listener.
struct TriedAddress<'a> {
    address: SocketAddr,
    result: io::Result<()>,
    running: &'a RunningDaemon,
    asker: CheckUser,
    /// From which port on nobody needs a right.
    first_free: u16,
}

/// Looks at all listeners, and at the sockets that have a path.
pub(crate) fn look(loaded: &Loaded, running: &RunningDaemon, asker: CheckUser) -> StartFindings {
    let mut found = StartFindings::default();
    let mut missing = Vec::new();
    let first_free = first_free_port();
    let listeners = &loaded.config.listeners;
    for (index, listener) in listeners.iter().enumerate() {
        let key = format!("listener[{index}].address");
        let address = match &listener.address {
            ListenAddress::Tcp(address) => *address,
            ListenAddress::Unix(path) => {
                look_at_path(loaded, (&key, "unix:"), path, &mut found);
                continue;
            }
            // Only the service manager knows.
            ListenAddress::Systemd(_) => continue,
        };
        let result = bind::try_address(address);
        let problem = |reason: String| loaded.problem(&key, format!("\"{address}\": {reason}"));
        match (TriedAddress { address, result, running, asker, first_free }).judge() {
            AddressFinding::Fine => {}
            AddressFinding::FamilyMissing(reason) if listener.is_default => {
                missing.push(problem(reason));
            }
            AddressFinding::FamilyMissing(reason) | AddressFinding::Fatal(reason) => {
                found.fatal.push(problem(reason));
            }
            AddressFinding::Tolerated(reason) => found.tolerated.push(problem(reason)),
        }
    }
    // The built-in listener of a family that the system lacks is left out, but not both.
    if missing.len() == listeners.len() {
        found.fatal.append(&mut missing);
    }
    look_at_path(loaded, ("admin.socket", ""), &loaded.config.admin.socket, &mut found);
    look_at_path(loaded, ("submit.socket", ""), &loaded.config.submit.socket, &mut found);
    found
}

impl TriedAddress<'_> {
    fn judge(&self) -> AddressFinding {
        let (address, running) = (self.address, self.running);
        if let RunningDaemon::Listening(own) = running
            && own.contains(&address)
        {
            return AddressFinding::Fine;
        }
        let Err(error) = &self.result else { return self.judge_right() };
        let reason = format!("{error}{}", bind::hint(address, error));
        match (error.kind(), running) {
            (ErrorKind::AddrInUse, RunningDaemon::Listening(own))
                if own.iter().any(|own| is_in_the_way(*own, address)) =>
            {
                let text = "the running daemon has it as part of another listener: no reload is \
                            accepted, restart it";
                AddressFinding::Tolerated(text.into())
            }
            (ErrorKind::AddrInUse, RunningDaemon::Unknown(why)) => {
                AddressFinding::Tolerated(format!(
                    "in use: by the daemon, or by another program, and then it does not start; \
                     the daemon cannot be asked: {why}"
                ))
            }
            (ErrorKind::PermissionDenied, _) if self.asker.is_another() => {
                AddressFinding::Tolerated(format!(
                    "{reason}; the user of the daemon needs that right"
                ))
            }
            _ if bind::is_family_missing(error) => AddressFinding::FamilyMissing(reason),
            _ => AddressFinding::Fatal(reason),
        }
    }

    /// The address can be had; also by the daemon, if that is another user?
    fn judge_right(&self) -> AddressFinding {
        let is_low = (1..self.first_free.min(UNPRIVILEGED_PORTS)).contains(&self.address.port());
        match self.asker {
            CheckUser::Other { owner } if is_low && owner != 0 => {
                AddressFinding::Tolerated(format!(
                    "user id {owner}, the owner of data_dir, needs CAP_NET_BIND_SERVICE for ports below \
                 1024, or the daemon does not start; without it: address = \"systemd:smtp\" and \
                 deploy/staunch.socket"
                ))
            }
            CheckUser::Other { .. } | CheckUser::Daemon => AddressFinding::Fine,
        }
    }
}

/// Does a socket at `own` keep another one from `address`?
fn is_in_the_way(own: SocketAddr, address: SocketAddr) -> bool {
    let is_for_all = own.ip().is_unspecified() || address.ip().is_unspecified();
    own.port() == address.port() && (is_for_all || own.ip() == address.ip())
}

fn first_free_port() -> u16 {
    let text = std::fs::read_to_string(FIRST_FREE_PORT).unwrap_or_default();
    text.trim().parse().unwrap_or(UNPRIVILEGED_PORTS)
}

/// A socket can be made in a directory that is there; `data_dir` is made if it is not.
fn look_at_path(
    loaded: &Loaded,
    (key, scheme): (&str, &str),
    path: &Path,
    found: &mut StartFindings,
) {
    let problem = |reason: &str| -> ConfigProblem {
        loaded.problem(key, format!("{:?}: {reason}", format!("{scheme}{}", path.display())))
    };
    if let Ok(there) = std::fs::symlink_metadata(path) {
        if !there.file_type().is_socket() {
            found.fatal.push(problem("something else than a socket is there"));
        }
        return;
    }
    let Some(directory) = path.parent() else { return };
    if directory.exists() || directory == loaded.config.data_dir {
        return;
    }
    let reason = format!("the directory {} is not there", directory.display());
    if path.starts_with(MADE_AT_START) {
        let text = "; systemd makes it with RuntimeDirectory=, else the daemon does not start";
        found.tolerated.push(problem(&(reason + text)));
    } else {
        found.fatal.push(problem(&reason));
    }
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    fn judged(
        address: &str,
        errno: Option<Errno>,
        running: &RunningDaemon,
        asker: CheckUser,
    ) -> AddressFinding {
        let result = errno.map_or(Ok(()), |errno| Err(io::Error::from(errno)));
        let address = address.parse().unwrap();
        TriedAddress { address, result, running, asker, first_free: 1024 }.judge()
    }

    #[test]
    fn what_ends_a_start_is_an_error_and_what_this_user_cannot_know_a_warning() {
        let (none, unknown) = (RunningDaemon::None, RunningDaemon::Unknown("no answer".into()));
        let own = RunningDaemon::Listening(vec!["192.0.2.1:2525".parse().unwrap()]);
        let (daemon, other) = (CheckUser::Daemon, CheckUser::Other { owner: 999 });
        let (in_use, access) = (Some(Errno::ADDRINUSE), Some(Errno::ACCESS));
        let cases = [
            ("192.0.2.1:2525", None, &none, daemon, "fine"),
            ("192.0.2.1:2525", in_use, &none, daemon, "fatal: another program listens"),
            ("192.0.2.1:2525", in_use, &own, daemon, "fine"),
            ("192.0.2.1:2525", in_use, &own, other, "fine"),
            ("192.0.2.1:2526", in_use, &own, daemon, "fatal: another program listens"),
            ("192.0.2.2:2525", in_use, &own, daemon, "fatal: another program listens"),
            ("0.0.0.0:2525", in_use, &own, daemon, "tolerated: restart"),
            (
                "192.0.2.1:2525",
                in_use,
                &unknown,
                other,
                "tolerated: the daemon cannot be asked: no answer",
            ),
            ("192.0.2.1:25", access, &none, daemon, "fatal: systemd:smtp"),
            ("192.0.2.1:25", access, &none, other, "tolerated: systemd:smtp"),
            ("192.0.2.1:25", None, &none, daemon, "fine"),
            ("192.0.2.1:25", None, &none, other, "tolerated: user id 999"),
            ("192.0.2.1:25", None, &none, CheckUser::Other { owner: 0 }, "fine"),
            ("192.0.2.1:0", None, &none, other, "fine"),
            (
                "192.0.2.1:2525",
                Some(Errno::ADDRNOTAVAIL),
                &none,
                daemon,
                "missing: no address of this machine",
            ),
            ("[::1]:2525", Some(Errno::AFNOSUPPORT), &none, daemon, "missing: no IPv6"),
            ("192.0.2.1:2525", Some(Errno::MFILE), &none, daemon, "fatal: "),
        ];
        for (address, errno, running, asker, want) in cases {
            let (kind, text) = match judged(address, errno, running, asker) {
                AddressFinding::Fine => ("fine", String::new()),
                AddressFinding::FamilyMissing(text) => ("missing", text),
                AddressFinding::Tolerated(text) => ("tolerated", text),
                AddressFinding::Fatal(text) => ("fatal", text),
            };
            let (want_kind, want_text) = want.split_once(": ").unwrap_or((want, ""));
            assert_eq!(kind, want_kind, "{address} {errno:?} {running:?} {asker:?}: {text}");
            assert!(text.contains(want_text), "{address} {errno:?}: {text}");
        }
    }
}
