//! What is learnt about a message while it streams in, so that nobody has to read it again.
//!
//! Pieces must not end between CR and LF; that is what the content receiver promises.

use std::sync::LazyLock;

use mail_parser::{HeaderName, MessageParser};
use spool::BodyFacts;

const CRLF: &[u8] = b"\r\n";

/// Octets of the header section that are looked into. A loop shows at the top, since every hop puts
/// its field there.
const HEADER_OCTETS_READ: usize = 256 * 1024;

static PARSER: LazyLock<MessageParser> = LazyLock::new(|| {
    MessageParser::new().ignore_header(HeaderName::Received).default_header_ignore()
});

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
    received_count: u32,
}

#[derive(Debug)]
enum Section {
    /// The header so far, up to [`HEADER_OCTETS_READ`].
    Header(Vec<u8>),
    Body,
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
            section: Section::Header(Vec::new()),
            received_count: 0,
        }
    }

    /// Octets held in memory.
    pub(super) fn memory(&self) -> usize {
        match &self.section {
            Section::Header(header) => header.capacity(),
            Section::Body => 0,
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
        if let Section::Header(header) = &mut self.section {
            let room = HEADER_OCTETS_READ.saturating_sub(header.len());
            header.extend_from_slice(front.get(..room).unwrap_or(front));
        }
        if empty_line.is_some() {
            self.end_header();
        }
    }

    fn end_header(&mut self) {
        if let Section::Header(header) = std::mem::replace(&mut self.section, Section::Body) {
            self.received_count = count_received(&header);
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

fn count_received(header: &[u8]) -> u32 {
    let message = PARSER.parse_headers(header);
    let fields = message.iter().flat_map(|message| message.headers());
    let count = fields.filter(|field| field.name == HeaderName::Received).count();
    u32::try_from(count).unwrap_or(u32::MAX)
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
    fn fields_beyond_what_is_read_are_not_counted_and_cost_no_memory() {
        let mut facts = Facts::new();
        let field = format!("Received: {}\r\n", "x".repeat(1000));
        for _ in 0..1000 {
            facts.update(field.as_bytes());
        }
        assert!(facts.memory() <= 2 * HEADER_OCTETS_READ);
        let count = facts.finish().received_count;
        assert!((200..=300).contains(&count), "{count}");
    }
}
