//! What operators read about events and reasons is what the code says.

use std::collections::BTreeSet;
use std::path::Path;

use smtp::{Class, Status};

use crate::telemetry::Reason;

const EVENTS: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/operations/events.md"));
const REASONS: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/operations/reasons.md"));

/// The first two cells of each row of the first table with this heading; the first one without
/// backticks.
fn table(page: &'static str, heading: &str) -> Vec<(&'static str, &'static str)> {
    let start = format!("| {heading} |");
    page.lines()
        .skip_while(|line| !line.starts_with(&start))
        .skip(2)
        .map_while(|line| line.strip_prefix('|'))
        .map(|line| {
            let mut cells = line.split('|').map(str::trim);
            (cells.next().unwrap().trim_matches('`'), cells.next().unwrap())
        })
        .collect()
}

/// What stands in quotes behind `key = ` anywhere in our sources.
fn written(key: &str) -> BTreeSet<String> {
    let start = format!("{key} = \"");
    let mut found = BTreeSet::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = std::fs::read_to_string(path).unwrap();
            let behind = text.split(&start).skip(1);
            let words = behind.filter_map(|rest| rest.split('"').next());
            let is_word = |word: &&str| word.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
            found.extend(words.filter(|word| !word.is_empty()).filter(is_word).map(str::to_owned));
        }
    }
    found
}

#[test]
fn every_event_is_in_the_table_and_the_reverse() {
    let documented: BTreeSet<String> =
        table(EVENTS, "event").into_iter().map(|(event, _)| event.to_owned()).collect();
    assert_eq!(documented, written("event"), "docs/operations/events.md against the sources");
}

#[test]
fn the_list_of_all_reasons_has_each_of_them() {
    let source = syn::parse_file(include_str!("reason.rs")).unwrap();
    let variants = source.items.iter().find_map(|item| {
        let syn::Item::Enum(item) = item else { return None };
        (item.ident == "Reason").then(|| item.variants.len())
    });
    let all: BTreeSet<Reason> = Reason::ALL.into_iter().collect();
    assert_eq!(Some(all.len()), variants);
}

#[test]
fn every_reason_has_its_row_and_code() {
    let documented = table(REASONS, "reason");
    let want: Vec<(&str, String)> = Reason::ALL
        .into_iter()
        .map(|reason| (reason.as_str(), reason.status().to_string()))
        .collect();
    let documented: Vec<(&str, String)> =
        documented.into_iter().map(|(reason, code)| (reason, code.to_owned())).collect();
    assert_eq!(documented, want, "docs/operations/reasons.md against telemetry::Reason");
    // Permanent codes are for causes that can end mail at once; the rest waits.
    for (reason, code) in documented {
        let class = Status::parse(&code).unwrap().class;
        assert_ne!(class, Class::Success, "{reason}");
    }
}
