//! One mail, against hosts that answer in every way.

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

async fn send_until(idle: Idle, body: BodySource<'_>, deadline: Option<Instant>) -> Transmitted {
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
        Some(RecipientReply::Accepted(reply) | RecipientReply::Refused { reply, .. }) => reply.code,
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
        let Some(trouble @ TransactionError::Lost { stage: at, .. }) = &transmitted.trouble else {
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
    let pair = [Act::Hear, Act::Say("250 a very long way of saying that all is well so far\r\n")];
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
