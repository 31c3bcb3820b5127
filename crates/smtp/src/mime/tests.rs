//! The module as a whole: messages in, messages out, and what a reader makes of both.

use mail_parser::{Message, MessageParser, PartType};
use proptest::prelude::*;

use super::*;

const SEVEN_BIT: Goal = Goal { seven_bit: true, short_lines: false, header: HeaderGoal::AsItIs };
const SHORT_LINES: Goal = Goal { seven_bit: false, short_lines: true, header: HeaderGoal::AsItIs };

fn plan(message: &[u8], goal: Goal, cut: usize) -> Result<ConversionPlan, ConversionRefused> {
    let mut survey = Survey::new(goal);
    message.chunks(cut).try_for_each(|piece| survey.push(piece))?;
    survey.finish()
}

fn convert(message: &[u8], goal: Goal, cut: usize) -> Result<Vec<u8>, ConversionRefused> {
    let plan = plan(message, goal, cut)?;
    let (mut conversion, mut out) = (Conversion::new(&plan), Vec::new());
    message.chunks(cut).try_for_each(|piece| conversion.push(piece, &mut out))?;
    conversion.finish(&mut out)?;
    assert_eq!(plan.is_empty(), out == message, "nothing to do is nothing done");
    Ok(out)
}

/// The result as text; the same at several cuts.
fn converted(message: &str, goal: Goal) -> Result<String, ConversionRefused> {
    // Written as Latin-1, so that tables can have octets that are not UTF-8.
    let message: Vec<u8> = message
        .replace('\n', "\r\n")
        .chars()
        .map(|c| u8::try_from(u32::from(c)).unwrap())
        .collect();
    let whole = convert(&message, goal, usize::MAX);
    for cut in [1, 2, 7] {
        assert_eq!(convert(&message, goal, cut), whole, "by {cut}");
    }
    whole.map(|octets| {
        octets.iter().map(|&b| char::from(b)).collect::<String>().replace("\r\n", "\n")
    })
}

#[track_caller]
fn check(what: &str, message: &str, want: &str) {
    assert_eq!(converted(message, SEVEN_BIT).as_deref(), Ok(want), "{what}");
}

#[test]
fn what_stands_in_a_multipart_without_parts_is_left_to_its_readers() {
    for boundary in ["b", "\"b c\""] {
        let message = format!(
            "MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary={boundary}\n\nGr\u{c3}\u{bc}\u{c3}\u{9f}e\n--b_c\n--b--\n"
        );
        check(boundary, &message, &message);
    }
}

#[test]
fn text_above_the_first_part_becomes_no_field_when_its_octets_are_replaced() {
    check(
        "the first line would be a field without them",
        "MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=b\nCont\u{ff}ent-Type: a/b\n--b\n\nx\n--b--\n",
        "MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=b\n\nCont?ent-Type: a/b\n--b\n\nx\n--b--\n",
    );
}

#[test]
fn text_becomes_quoted_printable_and_says_so() {
    check(
        "the field is replaced where it stood",
        "A: b\nContent-Transfer-Encoding: 8bit\nMIME-Version: 1.0\nContent-Type: text/plain\n\n\
         gr\u{c3}\u{bc}n\n",
        "A: b\nContent-Transfer-Encoding: quoted-printable\nMIME-Version: 1.0\n\
         Content-Type: text/plain\n\ngr=C3=BCn\n",
    );
    check(
        "the field is added, and a type for what has none",
        "A: b\n\ngr\u{c3}\u{bc}n",
        "A: b\nMIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\n\
         Content-Transfer-Encoding: quoted-printable\n\ngr=C3=BCn",
    );
    check(
        "no charset is claimed that is not there",
        "A: b\n\ngr\u{fc}n\n",
        "A: b\nMIME-Version: 1.0\nContent-Type: text/plain; charset=unknown-8bit\n\
         Content-Transfer-Encoding: quoted-printable\n\ngr=FCn\n",
    );
    check(
        "a folded field",
        "content-transfer-encoding:\n 8bit\nContent-Type: text/x\nmime-version: 1.0\n\n\u{fc}",
        "Content-Transfer-Encoding: quoted-printable\nContent-Type: text/x\nmime-version: 1.0\n\n=FC",
    );
    check(
        "no header",
        "\n\u{e4}\n",
        "MIME-Version: 1.0\nContent-Type: text/plain; charset=unknown-8bit\n\
         Content-Transfer-Encoding: quoted-printable\n\n=E4\n",
    );
}

#[test]
fn seven_bits_stay_as_they_are() {
    for message in ["A: b\n\ntext = text \n", "A: b\n", "", "A: \u{fc}\n\nx\n", "A: b\n\n"] {
        check("as is", message, message);
    }
    check(
        "but for a label that is not true",
        "Content-Transfer-Encoding: 8bit\n\nx\n",
        "Content-Transfer-Encoding: 7bit\n\nx\n",
    );
}

#[test]
fn each_part_is_encoded_for_itself() {
    check(
        "text, others, and what needs nothing",
        "Content-Type: multipart/mixed; boundary=\"=_1\"\nContent-Transfer-Encoding: 8bit\n\n\
         pre\u{e4}mble\n--=_1\nContent-Type: text/plain\n\n\u{e4}\n--=_1 \nContent-Type: image/x\n\n\
         \u{e4}\u{e5}\n\n--=_1\n\nseven\n--=_1--\nepilogue\n",
        "Content-Type: multipart/mixed; boundary=\"=_1\"\nContent-Transfer-Encoding: 7bit\nMIME-Version: 1.0\n\n\
         pre?mble\n--=_1\nContent-Type: text/plain\nContent-Transfer-Encoding: quoted-printable\n\n=E4\n\
         --=_1 \nContent-Type: image/x\nContent-Transfer-Encoding: base64\n\n5OUNCg==\n--=_1\n\nseven\n\
         --=_1--\nepilogue\n",
    );
    check(
        "the status of a notice is left alone, and what is around it keeps its label",
        "Content-Type: multipart/report; boundary=b\nContent-Transfer-Encoding: 8bit\n\n--b\n\
         Content-Type: message/delivery-status\n\nDiagnostic-Code: x; \u{e4}\n--b\n\
         Content-Type: text/plain\n\n\u{e4}\n--b--\n",
        "Content-Type: multipart/report; boundary=b\nContent-Transfer-Encoding: 8bit\nMIME-Version: 1.0\n\n--b\n\
         Content-Type: message/delivery-status\n\nDiagnostic-Code: x; \u{e4}\n--b\n\
         Content-Type: text/plain\nContent-Transfer-Encoding: quoted-printable\n\n=E4\n--b--\n",
    );
    check(
        "a message inside, with a header of its own",
        "Content-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: message/rfc822\n\
         Content-Transfer-Encoding: 8bit\n\nSubject: x\n\n\u{e4}\n--b--\n",
        "Content-Type: multipart/mixed; boundary=b\nMIME-Version: 1.0\n\n--b\nContent-Type: message/rfc822\n\
         Content-Transfer-Encoding: 7bit\n\nSubject: x\nMIME-Version: 1.0\n\
         Content-Type: text/plain; charset=unknown-8bit\n\
         Content-Transfer-Encoding: quoted-printable\n\n=E4\n--b--\n",
    );
    check(
        "the inner boundary begins like the outer one",
        "Content-Type: multipart/a; boundary=b\n\n--b\nContent-Type: multipart/a; boundary=bb\n\n\
         --bb\n\n--bbb\n--b\u{e4}\n--bb--\n--b--\n",
        "Content-Type: multipart/a; boundary=b\nMIME-Version: 1.0\n\n--b\nContent-Type: multipart/a; boundary=bb\n\n\
         --bb\nContent-Type: text/plain; charset=unknown-8bit\n\
         Content-Transfer-Encoding: quoted-printable\n\n=2D-bbb\n=2D-b=E4\n--bb--\n--b--\n",
    );
    check(
        "an outer boundary ends what is inside, and a header without an empty line",
        "Content-Type: multipart/a; boundary=b\n\n--b\nContent-Type: multipart/a; boundary=c\n\n\
         --c\nContent-Type: text/plain\n--b\n\n\u{e4}\n--b--\n",
        "Content-Type: multipart/a; boundary=b\nMIME-Version: 1.0\n\n--b\nContent-Type: multipart/a; boundary=c\n\n\
         --c\nContent-Type: text/plain\n--b\nContent-Type: text/plain; charset=unknown-8bit\n\
         Content-Transfer-Encoding: quoted-printable\n\n=E4\n--b--\n",
    );
    check(
        "parts of a digest are messages",
        "Content-Type: multipart/digest; boundary=b\n\n--b\n\nSubject: x\nContent-Type: text/x\n\n\
         \u{e4}\n--b--\n",
        "Content-Type: multipart/digest; boundary=b\nMIME-Version: 1.0\n\n--b\n\nSubject: x\nContent-Type: text/x\n\
         MIME-Version: 1.0\nContent-Transfer-Encoding: quoted-printable\n\n=E4\n--b--\n",
    );
    check(
        "what has raw octets in it keeps its label, and the octets",
        "MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=b\nContent-Transfer-Encoding: 8bit\n\n\
         --b\nContent-Transfer-Encoding: 8bit\n\nplain\n--b\nContent-Type: message/rfc822\n\
         Content-Transfer-Encoding: 8bit\n\nSubject: gr\u{fc}n\n\nx\n--b--\n",
        "MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=b\nContent-Transfer-Encoding: 8bit\n\n\
         --b\nContent-Transfer-Encoding: 7bit\n\nplain\n--b\nContent-Type: message/rfc822\n\
         Content-Transfer-Encoding: 8bit\n\nSubject: gr\u{fc}n\n\nx\n--b--\n",
    );
}

#[test]
fn a_line_that_is_no_field_ends_a_header_and_is_content() {
    let added = "MIME-Version: 1.0\nContent-Type: text/plain; charset=unknown-8bit\n\
                 Content-Transfer-Encoding: quoted-printable\n";
    check(
        "between fields",
        "A: b\nDear all: hello\nContent-Type: text/x\n\n\u{e4}\n",
        &format!("A: b\n{added}\nDear all: hello\nContent-Type: text/x\n\n=E4\n"),
    );
    check(
        "from the first line on",
        ">From a Mon\nA: b\n\n\u{e4}",
        &format!("{added}\n>From a Mon\nA: b\n\n=E4"),
    );
    check(" with a blank in front", " A: b\n\n\u{e4}", &format!("{added}\n A: b\n\n=E4"));
    check("its octets are text", "A: b\ngr\u{fc}n: x\n", &format!("A: b\n{added}\ngr=FCn: x\n"));
    check("as it is where nothing is to do", "A: b\nhello\n\nx\n", "A: b\nhello\n\nx\n");
    let part = added.trim_start_matches("MIME-Version: 1.0\n");
    check(
        "in a part, and in the header of a multipart, where it is before the parts",
        "Content-Type: multipart/a; boundary=b\n/dev/sda1\n\n--b\ntext \u{e4}\n--b\nB: c\n\n\u{e4}\n--b--\n",
        &format!(
            "Content-Type: multipart/a; boundary=b\nMIME-Version: 1.0\n/dev/sda1\n\n--b\n{part}\n\
             text =E4\n--b\nB: c\n{part}\n=E4\n--b--\n"
        ),
    );
    check(
        "in a message inside, that has no header at all",
        "MIME-Version: 1.0\nContent-Type: multipart/a; boundary=b\n\n--b\nContent-Type: message/rfc822\n\
         text \u{e4}\n--b--\n",
        &format!(
            "MIME-Version: 1.0\nContent-Type: multipart/a; boundary=b\n\n--b\n\
             Content-Type: message/rfc822\n\n{added}\ntext =E4\n--b--\n"
        ),
    );
}

#[test]
fn what_must_not_be_changed_is_refused() {
    let part = |kind: &str, part: &str| {
        format!("Content-Type: multipart/{kind}; boundary=b\n\n--b\n{part}\n--b--\n")
    };
    let cases = [
        (part("signed", "\n\u{e4}"), Err(ConversionRefused::Sealed)),
        (part("encrypted", "\n\u{e4}"), Err(ConversionRefused::Sealed)),
        (
            part("signed", "Content-Type: message/rfc822\n\nA: b\n\n\u{e4}"),
            Err(ConversionRefused::Sealed),
        ),
        (part("signed", "Content-Transfer-Encoding: 8bit\n\nseven"), Ok(())),
        (
            part("mixed", "Content-Type: text/a\nContent-Type: text/b\n\nx"),
            Err(ConversionRefused::Ambiguous),
        ),
    ];
    for (message, want) in cases {
        assert_eq!(converted(&message, SEVEN_BIT).map(|_| ()), want, "{message}");
    }
}

#[test]
fn what_readers_get_along_with_is_repaired() {
    check(
        "raw octets in quoted-printable",
        "MIME-Version: 1.0\nContent-Type: text/plain\nContent-Transfer-Encoding: quoted-printable\n\n\
         =C3=BC = \u{c3}\u{bc}\n",
        "MIME-Version: 1.0\nContent-Type: text/plain\nContent-Transfer-Encoding: quoted-printable\n\n\
         =C3=BC = =C3=BC\n",
    );
    check(
        "an encoding of a multipart",
        "MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=b\nContent-Transfer-Encoding: base64\n\n\
         --b\nContent-Type: text/plain\n\n\u{e4}\n--b--\n",
        "MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=b\nContent-Transfer-Encoding: 7bit\n\n\
         --b\nContent-Type: text/plain\nContent-Transfer-Encoding: quoted-printable\n\n=E4\n--b--\n",
    );
    check(
        "an encoding said twice",
        "MIME-Version: 1.0\nContent-Type: text/plain\nContent-Transfer-Encoding: 8bit\n\
         Content-Transfer-Encoding: 7bit\n\n\u{e4}\n",
        "MIME-Version: 1.0\nContent-Type: text/plain\nContent-Transfer-Encoding: quoted-printable\n\n=E4\n",
    );
    let long = format!(
        "MIME-Version: 1.0\nContent-Type: text/plain\nContent-Transfer-Encoding: quoted-printable\n\n{}\n",
        "\u{e4}".repeat(500)
    );
    let got = converted(&long, SEVEN_BIT).unwrap();
    assert!(
        got.lines().all(|line| line.len() <= 76)
            && got.replace("=\n", "").contains(&"=E4".repeat(500))
    );
}

#[test]
fn what_cannot_be_encoded_stays_as_it_is() {
    let parts = [
        "Content-Transfer-Encoding: base64\n\n\u{e4}",
        "Content-Transfer-Encoding: x-yenc\n\n\u{e4}",
        "Content-Type: multipart/mixed\n\n\u{e4}",
        "Content-Type: message/partial\n\n\u{e4}",
        "Content-Type: message/rfc822\nContent-Transfer-Encoding: base64\n\n\u{e4}",
    ];
    for part in parts {
        let message = format!(
            "MIME-Version: 1.0\nContent-Transfer-Encoding: 8bit\nContent-Type: multipart/mixed; boundary=b\n\n\
             --b\n{part}\n--b\nContent-Transfer-Encoding: base64\n\n5A==\n--b--\n"
        );
        check("as it is", &message, &message);
    }
}

#[test]
fn outside_of_what_is_signed_all_may_be_changed() {
    check(
        "next to it",
        "Content-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: multipart/signed; boundary=s\n\
         Content-Transfer-Encoding: 8bit\n\n--s\nContent-Transfer-Encoding: 8bit\n\nok\n--s--\n\
         --b\nContent-Type: text/x\n\n\u{e4}\n--b--\n",
        "Content-Type: multipart/mixed; boundary=b\nMIME-Version: 1.0\n\n--b\nContent-Type: multipart/signed; boundary=s\n\
         Content-Transfer-Encoding: 7bit\n\n--s\nContent-Transfer-Encoding: 8bit\n\nok\n--s--\n\
         --b\nContent-Type: text/x\nContent-Transfer-Encoding: quoted-printable\n\n=E4\n--b--\n",
    );
}

#[test]
fn depth_parts_and_fields_are_bounded() {
    let nested: String = (0..200).fold(String::new(), |text, level| {
        text + &format!("Content-Type: multipart/mixed; boundary=b{level}\n\n--b{level}\n")
    });
    assert_eq!(converted(&nested, SEVEN_BIT), Err(ConversionRefused::TooComplex));
    let messages = "Content-Type: message/rfc822\n\n".repeat(20_000);
    assert_eq!(
        plan(messages.replace('\n', "\r\n").as_bytes(), SEVEN_BIT, 9999).err(),
        Some(ConversionRefused::TooComplex)
    );
    let parts =
        "Content-Type: multipart/mixed; boundary=b\r\n\r\n".to_owned() + &"--b\r\n".repeat(20_000);
    assert_eq!(plan(parts.as_bytes(), SEVEN_BIT, 9999).err(), Some(ConversionRefused::TooComplex));
    let field = format!("Content-Type: text/plain; x=\"{}\"\r\n\r\n", "x".repeat(20_000));
    assert_eq!(plan(field.as_bytes(), SEVEN_BIT, 9999).err(), Some(ConversionRefused::TooComplex));
}

#[test]
fn long_lines_of_content_are_encoded_where_that_is_the_goal() {
    let long = "x".repeat(LINE_OCTETS_MAX + 1);
    let message =
        format!("Subject: {long}\nContent-Type: text/plain\nMIME-Version: 1.0\n\n{long}\n\u{e4}\n");
    let got = converted(&message, SHORT_LINES).unwrap();
    let (header, body) = got.split_once("\n\n").unwrap();
    assert!(header.contains(&long), "a word of a header cannot be cut");
    assert!(body.lines().all(|line| line.len() <= 76), "{body}");
    assert_eq!(body.replace("=\n", ""), format!("{long}\n=E4\n"));
    let fits = format!("A: b\n\n{}\n", "x".repeat(LINE_OCTETS_MAX));
    assert_eq!(converted(&fits, SHORT_LINES), Ok(fits.clone()));
    // A signature is worth more than a short line.
    let signed = format!("Content-Type: multipart/signed; boundary=b\n\n--b\n\n{long}\n--b--\n");
    assert_eq!(converted(&signed, SHORT_LINES), Ok(signed.clone()));
    assert_eq!(converted(&signed, SEVEN_BIT), Ok(signed.clone()));
}

#[test]
fn it_is_told_what_a_conversion_breaks_and_what_it_cannot_reach() {
    let message = b"DKIM-Signature: a\r\n b\r\nSubject: x\r\n\r\n\xe4\r\n";
    let plan_of = |message: &[u8]| plan(message, SEVEN_BIT, 5).unwrap();
    assert!(plan_of(message).breaks_dkim() && !plan_of(message).has_8bit_header());
    let inner =
        b"Content-Type: message/rfc822\r\n\r\nDKIM-Signature: a\r\nSubject: \xe4\r\n\r\nx\r\n";
    assert!(!plan_of(inner).breaks_dkim() && plan_of(inner).has_8bit_header());
}

#[test]
fn long_header_fields_are_folded_but_for_those_that_are_signed_as_they_are() {
    let words = "word ".repeat(300).trim_end().to_owned();
    let folds = |message: &str| {
        let got = converted(message, SHORT_LINES).unwrap();
        let is_same = got.replace('\n', "") == message.replace('\n', "");
        assert!(is_same || got.contains("=\n"), "folding changes nothing else: {got}");
        (got != message, got.lines().all(|line| line.len() <= LINE_OCTETS_MAX))
    };
    let relaxed = "DKIM-Signature: c=relaxed/simple; h=to:cc; b=x\n";
    let simple = "DKIM-Signature: c=simple/relaxed; h=to:cc; b=x\n";
    let inside = |kind: &str, field: &str| {
        format!("Content-Type: {kind}; boundary=b\n\n--b\n{field}\n\nx\n--b--\n")
    };
    let cases = [
        (format!("To: {words}\nA: b\n\nx\n"), (true, true)),
        (format!("{relaxed}To: {words}\n\nx\n"), (true, true)),
        (format!("{simple}To: {words}\n\nx\n"), (false, false)),
        (format!("to : {words}\n{simple}\nx\n"), (false, false)),
        (format!("{simple}To: a\nReferences: {words}\nCC: {words}\n\nx\n"), (true, false)),
        (format!("DKIM-Signature: h=from; x={words}\n\nx\n"), (false, false)),
        (format!("DKIM-Signature: h=from; c=relaxed; x={words}\n\nx\n"), (true, true)),
        (format!("Content-Type: text/plain; x=\"{words}\"\n\nx\n"), (true, true)),
        (inside("multipart/mixed", &format!("A: {words}")), (true, true)),
        (inside("multipart/signed", &format!("A: {words}")), (false, false)),
        (format!("A: {words}\nno field {words}\n\nx\n"), (true, true)),
    ];
    for (message, want) in cases {
        assert_eq!(folds(&message), want, "{message}");
        assert_eq!(converted(&message, SEVEN_BIT).as_ref(), Ok(&message), "another goal");
    }
    let message = format!("{relaxed}To: {words}\r\n\r\nx\r\n").replace("x\n", "x\r\n");
    assert!(!plan(message.as_bytes(), SHORT_LINES, 9).unwrap().breaks_dkim());
}

/// A message or part, before it is written.
#[derive(Clone, Debug)]
enum Node {
    Leaf { header: String, lines: Vec<Vec<u8>> },
    Multipart { header: String, parts: Vec<Self>, around: Vec<u8> },
    Message(Box<Self>),
}

impl Node {
    fn write(&self, next: &mut usize, out: &mut Vec<u8>) {
        match self {
            Self::Leaf { header, lines } => {
                out.extend_from_slice(header.as_bytes());
                out.extend_from_slice(b"\r\n");
                out.extend_from_slice(&lines.join(&b"\r\n"[..]));
            }
            Self::Multipart { header, parts, around } => {
                *next += 1;
                let boundary = format!("=_{next}");
                out.extend_from_slice(header.as_bytes());
                out.extend_from_slice(
                    format!("Content-Type: multipart/mixed;\r\n boundary=\"{boundary}\"\r\n\r\n")
                        .as_bytes(),
                );
                out.extend_from_slice(around);
                for part in parts {
                    out.extend_from_slice(format!("\r\n--{boundary}\r\n").as_bytes());
                    part.write(next, out);
                }
                out.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
                out.extend_from_slice(around);
            }
            Self::Message(inner) => {
                out.extend_from_slice(b"Content-Type: message/rfc822\r\n\r\nSubject: inner\r\n");
                inner.write(next, out);
            }
        }
    }
}

/// The reader that we compare with gives up at a message that is nothing but a message.
fn message(node: Node) -> Node {
    match node {
        Node::Message(_) => node,
        Node::Leaf { .. } | Node::Multipart { .. } => Node::Message(Box::new(node)),
    }
}

fn node() -> impl Strategy<Value = Node> {
    let kind = prop::sample::select(vec![
        "",
        "Content-Type: text/plain; charset=utf-8\r\n",
        "Content-Type: text/plain; charset=iso-8859-1\r\n",
        "Content-Type: text/html; charset=utf-8\r\nContent-Disposition: inline\r\n",
        "Content-Type: application/octet-stream\r\n",
        "Content-Type: image/png; name=x\r\n",
    ]);
    let label = || {
        prop::sample::select(vec![
            "",
            "Content-Transfer-Encoding: 8bit\r\n",
            "Content-Transfer-Encoding: 7bit\r\n",
            "content-transfer-encoding: BINARY (as it is)\r\n",
        ])
    };
    let octet = prop_oneof![
        4 => 0x20u8..0x7f,
        1 => Just(b'='),
        1 => Just(b'-'),
        1 => prop::sample::select(b" \t.".to_vec()),
        2 => 0x80u8..=0xff,
    ];
    let text = prop_oneof![
        3 => prop::collection::vec(octet, 0..120),
        1 => "[a-zA-Z\u{e4}\u{20ac} ]{0,90}".prop_map(String::into_bytes),
        1 => Just(b"--=_ not a boundary".to_vec()),
        1 => prop::collection::vec(Just(b'y'), 990..1010),
    ];
    let leaf = (kind, label(), prop::collection::vec(text, 0..6))
        .prop_map(|(kind, label, lines)| Node::Leaf { header: format!("{kind}{label}"), lines });
    leaf.prop_recursive(4, 24, 4, move |inner| {
        let around = prop::sample::select(vec![&b""[..], b"for old readers\r\n", b"\xe4h\r\n"]);
        let multipart = (label(), prop::collection::vec(inner.clone(), 1..4), around).prop_map(
            |(label, parts, around)| Node::Multipart {
                header: label.to_owned(),
                parts,
                around: around.to_vec(),
            },
        );
        prop_oneof![3 => multipart, 1 => inner.prop_map(message)]
    })
}

/// What a reader sees: the content of each part that has no parts.
fn contents(message: &Message<'_>, out: &mut Vec<Vec<u8>>) {
    for part in &message.parts {
        match &part.body {
            PartType::Text(text) | PartType::Html(text) => out.push(text.as_bytes().to_vec()),
            PartType::Binary(octets) | PartType::InlineBinary(octets) => out.push(octets.to_vec()),
            PartType::Message(inner) => contents(inner, out),
            PartType::Multipart(_) => {}
        }
    }
}

fn read(message: &[u8]) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    contents(&MessageParser::default().parse(message).unwrap(), &mut out);
    out
}

proptest! {
    #[test]
    fn what_is_read_from_it_stays_the_same(node in node(), cut in 1usize..70, short_lines: bool) {
        let mut message = b"From: a@example.org\r\nMIME-Version: 1.0\r\n".to_vec();
        node.write(&mut 0, &mut message);
        let goal = Goal { short_lines, ..SEVEN_BIT };
        let got = convert(&message, goal, usize::MAX).unwrap();
        prop_assert_eq!(&convert(&message, goal, cut).unwrap(), &got, "cuts do not show");
        prop_assert!(got.is_ascii());
        let lines = || got.split(|&octet| octet == b'\n');
        if short_lines {
            prop_assert!(lines().all(|line| line.len() <= LINE_OCTETS_MAX + 1));
        }
        prop_assert!(!got.windows(2).any(|pair| pair[1] == b'\n' && pair[0] != b'\r'));
        prop_assert_eq!(read(&got), read(&message));
        prop_assert_eq!(convert(&got, goal, cut), Ok(got.clone()), "once is enough");
    }

    #[test]
    fn no_octets_make_it_panic_and_cuts_do_not_show(
        pieces in prop::collection::vec(prop_oneof![
            3 => prop::sample::select(vec![
                "\r\n", "--b", "--b--", " ", "Content-Type: multipart/mixed; boundary=b\r\n",
                "Content-Transfer-Encoding: 8bit\r\n", "Content-Type: message/rfc822\r\n", "\r", "\n",
                "Content-Type: text/plain\r\n", "--", "\r\n\r\n",
            ]).prop_map(|text| text.as_bytes().to_vec()),
            1 => prop::collection::vec(any::<u8>(), 0..8),
        ], 0..40),
        cut in 1usize..9,
    ) {
        let message = pieces.concat();
        for goal in [SEVEN_BIT, SHORT_LINES] {
            let whole = convert(&message, goal, usize::MAX);
            prop_assert_eq!(&convert(&message, goal, cut), &whole);
            if let (Ok(converted), true) = (whole, goal == SEVEN_BIT) {
                // Only header fields, which have no encoding, may keep such octets.
                let plan = plan(&message, goal, cut).unwrap();
                prop_assert!(plan.has_8bit_header() || plan.leaves_8bit() || converted.is_ascii());
            }
        }
    }
}
