//! Lines of header fields that are too long, folded at white space (RFC 5322 §2.2.3).

use super::LINE_OCTETS_MAX;

/// Folds one field, in pieces that do not end between CR and LF. Lines of a legal length stay as
/// they are, and so does a word that is longer than a line: there is no place to fold.
#[derive(Debug, Default)]
pub(super) struct Folder {
    /// The end of the current line, as far as it is not out yet: no more than a line.
    held: Vec<u8>,
    /// Octets of the line that are out already.
    out: usize,
    /// Where white space begins in `held`, with text before it and the colon, and no text behind it
    /// yet.
    gap: Option<usize>,
    /// The last place to fold: white space with text before and behind it.
    place: Option<usize>,
    within: Within,
    has_folded: bool,
}

/// Where in a field the last octet stood.
#[derive(Clone, Copy, Debug, Default)]
enum Within {
    #[default]
    Name,
    Text,
    /// White space, also that at the beginning of a line.
    Gap,
}

impl Folder {
    /// More of the field.
    pub(super) fn push(&mut self, octets: &[u8], out: &mut Vec<u8>) {
        let mut rest = octets;
        while let Some((&first, tail)) = rest.split_first() {
            if let Some(behind) = rest.strip_prefix(b"\r\n") {
                self.end_line(out);
                out.extend_from_slice(b"\r\n");
                rest = behind;
                continue;
            }
            self.octet(first, out);
            rest = tail;
        }
    }

    /// The field is over. Was it folded?
    pub(super) fn finish(&mut self, out: &mut Vec<u8>) -> bool {
        self.end_line(out);
        std::mem::take(self).has_folded
    }

    fn end_line(&mut self, out: &mut Vec<u8>) {
        out.append(&mut self.held);
        (self.out, self.gap, self.place) = (0, None, None);
        // At the beginning of a line there is nothing before the white space.
        self.within = Within::Gap;
    }

    fn octet(&mut self, octet: u8, out: &mut Vec<u8>) {
        let is_blank = matches!(octet, b' ' | b'\t');
        self.within = match (self.within, is_blank) {
            (Within::Name, _) if octet == b':' => Within::Text,
            (Within::Name, _) => Within::Name,
            (Within::Text, true) => {
                self.gap = Some(self.held.len());
                Within::Gap
            }
            (Within::Gap, true) => Within::Gap,
            (Within::Text | Within::Gap, false) => {
                self.place = self.gap.take().or(self.place);
                Within::Text
            }
        };
        self.held.push(octet);
        if self.out + self.held.len() > LINE_OCTETS_MAX {
            self.shorten(out);
        }
    }

    /// The line is too long.
    fn shorten(&mut self, out: &mut Vec<u8>) {
        if let Some(place) = self.place.take() {
            out.extend(self.held.drain(..place));
            out.extend_from_slice(b"\r\n");
            self.gap = self.gap.and_then(|gap| gap.checked_sub(place));
            (self.out, self.has_folded) = (0, true);
            return;
        }
        // What stands before the next place to fold goes out as it is.
        if self.held.len() > LINE_OCTETS_MAX && self.gap == Some(0) {
            // White space without end.
            self.gap = None;
        }
        let count = self.gap.unwrap_or(self.held.len());
        self.gap = self.gap.map(|_| 0);
        self.out += count;
        out.extend(self.held.drain(..count));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn folded(field: &[u8], cut: usize) -> (Vec<u8>, bool) {
        let (mut folder, mut out) = (Folder::default(), Vec::new());
        let mut rest = field;
        while !rest.is_empty() {
            let mut at = cut.min(rest.len());
            at += usize::from(rest[..at].ends_with(b"\r") && rest[at..].starts_with(b"\n"));
            folder.push(&rest[..at], &mut out);
            rest = &rest[at..];
        }
        let has_folded = folder.finish(&mut out);
        (out, has_folded)
    }

    #[test]
    fn a_long_line_is_folded_at_its_last_white_space_and_words_stay_whole() {
        let word = "x".repeat(LINE_OCTETS_MAX - 4);
        let long = "x".repeat(LINE_OCTETS_MAX + 1);
        let cases = [
            (format!("A: {word}y\r\n"), format!("A: {word}y\r\n")),
            (format!("A: {word} y\r\n"), format!("A: {word}\r\n y\r\n")),
            (format!("A: b \t{word} yyy\r\n"), format!("A: b\r\n \t{word}\r\n yyy\r\n")),
            (format!("A: {word}yy\r\n"), format!("A:\r\n {word}yy\r\n")),
            (format!("A : {long} y {long}"), format!("A :\r\n {long}\r\n y\r\n {long}")),
            (format!("A: {word}   \r\n y\r\n"), format!("A:\r\n {word}   \r\n y\r\n")),
            (format!("A: b\r\n  {word} {word}\r\n"), format!("A: b\r\n  {word}\r\n {word}\r\n")),
            (
                format!("A{0}: b\r\n", " ".repeat(1000)),
                format!("A{0}:\r\n b\r\n", " ".repeat(1000)),
            ),
        ];
        for (field, want) in cases {
            for cut in [1, 2, 700, field.len()] {
                let (got, has_folded) = folded(field.as_bytes(), cut);
                assert_eq!(String::from_utf8(got).unwrap(), want);
                assert_eq!(has_folded, field != want);
            }
        }
    }

    proptest! {
        #[test]
        fn unfolded_it_is_what_it_was(
            words in prop::collection::vec(prop_oneof![
                6 => "[a-z<@,:\r]{1,60}",
                3 => "[ \t]{1,9}",
                1 => Just("\r\n ".to_owned()),
                1 => (900usize..1100).prop_map(|many| "y".repeat(many)),
                1 => (900usize..1100).prop_map(|many| " ".repeat(many)),
            ], 0..60),
            cut in 1usize..2000,
        ) {
            let field = format!("A:{}\r\n", words.concat()).into_bytes();
            let (got, has_folded) = folded(&field, cut);
            prop_assert_eq!(&folded(&field, usize::MAX).0, &got, "cuts do not show");
            prop_assert_eq!(has_folded, got != field);
            let lines = |octets: &[u8]| String::from_utf8(octets.to_vec()).unwrap().replace("\r\n", "");
            prop_assert_eq!(lines(&got), lines(&field));
            let text = String::from_utf8(got).unwrap();
            let old = String::from_utf8(field).unwrap();
            for line in text.split("\r\n").skip(1).filter(|line| !line.is_empty()) {
                let is_old = old.split("\r\n").any(|old| old == line);
                prop_assert!(is_old || line.starts_with([' ', '\t']) && !line.trim_matches([' ', '\t']).is_empty());
            }
            // What is still too long has no place to fold.
            for line in text.split("\r\n").filter(|line| line.len() > LINE_OCTETS_MAX) {
                let inner = line.trim_matches([' ', '\t']).trim_start_matches("A:");
                let has_place = inner.trim_start().contains([' ', '\t']);
                let is_blank = line.replace('\t', " ").contains(&" ".repeat(900));
                prop_assert!(!has_place || is_blank, "{}", line);
            }
        }
    }
}
