//! What does the policy file ask for? (RFC 8461 §3.2)
//!
//! A file that is refused protects nobody, so only an unclear meaning is refused: version, mode or
//! `max_age` missing or wrong, no usable `mx` where one is needed, NUL or invalid UTF-8. What
//! cannot change the meaning (blank lines, blanks around a key, junk, a second `mode`) is a
//! warning. The first of duplicate keys counts, so that nothing added at the end can weaken a
//! policy.
//!
//! Not here: fetching it (`staunch::fetch`), keeping it ([`super::cache`]).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use smtp::RemoteText;

use super::legible::{other_format, shown};
use super::meant::{self, joined_field, mx_fault, one_of, quoted};
use super::mx_pattern::MxPattern;
use super::record::is_extension_name;

/// RFC 8461 §3.3 suggests 64 KiB.
pub const BODY_OCTETS_MAX: usize = 65_536;
/// RFC 8461 §3.2: one year of 365.25 days, in seconds. More is clamped to it.
pub const MAX_AGE_MAX: Duration = Duration::from_secs(31_557_600);
/// RFC 8461 §3.2: `max_age` has 1 to 10 digits.
const MAX_AGE_DIGITS: usize = 10;
/// Our choice: the largest real policies have some 30. Each pattern takes ten times the memory of
/// its line.
pub const PATTERNS_MAX: usize = 1_000;
/// Our choice: problems beyond these say nothing new.
const PROBLEMS_MAX: usize = 100;
/// Our choice: lines of a policy that go into a report.
const REPORT_LINES_MAX: usize = 200;

/// What is to be done when an MX fails the policy (RFC 8461 §5).
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Mode {
    /// It must not be used.
    Enforce,
    /// It is reported, and used.
    Testing,
    /// There is no policy any more.
    None,
}

impl Mode {
    /// The value as the policy file has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Testing => "testing",
            Self::None => "none",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A policy that can be applied.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Policy {
    mode: Mode,
    max_age: Duration,
    mx: Arc<[MxPattern]>,
}

impl Policy {
    /// Reads a policy file.
    ///
    /// # Errors
    ///
    /// [`Invalid`] with everything that is wrong with it.
    ///
    /// ```
    /// use policy::sts::{Mode, Policy};
    /// let body = b"version: STSv1\nmode: enforce\nmx: *.example.com\nmax_age: 86400\n";
    /// let policy = Policy::parse(body)?;
    /// assert_eq!(policy.mode(), Mode::Enforce);
    /// assert_eq!(policy.max_age().as_secs(), 86_400);
    /// # Ok::<(), policy::sts::Invalid>(())
    /// ```
    pub fn parse(body: &[u8]) -> Result<Self, Invalid> {
        lint(body).policy()
    }

    /// What its domain asks for.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// How long it holds after it was fetched: whole seconds, at most [`MAX_AGE_MAX`].
    pub fn max_age(&self) -> Duration {
        self.max_age
    }

    /// The usable patterns, in the order of the file, at most [`PATTERNS_MAX`]; empty only with
    /// [`Mode::None`]. Whoever keeps them shares them.
    pub fn mx(&self) -> &Arc<[MxPattern]> {
        &self.mx
    }
}

/// A file that is no policy.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("not a usable policy: {}", .errors.first().map_or("", |problem| problem.text.as_str()))]
pub struct Invalid {
    /// Why; at least one.
    pub errors: Vec<DocumentProblem>,
}

/// One thing that is wrong with a policy file, or odd about it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DocumentProblem {
    /// The line, counted from 1; `None` if it is about the file as a whole.
    pub line: Option<usize>,
    /// A stable word for scripts.
    pub code: &'static str,
    /// One sentence for people, inert.
    pub text: String,
}

/// Everything that can be said about a policy file: what `staunch policy lint` shows.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Lint {
    /// The mode, if there is a valid one.
    pub mode: Option<Mode>,
    /// The age, if there is a valid one, clamped.
    pub max_age: Option<Duration>,
    /// The patterns of the valid `mx` lines, in their order.
    pub mx: Vec<MxPattern>,
    /// Why it cannot be used; empty if it can.
    pub errors: Vec<DocumentProblem>,
    /// What is odd about it, the first 100.
    pub warnings: Vec<DocumentProblem>,
}

impl Lint {
    /// The policy.
    ///
    /// # Errors
    ///
    /// [`Invalid`] if there are errors.
    pub fn policy(self) -> Result<Policy, Invalid> {
        match (self.mode, self.max_age, self.errors.is_empty()) {
            (Some(mode), Some(max_age), true) => Ok(Policy { mode, max_age, mx: self.mx.into() }),
            _ => Err(Invalid { errors: self.errors }),
        }
    }

    fn error(&mut self, line: Option<usize>, code: &'static str, text: impl Into<String>) {
        push(&mut self.errors, DocumentProblem { line, code, text: text.into() });
    }

    pub(super) fn warning(&mut self, line: usize, code: &'static str, text: impl Into<String>) {
        push(&mut self.warnings, DocumentProblem { line: Some(line), code, text: text.into() });
    }
}

fn push(problems: &mut Vec<DocumentProblem>, problem: DocumentProblem) {
    if problems.len() < PROBLEMS_MAX {
        problems.push(problem);
    }
}

/// The file line by line as reports quote it (RFC 8460 §4.4, `policy-string`): inert, and bounded.
pub fn report_lines(body: &str) -> Vec<RemoteText> {
    lines(body).map(|(_, line)| RemoteText::new(line)).take(REPORT_LINES_MAX).collect()
}

/// Reads a policy file and says all that is wrong or odd about it.
pub fn lint(body: &[u8]) -> Lint {
    let mut lint = Lint::default();
    if body.len() > BODY_OCTETS_MAX {
        lint.error(None, "too_large", format!("more than {BODY_OCTETS_MAX} octets"));
        return lint;
    }
    let text = match std::str::from_utf8(body) {
        Ok(text) => text,
        Err(error) => {
            let (line, text) = not_utf8(body, error.valid_up_to());
            lint.error(line, "not_utf8", text);
            return lint;
        }
    };
    if text.contains('\0') {
        let format = other_format(body).map(|format| format!(": it is {format}"));
        let text = format!("contains a NUL character{}", format.unwrap_or_default());
        lint.error(None, "nul", text);
        return lint;
    }
    let mut seen = Seen::default();
    for (number, line) in lines(text) {
        read_line(&mut lint, &mut seen, number, line);
    }
    require(&mut lint, &seen);
    lint
}

/// What it is instead, or where it is not UTF-8.
fn not_utf8(body: &[u8], valid: usize) -> (Option<usize>, String) {
    if let Some(format) = other_format(body) {
        return (None, format!("not valid UTF-8: it is {format}"));
    }
    let (before, rest) = body.split_at_checked(valid).unwrap_or((body, b""));
    let line = before.iter().filter(|octet| **octet == b'\n').count() + 1;
    let octet = rest.first().copied().unwrap_or_default();
    (Some(line), format!("not valid UTF-8: octet 0x{octet:02X}"))
}

/// RFC 8461 §3.2 with EID 6253: lines end with LF or CRLF, the last one need not. A lone CR ends
/// none.
pub(super) fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let text = text.strip_suffix('\n').unwrap_or(text);
    let lines = text.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line));
    lines.enumerate().map(|(index, line)| (index + 1, line))
}

/// RFC 8461 §3.2: the fields that mean something, in this case only.
pub(super) const FIELDS: [&str; 4] = ["version", "mode", "max_age", "mx"];
/// RFC 8461 §3.2: the values of `mode`.
const MODES: [&str; 3] = ["enforce", "testing", "none"];
const TOO_MANY_MX: &str = "too_many_mx";
pub(super) const BLANKS: [char; 2] = [' ', '\t'];

#[derive(Default)]
struct Seen {
    fields: BTreeSet<&'static str>,
    /// The line that has what is nearly this field.
    near: BTreeMap<&'static str, (usize, String)>,
}

impl Seen {
    /// What `field` was probably written as, for a file that lacks it.
    fn instead_of(&self, field: &str) -> String {
        let near = self.near.get(field).map(|(line, key)| format!(", but line {line} has {key}"));
        near.unwrap_or_default()
    }
}

fn read_line(lint: &mut Lint, seen: &mut Seen, number: usize, line: &str) {
    if line.trim_matches(BLANKS).is_empty() {
        return lint.warning(number, "blank_line", "the line is blank");
    }
    let Some((written_key, value)) = line.split_once(':') else {
        return no_field(lint, seen, number, line);
    };
    let key = written_key.trim_matches(BLANKS);
    let value = value.trim_matches(BLANKS);
    let Some(field) = FIELDS.into_iter().find(|field| *field == key) else {
        if let Some(meant) = one_of(key, &FIELDS) {
            seen.near.entry(meant).or_insert_with(|| (number, shown(key)));
        }
        return check_extension(lint, number, key, value);
    };
    let first = seen.fields.insert(field);
    if key.len() < written_key.len() {
        lint.warning(number, "blanks_around_key", format!("blanks around {key}"));
    }
    if !first && field != "mx" {
        let text = format!("a second {key} is ignored: {}", shown(value));
        return lint.warning(number, "duplicate", text);
    }
    match field {
        "version" if value == "STSv1" => {}
        "version" => {
            let text = format!("the version is not STSv1 but {}{}", quoted(value), joined(value));
            lint.error(Some(number), "version", text);
        }
        "mode" => read_mode(lint, number, value),
        "max_age" => read_max_age(lint, number, value),
        _ => read_mx(lint, number, value),
    }
}

/// A line without a colon.
fn no_field(lint: &mut Lint, seen: &mut Seen, number: usize, line: &str) {
    let words = line.trim_matches(BLANKS);
    let key = words.split(['=', ' ', '\t', '\u{ff1a}']).next().unwrap_or_default();
    let hint = if words.starts_with("v=STSv1") {
        "; this is the TXT record of _mta-sts, and belongs in DNS".to_owned()
    } else if let Some(meant) = one_of(key, &FIELDS).filter(|_| key.len() < words.len()) {
        seen.near.entry(meant).or_insert_with(|| (number, shown(words)));
        format!("; a field is written {meant}: VALUE")
    } else {
        String::new()
    };
    lint.warning(number, "junk_line", format!("not a field: {}{hint}", shown(line)));
}

/// Says that the line has another field in it.
fn joined(value: &str) -> String {
    let field = joined_field(value, &FIELDS);
    let note =
        |field| format!("; {field} stands in the same line, each field needs a line of its own");
    field.map(note).unwrap_or_default()
}

fn read_mode(lint: &mut Lint, number: usize, value: &str) {
    lint.mode = match value {
        "enforce" => Some(Mode::Enforce),
        "testing" => Some(Mode::Testing),
        "none" => Some(Mode::None),
        _ => {
            let meant = one_of(value, &MODES).map(|mode| format!("; did you mean {mode}?"));
            let hint = meant.unwrap_or_else(|| joined(value));
            let text = format!("mode is not enforce, testing or none: {}{hint}", quoted(value));
            lint.error(Some(number), "mode", text);
            None
        }
    };
}

fn read_max_age(lint: &mut Lint, number: usize, value: &str) {
    let digits = value.len() <= MAX_AGE_DIGITS && value.bytes().all(|byte| byte.is_ascii_digit());
    let seconds = digits.then(|| value.parse::<u64>().ok()).flatten();
    let Some(seconds) = seconds else {
        let meant = meant::seconds(value).map(|seconds| format!("; did you mean {seconds}?"));
        let hint = meant.unwrap_or_else(|| joined(value));
        let text = format!("max_age is not 1 to 10 digits: {}{hint}", quoted(value));
        return lint.error(Some(number), "max_age", text);
    };
    let asked = Duration::from_secs(seconds);
    if asked > MAX_AGE_MAX {
        let text = format!("max_age {seconds} counts as {}", MAX_AGE_MAX.as_secs());
        lint.warning(number, "max_age_clamped", text);
    }
    // Clamped before anybody calculates with it (EID 7282).
    lint.max_age = Some(asked.min(MAX_AGE_MAX));
}

fn read_mx(lint: &mut Lint, number: usize, value: &str) {
    match MxPattern::parse(value) {
        Ok(pattern) => {
            let printed = pattern.to_string();
            if !printed.eq_ignore_ascii_case(value) {
                let text = format!("{} is read as {printed}", shown(value));
                lint.warning(number, "mx_normalized", text);
            }
            if lint.mx.len() < PATTERNS_MAX {
                return lint.mx.push(pattern);
            }
            // Once is enough.
            if !lint.errors.iter().any(|problem| problem.code == TOO_MANY_MX) {
                let text = format!("more than {PATTERNS_MAX} mx patterns");
                lint.error(Some(number), TOO_MANY_MX, text);
            }
        }
        // It matches nothing; the other patterns still hold, so the policy protects all the same.
        Err(_) => {
            let text = format!(
                "mx: {} covers no host: {}. Under enforce, mail to hosts that only this line is for waits; \
                 some senders ignore the whole policy",
                shown(value),
                mx_fault(value)
            );
            lint.warning(number, "mx_malformed", text);
        }
    }
}

/// RFC 8461 §3.2, `sts-policy-extension`: ignored, but the author may have meant something else.
fn check_extension(lint: &mut Lint, number: usize, key: &str, value: &str) {
    let value_ok = !value.is_empty() && !value.chars().any(char::is_control);
    if !is_extension_name(key.as_bytes()) || !value_ok {
        let meant = one_of(key, &FIELDS).map(|meant| format!("; did you mean {meant}?"));
        let field = shown(&format!("{key}: {value}"));
        let text = format!("not a field: {field}{}", meant.unwrap_or_default());
        return lint.warning(number, "junk_line", text);
    }
    let meant = FIELDS.iter().find(|field| field.eq_ignore_ascii_case(key));
    if let Some(meant) = meant {
        let text = format!("{key} is ignored: field names are case-sensitive, write {meant}");
        lint.warning(number, "key_case", text);
    }
}

fn require(lint: &mut Lint, seen: &Seen) {
    for field in ["version", "mode", "max_age"] {
        if !seen.fields.contains(field) {
            let text = format!("there is no {field}{}", seen.instead_of(field));
            lint.error(None, "missing_field", text);
        }
    }
    // RFC 8461 §3.2: `mx` may be absent only with mode none.
    if matches!(lint.mode, Some(Mode::Enforce | Mode::Testing)) && lint.mx.is_empty() {
        if seen.fields.contains("mx") {
            let text = "no mx pattern is well-formed, so the whole policy is ignored";
            lint.error(None, "no_usable_mx", text);
        } else {
            let text = format!("there is no mx{}", seen.instead_of("mx"));
            lint.error(None, "missing_field", text);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::vectors::{self, VectorRow};

    fn shown(body: &[u8]) -> String {
        let Ok(policy) = Policy::parse(body) else {
            return "invalid".to_owned();
        };
        let mx: Vec<String> = policy.mx().iter().map(ToString::to_string).collect();
        let mx = if mx.is_empty() { "-".to_owned() } else { mx.join(",") };
        format!("{}/{}/{mx}", policy.mode(), policy.max_age().as_secs())
    }

    fn codes(problems: &[DocumentProblem]) -> Vec<(Option<usize>, &'static str)> {
        problems.iter().map(|problem| (problem.line, problem.code)).collect()
    }

    #[test]
    fn every_policy_vector_is_applied_as_listed() {
        for VectorRow { id, cells } in vectors::rows("policy.tsv") {
            let body = vectors::unescape(&cells[0]);
            assert_eq!(shown(&body), cells[2], "{id}");
            let lint = lint(&body);
            assert_eq!(lint.errors.is_empty(), cells[2] != "invalid", "{id}");
            // What the grammar refuses and we accept is at least warned about, and nothing else is.
            if cells[1] == "invalid" && cells[2] != "invalid" {
                assert!(!lint.warnings.is_empty(), "{id} is accepted without a word");
            } else if cells[1] == cells[2] && cells[2] != "invalid" && !DUPLICATES.contains(&&*id) {
                assert_eq!(lint.warnings, [], "{id}");
            }
        }
    }

    /// Well-formed files with a duplicate, which is worth a warning.
    const DUPLICATES: &[&str] = &["P063", "P064", "P065"];

    const ENFORCE: &str = "enforce/60/a.example";
    /// Behind `version: STSv1`, with `|` for a line end: verdict and warnings.
    const MEANING: &[(&str, &str, &[&str])] = &[
        ("mode: enforce|mx: a.example|max_age: 60", ENFORCE, &[]),
        ("mode :enforce|mx: a.example|max_age: 60", ENFORCE, &["blanks_around_key"]),
        ("mode: enforce|mx: a.example|max_age: 60|||", ENFORCE, &["blank_line"; 2]),
        ("version: STSv2|mode: enforce|mx: a.example|max_age: 60", ENFORCE, &["duplicate"]),
        ("mode: enforce|mode: off|mx: a.example|max_age: 60", ENFORCE, &["duplicate"]),
        ("mode: off|mode: enforce|mx: a.example|max_age: 60", "invalid", &["duplicate"]),
        ("mode: enforce|mx: a.example|max_age: x|max_age: 60", "invalid", &["duplicate"]),
        ("Mode: none|mode: enforce|mx: a.example|max_age: 60", ENFORCE, &["key_case"]),
        ("Mode: enforce|mx: a.example|max_age: 60", "invalid", &["key_case"]),
        ("mode: enforce|mx: *|mx: a.example|max_age: 60", ENFORCE, &["mx_malformed"]),
        ("mode: enforce|mx:|max_age: 60", "invalid", &["mx_malformed"]),
        ("mode: enforce|mx: A.EXAMPLE.|max_age: 60", ENFORCE, &["mx_normalized"]),
        ("mode: none|mx: a.example|max_age: 60", "none/60/a.example", &[]),
        ("mode: enforce|mx: a.example|max_age: 60|note: caf\u{e9} au lait", ENFORCE, &[]),
        ("mode: enforce|mx: a.example|max_age: 60|note:", ENFORCE, &["junk_line"]),
        ("mode: enforce|mx: a.example|max_age: 60|note: a\x0bb", ENFORCE, &["junk_line"]),
        ("mode: enforce|mx: a.example|max_age: +60", "invalid", &[]),
        ("mode: enforce|mx: a.example|max_age: -0", "invalid", &[]),
        // Only space and tab are blanks, only LF ends a line.
        ("mode: enforce\u{a0}|mx: a.example|max_age: 60", "invalid", &[]),
        ("mode: enforce\x0bmode: none|mx: a.example|max_age: 60", "invalid", &[]),
        ("mode: enforce\u{2028}mx: a.example|max_age: 60", "invalid", &[]),
        ("\u{feff}mode: enforce|mx: a.example|max_age: 60", "invalid", &["junk_line"]),
    ];

    #[test]
    fn meaning_decides_and_form_only_warns() {
        for (lines, want, warnings) in MEANING {
            let body = format!("version: STSv1\n{}", lines.replace('|', "\n"));
            assert_eq!(shown(body.as_bytes()), *want, "{body:?}");
            let got = lint(body.as_bytes()).warnings;
            assert_eq!(got.iter().map(|p| p.code).collect::<Vec<_>>(), *warnings, "{body:?}");
        }
        let last = "mode: enforce\nmx: a.example\nmax_age: 60\nversion: STSv1";
        assert_eq!(shown(last.as_bytes()), ENFORCE, "the order does not matter");
        assert_eq!(shown(b""), "invalid");
    }

    #[test]
    fn problems_name_their_line() {
        let body = b"version: STSv2\n\nmode: on\nmax_age: 99999999999\nmx: a_b..c\nnonsense";
        let lint = lint(body);
        assert_eq!(
            codes(&lint.errors),
            [(Some(1), "version"), (Some(3), "mode"), (Some(4), "max_age"),]
        );
        assert_eq!(
            codes(&lint.warnings),
            [(Some(2), "blank_line"), (Some(5), "mx_malformed"), (Some(6), "junk_line"),]
        );
        let none_left = b"version: STSv1\nmode: testing\nmax_age: 1\nmx: *";
        assert_eq!(codes(&super::lint(none_left).errors), [(None, "no_usable_mx")]);
        let empty = codes(&super::lint(b"mode: testing").errors);
        assert_eq!(empty, [(None, "missing_field"); 3], "version, max_age and mx");
    }

    #[test]
    fn nul_bad_utf8_and_oversize_are_refused_whole() {
        let good = b"version: STSv1\nmode: enforce\nmx: a.example\nmax_age: 60\nx: ".to_vec();
        let padded = |count: usize| [good.clone(), vec![b'a'; count]].concat();
        let cases = [
            (padded(BODY_OCTETS_MAX - good.len()), None),
            (padded(BODY_OCTETS_MAX + 1 - good.len()), Some("too_large")),
            ([good.clone(), b"\0".to_vec()].concat(), Some("nul")),
            ([good.clone(), b"\xff".to_vec()].concat(), Some("not_utf8")),
        ];
        for (body, want) in cases {
            let lint = lint(&body);
            assert_eq!(lint.errors.first().map(|p| p.code), want);
            assert_eq!(lint.policy().is_ok(), want.is_none());
        }
    }

    #[test]
    fn max_age_is_clamped_to_a_year() {
        for (written, want) in [
            ("31557600", 31_557_600),
            ("31557601", 31_557_600),
            ("9999999999", 31_557_600),
            ("0", 0),
        ] {
            let body = format!("version: STSv1\nmode: none\nmax_age: {written}");
            let policy = Policy::parse(body.as_bytes()).unwrap();
            assert_eq!(policy.max_age().as_secs(), want, "{written}");
        }
    }

    #[test]
    fn reports_quote_the_file_line_by_line_inert_and_bounded() {
        let body = "version: STSv1\r\n mode: none \n\nx: \u{202e}\n";
        let quoted: Vec<_> = report_lines(body).iter().map(ToString::to_string).collect();
        assert_eq!(quoted, ["version: STSv1", " mode: none ", "", r"x: \u{202e}"]);
        assert_eq!(report_lines(&"a\n".repeat(10_000)).len(), REPORT_LINES_MAX);
    }

    #[test]
    fn a_file_full_of_junk_has_bounded_problems() {
        assert_eq!(lint(&b"junk\n".repeat(10_000)).warnings.len(), PROBLEMS_MAX);
    }

    proptest! {
        #[test]
        fn a_policy_that_is_accepted_can_be_applied(
            lines in prop::collection::vec(
                "(version: STSv1|mode: ?(enforce|testing|none)|max_age: [0-9]{1,10}|mx: [*a.]{1,5}|.{0,9})",
                0..8,
            ),
        ) {
            if let Ok(policy) = Policy::parse(lines.join("\n").as_bytes()) {
                prop_assert!(policy.max_age() <= MAX_AGE_MAX);
                prop_assert!(policy.mode() == Mode::None || !policy.mx().is_empty());
            }
        }

        #[test]
        fn any_bytes_give_a_verdict(body in prop::collection::vec(any::<u8>(), 0..200)) {
            let lint = lint(&body);
            prop_assert!(lint.errors.is_empty() == lint.policy().is_ok());
        }

        #[test]
        fn nothing_added_at_the_end_weakens_a_policy(tail in "(.|\n){0,60}") {
            let good = "version: STSv1\nmode: enforce\nmx: a.example\nmax_age: 60\n";
            if let Ok(policy) = Policy::parse(format!("{good}{tail}").as_bytes()) {
                prop_assert_eq!(policy.mode(), Mode::Enforce);
                prop_assert_eq!(policy.max_age().as_secs(), 60);
            }
        }
    }
}
