//! What is done to a message while it comes in: it stays apart from our Received, and gets what its
//! program left out (RFC 6409 §8, RFC 5321 §6.4): Date and Message-ID.
//!
//! What is there is never altered. The fields are added at the end of the header, so that nothing
//! has to wait for the header to be complete; where it ends, [`smtp::header`] says. A signed
//! message gets none, since the signature may cover that they are missing; nor does one at a relay
//! listener that has been through another server already.
//!
//! A first line that begins with a blank would continue our Received field, with a date or a client
//! of the sender's choice: an empty line keeps it apart (RFC 5321 §4.4).
//!
//! Pieces must not end between CR and LF; that is what the content receiver promises.

use jiff::Timestamp;
use smtp::Domain;
use smtp::header::{HeaderPart, HeaderScanner};
use spool::MessageId;

use super::received::date;

/// Which messages get the fields that they lack.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Repair {
    /// No message: `listener.add_missing_headers` is off.
    Nothing,
    /// Those that come from their program: no other server left its Received, nobody signed them.
    FirstHand,
    /// All but those that are signed: at a listener for users a server in front of us is theirs.
    Submitted,
}

/// Looks at a message while it streams by.
#[derive(Debug)]
pub(super) struct Fixups {
    header: HeaderScanner,
    /// The first octet has been seen.
    has_begun: bool,
    /// The header so far ends where a line does.
    is_at_line_start: bool,
    repair: Repair,
    /// What would be added, with its line end, as long as it was not seen.
    date: String,
    message_id: String,
}

impl Fixups {
    pub(super) fn new(repair: Repair, id: MessageId, hostname: &Domain, at: Timestamp) -> Self {
        Self {
            header: HeaderScanner::default(),
            has_begun: false,
            is_at_line_start: true,
            repair,
            date: format!("Date: {}\r\n", date(at)),
            message_id: format!("Message-ID: <{id}@{hostname}>\r\n"),
        }
    }

    /// Passes what becomes of the next piece to `take`.
    pub(super) fn push(&mut self, piece: &[u8], mut take: impl FnMut(&[u8])) {
        let is_apart = self.has_begun || !matches!(piece.first(), Some(b' ' | b'\t'));
        self.has_begun |= !piece.is_empty();
        if self.repair == Repair::Nothing {
            if !is_apart {
                take(b"\r\n");
            }
            take(piece);
            return;
        }
        let Self { header, is_at_line_start, repair, date, message_id, .. } = self;
        header.push(piece, |part| match part {
            HeaderPart::Field(name) => note(name, *repair, date, message_id),
            HeaderPart::Header(octets) => {
                *is_at_line_start = octets.ends_with(b"\r\n");
                take(octets);
            }
            HeaderPart::Rest(octets) => take(octets),
            HeaderPart::End => {
                take(date.as_bytes());
                take(message_id.as_bytes());
                if !is_apart {
                    take(b"\r\n");
                }
            }
        });
        if header.is_behind() {
            *repair = Repair::Nothing;
        }
    }

    /// The message has ended.
    pub(super) fn finish(mut self, mut take: impl FnMut(&[u8])) {
        if self.repair == Repair::Nothing {
            return;
        }
        let Self { header, is_at_line_start, repair, date, message_id, .. } = &mut self;
        header.finish(|part| match part {
            HeaderPart::Field(name) => note(name, *repair, date, message_id),
            HeaderPart::Header(octets) => {
                *is_at_line_start = octets.ends_with(b"\r\n");
                take(octets);
            }
            HeaderPart::Rest(octets) => take(octets),
            // A line without its end would run into what is added.
            HeaderPart::End if !*is_at_line_start => {}
            HeaderPart::End => {
                take(date.as_bytes());
                take(message_id.as_bytes());
            }
        });
    }
}

/// A field of this name is there.
fn note(name: &[u8], repair: Repair, date: &mut String, message_id: &mut String) {
    let is = |wanted: &[u8]| name.eq_ignore_ascii_case(wanted);
    let is_second_hand = repair == Repair::FirstHand && is(b"received");
    let is_finished = is(b"dkim-signature") || is_second_hand;
    if is(b"date") || is_finished {
        date.clear();
    }
    if is(b"message-id") || is_finished {
        message_id.clear();
    }
}

#[cfg(test)]
mod tests {
    use smtp::HostName;

    use super::*;

    const DATE: &str = "Date: Thu, 01 Jan 1970 00:00:00 +0000\r\n";

    fn id() -> String {
        format!("Message-ID: <{}@relay.example>\r\n", MessageId::from_u128(0))
    }

    /// The message with what is added, cut into pieces of `size`.
    fn fixed(repair: Repair, message: &str, size: usize) -> String {
        let hostname = Domain::Name(HostName::parse("relay.example").unwrap());
        let mut fixups =
            Fixups::new(repair, MessageId::from_u128(0), &hostname, Timestamp::UNIX_EPOCH);
        let mut out = Vec::new();
        let mut rest = message.as_bytes();
        while !rest.is_empty() {
            let mut at = size.min(rest.len());
            at += usize::from(rest[..at].ends_with(b"\r") && at < rest.len());
            fixups.push(&rest[..at], |part| out.extend_from_slice(part));
            rest = &rest[at..];
        }
        fixups.finish(|part| out.extend_from_slice(part));
        String::from_utf8(out).unwrap()
    }

    #[track_caller]
    fn check(repair: Repair, message: &str, want: &str) {
        for size in 1..=message.len() {
            assert_eq!(fixed(repair, message, size), want, "{message:?} in pieces of {size}");
        }
    }

    #[test]
    fn what_is_missing_is_added_and_nothing_else_changes() {
        let missing = id();
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
            ("A: cut off", "A: cut off".to_owned()),
            // In front of what is no field.
            ("Hello\r\n\r\nbody\r\n", format!("{DATE}{missing}Hello\r\n\r\nbody\r\n")),
            (
                "A: b\r\nDear all: c\r\nDate: text\r\n\r\n",
                format!("A: b\r\n{DATE}{missing}Dear all: c\r\nDate: text\r\n\r\n"),
            ),
            ("A: b\r\n/dev/sda1 is full", format!("A: b\r\n{DATE}{missing}/dev/sda1 is full")),
        ];
        for (message, want) in cases {
            let want = if want.is_empty() { message } else { &want };
            for repair in [Repair::Submitted, Repair::FirstHand] {
                check(repair, message, want);
            }
            check(Repair::Nothing, message, message);
        }
    }

    #[test]
    fn what_is_signed_or_was_repaired_elsewhere_is_left_alone() {
        let signed = "A: b\r\nDKIM-Signature : a\r\n\r\nx\r\n";
        let passed_on = "received: from a by b\r\nA: b\r\n\r\nx\r\n";
        for repair in [Repair::Submitted, Repair::FirstHand] {
            check(repair, signed, signed);
        }
        check(Repair::FirstHand, passed_on, passed_on);
        let added = fixed(Repair::Submitted, passed_on, 5).len() - passed_on.len();
        assert_eq!(added, DATE.len() + id().len());
    }

    #[test]
    fn a_first_line_with_a_blank_in_front_is_kept_apart_from_our_received() {
        for first in [" by ceo; Thu, 1 Jan 1970 00:00:00 +0000", "\tfor <a@b.example>", " ", "\t"] {
            let message = format!("{first}\r\nA: b\r\n\r\nx\r\n");
            check(Repair::Nothing, &message, &format!("\r\n{message}"));
            check(Repair::Submitted, &message, &format!("{DATE}{}\r\n{message}", id()));
        }
    }
}
