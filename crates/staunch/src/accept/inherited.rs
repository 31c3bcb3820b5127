//! Sockets that the service manager opened for us (`sd_listen_fds(3)`), by their names.
//!
//! They stay open for as long as the daemon runs, so that a listener that is taken out of the
//! configuration can come back.

use std::io::{self, ErrorKind};
use std::net;
use std::os::unix;

use listenfd::ListenFd;

/// What the manager calls a socket that has no name.
const NAMELESS: &str = "unknown";

/// One listening socket, of the two kinds that clients come in through.
#[derive(Debug)]
pub(super) enum InheritedSocket {
    Tcp(net::TcpListener),
    Unix(unix::net::UnixListener),
}

/// The stream sockets that the service manager passed; several may share one name.
#[derive(Debug, Default)]
pub(crate) struct Inherited {
    sockets: Vec<(String, InheritedSocket)>,
}

impl Inherited {
    /// Takes them from the environment. To be called once, before there are other threads: it takes
    /// the variables away, so that no child believes that they are meant for it.
    pub(crate) fn from_environment() -> Self {
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut passed = ListenFd::from_env();
        let mut names = names.split(':');
        let mut sockets = Vec::new();
        for index in 0..passed.len() {
            let name = names.next().filter(|name| !name.is_empty()).unwrap_or(NAMELESS);
            let tcp = passed.take_tcp_listener(index).map(|taken| taken.map(InheritedSocket::Tcp));
            let taken = tcp.or_else(|_| {
                passed.take_unix_listener(index).map(|taken| taken.map(InheritedSocket::Unix))
            });
            if let Ok(Some(socket)) = taken {
                sockets.push((name.to_owned(), socket));
            }
        }
        Self { sockets }
    }

    /// Those of this name; they can be asked for again.
    ///
    /// # Errors
    ///
    /// There is none, and what there is instead.
    pub(super) fn named(&self, name: &str) -> io::Result<Vec<InheritedSocket>> {
        let mut named = Vec::new();
        for (_, socket) in self.sockets.iter().filter(|(of, _)| of == name) {
            named.push(match socket {
                InheritedSocket::Tcp(socket) => InheritedSocket::Tcp(socket.try_clone()?),
                InheritedSocket::Unix(socket) => InheritedSocket::Unix(socket.try_clone()?),
            });
        }
        if !named.is_empty() {
            return Ok(named);
        }
        let text = if self.sockets.is_empty() {
            "the service manager passed no stream sockets: enable a socket unit with \
             FileDescriptorName= and Service=staunch.service"
                .to_owned()
        } else {
            let names: Vec<&str> = self.sockets.iter().map(|(name, _)| name.as_str()).collect();
            format!(
                "the service manager passed no stream socket named {name:?}, but {}: \
                 see FileDescriptorName= in the socket unit",
                names.join(", ")
            )
        };
        Err(io::Error::new(ErrorKind::NotFound, text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_found_by_name_again_and_again_and_a_missing_one_is_named() {
        let tcp = || InheritedSocket::Tcp(net::TcpListener::bind("127.0.0.1:0").unwrap());
        let sockets = vec![("smtp".into(), tcp()), ("smtp".into(), tcp()), ("alt".into(), tcp())];
        let inherited = Inherited { sockets };
        for _ in 0..2 {
            assert_eq!(inherited.named("smtp").unwrap().len(), 2);
        }
        let text = inherited.named("smtps").unwrap_err().to_string();
        assert!(text.contains("\"smtps\", but smtp, smtp, alt"), "{text}");
        let text = Inherited::default().named("smtp").unwrap_err().to_string();
        assert!(text.contains("enable a socket unit"), "{text}");
    }
}
