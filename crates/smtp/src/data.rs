//! Where does the content of DATA or BDAT end, and may it be kept?
//!
//! Only CRLF ends a line and only CRLF `.` CRLF ends the content (RFC 5321 §2.3.8, §4.1.1.4).
//! Servers that are more generous let a message carry commands of its own past their neighbours; so
//! what is not clean is read to its true end and then refused, or, where that is configured,
//! normalized: but what ends the content is never a matter of the content. A client that ends its
//! commands with LF ends its content so, too.
//!
//! Content is handed on as slices of the input, with line ends and without the transparency dots
//! (§4.5.2). What a receiver says does not depend on how the input was cut into pieces.
//!
//! BDAT counts octets instead (RFC 3030), so dots mean nothing there; what a line may be is the
//! same.

use crate::limits::CONTENT_LINE_ACCEPTED_OCTETS;
use crate::response::Response;
use crate::status::Status;

/// What CR and LF alone mean in the content.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Newlines {
    /// The message is refused.
    #[default]
    Strict,
    /// LF is a line end, with all CRs before it; CRs elsewhere become one blank. For old clients in
    /// trusted networks.
    ///
    /// Not a line end for each CR: that would turn the common damage CR CR LF into an empty line,
    /// and so the middle of a header into its end.
    Normalize,
}

/// What ends the lines of a client, and so its content: it cannot be one thing in commands and
/// another in the end mark, or a message could carry an end mark of its own.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum LineEnd {
    /// CRLF. Dots count only behind it.
    #[default]
    CrLf,
    /// LF, with or without a CR before it.
    Lf,
}

/// Why the content cannot be kept. Of several the greatest is told, whatever came first.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Fault {
    /// More octets than the limit (RFC 1870 §6.3).
    TooLarge,
    /// A line over [`CONTENT_LINE_ACCEPTED_OCTETS`].
    LineTooLong,
    /// A NUL (RFC 5322 §4 calls it obsolete; some peers drop it and then see other lines).
    Nul,
    /// A CR that no LF follows.
    BareCr,
    /// An LF that follows no CR.
    BareLf,
}

impl Fault {
    /// The answer to the end of such content, and to a MAIL that announces it.
    pub fn response(self) -> Response {
        match self {
            Self::TooLarge => Response::fixed(552, Status::permanent(3, 4), "Message too large"),
            Self::LineTooLong => {
                Response::fixed(550, Status::permanent(6, 0), "A line is longer than 64 KiB")
            }
            Self::Nul => Response::fixed(550, Status::permanent(5, 2), "NUL in the message"),
            Self::BareCr | Self::BareLf => {
                Response::fixed(550, Status::permanent(5, 2), "Bare CR or LF in the message")
            }
        }
    }
}

/// What the next part of the input was.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Chunk<'i> {
    /// Content. None comes any more once there is a [`Fault`].
    Content(&'i [u8]),
    /// The input is used up.
    NeedInput,
    /// The content has ended; the rest of the input are commands. See [`DataReceiver::fault`].
    End,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum DataState {
    /// Behind a line end or at the beginning.
    LineStart,
    /// Inside a line, where a dot is content like any other octet.
    Text,
    /// Behind a CR, or several, not handed on yet.
    Cr,
    /// Behind a dot at the start of a line, which is not handed on.
    Dot,
    /// Behind such a dot and a CR.
    DotCr,
}

/// What tells where the content ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum DataFraming {
    /// A lone dot; dots at the start of other lines are dropped. Lines are those of the client.
    Dots(LineEnd),
    /// The caller, who counts.
    Octets,
}

/// Receives the content of one DATA command.
///
/// ```
/// use smtp::data::{Chunk, DataReceiver, Newlines};
/// let mut receiver = DataReceiver::new(Newlines::Strict, 1000);
/// let mut input = &b"a\r\n..b\r\n.\r\nQUIT\r\n"[..];
/// assert_eq!(receiver.next(&mut input), Chunk::Content(b"a\r\n"));
/// assert_eq!(receiver.next(&mut input), Chunk::Content(b".b\r\n"));
/// assert_eq!(receiver.next(&mut input), Chunk::End);
/// assert_eq!(input, b"QUIT\r\n");
/// ```
#[derive(Clone, Debug)]
pub struct DataReceiver {
    framing: DataFraming,
    state: DataState,
    newlines: Newlines,
    fault: Option<Fault>,
    size: u64,
    size_max: u64,
    /// Octets of the current line that were seen in earlier pieces.
    line: usize,
}

impl DataReceiver {
    /// Expects content of at most `size_max` octets, counted as RFC 1870 §6.1 does: with line ends,
    /// without transparency dots and end mark.
    pub fn new(newlines: Newlines, size_max: u64) -> Self {
        Self {
            framing: DataFraming::Dots(LineEnd::CrLf),
            state: DataState::LineStart,
            newlines,
            fault: None,
            size: 0,
            size_max,
            line: 0,
        }
    }

    /// Expects content from a client whose commands end with `end`.
    pub fn ended_by(self, end: LineEnd) -> Self {
        Self { framing: DataFraming::Dots(end), ..self }
    }

    /// Octets handed on so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Why the content seen so far cannot be kept.
    pub fn fault(&self) -> Option<Fault> {
        self.fault
    }

    /// Takes the next part off the front of `input`. Not to be called again after [`Chunk::End`].
    pub fn next<'i>(&mut self, input: &mut &'i [u8]) -> Chunk<'i> {
        while let Some((&first, rest)) = input.split_first() {
            let mut content: &'i [u8] = b"";
            match (self.state, first, self.newlines) {
                (DataState::LineStart, b'.', _) if self.framing != DataFraming::Octets => {
                    self.consume(input, rest, DataState::Dot);
                    // Nearly always text, which needs no look of its own.
                    if rest.first().is_some_and(|next| !matches!(next, b'\r' | b'\n')) {
                        content = self.lines(input);
                    }
                }
                (DataState::Dot, b'\r', _) => self.consume(input, rest, DataState::DotCr),
                (DataState::DotCr, b'\n', _) => return self.end(input, rest),
                (DataState::Dot, b'\n', _) if self.framing == DataFraming::Dots(LineEnd::Lf) => {
                    return self.end(input, rest);
                }
                (DataState::Cr, b'\n', _) => {
                    self.consume(input, rest, DataState::LineStart);
                    self.end_line(0);
                    content = b"\r\n";
                }
                (DataState::Cr | DataState::DotCr, b'\r', Newlines::Normalize) => {
                    self.consume(input, rest, DataState::Cr);
                }
                // The octet is looked at again, as text.
                (DataState::Cr | DataState::DotCr, _, Newlines::Normalize) => {
                    self.grow_line(1);
                    self.state = DataState::Text;
                    content = b" ";
                }
                (DataState::Cr | DataState::DotCr, _, Newlines::Strict) => {
                    self.blame(Fault::BareCr, DataState::Text);
                }
                (
                    DataState::LineStart | DataState::Text | DataState::Dot,
                    b'\n',
                    Newlines::Normalize,
                ) => {
                    self.consume(input, rest, self.behind_bare_lf());
                    self.end_line(0);
                    content = b"\r\n";
                }
                (DataState::LineStart | DataState::Text | DataState::Dot, ..) => {
                    content = self.lines(input)
                }
            }
            if let Some(content) = self.keep(content) {
                return Chunk::Content(content);
            }
        }
        Chunk::NeedInput
    }

    fn consume<'i>(&mut self, input: &mut &'i [u8], rest: &'i [u8], state: DataState) {
        *input = rest;
        self.state = state;
    }

    /// To a client that ends lines with CRLF, a dot behind a bare LF is text, and the end mark is
    /// not there.
    fn behind_bare_lf(&self) -> DataState {
        match self.framing {
            DataFraming::Dots(LineEnd::CrLf) => DataState::Text,
            DataFraming::Dots(LineEnd::Lf) | DataFraming::Octets => DataState::LineStart,
        }
    }

    fn end<'i>(&mut self, input: &mut &'i [u8], rest: &'i [u8]) -> Chunk<'i> {
        self.consume(input, rest, DataState::LineStart);
        Chunk::End
    }

    fn blame(&mut self, fault: Fault, state: DataState) {
        self.fault = self.fault.max(Some(fault));
        self.state = state;
    }

    /// Takes the longest part of `input` that can be handed on in one piece: up to a dot to be
    /// dropped, an LF to be replaced, or a CR whose LF is not there yet.
    fn lines<'i>(&mut self, input: &mut &'i [u8]) -> &'i [u8] {
        let all = *input;
        self.state = DataState::Text;
        let (mut line_start, mut from) = (0, 0);
        while let Some(at) = find_special(all, from) {
            match (all.get(at), all.get(at + 1)) {
                (Some(b'\r'), Some(b'\n')) => {
                    self.end_line(at - line_start);
                    (line_start, from) = (at + 2, at + 2);
                    self.state = DataState::LineStart;
                    if matches!(all.get(from), Some(b'.') | None) {
                        return take(input, from, from);
                    }
                    self.state = DataState::Text;
                    continue;
                }
                (Some(b'\r'), next) if next.is_none() || self.newlines == Newlines::Normalize => {
                    self.grow_line(at - line_start);
                    self.state = DataState::Cr;
                    return take(input, at, at + 1);
                }
                (Some(b'\r'), _) => self.blame(Fault::BareCr, DataState::Text),
                (Some(b'\n'), _) if self.newlines == Newlines::Normalize => {
                    self.grow_line(at - line_start);
                    return take(input, at, at);
                }
                (Some(b'\n'), _) => self.blame(Fault::BareLf, DataState::Text),
                _ => self.blame(Fault::Nul, DataState::Text),
            }
            from = at + 1;
        }
        self.grow_line(all.len() - line_start);
        take(input, all.len(), all.len())
    }

    fn grow_line(&mut self, octets: usize) {
        self.line = self.line.saturating_add(octets);
        if self.line > CONTENT_LINE_ACCEPTED_OCTETS {
            self.blame(Fault::LineTooLong, self.state);
        }
    }

    fn end_line(&mut self, octets: usize) {
        self.grow_line(octets);
        self.line = 0;
    }

    /// What of `content` is handed on: nothing after a fault, and not more than the limit.
    fn keep<'i>(&mut self, content: &'i [u8]) -> Option<&'i [u8]> {
        if self.fault.is_some() {
            return None;
        }
        let room = usize::try_from(self.size_max - self.size).unwrap_or(usize::MAX);
        let mut kept = content.get(..room).unwrap_or(content);
        if kept.len() < content.len() {
            self.blame(Fault::TooLarge, self.state);
            // Not between CR and LF, not even where all is lost.
            kept = kept.strip_suffix(b"\r").unwrap_or(kept);
        }
        self.size += kept.len() as u64;
        (!kept.is_empty()).then_some(kept)
    }
}

/// Receives the content of one message that comes by BDAT (RFC 3030).
///
/// ```
/// use smtp::data::{ChunkReceiver, Newlines};
/// let mut receiver = ChunkReceiver::new(Newlines::Strict, 1000);
/// let mut chunk = &b"a\r\n.\r\nb"[..];
/// assert_eq!(receiver.next(&mut chunk), Some(&b"a\r\n"[..]));
/// assert_eq!(receiver.next(&mut chunk), Some(&b".\r\nb"[..]));
/// assert_eq!(receiver.next(&mut chunk), None);
/// assert_eq!(receiver.finish(), Some(&b"\r\n"[..]));
/// assert_eq!((receiver.finish(), receiver.fault()), (None, None));
/// ```
#[derive(Clone, Debug)]
pub struct ChunkReceiver(DataReceiver);

impl ChunkReceiver {
    /// As [`DataReceiver::new`], for content in which no dot is stuffed.
    pub fn new(newlines: Newlines, size_max: u64) -> Self {
        let framing = DataFraming::Octets;
        Self(DataReceiver { framing, ..DataReceiver::new(newlines, size_max) })
    }

    /// Why the content seen so far cannot be kept.
    pub fn fault(&self) -> Option<Fault> {
        self.0.fault
    }

    /// Takes the next part off the front of `input`, which is inside a chunk. `None` when the input
    /// is used up; a final CR waits for the LF that the next chunk may begin with.
    pub fn next<'i>(&mut self, input: &mut &'i [u8]) -> Option<&'i [u8]> {
        match self.0.next(input) {
            Chunk::Content(content) => Some(content),
            Chunk::NeedInput | Chunk::End => None,
        }
    }

    /// After the last chunk: what completes the content; `None` when nothing is missing.
    ///
    /// A last line without CRLF is legal here and nowhere else in SMTP: by DATA it could not be
    /// passed on. It is completed once, now, so that whatever is kept consists of lines. No
    /// signature breaks: both body canonicalizations of DKIM add this line end, too (RFC 6376
    /// §3.4.3, §3.4.4).
    pub fn finish(&mut self) -> Option<&'static [u8]> {
        if self.0.state == DataState::Cr && self.0.newlines == Newlines::Strict {
            self.0.blame(Fault::BareCr, DataState::Text);
        }
        let is_open = self.0.state != DataState::LineStart;
        self.0.state = DataState::LineStart;
        (is_open && self.0.fault.is_none()).then_some(b"\r\n")
    }
}

fn find_special(bytes: &[u8], from: usize) -> Option<usize> {
    let rest = bytes.get(from..)?;
    let (near, far) = rest.split_at(rest.len().min(NEAR_OCTETS));
    let is_special = |octet: &u8| matches!(octet, b'\r' | b'\n' | 0);
    let near_at = near.iter().position(is_special);
    let at = near_at.or_else(|| Some(near.len() + memchr::memchr3(b'\r', b'\n', 0, far)?));
    at.map(|at| from + at)
}

/// Our choice: so many octets are looked at one by one. For a search with vectors, short lines
/// would be all preparation.
const NEAR_OCTETS: usize = 8;

/// The first `keep` octets of the input, from which `used` are removed.
fn take<'i>(input: &mut &'i [u8], keep: usize, used: usize) -> &'i [u8] {
    let all = *input;
    *input = all.get(used..).unwrap_or_default();
    all.get(..keep).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Content, what is left when the end was seen, fault; with the input cut into pieces.
    type Outcome = (Vec<u8>, Option<Vec<u8>>, Option<Fault>);

    fn receive(stream: &[u8], newlines: Newlines, size_max: u64, piece: usize) -> Outcome {
        receive_by(DataReceiver::new(newlines, size_max), stream, piece)
    }

    fn receive_by(mut receiver: DataReceiver, stream: &[u8], piece: usize) -> Outcome {
        let mut content = Vec::new();
        for (index, part) in stream.chunks(piece.max(1)).enumerate() {
            let mut input = part;
            loop {
                match receiver.next(&mut input) {
                    Chunk::Content(slice) => content.extend_from_slice(slice),
                    Chunk::NeedInput => break,
                    Chunk::End => {
                        let behind = (index + 1) * piece.max(1);
                        let mut left = input.to_vec();
                        left.extend_from_slice(stream.get(behind..).unwrap_or_default());
                        return (content, Some(left), receiver.fault());
                    }
                }
            }
        }
        (content, None, receiver.fault())
    }

    #[track_caller]
    fn check_normalized(end: LineEnd, cases: &[(&[u8], &[u8])]) {
        for (stream, want) in cases {
            for piece in 1..=stream.len() {
                let receiver = DataReceiver::new(Newlines::Normalize, 100).ended_by(end);
                let got = receive_by(receiver, stream, piece);
                let what = format!("{} by {piece}", stream.escape_ascii());
                assert_eq!(got, (want.to_vec(), Some(Vec::new()), None), "{what}");
            }
        }
    }

    #[test]
    fn a_client_that_ends_lines_with_lf_ends_its_content_so_too() {
        check_normalized(
            LineEnd::Lf,
            &[
                (b"a\nb\r\n.\r\n", b"a\r\nb\r\n"),
                (b"a\n..b\n.\r\n", b"a\r\n.b\r\n"),
                (b"a\n.\n", b"a\r\n"),
                (b"\n\n.\n", b"\r\n\r\n"),
                (b".\n", b""),
                (b"a\r\r\n.\n", b"a\r\n"),
            ],
        );
    }

    #[test]
    fn to_a_client_that_ends_lines_with_crlf_a_dot_behind_lf_is_text() {
        check_normalized(
            LineEnd::CrLf,
            &[
                (b"a\n.\nQUIT\n\r\n.\r\n", b"a\r\n.\r\nQUIT\r\n\r\n"),
                (b"a\n.\r\nb\r\n.\r\n", b"a\r\n.\r\nb\r\n"),
                (b"a\n..b\r\n.\r\n", b"a\r\n..b\r\n"),
                (b"a\r\n.\nb\r\n.\r\n", b"a\r\n\r\nb\r\n"),
                (b"a\r\n.\r\r\nb\r\n.\r\n", b"a\r\n\r\nb\r\n"),
                (b"a\r.\r\nb\r\n.\r\n", b"a .\r\nb\r\n"),
                (b"a\r\n.\rb\r\n.\r\n", b"a\r\n b\r\n"),
            ],
        );
    }

    #[test]
    fn crs_before_lf_are_one_line_end_and_elsewhere_a_blank() {
        for end in [LineEnd::CrLf, LineEnd::Lf] {
            check_normalized(
                end,
                &[
                    (b"a: b\r\r\nc: d\r\r\n\r\r\n.\r\n", b"a: b\r\nc: d\r\n\r\n"),
                    (b"10%\r20%\r\r30%\r\n.\r\n", b"10% 20% 30%\r\n"),
                    (b"\ra\r\n\r.\r\n.\r\n", b" a\r\n .\r\n"),
                    (b"a\n\rb\r\r\r\n.\r\n", b"a\r\n b\r\n"),
                ],
            );
        }
        let mut receiver = ChunkReceiver::new(Newlines::Normalize, 100);
        let mut chunk = &b"a\rb\r\r\n.\nc\r"[..];
        let mut content = Vec::new();
        while let Some(piece) = receiver.next(&mut chunk) {
            content.extend_from_slice(piece);
        }
        content.extend(receiver.finish().unwrap_or_default());
        assert_eq!((content.as_slice(), receiver.fault()), (&b"a b\r\n.\r\nc\r\n"[..], None));
    }

    #[test]
    fn no_piece_ends_between_cr_and_lf() {
        for (stream, newlines) in
            [(&b"a\r\nb"[..], Newlines::Strict), (b"a\nb", Newlines::Normalize)]
        {
            for size_max in 0..6 {
                for piece in 1..=stream.len() {
                    let mut receiver = ChunkReceiver::new(newlines, size_max);
                    for mut part in stream.chunks(piece) {
                        while let Some(content) = receiver.next(&mut part) {
                            assert!(!content.ends_with(b"\r"), "{size_max} by {piece}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn lines_up_to_64_kib_pass_and_longer_ones_are_refused_after_the_end() {
        for (octets, want) in [(65_536, None), (65_537, Some(Fault::LineTooLong))] {
            let mut stream = vec![b'a'; octets];
            stream.extend_from_slice(b"\r\n.\r\nQUIT");
            for piece in [1_000, 4_096, stream.len()] {
                let (content, left, fault) = receive(&stream, Newlines::Strict, 1 << 20, piece);
                assert_eq!((left, fault), (Some(b"QUIT".to_vec()), want), "{octets} by {piece}");
                assert!(want.is_some() || content.len() == octets + 2);
            }
        }
    }

    proptest! {
        #[test]
        fn how_the_input_is_cut_changes_nothing(
            stream in proptest::collection::vec(
                prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'.'), Just(0_u8), Just(b'a')], 0..40),
            piece in 1_usize..9,
            size_max in 0_u64..30,
            normalize: bool,
            is_lf: bool,
        ) {
            let newlines = if normalize { Newlines::Normalize } else { Newlines::Strict };
            let end = if normalize && is_lf { LineEnd::Lf } else { LineEnd::CrLf };
            let receiver = || DataReceiver::new(newlines, size_max).ended_by(end);
            let whole = receive_by(receiver(), &stream, stream.len());
            let cut = receive_by(receiver(), &stream, piece);
            prop_assert_eq!((&whole.1, whole.2), (&cut.1, cut.2));
            if whole.2.is_none() {
                prop_assert_eq!(whole.0, cut.0);
            }
        }

        #[test]
        fn only_crlf_dot_crlf_ends_the_content(
            stream in proptest::collection::vec(
                prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'.'), Just(b'a')], 0..40),
        ) {
            let mut framed = b"\r\n".to_vec();
            framed.extend_from_slice(&stream);
            let behind = |mark: &[u8]| {
                memchr::memmem::find(&framed, mark).map(|at| framed[at + mark.len()..].to_vec())
            };
            let true_end = behind(b"\r\n.\r\n");
            for newlines in [Newlines::Strict, Newlines::Normalize] {
                let (_, left, _) = receive(&stream, newlines, 1000, 7);
                prop_assert_eq!(&left, &true_end, "{:?}", newlines);
            }
            let receiver = DataReceiver::new(Newlines::Normalize, 1000).ended_by(LineEnd::Lf);
            let (_, left, _) = receive_by(receiver, &stream, 7);
            // Of two ends the first leaves more behind it.
            let ends = [behind(b"\n.\n"), behind(b"\n.\r\n")];
            prop_assert_eq!(left, ends.into_iter().flatten().max_by_key(Vec::len));
        }
    }
}
