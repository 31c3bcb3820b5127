//! Who may send, as whom, and to whom: `[access]` and `[aliases]` as they are at this moment.

use std::net::IpAddr;
use std::slice;

use smtp::command::Recipient;
use smtp::{Domain, HostName, Mailbox, ReversePath};
use spool::RECIPIENTS_MAX;

use super::arrival::ClientArrival;
use super::refusal::ClientRefusal;
use crate::auth::{Auth, Login};
use crate::config::{AliasLookup, Config, ListenerMode, Senders};

/// Recipients of one message.
pub(super) fn recipients_max(config: &Config) -> usize {
    config.limits.recipients.min(RECIPIENTS_MAX)
}

/// May this client send mail at all?
///
/// # Errors
///
/// Why not.
pub(super) fn client(
    config: &Config,
    auth: &Auth,
    arrival: &ClientArrival,
    login: Option<&Login>,
) -> Result<(), ClientRefusal> {
    match (login, arrival.mode) {
        // Removed or given another password since then: what is known of it is worth nothing any
        // more.
        (Some(login), _) if !auth.is_current(login) => Err(ClientRefusal::LoginEnded),
        (Some(_), _) => Ok(()),
        (None, ListenerMode::Relay) if arrival.peer.is_trusted(config) => Ok(()),
        (None, ListenerMode::Relay | ListenerMode::Submission | ListenerMode::Submissions) => {
            Err(ClientRefusal::RelayDenied)
        }
    }
}

/// May it send as `sender`?
///
/// The null sender may be used by everybody: programs confirm that mail was read with it (RFC 8098
/// §3), and relays pass on failure DSNs.
///
/// # Errors
///
/// Why not.
pub(super) fn sender(
    config: &Config,
    login: Option<&Login>,
    sender: &ReversePath,
) -> Result<(), ClientRefusal> {
    if config.access.deny_senders.has_sender(sender) {
        return Err(ClientRefusal::SenderDenied);
    }
    match (config.access.senders, login, sender) {
        (Senders::Own, Some(login), ReversePath::Mailbox(mailbox))
            if !is_own(login.name.as_str(), mailbox, config.hostname.domain()) =>
        {
            Err(ClientRefusal::SenderNotOwn)
        }
        (Senders::Own | Senders::Any, _, _) => Ok(()),
    }
}

/// Is `mailbox` the address that a user is named after? A name without a domain is at our host
/// name.
fn is_own(name: &str, mailbox: &Mailbox, hostname: &Domain) -> bool {
    match name.rsplit_once('@') {
        Some((local, domain)) => {
            let is_domain =
                HostName::parse(domain).is_ok_and(|d| mailbox.domain().name() == Some(&d));
            is_domain && mailbox.local_part() == local
        }
        None => mailbox.domain() == hostname && mailbox.local_part() == name,
    }
}

/// Where mail for `recipient` goes: to itself, or, if that is a name of this machine, to whom the
/// configuration names. `local` is the address that was connected to.
///
/// # Errors
///
/// Why it goes nowhere.
pub(super) fn recipient<'a>(
    config: &'a Config,
    recipient: &'a Recipient,
    local: Option<IpAddr>,
) -> Result<&'a [Mailbox], ClientRefusal> {
    match recipient {
        // Whoever runs this server (RFC 5321 §4.5.1).
        Recipient::Postmaster => {
            config.aliases.targets("postmaster").ok_or(ClientRefusal::NoPostmaster)
        }
        Recipient::Mailbox(mailbox) => match config.destination(mailbox, local) {
            AliasLookup::Itself => Ok(slice::from_ref(mailbox)),
            AliasLookup::Aliased(targets) => Ok(targets),
            AliasLookup::NoPostmaster => Err(ClientRefusal::NoPostmaster),
            AliasLookup::Unknown => Err(ClientRefusal::UnknownName),
        },
    }
}

/// May mail be sent there?
///
/// # Errors
///
/// Why not.
pub(super) fn target(config: &Config, mailbox: &Mailbox) -> Result<(), ClientRefusal> {
    if config.access.deny_recipients.has(mailbox) {
        Err(ClientRefusal::RecipientDenied)
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_owns_the_address_that_it_is_named_after() {
        let hostname = Domain::Name(HostName::parse("relay.example").unwrap());
        for (name, address, want) in [
            ("anna@example.org", "anna@example.org", true),
            ("anna@example.org", "anna@EXAMPLE.ORG", true),
            ("anna@example.org", "Anna@example.org", false),
            ("anna@example.org", "anna@example.com", false),
            ("anna@example.org", "anna+x@example.org", false),
            ("printer", "printer@relay.example", true),
            ("printer", "printer@example.org", false),
            ("printer", "scanner@relay.example", false),
        ] {
            let mailbox = Mailbox::parse(address).unwrap();
            assert_eq!(is_own(name, &mailbox, &hostname), want, "{name} {address}");
        }
    }
}
