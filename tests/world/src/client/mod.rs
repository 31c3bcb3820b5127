//! A small SMTP client for submitting to the daemon, polite or not: over TCP or a Unix socket, in
//! clear or in TLS.

mod auth;
mod trust;

pub use auth::Binding;
pub use trust::{ServerSeen, Trust};

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpSocket, TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use crate::log::LIMIT;

/// The client's name in EHLO.
const NAME: &str = "client.test";

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

/// Whatever bytes go through.
trait Duplex: AsyncRead + AsyncWrite + Send + Sync + Unpin + std::fmt::Debug {}
impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin + std::fmt::Debug> Duplex for T {}

/// A connection to the daemon's listener.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<Box<dyn Duplex>>,
    limit: Duration,
    keywords: Vec<String>,
    tls: Option<ServerSeen>,
}

impl Client {
    fn over(stream: impl Duplex + 'static) -> Self {
        let stream: Box<dyn Duplex> = Box::new(stream);
        Self { stream: BufReader::new(stream), limit: LIMIT, keywords: Vec::new(), tls: None }
    }

    /// Connects without waiting for the greeting.
    ///
    /// # Errors
    ///
    /// [`Closed`] if nobody listens.
    pub async fn dial(address: SocketAddr) -> Result<Self, Closed> {
        let stream = TcpStream::connect(address).await.map_err(|_| Closed)?;
        stream.set_nodelay(true).map_err(|_| Closed)?;
        Ok(Self::over(stream))
    }

    /// Connects from another of our addresses, such as 127.0.0.9: another client to the server.
    ///
    /// # Errors
    ///
    /// [`Closed`] if nobody listens.
    pub async fn dial_from(source: IpAddr, address: SocketAddr) -> Result<Self, Closed> {
        let socket = if source.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
        let socket = socket.expect("a socket");
        socket.bind(SocketAddr::new(source, 0)).expect("a loopback address");
        let stream = socket.connect(address).await.map_err(|_| Closed)?;
        stream.set_nodelay(true).map_err(|_| Closed)?;
        Ok(Self::over(stream))
    }

    /// Connects to a Unix socket without waiting for the greeting.
    ///
    /// # Errors
    ///
    /// [`Closed`] if nobody listens.
    pub async fn dial_unix(path: &Path) -> Result<Self, Closed> {
        Ok(Self::over(UnixStream::connect(path).await.map_err(|_| Closed)?))
    }

    /// Connects, reads the greeting and says EHLO.
    ///
    /// # Errors
    ///
    /// [`Closed`] if the server is not there or goes away.
    pub async fn hello(address: SocketAddr) -> Result<Self, Closed> {
        Self::dial(address).await?.greeted().await
    }

    /// Reads the greeting and says EHLO: the second half of [`Client::hello`] for a connection that
    /// was dialled in another way.
    ///
    /// # Errors
    ///
    /// [`Closed`] if the server goes away.
    pub async fn greeted(mut self) -> Result<Self, Closed> {
        self.reply().await?;
        self.ehlo().await?;
        Ok(self)
    }

    /// The TLS handshake, at once (implicit TLS) or after a 220 to STARTTLS; `name` is what we ask
    /// for. Says nothing afterwards.
    ///
    /// # Errors
    ///
    /// [`Closed`] if the handshake fails, for whatever reason.
    pub async fn secure(self, trust: &Trust, name: &str) -> Result<Self, Closed> {
        assert!(
            self.stream.buffer().is_empty(),
            "plaintext before TLS: {:?}",
            self.stream.buffer()
        );
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        let handshake = TlsConnector::from(trust.0.clone()).connect(name, self.stream.into_inner());
        let stream = tokio::time::timeout(self.limit, handshake)
            .await
            .unwrap_or_else(|_| panic!("no TLS within the limit"))
            .map_err(|_| Closed)?;
        let tls = Some(ServerSeen::of(stream.get_ref().1));
        Ok(Self { tls, limit: self.limit, ..Self::over(stream) })
    }

    /// STARTTLS, which must be answered 220, the handshake, and EHLO again.
    ///
    /// # Errors
    ///
    /// [`Closed`] if the handshake fails.
    pub async fn starttls(mut self, trust: &Trust, name: &str) -> Result<Self, Closed> {
        self.expect("STARTTLS", 220).await;
        let mut client = self.secure(trust, name).await?;
        client.ehlo().await?;
        Ok(client)
    }

    /// The handshake, if there was one.
    pub fn tls(&self) -> Option<&ServerSeen> {
        self.tls.as_ref()
    }

    /// EHLO; what the server offers is kept for [`Client::keyword`].
    ///
    /// # Errors
    ///
    /// [`Closed`] if the server went away.
    pub async fn ehlo(&mut self) -> Result<SmtpReply, Closed> {
        let reply = self.command(&format!("EHLO {NAME}")).await?;
        self.keywords = reply.lines.iter().skip(1).cloned().collect();
        Ok(reply)
    }

    /// The parameters of a keyword in the last EHLO reply, empty if it has none; `None` if it was
    /// not offered.
    pub fn keyword(&self, keyword: &str) -> Option<&str> {
        self.keywords.iter().find_map(|line| {
            let (name, parameters) = line.split_once(' ').unwrap_or((line, ""));
            name.eq_ignore_ascii_case(keyword).then_some(parameters)
        })
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    ///
    /// [`Closed`] if the server went away.
    pub async fn send(&mut self, bytes: &[u8]) -> Result<(), Closed> {
        let stream = self.stream.get_mut();
        stream.write_all(bytes).await.map_err(|_| Closed)?;
        stream.flush().await.map_err(|_| Closed)
    }

    /// Sends bytes in pieces of at most `size`, each a write (and a TLS record) of its own.
    ///
    /// # Errors
    ///
    /// [`Closed`] if the server went away.
    pub async fn send_split(&mut self, bytes: &[u8], size: usize) -> Result<(), Closed> {
        for piece in bytes.chunks(size) {
            self.send(piece).await?;
            // The reader has its turn between two pieces, so that it sees them as two.
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// One chunk (RFC 3030 §2); the content needs no dot-stuffing.
    ///
    /// # Errors
    ///
    /// [`Closed`] if the server went away.
    pub async fn bdat(&mut self, chunk: &[u8], last: bool) -> Result<SmtpReply, Closed> {
        let last = if last { " LAST" } else { "" };
        self.send(&[format!("BDAT {}{last}\r\n", chunk.len()).as_bytes(), chunk].concat()).await?;
        self.reply().await
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

    /// Everything that the server still says before it closes, be it SMTP or not.
    pub async fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        let read = tokio::time::timeout(self.limit, self.stream.read_to_end(&mut rest)).await;
        // A connection that is reset ends, too.
        let _ended = read.expect("the server does not close");
        rest
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
