//! The messages that clients send and servers take, and whether they are still the same at the end.

use std::path::{Path, PathBuf};

/// Octets of the large one.
const LARGE: usize = 20_000_000;

/// What is hard about a message.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    /// ASCII, with lines of dots.
    Plain,
    /// UTF-8 in header and body.
    Utf8,
    /// Octets over 127 that are no UTF-8, declared as what they are.
    EightBit,
    /// As much as people attach.
    Large,
}

impl Kind {
    /// All of them.
    pub(crate) const ALL: [Self; 4] = [Self::Plain, Self::Utf8, Self::EightBit, Self::Large];

    fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Utf8 => "utf8",
            Self::EightBit => "eightbit",
            Self::Large => "large",
        }
    }
}

/// One message, as octets and as files.
#[derive(Clone, Debug)]
pub(crate) struct Mail {
    pub(crate) kind: Kind,
    /// Lines end with CRLF.
    pub(crate) content: Vec<u8>,
    /// The content.
    pub(crate) crlf: PathBuf,
    /// The content with the line ends of this system.
    pub(crate) lf: PathBuf,
    /// The same without the last line end, for a client that adds one.
    pub(crate) unended: PathBuf,
}

impl Mail {
    /// Makes the message and writes it into `dir`.
    pub(crate) fn write(kind: Kind, dir: &Path) -> Self {
        let content = content(kind);
        let file = |ends: &str| dir.join(format!("{}.{ends}", kind.name()));
        let mail =
            Self { kind, crlf: file("crlf"), lf: file("lf"), unended: file("unended"), content };
        let unix: Vec<u8> = mail.content.iter().copied().filter(|byte| *byte != b'\r').collect();
        std::fs::write(&mail.crlf, &mail.content).expect("write a message");
        let unended = unix.strip_suffix(b"\n").expect("a last line");
        std::fs::write(&mail.unended, unended).expect("write a message");
        std::fs::write(&mail.lf, unix).expect("write a message");
        mail
    }

    /// Whether `text` is this message, going by its Message-ID.
    pub(crate) fn is_in(&self, text: &[u8]) -> bool {
        let id = format!("Message-ID: <{}@client.test>", self.kind.name());
        memchr::memmem::find(text, id.as_bytes()).is_some()
    }

    /// Fails unless `arrived` is this message, octet by octet, below fields of these names that
    /// others have put on top of it.
    pub(crate) fn assert_unchanged(&self, arrived: &[u8], on_top: &[&str], by: &str) {
        let what = format!("{} by {by}", self.kind.name());
        let Some(top) = arrived.strip_suffix(self.content.as_slice()) else {
            let ((header, body), (their_header, their_body)) =
                (split(&self.content), split(arrived));
            panic!(
                "{what}: the header\n{}\nbecame\n{}\nthe body {}",
                String::from_utf8_lossy(header),
                String::from_utf8_lossy(their_header),
                difference(body, their_body)
            );
        };
        for field in fields(top) {
            let name = field.split(|byte| *byte == b':').next().unwrap_or_default();
            let is_known = on_top.iter().any(|known| known.as_bytes() == name);
            assert!(is_known, "{what} has {} on top", String::from_utf8_lossy(&field));
        }
    }
}

fn content(kind: Kind) -> Vec<u8> {
    let header = format!(
        "From: Ann <ann@client.test>\r\nTo: Bob <bob@capture.test>\r\nSubject: {}\r\n\
         Date: Mon, 02 Mar 2026 10:00:00 +0000\r\nMessage-ID: <{}@client.test>\r\nX-Folded: one\r\n\
         \ttwo\r\nMIME-Version: 1.0\r\n",
        if kind == Kind::Utf8 { "Grüße aus Köln" } else { "hello" },
        kind.name()
    );
    let mut content = header.into_bytes();
    match kind {
        Kind::Plain => {
            content.extend(
                b"Content-Type: text/plain\r\n\r\nhello\r\n.\r\n..\r\n.x\r\n \t\r\n\r\nend\r\n",
            );
        }
        Kind::Utf8 => {
            content.extend(b"Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n");
            content.extend("Grüße, žluťoučký kůň, 日本語, 🦀\r\n.ünter\r\n".as_bytes());
        }
        Kind::EightBit => {
            content.extend(b"Content-Type: text/plain; charset=iso-8859-1\r\nContent-Transfer-Encoding: 8bit\r\n\r\n");
            content.extend((0xa0..=0xff_u8).chain([b'\r', b'\n', b'.', 0xe4, b'\r', b'\n']));
        }
        Kind::Large => {
            content.extend(b"Content-Type: text/plain\r\n\r\n");
            let mut number = 0_u64;
            while content.len() < LARGE {
                // Some lines begin with a dot, none is like another.
                let start = if number.is_multiple_of(100) { '.' } else { 'x' };
                content.extend(format!("{start}{number:075}\r\n").into_bytes());
                number += 1;
            }
        }
    }
    content
}

/// Header and body, without the empty line.
fn split(message: &[u8]) -> (&[u8], &[u8]) {
    let end = memchr::memmem::find(message, b"\r\n\r\n").expect("an empty line");
    (&message[..end + 2], &message[end + 4..])
}

/// The fields of a header, each with its continuation lines.
fn fields(header: &[u8]) -> Vec<Vec<u8>> {
    let mut fields: Vec<Vec<u8>> = Vec::new();
    for line in header.split_inclusive(|byte| *byte == b'\n') {
        match (line, fields.last_mut()) {
            ([b' ' | b'\t', ..], Some(field)) => field.extend(line),
            _ => fields.push(line.to_vec()),
        }
    }
    fields
}

/// Where two bodies part, for a failure that can be read.
fn difference(sent: &[u8], arrived: &[u8]) -> String {
    if sent == arrived {
        return "is the same".to_owned();
    }
    let at = sent.iter().zip(arrived).position(|(one, other)| one != other);
    let at = at.unwrap_or_else(|| sent.len().min(arrived.len()));
    let around = |body: &[u8]| {
        let around = &body[at.saturating_sub(20)..body.len().min(at + 20)];
        String::from_utf8_lossy(around).into_owned()
    };
    format!(
        "is another from octet {at} of {} (now {}): {:?} became {:?}",
        sent.len(),
        arrived.len(),
        around(sent),
        around(arrived)
    )
}
