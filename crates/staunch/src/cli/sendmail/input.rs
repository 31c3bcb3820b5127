//! The message as it comes from stdin: lines of any kind become lines of SMTP.

use std::io::{self, BufRead};

use super::options::LoneDot;

/// Why there is no message.
#[derive(Debug, thiserror::Error)]
pub(super) enum InputError {
    /// stdin cannot be read to its end.
    #[error("stdin: {0}")]
    Io(#[from] io::Error),
    /// It has more octets than `limits.message_size`, which is given here.
    #[error("the message is larger than limits.message_size, {0} bytes")]
    TooLarge(u64),
}

/// Reads to the end, or to a lone dot where that is one.
///
/// LF ends a line, with all CRs before it: programs that convert twice write CR CR LF. SMTP has no
/// place for a CR elsewhere (RFC 5321 §2.3.8). In the body, where progress bars have it in the mail
/// of cron, it becomes a line end. Before the first empty line it becomes a blank: a line end there
/// would make a field, such as Bcc, of whatever a program has put into another one, or end the
/// header section. A NUL, which SMTP has no place for either (RFC 5322 §4 calls it obsolete),
/// becomes `^@`, as cat -v shows it.
///
/// # Errors
///
/// [`InputError`].
pub(super) fn read(
    mut input: impl BufRead,
    lone_dot: LoneDot,
    size_max: u64,
) -> Result<Vec<u8>, InputError> {
    let size_max_here = usize::try_from(size_max).unwrap_or(usize::MAX);
    let mut message = Vec::new();
    let mut line = Vec::new();
    let mut is_body = false;
    loop {
        line.clear();
        // No line is longer than a whole message may be.
        let left = size_max.saturating_add(1);
        if io::Read::take(&mut input, left).read_until(b'\n', &mut line)? == 0 {
            return Ok(message);
        }
        if line.len() > size_max_here {
            return Err(InputError::TooLarge(size_max));
        }
        let mut text = line.strip_suffix(b"\n").unwrap_or(&line);
        while let Some(shorter) = text.strip_suffix(b"\r") {
            text = shorter;
        }
        if text == b"." && lone_dot == LoneDot::Ends {
            return Ok(message);
        }
        is_body |= text.is_empty();
        if is_body {
            for part in text.split(|byte| *byte == b'\r') {
                push(part, &mut message);
                message.extend_from_slice(b"\r\n");
            }
        } else {
            let without_cr = text.iter().map(|byte| if *byte == b'\r' { b' ' } else { *byte });
            push(&without_cr.collect::<Vec<_>>(), &mut message);
            message.extend_from_slice(b"\r\n");
        }
        if message.len() > size_max_here {
            return Err(InputError::TooLarge(size_max));
        }
    }
}

/// Appends `text` with each NUL as `^@`: SMTP carries none (RFC 5321 §2.3.8).
fn push(text: &[u8], message: &mut Vec<u8>) {
    let mut parts = text.split(|byte| *byte == 0);
    message.extend_from_slice(parts.next().unwrap_or_default());
    for part in parts {
        message.extend_from_slice(b"^@");
        message.extend_from_slice(part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_ends_with_crlf_and_a_lone_dot_may_be_the_end() {
        let cases: &[(&[u8], LoneDot, &[u8])] = &[
            (b"", LoneDot::Ends, b""),
            (b"a\nb", LoneDot::Ends, b"a\r\nb\r\n"),
            (b"a\r\n\r\nb\r\n", LoneDot::Ends, b"a\r\n\r\nb\r\n"),
            (b"a\n.\nb\n", LoneDot::Ends, b"a\r\n"),
            (b"a\r\n.\r\nb\n", LoneDot::Ends, b"a\r\n"),
            (b"a\n.", LoneDot::Ends, b"a\r\n"),
            (b"a\n.\n..\n", LoneDot::Stays, b"a\r\n.\r\n..\r\n"),
            // The dot is no line of its own in what was written.
            (b"\n10%\r.\r20%\n", LoneDot::Ends, b"\r\n10%\r\n.\r\n20%\r\n"),
            (b"a\r\r\n\r\r\nb\r\r\n", LoneDot::Ends, b"a\r\n\r\nb\r\n"),
            (b"a: \0\0\n\n\0b\0\r\0\n", LoneDot::Ends, b"a: ^@^@\r\n\r\n^@b^@\r\n^@\r\n"),
        ];
        for (input, lone_dot, want) in cases {
            assert_eq!(read(*input, *lone_dot, 1000).unwrap(), *want, "{input:?}");
        }
    }

    #[test]
    fn a_stray_cr_makes_no_header_field_and_ends_no_header() {
        let cases: &[(&[u8], &[u8])] = &[
            (b"To: a\r\r\nBcc: s\r\n\r\nb\r\n", b"To: a\r\nBcc: s\r\n\r\nb\r\n"),
            (b"Subject: hi\rBcc: victim@y\n\nb\n", b"Subject: hi Bcc: victim@y\r\n\r\nb\r\n"),
            (b"Subject: hi\r\rx\n\nb\rc\n", b"Subject: hi  x\r\n\r\nb\r\nc\r\n"),
            (b"Subject: hi\n\rBcc: s\n\nb\n", b"Subject: hi\r\n Bcc: s\r\n\r\nb\r\n"),
            (b"Subject: hi\r", b"Subject: hi\r\n"),
        ];
        for (input, want) in cases {
            let found = read(*input, LoneDot::Ends, 1000).unwrap();
            assert_eq!(found, *want, "{}", input.escape_ascii());
        }
    }

    #[test]
    fn a_message_that_would_be_refused_is_not_read_to_its_end() {
        assert!(read(&b"12345678\n"[..], LoneDot::Ends, 10).is_ok());
        for input in [&b"1234\n5678\n"[..], b"12345678901234567890"] {
            let error = read(input, LoneDot::Ends, 10).unwrap_err();
            assert!(matches!(error, InputError::TooLarge(10)), "{error}");
        }
        for octet in [b'x', b'\r'] {
            let endless = io::BufReader::new(io::repeat(octet));
            assert!(read(endless, LoneDot::Ends, 1 << 20).is_err());
        }
    }
}
