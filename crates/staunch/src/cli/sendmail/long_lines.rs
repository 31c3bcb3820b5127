//! Lines that are longer than the daemon takes: a data: image in HTML, JSON in one line, a list of
//! a thousand addresses.
//!
//! This program composes mail rather than relaying it, so it writes such content in another way and
//! loses nothing: a part is encoded (RFC 2045 §6); a field is folded (RFC 5322 §2.2.3). What may
//! not be encoded, or is encoded already, is broken into lines.

use memchr::memmem;
use smtp::limits::CONTENT_LINE_ACCEPTED_OCTETS;
use smtp::mime::{Conversion, ConversionRefused, Goal, LINE_OCTETS_MAX, Survey};

/// The message with lines that the daemon takes; nothing changes if it has no others.
pub(super) fn shortened(message: Vec<u8>) -> Vec<u8> {
    if lines(&message).all(is_taken) {
        return message;
    }
    let header = memmem::find(&message, b"\r\n\r\n").map_or(message.len(), |at| at + 2);
    let (header, body) = message.split_at_checked(header).unwrap_or((&message, &[]));
    let mut folded = Vec::with_capacity(message.len() + message.len() / 64);
    for line in lines(header) {
        if is_taken(line) { folded.extend_from_slice(line) } else { fold(line, &mut folded) }
    }
    folded.extend_from_slice(body);
    if lines(body).all(is_taken) {
        return folded;
    }
    // What cannot be understood well enough to be encoded is broken, too.
    let encoded = encoded(&folded).unwrap_or(folded);
    let mut whole = Vec::with_capacity(encoded.len() + encoded.len() / 64);
    for line in lines(&encoded) {
        if is_taken(line) { whole.extend_from_slice(line) } else { break_up(line, &mut whole) }
    }
    whole
}

/// Each with its end.
fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let end = memmem::find(rest, b"\r\n").map_or(rest.len(), |at| at + 2);
        let (line, behind) = rest.split_at_checked(end)?;
        rest = behind;
        (!line.is_empty()).then_some(line)
    })
}

fn is_taken(line: &[u8]) -> bool {
    line.len() <= CONTENT_LINE_ACCEPTED_OCTETS
}

/// All parts with long lines encoded, as far as they may be.
///
/// # Errors
///
/// [`ConversionRefused`] if the message has no form that could be followed.
fn encoded(message: &[u8]) -> Result<Vec<u8>, ConversionRefused> {
    let mut survey = Survey::new(Goal { short_lines: true, ..Goal::default() });
    survey.push(message)?;
    let plan = survey.finish()?;
    let mut conversion = Conversion::new(&plan);
    let mut out = Vec::with_capacity(message.len() + message.len() / 8);
    conversion.push(message, &mut out)?;
    conversion.finish(&mut out)?;
    Ok(out)
}

/// In front of blanks, where that changes nothing; else behind commas, and else anywhere.
fn fold(line: &[u8], out: &mut Vec<u8>) {
    let mut rest = line;
    while let Some(window) = rest.get(..LINE_OCTETS_MAX) {
        let text = window.iter().position(|byte| !b" \t".contains(byte)).unwrap_or(window.len());
        let last = |wanted: &[u8]| {
            window.iter().rposition(|byte| wanted.contains(byte)).filter(|at| *at > text)
        };
        let (at, end) = match (last(b" \t"), last(b",")) {
            (Some(blank), _) => (blank, &b"\r\n"[..]),
            (None, Some(comma)) => (comma + 1, &b"\r\n "[..]),
            (None, None) => (letter_start(window), &b"\r\n "[..]),
        };
        let (front, behind) = rest.split_at_checked(at).unwrap_or((rest, &[]));
        out.extend_from_slice(front);
        out.extend_from_slice(end);
        rest = behind;
    }
    out.extend_from_slice(rest);
}

/// Not inside of a letter (RFC 3629 §3), nor of what is written `=3D` (RFC 2045 §6.7).
fn break_up(line: &[u8], out: &mut Vec<u8>) {
    let mut rest = line;
    while let Some(window) = rest.get(..LINE_OCTETS_MAX) {
        let end = letter_start(window);
        let escape = window.iter().rposition(|byte| *byte == b'=').filter(|at| at + 3 > end);
        let (front, behind) = rest.split_at_checked(escape.unwrap_or(end)).unwrap_or((rest, &[]));
        out.extend_from_slice(front);
        out.extend_from_slice(b"\r\n");
        rest = behind;
    }
    out.extend_from_slice(rest);
}

/// Where the last letter of `window` begins, which may go on behind it.
fn letter_start(window: &[u8]) -> usize {
    let is_start = |byte: &u8| byte & 0xc0 != 0x80;
    let begins = window.iter().rposition(is_start).filter(|at| at + 4 > window.len());
    begins.unwrap_or(window.len())
}

#[cfg(test)]
mod tests {
    use mail_parser::{MessageParser, MimeHeaders as _};

    use super::*;

    const HTML: &str =
        "Subject: s\r\nMIME-Version: 1.0\r\nContent-Type: text/html; charset=utf-8\r\n";

    fn check_lines(message: &[u8]) {
        let longest = lines(message).map(<[u8]>::len).max().unwrap();
        assert!(longest <= LINE_OCTETS_MAX + 2, "{longest}");
    }

    #[test]
    fn what_the_daemon_takes_stays_as_it_is() {
        for octets in [10, 1_000, CONTENT_LINE_ACCEPTED_OCTETS - 2] {
            let message = format!("Subject: s\r\n\r\n{}\r\n", "x".repeat(octets)).into_bytes();
            assert_eq!(shortened(message.clone()), message, "{octets}");
        }
    }

    #[test]
    fn a_body_with_a_longer_line_is_encoded_and_read_as_it_was() {
        let body = format!("<img src='data:,{}'>\r\nü=\r\n", "Aü".repeat(40_000));
        for header in [HTML, "Subject: s\r\n"] {
            let short = shortened(format!("{header}\r\n{body}").into_bytes());
            check_lines(&short);
            let read = MessageParser::default().parse(&short).unwrap();
            assert_eq!(read.parts[0].contents(), body.as_bytes(), "{header}");
        }
        // Of a multipart only the part that needs it.
        let mixed = format!(
            "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\nplain\r\n--b\r\n\
             Content-Type: application/json\r\n\r\n{}\r\n--b--\r\n",
            "x".repeat(90_000)
        );
        let short = shortened(mixed.into_bytes());
        check_lines(&short);
        let read = MessageParser::default().parse(&short).unwrap();
        let json = read.attachment(0).unwrap();
        assert_eq!(json.contents(), "x".repeat(90_000).as_bytes());
        assert_eq!(json.content_transfer_encoding(), Some("base64"));
        assert_eq!(read.body_text(0).as_deref(), Some("plain"));
    }

    #[test]
    fn what_is_encoded_already_is_broken_where_that_changes_nothing() {
        let base64 = "QUJD".repeat(30_000);
        let message = format!("{HTML}Content-Transfer-Encoding: base64\r\n\r\n{base64}\r\n");
        let short = shortened(message.into_bytes());
        check_lines(&short);
        let read = MessageParser::default().parse(&short).unwrap();
        assert_eq!(read.parts[0].contents(), "ABC".repeat(30_000).as_bytes());
        let quoted = "=C3=BC".repeat(20_000);
        let message =
            format!("{HTML}Content-Transfer-Encoding: quoted-printable\r\n\r\n{quoted}\r\n");
        let short = shortened(message.into_bytes());
        check_lines(&short);
        let read = MessageParser::default().parse(&short).unwrap();
        let text = String::from_utf8(read.parts[0].contents().to_vec()).unwrap();
        assert_eq!(text.replace("\r\n", "").replace('\n', ""), "ü".repeat(20_000));
    }

    #[test]
    fn what_is_signed_is_broken_rather_than_lost() {
        let text = "ü".repeat(50_000);
        let message = format!(
            "Content-Type: multipart/signed; boundary=b\r\n\r\n--b\r\n\r\n{text}\r\n--b--\r\n"
        );
        let short = shortened(message.into_bytes());
        check_lines(&short);
        let short = String::from_utf8(short).unwrap();
        assert_eq!(short.replace("\r\n", "").matches('ü').count(), 50_000);
    }

    #[test]
    fn a_longer_field_is_folded_and_reads_as_it_did() {
        let unfolded = |message: &[u8]| String::from_utf8_lossy(message).replace("\r\n ", " ");
        for unit in ["a@x.example, ", "word "] {
            let field = format!("To: {}", unit.repeat(20_000));
            let short = shortened(format!("{field}z\r\nSubject: s\r\n\r\nb\r\n").into_bytes());
            check_lines(&short);
            assert_eq!(unfolded(&short), format!("{field}z\r\nSubject: s\r\n\r\nb\r\n"));
        }
        // No address is cut in two.
        let list = "a@x.example,".repeat(20_000);
        let short = shortened(format!("To: {list}b\r\n\r\n").into_bytes());
        check_lines(&short);
        assert_eq!(unfolded(&short).replace(", ", ","), format!("To: {list}b\r\n\r\n"));
        let short = shortened(format!("X: {}\r\n\r\n", "ü".repeat(50_000)).into_bytes());
        check_lines(&short);
        assert_eq!(String::from_utf8(short).unwrap().matches('ü').count(), 50_000);
    }
}
