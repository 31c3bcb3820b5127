//! Types of the workspace, by name.

use std::collections::{BTreeMap, BTreeSet};

use syn::{Attribute, Item};

use super::sources::{self, is_for_tests};

/// The name of each type, trait and alias in the crates, with the modules that make one of this
/// name.
pub(super) fn types() -> BTreeMap<String, BTreeSet<String>> {
    let mut names: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for name in ["smtp", "policy", "spool", "report", "staunch"] {
        for (module, items) in sources::of_crate(name) {
            let module = format!("{name}::{}", module.join("::"));
            for name in items.iter().filter_map(type_name) {
                names.entry(name).or_default().insert(module.clone());
            }
        }
    }
    names
}

fn type_name(item: &Item) -> Option<String> {
    let (name, attributes): (_, &[Attribute]) = match item {
        Item::Enum(item) => (&item.ident, &item.attrs),
        Item::Struct(item) => (&item.ident, &item.attrs),
        Item::Trait(item) => (&item.ident, &item.attrs),
        Item::Type(item) => (&item.ident, &item.attrs),
        Item::Union(item) => (&item.ident, &item.attrs),
        _ => return None,
    };
    (!is_for_tests(attributes)).then(|| name.to_string())
}
