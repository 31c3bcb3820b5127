//! Everything that can be said about the TXT records at `_mta-sts`: what
//! `staunch policy lint-record` shows.

use smtp::RemoteText;

use super::document::FIELDS;
use super::legible::{is_plain, named, other_format, shown};
use super::meant::one_of;
use super::record::{
    BrokenRule, Id, RecordError, Rule, VERSION, broken, fields_of, parse_txt, tries_to_be_one,
    trim_end, trim_start,
};

/// Our choice: findings beyond these say nothing new.
const FINDINGS_MAX: usize = 50;

/// The verdict on a set of TXT records, and all that is wrong or odd about them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RecordLint {
    /// The verdict of [`parse_txt`].
    pub verdict: Result<Id, RecordError>,
    /// Why there is no id; empty if there is one.
    pub errors: Vec<RecordFinding>,
    /// What is odd about the records.
    pub warnings: Vec<RecordFinding>,
}

/// One thing that is wrong with a set of records, or odd about it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RecordFinding {
    /// A stable word for scripts.
    pub code: &'static str,
    /// One sentence for people, inert.
    pub text: String,
}

fn finding(code: &'static str, text: impl Into<String>) -> RecordFinding {
    RecordFinding { code, text: text.into() }
}

/// Reads the records of `_mta-sts.DOMAIN`, each with its strings already joined, and says all that
/// is wrong or odd.
///
/// ```
/// use policy::sts::record_lint;
/// let lint = record_lint::lint(&[b"v=STSv1 id=1".to_vec()]);
/// assert!(lint.verdict.is_err());
/// assert!(lint.errors[1].text.contains("there is no ; behind v=STSv1"));
/// ```
pub fn lint(records: &[Vec<u8>]) -> RecordLint {
    let verdict = parse_txt(records);
    let mut errors = Vec::new();
    match &verdict {
        Err(error @ RecordError::NoRecord) => errors.push(finding("no_record", error.to_string())),
        Err(error @ RecordError::Several { .. }) => {
            errors.push(finding(
                "several",
                format!("{error}: none of them counts, remove the others"),
            ));
        }
        Ok(_) | Err(RecordError::Malformed(_)) => {}
    }
    let mut warnings = Vec::new();
    if verdict.is_err() {
        errors.extend(broken(records).into_iter().map(explained));
    } else {
        let near = records.iter().filter(|r| fields_of(r).is_none() && tries_to_be_one(r));
        warnings.extend(near.map(|record| finding("near_record", near_record(record))));
    }
    for record in records {
        match fields_of(record) {
            Some(fields) => warnings.extend(odd_fields(fields)),
            None => warnings.extend(wrong_name(record, &verdict)),
        }
    }
    errors.truncate(FINDINGS_MAX);
    warnings.truncate(FINDINGS_MAX);
    RecordLint { verdict, errors, warnings }
}

fn show(octets: &[u8]) -> String {
    std::str::from_utf8(octets).map_or_else(|_| RemoteText::from_bytes(octets).to_string(), shown)
}

/// What is broken, by what, and what to do about it.
fn explained((rule, found): BrokenRule<'_>) -> RecordFinding {
    let text = match rule {
        Rule::Version => return finding(rule.code(), near_record(found)),
        Rule::IdMissing => match other_id(found) {
            Some(field) => format!("{rule}, but {}: write id=", show(field)),
            None => format!("{rule} ({})", show(found)),
        },
        Rule::IdSyntax => {
            let value = found.strip_prefix(b"id=").unwrap_or(found);
            format!("{rule}: {} ({})", id_fault(value), show(found))
        }
        Rule::FieldValue => {
            let fault = found.splitn(2, |octet| *octet == b'=').nth(1).and_then(character_fault);
            let fault = fault.map(|fault| format!(": {fault}")).unwrap_or_default();
            format!("{rule}{fault} ({})", show(found))
        }
        Rule::FieldEmpty | Rule::FieldName | Rule::TrailingBlank => {
            format!("{rule} ({})", show(found))
        }
    };
    finding(rule.code(), text)
}

/// The field that is nearly an id.
fn other_id(fields: &[u8]) -> Option<&[u8]> {
    let fields = fields.split(|octet| *octet == b';').map(|piece| trim_end(trim_start(piece)));
    fields.into_iter().find(|field| {
        let key = field.split(|octet| matches!(octet, b'=' | b':')).next().unwrap_or_default();
        key.len() < field.len() && trim_end(key).eq_ignore_ascii_case(b"id")
    })
}

fn id_fault(value: &[u8]) -> String {
    if value.is_empty() {
        return "there is nothing behind id=".to_owned();
    }
    if value.starts_with(b"<") && value.ends_with(b">") {
        return "this is a placeholder: write the date and time, as in id=20260131T120000"
            .to_owned();
    }
    character_fault(value).unwrap_or_else(|| format!("it has {} characters", value.len()))
}

/// The first character that an id cannot have.
fn character_fault(value: &[u8]) -> Option<String> {
    let Ok(text) = std::str::from_utf8(value) else { return Some("it is not ASCII".to_owned()) };
    let c = text.chars().find(|c| !c.is_ascii_alphanumeric())?;
    Some(match c {
        ' ' => "it has a blank: is a ; missing?".to_owned(),
        c if is_plain(c) => format!("it has the character {c}"),
        c => format!("it has {}", named(c)),
    })
}

/// Why a record that tries to be one of ours is none.
fn near_record(record: &[u8]) -> String {
    format!("not a record of MTA-STS: {} ({})", beginning_fault(record), show(record))
}

fn beginning_fault(record: &[u8]) -> String {
    let text = String::from_utf8_lossy(record);
    let first = text.chars().next().unwrap_or_default();
    let behind = record.strip_prefix(VERSION);
    let has = |part: &str| text.contains(part);
    if let Some(format) = other_format(record) {
        return format!("it is {format}");
    }
    if matches!(first, ' ' | '\t') {
        return "a blank comes first".to_owned();
    }
    if matches!(first, '"' | '\'' | '\u{201c}' | '\u{201d}') {
        return "quotation marks are part of the text; leave them out".to_owned();
    }
    if !is_plain(first) {
        return format!("it begins with {}", named(first));
    }
    if has(" TXT ") || has("\tTXT") || text.starts_with("_mta-sts") {
        return "only the text of the record is wanted, without name and type".to_owned();
    }
    if text.get(..7).is_some_and(|start| start.eq_ignore_ascii_case("version")) {
        return "this is from a policy file, which is served at \
                https://mta-sts.DOMAIN/.well-known/mta-sts.txt"
            .to_owned();
    }
    match behind.map(|rest| (rest, rest.first())) {
        Some((rest, _)) if trim_start(rest).starts_with(b"\\;") => {
            "a backslash stands in front of the ; (a zone file's escape that became text)"
                .to_owned()
        }
        Some((_, Some(next))) if next.is_ascii_alphanumeric() && !has("v=STSv1id") => {
            "the version is another one".to_owned()
        }
        Some(_) => "there is no ; behind v=STSv1".to_owned(),
        None if record.get(..VERSION.len()).is_some_and(|s| s.eq_ignore_ascii_case(VERSION)) => {
            "capitals and small letters count, write v=STSv1".to_owned()
        }
        None if has("v=STSv1") => "v=STSv1 has to come first".to_owned(),
        None => "the version is not written v=STSv1".to_owned(),
    }
}

/// Fields that the grammar allows and nobody reads.
fn odd_fields(fields: &[u8]) -> Vec<RecordFinding> {
    let mut odd = Vec::new();
    let mut has_id = false;
    for field in fields.split(|octet| *octet == b';').map(|piece| trim_end(trim_start(piece))) {
        let Some(at) = field.iter().position(|octet| *octet == b'=') else { continue };
        let (key, value) = field.split_at_checked(at).unwrap_or_default();
        let value = value.strip_prefix(b"=").unwrap_or_default();
        let Ok(key) = std::str::from_utf8(key) else { continue };
        let said = show(field);
        odd.extend(match key {
            "id" if std::mem::replace(&mut has_id, true) => {
                Some(finding("duplicate_id", format!("a second id is ignored: {said}")))
            }
            "id" => is_placeholder_id(value)
                .then(|| finding("placeholder", format!("{said} looks copied from an example"))),
            key if FIELDS.iter().any(|field| field.eq_ignore_ascii_case(key)) => Some(finding(
                "policy_field",
                format!("{said} is ignored: {key} belongs in the policy file"),
            )),
            "rua" => Some(finding(
                "unknown_field",
                format!("{said} is ignored: reports are asked for in the TXT record of _smtp._tls"),
            )),
            key => {
                let meant = one_of(key, &["id"]).map(|meant| format!("; did you mean {meant}?"));
                let text = format!("the field {} is unknown, senders ignore it", shown(key));
                Some(finding("unknown_field", text + &meant.unwrap_or_default()))
            }
        });
    }
    odd
}

/// What manuals write where an id has to be.
fn is_placeholder_id(value: &[u8]) -> bool {
    const PARTS: [&str; 6] = ["yyyymm", "unique", "yourid", "changeme", "timestamp", "placeholder"];
    // What is no id at all has been said.
    let Some(id) = std::str::from_utf8(value).ok().and_then(Id::parse) else { return false };
    let value = id.as_str().to_ascii_lowercase();
    PARTS.iter().any(|part| value.contains(part))
}

/// Records of other protocols, which stand at other names. SPF is often a wildcard, so it matters
/// only where ours is missing.
fn wrong_name(record: &[u8], verdict: &Result<Id, RecordError>) -> Option<RecordFinding> {
    const HOMES: [(&str, &str); 4] = [
        ("v=TLSRPT", "_smtp._tls.DOMAIN"),
        ("v=DMARC1", "_dmarc.DOMAIN"),
        ("v=DKIM1", "SELECTOR._domainkey.DOMAIN"),
        ("v=spf1", "DOMAIN itself"),
    ];
    let begins = |mark: &str| {
        record.get(..mark.len()).is_some_and(|start| start.eq_ignore_ascii_case(mark.as_bytes()))
    };
    let (mark, home) = HOMES.into_iter().find(|(mark, _)| begins(mark))?;
    if verdict.is_ok() && mark == "v=spf1" {
        return None;
    }
    let text = format!("{mark} stands at a wrong name: it belongs to {home}, not _mta-sts.DOMAIN");
    Some(finding("wrong_name", format!("{text} ({})", show(record))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors::{self, VectorRow};

    fn of(records: &[&str]) -> RecordLint {
        let records: Vec<_> = records.iter().map(|record| record.as_bytes().to_vec()).collect();
        lint(&records)
    }

    fn codes(findings: &[RecordFinding]) -> Vec<&'static str> {
        findings.iter().map(|finding| finding.code).collect()
    }

    #[test]
    fn every_txt_vector_has_errors_or_an_id() {
        for VectorRow { id, cells } in vectors::rows("txt.tsv") {
            let strings: Vec<Vec<String>> = serde_json::from_str(&cells[0]).unwrap();
            let records: Vec<_> = strings.iter().map(|s| s.concat().into_bytes()).collect();
            let lint = lint(&records);
            assert_eq!(lint.errors.is_empty(), cells[2] != "none", "{id}: {lint:?}");
        }
    }

    #[test]
    fn near_misses_are_named_and_strangers_ignored() {
        let errors = |record: &str| codes(&of(&[record]).errors);
        assert_eq!(errors("v=spf1 -all"), ["no_record"]);
        assert_eq!(errors("V=STSv1; id=1"), ["no_record", "not_a_record"]);
        assert_eq!(errors("v=STSv1; x; id=1 "), ["field_name", "trailing_blank"]);
        assert_eq!(errors("v=STSv1; id=1"), [""; 0]);
        assert!(errors(&format!("v=STSv1;{}", ";".repeat(10_000))).len() <= FINDINGS_MAX);
        let three = of(&["v=STSv1; id=1", "v=spf1 -all", "v=STSv1; bad", "v=STSv1; id=1"]);
        assert_eq!(codes(&three.errors).first(), Some(&"several"));
    }

    #[test]
    fn a_record_that_is_not_quite_one_says_why() {
        for (record, want) in [
            (" v=STSv1; id=1", "a blank comes first"),
            ("\u{feff}v=STSv1; id=1", "begins with U+FEFF, byte order mark"),
            ("\u{200b}v=STSv1; id=1", "begins with U+200B, zero width space"),
            ("\"v=STSv1; id=1\"", "quotation marks"),
            ("v=STSv1 id=1", "no ; behind v=STSv1"),
            ("v=STSv1", "no ; behind v=STSv1"),
            ("v=STSv1, id=1", "no ; behind v=STSv1"),
            ("v=STSv1\\; id=1", "backslash"),
            ("v=STSv10; id=1", "another one"),
            ("v=stsv1; id=1", "capitals"),
            ("v = STSv1; id=1", "not written v=STSv1"),
            ("v=STS1; id=1", "not written v=STSv1"),
            ("id=1; v=STSv1;", "has to come first"),
            ("version: STSv1", "policy file"),
            ("_mta-sts.a.test. 300 IN TXT \"v=STSv1; id=1\"", "without name and type"),
            ("v=STSv1; ID=1", "has no id field, but ID=1: write id="),
            ("v=STSv1; id=a-b", "the character -"),
            ("v=STSv1; id=a b=c", "has a blank: is a ; missing?"),
            ("v=STSv1; id=<unique-identifier>", "placeholder"),
            ("v=STSv1; id=1\u{a0}", "U+00A0, no-break space"),
            ("v=STSv1; id=aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "33 characters"),
            ("v=STSv1; id=1; x=\u{201c}y", "U+201C, curly quotation mark"),
        ] {
            let lint = of(&[record]);
            let said = lint.errors.iter().any(|error| error.text.contains(want));
            assert!(lint.verdict.is_err() && said, "{record:?}: {want}: {:#?}", lint.errors);
        }
    }

    #[test]
    fn what_is_ignored_in_a_usable_record_is_a_warning() {
        let good = "v=STSv1; id=1;";
        for (records, want) in [
            (vec![good], vec![]),
            (vec!["v=STSv1; id=1; id=2"], vec!["duplicate_id"]),
            (vec!["v=STSv1; id=1; mode=enforce; max_age=60"], vec!["policy_field"; 2]),
            (vec!["v=STSv1; id=1; rua=mailto:a@a.test"], vec!["unknown_field"]),
            (vec!["v=STSv1; id=1; x=y"], vec!["unknown_field"]),
            (vec!["v=STSv1; id=YYYYMMDDHHMMSS"], vec!["placeholder"]),
            (vec![good, "v=STSv1 id=2"], vec!["near_record"]),
            (vec![good, "v=TLSRPTv1; rua=mailto:a@a.test"], vec!["wrong_name"]),
            (vec![good, "v=spf1 -all"], vec![]),
        ] {
            let lint = of(&records);
            assert!(lint.errors.is_empty(), "{records:?}: {lint:?}");
            assert_eq!(codes(&lint.warnings), want, "{records:?}");
        }
    }

    #[test]
    fn a_record_of_another_protocol_says_where_it_belongs() {
        for (record, home) in [
            ("v=TLSRPTv1; rua=mailto:a@a.test", "_smtp._tls.DOMAIN"),
            ("v=DMARC1; p=none", "_dmarc.DOMAIN"),
            ("v=spf1 -all", "DOMAIN itself"),
        ] {
            let lint = of(&[record]);
            assert_eq!(codes(&lint.errors), ["no_record"]);
            let [warning] = lint.warnings.as_slice() else { panic!("{lint:?}") };
            assert!(warning.code == "wrong_name" && warning.text.contains(home), "{warning:?}");
        }
    }

    #[test]
    fn what_people_publish_is_judged_and_explained_as_listed() {
        let mut seen = 0;
        for VectorRow { id, cells } in vectors::rows("wild.tsv") {
            let [kind, input, applied, listed, said] = &cells[..] else {
                panic!("{id}: {cells:?}")
            };
            if kind != "record" {
                continue;
            }
            seen += 1;
            let lint = lint(&[vectors::unescape(input)]);
            let warnings = lint.warnings.iter().map(|finding| format!("w:{}", finding.code));
            let errors = lint.errors.iter().map(|finding| finding.code.to_owned());
            let got: Vec<String> = errors.chain(warnings).collect();
            assert_eq!(got.join(" "), *listed, "{id}: {lint:?}");
            let shown: Vec<&str> =
                lint.errors.iter().map(|finding| finding.text.as_str()).collect();
            let shown = shown.join("\n");
            assert!(said.split('&').all(|part| shown.contains(part)), "{id}: {said}: {shown}");
            assert_eq!(
                lint.verdict.map_or_else(|_| "none".into(), |id| id.to_string()),
                *applied,
                "{id}"
            );
        }
        assert!(seen >= 3);
    }
}
