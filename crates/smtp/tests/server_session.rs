//! The server session over its public API: order of commands, vectors, and any cut of the input.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic is how a test fails"
)]

use proptest::prelude::*;
use smtp::Extension;
use smtp::command::{Offer, Rcpt, Recipient, SessionChannel};
use smtp::data::{Chunk, DataReceiver, Fault, Newlines};
use smtp::server::{OUTPUT_OCTETS, ServerStep, Session, SessionAccess, SessionSettings};
use smtp::{Domain, HostName, Response, Status};

const VECTORS: &str = include_str!("../../../tests/data/vectors/smtp.tsv");

/// Rows of what is not offered here (STARTTLS, AUTH: `server_extensions.rs`), or not judged by the
/// session: the header (`staunch::accept`), and what it asks for (`policy`).
const ELSEWHERE: [&str; 6] = ["X046", "X063", "X085", "X086", "X087", "X088"];

fn session(errors_max: u32) -> Session {
    let offer = Offer::new(1000)
        .with(Extension::Pipelining)
        .with(Extension::EightBitMime)
        .with(Extension::EnhancedStatusCodes);
    let hostname = Domain::Name(HostName::parse("relay.example").unwrap());
    Session::new(SessionSettings {
        hostname,
        offer,
        channel: SessionChannel::Clear,
        access: SessionAccess::Anyone,
        errors_max,
        newlines: Newlines::Strict,
    })
}

/// What came of a dialogue: all replies, what was asked, and the content of what was accepted.
#[derive(Debug, Default, Eq, PartialEq)]
struct Transcript {
    output: String,
    events: Vec<String>,
    messages: Vec<Vec<u8>>,
    closed: bool,
}

impl Transcript {
    /// The codes of the replies to everything after EHLO, with the enhanced status.
    fn answers(&self) -> Vec<String> {
        let finals = self.output.lines().filter(|line| line.as_bytes().get(3) == Some(&b' '));
        finals.map(|line| line.split(' ').take(2).collect::<Vec<_>>().join(" ")).collect()
    }
}

/// A caller that refuses recipients called `no` and accepts everything else.
fn play(input: &[u8], piece: usize, errors_max: u32) -> Transcript {
    let mut session = session(errors_max);
    let mut transcript = Transcript::default();
    let mut buffer = Vec::new();
    let mut draft = Vec::new();
    for part in input.chunks(piece.max(1)) {
        buffer.extend_from_slice(part);
        let mut rest = &buffer[..];
        while let Some(event) = advance(&mut session, &mut rest, &mut draft, &mut transcript) {
            transcript.events.push(event);
        }
        transcript.output.push_str(std::str::from_utf8(session.output()).unwrap());
        session.written();
        let left = rest.len();
        assert!(left <= 2200, "the caller never has to keep more than a line");
        buffer.drain(..buffer.len() - left);
    }
    transcript
}

/// One step; `None` when the session wants more input or has ended.
fn advance(
    session: &mut Session,
    input: &mut &[u8],
    draft: &mut Vec<u8>,
    transcript: &mut Transcript,
) -> Option<String> {
    let event = match session.step(input) {
        ServerStep::Input => return None,
        ServerStep::Output => return advance(session, input, draft, transcript),
        ServerStep::Close => {
            transcript.closed = true;
            return None;
        }
        ServerStep::Sender(mail) => {
            session.accept();
            format!("sender {}", mail.sender)
        }
        ServerStep::Recipient(Rcpt { recipient: Recipient::Mailbox(mailbox), .. })
            if mailbox.local_part() == "no" =>
        {
            session.refuse(&Response::new(550, Status::permanent(1, 1), "no"));
            "refused".to_owned()
        }
        ServerStep::Recipient(rcpt) => {
            session.accept();
            format!("recipient {:?}", rcpt.recipient)
        }
        ServerStep::Begin => {
            session.accept();
            "begin".to_owned()
        }
        ServerStep::Content(content) => {
            draft.extend_from_slice(content);
            return advance(session, input, draft, transcript);
        }
        ServerStep::Spoiled => {
            draft.clear();
            return advance(session, input, draft, transcript);
        }
        ServerStep::End => {
            transcript.messages.push(std::mem::take(draft));
            session.accept();
            "end".to_owned()
        }
        ServerStep::Refused(fault) => {
            draft.clear();
            format!("{fault:?}")
        }
        ServerStep::Reset => "reset".to_owned(),
        ServerStep::StartTls
        | ServerStep::Authenticate { .. }
        | ServerStep::AuthResponse(_)
        | ServerStep::AuthEnded => {
            panic!("not offered")
        }
    };
    Some(event)
}

fn answers_to(commands: &str) -> Vec<String> {
    play(commands.as_bytes(), usize::MAX, 20).answers()
}

const OPEN: &str = "EHLO c.example\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n";
const OPENED: [&str; 5] = ["220 relay.example", "250 SIZE", "250 2.1.0", "250 2.1.5", "354 End"];

#[test]
fn ehlo_lists_what_is_offered_and_codes_stand_on_each_line() {
    let output = play(b"EHLO c.example\r\nHELP\r\nHELO c.example\r\n", 7, 20).output;
    let want = "220 relay.example ESMTP\r\n\
        250-relay.example\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-ENHANCEDSTATUSCODES\r\n\
        250 SIZE 1000\r\n\
        214-2.0.0 EHLO HELO MAIL RCPT DATA RSET NOOP VRFY HELP QUIT\r\n214 2.0.0 See RFC 5321\r\n\
        250 relay.example\r\n";
    assert_eq!(output, want);
}

#[test]
fn commands_out_of_order_are_refused_and_change_nothing() {
    let cases: &[(&str, &[&str])] = &[
        ("MAIL FROM:<>\r\n", &["503 5.5.1"]),
        ("RCPT TO:<a@b.example>\r\nDATA\r\n", &["503 5.5.1", "503 5.5.1"]),
        ("EHLO c\r\nRCPT TO:<a@b.example>\r\nDATA\r\n", &["250 SIZE", "503 5.5.1", "503 5.5.1"]),
        (
            "HELO c\r\nMAIL FROM:<>\r\nMAIL FROM:<>\r\nDATA\r\n",
            &["250 relay.example", "250 2.1.0", "503 5.5.1", "503 5.5.1"],
        ),
        (
            "HELO c\r\nMAIL FROM:<>\r\nRCPT TO:<no@d.example>\r\nDATA\r\nNOOP\r\n",
            &["250 relay.example", "250 2.1.0", "550 5.1.1", "503 5.5.1", "250 2.0.0"],
        ),
        (
            "HELO c\r\nMAIL FROM:<>\r\nRSET\r\nRCPT TO:<a@b.example>\r\nMAIL FROM:<>\r\n",
            &["250 relay.example", "250 2.1.0", "250 2.0.0", "503 5.5.1", "250 2.1.0"],
        ),
        (
            "HELO c\r\nMAIL FROM:<>\r\nEHLO c\r\nRCPT TO:<a@b.example>\r\n",
            &["250 relay.example", "250 2.1.0", "250 SIZE", "503 5.5.1"],
        ),
        (
            "NOOP\r\nVRFY x\r\nHELP\r\nRSET\r\nEXPN x\r\nSTARTTLS\r\nQUIT\r\nNOOP\r\n",
            &[
                "250 2.0.0",
                "252 2.0.0",
                "214 2.0.0",
                "250 2.0.0",
                "502 5.5.1",
                "502 5.5.1",
                "221 2.0.0",
            ],
        ),
        (
            "EHLO c\r\nMAIL FROM:<> SIZE=1001\r\nMAIL FROM:<> SIZE=1000\r\n",
            &["250 SIZE", "552 5.3.4", "250 2.1.0"],
        ),
    ];
    for (commands, want) in cases {
        assert_eq!(answers_to(commands)[1..], **want, "{commands}");
    }
}

#[test]
fn a_transaction_that_ends_early_is_reported_once() {
    let commands = "HELO c\r\nRSET\r\nMAIL FROM:<>\r\nRSET\r\nRSET\r\nMAIL FROM:<>\r\nRCPT TO:<a@b.example>\r\nEHLO c\r\n";
    let events = play(commands.as_bytes(), usize::MAX, 20).events;
    let a = "recipient Mailbox(<a@b.example>)";
    assert_eq!(events, ["sender ", "reset", "sender ", a, "reset"]);
}

#[test]
fn the_error_budget_closes_the_session() {
    let transcript = play(b"NOPE\r\nNOPE\r\nNOOP\r\nNOPE\r\nNOOP\r\n", usize::MAX, 2);
    let want = ["220 relay.example", "500 5.5.1", "500 5.5.1", "250 2.0.0", "421 4.7.0"];
    assert_eq!(transcript.answers(), want);
    assert!(transcript.closed);
}

#[test]
fn replies_do_not_pile_up_while_there_is_input() {
    let mut session = session(20);
    session.written();
    let commands = "EHLO c\r\nHELP\r\n".repeat(1000);
    let mut input = commands.as_bytes();
    let (mut replies, mut written) = (0, 0);
    loop {
        let step = session.step(&mut input);
        assert!(session.output().len() < OUTPUT_OCTETS + 512, "a reply more, at most");
        let output = std::str::from_utf8(session.output()).unwrap();
        replies += output.lines().filter(|line| line.as_bytes().get(3) == Some(&b' ')).count();
        written += 1;
        session.written();
        if step == ServerStep::Input {
            break;
        }
        assert_eq!(step, ServerStep::Output);
    }
    assert_eq!(replies, 2000);
    assert!(written > 10, "{written}");
}

#[test]
fn a_session_says_farewell_once() {
    let mut session = session(20);
    session.written();
    let farewell = Response::new(421, Status::transient(3, 2), "stopping");
    session.close(&farewell);
    session.close(&farewell);
    assert_eq!(session.step(&mut &b"NOOP\r\n"[..]), ServerStep::Close);
    assert_eq!(session.output(), b"421 4.3.2 stopping\r\n");
}

#[test]
fn a_session_that_is_closed_in_the_middle_of_a_question_says_no_more() {
    let mut session = session(20);
    let mut input = &b"HELO c\r\nMAIL FROM:<>\r\n"[..];
    assert!(matches!(session.step(&mut input), ServerStep::Sender(_)));
    session.written();
    session.close(&Response::new(421, Status::transient(3, 2), "stopping"));
    assert_eq!(session.step(&mut input), ServerStep::Close);
    assert_eq!(session.output(), b"421 4.3.2 stopping\r\n");
}

#[test]
fn a_question_without_an_answer_is_a_temporary_refusal() {
    let mut session = session(20);
    let mut input = OPEN.as_bytes();
    assert!(matches!(session.step(&mut input), ServerStep::Sender(_)));
    session.accept();
    assert!(matches!(session.step(&mut input), ServerStep::Recipient(_)));
    session.accept();
    assert_eq!(session.step(&mut input), ServerStep::Begin);
    session.accept();
    let mut input = &b".\r\nDATA\r\n"[..];
    assert_eq!(session.step(&mut input), ServerStep::End);
    session.written();
    assert_eq!(session.step(&mut input), ServerStep::Input);
    assert!(session.output().starts_with(b"451 4.3.0 "));
    assert!(session.output().ends_with(b"503 5.5.1 MAIL first\r\n"));
}

#[test]
fn a_line_that_is_too_long_is_answered_once_and_the_session_stays_in_sync() {
    for (verb, length, want) in
        [("NOOP ", 512, "250 2.0.0"), ("NOOP ", 513, "500 5.5.2"), ("HELO ", 5000, "500 5.5.2")]
    {
        let mut line = format!("{verb}{}", "x".repeat(length - verb.len() - 2));
        line.push_str("\r\nNOOP\r\n");
        for piece in [1, 500, usize::MAX] {
            let answers = play(line.as_bytes(), piece, 20).answers();
            assert_eq!(answers[1..], [want, "250 2.0.0"], "{verb}{length} by {piece}");
        }
    }
    let web = format!("GET /{} HTTP/1.1\r\nMAIL FROM:<a@b.example>\r\n", "x".repeat(5000));
    assert!(play(web.as_bytes(), 100, 20).closed, "also when the path is long");
}

fn unescape(cell: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut bytes = cell.bytes();
    while let Some(byte) = bytes.next() {
        match (byte, if byte == b'\\' { bytes.next() } else { None }) {
            (b'\\', Some(b'n')) => out.push(b'\n'),
            (b'\\', Some(b'r')) => out.push(b'\r'),
            (b'\\', Some(b't')) => out.push(b'\t'),
            (b'\\', Some(b'x')) => {
                let digits = [bytes.next().unwrap(), bytes.next().unwrap()];
                out.push(u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap());
            }
            (b'\\', Some(other)) => out.push(other),
            (other, _) => out.push(other),
        }
    }
    out
}

#[test]
fn every_row_of_the_vectors_holds() {
    let mut rows = 0;
    for row in VECTORS.lines().skip(1) {
        let mut cells = row.split('\t');
        let [id, input, expected] = std::array::from_fn(|_| cells.next().unwrap());
        let clients = input.starts_with("client") || ["X067", "X068", "X069"].contains(&id);
        if ELSEWHERE.contains(&id) || clients {
            continue;
        }
        rows += 1;
        if let Some(stream) = input.strip_prefix("DATA stream \"") {
            check_stream(id, stream, expected);
        } else if input.contains("MAIL FROM:<b@x>") {
            check_smuggling(id, &unescape(input), expected);
        } else {
            check_dialogue(id, input);
        }
    }
    assert!(rows > 35, "{rows} rows");
}

/// `stream" (limit n)` against the receiver alone. The vectors have LF where we keep CRLF.
fn check_stream(id: &str, cell: &str, expected: &str) {
    let (stream, limit) = cell.rsplit_once("\" (limit ").unwrap();
    let limit = limit.trim_end_matches(')').parse().unwrap();
    let (want, want_content) = expected.split_once("; content ").unwrap_or((expected, ""));
    let mut receiver = DataReceiver::new(Newlines::Strict, limit);
    let (stream, mut content, mut ended) = (unescape(stream), Vec::new(), false);
    let mut input = &stream[..];
    loop {
        match receiver.next(&mut input) {
            Chunk::Content(slice) => content.extend_from_slice(slice),
            Chunk::NeedInput => break,
            Chunk::End => {
                ended = true;
                break;
            }
        }
    }
    let fault = receiver.fault();
    match want {
        "ok" => assert!(ended && fault.is_none(), "{id}: {fault:?}"),
        "EOF error" => assert!(!ended, "{id}"),
        "bad line ending" => {
            assert!(matches!(fault, Some(Fault::BareCr | Fault::BareLf)), "{id}: {fault:?}");
        }
        _ => {
            assert!(want.starts_with("too large"), "{id}: {want}");
            assert_eq!((ended, fault), (true, Some(Fault::TooLarge)), "{id}");
        }
    }
    if !want_content.is_empty() {
        let want_content = String::from_utf8(unescape(want_content)).unwrap().replace('\n', "\r\n");
        assert_eq!(content, want_content.as_bytes(), "{id}");
    }
}

fn check_smuggling(id: &str, content: &[u8], expected: &str) {
    let mut input = OPEN.as_bytes().to_vec();
    input.extend_from_slice(content);
    input.extend_from_slice(b"\r\n.\r\nNOOP\r\n");
    for piece in 1..=input.len() {
        let transcript = play(&input, piece, 20);
        let answer =
            if expected.starts_with("not end of data; reject") { "550 5.5.2" } else { "250 2.0.0" };
        let want = [&OPENED[..], &[answer, "250 2.0.0"]].concat();
        assert_eq!(transcript.answers(), want, "{id} by {piece}");
        if answer == "250 2.0.0" {
            let mut kept = content.to_vec();
            kept.extend_from_slice(b"\r\n");
            if let Some(dot) = memchr::memmem::find(&kept, b"\r\n.") {
                kept.remove(dot + 2);
            }
            assert_eq!(transcript.messages, [kept], "{id} by {piece}");
        }
    }
}

fn check_dialogue(id: &str, input: &str) {
    let (commands, want): (String, &[&str]) = match id {
        "X041" => {
            let body = format!("{}\r\nx\n.\nHELP\r\n.\r\n", "y".repeat(2000));
            (
                format!("{OPEN}{body}NOOP\r\n"),
                &["250 SIZE", "250 2.1.0", "250 2.1.5", "354 End", "550 5.5.2", "250 2.0.0"],
            )
        }
        "X049" => (format!("{input}\r\nNOOP\r\n"), &["502 5.5.1"]),
        "X052" => (format!("HELO {}\r\nNOOP\r\n", "x".repeat(1000)), &["500 5.5.2", "250 2.0.0"]),
        "X053" => ("DATA\r\n".to_owned(), &["503 5.5.1"]),
        "X054" => ("HELO x\r\nDATA\r\n".to_owned(), &["250 relay.example", "503 5.5.1"]),
        "X055" => (format!("HELO x\r\n{input}\r\n"), &["250 relay.example", "501 5.5.4"]),
        "X058" => (format!("HELO x\r\n{input}\r\n"), &["250 relay.example", "501 5.1.8"]),
        "X059" => (
            format!("HELO x\r\nMAIL FROM:<{}@x.example>\r\n", "a".repeat(600)),
            &["250 relay.example", "501 5.1.7"],
        ),
        "X060" => (
            "HELO x\r\nMAIL FROM:<>\r\nRCPT TO: user@host\r\n".to_owned(),
            &["250 relay.example", "250 2.1.0", "250 2.1.5"],
        ),
        "X061" => (
            format!("HELO x\r\nMAIL FROM:<>\r\n{input}\r\n"),
            &["250 relay.example", "250 2.1.0", "501 5.1.2"],
        ),
        "X065" => ("WHATEVER\r\nNOOP\r\n".to_owned(), &["500 5.5.1", "250 2.0.0"]),
        _ => panic!("{id} has no test"),
    };
    assert_eq!(answers_to(&commands)[1..], *want, "{id}");
}

proptest! {
    #[test]
    fn how_the_input_is_cut_changes_nothing(
        lines in proptest::collection::vec(prop_oneof![
            Just("EHLO c.example\r\n"), Just("MAIL FROM:<a@b.example>\r\n"), Just("RCPT TO:<c@d.example>\r\n"),
            Just("RCPT TO:<no@d.example>\r\n"), Just("DATA\r\n"), Just("text\r\n"), Just("..\r\n"), Just(".\r\n"),
            Just("RSET\r\n"), Just("\n"), Just("\r"), Just("MAIL FROM:<x"), Just("VRFY x\r\n"),
        ], 0..20),
        in_data: bool,
        piece in 1_usize..20,
    ) {
        let input = format!("{}{}", if in_data { OPEN } else { "" }, lines.concat());
        let whole = play(input.as_bytes(), usize::MAX, 5);
        let cut = play(input.as_bytes(), piece, 5);
        prop_assert_eq!(whole, cut);
    }

    #[test]
    fn no_input_panics(
        input in proptest::collection::vec(any::<u8>(), 0..2000),
        in_data: bool,
        piece in 1_usize..600,
    ) {
        let mut whole = if in_data { OPEN.as_bytes().to_vec() } else { Vec::new() };
        whole.extend_from_slice(&input);
        let transcript = play(&whole, piece, 5);
        prop_assert!(transcript.output.is_ascii());
    }
}
