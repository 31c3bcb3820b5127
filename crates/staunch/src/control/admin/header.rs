//! The fields by which people know a message, decoded (RFC 2047): for `staunch queue show`.

use std::io::{self, Read as _};

use mail_parser::{Address, Message, MessageParser};
use smtp::RemoteText;
use spool::{MessageId, StoreError, StoredBody};

use crate::control::Control;
use crate::control::api::ShownHeader;

/// Our choice: octets of a header that are read. The parser makes a tree of them, which is many
/// times as large.
const HEADER_OCTETS: u64 = 64 * 1024;

/// Reads it from the store; `None` where the body cannot be read. Blocks.
pub(super) fn of_message(
    control: &Control,
    id: MessageId,
    header_octets: u64,
) -> Option<ShownHeader> {
    let wanted = header_octets.min(HEADER_OCTETS);
    let read = control
        .queue
        .spool
        .body(id)
        .and_then(|body| front(body, wanted).map_err(StoreError::reading_a_body));
    read.ok().map(|octets| decoded(&octets))
}

fn front(body: StoredBody, octets: u64) -> io::Result<Vec<u8>> {
    let mut read = Vec::new();
    match body {
        StoredBody::Memory(bytes) => (&bytes[..]).take(octets).read_to_end(&mut read)?,
        StoredBody::File { file, .. } => file.take(octets).read_to_end(&mut read)?,
    };
    Ok(read)
}

/// Texts are cut, and inert, as all from outside.
fn decoded(header: &[u8]) -> ShownHeader {
    let parsed = MessageParser::new().with_minimal_headers().parse_headers(header);
    // One that is not parsed has not even the part in which fields are looked for.
    let message = parsed.as_ref();
    let text = |text: &str| RemoteText::new(text).as_str().to_owned();
    ShownHeader {
        from: addresses(message.and_then(Message::from)),
        to: addresses(message.and_then(Message::to)),
        cc: addresses(message.and_then(Message::cc)),
        date: message.and_then(Message::date).map(|date| text(&date.to_rfc822())),
        message_id: message.and_then(Message::message_id).map(text),
        subject: message.and_then(Message::subject).map(text),
    }
}

/// As one text; `None` where there are none.
fn addresses(list: Option<&Address<'_>>) -> Option<String> {
    let one = |(name, address): (Option<&str>, Option<&str>)| match (name, address) {
        (Some(name), Some(address)) => format!("{name} <{address}>"),
        (None, Some(address)) => address.to_owned(),
        (name, None) => name.unwrap_or_default().to_owned(),
    };
    let all: Vec<String> = list
        .into_iter()
        .flat_map(Address::iter)
        .map(|address| one((address.name(), address.address())))
        .collect();
    (!all.is_empty()).then(|| RemoteText::new(&all.join(", ")).as_str().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_subjects_are_decoded_and_inert() {
        let header = "From: =?utf-8?q?J=C3=BCrgen?= <j@from.example>\r\nTo: a@to.example,\r\n \"B, C\" <b@to.example>\r\n\
                      Subject: =?iso-8859-1?Q?gr=FC=DFe?= =?utf-8?b?G1szMW0=?=\r\nDate: Fri, 02 Jan 2026 03:04:05 +0100\r\n\
                      Message-ID: <1@from.example>\r\n";
        let some = |text: &str| Some(text.to_owned());
        let want = ShownHeader {
            from: some("J\u{fc}rgen <j@from.example>"),
            to: some("a@to.example, B, C <b@to.example>"),
            cc: None,
            date: some("Fri, 2 Jan 2026 03:04:05 +0100"),
            message_id: some("<1@from.example>"),
            subject: some("gr\u{fc}\u{df}e\\u{1b}[31m"),
        };
        assert_eq!(decoded(header.as_bytes()), want);
        assert_eq!(decoded(b"").subject, None);
        assert_eq!(decoded(b"\xff\xfe: \x00\r\n:\r\n").from, None);
    }
}
