//! What an MX host shall do. The default is a good host of 2026.

use std::time::Duration;

use crate::pki::Identity;

use super::{Gate, starts_with};

/// The behaviour of one host.
#[derive(Clone, Debug)]
pub struct Script {
    /// How a connection begins.
    pub greeting: Greeting,
    /// The EHLO keywords but STARTTLS. The parameters of extensions that are not among them are
    /// refused.
    pub keywords: Vec<String>,
    /// The EHLO keywords in TLS, if they are others.
    pub keywords_in_tls: Option<Vec<String>>,
    /// What STARTTLS leads to.
    pub starttls: Starttls,
    /// TLS comes before the greeting, as on port 465.
    pub implicit_tls: bool,
    /// The certificate and key in the handshake.
    pub identity: Identity,
    /// Whether TLS sessions can be taken up again.
    pub resumption: bool,
    /// Whether sessions outlive a change of `identity`, as they do at many servers.
    pub sessions_stay: bool,
    /// Who may log in, with which password. The keyword is the test's affair.
    pub users: Vec<(String, String)>,
    /// Whether MAIL needs a login.
    pub needs_login: bool,
    /// Recipients of one transaction; more get `too_many`. What `LIMITS RCPTMAX=` says holds, too.
    pub rcpt_max: Option<usize>,
    /// What is said to a recipient beyond `rcpt_max`.
    pub too_many: String,
    /// Transactions of one connection; more get 421 and the end. What `LIMITS MAILMAX=` says holds,
    /// too.
    pub mail_max: Option<usize>,
    /// Octets of a message that are read, and what is said then instead of reading on. The
    /// connection ends with it.
    pub enough: Option<(usize, String)>,
    /// Exceptions for single commands; the first that fits counts.
    pub rules: Vec<Rule>,
}

impl Script {
    pub(crate) fn good(identity: Identity) -> Self {
        let keywords = ["PIPELINING", "SIZE 104857600", "8BITMIME", "ENHANCEDSTATUSCODES"];
        Self {
            greeting: Greeting::Good,
            keywords: keywords.map(str::to_owned).to_vec(),
            keywords_in_tls: None,
            starttls: Starttls::Good,
            implicit_tls: false,
            identity,
            resumption: true,
            sessions_stay: false,
            users: Vec::new(),
            needs_login: false,
            rcpt_max: None,
            too_many: "452 4.5.3 Too many recipients".to_owned(),
            mail_max: None,
            enough: None,
            rules: Vec::new(),
        }
    }

    /// Offers these, too, in TLS and in clear.
    pub fn offer(&mut self, keywords: &[&str]) {
        let new = || keywords.iter().map(|keyword| (*keyword).to_owned());
        self.keywords.extend(new());
        if let Some(in_tls) = &mut self.keywords_in_tls {
            in_tls.extend(new());
        }
    }

    /// Offers these, too, in TLS only.
    pub fn offer_in_tls(&mut self, keywords: &[&str]) {
        let in_tls = self.keywords_in_tls.get_or_insert_with(|| self.keywords.clone());
        in_tls.extend(keywords.iter().map(|keyword| (*keyword).to_owned()));
    }

    /// What EHLO answers.
    pub(crate) fn offered(&self, in_tls: bool) -> Vec<String> {
        let mut offered = match &self.keywords_in_tls {
            Some(keywords) if in_tls => keywords.clone(),
            Some(_) | None => self.keywords.clone(),
        };
        if !in_tls && self.starttls.is_advertised() {
            offered.push("STARTTLS".to_owned());
        }
        offered
    }

    /// The fate of a command by the rules, if one fits.
    pub(crate) fn rule(&mut self, command: &str) -> Option<Then> {
        let fits = |rule: &Rule| rule.left != Some(0) && starts_with(command, &rule.prefix);
        let rule = self.rules.iter_mut().find(|rule| fits(rule))?;
        if let Some(left) = &mut rule.left {
            *left -= 1;
        }
        Some(rule.then.clone())
    }
}

/// How a connection begins.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Greeting {
    /// 220.
    Good,
    /// This reply instead; what follows is served as usual.
    Reply(String),
    /// The connection is closed without a word.
    Close,
    /// Nothing is said.
    Silent,
    /// This reply once the gate is open.
    At(Gate, String),
}

/// What STARTTLS leads to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Starttls {
    /// Advertised, 220, TLS 1.2 or 1.3.
    Good,
    /// Not advertised and not known: 502.
    Absent,
    /// Not advertised, but it works.
    Unadvertised,
    /// Advertised, and answered with this reply.
    Reply(String),
    /// 220, and closed after the ClientHello.
    Abort,
    /// 220, and a fatal alert after the ClientHello.
    Alert,
    /// Further plain replies in the segment of the 220, then a good handshake.
    InjectPlaintext,
    /// 220, and a server that knows nothing newer than TLS 1.1.
    Tls11Only,
    /// 220, and silence.
    Silent,
    /// 220, and a server that speaks TLS 1.2 and nothing newer.
    Tls12Only,
    /// 220, and silence after a ClientHello that offers X25519MLKEM768; others get a good
    /// handshake.
    StallOnPostQuantum,
    /// 220, and a reset after a ClientHello that offers X25519MLKEM768; others get a good
    /// handshake.
    ResetOnPostQuantum,
}

impl Starttls {
    pub(crate) fn is_advertised(&self) -> bool {
        !matches!(self, Self::Absent | Self::Unadvertised)
    }
}

/// An exception for commands that start alike.
#[derive(Clone, Debug)]
pub struct Rule {
    prefix: String,
    then: Then,
    /// How often it still applies; `None` is for ever.
    left: Option<usize>,
}

impl Rule {
    /// For every command that starts with `prefix`.
    pub fn always(prefix: &str, then: Then) -> Self {
        Self { prefix: prefix.to_owned(), then, left: None }
    }

    /// For the next `times` such commands.
    pub fn times(times: usize, prefix: &str, then: Then) -> Self {
        Self { prefix: prefix.to_owned(), then, left: Some(times) }
    }
}

/// The fate of a command.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Then {
    /// This reply (several lines with CRLF between). 2yz and 3yz have the usual effect.
    Reply(String),
    /// This reply, then the connection is closed.
    ReplyAndClose(String),
    /// The connection is closed.
    Close,
    /// No reply, ever; what comes is read and thrown away.
    Hang,
    /// This reply, and nothing is read or said any more: what the client sends fills the buffers
    /// between.
    ReplyAndStall(String),
    /// This reply after a while.
    Late(String, Duration),
    /// This reply, one octet after each pause.
    Drip(String, Duration),
    /// The usual reply once the gate is open.
    At(Gate),
}

impl Then {
    /// A reply.
    pub fn reply(text: &str) -> Self {
        Self::Reply(text.to_owned())
    }
}
