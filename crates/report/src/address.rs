//! Addresses in a DSN: which type they have, and which form where only ASCII can go (RFC 6533).

use smtp::Mailbox;
use smtp::params::OriginalRecipient;

/// May the DSN have UTF-8 outside its text, as `message/global-delivery-status` (RFC 6533 §4)?
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum AddressForm {
    /// No: it travels everywhere. UTF-8 in addresses is written in ASCII.
    Ascii,
    /// Yes: it goes to an address with UTF-8, so its way has SMTPUTF8 or none at all.
    Global,
}

impl AddressForm {
    /// The form for a DSN to `to`.
    pub(crate) fn of(to: &Mailbox) -> Self {
        if to.as_str().is_ascii() { Self::Ascii } else { Self::Global }
    }
}

/// `type; address`, for Final-Recipient.
pub(crate) fn final_recipient(mailbox: &Mailbox, form: AddressForm) -> String {
    let address = mailbox.as_str();
    if address.is_ascii() {
        return format!("rfc822; {address}");
    }
    match form {
        AddressForm::Ascii => format!("utf-8; {}", embedded(address)),
        AddressForm::Global => format!("utf-8; {address}"),
    }
}

/// `type; address`, for Original-Recipient: what was encoded for the command is decoded (RFC 3461
/// §6.3). An address beyond ASCII has its own type (RFC 6533 §3), whatever the sender called it.
pub(crate) fn original_recipient(original: &OriginalRecipient, form: AddressForm) -> String {
    let (kind, address) = (original.addr_type(), original.address());
    let is_utf8 = kind.eq_ignore_ascii_case("utf-8") || !address.as_str().is_ascii();
    let kind = if is_utf8 { "utf-8" } else { kind };
    match form {
        AddressForm::Ascii if is_utf8 => format!("{kind}; {}", embedded(address.as_str())),
        AddressForm::Ascii | AddressForm::Global => format!("{kind}; {address}"),
    }
}

/// `utf-8-addr-xtext` (RFC 6533 §3): what xtext cannot have, and all beyond ASCII, as `\x{HEX}`.
fn embedded(address: &str) -> String {
    let mut out = String::with_capacity(address.len() * 2);
    for c in address.chars() {
        match c {
            '+' | '=' | '\\' => out.push_str(&format!("\\x{{{:02X}}}", u32::from(c))),
            '!'..='~' => out.push(c),
            _ => out.push_str(&format!("\\x{{{:02X}}}", u32::from(c))),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn utf8_addresses_have_a_type_and_an_ascii_form() {
        let cases = [
            ("bob@example.org", "rfc822; bob@example.org", "rfc822; bob@example.org"),
            (
                "jos\u{e9}+x@example.org",
                "utf-8; jos\\x{E9}\\x{2B}x@example.org",
                "utf-8; jos\u{e9}+x@example.org",
            ),
            ("\u{1f4e8}@b.test", "utf-8; \\x{1F4E8}@b.test", "utf-8; \u{1f4e8}@b.test"),
        ];
        for (address, ascii, global) in cases {
            let mailbox = Mailbox::parse_utf8(address).unwrap();
            assert_eq!(final_recipient(&mailbox, AddressForm::Ascii), ascii);
            assert_eq!(final_recipient(&mailbox, AddressForm::Global), global);
        }
    }

    #[test]
    fn original_recipients_are_told_as_they_were_meant() {
        let cases = [
            ("rfc822;a+2Bb@c.test", "rfc822; a+b@c.test", "rfc822; a+b@c.test"),
            ("RFC822;a+20b@c.test", "RFC822; a b@c.test", "RFC822; a b@c.test"),
            ("rfc822;jos+C3+A9@c.test", "utf-8; jos\\x{E9}@c.test", "utf-8; jos\u{e9}@c.test"),
            ("utf-8;jos\\x{E9}@c.test", "utf-8; jos\\x{E9}@c.test", "utf-8; jos\u{e9}@c.test"),
            ("utf-8;jos\u{e9}@c.test", "utf-8; jos\\x{E9}@c.test", "utf-8; jos\u{e9}@c.test"),
        ];
        for (written, ascii, global) in cases {
            let original = OriginalRecipient::parse(written).unwrap();
            assert_eq!(original_recipient(&original, AddressForm::Ascii), ascii);
            assert_eq!(original_recipient(&original, AddressForm::Global), global);
        }
    }
}
