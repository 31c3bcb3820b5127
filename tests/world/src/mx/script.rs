//! What an MX host shall do. The default is a good host of today.

use crate::pki::Identity;

use super::starts_with;

/// The behaviour of one host.
#[derive(Clone, Debug)]
pub struct Script {
    /// How a connection begins.
    pub greeting: Greeting,
    /// The EHLO keywords but STARTTLS.
    pub keywords: Vec<String>,
    /// What STARTTLS leads to.
    pub starttls: Starttls,
    /// The certificate and key in the handshake.
    pub identity: Identity,
    /// Exceptions for single commands; the first that fits counts.
    pub rules: Vec<Rule>,
}

impl Script {
    pub(crate) fn good(identity: Identity) -> Self {
        let keywords = ["PIPELINING", "SIZE 104857600", "8BITMIME", "ENHANCEDSTATUSCODES"];
        Self {
            greeting: Greeting::Good,
            keywords: keywords.map(str::to_owned).to_vec(),
            starttls: Starttls::Good,
            identity,
            rules: Vec::new(),
        }
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
    /// No reply, ever.
    Hang,
}

impl Then {
    /// A reply.
    pub fn reply(text: &str) -> Self {
        Self::Reply(text.to_owned())
    }
}
