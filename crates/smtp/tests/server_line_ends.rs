//! What ends a client's lines, and what a client that speaks another protocol gets.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic is how a test fails"
)]

mod common;

use common::{play, relay, submission_in_tls};
use smtp::data::Newlines;
use smtp::server::SessionSettings;

#[test]
fn a_line_that_ends_in_lf_alone_is_refused_at_once_and_nothing_behind_it_counts() {
    for client in ["HELO ups\n", "EHLO c\r\nMAIL FROM:<a@b.example>\nRCPT TO:<c@d.example>\r\n"] {
        for piece in 1..=client.len() {
            let transcript = play(relay(), client.as_bytes(), piece);
            assert_eq!(transcript.answers().last().unwrap(), "500 5.5.2", "{client:?} by {piece}");
            assert!(transcript.closed && transcript.output.contains("LF alone"), "{transcript:?}");
            assert_eq!(transcript.events, Vec::<String>::new(), "{client:?} by {piece}");
        }
    }
}

#[test]
fn under_normalize_the_first_line_decides_what_ends_lines() {
    let settings = SessionSettings { newlines: Newlines::Normalize, ..relay() };
    let opened = "EHLO ups|MAIL FROM:<a@b.example>|RCPT TO:<c@d.example>|DATA|";
    let with_lf = opened.replace('|', "\n") + "A: b\n\nx\n.\nQUIT\n";
    let with_crlf = opened.replace('|', "\r\n") + "A: b\n\nx\n.\nQUIT\n\r\n.\r\nQUIT\r\n";
    let mixed = opened.replace('|', "\r\n") + "x\r\n.\r\nNOOP\n";
    let cases = [
        (&with_lf, "A: b\r\n\r\nx\r\n", "221 2.0.0"),
        (&with_crlf, "A: b\r\n\r\nx\r\n.\r\nQUIT\r\n\r\n", "221 2.0.0"),
        (&mixed, "x\r\n", "500 5.5.2"),
    ];
    for (client, content, last) in cases {
        for piece in 1..=client.len() {
            let transcript = play(settings.clone(), client.as_bytes(), piece);
            assert_eq!(transcript.contents(), [content.as_bytes()], "{client:?} by {piece}");
            assert_eq!(transcript.answers().last().unwrap(), last, "{client:?} by {piece}");
        }
    }
    let login = "EHLO c\nAUTH LOGIN\ndXNlcg==\nc2VjcmV0\nQUIT\n";
    let settings = SessionSettings { newlines: Newlines::Normalize, ..submission_in_tls() };
    let answers = play(settings, login.as_bytes(), 7).answers();
    assert_eq!(answers[answers.len() - 2..], ["235 2.7.0", "221 2.0.0"]);
}

#[test]
fn tls_in_place_of_the_first_command_is_refused_at_once() {
    let hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
    for piece in 1..=hello.len() {
        let transcript = play(relay(), hello, piece);
        assert_eq!(transcript.answers().last().unwrap(), "500 5.5.1", "by {piece}");
        assert!(transcript.closed && transcript.output.contains("STARTTLS"), "{transcript:?}");
    }
}
