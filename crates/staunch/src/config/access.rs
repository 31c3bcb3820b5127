//! `[access]`: who may send what to whom.

use std::collections::HashSet;
use std::path::PathBuf;

use smtp::{Mailbox, ReversePath};

use super::checker::Checker;
use super::{DomainPattern, Prefix, file};

/// Shortest prefixes that may relay without an explicit word: a wider one is rarely meant.
const OPEN_V4: u8 = 8;
const OPEN_V6: u8 = 32;

#[derive(Clone, Debug)]
pub(crate) struct Access {
    /// Who may relay without AUTH.
    pub(crate) networks: Vec<Prefix>,
    /// Who may log in, and by what; read where a listener is for them
    /// ([`super::Config::users_file`]).
    pub(crate) users_file: Option<PathBuf>,
    /// What may a user write into MAIL FROM?
    pub(crate) senders: Senders,
    /// To whom nothing is sent.
    pub(crate) deny_recipients: AddressList,
    /// From whom nothing is taken.
    pub(crate) deny_senders: AddressList,
}

/// `access.sender_must_match_user`: what a user may write into MAIL FROM.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Senders {
    /// Any address, also that of another user.
    Any,
    /// The address that the user is named after, or none.
    Own,
}

/// Addresses and patterns of domains.
#[derive(Clone, Debug, Default)]
pub(crate) struct AddressList {
    /// As [`key`]s: such lists come from bounces and complaints, which write names as they like.
    addresses: HashSet<String>,
    domains: Vec<DomainPattern>,
}

impl AddressList {
    /// Is this address in it, or its domain?
    pub(crate) fn has(&self, mailbox: &Mailbox) -> bool {
        let is_domain = |name| self.domains.iter().any(|pattern| pattern.matches(name));
        mailbox.domain().name().is_some_and(is_domain)
            || (!self.addresses.is_empty() && self.addresses.contains(&key(mailbox)))
    }

    /// The same for a sender. No list has the null sender: failure DSNs are nobody's
    /// advertising.
    pub(crate) fn has_sender(&self, sender: &ReversePath) -> bool {
        match sender {
            ReversePath::Null => false,
            ReversePath::Mailbox(mailbox) => self.has(mailbox),
        }
    }
}

/// The same for every way to write a mailbox: in lower case, and without quotes that say nothing.
pub(crate) fn key(mailbox: &Mailbox) -> String {
    format!("{}@{}", mailbox.unquoted_local_part().to_lowercase(), mailbox.domain())
}

impl Checker {
    pub(super) fn access(&mut self, written: &file::AccessTable) -> Access {
        let networks = self.all("access.networks", &written.networks, Prefix::parse);
        for prefix in networks.iter().filter(|_| !written.open_relay_acknowledged) {
            let shortest = if prefix.address().is_ipv4() { OPEN_V4 } else { OPEN_V6 };
            if prefix.length() < shortest {
                let reason = format!(
                    "shorter than /{shortest}, so that strangers may relay; \
                     if that is meant, set access.open_relay_acknowledged = true"
                );
                self.wrong("access.networks".into(), &prefix.to_string(), reason);
            }
        }
        Access {
            networks,
            users_file: self.optional_path("access.users_file", &written.users_file),
            senders: if written.sender_must_match_user { Senders::Own } else { Senders::Any },
            deny_recipients: self.address_list("access.deny_recipients", &written.deny_recipients),
            deny_senders: self.address_list("access.deny_senders", &written.deny_senders),
        }
    }

    fn address_list(&mut self, key: &str, texts: &[String]) -> AddressList {
        let mut list = AddressList::default();
        for text in texts {
            if let Some(domain) = text.strip_prefix('@') {
                self.wrong(key.into(), text, format!("a domain is written without @: {domain}"));
            } else if text.contains('@') {
                let mailbox = self.parsed(key, text, Mailbox::parse_utf8);
                list.addresses.extend(mailbox.as_ref().map(self::key));
            } else {
                list.domains.extend(self.parsed(key, text, DomainPattern::parse));
            }
        }
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_has_addresses_in_any_case_and_patterns_of_domains() {
        let mut checker = Checker::default();
        let texts = [
            "Anna@example.org",
            "\"c. d\"@example.org",
            "spam.example",
            "*.bulk.example",
            "anna@m\u{fc}nchen.example",
            "*.k\u{f6}ln.example",
        ];
        let texts = texts.map(str::to_owned);
        let list = checker.address_list("access.deny_recipients", &texts);
        assert_eq!(checker.findings, Vec::new());
        for (address, want) in [
            ("anna@example.org", true),
            ("ANNA@EXAMPLE.ORG", true),
            (r#""anna"@example.org"#, true),
            (r#""a\nNa"@example.org"#, true),
            (r#""anna\""@example.org"#, false),
            (r#""c\. d"@example.org"#, true),
            ("bert@example.org", false),
            ("anyone@spam.example", true),
            ("anyone@www.spam.example", false),
            ("x@a.b.bulk.example", true),
            ("x@bulk.example", false),
            ("anna@M\u{dc}nchen.example", true),
            ("anna@xn--mnchen-3ya.example", true),
            ("x@a.xn--kln-sna.example", true),
            ("x@a.k\u{f6}ln.example", true),
        ] {
            assert_eq!(list.has(&Mailbox::parse_utf8(address).unwrap()), want, "{address}");
        }
        assert!(!list.has_sender(&ReversePath::Null));
        let any = checker.address_list("access.deny_senders", &["*".to_owned()]);
        assert!(!any.has_sender(&ReversePath::Null), "not even *");
    }
}
