//! Where the header section of a message ends, and what a field of it is (RFC 5322 §2.1, §2.2).
//!
//! The one place that decides it: what repairs, converts, submits or returns messages asks here. A
//! field begins with its name, characters 33 to 126 without the colon (§2.2); blanks may stand
//! before the colon (§4.5). A line that begins with a blank continues the field above it (§2.2.3).
//! The header section ends at the first empty line, or *before* the first line that is no field, as
//! Postfix, Exim and Python's parser read it; a first line that begins with a blank continues
//! nothing, and so ends it, too.
//!
//! Lines end in CRLF; a bare LF or CR ends nothing.

use memchr::memchr;
use memchr::memmem;

/// Octets from the beginning of a line within which a field has its colon: a line has no more (RFC
/// 5322 §2.1.1), and whatever runs on without a colon is text.
pub const NAME_OCTETS_MAX: usize = 998;

const CRLF: &[u8] = b"\r\n";

/// What stands above a line of a header section.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Above {
    /// It is the first line.
    Nothing,
    /// A field, which a line with a blank in front continues.
    Field,
}

/// What a line of a header section is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum HeaderLine<'a> {
    /// It begins a field of this name.
    Field(&'a [u8]),
    /// It continues the field above.
    Continuation,
    /// It ends the section.
    Empty,
    /// The section has ended before it: this is text.
    Text,
}

impl<'a> HeaderLine<'a> {
    /// Of a line, its end included; of a long one, the first [`NAME_OCTETS_MAX`] octets are enough.
    pub fn of(line: &'a [u8], above: Above) -> Self {
        match (line.first(), above) {
            (Some(b' ' | b'\t'), Above::Field) => Self::Continuation,
            _ if line == CRLF => Self::Empty,
            (_, Above::Nothing | Above::Field) => name(line).map_or(Self::Text, Self::Field),
        }
    }
}

/// The name of the field that begins with this line (RFC 5322 §2.2, §4.5).
///
/// ```
/// use smtp::header::name;
///
/// assert_eq!(name(b"Subject : hello"), Some(&b"Subject"[..]));
/// assert_eq!(name(b"Dear all: hello"), None);
/// ```
pub fn name(line: &[u8]) -> Option<&[u8]> {
    let head = line.get(..NAME_OCTETS_MAX).unwrap_or(line);
    let front = head.get(..memchr(b':', head)?)?;
    let mut name = front;
    while let Some(front) = name.strip_suffix(b" ").or_else(|| name.strip_suffix(b"	")) {
        name = front;
    }
    (!name.is_empty() && name.iter().copied().all(is_name_octet)).then_some(name)
}

/// What stands behind the colon of a field.
pub fn value(field: &[u8]) -> &[u8] {
    memchr(b':', field).and_then(|colon| field.get(colon + 1..)).unwrap_or_default()
}

/// The first field of a header section with its continuation lines, and what follows; `None` where
/// the section has ended.
pub fn split_field(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let (first, mut rest) = split_line(text);
    name(first)?;
    while rest.starts_with(b" ") || rest.starts_with(b"\t") {
        rest = split_line(rest).1;
    }
    text.split_at_checked(text.len() - rest.len())
}

/// The fields of a message, each whole with its folding and its line end.
pub fn fields(message: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = message;
    std::iter::from_fn(move || {
        let (field, behind) = split_field(rest)?;
        rest = behind;
        Some(field)
    })
}

/// The header section of a message, and the rest, which begins with the empty line, or with the
/// first line that is no field, or is empty.
pub fn split(message: &[u8]) -> (&[u8], &[u8]) {
    let end = fields(message).map(<[u8]>::len).sum();
    message.split_at_checked(end).unwrap_or((message, b""))
}

/// The first line with its end, and the rest.
pub fn split_line(text: &[u8]) -> (&[u8], &[u8]) {
    let end = memmem::find(text, CRLF).map_or(text.len(), |at| at + CRLF.len());
    text.split_at_checked(end).unwrap_or((text, b""))
}

fn is_name_octet(octet: u8) -> bool {
    matches!(octet, 33..=126) && octet != b':'
}

/// What a [`HeaderScanner`] finds. The octets, in order, are those of the message.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum HeaderPart<'a> {
    /// A field of this name begins with the octets that follow.
    Field(&'a [u8]),
    /// Octets of the header section.
    Header(&'a [u8]),
    /// The section has ended before the octets that follow.
    End,
    /// Octets behind the section.
    Rest(&'a [u8]),
}

/// Finds fields and the end of a header section in a message that comes in pieces, none of which
/// ends between CR and LF. Holds the beginning of a line as long as it is undecided,
/// [`NAME_OCTETS_MAX`] at most.
#[derive(Debug)]
pub struct HeaderScanner {
    above: Above,
    place: HeaderPlace,
}

#[derive(Debug)]
enum HeaderPlace {
    /// The beginning of a line, as far as it is here.
    LineStart(Vec<u8>),
    /// In a line of the section.
    InLine,
    Behind,
}

impl Default for HeaderScanner {
    fn default() -> Self {
        Self { above: Above::Nothing, place: HeaderPlace::LineStart(Vec::new()) }
    }
}

impl HeaderScanner {
    /// Has the end of the section been found?
    pub fn is_behind(&self) -> bool {
        matches!(self.place, HeaderPlace::Behind)
    }

    /// Takes the next piece of the message; `take` gets its parts as far as they are decided.
    pub fn push(&mut self, piece: &[u8], mut take: impl FnMut(HeaderPart<'_>)) {
        let mut rest = piece;
        while !rest.is_empty() {
            rest = match &mut self.place {
                HeaderPlace::Behind => {
                    take(HeaderPart::Rest(rest));
                    return;
                }
                HeaderPlace::InLine => {
                    let (line, behind) = split_line(rest);
                    take(HeaderPart::Header(line));
                    if line.ends_with(CRLF) {
                        self.place = HeaderPlace::LineStart(Vec::new());
                    }
                    behind
                }
                HeaderPlace::LineStart(held) => {
                    let held = std::mem::take(held);
                    self.line_start(held, rest, &mut take)
                }
            };
        }
    }

    /// The message has ended.
    pub fn finish(&mut self, mut take: impl FnMut(HeaderPart<'_>)) {
        if let HeaderPlace::LineStart(held) = &mut self.place
            && !held.is_empty()
        {
            let held = std::mem::take(held);
            self.decided(&held, &mut take);
        }
        if !self.is_behind() {
            self.place = HeaderPlace::Behind;
            take(HeaderPart::End);
        }
    }

    /// Decides what a line is, or keeps its beginning.
    fn line_start<'p>(
        &mut self,
        mut held: Vec<u8>,
        piece: &'p [u8],
        take: &mut impl FnMut(HeaderPart<'_>),
    ) -> &'p [u8] {
        let (line, _) = split_line(piece);
        let room = NAME_OCTETS_MAX.saturating_sub(held.len());
        // Two more, so that a line end is not cut.
        let is_short = line.len() <= room + CRLF.len();
        let head = if is_short { line } else { line.get(..room).unwrap_or(line) };
        let rest = piece.get(head.len()..).unwrap_or_default();
        if held.is_empty() && is_decided(head) {
            self.decided(head, take);
            return rest;
        }
        held.extend_from_slice(head);
        if is_decided(&held) {
            self.decided(&held, take);
        } else {
            self.place = HeaderPlace::LineStart(held);
        }
        rest
    }

    /// Passes on a line, or the beginning of one, that is decided.
    fn decided(&mut self, head: &[u8], take: &mut impl FnMut(HeaderPart<'_>)) {
        match HeaderLine::of(head, self.above) {
            HeaderLine::Field(name) => {
                take(HeaderPart::Field(name));
                self.above = Above::Field;
            }
            HeaderLine::Continuation => {}
            HeaderLine::Empty | HeaderLine::Text => {
                self.place = HeaderPlace::Behind;
                take(HeaderPart::End);
                take(HeaderPart::Rest(head));
                return;
            }
        }
        let is_whole = head.ends_with(CRLF);
        self.place =
            if is_whole { HeaderPlace::LineStart(Vec::new()) } else { HeaderPlace::InLine };
        take(HeaderPart::Header(head));
    }
}

/// Will more of the line change nothing?
fn is_decided(head: &[u8]) -> bool {
    let front = head.iter().position(|&octet| !is_name_octet(octet)).unwrap_or(head.len());
    let behind = head.get(front..).unwrap_or_default();
    let blanks = behind.iter().take_while(|octet| matches!(octet, b' ' | b'\t')).count();
    front == 0 && !head.is_empty() || head.len() >= NAME_OCTETS_MAX || blanks < behind.len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_section_ends_before_the_first_line_that_is_no_field() {
        let long = "x".repeat(NAME_OCTETS_MAX);
        let cases: &[(&str, &str)] = &[
            ("", ""),
            ("A: b\r\n\r\nc: d\r\n", "A: b\r\n"),
            ("\r\nA: b\r\n", ""),
            ("A: b\r\n c\r\n\td: e\r\nF:\r\n\r\n", "A: b\r\n c\r\n\td: e\r\nF:\r\n"),
            ("A: b\r\n \r\nC: d\r\n", "A: b\r\n \r\nC: d\r\n"),
            (" A: b\r\nC: d\r\n\r\n", ""),
            ("\tA: b\r\n\r\n", ""),
            ("A \t: b\r\nC: cut off", "A \t: b\r\nC: cut off"),
            ("A: b\r\nDear all: c\r\nD: e\r\n\r\n", "A: b\r\n"),
            ("A: b\r\n/dev/sda1 is full\r\n\r\n", "A: b\r\n"),
            ("A: b\r\nGr\u{fc}\u{df}e: c\r\n\r\n", "A: b\r\n"),
            ("A: b\r\nC\u{1}: c\r\n\r\n", "A: b\r\n"),
            ("A: b\r\n: c\r\n\r\n", "A: b\r\n"),
            ("A: b\r\nno colon", "A: b\r\n"),
            ("From x Mon Mar  2 10:00:00\r\nA: b\r\n\r\n", ""),
            ("A\r: b\r\n", ""),
            ("A: b\nc\r\nD: e\r\n\r\n", "A: b\nc\r\nD: e\r\n"),
        ];
        for (message, want) in cases {
            let (header, rest) = split(message.as_bytes());
            assert_eq!(String::from_utf8_lossy(header), *want, "{message:?}");
            assert_eq!([header, rest].concat(), message.as_bytes());
        }
        assert_eq!(name(format!("{long}: a").as_bytes()), None);
        let fits = "x".repeat(NAME_OCTETS_MAX - 1);
        assert_eq!(name(format!("{fits}: a").as_bytes()), Some(fits.as_bytes()));
    }

    #[test]
    fn a_field_has_a_name_and_a_value() {
        assert_eq!(name(b"To: a"), Some(&b"To"[..]));
        assert_eq!(value(b"To : a: b\r\n"), b" a: b\r\n");
        assert_eq!(value(b"To"), b"");
        let found: Vec<_> = fields(b"A: b\r\n c\r\nD: e\r\n\r\nF: g\r\n").collect();
        assert_eq!(found, [&b"A: b\r\n c\r\n"[..], b"D: e\r\n"]);
    }

    /// Header, names and rest as the scanner finds them in `message`, cut into pieces of `size`.
    fn scanned(message: &[u8], size: usize) -> (Vec<u8>, Vec<Vec<u8>>, Vec<u8>) {
        let (mut header, mut names, mut rest) = (Vec::new(), Vec::new(), Vec::new());
        let mut ends = 0;
        let mut take = |part: HeaderPart<'_>| match part {
            HeaderPart::Field(name) => names.push(name.to_vec()),
            HeaderPart::Header(octets) => {
                assert_eq!(ends, 0);
                header.extend_from_slice(octets);
            }
            HeaderPart::End => ends += 1,
            HeaderPart::Rest(octets) => {
                assert_eq!(ends, 1);
                assert!(!(rest.ends_with(b"\r") && octets.starts_with(b"\n")));
                rest.extend_from_slice(octets);
            }
        };
        let mut scanner = HeaderScanner::default();
        let mut left = message;
        while !left.is_empty() {
            let mut at = size.min(left.len());
            if left[..at].ends_with(b"\r") && left[at..].starts_with(b"\n") {
                at += 1;
            }
            scanner.push(&left[..at], &mut take);
            left = &left[at..];
        }
        scanner.finish(&mut take);
        assert_eq!(ends, 1);
        (header, names, rest)
    }

    proptest! {
        #[test]
        fn in_pieces_it_is_the_same(
            words in prop::collection::vec(prop_oneof![
                4 => prop::sample::select(vec!["A", ":", " ", "\r\n", "\t", "\r\n\r\n", "b c", "\u{e4}", "\r", "\n"])
                    .prop_map(str::to_owned),
                1 => (990usize..1003).prop_map(|many| "x".repeat(many)),
                1 => (990usize..1003).prop_map(|many| format!("y{}", " ".repeat(many))),
            ], 0..14),
            size in prop_oneof![1usize..5, 990usize..1010, Just(usize::MAX)],
        ) {
            let message = words.concat().into_bytes();
            let (header, rest) = split(&message);
            let names: Vec<_> = fields(&message).map(|field| name(field).unwrap().to_vec()).collect();
            prop_assert_eq!(scanned(&message, size), (header.to_vec(), names, rest.to_vec()));
        }
    }
}
