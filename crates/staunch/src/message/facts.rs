//! What is learnt about a message while it streams in, so that nobody has to read it again.
//!
//! Pieces must not end between CR and LF; that is what the content receiver promises.

use smtp::RemoteText;
use smtp::header::{HeaderPart, HeaderScanner};
use spool::BodyFacts;

const CRLF: &[u8] = b"\r\n";

/// The name of the fields that are counted: each relay on the way adds one (RFC 5321 §4.4).
const RECEIVED: &[u8] = b"received";
/// The name of the field that the log has, too.
const MESSAGE_ID: &[u8] = b"message-id";
/// Our choice: octets of that field that are kept. Most have less than 100.
const FIELD_OCTETS_MAX: usize = 512;

/// The facts so far.
#[derive(Debug)]
pub(crate) struct Facts {
    size: u64,
    header_len: u64,
    has_8bit: bool,
    longest_line: u64,
    /// Octets of the line that the last piece left open.
    line: u64,
    at_line_start: bool,
    /// Finds the header's end, and counts while it streams by. Nothing of it is kept: a header may
    /// have megabytes, and a tree of it has more.
    header: HeaderScanner,
    received_count: u32,
    message_id: FirstField,
}

/// The first field of the name that is looked for, as far as it is kept.
#[derive(Debug, Default)]
struct FirstField {
    octets: Vec<u8>,
    place: FieldPlace,
}

/// Where the scanner is.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum FieldPlace {
    /// Before the field.
    #[default]
    Before,
    /// In it.
    Within,
    /// Behind it.
    Behind,
}

impl FirstField {
    fn note(&mut self, part: HeaderPart<'_>) {
        match (part, self.place) {
            (HeaderPart::Field(name), FieldPlace::Before)
                if name.eq_ignore_ascii_case(MESSAGE_ID) =>
            {
                self.place = FieldPlace::Within;
            }
            (HeaderPart::Field(_) | HeaderPart::End, FieldPlace::Within) => {
                self.place = FieldPlace::Behind;
            }
            (HeaderPart::Header(octets), FieldPlace::Within) => {
                let room = FIELD_OCTETS_MAX.saturating_sub(self.octets.len());
                self.octets.extend(octets.iter().take(room));
            }
            (
                HeaderPart::Field(_)
                | HeaderPart::End
                | HeaderPart::Header(_)
                | HeaderPart::Rest(_),
                _,
            ) => {}
        }
    }

    /// What stands behind its colon, in one line.
    fn text(&self) -> Option<RemoteText> {
        let colon = memchr::memchr(b':', &self.octets)?;
        let behind = String::from_utf8_lossy(self.octets.get(colon + 1..)?);
        let text = behind.split_whitespace().collect::<Vec<_>>().join(" ");
        (!text.is_empty()).then(|| RemoteText::new(&text))
    }
}

impl Facts {
    pub(crate) fn new() -> Self {
        Self {
            size: 0,
            header_len: 0,
            has_8bit: false,
            longest_line: 0,
            line: 0,
            at_line_start: true,
            header: HeaderScanner::default(),
            received_count: 0,
            message_id: FirstField::default(),
        }
    }

    /// The next piece of the message.
    pub(crate) fn update(&mut self, piece: &[u8]) {
        self.size += octets(piece);
        self.has_8bit |= !piece.is_ascii();
        let mut start = 0;
        for end in memchr::memchr_iter(b'\n', piece) {
            let line = piece.get(start..end).unwrap_or_default();
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            self.longest_line = self.longest_line.max(self.line + octets(line));
            (self.line, start) = (0, end + 1);
        }
        self.line += octets(piece.get(start..).unwrap_or_default());
        self.longest_line = self.longest_line.max(self.line);
        let Self { header, header_len, received_count, message_id, .. } = self;
        header.push(piece, |part| {
            message_id.note(part);
            note(part, header_len, received_count);
        });
        self.at_line_start = piece.ends_with(CRLF) || (self.at_line_start && piece.is_empty());
    }

    /// All that is stored of it, once the message has ended.
    pub(crate) fn finish(self) -> BodyFacts {
        self.finish_with_id().0
    }

    /// The same, with the text of its Message-ID field, if it has one.
    pub(crate) fn finish_with_id(mut self) -> (BodyFacts, Option<RemoteText>) {
        let Self { header, header_len, received_count, message_id, .. } = &mut self;
        header.finish(|part| {
            message_id.note(part);
            note(part, header_len, received_count);
        });
        let facts = BodyFacts {
            size: self.size,
            header_len: self.header_len,
            has_8bit: self.has_8bit,
            longest_line: self.longest_line,
            ends_with_newline: self.at_line_start && self.size > 0,
            received_count: self.received_count,
        };
        (facts, self.message_id.text())
    }
}

fn note(part: HeaderPart<'_>, header_len: &mut u64, received_count: &mut u32) {
    match part {
        HeaderPart::Field(name) if name.eq_ignore_ascii_case(RECEIVED) => {
            *received_count = received_count.saturating_add(1);
        }
        HeaderPart::Header(octets_of_it) => *header_len += octets(octets_of_it),
        HeaderPart::Field(_) | HeaderPart::End | HeaderPart::Rest(_) => {}
    }
}

/// The facts about a message that is at hand as a whole.
pub(crate) fn facts_of(message: &[u8]) -> BodyFacts {
    let mut facts = Facts::new();
    facts.update(message);
    facts.finish()
}

fn octets(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(pieces: &[&str]) -> BodyFacts {
        let mut facts = Facts::new();
        for piece in pieces {
            facts.update(piece.as_bytes());
        }
        facts.finish()
    }

    #[test]
    fn the_header_ends_at_the_first_line_that_is_no_field_at_any_cut() {
        let cases = [
            ("A: b\r\nC: d\r\n\r\nbody\r\n", 12, 0),
            ("A: b\r\n", 6, 0),
            ("\r\nbody\r\n", 0, 0),
            (
                "Received: a\r\nreceived: b\r\n\tfolded\r\nX: Received: c\r\n\r\nReceived: d\r\n\r\n",
                51,
                2,
            ),
            ("Received : a\r\nnot a field\r\nReceived: b\r\n\r\n", 14, 1),
            ("not a field\r\nReceived: a\r\n\r\n", 0, 0),
        ];
        for (message, header_len, received_count) in cases {
            for cut in 1..=message.len() {
                let (front, back) = message.split_at(cut);
                if front.ends_with('\r') {
                    continue;
                }
                let got = facts(&[front, back]);
                let want = (header_len, received_count, facts(&[message]));
                assert_eq!(
                    (got.header_len, got.received_count, got),
                    (want.0, want.1, want.2),
                    "{message:?} at {cut}"
                );
            }
        }
    }

    #[test]
    fn size_lines_and_octets_are_measured() {
        let got = facts(&["A: b\r\n\r\n123", "45\r\n", "\u{fc}"]);
        assert_eq!(got.size, 17);
        assert_eq!(got.longest_line, 5);
        assert!(got.has_8bit);
        assert!(!got.ends_with_newline);
        assert!(facts(&["A: b\r\n", ""]).ends_with_newline);
        assert!(!facts(&[]).ends_with_newline);
        assert_eq!(facts(&[&"x".repeat(500), &"x".repeat(600)]).longest_line, 1100);
    }

    #[test]
    fn received_fields_are_counted_at_line_starts_however_many_there_are() {
        let cases = [
            ("RECEIVED:a\r\nReceived \t: b\r\n", 2),
            ("A: b\r\n Received: folded\r\n\tReceived: folded\r\n", 0),
            ("Receive: a\r\nReceivedX: b\r\nX-Received: c\r\nReceived x: d\r\n", 0),
            ("Received\r\n: no field\r\n", 0),
        ];
        for (header, want) in cases {
            assert_eq!(facts(&[header]).received_count, want, "{header:?}");
        }
        let field = format!("Received: {}\r\n", "x".repeat(1000));
        let pieces = vec![field.as_str(); 2000];
        assert_eq!(facts(&pieces).received_count, 2000);
    }
}
