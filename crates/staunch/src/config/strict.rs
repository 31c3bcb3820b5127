//! A document read strictly: each key that is unknown or of another type, in the words of TOML.

use std::ops::Range;

use serde_path_to_error::{Path, Segment};
use toml::de::{DeTable, DeValue};

use super::file::{File, TABLE_LISTS};
use crate::likeness::nearest;

/// Our choice: more mistakes than these are not read at once.
const MISTAKES_MAX: usize = 50;

/// A key that cannot be taken.
#[derive(Debug)]
pub(super) struct Mistake {
    /// Where it stands in the document.
    pub(super) span: Option<Range<usize>>,
    /// With its section; empty where no key is at fault.
    pub(super) key: String,
    /// What is wrong, and what would be right.
    pub(super) reason: String,
}

/// All mistakes of a document. One after the other is taken out, until what is left can be read.
pub(super) fn mistakes(mut document: toml::Spanned<DeTable<'_>>) -> Vec<Mistake> {
    let mut found = Vec::new();
    while found.len() < MISTAKES_MAX {
        let deserializer = toml::Deserializer::from(document.clone());
        let Err(error) = serde_path_to_error::deserialize::<_, File>(deserializer) else { break };
        let path: Vec<Segment> = error.path().iter().cloned().collect();
        let (key, message) = (error.path().to_string(), error.inner().message());
        // It was there, and was taken out as a mistake of its own.
        let is_known = message
            .strip_prefix("missing field `")
            .and_then(|rest| rest.strip_suffix('`'))
            .is_some_and(|field| found.iter().any(|m: &Mistake| m.key == format!("{key}.{field}")));
        if !is_known {
            found.push(Mistake {
                span: error.inner().span(),
                reason: reason(message, error.path()),
                // `.` is what serde_path_to_error says at the top.
                key: if key == "." { String::new() } else { key },
            });
        }
        if !remove(document.get_mut(), &path) {
            break;
        }
    }
    found.sort_by_key(|mistake| mistake.span.as_ref().map(|span| span.start));
    found
}

/// Takes out what stands at the end of `path`. `false` if nothing does.
fn remove(table: &mut DeTable<'_>, path: &[Segment]) -> bool {
    let Some((Segment::Map { key }, rest)) = path.split_first() else { return false };
    let Some((_, value)) = table.iter_mut().find(|(name, _)| name.get_ref() == key) else {
        return false;
    };
    if rest.is_empty() || !remove_within(value.get_mut(), rest) {
        let kept = std::mem::replace(table, DeTable::new());
        table.extend(kept.into_iter().filter(|(name, _)| name.get_ref() != key));
    }
    true
}

/// In a list: only keys of its tables, since the indexes of its items must stay.
fn remove_within(value: &mut DeValue<'_>, path: &[Segment]) -> bool {
    if let DeValue::Table(inner) = value {
        return remove(inner, path);
    }
    let DeValue::Array(items) = value else { return false };
    let Some((Segment::Seq { index }, rest)) = path.split_first() else { return false };
    let item = items.get_mut(*index).map(|item| item.get_mut());
    match item {
        Some(DeValue::Table(inner)) if !rest.is_empty() => remove(inner, rest),
        Some(_) | None => false,
    }
}

/// serde's words in those of a TOML document.
pub(super) fn reason(message: &str, path: &Path) -> String {
    let message = message.split_whitespace().collect::<Vec<_>>().join(" ");
    if message.starts_with("unknown field") {
        return unknown(&message);
    }
    if let Some(key) = message.strip_prefix("missing field ") {
        return format!("{} is missing", key.trim_matches('`'));
    }
    let Some((found, wanted)) = message
        .strip_prefix("invalid type: ")
        .or_else(|| message.strip_prefix("invalid value: "))
        .and_then(|rest| rest.rsplit_once(", expected "))
    else {
        return message;
    };
    if let Some(section) = found.eq("map").then(|| single_section(path)).flatten() {
        return format!("there is one such section only: it is written [{section}]");
    }
    let is_list_of_tables = found == "map" && wanted == "a sequence";
    if is_list_of_tables {
        return format!("one table; several can be there, so it is written [[{path}]]");
    }
    let wanted = match wanted {
        "u8" => "a whole number from 0 to 255",
        "u16" => "a whole number from 0 to 65535",
        "u32" | "u64" | "usize" => "a whole number, 0 or more",
        "a string" => "text in quotes, with its unit where it has one, as \"30s\" or \"64KiB\"",
        "a boolean" => "true or false, without quotes",
        "a sequence" => "a list in brackets, as [\"a\", \"b\"]",
        wanted if wanted.starts_with("struct ") || wanted == "a map" => "a section",
        wanted => wanted,
    };
    let found = match found.split_once(' ') {
        Some(("string", text)) => format!("{text} is text"),
        Some(("integer" | "boolean", text)) => text.trim_matches('`').to_owned(),
        Some(("floating", text)) => text.trim_start_matches("point ").trim_matches('`').to_owned(),
        _ => match found {
            "map" => "this is a section".to_owned(),
            "sequence" => "this is a list".to_owned(),
            found => found.to_owned(),
        },
    };
    format!("{found}; wanted is {wanted}")
}

/// The name of a section that was written as if there could be several.
fn single_section(path: &Path) -> Option<&str> {
    let mut segments = path.iter();
    let (Some(Segment::Map { key }), Some(Segment::Seq { .. }), None) =
        (segments.next(), segments.next(), segments.next())
    else {
        return None;
    };
    (!TABLE_LISTS.contains(&key.as_str())).then_some(key)
}

/// What is unknown, with what it may have been meant to be.
fn unknown(message: &str) -> String {
    // The words in backticks are the key, then the known ones.
    let mut words = message.split('`').skip(1).step_by(2);
    let key = words.next().unwrap_or_default();
    unknown_key(key, &words.collect::<Vec<_>>())
}

/// The same of a key among those that are `known` at its place.
pub(super) fn unknown_key(key: &str, known: &[&str]) -> String {
    let listed = format!("known here: {}", known.join(", "));
    if let Some(meant) = nearest(key, known.iter().copied()) {
        return format!("unknown key; did you mean {meant}? {listed}");
    }
    match elsewhere(key).as_slice() {
        [] => format!("unknown key; {listed}"),
        places => format!("unknown key; it stands in another section: {}", places.join(", ")),
    }
}

/// The keys of other sections that have this name.
fn elsewhere(name: &str) -> Vec<String> {
    let Ok(defaults) = toml::Table::try_from(File::default()) else { return Vec::new() };
    let sections =
        defaults.iter().filter_map(|(section, value)| Some((section, value.as_table()?)));
    sections
        .filter(|(_, keys)| keys.contains_key(name))
        .map(|(section, _)| format!("{section}.{name}"))
        .collect()
}
