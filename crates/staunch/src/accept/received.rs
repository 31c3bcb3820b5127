//! The trace field that every message gets in front (RFC 5321 §4.4).
//!
//! What the client calls itself is written only if it is a host name or an address literal;
//! anything else could pretend to be more than a name.

use jiff::Timestamp;
use smtp::command::ClientName;
use smtp::server::{Client, Protocol};
use smtp::{Domain, Mailbox};
use spool::MessageId;

use super::peer::Peer;

/// How a message came in.
#[derive(Debug)]
pub(super) struct Trace<'a> {
    /// Who the client says it is.
    pub(super) client: Option<&'a Client>,
    /// Who it is; none: that is nobody's business.
    pub(super) peer: Option<Peer>,
    /// TLS, login and UTF-8, which the WITH clause names.
    pub(super) means: Means<'a>,
    /// Our host name, for the BY clause.
    pub(super) by: &'a Domain,
    /// Under which id we keep the message.
    pub(super) id: MessageId,
    /// The recipient, if there is just one: several must not learn of each other.
    pub(super) recipient: Option<&'a Mailbox>,
    /// When DATA, or the first BDAT, began.
    pub(super) at: Timestamp,
}

/// What was used beyond plain SMTP.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Means<'a> {
    /// TLS with this cipher suite, when MAIL was given.
    pub(super) cipher: Option<&'a str>,
    pub(super) login: bool,
    /// SMTPUTF8 in this transaction.
    pub(super) utf8: bool,
}

impl Means<'_> {
    /// The protocol's name in IANA's registry (RFC 3848, RFC 6531 §4.3). The names for TLS, AUTH
    /// and UTF-8 say EHLO, too.
    pub(super) fn with(self, protocol: Option<Protocol>) -> &'static str {
        match protocol {
            Some(Protocol::Smtp) | None => "SMTP",
            Some(Protocol::Esmtp) => match (self.utf8, self.cipher.is_some(), self.login) {
                (false, false, false) => "ESMTP",
                (false, false, true) => "ESMTPA",
                (false, true, false) => "ESMTPS",
                (false, true, true) => "ESMTPSA",
                (true, false, false) => "UTF8SMTP",
                (true, false, true) => "UTF8SMTPA",
                (true, true, false) => "UTF8SMTPS",
                (true, true, true) => "UTF8SMTPSA",
            },
        }
    }
}

impl Trace<'_> {
    /// The field with its line ends.
    pub(super) fn field(&self) -> String {
        let from = self.from();
        let with = self.means.with(self.client.map(|client| client.protocol));
        // In ASCII if that can be: UTF-8 in the header would bind the message to hosts with
        // SMTPUTF8 (RFC 6531 §3.7.3).
        let recipient = match self.recipient.map(|mailbox| (mailbox, mailbox.to_ascii())) {
            Some((_, Some(ascii))) => format!("\r\n\tfor <{ascii}>"),
            Some((mailbox, None)) => format!("\r\n\tfor <{mailbox}>"),
            None => String::new(),
        };
        // RFC 8314 §4.3.
        let tls = self.means.cipher.map(|cipher| format!("\r\n\ttls {cipher}")).unwrap_or_default();
        let date = date(self.at);
        let (by, id) = (self.by, self.id);
        format!("Received: {from}by {by} with {with} id {id}{recipient}{tls};\r\n\t{date}\r\n")
    }

    /// The clause that says where it came from.
    fn from(&self) -> String {
        let name = match self.client.map(|client| &client.name) {
            Some(ClientName::Domain(domain)) => Some(domain),
            Some(ClientName::Other(_)) | None => None,
        };
        let from = match (self.peer, name) {
            (None, _) => return String::new(),
            (Some(Peer::Remote(address)), Some(name)) => {
                format!("{name} ({})", Domain::Literal(address))
            }
            (Some(Peer::Remote(address)), None) => format!("{0} ({0})", Domain::Literal(address)),
            (Some(Peer::Local { uid }), Some(name)) => format!("{name} (uid {uid})"),
            (Some(Peer::Local { uid }), None) => format!("localhost (uid {uid})"),
            (Some(Peer::Unnamed { .. }), Some(name)) => format!("{name} (unknown)"),
            (Some(Peer::Unnamed { .. }), None) => "unknown (unknown)".to_owned(),
        };
        format!("from {from}\r\n\t")
    }
}

/// A time as header fields have it (RFC 5322 §3.3).
pub(super) fn date(at: Timestamp) -> String {
    at.strftime("%a, %d %b %Y %H:%M:%S +0000").to_string()
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use smtp::{HostName, RemoteText};

    use super::*;

    #[test]
    fn the_field_names_the_client_and_one_recipient_at_most() {
        let host = |name| Domain::Name(HostName::parse(name).unwrap());
        let by = host("relay.example");
        let mailbox = Mailbox::parse("\"a;b\"@c.example").unwrap();
        let v4 = Peer::Remote(IpAddr::from([192, 0, 2, 1]));
        let v6 = Peer::Remote("2001:db8::1".parse().unwrap());
        let local = Peer::Local { uid: 1000 };
        let id = MessageId::from_u128(0);
        let client = |protocol, name| Client { protocol, name };
        let named = client(Protocol::Esmtp, ClientName::Domain(host("c.example")));
        let odd =
            client(Protocol::Smtp, ClientName::Other(RemoteText::new("x) by y (\r\nFrom: z")));
        let none = Means::default();
        let cases = [
            (
                &named,
                Some(v4),
                none,
                Some(&mailbox),
                "from c.example ([192.0.2.1])\r\n\tby relay.example with ESMTP",
                "\r\n\tfor <\"a;b\"@c.example>;",
            ),
            (
                &named,
                Some(v4),
                none,
                None,
                "from c.example ([192.0.2.1])\r\n\tby relay.example with ESMTP",
                ";",
            ),
            (
                &odd,
                Some(v6),
                none,
                None,
                "from [IPv6:2001:db8::1] ([IPv6:2001:db8::1])\r\n\tby relay.example with SMTP",
                ";",
            ),
            (
                &named,
                Some(local),
                none,
                None,
                "from c.example (uid 1000)\r\n\tby relay.example with ESMTP",
                ";",
            ),
            (
                &odd,
                Some(local),
                none,
                None,
                "from localhost (uid 1000)\r\n\tby relay.example with SMTP",
                ";",
            ),
            (
                &named,
                None,
                Means { cipher: Some("TLS_AES_128_GCM_SHA256"), login: true, utf8: false },
                Some(&mailbox),
                "by relay.example with ESMTPSA",
                "\r\n\tfor <\"a;b\"@c.example>\r\n\ttls TLS_AES_128_GCM_SHA256;",
            ),
        ];
        for (client, peer, means, recipient, front, tail) in cases {
            let at = Timestamp::from_second(1_800_000_000).unwrap();
            let client = Some(client);
            let trace = Trace { client, peer, means, by: &by, id, recipient, at };
            let want =
                format!("Received: {front} id {id}{tail}\r\n\tFri, 15 Jan 2027 08:00:00 +0000\r\n");
            assert_eq!(trace.field(), want);
        }
    }

    /// Every combination that can be; after HELO there is but one word.
    #[test]
    fn the_protocol_has_its_registered_name() {
        let words = [
            "ESMTP",
            "ESMTPA",
            "ESMTPS",
            "ESMTPSA",
            "UTF8SMTP",
            "UTF8SMTPA",
            "UTF8SMTPS",
            "UTF8SMTPSA",
        ];
        for (index, want) in words.into_iter().enumerate() {
            let is = |bit: usize| index & bit != 0;
            let means = Means { cipher: is(2).then_some("X"), login: is(1), utf8: is(4) };
            assert_eq!(means.with(Some(Protocol::Esmtp)), want);
            assert_eq!(means.with(Some(Protocol::Smtp)), "SMTP");
        }
    }
}
