//! One connection to a scripted host.

use std::io;

use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::script::{Greeting, Starttls, Then};
use super::stream::{Stream, Wire};
use super::{Received, Shared, starts_with};
use crate::log::lock;
use crate::tls::{self, TlsSeen};

/// What the session does after a command.
enum Next {
    Continue,
    Close,
}

struct Session<'a> {
    shared: &'a Shared,
    wire: Wire,
    number: usize,
    helo: String,
    tls: Option<TlsSeen>,
    from: Option<(String, String)>,
    to: Vec<String>,
}

/// Serves one connection to its end.
pub(super) async fn run(stream: TcpStream, shared: &Shared, number: usize) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut session = Session {
        shared,
        wire: Wire::new(Stream::Plain(stream)),
        number,
        helo: String::new(),
        tls: None,
        from: None,
        to: Vec::new(),
    };
    let greeting = lock(&shared.script).greeting.clone();
    match greeting {
        Greeting::Good => session.wire.queue(&format!("220 {} ESMTP scripted", shared.host)),
        Greeting::Reply(reply) => session.wire.queue(&reply),
        Greeting::Close => return Ok(()),
        Greeting::Silent => loop {
            session.wire.fill().await?;
        },
    }
    loop {
        let line = session.wire.line().await?;
        shared.commands.push(line.clone());
        if let Next::Close = session.command(&line).await? {
            return session.wire.flush().await;
        }
    }
}

impl Session<'_> {
    async fn command(&mut self, line: &str) -> io::Result<Next> {
        let Some(reply) = self.ruled(line).await? else { return Ok(Next::Close) };
        let is_refused = reply.as_deref().is_some_and(|reply| !reply.starts_with(['2', '3']));
        if let (Some(reply), true) = (&reply, is_refused) {
            self.wire.queue(reply);
            return Ok(Next::Continue);
        }
        let verb = line.split(' ').next().unwrap_or_default().to_ascii_uppercase();
        let usual = match verb.as_str() {
            "EHLO" => self.ehlo(line),
            "HELO" => self.hello(line, format!("250 {}", self.shared.host)),
            "STARTTLS" => return self.starttls().await,
            "MAIL" => self.mail(line),
            "RCPT" => self.rcpt(line),
            "DATA" => return self.data(reply).await,
            "RSET" => {
                self.reset();
                "250 2.0.0 Reset".to_owned()
            }
            "NOOP" => "250 2.0.0 Nothing done".to_owned(),
            "QUIT" => {
                self.wire.queue("221 2.0.0 Bye");
                return Ok(Next::Close);
            }
            _ => "500 5.5.1 No such command".to_owned(),
        };
        self.wire.queue(reply.as_ref().unwrap_or(&usual));
        Ok(Next::Continue)
    }

    /// The reply that a rule prescribes (`Some(None)` if no rule fits); `None` to close.
    async fn ruled(&mut self, command: &str) -> io::Result<Option<Option<String>>> {
        let then = lock(&self.shared.script).rule(command);
        match then {
            None => Ok(Some(None)),
            Some(Then::Reply(reply)) => Ok(Some(Some(reply))),
            Some(Then::ReplyAndClose(reply)) => {
                self.wire.queue(&reply);
                Ok(None)
            }
            Some(Then::Close) => Ok(None),
            Some(Then::Hang) => loop {
                self.wire.fill().await?;
            },
        }
    }

    fn hello(&mut self, line: &str, reply: String) -> String {
        self.helo = line.split(' ').nth(1).unwrap_or_default().to_owned();
        self.reset();
        reply
    }

    fn ehlo(&mut self, line: &str) -> String {
        let mut lines = vec![self.shared.host.clone()];
        {
            let script = lock(&self.shared.script);
            lines.extend(script.keywords.iter().cloned());
            if self.tls.is_none() && script.starttls.is_advertised() {
                lines.push("STARTTLS".to_owned());
            }
        }
        let last = lines.len() - 1;
        let reply: Vec<String> = lines
            .iter()
            .enumerate()
            .map(|(at, line)| format!("250{}{line}", if at == last { ' ' } else { '-' }))
            .collect();
        self.hello(line, reply.join("\r\n"))
    }

    fn mail(&mut self, line: &str) -> String {
        let Some((path, parameters)) = path(line, "MAIL FROM:<") else {
            return "501 5.5.4 Syntax".to_owned();
        };
        if self.from.is_some() {
            return "503 5.5.1 Nested MAIL".to_owned();
        }
        self.from = Some((path, parameters));
        "250 2.1.0 Sender ok".to_owned()
    }

    fn rcpt(&mut self, line: &str) -> String {
        let Some((path, _)) = path(line, "RCPT TO:<") else {
            return "501 5.5.4 Syntax".to_owned();
        };
        if self.from.is_none() {
            return "503 5.5.1 MAIL first".to_owned();
        }
        self.to.push(path);
        "250 2.1.5 Recipient ok".to_owned()
    }

    async fn data(&mut self, reply: Option<String>) -> io::Result<Next> {
        if self.to.is_empty() {
            self.wire.queue("503 5.5.1 No valid recipients");
            return Ok(Next::Continue);
        }
        self.wire.queue(reply.as_deref().unwrap_or("354 Go on"));
        let content = self.wire.data().await?;
        let Some(reply) = self.ruled(".").await? else { return Ok(Next::Close) };
        if reply.as_deref().is_none_or(|reply| reply.starts_with('2')) {
            let (from, parameters) = self.from.take().unwrap_or_default();
            self.shared.received.push(Received {
                host: self.shared.host.clone(),
                helo: self.helo.clone(),
                from,
                to: std::mem::take(&mut self.to),
                parameters,
                content,
                tls: self.tls.clone(),
                connection: self.number,
            });
        }
        self.reset();
        self.wire.queue(reply.as_deref().unwrap_or("250 2.0.0 Ok"));
        Ok(Next::Continue)
    }

    fn reset(&mut self) {
        self.from = None;
        self.to.clear();
    }

    async fn starttls(&mut self) -> io::Result<Next> {
        if self.tls.is_some() {
            self.wire.queue("503 5.5.1 TLS already");
            return Ok(Next::Continue);
        }
        let (starttls, identity) = {
            let script = lock(&self.shared.script);
            (script.starttls.clone(), script.identity.clone())
        };
        let refusal = match &starttls {
            Starttls::Absent => Some("502 5.5.1 Not here"),
            Starttls::Reply(reply) => Some(reply.as_str()),
            Starttls::Good
            | Starttls::Unadvertised
            | Starttls::Abort
            | Starttls::Alert
            | Starttls::InjectPlaintext
            | Starttls::Tls11Only
            | Starttls::Silent => None,
        };
        if let Some(reply) = refusal {
            self.wire.queue(reply);
            return Ok(Next::Continue);
        }
        self.wire.queue("220 2.0.0 Go on");
        if starttls == Starttls::InjectPlaintext {
            self.wire.queue("250 2.0.0 Injected");
        }
        self.wire.flush().await?;
        let Stream::Plain(mut stream) = std::mem::replace(&mut self.wire.stream, Stream::Gone)
        else {
            return Ok(Next::Close);
        };
        match starttls {
            Starttls::Abort => {
                return tls::read_client_hello(&mut stream).await.map(|()| Next::Close);
            }
            Starttls::Alert => {
                tls::read_client_hello(&mut stream).await?;
                return tls::answer_alert(&mut stream).await.map(|()| Next::Close);
            }
            Starttls::Tls11Only => {
                tls::read_client_hello(&mut stream).await?;
                return tls::answer_tls11(&mut stream).await.map(|()| Next::Close);
            }
            Starttls::Silent => return tls::drain(&mut stream).await.map(|()| Next::Close),
            Starttls::Good
            | Starttls::Unadvertised
            | Starttls::InjectPlaintext
            | Starttls::Absent
            | Starttls::Reply(_) => {}
        }
        let stream = TlsAcceptor::from(tls::server_config(&identity)).accept(stream).await?;
        self.tls = Some(TlsSeen::of(stream.get_ref().1));
        self.wire = Wire::new(Stream::Tls(Box::new(stream)));
        self.helo.clear();
        self.reset();
        Ok(Next::Continue)
    }
}

/// The path and the parameters of MAIL or RCPT.
fn path(line: &str, start: &str) -> Option<(String, String)> {
    if !starts_with(line, start) {
        return None;
    }
    let (path, parameters) = line[start.len()..].rsplit_once('>')?;
    Some((path.to_owned(), parameters.trim_start().to_owned()))
}
