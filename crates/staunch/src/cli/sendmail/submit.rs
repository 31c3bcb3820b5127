//! Handing a message to the daemon: SMTP over its submit socket (RFC 5321 §3.3).

use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use smtp::params::{EnvelopeId, Notify, Return};
use smtp::{Extension, Extensions, Reply, ReplyClass, ReplyParser, Stuffer};

use crate::cli::exit::{Exit, Failure};

/// RFC 5321 §4.5.3.2.6: the longest that any reply may take.
const SILENCE_MAX: Duration = Duration::from_secs(10 * 60);
/// Our choice: content is sent in pieces of this size.
const PIECE_OCTETS: usize = 64 * 1024;
/// RFC 5321 §4.5.3.1.10: too many recipients for one transaction, the rest goes into the next.
const TOO_MANY_RECIPIENTS: u16 = 452;

/// From whom to whom, and what they want to hear of it.
#[derive(Clone, Debug)]
pub(super) struct SubmittedEnvelope<'a> {
    /// Empty for the null sender.
    pub(super) sender: &'a str,
    /// At least one; may be more than one transaction takes.
    pub(super) recipients: &'a [String],
    pub(super) notify: Option<Notify>,
    pub(super) returns: Option<Return>,
    pub(super) envelope_id: Option<&'a EnvelopeId>,
}

impl SubmittedEnvelope<'_> {
    /// The MAIL command.
    ///
    /// # Errors
    ///
    /// A [`Failure`] if the daemon does not offer what the envelope needs.
    fn mail(&self, content: &[u8], extensions: &Extensions) -> Result<String, Failure> {
        let mut line = format!("MAIL FROM:<{}>", self.sender);
        if extensions.size().is_some() {
            line += &format!(" SIZE={}", content.len());
        }
        if extensions.offers(Extension::EightBitMime) && !content.is_ascii() {
            line += " BODY=8BITMIME";
        }
        let is_ascii = self.sender.is_ascii() && self.recipients.iter().all(|one| one.is_ascii());
        if !is_ascii {
            need(extensions, Extension::SmtpUtf8, "an address that is not ASCII")?;
            line += " SMTPUTF8";
        }
        if let Some(returns) = self.returns {
            need(extensions, Extension::Dsn, "-R")?;
            line += &format!(" RET={returns}");
        }
        if let Some(id) = self.envelope_id {
            need(extensions, Extension::Dsn, "-V")?;
            line += &format!(" ENVID={id}");
        }
        Ok(line)
    }

    /// RCPT, with what the sender asks for in DSNs.
    fn rcpt(&self, recipient: &str, extensions: &Extensions) -> Result<String, Failure> {
        let mut line = format!("RCPT TO:<{recipient}>");
        if let Some(notify) = self.notify {
            need(extensions, Extension::Dsn, "-N")?;
            line += &format!(" NOTIFY={notify}");
        }
        Ok(line)
    }
}

fn need(extensions: &Extensions, extension: Extension, what: &str) -> Result<(), Failure> {
    if extensions.offers(extension) {
        return Ok(());
    }
    Err(Failure::new(Exit::Unavailable, format!("sendmail: the daemon does not take {what}")))
}

/// What became of a message.
#[derive(Clone, Debug, Default)]
pub(super) struct TakenMail {
    /// The answer to each transaction that carried it.
    pub(super) answers: Vec<Reply>,
    /// Who has no mail.
    pub(super) refused: Vec<SubmitRefused>,
}

/// Somebody who has no mail, and will have none.
#[derive(Clone, Debug)]
pub(super) struct SubmitRefused {
    /// As it was given to RCPT.
    pub(super) recipient: String,
    /// Never [`Exit::TemporaryFailure`]: whoever sees that sends to everybody again.
    pub(super) exit: Exit,
    /// The host's answer, or why nobody asked it.
    pub(super) text: String,
}

impl TakenMail {
    /// Nobody of `rest` has mail, for this reason; those refused since `refused_before` have their
    /// own.
    fn give_up(&mut self, rest: &[String], refused_before: usize, failure: &Failure) {
        let exit = match failure.exit {
            Exit::TemporaryFailure => Exit::Unavailable,
            Exit::Ok
            | Exit::No
            | Exit::Usage
            | Exit::BadInput
            | Exit::NoInput
            | Exit::NoUser
            | Exit::NoHost
            | Exit::Unavailable
            | Exit::NoPermission
            | Exit::Config => failure.exit,
        };
        let why = failure.text.strip_prefix("sendmail: ").unwrap_or(&failure.text);
        let text =
            format!("not taken, unlike the recipients before; send to this one again: {why}");
        let known = self.refused.split_off(refused_before);
        let left = rest.iter().filter(|one| known.iter().all(|known| known.recipient != **one));
        let left: Vec<_> = left
            .map(|one| SubmitRefused { recipient: one.clone(), exit, text: text.clone() })
            .collect();
        self.refused.extend(known.into_iter().chain(left));
    }
}

/// Hands `content` (lines with CRLF) to the daemon. More recipients than one transaction takes are
/// spread over several.
///
/// # Errors
///
/// A [`Failure`] if nothing was taken: with [`Exit::TemporaryFailure`] for whatever may work later.
/// Once something was taken, no failure is temporary: a caller that tries again sends to everybody
/// again, also to those who have their copy. Who is left is [`TakenMail::refused`] then.
pub(super) fn submit(
    socket: &Path,
    name: &str,
    envelope: &SubmittedEnvelope<'_>,
    content: &[u8],
) -> Result<TakenMail, Failure> {
    let mut dialog = Dialog::open(socket)?;
    let greeting = dialog.reply()?;
    expected(&greeting, ReplyClass::Success)?;
    let hello = dialog.command(&format!("EHLO {name}"))?;
    expected(&hello, ReplyClass::Success)?;
    dialog.extensions = Extensions::from_reply(&hello);
    let mut taken = TakenMail::default();
    let mut rest = envelope.recipients;
    while !rest.is_empty() {
        let refused_before = taken.refused.len();
        match dialog.transaction(rest, envelope, content, &mut taken) {
            Ok(later) => rest = later,
            Err(failure) if taken.answers.is_empty() => return Err(failure),
            Err(failure) => {
                taken.give_up(rest, refused_before, &failure);
                break;
            }
        }
    }
    // The message is safe, whatever becomes of the connection now.
    let _ = dialog.command("QUIT");
    Ok(taken)
}

/// Octets that are handed on at a time. Our choice.
const CARRIED_OCTETS: usize = 16 * 1024;

/// SMTP on our own stdin and stdout (`-bs`).
///
/// # Errors
///
/// [`Failure`] if the daemon is away; the client was told, too.
pub(super) fn relay(socket: &Path) -> Result<Exit, Failure> {
    let stream = connect(socket).inspect_err(|_| {
        // With stdout gone there is nobody to tell.
        let _ = io::stdout().write_all(b"421 4.3.2 The mail service is away\r\n");
    })?;
    let to_daemon = stream.try_clone().map_err(|error| lost(&error))?;
    std::thread::spawn(move || {
        // The end of stdin, or the daemon's, is the end of this direction.
        let _ = carry(&mut io::stdin().lock(), &mut &to_daemon);
        let _ = to_daemon.shutdown(Shutdown::Write);
    });
    carry(&mut &stream, &mut io::stdout().lock())?;
    Ok(Exit::Ok)
}

/// Hands on what comes, at once. Not by [`io::copy`], which on Linux has the kernel move the
/// octets: splice(2) into a pipe keeps the pipe locked while it waits for more, and so a program
/// that reads an answer which is already there waits, too.
fn carry(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut buffer = vec![0; CARRIED_OCTETS];
    loop {
        let piece = match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(octets) => buffer.get(..octets).unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        to.write_all(piece)?;
        to.flush()?;
    }
}

fn connect(socket: &Path) -> Result<UnixStream, Failure> {
    UnixStream::connect(socket).map_err(|error| {
        let text =
            format!("sendmail: the daemon is not reachable at {}: {error}", socket.display());
        Failure::new(Exit::TemporaryFailure, text)
    })
}

fn lost(error: &dyn std::fmt::Display) -> Failure {
    Failure::new(Exit::TemporaryFailure, format!("sendmail: connection to the daemon: {error}"))
}

/// Insists on the class of a reply.
fn expected(reply: &Reply, class: ReplyClass) -> Result<(), Failure> {
    if reply.class() == class {
        return Ok(());
    }
    Err(Failure::new(exit_of(reply), format!("sendmail: {reply}")))
}

/// The code of sysexits(3) that is nearest to a refusal.
pub(super) fn exit_of(reply: &Reply) -> Exit {
    if reply.class() != ReplyClass::Permanent {
        return Exit::TemporaryFailure;
    }
    match reply.status.map(|status| (status.subject, status.detail)) {
        Some((1, 2)) => Exit::NoHost,
        Some((1, _)) => Exit::NoUser,
        Some((7, _)) => Exit::NoPermission,
        // Too large, or content that cannot be carried.
        Some((2 | 3, 3 | 4) | (5 | 6, _)) => Exit::BadInput,
        Some(_) | None => Exit::Unavailable,
    }
}

struct Dialog {
    stream: UnixStream,
    parser: ReplyParser,
    input: Vec<u8>,
    /// What the daemon offers.
    extensions: Extensions,
}

impl Dialog {
    fn open(socket: &Path) -> Result<Self, Failure> {
        let stream = connect(socket)?;
        let limited = stream
            .set_read_timeout(Some(SILENCE_MAX))
            .and_then(|()| stream.set_write_timeout(Some(SILENCE_MAX)));
        limited.map_err(|error| lost(&error))?;
        Ok(Self {
            stream,
            parser: ReplyParser::default(),
            input: Vec::new(),
            extensions: Extensions::default(),
        })
    }

    fn command(&mut self, line: &str) -> Result<Reply, Failure> {
        let sent = self.stream.write_all(format!("{line}\r\n").as_bytes());
        sent.map_err(|error| lost(&error))?;
        self.reply()
    }

    fn reply(&mut self) -> Result<Reply, Failure> {
        loop {
            let (used, reply) = self.parser.parse(&self.input).map_err(|error| lost(&error))?;
            self.input.drain(..used);
            if let Some(reply) = reply {
                return Ok(reply);
            }
            let mut piece = [0; 4096];
            let count = self.stream.read(&mut piece).map_err(|error| lost(&error))?;
            if count == 0 {
                return Err(lost(&"closed"));
            }
            self.input.extend_from_slice(piece.get(..count).unwrap_or_default());
        }
    }

    /// Hands in one copy, for as many recipients as it may have. Returns the others.
    fn transaction<'r>(
        &mut self,
        recipients: &'r [String],
        envelope: &SubmittedEnvelope<'_>,
        content: &[u8],
        taken: &mut TakenMail,
    ) -> Result<&'r [String], Failure> {
        let mail = self.command(&envelope.mail(content, &self.extensions)?)?;
        expected(&mail, ReplyClass::Success)?;
        let refused_before = taken.refused.len();
        let (now, later) = self.recipients(recipients, envelope, taken)?;
        if now.len() > taken.refused.len() - refused_before {
            let answer = self.content(content)?;
            taken.answers.push(answer);
        } else {
            expected(&self.command("RSET")?, ReplyClass::Success)?;
        }
        Ok(later)
    }

    /// Names recipients until one transaction has enough: those answered for good, and the rest.
    fn recipients<'r>(
        &mut self,
        recipients: &'r [String],
        envelope: &SubmittedEnvelope<'_>,
        taken: &mut TakenMail,
    ) -> Result<(&'r [String], &'r [String]), Failure> {
        let mut accepted = 0;
        for (at, recipient) in recipients.iter().enumerate() {
            let reply = self.command(&envelope.rcpt(recipient, &self.extensions)?)?;
            match reply.class() {
                ReplyClass::Success => accepted += 1,
                ReplyClass::Permanent => taken.refused.push(SubmitRefused {
                    recipient: recipient.clone(),
                    exit: exit_of(&reply),
                    text: reply.to_string(),
                }),
                ReplyClass::Transient if reply.code == TOO_MANY_RECIPIENTS && accepted > 0 => {
                    return Ok(recipients.split_at_checked(at).unwrap_or((recipients, &[])));
                }
                // Nothing of this transaction is sent yet.
                ReplyClass::Transient | ReplyClass::Continue => {
                    let text = format!("sendmail: <{recipient}>: {reply}");
                    return Err(Failure::new(Exit::TemporaryFailure, text));
                }
            }
        }
        Ok((recipients, &[]))
    }

    fn content(&mut self, content: &[u8]) -> Result<Reply, Failure> {
        expected(&self.command("DATA")?, ReplyClass::Continue)?;
        let mut stuffer = Stuffer::default();
        let mut out = Vec::with_capacity(PIECE_OCTETS * 2);
        for piece in content.chunks(PIECE_OCTETS) {
            stuffer.push(piece, &mut out).map_err(|_| lost(&"a line without its end"))?;
            self.stream.write_all(&out).map_err(|error| lost(&error))?;
            out.clear();
        }
        stuffer.finish(&mut out).map_err(|_| lost(&"a line without its end"))?;
        self.stream.write_all(&out).map_err(|error| lost(&error))?;
        let reply = self.reply()?;
        expected(&reply, ReplyClass::Success)?;
        Ok(reply)
    }
}

#[cfg(test)]
mod tests {
    use std::io::BufRead as _;

    use super::*;

    #[test]
    fn a_refusal_has_the_exit_code_that_fits() {
        let cases = [
            ("452 4.3.1 Full", Exit::TemporaryFailure),
            ("421 4.3.2 Bye", Exit::TemporaryFailure),
            ("550 5.1.1 Nobody", Exit::NoUser),
            ("553 5.1.3 Bad address", Exit::NoUser),
            ("550 5.1.2 No such domain", Exit::NoHost),
            ("550 5.7.1 Not you", Exit::NoPermission),
            ("552 5.3.4 Too large", Exit::BadInput),
            ("550 5.6.7 No UTF-8", Exit::BadInput),
            ("501 5.5.4 Bad parameter", Exit::BadInput),
            ("550 No", Exit::Unavailable),
            ("250 2.0.0 Surprise", Exit::TemporaryFailure),
        ];
        for (line, want) in cases {
            let reply = Reply::parse(format!("{line}\r\n").as_bytes()).unwrap();
            assert_eq!(exit_of(&reply), want, "{line}");
        }
    }

    /// A daemon that gives these answers, one for each command; DATA has a second one behind its
    /// content.
    fn daemon(answers: &'static [&'static str]) -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("submit.sock");
        let socket = std::os::unix::net::UnixListener::bind(&path).unwrap();
        std::thread::spawn(move || {
            let (stream, _) = socket.accept().unwrap();
            let mut lines = io::BufReader::new(&stream).lines();
            for answer in answers {
                // The client may be gone already; what it made of it all is what counts.
                let _ = (&stream).write_all(format!("{answer}\r\n").as_bytes());
                let mut line = lines.next();
                while answer.starts_with("354") && !matches!(&line, None | Some(Err(_))) {
                    if line.is_some_and(|line| line.unwrap() == ".") {
                        break;
                    }
                    line = lines.next();
                }
            }
        });
        (dir, path)
    }

    /// Of a message for a, b and c.
    fn submitted(answers: &'static [&'static str]) -> Result<TakenMail, Failure> {
        let (_dir, path) = daemon(answers);
        let recipients = ["a", "b", "c"].map(|name| format!("{name}@x.example"));
        let envelope = SubmittedEnvelope {
            sender: "",
            recipients: &recipients,
            notify: None,
            returns: None,
            envelope_id: None,
        };
        submit(&path, "host.example", &envelope, b"Subject: x\r\n\r\n")
    }

    #[test]
    fn once_something_was_taken_nobody_is_told_to_send_it_all_again() {
        const FIRST: [&str; 8] =
            ["220 x", "250 x", "250 m", "250 a", "452 4.5.3 b", "354 d", "250 2.0.0 ok", "250 m"];
        let ends: [(&[&str], Exit); 5] = [
            (&["451 4.3.0 Later"], Exit::Unavailable),
            (&["250 b", "451 4.3.0 Later"], Exit::Unavailable),
            (&["250 b", "250 c", "452 4.3.1 Full"], Exit::Unavailable),
            (&["250 b", "250 c", "354 d", "421 4.3.2 Bye"], Exit::Unavailable),
            (&["250 b", "250 c", "354 d", "554 5.6.0 No"], Exit::BadInput),
        ];
        for (end, exit) in ends {
            let answers = [&FIRST[..], end].concat().leak();
            let taken = submitted(answers).unwrap();
            assert_eq!(taken.answers.len(), 1, "{end:?}");
            let left: Vec<_> = taken.refused.iter().map(|one| one.recipient.as_str()).collect();
            assert_eq!(left, ["b@x.example", "c@x.example"], "{end:?}");
            for one in &taken.refused {
                assert_eq!(one.exit, exit, "{end:?}");
                assert!(one.text.contains(end.last().unwrap().get(4..).unwrap()), "{one:?}");
            }
        }
        // Who has an own reason keeps it.
        let answers = [&FIRST[..], &["550 5.1.1 Nobody", "451 4.3.0 Later"]].concat().leak();
        let taken = submitted(answers).unwrap();
        let exits: Vec<_> = taken.refused.iter().map(|one| one.exit).collect();
        assert_eq!(exits, [Exit::NoUser, Exit::Unavailable]);
        assert!(!taken.refused[0].text.contains("again"), "{taken:?}");
        // With nothing taken, the whole may be tried again.
        for end in [&["451 4.3.0 Later"][..], &["250 a", "451 4.3.0 Later"]] {
            let answers = [&FIRST[..3], end].concat().leak();
            assert_eq!(submitted(answers).unwrap_err().exit, Exit::TemporaryFailure, "{end:?}");
        }
    }

    #[test]
    fn the_envelope_asks_for_what_it_needs_and_only_where_it_is_offered() {
        let offer = |text: &str| {
            let text = format!("250-x{text}\r\n250 HELP\r\n");
            Extensions::from_reply(&Reply::parse(text.as_bytes()).unwrap())
        };
        let all = offer("\r\n250-SIZE 1000\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250-DSN");
        let recipients = vec!["b@x.example".to_owned()];
        let id = EnvelopeId::parse("a").unwrap();
        let plain = SubmittedEnvelope {
            sender: "",
            recipients: &recipients,
            notify: None,
            returns: None,
            envelope_id: None,
        };
        let rich = SubmittedEnvelope {
            sender: "ü@x.example",
            notify: Some(Notify::Never),
            returns: Some(Return::Full),
            envelope_id: Some(&id),
            ..plain.clone()
        };
        assert_eq!(plain.mail(b"1234", &all).unwrap(), "MAIL FROM:<> SIZE=4");
        assert_eq!(plain.mail(b"\xff", &offer("")).unwrap(), "MAIL FROM:<>");
        assert_eq!(plain.rcpt("b@x.example", &offer("")).unwrap(), "RCPT TO:<b@x.example>");
        assert_eq!(
            rich.mail(b"\xff", &all).unwrap(),
            "MAIL FROM:<ü@x.example> SIZE=1 BODY=8BITMIME SMTPUTF8 RET=FULL ENVID=a"
        );
        assert_eq!(rich.rcpt("b@x.example", &all).unwrap(), "RCPT TO:<b@x.example> NOTIFY=NEVER");
        assert!(rich.mail(b"", &offer("\r\n250-DSN")).is_err());
        assert!(rich.rcpt("b@x.example", &offer("")).is_err());
    }
}
