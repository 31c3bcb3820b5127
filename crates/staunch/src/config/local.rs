//! Names of this machine, and where mail for them goes: one rule for RCPT, whichever way a message
//! came, and for DSNs.

use std::net::IpAddr;

use smtp::{Domain, HostName, Mailbox};

use super::{Config, DomainPattern};

/// Where mail for an address goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum AliasLookup<'a> {
    /// To the address itself, by its domain's route or MX.
    Itself,
    /// To these, which it is an alias of.
    Aliased(&'a [Mailbox]),
    /// Nowhere: it is our postmaster's, and `aliases.postmaster` is not set.
    NoPostmaster,
    /// Nowhere: it is a name of this machine with neither an alias nor a route.
    Unknown,
}

/// What a domain is to this machine.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Home {
    Hostname,
    /// `localhost`, by itself or in a domain of ours: it is every machine's name.
    Localhost,
    /// `origin`, or the address that a client has connected to. Others know where its mail goes.
    Origin,
    /// Of other machines: DNS and routes decide where its mail goes.
    Elsewhere,
}

impl Config {
    /// Where mail for `mailbox` goes; `local` is the address that a client has connected to.
    pub(crate) fn destination(&self, mailbox: &Mailbox, local: Option<IpAddr>) -> AliasLookup<'_> {
        let home = self.home(mailbox.domain(), local);
        if home == Home::Elsewhere {
            return AliasLookup::Itself;
        }
        let name = mailbox.unquoted_local_part();
        if let Some(targets) = self.aliases.targets(&name) {
            return AliasLookup::Aliased(targets);
        }
        match home {
            Home::Elsewhere | Home::Origin => AliasLookup::Itself,
            Home::Hostname if self.has_own_route() => AliasLookup::Itself,
            Home::Hostname | Home::Localhost if name.eq_ignore_ascii_case("postmaster") => {
                AliasLookup::NoPostmaster
            }
            Home::Hostname | Home::Localhost => AliasLookup::Unknown,
        }
    }

    /// Is `mailbox` a name of this machine, which may be an alias?
    pub(super) fn is_local(&self, mailbox: &Mailbox) -> bool {
        self.home(mailbox.domain(), None) != Home::Elsewhere
    }

    /// Is mail for `mailbox` sent on, if that is no alias?
    pub(super) fn goes_on(&self, mailbox: &Mailbox) -> bool {
        mailbox.domain().name().is_some()
            && match self.home(mailbox.domain(), None) {
                Home::Elsewhere | Home::Origin => true,
                Home::Hostname => self.has_own_route(),
                Home::Localhost => false,
            }
    }

    /// Is there a route for just this host's name? One for `*` is not about mail that stays here.
    fn has_own_route(&self) -> bool {
        let Some(name) = self.hostname.name() else { return false };
        let own = DomainPattern::Name(name.clone());
        self.routes.iter().any(|route| route.domains.contains(&own))
    }

    fn home(&self, domain: &Domain, local: Option<IpAddr>) -> Home {
        match domain {
            _ if domain == self.hostname.domain() => Home::Hostname,
            _ if *domain == self.origin => Home::Origin,
            Domain::Name(name) if self.is_localhost(name) => Home::Localhost,
            Domain::Literal(address) if Some(*address) == local => Home::Origin,
            Domain::Name(_) | Domain::Literal(_) => Home::Elsewhere,
        }
    }

    /// `localhost`, `localhost.localdomain`, and `localhost` in or beside `hostname` and `origin`,
    /// as Postfix has it in `mydestination`. A top-level domain is nobody's.
    fn is_localhost(&self, name: &HostName) -> bool {
        let (first, rest) = name.split_first();
        let is_ours = |domain: &str| {
            let own = [self.hostname.name(), self.origin.name()];
            own.into_iter().flatten().any(|name| {
                let parent = name.split_first().1.filter(|parent| parent.contains('.'));
                name.as_str() == domain || parent == Some(domain)
            })
        };
        first == "localhost" && rest.is_none_or(|rest| rest == "localdomain" || is_ours(rest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Surroundings, load};

    fn config(document: &str) -> Config {
        let variables = [("HOME", "/home/relay"), ("STAUNCH_CONFIG_TOML", document)];
        let surroundings = Surroundings {
            variables: variables.map(|(name, value)| (name.into(), value.into())).into(),
            host_name: "web1.example.net".into(),
            system_file: "/nonexistent/staunch.toml".into(),
        };
        load(None, &surroundings).unwrap().config
    }

    /// Where mail for each of these goes, in a word.
    fn check(document: &str, cases: &[(&str, &str)]) {
        let config = config(document);
        let local = Some(IpAddr::from([192, 0, 2, 1]));
        for (address, want) in cases {
            let found = match config.destination(&Mailbox::parse(address).unwrap(), local) {
                AliasLookup::Itself => "itself",
                AliasLookup::Aliased([target]) => target.as_str(),
                AliasLookup::Aliased(_) => "several",
                AliasLookup::NoPostmaster => "no postmaster",
                AliasLookup::Unknown => "unknown",
            };
            assert_eq!(found, *want, "{address}");
        }
    }

    #[test]
    fn aliases_hold_for_every_name_of_this_machine_and_for_no_other() {
        let document = "origin = \"corp.example\"\n[aliases]\nroot = \"ops@dest.example\"";
        check(
            document,
            &[
                ("root@web1.example.net", "ops@dest.example"),
                ("ROOT@WEB1.example.net", "ops@dest.example"),
                ("\"root\"@corp.example", "ops@dest.example"),
                ("root@localhost", "ops@dest.example"),
                ("root@localhost.localdomain", "ops@dest.example"),
                ("root@localhost.example.net", "ops@dest.example"),
                ("root@localhost.web1.example.net", "ops@dest.example"),
                ("root@localhost.corp.example", "ops@dest.example"),
                ("root@[192.0.2.1]", "ops@dest.example"),
                // The parent of a domain like corp.example is everybody's.
                ("root@localhost.example", "itself"),
                ("root@example.net", "itself"),
                ("root@x.web1.example.net", "itself"),
                ("root@localhost.dest.example", "itself"),
                ("root@[192.0.2.2]", "itself"),
            ],
        );
    }

    #[test]
    fn a_name_of_this_machine_without_an_alias_goes_nowhere_unless_others_know_it() {
        let cases = [
            ("anna@web1.example.net", "unknown"),
            ("anna@localhost", "unknown"),
            ("anna@localhost.example.net", "unknown"),
            ("postmaster@localhost", "no postmaster"),
            ("Postmaster@web1.example.net", "no postmaster"),
            ("anna@[192.0.2.1]", "itself"),
        ];
        check("", &cases);
        // Everything by a smarthost is no word about what belongs here.
        check("[[route]]\ndomains = [\"*\"]\nvia = [\"smtp://[smart.example]\"]", &cases);
        check(
            "origin = \"corp.example\"",
            &[("anna@corp.example", "itself"), ("postmaster@corp.example", "itself")],
        );
        check(
            "[[route]]\ndomains = [\"web1.example.net\"]\nvia = [\"smtp://[smart.example]\"]",
            &[
                ("anna@web1.example.net", "itself"),
                ("postmaster@web1.example.net", "itself"),
                ("anna@localhost", "unknown"),
            ],
        );
    }
}
