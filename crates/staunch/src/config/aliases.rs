//! `[aliases]`: names of this machine, and where their mail goes.

use std::collections::{BTreeMap, HashMap};

use smtp::{Domain, Mailbox};

use super::checker::Checker;
use super::{aliases_file, file};

/// Addresses that one name may stand for, the way through other names included. Our choice: larger
/// lists are for list managers.
pub(super) const TARGETS_MAX: usize = 100;

/// Where mail for local names goes.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Aliases {
    /// In lower case, as they were written in `[aliases]`.
    pub(super) written: BTreeMap<String, Vec<Mailbox>>,
    /// In lower case, with at least one address, which is no alias itself.
    pub(super) names: HashMap<String, Vec<Mailbox>>,
}

impl Aliases {
    /// Where mail for this local name goes, if it is an alias: to one at least. In any case, as for
    /// `postmaster`.
    pub(crate) fn targets(&self, name: &str) -> Option<&[Mailbox]> {
        self.names.get(&name.to_ascii_lowercase()).map(Vec::as_slice)
    }
}

impl Checker {
    /// Reads `[aliases]`; where they lead is found in `alias_ends`.
    pub(super) fn aliases(&mut self, file: &file::AliasesTable) -> Aliases {
        let mut written = BTreeMap::new();
        let postmaster = self.optional("aliases.postmaster", &file.postmaster, Mailbox::parse);
        written.extend(postmaster.map(|target| ("postmaster".to_owned(), vec![target])));
        for (name, target) in &file.names {
            let path = format!("aliases.{name}");
            if aliases_file::local_name(name).is_none() || name.starts_with('"') {
                self.finding(path.clone(), "not a local name like root".into());
            }
            let Some(target) = self.parsed(&path, target, Mailbox::parse) else { continue };
            if matches!(target.domain(), Domain::Literal(_)) {
                let reason = "address literals are not relayed to: write a domain";
                self.wrong(path, target.as_str(), reason);
                continue;
            }
            let lower = name.to_ascii_lowercase();
            if lower == "postmaster" || written.insert(lower, vec![target]).is_some() {
                self.finding(path, "stands there twice, in another case".into());
            }
        }
        Aliases { written, names: HashMap::new() }
    }
}
