//! The house of `crates/staunch/src`: wings know only those below them, and files know each other
//! in one direction.

mod facts;
mod imports;
mod names;
mod sources;

use std::collections::{BTreeMap, BTreeSet};

use imports::{Imports, shown};
use sources::Path;

/// From the top down. A wing knows those of the lines below its own.
const WINGS: [&[&str]; 9] = [
    &["cli"],
    &["daemon"],
    &["accept", "control"],
    &["queue"],
    &["delivery"],
    &["connect", "policies"],
    &["dns", "message", "telemetry"],
    &["auth", "config"],
    &[
        "budget",
        "clock",
        "facts",
        "inert_json",
        "likeness",
        "lock",
        "lru_map",
        "place",
        "regular_file",
        "reloadable",
        "schedule",
        "socket_file",
    ],
];

/// Files that know each other in a circle, and why. The list may only become shorter.
const CIRCLES: [(&str, &[&str]); 1] = [(
    "a place gives itself back when it is dropped, so it holds the pool that holds it",
    &[
        "connect::pool",
        "connect::pool::down",
        "connect::pool::places",
        "connect::pool::slot",
        "connect::pool::strangers",
        "connect::pool::wanted",
    ],
)];

fn floor_of(module: &Path) -> Option<usize> {
    let wing = module.first()?;
    WINGS.iter().position(|floor| floor.contains(&wing.as_str()))
}

#[test]
fn every_module_of_the_program_has_its_wing() {
    let imports = Imports::read();
    let roots: BTreeSet<&str> =
        imports.modules().filter_map(|module| module.first()).map(String::as_str).collect();
    let wings: BTreeSet<&str> = WINGS.iter().copied().flatten().copied().collect();
    assert_eq!(roots, wings);
}

#[test]
fn a_wing_knows_only_those_below_it() {
    let imports = Imports::read();
    let mut against = Vec::new();
    for (from, to, names) in imports.edges() {
        let (Some(above), Some(below)) = (floor_of(from), floor_of(to)) else { continue };
        let is_ground = below + 1 == WINGS.len();
        let is_at_home = from.first() == to.first() || is_ground && above == below;
        if !is_at_home && above >= below {
            against.push(format!("{} -> {}: {names:?}", shown(from), shown(to)));
        }
    }
    assert!(against.is_empty(), "{against:#?}");
}

#[test]
fn files_know_each_other_in_one_direction() {
    let imports = Imports::read();
    let known: BTreeSet<BTreeSet<String>> = CIRCLES
        .iter()
        .map(|(_, files)| files.iter().map(|file| (*file).to_owned()).collect())
        .collect();
    let mut unknown = BTreeMap::new();
    for circle in imports.circles() {
        let files: BTreeSet<String> = circle.iter().map(shown).collect();
        if !known.contains(&files) {
            unknown.insert(files, imports.within(&circle));
        }
    }
    assert!(unknown.is_empty(), "{unknown:#?}");
    assert_eq!(imports.circles().len(), CIRCLES.len(), "a circle that is gone leaves the list");
}

/// Whatever is made of a fact is made at one place, and each wing's sentences stand in one file.
#[test]
fn a_log_line_is_written_for_a_fact_and_for_nothing_else() {
    let strays = facts::lines_without_a_fact();
    assert!(strays.is_empty(), "{strays:#?}");
}

/// A name that a reader meets stands for one thing, wherever it is met.
#[test]
fn a_type_s_name_is_that_of_one_type() {
    let shared: BTreeMap<_, _> =
        names::types().into_iter().filter(|(_, modules)| modules.len() > 1).collect();
    assert!(shared.is_empty(), "{shared:#?}");
}
