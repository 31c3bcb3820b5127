//! Address lists as people and programs write them (RFC 5322 §3.4 and §4.4): in To, Cc and Bcc, and
//! on the command line.
//!
//! Only the addresses count here; display names, group names and comments are skipped. A library
//! that reads mail for people may lose the quotes of a local part; this one may not.

use smtp::Mailbox;

/// Why something in a list is not an address.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum BadList {
    /// Something is opened and not closed.
    #[error("{0:?} has no end")]
    Open(char),
    /// What stands for a mailbox is no address.
    #[error("{0:?} is not a valid address")]
    NoAddress(String),
}

/// What a bare name, such as `root`, stands for.
pub(super) type Completion<'a> = &'a dyn Fn(&str) -> String;

/// What a list holds. Nothing is guessed: what is not in `addresses` is in `faults`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct ReadList {
    /// The addresses, completed, in their order.
    pub(super) addresses: Vec<String>,
    /// Where in the list, in octets, the bare names end.
    pub(super) bare_ends: Vec<usize>,
    /// What is no address. Behind what has no end nothing is read.
    pub(super) faults: Vec<BadList>,
}

/// The addresses in `list`; bare names are completed by `completion`.
pub(super) fn parse(list: &str, completion: Completion<'_>) -> ReadList {
    let mut reader = AddressReader { list, at: 0, plain: AddressPart::default(), angle: None };
    let mut read = ReadList::default();
    let mut before = Stop::Comma;
    loop {
        let stop = match reader.next_mailbox() {
            Ok(stop) => stop,
            Err(fault) => {
                read.faults.push(fault);
                return read;
            }
        };
        let plain = std::mem::take(&mut reader.plain);
        let is_angle = reader.angle.is_some();
        let part = reader.angle.take().unwrap_or(plain);
        let written = if is_angle { without_route(&part.text) } else { &part.text };
        if !written.trim().is_empty() {
            read.take(written, part.end, before, completion);
        }
        match stop {
            Stop::Comma | Stop::NoComma => before = stop,
            Stop::End => return read,
        }
    }
}

impl ReadList {
    /// Takes a mailbox that ends at `end`; `before` it the last one ended.
    fn take(&mut self, written: &str, end: usize, before: Stop, completion: Completion<'_>) {
        let complete = |address: &str| {
            // A word behind an address may be anything; an address there is one whose comma is
            // missing.
            if before == Stop::NoComma && is_bare(address) {
                return Err(BadList::NoAddress(address.to_owned()));
            }
            Ok((complete(address, completion)?, is_bare(address)))
        };
        match without_blanks(written).and_then(|address| complete(&address)) {
            Ok((address, is_bare)) => {
                self.addresses.push(address);
                self.bare_ends.extend(is_bare.then_some(end));
            }
            Err(fault) => self.faults.push(fault),
        }
    }
}

/// Has it no domain?
fn is_bare(address: &str) -> bool {
    let is_quoted_only = address.starts_with('"') && address.ends_with('"');
    is_quoted_only || !address.contains('@')
}

/// An address as it goes into MAIL and RCPT.
///
/// # Errors
///
/// [`BadList::NoAddress`].
fn complete(text: &str, completion: Completion<'_>) -> Result<String, BadList> {
    let bad = || BadList::NoAddress(text.to_owned());
    let address = if is_bare(text) { completion(text) } else { text.to_owned() };
    // Half of an encoded word (RFC 2047 §2) that had a comma in it is no bare name; nor is a whole
    // address in quotes.
    if text.starts_with("=?") || (is_bare(text) && text.contains('@')) {
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

/// A piece of the list that may be an address.
#[derive(Debug, Default)]
struct AddressPart {
    text: String,
    /// Where in the list it ends, without the blanks behind it.
    end: usize,
}

/// What ends a mailbox.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stop {
    /// A comma or semicolon.
    Comma,
    /// Text behind an angle bracket that is closed.
    NoComma,
    /// That of the list.
    End,
}

struct AddressReader<'a> {
    list: &'a str,
    /// Octets that are read.
    at: usize,
    /// What stands outside angle brackets: an address, or a name before them.
    plain: AddressPart,
    /// What stands inside angle brackets, once they were opened: the address.
    angle: Option<AddressPart>,
}

impl AddressReader<'_> {
    /// Reads up to the end of a mailbox.
    fn next_mailbox(&mut self) -> Result<Stop, BadList> {
        while let Some(c) = self.peek() {
            if self.angle.is_some() && !c.is_ascii_whitespace() && !",;(".contains(c) {
                return Ok(Stop::NoComma);
            }
            self.next();
            match c {
                ',' | ';' => return Ok(Stop::Comma),
                // The name of a group, which has no @.
                ':' if !self.plain.text.contains('@') => self.plain = AddressPart::default(),
                '(' => self.comment()?,
                '<' => self.angle = Some(self.up_to('>')?),
                '"' => {
                    let quoted = self.quoted()?;
                    self.push(&quoted);
                }
                '[' => {
                    let literal = self.up_to(']')?.text;
                    self.push(&format!("[{literal}]"));
                }
                _ => self.push(c.encode_utf8(&mut [0; 4])),
            }
        }
        Ok(Stop::End)
    }

    /// What was just read stands outside angle brackets.
    fn push(&mut self, text: &str) {
        self.plain.text.push_str(text);
        if !text.trim().is_empty() {
            self.plain.end = self.at;
        }
    }

    fn peek(&self) -> Option<char> {
        self.list.get(self.at..)?.chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
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
    fn up_to(&mut self, end: char) -> Result<AddressPart, BadList> {
        let mut part = AddressPart { text: String::new(), end: self.at };
        while let Some(c) = self.next() {
            match c {
                _ if c == end => return Ok(part),
                '(' if end == '>' => self.comment()?,
                '"' => part.text.push_str(&self.quoted()?),
                _ => part.text.push(c),
            }
            if !c.is_whitespace() {
                part.end = self.at;
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

    fn owned(list: &[&str]) -> Vec<String> {
        list.iter().map(|one| (*one).to_owned()).collect()
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
            ("<a@x.example (c)>", &["a@x.example"]),
            ("Ünal <ü@x.example>, a@ä.example", &["ü@x.example", "a@ä.example"]),
            // Commas that were forgotten.
            ("J Doe <j@x.example>        k@x.example", &["j@x.example", "k@x.example"]),
            ("J <j@x.example> <k@x.example>", &["j@x.example", "k@x.example"]),
            ("<j@x.example>\r\n\tK <k@x.example> (x)", &["j@x.example", "k@x.example"]),
            ("<j@x.example>K <k@x.example>, l", &["j@x.example", "k@x.example", "l@host.example"]),
        ];
        for (list, want) in cases {
            let read = parse(list, &at_host);
            assert_eq!((read.addresses, read.faults), (owned(want), vec![]), "{list}");
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
            "a@x.example: b@y.example",
            "\"a@x.example\"",
            "<a x@x.example>",
            "\"a b\"c@x.example",
            "ü\u{200a}b@x.example",
        ];
        for list in lists {
            let read = parse(list, &at_host);
            assert_eq!((read.addresses.len(), read.faults.len()), (0, 1), "{list}: {read:?}");
        }
    }

    /// However a list is written, no part of it is lost in silence.
    #[test]
    fn what_is_no_address_leaves_the_others_theirs() {
        let cases: &[(&str, &[&str], usize)] = &[
            ("John Doe, a@x.example, b@", &["a@x.example"], 2),
            ("=?utf-8?q?x,y?= <a@x.example>", &["a@x.example"], 1),
            ("a@x.example, \"b <c@x.example>, d@x.example", &["a@x.example"], 1),
            // Behind an address a word may be anything; a local name is not guessed.
            ("J <j@x.example> Jr", &["j@x.example"], 1),
            ("<<a@x.example>> root", &[], 2),
            ("<a@x.example>: b", &["a@x.example"], 1),
        ];
        for (list, want, faults) in cases {
            let read = parse(list, &at_host);
            assert_eq!(
                (&read.addresses, read.faults.len()),
                (&owned(want), *faults),
                "{list}: {read:?}"
            );
        }
    }

    #[test]
    fn a_bare_name_ends_before_what_is_no_part_of_it() {
        for (list, want) in [
            ("root", "root|"),
            (" root (Cron Daemon)\r\n", " root| (Cron Daemon)\r\n"),
            ("R. <root >, bin\r\n\t, x@x.example", "R. <root| >, bin|\r\n\t, x@x.example"),
            ("\"a b\" , G: <c>(d);", "\"a b\"| , G: <c|>(d);"),
            ("Ü <ü>, (ü) ü", "Ü <ü|>, (ü) ü|"),
        ] {
            let mut marked = list.to_owned();
            for end in parse(list, &at_host).bare_ends.iter().rev() {
                marked.insert(*end, '|');
            }
            assert_eq!(marked, want);
        }
    }
}
