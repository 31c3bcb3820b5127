//! What do the MIME fields of an entity say about its form? (RFC 2045 §5, §6)

/// Octets of a boundary that is understood. RFC 2046 §5.1.1 allows 70; longer ones are met.
const BOUNDARY_OCTETS_MAX: usize = 250;

/// What an entity is made of.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum ContentKind {
    /// Text, or something that reads like text.
    Text,
    /// Anything else that has no parts.
    Other,
    /// Parts between the lines of a boundary (RFC 2046 §5.1).
    Multipart {
        /// The parameter `boundary`, unquoted, without the `--` in front.
        boundary: Box<[u8]>,
        /// What parts without a type are.
        parts: Untyped,
        /// Must not a single octet of the parts be changed (RFC 1847)?
        is_sealed: bool,
    },
    /// A whole message (`message/rfc822`), with a header of its own.
    Message,
    /// What a program reads of a DSN: fields in the clear, which nobody decodes (RFC 3464 §2.1).
    /// It is left alone.
    Status,
    /// What may not be encoded, and whose parts cannot be found (RFC 2046 §5.1.1, §5.2.2).
    Opaque,
}

/// What an entity without Content-Type is.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum Untyped {
    /// RFC 2045 §5.2: plain text.
    #[default]
    Text,
    /// RFC 2046 §5.1.5: in a digest, a message.
    Message,
}

/// What Content-Transfer-Encoding says (RFC 2045 §6).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum Label {
    /// `7bit`, nothing, or a word that nobody knows: the content stands for itself.
    #[default]
    Plain,
    /// `8bit` or `binary`: so it does, and may have octets above 127.
    EightBit,
    /// It is encoded as quoted-printable: raw octets in it pass through a reader's decoder.
    Quoted,
    /// It is encoded in another way.
    Encoded,
}

/// Reads the value of Content-Transfer-Encoding.
pub(super) fn label(value: &[u8]) -> Label {
    let mut scanner = Scanner { rest: value };
    let word = scanner.token().to_ascii_lowercase();
    match word.as_slice() {
        b"8bit" | b"binary" => Label::EightBit,
        b"quoted-printable" => Label::Quoted,
        b"base64" => Label::Encoded,
        word if word.starts_with(b"x-") => Label::Encoded,
        _ => Label::Plain,
    }
}

/// Reads the value of Content-Type.
pub(super) fn kind(value: &[u8]) -> ContentKind {
    let mut scanner = Scanner { rest: value };
    let main = scanner.token().to_ascii_lowercase();
    let has_slash = scanner.skip(b'/');
    let sub = scanner.token().to_ascii_lowercase();
    match (main.as_slice(), sub.as_slice()) {
        (b"multipart", sub) => multipart(sub, &mut scanner),
        (b"message", b"rfc822") => ContentKind::Message,
        (b"message", b"partial" | b"external-body") => ContentKind::Opaque,
        (b"message", b"delivery-status") => ContentKind::Status,
        // RFC 6532 §3.7: unlike message/rfc822 it may be encoded; and its header cannot be 7-bit.
        (b"message", b"global") => ContentKind::Other,
        (b"text" | b"message", _) => ContentKind::Text,
        // RFC 2045 §5.2: what is not a type is plain text.
        (_, sub) if !has_slash || sub.is_empty() => ContentKind::Text,
        _ => ContentKind::Other,
    }
}

fn multipart(sub: &[u8], scanner: &mut Scanner<'_>) -> ContentKind {
    let parts = if sub == b"digest" { Untyped::Message } else { Untyped::Text };
    let is_sealed = matches!(sub, b"signed" | b"encrypted");
    let mut found = None;
    while scanner.next_parameter() {
        let name = scanner.token().to_ascii_lowercase();
        if !scanner.skip(b'=') {
            continue;
        }
        let value = scanner.value();
        if name == b"boundary" {
            found.get_or_insert(value);
        }
    }
    match found {
        Some(boundary) if (1..=BOUNDARY_OCTETS_MAX).contains(&boundary.len()) => {
            ContentKind::Multipart { boundary: boundary.into(), parts, is_sealed }
        }
        Some(_) | None => ContentKind::Opaque,
    }
}

/// Reads a structured field from its front.
struct Scanner<'a> {
    rest: &'a [u8],
}

impl<'a> Scanner<'a> {
    /// Skips white space and comments (RFC 5322 §3.2.2).
    fn skip_space(&mut self) {
        let mut depth = 0_usize;
        while let Some((&first, tail)) = self.rest.split_first() {
            match (first, depth) {
                (b' ' | b'\t' | b'\r' | b'\n', _) => {}
                (b'(', _) => depth += 1,
                (b')', 1..) => depth -= 1,
                (b'\\', 1..) => {
                    self.rest = tail.get(1..).unwrap_or_default();
                    continue;
                }
                (_, 0) => return,
                (_, _) => {}
            }
            self.rest = tail;
        }
    }

    /// The next token (RFC 2045 §5.1), perhaps empty.
    fn token(&mut self) -> &'a [u8] {
        self.skip_space();
        let is_token = |byte: &u8| byte.is_ascii_graphic() && !b"()<>@,;:\\\"/[]?=".contains(byte);
        let end = self.rest.iter().position(|byte| !is_token(byte)).unwrap_or(self.rest.len());
        let (token, rest) = self.rest.split_at_checked(end).unwrap_or((self.rest, b""));
        self.rest = rest;
        token
    }

    fn skip(&mut self, wanted: u8) -> bool {
        self.skip_space();
        match self.rest.split_first() {
            Some((&first, tail)) if first == wanted => {
                self.rest = tail;
                true
            }
            Some(_) | None => false,
        }
    }

    /// A token or quoted string. A token may have characters here that ought to be quoted:
    /// boundaries with `=` or `/` are met, and end at white space or a semicolon.
    fn value(&mut self) -> Vec<u8> {
        if self.skip(b'"') {
            return self.quoted();
        }
        let is_end = |byte: &u8| byte.is_ascii_whitespace() || *byte == b';';
        let end = self.rest.iter().position(is_end).unwrap_or(self.rest.len());
        let (value, rest) = self.rest.split_at_checked(end).unwrap_or((self.rest, b""));
        self.rest = rest;
        value.to_vec()
    }

    fn quoted(&mut self) -> Vec<u8> {
        let mut value = Vec::new();
        while let Some((&first, tail)) = self.rest.split_first() {
            self.rest = tail;
            match first {
                b'"' => break,
                b'\\' => {
                    value.extend(tail.first());
                    self.rest = tail.get(1..).unwrap_or_default();
                }
                // Folds are no part of it.
                b'\r' | b'\n' => {}
                other => value.push(other),
            }
        }
        value
    }

    /// Moves behind the next semicolon outside of quotes and comments.
    fn next_parameter(&mut self) -> bool {
        loop {
            if self.skip(b';') {
                return true;
            }
            if self.skip(b'"') {
                self.quoted();
                continue;
            }
            let Some((_, tail)) = self.rest.split_first() else { return false };
            self.rest = tail;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_and_boundaries_are_read_as_they_are_written() {
        let shown = |value: &str| match kind(value.as_bytes()) {
            ContentKind::Multipart { boundary, parts, is_sealed } => {
                let parts = if parts == Untyped::Message { " digest" } else { "" };
                let sealed = if is_sealed { " sealed" } else { "" };
                format!("{}{parts}{sealed}", String::from_utf8_lossy(&boundary))
            }
            plain @ (ContentKind::Text
            | ContentKind::Other
            | ContentKind::Message
            | ContentKind::Status
            | ContentKind::Opaque) => {
                format!("{plain:?}")
            }
        };
        let cases = [
            (" text/plain; charset=utf-8", "Text"),
            ("Text/HTML", "Text"),
            ("plain", "Text"),
            ("text", "Text"),
            ("", "Text"),
            ("application/pdf; name=\"a;b\"", "Other"),
            ("image/png", "Other"),
            ("message/rfc822", "Message"),
            ("MESSAGE/RFC822 (a copy)", "Message"),
            ("message/partial; id=1", "Opaque"),
            ("message/delivery-status", "Status"),
            ("message/global-delivery-status", "Text"),
            ("message/global", "Other"),
            ("multipart/mixed; boundary=abc", "abc"),
            ("multipart/mixed;\r\n\tboundary=\"a b\\\"c\"", "a b\"c"),
            ("Multipart/Mixed; Boundary=a=b/c; x=y", "a=b/c"),
            ("multipart/mixed (a (nested\\) one)); x=\"; boundary=no\" ; boundary = yes", "yes"),
            ("multipart/mixed; boundary=one; boundary=two", "one"),
            ("multipart/digest; boundary=d", "d digest"),
            ("multipart/signed; protocol=\"a/b\"; boundary=s", "s sealed"),
            ("multipart/encrypted; boundary=s", "s sealed"),
            ("multipart/mixed", "Opaque"),
            ("multipart/mixed; boundary=\"\"", "Opaque"),
            ("multipart/mixed; boundary*0=a; boundary*1=b", "Opaque"),
            ("multipart; boundary=abc", "abc"),
        ];
        for (value, want) in cases {
            assert_eq!(shown(value), want, "{value}");
        }
        let long = format!("multipart/mixed; boundary={}", "x".repeat(BOUNDARY_OCTETS_MAX + 1));
        assert_eq!(kind(long.as_bytes()), ContentKind::Opaque);
    }

    #[test]
    fn encodings_are_known_by_their_words() {
        let cases = [
            (" 8bit\r\n", Label::EightBit),
            ("Binary", Label::EightBit),
            ("(none) 8BIT", Label::EightBit),
            ("7bit", Label::Plain),
            ("8-bit", Label::Plain),
            ("", Label::Plain),
            ("Quoted-Printable", Label::Quoted),
            ("base64 ", Label::Encoded),
            ("x-uuencode", Label::Encoded),
        ];
        for (value, want) in cases {
            assert_eq!(label(value.as_bytes()), want, "{value}");
        }
    }
}
