//! The message as it comes from stdin: lines of any kind become lines of SMTP.

use std::io::{self, BufRead};

use super::options::LoneDot;

/// Why there is no message.
#[derive(Debug, thiserror::Error)]
pub(super) enum InputError {
    /// Of reading.
    #[error("stdin: {0}")]
    Io(#[from] io::Error),
    /// `limits.message_size`.
    #[error("the message is larger than limits.message_size, {0} bytes")]
    TooLarge(u64),
}

/// Reads to the end, or to a lone dot where that is one.
///
/// LF and CRLF end a line. A CR elsewhere, as progress bars have it in the mail of cron, becomes a line
/// end, too: SMTP has no place for it (RFC 5321 §2.3.8).
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
    loop {
        line.clear();
        // No line is longer than a whole message may be.
        let left = size_max.saturating_add(1);
        if io::Read::take(&mut input, left).read_until(b'\n', &mut line)? == 0 {
            return Ok(message);
        }
        let text = line.strip_suffix(b"\n").unwrap_or(&line);
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        if text == b"." && lone_dot == LoneDot::Ends {
            return Ok(message);
        }
        for part in text.split(|byte| *byte == b'\r') {
            message.extend_from_slice(part);
            message.extend_from_slice(b"\r\n");
        }
        if message.len() > size_max_here {
            return Err(InputError::TooLarge(size_max));
        }
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
            (b"10%\r.\r20%\n", LoneDot::Ends, b"10%\r\n.\r\n20%\r\n"),
            (b"a\r\r\n", LoneDot::Ends, b"a\r\n\r\n"),
        ];
        for (input, lone_dot, want) in cases {
            assert_eq!(read(*input, *lone_dot, 1000).unwrap(), *want, "{input:?}");
        }
    }

    #[test]
    fn a_message_that_would_be_refused_is_not_read_to_its_end() {
        assert!(read(&b"12345678\n"[..], LoneDot::Ends, 10).is_ok());
        for input in [&b"1234\n5678\n"[..], b"12345678901234567890"] {
            let error = read(input, LoneDot::Ends, 10).unwrap_err();
            assert!(matches!(error, InputError::TooLarge(10)), "{error}");
        }
        let endless = io::BufReader::new(io::repeat(b'x'));
        assert!(read(endless, LoneDot::Ends, 1 << 20).is_err());
    }
}
