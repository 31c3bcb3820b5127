//! Lines of commands and of AUTH's dialogue, and what ends them.
//!
//! CRLF does (RFC 5321 §2.3.8). Under [`Newlines::Normalize`] the first line of a client decides
//! for all that follow: if it ends in LF alone, LF ends every line and the content, too; if not, LF
//! alone ends nothing, as for everybody else.

use super::{Phase, ServerStep, Session};
use crate::command::{Command, CommandError, too_long};
use crate::data::{LineEnd, Newlines};

/// A TLS handshake begins so, whatever the version (RFC 8446 §5.1).
pub const TLS_HANDSHAKE: [u8; 2] = [22, 3];

/// What stands at the front of the input.
pub(super) enum Line<'i> {
    /// A line, taken off the input, without its end.
    Whole(&'i [u8]),
    /// Its end is not there yet.
    Open,
    /// It is longer than any line may be, ended or not.
    TooLong,
    /// It ends in LF alone, which for this client is no end.
    BareLf,
}

impl Session {
    pub(super) fn next_command<'i>(&mut self, input: &mut &'i [u8]) -> Option<ServerStep<'i>> {
        if self.client.is_none() && input.starts_with(&TLS_HANDSHAKE) {
            return self.command_failed(CommandError::Tls);
        }
        match self.next_line(input, self.settings.offer.line_octets_max()) {
            Line::Open => Some(ServerStep::Input),
            Line::TooLong => {
                self.note_hidden("(a line that is too long)");
                self.phase = Phase::Skipping(too_long(input));
                None
            }
            Line::BareLf => {
                self.note_hidden("(a line that ends in LF alone)");
                self.command_failed(CommandError::BareLf)
            }
            Line::Whole(line) => {
                self.note_line(line);
                match Command::parse(line, self.settings.offer) {
                    Ok(command) => self.command(command),
                    Err(error) => self.command_failed(error),
                }
            }
        }
    }

    /// The next line, of at most `octets_max` with its end.
    pub(super) fn next_line<'i>(&mut self, input: &mut &'i [u8], octets_max: usize) -> Line<'i> {
        let all = *input;
        let Some(at) = memchr::memchr(b'\n', all) else {
            return if all.len() <= octets_max { Line::Open } else { Line::TooLong };
        };
        let text = all.get(..at).unwrap_or_default();
        let (line, seen) = match text.strip_suffix(b"\r") {
            Some(line) => (line, LineEnd::CrLf),
            None => (text, LineEnd::Lf),
        };
        if !self.is_line_end(seen) {
            return if at <= octets_max { Line::BareLf } else { Line::TooLong };
        }
        *input = all.get(at + 1..).unwrap_or_default();
        Line::Whole(line)
    }

    /// Inside a line that nobody reads: to its end, or as far as the input goes.
    pub(super) fn skip_to_line_end<'i>(&mut self, input: &mut &'i [u8]) -> Option<ServerStep<'i>> {
        let all = *input;
        let end = memchr::memchr_iter(b'\n', all).find(|at| {
            let before = at.checked_sub(1).and_then(|before| all.get(before));
            let seen = if before == Some(&b'\r') { LineEnd::CrLf } else { LineEnd::Lf };
            self.is_line_end(seen)
        });
        if let Some(at) = end {
            *input = all.get(at + 1..).unwrap_or_default();
            self.phase = Phase::Commands;
            return None;
        }
        // The LF to a final CR may follow.
        *input = if all.ends_with(b"\r") { b"\r" } else { b"" };
        Some(ServerStep::Input)
    }

    /// Does this end a line of this client? The first may decide what it is.
    fn is_line_end(&mut self, seen: LineEnd) -> bool {
        let end = match self.settings.newlines {
            Newlines::Strict => LineEnd::CrLf,
            Newlines::Normalize => *self.line_end.get_or_insert(seen),
        };
        end == LineEnd::Lf || seen == LineEnd::CrLf
    }

    /// What ends the client's lines, as far as it has shown it.
    pub(super) fn line_end(&self) -> LineEnd {
        match self.settings.newlines {
            Newlines::Strict => LineEnd::CrLf,
            Newlines::Normalize => self.line_end.unwrap_or_default(),
        }
    }
}
