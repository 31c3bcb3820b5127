//! The effective configuration, with where each value comes from.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::file::File;

/// Column at which the sources begin, where the value leaves room.
const SOURCE_COLUMN: usize = 48;

/// What `config show` prints: valid TOML, with the source of each value behind it.
///
/// Nothing in it is secret: secrets are kept in files of their own, and only their paths are here.
#[derive(Clone, Debug)]
pub(crate) struct ShownConfig {
    pub(super) file: File,
    pub(super) sources: KeySources,
}

/// Where each key was set, by its path (`delivery.retry`, `listener[0].address`).
#[derive(Clone, Debug, Default)]
pub(super) struct KeySources(pub(super) BTreeMap<String, String>);

impl KeySources {
    /// The place of `key`, of the nearest table or list around it, or `default`.
    pub(super) fn of(&self, key: &str) -> &str {
        let mut key = key;
        loop {
            if let Some(place) = self.0.get(key) {
                return place;
            }
            match key.rfind(['.', '[']).and_then(|end| key.get(..end)) {
                Some(outer) => key = outer,
                None => return "default",
            }
        }
    }
}

impl ShownConfig {
    /// One object: key to `{"value", "source"}`.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        let entry = |(key, value): (String, serde_json::Value)| {
            let entry = serde_json::json!({ "value": value, "source": self.sources.of(&key) });
            (key, entry)
        };
        serde_json::Value::Object(self.values().into_iter().map(entry).collect())
    }

    /// The keys whose values differ from those in `other`, in the order of their names.
    pub(crate) fn changes(&self, other: &Self) -> Vec<String> {
        let (mine, others) = (self.values(), other.values());
        let differs = |key: &&String| mine.get(*key) != others.get(*key);
        let keys: BTreeSet<&String> = mine.keys().chain(others.keys()).collect();
        keys.into_iter().filter(differs).cloned().collect()
    }

    /// Every key with its section, and in tables of lists with its index.
    fn values(&self) -> BTreeMap<String, serde_json::Value> {
        let mut values = BTreeMap::new();
        if let Ok(value) = serde_json::to_value(&self.file) {
            flatten(String::new(), value, &mut values);
        }
        values
    }
}

fn flatten(
    path: String,
    value: serde_json::Value,
    values: &mut BTreeMap<String, serde_json::Value>,
) {
    match value {
        serde_json::Value::Object(table) => {
            for (key, value) in table {
                let path = if path.is_empty() { key } else { format!("{path}.{key}") };
                flatten(path, value, values);
            }
        }
        serde_json::Value::Array(items) if items.iter().any(serde_json::Value::is_object) => {
            for (index, item) in items.into_iter().enumerate() {
                flatten(format!("{path}[{index}]"), item, values);
            }
        }
        plain @ (serde_json::Value::Null
        | serde_json::Value::Bool(_)
        | serde_json::Value::Number(_)
        | serde_json::Value::String(_)
        | serde_json::Value::Array(_)) => {
            values.insert(path, plain);
        }
    }
}

impl fmt::Display for ShownConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = toml::to_string(&self.file).map_err(|_| fmt::Error)?;
        let mut section = String::new();
        let mut tables = BTreeMap::new();
        for line in text.lines() {
            if let Some(name) = line.strip_prefix("[[").and_then(|l| l.strip_suffix("]]")) {
                let index: &mut usize = tables.entry(name).or_default();
                section = format!("{name}[{index}].");
                *index += 1;
                writeln!(f, "{line}")?;
            } else if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
                section = format!("{name}.");
                writeln!(f, "{line}")?;
            } else if let Some((key, _)) = line.split_once(" = ") {
                let source = self.sources.of(&format!("{section}{key}"));
                writeln!(f, "{line:SOURCE_COLUMN$} # {source}")?;
            } else {
                writeln!(f, "{line}")?;
            }
        }
        Ok(())
    }
}
