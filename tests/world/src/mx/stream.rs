//! The byte stream of a connection, before and after STARTTLS, with its buffers.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

pub(super) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    /// In the hands of a TLS handshake.
    Gone,
}

/// A stream with what was read and not yet used, and what is to be written.
pub(super) struct Wire {
    pub(super) stream: Stream,
    input: BytesMut,
    output: Vec<u8>,
    /// Between the octets of what is queued.
    pause: Option<Duration>,
}

impl Wire {
    pub(super) fn new(stream: Stream) -> Self {
        Self { stream, input: BytesMut::new(), output: Vec::new(), pause: None }
    }

    /// Queues a reply; it is sent with the next read, so that pipelined commands are answered
    /// together.
    pub(super) fn queue(&mut self, reply: &str) {
        self.output.extend(reply.bytes());
        self.output.extend(b"\r\n");
    }

    pub(super) async fn flush(&mut self) -> io::Result<()> {
        let output = std::mem::take(&mut self.output);
        let Some(pause) = self.pause.take() else { return self.write(&output).await };
        for octet in output {
            tokio::time::sleep(pause).await;
            self.write(&[octet]).await?;
        }
        Ok(())
    }

    async fn write(&mut self, output: &[u8]) -> io::Result<()> {
        match &mut self.stream {
            Stream::Gone => Ok(()),
            Stream::Plain(stream) => stream.write_all(output).await,
            Stream::Tls(stream) => {
                stream.write_all(output).await?;
                stream.flush().await
            }
        }
    }

    /// Reads more; an error at the end of the stream.
    pub(super) async fn fill(&mut self) -> io::Result<()> {
        self.flush().await?;
        let count = match &mut self.stream {
            Stream::Gone => 0,
            Stream::Plain(stream) => stream.read_buf(&mut self.input).await?,
            Stream::Tls(stream) => stream.read_buf(&mut self.input).await?,
        };
        if count == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }

    /// The next line without its CRLF.
    pub(super) async fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = memchr::memmem::find(&self.input, b"\r\n") {
                let line = self.input.split_to(end + 2);
                return Ok(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            self.fill().await?;
        }
    }

    /// The next flush sends one octet after each pause.
    pub(super) fn drip_next(&mut self, pause: Duration) {
        self.pause = Some(pause);
    }

    /// The next octets, as many as said.
    pub(super) async fn octets(&mut self, count: usize) -> io::Result<Vec<u8>> {
        while self.input.len() < count {
            self.fill().await?;
        }
        Ok(self.input.split_to(count).to_vec())
    }

    /// Everything up to the end of data, dots unstuffed (RFC 5321 §4.5.2).
    pub(super) async fn data(&mut self) -> io::Result<Vec<u8>> {
        const END: &[u8] = b"\r\n.\r\n";
        let mut searched = 0;
        loop {
            if self.input.starts_with(b".\r\n") {
                let _ = self.input.split_to(3);
                return Ok(Vec::new());
            }
            if let Some(at) = memchr::memmem::find(&self.input[searched..], END) {
                let stuffed = self.input.split_to(searched + at + END.len());
                return Ok(unstuff(&stuffed[..stuffed.len() - 3]));
            }
            searched = self.input.len().saturating_sub(END.len());
            self.fill().await?;
        }
    }
}

fn unstuff(stuffed: &[u8]) -> Vec<u8> {
    let mut content = Vec::with_capacity(stuffed.len());
    let mut from = usize::from(stuffed.starts_with(b"."));
    for at in memchr::memmem::find_iter(stuffed, b"\r\n.") {
        content.extend(&stuffed[from..at + 2]);
        from = at + 3;
    }
    content.extend(&stuffed[from..]);
    content
}

#[cfg(test)]
mod tests {
    use super::unstuff;

    #[test]
    fn one_dot_is_taken_from_each_line_that_starts_with_one() {
        assert_eq!(unstuff(b"..a\r\nb.\r\n..\r\n...c\r\n"), b".a\r\nb.\r\n.\r\n..c\r\n");
    }
}
