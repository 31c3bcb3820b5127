//! Does the domain say that it has a policy, and which one? (RFC 8461 §3.1)
//!
//! The TXT record is read literally: a record that breaks the grammar anywhere counts as no record,
//! because RFC 8461 §3.1 says so. The one allowance is blanks in front of the first `;`, which the
//! prose forbids and the grammar allows (EID 6285).
//!
//! Not here: asking DNS, and what a missing record means for a kept policy ([`super::cache`]).

use std::fmt;

use smtp::RemoteText;

/// RFC 8461 §3.1: `sts-id` and `sts-ext-name` have 1 to 32 characters.
const NAME_CHARS_MAX: usize = 32;
/// Our choice: more findings than this say nothing new, and a record may have 64 KiB of them.
const FLAWS_MAX: usize = 16;
/// RFC 8461 §3.1: case-sensitive, and always the first field.
pub(super) const VERSION: &[u8] = b"v=STSv1";

/// The name of one version of a policy: 1 to 32 ASCII letters and digits, compared by case.
///
/// Ids have no order: a smaller one is as new as a greater one.
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Id(Box<str>);

impl Id {
    /// The id, if `text` is one.
    ///
    /// ```
    /// use policy::sts::Id;
    /// assert!(Id::parse("20160831085700Z").is_some());
    /// assert!(Id::parse("2016-08-31").is_none());
    /// ```
    pub fn parse(text: &str) -> Option<Self> {
        let fits = (1..=NAME_CHARS_MAX).contains(&text.len());
        (fits && text.bytes().all(|b| b.is_ascii_alphanumeric())).then(|| Self(text.into()))
    }

    /// For a policy that is fetched although no record could be had: whatever id a record names
    /// then is another one.
    pub(crate) fn unknown() -> Self {
        Self("unknown".into())
    }

    /// The id as it was published.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a set of TXT records names no policy.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum RecordError {
    /// No record begins with `v=STSv1;`.
    #[error("no MTA-STS record")]
    NoRecord,
    /// More than one does, and none may be preferred (RFC 8461 §3.1).
    #[error("{count} MTA-STS records where one is allowed")]
    Several {
        /// How many records begin with `v=STSv1;`.
        count: usize,
    },
    /// The one that does breaks the grammar.
    #[error("malformed MTA-STS record: {0}")]
    Malformed(Flaw),
}

/// One violation of the record's grammar.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{rule} ({found})")]
pub struct Flaw {
    /// The rule of the grammar that was broken.
    pub rule: Rule,
    /// The field or record that broke it.
    pub found: RemoteText,
}

/// The rules that a record can break (RFC 8461 §3.1).
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Rule {
    /// Not a record at all: the version is not first, not `v=STSv1`, or not followed by `;`.
    #[error("does not begin with v=STSv1;")]
    Version,
    /// There is no `id`.
    #[error("has no id field")]
    IdMissing,
    /// The `id` is not 1 to 32 letters and digits.
    #[error("the id is not 1 to 32 ASCII letters and digits")]
    IdSyntax,
    /// Two `;` with nothing between.
    #[error("a field is empty")]
    FieldEmpty,
    /// No `=`, or a name that is not 1 to 32 letters, digits, `_`, `-`, `.`.
    #[error("a field is not name=value")]
    FieldName,
    /// An empty value, or one with blanks, `=`, control characters or non-ASCII.
    #[error("a field's value is empty or has a character that is not allowed")]
    FieldValue,
    /// Blanks after the last field without a `;`.
    #[error("blanks at the end")]
    TrailingBlank,
}

impl Rule {
    /// The word for the JSON of `policy lint-record`.
    pub fn code(self) -> &'static str {
        match self {
            Self::Version => "not_a_record",
            Self::IdMissing => "id_missing",
            Self::IdSyntax => "id_syntax",
            Self::FieldEmpty => "field_empty",
            Self::FieldName => "field_name",
            Self::FieldValue => "field_value",
            Self::TrailingBlank => "trailing_blank",
        }
    }
}

/// The id that a domain's TXT records name.
///
/// `records` are the records of `_mta-sts.DOMAIN`, each with its strings already joined.
///
/// # Errors
///
/// [`RecordError`] if they name none, or not exactly one.
///
/// ```
/// use policy::sts::{RecordError, parse_txt};
/// assert_eq!(parse_txt(&[b"v=STSv1; id=1".to_vec()])?.as_str(), "1");
/// assert_eq!(parse_txt(&[]), Err(RecordError::NoRecord));
/// # Ok::<(), RecordError>(())
/// ```
pub fn parse_txt(records: &[Vec<u8>]) -> Result<Id, RecordError> {
    // RFC 8461 §3.1: what is no MTA-STS record is dropped before counting.
    let mut candidates = records.iter().filter_map(|record| fields_of(record));
    let Some(fields) = candidates.next() else {
        return Err(RecordError::NoRecord);
    };
    let others = candidates.count();
    if others > 0 {
        return Err(RecordError::Several { count: others + 1 });
    }
    let read = read_fields(fields);
    match (read.id, read.broken.into_iter().next()) {
        (Some(id), None) => Ok(id),
        (_, Some((rule, found))) => {
            Err(RecordError::Malformed(Flaw { rule, found: RemoteText::from_bytes(found) }))
        }
        (None, None) => Err(RecordError::NoRecord),
    }
}

/// A rule, and the octets that break it.
pub(super) type BrokenRule<'r> = (Rule, &'r [u8]);

/// Everything that breaks the grammar, of every record that is or tries to be one of ours.
pub(super) fn broken(records: &[Vec<u8>]) -> Vec<BrokenRule<'_>> {
    let broken_in = |record| match fields_of(record) {
        Some(fields) => read_fields(fields).broken,
        None if tries_to_be_one(record) => vec![(Rule::Version, record)],
        None => Vec::new(),
    };
    records.iter().flat_map(|record| broken_in(record.as_slice())).collect()
}

/// Other TXT records may stand at the name; only what looks like ours is worth a word.
pub(super) fn tries_to_be_one(record: &[u8]) -> bool {
    let letters = |octet: &u8| octet.is_ascii_alphanumeric() || *octet == b'=';
    let lower: Vec<u8> =
        record.iter().filter(|octet| letters(octet)).map(u8::to_ascii_lowercase).collect();
    let has = |part: &[u8]| lower.windows(part.len()).any(|window| window == part);
    has(b"stsv1") || has(b"v=sts") || has(b"v=mtasts")
}

/// What follows the first `;`, if the record begins as one of ours.
pub(super) fn fields_of(record: &[u8]) -> Option<&[u8]> {
    let rest = record.strip_prefix(VERSION)?;
    trim_start(rest).strip_prefix(b";")
}

#[derive(Default)]
struct Read<'r> {
    id: Option<Id>,
    broken: Vec<BrokenRule<'r>>,
}

/// `*WSP field *( *WSP ";" *WSP field ) [ *WSP ";" *WSP ]`, without the first delimiter.
fn read_fields(fields: &[u8]) -> Read<'_> {
    let mut read = Read::default();
    let mut id_seen = false;
    let mut pieces = fields.split(|&b| b == b';').peekable();
    while let Some(piece) = pieces.next() {
        read.broken.truncate(FLAWS_MAX);
        let last = pieces.peek().is_none();
        let field = trim_end(trim_start(piece));
        let fault = if field.is_empty() {
            (!last).then_some(Rule::FieldEmpty)
        } else if last && trim_end(piece).len() < piece.len() {
            Some(Rule::TrailingBlank)
        } else {
            None
        };
        read.broken.extend(fault.map(|rule| (rule, piece)));
        if field.is_empty() {
            continue;
        }
        match field.strip_prefix(b"id=") {
            // RFC 8461 §3.2: of several, the first counts; the others are extensions like any.
            Some(value) if !id_seen => {
                id_seen = true;
                read.id = std::str::from_utf8(value).ok().and_then(Id::parse);
                if read.id.is_none() {
                    read.broken.push((Rule::IdSyntax, field));
                }
            }
            _ => read.broken.extend(extension_flaw(field).map(|rule| (rule, field))),
        }
    }
    if !id_seen {
        read.broken.push((Rule::IdMissing, fields));
    }
    read
}

fn extension_flaw(field: &[u8]) -> Option<Rule> {
    let Some(at) = field.iter().position(|&b| b == b'=') else {
        return Some(Rule::FieldName);
    };
    let (name, value) = field.split_at_checked(at)?;
    if !is_extension_name(name) {
        return Some(Rule::FieldName);
    }
    let value = value.strip_prefix(b"=").unwrap_or_default();
    let allowed = |&b: &u8| b.is_ascii_graphic() && b != b'=';
    (value.is_empty() || !value.iter().all(allowed)).then_some(Rule::FieldValue)
}

/// RFC 8461 §3.1 and §3.2: the same for record and policy file.
pub(super) fn is_extension_name(name: &[u8]) -> bool {
    let rest = |&b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    name.len() <= NAME_CHARS_MAX
        && name.first().is_some_and(u8::is_ascii_alphanumeric)
        && name.iter().all(rest)
}

/// WSP of the grammar is space and tab, nothing else.
pub(super) fn trim_start(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = bytes {
        bytes = rest;
    }
    bytes
}

pub(super) fn trim_end(mut bytes: &[u8]) -> &[u8] {
    while let [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::vectors::{self, VectorRow};

    fn one(record: &str) -> Result<Id, RecordError> {
        parse_txt(&[record.as_bytes().to_vec()])
    }

    fn rule(record: &str) -> Option<Rule> {
        match one(record) {
            Err(RecordError::Malformed(flaw)) => Some(flaw.rule),
            Ok(_) | Err(RecordError::NoRecord | RecordError::Several { .. }) => None,
        }
    }

    #[test]
    fn every_txt_vector_is_read_as_listed() {
        for VectorRow { id, cells } in vectors::rows("txt.tsv") {
            let strings: Vec<Vec<String>> = serde_json::from_str(&cells[0]).unwrap();
            let records: Vec<_> = strings.iter().map(|s| s.concat().into_bytes()).collect();
            let got =
                parse_txt(&records).map_or_else(|_| "none".to_owned(), |id| format!("id={id}"));
            assert_eq!(got, cells[2], "{id}");
        }
    }

    #[test]
    fn a_malformed_record_says_which_rule_it_breaks() {
        let long = format!("v=STSv1; id={}", "a".repeat(33));
        let cases = [
            ("v=STSv1;", Rule::IdMissing),
            ("v=STSv1; ", Rule::IdMissing),
            ("v=STSv1; ID=abc", Rule::IdMissing),
            ("v=STSv1; id=", Rule::IdSyntax),
            ("v=STSv1; id =a", Rule::FieldName),
            ("v=STSv1; id= a", Rule::IdSyntax),
            (long.as_str(), Rule::IdSyntax),
            ("v=STSv1; id=x-y; id=abc", Rule::IdSyntax), // the first counts, also when it is bad
            ("v=STSv1;; id=a", Rule::FieldEmpty),
            ("v=STSv1; id=a;;", Rule::FieldEmpty),
            ("v=STSv1; id=a; flag", Rule::FieldName),
            ("v=STSv1; id=a; -x=1", Rule::FieldName),
            ("v=STSv1; id=a; =1", Rule::FieldName),
            ("v=STSv1; id=a; x=", Rule::FieldValue),
            ("v=STSv1; id=a; x=b=c", Rule::FieldValue),
            ("v=STSv1; id=a; x=ü", Rule::FieldValue),
            ("v=STSv1; id=a; x=\u{7f}", Rule::FieldValue),
            ("v=STSv1; id=a\t", Rule::TrailingBlank),
            ("v=STSv1; id=a\u{a0}", Rule::IdSyntax),
        ];
        for (record, want) in cases {
            assert_eq!(rule(record), Some(want), "{record:?}");
        }
    }

    #[test]
    fn what_the_grammar_allows_is_accepted() {
        let id = "a".repeat(32);
        let longest = format!("v=STSv1;id={id};{}=1", "n".repeat(32));
        let cases = [
            (longest.as_str(), id.as_str()),
            ("v=STSv1;id=a;", "a"),
            ("v=STSv1; id=a ; ", "a"),
            ("v=STSv1; \t id=a \t;\tx=y", "a"),
            ("v=STSv1 \t; id=a", "a"),
            ("v=STSv1; x_.-9=https://h/p?q; id=b", "b"),
            ("v=STSv1; id=Ab; id=ab", "Ab"),
        ];
        for (record, want) in cases {
            assert_eq!(one(record).map(|id| id.to_string()).as_deref(), Ok(want), "{record:?}");
        }
    }

    #[test]
    fn records_are_counted_after_the_foreign_ones_are_dropped() {
        let set = |records: &[&str]| -> Vec<Vec<u8>> {
            records.iter().map(|r| r.as_bytes().to_vec()).collect()
        };
        let spf = "v=spf1 -all";
        assert_eq!(parse_txt(&set(&[spf])), Err(RecordError::NoRecord));
        let three = set(&["v=STSv1; id=1", spf, "v=STSv1; bad", "v=STSv1; id=1"]);
        assert_eq!(parse_txt(&three), Err(RecordError::Several { count: 3 }));
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_verdict_and_lint_agrees(
            records in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..80), 0..4),
            tail in "[ \t;=a-zA-Z0-9.-]{0,40}",
        ) {
            let mut records = records;
            records.push(format!("v=STSv1;{tail}").into_bytes());
            let lint = crate::sts::record_lint::lint(&records);
            prop_assert_eq!(lint.verdict.is_ok(), parse_txt(&records).is_ok());
            prop_assert_eq!(lint.verdict.is_ok(), lint.errors.is_empty());
        }
    }
}
