//! The end of a connection: our last word is to be read.

use std::io::{self, ErrorKind};
use std::time::Duration;

use tokio::time::timeout;

use super::stream::{ClientStream, READ_OCTETS};

/// After our last word: how long, and for how many octets, the client is still listened to. Closing
/// with input unread would make the system take the last word back (RFC 9293 §3.6.1).
pub(super) const LINGER: Duration = Duration::from_secs(2);
const LINGER_OCTETS: usize = 256 * 1024;

/// Closes so that the client gets to read our last word.
pub(super) async fn leave(stream: &mut ClientStream) -> io::Result<()> {
    let listen = async {
        stream.shutdown().await?;
        // Under TLS, too, only what the socket has: what comes now is nobody's, and the library
        // fails hard where it should answer a damaged record with an alert after it has said that
        // it closes.
        let socket = stream.socket();
        let mut scrap = Vec::new();
        let mut read = 0;
        while read < LINGER_OCTETS {
            socket.readable().await?;
            scrap.clear();
            scrap.reserve_exact(READ_OCTETS);
            match socket.try_read_buf(&mut scrap) {
                Ok(0) => break,
                Ok(octets) => read += octets,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    };
    timeout(LINGER, listen).await.unwrap_or(Ok(()))
}
