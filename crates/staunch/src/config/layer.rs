//! One voice in the configuration: a document or the variables, each value with its place.

use std::collections::BTreeMap;
use std::ffi::OsString;

use ::config as layers;
use toml::de::{DeTable, DeValue};

use super::file::{File, TABLE_LISTS};
use super::show::KeySources;
use super::{ConfigError, ConfigProblem, later, not_toml, strict, surroundings};

/// Before the names of sections and keys.
pub(super) const VARIABLE_PREFIX: &str = "STAUNCH__";

/// Values with their places, as the `config` crate takes them.
#[derive(Clone, Debug, Default)]
pub(super) struct Layer {
    values: layers::Map<String, layers::Value>,
}

impl layers::Source for Layer {
    fn clone_into_box(&self) -> Box<dyn layers::Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<layers::Map<String, layers::Value>, layers::ConfigError> {
        Ok(self.values.clone())
    }
}

impl Layer {
    /// Reads a document strictly: unknown keys and inexact types are refused.
    ///
    /// # Errors
    ///
    /// [`ConfigProblem`]s with `name` and line.
    pub(super) fn of_document(name: &str, text: &str) -> Result<Self, ConfigError> {
        let syntax = |error: toml::de::Error| {
            let (key, reason) = not_toml::problem(text, error.span(), &one_line(error.message()));
            ConfigProblem { place: place(name, text, error.span()), key, reason }
        };
        let mut table = DeTable::parse(text).map_err(syntax)?;
        let too_early = later::take_out(table.get_mut());
        if !too_early.is_empty() {
            let problem = |early: later::TooEarly| ConfigProblem {
                place: place(name, text, Some(early.span)),
                key: early.key,
                reason: early.reason,
            };
            return Err(ConfigError(too_early.into_iter().map(problem).collect()));
        }
        let problem = |mistake: strict::Mistake| ConfigProblem {
            place: place(name, text, mistake.span),
            key: mistake.key,
            reason: mistake.reason,
        };
        let problems: Vec<_> = strict::mistakes(table.clone()).into_iter().map(problem).collect();
        if !problems.is_empty() {
            return Err(ConfigError(problems));
        }
        let convert = Convert { name, text };
        Ok(Self { values: convert.table(table.get_ref()) })
    }

    /// Takes the variables `STAUNCH__…`; `None` if there are none.
    ///
    /// A default's type says how the text of a variable is read: nothing is guessed from the text.
    ///
    /// # Errors
    ///
    /// Every variable that names no key or does not fit it.
    pub(super) fn of_variables(
        variables: &BTreeMap<OsString, OsString>,
    ) -> Result<Option<Self>, ConfigError> {
        let defaults = defaults()?;
        let mut root = layers::Value::from(layers::Map::<String, layers::Value>::new());
        let mut problems = Vec::new();
        for (name, value) in variables {
            let Some(name) = name.to_str().filter(|name| name.starts_with(VARIABLE_PREFIX)) else {
                continue;
            };
            match variable(name, value, &defaults) {
                Ok(Some((path, value))) => insert(&mut root, &path, value),
                Ok(None) => {}
                Err(problem) => problems.push(problem),
            }
        }
        if !problems.is_empty() {
            return Err(ConfigError(problems));
        }
        Ok(root.into_table().ok().filter(|t| !t.is_empty()).map(|values| Self { values }))
    }
}

/// Puts the layers one above the other. Returns the result and where each value stands.
///
/// # Errors
///
/// None that the strict reading of each layer would have left; named all the same.
pub(super) fn merge(mut layers: Vec<Layer>) -> Result<(File, KeySources), ConfigError> {
    let mut lists = Layer::default();
    for key in TABLE_LISTS {
        let tables: Vec<layers::Value> = layers
            .iter_mut()
            .filter_map(|layer| layer.values.remove(key))
            .filter_map(|value| value.into_array().ok())
            .flatten()
            .collect();
        if !tables.is_empty() {
            lists.values.insert(key.to_owned(), layers::Value::new(None, tables));
        }
    }
    let unexpected = |error: layers::ConfigError| ConfigProblem {
        place: "configuration".into(),
        key: String::new(),
        reason: one_line(&error.to_string()),
    };
    let defaults = layers::Config::try_from(&File::default()).map_err(unexpected)?;
    let mut builder = layers::Config::builder().add_source(defaults).add_source(lists);
    for layer in layers {
        builder = builder.add_source(layer);
    }
    let merged = builder.build().map_err(unexpected)?;
    let mut sources = KeySources::default();
    note_places(String::new(), &merged.cache, &mut sources);
    let file = merged.try_deserialize::<File>().map_err(unexpected)?;
    Ok((file, sources))
}

fn note_places(path: String, value: &layers::Value, sources: &mut KeySources) {
    if let Some(place) = value.origin() {
        sources.0.insert(path.clone(), place.to_owned());
    }
    if let layers::ValueKind::Table(table) = &value.kind {
        for (key, value) in table {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            note_places(path, value, sources);
        }
    } else if let layers::ValueKind::Array(items) = &value.kind {
        for (index, item) in items.iter().enumerate() {
            note_places(format!("{path}[{index}]"), item, sources);
        }
    }
}

fn place(name: &str, text: &str, span: Option<std::ops::Range<usize>>) -> String {
    let before = span.and_then(|span| text.as_bytes().get(..span.start));
    match before {
        Some(before) => format!("{name}:{}", memchr::memchr_iter(b'\n', before).count() + 1),
        None => name.to_owned(),
    }
}

fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A document's values for the `config` crate. The strict reading came first, so that other kinds
/// than these do not occur.
#[derive(Clone, Copy)]
struct Convert<'a> {
    name: &'a str,
    text: &'a str,
}

impl Convert<'_> {
    fn table(self, table: &DeTable<'_>) -> layers::Map<String, layers::Value> {
        table
            .iter()
            .map(|(key, value)| {
                let origin = place(self.name, self.text, Some(key.span()));
                (key.get_ref().to_string(), self.value(value, origin))
            })
            .collect()
    }

    fn value(self, value: &toml::Spanned<DeValue<'_>>, origin: String) -> layers::Value {
        let kind = match value.get_ref() {
            DeValue::Table(table) => layers::ValueKind::Table(self.table(table)),
            DeValue::Array(items) => layers::ValueKind::Array(
                items
                    .iter()
                    .map(|item| {
                        let origin = place(self.name, self.text, Some(item.span()));
                        self.value(item, origin)
                    })
                    .collect(),
            ),
            DeValue::Boolean(value) => layers::ValueKind::Boolean(*value),
            DeValue::Integer(digits) => {
                match i64::from_str_radix(digits.as_str(), digits.radix()) {
                    Ok(number) => layers::ValueKind::I64(number),
                    Err(_) => layers::ValueKind::String(digits.as_str().to_owned()),
                }
            }
            DeValue::String(text) => layers::ValueKind::String(text.to_string()),
            DeValue::Float(text) => layers::ValueKind::String(text.as_str().to_owned()),
            DeValue::Datetime(time) => layers::ValueKind::String(time.to_string()),
        };
        layers::Value::new(Some(&origin), kind)
    }
}

/// The defaults as a table, whose types are those of the keys.
fn defaults() -> Result<toml::Table, ConfigProblem> {
    toml::Table::try_from(File::default()).map_err(|error| ConfigProblem {
        place: "default".into(),
        key: String::new(),
        reason: error.to_string(),
    })
}

/// What one variable says: path and value, or nothing if it is empty.
fn variable(
    name: &str,
    value: &OsString,
    defaults: &toml::Table,
) -> Result<Option<(Vec<String>, layers::Value)>, ConfigProblem> {
    let text = value.to_str().ok_or_else(|| surroundings::not_utf8(name))?;
    if text.is_empty() {
        return Ok(None);
    }
    let path: Vec<String> =
        name.trim_start_matches(VARIABLE_PREFIX).split("__").map(str::to_ascii_lowercase).collect();
    let problem =
        |reason: String| ConfigProblem { place: name.to_owned(), key: path.join("."), reason };
    if path.first().is_some_and(|first| TABLE_LISTS.contains(&first.as_str())) {
        let reason = "[[...]] tables are written into STAUNCH_CONFIG_TOML, as a TOML document";
        return Err(problem(reason.into()));
    }
    if let Some(said) = later::variable(&path.join("."), text) {
        return said.map(|()| None).map_err(problem);
    }
    let default = lookup(defaults, &path).ok_or_else(|| problem(unknown(defaults, &path)))?;
    let typed = typed(text, default).map_err(|reason| problem(format!("{text:?}: {reason}")))?;
    // The strict reading that a document gets: ranges of numbers are the key's, not TOML's.
    let nested = path.iter().rev().fold(typed.clone(), |inner, key| {
        toml::Value::Table([(key.clone(), inner)].into_iter().collect())
    });
    serde_path_to_error::deserialize::<_, File>(nested)
        .map_err(|error| problem(strict::reason(error.inner().message(), error.path())))?;
    Ok(Some((path, for_layer(name, typed))))
}

/// What is said of a path that is no key: with what it may have been meant to be.
fn unknown(defaults: &toml::Table, path: &[String]) -> String {
    match path {
        [first, _] if first == "aliases" => {
            "only postmaster has a variable; other names are written into a file or \
             STAUNCH_CONFIG_TOML"
                .to_owned()
        }
        [section, key] if defaults.get(section).is_some_and(toml::Value::is_table) => {
            let known = defaults.get(section).and_then(toml::Value::as_table);
            let known: Vec<&str> =
                known.into_iter().flat_map(toml::Table::keys).map(String::as_str).collect();
            strict::unknown_key(key, &known)
        }
        [first, ..] => {
            let known: Vec<&str> = defaults.keys().map(String::as_str).collect();
            strict::unknown_key(first, &known)
        }
        [] => "unknown key".to_owned(),
    }
}

/// The variable whose name is `name` once underscores are doubled.
pub(super) fn nearest_variable(name: &str) -> Option<String> {
    let defaults = defaults().ok()?;
    let mut names = Vec::new();
    for (key, value) in &defaults {
        match value.as_table() {
            Some(section) => names.extend(section.keys().map(|inner| format!("{key}__{inner}"))),
            None => names.push(key.clone()),
        }
    }
    let names =
        names.into_iter().map(|name| format!("{VARIABLE_PREFIX}{}", name.to_ascii_uppercase()));
    let plain = |name: &str| name.replace("__", "_");
    names.into_iter().find(|known| plain(known) == plain(name))
}

fn lookup<'a>(table: &'a toml::Table, path: &[String]) -> Option<&'a toml::Value> {
    let (first, rest) = path.split_first()?;
    let value = table.get(first)?;
    if rest.is_empty() { Some(value) } else { lookup(value.as_table()?, rest) }
}

fn typed(text: &str, default: &toml::Value) -> Result<toml::Value, &'static str> {
    match default {
        toml::Value::String(_) => Ok(toml::Value::String(text.to_owned())),
        toml::Value::Integer(_) => {
            text.parse().map(toml::Value::Integer).map_err(|_| "not a whole number")
        }
        toml::Value::Boolean(_) => {
            text.parse().map(toml::Value::Boolean).map_err(|_| "neither true nor false")
        }
        toml::Value::Array(_) => {
            let items = text.split(',').map(|item| toml::Value::String(item.trim().to_owned()));
            Ok(toml::Value::Array(items.collect()))
        }
        toml::Value::Table(_) => Err("a section, not a key"),
        toml::Value::Float(_) | toml::Value::Datetime(_) => Err("no key has this type"),
    }
}

fn for_layer(name: &str, value: toml::Value) -> layers::Value {
    let kind = match value {
        toml::Value::String(text) => layers::ValueKind::String(text),
        toml::Value::Integer(number) => layers::ValueKind::I64(number),
        toml::Value::Boolean(value) => layers::ValueKind::Boolean(value),
        toml::Value::Array(items) => {
            layers::ValueKind::Array(items.into_iter().map(|item| for_layer(name, item)).collect())
        }
        toml::Value::Float(_) | toml::Value::Datetime(_) | toml::Value::Table(_) => {
            layers::ValueKind::Nil
        }
    };
    layers::Value::new(Some(&name.to_owned()), kind)
}

fn insert(root: &mut layers::Value, path: &[String], value: layers::Value) {
    let Some((first, rest)) = path.split_first() else { return };
    let layers::ValueKind::Table(table) = &mut root.kind else { return };
    if rest.is_empty() {
        table.insert(first.clone(), value);
        return;
    }
    let empty = || layers::Value::from(layers::Map::<String, layers::Value>::new());
    insert(table.entry(first.clone()).or_insert_with(empty), rest, value);
}
