//! The files of a crate, without those that are only for tests.

use std::collections::BTreeMap;

use syn::{Attribute, Item};

use crate::harness::repository;

/// A module, or an item in one, from the root of its crate.
pub(super) type Path = Vec<String>;

/// Every file as a module; the root has an empty path.
pub(super) fn of_crate(name: &str) -> BTreeMap<Path, Vec<Item>> {
    let root = repository().join("crates").join(name).join("src");
    let mut files = BTreeMap::new();
    add(&root, Path::new(), &mut files);
    files
}

fn add(root: &std::path::Path, module: Path, files: &mut BTreeMap<Path, Vec<Item>>) {
    let stem = root.join(module.join("/"));
    let file = if module.is_empty() { stem.join("lib.rs") } else { stem.with_extension("rs") };
    let text = std::fs::read_to_string(file)
        .or_else(|_| std::fs::read_to_string(stem.join("mod.rs")))
        .unwrap();
    let items = syn::parse_file(&text).unwrap().items;
    for name in modules_of(&items) {
        add(root, module.iter().cloned().chain([name]).collect(), files);
    }
    files.insert(module, items);
}

/// Only compiled for tests?
pub(super) fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute.parse_args::<syn::Ident>().is_ok_and(|word| word == "test")
    })
}

/// The modules that stand in files of their own.
fn modules_of(items: &[Item]) -> Vec<String> {
    let name = |item: &Item| match item {
        Item::Mod(module) if module.content.is_none() && !is_for_tests(&module.attrs) => {
            Some(module.ident.to_string())
        }
        _ => None,
    };
    items.iter().filter_map(name).collect()
}
