//! Keys that this version knows by name only: what may they say today?
//!
//! A file written for more than this version does may switch off what there is none of. That is the
//! truth, so it is taken and dropped. Every other value would promise something that does not
//! happen, so it is refused, with other words than a misspelt key.

use std::ops::Range;

use toml::de::{DeTable, DeValue};

/// Path of a key, in tables of lists without index, and the values that say what happens anyway, as
/// TOML writes them. None: no value does.
pub(super) const LATER: &[(&str, &[&str])] = &[
    // Whose AD bit counts under dnssec = "trust-ad", which is refused itself.
    ("dns.trust_ad_from", &["[]", "[\"127.0.0.0/8\", \"::1/128\"]"]),
    ("dns.trust_anchor", &["\"\""]),
    ("dane.mode", &["\"off\""]),
    ("require_tls.tls_required_no", &["\"never\""]),
    ("require_tls.tls_required_no_networks", &["[]"]),
    ("route.proxy", &["\"\""]),
    ("rule", &[]),
    ("dsn.postmaster_copy", &["\"\""]),
    ("tls_rpt.enabled", &["\"off\""]),
    ("tls_rpt.organization", &["\"\""]),
    ("tls_rpt.contact", &["\"\""]),
    ("tls_rpt.from", &["\"\""]),
    ("tls_rpt.send_window", &[]),
    ("tls_rpt.collector", &["\"\""]),
    ("tls_rpt.receive", &["\"\""]),
    ("dkim", &[]),
    ("postfix.socketmap", &["\"\""]),
    ("admin.listen", &["\"\""]),
    ("admin.hosts", &[]),
    ("admin.token_file", &["\"\""]),
    ("alarm.webhook", &["\"\""]),
    ("history.policies", &["\"0s\""]),
    ("history.deliveries", &["\"0s\""]),
    ("telemetry.otlp_endpoint", &["\"\""]),
];

/// A key that says more than this version does.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct TooEarly {
    /// The key with its section, in tables of lists with index.
    pub(super) key: String,
    /// Octets of the document where the key stands.
    pub(super) span: Range<usize>,
    /// What is wrong with it.
    pub(super) reason: String,
}

/// Takes the keys of [`LATER`] out of a document, and their sections with them. Returns those that
/// must not be there.
pub(super) fn take_out(document: &mut DeTable<'_>) -> Vec<TooEarly> {
    let mut refused = Vec::new();
    take_out_of(document, &Path::default(), &mut refused);
    refused
}

/// What [`LATER`] says to a variable's key and text: nothing if it is not there.
pub(super) fn variable(key: &str, text: &str) -> Option<Result<(), String>> {
    let bare = |value: &&str| value.replace(['"', '[', ']', ' '], "");
    let (_, truths) = LATER.iter().find(|(path, _)| *path == key)?;
    let is_true = truths.iter().any(|value| bare(value) == text.replace(' ', ""));
    Some(if is_true { Ok(()) } else { Err(reason(&format!("{text:?}"), truths)) })
}

/// A place in the document, as [`LATER`] has it and as the operator sees it.
#[derive(Clone, Debug, Default)]
struct Path {
    plain: String,
    indexed: String,
}

impl Path {
    fn join(&self, key: &str) -> Self {
        let join = |path: &str| if path.is_empty() { key.into() } else { format!("{path}.{key}") };
        Self { plain: join(&self.plain), indexed: join(&self.indexed) }
    }

    fn index(&self, index: usize) -> Self {
        Self { plain: self.plain.clone(), indexed: format!("{}[{index}]", self.indexed) }
    }
}

fn take_out_of(table: &mut DeTable<'_>, at: &Path, refused: &mut Vec<TooEarly>) {
    for (key, mut value) in std::mem::replace(table, DeTable::new()) {
        let path = at.join(key.get_ref());
        if let Some((_, truths)) = LATER.iter().find(|(later, _)| *later == path.plain) {
            let written = literal(value.get_ref());
            if !truths.contains(&written.as_str()) {
                let reason = reason(&written, truths);
                refused.push(TooEarly { key: path.indexed, span: key.span(), reason });
            }
        } else if !is_used_up(value.get_mut(), &path, refused) {
            table.insert(key, value);
        }
    }
}

/// Takes out of what is inside. Is nothing left of a section that [`LATER`] has keys of?
fn is_used_up(value: &mut DeValue<'_>, at: &Path, refused: &mut Vec<TooEarly>) -> bool {
    match value {
        DeValue::Table(inner) => {
            take_out_of(inner, at, refused);
            let is_above = |key: &str| {
                key.strip_prefix(at.plain.as_str()).is_some_and(|rest| rest.starts_with('.'))
            };
            inner.is_empty() && LATER.iter().any(|(key, _)| is_above(key))
        }
        DeValue::Array(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                if let DeValue::Table(inner) = item.get_mut() {
                    take_out_of(inner, &at.index(index), refused);
                }
            }
            false
        }
        DeValue::String(_)
        | DeValue::Integer(_)
        | DeValue::Float(_)
        | DeValue::Boolean(_)
        | DeValue::Datetime(_) => false,
    }
}

fn reason(written: &str, truths: &[&str]) -> String {
    match truths.first() {
        None => "not in this version".into(),
        Some(value) => format!("{written}: not in this version, where it is always {value}"),
    }
}

/// The value as TOML writes it, for those kinds that [`LATER`] has.
fn literal(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("{text:?}"),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        DeValue::Boolean(value) => value.to_string(),
        DeValue::Datetime(time) => time.to_string(),
        DeValue::Array(items) => {
            let items: Vec<String> = items.iter().map(|item| literal(item.get_ref())).collect();
            format!("[{}]", items.join(", "))
        }
        DeValue::Table(_) => "{}".into(),
    }
}
