//! What a client said, for a log that shows dialogues: commands, never a secret, never content.

use super::Session;
use crate::remote_text::RemoteText;

/// What a line may begin with to be shown. Anything else is no command: perhaps a password that was
/// sent where none was asked for.
const SHOWN: [&str; 15] = [
    "EHLO", "HELO", "MAIL", "RCPT", "DATA", "BDAT", "RSET", "NOOP", "QUIT", "VRFY", "EXPN", "HELP",
    "STARTTLS", "ETRN", "XCLIENT",
];

impl Session {
    /// From now on the client's lines are kept for [`Session::take_lines`].
    pub fn keep_lines(&mut self) {
        self.lines.get_or_insert_default();
    }

    /// The client's command lines since the last look, if they are kept: without what follows the
    /// mechanism of AUTH, and without the words of lines that are no commands.
    pub fn take_lines(&mut self) -> Vec<RemoteText> {
        self.lines.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// A command, or what stands in its place.
    pub(super) fn note_line(&mut self, line: &[u8]) {
        let Some(lines) = &mut self.lines else { return };
        let text = String::from_utf8_lossy(line);
        let mut words = text.split_ascii_whitespace();
        let verb = words.next().unwrap_or_default();
        lines.push(if verb.eq_ignore_ascii_case("AUTH") {
            let mechanism = words.next().unwrap_or_default();
            RemoteText::new(&format!("{verb} {mechanism}"))
        } else if SHOWN.iter().any(|shown| verb.eq_ignore_ascii_case(shown)) {
            RemoteText::new(&text)
        } else {
            RemoteText::new(&format!("({} bytes that are no command)", line.len()))
        });
    }

    /// What is not shown at all.
    pub(super) fn note_hidden(&mut self, what: &str) {
        if let Some(lines) = &mut self.lines {
            lines.push(RemoteText::new(what));
        }
    }
}
