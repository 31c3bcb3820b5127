//! The client side of one mail transaction (RFC 5321 §3.3), as a state machine.
//!
//! No I/O and no clock: the caller sends what was appended to its buffer, reads one reply, and
//! hands it back. A step owns the next state, so a finished transaction cannot be continued. Each
//! recipient ends with its own reply and the command that it answers.
//!
//! ```text
//! start ─▶ Mail ─▶ Rcpt (each recipient) ─▶ Data ─354▶ Sending ─dot▶ Message ─▶ Done
//!            │             │      └─BDAT──────────────────▲  └─4yz/5yz──────────▶ Done
//!            └─4yz/5yz─────┴────────────────┤
//!                                           └─354 and nobody accepted─▶ Discard ▶ Done
//! ```
//!
//! With PIPELINING (RFC 2920) everything up to DATA goes out at once and the replies are matched in
//! order, also those that no longer matter; without it each command waits for the reply before.
//!
//! Where CHUNKING is offered (RFC 3030) the message goes as one `BDAT size LAST`, once the
//! recipients are answered: two round trips in all, as with DATA. Sent along with MAIL and RCPT it
//! would save one, but a server that refuses these and does not read the octets it was told of
//! would read the message as commands, and one that nobody gets would travel in full. One chunk and
//! not several: the size is known, each chunk costs a reply, and a server that has enough can say
//! so in the middle.

mod envelope;

pub use envelope::{Addressee, Envelope, MailOptions};
use envelope::{mail_command, rcpt_command};

use crate::extensions::{Extension, Extensions};
use crate::reply::{Reply, ReplyClass};

/// How the message travels.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Transfer {
    /// DATA: lines up to a lone dot, for [`crate::Stuffer`].
    Data,
    /// BDAT: so many octets as they are, for [`crate::Verbatim`].
    Chunk,
}

impl Transfer {
    /// BDAT where it is offered: nobody has to look for dots.
    pub fn best(extensions: &Extensions) -> Self {
        if extensions.offers(Extension::Chunking) { Self::Chunk } else { Self::Data }
    }
}

/// The point of the dialogue that a reply, a silence or a lost connection belongs to.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Stage {
    /// MAIL: a refusal is one of the sender, so of every recipient.
    Mail,
    /// RCPT: each recipient has a reply of its own.
    Rcpt,
    /// DATA, whose 354 asks for the message: nothing of it was sent.
    Data,
    /// The message, before its final dot was sent: nothing can have been delivered.
    Body,
    /// All of it was sent: without a reply nobody knows whether the message was delivered.
    EndOfData,
}

impl Stage {
    /// The command or phase in the words of RFC 5321 §4.5.3.2.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mail => "MAIL",
            Self::Rcpt => "RCPT",
            Self::Data => "DATA",
            Self::Body => "message body",
            Self::EndOfData => "end of data",
        }
    }
}

/// What became of one recipient.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum RecipientReply {
    /// The server took responsibility.
    Accepted(Reply),
    /// The server refused, now or for good.
    Refused {
        /// What the reply answers.
        stage: Stage,
        /// The refusal as the server worded it, with code and status.
        reply: Reply,
    },
}

impl RecipientReply {
    /// Was the recipient refused only because the transaction had too many of them?
    ///
    /// RFC 5321 §4.5.3.1.10: 452, or 552 from old servers, to RCPT, or any code with X.5.3; the
    /// recipient goes into another transaction. An enhanced code that names another cause (5.2.2,
    /// mailbox full) is believed.
    pub fn is_too_many_recipients(&self) -> bool {
        match self {
            Self::Refused { stage: Stage::Rcpt, reply } => is_too_many(reply),
            Self::Refused { .. } | Self::Accepted(_) => false,
        }
    }

    /// Could it be that the host refused the recipient only because the transaction had too many of
    /// them, without saying so? Of several behind one that was accepted, which all get the same
    /// answer, that is likely (Courier says 431).
    pub fn is_perhaps_too_many(&self, other: &Self) -> bool {
        match (self, other) {
            (
                Self::Refused { stage: Stage::Rcpt, reply },
                Self::Refused { stage: Stage::Rcpt, reply: before },
            ) => {
                let has_cause =
                    |reply: &Reply| reply.status.is_some_and(|s| !matches!(s.subject, 0 | 3 | 5));
                reply.class() == ReplyClass::Transient
                    && reply.code == before.code
                    && !has_cause(reply)
                    && !has_cause(before)
            }
            (Self::Accepted(_) | Self::Refused { .. }, _) => false,
        }
    }

    /// What the reply says, with too many recipients counted as transient whatever its code.
    pub fn class(&self) -> ReplyClass {
        match self {
            Self::Refused { .. } if self.is_too_many_recipients() => ReplyClass::Transient,
            Self::Accepted(reply) | Self::Refused { reply, .. } => reply.class(),
        }
    }
}

fn is_too_many(reply: &Reply) -> bool {
    let says_so = reply.status.is_some_and(|s| (s.subject, s.detail) == (5, 3));
    // Subject 0 says nothing, subject 5 is the protocol; any other one names a different cause.
    let is_old =
        matches!(reply.code, 452 | 552) && reply.status.is_none_or(|s| matches!(s.subject, 0 | 5));
    says_so || is_old
}

/// In which state the connection is afterwards.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ending {
    /// The next MAIL may follow.
    Clean,
    /// RSET first: a transaction may be open on the server's side.
    Reset,
    /// Of no further use: 421, or a body that was not sent to its end.
    Close,
    /// Of no further use, and BDAT neither: the server offers it and does not know it. What it made
    /// of the message's octets is not known; over another connection, DATA may do.
    CloseNoChunking,
}

/// A transaction in which each recipient has its result.
#[derive(Debug, Eq, PartialEq)]
pub struct Finished {
    /// One for each recipient, in envelope order.
    pub fates: Vec<RecipientReply>,
    /// Whether another transaction may follow on this connection.
    pub ending: Ending,
}

/// A transaction that was cut off: a lost connection, a time-out, an unexpected reply.
#[derive(Debug, Eq, PartialEq)]
pub struct Interrupted {
    /// The command, or the part of the message, whose reply was awaited.
    pub stage: Stage,
    /// The recipients' fates as far as they were known; `None` is still open.
    pub fates: Vec<Option<RecipientReply>>,
}

/// The server answered with a reply that this point of the dialogue does not have. Close the
/// connection.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
#[error("unexpected reply to {}: {reply}", .interrupted.stage.name())]
pub struct Unexpected {
    /// The reply that does not fit.
    pub reply: Reply,
    /// What was known before it.
    pub interrupted: Interrupted,
}

/// What the caller does next. Whatever was appended to its buffer is sent in any case.
#[derive(Debug)]
#[must_use]
pub enum TransactionStep<'a> {
    /// Read a reply and pass it to [`Transaction::on_reply`].
    Await(Transaction<'a>),
    /// Send the message in the form of [`Transaction::transfer`], then call
    /// [`Transaction::body_sent`] and read a reply.
    SendBody(Transaction<'a>),
    /// The transaction is over.
    Done(Finished),
}

/// A transaction that waits for a reply.
#[derive(Debug)]
pub struct Transaction<'a> {
    envelope: Envelope<'a>,
    extensions: Extensions,
    transfer: Transfer,
    is_pipelined: bool,
    state: TransactionState,
    fates: Vec<Option<RecipientReply>>,
}

/// Whose reply is awaited.
#[derive(Clone, Copy, Debug)]
enum TransactionState {
    Mail,
    /// Of the recipient with this index.
    Rcpt(usize),
    Data,
    /// The body is on its way; a reply now is early.
    Sending,
    Message,
    /// Of the lone dot that ends a message which nobody gets.
    Discard,
}

/// RFC 5321 §3.8: the server closes after it.
const CLOSING: u16 = 421;

impl<'a> Transaction<'a> {
    /// Begins a transaction: appends MAIL, or with PIPELINING all commands that may follow it, to
    /// `out`.
    pub fn start(
        envelope: Envelope<'a>,
        extensions: &Extensions,
        transfer: Transfer,
        out: &mut Vec<u8>,
    ) -> TransactionStep<'a> {
        let fates = vec![None; envelope.recipients.len()];
        if fates.is_empty() {
            return TransactionStep::Done(Finished { fates: Vec::new(), ending: Ending::Clean });
        }
        let extensions = *extensions;
        let is_pipelined = extensions.offers(Extension::Pipelining);
        mail_command(&envelope, &extensions, out);
        if is_pipelined {
            for recipient in envelope.recipients {
                rcpt_command(recipient, &extensions, &envelope.options, out);
            }
            if transfer == Transfer::Data {
                out.extend_from_slice(DATA);
            }
        }
        let state = TransactionState::Mail;
        TransactionStep::Await(Self { envelope, extensions, transfer, is_pipelined, state, fates })
    }

    /// The form of the message, if it is sent.
    pub fn transfer(&self) -> Transfer {
        self.transfer
    }

    /// What is being awaited; it decides the time limit.
    pub fn stage(&self) -> Stage {
        match self.state {
            TransactionState::Mail => Stage::Mail,
            TransactionState::Rcpt(_) => Stage::Rcpt,
            TransactionState::Data => Stage::Data,
            TransactionState::Sending | TransactionState::Discard => Stage::Body,
            TransactionState::Message => Stage::EndOfData,
        }
    }

    /// The message went out up to and with its end.
    #[must_use]
    pub fn body_sent(self) -> Self {
        match self.state {
            TransactionState::Sending => Self { state: TransactionState::Message, ..self },
            TransactionState::Mail
            | TransactionState::Rcpt(_)
            | TransactionState::Data
            | TransactionState::Message
            | TransactionState::Discard => self,
        }
    }

    /// Advances on the next reply; what has to be sent then is appended to `out`.
    ///
    /// # Errors
    ///
    /// [`Unexpected`] for a reply that the state does not have. Nothing was delivered, unless all
    /// of the message had been sent ([`Stage::EndOfData`]), in which case nobody knows.
    pub fn on_reply(
        self,
        reply: Reply,
        out: &mut Vec<u8>,
    ) -> Result<TransactionStep<'a>, Unexpected> {
        use ReplyClass::{Continue, Permanent, Success, Transient};
        if reply.code == CLOSING {
            return Ok(self.finish(reply, Ending::Close));
        }
        if self.is_chunk_unknown(&reply) {
            return Ok(self.finish(reply, Ending::CloseNoChunking));
        }
        match (self.state, reply.class()) {
            (TransactionState::Mail, Success) => Ok(self.next_recipient_or_data(0, out)),
            (TransactionState::Mail, Transient | Permanent) => Ok(self.sender_refused(&reply, out)),
            (TransactionState::Rcpt(index), Success) => {
                Ok(self.next_recipient_or_data(index + 1, out))
            }
            (TransactionState::Rcpt(index), Transient | Permanent) => {
                Ok(self.refused(index, reply, out))
            }
            (TransactionState::Data, Continue) => Ok(self.body_or_discard(out)),
            (TransactionState::Data, Transient | Permanent) => {
                Ok(self.finish(reply, Ending::Reset))
            }
            // Before its end: the server will not read the rest in step with us.
            (TransactionState::Sending, Transient | Permanent) => {
                Ok(self.finish(reply, Ending::Close))
            }
            // RFC 3030 §2: behind a chunk that was refused, only RSET ends the transaction for
            // sure.
            (TransactionState::Message, Transient | Permanent)
                if self.transfer == Transfer::Chunk =>
            {
                Ok(self.finish(reply, Ending::Reset))
            }
            (TransactionState::Message, Success | Transient | Permanent) => {
                Ok(self.finish(reply, Ending::Clean))
            }
            // RFC 2920 §3.1: nobody was accepted, so whatever it says is no delivery.
            (TransactionState::Discard, Success | Continue | Transient | Permanent) => {
                Ok(self.finish(reply, Ending::Reset))
            }
            // 250 to DATA is not "delivered": no body was sent.
            (TransactionState::Data, Success)
            | (
                TransactionState::Mail | TransactionState::Rcpt(_) | TransactionState::Message,
                Continue,
            )
            | (TransactionState::Sending, Success | Continue) => {
                Err(Unexpected { reply, interrupted: self.interrupted() })
            }
        }
    }

    /// Gives up: the connection was lost or too slow.
    pub fn interrupted(self) -> Interrupted {
        Interrupted { stage: self.stage(), fates: self.fates }
    }

    fn sender_refused(mut self, reply: &Reply, out: &mut Vec<u8>) -> TransactionStep<'a> {
        self.fates.fill(Some(RecipientReply::Refused { stage: Stage::Mail, reply: reply.clone() }));
        if self.is_pipelined {
            return self.next_recipient_or_data(0, out);
        }
        TransactionStep::Done(Finished {
            fates: self.fates.into_iter().flatten().collect(),
            ending: Ending::Reset,
        })
    }

    fn refused(mut self, index: usize, reply: Reply, out: &mut Vec<u8>) -> TransactionStep<'a> {
        // With too many recipients, those behind would only hear the same.
        let ends_the_list = is_too_many(&reply) && !self.is_pipelined;
        let next = if ends_the_list { self.fates.len() } else { index + 1 };
        for fate in self.fates.iter_mut().take(next).skip(index) {
            // Already refused with the sender: that reply is the cause.
            fate.get_or_insert_with(|| RecipientReply::Refused {
                stage: Stage::Rcpt,
                reply: reply.clone(),
            });
        }
        self.next_recipient_or_data(next, out)
    }

    fn next_recipient_or_data(mut self, next: usize, out: &mut Vec<u8>) -> TransactionStep<'a> {
        if let Some(recipient) = self.envelope.recipients.get(next) {
            self.state = TransactionState::Rcpt(next);
            if !self.is_pipelined {
                rcpt_command(recipient, &self.extensions, &self.envelope.options, out);
            }
            return TransactionStep::Await(self);
        }
        let is_data_sent = self.is_pipelined && self.transfer == Transfer::Data;
        if !is_data_sent && !self.has_open() {
            let fates = self.fates.into_iter().flatten().collect();
            return TransactionStep::Done(Finished { fates, ending: Ending::Reset });
        }
        match self.transfer {
            Transfer::Data => {
                if !is_data_sent {
                    out.extend_from_slice(DATA);
                }
                self.state = TransactionState::Data;
                TransactionStep::Await(self)
            }
            Transfer::Chunk => {
                out.extend_from_slice(format!("BDAT {} LAST\r\n", self.envelope.size).as_bytes());
                self.state = TransactionState::Sending;
                TransactionStep::SendBody(self)
            }
        }
    }

    fn body_or_discard(mut self, out: &mut Vec<u8>) -> TransactionStep<'a> {
        if self.has_open() {
            self.state = TransactionState::Sending;
            return TransactionStep::SendBody(self);
        }
        // A server that refuses MAIL because a transaction is open already has taken these
        // recipients for that one: it would deliver an empty message to them.
        let first = self.fates.first();
        if matches!(first, Some(Some(RecipientReply::Refused { stage: Stage::Mail, .. }))) {
            let fates = self.fates.into_iter().flatten().collect();
            return TransactionStep::Done(Finished { fates, ending: Ending::Close });
        }
        self.state = TransactionState::Discard;
        out.extend_from_slice(b".\r\n");
        TransactionStep::Await(self)
    }

    /// Does `reply` say that BDAT, which was written as it must be, is not understood?
    fn is_chunk_unknown(&self, reply: &Reply) -> bool {
        let is_sent = match self.state {
            TransactionState::Sending | TransactionState::Message => {
                self.transfer == Transfer::Chunk
            }
            TransactionState::Mail
            | TransactionState::Rcpt(_)
            | TransactionState::Data
            | TransactionState::Discard => false,
        };
        is_sent && CHUNK_UNKNOWN.contains(&reply.code)
    }

    fn has_open(&self) -> bool {
        self.fates.iter().any(Option::is_none)
    }

    /// `reply` is the answer for everyone who has none of their own.
    fn finish(self, reply: Reply, ending: Ending) -> TransactionStep<'a> {
        let stage = self.stage();
        let is_accepted = stage == Stage::EndOfData && reply.class() == ReplyClass::Success;
        let fate = if is_accepted {
            RecipientReply::Accepted(reply)
        } else {
            RecipientReply::Refused { stage, reply }
        };
        let fates = self.fates.into_iter().map(|own| own.unwrap_or_else(|| fate.clone())).collect();
        TransactionStep::Done(Finished { fates, ending })
    }
}

const DATA: &[u8] = b"DATA\r\n";

/// RFC 5321 §4.2.2: the replies to commands and parameters that a server does not know, or not
/// here.
const CHUNK_UNKNOWN: std::ops::RangeInclusive<u16> = 500..=504;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::{Mailbox, ReversePath};

    fn extensions(keywords: &str) -> Extensions {
        let lines: String = keywords.split(' ').map(|word| format!("250-{word}\r\n")).collect();
        let reply = Reply::parse(format!("250-mx\r\n{lines}250 HELP\r\n").as_bytes()).unwrap();
        Extensions::from_reply(&reply)
    }

    fn reply(code: u16) -> Reply {
        Reply::parse(format!("{code} x\r\n").as_bytes()).unwrap()
    }

    fn mailboxes(count: usize) -> Vec<Mailbox> {
        (0..count).map(|i| Mailbox::parse(&format!("r{i}@example.org")).unwrap()).collect()
    }

    /// `+250`, or `-R550` with the first letter of the stage.
    fn show(fate: &RecipientReply) -> String {
        match fate {
            RecipientReply::Accepted(reply) => format!("+{}", reply.code),
            RecipientReply::Refused { stage, reply } => {
                format!("-{}{}", letter(*stage), reply.code)
            }
        }
    }

    fn letter(stage: Stage) -> char {
        format!("{stage:?}").chars().next().unwrap()
    }

    /// Runs a script of codes; a negative one comes while the body is being sent. Returns how the
    /// dialogue ended, and the first letter of each thing that was sent (B for the body, C for
    /// BDAT).
    fn play(keywords: &str, recipients: usize, codes: &[i32]) -> (String, String) {
        let (sender, mailboxes) = (ReversePath::Null, mailboxes(recipients));
        let recipients: Vec<_> = mailboxes.iter().map(Addressee::from).collect();
        let envelope = Envelope {
            sender: &sender,
            recipients: &recipients,
            size: 1,
            has_8bit: false,
            options: MailOptions::default(),
        };
        let offers = extensions(keywords);
        let mut out = Vec::new();
        let mut step = Transaction::start(envelope, &offers, Transfer::best(&offers), &mut out);
        let mut codes = codes.iter();
        let ended = loop {
            let transaction = match step {
                TransactionStep::Done(Finished { fates, ending }) => {
                    let fates: Vec<_> = fates.iter().map(show).collect();
                    break format!("{} {ending:?}", fates.join(" "));
                }
                TransactionStep::SendBody(transaction)
                    if codes.as_slice().first().is_some_and(|c| *c < 0) =>
                {
                    transaction
                }
                TransactionStep::SendBody(transaction) => {
                    out.extend_from_slice(b"BODY\r\n");
                    transaction.body_sent()
                }
                TransactionStep::Await(transaction) => transaction,
            };
            let Some(code) = codes.next() else {
                let Interrupted { stage, fates } = transaction.interrupted();
                let fates = fates.iter().map(|f| f.as_ref().map_or_else(|| "?".to_owned(), show));
                break format!("{} cut at {stage:?}", fates.collect::<Vec<_>>().join(" "));
            };
            match transaction.on_reply(reply(code.unsigned_abs().try_into().unwrap()), &mut out) {
                Ok(next) => step = next,
                Err(error) => {
                    break format!("{} to {:?}", error.reply.code, error.interrupted.stage);
                }
            }
        };
        assert_eq!(codes.next(), None, "replies were left over");
        let lines = String::from_utf8(out).unwrap().replace("BDAT 1 LAST\r\n", "C\r\n");
        (ended, lines.lines().filter_map(|line| line.chars().next()).collect())
    }

    type Case<'a> = (&'a str, &'a [i32], &'a str, &'a str);

    #[track_caller]
    fn check(keywords: &str, cases: &[Case<'_>]) {
        for (what, codes, ended, sent) in cases {
            let want = ((*ended).to_owned(), (*sent).to_owned());
            assert_eq!(play(keywords, 2, codes), want, "{keywords}: {what}");
        }
    }

    #[test]
    fn each_recipient_gets_its_own_answer() {
        check(
            "HELP",
            &[
                ("both accepted", &[250, 250, 250, 354, 250], "+250 +250 Clean", "MRRDB"),
                ("one refused", &[250, 550, 250, 354, 250], "-R550 +250 Clean", "MRRDB"),
                ("body refused", &[250, 550, 250, 354, 451], "-R550 -E451 Clean", "MRRDB"),
                ("all refused, no DATA", &[250, 550, 450], "-R550 -R450 Reset", "MRR"),
                ("sender refused", &[451], "-M451 -M451 Reset", "M"),
                ("421 to MAIL", &[421], "-M421 -M421 Close", "M"),
                ("421 to RCPT", &[250, 550, 421], "-R550 -R421 Close", "MRR"),
                ("421 to DATA", &[250, 250, 250, 421], "-D421 -D421 Close", "MRRD"),
                ("421 to the message", &[250, 250, 250, 354, 421], "-E421 -E421 Close", "MRRDB"),
                ("DATA refused", &[250, 250, 250, 554], "-D554 -D554 Reset", "MRRD"),
                ("too many at the second", &[250, 250, 452, 354, 250], "+250 -R452 Clean", "MRRDB"),
                ("too many ends the list", &[250, 452], "-R452 -R452 Reset", "MR"),
                ("other successes", &[251, 251, 252, 354, 200], "+200 +200 Clean", "MRRDB"),
                ("250 to DATA is no delivery", &[250, 250, 250, 250], "250 to Data", "MRRD"),
                ("354 to MAIL", &[354], "354 to Mail", "M"),
                ("354 to RCPT", &[250, 354], "354 to Rcpt", "MR"),
                ("354 to the body", &[250, 250, 250, 354, 354], "354 to EndOfData", "MRRDB"),
                ("refused early", &[250, 250, 250, 354, -552], "-B552 -B552 Close", "MRRD"),
                ("accepted before its end", &[250, 250, 250, 354, -250], "250 to Body", "MRRD"),
                ("closed after MAIL", &[250], "? ? cut at Rcpt", "MR"),
            ],
        );
    }

    #[test]
    fn with_pipelining_every_reply_is_matched_in_order() {
        check(
            "PIPELINING",
            &[
                ("both accepted", &[250, 250, 250, 354, 250], "+250 +250 Clean", "MRRDB"),
                ("one refused", &[250, 550, 250, 354, 250], "-R550 +250 Clean", "MRRDB"),
                ("sender refused", &[550, 503, 503, 503], "-M550 -M550 Reset", "MRRD"),
                (
                    "recipients and DATA taken for a transaction that was open: no empty message",
                    &[503, 250, 250, 354],
                    "-M503 -M503 Close",
                    "MRRD",
                ),
                ("354 for nobody", &[250, 550, 451, 354, 250], "-R550 -R451 Reset", "MRRD."),
                ("all refused, DATA too", &[250, 550, 451, 554], "-R550 -R451 Reset", "MRRD"),
                ("421 in the middle", &[250, 550, 421], "-R550 -R421 Close", "MRRD"),
                ("too many recipients", &[250, 452, 250, 354, 250], "-R452 +250 Clean", "MRRDB"),
                ("250 to DATA is no delivery", &[250, 250, 250, 250], "250 to Data", "MRRD"),
                ("refused and closed", &[550], "-M550 -M550 cut at Rcpt", "MRRD"),
                ("closed after one refusal", &[250, 550], "-R550 ? cut at Rcpt", "MRRD"),
                ("closed after the dot", &[250, 250, 250, 354], "? ? cut at EndOfData", "MRRDB"),
            ],
        );
    }

    #[test]
    fn a_chunk_follows_the_replies_to_the_recipients_and_nothing_follows_it() {
        let cases: &[Case<'_>] = &[
            ("both accepted", &[250, 250, 250, 250], "+250 +250 Clean", "MRRCB"),
            ("one refused", &[250, 550, 250, 250], "-R550 +250 Clean", "MRRCB"),
            ("all refused, no BDAT", &[250, 550, 450], "-R550 -R450 Reset", "MRR"),
            ("message refused", &[250, 250, 250, 554], "-E554 -E554 Reset", "MRRCB"),
            ("not now", &[250, 250, 250, 452], "-E452 -E452 Reset", "MRRCB"),
            ("421 to the message", &[250, 250, 250, 421], "-E421 -E421 Close", "MRRCB"),
            ("refused in the middle", &[250, 250, 250, -552], "-B552 -B552 Close", "MRRC"),
            ("no such command", &[250, 250, 250, -500], "-B500 -B500 CloseNoChunking", "MRRC"),
            ("out of sequence", &[250, 250, 250, 503], "-E503 -E503 CloseNoChunking", "MRRCB"),
            ("accepted before its end", &[250, 250, 250, -250], "250 to Body", "MRRC"),
            ("354 to BDAT", &[250, 250, 250, 354], "354 to EndOfData", "MRRCB"),
            ("too many at the second", &[250, 250, 452, 250], "+250 -R452 Clean", "MRRCB"),
            ("closed after the chunk", &[250, 250, 250], "? ? cut at EndOfData", "MRRCB"),
        ];
        check("CHUNKING", cases);
        check("PIPELINING CHUNKING", cases);
        check("CHUNKING", &[("sender refused", &[550], "-M550 -M550 Reset", "M")]);
        check(
            "PIPELINING CHUNKING",
            &[
                ("sender refused", &[550, 503, 503], "-M550 -M550 Reset", "MRR"),
                ("only the sender refused", &[550, 250, 250], "-M550 -M550 Reset", "MRR"),
            ],
        );
    }

    #[test]
    fn no_recipients_is_no_dialogue() {
        assert_eq!(play("PIPELINING", 0, &[]), (" Clean".to_owned(), String::new()));
    }

    #[test]
    fn too_many_recipients_is_told_from_a_full_mailbox() {
        let cases = [
            (Stage::Rcpt, "452 too many", true, ReplyClass::Transient),
            (Stage::Rcpt, "452 4.5.3 too many", true, ReplyClass::Transient),
            (Stage::Rcpt, "552 too many", true, ReplyClass::Transient),
            (Stage::Rcpt, "552 5.5.3 too many", true, ReplyClass::Transient),
            (Stage::Rcpt, "552 5.2.2 mailbox full", false, ReplyClass::Permanent),
            (Stage::Rcpt, "452 4.2.2 mailbox full", false, ReplyClass::Transient),
            (Stage::Rcpt, "550 5.5.3 too many", true, ReplyClass::Transient),
            (Stage::Rcpt, "451 4.5.3 too many", true, ReplyClass::Transient),
            (Stage::Rcpt, "431 later", false, ReplyClass::Transient),
            (Stage::EndOfData, "552 too large", false, ReplyClass::Permanent),
        ];
        for (stage, text, is_too_many, class) in cases {
            let reply = Reply::parse(format!("{text}\r\n").as_bytes()).unwrap();
            let fate = RecipientReply::Refused { stage, reply };
            assert_eq!(
                (fate.is_too_many_recipients(), fate.class()),
                (is_too_many, class),
                "{text}"
            );
        }
    }
}
