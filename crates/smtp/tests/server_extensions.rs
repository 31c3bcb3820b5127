//! The server session with everything offered: STARTTLS, AUTH, BDAT, SMTPUTF8.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic is how a test fails"
)]

mod common;

use common::{SIZE_MAX, Transcript, play, relay, submission_in_tls};
use smtp::command::SessionChannel;
use smtp::sasl::Mechanism;
use smtp::server::{ServerStep, Session, SessionAccess, SessionSettings};
use smtp::{Response, Status};

fn relay_in_tls() -> SessionSettings {
    SessionSettings { channel: SessionChannel::Tls, ..relay() }
}

/// For users, who have to begin with STARTTLS.
fn submission() -> SessionSettings {
    SessionSettings { access: SessionAccess::Users, ..relay() }
}

/// `client` sends all at once; what is answered after the greeting.
fn answers(settings: SessionSettings, client: &str) -> Vec<String> {
    let mut answers = play(settings, client.as_bytes(), usize::MAX).answers();
    answers.remove(0);
    answers
}

#[track_caller]
fn check(settings: SessionSettings, client: &str, want: &str) {
    assert_eq!(answers(settings, client).join(", "), want, "{client}");
}

#[test]
fn ext_15_what_needs_tls_is_offered_under_tls() {
    let ehlo = |settings| play(settings, b"EHLO c\r\nHELP\r\n", 100).output;
    let clear = ehlo(relay());
    assert!(clear.contains("250-STARTTLS\r\n") && clear.contains(" STARTTLS\r\n214"));
    assert!(!clear.contains("REQUIRETLS") && !clear.contains("AUTH"));
    let tls = ehlo(relay_in_tls());
    assert!(!tls.contains("STARTTLS"));
    assert!(tls.contains("250-REQUIRETLS\r\n") && tls.contains("250-AUTH PLAIN LOGIN\r\n"));
    assert!(tls.contains(" BDAT AUTH\r\n214"));
}

#[test]
fn sv_15_starttls_has_no_argument_and_comes_once() {
    check(relay(), "STARTTLS now\r\nNOOP\r\n", "501 5.5.4, 250 2.0.0");
    check(relay(), "EHLO c\r\nSTARTTLS\r\nSTARTTLS\r\n", "250 SIZE, 220 2.0.0, 503 5.5.1");
    let mut bare = relay();
    bare.offer = smtp::command::Offer::new(1);
    check(bare, "STARTTLS\r\n", "502 5.5.1");
}

#[test]
fn sv_15_tls_that_cannot_be_had_now_is_454_and_the_session_goes_on() {
    let mut session = Session::new(relay());
    session.written();
    let mut input = &b"NOOP\r\nSTARTTLS\r\nNOOP\r\n"[..];
    assert_eq!(session.step(&mut input), ServerStep::StartTls);
    session.refuse(&Response::new(454, Status::transient(7, 0), "TLS not available"));
    assert_eq!(session.step(&mut input), ServerStep::Input);
    let want = b"250 2.0.0 Ok\r\n454 4.7.0 TLS not available\r\n250 2.0.0 Ok\r\n";
    assert_eq!(session.output(), want);
}

#[test]
fn sv_16_nothing_from_before_the_handshake_counts_after_it() {
    let client = "EHLO c\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nSTARTTLS\r\n\
                  RCPT TO:<c@d.example>\r\nMAIL FROM:<a@b.example>\r\nEHLO c\r\nDATA\r\n";
    for piece in 1..client.len() {
        let transcript = play(relay(), client.as_bytes(), piece);
        assert_eq!(transcript.events[2..], ["tls", "reset"], "by {piece}");
        let want = ["220 2.0.0", "503 5.5.1", "503 5.5.1", "250 SIZE", "503 5.5.1"];
        assert_eq!(transcript.answers()[4..], want);
    }
    let mut session = Session::new(relay());
    let mut input = &b"STARTTLS\r\nMAIL FROM:<x@y.example>\r\n"[..];
    assert_eq!(session.step(&mut input), ServerStep::StartTls);
    assert_eq!(session.step(&mut input), ServerStep::Close, "no handshake, no session");
}

#[test]
fn sv_16_errors_are_counted_across_the_handshake() {
    let settings = SessionSettings { errors_max: 1, ..relay() };
    check(settings, "NOPE\r\nSTARTTLS\r\nNOPE\r\n", "500 5.5.1, 220 2.0.0, 421 4.7.0");
}

#[test]
fn ext_10_users_authenticate_in_every_way_that_is_offered() {
    // "\0user\0secret", "user", "secret".
    for dialogue in [
        "AUTH PLAIN AHVzZXIAc2VjcmV0\r\n",
        "AUTH PLAIN\r\nAHVzZXIAc2VjcmV0\r\n",
        "AUTH LOGIN\r\ndXNlcg==\r\nc2VjcmV0\r\n",
        "auth login dXNlcg==\r\nc2VjcmV0\r\n",
        "AUTH PLAIN AHVzZXIAd3Jvbmc=\r\nAUTH PLAIN AHVzZXIAc2VjcmV0\r\n",
    ] {
        let client =
            format!("EHLO c\r\n{dialogue}MAIL FROM:<>\r\nRSET\r\nAUTH PLAIN =\r\nEHLO c\r\n");
        let transcript = play(submission_in_tls(), client.as_bytes(), usize::MAX);
        let answers = transcript.answers();
        let want = ["235 2.7.0", "250 2.1.0", "250 2.0.0", "503 5.5.1", "250 SIZE"];
        assert_eq!(answers[answers.len() - 5..], want, "{dialogue}");
        assert_eq!(transcript.output.matches("250-AUTH").count(), 1, "not offered again");
    }
    let prompts = play(submission_in_tls(), b"EHLO c\r\nAUTH LOGIN\r\ndXNlcg==\r\n", 5).output;
    assert!(prompts.ends_with("334 VXNlcm5hbWU6\r\n334 UGFzc3dvcmQ6\r\n"));
}

#[test]
fn ext_10_an_authentication_that_fails_has_its_code_and_the_session_goes_on() {
    let long = "A".repeat(12_287);
    for (dialogue, want) in [
        ("AUTH PLAIN =", "535 5.7.8"),
        ("AUTH PLAIN AHVzZXIAd3Jvbmc=", "535 5.7.8"),
        ("AUTH PLAIN\r\n*", "334 , 501 5.7.0"),
        ("AUTH LOGIN\r\ndXNlcg==\r\n*", "334 VXNlcm5hbWU6, 334 UGFzc3dvcmQ6, 501 5.7.0"),
        ("AUTH PLAIN\r\nnot base64", "334 , 501 5.5.2"),
        ("AUTH PLAIN\r\nAHVzZXIAc2VjcmV0=", "334 , 501 5.5.2"),
        ("AUTH PLAIN not-base64", "501 5.5.2"),
        ("AUTH PLAIN\r\n\r\nX", "334 , 535 5.7.8, 500 5.5.1"),
        ("AUTH CRAM-MD5", "504 5.5.4"),
        ("AUTH", "501 5.5.4"),
        (&format!("AUTH PLAIN\r\n{long}"), "334 , 500 5.5.6"),
        ("MAIL FROM:<>", "530 5.7.0"),
    ] {
        let client = format!("EHLO c\r\n{dialogue}\r\nNOOP\r\n");
        check(submission_in_tls(), &client, &format!("250 SIZE, {want}, 250 2.0.0"));
    }
    check(submission_in_tls(), "AUTH PLAIN AHVzZXIAc2VjcmV0\r\n", "503 5.5.1");
    let in_transaction = "EHLO c\r\nMAIL FROM:<>\r\nAUTH PLAIN AHVzZXIAc2VjcmV0\r\n";
    check(relay_in_tls(), in_transaction, "250 SIZE, 250 2.1.0, 503 5.5.1");
}

#[test]
fn sv_24_no_password_is_asked_for_without_tls() {
    let client = "EHLO c\r\nAUTH PLAIN AHVzZXIAc2VjcmV0\r\nMAIL FROM:<>\r\n";
    check(submission(), client, "250 SIZE, 538 5.7.11, 530 5.7.0");
    check(relay(), client, "250 SIZE, 502 5.5.1, 250 2.1.0");
}

const OPEN: &str = "EHLO c\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\n";

/// What comes after OPEN.
fn bdat(client: &str) -> Transcript {
    let client = format!("{OPEN}{client}");
    let whole = play(relay(), client.as_bytes(), usize::MAX);
    for piece in 1..client.len() {
        assert_eq!(play(relay(), client.as_bytes(), piece), whole, "{client} by {piece}");
    }
    whole
}

#[test]
fn ext_05_bdat_counts_octets_and_nothing_else_ends_the_message() {
    let cases: &[(&str, &str, &[&str])] = &[
        ("BDAT 5 LAST\r\nabc\r\nNOOP\r\n", "250 2.0.0, 250 2.0.0", &["abc\r\n"]),
        ("BDAT 3\r\na\r\nBDAT 3 LAST\r\nb\r\n", "250 2.0.0, 250 2.0.0", &["a\r\nb\r\n"]),
        ("BDAT 3\r\na\r\nBDAT 0 LAST\r\n", "250 2.0.0, 250 2.0.0", &["a\r\n"]),
        ("BDAT 0 LAST\r\n", "250 2.0.0", &[""]),
        ("BDAT 0\r\nBDAT 0 LAST\r\n", "250 2.0.0, 250 2.0.0", &[""]),
        // Dots are text.
        ("BDAT 14 LAST\r\n..a\r\n.\r\nNOOP\r\n", "250 2.0.0", &["..a\r\n.\r\nNOOP\r\n"]),
        // Cut between CR and LF.
        ("BDAT 2\r\na\rBDAT 4 LAST\r\n\nb\r\n", "250 2.0.0, 250 2.0.0", &["a\r\nb\r\n"]),
        // The last line is completed.
        ("BDAT 1 LAST\r\na", "250 2.0.0", &["a\r\n"]),
        ("BDAT 1\r\naBDAT 1 LAST\r\nb", "250 2.0.0, 250 2.0.0", &["ab\r\n"]),
    ];
    for (client, want, contents) in cases {
        let transcript = bdat(client);
        assert_eq!(transcript.answers()[4..].join(", "), *want, "{client}");
        let contents: Vec<_> = contents.iter().map(|content| content.as_bytes()).collect();
        assert_eq!(transcript.contents(), contents, "{client}");
    }
}

#[test]
fn ext_05_refused_octets_are_read_and_never_commands() {
    let large = format!("BDAT 1200\r\n{}BDAT 6 LAST\r\nNOOP\r\nNOOP\r\n", "NOOP\r\n".repeat(200));
    let exact = format!("BDAT 1000 LAST\r\n{}\r\nNOOP\r\n", "x".repeat(998));
    let one_more = format!("BDAT 1000\r\n{}\r\nBDAT 1 LAST\r\nxNOOP\r\n", "x".repeat(998));
    for (client, want) in [
        // Refused, then the rest of the message, then a command.
        (large.as_str(), "552 5.3.4, 503 5.5.1, 250 2.0.0"),
        (&exact, "250 2.0.0, 250 2.0.0"),
        (&one_more, "250 2.0.0, 552 5.3.4, 250 2.0.0"),
        ("BDAT 6 LAST\r\na\nb\r\n\n", "550 5.5.2"),
        ("BDAT 2\r\na\nBDAT 6 LAST\r\nNOOP\r\nNOOP\r\n", "550 5.5.2, 503 5.5.1, 250 2.0.0"),
        ("BDAT 2 LAST\r\na\rNOOP\r\n", "550 5.5.2, 250 2.0.0"),
        ("BDAT 2\r\na\rBDAT 1 LAST\r\nbNOOP\r\n", "250 2.0.0, 550 5.5.2, 250 2.0.0"),
        ("BDAT 3 LAST\r\na\0bNOOP\r\n", "550 5.5.2, 250 2.0.0"),
        ("RSET\r\nBDAT 6 LAST\r\nNOOP\r\nNOOP\r\n", "250 2.0.0, 503 5.5.1, 250 2.0.0"),
        ("BDAT 3\r\na\r\nRSET\r\nBDAT 6 LAST\r\nNOOP\r\n", "250 2.0.0, 250 2.0.0, 503 5.5.1"),
        ("BDAT 3\r\na\r\nDATA\r\nBDAT 0 LAST\r\n", "250 2.0.0, 503 5.5.1, 250 2.0.0"),
        ("BDAT 3\r\na\r\nRCPT TO:<e@f.example>\r\n", "250 2.0.0, 503 5.5.1"),
        ("BDAT 3\r\na\r\nMAIL FROM:<>\r\n", "250 2.0.0, 503 5.5.1"),
        ("BDAT x\r\nNOOP\r\nNOOP\r\n", "501 5.5.4"),
        ("BDAT 99999999999999999999 LAST\r\nNOOP\r\n", "501 5.5.4"),
    ] {
        let transcript = bdat(client);
        assert_eq!(transcript.answers()[4..].join(", "), want, "{client}");
        assert_eq!(transcript.closed, want == "501 5.5.4", "{client}");
    }
    let mut unoffered = relay();
    unoffered.offer = smtp::command::Offer::new(1000);
    let client = format!("{OPEN}BDAT 6 LAST\r\nNOOP\r\nNOOP\r\n");
    check(unoffered, &client, "250 SIZE, 250 2.1.0, 250 2.1.5, 502 5.5.1, 250 2.0.0");
}

#[test]
fn ext_05_a_message_that_the_caller_refuses_is_drained() {
    let open = OPEN.replace("<a@", "<full@");
    let client = format!("{open}BDAT 6\r\nNOOP\r\nBDAT 6 LAST\r\nNOOP\r\nNOOP\r\n");
    for piece in 1..client.len() {
        let answers = play(relay(), client.as_bytes(), piece).answers();
        assert_eq!(answers[4..], ["452 4.3.1", "503 5.5.1", "250 2.0.0"], "by {piece}");
    }
}

#[test]
fn a_stop_waits_for_a_message_that_comes_in_chunks() {
    let mut session = Session::new(relay());
    let client = format!("{OPEN}BDAT 3\r\na\r\n");
    let mut input = client.as_bytes();
    loop {
        let step = session.step(&mut input);
        if step == ServerStep::Input {
            break;
        }
        assert_eq!(matches!(step, ServerStep::Content(_)), session.is_in_content());
        session.accept();
    }
    assert!(session.is_in_content(), "between two chunks");
    let mut input = &b"RSET\r\n"[..];
    assert_eq!(session.step(&mut input), ServerStep::Reset);
    assert!(!session.is_in_content());
}

/// DATA, a BDAT in a transaction, and one that is refused.
const WAYS_IN: [(&str, &str); 3] =
    [("", "DATA\r\n"), ("", "BDAT 99999999 LAST\r\n"), ("RSET\r\n", "BDAT 99999999 LAST\r\n")];

#[test]
fn sv_03_a_message_is_dropped_at_its_first_fault_and_refused_at_its_end() {
    let ways = [("DATA\r\n", "\r\n.\r\n"), ("BDAT 4000 LAST\r\n", "")];
    for (way, end) in ways {
        for fault in ["\0", "\n", "\rx", &"x".repeat(2000)] {
            let mut session = Session::new(relay());
            let begin = format!("{OPEN}{way}text\r\n{fault}");
            let mut input = begin.as_bytes();
            let mut spoiled = 0;
            loop {
                match session.step(&mut input) {
                    ServerStep::Input => break,
                    ServerStep::Spoiled => spoiled += 1,
                    ServerStep::Sender(_) | ServerStep::Recipient(_) | ServerStep::Begin => {
                        session.accept()
                    }
                    ServerStep::Content(_) => {}
                    step @ (ServerStep::Output
                    | ServerStep::StartTls
                    | ServerStep::Authenticate { .. }
                    | ServerStep::AuthResponse(_)
                    | ServerStep::AuthEnded
                    | ServerStep::End
                    | ServerStep::Refused(_)
                    | ServerStep::Reset
                    | ServerStep::Close) => panic!("{step:?}"),
                }
            }
            assert_eq!(spoiled, 1, "{way}{fault:?}");
            assert!(session.is_in_content());
            session.written();

            let sent = "text\r\n".len() + fault.len();
            let rest = format!("{}{end}NOOP\r\n", "y".repeat(4000 - sent));
            let mut input = rest.as_bytes();
            assert!(matches!(session.step(&mut input), ServerStep::Refused(_)), "{way}{fault:?}");
            assert_eq!(session.step(&mut input), ServerStep::Input);
            assert!(session.output().starts_with(b"55"), "and once only");
            assert!(session.output().ends_with(b"\r\n250 2.0.0 Ok\r\n"), "in step");
        }
    }
}

/// Whoever goes on for ever does not wait for an answer. Wherever the input is cut, it ends at the
/// same octet.
#[test]
fn content_that_goes_on_far_beyond_what_is_taken_ends_the_session() {
    let most = 2 * usize::try_from(SIZE_MAX).unwrap() + 1024 * 1024;
    for (before, way) in WAYS_IN {
        let client = |octets: usize| {
            let content: String = "0123456789abcde\n".chars().cycle().take(octets).collect();
            format!("{OPEN}{before}{way}{content}")
        };
        for piece in [4096, 100_003, usize::MAX] {
            let at_most = play(relay(), client(most).as_bytes(), piece);
            assert!(!at_most.closed, "{way} {piece}");
            let beyond = play(relay(), client(most + 1).as_bytes(), piece);
            assert!(beyond.closed && beyond.messages.is_empty(), "{way} {piece}");
            assert_eq!(beyond.answers().last().unwrap(), "421 4.3.4");
        }
    }
}

#[test]
fn ext_08_utf8_addresses_stand_in_an_smtputf8_transaction_only() {
    let client = "EHLO c\r\nMAIL FROM:<\u{fc}@b.example>\r\n\
        MAIL FROM:<a@b.example>\r\nRCPT TO:<\u{fc}@d.example>\r\nRCPT TO:<c@\u{fc}.example>\r\n\
        RCPT TO:<c@d.example> ORCPT=utf-8;\u{fc}@d.example\r\nRSET\r\n\
        MAIL FROM:<\u{fc}@b.example> SMTPUTF8\r\nRCPT TO:<\u{fc}@d.example>\r\n\
        RCPT TO:<c@\u{fc}.example> ORCPT=utf-8;\u{fc}@d.example\r\nRSET\r\n\
        MAIL FROM:<a@b.example>\r\nRCPT TO:<\u{fc}@d.example>\r\n";
    let want = "250 SIZE, 550 5.6.7, 250 2.1.0, 553 5.6.7, 553 5.6.7, 553 5.6.7, 250 2.0.0, \
        250 2.1.0, 250 2.1.5, 250 2.1.5, 250 2.0.0, 250 2.1.0, 553 5.6.7";
    check(relay(), client, want);
}

#[test]
fn kept_lines_show_commands_and_neither_passwords_nor_content() {
    let mut session = Session::new(submission_in_tls());
    session.keep_lines();
    let mut input = &b"EHLO c\r\nAUTH PLAIN AHVzZXIAc2VjcmV0\r\nauth LOGIN\r\ndXNlcg==\r\n\
        c2VjcmV0\r\nc2VjcmV0\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\nBDAT 6 LAST\r\n\
        RSET\r\nAUTH AHVzZXIAc2VjcmV0\r\nHelp me\r\nMail from me\r\nQUIT\r\n"[..];
    let mut lines = Vec::new();
    let mut challenges = [&b"Username:"[..], b"Password:"].into_iter();
    loop {
        let step = session.step(&mut input);
        lines.extend(session.take_lines().iter().map(ToString::to_string));
        match step {
            ServerStep::Close => break,
            ServerStep::Authenticate { mechanism: Mechanism::Plain, .. } => {
                session.refuse(&Response::new(535, Status::permanent(7, 8), "no"));
            }
            ServerStep::Authenticate { .. } | ServerStep::AuthResponse(_) => {
                match challenges.next() {
                    Some(challenge) => session.challenge(challenge),
                    None => session.authenticated(),
                }
            }
            ServerStep::Input
            | ServerStep::Output
            | ServerStep::StartTls
            | ServerStep::AuthEnded
            | ServerStep::Sender(_)
            | ServerStep::Recipient(_)
            | ServerStep::Begin
            | ServerStep::Content(_)
            | ServerStep::Spoiled
            | ServerStep::End
            | ServerStep::Refused(_)
            | ServerStep::Reset => session.accept(),
        }
    }
    let want = [
        "EHLO c",
        "AUTH PLAIN (...)",
        "auth LOGIN",
        "(a message of AUTH)",
        "(a message of AUTH)",
        "(8 bytes that are no command)",
        "MAIL FROM:<a@b.test>",
        "RCPT TO:<c@d.test>",
        "BDAT 6 LAST",
        "AUTH (...)",
        "Help (...)",
        "(12 bytes that are no command)",
        "QUIT",
    ];
    assert_eq!(lines, want);
}
