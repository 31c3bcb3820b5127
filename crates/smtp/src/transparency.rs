//! A message as it goes over the wire, after DATA (RFC 5321 §4.5.2) or BDAT (RFC 3030 §2).
//!
//! After DATA every line that begins with a dot gets a second one, wherever the chunks of the body
//! are cut, and the end is CRLF, dot, CRLF exactly once; after BDAT there are exactly as many
//! octets as were announced. A CR or LF that stands alone never passes either way: what peers make
//! of it differs, also when they send on by DATA what they got by BDAT, and that is how one message
//! is smuggled inside another.

use memchr::memchr2;

/// The body has a CR or LF that stands alone. Nothing more of it may be sent; in particular not the
/// final dot.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the body has a bare CR or LF")]
pub struct BareNewline;

/// Where in a line the next octet stands.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum LinePosition {
    #[default]
    LineStart,
    InLine,
    AfterCr,
}

/// Writes one message; carries the state over chunk borders.
///
/// ```
/// let mut out = Vec::new();
/// let mut stuffer = smtp::Stuffer::default();
/// stuffer.push(b"a\r\n", &mut out)?;
/// stuffer.push(b".b", &mut out)?;
/// stuffer.finish(&mut out)?;
/// assert_eq!(out, b"a\r\n..b\r\n.\r\n");
/// # Ok::<(), smtp::transparency::BareNewline>(())
/// ```
#[derive(Debug, Default)]
pub struct Stuffer {
    position: LinePosition,
}

impl Stuffer {
    /// Appends `chunk` to `out`.
    ///
    /// # Errors
    ///
    /// [`BareNewline`]; what `out` then holds must not be sent.
    pub fn push(&mut self, chunk: &[u8], out: &mut Vec<u8>) -> Result<(), BareNewline> {
        out.reserve(chunk.len() + 8);
        let mut rest = chunk;
        if self.position == LinePosition::AfterCr && !rest.is_empty() {
            rest = rest.strip_prefix(b"\n").ok_or(BareNewline)?;
            out.push(b'\n');
            self.position = LinePosition::LineStart;
        }
        // Whole runs are copied: only a dot at the start of a line interrupts one.
        let mut run = rest;
        let mut run_octets = 0;
        while let Some(&first) = rest.first() {
            if self.position == LinePosition::LineStart && first == b'.' {
                let (done, from_dot) = run.split_at_checked(run_octets).unwrap_or((run, &[]));
                out.extend_from_slice(done);
                out.push(b'.');
                run = from_dot;
                run_octets = 0;
            }
            let (octets, position) = line(rest)?;
            rest = rest.get(octets..).unwrap_or_default();
            run_octets += octets;
            self.position = position;
        }
        out.extend_from_slice(run);
        Ok(())
    }

    /// Appends the end of the message, with a CRLF in front where the body does not end with one.
    ///
    /// # Errors
    ///
    /// [`BareNewline`] if the body ended in a CR.
    pub fn finish(self, out: &mut Vec<u8>) -> Result<(), BareNewline> {
        let end: &[u8] = match self.position {
            LinePosition::LineStart => b".\r\n",
            LinePosition::InLine => b"\r\n.\r\n",
            LinePosition::AfterCr => return Err(BareNewline),
        };
        out.extend_from_slice(end);
        Ok(())
    }
}

/// Why a body must not be sent, or not further.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Unsendable {
    /// A CR or LF stands alone.
    #[error(transparent)]
    BareNewline(#[from] BareNewline),
    /// It is longer or shorter than was announced.
    #[error("the body is not of its size")]
    WrongSize,
}

/// Lets one message pass as it is, with the same guard as [`Stuffer`], and counts.
///
/// ```
/// let mut out = Vec::new();
/// let mut verbatim = smtp::Verbatim::new(4);
/// verbatim.push(b".b", &mut out)?;
/// verbatim.finish(&mut out)?;
/// assert_eq!(out, b".b\r\n");
/// # Ok::<(), smtp::transparency::Unsendable>(())
/// ```
#[derive(Debug)]
pub struct Verbatim {
    position: LinePosition,
    left: u64,
}

impl Verbatim {
    /// A message that was announced with so many octets, those of its last line end included.
    pub fn new(announced: u64) -> Self {
        Self { position: LinePosition::LineStart, left: announced }
    }

    /// Appends `chunk` to `out`.
    ///
    /// # Errors
    ///
    /// [`Unsendable`]; what `out` then holds must not be sent.
    pub fn push(&mut self, chunk: &[u8], out: &mut Vec<u8>) -> Result<(), Unsendable> {
        let octets = u64::try_from(chunk.len()).unwrap_or(u64::MAX);
        self.left = self.left.checked_sub(octets).ok_or(Unsendable::WrongSize)?;
        let mut rest = chunk;
        if self.position == LinePosition::AfterCr && !rest.is_empty() {
            rest = rest.strip_prefix(b"\n").ok_or(BareNewline)?;
            self.position = LinePosition::LineStart;
        }
        while !rest.is_empty() {
            let (octets, position) = line(rest)?;
            rest = rest.get(octets..).unwrap_or_default();
            self.position = position;
        }
        out.extend_from_slice(chunk);
        Ok(())
    }

    /// Appends the line end behind the body, where it was announced and the body does not have it.
    ///
    /// # Errors
    ///
    /// [`Unsendable`] if the body ended in a CR, or too early.
    pub fn finish(self, out: &mut Vec<u8>) -> Result<(), Unsendable> {
        match (self.position, self.left) {
            (LinePosition::AfterCr, _) => Err(BareNewline.into()),
            (LinePosition::LineStart | LinePosition::InLine, 0) => Ok(()),
            (LinePosition::InLine, 2) => {
                out.extend_from_slice(b"\r\n");
                Ok(())
            }
            (LinePosition::LineStart | LinePosition::InLine, _) => Err(Unsendable::WrongSize),
        }
    }
}

/// The octets up to and with the next line end (or all), and where that leaves us.
fn line(bytes: &[u8]) -> Result<(usize, LinePosition), BareNewline> {
    let Some(end) = memchr2(b'\r', b'\n', bytes) else {
        return Ok((bytes.len(), LinePosition::InLine));
    };
    match (bytes.get(end), bytes.get(end + 1)) {
        (Some(b'\r'), Some(b'\n')) => Ok((end + 2, LinePosition::LineStart)),
        (Some(b'\r'), None) => Ok((end + 1, LinePosition::AfterCr)),
        _ => Err(BareNewline),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stuff(chunks: &[&[u8]]) -> Result<Vec<u8>, BareNewline> {
        let (mut stuffer, mut out) = (Stuffer::default(), Vec::new());
        chunks.iter().try_for_each(|chunk| stuffer.push(chunk, &mut out))?;
        stuffer.finish(&mut out)?;
        Ok(out)
    }

    #[test]
    fn the_end_comes_once_and_dots_at_line_starts_double() {
        type Case<'a> = (&'a [&'a [u8]], Result<&'a [u8], BareNewline>);
        let cases: &[Case<'_>] = &[
            (&[], Ok(b".\r\n")),
            (&[b""], Ok(b".\r\n")),
            (&[b"\r\n"], Ok(b"\r\n.\r\n")),
            (&[b"abc"], Ok(b"abc\r\n.\r\n")),
            (&[b"abc\r\n"], Ok(b"abc\r\n.\r\n")),
            (&[b"."], Ok(b"..\r\n.\r\n")),
            (&[b".\r\n"], Ok(b"..\r\n.\r\n")),
            (&[b"..\r\n.\r\n"], Ok(b"...\r\n..\r\n.\r\n")),
            (&[b"a.b\r\n.c\r\nd."], Ok(b"a.b\r\n..c\r\nd.\r\n.\r\n")),
            (&[b"a\r\n", b".b"], Ok(b"a\r\n..b\r\n.\r\n")),
            (&[b"a\r", b"\n.b"], Ok(b"a\r\n..b\r\n.\r\n")),
            (&[b"a\r", b"", b"\n", b".", b"b"], Ok(b"a\r\n..b\r\n.\r\n")),
            (&[b"a", b".b"], Ok(b"a.b\r\n.\r\n")),
            (&[b"a\x85.\xe2\x80\xa8.\x0b."], Ok(b"a\x85.\xe2\x80\xa8.\x0b.\r\n.\r\n")),
            (&[b"a\nb"], Err(BareNewline)),
            (&[b"\n"], Err(BareNewline)),
            (&[b"a\rb"], Err(BareNewline)),
            (&[b"a\r"], Err(BareNewline)),
            (&[b"a\r\r\n"], Err(BareNewline)),
            (&[b"a\r", b"b"], Err(BareNewline)),
            (&[b"a\r", b"\r\n"], Err(BareNewline)),
            (&[b"a\r\n", b"\n.\r\n"], Err(BareNewline)),
        ];
        for (chunks, want) in cases {
            assert_eq!(stuff(chunks), want.map(<[u8]>::to_vec), "{chunks:?}");
        }
    }

    fn pass(announced: u64, chunks: &[&[u8]]) -> Result<Vec<u8>, Unsendable> {
        let (mut verbatim, mut out) = (Verbatim::new(announced), Vec::new());
        chunks.iter().try_for_each(|chunk| verbatim.push(chunk, &mut out))?;
        verbatim.finish(&mut out)?;
        Ok(out)
    }

    #[test]
    fn a_chunk_has_the_octets_that_were_announced_and_no_others() {
        type Case<'a> = (u64, &'a [&'a [u8]], Result<&'a [u8], Unsendable>);
        let bare = Err(Unsendable::BareNewline(BareNewline));
        let size = Err(Unsendable::WrongSize);
        let cases: &[Case<'_>] = &[
            (0, &[], Ok(b"")),
            (5, &[b".\r\n", b".b"], Ok(b".\r\n.b")),
            (7, &[b".\r\n", b".b"], Ok(b".\r\n.b\r\n")),
            (4, &[b"ab\r", b"\n"], Ok(b"ab\r\n")),
            (6, &[b"ab\r\n"], size),
            (3, &[b"a", b"b"], size),
            (1, &[b"a", b"b"], size),
            (2, &[], size),
            (3, &[b"a\nb"], bare),
            (3, &[b"a\r", b"b"], bare),
            (2, &[b"a\r"], bare),
            (4, &[b"a\r", b"\r\n"], bare),
            (5, &[b"a\r\n", b"\n."], bare),
        ];
        for (announced, chunks, want) in cases {
            assert_eq!(pass(*announced, chunks), want.map(<[u8]>::to_vec), "{chunks:?}");
        }
    }

    /// Bodies rich in what matters: dots, line ends, and text between them.
    fn body() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            3 => Just(b"\r\n".to_vec()),
            2 => Just(b".".to_vec()),
            2 => Just(b"text \xff".to_vec()),
            1 => prop::collection::vec(any::<u8>().prop_filter("no line end", |b| !b"\r\n".contains(b)), 0..40),
        ];
        prop::collection::vec(piece, 0..30).prop_map(|pieces| pieces.concat())
    }

    fn cut<'a>(mut bytes: &'a [u8], sizes: &[usize]) -> Vec<&'a [u8]> {
        let mut chunks = Vec::new();
        for &size in sizes {
            let (chunk, rest) = bytes.split_at(size.min(bytes.len()));
            chunks.push(chunk);
            bytes = rest;
        }
        chunks.push(bytes);
        chunks
    }

    proptest! {
        #[test]
        fn the_receiver_gets_the_body_back(body in body(), sizes in prop::collection::vec(0usize..5, 0..40)) {
            let wire = stuff(&cut(&body, &sizes)).unwrap();
            prop_assert_eq!(&wire, &stuff(&[&body]).unwrap(), "the chunks do not show");
            prop_assert!(wire == b".\r\n" || wire.ends_with(b"\r\n.\r\n"));
            let lines = wire.strip_suffix(b".\r\n").unwrap();
            let mut got = Vec::new();
            for line in lines.split_inclusive(|&byte| byte == b'\n') {
                prop_assert!(line.ends_with(b"\r\n") && line != b".\r\n", "ended too early");
                got.extend_from_slice(line.strip_prefix(b".").unwrap_or(line));
            }
            let mut want = body;
            if !(want.is_empty() || want.ends_with(b"\r\n")) {
                want.extend_from_slice(b"\r\n");
            }
            prop_assert_eq!(got, want);
        }

        #[test]
        fn no_bare_newline_passes(body: Vec<u8>, sizes in prop::collection::vec(0usize..5, 0..40)) {
            let plain = body.split(|&byte| byte == b'\n').enumerate().map(|(i, l)| (i, l.to_vec()));
            let lines: Vec<_> = plain.collect();
            let last = lines.len() - 1;
            let is_clean = lines.iter().all(|(index, line)| {
                let cr = line.iter().filter(|&&byte| byte == b'\r').count();
                if *index == last { cr == 0 } else { cr == 1 && line.ends_with(b"\r") }
            });
            let chunks = cut(&body, &sizes);
            prop_assert_eq!(stuff(&chunks).is_ok(), is_clean);
            prop_assert_eq!(pass(body.len().try_into().unwrap(), &chunks).is_ok(), is_clean);
        }
    }
}
