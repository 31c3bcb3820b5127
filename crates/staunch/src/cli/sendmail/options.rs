//! The command line of sendmail(8), as programs use it: single letters, some with a value, in the
//! manner of getopt(3).
//!
//! What only tunes another sendmail's inside (`-oem`, `-odi`, `-L tag`) is taken and dropped. What
//! would reach for files or a queue of that one is refused: nobody shall believe that it happened.

use std::ffi::OsString;

use smtp::params::{EnvelopeId, Notify, Return};
use smtp::xtext;

use crate::cli::exit::{Exit, Failure};

/// What is to be done.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum SendmailMode {
    /// `-bm`: a message comes on stdin.
    #[default]
    Message,
    /// `-bs`: SMTP is spoken on stdin and stdout.
    Session,
    /// `-bp`, `mailq`: the queue is listed.
    Queue,
    /// `-bi`, `-I`, `newaliases`: nothing; aliases stand in the configuration.
    Aliases,
}

/// What a line with nothing but a dot means.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum LoneDot {
    /// The end of the message.
    #[default]
    Ends,
    /// `-i`, `-oi`: a line of the message like any other.
    Stays,
}

/// The command line, understood.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct SendmailOptions {
    pub(super) mode: SendmailMode,
    pub(super) lone_dot: LoneDot,
    /// `-t`: To, Cc and Bcc say who gets it, too.
    pub(super) reads_recipients: bool,
    /// `-v`: says what became of it.
    pub(super) is_verbose: bool,
    /// `-f`, `-r`, as it was written.
    pub(super) sender: Option<String>,
    /// `-F`: the author's name, for a From that we add.
    pub(super) full_name: Option<String>,
    /// `-N`: of which events the sender wants a DSN (NOTIFY).
    pub(super) notify: Option<Notify>,
    /// `-R`: what a failure DSN brings back (RET).
    pub(super) returns: Option<Return>,
    /// `-V`: what DSNs name the message by (ENVID).
    pub(super) envelope_id: Option<EnvelopeId>,
    /// Each may be a list.
    pub(super) recipients: Vec<String>,
}

/// Letters with a value behind them, in the same or the next word.
const WITH_VALUE: &str = "ABCDFLNORVXbdefhopr";
/// Letters with a value in the same word only: `-q` and `-q30m`.
const WITH_ATTACHED: &str = "q";

impl SendmailOptions {
    /// Understands the words behind the program's name.
    ///
    /// # Errors
    ///
    /// A [`Failure`] with [`Exit::Usage`] that names the word.
    pub(super) fn parse(arguments: &[OsString]) -> Result<Self, Failure> {
        let mut options = Self::default();
        let words: Vec<&str> = arguments.iter().map(text).collect::<Result<_, _>>()?;
        let mut words = words.into_iter();
        while let Some(word) = words.as_slice().first().copied() {
            let Some(letters) = word.strip_prefix('-').filter(|letters| !letters.is_empty()) else {
                break;
            };
            words.next();
            if letters == "-" {
                options.recipients.extend(words.map(str::to_owned));
                return Ok(options);
            }
            options.take(letters, &mut words)?;
        }
        for word in words {
            if word.starts_with('-') {
                return Err(usage(&format!("{word}: options stand before addresses")));
            }
            options.recipients.push(word.to_owned());
        }
        Ok(options)
    }

    /// The letters of one word, and the value that may follow it.
    fn take<'a>(
        &mut self,
        letters: &'a str,
        words: &mut impl Iterator<Item = &'a str>,
    ) -> Result<(), Failure> {
        let mut letters = letters.chars();
        while let Some(letter) = letters.next() {
            if WITH_ATTACHED.contains(letter) {
                return self.with_value(letter, letters.as_str());
            }
            if WITH_VALUE.contains(letter) {
                let attached = Some(letters.as_str()).filter(|value| !value.is_empty());
                let value = attached.or_else(|| words.next());
                let value = value.ok_or_else(|| usage(&format!("-{letter} needs a value")))?;
                return self.with_value(letter, value);
            }
            match letter {
                't' => self.reads_recipients = true,
                'i' => self.lone_dot = LoneDot::Stays,
                'v' => self.is_verbose = true,
                'I' => self.mode = SendmailMode::Aliases,
                // Relaying, submission, connected mode, no aliasing, the sender too, no expansion.
                'G' | 'U' | 'c' | 'n' | 'm' | 'x' => {}
                _ => return Err(usage(&format!("-{letter}: no such option"))),
            }
        }
        Ok(())
    }

    fn with_value(&mut self, letter: char, value: &str) -> Result<(), Failure> {
        let bad = || usage(&format!("-{letter} {value}: makes no sense"));
        match letter {
            'b' => self.mode = mode(value)?,
            'f' | 'r' => self.sender = Some(value.to_owned()),
            'F' => self.full_name = Some(value.to_owned()),
            // The content itself says how many bits it has.
            'B' if ["7BIT", "8BITMIME"].iter().any(|body| value.eq_ignore_ascii_case(body)) => {}
            'B' => return Err(bad()),
            'N' => self.notify = Some(Notify::parse(value).ok_or_else(bad)?),
            'R' => self.returns = Some(Return::parse(value).ok_or_else(bad)?),
            'V' => {
                let id = EnvelopeId::parse(&xtext::encode(value.as_bytes()));
                self.envelope_id = Some(id.ok_or_else(bad)?);
            }
            'o' if value == "i" => self.lone_dot = LoneDot::Stays,
            'o' if !value.starts_with('Q') => {}
            'O' if !value.to_ascii_lowercase().starts_with("queuedirectory") => {}
            // Which sendmail.cf, a log tag, how errors come back, the hop count, the protocol.
            'A' | 'L' | 'e' | 'h' | 'p' => {}
            _ => return Err(usage(&format!("-{letter}{value}: not supported"))),
        }
        Ok(())
    }
}

fn mode(value: &str) -> Result<SendmailMode, Failure> {
    match value {
        "m" => Ok(SendmailMode::Message),
        "s" => Ok(SendmailMode::Session),
        "p" => Ok(SendmailMode::Queue),
        "i" => Ok(SendmailMode::Aliases),
        "d" | "D" | "l" => Err(usage(&format!("-b{value}: the daemon is `staunch run`"))),
        "v" => Err(usage("-bv: `staunch explain ADDRESS` says what would happen")),
        _ => Err(usage(&format!("-b{value}: no such mode"))),
    }
}

/// Text that a log or a header field can hold.
fn text(word: &OsString) -> Result<&str, Failure> {
    let text = word.to_str().ok_or_else(|| usage(&format!("{word:?}: not UTF-8")))?;
    if text.chars().any(char::is_control) {
        return Err(usage(&format!("{text:?}: a control character")));
    }
    Ok(text)
}

fn usage(text: &str) -> Failure {
    Failure::new(Exit::Usage, format!("sendmail: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<SendmailOptions, Failure> {
        SendmailOptions::parse(&line.split(' ').map(OsString::from).collect::<Vec<_>>())
    }

    fn recipients(of: &[&str]) -> Vec<String> {
        of.iter().map(|one| (*one).to_owned()).collect()
    }

    #[test]
    fn the_command_lines_that_programs_use_are_understood() {
        let base = SendmailOptions { lone_dot: LoneDot::Stays, ..SendmailOptions::default() };
        let from = |sender: &str| Some(sender.to_owned());
        let cases = [
            // Debian's cron, cronie, PHP's mail() with and without its fifth argument.
            (
                "-FCronDaemon -i -B8BITMIME -oem root",
                SendmailOptions {
                    full_name: from("CronDaemon"),
                    recipients: recipients(&["root"]),
                    ..base.clone()
                },
            ),
            (
                "-FCronDaemon -i -odi -oem -oi -t -f root",
                SendmailOptions {
                    full_name: from("CronDaemon"),
                    reads_recipients: true,
                    sender: from("root"),
                    ..base.clone()
                },
            ),
            ("-t -i", SendmailOptions { reads_recipients: true, ..base.clone() }),
            (
                "-t -i -fbounce@x.example",
                SendmailOptions {
                    reads_recipients: true,
                    sender: from("bounce@x.example"),
                    ..base.clone()
                },
            ),
            // git send-email, mutt, Rails, mailx.
            (
                "-f a@x.example -i b@y.example c@y.example",
                SendmailOptions {
                    sender: from("a@x.example"),
                    recipients: recipients(&["b@y.example", "c@y.example"]),
                    ..base.clone()
                },
            ),
            (
                "-oem -oi -- -odd@x.example b@y.example",
                SendmailOptions {
                    recipients: recipients(&["-odd@x.example", "b@y.example"]),
                    ..base.clone()
                },
            ),
            ("-ti", SendmailOptions { reads_recipients: true, ..base.clone() }),
            ("-oi -O DeliveryMode=b -L tag -A m -h 3 -em -G -n", base.clone()),
            (
                "-N never -Rhdrs -V a+b -r a@x.example -v -f",
                SendmailOptions {
                    notify: Some(Notify::Never),
                    returns: Some(Return::Headers),
                    envelope_id: EnvelopeId::parse("a+2Bb"),
                    sender: from(""),
                    is_verbose: true,
                    lone_dot: LoneDot::Ends,
                    ..base
                },
            ),
        ];
        for (line, want) in cases {
            let words = line.split(' ').map(OsString::from);
            // The empty envelope sender is a word of its own.
            let empty = line.ends_with("-f").then(OsString::new);
            let words: Vec<OsString> = words.chain(empty).collect();
            assert_eq!(SendmailOptions::parse(&words), Ok(want), "{line}");
        }
    }

    #[test]
    fn each_mode_has_its_letter() {
        let cases = [
            ("-bm", SendmailMode::Message),
            ("-b s", SendmailMode::Session),
            ("-bp", SendmailMode::Queue),
            ("-bi", SendmailMode::Aliases),
            ("-I", SendmailMode::Aliases),
        ];
        for (line, want) in cases {
            assert_eq!(parse(line).unwrap().mode, want, "{line}");
        }
    }

    #[test]
    fn what_would_not_happen_is_refused() {
        let lines = [
            "-C/etc/other.cf",
            "-X /tmp/log",
            "-D x",
            "-oQ/tmp/queue",
            "-O QueueDirectory=/tmp",
            "-q",
            "-q30m",
            "-d0.1",
            "-bd",
            "-bv",
            "-bt",
            "-bz",
            "-Z",
            "-f",
            "-Nsometimes",
            "-Nnever,failure",
            "-Rmuch",
            "-B9BIT",
            "a@x.example -t",
            "a@x.example\nBcc:b@x.example",
            "-Fme\r",
            "-f\u{85}a@x.example",
        ];
        for line in lines {
            let failure = parse(line).unwrap_err();
            assert_eq!(failure.exit, Exit::Usage, "{line}");
            assert!(!failure.text.contains(char::is_control), "{line}");
        }
        use std::os::unix::ffi::OsStringExt;
        assert!(SendmailOptions::parse(&[OsString::from_vec(vec![0xff])]).is_err());
    }
}
