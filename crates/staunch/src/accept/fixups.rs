//! What a submission server adds to a message whose program left it out (RFC 6409 §8): Date and Message-ID.
//!
//! Only for listeners that are for submission: a relay repairs nothing (RFC 5321 §6.4). What is there is never
//! altered. The fields are added at the end of the header, so that nothing has to wait for the header to be
//! complete; a header with a line that is no field is left alone.
//!
//! Pieces must not end between CR and LF; that is what the content receiver promises.

use jiff::Timestamp;
use smtp::Domain;
use spool::MessageId;

use super::received::date;

/// Octets of a line that are looked at: enough for the names that matter.
const NAME_OCTETS: usize = 12;

/// Looks for the two fields while the header streams by.
#[derive(Debug)]
pub(super) struct Fixups {
    /// The start of the line that the last piece left open.
    line: Vec<u8>,
    /// Has the line a colon so far?
    has_colon: bool,
    /// A line was no field.
    is_strange: bool,
    /// What would be added, with its line end, as long as it was not seen.
    date: String,
    message_id: String,
}

/// Where the header ends in a piece.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Seen {
    /// Not in it.
    Header,
    /// There: `fields` belong between `front` octets of the piece and the rest.
    End {
        /// Octets of the piece that belong to the header, the empty line not counted.
        front: usize,
        /// With their line ends; often empty.
        fields: String,
    },
}

impl Fixups {
    pub(super) fn new(id: MessageId, hostname: &Domain, at: Timestamp) -> Self {
        Self {
            line: Vec::with_capacity(NAME_OCTETS),
            has_colon: false,
            is_strange: false,
            date: format!("Date: {}\r\n", date(at)),
            message_id: format!("Message-ID: <{id}@{hostname}>\r\n"),
        }
    }

    /// The next piece of the header.
    pub(super) fn look(&mut self, piece: &[u8]) -> Seen {
        let mut start = 0;
        for end in memchr::memchr_iter(b'\n', piece) {
            let line = piece.get(start..end).unwrap_or_default();
            if self.line.is_empty() && line == b"\r" {
                return Seen::End { front: start, fields: self.missing() };
            }
            self.note(line);
            self.end_line();
            start = end + 1;
        }
        self.note(piece.get(start..).unwrap_or_default());
        Seen::Header
    }

    /// The message ended within its header.
    pub(super) fn end(&self) -> String {
        // A line without its end would run into what is added.
        if self.line.is_empty() { self.missing() } else { String::new() }
    }

    /// More of the current line.
    fn note(&mut self, part: &[u8]) {
        self.has_colon |= part.contains(&b':');
        let room = NAME_OCTETS.saturating_sub(self.line.len());
        self.line.extend_from_slice(part.get(..room).unwrap_or(part));
    }

    fn end_line(&mut self) {
        let is_continued = matches!(self.line.first(), Some(b' ' | b'\t'));
        self.is_strange |= !is_continued && !self.has_colon;
        if is_field(&self.line, b"date") {
            self.date.clear();
        }
        if is_field(&self.line, b"message-id") {
            self.message_id.clear();
        }
        self.line.clear();
        self.has_colon = false;
    }

    fn missing(&self) -> String {
        if self.is_strange { String::new() } else { format!("{}{}", self.date, self.message_id) }
    }
}

/// Blanks before the colon are an old way to write a field (RFC 5322 §4.5), so it is there.
fn is_field(line: &[u8], name: &[u8]) -> bool {
    let Some((front, behind)) = line.split_at_checked(name.len()) else { return false };
    // The line may be cut between a blank and the colon.
    let is_blank = !behind.is_empty() && behind.trim_ascii_start().is_empty();
    front.eq_ignore_ascii_case(name) && (is_blank || behind.trim_ascii_start().starts_with(b":"))
}

#[cfg(test)]
mod tests {
    use smtp::HostName;

    use super::*;

    const DATE: &str = "Date: Thu, 01 Jan 1970 00:00:00 +0000\r\n";
    const ID: &str = "Message-ID: <00000000000000000000000000@relay.example>\r\n";

    /// The message with what is added, cut into pieces of `size`.
    fn fixed(message: &str, size: usize) -> String {
        let hostname = Domain::Name(HostName::parse("relay.example").unwrap());
        let mut fixups = Fixups::new(MessageId::from_u128(0), &hostname, Timestamp::UNIX_EPOCH);
        let mut out = String::new();
        let mut rest = message;
        let mut in_header = true;
        while !rest.is_empty() {
            let (mut piece, mut behind) = rest.split_at(size.min(rest.len()));
            if piece.ends_with('\r') && !behind.is_empty() {
                (piece, behind) = rest.split_at(piece.len() + 1);
            }
            rest = behind;
            let seen = if in_header { fixups.look(piece.as_bytes()) } else { Seen::Header };
            match seen {
                Seen::Header => out.push_str(piece),
                Seen::End { front, fields } => {
                    in_header = false;
                    let (front, back) = piece.split_at(front);
                    out.extend([front, fields.as_str(), back]);
                }
            }
        }
        if in_header {
            out.push_str(&fixups.end());
        }
        out
    }

    #[test]
    fn what_is_missing_is_added_and_nothing_else_changes() {
        let id = MessageId::from_u128(0).to_string();
        let missing = ID.replace("00000000000000000000000000", &id);
        let cases = [
            ("A: b\r\n\r\nbody\r\n", format!("A: b\r\n{DATE}{missing}\r\nbody\r\n")),
            ("\r\nbody\r\n", format!("{DATE}{missing}\r\nbody\r\n")),
            ("Date: x\r\n\r\n", format!("Date: x\r\n{missing}\r\n")),
            ("dAtE : x\r\nmessage-id:\r\n y\r\n\r\n", String::new()),
            ("MESSAGE-ID: x\r\n\r\nDate: y\r\n", format!("MESSAGE-ID: x\r\n{DATE}\r\nDate: y\r\n")),
            (
                "Dates: x\r\nX-Message-ID: y\r\n\r\n",
                format!("Dates: x\r\nX-Message-ID: y\r\n{DATE}{missing}\r\n"),
            ),
            (
                "A: b\r\n Date: folded\r\n\r\n",
                format!("A: b\r\n Date: folded\r\n{DATE}{missing}\r\n"),
            ),
            ("A: b\r\n", format!("A: b\r\n{DATE}{missing}")),
            // No header at all: whatever it is, it is left alone.
            ("Hello\r\n\r\nbody\r\n", String::new()),
        ];
        for (message, want) in cases {
            let want = if want.is_empty() { message } else { &want };
            for size in 1..=message.len() {
                assert_eq!(fixed(message, size), want, "{message:?} in pieces of {size}");
            }
        }
    }
}
