//! What does a sender read when a message was not delivered, or not yet, or was passed on; and what
//! does their software read?
//!
//! A delivery status notification (RFC 3464) in a `multipart/report` (RFC 6522): a text for people,
//! a part for programs, and the original message or its header. It is ASCII in short lines, unless
//! the original is returned in full and has 8-bit text, or the sender's own address has UTF-8
//! (RFC 6533); and nothing in it that a stranger wrote can begin a line, a field or a body part.
//!
//! Not here: whether a DSN is due (`staunch::outcome`), and its envelope, which is from `<>`
//! (RFC 5321 §6.1).

use jiff::Timestamp;
use smtp::header;
use smtp::originals::OriginalRecipients;
use smtp::params::{EnvelopeId, OriginalRecipient};
use smtp::{Domain, Mailbox, RemoteText, Status};

use crate::address::{self, AddressForm};
use crate::lines::{push_field, push_paragraph};
use crate::mime::{self, MimeShape};
use crate::wording::Action;

const DETAIL_INDENT: &str = "    ";

/// A DSN: everything that is told about one message at one time.
#[derive(Clone, Copy, Debug)]
pub struct Dsn<'a> {
    /// The name that this relay gives itself: a host name or an address literal.
    pub reporting_mta: &'a str,
    /// Address of the header From; ASCII.
    pub from: &'a Mailbox,
    /// The sender of the message: its reverse path.
    pub to: &'a Mailbox,
    /// The DSN's own Message-ID, without angle brackets.
    pub message_id: &'a str,
    /// When the DSN is written.
    pub date: Timestamp,
    /// When the message that the DSN is about was accepted.
    pub arrival_date: Timestamp,
    /// Our id of the message, as the log and `staunch trace` have it.
    pub original_id: &'a str,
    /// The sender's own name for the sending, if they gave one.
    pub envelope_id: Option<&'a EnvelopeId>,
    /// What became of these recipients, the same for all.
    pub action: Action,
    /// To whom; at least one.
    pub recipients: &'a [ReportedRecipient<'a>],
    /// How much of the original goes back.
    pub returned: Returned,
    /// What the original was sent as.
    pub kind: DsnKind,
    /// The original message, or at least its header block. The caller bounds it.
    pub original: &'a [u8],
}

/// One recipient of the message.
#[derive(Clone, Debug)]
pub struct ReportedRecipient<'a> {
    /// What the sender wrote for it, if that was told.
    pub originals: &'a OriginalRecipients,
    /// The address as it was given to us.
    pub final_recipient: &'a Mailbox,
    /// The last problem, or that there was none. Written with the class that the action has: a
    /// failure is final, also where time ran out on a 4.
    pub status: Status,
    /// The host that said [`Self::diagnostic`]; `None` if none was reached.
    pub remote_mta: Option<&'a Domain>,
    /// That host's reply, code included.
    pub diagnostic: Option<RemoteText>,
    /// `None` if no attempt was ever possible.
    pub last_attempt: Option<Timestamp>,
    /// How long it is tried; means something for [`Action::Delayed`] only.
    pub retry_until: Option<Timestamp>,
    /// What happened, for people: whole sentences, which name the policy if one was not met.
    pub explanation: &'a str,
}

/// What the original message was sent as.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum DsnKind {
    /// Its header is ASCII, or pretends to be.
    Ordinary,
    /// With SMTPUTF8: its header may have UTF-8 (RFC 6532).
    Utf8,
}

/// How much of the original message is returned (RFC 3461 §4.3).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Returned {
    /// The header only, as `text/rfc822-headers` or `message/global-headers`.
    Headers,
    /// Everything, as `message/rfc822` or `message/global`. A message that no transport promises to
    /// carry (over-long lines, NUL, bare CR or LF) is returned as [`Returned::Headers`] all the
    /// same: it cannot be encoded, since RFC 2046 §5.2.1 allows no encoding there.
    Full,
}

impl Dsn<'_> {
    /// The whole DSN as it is queued: header and body, every line ended by CRLF.
    pub fn compose(&self) -> Vec<u8> {
        let form = AddressForm::of(self.to);
        let text = HumanPart::new(self.text(), form);
        let status = self.delivery_status(form);
        let original = ReturnedPart::new(self.returned, self.kind, self.original);
        let boundary =
            mime::boundary(&[text.content.as_bytes(), status.as_bytes(), &original.content]);
        let status_type = match form {
            AddressForm::Ascii => "message/delivery-status",
            AddressForm::Global => "message/global-delivery-status",
        };

        let is_8bit = [original.encoding, text.encoding, encoding(&status)].contains(&EIGHT_BIT);
        let mut out = self.header(&boundary, if is_8bit { EIGHT_BIT } else { SEVEN_BIT });
        let text_type = format!("text/plain; charset={}", text.charset);
        push_part(&mut out, &boundary, &text_type, text.encoding);
        out.push_str(&text.content);
        push_part(&mut out, &boundary, status_type, encoding(&status));
        out.push_str(&status);
        push_part(&mut out, &boundary, original.content_type, original.encoding);
        let mut out = out.into_bytes();
        out.extend_from_slice(&original.content);
        out.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
        out
    }

    fn header(&self, boundary: &str, encoding: &str) -> String {
        let mut out = String::new();
        // Addresses are not folded: the longest fits a line, and a quoted local part has spaces
        // that count.
        out.push_str(&format!("From: Mail Delivery System <{}>\r\n", self.from));
        out.push_str(&format!("To: <{}>\r\n", self.to));
        push_field(&mut out, "Subject", self.action.subject());
        push_field(&mut out, "Date", &date(self.date));
        push_field(&mut out, "Message-ID", &format!("<{}>", self.message_id));
        // RFC 3834 §5.2: keeps vacation responders from answering.
        push_field(&mut out, "Auto-Submitted", "auto-replied");
        push_field(&mut out, "MIME-Version", "1.0");
        push_field(
            &mut out,
            "Content-Type",
            &format!("multipart/report; report-type=delivery-status; boundary=\"{boundary}\""),
        );
        if encoding == EIGHT_BIT {
            push_field(&mut out, "Content-Transfer-Encoding", EIGHT_BIT);
        }
        out.push_str("\r\nThis is a MIME-encapsulated delivery status notification.\r\n");
        out
    }

    fn text(&self) -> String {
        let mut out = String::new();
        push_paragraph(&mut out, &format!("This is the mail relay {}.", self.reporting_mta), "");
        let whom = if self.recipients.len() == 1 { "this address" } else { "these addresses" };
        out.push_str("\r\n");
        push_paragraph(&mut out, &self.action.opening(&date(self.arrival_date), whom), "");
        for recipient in self.recipients {
            recipient.push_text(&mut out, self.action);
        }
        let closing = format!(
            "If you ask your administrator about it, name this message: {}",
            self.original_id
        );
        out.push_str("\r\n");
        push_paragraph(&mut out, &closing, "");
        out
    }

    /// RFC 3464 §2: a block for the message, then one for each recipient.
    fn delivery_status(&self, form: AddressForm) -> String {
        let mut out = String::new();
        push_field(&mut out, "Reporting-MTA", &format!("dns; {}", self.reporting_mta));
        if let Some(id) = self.envelope_id {
            push_field(&mut out, "Original-Envelope-Id", id.decoded().as_str());
        }
        push_field(&mut out, "Arrival-Date", &date(self.arrival_date));
        push_field(&mut out, "X-Staunch-Message-Id", self.original_id);
        for recipient in self.recipients {
            // A block for each address that the sender wrote (RFC 3464 §2.3.1), whatever became one
            // recipient here.
            if recipient.originals.is_empty() {
                recipient.push_block(&mut out, None, self.action, form);
            }
            for original in recipient.originals.iter() {
                recipient.push_block(&mut out, Some(original), self.action, form);
            }
        }
        out
    }
}

impl ReportedRecipient<'_> {
    fn push_text(&self, out: &mut String, action: Action) {
        // As it was written: a quoted local part has spaces that count.
        out.push_str(&format!("\r\n<{}>\r\n", self.final_recipient));
        push_paragraph(out, self.explanation, DETAIL_INDENT);
        // Where the explanation quotes it, once is enough.
        let is_news = |said: &&RemoteText| !self.explanation.contains(said.as_str());
        let said = self.diagnostic.as_ref().filter(|said| !said.is_empty()).filter(is_news);
        if let Some(said) = said {
            let who = self.remote_mta.map_or_else(|| "The other server".into(), Domain::to_string);
            push_paragraph(out, &format!("{who} said: {said}"), DETAIL_INDENT);
        }
        let status = self.status.with_class(action.class());
        let mut last = format!("Status {status}.");
        if let (Action::Delayed, Some(until)) = (action, self.retry_until) {
            last.push_str(&format!(" It is tried until {}.", date(until)));
        }
        if let Some(advice) = action.advice(status) {
            last.push_str(&format!(" {advice}"));
        }
        push_paragraph(out, &last, DETAIL_INDENT);
    }

    fn push_block(
        &self,
        out: &mut String,
        original: Option<&OriginalRecipient>,
        action: Action,
        form: AddressForm,
    ) {
        out.push_str("\r\n");
        if let Some(original) = original {
            push_address(out, "Original-Recipient", &address::original_recipient(original, form));
        }
        let final_recipient = address::final_recipient(self.final_recipient, form);
        push_address(out, "Final-Recipient", &final_recipient);
        push_field(out, "Action", action.as_str());
        push_field(out, "Status", &self.status.with_class(action.class()).to_string());
        if let Some(host) = self.remote_mta {
            push_field(out, "Remote-MTA", &format!("dns; {host}"));
        }
        if let Some(said) = &self.diagnostic {
            push_field(out, "Diagnostic-Code", &format!("smtp; {said}"));
        }
        if let Some(time) = self.last_attempt {
            push_field(out, "Last-Attempt-Date", &date(time));
        }
        if let (Action::Delayed, Some(until)) = (action, self.retry_until) {
            push_field(out, "Will-Retry-Until", &date(until));
        }
    }
}

/// A field with an address, as it was written where a line can carry it.
fn push_address(out: &mut String, name: &str, value: &str) {
    if name.len() + value.len() < ADDRESS_LINE_MAX {
        out.push_str(&format!("{name}: {value}\r\n"));
    } else {
        push_field(out, name, value);
    }
}

fn encoding(text: &str) -> &'static str {
    if text.is_ascii() { SEVEN_BIT } else { EIGHT_BIT }
}

/// RFC 5322 §2.1.1 allows 998 in a line; some room is left for what stands around the address.
const ADDRESS_LINE_MAX: usize = 980;
const SEVEN_BIT: &str = "7bit";
const EIGHT_BIT: &str = "8bit";
const QUOTED_PRINTABLE: &str = "quoted-printable";

/// The part for people: hosts answer in their own language, and the sender may well read it.
struct HumanPart {
    charset: &'static str,
    encoding: &'static str,
    content: String,
}

impl HumanPart {
    fn new(text: String, form: AddressForm) -> Self {
        let (charset, encoding) = match form {
            _ if text.is_ascii() => ("us-ascii", SEVEN_BIT),
            AddressForm::Ascii => ("utf-8", QUOTED_PRINTABLE),
            AddressForm::Global => ("utf-8", EIGHT_BIT),
        };
        let content = if encoding == QUOTED_PRINTABLE {
            String::from_utf8_lossy(&mime::quoted_printable(text.as_bytes())).into_owned()
        } else {
            text
        };
        Self { charset, encoding, content }
    }
}

/// The part with the original, in a form that can travel.
struct ReturnedPart {
    content_type: &'static str,
    encoding: &'static str,
    content: Vec<u8>,
}

impl ReturnedPart {
    fn new(returned: Returned, kind: DsnKind, original: &[u8]) -> Self {
        let full = match (returned, mime::shape(original)) {
            (Returned::Full, MimeShape::SevenBit) => Some(SEVEN_BIT),
            (Returned::Full, MimeShape::EightBit) => Some(EIGHT_BIT),
            (Returned::Full, MimeShape::Unsafe) | (Returned::Headers, _) => None,
        };
        match full {
            Some(encoding) => {
                let content_type = match kind {
                    DsnKind::Ordinary => "message/rfc822",
                    DsnKind::Utf8 => "message/global",
                };
                Self { content_type, encoding, content: original.to_vec() }
            }
            None => Self::headers(kind, header::split(original).0),
        }
    }

    /// RFC 6522 §4, RFC 6533 §6: 7bit, or quoted-printable where the header is not legal 7-bit
    /// text.
    fn headers(kind: DsnKind, header: &[u8]) -> Self {
        let (encoding, content) = match mime::shape(header) {
            MimeShape::SevenBit => (SEVEN_BIT, header.to_vec()),
            MimeShape::EightBit | MimeShape::Unsafe => {
                (QUOTED_PRINTABLE, mime::quoted_printable(header))
            }
        };
        let content_type = match kind {
            DsnKind::Ordinary => "text/rfc822-headers",
            DsnKind::Utf8 => "message/global-headers",
        };
        Self { content_type, encoding, content }
    }
}

fn push_part(out: &mut String, boundary: &str, content_type: &str, encoding: &str) {
    out.push_str(&format!("\r\n--{boundary}\r\n"));
    push_field(out, "Content-Type", content_type);
    push_field(out, "Content-Transfer-Encoding", encoding);
    out.push_str("\r\n");
}

/// RFC 5322 §3.3, in UTC.
fn date(time: Timestamp) -> String {
    time.strftime("%a, %d %b %Y %H:%M:%S +0000").to_string()
}
