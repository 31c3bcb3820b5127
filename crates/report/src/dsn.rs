//! What does a sender read when a message could not be delivered, and what does their software read?
//!
//! A delivery status notification (RFC 3464) in a `multipart/report` (RFC 6522): a text for people,
//! a part for programs, and the original message or its header. It is ASCII in short lines, unless
//! the original is returned in full and has 8-bit text; and nothing in it that a stranger wrote can
//! begin a line, a field or a body part.
//!
//! Not here: whether a notice is due (`staunch::outcome`), and its envelope, which is from `<>`
//! (RFC 5321 §6.1).

use jiff::Timestamp;
use smtp::{Class, HostName, Mailbox, RemoteText, Status};

use crate::lines::{push_field, push_paragraph};
use crate::mime::{self, Shape};

const DETAIL_INDENT: &str = "    ";

/// A failure notice: everything that is told about one message.
#[derive(Clone, Copy, Debug)]
pub struct Dsn<'a> {
    /// The name that this relay gives itself: a host name or an address literal.
    pub reporting_mta: &'a str,
    /// Address of the header From.
    pub from: &'a Mailbox,
    /// The sender of the message that failed: its reverse path.
    pub to: &'a Mailbox,
    /// The notice's own Message-ID, without angle brackets.
    pub message_id: &'a str,
    /// When the notice is written.
    pub date: Timestamp,
    /// When the message that failed was accepted.
    pub arrival_date: Timestamp,
    /// Our id of the message that failed, as the log and `staunch trace` have it.
    pub original_id: &'a str,
    /// Whom it could not be delivered to; at least one.
    pub recipients: &'a [FailedRecipient<'a>],
    /// How much of the original goes back.
    pub returned: Returned,
    /// The original message, or at least its header block. The caller bounds it.
    pub original: &'a [u8],
}

/// One recipient that the message did not reach.
#[derive(Clone, Debug)]
pub struct FailedRecipient<'a> {
    /// The address as it was given to us.
    pub final_recipient: &'a Mailbox,
    /// The last problem. Written with class 5, since it is final, also where time ran out on a 4.
    pub status: Status,
    /// The host that said [`Self::diagnostic`]; `None` if none was reached.
    pub remote_mta: Option<&'a HostName>,
    /// That host's reply, code included.
    pub diagnostic: Option<RemoteText>,
    /// `None` if no attempt was ever possible.
    pub last_attempt: Option<Timestamp>,
    /// What happened, for people: whole sentences, which name the policy if one was not met.
    pub explanation: &'a str,
}

/// How much of the original message is returned (RFC 3461 §4.3).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Returned {
    /// The header only, as `text/rfc822-headers`.
    Headers,
    /// Everything, as `message/rfc822`. A message that no transport promises to carry (over-long
    /// lines, NUL, bare CR or LF) is returned as [`Returned::Headers`] all the same: it cannot be
    /// encoded, since RFC 2046 §5.2.1 allows no encoding there.
    Full,
}

impl Dsn<'_> {
    /// The whole notice as it is queued: header and body, every line ended by CRLF.
    pub fn compose(&self) -> Vec<u8> {
        let text = self.text();
        let status = self.delivery_status();
        let original = ReturnedPart::new(self.returned, self.original);
        let boundary = mime::boundary(&[text.as_bytes(), status.as_bytes(), &original.content]);

        let mut out = self.header(&boundary, original.encoding);
        push_part(&mut out, &boundary, "text/plain; charset=us-ascii", SEVEN_BIT);
        out.push_str(&text);
        push_part(&mut out, &boundary, "message/delivery-status", SEVEN_BIT);
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
        push_field(&mut out, "Subject", "Your message could not be delivered");
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
        let opening = format!(
            "Your message of {} could not be delivered to {whom}. It will not be tried again.",
            date(self.arrival_date)
        );
        out.push_str("\r\n");
        push_paragraph(&mut out, &opening, "");
        for recipient in self.recipients {
            recipient.push_text(&mut out);
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
    fn delivery_status(&self) -> String {
        let mut out = String::new();
        push_field(&mut out, "Reporting-MTA", &format!("dns; {}", self.reporting_mta));
        push_field(&mut out, "Arrival-Date", &date(self.arrival_date));
        push_field(&mut out, "X-Staunch-Message-Id", self.original_id);
        for recipient in self.recipients {
            recipient.push_status(&mut out);
        }
        out
    }
}

impl FailedRecipient<'_> {
    fn status(&self) -> Status {
        self.status.with_class(Class::Permanent)
    }

    fn push_text(&self, out: &mut String) {
        out.push_str(&format!("\r\n<{}>\r\n", self.final_recipient));
        push_paragraph(out, self.explanation, DETAIL_INDENT);
        let said = self.diagnostic.as_ref().filter(|said| !said.is_empty());
        if let Some(said) = said {
            let who = self.remote_mta.map_or("The other server", HostName::as_str);
            push_paragraph(out, &format!("{who} said: {said}"), DETAIL_INDENT);
        }
        push_paragraph(
            out,
            &format!("Status {}. {}", self.status(), advice(self.status())),
            DETAIL_INDENT,
        );
    }

    fn push_status(&self, out: &mut String) {
        out.push_str(&format!("\r\nFinal-Recipient: rfc822; {}\r\n", self.final_recipient));
        push_field(out, "Action", "failed");
        push_field(out, "Status", &self.status().to_string());
        if let Some(host) = self.remote_mta {
            push_field(out, "Remote-MTA", &format!("dns; {host}"));
        }
        if let Some(said) = &self.diagnostic {
            push_field(out, "Diagnostic-Code", &format!("smtp; {said}"));
        }
        if let Some(time) = self.last_attempt {
            push_field(out, "Last-Attempt-Date", &date(time));
        }
    }
}

/// What the sender can do, by the subject of the status (RFC 3463 §3).
fn advice(status: Status) -> &'static str {
    match (status.subject, status.detail) {
        (7, 4 | 5) => {
            "The recipient's domain asks for protected delivery, and its servers did not offer it. \
             The message was kept back rather than sent unprotected. Please tell the recipient or \
             their postmaster by another way."
        }
        (7, 10 | 30) => {
            "You asked for this message to be sent over protected connections only, and there was \
             no such way to the recipient. Send it without this demand if it need not be protected."
        }
        (1, _) => "Please check the address for mistakes.",
        (2, _) => "The recipient's mailbox cannot take the message. Please reach them another way.",
        (3 | 4, _) => {
            "Sending it again later may succeed. If it does not, please tell the recipient or their \
             postmaster by another way."
        }
        (6, _) => "The recipient's servers cannot take a message in this form.",
        (7, _) => {
            "The recipient's servers do not accept this message. Please ask the recipient or their \
             postmaster by another way."
        }
        (_, _) => "Please ask the recipient or their postmaster by another way.",
    }
}

const SEVEN_BIT: &str = "7bit";
const EIGHT_BIT: &str = "8bit";

/// The part with the original, in a form that can travel.
struct ReturnedPart {
    content_type: &'static str,
    encoding: &'static str,
    content: Vec<u8>,
}

impl ReturnedPart {
    fn new(returned: Returned, original: &[u8]) -> Self {
        let full = match (returned, mime::shape(original)) {
            (Returned::Full, Shape::SevenBit) => Some(SEVEN_BIT),
            (Returned::Full, Shape::EightBit) => Some(EIGHT_BIT),
            (Returned::Full, Shape::Unsafe) | (Returned::Headers, _) => None,
        };
        match full {
            Some(encoding) => {
                Self { content_type: "message/rfc822", encoding, content: original.to_vec() }
            }
            None => Self::headers(mime::header_block(original)),
        }
    }

    /// RFC 6522 §4: 7bit, or quoted-printable where the header is not legal 7-bit text.
    fn headers(header: &[u8]) -> Self {
        let (encoding, content) = match mime::shape(header) {
            Shape::SevenBit => (SEVEN_BIT, header.to_vec()),
            Shape::EightBit | Shape::Unsafe => ("quoted-printable", mime::quoted_printable(header)),
        };
        Self { content_type: "text/rfc822-headers", encoding, content }
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
