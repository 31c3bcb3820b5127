//! One mail over one admitted connection, with an answer for each recipient.
//!
//! The dialogue itself is `smtp::client`; here it gets a connection, a body and the time limits of
//! RFC 5321 §4.5.3.2. A small mail costs two writes and two reads where the peer has PIPELINING.
//!
//! A connection that breaks behind the final dot leaves open whether the mail was delivered
//! ([`Trouble::is_outcome_unknown`]): trying the next host at once would only make a duplicate surer.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use policy::Admitted;
use smtp::client::{Ending, Envelope, Fate, Finished, Interrupted, Stage, Step, Transaction};
use smtp::limits::{
    DATA_BLOCK_TIMEOUT, DATA_INITIATION_TIMEOUT, DATA_TERMINATION_TIMEOUT, FAREWELL_TIMEOUT,
    MAIL_TIMEOUT, RCPT_TIMEOUT,
};
use smtp::stuff::BareNewline;
use smtp::{RemoteText, Reply, ReplyClass, Stuffer};
use tokio::task::spawn_blocking;

use crate::connect::is_throttling;
use crate::connection::{Broken, Connection, Written};
use crate::pool::{Idle, Slot};

/// Octets of a body that are read, stuffed and written at once.
const CHUNK_OCTETS: usize = 64 * 1024;

/// A mail.
#[derive(Debug)]
pub(crate) struct Mail<'a> {
    /// Who sends it, who gets it, and its size.
    pub(crate) envelope: Envelope<'a>,
    /// Its content, `envelope.size` octets.
    pub(crate) body: BodySource<'a>,
}

/// Where the content is.
#[derive(Debug)]
pub(crate) enum BodySource<'a> {
    /// In memory.
    Memory(&'a [u8]),
    /// In a file, from its start; where the file stands does not matter.
    File(Arc<File>),
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Transmitted {
    /// One for each recipient, in order; `None` where [`Transmitted::trouble`] came first.
    pub(crate) fates: Vec<Option<Fate>>,
    /// Why not every recipient has an answer.
    pub(crate) trouble: Option<Trouble>,
    /// The connection, if it is ready for the next mail.
    pub(crate) connection: Option<Idle>,
}

/// What ended a transaction before its time.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Trouble {
    /// The host takes messages up to this many octets (RFC 1870 §6.1); nothing was sent.
    TooLarge {
        /// Octets.
        limit: u64,
    },
    /// The connection broke, or the peer was too slow.
    Lost {
        /// What was awaited.
        stage: Stage,
        /// What happened.
        text: RemoteText,
    },
    /// The peer said what cannot be said there.
    Protocol {
        /// What was awaited.
        stage: Stage,
        /// What it said.
        text: RemoteText,
    },
    /// The body cannot be read, or must not be sent.
    Body {
        /// Why.
        text: String,
    },
}

impl Trouble {
    /// May the mail have been delivered nevertheless?
    pub(crate) fn is_outcome_unknown(&self) -> bool {
        match self {
            Self::Lost { stage, .. } | Self::Protocol { stage, .. } => *stage == Stage::EndOfData,
            Self::TooLarge { .. } | Self::Body { .. } => false,
        }
    }
}

/// Sends `mail`. Dropping the future closes the connection; what became of the mail is then unknown.
pub(crate) async fn transmit(admitted: Admitted<Idle>, mail: &Mail<'_>) -> Transmitted {
    let mut idle = admitted.into_connection();
    let limit = idle.connection.extensions().size_limit();
    if let Some(limit) = limit.filter(|limit| mail.envelope.size > *limit) {
        return Transmitted {
            fates: vec![None; mail.envelope.recipients.len()],
            trouble: Some(Trouble::TooLarge { limit }),
            connection: Some(idle),
        };
    }
    idle.connection.count_transaction();
    match converse(&mut idle.connection, mail).await {
        Ok(Finished { fates, ending }) => {
            move_window(&idle.slot, &fates);
            let is_ready = is_ready_again(&mut idle.connection, ending).await;
            Transmitted {
                fates: fates.into_iter().map(Some).collect(),
                trouble: None,
                connection: is_ready.then_some(idle),
            }
        }
        Err(Cut { fates, trouble }) => {
            Transmitted { fates, trouble: Some(trouble), connection: None }
        }
    }
}

/// A transaction that did not end.
struct Cut {
    fates: Vec<Option<Fate>>,
    trouble: Trouble,
}

impl Cut {
    fn new(Interrupted { stage, fates }: Interrupted, cause: Cause) -> Self {
        let trouble = match cause {
            Cause::Broken(broken) => {
                let text = RemoteText::new(&broken.to_string());
                match broken {
                    Broken::NotSmtp(_) | Broken::OutOfStep => Trouble::Protocol { stage, text },
                    Broken::Closed | Broken::Io(_) | Broken::TimedOut(_) => {
                        Trouble::Lost { stage, text }
                    }
                }
            }
            Cause::Unreadable(error) => {
                Trouble::Body { text: format!("reading the body: {error}") }
            }
            Cause::Unsendable(error) => Trouble::Body { text: error.to_string() },
        };
        Self { fates, trouble }
    }
}

/// Why a step could not be taken.
enum Cause {
    Broken(Broken),
    Unreadable(io::Error),
    Unsendable(BareNewline),
}

impl From<Broken> for Cause {
    fn from(broken: Broken) -> Self {
        Self::Broken(broken)
    }
}

impl From<BareNewline> for Cause {
    fn from(error: BareNewline) -> Self {
        Self::Unsendable(error)
    }
}

async fn converse(connection: &mut Connection, mail: &Mail<'_>) -> Result<Finished, Cut> {
    let extensions = *connection.extensions();
    let mut step = Transaction::start(mail.envelope, &extensions, connection.output());
    loop {
        let (transaction, answer) = match step {
            Step::Done(finished) => return Ok(finished),
            Step::Await(transaction) => {
                let limit = limit(transaction.stage());
                let answer = exchange(connection, limit).await.map_err(Cause::from);
                (transaction, answer)
            }
            Step::SendBody(transaction) => match send_message(connection, mail).await {
                Ok(Written::Early(reply)) => (transaction, Ok(reply)),
                Ok(Written::All) => {
                    let transaction = transaction.body_sent();
                    let limit = limit(transaction.stage());
                    let answer = connection.reply(limit).await.map_err(Cause::from);
                    (transaction, answer)
                }
                Err(cause) => (transaction, Err(cause)),
            },
        };
        let reply = match answer {
            Ok(reply) => reply,
            Err(cause) => return Err(Cut::new(transaction.interrupted(), cause)),
        };
        step = transaction.on_reply(reply, connection.output()).map_err(|unexpected| {
            let text = RemoteText::new(&unexpected.to_string());
            let Interrupted { stage, fates } = unexpected.interrupted;
            Cut { fates, trouble: Trouble::Protocol { stage, text } }
        })?;
    }
}

async fn exchange(connection: &mut Connection, limit: Duration) -> Result<Reply, Broken> {
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

/// The content, stuffed and ended. The last piece carries the end with it, so a small mail is one
/// write; and a body that is shorter than it should be never gets its end.
async fn send_message(connection: &mut Connection, mail: &Mail<'_>) -> Result<Written, Cause> {
    let mut stuffer = Stuffer::default();
    let mut content = Content::new(mail);
    while content.has_more() {
        let chunk = content.next().await.map_err(Cause::Unreadable)?;
        stuffer.push(chunk, connection.output())?;
        if content.has_more() && connection.output().len() >= CHUNK_OCTETS {
            match connection.send_body(DATA_BLOCK_TIMEOUT).await? {
                Written::All => {}
                Written::Early(reply) => return Ok(Written::Early(reply)),
            }
        }
    }
    stuffer.finish(connection.output())?;
    Ok(connection.send_body(DATA_BLOCK_TIMEOUT).await?)
}

/// The content in pieces.
struct Content<'a> {
    source: &'a BodySource<'a>,
    offset: u64,
    size: u64,
    buffer: Vec<u8>,
}

impl<'a> Content<'a> {
    fn new(mail: &'a Mail<'a>) -> Self {
        Self { source: &mail.body, offset: 0, size: mail.envelope.size, buffer: Vec::new() }
    }

    fn has_more(&self) -> bool {
        self.offset < self.size
    }

    /// At least one octet, at most [`CHUNK_OCTETS`] and never beyond the size.
    async fn next(&mut self) -> io::Result<&[u8]> {
        let rest = usize::try_from(self.size - self.offset).unwrap_or(usize::MAX);
        let wanted = rest.min(CHUNK_OCTETS);
        let chunk = match self.source {
            BodySource::Memory(octets) => {
                if u64::try_from(octets.len()) != Ok(self.size) {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "not of its size"));
                }
                let start = usize::try_from(self.offset).unwrap_or(usize::MAX);
                octets.get(start..start.saturating_add(wanted)).unwrap_or_default()
            }
            BodySource::File(file) => {
                let (file, offset) = (Arc::clone(file), self.offset);
                let mut buffer = std::mem::take(&mut self.buffer);
                buffer.resize(wanted, 0);
                let read = spawn_blocking(move || {
                    let octets = file.read_at(&mut buffer, offset)?;
                    buffer.truncate(octets);
                    Ok::<_, io::Error>(buffer)
                });
                self.buffer = read.await.map_err(io::Error::other)??;
                &self.buffer
            }
        };
        if chunk.is_empty() {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "shorter than its size"));
        }
        self.offset += u64::try_from(chunk.len()).unwrap_or_default();
        Ok(chunk)
    }
}

/// Tells the pool what the answers say about the host.
fn move_window(slot: &Slot, fates: &[Fate]) {
    let mut is_accepted = false;
    let mut is_throttled = false;
    for fate in fates {
        match fate {
            Fate::Accepted(_) => is_accepted = true,
            Fate::Refused { reply, .. } => is_throttled |= is_throttling(reply),
        }
    }
    if is_throttled {
        slot.throttled();
    } else if is_accepted {
        slot.succeeded();
    }
}

/// Can the next mail follow? Where the server may still have a transaction open, RSET ends it.
async fn is_ready_again(connection: &mut Connection, ending: Ending) -> bool {
    let is_reset = match ending {
        Ending::Clean => true,
        Ending::Close => false,
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

    use jiff::Timestamp;
    use policy::{Floor, Observed, Roots};
    use smtp::{Extensions, Mailbox, ReversePath};
    use tokio::net::TcpStream;
    use tokio_util::task::TaskTracker;

    use super::*;
    use crate::connection::scripted::{Act, host, play};
    use crate::pool::{Checkout, Pool, PoolKey, PoolLimits};

    const PIPELINING: &str = "250-mx.example.org\r\n250-PIPELINING\r\n250 SIZE 100000000\r\n";
    const BARE: &str = "250-mx.example.org\r\n250 HELP\r\n";

    fn mailboxes(count: usize) -> Vec<Mailbox> {
        (0..count).map(|i| Mailbox::parse(&format!("r{i}@example.org")).unwrap()).collect()
    }

    /// A connection after an EHLO that was answered with `ehlo`.
    async fn connected(address: SocketAddr, ehlo: &str) -> Idle {
        let limits =
            PoolLimits { total: 1, per_host: 1, transactions: 100, idle: Duration::from_secs(3) };
        let pool = Pool::new(limits, TaskTracker::new());
        let mx = host(Floor::Opportunistic).host().clone();
        let key = PoolKey { route: None, source: None, host: mx, port: address.port() };
        let Checkout::Fresh(slot) = pool.checkout(&key).await else { panic!("an empty pool") };
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let mut connection = Connection::plain(stream, address);
        connection.set_extensions(Extensions::from_reply(&Reply::parse(ehlo.as_bytes()).unwrap()));
        Idle::new(connection, Observed::Plain, slot)
    }

    async fn send(idle: Idle, recipients: usize, size: u64, body: BodySource<'_>) -> Transmitted {
        let mx = host(Floor::Opportunistic);
        let observed = Arc::clone(&idle.observed);
        let admitted = mx.admit(idle, &observed, &Roots::default(), Timestamp::UNIX_EPOCH).unwrap();
        let sender = ReversePath::parse("s@example.net").unwrap();
        let recipients = mailboxes(recipients);
        let envelope = Envelope { sender: &sender, recipients: &recipients, size, has_8bit: false };
        transmit(admitted, &Mail { envelope, body }).await
    }

    /// The codes of the fates; 0 for none.
    fn codes(transmitted: &Transmitted) -> Vec<u16> {
        let code = |fate: &Option<Fate>| match fate {
            Some(Fate::Accepted(reply) | Fate::Refused { reply, .. }) => reply.code,
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
            let Some(trouble @ Trouble::Lost { stage: at, .. }) = &transmitted.trouble else {
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
        assert!(matches!(transmitted.trouble, Some(Trouble::Protocol { stage: Stage::Body, .. })));
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
        for (size, body, want) in cases {
            let open = Act::Say("250 a\r\n250 b\r\n354 c\r\n");
            let script = vec![Act::Hear, Act::Hear, Act::Hear, open, Act::HearAll];
            let (address, peer) = play(vec![script]).await;
            let idle = connected(address, PIPELINING).await;
            let transmitted = send(idle, 1, size, body).await;
            let Some(Trouble::Body { text }) = &transmitted.trouble else {
                panic!("{:?}", transmitted.trouble)
            };
            assert!(text.contains(want), "{text}");
            assert_eq!(codes(&transmitted), [0]);
            assert!(transmitted.connection.is_none());
            assert!(!peer.await.unwrap().contains("\r\n.\r\n"));
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

    #[tokio::test]
    async fn what_is_too_large_is_not_even_begun() {
        let (address, peer) = play(vec![vec![Act::HearAll]]).await;
        let ehlo = "250-mx.example.org\r\n250 SIZE 2\r\n";
        let transmitted =
            send(connected(address, ehlo).await, 1, 3, BodySource::Memory(b"abc")).await;
        assert_eq!(transmitted.trouble, Some(Trouble::TooLarge { limit: 2 }));
        drop(transmitted);
        assert_eq!(peer.await.unwrap(), "");
    }

    /// Neither side may wait for the other while both only write (RFC 2920 §3.1).
    #[tokio::test]
    async fn a_large_group_does_not_wait_for_a_peer_that_waits_for_us() {
        const RECIPIENTS: usize = 1000;
        let pair =
            [Act::Hear, Act::Say("250 a very long way of saying that all is well so far\r\n")];
        let mut script = vec![pair; RECIPIENTS + 1].concat();
        script.extend([Act::Hear, Act::Say("354 go\r\n"), Act::HearBody, Act::Say("250 ok\r\n")]);
        let (address, _peer) = play(vec![script]).await;
        let idle = connected(address, PIPELINING).await;
        let transmitted = send(idle, RECIPIENTS, 3, BodySource::Memory(b"abc")).await;
        assert_eq!(codes(&transmitted), vec![250; RECIPIENTS]);
    }
}
