//! What holds for every client of the server session, however its octets arrive.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic is how a test fails"
)]

mod common;

use std::sync::LazyLock;

use common::{SIZE_MAX, Transcript, play, play_pieces, relay, submission_in_tls};
use proptest::collection::vec;
use proptest::prelude::*;
use smtp::data::Newlines;
use smtp::server::SessionSettings;
use smtp::{Stuffer, Verbatim};

const VECTORS: &str = include_str!("../../../tests/data/vectors/smtp.tsv");

/// One message as a client sends it, and as it should be kept.
#[derive(Clone, Debug)]
struct Sending {
    octets: Vec<u8>,
    kept: Vec<u8>,
}

const LINE_BREAK: &[u8] = b"\r\n";

/// Whole lines, of which some begin with dots.
fn content() -> impl Strategy<Value = Vec<u8>> {
    vec("[.]{0,3}[a-z.\u{e4}\t ]{0,20}", 0..12).prop_map(|lines| {
        lines.iter().flat_map(|line| [line.as_bytes(), LINE_BREAK].concat()).collect()
    })
}

fn by_data() -> impl Strategy<Value = Sending> {
    content().prop_map(|kept| {
        let mut octets = b"DATA\r\n".to_vec();
        let mut stuffer = Stuffer::default();
        stuffer.push(&kept, &mut octets).unwrap();
        stuffer.finish(&mut octets).unwrap();
        Sending { octets, kept }
    })
}

/// In any number of chunks, with or without the last line end.
fn by_bdat() -> impl Strategy<Value = Sending> {
    (content(), vec(0_usize..60, 0..5), any::<bool>()).prop_map(|(kept, chunks, is_open)| {
        let sent = if is_open { kept.strip_suffix(LINE_BREAK).unwrap_or(&kept) } else { &kept };
        let mut octets = Vec::new();
        let mut rest = sent;
        for size in chunks {
            let (chunk, behind) = rest.split_at(size.min(rest.len()));
            octets.extend_from_slice(format!("BDAT {}\r\n", chunk.len()).as_bytes());
            octets.extend_from_slice(chunk);
            rest = behind;
        }
        octets.extend_from_slice(format!("BDAT {} LAST\r\n", rest.len()).as_bytes());
        octets.extend_from_slice(rest);
        // What is left of an empty last line is no line.
        let kept = if sent.is_empty() { Vec::new() } else { completed(sent) };
        Sending { octets, kept }
    })
}

fn completed(content: &[u8]) -> Vec<u8> {
    let end = if content.ends_with(LINE_BREAK) { b"" } else { LINE_BREAK };
    [content, end].concat()
}

fn transaction() -> impl Strategy<Value = Sending> {
    let parameters = prop_oneof![
        Just(""),
        Just(" BODY=8BITMIME SIZE=900"),
        Just(" SMTPUTF8"),
        Just(" RET=FULL ENVID=a+20b REQUIRETLS"),
        Just(" HOLDFOR=60 BY=60;R MT-PRIORITY=3 AUTH=<>"),
    ];
    let recipients = vec(
        prop_oneof![
            Just("RCPT TO:<c@d.example>\r\n"),
            Just("RCPT TO:<no@d.example>\r\n"),
            Just("RCPT TO:<c@d.example> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;c+2Bx@d.example\r\n"),
        ],
        0..4,
    );
    let message = prop_oneof![by_data(), by_bdat()];
    (parameters, recipients, message).prop_map(|(parameters, recipients, message)| {
        let mut octets = format!("MAIL FROM:<a@b.example>{parameters}\r\n").into_bytes();
        octets.extend_from_slice(recipients.concat().as_bytes());
        octets.extend_from_slice(b"RCPT TO:<postmaster>\r\n");
        octets.extend_from_slice(&message.octets);
        Sending { octets, kept: message.kept }
    })
}

/// What a client says between its messages, and before the first.
fn small_talk() -> impl Strategy<Value = &'static str> {
    prop_oneof![
        Just(""),
        Just("NOOP\r\n"),
        Just("EHLO again.example\r\n"),
        Just("MAIL FROM:<x@y.example>\r\nRSET\r\n"),
        Just("VRFY somebody\r\nHELP\r\n"),
    ]
}

fn login() -> impl Strategy<Value = &'static str> {
    prop_oneof![
        Just("AUTH PLAIN AHVzZXIAc2VjcmV0\r\n"),
        Just("AUTH PLAIN\r\nAHVzZXIAc2VjcmV0\r\n"),
        Just("AUTH LOGIN\r\ndXNlcg==\r\nc2VjcmV0\r\n"),
        Just("AUTH LOGIN\r\n*\r\nAUTH LOGIN dXNlcg==\r\nc2VjcmV0\r\n"),
    ]
}

/// The same octets in pieces that end at `cuts`, taken modulo their number.
fn pieces<'o>(octets: &'o [u8], cuts: &[prop::sample::Index]) -> Vec<&'o [u8]> {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(octets.len() + 1)).collect();
    cuts.sort_unstable();
    let mut from = 0;
    let mut pieces: Vec<_> =
        cuts.iter().map(|&to| &octets[std::mem::replace(&mut from, to)..to]).collect();
    pieces.push(&octets[from..]);
    pieces
}

fn cuts() -> impl Strategy<Value = Vec<prop::sample::Index>> {
    vec(any::<prop::sample::Index>(), 0..30)
}

/// More than any line of a command may have.
static LONG: LazyLock<String> = LazyLock::new(|| "long ".repeat(1000));

proptest! {
    #[test]
    fn a_valid_session_has_one_transcript_and_its_messages_arrive(
        login in login(),
        sendings in vec((small_talk(), transaction()), 0..4),
        cuts in cuts(),
        piece in 1_usize..40,
    ) {
        let mut client = format!("EHLO c.example\r\n{login}").into_bytes();
        for (talk, sending) in &sendings {
            client.extend_from_slice(talk.as_bytes());
            client.extend_from_slice(&sending.octets);
        }
        client.extend_from_slice(b"QUIT\r\n");
        let whole = play(submission_in_tls(), &client, usize::MAX);
        let kept: Vec<_> = sendings.iter().map(|(_, sending)| sending.kept.as_slice()).collect();
        prop_assert_eq!(whole.contents(), kept);
        prop_assert!(whole.closed);
        prop_assert_eq!(&play(submission_in_tls(), &client, piece), &whole);
        prop_assert_eq!(play_pieces(submission_in_tls(), pieces(&client, &cuts)), whole);
    }

    /// Words of SMTP in no order; TLS begins in the middle of it all.
    #[test]
    fn how_any_input_is_cut_changes_nothing(
        words in vec(prop_oneof![
            Just("EHLO c.example\r\n"), Just("MAIL FROM:<a@b.example>\r\n"), Just("RCPT TO:<c@d.example>\r\n"),
            Just("MAIL FROM:<full@b.example>\r\n"), Just("RCPT TO:<no@d.example>\r\n"), Just("DATA\r\n"),
            Just("BDAT 7\r\n"), Just("BDAT 0 LAST\r\n"), Just("BDAT 30 LAST\r\n"), Just("BDAT 1100\r\n"),
            Just("BDAT x\r\n"), Just("STARTTLS\r\n"), Just("AUTH LOGIN\r\n"), Just("AUTH PLAIN\r\n"),
            Just("AHVzZXIAc2VjcmV0\r\n"), Just("*\r\n"), Just("text\r\n"), Just("..\r\n"), Just(".\r\n"),
            Just("RSET\r\n"), Just("\n"), Just("\r"), Just("\0"), Just("MAIL FROM:<x"), Just("\u{fc}\r\n"),
            Just("DATA\n"), Just(".\n"), Just("AUTH LOGIN\n"), Just(LONG.as_str()),
        ], 0..30),
        open in prop_oneof![
            Just(""),
            Just("EHLO c\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\n"),
            Just("EHLO c\nMAIL FROM:<a@b.example>\nRCPT TO:<c@d.example>\n"),
        ],
        normalize: bool,
        cuts in cuts(),
    ) {
        let client = format!("{open}{}", words.concat()).into_bytes();
        let newlines = if normalize { Newlines::Normalize } else { Newlines::Strict };
        let settings = SessionSettings { newlines, ..relay() };
        let whole = play(settings.clone(), &client, usize::MAX);
        prop_assert_eq!(&play(settings.clone(), &client, 1), &whole);
        prop_assert_eq!(play_pieces(settings, pieces(&client, &cuts)), whole);
    }

    #[test]
    fn no_octets_make_it_panic(
        octets in vec(any::<u8>(), 0..3000),
        front in prop_oneof![
            Just(""), Just("AUTH PLAIN\r\n"), Just("MAIL FROM:<> "), Just("RCPT TO:<"), Just("BDAT "),
            Just("MAIL FROM:<>\r\nRCPT TO:<a@b.example>\r\nDATA\r\n"),
            Just("MAIL FROM:<>\r\nRCPT TO:<a@b.example>\r\nBDAT 1500\r\n"),
        ],
        piece in 1_usize..600,
    ) {
        let client = [b"EHLO c\r\n", front.as_bytes(), &octets].concat();
        for settings in [relay(), submission_in_tls()] {
            let whole = play(settings.clone(), &client, usize::MAX);
            prop_assert_eq!(play(settings, &client, piece), whole);
        }
    }
}

const OPEN: &str = "EHLO c\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\n";

/// The contents of the vectors that try to end a message early.
fn smuggling() -> Vec<(&'static str, Vec<u8>)> {
    let rows = VECTORS.lines().skip(1).filter_map(|row| {
        let mut cells = row.split('\t');
        let (id, input) = (cells.next()?, cells.next()?);
        let hidden = input.strip_suffix("MAIL FROM:<b@x>...")?;
        let client = "MAIL FROM:<b@x.example>\r\nRCPT TO:<e@f.example>\r\nDATA\r\nhidden\r\n";
        Some((id, [&unescape(hidden)[..], client.as_bytes()].concat()))
    });
    rows.collect()
}

fn unescape(cell: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = cell.as_bytes();
    while let Some((&first, behind)) = rest.split_first() {
        let (octet, used) = match (first, behind) {
            (b'\\', [b'n', ..]) => (b'\n', 1),
            (b'\\', [b'r', ..]) => (b'\r', 1),
            (b'\\', [b't', ..]) => (b'\t', 1),
            (b'\\', [b'x', high, low, ..]) => {
                let digits = [*high, *low];
                (u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap(), 3)
            }
            _ => (first, 0),
        };
        out.push(octet);
        rest = &behind[used..];
    }
    out
}

/// Has it a CR or LF alone, or a NUL?
fn is_unclean(content: &[u8]) -> bool {
    let joined = String::from_utf8_lossy(content).replace("\r\n", "");
    joined.contains(['\r', '\n', '\0'])
}

/// One message or one refusal; in no case a second sender.
#[track_caller]
fn check_smuggling(
    transcript: &Transcript,
    settings: &SessionSettings,
    content: &[u8],
    what: &str,
) {
    let senders = transcript.events.iter().filter(|event| event.starts_with("sender")).count();
    assert_eq!(senders, 1, "{what}: a command from inside the message was carried out");
    assert!(transcript.messages.len() <= 1, "{what}");
    assert_eq!(transcript.answers().last().unwrap(), "250 2.0.0", "{what}: out of step");
    if settings.newlines == Newlines::Strict {
        assert_eq!(transcript.messages.is_empty(), is_unclean(content), "{what}");
    }
}

#[test]
fn smuggling_by_data_fails_wherever_the_stream_is_cut() {
    for newlines in [Newlines::Strict, Newlines::Normalize] {
        let settings = SessionSettings { newlines, ..relay() };
        for (id, content) in smuggling() {
            let client = [OPEN.as_bytes(), b"DATA\r\n", &content, b"\r\n.\r\nNOOP\r\n"].concat();
            for cut in OPEN.len()..client.len() {
                let (front, back) = client.split_at(cut);
                let transcript = play_pieces(settings.clone(), [front, back]);
                let what = format!("{id} cut at {cut}, {newlines:?}");
                check_smuggling(&transcript, &settings, &content, &what);
            }
        }
    }
}

#[test]
fn smuggling_by_bdat_fails_wherever_chunks_and_stream_are_cut() {
    for newlines in [Newlines::Strict, Newlines::Normalize] {
        let settings = SessionSettings { newlines, ..relay() };
        for (id, content) in smuggling() {
            for cut in 0..=content.len() {
                let (front, back) = content.split_at(cut);
                let first = format!("{OPEN}BDAT {}\r\n", front.len());
                let second = format!("BDAT {} LAST\r\n", back.len());
                let client =
                    [first.as_bytes(), front, second.as_bytes(), back, b"NOOP\r\n"].concat();
                let whole = play(settings.clone(), &client, usize::MAX);
                check_smuggling(&whole, &settings, &content, &format!("{id} chunk of {cut}"));
                for piece in [1, 2, 3, 7] {
                    assert_eq!(play(settings.clone(), &client, piece), whole, "{id} {cut} {piece}");
                }
                if newlines == Newlines::Strict && !is_unclean(&content) {
                    assert_eq!(whole.contents(), [completed(&content)], "{id}");
                }
            }
        }
    }
}

/// The way out: what we send of such a message is that one message to whoever reads it strictly, or
/// nothing at all, wherever the pieces end in which it is read.
#[test]
fn what_is_sent_on_smuggles_nothing_wherever_it_is_cut() {
    let settings = relay();
    for (id, content) in smuggling() {
        for cut in 0..=content.len() {
            let pieces = <[&[u8]; 2]>::from(content.split_at(cut));
            let size = completed(&content).len();
            let (dots, chunk) = (by_dots(&pieces), by_chunk(&pieces, size));
            // A NUL is no line end, and does not get in.
            let text = String::from_utf8_lossy(&content).replace("\r\n", "");
            let is_unsendable = text.contains(['\r', '\n']);
            assert_eq!(dots.is_none(), is_unsendable, "{id} cut at {cut}");
            assert_eq!(chunk.is_none(), is_unsendable, "{id} cut at {cut}");
            let command = format!("BDAT {size} LAST\r\n");
            for (command, sent) in [("DATA\r\n", dots), (&command, chunk)] {
                let Some(sent) = sent else { continue };
                let client = [OPEN.as_bytes(), command.as_bytes(), &sent, b"NOOP\r\n"].concat();
                let heard = play(settings.clone(), &client, usize::MAX);
                check_smuggling(&heard, &settings, &content, &format!("{id} cut at {cut}"));
                if !is_unclean(&content) {
                    assert_eq!(heard.contents(), [completed(&content)], "{id} cut at {cut}");
                }
            }
        }
    }
}

/// `pieces` as they follow DATA; `None` if they must not.
fn by_dots(pieces: &[&[u8]]) -> Option<Vec<u8>> {
    let (mut stuffer, mut out) = (Stuffer::default(), Vec::new());
    pieces.iter().try_for_each(|piece| stuffer.push(piece, &mut out)).ok()?;
    stuffer.finish(&mut out).ok()?;
    Some(out)
}

/// `pieces` as they follow BDAT with this size; `None` if they must not.
fn by_chunk(pieces: &[&[u8]], size: usize) -> Option<Vec<u8>> {
    let (mut verbatim, mut out) = (Verbatim::new(size.try_into().unwrap()), Vec::new());
    pieces.iter().try_for_each(|piece| verbatim.push(piece, &mut out)).ok()?;
    verbatim.finish(&mut out).ok()?;
    Some(out)
}

#[test]
fn there_are_vectors_of_every_kind() {
    let vectors = smuggling();
    let unclean = vectors.iter().filter(|(_, content)| is_unclean(content)).count();
    assert!(unclean >= 12 && vectors.len() - unclean >= 5, "{unclean} of {}", vectors.len());
    assert!(vectors.iter().all(|(_, content)| (content.len() as u64) < SIZE_MAX));
}
