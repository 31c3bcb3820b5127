//! `[[listener]]` and `[submit]`: where mail comes in, and with which protection.

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::checker::Checker;
use super::{Prefix, file};

/// Longest path of a Unix socket: `sun_path` has 108 bytes with the final NUL (unix(7)).
const SOCKET_PATH_MAX: usize = 107;
/// Longest name of a descriptor (systemd.socket(5), `FileDescriptorName=`).
const SYSTEMD_NAME_MAX: usize = 255;

#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Listener {
    /// Where its socket comes from.
    pub(crate) address: ListenAddress,
    /// Who talks to it, and how.
    pub(crate) mode: ListenerMode,
    /// What clients are shown under TLS; always there where the mode needs it.
    pub(crate) tls: Option<TlsIdentity>,
    /// Who speaks the PROXY protocol, and must.
    pub(crate) proxy_protocol_from: Vec<Prefix>,
    /// What happens to lines that end in a bare CR or LF.
    pub(crate) bare_newline: BareNewlines,
    /// Is REQUIRETLS offered under TLS (RFC 8689)?
    pub(crate) require_tls: bool,
    /// What becomes of messages without Date or Message-ID?
    pub(crate) missing_headers: MissingHeaders,
    /// What does Received say of where a user is?
    pub(crate) client_in_received: ClientInReceived,
    /// Built in rather than written: a host without this address family goes on without it.
    pub(crate) is_default: bool,
}

/// `listener.address`. `Display` writes it as the operator does.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum ListenAddress {
    /// Port 0 lets the system choose; the chosen one is logged.
    Tcp(SocketAddr),
    /// `unix:`, short enough for a socket's name.
    Unix(PathBuf),
    /// `systemd:`, a socket that the service manager opened under this name.
    Systemd(Box<str>),
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Systemd(name) => write!(f, "systemd:{name}"),
        }
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum ListenerMode {
    /// By network; STARTTLS is offered if there is a certificate.
    Relay,
    /// By AUTH after STARTTLS (RFC 6409, RFC 8314 §3.3).
    Submission,
    /// By AUTH, under TLS from the first octet on (RFC 8314 §3.3).
    Submissions,
}

impl ListenerMode {
    /// Is it for those who log in?
    pub(crate) fn is_for_users(self) -> bool {
        match self {
            Self::Relay => false,
            Self::Submission | Self::Submissions => true,
        }
    }
}

/// `listener.bare_newline`: what becomes of CR or LF alone (RFC 5321 §2.3.8).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum BareNewlines {
    /// 550 5.5.2 after the true end of the data.
    Reject,
    /// Made CRLF before dots are looked at.
    Normalize,
}

/// `listener.add_missing_headers`: what becomes of mail without Date or Message-ID.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum MissingHeaders {
    /// They are added (RFC 5321 §6.4, RFC 6409 §8).
    Added,
    /// Mail goes on with the fields that it has.
    Left,
}

/// `listener.hide_client`: what Received says of where a user is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum ClientInReceived {
    /// Name and address, as RFC 5321 §4.4 wants it.
    Shown,
    /// Of a user who has logged in nothing: the message's id leads to it in our log.
    Hidden,
}

/// `listener.tls_certificate` and `listener.tls_key`: who we are to clients. Files in PEM form.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct TlsIdentity {
    /// Our certificate, then those that lead to a trust anchor.
    pub(crate) certificate: PathBuf,
    /// The private key of the first certificate.
    pub(crate) key: PathBuf,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Submit {
    /// Where programs of this machine hand in mail.
    pub(crate) socket: PathBuf,
    /// More aliases, in the form of /etc/aliases; `[aliases]` stand before them.
    pub(crate) aliases_file: Option<PathBuf>,
}

/// Who named the listeners.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum ListenersFrom {
    /// No `[[listener]]` was written: loopback, port 2525.
    BuiltIn,
    /// The operator wrote at least one `[[listener]]`.
    Written,
}

impl Checker {
    pub(super) fn listeners(
        &mut self,
        written: &[file::ListenerTable],
        from: ListenersFrom,
    ) -> Vec<Listener> {
        let is_default = from == ListenersFrom::BuiltIn;
        let mut seen = BTreeSet::new();
        let mut listeners = Vec::new();
        for (index, listener) in written.iter().enumerate() {
            let key = |name| format!("listener[{index}].{name}");
            let address = self.parsed(&key("address"), &listener.address, listen_address);
            let mode = self.listed(&key("mode"), &listener.mode, ListenerMode::Relay);
            let tls = self.identity(&key, listener, mode);
            let from = &listener.proxy_protocol_from;
            let proxy_protocol_from = self.all(&key("proxy_protocol_from"), from, Prefix::parse);
            let bare_newline =
                self.listed(&key("bare_newline"), &listener.bare_newline, BareNewlines::Reject);
            let Some(address) = address else { continue };
            let is_shared = matches!(&address, ListenAddress::Tcp(tcp) if tcp.port() == 0);
            if !is_shared && !seen.insert(address.clone()) {
                self.wrong(key("address"), &listener.address, "listened on twice");
            }
            if let Some(other) = seen.iter().find(|other| overlap(&address, other)) {
                let reason =
                    format!("overlaps {other}, and the system lets only one of them listen");
                self.wrong(key("address"), &listener.address, &reason);
            }
            if matches!(address, ListenAddress::Unix(_)) && !proxy_protocol_from.is_empty() {
                let reason = "clients of a unix socket have no address that could be listed here";
                self.finding(key("proxy_protocol_from"), reason.into());
            }
            if listener.require_tls && tls.is_none() {
                let reason =
                    "REQUIRETLS is offered under TLS only: set tls_certificate and tls_key";
                self.finding(key("require_tls"), reason.into());
            }
            if listener.hide_client && mode == ListenerMode::Relay {
                let reason = "only for users who have logged in: not in mode \"relay\"";
                self.finding(key("hide_client"), reason.into());
            }
            listeners.push(Listener {
                address,
                mode,
                tls,
                proxy_protocol_from,
                bare_newline,
                require_tls: listener.require_tls,
                missing_headers: if listener.add_missing_headers {
                    MissingHeaders::Added
                } else {
                    MissingHeaders::Left
                },
                client_in_received: if listener.hide_client {
                    ClientInReceived::Hidden
                } else {
                    ClientInReceived::Shown
                },
                is_default,
            });
        }
        listeners
    }

    /// Both files or none, and both where the mode promises TLS.
    fn identity(
        &mut self,
        key: &impl Fn(&'static str) -> String,
        listener: &file::ListenerTable,
        mode: ListenerMode,
    ) -> Option<TlsIdentity> {
        let files = (listener.tls_certificate.as_str(), listener.tls_key.as_str());
        let reason = match files {
            ("", "") if mode.is_for_users() => {
                let reason = format!(
                    "mode {:?} needs a certificate, since nobody may log in without TLS: \
                     set tls_certificate and tls_key",
                    listener.mode
                );
                self.finding(key("mode"), reason);
                return None;
            }
            ("", "") => return None,
            ("", _) => Some(("tls_certificate", "tls_key needs its certificate: set this, too")),
            (_, "") => Some(("tls_key", "tls_certificate needs its key: set this, too")),
            (_, _) => None,
        };
        if let Some((name, reason)) = reason {
            self.finding(key(name), reason.into());
            return None;
        }
        Some(TlsIdentity {
            certificate: self.path(&key("tls_certificate"), files.0),
            key: self.path(&key("tls_key"), files.1),
        })
    }

    pub(super) fn submit(&mut self, written: &file::SubmitTable) -> Submit {
        Submit {
            socket: self.socket("submit.socket", &written.socket),
            aliases_file: self.optional_path("submit.aliases_file", &written.aliases_file),
        }
    }

    /// The path of a socket.
    pub(super) fn socket(&mut self, key: &str, text: &str) -> PathBuf {
        if let Err(reason) = is_short(text) {
            self.wrong(key.into(), text, reason);
        }
        self.path(key, text)
    }
}

fn listen_address(text: &str) -> Result<ListenAddress, String> {
    if let Some(path) = text.strip_prefix("unix:") {
        is_short(path)?;
        if !path.starts_with('/') || path.contains(char::is_control) {
            return Err("not an absolute path behind unix:".into());
        }
        return Ok(ListenAddress::Unix(path.into()));
    }
    if let Some(name) = text.strip_prefix("systemd:") {
        let is_name = (1..=SYSTEMD_NAME_MAX).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':');
        return if is_name {
            Ok(ListenAddress::Systemd(name.into()))
        } else {
            Err("not a name as in FileDescriptorName= of a socket unit".into())
        };
    }
    text.parse().map(ListenAddress::Tcp).map_err(|_| {
        "not an address and port like 127.0.0.1:2525 or [::1]:2525, and not unix:/PATH or \
         systemd:NAME"
            .into()
    })
}

fn is_short(path: &str) -> Result<(), String> {
    if path.len() <= SOCKET_PATH_MAX {
        return Ok(());
    }
    Err(format!("longer than {SOCKET_PATH_MAX} bytes, which a socket's name ends at"))
}

/// Would the system refuse the second of them, since the first is for all addresses?
fn overlap(one: &ListenAddress, other: &ListenAddress) -> bool {
    let (ListenAddress::Tcp(one), ListenAddress::Tcp(other)) = (one, other) else { return false };
    let is_for_all = one.ip().is_unspecified() != other.ip().is_unspecified();
    is_for_all && one.port() == other.port() && one.is_ipv4() == other.is_ipv4()
}
