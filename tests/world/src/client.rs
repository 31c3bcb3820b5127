//! A small SMTP client for submitting to the daemon, polite or not.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::log::LIMIT;

/// A reply of the server.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SmtpReply {
    /// The three digits.
    pub code: u16,
    /// The lines without code and separator.
    pub lines: Vec<String>,
}

impl SmtpReply {
    /// All lines, separated by a space.
    pub fn text(&self) -> String {
        self.lines.join(" ")
    }
}

/// The other side closed, or the connection broke.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Closed;

/// A connection to the daemon's listener.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<TcpStream>,
    limit: Duration,
}

impl Client {
    /// Connects without waiting for the greeting.
    ///
    /// # Errors
    ///
    /// [`Closed`] if nobody listens.
    pub async fn dial(address: SocketAddr) -> Result<Self, Closed> {
        let stream = TcpStream::connect(address).await.map_err(|_| Closed)?;
        stream.set_nodelay(true).map_err(|_| Closed)?;
        Ok(Self { stream: BufReader::new(stream), limit: LIMIT })
    }

    /// Connects, reads the greeting and says EHLO.
    ///
    /// # Errors
    ///
    /// [`Closed`] if the server is not there or goes away.
    pub async fn hello(address: SocketAddr) -> Result<Self, Closed> {
        let mut client = Self::dial(address).await?;
        client.reply().await?;
        client.command("EHLO client.test").await?;
        Ok(client)
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    ///
    /// [`Closed`] if the server went away.
    pub async fn send(&mut self, bytes: &[u8]) -> Result<(), Closed> {
        self.stream.get_mut().write_all(bytes).await.map_err(|_| Closed)
    }

    /// Ends our direction of the connection.
    ///
    /// # Errors
    ///
    /// [`Closed`] if the server went away.
    pub async fn shutdown(&mut self) -> Result<(), Closed> {
        self.stream.get_mut().shutdown().await.map_err(|_| Closed)
    }

    /// Reads one reply.
    ///
    /// # Errors
    ///
    /// [`Closed`] if the server went away before its end.
    pub async fn reply(&mut self) -> Result<SmtpReply, Closed> {
        let mut lines = Vec::new();
        loop {
            let mut line = Vec::new();
            let read = self.stream.read_until(b'\n', &mut line);
            let count = tokio::time::timeout(self.limit, read)
                .await
                .unwrap_or_else(|_| panic!("no reply within the limit; so far {lines:?}"))
                .map_err(|_| Closed)?;
            if count == 0 {
                return Err(Closed);
            }
            assert!(line.ends_with(b"\r\n"), "a reply line ends with CRLF: {line:?}");
            let line = String::from_utf8(line).expect("a reply is text");
            let line = line.trim_end();
            assert!(line.len() >= 3, "a reply line has a code: {line:?}");
            let code = line[..3].parse().expect("a reply line has a code");
            lines.push(line.get(4..).unwrap_or_default().to_owned());
            if line.as_bytes().get(3) != Some(&b'-') {
                return Ok(SmtpReply { code, lines });
            }
        }
    }

    /// Sends a command line and reads its reply.
    ///
    /// # Errors
    ///
    /// [`Closed`] if the server went away.
    pub async fn command(&mut self, line: &str) -> Result<SmtpReply, Closed> {
        self.send(format!("{line}\r\n").as_bytes()).await?;
        self.reply().await
    }

    /// Sends a command and insists on its code.
    pub async fn expect(&mut self, line: &str, code: u16) -> SmtpReply {
        let reply = self.command(line).await.unwrap_or_else(|Closed| panic!("closed after {line}"));
        assert_eq!(reply.code, code, "{line} was answered {reply:?}");
        reply
    }

    /// One transaction; `content` is header and body with CRLF, not yet dot-stuffed. The reply that
    /// ended it: to the end of data, or the first refusal before.
    ///
    /// # Errors
    ///
    /// [`Closed`] if the server went away; whether it kept the message is unknown then.
    pub async fn transact(
        &mut self,
        from: &str,
        to: &[&str],
        content: &[u8],
    ) -> Result<SmtpReply, Closed> {
        let mut commands = vec![format!("MAIL FROM:<{from}>")];
        commands.extend(to.iter().map(|to| format!("RCPT TO:<{to}>")));
        for command in commands {
            let reply = self.command(&command).await?;
            if reply.code >= 400 {
                return Ok(reply);
            }
        }
        let reply = self.command("DATA").await?;
        if reply.code != 354 {
            return Ok(reply);
        }
        self.send(&stuff(content)).await?;
        self.reply().await
    }

    /// Whether the server closes now, without a further word.
    pub async fn is_closed(&mut self) -> bool {
        let mut rest = Vec::new();
        let read = self.stream.read_until(b'\n', &mut rest);
        matches!(tokio::time::timeout(self.limit, read).await, Ok(Ok(0) | Err(_)))
    }
}

/// Dot-stuffs content and adds the end of data (RFC 5321 §4.5.2).
pub fn stuff(content: &[u8]) -> Vec<u8> {
    let mut stuffed = Vec::with_capacity(content.len() + 16);
    for line in content.split_inclusive(|byte| *byte == b'\n') {
        if line.starts_with(b".") {
            stuffed.push(b'.');
        }
        stuffed.extend(line);
    }
    if !stuffed.is_empty() && !stuffed.ends_with(b"\r\n") {
        stuffed.extend(b"\r\n");
    }
    stuffed.extend(b".\r\n");
    stuffed
}

/// A small message with a subject and a body line.
pub fn message(from: &str, to: &str, body: &str) -> Vec<u8> {
    format!(
        "From: <{from}>\r\nTo: <{to}>\r\nSubject: {body}\r\nDate: Mon, 02 Mar 2026 10:00:00 +0000\r\n\
         Message-ID: <{body}@client.test>\r\n\r\n{body}\r\n",
        body = body.replace(' ', "-")
    )
    .into_bytes()
}
