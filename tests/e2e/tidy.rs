//! The documents say what the code is: paths exist, crates depend on each other as drawn, vectors
//! and reasons are complete.

use std::collections::BTreeSet;

use crate::harness::repository;

/// Every path in `backticks` with a slash or the name of a file, in the map that newcomers read:
/// from the top, or from the program's sources.
#[test]
fn every_path_in_the_map_exists() {
    let map = std::fs::read_to_string(repository().join("docs/architecture.md")).unwrap();
    let quoted = map.split('`').skip(1).step_by(2);
    let is_path = |word: &&str| {
        (word.contains('/') || word.ends_with(".rs")) && !word.contains(['*', ' ', '<'])
    };
    let sources = repository().join("crates/staunch/src");
    let exists = |path: &&str| repository().join(path).exists() || sources.join(path).exists();
    let missing: Vec<&str> = quoted.filter(is_path).filter(|path| !exists(path)).collect();
    assert!(missing.is_empty(), "not there: {missing:?}");
    assert!(map.lines().count() <= 150, "a map of more than 150 lines is not read");
}

/// Of all documents: a link to a file leads to one that is there, one to a heading to a heading.
#[test]
fn every_link_in_the_documents_leads_somewhere() {
    let documents = documents();
    assert!(documents.len() > 50, "{documents:?}");
    let (mut links, mut astray) = (0, Vec::new());
    for document in &documents {
        let folder = document.parent().unwrap();
        for target in links_in(&std::fs::read_to_string(document).unwrap()) {
            links += 1;
            let (path, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let file = if path.is_empty() { document.clone() } else { folder.join(path) };
            let is_there = file.exists()
                && (anchor.is_empty() || anchors(&file).iter().any(|known| known == anchor));
            if !is_there {
                astray.push(format!("{}: {target}", document.display()));
            }
        }
    }
    assert!(links > 50, "{links}");
    assert!(astray.is_empty(), "{astray:#?}");
}

/// The index names each page of the folder.
#[test]
fn every_page_for_operators_is_in_their_index() {
    let index = std::fs::read_to_string(repository().join("docs/operations.md")).unwrap();
    let named: BTreeSet<String> = links_in(&index).collect();
    for page in std::fs::read_dir(repository().join("docs/operations")).unwrap() {
        let name = page.unwrap().file_name();
        let link = format!("operations/{}", name.to_str().unwrap());
        assert!(named.contains(&link), "docs/operations.md has no link to {link}");
    }
}

/// For each reason in the table of reasons there is a row that says what to do.
#[test]
fn every_reason_has_its_remedy() {
    let page = |name: &str| {
        std::fs::read_to_string(repository().join("docs/operations").join(name)).unwrap()
    };
    let reasons = page("reasons.md");
    let (table, _) = reasons.split_once("\n## Refusals").unwrap();
    let troubleshooting = page("troubleshooting.md");
    let (_, remedies) = troubleshooting.split_once("\n## By reason").unwrap();
    let remedied: BTreeSet<&str> = reasons_in(remedies).collect();
    let named: BTreeSet<&str> = reasons_in(table).collect();
    assert!(named.len() > 30, "{named:?}");
    assert_eq!(named, remedied);
}

/// The words in backticks in the first cell of each row.
fn reasons_in(text: &str) -> impl Iterator<Item = &str> {
    let cells = text.lines().filter_map(|line| line.strip_prefix("| `")?.split(" |").next());
    cells.flat_map(|cell| cell.split('`').step_by(2)).filter(|word| !word.is_empty())
}

/// The texts for people: at the top, below `deploy/` and below `docs/`.
fn documents() -> Vec<std::path::PathBuf> {
    let top = std::fs::read_dir(repository()).unwrap().map(|entry| entry.unwrap().path());
    let is_text = |path: &std::path::PathBuf| path.extension().is_some_and(|end| end == "md");
    let folders = ["deploy", "docs"].map(|name| files_below(&repository().join(name), "md"));
    top.filter(is_text).chain(folders.into_iter().flatten()).collect()
}

/// Where the links in a text lead, those to other sites left out.
fn links_in(text: &str) -> impl Iterator<Item = String> {
    let behind = text.split("](").skip(1);
    let targets = behind.filter_map(|rest| rest.split_once(')')).map(|(target, _)| target);
    targets.filter(|target| !target.contains(':')).map(str::to_owned)
}

/// The headings of a document as links name them.
fn anchors(document: &std::path::Path) -> Vec<String> {
    let text = std::fs::read_to_string(document).unwrap();
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
    let anchor = |line: &str| {
        let words: String = line.trim_start_matches('#').trim().chars().filter(kept).collect();
        words.to_lowercase().replace(' ', "-")
    };
    headings.map(anchor).collect()
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

/// They are read beside the code, on one screen.
#[test]
fn comments_have_at_most_100_columns() {
    let mut wide = Vec::new();
    let places = ["crates", "tests"].map(|name| repository().join(name));
    for path in places.iter().flat_map(|place| rust_files(place)) {
        let text = std::fs::read_to_string(&path).unwrap();
        let is_wide =
            |line: &str| line.trim_start().starts_with("//") && line.chars().count() > 100;
        let lines = text.lines().enumerate().filter(|(_, line)| is_wide(line));
        wide.extend(lines.map(|(at, _)| format!("{}:{}", path.display(), at + 1)));
    }
    assert!(wide.is_empty(), "{wide:?}");
}

/// The rows of the requirements, by prefix: the numbers that there are.
const ROWS: [(&str, &[std::ops::RangeInclusive<u32>]); 5] = [
    ("SV", &[1..=26]),
    ("CL", &[1..=22, 30..=39]),
    ("EXT", &[1..=16]),
    ("DSN", &[1..=15]),
    ("RTLS", &[1..=14]),
];

/// Each requirement has a test that exists, or says in words why it has none; and each conversation
/// named by a row is told of.
#[test]
fn every_requirement_has_its_test() {
    let coverage = std::fs::read_to_string(repository().join("docs/rfc-coverage.md")).unwrap();
    let rows: Vec<(&str, &str)> = coverage.lines().filter_map(row).collect();
    let (conversations, others) = (test_names("tests"), test_names("crates"));
    for (prefix, ranges) in ROWS {
        for number in ranges.iter().cloned().flatten() {
            let id = format!("{prefix}-{number:02}");
            let (_, cell) =
                rows.iter().find(|(row, _)| *row == id).unwrap_or_else(|| panic!("no row {id}"));
            assert!(!cell.is_empty(), "{id}: a test, or the reason why there is none");
            for name in names_in(cell) {
                let is_there = conversations.contains(name) || others.contains(name);
                assert!(is_there, "{id}: no test {name}");
            }
        }
    }
    let told: BTreeSet<&str> = rows.iter().flat_map(|(_, cell)| names_in(cell)).collect();
    let untold: Vec<&String> = conversations
        .iter()
        .filter(|name| is_conversation(name) && !told.contains(name.as_str()))
        .collect();
    assert!(untold.is_empty(), "not in docs/rfc-coverage.md: {untold:?}");
}

/// So has each promise of the whole. What has no underscore is a program and not a test.
#[test]
fn every_promise_of_the_whole_has_its_test() {
    let testing = std::fs::read_to_string(repository().join("docs/testing.md")).unwrap();
    let (_, behind) = testing.split_once("## What is promised as a whole").unwrap();
    let table = behind.split("\n## ").next().unwrap();
    let tests = [test_names("tests"), test_names("crates")];
    let named: Vec<&str> = names_in(table).filter(|name| name.contains('_')).collect();
    assert!(named.len() >= 15, "{named:?}");
    for name in named {
        assert!(tests.iter().any(|known| known.contains(name)), "no test {name}");
    }
}

/// The id and the last cell of a row of the table.
fn row(line: &str) -> Option<(&str, &str)> {
    let cells: Vec<&str> = line.strip_prefix('|')?.split('|').map(str::trim).collect();
    let (id, cell) = (cells.first()?, cells.get(2)?);
    id.contains('-').then_some((*id, *cell))
}

fn names_in(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

/// Named by a row, as `sv_16_…` is.
fn is_conversation(name: &str) -> bool {
    let mut parts = name.splitn(3, '_');
    let prefix = parts.next().unwrap_or_default().to_uppercase();
    let is_number = parts.next().is_some_and(|number| number.parse::<u32>().is_ok());
    is_number && ROWS.iter().any(|(known, _)| *known == prefix)
}

/// Every function with `#[test]` or `#[tokio::test…]` below `top`.
fn test_names(top: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for file in rust_files(&repository().join(top)) {
        let text = std::fs::read_to_string(file).unwrap();
        let mut is_test = false;
        for line in text.lines().map(str::trim) {
            is_test |= line == "#[test]" || line.starts_with("#[tokio::test");
            let Some((_, rest)) = line.split_once("fn ").filter(|_| is_test) else { continue };
            is_test = false;
            names.extend(rest.split('(').next().map(str::to_owned));
        }
    }
    names
}

fn rust_files(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    files_below(dir, "rs")
}

fn files_below(dir: &std::path::Path, end: &str) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() && !path.ends_with("target") {
            files.extend(files_below(&path, end));
        } else if path.extension().is_some_and(|extension| extension == end) {
            files.push(path);
        }
    }
    files
}
