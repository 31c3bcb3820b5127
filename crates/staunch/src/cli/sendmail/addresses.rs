//! Address lists as people and programs write them (RFC 5322 §3.4 and §4.4): in To, Cc and Bcc, and on
//! the command line.
//!
//! Only the addresses count here; display names, group names and comments are skipped. A library that
//! reads mail for people may lose the quotes of a local part; this one may not.

use smtp::Mailbox;

/// Why a list is not one.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum BadList {
    /// Something is opened and not closed.
    #[error("{0:?} has no end")]
    Open(char),
    /// What stands for a mailbox is no address.
    #[error("{0:?} is no address")]
    NoAddress(String),
}

/// What a bare name, such as `root`, stands for.
pub(super) type Completion<'a> = &'a dyn Fn(&str) -> String;

/// The addresses in `list`; bare names are completed by `completion`.
///
/// # Errors
///
/// [`BadList`]; nothing is guessed.
pub(super) fn parse(list: &str, completion: Completion<'_>) -> Result<Vec<String>, BadList> {
    let mut reader = Reader { rest: list, plain: String::new(), angle: None };
    let mut found = Vec::new();
    loop {
        let is_end = reader.next_mailbox()?;
        let plain = std::mem::take(&mut reader.plain);
        let written = reader.angle.take().map(|angle| without_route(&angle).to_owned());
        let written = written.unwrap_or(plain);
        if !written.trim().is_empty() {
            found.push(complete(&without_blanks(&written)?, completion)?);
        }
        if is_end {
            return Ok(found);
        }
    }
}

/// An address as it goes into MAIL and RCPT.
///
/// # Errors
///
/// [`BadList::NoAddress`].
fn complete(text: &str, completion: Completion<'_>) -> Result<String, BadList> {
    let bad = || BadList::NoAddress(text.to_owned());
    let is_quoted_only = text.starts_with('"') && text.ends_with('"');
    let address =
        if is_quoted_only || !text.contains('@') { completion(text) } else { text.to_owned() };
    // Half of an encoded word (RFC 2047 §2) that had a comma in it is no bare name.
    if text.starts_with("=?") {
        return Err(bad());
    }
    if address.is_ascii() {
        return Mailbox::parse(&address).map(|_| address).map_err(|_| bad());
    }
    // The daemon judges UTF-8 addresses (RFC 6531 §3.3); here they only must not be anything else.
    let is_plain =
        !address.contains(|c: char| c.is_control() || c.is_whitespace() || "<>".contains(c));
    if is_plain { Ok(address) } else { Err(bad()) }
}

/// Blanks are allowed around dots and the `@` (RFC 5322 §4.4), and nowhere else outside quotes.
fn without_blanks(written: &str) -> Result<String, BadList> {
    let mut address = String::new();
    let mut is_quoted = false;
    let mut is_escaped = false;
    let mut blanks = false;
    for c in written.trim().chars() {
        if !is_quoted && c.is_ascii_whitespace() {
            blanks = true;
            continue;
        }
        if blanks && !".@".contains(c) && !address.ends_with(['.', '@']) {
            return Err(BadList::NoAddress(written.trim().to_owned()));
        }
        blanks = false;
        is_quoted ^= c == '"' && !is_escaped;
        is_escaped = is_quoted && c == '\\' && !is_escaped;
        address.push(c);
    }
    Ok(address)
}

/// `@a,@b:c@d` is `c@d` (RFC 5321 §4.1.1.2).
fn without_route(angle: &str) -> &str {
    match angle.trim_start().strip_prefix('@').and_then(|route| route.split_once(':')) {
        Some((_, address)) => address,
        None => angle,
    }
}

struct Reader<'a> {
    rest: &'a str,
    /// What stands outside angle brackets: an address, or a name before them.
    plain: String,
    /// What stands inside.
    angle: Option<String>,
}

impl Reader<'_> {
    /// Reads up to the next comma, semicolon or end. Was it the end?
    fn next_mailbox(&mut self) -> Result<bool, BadList> {
        while let Some(c) = self.next() {
            match c {
                ',' | ';' => return Ok(false),
                // The name of a group.
                ':' => self.plain.clear(),
                '(' => self.comment()?,
                '<' => self.angle = Some(self.up_to('>')?),
                '"' => {
                    let quoted = self.quoted()?;
                    self.plain.push_str(&quoted);
                }
                '[' => {
                    let literal = self.up_to(']')?;
                    self.plain = format!("{}[{literal}]", self.plain);
                }
                _ => self.plain.push(c),
            }
        }
        Ok(true)
    }

    fn next(&mut self) -> Option<char> {
        let mut chars = self.rest.chars();
        let c = chars.next();
        self.rest = chars.as_str();
        c
    }

    /// A quoted string with its quotes; the first is read already.
    fn quoted(&mut self) -> Result<String, BadList> {
        let mut text = String::from('"');
        while let Some(c) = self.next() {
            text.push(c);
            match c {
                '"' => return Ok(text),
                '\\' => text.extend(self.next()),
                _ => {}
            }
        }
        Err(BadList::Open('"'))
    }

    /// What stands before `end`, in which quotes count.
    fn up_to(&mut self, end: char) -> Result<String, BadList> {
        let mut text = String::new();
        while let Some(c) = self.next() {
            match c {
                _ if c == end => return Ok(text),
                '"' => text.push_str(&self.quoted()?),
                _ => text.push(c),
            }
        }
        Err(BadList::Open(if end == '>' { '<' } else { '[' }))
    }

    /// Comments nest (RFC 5322 §3.2.2); the first bracket is read already.
    fn comment(&mut self) -> Result<(), BadList> {
        let mut depth = 1;
        while let Some(c) = self.next() {
            match c {
                '(' => depth += 1,
                ')' if depth == 1 => return Ok(()),
                ')' => depth -= 1,
                '\\' => drop(self.next()),
                _ => {}
            }
        }
        Err(BadList::Open('('))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at_host(name: &str) -> String {
        format!("{name}@host.example")
    }

    #[test]
    fn addresses_are_found_whatever_stands_around_them() {
        let cases: &[(&str, &[&str])] = &[
            ("", &[]),
            (" , ", &[]),
            ("root", &["root@host.example"]),
            ("root, Bin <bin>", &["root@host.example", "bin@host.example"]),
            ("a@x.example,\r\n\tb@y.example", &["a@x.example", "b@y.example"]),
            ("\"Doe, John\" <j@x.example>", &["j@x.example"]),
            ("=?utf-8?q?x=2Cy?= <a@x.example>", &["a@x.example"]),
            ("J. Doe (he, him (really \\)) ) <j@x.example> (x)", &["j@x.example"]),
            ("j@x.example (Doe, John)", &["j@x.example"]),
            ("undisclosed-recipients:;", &[]),
            (
                "A: b@c.example, \"d e\" <f@g.example>;, h@i.example",
                &["b@c.example", "f@g.example", "h@i.example"],
            ),
            ("a@x.example; b@y.example", &["a@x.example", "b@y.example"]),
            ("\"a b\"@x.example", &["\"a b\"@x.example"]),
            ("<\"a, >\\\" b\"@x.example>", &["\"a, >\\\" b\"@x.example"]),
            ("\"a b\"", &["\"a b\"@host.example"]),
            ("a@[192.0.2.1], b@[IPv6:2001:db8::1]", &["a@[192.0.2.1]", "b@[IPv6:2001:db8::1]"]),
            ("<b@[IPv6:2001:db8::1]>", &["b@[IPv6:2001:db8::1]"]),
            ("<@a.example,@b.example:c@d.example>", &["c@d.example"]),
            ("a . b @ x . example", &["a.b@x.example"]),
            ("< a@x.example >", &["a@x.example"]),
            ("Ünal <ü@x.example>, a@ä.example", &["ü@x.example", "a@ä.example"]),
        ];
        for (list, want) in cases {
            assert_eq!(parse(list, &at_host).unwrap(), *want, "{list}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused_rather_than_guessed() {
        let lists = [
            "John Doe",
            "a@x.example b@y.example",
            "\"a",
            "a@x.example (b",
            "<a@x.example",
            "a@[192.0.2.1",
            "a@",
            "@x.example",
            "a@b@x.example",
            "a@x..example",
            "=?utf-8?q?x,y?= <a@x.example>",
            "\"a b\"c@x.example",
            "ü\u{200a}b@x.example",
        ];
        for list in lists {
            let found = parse(list, &at_host);
            assert!(found.is_err(), "{list}: {found:?}");
        }
    }
}
