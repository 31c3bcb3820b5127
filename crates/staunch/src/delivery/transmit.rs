//! One mail over one admitted connection, with an answer for each recipient.
//!
//! The dialogue itself is `smtp::client`; here it gets a connection, a body and the time limits of
//! RFC 5321 §4.5.3.2. A small mail costs two writes and two reads where the peer has PIPELINING.
//!
//! Recipients that the host does not take in one transaction follow in the next one at once, on the
//! same connection: those beyond what it announces (RFC 9422), and those that it refuses as too
//! many (RFC 5321 §4.5.3.1.10).
//!
//! A connection that breaks when all of the message was sent leaves open whether it was delivered
//! ([`TransactionError::is_outcome_unknown`]): trying the next host at once would only make a
//! duplicate surer.

mod answers;
mod content;
mod transmitted;

use std::io;
use std::time::Duration;

use policy::Admitted;
use smtp::client::{
    Addressee, Ending, Envelope, Finished, Interrupted, RecipientReply, Stage, Transaction,
    TransactionStep, Transfer,
};
use smtp::limits::{
    DATA_BLOCK_TIMEOUT, DATA_INITIATION_TIMEOUT, DATA_TERMINATION_TIMEOUT, FAREWELL_TIMEOUT,
    MAIL_TIMEOUT, RCPT_TIMEOUT,
};
use smtp::transparency::{BareNewline, Unsendable};
use smtp::{RemoteText, Reply, ReplyClass, Stuffer, Verbatim};
use tokio::time::Instant;

use crate::connect::connection::{BrokenConnection, Connection, WrittenOctets};
use crate::connect::is_throttling;
use crate::connect::pool::Idle;
use crate::delivery::outcome::SERVICE_CLOSING;
use crate::delivery::yielding::Yielding;
use answers::RecipientAnswers;
pub(crate) use content::{BodyContent, BodySource, PIECE_OCTETS};
pub(crate) use transmitted::{TransactionError, Transmitted};

/// RFC 5321 §4.2.2.
const BAD_SEQUENCE: u16 = 503;

#[derive(Debug)]
pub(crate) struct OutgoingMail<'a> {
    /// Who sends it, who gets it, and its size as it is sent.
    pub(crate) envelope: Envelope<'a>,
    /// Its content.
    pub(crate) body: BodyContent<'a>,
    /// May it go by BDAT?
    pub(crate) chunking: Chunking,
    /// When a transaction is cut off that has not come to its final dot.
    pub(crate) deadline: Option<Instant>,
    /// Is told as soon as content goes out. Before that a transaction that is dropped delivers
    /// nothing.
    pub(crate) yielding: &'a Yielding,
}

/// Is the offer of CHUNKING taken?
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Chunking {
    /// Yes, where it is made.
    IfOffered,
    /// No: the host offers it and does not know BDAT.
    Avoided,
}

/// Sends `mail`. Dropping the future closes the connection; what became of the mail is then
/// unknown.
pub(crate) async fn transmit(admitted: Admitted<Idle>, mail: &OutgoingMail<'_>) -> Transmitted {
    let mut idle = admitted.into_connection();
    let recipients = mail.envelope.recipients;
    let mut answers = RecipientAnswers::new(recipients.len());
    while let Some(batch) = answers.next_batch(&mut idle.connection, recipients) {
        idle.connection.count_transaction();
        idle.connection.set_deadline(mail.deadline);
        let finished = match converse(&mut idle.connection, mail, &batch.addressees).await {
            Ok(finished) => finished,
            Err(CutTransaction { fates, trouble }) => {
                answers.note(&batch, fates);
                return answers.end(Some(trouble), None);
            }
        };
        if idle.connection.transactions() > 1 && is_about_session(&finished.fates) {
            let is_known = idle.connection.needs_reset();
            idle.connection.set_needs_reset();
            let is_ready = is_ready_again(&mut idle.connection, finished.ending).await;
            // Once a session, RSET may help: some hosts want one behind each message.
            if is_ready && !is_known {
                continue;
            }
            return answers.end_of_session(is_ready.then_some(idle));
        }
        move_window(&idle, &finished.fates);
        if finished.ending == Ending::CloseNoChunking {
            return answers.end(Some(TransactionError::NoChunking), None);
        }
        answers.note(&batch, finished.fates.into_iter().map(Some).collect());
        if !is_ready_again(&mut idle.connection, finished.ending).await {
            return answers.end(None, None);
        }
    }
    answers.end_of_session(Some(idle))
}

/// A transaction that did not end.
struct CutTransaction {
    fates: Vec<Option<RecipientReply>>,
    trouble: TransactionError,
}

impl CutTransaction {
    fn new(Interrupted { stage, fates }: Interrupted, cause: CutCause) -> Self {
        let trouble = match cause {
            CutCause::Broken(broken) => {
                let text = RemoteText::new(&broken.to_string());
                match broken {
                    BrokenConnection::NotSmtp(_) | BrokenConnection::OutOfStep => {
                        TransactionError::Protocol { stage, text }
                    }
                    BrokenConnection::Closed
                    | BrokenConnection::Io(_)
                    | BrokenConnection::TimedOut(_) => TransactionError::Lost { stage, text },
                }
            }
            CutCause::Unreadable(error) => {
                TransactionError::Body { text: format!("reading the body: {error}") }
            }
            CutCause::Unsendable(error) => TransactionError::Body { text: error.to_string() },
        };
        Self { fates, trouble }
    }
}

/// Why a step could not be taken.
enum CutCause {
    Broken(BrokenConnection),
    Unreadable(io::Error),
    Unsendable(Unsendable),
}

impl From<BrokenConnection> for CutCause {
    fn from(broken: BrokenConnection) -> Self {
        Self::Broken(broken)
    }
}

impl From<BareNewline> for CutCause {
    fn from(error: BareNewline) -> Self {
        Self::Unsendable(error.into())
    }
}

impl From<Unsendable> for CutCause {
    fn from(error: Unsendable) -> Self {
        Self::Unsendable(error)
    }
}

async fn converse(
    connection: &mut Connection,
    mail: &OutgoingMail<'_>,
    recipients: &[Addressee<'_>],
) -> Result<Finished, CutTransaction> {
    let extensions = *connection.extensions();
    let transfer = match mail.chunking {
        Chunking::IfOffered => Transfer::best(&extensions),
        Chunking::Avoided => Transfer::Data,
    };
    let envelope = Envelope { recipients, ..mail.envelope };
    let mut step = Transaction::start(envelope, &extensions, transfer, connection.output());
    loop {
        let (transaction, answer) = match step {
            TransactionStep::Done(finished) => return Ok(finished),
            TransactionStep::Await(transaction) => {
                let limit = limit(transaction.stage());
                let answer = exchange(connection, limit).await.map_err(CutCause::from);
                (transaction, answer)
            }
            TransactionStep::SendBody(transaction) => {
                match send_message(connection, mail, transfer).await {
                    Ok(WrittenOctets::Early(reply)) => (transaction, Ok(reply)),
                    Ok(WrittenOctets::All) => {
                        // Now it is the peer's, perhaps: no haste ends the wait for its word (RFC
                        // 5321 §4.5.3.2.6).
                        connection.set_deadline(None);
                        let transaction = transaction.body_sent();
                        let limit = limit(transaction.stage());
                        let answer = connection.reply(limit).await.map_err(CutCause::from);
                        (transaction, answer)
                    }
                    Err(cause) => (transaction, Err(cause)),
                }
            }
        };
        let reply = match answer {
            Ok(reply) => reply,
            Err(cause) => return Err(CutTransaction::new(transaction.interrupted(), cause)),
        };
        step = transaction.on_reply(reply, connection.output()).map_err(|unexpected| {
            let text = RemoteText::new(&unexpected.to_string());
            let Interrupted { stage, fates } = unexpected.interrupted;
            CutTransaction { fates, trouble: TransactionError::Protocol { stage, text } }
        })?;
    }
}

async fn exchange(connection: &mut Connection, limit: Duration) -> Result<Reply, BrokenConnection> {
    connection.send(limit).await?;
    connection.reply(limit).await
}

/// RFC 5321 §4.5.3.2.
fn limit(stage: Stage) -> Duration {
    match stage {
        Stage::Mail => MAIL_TIMEOUT,
        Stage::Rcpt => RCPT_TIMEOUT,
        Stage::Data => DATA_INITIATION_TIMEOUT,
        Stage::Body | Stage::EndOfData => DATA_TERMINATION_TIMEOUT,
    }
}

/// What stands around the content.
enum Frame {
    Data(Stuffer),
    Chunk(Verbatim),
}

impl Frame {
    fn push(&mut self, piece: &[u8], out: &mut Vec<u8>) -> Result<(), CutCause> {
        match self {
            Self::Data(stuffer) => Ok(stuffer.push(piece, out)?),
            Self::Chunk(verbatim) => Ok(verbatim.push(piece, out)?),
        }
    }

    fn finish(self, out: &mut Vec<u8>) -> Result<(), CutCause> {
        match self {
            Self::Data(stuffer) => Ok(stuffer.finish(out)?),
            Self::Chunk(verbatim) => Ok(verbatim.finish(out)?),
        }
    }
}

/// The content, framed and ended. The last piece carries the end with it, so a small mail is one
/// write; and a body that is shorter than it should be never gets its end.
async fn send_message(
    connection: &mut Connection,
    mail: &OutgoingMail<'_>,
    transfer: Transfer,
) -> Result<WrittenOctets, CutCause> {
    mail.yielding.content_begins();
    let mut frame = match transfer {
        Transfer::Data => Frame::Data(Stuffer::default()),
        Transfer::Chunk => Frame::Chunk(Verbatim::new(mail.envelope.size)),
    };
    let mut pieces = mail.body.pieces();
    while pieces.has_more() {
        let piece = pieces.next().await.map_err(CutCause::Unreadable)?;
        frame.push(piece, connection.output())?;
        if pieces.has_more() && connection.output().len() >= PIECE_OCTETS {
            match connection.send_body(DATA_BLOCK_TIMEOUT).await? {
                WrittenOctets::All => {}
                WrittenOctets::Early(reply) => return Ok(WrittenOctets::Early(reply)),
            }
        }
    }
    frame.finish(connection.output())?;
    Ok(connection.send_body(DATA_BLOCK_TIMEOUT).await?)
}

/// What a host says to MAIL in a session that has carried mail, and not about this one: it wants no
/// more of it, or thinks that a transaction is open.
fn is_about_session(fates: &[RecipientReply]) -> bool {
    refusal_of_sender(fates).is_some_and(|reply| {
        let is_protocol = reply.status.is_some_and(|status| status.subject == 5);
        let text = reply.text().as_str().to_ascii_lowercase();
        let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
        let counts =
            has(&["session", "connection"]) && has(&["too many", "limit", "max", "only one"]);
        reply.code == BAD_SEQUENCE || is_protocol || counts
    })
}

fn refusal_of_sender(fates: &[RecipientReply]) -> Option<&Reply> {
    match fates.first()? {
        RecipientReply::Refused { stage: Stage::Mail, reply } => Some(reply),
        RecipientReply::Refused { .. } | RecipientReply::Accepted(_) => None,
    }
}

/// Tells the pool what the answers say about the host. A connection that was kept and ends at MAIL
/// was kept for too long; that is no call for fewer.
fn move_window(idle: &Idle, fates: &[RecipientReply]) {
    let is_first = idle.connection.transactions() == 1;
    let mut is_accepted = false;
    let mut is_throttled = false;
    for fate in fates {
        match fate {
            RecipientReply::Accepted(_) => is_accepted = true,
            RecipientReply::Refused { stage: Stage::Mail, reply }
                if reply.code == SERVICE_CLOSING =>
            {
                is_throttled |= is_first;
            }
            RecipientReply::Refused { reply, .. } => is_throttled |= is_throttling(reply),
        }
    }
    if is_throttled {
        idle.slot.throttled();
    } else if is_accepted {
        idle.slot.succeeded();
        idle.know_address();
    }
}

/// Can the next mail follow? Where the server may still have a transaction open, RSET ends it.
async fn is_ready_again(connection: &mut Connection, ending: Ending) -> bool {
    let ending = match ending {
        Ending::Clean if connection.needs_reset() => Ending::Reset,
        Ending::Clean | Ending::Reset | Ending::Close | Ending::CloseNoChunking => ending,
    };
    let is_reset = match ending {
        Ending::Clean => true,
        Ending::Close | Ending::CloseNoChunking => false,
        Ending::Reset => {
            let reply = connection.command("RSET\r\n", FAREWELL_TIMEOUT).await;
            reply.is_ok_and(|reply| reply.class() == ReplyClass::Success)
        }
    };
    // What nobody asked for would be taken for the answer to the next command.
    is_reset && !connection.has_unread()
}

#[cfg(test)]
mod tests;
