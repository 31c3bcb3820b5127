//! One connection to a scripted host.

use std::io;

use tokio::net::TcpStream;
use tokio_rustls::LazyConfigAcceptor;

use super::script::{Greeting, Starttls, Then};
use super::stream::{Stream, Wire};
use super::{Received, Shared, starts_with};
use crate::log::lock;
use crate::tls::{self, Dialect, TlsSeen};

/// What the session does after a command.
enum Next {
    Continue,
    Close,
}

pub(super) struct Session<'a> {
    pub(super) shared: &'a Shared,
    pub(super) wire: Wire,
    number: usize,
    helo: String,
    /// The keywords of the last EHLO reply.
    pub(super) offered: Vec<String>,
    /// Greeted by LHLO (RFC 2033): each recipient gets a reply of its own to the end of data.
    is_lmtp: bool,
    tls: Option<TlsSeen>,
    pub(super) user: Option<String>,
    transactions: usize,
    /// Path and parameters.
    from: Option<(String, String)>,
    to: Vec<(String, String)>,
    /// What came by BDAT in this transaction.
    chunks: Option<Vec<u8>>,
}

/// Serves one connection to its end.
pub(super) async fn run(stream: TcpStream, shared: &Shared, number: usize) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut session = Session {
        shared,
        wire: Wire::new(Stream::Plain(stream)),
        number,
        helo: String::new(),
        offered: Vec::new(),
        is_lmtp: false,
        tls: None,
        user: None,
        transactions: 0,
        from: None,
        to: Vec::new(),
        chunks: None,
    };
    let (greeting, starttls, implicit_tls) = {
        let script = lock(&shared.script);
        (script.greeting.clone(), script.starttls.clone(), script.implicit_tls)
    };
    if implicit_tls && matches!(session.handshake(&starttls).await?, Next::Close) {
        return Ok(());
    }
    match greeting {
        Greeting::Good => session.wire.queue(&format!("220 {} ESMTP scripted", shared.host)),
        Greeting::Reply(reply) => session.wire.queue(&reply),
        Greeting::Close => return Ok(()),
        Greeting::Silent => loop {
            session.wire.fill().await?;
        },
        Greeting::At(gate, reply) => {
            gate.passed().await;
            session.wire.queue(&reply);
        }
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
        let verb = line.split(' ').next().unwrap_or_default().to_ascii_uppercase();
        if verb == "BDAT" {
            return self.bdat(line, reply).await;
        }
        let is_refused = reply.as_deref().is_some_and(|reply| !reply.starts_with(['2', '3']));
        if let (Some(reply), true) = (&reply, is_refused) {
            self.wire.queue(reply);
            return Ok(Next::Continue);
        }
        let usual = match verb.as_str() {
            "EHLO" | "LHLO" => self.ehlo(line, verb == "LHLO"),
            "HELO" => {
                self.hello(line);
                format!("250 {}", self.shared.host)
            }
            "STARTTLS" => return self.starttls().await,
            "AUTH" => match self.login(line).await? {
                Ok(user) => {
                    self.user = Some(user);
                    "235 2.7.0 Welcome".to_owned()
                }
                Err(refusal) => refusal.to_owned(),
            },
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
        let reply = reply.unwrap_or(usual);
        self.wire.queue(&reply);
        Ok(if reply.starts_with("421") { Next::Close } else { Next::Continue })
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
            Some(Then::ReplyAndStall(reply)) => {
                self.wire.queue(&reply);
                self.wire.flush().await?;
                std::future::pending().await
            }
            Some(Then::Late(reply, pause)) => {
                self.wire.flush().await?;
                tokio::time::sleep(pause).await;
                Ok(Some(Some(reply)))
            }
            Some(Then::At(gate)) => {
                self.wire.flush().await?;
                gate.passed().await;
                Ok(Some(None))
            }
            Some(Then::Drip(reply, pause)) => {
                self.wire.flush().await?;
                self.wire.drip_next(pause);
                Ok(Some(Some(reply)))
            }
        }
    }

    fn hello(&mut self, line: &str) {
        self.helo = line.split(' ').nth(1).unwrap_or_default().to_owned();
        self.offered.clear();
        self.reset();
    }

    fn ehlo(&mut self, line: &str, is_lmtp: bool) -> String {
        self.hello(line);
        self.is_lmtp = is_lmtp;
        self.offered = lock(&self.shared.script).offered(self.tls.is_some());
        let mut lines = vec![self.shared.host.clone()];
        lines.extend(self.offered.iter().cloned());
        let last = lines.len() - 1;
        let reply: Vec<String> = lines
            .iter()
            .enumerate()
            .map(|(at, line)| format!("250{}{line}", if at == last { ' ' } else { '-' }))
            .collect();
        reply.join("\r\n")
    }

    fn mail(&mut self, line: &str) -> String {
        let Some((path, parameters)) = path(line, "MAIL FROM:<") else {
            return "501 5.5.4 Syntax".to_owned();
        };
        if self.from.is_some() {
            return "503 5.5.1 Nested MAIL".to_owned();
        }
        let (needs_login, mail_max) = {
            let script = lock(&self.shared.script);
            (script.needs_login, script.mail_max.or_else(|| self.limit("MAILMAX")))
        };
        if needs_login && self.user.is_none() {
            return "530 5.7.0 Authentication required".to_owned();
        }
        if mail_max.is_some_and(|max| self.transactions >= max) {
            return "421 4.7.0 Too many transactions".to_owned();
        }
        if let Some(refusal) = self.refuse_parameters(&path, &parameters) {
            return refusal;
        }
        self.transactions += 1;
        self.from = Some((path, parameters));
        "250 2.1.0 Sender ok".to_owned()
    }

    fn rcpt(&mut self, line: &str) -> String {
        let Some((path, parameters)) = path(line, "RCPT TO:<") else {
            return "501 5.5.4 Syntax".to_owned();
        };
        let Some((_, mail_parameters)) = &self.from else {
            return "503 5.5.1 MAIL first".to_owned();
        };
        let (rcpt_max, too_many) = {
            let script = lock(&self.shared.script);
            (script.rcpt_max.or_else(|| self.limit("RCPTMAX")), script.too_many.clone())
        };
        if rcpt_max.is_some_and(|max| self.to.len() >= max) {
            return too_many;
        }
        let is_utf8 = mail_parameters.split(' ').any(|one| one.eq_ignore_ascii_case("SMTPUTF8"));
        if !path.is_ascii() && !is_utf8 {
            return "553 5.6.7 Not in this transaction".to_owned();
        }
        if let Some(refusal) = self.refuse_parameters("", &parameters) {
            return refusal;
        }
        self.to.push((path, parameters));
        "250 2.1.5 Recipient ok".to_owned()
    }

    /// A value of `LIMITS` (RFC 9422 §3) in what EHLO answered.
    fn limit(&self, name: &str) -> Option<usize> {
        let limits = self.offered.iter().find_map(|line| line.strip_prefix("LIMITS "))?;
        limits.split(' ').find_map(|one| one.strip_prefix(name)?.strip_prefix('='))?.parse().ok()
    }

    fn offers(&self, keyword: &str) -> bool {
        self.offered.iter().any(|line| line.split(' ').next() == Some(keyword))
    }

    /// Why this path with these parameters is not taken (RFC 5321 §4.1.1.11).
    fn refuse_parameters(&self, path: &str, parameters: &str) -> Option<String> {
        let names =
            || parameters.split_whitespace().map(|one| one.split('=').next().unwrap_or(one));
        for name in names() {
            let known = extension_of(name).is_some_and(|keyword| self.offers(keyword));
            if !known {
                return Some(format!("555 5.5.4 {name} was not offered"));
            }
        }
        let is_utf8 = names().any(|name| name.eq_ignore_ascii_case("SMTPUTF8"));
        (!path.is_ascii() && !is_utf8).then(|| "553 5.6.7 SMTPUTF8 is not asked for".to_owned())
    }

    /// A rule can have content sent for nobody, as some servers do (RFC 2920 §3.1).
    async fn data(&mut self, reply: Option<String>) -> io::Result<Next> {
        if (self.to.is_empty() && reply.is_none()) || self.chunks.is_some() {
            self.wire.queue("503 5.5.1 No valid recipients, or BDAT before");
            return Ok(Next::Continue);
        }
        self.wire.queue(reply.as_deref().unwrap_or("354 Go on"));
        if self.has_enough(usize::MAX).await? {
            return Ok(Next::Close);
        }
        let content = self.wire.data().await?;
        self.end(content, false).await
    }

    /// Reads a part of the `coming` octets and says so, where the script has a bound below them.
    async fn has_enough(&mut self, coming: usize) -> io::Result<bool> {
        let enough = lock(&self.shared.script).enough.clone();
        let Some((octets, reply)) = enough.filter(|(octets, _)| *octets < coming) else {
            return Ok(false);
        };
        self.wire.octets(octets).await?;
        self.wire.queue(&reply);
        Ok(true)
    }

    /// Takes the chunk, whatever is answered (RFC 3030 §2).
    async fn bdat(&mut self, line: &str, reply: Option<String>) -> io::Result<Next> {
        let mut words = line.split(' ').skip(1);
        let Some(size) = words.next().and_then(|size| size.parse().ok()) else {
            self.wire.queue("501 5.5.4 Syntax");
            return Ok(Next::Continue);
        };
        if self.has_enough(size).await? {
            return Ok(Next::Close);
        }
        let chunk = self.wire.octets(size).await?;
        if reply.as_deref().is_some_and(|reply| !reply.starts_with('2')) {
            self.wire.queue(reply.as_deref().unwrap_or_default());
            return Ok(Next::Continue);
        }
        if self.to.is_empty() || !self.offers("CHUNKING") {
            self.wire.queue("503 5.5.1 No valid recipients, or no CHUNKING");
            return Ok(Next::Continue);
        }
        self.chunks.get_or_insert_default().extend(chunk);
        if words.next().is_some_and(|word| word.eq_ignore_ascii_case("LAST")) {
            let content = self.chunks.take().unwrap_or_default();
            return self.end(content, true).await;
        }
        self.wire.queue(reply.as_deref().unwrap_or("250 2.0.0 More"));
        Ok(Next::Continue)
    }

    /// The end of a message: one reply, or one for each recipient.
    async fn end(&mut self, content: Vec<u8>, chunked: bool) -> io::Result<Next> {
        let recipients = std::mem::take(&mut self.to);
        let groups: Vec<Vec<(String, String)>> = if self.is_lmtp {
            recipients.into_iter().map(|one| vec![one]).collect()
        } else {
            vec![recipients]
        };
        for group in groups {
            let end = if self.is_lmtp { format!(". {}", group[0].0) } else { ".".to_owned() };
            let Some(reply) = self.ruled(&end).await? else { return Ok(Next::Close) };
            if reply.as_deref().is_none_or(|reply| reply.starts_with('2')) {
                self.keep(group, content.clone(), chunked);
            }
            self.wire.queue(reply.as_deref().unwrap_or("250 2.0.0 Ok"));
        }
        self.reset();
        Ok(Next::Continue)
    }

    fn keep(&self, recipients: Vec<(String, String)>, content: Vec<u8>, chunked: bool) {
        let (from, parameters) = self.from.clone().unwrap_or_default();
        let (to, rcpt_parameters) = recipients.into_iter().unzip();
        self.shared.received.push(Received {
            host: self.shared.host.clone(),
            helo: self.helo.clone(),
            from,
            to,
            parameters,
            rcpt_parameters,
            content,
            chunked,
            user: self.user.clone(),
            tls: self.tls.clone(),
            connection: self.number,
        });
    }

    fn reset(&mut self) {
        self.from = None;
        self.to.clear();
        self.chunks = None;
    }

    async fn starttls(&mut self) -> io::Result<Next> {
        if self.tls.is_some() {
            self.wire.queue("503 5.5.1 TLS already");
            return Ok(Next::Continue);
        }
        let starttls = lock(&self.shared.script).starttls.clone();
        let refusal = match &starttls {
            Starttls::Absent => Some("502 5.5.1 Not here"),
            Starttls::Reply(reply) => Some(reply.as_str()),
            Starttls::Good
            | Starttls::Unadvertised
            | Starttls::Abort
            | Starttls::Alert
            | Starttls::InjectPlaintext
            | Starttls::Tls11Only
            | Starttls::Silent
            | Starttls::Tls12Only
            | Starttls::StallOnPostQuantum
            | Starttls::ResetOnPostQuantum => None,
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
        self.handshake(&starttls).await
    }

    /// The handshake, good or bad; what was said before it is forgotten (RFC 3207 §4.2).
    async fn handshake(&mut self, starttls: &Starttls) -> io::Result<Next> {
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
            | Starttls::Reply(_)
            | Starttls::Tls12Only
            | Starttls::StallOnPostQuantum
            | Starttls::ResetOnPostQuantum => {}
        }
        let mut start =
            LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream).await?;
        let offers_post_quantum = tls::offers_post_quantum(&start.client_hello());
        match starttls {
            Starttls::StallOnPostQuantum if offers_post_quantum => {
                return tls::drain(&mut start.io).await.map(|()| Next::Close);
            }
            Starttls::ResetOnPostQuantum if offers_post_quantum => {
                return start.io.set_zero_linger().map(|()| Next::Close);
            }
            _ => {}
        }
        let resumption = lock(&self.shared.script).resumption;
        let tls12_only = *starttls == Starttls::Tls12Only;
        let config = self.shared.tls_config(Dialect { tls12_only, resumption });
        let stream = start.into_stream(config).await?;
        let seen = TlsSeen::of(stream.get_ref().1);
        self.shared.handshakes.push(seen.clone());
        self.tls = Some(seen);
        self.wire = Wire::new(Stream::Tls(Box::new(stream)));
        self.helo.clear();
        self.offered.clear();
        self.user = None;
        self.reset();
        Ok(Next::Continue)
    }
}

/// The keyword of the extension that a parameter of MAIL or RCPT belongs to.
fn extension_of(parameter: &str) -> Option<&'static str> {
    Some(match parameter.to_ascii_uppercase().as_str() {
        "SIZE" => "SIZE",
        "BODY" => "8BITMIME",
        "SMTPUTF8" => "SMTPUTF8",
        "RET" | "ENVID" | "NOTIFY" | "ORCPT" => "DSN",
        "REQUIRETLS" => "REQUIRETLS",
        "BY" => "DELIVERBY",
        "MT-PRIORITY" => "MT-PRIORITY",
        "HOLDFOR" | "HOLDUNTIL" => "FUTURERELEASE",
        "AUTH" => "AUTH",
        _ => return None,
    })
}

/// The path and the parameters of MAIL or RCPT.
fn path(line: &str, start: &str) -> Option<(String, String)> {
    if !starts_with(line, start) {
        return None;
    }
    let (path, parameters) = line[start.len()..].rsplit_once('>')?;
    Some((path.to_owned(), parameters.trim_start().to_owned()))
}
