//! The documents say what the code is: paths exist, crates depend on each other as drawn, vectors and
//! reasons are complete.

use std::collections::BTreeSet;

use crate::harness::repository;

/// Every path in `backticks` with a slash, in the map that newcomers read.
#[test]
fn every_path_in_the_map_exists() {
    let map = std::fs::read_to_string(repository().join("docs/architecture.md")).unwrap();
    let quoted = map.split('`').skip(1).step_by(2);
    let is_path = |word: &&str| {
        let start = word.split('/').next().unwrap_or_default();
        word.contains('/')
            && ["crates", "tests", "docs", "config", "deploy", ".ci"].contains(&start)
            && !word.contains(['*', ' ', '<'])
    };
    let missing: Vec<&str> =
        quoted.filter(is_path).filter(|path| !repository().join(path).exists()).collect();
    assert!(missing.is_empty(), "not there: {missing:?}");
    assert!(map.lines().count() <= 150, "a map of more than 150 lines is not read");
}

/// The picture in the map: who may depend on whom, and no other edge.
const EDGES: [(&str, &[&str]); 6] = [
    ("smtp", &[]),
    ("policy", &["smtp"]),
    ("spool", &["smtp"]),
    ("report", &["policy", "smtp"]),
    ("staunch", &["policy", "report", "smtp", "spool"]),
    ("world", &[]),
];

#[test]
fn crates_depend_on_each_other_as_drawn() {
    let names: BTreeSet<&str> = EDGES.iter().map(|(name, _)| *name).collect();
    for (name, allowed) in EDGES {
        let dir = if name == "world" { "tests/world".to_owned() } else { format!("crates/{name}") };
        let manifest = std::fs::read_to_string(repository().join(dir).join("Cargo.toml")).unwrap();
        let manifest: toml::Table = manifest.parse().unwrap();
        let ours: BTreeSet<&str> = manifest["dependencies"]
            .as_table()
            .unwrap()
            .keys()
            .map(String::as_str)
            .filter(|dependency| names.contains(dependency))
            .collect();
        assert!(ours.iter().all(|edge| allowed.contains(edge)), "{name} depends on {ours:?}");
    }
}

/// Only the program may know sockets and clocks: what is pure stays pure.
#[test]
fn pure_crates_know_no_runtime() {
    for name in ["smtp", "policy", "report"] {
        let path = repository().join("crates").join(name).join("Cargo.toml");
        let manifest: toml::Table = std::fs::read_to_string(path).unwrap().parse().unwrap();
        for banned in ["tokio", "rusqlite", "reqwest", "hickory-resolver", "rustls", "rustix"] {
            assert!(manifest["dependencies"].get(banned).is_none(), "{name} depends on {banned}");
        }
    }
}

/// Long files hide things. Tests at a file's end do not count.
#[test]
fn files_are_short_enough_to_read() {
    const LINES_MAX: usize = 520;
    let mut long = Vec::new();
    let mut folders = vec![repository().join("crates"), repository().join("tests")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            // A crate's tests over its public face are tests too.
            let is_tests = path.ends_with("tests") && path.starts_with(repository().join("crates"));
            if path.is_dir() && !is_tests {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs")
                && !path.ends_with("tests.rs")
            {
                let text = std::fs::read_to_string(&path).unwrap();
                let code =
                    text.split("\n#[cfg(test)]\n").next().unwrap_or_default().lines().count();
                if code > LINES_MAX {
                    long.push((path, code));
                }
            }
        }
    }
    assert!(long.is_empty(), "{long:?}");
}
