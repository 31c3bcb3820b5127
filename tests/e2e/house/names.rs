//! Types of the workspace, by name.

use std::collections::{BTreeMap, BTreeSet};

use syn::{Attribute, Item};

use crate::harness::repository;

/// The name of each type, trait and alias in the crates, with the files that make one of this name.
/// What is only for tests does not count.
pub(super) fn types() -> BTreeMap<String, BTreeSet<String>> {
    let mut names: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut folders = Vec::new();
    for name in ["smtp", "policy", "spool", "report", "staunch"] {
        folders.push(repository().join("crates").join(name).join("src"));
    }
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs")
                && !is_for_tests(&path)
            {
                let file = path.strip_prefix(repository()).unwrap().display().to_string();
                let text = std::fs::read_to_string(&path).unwrap();
                for name in syn::parse_file(&text).unwrap().items.iter().filter_map(type_name) {
                    names.entry(name).or_default().insert(file.clone());
                }
            }
        }
    }
    names
}

/// Whole files that are: the module before says so, and these are what they are called.
fn is_for_tests(path: &std::path::Path) -> bool {
    ["tests.rs", "simulation.rs", "stage.rs", "scripted.rs", "on_disk.rs", "documented.rs"]
        .iter()
        .any(|name| path.ends_with(name))
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
    let is_for_tests = attributes.iter().any(|attribute| attribute.path().is_ident("cfg"));
    (!is_for_tests).then(|| name.to_string())
}
