//! Types of the workspace, by name.

use std::collections::{BTreeMap, BTreeSet};

use syn::{Attribute, Item, Macro};

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
        Item::Macro(item) if item.mac.path.is_ident("facts") => return enum_name(&item.mac),
        Item::Union(item) => (&item.ident, &item.attrs),
        _ => return None,
    };
    (!is_for_tests(attributes)).then(|| name.to_string())
}

/// The name of the enum that is made of the macro's text.
fn enum_name(called: &Macro) -> Option<String> {
    let text = called.tokens.to_string();
    let mut words = text.split_whitespace().skip_while(|word| *word != "enum");
    words.nth(1).map(str::to_owned)
}
