//! Header fields with raw octets above 127, in ASCII: encoded words in text, names and comments
//! (RFC 2047), parameters as RFC 2231 says, for hosts that do not know SMTPUTF8.
//!
//! An address has no such form. Other fields whose structure has none are kept under another name,
//! as RFC 6857 §3.2.1 does it.

use super::ConversionRefused;
use super::scan::{
    is_space, take, take_angle, take_comment, take_escaped, take_parameter, take_quoted,
    take_while, unescaped, unfolded, unquoted,
};
use crate::{base64, header};

/// Octets of a field that is encoded (architecture: header blocks ≤ 256 KiB).
const FIELD_OCTETS_MAX: usize = 256 * 1024;
/// Octets of text in an encoded word: 75 characters, 12 of which are not text (RFC 2047 §2).
const WORD_OCTETS_MAX: usize = 45;
/// RFC 2047 §2: of a line with an encoded word.
const LINE_OCTETS: usize = 76;
/// Octets of a parameter's value in one piece. Our choice: most readers know no pieces, and lines
/// have 998.
const PARAMETER_OCTETS_MAX: usize = 240;

/// Fields of addresses (RFC 5322 §3.6.2, §3.6.3, §3.6.6, RFC 8098 §2.1), and those that programs
/// use like them.
const ADDRESSES: [&str; 17] = [
    "from",
    "sender",
    "reply-to",
    "to",
    "cc",
    "bcc",
    "resent-from",
    "resent-sender",
    "resent-reply-to",
    "resent-to",
    "resent-cc",
    "resent-bcc",
    "disposition-notification-to",
    "return-receipt-to",
    "mail-followup-to",
    "mail-reply-to",
    "errors-to",
];
/// Fields with a structure that only comments may have text in.
const STRUCTURED: [&str; 14] = [
    "message-id",
    "resent-message-id",
    "in-reply-to",
    "references",
    "content-id",
    "return-path",
    "date",
    "resent-date",
    "mime-version",
    "content-transfer-encoding",
    "dkim-signature",
    "authentication-results",
    "list-unsubscribe",
    "list-id",
];

/// Collects a field, so that it can be encoded as a whole.
#[derive(Debug, Default)]
pub(super) struct FieldEncoder {
    field: Vec<u8>,
    is_too_long: bool,
}

impl FieldEncoder {
    /// More of the field. What is too long is passed on as it is.
    pub(super) fn push(&mut self, octets: &[u8], out: &mut Vec<u8>) {
        self.is_too_long |= self.field.len() + octets.len() > FIELD_OCTETS_MAX;
        if self.is_too_long {
            out.append(&mut self.field);
            out.extend_from_slice(octets);
        } else {
            self.field.extend_from_slice(octets);
        }
    }

    /// The field is over.
    pub(super) fn finish(&mut self, out: &mut Vec<u8>) -> Result<(), ConversionRefused> {
        out.extend_from_slice(&in_ascii(&std::mem::take(self).field)?);
        Ok(())
    }
}

/// A whole field in ASCII, with encoded words for what people read in it.
///
/// ```
/// let field = smtp::mime::in_ascii("Subject: gr\u{fc}n\r\n".as_bytes()).unwrap();
/// assert_eq!(field, b"Subject: =?utf-8?B?Z3LDvG4=?=\r\n");
/// ```
///
/// # Errors
///
/// [`ConversionRefused::Utf8Address`].
pub fn in_ascii(field: &[u8]) -> Result<Vec<u8>, ConversionRefused> {
    let Some(name) = header::name(field).filter(|_| !field.is_ascii()) else {
        return Ok(field.to_vec());
    };
    let value = header::value(field);
    let is_one_of =
        |names: &[&str]| names.iter().any(|one| name.eq_ignore_ascii_case(one.as_bytes()));
    let charset = if std::str::from_utf8(field).is_ok() { "utf-8" } else { "unknown-8bit" };
    let mut out = Out { octets: Vec::new(), column: 0, charset };
    out.raw(field.get(..field.len() - value.len()).unwrap_or_default());
    if !value.starts_with(b" ") && !value.starts_with(b"\t") {
        out.raw(b" ");
    }
    let start = out.octets.len();
    if is_one_of(&ADDRESSES) {
        out.addresses(value)?;
    } else if is_one_of(&["content-type", "content-disposition"]) {
        out.parameters(value);
    } else if is_one_of(&["received"]) {
        out.structured(value);
        // Neither an address nor a name of a host can be encoded, and the field is counted.
        out.octets.iter_mut().filter(|octet| !octet.is_ascii()).for_each(|octet| *octet = b'?');
    } else if is_one_of(&STRUCTURED) {
        // A phrase and a name in angle brackets (RFC 2919 §3).
        let is_phrase = is_one_of(&["list-id"]) && out.addresses(value).is_ok();
        if !is_phrase {
            out.octets.truncate(start);
            out.structured(value);
        }
        if !out.octets.is_ascii() {
            out.octets = [b"Downgraded-", name, b": "].concat();
            out.column = out.octets.len();
            out.text(value.trim_ascii_start());
        }
    } else {
        out.text(value);
    }
    Ok(out.octets)
}

/// A word of text, and the white space before it.
struct Word<'a> {
    gap: &'a [u8],
    raw: &'a [u8],
    /// Its octets with quotes undone.
    text: Vec<u8>,
}

/// A part of a list of addresses.
enum Item<'a> {
    Word(Word<'a>),
    Comment { gap: &'a [u8], raw: &'a [u8] },
}

/// The field so far.
struct Out {
    octets: Vec<u8>,
    column: usize,
    charset: &'static str,
}

impl Out {
    fn raw(&mut self, octets: &[u8]) {
        self.octets.extend_from_slice(octets);
        match memchr::memrchr(b'\n', octets) {
            Some(at) => self.column = octets.len() - at - 1,
            None => self.column += octets.len(),
        }
    }

    /// Appends unstructured text (RFC 5322 §2.2.1), words with octets above 127 encoded.
    fn text(&mut self, value: &[u8]) {
        let (mut words, mut rest) = (Vec::new(), value);
        loop {
            let gap = take_while(&mut rest, is_space);
            let raw = take_while(&mut rest, |octet| !is_space(octet));
            if raw.is_empty() {
                self.words(&words);
                self.raw(gap);
                return;
            }
            words.push(Word { gap, raw, text: raw.to_vec() });
        }
    }

    /// Words, of which those with octets above 127 become encoded words, neighbours together: white
    /// space between two encoded words is not shown (RFC 2047 §6.2), so it is encoded, too.
    fn words(&mut self, words: &[Word<'_>]) {
        // White space before it, and what it says.
        let mut run: Option<(&[u8], Vec<u8>)> = None;
        let mut is_behind_encoded = false;
        for word in words {
            let is_encoded = word.raw.starts_with(b"=?") && word.raw.ends_with(b"?=");
            if !word.raw.is_ascii() {
                let (_, text) = run.get_or_insert_with(|| {
                    let shown = if is_behind_encoded { unfolded(word.gap) } else { Vec::new() };
                    (word.gap, shown)
                });
                if !text.is_empty() && !is_behind_encoded {
                    text.extend(unfolded(word.gap));
                }
                text.extend_from_slice(&word.text);
                is_behind_encoded = false;
                continue;
            }
            if let Some((gap, mut text)) = run.take() {
                if is_encoded {
                    text.extend(unfolded(word.gap));
                }
                self.encoded(gap, &text);
                if word.gap.is_empty() {
                    self.raw(b" ");
                }
            }
            self.raw(word.gap);
            self.raw(word.raw);
            is_behind_encoded = is_encoded;
        }
        if let Some((gap, text)) = run {
            self.encoded(gap, &text);
        }
    }

    /// `text` as encoded words (RFC 2047 §4.1), behind white space.
    fn encoded(&mut self, gap: &[u8], text: &[u8]) {
        let mut rest = text;
        let mut gap = gap;
        while !rest.is_empty() {
            let (piece, behind) = rest.split_at_checked(word_end(rest)).unwrap_or((rest, b""));
            rest = behind;
            let mut word = format!("=?{}?B?", self.charset).into_bytes();
            base64::encode(piece, &mut word);
            word.extend_from_slice(b"?=");
            let is_full = self.column + gap.len() + word.len() > LINE_OCTETS;
            self.raw(if is_full && !gap.is_empty() { b"\r\n " } else { gap });
            self.raw(&word);
            gap = b"\r\n ";
        }
    }

    /// A list of addresses (RFC 5322 §3.4).
    fn addresses(&mut self, value: &[u8]) -> Result<(), ConversionRefused> {
        let (mut items, mut rest) = (Vec::new(), value);
        loop {
            let gap = take_while(&mut rest, is_space);
            match rest.first() {
                None => {
                    self.mailbox(&items)?;
                    self.raw(gap);
                    return Ok(());
                }
                Some(b'(') => items.push(Item::Comment { gap, raw: take_comment(&mut rest) }),
                Some(b'"') => {
                    let raw = take_quoted(&mut rest);
                    items.push(Item::Word(Word { gap, raw, text: unquoted(raw) }));
                }
                Some(b'<') => {
                    self.items(&std::mem::take(&mut items));
                    let raw = take_angle(&mut rest);
                    if !raw.is_ascii() {
                        return Err(ConversionRefused::Utf8Address);
                    }
                    self.raw(if gap.is_empty() { b" " } else { gap });
                    self.raw(raw);
                }
                Some(b',' | b';') => {
                    self.mailbox(&std::mem::take(&mut items))?;
                    self.raw(gap);
                    self.raw(take(&mut rest, 1));
                }
                // A group's name.
                Some(b':') => {
                    self.items(&std::mem::take(&mut items));
                    self.raw(gap);
                    self.raw(take(&mut rest, 1));
                }
                Some(_) => {
                    let is_atom = |octet: u8| !is_space(octet) && !b"(\"<,;:".contains(&octet);
                    let raw = take_while(&mut rest, is_atom);
                    items.push(Item::Word(Word { gap, raw, text: raw.to_vec() }));
                }
            }
        }
    }

    /// What stands between two commas without an address in angle brackets: an address, or nothing
    /// that has a form.
    fn mailbox(&mut self, items: &[Item<'_>]) -> Result<(), ConversionRefused> {
        let words = || {
            items.iter().filter_map(|item| match item {
                Item::Word(word) => Some(word.raw),
                Item::Comment { .. } => None,
            })
        };
        if words().any(|raw| raw.contains(&b'@')) && words().any(|raw| !raw.is_ascii()) {
            return Err(ConversionRefused::Utf8Address);
        }
        self.items(items);
        Ok(())
    }

    fn items(&mut self, items: &[Item<'_>]) {
        let mut words = Vec::new();
        for item in items {
            match item {
                Item::Word(Word { gap, raw, text }) => {
                    words.push(Word { gap, raw, text: text.clone() });
                }
                Item::Comment { gap, raw } => {
                    self.words(&std::mem::take(&mut words));
                    self.raw(gap);
                    self.comment(raw);
                }
            }
        }
        self.words(&words);
    }

    /// A comment, with its parentheses (RFC 2047 §5 (2)).
    fn comment(&mut self, raw: &[u8]) {
        let (mut words, mut rest) = (Vec::new(), raw);
        loop {
            let gap = take_while(&mut rest, is_space);
            match rest.first() {
                None => {
                    self.words(&words);
                    self.raw(gap);
                    return;
                }
                Some(b'(' | b')') => {
                    self.words(&std::mem::take(&mut words));
                    self.raw(gap);
                    self.raw(take(&mut rest, 1));
                }
                Some(_) => {
                    let raw =
                        take_escaped(&mut rest, |octet| is_space(octet) || b"()".contains(&octet));
                    words.push(Word { gap, raw, text: unescaped(raw) });
                }
            }
        }
    }

    /// A field with a structure: its comments are encoded.
    fn structured(&mut self, value: &[u8]) {
        let mut rest = value;
        while let Some(first) = rest.first() {
            match first {
                b'(' => {
                    let comment = take_comment(&mut rest);
                    self.comment(comment);
                }
                b'"' => self.raw(take_quoted(&mut rest)),
                _ => self.raw(take_while(&mut rest, |octet| !b"(\"".contains(&octet))),
            }
        }
    }

    /// A type and its parameters (RFC 2045 §5.1, RFC 2231 §4). What is no parameter has no form:
    /// nothing is read of it.
    fn parameters(&mut self, value: &[u8]) {
        let extended = extended(value);
        let line_end: &[u8] = if value.ends_with(b"\r\n") { b"\r\n" } else { b"" };
        let mut rest = value.strip_suffix(b"\r\n").unwrap_or(value);
        let mut is_first = true;
        while !rest.is_empty() || is_first {
            let part = take_parameter(&mut rest);
            let pair = part.iter().position(|octet| *octet == b'=').filter(|_| !is_first);
            let pair = pair.and_then(|at| part.split_at_checked(at));
            let is_begun = |name: &[u8]| extended.contains(&name.trim_ascii().to_ascii_lowercase());
            let pair = pair.filter(|(name, _)| !part.is_ascii() || is_begun(name));
            match pair {
                Some((name, written)) if name.is_ascii() => {
                    self.parameter(
                        name.trim_ascii(),
                        written.get(1..).unwrap_or_default().trim_ascii(),
                    );
                }
                Some(_) | None => {
                    self.raw(if is_first { b"" } else { b";" });
                    let from = self.octets.len();
                    self.structured(part);
                    let new = self.octets.iter_mut().skip(from);
                    new.filter(|octet| !octet.is_ascii()).for_each(|octet| *octet = b'?');
                }
            }
            is_first = false;
        }
        self.raw(line_end);
    }

    fn parameter(&mut self, name: &[u8], written: &[u8]) {
        let mut quoted = written;
        let text = if written.starts_with(b"\"") {
            unquoted(take_quoted(&mut quoted))
        } else {
            written.to_vec()
        };
        // What says that it is extended already, and has raw octets all the same.
        let (name, text, is_extended) = match name.strip_suffix(b"*") {
            // Charset and language stand in front (RFC 2231 §4).
            Some(bare) => {
                let mut parts = text.splitn(3, |octet| *octet == b'\'').skip(2);
                (bare, parts.next().map_or_else(|| text.clone(), <[u8]>::to_vec), true)
            }
            None => (name, text, false),
        };
        let continued = continuation(name);
        let is_whole = continued.is_some() || text.len() <= PARAMETER_OCTETS_MAX;
        let pieces = if is_whole { text.len().max(1) } else { PARAMETER_OCTETS_MAX };
        let name = String::from_utf8_lossy(name).into_owned();
        for (number, piece) in text.chunks(pieces).enumerate() {
            let mut part =
                if is_whole { format!("{name}*=") } else { format!("{name}*{number}*=") };
            if number == 0 && continued.is_none_or(|number| number == 0) {
                part.push_str(self.charset);
                part.push_str("''");
            }
            for octet in piece {
                let is_plain = octet.is_ascii_alphanumeric()
                    || b"!#$&+-.^_`|~".contains(octet)
                    || (is_extended && *octet == b'%');
                if is_plain {
                    part.push(char::from(*octet))
                } else {
                    part.push_str(&format!("%{octet:02X}"))
                }
            }
            let fits = self.column + 2 + part.len() <= LINE_OCTETS;
            self.raw(if fits { b"; " } else { b";\r\n " });
            self.raw(part.as_bytes());
        }
    }
}

/// The number of a parameter's piece (RFC 2231 §3).
fn continuation(name: &[u8]) -> Option<u32> {
    let at = name.iter().rposition(|octet| *octet == b'*')?;
    std::str::from_utf8(name.get(at + 1..)?).ok()?.parse().ok()
}

/// First pieces of parameters of which a later piece has octets above 127: the charset stands in
/// the first (RFC 2231 §4.1). In lower case.
fn extended(value: &[u8]) -> Vec<Vec<u8>> {
    let mut rest = value;
    let mut firsts = Vec::new();
    while !rest.is_empty() {
        let part = take_parameter(&mut rest);
        let name = part.split(|octet| *octet == b'=').next().unwrap_or_default().trim_ascii();
        if part.is_ascii() || continuation(name).is_none_or(|number| number == 0) {
            continue;
        }
        let base = name.rsplitn(2, |octet| *octet == b'*').last().unwrap_or_default();
        firsts.push([&base.to_ascii_lowercase()[..], b"*0"].concat());
    }
    firsts
}

/// Where an encoded word ends, no character cut (RFC 2047 §5).
fn word_end(text: &[u8]) -> usize {
    if text.len() <= WORD_OCTETS_MAX {
        return text.len();
    }
    let is_inner = |at: &usize| text.get(*at).is_some_and(|octet| (0x80..0xc0).contains(octet));
    let end = (1..=WORD_OCTETS_MAX).rev().take(4).find(|at| !is_inner(at));
    end.unwrap_or(WORD_OCTETS_MAX)
}

#[cfg(test)]
mod tests {
    use mail_parser::{MessageParser, MimeHeaders};
    use proptest::prelude::*;

    use super::*;

    fn ascii(field: &str) -> Result<String, ConversionRefused> {
        let got = in_ascii(format!("{field}\r\n").as_bytes())?;
        assert!(got.is_ascii() && got.ends_with(b"\r\n"), "{field}");
        let got = String::from_utf8(got).unwrap();
        assert!(got.lines().all(|line| line.len() <= 998 && !line.trim().is_empty()), "{got}");
        Ok(got.trim_end().to_owned())
    }

    #[test]
    fn what_is_ascii_stays_and_what_is_not_is_encoded_where_it_stands() {
        let cases = [
            ("Subject: plain text", "Subject: plain text"),
            ("Subject: a gr\u{fc}n b", "Subject: a =?utf-8?B?Z3LDvG4=?= b"),
            ("Subject: \u{fc} \u{fc}", "Subject: =?utf-8?B?w7wgw7w=?="),
            (
                "Subject: =?utf-8?q?a?= \u{fc} =?utf-8?q?b?=",
                "Subject: =?utf-8?q?a?= =?utf-8?B?IMO8IA==?= =?utf-8?q?b?=",
            ),
            ("Subject:\u{fc}", "Subject: =?utf-8?B?w7w=?="),
            ("X-Any: a\r\n \u{fc}", "X-Any: a\r\n =?utf-8?B?w7w=?="),
            (
                "To: J\u{fc}rgen Doe <j@x>, k@x (K\u{e4}the)",
                "To: =?utf-8?B?SsO8cmdlbg==?= Doe <j@x>, k@x (=?utf-8?B?S8OkdGhl?=)",
            ),
            ("From: \"D\u{f6}, \\\"J\\\"\"<j@x>", "From: =?utf-8?B?RMO2LCAiSiI=?= <j@x>"),
            ("Cc: Gr\u{fc}ppe: a@x, B <b@x>;", "Cc: =?utf-8?B?R3LDvHBwZQ==?=: a@x, B <b@x>;"),
            (
                "Content-Disposition: attachment; filename=\"\u{fc} 1.txt\"; size=1",
                "Content-Disposition: attachment; filename*=utf-8''%C3%BC%201.txt; size=1",
            ),
            (
                "Mail-Followup-To: \"\u{dc}, B\" <c@d.example>, x@y.example",
                "Mail-Followup-To: =?utf-8?B?w5wsIEI=?= <c@d.example>, x@y.example",
            ),
            ("List-Id: \u{dc}bung <l.x>", "List-Id: =?utf-8?B?w5xidW5n?= <l.x>"),
            (
                "Content-Disposition: attachment; filename*0=\"Bericht-\"; filename*1=\"\u{fc}.pdf\"",
                "Content-Disposition: attachment; filename*0*=utf-8''Bericht-;\r\n filename*1*=%C3%BC.pdf",
            ),
            (
                "Content-Disposition: attachment; x=\"\" filename=\"\u{fc} b.txt\"",
                "Content-Disposition: attachment; x=\"\"; filename*=utf-8''%C3%BC%20b.txt",
            ),
            (
                "Content-Disposition: attachment filename=\u{fc}.txt",
                "Content-Disposition: attachment; filename*=utf-8''%C3%BC.txt",
            ),
            (
                "Content-Disposition: attachment; filename*=utf-8''%C3%BC\u{fc}.pdf",
                "Content-Disposition: attachment; filename*=utf-8''%C3%BC%C3%BC.pdf",
            ),
            ("Date: Mon, 2 Mar 2026 (\u{fc})", "Date: Mon, 2 Mar 2026 (=?utf-8?B?w7w=?=)"),
            ("Message-ID: <\u{fc}@x>", "Downgraded-Message-ID: =?utf-8?B?PMO8QHg+?="),
            (
                "Received: from a (\u{fc}) for <\u{fc}@x>",
                "Received: from a (=?utf-8?B?w7w=?=) for <??@x>",
            ),
        ];
        for (field, want) in cases {
            assert_eq!(ascii(field).as_deref(), Ok(want), "{field}");
        }
        assert_eq!(
            in_ascii(b"Subject: \xfc\r\n").unwrap(),
            b"Subject: =?unknown-8bit?B?/A==?=\r\n"
        );
    }

    #[test]
    fn an_address_has_no_other_form() {
        for field in [
            "To: <\u{fc}@x>",
            "From: A <a@\u{fc}>",
            "Cc: a@x, \u{fc}@x",
            "Sender: \"\u{fc}\"@x",
            "To: a@x (c) \u{fc}",
        ] {
            assert_eq!(ascii(field), Err(ConversionRefused::Utf8Address), "{field}");
        }
    }

    proptest! {
        #[test]
        fn readers_see_the_same_text(text in "[a-z\u{e4}\u{20ac}\u{1f600}=?_]{1,9}( [a-z\u{e4}\u{20ac}\u{1f600}=_]{1,60}){0,9}") {
            let field = ascii(&format!("Subject: {text}")).unwrap();
            let message = format!("{field}\r\n\r\n");
            let read = MessageParser::new().parse(message.as_bytes()).unwrap();
            prop_assume!(!text.contains("=?"));
            prop_assert_eq!(read.subject().unwrap(), text);
        }

        #[test]
        fn readers_see_the_same_names_and_files(name in "[a-z\u{e4}\u{20ac} ,;\"()]{1,80}") {
            let name = name.trim();
            prop_assume!(!name.is_empty() && !name.is_ascii());
            let quoted = name.replace('"', "\\\"");
            let fields = [
                format!("From: \"{quoted}\" <a@x.example>"),
                format!("Content-Type: text/plain; name=\"{quoted}\""),
            ];
            let fields = fields.map(|field| ascii(&field).unwrap());
            let message = format!("{}\r\n\r\nx\r\n", fields.join("\r\n"));
            let read = MessageParser::new().parse(message.as_bytes()).unwrap();
            let from = read.from().and_then(|from| from.first()).unwrap();
            prop_assert_eq!((from.name(), from.address()), (Some(name), Some("a@x.example")));
            prop_assert_eq!(read.attachment_name(), Some(name));
        }

        #[test]
        fn no_octets_make_it_panic(value in prop::collection::vec(prop_oneof![
            2 => prop::sample::select(b"<>()\"\\,;:=@ \t\xfc".to_vec()), 1 => any::<u8>(),
        ], 0..60)) {
            for name in ["Subject", "To", "Content-Type", "Received", "References"] {
                let field = [name.as_bytes(), b": ", &value, b"\r\n"].concat();
                if let Ok(encoded) = in_ascii(&field) {
                    prop_assert!(encoded.is_ascii());
                }
            }
        }
    }
}
