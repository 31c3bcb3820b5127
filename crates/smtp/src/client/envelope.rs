//! What a transaction is about, and the commands that say so.
//!
//! A parameter is written only where the last EHLO offered it (RFC 5321 §2.2.1); whether a message
//! may go without one that is not offered is the caller's decision.

use std::borrow::Cow;

use crate::address::{Mailbox, ReversePath};
use crate::extensions::{Extension, Extensions};
use crate::params::{
    DeliverBy, EnvelopeId, Notify, ORIGINAL_RECIPIENT_CHARS_MAX, OriginalRecipient, Priority,
    Return,
};

/// What the transaction is about.
#[derive(Clone, Copy, Debug)]
pub struct Envelope<'a> {
    /// Who is told of failures.
    pub sender: &'a ReversePath,
    /// Who gets it. The results stand in this order.
    pub recipients: &'a [Addressee<'a>],
    /// Octets of the message with CRLF line ends, also behind the last line, without stuffed dots
    /// (RFC 1870 §5).
    pub size: u64,
    /// Has the message octets above 127?
    pub has_8bit: bool,
    /// What else is said about it.
    pub options: MailOptions<'a>,
}

/// One recipient, and what RCPT says about it.
#[derive(Clone, Copy, Debug)]
pub struct Addressee<'a> {
    /// The address, as it stands in `RCPT TO:<…>`.
    pub mailbox: &'a Mailbox,
    /// NOTIFY: what the sender wants to be told (RFC 3461 §4.1); `None` says nothing.
    pub notify: Option<Notify>,
    /// ORCPT: the address that the sender wrote for it (RFC 3461 §4.2).
    pub original: Option<&'a OriginalRecipient>,
}

impl<'a> From<&'a Mailbox> for Addressee<'a> {
    fn from(mailbox: &'a Mailbox) -> Self {
        Self { mailbox, notify: None, original: None }
    }
}

/// What goes with MAIL beside the sender.
#[derive(Clone, Copy, Debug, Default)]
pub struct MailOptions<'a> {
    /// An address or the header has UTF-8 (RFC 6531 §3.4).
    pub smtp_utf8: bool,
    /// RET: how much of the message a DSN of failure returns (RFC 3461 §4.3).
    pub ret: Option<Return>,
    /// ENVID: the sender's own name for this sending (RFC 3461 §4.4).
    pub envelope_id: Option<&'a EnvelopeId>,
    /// REQUIRETLS: over authenticated TLS or not at all (RFC 8689 §4.1).
    pub require_tls: bool,
    /// RFC 2852, with the time that is left now.
    pub deliver_by: Option<DeliverBy>,
    /// RFC 6710; 0 is what a server assumes anyway.
    pub priority: Priority,
}

/// Appends MAIL with CRLF, and the parameters whose extensions are offered.
pub(super) fn mail_command(envelope: &Envelope<'_>, extensions: &Extensions, out: &mut Vec<u8>) {
    let options = &envelope.options;
    let offers = |extension| extensions.offers(extension);
    out.extend_from_slice(b"MAIL FROM:<");
    out.extend_from_slice(envelope.sender.as_str().as_bytes());
    out.push(b'>');
    if extensions.size().is_some() {
        parameter("SIZE", &envelope.size.to_string(), out);
    }
    if envelope.has_8bit && offers(Extension::EightBitMime) {
        parameter("BODY", "8BITMIME", out);
    }
    if options.smtp_utf8 && offers(Extension::SmtpUtf8) {
        out.extend_from_slice(b" SMTPUTF8");
    }
    if let Some(ret) = options.ret.filter(|_| offers(Extension::Dsn)) {
        parameter("RET", &ret.to_string(), out);
    }
    if let Some(id) = options.envelope_id.filter(|_| offers(Extension::Dsn)) {
        parameter("ENVID", id.as_str(), out);
    }
    if options.require_tls && offers(Extension::RequireTls) {
        out.extend_from_slice(b" REQUIRETLS");
    }
    if let Some(by) = options.deliver_by.filter(|_| extensions.deliver_by().is_some()) {
        parameter("BY", &by.to_string(), out);
    }
    if options.priority != Priority::default() && offers(Extension::MtPriority) {
        parameter("MT-PRIORITY", &options.priority.to_string(), out);
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends RCPT with CRLF; NOTIFY and ORCPT only if DSN is offered.
pub(super) fn rcpt_command(
    recipient: &Addressee<'_>,
    extensions: &Extensions,
    options: &MailOptions<'_>,
    out: &mut Vec<u8>,
) {
    out.extend_from_slice(b"RCPT TO:<");
    out.extend_from_slice(recipient.mailbox.as_str().as_bytes());
    out.push(b'>');
    if extensions.offers(Extension::Dsn) {
        if let Some(notify) = recipient.notify {
            parameter("NOTIFY", &notify.to_string(), out);
        }
        if let Some(original) = recipient.original {
            let takes_utf8 = options.smtp_utf8 && extensions.offers(Extension::SmtpUtf8);
            let written = if takes_utf8 { original.as_str().into() } else { embedded(original) };
            // Longer than servers have to take: the recipient would be refused for a comment.
            if written.len() <= ORIGINAL_RECIPIENT_CHARS_MAX {
                parameter("ORCPT", &written, out);
            }
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// RFC 6533 §3: characters beyond ASCII as `\x{HEX}`, where the server takes no UTF-8 in commands.
fn embedded(original: &OriginalRecipient) -> Cow<'_, str> {
    let written = original.as_str();
    if written.is_ascii() {
        return written.into();
    }
    let mut out = String::with_capacity(written.len() * 2);
    for c in written.chars() {
        if c.is_ascii() {
            out.push(c);
        } else {
            out.push_str(&format!("\\x{{{:X}}}", u32::from(c)));
        }
    }
    out.into()
}

fn parameter(keyword: &str, value: &str, out: &mut Vec<u8>) {
    out.push(b' ');
    out.extend_from_slice(keyword.as_bytes());
    out.push(b'=');
    out.extend_from_slice(value.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::params::ByMode;
    use crate::reply::Reply;

    fn extensions(keywords: &str) -> Extensions {
        let lines: String = keywords.split(", ").map(|k| format!("250-{k}\r\n")).collect();
        let reply = Reply::parse(format!("250-mx\r\n{lines}250 HELP\r\n").as_bytes()).unwrap();
        Extensions::from_reply(&reply)
    }

    const ALL: &str = "SIZE, 8BITMIME, SMTPUTF8, DSN, REQUIRETLS, DELIVERBY, MT-PRIORITY";

    fn mail(keywords: &str, envelope: &Envelope<'_>) -> String {
        let mut out = Vec::new();
        mail_command(envelope, &extensions(keywords), &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn only_offered_parameters_are_sent_with_the_sender() {
        let sender = ReversePath::parse("a@example.org").unwrap();
        let options = MailOptions::default();
        let bare =
            Envelope { sender: &sender, recipients: &[], size: 42, has_8bit: false, options };
        let said = mail(ALL, &bare);
        assert_eq!(said, "MAIL FROM:<a@example.org> SIZE=42\r\n", "nothing of our own is added");

        let id = EnvelopeId::parse("QQ+2B1").unwrap();
        let by = DeliverBy { seconds: 90, mode: ByMode::Notify, trace: true };
        let options = MailOptions {
            smtp_utf8: true,
            ret: Some(Return::Headers),
            envelope_id: Some(&id),
            require_tls: true,
            deliver_by: Some(by),
            priority: Priority::new(-3).unwrap(),
        };
        let cases = [
            ("HELP", ""),
            ("SIZE", " SIZE=42"),
            ("8BITMIME", " BODY=8BITMIME"),
            ("SMTPUTF8", " SMTPUTF8"),
            ("DSN", " RET=HDRS ENVID=QQ+2B1"),
            ("REQUIRETLS", " REQUIRETLS"),
            ("DELIVERBY 60", " BY=90;NT"),
            ("MT-PRIORITY MIXER", " MT-PRIORITY=-3"),
            (
                ALL,
                " SIZE=42 BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=QQ+2B1 REQUIRETLS BY=90;NT \
                 MT-PRIORITY=-3",
            ),
        ];
        for (keywords, want) in cases {
            let want = format!("MAIL FROM:<a@example.org>{want}\r\n");
            let full = Envelope { has_8bit: true, options, ..bare };
            assert_eq!(mail(keywords, &full), want, "{keywords}");
        }
    }

    #[test]
    fn dsn_03_parameters_of_a_recipient_go_on_unchanged_and_only_where_dsn_is_offered() {
        let mailbox = Mailbox::parse("b@example.org").unwrap();
        let notify = Notify::parse("SUCCESS,DELAY");
        let plain = OriginalRecipient::parse("rfc822;a+2Bb@example.com").unwrap();
        let utf8 = OriginalRecipient::parse("utf-8;gr\u{fc}n@example.com").unwrap();
        let long = format!("utf-8;{}@example.com", "\u{fc}".repeat(200));
        let long = OriginalRecipient::parse(&long).unwrap();
        let cases = [
            ("DSN", true, Some(&long), " NOTIFY=SUCCESS,DELAY"),
            ("HELP", true, Some(&plain), ""),
            ("DSN", true, Some(&plain), " NOTIFY=SUCCESS,DELAY ORCPT=rfc822;a+2Bb@example.com"),
            ("DSN", false, None, " NOTIFY=SUCCESS,DELAY"),
            (
                "DSN, SMTPUTF8",
                true,
                Some(&utf8),
                " NOTIFY=SUCCESS,DELAY ORCPT=utf-8;gr\u{fc}n@example.com",
            ),
            (
                "DSN, SMTPUTF8",
                false,
                Some(&utf8),
                " NOTIFY=SUCCESS,DELAY ORCPT=utf-8;gr\\x{FC}n@example.com",
            ),
        ];
        for (keywords, smtp_utf8, original, want) in cases {
            let options = MailOptions { smtp_utf8, ..MailOptions::default() };
            let recipient = Addressee { mailbox: &mailbox, notify, original };
            let mut out = Vec::new();
            rcpt_command(&recipient, &extensions(keywords), &options, &mut out);
            let want = format!("RCPT TO:<b@example.org>{want}\r\n");
            assert_eq!(String::from_utf8(out).unwrap(), want, "{keywords}");
        }
    }
}
