//! What a client said, for a log that shows dialogues: commands, never a secret, never content.

use super::Session;
use crate::remote_text::RemoteText;

/// Commands that are shown whole, as far as their words are those of the command.
const WHOLE: [&str; 5] = ["EHLO", "HELO", "MAIL FROM:", "RCPT TO:", "BDAT"];
/// Commands of which only the name is shown: what follows may be anything.
const BY_NAME: [&str; 11] =
    ["DATA", "RSET", "NOOP", "QUIT", "VRFY", "EXPN", "HELP", "STARTTLS", "ETRN", "XCLIENT", "AUTH"];
/// What may stand behind AUTH: a client that leaves the mechanism out sends its password there.
const MECHANISMS: [&str; 8] = [
    "PLAIN",
    "LOGIN",
    "SCRAM-SHA-256",
    "SCRAM-SHA-1",
    "CRAM-MD5",
    "XOAUTH2",
    "OAUTHBEARER",
    "EXTERNAL",
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
        lines.push(match shown(&text) {
            Some(shown) => RemoteText::new(&shown),
            // No command: perhaps a password that was sent where none was asked for, or content
            // behind a DATA that was refused.
            None => RemoteText::new(&format!("({} bytes that are no command)", line.len())),
        });
    }

    /// What is not shown at all.
    pub(super) fn note_hidden(&mut self, what: &str) {
        if let Some(lines) = &mut self.lines {
            lines.push(RemoteText::new(what));
        }
    }
}

/// What of a line is shown, if it is a command.
fn shown(text: &str) -> Option<String> {
    let begins = |start: &&&str| {
        text.get(..start.len()).is_some_and(|front| front.eq_ignore_ascii_case(start))
    };
    if let Some(whole) = WHOLE.iter().find(begins) {
        let rest = text.get(whole.len()..).unwrap_or_default();
        let is_it = whole.ends_with(':') || rest.is_empty() || rest.starts_with(' ');
        return is_it.then(|| text.to_owned());
    }
    let mut words = text.split(' ');
    let verb = words.next().unwrap_or_default();
    let name = BY_NAME.iter().find(|name| name.eq_ignore_ascii_case(verb))?;
    let mechanism = words.next().filter(|word| {
        *name == "AUTH" && MECHANISMS.iter().any(|known| known.eq_ignore_ascii_case(word))
    });
    let is_more = words.next().is_some() || text.len() > verb.len() && mechanism.is_none();
    let more = if is_more { " (...)" } else { "" };
    let mechanism = mechanism.map(|word| format!(" {word}")).unwrap_or_default();
    Some(format!("{verb}{mechanism}{more}"))
}
