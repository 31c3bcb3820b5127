//! What is asked, and which domain that is about.

use serde::Deserialize;
use smtp::{AddressError, Domain, HostName, HostNameError, Mailbox, ReversePath};

use crate::config::{AliasLookup, Config};

/// What is asked.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct ExplainQuestion {
    /// A mailbox or a domain.
    pub(crate) address: String,
    /// Also connect, up to EHLO under TLS?
    #[serde(default)]
    pub(crate) connect: bool,
    /// Who would send it.
    #[serde(default)]
    pub(crate) sender: Option<String>,
    /// As if the sender asked for authenticated TLS.
    #[serde(default)]
    pub(crate) require_tls: bool,
}

/// The question makes no sense.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadQuestion {
    /// Not an address.
    #[error("{0:?}: {1}")]
    Address(String, AddressError),
    /// Not a domain.
    #[error("{0:?}: {1}")]
    Domain(String, HostNameError),
    /// Nobody can send as this.
    #[error("sender {0:?}: {1}")]
    Sender(String, AddressError),
    /// `[192.0.2.1]` takes no mail from us.
    #[error("{0:?}: mail to address literals is refused (address_literal_refused)")]
    Literal(String),
    /// A local name that leads nowhere.
    #[error(
        "{0:?}: a name of this machine with neither an alias nor a route of its own: refused (unknown_name)"
    )]
    UnknownName(String),
    /// The same of our postmaster.
    #[error("{0:?}: refused, aliases.postmaster is not configured (no_postmaster)")]
    NoPostmaster(String),
}

/// What the walk is about.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct ExplainSubject {
    /// Where mail goes: of several targets of an alias the first.
    pub(super) domain: HostName,
    /// The targets, if the address is an alias.
    pub(super) alias: Option<String>,
}

impl ExplainQuestion {
    /// By the rule that RCPT is answered by.
    ///
    /// # Errors
    ///
    /// [`BadQuestion`].
    pub(super) fn subject(&self, config: &Config) -> Result<ExplainSubject, BadQuestion> {
        if let Some(sender) = &self.sender {
            ReversePath::parse_utf8(sender)
                .map_err(|error| BadQuestion::Sender(sender.clone(), error))?;
        }
        let address = self.address.as_str();
        if !address.contains('@') {
            let domain = HostName::parse(address)
                .map_err(|error| BadQuestion::Domain(address.into(), error))?;
            return Ok(ExplainSubject { domain, alias: None });
        }
        let mailbox = Mailbox::parse_utf8(address)
            .map_err(|error| BadQuestion::Address(address.into(), error))?;
        let targets = match config.destination(&mailbox, None) {
            AliasLookup::Itself => {
                return Ok(ExplainSubject { domain: domain(&mailbox)?, alias: None });
            }
            AliasLookup::Aliased(targets) => targets,
            AliasLookup::Unknown => return Err(BadQuestion::UnknownName(address.into())),
            AliasLookup::NoPostmaster => return Err(BadQuestion::NoPostmaster(address.into())),
        };
        let names: Vec<&str> = targets.iter().map(Mailbox::as_str).collect();
        let first = targets.first().ok_or_else(|| BadQuestion::UnknownName(address.into()))?;
        Ok(ExplainSubject { domain: domain(first)?, alias: Some(names.join(", ")) })
    }
}

fn domain(mailbox: &Mailbox) -> Result<HostName, BadQuestion> {
    match mailbox.domain() {
        Domain::Name(name) => Ok(name.clone()),
        Domain::Literal(_) => Err(BadQuestion::Literal(mailbox.as_str().into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Surroundings, load};

    fn subject(address: &str, sender: Option<&str>) -> Result<ExplainSubject, BadQuestion> {
        let file = tempfile::NamedTempFile::new().unwrap();
        let document = "hostname = \"relay.example\"\ndata_dir = \"/tmp\"\n\
                        [aliases]\nroot = \"a@far.example\"\n";
        std::fs::write(file.path(), document).unwrap();
        let config = load(Some(file.path()), &Surroundings::default()).unwrap().config;
        let sender = sender.map(str::to_owned);
        ExplainQuestion { address: address.to_owned(), connect: false, sender, require_tls: false }
            .subject(&config)
    }

    #[test]
    fn both_ends_of_mail_may_be_written_in_u_labels() {
        let far = subject("b@m\u{fc}nchen.example", None).unwrap();
        assert_eq!(far, subject("xn--mnchen-3ya.example", None).unwrap());
        for sender in ["", "a@k\u{f6}ln.example", "\u{e4}@k\u{f6}ln.example", "a@client.test"] {
            assert_eq!(
                subject("b@far.example", Some(sender)).unwrap().domain.as_str(),
                "far.example"
            );
        }
        let bad = subject("b@far.example", Some("a b"));
        assert!(matches!(bad, Err(BadQuestion::Sender(_, _))));
    }

    #[test]
    fn local_names_lead_where_rcpt_would_send_them() {
        for address in ["root@localhost", "Root@relay.example"] {
            let subject = subject(address, None).unwrap();
            assert_eq!(subject.domain.as_str(), "far.example", "{address}");
            assert_eq!(subject.alias.as_deref(), Some("a@far.example"));
        }
        assert!(matches!(subject("no@localhost", None), Err(BadQuestion::UnknownName(_))));
        let postmaster = subject("postmaster@localhost", None);
        assert!(matches!(postmaster, Err(BadQuestion::NoPostmaster(_))));
    }
}
