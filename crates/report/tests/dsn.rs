//! DSNs as their readers get them: golden files for people, a MIME parser for programs.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests fail by panicking"
)]

use std::path::Path;
use std::sync::OnceLock;

use jiff::Timestamp;
use mail_parser::{Message, MessageParser, MimeHeaders, PartType};
use report::{Action, Dsn, DsnKind, ReportedRecipient, Returned};
use smtp::originals::OriginalRecipients;
use smtp::params::EnvelopeId;
use smtp::{Domain, Mailbox, RemoteText, Status};

const ORIGINAL: &[u8] = b"Received: from client.example by relay.example.net\r\n\
    From: Ann <ann@sender.example>\r\nTo: bob@example.org\r\nSubject: hello\r\n\r\nHi Bob\r\n";

static NONE: OnceLock<OriginalRecipients> = OnceLock::new();

fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn mailbox(text: &str) -> Mailbox {
    Mailbox::parse(text).unwrap()
}

/// A DSN of failure about `recipients` of `original`, composed.
fn compose(recipients: &[ReportedRecipient<'_>], returned: Returned, original: &[u8]) -> Vec<u8> {
    let addresses = Addresses::default();
    Dsn { returned, original, ..dsn(&addresses, recipients) }.compose()
}

struct Addresses {
    from: Mailbox,
    to: Mailbox,
}

impl Default for Addresses {
    fn default() -> Self {
        Self { from: mailbox("mailer-daemon@relay.example.net"), to: mailbox("ann@sender.example") }
    }
}

/// A DSN of failure, to be changed.
fn dsn<'a>(addresses: &'a Addresses, recipients: &'a [ReportedRecipient<'a>]) -> Dsn<'a> {
    Dsn {
        reporting_mta: "relay.example.net",
        from: &addresses.from,
        to: &addresses.to,
        message_id: "0193-5f@relay.example.net",
        date: time("2026-11-22T12:00:00Z"),
        arrival_date: time("2026-11-17T12:00:00Z"),
        original_id: "01935f6c0a7b4c1e8d2f3a4b5c6d7e8f",
        envelope_id: None,
        action: Action::Failed,
        recipients,
        returned: Returned::Headers,
        kind: DsnKind::Ordinary,
        original: ORIGINAL,
    }
}

fn unknown_user<'a>(address: &'a Mailbox, host: &'a Domain) -> ReportedRecipient<'a> {
    ReportedRecipient {
        originals: NONE.get_or_init(OriginalRecipients::default),
        final_recipient: address,
        status: Status::permanent(1, 1),
        remote_mta: Some(host),
        diagnostic: Some(RemoteText::new("550 5.1.1 no such user here")),
        last_attempt: Some(time("2026-11-22T11:59:58Z")),
        retry_until: None,
        explanation: "The recipient's server refused the address.",
    }
}

/// Compares with `tests/golden/NAME`; `UPDATE_GOLDEN=1 cargo test -p report` writes it anew.
fn assert_golden(name: &str, composed: &[u8]) {
    let text = std::str::from_utf8(composed).unwrap();
    assert!(!text.replace("\r\n", "").contains(['\r', '\n']), "every line ends with CRLF");
    let text = text.replace("\r\n", "\n");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    assert_eq!(text, std::fs::read_to_string(&path).unwrap(), "{name}");
}

fn assert_every_line_travels(composed: &[u8]) {
    assert!(composed.is_ascii());
    for line in composed.split(|&byte| byte == b'\n') {
        assert!(line.len() <= 999, "{}", line.escape_ascii());
    }
}

fn part<'a>(message: &'a Message<'_>, index: usize) -> (&'a str, &'a str) {
    let part = &message.parts[index];
    let kind = part.content_type().unwrap();
    (kind.c_type.as_ref(), kind.c_subtype.as_deref().unwrap())
}

#[test]
fn a_refused_recipient_is_explained() {
    let (bob, host) = (mailbox("bob@example.org"), Domain::parse("mx1.example.org").unwrap());
    assert_golden(
        "refused.eml",
        &compose(&[unknown_user(&bob, &host)], Returned::Headers, ORIGINAL),
    );
}

#[test]
fn several_recipients_share_one_notice_and_a_policy_is_named() {
    let (bob, carol) = (mailbox("bob@example.org"), mailbox("\"carol  c\"@bank.example"));
    let host = Domain::parse("mx1.example.org").unwrap();
    let kept_back = ReportedRecipient {
        originals: NONE.get_or_init(OriginalRecipients::default),
        final_recipient: &carol,
        status: Status::transient(7, 5),
        remote_mta: None,
        diagnostic: None,
        last_attempt: Some(time("2026-11-22T11:30:00Z")),
        retry_until: None,
        explanation: "The mail servers that DNS names for bank.example are not in its MTA-STS policy \
                      (mode enforce): mx.evil.example. The message waited for 5 days.",
    };
    let recipients = [unknown_user(&bob, &host), kept_back];
    assert_golden("policy.eml", &compose(&recipients, Returned::Full, ORIGINAL));
}

#[test]
fn programs_find_the_parts_of_rfc_6522() {
    let (bob, host) = (mailbox("bob@example.org"), Domain::parse("mx1.example.org").unwrap());
    let composed = compose(&[unknown_user(&bob, &host)], Returned::Headers, ORIGINAL);
    assert_every_line_travels(&composed);
    let message = MessageParser::default().parse(&composed).unwrap();
    assert_eq!(part(&message, 0), ("multipart", "report"));
    let report = message.content_type().unwrap();
    assert_eq!(report.attribute("report-type"), Some("delivery-status"));
    assert_eq!(part(&message, 1), ("text", "plain"));
    assert_eq!(part(&message, 2), ("message", "delivery-status"));
    assert_eq!(part(&message, 3), ("text", "rfc822-headers"));
    assert_eq!(message.parts.len(), 4);
    assert_eq!(message.header_raw("Auto-Submitted").unwrap().trim(), "auto-replied");
    assert_eq!(message.date().unwrap().to_timestamp(), 1_795_348_800);
}

#[test]
fn the_whole_message_goes_back_when_asked_for() {
    let (bob, host) = (mailbox("bob@example.org"), Domain::parse("mx1.example.org").unwrap());
    let eight_bit = "Subject: x\r\n\r\nGr\u{fc}\u{df}e\r\n".as_bytes();
    for original in [ORIGINAL, eight_bit] {
        let composed = compose(&[unknown_user(&bob, &host)], Returned::Full, original);
        let message = MessageParser::default().parse(&composed).unwrap();
        assert_eq!(part(&message, 3), ("message", "rfc822"));
        let PartType::Message(inner) = &message.parts[3].body else { panic!("no message inside") };
        let raw = std::str::from_utf8(inner.raw_message()).unwrap();
        assert!(raw.contains(std::str::from_utf8(original).unwrap()));
        let labelled = message.header_raw("Content-Transfer-Encoding").map(str::trim);
        assert_eq!(labelled, (!original.is_ascii()).then_some("8bit"));
    }
}

#[test]
fn a_copy_of_the_header_ends_where_the_header_ends() {
    let (bob, host) = (mailbox("bob@example.org"), Domain::parse("mx1.example.org").unwrap());
    let cases: [(&[u8], &str); 4] = [
        (b"A: b\r\n c\r\n\r\nsecret\r\n", "A: b\r\n c\r\n"),
        (b"A: b\r\nDear all: secret\r\nC: secret\r\n\r\nsecret\r\n", "A: b\r\n"),
        (b"A: b\r\nC: cut", "A: b\r\nC: cut"),
        (b" secret\r\n\r\nsecret", ""),
    ];
    for (original, want) in cases {
        let composed = compose(&[unknown_user(&bob, &host)], Returned::Headers, original);
        let text = String::from_utf8(composed).unwrap();
        let copy =
            format!("text/rfc822-headers\r\nContent-Transfer-Encoding: 7bit\r\n\r\n{want}\r\n--=_");
        assert!(text.contains(&copy) && !text.contains("secret"), "{text}");
    }
}

#[test]
fn headers_that_cannot_travel_are_encoded_and_lose_nothing() {
    let (bob, host) = (mailbox("bob@example.org"), Domain::parse("mx1.example.org").unwrap());
    let long = format!("X-Long: {}\r\n\r\nbody", "y".repeat(3000));
    let originals: [&[u8]; 4] = [
        b"Subject: \xe9t\xe9\r\n\r\nb",
        long.as_bytes(),
        b"X: a\0b\n\r\n\r\nb",
        b"X: bare\rcr\r\n\r\n",
    ];
    for original in originals {
        for returned in [Returned::Headers, Returned::Full] {
            if returned == Returned::Full && original.starts_with(b"Subject") {
                continue;
            }
            let composed = compose(&[unknown_user(&bob, &host)], returned, original);
            assert_every_line_travels(&composed);
            let message = MessageParser::default().parse(&composed).unwrap();
            assert_eq!(part(&message, 3), ("text", "rfc822-headers"));
            let encoding = message.parts[3].content_transfer_encoding();
            assert_eq!(encoding, Some("quoted-printable"));
        }
    }
}

#[test]
fn nothing_a_stranger_wrote_makes_a_line_a_field_or_a_part() {
    let bob = mailbox("bob@example.org");
    let host = Domain::parse("mx1.example.org").unwrap();
    let mut recipient = unknown_user(&bob, &host);
    let nasty =
        format!("550 a\r\nAction: delivered\r\n\r\n--=_staunch_00000000 {}", "\u{fc}".repeat(400));
    recipient.diagnostic = Some(RemoteText::new(&nasty));
    let original = b"X: a\r\n--=_staunch_00000000\r\nContent-Type: text/html\r\n\r\n";
    let composed = compose(&[recipient], Returned::Full, original);
    assert_every_line_travels(&composed);
    let text = std::str::from_utf8(&composed).unwrap();
    assert_eq!(text.matches("\r\nAction: ").count(), 1);
    let message = MessageParser::default().parse(&composed).unwrap();
    assert_eq!(message.parts.len(), 4);
    assert!(text.contains("boundary=\"=_staunch_00000001\""));
}

#[test]
fn a_failure_never_carries_a_transient_status() {
    let (bob, host) = (mailbox("bob@example.org"), Domain::parse("mx1.example.org").unwrap());
    let mut recipient = unknown_user(&bob, &host);
    recipient.status = Status::transient(4, 1);
    recipient.remote_mta = None;
    recipient.diagnostic = None;
    recipient.last_attempt = None;
    let composed = compose(&[recipient], Returned::Headers, ORIGINAL);
    let text = std::str::from_utf8(&composed).unwrap();
    assert!(text.contains("\r\nStatus: 5.4.1\r\n"));
    for absent in ["Remote-MTA", "Diagnostic-Code", "Last-Attempt-Date"] {
        assert!(!text.contains(absent), "{absent}");
    }
}

/// The values of a field, in order.
fn field(composed: &[u8], name: &str) -> Vec<String> {
    let text = String::from_utf8(composed.to_vec()).unwrap().replace("\r\n ", " ");
    let fields = text.lines().filter_map(|line| line.split_once(": "));
    fields.filter(|(field, _)| *field == name).map(|(_, value)| value.to_owned()).collect()
}

#[test]
fn a_delay_is_told_with_its_end() {
    let (bob, host) = (mailbox("bob@example.org"), Domain::parse("mx1.example.org").unwrap());
    let envelope_id = EnvelopeId::parse("QQ+20314159").unwrap();
    let original = OriginalRecipients::parse("rfc822;bob+2Blists@example.com").unwrap();
    let recipient = ReportedRecipient {
        originals: &original,
        status: Status::transient(7, 5),
        diagnostic: None,
        retry_until: Some(time("2026-11-27T12:00:00Z")),
        explanation: "mx1.example.org: the certificate expired at 2026-11-01T00:00:00Z \
                      (certificate_expired)",
        ..unknown_user(&bob, &host)
    };
    let addresses = Addresses::default();
    let recipients = [recipient];
    let (action, envelope_id) = (Action::Delayed, Some(&envelope_id));
    let dsn = Dsn { action, envelope_id, ..dsn(&addresses, &recipients) };
    assert_golden("delayed.eml", &dsn.compose());
}

#[test]
fn who_asked_for_it_is_told_where_the_message_went() {
    let (bob, host) = (mailbox("bob@example.org"), Domain::parse("mx1.example.org").unwrap());
    let recipient = ReportedRecipient {
        status: Status::success(0, 0),
        diagnostic: Some(RemoteText::new("250 2.0.0 queued as 1234")),
        retry_until: Some(time("2026-11-27T12:00:00Z")),
        explanation: "The server took the message.",
        ..unknown_user(&bob, &host)
    };
    let (addresses, recipients) = (Addresses::default(), [recipient]);
    let of = |action| Dsn { action, ..dsn(&addresses, &recipients) }.compose();
    assert_golden("relayed.eml", &of(Action::Relayed));
    for (action, word) in [
        (Action::Relayed, "relayed"),
        (Action::Delivered, "delivered"),
        (Action::Expanded, "expanded"),
    ] {
        let composed = of(action);
        assert_eq!(field(&composed, "Action"), [word]);
        assert_eq!(field(&composed, "Status"), ["2.0.0"]);
        assert!(field(&composed, "Will-Retry-Until").is_empty(), "it is not tried again");
    }
}

#[test]
fn each_action_has_its_class_of_status() {
    let (bob, host) = (mailbox("bob@example.org"), Domain::parse("mx1.example.org").unwrap());
    let addresses = Addresses::default();
    for status in [Status::permanent(4, 7), Status::transient(4, 7), Status::success(4, 7)] {
        let recipients = [ReportedRecipient { status, ..unknown_user(&bob, &host) }];
        for (action, want) in [
            (Action::Failed, "5.4.7"),
            (Action::Delayed, "4.4.7"),
            (Action::Relayed, "2.4.7"),
            (Action::Delivered, "2.4.7"),
            (Action::Expanded, "2.4.7"),
        ] {
            let composed = Dsn { action, ..dsn(&addresses, &recipients) }.compose();
            assert_eq!(field(&composed, "Status"), [want]);
        }
    }
}

/// RFC 6533: a sender whose own address is ASCII gets a DSN that every server takes.
#[test]
fn dsn_11_an_ascii_sender_gets_ascii_about_utf8_recipients() {
    let jose = Mailbox::parse_utf8("jos\u{e9}@example.org").unwrap();
    let host = Domain::parse("mx1.example.org").unwrap();
    let original = OriginalRecipients::parse("utf-8;jos\u{e9}@example.com").unwrap();
    let recipients = [ReportedRecipient { originals: &original, ..unknown_user(&jose, &host) }];
    let addresses = Addresses::default();
    let header = "Subject: \u{fc}\r\n\r\nx\r\n".as_bytes();
    let kind = DsnKind::Utf8;
    let composed = Dsn { kind, original: header, ..dsn(&addresses, &recipients) }.compose();
    assert_every_line_travels(&composed);
    let message = MessageParser::default().parse(&composed).unwrap();
    assert_eq!(part(&message, 2), ("message", "delivery-status"));
    assert_eq!(part(&message, 3), ("message", "global-headers"));
    assert_eq!(field(&composed, "Final-Recipient"), ["utf-8; jos\\x{E9}@example.org"]);
    assert_eq!(field(&composed, "Original-Recipient"), ["utf-8; jos\\x{E9}@example.com"]);
}

#[test]
fn dsn_11_a_utf8_sender_gets_the_global_form() {
    let jose = Mailbox::parse_utf8("jos\u{e9}@example.org").unwrap();
    let host = Domain::parse("mx1.example.org").unwrap();
    let original = OriginalRecipients::parse("utf-8;jos\\x{E9}@example.com").unwrap();
    let recipients = [ReportedRecipient { originals: &original, ..unknown_user(&jose, &host) }];
    let to = Mailbox::parse_utf8("zo\u{eb}@sender.example").unwrap();
    let addresses = Addresses { to, ..Addresses::default() };
    let text = "Subject: \u{fc}\r\n\r\nx\r\n".as_bytes();
    let (kind, returned) = (DsnKind::Utf8, Returned::Full);
    let dsn = Dsn { kind, returned, original: text, ..dsn(&addresses, &recipients) };
    assert_golden("global.eml", &dsn.compose());
    let composed = dsn.compose();
    let message = MessageParser::default().parse(&composed).unwrap();
    assert_eq!(message.header_raw("Content-Transfer-Encoding").map(str::trim), Some("8bit"));
    assert_eq!(part(&message, 2), ("message", "global-delivery-status"));
    assert_eq!(part(&message, 3), ("message", "global"));
}

#[test]
fn people_read_what_a_host_said_in_its_language_and_once() {
    let (bob, host) = (mailbox("bob@example.org"), Domain::parse("mx1.example.org").unwrap());
    let said = "550 5.1.1 \u{41f}\u{43e}\u{43b}\u{44c}\u{437}\u{43e}\u{432}\u{430}\u{442}\u{435}\u{43b}\u{44c} \u{43d}\u{435} \u{43d}\u{430}\u{439}\u{434}\u{435}\u{43d}";
    let explanation = format!("mx1.example.org answered RCPT: {said} (remote_5xx)");
    let recipients = [ReportedRecipient {
        diagnostic: Some(RemoteText::new(said)),
        explanation: &explanation,
        ..unknown_user(&bob, &host)
    }];
    let composed = compose(&recipients, Returned::Headers, ORIGINAL);
    assert_every_line_travels(&composed);
    let message = MessageParser::default().parse(&composed).unwrap();
    let text = message.body_text(0).unwrap().replace("\r\n    ", " ").replace("\n    ", " ");
    assert_eq!(text.matches(said).count(), 1, "{text}");
    let escaped = field(&composed, "Diagnostic-Code").concat();
    assert!(escaped.starts_with("smtp; 550 5.1.1 \\u{41f}"), "{escaped}");
}

#[test]
fn each_address_that_the_sender_wrote_has_its_block() {
    let (bob, host) = (mailbox("bob@example.org"), Domain::parse("mx1.example.org").unwrap());
    let written = OriginalRecipients::parse("rfc822;b@a.example\nrfc822;list@a.example").unwrap();
    let recipients = [ReportedRecipient { originals: &written, ..unknown_user(&bob, &host) }];
    let composed = compose(&recipients, Returned::Headers, ORIGINAL);
    let original = ["rfc822; b@a.example", "rfc822; list@a.example"];
    assert_eq!(field(&composed, "Original-Recipient"), original);
    assert_eq!(field(&composed, "Final-Recipient"), ["rfc822; bob@example.org"; 2]);
    let text = String::from_utf8(composed).unwrap();
    assert_eq!(text.matches("<bob@example.org>").count(), 1, "{text}");
}
