//! The trace field that every message gets in front (RFC 5321 §4.4).
//!
//! What the client calls itself is written only if it is a host name or an address literal; anything
//! else could pretend to be more than a name.

use jiff::Timestamp;
use smtp::command::ClientName;
use smtp::server::{Client, Protocol};
use smtp::{Domain, Mailbox};
use spool::MessageId;

use super::arrival::Peer;

/// How a message came in.
#[derive(Debug)]
pub(super) struct Trace<'a> {
    /// Who the client says it is.
    pub(super) client: Option<&'a Client>,
    /// Who it is.
    pub(super) peer: Peer,
    /// Who we are.
    pub(super) by: &'a Domain,
    /// Under which id we keep the message.
    pub(super) id: MessageId,
    /// The recipient, if there is just one: several must not learn of each other.
    pub(super) recipient: Option<&'a Mailbox>,
    /// When.
    pub(super) at: Timestamp,
}

impl Trace<'_> {
    /// The field with its line ends.
    pub(super) fn field(&self) -> String {
        let name = match self.client.map(|client| &client.name) {
            Some(ClientName::Domain(domain)) => Some(domain),
            Some(ClientName::Other(_)) | None => None,
        };
        let from = match (self.peer, name) {
            (Peer::Remote(address), Some(name)) => {
                format!("{name} ({})", Domain::Literal(address))
            }
            (Peer::Remote(address), None) => format!("{0} ({0})", Domain::Literal(address)),
            (Peer::Local { uid }, Some(name)) => format!("{name} (uid {uid})"),
            (Peer::Local { uid }, None) => format!("localhost (uid {uid})"),
        };
        // RFC 3848.
        let with = match self.client.map(|client| client.protocol) {
            Some(Protocol::Esmtp) => "ESMTP",
            Some(Protocol::Smtp) | None => "SMTP",
        };
        let recipient =
            self.recipient.map(|mailbox| format!("\r\n\tfor <{mailbox}>")).unwrap_or_default();
        let date = self.at.strftime("%a, %d %b %Y %H:%M:%S +0000");
        let (by, id) = (self.by, self.id);
        format!(
            "Received: from {from}\r\n\tby {by} with {with} id {id}{recipient};\r\n\t{date}\r\n"
        )
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use smtp::HostName;
    use smtp::RemoteText;

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
        let cases = [
            (
                &named,
                v4,
                Some(&mailbox),
                "from c.example ([192.0.2.1])",
                "with ESMTP",
                "\r\n\tfor <\"a;b\"@c.example>;",
            ),
            (&named, v4, None, "from c.example ([192.0.2.1])", "with ESMTP", ";"),
            (&odd, v6, None, "from [IPv6:2001:db8::1] ([IPv6:2001:db8::1])", "with SMTP", ";"),
            (&named, local, None, "from c.example (uid 1000)", "with ESMTP", ";"),
            (&odd, local, None, "from localhost (uid 1000)", "with SMTP", ";"),
        ];
        for (client, peer, recipient, from, with, tail) in cases {
            let at = Timestamp::from_second(1_800_000_000).unwrap();
            let trace = Trace { client: Some(client), peer, by: &by, id, recipient, at };
            let want = format!(
                "Received: {from}\r\n\tby relay.example {with} id {id}{tail}\r\n\tFri, 15 Jan 2027 08:00:00 +0000\r\n"
            );
            assert_eq!(trace.field(), want);
        }
    }
}
