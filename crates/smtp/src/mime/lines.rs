//! Content in lines, of which no more than the head has to be at hand at once.

use memchr::memchr;

/// Octets of a line that are seen in one piece. More than any line that has a meaning in MIME: a
/// boundary has 70 characters (RFC 2046 §5.1.1).
pub(super) const HEAD_OCTETS: usize = 1000;

const CRLF: &[u8] = b"\r\n";

/// A part of a line. No segment ends between CR and LF.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment<'a> {
    /// Octets, with the line end if it is there.
    pub(super) octets: &'a [u8],
    /// Does it begin its line? Then it has at least [`HEAD_OCTETS`], or all of the line.
    pub(super) is_start: bool,
    /// Does it end its line?
    pub(super) is_end: bool,
}

impl<'a> Segment<'a> {
    /// The line without its end, if this is all of it and it is no longer than [`HEAD_OCTETS`]:
    /// where the input was cut does not show.
    pub(super) fn short_line(&self) -> Option<&'a [u8]> {
        let is_short = self.is_start && self.is_end && self.octets.len() <= HEAD_OCTETS;
        is_short.then(|| self.text())
    }

    /// The octets without the line end.
    pub(super) fn text(&self) -> &'a [u8] {
        self.octets.strip_suffix(CRLF).filter(|_| self.is_end).unwrap_or(self.octets)
    }
}

/// Where a segment ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum LineCut {
    BehindLine,
    InLine,
}

/// Cuts content into segments.
#[derive(Debug, Default)]
pub(super) struct Lines {
    /// What no segment could be made of yet: less than [`HEAD_OCTETS`].
    held: Vec<u8>,
    /// Has the beginning of the current line been seen?
    in_line: bool,
}

impl Lines {
    /// Passes the segments of `piece` to `take`.
    pub(super) fn feed<E>(
        &mut self,
        piece: &[u8],
        mut take: impl FnMut(Segment<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut rest = piece;
        while !rest.is_empty() {
            let end = self.line_end(rest);
            let (front, tail) =
                rest.split_at_checked(end.unwrap_or(rest.len())).unwrap_or((rest, b""));
            rest = tail;
            if self.held.is_empty() && end.is_some() {
                self.emit(front, LineCut::BehindLine, &mut take)?;
                continue;
            }
            self.held.extend_from_slice(front);
            let held = std::mem::take(&mut self.held);
            let ready = match end {
                Some(_) => held.len(),
                None if held.len() < HEAD_OCTETS => 0,
                // The LF may follow.
                None => held.len() - usize::from(held.ends_with(b"\r")),
            };
            let (segment, kept) = held.split_at_checked(ready).unwrap_or((&held, b""));
            self.held.extend_from_slice(kept);
            if !segment.is_empty() {
                let cut = if end.is_some() { LineCut::BehindLine } else { LineCut::InLine };
                self.emit(segment, cut, &mut take)?;
            }
        }
        Ok(())
    }

    /// Passes on what has no line end.
    pub(super) fn finish<E>(
        &mut self,
        mut take: impl FnMut(Segment<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let held = std::mem::take(&mut self.held);
        if held.is_empty() { Ok(()) } else { self.emit(&held, LineCut::BehindLine, &mut take) }
    }

    fn emit<E>(
        &mut self,
        octets: &[u8],
        cut: LineCut,
        take: &mut impl FnMut(Segment<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let is_end = cut == LineCut::BehindLine;
        let is_start = !std::mem::replace(&mut self.in_line, !is_end);
        take(Segment { octets, is_start, is_end })
    }

    /// Where the first line of `rest` ends, behind its CRLF. A bare LF ends nothing.
    fn line_end(&self, rest: &[u8]) -> Option<usize> {
        let mut from = 0;
        while let Some(at) = rest.get(from..).and_then(|rest| memchr(b'\n', rest)) {
            let at = from + at;
            let before = at.checked_sub(1).map_or_else(|| self.held.last(), |at| rest.get(at));
            if before == Some(&b'\r') {
                return Some(at + 1);
            }
            from = at + 1;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segments(content: &[u8], cut: usize) -> Vec<(Vec<u8>, bool, bool)> {
        let (mut lines, mut all) = (Lines::default(), Vec::new());
        let mut take = |segment: Segment<'_>| {
            all.push((segment.octets.to_vec(), segment.is_start, segment.is_end));
            Ok::<(), ()>(())
        };
        for piece in content.chunks(cut) {
            lines.feed(piece, &mut take).unwrap();
            assert!(lines.held.len() < HEAD_OCTETS);
        }
        lines.finish(&mut take).unwrap();
        all
    }

    #[test]
    fn lines_of_a_usual_length_come_whole_at_any_cut() {
        let content = b"a\r\n\r\n\r\rb\nc\r\nlast";
        let want = [&b"a\r\n"[..], b"\r\n", b"\r\rb\nc\r\n", b"last"];
        for cut in 1..=content.len() {
            let got = segments(content, cut);
            let octets: Vec<_> = got.iter().map(|(octets, ..)| octets.as_slice()).collect();
            assert_eq!(octets, want, "by {cut}");
            assert!(got.iter().all(|(_, is_start, is_end)| *is_start && *is_end));
        }
    }

    #[test]
    fn long_lines_come_in_segments_that_split_no_line_end() {
        let content = [b"x".repeat(2 * HEAD_OCTETS + 1), b"\r\nb\r\n".to_vec()].concat();
        for cut in (1..content.len()).step_by(7).chain([content.len()]) {
            let got = segments(&content, cut);
            let octets: Vec<u8> = got.iter().flat_map(|(octets, ..)| octets.clone()).collect();
            assert_eq!(octets, content);
            assert_eq!(got.iter().filter(|(_, is_start, _)| *is_start).count(), 2, "by {cut}");
            assert!(got.iter().all(|(octets, ..)| !octets.ends_with(b"\r")));
            assert!(got[0].0.len() >= HEAD_OCTETS);
        }
    }
}
