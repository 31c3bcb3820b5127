//! What is learnt about a message while it streams in, so that nobody has to read it again.
//!
//! Pieces must not end between CR and LF; that is what the content receiver promises.

use spool::BodyFacts;

const CRLF: &[u8] = b"\r\n";

/// The name of the fields that are counted: each relay on the way adds one (RFC 5321 §4.4).
const RECEIVED: &[u8] = b"received";

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
    section: Section,
    /// Of the header that has ended.
    received_count: u32,
}

#[derive(Debug)]
enum Section {
    Header(ReceivedFields),
    Body,
}

/// Counts `Received` fields while the header streams by. Nothing of it is kept: a header may have megabytes, and a tree of it has more.
#[derive(Debug, Default)]
struct ReceivedFields {
    count: u32,
    line: Line,
}

/// How far the current line of a header is read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Line {
    /// So many octets, all of the name.
    Name(usize),
    /// The name, and perhaps blanks (RFC 5322 §4.5.8).
    BeforeColon,
    /// Far enough.
    Decided,
}

impl Default for Line {
    fn default() -> Self {
        Self::Name(0)
    }
}

impl ReceivedFields {
    /// The next piece of the header.
    fn look(&mut self, mut piece: &[u8]) {
        while let Some((octet, rest)) = piece.split_first() {
            self.line = match (self.line, octet) {
                (Line::Decided, _) => {
                    let Some(end) = memchr::memchr(b'\n', piece) else { return };
                    piece = piece.get(end + 1..).unwrap_or_default();
                    self.line = Line::default();
                    continue;
                }
                (_, b'\n') => Line::default(),
                (Line::Name(seen), octet) => match RECEIVED.get(seen) {
                    Some(wanted) if !octet.eq_ignore_ascii_case(wanted) => Line::Decided,
                    Some(_) if seen + 1 == RECEIVED.len() => Line::BeforeColon,
                    Some(_) => Line::Name(seen + 1),
                    None => Line::Decided,
                },
                (Line::BeforeColon, b' ' | b'\t') => Line::BeforeColon,
                (Line::BeforeColon, b':') => {
                    self.count = self.count.saturating_add(1);
                    Line::Decided
                }
                (Line::BeforeColon, _) => Line::Decided,
            };
            piece = rest;
        }
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
            section: Section::Header(ReceivedFields::default()),
            received_count: 0,
        }
    }

    /// The next piece of the message.
    pub(crate) fn update(&mut self, piece: &[u8]) {
        self.size += octets(piece);
        self.has_8bit |= !piece.is_ascii();
        self.measure_lines(piece);
        match &mut self.section {
            Section::Body => {}
            Section::Header(_) => self.header(piece),
        }
        self.at_line_start = piece.ends_with(CRLF) || (self.at_line_start && piece.is_empty());
    }

    fn measure_lines(&mut self, piece: &[u8]) {
        let mut start = 0;
        for end in memchr::memchr_iter(b'\n', piece) {
            let line = piece.get(start..end).unwrap_or_default();
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            self.longest_line = self.longest_line.max(self.line + octets(line));
            (self.line, start) = (0, end + 1);
        }
        self.line += octets(piece.get(start..).unwrap_or_default());
        self.longest_line = self.longest_line.max(self.line);
    }

    /// A piece that begins in the header section.
    fn header(&mut self, piece: &[u8]) {
        let empty_line = if self.at_line_start && piece.starts_with(CRLF) {
            Some(0)
        } else {
            memchr::memmem::find(piece, b"\r\n\r\n").map(|at| at + CRLF.len())
        };
        let end = empty_line.unwrap_or(piece.len());
        let front = piece.get(..end).unwrap_or(piece);
        self.header_len += octets(front);
        if let Section::Header(received) = &mut self.section {
            received.look(front);
        }
        if empty_line.is_some() {
            self.end_header();
        }
    }

    fn end_header(&mut self) {
        if let Section::Header(received) = std::mem::replace(&mut self.section, Section::Body) {
            self.received_count = received.count;
        }
    }

    /// All that is known once the message has ended.
    pub(crate) fn finish(mut self) -> BodyFacts {
        self.end_header();
        BodyFacts {
            size: self.size,
            header_len: self.header_len,
            has_8bit: self.has_8bit,
            longest_line: self.longest_line,
            ends_with_newline: self.at_line_start && self.size > 0,
            received_count: self.received_count,
        }
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
    fn the_header_ends_at_the_first_empty_line_at_any_cut() {
        let cases = [
            ("A: b\r\nC: d\r\n\r\nbody\r\n", 12, 0),
            ("A: b\r\n", 6, 0),
            ("\r\nbody\r\n", 0, 0),
            (
                "Received: a\r\nreceived: b\r\n\tfolded\r\nX: Received: c\r\n\r\nReceived: d\r\n\r\n",
                51,
                2,
            ),
            ("not a field\r\nReceived : a\r\n\r\n", 27, 1),
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
            (" Received: folded\r\n\tReceived: folded\r\n", 0),
            ("Receive: a\r\nReceivedX: b\r\nX-Received: c\r\nReceived\r\nReceived x: d\r\n", 0),
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
