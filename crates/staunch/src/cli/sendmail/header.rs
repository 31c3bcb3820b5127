//! The header section of a message from a local program: who gets it, what is missing, what must
//! not go out.

use std::borrow::Cow;

use smtp::{Domain, header};

use super::addresses::{self, Completion, ReadList};

/// A message, its header fields apart.
#[derive(Clone, Debug)]
pub(super) struct Message<'a> {
    /// Each whole, with its folding and its line end.
    fields: Vec<&'a [u8]>,
    /// What follows the empty line.
    body: &'a [u8],
}

/// What a message lacks is made of this.
#[derive(Clone, Copy, Debug)]
pub(super) struct Defaults<'a> {
    /// The author's address, for a From that we add.
    pub(super) from: &'a str,
    /// The author's name, if known.
    pub(super) name: Option<&'a str>,
    /// For Date, in the form of RFC 5322 §3.3.
    pub(super) date: &'a str,
    /// For Message-ID, without angle brackets.
    pub(super) message_id: &'a str,
    /// The domain of names without one.
    pub(super) origin: &'a Domain,
}

/// Fields with addresses, Bcc apart, which does not go out (RFC 5322 §3.6.2, §3.6.3, §3.6.6).
const WITH_ADDRESSES: [&str; 10] = [
    "From",
    "Sender",
    "Reply-To",
    "To",
    "Cc",
    "Resent-From",
    "Resent-Sender",
    "Resent-Reply-To",
    "Resent-To",
    "Resent-Cc",
];

impl<'a> Message<'a> {
    /// Finds the fields. The first line that is no field ends the header section, also without an
    /// empty line between: whoever pipes in plain text has no header at all.
    pub(super) fn parse(text: &'a [u8]) -> Self {
        let mut rest = text;
        // The separator of mbox files, which some programs write in front.
        if rest.starts_with(b"From ") {
            rest = header::split_line(rest).1;
        }
        let mut fields = Vec::new();
        while let Some((field, tail)) = header::split_field(rest) {
            fields.push(field);
            rest = tail;
        }
        Self { fields, body: rest.strip_prefix(b"\r\n").unwrap_or(rest) }
    }

    /// Whether there is a field of this name.
    fn has(&self, name: &str) -> bool {
        self.fields.iter().any(|field| is_named(field, name))
    }

    /// Everybody in To, Cc and Bcc; of a message that is sent again, in those that say so (RFC 5322
    /// §3.6.6). Without [`ReadList::bare_ends`].
    pub(super) fn recipients(&self, completion: Completion<'_>) -> ReadList {
        const AGAIN: [&str; 3] = ["Resent-To", "Resent-Cc", "Resent-Bcc"];
        let is_again = AGAIN.iter().any(|name| self.has(name));
        let names = if is_again { AGAIN } else { ["To", "Cc", "Bcc"] };
        let mut all = ReadList::default();
        for field in &self.fields {
            if names.iter().any(|name| is_named(field, name)) {
                let read =
                    addresses::parse(&String::from_utf8_lossy(header::value(field)), completion);
                all.addresses.extend(read.addresses);
                all.faults.extend(read.faults);
            }
        }
        all
    }

    /// The message as it goes out: without Bcc, with what every message has to have (RFC 5322
    /// §3.6), and with a domain behind each address, as §3.4.1 has it (RFC 6409 §8.1).
    pub(super) fn finish(&self, defaults: &Defaults<'_>) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.body.len() + 4096);
        let is_secret = |field: &[u8]| is_named(field, "Bcc") || is_named(field, "Resent-Bcc");
        for field in self.fields.iter().filter(|field| !is_secret(field)) {
            out.extend_from_slice(&with_domains(field, defaults.origin));
        }
        let missing = [
            ("From", author(defaults.from, defaults.name)),
            ("Date", defaults.date.to_owned()),
            ("Message-ID", format!("<{}>", defaults.message_id)),
        ];
        for (name, value) in missing.iter().filter(|(name, _)| !self.has(name)) {
            out.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(self.body);
        out
    }
}

fn is_named(field: &[u8], wanted: &str) -> bool {
    header::name(field).is_some_and(|name| name.eq_ignore_ascii_case(wanted.as_bytes()))
}

/// The field with `@origin` behind each bare name, and else as it was. One that is not understood
/// stays as it is.
fn with_domains<'f>(field: &'f [u8], origin: &Domain) -> Cow<'f, [u8]> {
    if !WITH_ADDRESSES.iter().any(|name| is_named(field, name)) {
        return Cow::Borrowed(field);
    }
    let value = header::value(field);
    let read = addresses::parse(&same_length(value), &|name| format!("{name}@{origin}"));
    if !read.faults.is_empty() || read.bare_ends.is_empty() {
        return Cow::Borrowed(field);
    }
    let begin = field.len() - value.len();
    let mut whole = Vec::with_capacity(field.len() + 64);
    let mut rest = field;
    for end in read.bare_ends {
        let done = field.len() - rest.len();
        let (before, behind) = rest.split_at_checked(begin + end - done).unwrap_or((rest, &[]));
        whole.extend_from_slice(before);
        whole.extend_from_slice(format!("@{origin}").as_bytes());
        rest = behind;
    }
    whole.extend_from_slice(rest);
    Cow::Owned(whole)
}

/// As text of as many octets. Letters of an older character set become something that is in no
/// address.
fn same_length(value: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(value) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => {
            let masked = value.iter().map(|b| if b.is_ascii() { char::from(*b) } else { '\x7f' });
            Cow::Owned(masked.collect())
        }
    }
}

/// A From field's value.
fn author(address: &str, name: Option<&str>) -> String {
    let Some(name) = name.filter(|name| !name.trim().is_empty()) else { return address.to_owned() };
    let is_phrase = name.bytes().all(|b| b.is_ascii_alphanumeric() || b" -_!".contains(&b));
    if is_phrase {
        return format!("{name} <{address}>");
    }
    let quoted = name.replace('\\', "\\\\").replace('"', "\\\"");
    let value = format!("\"{quoted}\" <{address}>");
    // Where the address has UTF-8, the mail goes by SMTPUTF8, and the name as it is.
    let encoded = smtp::mime::in_ascii(format!("From: {value}\r\n").as_bytes());
    let encoded = encoded.ok().and_then(|field| String::from_utf8(field).ok());
    let encoded = encoded.as_deref().and_then(|field| field.strip_prefix("From:"));
    encoded.map_or(value, |value| value.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use mail_parser::MessageParser;

    use super::*;

    const ADDED: &str = "From: Me <me@host.example>\r\nDate: Mon, 2 Mar 2026 10:00:00 +0000\r\n\
                         Message-ID: <id@host.example>\r\n";

    fn finished_octets(text: &[u8]) -> Vec<u8> {
        let defaults = Defaults {
            from: "me@host.example",
            name: Some("Me"),
            date: "Mon, 2 Mar 2026 10:00:00 +0000",
            message_id: "id@host.example",
            origin: &Domain::Name(smtp::HostName::parse("host.example").unwrap()),
        };
        Message::parse(text).finish(&defaults)
    }

    fn finished(text: &str) -> String {
        String::from_utf8(finished_octets(text.as_bytes())).unwrap()
    }

    fn recipients(text: &str) -> ReadList {
        Message::parse(text.as_bytes()).recipients(&|name| format!("{name}@host.example"))
    }

    #[test]
    fn what_is_missing_is_added_and_what_is_there_stays() {
        let whole = "from: a@b.example\r\nDATE: x\r\nMessage-Id : <1@2>\r\n\r\nbody\r\n";
        let cases = [
            ("", format!("{ADDED}\r\n")),
            ("hello\r\n", format!("{ADDED}\r\nhello\r\n")),
            ("see this: x\r\n", format!("{ADDED}\r\nsee this: x\r\n")),
            ("\r\nSubject: no field\r\n", format!("{ADDED}\r\nSubject: no field\r\n")),
            ("Subject: x\r\nhello\r\n", format!("Subject: x\r\n{ADDED}\r\nhello\r\n")),
            ("Subject: x\r\n y\r\n\r\n\r\nb", format!("Subject: x\r\n y\r\n{ADDED}\r\n\r\nb")),
            ("From me Mon Mar  2\r\nA: b\r\n\r\n", format!("A: b\r\n{ADDED}\r\n")),
            (whole, whole.to_owned()),
        ];
        for (text, want) in cases {
            assert_eq!(finished(text), want, "{text}");
        }
    }

    /// Large providers refuse an author without a domain, which is how cron writes root.
    #[test]
    fn an_address_without_a_domain_gets_one_and_the_field_stays_as_it_was() {
        let cases: &[(&str, &str)] = &[
            ("From: root (Cron Daemon)", "From: root@host.example (Cron Daemon)"),
            ("from : \"(Cron Daemon)\" <root>", "from : \"(Cron Daemon)\" <root@host.example>"),
            (
                "To: a,\r\n\tB <b>,\r\n c@x.example",
                "To: a@host.example,\r\n\tB <b@host.example>,\r\n c@x.example",
            ),
            ("Reply-To: G: a, \"b c\";", "Reply-To: G: a@host.example, \"b c\"@host.example;"),
            ("Resent-From:a", "Resent-From:a@host.example"),
            ("Cc: undisclosed-recipients:;", "Cc: undisclosed-recipients:;"),
            ("Sender: <>", "Sender: <>"),
            ("To: John Doe, root", "To: John Doe, root"),
            ("To: root (", "To: root ("),
            ("To: =?utf-8?q?a", "To: =?utf-8?q?a"),
            ("Subject: root", "Subject: root"),
            ("X-To: root", "X-To: root"),
        ];
        for (field, want) in cases {
            let text = finished(&format!("{field}\r\n\r\nTo: b\r\n"));
            assert!(text.starts_with(&format!("{want}\r\n")), "{field}: {text}");
            assert!(text.ends_with("\r\n\r\nTo: b\r\n"), "{text}");
        }
        let latin1 = finished_octets(b"From: J\xfcrgen <root>\r\nTo: j\xfcrgen\r\n\r\n");
        let want = b"From: J\xfcrgen <root@host.example>\r\nTo: j\xfcrgen\r\n";
        assert!(latin1.starts_with(want), "{}", latin1.escape_ascii());
    }

    #[test]
    fn nobody_sees_who_gets_a_blind_copy() {
        let text = "To: a@x.example\r\nBCC: b@x.example,\r\n\tc@x.example\r\nresent-bcc: d@x.example\r\n\
                    Subject: Bcc: is fine\r\n\r\nBcc: stays\r\n";
        let want = format!("To: a@x.example\r\nSubject: Bcc: is fine\r\n{ADDED}\r\nBcc: stays\r\n");
        assert_eq!(finished(text), want);
    }

    #[test]
    fn recipients_stand_in_all_their_fields_of_the_latest_sending() {
        let text = "To: A <a@x.example>,\r\n =?utf-8?q?=C3=BC=2C?= <b@x.example>\r\n\
                    Cc: Group: c@x.example, \"d, e\" <d@x.example>;\r\nTo: f\r\nBcc: g@x.example\r\n\
                    Reply-To: no@x.example\r\n\r\nTo: no@x.example\r\n";
        let want = [
            "a@x.example",
            "b@x.example",
            "c@x.example",
            "d@x.example",
            "f@host.example",
            "g@x.example",
        ];
        assert_eq!(recipients(text).addresses, want);
        let again = format!("Resent-To: h@x.example\r\nResent-Bcc: i@x.example\r\n{text}");
        assert_eq!(recipients(&again).addresses, ["h@x.example", "i@x.example"]);
        assert_eq!(recipients("To: undisclosed-recipients:;\r\n\r\n"), ReadList::default());
        let read = recipients("To: John Doe, a@x.example\r\nCc: b@\r\n\r\n");
        assert_eq!((read.addresses.len(), read.faults.len()), (1, 2));
    }

    #[test]
    fn an_author_s_name_of_any_kind_is_read_again() {
        let long = "Ünïcödé ".repeat(20);
        for name in ["Cron Daemon", "Doe, \"J\" \\", "root (admin)", "Jürgen", long.trim()] {
            let value = author("a@x.example", Some(name));
            let text = format!("From: {value}\r\n\r\n");
            let message = MessageParser::new().parse(text.as_bytes()).unwrap();
            let from = message.from().and_then(|from| from.first()).unwrap();
            assert_eq!((from.name(), from.address()), (Some(name), Some("a@x.example")), "{value}");
            assert!(
                value.is_ascii() && value.split("\r\n").all(|line| line.len() <= 78 + 14),
                "{value}"
            );
        }
        assert_eq!(author("a@x.example", Some(" ")), "a@x.example");
    }
}
