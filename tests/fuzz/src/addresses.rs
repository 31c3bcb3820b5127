//! Addresses, host names and the parameters with a grammar of their own.

use std::fmt::{Debug, Display};

use smtp::params::{DeliverBy, EnvelopeId, Hold, Notify, OriginalRecipient, Priority, Return};
use smtp::{Domain, HostName, Mailbox, RemoteText, ReversePath};

/// The octets as each kind of text there is.
pub fn check(data: &[u8]) {
    let shown = RemoteText::from_bytes(data);
    assert!(!shown.as_str().contains(|c: char| c.is_control()));
    assert_eq!(
        RemoteText::new(shown.as_str()).as_str().chars().filter(|c| c.is_control()).count(),
        0
    );
    if let Ok(name) = HostName::from_labels(data.split(|octet| *octet == b'.')) {
        assert_eq!(HostName::parse(name.as_str()).as_ref(), Ok(&name));
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    check_host(text);
    check_address(text);
    is_written_as_read(text, Return::parse);
    is_written_as_read(text, EnvelopeId::parse);
    is_written_as_read(text, Notify::parse);
    is_written_as_read(text, OriginalRecipient::parse);
    is_written_as_read(text, DeliverBy::parse);
    is_written_as_read(text, Priority::parse);
    is_written_as_read(text, Hold::parse);
    if let Some(octets) = smtp::xtext::decode(text) {
        let written = smtp::xtext::encode(&octets);
        assert_eq!(smtp::xtext::decode(&written), Some(octets));
    }
}

fn check_host(text: &str) {
    if let Ok(name) = HostName::parse(text) {
        assert_eq!(HostName::parse(name.as_str()).as_ref(), Ok(&name), "normalized once for all");
        assert!(name.as_str().is_ascii() && name.as_str().len() <= 253);
        assert_eq!(HostName::from_labels(name.labels().map(str::as_bytes)).as_ref(), Ok(&name));
        if let Ok(longer) = name.prepend("_mta-sts") {
            assert_eq!(HostName::parse(longer.as_str()).as_ref(), Ok(&longer));
        }
    }
}

fn check_address(text: &str) {
    let parsed = Mailbox::parse_utf8(text);
    assert_eq!(Mailbox::parse(text).is_ok(), parsed.is_ok() && text.is_ascii());
    let Ok(mailbox) = parsed else { return };
    // One dot behind the domain is left out.
    assert!([Some(text), text.strip_suffix('.')].contains(&Some(mailbox.as_str())), "{text}");
    assert!(!text.contains(|c: char| c.is_control()));
    assert_eq!(ReversePath::parse_utf8(text), Ok(ReversePath::Mailbox(mailbox.clone())));
    if let Some(ascii) = mailbox.to_ascii() {
        let again = Mailbox::parse(&ascii).expect("an address in ASCII is an address");
        assert_eq!(again.domain(), mailbox.domain());
        assert_eq!(again.local_part(), mailbox.local_part());
    }
    if let Domain::Literal(_) = mailbox.domain() {
        let written = format!("{}@{}", mailbox.local_part(), mailbox.domain());
        assert_eq!(
            Mailbox::parse_utf8(&written).map(|m| m.domain().clone()).as_ref(),
            Ok(mailbox.domain())
        );
    }
}

/// Whatever `parse` accepts is written so that it is read as the same.
fn is_written_as_read<T: Debug + Display + PartialEq>(text: &str, parse: fn(&str) -> Option<T>) {
    if let Some(value) = parse(text) {
        let written = value.to_string();
        assert!(!written.contains(|c: char| c.is_control() || c == ' '), "{written:?}");
        assert_eq!(parse(&written), Some(value));
    }
}
