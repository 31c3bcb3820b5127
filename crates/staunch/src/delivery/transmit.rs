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
use smtp::stuff::{BareNewline, Unsendable};
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
mod tests {
    use std::io::Write;
    use std::net::SocketAddr;
    use std::sync::Arc;

    use jiff::Timestamp;
    use policy::{Floor, Observed, Roots};
    use smtp::client::MailOptions;
    use smtp::{Extensions, Mailbox, ReversePath};
    use tokio::net::{TcpSocket, TcpStream};
    use tokio::time::timeout;
    use tokio_util::task::TaskTracker;

    use super::*;
    use crate::connect::connection::scripted::{Act, host, play, play_on};
    use crate::connect::pool::{Checkout, Pool, PoolLimits};
    use crate::connect::{Endpoint, PoolKey, Sources};

    const PIPELINING: &str = "250-mx.example.org\r\n250-PIPELINING\r\n250 SIZE 100000000\r\n";
    const BARE: &str = "250-mx.example.org\r\n250 HELP\r\n";

    fn mailboxes(count: usize) -> Vec<Mailbox> {
        (0..count).map(|i| Mailbox::parse(&format!("r{i}@example.org")).unwrap()).collect()
    }

    /// A connection after an EHLO that was answered with `ehlo`.
    async fn connected(address: SocketAddr, ehlo: &str) -> Idle {
        connected_over(TcpStream::connect(address).await.unwrap(), ehlo).await
    }

    async fn connected_over(stream: TcpStream, ehlo: &str) -> Idle {
        let address = stream.peer_addr().unwrap();
        let limits = PoolLimits {
            total: 1,
            per_site: 100,
            per_host: 1,
            transactions: 100,
            idle: Duration::from_secs(3),
            limits: Vec::new(),
        };
        let pool = Pool::new(limits, TaskTracker::new());
        let mx = host(Floor::Opportunistic).host().clone();
        let endpoint = Endpoint::mx(address.port());
        let key = PoolKey { route: None, sources: Sources::default(), host: mx, endpoint };
        let Checkout::Fresh(slot) = pool.checkout(&key).await else { panic!("an empty pool") };
        stream.set_nodelay(true).unwrap();
        let mut connection = Connection::plain(stream, address);
        connection.set_extensions(Extensions::from_reply(&Reply::parse(ehlo.as_bytes()).unwrap()));
        Idle::new(connection, Observed::Plain, slot)
    }

    async fn send(idle: Idle, recipients: usize, size: u64, body: BodySource<'_>) -> Transmitted {
        send_sized(idle, recipients, (size, size), body).await
    }

    /// Of a size on the wire and one in the store.
    async fn send_sized(
        idle: Idle,
        recipients: usize,
        sizes: (u64, u64),
        body: BodySource<'_>,
    ) -> Transmitted {
        send_mail(idle, recipients, sizes, (body, None)).await
    }

    async fn send_until(
        idle: Idle,
        body: BodySource<'_>,
        deadline: Option<Instant>,
    ) -> Transmitted {
        send_mail(idle, 1, (3, 3), (body, deadline)).await
    }

    async fn send_mail(
        idle: Idle,
        recipients: usize,
        (size, stored): (u64, u64),
        (body, deadline): (BodySource<'_>, Option<Instant>),
    ) -> Transmitted {
        let mx = host(Floor::Opportunistic);
        let observed = Arc::clone(&idle.observed);
        let admitted = mx.admit(idle, &observed, &Roots::default(), Timestamp::UNIX_EPOCH).unwrap();
        let sender = ReversePath::parse("s@example.net").unwrap();
        let mailboxes = mailboxes(recipients);
        let recipients: Vec<_> = mailboxes.iter().map(Addressee::from).collect();
        let envelope = Envelope {
            sender: &sender,
            recipients: &recipients,
            size,
            has_8bit: false,
            options: MailOptions::default(),
        };
        let body = BodyContent { source: body, size: stored, plan: None };
        let (chunking, yielding) = (Chunking::IfOffered, &Yielding::default());
        let mail = OutgoingMail { envelope, body, chunking, deadline, yielding };
        transmit(admitted, &mail).await
    }

    /// The codes of the fates; 0 for none.
    fn codes(transmitted: &Transmitted) -> Vec<u16> {
        let code = |fate: &Option<RecipientReply>| match fate {
            Some(RecipientReply::Accepted(reply) | RecipientReply::Refused { reply, .. }) => {
                reply.code
            }
            None => 0,
        };
        transmitted.fates.iter().map(code).collect()
    }

    #[tokio::test]
    async fn one_connection_carries_many_mails_byte_for_byte() {
        let mail = [
            Act::Hear,
            Act::Hear,
            Act::Hear,
            Act::Say("250 a\r\n250 b\r\n354 c\r\n"),
            Act::HearBody,
            Act::Say("250 taken\r\n"),
        ];
        let (address, peer) = play(vec![[mail.clone(), mail].concat()]).await;
        let idle = connected(address, PIPELINING).await;
        let body = b"a: b\r\n\r\n.dot\r\nno end";
        let first = send(idle, 1, 20, BodySource::Memory(body)).await;
        assert_eq!((codes(&first), first.trouble), (vec![250], None));
        let second = send(first.connection.unwrap(), 1, 20, BodySource::Memory(body)).await;
        assert_eq!(codes(&second), [250]);
        assert_eq!(second.connection.unwrap().connection.transactions(), 2);
        let group = "MAIL FROM:<s@example.net> SIZE=20\r\nRCPT TO:<r0@example.org>\r\nDATA\r\n";
        let wire = format!("{group}a: b\r\n\r\n..dot\r\nno end\r\n.\r\n");
        assert_eq!(peer.await.unwrap(), wire.repeat(2));
    }

    #[tokio::test]
    async fn a_transaction_without_data_is_reset_before_the_next() {
        let script = vec![
            Act::Hear,
            Act::Say("250 a\r\n"),
            Act::Hear,
            Act::Say("550 b\r\n"),
            Act::Hear,
            Act::Say("250 reset\r\n"),
            Act::HearAll,
        ];
        let (address, peer) = play(vec![script]).await;
        let idle = connected(address, BARE).await;
        let transmitted = send(idle, 1, 3, BodySource::Memory(b"abc")).await;
        assert_eq!(codes(&transmitted), [550]);
        assert!(transmitted.connection.is_some());
        drop(transmitted);
        assert_eq!(
            peer.await.unwrap(),
            "MAIL FROM:<s@example.net>\r\nRCPT TO:<r0@example.org>\r\nRSET\r\n"
        );
    }

    /// Peers that refuse and close at once: the refusal counts, not the broken connection.
    #[tokio::test]
    async fn a_refusal_is_heard_before_the_closed_connection() {
        let (address, _peer) = play(vec![vec![Act::Hear, Act::Say("550 5.7.1 no\r\n")]]).await;
        let idle = connected(address, PIPELINING).await;
        let transmitted = send(idle, 2, 3, BodySource::Memory(b"abc")).await;
        assert_eq!(codes(&transmitted), [550, 550]);
        assert!(transmitted.connection.is_none());

        // In the middle of a body that the peer does not go on to read.
        let script = vec![
            Act::Hear,
            Act::Hear,
            Act::Hear,
            Act::Say("250 a\r\n250 b\r\n354 c\r\n"),
            Act::Swallow(1000),
            Act::Say("552 5.3.4 too much\r\n"),
        ];
        let (address, _peer) = play(vec![script]).await;
        let idle = connected(address, PIPELINING).await;
        let body = b"0123456789abcd\r\n".repeat(1_000_000);
        let size = u64::try_from(body.len()).unwrap();
        let transmitted = send(idle, 1, size, BodySource::Memory(&body)).await;
        assert_eq!(codes(&transmitted), [552], "{:?}", transmitted.trouble);
        assert!(transmitted.connection.is_none());
    }

    #[tokio::test]
    async fn a_connection_lost_behind_the_dot_leaves_the_outcome_open() {
        let open = [Act::Hear, Act::Hear, Act::Hear, Act::Say("250 a\r\n250 b\r\n354 c\r\n")];
        for (ends, stage, is_unknown) in [
            (vec![], Stage::Rcpt, false),
            (vec![Act::HearBody], Stage::EndOfData, true),
            (vec![Act::HearBody, Act::Say("25")], Stage::EndOfData, true),
        ] {
            let mut script = open.to_vec();
            if stage == Stage::Rcpt {
                script[3] = Act::Say("250 a\r\n");
            }
            script.extend(ends);
            let (address, _peer) = play(vec![script]).await;
            let idle = connected(address, PIPELINING).await;
            let transmitted = send(idle, 1, 3, BodySource::Memory(b"abc")).await;
            assert_eq!(codes(&transmitted), [0]);
            let Some(trouble @ TransactionError::Lost { stage: at, .. }) = &transmitted.trouble
            else {
                panic!("{:?}", transmitted.trouble)
            };
            assert_eq!((*at, trouble.is_outcome_unknown()), (stage, is_unknown));
        }
    }

    #[tokio::test]
    async fn answers_nobody_asked_for_are_no_delivery() {
        let open = |replies| vec![Act::Hear, Act::Hear, Act::Hear, Act::Say(replies), Act::HearAll];
        let (address, peer) = play(vec![open("250 a\r\n250 b\r\n354 c\r\n250 early\r\n")]).await;
        let idle = connected(address, PIPELINING).await;
        let transmitted = send(idle, 1, 3, BodySource::Memory(b"abc")).await;
        assert_eq!(codes(&transmitted), [0]);
        assert!(matches!(
            transmitted.trouble,
            Some(TransactionError::Protocol { stage: Stage::Body, .. })
        ));
        assert!(!peer.await.unwrap().ends_with(".\r\n"), "the message was not ended");

        // Behind the last one, the connection is out of step.
        let script = vec![
            Act::Hear,
            Act::Hear,
            Act::Hear,
            Act::Say("250 a\r\n250 b\r\n354 c\r\n"),
            Act::HearBody,
            Act::Say("250 taken\r\n250 and more\r\n"),
        ];
        let (address, _peer) = play(vec![script]).await;
        let idle = connected(address, PIPELINING).await;
        let transmitted = send(idle, 1, 3, BodySource::Memory(b"abc")).await;
        assert_eq!(codes(&transmitted), [250]);
        assert!(transmitted.connection.is_none());
    }

    #[tokio::test]
    async fn a_body_that_is_not_whole_or_not_clean_never_gets_its_end() {
        let mut short = tempfile::NamedTempFile::new().unwrap();
        short.write_all(&b"0123456789abcd\r\n".repeat(10_000)).unwrap();
        let file = Arc::new(short.reopen().unwrap());
        let cases = [
            (160_001, BodySource::File(file), "shorter than its size"),
            (4, BodySource::Memory(b"abc"), "not of its size"),
            (3, BodySource::Memory(b"a\nb"), "bare CR or LF"),
        ];
        let by_data = (PIPELINING, vec![Act::Hear; 3], "250 a\r\n250 b\r\n354 c\r\n");
        let by_bdat = (CHUNKING, vec![Act::Hear; 2], "250 a\r\n250 b\r\n");
        let each = |case| [(case, by_data.clone()), (case, by_bdat.clone())];
        for ((size, body, want), (ehlo, mut script, replies)) in cases.iter().flat_map(each) {
            script.extend([Act::Say(replies), Act::HearAll]);
            let (address, peer) = play(vec![script]).await;
            let idle = connected(address, ehlo).await;
            let transmitted = send(idle, 1, *size, body.clone()).await;
            let Some(TransactionError::Body { text }) = &transmitted.trouble else {
                panic!("{:?}", transmitted.trouble)
            };
            assert!(text.contains(want), "{text}");
            assert_eq!(codes(&transmitted), [0]);
            assert!(transmitted.connection.is_none());
            let heard = peer.await.unwrap();
            assert!(!heard.contains("\r\n.\r\n"));
            let (_, chunk) = heard.split_once(" LAST\r\n").unwrap_or_default();
            assert!(u64::try_from(chunk.len()).unwrap() < *size, "a chunk that is not whole");
        }
    }

    #[tokio::test]
    async fn a_file_is_streamed_byte_for_byte() {
        let content = b"0123456789\r\n.23456789abcdef\r\n".repeat(20_000);
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&content).unwrap();
        let script = vec![
            Act::Hear,
            Act::Hear,
            Act::Hear,
            Act::Say("250 a\r\n250 b\r\n354 c\r\n"),
            Act::HearBody,
            Act::Say("250 taken\r\n"),
        ];
        let (address, peer) = play(vec![script]).await;
        let idle = connected(address, PIPELINING).await;
        let size = u64::try_from(content.len()).unwrap();
        let source = BodySource::File(Arc::new(file.reopen().unwrap()));
        let transmitted = send(idle, 1, size, source).await;
        assert_eq!(codes(&transmitted), [250]);
        let heard = peer.await.unwrap();
        let (_, message) = heard.split_once("DATA\r\n").unwrap();
        let want = String::from_utf8(content).unwrap().replace("\r\n.", "\r\n..") + ".\r\n";
        assert!(message == want, "not the same octets");
    }

    const CHUNKING: &str = "250-mx.example.org\r\n250-PIPELINING\r\n250 CHUNKING\r\n";

    #[tokio::test]
    async fn a_chunk_has_its_size_and_no_dots_are_doubled() {
        let body = b".a\r\n..\r\n.\r\nno end";
        let script = vec![
            Act::Hear,
            Act::Hear,
            Act::Say("250 a\r\n250 b\r\n"),
            Act::Hear,
            Act::Swallow(body.len() + 2),
            Act::Say("250 taken\r\n"),
        ];
        let (address, peer) = play(vec![script]).await;
        let idle = connected(address, CHUNKING).await;
        // The envelope has the size with the last line's end.
        let transmitted = send_sized(idle, 1, (19, 17), BodySource::Memory(body)).await;
        assert_eq!((codes(&transmitted), transmitted.trouble), (vec![250], None));
        assert!(transmitted.connection.is_some());
        let wire = "MAIL FROM:<s@example.net>\r\nRCPT TO:<r0@example.org>\r\nBDAT 19 LAST\r\n";
        assert_eq!(peer.await.unwrap(), wire);
    }

    #[tokio::test]
    async fn a_host_that_does_not_know_bdat_after_all_is_left() {
        let script = vec![
            Act::Hear,
            Act::Hear,
            Act::Say("250 a\r\n250 b\r\n"),
            Act::Hear,
            Act::Swallow(3),
            Act::Say("500 what?\r\n"),
            Act::HearAll,
        ];
        let (address, peer) = play(vec![script]).await;
        let idle = connected(address, CHUNKING).await;
        let transmitted = send(idle, 1, 3, BodySource::Memory(b"a\r\n")).await;
        assert_eq!(transmitted.trouble, Some(TransactionError::NoChunking));
        assert!(transmitted.connection.is_none());
        assert!(peer.await.unwrap().ends_with("BDAT 3 LAST\r\n"), "and not even QUIT");
    }

    /// Plays transactions with these replies to RCPT, each with a body that is taken.
    fn transactions(replies: &[&'static str]) -> Vec<Act> {
        let mut script = Vec::new();
        for rcpt in replies {
            script.push(Act::Hear);
            script.push(Act::Say("250 sender\r\n"));
            for reply in rcpt.split_inclusive('\n') {
                script.extend([Act::Hear, Act::Say(reply)]);
            }
            let end = [Act::Hear, Act::Say("354 go\r\n"), Act::HearBody, Act::Say("250 ok\r\n")];
            script.extend(end);
        }
        script
    }

    fn verbs(heard: &str) -> String {
        heard.lines().filter_map(|line| line.chars().next()).collect()
    }

    #[tokio::test]
    async fn recipients_that_were_too_many_follow_at_once_as_many_as_the_host_takes() {
        let script = transactions(&[
            "250 a\r\n250 b\r\n452 4.5.3 too many\r\n",
            "250 c\r\n550 d\r\n",
            "250 e\r\n",
        ]);
        let (address, peer) = play(vec![script]).await;
        let idle = connected(address, BARE).await;
        let transmitted = send(idle, 5, 3, BodySource::Memory(b"abc")).await;
        assert_eq!(codes(&transmitted), [250, 250, 250, 550, 250]);
        assert!(transmitted.trouble.is_none() && transmitted.connection.is_some());
        assert_eq!(verbs(&peer.await.unwrap()), "MRRRDa.MRRDa.MRDa.");
    }

    #[tokio::test]
    async fn a_run_of_4yz_behind_accepted_recipients_is_too_many_until_nobody_is_taken() {
        let script = transactions(&[
            "250 a\r\n250 b\r\n431 c\r\n431 d\r\n431 e\r\n",
            "250 c\r\n250 d\r\n",
            "250 e\r\n",
        ]);
        let (address, peer) = play(vec![script]).await;
        let idle = connected(address, BARE).await;
        let transmitted = send(idle, 5, 3, BodySource::Memory(b"abc")).await;
        assert_eq!(codes(&transmitted), [250; 5]);
        assert_eq!(verbs(&peer.await.unwrap()), "MRRRRRDa.MRRDa.MRDa.");

        let refused = answers(&["250 sender\r\n", "451 later\r\n", "250 reset\r\n"]);
        let greylisted = transactions(&["250 a\r\n451 b\r\n451 c\r\n"]);
        let script = [greylisted, refused].concat();
        let (address, peer) = play(vec![script]).await;
        let idle = connected(address, BARE).await;
        let transmitted = send(idle, 3, 3, BodySource::Memory(b"abc")).await;
        assert_eq!(codes(&transmitted), [250, 451, 451]);
        assert_eq!(verbs(&peer.await.unwrap()), "MRRRDa.MRR", "and the third is not asked alone");
    }

    /// One command each.
    fn answers(replies: &[&'static str]) -> Vec<Act> {
        replies.iter().flat_map(|reply| [Act::Hear, Act::Say(reply)]).collect()
    }

    #[tokio::test]
    async fn a_host_that_keeps_its_transactions_open_gets_rset_and_no_mail_is_returned() {
        let mail = transactions(&["250 a\r\n"]);
        let reset = answers(&["250 reset\r\n"]);
        let nested = answers(&["503 5.5.1 nested MAIL\r\n", "250 reset\r\n"]);
        let script = [mail.clone(), nested, mail.clone(), reset.clone(), mail, reset].concat();
        let (address, peer) = play(vec![script]).await;
        let mut idle = connected(address, BARE).await;
        for _ in 0..3 {
            let transmitted = send(idle, 1, 3, BodySource::Memory(b"abc")).await;
            assert_eq!((codes(&transmitted), transmitted.trouble), (vec![250], None));
            idle = transmitted.connection.unwrap();
        }
        assert_eq!(verbs(&peer.await.unwrap()), "MRDa.MRMRDa.RMRDa.R");
    }

    /// RCPT and DATA, sent along, are for the transaction that the host thinks is open.
    #[tokio::test]
    async fn with_pipelining_no_empty_message_comes_of_that() {
        let mail = [
            &answers(&["250 sender\r\n", "250 a\r\n", "354 go\r\n"])[..],
            &[Act::HearBody, Act::Say("250 ok\r\n")],
        ];
        let nested = answers(&["503 nested MAIL\r\n", "250 a\r\n", "354 go\r\n"]);
        let script = [&mail.concat()[..], &nested, &[Act::HearAll]].concat();
        let (address, peer) = play(vec![script]).await;
        let idle = connected(address, PIPELINING).await;
        let first = send(idle, 1, 3, BodySource::Memory(b"abc")).await;
        let second = send(first.connection.unwrap(), 1, 3, BodySource::Memory(b"abc")).await;
        assert_eq!((codes(&second), second.trouble), (vec![0], Some(TransactionError::UsedUp)));
        assert!(second.connection.is_none());
        assert_eq!(verbs(&peer.await.unwrap()), "MRDa.MRD");
    }

    #[tokio::test]
    async fn who_has_enough_of_a_session_says_nothing_about_the_mail() {
        let full = answers(&["452 too many messages in this session\r\n", "250 reset\r\n"]);
        let script = [transactions(&["250 a\r\n"]), full.clone(), full].concat();
        let (address, _peer) = play(vec![script]).await;
        let idle = connected(address, BARE).await;
        let first = send(idle, 1, 3, BodySource::Memory(b"abc")).await;
        let second = send(first.connection.unwrap(), 1, 3, BodySource::Memory(b"abc")).await;
        assert_eq!((codes(&second), second.trouble), (vec![0], Some(TransactionError::UsedUp)));
    }

    #[tokio::test]
    async fn announced_limits_are_kept_to() {
        let ehlo = "250-mx.example.org\r\n250 LIMITS RCPTMAX=2 MAILMAX=2\r\n";
        let script = transactions(&["250 a\r\n250 b\r\n", "250 c\r\n250 d\r\n"]);
        let (address, peer) = play(vec![script]).await;
        let idle = connected(address, ehlo).await;
        let transmitted = send(idle, 5, 3, BodySource::Memory(b"abc")).await;
        assert_eq!(codes(&transmitted), [250, 250, 250, 250, 0], "the last was not asked");
        assert_eq!(transmitted.trouble, None);
        let idle = transmitted.connection.unwrap();
        assert!(idle.connection.is_used_up());
        let transmitted = send(idle, 1, 3, BodySource::Memory(b"abc")).await;
        assert_eq!(transmitted.trouble, Some(TransactionError::UsedUp));
        assert_eq!(verbs(&peer.await.unwrap()), "MRRDa.MRRDa.");
    }

    #[tokio::test]
    async fn what_is_said_of_the_message_stops_it_and_ends_it_for_nobody_who_was_not_asked() {
        let ehlo = "250-mx.example.org\r\n250 LIMITS RCPTMAX=1\r\n";
        for (reply, want) in
            [("554 5.7.1 spam\r\n", [554, 0, 0]), ("451 4.7.1 later\r\n", [451, 451, 451])]
        {
            let mut script = transactions(&["250 a\r\n"]);
            script.pop();
            script.push(Act::Say(reply));
            let (address, peer) = play(vec![script]).await;
            let transmitted =
                send(connected(address, ehlo).await, 3, 3, BodySource::Memory(b"abc")).await;
            assert_eq!(codes(&transmitted), want);
            assert_eq!(transmitted.trouble, None);
            drop(transmitted);
            assert_eq!(verbs(&peer.await.unwrap()), "MRDa.", "the body goes out once");
        }
    }

    /// A socket between which and another one of its kind little can be under way.
    fn narrow() -> TcpSocket {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_send_buffer_size(4096).unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        socket
    }

    /// Neither side may wait for the other while both only write (RFC 2920 §3.1): the peer answers
    /// each command before it reads the next, and neither the group nor the answers fit between us.
    #[tokio::test]
    async fn a_large_group_does_not_wait_for_a_peer_that_waits_for_us() {
        const RECIPIENTS: usize = 1000;
        let pair =
            [Act::Hear, Act::Say("250 a very long way of saying that all is well so far\r\n")];
        let mut script = vec![pair; RECIPIENTS + 1].concat();
        script.extend([Act::Hear, Act::Say("354 go\r\n"), Act::HearBody, Act::Say("250 ok\r\n")]);
        let socket = narrow();
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let (address, _peer) = play_on(socket.listen(1).unwrap(), vec![script]);
        let idle = connected_over(narrow().connect(address).await.unwrap(), PIPELINING).await;
        let sent = send(idle, RECIPIENTS, 3, BodySource::Memory(b"abc"));
        let transmitted = timeout(Duration::from_secs(30), sent).await.expect("no deadlock");
        assert_eq!(codes(&transmitted), vec![250; RECIPIENTS]);
    }

    /// RFC 5321 §4.5.3.2; the limits themselves are compared with it where they are.
    #[test]
    fn cl_12_each_reply_is_awaited_for_as_long_as_its_command_deserves() {
        let waits = [
            (Stage::Mail, MAIL_TIMEOUT),
            (Stage::Rcpt, RCPT_TIMEOUT),
            (Stage::Data, DATA_INITIATION_TIMEOUT),
            (Stage::Body, DATA_TERMINATION_TIMEOUT),
            (Stage::EndOfData, DATA_TERMINATION_TIMEOUT),
        ];
        for (stage, wait) in waits {
            assert_eq!(limit(stage), wait, "{}", stage.name());
        }
    }

    /// Its own limits may be long: what ends a transaction is its deadline, unless all was said by
    /// us and only the answer is missing.
    #[tokio::test]
    async fn a_deadline_ends_every_wait_but_the_one_for_the_last_word() {
        let soon = || Some(Instant::now() + Duration::from_millis(200));
        let later = Act::Wait(Duration::from_millis(400));
        let drip = [Act::Say("2"), later.clone(), Act::Say("50 b\r\n")];
        let begin = [Act::Hear, Act::Say("250 a\r\n"), Act::Hear];
        let script = [&begin[..], &drip[..]].concat();
        let (address, _peer) = play(vec![script]).await;
        let idle = connected(address, BARE).await;
        let cut = send_until(idle, BodySource::Memory(b"abc"), soon()).await;
        assert!(
            matches!(cut.trouble, Some(TransactionError::Lost { stage: Stage::Rcpt, .. })),
            "{cut:?}"
        );

        let mut script = transactions(&["250 a\r\n"]);
        let last = script.pop().unwrap();
        script.extend([later, last]);
        let (address, _peer) = play(vec![script]).await;
        let idle = connected(address, BARE).await;
        let whole = send_until(idle, BodySource::Memory(b"abc"), soon()).await;
        assert_eq!((codes(&whole), whole.trouble.is_none()), (vec![250], true));
    }
}
