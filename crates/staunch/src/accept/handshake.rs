//! TLS with a client, and why there is none.

use std::io::{self, ErrorKind};

use smtp::RemoteText;
use tokio::time::timeout;

use super::peer::Peer;
use super::stream::{Socket, TlsStream};
use crate::accept::facts::AcceptFact;
use crate::accept::listener_view::ListenerView;
use crate::accept::timeouts::HANDSHAKE_TIMEOUT;
use crate::connect::tls::{self, Side};

/// Octets from the beginning up to the version that the client speaks at most, or pretends to (RFC
/// 8446 §4.1.2).
const HELLO_OCTETS: usize = 11;
/// The type of a record that a handshake begins with.
const HANDSHAKE_RECORD: u8 = 22;

/// `None`: it failed, or there is no certificate, which is in the log since it could not be read.
/// `received` was read already.
pub(super) async fn handshake(
    socket: Socket,
    view: &ListenerView,
    received: &[u8],
    peer: Peer,
) -> Option<TlsStream> {
    let config = view.certificate.as_ref()?.shown()?;
    let mut first = Vec::with_capacity(HELLO_OCTETS);
    let shaking = TlsStream::accept(socket, config, received, &mut first);
    let failure = match timeout(HANDSHAKE_TIMEOUT, shaking).await {
        Ok(Ok(tls)) => return Some(tls),
        Ok(Err(error)) => error,
        Err(_) => ErrorKind::TimedOut.into(),
    };
    let error = RemoteText::new(&why_not(&failure, &first));
    AcceptFact::HandshakeFailed { peer, error: &error }.tell();
    None
}

/// The failure of a handshake that began with these octets.
fn why_not(failure: &io::Error, first: &[u8]) -> String {
    let cause = failure.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let Some(cause) = cause else { return failure.to_string() };
    match *first {
        [HANDSHAKE_RECORD, _, _, _, _, _, _, _, _, 3, minor @ 0..=2] => {
            let version = ["SSL 3.0", "TLS 1.0", "TLS 1.1"].get(usize::from(minor));
            let version = version.copied().unwrap_or_default();
            format!("the client speaks {version} at most, TLS 1.2 and 1.3 are accepted")
        }
        [HANDSHAKE_RECORD, ..] => tls::described(cause, Side::Client),
        _ => "what the client says is no TLS; it may expect clear text on this port, and STARTTLS"
            .to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use rustls::PeerIncompatible;

    use super::*;

    #[test]
    fn a_failed_handshake_says_what_the_client_lacks() {
        let hello = |minor| [22, 3, 1, 1, 0, 1, 0, 0, 252, 3, minor];
        let no_suite = rustls::Error::PeerIncompatible(PeerIncompatible::NoKxGroupsInCommon);
        let cases = [
            (hello(0).to_vec(), "SSL 3.0 at most"),
            (hello(1).to_vec(), "TLS 1.0 at most"),
            (hello(2).to_vec(), "TLS 1.1 at most"),
            (hello(3).to_vec(), "no cipher suite in common with the client: of TLS 1.2 we have"),
            (hello(3)[..9].to_vec(), "no cipher suite in common with the client"),
            (b"EHLO c.exam".to_vec(), "is no TLS"),
        ];
        for (first, want) in cases {
            let failure = io::Error::new(ErrorKind::InvalidData, no_suite.clone());
            let text = why_not(&failure, &first);
            assert!(text.contains(want), "{text}");
        }
        let lost = why_not(&ErrorKind::UnexpectedEof.into(), &hello(1));
        assert!(lost.contains("end of file"), "{lost}");
    }
}
