//! The messages, and what can be said of one at a glance.

use std::path::Path;

/// One message; its lines end in CRLF.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    /// From 0, in the order of their names.
    pub(crate) number: usize,
    /// The begin of its SHA-256.
    pub(crate) name: String,
    /// The package and the file that it is from.
    pub(crate) origin: String,
    pub(crate) octets: Vec<u8>,
}

impl Message {
    /// It needs 8BITMIME.
    pub(crate) fn is_eight_bit(&self) -> bool {
        !self.octets.is_ascii()
    }

    /// Its header needs SMTPUTF8 (RFC 6532), and may have it.
    pub(crate) fn has_utf8_header(&self) -> bool {
        let (header, _) = smtp::header::split(&self.octets);
        !header.is_ascii() && std::str::from_utf8(header).is_ok()
    }

    /// The local part of its address: of its sender or its recipient.
    pub(crate) fn local_part(&self) -> String {
        format!("m{:04}", self.number)
    }
}

/// The number in an address that was made of [`Message::local_part`].
pub(crate) fn number_in(address: &str) -> Option<usize> {
    address.split('@').next()?.strip_prefix('m')?.parse().ok()
}

/// Those that `fetch.py` left, whose name begins with `matching`.
pub(crate) fn all(cache: &Path, matching: &str) -> Vec<Message> {
    let index = cache.join("index.tsv");
    let text = std::fs::read_to_string(&index)
        .unwrap_or_else(|error| panic!("{}: {error}; fetch.py writes it", index.display()));
    let mut messages = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let mut cells = line.split('\t');
        let (Some(name), Some(package), Some(file)) = (cells.next(), cells.next(), cells.nth(1))
        else {
            panic!("{line}: a name, a package, a size and a file");
        };
        if !name.starts_with(matching) {
            continue;
        }
        let octets = std::fs::read(cache.join("messages").join(format!("{name}.eml")));
        messages.push(Message {
            number,
            name: name.to_owned(),
            origin: format!("{package}: {file}"),
            octets: octets.expect("a message of the index"),
        });
    }
    messages
}
